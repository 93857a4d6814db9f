//! What just failed, by name.
//!
//! Purpose: every node reports when it last heard each peer on each storage network, and what its NICs see. From all
//! reports together, and from how the cluster was cabled when it was well, [`diagnose`] names the thing that failed: a
//! node, a switch, a link between rooms (one way or both), a NIC or its cable (one way or both). [`Memory`] does the same
//! again and again, and keeps back what only seems so because some nodes have told of a change and others not yet.
//!
//! How: from what is certain to what is inferred, and what is explained once isn't named again:
//! 1. a node that does not report, and that nobody hears, is silent;
//! 2. a switch is lost when all NICs on it lost carrier or neighbour and nothing passes them (one NIC alone is a NIC), or
//!    when two nodes or more of a zone reach nobody through it, whatever of its neighbours has timed out by then;
//! 3. a NIC is lost that has no carrier, or no neighbour and no path;
//! 4. of the NICs that look well, paths decide per storage network: a NIC that reaches nobody has lost its cable, or
//!    one direction of it; when all that crosses between zones is dead, it is
//!    the link between the rooms, or one direction of it;
//! 5. what is dead and is none of these is named as a path.
//!
//! Invariants: a direction is judged by its receiver alone, and by none that hears nobody, if there is another. A receiver
//! whose report is too old knows nothing: that is [`Blocked`], never a guess. A path that has been silent for longer than
//! usual and not for long enough convicts and acquits nobody. As long as a node may be gone itself, its paths say nothing
//! about cables and switches. One direction alone is lost only while the other is steady: when both come and go, one is heard
//! again first. A NIC whose carrier came back a moment ago convicts nobody but itself: its kernel may send nothing yet. No
//! fault, no loss.
//!
//! Limits: with one node per zone, a cable that fails in one direction and keeps its carrier looks like the link between
//! the rooms; the loss says what else it could be. A NIC for management carries no hellos: if it hears no LLDP any more
//! and has carrier, whether it works is [`Blocked`].
//!
//! On failure: none; reports that contradict each other give paths.

mod evidence;
mod loss;
mod paths;
mod settle;

use crate::wiring::{Connection, NicCabling, NodeCabling, connections};
use evidence::View;
use model::{AdapterName, NodeName, StorageNetwork, StorageNetworkIndex, ZoneName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub use loss::{Blocked, Diagnosis, Direction, Loss, Lost, RoomEnd, Seen, Way};
pub use settle::Memory;

/// When something counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// A path is alive when something came within this, ms.
    pub alive_within_ms: u32,
    /// A path is dead when nothing came for longer than this, ms.
    pub dead_after_ms: u32,
    /// A report is too old to be believed after this, ms.
    pub stale_after_ms: u32,
    /// A path that is alive is steady when no hello was late for longer than this, ms.
    pub steady_after_ms: u32,
}

impl Default for Thresholds {
    /// Hellos and reports come every 200 ms. What is heard every time is up to 450 ms old when it is judged; 1000 ms are
    /// five hellos. What lies between them covers the 200 ms by which hellos on paths that die together differ, and
    /// one hello that is lost before: while the first of those paths is dead, none of the others is alive any more.
    fn default() -> Self {
        Self { alive_within_ms: 600, dead_after_ms: 1000, stale_after_ms: 1000, steady_after_ms: 1000 }
    }
}

/// What one node has heard of one peer on one storage network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathView {
    /// The peer that sends.
    pub peer: NodeName,
    /// On which storage network.
    pub network: StorageNetworkIndex,
    /// How long ago the last hello came, ms; `None`: never.
    pub heard_ms_ago: Option<u32>,
    /// How long ago a hello last came that was the first, or late: two before it were lost, ms. `None`: never.
    #[serde(default)]
    pub late_ms_ago: Option<u32>,
}

/// What one node reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who reports.
    pub node: NodeName,
    /// How long ago, ms.
    pub age_ms: u32,
    /// How long it has been listening for hellos, ms. Before the threshold has passed, silence means nothing.
    pub listening_ms: u32,
    /// What it has heard.
    pub paths: Vec<PathView>,
    /// What its NICs see.
    pub nics: Vec<NicReport>,
}

/// What one NIC sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicReport {
    /// Its carrier; `None` while the NIC is down.
    pub carrier: Option<bool>,
    /// How often it has lost its carrier since it came to be. One that was lost for a moment shows here alone.
    pub carrier_losses: u32,
    /// Its neighbour and whose it is.
    pub cabling: NicCabling,
}

/// Names what failed.
///
/// `known_good` is the cabling when the cluster was well; nodes and NICs that aren't in it are not judged.
pub fn diagnose(
    networks: &[StorageNetwork],
    known_good: &[NodeCabling],
    reports: &[NodeReport],
    thresholds: Thresholds,
) -> Diagnosis {
    diagnose_view(networks, &View::new(known_good, reports, thresholds, BTreeSet::new()))
}

fn diagnose_view(networks: &[StorageNetwork], view: &View<'_>) -> Diagnosis {
    let cables = connections(view.known_good);
    let mut diagnosis = Diagnosis::default();
    view.silent_nodes(&mut diagnosis);
    let mut out = view.lost_switches(networks, &cables, &mut diagnosis);
    let elsewhere = &view.not_on_their_switch(&cables) | &view.young;
    for network in networks {
        let known = &out | &elsewhere;
        out.extend(paths::lost_switches(view, network, &cables, &known, &mut diagnosis));
    }
    let (lost, deaf) = view.lost_nics(networks, &cables, &out, &mut diagnosis);
    out.extend(lost);
    out.extend(view.young.iter().cloned());
    for network in networks {
        paths::judge(view, network, &cables, &out, &deaf, &mut diagnosis);
    }
    diagnosis
}

/// A NIC by its node and adapter.
type NicId = (NodeName, AdapterName);

fn nic_of(cable: &Connection) -> NicId {
    (cable.node.clone(), cable.adapter.clone())
}

fn cable_of<'a>(cables: &'a [Connection], node: &NodeName, adapter: &AdapterName) -> Option<&'a Connection> {
    cables.iter().find(|cable| cable.node == *node && cable.adapter == *adapter)
}

/// The nodes of each zone, in the order of the cabling.
fn zones(known_good: &[NodeCabling]) -> Vec<(&ZoneName, Vec<&NodeName>)> {
    let mut zones: Vec<(&ZoneName, Vec<&NodeName>)> = Vec::new();
    for node in known_good {
        let Some(zone) = &node.zone else { continue };
        match zones.iter_mut().find(|(name, _)| *name == zone) {
            Some((_, nodes)) => nodes.push(&node.node),
            None => zones.push((zone, vec![&node.node])),
        }
    }
    zones
}

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
