//! A node as target: which legs it gives out, to whom, and how it makes sure that nobody else has them.
//!
//! Purpose: for every leg on this node's drives, hold what is given out against what the ledger wants, and lead from one to the
//! other: fence (unlink from all ports, disable the namespace, stop local arrays), then confirm or give out. All of it follows
//! from the ledger as it is now and from a [`Guard`] per leg; nothing is remembered of how it came to be.
//!
//! ```text
//!            ┌───────────┐   the ledger wants it otherwise, or it stalls    ┌─────────┐
//!  start ──► │ Unknown   ├─────────────────┐          ┌────────────────────┤  Given  │
//!            └───────────┘                 ▼          ▼                     └────▲────┘
//!                                        ┌──────────────┐  barrier   ┌────────┐  │ the ledger wants a key
//!                                        │   Fencing    ├───────────►│ Fenced ├──┘ at or above the floor
//!                                        └──────────────┘            └────────┘
//! ```
//!
//! Invariants:
//! - Nothing happens before the ledger knows this boot and these drives' counts.
//! - A leg is given out under a key (epoch, incarnation). The lowest key that may still be is its floor, on disk before it
//!   is acted on ([`Effect::Remember`]); it only rises, also over a restart.
//! - A fence is confirmed when the barrier is through, never before; a leg given out in an earlier run is fenced first.
//! - What a leg's slabs that came later hold is filled with zeros once, by what its target remembers of that ([`Laid`]); a fence ends it first.
//! - A forced quorum may give slabs to other legs than those that have them by what is lost: nothing is made, filled or given out under a ledger before all
//!   that an earlier one has given out here is fenced.
//! - The slabs of a leg that the ledger has dropped are said to be free when it is fenced, never before; no key of it is given out after that.
//!
//! On failure: a fence that hangs stays `Fencing` and is not confirmed; the ledger goes on without the leg (after a forced quorum, without this node's, until it
//! has restarted). A leg that can't be
//! given out goes back to `Unknown`.

mod lay;

use crate::bug::{Bug, Bugs};
use crate::command::{ClusterCommand, Command, LegRef, VolumeCommand};
use crate::moment::Moment;
use crate::retire;
use crate::state::{Leaving, Leg, LegState, Phase, Run, State, Volume};
use model::{BootId, DriveId, Epoch, Incarnation, LedgerIncarnation, LegId, NodeId, PowerCycles, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Under what a leg is given out; its subsystem's name contains it. Ordered: epoch first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The volume's.
    pub epoch: Epoch,
    /// The leg's.
    pub incarnation: Incarnation,
}

/// A leg of a volume.
pub type LegOf = (VolumeId, LegId);

pub use lay::Laid;

/// What this node knows about who has a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guard {
    /// Nothing: an earlier run of the agent may have left something.
    Unknown,
    /// A fence was ordered, and its barrier is not through.
    Fencing {
        /// What may be given out after it.
        floor: Key,
    },
    /// Nobody has it.
    Fenced {
        /// What may be given out.
        floor: Key,
    },
    /// Given out.
    Given {
        /// Under this.
        key: Key,
        /// To this node; this one itself: as a local device.
        to: NodeId,
    },
}

/// What a target is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but that time has passed or the ledger has changed.
    Look,
    /// A fence is through: no link, no I/O in flight, no local array.
    Fenced {
        /// Of which leg.
        leg: LegOf,
        /// As it was ordered.
        floor: Key,
        /// Whether the drive has counted errors since the leg was given out.
        errored: bool,
    },
    /// A leg could not be given out.
    Failed(LegOf),
    /// So many of a leg's slabs are mapped, and zeros where nothing was written, and that is remembered.
    Laid(LegOf, Laid),
    /// They could not be.
    NotLaid(LegOf),
    /// A leg's oldest I/O is older than a path may stall ([`crate::stall`]).
    Stalled(LegOf),
    /// Whoever had the leg under this key has no more use for it, and nobody will under that key.
    GivenBack(LegOf, Key),
    /// A drive reported an error on a leg.
    Errored(LegOf),
    /// A drive was reset, or came back: its count now.
    DriveReset(DriveId, PowerCycles),
}

/// What a target orders. In this order, each when the one before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write this floor to disk, and wait until it is there.
    Remember(LegOf, Key),
    /// Unlink every subsystem of the leg from all ports, disable the namespace (this is the barrier). A local array that holds the
    /// leg: one of an epoch below the floor's is stopped, openers first; one of the same epoch is the present owner's, goes on
    /// without the leg, and its letting go is waited for. Then tell [`Event::Fenced`].
    Fence(LegOf, Key),
    /// Give it out to this node under this key; to this node itself: keep it as a local device.
    GiveOut(LegOf, Key, NodeId),
    /// Fill the leg's slabs from this one on with zeros, durably; then write down, wait until that is on disk, and map, if the leg is given out, so many of
    /// them; then tell [`Event::Laid`]. What is filled is behind everything that is mapped, so that it may take its time, beside anything but a fence of
    /// the leg: that ends it, and waits until nothing of it is in flight.
    Lay(LegOf, u64, Laid),
    /// The ledger knows the leg no more, and nothing of it stands: its floor, and what was laid, may be forgotten. Leg numbers never come again.
    Forget(LegOf),
    /// Tell the node that has the leg under this key that it has been taken back, since its drive stalls: [`crate::owner::Event::TakenBack`]. Once; if that is
    /// lost, its patience ends.
    TakenBack(LegOf, Key, NodeId),
    /// Ask the ledger. May be ordered again and again until the ledger has changed; one in flight is enough.
    Propose(Command),
}

/// A node as target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    node: NodeId,
    boot: BootId,
    drives: BTreeMap<DriveId, PowerCycles>,
    guards: BTreeMap<LegOf, Guard>,
    /// Under which ledger a leg was given out, or its slabs filled, that has not been fenced since: something may still be written to it.
    standing: BTreeMap<LegOf, LedgerIncarnation>,
    floors: BTreeMap<LegOf, Key>,
    errored: BTreeMap<LegOf, bool>,
    laid: BTreeMap<LegOf, lay::Known>,
    laying: BTreeSet<LegOf>,
    bugs: Bugs,
}

impl Target {
    /// At the agent's start: this boot, its drives, the floors and what was laid from disk, and what the kernel has given out (from an earlier run of the
    /// agent in the same boot).
    pub fn new(
        node: NodeId,
        boot: BootId,
        drives: BTreeMap<DriveId, PowerCycles>,
        (floors, laid): (BTreeMap<LegOf, Key>, BTreeMap<LegOf, Laid>),
        found: BTreeMap<LegOf, (Key, NodeId)>,
    ) -> Self {
        let standing = found.iter().map(|(leg, (key, _))| (*leg, key.epoch.ledger)).collect();
        let given = found.into_iter().map(|(leg, (key, to))| (leg, Guard::Given { key, to }));
        let (guards, errored, laying) = (given.collect(), BTreeMap::new(), BTreeSet::new());
        let laid = laid.into_iter().map(|(leg, laid)| (leg, lay::Known { laid, mapped: false })).collect();
        let bugs = Bugs::default();
        Self { node, boot, drives, guards, standing, floors, errored, laid, laying, bugs }
    }

    /// With rules broken on purpose.
    #[must_use]
    pub fn with_bugs(self, bugs: Bugs) -> Self {
        Self { bugs, ..self }
    }

    /// What is known about a leg.
    pub fn guard(&self, leg: LegOf) -> Guard {
        self.guards.get(&leg).copied().unwrap_or(Guard::Unknown)
    }

    /// Something happened, and the ledger is this now.
    pub fn step(&mut self, _now: Moment, ledger: &State, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Look => {}
            Event::Fenced { leg, floor, errored } => {
                if self.guard(leg) == (Guard::Fencing { floor }) {
                    self.guards.insert(leg, Guard::Fenced { floor });
                    self.standing.remove(&leg);
                    self.errored.insert(leg, errored);
                }
            }
            Event::Failed(leg) => {
                self.guards.insert(leg, Guard::Unknown);
            }
            Event::Laid(leg, laid) => {
                self.laying.remove(&leg);
                self.laid.insert(leg, lay::Known { laid, mapped: true });
            }
            Event::NotLaid(leg) => drop(self.laying.remove(&leg)),
            Event::Stalled(leg) => self.take_back(ledger, leg, &mut effects),
            Event::GivenBack(leg, key) => self.given_back(ledger, leg, key, &mut effects),
            Event::Errored(leg) => effects.extend(suspect(ledger, leg)),
            Event::DriveReset(drive, power_cycles) => {
                self.drives.insert(drive, power_cycles);
            }
        }
        self.look(ledger, &mut effects);
        effects
    }

    fn look(&mut self, ledger: &State, effects: &mut Vec<Effect>) {
        if !self.is_registered(ledger) {
            let (node, boot) = (self.node, self.boot);
            let drives = self.registrable(ledger).collect();
            let was = ledger.nodes.get(&node).and_then(|node| node.boot);
            let register = ClusterCommand::Register { node, was, boot, drives };
            effects.push(Effect::Propose(Command::Cluster(register)));
            if !self.bugs.has(Bug::RestoreExports) {
                return;
            }
        }
        if self.is_of_before(ledger, effects) {
            return;
        }
        for (id, volume) in &ledger.volumes {
            for (leg_id, leg) in &volume.legs {
                if self.has(ledger, leg.drive) {
                    self.look_at(ledger, (*id, *leg_id), volume, leg, effects);
                    self.lay(ledger, (*id, *leg_id), effects);
                }
            }
        }
        let mut leaving = Vec::new();
        for (drive, found) in &ledger.drives {
            let own = self.has(ledger, *drive);
            for gone in found.leaving.iter().filter(|_| own) {
                leaving.push((gone.volume, gone.leg));
                self.see_off(*drive, gone, effects);
            }
        }
        let known = |id: &LegOf| {
            let leg = ledger.volumes.get(&id.0).and_then(|volume| volume.legs.get(&id.1));
            leg.is_some_and(|leg| self.has(ledger, leg.drive)) || leaving.contains(id)
        };
        let gone: Vec<LegOf> = self.guards.keys().filter(|leg| !known(leg)).copied().collect();
        for leg in gone {
            self.let_go_for_good(leg, effects);
        }
    }

    /// Fences what was given out under an earlier ledger. Whether there is any: what it has may be another leg's by this one.
    fn is_of_before(&mut self, ledger: &State, effects: &mut Vec<Effect>) -> bool {
        let earlier = self.standing.iter().filter(|(_, under)| **under < ledger.incarnation);
        let earlier: Vec<LegOf> = earlier.map(|(leg, _)| *leg).collect();
        for id in &earlier {
            let next = |key: Key| Key { incarnation: key.incarnation.next(), ..key };
            let own = match self.guard(*id) {
                Guard::Fencing { .. } => continue,
                Guard::Given { key, .. } => Some(next(key)),
                Guard::Fenced { floor } => Some(floor),
                Guard::Unknown => self.floors.get(id).copied(),
            };
            let volume = ledger.volumes.get(&id.0);
            let leg = volume.and_then(|volume| Some((volume, volume.legs.get(&id.1)?)));
            let known =
                leg.map(|(volume, leg)| floor_for(volume, leg, self.wanted(ledger, volume, (id.1, leg))));
            if let Some(floor) = known.or(own) {
                self.fence(*id, floor, effects);
            }
        }
        !earlier.is_empty()
    }

    /// Whether a drive is here that is not lost: what stands of one that is, is fenced and forgotten.
    fn has(&self, ledger: &State, drive: DriveId) -> bool {
        !ledger.is_lost(drive) && self.drives.contains_key(&drive)
    }

    fn is_registered(&self, ledger: &State) -> bool {
        let boot = ledger.nodes.get(&self.node).and_then(|node| node.boot);
        let same = |(id, count): (DriveId, PowerCycles)| {
            ledger.drives.get(&id).is_some_and(|drive| drive.power_cycles == Some(count))
        };
        boot == Some(self.boot) && self.registrable(ledger).all(same)
    }

    /// The drives that the ledger has of this node: it refuses to hear of one that has left the pool.
    fn registrable(&self, ledger: &State) -> impl Iterator<Item = (DriveId, PowerCycles)> {
        ledger.drives_in(self.node).filter_map(|(id, _)| Some((id, *self.drives.get(&id)?)))
    }

    fn look_at(&mut self, ledger: &State, id: LegOf, volume: &Volume, leg: &Leg, effects: &mut Vec<Effect>) {
        let wanted = self.wanted(ledger, volume, (id.1, leg));
        match self.guard(id) {
            Guard::Fencing { .. } => {}
            Guard::Given { key, to } if wanted == Some((key, to)) => {
                effects.extend(self.keep(ledger, id, volume, leg));
            }
            Guard::Unknown if wanted.is_some() && self.bugs.has(Bug::RestoreExports) => {
                let (key, to) = wanted.unwrap_or((floor_for(volume, leg, None), self.node));
                self.give_out(id, key, to, effects);
            }
            Guard::Given { .. } | Guard::Unknown => {
                self.fence(id, floor_for(volume, leg, wanted), effects);
                if self.bugs.has(Bug::SkipBarrier) {
                    effects.extend(self.answer(ledger, id, volume, leg, floor_for(volume, leg, wanted)));
                }
            }
            Guard::Fenced { floor } => match wanted {
                Some((key, to)) if key >= floor => self.give_out(id, key, to, effects),
                _ => {
                    let floor = floor.max(floor_for(volume, leg, wanted));
                    if self.guard(id) != (Guard::Fenced { floor }) {
                        self.remember(id, floor, effects);
                        self.guards.insert(id, Guard::Fenced { floor });
                    }
                    effects.extend(self.answer(ledger, id, volume, leg, floor));
                }
            },
        }
    }

    /// What the ledger wants of a leg: given out under this key to this node, or to nobody.
    fn wanted(&self, ledger: &State, volume: &Volume, (id, leg): (LegId, &Leg)) -> Option<(Key, NodeId)> {
        volume.activated()?;
        let in_use = match leg.state {
            LegState::InSync | LegState::Rebuilding { .. } => true,
            LegState::Stale { back, .. } => back,
            LegState::Suspect { .. } => false,
        };
        let key = Key { epoch: volume.epoch, incarnation: leg.incarnation };
        let same_run =
            ledger.same_run(leg) || ledger.stays(volume, (id, leg)) || self.bugs.has(Bug::RestoreExports);
        (in_use && same_run).then_some((key, volume.owner))
    }

    /// One that stays as it is given out though its drive was away: the ledger is told, so that it is one like any other when another is in sync, too.
    fn keep(&self, ledger: &State, id: LegOf, volume: &Volume, leg: &Leg) -> Option<Effect> {
        let run = Run { boot: self.boot, power_cycles: *self.drives.get(&leg.drive)? };
        let leg_ref = LegRef { id: id.1, incarnation: leg.incarnation };
        let news = !ledger.same_run(leg) && ledger.stays(volume, (id.1, leg));
        let command = VolumeCommand::Kept { leg: leg_ref, run };
        news.then_some(Effect::Propose(Command::Volume(id.0, volume.epoch, command)))
    }

    /// What to tell the ledger about a leg that nobody has.
    fn answer(&self, ledger: &State, id: LegOf, volume: &Volume, leg: &Leg, floor: Key) -> Option<Effect> {
        let run = Run { boot: self.boot, power_cycles: *self.drives.get(&leg.drive)? };
        let key = Key { epoch: volume.epoch, incarnation: leg.incarnation };
        let named = LegRef { id: id.1, incarnation: leg.incarnation };
        let errored = self.errored.get(&id).copied().unwrap_or(false);
        let command = match (&volume.phase, leg.state) {
            (Phase::Fencing { confirmed }, LegState::InSync) => {
                let news = confirmed.get(&id.1) != Some(&run) && floor >= key && volume.is_laid(leg);
                news.then_some(VolumeCommand::ConfirmFence { leg: named, run, errored })?
            }
            (Phase::Opening { .. } | Phase::Open { .. }, state) => {
                let wants = match state {
                    LegState::InSync => volume.is_last_in_sync(id.1),
                    LegState::Stale { back, .. } => !back || !ledger.same_run(leg),
                    LegState::Suspect { .. } => volume.in_sync().next().is_some(),
                    LegState::Rebuilding { .. } => false,
                } && !retire::leaves(ledger, id);
                let fenced = floor > key;
                let doubtful = errored && !matches!(state, LegState::Suspect { .. });
                let command = if doubtful {
                    VolumeCommand::LegSuspect(named)
                } else {
                    VolumeCommand::Reexport { leg: named, run }
                };
                (wants && fenced).then_some(command)?
            }
            _ => return None,
        };
        Some(Effect::Propose(Command::Volume(id.0, volume.epoch, command)))
    }

    /// A leg whose drive stalls: what it was given comes late or never, and its owner has given the path up by then or is about to. The last in sync stays as it
    /// is: nobody goes on without it.
    fn take_back(&mut self, ledger: &State, id: LegOf, effects: &mut Vec<Effect>) {
        let Guard::Given { key, to } = self.guard(id) else { return };
        if is_last(ledger, id) {
            return;
        }
        self.fence(id, Key { incarnation: key.incarnation.next(), ..key }, effects);
        effects.push(Effect::TakenBack(id, key, to));
    }

    /// It is fenced for whatever comes after this key, in time for the ledger to say what that is. The last in sync is left as it is: one that is fenced and
    /// wanted gets another incarnation, of which nobody has flushed anything.
    fn given_back(&mut self, ledger: &State, id: LegOf, back: Key, effects: &mut Vec<Effect>) {
        if matches!(self.guard(id), Guard::Given { key, .. } if key == back) && !is_last(ledger, id) {
            self.fence(id, Key { incarnation: back.incarnation.next(), ..back }, effects);
        }
    }

    fn remember(&mut self, id: LegOf, key: Key, effects: &mut Vec<Effect>) {
        if self.floors.get(&id).is_none_or(|floor| *floor < key) {
            self.floors.insert(id, key);
            effects.push(Effect::Remember(id, key));
        }
    }

    fn fence(&mut self, id: LegOf, floor: Key, effects: &mut Vec<Effect>) {
        let floor = self.floors.get(&id).copied().map_or(floor, |known| known.max(floor));
        self.remember(id, floor, effects);
        self.guards.insert(id, Guard::Fencing { floor });
        self.laying.remove(&id);
        effects.push(Effect::Fence(id, floor));
    }

    fn give_out(&mut self, id: LegOf, key: Key, to: NodeId, effects: &mut Vec<Effect>) {
        if self.floors.get(&id).is_some_and(|floor| key < *floor) {
            return;
        }
        self.remember(id, key, effects);
        self.guards.insert(id, Guard::Given { key, to });
        self.standing.insert(id, key.epoch.ledger);
        effects.push(Effect::GiveOut(id, key, to));
    }

    /// A leg that the ledger has dropped, and whose slabs are free as soon as it is fenced. What an earlier run of the agent left is not
    /// known here: it is fenced in any case.
    fn see_off(&mut self, drive: DriveId, leaving: &Leaving, effects: &mut Vec<Effect>) {
        let id = (leaving.volume, leaving.leg);
        match self.guard(id) {
            Guard::Fencing { .. } if !self.bugs.has(Bug::FreeBeforeBarrier) => {}
            // Zeros may be on their way to its slabs: only a fence ends that.
            Guard::Fenced { floor } if self.laying.contains(&id) => self.fence(id, floor, effects),
            Guard::Fencing { .. } | Guard::Fenced { .. } => {
                let freed = ClusterCommand::Freed { drive, volume: leaving.volume, leg: leaving.leg };
                effects.push(Effect::Propose(Command::Cluster(freed)));
            }
            Guard::Given { .. } | Guard::Unknown => {
                let floor = Key { epoch: leaving.epoch, incarnation: leaving.incarnation.next() };
                self.fence(id, floor, effects);
            }
        }
    }

    fn let_go_for_good(&mut self, id: LegOf, effects: &mut Vec<Effect>) {
        match self.guard(id) {
            Guard::Fencing { .. } => {}
            Guard::Fenced { floor } if self.laying.contains(&id) => self.fence(id, floor, effects),
            Guard::Fenced { .. } => {
                self.guards.remove(&id);
                self.standing.remove(&id);
                self.errored.remove(&id);
                self.floors.remove(&id);
                self.laid.remove(&id);
                effects.push(Effect::Forget(id));
            }
            Guard::Given { key, .. } => {
                self.fence(id, Key { incarnation: key.incarnation.next(), ..key }, effects);
            }
            Guard::Unknown => {
                self.guards.remove(&id);
            }
        }
    }
}

/// Whether no other leg of its volume is in sync.
fn is_last(ledger: &State, id: LegOf) -> bool {
    let last = |volume: &Volume| volume.in_sync().map(|(leg, _)| leg).eq([id.1]);
    ledger.volumes.get(&id.0).is_some_and(last)
}

/// The lowest key that may be given out once a leg is fenced.
fn floor_for(volume: &Volume, leg: &Leg, wanted: Option<(Key, NodeId)>) -> Key {
    let key = Key { epoch: volume.epoch, incarnation: leg.incarnation };
    // Of an epoch that is not activated nothing has been given out yet: the leg may be, as it is.
    let unused = wanted.is_some() || matches!(volume.phase, Phase::Fencing { .. });
    if unused { key } else { Key { incarnation: key.incarnation.next(), ..key } }
}

fn suspect(ledger: &State, (id, leg_id): LegOf) -> Option<Effect> {
    let volume = ledger.volumes.get(&id)?;
    let leg = volume.legs.get(&leg_id)?;
    let named = LegRef { id: leg_id, incarnation: leg.incarnation };
    let known = matches!(leg.state, LegState::Suspect { .. });
    let command = Command::Volume(id, volume.epoch, VolumeCommand::LegSuspect(named));
    (!known).then_some(Effect::Propose(command))
}

#[cfg(test)]
mod tests;
