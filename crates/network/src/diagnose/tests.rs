//! Every fault in every direction, in the smallest cluster and in the next one.

use super::*;
use crate::testing::{Cut, Fault, When, World, cabling, node_name, spec};
use proptest::prelude::*;

fn diagnosed(nodes_per_zone: u64, when: When, faults: &[Fault]) -> Diagnosis {
    let world = World { spec: spec(nodes_per_zone), faults: faults.to_vec(), when };
    let known_good = cabling(&world.spec);
    diagnose(&world.spec.storage_networks, &known_good, &world.reports(), Thresholds::default())
}

fn ids(diagnosis: &Diagnosis) -> Vec<String> {
    diagnosis.losses.iter().map(|loss| loss.what.id()).collect()
}

/// The ids of what is named, soon after the fault and when neighbours have timed out.
fn both_times(nodes_per_zone: u64, faults: &[Fault]) -> [Vec<String>; 2] {
    [When::Soon, When::Later].map(|when| ids(&diagnosed(nodes_per_zone, when, faults)))
}

#[track_caller]
fn names(nodes_per_zone: u64, faults: &[Fault], expected: &[&str]) {
    for found in both_times(nodes_per_zone, faults) {
        let mut found = found;
        found.sort();
        assert_eq!(found, expected, "{nodes_per_zone}+{nodes_per_zone} {faults:?}");
    }
}

const TOR1: &str = "switch:02:00:00:00:ff:01";
const TOR3: &str = "switch:02:00:00:00:ff:03";

#[test]
fn without_a_fault_nothing_is_lost_and_nothing_unknown() {
    for nodes_per_zone in 1..=4 {
        assert_eq!(diagnosed(nodes_per_zone, When::Soon, &[]), Diagnosis::default());
    }
}

#[test]
fn a_switch_without_power_is_named_alone() {
    names(1, &[Fault::Tor(1)], &[TOR1]);
    names(2, &[Fault::Tor(1)], &[TOR1]);
    names(2, &[Fault::Tor(3)], &[TOR3]);
}

#[test]
fn a_frozen_switch_is_named_as_soon_as_its_neighbours_reach_nobody() {
    names(2, &[Fault::FrozenTor(1)], &[TOR1]);
}

#[test]
fn a_frozen_switch_keeps_its_name_while_its_neighbours_time_out_one_by_one() {
    let reports = |when| World { spec: spec(2), faults: vec![Fault::FrozenTor(1)], when }.reports();
    let (soon, later) = (reports(When::Soon), reports(When::Later));
    let spec = spec(2);
    let known_good = cabling(&spec);
    let places = || (0..soon.len()).flat_map(|node| (0..soon[node].nics.len()).map(move |nic| (node, nic)));
    let timing_out: Vec<_> =
        places().filter(|(node, nic)| soon[*node].nics[*nic] != later[*node].nics[*nic]).collect();
    assert_eq!(timing_out.len(), 4, "two nodes, each with two NICs on the switch");
    for timed_out in 0..1_usize << timing_out.len() {
        let mut mixed = soon.clone();
        for (_, (node, nic)) in
            timing_out.iter().enumerate().filter(|(number, _)| timed_out >> number & 1 == 1)
        {
            mixed[*node].nics[*nic] = later[*node].nics[*nic].clone();
        }
        let diagnosis = diagnose(&spec.storage_networks, &known_good, &mixed, Thresholds::default());
        assert_eq!(ids(&diagnosis), [TOR1], "{timed_out:b}");
    }
}

#[test]
fn the_link_between_the_rooms_is_named_with_its_network_and_direction() {
    for nodes_per_zone in [1, 2, 4] {
        names(nodes_per_zone, &[Fault::RoomLink(1, Cut::Both)], &["room-link:1"]);
        names(nodes_per_zone, &[Fault::RoomLink(2, Cut::Send)], &["room-link:2:a>b"]);
        names(nodes_per_zone, &[Fault::RoomLink(2, Cut::Receive)], &["room-link:2:b>a"]);
    }
}

#[test]
fn both_links_between_the_rooms_are_two_losses() {
    let both = [Fault::RoomLink(1, Cut::Both), Fault::RoomLink(2, Cut::Both)];
    names(1, &both, &["room-link:1", "room-link:2"]);
    names(2, &both, &["room-link:1", "room-link:2"]);
}

#[test]
fn a_cable_that_keeps_its_carrier_is_told_from_the_link_between_the_rooms_by_the_other_nodes() {
    names(2, &[Fault::Cable(1, 1, Cut::Both)], &["nic:n1:Ethernet 3"]);
    names(2, &[Fault::Cable(1, 1, Cut::Send)], &["nic:n1:Ethernet 3:send"]);
    names(2, &[Fault::Cable(4, 2, Cut::Receive)], &["nic:n4:Ethernet 4:receive"]);
}

#[test]
fn with_one_node_per_zone_the_link_is_named_and_the_cables_are_mentioned() {
    for cut in Cut::ALL {
        let diagnosis = diagnosed(1, When::Soon, &[Fault::Cable(1, 1, cut)]);
        let [loss] = diagnosis.losses.as_slice() else { panic!("{diagnosis:?}") };
        assert!(loss.what.id().starts_with("room-link:1"), "{cut:?}");
        assert_eq!(loss.could_also_be.len(), if cut == Cut::Both { 4 } else { 2 });
        assert!(loss.could_also_be[0].ends_with("the cable of n1 Ethernet 3, which still has carrier"));
    }
}

#[test]
fn with_one_node_per_zone_a_lost_neighbour_decides_later() {
    let later = |cut| ids(&diagnosed(1, When::Later, &[Fault::Cable(1, 1, cut)]));
    assert_eq!(later(Cut::Receive), ["nic:n1:Ethernet 3:receive"]);
    assert_eq!(later(Cut::Both), ["nic:n1:Ethernet 3"]);
}

#[test]
fn a_pulled_cable_is_named_at_once() {
    names(1, &[Fault::Pulled(2, 2)], &["nic:n2:Ethernet 4"]);
    names(2, &[Fault::Pulled(2, 2)], &["nic:n2:Ethernet 4"]);
}

#[test]
fn a_node_that_is_off_is_silent_and_nothing_else_is_accused() {
    names(1, &[Fault::Node(1)], &["node:n1"]);
    names(2, &[Fault::Node(3)], &["node:n3"]);
}

#[test]
fn a_rack_that_is_off_is_its_nodes() {
    let rack = [Fault::Node(3), Fault::Node(4), Fault::Tor(3), Fault::Tor(4)];
    names(2, &rack, &["node:n3", "node:n4"]);
}

#[test]
fn faults_that_overlap_are_named_one_by_one() {
    names(2, &[Fault::RoomLink(1, Cut::Both), Fault::Pulled(1, 1)], &["nic:n1:Ethernet 3", "room-link:1"]);
    names(
        2,
        &[Fault::Tor(2), Fault::RoomLink(1, Cut::Send)],
        &["room-link:1:a>b", "switch:02:00:00:00:ff:02"],
    );
    names(
        2,
        &[Fault::Cable(1, 1, Cut::Send), Fault::RoomLink(1, Cut::Send)],
        &["nic:n1:Ethernet 3:send", "room-link:1:a>b"],
    );
    names(2, &[Fault::Node(1), Fault::RoomLink(2, Cut::Receive)], &["node:n1", "room-link:2:b>a"]);
    names(2, &[Fault::Tor(1), Fault::Tor(3)], &[TOR1, TOR3]);
    names(1, &[Fault::Node(2), Fault::Tor(1)], &["node:n2", TOR1]);
}

#[test]
fn a_link_is_lost_at_least_one_way_when_the_other_side_does_not_report() {
    let diagnosis = diagnosed(1, When::Soon, &[Fault::RoomLink(1, Cut::Both), Fault::Mute(2)]);
    assert_eq!(ids(&diagnosis), ["room-link:1:b>a"]);
    let Lost::RoomLink { direction, .. } = &diagnosis.losses[0].what else { panic!("{diagnosis:?}") };
    assert!(matches!(direction, Direction::AtLeast { .. }));
    let blocked: Vec<String> = diagnosis.blocked.iter().map(Blocked::to_string).collect();
    assert_eq!(
        blocked,
        [
            "what node n2 hears can't be told: n2 has not reported",
            "whether zone b hears zone a on storage network 2 can't be told: \
             no node of zone b that should hear it has reported lately",
        ]
    );
}

#[test]
fn a_node_that_is_heard_is_not_silent_only_because_its_report_is_old() {
    let world = World { spec: spec(2), faults: vec![], when: When::Soon };
    let mut reports = world.reports();
    reports[2].age_ms = 5000;
    let known_good = cabling(&world.spec);
    let diagnosis = diagnose(&world.spec.storage_networks, &known_good, &reports, Thresholds::default());
    assert_eq!(ids(&diagnosis), Vec::<String>::new());
    assert_eq!(diagnosis.blocked.len(), 1);
    assert_eq!(diagnosis.blocked[0].why, "n3 has not reported for 5000 ms");
}

#[test]
fn an_old_report_accuses_nobody() {
    let world = World { spec: spec(1), faults: vec![Fault::RoomLink(1, Cut::Both)], when: When::Soon };
    let mut reports = world.reports();
    for report in &mut reports {
        report.age_ms = 1501;
    }
    let diagnosis =
        diagnose(&world.spec.storage_networks, &cabling(&world.spec), &reports, Thresholds::default());
    assert_eq!(ids(&diagnosis), Vec::<String>::new());
    assert!(
        diagnosis
            .blocked
            .iter()
            .any(|blocked| blocked.what == "whether zone b hears zone a on storage network 1")
    );
}

#[test]
fn who_has_just_begun_to_listen_knows_nothing_yet() {
    let world = World { spec: spec(1), faults: vec![], when: When::Soon };
    let mut reports = world.reports();
    let mut judge = |listening_ms| {
        for report in &mut reports {
            report.listening_ms = listening_ms;
            for path in &mut report.paths {
                path.heard_ms_ago = None;
            }
        }
        let known_good = cabling(&world.spec);
        ids(&diagnose(&world.spec.storage_networks, &known_good, &reports, Thresholds::default()))
    };
    assert_eq!(judge(1000), Vec::<String>::new());
    assert_eq!(judge(1001), ["room-link:1", "room-link:2"]);
}

#[test]
fn a_nic_that_hears_another_switch_is_lost_only_if_its_paths_are() {
    let world = World { spec: spec(2), faults: vec![], when: When::Soon };
    let now = Some(crate::testing::chassis(4));
    let moved = |reports: &mut Vec<NodeReport>, nic: usize| {
        reports[0].nics[nic].cabling.neighbour = Some(crate::testing::neighbour(4, 1, &[7]));
    };
    for nic in [0, 2] {
        let mut reports = world.reports();
        moved(&mut reports, nic);
        assert_eq!(judge(2, &reports), Diagnosis::default(), "it carries, or nobody knows");
    }
    let cut = Fault::Cable(1, 1, Cut::Both);
    let mut reports = World { spec: spec(2), faults: vec![cut], when: When::Soon }.reports();
    moved(&mut reports, 2);
    let diagnosis = judge(2, &reports);
    assert_eq!(ids(&diagnosis), ["nic:n1:Ethernet 3"]);
    let expected = Seen::NoNeighbour { node: node_name(1), adapter: "Ethernet 3".parse().unwrap(), now };
    assert_eq!(diagnosis.losses[0].evidence[0], expected);
}

#[test]
fn a_switch_whose_cables_were_all_moved_is_not_lost() {
    let mut reports = healthy(1);
    for nic in [0, 2] {
        reports[0].nics[nic].cabling.neighbour = Some(crate::testing::neighbour(3, nic, &[7, 711]));
    }
    assert_eq!(judge(1, &reports), Diagnosis::default());
}

#[test]
fn a_switch_that_stops_sending_lldp_is_not_lost_while_frames_pass() {
    let world = World { spec: spec(2), faults: vec![], when: When::Soon };
    let mut reports = world.reports();
    reports[0].nics[2].cabling.neighbour = None;
    let diagnosis =
        diagnose(&world.spec.storage_networks, &cabling(&world.spec), &reports, Thresholds::default());
    assert_eq!(diagnosis, Diagnosis::default());
}

/// Who hears nothing soon does not know any more where a peer lives, and then can't send to it.
#[test]
fn what_a_deaf_nic_sends_may_be_lost_too_and_is_explained() {
    for without_neighbour in [false, true] {
        let cut = Fault::Cable(1, 1, Cut::Receive);
        let mut reports = World { spec: spec(2), faults: vec![cut], when: When::Soon }.reports();
        if without_neighbour {
            reports[0].nics[2].cabling.neighbour = None;
        }
        set_heard(&mut reports, 1, 3, 1, 1500);
        assert_eq!(ids(&judge(2, &reports)), ["nic:n1:Ethernet 3:receive"], "{without_neighbour}");
    }
}

fn judge(nodes_per_zone: u64, reports: &[NodeReport]) -> Diagnosis {
    let spec = spec(nodes_per_zone);
    diagnose(&spec.storage_networks, &cabling(&spec), reports, Thresholds::default())
}

fn healthy(nodes_per_zone: u64) -> Vec<NodeReport> {
    World { spec: spec(nodes_per_zone), faults: vec![], when: When::Soon }.reports()
}

/// What `to` last heard of `from` on a storage network.
fn set_heard(reports: &mut [NodeReport], from: u8, to: u8, network: u8, ms_ago: u32) {
    let report = reports.iter_mut().find(|report| report.node == node_name(to)).unwrap();
    let paths = report.paths.iter_mut();
    let mut paths = paths.filter(|path| path.peer == node_name(from) && path.network.get() == network);
    paths.next().unwrap().heard_ms_ago = Some(ms_ago);
}

fn blocked(diagnosis: &Diagnosis) -> Vec<String> {
    diagnosis.blocked.iter().map(Blocked::to_string).collect()
}

/// At each moment after a node died, however old the reports of the others are and whenever each of them heard it last.
#[test]
fn of_a_dead_node_nothing_but_the_node_is_ever_named() {
    for nodes_per_zone in [1, 2, 3] {
        for (since_ms, skew_ms, heard_ms) in moments() {
            let mut reports = healthy(nodes_per_zone);
            // n1 died `since_ms` ago, and reported `heard_ms` before that.
            reports[0].age_ms = since_ms + heard_ms;
            for (number, report) in (0..).zip(&mut reports).skip(1) {
                report.age_ms = (number * skew_ms % 260).min(since_ms);
                for path in report.paths.iter_mut().filter(|path| path.peer == node_name(1)) {
                    let phase_ms = (heard_ms + number * 50) % 200;
                    path.heard_ms_ago = Some(since_ms + phase_ms - report.age_ms);
                }
            }
            let diagnosis = judge(nodes_per_zone, &reports);
            let named = ids(&diagnosis);
            let at =
                format!("{nodes_per_zone}, {since_ms} ms, skew {skew_ms} ms, heard {heard_ms} ms before");
            assert!(named.is_empty() || named == ["node:n1"], "{at}: {diagnosis:#?}");
            assert!(since_ms <= 1300 || named == ["node:n1"], "{at}: {diagnosis:#?}");
        }
    }
}

fn moments() -> impl Iterator<Item = (u32, u32, u32)> {
    let skews = || (0..260).step_by(50);
    let phases = || (0..200).step_by(60);
    (0..=2000)
        .step_by(20)
        .flat_map(move |since| skews().flat_map(move |skew| phases().map(move |p| (since, skew, p))))
}

#[test]
fn a_report_from_before_the_fault_does_not_say_that_a_path_is_alive_now() {
    let mut reports = World { spec: spec(2), faults: vec![Fault::FrozenTor(1)], when: When::Soon }.reports();
    reports[1] = healthy(2).swap_remove(1);
    reports[1].age_ms = 900;
    assert_eq!(ids(&judge(2, &reports)), Vec::<String>::new());
}

#[test]
fn a_switch_that_stops_sending_lldp_is_not_lost_while_frames_pass_its_storage_nics() {
    let mut reports = healthy(2);
    for report in &mut reports[..2] {
        for nic in [0, 2] {
            report.nics[nic].cabling.neighbour = None;
        }
    }
    let diagnosis = judge(2, &reports);
    assert_eq!(ids(&diagnosis), Vec::<String>::new());
    assert_eq!(
        blocked(&diagnosis)[0],
        "whether Ethernet of node n1 works can't be told: \
         it has carrier and hears no switch, and nothing else shows"
    );
}

#[test]
fn one_node_alone_does_not_convict_a_switch_that_others_are_cabled_to() {
    let faults = [Fault::Tor(1), Fault::Mute(2)];
    let diagnosis = diagnosed(2, When::Soon, &faults);
    assert_eq!(ids(&diagnosis), ["nic:n1:Ethernet", "nic:n1:Ethernet 3"]);
    let switch = TOR1.replacen(':', " ", 1);
    assert!(diagnosis.losses.iter().all(|loss| loss.could_also_be == [switch.as_str()]), "{diagnosis:#?}");
    let untold = format!(
        "whether {switch} is lost can't be told: node n2, which is cabled to it, has not reported lately"
    );
    assert!(blocked(&diagnosis).contains(&untold), "{diagnosis:#?}");
}

#[test]
fn the_only_node_on_a_switch_names_it_and_says_what_else_it_could_be() {
    let diagnosis = diagnosed(1, When::Soon, &[Fault::Tor(1)]);
    assert_eq!(diagnosis.losses[0].could_also_be, ["the cables of n1 Ethernet and Ethernet 3, all at once"]);
    assert_eq!(diagnosed(2, When::Soon, &[Fault::Tor(1)]).losses[0].could_also_be, Vec::<String>::new());
}

#[test]
fn who_hears_nobody_convicts_nobody() {
    // Neither n1 nor n4 reports. n3, which hears nobody, does not hear n1 either; n2 isn't asked for n1.
    let faults = [Fault::Mute(1), Fault::Cable(3, 1, Cut::Receive), Fault::Cable(3, 2, Cut::Receive)];
    let mut reports = World { spec: spec(2), faults: faults.to_vec(), when: When::Soon }.reports();
    for report in &mut reports {
        report.paths.retain(|path| report.node == node_name(3) || path.peer != node_name(1));
    }
    let diagnosis = judge(2, &reports);
    assert!(!ids(&diagnosis).contains(&"node:n1".to_owned()), "{diagnosis:#?}");
    assert!(
        blocked(&diagnosis).contains(&"what node n1 hears can't be told: n1 has not reported".to_owned())
    );
}

#[test]
fn a_whole_zone_that_is_silent_to_the_other_can_also_be_all_that_is_between() {
    let also = |nodes_per_zone, faults: &[Fault]| {
        let losses = diagnosed(nodes_per_zone, When::Soon, faults).losses;
        losses.into_iter().map(|loss| loss.could_also_be).collect::<Vec<_>>()
    };
    let between = "everything between the rooms";
    assert_eq!(also(2, &[Fault::Node(3), Fault::Node(4)]), [[between], [between]]);
    assert_eq!(also(1, &[Fault::Node(2)]), [[between, "all storage NICs of n1, which hears nobody"]]);
    assert_eq!(also(2, &[Fault::Node(3)]), [[""; 0]]);
}

#[test]
fn a_nic_that_sends_nothing_explains_that_direction_only() {
    let faults = vec![Fault::Cable(1, 1, Cut::Send)];
    let mut reports = World { spec: spec(2), faults, when: When::Soon }.reports();
    set_heard(&mut reports, 3, 1, 1, 1900);
    assert_eq!(ids(&judge(2, &reports)), ["nic:n1:Ethernet 3:send", "path:1:n3>n1"]);
}

#[test]
fn nics_that_lost_one_direction_each_do_not_hide_one_another() {
    names(
        2,
        &[Fault::Cable(1, 1, Cut::Send), Fault::Cable(2, 1, Cut::Receive)],
        &["nic:n1:Ethernet 3:send", "nic:n2:Ethernet 3:receive"],
    );
}

#[test]
fn while_other_paths_waver_a_dead_path_is_no_loss_yet() {
    let mut reports = healthy(2);
    set_heard(&mut reports, 1, 2, 1, 1001);
    assert_eq!(ids(&judge(2, &reports)), ["path:1:n1>n2"]);
    set_heard(&mut reports, 2, 1, 1, 700);
    let diagnosis = judge(2, &reports);
    assert_eq!(ids(&diagnosis), Vec::<String>::new());
    assert_eq!(
        blocked(&diagnosis),
        ["what is lost on storage network 1 can't be told: \
          some of its paths are dead, and it is not certain yet of 1 others"]
    );
}

#[test]
fn words_and_evidence() {
    let say = |faults: &[Fault]| {
        let diagnosis = diagnosed(2, When::Soon, faults);
        let lines = diagnosis.losses.iter().flat_map(|loss| {
            let evidence = loss.evidence.iter().map(|seen| format!("  {seen}"));
            std::iter::once(loss.to_string()).chain(evidence).collect::<Vec<_>>()
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let all = [
        say(&[Fault::Tor(1)]),
        say(&[Fault::RoomLink(1, Cut::Send)]),
        say(&[Fault::Pulled(2, 2)]),
        say(&[Fault::Cable(1, 1, Cut::Receive)]),
        say(&[Fault::Node(4)]),
    ];
    insta::assert_snapshot!(all.join("\n\n"));
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let cut = || prop::sample::select(Cut::ALL.to_vec());
    prop_oneof![
        (1u8..=4).prop_map(Fault::Node),
        (1u8..=4).prop_map(Fault::Tor),
        (1u8..=4).prop_map(Fault::FrozenTor),
        (1u8..=2, cut()).prop_map(|(network, cut)| Fault::RoomLink(network, cut)),
        (1u8..=4, 1u8..=2, cut()).prop_map(|(node, network, cut)| Fault::Cable(node, network, cut)),
        (1u8..=4, 1u8..=2).prop_map(|(node, network)| Fault::Pulled(node, network)),
        (1u8..=4).prop_map(Fault::Mute),
    ]
}

proptest! {
    /// Whatever breaks together: nothing is named twice, and every loss shows what was seen of it.
    #[test]
    fn losses_are_distinct_and_have_evidence(
        faults in prop::collection::vec(any_fault(), 0..6), nodes_per_zone in 1u64..=2, soon: bool,
    ) {
        let diagnosis = diagnosed(nodes_per_zone, if soon { When::Soon } else { When::Later }, &faults);
        let mut named = ids(&diagnosis);
        prop_assert!(diagnosis.losses.iter().all(|loss| !loss.evidence.is_empty()), "{:?}", diagnosis);
        named.sort();
        let count = named.len();
        named.dedup();
        prop_assert_eq!(named.len(), count, "{:?}", diagnosis);
        if faults.is_empty() {
            prop_assert_eq!(count, 0);
        }
    }
}

/// While those who hear the others don't report either, nobody has found a silent node well.
#[test]
fn a_node_that_is_named_stays_so_until_it_reports_or_is_heard() {
    for (nodes_per_zone, gone) in [(1, &[2][..]), (2, &[1]), (2, &[3, 4])] {
        let world = |nodes: &[u8]| World {
            spec: spec(nodes_per_zone),
            faults: nodes.iter().copied().map(Fault::Node).collect(),
            when: When::Soon,
        };
        let known_good = cabling(&spec(nodes_per_zone));
        let mut memory = Memory::default();
        let mut named = |at_ms: u64, reports: &[NodeReport]| {
            let networks = &spec(nodes_per_zone).storage_networks;
            let diagnosis = memory.diagnose(at_ms, networks, &known_good, reports, Thresholds::default());
            let mut ids: Vec<String> = diagnosis.losses.iter().map(|loss| loss.what.id()).collect();
            ids.sort();
            ids
        };
        let expected: Vec<String> = gone.iter().map(|node| format!("node:n{node}")).collect();
        let young = world(gone).reports();
        let old = |reports: Vec<NodeReport>| -> Vec<NodeReport> {
            reports.into_iter().map(|report| NodeReport { age_ms: 1500, ..report }).collect()
        };
        assert_eq!(named(200, &young), expected);
        assert_eq!(named(1700, &old(young.clone())), expected, "nobody reports");
        assert_eq!(named(1900, &young), expected);
        assert_eq!(named(3500, &world(&[]).reports()), Vec::<String>::new());
        assert_eq!(named(5000, &old(young)), Vec::<String>::new(), "it was well");
    }
}

/// On a host that is busy hellos come late elsewhere, too: with that alone, what is lost could not be told anew.
#[test]
fn a_room_link_that_is_named_stays_so_until_it_is_heard_or_explained() {
    let (spec, thresholds) = (spec(2), Thresholds::default());
    let known_good = cabling(&spec);
    for (cut, expected) in [(Cut::Both, "room-link:1"), (Cut::Send, "room-link:1:a>b")] {
        let reports =
            World { spec: spec.clone(), faults: vec![Fault::RoomLink(1, cut)], when: When::Soon }.reports();
        let mut wavering = reports.clone();
        set_heard(&mut wavering, 1, 2, 1, 800);
        set_heard(&mut wavering, 2, 1, 1, 800);
        let mut unsteady = reports.clone();
        for path in unsteady.iter_mut().flat_map(|report| &mut report.paths) {
            path.late_ms_ago = Some(100);
        }
        // One of the other room does not report, and another network has a cable that is pulled.
        let mut unreported = reports.clone();
        unreported[3].age_ms = 1500;
        let faults = vec![Fault::RoomLink(1, cut), Fault::Pulled(1, 2)];
        let beside = World { spec: spec.clone(), faults, when: When::Soon }.reports();
        let mut heard = reports.clone();
        set_heard(&mut heard, 1, 3, 1, 100);
        let switch = World { spec: spec.clone(), faults: vec![Fault::Tor(1)], when: When::Soon }.reports();

        let mut memory = Memory::default();
        let mut named = |at_ms: u64, reports: &[NodeReport]| {
            let networks = &spec.storage_networks;
            ids(&memory.diagnose(at_ms, networks, &known_good, reports, thresholds))
        };
        assert_eq!(named(200, &reports), [expected]);
        assert_eq!(named(400, &wavering), [expected], "a path inside a room is silent for a moment");
        assert_eq!(named(600, &unsteady), [expected], "hellos come late everywhere");
        assert_eq!(named(650, &unreported), [expected], "some do not report");
        let mut both = beside.clone();
        set_heard(&mut both, 1, 2, 1, 800);
        set_heard(&mut both, 2, 1, 1, 800);
        assert_eq!(named(700, &both), [expected], "something else is lost, and not named yet");
        assert_eq!(named(800, &heard), Vec::<String>::new(), "it is well, or not all of it is lost");
        assert_eq!(named(30_000, &reports), [expected]);
        assert_eq!(named(31_000, &switch), Vec::<String>::new(), "a switch explains it, once all have told");
        assert_eq!(named(31_600, &switch), [TOR1]);
    }
}
