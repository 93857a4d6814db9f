//! A volume is closed in order, opened again, or handed over, which is both in one commit.
//!
//! Invariants: it is opened without a look at its legs, so every one that is in sync has taken a flush when nobody could write any more, and the command names those that have.

use super::Edit;
use crate::command::{LegRef, Rejected};
use crate::state::{LegState, Phase};
use crate::transition::VolumeCause;
use model::NodeId;
use std::collections::BTreeSet;

impl Edit<'_> {
    /// Each leg in sync has what is acknowledged for good: it is opened again as it is then, whatever restarts meanwhile.
    fn is_flushed(&self, flushed: &BTreeSet<LegRef>) -> Result<(), Rejected> {
        let mut legs = self.volume.named_in_sync().into_iter();
        legs.find(|leg| !flushed.contains(leg)).map_or(Ok(()), |leg| Err(Rejected::NotFlushed(leg.id)))
    }

    pub(super) fn close(&mut self, flushed: &BTreeSet<LegRef>) -> Result<(), Rejected> {
        self.is_open()?;
        self.is_flushed(flushed)?;
        self.supersede(true)?;
        self.volume.running = None;
        self.enter(VolumeCause::Close, Phase::Closed)
    }

    pub(super) fn open(&mut self, owner: NodeId) -> Result<(), Rejected> {
        let boot = self.may_be_given_to(owner)?;
        if self.volume.phase != Phase::Closed {
            return Err(Rejected::wrong_phase(&self.volume.phase));
        }
        self.begin_epoch(self.volume.epoch.next(), owner);
        // It was flushed when it was closed: restarts since then took nothing.
        for leg in self.volume.legs.values_mut().filter(|leg| leg.state == LegState::InSync) {
            leg.run = self.state.run(leg.drive).or(leg.run);
        }
        self.enter(VolumeCause::Open, Phase::Opening { boot, make_equal: false })
    }

    pub(super) fn hand_over(&mut self, to: NodeId, flushed: &BTreeSet<LegRef>) -> Result<(), Rejected> {
        // To its owner itself it is not handed over after all.
        let boot = if to == self.volume.owner { self.can_own(to)? } else { self.may_be_given_to(to)? };
        self.is_open()?;
        self.is_flushed(flushed)?;
        self.supersede(true)?;
        self.begin_epoch(self.volume.epoch.next(), to);
        self.volume.running = Some(to);
        self.enter(VolumeCause::HandOver, Phase::Opening { boot, make_equal: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::VolumeCommand as V;
    use crate::state::Cache;
    use crate::testing::{close, does, leg_ref, open, refused, run, volume, with_volume};
    use model::{LegId, Mirror};

    /// Its rebuild was through before the array was stopped, and the ledger hears of it later: the flush passed it by.
    #[test]
    fn nothing_is_closed_or_handed_over_while_a_leg_is_in_sync_that_was_not_flushed() {
        let mut state = with_volume(2, 1, Mirror::TwoWay, &[Cache::Volatile]);
        open(&mut state, &[1, 2]);
        let leg = leg_ref(&state, 2);
        does(&mut state, V::LegStale(leg));
        let leg = leg_ref(&state, 2);
        does(&mut state, V::Reexport { leg, run: run(NodeId(2), 1, 1) });
        let leg = leg_ref(&state, 2);
        does(&mut state, V::BeginRebuild(leg));
        let flushed = volume(&state).named_in_sync();
        let maps = volume(&state).map_sequence;
        let leg = leg_ref(&state, 2);
        does(&mut state, V::LegInSync { leg, maps });
        let not = Rejected::NotFlushed(LegId(2));
        assert_eq!(refused(&state, V::Close { flushed: flushed.clone() }), not);
        assert_eq!(refused(&state, V::HandOver { to: NodeId(2), flushed: flushed.clone() }), not);
        let as_before = LegRef { id: LegId(2), incarnation: model::Incarnation(1) };
        let of_before: BTreeSet<LegRef> = flushed.into_iter().chain([as_before]).collect();
        assert_eq!(refused(&state, V::Close { flushed: of_before }), not);
        let all = close(&state);
        does(&mut state, all);
    }
}
