//! Forced quorum: the majority is gone, and then it comes back.

use super::disk::SimDisk;
use super::world::World;
use crate::bug::Bugs;
use crate::config::Config;
use crate::force::{ForceError, ForceOrder, Survey, force_quorum, survey};
use crate::ledger::Role;
use crate::store::{FILE, StoreError};
use crate::transport::{Envelope, Letter, Message, Refusal, Sealed};
use crate::types::Identity;
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

/// To go on with what was seen.
fn order(seen: &Survey) -> ForceOrder {
    ForceOrder { last: seen.last, by: "an operator".to_owned(), loses: "what was in flight".to_owned() }
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
    let forced = force_quorum(dir.path(), &order(&surveys[0])).unwrap();
    assert!(forced.incarnation > LedgerIncarnation(1) && forced.presumed == 1, "{forced:?}");
    assert!(forced.aside.exists());
    world.forked = true;
    world.nodes[leader].disk = SimDisk::with(1, fs::read(dir.path().join(FILE)).unwrap());
    world.start(leader).await;
    world.writable_again().await;
    let ledger = world.ledger(leader).clone();
    let state = ledger.state().borrow().clone();
    assert_eq!((state.incarnation, ledger.identity().incarnation), (forced.incarnation, forced.incarnation));
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
    assert_eq!(ledger.state().borrow().incarnation, forced.incarnation);
    assert_eq!(world.ledger(others[0]).identity().forcing, ledger.identity().forcing);
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

    let forced = ledger.force_quorum(dir.path(), &order(&seen)).await.unwrap();
    assert_eq!(forced.presumed, seen.last.1 - seen.committed);
    assert!(forced.aside.exists());
    world.forked = true;
    world.crash(leader).await;
    world.nodes[leader].disk = SimDisk::with(1, fs::read(dir.path().join(FILE)).unwrap());
    world.start(leader).await;
    world.writable_again().await;
    let ledger = world.ledger(leader).clone();
    assert_eq!(ledger.raft_voters(), [BTreeSet::from([ledger.id()])]);
    let state = ledger.state().borrow().clone();
    assert_eq!((state.incarnation, state.settings.rebuilds_per_node_max), (forced.incarnation, 9));
}

/// Two survivors that don't reach each other, and an operator at each.
#[tokio::test(start_paused = true)]
async fn who_is_forced_apart_never_takes_the_other_for_its_own() {
    let mut world = World::new(5, 3, Config::default(), Bugs::default()).await;
    let leader = world.leader().unwrap();
    world.write(leader).await.unwrap();
    let other = (leader + 1) % 5;
    for index in 0..5 {
        world.crash(index).await;
    }
    let mut forced = Vec::new();
    for index in [leader, other] {
        let dir = mounted(&world, index);
        let seen = surveyed(&world, index);
        forced.push(force_quorum(dir.path(), &order(&seen)).unwrap().incarnation);
        world.nodes[index].disk = SimDisk::with(1, fs::read(dir.path().join(FILE)).unwrap());
    }
    assert_ne!(forced[0], forced[1], "epochs are ordered by them");
    world.forked = true;
    for index in [leader, other] {
        world.start(index).await;
    }
    let leads = |world: &World, index: usize| world.ledger(index).status().role == Role::Leader;
    world.wait("both lead", |world| leads(world, leader) && leads(world, other)).await;
    let (one, two) = (world.ledger(leader).identity().clone(), world.ledger(other).identity().clone());
    assert_ne!(one.forcing, two.forcing);
    // Even one that had drawn the same number is not believed: whoever has the greater id would else be taken for one that has joined since.
    for (from, to) in [(&one, &two), (&two, &one)] {
        let from = Identity { incarnation: to.incarnation, ..from.clone() };
        let (to, to_store, message) = (to.node, to.store.clone(), Message::ReadIndex);
        let at = if to == one.node { leader } else { other };
        let letter = Letter(Sealed::Member(Box::new(Envelope { from, to, to_store, message })));
        let refused = world.ledger(at).receive(letter, |_| true).await.err();
        assert!(matches!(refused, Some(Refusal::OtherForcing)), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_forced_once_and_only_where_the_log_ends_as_it_was_shown() {
    let mut world = World::new(3, 4, Config::default(), Bugs::default()).await;
    let leader = world.leader().unwrap();
    let ledger = world.ledger(leader).clone();
    let seen = ledger.survey(mounted(&world, leader).path()).await.unwrap();
    world.write(leader).await.unwrap();
    let dir = mounted(&world, leader);
    let refused = ledger.force_quorum(dir.path(), &order(&seen)).await.unwrap_err();
    assert!(matches!(refused, ForceError::OtherEnd { index, .. } if index == seen.last.1 + 1), "{refused}");
    assert_eq!(
        survey(mounted(&world, leader).path()).unwrap().identity,
        seen.identity,
        "nothing has changed"
    );
    let now = survey(mounted(&world, leader).path()).unwrap();
    let again = ledger.force_quorum(dir.path(), &order(&now)).await.unwrap_err();
    assert!(matches!(again, ForceError::Again), "the next run of the agent may be told: {again}");
    assert!(!dir.path().join(format!("{FILE}.aside-1")).exists());
}

#[tokio::test(start_paused = true)]
async fn a_quorum_is_not_forced_from_nothing_or_from_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (by, loses) = ("an operator".to_owned(), "all".to_owned());
    let missing = force_quorum(dir.path(), &ForceOrder { last: (1, 1), by, loses }).unwrap_err();
    assert!(matches!(missing, ForceError::Store(StoreError::Missing { .. })), "{missing}");
}
