//! Forced quorum: the majority is gone, and then it comes back.

use super::disk::SimDisk;
use super::world::World;
use crate::bug::Bugs;
use crate::config::Config;
use crate::force::{ForceError, Survey, force_quorum, survey};
use crate::ledger::Role;
use crate::store::{FILE, StoreError};
use control::state::Settings;
use control::{ClusterCommand, Command};
use model::{LedgerIncarnation, NodeId};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::sleep;

/// The disk of a node that is down, as a directory.
fn mounted(world: &World, index: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), world.nodes[index].disk.image()).unwrap();
    dir
}

fn surveyed(world: &World, index: usize) -> Survey {
    survey(mounted(world, index).path()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_survivor_goes_on_and_the_lost_majority_is_nobody_when_it_comes_back() {
    let mut world = World::new(5, 1, Config::default(), Bugs::default()).await;
    let leader = world.leader().unwrap();
    world.write(leader).await.unwrap();
    let others: Vec<usize> = (0..5).filter(|index| *index != leader).collect();
    let (survivors, lost) = ([leader, others[0]], &others[1..]);
    for index in lost {
        world.crash(*index).await;
    }
    // Surely in the survivors' logs, and not known to be committed.
    let settings = Settings { rebuilds_per_node_max: 9, ..Settings::default() };
    let (ledger, tail) =
        (world.ledger(leader).clone(), Command::Cluster(ClusterCommand::SetSettings(settings)));
    tokio::spawn(async move { ledger.propose(tail).await });
    sleep(Duration::from_secs(6)).await;
    for index in survivors {
        world.crash(index).await;
    }
    let surveys = survivors.map(|index| surveyed(&world, index));
    assert_eq!(surveys[0].last, surveys[1].last);
    assert!(surveys[0].committed < surveys[0].last.1 && surveys[0].voters.len() == 5);

    let dir = mounted(&world, leader);
    let forced = force_quorum(dir.path(), "an operator", "what was in flight").unwrap();
    assert_eq!((forced.incarnation, forced.presumed), (LedgerIncarnation(2), 1));
    assert!(forced.aside.exists());
    world.forked = true;
    world.nodes[leader].disk = SimDisk::with(1, fs::read(dir.path().join(FILE)).unwrap());
    world.start(leader).await;
    world.writable_again().await;
    let ledger = world.ledger(leader).clone();
    let state = ledger.state().borrow().clone();
    assert_eq!(
        (state.incarnation, ledger.identity().incarnation),
        (LedgerIncarnation(2), LedgerIncarnation(2))
    );
    assert_eq!(state.settings.rebuilds_per_node_max, 9, "what may have been committed is taken for it");
    assert_eq!(state.overrides.len(), 1);
    assert_eq!(ledger.raft_voters(), [BTreeSet::from([ledger.id()])]);

    // The lost majority comes back, and has a leader of its own. It knows this node, with this store, as a member.
    let term = ledger.status().term;
    for index in lost {
        world.start(*index).await;
    }
    let old =
        |world: &World| lost.iter().copied().find(|index| world.ledger(*index).status().role == Role::Leader);
    world.wait("the old majority has a leader", |world| old(world).is_some()).await;
    world.write(old(&world).unwrap()).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    let status = ledger.status();
    assert_eq!((status.role, status.term), (Role::Leader, term), "nobody of the old ledger is heard");

    // The other survivor joins again.
    world.wipe(others[0]).await;
    world.rejoin_at(others[0], leader).await.unwrap();
    assert_eq!(world.ledger(others[0]).id(), NodeId(6));
    world.write(leader).await.unwrap();
    world.ledger(others[0]).caught_up(Duration::from_secs(5)).await.unwrap();
    assert_eq!(world.ledger(others[0]).status().leader, Some(ledger.id()), "it follows the new ledger");
    assert_eq!(ledger.state().borrow().incarnation, LedgerIncarnation(2));
    let old = old(&world).unwrap();
    assert_eq!(world.ledger(old).state().borrow().incarnation, LedgerIncarnation(1));
}

#[tokio::test(start_paused = true)]
async fn an_open_survivor_says_what_its_store_has_and_goes_on_with_all_of_it_in_another_run() {
    let mut world = World::new(3, 2, Config::default(), Bugs::default()).await;
    let leader = world.leader().unwrap();
    world.write(leader).await.unwrap();
    for index in (0..3).filter(|index| *index != leader) {
        world.crash(index).await;
    }
    let ledger = world.ledger(leader).clone();
    let settings = Settings { rebuilds_per_node_max: 9, ..Settings::default() };
    let tail = Command::Cluster(ClusterCommand::SetSettings(settings));
    let proposer = ledger.clone();
    tokio::spawn(async move { proposer.propose(tail).await });
    sleep(Duration::from_secs(6)).await;
    let dir = mounted(&world, leader);
    let seen = ledger.survey(dir.path()).await.unwrap();
    assert_eq!(seen, survey(mounted(&world, leader).path()).unwrap(), "open or closed, it is the same");
    assert!(seen.committed < seen.last.1);

    let forced = ledger.force_quorum(dir.path(), "an operator", "what was in flight").await.unwrap();
    assert_eq!((forced.incarnation, forced.presumed), (LedgerIncarnation(2), seen.last.1 - seen.committed));
    assert!(forced.aside.exists());
    world.forked = true;
    world.crash(leader).await;
    world.nodes[leader].disk = SimDisk::with(1, fs::read(dir.path().join(FILE)).unwrap());
    world.start(leader).await;
    world.writable_again().await;
    let ledger = world.ledger(leader).clone();
    assert_eq!(ledger.raft_voters(), [BTreeSet::from([ledger.id()])]);
    let state = ledger.state().borrow().clone();
    assert_eq!((state.incarnation, state.settings.rebuilds_per_node_max), (LedgerIncarnation(2), 9));
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_not_forced_from_nothing_or_from_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let missing = force_quorum(dir.path(), "an operator", "all").unwrap_err();
    assert!(matches!(missing, ForceError::Store(StoreError::Missing { .. })), "{missing}");
}
