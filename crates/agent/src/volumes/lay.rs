//! Slabs that a leg got when its volume grew, filled with zeros: in a task of its own, which a fence ends.
//!
//! Invariants: only slabs behind all that is mapped of the leg are written, on a drive whose header says that it is the ledger's. Once [`Laying::end`] has
//! returned nothing of it is in flight: the slabs may be another's then.
//!
//! On failure: control is told, and orders it again.

use super::VolumesError;
use super::place::Place;
use super::shell::{Ledgers, Told, blocking};
use control::State;
use control::member::Input;
use control::target::{Event, LegOf};
use model::{DriveId, DriveSerial};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use storage::kernel::{Engine, StepError};
use storage::slab::{pieces, split};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How long what was given to the drive may take before somebody is told.
const END_BOUND: Duration = Duration::from_secs(10);

/// A leg of which slabs are being filled.
#[derive(Debug)]
pub(super) struct Laying {
    leg: LegOf,
    ends: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Laying {
    /// `filled` is called when these slabs of the leg are durably zeros.
    pub(super) fn begin(
        (place, ledger, told): (Arc<Place>, Ledgers, Told),
        leg: LegOf,
        slabs: Range<u64>,
        filled: impl FnOnce() + Send + 'static,
    ) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let task = tokio::spawn(async move {
            let asked = Arc::clone(&ended);
            let goes_on = move || !asked.load(Ordering::SeqCst);
            match blocking(move || fill(&place, &ledger.now(), leg, slabs, goes_on)).await {
                Ok(true) => filled(),
                Ok(false) => info!("the slabs of {leg:?} are not filled: it is fenced"),
                Err(error) => {
                    warn!("can't fill the slabs of {leg:?} yet: {}", crate::chain(&error));
                    if !ended.load(Ordering::SeqCst) {
                        sleep(TRY_AGAIN).await;
                        told.tell(Input::Target(Event::NotLaid(leg)));
                    }
                }
            }
        });
        Self { leg, ends, task }
    }

    /// Returns when nothing of it is in flight. One stretch may be: it is not written to what is mapped, but these slabs may be freed after a fence.
    pub(super) async fn end(mut self) {
        self.ends.store(true, Ordering::SeqCst);
        while timeout(END_BOUND, &mut self.task).await.is_err() {
            warn!("zeros for {:?} have been in flight for {END_BOUND:?}", self.leg);
        }
    }
}

/// The device of a drive of this node, if it is the ledger's drive: what another holds may be somebody's.
pub(super) fn claimed(
    engine: &Engine,
    place: &Place,
    drive: DriveId,
    serial: &DriveSerial,
) -> Result<PathBuf, VolumesError> {
    let device = engine.drive(serial)?;
    let is_ours = engine.is_claimed(&device, place.header(drive))?;
    if is_ours { Ok(device) } else { Err(VolumesError::NotClaimed(serial.clone())) }
}

fn fill(
    place: &Place,
    state: &State,
    leg: LegOf,
    slabs: Range<u64>,
    goes_on: impl Fn() -> bool,
) -> Result<bool, VolumesError> {
    let gone = || StepError::Missing { what: format!("slabs {slabs:?} of {leg:?} in the ledger") };
    let found = state.volumes.get(&leg.0).and_then(|volume| volume.legs.get(&leg.1));
    let found = found.filter(|found| found.slabs() >= slabs.end).ok_or_else(gone)?;
    let (until, _) = split(&found.extents, slabs.end);
    let (_, new) = split(&until, slabs.start);
    if new.is_empty() {
        return Ok(true);
    }
    let drive = state.drives.get(&found.drive).ok_or_else(gone)?;
    let engine = place.own_engine()?;
    let device = claimed(&engine, place, found.drive, &drive.serial)?;
    engine.turn_cache_off(&device)?;
    Ok(engine.fill(&device, &pieces(&new), goes_on)?)
}
