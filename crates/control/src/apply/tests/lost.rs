//! Drives that an operator says are gone for good.

use super::*;
use crate::retire;
use crate::state::{Drive, Health};
use crate::testing::{VOLUME, close, now, register};
use model::PowerCycles;

const OLD: DriveId = DriveId(3);

fn lost(drive: DriveId) -> Command {
    Command::Cluster(ClusterCommand::DriveLost(drive))
}

fn remove(drive: DriveId) -> Command {
    Command::Cluster(ClusterCommand::RemoveDrive(drive))
}

/// Two racks of one node with two drives each; node 2 has died, and has come back under another id. Its leg was on drive 3.
fn replaced() -> State {
    let mut state = with_volume(2, 2, Mirror::TwoWay, &[Cache::Safe]);
    open(&mut state, &[1, 2]);
    assert_eq!(volume(&state).legs[&LegId(2)].drive, OLD);
    on(&mut state, 2, V::LegStale);
    must(&mut state, &Command::Cluster(ClusterCommand::ReplaceNode { lost: NodeId(2) }));
    state
}

/// A volume that nobody has open, with a leg on drive 1 and one on drive 3.
fn closed() -> State {
    let mut state = with_volume(2, 2, Mirror::TwoWay, &[Cache::Safe]);
    open(&mut state, &[1, 2]);
    let closes = now(&state, close(&state));
    must(&mut state, &closes);
    state
}

#[test]
fn what_was_on_it_is_made_on_another_drive_of_its_rack_and_no_word_of_it_counts_any_more() {
    let mut state = replaced();
    assert_eq!(must(&mut state, &lost(OLD)), [Event::DriveLost(OLD)]);
    let new = *state.nodes.last_key_value().unwrap().0;
    let boot = run(new, 1, 1).boot;
    let says = |drives: &[(u32, u32)]| {
        let drives = drives.iter().map(|(id, count)| (DriveId(*id), PowerCycles(*count))).collect();
        Command::Cluster(ClusterCommand::Register { node: new, was: None, boot, drives })
    };
    assert_eq!(state.apply(&says(&[(3, 7), (4, 7)])), Err(Rejected::NoSuchDrive(OLD)));
    must(&mut state, &says(&[(4, 7)]));
    assert_eq!(state.run(OLD), None);
    assert!(retire::leaves(&state, (VOLUME, LegId(2))), "it is not waited for");
    let moves = retire::moves(&state, |_| true);
    let [(_, _, V::MoveLeg { to, .. })] = &moves[..] else { panic!("{moves:?}") };
    assert_eq!(*to, DriveId(4));
    assert_eq!(state.apply(&remove(OLD)), Err(Rejected::InUse), "its leg is there yet");
    assert_eq!(check(&state), []);
}

#[test]
fn a_drive_with_what_is_in_use_or_nowhere_else_is_not_lost() {
    let mut state = with_volume(2, 2, Mirror::TwoWay, &[Cache::Safe]);
    open(&mut state, &[1, 2]);
    assert_eq!(state.apply(&lost(OLD)), Err(Rejected::InUse));
    on(&mut state, 2, V::LegStale);
    let closes = now(&state, close(&state));
    must(&mut state, &closes);
    assert_eq!(state.apply(&lost(DriveId(1))), Err(Rejected::NoInSyncLegLeft));
    must(&mut state, &lost(OLD));
}

/// Nobody has it open: what is lost counts no more, so that of two drives one after the other the second is not given up.
#[test]
fn of_a_closed_volume_nothing_counts_that_is_lost() {
    let mut state = closed();
    must(&mut state, &lost(OLD));
    assert_eq!(leg(&state, 2), LegState::Stale { base: Base::Scratch, back: false });
    assert_eq!(state.apply(&lost(DriveId(1))), Err(Rejected::NoInSyncLegLeft));
    assert_eq!(check(&state), []);
    let opens = now(&state, V::Open { owner: NodeId(1) });
    must(&mut state, &opens);
    assert_eq!(volume(&state).in_sync().map(|(leg, _)| leg).collect::<Vec<_>>(), [LegId(1)]);
}

/// All that is known of its copies is in doubt: which is good is decided before one is given up, and never for one that is.
#[test]
fn of_an_offline_volume_no_drive_is_lost_and_no_override_takes_a_lost_one() {
    let mut state = closed();
    must(&mut state, &lost(OLD));
    let (by, loses) = ("operator".to_owned(), "what the others had".to_owned());
    let (incarnation, voters) = (state.incarnation.next(), BTreeSet::from([NodeId(1)]));
    let forced = ClusterCommand::ForceQuorum { incarnation, voters, by: by.clone(), loses: loses.clone() };
    must(&mut state, &Command::Cluster(forced));
    assert_eq!(state.apply(&lost(DriveId(1))), Err(Rejected::InUse));
    let leg = leg_ref(&state, 2);
    let takes = now(&state, V::Override { leg, owner: NodeId(1), by, loses });
    assert_eq!(state.apply(&takes), Err(Rejected::DriveRetired(OLD)));
}

#[test]
fn it_leaves_without_a_word_of_its_node_and_another_may_have_its_serial_number() {
    let mut state = with_volume(2, 2, Mirror::TwoWay, &[Cache::Safe]);
    open(&mut state, &[1, 2]);
    for command in [close(&state), V::Delete] {
        let command = now(&state, command);
        must(&mut state, &command);
    }
    assert_eq!(state.apply(&remove(OLD)), Err(Rejected::InUse), "what is leaving may still be written to");
    must(&mut state, &lost(OLD));
    let Drive { node, serial, size_bytes, cache, .. } = state.drives[&OLD].clone();
    let power_cycles = PowerCycles(0);
    let again = ClusterCommand::AddDrive { node, serial: serial.clone(), size_bytes, cache, power_cycles };
    let new = DriveId(5);
    assert_eq!(must(&mut state, &Command::Cluster(again.clone())), [Event::DriveAdded(new)]);
    assert_eq!(state.drive_of(&serial).map(|(id, _)| id), Some(new));
    assert_eq!(state.apply(&Command::Cluster(again)), Err(Rejected::NameTaken));
    let readmit = Command::Cluster(ClusterCommand::ReadmitDrive(OLD));
    assert_eq!(state.apply(&readmit), Err(Rejected::NameTaken));
    must(&mut state, &remove(OLD));
    assert_eq!(check(&state), []);
}

/// It was found again, as it was.
#[test]
fn one_that_is_readmitted_is_registered_again_and_as_good_as_any() {
    let mut state = replaced();
    must(&mut state, &lost(OLD));
    must(&mut state, &Command::Cluster(ClusterCommand::ReadmitDrive(OLD)));
    assert_eq!(state.drives[&OLD].health, Health::Good);
    let new = *state.nodes.last_key_value().unwrap().0;
    let registers = register(&state, new, run(new, 1, 1));
    must(&mut state, &registers);
    assert!(state.run(OLD).is_some());
    assert!(!state.same_run(&volume(&state).legs[&LegId(2)]), "it is given out anew first");
}
