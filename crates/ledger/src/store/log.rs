//! Raft's log and vote.

use super::record::{self, LOG, META, Meta};
use super::{Fault, Store};
use crate::bug::Bug;
use crate::types::{Entry, LogId, StorageError, Types, Vote};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError};
use redb::{Durability, ReadableTable, WriteTransaction};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::timeout;

/// One message carries entries of this many bytes at most, and at least one entry.
const READ_BYTES_MAX: usize = 1 << 20;

/// For a snapshot to be on disk that entries are to follow without a hole. It is kilobytes.
const COVERED_LIMIT: Duration = Duration::from_secs(30);

/// The log is not read or written.
fn logs(fault: &Fault) -> StorageError {
    StorageIOError::write_logs(AnyError::new(fault)).into()
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(range, usize::MAX)
            .map_err(|fault| StorageIOError::read_logs(AnyError::new(&fault)).into())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let entries = self.entries(start..end, READ_BYTES_MAX);
        entries.map_err(|fault| StorageIOError::read_logs(AnyError::new(&fault)).into())
    }
}

impl Store {
    pub(super) fn entries(
        &self,
        range: impl RangeBounds<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, Fault> {
        let first = self.purged().map_or(0, |purged| purged.index + 1);
        let start = match range.start_bound() {
            Bound::Included(start) => (*start).max(first),
            Bound::Excluded(start) => start.saturating_add(1).max(first),
            Bound::Unbounded => first,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        self.read(|txn| {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for found in txn.open_table(LOG)?.range(start..end)? {
                let (index, value) = found?;
                bytes += value.value().len();
                if bytes > bytes_max && !entries.is_empty() {
                    break;
                }
                entries.push(record::entry(index.value(), value.value())?);
            }
            Ok(entries)
        })
    }

    /// The last entry of the file, or what was purged up to in the file.
    fn last_in_file(&self) -> Result<Option<LogId>, Fault> {
        self.read(|txn| {
            let log = txn.open_table(LOG)?;
            let Some((index, value)) = log.last()? else {
                return record::get(&txn.open_table(META)?, Meta::Purged);
            };
            let entry: Entry = record::entry(index.value(), value.value())?;
            Ok(Some(entry.log_id))
        })
    }

    /// If openraft has purged more than the file has, entries would leave a hole in it: waits until the snapshot that covers what
    /// was purged is there. Says up to where the file must be purged with them.
    async fn without_hole(&self) -> Result<Option<LogId>, Fault> {
        let purged = self.purged();
        if purged <= self.last_in_file()? {
            return Ok(None);
        }
        let mut covered = self.covered.subscribe();
        match timeout(COVERED_LIMIT, covered.wait_for(|covered| *covered >= purged)).await {
            Ok(Ok(_)) => Ok(purged),
            _ => Err(Fault::Damaged("entries would leave a hole: no snapshot reaches to them".to_owned())),
        }
    }

    /// A leader that starts anew has been deposed by its own end. openraft would let it lead on in its term, with what it knows to be
    /// committed after the restart, which may be less than what it has acknowledged before: it would confirm reads of the past.
    /// To others nothing changes: the vote is still its own, in the same term.
    pub(crate) async fn step_down(&mut self, id: u64) -> Result<(), StorageError> {
        match self.read_vote().await? {
            Some(vote) if vote.committed && vote.leader_id.node_id == id => {
                self.save_vote(&Vote::new(vote.leader_id.term, id)).await
            }
            _ => Ok(()),
        }
    }

    fn durability(&self, unless: Bug) -> Durability {
        if self.bugs.has(unless) { Durability::None } else { Durability::Immediate }
    }
}

/// Removes what a durable snapshot covers, in the commit that makes it so or in one of its own.
pub(super) fn purge_in(txn: &WriteTransaction, upto: &LogId) -> Result<(), Fault> {
    record::put(&mut txn.open_table(META)?, Meta::Purged, upto)?;
    txn.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
    Ok(())
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let last = self.last_in_file().map_err(|fault| logs(&fault))?;
        let purged = self.purged();
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.max(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (vote, durability) = (*vote, self.durability(Bug::VoteUnsynced));
        let save = move |store: &Self| {
            store.write(durability, |txn| record::put(&mut txn.open_table(META)?, Meta::Vote, &vote))
        };
        self.run(save).await.map_err(|fault| StorageIOError::write_vote(AnyError::new(&fault)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.read(|txn| record::get(&txn.open_table(META)?, Meta::Vote));
        vote.map_err(|fault| StorageIOError::read_vote(AnyError::new(&fault)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let Some(committed) = committed else { return Ok(()) };
        // Without it a restarted node begins at its snapshot and follows the leader from there: it need not be forced to disk.
        let saved = self.write(Durability::None, |txn| {
            record::put(&mut txn.open_table(META)?, Meta::Committed, &committed)
        });
        saved.map_err(|fault| logs(&fault))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed = self.read(|txn| record::get(&txn.open_table(META)?, Meta::Committed));
        committed.map_err(|fault| logs(&fault))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let purge = self.without_hole().await.map_err(|fault| logs(&fault))?;
        let durability = self.durability(Bug::AcknowledgeUnsynced);
        let append = move |store: &Self| {
            store.write(durability, |txn| {
                if let Some(upto) = &purge {
                    purge_in(txn, upto)?;
                }
                let mut log = txn.open_table(LOG)?;
                for entry in &entries {
                    record::put_entry(&mut log, entry.log_id.index, entry)?;
                }
                Ok(())
            })
        };
        self.run(append).await.map_err(|fault| logs(&fault))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let truncate = move |store: &Self| {
            store.write(Durability::Immediate, |txn| {
                txn.open_table(LOG)?.retain_in(since.index.., |_, _| false)?;
                Ok(())
            })
        };
        self.run(truncate).await.map_err(|fault| logs(&fault))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        *self.purged.lock().unwrap_or_else(PoisonError::into_inner) = Some(upto);
        if *self.covered.borrow() < Some(upto) {
            // The snapshot that covers it is on its way, and purges when it is there.
            return Ok(());
        }
        let purge = move |store: &Self| store.write(Durability::Immediate, |txn| purge_in(txn, &upto));
        self.run(purge).await.map_err(|fault| logs(&fault))
    }
}
