//! A virtual machine's memory, saved on the volume that it has for that ([`model::VmSpec::saves_to`]) and loaded from there ([`vm::saved`]).
//!
//! Invariants: the volume has no disk in front of it, and only a process of this agent's opens it, for as long as it saves, loads or wipes. It is a user of the volume like any other, and is killed
//! with them when the volume is lost (`openers`): what it was told of its writes, nobody hears then. What is saved is whole, flushed on every copy, and fits to the
//! disks: QEMU stands still, has flushed them, and is not let run before the ledger says so. What is on the volume, or may be, and is whole and of what runs here, is wiped before that runs ([`Watched::may_be_saved`]),
//! beside the ledger's saying that it is used up, or not saved: so it is loaded by nobody a second time, and never onto later disks.
//!
//! On failure: what can't be saved runs on when the ledger says so. What is saved and not whole, or another run's, is told as spoilt: it boots from its disks. Whatever else fails is tried again.

use super::super::VolumesError;
use super::super::place::Place;
use super::super::shell::blocking;
use super::one::{One, Order, Seen, has_its_disks};
use super::tell;
use ::vm::instance::{InstanceError, Phase, Sending};
use ::vm::machine::Role;
use ::vm::saved::{self, HEADER_MAX, Header, SavedError};
use control::vm::runner::Event;
use control::vm::{How, WhyNotSaved};
use model::{Generation, SaveTry, VolumeId};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How long users may take to be let in to the volume, or an earlier try to end, and how often that is looked at.
const OPEN_MAX: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How long saving or loading may take with hardly any memory, and how much more of it there may be for each second beyond.
const FEW_BYTES_MAX: Duration = Duration::from_mins(1);
const BYTES_A_SECOND_MIN: u64 = 8 << 20;

fn bound(memory_bytes: u64) -> Duration {
    FEW_BYTES_MAX + Duration::from_secs(memory_bytes / BYTES_A_SECOND_MIN)
}

/// Opens the volume. Control orders that users are let in and what needs that in one step: it is waited for, a little.
async fn open(place: &Arc<Place>, volume: VolumeId) -> Result<saved::Place, VolumesError> {
    let deadline = Instant::now() + OPEN_MAX;
    loop {
        match open_once(place, volume).await {
            Err(error) if is_passing(&error) && Instant::now() < deadline => sleep(LOOK_AGAIN).await,
            done => return done,
        }
    }
}

fn is_passing(error: &VolumesError) -> bool {
    match error {
        VolumesError::NotHere(_) => true,
        VolumesError::Vm(error) => matches!(**error, InstanceError::Saved(SavedError::Busy { .. })),
        _ => false,
    }
}

async fn open_once(place: &Arc<Place>, volume: VolumeId) -> Result<saved::Place, VolumesError> {
    let device = device(place, volume).await?;
    let mut keeper = Command::new("/proc/self/exe");
    keeper.arg("--keep-memory").arg(&device);
    let opened = within(saved::Place::open(&device, keeper)).await?;
    // Its number may have been given to another device before it was opened; from then on it is not.
    if self::device(place, volume).await? == device { Ok(opened) } else { Err(VolumesError::NotHere(volume)) }
}

/// What is asked of the volume, if it is done soon.
async fn within<T, E: Into<VolumesError>>(
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, VolumesError> {
    let late = || InstanceError::Late { what: "the volume for its memory", bound: HEADER_MAX };
    timeout(HEADER_MAX, asked).await.map_err(|_| late())?.map_err(Into::into)
}

async fn device(place: &Arc<Place>, volume: VolumeId) -> Result<PathBuf, VolumesError> {
    let place = Arc::clone(place);
    blocking(move || place.own_engine()?.top(volume)?.ok_or(VolumesError::NotHere(volume))).await
}

/// The process that has the device open ([`saved::keep`]), until whoever began it has no more to do.
pub(super) fn keep(device: &Path) -> std::io::Result<()> {
    saved::keep(device)
}

impl One {
    /// Saves its memory, and says what has come of it. It stands still then, or runs; what becomes of it is the ledger's. The next order, if one comes meanwhile, breaks it off,
    /// and is left for later.
    pub(super) async fn save(
        &mut self,
        named: Generation,
        which: SaveTry,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Seen {
        let (begun, mut next) = (Instant::now(), None);
        let ran = self.of(named).is_some_and(|watched| watched.runs);
        let saved = self.save_memory(named, which, next_order(orders, &mut next)).await;
        self.next = next;
        let event = match saved {
            Ok(Some(header)) => {
                let (bytes, ms) = (header.bytes, begun.elapsed().as_millis());
                info!("{} in {named} is saved by {which}: {bytes} bytes after {ms} ms", self.id);
                Event::Saved(self.id, named, which, bytes)
            }
            Ok(None) => return Ok(None),
            Err(error) => {
                warn!("{} in {named} can't be saved by {which}: {}", self.id, crate::chain(&error));
                let Some(watched) = self.of(named) else { return Ok(None) };
                // Whatever QEMU was asked when that was broken off, it does first.
                let phase = watched.instance.come_to_rest().await?;
                if phase == Phase::Off {
                    return Ok(Some(How::PoweredOff));
                }
                // One that runs on goes on after a disk's error, as before.
                watched.runs = phase == Phase::Running || ran && phase == Phase::DiskError;
                Event::NotSaved(self.id, named, which, why_not(&error))
            }
        };
        tell(&self.shared.told, event);
        Ok(None)
    }

    async fn save_memory(
        &mut self,
        named: Generation,
        which: SaveTry,
        broken_off: impl Future<Output = ()>,
    ) -> Result<Option<Header>, VolumesError> {
        let vm = self.known()?;
        let volume = vm.spec.saves_to.ok_or(VolumesError::NowhereToSave(self.id))?;
        let id = self.id;
        let Some(watched) = self.of(named) else { return Ok(None) };
        if watched.is_not_sent_any_more().await? {
            info!("{id} is not sent any more, and is saved");
        }
        let phase = watched.instance.phase().await?;
        match phase {
            Phase::Running => {}
            // An earlier run of the agent has saved it, or was about to. It may have to run for a moment.
            Phase::Still | Phase::Sent => {
                let disks = self.lead_to_volumes(&vm).await?;
                let Some(watched) = self.of(named) else { return Ok(None) };
                has_its_disks(watched.instance.process().pid(), disks).await?;
            }
            _ => return Err(InstanceError::Phase { phase, what: "saved" }.into()),
        }
        let mut broken_off = pin!(broken_off);
        let mut place = tokio::select! {
            biased;
            () = broken_off.as_mut() => return Err(SavedError::BrokenOff.into()),
            opened = open(&self.shared.place, volume) => opened?,
        };
        let Some(watched) = self.of(named) else { return Ok(None) };
        watched.runs = false;
        let bound = bound(vm.spec.memory_bytes);
        let saved = saved::save(&mut watched.instance, &mut place, which, bound, broken_off).await;
        watched.may_be_saved = place.may_hold().unwrap_or(watched.may_be_saved);
        Ok(Some(saved?))
    }

    /// Loads what was saved into one that has just been started for that.
    pub(super) async fn load(&mut self, named: Generation) -> Seen {
        let vm = self.known()?;
        let volume = vm.spec.saves_to.ok_or(VolumesError::NowhereToSave(self.id))?;
        let Some(saved_in) = vm.saved else {
            return Err(VolumesError::AtOdds("the ledger does not say what was saved".to_owned()));
        };
        let (id, begun, which) = (self.id, Instant::now(), vm.saves);
        let mut place = open(&self.shared.place, volume).await?;
        let Some(watched) = self.of(named) else { return Ok(None) };
        watched.may_be_saved = true;
        let bound = bound(vm.spec.memory_bytes);
        match saved::load(&mut watched.instance, &mut place, (saved_in, which), bound).await {
            Ok(header) => {
                let (bytes, ms) = (header.bytes, begun.elapsed().as_millis());
                info!(
                    "{id} in {named} stands still with what was saved in {saved_in} by {which}: {bytes} bytes after {ms} ms"
                );
                Ok(None)
            }
            Err(InstanceError::Saved(why)) if why.is_final() => {
                warn!("{id} boots from its disks: what was saved of it in {saved_in} can't be used: {why}");
                Ok(Some(How::Spoilt))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Wipes what is saved of one that is about to run, if anything is; whether that could be done. Else it does not run with what it has in memory.
    pub(super) async fn is_used_up(&self, volume: Option<VolumeId>) -> bool {
        match self.use_up(volume).await {
            Ok(()) => true,
            Err(error) => {
                let why = crate::chain(&error);
                warn!("{} boots from its disks: what is saved of it can't be wiped: {why}", self.id);
                false
            }
        }
    }

    async fn use_up(&self, volume: Option<VolumeId>) -> Result<(), VolumesError> {
        let volume = volume.ok_or(VolumesError::NowhereToSave(self.id))?;
        let mut place = open(&self.shared.place, volume).await?;
        within(place.use_up(self.id)).await
    }
}

/// Why one could not be saved, as the ledger has it.
fn why_not(error: &VolumesError) -> WhyNotSaved {
    match error {
        VolumesError::NotHere(_) => WhyNotSaved::Volume,
        VolumesError::Vm(error) => match &**error {
            InstanceError::Saved(SavedError::BrokenOff) => WhyNotSaved::Unwanted,
            // It waits for what an earlier try has begun to write.
            InstanceError::Saved(SavedError::Busy { .. }) | InstanceError::Late { .. } => WhyNotSaved::Late,
            InstanceError::Saved(_) => WhyNotSaved::Volume,
            _ => WhyNotSaved::Machine,
        },
        _ => WhyNotSaved::Machine,
    }
}

/// Whether one that an earlier run of the agent has left may be on its volume, whole: it was restored and has not run, or has sent all of it. What was about to be sent has run.
pub(super) fn may_be_saved(phase: Phase, role: Role, sending: &Sending) -> bool {
    let restored = role == Role::Restore && !matches!(sending, Sending::Failed(_));
    phase == Phase::Sent || (restored && phase != Phase::Running)
}

/// The next order that means something to one that is being saved: whatever it is, saving is not what is wanted any more.
async fn next_order(orders: &mut mpsc::UnboundedReceiver<Order>, next: &mut Option<Order>) {
    loop {
        match orders.recv().await {
            // Nothing is received by what runs.
            Some(Order::Received(_, answer)) => drop(answer.send(false)),
            order => {
                *next = order;
                return;
            }
        }
    }
}

impl From<SavedError> for VolumesError {
    fn from(error: SavedError) -> Self {
        InstanceError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_waited_for() {
        let path = PathBuf::from("/dev/dm-7");
        assert!(is_passing(&VolumesError::NotHere(VolumeId(3))));
        assert!(is_passing(&SavedError::Busy { path: path.clone() }.into()));
        assert!(!is_passing(&SavedError::Damaged { path }.into()));
    }

    #[test]
    fn why_it_was_not_saved_is_told() {
        let path = PathBuf::from("/dev/dm-7");
        let late = InstanceError::Late { what: "saving", bound: FEW_BYTES_MAX };
        for (error, why) in [
            (SavedError::BrokenOff.into(), WhyNotSaved::Unwanted),
            (late.into(), WhyNotSaved::Late),
            (SavedError::Busy { path: path.clone() }.into(), WhyNotSaved::Late),
            (SavedError::Ended { path }.into(), WhyNotSaved::Volume),
            (VolumesError::NotHere(VolumeId(3)), WhyNotSaved::Volume),
            (InstanceError::Phase { phase: Phase::Broken, what: "saved" }.into(), WhyNotSaved::Machine),
        ] {
            assert_eq!(why_not(&error), why, "{error}");
        }
    }

    #[test]
    fn what_is_left_is_wiped_before_it_runs_only_if_it_may_be_saved() {
        let (done, failed) = (Sending::Done, Sending::Failed("cancelled".to_owned()));
        assert!(may_be_saved(Phase::Sent, Role::Run, &done));
        assert!(may_be_saved(Phase::Still, Role::Restore, &done), "it was restored, and has not run");
        assert!(!may_be_saved(Phase::Still, Role::Restore, &failed), "it has run, and was wiped before that");
        assert!(!may_be_saved(Phase::Running, Role::Restore, &done));
        assert!(!may_be_saved(Phase::Still, Role::Incoming, &done));
        assert!(!may_be_saved(Phase::New, Role::Run, &Sending::Not));
    }

    #[tokio::test]
    async fn the_next_order_breaks_saving_off_and_is_kept() {
        let (order, mut orders) = mpsc::unbounded_channel();
        let (answer, answered) = tokio::sync::oneshot::channel();
        order.send(Order::Received(Generation(3), answer)).unwrap();
        let mut next = None;
        let waits = timeout(LOOK_AGAIN, next_order(&mut orders, &mut next)).await;
        assert!(waits.is_err() && next.is_none(), "a peer breaks nothing off");
        assert!(!answered.await.unwrap());
        order.send(Order::Resume(Generation(3))).unwrap();
        next_order(&mut orders, &mut next).await;
        assert!(matches!(next, Some(Order::Resume(Generation(3)))));
    }

    #[test]
    fn much_memory_has_more_time() {
        assert_eq!(bound(1), FEW_BYTES_MAX);
        assert_eq!(bound(64 << 30), FEW_BYTES_MAX + Duration::from_secs(8192));
    }
}
