//! Which copy is declared to be good, on ledgers as data.

use super::*;
use control::ClusterCommand;
use control::state::{Cache, Run, Settings};
use model::{BootId, DriveId, LedgerIncarnation, MapSequence, Mirror, PowerCycles, Provision};
use std::collections::BTreeMap;

const V: VolumeId = VolumeId(1);

fn must(ledger: &mut State, command: ClusterCommand) {
    ledger.apply(&Command::Cluster(command)).unwrap();
}

fn ask(ledger: &mut State, command: VolumeCommand) {
    let epoch = ledger.volumes[&V].epoch;
    ledger.apply(&Command::Volume(V, epoch, command)).unwrap();
}

/// Two racks of one node with one drive each, and an open volume on both.
fn open() -> State {
    let mut ledger = State::new(Settings::default());
    let (size_bytes, cache, power_cycles) = (1 << 30, Cache::Safe, PowerCycles(0));
    for number in 1..=2_u32 {
        let (name, zone) = (format!("n{number}").parse().unwrap(), format!("rack{number}").parse().unwrap());
        must(&mut ledger, ClusterCommand::AddNode { name, zone: Some(zone) });
        let (node, boot) = (NodeId(number), BootId(u128::from(number)));
        must(&mut ledger, ClusterCommand::Register { node, was: None, boot, drives: BTreeMap::new() });
        let serial = format!("S{number}").parse().unwrap();
        must(&mut ledger, ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles });
    }
    let (name, mirror, provision) = ("v".parse().unwrap(), Mirror::TwoWay, Provision::Fixed);
    let (size_bytes, drives, owner) = (1 << 28, vec![DriveId(1), DriveId(2)], NodeId(1));
    must(&mut ledger, ClusterCommand::CreateVolume { name, mirror, provision, size_bytes, drives, owner });
    for id in [1, 2] {
        let leg = LegRef { id: LegId(id), incarnation: ledger.volumes[&V].legs[&LegId(id)].incarnation };
        let run = Run { boot: BootId(u128::from(id)), power_cycles };
        ask(&mut ledger, VolumeCommand::ConfirmFence { leg, run, errored: false });
    }
    ask(&mut ledger, VolumeCommand::Activate);
    ask(&mut ledger, VolumeCommand::Opened { maps: MapSequence(1) });
    ledger
}

/// A quorum was forced with node 1.
fn forced() -> State {
    let mut ledger = open();
    let (incarnation, voters) = (LedgerIncarnation(5), BTreeSet::from([NodeId(1)]));
    let (by, loses) = ("anna".to_owned(), "what the others had".to_owned());
    must(&mut ledger, ClusterCommand::ForceQuorum { incarnation, voters, by, loses });
    ledger
}

fn all() -> BTreeSet<NodeId> {
    BTreeSet::from([NodeId(1), NodeId(2)])
}

#[test]
fn after_a_forced_quorum_the_survivors_copy_is_taken_and_what_that_loses_is_said() {
    let ledger = forced();
    let plan = choose_override(&ledger, &all(), V, None).unwrap();
    assert_eq!((plan.leg.id, plan.owner), (LegId(1), NodeId(1)));
    let told = plan.to_string();
    for word in ["leg-1 on n1, which is suspect", "lost majority", "leg-2 on n2 is made anew"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // What the ledger is asked is taken by it, once.
    let OverridePlan { epoch, leg, owner, .. } = plan;
    let (by, loses) = ("anna".to_owned(), "all".to_owned());
    let command = Command::Volume(V, epoch, VolumeCommand::Override { leg, owner, by, loses });
    let mut overridden = ledger;
    overridden.apply(&command).unwrap();
    assert!(overridden.apply(&command).is_err());
    let again = choose_override(&overridden, &all(), V, None);
    assert!(matches!(again, Err(CantOverride::NotOffline { .. })), "{again:?}");
}

#[test]
fn a_copy_of_a_stranger_or_of_a_node_that_does_not_answer_is_not_taken() {
    let ledger = forced();
    for leg in [None, Some(LegId(2))] {
        let only_the_other = choose_override(&ledger, &BTreeSet::from([NodeId(2)]), V, leg);
        assert!(matches!(only_the_other, Err(CantOverride::Silent { .. })), "{only_the_other:?}");
    }
    assert_eq!(choose_override(&ledger, &all(), V, Some(LegId(9))), Err(CantOverride::NoLeg(V, LegId(9))));
    let unknown = VolumeId(7);
    assert_eq!(choose_override(&ledger, &all(), unknown, None), Err(CantOverride::NoVolume(unknown)));
}

#[test]
fn a_volume_with_a_good_copy_is_not_overridden() {
    let refused = choose_override(&open(), &all(), V, None);
    assert!(matches!(refused, Err(CantOverride::NotOffline { .. })), "{refused:?}");
}
