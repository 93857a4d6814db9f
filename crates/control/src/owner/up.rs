//! An array that stands: its legs, the order in which they are let go, and the one that is being rebuilt.

use super::{Assembly, Effect, Event, Sight};
use crate::bug::Bug;
use crate::command::{LegRef, VolumeCommand};
use crate::moment::Moment;
use crate::rebuild::{self, Patience, Progress};
use crate::state::{Base, LegState, Phase, Reach, Volume};
use crate::thin;
use model::{Epoch, Incarnation, LegId, MapSequence, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// The way to a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// It has a path.
    Path,
    /// It queues.
    NoPath {
        /// Since when.
        since: Moment,
    },
}

impl Gate {
    /// Nobody waits for a path any more.
    pub(super) const GIVEN_UP: Self = Self::NoPath { since: Moment(0) };
}

/// A leg in the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// As it is reached.
    pub incarnation: Incarnation,
    /// Where it is.
    pub node: NodeId,
    /// The way to it.
    pub gate: Gate,
    /// How far it is in, or out.
    pub standing: Standing,
}

/// How far a leg is in the array, or out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The ledger has it in the set, or being rebuilt: nothing is acknowledged without it.
    In,
    /// The ledger has taken it out: the array may go on without it, and must.
    TakenOut,
    /// Its gate has been told to fail. It stays here until it is out of the array, so that it can't come back before.
    LetGo,
}

/// What one leg looks like to the array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LegLook {
    /// It takes writes, or its gate queues them.
    Fine,
    /// It failed: `faulty`, or `write_error`. What failed on it is held, or should be.
    Failed,
    /// It is out of the array.
    Out,
}

/// What the array looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Look {
    /// Whether it waits for an answer (`write-pending`, `blocked`).
    pub waits: bool,
    /// Every leg.
    pub legs: BTreeMap<LegId, LegLook>,
}

/// A rebuild under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rebuild {
    /// Of which leg.
    pub leg: LegRef,
    /// How far.
    pub progress: Progress,
    /// It is through, with these maps.
    pub done: Option<MapSequence>,
}

/// An array that stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Up {
    /// In this epoch.
    pub epoch: Epoch,
    /// The maps that are durable on its legs.
    pub maps: MapSequence,
    /// Whether users have been let in.
    pub admitted: bool,
    /// What they have.
    pub reach: Reach,
    /// Extents of a thin volume that they write and that are not mapped there.
    pub unmapped: BTreeSet<u64>,
    /// Its legs, the one that is being rebuilt among them.
    pub legs: BTreeMap<LegId, Held>,
    /// One at a time.
    pub rebuild: Option<Rebuild>,
    /// How long legs are left alone whose rebuild failed.
    pub patience: BTreeMap<LegId, Patience>,
    /// Legs that the last look found failed, and the ledger does not know of it.
    pub errored: BTreeSet<LegId>,
}

impl Up {
    pub(super) fn new(assembly: &Assembly) -> Self {
        let held = |(id, (incarnation, node)): (&LegId, &(Incarnation, NodeId))| {
            let held =
                Held { incarnation: *incarnation, node: *node, gate: Gate::Path, standing: Standing::In };
            (*id, held)
        };
        let legs = assembly.legs.iter().map(held).collect();
        Self { legs, ..Self::bare(assembly.epoch, assembly.maps) }
    }

    /// One without legs, which nobody was let in to.
    pub fn bare(epoch: Epoch, maps: MapSequence) -> Self {
        Self {
            epoch,
            maps,
            admitted: false,
            reach: Reach::default(),
            unmapped: BTreeSet::new(),
            legs: BTreeMap::new(),
            rebuild: None,
            patience: BTreeMap::new(),
            errored: BTreeSet::new(),
        }
    }

    /// One that was to be stopped and stays. What was not heard meanwhile is told again, or looked for: which gates have no path, what failed, what waits for a place, how far
    /// a copy is.
    pub(super) fn after_all(self) -> Self {
        let path = |held: Held| match held.gate {
            Gate::GIVEN_UP => held,
            Gate::Path | Gate::NoPath { .. } => Held { gate: Gate::Path, ..held },
        };
        let legs = self.legs.into_iter().map(|(leg, held)| (leg, path(held))).collect();
        Self { legs, rebuild: None, unmapped: BTreeSet::new(), errored: BTreeSet::new(), ..self }
    }

    pub(super) fn take(&mut self, sight: &Sight<'_>, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::GateLost(leg) => {
                if let Some(held) = self.legs.get_mut(&leg).filter(|held| held.gate == Gate::Path) {
                    held.gate = Gate::NoPath { since: sight.now };
                    let named = LegRef { id: leg, incarnation: held.incarnation };
                    if sight.bugs.has(Bug::LetGoBeforeCommit) {
                        effects.push(Effect::LetGo(named));
                    }
                }
            }
            Event::TakenBack(leg) => {
                if let Some(held) =
                    self.legs.get_mut(&leg.id).filter(|held| held.incarnation == leg.incarnation)
                {
                    held.gate = Gate::GIVEN_UP;
                }
            }
            Event::GateBack(leg) => {
                if let Some(held) = self.legs.get_mut(&leg) {
                    held.gate = Gate::Path;
                }
            }
            Event::Extended(reach) => self.reach = reach,
            Event::Unmapped(extents) => self.unmapped = extents,
            Event::Stirred | Event::Released => effects.push(Effect::Look),
            Event::LetGo(leg) => {
                if sight.bugs.has(Bug::ReleaseWithoutLook) {
                    effects.push(Effect::Release(self.legs.iter().map(named).collect()));
                }
                if let Some(held) = self.legs.get_mut(&leg) {
                    held.standing = Standing::LetGo;
                }
                effects.push(Effect::Look);
            }
            Event::Looked(look) => self.looked(&look, effects),
            Event::Rebuilding { done_bytes, total_bytes } => {
                if let Some(rebuild) = &mut self.rebuild {
                    rebuild.progress.report(sight.now, done_bytes, total_bytes);
                }
            }
            Event::Rebuilt(leg, maps) => {
                if let Some(rebuild) = self.rebuild.as_mut().filter(|rebuild| rebuild.leg == leg) {
                    rebuild.done = Some(maps);
                    self.patience.remove(&leg.id);
                }
            }
            Event::RebuildFailed(leg) => self.rebuild_failed(sight, leg),
            _ => {}
        }
    }

    /// Lets go and releases, one answer at a time, and nothing while an error is not committed.
    fn looked(&mut self, look: &Look, effects: &mut Vec<Effect>) {
        let failed = |leg: &LegId| look.legs.get(leg) == Some(&LegLook::Failed);
        self.errored = self
            .legs
            .iter()
            .filter(|(leg, held)| failed(leg) && held.standing == Standing::In)
            .map(|(leg, _)| *leg)
            .collect();
        if !self.errored.is_empty() {
            // An error came through the gate: the drive's. What it has is in doubt from now on, also if it is the last.
            // It is proposed at every step until the ledger says so.
            return;
        }
        let out = |leg: &LegId| look.legs.get(leg).is_none_or(|look| *look == LegLook::Out);
        self.legs.retain(|leg, held| held.standing == Standing::In || !out(leg));
        let next = self.legs.iter().find(|(leg, held)| held.standing == Standing::TakenOut && !failed(leg));
        if let Some((leg, held)) = next {
            effects.push(Effect::LetGo(LegRef { id: *leg, incarnation: held.incarnation }));
            return;
        }
        let failed: BTreeSet<LegRef> = self.legs.iter().filter(|(leg, _)| failed(leg)).map(named).collect();
        if look.waits || !failed.is_empty() {
            effects.push(Effect::Release(failed));
        }
    }

    /// Once: until the ledger has heard of it, it is seen at each look, and the pause would double each time.
    fn rebuild_failed(&mut self, sight: &Sight<'_>, leg: LegRef) {
        let is_it = self.rebuild.is_some_and(|rebuild| rebuild.leg == leg);
        let held = self.legs.get_mut(&leg.id).filter(|held| is_it && held.gate != Gate::GIVEN_UP);
        if let Some(held) = held {
            // The ledger hears of it as of a leg without path.
            held.gate = Gate::GIVEN_UP;
            self.patience.entry(leg.id).or_default().failed(sight.now, sight.timing.rebuild_pause);
        }
    }

    pub(super) fn look(&mut self, sight: &Sight<'_>, effects: &mut Vec<Effect>) {
        let volume = sight.volume;
        let open = matches!(volume.phase, Phase::Open { .. });
        if open && self.covers(sight) {
            self.let_in(volume.reach(), effects);
        }
        if open && let Some(extents) = thin::to_map(sight.ledger, volume, &self.unmapped) {
            effects.push(sight.propose(VolumeCommand::Map { extents }));
        }
        if !open && volume.awaits_yield().is_none() {
            effects.push(sight.propose(VolumeCommand::Opened { maps: self.maps }));
        }
        if self.compare(volume, effects) {
            effects.push(Effect::Look);
        }
        let errored = self.errored.iter().filter(|leg| self.is_in(**leg));
        effects.extend(errored.filter_map(|leg| suspect(sight, *leg)));
        let hopeless = |held: &Held| held.standing == Standing::In && sight.is_hopeless(held.gate, held.node);
        // One that erred does not count: if it is all that would be left, the one without path is the better.
        let sound =
            |leg: &LegId| volume.in_sync().any(|(other, _)| other != *leg && !self.errored.contains(&other));
        let given_up = self.legs.iter().filter(|(leg, held)| hopeless(held) && sound(leg));
        effects.extend(given_up.filter_map(|(leg, _)| sight.stale(*leg)));
        if open {
            self.look_after_rebuild(sight, effects);
        }
    }

    /// Whether every leg of the array has all of the volume's array laid. One that does not count any more may lack what the volume has grown by; it would
    /// swallow what is written there, and nobody would know that it misses it.
    fn covers(&self, sight: &Sight<'_>) -> bool {
        let volume = sight.volume;
        let laid = |leg: &LegId| volume.legs.get(leg).is_some_and(|found| volume.is_laid(found));
        self.legs.keys().all(laid) || sight.bugs.has(Bug::ExtendUncovered)
    }

    /// Users get in, or get more. That waits for what they have in flight (a table of device-mapper changes), so it is not begun while anything may hold that.
    fn let_in(&mut self, reach: Reach, effects: &mut Vec<Effect>) {
        let calm = |held: &Held| held.gate == Gate::Path && held.standing == Standing::In;
        let less = self.reach.size_bytes < reach.size_bytes || self.reach.array_bytes < reach.array_bytes;
        if !self.admitted {
            (self.admitted, self.reach) = (true, reach);
            effects.push(Effect::Admit(reach));
        } else if less && self.errored.is_empty() && self.legs.values().all(calm) {
            effects.push(Effect::Extend(reach));
        }
    }

    fn is_in(&self, leg: LegId) -> bool {
        self.legs.get(&leg).is_some_and(|held| held.standing == Standing::In)
    }

    /// Holds the legs against the ledger's; whether one was taken out of the set.
    fn compare(&mut self, volume: &Volume, effects: &mut Vec<Effect>) -> bool {
        let mut taken_out = false;
        for (leg_id, held) in &mut self.legs {
            let leg = volume.legs.get(leg_id);
            match leg {
                Some(leg)
                    if leg.state == LegState::InSync
                        && leg.incarnation > held.incarnation
                        && held.standing == Standing::In =>
                {
                    // The last one, whose target restarted: what its gate queues goes to it as it is now.
                    held.incarnation = leg.incarnation;
                    effects.push(Effect::Repoint(
                        LegRef { id: *leg_id, incarnation: leg.incarnation },
                        held.node,
                    ));
                }
                Some(leg)
                    if leg.incarnation == held.incarnation
                        && matches!(leg.state, LegState::InSync | LegState::Rebuilding { .. }) => {}
                _ if held.standing != Standing::In => {}
                _ => {
                    held.standing = Standing::TakenOut;
                    taken_out = true;
                }
            }
        }
        if let Some(rebuild) = self.rebuild
            && self.legs.get(&rebuild.leg.id).is_none_or(|held| held.standing != Standing::In)
        {
            self.rebuild = None;
            effects.push(Effect::StopRebuild(rebuild.leg));
        }
        taken_out
    }

    fn look_after_rebuild(&mut self, sight: &Sight<'_>, effects: &mut Vec<Effect>) {
        let volume = sight.volume;
        if let Some(rebuild) = self.rebuild {
            let in_sync = volume.legs.get(&rebuild.leg.id).is_some_and(|leg| leg.state == LegState::InSync);
            let done = rebuild.done.or(sight.bugs.has(Bug::InSyncByItself).then_some(self.maps));
            match done {
                _ if in_sync => self.rebuild = None,
                Some(maps) => {
                    effects.push(sight.propose(VolumeCommand::LegInSync { leg: rebuild.leg, maps }));
                }
                None if rebuild.progress.is_stuck(sight.now, sight.timing.rebuild_patience) => {
                    self.rebuild_failed(sight, rebuild.leg);
                }
                None => {}
            }
            return;
        }
        for (leg_id, leg) in &volume.legs {
            let named = LegRef { id: *leg_id, incarnation: leg.incarnation };
            match (leg.state, sight.ledger.node_of(leg)) {
                // Its copy ended while no agent looked: the engine finds that, and flushes it.
                (LegState::Rebuilding { base }, Some(node)) if self.holds(named) => {
                    self.order_rebuild(sight, named, node, base, effects);
                    return;
                }
                // One that is let go and not out yet comes back later.
                _ if self.legs.contains_key(leg_id) => {}
                (LegState::Rebuilding { base }, Some(node)) => {
                    let held =
                        Held { incarnation: leg.incarnation, node, gate: Gate::Path, standing: Standing::In };
                    self.legs.insert(*leg_id, held);
                    self.order_rebuild(sight, named, node, base, effects);
                    return;
                }
                (LegState::Stale { back: true, .. }, _) => {
                    let patient =
                        self.patience.get(leg_id).is_some_and(|patience| !patience.is_over(sight.now));
                    if !patient && rebuild::is_next(sight.ledger, sight.id, *leg_id) {
                        effects.push(sight.propose(VolumeCommand::BeginRebuild(named)));
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a leg is in the array as it is named, with a path.
    fn holds(&self, leg: LegRef) -> bool {
        let found = self.legs.get(&leg.id).filter(|held| held.incarnation == leg.incarnation);
        found.is_some_and(|held| held.standing == Standing::In && held.gate == Gate::Path)
    }

    fn order_rebuild(
        &mut self,
        sight: &Sight<'_>,
        leg: LegRef,
        node: NodeId,
        base: Base,
        effects: &mut Vec<Effect>,
    ) {
        self.rebuild = Some(Rebuild { leg, progress: Progress::begun(sight.now), done: None });
        effects.push(Effect::Rebuild(leg, node, base));
    }
}

fn named((id, held): (&LegId, &Held)) -> LegRef {
    LegRef { id: *id, incarnation: held.incarnation }
}

fn suspect(sight: &Sight<'_>, leg: LegId) -> Option<Effect> {
    let incarnation = sight.volume.legs.get(&leg)?.incarnation;
    Some(sight.propose(VolumeCommand::LegSuspect(LegRef { id: leg, incarnation })))
}
