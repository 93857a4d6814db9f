//! The ledger in `placement`'s words: who may run where, whether one more fits, who is in a drain's way.
//!
//! What migrates holds memory on both nodes. The planner knows one place of each, so the other is held by a stand-in that stays where it is: [`is_stand_in`].

use super::{Leftover, Vm, VmPhase, Wanted};
use crate::state::State;
use model::{NodeId, VmId, VmPlacement, VmSpec, ZoneName};
use placement::vm::{Cluster, Drain, Drained, Node, NodeState, NotAdmitted, NotDrained, Now, Vms};
use std::collections::BTreeSet;

/// The first id that is never a virtual machine's.
const STAND_INS: u32 = 1 << 31;

/// Whether an id of a plan only holds what a migration takes at its destination.
pub fn is_stand_in(id: VmId) -> bool {
    id.0 >= STAND_INS
}

/// What virtual machines run on. `live`: which nodes take part now. Zones that are not held down are ready.
pub fn cluster(ledger: &State, live: impl Fn(NodeId) -> bool) -> Cluster {
    let node = |(id, node): (&NodeId, &crate::state::Node)| {
        let room = ledger.vms.rooms.get(id).copied();
        let state = match ledger.vms.draining.contains_key(id) {
            _ if !live(*id) => NodeState::Down,
            true => NodeState::Draining,
            false => NodeState::Up,
        };
        let (memory_bytes, cores) =
            (room.map_or(0, |room| room.memory_bytes), room.map_or(0, |room| room.cores));
        Some((*id, Node { zone: node.zone.clone()?, memory_bytes, cores, state }))
    };
    let zones: BTreeSet<ZoneName> = ledger.nodes.values().filter_map(|node| node.zone.clone()).collect();
    let legs = |id| {
        let legs = ledger.volumes.get(id).into_iter().flat_map(|volume| volume.legs.values());
        legs.filter_map(|leg| ledger.node_of(leg)).collect::<BTreeSet<_>>()
    };
    let disks = ledger.vms.all.values().flat_map(|vm| &vm.spec.volumes);
    Cluster {
        nodes: ledger.nodes.iter().filter_map(node).collect(),
        cores_percent: ledger.vms.policy.cores_percent,
        ready: zones.difference(&ledger.vms.held_down).cloned().collect(),
        legs: disks.map(|id| (*id, legs(id))).collect(),
    }
}

/// Those that shall run, and those that still hold memory somewhere.
pub fn vms(ledger: &State) -> Vms {
    let mut vms = Vms::new();
    for (id, vm) in &ledger.vms.all {
        if vm.wanted == Wanted::Running || vm.phase.seat().is_some() {
            vms.insert(*id, asked(vm));
        }
        if let Some(seat) = vm.phase.other_seat() {
            let spec = VmSpec { placement: VmPlacement::Anywhere, anti_affinity: None, ..vm.spec.clone() };
            let now = Now::Runs(seat.node);
            vms.insert(VmId(STAND_INS + id.0), placement::vm::Vm { spec, now, avoids: None });
        }
    }
    vms
}

fn asked(vm: &Vm) -> placement::vm::Vm {
    let now = match vm.phase {
        VmPhase::Off | VmPhase::Saved => Now::Off(vm.last),
        _ => vm.phase.seat().map_or(Now::Off(vm.last), |seat| Now::Runs(seat.node)),
    };
    placement::vm::Vm { spec: vm.spec.clone(), now, avoids: vm.avoids }
}

/// Whether one more may be made: with either rack lost all run that there are, wanted or not, but those that are strict in that rack.
pub fn admit(ledger: &State, spec: &VmSpec) -> Result<(), NotAdmitted> {
    let all = ledger.vms.all.iter().map(|(id, vm)| (*id, asked(vm))).collect();
    placement::vm::admit(&cluster(ledger, |_| true), &all, ledger.vms.minted.next(), spec)
}

/// Whether one may be placed otherwise: with either rack lost nobody is off who would have run before.
pub fn admit_placement(ledger: &State, id: VmId, placement: &VmPlacement) -> Result<(), NotAdmitted> {
    let all = ledger.vms.all.iter().map(|(id, vm)| (*id, asked(vm))).collect();
    placement::vm::admit_placement(&cluster(ledger, |_| true), &all, id, placement)
}

/// What emptying a node or a rack would do, or who is in the way. Whatever it does is only what the decider will do by itself.
pub fn drain(
    ledger: &State,
    live: impl Fn(NodeId) -> bool,
    what: &Drained,
    leftover: Leftover,
) -> Result<Drain, NotDrained> {
    let leftover = match leftover {
        Leftover::Stays => placement::vm::Leftover::Refuse,
        Leftover::Saved => placement::vm::Leftover::Save,
    };
    let cluster = cluster(ledger, live);
    // A migration to what is emptied is cancelled.
    let emptied = |node: &NodeId| match what {
        Drained::Node(id) => node == id,
        Drained::Nodes(ids) => ids.contains(node),
        Drained::Rack(zone) => cluster.nodes.get(node).is_some_and(|found| found.zone == *zone),
    };
    let mut vms = vms(ledger);
    vms.retain(|id, vm| !is_stand_in(*id) || !matches!(&vm.now, Now::Runs(node) if emptied(node)));
    placement::vm::drain(&cluster, &vms, what, leftover)
}
