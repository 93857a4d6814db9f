//! A gate that has given its path up gets it back: the bounce.
//!
//! Why: what was sent on a path that was given up may still come, after it was sent again on another and overtaken (docs/sim.md). So the
//! leg's target shuts all that reaches the leg, waits until nothing is in flight, and gives it out again as it was; only then is
//! the path used again.
//!
//! Invariants: a path is used again only after its target has said that it is done, and over a connection that was made since.
//!
//! On failure: the gate keeps what it has, and control lets the leg go when its patience ends.

use super::VolumesError;
use super::owner::{LOOK_HURRIED, One, at};
use super::shell::blocking;
use api::GivenLegRequest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use storage::kernel::StepError;
use storage::name::GivenLeg;
use storage::owner;
use tokio::time::sleep;
use tracing::info;

/// How long a peer may take for a bounce: its barrier waits for what is in flight.
const BOUNCE_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take until the host sees that its connections were shut, and until one is made anew.
const SHUT_LIMIT: Duration = Duration::from_secs(2);
const RECONNECT_LIMIT: Duration = Duration::from_secs(8);
/// How long after a bounce has begun that did not end well the next one of the same leg comes: longer than one may take, so that no two overlap.
const BOUNCE_AGAIN: Duration = Duration::from_secs(30);
/// How long after one that ended well: longer than control waits for a path, so that a leg that loses its path again and again is let go.
const WELL_AGAIN: Duration = Duration::from_secs(5);
/// How long after one of an own leg that failed: it has ended, and its drive may be back by then.
const OWN_AGAIN: Duration = Duration::from_secs(1);

/// From when on which leg may be bounced again: one that loses its path soon after is not worth another.
#[derive(Clone, Default)]
pub(super) struct Bounces(Arc<Mutex<BTreeMap<GivenLeg, Instant>>>);

impl Bounces {
    /// Whether it is time for one; then it is taken to begin now.
    pub(super) fn is_due(&self, given: GivenLeg, now: Instant) -> bool {
        let mut from = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = from.get(&given).is_none_or(|from| now >= *from);
        if due {
            from.retain(|other, _| other.leg != given.leg);
            from.insert(given, now + BOUNCE_AGAIN);
        }
        due
    }

    /// The last one of a leg that is still given out so has ended: the next may come so long after.
    fn ended(&self, given: GivenLeg, now: Instant, again: Duration) {
        let mut from = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        from.entry(given).and_modify(|from| *from = now + again);
    }
}

impl One {
    /// A gate that has given its path up gets it back, when its target has shut what was before and nothing of it is in flight, and a
    /// connection lives that was made since.
    pub(super) async fn bounce(self, given: GivenLeg, own: bool, bounces: Bounces) {
        match self.bounced(given).await {
            Ok(()) => {
                bounces.ended(given, Instant::now(), WELL_AGAIN);
                info!("the path to {given} is used again");
            }
            Err(error) => {
                info!("the path to {given} is not used again: {}", crate::chain(&error));
                // Another's may go on there, whatever is heard of it.
                if own {
                    bounces.ended(given, Instant::now(), OWN_AGAIN);
                }
            }
        }
    }

    async fn bounced(&self, given: GivenLeg) -> Result<(), VolumesError> {
        self.ask_for_bounce(given).await?;
        // What has lived until now has been shut, and is made anew after a second at the earliest (`reconnect_delay`).
        self.until_live(given, false, SHUT_LIMIT).await?;
        self.until_live(given, true, RECONNECT_LIMIT).await?;
        let (id, place, ledger) = (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        blocking(move || {
            let (engine, site) = at(id, &place, &ledger)?;
            // The gate may lead elsewhere by now.
            let wants = owner::to_bounce(&engine.seen_owner(&site)?).get(&given.leg.1) == Some(&given);
            if wants { Ok(engine.reinstate(given.leg, given.key.epoch)?) } else { Ok(()) }
        })
        .await
    }

    /// Waits until a connection to a leg lives, or none does. The own leg has none, and is not waited for.
    async fn until_live(&self, given: GivenLeg, wanted: bool, bound: Duration) -> Result<(), VolumesError> {
        let deadline = Instant::now() + bound;
        loop {
            let seen = self.seen().await?;
            let own = seen.gates.get(&given.leg.1).is_some_and(|gate| gate.local);
            let live = seen.connections.get(&given).is_some_and(|all| all.iter().any(|one| one.live));
            if own || live == wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = if wanted { "a connection to" } else { "the end of the connections to" };
                return Err(StepError::Late { what: format!("{what} {given}"), bound }.into());
            }
            sleep(LOOK_HURRIED).await;
        }
    }

    async fn ask_for_bounce(&self, given: GivenLeg) -> Result<(), VolumesError> {
        let state = self.shared.ledger.now();
        let leg = state.volumes.get(&self.id).and_then(|volume| volume.legs.get(&given.leg.1));
        let node = leg.and_then(|leg| state.node_of(leg)).ok_or(VolumesError::NotGivenOut(given))?;
        if node == self.shared.place.node {
            return self.shared.shell.bounce(given.leg, given.key).await;
        }
        let to = self.shared.ledger.contact(node).ok_or(VolumesError::NoLedger)?;
        let GivenLeg { leg: (volume, leg), key } = given;
        let request = GivenLegRequest { volume, leg, key };
        let asked = self.shared.transport.call::<_, ()>(to, api::path::POOL_BOUNCE, &request, BOUNCE_LIMIT);
        Ok(asked.await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_that_loses_its_path_again_soon_is_not_bounced_again_soon() {
        let leg = |incarnation: u32| -> GivenLeg { format!("3-2-1.1-{incarnation}").parse().unwrap() };
        let (bounces, begin) = (Bounces::default(), Instant::now());
        assert!(bounces.is_due(leg(1), begin));
        assert!(!bounces.is_due(leg(1), begin + BOUNCE_AGAIN / 2));
        assert!(bounces.is_due(leg(2), begin + BOUNCE_AGAIN / 2));
        assert!(bounces.is_due(leg(2), begin + BOUNCE_AGAIN * 2));
        let well = begin + BOUNCE_AGAIN * 2 + WELL_AGAIN;
        bounces.ended(leg(2), well, WELL_AGAIN);
        assert!(!bounces.is_due(leg(2), well + WELL_AGAIN / 2));
        assert!(bounces.is_due(leg(2), well + WELL_AGAIN));
        // One that ends late tells nothing of the leg as it is given out since.
        assert!(bounces.is_due(leg(3), well + WELL_AGAIN));
        bounces.ended(leg(2), well + WELL_AGAIN, WELL_AGAIN);
        assert!(!bounces.is_due(leg(3), well + WELL_AGAIN * 2));
        assert_eq!(bounces.0.lock().unwrap().len(), 1);
    }

    /// Its drive was not back yet; if it is the last leg, all writes wait for it.
    #[test]
    fn a_bounce_of_an_own_leg_that_failed_is_made_again_soon() {
        let given: GivenLeg = "3-1-1.1-1".parse().unwrap();
        let (bounces, begin) = (Bounces::default(), Instant::now());
        bounces.ended(given, begin, OWN_AGAIN);
        assert!(bounces.is_due(given, begin), "there was none");
        bounces.ended(given, begin + OWN_AGAIN / 4, OWN_AGAIN);
        assert!(!bounces.is_due(given, begin + OWN_AGAIN));
        assert!(bounces.is_due(given, begin + OWN_AGAIN * 5 / 4));
        assert!(!bounces.is_due(given, begin + OWN_AGAIN * 3), "it has not failed");
    }
}
