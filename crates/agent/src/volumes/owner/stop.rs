//! An array is stopped: closed in order, or its users are ended.
//!
//! Invariants: md is answered for legs that the ledger calls in sync only when nobody is left who could hear of it (rule 11). Who is no process hears of it as long as the node runs:
//! what is mounted, or stands on the device, is never answered. An order that ends with [`Event::InUse`] has answered nothing and taken nothing away.
//!
//! On failure: it is tried again until it is done, or another order has taken its place.

use super::{FLUSH_ALL_LIMIT, LOOK_EVERY, One, TRY_AGAIN, Turn};
use crate::volumes::VolumesError;
use crate::volumes::openers::{self, Left};
use control::command::LegRef;
use control::owner::Event;
use control::target::Key;
use futures_util::future::try_join_all;
use model::{Epoch, LegId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use storage::kernel::Engine;
use storage::owner::{self, Site, Step};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How long targets have to shut the connections of an array that was closed in order.
const SHUT_BOUND: Duration = Duration::from_secs(2);

/// An order to stop, over all its tries.
#[derive(Default)]
struct Stop {
    /// Users are killed.
    kill: bool,
    /// It was tried before.
    again: bool,
    /// Legs that took a flush when nobody could write any more.
    flushed: BTreeSet<LegRef>,
    /// md was answered for all legs, since nobody was left to hear of it.
    given_up: Arc<AtomicBool>,
}

impl One {
    /// In order: nobody can open it any more, then every leg is flushed, then it goes. With `kill` users are ended first; what they have
    /// waiting in gates without path fails once none of them can return (docs/volumes.md). What nobody can be ended for is told, and that is the end of the order.
    pub(super) async fn stop(self, turn: Turn, epoch: Epoch, kill: bool) {
        let mut stop = Stop { kill, ..Stop::default() };
        while !turn.is_over() {
            match self.stop_once(&turn, epoch, &mut stop).await {
                Ok(()) if turn.is_over() => return,
                Ok(()) => {
                    info!("{} is stopped in epoch {epoch}", self.id);
                    self.tell(Event::Stopped { epoch, flushed: stop.flushed });
                    if !kill {
                        self.leave(turn, epoch).await;
                    }
                    return;
                }
                Err(error) => {
                    warn!("can't stop {} yet: {}", self.id, crate::chain(&error));
                    stop.again = true;
                    sleep(TRY_AGAIN).await;
                    let used = matches!(error, VolumesError::Mounted { .. });
                    // Where md was answered for all legs the array can't stay.
                    if used && !stop.given_up.load(Ordering::SeqCst) && !turn.is_over() {
                        return self.tell(Event::InUse { epoch, kill });
                    }
                }
            }
        }
    }

    async fn stop_once(&self, turn: &Turn, epoch: Epoch, stop: &mut Stop) -> Result<(), VolumesError> {
        let (id, kill, again) = (self.id, stop.kill, stop.again);
        let given_up = Arc::clone(&stop.given_up);
        let shut = move |site: &Site, engine: &Engine| {
            let seen = engine.seen_owner(site)?;
            // An assembly may hang in a gate, where nobody was let in.
            let left = openers::of_volume(engine, id, kill)?;
            // It was busy at the first try, and nobody has it.
            let hidden = again && left == Left::Nobody && engine.open_count(id)? > 0;
            if hidden || left == Left::Kernel {
                return Err(VolumesError::Mounted { volume: id });
            }
            let mut steps = Vec::new();
            if kill && left == Left::Doomed {
                given_up.store(true, Ordering::SeqCst);
                steps = owner::give_up(site, &seen);
            }
            steps.extend(owner::shut(&seen));
            Ok(steps)
        };
        let shutting = self.door.lock().await;
        self.carry(Some(turn.clone()), epoch, shut).await?;
        drop(shutting);
        if !kill && stop.flushed.is_empty() {
            // Whoever is killed was not closed in order, whatever the legs took.
            stop.flushed = timeout(FLUSH_ALL_LIMIT, self.flush_all(epoch)).await.unwrap_or_default();
        }
        let stop = move |site: &Site, engine: &Engine| {
            let mut steps = owner::stop(site, &engine.seen_owner(site)?);
            // Closed in order, nothing is under way in its connections: nobody has to wait until they are gone.
            steps.retain(|step| kill || !matches!(step, Step::Disconnect(_)));
            Ok(steps)
        };
        self.carry(Some(turn.clone()), epoch, stop).await
    }

    /// Lets go of the connections of an array that was closed in order. Its legs' targets shut them at about the same time: a controller that is deleted while that happens waits for an
    /// answer until the kernel gives it up, a minute later (`nvme_tcp_error_recovery` leaves one alone that is being deleted). So they go first. Should the agent end before, the next assembly lets go of them.
    async fn leave(&self, turn: Turn, epoch: Epoch) {
        let late = Instant::now() + SHUT_BOUND;
        let lives = |seen: &owner::Seen| seen.connections.values().flatten().any(|one| one.live);
        while self.seen().await.is_ok_and(|seen| lives(&seen)) && Instant::now() < late {
            sleep(LOOK_EVERY).await;
        }
        let _leaving = self.leaving.lock().await;
        let gone = |site: &Site, engine: &Engine| Ok(owner::disconnect(&engine.seen_owner(site)?));
        if let Err(error) = self.carry(Some(turn), epoch, gone).await {
            warn!("connections of {} are left: {}", self.id, crate::chain(&error));
        }
    }

    /// Flushes every leg that is in sync, each where it is; those that took it, or none, if one did not.
    async fn flush_all(&self, epoch: Epoch) -> BTreeSet<LegRef> {
        let state = self.shared.ledger.now();
        let Some(volume) = state.volumes.get(&self.id) else { return BTreeSet::new() };
        let flush = |(leg, found): (LegId, &control::state::Leg)| {
            let (node, incarnation) = (state.node_of(found), found.incarnation);
            async move {
                let flushed =
                    self.flush(leg, Key { epoch, incarnation }, node.ok_or(VolumesError::NoLedger)?).await;
                flushed.inspect_err(|error| {
                    warn!("can't flush {leg} of {}: {}", self.id, crate::chain(error));
                })?;
                Ok::<_, VolumesError>(LegRef { id: leg, incarnation })
            }
        };
        // All at once; one that does not take it makes it no orderly close, whatever the others do.
        let flushed = try_join_all(volume.in_sync().map(flush)).await;
        flushed.map(BTreeSet::from_iter).unwrap_or_default()
    }
}
