//! Drifts of two nodes' links on a simulated kernel.

use super::*;
use model::MacAddress;
use network::link::AdapterMap;
use network::traffic::Traffic;
use network::{Generation, diff, plan};

const ATTRIBUTES: [Attribute; 14] = [
    Attribute::Presence,
    Attribute::Mtu,
    Attribute::Up,
    Attribute::Master,
    Attribute::Addresses,
    Attribute::BridgeVlans,
    Attribute::Ipv6LinkLocal,
    Attribute::Miimon,
    Attribute::Primary,
    Attribute::Reselect,
    Attribute::VlanFiltering,
    Attribute::DefaultVlan,
    Attribute::Queue,
    Attribute::Filters,
];

fn nodes() -> Vec<(Settled, AdapterMap)> {
    let text = std::fs::read_to_string("templates/1+1.toml").unwrap();
    let source = template::Source::new("1+1".to_owned(), &text);
    let spec = template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap();
    let adapters: BTreeSet<_> = spec.intents.iter().flat_map(|intent| intent.adapters.clone()).collect();
    let adapters: AdapterMap =
        adapters.into_iter().zip(1..).map(|(adapter, n)| (adapter, MacAddress([2, 0, 0, 0, 0, n]))).collect();
    let mut bare = CurrentLinks::default();
    for (mac, index) in adapters.values().zip(2..) {
        let nic = CurrentLink {
            index,
            kind: LinkKind::Nic,
            mac: Some(*mac),
            permanent_mac: Some(*mac),
            up: true,
            carrier: Some(true),
            mtu_bytes: 1500,
            master: None,
            addresses: BTreeSet::new(),
            bridge_vlans: BTreeMap::new(),
            ipv6_link_local: Some(true),
            routes: BTreeSet::new(),
            traffic: Traffic::default(),
        };
        bare.links.insert(format!("eth{index}").parse().unwrap(), nic);
    }
    let settle = |node: &NodeName| {
        let plan = plan(&spec, node, Generation(1)).unwrap();
        let mut links = bare.clone();
        for op in diff(&links, &plan, &adapters).unwrap() {
            simulate::apply(&mut links, &op).unwrap();
        }
        let desired = plan.resolve(&adapters, &links).unwrap();
        (Settled { node: node.clone(), links, desired }, adapters.clone())
    };
    spec.nodes().map(|(_, node)| settle(&node.name)).collect()
}

fn settled() -> Vec<Settled> {
    nodes().into_iter().map(|(settled, _)| settled).collect()
}

#[test]
fn every_candidate_can_be_made_and_is_a_drift_that_names_its_aim() {
    let nodes = settled();
    let everything = deal(&mut Rng::with_seed(7), &nodes, usize::MAX);
    assert!(everything.len() > 100, "{}", everything.len());
    for drift in &everything {
        let settled = nodes.iter().find(|settled| settled.node == drift.node).unwrap();
        assert!(
            drift.follows(settled).contains(&drift.aims_at().unwrap()),
            "{drift}: {:?}",
            drift.follows(settled)
        );
        assert!(drift.ops.iter().all(|op| words(op).len() > 3), "{drift}");
    }
}

#[test]
fn no_kind_of_attribute_is_drawn_again_before_all_were() {
    let nodes = settled();
    let first = deal(&mut Rng::with_seed(7), &nodes, ATTRIBUTES.len() + 1);
    let kinds: BTreeSet<Attribute> = first.iter().map(|drift| drift.aims_at).collect();
    let all = ATTRIBUTES.into_iter().chain([Attribute::EgressPriorities]).collect();
    assert_eq!(kinds, all);
}

#[test]
fn the_seed_decides() {
    let nodes = settled();
    let dealt = |seed| deal(&mut Rng::with_seed(seed), &nodes, 20);
    assert_eq!(dealt(7), dealt(7));
    assert_ne!(dealt(7), dealt(8));
    assert_eq!(dealt(7).len(), 20);
}

#[test]
fn what_a_person_types() {
    let nodes = settled();
    let mut lines: Vec<String> = deal(&mut Rng::with_seed(7), &nodes[..1], usize::MAX)
        .iter()
        .flat_map(|drift| drift.ops.iter().map(by_hand::command))
        .collect();
    lines.sort();
    lines.dedup();
    insta::assert_snapshot!(lines.join("\n"));
}
