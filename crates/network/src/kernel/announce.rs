//! Teams that go over to another port, and the frames that tell the switches so.
//!
//! Purpose: [`TeamWatch`] says when a bond's active port has changed; [`broadcast`] sends a frame on a link.
//!
//! Invariants: a change-over is told at least once, also when several come so fast that they are told as one; what waits is
//! at most one entry per bond. When the kernel says that it lost messages (a full socket buffer, `ENOBUFS`), any bond may have gone
//! over, and that is told. The socket is read whatever the listener does.
//!
//! On failure: [`TeamWatch::next`] gives what waits and then `None` when its socket is closed; [`broadcast`] gives the kernel's error.

use super::netlink::NetlinkError;
use super::packet;
use futures_util::{Stream, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoBond, InfoData, LinkAttribute, LinkInfo, LinkMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What waits to be told.
#[derive(Debug, Default)]
struct Waiting {
    changed: Mutex<Changed>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Changed {
    /// Bonds that went over; `None` stands for any.
    bonds: BTreeSet<Option<String>>,
    /// Nothing more comes.
    ended: bool,
}

impl Waiting {
    fn change(&self, change: impl FnOnce(&mut Changed)) {
        change(&mut self.lock());
        self.more.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Changed> {
        // A set is changed whole: after a panic elsewhere it is still good.
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn next(&self) -> Option<Option<String>> {
        loop {
            let (next, ended) = {
                let mut changed = self.lock();
                (changed.bonds.pop_first(), changed.ended)
            };
            if next.is_some() || ended {
                return next;
            }
            self.more.notified().await;
        }
    }
}

/// Watches the bonds of this machine from when it is made until it is dropped.
#[derive(Debug)]
pub struct TeamWatch {
    waiting: Arc<Waiting>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for TeamWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl TeamWatch {
    /// Starts to watch.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(NetlinkError::Open)?;
        let waiting = Arc::<Waiting>::default();
        let listen = listen(messages.map(|(message, _)| message), Arc::clone(&waiting));
        Ok(Self { waiting, tasks: [tokio::spawn(connection), tokio::spawn(listen)] })
    }

    /// Waits for the next change-over, and gives the name of the bond that has another active port now, `Some(None)` if
    /// messages were lost and it may be any; `None` when the socket is closed.
    pub async fn next(&mut self) -> Option<Option<String>> {
        self.waiting.next().await
    }
}

async fn listen(messages: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>, waiting: Arc<Waiting>) {
    let mut messages = std::pin::pin!(messages);
    // The active port of each bond, by the kernel's numbers, as last told.
    let mut active = BTreeMap::new();
    while let Some(message) = messages.next().await {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                if let Some(bond) = changed_over(&mut active, &link) {
                    waiting.change(|changed| _ = changed.bonds.insert(Some(bond)));
                }
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                active.remove(&link.header.index);
            }
            NetlinkPayload::Overrun(_) => waiting.change(|changed| _ = changed.bonds.insert(None)),
            _ => {}
        }
    }
    waiting.change(|changed| changed.ended = true);
}

/// The bond's name, if the message says that it has another active port than known, and has one.
fn changed_over(active: &mut BTreeMap<u32, Option<u32>>, link: &LinkMessage) -> Option<String> {
    let bond = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Bond(bond)) => Some(bond),
            _ => None,
        }),
        _ => None,
    })?;
    let port = bond.iter().find_map(|attribute| match attribute {
        InfoBond::ActivePort(index) => Some(*index),
        _ => None,
    });
    let before = active.insert(link.header.index, port).flatten();
    if port.is_none() || port == before {
        return None;
    }
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// Sends a whole Ethernet frame on a link, by the kernel's number.
pub fn broadcast(index: u32, frame: &[u8]) -> io::Result<()> {
    packet::send(&packet::socket()?, index, frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use rtnetlink::packet_core::NetlinkHeader;
    use rtnetlink::packet_route::link::InfoKind;

    fn told(index: u32, port: Option<u32>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let data = InfoData::Bond(port.map(InfoBond::ActivePort).into_iter().collect());
        message.attributes = vec![
            LinkAttribute::IfName(format!("bond{index}")),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bond), LinkInfo::Data(data)]),
        ];
        message
    }

    /// Nobody asks meanwhile: what waits is one entry a bond, and a loss of messages is told.
    #[tokio::test]
    async fn change_overs_are_merged_while_nobody_asks_and_a_loss_means_any() {
        let many = (0..1000).map(|at| told(1 + at % 2, Some(5 + at / 2 % 2)));
        let messages = many.map(|link| NetlinkMessage::from(RouteNetlinkMessage::NewLink(link)));
        let lost = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
        let waiting = Arc::<Waiting>::default();
        listen(stream::iter(messages.chain([lost])), Arc::clone(&waiting)).await;
        assert_eq!(waiting.next().await, Some(None), "any bond");
        assert_eq!(waiting.next().await, Some(Some("bond1".to_owned())));
        assert_eq!(waiting.next().await, Some(Some("bond2".to_owned())));
        assert_eq!(waiting.next().await, None, "the messages have ended");
    }

    #[test]
    fn a_change_over_is_told_once_and_losing_every_port_is_none() {
        let mut active = BTreeMap::new();
        let mut say = |index, port| changed_over(&mut active, &told(index, port));
        assert_eq!(say(1, Some(5)), Some("bond1".to_owned()));
        assert_eq!(say(1, Some(5)), None);
        assert_eq!(say(2, Some(5)), Some("bond2".to_owned()));
        assert_eq!(say(1, Some(6)), Some("bond1".to_owned()));
        assert_eq!(say(1, None), None);
        assert_eq!(say(1, Some(6)), Some("bond1".to_owned()), "it was without a port meanwhile");
        assert_eq!(changed_over(&mut active, &LinkMessage::default()), None);
    }
}
