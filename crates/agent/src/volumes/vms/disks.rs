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
use std::sync::{Arc, Mutex, PoisonError};
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

/// The disks of one virtual machine.
#[derive(Debug, Clone)]
pub(super) struct Disks {
    place: Arc<Place>,
    /// How often they were removed: what was begun before and comes late, since nobody waits for it any more, does nothing.
    removed: Arc<Mutex<u64>>,
}

impl Disks {
    pub(super) fn new(place: Arc<Place>) -> Self {
        Self { place, removed: Arc::default() }
    }

    /// Makes the disks of these volumes, of so many bytes each, or has those that are there lead elsewhere. Control orders that users are let in to a volume and what is to
    /// be led there in one step: it is waited for, a little.
    pub(super) async fn lead(
        &self,
        volumes: Vec<(VolumeId, u64)>,
        lead: Lead,
    ) -> Result<Vec<Disk>, VolumesError> {
        let deadline = Instant::now() + LET_IN_MAX;
        loop {
            match self.lead_once(volumes.clone(), lead).await {
                Err(VolumesError::NotHere(_)) if Instant::now() < deadline => sleep(LOOK_AGAIN).await,
                done => return done,
            }
        }
    }

    async fn lead_once(&self, volumes: Vec<(VolumeId, u64)>, lead: Lead) -> Result<Vec<Disk>, VolumesError> {
        self.in_turn(move |engine| {
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
    pub(super) async fn part(&self, volumes: Vec<VolumeId>) -> Result<(), VolumesError> {
        self.in_turn(move |engine| Ok(volumes.into_iter().try_for_each(|volume| engine.part_disk(volume))?))
            .await
    }

    /// Removes disks; one that somebody has open stays.
    pub(super) async fn remove(&self, volumes: Vec<VolumeId>) -> Result<(), VolumesError> {
        let busy = |error: &StepError| matches!(error, StepError::Dm(error) if error.errno == Errno::BUSY);
        let (place, removed) = (Arc::clone(&self.place), Arc::clone(&self.removed));
        blocking(move || {
            let engine = place.own_engine()?;
            let mut removed = removed.lock().unwrap_or_else(PoisonError::into_inner);
            *removed += 1;
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

    /// Does something, unless they have been removed since it was begun.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T, VolumesError> + Send + 'static,
    ) -> Result<T, VolumesError> {
        let (place, removed) = (Arc::clone(&self.place), Arc::clone(&self.removed));
        let begun = *removed.lock().unwrap_or_else(PoisonError::into_inner);
        blocking(move || {
            let engine = place.own_engine()?;
            let removed = removed.lock().unwrap_or_else(PoisonError::into_inner);
            if *removed != begun {
                return Err(VolumesError::Ended);
            }
            work(&engine)
        })
        .await
    }
}

/// Removes all disks that nobody has open: at the start, when no machine is being made.
pub(super) async fn remove_idle(place: &Arc<Place>) -> Result<(), VolumesError> {
    let place = Arc::clone(place);
    blocking(move || Ok(place.own_engine()?.remove_idle_disks()?)).await
}
