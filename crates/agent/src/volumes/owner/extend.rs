//! Users who are in get more.
//!
//! Invariants: what they get is made ready while nobody closes the door, and taken while it is open: what takes it waits in the kernel for what they have
//! in flight, perhaps for a leg that is to be let go, and whoever closes the door must not wait for that. If the door has been closed meanwhile, nothing is ready.
//!
//! On failure: control orders it again.

use super::{One, at_odds};
use crate::volumes::VolumesError;
use control::owner::Event;
use model::Epoch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::kernel::Engine;
use storage::owner::{self, Site, Step};
use tracing::{info, warn};

impl One {
    /// `seen`: how many long orders had been given when it was. One at a time: `busy` says so.
    pub(super) fn extend(self, epoch: Epoch, bytes: u64, seen: u64, busy: Arc<AtomicBool>) {
        if busy.swap(true, Ordering::SeqCst) {
            return;
        }
        tokio::spawn(async move {
            let extended = self.extend_once(epoch, bytes, seen).await;
            busy.store(false, Ordering::SeqCst);
            match extended {
                Ok(()) => {}
                Err(error) => {
                    warn!("can't give users of {} {bytes} bytes yet: {}", self.id, crate::chain(&error));
                }
            }
        });
    }

    async fn extend_once(&self, epoch: Epoch, bytes: u64, seen: u64) -> Result<(), VolumesError> {
        let open = self.door.lock().await;
        if self.orders.load(Ordering::SeqCst) != seen {
            return Ok(());
        }
        let ready = move |site: &Site, engine: &Engine| {
            owner::extend(site, &engine.seen_owner(site)?, epoch, bytes).map_err(|refused| at_odds(&refused))
        };
        self.carry(None, epoch, ready).await?;
        drop(open);
        self.carry(None, epoch, |_: &Site, _: &Engine| Ok(vec![Step::SwapTop])).await?;
        if let Some(has) = self.seen().await?.top.filter(|has| *has >= bytes) {
            info!("users of {} have {has} bytes", self.id);
            self.tell(Event::Extended(has));
        }
        Ok(())
    }
}
