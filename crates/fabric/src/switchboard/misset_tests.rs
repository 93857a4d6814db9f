//! Ports that are set up wrongly, as the machines at them see it.

use super::tests::{STORAGE, lab};
use super::*;
use crate::testing::{BROADCAST, frame, mac, port, switch, vlan};
use model::Mtu;
use std::collections::BTreeMap;

fn announced(received: Vec<(String, Vec<u8>)>) -> BTreeMap<String, network::lldp::Lldpdu> {
    let lldp = received
        .into_iter()
        .filter_map(|(nic, bytes)| Some((nic, network::lldp::decode(&bytes).ok()?.lldpdu)));
    lldp.collect()
}

#[test]
fn a_port_that_loses_a_vlan_carries_and_announces_it_no_more_until_it_is_healed() {
    let mut lab = lab();
    let a1 = port("tor-a", "Ethernet1/1");
    let everybody = frame(BROADCAST, mac(2), STORAGE, 50);
    lab.board.remove_vlan(&a1, vlan(711), &mut lab.out).unwrap();
    let said = announced(lab.received());
    assert_eq!(said.keys().collect::<Vec<_>>(), ["a1.storage1"]);
    assert_eq!(said["a1.storage1"].vlans.iter().map(|named| named.vlan).collect::<Vec<_>>(), [vlan(99)]);
    assert_eq!(lab.receivers("b1.storage1", &everybody), ["a2.storage1"]);
    assert_eq!(lab.receivers("a1.storage1", &frame(BROADCAST, mac(1), STORAGE, 50)), [""; 0]);
    assert_eq!(lab.counted("a1.storage1", DropReason::VlanNotCarried).2, 1);
    assert!(lab.board.remove_vlan(&a1, vlan(711), &mut lab.out).is_err(), "it has it no more");
    assert!(lab.board.remove_vlan(&port("tor-a", "Ethernet1/77"), vlan(711), &mut lab.out).is_err());
    lab.board.heal(&mut lab.out);
    assert_eq!(announced(lab.received())["a1.storage1"].vlans.len(), 2);
    assert_eq!(lab.receivers("b1.storage1", &everybody), ["a1.storage1", "a2.storage1"]);
}

#[test]
fn a_lowered_mtu_swallows_what_is_larger_and_is_announced_or_kept_quiet() {
    let mut lab = lab();
    let (large, small) = (frame(BROADCAST, mac(1), STORAGE, 1501), frame(BROADCAST, mac(1), STORAGE, 1500));
    for announce in [true, false] {
        lab.board.lower_mtu(&switch("tor-b"), None, Mtu::ETHERNET, announce, &mut lab.out).unwrap();
        let said = announced(lab.received());
        let expected = if announce { 1518 } else { 9018 };
        assert_eq!(said["b1.storage1"].max_frame_bytes, Some(expected));
        assert!(!said.contains_key("b1.mgmt"), "it takes no larger ones anyway");
        assert_eq!(lab.receivers("a1.storage1", &large), ["a2.storage1"]);
        assert_eq!(lab.receivers("a1.storage1", &small), ["a2.storage1", "b1.storage1"]);
        lab.board.heal(&mut lab.out);
        assert_eq!(announced(lab.received())["b1.storage1"].max_frame_bytes, Some(9018));
        assert_eq!(lab.receivers("a1.storage1", &large), ["a2.storage1", "b1.storage1"]);
    }
    let name = port("tor-a", "Ethernet1/2").port;
    lab.board.lower_mtu(&switch("tor-a"), Some(&name), Mtu::ETHERNET, false, &mut lab.out).unwrap();
    assert_eq!(announced(lab.received())["a2.storage1"].max_frame_bytes, Some(9018));
    assert_eq!(lab.receivers("a1.storage1", &large), ["b1.storage1"]);
    let unknown = lab.board.lower_mtu(&switch("tor-x"), None, Mtu::ETHERNET, true, &mut lab.out);
    assert!(matches!(unknown, Err(FaultError::UnknownSwitch(_))));
}
