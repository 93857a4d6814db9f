//! What widening asks for, waits for and refuses, on ledgers as data.

use super::super::moves::tests::{V, leg, open, run};
use super::*;
use control::ClusterCommand;
use control::state::Cache;
use model::{BootId, MapSequence, NodeId, PowerCycles};
use std::collections::BTreeMap;

fn must(ledger: &mut State, command: ClusterCommand) {
    ledger.apply(&Command::Cluster(command)).unwrap();
}

/// One node more in each rack, each with a drive (5 and 6).
fn with_nodes_added() -> State {
    let mut ledger = open();
    for (node, rack) in [(3_u32, 1), (4, 2)] {
        let (name, zone) = (format!("n{node}").parse().unwrap(), format!("rack{rack}").parse().unwrap());
        must(&mut ledger, ClusterCommand::AddNode { name, zone: Some(zone) });
        let (node, boot, drives) = (NodeId(node), BootId(u128::from(node)), BTreeMap::new());
        must(&mut ledger, ClusterCommand::Register { node, was: None, boot, drives });
        let (serial, size_bytes, cache) = (format!("S{node}").parse().unwrap(), 1 << 30, Cache::Safe);
        must(
            &mut ledger,
            ClusterCommand::AddDrive { node, serial, size_bytes, cache, power_cycles: PowerCycles(0) },
        );
    }
    ledger
}

fn ask(ledger: &mut State, command: VolumeCommand) {
    let epoch = ledger.volumes[&V].epoch;
    ledger.apply(&Command::Volume(V, epoch, command)).unwrap();
}

#[test]
fn the_two_that_are_added_are_on_the_new_nodes_and_waited_for() {
    let mut ledger = with_nodes_added();
    let Ok(Widening::Ask { drives, command }) = next_of_widening(&ledger, V) else {
        panic!("it has two copies")
    };
    assert_eq!(drives, [DriveId(5), DriveId(6)]);
    ledger.apply(&command).unwrap();
    assert!(matches!(next_of_widening(&ledger, V), Ok(Widening::Waits(_))));
    for id in [3, 4] {
        let (named, run) = (leg(&ledger, id), run(&ledger, id));
        ask(&mut ledger, VolumeCommand::Reexport { leg: named, run });
        let named = leg(&ledger, id);
        ask(&mut ledger, VolumeCommand::BeginRebuild(named));
        assert!(matches!(next_of_widening(&ledger, V), Ok(Widening::Waits(_))));
        let maps = MapSequence(ledger.volumes[&V].map_sequence.0 + 1);
        ask(&mut ledger, VolumeCommand::MapDurable { maps });
        ask(&mut ledger, VolumeCommand::LegInSync { leg: named, maps });
    }
    assert_eq!(next_of_widening(&ledger, V), Ok(Widening::There));
}

#[test]
fn what_can_t_be_widened_is_said() {
    assert!(matches!(next_of_widening(&open(), V), Err(CantWiden::NoPlace(_))), "each rack has one node");
    assert_eq!(next_of_widening(&open(), VolumeId(9)), Err(CantWiden::NoVolume(VolumeId(9))));
    let mut ledger = with_nodes_added();
    let flushed = ledger.volumes[&V].named_in_sync();
    ask(&mut ledger, VolumeCommand::Close { flushed });
    assert!(matches!(next_of_widening(&ledger, V), Err(CantWiden::NotOpen { .. })));
}
