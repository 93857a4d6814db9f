//! What is asked of the ledger about virtual machines and what is refused before, on ledgers as data.

use super::*;
use control::ClusterCommand;
use control::state::{Cache, Settings};
use control::vm::{Room, Seat, VmCommand};
use model::{BootId, DriveId, Generation, MacRange, Mirror, PowerCycles, Provision, VolumeId};
use std::collections::BTreeMap;

pub(super) const VM: VmId = VmId(1);

/// A node in each rack with room for two virtual machines of a gibibyte, a witness, and three volumes; nothing runs.
pub(crate) fn ledger() -> State {
    let mut state = State::new(Settings::default());
    let mut must = |command| drop(state.apply(&command).unwrap());
    for (number, name, zone) in [(1, "a1", "rack1"), (2, "b1", "rack2")] {
        let (node, zone) = (NodeId(number), Some(zone.parse().unwrap()));
        must(Command::Cluster(ClusterCommand::AddNode { name: name.parse().unwrap(), zone }));
        let (size_bytes, cache, power_cycles) = (8 << 30, Cache::Safe, PowerCycles(1));
        let serial = format!("S{number}").parse().unwrap();
        must(Command::Cluster(ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles }));
        let (boot, drives) = (BootId(number.into()), BTreeMap::from([(DriveId(number), power_cycles)]));
        must(Command::Cluster(ClusterCommand::Register { node, was: None, boot, drives }));
        must(Command::Vms(VmsCommand::SetRoom(node, Room { memory_bytes: 2 << 30, cores: 2 })));
    }
    must(Command::Cluster(ClusterCommand::AddNode { name: "witness".parse().unwrap(), zone: None }));
    for name in ["one", "two", "three"] {
        must(Command::Cluster(ClusterCommand::CreateVolume {
            name: name.parse().unwrap(),
            mirror: Mirror::TwoWay,
            provision: Provision::Fixed,
            size_bytes: 1 << 28,
            drives: vec![DriveId(1), DriveId(2)],
            owner: NodeId(1),
        }));
    }
    state
}

fn spec(name: &str, volume: u32) -> VmSpec {
    VmSpec {
        name: name.parse().unwrap(),
        memory_bytes: 1 << 30,
        cores: 1,
        placement: VmPlacement::Anywhere,
        anti_affinity: None,
        volumes: vec![VolumeId(volume)],
        saves_to: None,
        nics: Vec::new(),
    }
}

/// With one on the first node, which runs, or is about to.
pub(super) fn with_vm(placement: VmPlacement) -> State {
    let mut state = ledger();
    let one = VmSpec { placement, ..spec("one", 1) };
    state.apply(&Command::Vms(VmsCommand::Create(Box::new(one)))).unwrap();
    state.apply(&Command::Vms(VmsCommand::Want(VM, Wanted::Running))).unwrap();
    state.apply(&Command::Vm(VM, Generation(0), VmCommand::Place { on: NodeId(1) })).unwrap();
    state
}

/// As [`with_vm`], and it runs.
pub(super) fn running(placement: VmPlacement) -> State {
    let mut state = with_vm(placement);
    let vm = state.vms.all.get_mut(&VM).unwrap();
    vm.phase = VmPhase::Running { at: vm.phase.seat().unwrap() };
    state
}

pub(crate) fn views(state: &State, nodes: &[u32]) -> Vec<(NodeName, ClusterView)> {
    let view = |node: &u32| ClusterView {
        node: NodeId(*node),
        leader: Some(NodeId(1)),
        voters: BTreeSet::new(),
        confirmed: *node == 1,
        leased: true,
        state: state.clone(),
        mac_range: MacRange::default(),
        devices: BTreeMap::new(),
        device_bytes: BTreeMap::new(),
        legs: Vec::new(),
        blocked: BTreeMap::new(),
        out_of_room: BTreeMap::new(),
        rebuilds: BTreeMap::new(),
    };
    nodes.iter().map(|node| (format!("n{node}").parse().unwrap(), view(node))).collect()
}

#[test]
fn one_is_made_once_and_only_if_all_run_without_a_rack() {
    let mut state = ledger();
    assert_eq!(to_make(&state, &spec("one", 1)).unwrap(), None);
    state.apply(&Command::Vms(VmsCommand::Create(Box::new(spec("one", 1))))).unwrap();
    assert_eq!(to_make(&state, &spec("one", 1)).unwrap(), Some(VM), "given again");
    let other = to_make(&state, &spec("one", 2));
    assert!(matches!(other, Err(VmsError::Another { id: VM, .. })), "{other:?}");
    let taken = to_make(&state, &spec("two", 1)).unwrap_err();
    assert!(
        matches!(&taken, VmsError::NotAdmitted { why: NotAdmitted::VolumeTaken { .. }, .. }),
        "{taken:?}"
    );
    assert!(matches!(
        to_make(&state, &VmSpec { volumes: Vec::new(), ..spec("two", 2) }),
        Err(VmsError::NoVolume)
    ));
    state.apply(&Command::Vms(VmsCommand::Create(Box::new(spec("two", 2))))).unwrap();
    let third = to_make(&state, &spec("three", 3)).unwrap_err();
    assert_eq!(third.to_string(), "three, which would be vm-3, is not made");
    let why = std::error::Error::source(&third).unwrap().to_string();
    assert!(why.contains("without rack1, 1073741824 bytes of memory more would be needed"), "{why}");
}

#[test]
fn one_is_placed_where_all_run_without_a_rack() {
    let strict = |zone: &str| VmPlacement::Strict(zone.parse().unwrap());
    let mut state = ledger();
    for (name, volume, zone) in [("one", 1, "rack1"), ("two", 2, "rack2"), ("three", 3, "rack2")] {
        let spec = VmSpec { placement: strict(zone), ..spec(name, volume) };
        state.apply(&Command::Vms(VmsCommand::Create(Box::new(spec)))).unwrap();
    }
    assert!(may_be_placed(&state, VM, &strict("rack1")).is_ok(), "as it is");
    assert!(may_be_placed(&state, VmId(2), &strict("rack1")).is_ok());
    assert!(may_be_placed(&state, VM, &VmPlacement::Anywhere).is_ok(), "off without rack1, as it was");
    let refused = may_be_placed(&state, VM, &strict("rack2")).unwrap_err();
    assert_eq!(refused.to_string(), "the placement of vm-1 stays as it is");
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("with both racks, "), "{why}");
    assert!(matches!(may_be_placed(&state, VM, &strict("rack3")), Err(VmsError::NoZone(_))));
    assert!(matches!(may_be_placed(&state, VmId(9), &strict("rack1")), Err(VmsError::NoVm(VmId(9)))));
}

#[test]
fn what_is_wanted_is_so_when_the_ledger_knows_of_nothing_else() {
    let mut vm = running(VmPlacement::Anywhere).vms.all[&VM].clone();
    let seat = vm.phase.seat().unwrap();
    assert!(is_so(&vm, Wanted::Running) && !is_so(&vm, Wanted::Stopped));
    vm.phase = VmPhase::Starting { at: seat };
    assert!(!is_so(&vm, Wanted::Running) && !is_so(&vm, Wanted::Stopped));
    vm.phase = VmPhase::Off;
    assert!(is_so(&vm, Wanted::Stopped));
    vm.yielding.insert(NodeId(1), BootId(1));
    assert!(!is_so(&vm, Wanted::Stopped), "it may run on there");
}

#[test]
fn what_does_not_run_says_why_on_each_node() {
    let mut state = running(VmPlacement::Strict("rack1".parse().unwrap()));
    state.vms.all.get_mut(&VM).unwrap().phase = VmPhase::Off;
    let told = |nodes| waits_for(&state, &views(&state, nodes), VM, &state.vms.all[&VM]);
    assert_eq!(told(&[2]), "it is off: a1 is down; b1 is outside its zone");
    assert_eq!(told(&[1, 2]), "it is off; one is fencing, 0 legs confirmed");
    let mut large = state.clone();
    large.vms.all.get_mut(&VM).unwrap().spec.memory_bytes = 5 << 29;
    let plan = planned(&large, &views(&large, &[1, 2]));
    assert_eq!(why_not(&large, &plan, VM).unwrap(), "a1 lacks 512 MiB of memory; b1 is outside its zone");
}

#[test]
fn what_runs_or_shall_run_is_not_deleted() {
    let mut state = running(VmPlacement::Anywhere);
    let refused = |state: &State| may_be_deleted(state, VM, &state.vms.all[&VM]).unwrap_err().to_string();
    assert_eq!(refused(&state), "vm-1 is running");
    state.vms.all.get_mut(&VM).unwrap().phase = VmPhase::Off;
    assert_eq!(refused(&state), "vm-1 is wanted running");
    state.vms.all.get_mut(&VM).unwrap().wanted = Wanted::Stopped;
    assert!(may_be_deleted(&state, VM, &state.vms.all[&VM]).is_ok());
    state.vms.all.get_mut(&VM).unwrap().yielding.insert(NodeId(1), BootId(1));
    assert_eq!(refused(&state), "vm-1 is perhaps still running on a1");
    state.vms.all.get_mut(&VM).unwrap().phase = VmPhase::Saved;
    assert_eq!(refused(&state), "vm-1 is saved");
}

#[test]
fn a_drain_is_refused_naming_who_is_in_the_way_unless_that_is_saved() {
    let state = running(VmPlacement::Strict("rack1".parse().unwrap()));
    let both = views(&state, &[1, 2]);
    let node = Drained::Node(NodeId(1));
    let refused = to_drain(&state, &both, &node, Leftover::Stays).unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("vm-1 `one` on node-1 is in the way"), "{why}");
    assert!(to_drain(&state, &both, &node, Leftover::Saved).is_err(), "it has no volume for its memory");
    let mut savable = state.clone();
    savable.vms.all.get_mut(&VM).unwrap().spec.saves_to = Some(VolumeId(1));
    let saved = to_drain(&savable, &both, &node, Leftover::Saved).unwrap();
    assert!(saved.foreseen.saved.contains_key(&VM) && saved.nodes == BTreeSet::from([NodeId(1)]));
    let movable = running(VmPlacement::Anywhere);
    let rack = Drained::Rack("rack1".parse().unwrap());
    let moves = to_drain(&movable, &both, &rack, Leftover::Stays).unwrap().foreseen.moves;
    assert!(matches!(moves[..], [only] if only.vm == VM && only.to == NodeId(2)), "{moves:?}");
    assert!(to_drain(&movable, &views(&movable, &[1]), &rack, Leftover::Stays).is_err(), "nobody there");
    let left = |state: &State, node| {
        left_on(state, &planned(state, &views(state, &[1, 2])), &BTreeSet::from([NodeId(node)]))
    };
    assert_eq!(left(&movable, 1), ["one is running"]);
    assert!(left(&movable, 2).is_empty());
    let mut held = state.clone();
    held.vms.draining.insert(NodeId(1), Leftover::Stays);
    assert_eq!(left(&held, 1), ["one is running (a1 is being drained; b1 is outside its zone)"]);
    let (from, at) = (seat(1, 1), seat(2, 2));
    let mut landing = movable.clone();
    landing.vms.all.get_mut(&VM).unwrap().phase = VmPhase::Landing { from, at };
    assert_eq!(left(&landing, 1), ["one is landing from a1"]);
    let mut drains = ledger();
    drains.vms.draining.insert(NodeId(2), Leftover::Stays);
    let nobody = to_drain(&drains, &both, &rack, Leftover::Stays);
    assert!(matches!(nobody, Err(VmsError::NobodyLeft)), "{nobody:?}");
}

fn seat(node: u32, generation: u32) -> Seat {
    Seat { node: NodeId(node), boot: BootId(node.into()), generation: Generation(generation) }
}
