//! A node that runs virtual machines: what it has of each against what the ledger says.
//!
//! Purpose: order what leads from one to the other. Like [`crate::owner`]: nothing is remembered that the ledger or the node does not say again, and what is
//! asked of the ledger is asked again until it has changed.
//!
//! ```text
//!  a start       Start(Run) ─► Ready        volumes open, nobody yields ─► Resume ─► Started ─► Began
//!  a save        Stop { save } ─► Saved ─► Ended(Saved), seen ─► End            or NotSaved ─► GiveUpSaving, seen ─► Resume ─► Started
//!  a restore     Start(Restore) ─► Ready ─► Began, seen ─► Resume ─► Started
//!  a migration   there: Start(Incoming) ─► Ready ─► IncomingReady        Switch, seen, volumes open ─► Resume ─► Started ─► Began
//!                here:                       seen ─► Send ─► Paused ─► volumes parted ─► Switch … seen ─► Continue … Began, seen ─► End
//!                                                       └─ Failed ─► Cancel … seen ─► volumes taken back ─► Resume
//! ```
//!
//! Invariants:
//! - Nothing is let run, or restored, but in the generation, on the node and in the boot that the ledger says, with a lease, when nobody is yielding elsewhere and
//!   users are let in to all its volumes here. What only waits, paused and without disks, is started before that: it takes time, which volumes take as well.
//! - Whatever the ledger does not name here, or has lost a volume, or whose node has lost its lease, is ended at once.
//! - A restored memory runs only when the ledger says that it is used up.
//! - What is said to be saved counts only of the try that the ledger says, and of one that has not lost a volume meanwhile; it never runs again here unless the ledger says that it was not saved, or wants the
//!   next try.
//! - What has yet to run, or may stand still, is saved only where it may run: it may have to run for a moment.
//! - What has paused for a switch runs again only when the ledger says that it stays, and its volumes are back. After the switch it never does. While the outcome
//!   is not known both sides stay paused.
//!
//! On failure: what ends is told, and the ledger's leader decides on.

use super::{Closed, How, Seat, Vm, VmCommand, VmPhase, WhyNotSaved};
use crate::bug::{Bug, Bugs};
use crate::command::Command;
use crate::moment::Moment;
use crate::owner::{self, Hold};
use crate::state::{State, Volume};
use model::{BootId, Generation, NodeId, SaveTry, VmId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// What something is started as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// From its disks: it waits, paused and without them, until it is let run.
    Run,
    /// It waits, paused and without disks, for what another node sends.
    Incoming,
    /// From what was saved: it is loaded, and waits, paused.
    Restore,
}

/// What this node has of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance {
    /// Which run.
    pub generation: Generation,
    /// How far it is.
    pub stage: Stage,
}

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It is being started.
    Launched(Role),
    /// It waits, paused: nothing of it has run.
    Ready(Role),
    /// It is being let run.
    Resumed,
    /// It runs.
    Running,
    /// It runs, and shuts down.
    Stopping,
    /// It runs, or stands still already, and is being saved.
    Saving(SaveTry),
    /// It could not be saved. It runs, or stands still.
    NotSaved(SaveTry, WhyNotSaved),
    /// It stands still, and its memory is saved: so many bytes.
    Saved(SaveTry, u64),
    /// It runs, and its memory is sent to this generation.
    Sending(Generation),
    /// It is paused with all but the last of its memory sent, and has closed its disks.
    Paused(Generation),
    /// The last of it is sent. It never runs again.
    Sent,
    /// It is being killed.
    Ending,
}

impl Stage {
    /// Whether it runs, or may by now.
    pub const fn may_run(self) -> bool {
        matches!(
            self,
            Self::Resumed
                | Self::Running
                | Self::Stopping
                | Self::Saving(_)
                | Self::NotSaved(..)
                | Self::Sending(_)
        )
    }
}

/// What a node is told of its virtual machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing but that time has passed, or the ledger or a volume has changed. At least every 200 ms; every 100 while anything happens.
    Look,
    /// This node has a lease.
    Leased,
    /// Its lease is over, or will be before anything could be ended.
    LeaseLost,
    /// A peer's heartbeat has stopped.
    Silent(NodeId),
    /// It is back.
    Heard(NodeId),
    /// It runs.
    Started(VmId, Generation),
    /// It waits, paused: for its disks, for what it receives, or restored.
    Ready(VmId, Generation),
    /// It is paused, all but the last of its memory is sent, and its disks are closed.
    Paused(VmId, Generation),
    /// It stands still, its disks are flushed, and its memory is saved: so many bytes.
    Saved(VmId, Generation, SaveTry, u64),
    /// It can't be saved. It runs, or stands still.
    NotSaved(VmId, Generation, SaveTry, WhyNotSaved),
    /// The migration of this one does not go on. It runs, or is paused.
    Failed(VmId, Generation),
    /// Nothing of it is left here.
    Ended(VmId, Generation, How),
}

/// What a node orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start it, paused, and say [`Event::Ready`].
    Start(VmId, Generation, Role),
    /// Send its memory to the node where it waits in the second generation, and say [`Event::Paused`], with its disks closed, or [`Event::Failed`].
    Send(VmId, Generation, NodeId, Generation),
    /// It has moved: send the last of its memory. It must not run again.
    Continue(VmId, Generation),
    /// Let it run, on the volumes that are open here now, whatever it waits for; a migration that goes on, and a try at saving it, are given up. Say [`Event::Started`].
    Resume(VmId, Generation),
    /// Ask it to shut down, kill it if it does not, and say [`Event::Ended`]; or save its memory, and say [`Event::Saved`] or [`Event::NotSaved`].
    Stop {
        /// Which.
        vm: VmId,
        /// Which run.
        generation: Generation,
        /// Whether its memory is saved, and which try that is.
        save: Option<SaveTry>,
    },
    /// Kill it, and say [`Event::Ended`].
    End(VmId, Generation),
    /// Tell the owner of a volume here.
    Owner(VolumeId, owner::Event),
    /// Ask the ledger. May be ordered again and again until the ledger has changed; one in flight is enough.
    Propose(Command),
}

/// What the ledger says that a node has to do with one.
#[derive(Debug, Clone, Copy)]
enum Part {
    Starts(Seat),
    Restores(Seat),
    Goes(Seat),
    Stops(Seat),
    Saves(Seat, SaveTry),
    Sends(Seat, Seat, bool),
    Receives(Seat, bool),
    Lands(Seat),
    Hands(Seat),
}

impl Part {
    fn of(vm: &Vm, node: NodeId, boot: BootId) -> Option<Self> {
        let own = |seat: Seat| seat.node == node && seat.boot == boot;
        match vm.phase {
            VmPhase::Starting { at } if own(at) => Some(Self::Starts(at)),
            VmPhase::Restoring { at } if own(at) => Some(Self::Restores(at)),
            VmPhase::Running { at } if own(at) => Some(Self::Goes(at)),
            VmPhase::Stopping { at } if own(at) => Some(Self::Stops(at)),
            VmPhase::Saving { at } if own(at) => Some(Self::Saves(at, vm.saves)),
            VmPhase::Migrating { from, to, ready } if own(from) => Some(Self::Sends(from, to, ready)),
            VmPhase::Migrating { to, ready, .. } if own(to) => Some(Self::Receives(to, ready)),
            VmPhase::Landing { at, .. } if own(at) => Some(Self::Lands(at)),
            VmPhase::Landing { from, .. } if own(from) => Some(Self::Hands(from)),
            _ => None,
        }
    }

    fn generation(self) -> Generation {
        match self {
            Self::Starts(seat)
            | Self::Restores(seat)
            | Self::Goes(seat)
            | Self::Stops(seat)
            | Self::Saves(seat, _)
            | Self::Sends(seat, ..)
            | Self::Receives(seat, _)
            | Self::Lands(seat)
            | Self::Hands(seat) => seat.generation,
        }
    }
}

/// A node that runs virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Runner {
    node: NodeId,
    boot: BootId,
    leased: bool,
    silent: BTreeSet<NodeId>,
    instances: BTreeMap<VmId, Instance>,
    /// How the last run here ended, until the ledger knows.
    ended: BTreeMap<VmId, (Generation, How)>,
    /// Whose migration came to nothing, until the ledger knows.
    failed: BTreeSet<VmId>,
    bugs: Bugs,
}

/// What one is held against.
struct Sight<'a> {
    ledger: &'a State,
    id: VmId,
    vm: &'a Vm,
    holds: &'a BTreeMap<VolumeId, Hold>,
}

impl Sight<'_> {
    fn hold(&self, volume: VolumeId) -> Hold {
        self.holds.get(&volume).copied().unwrap_or(Hold::Nothing)
    }

    fn all(&self, hold: Hold) -> bool {
        self.vm.spec.volumes.iter().all(|volume| self.hold(*volume) == hold)
    }

    fn propose(&self, command: VmCommand) -> Effect {
        Effect::Propose(Command::Vm(self.id, self.vm.generation, command))
    }

    fn volumes(&self) -> impl Iterator<Item = (VolumeId, &Volume)> {
        let known = |id: &VolumeId| self.ledger.volumes.get(id).map(|volume| (*id, volume));
        self.vm.spec.volumes.iter().filter_map(known)
    }
}

impl Runner {
    /// At the agent's start; `found` are those that an earlier run of the agent has left.
    pub fn new(node: NodeId, boot: BootId, found: BTreeMap<VmId, Instance>) -> Self {
        let (silent, ended, failed) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        let bugs = Bugs::default();
        Self { node, boot, leased: false, silent, instances: found, ended, failed, bugs }
    }

    /// With rules broken on purpose.
    #[must_use]
    pub fn with_bugs(self, bugs: Bugs) -> Self {
        Self { bugs, ..self }
    }

    /// What this node has.
    pub fn instances(&self) -> &BTreeMap<VmId, Instance> {
        &self.instances
    }

    /// Something happened, and the ledger is this now; `holds`: what the owners here have of volumes.
    pub fn step(
        &mut self,
        _now: Moment,
        ledger: &State,
        holds: &BTreeMap<VolumeId, Hold>,
        event: &Event,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(event, &mut effects);
        self.ended.retain(|id, _| ledger.vms.all.contains_key(id));
        let unknown = self.instances.keys().filter(|id| !ledger.vms.all.contains_key(id));
        for id in unknown.copied().collect::<Vec<_>>() {
            self.end(id, &mut effects);
        }
        for (id, vm) in &ledger.vms.all {
            self.look(&Sight { ledger, id: *id, vm, holds }, &mut effects);
        }
        effects
    }

    fn take(&mut self, event: &Event, effects: &mut Vec<Effect>) {
        match *event {
            Event::Look => {}
            Event::Leased => self.leased = true,
            Event::LeaseLost => {
                self.leased = false;
                for id in self.instances.keys().copied().collect::<Vec<_>>() {
                    self.end(id, effects);
                }
            }
            Event::Silent(node) => drop(self.silent.insert(node)),
            Event::Heard(node) => drop(self.silent.remove(&node)),
            Event::Started(id, generation) => {
                // Whatever was ordered since then counts more.
                if self.stage(id) == Some(Stage::Resumed) {
                    self.reached(id, generation, Stage::Running);
                }
            }
            Event::Ready(id, generation) => {
                if let Some(Instance { stage: Stage::Launched(role), .. }) = self.instances.get(&id) {
                    self.reached(id, generation, Stage::Ready(*role));
                }
            }
            Event::Paused(id, generation) => {
                if let Some(Stage::Sending(to)) = self.stage(id) {
                    self.reached(id, generation, Stage::Paused(to));
                }
            }
            Event::Saved(id, generation, which, bytes) => {
                if self.stage(id) == Some(Stage::Saving(which)) {
                    self.reached(id, generation, Stage::Saved(which, bytes));
                }
            }
            Event::NotSaved(id, generation, which, why) => {
                if self.stage(id) == Some(Stage::Saving(which)) {
                    self.reached(id, generation, Stage::NotSaved(which, why));
                }
            }
            Event::Failed(id, generation) => {
                let sends = matches!(self.stage(id), Some(Stage::Sending(_) | Stage::Paused(_)));
                if sends && self.instances.get(&id).is_some_and(|found| found.generation == generation) {
                    self.failed.insert(id);
                }
            }
            Event::Ended(id, generation, how) => {
                if self.instances.get(&id).is_some_and(|found| found.generation == generation) {
                    self.instances.remove(&id);
                    self.ended.insert(id, (generation, how));
                }
            }
        }
    }

    fn stage(&self, id: VmId) -> Option<Stage> {
        self.instances.get(&id).map(|found| found.stage)
    }

    fn reached(&mut self, id: VmId, generation: Generation, stage: Stage) {
        let found = self.instances.get_mut(&id).filter(|found| found.generation == generation);
        if let Some(found) = found.filter(|found| found.stage != Stage::Ending) {
            found.stage = stage;
        }
    }

    fn end(&mut self, id: VmId, effects: &mut Vec<Effect>) {
        if let Some(found) = self.instances.get_mut(&id).filter(|found| found.stage != Stage::Ending) {
            found.stage = Stage::Ending;
            effects.push(Effect::End(id, found.generation));
        }
    }

    fn look(&mut self, sight: &Sight<'_>, effects: &mut Vec<Effect>) {
        let id = sight.id;
        let part = Part::of(sight.vm, self.node, self.boot);
        let named = part.map(Part::generation);
        if self.instances.get(&id).is_some_and(|found| Some(found.generation) != named) {
            self.end(id, effects);
        }
        let lost = |volume: &VolumeId| !matches!(sight.hold(*volume), Hold::Users | Hold::Array);
        if self.stage(id).is_some_and(Stage::may_run) && sight.vm.spec.volumes.iter().any(lost) {
            self.end(id, effects);
        }
        self.ended.retain(|ended, (generation, _)| *ended != id || Some(*generation) == named);
        if !matches!(part, Some(Part::Sends(..))) {
            self.failed.remove(&id);
        }
        match part {
            Some(part) if self.instances.contains_key(&id) => self.go_on(sight, part, effects),
            Some(part) => self.without(sight, part, effects),
            None => {}
        }
        self.yield_here(sight, named, effects);
        self.give_volumes(sight, part, effects);
    }

    /// Nothing of it is here yet, or any more.
    fn without(&mut self, sight: &Sight<'_>, part: Part, effects: &mut Vec<Effect>) {
        let ended = self.ended.get(&sight.id).map(|(_, how)| *how);
        let generation = part.generation();
        let launch = match part {
            Part::Starts(_) | Part::Restores(_) if ended.is_some() => None,
            Part::Starts(_) => Some(Role::Run).filter(|_| self.leased),
            Part::Restores(_) => Some(Role::Restore).filter(|_| self.may_start(sight)),
            Part::Receives(_, ready) => {
                if ready || ended.is_some() {
                    effects.push(sight.propose(VmCommand::Cancel));
                    return;
                }
                Some(Role::Incoming).filter(|_| self.leased)
            }
            Part::Hands(_) => return,
            Part::Goes(_) | Part::Stops(_) | Part::Saves(..) | Part::Sends(..) | Part::Lands(_) => {
                effects.push(sight.propose(VmCommand::Ended(ended.unwrap_or(How::Died))));
                return;
            }
        };
        if let Some(role) = launch {
            self.instances.insert(sight.id, Instance { generation, stage: Stage::Launched(role) });
            effects.push(Effect::Start(sight.id, generation, role));
        } else if let Some(how) = ended {
            effects.push(sight.propose(VmCommand::Ended(how)));
        }
    }

    /// What is here goes on by what the ledger says.
    fn go_on(&mut self, sight: &Sight<'_>, part: Part, effects: &mut Vec<Effect>) {
        let Some(Instance { generation, stage }) = self.instances.get(&sight.id).copied() else { return };
        let id = sight.id;
        match (part, stage) {
            (_, Stage::Ending) => {}
            (Part::Starts(_) | Part::Lands(_), Stage::Running)
            | (Part::Restores(_), Stage::Ready(_) | Stage::Running) => {
                effects.push(sight.propose(VmCommand::Began));
                if self.bugs.has(Bug::RestoreTwice) && stage == Stage::Ready(Role::Restore) {
                    self.resume(sight, effects);
                }
            }
            // One that could not be saved, or shall not be any more, runs on.
            (Part::Goes(_) | Part::Sends(..), Stage::Saving(_) | Stage::NotSaved(..) | Stage::Saved(..))
            | (Part::Goes(_), Stage::Ready(_) | Stage::Sending(_) | Stage::Paused(_))
            | (Part::Starts(_) | Part::Lands(_), Stage::Ready(_)) => self.resume(sight, effects),
            (Part::Saves(_, which), stage) => self.save(sight, which, (generation, stage), effects),
            (Part::Stops(_), stage) if stage.may_run() && stage != Stage::Stopping => {
                self.reached(id, generation, Stage::Stopping);
                effects.push(Effect::Stop { vm: id, generation, save: None });
            }
            (Part::Stops(_), stage) if stage != Stage::Stopping => self.end(id, effects),
            // Of a migration before this one.
            (Part::Sends(_, to, _), Stage::Sending(known) | Stage::Paused(known))
                if known != to.generation =>
            {
                self.failed.remove(&id);
                self.resume(sight, effects);
            }
            // Nor where nothing of storage gets through: there it would find no copy that is in sync, or none but its own.
            (Part::Sends(_, to, _), _) if self.failed.contains(&id) || self.silent.contains(&to.node) => {
                effects.push(sight.propose(VmCommand::Cancel));
            }
            (Part::Sends(_, to, true), Stage::Running) => {
                self.failed.remove(&id);
                self.reached(id, generation, Stage::Sending(to.generation));
                effects.push(Effect::Send(id, generation, to.node, to.generation));
            }
            (Part::Sends(..), Stage::Paused(_)) => self.part(sight, effects),
            (Part::Receives(_, false), Stage::Ready(_)) => {
                effects.push(sight.propose(VmCommand::IncomingReady));
            }
            (Part::Hands(_), Stage::Paused(_)) if self.bugs.has(Bug::ResumeAfterSwitch) => {
                self.reached(id, generation, Stage::Resumed);
                effects.push(Effect::Resume(id, generation));
            }
            (Part::Hands(_), Stage::Paused(_)) => {
                self.reached(id, generation, Stage::Sent);
                effects.push(Effect::Continue(id, generation));
            }
            _ => {}
        }
    }

    /// It is to be saved, by this try.
    fn save(
        &mut self,
        sight: &Sight<'_>,
        which: SaveTry,
        (generation, stage): (Generation, Stage),
        effects: &mut Vec<Effect>,
    ) {
        match stage {
            Stage::Saving(known) if known == which => {}
            // What broke it off is void by now.
            Stage::NotSaved(known, why) if known == which && why != WhyNotSaved::Unwanted => {
                effects.push(sight.propose(VmCommand::GiveUpSaving(which, why)));
            }
            Stage::Saved(known, bytes) if known == which => {
                effects.push(sight.propose(VmCommand::Ended(How::Saved(which, bytes))));
            }
            // It will say that it runs, or end.
            Stage::Resumed => {}
            // QEMU can't send what it has never let run.
            Stage::Ready(_) => self.resume(sight, effects),
            // It may have sent all already, for a migration or an earlier try, and then runs for a moment before it sends it anew.
            Stage::Saving(_)
            | Stage::NotSaved(..)
            | Stage::Saved(..)
            | Stage::Sending(_)
            | Stage::Paused(_)
                if !self.may_start(sight) => {}
            Stage::Running
            | Stage::Saving(_)
            | Stage::NotSaved(..)
            | Stage::Saved(..)
            | Stage::Sending(_)
            | Stage::Paused(_) => {
                self.reached(sight.id, generation, Stage::Saving(which));
                effects.push(Effect::Stop { vm: sight.id, generation, save: Some(which) });
            }
            Stage::Launched(_) | Stage::Stopping | Stage::Sent | Stage::Ending => self.end(sight.id, effects),
        }
    }

    /// Each volume is closed in order; when all are, they and the side move at once. One that another node has taken over meanwhile never is: it comes back first.
    fn part(&self, sight: &Sight<'_>, effects: &mut Vec<Effect>) {
        if sight.volumes().any(|(_, volume)| volume.owner != self.node) {
            effects.push(sight.propose(VmCommand::Cancel));
            return;
        }
        if sight.all(Hold::Parted) {
            // Of a volume that has parted all that are in sync are among those that were flushed.
            let closed = |(id, volume): (VolumeId, &Volume)| {
                (id, Closed { epoch: volume.epoch, flushed: volume.named_in_sync() })
            };
            let volumes = sight.volumes().map(closed).collect();
            effects.push(sight.propose(VmCommand::Switch { volumes }));
            return;
        }
        let users = sight.vm.spec.volumes.iter().filter(|id| sight.hold(**id) == Hold::Users);
        effects.extend(users.map(|id| Effect::Owner(*id, owner::Event::Part)));
    }

    /// As soon as its volumes are here.
    fn resume(&mut self, sight: &Sight<'_>, effects: &mut Vec<Effect>) {
        if self.may_start(sight)
            && let Some(found) = self.instances.get_mut(&sight.id)
        {
            found.stage = Stage::Resumed;
            effects.push(Effect::Resume(sight.id, found.generation));
        }
    }

    fn may_start(&self, sight: &Sight<'_>) -> bool {
        let early = self.bugs.has(Bug::StartEarly);
        let alone = sight.vm.awaits_yield(self.node).is_none();
        self.leased && (early || (alone && sight.all(Hold::Users)))
    }

    /// Nothing of an earlier run is left here.
    fn yield_here(&self, sight: &Sight<'_>, named: Option<Generation>, effects: &mut Vec<Effect>) {
        let earlier = self.instances.get(&sight.id).is_some_and(|found| Some(found.generation) != named);
        if let Some(boot) = sight.vm.yielding.get(&self.node).filter(|boot| **boot == self.boot && !earlier) {
            effects.push(sight.propose(VmCommand::Yielded { node: self.node, boot: *boot }));
        }
    }

    /// Volumes that are here go where it is to run; those that were closed for a switch that is not to be come back.
    fn give_volumes(&self, sight: &Sight<'_>, part: Option<Part>, effects: &mut Vec<Effect>) {
        let seat = sight.vm.phase.seat();
        let to = seat.map(|seat| seat.node).filter(|to| *to != self.node && !self.silent.contains(to));
        let idle = !self.instances.contains_key(&sight.id);
        let parting = match (part, self.stage(sight.id)) {
            (Some(Part::Sends(_, to, _)), Some(Stage::Paused(known))) => known == to.generation,
            _ => false,
        };
        for id in &sight.vm.spec.volumes {
            match (sight.hold(*id), to) {
                (Hold::Users, Some(to)) if idle => {
                    effects.push(Effect::Owner(*id, owner::Event::HandOver(to)));
                }
                (Hold::Parted, _) if !parting => {
                    let to = to.unwrap_or(self.node);
                    effects.push(Effect::Owner(*id, owner::Event::HandOver(to)));
                }
                _ => {}
            }
        }
    }
}
