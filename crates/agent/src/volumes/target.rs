//! What control orders of legs: one task a leg, which does one thing after the other.
//!
//! Invariants: effects of a leg are carried out in order. A fence is told as done only when the barrier is through and nothing of
//! the leg stands any more.
//!
//! On failure: a fence is tried again until it is done, a floor until it is on disk. A leg that can't be given out is told; a bounce that
//! fails half-way leaves less than was given out, which the owner sees as a leg without path.

use super::VolumesError;
use super::beside::Beside;
use super::lay::{self, Laying};
use super::openers::{self, Left};
use super::place::{Place, SIZES_OF_NONE, sizes};
use super::shell::{Ledgers, Told, blocking};
use control::State;
use control::member::Input;
use control::state::{LegState, Volume};
use control::target::{Effect, Event, Key, Laid, LegOf};
use model::{MapSequence, NodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::kernel::{Engine, StepError};
use storage::name::{self, GivenLeg};
use storage::owner;
use storage::target::{self, Offer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::{debug, info, warn};

const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How long a fence whose barrier is through waits for what the drive has counted. It was asked before the barrier.
const COUNT_BOUND: Duration = Duration::from_millis(300);

/// Where a bounce's end is told.
pub(super) type Bounced = oneshot::Sender<Result<(), VolumesError>>;

/// What a leg's task is to do next.
enum Order {
    /// Control's.
    Effect(Effect),
    /// The owner's: its gate has given the path up.
    Bounce(LegOf, Key, Bounced),
    /// Of its own: slabs are filled with zeros, and are to be mapped.
    Map(LegOf, Laid),
}

/// A task for each leg that control ever spoke of.
pub(super) struct Legs {
    place: Arc<Place>,
    ledger: Ledgers,
    told: Told,
    tasks: BTreeMap<LegOf, mpsc::UnboundedSender<Order>>,
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
            | Effect::Lay(leg, ..)
            | Effect::Forget(leg) => *leg,
            Effect::TakenBack(..) | Effect::Propose(_) => return,
        };
        self.send(leg, Order::Effect(effect));
    }

    /// Shuts what reaches the leg, waits until nothing is in flight, and gives it out again under the same key.
    pub(super) fn bounce(&mut self, leg: LegOf, key: Key, done: Bounced) {
        self.send(leg, Order::Bounce(leg, key, done));
    }

    fn send(&mut self, leg: LegOf, order: Order) {
        let task = self.tasks.entry(leg).or_insert_with(|| {
            let (orders, rx) = mpsc::unbounded_channel();
            let (place, ledger) = (Arc::clone(&self.place), self.ledger.clone());
            let (told, own) = (self.told.clone(), orders.downgrade());
            let leg = Leg { place, ledger, told, own, laying: None, counted: None };
            tokio::spawn(leg.run(rx));
            orders
        });
        // The task ends only when this is dropped.
        let _ = task.send(order);
    }
}

struct Leg {
    place: Arc<Place>,
    ledger: Ledgers,
    told: Told,
    /// Where this task is given its orders.
    own: mpsc::WeakUnboundedSender<Order>,
    laying: Option<Laying>,
    /// What its drive had counted when it was fenced last: what it counts from then on, it counts against the leg as it is given out next.
    counted: Option<MediaErrors>,
}

/// What a drive has counted; `None`: it counts nothing, or the ledger knows no such leg any more.
type MediaErrors = Option<u64>;

/// What a fence has asked of the drive, over all its tries.
type Asked = Arc<Mutex<Option<Beside<MediaErrors>>>>;

impl Leg {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Effect(Effect::Lay(leg, from, laid)) => self.lay(leg, from, laid).await,
                Order::Effect(effect) => {
                    if matches!(effect, Effect::Fence(..) | Effect::Forget(_)) {
                        self.lay_no_more().await;
                    }
                    self.carry_out(effect).await;
                }
                Order::Map(leg, laid) => self.map(leg, laid).await,
                // Whoever asked has given up: what is given out now is in use.
                Order::Bounce(_, _, done) if done.is_closed() => {}
                Order::Bounce(leg, key, done) => {
                    let (place, ledger) = (Arc::clone(&self.place), self.ledger.clone());
                    let bounced = blocking(move || bounce(&place, &ledger, leg, key)).await;
                    if let Err(VolumesError::CutShort { .. }) = &bounced {
                        self.told.tell(Input::Target(Event::Failed(leg)));
                    }
                    // Whoever asked may be gone.
                    let _ = done.send(bounced);
                }
            }
        }
    }

    /// Beside whatever else is done with the leg, but a fence: what is filled is behind all that is mapped.
    async fn lay(&mut self, leg: LegOf, from: u64, laid: Laid) {
        self.lay_no_more().await;
        let from = to_fill_from(from, laid, self.place.laid().get(&leg));
        let own = self.own.clone();
        let filled = move || {
            if let Some(own) = own.upgrade() {
                // The receiver is this task's own.
                let _ = own.send(Order::Map(leg, laid));
            }
        };
        let (place, ledger, told) = (Arc::clone(&self.place), self.ledger.clone(), self.told.clone());
        self.laying = Some(Laying::begin((place, ledger, told), leg, from..laid.slabs, filled));
    }

    async fn lay_no_more(&mut self) {
        if let Some(laying) = self.laying.take() {
            laying.end().await;
        }
    }

    /// In turn with what gives the leg out and takes it back: its device has the slabs, whether it stands now or is made later.
    async fn map(&self, leg: LegOf, laid: Laid) {
        let (place, ledger) = (Arc::clone(&self.place), self.ledger.clone());
        let mapped = blocking(move || {
            place.remember_laid(leg, laid)?;
            map(&place, &ledger, leg)
        });
        match mapped.await {
            Ok(()) => {
                info!("{} slabs of {} of {} are laid", laid.slabs, leg.1, leg.0);
                self.told.tell(Input::Target(Event::Laid(leg, laid)));
            }
            Err(error) => {
                warn!("can't map the slabs of {leg:?} yet: {}", crate::chain(&error));
                sleep(TRY_AGAIN).await;
                self.told.tell(Input::Target(Event::NotLaid(leg)));
            }
        }
    }

    async fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Remember(leg, key) => {
                self.until_done("remember", leg, move |place| place.remember(leg, key)).await;
            }
            Effect::Fence(leg, floor) => {
                let (ledger, asked) = (self.ledger.clone(), Asked::default());
                let fenced = move |place: Arc<Place>| fence(&place, &ledger, (leg, floor), &asked);
                let counted = self.until_done("fence", leg, fenced).await;
                let errored =
                    counted.is_some_and(|media_errors| self.place.lives.has_erred(leg, media_errors));
                self.counted = Some(counted);
                info!("{} of {} is fenced below {}-{}", leg.1, leg.0, floor.epoch, floor.incarnation.0);
                self.told.tell(Input::Target(Event::Fenced { leg, floor, errored }));
            }
            Effect::GiveOut(leg, key, to) => {
                let (place, ledger) = (Arc::clone(&self.place), self.ledger.clone());
                let counted = self.counted.take();
                let done = blocking(move || give_out(&place, &ledger, (leg, key, to), counted)).await;
                match done {
                    Ok(()) => {
                        info!("{} is given out to {to}", GivenLeg { leg, key });
                        self.place.given_out.send_modify(|count| *count += 1);
                    }
                    Err(error) => {
                        warn!("can't give out {}: {}", GivenLeg { leg, key }, crate::chain(&error));
                        sleep(TRY_AGAIN).await;
                        self.told.tell(Input::Target(Event::Failed(leg)));
                    }
                }
            }
            Effect::Forget(leg) => self.until_done("forget", leg, move |place| place.forget(leg)).await,
            Effect::Lay(..) | Effect::TakenBack(..) | Effect::Propose(_) => {}
        }
    }

    async fn until_done<T: Send + 'static>(
        &self,
        what: &str,
        leg: LegOf,
        work: impl Fn(Arc<Place>) -> Result<T, VolumesError> + Clone + Send + 'static,
    ) -> T {
        let mut told = String::new();
        loop {
            let (place, work) = (Arc::clone(&self.place), work.clone());
            match blocking(move || work(place)).await {
                Ok(done) => return done,
                Err(error) => {
                    // It may go on for as long as a drive is away.
                    let why = crate::chain(&error);
                    if why != told {
                        warn!("can't {what} {leg:?} yet: {why}");
                        told = why;
                    }
                }
            }
            sleep(TRY_AGAIN).await;
        }
    }
}

/// A leg that was never known in any run is made first: only then may it be confirmed. A local array of an older epoch goes before,
/// with whoever has it open. One of the same epoch is the present owner's own: the path is taken from it, and its letting go is waited
/// for, as the device stays busy until then; if it is the last in sync, its gate is taken off the device. Gives what the drive's medium has lost by then.
fn fence(
    place: &Arc<Place>,
    ledger: &Ledgers,
    (leg, floor): (LegOf, Key),
    asked: &Asked,
) -> Result<MediaErrors, VolumesError> {
    let state = ledger.now();
    let engine = place.engine(&state)?;
    let volume = state.volumes.get(&leg.0);
    let site = place.site(leg.0, volume.map_or(SIZES_OF_NONE, sizes))?;
    let seen = engine.seen_owner(&site)?;
    // An agent that was killed while it assembled has left gates and no array. Of a volume that is gone everything goes.
    let newest =
        seen.array.as_ref().map(|array| array.epoch).or(seen.gates.values().map(|gate| gate.epoch).max());
    if let Some(epoch) = newest.filter(|epoch| *epoch < floor.epoch || volume.is_none()) {
        let left = openers::of_volume(&engine, leg.0, true)?;
        // What dead users wait for in gates without path fails, so that they can end.
        let give_up = (left == Left::Doomed).then(|| owner::give_up(&site, &seen));
        for step in give_up.into_iter().flatten().chain(owner::stop(&site, &seen)) {
            engine.carry_owner(&site, epoch, &step)?;
        }
    }
    if let Some(step) = owner::cut_off(&seen, floor.epoch, leg.1) {
        engine.carry_owner(&site, floor.epoch, &step)?;
    }
    // The last leg in sync its array never lets go: what waits for it goes to it as it is given out next.
    let last = volume.filter(|volume| is_last_of_own(volume, place.node, leg, floor));
    if let Some(step) = last.and_then(|_| owner::take_off(&site, &seen, floor.epoch, leg.1)) {
        engine.carry_owner(&site, floor.epoch, &step)?;
    }
    let sizes = volume.map_or(SIZES_OF_NONE, sizes);
    for step in target::fence(&engine.seen_target()?, leg) {
        debug!("{step:?}");
        // From here on nobody hears of an error that the drive has not counted: what is in flight is answered to nobody.
        if matches!(step, target::Step::Disable(_)) {
            ask_count(place, ledger, leg, asked)?;
        }
        engine.carry_target(&step, sizes)?;
    }
    let new = volume.and_then(|volume| volume.legs.get(&leg.1)).filter(|found| is_new(volume, found));
    if let (Some(volume), Some(_)) = (volume, new) {
        let offer = offer(&engine, place, &state, volume, leg, floor, None)?;
        for step in target::make(&engine.seen_target()?, &offer).map_err(|refused| at_odds(&refused))? {
            debug!("{step:?}");
            engine.carry_target(&step, sizes)?;
        }
    }
    // One that was no other node's has had its answers until now.
    ask_count(place, ledger, leg, asked)?;
    counted(leg, asked, COUNT_BOUND)
}

/// What was asked of the drive, if it comes within so long; without it the fence is not confirmed. What is under way then is waited for again at the next try;
/// a drive that is not there, or refused, is asked again.
fn counted(leg: LegOf, asked: &Asked, bound: Duration) -> Result<MediaErrors, VolumesError> {
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = asked.as_ref().and_then(|asked| asked.within(bound));
    let what = || format!("what the drive of {leg:?} has counted");
    let answer = answer.ok_or_else(|| StepError::Late { what: what(), bound })?;
    *asked = None;
    answer
}

/// Asks what the drive of a leg has counted, unless it is asked already.
fn ask_count(place: &Arc<Place>, ledger: &Ledgers, leg: LegOf, asked: &Asked) -> Result<(), VolumesError> {
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    if asked.is_none() {
        let (place, ledger) = (Arc::clone(place), ledger.clone());
        let ask = move || media_errors(&place.own_engine()?, &ledger.now(), leg);
        *asked = Some(Beside::ask(ask)?);
    }
    Ok(())
}

/// What the drive of a leg has counted. A drive that is not there or does not answer is an error: nothing is known of what it has; of one that is lost nobody asks.
fn media_errors(engine: &Engine, state: &State, leg: LegOf) -> Result<MediaErrors, VolumesError> {
    let found = state.volumes.get(&leg.0).and_then(|volume| volume.legs.get(&leg.1));
    let drive = found.and_then(|found| state.drives.get(&found.drive));
    let Some(drive) = drive.filter(|drive| !drive.is_lost()) else { return Ok(None) };
    Ok(engine.health(&engine.drive(&drive.serial)?)?.map(|health| health.media_errors))
}

/// What the ledger says of a leg and its place on the drive; refused while the drive is not claimed: what it holds may be
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
    let device = lay::claimed(engine, place, drive, &found.serial)?;
    // A drive that was reset since may have turned it on again.
    engine.turn_cache_off(&device)?;
    let (extents, bytes) =
        (place.pieces(leg, volume)?, place.site(leg.0, sizes(volume))?.geometry.leg_bytes());
    Ok(Offer { given: GivenLeg { leg, key }, drive: found.serial.clone(), extents, bytes, host })
}

fn at_odds(refused: &target::Refused) -> VolumesError {
    VolumesError::AtOdds(refused.to_string())
}

/// `counted`: what its drive had counted at its fence, if that was seen; else it is asked now.
fn give_out(
    place: &Place,
    ledger: &Ledgers,
    (leg, key, to): (LegOf, Key, NodeId),
    counted: Option<MediaErrors>,
) -> Result<(), VolumesError> {
    let state = ledger.now();
    let gone = || StepError::Missing { what: format!("{leg:?} in the ledger") };
    let volume = state.volumes.get(&leg.0).ok_or_else(gone)?;
    let engine = place.engine(&state)?;
    let (own, _) = place.addresses(&state);
    let host = (to != place.node).then(|| name::host(place.cluster, to));
    let offer = offer(&engine, place, &state, volume, leg, key, host)?;
    // Before: what it loses from then on counts.
    if let Some(media_errors) = counted.map_or_else(|| media_errors(&engine, &state, leg), Ok)? {
        place.lives.given_out(leg, key, media_errors)?;
    }
    for step in target::give_out(&engine.seen_target()?, &offer, &own).map_err(|refused| at_odds(&refused))? {
        debug!("{step:?}");
        engine.carry_target(&step, sizes(volume))?;
    }
    Ok(())
}

/// What is remembered as laid, where the leg stands.
fn map(place: &Place, ledger: &Ledgers, leg: LegOf) -> Result<(), VolumesError> {
    let state = ledger.now();
    let gone = || StepError::Missing { what: format!("{leg:?} in the ledger") };
    let volume = state.volumes.get(&leg.0).ok_or_else(gone)?;
    let incarnation = volume.legs.get(&leg.1).ok_or_else(gone)?.incarnation;
    let engine = place.engine(&state)?;
    let offer = offer(&engine, place, &state, volume, leg, Key { epoch: volume.epoch, incarnation }, None)?;
    for step in target::map(&engine.seen_target()?, &offer) {
        debug!("{step:?}");
        engine.carry_target(&step, sizes(volume))?;
    }
    Ok(())
}

/// What was in flight is through, and nothing of before can come any more: then the leg is given out again as it was. To another node:
/// a fence and a giving out. To this node itself: its device is turned to the drive as it is found now.
fn bounce(place: &Place, ledger: &Ledgers, leg: LegOf, key: Key) -> Result<(), VolumesError> {
    let (state, given) = (ledger.now(), GivenLeg { leg, key });
    let engine = place.engine(&state)?;
    let seen = engine.seen_target()?;
    let volume = state.volumes.get(&leg.0).filter(|_| seen.devices.contains(&given));
    let volume = volume.ok_or(VolumesError::NotGivenOut(given))?;
    if !seen.exports.contains_key(&given) {
        let offer = offer(&engine, place, &state, volume, leg, key, None)?;
        engine.turn_device(&offer)?;
        return Ok(engine.carry_target(&target::Step::CheckLeg(given), sizes(volume))?);
    }
    let again = || {
        for step in target::fence(&seen, leg) {
            debug!("{step:?}");
            engine.carry_target(&step, sizes(volume))?;
        }
        give_out(place, ledger, (leg, key, volume.owner), None)
    };
    again().map_err(|error| VolumesError::CutShort { given, why: crate::chain(&error) })
}

/// From which slab on a leg is to be filled. What was filled when its fence came was written down and mapped behind it ([`Order::Map`]), and control did not
/// know of that when it ordered this: users may have written there.
fn to_fill_from(from: u64, laid: Laid, noted: Option<&Laid>) -> u64 {
    let noted = noted.filter(|noted| noted.ledger == laid.ledger).map_or(0, |noted| noted.slabs);
    from.max(noted).min(laid.slabs)
}

/// Whether a leg that is fenced is the last in sync of a volume that this node owns, and is to be given out anew: under the same key nobody would lead its
/// gate there again.
fn is_last_of_own(volume: &Volume, node: NodeId, leg: LegOf, floor: Key) -> bool {
    let last = volume.in_sync().map(|(id, found)| (id, found.incarnation < floor.incarnation));
    volume.owner == node && volume.epoch == floor.epoch && last.eq([(leg.1, true)])
}

/// Whether a leg was never made: it is known in no run, and has nothing that others lack. One in sync of a volume that was open has: an
/// operator's override has made it so.
fn is_new(volume: Option<&Volume>, leg: &control::state::Leg) -> bool {
    let was_open = volume.is_some_and(|volume| volume.map_sequence > MapSequence(0));
    leg.run.is_none() && !(was_open && leg.state == LegState::InSync)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Epoch, Incarnation, LedgerIncarnation, LegId, VolumeId};
    use std::sync::mpsc::channel;

    const LEG: LegOf = (VolumeId(1), LegId(1));
    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn a_drive_that_is_away_or_does_not_answer_confirms_no_fence() {
        let asked = Asked::default();
        let ask = |answer: Result<MediaErrors, VolumesError>| {
            *asked.lock().unwrap() = Some(Beside::ask(move || answer).unwrap());
        };
        let away = || StepError::Missing { what: "drive A".to_owned() }.into();
        ask(Err(away()));
        assert_eq!(counted(LEG, &asked, LONG).unwrap_err().to_string(), "there is no drive A");
        assert!(asked.lock().unwrap().is_none(), "it is asked again");
        ask(Ok(None));
        assert_eq!(counted(LEG, &asked, LONG).unwrap(), None, "it counts nothing");
        let (says, hears) = channel();
        *asked.lock().unwrap() = Some(Beside::ask(move || Ok(hears.recv().ok())).unwrap());
        let late = counted(LEG, &asked, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(late, VolumesError::Step(StepError::Late { .. })), "{late}");
        says.send(7).unwrap();
        assert_eq!(counted(LEG, &asked, LONG).unwrap(), Some(7), "the same question, at the next try");
    }

    /// The map order stands behind the fence in the leg's own task, and is carried out after it.
    #[test]
    fn what_was_mapped_behind_a_fence_is_not_filled_again() {
        let laid = |ledger, slabs| Laid { ledger: LedgerIncarnation(ledger), slabs };
        assert_eq!(to_fill_from(1, laid(1, 3), None), 1);
        assert_eq!(to_fill_from(1, laid(1, 3), Some(&laid(1, 3))), 3, "nothing");
        assert_eq!(to_fill_from(1, laid(1, 5), Some(&laid(1, 3))), 3, "what came since");
        assert_eq!(to_fill_from(2, laid(1, 3), Some(&laid(1, 1))), 2, "the ledger knows more");
        assert_eq!(
            to_fill_from(1, laid(2, 3), Some(&laid(1, 3))),
            1,
            "another ledger's volume of that number"
        );
        assert_eq!(to_fill_from(9, laid(1, 3), None), 3, "never behind the end");
    }

    #[test]
    fn the_gate_of_the_last_leg_in_sync_is_taken_off_only_where_it_is_led_there_again() {
        let key = |number, incarnation| Key {
            epoch: Epoch { ledger: LedgerIncarnation(1), number },
            incarnation: Incarnation(incarnation),
        };
        let leg = |state| control::state::Leg {
            drive: model::DriveId(1),
            extents: Vec::new(),
            to_lay: 0,
            incarnation: Incarnation(4),
            run: None,
            state,
            replaces: None,
            held_all: true,
        };
        let stale = LegState::Stale { base: control::state::Base::Changes, back: false };
        let mut volume = super::super::owner::a_volume();
        volume.epoch = key(2, 0).epoch;
        volume.legs = [(LEG.1, leg(LegState::InSync)), (LegId(2), leg(stale))].into();
        assert!(is_last_of_own(&volume, NodeId(1), LEG, key(2, 5)));
        assert!(!is_last_of_own(&volume, NodeId(1), LEG, key(2, 4)), "it is given out again as it was");
        assert!(!is_last_of_own(&volume, NodeId(2), LEG, key(2, 5)), "another's");
        assert!(!is_last_of_own(&volume, NodeId(1), LEG, key(3, 5)), "an array of before is stopped");
        assert!(!is_last_of_own(&volume, NodeId(1), (LEG.0, LegId(2)), key(2, 5)), "it is let go");
        volume.legs.insert(LegId(2), leg(LegState::InSync));
        assert!(!is_last_of_own(&volume, NodeId(1), LEG, key(2, 5)), "so is it, when there is another");
    }
}
