//! All roles of one node together: target, owner of any volume, decider where the leader is, holder of a lease.
//!
//! Purpose: the agent has one thing to tell of what happens, and one list of effects to carry out. Roles are independent; this passes on
//! what concerns several of them (a lease, a peer's silence), makes an owner for each volume that the ledger knows, and keeps a
//! proposal from being sent again while it is in flight.
//!
//! Invariants: sans-IO, like everything here. Effects of one leg, or of one volume, are to be carried out in their order; those of
//! others need not wait for them.
//!
//! On failure: none. What is dropped is ordered again: see the roles.

use crate::bug::Bugs;
use crate::command::{Command, Rejected};
use crate::decider::{self, Decider};
use crate::lease::{GrantorEffect, GrantorEvent, Holder, HolderEffect, HolderTiming};
use crate::moment::Moment;
use crate::owner::{self, Hold, Owner, Stage, Up};
use crate::slow::Reading;
use crate::state::State;
use crate::target::{self, Target};
use crate::thin;
use crate::vm::runner::{self, Instance, Runner};
use model::{BootId, DriveId, NodeId, VmId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// How long roles wait for what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Owners.
    pub owner: owner::Timing,
    /// The decider.
    pub decider: decider::Timing,
    /// The holder of the lease.
    pub holder: HolderTiming,
}

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Time has passed or the ledger has changed. At least every 200 ms; every 100 while anything happens.
    Look,
    /// For the target.
    Target(target::Event),
    /// For the owner of a volume.
    Owner(VolumeId, owner::Event),
    /// For what runs virtual machines. (That there is a lease, and who is silent, it is told by itself.)
    Vm(runner::Event),
    /// No storage network carries a peer's hellos any more.
    Silent(NodeId),
    /// One does again.
    Heard(NodeId),
    /// A node asks for a lease. That it does is its heartbeat, too.
    Asked(NodeId, u64),
    /// What a node's drives took lately.
    Measured(NodeId, BTreeMap<DriveId, Reading>),
    /// About the leadership: it began, it ended, or what a round with the quorum said.
    Leadership(GrantorEvent),
    /// The leader grants what was asked.
    Granted(u64),
    /// There is an answer to a proposal, whatever it is, or there will be none.
    Answered(Command),
}

/// What a node orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Of the target; proposals are [`Output::Propose`].
    Target(target::Effect),
    /// Of the owner of a volume; proposals are [`Output::Propose`].
    Owner(VolumeId, owner::Effect),
    /// Of what runs virtual machines; proposals and what owners are told are not among them.
    Vm(runner::Effect),
    /// Ask the ledger, and say [`Input::Answered`].
    Propose(Command),
    /// Decided as the leader: the same, but only while this node leads in the term of the last [`GrantorEvent::Leading`]. Nobody else may be asked: who leads later may
    /// have granted leases that this node takes for over.
    Decide(Command),
    /// Ask the leader for a lease.
    Ask(u64),
    /// Begin a round with the quorum now, and say how it ended.
    Confirm(u64),
    /// Tell a node that it has its lease.
    Grant(NodeId, u64),
    /// Feed the watchdog.
    Feed,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Member {
    node: NodeId,
    boot: BootId,
    timing: Timing,
    target: Target,
    owners: BTreeMap<VolumeId, Owner>,
    runner: Runner,
    decider: Decider,
    holder: Holder,
    silent: BTreeSet<NodeId>,
    in_flight: Vec<Command>,
    bugs: Bugs,
}

impl Member {
    /// At the agent's start. `found` are arrays that an earlier run of the agent has left, `first_request` is greater than any that it
    /// made.
    pub fn new(
        (node, boot): (NodeId, BootId),
        timing: Timing,
        target: Target,
        found: BTreeMap<VolumeId, Up>,
        first_request: u64,
    ) -> Self {
        let adopt = |(id, up)| (id, Owner::new(id, node, boot, timing.owner, Some(up)));
        let owners = found.into_iter().map(adopt).collect();
        let (decider, holder) = (Decider::new(timing.decider), Holder::new(timing.holder, first_request));
        let (silent, in_flight, bugs) = (BTreeSet::new(), Vec::new(), Bugs::default());
        let runner = Runner::new(node, boot, BTreeMap::new());
        Self { node, boot, timing, target, owners, runner, decider, holder, silent, in_flight, bugs }
    }

    /// With rules broken on purpose.
    #[must_use]
    pub fn with_bugs(self, bugs: Bugs) -> Self {
        let owners = self.owners.into_iter().map(|(id, owner)| (id, owner.with_bugs(bugs))).collect();
        let runner = self.runner.with_bugs(bugs);
        Self { target: self.target.with_bugs(bugs), owners, runner, bugs, ..self }
    }

    /// With the virtual machines that an earlier run of the agent has left.
    #[must_use]
    pub fn with_vms(self, found: BTreeMap<VmId, Instance>) -> Self {
        let runner = Runner::new(self.node, self.boot, found).with_bugs(self.bugs);
        Self { runner, ..self }
    }

    /// What users an earlier run has left have a lease until this moment at the latest.
    #[must_use]
    pub fn with_users_until(self, end: Moment) -> Self {
        Self { holder: self.holder.with_users_until(end), ..self }
    }

    /// What this node has of a volume.
    pub fn stage(&self, volume: VolumeId) -> Option<&Stage> {
        self.owners.get(&volume).map(Owner::stage)
    }

    /// The ledger has another leader.
    pub fn led_by_another(&mut self) {
        self.holder.led_by_another();
    }

    /// Whether users may run here.
    pub fn is_leased(&self) -> bool {
        self.holder.is_leased()
    }

    /// When the lease ends that this request gets if it is granted; `None`: it gets none.
    pub fn lease_of(&self, ledger: &State, request: u64) -> Option<Moment> {
        self.holder.lease_of(ledger.settings, request)
    }

    /// Why volumes wait, where the leader is.
    pub fn blocked(&mut self, now: Moment, ledger: &State) -> Vec<(VolumeId, decider::Blocked)> {
        self.decider.blocked(now, ledger)
    }

    /// Thin volumes of this node whose users write what has no place and gets none now, and why.
    pub fn out_of_room(&self, ledger: &State) -> Vec<(VolumeId, Rejected)> {
        let of = |(id, owner): (&VolumeId, &Owner)| {
            let Stage::Up(up) = owner.stage() else { return None };
            Some((*id, thin::out_of_room(ledger, ledger.volumes.get(id)?, &up.unmapped)?))
        };
        self.owners.iter().filter_map(of).collect()
    }

    /// Who shall vote instead, where the leader is: [`crate::voters`].
    pub fn wanted_voters(&self, now: Moment, ledger: &State) -> Option<BTreeSet<NodeId>> {
        self.decider.wanted_voters(now, ledger)
    }

    /// Something happened, and the ledger is this now.
    pub fn step(&mut self, now: Moment, ledger: &State, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        // A node that stood still may hear of anything first when it goes on: nobody is let in before it has seen that its lease is over. A grant says itself how
        // long the lease is.
        if !matches!(input, Input::Granted(_)) {
            self.keep_lease(now, ledger, None, &mut out);
        }
        self.know_volumes(now, ledger, &mut out);
        match input {
            Input::Look => self.look(now, ledger, &mut out),
            Input::Target(event) => self.with_target(now, ledger, event, &mut out),
            Input::Owner(volume, event) => {
                let held = self.hold(ledger, volume);
                self.with_owner(now, ledger, volume, event, &mut out);
                // What runs here may have waited for that: not until the next look.
                if self.hold(ledger, volume) != held {
                    self.with_runner(now, ledger, &runner::Event::Look, &mut out);
                }
            }
            Input::Vm(event) => self.with_runner(now, ledger, &event, &mut out),
            Input::Silent(node) => {
                self.silent.insert(node);
                self.with_owners(now, ledger, &owner::Event::Silent(node), &mut out);
                self.with_runner(now, ledger, &runner::Event::Silent(node), &mut out);
            }
            Input::Heard(node) => {
                self.silent.remove(&node);
                self.with_owners(now, ledger, &owner::Event::Heard(node), &mut out);
                self.with_runner(now, ledger, &runner::Event::Heard(node), &mut out);
            }
            Input::Asked(node, request) => {
                self.decide(now, ledger, decider::Event::Heard(node), &mut out);
                let asked = GrantorEvent::Asked(node, request);
                self.decide(now, ledger, decider::Event::Lease(asked), &mut out);
            }
            Input::Measured(node, readings) => {
                for (drive, reading) in readings {
                    let measured = decider::Event::Measured(node, drive, reading);
                    self.decide(now, ledger, measured, &mut out);
                }
            }
            Input::Leadership(event) => self.decide(now, ledger, decider::Event::Lease(event), &mut out),
            Input::Granted(request) => self.keep_lease(now, ledger, Some(request), &mut out),
            Input::Answered(command) => self.in_flight.retain(|sent| *sent != command),
        }
        out
    }

    fn look(&mut self, now: Moment, ledger: &State, out: &mut Vec<Output>) {
        self.with_target(now, ledger, target::Event::Look, out);
        self.with_owners(now, ledger, &owner::Event::Look, out);
        self.with_runner(now, ledger, &runner::Event::Look, out);
        self.decide(now, ledger, decider::Event::Look, out);
    }

    /// An owner for each volume; none for one that is gone, once nothing is left of it here.
    fn know_volumes(&mut self, now: Moment, ledger: &State, out: &mut Vec<Output>) {
        self.owners.retain(|id, owner| ledger.volumes.contains_key(id) || *owner.stage() != Stage::Idle);
        for id in
            ledger.volumes.keys().filter(|id| !self.owners.contains_key(id)).copied().collect::<Vec<_>>()
        {
            let owner = Owner::new(id, self.node, self.boot, self.timing.owner, None);
            self.owners.insert(id, owner.with_bugs(self.bugs));
            let known = self.silent.iter().map(|node| owner::Event::Silent(*node));
            let leased = self.holder.is_leased().then_some(owner::Event::Leased);
            for event in known.chain(leased).collect::<Vec<_>>() {
                self.with_owner(now, ledger, id, event, out);
            }
        }
    }

    /// What a virtual machine finds of a volume here.
    fn hold(&self, ledger: &State, volume: VolumeId) -> Option<Hold> {
        self.owners.get(&volume).map(|owner| owner.hold(ledger))
    }

    fn keep_lease(&mut self, now: Moment, ledger: &State, granted: Option<u64>, out: &mut Vec<Output>) {
        for effect in self.holder.step(now, ledger.settings, granted) {
            match effect {
                HolderEffect::Ask(request) => out.push(Output::Ask(request)),
                HolderEffect::Leased => {
                    self.with_owners(now, ledger, &owner::Event::Leased, out);
                    self.with_runner(now, ledger, &runner::Event::Leased, out);
                }
                HolderEffect::StopUsers => {
                    self.with_runner(now, ledger, &runner::Event::LeaseLost, out);
                    self.with_owners(now, ledger, &owner::Event::LeaseLost, out);
                }
                HolderEffect::Feed => out.push(Output::Feed),
            }
        }
    }

    fn with_target(&mut self, now: Moment, ledger: &State, event: target::Event, out: &mut Vec<Output>) {
        for effect in self.target.step(now, ledger, event) {
            match effect {
                target::Effect::Propose(command) => self.propose(command, out),
                other => out.push(Output::Target(other)),
            }
        }
    }

    fn with_owners(&mut self, now: Moment, ledger: &State, event: &owner::Event, out: &mut Vec<Output>) {
        for id in self.owners.keys().copied().collect::<Vec<_>>() {
            self.with_owner(now, ledger, id, event.clone(), out);
        }
    }

    fn with_owner(
        &mut self,
        now: Moment,
        ledger: &State,
        id: VolumeId,
        event: owner::Event,
        out: &mut Vec<Output>,
    ) {
        let Some(owner) = self.owners.get_mut(&id) else { return };
        for effect in owner.step(now, ledger, event) {
            match effect {
                owner::Effect::Propose(command) => self.propose(command, out),
                other => out.push(Output::Owner(id, other)),
            }
        }
    }

    fn with_runner(&mut self, now: Moment, ledger: &State, event: &runner::Event, out: &mut Vec<Output>) {
        let holds = self.owners.iter().map(|(id, owner)| (*id, owner.hold(ledger))).collect();
        for effect in self.runner.step(now, ledger, &holds, event) {
            match effect {
                runner::Effect::Propose(command) => self.propose(command, out),
                runner::Effect::Owner(volume, event) => self.with_owner(now, ledger, volume, event, out),
                other => out.push(Output::Vm(other)),
            }
        }
    }

    fn decide(&mut self, now: Moment, ledger: &State, event: decider::Event, out: &mut Vec<Output>) {
        for effect in self.decider.step(now, ledger, event) {
            match effect {
                decider::Effect::Propose(command) => {
                    if self.takes_off(&command) {
                        out.push(Output::Decide(command));
                    }
                }
                decider::Effect::Lease(GrantorEffect::Confirm(round)) => out.push(Output::Confirm(round)),
                decider::Effect::Lease(GrantorEffect::Grant(node, request)) => {
                    out.push(Output::Grant(node, request));
                }
            }
        }
    }

    fn propose(&mut self, command: Command, out: &mut Vec<Output>) {
        if self.takes_off(&command) {
            out.push(Output::Propose(command));
        }
    }

    /// Whether it is not under way already; from now on it is.
    fn takes_off(&mut self, command: &Command) -> bool {
        let is_new = !self.in_flight.contains(command);
        if is_new {
            self.in_flight.push(command.clone());
        }
        is_new
    }
}

#[cfg(test)]
mod tests;
