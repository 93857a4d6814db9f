//! A node of a dissolved cluster gives back what it had: its drives become blank, and nothing of the ledger stays.
//!
//! Invariants: only what the node's own ledger says is acted on: that the cluster is dissolved, which is never taken back, and then nothing may lie on any drive. A drive is this cluster's by its header, and no other is
//! touched. The ledger goes last: as long as it is there, whoever was interrupted is asked again and goes on.
//!
//! On failure: [`VolumesError`]; what was given back stays so, and the node can be asked again.

use super::shell::blocking;
use super::{Volumes, VolumesError, lives, openers, place};
use crate::inventory;
use api::{DrivesGivenBack, GiveUpRequest};
use model::DriveSerial;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use storage::kernel::Engine;
use tracing::{info, warn};

impl Volumes {
    /// Gives everything back; the next run of the agent has no ledger.
    pub(crate) async fn give_back(&self, request: GiveUpRequest) -> Result<DrivesGivenBack, VolumesError> {
        let running = self.running()?;
        // No drive is being claimed meanwhile, nor is one once this has looked: a dissolved ledger knows none.
        let _alone = running.place.claims.lock().await;
        let own = running.ledger.identity();
        if (own.node, own.incarnation) != (request.node, request.incarnation) {
            return Err(VolumesError::OtherLedger { node: own.node, incarnation: own.incarnation });
        }
        let state = Arc::clone(&running.ledger.state().borrow());
        if !state.dissolved {
            return Err(VolumesError::NotDissolved);
        }
        let place = Arc::clone(&running.place);
        let drives = blocking(move || {
            let engine = place.engine(&state)?;
            openers::kill_all(&engine)?;
            engine.withdraw()?;
            give_drives_back(&engine, inventory::drives().into_iter().map(|drive| drive.serial))
        })
        .await?;
        running.watch.abort();
        running.ledger.close().await;
        let (folder, rest) = (self.folder(), self.store.directory().to_owned());
        let removed = tokio::task::spawn_blocking(move || remove(&folder, &rest)).await;
        // Whether it is removed or not: this run has none that works. Before that it must not end.
        self.begin_anew();
        removed?.map_err(VolumesError::Remove)?;
        info!("the cluster is dissolved: nothing of it is left here; drives given back: {drives:?}");
        Ok(DrivesGivenBack { drives })
    }
}

/// Whoever has the answer knows which drives were this cluster's. One that can't be read says nothing of whose it is, and is let alone: it was told before. One that is this cluster's and can't be made blank is an error.
fn give_drives_back(
    engine: &Engine,
    serials: impl Iterator<Item = DriveSerial>,
) -> Result<Vec<DriveSerial>, VolumesError> {
    let mut given = Vec::new();
    for serial in serials {
        let Ok(device) = engine.drive(&serial) else { continue };
        match engine.is_of_cluster(&device) {
            Ok(false) => {}
            Ok(true) => {
                engine.give_back(&device)?;
                given.push(serial);
            }
            Err(error) => warn!("drive {serial} can't be read, and is let alone: {}", crate::chain(&error)),
        }
    }
    Ok(given)
}

/// What was left half removed.
pub(super) fn tidy(ledger: &Path) -> io::Result<()> {
    unless_gone(fs::remove_dir_all(ledger.with_extension("gone")))
}

fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// The ledger first, by one rename: without it floors and lives of drives say nothing, and with it they must be there.
fn remove(ledger: &Path, rest: &Path) -> io::Result<()> {
    tidy(ledger)?;
    unless_gone(fs::rename(ledger, ledger.with_extension("gone")))?;
    File::open(rest)?.sync_all()?;
    for file in [place::FILE, lives::FILE] {
        unless_gone(fs::remove_file(rest.join(file)))?;
    }
    tidy(ledger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_ledger_stays_and_what_was_half_removed_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (ledger, other) = (directory.path().join("ledger"), directory.path().join("network.json"));
        let fill = |folder: &Path| {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join(::ledger::FILE), "x").unwrap();
        };
        fill(&ledger);
        fill(&ledger.with_extension("gone"));
        for file in [place::FILE, lives::FILE] {
            fs::write(directory.path().join(file), "x").unwrap();
        }
        fs::write(&other, "x").unwrap();
        remove(&ledger, directory.path()).unwrap();
        let left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [other]);
        remove(&ledger, directory.path()).unwrap();
    }
}
