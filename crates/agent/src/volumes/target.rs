//! What control orders of legs: one task a leg, which does one thing after the other.
//!
//! Invariants: effects of a leg are carried out in order. A fence is told as done only when the barrier is through and nothing of
//! the leg stands any more.
//!
//! On failure: a fence is tried again until it is done, a floor until it is on disk. A leg that can't be given out is told.

use super::VolumesError;
use super::openers;
use super::place::{Place, sizes};
use super::shell::{Ledgers, Told, blocking};
use control::State;
use control::member::Input;
use control::state::Volume;
use control::target::{Effect, Event, Key, LegOf};
use model::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::kernel::{Engine, StepError};
use storage::leg::Sizes;
use storage::name::{self, GivenLeg};
use storage::owner;
use storage::target::{self, Offer};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, warn};

/// For steps about a leg of a volume that is gone: none of them asks.
const NO_VOLUME: Sizes = Sizes { data_bytes: 4096, chunk_bytes: 1 << 20 };

const TRY_AGAIN: Duration = Duration::from_millis(200);

/// A task for each leg that control ever spoke of.
pub(super) struct Legs {
    place: Arc<Place>,
    ledger: Ledgers,
    told: Told,
    tasks: BTreeMap<LegOf, mpsc::UnboundedSender<Effect>>,
}

impl Legs {
    pub(super) fn new(place: Arc<Place>, ledger: Ledgers, told: Told) -> Self {
        Self { place, ledger, told, tasks: BTreeMap::new() }
    }

    pub(super) fn order(&mut self, effect: Effect) {
        let leg = match &effect {
            Effect::Remember(leg, _)
            | Effect::Fence(leg, _)
            | Effect::GiveOut(leg, ..)
            | Effect::Free(leg) => *leg,
            Effect::Propose(_) => return,
        };
        let task = self.tasks.entry(leg).or_insert_with(|| {
            let (orders, rx) = mpsc::unbounded_channel();
            let leg =
                Leg { place: Arc::clone(&self.place), ledger: self.ledger.clone(), told: self.told.clone() };
            tokio::spawn(leg.run(rx));
            orders
        });
        // The task ends only when this is dropped.
        let _ = task.send(effect);
    }
}

struct Leg {
    place: Arc<Place>,
    ledger: Ledgers,
    told: Told,
}

impl Leg {
    async fn run(self, mut orders: mpsc::UnboundedReceiver<Effect>) {
        while let Some(effect) = orders.recv().await {
            match effect {
                Effect::Remember(leg, key) => {
                    self.until_done("remember", leg, move |place| place.remember(leg, key)).await;
                }
                Effect::Fence(leg, floor) => {
                    let ledger = self.ledger.clone();
                    self.until_done("fence", leg, move |place| fence(&place, &ledger, leg, floor)).await;
                    self.told.tell(Input::Target(Event::Fenced { leg, floor, errored: false }));
                }
                Effect::GiveOut(leg, key, to) => {
                    let (place, ledger) = (Arc::clone(&self.place), self.ledger.clone());
                    let done = blocking(move || give_out(&place, &ledger, leg, key, to)).await;
                    if let Err(error) = done {
                        warn!("can't give out {leg:?}: {}", crate::chain(&error));
                        sleep(TRY_AGAIN).await;
                        self.told.tell(Input::Target(Event::Failed(leg)));
                    }
                }
                Effect::Free(leg) => self.until_done("free", leg, move |place| place.free(leg)).await,
                Effect::Propose(_) => {}
            }
        }
    }

    async fn until_done(
        &self,
        what: &str,
        leg: LegOf,
        work: impl Fn(Arc<Place>) -> Result<(), VolumesError> + Clone + Send + 'static,
    ) {
        loop {
            let (place, work) = (Arc::clone(&self.place), work.clone());
            match blocking(move || work(place)).await {
                Ok(()) => return,
                Err(error) => warn!("can't {what} {leg:?} yet: {}", crate::chain(&error)),
            }
            sleep(TRY_AGAIN).await;
        }
    }
}

/// A leg that was never known in any run is made first: only then may it be confirmed. A local array of an older epoch goes before,
/// with whoever has it open. One of the same epoch is the present owner's own: its letting go is waited for, as the device
/// stays busy until then.
fn fence(place: &Place, ledger: &Ledgers, leg: LegOf, floor: Key) -> Result<(), VolumesError> {
    let state = ledger.now();
    let engine = place.engine(&state)?;
    let volume = state.volumes.get(&leg.0);
    if let Some(volume) = volume {
        let site = place.site(leg.0, volume)?;
        let seen = engine.seen_owner(&site)?;
        if let Some(array) = seen.array.as_ref().filter(|array| array.epoch < floor.epoch) {
            let epoch = array.epoch;
            if let Some(device) = engine.top(leg.0)? {
                openers::kill(&device);
            }
            for step in owner::stop(&site, &seen) {
                engine.carry_owner(&site, epoch, &step)?;
            }
        }
    }
    let sizes = volume.map_or(NO_VOLUME, sizes);
    for step in target::fence(&engine.seen_target()?, leg) {
        debug!("{step:?}");
        engine.carry_target(&step, sizes)?;
    }
    let new = volume.and_then(|volume| volume.legs.get(&leg.1)).filter(|found| found.run.is_none());
    if let (Some(volume), Some(_)) = (volume, new) {
        let offer = offer(&engine, place, &state, volume, leg, floor, None)?;
        for step in target::make(&engine.seen_target()?, &offer).map_err(|refused| at_odds(&refused))? {
            debug!("{step:?}");
            engine.carry_target(&step, sizes)?;
        }
    }
    Ok(())
}

/// What the ledger says of a leg, with its place on the drive; refused while the drive is not claimed: what it holds may be
/// somebody's.
fn offer(
    engine: &Engine,
    place: &Place,
    state: &State,
    volume: &Volume,
    leg: LegOf,
    key: Key,
    host: Option<String>,
) -> Result<Offer, VolumesError> {
    let gone = || StepError::Missing { what: format!("{leg:?} in the ledger") };
    let drive = volume.legs.get(&leg.1).ok_or_else(gone)?.drive;
    let found = state.drives.get(&drive).ok_or_else(gone)?;
    if !engine.is_claimed(&engine.drive(&found.serial)?, place.header(drive))? {
        return Err(VolumesError::NotClaimed(found.serial.clone()));
    }
    let bytes = place.site(leg.0, volume)?.geometry.leg_bytes();
    let extents = place.reserve(leg, (drive, found), bytes)?;
    Ok(Offer { given: GivenLeg { leg, key }, drive: found.serial.clone(), extents, host })
}

fn at_odds(refused: &target::Refused) -> VolumesError {
    VolumesError::AtOdds(refused.to_string())
}

fn give_out(place: &Place, ledger: &Ledgers, leg: LegOf, key: Key, to: NodeId) -> Result<(), VolumesError> {
    let state = ledger.now();
    let gone = || StepError::Missing { what: format!("{leg:?} in the ledger") };
    let volume = state.volumes.get(&leg.0).ok_or_else(gone)?;
    let engine = place.engine(&state)?;
    let (own, _) = place.addresses(&state);
    let host = (to != place.node).then(|| name::host(place.cluster, to));
    let offer = offer(&engine, place, &state, volume, leg, key, host)?;
    for step in target::give_out(&engine.seen_target()?, &offer, &own).map_err(|refused| at_odds(&refused))? {
        debug!("{step:?}");
        engine.carry_target(&step, sizes(volume))?;
    }
    Ok(())
}
