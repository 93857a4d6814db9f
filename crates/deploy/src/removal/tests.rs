use super::*;
use crate::deployment::InTheWay;
use crate::deployment::tests::{THREE, TWO, cluster_of, deployed, spec_of};
use api::{Holds, WayHome};
use control::state::{LegState, Voters};
use control::vm::VmsCommand;
use model::{DriveId, Mirror};

fn names(names: &[&str]) -> BTreeSet<NodeName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A cluster that serves, with links that can be given back.
fn serving(template: &str) -> (Cluster, Look) {
    let cluster = cluster_of(spec_of(template));
    let nodes = cluster.spec.shape().nodes_per_zone();
    let seen = deployed(&cluster, nodes);
    let op = network::Op::Delete { name: network::LinkName::team() };
    let ways = cluster
        .members
        .iter()
        .map(|member| (member.name.clone(), WayHome { ops: vec![op.clone()], unknown: None }));
    let (ledgers, ledger, contents) = (seen.ledgers, seen.ledger, seen.contents);
    let mut look = Look { ledgers, ledger, contents, ways: ways.collect() };
    for leg in state(&mut look).volumes.values_mut().flat_map(|volume| volume.legs.values_mut()) {
        leg.state = LegState::InSync;
    }
    (cluster, look)
}

fn state(look: &mut Look) -> &mut State {
    look.ledger.as_mut().unwrap().as_mut().unwrap()
}

fn does(look: &mut Look, command: ClusterCommand) {
    state(look).apply(&Command::Cluster(command)).unwrap();
}

fn planned(cluster: &Cluster, look: &Look, pair: &[&str]) -> Result<Plan, InTheWay> {
    plan(cluster, look, &names(pair))
}

fn said(plan: &Plan) -> String {
    let changes = plan.changes.iter().map(|change| format!("{} {change}", change.stage));
    changes.chain(plan.notes.iter().cloned()).collect::<Vec<_>>().join("\n")
}

fn refused(cluster: &Cluster, look: &Look, pair: &[&str]) -> String {
    planned(cluster, look, pair).unwrap_err().to_string()
}

/// The ids of nodes.
fn ids(look: &mut Look, pair: &[&str]) -> BTreeSet<NodeId> {
    let names = names(pair);
    state(look).nodes.iter().filter(|(_, node)| names.contains(&node.name)).map(|(id, _)| *id).collect()
}

#[test]
fn what_a_pair_has_goes_elsewhere_and_the_pair_is_given_back() {
    let (cluster, look) = serving(THREE);
    let plan = planned(&cluster, &look, &["a3", "b1"]).unwrap();
    insta::assert_snapshot!(said(&plan));
    assert!(plan.is_member && plan.drives.len() == 4);
}

#[test]
fn what_is_no_pair_that_can_leave_is_in_the_way() {
    let (cluster, look) = serving(THREE);
    for (pair, why) in [
        (&["a3"][..], "no node of rack rack-b is named"),
        (&["a2", "a3"], "a2 and a3 are of one rack, rack-a"),
        (&["a3", "witness"], "witness is the witness"),
        (&["a3", "b9"], "the template has no node b9"),
    ] {
        let refused = refused(&cluster, &look, pair);
        assert!(refused.contains(why), "{refused}");
    }
    let (one, look) = serving(include_str!("../../../../hil/templates/1+1.toml"));
    let refused = refused(&one, &look, &["a1", "b1"]);
    assert!(
        refused.contains("a1 is the last node of rack rack-a") && refused.contains("rack rack-b"),
        "{refused}"
    );
}

#[test]
fn who_is_not_in_the_ledger_as_it_has_to_be_is_in_the_way() {
    let (cluster, mut look) = serving(THREE);
    look.ledgers.insert("b1".parse().unwrap(), NodeLedger::None {});
    look.ledgers
        .insert("a2".parse().unwrap(), NodeLedger::Closed { why: "damaged".to_owned(), is_lost: true });
    let closed = refused(&cluster, &look, &["a3", "b1"]);
    assert!(closed.contains("the ledger of a2 can't be used: damaged"), "{closed}");
    let (_, whole) = serving(THREE);
    look.ledgers.insert("a2".parse().unwrap(), whole.ledgers[&"a2".parse::<NodeName>().unwrap()].clone());
    let without = refused(&cluster, &look, &["a3", "b1"]);
    assert!(without.contains("b1 is in the ledger, and has none itself"), "{without}");
    let (_, mut other) = serving(THREE);
    let pair = ids(&mut other, &["a2", "b2"]);
    let volumes = std::mem::take(&mut state(&mut other).volumes);
    does(&mut other, ClusterCommand::NodesLeave { nodes: pair });
    state(&mut other).volumes = volumes;
    let others = refused(&cluster, &other, &["a3", "b1"]);
    assert!(others.contains("a2 leaves the cluster already") && others.contains("b2 leaves"), "{others}");
    other.ledger = None;
    other.ledgers.values_mut().for_each(|ledger| *ledger = NodeLedger::None {});
    let nobody = refused(&cluster, &other, &["a3", "b1"]);
    assert!(nobody.contains("there is no cluster to remove nodes from"), "{nobody}");
}

#[test]
fn what_cant_go_is_in_the_way_all_at_once() {
    // Four copies need two nodes in each rack.
    let (two, look) = serving(TWO);
    let four_way = refused(&two, &look, &["a2", "b2"]);
    assert!(four_way.contains("1 nodes of rack-a would stay, and volumes need 2"), "{four_way}");
    assert!(four_way.contains("no way back to two copies"), "{four_way}");

    let (three, mut look) = serving(THREE);
    let leave = ids(&mut look, &["a3", "b3"]);
    let there: Vec<DriveId> = state(&mut look)
        .drives
        .iter()
        .filter(|(_, drive)| leave.contains(&drive.node))
        .map(|(id, _)| *id)
        .collect();
    let found = state(&mut look).volumes.values_mut();
    let mut on_it: Vec<_> =
        found.filter(|volume| volume.legs.values().any(|leg| there.contains(&leg.drive))).collect();
    on_it[0].phase = Phase::Closed;
    on_it[1].phase = Phase::Offline;
    let names = [on_it[0].name.clone(), on_it[1].name.clone()];
    let refused_both = refused(&three, &look, &["a3", "b3"]);
    assert!(refused_both.contains(&format!("volume {} is closed", names[0])), "{refused_both}");
    assert!(refused_both.contains(&format!("volume {} is offline", names[1])), "{refused_both}");

    // All others in maintenance: nobody would take a virtual machine.
    let (_, mut look) = serving(THREE);
    let nodes = ids(&mut look, &["a1", "a2", "b1", "b2"]);
    let drain = VmsCommand::Drain { nodes, leftover: Leftover::Stays };
    state(&mut look).apply(&Command::Vms(drain)).unwrap();
    let nobody = refused(&three, &look, &["a3", "b3"]);
    assert!(nobody.contains("`twinrack node list`"), "{nobody}");
}

#[test]
fn copies_that_have_no_room_on_what_stays_are_in_the_way() {
    let (cluster, mut look) = serving(THREE);
    // The drives of those who stay are just as large as what they hold, and what is kept free there.
    let leave = ids(&mut look, &["a3", "b3"]);
    let small = model::SLABS_OFFSET_BYTES + 4 * model::SLAB_BYTES;
    for drive in state(&mut look).drives.values_mut().filter(|drive| !leave.contains(&drive.node)) {
        drive.size_bytes = small;
    }
    let refused = refused(&cluster, &look, &["a3", "b3"]);
    assert!(refused.contains("add drives to the nodes that stay"), "{refused}");
}

/// All that a removal does, up to the first that leaves its ledger.
fn emptied(look: &mut Look, pair: &[&str]) {
    let leave = ids(look, pair);
    have_left(state(look), &leave);
}

/// They have nothing any more.
pub(crate) fn have_left(state: &mut State, leave: &BTreeSet<NodeId>) {
    let stays = *state.nodes.keys().find(|id| !leave.contains(id)).unwrap();
    let drives: BTreeSet<DriveId> =
        state.drives.iter().filter(|(_, drive)| leave.contains(&drive.node)).map(|(id, _)| *id).collect();
    for volume in state.volumes.values_mut() {
        volume.legs.retain(|_, leg| !drives.contains(&leg.drive));
        volume.owner = stays;
    }
    let nodes = leave.clone();
    state.apply(&Command::Cluster(ClusterCommand::NodesLeave { nodes })).unwrap();
    for drive in drives {
        state.apply(&Command::Cluster(ClusterCommand::RemoveDrive(drive))).unwrap();
    }
    let voters = state.nodes.keys().copied().filter(|id| !leave.contains(id)).collect();
    state.voters = Voters::Settled(voters);
    assert!(leave.iter().all(|id| state.has_left(*id)));
}

#[test]
fn one_that_was_interrupted_goes_on_with_what_is_left() {
    let (cluster, mut look) = serving(THREE);
    let pair = ["a3", "b3"];
    let first = planned(&cluster, &look, &pair).unwrap();
    let nodes = ids(&mut look, &pair);
    let before = state(&mut look).clone();
    does(&mut look, ClusterCommand::NodesLeave { nodes });
    let again = planned(&cluster, &look, &pair).unwrap();
    assert_eq!(again.drives, first.drives);
    assert!(again.changes.iter().all(|change| change.stage != Stage::Quorum), "{}", said(&again));

    look.ledger = Some(Ok(before));
    emptied(&mut look, &pair);
    let empty = planned(&cluster, &look, &pair).unwrap();
    assert!(
        empty.drives.is_empty() && said(&empty).contains("give drive a3-1 back, blank"),
        "{}",
        said(&empty)
    );
    // One has given all back, and nobody has said so to the ledger.
    let gone: NodeName = "a3".parse().unwrap();
    look.ledgers.insert(gone.clone(), NodeLedger::None {});
    look.contents.get_mut(&gone).unwrap().iter_mut().for_each(|drive| drive.holds = Holds::Nothing {});
    assert!(destruction::plan(&cluster, &look).is_ok(), "all of it can be given back as well");
    let left = planned(&cluster, &look, &pair).unwrap();
    assert!(
        said(&left).contains("forget a3") && !said(&left).contains("a3: remove the ledger"),
        "{}",
        said(&left)
    );
    let id = *ids(&mut look, &["a3"]).first().unwrap();
    does(&mut look, ClusterCommand::RemoveNode(id));
    let left = planned(&cluster, &look, &pair).unwrap();
    assert!(!said(&left).contains("forget a3") && said(&left).contains("forget b3"), "{}", said(&left));
    // Then the other; links are left.
    look.ledgers.insert("b3".parse().unwrap(), NodeLedger::None {});
    let id = *ids(&mut look, &["b3"]).first().unwrap();
    does(&mut look, ClusterCommand::RemoveNode(id));
    let left = planned(&cluster, &look, &pair).unwrap();
    assert!(
        !left.is_member
            && left.changes.iter().all(|change| change.stage == Stage::Network || change.of == "b3")
    );
    look.contents.clear();
    look.ways.values_mut().for_each(|way| way.ops.clear());
    let nothing = planned(&cluster, &look, &pair).unwrap();
    assert_eq!(
        (said(&nothing).as_str(), nothing.changes.len()),
        ("neither of them is part of the cluster", 0)
    );
    // One that never was, beside one that is.
    let (_, mut other) = serving(THREE);
    let id = *ids(&mut other, &["b3"]).first().unwrap();
    state(&mut other).nodes.remove(&id);
    other.ledgers.insert("b3".parse().unwrap(), NodeLedger::None {});
    let refused = refused(&cluster, &other, &pair);
    assert!(refused.contains("b3 is not in the ledger"), "{refused}");
}

#[test]
fn of_one_that_has_left_and_is_gone_for_good_nothing_is_needed() {
    let (cluster, mut look) = serving(THREE);
    let pair = ["a3", "b3"];
    emptied(&mut look, &pair);
    let gone: NodeName = "a3".parse().unwrap();
    look.ledgers.remove(&gone);
    look.ways.remove(&gone);
    look.contents.remove(&gone);
    let plan = planned(&cluster, &look, &pair).unwrap();
    assert_eq!(plan.silent, [gone].into());
    let said = said(&plan);
    assert!(said.contains("forget a3") && said.contains("a3 has left, and does not answer"), "{said}");
    assert!(!said.contains("a3: remove the ledger"), "{said}");
}

#[test]
fn drives_of_one_that_lost_its_ledger_when_it_had_left_stay_as_they_are() {
    let (cluster, mut look) = serving(THREE);
    let pair = ["a3", "b3"];
    emptied(&mut look, &pair);
    look.ledgers.insert("a3".parse().unwrap(), NodeLedger::None {});
    let plan = planned(&cluster, &look, &pair).unwrap();
    assert!(plan.kept.iter().all(|serial| serial.as_str().starts_with("a3-")) && plan.kept.len() == 2);
    let said = said(&plan);
    assert!(said.contains("drive a3-1 stays as it is") && !said.contains("give drive a3-1 back"), "{said}");
    assert!(said.contains("give drive b3-1 back"), "{said}");
}

#[test]
fn a_drive_that_the_ledger_has_elsewhere_is_not_given_back() {
    let (cluster, mut look) = serving(THREE);
    let own: NodeName = "a1".parse().unwrap();
    let strays =
        look.contents[&own].iter().find(|drive| matches!(drive.holds, Holds::Pool { .. })).unwrap().clone();
    let serial = strays.serial.clone();
    look.contents.get_mut(&"a3".parse::<NodeName>().unwrap()).unwrap().push(strays);
    let plan = planned(&cluster, &look, &["a3", "b3"]).unwrap();
    assert!(!said(&plan).contains(&format!("give drive {serial} back")), "{}", said(&plan));
}

#[test]
fn a_volume_goes_to_its_owners_rack_and_to_a_good_copy_there() {
    let (_, mut look) = serving(THREE);
    let leave = ids(&mut look, &["a3", "b3"]);
    let state = state(&mut look);
    let owner = *leave.first().unwrap();
    let (id, _) = state.volumes.iter().next().map(|(id, volume)| (*id, volume.clone())).unwrap();
    let volume = state.volumes.get_mut(&id).unwrap();
    volume.owner = owner;
    let volume = volume.clone();
    assert_eq!(volume.mirror, Mirror::FourWay);
    assert_eq!(owned(state, &leave).map(|(found, _)| found), Some(id));
    let to = heir(state, &volume, &leave).unwrap();
    assert_eq!(state.nodes[&to].zone, state.nodes[&owner].zone);
    assert!(!leave.contains(&to));
    assert!(volume.in_sync().any(|(_, leg)| state.node_of(leg) == Some(to)), "it has a copy");
}
