use super::*;
use crate::testing::{link, nic, port, switch, topology, vlan};
use proptest::prelude::*;

fn refused(break_it: impl FnOnce(&mut Topology)) -> TopologyError {
    let mut topology = topology();
    topology.validate().expect("the whole one is good");
    break_it(&mut topology);
    topology.validate().expect_err("the broken one is not")
}

fn cable(id: &str, a: PortRef, b: PortRef) -> Link {
    Link { id: link(id), a: End::Port(a), b: End::Port(b) }
}

#[test]
fn names_are_unique_and_resolve() {
    assert_eq!(
        refused(|t| t.switches[1].id = switch("tor-a")),
        TopologyError::DuplicateSwitch { switch: switch("tor-a") }
    );
    assert!(matches!(
        refused(|t| t.switches[1].chassis_mac = t.switches[0].chassis_mac),
        TopologyError::DuplicateChassis { .. }
    ));
    assert!(matches!(refused(|t| t.switches[1].chassis_mac.0[0] |= 1), TopologyError::GroupChassis { .. }));
    assert!(matches!(
        refused(|t| t.switches[0].ports[1].id = t.switches[0].ports[0].id.clone()),
        TopologyError::DuplicatePort { .. }
    ));
    assert_eq!(refused(|t| t.nics.push(nic("spare"))), TopologyError::DuplicateNic { nic: nic("spare") });
    assert_eq!(
        refused(|t| t.links[1].id = link("room")),
        TopologyError::DuplicateLink { link: link("room") }
    );
    assert_eq!(
        refused(|t| t.links[0].b = End::Port(port("tor-a", "Ethernet9"))),
        TopologyError::UnknownPort { link: link("a1.storage1"), port: port("tor-a", "Ethernet9") }
    );
    assert_eq!(
        refused(|t| t.links[0].a = End::Nic(nic("x"))),
        TopologyError::UnknownNic { link: link("a1.storage1"), nic: nic("x") }
    );
}

#[test]
fn a_socket_takes_one_plug_and_a_cable_needs_a_switch() {
    let taken = refused(|t| t.links[1].b = t.links[0].b.clone());
    assert!(matches!(taken, TopologyError::Taken { link: id, .. } if id == link("a2.storage1")));
    let taken = refused(|t| t.links[1].a = t.links[0].a.clone());
    assert!(matches!(taken, TopologyError::Taken { .. }));
    assert_eq!(
        refused(|t| t.links[0].b = End::Nic(nic("spare"))),
        TopologyError::NoSwitch { link: link("a1.storage1") }
    );
}

#[test]
fn a_port_can_say_what_it_carries() {
    assert_eq!(
        refused(|t| t.switches[0].ports[0].tagged_vlans.extend([vlan(99)])),
        TopologyError::NativeIsTagged { port: port("tor-a", "Ethernet1/1"), vlan: vlan(99) }
    );
    let many = refused(|t| t.switches[0].ports[3].tagged_vlans.extend((200..400).map(vlan)));
    assert!(matches!(many, TopologyError::Lldp { source: EncodeError::FrameTooLong { .. }, .. }));
    assert!(matches!(refused(|t| t.lldp_interval_ms = 1), TopologyError::LldpInterval { interval_ms: 1 }));
}

#[test]
fn a_loop_is_found_per_vlan() {
    // A second cable between the TORs closes a loop only for what both cables carry.
    let second = || cable("second", port("tor-a", "Ethernet1/4"), port("tor-b", "Ethernet1/4"));
    assert_eq!(
        refused(|t| t.links.push(second())),
        TopologyError::Loop { link: link("second"), vlan: vlan(711) }
    );
    let mut other = topology();
    for switch in [0, 1] {
        other.switches[switch].ports[3].native_vlan = Some(vlan(99));
        other.switches[switch].ports[3].tagged_vlans = [vlan(712)].into();
    }
    other.links.push(second());
    assert_eq!(other.validate(), Ok(()));
}

#[test]
fn a_loop_over_ends_that_disagree_about_the_native_vlan_is_found() {
    // Untagged frames of 711 come out as 7 at the other TOR, go over the spine as 7, and must not come back.
    let mixed = refused(|t| {
        let own = |native| Port {
            id: "Ethernet1/60".parse().unwrap(),
            native_vlan: Some(vlan(native)),
            tagged_vlans: BTreeSet::new(),
            mtu: None,
            dcb: None,
        };
        t.switches[0].ports.push(own(8));
        t.switches[1].ports.push(own(7));
        t.links.push(cable("mixed-1", port("tor-a", "Ethernet1/60"), port("tor-b", "Ethernet1/60")));
        for switch in [0, 1] {
            t.switches[switch].ports[3].native_vlan = Some(vlan([7, 8][switch]));
            t.switches[switch].ports[3].tagged_vlans.clear();
        }
        t.links.push(cable("mixed-2", port("tor-a", "Ethernet1/4"), port("tor-b", "Ethernet1/4")));
    });
    assert_eq!(mixed, TopologyError::Loop { link: link("mixed-2"), vlan: vlan(7) });
    // A cable from a switch to itself.
}

#[test]
fn a_cable_from_a_switch_to_itself_is_a_loop() {
    let own = refused(|t| {
        let another = Port { id: "Ethernet1/60".parse().unwrap(), ..t.switches[0].ports[3].clone() };
        t.switches[0].ports.push(another);
        t.links.push(cable("own", port("tor-a", "Ethernet1/4"), port("tor-a", "Ethernet1/60")));
    });
    assert!(matches!(own, TopologyError::Loop { link: id, .. } if id == link("own")));
}

#[test]
fn it_travels_as_json_and_unknown_keys_are_refused() {
    let json = serde_json::to_value(topology()).unwrap();
    assert_eq!(serde_json::from_value::<Topology>(json.clone()).unwrap(), topology());
    assert_eq!(
        json["links"][0],
        serde_json::json!({
            "id": "a1.storage1",
            "a": { "nic": "a1.storage1" },
            "b": { "port": { "switch": "tor-a", "port": "Ethernet1/1" } },
        })
    );
    let mut odd = json;
    odd["switches"][0]["colour"] = "red".into();
    assert!(serde_json::from_value::<Topology>(odd).is_err());
}

#[test]
fn the_cables_of_a_role_are_found() {
    let topology = topology();
    let spine: Vec<_> = topology.links_at(crate::Role::Spine).map(|link| link.id.as_str()).collect();
    assert_eq!(spine, ["spine-a", "spine-b"]);
}

proptest! {
    /// Whatever is taken off the ports, a network without loops stays one.
    #[test]
    fn fewer_vlans_make_no_loop(keep: [bool; 3], which in 0..6usize) {
        let mut topology = topology();
        for (switch, keep) in topology.switches.iter_mut().zip(keep) {
            if let Some(port) = switch.ports.get_mut(which).filter(|_| !keep) {
                port.tagged_vlans.clear();
            }
        }
        prop_assert_eq!(topology.validate(), Ok(()));
    }
}

fn refused_rooms(break_it: impl FnOnce(&mut Topology)) -> String {
    let mut topology = crate::switchboard::rooms(2, 1, 1);
    topology.validate().expect("the whole one is good");
    break_it(&mut topology);
    topology.validate().expect_err("the broken one is not").to_string()
}

#[test]
fn port_channels_and_pairs_are_whole() {
    let said = [
        refused_rooms(|t| t.channels[0].links.clear()),
        refused_rooms(|t| t.channels[0].links[0] = link("a1.0")),
        refused_rooms(|t| t.channels[0].links[0] = link("nowhere")),
        refused_rooms(|t| t.channels[0].id = t.channels[1].id.clone()),
        refused_rooms(|t| t.channels[0].links[1] = t.channels[0].links[0].clone()),
        refused_rooms(|t| t.pairs[0].peer_channel = "room".parse().unwrap()),
        refused_rooms(|t| t.pairs[0].peer_channel = "none".parse().unwrap()),
        refused_rooms(|t| t.pairs[0].switches.reverse()),
        refused_rooms(|t| t.pairs[1] = t.pairs[0].clone()),
        refused_rooms(|t| drop(t.pairs.pop())),
        refused_rooms(|t| t.switches[1].ports[1].tagged_vlans = [vlan(712)].into()),
        refused_rooms(|t| drop(t.channels[1].links.pop())),
    ];
    insta::assert_snapshot!(said.join("\n"));
}
