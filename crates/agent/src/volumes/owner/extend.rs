//! Users who are in get more.
//!
//! Invariants: what they get is made ready while nobody closes the door, and taken while it is open: what takes it waits in the kernel for what they have
//! in flight, perhaps for a leg that is to be let go, and whoever closes the door must not wait for that. If the door has been closed meanwhile, nothing is ready.
//!
//! On failure: control orders it again, a second later at the earliest: a swap that is given up has had users wait meanwhile.

use super::{LOOK_SELDOM, One, at_odds};
use crate::volumes::VolumesError;
use control::owner::Event;
use control::state::Reach;
use model::Epoch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::kernel::Engine;
use storage::owner::{self, Site};
use tokio::time::sleep;
use tracing::{info, warn};

impl One {
    /// `seen`: how many long orders had been given when it was. One at a time: `busy` says so.
    pub(super) fn extend(self, epoch: Epoch, reach: Reach, seen: u64, busy: Arc<AtomicBool>) {
        if busy.swap(true, Ordering::SeqCst) {
            return;
        }
        tokio::spawn(async move {
            let extended = self.extend_once(epoch, reach, seen).await.unwrap_or_else(|error| {
                warn!("can't give users of {} {reach:?} yet: {}", self.id, crate::chain(&error));
                false
            });
            if !extended {
                sleep(LOOK_SELDOM).await;
            }
            busy.store(false, Ordering::SeqCst);
        });
    }

    /// Whether they have all of it now.
    async fn extend_once(&self, epoch: Epoch, reach: Reach, seen: u64) -> Result<bool, VolumesError> {
        let open = self.door.lock().await;
        if self.orders.load(Ordering::SeqCst) != seen {
            return Ok(false);
        }
        let layout = self.layout(reach)?;
        let taken = owner::take(&layout);
        let ready = move |site: &Site, engine: &Engine| {
            owner::extend(site, &engine.seen_owner(site)?, epoch, &layout)
                .map_err(|refused| at_odds(&refused))
        };
        self.carry(None, epoch, ready).await?;
        drop(open);
        self.carry(None, epoch, |_: &Site, _: &Engine| Ok(taken)).await?;
        let has = self.seen().await?.reach();
        let all = has.size_bytes >= reach.size_bytes && has.array_bytes >= reach.array_bytes;
        if all {
            info!("users of {} have {has:?}", self.id);
            self.tell(Event::Extended(has));
        }
        Ok(all)
    }
}
