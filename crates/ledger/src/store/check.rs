//! Whether what a store holds is what was written, all of it, and fits together.
//!
//! redb has verified its pages by then. What is left: every record has its checksum and can be read; the store says whose it is;
//! the log has no hole; the snapshot reaches to where the log begins.

use super::record::{self, LOG, META, Meta};
use super::{Fault, StoreError};
use crate::machine::Machine;
use crate::types::{Entry, Identity, LogId, SnapshotMeta, Vote};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable};
use std::io;
use std::path::Path;

/// The format of all records. Grows when an older program could not read them, or would read them wrongly.
pub(super) const FORMAT: u32 = 4;

/// What was found.
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) purged: Option<LogId>,
    pub(super) covered: Option<LogId>,
}

/// Why redb did not open a file.
pub(super) fn refused(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        error => failed(path, "open", error.into()),
    }
}

/// A fault as an error that names the file: what contradicts itself is damaged, all else is the disk's or the program's.
pub(crate) fn failed(path: &Path, what: &'static str, fault: Fault) -> StoreError {
    let path = path.to_owned();
    match fault {
        Fault::Damaged(what) => StoreError::Damaged { path, what },
        Fault::Database(error) => match *error {
            // What redb says of a file that is cut off or not its own.
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                StoreError::Damaged { path, what: error.to_string() }
            }
            redb::Error::Io(source) => StoreError::Io { path, what, source },
            // What it says of tables that are none, or not of our types: this file was never ours.
            error @ (redb::Error::Corrupted(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::UpgradeRequired(_)
            | redb::Error::RepairAborted) => StoreError::Damaged { path, what: error.to_string() },
            error => StoreError::Database { path, what, source: Box::new(error) },
        },
        fault @ (Fault::Encode(_) | Fault::Gone) => StoreError::Damaged { path, what: fault.to_string() },
    }
}

/// Reads all of it.
pub(super) fn check(db: &Database, path: &Path) -> Result<Found, StoreError> {
    let format = format(db).map_err(|fault| failed(path, "read", fault))?;
    if format != FORMAT {
        return Err(StoreError::OtherFormat { path: path.to_owned(), found: format, known: FORMAT });
    }
    records(db).map_err(|fault| failed(path, "read", fault))
}

fn format(db: &Database) -> Result<u32, Fault> {
    let txn = db.begin_read()?;
    record::get(&txn.open_table(META)?, Meta::Format)?.ok_or_else(|| damaged("it has no format"))
}

fn records(db: &Database) -> Result<Found, Fault> {
    let txn = db.begin_read()?;
    let (meta, log) = (txn.open_table(META)?, txn.open_table(LOG)?);
    let identity: Identity =
        record::get(&meta, Meta::Identity)?.ok_or_else(|| damaged("it does not say whose it is"))?;
    record::get::<Vote>(&meta, Meta::Vote)?;
    let purged: Option<LogId> = record::get(&meta, Meta::Purged)?;
    let committed: Option<LogId> = record::get(&meta, Meta::Committed)?;
    let snapshot: Option<SnapshotMeta> = record::get(&meta, Meta::Snapshot)?;
    if snapshot.is_some() != record::get::<Machine>(&meta, Meta::Contents)?.is_some() {
        return Err(damaged("its snapshot is not whole"));
    }
    let covered = snapshot.and_then(|snapshot| snapshot.last_log_id);
    if covered < purged {
        return Err(damaged("its log begins behind its snapshot"));
    }
    let mut next = purged.map_or(0, |purged| purged.index + 1);
    for found in log.iter()? {
        let (index, bytes) = found?;
        let entry: Entry = record::entry(index.value(), bytes.value())?;
        if index.value() != next || entry.log_id.index != next {
            return Err(damaged(&format!("entry {next} is missing")));
        }
        next += 1;
    }
    let reaches = next.max(covered.map_or(0, |covered| covered.index + 1));
    if committed.is_some_and(|committed| committed.index >= reaches) {
        return Err(damaged("entries that were committed are missing"));
    }
    Ok(Found { identity, purged, covered })
}

fn damaged(what: &str) -> Fault {
    Fault::Damaged(what.to_owned())
}
