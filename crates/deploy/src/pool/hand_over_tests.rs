//! What a hand-over asks for, waits for and refuses, on ledgers as data.

use super::*;
use crate::pool::moves::tests::{V, ask, open};
use control::{State, VolumeCommand};
use model::{MacRange, MapSequence};
use std::collections::{BTreeMap, BTreeSet};

const FROM: NodeId = NodeId(1);
const TO: NodeId = NodeId(2);

/// What both nodes say of a ledger; a device where the volume is open.
fn views(ledger: &State) -> Vec<(NodeName, ClusterView)> {
    let of = |node: u32| {
        let volume = &ledger.volumes[&V];
        let has = volume.owner == NodeId(node);
        let view = ClusterView {
            node: NodeId(node),
            leader: Some(FROM),
            voters: BTreeSet::new(),
            confirmed: node == 1,
            leased: true,
            state: ledger.clone(),
            mac_range: MacRange::default(),
            devices: has.then(|| (V, "/dev/dm-7".to_owned())).into_iter().collect(),
            device_bytes: BTreeMap::new(),
            legs: Vec::new(),
            blocked: BTreeMap::new(),
            out_of_room: BTreeMap::new(),
            rebuilds: BTreeMap::new(),
        };
        (format!("n{node}").parse().unwrap(), view)
    };
    vec![of(1), of(2)]
}

fn owner(next: Result<Next, NoHandOver>) -> NodeId {
    match next {
        Ok(Next::Ask(owner, _)) => owner,
        other => panic!("{other:?}"),
    }
}

#[test]
fn its_owner_is_asked_and_it_is_waited_for_until_it_is_open_there() {
    let mut ledger = open();
    let epoch = ledger.volumes[&V].epoch;
    assert_eq!(owner(next(&views(&ledger), (V, TO), None)), FROM);
    assert_eq!(owner(next(&views(&ledger), (V, TO), Some(epoch))), FROM, "its agent may have started anew");
    let over = VolumeCommand::HandOver { to: TO, flushed: ledger.volumes[&V].named_in_sync() };
    ask(&mut ledger, over);
    assert!(matches!(next(&views(&ledger), (V, TO), Some(epoch)), Ok(Next::Wait(_))));
    assert!(matches!(next(&views(&ledger), (V, TO), None), Ok(Next::Wait(_))), "given again");
    ask(&mut ledger, VolumeCommand::Opened { maps: MapSequence(2) });
    assert!(
        matches!(next(&views(&ledger), (V, TO), None), Ok(Next::There(ready)) if ready.device == "/dev/dm-7")
    );
}

#[test]
fn one_that_was_given_up_is_told_of_and_not_begun_again() {
    let mut ledger = open();
    let epoch = ledger.volumes[&V].epoch;
    let over = VolumeCommand::HandOver { to: FROM, flushed: ledger.volumes[&V].named_in_sync() };
    ask(&mut ledger, over);
    let given_up = next(&views(&ledger), (V, TO), Some(epoch));
    assert!(matches!(given_up, Err(NoHandOver::GivenUp { owner: FROM, .. })), "{given_up:?}");
    ask(&mut ledger, VolumeCommand::Opened { maps: MapSequence(2) });
    let given_up = next(&views(&ledger), (V, TO), Some(epoch));
    assert!(matches!(given_up, Err(NoHandOver::GivenUp { owner: FROM, .. })), "{given_up:?}");
    assert_eq!(owner(next(&views(&ledger), (V, TO), None)), FROM, "asked for anew it is begun");
}

#[test]
fn nothing_is_closed_for_a_node_that_would_not_open_it() {
    let mut ledger = open();
    let mut without = views(&ledger);
    without.truncate(1);
    assert!(matches!(next(&without, (V, TO), None), Err(NoHandOver::Away(TO))));
    let mut idle = views(&ledger);
    idle[1].1.leased = false;
    assert!(matches!(next(&idle, (V, TO), None), Err(NoHandOver::NoLease(TO))));
    idle[0].1.confirmed = false;
    assert!(matches!(next(&idle, (V, TO), None), Ok(Next::Wait(_))), "nobody leads");
    let unknown = next(&views(&ledger), (V, NodeId(9)), None);
    assert!(matches!(unknown, Err(NoHandOver::Cant(CantHandOver::NoNode(_)))));
    let close = VolumeCommand::Close { flushed: ledger.volumes[&V].named_in_sync() };
    ask(&mut ledger, close);
    let closed = next(&views(&ledger), (V, TO), None).unwrap_err();
    assert!(closed.help().contains("open"), "{closed}");
}
