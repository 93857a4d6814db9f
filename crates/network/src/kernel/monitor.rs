//! What changes in the kernel's links, addresses and routes while somebody looks.
//!
//! Purpose: the proof that a second apply changes nothing, and a nudge for whoever watches drift.
//!
//! What was changed is told at once, but carrier and operational state follow up to a second later (`linkwatch`,
//! `net/core/link_watch.c`): whoever wants to see nothing waits that long first.
//!
//! Invariants: at most [`QUEUE`] changes wait. A change that can't be told is counted ([`Monitor::missed`]), whether the queue
//! was full or the socket's buffer (`ENOBUFS`: the kernel dropped at least one message and doesn't say how many). Not counted
//! is a message that the netlink library can't read: it logs and drops it.
//!
//! On failure: when the socket dies, [`Monitor::next`] gives what is left and then `None`; there is nothing more to hear.

use super::netlink::NetlinkError;
use super::tc;
use super::wire::{self, Message, Raw};
use futures_util::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many changes wait for somebody to look at them.
const QUEUE: usize = 1024;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Tc,
    MulticastGroup::Dcb,
];

/// What kind of message the kernel sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// A link is new or changed.
    Link,
    /// A link is gone.
    LinkGone,
    /// An address is new or changed.
    Address,
    /// An address is gone.
    AddressGone,
    /// A route is new or changed.
    Route,
    /// A route is gone.
    RouteGone,
    /// A queue or a place for filters is new or changed.
    Queue,
    /// A queue or a place for filters is gone.
    QueueGone,
    /// A filter is new or changed.
    Filter,
    /// A filter is gone.
    FilterGone,
    /// A NIC's data centre bridging changed.
    Dcb,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What kind.
    pub kind: ChangeKind,
    /// The kernel's number of the link; `None` for routes and data centre bridging.
    pub index: Option<u32>,
    /// The link's name, where the message has it.
    pub name: Option<String>,
}

/// What a monitor tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A change.
    Change(Change),
    /// Changes happened here that can't be told; [`Monitor::missed`] has grown.
    Gap,
}

/// Listens from when it is made until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    told: mpsc::Receiver<Told>,
    missed: Arc<AtomicU64>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Monitor {
    /// Starts to listen.
    pub fn open() -> Result<Self, NetlinkError> {
        let (mut connection, _, messages) =
            rtnetlink::proto::new_connection(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (*group as u32 - 1));
        let socket: &mut TokioSocket = connection.socket_mut();
        socket.socket_mut().bind(&SocketAddr::new(0, groups)).map_err(NetlinkError::Open)?;
        let (sender, told) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let forward = forward(messages.map(|(message, _)| message), sender, Arc::clone(&missed));
        Ok(Self { told, missed, tasks: [tokio::spawn(connection), tokio::spawn(forward)] })
    }

    /// What comes next; `None` when the socket died: from then on nothing is heard.
    pub async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }

    /// How many changes could not be told, at least. Look after each [`Told`].
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// Hands on what the kernel tells until it tells no more. Counts before it hands on, so that a count is never behind.
async fn forward(
    messages: impl Stream<Item = NetlinkMessage<Message>>,
    told: mpsc::Sender<Told>,
    missed: Arc<AtomicU64>,
) {
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages.next().await {
        let next = match &message.payload {
            NetlinkPayload::InnerMessage(message) => change(message).map(Told::Change),
            NetlinkPayload::Overrun(_) => {
                missed.fetch_add(1, Ordering::Relaxed);
                Some(Told::Gap)
            }
            _ => None,
        };
        // A gap that finds the queue full is counted already, and what is in the queue brings somebody to look.
        if let Some(next) = next
            && let Err(mpsc::error::TrySendError::Full(Told::Change(_))) = told.try_send(next)
        {
            missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn change(message: &Message) -> Option<Change> {
    match message {
        Message::Route(message) => of_library(message),
        Message::Raw(raw) => of_bytes(raw),
    }
}

fn of_bytes(raw: &Raw) -> Option<Change> {
    let kind = match raw.kind {
        wire::NEW_QUEUE => ChangeKind::Queue,
        wire::DELETE_QUEUE => ChangeKind::QueueGone,
        wire::NEW_FILTER => ChangeKind::Filter,
        wire::DELETE_FILTER => ChangeKind::FilterGone,
        wire::GET_DCB | wire::SET_DCB => ChangeKind::Dcb,
        _ => return None,
    };
    let index = if kind == ChangeKind::Dcb { None } else { tc::index(raw) };
    Some(Change { kind, index, name: None })
}

fn of_library(message: &RouteNetlinkMessage) -> Option<Change> {
    let of_link = |kind, link: &LinkMessage| {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        Change { kind, index: Some(link.header.index), name }
    };
    let of_address = |kind, index| Change { kind, index: Some(index), name: None };
    let of_route = |kind| Change { kind, index: None, name: None };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(of_link(ChangeKind::Link, link)),
        RouteNetlinkMessage::DelLink(link) => Some(of_link(ChangeKind::LinkGone, link)),
        RouteNetlinkMessage::NewAddress(address) => {
            Some(of_address(ChangeKind::Address, address.header.index))
        }
        RouteNetlinkMessage::DelAddress(address) => {
            Some(of_address(ChangeKind::AddressGone, address.header.index))
        }
        RouteNetlinkMessage::NewRoute(_) => Some(of_route(ChangeKind::Route)),
        RouteNetlinkMessage::DelRoute(_) => Some(of_route(ChangeKind::RouteGone)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use rtnetlink::packet_core::NetlinkHeader;

    fn link(index: u32) -> NetlinkMessage<Message> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        wire::request(RouteNetlinkMessage::NewLink(message), 0)
    }

    fn monitor(messages: Vec<NetlinkMessage<Message>>) -> Monitor {
        let (sender, told) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let forward = forward(stream::iter(messages), sender, Arc::clone(&missed));
        Monitor { told, missed, tasks: [tokio::spawn(forward), tokio::spawn(async {})] }
    }

    #[tokio::test]
    async fn a_full_socket_buffer_is_a_gap_and_the_end_is_told() {
        let overrun = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
        let mut monitor = monitor(vec![link(3), overrun, link(4)]);
        let of =
            |index| Some(Told::Change(Change { kind: ChangeKind::Link, index: Some(index), name: None }));
        assert_eq!(monitor.next().await, of(3));
        assert_eq!(monitor.next().await, Some(Told::Gap));
        assert_eq!(monitor.missed(), 1);
        assert_eq!(monitor.next().await, of(4));
        assert_eq!(monitor.next().await, None);
    }

    #[tokio::test]
    async fn queues_and_filters_are_told_of() {
        let told = [tc::add_classifier(3), tc::remove_filter(3, 1), tc::remove_classifier(3)];
        let mut monitor = monitor(told.into_iter().map(|raw| wire::request(raw, 0)).collect());
        for kind in [ChangeKind::Queue, ChangeKind::FilterGone, ChangeKind::QueueGone] {
            let change = Change { kind, index: Some(3), name: None };
            assert_eq!(monitor.next().await, Some(Told::Change(change)));
        }
    }

    #[tokio::test]
    async fn what_finds_the_queue_full_is_counted() {
        let many: Vec<_> = (0..).take(QUEUE + 7).map(link).collect();
        let mut monitor = monitor(many);
        let mut told = 0;
        while monitor.next().await.is_some() {
            told += 1;
        }
        assert_eq!((told, monitor.missed()), (QUEUE, 7));
    }
}
