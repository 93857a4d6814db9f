//! What is next for a node that shall be there again.

use super::*;
use api::LogPlace;
use control::state::Settings;
use control::{ClusterCommand, Command};
use std::collections::BTreeSet;

fn must(state: &mut State, command: ClusterCommand) {
    state.apply(&Command::Cluster(command)).unwrap();
}

/// a1, b1 and the witness w, who all vote.
fn cluster() -> State {
    let mut state = State::new(Settings::default());
    for (name, zone) in [("a1", Some("a")), ("b1", Some("b")), ("w", None)] {
        let (name, zone) = (name.parse().unwrap(), zone.map(|zone| zone.parse().unwrap()));
        must(&mut state, ClusterCommand::AddNode { name, zone });
    }
    vote(&mut state, &[1, 2, 3]);
    state
}

fn vote(state: &mut State, voters: &[u32]) {
    let voters = voters.iter().copied().map(NodeId).collect();
    must(state, ClusterCommand::ChangeVoters(voters));
    must(state, ClusterCommand::VotersSettled);
}

fn open(node: u32, incarnation: u32) -> OpenLedger {
    OpenLedger {
        cluster: "c".to_owned(),
        node: NodeId(node),
        incarnation: LedgerIncarnation(incarnation),
        forcing: None,
        term: 1,
        leader: Some(NodeId(1)),
        voters: BTreeSet::new(),
        members: BTreeMap::from([(NodeId(2), "10.0.0.2:7117".parse().unwrap())]),
        names: BTreeMap::new(),
        last: Some(LogPlace { term: 1, index: 9 }),
        committed: 9,
        applied: Some(9),
        stopped: None,
    }
}

fn next(state: &State, node: &NodeLedger, incarnation: u32) -> Result<NextOfRejoin, CantRejoin> {
    next_of_rejoin(&"b1".parse().unwrap(), node, (state, &open(1, incarnation)))
}

#[test]
fn a_ledger_that_works_is_let_alone_and_one_that_may_is_too() {
    let state = cluster();
    let there = NextOfRejoin::There { node: NodeId(2), votes: true };
    assert_eq!(next(&state, &NodeLedger::Open(open(2, 1)), 1), Ok(there));
    let closed = NodeLedger::Closed { why: "no room".to_owned(), is_lost: false };
    assert!(matches!(next(&state, &closed, 1), Err(CantRejoin::MayOpen { .. })));
    let stopped = OpenLedger { stopped: Some("no room".to_owned()), ..open(2, 1) };
    assert!(matches!(next(&state, &NodeLedger::Open(stopped), 1), Err(CantRejoin::MayOpen { .. })));
    let other = OpenLedger { cluster: "d".to_owned(), ..open(2, 1) };
    assert_eq!(next(&state, &NodeLedger::Open(other), 1), Err(CantRejoin::OtherCluster));
    let stranger = next_of_rejoin(&"c1".parse().unwrap(), &NodeLedger::None {}, (&state, &open(1, 1)));
    assert_eq!(stranger, Err(CantRejoin::NoNode));
}

#[test]
fn one_that_is_lost_joins_catches_up_and_votes() {
    let mut state = cluster();
    let lost = NodeLedger::Closed { why: "damaged".to_owned(), is_lost: true };
    let address = Some("10.0.0.2:7117".parse().unwrap());
    for none in [&lost, &NodeLedger::None {}] {
        assert_eq!(next(&state, none, 1), Ok(NextOfRejoin::Join { address }));
    }
    must(&mut state, ClusterCommand::ReplaceNode { lost: NodeId(2) });
    let behind = OpenLedger { applied: Some(3), ..open(4, 1) };
    assert_eq!(next(&state, &NodeLedger::Open(behind), 1), Ok(NextOfRejoin::CatchUp));
    assert_eq!(next(&state, &NodeLedger::Open(open(4, 1)), 1), Ok(NextOfRejoin::Vote));
    vote(&mut state, &[1, 3, 4]);
    let there = NextOfRejoin::There { node: NodeId(4), votes: true };
    assert_eq!(next(&state, &NodeLedger::Open(open(4, 1)), 1), Ok(there));
    // What it had under its old id came back from a backup, say.
    let old = GiveUpRequest { node: NodeId(2), incarnation: LedgerIncarnation(1) };
    assert_eq!(next(&state, &NodeLedger::Open(open(2, 1)), 1), Ok(NextOfRejoin::GiveUp(old)));
}

#[test]
fn one_that_leaves_is_there_without_a_vote() {
    let mut state = cluster();
    for (name, zone) in [("a2", "a"), ("b2", "b")] {
        let (name, zone) = (name.parse().unwrap(), Some(zone.parse().unwrap()));
        must(&mut state, ClusterCommand::AddNode { name, zone });
    }
    must(&mut state, ClusterCommand::NodesLeave { nodes: [1, 2].map(NodeId).into() });
    vote(&mut state, &[3, 4, 5]);
    let there = NextOfRejoin::There { node: NodeId(2), votes: false };
    assert_eq!(next(&state, &NodeLedger::Open(open(2, 1)), 1), Ok(there));
}

#[test]
fn after_a_forced_quorum_the_others_give_up_what_they_had() {
    let mut state = cluster();
    let (incarnation, voters) = (LedgerIncarnation(2), BTreeSet::from([NodeId(1)]));
    let (by, loses) = ("me".to_owned(), "all".to_owned());
    must(&mut state, ClusterCommand::ForceQuorum { incarnation, voters, by, loses });
    let old = GiveUpRequest { node: NodeId(2), incarnation: LedgerIncarnation(1) };
    assert_eq!(next(&state, &NodeLedger::Open(open(2, 1)), 2), Ok(NextOfRejoin::GiveUp(old)));
    must(&mut state, ClusterCommand::ReplaceNode { lost: NodeId(2) });
    // With the survivor that makes two, and two are not a set of voters.
    let there = NextOfRejoin::There { node: NodeId(4), votes: false };
    assert_eq!(next(&state, &NodeLedger::Open(open(4, 2)), 2), Ok(there));
    must(&mut state, ClusterCommand::ReplaceNode { lost: NodeId(3) });
    assert_eq!(next(&state, &NodeLedger::Open(open(4, 2)), 2), Ok(NextOfRejoin::Vote));
}

#[test]
fn a_ledger_that_was_forced_apart_is_not_given_up_for_an_earlier_one() {
    let state = cluster();
    let incarnation = LedgerIncarnation(2);
    let apart = CantRejoin::ForcedApart { incarnation };
    assert_eq!(next(&state, &NodeLedger::Open(open(2, 2)), 1), Err(apart.clone()));
    let forced = OpenLedger { forcing: Some("0a".to_owned()), ..open(2, 2) };
    assert_eq!(next(&state, &NodeLedger::Open(forced), 2), Err(apart));
}
