//! Drains.

use super::*;

fn said(cluster: &Cluster, vms: &Vms, what: &Drained) -> String {
    drain(cluster, vms, what, Leftover::Refuse).unwrap_err().to_string()
}

fn node(id: u32) -> Drained {
    Drained::Node(NodeId(id))
}

#[test]
fn a_drained_rack_s_virtual_machines_go_over_and_the_strict_are_in_the_way_or_saved() {
    let cluster = cluster(2, 16, 16);
    let vms: Vms =
        [vm(1, 4, prefers(1), on(1)), vm(2, 4, strict(1), on(2)), vm(3, 4, strict(2), on(3))].into();
    let rack1 = Drained::Rack(rack(1));
    insta::assert_snapshot!(said(&cluster, &vms, &rack1), @r"vm-2 `guest2` on node-2 is in the way: it is strict, and this is the last of rack1 (node-1 is being drained; node-2 is being drained; node-3 is outside its zone; node-4 is outside its zone). What would help: make it non-strict; or stop it, or drain with what can't move being saved");
    let saving = drain(&cluster, &vms, &rack1, Leftover::Save).unwrap();
    assert_eq!(saving.moves.iter().map(|moved| (moved.vm.0, moved.to.0)).collect::<Vec<_>>(), [(1, 4)]);
    assert_eq!(saving.saved.keys().map(|vm| vm.0).collect::<Vec<_>>(), [2]);
    let mut without = vms.clone();
    without.remove(&VmId(2));
    let drained = drain(&cluster, &without, &rack1, Leftover::Refuse).unwrap();
    assert_eq!((drained.moves, drained.saved.len()), (saving.moves, 0));
}

#[test]
fn a_drained_node_s_virtual_machines_stay_in_their_zone() {
    let cluster = cluster(2, 16, 16);
    let vms: Vms = [
        vm(1, 4, prefers(1), on(1)),
        vm(2, 4, strict(1), on(1)),
        vm(3, 8, VmPlacement::Anywhere, on(1)),
        vm(4, 4, prefers(2), on(1)),
    ]
    .into();
    let drained = drain(&cluster.not_ready(2), &vms, &node(1), Leftover::Refuse).unwrap();
    let to: BTreeMap<u32, u32> = drained.moves.iter().map(|moved| (moved.vm.0, moved.to.0)).collect();
    // The strict first, the others by size: 4, 8 and 4 fill node 2, and guest 4, whose home is not ready, goes home before it goes nowhere.
    assert_eq!(to, [(1, 2), (2, 2), (3, 2), (4, 3)].into());
}

#[test]
fn the_last_home_of_a_strict_one_is_not_drained() {
    let cluster = cluster(2, 16, 16).with(&[2], NodeState::Down);
    let vms: Vms = [vm(1, 4, strict(1), on(1))].into();
    insta::assert_snapshot!(said(&cluster, &vms, &node(1)), @r"vm-1 `guest1` on node-1 is in the way: it is strict, and this is the last of rack1 (node-1 is being drained; node-2 is down; node-3 is outside its zone; node-4 is outside its zone). What would help: bring node-2 back; or make it non-strict; or stop it, or drain with what can't move being saved");
    // The other node is too small for it: it is no help to bring it back.
    let mut small = cluster.clone();
    small.nodes.get_mut(&NodeId(2)).unwrap().memory_bytes = GIB;
    insta::assert_snapshot!(said(&small, &vms, &node(1)), @r"vm-1 `guest1` on node-1 is in the way: it is strict, and this is the last of rack1 (node-1 is being drained; node-2 is down; node-3 is outside its zone; node-4 is outside its zone). What would help: make it non-strict; or stop it, or drain with what can't move being saved");
}

#[test]
fn who_has_no_room_elsewhere_is_in_the_way_and_what_would_do_is_said() {
    let cluster = cluster(2, 16, 16);
    let vms: Vms = [
        vm(1, 8, strict(1), on(1)),
        vm(2, 12, strict(1), on(2)),
        vm(3, 12, prefers(2), on(3)),
        vm(4, 12, prefers(2), on(4)),
        vm(5, 8, prefers(1), on(1)),
    ]
    .into();
    insta::assert_snapshot!(said(&cluster, &vms, &node(1)), @r"
    vm-1 `guest1` on node-1 is in the way (node-1 is being drained; node-2 lacks 4294967296 bytes of memory; node-3 is outside its zone; node-4 is outside its zone). What would help: free 4294967296 bytes of memory on node-2; or stop it, or drain with what can't move being saved
    vm-5 `guest5` on node-1 is in the way (node-1 is being drained; node-2 lacks 4294967296 bytes of memory; node-3 lacks 4294967296 bytes of memory; node-4 lacks 4294967296 bytes of memory). What would help: free 4294967296 bytes of memory on node-2; or stop it, or drain with what can't move being saved
    ");
}

#[test]
fn what_is_not_there_is_not_drained_and_who_is_off_is_in_nobody_s_way() {
    let cluster = cluster(1, 16, 16);
    let refused = |what: Drained| drain(&cluster, &Vms::new(), &what, Leftover::Save).unwrap_err();
    assert_eq!(refused(node(7)), NotDrained::NoSuchNode(NodeId(7)));
    assert_eq!(refused(Drained::Rack(rack(7))), NotDrained::NoSuchRack(rack(7)));
    let vms: Vms = [vm(1, 4, strict(1), Now::Off(Some(NodeId(1))))].into();
    assert_eq!(drain(&cluster, &vms, &node(1), Leftover::Refuse), Ok(Drain::default()));
}
