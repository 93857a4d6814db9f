use super::*;
use crate::deployment::tests::cluster;
use api::Holds;
use control::state::{Cache, Settings};
use model::{BootId, DriveId, DriveSerial, PowerCycles};
use std::collections::BTreeSet;

fn open(cluster: &str) -> NodeLedger {
    NodeLedger::Open(OpenLedger {
        cluster: cluster.to_owned(),
        node: model::NodeId(1),
        incarnation: model::LedgerIncarnation(1),
        forcing: None,
        term: 1,
        leader: None,
        voters: BTreeSet::new(),
        members: BTreeMap::new(),
        names: BTreeMap::new(),
        last: None,
        committed: 1,
        applied: Some(1),
        stopped: None,
    })
}

fn does(state: &mut State, command: ClusterCommand) {
    state.apply(&Command::Cluster(command)).unwrap();
}

/// Every node with a ledger, and each that is no witness with a drive of the pool.
fn deployed(cluster: &Cluster) -> Look {
    let mut state = State::new(Settings::default());
    let mut contents = BTreeMap::new();
    for (id, member) in (1..).map(model::NodeId).zip(&cluster.members) {
        does(&mut state, ClusterCommand::AddNode { name: member.name.clone(), zone: member.zone.clone() });
        does(
            &mut state,
            ClusterCommand::Register { node: id, was: None, boot: BootId(1), drives: BTreeMap::new() },
        );
        if member.zone.is_some() {
            let serial: DriveSerial = format!("S-{}", member.name).parse().unwrap();
            let (size_bytes, cache, power_cycles) = (64 << 30, Cache::Safe, PowerCycles(0));
            does(
                &mut state,
                ClusterCommand::AddDrive {
                    node: id,
                    serial: serial.clone(),
                    size_bytes,
                    cache,
                    power_cycles,
                },
            );
            let holds = Holds::Pool { cluster: "c1".to_owned(), drive: DriveId(id.0) };
            contents.insert(member.name.clone(), vec![DriveContents { serial, holds }]);
        }
    }
    let all = |value: &dyn Fn() -> NodeLedger| {
        cluster.members.iter().map(|member| (member.name.clone(), value())).collect()
    };
    let ways = cluster.members.iter().map(|member| {
        let name = network::LinkName::team();
        (member.name.clone(), WayHome { ops: vec![network::Op::Delete { name }], unknown: None })
    });
    Look { ledgers: all(&|| open("c1")), ledger: Some(Ok(state)), contents, ways: ways.collect() }
}

fn said(plan: &Plan) -> String {
    let changes = plan.changes.iter().map(|change| format!("{} {change}", change.stage));
    changes.chain(plan.notes.iter().cloned()).collect::<Vec<_>>().join("\n")
}

fn in_the_way(cluster: &Cluster, look: &Look) -> String {
    plan(cluster, look).unwrap_err().to_string()
}

#[test]
fn what_the_cluster_has_is_given_back_and_nothing_else() {
    let cluster = cluster();
    let mut look = deployed(&cluster);
    let drive = |serial: &str, holds| DriveContents { serial: serial.parse().unwrap(), holds };
    let first = look.contents.values_mut().next().unwrap();
    first.push(drive("FOREIGN", Holds::Other { what: "an XFS file system".to_owned() }));
    first.push(drive("BLANK", Holds::Nothing {}));
    first.push(drive("OTHER", Holds::Pool { cluster: "c2".to_owned(), drive: DriveId(3) }));
    insta::assert_snapshot!(said(&plan(&cluster, &look).unwrap()));
}

#[test]
fn one_that_was_interrupted_goes_on_with_what_is_left() {
    let cluster = cluster();
    let mut look = deployed(&cluster);
    let gone = cluster.members[0].name.clone();
    look.ledgers.insert(gone.clone(), NodeLedger::None {});
    assert!(in_the_way(&cluster, &look).contains("has none itself"), "it may have lost it");
    look.ledgers.insert(gone.clone(), open("c1"));
    assert!(!knows(&plan(&cluster, &look).unwrap(), None), "nobody has asked it to leave");
    look.ledgers.insert(gone.clone(), NodeLedger::None {});
    look.contents.insert(gone.clone(), Vec::new());
    let state = look.ledger.as_mut().unwrap().as_mut().unwrap();
    let nodes = state.nodes.keys().copied().collect();
    does(state, ClusterCommand::Dissolve { nodes });
    let left = plan(&cluster, &look).unwrap();
    assert!(!left.members.contains_key(&gone) && left.members.len() == cluster.members.len() - 1);
    assert!(knows(&left, None), "it was asked to leave by the run before, and has since the look");

    // All have left; one drive's node had lost its ledger before, and links are still there.
    look.ledgers.values_mut().for_each(|ledger| *ledger = NodeLedger::None {});
    look.ledger = None;
    let left = plan(&cluster, &look).unwrap();
    assert!(left.changes.iter().all(|change| change.stage == Stage::Network));
    assert_eq!(left.notes.len(), 1, "{:?}", left.notes);
    look.ways.values_mut().for_each(|way| way.ops.clear());
    assert_eq!(plan(&cluster, &look).unwrap().changes, []);
}

#[test]
fn all_that_is_in_the_way_is_said_at_once() {
    let cluster = cluster();
    let mut look = deployed(&cluster);
    let (one, two) = (cluster.members[0].name.clone(), cluster.members[1].name.clone());
    look.ledgers.insert(one, open("c2"));
    look.ledgers.insert(two, NodeLedger::Closed { why: "it is damaged".to_owned(), is_lost: true });
    let state = look.ledger.as_mut().unwrap().as_mut().unwrap();
    does(state, ClusterCommand::AddNode { name: "stranger".parse().unwrap(), zone: None });
    insta::assert_snapshot!(in_the_way(&cluster, &look));
    look.ledger = Some(Err("no quorum".to_owned()));
    assert!(in_the_way(&cluster, &look).contains("no quorum"));
}
