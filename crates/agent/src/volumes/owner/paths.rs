//! Networks through which a leg is not connected: asked for again.
//!
//! One path is enough to assemble an array. The kernel makes a connection again that it has lost, but not one that could not be made at first: its target listened on one network a
//! moment later than on the other, or the network was down. Without the second path the loss of one network would cost the leg.
//!
//! Invariants: only a leg to which a gate leads is connected to; who asks looks again when that has come about, and lets go of what it made if no gate leads there any more. One is made at a
//! time on a node, since the kernel makes no two at once, and an array that is being assembled wants to connect, too.
//!
//! On failure: nobody asks for a while, then it is asked for again.

use super::{One, at};
use crate::volumes::VolumesError;
use crate::volumes::shell::blocking;
use model::NodeId;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use storage::name::GivenLeg;
use storage::owner::{self, Seen};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tracing::{debug, info};

/// How often it is looked whether one is missing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long nobody asks after one could not be made: a network that is down takes the kernel three seconds each time.
const REST: Duration = Duration::from_secs(10);
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// When it was looked last, and whether one is being made.
#[derive(Debug, Default)]
pub(super) struct Paths {
    looked: Option<Instant>,
    /// How many were asked for: the next one is another's turn, or one that never comes would keep all others from being made.
    asked: usize,
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
    /// Has one made that is missing, beside all else.
    pub(super) fn complete(&self, seen: &Seen, paths: &mut Paths) {
        paths.told(seen);
        if !paths.is_due(Instant::now()) {
            return;
        }
        let missing = self.missing(seen);
        let Some((given, node)) = missing.get(paths.asked % missing.len().max(1)).copied() else { return };
        let Ok(turn) = ONE_AT_A_TIME.try_acquire() else { return };
        paths.is_busy.store(true, Ordering::SeqCst);
        paths.asked = paths.asked.wrapping_add(1);
        let (one, is_busy) = (self.clone(), Arc::clone(&paths.is_busy));
        tokio::spawn(async move {
            if let Err(error) = one.connect(given, node).await {
                debug!("{given} is connected through one network less: {}", crate::chain(&error));
                sleep(REST).await;
            }
            is_busy.store(false, Ordering::SeqCst);
            drop(turn);
        });
    }

    fn missing(&self, seen: &Seen) -> Vec<(GivenLeg, NodeId)> {
        let state = self.shared.ledger.now();
        let Some(volume) = state.volumes.get(&self.id) else { return Vec::new() };
        let nodes =
            volume.legs.iter().filter_map(|(leg, found)| Some((*leg, state.node_of(found)?))).collect();
        let (_, addresses) = self.shared.place.addresses(&state);
        owner::to_connect(seen, &nodes, &addresses)
    }

    async fn connect(&self, given: GivenLeg, node: NodeId) -> Result<(), VolumesError> {
        let (id, place, ledger) = (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        blocking(move || {
            let (engine, site) = at(id, &place, &ledger)?;
            let leads_there = |seen: &Seen| seen.gates.values().any(|gate| gate.to == Some(given));
            if !leads_there(&engine.seen_owner(&site)?) {
                return Ok(());
            }
            let made = engine.connect_more(given, node)?;
            if let Some(controller) =
                made.filter(|_| !engine.seen_owner(&site).is_ok_and(|seen| leads_there(&seen)))
            {
                engine.let_go_of(controller);
            }
            Ok(())
        })
        .await
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
