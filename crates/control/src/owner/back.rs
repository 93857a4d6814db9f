//! Legs that an owner gives back: what their targets would do for the next epoch can be done before that is decided.
//!
//! Invariants: only of an array that was closed in order, in an epoch in which the volume was open. Nobody makes an array of that epoch again: who finds the volume open and has no array takes it anew
//! ([`super::take_anew`]), and a hand-over, a switch, a close that is followed by an opening, or a takeover begins another one. So a target that has fenced the leg
//! for whatever comes after this epoch has refused nobody anything.
//!
//! On failure: the leg is fenced when the ledger says so, as any other.

use super::{Effect, Owner, Stage, is_orderly};
use crate::state::{Phase, State};
use crate::target::Key;

impl Owner {
    /// The legs of the array that has just been stopped.
    pub(super) fn given_back(&self, ledger: &State) -> Option<Effect> {
        let Stage::Stopped { epoch, flushed, .. } = &self.stage else { return None };
        let volume = self.activated(ledger).filter(|volume| volume.epoch == *epoch)?;
        if !matches!(volume.phase, Phase::Open { .. }) || !is_orderly(Some(volume), flushed) {
            return None;
        }
        let legs = volume.in_sync().filter_map(|(id, leg)| {
            let key = Key { epoch: *epoch, incarnation: leg.incarnation };
            Some((id, (key, ledger.node_of(leg)?)))
        });
        Some(Effect::GivenBack(legs.collect()))
    }
}
