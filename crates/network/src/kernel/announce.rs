//! Teams that go over to another port, and the frames that tell the switches so.
//!
//! Purpose: [`TeamWatch`] says when a bond's active port has changed; [`broadcast`] sends a frame on a link.
//!
//! Invariants: a change-over is told at least once, also when several come so fast that they are told as one.
//!
//! On failure: [`TeamWatch::next`] gives `None` when its socket is closed; [`broadcast`] gives the kernel's error.

use super::netlink::NetlinkError;
use super::packet;
use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoBond, InfoData, LinkAttribute, LinkInfo, LinkMessage};
use std::collections::BTreeMap;
use std::io;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How many change-overs wait to be looked at; the kernel is listened to again when there is room.
const QUEUE: usize = 16;

/// Watches the bonds of this machine from when it is made until it is dropped.
#[derive(Debug)]
pub struct TeamWatch {
    changes: mpsc::Receiver<String>,
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
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(NetlinkError::Open)?;
        let (tell, changes) = mpsc::channel(QUEUE);
        let watch = async move {
            // The active port of each bond, by the kernel's numbers, as last told.
            let mut active = BTreeMap::new();
            while let Some((message, _)) = messages.next().await {
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        let Some(bond) = changed_over(&mut active, &link) else { continue };
                        if tell.send(bond).await.is_err() {
                            return;
                        }
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                        active.remove(&link.header.index);
                    }
                    _ => {}
                }
            }
        };
        Ok(Self { changes, tasks: [tokio::spawn(connection), tokio::spawn(watch)] })
    }

    /// Waits for the next change-over, and gives the name of the bond that has another active port now; `None` when the
    /// socket is closed.
    pub async fn next(&mut self) -> Option<String> {
        self.changes.recv().await
    }
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
