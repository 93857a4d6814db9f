//! An array is made.
//!
//! Invariants: the ways to all legs are tried before anything is made of them, and control is told to which there is none: it gives those up when that lasts. What it is told is of the latest order.
//!
//! On failure: it is tried again, until another order has taken its place.

use super::{Carry, LOOK_HURRIED, One, TRY_AGAIN, Turn, at_odds};
use crate::volumes::VolumesError;
use control::owner::{Assembly, Event};
use model::LegId;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use storage::kernel::StepError;
use storage::owner::{self, Step};
use tokio::time::timeout;
use tracing::{info, warn};

/// How long it is tried again in a hurry, while targets fence legs and give them out.
const HURRIED: Duration = Duration::from_secs(1);

impl One {
    pub(super) async fn assemble(self, turn: Turn, assembly: Assembly) {
        // Whoever lets go of what was here before ends, or sees that this was ordered.
        drop(self.leaving.lock().await);
        // Legs are given out at the same time, and that takes a moment: of one's own it is told, of others it is not.
        let (begun, mut given_out) = (Instant::now(), self.shared.place.given_out.subscribe());
        let (mut pause, mut told) = (LOOK_HURRIED, String::new());
        while !turn.is_over() {
            given_out.mark_unchanged();
            match self.try_to_assemble(turn.clone(), assembly.clone()).await {
                _ if turn.is_over() => return,
                Ok(()) => {
                    info!("{} is assembled in epoch {}", self.id, assembly.epoch);
                    return self.tell(Event::Assembled(assembly));
                }
                Err(error) => {
                    let why = crate::chain(&error);
                    if why != told {
                        warn!("can't assemble {} yet: {why}", self.id);
                        told = why;
                    }
                }
            }
            // The sender lives as long as this does.
            let _ = timeout(pause, given_out.changed()).await;
            if begun.elapsed() > HURRIED {
                pause = TRY_AGAIN.min(pause * 2);
            }
        }
    }

    /// Whoever looks at the turn afterwards knows whether it was done.
    async fn try_to_assemble(&self, turn: Turn, order: Assembly) -> Result<(), VolumesError> {
        let one = self.clone();
        self.at_engine(order.epoch, move |site, engine, carry| {
            let volumes = &one.shared.ledger.now().volumes;
            let known = volumes.get(&one.id).map(|volume| volume.map_sequence).unwrap_or_default();
            let seen = engine.seen_owner(site)?;
            // An earlier order may hang in a leg that is not one of these any more.
            let left_out = seen.gates.iter().filter(|(leg, _)| !order.legs.contains_key(leg));
            let fail = left_out.map(|(leg, gate)| Step::FailGate(*leg, gate.epoch));
            let steps = owner::assemble(site, &seen, &order, known).map_err(|refused| at_odds(&refused))?;
            let steps: Vec<Step> = fail.chain(steps).collect();
            let is_way = |step: &Step| matches!(step, Step::Connect(..) | Step::MakeGate(..));
            let (reach, make) = steps.split_at(steps.iter().rposition(is_way).map_or(0, |at| at + 1));
            let mut ways = Ways::default();
            for step in reach {
                if turn.is_over() {
                    return Ok(());
                }
                ways.go(step, carry)?;
            }
            if turn.is_over() {
                return Ok(());
            }
            let why = ways.why.take();
            one.tell(Event::Unreached { epoch: order.epoch, legs: ways.none, late: ways.late });
            if let Some(why) = why {
                return Err(why.into());
            }
            for step in make {
                if turn.is_over() {
                    return Ok(());
                }
                carry(step)?;
            }
            Ok(())
        })
        .await
    }
}

/// The ways to the legs of an array, as far as a try has come.
#[derive(Debug, Default)]
struct Ways {
    /// There is none.
    none: BTreeSet<LegId>,
    /// It is not known yet whether there is one.
    late: BTreeSet<LegId>,
    /// Why the first of those is not there.
    why: Option<StepError>,
}

impl Ways {
    /// What has to be done before, or for, the way to a leg. A leg without one keeps no other from being tried.
    fn go(&mut self, step: &Step, carry: Carry<'_>) -> Result<(), StepError> {
        let leg = match step {
            Step::Connect(given, _) => given.leg.1,
            Step::MakeGate(way, _) => way.leg(),
            _ => return carry(step),
        };
        if self.none.contains(&leg) || self.late.contains(&leg) {
            return Ok(());
        }
        let Err(why) = carry(step) else { return Ok(()) };
        match (step, &why) {
            (Step::Connect(..), StepError::Late { .. }) => self.late.insert(leg),
            // Its target has given nothing out under that key, or its drive is away.
            (Step::Connect(..), StepError::NoPath { .. }) | (_, StepError::Missing { .. }) => {
                self.none.insert(leg)
            }
            _ => return Err(why),
        };
        self.why.get_or_insert(why);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::target::Key;
    use model::{Epoch, Incarnation, LedgerIncarnation, NodeId, VolumeId};
    use std::cell::RefCell;
    use storage::name::GivenLeg;
    use storage::owner::Way;

    fn given(leg: u16) -> GivenLeg {
        let epoch = Epoch { ledger: LedgerIncarnation(1), number: 1 };
        GivenLeg { leg: (VolumeId(7), LegId(leg)), key: Key { epoch, incarnation: Incarnation(1) } }
    }

    #[test]
    fn a_leg_without_a_way_keeps_no_other_from_being_tried() {
        let gate = |leg, local| {
            Step::MakeGate(Way { given: given(leg), local, epoch: given(leg).key.epoch }, 1 << 20)
        };
        let connect = |leg| Step::Connect(given(leg), NodeId(leg.into()));
        let steps = [
            connect(2),
            connect(3),
            connect(4),
            gate(1, true),
            gate(2, false),
            gate(3, false),
            gate(4, false),
        ];
        let (tried, mut ways) = (RefCell::new(Vec::new()), Ways::default());
        let missing = || StepError::Missing { what: "device".to_owned() };
        let carry = |step: &Step| {
            tried.borrow_mut().push(step.clone());
            match step {
                Step::Connect(given, _) if given.leg.1 == LegId(2) => {
                    Err(StepError::NoPath { given: *given, why: "refused".to_owned() })
                }
                Step::Connect(given, _) if given.leg.1 == LegId(3) => {
                    Err(StepError::Late { what: "a path".to_owned(), bound: Duration::from_secs(1) })
                }
                Step::MakeGate(way, _) if way.local => Err(missing()),
                _ => Ok(()),
            }
        };
        for step in &steps {
            ways.go(step, &carry).unwrap();
        }
        assert_eq!(tried.into_inner(), [&steps[..4], &steps[6..]].concat());
        assert_eq!((ways.none, ways.late), ([LegId(1), LegId(2)].into(), [LegId(3)].into()));
        assert!(matches!(ways.why, Some(StepError::NoPath { .. })), "the first");
        let other = |_: &Step| Err(missing());
        assert!(Ways::default().go(&Step::Clear, &other).is_err(), "that is no way to a leg");
    }
}
