//! What must hold of every state of the ledger, and of every step from one to the next.
//!
//! One function each, used by all tests, the model check and the simulation: [`check`] and [`check_step`].

use crate::state::{Cache, Drive, Leg, LegState, Phase, Run, State, Volume};
use model::{
    CHUNK_BYTES, DriveId, Epoch, Extent, Geometry, LegId, NodeId, Provision, SLAB_BYTES, SLABS_OFFSET_BYTES,
    Sizes, VolumeId,
};
use std::collections::BTreeSet;

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A volume that is not offline has a leg with every acknowledged write; one that is has none.
    #[error("{0} has no in-sync leg and is not offline, or has one and is")]
    InSyncLegs(VolumeId),
    /// Only in-sync legs are confirmed.
    #[error("{0}: {1} is confirmed and not in sync")]
    Confirmed(VolumeId, LegId),
    /// Only an open volume is rebuilt.
    #[error("{0}: {1} is rebuilt and the volume is not open")]
    Rebuilding(VolumeId, LegId),
    /// Legs are on drives of the pool, each on its own.
    #[error("{0}: the drive of {1} is not its own")]
    Drives(VolumeId, LegId),
    /// A leg in sync replaces nothing, and has had everything; what is replaced is there.
    #[error("{0}: {1} replaces what it may not")]
    Replaces(VolumeId, LegId),
    /// The owner is a node with drives; the virtual machine runs there.
    #[error("{0}: its owner is none, or runs elsewhere")]
    Owner(VolumeId),
    /// Nobody is let in while users of a former owner may run.
    #[error("{0} may be open, and users of a former owner may run")]
    Yielding(VolumeId),
    /// Ids are below what was given out.
    #[error("an id was used that was not given out")]
    Minted,
    /// Voters are nodes of this ledger, and odd.
    #[error("the voters are no set of voters")]
    Voters,
    /// What is dissolved holds nothing.
    #[error("the cluster is dissolved and holds something")]
    Dissolved,
    /// One that leaves is no witness, its drives are retired, it takes no virtual machines, and that is never taken back; once it has no vote it gets none.
    #[error("{0} leaves, and that is not kept")]
    Leaving(NodeId),
    /// Epochs, incarnations, map sequences, sizes and generations only grow.
    #[error("{0} went back")]
    WentBack(String),
    /// A leg is in sync again only under a new incarnation, or by an override in a new epoch.
    #[error("{0}: {1} is in sync again by itself")]
    InSyncByItself(VolumeId, LegId),
    /// Within an epoch a leg is known in another run only when it was given out anew; as it is, only if it is the last in sync, the owner's own, in the
    /// owner's boot, on a drive that forgets nothing.
    #[error("{0}: {1} is of another run by itself")]
    OtherRun(VolumeId, LegId),
    /// In one epoch a volume has one owner.
    #[error("{0} has two owners in epoch {1}")]
    TwoOwners(VolumeId, Epoch),
    /// A slab belongs to one leg, one that is leaving included.
    #[error("slab {1} of {0} belongs to two legs")]
    SharedSlab(DriveId, u64),
    /// Slabs are on the drive.
    #[error("{0} has not all slabs that are given out")]
    OffTheDrive(DriveId),
    /// A leg has room for its metadata and its data, or what is mapped of it.
    #[error("{0}: {1} has too few slabs for the volume's size")]
    TooFewSlabs(VolumeId, LegId),
    /// What users' writes go to is mapped, all of the volume's size.
    #[error("{0}: {1} counts and has not all slabs of the volume's size laid")]
    NotLaid(VolumeId, LegId),
    /// A volume grows to more than it has, within its room, and only until all that count are laid.
    #[error("{0} grows to what it can't, or has grown and does not know")]
    Growing(VolumeId),
    /// An extent of a thin volume is mapped once, is one that users see, and stays where it is; the first is the first.
    #[error("the table of {0} maps what it may not, or no longer what it did")]
    Mapped(VolumeId),
    /// A leg is on the drive and the slabs on which it began, as long as it is there.
    #[error("{0}: the slabs of {1} are others than they were")]
    Moved(VolumeId, LegId),
    /// Of a virtual machine.
    #[error(transparent)]
    Vm(#[from] crate::vm::check::Broken),
    /// A slab goes from a leg to nobody only by way of leaving, and never to another leg at once.
    #[error("slab {1} of {0} was taken from a leg that may still be written")]
    TakenAway(DriveId, u64),
}

/// Everything that does not hold of a state.
pub fn check(state: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (id, volume) in &state.volumes {
        check_volume(state, *id, volume, &mut broken);
    }
    let nodes = state.nodes.keys().all(|id| *id <= state.minted.node);
    let drives = state.drives.keys().all(|id| *id <= state.minted.drive);
    let volumes = state.volumes.keys().all(|id| *id <= state.minted.volume);
    if !(nodes && drives && volumes) {
        broken.push(Broken::Minted);
    }
    check_slabs(state, &mut broken);
    broken.extend(crate::vm::check::check(state).into_iter().map(Broken::Vm));
    let voters = state.voters.present();
    let known = voters.iter().all(|id| state.is_member(*id));
    if !known || (!voters.is_empty() && voters.len().is_multiple_of(2)) {
        broken.push(Broken::Voters);
    }
    for (id, node) in state.leaving() {
        let mut own = state.drives.values().filter(|drive| drive.node == id);
        if node.zone.is_none() || !own.all(|drive| drive.retired) || !state.vms.draining.contains_key(&id) {
            broken.push(Broken::Leaving(id));
        }
    }
    let holds = !(state.volumes.is_empty() && state.drives.is_empty() && state.vms.all.is_empty());
    if state.dissolved && holds {
        broken.push(Broken::Dissolved);
    }
    broken
}

/// Whose a slab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Leg(VolumeId, LegId),
    Leaving(VolumeId, LegId),
}

/// Who holds what, in ascending order. (What belongs to a drive that the pool has not is told by [`Broken::Drives`].)
fn holders(state: &State) -> Vec<(DriveId, Extent, Holder)> {
    let mut all = Vec::new();
    for (volume, found) in &state.volumes {
        for (leg, found) in &found.legs {
            let own = found.extents.iter().map(|extent| (found.drive, *extent, Holder::Leg(*volume, *leg)));
            all.extend(own);
        }
    }
    for (drive, found) in &state.drives {
        for gone in &found.leaving {
            let holder = Holder::Leaving(gone.volume, gone.leg);
            all.extend(gone.extents.iter().map(|extent| (*drive, *extent, holder)));
        }
    }
    all.sort_unstable_by_key(|(drive, extent, _)| (*drive, *extent));
    all
}

fn check_slabs(state: &State, broken: &mut Vec<Broken>) {
    let held = holders(state);
    for pair in held.windows(2) {
        if let [(drive, one, _), (other, next, _)] = pair
            && drive == other
            && next.first < one.end()
        {
            broken.push(Broken::SharedSlab(*drive, next.first));
        }
    }
    for (id, drive) in &state.drives {
        // The drive's own header is before its slabs.
        let end = |extent: &Extent| SLABS_OFFSET_BYTES + extent.end() * SLAB_BYTES;
        let off = |extent: &Extent| extent.count == 0 || end(extent) > drive.size_bytes;
        if held.iter().any(|(on, extent, _)| on == id && off(extent)) {
            broken.push(Broken::OffTheDrive(*id));
        }
    }
    for (id, volume) in &state.volumes {
        let needed = leg_bytes(volume, volume.array_to_be());
        for (leg, found) in &volume.legs {
            let has: u64 = found.extents.iter().map(|extent| extent.count * SLAB_BYTES).sum();
            if has < needed {
                broken.push(Broken::TooFewSlabs(*id, *leg));
            }
        }
        check_laid(*id, volume, broken);
        check_mapped(*id, volume, broken);
    }
}

fn check_mapped(id: VolumeId, volume: &Volume, broken: &mut Vec<Broken>) {
    let all: Vec<u64> = volume.mapped.extents().chain(volume.mapping.iter().copied()).collect();
    let once: BTreeSet<u64> = all.iter().copied().collect();
    let fine = match volume.provision {
        Provision::Fixed => all.is_empty(),
        Provision::Thin => {
            let seen = |extent: &u64| extent.checked_mul(SLAB_BYTES).is_some_and(|at| at < volume.size_bytes);
            all.first() == Some(&0)
                && once.len() == all.len()
                && all.iter().all(seen)
                && volume.growing.is_none()
        }
    };
    if !fine {
        broken.push(Broken::Mapped(id));
    }
}

/// What a leg of a volume takes on its drive when its array has this size, bytes.
fn leg_bytes(volume: &Volume, data_bytes: u64) -> u64 {
    let sizes = Sizes { data_bytes, room_bytes: volume.room_bytes, chunk_bytes: CHUNK_BYTES };
    Geometry::new(sizes).map_or(u64::MAX, |geometry| geometry.backed_bytes())
}

fn check_laid(id: VolumeId, volume: &Volume, broken: &mut Vec<Broken>) {
    let has = |leg: &Leg, bytes| {
        let laid = leg.extents.iter().map(|extent| extent.count).sum::<u64>().checked_sub(leg.to_lay);
        laid.is_some_and(|laid| laid * SLAB_BYTES >= bytes)
    };
    // One that an operator declared good is laid before it is confirmed.
    let declared = |id: &LegId, leg: &Leg| match &volume.phase {
        Phase::Fencing { confirmed } => leg.run.is_none() && !confirmed.contains_key(id),
        _ => false,
    };
    let counts = |leg: &Leg| matches!(leg.state, LegState::InSync | LegState::Rebuilding { .. });
    let needed = leg_bytes(volume, volume.array_bytes());
    for (leg_id, leg) in volume.legs.iter().filter(|(_, leg)| counts(leg)) {
        if !has(leg, needed) && !declared(leg_id, leg) {
            broken.push(Broken::NotLaid(id, *leg_id));
        }
    }
    let (has_bytes, to_bytes) = (volume.array_bytes(), volume.array_to_be());
    if volume.growing.is_some() || !volume.mapping.is_empty() {
        let needed = leg_bytes(volume, to_bytes);
        let all = volume.legs.values().filter(|leg| counts(leg)).all(|leg| has(leg, needed));
        let waits = volume.phase == Phase::Offline || !all;
        if to_bytes <= has_bytes || to_bytes > volume.room_bytes || !waits {
            broken.push(Broken::Growing(id));
        }
    }
}

fn check_volume(state: &State, id: VolumeId, volume: &Volume, broken: &mut Vec<Broken>) {
    let in_sync = volume.in_sync().next().is_some();
    if in_sync == (volume.phase == Phase::Offline) {
        broken.push(Broken::InSyncLegs(id));
    }
    if let Phase::Fencing { confirmed } = &volume.phase {
        let wrong = |leg: &&LegId| volume.legs.get(leg).is_none_or(|leg| leg.state != LegState::InSync);
        broken.extend(confirmed.keys().filter(wrong).map(|leg| Broken::Confirmed(id, *leg)));
    }
    let mut drives = BTreeSet::new();
    for (leg_id, leg) in &volume.legs {
        let open = matches!(volume.phase, Phase::Open { .. });
        if matches!(leg.state, LegState::Rebuilding { .. }) && !open {
            broken.push(Broken::Rebuilding(id, *leg_id));
        }
        if !state.drives.contains_key(&leg.drive) || !drives.insert(leg.drive) {
            broken.push(Broken::Drives(id, *leg_id));
        }
        if *leg_id > volume.leg_minted {
            broken.push(Broken::Minted);
        }
        let replaces_nothing =
            leg.replaces.is_none_or(|old| old != *leg_id && volume.legs.contains_key(&old));
        let is_whole = leg.replaces.is_none() && leg.held_all;
        if !replaces_nothing || (leg.state == LegState::InSync && !is_whole) {
            broken.push(Broken::Replaces(id, *leg_id));
        }
    }
    let may_be_used = matches!(volume.phase, Phase::Open { .. } | Phase::Closed);
    if may_be_used && !volume.yielding.is_empty() {
        broken.push(Broken::Yielding(id));
    }
    let storage = state.nodes.get(&volume.owner).is_some_and(|node| node.zone.is_some());
    let gone = matches!(volume.phase, Phase::Closed);
    let elsewhere = volume.running.is_some_and(|node| node != volume.owner);
    if !(storage || gone) || elsewhere {
        broken.push(Broken::Owner(id));
    }
}

/// Everything that does not hold of a step.
pub fn check_step(before: &State, after: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    let generation = |state: &State| state.spec.as_ref().map_or(0, |spec| spec.generation);
    if after.incarnation < before.incarnation || generation(after) < generation(before) {
        broken.push(Broken::WentBack("the ledger's incarnation or generation".to_owned()));
    }
    for (id, _) in before.leaving().filter(|(id, _)| after.nodes.contains_key(id)) {
        // A forced quorum goes on with whoever is left.
        let votes_again =
            after.may_vote(id) && !before.may_vote(id) && after.incarnation == before.incarnation;
        if !after.leaves(id) || votes_again {
            broken.push(Broken::Leaving(id));
        }
    }
    for (id, new) in &after.volumes {
        let Some(old) = before.volumes.get(id) else {
            if *id <= before.minted.volume {
                broken.push(Broken::Minted);
            }
            continue;
        };
        if new.epoch < old.epoch || new.map_sequence < old.map_sequence || new.size_bytes < old.size_bytes {
            broken.push(Broken::WentBack(id.to_string()));
        }
        if new.mapped.first(old.array_bytes()) != old.mapped && old.provision == Provision::Thin {
            broken.push(Broken::Mapped(*id));
        }
        if new.epoch == old.epoch && new.owner != old.owner {
            broken.push(Broken::TwoOwners(*id, new.epoch));
        }
        check_legs(*id, old, new, &mut broken);
        check_runs(after, *id, old, new, &mut broken);
    }
    check_taken(before, after, &mut broken);
    broken.extend(crate::vm::check::check_step(before, after).into_iter().map(Broken::Vm));
    broken
}

/// What held a slab holds it still, or is leaving, or left long enough ago.
fn check_taken(before: &State, after: &State, broken: &mut Vec<Broken>) {
    let now = holders(after);
    // A drive that has left the pool has no slabs.
    for (drive, extent, was) in holders(before).into_iter().filter(|old| after.drives.contains_key(&old.0)) {
        for slab in extent.first..extent.end() {
            let on_it = |(on, extent, _): &&(DriveId, Extent, Holder)| {
                *on == drive && (extent.first..extent.end()).contains(&slab)
            };
            let is = now.iter().find(on_it).map(|(_, _, holder)| *holder);
            let fine = match was {
                Holder::Leg(volume, leg) => is == Some(was) || is == Some(Holder::Leaving(volume, leg)),
                Holder::Leaving(..) => is == Some(was) || is.is_none(),
            };
            if !fine {
                broken.push(Broken::TakenAway(drive, slab));
            }
        }
    }
}

/// (An activation, which is of an epoch that nothing was given out in, says the run in which each leg was confirmed.)
fn check_runs(after: &State, id: VolumeId, old: &Volume, new: &Volume, broken: &mut Vec<Broken>) {
    if new.epoch != old.epoch || old.activated().is_none() {
        return;
    }
    for (leg_id, leg) in &new.legs {
        let same = |was: &&Leg| was.incarnation == leg.incarnation && was.run != leg.run;
        let Some(was) = old.legs.get(leg_id).filter(same) else { continue };
        let sure = |drive: &Drive| drive.cache == Cache::Safe && drive.node == new.owner;
        let own = after.drives.get(&leg.drive).is_some_and(sure);
        let boot = |run: Option<Run>| run.map(|run| run.boot);
        let last = |volume: &Volume| volume.in_sync().map(|(id, _)| id).eq([*leg_id]);
        let stayed =
            last(old) && last(new) && boot(was.run) == boot(leg.run) && boot(leg.run) == new.activated();
        if !(own && stayed && after.same_run(leg)) {
            broken.push(Broken::OtherRun(id, *leg_id));
        }
    }
}

fn check_legs(id: VolumeId, old: &Volume, new: &Volume, broken: &mut Vec<Broken>) {
    for (leg_id, leg) in &new.legs {
        let Some(was) = old.legs.get(leg_id) else {
            if *leg_id <= old.leg_minted {
                broken.push(Broken::Minted);
            }
            continue;
        };
        let begins = leg.extents.iter().zip(&was.extents).all(|(new, old)| new.first == old.first);
        let laid = leg.laid_slabs() >= was.laid_slabs();
        if leg.drive != was.drive || leg.extents.len() < was.extents.len() || !begins || !laid {
            broken.push(Broken::Moved(id, *leg_id));
        }
        if leg.incarnation < was.incarnation {
            broken.push(Broken::WentBack(format!("{id}, {leg_id}")));
        }
        let again = leg.state == LegState::InSync && was.state != LegState::InSync;
        let rebuilt = matches!(was.state, LegState::Rebuilding { .. }) && new.epoch == old.epoch;
        if again && !rebuilt && new.epoch == old.epoch {
            broken.push(Broken::InSyncByItself(id, *leg_id));
        }
        let lost = was.state == LegState::InSync && leg.state != LegState::InSync;
        if lost && leg.incarnation != was.incarnation {
            broken.push(Broken::WentBack(format!("{id}, {leg_id}: lost and given out anew at once")));
        }
    }
}
