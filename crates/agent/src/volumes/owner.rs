//! What control orders of an array: one [`Arrays`] for all volumes, with tasks for each.
//!
//! Long orders (assemble, rebuild, stop) run beside the short ones, because control gives short ones while a long one hangs in a path
//! that is gone. A later long order ends an earlier one: its number is looked at before each step.
//!
//! Invariants: steps are planned from what the kernel has at that moment. What is told of a long order is told only while it is the
//! latest.
//!
//! On failure: an order is tried again until it is done or another has taken its place.

mod assembly;
mod extend;
mod paths;
mod stop;
mod waiting;

use super::VolumesError;
use super::bounce::Bounces;
use super::digests;
use super::place::{self, Place, SIZES_OF_NONE};
use super::shell::{self, Ledgers, Told, blocking};
use super::stirs::Stirs;
use api::GivenLegRequest;
use control::State;
use control::command::LegRef;
use control::member::Input;
use control::owner::{Effect, Event};
use control::state::{Base, Reach};
use control::target::Key;
use model::{Epoch, LegId, NodeId, VolumeId};
use paths::Paths;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use storage::kernel::{Engine, StepError};
use storage::owner::{self, Layout, Refused, Site, Step};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{sleep, sleep_until};
use tracing::{debug, info, warn};
use waiting::Waiting;

const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How often an array, its gates and a rebuild are looked at while something is wrong or under way.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often, and how many times, when something was just given up.
pub(super) const LOOK_HURRIED: Duration = Duration::from_millis(20);
const HURRIED_LOOKS: u32 = 10;
/// How long a peer may take to flush a leg.
const FLUSH_LIMIT: Duration = Duration::from_secs(10);
/// The same for all legs before an array is stopped: control gives it two seconds in all.
const FLUSH_ALL_LIMIT: Duration = Duration::from_secs(1);
/// How often an array is looked for that is not there, and looked at while nothing is wrong with it and the kernel tells nothing.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// What all tasks share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) place: Arc<Place>,
    pub(super) ledger: Ledgers,
    pub(super) told: Told,
    pub(super) transport: Arc<ledger::http::HttpTransport>,
    pub(super) shell: shell::Handle,
}

/// The arrays of this node.
pub(super) struct Arrays {
    shared: Shared,
    volumes: BTreeMap<VolumeId, Array>,
}

/// A short order: of which epoch, what, and how many long ones had been given before.
type Short = (Epoch, Effect, u64);

struct Array {
    one: One,
    rebuilds: Arc<AtomicU64>,
    extending: Arc<AtomicBool>,
    short: mpsc::UnboundedSender<Short>,
    look: Arc<Notify>,
    watch: tokio::task::AbortHandle,
}

impl Drop for Array {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Arrays {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared, volumes: BTreeMap::new() }
    }

    /// `epoch` is that of what control has of the volume.
    pub(super) fn order(&mut self, id: VolumeId, epoch: Epoch, effect: Effect) {
        let array = self.volumes.entry(id).or_insert_with(|| Array::start(id, &self.shared));
        let next = |count: &Arc<AtomicU64>| Turn {
            mine: count.fetch_add(1, Ordering::SeqCst) + 1,
            now: Arc::clone(count),
        };
        let one = array.one.clone();
        match effect {
            Effect::Assemble(assembly) => drop(tokio::spawn(one.assemble(next(&array.one.orders), assembly))),
            Effect::Stop { kill } => {
                next(&array.rebuilds);
                tokio::spawn(one.stop(next(&array.one.orders), epoch, kill));
            }
            Effect::Rebuild(leg, node, base) => {
                tokio::spawn(one.rebuild(next(&array.rebuilds), (epoch, leg, node, base)));
            }
            Effect::Extend(reach) => {
                let seen = one.orders.load(Ordering::SeqCst);
                one.extend(epoch, reach, seen, Arc::clone(&array.extending));
            }
            Effect::ResetNode => {
                warn!("an array does not stop: the node is reset");
                if let Err(error) = std::fs::write("/proc/sysrq-trigger", "b") {
                    warn!("can't reset the node: {error}");
                }
            }
            Effect::Propose(_) | Effect::GivenBack(_) => {}
            short => {
                if matches!(short, Effect::StopRebuild(_)) {
                    next(&array.rebuilds);
                }
                // The task ends only when this is dropped.
                let _ = array.short.send((epoch, short, array.one.orders.load(Ordering::SeqCst)));
            }
        }
    }

    /// What makes the watch of each array look at once.
    pub(super) fn watched(&self) -> Vec<Arc<Notify>> {
        self.volumes.values().map(|array| Arc::clone(&array.look)).collect()
    }

    /// Begins to watch arrays that an earlier run of the agent has left.
    pub(super) fn adopt(&mut self, id: VolumeId) {
        let shared = &self.shared;
        self.volumes.entry(id).or_insert_with(|| Array::start(id, shared));
    }
}

impl Array {
    fn start(id: VolumeId, shared: &Shared) -> Self {
        let (short, given) = mpsc::unbounded_channel();
        let (orders, door, leaving) = Default::default();
        let one = One { id, shared: shared.clone(), orders, door, leaving };
        tokio::spawn(one.clone().shorts(given, short.clone().downgrade()));
        let look = Arc::new(Notify::new());
        let watch = tokio::spawn(one.clone().watch(Arc::clone(&look))).abort_handle();
        Self { one, rebuilds: Arc::default(), extending: Arc::default(), short, look, watch }
    }
}

/// Whether an order is still the latest.
#[derive(Clone)]
struct Turn {
    mine: u64,
    now: Arc<AtomicU64>,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.now.load(Ordering::SeqCst) != self.mine
    }
}

/// One volume.
#[derive(Clone)]
pub(super) struct One {
    pub(super) id: VolumeId,
    pub(super) shared: Shared,
    /// Counts long orders: whoever is to be let in is not once another was given.
    orders: Arc<AtomicU64>,
    /// Held while users are let in, and while nobody is to be any more.
    door: Arc<Mutex<()>>,
    /// Held while connections of an array that is gone are let go of: nothing is assembled meanwhile.
    leaving: Arc<Mutex<()>>,
}

/// Carries out a step.
type Carry<'a> = &'a dyn Fn(&Step) -> Result<(), StepError>;

fn at_odds(refused: &Refused) -> VolumesError {
    VolumesError::AtOdds(refused.to_string())
}

impl One {
    fn tell(&self, event: Event) {
        self.shared.told.tell(Input::Owner(self.id, event));
    }

    /// What the kernel has of the volume now.
    pub(super) async fn seen(&self) -> Result<owner::Seen, VolumesError> {
        let (id, place, ledger) = (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        blocking(move || {
            let (engine, site) = at(id, &place, &ledger)?;
            Ok(engine.seen_owner(&site)?)
        })
        .await
    }

    /// Plans with what is there, and carries out step by step.
    async fn carry(
        &self,
        turn: Option<Turn>,
        epoch: Epoch,
        plan: impl FnOnce(&Site, &Engine) -> Result<Vec<Step>, VolumesError> + Send + 'static,
    ) -> Result<(), VolumesError> {
        self.at_engine(epoch, move |site, engine, carry| {
            for step in plan(site, engine)? {
                if turn.as_ref().is_some_and(Turn::is_over) {
                    return Ok(());
                }
                carry(&step)?;
            }
            Ok(())
        })
        .await
    }

    /// Works with the kernel, which may block; the work is given what carries out a step.
    async fn at_engine(
        &self,
        epoch: Epoch,
        work: impl FnOnce(&Site, &Engine, Carry<'_>) -> Result<(), VolumesError> + Send + 'static,
    ) -> Result<(), VolumesError> {
        let (id, place, ledger) = (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        let ask = digests::of_peers(ledger.clone(), Arc::clone(&self.shared.transport), Handle::current());
        blocking(move || {
            let (engine, site) = at(id, &place, &ledger)?;
            let engine = engine.asking(ask);
            work(&site, &engine, &|step| {
                debug!("{step:?}");
                // As it is by now: it may have begun to grow, and what is marked must cover all that users may get meanwhile.
                engine.carry_owner(&site_of(id, &place, &ledger.now())?, epoch, step)
            })
        })
        .await
    }

    async fn flush(&self, leg: LegId, key: Key, node: NodeId) -> Result<(), VolumesError> {
        if node == self.shared.place.node {
            return self.shared.place.flush((self.id, leg), key).await;
        }
        let to = self.shared.ledger.contact(node).ok_or(VolumesError::NoLedger)?;
        let request = GivenLegRequest { volume: self.id, leg, key };
        let asked = self.shared.transport.call::<_, ()>(to, api::path::POOL_FLUSH, &request, FLUSH_LIMIT);
        Ok(asked.await?)
    }

    async fn rebuild(self, turn: Turn, (epoch, leg, node, base): (Epoch, LegRef, NodeId, Base)) {
        let known = |ledger: &Ledgers| {
            ledger.now().volumes.get(&self.id).map(|volume| volume.map_sequence).unwrap_or_default()
        };
        let maps = known(&self.shared.ledger);
        let rate = |ledger: &Ledgers| ledger.now().settings.rebuild;
        let mut pace = rate(&self.shared.ledger);
        info!("the rebuild of {} of {} begins", leg.id, self.id);
        let plan = move |site: &Site, engine: &Engine| {
            let seen = engine.seen_owner(site)?;
            let steps = owner::rebuild(site, &seen, epoch, (leg.id, leg.incarnation, node), base);
            Ok(owner::pace(pace).into_iter().chain(steps.map_err(|refused| at_odds(&refused))?).collect())
        };
        let mut done = self.carry(Some(turn.clone()), epoch, plan).await;
        while done.is_ok() && !turn.is_over() {
            match self.copied(epoch, leg.id).await {
                Ok(true) => {
                    let key = Key { epoch, incarnation: leg.incarnation };
                    done = self.flush(leg.id, key, node).await;
                    if done.is_ok() {
                        info!("{} of {} is rebuilt", leg.id, self.id);
                        return self.tell(Event::Rebuilt(leg, maps));
                    }
                }
                Ok(false) => {
                    sleep(LOOK_EVERY).await;
                    let now = rate(&self.shared.ledger);
                    if now != pace {
                        pace = now;
                        let plan = move |_: &Site, _: &Engine| Ok(owner::pace(now).to_vec());
                        done = self.carry(Some(turn.clone()), epoch, plan).await;
                    }
                }
                Err(error) => done = Err(error),
            }
        }
        if let (Err(error), false) = (done, turn.is_over()) {
            warn!("the rebuild of {} of {} failed: {}", leg.id, self.id, crate::chain(&error));
            self.tell(Event::RebuildFailed(leg));
        }
    }

    /// Whether a leg is copied; tells how far it is.
    async fn copied(&self, epoch: Epoch, leg: LegId) -> Result<bool, VolumesError> {
        let (id, place, ledger) = (self.id, Arc::clone(&self.shared.place), self.shared.ledger.clone());
        let (done, progress) = blocking(move || {
            let (engine, site) = at(id, &place, &ledger)?;
            let array = engine.seen_owner(&site)?.array.filter(|array| array.epoch == epoch);
            let gone = || StepError::Missing { what: format!("the array of {id} in epoch {epoch}") };
            let array = array.ok_or_else(gone)?;
            let member = array.members.get(&leg);
            let failed = member.is_none_or(|member| member.words.contains("faulty"));
            if failed {
                return Err(StepError::Missing { what: format!("{leg} in the array") }.into());
            }
            let synced = member.is_some_and(|member| member.words.contains("in_sync"));
            Ok((synced && array.action == "idle", engine.progress(&site, epoch)))
        })
        .await?;
        if let Some((done_bytes, total_bytes)) = progress {
            self.tell(Event::Rebuilding { done_bytes, total_bytes });
        }
        Ok(done)
    }

    /// Short orders, one after the other.
    async fn shorts(
        self,
        mut orders: mpsc::UnboundedReceiver<Short>,
        again: mpsc::WeakUnboundedSender<Short>,
    ) {
        while let Some((epoch, effect, seen)) = orders.recv().await {
            let Err(error) = self.short(epoch, effect.clone(), seen).await else { continue };
            warn!("can't {effect:?} on {}: {}", self.id, crate::chain(&error));
            sleep(TRY_AGAIN).await;
            // Control looks again, and orders again what is left to do; but it orders these only once.
            self.tell(Event::Stirred);
            if self.is_once_and_wanted(epoch, &effect)
                && let Some(again) = again.upgrade()
            {
                // The receiver is this task's own.
                let _ = again.send((epoch, effect, seen));
            }
        }
    }

    /// Whether control will not order it again, and the ledger still wants it.
    fn is_once_and_wanted(&self, epoch: Epoch, effect: &Effect) -> bool {
        let state = self.shared.ledger.now();
        let Some(volume) = state.volumes.get(&self.id).filter(|volume| volume.epoch == epoch) else {
            return false;
        };
        match effect {
            Effect::Admit(_) => true,
            Effect::Repoint(leg, _) => {
                volume.legs.get(&leg.id).is_some_and(|found| found.incarnation == leg.incarnation)
            }
            _ => false,
        }
    }

    /// How what users are to have lies on the array.
    fn layout(&self, reach: Reach) -> Result<Layout, VolumesError> {
        let state = self.shared.ledger.now();
        let gone = || StepError::Missing { what: format!("{} in the ledger", self.id) };
        Ok(place::layout(state.volumes.get(&self.id).ok_or_else(gone)?, reach))
    }

    /// `seen`: how many long orders had been given when it was.
    async fn short(&self, epoch: Epoch, effect: Effect, seen: u64) -> Result<(), VolumesError> {
        match effect {
            Effect::Look => {
                self.tell(Event::Looked(owner::look(&self.seen().await?)));
            }
            Effect::Admit(reach) => {
                let _open = self.door.lock().await;
                if self.orders.load(Ordering::SeqCst) == seen {
                    let layout = self.layout(reach)?;
                    self.shared.place.is_leased()?;
                    let plan = move |site: &Site, seen: &owner::Seen, epoch| {
                        owner::admit(site, seen, epoch, &layout)
                    };
                    self.planned(epoch, plan).await?;
                }
            }
            Effect::LetGo(leg) => {
                let plan =
                    move |site: &Site, seen: &owner::Seen, epoch| owner::let_go(site, seen, epoch, leg.id);
                self.planned(epoch, plan).await?;
                info!("{} of {} is let go", leg.id, self.id);
                self.tell(Event::LetGo(leg.id));
            }
            Effect::Release(legs) => {
                let legs: BTreeSet<LegId> = legs.into_iter().map(|leg| leg.id).collect();
                let plan =
                    move |site: &Site, seen: &owner::Seen, epoch| owner::release(site, seen, epoch, &legs);
                self.planned(epoch, plan).await?;
                info!("{} goes on", self.id);
                self.tell(Event::Released);
            }
            Effect::Repoint(leg, node) => {
                let plan = move |site: &Site, seen: &owner::Seen, epoch| {
                    owner::repoint(site, seen, epoch, leg.id, leg.incarnation, node)
                };
                self.planned(epoch, plan).await?;
            }
            Effect::StopRebuild(leg) => {
                let plan = move |site: &Site, seen: &owner::Seen, epoch| {
                    owner::stop_rebuild(site, seen, epoch, leg.id)
                };
                self.planned(epoch, plan).await?;
            }
            Effect::Assemble(_)
            | Effect::Rebuild(..)
            | Effect::Stop { .. }
            | Effect::ResetNode
            | Effect::Extend(_)
            | Effect::GivenBack(_)
            | Effect::Propose(_) => {}
        }
        Ok(())
    }

    async fn planned(
        &self,
        epoch: Epoch,
        plan: impl FnOnce(&Site, &owner::Seen, Epoch) -> Result<Vec<Step>, Refused> + Send + 'static,
    ) -> Result<(), VolumesError> {
        let plan = move |site: &Site, engine: &Engine| {
            plan(site, &engine.seen_owner(site)?, epoch).map_err(|refused| at_odds(&refused))
        };
        self.carry(None, epoch, plan).await
    }

    /// Looks at gates and array when the kernel tells of something, and tells what has changed. While something is under way or wrong it
    /// looks again and again. Told to look at once, it does so a few times: the kernel takes a moment to see that a connection is gone.
    async fn watch(self, look: Arc<Notify>) {
        let mut known: Option<(BTreeSet<LegId>, Option<owner::Array>)> = None;
        let bounces = Bounces::default();
        let (mut waiting, mut paths) = (Waiting::default(), Paths::default());
        let mut stirs = Stirs::default();
        let (mut pause, mut hurried) = (LOOK_EVERY, 0);
        loop {
            if hurried > 0 {
                hurried -= 1;
                sleep(LOOK_HURRIED).await;
            } else {
                hurried = next_look(&look, &stirs, pause).await;
            }
            let Ok(seen) = self.seen().await else { continue };
            let (id, shared) = (self.id, self.shared.clone());
            stirs.follow(seen.array.as_ref(), move || at(id, &shared.place, &shared.ledger)).await;
            for (leg, given) in owner::to_bounce(&seen) {
                let own = seen.gates.get(&leg).is_some_and(|gate| gate.local);
                if bounces.is_due(given, Instant::now()) {
                    tokio::spawn(self.clone().bounce(given, own, bounces.clone()));
                }
            }
            self.complete(&seen, &mut paths);
            if let Some(queue) = seen.thin.queue {
                self.tend(queue, &mut waiting).await;
            }
            let settled = owner::is_settled(&seen);
            let now = (owner::without_path(&seen), seen.array);
            let (gates, array) = known.unwrap_or_default();
            // Again and again: a gate may have been made anew meanwhile, and control takes it only once.
            for leg in &now.0 {
                self.tell(Event::GateLost(*leg));
            }
            for leg in now.0.difference(&gates) {
                info!("{leg} of {} has no path", self.id);
            }
            for leg in gates.difference(&now.0) {
                info!("{leg} of {} has a path", self.id);
                self.tell(Event::GateBack(*leg));
            }
            if now.1 != array {
                self.tell(Event::Stirred);
            }
            let nothing = now.1.is_none() && now.0.is_empty();
            pause = if nothing || settled { LOOK_SELDOM } else { LOOK_EVERY };
            known = Some(now);
        }
    }
}

/// Waits for the next look; how many more follow in a hurry. What the kernel tells of comes no more often than looks without it.
async fn next_look(look: &Notify, stirs: &Stirs, pause: Duration) -> u32 {
    let last = tokio::time::Instant::now();
    let told = async {
        stirs.stirred().await;
        sleep_until(last + LOOK_EVERY).await;
    };
    tokio::select! {
        () = sleep(pause) => 0,
        () = look.notified() => HURRIED_LOOKS,
        () = told => 0,
    }
}

/// A volume that the ledger knows no more has no sizes: it can only be stopped, and no step of that asks for them.
pub(super) fn at(id: VolumeId, place: &Place, ledger: &Ledgers) -> Result<(Engine, Site), VolumesError> {
    let state = ledger.now();
    Ok((place.engine(&state)?, site_of(id, place, &state)?))
}

/// As large as it is to be: what is said where nothing can be read, and what is copied from scratch, covers what a growth that is under way adds.
fn site_of(id: VolumeId, place: &Place, state: &State) -> Result<Site, StepError> {
    place.site(id, state.volumes.get(&id).map_or(SIZES_OF_NONE, place::sizes_to_be))
}

#[cfg(test)]
pub(super) use tests::a_volume;

#[cfg(test)]
mod tests;
