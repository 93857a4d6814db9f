//! Port channels and pairs at work: nothing circulates, nothing is lost that has a way, flows keep together.

use super::tests::Recorder;
use super::*;
use crate::testing::{BROADCAST, frame, link, mac, switch};
use crate::topology::{self, PortRef, Topology};
use model::{MacAddress, Mtu, VlanId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NOW: Duration = Duration::from_secs(1);
const STORAGE: Option<u16> = Some(0x62c7);

/// Two rooms with one switch each, or with a pair each; one port channel between the rooms, all its members carrying VLAN 711.
///
/// NICs are called `a1.0`: room, switch, number. Cables between switches: `room-a1-b2.0`, `peer-a.0`.
pub(crate) fn rooms(switches_per_room: u8, nics_per_switch: u8, members: u8) -> Topology {
    let mut topology = Topology {
        kept_off_spine: Vec::new(),
        homes: Vec::new(),
        switches: Vec::new(),
        nics: Vec::new(),
        links: Vec::new(),
        channels: Vec::new(),
        pairs: Vec::new(),
        lldp_interval_ms: 1000,
    };
    let names = |room: char| (1..=switches_per_room).map(move |number| format!("{room}{number}"));
    for (number, name) in (1..).zip(names('a').chain(names('b'))) {
        topology.switches.push(topology::Switch {
            id: switch(&name),
            system_name: format!("sw{number}"),
            chassis_mac: MacAddress([0x3c, 0, 0, 0, 0, number]),
            role: topology::Role::Tor,
            room: None,
            mtu: Mtu::JUMBO,
            suspended_vlans: BTreeSet::new(),
            ports: Vec::new(),
        });
        for nic in 0..nics_per_switch {
            let id = format!("{name}.{nic}");
            topology.nics.push(id.parse().unwrap());
            let port = topology::End::Port(port(&mut topology, &name, &id));
            let nic = topology::End::Nic(id.parse().unwrap());
            topology.links.push(topology::Link { id: link(&id), a: nic, b: port });
        }
    }
    let across: Vec<(String, String)> =
        names('a').flat_map(|a| names('b').map(move |b| (a.clone(), b))).collect();
    bundle(&mut topology, "room", &across, members);
    if switches_per_room == 2 {
        for room in ["a", "b"] {
            let [first, second] = [1, 2].map(|number| format!("{room}{number}"));
            let name = format!("peer-{room}");
            topology.pairs.push(topology::Pair {
                switches: [switch(&first), switch(&second)],
                peer_channel: name.parse().unwrap(),
            });
            bundle(&mut topology, &name, &[(first, second)], 2);
        }
    }
    topology
}

fn port(topology: &mut Topology, at: &str, name: &str) -> PortRef {
    let at = topology.switches.iter_mut().find(|other| other.id.as_str() == at).unwrap();
    let id: PortName = name.parse().unwrap();
    let tagged_vlans = BTreeSet::from([VlanId::STORAGE_1_DEFAULT]);
    at.ports.push(topology::Port { id: id.clone(), native_vlan: None, tagged_vlans, mtu: None, dcb: None });
    PortRef { switch: at.id.clone(), port: id }
}

fn bundle(topology: &mut Topology, name: &str, joined: &[(String, String)], members: u8) {
    let mut links = Vec::new();
    for (a, b) in joined {
        for member in 0..members {
            let id =
                if name == "room" { format!("room-{a}-{b}.{member}") } else { format!("{name}.{member}") };
            let end_a = topology::End::Port(port(topology, a, &id));
            let end_b = topology::End::Port(port(topology, b, &id));
            topology.links.push(topology::Link { id: link(&id), a: end_a, b: end_b });
            links.push(link(&id));
        }
    }
    topology.channels.push(topology::Channel { id: name.parse().unwrap(), links });
}

struct Lab {
    board: Switchboard,
    out: Recorder,
}

impl Lab {
    fn new(topology: &Topology) -> Self {
        Self { board: Switchboard::new(topology).unwrap(), out: Recorder::default() }
    }

    /// Which NICs got a frame from this one, one entry per copy.
    fn receivers(&mut self, from: usize, bytes: &[u8]) -> Vec<usize> {
        self.out.delivered.clear();
        self.board.ingress(NicIndex(from), bytes, NOW, &mut self.out);
        let mut receivers: Vec<usize> = self.out.delivered.iter().map(|(nic, _)| nic.0).collect();
        receivers.sort_unstable();
        receivers
    }

    fn broadcast(&mut self, from: usize) -> Vec<usize> {
        self.receivers(from, &frame(BROADCAST, mac(from as u8), STORAGE, 50))
    }

    fn unicast(&mut self, from: usize, to: usize) -> Vec<usize> {
        self.receivers(from, &frame(mac(to as u8), mac(from as u8), STORAGE, 50))
    }

    fn cut(&mut self, id: &str, ways: Ways) {
        self.board.cut_link(&link(id), ways, &mut self.out).unwrap();
    }

    /// Frames that went over each member of the channel between the rooms from a to b.
    fn over_members(&self) -> BTreeMap<String, u64> {
        let links = self.board.counters(NOW).links.into_iter();
        let frames = |way: &crate::DirectionCounters| way.carried_frames(VlanId::STORAGE_1_DEFAULT);
        let rooms = links.filter(|link| link.link.as_str().starts_with("room"));
        rooms.map(|link| (link.link.to_string(), frames(&link.a_to_b))).collect()
    }
}

fn everybody_but(nics: usize, sender: usize) -> Vec<usize> {
    (0..nics).filter(|nic| *nic != sender).collect()
}

/// With every NIC of a topology heard of, every NIC reaches every other by unicast, and nobody else gets it.
fn all_reach_each_other(lab: &mut Lab, nics: usize) {
    for from in 0..nics {
        assert_eq!(lab.broadcast(from), everybody_but(nics, from), "broadcast of {from}");
    }
    for (from, to) in (0..nics).flat_map(|from| (0..nics).map(move |to| (from, to))).filter(|(a, b)| a != b) {
        assert_eq!(lab.unicast(from, to), [to], "{from} to {to}");
    }
}

#[test]
fn a_pair_is_one_switch_to_the_other_room() {
    for members in [1, 2] {
        let mut lab = Lab::new(&rooms(2, 2, members));
        all_reach_each_other(&mut lab, 8);
    }
    all_reach_each_other(&mut Lab::new(&rooms(1, 3, 2)), 6);
}

#[test]
fn flows_spread_over_the_members_and_move_when_one_is_lost() {
    let mut lab = Lab::new(&rooms(1, 1, 2));
    lab.broadcast(1);
    let udp = |port: u16| {
        let mut bytes = frame(mac(1), mac(0), STORAGE, 0);
        bytes.truncate(16);
        bytes.extend([0x08, 0x00, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 71, 1, 1, 10, 71, 1, 2]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0x11, 0x44, 0, 8, 0, 0]);
        bytes
    };
    for port in 0..100 {
        assert_eq!(lab.receivers(0, &udp(port)), [1]);
    }
    let before = lab.over_members();
    assert!(before.values().all(|frames| *frames > 25), "{before:?}");
    // One way is enough: LACP would not leave a one-way fibre in.
    lab.cut("room-a1-b1.0", Ways::BToA);
    for port in 0..100 {
        assert_eq!(lab.receivers(0, &udp(port)), [1]);
    }
    let after = lab.over_members();
    assert_eq!(after["room-a1-b1.0"], before["room-a1-b1.0"]);
    assert_eq!(after["room-a1-b1.1"], before["room-a1-b1.1"] + 100);
    lab.cut("room-a1-b1.1", Ways::AToB);
    assert_eq!(lab.receivers(0, &udp(1)), [0; 0]);
    let dropped = lab
        .board
        .counters(NOW)
        .links
        .iter()
        .map(|l| l.a_to_b.dropped_frames(DropReason::ChannelDown))
        .sum::<u64>();
    assert_eq!(dropped, 1);
    lab.board.heal(&mut lab.out);
    assert_eq!(lab.receivers(0, &udp(1)), [1]);
}

#[test]
fn a_switch_without_a_member_goes_by_its_peer() {
    let mut lab = Lab::new(&rooms(2, 1, 1));
    lab.cut("room-a1-b1.0", Ways::Both);
    lab.cut("room-a1-b2.0", Ways::Both);
    all_reach_each_other(&mut lab, 4);
    assert_eq!(lab.over_members()["room-a1-b1.0"], 0);
}

#[test]
fn when_a_pair_can_not_hear_each_other_the_second_steps_back() {
    let mut lab = Lab::new(&rooms(2, 1, 1));
    all_reach_each_other(&mut lab, 4);
    lab.cut("peer-a.0", Ways::Both);
    all_reach_each_other(&mut lab, 4);
    lab.cut("peer-a.1", Ways::AToB);
    // a2 (NIC 1) is alone now; a1 and the other room go on.
    assert_eq!(lab.broadcast(1), [0; 0]);
    assert_eq!(lab.broadcast(0), [2, 3]);
    assert_eq!(lab.unicast(2, 0), [0]);
    // With the first switch gone, the second takes over.
    lab.board.set_switch_up(&switch("a1"), false, &mut lab.out).unwrap();
    assert_eq!(lab.broadcast(1), [2, 3]);
    assert_eq!(lab.unicast(3, 1), [1]);
    lab.board.heal(&mut lab.out);
    all_reach_each_other(&mut lab, 4);
}

#[test]
fn an_address_that_moves_to_the_other_switch_of_a_pair_is_found_there() {
    let mut lab = Lab::new(&rooms(2, 2, 1));
    all_reach_each_other(&mut lab, 8);
    // NIC 0 (a1) falls silent; its address speaks at NIC 2 (a2) from now on.
    let moved = frame(BROADCAST, mac(0), STORAGE, 50);
    assert_eq!(lab.receivers(2, &moved), everybody_but(8, 2));
    assert_eq!(lab.unicast(1, 0), [2]);
    assert_eq!(lab.unicast(4, 0), [2]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// With any one cable cut in any way, before or after addresses were learned, every flood reaches every NIC of the VLAN
    /// exactly once, but for a NIC whose own cable is cut.
    #[test]
    fn a_flood_reaches_everybody_once_with_any_one_cable_cut(
        per_room in 1..=2u8, nics in 1..=3u8, members in 1..=2u8, cut in any::<prop::sample::Index>(),
        ways in prop_oneof![Just(Ways::Both), Just(Ways::AToB), Just(Ways::BToA)],
        talk in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..30),
        before: bool,
    ) {
        // Between single switches a lone member would be the only way.
        let topology = rooms(per_room, nics, members.max(3 - per_room));
        let count = topology.nics.len();
        let mut lab = Lab::new(&topology);
        let cable = &topology.links[cut.index(topology.links.len())];
        if before { lab.cut(cable.id.as_str(), ways); }
        for (from, to) in &talk {
            let (from, to) = (from.index(count), to.index(count));
            let receivers = lab.unicast(from, to);
            prop_assert!(receivers.iter().collect::<BTreeSet<_>>().len() == receivers.len(), "copies");
        }
        if !before { lab.cut(cable.id.as_str(), ways); }
        let own = topology.nics.iter().position(|nic| nic.as_str() == cable.id.as_str());
        for from in 0..count {
            let deaf = |nic: usize| own == Some(nic) && ways != Ways::AToB;
            let mut expected = everybody_but(count, from);
            expected.retain(|nic| !deaf(*nic));
            if own == Some(from) && ways != Ways::BToA { expected.clear(); }
            prop_assert_eq!(lab.broadcast(from), expected, "from {} with {} cut", from, cable.id);
        }
        for (from, to) in talk {
            let (from, to) = (from.index(count), to.index(count));
            if from != to && own.is_none() {
                prop_assert_eq!(lab.unicast(from, to), [to]);
            }
        }
    }

    /// Whatever is broken, nothing comes twice and nothing comes back.
    #[test]
    fn nothing_comes_twice_whatever_is_broken(
        per_room in 1..=2u8, nics in 1..=2u8, members in 1..=2u8,
        faults in prop::collection::vec((any::<prop::sample::Index>(), 0..5u8), 0..12),
        talk in prop::collection::vec((any::<prop::sample::Index>(), 0..9u8), 1..20),
    ) {
        let topology = rooms(per_room, nics, members);
        let mut lab = Lab::new(&topology);
        for (step, (from, to)) in talk.iter().enumerate() {
            if let Some((at, kind)) = faults.get(step) {
                let cable = topology.links[at.index(topology.links.len())].id.clone();
                let node = topology.switches[at.index(topology.switches.len())].id.clone();
                match kind {
                    0 => lab.cut(cable.as_str(), Ways::Both),
                    1 => lab.cut(cable.as_str(), Ways::AToB),
                    2 => drop(lab.board.set_switch_up(&node, false, &mut lab.out)),
                    3 => drop(lab.board.set_switch_up(&node, true, &mut lab.out)),
                    _ => drop(lab.board.restore_link(&cable, &mut lab.out)),
                }
            }
            let from = from.index(topology.nics.len());
            let receivers =
                if *to == 8 { lab.broadcast(from) } else { lab.unicast(from, usize::from(*to)) };
            let distinct: BTreeSet<_> = receivers.iter().collect();
            prop_assert!(distinct.len() == receivers.len() && !distinct.contains(&from), "{:?}", receivers);
        }
        let hops: u64 = lab.board.counters(NOW).links.iter().map(|link| {
            link.a_to_b.dropped_frames(DropReason::TooManyHops) + link.b_to_a.dropped_frames(DropReason::TooManyHops)
        }).sum();
        prop_assert_eq!(hops, 0);
    }
}
