//! What a move asks for, waits for and refuses, on ledgers as data.

use super::*;
use control::state::{Cache, Run, Settings};
use model::{BootId, MapSequence, Mirror, NodeId, PowerCycles, Provision};

pub(in crate::pool) const V: VolumeId = VolumeId(1);

fn must(ledger: &mut State, command: ClusterCommand) {
    ledger.apply(&Command::Cluster(command)).unwrap();
}

pub(in crate::pool) fn ask(ledger: &mut State, command: VolumeCommand) {
    let epoch = ledger.volumes[&V].epoch;
    ledger.apply(&Command::Volume(V, epoch, command)).unwrap();
}

pub(in crate::pool) fn leg(ledger: &State, id: u16) -> LegRef {
    LegRef { id: LegId(id), incarnation: ledger.volumes[&V].legs[&LegId(id)].incarnation }
}

pub(in crate::pool) fn run(ledger: &State, id: u16) -> Run {
    let node = ledger.drives[&ledger.volumes[&V].legs[&LegId(id)].drive].node;
    Run { boot: BootId(u128::from(node.0)), power_cycles: PowerCycles(0) }
}

/// Two racks of one node with two drives each (1 and 2, 3 and 4), and an open volume on drives 1 and 3.
pub(in crate::pool) fn open() -> State {
    let mut ledger = State::new(Settings::default());
    for number in 1..=2_u32 {
        let (name, zone) = (format!("n{number}").parse().unwrap(), format!("rack{number}").parse().unwrap());
        must(&mut ledger, ClusterCommand::AddNode { name, zone: Some(zone) });
        let (node, boot) = (NodeId(number), BootId(u128::from(number)));
        must(&mut ledger, ClusterCommand::Register { node, was: None, boot, drives: BTreeMap::new() });
        for at in 0..2 {
            let serial = format!("S{number}-{at}").parse().unwrap();
            let (size_bytes, power_cycles) = (1 << 30, PowerCycles(0));
            must(
                &mut ledger,
                ClusterCommand::AddDrive { node, serial, size_bytes, cache: Cache::Safe, power_cycles },
            );
        }
    }
    let create = ClusterCommand::CreateVolume {
        name: "v".parse().unwrap(),
        mirror: Mirror::TwoWay,
        provision: Provision::Fixed,
        size_bytes: 1 << 28,
        drives: vec![DriveId(1), DriveId(3)],
        owner: NodeId(1),
    };
    must(&mut ledger, create);
    for id in [1, 2] {
        let (leg, run) = (leg(&ledger, id), run(&ledger, id));
        ask(&mut ledger, VolumeCommand::ConfirmFence { leg, run, errored: false });
    }
    ask(&mut ledger, VolumeCommand::Activate);
    ask(&mut ledger, VolumeCommand::Opened { maps: MapSequence(1) });
    ledger
}

fn asked(ledger: &State, from: u32, to: Option<u32>) -> (DriveId, Command) {
    match next_of_move(ledger, V, DriveId(from), to.map(DriveId)) {
        Ok(Move::Ask { to, command }) => (to, command),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_goes_to_another_drive_of_its_rack_and_is_there_when_the_old_one_is_gone() {
    let mut ledger = open();
    let (to, command) = asked(&ledger, 1, None);
    assert_eq!(to, DriveId(2));
    ledger.apply(&command).unwrap();
    let waits = next_of_move(&ledger, V, DriveId(1), None);
    assert!(matches!(&waits, Ok(Move::Waits { to: DriveId(2), .. })), "{waits:?}");
    let (leg3, run3) = (leg(&ledger, 3), run(&ledger, 3));
    ask(&mut ledger, VolumeCommand::Reexport { leg: leg3, run: run3 });
    let leg3 = leg(&ledger, 3);
    ask(&mut ledger, VolumeCommand::BeginRebuild(leg3));
    assert_eq!(volumes_on(&ledger, DriveId(1)), [V]);
    ask(&mut ledger, VolumeCommand::LegInSync { leg: leg3, maps: MapSequence(1) });
    assert_eq!(next_of_move(&ledger, V, DriveId(1), Some(DriveId(2))), Ok(Move::There(DriveId(2))));
    assert_eq!(volumes_on(&ledger, DriveId(1)), []);
    let gone = CantMove::NoCopy { volume: V, drive: DriveId(1) };
    assert_eq!(next_of_move(&ledger, V, DriveId(1), None), Err(gone));
}

#[test]
fn what_breaks_the_rule_is_not_asked_for() {
    let ledger = open();
    let other_rack = next_of_move(&ledger, V, DriveId(1), Some(DriveId(4)));
    assert!(matches!(other_rack, Err(CantMove::NoPlace(NoPlace::Breach(_)))), "{other_rack:?}");
    let itself = next_of_move(&ledger, V, DriveId(1), Some(DriveId(1)));
    assert!(matches!(itself, Err(CantMove::NoPlace(NoPlace::Rejected(_)))), "{itself:?}");
    let mut alone = open();
    must(&mut alone, ClusterCommand::RetireDrive(DriveId(2)));
    let nowhere = next_of_move(&alone, V, DriveId(1), None);
    assert!(matches!(nowhere, Err(CantMove::NoPlace(NoPlace::Room(_)))), "{nowhere:?}");
}

#[test]
fn nothing_moves_while_nobody_copies() {
    let mut ledger = open();
    let close = VolumeCommand::Close { flushed: ledger.volumes[&V].named_in_sync() };
    ask(&mut ledger, close);
    assert!(matches!(next_of_move(&ledger, V, DriveId(1), None), Err(CantMove::NotOpen { .. })));
    let unknown = next_of_move(&ledger, VolumeId(9), DriveId(1), None);
    assert_eq!(unknown, Err(CantMove::NoVolume(VolumeId(9))));
}
