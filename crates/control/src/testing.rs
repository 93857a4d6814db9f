//! Small clusters for tests.

use crate::command::{ClusterCommand, Command, Event, LegRef, Rejected, VolumeCommand};
use crate::state::{Cache, Run, Settings, State, Volume};
use crate::{check, check_step};
use model::{BootId, DriveId, LegId, Mirror, NodeId, PowerCycles, Provision, VolumeId};
use std::collections::BTreeMap;

pub(crate) const VOLUME: VolumeId = VolumeId(1);

/// The boot of a node, counted from 1.
pub(crate) fn boot(node: NodeId, count: u32) -> BootId {
    BootId(u128::from(node.0) * 1000 + u128::from(count))
}

pub(crate) fn run(node: NodeId, boots: u32, power_cycles: u32) -> Run {
    Run { boot: boot(node, boots), power_cycles: PowerCycles(power_cycles) }
}

/// Registers a node and its drives.
pub(crate) fn register(state: &State, node: NodeId, run: Run) -> Command {
    let own = state.drives.iter().filter(|(_, drive)| drive.node == node);
    let drives: BTreeMap<_, _> = own.map(|(id, _)| (*id, run.power_cycles)).collect();
    let was = state.nodes.get(&node).and_then(|node| node.boot);
    Command::Cluster(ClusterCommand::Register { node, was, boot: run.boot, drives })
}

pub(crate) fn must(state: &mut State, command: &Command) -> Vec<Event> {
    state.apply(command).unwrap_or_else(|why| panic!("{command:?}: {why}"))
}

/// `nodes` storage nodes, in turns in zone 1 and 2, with `drives` drives each, and a witness after them. All have registered.
pub(crate) fn cluster(nodes: u32, drives: u32, caches: &[Cache]) -> State {
    let mut state = State::new(Settings::default());
    for number in 1..=nodes {
        let zone = Some(if number % 2 == 1 { "zone1" } else { "zone2" }.parse().unwrap());
        let name = format!("n{number}").parse().unwrap();
        must(&mut state, &Command::Cluster(ClusterCommand::AddNode { name, zone }));
        let node = NodeId(number);
        for drive in 0..drives {
            let cache = caches[(number as usize - 1) % caches.len()];
            let serial = format!("serial-{number}-{drive}").parse().unwrap();
            let power_cycles = PowerCycles(1);
            let add = ClusterCommand::AddDrive { node, serial, size_bytes: 1 << 30, cache, power_cycles };
            must(&mut state, &Command::Cluster(add));
        }
        let register = register(&state, node, run(node, 1, 1));
        must(&mut state, &register);
    }
    let name = "witness".parse().unwrap();
    must(&mut state, &Command::Cluster(ClusterCommand::AddNode { name, zone: None }));
    state
}

/// As [`cluster`], with a volume whose legs are on the first drive of the first nodes. Its epoch is not activated.
pub(crate) fn with_volume(nodes: u32, drives: u32, mirror: Mirror, caches: &[Cache]) -> State {
    let mut state = cluster(nodes, drives, caches);
    let on = (0..mirror.legs() as u32).map(|leg| DriveId(1 + leg * drives)).collect();
    let create = ClusterCommand::CreateVolume {
        name: "data".parse().unwrap(),
        mirror,
        provision: Provision::Fixed,
        size_bytes: 1 << 20,
        drives: on,
        owner: NodeId(1),
    };
    must(&mut state, &Command::Cluster(create));
    state
}

pub(crate) fn volume(state: &State) -> &Volume {
    &state.volumes[&VOLUME]
}

pub(crate) fn leg_ref(state: &State, id: u16) -> LegRef {
    let id = LegId(id);
    LegRef { id, incarnation: volume(state).legs[&id].incarnation }
}

/// A command about the volume in its present epoch.
pub(crate) fn now(state: &State, command: VolumeCommand) -> Command {
    Command::Volume(VOLUME, volume(state).epoch, command)
}

/// Confirms these legs, activates, and opens.
pub(crate) fn open(state: &mut State, confirm: &[u16]) {
    for leg in confirm {
        let leg = leg_ref(state, *leg);
        let run = state.run(volume(state).legs[&leg.id].drive).unwrap();
        let confirm = now(state, VolumeCommand::ConfirmFence { leg, run, errored: false });
        must(state, &confirm);
    }
    let activate = now(state, VolumeCommand::Activate);
    must(state, &activate);
    opened(state);
}

pub(crate) fn opened(state: &mut State) {
    let maps = volume(state).map_sequence.next();
    let opened = now(state, VolumeCommand::Opened { maps });
    must(state, &opened);
}

/// The owner has closed it in order.
pub(crate) fn close(state: &State) -> VolumeCommand {
    VolumeCommand::Close { flushed: volume(state).named_in_sync() }
}

/// The owner has, for another to have it.
pub(crate) fn hand_over(state: &State, to: NodeId) -> VolumeCommand {
    VolumeCommand::HandOver { to, flushed: volume(state).named_in_sync() }
}

/// A command about the volume is taken, and what must hold of state and step does.
pub(crate) fn does(state: &mut State, command: VolumeCommand) -> Vec<Event> {
    let (before, command) = (state.clone(), now(state, command));
    let events = must(state, &command);
    assert_eq!(check(state), []);
    assert_eq!(check_step(&before, state), []);
    events
}

/// Why a command about the volume is refused.
pub(crate) fn refused(state: &State, command: VolumeCommand) -> Rejected {
    state.clone().apply(&now(state, command)).expect_err("refused")
}

/// What came of commands at random.
pub(crate) struct Played {
    pub(crate) state: State,
    /// What was taken, in order.
    pub(crate) log: Vec<Command>,
    pub(crate) events: Vec<Event>,
}

/// Applies what comes and checks every state and every step. `command` makes one of the state, of the log until then, and of a few random bytes.
pub(crate) fn play(
    mut state: State,
    command: impl Fn(&State, &[Command], [u8; 4]) -> Command,
    picks: &[[u8; 4]],
) -> Played {
    let (mut log, mut events) = (Vec::new(), Vec::new());
    for pick in picks {
        let command = command(&state, &log, *pick);
        let before = state.clone();
        match state.apply(&command) {
            Ok(more) => {
                assert_eq!(check(&state), [], "after {command:?}");
                assert_eq!(check_step(&before, &state), [], "{command:?}");
                events.extend(more);
                log.push(command);
            }
            Err(why) => assert_eq!(state, before, "{command:?} was refused ({why}) and changed something"),
        }
    }
    Played { state, log, events }
}

/// The log, read back from its written form, gives the same state, and so does the state itself.
pub(crate) fn says_it_all(beginning: impl Fn() -> State, played: &Played) {
    let mut replayed = beginning();
    for command in &played.log {
        let written = serde_json::to_string(command).unwrap();
        let read: Command = serde_json::from_str(&written).unwrap();
        assert_eq!(read, *command);
        must(&mut replayed, &read);
    }
    assert_eq!(replayed, played.state);
    let written = serde_json::to_string(&played.state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&written).unwrap(), played.state);
}
