//! What the simulated kernel refuses and what follows from an operation.

use super::*;
use crate::link::BondMode;

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn run(state: &mut CurrentLinks, ops: &[Op]) {
    for op in ops {
        apply(state, op).unwrap_or_else(|refused| panic!("{op}: {refused}"));
    }
}

/// Two NICs in a bond with a VLAN link above.
fn team() -> CurrentLinks {
    let mut state = CurrentLinks::default();
    for nic in ["a", "b"] {
        create(&mut state, &name(nic), LinkKind::Nic, 1500).unwrap();
    }
    let vlan = VlanId::try_from(7).unwrap();
    run(
        &mut state,
        &[
            Op::CreateBond { name: name("t"), mode: BondMode::ActiveBackup, miimon_ms: 100 },
            Op::Join { name: name("a"), master: name("t") },
            Op::Join { name: name("b"), master: name("t") },
            Op::SetPrimary { name: name("t"), port: Some(name("a")) },
            Op::SetUp { name: name("t") },
            Op::CreateVlan { name: name("v"), parent: name("t"), vlan, egress_qos: BTreeMap::new() },
            Op::SetUp { name: name("v") },
        ],
    );
    state
}

#[test]
fn a_bond_opens_its_ports_and_gives_them_its_mtu() {
    let mut state = team();
    assert!(state.links[&name("b")].up);
    run(&mut state, &[Op::SetMtu { name: name("t"), mtu_bytes: 9000 }]);
    assert_eq!(state.links[&name("b")].mtu_bytes, 9000);
    assert_eq!(state.links[&name("v")].mtu_bytes, 1500, "VLAN links are not raised");
    run(&mut state, &[Op::SetMtu { name: name("t"), mtu_bytes: 1400 }]);
    assert_eq!(state.links[&name("v")].mtu_bytes, 1400, "but lowered");
}

#[test]
fn a_bond_refuses_a_port_that_is_up() {
    let mut state = team();
    create(&mut state, &name("c"), LinkKind::Nic, 1500).unwrap();
    run(&mut state, &[Op::SetUp { name: name("c") }]);
    let refused = apply(&mut state, &Op::Join { name: name("c"), master: name("t") });
    assert_eq!(refused, Err(Refused::IsUp(name("c"))));
}

/// A VLAN link above a NIC with a small MTU can't be a port of a bond with a bigger one (`bond_enslave`), nor be given it
/// by its bond (`bond_change_mtu`). Nothing has changed then.
#[test]
fn a_bond_gives_no_port_more_than_the_link_below_that_has() {
    let mut state = team();
    create(&mut state, &name("c"), LinkKind::Nic, 1280).unwrap();
    let vlan = VlanId::try_from(5).unwrap();
    let above = Op::CreateVlan { name: name("w"), parent: name("c"), vlan, egress_qos: BTreeMap::new() };
    run(&mut state, &[above]);
    let refused = Err(Refused::MtuAboveParent { name: name("w"), parent: name("c") });
    let join = Op::Join { name: name("w"), master: name("t") };
    let before = state.clone();
    assert_eq!((apply(&mut state, &join), &state), (refused.clone(), &before));
    run(
        &mut state,
        &[
            Op::SetMtu { name: name("t"), mtu_bytes: 1280 },
            Op::SetUp { name: name("c") },
            Op::SetDown { name: name("w") },
            join,
        ],
    );
    let raise = Op::SetMtu { name: name("t"), mtu_bytes: 1500 };
    let before = state.clone();
    assert_eq!((apply(&mut state, &raise), &state), (refused, &before));
}

#[test]
fn a_port_that_leaves_a_bond_is_down_with_an_mtu_nobody_knows() {
    let mut state = team();
    run(&mut state, &[Op::Leave { name: name("a") }]);
    let port = &state.links[&name("a")];
    assert_eq!((port.up, port.mtu_bytes, &port.master), (false, UNKNOWN_MTU, &None));
    let LinkKind::Bond { primary, .. } = &state.links[&name("t")].kind else { panic!("a bond") };
    assert_eq!(*primary, None);
}

#[test]
fn deleting_a_parent_takes_its_vlan_links_along() {
    let mut state = team();
    run(&mut state, &[Op::Delete { name: name("t") }]);
    assert_eq!(state.links.keys().map(LinkName::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_vlan_link_is_neither_higher_nor_more_up_than_its_parent() {
    let mut state = team();
    let too_big = apply(&mut state, &Op::SetMtu { name: name("v"), mtu_bytes: 1501 });
    assert!(matches!(too_big, Err(Refused::MtuAboveParent { .. })));
    run(&mut state, &[Op::SetDown { name: name("t") }]);
    assert!(!state.links[&name("v")].up);
    assert_eq!(apply(&mut state, &Op::SetUp { name: name("v") }), Err(Refused::IsDown(name("t"))));
}

fn route(destination: &str, gateway: Option<&str>, source: Option<&str>) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.map(|text| text.parse().unwrap()),
        metric: 0,
        protocol: 4,
        scope: if gateway.is_some() { 0 } else { 253 },
        source: source.map(|text| text.parse().unwrap()),
        on_link: false,
    }
}

#[test]
fn a_route_needs_a_link_that_is_up_and_a_gateway_on_its_wire() {
    let mut state = team();
    let add = |route: &Route| Op::AddRoute { name: name("t"), route: route.clone() };
    let default = route("0.0.0.0/0", Some("10.0.0.1"), None);
    let far = Refused::Unreachable { name: name("t"), gateway: "10.0.0.1".parse().unwrap() };
    assert_eq!(apply(&mut state, &add(&default)), Err(far));
    run(&mut state, &[add(&route("10.0.0.0/30", None, None)), add(&default)]);
    assert_eq!(apply(&mut state, &add(&default)), Err(Refused::RouteExists(name("t"))));
    let foreign = "10.0.0.9".parse().unwrap();
    let sourced = route("10.9.0.0/16", None, Some("10.0.0.9"));
    assert_eq!(apply(&mut state, &add(&sourced)), Err(Refused::NoSource(foreign)));
    run(&mut state, &[Op::SetDown { name: name("t") }]);
    assert_eq!(state.links[&name("t")].routes.len(), 0);
    assert_eq!(apply(&mut state, &add(&default)), Err(Refused::IsDown(name("t"))));
}

#[test]
fn routes_go_with_the_last_address_and_with_their_source() {
    let mut state = team();
    let (own, other) = ("10.0.0.5/24", "10.1.0.5/24");
    let address = |text: &str| text.parse().unwrap();
    let add = |text: &str| Op::AddAddress { name: name("t"), address: address(text) };
    let remove = |text: &str| Op::RemoveAddress { name: name("t"), address: address(text) };
    let through = |link: &str, route: &Route| Op::AddRoute { name: name(link), route: route.clone() };
    let (near, sourced) =
        (route("0.0.0.0/0", Some("10.0.0.1"), None), route("10.9.0.0/16", None, Some("10.0.0.5")));
    run(&mut state, &[add(own), add(other), through("t", &near), through("v", &sourced)]);
    run(&mut state, &[remove(own)]);
    assert_eq!(state.links[&name("v")].routes.len(), 0, "its source is gone");
    assert!(state.links[&name("t")].routes.contains(&near), "another address keeps the link's routes");
    run(&mut state, &[remove(other)]);
    assert_eq!(state.links[&name("t")].routes.len(), 0);
}
