//! What an agent is around the roles: it turns what happens into events, and carries out effects. It decides nothing.

use super::engine::Work;
use super::{Agent, Event, MS, Order, TICK, World, node_index, volume_id, volume_index};
use crate::bugs::Broken;
use control::LegRef;
use control::bug::Bugs;
use control::decider::{self, Decider};
use control::lease::{GrantorEffect, GrantorEvent, Holder, HolderEffect, HolderTiming};
use control::owner::{self, Owner, Timing};
use control::target::{self, Target};
use control::vm::runner;
use std::collections::{BTreeMap, VecDeque};

/// A peer is silent when nothing came from it for this long.
const SILENT: u64 = 1_000 * MS;

impl World {
    pub(crate) fn bugs(&self) -> Bugs {
        self.bug.and_then(Broken::of_control).unwrap_or_default()
    }

    /// A machine's kernel comes up.
    pub(super) fn boot(&mut self, machine: usize) {
        let found = &mut self.machines[machine];
        if found.power || found.off > 0 || found.gone {
            return;
        }
        found.power = true;
        found.boots += 1;
        found.run += 1;
        let run = found.run;
        self.tell(|_| format!("node-{} boots", machine + 1));
        let first = self.random.u64(..TICK);
        self.post(first, Event::Tick(machine, run));
        let start = self.random.u64(50..400) * MS;
        self.post(start, Event::Agent(machine, run));
    }

    pub(super) fn start_agent(&mut self, machine: usize, run: u32) {
        let found = &self.machines[machine];
        if !found.power || found.run != run || found.agent.is_some() {
            return;
        }
        let (node, boot, bugs) = (found.node, self.boot_id(machine), self.bugs());
        let drives = self.power_cycles_of(machine);
        let given = self.given_by(machine);
        let volumes = self.truths.len();
        let now = self.clock(machine);
        let owner = |volume: usize| {
            let up = found.arrays[volume].as_ref().map(|array| array.adopted(now));
            Owner::new(volume_id(volume), node, boot, Timing::default(), up).with_bugs(bugs)
        };
        let owners = (0..volumes).map(owner).collect();
        let target = Target::new(node, boot, drives, (found.floors.clone(), found.laid.clone()), given)
            .with_bugs(bugs);
        let first = self.clock(machine).0;
        let runner = self.runner(machine, node);
        let agent = Agent {
            leads: None,
            target,
            owners,
            runner,
            decider: Decider::new(decider::Timing::default()),
            holder: Holder::new(HolderTiming::default(), first).with_users_until(found.lease_note),
            laying: Vec::new(),
            in_flight: Vec::new(),
            orders: vec![VecDeque::new(); volumes],
            work: std::iter::repeat_with(|| None).take(volumes).collect(),
            heard: vec![0; self.machines.len()],
            silent: vec![false; self.machines.len()],
        };
        let now = self.now;
        let found = &mut self.machines[machine];
        found.agent = Some(agent);
        found.agents += 1;
        // It does not vote for another before it has listened for a while.
        found.seat.heard = now;
        found.seat.applied = found.seat.stored;
        for volume in 0..volumes {
            self.adopted(machine, volume);
        }
        self.guests_adopted(machine);
        self.look(machine);
    }

    /// The agent is gone, with all that it had in memory; arrays and exports stay.
    pub(crate) fn end_agent(&mut self, machine: usize) {
        let found = &mut self.machines[machine];
        found.agent = None;
        found.agents += 1;
        found.seat.leading = false;
        self.forget_fences(machine);
        self.extend_no_more(machine);
    }

    pub(super) fn tick(&mut self, machine: usize, run: u32) {
        if !self.machines[machine].power || self.machines[machine].run != run {
            return;
        }
        let every = if self.schedule.looks_seldom() { 2 * TICK } else { TICK };
        let next = every - 10 * MS + self.random.u64(..20 * MS);
        self.post(next, Event::Tick(machine, run));
        self.kernel_tick(machine);
        let now = self.clock(machine);
        if self.machines[machine].watchdog.is_some_and(|until| now >= until) {
            self.tell(|_| format!("the watchdog of node-{} bites", machine + 1));
            self.reset(machine);
            return;
        }
        if self.machines[machine].agent.is_none() {
            return;
        }
        self.see_leadership(machine);
        self.raft_tick(machine);
        self.listen(machine);
        if self.machines[machine].rack.is_some() {
            self.stalled(machine);
            for volume in 0..self.truths.len() {
                self.say_unmapped(machine, volume);
            }
        }
        self.look(machine);
    }

    /// Whether an agent takes itself for the leader's.
    fn leads(&self, machine: usize) -> bool {
        self.machines[machine].agent.as_ref().is_some_and(|agent| agent.leads.is_some())
    }

    /// An agent sees whether its machine leads, later than that begins and ends.
    pub(crate) fn see_leadership(&mut self, machine: usize) {
        let seat = &self.machines[machine].seat;
        let leads = seat.leading.then_some(seat.term);
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        let before = std::mem::replace(&mut agent.leads, leads);
        if leads == before {
            return;
        }
        for (event, is_so) in
            [(GrantorEvent::Deposed, before.is_some()), (GrantorEvent::Leading, leads.is_some())]
        {
            if is_so {
                self.tell_decider(machine, decider::Event::Lease(event));
            }
        }
    }

    /// Heartbeats of all that live.
    fn listen(&mut self, machine: usize) {
        for other in 0..self.machines.len() {
            let heard = self.lives(other) && self.message(other, machine).is_some();
            let now = self.now;
            let node = self.machines[other].node;
            let Some(agent) = self.machines[machine].agent.as_mut() else { return };
            if heard {
                agent.heard[other] = now;
            }
            let silent = now > agent.heard[other] + SILENT;
            if silent != agent.silent[other] {
                agent.silent[other] = silent;
                let event = if silent { owner::Event::Silent(node) } else { owner::Event::Heard(node) };
                self.tell_owners(machine, &event);
            }
            if heard && self.leads(machine) {
                self.tell_decider(machine, decider::Event::Heard(node));
            }
        }
    }

    /// Time has passed, or the ledger has changed.
    pub(crate) fn look(&mut self, machine: usize) {
        self.tell_target(machine, target::Event::Look);
        self.tell_owners(machine, &owner::Event::Look);
        self.tell_runner(machine, &runner::Event::Look);
        if self.leads(machine) {
            self.tell_decider(machine, decider::Event::Look);
        }
    }

    pub(crate) fn tell_decider(&mut self, machine: usize, event: decider::Event) {
        let (now, ledger) = (self.clock(machine), self.sees(machine));
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        for effect in agent.decider.step(now, &ledger, event) {
            match effect {
                decider::Effect::Propose(command) => self.decide(machine, command),
                decider::Effect::Lease(GrantorEffect::Confirm(round)) => {
                    let term = self.machines[machine].seat.term;
                    let trip = 200 + self.random.u64(..600);
                    self.post(trip, Event::Confirm(machine, term, round));
                }
                decider::Effect::Lease(GrantorEffect::Grant(node, request)) => {
                    let to = node_index(node);
                    if let Some(delay) = self.message(machine, to) {
                        self.post(delay, Event::Granted(to, request));
                    }
                }
            }
        }
    }

    /// Whatever an agent hears, it sees first whether its lease is over: it may have stood still.
    pub(super) fn see_lease(&mut self, machine: usize) {
        if self.machines[machine].rack.is_some() {
            self.tell_holder(machine, None);
        }
    }

    pub(super) fn tell_holder(&mut self, machine: usize, granted: Option<u64>) {
        let (now, ledger) = (self.clock(machine), self.sees(machine));
        let found = &mut self.machines[machine];
        let Some(agent) = found.agent.as_mut() else { return };
        let granted_until = granted.and_then(|request| agent.holder.lease_of(ledger.settings, request));
        found.lease_note = granted_until.map_or(found.lease_note, |end| end.max(found.lease_note));
        for effect in agent.holder.step(now, ledger.settings, granted) {
            match effect {
                HolderEffect::Ask(request) => {
                    let seat = &self.machines[machine].seat;
                    let Some(leader) = (if seat.leading { Some(machine) } else { seat.leader }) else {
                        continue;
                    };
                    if let Some(delay) = self.message(machine, leader) {
                        self.post(delay, Event::Asked(leader, machine, request));
                    }
                }
                HolderEffect::Leased => self.tell_owners(machine, &owner::Event::Leased),
                HolderEffect::StopUsers => self.tell_owners(machine, &owner::Event::LeaseLost),
                HolderEffect::Feed => {
                    let until = now.after(HolderTiming::default().watchdog);
                    self.machines[machine].watchdog = Some(until);
                }
            }
        }
        // Where nothing runs nothing has to be reset.
        let found = &mut self.machines[machine];
        if found.arrays.iter().all(Option::is_none) {
            found.watchdog = None;
        }
    }

    pub(crate) fn tell_target(&mut self, machine: usize, event: target::Event) {
        let (now, ledger) = (self.clock(machine), self.sees(machine));
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        for effect in agent.target.step(now, &ledger, event) {
            match effect {
                target::Effect::Remember(leg, floor) => {
                    self.machines[machine].floors.insert(leg, floor);
                }
                target::Effect::Lay(leg, from, laid) => self.lay(machine, leg, from, laid),
                target::Effect::Fence((volume, leg), floor) => {
                    self.lay_no_more(machine, (volume, leg));
                    self.fence(machine, volume_index(volume), leg.0, floor);
                }
                target::Effect::GiveOut((volume, leg), key, to) => {
                    self.give_out(machine, volume_index(volume), leg.0, key, node_index(to));
                }
                target::Effect::Forget(leg) => {
                    self.machines[machine].floors.remove(&leg);
                    self.machines[machine].laid.remove(&leg);
                }
                target::Effect::TakenBack((volume, id), key, to) => {
                    let (to, leg) = (node_index(to), LegRef { id, incarnation: key.incarnation });
                    if let Some(delay) = self.message(machine, to) {
                        self.post(delay, Event::TakenBack(to, volume_index(volume), leg));
                    }
                }
                target::Effect::Propose(command) => self.propose(machine, command),
            }
        }
    }

    pub(crate) fn tell_owner(&mut self, machine: usize, volume: usize, event: owner::Event) {
        self.see_lease(machine);
        let (now, ledger) = (self.clock(machine), self.sees(machine));
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        let stopped = matches!(event, owner::Event::Stopped { .. });
        let effects = agent.owners[volume].step(now, &ledger, event);
        for effect in effects {
            self.order(machine, volume, effect);
        }
        if stopped {
            self.tell_runner(machine, &runner::Event::Look);
        }
    }

    fn order(&mut self, machine: usize, volume: usize, effect: owner::Effect) {
        match effect {
            owner::Effect::Assemble(assembly) => {
                self.uid += 1;
                let id = self.uid;
                if let Some(agent) = self.machines[machine].agent.as_mut() {
                    agent.work[volume] = Some(Work::new(id, assembly));
                }
                let delay = self.random.u64(1..10) * MS;
                self.post(delay, Event::Assemble(machine, volume, id));
            }
            owner::Effect::Admit(reach) => self.admit(machine, volume, reach),
            owner::Effect::Extend(reach) => self.extend_soon(machine, volume, reach),
            owner::Effect::Look => self.ordered(machine, volume, Order::Look),
            owner::Effect::LetGo(leg) => self.ordered(machine, volume, Order::LetGo(leg)),
            owner::Effect::Release(legs) => self.ordered(machine, volume, Order::Release(legs)),
            owner::Effect::Repoint(leg, _) => self.repoint(machine, volume, leg),
            owner::Effect::Rebuild(leg, node, base) => {
                self.rebuild(machine, volume, leg, node_index(node), base);
            }
            owner::Effect::StopRebuild(_) => {
                if let Some(array) = &mut self.machines[machine].arrays[volume] {
                    array.recover = None;
                }
                self.pump(machine, volume);
            }
            owner::Effect::Stop { kill } => self.stop(machine, volume, kill),
            owner::Effect::GivenBack(legs) => {
                for (leg, (key, to)) in legs {
                    let to = node_index(to);
                    if let Some(delay) = self.message(machine, to) {
                        self.post(delay, Event::GivenBack(to, (volume_id(volume), leg), key));
                    }
                }
            }
            owner::Effect::ResetNode => {
                self.tell(|_| format!("node-{} resets itself: an array does not stop", machine + 1));
                self.reset(machine);
            }
            owner::Effect::Propose(command) => self.propose(machine, command),
        }
    }

    /// An order waits for those before it, and takes its time.
    fn ordered(&mut self, machine: usize, volume: usize, order: Order) {
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        if agent.orders[volume].contains(&order) {
            return;
        }
        agent.orders[volume].push_back(order);
        let agents = self.machines[machine].agents;
        let delay =
            if self.random.u8(..) < 20 { self.random.u64(..60) * MS } else { self.random.u64(100..2000) };
        self.post(delay, Event::Engine(machine, volume, agents));
    }

    pub(super) fn engine(&mut self, machine: usize, volume: usize, agents: u32) {
        if self.machines[machine].agents != agents {
            return;
        }
        let order = self.machines[machine].agent.as_mut().and_then(|agent| agent.orders[volume].pop_front());
        match order {
            None => {}
            Some(Order::Look) => {
                if let Some(look) =
                    self.machines[machine].arrays[volume].as_ref().map(super::md::Array::looks)
                {
                    self.tell_owner(machine, volume, owner::Event::Looked(look));
                }
            }
            Some(Order::LetGo(leg)) => {
                self.let_go(machine, volume, leg);
                self.tell_owner(machine, volume, owner::Event::LetGo(leg.id));
            }
            Some(Order::Release(legs)) => {
                self.release(machine, volume, &legs);
                self.tell_owner(machine, volume, owner::Event::Released);
            }
        }
    }

    fn power_cycles_of(&self, machine: usize) -> BTreeMap<model::DriveId, model::PowerCycles> {
        let own = self.drives.iter().filter(|drive| drive.node == machine);
        own.map(|drive| (drive.id, model::PowerCycles(drive.power_cycles))).collect()
    }
}
