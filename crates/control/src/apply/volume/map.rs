//! Extents of a thin volume that are mapped.
//!
//! ```text
//!   Map ─► each leg has the slabs ─► Laid, by each leg's target ─► … ─► the last of those that count: they are in the table
//! ```
//! What a fixed volume does at its end when it grows, the array of a thin one does here: so whoever rebuilds, fences or makes legs equal sees a volume of
//! the array's size, and what was never mapped is none of theirs.
//!
//! Invariants: an extent is mapped once, and stays where it is; nobody is told of a place that a leg that counts has no slab for.

use super::Edit;
use crate::bug::Bug;
use crate::command::{Event, Rejected};
use crate::state::Phase;
use model::Provision;
use std::collections::BTreeSet;

impl Edit<'_> {
    pub(super) fn map(&mut self, extents: &BTreeSet<u64>) -> Result<(), Rejected> {
        let volume = &self.volume;
        if volume.provision != Provision::Thin {
            return Err(Rejected::NotThin);
        }
        if !matches!(volume.phase, Phase::Open { .. }) {
            return Err(Rejected::wrong_phase(&volume.phase));
        }
        if volume.forced {
            return Err(Rejected::Forced);
        }
        let seen = volume.extents();
        if let Some(extent) = extents.iter().copied().find(|extent| *extent >= seen) {
            return Err(Rejected::NoSuchExtent { extent, extents: seen });
        }
        let anew = self.bugs.has(Bug::MapAnew);
        let is_new = |extent: &&u64| !volume.has_extent(**extent) || (anew && **extent > 0);
        let new: BTreeSet<u64> = extents.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return Err(Rejected::AlreadyMapped);
        }
        if !volume.mapping.is_empty() {
            return Err(Rejected::Mapping { extents: volume.mapping.len() as u64 });
        }
        self.volume.mapping = new;
        self.give_slabs(self.volume.array_to_be())?;
        if self.bugs.has(Bug::MapAtOnce) {
            self.enter_mapped();
        }
        Ok(())
    }

    /// What was to be mapped is.
    pub(super) fn enter_mapped(&mut self) {
        for extent in std::mem::take(&mut self.volume.mapping) {
            self.volume.mapped.push(extent);
        }
        self.events.push(Event::ExtentsMapped(self.id, self.volume.mapped.count()));
    }
}

#[cfg(test)]
mod tests;
