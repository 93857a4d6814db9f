//! A node of a dissolved cluster, or one that has left its cluster, gives back what it had: its drives become blank, and nothing of the ledger stays.
//!
//! Invariants: only what the node's own ledger says is acted on, and only what is never taken back: that the cluster is dissolved, and then nothing may lie on any drive; or that this node has left (`control::leaving`), and then nothing may lie on a
//! drive that the ledger does not know. A drive is this cluster's by its header, and no other is touched. The ledger goes last: as long as it is there, whoever was interrupted is asked again and goes on.
//!
//! On failure: [`VolumesError`]; what was given back stays so, and the node can be asked again.

use super::shell::blocking;
use super::{CONFIRM_LIMIT, Volumes, VolumesError, lives, openers, place};
use crate::inventory;
use api::{DrivesGivenBack, GiveUpRequest};
use control::State;
use ledger::Role;
use model::{DriveId, DriveSerial};
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
        // No drive is being claimed meanwhile, nor is one once this has looked: the ledger knows none of this node.
        let _alone = running.place.claims.lock().await;
        let own = running.ledger.identity();
        if (own.node, own.incarnation) != (request.node, request.incarnation) {
            return Err(VolumesError::OtherLedger { node: own.node, incarnation: own.incarnation });
        }
        let mut state = Arc::clone(&running.ledger.state().borrow());
        if !state.dissolved {
            // A drive that others have lost may be in this node by now: what they have said of it until now is known then.
            running.ledger.caught_up(CONFIRM_LIMIT).await?;
            state = Arc::clone(&running.ledger.state().borrow());
            let status = running.ledger.status();
            if !state.has_left(own.node) || status.voters.contains(&own.node) {
                return Err(VolumesError::NotLeft);
            }
            if status.role == Role::Leader {
                return Err(VolumesError::Leads);
            }
        }
        let place = Arc::clone(&running.place);
        let drives = blocking(move || {
            let engine = place.engine(&state)?;
            openers::kill_all(&engine)?;
            engine.remove_idle_disks()?;
            // What another has taken is taken down by control, which does not know of it any more once the ledger is gone.
            let standing = engine.standing()?;
            if !standing.is_empty() {
                return Err(VolumesError::Standing(standing));
            }
            engine.withdraw()?;
            let is_nobodys = |drive| is_nobodys(&state, drive);
            give_drives_back(&engine, inventory::drives().into_iter().map(|drive| drive.serial), is_nobodys)
        })
        .await?;
        running.watch.abort();
        running.ledger.close().await;
        let (folder, rest) = (self.folder(), self.store.directory().to_owned());
        let removed = tokio::task::spawn_blocking(move || remove(&folder, &rest)).await;
        // Whether it is removed or not: this run has none that works. Before that it must not end.
        self.begin_anew();
        removed?.map_err(VolumesError::Remove)?;
        info!("nothing of the cluster is left here; drives given back: {drives:?}");
        Ok(DrivesGivenBack { drives })
    }
}

/// Whether nothing may lie on a drive of the pool: it has left that, and was given out before.
fn is_nobodys(state: &State, drive: DriveId) -> bool {
    state.dissolved || (drive <= state.minted.drive && !state.drives.contains_key(&drive))
}

/// Whoever has the answer knows which drives were this cluster's. One that can't be read says nothing of whose it is, and is let alone: it was told before. One that is this cluster's and can't be made blank is an error.
fn give_drives_back(
    engine: &Engine,
    serials: impl Iterator<Item = DriveSerial>,
    is_nobodys: impl Fn(DriveId) -> bool,
) -> Result<Vec<DriveSerial>, VolumesError> {
    let mut given = Vec::new();
    for serial in serials {
        let Ok(device) = engine.drive(&serial) else { continue };
        match engine.of_cluster(&device) {
            Ok(None) => {}
            Ok(Some(drive)) if !is_nobodys(drive) => {
                warn!("drive {serial} is {drive}, which the cluster has elsewhere, and is let alone");
            }
            Ok(Some(_)) => {
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
    use control::ClusterCommand;

    #[test]
    fn only_what_the_ledger_no_longer_has_is_nobodys() {
        let mut state = State::new(control::state::Settings::default());
        let does = |state: &mut State, command| {
            state.apply(&control::Command::Cluster(command)).unwrap();
        };
        let (name, zone) = ("a1".parse().unwrap(), Some("a".parse().unwrap()));
        does(&mut state, ClusterCommand::AddNode { name, zone });
        for serial in ["S1", "S2"] {
            let (node, serial) = (model::NodeId(1), serial.parse().unwrap());
            let (cache, power_cycles) = (control::state::Cache::Safe, model::PowerCycles(0));
            does(
                &mut state,
                ClusterCommand::AddDrive { node, serial, size_bytes: 1 << 30, cache, power_cycles },
            );
        }
        does(&mut state, ClusterCommand::RemoveDrive(DriveId(1)));
        assert_eq!([1, 2, 3].map(|drive| is_nobodys(&state, DriveId(drive))), [true, false, false]);
        let nodes = state.nodes.keys().copied().collect();
        does(&mut state, ClusterCommand::Dissolve { nodes });
        assert!([1, 2, 3].iter().all(|drive| is_nobodys(&state, DriveId(*drive))));
    }

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
