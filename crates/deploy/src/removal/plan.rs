//! What the removal of a node of each rack will do, decided from what there is. Pure.
//!
//! Invariants: everything that is in the way is said at once. That copies have room where they go is tried on a copy of the ledger, by the commands that the removal is made of, and placement's checkers look at the outcome.
//!
//! On failure: [`InTheWay`]; nothing has changed.

use super::Look;
use crate::Cluster;
use crate::deployment::{self, Change, InTheWay, is_closed, usable_ledgers, what_it_says};
use crate::pool::{phase_in_words, volumes_on};
use crate::recorder::Stage;
use api::{Holds, NodeLedger};
use control::state::{Drive, Leg, Phase, Volume};
use control::vm::{Leftover, placing};
use control::{ClusterCommand, Command, Rejected, State};
use model::{DriveId, DriveSerial, NodeId, NodeName, SLAB_BYTES, VolumeId};
use placement::vm::{Drained, NotDrained};
use std::collections::{BTreeMap, BTreeSet};

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Line by line, in the order in which it is done.
    pub changes: Vec<Change>,
    /// Who leaves: a node of each rack.
    pub pair: BTreeSet<NodeName>,
    /// Whether the ledger knows one of them yet. If not, there are only links to give back.
    pub is_member: bool,
    /// Their drives in the pool.
    pub drives: BTreeMap<DriveId, DriveSerial>,
    /// Those of them who have left, and do not answer: what they have stays there.
    pub silent: BTreeSet<NodeName>,
    /// Drives that stay as they are: they say that they are of the cluster's pool, and their node has no ledger any more by which they are nobody's.
    pub kept: BTreeSet<DriveSerial>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// Decides.
pub fn plan(cluster: &Cluster, look: &Look, pair: &BTreeSet<NodeName>) -> Result<Plan, InTheWay> {
    let mut way = InTheWay::default();
    is_pair(cluster, pair, &mut way);
    let lost = "`twinrack node repair` brings a node back that has lost it, or puts another in its place";
    usable_ledgers(&look.ledgers, lost, &mut way);
    let state = what_it_says(look.ledger.as_ref(), &mut way);
    if look.ledger.is_none() {
        let what = "no node has a ledger: there is no cluster to remove nodes from".to_owned();
        way.others.push((what, "see that the access file names the nodes of the cluster"));
    }
    let Some(state) = state.filter(|_| way.is_nothing()) else { return Err(way) };
    are_members(cluster, (look, state), pair, &mut way);
    let leave = present(state, pair);
    if !leave.is_empty() && way.is_nothing() {
        volumes_move(state, &leave, &mut way);
        machines_move(state, &leave, &mut way);
        have_room(state, &leave, &mut way);
    }
    if !way.is_nothing() {
        return Err(way);
    }
    let drives = its_drives(state, &leave);
    let is_open = |name: &NodeName| matches!(look.ledgers.get(name), Some(NodeLedger::Open(_)));
    let without = pair.iter().filter(|name| !is_open(name));
    let kept = without.flat_map(|name| drives_of_pool((look, state), name, &leave)).cloned().collect();
    let (changes, mut notes) = changes(cluster, (look, state), pair, (&leave, &drives));
    let silent: BTreeSet<NodeName> =
        pair.iter().filter(|name| !look.ledgers.contains_key(*name)).cloned().collect();
    notes.extend(silent.iter().map(|name| {
        format!("{name} has left, and does not answer: what it has of the cluster stays there until its drives are wiped")
    }));
    notes.extend(BTreeSet::iter(&kept).map(|serial| {
        format!("drive {serial} stays as it is: its node has no ledger that says whose it is; wipe it where it is used next")
    }));
    Ok(Plan { changes, pair: pair.clone(), is_member: !leave.is_empty(), drives, silent, kept, notes })
}

/// Exactly one node of each rack, and none is the last.
fn is_pair(cluster: &Cluster, pair: &BTreeSet<NodeName>, way: &mut InTheWay) {
    let help = "name one node of each rack: racks stay of one size";
    if pair.contains(&cluster.spec.witness.name) {
        let what = format!("{} is the witness", cluster.spec.witness.name);
        way.others.push((what, "the witness stays: `twinrack node repair` puts another in its place"));
    }
    let known: BTreeSet<&NodeName> = cluster.members.iter().map(|member| &member.name).collect();
    for name in pair.iter().filter(|name| !known.contains(name)) {
        let help =
            "give the template that the cluster has now, with the nodes that leave, and name them as it does";
        way.others.push((format!("the template has no node {name}"), help));
    }
    for zone in &cluster.spec.zones {
        let named: Vec<&str> = zone
            .nodes
            .iter()
            .filter(|node| pair.contains(&node.name))
            .map(|node| node.name.as_str())
            .collect();
        match named[..] {
            [_] if zone.nodes.len() > 1 => {}
            [last] => {
                let what = format!("{last} is the last node of rack {}", zone.name);
                way.others.push((what, "`twinrack destroy` gives a whole cluster back"));
            }
            [] => way.others.push((format!("no node of rack {} is named", zone.name), help)),
            _ => way.others.push((format!("{} are of one rack, {}", named.join(" and "), zone.name), help)),
        }
    }
}

/// Whether everybody is in the ledger as it has to be, or, of those who leave, is out of it already.
fn are_members(
    cluster: &Cluster,
    (look, state): (&Look, &State),
    pair: &BTreeSet<NodeName>,
    way: &mut InTheWay,
) {
    if state.dissolved {
        let what = "the ledger says that its cluster is dissolved".to_owned();
        way.others.push((what, "`twinrack destroy` gives back what is left of it"));
    }
    // The last under a name is the present one.
    let ids: BTreeMap<&NodeName, NodeId> = state.nodes.iter().map(|(id, node)| (&node.name, *id)).collect();
    let known: BTreeSet<&NodeName> = cluster.members.iter().map(|member| &member.name).collect();
    for name in ids.keys().filter(|name| !known.contains(*name)) {
        let what = format!("the ledger has a node {name}, the template has none of that name");
        way.others.push((what, "give the template of the whole cluster, with the nodes that leave"));
    }
    // When the first of them is out, the other leaves.
    let goes_on = pair.iter().all(|name| ids.get(name).is_none_or(|id| state.leaves(*id)));
    for name in &known {
        let own = match look.ledgers.get(*name) {
            Some(NodeLedger::Open(open)) => Some(open.node),
            _ => None,
        };
        let (id, has_ledger) = (ids.get(name).copied(), own.is_some());
        let joined = id.and_then(|id| state.nodes.get(&id)).is_some_and(|node| node.boot.is_some());
        match id {
            Some(_) if own == id => {}
            Some(id) if pair.contains(*name) && state.has_left(id) => {}
            Some(_) if !joined && !has_ledger => {
                let what = format!("{name} is in the ledger, and has not joined it");
                way.others.push((what, "`twinrack node add` given again goes on with that"));
            }
            Some(_) => {
                let what = format!("{name} is in the ledger, and has none itself, or one that is over");
                way.others.push((what, "`twinrack node repair` brings it back first"));
            }
            None if pair.contains(*name) && goes_on && !has_ledger => {}
            None if has_ledger => {
                let what = format!("{name} has a ledger, and is no node of it");
                way.others.push((what, "`twinrack ledger show` says how it is on each node"));
            }
            None => {
                let what = format!("{name} is not in the ledger");
                way.others.push((what, "name nodes of the cluster as `twinrack ledger show` names them"));
            }
        }
    }
    for (_, node) in state.leaving().filter(|(_, node)| !pair.contains(&node.name)) {
        let what = format!("{} leaves the cluster already", node.name);
        way.others.push((what, "go on with those first: one node of each rack at a time"));
    }
}

fn present(state: &State, pair: &BTreeSet<NodeName>) -> BTreeSet<NodeId> {
    let named = state.nodes.iter().filter(|(_, node)| pair.contains(&node.name)).map(|(id, _)| *id);
    super::present(state, &named.collect())
}

fn its_drives(state: &State, leave: &BTreeSet<NodeId>) -> BTreeMap<DriveId, DriveSerial> {
    let own = state.drives.iter().filter(|(_, drive)| leave.contains(&drive.node));
    own.map(|(id, drive)| (*id, drive.serial.clone())).collect()
}

/// Copies are made from others while a volume is open.
fn volumes_move(state: &State, leave: &BTreeSet<NodeId>, way: &mut InTheWay) {
    let there = |volume: &Volume| {
        volume.legs.values().filter_map(|leg| state.node_of(leg)).any(|node| leave.contains(&node))
    };
    for volume in state.volumes.values() {
        let is_owned = leave.contains(&volume.owner) && volume.phase == Phase::Offline;
        if is_closed(volume) && (is_owned || there(volume)) {
            let what = format!(
                "volume {} is {}, and has copies there, which move only while it is open",
                volume.name,
                phase_in_words(&volume.phase)
            );
            let help = match volume.phase {
                Phase::Offline => {
                    "`twinrack volume override` opens it, after saying what may be lost; `twinrack volume delete` gives it up"
                }
                _ => "open it, or give it up: `twinrack volume delete`",
            };
            way.others.push((what, help));
        }
    }
}

/// Who runs there must be able to run elsewhere, or be saved, if that was said.
fn machines_move(state: &State, leave: &BTreeSet<NodeId>, way: &mut InTheWay) {
    let is_saved = leave.iter().any(|id| state.vms.draining.get(id) == Some(&Leftover::Saved));
    let leftover = if is_saved { Leftover::Saved } else { Leftover::Stays };
    // Everybody has answered.
    match placing::drain(state, |_| true, &Drained::Nodes(leave.clone()), leftover) {
        Err(NotDrained::InTheWay(all)) => {
            let help = "what would help stands with it; `twinrack node drain --save` saves what can't move";
            way.others.extend(all.iter().map(|found| (found.to_string(), help)));
        }
        Err(other) => way.others.push((other.to_string(), "`twinrack node list` shows the nodes")),
        Ok(_) => {}
    }
}

/// Whether all copies have a place on what stays, with what shall be free there.
fn have_room(ledger: &State, leave: &BTreeSet<NodeId>, way: &mut InTheWay) {
    let mut state = ledger.clone();
    // Whether they can run elsewhere has been asked.
    state.vms.all.clear();
    let nodes = leave.clone();
    // When the first of them is out, the other leaves already.
    let is_said = leave.iter().all(|id| ledger.leaves(*id));
    let said = if is_said {
        Ok(Vec::new())
    } else {
        state.apply(&Command::Cluster(ClusterCommand::NodesLeave { nodes }))
    };
    if let Err(why) = said {
        let help = match why {
            Rejected::TooFewStay { .. } => {
                "volumes with four copies need two nodes in each rack, and there is no way back to two copies: delete them, or make them anew with two"
            }
            _ => "`twinrack node list` shows the nodes, and which are in maintenance",
        };
        return way.others.push((why.to_string(), help));
    }
    let help = "delete volumes, or add drives to the nodes that stay: `twinrack drive add`; `twinrack volume list` shows what is free";
    deployment::have_room(&mut state, its_drives(ledger, leave).keys(), help, way);
    if way.is_nothing() {
        let after = without(state, leave);
        let reserve = placement::check_reserve(&after.pool(), &after.placed());
        way.others.extend(reserve.iter().map(|broken| (broken.to_string(), help)));
    }
}

/// The ledger when they have left.
fn without(mut state: State, leave: &BTreeSet<NodeId>) -> State {
    let own: BTreeSet<DriveId> = its_drives(&state, leave).into_keys().collect();
    state.drives.retain(|id, _| !own.contains(id));
    for volume in state.volumes.values_mut() {
        volume.legs.retain(|_, leg| !own.contains(&leg.drive));
    }
    state.nodes.retain(|id, _| !leave.contains(id));
    state
}

fn changes(
    cluster: &Cluster,
    (look, state): (&Look, &State),
    pair: &BTreeSet<NodeName>,
    (leave, drives): (&BTreeSet<NodeId>, &BTreeMap<DriveId, DriveSerial>),
) -> (Vec<Change>, Vec<String>) {
    let (mut changes, mut notes) = (Vec::new(), Vec::new());
    let mut change = |stage, of: &str, what: String, takes| {
        changes.push(Change { stage, of: of.to_owned(), what, takes });
    };
    let name_of = |id: NodeId| state.nodes.get(&id).map(|node| node.name.as_str()).unwrap_or_default();
    for vm in state.vms.all.values() {
        let seat = vm.phase.seat().filter(|seat| leave.contains(&seat.node));
        if let Some(seat) = seat {
            change(
                Stage::Volumes,
                name_of(seat.node),
                format!("move virtual machine {} elsewhere", vm.spec.name),
                false,
            );
        }
    }
    let owned = state.volumes.values().filter(|volume| leave.contains(&volume.owner) && !is_closed(volume));
    for volume in owned {
        change(Stage::Volumes, name_of(volume.owner), format!("hand volume {} over", volume.name), false);
    }
    for id in leave {
        if !state.leaves(*id) {
            change(Stage::Quorum, name_of(*id), "leave the cluster, for good".to_owned(), true);
        }
    }
    for (drive, serial) in drives {
        let Some(Drive { node, .. }) = state.drives.get(drive) else { continue };
        let copies = volumes_on(state, *drive);
        let what = if copies.is_empty() {
            format!("take drive {serial} out of the pool")
        } else {
            let mib = (slabs_on(state, *drive, &copies) * SLAB_BYTES) >> 20;
            format!(
                "move the {} copies of drive {serial} elsewhere in the rack ({mib} MiB), and take it out of the pool",
                copies.len()
            )
        };
        change(Stage::Pool, name_of(*node), what, true);
    }
    for name in pair {
        if matches!(look.ledgers.get(name), Some(NodeLedger::Open(_))) {
            for serial in drives_of_pool((look, state), name, leave) {
                change(Stage::Pool, name.as_str(), format!("give drive {serial} back, blank"), true);
            }
            change(Stage::Pool, name.as_str(), "remove the ledger".to_owned(), true);
        }
        if leave.iter().any(|id| name_of(*id) == name.as_str()) {
            change(Stage::Pool, cluster.spec.name.as_str(), format!("forget {name}"), true);
        }
    }
    for name in pair {
        let Some(home) = look.ways.get(name) else { continue };
        for op in &home.ops {
            change(Stage::Network, name.as_str(), op.to_string(), true);
        }
        notes.extend(home.unknown.iter().map(|why| format!("links of {name} stay as they are: {why}")));
    }
    if changes.is_empty() {
        notes.push("neither of them is part of the cluster".to_owned());
    }
    (changes, notes)
}

fn slabs_on(state: &State, drive: DriveId, volumes: &[VolumeId]) -> u64 {
    let volumes = volumes.iter().filter_map(|id| state.volumes.get(id));
    let legs = volumes.flat_map(|volume| volume.legs.values());
    legs.filter(|leg| leg.drive == drive).map(Leg::slabs).sum()
}

/// The drives in a node that say that they are of the cluster's pool; none that the ledger has of a node that stays: that one is in another node than it should be.
pub(super) fn drives_of_pool<'a>(
    (look, state): (&'a Look, &State),
    name: &NodeName,
    leave: &BTreeSet<NodeId>,
) -> Vec<&'a DriveSerial> {
    let clusters: BTreeSet<&String> = look
        .ledgers
        .values()
        .filter_map(|ledger| if let NodeLedger::Open(open) = ledger { Some(&open.cluster) } else { None })
        .collect();
    let stays = |id: &DriveId| state.drives.get(id).is_some_and(|drive| !leave.contains(&drive.node));
    let is_given_back = |holds: &Holds| matches!(holds, Holds::Pool { cluster, drive } if clusters.contains(cluster) && !stays(drive));
    let contents = look.contents.get(name).into_iter().flatten();
    contents.filter(|found| is_given_back(&found.holds)).map(|found| &found.serial).collect()
}
