//! What changes in the kernel's links, addresses and routes while somebody looks.
//!
//! Purpose: the proof that a second apply changes nothing, and a nudge for whoever watches drift.
//!
//! What was changed is told at once, but carrier and operational state follow up to a second later (`linkwatch`,
//! `net/core/link_watch.c`): whoever wants to see nothing drains for longer than [`AFTERMATH`] first.
//!
//! Invariants: at most [`QUEUE`] changes wait; [`Monitor::missed`] counts the others.

use super::netlink::NetlinkError;
use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How many changes wait for somebody to look at them.
const QUEUE: usize = 1024;

/// How long after a change the kernel may still tell of its consequences.
pub const AFTERMATH: Duration = Duration::from_millis(1500);

const GROUPS: [MulticastGroup; 4] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Ifaddr];

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
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What kind.
    pub kind: ChangeKind,
    /// The kernel's number of the link; `None` for routes.
    pub index: Option<u32>,
    /// The link's name, where the message has it.
    pub name: Option<String>,
}

/// Listens from when it is made until it is dropped.
#[derive(Debug)]
pub struct Monitor {
    changes: mpsc::Receiver<Change>,
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
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
        let (sender, changes) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&missed);
        let forward = async move {
            while let Some((message, _)) = messages.next().await {
                if let NetlinkPayload::InnerMessage(message) = message.payload
                    && let Some(change) = change(&message)
                    && sender.try_send(change).is_err()
                {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        Ok(Self { changes, missed, tasks: [tokio::spawn(connection), tokio::spawn(forward)] })
    }

    /// The next change; `None` when the socket is closed.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }

    /// All changes until none came for `quiet`, at most `QUEUE`.
    pub async fn drain(&mut self, quiet: Duration) -> Vec<Change> {
        let mut drained = Vec::new();
        while drained.len() < QUEUE
            && let Ok(Some(change)) = timeout(quiet, self.changes.recv()).await
        {
            drained.push(change);
        }
        drained
    }

    /// Changes that nobody looked at in time.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
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
