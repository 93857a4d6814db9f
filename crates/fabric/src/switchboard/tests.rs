use super::*;
use crate::testing::{BROADCAST, frame, link, mac, nic, port, switch, topology, vlan};
use crate::topology::{self, PortRef, Topology};
use model::Priority;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const NOW: Duration = Duration::from_secs(1);

/// Storage traffic: priority 3, VLAN 711.
pub(super) const STORAGE: Option<u16> = Some(0x62c7);

#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) delivered: Vec<(NicIndex, Vec<u8>)>,
    captured: Vec<Vec<u8>>,
    refuse: Option<Delivery>,
}

impl Outlet for Recorder {
    fn deliver(&mut self, nic: NicIndex, frame: &Frame<'_>) -> Delivery {
        if let Some(refusal) = self.refuse {
            return refusal;
        }
        self.delivered.push((nic, frame.to_vec()));
        Delivery::Taken
    }

    fn capture(&mut self, _: LinkIndex, frame: &Frame<'_>) {
        self.captured.push(frame.to_vec());
    }
}

pub(super) struct Lab {
    pub(super) board: Switchboard,
    pub(super) out: Recorder,
}

impl Lab {
    pub(super) fn new(topology: &Topology) -> Self {
        Self { board: Switchboard::new(topology).unwrap(), out: Recorder::default() }
    }

    /// Who got what, when this NIC sent this.
    pub(super) fn send(&mut self, from: &str, bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let index = self.board.nic(&nic(from)).unwrap();
        self.board.ingress(index, bytes, NOW, &mut self.out);
        self.received()
    }

    pub(super) fn received(&mut self) -> Vec<(String, Vec<u8>)> {
        let names: Vec<_> = self.board.nics().map(ToString::to_string).collect();
        let mut received: Vec<_> =
            self.out.delivered.drain(..).map(|(nic, bytes)| (names[nic.0].clone(), bytes)).collect();
        received.sort();
        received
    }

    pub(super) fn receivers(&mut self, from: &str, bytes: &[u8]) -> Vec<String> {
        self.send(from, bytes).into_iter().map(|(nic, _)| nic).collect()
    }

    /// (frames carried from a to b, from b to a, frames dropped for the reason) of a cable.
    pub(super) fn counted(&self, id: &str, reason: DropReason) -> (u64, u64, u64) {
        let snapshot = self.board.counters(NOW);
        let link = snapshot.link(&link(id)).unwrap();
        let carried = |way: &crate::DirectionCounters| way.carried.iter().map(|c| c.count.frames).sum();
        let dropped = link.a_to_b.dropped_frames(reason) + link.b_to_a.dropped_frames(reason);
        (carried(&link.a_to_b), carried(&link.b_to_a), dropped)
    }
}

pub(super) fn lab() -> Lab {
    Lab::new(&topology())
}

#[test]
fn unknown_and_group_addresses_are_flooded_in_their_vlan_only() {
    let mut lab = lab();
    let everybody = frame(BROADCAST, mac(1), STORAGE, 50);
    let expected: Vec<_> =
        ["a2.storage1", "b1.storage1"].map(|nic| (nic.to_owned(), everybody.clone())).into();
    assert_eq!(lab.send("a1.storage1", &everybody), expected);
    let unknown = frame(mac(9), mac(1), STORAGE, 50);
    assert_eq!(lab.receivers("a1.storage1", &unknown), ["a2.storage1", "b1.storage1"]);
    assert_eq!(lab.receivers("a1.mgmt", &frame(BROADCAST, mac(3), None, 50)), ["b1.mgmt"]);
}

#[test]
fn learned_addresses_are_not_flooded_until_they_age() {
    let mut lab = lab();
    lab.send("b1.storage1", &frame(BROADCAST, mac(2), STORAGE, 50));
    let known = frame(mac(2), mac(1), STORAGE, 50);
    assert_eq!(lab.receivers("a1.storage1", &known), ["b1.storage1"]);
    // Learned in 711, not in others; and never sent back to where it lives.
    assert_eq!(lab.receivers("b1.storage1", &known), [""; 0]);
    lab.board.ingress(NicIndex(0), &known, NOW + crate::mac_table::AGEING, &mut lab.out);
    assert_eq!(lab.received().len(), 2);
}

#[test]
fn tags_are_inserted_and_stripped_and_priority_goes_along() {
    let mut lab = lab();
    // Untagged in, VLAN 7 over the spine, untagged out.
    let untagged = frame(mac(4), mac(3), None, 50);
    assert_eq!(lab.send("a1.mgmt", &untagged), [("b1.mgmt".to_owned(), untagged.clone())]);
    // Priority-tagged: the native VLAN; the priority is kept between the switches.
    let capture = lab.board.link(&link("spine-a")).unwrap();
    lab.board.set_captured(capture, true);
    let urgent = frame(mac(4), mac(3), Some(0xe000), 50);
    assert_eq!(lab.send("a1.mgmt", &urgent), [("b1.mgmt".to_owned(), untagged.clone())]);
    assert_eq!(lab.out.captured, [frame(mac(4), mac(3), Some(0xe007), 50)]);
    // Tagged with the native VLAN's id: accepted.
    let native = frame(mac(4), mac(3), Some(0x0007), 50);
    assert_eq!(lab.send("a1.mgmt", &native), [("b1.mgmt".to_owned(), untagged)]);
    // Tagged in, tagged out, drop eligibility too.
    let tagged = frame(mac(4), mac(3), Some(0xb008), 50);
    assert_eq!(lab.send("a1.mgmt", &tagged), [("b1.mgmt".to_owned(), tagged.clone())]);
}

#[test]
fn a_vlan_that_the_port_does_not_carry_is_dropped_on_arrival() {
    let mut lab = lab();
    for tci in [Some(712), Some(8), Some(4095)] {
        assert_eq!(lab.receivers("a1.storage1", &frame(BROADCAST, mac(1), tci, 50)), [""; 0]);
    }
    assert_eq!(lab.counted("a1.storage1", DropReason::VlanNotCarried), (0, 0, 3));
    let snapshot = lab.board.counters(NOW);
    let counters = &snapshot.link(&link("a1.storage1")).unwrap().a_to_b;
    assert_eq!(counters.sent_frames(vlan(712)), 1);
    assert_eq!(counters.dropped.iter().filter(|drop| drop.vlan.is_none()).count(), 1, "VLAN 4095");
}

#[test]
fn a_suspended_native_vlan_is_a_black_hole() {
    let mut lab = lab();
    assert_eq!(lab.receivers("a1.storage1", &frame(BROADCAST, mac(1), None, 50)), [""; 0]);
    assert_eq!(lab.counted("a1.storage1", DropReason::VlanSuspended), (0, 0, 1));
}

#[test]
fn what_is_too_long_for_a_port_is_dropped_there() {
    let mut lab = lab();
    // 1500 bytes at the management port, on arrival.
    assert_eq!(lab.receivers("a1.mgmt", &frame(mac(4), mac(3), None, 1500)), ["b1.mgmt"]);
    assert_eq!(lab.receivers("a1.mgmt", &frame(mac(4), mac(3), Some(8), 1500)), ["b1.mgmt"]);
    assert_eq!(lab.receivers("a1.mgmt", &frame(mac(4), mac(3), None, 1501)), [""; 0]);
    assert_eq!(lab.counted("a1.mgmt", DropReason::Oversize), (2, 0, 1));
    // 9000 bytes between storage ports; on departure where a cable takes less.
    assert_eq!(lab.receivers("a1.storage1", &frame(mac(9), mac(1), STORAGE, 9000)).len(), 2);
    let mut narrow = topology();
    narrow.switches[0].ports[4].mtu = Some(model::Mtu::ETHERNET);
    let mut lab = Lab::new(&narrow);
    assert_eq!(lab.receivers("a1.storage1", &frame(mac(9), mac(1), STORAGE, 9000)), ["a2.storage1"]);
    assert_eq!(lab.counted("room", DropReason::Oversize), (0, 0, 1));
}

#[test]
fn nothing_link_local_is_forwarded() {
    let mut lab = lab();
    for last in 0..=15 {
        let to_bridge = frame([0x01, 0x80, 0xc2, 0, 0, last], mac(1), None, 50);
        assert_eq!(lab.receivers("a1.mgmt", &to_bridge), [""; 0]);
    }
    let beyond = frame([0x01, 0x80, 0xc2, 0, 0, 0x10], mac(1), None, 50);
    assert_eq!(lab.receivers("a1.mgmt", &beyond), ["b1.mgmt"]);
    let snapshot = lab.board.counters(NOW);
    assert_eq!(snapshot.link(&link("a1.mgmt")).unwrap().a_to_b.link_local.frames, 16);
}

#[test]
fn what_is_no_frame_is_dropped() {
    let mut lab = lab();
    let from_group = frame(mac(2), [0x53, 0, 0, 0, 0, 1], STORAGE, 50);
    let cut_tag = frame(mac(2), mac(1), STORAGE, 0);
    for bytes in [&[][..], &[0; 13], &from_group, &cut_tag[..17]] {
        assert_eq!(lab.receivers("a1.storage1", bytes), [""; 0]);
    }
    assert_eq!(lab.counted("a1.storage1", DropReason::Malformed), (0, 0, 4));
    assert_eq!(lab.receivers("spare", &frame(BROADCAST, mac(1), None, 50)), [""; 0], "no cable");
}

#[test]
fn a_one_way_cut_stops_one_way_and_keeps_carrier() {
    let mut lab = lab();
    let (there, back) = (frame(mac(2), mac(1), STORAGE, 50), frame(mac(1), mac(2), STORAGE, 50));
    lab.send("a1.storage1", &there);
    lab.send("b1.storage1", &back);
    assert_eq!(lab.board.cut_link(&link("room"), Ways::AToB, &mut lab.out), Ok(vec![]));
    lab.received();
    assert_eq!(lab.receivers("a1.storage1", &there), [""; 0]);
    assert_eq!(lab.receivers("b1.storage1", &back), ["a1.storage1"]);
    assert_eq!(lab.counted("room", DropReason::Cut).2, 1);

    assert_eq!(lab.board.cut_link(&link("a1.storage1"), Ways::BToA, &mut lab.out), Ok(vec![]));
    assert_eq!(lab.receivers("b1.storage1", &back), [""; 0]);
    let gone = CarrierChange { nic: nic("a1.storage1"), carrier: false };
    assert_eq!(lab.board.cut_link(&link("a1.storage1"), Ways::AToB, &mut lab.out), Ok(vec![gone]));
    let back_again = CarrierChange { nic: nic("a1.storage1"), carrier: true };
    assert_eq!(lab.board.restore_link(&link("a1.storage1"), &mut lab.out), Ok(vec![back_again]));
}

#[test]
fn a_switch_can_be_deaf_or_mute() {
    let topology = topology();
    let at_tor =
        |end: &topology::End| matches!(end, topology::End::Port(port) if port.switch == switch("tor-a"));
    let at_tor =
        || topology.links.iter().filter(|link| link.ends().any(at_tor)).map(|link| (at_tor(&link.b), link));
    assert_eq!(at_tor().count(), 5);
    let (from, to) = ("a1.storage1", "a2.storage1");
    let mut deaf = lab();
    for (b_is_tor, link) in at_tor() {
        let cut = if b_is_tor { Ways::AToB } else { Ways::BToA };
        assert_eq!(deaf.board.cut_link(&link.id, cut, &mut deaf.out), Ok(vec![]));
    }
    deaf.received();
    assert_eq!(deaf.receivers(from, &frame(BROADCAST, mac(1), STORAGE, 50)), [""; 0]);
    deaf.board.tick(NOW, &mut deaf.out);
    assert!(deaf.received().iter().any(|(nic, _)| nic == to), "it still introduces itself");
    let mut mute = lab();
    for (b_is_tor, link) in at_tor() {
        let cut = if b_is_tor { Ways::BToA } else { Ways::AToB };
        mute.board.cut_link(&link.id, cut, &mut mute.out).unwrap();
    }
    mute.received();
    assert_eq!(mute.receivers(from, &frame(BROADCAST, mac(1), STORAGE, 50)), [""; 0]);
    assert_eq!(mute.counted(from, DropReason::Cut), (1, 0, 0), "it heard");
    mute.board.tick(NOW, &mut mute.out);
    assert_eq!(mute.received().iter().filter(|(nic, _)| nic.starts_with('a')).count(), 0);
}

#[test]
fn a_switch_that_is_down_takes_its_nics_carrier_and_forwards_nothing() {
    let mut lab = lab();
    let changed = lab.board.set_switch_up(&switch("tor-b"), false, &mut lab.out).unwrap();
    let names: Vec<_> = changed.iter().map(|change| (change.nic.as_str(), change.carrier)).collect();
    assert_eq!(names, [("b1.storage1", false), ("b1.mgmt", false)]);
    assert_eq!(lab.receivers("a1.storage1", &frame(BROADCAST, mac(1), STORAGE, 50)), ["a2.storage1"]);
    assert_eq!(lab.counted("room", DropReason::SwitchDown).2, 1);
    assert_eq!(lab.receivers("b1.storage1", &frame(BROADCAST, mac(2), STORAGE, 50)), [""; 0]);
    assert_eq!(lab.board.heal(&mut lab.out).len(), 2);
    lab.received();
    assert_eq!(lab.receivers("a1.storage1", &frame(BROADCAST, mac(1), STORAGE, 50)).len(), 2);
}

#[test]
fn addresses_are_forgotten_where_the_link_went_down() {
    let mut lab = lab();
    lab.send("b1.storage1", &frame(BROADCAST, mac(2), STORAGE, 50));
    let known = frame(mac(2), mac(1), STORAGE, 50);
    lab.board.cut_link(&link("room"), Ways::Both, &mut lab.out).unwrap();
    lab.board.restore_link(&link("room"), &mut lab.out).unwrap();
    lab.received();
    assert_eq!(lab.receivers("a1.storage1", &known), ["a2.storage1", "b1.storage1"], "flooded again");
    lab.send("b1.storage1", &frame(BROADCAST, mac(2), STORAGE, 50));
    assert_eq!(lab.receivers("a1.storage1", &known), ["b1.storage1"]);
    let index = lab.board.nic(&nic("b1.storage1")).unwrap();
    lab.board.nic_disconnected(index);
    lab.send("a2.storage1", &frame(BROADCAST, mac(5), STORAGE, 50));
    assert_eq!(lab.receivers("a1.storage1", &frame(mac(5), mac(1), STORAGE, 50)), ["a2.storage1"]);
}

#[test]
fn a_moved_cable_follows_its_port_and_goes_home() {
    let mut lab = lab();
    let free = port("tor-b", "Ethernet1/4");
    assert_eq!(lab.board.recable(&nic("a1.storage1"), &free, &mut lab.out), Ok(vec![]));
    let heard: Vec<_> = lab.received();
    assert_eq!(heard.len(), 1, "its new port introduces itself");
    let seen = network::lldp::decode(&heard[0].1).unwrap().lldpdu;
    assert_eq!(seen.port_id.to_string(), "Ethernet1/4");
    assert_eq!(seen.system_name.as_deref(), Some("sw2"));
    lab.board.cut_link(&link("room"), Ways::Both, &mut lab.out).unwrap();
    assert_eq!(lab.receivers("b1.storage1", &frame(BROADCAST, mac(2), STORAGE, 50)), ["a1.storage1"]);
    assert_eq!(lab.board.restore_cabling(&mut lab.out), []);
    lab.received();
    assert_eq!(lab.receivers("b1.storage1", &frame(BROADCAST, mac(2), STORAGE, 50)), [""; 0]);
    assert_eq!(lab.receivers("a2.storage1", &frame(BROADCAST, mac(5), STORAGE, 50)), ["a1.storage1"]);
}

#[test]
fn faults_that_make_no_sense_are_refused() {
    let Lab { mut board, mut out } = lab();
    let (home, other) = (port("tor-a", "Ethernet1/1"), port("tor-a", "Ethernet1/2"));
    assert_eq!(
        board.recable(&nic("a1.storage1"), &other, &mut out),
        Err(FaultError::PortTaken { port: other.clone(), link: link("a2.storage1") })
    );
    assert_eq!(board.recable(&nic("a1.storage1"), &home, &mut out), Ok(vec![]), "it is there already");
    assert_eq!(board.recable(&nic("spare"), &home, &mut out), Err(FaultError::NotCabled(nic("spare"))));
    let nowhere = PortRef { switch: switch("tor-a"), port: "x".parse().unwrap() };
    assert_eq!(
        board.recable(&nic("a1.storage1"), &nowhere, &mut out),
        Err(FaultError::UnknownPort(nowhere.clone()))
    );
    assert_eq!(board.cut_link(&link("x"), Ways::Both, &mut out), Err(FaultError::UnknownLink(link("x"))));
    assert!(board.set_switch_up(&switch("x"), true, &mut out).is_err());
}

#[test]
fn every_port_introduces_itself_in_time_but_not_through_a_cut() {
    let mut lab = lab();
    assert_eq!(lab.board.tick(Duration::ZERO, &mut lab.out), Duration::from_millis(100));
    let first = lab.received();
    let names: Vec<_> = first.iter().map(|(nic, _)| nic.as_str()).collect();
    assert_eq!(names, ["a1.mgmt", "a1.storage1", "a2.storage1", "b1.mgmt", "b1.storage1"]);
    let storage = network::lldp::decode(&first[1].1).unwrap().lldpdu;
    assert_eq!(storage.ttl_s, 2);
    assert_eq!(storage.port_vlan, Some(vlan(99)));
    assert_eq!(storage.vlans.iter().map(|v| v.vlan.get()).collect::<Vec<_>>(), [99, 711]);
    assert_eq!(storage.max_frame_bytes, Some(9018));
    assert!(storage.capabilities.is_some_and(|is| is.enabled & network::lldp::Capabilities::BRIDGE != 0));

    assert_eq!(lab.board.tick(Duration::from_millis(99), &mut lab.out), Duration::from_millis(100));
    assert_eq!(lab.received(), []);
    lab.board.cut_link(&link("a1.storage1"), Ways::BToA, &mut lab.out).unwrap();
    lab.board.cut_link(&link("a2.storage1"), Ways::AToB, &mut lab.out).unwrap();
    lab.board.set_switch_up(&switch("tor-b"), false, &mut lab.out).unwrap();
    lab.received();
    assert_eq!(lab.board.tick(Duration::from_millis(350), &mut lab.out), Duration::from_millis(450));
    let names: Vec<_> = lab.received().into_iter().map(|(nic, _)| nic).collect();
    assert_eq!(names, ["a1.mgmt", "a2.storage1"]);
    lab.board.nic_connected(NicIndex(0), &mut lab.out);
    assert_eq!(lab.received(), [], "nothing through the cut");
    lab.board.restore_link(&link("a1.storage1"), &mut lab.out).unwrap();
    assert_eq!(lab.received().len(), 1, "at once when it is mended");
}

#[test]
fn frames_count_on_every_cable_by_vlan_and_priority() {
    let mut lab = lab();
    lab.send("b1.storage1", &frame(BROADCAST, mac(2), STORAGE, 50));
    lab.send("a1.storage1", &frame(mac(2), mac(1), STORAGE, 50));
    lab.send("a1.mgmt", &frame(mac(4), mac(3), None, 50));
    let snapshot = lab.board.counters(Duration::from_millis(1500));
    assert_eq!(snapshot.at_us, 1_500_000);
    let room = snapshot.link(&link("room")).unwrap();
    let class = crate::ClassCount {
        vlan: vlan(711),
        pcp: Priority::STORAGE,
        count: crate::Count { frames: 1, bytes: 68 },
    };
    assert_eq!((&room.a_to_b.carried, &room.b_to_a.carried), (&vec![class], &vec![class]));
    let management = &snapshot.link(&link("a1.mgmt")).unwrap().a_to_b;
    assert_eq!(management.carried[0].vlan, vlan(7));
    assert_eq!(management.carried[0].count.bytes, 64);
    for spine in ["spine-a", "spine-b"] {
        let counters = snapshot.link(&link(spine)).unwrap();
        assert_eq!(counters.sent_frames(vlan(711)), 0);
        assert_eq!(counters.sent_frames(vlan(7)), 1);
    }
}

#[test]
fn a_frame_that_leaks_to_the_spine_is_counted_even_if_refused_there() {
    let mut leaky = topology();
    leaky.switches[0].ports[5].tagged_vlans.insert(vlan(711));
    let mut lab = Lab::new(&leaky);
    lab.send("a1.storage1", &frame(BROADCAST, mac(1), STORAGE, 50));
    let snapshot = lab.board.counters(NOW);
    let spine = snapshot.link(&link("spine-a")).unwrap();
    assert_eq!((spine.sent_frames(vlan(711)), spine.a_to_b.carried_frames(vlan(711))), (1, 0));
}

#[test]
fn a_frame_that_changes_its_vlan_on_a_cable_counts_in_the_vlan_it_came_from() {
    let mut mixed = topology();
    let native = |port: &mut topology::Port, id| {
        port.native_vlan = Some(vlan(id));
        port.tagged_vlans.clear();
    };
    native(&mut mixed.switches[0].ports[5], 711);
    native(&mut mixed.switches[2].ports[0], 7);
    let mut lab = Lab::new(&mixed);
    assert_eq!(lab.receivers("a1.storage1", &frame(BROADCAST, mac(1), STORAGE, 50)).len(), 3);
    let snapshot = lab.board.counters(NOW);
    let spine = snapshot.link(&link("spine-a")).unwrap();
    assert_eq!((spine.sent_frames(vlan(711)), spine.sent_frames(vlan(7))), (1, 0));
}

#[test]
fn cuts_add_up_in_any_order() {
    for cuts in [
        [Ways::AToB, Ways::BToA],
        [Ways::BToA, Ways::AToB],
        [Ways::Both, Ways::AToB],
        [Ways::Both, Ways::BToA],
    ] {
        let Lab { mut board, mut out } = lab();
        let changes = cuts.map(|cut| board.cut_link(&link("a1.mgmt"), cut, &mut out).unwrap().len());
        assert_eq!(changes.iter().sum::<usize>(), 1, "{cuts:?}");
        assert!(!board.has_carrier(board.nic(&nic("a1.mgmt")).unwrap()), "{cuts:?}");
    }
}

#[test]
fn what_a_nic_does_not_take_is_counted() {
    let mut lab = lab();
    for (refusal, reason) in
        [(Delivery::NoSocket, DropReason::NoSocket), (Delivery::Full, DropReason::Backpressure)]
    {
        lab.out.refuse = Some(refusal);
        lab.send("a1.mgmt", &frame(BROADCAST, mac(3), None, 50));
        assert_eq!(lab.counted("b1.mgmt", reason), (0, 0, 1));
    }
    assert_eq!(lab.board.counters(NOW).link(&link("b1.mgmt")).unwrap().b_to_a.link_local.frames, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Send { nic: usize, to: u8, from: u8, tci: Option<u16>, bytes: usize },
    Noise { nic: usize, bytes: Vec<u8> },
    Cut { link: usize, cut: Ways },
    Restore { link: usize },
    Switch { switch: usize, up: bool },
    Recable { nic: usize, switch: usize, port: usize },
    Heal,
}

fn steps() -> impl Strategy<Value = Step> {
    let vid = prop_oneof![Just(0u16), Just(7), Just(8), Just(99), Just(711), Just(712), Just(4095)];
    let tci = (vid, 0..16u16).prop_map(|(vid, priority)| priority << 12 | vid);
    let cut = prop_oneof![Just(Ways::Both), Just(Ways::AToB), Just(Ways::BToA)];
    prop_oneof![
        8 => (0..6usize, 0..8u8, 0..8u8, prop::option::of(tci), prop_oneof![Just(46usize), Just(1501), Just(9001)])
            .prop_map(|(nic, to, from, tci, bytes)| Step::Send { nic, to, from, tci, bytes }),
        1 => (0..6usize, prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(nic, bytes)| Step::Noise { nic, bytes }),
        2 => (0..8usize, cut).prop_map(|(link, cut)| Step::Cut { link, cut }),
        1 => (0..8usize).prop_map(|link| Step::Restore { link }),
        1 => (0..3usize, any::<bool>()).prop_map(|(switch, up)| Step::Switch { switch, up }),
        1 => (0..6usize, 0..3usize, 0..6usize).prop_map(|(nic, switch, port)| Step::Recable { nic, switch, port }),
        1 => Just(Step::Heal),
    ]
}

/// What must hold, kept apart from the code under test: which faults were made, and where each NIC's cable is.
struct Shadow {
    topology: Topology,
    cut: BTreeMap<usize, [bool; 2]>,
    down: BTreeSet<usize>,
    plugged: BTreeMap<NicId, PortRef>,
}

impl Shadow {
    fn new(topology: Topology) -> Self {
        let plugged = topology.links.iter().filter_map(|link| match (&link.a, &link.b) {
            (topology::End::Nic(nic), topology::End::Port(port))
            | (topology::End::Port(port), topology::End::Nic(nic)) => Some((nic.clone(), port.clone())),
            _ => None,
        });
        Self { plugged: plugged.collect(), cut: BTreeMap::new(), down: BTreeSet::new(), topology }
    }

    /// Whether the NIC may get this frame.
    fn may_get(&self, nic: &NicId, bytes: &[u8]) -> bool {
        let at = &self.plugged[nic];
        let port = self.topology.port(at).unwrap();
        let frame = Frame::parse(bytes).unwrap();
        let vlan = match frame.tag() {
            Some(tag) => port.tagged_vlans.iter().copied().find(|vlan| vlan.get() == tag.vid()),
            None => port.native_vlan,
        };
        let index = self.topology.links.iter().position(|link| link.id.as_str() == nic.as_str()).unwrap();
        let from_nic = usize::from(matches!(self.topology.links[index].a, topology::End::Port(_)));
        let cut = self.cut.get(&index).is_some_and(|cut| cut[1 - from_nic]);
        let down = self.down.iter().any(|switch| self.topology.switches[*switch].id == at.switch);
        vlan.is_some_and(|vlan| vlan.get() != 99) && !cut && !down
    }
}

fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let Lab { mut board, mut out } = lab();
    let mut shadow = Shadow::new(topology());
    let nics: Vec<NicId> = board.nics().cloned().collect();
    for step in steps {
        out.delivered.clear();
        match step {
            Step::Send { .. } | Step::Noise { .. } => {
                let (sender, bytes) = match step {
                    Step::Send { nic, to, from, tci, bytes } => {
                        let to = if to == 0 { BROADCAST } else { mac(to) };
                        (nic, frame(to, mac(from), tci, bytes))
                    }
                    Step::Noise { nic, bytes } => (nic, bytes),
                    _ => unreachable!("matched above"),
                };
                board.ingress(NicIndex(sender), &bytes, NOW, &mut out);
                let mut seen = BTreeSet::new();
                for (receiver, bytes) in &out.delivered {
                    prop_assert!(receiver.0 != sender, "back to its sender");
                    prop_assert!(seen.insert(*receiver), "twice");
                    prop_assert!(
                        shadow.may_get(&nics[receiver.0], bytes),
                        "{} got {bytes:02x?}",
                        nics[receiver.0]
                    );
                }
            }
            Step::Cut { link, cut } => {
                board.cut_link(&shadow.topology.links[link].id, cut, &mut out).unwrap();
                let entry = shadow.cut.entry(link).or_default();
                *entry = [entry[0] || cut != Ways::BToA, entry[1] || cut != Ways::AToB];
            }
            Step::Restore { link } => {
                board.restore_link(&shadow.topology.links[link].id, &mut out).unwrap();
                shadow.cut.remove(&link);
            }
            Step::Switch { switch, up } => {
                board.set_switch_up(&shadow.topology.switches[switch].id, up, &mut out).unwrap();
                if up {
                    shadow.down.remove(&switch)
                } else {
                    shadow.down.insert(switch)
                };
            }
            Step::Recable { nic, switch, port } => {
                let switch = &shadow.topology.switches[switch];
                let Some(port) = switch.ports.get(port) else { continue };
                let to = PortRef { switch: switch.id.clone(), port: port.id.clone() };
                if board.recable(&nics[nic], &to, &mut out).is_ok() {
                    shadow.plugged.insert(nics[nic].clone(), to);
                }
            }
            Step::Heal => {
                board.heal(&mut out);
                shadow = Shadow::new(topology());
            }
        }
        prop_assert!(board.arrivals.is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn no_frame_is_where_it_must_not_be(steps in prop::collection::vec(steps(), 1..60)) {
        play(steps)?;
    }
}
