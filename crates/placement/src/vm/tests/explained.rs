//! Plans in words.

use super::*;

#[test]
fn a_plan_says_of_each_node_why_it_can_t_have_one() {
    let cluster = cluster(2, 8, 2).with(&[1], NodeState::Down).with(&[3], NodeState::Draining);
    let mut large = vm(5, 12, VmPlacement::Anywhere, Now::Off(None));
    large.1.spec.cores = 4;
    let vms: Vms = [
        vm(1, 6, strict(1), on(1)),
        vm(2, 4, strict(1), on(1)),
        vm(3, 6, prefers(2), on(3)),
        vm(4, 5, prefers(2), on(4)),
        large,
        vm(6, 2, prefers(2), on(2)),
    ]
    .into();
    insta::assert_snapshot!(checked(&cluster, &vms).told(&vms), @r"
    vm-1 `guest1` goes from node-1 to node-2: its node is lost
    vm-6 `guest6` goes from node-2 to node-4: its home is ready
    vm-4 `guest4` stays on node-4
    vm-3 `guest3` should leave node-3 (its node is being drained) but can't: node-1 is down; node-2 lacks 6442450944 bytes of memory and 1 virtual core; node-3 is being drained; node-4 lacks 5368709120 bytes of memory and 1 virtual core
    vm-2 `guest2` does not run: node-1 is down; node-2 lacks 4294967296 bytes of memory and 1 virtual core; node-3 is outside its zone; node-4 is outside its zone
    vm-5 `guest5` does not run: node-1 is down; node-2 lacks 12884901888 bytes of memory and 4 virtual cores; node-3 is being drained; node-4 lacks 11811160064 bytes of memory and 4 virtual cores
    ");
}

#[test]
fn a_lost_rack_in_words_and_its_return() {
    let cluster = cluster(1, 8, 4);
    let vms: Vms =
        [vm(1, 4, prefers(1), on(1)), vm(2, 4, strict(1), on(1)), vm(3, 4, prefers(2), on(2))].into();
    let lost = cluster.clone().with(&[1], NodeState::Down).not_ready(1);
    let plan = checked(&lost, &vms);
    insta::assert_snapshot!(plan.told(&vms), @r"
    vm-1 `guest1` goes from node-1 to node-2: its node is lost
    vm-3 `guest3` stays on node-2
    vm-2 `guest2` does not run: node-1 is down; node-2 is outside its zone
    ");
    let after = plan.carried_out(&vms);
    insta::assert_snapshot!(checked(&cluster, &after).told(&after), @r"
    vm-2 `guest2` goes to node-1: it is off
    vm-1 `guest1` goes from node-2 to node-1: its home is ready
    vm-3 `guest3` stays on node-2
    ");
}

#[test]
fn without_nodes_that_is_the_reason() {
    let mut none = cluster(1, 8, 4);
    none.nodes.clear();
    let vms: Vms = [vm(1, 4, prefers(1), Now::Off(None))].into();
    insta::assert_snapshot!(checked(&none, &vms).told(&vms), @"vm-1 `guest1` does not run: there is no node");
}
