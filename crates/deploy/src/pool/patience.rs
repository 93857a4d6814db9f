//! How long copies are waited for: what a person has said, or as long as they go on.
//!
//! Invariants: what comes back to where it was before is not going on: a rebuild that begins anew again and again is not waited for, nor a volume whose owner changes again and again. Whatever is copied goes on, of whichever volume: rebuilds
//! take turns.

use super::{PoolError, leg_in_words, phase_in_words};
use api::RebuildProgress;
use control::state::Volume;
use model::{LegId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long something is waited for yet.
#[derive(Debug)]
pub struct Patience {
    bound: Duration,
    until: Instant,
    renews: bool,
    /// Phases, and how legs were, whichever they are.
    seen: BTreeSet<(String, Vec<&'static str>)>,
    /// How far a rebuild of each leg was, bytes.
    furthest: BTreeMap<(VolumeId, LegId), u64>,
}

impl Patience {
    /// So long, whatever is seen.
    pub fn within(bound: Duration) -> Self {
        let (until, seen, furthest) = (Instant::now() + bound, BTreeSet::new(), BTreeMap::new());
        Self { bound, until, renews: false, seen, furthest }
    }

    /// So long after the last that went on. How long a copy takes is known to nobody: users come first.
    pub fn while_it_goes_on(bound: Duration) -> Self {
        Self { renews: true, ..Self::within(bound) }
    }

    pub(crate) const fn bound(&self) -> Duration {
        self.bound
    }

    /// What is seen now: of the volume that is waited for, and of all rebuilds.
    pub(crate) fn sees(&mut self, volume: Option<&Volume>, rebuilds: &BTreeMap<VolumeId, RebuildProgress>) {
        let is_new = volume.is_some_and(|volume| {
            let mut legs: Vec<_> = volume.legs.values().map(|leg| leg_in_words(leg.state)).collect();
            legs.sort_unstable();
            self.seen.insert((phase_in_words(&volume.phase), legs))
        });
        let mut is_further = false;
        for (id, RebuildProgress { leg, done_bytes, .. }) in rebuilds {
            let furthest = self.furthest.entry((*id, *leg)).or_default();
            is_further |= done_bytes > furthest;
            *furthest = *done_bytes.max(furthest);
        }
        if self.renews && (is_new || is_further) {
            self.until = Instant::now() + self.bound;
        }
    }

    /// Fails when it is over; `last` is what was seen last.
    pub(crate) fn is_left(
        &self,
        what: impl FnOnce() -> String,
        last: Option<String>,
    ) -> Result<(), PoolError> {
        if Instant::now() < self.until {
            return Ok(());
        }
        Err(PoolError::Late { what: what(), bound: self.bound, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::tests::{THREE, cluster_of, deployed, spec_of};
    use control::state::Phase;
    use tokio::time::advance;

    fn at(done_bytes: u64) -> BTreeMap<VolumeId, RebuildProgress> {
        [(VolumeId(7), RebuildProgress { leg: LegId(3), done_bytes, total_bytes: 100 })].into()
    }

    fn is_over(patience: &Patience) -> bool {
        patience.is_left(|| "a copy".to_owned(), None).is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_waited_for_and_what_begins_anew_is_not() {
        let mut patience = Patience::while_it_goes_on(Duration::from_secs(10));
        for done in [10, 20, 30] {
            advance(Duration::from_secs(9)).await;
            patience.sees(None, &at(done));
            assert!(!is_over(&patience));
        }
        for again in [0, 10, 30] {
            advance(Duration::from_secs(4)).await;
            patience.sees(None, &at(again));
        }
        assert!(is_over(&patience));
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_whose_owner_changes_again_and_again_is_not_waited_for() {
        let state = deployed(&cluster_of(spec_of(THREE)), 3).ledger.unwrap().unwrap();
        let mut volume = state.volumes.into_values().next().unwrap();
        let mut patience = Patience::while_it_goes_on(Duration::from_secs(10));
        let none = BTreeMap::new();
        let open = volume.phase.clone();
        for phase in [Phase::Closed, open.clone(), Phase::Closed, open] {
            advance(Duration::from_secs(6)).await;
            volume.epoch.number += 1;
            volume.phase = phase;
            patience.sees(Some(&volume), &none);
        }
        assert!(is_over(&patience));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_person_has_said_is_kept_to() {
        let bound = Duration::from_secs(10);
        let mut patience = Patience::within(bound);
        advance(bound / 2).await;
        patience.sees(None, &at(10));
        assert!(!is_over(&patience));
        advance(bound / 2).await;
        patience.sees(None, &at(20));
        assert!(is_over(&patience));
    }
}
