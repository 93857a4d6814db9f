//! What shall happen in which case.

use super::world::{World, has_mark, mark};
use crate::bug::{Bug, Bugs};
use crate::config::Config;
use crate::ledger::{Behind, NotLeading, Role};
use crate::machine::Refused;
use crate::propose::ProposeError;
use crate::transport::{Envelope, Letter, Message, Refusal, Sealed};
use crate::types::{Entry, SnapshotMeta};
use crate::voters::VotersError;
use control::{ClusterCommand, Command, Rejected};
use model::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

async fn world(count: usize, seed: u64) -> World {
    World::new(count, seed, Config::default(), Bugs::default()).await
}

fn ids(ids: &[u32]) -> BTreeSet<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_has_a_successor_that_commits_within_the_promised_time() {
    for count in [3, 5] {
        let mut worst = Duration::ZERO;
        for seed in 0..30 {
            let mut world = world(count, seed).await;
            let leader = world.leader().unwrap();
            world.write(leader).await.unwrap();
            sleep(ms(seed * 7)).await;
            // Its rack has no power: nobody says "refused" in its place.
            for other in world.nodes.iter().filter(|node| node.name != world.nodes[leader].name) {
                world.net.cut(&world.nodes[leader].name, &other.name);
            }
            let dead = Instant::now();
            world.crash(leader).await;
            world.writable_again().await;
            worst = worst.max(dead.elapsed());
        }
        println!("{count} nodes: writable again at most {} ms after the leader's death", worst.as_millis());
        assert!(worst < ms(1100), "{worst:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_cut_off_deposes_nobody_when_it_comes_back() {
    let mut world = world(3, 1).await;
    let leader = world.leader().unwrap();
    let term = world.ledger(leader).status().term;
    let away = (leader + 1) % 3;
    for other in [(away + 1) % 3, (away + 2) % 3] {
        world.net.cut(&world.nodes[away].name, &world.nodes[other].name);
    }
    sleep(ms(20_000)).await;
    world.write(leader).await.unwrap();
    world.net.heal();
    world
        .wait("it follows again", |world| {
            world.ledger(away).status().applied == world.ledger(leader).status().applied
        })
        .await;
    sleep(ms(5000)).await;
    assert_eq!(world.leader(), Some(leader));
    assert_eq!(world.ledger(away).status().term, term, "its term is the leader's: it has not stood");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_by_one_only_is_neither_deposed_nor_missed() {
    // The witness hears both, the racks don't hear each other: the rack that leads goes on.
    let mut world = world(3, 2).await;
    let leader = world.leader().unwrap();
    let term = world.ledger(leader).status().term;
    world.net.cut(&world.nodes[leader].name, &world.nodes[(leader + 1) % 3].name);
    sleep(ms(10_000)).await;
    world.write(leader).await.unwrap();
    assert_eq!((world.leader(), world.ledger(leader).status().term), (Some(leader), term));
}

#[tokio::test(start_paused = true)]
async fn a_minority_takes_nothing_and_its_leader_is_not_confirmed() {
    let mut world = world(5, 3).await;
    let leader = world.leader().unwrap();
    let alone: Vec<usize> = (0..5).filter(|index| *index != leader).collect();
    for other in &alone[1..] {
        world.net.cut(&world.nodes[leader].name, &world.nodes[*other].name);
        world.net.cut(&world.nodes[alone[0]].name, &world.nodes[*other].name);
    }
    let unknown = world.write(leader).await.unwrap_err();
    assert!(matches!(unknown, ProposeError::Unknown { .. }), "{unknown}");
    let last = world.ledger(leader).status().last;
    let refused = world.write(leader).await.unwrap_err();
    assert_eq!(refused, ProposeError::NoLeader { leader: None }, "nobody has answered it for long");
    assert_eq!(world.ledger(leader).status().last, last, "its log does not grow");
    assert!(world.ledger(leader).leadership().await.is_err());
    world
        .wait("the others have a leader", |world| world.leader().is_some_and(|new| alone[1..].contains(&new)))
        .await;
    let new = world.leader().unwrap();
    world.ledger(new).leadership().await.unwrap();
    world.write(new).await.unwrap();
    world.heal().await;
    let promises = world.promises.lock().unwrap();
    assert!(promises.unknown.len() == 1 && promises.not.len() == 1 && !promises.applied.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_command_changes_nothing_and_says_why_wherever_it_is_proposed() {
    let mut world = world(3, 4).await;
    let leader = world.leader().unwrap();
    world.write(leader).await.unwrap();
    for index in 0..3 {
        let before = world.ledger(leader).state().borrow().clone();
        let refused = world.ledger(index).propose(mark(0)).await.unwrap_err();
        assert_eq!(refused, ProposeError::Refused(Refused::Command(Rejected::Busy("mark".to_owned()))));
        assert_eq!(*before, **world.ledger(leader).state().borrow());
    }
    let own_call = Command::Cluster(ClusterCommand::ChangeVoters(ids(&[1])));
    assert!(matches!(world.ledger(leader).propose(own_call).await, Err(ProposeError::NotThisWay(_))));
    let long = "x".repeat(200_000);
    let operation = control::state::Operation { what: long, driver: NodeId(1) };
    let long = Command::Cluster(ClusterCommand::Begin(control::state::Subject::Cluster, operation));
    assert!(matches!(world.ledger(leader).propose(long).await, Err(ProposeError::TooLong { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_decides_is_taken_in_its_term_and_passed_on_to_nobody() {
    let world = world(3, 4).await;
    let leader = world.leader().unwrap();
    let term = world.ledger(leader).status().term;
    for index in (0..3).filter(|index| *index != leader) {
        // It knows who leads, and would pass on what anybody asks of the ledger.
        let decided = world.ledger(index).propose_as_leader(term, mark(1)).await;
        assert!(matches!(decided, Err(ProposeError::NoLeader { .. })), "{decided:?}");
    }
    for other in [term - 1, term + 1] {
        let decided = world.ledger(leader).propose_as_leader(other, mark(1)).await;
        assert!(matches!(decided, Err(ProposeError::NoLeader { .. })), "{decided:?}");
    }
    let is_marked = || has_mark(&world.ledger(leader).state().borrow(), 1);
    assert!(!is_marked());
    world.ledger(leader).propose_as_leader(term, mark(1)).await.unwrap();
    assert!(is_marked());
}

#[tokio::test(start_paused = true)]
async fn all_lose_their_power_and_nothing_is_lost() {
    let mut world = world(5, 5).await;
    for round in 0..3 {
        let leader = world.leader().unwrap();
        for _ in 0..20 {
            world.propose_later(leader);
        }
        sleep(ms(20 + round * 5)).await;
        for index in 0..5 {
            world.crash(index).await;
        }
        world.heal().await;
    }
    assert!(world.promises.lock().unwrap().applied.len() >= 20);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_starts_anew_does_not_lead_on_in_its_term() {
    let mut world = world(3, 12).await;
    let leader = world.leader().unwrap();
    world.write(leader).await.unwrap();
    let term = world.ledger(leader).status().term;
    world.crash(leader).await;
    world.start(leader).await;
    assert!(matches!(world.ledger(leader).leadership().await, Err(NotLeading::Follower { .. })));
    world.writable_again().await;
    assert!(world.ledger(world.leader().unwrap()).leadership().await.unwrap().term > term);
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_takes_nothing_more_stops_and_says_so_and_the_others_go_on() {
    let mut world = world(3, 13).await;
    let leader = world.leader().unwrap();
    let full = (leader + 1) % 3;
    let ledger = world.ledger(full).clone();
    world.nodes[full].disk.cut_after(0);
    world.write(leader).await.unwrap();
    let why = ledger.stopped().await;
    assert!(why.contains("store failed"), "{why}");
    assert_eq!(ledger.status().role, Role::Stopped);
    assert!(world.write(full).await.is_err());
    world.write(leader).await.unwrap();
    world.crash(full).await;
    world.heal().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_away_for_long_gets_a_snapshot() {
    let config = Config { snapshot_after_entries: 50, keep_entries: 10, ..Config::default() };
    let mut world = World::new(3, 6, config, Bugs::default()).await;
    let leader = world.leader().unwrap();
    let away = (leader + 1) % 3;
    world.crash(away).await;
    for _ in 0..400 {
        world.write(leader).await.unwrap();
    }
    assert!(world.ledger(leader).status().snapshot.is_some());
    world.start(away).await;
    world.heal().await;
    assert!(world.ledger(away).status().snapshot.is_some());
    assert!(world.ledger(away).store().entries_for_tests(..).len() < 100);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_disk_comes_back_under_a_new_id_and_the_old_one_is_forgotten() {
    let mut world = world(3, 7).await;
    let leader = world.leader().unwrap();
    world.write(leader).await.unwrap();
    let lost = (leader + 1) % 3;
    let old = world.ledger(lost).id();
    world.wipe(lost).await;
    world.rejoin(lost).await.unwrap();
    let new = world.ledger(lost).id();
    assert_eq!(new, NodeId(4));
    world.ledger(lost).caught_up(ms(10_000)).await.unwrap();
    assert_eq!(world.ledger(lost).status().role, Role::Learner);
    assert!(has_mark(&world.ledger(lost).state().borrow(), 0));
    world.heal().await;
    let state = world.ledger(leader).state().borrow().clone();
    assert!(!state.nodes.contains_key(&old) && state.nodes.contains_key(&new));
    assert_eq!(world.ledger(leader).raft_voters(), [state.voters.present().clone()]);
}

/// 1 and 2 have a command that 3 has not; 1 is down, 2 comes back with an empty store under its old id.
async fn wiped_voter(bugs: Bugs) -> World {
    let mut world = World::new(3, 8, Config::default(), bugs).await;
    let leader = world.leader().unwrap();
    let (wiped, late) = ((leader + 1) % 3, (leader + 2) % 3);
    for other in [leader, wiped] {
        world.net.cut(&world.nodes[late].name, &world.nodes[other].name);
    }
    world.write(leader).await.unwrap();
    let old = world.ledger(wiped).identity().clone();
    world.crash(leader).await;
    world.wipe(wiped).await;
    world.come_back_under_the_old_id(wiped, &old).await;
    world.net.heal();
    sleep(ms(10_000)).await;
    world.judge();
    world.start(leader).await;
    let back = world.writable_again().await;
    println!("writable {} ms after the one with the command is back", back.as_millis());
    sleep(ms(5000)).await;
    world.judge();
    world
}

#[tokio::test(start_paused = true)]
async fn a_wiped_voter_is_nobody_under_its_old_id() {
    let world = wiped_voter(Bugs::default()).await;
    let (index, _) = world.running().find(|(_, ledger)| ledger.status().applied.is_none()).unwrap();
    assert_eq!(world.ledger(index).status().role, Role::Learner, "nobody has told it anything");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "has lost 0")]
async fn seeded_a_wiped_voter_under_its_old_id_loses_what_was_acknowledged() {
    wiped_voter(Bugs::with(Bug::AnyStore)).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "has applied another entry")]
async fn seeded_an_entry_that_is_acknowledged_before_it_is_on_disk_is_lost() {
    for seed in 0..20 {
        let mut world = World::new(3, seed, Config::default(), Bugs::with(Bug::AcknowledgeUnsynced)).await;
        let leader = world.leader().unwrap();
        for _ in 0..5 {
            world.write(leader).await.unwrap();
        }
        for index in 0..3 {
            world.crash(index).await;
        }
        world.heal().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_contradicts_itself_stops_nobody() {
    let mut world = world(3, 14).await;
    let leader = world.leader().unwrap();
    world.write(leader).await.unwrap();
    let (from, to) = (world.ledger(leader).clone(), world.ledger((leader + 1) % 3).clone());
    let vote = openraft::Vote::new_committed(from.status().term, 1);
    let log_id = |index| openraft::LogId::new(openraft::CommittedLeaderId::new(1, 1), index);
    let entry = |index| Entry { log_id: log_id(index), payload: openraft::EntryPayload::Blank };
    let gap = openraft::raft::AppendEntriesRequest {
        vote,
        prev_log_id: Some(log_id(u64::MAX)),
        entries: vec![entry(3), entry(5)],
        leader_commit: Some(log_id(5)),
    };
    let meta = SnapshotMeta { last_log_id: Some(log_id(u64::MAX)), ..SnapshotMeta::default() };
    let snapshot = Message::Snapshot { vote, meta, contents: "{}".to_owned() };
    for message in [Message::Append(gap), snapshot] {
        let (own, to_store) = (from.identity().clone(), to.identity().store.clone());
        let letter = Letter(Sealed::Member(Box::new(Envelope { from: own, to: to.id(), to_store, message })));
        let refused = to.receive(letter, |_| true).await.unwrap_err();
        assert!(matches!(refused, Refusal::Malformed(_)), "{refused}");
    }
    world.writable_again().await;
    assert_eq!(to.status().role, Role::Follower);
}

#[tokio::test(start_paused = true)]
async fn voters_change_by_odd_sets_one_change_at_a_time() {
    let mut world = world(5, 9).await;
    let leader = world.leader().unwrap();
    let ledger = world.ledger(leader).clone();
    let even = ledger.change_voters(&ids(&[1, 2])).await.unwrap_err();
    assert_eq!(even, VotersError::Propose(ProposeError::Refused(Refused::Command(Rejected::EvenVoters))));
    assert_eq!(ledger.change_voters(&ids(&[1, 2, 9])).await, Err(VotersError::NoMember(NodeId(9))));
    let other = world.ledger((leader + 1) % 5).change_voters(&ids(&[1, 2, 3])).await.unwrap_err();
    assert!(matches!(other, VotersError::NotLeading(NotLeading::Follower { leader: Some(_) })), "{other}");
    let (one, two) = (ids(&[1, 2, 3]), ids(&[1, 2, 5]));
    let both = tokio::join!(ledger.change_voters(&one), ledger.change_voters(&two));
    assert_eq!(both, (Ok(()), Err(VotersError::Busy)));
    assert_eq!(ledger.raft_voters(), [one]);
    assert_eq!(ledger.status().learners, ids(&[4, 5]), "who has no vote follows on");
    world.writable_again().await;
}

#[tokio::test(start_paused = true)]
async fn rack_then_witness_and_then_a_node_with_voters_adapted_in_between() {
    let mut world = world(5, 10).await;
    let zone = "zone1".parse().unwrap();
    // Nodes 2 and 4 are zone 2's rack, 5 is the witness, 3 one more node.
    for dead in [&[1, 3][..], &[4], &[2]] {
        for index in dead {
            world.crash(*index).await;
        }
        world.writable_again().await;
        for _ in 0..4 {
            let leader = world.ledger(world.leader().unwrap()).clone();
            let live: BTreeSet<NodeId> = world.running().map(|(_, ledger)| ledger.id()).collect();
            let state = leader.state().borrow().clone();
            let Some(wanted) = control::voters::wanted(&state, &live, &zone) else { break };
            leader.change_voters(&wanted).await.unwrap();
        }
        if world.running().count() == 1 {
            break;
        }
    }
    world.writable_again().await;
    assert_eq!(world.running().count(), 1);
    world.heal().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_voters_whose_leader_dies_in_it_is_settled_by_the_next() {
    let mut settled = 0;
    for seed in 0..20 {
        let mut world = world(5, seed).await;
        let leader = world.leader().unwrap();
        let ledger = world.ledger(leader).clone();
        let keep: BTreeSet<NodeId> = world.running().map(|(_, ledger)| ledger.id()).take(3).collect();
        let change = tokio::spawn(async move { ledger.change_voters(&keep).await });
        sleep(ms(1 + seed * 3)).await;
        world.crash(leader).await;
        let _ = change.await;
        world.writable_again().await;
        let new = world.ledger(world.leader().unwrap()).clone();
        let in_flight = matches!(new.state().borrow().voters, control::state::Voters::Changing { .. });
        settled += usize::from(in_flight);
        new.settle_voters().await.unwrap();
        assert_eq!(new.raft_voters(), [new.state().borrow().voters.present().clone()], "seed {seed}");
        world.heal().await;
    }
    assert!(settled > 2, "the leader died in {settled} of 20 changes");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_votes_leads_on_whatever_it_is_told() {
    let mut world = world(3, 14).await;
    let ledger = world.ledger(world.leader().unwrap()).clone();
    ledger.abdicate(ledger.status().term);
    assert!(ledger.leadership().await.is_ok());
    world.writable_again().await;
}

/// Idle connections end after 30 s.
#[tokio::test(start_paused = true)]
async fn every_way_between_two_is_kept_open() {
    let world = world(5, 13).await;
    sleep(Duration::from_secs(30)).await;
    for _ in 0..60 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.net.greeted_within(Duration::from_secs(25)), 5 * 4);
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_has_no_vote_the_leader_included_and_is_forgotten_without_another_change() {
    let mut world = world(5, 12).await;
    let leader = world.leader().unwrap();
    let ledger = world.ledger(leader).clone();
    let state = ledger.state().borrow().clone();
    // The leader, and one of the other rack.
    let zone = |id: &NodeId| state.nodes[id].zone.clone();
    let mut others = state.nodes.keys().copied().filter(|id| zone(id).is_some());
    let other = others.find(|id| zone(id) != zone(&ledger.id())).unwrap();
    let nodes = BTreeSet::from([ledger.id(), other]);
    let leave = Command::Cluster(ClusterCommand::NodesLeave { nodes: nodes.clone() });
    ledger.propose(leave).await.unwrap();
    let live: BTreeSet<NodeId> = world.running().map(|(_, ledger)| ledger.id()).collect();
    let state = ledger.state().borrow().clone();
    let wanted = control::voters::wanted(&state, &live, &"zone1".parse().unwrap()).unwrap();
    assert_eq!(wanted, live.difference(&nodes).copied().collect());
    ledger.change_voters(&wanted).await.unwrap();
    let settled = |world: &World| {
        world.running().all(|(_, ledger)| {
            *ledger.state().borrow().voters.present() == wanted && ledger.raft_voters() == [wanted.clone()]
        })
    };
    world.wait("all know who votes, those who leave included", settled).await;
    assert!(!ledger.is_unsettled());
    world.writable_again().await;
    // It leads on without a vote, until it is told not to; it is there yet, and follows.
    let term = ledger.status().term;
    assert!(ledger.leadership().await.is_ok());
    ledger.abdicate(term);
    assert!(ledger.leadership().await.is_err());
    let asked = ledger.propose(mark(0)).await;
    assert!(matches!(asked, Err(ProposeError::NoLeader { .. })), "surely not taken: {asked:?}");
    let old = ledger.id();
    let led = |world: &World| {
        let leads = world.leader().map(|at| world.ledger(at).clone());
        leads.is_some_and(|leads| leads.id() != old && leads.status().term > term)
    };
    let took = world.wait("one of those who vote leads", led).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let follows = |world: &World| {
        world.running().all(|(_, ledger)| ledger.id() != old || ledger.status().role != Role::Leader)
    };
    world.wait("the old leader follows", follows).await;
    world.writable_again().await;
    drop(ledger);
    for at in 0..5 {
        if nodes.contains(&world.ledger(at).id()) {
            world.crash(at).await;
        }
    }
    world.writable_again().await;
    let new = world.ledger(world.leader().unwrap()).clone();
    assert!(wanted.contains(&new.id()));
    for node in nodes {
        let remove = Command::Cluster(ClusterCommand::RemoveNode(node));
        new.propose(remove).await.unwrap();
    }
    assert!(new.is_unsettled());
    new.settle_voters().await.unwrap();
    assert!(!new.is_unsettled() && new.members().keys().eq(&wanted));
}

#[tokio::test(start_paused = true)]
async fn who_can_reach_no_leader_says_that_it_is_behind() {
    let mut world = world(3, 11).await;
    let leader = world.leader().unwrap();
    world.crash(leader).await;
    world.crash((leader + 1) % 3).await;
    let left = (leader + 2) % 3;
    assert_eq!(world.ledger(left).caught_up(ms(2000)).await, Err(Behind::NoLeader));
    let refused = world.write(left).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NoLeader { .. }), "{refused}");
}
