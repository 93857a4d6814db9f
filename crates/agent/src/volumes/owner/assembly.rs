//! An array is made.
//!
//! Invariants: every leg is connected to before anything is made of them, and control is told which could not be: it gives them up when that lasts. What it is told is of the latest order.
//!
//! On failure: it is tried again, until another order has taken its place.

use super::{LOOK_HURRIED, One, TRY_AGAIN, Turn, at_odds};
use crate::volumes::VolumesError;
use control::owner::{Assembly, Event};
use std::collections::BTreeMap;
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
            let connected = steps.iter().rposition(|step| matches!(step, Step::Connect(..)));
            let (reach, make) = steps.split_at(connected.map_or(0, |at| at + 1));
            let mut unreached = BTreeMap::new();
            for step in reach {
                if turn.is_over() {
                    return Ok(());
                }
                match (step, carry(step)) {
                    (_, Ok(())) => {}
                    (Step::Connect(given, _), Err(why @ StepError::NoPath { .. })) => {
                        unreached.insert(given.leg.1, why);
                    }
                    (_, Err(error)) => return Err(error.into()),
                }
            }
            if turn.is_over() {
                return Ok(());
            }
            let legs = unreached.keys().copied().collect();
            one.tell(Event::Unreached { epoch: order.epoch, legs });
            if let Some((_, why)) = unreached.pop_first() {
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
