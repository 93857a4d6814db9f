//! The disks of a virtual machine's process on this node ([`storage::kernel::Engine::lead_disk`]), each in front of one of its volumes.
//!
//! On failure: [`VolumesError`]; some may be as they are to be, and it can be asked again.

use super::super::VolumesError;
use super::super::place::Place;
use super::super::shell::blocking;
use ::vm::machine::Disk;
use model::VolumeId;
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use storage::kernel::{Engine, StepError};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// How long users may take to be let in to a volume, after that was ordered, and how often it is looked whether they are.
const LET_IN_MAX: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where disks lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lead {
    /// To the volumes, which are open here.
    Volume,
    /// Nowhere: the volumes are not here.
    Nowhere,
}

/// Makes the disks of these volumes, of so many bytes each, or has those that are there lead elsewhere. Control orders that users are let in to a volume and what is to
/// be led there in one step: it is waited for, a little.
pub(super) async fn lead(
    place: &Arc<Place>,
    volumes: Vec<(VolumeId, u64)>,
    lead: Lead,
) -> Result<Vec<Disk>, VolumesError> {
    let deadline = Instant::now() + LET_IN_MAX;
    loop {
        match lead_once(place, volumes.clone(), lead).await {
            Err(VolumesError::NotHere(_)) if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
            done => return done,
        }
    }
}

async fn lead_once(
    place: &Arc<Place>,
    volumes: Vec<(VolumeId, u64)>,
    lead: Lead,
) -> Result<Vec<Disk>, VolumesError> {
    with(place, move |engine| {
        let disk = |(volume, bytes)| {
            let made: Result<PathBuf, StepError> = match lead {
                Lead::Volume => engine.lead_disk(volume),
                Lead::Nowhere => engine.hold_disk(volume, bytes),
            };
            let path = match made {
                Err(StepError::Missing { .. }) => return Err(VolumesError::NotHere(volume)),
                made => made?,
            };
            Ok(Disk { path, serial: volume.to_string() })
        };
        volumes.into_iter().map(disk).collect()
    })
    .await
}

/// Takes the volumes away from their disks: they can be closed.
pub(super) async fn part(place: &Arc<Place>, volumes: Vec<VolumeId>) -> Result<(), VolumesError> {
    with(place, move |engine| Ok(volumes.into_iter().try_for_each(|volume| engine.part_disk(volume))?)).await
}

/// Removes disks; one that somebody has open stays.
pub(super) async fn remove(place: &Arc<Place>, volumes: Vec<VolumeId>) -> Result<(), VolumesError> {
    let busy = |error: &StepError| matches!(error, StepError::Dm(error) if error.errno == Errno::BUSY);
    with(place, move |engine| {
        for volume in volumes {
            match engine.remove_disk(volume) {
                Err(error) if busy(&error) => warn!("the disk of {volume} is open yet: it stays"),
                removed => removed?,
            }
        }
        Ok(())
    })
    .await
}

/// Removes all disks that nobody has open: at the start, when no machine is being made.
pub(super) async fn remove_idle(place: &Arc<Place>) -> Result<(), VolumesError> {
    with(place, |engine| Ok(engine.remove_idle_disks()?)).await
}

async fn with<T: Send + 'static>(
    place: &Arc<Place>,
    work: impl FnOnce(&Engine) -> Result<T, VolumesError> + Send + 'static,
) -> Result<T, VolumesError> {
    let place = Arc::clone(place);
    blocking(move || work(&place.own_engine()?)).await
}
