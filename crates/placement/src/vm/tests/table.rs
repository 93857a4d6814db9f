//! The failover table of the specification, and what belongs to it.

use super::*;

/// A row: the virtual machine's home and whether it is strict; the rack that is lost; where it runs then, and in the end.
struct Row {
    home: usize,
    is_strict: bool,
    lost: usize,
    then: Option<usize>,
    finally: usize,
}

const TABLE: [Row; 8] = [
    Row { home: 1, is_strict: true, lost: 1, then: None, finally: 1 },
    Row { home: 1, is_strict: false, lost: 1, then: Some(2), finally: 1 },
    Row { home: 2, is_strict: true, lost: 1, then: Some(2), finally: 2 },
    Row { home: 2, is_strict: false, lost: 1, then: Some(2), finally: 2 },
    // The other direction.
    Row { home: 2, is_strict: true, lost: 2, then: None, finally: 2 },
    Row { home: 2, is_strict: false, lost: 2, then: Some(1), finally: 2 },
    Row { home: 1, is_strict: true, lost: 2, then: Some(1), finally: 1 },
    Row { home: 1, is_strict: false, lost: 2, then: Some(1), finally: 1 },
];

fn nodes_of(per_rack: u32, number: usize) -> Vec<u32> {
    if number == 1 { (1..=per_rack).collect() } else { (per_rack + 1..=2 * per_rack).collect() }
}

/// What control makes of a node that came back: nothing runs there any more.
fn booted(mut vms: Vms, nodes: &[u32]) -> Vms {
    for vm in vms.values_mut() {
        match vm.now {
            Now::Runs(node) if nodes.contains(&node.0) => vm.now = Now::Off(Some(node)),
            _ => {}
        }
    }
    vms
}

fn rack_of(cluster: &Cluster, vms: &Vms) -> Option<usize> {
    let Now::Runs(node) = vms[&VmId(1)].now else { return None };
    (1..=2).find(|number| cluster.nodes[&node].zone == rack(*number))
}

#[test]
fn every_row_of_the_failover_table_holds_in_every_shape() {
    for per_rack in 1..=4 {
        for row in &TABLE {
            let well = cluster(per_rack, 64, 16);
            let placement = if row.is_strict { strict(row.home) } else { prefers(row.home) };
            let vms: Vms = [vm(1, 8, placement, Now::Off(None))].into();
            let step = |cluster: &Cluster, vms: Vms| checked(cluster, &vms).carried_out(&vms);
            let begun = step(&well, vms);
            assert_eq!(rack_of(&well, &begun), Some(row.home));
            let lost = nodes_of(per_rack, row.lost);
            let down = well.clone().with(&lost, NodeState::Down).not_ready(row.lost);
            let then = step(&down, begun.clone());
            assert_eq!(rack_of(&down, &then), row.then);
            if row.lost != row.home {
                assert_eq!(then, begun, "no change");
            }
            // The rack is back, its legs are not in sync: nobody who runs goes home, and who is strict starts.
            let back = well.clone().not_ready(row.lost);
            let returned = step(&back, booted(then, &lost));
            assert_eq!(rack_of(&back, &returned), row.then.or(Some(row.home)));
            let finally = step(&well, returned);
            assert_eq!(rack_of(&well, &finally), Some(row.finally));
            assert_eq!(step(&well, finally.clone()), finally);
        }
    }
}

#[test]
fn a_lost_node_s_virtual_machines_stay_in_their_zone_while_it_has_room() {
    let lost = cluster(2, 16, 16).with(&[1], NodeState::Down).not_ready(1);
    let vms: Vms = [
        vm(1, 10, prefers(1), on(1)),
        vm(2, 6, prefers(1), on(1)),
        vm(3, 2, prefers(1), on(2)),
        // No home, or away from home while that is not ready: the zone where it was.
        vm(4, 2, VmPlacement::Anywhere, on(1)),
        vm(5, 2, prefers(2), on(1)),
    ]
    .into();
    let plan = checked(&lost, &vms);
    // Node 2 has 14 GiB left: the largest first; the next has no room there, and goes over; guest 5's home is ready.
    assert_eq!(seats(&plan, &vms), [Some(2), Some(3), Some(2), Some(2), Some(4)]);
    assert!(plan.moves.iter().all(|moved| moved.because == Because::NodeLost));
    let away = cluster(2, 16, 16).with(&[3], NodeState::Down).not_ready(1);
    let vms: Vms = [vm(1, 4, prefers(1), on(3))].into();
    assert_eq!(seats(&checked(&away, &vms), &vms), [Some(4)], "home is up, but not ready");
}

#[test]
fn who_is_not_home_goes_when_it_is_ready_and_only_as_far_as_there_is_room() {
    let vms: Vms = [
        vm(1, 10, prefers(1), on(2)),
        vm(2, 8, prefers(1), on(2)),
        vm(3, 4, VmPlacement::Anywhere, on(2)),
        vm(4, 4, prefers(2), on(2)),
    ]
    .into();
    let ready = cluster(1, 16, 16);
    let plan = checked(&ready, &vms);
    assert_eq!(seats(&plan, &vms), [Some(1), Some(2), Some(2), Some(2)]);
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(plan.moves[0].because, Because::GoesHome);
    let plan = checked(&ready.clone().not_ready(1), &vms);
    assert!(plan.moves.is_empty() && plan.held.is_empty() && plan.off.is_empty());
}

#[test]
fn those_that_do_not_run_get_the_room_before_those_that_go_home() {
    // The only room in rack 1 is 8 GiB. Guest 2 does not run, guest 1 runs away from home.
    let cluster = cluster(2, 8, 16).with(&[2, 4], NodeState::Down);
    let vms: Vms = [vm(1, 8, prefers(1), on(3)), vm(2, 8, prefers(2), on(4))].into();
    let plan = checked(&cluster, &vms);
    assert_eq!(seats(&plan, &vms), [Some(3), Some(1)]);
}

#[test]
fn who_leaves_holds_its_memory_until_it_has_left() {
    // Both would fit if they changed places, but nobody can go first.
    let cluster = cluster(1, 8, 16);
    let vms: Vms = [vm(1, 8, prefers(1), on(2)), vm(2, 8, prefers(2), on(1))].into();
    assert!(checked(&cluster, &vms).moves.is_empty());
    // With room on one side it takes two plans.
    let vms: Vms = [vm(1, 8, prefers(1), on(2)), vm(2, 4, strict(2), Now::Off(None))].into();
    let first = checked(&cluster, &vms);
    assert_eq!(first.moves.iter().map(|moved| moved.vm.0).collect::<Vec<_>>(), [1]);
    let after = first.carried_out(&vms);
    assert_eq!(seats(&checked(&cluster, &after), &after), [Some(1), Some(2)]);
}

#[test]
fn one_made_strict_outside_its_zone_goes_there_or_is_held_running() {
    let room = cluster(1, 8, 16).not_ready(1);
    let vms: Vms = [vm(1, 4, strict(1), on(2))].into();
    let plan = checked(&room, &vms);
    assert_eq!((seats(&plan, &vms), plan.moves[0].because), (vec![Some(1)], Because::OutsideZone));
    let none = room.with(&[1], NodeState::Draining);
    let plan = checked(&none, &vms);
    assert_eq!(plan.held[&VmId(1)].on, NodeId(2));
    assert!(plan.moves.is_empty() && plan.off.is_empty());
}

#[test]
fn cores_count_by_the_overcommit_factor_and_a_full_node_is_not_emptied() {
    let mut cluster = cluster(1, 64, 2);
    let vms: Vms = (1..=9).map(|id| vm(id, 1, VmPlacement::Anywhere, Now::Off(None))).collect();
    assert_eq!(checked(&cluster, &vms).moves.len(), 4);
    cluster.cores_percent = 150;
    assert_eq!(checked(&cluster, &vms).moves.len(), 6);
    cluster.cores_percent = CORES_PERCENT_DEFAULT;
    let all = checked(&cluster, &vms);
    assert_eq!(all.moves.len(), 9);
    // The policy is made narrower: who runs stays, and nobody is added.
    cluster.cores_percent = 100;
    let mut after = all.carried_out(&vms);
    after.extend([vm(10, 1, VmPlacement::Anywhere, Now::Off(None))]);
    let plan = checked(&cluster, &after);
    assert_eq!((plan.stays.len(), plan.moves.len(), plan.off.len()), (9, 0, 1));
}

#[test]
fn a_group_is_spread_over_racks_then_nodes_and_never_keeps_one_from_running() {
    let cluster = cluster(2, 64, 16);
    let anywhere = |id| in_group(vm(id, 4, VmPlacement::Anywhere, Now::Off(None)), "web");
    let vms: Vms = (1..=4).map(anywhere).collect();
    let plan = checked(&cluster, &vms);
    let first: Vec<u32> = plan.moves.iter().map(|moved| moved.to.0).collect();
    assert_eq!(first, [1, 3, 2, 4], "the second in the other rack, the third on another node");
    // At home it is the nodes alone; a larger one beside them would otherwise draw the second away from node 2.
    let mut vms: Vms = (1..=2).map(|id| in_group(vm(id, 4, prefers(1), Now::Off(None)), "db")).collect();
    vms.extend([vm(3, 32, prefers(1), on(2))]);
    assert_eq!(seats(&checked(&cluster, &vms), &vms), [Some(1), Some(2), Some(2)]);
    // One rack and one node left: all run there.
    let lost = cluster.with(&[1, 3, 4], NodeState::Down);
    let vms: Vms = (1..=4).map(anywhere).collect();
    assert_eq!(seats(&checked(&lost, &vms), &vms), [Some(2); 4]);
}

#[test]
fn a_node_that_was_tried_in_vain_is_taken_last_of_its_zone_s() {
    let cluster = cluster(3, 16, 16).with(&[1], NodeState::Draining);
    let moves = |avoids: Option<u32>, beside_gib: u64| {
        let mut vms: Vms = [vm(1, 8, prefers(1), on(1)), vm(2, beside_gib, prefers(1), on(3))].into();
        vms.get_mut(&VmId(1)).unwrap().avoids = avoids.map(NodeId);
        seats(&checked(&cluster, &vms), &vms)[0]
    };
    assert_eq!((moves(None, 4), moves(Some(2), 4)), (Some(2), Some(3)));
    assert_eq!(moves(Some(2), 12), Some(2), "no other one of the zone has room");
}

#[test]
fn a_node_with_the_legs_is_preferred_to_one_with_more_memory() {
    let mut cluster = cluster(4, 64, 16);
    cluster.legs.insert(VolumeId(1), [NodeId(2), NodeId(3), NodeId(5)].into());
    let vms: Vms = [vm(1, 4, prefers(1), Now::Off(None)), vm(2, 8, prefers(1), on(2))].into();
    assert_eq!(seats(&checked(&cluster, &vms), &vms), [Some(3), Some(2)]);
}

#[test]
fn all_find_room_where_comfort_alone_would_have_left_one_out() {
    // Comfort puts 6 and 4 on each, and the last 4 nowhere. Packed it is 6 and 6, and 4, 4 and 4.
    let cluster = cluster(1, 12, 64);
    let sizes = [6, 6, 4, 4, 4];
    let vms: Vms =
        (1..).zip(sizes).map(|(id, gib)| vm(id, gib, VmPlacement::Anywhere, Now::Off(None))).collect();
    assert_eq!(checked(&cluster, &vms).off.len(), 0);
}
