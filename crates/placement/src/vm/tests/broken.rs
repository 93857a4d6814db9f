//! The checker can fail: each way to break a rule is named.

use super::*;

fn cluster_and_vms() -> (Cluster, Vms) {
    let cluster = cluster(2, 16, 8).with(&[1], NodeState::Down);
    let vms = [
        vm(1, 4, strict(1), on(1)),
        vm(2, 4, prefers(2), on(3)),
        vm(3, 20, VmPlacement::Anywhere, Now::Off(None)),
        vm(4, 4, prefers(2), on(2)),
    ];
    (cluster, vms.into())
}

fn with(change: impl FnOnce(&mut Plan)) -> Vec<Broken> {
    let (cluster, vms) = cluster_and_vms();
    let mut plan = checked(&cluster, &vms);
    change(&mut plan);
    check(&cluster, &vms, &plan)
}

fn of(plan: &mut Plan, vm: u32) -> &mut Move {
    plan.moves.iter_mut().find(|moved| moved.vm == VmId(vm)).unwrap()
}

#[test]
fn the_good_plan_is_what_the_others_are_made_of() {
    let (cluster, vms) = cluster_and_vms();
    let plan = checked(&cluster, &vms);
    assert_eq!(seats(&plan, &vms), [Some(2), Some(3), None, Some(4)]);
}

#[test]
fn one_left_out_or_said_twice_or_unknown() {
    let said = |times| Broken::Said(VmId(2), times);
    assert_eq!(with(|plan| plan.stays.clear()), [said(0)]);
    let twice = with(|plan| plan.held.extend([(VmId(2), held(3))]));
    assert!(twice.contains(&said(2)), "{twice:?}");
    let unknown = with(|plan| plan.stays.extend([(VmId(7), NodeId(3))]));
    assert_eq!(unknown, [Broken::Said(VmId(7), 2)]);
}

fn held(on: u32) -> Held {
    Held { on: NodeId(on), because: Because::NodeDrains, reasons: Reasons::new() }
}

#[test]
fn one_put_where_it_may_not_be() {
    let is = |broken: Vec<Broken>, what: Broken| assert!(broken.contains(&what), "{broken:?}");
    is(with(|plan| of(plan, 1).to = NodeId(1)), Broken::NotUp(VmId(1), NodeId(1)));
    is(with(|plan| of(plan, 1).to = NodeId(9)), Broken::NotUp(VmId(1), NodeId(9)));
    is(with(|plan| of(plan, 1).to = NodeId(3)), Broken::OutsideZone(VmId(1), NodeId(3)));
    is(
        with(|plan| {
            plan.off.clear();
            let start = Move { vm: VmId(3), from: None, to: NodeId(2), because: Because::Starts };
            plan.moves.insert(0, start);
        }),
        Broken::Full(NodeId(2)),
    );
    let (mut cluster, vms) = cluster_and_vms();
    let plan = checked(&cluster, &vms);
    cluster.nodes.get_mut(&NodeId(2)).unwrap().cores = 1;
    is(check(&cluster, &vms, &plan), Broken::Full(NodeId(2)));
    cluster.nodes.get_mut(&NodeId(2)).unwrap().cores = 8;
    cluster.nodes.get_mut(&NodeId(1)).unwrap().state = NodeState::Up;
    is(check(&cluster, &vms, &plan), Broken::Needless(VmId(1)));
}

#[test]
fn one_that_is_not_what_the_plan_takes_it_for() {
    let is = |broken: Vec<Broken>, vm: u32| assert!(broken.contains(&Broken::NotSo(VmId(vm))), "{broken:?}");
    is(with(|plan| of(plan, 1).because = Because::Starts), 1);
    is(with(|plan| of(plan, 1).because = Because::NodeDrains), 1);
    is(with(|plan| of(plan, 1).from = None), 1);
    is(with(|plan| of(plan, 4).because = Because::NodeDrains), 4);
    is(with(|plan| plan.stays.extend([(VmId(2), NodeId(4))])), 2);
    is(with(|plan| plan.off.get_mut(&VmId(3)).unwrap().lost_with = Some(NodeId(1))), 3);
    is(
        with(|plan| {
            plan.stays.clear();
            plan.held.insert(VmId(2), held(3));
        }),
        2,
    );
}

#[test]
fn one_that_is_away_or_without_a_place_for_no_reason() {
    let (cluster, vms) = cluster_and_vms();
    let home = with(|plan| {
        plan.moves.retain(|moved| moved.vm != VmId(4));
        plan.stays.insert(VmId(4), NodeId(2));
    });
    // What is said of another one is not so any more, either.
    assert_eq!(home, [Broken::ZoneHasRoom(VmId(4), NodeId(2), NodeId(3)), Broken::Reasons(VmId(3))]);
    let off = with(|plan| {
        plan.moves.retain(|moved| moved.vm != VmId(1));
        let reasons = plan.off[&VmId(3)].reasons.clone();
        plan.off.insert(VmId(1), Off { lost_with: Some(NodeId(1)), reasons });
    });
    assert_eq!(off, [Broken::HasRoom(VmId(1), NodeId(2)), Broken::Reasons(VmId(3))]);
    for change in [None, Some(Why::Drains)] {
        let broken = with(|plan| {
            let reasons = &mut plan.off.get_mut(&VmId(3)).unwrap().reasons;
            match change {
                None => reasons.retain(|node, _| *node != NodeId(4)),
                Some(why) => reasons.extend([(NodeId(4), why)]),
            }
        });
        assert_eq!(broken, [Broken::Reasons(VmId(3))]);
    }
    let plan = checked(&cluster, &vms);
    assert_eq!(plan.off[&VmId(3)].reasons.len(), 4);
    assert_eq!(with(|plan| plan.moves.reverse()), [Broken::Late(VmId(1))]);
}
