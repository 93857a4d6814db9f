//! The machine in memory, and its snapshots in the store.
//!
//! The machine is not written with every entry: after a restart it is the latest snapshot, and the log from there. So a snapshot is
//! durable before it counts, and what is published may go back by a restart to what this node already knew to be committed.

use super::log::purge_in;
use super::record::{self, META, Meta};
use super::{Fault, Store};
use crate::machine::{Answer, Machine};
use crate::types::{Contents, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StoredMembership, Types};
use control::State;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use redb::Durability;
use std::sync::Arc;
use tokio::sync::watch;

/// Applies what is committed, and tells whoever watches.
pub(crate) struct Applier {
    store: Store,
    machine: Machine,
    last: Option<LogId>,
    membership: StoredMembership,
    published: watch::Sender<Arc<State>>,
}

/// A machine as it was at one entry.
pub(crate) struct Builder {
    store: Store,
    machine: Machine,
    last: Option<LogId>,
    membership: StoredMembership,
}

fn snapshots(fault: &Fault) -> StorageError {
    StorageIOError::write_snapshot(None, AnyError::new(fault)).into()
}

impl Applier {
    /// The machine as the store's snapshot has it.
    pub(crate) fn new(store: Store) -> Result<Self, Fault> {
        let (meta, machine) = store.snapshot()?.unzip();
        let machine = machine.unwrap_or_else(Machine::empty);
        let last = meta.as_ref().and_then(|meta| meta.last_log_id);
        let membership = meta.map(|meta| meta.last_membership).unwrap_or_default();
        let published = watch::Sender::new(Arc::clone(&machine.state));
        Ok(Self { store, machine, last, membership, published })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.published.subscribe()
    }

    /// That the cluster is dissolved must be known after a restart, too, when nobody else is left to say how far the log is committed.
    async fn remember_the_end(&self) -> Result<(), Fault> {
        let (true, Some(last)) = (self.machine.state.dissolved, self.last) else { return Ok(()) };
        let remember = move |store: &Store| {
            store.write(Durability::Immediate, |txn| {
                record::put(&mut txn.open_table(META)?, Meta::Committed, &last)
            })
        };
        self.store.run(remember).await
    }

    fn publish(&self) {
        self.published.send_replace(Arc::clone(&self.machine.state));
    }
}

impl Store {
    pub(super) fn snapshot(&self) -> Result<Option<(SnapshotMeta, Machine)>, Fault> {
        self.read(|txn| {
            let meta = txn.open_table(META)?;
            Ok(record::get(&meta, Meta::Snapshot)?.zip(record::get(&meta, Meta::Contents)?))
        })
    }

    /// Makes a snapshot durable, unless a later one is there, and purges what openraft has purged and it covers.
    async fn keep(&self, meta: SnapshotMeta, machine: Machine) -> Result<(), Fault> {
        let keep = move |store: &Self| {
            let purged = store.purged();
            let covers = store.write(Durability::Immediate, |txn| {
                let mut table = txn.open_table(META)?;
                let present: Option<SnapshotMeta> = record::get(&table, Meta::Snapshot)?;
                if let Some(present) = present.filter(|present| present.last_log_id > meta.last_log_id) {
                    return Ok(present.last_log_id);
                }
                record::put(&mut table, Meta::Snapshot, &meta)?;
                record::put(&mut table, Meta::Contents, &machine)?;
                let behind = record::get::<LogId>(&table, Meta::Purged)? < purged;
                drop(table);
                if let Some(purged) = purged.filter(|purged| behind && Some(*purged) <= meta.last_log_id) {
                    purge_in(txn, &purged)?;
                }
                Ok(meta.last_log_id)
            })?;
            store.covered.send_replace(covers);
            Ok(())
        };
        self.run(keep).await
    }
}

impl RaftStateMachine<Types> for Applier {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut answers, mut changed) = (Vec::new(), false);
        for entry in entries {
            self.last = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Ok(Vec::new()),
                EntryPayload::Normal(request) => {
                    let answer = self.machine.apply(&request);
                    changed |= answer.is_ok();
                    answer
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Ok(Vec::new())
                }
            });
        }
        if changed {
            self.remember_the_end().await.map_err(|fault| snapshots(&fault))?;
            self.publish();
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (store, machine) = (self.store.clone(), self.machine.clone());
        Builder { store, machine, last: self.last, membership: self.membership.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Contents>, StorageError> {
        Ok(Box::new(Contents(String::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        contents: Box<Contents>,
    ) -> Result<(), StorageError> {
        let machine: Machine = serde_json::from_str(&contents.0)
            .map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error)))?;
        self.store.keep(meta.clone(), machine.clone()).await.map_err(|fault| snapshots(&fault))?;
        self.machine = machine;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let found = self.store.snapshot().map_err(|fault| snapshots(&fault))?;
        let Some((meta, machine)) = found else { return Ok(None) };
        written(meta, &machine).map(Some).map_err(|fault| snapshots(&fault))
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: self.last.map_or_else(|| "empty".to_owned(), |last| last.to_string()),
        };
        let kept = self.store.keep(meta.clone(), self.machine.clone()).await;
        kept.map_err(|fault| snapshots(&fault))?;
        written(meta, &self.machine).map_err(|fault| snapshots(&fault))
    }
}

fn written(meta: SnapshotMeta, machine: &Machine) -> Result<Snapshot, Fault> {
    let contents = serde_json::to_string(machine).map_err(Fault::Encode)?;
    Ok(Snapshot { meta, snapshot: Box::new(Contents(contents)) })
}
