//! An owner whose array is being made.
//!
//! Invariants: it is made of legs that are in sync by the ledger, in the epoch that is activated for this node. Another order takes the place of one whose legs are not those any more.
//!
//! On failure: what is not reached is waited for, or given up ([`super::Reached`]).

use super::{Assembly, Effect, Gate, Owner, Reached, Sight, Stage, take_anew};
use crate::bug::{Bug, Bugs};
use crate::moment::Moment;
use crate::state::{LegState, Phase, State, Volume};
use model::LegId;
use std::collections::BTreeSet;

impl Owner {
    pub(super) fn assembling(&mut self, now: Moment, ledger: &State, effects: &mut Vec<Effect>) {
        let Some(volume) = self.activated(ledger) else { return };
        let Stage::Assembling(assembly, reached) = &mut self.stage else { return };
        if matches!(volume.phase, Phase::Open { .. }) {
            // An array of before was opened after all, by a proposal that came late; this one would be made by what no longer holds.
            effects.push(take_anew(self.id, self.node, volume));
            return;
        }
        let wanted = assembly_of(ledger, volume, self.bugs);
        if *assembly != wanted {
            *reached = std::mem::take(reached).of_another(assembly, &wanted);
            *assembly = wanted.clone();
            effects.push(Effect::Assemble(wanted));
            return;
        }
        let (id, silent, timing, bugs) = (self.id, &self.silent, self.timing, self.bugs);
        let sight = Sight { now, ledger, id, volume, silent, timing, bugs };
        let hopeless = |(leg, gate): &(&LegId, &Gate)| {
            assembly.legs.get(leg).is_some_and(|(_, node)| sight.is_hopeless(**gate, *node))
        };
        let lost = reached.gates.iter().filter(hopeless).map(|(leg, _)| *leg);
        let lost: BTreeSet<LegId> = lost.chain(reached.gone().iter().copied()).collect();
        effects.extend(lost.into_iter().filter_map(|leg| sight.stale(leg)));
    }

    pub(super) fn begin(&mut self, ledger: &State, volume: &Volume, effects: &mut Vec<Effect>) {
        if matches!(volume.phase, Phase::Open { .. }) {
            // It was open here, and no array is left: its legs may differ. That is a takeover, if from oneself.
            effects.push(take_anew(self.id, self.node, volume));
            return;
        }
        let assembly = assembly_of(ledger, volume, self.bugs);
        effects.push(Effect::Assemble(assembly.clone()));
        self.stage = Stage::Assembling(assembly, Reached::default());
    }
}

/// Starts from in-sync legs only, never with one that is being rebuilt.
fn assembly_of(ledger: &State, volume: &Volume, bugs: Bugs) -> Assembly {
    let place = |(id, leg): (LegId, &crate::state::Leg)| Some((id, (leg.incarnation, ledger.node_of(leg)?)));
    let unequal = matches!(volume.phase, Phase::Opening { make_equal: true, .. });
    let stale = volume.legs.iter().filter(|(_, leg)| leg.state != LegState::InSync).map(|(id, _)| *id);
    Assembly {
        epoch: volume.epoch,
        legs: volume.in_sync().filter_map(place).collect(),
        make_equal: unequal && !bugs.has(Bug::OpenUnequal),
        stale: if bugs.has(Bug::ForgetMap) { BTreeSet::new() } else { stale.collect() },
        maps: volume.map_sequence.next(),
    }
}
