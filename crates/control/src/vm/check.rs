//! What must hold of virtual machines in every state of the ledger, and in every step.

use super::{Seat, Vm, VmPhase};
use crate::state::State;
use model::{NodeId, VmId, VolumeId};
use std::collections::BTreeMap;

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A disk is there, and nobody else's.
    #[error("{0} is a disk of two virtual machines, or is not there")]
    Disk(VolumeId),
    /// A seat is of a generation that was given out, on a node with a rack; of two, the later one is where it goes.
    #[error("{0} has a seat that it can't have")]
    Seat(VmId),
    /// Whoever runs has seen all others go.
    #[error("{0} runs, and an earlier run may go on on {1}")]
    MayStillRun(VmId, NodeId),
    /// Ids are below what was given out.
    #[error("{0} was not given out")]
    Minted(VmId),
    /// Generations only grow.
    #[error("the generation of {0} went back")]
    WentBack(VmId),
    /// Another seat is of another generation.
    #[error("{0} is on two nodes in one generation")]
    TwoSeats(VmId),
    /// What runs goes elsewhere only together with all its volumes.
    #[error("{0} has moved, and not all its volumes with it")]
    WithoutVolumes(VmId),
    /// What was saved is kept by who may be restored, and by nobody else.
    #[error("what was saved of {0} is missing, or is kept by one that has gone on")]
    Saved(VmId),
    /// A strict one is put nowhere but in its home zone.
    #[error("{0} was put on {1}, outside the zone that it never leaves")]
    OutsideZone(VmId, NodeId),
}

/// Everything that does not hold of a state.
pub fn check(state: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    let mut disks: BTreeMap<VolumeId, VmId> = BTreeMap::new();
    for (id, vm) in &state.vms.all {
        for volume in &vm.spec.volumes {
            if disks.insert(*volume, *id).is_some() || !state.volumes.contains_key(volume) {
                broken.push(Broken::Disk(*volume));
            }
        }
        if *id > state.vms.minted {
            broken.push(Broken::Minted(*id));
        }
        if !seats_are_sound(state, vm) {
            broken.push(Broken::Seat(*id));
        }
        let keeps = matches!(vm.phase, VmPhase::Saved | VmPhase::Restoring { .. });
        let earlier = match vm.phase {
            VmPhase::Restoring { at } => vm.saved < Some(at.generation),
            _ => vm.saved <= Some(vm.generation),
        };
        if keeps != vm.saved.is_some() || !earlier {
            broken.push(Broken::Saved(*id));
        }
        let begun = matches!(
            vm.phase,
            VmPhase::Running { .. }
                | VmPhase::Saving { .. }
                | VmPhase::Migrating { .. }
                | VmPhase::Landing { .. }
        );
        broken.extend(vm.yielding.keys().filter(|_| begun).map(|node| Broken::MayStillRun(*id, *node)));
    }
    broken
}

fn seats_are_sound(state: &State, vm: &Vm) -> bool {
    let sound = |seat: &Seat| {
        let host = state.nodes.get(&seat.node);
        seat.generation <= vm.generation && host.is_some_and(|node| node.zone.is_some())
    };
    let later = match vm.phase {
        VmPhase::Migrating { from, to: at, .. } | VmPhase::Landing { from, at } => {
            from.generation < at.generation && from.node != at.node
        }
        _ => true,
    };
    later && vm.phase.seat().iter().chain(&vm.phase.other_seat()).all(sound)
}

/// Everything that does not hold of a step.
pub fn check_step(before: &State, after: &State) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (id, new) in &after.vms.all {
        let Some(old) = before.vms.all.get(id) else {
            if *id <= before.vms.minted {
                broken.push(Broken::Minted(*id));
            }
            continue;
        };
        if new.generation < old.generation {
            broken.push(Broken::WentBack(*id));
        }
        let seats = |vm: &Vm| vm.phase.seat().into_iter().chain(vm.phase.other_seat()).collect::<Vec<_>>();
        for seat in seats(new) {
            let known = seats(old);
            let other = known.iter().any(|was| was.generation == seat.generation && *was != seat);
            let anew = seat.generation <= old.generation && !known.contains(&seat);
            if other || anew {
                broken.push(Broken::TwoSeats(*id));
            }
            let strict = new.spec.placement.home().filter(|_| new.spec.placement.is_strict());
            let zone = after.nodes.get(&seat.node).and_then(|node| node.zone.as_ref());
            if strict.is_some() && strict != zone && seat.generation > old.generation {
                broken.push(Broken::OutsideZone(*id, seat.node));
            }
        }
        let (from, to) = (old.phase.seat(), new.phase.seat());
        if let (Some(from), Some(to)) = (from, to)
            && from.node != to.node
            && !moved_with_volumes(before, after, new, to.node)
        {
            broken.push(Broken::WithoutVolumes(*id));
        }
    }
    broken
}

fn moved_with_volumes(before: &State, after: &State, vm: &Vm, to: NodeId) -> bool {
    vm.spec.volumes.iter().all(|id| match (before.volumes.get(id), after.volumes.get(id)) {
        (Some(old), Some(new)) => new.epoch > old.epoch && new.owner == to,
        _ => false,
    })
}
