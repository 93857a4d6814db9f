//! When a leg is brought up to date: how many at a time, in which order, how fast, and when to give up.
//!
//! Purpose: from the ledger alone every owner computes the same order, so that nobody has to be asked: [`is_next`]. The ledger
//! refuses what is above the limit ([`State::apply`]), so that two that look at different moments can't overrun it.
//! [`Progress`] counts bytes and notices when nothing moves; [`Patience`] keeps a leg that comes and goes from being rebuilt
//! without end.
//!
//! On failure: a rebuild that makes no progress is given up (the leg is stale again) and tried after a pause that doubles.

use crate::moment::Moment;
use crate::state::{Leg, LegState, Phase, State};
use model::{LegId, NodeId, VolumeId};
use std::time::Duration;

/// How many legs on a node's drives are being rebuilt.
pub fn running_on(state: &State, node: NodeId) -> usize {
    let legs = state.volumes.values().flat_map(|volume| volume.legs.values());
    let rebuilding = legs.filter(|leg| matches!(leg.state, LegState::Rebuilding { .. }));
    rebuilding.filter(|leg| state.node_of(leg) == Some(node)).count()
}

/// Legs that could be rebuilt now, those first whose volume has fewest legs in sync.
pub fn waiting(state: &State) -> Vec<(VolumeId, LegId)> {
    let open = state.volumes.iter().filter(|(_, volume)| matches!(volume.phase, Phase::Open { .. }));
    let mut found: Vec<_> = open
        .flat_map(|(id, volume)| {
            let back = |state| matches!(state, LegState::Stale { back: true, .. });
            let ready = move |leg: &Leg| back(leg.state) && state.same_run(leg) && volume.is_laid(leg);
            let legs = volume.legs.iter().filter(move |(_, leg)| ready(leg));
            let in_sync = volume.in_sync().count();
            legs.map(move |(leg, _)| (in_sync, *id, *leg))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, volume, leg)| (volume, leg)).collect()
}

/// Whether this leg's turn has come: the places on its node that are free are enough for it and all before it.
pub fn is_next(state: &State, volume: VolumeId, leg: LegId) -> bool {
    let node_of = |volume, leg: LegId| {
        let leg = state.volumes.get(&volume).and_then(|found| found.legs.get(&leg))?;
        state.node_of(leg)
    };
    let Some(node) = node_of(volume, leg) else { return false };
    let free = usize::from(state.settings.rebuilds_per_node_max).saturating_sub(running_on(state, node));
    let queue = waiting(state).into_iter().filter(|(volume, leg)| node_of(*volume, *leg) == Some(node));
    queue.take(free).any(|next| next == (volume, leg))
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Copied so far.
    pub done_bytes: u64,
    /// To be copied.
    pub total_bytes: u64,
    /// When `done_bytes` last grew.
    pub moved_at: Moment,
}

impl Progress {
    /// Nothing yet.
    pub fn begun(now: Moment) -> Self {
        Self { done_bytes: 0, total_bytes: 0, moved_at: now }
    }

    /// What the engine reports.
    pub fn report(&mut self, now: Moment, done_bytes: u64, total_bytes: u64) {
        if done_bytes > self.done_bytes {
            self.moved_at = now;
        }
        (self.done_bytes, self.total_bytes) = (done_bytes, total_bytes);
    }

    /// Whether nothing has moved for that long.
    pub fn is_stuck(&self, now: Moment, patience: Duration) -> bool {
        now >= self.moved_at.after(patience)
    }
}

/// How long to leave a leg alone whose last rebuild failed: doubles with each failure, ends with a success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Patience {
    failures: u32,
    until: Moment,
}

impl Patience {
    /// The longest pause.
    pub const PAUSE_MAX: Duration = Duration::from_mins(5);

    /// A rebuild failed.
    pub fn failed(&mut self, now: Moment, first_pause: Duration) {
        let pause = first_pause.saturating_mul(1 << self.failures.min(16)).min(Self::PAUSE_MAX);
        self.failures = self.failures.saturating_add(1).min(17);
        self.until = now.after(pause);
    }

    /// Whether it may be tried.
    pub fn is_over(&self, now: Moment) -> bool {
        now >= self.until
    }

    /// When it may be tried.
    pub fn until(&self) -> Moment {
        self.until
    }
}
