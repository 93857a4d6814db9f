//! What is counted of frames besides where they arrive.

use super::tests::{Lab, NOW, STORAGE};
use super::*;
use crate::testing::{BROADCAST, frame, link, mac, topology};
use crate::topology;
use model::VlanId;

#[test]
fn storage_addresses_at_the_spine_trespass_whatever_their_vlan_and_priority() {
    let mut topology = topology();
    topology.kept_off_spine = vec!["10.71.1.0/24".parse().unwrap()];
    let mut lab = Lab::new(&topology);
    let packet = |ethertype: [u8; 2], at: usize, end: [u8; 4]| {
        let mut bytes = frame(BROADCAST, mac(1), None, 60);
        bytes[12..14].copy_from_slice(&ethertype);
        bytes[14 + at..][..4].copy_from_slice(&end);
        bytes
    };
    let (ipv4, arp, ipv6) = ([0x08, 0x00], [0x08, 0x06], [0x86, 0xdd]);
    let question = |from: [u8; 4], to: [u8; 4]| arp_packet(1, None, from, to);
    for (bytes, so_far) in [
        (packet(ipv4, 12, [10, 71, 2, 9]), 0),
        (packet(ipv6, 12, [10, 71, 1, 9]), 0),
        (packet(ipv4, 12, [10, 71, 1, 9]), 1),
        (packet(ipv4, 16, [10, 71, 1, 9]), 2),
        (packet(arp, 14, [10, 71, 1, 9]), 3),
        (packet(arp, 24, [10, 71, 1, 9]), 4),
        (question([10, 0, 0, 1], [10, 71, 1, 9]), 4),
        (question([10, 71, 1, 9], [10, 0, 0, 1]), 5),
        (question([0; 4], [10, 71, 1, 9]), 6),
    ] {
        lab.send("a1.mgmt", &bytes);
        let counters = lab.board.counters(NOW);
        let at = |id: &str| {
            let link = counters.link(&link(id)).unwrap();
            link.a_to_b.trespassing.frames + link.b_to_a.trespassing.frames
        };
        let spine: u64 = topology.links_at(topology::Role::Spine).map(|link| at(link.id.as_str())).sum();
        assert_eq!((at("a1.mgmt"), spine > 0), (0, so_far > 0), "{so_far}");
        let each = topology.links_at(topology::Role::Spine).map(|link| at(link.id.as_str())).max();
        assert_eq!(each, Some(so_far));
    }
}

/// An ARP packet between two addresses.
fn arp_packet(operation: u8, tci: Option<u16>, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut bytes = frame(BROADCAST, mac(1), tci, 60);
    let at = if tci.is_some() { 16 } else { 12 };
    bytes[at..at + 2].copy_from_slice(&[0x08, 0x06]);
    bytes[at + 8..at + 10].copy_from_slice(&[0, operation]);
    bytes[at + 16..at + 20].copy_from_slice(&from);
    bytes[at + 26..at + 30].copy_from_slice(&to);
    bytes
}

/// What was counted from a node into its storage cable: packets astray, questions astray.
fn astray(lab: &Lab) -> (u64, u64) {
    let counters = lab.board.counters(NOW);
    let counted = &counters.link(&link("a1.storage1")).unwrap().a_to_b;
    (counted.astray.frames, counted.asked_astray.frames)
}

#[test]
fn a_packet_to_an_address_in_another_vlan_than_its_home_is_astray_and_a_question_is_one() {
    let mut topology = topology();
    let home = |subnet: &str, vlan: u64| topology::Home {
        subnet: subnet.parse().unwrap(),
        vlan: vlan.try_into().unwrap(),
    };
    topology.homes = vec![home("10.71.1.0/24", 711), home("10.71.2.0/24", 712)];
    let mut lab = Lab::new(&topology);
    let (here, there, outside) = ([10, 71, 1, 1], [10, 71, 2, 2], [10, 0, 0, 1]);
    let packet = |from: [u8; 4], to: [u8; 4]| {
        let mut bytes = frame(BROADCAST, mac(1), STORAGE, 60);
        bytes[16..18].copy_from_slice(&[0x08, 0x00]);
        bytes[30..34].copy_from_slice(&from);
        bytes[34..38].copy_from_slice(&to);
        bytes
    };
    for (bytes, so_far) in [
        (packet(here, here), (0, 0)),
        (packet(there, here), (0, 0)),
        (packet(here, outside), (0, 0)),
        (packet(here, there), (1, 0)),
        (arp_packet(1, STORAGE, here, here), (1, 0)),
        (arp_packet(1, STORAGE, here, there), (1, 1)),
        (arp_packet(1, STORAGE, outside, there), (1, 2)),
        (arp_packet(1, STORAGE, there, here), (2, 2)),
        (arp_packet(2, STORAGE, there, here), (3, 2)),
        (arp_packet(1, STORAGE, [0; 4], there), (4, 2)),
        (arp_packet(2, STORAGE, here, there), (4, 2)),
    ] {
        lab.send("a1.storage1", &bytes);
        assert_eq!(astray(&lab), so_far);
    }
}

#[test]
fn what_is_put_on_a_cable_is_counted_by_kind_and_priority_whether_it_arrives_or_not() {
    let mut lab = Lab::new(&topology());
    let segment = |tci: u16, port: u16| {
        let mut bytes = frame(mac(9), mac(1), Some(tci), 60);
        bytes[16..20].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        bytes[24..26].copy_from_slice(&[0, 0]);
        bytes[27] = 6;
        bytes[38..40].copy_from_slice(&port.to_be_bytes());
        bytes
    };
    let (storage, best_effort) = (0x62c7, 0x02c7);
    lab.send("a1.storage1", &segment(storage, 4420));
    lab.send("a1.storage1", &segment(best_effort, 4420));
    lab.send("a1.storage1", &segment(best_effort, 80));
    lab.board.cut_link(&link("a1.storage1"), Ways::Both, &mut lab.out).unwrap();
    lab.send("a1.storage1", &segment(storage, 4420));
    let counters = lab.board.counters(NOW);
    let sent = &counters.link(&link("a1.storage1")).unwrap().a_to_b.sent;
    let seen: Vec<_> = sent
        .iter()
        .map(|count| (count.vlan.map(VlanId::get), count.pcp.get(), count.kind, count.frames))
        .collect();
    assert_eq!(
        seen,
        [(Some(711), 0, Kind::Storage, 1), (Some(711), 0, Kind::Other, 1), (Some(711), 3, Kind::Storage, 2),]
    );
    // A switch hands the priority on: what leaves it is counted the same way.
    let room = &counters.link(&link("room")).unwrap();
    assert_eq!(room.ways().map(|way| way.sent.len()).sum::<usize>(), 3);
}
