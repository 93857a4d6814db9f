use super::*;
use crate::testing::{ADAPTERS, adapter, adapters, bare_nics, converged, spec, vlan};

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn plan_of(spec: &ClusterSpec) -> Result<NetworkPlan, PlanError> {
    plan(spec, &node("n2"), Generation(3))
}

#[test]
fn a_node_with_dedicated_storage() {
    insta::assert_json_snapshot!(plan_of(&spec(2)).unwrap());
}

#[test]
fn a_node_with_one_converged_intent_and_untagged_management() {
    insta::assert_json_snapshot!(plan_of(&converged(1)).unwrap());
}

#[test]
fn the_witness_has_management_alone() {
    insta::assert_json_snapshot!(plan_witness(&spec(1), &[adapter("mgmt")], Generation(1)).unwrap());
}

#[test]
fn plans_survive_being_written_down() {
    let plan = plan_of(&spec(2)).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<NetworkPlan>(&text).unwrap(), plan);
}

#[test]
fn what_no_rule_lets_through_is_refused() {
    let broken = |change: &dyn Fn(&mut ClusterSpec)| {
        let mut spec = spec(1);
        change(&mut spec);
        plan_of(&spec).unwrap_err()
    };
    assert_eq!(plan(&spec(1), &node("n9"), Generation(0)), Err(PlanError::UnknownNode(node("n9"))));
    assert_eq!(broken(&|spec| spec.intents.clear()), PlanError::NoManagement);
    let alone = broken(&|spec| {
        spec.intents[0].traffic.remove(&TrafficClass::Compute);
        spec.intents[1].traffic.insert(TrafficClass::Compute);
    });
    assert_eq!(alone, PlanError::ComputeApart("storage".parse().unwrap()));
    let shared = broken(&|spec| spec.intents[1].adapters.push(adapter(ADAPTERS[0])));
    assert!(matches!(shared, PlanError::SharedAdapter { .. }));
    let stray = broken(&|spec| spec.storage_networks[0].adapter = adapter(ADAPTERS[0]));
    assert!(matches!(stray, PlanError::StorageAdapter { network, .. } if network == "StorageNetwork1"));
    let same = broken(&|spec| spec.storage_networks[1].vlan = vlan(711));
    assert!(matches!(same, PlanError::SharedVlan { vlan, .. } if vlan.get() == 711));
    let compute = broken(&|spec| spec.compute_vlans.push(vlan(712)));
    assert!(matches!(compute, PlanError::SharedVlan { second, .. } if second == "compute"));
    let mut spec = spec(1);
    spec.witness.management_ip = None;
    let witness = plan_witness(&spec, &[adapter("mgmt")], Generation(0));
    assert_eq!(witness, Err(PlanError::WitnessAddress(node("witness"))));
}

#[test]
fn untagged_management_takes_a_vlan_that_nobody_else_has() {
    let mut spec = converged(1);
    spec.compute_vlans = vec![vlan(1), vlan(2)];
    spec.storage_networks[0].vlan = vlan(3);
    assert_eq!(native_vlan(&spec).get(), 4);
}

#[test]
fn virtual_machines_may_share_the_management_vlan() {
    let mut spec = spec(1);
    spec.compute_vlans.push(vlan(7));
    assert!(plan_of(&spec).is_ok());
}

#[test]
fn adapters_are_found_by_permanent_address_under_any_name() {
    let mut links = bare_nics();
    // eth1 is a port of a bond, which gave it eth0's address.
    let first = links.links[&"eth0".parse().unwrap()].mac;
    links.links.get_mut(&"eth1".parse().unwrap()).unwrap().mac = first;
    let desired = plan_of(&spec(2)).unwrap().resolve(&adapters(), &links).unwrap();
    let team: Vec<_> =
        desired.links.iter().filter(|(_, link)| link.master == Some(LinkName::team())).collect();
    assert_eq!(team.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
}

#[test]
fn a_node_without_the_nic_is_told_which() {
    let plan = plan_of(&spec(2)).unwrap();
    let mut map = adapters();
    let mut links = bare_nics();
    links.links.remove(&"eth3".parse().unwrap());
    let missing = plan.resolve(&map, &links).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "adapter Ethernet 4 is the NIC with MAC address 02:00:00:00:01:03, and there is none"
    );
    map.insert(adapter(ADAPTERS[3]), map[&adapter(ADAPTERS[2])]);
    assert!(matches!(plan.resolve(&map, &links), Err(ResolveError::SameNic { .. })));
    map.remove(&adapter(ADAPTERS[3]));
    assert_eq!(plan.resolve(&map, &links), Err(ResolveError::Unmapped(adapter(ADAPTERS[3]))));
}
