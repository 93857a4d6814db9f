//! What giving a cluster back will do, decided from what there is. Pure.
//!
//! Invariants: everything that is in the way is said at once. Drives are this cluster's by their headers, and only where a node has its ledger, which proves it.
//!
//! On failure: [`InTheWay`]; nothing has changed.

use super::Look;
use crate::Cluster;
use crate::deployment::{Change, InTheWay, usable_ledgers, what_it_says};
use crate::recorder::Stage;
use api::{Holds, NodeLedger};
use control::State;
use control::state::Node;
use model::{NodeId, NodeName, VmId, VmName, VolumeId, VolumeName};
use std::collections::{BTreeMap, BTreeSet};

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Line by line, in the order in which it is done.
    pub changes: Vec<Change>,
    /// Virtual machines that are stopped and deleted.
    pub vms: BTreeMap<VmId, VmName>,
    /// Volumes that are deleted.
    pub volumes: BTreeMap<VolumeId, VolumeName>,
    /// All that the ledger knows: there must not be others when it ends.
    pub nodes: BTreeSet<NodeId>,
    /// Members that have the ledger, and the cluster that it is of.
    pub members: BTreeMap<NodeName, String>,
    /// Whether the ledger says already that the cluster is dissolved. A run that was killed may then have asked members to leave.
    pub dissolved: bool,
    /// What is worth knowing: what stays as it is, and why.
    pub notes: Vec<String>,
}

/// Decides.
pub fn plan(cluster: &Cluster, look: &Look) -> Result<Plan, InTheWay> {
    let mut way = InTheWay::default();
    let lost = "`twinrack ledger rejoin` brings it back; then the cluster can be given back";
    let members = usable_ledgers(&look.ledgers, lost, &mut way);
    let ledger = ledger(cluster, look, &mut way);
    if !way.is_nothing() {
        return Err(way);
    }
    let (vms, volumes) = ledger.map_or_else(Default::default, holdings);
    let mut changes = Vec::new();
    let mut change = |stage, of: &str, what: String| {
        changes.push(Change { stage, of: of.to_owned(), what, takes: true });
    };
    let name = cluster.spec.name.as_str();
    for vm in vms.values() {
        change(Stage::Volumes, name, format!("stop and delete virtual machine {vm}"));
    }
    for volume in volumes.values() {
        change(Stage::Volumes, name, format!("delete volume {volume}, and LOSE what is on it"));
    }
    let mut notes = Vec::new();
    for (node, contents) in &look.contents {
        for found in contents {
            if let Holds::Unread { why } = &found.holds {
                notes.push(format!(
                    "drive {} of {node} stays as it is: nobody can read whose it is: {why}",
                    found.serial
                ));
            }
            let Holds::Pool { cluster, drive } = &found.holds else { continue };
            if members.get(node) == Some(cluster) {
                change(Stage::Pool, node.as_str(), format!("give drive {} back, blank", found.serial));
            } else {
                notes.push(format!(
                    "drive {} of {node} stays as it is: it holds {drive} of cluster {cluster}, and {node} has no ledger of that",
                    found.serial
                ));
            }
        }
    }
    for node in members.keys() {
        change(Stage::Pool, node.as_str(), "remove the ledger".to_owned());
    }
    for (node, home) in &look.ways {
        for op in &home.ops {
            change(Stage::Network, node.as_str(), op.to_string());
        }
        notes.extend(home.unknown.iter().map(|why| format!("links of {node} stay as they are: {why}")));
    }
    let known = ledger.map(|state| state.nodes.keys().copied().collect()).unwrap_or_default();
    let dissolved = ledger.is_some_and(|state| state.dissolved);
    Ok(Plan { changes, vms, volumes, nodes: known, members, dissolved, notes })
}

/// What a ledger has that would be lost.
fn holdings(state: &State) -> (BTreeMap<VmId, VmName>, BTreeMap<VolumeId, VolumeName>) {
    let vms = state.vms.all.iter().map(|(id, vm)| (*id, vm.spec.name.clone()));
    let volumes = state.volumes.iter().map(|(id, volume)| (*id, volume.name.clone()));
    (vms.collect(), volumes.collect())
}

/// The ledger that there is, if everybody in it is one of the template's and is there.
fn ledger<'a>(cluster: &Cluster, look: &'a Look, way: &mut InTheWay) -> Option<&'a State> {
    let state = what_it_says(look.ledger.as_ref(), way)?;
    let known: BTreeSet<&NodeName> = cluster.members.iter().map(|member| &member.name).collect();
    // The last under a name is the present one. One that was invited and has not joined has never registered; one that has left has given its ledger back.
    let has_to_have_one = |id, node: &Node| node.boot.is_some() && !state.has_left(id);
    let present: BTreeMap<&NodeName, bool> =
        state.nodes.iter().map(|(id, node)| (&node.name, has_to_have_one(*id, node))).collect();
    for (name, has_joined) in present {
        let is_out = matches!(look.ledgers.get(name), Some(NodeLedger::None {}));
        if !known.contains(name) {
            let what = format!("the ledger has a node {name}, the template has none of that name");
            way.others
                .push((what, "give the template of the whole cluster: what is given back is all of it"));
        } else if is_out && has_joined && !state.dissolved {
            let what =
                format!("{name} is in the ledger, and has none itself: its drives can't be given back");
            way.others.push((what, "`twinrack ledger rejoin` brings it back first"));
        }
    }
    Some(state)
}
