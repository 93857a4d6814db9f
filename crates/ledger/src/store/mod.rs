//! The store: one redb file with Raft's vote and log, the latest snapshot, and whose it is.
//!
//! Purpose: what was acknowledged is there after a power cut, and what is not as it was written is not used.
//!
//! Invariants: every record carries a checksum over its table, key and content; at opening redb's own page checksums are verified,
//! then every record, then that they fit together ([`check`]). Commits are redb's two-phase ones: with one-phase commits redb takes
//! a damaged last commit for one that was under way, and goes back to the one before it without a word, which for a vote or an
//! acknowledged entry is losing it. The log is purged no further than a durable snapshot reaches: openraft orders a purge and the
//! installation that allows it side by side.
//!
//! On failure: [`StoreError`] names the file and says what to do. A write that fails stops the node's Raft: what is on disk is
//! what was acknowledged.

mod check;
mod log;
mod record;
mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use check::failed;
pub(crate) use snapshot::Applier;

use crate::bug::Bugs;
use crate::machine::Machine;
use crate::types::{Entry, Identity, LogId, SnapshotMeta, StoredMembership, Vote};
use record::{LOG, META, Meta};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, WriteTransaction};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The store's file in the directory that it is given.
pub const FILE: &str = "ledger.redb";

/// redb's cache. The whole store is a few megabytes, and openraft reads what it has just written.
const CACHE_BYTES: usize = 1 << 20;

/// Why there is no ledger to open.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no file.
    #[error(
        "there is no ledger at {}: if this node never had one, let it join with a token; if it had, its state is lost: \
         let it join with a token, under a new id, and it is made again from the others", path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is one where a new one was to be made.
    #[error("there is a ledger at {} already: open it, or set it aside first if it is to be given up", path.display())]
    AlreadyThere {
        /// Where.
        path: PathBuf,
    },
    /// What is there is not what was written.
    #[error(
        "the ledger at {} is damaged ({what}) and is not used. The other nodes have all of it: set this one aside and let \
         the node join again with a token, under a new id", path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another process, or this one, has it open.
    #[error("the ledger at {} is in use: only one agent may run on a node", path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// It is of another version of this program.
    #[error("the ledger at {} has format {found}, and this program knows {known}: use the program that wrote it", path.display())]
    OtherFormat {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The file can't be read or written.
    #[error("can't {what} the ledger at {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// redb can't.
    #[error("can't {what} the ledger at {}", path.display())]
    Database {
        /// Which file.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<redb::Error>,
    },
}

/// Why a read or write failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the ledger's store failed")]
    Database(#[source] Box<redb::Error>),
    #[error("the ledger's store: {0}")]
    Damaged(String),
    #[error("can't be written as JSON")]
    Encode(#[source] serde_json::Error),
    #[error("the store's thread is gone")]
    Gone,
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// Where the work is done: redb waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// On tokio's blocking threads.
    Threads,
    /// Here: the simulation's disks are memory, and threads would make it another one each time.
    #[cfg(any(test, feature = "sim"))]
    Here,
}

/// What a store begins with when it is not a joiner's: the founder's, or forced quorum's.
pub(crate) struct Beginning {
    pub(crate) machine: Machine,
    pub(crate) membership: StoredMembership,
    pub(crate) last: LogId,
    pub(crate) vote: Vote,
}

/// What a store holds of the ledger.
#[derive(Debug, PartialEq)]
pub(crate) struct Contents {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) snapshot: Option<(SnapshotMeta, Machine)>,
    pub(crate) entries: Vec<Entry>,
}

/// An open store. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    db: Arc<Database>,
    work: Work,
    bugs: Bugs,
    /// Up to where openraft has purged; the file follows as soon as a snapshot reaches there.
    purged: Arc<Mutex<Option<LogId>>>,
    /// Up to where the snapshot in the file reaches.
    covered: Arc<watch::Sender<Option<LogId>>>,
}

impl Store {
    /// Opens the store in a directory, having verified all of it.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Identity), StoreError> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Err(StoreError::Missing { path });
        }
        let database = builder().open(&path).map_err(|error| check::refused(&path, error))?;
        Self::over(database, &path, Work::Threads, Bugs::default())
    }

    /// Opens what a database holds.
    pub(crate) fn over(
        db: Database,
        path: &Path,
        work: Work,
        bugs: Bugs,
    ) -> Result<(Self, Identity), StoreError> {
        let found = check::check(&db, path)?;
        let store = Self {
            db: Arc::new(db),
            work,
            bugs,
            purged: Arc::new(Mutex::new(found.purged)),
            covered: Arc::new(watch::Sender::new(found.covered)),
        };
        Ok((store, found.identity))
    }

    /// Makes a store in a directory that has none: whole, or not at all.
    pub(crate) fn create(
        dir: &Path,
        identity: &Identity,
        begin: Option<&Beginning>,
    ) -> Result<(), StoreError> {
        let path = dir.join(FILE);
        fs::create_dir_all(dir).map_err(io(&path, "make the directory of"))?;
        if path.exists() {
            return Err(StoreError::AlreadyThere { path });
        }
        Self::put(dir, identity, begin)
    }

    /// Makes a store beside the one that is there, and puts it in its place in one step.
    fn put(dir: &Path, identity: &Identity, begin: Option<&Beginning>) -> Result<(), StoreError> {
        let (path, new) = (dir.join(FILE), dir.join(format!("{FILE}.new")));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io(&new, "remove what was left of")(error));
            }
            _ => {}
        }
        let db = builder().create(&new).map_err(|error| check::refused(&new, error))?;
        fill(&db, &new, identity, begin)?;
        drop(db);
        fs::rename(&new, &path).map_err(io(&path, "put in place"))?;
        sync_directory(dir).map_err(io(&path, "make durable"))
    }

    /// All that it holds of the ledger.
    pub(crate) fn contents(&self) -> Result<Contents, Fault> {
        let (vote, committed) = self.read(|txn| {
            let meta = txn.open_table(META)?;
            Ok((record::get(&meta, Meta::Vote)?, record::get(&meta, Meta::Committed)?))
        })?;
        Ok(Contents { vote, committed, snapshot: self.snapshot()?, entries: self.entries(.., usize::MAX)? })
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn entries_for_tests(&self, range: impl std::ops::RangeBounds<u64>) -> Vec<Entry> {
        self.entries(range, usize::MAX).expect("the disk works")
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Fault> {
        work(&self.db.begin_read()?)
    }

    fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        commit(&self.db, durability, work)
    }

    /// Runs what waits for the disk where such work is done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        match self.work {
            Work::Threads => {
                let store = self.clone();
                let ran = tokio::task::spawn_blocking(move || work(&store)).await;
                ran.map_err(|_| Fault::Gone)?
            }
            #[cfg(any(test, feature = "sim"))]
            Work::Here => work(self),
        }
    }

    fn purged(&self) -> Option<LogId> {
        *self.purged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a store in an empty database.
pub(crate) fn fill(
    db: &Database,
    path: &Path,
    identity: &Identity,
    begin: Option<&Beginning>,
) -> Result<(), StoreError> {
    let filled = commit(db, Durability::Immediate, |txn| {
        txn.open_table(LOG)?;
        let mut meta = txn.open_table(META)?;
        record::put(&mut meta, Meta::Format, &check::FORMAT)?;
        record::put(&mut meta, Meta::Identity, identity)?;
        let Some(begin) = begin else { return Ok(()) };
        let snapshot = SnapshotMeta {
            last_log_id: Some(begin.last),
            last_membership: begin.membership.clone(),
            snapshot_id: format!("begin-{}", begin.last.index),
        };
        record::put(&mut meta, Meta::Vote, &begin.vote)?;
        record::put(&mut meta, Meta::Purged, &begin.last)?;
        record::put(&mut meta, Meta::Committed, &begin.last)?;
        record::put(&mut meta, Meta::Snapshot, &snapshot)?;
        record::put(&mut meta, Meta::Contents, &begin.machine)
    });
    filled.map_err(|fault| failed(path, "write", fault))
}

/// Moves a store aside that is damaged or to be given up, so that the node can join anew. Nothing is deleted: says where it is now.
pub fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let path = dir.join(FILE);
    let to = free_name(dir)?;
    fs::rename(&path, &to).map_err(io(&path, "set aside"))?;
    sync_directory(dir).map_err(io(&path, "make durable the new name of"))?;
    Ok(to)
}

/// Puts a new store in the place of another, which is kept: says where.
pub(crate) fn replace(dir: &Path, identity: &Identity, begin: &Beginning) -> Result<PathBuf, StoreError> {
    let path = dir.join(FILE);
    let aside = free_name(dir)?;
    fs::hard_link(&path, &aside).map_err(io(&path, "keep"))?;
    Store::put(dir, identity, Some(begin))?;
    Ok(aside)
}

/// A name to keep the store under that is there.
fn free_name(dir: &Path) -> Result<PathBuf, StoreError> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Err(StoreError::Missing { path });
    }
    // As many as an operator will ever keep; the search ends.
    let free = (1..10_000).map(|number| dir.join(format!("{FILE}.aside-{number}"))).find(|to| !to.exists());
    free.ok_or_else(|| StoreError::AlreadyThere { path: dir.join(format!("{FILE}.aside-1")) })
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

#[cfg(any(test, feature = "sim"))]
pub(crate) fn open_backend(backend: impl redb::StorageBackend) -> Result<Database, redb::DatabaseError> {
    builder().create_with_backend(backend)
}

fn commit<T>(
    db: &Database,
    durability: Durability,
    work: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut txn = db.begin_write()?;
    txn.set_two_phase_commit(true);
    txn.set_durability(durability)?;
    let done = work(&txn)?;
    txn.commit()?;
    Ok(done)
}

fn io(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, what, source }
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
