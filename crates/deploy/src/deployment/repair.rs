//! A node of a cluster that is replaced, or comes back without what it had (`twinrack node repair`): what is in the way of that, which of its drives are gone for good, and how what was on them is made anew. Pure, but for
//! [`give_up`], [`make_copies`] and [`up_to_date`], which ask for it.
//!
//! ```text
//!   links ─► it joins the ledger again, under a new id ─► drives that it has not any more are lost, those that it has are taken ─► their copies are made on those ─► lost drives leave the pool
//! ```
//! Invariants: nothing of other nodes is changed. A drive is lost only if its node has looked, and has it neither as it was nor at all; never while it has the last good copy of a volume. A drive that
//! is there as it was keeps what it holds.
//!
//! On failure: [`InTheWay`] before anything is changed; then [`PoolError`], and what was done stands.

use super::express::{self, PoolDrive};
use super::growth::{LEDGER_BOUND, copy_patience, is_closed};
use super::plan::{Change, Fate, InTheWay, Wishes};
use crate::Cluster;
use crate::pool::{self, CantMove, Followed, Move, POLL, PoolError, chain, next_of_move, settle, volumes_on};
use crate::recorder::{Recorder, Stage};
use api::Holds;
use control::state::{Drive, Health, Leg, LegState, Phase, Volume};
use control::{ClusterCommand, Command, State};
use model::{DriveId, DriveSerial, NodeId, NodeName, SLAB_BYTES};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::sleep;

/// Whether there is such a node to repair.
pub(super) fn may_repair(cluster: &Cluster, ledger: Option<&State>, name: &NodeName, way: &mut InTheWay) {
    let help = "name a node of the cluster as the template and `twinrack ledger show` name it";
    let is_known = |ledger: &State| ledger.nodes.values().any(|node| node.name == *name);
    let is_member = cluster.members.iter().any(|member| member.name == *name);
    if !is_member && ledger.is_some_and(|ledger| is_known(ledger) && ledger.needs_none_of(name)) {
        let what = format!("{name} has left the cluster, and is not out of the ledger yet");
        return way.others.push((what, "`twinrack node remove`, given again, goes on with that"));
    }
    if !is_member {
        way.others.push((format!("the template has no node {name}"), help));
    }
    match ledger {
        // Why it says nothing, if there is one, has been told.
        None if way.is_nothing() => {
            way.others
                .push(("no node has a ledger: there is no cluster to repair a node of".to_owned(), help));
        }
        Some(ledger) if !is_known(ledger) => {
            way.others.push((format!("the ledger has no node {name}"), "`twinrack node add` adds nodes"));
        }
        _ => {}
    }
}

/// Leaves drives of all others out.
pub(super) fn only_its(fates: &mut Vec<Fate>, name: &NodeName, wishes: &Wishes, way: &mut InTheWay) {
    let is_other = |fate: &Fate| !fate.is_ours && fate.node != *name;
    for fate in fates.iter().filter(|fate| is_other(fate) && wishes.wipe.contains(&fate.drive.serial)) {
        let what = format!("drive {} is in {}, which is not repaired", fate.drive.serial, fate.node);
        way.others.push((what, "`twinrack drive add --wipe` takes a drive into a node that serves"));
    }
    fates.retain(|fate| !is_other(fate));
}

/// Leaves drives out that a node which leaves the cluster would be given: it is only to have what it had.
pub(super) fn none_for_who_leaves(fates: &mut Vec<Fate>, ledger: &State, name: &NodeName) {
    if ledger.leaving().any(|(_, node)| node.name == *name) {
        fates.retain(|fate| fate.is_ours);
    }
}

/// Whether it is an id of the node of that name, the present one or one from before.
fn is_named(ledger: &State, node: NodeId, name: &NodeName) -> bool {
    ledger.nodes.get(&node).is_some_and(|found| found.name == *name)
}

/// Whether a leg on a drive was ever given out, or counts. To one that was named the cluster may move legs at once, before it is claimed: they are made then.
fn is_used(ledger: &State, drive: DriveId) -> bool {
    let legs = ledger.volumes.values().flat_map(|volume| volume.legs.values());
    legs.filter(|leg| leg.drive == drive).any(|leg| leg.run.is_some() || leg.state == LegState::InSync)
}

/// The drives that the ledger has of a node, and it has not any more. That one has the last good copy of a volume is in the way.
pub(super) fn lost(
    ledger: &State,
    name: &NodeName,
    fates: &[Fate],
    way: &mut InTheWay,
) -> BTreeMap<DriveId, DriveSerial> {
    let fate =
        |drive: &Drive| fates.iter().find(|fate| fate.node == *name && fate.drive.serial == drive.serial);
    let mut lost = BTreeMap::new();
    for (id, drive) in ledger.drives.iter().filter(|(_, drive)| is_named(ledger, drive.node, name)) {
        let is_lost = match fate(drive) {
            _ if drive.is_lost() => true,
            Some(fate) if fate.is_ours => false,
            // It was named, and whoever named it was interrupted: it is claimed now.
            Some(Fate { holds: Holds::Nothing {}, .. }) => is_used(ledger, *id),
            Some(Fate { holds: Holds::System {}, .. }) => {
                let what =
                    format!("drive {} of {name} is in use, and not as this cluster's {id}", drive.serial);
                way.others.push((what, "see what uses it; a node that has just started may need a moment"));
                false
            }
            // It is gone; or what holds something else may not be taken, which has been told, unless somebody said that it may.
            None | Some(_) => true,
        };
        if is_lost {
            lost.insert(*id, drive.serial.clone());
        }
    }
    for (drive, serial) in &lost {
        for id in volumes_on(ledger, *drive) {
            let Some(volume) = ledger.volumes.get(&id) else { continue };
            let good = |leg: &Leg| leg.state == LegState::InSync && !lost.contains_key(&leg.drive);
            let has_other = volume.legs.values().any(good);
            if volume.phase == Phase::Offline || !has_other {
                let what = format!(
                    "volume {} has no other copy that is surely good than on drive {serial}, and {name} has not got that as it was",
                    volume.name
                );
                let help = "put the drive back; if it is gone, `twinrack volume override` goes on with another copy and says what is lost, `twinrack volume delete` gives the volume up";
                way.others.push((what, help));
            }
        }
    }
    lost
}

/// The ledger as it will be: drives lost, those of the node taken, copies on their way. That they have no room is in the way.
pub(super) fn imagined(
    cluster: &Cluster,
    ledger: &State,
    lost: &BTreeMap<DriveId, DriveSerial>,
    drives: &BTreeMap<NodeName, Vec<PoolDrive>>,
    way: &mut InTheWay,
) {
    let help = "give the node drives as large, and as many, as it had";
    let mut before = ledger.clone();
    for (_, drive) in before.drives.iter_mut().filter(|(id, _)| lost.contains_key(id)) {
        (drive.health, drive.retired) = (Health::Lost, true);
    }
    let mut state = match express::imagined(&cluster.spec, drives, Some(&before)) {
        Ok(state) => state,
        Err(error) => return way.others.push((error.to_string(), help)),
    };
    have_room(&mut state, lost.keys(), help, way);
}

/// Moves copies of these drives elsewhere, in the ledger as it will be. That one has no room is in the way; what is closed moves when it is open.
pub(crate) fn have_room<'a>(
    state: &mut State,
    drives: impl Iterator<Item = &'a DriveId>,
    help: &'static str,
    way: &mut InTheWay,
) {
    for drive in drives {
        for id in volumes_on(state, *drive) {
            match next_of_move(state, id, *drive, None) {
                Ok(Move::Ask { command, .. }) => drop(state.apply(&command)),
                Ok(_) | Err(CantMove::NotOpen { .. }) => {}
                Err(error) => {
                    let volume = state.volumes.get(&id);
                    let name = volume.map_or_else(|| id.to_string(), |volume| volume.name.to_string());
                    way.others.push((format!("volume {name}: {}", chain(&error)), help));
                }
            }
        }
    }
}

/// What is changed about lost drives and copies.
pub(super) fn changes(ledger: &State, name: &NodeName, lost: &BTreeMap<DriveId, DriveSerial>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (drive, serial) in lost {
        let copies = volumes_on(ledger, *drive).len();
        let is_new = ledger.drives.get(drive).is_some_and(|found| !found.is_lost());
        if is_new {
            let what = format!("give drive {serial} up for lost, and {copies} copies of volumes with it");
            changes.push(Change { stage: Stage::Pool, of: name.to_string(), what, takes: true });
        }
        let legs = ledger.volumes.values().flat_map(|volume| volume.legs.values());
        let slabs: u64 = legs.filter(|leg| leg.drive == *drive).map(Leg::slabs).sum();
        let what = if copies == 0 {
            format!("take drive {serial} out of the pool")
        } else {
            let mib = (slabs * SLAB_BYTES) >> 20;
            format!(
                "make the {copies} copies of drive {serial} anew ({mib} MiB), and take it out of the pool"
            )
        };
        changes.push(Change { stage: Stage::Volumes, of: name.to_string(), what, takes: false });
    }
    changes
}

/// Has the ledger know that drives are gone for good. It is refused while an owner may still count on what is there.
pub(super) async fn give_up(
    cluster: &Cluster,
    name: &NodeName,
    lost: &BTreeMap<DriveId, DriveSerial>,
    recorder: &mut Recorder<'_>,
) -> Result<(), PoolError> {
    for (drive, serial) in lost {
        let step = async {
            let (contact, state) = pool::confirmed(&cluster.members, LEDGER_BOUND).await?;
            let is_new = state.drives.get(drive).is_some_and(|found| !found.is_lost());
            if is_new && is_there_after_all(cluster, name, *drive).await? {
                return Err(PoolError::Returned { serial: serial.clone() });
            }
            let command = Command::Cluster(ClusterCommand::DriveLost(*drive));
            let known = |state: &State| state.drives.get(drive).is_none_or(Drive::is_lost);
            let what = format!("drive {serial} to be given up");
            let is_new = settle(contact, &what, LEDGER_BOUND, &command, known).await?;
            Ok::<_, PoolError>(((), is_new.then(|| format!("drive {serial} was given up for lost"))))
        };
        recorder.step(format!("drive {serial} is lost"), step).await?;
    }
    Ok(())
}

/// Whether a node has a drive with its header, which it had not when it was looked at.
async fn is_there_after_all(cluster: &Cluster, name: &NodeName, drive: DriveId) -> Result<bool, PoolError> {
    let Some(member) = cluster.members.iter().find(|member| member.name == *name) else { return Ok(false) };
    let found = member.client.pool_drives().await?.drives;
    Ok(found
        .iter()
        .any(|found| matches!(&found.holds, Holds::Pool { drive: header, .. } if *header == drive)))
}

/// Makes the copies of drives that are lost, or leave with their node, on others, one after the other, while volumes are used, and takes the drives out of the pool.
pub(crate) async fn make_copies(
    cluster: &Cluster,
    lost: &BTreeMap<DriveId, DriveSerial>,
    recorder: &mut Recorder<'_>,
) -> Result<(), PoolError> {
    let members = &cluster.members;
    for (drive, serial) in lost {
        let (_, state) = pool::confirmed(members, LEDGER_BOUND).await?;
        let mut waits = BTreeSet::new();
        for id in volumes_on(&state, *drive) {
            let Some(volume) = state.volumes.get(&id) else { continue };
            let (name, patience) = (volume.name.clone(), copy_patience(&state, volume));
            if is_closed(volume) {
                waits.insert(name);
                continue;
            }
            let step = async {
                let to = match pool::move_copy(members, id, (*drive, None), patience).await {
                    // The cluster does that by itself, too.
                    Err(PoolError::CantMove(CantMove::NoCopy { .. })) => None,
                    moved => Some(moved?),
                };
                let on = to.map_or_else(String::new, |to| format!(" on {to}"));
                Ok::<_, PoolError>(((), Some(format!("a copy of volume {name} was made anew{on}"))))
            };
            recorder.step(format!("the copy of volume {name} that was on {serial}"), step).await?;
        }
        for name in &waits {
            recorder.note(format!(
                "volume {name} is not open, and has a copy less until it is; give the command again then, and drive {serial} leaves the pool"
            ));
        }
        if waits.is_empty() && state.drives.contains_key(drive) {
            let step = async {
                pool::remove_drive(members, *drive, LEDGER_BOUND).await?;
                Ok::<_, PoolError>(((), Some(format!("drive {serial} left the pool"))))
            };
            recorder.step(format!("drive {serial} out of the pool"), step).await?;
        }
    }
    Ok(())
}

/// Waits until copies on drives that the node has yet are in sync: what was written meanwhile is copied to them while volumes are used.
pub(super) async fn up_to_date(
    cluster: &Cluster,
    name: &NodeName,
    recorder: &mut Recorder<'_>,
) -> Result<(), PoolError> {
    let members = &cluster.members;
    let (_, state) = pool::confirmed(members, LEDGER_BOUND).await?;
    for (id, volume) in &state.volumes {
        if is_closed(volume) || !lags(&state, volume, name) {
            continue;
        }
        let mut patience = copy_patience(&state, volume);
        let step = async {
            loop {
                let Followed { state, rebuilds, .. } = pool::followed(members, LEDGER_BOUND).await?;
                patience.sees(state.volumes.get(id), &rebuilds);
                if state.volumes.get(id).is_none_or(|volume| !lags(&state, volume, name)) {
                    let did = format!("the copy of volume {} on {name} was brought up to date", volume.name);
                    return Ok::<_, PoolError>(((), Some(did)));
                }
                let what = || format!("the copy of volume {} on {name} to be in sync", volume.name);
                patience.is_left(what, None)?;
                sleep(POLL).await;
            }
        };
        recorder.step(format!("the copy of volume {} on {name} in sync", volume.name), step).await?;
    }
    Ok(())
}

/// Whether a volume has a copy on a node that is not in sync.
fn lags(state: &State, volume: &Volume, name: &NodeName) -> bool {
    let is_on = |leg: &Leg| state.node_of(leg).is_some_and(|node| is_named(state, node, name));
    volume.legs.values().any(|leg| leg.state != LegState::InSync && is_on(leg))
}

#[cfg(test)]
mod tests {
    use super::super::growth::tests::{TWO, deployed, said};
    use super::super::tests::{blank, cluster_of, ledger, spec_of};
    use super::super::{Aim, Look, Plan, plan};
    use super::*;
    use api::{Holds, NodeLedger};
    use control::state::{Base, Run};
    use model::{BootId, PowerCycles};
    use network::measure::Machines;

    const DEAD: &str = "b1";
    const GONE: LegState = LegState::Stale { base: Base::Changes, back: false };

    fn repaired(cluster: &Cluster, look: &Look) -> Result<Plan, InTheWay> {
        let wishes = Wishes { aim: Aim::Repair(DEAD.parse().unwrap()), ..Wishes::default() };
        plan(cluster, look, &wishes, Machines::Real)
    }

    /// A cluster of two racks of two, one of which has died: what was there is stale.
    fn without_one() -> (Cluster, Look) {
        let cluster = cluster_of(spec_of(TWO));
        let mut look = deployed(&cluster, 2);
        let (dead, fresh): (NodeName, _) = (DEAD.parse().unwrap(), blank(&cluster));
        let links = fresh.links.unwrap().into_iter().find(|(node, _)| *node == dead).unwrap().1;
        look.links.as_mut().unwrap().iter_mut().find(|(node, _)| *node == dead).unwrap().1 = links;
        look.ledgers.insert(dead.clone(), NodeLedger::None {});
        let state = ledger(&mut look);
        let id = *state.nodes.iter().find(|(_, node)| node.name == dead).unwrap().0;
        let its: Vec<DriveId> = state.drives_in(id).map(|(drive, _)| drive).collect();
        for leg in state.volumes.values_mut().flat_map(|volume| volume.legs.values_mut()) {
            leg.state = if its.contains(&leg.drive) { GONE } else { LegState::InSync };
            leg.run = Some(Run { boot: BootId(1), power_cycles: PowerCycles(1) });
        }
        (cluster, look)
    }

    fn empty(look: &mut Look, node: &str) {
        for drive in look.contents.get_mut(&node.parse::<NodeName>().unwrap()).unwrap() {
            if matches!(drive.holds, Holds::Pool { .. }) {
                drive.holds = Holds::Nothing {};
            }
        }
    }

    #[test]
    fn a_blank_machine_gets_links_a_ledger_and_drives_and_copies_are_made_anew() {
        let (cluster, mut look) = without_one();
        empty(&mut look, DEAD);
        let plan = repaired(&cluster, &look).unwrap();
        insta::assert_snapshot!(said(&plan));
        assert_eq!(plan.lost.len(), 2);
        assert!(!plan.serving.contains(&DEAD.parse::<NodeName>().unwrap()));
    }

    #[test]
    fn one_that_has_its_drives_loses_nothing() {
        let (cluster, look) = without_one();
        let plan = repaired(&cluster, &look).unwrap();
        assert!(plan.lost.is_empty() && plan.changes.iter().all(|change| !change.takes), "{}", said(&plan));
        assert!(said(&plan).contains("b1: join the ledger"), "{}", said(&plan));
    }

    #[test]
    fn a_deployment_says_what_repairs_it_and_other_nodes_are_not_repaired_beside() {
        let (cluster, mut look) = without_one();
        let unasked = plan(&cluster, &look, &Wishes::default(), Machines::Real).unwrap_err().to_string();
        assert!(unasked.contains("b1 is in the ledger, and has none itself"), "{unasked}");
        assert!(unasked.contains("`twinrack node repair`"), "{unasked}");
        look.ledgers.insert("a2".parse().unwrap(), NodeLedger::None {});
        let refused = repaired(&cluster, &look).unwrap_err().to_string();
        assert!(refused.contains("a2 is in the ledger, and has none itself"), "{refused}");
        assert!(!refused.contains("b1 is in the ledger"), "{refused}");
    }

    /// It is only repaired to leave in order.
    #[test]
    fn a_node_that_leaves_gets_no_drives() {
        let cluster = cluster_of(spec_of(super::super::tests::THREE));
        let mut look = deployed(&cluster, 3);
        let state = ledger(&mut look);
        let leave = |node: &control::state::Node| ["a1", DEAD].contains(&node.name.as_str());
        let nodes = state.nodes.iter().filter(|(_, node)| leave(node)).map(|(id, _)| *id).collect();
        state.apply(&Command::Cluster(ClusterCommand::NodesLeave { nodes })).unwrap();
        for leg in state.volumes.values_mut().flat_map(|volume| volume.legs.values_mut()) {
            leg.state = LegState::InSync;
        }
        look.ledgers.insert(DEAD.parse().unwrap(), NodeLedger::None {});
        empty(&mut look, DEAD);
        let plan = repaired(&cluster, &look).unwrap();
        assert_eq!(plan.lost.len(), 2);
        assert!(plan.drives.get(&DEAD.parse::<NodeName>().unwrap()).is_none_or(BTreeSet::is_empty));
    }

    /// Whoever looks leaves those out; the ledger knows them until somebody goes on with their removal, which needs the one that is repaired.
    #[test]
    fn one_is_repaired_while_others_have_left() {
        let all = cluster_of(spec_of(super::super::tests::THREE));
        let mut look = deployed(&all, 3);
        let pair = ["a3", "b3"].map(|name| name.parse::<NodeName>().unwrap());
        let state = ledger(&mut look);
        let leave = state.nodes.iter().filter(|(_, node)| pair.contains(&node.name)).map(|(id, _)| *id);
        crate::removal::tests::have_left(state, &leave.collect());
        for leg in state.volumes.values_mut().flat_map(|volume| volume.legs.values_mut()) {
            leg.state = LegState::InSync;
        }
        look.ledgers.insert(DEAD.parse().unwrap(), NodeLedger::None {});
        let stay = all.without(&pair.iter().cloned().collect());
        look.ledgers.retain(|name, _| !pair.contains(name));
        look.contents.retain(|name, _| !pair.contains(name));
        look.links.as_mut().unwrap().retain(|(name, _)| !pair.contains(name));
        assert!(said(&repaired(&stay, &look).unwrap()).contains("b1: join the ledger"));
    }

    #[test]
    fn the_last_good_copy_is_not_given_up() {
        let (cluster, mut look) = without_one();
        empty(&mut look, DEAD);
        let state = ledger(&mut look);
        let id = *state.nodes.iter().find(|(_, node)| node.name.as_str() == DEAD).unwrap().0;
        let its: Vec<DriveId> = state.drives_in(id).map(|(drive, _)| drive).collect();
        let (_, volume) = state
            .volumes
            .iter_mut()
            .find(|(_, volume)| volume.legs.values().any(|leg| its.contains(&leg.drive)))
            .unwrap();
        for leg in volume.legs.values_mut() {
            leg.state = if its.contains(&leg.drive) { LegState::InSync } else { GONE };
        }
        volume.phase = Phase::Closed;
        let name = volume.name.clone();
        let refused = repaired(&cluster, &look).unwrap_err().to_string();
        assert!(refused.contains(&format!("volume {name} has no other copy")), "{refused}");
    }

    #[test]
    fn one_that_was_interrupted_goes_on_with_drives_that_are_given_up_and_ends() {
        let (cluster, mut look) = without_one();
        empty(&mut look, DEAD);
        let first = repaired(&cluster, &look).unwrap();
        for drive in first.lost.keys() {
            let lost = Command::Cluster(ClusterCommand::DriveLost(*drive));
            ledger(&mut look).apply(&lost).unwrap();
        }
        let again = repaired(&cluster, &look).unwrap();
        assert_eq!(again.lost, first.lost);
        assert!(again.changes.iter().all(|change| !change.takes), "{}", said(&again));
    }

    /// Whoever repaired it was killed between naming its new drive and claiming it, and the cluster has begun to move a copy there.
    #[test]
    fn a_drive_that_was_named_and_not_claimed_yet_is_not_lost() {
        let (cluster, mut look) = without_one();
        empty(&mut look, DEAD);
        let first = repaired(&cluster, &look).unwrap();
        let state = ledger(&mut look);
        for (drive, serial) in &first.lost {
            let Drive { node, size_bytes, cache, .. } = state.drives[drive].clone();
            state.apply(&Command::Cluster(ClusterCommand::DriveLost(*drive))).unwrap();
            let (serial, power_cycles) = (serial.clone(), PowerCycles(0));
            let add = ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles };
            state.apply(&Command::Cluster(add)).unwrap();
        }
        for drive in first.lost.keys() {
            for id in volumes_on(state, *drive) {
                let Ok(Move::Ask { command, .. }) = next_of_move(state, id, *drive, None) else { continue };
                state.apply(&command).unwrap();
            }
        }
        assert_eq!(repaired(&cluster, &look).unwrap().lost, first.lost);
    }

    /// Its new id gets the volume with the drives; without them that is the last good copy as any other.
    #[test]
    fn a_node_that_alone_has_what_was_open_there_is_repaired_with_its_drives_and_refused_without() {
        let (cluster, mut look) = without_one();
        let state = ledger(&mut look);
        let id = *state.nodes.iter().find(|(_, node)| node.name.as_str() == DEAD).unwrap().0;
        let its: Vec<DriveId> = state.drives_in(id).map(|(drive, _)| drive).collect();
        let volume = state.volumes.values_mut().next().unwrap();
        volume.owner = id;
        for leg in volume.legs.values_mut() {
            leg.state = if its.contains(&leg.drive) { LegState::InSync } else { GONE };
        }
        let name = volume.name.clone();
        assert_eq!(repaired(&cluster, &look).unwrap().lost, BTreeMap::new());
        empty(&mut look, DEAD);
        let refused = repaired(&cluster, &look).unwrap_err().to_string();
        assert!(refused.contains(&format!("volume {name} has no other copy")), "{refused}");
    }

    #[test]
    fn a_drive_that_something_uses_is_not_lost() {
        let (cluster, mut look) = without_one();
        for drive in look.contents.get_mut(&DEAD.parse::<NodeName>().unwrap()).unwrap() {
            drive.holds = Holds::System {};
        }
        let refused = repaired(&cluster, &look).unwrap_err().to_string();
        assert!(refused.contains("b1-1 of b1 is in use, and not as this cluster's"), "{refused}");
    }

    /// Whoever repaired it was killed when it had its new id, and had not come under that.
    #[test]
    fn one_that_was_invited_and_has_not_joined_is_repaired_all_the_same() {
        let (cluster, mut look) = without_one();
        let state = ledger(&mut look);
        let lost = *state.nodes.iter().find(|(_, node)| node.name.as_str() == DEAD).unwrap().0;
        let heir = *state.nodes.keys().find(|node| **node != lost).unwrap();
        state
            .volumes
            .values_mut()
            .filter(|volume| volume.owner == lost)
            .for_each(|volume| volume.owner = heir);
        state.apply(&Command::Cluster(ClusterCommand::ReplaceNode { lost })).unwrap();
        assert!(said(&repaired(&cluster, &look).unwrap()).contains("b1: join the ledger"));
    }

    #[test]
    fn what_is_none_of_the_clusters_is_not_repaired() {
        let (cluster, look) = without_one();
        let wishes = Wishes { aim: Aim::Repair("c9".parse().unwrap()), ..Wishes::default() };
        let refused = plan(&cluster, &look, &wishes, Machines::Real).unwrap_err().to_string();
        assert!(refused.contains("the template has no node c9"), "{refused}");
        let refused = repaired(&cluster, &blank(&cluster)).unwrap_err().to_string();
        assert!(refused.contains("there is no cluster to repair a node of"), "{refused}");
    }
}
