//! openraft's own tests of a store, and what they don't ask: durability, damage, growth.

use super::*;
use crate::bug::Bug;
use crate::sim::disk::SimDisk;
use crate::token::{ClusterId, StoreId};
use crate::types::{StorageError, Types, raft_id};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use proptest::prelude::*;
use redb::ReadableTable;
use tempfile::TempDir;

fn identity() -> Identity {
    Identity {
        cluster: ClusterId::new().unwrap(),
        incarnation: model::LedgerIncarnation(1),
        forcing: None,
        node: model::NodeId(1),
        name: "n1".parse().unwrap(),
        store: StoreId::new().unwrap(),
    }
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, raft_id(model::NodeId(1))), index)
}

/// An entry of some hundred bytes, as most commands are.
fn entry(index: u64) -> Entry {
    let invite = crate::machine::Request::Invite {
        hash: crate::token::JoinToken::new().unwrap().hash(),
        invitation: crate::token::Invitation {
            name: "somebody".parse().unwrap(),
            zone: None,
            expires_unix_ms: index + 20,
            redeemed: None,
        },
        now_unix_ms: index,
    };
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(invite) }
}

fn new_store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    Store::create(dir.path(), &identity(), None).unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    (dir, store)
}

struct Builds;

impl StoreBuilder<Types, Store, Applier, TempDir> for Builds {
    async fn build(&self) -> Result<(TempDir, Store, Applier), StorageError> {
        let (dir, store) = new_store();
        let applier = Applier::new(store.clone()).unwrap();
        Ok((dir, store, applier))
    }
}

#[test]
fn openraft_accepts_the_store() {
    Suite::test_all(Builds).unwrap();
}

async fn snapshot(applier: &mut Applier) {
    applier.get_snapshot_builder().await.build_snapshot().await.unwrap();
}

#[tokio::test]
async fn forty_thousand_entries_leave_a_bounded_file_and_log() {
    let (dir, mut store) = new_store();
    let mut applier = Applier::new(store.clone()).unwrap();
    let size = || fs::metadata(dir.path().join(FILE)).unwrap().len();
    let mut sizes = Vec::new();
    for thousand in 0..40 {
        let entries: Vec<Entry> = (0..1000).map(|index| entry(thousand * 1000 + index)).collect();
        store.blocking_append(entries.clone()).await.unwrap();
        applier.apply(entries).await.unwrap();
        snapshot(&mut applier).await;
        store.purge(log_id(thousand * 1000 + 799)).await.unwrap();
        sizes.push(size());
    }
    assert_eq!(store.try_get_log_entries(..).await.unwrap().len(), 200);
    println!("the file has {} KiB", sizes[39] >> 10);
    assert!(sizes[39] <= 8 << 20, "{sizes:?}");
    assert_eq!(sizes[39], sizes[5], "it does not grow: {sizes:?}");
}

/// A store with a snapshot and entries behind it, closed in order.
fn closed() -> (TempDir, PathBuf) {
    let (dir, mut store) = new_store();
    let mut applier = Applier::new(store.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let entries: Vec<Entry> = (0..60).map(entry).collect();
        store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        store.blocking_append(entries.clone()).await.unwrap();
        applier.apply(entries).await.unwrap();
        snapshot(&mut applier).await;
        store.purge(log_id(39)).await.unwrap();
    });
    let path = dir.path().join(FILE);
    (dir, path)
}

#[test]
fn a_store_is_opened_as_it_was_closed() {
    let (dir, _) = closed();
    let (store, _) = Store::open(dir.path()).unwrap();
    assert_eq!(store.entries(.., usize::MAX).unwrap().len(), 20);
    assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
    drop(store);
    assert!(matches!(Store::create(dir.path(), &identity(), None), Err(StoreError::AlreadyThere { .. })));
    let aside = set_aside(dir.path()).unwrap();
    assert!(aside.exists());
    let missing = Store::open(dir.path()).unwrap_err();
    assert!(
        matches!(missing, StoreError::Missing { .. }) && missing.to_string().contains("token"),
        "{missing}"
    );
}

#[test]
fn what_is_cut_off_is_refused_and_the_error_says_what_to_do() {
    let (dir, path) = closed();
    let whole = fs::read(&path).unwrap();
    for keep in [1, 100, 4096, 5000, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Damaged { .. }), "{keep} bytes: {error:?}");
        assert!(text.contains(FILE) && text.contains("join again with a token"), "{text}");
    }
    fs::write(&path, b"").unwrap();
    assert!(matches!(Store::open(dir.path()), Err(StoreError::Damaged { .. })), "an empty file is no store");
}

#[test]
fn a_record_that_was_changed_in_place_is_refused_though_redb_finds_its_pages_good() {
    let (dir, path) = closed();
    let db = builder().open(&path).unwrap();
    commit(&db, Durability::Immediate, |txn| {
        let mut log = txn.open_table(LOG)?;
        let mut record = log.get(45)?.unwrap().value().to_vec();
        let last = record.len() - 1;
        record[last] ^= 1;
        log.insert(45, record.as_slice())?;
        Ok(())
    })
    .unwrap();
    drop(db);
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("entry 45 does not have its checksum"), "{error}");
}

#[test]
fn a_log_with_a_hole_is_refused() {
    let (dir, path) = closed();
    let db = builder().open(&path).unwrap();
    commit(&db, Durability::Immediate, |txn| {
        txn.open_table(LOG)?.remove(45)?;
        Ok(())
    })
    .unwrap();
    drop(db);
    assert!(Store::open(dir.path()).unwrap_err().to_string().contains("entry 45 is missing"));
}

/// The bytes of a store that was closed in order, and of one whose machine lost its power.
fn images() -> &'static [Vec<u8>; 2] {
    static IMAGES: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    IMAGES.get_or_init(|| {
        let (_dir, path) = closed();
        let disk = SimDisk::new(7);
        let db = open_backend(disk.plugged()).unwrap();
        fill(&db, Path::new("sim"), &identity(), None).unwrap();
        let (mut store, _) = Store::over(db, Path::new("sim"), Work::Here, Bugs::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
            store.blocking_append((0..60).map(entry)).await.unwrap();
        });
        disk.cut();
        [fs::read(path).unwrap(), disk.image()]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A changed byte is found, or is in a place that nobody reads; never does it change what is read, and never does it panic.
    #[test]
    fn no_changed_byte_is_ever_read(which in 0..2usize, at: prop::sample::Index, change in 1..=255u8, seed: u64) {
        let whole = &images()[which];
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let contents = |bytes: Vec<u8>| {
            let disk = SimDisk::with(seed, bytes);
            let db = open_backend(disk.plugged()).map_err(|error| check::refused(Path::new("sim"), error))?;
            let (store, identity) = Store::over(db, Path::new("sim"), Work::Here, Bugs::default())?;
            Ok::<_, StoreError>((identity, store.contents().unwrap()))
        };
        match contents(bytes) {
            Err(StoreError::Damaged { .. } | StoreError::OtherFormat { .. }) => {}
            Err(error) => return Err(TestCaseError::fail(format!("byte {at}: {error:?}"))),
            Ok(found) => prop_assert_eq!(found, contents(whole.clone()).unwrap(), "byte {}", at),
        }
    }
}

async fn power_cuts(bugs: Bugs) {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let db = open_backend(disk.plugged()).unwrap();
        fill(&db, Path::new("sim"), &identity(), None).unwrap();
        let (mut store, _) = Store::over(db, Path::new("sim"), Work::Here, bugs).unwrap();
        let (mut vote, mut count) = (None, 0);
        disk.cut_after(seed % 60);
        for round in 0..40 {
            let next = Vote::new(round, 1);
            if store.save_vote(&next).await.is_err() {
                break;
            }
            vote = Some(next);
            if store.blocking_append([entry(count)]).await.is_err() {
                break;
            }
            count += 1;
        }
        drop(store);
        disk.cut();
        let db = open_backend(disk.plugged()).unwrap();
        let (mut store, _) = Store::over(db, Path::new("sim"), Work::Here, Bugs::default()).unwrap();
        assert!(store.read_vote().await.unwrap() >= vote, "seed {seed}: vote");
        assert!(store.entries(.., usize::MAX).unwrap().len() as u64 >= count, "seed {seed}: entries");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_there_after_any_power_cut() {
    power_cuts(Bugs::default()).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "vote")]
async fn seeded_a_vote_that_is_given_before_it_is_on_disk_is_forgotten() {
    power_cuts(Bugs::with(Bug::VoteUnsynced)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "entries")]
async fn seeded_an_entry_that_is_acknowledged_before_it_is_on_disk_is_forgotten() {
    power_cuts(Bugs::with(Bug::AcknowledgeUnsynced)).await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_overtakes_its_snapshot_waits_for_it() {
    let (dir, mut store) = new_store();
    let mut applier = Applier::new(store.clone()).unwrap();
    store.blocking_append((0..10).map(entry)).await.unwrap();
    store.purge(log_id(20)).await.unwrap();
    let state = store.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(20)), Some(log_id(20))));
    assert_eq!(store.try_get_log_entries(..).await.unwrap(), []);
    let mut later = store.clone();
    let appended = tokio::spawn(async move { later.blocking_append([entry(21)]).await });
    tokio::task::yield_now().await;
    assert!(!appended.is_finished(), "an entry behind a hole is not acknowledged");
    // A power cut here leaves the log as it was.
    let copied = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join(FILE), copied.path().join(FILE)).unwrap();
    let (before, _) = Store::open(copied.path()).unwrap();
    assert_eq!(before.entries(.., usize::MAX).unwrap().len(), 10);
    applier.apply((0..=20).map(entry)).await.unwrap();
    snapshot(&mut applier).await;
    appended.await.unwrap().unwrap();
    drop((store, applier));
    let (store, _) = Store::open(dir.path()).unwrap();
    assert_eq!(store.entries(.., usize::MAX).unwrap(), [entry_at(&store, 21)]);
}

fn entry_at(store: &Store, index: u64) -> Entry {
    store.entries(index..=index, usize::MAX).unwrap().remove(0)
}

/// When everybody else has left, nobody says how far the log is committed.
#[tokio::test(start_paused = true)]
async fn that_the_cluster_is_dissolved_is_known_after_a_power_cut_with_nobody_left_to_tell() {
    let disk = SimDisk::new(7);
    let db = open_backend(disk.plugged()).unwrap();
    fill(&db, Path::new("sim"), &identity(), None).unwrap();
    let (mut store, _) = Store::over(db, Path::new("sim"), Work::Here, Bugs::default()).unwrap();
    let mut applier = Applier::new(store.clone()).unwrap();
    let dissolve = control::ClusterCommand::Dissolve { nodes: std::collections::BTreeSet::new() };
    let request = crate::machine::Request::Control(control::Command::Cluster(dissolve));
    let end = Entry { log_id: log_id(0), payload: EntryPayload::Normal(request) };
    store.blocking_append([end.clone()]).await.unwrap();
    store.save_committed(Some(log_id(0))).await.unwrap();
    applier.apply([end]).await.unwrap();
    assert!(applier.watch().borrow().dissolved);
    drop((store, applier));
    disk.cut();
    let db = open_backend(disk.plugged()).unwrap();
    let (mut store, _) = Store::over(db, Path::new("sim"), Work::Here, Bugs::default()).unwrap();
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(0)));
}
