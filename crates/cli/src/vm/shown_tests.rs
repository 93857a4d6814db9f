//! Virtual machines as they are printed.

use super::*;
use control::vm::{MemoryLost, Room, Seat, VmsCommand, WhyNotSaved};
use control::{ClusterCommand, Command};
use model::{BootId, Generation, MacRange, VmNic, VmPlacement, VmSpec};
use std::collections::BTreeSet;

/// A node in each rack; one virtual machine that runs, and one that is strict where nobody answers.
fn state() -> State {
    let mut state = State::new(control::state::Settings::default());
    for (number, name, zone) in [(1, "a1", "room-1"), (2, "b1", "room-2")] {
        let zone = Some(zone.parse().unwrap());
        let name = name.parse().unwrap();
        state.apply(&Command::Cluster(ClusterCommand::AddNode { name, zone })).unwrap();
        let room = Room { memory_bytes: 4 << 30, cores: 4 };
        state.apply(&Command::Vms(VmsCommand::SetRoom(NodeId(number), room))).unwrap();
    }
    let at = Seat { node: NodeId(1), boot: BootId(1), generation: Generation(3) };
    let vlan = "8".parse().unwrap();
    let (home, strict) = ("room-1".parse().unwrap(), "room-2".parse().unwrap());
    for (id, name, placement, phase) in [
        (1, "web", VmPlacement::Prefers(home), VmPhase::Running { at }),
        (2, "db", VmPlacement::Strict(strict), VmPhase::Off),
    ] {
        let spec = VmSpec {
            name: name.parse().unwrap(),
            memory_bytes: 1 << 30,
            cores: 2,
            placement,
            anti_affinity: Some("front".parse().unwrap()),
            volumes: Vec::new(),
            saves_to: None,
            nics: if id == 1 { vec![VmNic { vlan }] } else { Vec::new() },
        };
        let (generation, yielding) = (Generation(3), BTreeMap::new());
        let vm = Vm {
            spec,
            wanted: Wanted::Running,
            generation,
            phase,
            last: None,
            yielding,
            setbacks: 0,
            avoids: None,
            saves: model::SaveTry(0),
            saved_bytes: 0,
            not_saved: None,
            memory_lost: None,
            saved: None,
        };
        state.vms.all.insert(VmId(id), vm);
    }
    state
}

fn views(state: &State) -> Vec<(NodeName, ClusterView)> {
    let view = ClusterView {
        node: NodeId(1),
        leader: Some(NodeId(1)),
        voters: BTreeSet::new(),
        confirmed: true,
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
    vec![("a1".parse().unwrap(), view)]
}

#[test]
fn they_are_listed_with_what_keeps_them_off() {
    let state = state();
    let views = views(&state);
    insta::assert_snapshot!("listed", Listed::of(&state, &views).to_string());
    insta::assert_json_snapshot!("listed_json", Listed::of(&state, &views));
    insta::assert_snapshot!("off", Shown::of(&state, &views, VmId(2)).unwrap().to_string());
    insta::assert_snapshot!("running", Shown::of(&state, &views, VmId(1)).unwrap().to_string());
    assert!(Shown::of(&state, &views, VmId(3)).is_none());
}

#[test]
fn what_is_saved_is_shown_with_how_much_and_what_is_not_with_why() {
    let mut state = state();
    let vm = state.vms.all.get_mut(&VmId(1)).unwrap();
    vm.spec.saves_to = Some(model::VolumeId(9));
    vm.not_saved = Some(WhyNotSaved::Late);
    insta::assert_snapshot!("not_saved", Shown::of(&state, &views(&state), VmId(1)).unwrap().to_string());
    assert_eq!(vms::goes_on(&state, VmId(1)), None, "it runs");

    let vm = state.vms.all.get_mut(&VmId(1)).unwrap();
    (vm.phase, vm.wanted, vm.not_saved) = (VmPhase::Saved, Wanted::Saved, None);
    (vm.saved, vm.saved_bytes) = (Some(Generation(3)), 700 << 20);
    let views = views(&state);
    insta::assert_snapshot!("saved", Shown::of(&state, &views, VmId(1)).unwrap().to_string());
    insta::assert_json_snapshot!("saved_json", Shown::of(&state, &views, VmId(1)).unwrap());
    insta::assert_snapshot!("saved_listed", Listed::of(&state, &views).to_string());
    insta::assert_snapshot!("saved_done", Done::saved(&state, VmId(1)).to_string());
    insta::assert_snapshot!("saved_starts", vms::goes_on(&state, VmId(1)).unwrap());
    let row = &rows(&state, &views)[0];
    assert_eq!(row.troubles(&state.vms.all[&VmId(1)]), Vec::<String>::new(), "it was asked for");
}

#[test]
fn memory_that_is_lost_is_shown_and_is_a_trouble() {
    let mut state = state();
    let vm = state.vms.all.get_mut(&VmId(1)).unwrap();
    vm.memory_lost = Some(MemoryLost::Unsaved);
    let views = views(&state);
    insta::assert_snapshot!("memory_lost", Shown::of(&state, &views, VmId(1)).unwrap().to_string());
    let row = &rows(&state, &views)[0];
    insta::assert_snapshot!("memory_lost_trouble", row.troubles(&state.vms.all[&VmId(1)]).join("\n"));
}

#[test]
fn nodes_are_listed_with_what_they_have() {
    let mut state = state();
    insta::assert_snapshot!("nodes", Nodes::of(&state, &views(&state)).to_string());
    for node in [1, 2] {
        state.vms.draining.insert(NodeId(node), Leftover::Stays);
    }
    insta::assert_snapshot!("nodes_drain", Nodes::of(&state, &views(&state)).to_string());
}

#[test]
fn one_is_found_by_its_name_before_its_id() {
    let mut state = state();
    assert_eq!(find(&state, "db"), Some(VmId(2)));
    assert_eq!(find(&state, "vm-1"), Some(VmId(1)));
    assert_eq!(find(&state, "vm-9"), None);
    state.vms.all.get_mut(&VmId(2)).unwrap().spec.name = "vm-1".parse().unwrap();
    assert_eq!(find(&state, "vm-1"), Some(VmId(2)));
}
