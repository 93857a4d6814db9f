//! Ways back on which something is gone.

use super::*;
use crate::diff::diff;
use crate::plan::{Generation, plan};
use crate::simulate;
use crate::testing::{adapters, bare_nics, link_name, nic_mac, spec, vlan};
use crate::traffic::{Filter, Marks, Queue};

fn planned() -> NetworkPlan {
    plan(&spec(1), &"n1".parse().unwrap(), Generation(1)).unwrap()
}

fn run(mut state: CurrentLinks, ops: &[Op]) -> CurrentLinks {
    for op in ops {
        simulate::apply(&mut state, op).unwrap_or_else(|refused| panic!("{op}: {refused}"));
    }
    state
}

/// NICs that are up with the node's address on the first one, and the plan on top of them.
fn before_and_after() -> (CurrentLinks, CurrentLinks) {
    let address = "192.168.7.50/24".parse().unwrap();
    let mut ops = vec![Op::AddAddress { name: link_name("eth0"), address }];
    ops.extend((0..4).map(|at| Op::SetUp { name: link_name(&format!("eth{at}")) }));
    let before = run(bare_nics(), &ops);
    let after = run(before.clone(), &diff(&before, &planned(), &adapters()).unwrap());
    (before, after)
}

fn rename(state: &mut CurrentLinks, from: &str, to: &str) {
    let link = state.links.remove(&link_name(from)).unwrap();
    state.links.insert(link_name(to), link);
    for link in state.links.values_mut() {
        match &mut link.kind {
            LinkKind::Vlan { parent, .. } if *parent == link_name(from) => *parent = link_name(to),
            LinkKind::Bond { primary, .. } if *primary == Some(link_name(from)) => {
                *primary = Some(link_name(to));
            }
            _ => {}
        }
    }
}

#[test]
fn a_nic_that_is_gone_is_named_and_all_the_rest_is_given_back() {
    let (before, after) = before_and_after();
    for name in ["eth1", "eth2"].map(link_name) {
        let stopped = run(after.clone(), &[Op::Delete { name: name.clone() }]);
        let back = revert(&stopped, &before, &planned(), &adapters()).unwrap();
        assert_eq!(back.gone, [Gone { name: name.clone(), mac: before.links[&name].permanent_mac }]);
        let restored = run(stopped, &back.ops);
        let mut expected = before.clone();
        expected.links.remove(&name);
        assert_eq!(restored, expected);
        let left = revert(&restored, &before, &planned(), &adapters()).unwrap().left();
        let mac = before.links[&name].permanent_mac.unwrap();
        assert_eq!(left, Some(format!("gone: {name} ({mac})")), "it has not ended well");
    }
}

#[test]
fn a_nic_with_a_new_name_is_given_back_under_it() {
    let (before, mut after) = before_and_after();
    rename(&mut after, "eth0", "enp1s0");
    rename(&mut after, "eth2", "eth0");
    let back = revert(&after, &before, &planned(), &adapters()).unwrap();
    assert_eq!(back.gone, []);
    let mut expected = before.clone();
    rename(&mut expected, "eth0", "enp1s0");
    rename(&mut expected, "eth2", "eth0");
    assert_eq!(run(after, &back.ops), expected);
}

#[test]
fn another_nic_under_the_name_of_one_that_is_gone_gets_nothing_of_it() {
    let (before, after) = before_and_after();
    let mut stopped = run(after, &[Op::Delete { name: link_name("eth0") }]);
    let mut stranger = bare_nics().links[&link_name("eth0")].clone();
    (stranger.permanent_mac, stranger.mac) = (Some(nic_mac(77)), Some(nic_mac(77)));
    stopped.links.insert(link_name("eth0"), stranger.clone());
    let back = revert(&stopped, &before, &planned(), &adapters()).unwrap();
    assert_eq!(back.gone, [Gone { name: link_name("eth0"), mac: Some(nic_mac(0)) }]);
    let restored = run(stopped, &back.ops);
    assert_eq!(restored.links[&link_name("eth0")], stranger);
    assert_eq!(restored.links[&link_name("eth3")], before.links[&link_name("eth3")]);
}

/// Ours above a NIC that is gone, and a master of another kind that is gone: neither can be given back, both are named.
#[test]
fn what_hangs_on_something_that_is_gone_is_named_too() {
    let (_, settled) = before_and_after();
    let mut before = run(settled, &[Op::Leave { name: link_name("eth1") }]);
    let mut switch = before.links[&link_name("eth3")].clone();
    (switch.kind, switch.permanent_mac) = (LinkKind::Other("openvswitch".to_owned()), None);
    before.links.insert(link_name("ovs"), switch);
    let before = run(before, &[Op::Join { name: link_name("eth1"), master: link_name("ovs") }]);
    let gone = ["ovs", "eth2"].map(|name| Op::Delete { name: link_name(name) });
    let stopped = run(before.clone(), &gone);
    let back = revert(&stopped, &before, &planned(), &adapters()).unwrap();
    let names: Vec<&str> = back.gone.iter().map(|gone| gone.name.as_str()).collect();
    assert_eq!(names, ["eth2", "ovs", "tw-st711"]);
    assert_eq!(run(stopped.clone(), &back.ops), stopped);
}

fn vlan_above(name: &str, parent: &str) -> Op {
    let (name, parent) = (link_name(name), link_name(parent));
    Op::CreateVlan { name, parent, vlan: vlan(100), egress_qos: BTreeMap::new() }
}

/// The kernel lowers them with the link below and opens them with it. One stands on another, under a name that sorts first.
#[test]
fn foreign_vlan_links_get_back_their_mtu_and_stay_down_if_they_were() {
    let (bare, _) = before_and_after();
    let jumbo = |name: &str| Op::SetMtu { name: link_name(name), mtu_bytes: 9000 };
    let before = run(
        bare,
        &[
            jumbo("eth0"),
            vlan_above("eth0.100", "eth0"),
            vlan_above("a", "eth0.100"),
            vlan_above("eth3.100", "eth3"),
            Op::SetUp { name: link_name("eth0.100") },
        ],
    );
    let down = run(before.clone(), &[Op::SetDown { name: link_name("a") }]);
    for before in [before, down] {
        let after = run(before.clone(), &diff(&before, &planned(), &adapters()).unwrap());
        assert_eq!(after.links[&link_name("a")].mtu_bytes, 1500);
        let back = revert(&after, &before, &planned(), &adapters()).unwrap();
        assert_eq!((run(after, &back.ops), back.gone), (before, vec![]));
    }
}

#[test]
fn a_port_of_any_kind_comes_back_into_the_team() {
    let (_, settled) = before_and_after();
    let mut before = settled;
    let mut dummy = before.links[&link_name("eth3")].clone();
    (dummy.kind, dummy.permanent_mac, dummy.up) = (LinkKind::Other("dummy".to_owned()), None, false);
    before.links.insert(link_name("dummy0"), dummy);
    let before = run(before, &[Op::Join { name: link_name("dummy0"), master: LinkName::team() }]);
    let after = run(before.clone(), &diff(&before, &planned(), &adapters()).unwrap());
    assert_eq!(after.links[&link_name("dummy0")].master, None);
    let back = revert(&after, &before, &planned(), &adapters()).unwrap();
    assert_eq!(run(after.clone(), &back.ops), before);
    // Somebody took it away meanwhile: that is theirs to do.
    let without = run(after, &[Op::Delete { name: link_name("dummy0") }]);
    assert_eq!(revert(&without, &before, &planned(), &adapters()).unwrap().left(), None);
}

/// A loosely bound VLAN link is up above one that is down, which the model takes for impossible.
#[test]
fn what_the_model_does_not_understand_of_foreign_links_is_tried_last() {
    let (bare, _) = before_and_after();
    let mut before = run(bare, &[vlan_above("eth3.100", "eth3"), Op::SetDown { name: link_name("eth3") }]);
    before.links.get_mut(&link_name("eth3.100")).unwrap().up = true;
    let after = run(before.clone(), &diff(&before, &planned(), &adapters()).unwrap());
    let mut back = revert(&after, &before, &planned(), &adapters()).unwrap().ops;
    assert_eq!(back.pop(), Some(Op::SetUp { name: link_name("eth3.100") }));
    before.links.get_mut(&link_name("eth3.100")).unwrap().up = false;
    assert_eq!(run(after, &back), before);
}

/// A queue with classes, and a filter that isn't understood: nobody can make them again, and the way back says so.
#[test]
fn what_the_kernel_does_not_tell_all_of_is_tried_last_and_left_over() {
    let (_, mut before) = before_and_after();
    let htb = Queue::Other { kind: "htb".to_owned(), options: Vec::new(), whole: true };
    before.links.get_mut(&link_name("eth2")).unwrap().traffic.queue = htb.clone();
    let storage = before.links.get_mut(&link_name("tw-st712")).unwrap();
    let foreign = Filter::Other("bpf".to_owned());
    let Marks::Filters(filters) = &mut storage.traffic.marks else { panic!("a place for filters") };
    filters.insert(9, foreign.clone());
    let after = run(before.clone(), &diff(&before, &planned(), &adapters()).unwrap());
    let back = revert(&after, &before, &planned(), &adapters()).unwrap();
    let add = Op::AddFilter { name: link_name("tw-st712"), preference: 9, filter: foreign };
    assert_eq!(back.ops, [Op::SetQueue { name: link_name("eth2"), queue: htb }, add]);
    assert!(back.left().is_some());
}

#[test]
fn a_queue_that_somebody_set_on_a_nic_comes_back() {
    let (mut before, _) = before_and_after();
    let codel =
        Queue::Other { kind: "fq_codel".to_owned(), options: vec![8, 0, 1, 0, 9, 0, 0, 0], whole: true };
    before.links.get_mut(&link_name("eth2")).unwrap().traffic.queue = codel;
    let after = run(before.clone(), &diff(&before, &planned(), &adapters()).unwrap());
    assert!(matches!(after.links[&link_name("eth2")].traffic.queue, Queue::Ets(_)));
    let back = revert(&after, &before, &planned(), &adapters()).unwrap();
    assert_eq!(run(after, &back.ops), before);
}
