//! Virtual machines in the ledger, on their nodes and with the leader: by example, and by random commands.

mod decided;
mod lost;
mod ran;
mod random;

use crate::command::{ClusterCommand, Command, Event, LegRef, Rejected, VolumeCommand};
use crate::state::{Cache, State};
use crate::testing::{VOLUME, boot, cluster, must, now, open, opened, register, run, volume, with_volume};
use crate::vm::check::Broken as B;
use crate::vm::transition::{VmCause, VmKind};
use crate::vm::{
    Closed, How, Leftover, Room, Seat, Vm, VmCommand as C, VmPhase, VmRejected, VmsCommand, Wanted,
    WhyNotSaved,
};
use crate::{Broken, check, check_step, vm};
use model::{
    BootId, Generation, LedgerIncarnation, LegId, Mirror, NodeId, SaveTry, VmId, VmNic, VmPlacement, VmSpec,
    VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};

const VM: VmId = VmId(1);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const THREE: NodeId = NodeId(3);
const FIRST: SaveTry = SaveTry(1);
const SECOND: SaveTry = SaveTry(2);
/// How much is saved.
const BYTES: u64 = 7 << 20;

fn zone(number: u32) -> model::ZoneName {
    format!("zone{number}").parse().unwrap()
}

fn spec(name: &str, placement: VmPlacement, volumes: &[VolumeId]) -> VmSpec {
    let name = name.parse().unwrap();
    VmSpec {
        name,
        memory_bytes: 1 << 30,
        cores: 1,
        placement,
        anti_affinity: None,
        volumes: volumes.to_vec(),
        saves_to: volumes.last().copied(),
        nics: Vec::new(),
    }
}

fn with_rooms(state: &mut State) {
    for node in 1..=4 {
        let room = Room { memory_bytes: 3 << 30, cores: 4 };
        must(state, &Command::Vms(VmsCommand::SetRoom(NodeId(node), room)));
    }
}

/// 2+2 (racks 1, 2, 1, 2 by node), a volume that is open on node 1, and a virtual machine that has it and is wanted running.
fn ledger(placement: VmPlacement) -> State {
    let mut state = with_volume(4, 1, Mirror::FourWay, &[Cache::Safe]);
    open(&mut state, &[1, 2, 3, 4]);
    with_rooms(&mut state);
    must(&mut state, &Command::Vms(VmsCommand::Create(Box::new(spec("one", placement, &[VOLUME])))));
    must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Running)));
    state
}

fn the_vm(state: &State) -> &Vm {
    &state.vms.all[&VM]
}

fn about(state: &State, command: C) -> Command {
    Command::Vm(VM, the_vm(state).generation, command)
}

/// It is taken, and what must hold of state and step does.
fn does(state: &mut State, command: C) -> Vec<Event> {
    let (before, command) = (state.clone(), about(state, command));
    let events = must(state, &command);
    assert_eq!(check(state), []);
    assert_eq!(check_step(&before, state), []);
    events
}

fn refused(state: &State, command: C) -> Rejected {
    let mut copy = state.clone();
    let why = copy.apply(&about(state, command)).expect_err("refused");
    assert_eq!(copy, *state, "a refused command changes nothing");
    why
}

fn seat(node: NodeId, generation: u32) -> Seat {
    Seat { node, boot: boot(node, 1), generation: Generation(generation) }
}

/// It runs on node 1, in generation 1.
fn running(placement: VmPlacement) -> State {
    let mut state = ledger(placement);
    does(&mut state, C::Place { on: ONE });
    does(&mut state, C::Began);
    state
}

/// It waits on node 2, in generation 2.
fn migrating() -> State {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Migrate { to: TWO });
    does(&mut state, C::IncomingReady);
    state
}

fn switch(state: &State) -> C {
    let volume = volume(state);
    let closed = Closed { epoch: volume.epoch, flushed: volume.named_in_sync() };
    C::Switch { volumes: BTreeMap::from([(VOLUME, closed)]) }
}

fn switches(state: &mut State) {
    let command = switch(state);
    does(state, command);
}

#[test]
fn no_node_leaves_the_cluster_while_one_is_there() {
    let mut state = with_volume(4, 1, Mirror::TwoWay, &[Cache::Safe]);
    open(&mut state, &[1, 2]);
    with_rooms(&mut state);
    let spec = spec("one", VmPlacement::Anywhere, &[VOLUME]);
    must(&mut state, &Command::Vms(VmsCommand::Create(Box::new(spec))));
    must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Running)));
    does(&mut state, C::Place { on: ONE });
    let leave = |nodes: [u32; 2]| {
        let command = ClusterCommand::NodesLeave { nodes: nodes.map(NodeId).into() };
        state.clone().apply(&Command::Cluster(command)).map(drop)
    };
    assert_eq!(leave([1, 4]), Err(Rejected::InUse));
    assert_eq!(leave([3, 4]), Ok(()));
}

#[test]
fn one_has_as_many_nics_as_may_be_and_no_more() {
    let state = with_volume(4, 1, Mirror::FourWay, &[Cache::Safe]);
    let nics = |count| vec![VmNic { vlan: "8".parse().unwrap() }; count];
    let create = |count| {
        let spec = VmSpec { nics: nics(count), ..spec("one", VmPlacement::Anywhere, &[VOLUME]) };
        state.clone().apply(&Command::Vms(VmsCommand::Create(Box::new(spec))))
    };
    assert!(create(VmNic::MAX).is_ok());
    assert_eq!(create(VmNic::MAX + 1), Err(VmRejected::Nics(VmNic::MAX + 1).into()));
}

#[test]
fn a_lost_one_is_started_elsewhere_in_a_later_generation_and_runs_when_the_lost_node_has_yielded() {
    let mut state = running(VmPlacement::Anywhere);
    let late = about(&state, C::Ended(How::Died));
    does(&mut state, C::Lost);
    assert_eq!(the_vm(&state).yielding, BTreeMap::from([(ONE, boot(ONE, 1))]));
    assert_eq!(state.vms.held_down, BTreeSet::from([zone(1)]), "no home until it has been well for a while");
    does(&mut state, C::Place { on: TWO });
    assert_eq!(the_vm(&state).phase, VmPhase::Starting { at: seat(TWO, 2) });
    let present = Generation(2);
    assert_eq!(state.clone().apply(&late), Err(VmRejected::Superseded { present }.into()));
    assert_eq!(refused(&state, C::Began), VmRejected::MayStillRun(ONE).into());
    does(&mut state, C::Yielded { node: ONE, boot: boot(ONE, 1) });
    does(&mut state, C::Began);
    assert_eq!(the_vm(&state).phase, VmPhase::Running { at: seat(TWO, 2) });
}

#[test]
fn what_ran_in_a_boot_that_is_over_yields_nothing() {
    let mut state = running(VmPlacement::Anywhere);
    let booted = register(&state, ONE, run(ONE, 2, 2));
    must(&mut state, &booted);
    does(&mut state, C::Lost);
    assert_eq!(the_vm(&state).yielding, BTreeMap::new());
}

#[test]
fn a_strict_one_is_put_nowhere_else() {
    let state = ledger(VmPlacement::Strict(zone(1)));
    assert_eq!(refused(&state, C::Place { on: TWO }), VmRejected::OutsideZone(TWO).into());
    let mut state = running(VmPlacement::Strict(zone(1)));
    assert_eq!(refused(&state, C::Migrate { to: TWO }), VmRejected::OutsideZone(TWO).into());
    does(&mut state, C::Migrate { to: THREE });
    let mut wrong = state.clone();
    wrong.vms.all.get_mut(&VM).unwrap().phase = VmPhase::Starting { at: seat(TWO, 3) };
    wrong.vms.all.get_mut(&VM).unwrap().generation = Generation(3);
    let outside = Broken::Vm(vm::check::Broken::OutsideZone(VM, TWO));
    assert!(check_step(&state, &wrong).contains(&outside));
}

#[test]
fn a_node_takes_what_it_has_room_for_and_nothing_in_maintenance() {
    let mut state = ledger(VmPlacement::Anywhere);
    let small = Room { memory_bytes: (1 << 30) - 1, cores: 4 };
    must(&mut state, &Command::Vms(VmsCommand::SetRoom(TWO, small)));
    let lacks = VmRejected::NoRoom { node: TWO, bytes: 1, cores: 0 };
    assert_eq!(refused(&state, C::Place { on: TWO }), lacks.into());
    let (nodes, leftover) = (BTreeSet::from([ONE]), Leftover::Stays);
    must(&mut state, &Command::Vms(VmsCommand::Drain { nodes, leftover }));
    assert_eq!(refused(&state, C::Place { on: ONE }), VmRejected::Drains(ONE).into());
    let all = VmsCommand::Drain { nodes: (1..=4).map(NodeId).collect(), leftover };
    assert_eq!(state.clone().apply(&Command::Vms(all)), Err(VmRejected::NobodyLeft.into()));
}

#[test]
fn a_switch_moves_the_side_and_all_volumes_in_one_commit_and_only_once() {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Migrate { to: TWO });
    assert_eq!(refused(&state, switch(&state)), VmRejected::NotReady.into());
    does(&mut state, C::IncomingReady);
    assert_eq!(refused(&state, C::Switch { volumes: BTreeMap::new() }), VmRejected::NotAllVolumes.into());
    let (epoch, command) = (volume(&state).epoch, about(&state, switch(&state)));
    switches(&mut state);
    assert_eq!((volume(&state).owner, volume(&state).epoch), (TWO, epoch.next()));
    assert_eq!(the_vm(&state).phase, VmPhase::Landing { from: seat(ONE, 1), at: seat(TWO, 2) });
    let cancelled = VmRejected::Cannot { phase: VmKind::Landing, cause: VmCause::Cancelled };
    assert_eq!(refused(&state, C::Cancel), cancelled.into(), "after it the source never runs again");
    assert!(state.clone().apply(&command).is_err());
    opened(&mut state);
    does(&mut state, C::Began);
    assert_eq!(the_vm(&state).phase, VmPhase::Running { at: seat(TWO, 2) });
}

#[test]
fn what_is_committed_first_of_a_switch_and_what_keeps_it_there_makes_the_other_void() {
    let mut state = migrating();
    let late = about(&state, switch(&state));
    let back = now(&state, VolumeCommand::HandOver { to: ONE, flushed: volume(&state).named_in_sync() });
    let mut taken_back = state.clone();
    must(&mut taken_back, &back);
    assert!(
        matches!(taken_back.apply(&late), Err(Rejected::Superseded { .. })),
        "the volume is in another epoch"
    );
    does(&mut state, C::Cancel);
    assert_eq!(the_vm(&state).phase, VmPhase::Running { at: seat(ONE, 1) });
    assert_eq!(the_vm(&state).avoids, Some(TWO));
    assert!(state.apply(&late).is_err());
    does(&mut state, C::Migrate { to: THREE });
    assert_eq!(the_vm(&state).generation, Generation(3), "no generation is given out twice");
}

#[test]
fn a_saved_memory_is_used_once_and_given_up_with_its_disks() {
    let mut state = running(VmPlacement::Anywhere);
    must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Saved)));
    does(&mut state, C::Save);
    does(&mut state, C::Ended(How::Saved(FIRST, BYTES)));
    must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Running)));
    let overridden = |state: &State| {
        let mut state = state.clone();
        let leg = LegRef { id: LegId(1), incarnation: volume(&state).legs[&LegId(1)].incarnation };
        let (by, loses) = ("operator".to_owned(), "all".to_owned());
        let takeover = now(&state, VolumeCommand::Takeover { owner: TWO, lease_over: true });
        must(&mut state, &takeover);
        let command = now(&state, VolumeCommand::Override { leg, owner: TWO, by, loses });
        must(&mut state, &command);
        state
    };
    assert_eq!(the_vm(&overridden(&state)).phase, VmPhase::Off);
    let mut kept = state.clone();
    must(&mut kept, &Command::Vms(VmsCommand::Want(VM, Wanted::Saved)));
    assert_eq!(the_vm(&overridden(&kept)).wanted, Wanted::Stopped, "it stays off, as it was");
    does(&mut state, C::Place { on: ONE });
    assert_eq!(the_vm(&state).phase.kind(), VmKind::Restoring);
    assert_eq!(the_vm(&overridden(&state)).phase, VmPhase::Off);
    let mut moved = migrating();
    switches(&mut moved);
    assert_eq!(the_vm(&overridden(&moved)).phase, VmPhase::Off, "what has come does not fit, either");
    assert_eq!(overridden(&moved).vms.held_down, BTreeSet::new(), "no node was lost");
    let mut failed = state.clone();
    does(&mut failed, C::Lost);
    assert_eq!(the_vm(&failed).phase, VmPhase::Saved, "it has not run");
    does(&mut state, C::Began);
    does(&mut state, C::Lost);
    assert_eq!(the_vm(&state).phase, VmPhase::Off, "it may have run");
}

#[test]
fn one_without_a_volume_for_its_memory_is_not_saved() {
    let mut state = running(VmPlacement::Anywhere);
    state.vms.all.get_mut(&VM).unwrap().spec.saves_to = None;
    assert_eq!(refused(&state, C::Save), VmRejected::NowhereToSave.into());
    let wanted = Command::Vms(VmsCommand::Want(VM, Wanted::Saved));
    assert_eq!(state.apply(&wanted), Err(VmRejected::NowhereToSave.into()));
    let mut none = ledger(VmPlacement::Anywhere);
    must(&mut none, &Command::Vms(VmsCommand::Delete(VM)));
    let other = VmSpec { saves_to: Some(VolumeId(9)), ..spec("one", VmPlacement::Anywhere, &[VOLUME]) };
    let create = Command::Vms(VmsCommand::Create(Box::new(other)));
    assert_eq!(none.apply(&create), Err(VmRejected::NotItsVolume(VolumeId(9)).into()));
}

#[test]
fn one_that_is_lost_or_dies_while_it_is_saved_is_wanted_running() {
    for (command, wanted) in [
        (C::Lost, Wanted::Running),
        (C::Ended(How::Died), Wanted::Running),
        (C::Ended(How::PoweredOff), Wanted::Stopped),
    ] {
        let mut state = running(VmPlacement::Anywhere);
        must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Saved)));
        does(&mut state, C::Save);
        does(&mut state, command);
        assert_eq!((the_vm(&state).phase, the_vm(&state).wanted), (VmPhase::Off, wanted));
        assert_eq!(the_vm(&state).not_saved, Some(WhyNotSaved::Lost));
    }
}

#[test]
fn what_does_not_run_is_not_wanted_saved() {
    let mut state = running(VmPlacement::Anywhere);
    let wanted = Command::Vms(VmsCommand::Want(VM, Wanted::Saved));
    let refused = |state: &State, phase| {
        let why = VmRejected::Cannot { phase, cause: VmCause::Save };
        assert_eq!(state.clone().apply(&wanted), Err(why.into()));
    };
    must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Stopped)));
    does(&mut state, C::Stop);
    refused(&state, VmKind::Stopping);
    does(&mut state, C::Ended(How::PoweredOff));
    refused(&state, VmKind::Off);
    assert_eq!(the_vm(&state).not_saved, None, "nobody wanted that");
}

#[test]
fn a_ledger_from_before_tries_were_counted_is_read() {
    let state = running(VmPlacement::Anywhere);
    let mut written = serde_json::to_value(&state.vms).unwrap();
    written["all"]["1"].as_object_mut().unwrap().remove("saves").unwrap();
    assert!(written["all"]["1"].get("memory_lost").is_none(), "nor whether memory was lost");
    assert_eq!(serde_json::from_value::<vm::Vms>(written).unwrap(), state.vms);
}

#[test]
fn a_forced_quorum_loses_what_ran_and_both_sides_of_what_moved_yield() {
    let mut state = migrating();
    switches(&mut state);
    let (by, loses) = ("operator".to_owned(), "the last writes".to_owned());
    let (incarnation, voters) = (LedgerIncarnation(9), BTreeSet::from([ONE]));
    must(&mut state, &Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses }));
    assert_eq!(the_vm(&state).phase, VmPhase::Off);
    assert_eq!(the_vm(&state).yielding.keys().copied().collect::<Vec<_>>(), [ONE, TWO]);
    assert_eq!(check(&state), []);
}

#[test]
fn a_disk_is_one_virtual_machines_and_is_not_taken_from_under_it() {
    let mut state = running(VmPlacement::Anywhere);
    let another = Command::Vms(VmsCommand::Create(Box::new(spec("two", VmPlacement::Anywhere, &[VOLUME]))));
    assert_eq!(state.apply(&another), Err(VmRejected::Disk(VOLUME).into()));
    let of_vm = VmRejected::OfVm { volume: VOLUME, vm: VM };
    let away = now(&state, VolumeCommand::HandOver { to: TWO, flushed: volume(&state).named_in_sync() });
    assert_eq!(state.apply(&away), Err(of_vm.clone().into()));
    let close = now(&state, VolumeCommand::Close { flushed: volume(&state).named_in_sync() });
    must(&mut state, &close);
    let delete = now(&state, VolumeCommand::Delete);
    assert_eq!(state.apply(&delete), Err(of_vm.into()));
    assert_eq!(
        state.apply(&Command::Vms(VmsCommand::Delete(VM))),
        Err(VmRejected::NotOff(VmKind::Running).into())
    );
    does(&mut state, C::Ended(How::Died));
    must(&mut state, &Command::Vms(VmsCommand::Delete(VM)));
    must(&mut state, &delete);
}

#[test]
fn a_ledger_from_before_has_no_virtual_machines() {
    let state = cluster(2, 1, &[Cache::Safe]);
    let mut written = serde_json::to_value(&state).unwrap();
    written.as_object_mut().unwrap().remove("vms");
    assert_eq!(serde_json::from_value::<State>(written).unwrap(), state);
}

#[test]
fn what_must_hold_is_seen_when_it_does_not() {
    let good = migrating();
    let with = |change: &dyn Fn(&mut Vm)| {
        let mut state = good.clone();
        change(state.vms.all.get_mut(&VM).unwrap());
        (check(&state), check_step(&good, &state))
    };
    assert_eq!(with(&|_| {}), (vec![], vec![]));
    let broken = |broken| vec![Broken::Vm(broken)];
    let yields = with(&|vm| vm.yielding.extend([(THREE, BootId(3))])).0;
    assert_eq!(yields, broken(B::MayStillRun(VM, THREE)));
    assert_eq!(with(&|vm| vm.generation = Generation(1)).0, broken(B::Seat(VM)));
    assert_eq!(with(&|vm| vm.spec.volumes.push(VolumeId(9))).0, broken(B::Disk(VolumeId(9))));
    let moved = VmPhase::Landing { from: seat(ONE, 1), at: seat(TWO, 2) };
    assert_eq!(with(&|vm| vm.phase = moved).1, broken(B::WithoutVolumes(VM)));
    let twice = with(&|vm| vm.phase = VmPhase::Running { at: seat(THREE, 1) }).1;
    assert!(twice.contains(&Broken::Vm(B::TwoSeats(VM))), "{twice:?}");
}
