//! Whatever is asked in whatever order, what must hold does; and no row of the table is there for nothing.

use super::*;
use crate::testing::{play, says_it_all};
use crate::vm::transition::VMS;
use proptest::prelude::*;

/// Two volumes, that are open, and two virtual machines.
fn beginning() -> State {
    let mut state = ledger(VmPlacement::Prefers(zone(1)));
    let create = ClusterCommand::CreateVolume {
        name: "more".parse().unwrap(),
        mirror: Mirror::TwoWay,
        provision: model::Provision::Fixed,
        size_bytes: 1 << 20,
        drives: vec![model::DriveId(1), model::DriveId(2)],
        owner: TWO,
    };
    must(&mut state, &Command::Cluster(create));
    let two = spec("two", VmPlacement::Strict(zone(2)), &[VolumeId(2)]);
    must(&mut state, &Command::Vms(VmsCommand::Create(Box::new(two))));
    state
}

/// A command that somebody could send of this state, or one from long ago.
fn command(state: &State, log: &[Command], [what, a, b, c]: [u8; 4]) -> Command {
    let node = NodeId(1 + u32::from(b % 5));
    if what >= 245 && !log.is_empty() {
        return log[usize::from(a) * log.len() / 256].clone();
    }
    let id = VmId(1 + u32::from(a % 3));
    let vms = Command::Vms;
    let Some(vm) = state.vms.all.get(&id) else {
        let volumes = [VolumeId(1 + u32::from(b % 3))];
        return vms(VmsCommand::Create(Box::new(spec("again", VmPlacement::Anywhere, &volumes))));
    };
    let wanted = [Wanted::Running, Wanted::Running, Wanted::Stopped, Wanted::Saved][usize::from(c % 4)];
    let nodes = BTreeSet::from([node, NodeId(1 + u32::from(c % 4))]);
    let leftover = if c < 128 { Leftover::Stays } else { Leftover::Saved };
    // A switch takes three commands in a row, and its end is soon there.
    let soon = match vm.phase {
        VmPhase::Migrating { ready: true, .. } if what < 90 => Some(match c % 8 {
            0 => C::Cancel,
            1 => C::Lost,
            _ => switch_of(state, vm),
        }),
        VmPhase::Migrating { .. } if what < 90 && c % 4 == 0 => Some(C::Cancel),
        VmPhase::Migrating { .. } if what < 90 => Some(C::IncomingReady),
        VmPhase::Saving { .. } if what < 20 => Some(C::GiveUpSaving(vm.saves, WhyNotSaved::Late)),
        VmPhase::Restoring { .. } if what < 20 => Some(C::Ended(How::Spoilt)),
        VmPhase::Landing { .. } if what < 60 => {
            Some([C::Began, C::Ended(How::Died), C::Lost][usize::from(c % 3)].clone())
        }
        _ => None,
    };
    if let Some(command) = soon {
        return Command::Vm(id, vm.generation, command);
    }
    let about = match what % 40 {
        0..5 => return vms(VmsCommand::Want(id, wanted)),
        5 if c < 30 => return vms(VmsCommand::Delete(id)),
        6 => {
            let zone = zone(1 + u32::from(b % 2));
            let placement = if c < 128 { VmPlacement::Prefers(zone) } else { VmPlacement::Strict(zone) };
            return vms(VmsCommand::SetPlacement(id, placement));
        }
        7 => return vms(VmsCommand::Drain { nodes, leftover }),
        8 | 9 => return vms(VmsCommand::EndDrain { nodes: (1..=4).map(NodeId).collect() }),
        10 => return vms(VmsCommand::ZoneReady(zone(1 + u32::from(b % 2)))),
        11 if c < 40 => return register(state, node, run(node, 1 + u32::from(c % 3), 1 + u32::from(c % 3))),
        12 if c < 20 => {
            let incarnation = LedgerIncarnation(state.incarnation.0 + u32::from(c % 2));
            let (voters, text) = (BTreeSet::from([node]), || "a test".to_owned());
            let force = ClusterCommand::ForceQuorum { incarnation, voters, by: text(), loses: text() };
            return Command::Cluster(force);
        }
        13 if c < 30 => return Command::Cluster(ClusterCommand::RemoveNode(node)),
        14..17 => return of_a_volume(state, vm, (node, c)),
        17..20 => C::Place { on: node },
        20..25 => C::Began,
        25 => C::Ended(
            [How::Died, How::PoweredOff, How::Saved(SaveTry(u32::from(b)), 0), How::Spoilt]
                [usize::from(c % 4)],
        ),
        26 => C::Lost,
        27 => C::Stop,
        28 | 29 => C::Save,
        30 => C::Ended(How::Saved(vm.saves, 1)),
        31..34 => C::Migrate { to: node },
        34 | 35 => C::IncomingReady,
        36 | 37 => switch_of(state, vm),
        38 if c < 80 => C::Cancel,
        _ => {
            let (node, boot) = vm.yielding.first_key_value().unwrap_or((&node, &BootId(1)));
            C::Yielded { node: *node, boot: *boot }
        }
    };
    Command::Vm(id, vm.generation, about)
}

fn switch_of(state: &State, vm: &Vm) -> C {
    let closed = |id: &VolumeId| {
        let volume = state.volumes.get(id)?;
        Some((*id, Closed { epoch: volume.epoch, flushed: volume.named_in_sync() }))
    };
    C::Switch { volumes: vm.spec.volumes.iter().filter_map(closed).collect() }
}

fn of_a_volume(state: &State, vm: &Vm, (node, c): (NodeId, u8)) -> Command {
    let id = vm.spec.volumes[0];
    let Some(volume) = state.volumes.get(&id) else { return Command::Vms(VmsCommand::Delete(VmId(9))) };
    let leg = volume.legs.iter().nth(usize::from(c) % volume.legs.len()).unwrap();
    let leg = LegRef { id: *leg.0, incarnation: leg.1.incarnation };
    let owner = vm.phase.seat().map_or(node, |seat| seat.node);
    let text = || "a test".to_owned();
    let command = match c % 16 {
        0 => VolumeCommand::Takeover { owner, lease_over: c < 128 },
        1 => VolumeCommand::Override { leg, owner, by: text(), loses: text() },
        2 => VolumeCommand::Close { flushed: volume.named_in_sync() },
        3 => VolumeCommand::Open { owner },
        4 => VolumeCommand::HandOver { to: node, flushed: volume.named_in_sync() },
        5..8 => VolumeCommand::Activate,
        8..11 => {
            let run = state.run(volume.legs[&leg.id].drive).unwrap_or(run(ONE, 1, 1));
            VolumeCommand::ConfirmFence { leg, run, errored: false }
        }
        _ => VolumeCommand::Opened { maps: volume.map_sequence.next() },
    };
    Command::Volume(id, volume.epoch, command)
}

proptest! {
    #[test]
    fn whatever_is_asked_the_invariants_hold_and_the_log_says_it_all(
        picks in proptest::collection::vec(any::<[u8; 4]>(), 1..200)
    ) {
        says_it_all(beginning, &play(beginning(), command, &picks));
    }
}

#[test]
fn every_legal_transition_is_reached() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut counts: BTreeMap<_, u32> = VMS.into_iter().map(|row| (row, 0)).collect();
    for _ in 0..2000 {
        let picks: Vec<[u8; 4]> = (0..300).map(|_| std::array::from_fn(|_| random.u8(..))).collect();
        for event in play(beginning(), command, &picks).events {
            if let Event::Vm(_, _, from, cause, to) = event {
                *counts.get_mut(&(from, cause, to)).unwrap() += 1;
            }
        }
    }
    assert_eq!(counts.iter().filter(|(_, count)| **count == 0).collect::<Vec<_>>(), []);
}
