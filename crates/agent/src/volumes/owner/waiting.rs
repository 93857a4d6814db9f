//! What users write of a thin volume that has no place yet.
//!
//! Invariants: nothing is remembered of who waits: at each look what was written is counted, told to control, and let try again, so that whatever else waits behind
//! it goes on. An agent that has just started finds the same.
//!
//! On failure: it is looked at again.

use super::{One, at};
use crate::volumes::VolumesError;
use crate::volumes::shell::blocking;
use control::owner::Event;
use model::VolumeId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::owner::Queue;
use tracing::{info, warn};

/// How long what waits is let try again at every look: a place takes some tenths of a second.
const SOON: Duration = Duration::from_secs(3);
/// How often after that: there is no room, and the kernel's log has a line for each time.
const SELDOM: Duration = Duration::from_secs(1);

/// Since when something has waited, and when it was let try last.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    since: Option<Instant>,
    tried: Option<Instant>,
}

impl Waiting {
    fn is_due(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let soon = now.duration_since(since) < SOON;
        let due = soon || self.tried.is_none_or(|tried| now.duration_since(tried) >= SELDOM);
        if due {
            self.tried = Some(now);
        }
        due
    }

    /// Whether something had waited until now.
    fn end(&mut self) -> bool {
        self.tried = None;
        self.since.take().is_some()
    }
}

impl One {
    /// One look at the queue. Where it was given up nothing is let try: its users are to end.
    pub(super) async fn tend(&self, queue: Queue, waiting: &mut Waiting) {
        if queue.path || !queue.queues {
            if waiting.end() {
                info!("nothing of {} waits for a place any more", self.id);
                self.tell(Event::Unmapped(BTreeSet::new()));
            }
            return;
        }
        if !waiting.is_due(Instant::now()) {
            return;
        }
        match self.unmapped().await {
            Ok(extents) => self.tell(Event::Unmapped(extents)),
            Err(error) => warn!("can't see what waits in {}: {}", self.id, crate::chain(&error)),
        }
        if let Err(error) = self.reinstate_queue().await {
            warn!("can't let go on what waits in {}: {}", self.id, crate::chain(&error));
        }
    }

    async fn unmapped(&self) -> Result<BTreeSet<u64>, VolumesError> {
        let (id, place, ledger) = (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        blocking(move || Ok(at(id, &place, &ledger)?.0.unmapped(id)?)).await
    }

    async fn reinstate_queue(&self) -> Result<(), VolumesError> {
        let (id, place, ledger): (VolumeId, _, _) =
            (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        blocking(move || Ok(at(id, &place, &ledger)?.0.reinstate_queue(id)?)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_tries_at_every_look_at_first_and_then_once_a_second() {
        let (mut waiting, begun) = (Waiting::default(), Instant::now());
        let mut due = |ms| waiting.is_due(begun + Duration::from_millis(ms));
        assert_eq!([0, 100, 2_900].map(&mut due), [true; 3]);
        assert_eq!([3_100, 3_900, 4_000, 4_900].map(&mut due), [false, true, false, true]);
        assert!(waiting.end() && !waiting.end());
        assert!(waiting.is_due(begun + Duration::from_secs(5)), "it begins anew");
    }
}
