//! A volume that grows.
//!
//! ```text
//!   Grow ─► each leg has its slabs ─► Laid, by each leg's target ─► … ─► the last of those that count: the size
//! ```
//! The legs that count are those that users' writes go to: in sync, and being rebuilt. One that is away while the volume grows is laid when it is
//! back, before it is rebuilt.

use super::Edit;
use crate::bug::Bug;
use crate::command::{Event, LegRef, Rejected};
use crate::pool;
use crate::state::{Leg, LegState, Phase, Run};
use model::{Provision, VolumeSize};

impl Edit<'_> {
    pub(super) fn grow(&mut self, size_bytes: u64) -> Result<(), Rejected> {
        let volume = &self.volume;
        if !matches!(volume.phase, Phase::Open { .. } | Phase::Closed) {
            return Err(Rejected::wrong_phase(&volume.phase));
        }
        if volume.forced {
            return Err(Rejected::Forced);
        }
        if let Some(to_bytes) = volume.growing {
            return Err(Rejected::Growing { to_bytes });
        }
        if size_bytes <= volume.size_bytes {
            return Err(Rejected::NotLarger { present_bytes: volume.size_bytes });
        }
        if size_bytes > volume.room_bytes {
            return Err(Rejected::BeyondRoom { room_bytes: volume.room_bytes });
        }
        pool::slabs_of(VolumeSize { size_bytes, ..volume.size() })?;
        if volume.provision == Provision::Thin {
            self.volume.size_bytes = size_bytes;
            self.events.push(Event::VolumeGrown(self.id, size_bytes));
            return Ok(());
        }
        self.give_slabs(size_bytes)?;
        self.volume.growing = Some(size_bytes);
        Ok(())
    }

    /// Each leg gets the slabs that it lacks of what an array of this size takes.
    pub(super) fn give_slabs(&mut self, array_bytes: u64) -> Result<(), Rejected> {
        for (leg, more) in self.state.slabs_for(&self.volume, array_bytes)? {
            let count: u64 = more.iter().map(|extent| extent.count).sum();
            self.volume.legs.entry(leg).and_modify(|leg| {
                pool::append(&mut leg.extents, more);
                leg.to_lay += count;
            });
        }
        Ok(())
    }

    /// What is laid stays laid, in whatever incarnation: a target remembers it before it says so.
    pub(super) fn laid(&mut self, leg: LegRef, run: Run, slabs: u64) -> Result<(), Rejected> {
        let found = self.leg(leg)?;
        let registered = self.state.run(found.drive);
        if registered != Some(run) {
            return Err(Rejected::OtherRun { registered });
        }
        let to_lay = found.slabs().saturating_sub(slabs);
        if to_lay >= found.to_lay {
            return Err(Rejected::AlreadyLaid);
        }
        self.volume.legs.entry(leg.id).and_modify(|leg| leg.to_lay = to_lay);
        Ok(())
    }

    /// It has its new size in the commit after which no leg that counts lacks anything of it: one has been laid, or lost.
    pub(super) fn settle_growth(&mut self) {
        let volume = &self.volume;
        let to_be = volume.array_to_be();
        if to_be == volume.array_bytes() || volume.in_sync().next().is_none() {
            return;
        }
        let needed = pool::needed(volume, to_be);
        let counts = |leg: &&Leg| matches!(leg.state, LegState::InSync | LegState::Rebuilding { .. });
        let mut counted = volume.legs.values().filter(counts);
        let laid = |leg: &Leg| leg.laid_slabs() >= needed;
        let at_first = self.bugs.has(Bug::GrowAtFirstLaid);
        if if at_first { counted.any(laid) } else { counted.all(laid) } {
            self.grown(to_be);
        }
    }

    fn grown(&mut self, array_bytes: u64) {
        if self.volume.growing.take().is_some() {
            self.volume.size_bytes = array_bytes;
            self.events.push(Event::VolumeGrown(self.id, array_bytes));
        } else {
            self.enter_mapped();
        }
    }

    pub(super) fn is_laid(&self, leg: LegRef) -> Result<(), Rejected> {
        let laid = self.volume.is_laid(self.leg(leg)?);
        if laid { Ok(()) } else { Err(Rejected::NotLaid(leg.id)) }
    }
}

#[cfg(test)]
mod tests;
