//! When an array is worth a look: the kernel tells of what happens to it and to its gates.
//!
//! Invariants: while there is no array nothing is followed: the making of one is many events.
//!
//! On failure: what can't be followed is tried again at the next look, and seen then.

use super::VolumesError;
use super::shell::blocking;
use model::{Epoch, LegId};
use std::collections::BTreeSet;
use std::sync::Arc;
use storage::kernel;
use storage::kernel::Engine;
use storage::owner::{Array, Site};
use tokio::sync::Notify;

/// Which array, with which legs: each leg has an attribute of its own.
type Of = (Epoch, BTreeSet<LegId>);

/// Follows one array.
#[derive(Default)]
pub(super) struct Stirs {
    following: Option<(Of, kernel::Stirs)>,
    told: Arc<Notify>,
}

impl Stirs {
    /// Follows this array from now on.
    pub(super) async fn follow(
        &mut self,
        array: Option<&Array>,
        at: impl FnOnce() -> Result<(Engine, Site), VolumesError> + Send + 'static,
    ) {
        let of = |array: &Array| (array.epoch, array.members.keys().copied().collect());
        let wanted: Option<Of> = array.map(of);
        if wanted.as_ref() == self.following.as_ref().map(|(of, _)| of) {
            return;
        }
        self.following = None;
        let Some(of) = wanted else { return };
        let (epoch, told) = (of.0, Arc::clone(&self.told));
        let begun = blocking(move || {
            let (engine, site) = at()?;
            Ok(engine.stirs(&site, epoch, move || told.notify_one())?)
        });
        self.following = begun.await.ok().map(|stirs| (of, stirs));
    }

    /// Waits until something has happened since the last time.
    pub(super) async fn stirred(&self) {
        self.told.notified().await;
    }
}
