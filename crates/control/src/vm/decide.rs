//! What the ledger's leader asks about virtual machines by itself.
//!
//! Purpose: look at what the ledger says and at who is alive, and propose the next step of each: a run whose node is lost is called lost, what is off is placed,
//! what must leave a node or may go home migrates, a few at a time. Where to, [`placement::vm::plan`] says, anew at every step.
//!
//! A failover, each arrow a commit that any leader can make, once or twice:
//! ```text
//!  Running on N ─ lost ─► Off, N yields ─ placed ─► Starting on M ─ volumes taken over by M ─► … open at M ─ N yielded ─► its node starts it ─ began ─► Running
//! ```
//! Nothing of it waits for a clock but who is lost and who has yielded; what waits for those is letting it run. The volumes of one go to one node, since
//! [`Heir`] says so to whoever takes them over.
//!
//! Invariants: nothing is decided by a leader that is too young to know who lives. What is remembered between steps (how long a zone has been well, when
//! something failed last) only makes things later, so a leader that is lost costs time alone.
//!
//! On failure: what can't be placed stays off, with a reason a node ([`Deciding::plan`]).

use super::{Leftover, Seat, Vm, VmCommand, VmPhase, VmsCommand, Wanted, WhyNotSaved, placing};
use crate::command::{Command, VolumeCommand};
use crate::moment::Moment;
use crate::state::{LegState, Phase, State};
use model::{NodeId, VmId, VolumeId, ZoneName};
use placement::vm::Plan;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who is alive, as the leader knows.
pub struct Alive<'a> {
    /// What time it is.
    pub now: Moment,
    /// What the ledger says.
    pub ledger: &'a State,
    /// Whether this leader is too young to know.
    pub young: bool,
    /// Whether something came from a node lately.
    pub live: &'a dyn Fn(NodeId) -> bool,
    /// Whether a node is silent, and its lease over as soon as its users are stopped anyway.
    pub lost: &'a dyn Fn(NodeId) -> bool,
    /// Whether a node has no lease now.
    pub lease_over: &'a dyn Fn(NodeId) -> bool,
}

/// Who shall have a volume that is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heir {
    /// Whoever holds a good leg.
    Anybody,
    /// Where its virtual machine is to run.
    Node(NodeId),
    /// Its virtual machine is being placed: that comes first.
    Awaits(VmId),
}

/// What is remembered from step to step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Deciding {
    /// Since when a zone that is held down has been well.
    well: BTreeMap<ZoneName, Moment>,
    /// When a setback was first seen.
    setbacks: BTreeMap<VmId, (u32, Moment)>,
    /// Who is placed in this step.
    placed: BTreeSet<VmId>,
}

/// How long after the first setback the next try comes; twice as long after each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// The pause doubles so often.
const DOUBLED_MAX: u32 = 5;

impl Deciding {
    /// Nothing is known any more: another leads.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// What to ask the ledger now.
    pub fn decide(&mut self, alive: &Alive<'_>) -> Vec<Command> {
        let ledger = alive.ledger;
        self.placed.clear();
        if ledger.vms.all.is_empty() {
            return Vec::new();
        }
        let mut asked = Vec::new();
        for (id, vm) in &ledger.vms.all {
            asked.extend(yielded(alive, *id, vm));
            let next = next(alive, vm).map(|command| Command::Vm(*id, vm.generation, command));
            asked.extend(next);
            asked.extend(opened(alive, vm));
        }
        if !alive.young {
            self.move_by_plan(alive, &mut asked);
            self.hold_down(alive, &mut asked);
        }
        asked
    }

    /// Where everything shall run, and why what does not can't: for operators, and for the next step.
    pub fn plan(alive: &Alive<'_>) -> Plan {
        let live = |node| alive.young || (alive.live)(node);
        placement::vm::plan(&placing::cluster(alive.ledger, live), &placing::vms(alive.ledger))
    }

    /// Who shall take a volume over. After [`Self::decide`].
    pub fn heir(&self, alive: &Alive<'_>, volume: VolumeId) -> Heir {
        let Some((id, vm)) = alive.ledger.vms.of_volume(volume) else { return Heir::Anybody };
        match vm.phase.seat() {
            Some(seat) if (alive.live)(seat.node) && !has_rebooted(alive.ledger, seat) => {
                Heir::Node(seat.node)
            }
            _ if self.placed.contains(&id) => Heir::Awaits(id),
            _ => Heir::Anybody,
        }
    }

    fn move_by_plan(&mut self, alive: &Alive<'_>, asked: &mut Vec<Command>) {
        let (ledger, plan) = (alive.ledger, Self::plan(alive));
        let moving = |vm: &&Vm| vm.phase.other_seat().is_some();
        let mut migrating = ledger.vms.all.values().filter(moving).count();
        for to in &plan.moves {
            let Some(vm) = ledger.vms.all.get(&to.vm).filter(|vm| vm.wanted == Wanted::Running) else {
                continue;
            };
            if !(alive.live)(to.to) || !self.is_patient(alive.now, to.vm, vm) {
                continue;
            }
            let command = match vm.phase {
                VmPhase::Off | VmPhase::Saved => VmCommand::Place { on: to.to },
                VmPhase::Running { .. } if to.because.is_live() => {
                    if migrating >= usize::from(ledger.vms.policy.migrations_max) {
                        continue;
                    }
                    migrating += 1;
                    VmCommand::Migrate { to: to.to }
                }
                // Its node is lost, which is said first: it has its place here.
                _ if to.because == placement::vm::Because::NodeLost => {
                    self.placed.insert(to.vm);
                    continue;
                }
                _ => continue,
            };
            if matches!(command, VmCommand::Place { .. }) {
                self.placed.insert(to.vm);
            }
            asked.push(Command::Vm(to.vm, vm.generation, command));
        }
        for (id, held) in &plan.held {
            let saves = ledger.vms.draining.get(&held.on) == Some(&Leftover::Saved);
            let can = |vm: &&Vm| matches!(vm.phase, VmPhase::Running { .. }) && vm.spec.saves_to.is_some();
            if let Some(vm) = ledger.vms.all.get(id).filter(can).filter(|_| saves)
                && self.is_patient(alive.now, *id, vm)
            {
                asked.push(Command::Vm(*id, vm.generation, VmCommand::Save));
            }
        }
    }

    /// Whether enough time has passed since it last failed.
    fn is_patient(&mut self, now: Moment, id: VmId, vm: &Vm) -> bool {
        if vm.setbacks == 0 {
            self.setbacks.remove(&id);
            return true;
        }
        let seen = self.setbacks.entry(id).or_insert((vm.setbacks, now));
        if seen.0 != vm.setbacks {
            *seen = (vm.setbacks, now);
        }
        now >= seen.1.after(PAUSE * (1 << (vm.setbacks - 1).min(DOUBLED_MAX)))
    }

    /// Zones that have been well for long enough may be gone home to.
    fn hold_down(&mut self, alive: &Alive<'_>, asked: &mut Vec<Command>) {
        let held_down = &alive.ledger.vms.held_down;
        self.well.retain(|zone, _| held_down.contains(zone) && is_well(alive, zone));
        for zone in held_down.iter().filter(|zone| is_well(alive, zone)) {
            let since = *self.well.entry(zone.clone()).or_insert(alive.now);
            let span = Duration::from_millis(alive.ledger.vms.policy.hold_down_ms.into());
            if alive.now >= since.after(span) {
                asked.push(Command::Vms(VmsCommand::ZoneReady(zone.clone())));
            }
        }
    }
}

/// Somebody lives there, and what they hold of the virtual machines' volumes is in sync, some of each that has legs there.
fn is_well(alive: &Alive<'_>, zone: &ZoneName) -> bool {
    let ledger = alive.ledger;
    let in_zone =
        |node: &NodeId| ledger.nodes.get(node).is_some_and(|found| found.zone.as_ref() == Some(zone));
    let volumes = ledger.vms.all.values().flat_map(|vm| &vm.spec.volumes);
    let whole = |id: &VolumeId| {
        let legs = || ledger.volumes.get(id).into_iter().flat_map(|volume| volume.legs.values());
        let of_zone = || legs().filter(|leg| ledger.node_of(leg).is_some_and(|node| in_zone(&node)));
        let there = || of_zone().filter(|leg| ledger.node_of(leg).is_some_and(|node| (alive.live)(node)));
        of_zone().next().is_none()
            || (there().next().is_some() && there().all(|leg| leg.state == LegState::InSync))
    };
    ledger.nodes.keys().any(|node| in_zone(node) && (alive.live)(*node)) && volumes.into_iter().all(whole)
}

/// Whether what was there in a boot is gone with it.
fn has_rebooted(ledger: &State, seat: Seat) -> bool {
    ledger.nodes.get(&seat.node).is_some_and(|node| node.boot != Some(seat.boot))
}

/// A node on which an earlier run is known to be gone.
fn yielded(alive: &Alive<'_>, id: VmId, vm: &Vm) -> Option<Command> {
    let gone = |(node, boot): &(&NodeId, &model::BootId)| {
        let present = alive.ledger.nodes.get(node).and_then(|node| node.boot);
        present.is_some_and(|present| present != **boot) || (alive.lease_over)(**node)
    };
    let (node, boot) = vm.yielding.iter().find(gone)?;
    Some(Command::Vm(id, vm.generation, VmCommand::Yielded { node: *node, boot: *boot }))
}

/// The next step of one that needs no plan.
fn next(alive: &Alive<'_>, vm: &Vm) -> Option<VmCommand> {
    let gone = |seat: Seat| has_rebooted(alive.ledger, seat) || (alive.lost)(seat.node);
    if vm.phase.seat().is_some_and(gone) {
        return Some(VmCommand::Lost);
    }
    match (vm.wanted, vm.phase) {
        (wanted, VmPhase::Migrating { to, .. }) => {
            let silent = !alive.young && !(alive.live)(to.node);
            let drains = alive.ledger.vms.draining.contains_key(&to.node);
            let off = wanted != Wanted::Running || silent || drains || has_rebooted(alive.ledger, to);
            off.then_some(VmCommand::Cancel)
        }
        (
            Wanted::Stopped,
            VmPhase::Starting { .. } | VmPhase::Restoring { .. } | VmPhase::Running { .. } | VmPhase::Saved,
        ) => Some(VmCommand::Stop),
        (Wanted::Saved, VmPhase::Running { .. }) => Some(VmCommand::Save),
        // Whoever wanted that wants something else by now.
        (_, VmPhase::Saving { at }) if !alive.ledger.vms.saves(vm, at.node) => {
            Some(VmCommand::GiveUpSaving(vm.saves, WhyNotSaved::Unwanted))
        }
        _ => None,
    }
}

/// A closed volume of one that is to be started is opened where that is.
fn opened(alive: &Alive<'_>, vm: &Vm) -> Vec<Command> {
    let (VmPhase::Starting { at } | VmPhase::Restoring { at }) = vm.phase else { return Vec::new() };
    let closed = |id: &VolumeId| {
        let volume = alive.ledger.volumes.get(id).filter(|volume| volume.phase == Phase::Closed)?;
        Some(Command::Volume(*id, volume.epoch, VolumeCommand::Open { owner: at.node }))
    };
    vm.spec.volumes.iter().filter_map(closed).collect()
}
