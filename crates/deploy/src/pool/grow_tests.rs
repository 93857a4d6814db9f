//! What a growth asks for, waits for and refuses, on ledgers as data.

use super::*;
use crate::pool::moves::tests::{V, ask, leg, open, run};
use model::MacRange;
use std::collections::{BTreeMap, BTreeSet};

const GROWN: u64 = 1 << 29;

fn next(ledger: &State, size_bytes: u64) -> Result<Growth, CantGrow> {
    next_of_growth(ledger, V, size_bytes)
}

#[test]
fn it_is_asked_for_once_waited_for_and_then_there() {
    let mut ledger = open();
    let Ok(Growth::Ask(command)) = next(&ledger, GROWN) else { panic!("it is to be asked for") };
    ledger.apply(&command).unwrap();
    let waits = "leg-1 on drive-1 has 5 of 9 slabs ready, leg-2 on drive-3 has 5 of 9 slabs ready";
    assert_eq!(next(&ledger, GROWN), Ok(Growth::Waits(waits.to_owned())));
    assert_eq!(next(&ledger, 2 * GROWN), Err(CantGrow::Growing { volume: V, to_bytes: GROWN }));
    for id in [1, 2] {
        let (leg, run) = (leg(&ledger, id), run(&ledger, id));
        ask(&mut ledger, VolumeCommand::Laid { leg, run, slabs: 9 });
    }
    assert_eq!(next(&ledger, GROWN), Ok(Growth::There));
    let smaller = CantGrow::Smaller { volume: V, has_bytes: GROWN, asked_bytes: GROWN - 4096 };
    assert_eq!(next(&ledger, GROWN - 4096), Err(smaller));
}

#[test]
fn what_does_not_fit_is_refused_and_says_what_would_help() {
    let ledger = open();
    let helps = |size_bytes| next(&ledger, size_bytes).unwrap_err().help();
    assert!(helps(1 << 62).contains("another volume"));
    assert!(helps(4097 << 20 | 1).contains("4096"));
    assert!(helps(1 << 31).contains("add drives"));
    assert!(helps(4096).contains("only grows"));
    assert!(matches!(next_of_growth(&ledger, VolumeId(9), GROWN), Err(CantGrow::NoVolume(_))));
}

#[test]
fn it_is_there_when_its_users_have_it() {
    let ledger = open();
    let view = |has: Option<u64>| {
        let view = ClusterView {
            node: ledger.volumes[&V].owner,
            leader: Some(ledger.volumes[&V].owner),
            voters: BTreeSet::new(),
            confirmed: true,
            leased: true,
            state: ledger.clone(),
            mac_range: MacRange::default(),
            devices: BTreeMap::new(),
            device_bytes: has.map(|has| (V, has)).into_iter().collect(),
            legs: Vec::new(),
            out_of_room: BTreeMap::new(),
            blocked: BTreeMap::new(),
            rebuilds: BTreeMap::new(),
        };
        [("n1".parse().unwrap(), view)]
    };
    assert!(is_had(&view(None), V, GROWN).is_err());
    assert!(is_had(&view(Some(GROWN - 4096)), V, GROWN).unwrap_err().contains("536866816"));
    assert_eq!(is_had(&view(Some(GROWN)), V, GROWN), Ok(()));
}
