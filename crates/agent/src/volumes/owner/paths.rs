//! Networks through which a leg is not connected: asked for again.
//!
//! One path is enough to assemble an array. The kernel makes a connection again that it has lost, but not one that could not be made at first: its target listened on one network a
//! moment later than on the other, or the network was down. Without the second path the loss of one network would cost the leg.
//!
//! Invariants: only a leg that can be reached as it is given out now is connected to; who asks looks again afterwards, and lets go of what became another's meanwhile.
//!
//! On failure: it is asked for again.

use super::{One, at};
use crate::volumes::VolumesError;
use crate::volumes::shell::blocking;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use storage::name::GivenLeg;
use storage::owner::{self, Seen, Step};
use tracing::{debug, info};

/// How often it is looked whether one is missing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// When it was looked last, and whether one is being made.
#[derive(Debug, Default)]
pub(super) struct Paths {
    looked: Option<Instant>,
    is_busy: Arc<AtomicBool>,
    /// Which of them lived when they were seen last.
    live: BTreeSet<(GivenLeg, IpAddr)>,
}

impl Paths {
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_EVERY);
        if due {
            self.looked = Some(now);
        }
        due && !self.is_busy.load(Ordering::SeqCst)
    }

    /// Says which have come and gone since it was looked last.
    fn told(&mut self, seen: &Seen) {
        let all = seen.connections.iter().flat_map(|(given, all)| all.iter().map(move |one| (*given, one)));
        let live = all.filter(|(_, one)| one.live).map(|(given, one)| (given, one.address)).collect();
        let before = std::mem::replace(&mut self.live, live);
        for (given, address) in self.live.difference(&before) {
            info!("{given} is connected through {address}");
        }
        for (given, address) in before.difference(&self.live) {
            info!("{given} is no longer connected through {address}");
        }
    }
}

impl One {
    /// Has those made that are missing, beside all else: a network that is down keeps whoever connects waiting.
    pub(super) fn complete(&self, seen: &Seen, paths: &mut Paths) {
        paths.told(seen);
        if !paths.is_due(Instant::now()) {
            return;
        }
        let missing = self.missing(seen);
        if missing.is_empty() {
            return;
        }
        paths.is_busy.store(true, Ordering::SeqCst);
        let (one, is_busy) = (self.clone(), Arc::clone(&paths.is_busy));
        tokio::spawn(async move {
            for (given, step) in missing {
                if let Err(error) = one.connect(given, step).await {
                    debug!("{given} is connected through one network less: {}", crate::chain(&error));
                }
            }
            is_busy.store(false, Ordering::SeqCst);
        });
    }

    fn missing(&self, seen: &Seen) -> Vec<(GivenLeg, Step)> {
        let state = self.shared.ledger.now();
        let Some(volume) = state.volumes.get(&self.id) else { return Vec::new() };
        let nodes =
            volume.legs.iter().filter_map(|(leg, found)| Some((*leg, state.node_of(found)?))).collect();
        let (_, addresses) = self.shared.place.addresses(&state);
        let steps = owner::to_connect(seen, &nodes, &addresses).into_iter();
        steps
            .filter_map(|step| if let Step::Connect(given, _) = step { Some((given, step)) } else { None })
            .collect()
    }

    async fn connect(&self, given: GivenLeg, step: Step) -> Result<(), VolumesError> {
        let (id, place, ledger) = (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        let connected = blocking(move || {
            let (engine, site) = at(id, &place, &ledger)?;
            engine.carry_owner(&site, given.key.epoch, &step)?;
            if !engine.seen_owner(&site)?.gates.values().any(|gate| gate.to == Some(given)) {
                engine.carry_owner(&site, given.key.epoch, &Step::Disconnect(given))?;
            }
            Ok(())
        });
        connected.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_made_at_a_time_and_looked_for_now_and_then() {
        let (mut paths, start) = (Paths::default(), Instant::now());
        assert!(paths.is_due(start));
        assert!(!paths.is_due(start + LOOK_EVERY / 2) && paths.is_due(start + LOOK_EVERY));
        paths.is_busy.store(true, Ordering::SeqCst);
        assert!(!paths.is_due(start + LOOK_EVERY * 2));
        paths.is_busy.store(false, Ordering::SeqCst);
        assert!(paths.is_due(start + LOOK_EVERY * 3));
    }
}
