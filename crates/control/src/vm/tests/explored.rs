//! Two nodes, one volume and one virtual machine, in every state that they can get into: never two that run.
//!
//! The state machine and the runners are the real ones. Around them: whatever was proposed reaches the ledger at any time, any number of times; a node sees the
//! ledger when it likes, and until then its array and what runs on it go on; the leader places, loses, moves and cancels at any time; an owner is superseded at any
//! time; a lease ends only with what runs on it. How legs are fenced, [`crate::model_check`] looks at.

use super::*;
use crate::bug::{Bug, Bugs};
use crate::moment::Moment;
use crate::owner::{self, Hold};
use crate::state::Phase;
use crate::vm::runner::{Effect, Event as Said, Role, Runner};
use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a node has of the virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Guest {
    Launching(Role),
    Waits(Role),
    Runs,
    Sends(Generation),
    Paused(Generation),
    Sent,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    runner: Runner,
    guest: Option<(Generation, Guest)>,
    /// An array that users are let in to.
    array: Option<model::Epoch>,
    parted: Option<model::Epoch>,
    /// An end that its runner has not heard of.
    ended: Option<(Generation, How)>,
    received: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    ledger: State,
    nodes: BTreeMap<NodeId, Node>,
    asked: BTreeSet<(Generation, C)>,
    handed: BTreeSet<(model::Epoch, NodeId)>,
    /// How often each of these may still be done: placed, lost, migrated, taken over, died, a lease's end.
    left: [u8; 6],
    bugs: Option<Bug>,
    broken: Option<String>,
}

#[derive(Debug, Clone)]
enum Action {
    See(NodeId),
    Deliver(Generation, C),
    Hand(model::Epoch, NodeId),
    Progress(NodeId),
    Fails(NodeId),
    Tell(NodeId),
    Dies(NodeId),
    LeaseOver(NodeId),
    Takeover(NodeId),
    Fenced,
    Opened,
    Leader(C),
}

impl World {
    fn new(left: [u8; 6], bug: Option<Bug>) -> Self {
        let mut ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut ledger, &[1, 2]);
        for node in [ONE, TWO] {
            let room = Room { memory_bytes: 3 << 30, cores: 4 };
            must(&mut ledger, &Command::Vms(VmsCommand::SetRoom(node, room)));
        }
        let one = spec("one", VmPlacement::Anywhere, &[VOLUME]);
        must(&mut ledger, &Command::Vms(VmsCommand::Create(Box::new(one))));
        must(&mut ledger, &Command::Vms(VmsCommand::Want(VM, Wanted::Running)));
        let node = |node: NodeId| {
            let bugs = bug.map(Bugs::with).unwrap_or_default();
            let mut runner = Runner::new(node, boot(node, 1), BTreeMap::new()).with_bugs(bugs);
            let _ = runner.step(Moment(0), &ledger, &BTreeMap::new(), &Said::Leased);
            let array = (node == ONE).then_some(volume(&ledger).epoch);
            (node, Node { runner, guest: None, array, parted: None, ended: None, received: false })
        };
        let nodes = [ONE, TWO].map(node).into();
        let (asked, handed) = (BTreeSet::new(), BTreeSet::new());
        Self { ledger, nodes, asked, handed, left, bugs: bug, broken: None }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions: Vec<Action> = self
            .asked
            .iter()
            .map(|(generation, command)| Action::Deliver(*generation, command.clone()))
            .collect();
        actions.extend(self.handed.iter().map(|(epoch, to)| Action::Hand(*epoch, *to)));
        let [placed, lost, migrated, taken, died, leases] = self.left.map(|left| left > 0);
        for (id, node) in &self.nodes {
            actions.push(Action::See(*id));
            match node.guest {
                Some((_, Guest::Launching(_))) => actions.push(Action::Progress(*id)),
                Some((_, Guest::Sends(_))) => actions.extend([Action::Progress(*id), Action::Fails(*id)]),
                _ => {}
            }
            actions.extend(node.ended.map(|_| Action::Tell(*id)));
            actions.extend((died && node.guest.is_some()).then_some(Action::Dies(*id)));
            actions.extend(leases.then_some(Action::LeaseOver(*id)));
            actions.extend(taken.then_some(Action::Takeover(*id)));
            actions.extend(placed.then_some(Action::Leader(C::Place { on: *id })));
            actions.extend(migrated.then_some(Action::Leader(C::Migrate { to: *id })));
        }
        actions.extend(lost.then_some(Action::Leader(C::Lost)));
        actions.push(Action::Leader(C::Cancel));
        match volume(&self.ledger).phase {
            Phase::Fencing { .. } => actions.push(Action::Fenced),
            Phase::Opening { .. } => actions.push(Action::Opened),
            _ => {}
        }
        actions
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::See(node) => self.see(*node, &Said::Look),
            Action::Deliver(generation, command) => {
                self.commit(&Command::Vm(VM, *generation, command.clone()));
            }
            Action::Hand(epoch, to) => {
                self.commit(&Command::Volume(VOLUME, *epoch, VolumeCommand::HandOver { to: *to }));
            }
            Action::Progress(node) => self.progress(*node),
            Action::Fails(node) => {
                if let Some((generation, _)) = self.nodes[node].guest {
                    self.see(*node, &Said::Failed(VM, generation));
                }
            }
            Action::Tell(node) => {
                if let Some((generation, how)) = self.node(*node).ended.take() {
                    self.see(*node, &Said::Ended(VM, generation, how));
                }
            }
            Action::Dies(node) => {
                self.left[4] -= 1;
                self.kill(*node);
            }
            Action::LeaseOver(node) => {
                self.left[5] -= 1;
                self.kill(*node);
                (self.node(*node).array, self.node(*node).parted) = (None, None);
                let boot = boot(*node, 1);
                let generation = the_vm(&self.ledger).generation;
                self.commit(&Command::Vm(VM, generation, C::Yielded { node: *node, boot }));
                let command = now(&self.ledger, VolumeCommand::Yielded { node: *node, boot });
                self.commit(&command);
            }
            Action::Takeover(owner) => {
                self.left[3] -= 1;
                let takeover = VolumeCommand::Takeover { owner: *owner, lease_over: false };
                let command = now(&self.ledger, takeover);
                self.commit(&command);
            }
            Action::Fenced => {
                for leg in [1, 2] {
                    let (leg, run) = (leg_ref_of(&self.ledger, leg), run(NodeId(leg.into()), 1, 1));
                    let command = now(&self.ledger, VolumeCommand::ConfirmFence { leg, run, errored: false });
                    self.commit(&command);
                }
                let command = now(&self.ledger, VolumeCommand::Activate);
                self.commit(&command);
            }
            Action::Opened => {
                let (owner, epoch) = (volume(&self.ledger).owner, volume(&self.ledger).epoch);
                // It stops what it had before it makes an array anew.
                if self.nodes[&owner].array.is_some() {
                    self.see(owner, &Said::Look);
                }
                let maps = volume(&self.ledger).map_sequence.next();
                let command = now(&self.ledger, VolumeCommand::Opened { maps });
                if self.commit(&command) {
                    (self.node(owner).array, self.node(owner).parted) = (Some(epoch), None);
                }
            }
            Action::Leader(command) => {
                let at = match command {
                    C::Place { .. } => Some(0),
                    C::Lost => Some(1),
                    C::Migrate { .. } => Some(2),
                    _ => None,
                };
                let generation = the_vm(&self.ledger).generation;
                if self.commit(&Command::Vm(VM, generation, command.clone()))
                    && let Some(at) = at
                {
                    self.left[at] -= 1;
                }
            }
        }
        let runs = |node: &&Node| matches!(node.guest, Some((_, Guest::Runs | Guest::Sends(_))));
        if self.nodes.values().filter(runs).count() > 1 {
            self.broken = Some("two run".to_owned());
        }
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("a node stays")
    }

    fn commit(&mut self, command: &Command) -> bool {
        let before = self.ledger.clone();
        let bugs = self.bugs.map(Bugs::with).unwrap_or_default();
        let taken = self.ledger.apply_with(command, bugs).is_ok();
        let broken = check(&self.ledger).into_iter().chain(check_step(&before, &self.ledger)).next();
        self.broken = self.broken.take().or(broken.map(|broken| broken.to_string()));
        let (generation, epoch) = (the_vm(&self.ledger).generation, volume(&self.ledger).epoch);
        self.asked.retain(|(known, _)| *known == generation);
        self.handed.retain(|(known, _)| *known == epoch);
        taken
    }

    fn kill(&mut self, node: NodeId) {
        let found = self.node(node);
        if let Some((generation, _)) = found.guest.take() {
            found.ended = Some((generation, How::Died));
        }
    }

    /// What was begun comes about.
    fn progress(&mut self, node: NodeId) {
        let Some((generation, guest)) = self.nodes[&node].guest else { return };
        let (next, said) = match guest {
            Guest::Launching(Role::Run) => (Guest::Runs, Said::Started(VM, generation)),
            Guest::Launching(role) => (Guest::Waits(role), Said::Ready(VM, generation)),
            Guest::Sends(to) => {
                let there = Some((to, Guest::Waits(Role::Incoming)));
                if !self.nodes.values().any(|node| node.guest == there) {
                    return;
                }
                (Guest::Paused(to), Said::Paused(VM, generation))
            }
            _ => return,
        };
        self.node(node).guest = Some((generation, next));
        self.see(node, &said);
    }

    /// It sees the ledger: what is superseded is stopped, and its runner looks.
    fn see(&mut self, node: NodeId, said: &Said) {
        let volume = volume(&self.ledger).clone();
        let is_open = matches!(volume.phase, Phase::Open { .. }) && volume.owner == node;
        let found = self.node(node);
        if found.array.is_some_and(|epoch| epoch != volume.epoch || volume.owner != node) {
            found.array = None;
            if matches!(found.guest, Some((_, Guest::Runs | Guest::Sends(_) | Guest::Launching(Role::Run)))) {
                self.kill(node);
            }
        }
        let found = self.node(node);
        let hold = match (found.array, found.parted) {
            (Some(_), _) if is_open => Hold::Users,
            (Some(_), _) => Hold::Array,
            (None, Some(epoch)) if is_open && epoch == volume.epoch => Hold::Parted,
            _ => Hold::Nothing,
        };
        let ledger = self.ledger.clone();
        let effects =
            self.node(node).runner.step(Moment(1), &ledger, &BTreeMap::from([(VOLUME, hold)]), said);
        if volume.owner != node && !self.nodes[&node].guest.is_some_and(|(_, guest)| guest == Guest::Runs) {
            let command = now(&self.ledger, VolumeCommand::Yielded { node, boot: boot(node, 1) });
            self.commit(&command);
        }
        for effect in effects {
            self.carry_out(node, effect);
        }
    }

    fn carry_out(&mut self, node: NodeId, effect: Effect) {
        let epoch = volume(&self.ledger).epoch;
        match effect {
            Effect::Start(_, generation, role) => {
                self.node(node).guest = Some((generation, Guest::Launching(role)));
                self.node(node).received = false;
            }
            Effect::Send(_, generation, _, to) => {
                self.node(node).guest = Some((generation, Guest::Sends(to)))
            }
            Effect::Continue(_, generation) => {
                self.node(node).guest = Some((generation, Guest::Sent));
                let waits = |node: &&mut Node| matches!(node.guest, Some((_, Guest::Waits(Role::Incoming))));
                self.nodes.values_mut().filter(waits).for_each(|node| node.received = true);
            }
            Effect::Resume(_, generation) => {
                let found = self.node(node);
                let incoming = matches!(found.guest, Some((_, Guest::Waits(Role::Incoming))));
                if incoming && !found.received {
                    return self.kill(node);
                }
                found.guest = Some((generation, Guest::Runs));
                self.see(node, &Said::Started(VM, generation));
            }
            Effect::Stop { .. } | Effect::End(..) => self.kill(node),
            Effect::Owner(_, owner::Event::Part) => {
                let found = self.node(node);
                (found.array, found.parted) = (None, Some(epoch));
            }
            Effect::Owner(_, owner::Event::HandOver(to)) => {
                self.node(node).array = None;
                self.handed.insert((epoch, to));
            }
            Effect::Owner(..) => {}
            Effect::Propose(Command::Vm(_, generation, command)) => {
                self.asked.insert((generation, command));
            }
            Effect::Propose(other) => panic!("no runner proposes {other:?}"),
        }
    }
}

fn leg_ref_of(ledger: &State, leg: u16) -> LegRef {
    crate::testing::leg_ref(ledger, leg)
}

/// How many states there were, what was reached, and the way to the first that is broken.
fn explore(world: World, states_max: usize) -> (usize, BTreeSet<VmKind>, Option<(String, Vec<Action>)>) {
    let print = |world: &World| {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish()
    };
    let mut seen = HashSet::from([print(&world)]);
    let (mut reached, mut queue) = (BTreeSet::new(), VecDeque::from([(world, Vec::new())]));
    while let Some((world, way)) = queue.pop_front() {
        reached.insert(the_vm(&world.ledger).phase.kind());
        for action in world.actions() {
            let mut next = world.clone();
            next.act(&action);
            let mut way: Vec<Action> = way.clone();
            way.push(action);
            if let Some(why) = next.broken {
                return (seen.len(), reached, Some((why, way)));
            }
            if seen.len() < states_max && seen.insert(print(&next)) {
                queue.push_back((next, way));
            }
        }
    }
    (seen.len(), reached, None)
}

#[test]
fn never_two_run_through_a_loss_a_migration_a_takeover_and_a_leases_end() {
    for left in [[2, 1, 0, 1, 0, 1], [1, 0, 1, 1, 0, 0], [2, 1, 1, 0, 0, 1], [1, 0, 1, 0, 1, 0]] {
        let (states, reached, broken) = explore(World::new(left, None), 400_000);
        println!("{left:?}: {states} states, {reached:?}");
        assert!(broken.is_none(), "{broken:#?}");
        assert!(reached.contains(&VmKind::Running) && (left[2] == 0 || reached.contains(&VmKind::Landing)));
    }
}

#[test]
fn every_broken_rule_is_caught() {
    let table = [
        (Bug::StartEarly, [2, 1, 0, 1, 0, 1]),
        (Bug::SameGeneration, [2, 1, 0, 0, 0, 1]),
        (Bug::ResumeAfterSwitch, [1, 0, 1, 0, 0, 0]),
    ];
    for (bug, left) in table {
        let (states, _, broken) = explore(World::new(left, Some(bug)), 400_000);
        println!("{bug:?}: {states} states, {:?}", broken.as_ref().map(|(why, way)| (why, way.len())));
        assert!(broken.is_some(), "{bug:?} is not caught in {states} states");
    }
}
