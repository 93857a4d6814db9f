use super::*;
use crate::testing::{cabling, chassis, neighbour, spec};
use model::{Mtu, Wiring};

const VLANS: [&[u64]; 4] = [&[7, 8], &[7, 8], &[711], &[712]];

/// Option A with some NICs (node, NIC) plugged into other TORs, whose ports are set up for what the NIC needs.
pub(super) fn rewired(nodes_per_zone: u64, moves: &[(usize, usize, u8)]) -> Vec<NodeCabling> {
    let mut cabling = cabling(&spec(nodes_per_zone));
    for (node, nic, tor) in moves {
        cabling[node - 1].nics[*nic].neighbour = Some(neighbour(*tor, 90 + nic, VLANS[*nic]));
    }
    cabling
}

fn say(nodes_per_zone: u64, moves: &[(usize, usize, u8)]) -> Vec<String> {
    let findings = check(&spec(nodes_per_zone), &rewired(nodes_per_zone, moves));
    findings.iter().map(|finding| format!("{}: {finding}", finding.id())).collect()
}

#[test]
fn cables_as_the_template_says_are_wiring_a_and_nothing_is_found() {
    for nodes_per_zone in 1..=4 {
        assert_eq!(say(nodes_per_zone, &[]), Vec::<String>::new());
        let spec = spec(nodes_per_zone);
        assert_eq!(recognise(&spec, &cabling(&spec)), Recognised::As(Wiring::A));
    }
}

#[test]
fn one_cable_in_the_other_rack_is_named_with_both_sides() {
    insta::assert_snapshot!(say(2, &[(1, 2, 3)]).join("\n"));
}

#[test]
fn with_one_node_per_zone_the_other_cables_decide_whose_switch_it_is() {
    insta::assert_snapshot!(say(1, &[(1, 2, 3)]).join("\n"));
}

#[test]
fn a_node_in_the_other_rack_is_one_finding() {
    let moves = [(1, 0, 3), (1, 1, 4), (1, 2, 3), (1, 3, 4)];
    insta::assert_snapshot!(say(2, &moves).join("\n"));
}

#[test]
fn two_nodes_with_each_others_labels_accuse_nobody_and_show_both_sides() {
    let moves = [(2, 0, 3), (2, 1, 4), (2, 2, 3), (2, 3, 4), (3, 0, 1), (3, 1, 2), (3, 2, 1), (3, 3, 2)];
    let found = check(&spec(2), &rewired(2, &moves));
    let ids: Vec<_> = found.iter().map(WiringFinding::id).collect();
    assert_eq!(ids, ["lldp.shared-switch"; 4]);
    let WiringFinding::SharedSwitch { switch, cables } = &found[0] else { panic!("{found:?}") };
    assert_eq!((switch, cables.len()), (&chassis(1), 4));
}

#[test]
fn both_racks_on_one_switch_accuse_nobody() {
    let found = say(1, &[(2, 0, 1), (2, 2, 1)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0]
            .starts_with("lldp.shared-switch: switch 02:00:00:00:ff:01 is used by both zones: n1 Ethernet")
    );
    assert!(found[0].contains("n2 Ethernet 3 (eth2) on switch tor1 (02:00:00:00:ff:01) port Ethernet1/92"));
}

#[test]
fn the_odd_one_out_of_three_is_named() {
    insta::assert_snapshot!(say(3, &[(2, 0, 2)]).join("\n"));
}

#[test]
fn of_two_that_differ_inside_the_rack_nobody_is_accused() {
    let found = say(2, &[(1, 0, 2)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("lldp.split-zone: the nodes of zone a have Ethernet on different switches"));
}

#[test]
fn storage_networks_that_share_a_switch_are_found() {
    let found = check(&spec(3), &rewired(3, &[(1, 3, 1)]));
    let ids: Vec<_> = found.iter().map(WiringFinding::id).collect();
    assert_eq!(ids, ["lldp.odd-switch", "lldp.storage-on-one-switch"]);
}

#[test]
fn storage_on_one_switch_everywhere_is_option_c_unless_the_template_says_otherwise() {
    let moves = [(1, 3, 1), (2, 3, 3)];
    let mut spec = spec(1);
    spec.wiring = None;
    assert_eq!(check(&spec, &rewired(1, &moves)), []);
    assert!(matches!(recognise(&spec, &rewired(1, &moves)), Recognised::Unknown { .. }));
    spec.wiring = Some(Wiring::A);
    assert_eq!(check(&spec, &rewired(1, &moves)).len(), 2);
}

#[test]
fn a_nic_without_neighbour_is_found_and_so_is_one_that_was_heard_long_ago() {
    let mut cabling = cabling(&spec(1));
    cabling[0].nics[1].neighbour = None;
    cabling[1].nics[0].neighbour.as_mut().unwrap().received_age_ms = 20_000;
    let found = check(&spec(1), &cabling);
    assert_eq!(
        found.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "n1 Ethernet 2 (eth1) hears no switch",
            "n2 Ethernet (eth0) hears no switch; the last one 20000 ms ago"
        ]
    );
}

#[test]
fn a_vlan_that_the_port_lacks_is_named_with_its_purpose() {
    let mut cabling = cabling(&spec(1));
    cabling[0].nics[2].neighbour = Some(neighbour(1, 12, &[712]));
    cabling[0].nics[0].neighbour = Some(neighbour(1, 10, &[8]));
    let found = check(&spec(1), &cabling);
    let text: Vec<_> = found.iter().map(|finding| format!("{finding}; {}", finding.help())).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn a_port_that_does_not_tell_its_vlans_is_a_note_and_not_an_error() {
    let mut cabling = cabling(&spec(1));
    cabling[0].nics[2].neighbour = Some(neighbour(1, 12, &[]));
    let found = check(&spec(1), &cabling);
    assert_eq!(
        found.iter().map(WiringFinding::id).collect::<Vec<_>>(),
        ["lldp.vlans-unknown", "lldp.pfc-unknown", "lldp.ets-unknown"]
    );
    assert!(found.iter().all(|finding| finding.severity() == model::Severity::Note));
    let Recognised::Unknown { why } = recognise(&spec(1), &cabling) else { panic!("not enough is known") };
    assert_eq!(why, "switch 02:00:00:00:ff:01 does not tell its VLANs: option A or B");
}

#[test]
fn a_port_for_small_frames_is_found_by_the_frame_and_not_by_the_mtu() {
    let with = |max_frame_bytes| {
        let mut cabling = cabling(&spec(1));
        cabling[0].nics[2].neighbour.as_mut().unwrap().lldpdu.max_frame_bytes = max_frame_bytes;
        check(&spec(1), &cabling)
    };
    for good in [None, Some(0), Some(9018), Some(9216)] {
        assert_eq!(with(good), [], "{good:?}");
    }
    let found = with(Some(9017));
    let [WiringFinding::FrameTooBig { needed_bytes, mtu, .. }] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((*needed_bytes, *mtu), (9018, Mtu::JUMBO));
}

/// All storage NICs of both nodes cabled anew: (node, NIC) to TOR and VLANs.
fn storage_on(tor: impl Fn(usize, usize) -> (u8, &'static [u64])) -> Vec<NodeCabling> {
    let mut cabling = cabling(&spec(1));
    for (node, nic) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        let (tor, vlans) = tor(node, nic);
        cabling[node].nics[nic].neighbour = Some(neighbour(tor, 10 * node + nic, vlans));
    }
    cabling
}

const BOTH: &[u64] = &[711, 712];

#[test]
fn both_storage_vlans_on_every_switch_are_option_b() {
    let b = storage_on(|node, nic| ((2 * node + nic - 1) as u8, BOTH));
    assert_eq!(recognise(&spec(1), &b), Recognised::As(Wiring::B));
    let mixed = storage_on(|node, nic| ((2 * node + nic - 1) as u8, if nic == 2 { BOTH } else { &[712] }));
    let said = recognise(&spec(1), &mixed);
    assert!(matches!(&said, Recognised::Unknown { why } if why.contains("2 storage VLANs")), "{said:?}");
}

#[test]
fn one_switch_for_every_nic_of_a_zone_is_option_c() {
    let mut c = cabling(&spec(1));
    for (tor, node) in (1..).zip(&mut c) {
        for (at, nic) in node.nics.iter_mut().enumerate() {
            nic.neighbour = Some(neighbour(tor, at, if at < 2 { &[7, 8] } else { BOTH }));
        }
    }
    assert_eq!(recognise(&spec(1), &c), Recognised::As(Wiring::C));
    c[0].nics[0].neighbour = None;
    assert!(matches!(recognise(&spec(1), &c), Recognised::Unknown { .. }), "a deaf NIC may be anywhere");
}

#[test]
fn the_same_two_switches_for_both_zones_are_option_d_if_each_network_has_its_own() {
    let d = storage_on(|_, nic| ((nic - 1) as u8, VLANS[nic]));
    assert_eq!(recognise(&spec(1), &d), Recognised::As(Wiring::D));
    let crossed = storage_on(|node, nic| (1 + ((node + nic) % 2) as u8, VLANS[nic]));
    assert!(matches!(recognise(&spec(1), &crossed), Recognised::Unknown { .. }));
}

/// Option D: the first NIC of each intent on TOR 1, the second on TOR 2, in every node.
fn option_d(nodes_per_zone: u64) -> (model::ClusterSpec, Vec<NodeCabling>) {
    let spec = model::ClusterSpec { wiring: Some(Wiring::D), ..spec(nodes_per_zone) };
    let mut d = cabling(&spec);
    for (node, cabled) in d.iter_mut().enumerate() {
        for (at, nic) in cabled.nics.iter_mut().enumerate() {
            nic.neighbour = Some(neighbour(1 + (at % 2) as u8, 10 * node + at, VLANS[at]));
        }
    }
    (spec, d)
}

#[test]
fn with_option_d_an_adapter_is_on_one_switch_in_every_node() {
    let (spec, mut d) = option_d(2);
    assert_eq!(check(&spec, &d), []);
    d[0].nics[2].neighbour = Some(neighbour(2, 90, VLANS[2]));
    d[0].nics[3].neighbour = Some(neighbour(1, 91, VLANS[3]));
    let found = check(&spec, &d);
    let blamed: Vec<_> =
        found.iter().flat_map(WiringFinding::blamed).map(|c| (c.node.as_str(), c.adapter.as_str())).collect();
    assert_eq!(blamed, [("n1", "Ethernet 3"), ("n1", "Ethernet 4")], "{found:?}");
}

#[test]
fn with_option_d_of_two_nodes_that_differ_nobody_is_accused() {
    let (spec, mut d) = option_d(1);
    assert_eq!(check(&spec, &d), []);
    d[0].nics[0].neighbour = Some(neighbour(2, 90, VLANS[0]));
    let found: Vec<String> = check(&spec, &d).iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("the nodes of both zones have Ethernet on different switches: n1 "),
        "{found:?}"
    );
}

#[test]
fn where_a_cable_leads_to_the_other_zone_no_other_wiring_is_seen() {
    // All of both nodes on the same two switches looks like option D.
    let found = say(1, &[(2, 0, 1), (2, 1, 2), (2, 2, 1), (2, 3, 2)]);
    assert!(found.len() == 2 && found.iter().all(|said| said.starts_with("lldp.shared-switch")), "{found:?}");
}

#[test]
fn another_wiring_than_the_templates_is_found() {
    let mut spec = spec(1);
    spec.wiring = Some(Wiring::B);
    let found = check(&spec, &cabling(&spec));
    assert_eq!(found, [WiringFinding::OtherWiring { declared: Wiring::B, recognised: Wiring::A }]);
}

#[test]
fn names_of_switches_decide_nothing() {
    let mut cabling = cabling(&spec(2));
    for nic in cabling.iter_mut().flat_map(|node| &mut node.nics) {
        nic.neighbour.as_mut().unwrap().lldpdu.system_name = Some("switch".to_owned());
    }
    assert_eq!(check(&spec(2), &cabling), []);
}

#[test]
fn the_witness_is_in_no_zone_and_needs_only_a_neighbour() {
    let mut cabling = cabling(&spec(1));
    let mut witness = cabling[0].clone();
    witness.zone = None;
    witness.node = "witness".parse().unwrap();
    witness.nics.truncate(1);
    cabling.push(witness);
    assert_eq!(check(&spec(1), &cabling), []);
    cabling[2].nics[0].neighbour = None;
    assert_eq!(check(&spec(1), &cabling).len(), 1);
}

#[test]
fn maps_are_data_that_can_be_written_down() {
    let maps = maps(&cabling(&spec(1)));
    assert_eq!(maps.connections.len(), 8);
    assert_eq!(maps.switch_to_node.len(), 4);
    let text = serde_json::to_string(&maps).unwrap();
    assert_eq!(serde_json::from_str::<CablingMaps>(&text).unwrap(), maps);
    insta::assert_json_snapshot!((&maps.node_to_switch, &maps.switch_to_node, &maps.connections[2]));
}

#[test]
fn findings_are_diagnostics_and_can_be_written_down() {
    let found = check(&spec(2), &rewired(2, &[(1, 2, 3)]));
    let text = serde_json::to_string(&found).unwrap();
    assert!(text.starts_with(r#"[{"finding":"other-zones-switch""#), "{text}");
    assert_eq!(serde_json::from_str::<Vec<WiringFinding>>(&text).unwrap(), found);
    let diagnostic = found[0].diagnostic();
    assert_eq!((diagnostic.rule.0, diagnostic.severity), ("lldp.other-zones-switch", model::Severity::Error));
}

#[test]
fn swapped_storage_nics_are_told_of_by_the_vlans_that_they_lack_and_nobody_else_is() {
    for nodes_per_zone in 1..=3 {
        let mut cabling = cabling(&spec(nodes_per_zone));
        let [.., third, fourth] = cabling[0].nics.as_mut_slice() else { unreachable!() };
        std::mem::swap(&mut third.neighbour, &mut fourth.neighbour);
        let found = check(&spec(nodes_per_zone), &cabling);
        let blamed = found.iter().flat_map(WiringFinding::blamed);
        let blamed: BTreeSet<_> = blamed.map(|c| (c.node.as_str(), c.adapter.as_str())).collect();
        assert_eq!(blamed, BTreeSet::from([("n1", "Ethernet 3"), ("n1", "Ethernet 4")]), "{found:?}");
        let vlans = found.iter().filter(|finding| finding.id() == "lldp.vlan-missing").count();
        assert_eq!(vlans, 2, "{found:?}");
    }
}
