//! A clean cluster holds every check, and each check is broken alone.

use super::*;
use crate::vms::tests::{ledger, views as of_nodes};
use api::{Committed, DriftGlance, Drifts, NicState};
use control::state::Doubt;
use control::state::{Leg, Phase};
use network::conditions::PathQuality;
use network::{CurrentLinks, Generation};

const NAMES: [&str; 3] = ["a1", "b1", "witness"];

/// A node in each rack and the witness, three volumes with a copy in each rack: all as it should be.
fn clean() -> Facts {
    let mut state = ledger();
    for volume in state.volumes.values_mut() {
        volume.phase = Phase::Closed;
        for leg in volume.legs.values_mut() {
            leg.state = LegState::InSync;
        }
    }
    let mut views = of_nodes(&state, &[1, 2, 3]);
    for ((name, view), own) in views.iter_mut().zip(NAMES) {
        *name = own.parse().unwrap();
        view.voters = (1..=3).map(NodeId).collect();
    }
    let asked = NAMES.map(|name| name.parse().unwrap()).to_vec();
    let named = |name: &NodeName| (name.clone(), health(name));
    Facts {
        views,
        health: asked.iter().map(named).collect(),
        networks: asked.iter().map(|name: &NodeName| (name.clone(), in_force())).collect(),
        asked,
    }
}

fn health(name: &NodeName) -> Health {
    let peers: &[&str] = match name.as_str() {
        "a1" => &["b1"],
        "b1" => &["a1"],
        _ => &[],
    };
    let on_both = || peers.iter().flat_map(|peer| ["1", "2"].map(|network| (*peer, network)));
    let path = |(peer, network): (&str, &str)| network::diagnose::PathView {
        peer: peer.parse().unwrap(),
        network: network.parse().unwrap(),
        heard_ms_ago: Some(100),
        late_ms_ago: None,
    };
    let quality = |(peer, network): (&str, &str)| PathQuality {
        peer: peer.parse().unwrap(),
        network: network.parse().unwrap(),
        round_trips: 20,
        min_us: Some(200),
        median_us: Some(400),
        large_missing: 0,
    };
    Health {
        node: name.clone(),
        boot_id: String::new(),
        uptime_ms: 0,
        wall_ms: 0,
        listening_ms: 60_000,
        paths: on_both().map(path).collect(),
        qualities: on_both().map(quality).collect(),
        nics: vec![NicState {
            adapter: "nic1".parse().unwrap(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            kernel_name: None,
            carrier: Some(true),
            carrier_losses: 0,
            neighbour: None,
        }],
        drifts: DriftGlance::default(),
        out_of_room: BTreeMap::new(),
    }
}

fn in_force() -> NetworkState {
    NetworkState {
        links: CurrentLinks::default(),
        generation: None,
        pending_ms: None,
        taken_back: None,
        committed: Some(Committed { generation: Generation(1), not_made: None }),
        drifts: Drifts::default(),
        compute_vlans: Vec::new(),
    }
}

fn broken(facts: &Facts) -> Vec<(&'static str, Vec<String>)> {
    let checks = verify(facts).into_iter().filter(|check| !check.holds());
    checks.map(|check| (check.id, check.wrong)).collect()
}

#[test]
fn a_cluster_that_is_as_it_has_to_be_holds_every_check() {
    let checks = verify(&clean());
    assert!(checks.iter().all(Check::holds), "{checks:#?}");
    let told: Vec<String> = checks
        .iter()
        .flat_map(|check| [vec![format!("{}: {}", check.id, check.found)], check.each.clone()].concat())
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}

/// What the quorum's word is changed to.
fn in_ledger(change: impl Fn(&mut State)) -> Facts {
    let mut facts = clean();
    facts.views.iter_mut().for_each(|(_, view)| change(&mut view.state));
    facts
}

fn at(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn a_leg(state: &mut State) -> &mut Leg {
    state.volumes.values_mut().next().and_then(|volume| volume.legs.values_mut().next()).unwrap()
}

/// A second drive in the first node, which holds the last volume's copy: neither has room for what the other holds. (The other nodes have one, which is told, too.)
fn with_little_room(state: &mut State) {
    let mut drive = state.drives[&model::DriveId(1)].clone();
    drive.size_bytes = 740 << 20;
    state.drives.insert(model::DriveId(1), drive.clone());
    state.drives.insert(model::DriveId(9), drive);
    let leg = state.volumes.values_mut().last().and_then(|volume| volume.legs.values_mut().next()).unwrap();
    leg.drive = model::DriveId(9);
    leg.extents[0].first = 0;
}

#[test]
fn each_check_is_broken_alone() {
    let change = |change: &dyn Fn(&mut Facts)| {
        let mut facts = clean();
        change(&mut facts);
        facts
    };
    let cases = [
        change(&|facts| facts.networks.get_mut(&at("a1")).unwrap().committed = None),
        change(&|facts| facts.networks.get_mut(&at("a1")).unwrap().pending_ms = Some(700)),
        change(&|facts| drop(facts.networks.remove(&at("witness")))),
        change(&|facts| facts.health.get_mut(&at("b1")).unwrap().drifts.standing = 2),
        change(&|facts| facts.health.get_mut(&at("b1")).unwrap().nics[0].carrier = Some(false)),
        change(&|facts| facts.health.get_mut(&at("b1")).unwrap().paths[1].heard_ms_ago = Some(1_001)),
        change(&|facts| facts.health.get_mut(&at("b1")).unwrap().paths.truncate(1)),
        change(&|facts| facts.health.get_mut(&at("a1")).unwrap().qualities[0].median_us = Some(1_001)),
        change(&|facts| facts.health.values_mut().for_each(|health| health.qualities.clear())),
        change(&|facts| facts.views.iter_mut().for_each(|(_, view)| view.confirmed = false)),
        change(&|facts| {
            facts.views.iter_mut().for_each(|(_, view)| view.voters.retain(|id| *id != NodeId(2)));
        }),
        change(&|facts| facts.views[1].1.leased = false),
        change(&|facts| {
            facts.views.iter_mut().for_each(|(_, view)| {
                let _ = view.voters.insert(NodeId(9));
            });
        }),
        change(&|facts| {
            facts.asked.push(at("b9"));
            facts.health.insert(at("b9"), health(&at("witness")));
            facts.networks.insert(at("b9"), in_force());
        }),
        change(&|facts| facts.health.get_mut(&at("b1")).unwrap().paths.clear()),
        change(&|facts| facts.health.get_mut(&at("b1")).unwrap().nics.clear()),
        change(&|facts| facts.health.get_mut(&at("a1")).unwrap().qualities[0].median_us = None),
        change(&|facts| {
            let room = &mut facts.health.get_mut(&at("a1")).unwrap().out_of_room;
            room.insert(model::VolumeId(1), "no slab is free".to_owned());
        }),
        in_ledger(|state| {
            state
                .apply(&control::Command::Cluster(control::ClusterCommand::AddNode {
                    name: at("a2"),
                    zone: Some("rack1".parse().unwrap()),
                }))
                .unwrap();
            // Nobody asked it; it counts since it has a drive.
            state.drives.values_mut().next().unwrap().node = NodeId(4);
        }),
        in_ledger(|state| state.drives.values_mut().next().unwrap().health = DriveHealth::Slow),
        in_ledger(|state| state.drives.values_mut().next().unwrap().retired = true),
        in_ledger(with_little_room),
        in_ledger(|state| a_leg(state).drive = model::DriveId(2)),
        in_ledger(|state| a_leg(state).state = LegState::Suspect { why: Doubt::Errored }),
    ];
    let told: Vec<String> = cases.iter().map(|facts| format!("{:?}", broken(facts))).collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn nothing_holds_of_a_cluster_of_which_nobody_answers() {
    let facts = Facts { asked: clean().asked, ..Facts::default() };
    assert!(verify(&facts).iter().all(|check| !check.holds()));
}
