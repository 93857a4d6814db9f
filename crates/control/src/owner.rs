//! A node as owner of one volume: assembling it, losing legs, getting them back, closing it.
//!
//! Purpose: hold the array that this node has against the ledger, and lead from one to the other.
//!
//! ```text
//!          the epoch is activated           assembled, legs equal, maps durable
//!  ┌──────┐ for this node and boot  ┌────────────┐          ┌─────────────────────────────┐
//!  │ Idle ├────────────────────────►│ Assembling ├─────────►│ Up (users are let in when    │
//!  └──▲───┘                         └─────┬──────┘          │  the ledger says Open)      │
//!     │                                   │ superseded,     └───────▲──────┬──────────────┘
//!     │       ┌─────────┐  stopped  ┌─────▼────┐  in use after all  │      │  lease lost, close,
//!     └───────┤ Stopped │◄──────────┤ Stopping ├────────────────────┘      │  hand over
//!  ledger     └─────────┘           │          │◄──────────────────────────┘
//!  has it                           └──────────┘
//! ```
//! *In use after all*: what was to be closed or handed over in order is used by what is no process (mounted, a loop device), which nobody can end, and stays as it is. Where the
//! array has to go, since the lease is over or another has the volume, that is no way out: such users would write on what they were acknowledged, so the node is reset.
//!
//! Losing a leg, each arrow a step that can fail and is taken again:
//! ```text
//!  gate without path ─ evidence ─► propose "stale" ─ commit seen ─► look ─► let go (the gate) ─► look ─► release (md) ─► look …
//!                                         ▲                                                       │
//!                                         └────── an error that is not committed yet ◄────────────┘
//! ```
//!
//! Invariants:
//! - Only what the ledger says is acted on; an answer to a proposal is not needed and not used.
//! - A leg is let go, and md answered, only when every leg that failed is no longer in sync by the ledger ([`Up::looked`]).
//! - Superseded is superseded: kill the openers, stop, never come back in that epoch.
//! - A rebuilt leg is called in sync when the engine has flushed it, not when md says so.
//!
//! On failure: what can't be decided waits, and so do the writes. An array that can't be stopped costs the node
//! ([`Effect::ResetNode`]).

mod assembling;
mod back;
mod reached;
#[cfg(test)]
mod tests;
mod up;

use crate::bug::{Bug, Bugs};
use crate::command::{Command, LegRef, VolumeCommand};
use crate::moment::Moment;
use crate::state::{Base, LegState, Phase, Reach, State, Volume};
use crate::target::Key;
use model::{BootId, Epoch, Incarnation, LegId, MapSequence, NodeId, VolumeId};
use reached::Tried;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use reached::Reached;
pub use up::{Gate, Held, LegLook, Look, Rebuild, Standing, Up};

/// How long an owner waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// A gate without path is given up after this, whatever the peer's heartbeat says.
    pub gate_patience: Duration,
    /// The same of a leg that an array is to be made of, and that nobody could connect to yet: its node may give it out a moment later, as its agent is started again.
    pub assembly_patience: Duration,
    /// A rebuild that copies nothing for this long is given up.
    pub rebuild_patience: Duration,
    /// The first pause before a rebuild that failed is tried again.
    pub rebuild_pause: Duration,
    /// An array whose users were killed, and that has not stopped after this, costs the node.
    pub stop_max: Duration,
    /// How long an array that is closed in order may take, before its users are killed.
    pub close_max: Duration,
}

impl Default for Timing {
    /// Path loss is seen after 1 s (`queue/io_timeout`); both storage networks get 2 s more to come back.
    fn default() -> Self {
        Self {
            gate_patience: Duration::from_secs(3),
            assembly_patience: Duration::from_secs(5),
            rebuild_patience: Duration::from_secs(30),
            rebuild_pause: Duration::from_secs(2),
            stop_max: Duration::from_secs(2),
            close_max: Duration::from_secs(10),
        }
    }
}

/// What an owner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing but that time has passed or the ledger has changed. At least every 200 ms; every 100 while anything happens.
    Look,
    /// This array stands: legs equal if that was ordered, maps durable on every leg. Void if another has been ordered since.
    Assembled(Assembly),
    /// All legs of an array that is to be made were tried, before anything else was made of them. Told at each try that came so far.
    Unreached {
        /// Of which epoch.
        epoch: Epoch,
        /// These have no path, or no device here.
        legs: BTreeSet<LegId>,
        /// Of these it is not known yet.
        late: BTreeSet<LegId>,
    },
    /// A leg's gate queues: no path is left.
    GateLost(LegId),
    /// It has a path again, and goes on with what it queued.
    GateBack(LegId),
    /// A leg's target has taken it back, as it is known here: its drive stalls. No path to it comes back.
    TakenBack(LegRef),
    /// A peer's heartbeat has stopped.
    Silent(NodeId),
    /// It is back.
    Heard(NodeId),
    /// The array's state may have changed (`POLLPRI`).
    Stirred,
    /// What [`Effect::Look`] found.
    Looked(Look),
    /// What users have now.
    Extended(Reach),
    /// Users write these extents of a thin volume, which have no place in the array that they have; said as often as it is looked. Empty: nobody waits.
    Unmapped(BTreeSet<u64>),
    /// What [`Effect::LetGo`] was to do is done.
    LetGo(LegId),
    /// What [`Effect::Release`] was to do is done.
    Released,
    /// How far a rebuild is.
    Rebuilding {
        /// Copied.
        done_bytes: u64,
        /// To be copied.
        total_bytes: u64,
    },
    /// It is through; the leg is flushed, and maps of this sequence are durable on it.
    Rebuilt(LegRef, MapSequence),
    /// It failed.
    RebuildFailed(LegRef),
    /// This node has a lease: without one it makes no array.
    Leased,
    /// Its lease is over, or will be before an array could be stopped.
    LeaseLost,
    /// Close it: users have gone.
    Close,
    /// Close it, for another node to open: users are paused. While that is under way, another node may be named, or this one: then it is opened here again.
    HandOver(NodeId),
    /// Close it, and wait: what uses it has paused, and goes elsewhere with all its volumes in one commit, or comes back ([`Event::HandOver`] says which).
    Part,
    /// The array can't be stopped: it is used by what is no process. Ends the order that was given last; nothing of it is left, and md was answered for no leg.
    InUse {
        /// Of which epoch.
        epoch: Epoch,
        /// Whether processes were killed, by that order.
        kill: bool,
    },
    /// The array is stopped, and nobody can write.
    Stopped {
        /// Of which epoch.
        epoch: Epoch,
        /// The legs that took a flush before, each seen at its target: md's own word does not count. If one that is in sync is not among them, it was no
        /// orderly close, and the volume comes back as after a takeover.
        flushed: BTreeSet<LegRef>,
    },
}

/// What an owner orders of the engine and the ledger: few words, none of them md's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the array. Replaces an earlier order.
    Assemble(Assembly),
    /// Let users in: to so much.
    Admit(Reach),
    /// Let users have so much, without stopping them, and say [`Event::Extended`]. Ordered until it is said; one at a time is enough. It may wait for
    /// what users have in flight, and nothing else may wait for it.
    Extend(Reach),
    /// Look at every leg, and say [`Event::Looked`].
    Look,
    /// Let this leg's gate fail what it holds, so that the array goes on without it.
    LetGo(LegRef),
    /// Answer the array: it may acknowledge what failed on these legs, and only these.
    Release(BTreeSet<LegRef>),
    /// A leg is to be reached under its new incarnation.
    Repoint(LegRef, NodeId),
    /// Bring a leg up to date.
    Rebuild(LegRef, NodeId, Base),
    /// Give up on it, and take the leg out.
    StopRebuild(LegRef),
    /// Flush every leg, with its status checked at the target, and stop the array; a leg without path is not waited for. `kill`:
    /// SIGKILL its openers first, and see that none returns.
    Stop {
        /// Whether users are still there.
        kill: bool,
    },
    /// Tell these legs' targets that they were given back: [`crate::target::Event::GivenBack`]. If that is lost it costs time alone.
    GivenBack(BTreeMap<LegId, (Key, NodeId)>),
    /// The array does not stop: the node must not go on.
    ResetNode,
    /// Ask the ledger. May be ordered again and again until the ledger has changed; one in flight is enough.
    Propose(Command),
}

/// What an array is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Assembly {
    /// In this epoch.
    pub epoch: Epoch,
    /// From these legs, which all are in sync.
    pub legs: BTreeMap<LegId, (Incarnation, NodeId)>,
    /// Whether they may differ: the union of all bitmaps is copied from one to the others, and flushed.
    pub make_equal: bool,
    /// For these legs the union of all bitmaps is added to what they have missed …
    pub stale: BTreeSet<LegId>,
    /// … and made durable on every leg of the array under this sequence. Before the array starts.
    pub maps: MapSequence,
}

/// What comes after the array has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then {
    /// Nothing: another has the volume.
    Nothing,
    /// Tell the ledger that it was closed in order.
    Close,
    /// Give it to a node in the same commit: to another, or to this one, if the other can't have it.
    HandOver(NodeId),
    /// Nothing by itself: others go with it.
    Part,
}

/// What a virtual machine finds of one of its volumes on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// Nothing that it could use.
    Nothing,
    /// An array that users were let in to, and of which the ledger, as it is seen here, does not say that it is open.
    Array,
    /// It is open here, and users are let in.
    Users,
    /// It was closed in order, in the present epoch, to go elsewhere with others or to come back.
    Parted,
}

/// What this node has of the volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Nothing.
    Idle,
    /// An array is being made.
    Assembling(Assembly, Reached),
    /// An array.
    Up(Up),
    /// An array that is being stopped.
    Stopping {
        /// Of which epoch.
        epoch: Epoch,
        /// What comes after.
        then: Then,
        /// Whether users are killed. If not, they have some time to go.
        kill: bool,
        /// Since when.
        since: Moment,
        /// The array as it was, while it may stay if it is in use after all.
        stays: Option<Box<Up>>,
    },
    /// No array any more, and the ledger still says so.
    Stopped {
        /// Of which epoch.
        epoch: Epoch,
        /// What to tell it.
        then: Then,
        /// Which legs took a flush when nobody could write any more.
        flushed: BTreeSet<LegRef>,
    },
}

/// A node as owner of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    id: VolumeId,
    node: NodeId,
    boot: BootId,
    timing: Timing,
    silent: BTreeSet<NodeId>,
    leased: bool,
    stage: Stage,
    bugs: Bugs,
}

/// What an array is held against.
struct Sight<'a> {
    now: Moment,
    ledger: &'a State,
    id: VolumeId,
    volume: &'a Volume,
    silent: &'a BTreeSet<NodeId>,
    timing: Timing,
    bugs: Bugs,
}

impl Sight<'_> {
    fn propose(&self, command: VolumeCommand) -> Effect {
        Effect::Propose(Command::Volume(self.id, self.volume.epoch, command))
    }

    /// Whether a leg is to be given up: no path, and the peer is silent or it has been so for long.
    fn is_hopeless(&self, gate: Gate, node: NodeId) -> bool {
        match gate {
            Gate::Path => false,
            Gate::NoPath { since } => {
                self.silent.contains(&node) || self.now >= since.after(self.timing.gate_patience)
            }
        }
    }

    /// "This leg, in this incarnation, is stale", if the ledger does not say so already and would take it.
    fn stale(&self, leg: LegId) -> Option<Effect> {
        let found = self.volume.legs.get(&leg)?;
        let writes = matches!(found.state, LegState::InSync | LegState::Rebuilding { .. });
        let last = found.state == LegState::InSync && self.volume.is_last_in_sync(leg);
        let named = LegRef { id: leg, incarnation: found.incarnation };
        (writes && !last).then(|| self.propose(VolumeCommand::LegStale(named)))
    }
}

impl Owner {
    /// At the agent's start; `found` is an array that an earlier run of the agent has left.
    pub fn new(id: VolumeId, node: NodeId, boot: BootId, timing: Timing, found: Option<Up>) -> Self {
        let stage = found.map_or(Stage::Idle, Stage::Up);
        let (silent, leased, bugs) = (BTreeSet::new(), false, Bugs::default());
        Self { id, node, boot, timing, silent, leased, stage, bugs }
    }

    /// With rules broken on purpose.
    #[must_use]
    pub fn with_bugs(self, bugs: Bugs) -> Self {
        Self { bugs, ..self }
    }

    /// What this node has of the volume.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Something happened, and the ledger is this now.
    pub fn step(&mut self, now: Moment, ledger: &State, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.take(now, ledger, event, &mut effects);
        self.look(now, ledger, &mut effects);
        effects
    }

    fn take(&mut self, now: Moment, ledger: &State, event: Event, effects: &mut Vec<Effect>) {
        let open = self.is_open(ledger);
        match (event, &mut self.stage) {
            (Event::Silent(node), _) => drop(self.silent.insert(node)),
            (Event::Heard(node), stage) => {
                self.silent.remove(&node);
                if let Stage::Assembling(_, reached) = stage {
                    reached.heard(now);
                }
            }
            (Event::Leased, _) => self.leased = true,
            (Event::LeaseLost, _) => {
                self.leased = false;
                if let Stage::Stopping { stays, .. } = &mut self.stage {
                    *stays = None;
                }
                self.stop(now, true, Then::Close, effects);
            }
            (Event::InUse { epoch: used, kill: killed }, Stage::Stopping { epoch, kill, .. })
                if used == *epoch && killed == *kill =>
            {
                self.in_use(ledger, effects);
            }
            (Event::GateLost(leg), Stage::Assembling(_, reached)) => {
                reached.gates.entry(leg).or_insert(Gate::NoPath { since: now });
            }
            (Event::TakenBack(leg), Stage::Assembling(assembly, reached))
                if assembly.legs.get(&leg.id).is_some_and(|(as_it_is, _)| *as_it_is == leg.incarnation) =>
            {
                reached.gates.insert(leg.id, Gate::GIVEN_UP);
            }
            (Event::GateBack(leg), Stage::Assembling(_, reached)) => {
                reached.gates.retain(|lost, gate| *lost != leg || *gate == Gate::GIVEN_UP);
            }
            (Event::Unreached { epoch, legs, late }, Stage::Assembling(assembly, reached))
                if assembly.epoch == epoch =>
            {
                let (tried, patience) = (Tried { without_path: legs, late }, self.timing.assembly_patience);
                reached.tried(now, assembly, &self.silent, &tried, patience);
            }
            (Event::Assembled(made), Stage::Assembling(assembly, _)) if *assembly == made => {
                self.stage = Stage::Up(Up::new(assembly));
            }
            (Event::Close, Stage::Up(_)) => self.stop(now, false, Then::Close, effects),
            (Event::HandOver(to), Stage::Up(_)) => self.hand_over(now, ledger, to, effects),
            (Event::Part, Stage::Up(_)) if open => self.stop(now, false, Then::Part, effects),
            // Whichever is committed first, the others are void.
            (
                Event::HandOver(to),
                Stage::Stopping { kill: false, then: then @ (Then::HandOver(_) | Then::Part), .. }
                | Stage::Stopped { then: then @ (Then::HandOver(_) | Then::Part), .. },
            ) => *then = Then::HandOver(to),
            (Event::Close, Stage::Stopped { then: then @ Then::HandOver(_), .. }) => *then = Then::Close,
            (Event::Stopped { epoch: stopped, flushed }, Stage::Stopping { epoch, then, .. })
                if stopped == *epoch =>
            {
                self.stage = Stage::Stopped { epoch: stopped, then: *then, flushed };
                effects.extend(self.given_back(ledger));
            }
            (event, Stage::Up(_)) => {
                self.with_array(now, ledger, |up, sight| up.take(sight, event, effects));
            }
            _ => {}
        }
    }

    /// Does something with the array that stands, if it is the ledger's.
    fn with_array(&mut self, now: Moment, ledger: &State, work: impl FnOnce(&mut Up, &Sight<'_>)) {
        let Some(volume) = self.activated(ledger) else { return };
        let Stage::Up(up) = &mut self.stage else { return };
        let (id, silent, timing, bugs) = (self.id, &self.silent, self.timing, self.bugs);
        if up.epoch == volume.epoch {
            work(up, &Sight { now, ledger, id, volume, silent, timing, bugs });
        }
    }

    fn is_open(&self, ledger: &State) -> bool {
        self.activated(ledger).is_some_and(|volume| matches!(volume.phase, Phase::Open { .. }))
    }

    /// What a virtual machine finds of it here.
    pub fn hold(&self, ledger: &State) -> Hold {
        let epoch = self.activated(ledger).map(|volume| volume.epoch);
        match &self.stage {
            Stage::Up(up) if up.admitted && epoch == Some(up.epoch) && self.is_open(ledger) => Hold::Users,
            Stage::Up(up) if up.admitted => Hold::Array,
            Stage::Stopped { epoch: stopped, then: Then::Part, flushed }
                if epoch == Some(*stopped) && is_orderly(self.activated(ledger), flushed) =>
            {
                Hold::Parted
            }
            _ => Hold::Nothing,
        }
    }

    /// Of a volume that is open here; to this node itself there is nothing to do.
    fn hand_over(&mut self, now: Moment, ledger: &State, to: NodeId, effects: &mut Vec<Effect>) {
        let open = self.activated(ledger).filter(|volume| matches!(volume.phase, Phase::Open { .. }));
        let goes = to != self.node && ledger.may_go(self.id, to);
        let Some(volume) = open.filter(|_| goes) else { return };
        if self.bugs.has(Bug::HandOverUnclosed) {
            let command = VolumeCommand::HandOver { to, flushed: volume.named_in_sync() };
            effects.push(Effect::Propose(Command::Volume(self.id, volume.epoch, command)));
        } else {
            self.stop(now, false, Then::HandOver(to), effects);
        }
    }

    fn stop(&mut self, now: Moment, kill: bool, then: Then, effects: &mut Vec<Effect>) {
        let (epoch, then) = match &self.stage {
            // Legs may have been made equal half-way: that is no orderly close.
            Stage::Assembling(assembly, _) => (assembly.epoch, Then::Nothing),
            Stage::Up(up) => (up.epoch, if up.admitted { then } else { Then::Nothing }),
            // Whoever was to go by themselves has no more time.
            Stage::Stopping { epoch, kill: false, .. } if kill => (*epoch, Then::Nothing),
            Stage::Idle | Stage::Stopping { .. } | Stage::Stopped { .. } => return,
        };
        let stays = match &self.stage {
            Stage::Up(up) if !kill => Some(Box::new(up.clone())),
            _ => None,
        };
        self.stage = Stage::Stopping { epoch, then, kill, since: now, stays };
        effects.push(Effect::Stop { kill });
    }

    /// What is no process uses the array that is being stopped. If it was to be closed in order it stays; else it is tried again, until the node is reset.
    fn in_use(&mut self, ledger: &State, effects: &mut Vec<Effect>) {
        let (leased, ours) = (self.leased, self.activated(ledger).map(|volume| volume.epoch));
        let Stage::Stopping { epoch, kill, stays, .. } = &mut self.stage else { return };
        match stays.take() {
            Some(up) if leased && ours == Some(*epoch) => {
                self.stage = Stage::Up(up.after_all());
                effects.push(Effect::Look);
            }
            _ => effects.push(Effect::Stop { kill: *kill }),
        }
    }

    /// The epoch that this node may have an array of, by the ledger.
    fn activated<'a>(&self, ledger: &'a State) -> Option<&'a Volume> {
        let volume = ledger.volumes.get(&self.id).filter(|volume| volume.owner == self.node)?;
        (volume.activated() == Some(self.boot)).then_some(volume)
    }

    fn look(&mut self, now: Moment, ledger: &State, effects: &mut Vec<Effect>) {
        let volume = self.activated(ledger);
        let ours = volume.map(|volume| volume.epoch);
        match &mut self.stage {
            Stage::Assembling(Assembly { epoch, .. }, _) | Stage::Up(Up { epoch, .. })
                if ours != Some(*epoch) =>
            {
                self.stop(now, true, Then::Nothing, effects);
            }
            Stage::Idle => {
                if let Some(volume) = volume.filter(|_| self.leased) {
                    self.begin(ledger, volume, effects);
                }
            }
            Stage::Assembling(..) => self.assembling(now, ledger, effects),
            Stage::Up(_) => self.with_array(now, ledger, |up, sight| up.look(sight, effects)),
            Stage::Stopping { kill: true, since, .. } => {
                if now > since.after(self.timing.stop_max) {
                    effects.push(Effect::ResetNode);
                }
            }
            // Superseded, nobody waits for users.
            Stage::Stopping { epoch, .. } if ours != Some(*epoch) => {
                self.stop(now, true, Then::Nothing, effects);
            }
            // Nor after so long; what can't be killed may still stay.
            Stage::Stopping { kill, then, since, .. } => {
                if now > since.after(self.timing.close_max) {
                    (*kill, *then, *since) = (true, Then::Nothing, now);
                    effects.push(Effect::Stop { kill: true });
                }
            }
            Stage::Stopped { epoch, then: Then::Part, flushed }
                if ours == Some(*epoch) && is_orderly(volume, flushed) => {}
            Stage::Stopped { epoch, then, flushed }
                if ours == Some(*epoch) && is_orderly(volume, flushed) =>
            {
                let (epoch, flushed) = (*epoch, flushed.clone());
                let command = match then {
                    Then::Nothing | Then::Part => None,
                    Then::Close => Some(VolumeCommand::Close { flushed }),
                    Then::HandOver(to) => {
                        // What was proposed before may still be committed: until one of them is, nothing is opened, here or there.
                        *to = if can_take(ledger, (self.id, &self.silent), *to) { *to } else { self.node };
                        Some(VolumeCommand::HandOver { to: *to, flushed })
                    }
                };
                match command {
                    Some(command) => effects.push(Effect::Propose(Command::Volume(self.id, epoch, command))),
                    None => self.stage = Stage::Idle,
                }
            }
            Stage::Stopped { .. } => self.stage = Stage::Idle,
        }
        effects.extend(self.yielded(ledger));
    }

    /// Taken before this node's lease was over: nothing of it is left here now.
    fn yielded(&self, ledger: &State) -> Option<Effect> {
        let volume = ledger.volumes.get(&self.id).filter(|_| self.stage == Stage::Idle)?;
        let boot = volume.yielding.get(&self.node).filter(|boot| **boot == self.boot)?;
        let command = VolumeCommand::Yielded { node: self.node, boot: *boot };
        Some(Effect::Propose(Command::Volume(self.id, volume.epoch, command)))
    }
}

/// Whether a volume that is handed over to a node would be opened there: if not, it had better stay.
fn can_take(ledger: &State, (id, silent): (VolumeId, &BTreeSet<NodeId>), to: NodeId) -> bool {
    let owns = ledger.nodes.get(&to).is_some_and(|node| node.boot.is_some() && node.zone.is_some());
    owns && !silent.contains(&to) && ledger.may_go(id, to)
}

/// Whether every leg that is in sync has taken the flush: one that a proposal of before has made so meanwhile has not.
fn is_orderly(volume: Option<&Volume>, flushed: &BTreeSet<LegRef>) -> bool {
    volume.is_some_and(|volume| volume.named_in_sync().is_subset(flushed))
}

/// A takeover from oneself: the volume is open here, and the array that was opened is gone. Should this be committed late, when another
/// run of the agent has taken the array up after all, its users may run.
fn take_anew(id: VolumeId, owner: NodeId, volume: &Volume) -> Effect {
    Effect::Propose(Command::Volume(id, volume.epoch, VolumeCommand::Takeover { owner, lease_over: false }))
}
