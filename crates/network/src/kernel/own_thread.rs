//! The netlink socket's own thread.
//!
//! Why: the kernel carries a request out inside sendto(2), under its one lock for links (`rtnetlink_rcv_msg`,
//! net/core/rtnetlink.c). A driver that hangs while its NIC is opened hangs the sender with it, uninterruptibly. On a thread of
//! its own it hangs nobody else: timeouts come, and the rest of the program goes on.
//!
//! Invariants: a thread ends with its [`OwnThread`], unless it hangs; then it is abandoned. At most [`ABANDONED_MAX`] are, in
//! the whole process: no more are begun until one of them has come back.
//!
//! On failure: the error of the operating system.

use super::wire::Message;
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle, ThreadId};
use tokio::sync::Notify;

/// How many threads may hang in the kernel.
const ABANDONED_MAX: usize = 4;

static ABANDONED: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// A connection and the thread that serves it.
#[derive(Debug)]
pub(super) struct OwnThread {
    handle: ConnectionHandle<Message>,
    /// Taken only when this is dropped.
    thread: Option<JoinHandle<()>>,
    end: Arc<Notify>,
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        self.end.notify_one();
    }
}

impl OwnThread {
    /// Opens a socket in the network namespace of the calling thread, which the new one inherits (clone(2)).
    pub(super) fn open() -> io::Result<Self> {
        Self::serving(|connection| connection)
    }

    /// `of` makes of the connection what the thread does.
    fn serving<F: Future<Output = ()>>(
        of: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> io::Result<Self> {
        let hanging = hanging().len();
        if hanging >= ABANDONED_MAX {
            return Err(io::Error::other(format!("{hanging} threads hang in requests to the kernel")));
        }
        let end = Arc::new(Notify::new());
        let told = Arc::clone(&end);
        let (opened, open) = mpsc::sync_channel(1);
        let thread = Builder::new().name("netlink".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(error))),
            };
            runtime.block_on(async {
                let mut connection = match rtnetlink::proto::new_connection(NETLINK_ROUTE) {
                    Ok((connection, handle, _)) => {
                        // Room for one is in the channel, and nobody waits if the other end is gone.
                        drop(opened.send(Ok(handle)));
                        connection
                    }
                    Err(error) => return drop(opened.send(Err(error))),
                };
                // Without these an answer's end looks like a socket's end.
                connection.set_forward_ack(true);
                connection.set_forward_done(true);
                tokio::select! {
                    biased;
                    () = of(connection) => {}
                    () = told.notified() => {}
                }
            });
        })?;
        let handle = open.recv().map_err(io::Error::other)??;
        Ok(Self { handle, thread: Some(thread), end })
    }

    pub(super) fn handle(&self) -> ConnectionHandle<Message> {
        self.handle.clone()
    }

    /// Which one it is.
    pub(super) fn id(&self) -> Option<ThreadId> {
        self.thread.as_ref().map(|thread| thread.thread().id())
    }

    /// Whether the socket died.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Gives a thread up that doesn't answer. It is counted until it ends.
    pub(super) fn abandon(mut self) {
        let thread = self.thread.take();
        drop(self);
        hanging().extend(thread);
    }
}

type Connection = rtnetlink::proto::Connection<Message>;

/// The abandoned threads that have not come back.
fn hanging() -> MutexGuard<'static, Vec<JoinHandle<()>>> {
    // A list is changed whole: after a panic elsewhere it is still good.
    let mut abandoned = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
    abandoned.retain(|thread| !thread.is_finished());
    abandoned
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A thread that hangs, as in the kernel, until this sender is dropped.
    pub(crate) fn that_hangs() -> (OwnThread, mpsc::Sender<()>) {
        let (hold, until) = mpsc::channel::<()>();
        let hang = move |connection| async move {
            let _ = until.recv();
            drop::<Connection>(connection);
        };
        (OwnThread::serving(hang).unwrap(), hold)
    }

    #[test]
    fn threads_that_hang_are_bounded_and_forgotten_when_they_come_back() {
        let holds: Vec<_> = (0..ABANDONED_MAX)
            .map(|_| {
                let (thread, hold) = that_hangs();
                thread.abandon();
                hold
            })
            .collect();
        let refused = OwnThread::open().unwrap_err();
        assert_eq!(refused.to_string(), "4 threads hang in requests to the kernel");
        drop(holds);
        while !hanging().is_empty() {
            std::thread::yield_now();
        }
        OwnThread::open().unwrap();
    }

    #[test]
    fn a_thread_ends_with_its_owner() {
        let mut owner = OwnThread::open().unwrap();
        let thread = owner.thread.take().unwrap();
        drop(owner);
        thread.join().unwrap();
    }
}
