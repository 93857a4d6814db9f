//! Raft, simulated: terms, votes, commits by a majority of the voters that are reached, leaders that don't know that they no longer lead.
//!
//! The log is one, of committed states; each machine knows how much of it it has stored and how much it has applied. What a leader could not
//! commit is kept by the next one if that has received it, and is lost otherwise.

use super::{Event, MS, Machine, World, node_index, volume_index};
use crate::bugs::Broken;
use crate::schedule::Plane;
use control::lease::GrantorEvent;
use control::state::{State, Voters};
use control::{ClusterCommand, Command, check, check_step, decider, voters};
use model::NodeId;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The log and what is not committed yet.
pub(crate) struct Raft {
    /// The state after each commit.
    pub(crate) log: Vec<Rc<State>>,
    pending: Vec<Pending>,
}

/// An entry that is not committed.
struct Pending {
    command: Command,
    leader: usize,
    /// Who has received it.
    has: u32,
}

/// A machine in the cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat {
    pub(crate) term: u64,
    pub(crate) leading: bool,
    pub(crate) leader: Option<usize>,
    /// When a leader was last heard of.
    pub(crate) heard: u64,
    pub(crate) patience: u64,
    /// Up to where it has the log, on disk.
    pub(crate) stored: usize,
    /// Up to where its roles see it.
    pub(crate) applied: usize,
    /// It has lost its log and may not vote.
    pub(crate) wiped: bool,
}

/// Whoever has heard of a leader since then elects no other.
const LEADER_LEASE: u64 = 500 * MS;

impl Raft {
    pub(crate) fn new(state: State) -> Self {
        Self { log: vec![Rc::new(state)], pending: Vec::new() }
    }

    /// Whether a set of voters has been proposed that is not committed: who is to vote in it can't be spared any more.
    pub(crate) fn is_changing(&self) -> bool {
        let changes =
            |pending: &Pending| matches!(pending.command, Command::Cluster(ClusterCommand::ChangeVoters(_)));
        self.pending.iter().any(changes)
    }

    /// Everything that was not stored by the survivors is gone.
    pub(crate) fn begin_anew(&mut self, stored: usize) {
        self.log.truncate(stored + 1);
        self.pending.clear();
    }
}

fn is_majority(voters: &Voters, has: impl Fn(NodeId) -> bool) -> bool {
    let most = |set: &BTreeSet<NodeId>| 2 * set.iter().filter(|node| has(**node)).count() > set.len();
    match voters {
        Voters::Settled(set) => most(set),
        Voters::Changing { from, to } => most(from) && most(to),
    }
}

impl World {
    /// What an agent decides as the leader's: only in the term in which it knows that it is, and by nobody else.
    pub(crate) fn decide(&mut self, machine: usize, command: Command) {
        let Some(agent) = &self.machines[machine].agent else { return };
        let is_for_any = self.bug == Some(Broken::DecidesForAnother);
        let (seat, leads) = (&self.machines[machine].seat, agent.leads);
        if is_for_any {
            self.send_to_leader(machine, command, None);
        } else if seat.leading && leads == Some(seat.term) {
            self.send_to_leader(machine, command, leads);
        }
    }

    /// What a machine asks of the ledger.
    pub(crate) fn propose(&mut self, machine: usize, command: Command) {
        self.send_to_leader(machine, command, None);
    }

    /// To who leads, as far as a machine knows: one of each in flight.
    fn send_to_leader(&mut self, machine: usize, command: Command, term: Option<u64>) {
        let now = self.now;
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        agent.in_flight.retain(|(_, until)| *until > now);
        if agent.in_flight.iter().any(|(known, _)| *known == command) {
            return;
        }
        agent.in_flight.push((command.clone(), now + 400 * MS));
        let seat = &self.machines[machine].seat;
        let Some(leader) = (if seat.leading { Some(machine) } else { seat.leader }) else { return };
        if let Some(delay) = self.message(machine, leader) {
            // What was sent twice, or comes late, must do no harm.
            if self.random.u8(..) < 5 {
                let late = self.random.u64(..3_000) * MS;
                self.post(late, Event::Propose(leader, command.clone(), term));
            }
            self.post(delay, Event::Propose(leader, command, term));
        }
    }

    pub(super) fn proposed(&mut self, machine: usize, command: Command, term: Option<u64>) {
        let seat = &self.machines[machine].seat;
        if !self.lives(machine) || !seat.leading || term.is_some_and(|term| term != seat.term) {
            return;
        }
        self.raft.pending.push(Pending { command, leader: machine, has: 1 << machine });
        let round = 200 + self.random.u64(..600);
        self.post(round, Event::Commit(machine));
    }

    /// Who answers a leader now; all that it reaches receive what it has.
    fn followers(&mut self, leader: usize) -> (u32, u32) {
        let (mut reached, mut answered) = (0, 0);
        let term = self.machines[leader].seat.term;
        for other in 0..self.machines.len() {
            if !self.lives(other) || !self.passes(Plane::Management, leader, other) {
                continue;
            }
            let seat = &self.machines[other].seat;
            if seat.term > term || (seat.wiped && self.bug != Some(Broken::WipedVoter)) {
                continue;
            }
            reached |= 1 << other;
            if self.passes(Plane::Management, other, leader) {
                answered |= 1 << other;
            }
        }
        (reached, answered)
    }

    /// A round of a leader: whether a majority follows it.
    fn round(&mut self, leader: usize) -> Option<u32> {
        let (reached, answered) = self.followers(leader);
        for pending in self.raft.pending.iter_mut().filter(|pending| pending.leader == leader) {
            pending.has |= reached;
        }
        let (term, now) = (self.machines[leader].seat.term, self.now);
        for other in (0..self.machines.len()).filter(|other| reached & (1 << other) != 0) {
            let seat = &mut self.machines[other].seat;
            (seat.term, seat.leader, seat.heard) = (term, Some(leader), now);
            if other != leader && seat.leading {
                self.deposed(other);
            }
        }
        let voters = self.ledger();
        let has = |node: NodeId| answered & (1 << node_index(node)) != 0;
        is_majority(&voters.voters, has).then_some(answered)
    }

    pub(super) fn commit(&mut self, leader: usize) {
        let ours = |pending: &Pending| pending.leader == leader;
        if !self.lives(leader) || !self.machines[leader].seat.leading || !self.raft.pending.iter().any(ours) {
            return;
        }
        let Some(answered) = self.round(leader) else {
            self.post(60 * MS, Event::Commit(leader));
            return;
        };
        let before = self.raft.log.len();
        // A joint set of voters counts from its own entry on: that needs both majorities, and what comes after it waits.
        let follows = |node: NodeId| answered & (1 << node_index(node)) != 0;
        let ledger = self.ledger();
        let joint = |command: &Command| match command {
            // One that will be refused changes nothing.
            Command::Cluster(ClusterCommand::ChangeVoters(to))
                if to.iter().all(|node| ledger.is_member(*node)) =>
            {
                is_majority(&Voters::Settled(to.clone()), follows)
            }
            _ => true,
        };
        let mut waits = false;
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for pending in std::mem::take(&mut self.raft.pending) {
            let own = pending.leader == leader;
            waits |= own && !joint(&pending.command);
            if own && !waits { now.push(pending) } else { later.push(pending) }
        }
        self.raft.pending = later;
        for pending in now {
            self.apply(&pending.command);
        }
        if waits {
            self.post(60 * MS, Event::Commit(leader));
        }
        if self.raft.log.len() == before {
            return;
        }
        let index = self.raft.log.len() - 1;
        for other in 0..self.machines.len() {
            if answered & (1 << other) != 0 {
                self.machines[other].seat.stored = index;
            }
            if other != leader
                && let Some(delay) = self.message(leader, other)
            {
                self.post(delay, Event::Seen(other, index));
            }
        }
        self.seen(leader, index);
    }

    /// A command takes its place in the log, if it is not refused.
    pub(crate) fn apply(&mut self, command: &Command) {
        let before = self.ledger();
        let mut state = (*before).clone();
        let bugs = self.bugs();
        let events = match state.apply_with(command, bugs) {
            Ok(events) => events,
            Err(why) => return self.tell(|_| format!("refused: {command:?}: {why}")),
        };
        self.tell(|_| format!("committed: {command:?}"));
        self.hits.count(&events);
        let broken = check(&state).into_iter().chain(check_step(&before, &state)).next();
        if let Some(broken) = broken {
            self.judge.broken = Some(format!("the ledger: {broken}"));
        }
        self.raft.log.push(Rc::new(state));
        self.committed(command, &events);
    }

    pub(super) fn seen(&mut self, machine: usize, index: usize) {
        if !self.lives(machine) || index >= self.raft.log.len() {
            return;
        }
        let seat = &mut self.machines[machine].seat;
        if index <= seat.applied {
            return;
        }
        (seat.applied, seat.stored) = (index, seat.stored.max(index));
        self.look(machine);
    }

    pub(super) fn confirm(&mut self, machine: usize, term: u64, round: u64) {
        let seat = &self.machines[machine].seat;
        if !self.lives(machine) || !seat.leading || seat.term != term {
            return;
        }
        let confirmed = self.round(machine).is_some();
        let event = if confirmed { GrantorEvent::Confirmed(round) } else { GrantorEvent::Unconfirmed(round) };
        self.tell_decider(machine, decider::Event::Lease(event));
    }

    pub(super) fn asked(&mut self, leader: usize, machine: usize, request: u64) {
        if self.lives(leader) {
            let asked = GrantorEvent::Asked(self.machines[machine].node, request);
            self.tell_decider(leader, decider::Event::Lease(asked));
        }
    }

    /// It follows another: what only it had is overwritten. Its agent sees that later.
    pub(super) fn deposed(&mut self, machine: usize) {
        self.machines[machine].seat.leading = false;
        self.raft.pending.retain(|pending| pending.leader != machine);
    }

    /// Heartbeats of leaders, as they come in; and an election if none come.
    pub(super) fn raft_tick(&mut self, machine: usize) {
        for leader in 0..self.machines.len() {
            let found = &self.machines[leader].seat;
            let (term, applied) = (found.term, found.applied);
            let leads = found.leading && self.lives(leader) && leader != machine;
            if !leads || term < self.machines[machine].seat.term || self.message(leader, machine).is_none() {
                continue;
            }
            let now = self.now;
            let seat = &mut self.machines[machine].seat;
            (seat.term, seat.leader, seat.heard) = (term, Some(leader), now);
            if seat.leading {
                self.deposed(machine);
            }
            self.seen(machine, applied);
        }
        let own = &self.machines[machine].seat;
        if own.leading {
            let term = own.term;
            let later = |other: usize| {
                self.lives(other)
                    && self.machines[other].seat.term > term
                    && self.passes(Plane::Management, other, machine)
                    && self.passes(Plane::Management, machine, other)
            };
            if let Some(other) = (0..self.machines.len()).find(|other| later(*other)) {
                self.machines[machine].seat.term = self.machines[other].seat.term;
                self.deposed(machine);
            } else {
                self.adapt_voters(machine);
            }
            return;
        }
        if self.now > own.heard + own.patience {
            self.machines[machine].seat.patience = (600 + self.random.u64(..700)) * MS;
            self.elect(machine);
        }
    }

    fn elect(&mut self, machine: usize) {
        let own = &self.machines[machine].seat;
        let has = |machine: usize| {
            self.raft.pending.iter().filter(|pending| pending.has & (1 << machine) != 0).count()
        };
        let (stored, pending, term) = (own.stored, has(machine), own.term);
        if own.wiped {
            return;
        }
        let grants = |other: usize, found: &Machine| {
            let both = self.passes(Plane::Management, machine, other)
                && self.passes(Plane::Management, other, machine);
            let seat = &found.seat;
            let knows_a_leader = other != machine && self.now < seat.heard + LEADER_LEASE && seat.heard > 0;
            let may = !seat.wiped || self.bug == Some(Broken::WipedVoter);
            let shorter = (seat.stored, has(other)) <= (stored, pending);
            both && self.lives(other)
                && !knows_a_leader
                && may
                && shorter
                && !(seat.leading && other != machine)
        };
        let voters = &self.raft.log[stored].voters;
        let granted: Vec<usize> = self
            .machines
            .iter()
            .enumerate()
            .filter(|(at, found)| grants(*at, found))
            .map(|(at, _)| at)
            .collect();
        let grants_it = |node: NodeId| granted.contains(&node_index(node));
        let own_node = self.machines[machine].node;
        let stands = match voters {
            Voters::Settled(set) => set.contains(&own_node),
            Voters::Changing { from, to } => from.contains(&own_node) || to.contains(&own_node),
        };
        if !stands || !is_majority(voters, grants_it) {
            return;
        }
        let highest = granted.iter().map(|at| self.machines[*at].seat.term).max().unwrap_or(term);
        let now = self.now;
        for other in granted {
            let seat = &mut self.machines[other].seat;
            (seat.term, seat.heard) = (highest + 1, now);
        }
        if stored + 1 < self.raft.log.len() {
            self.judge.broken = Some(format!("node-{} leads without all that was committed", machine + 1));
        }
        let bit = 1 << machine;
        self.raft.pending.retain(|pending| pending.has & bit != 0);
        for pending in &mut self.raft.pending {
            (pending.leader, pending.has) = (machine, bit);
        }
        let seat = &mut self.machines[machine].seat;
        (seat.leading, seat.leader) = (true, Some(machine));
        self.tell(|world| format!("node-{} leads, term {}", machine + 1, world.machines[machine].seat.term));
        self.post(300, Event::Commit(machine));
        self.seen(machine, stored);
    }

    /// The leader sees to it that those vote who live.
    fn adapt_voters(&mut self, machine: usize) {
        let ledger = self.sees(machine);
        let command = if let Voters::Changing { .. } = ledger.voters {
            ClusterCommand::VotersSettled
        } else {
            let Some(agent) = &self.machines[machine].agent else { return };
            let recent =
                |at: &usize| self.now < agent.heard[*at] + 2_000 * MS && !self.machines[*at].seat.wiped;
            let heard = (0..self.machines.len()).filter(|at| *at == machine || recent(at));
            let live: BTreeSet<NodeId> = heard.map(|at| self.machines[at].node).collect();
            let Some(preferred) = ledger.nodes.get(&NodeId(1)).and_then(|node| node.zone.clone()) else {
                return;
            };
            let Some(set) = voters::wanted(&ledger, &live, &preferred) else { return };
            ClusterCommand::ChangeVoters(set)
        };
        self.decide(machine, Command::Cluster(command));
    }

    /// The volumes that a command is about.
    pub(crate) fn about(&self, command: &Command) -> std::ops::Range<usize> {
        match command {
            Command::Volume(id, ..) => volume_index(*id)..volume_index(*id) + 1,
            Command::Vm(_, _, control::VmCommand::Switch { .. }) | Command::Cluster(_) => {
                0..self.truths.len()
            }
            Command::Vm(..) | Command::Vms(_) => 0..0,
        }
    }
}
