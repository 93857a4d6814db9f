//! An array is stopped: closed in order, or its users are ended.
//!
//! Invariants: md is answered for legs that the ledger calls in sync only when nobody is left who could hear of it (rule 11). Who is no process hears of it as long as the node runs:
//! what is mounted, or stands on the device, is never answered. An order that ends with [`Event::InUse`] has answered nothing and taken nothing away.
//!
//! On failure: it is tried again until it is done, or another order has taken its place.

use super::{FLUSH_ALL_LIMIT, One, TRY_AGAIN, Turn};
use crate::volumes::VolumesError;
use crate::volumes::openers::{self, Left};
use control::command::LegRef;
use control::owner::Event;
use control::target::Key;
use model::Epoch;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::kernel::Engine;
use storage::owner::{self, Site};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

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
                    return self.tell(Event::Stopped { epoch, flushed: stop.flushed });
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
        let stop = move |site: &Site, engine: &Engine| Ok(owner::stop(site, &engine.seen_owner(site)?));
        self.carry(Some(turn.clone()), epoch, stop).await
    }

    /// Flushes every leg that is in sync, each where it is; those that took it, or none, if one did not.
    async fn flush_all(&self, epoch: Epoch) -> BTreeSet<LegRef> {
        let state = self.shared.ledger.now();
        let (mut flushed, nobody) = (BTreeSet::new(), BTreeSet::new());
        let Some(volume) = state.volumes.get(&self.id) else { return nobody };
        for (leg, found) in volume.in_sync() {
            let Some(node) = state.node_of(found) else { return nobody };
            let key = Key { epoch, incarnation: found.incarnation };
            if let Err(error) = self.flush(leg, key, node).await {
                warn!("can't flush {leg} of {}: {}", self.id, crate::chain(&error));
                return nobody;
            }
            flushed.insert(LegRef { id: leg, incarnation: found.incarnation });
        }
        flushed
    }
}
