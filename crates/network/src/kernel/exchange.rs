//! What the kernel answers to one request: when an answer is whole, and when it is none.
//!
//! Invariants: an answer is whole when the kernel said so, with an acknowledgement or at a dump's end (`NLMSG_ERROR` with
//! code 0, `NLMSG_DONE`; netlink(7)). A stream that just ends is a socket that died: nobody knows what was done. A
//! dump that the kernel marks as interrupted (`NLM_F_DUMP_INTR`, `uapi/linux/netlink.h`) may lack links that were there all the time.
//!
//! On failure: [`RequestError`].

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{NLM_F_DUMP_INTR, NetlinkMessage, NetlinkPayload};
use std::io;
use std::time::Duration;
use tokio::time::timeout;

/// How long the kernel may take for one request. It answers at once, unless a driver hangs while it holds the lock for all
/// links; the socket has a thread of its own ([`super::own_thread`]), so that this is noticed.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a dump is asked for before the node's links count as too restless to be listed. A dump takes milliseconds.
pub(super) const DUMP_TRIES: u32 = 8;

/// Why the kernel did not do what a request asked for.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It refused.
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
    /// It did not answer in time.
    #[error("the kernel did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Silent,
    /// The socket closed before the answer was whole. Whether the request was carried out is not known. The next request
    /// opens a new socket.
    #[error("the netlink socket closed before the kernel's answer was whole")]
    Closed,
    /// No new socket can be had in place of one that closed.
    #[error("can't open a new netlink socket")]
    Reopen(#[source] io::Error),
    /// Part of the answer was lost in a full socket buffer.
    #[error("part of the kernel's answer was lost")]
    Overrun,
    /// The list changed while it was read, each time.
    #[error("what was listed changed meanwhile, {DUMP_TRIES} times in a row")]
    Interrupted,
}

/// A whole answer to one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer<T> {
    /// What it consists of.
    pub(super) items: Vec<T>,
    /// Whether the kernel says that the list is not one of a single moment.
    pub(super) interrupted: bool,
}

/// Reads an answer to its end.
pub(super) async fn read<T>(
    answers: impl Stream<Item = NetlinkMessage<T>>,
) -> Result<Answer<T>, RequestError> {
    timeout(REQUEST_TIMEOUT, to_the_end(answers)).await.map_err(|_| RequestError::Silent)?
}

async fn to_the_end<T>(answers: impl Stream<Item = NetlinkMessage<T>>) -> Result<Answer<T>, RequestError> {
    let mut answers = std::pin::pin!(answers);
    let mut answer = Answer { items: Vec::new(), interrupted: false };
    while let Some(NetlinkMessage { header, payload, .. }) = answers.next().await {
        answer.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match payload {
            NetlinkPayload::InnerMessage(item) => answer.items.push(item),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(RequestError::Refused(error.to_io()));
            }
            // The end of a dump carries the negative number of what ended it too soon.
            NetlinkPayload::Done(done) if done.code < 0 => {
                return Err(RequestError::Refused(io::Error::from_raw_os_error(-done.code)));
            }
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answer),
            NetlinkPayload::Overrun(_) => return Err(RequestError::Overrun),
            _ => {}
        }
    }
    Err(RequestError::Closed)
}

/// A list of a single moment: asks again while the kernel says that the list changed under its hands.
pub(super) async fn uninterrupted<T, F>(mut ask: impl FnMut() -> F) -> Result<Vec<T>, RequestError>
where
    F: Future<Output = Result<Answer<T>, RequestError>>,
{
    for _ in 0..DUMP_TRIES {
        let answer = ask().await?;
        if !answer.interrupted {
            return Ok(answer.items);
        }
    }
    Err(RequestError::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use rtnetlink::packet_core::{DoneMessage, ErrorMessage, NLM_F_MULTIPART, NetlinkHeader};
    use std::num::NonZeroI32;

    fn message(payload: NetlinkPayload<u32>, flags: u16) -> NetlinkMessage<u32> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        NetlinkMessage::new(header, payload)
    }

    fn item(number: u32) -> NetlinkMessage<u32> {
        message(NetlinkPayload::InnerMessage(number), NLM_F_MULTIPART)
    }

    fn done(code: i32, flags: u16) -> NetlinkMessage<u32> {
        let mut done = DoneMessage::default();
        done.code = code;
        message(NetlinkPayload::Done(done), flags)
    }

    fn acknowledged(code: Option<i32>) -> NetlinkMessage<u32> {
        let mut error = ErrorMessage::default();
        error.code = code.and_then(NonZeroI32::new);
        message(NetlinkPayload::Error(error), 0)
    }

    async fn of(messages: &[NetlinkMessage<u32>]) -> Result<Answer<u32>, RequestError> {
        read(stream::iter(messages.to_vec())).await
    }

    #[tokio::test]
    async fn an_answer_without_its_end_is_none() {
        assert!(matches!(of(&[]).await, Err(RequestError::Closed)));
        assert!(matches!(of(&[item(1), item(2)]).await, Err(RequestError::Closed)));
        let whole = |items: &[u32]| Answer { items: items.to_vec(), interrupted: false };
        assert_eq!(of(&[acknowledged(None)]).await.unwrap(), whole(&[]));
        assert_eq!(of(&[item(1), acknowledged(None)]).await.unwrap(), whole(&[1]));
        assert_eq!(of(&[item(1), item(2), done(0, 0)]).await.unwrap(), whole(&[1, 2]));
    }

    #[tokio::test]
    async fn a_refusal_and_a_lost_part_are_told_apart() {
        let number = |result: Result<_, RequestError>| match result {
            Err(RequestError::Refused(refusal)) => refusal.raw_os_error(),
            other => panic!("{other:?}"),
        };
        assert_eq!(number(of(&[acknowledged(Some(-libc::EPERM))]).await), Some(libc::EPERM));
        assert_eq!(number(of(&[item(1), done(-libc::EMSGSIZE, 0)]).await), Some(libc::EMSGSIZE));
        let lost = message(NetlinkPayload::Overrun(Vec::new()), 0);
        assert!(matches!(of(&[item(1), lost, done(0, 0)]).await, Err(RequestError::Overrun)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_says_nothing_is_not_waited_for_for_ever() {
        assert!(matches!(read(stream::pending::<NetlinkMessage<u32>>()).await, Err(RequestError::Silent)));
    }

    #[tokio::test]
    async fn an_interrupted_dump_is_seen_wherever_the_kernel_marks_it() {
        let marked = message(NetlinkPayload::InnerMessage(1), NLM_F_MULTIPART | NLM_F_DUMP_INTR);
        assert!(of(&[marked, item(2), done(0, 0)]).await.unwrap().interrupted);
        assert!(of(&[item(1), done(0, NLM_F_DUMP_INTR)]).await.unwrap().interrupted);
    }

    #[tokio::test]
    async fn an_interrupted_dump_is_repeated_but_not_for_ever() {
        let mut asked = 0;
        let third = uninterrupted(|| {
            asked += 1;
            let answer = Answer { items: vec![asked], interrupted: asked < 3 };
            async { Ok(answer) }
        });
        assert_eq!(third.await.unwrap(), [3]);
        let mut asked = 0;
        let restless = uninterrupted(|| {
            asked += 1;
            async { Ok(Answer::<u32> { items: Vec::new(), interrupted: true }) }
        });
        assert!(matches!(restless.await, Err(RequestError::Interrupted)));
        assert_eq!(asked, DUMP_TRIES);
    }
}
