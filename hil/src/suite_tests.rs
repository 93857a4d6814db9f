//! What suites may say, and what a cluster must have for them.

use super::*;
use model::Wiring;

#[test]
fn the_built_in_suites_are_good_and_named_after_their_files() {
    for (name, text) in BUILT_IN {
        assert_eq!(Suite::parse(name, text).unwrap().name, name);
    }
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.map(|path| path.file_stem().unwrap().to_owned()).collect();
    files.sort();
    let mut built_in = BUILT_IN.map(|(name, _)| name);
    built_in.sort_unstable();
    assert_eq!(files, built_in, "every suite file is built in");
}

#[test]
fn what_would_look_at_nothing_is_refused() {
    assert!(matches!(parse(""), Err(SuiteError::Empty { .. })));
    let none = "name = 's'\ntitle = 't'\nsets = []\nscenario = []";
    assert!(matches!(Suite::parse("s", none), Err(SuiteError::Empty { .. })));
}

#[test]
fn what_is_repeated_stands_as_often_in_the_suite() {
    let text = "name = 's'\ntitle = 't'\nsets = []\n[[scenario]]\nname = 'a'\nrepeat = 3\nbound_ms = 0\nstep = [{ do = 'heal' }]";
    let suite = Suite::parse("s", text).unwrap();
    let names: Vec<&str> = suite.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
    assert_eq!(names, ["a (1 of 3)", "a (2 of 3)", "a (3 of 3)"]);
    let never = Suite::parse("s", &text.replace('3', "0"));
    assert!(matches!(never, Err(SuiteError::Empty { .. })), "{never:?}");
}

fn spec(shape: &str) -> ClusterSpec {
    let text = std::fs::read_to_string(format!("templates/{shape}.toml")).unwrap();
    let source = template::Source::new(shape.to_owned(), &text);
    template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap()
}

#[test]
fn what_a_cluster_has_not_got_makes_a_scenario_not_applicable() {
    let unmet = |shape: &str, step: &str| {
        let suite = parse(&format!("{step}, {{ do = 'heal' }}")).unwrap();
        suite.unmet(&suite.scenarios[0], &spec(shape))
    };
    let cross = "{ do = 'cross-cable', room = 2, position = 2, nics = 'all' }";
    assert_eq!(unmet("2+2", cross), None);
    assert_eq!(unmet("1+1", cross).unwrap(), "room 2 has no node 2");
    let cut = "{ do = 'cut-room-link', storage_network = 3 }";
    assert_eq!(unmet("2+2", cut).unwrap(), "the cluster has no storage network 3");
}

#[test]
fn a_need_that_is_not_met_says_why() {
    let small = ClusterSpec { intents: Vec::new(), ..spec("1+1") };
    assert!(Need::PeersInRoom.unmet(&small).is_some());
    assert!(Need::JumboFrames.unmet(&small).is_some());
    let large = spec("2+2");
    for need in [Need::PeersInRoom, Need::JumboFrames, Need::DedicatedStorage] {
        assert_eq!(need.unmet(&large), None, "{need:?}");
    }
}

#[test]
fn what_nobody_could_name_is_not_miswired() {
    let unmet = |spec: &ClusterSpec, what: &str| {
        let suite = parse(&format!("{{ do = 'miswire', what = '{what}' }}, {{ do = 'heal' }}")).unwrap();
        suite.unmet(&suite.scenarios[0], spec)
    };
    for what in ["other-port", "no-vlan", "small-switch-unsaid", "slow-room-link", "swapped-storage-nics"] {
        assert_eq!(unmet(&spec("2+2"), what), None, "{what}");
    }
    assert!(unmet(&spec("1+1"), "receives-nothing").unwrap().contains("one node in a room"));
    assert_eq!(unmet(&spec("1+1"), "small-switch"), None);
    assert!(unmet(&wired("2+2", Wiring::D), "slow-room-link").unwrap().contains("wiring D"));
    assert!(unmet(&wired("2+2", Wiring::D), "small-switch").is_none());
    assert!(unmet(&wired("2+2", Wiring::C), "swapped-storage-nics").is_some());
}

fn wired(shape: &str, wiring: Wiring) -> ClusterSpec {
    ClusterSpec { wiring: Some(wiring), ..spec(shape) }
}

#[test]
fn each_wiring_has_what_it_has() {
    use Need::{OneSwitchARoom, RoomsJoinedBySwitches, SeparateRoomLinks, SharedRoomLink};
    use Need::{SwitchPairs, SwitchPerStorageNetwork};
    let all = [
        SwitchPerStorageNetwork,
        OneSwitchARoom,
        SwitchPairs,
        SeparateRoomLinks,
        SharedRoomLink,
        RoomsJoinedBySwitches,
    ];
    for (wiring, expected) in [
        (Wiring::A, vec![SwitchPerStorageNetwork, SeparateRoomLinks, RoomsJoinedBySwitches]),
        (Wiring::B, vec![SwitchPerStorageNetwork, SwitchPairs, SharedRoomLink, RoomsJoinedBySwitches]),
        (Wiring::C, vec![OneSwitchARoom, SharedRoomLink, RoomsJoinedBySwitches]),
        (Wiring::D, vec![SwitchPerStorageNetwork]),
    ] {
        let met: Vec<Need> =
            all.into_iter().filter(|need| need.unmet(&wired("1+1", wiring)).is_none()).collect();
        assert_eq!(met, expected, "{wiring:?}");
    }
}

#[test]
fn what_wiring_d_has_in_one_room_only_is_not_broken_in_the_other() {
    let unmet = |wiring, step: &str| {
        let suite = parse(&format!("{step}, {{ do = 'heal' }}")).unwrap();
        suite.unmet(&suite.scenarios[0], &wired("2+2", wiring))
    };
    for step in ["fail-switch", "cut-spine-link"] {
        for (room, network, is_there) in [(1, 1, true), (1, 2, false), (2, 1, false), (2, 2, true)] {
            let step = format!("{{ do = '{step}', room = {room}, storage_network = {network} }}");
            assert_eq!(unmet(Wiring::D, &step).is_none(), is_there, "{step}");
            assert_eq!(unmet(Wiring::B, &step), None, "{step}");
        }
    }
    let cut = "{ do = 'cut-room-link', storage_network = 1 }";
    assert_eq!(unmet(Wiring::D, cut).unwrap(), "with wiring D no storage crosses between the rooms");
    assert_eq!(unmet(Wiring::C, cut), None);
}

/// What a plain run does must take at most six minutes; what is long is for the night.
#[test]
fn the_default_set_is_the_short_one() {
    let names = |set| -> Vec<String> {
        Suite::select(&[], set).unwrap().into_iter().map(|suite| suite.name).collect()
    };
    let default =
        ["wiring", "tor-loss", "room-link-loss", "miswired-rack", "miswired", "drift", "bad-apply", "deploy"];
    assert_eq!(names(Set::Default), default);
    // It writes to drives themselves, on which volumes may lie.
    let by_name = |name: &&str| *name == "drive-faults";
    let but = BUILT_IN.map(|(name, _)| name).into_iter().filter(|name| !by_name(name));
    assert!(names(Set::Nightly).into_iter().eq(but));
}

#[test]
fn an_unknown_suite_is_answered_with_the_known_ones() {
    let error = Suite::select(&["tor-los".into()], Set::Default).unwrap_err();
    assert!(error.to_string().contains("tor-loss"), "{error}");
}

fn parse(steps: &str) -> Result<Suite, SuiteError> {
    let head =
        "name = 's'\ntitle = 't'\nsets = []\n[[scenario]]\nname = 'x'\nfault_budget = 1\nbound_ms = 1\n";
    Suite::parse("s", &format!("{head}step = [{steps}]"))
}

#[test]
fn a_scenario_keeps_its_fault_budget_and_mends_what_it_broke() {
    let cut = "{ do = 'cut-room-link', storage_network = 1 }";
    assert!(parse(&format!("{cut}, {{ do = 'heal' }}")).is_ok());
    assert!(matches!(parse(&format!("{cut}, {cut}")), Err(SuiteError::OverBudget { .. })));
    assert!(matches!(parse(cut), Err(SuiteError::EndsBroken { .. })));
}

#[test]
fn power_that_is_given_back_is_no_fault_any_more_and_is_given_only_where_it_was_taken() {
    let off = "{ do = 'power-off', room = 1, position = 1 }";
    let on = "{ do = 'power-on', room = 1, position = 1, within_ms = 1 }";
    let cycle = "{ do = 'power-cycle', room = 2, within_ms = 1 }";
    for good in [vec![off, on], vec![off, on, off, on], vec![off, "{ do = 'heal' }"], vec![cycle, cycle]] {
        assert!(parse(&good.join(", ")).is_ok(), "{good:?}");
    }
    let freeze = "{ do = 'freeze', room = 1, position = 1 }";
    assert!(matches!(parse(&[off, freeze].join(", ")), Err(SuiteError::OverBudget { .. })));
    assert!(matches!(parse(off), Err(SuiteError::EndsBroken { .. })));
    let whole_room = "{ do = 'power-on', room = 1, within_ms = 1 }";
    let thaw = "{ do = 'thaw', room = 1, position = 1, within_ms = 1 }";
    let all = "{ do = 'power-off', room = 'all' }";
    assert!(parse(&[all, on, "{ do = 'heal' }"].join(", ")).is_ok(), "some of all come back first");
    assert!(matches!(parse(&[all, on].join(", ")), Err(SuiteError::EndsBroken { .. })));
    let witness = "{ do = 'power-off', room = 'witness' }";
    assert!(matches!(parse(&[witness, on].join(", ")), Err(SuiteError::NothingToUndo { .. })));
    for bad in [vec![on], vec![off, on, on], vec![off, whole_room], vec![off, thaw]] {
        assert!(matches!(parse(&bad.join(", ")), Err(SuiteError::NothingToUndo { .. })), "{bad:?}");
    }
}

#[test]
fn a_whole_room_is_everywhere_and_a_node_is_not() {
    let unmet = |step: &str| {
        let suite = parse(&format!("{step}, {{ do = 'heal' }}")).unwrap();
        suite.unmet(&suite.scenarios[0], &spec("1+1"))
    };
    assert_eq!(unmet("{ do = 'power-off', room = 2 }"), None);
    assert_eq!(unmet("{ do = 'freeze', room = 2, position = 2 }").unwrap(), "room 2 has no node 2");
}

#[test]
fn what_a_suite_can_not_say_is_refused_with_its_place() {
    for bad in [
        "{ do = 'pray' }",
        "{ do = 'heal', hard = true }",
        "{ do = 'fail-switch', room = 3, storage_network = 1 }",
        "{ do = 'fail-switch', room = 'witness', storage_network = 1 }",
        "{ do = 'power-off', room = 'nowhere' }",
    ] {
        assert!(matches!(parse(bad), Err(SuiteError::Syntax { .. })), "{bad}");
    }
}

#[test]
fn a_judgement_comes_last_and_four_copies_need_four_nodes() {
    let make = "{ do = 'make-volume', size_mib = 8, mirror = 'four-way', within_ms = 1 }";
    let judge = "{ do = 'judge' }";
    let suite = parse(&[make, judge].join(", ")).unwrap();
    assert_eq!(
        suite.unmet(&suite.scenarios[0], &spec("1+1")).unwrap(),
        "four copies need two nodes in each room"
    );
    assert_eq!(suite.unmet(&suite.scenarios[0], &spec("2+2")), None);
    assert!(matches!(parse(&[judge, make].join(", ")), Err(SuiteError::AfterJudgement { .. })));
    let Step::MakeVolume { mirror, .. } =
        parse("{ do = 'make-volume', size_mib = 8, within_ms = 1 }").unwrap().scenarios[0].steps[0]
    else {
        panic!()
    };
    assert_eq!(mirror, None);
}

#[test]
fn a_drive_is_named_by_place_or_by_what_it_holds_and_mended_as_it_was_named() {
    let at = |which: &str| format!("drive = {{ room = 1, position = 2{which} }}");
    let step = |what: &str, which: &str| format!("{{ do = '{what}', {} }}", at(which));
    let suite =
        parse(&[step("pull-drive", ", which = 'leg'"), step("put-drive-back", ", which = 'leg'")].join(", "));
    let suite = suite.unwrap();
    let Some(DriveAt { which, .. }) = suite.scenarios[0].steps[0].drive() else { panic!() };
    assert_eq!(which, WhichDrive::Holds(Held::Leg));
    assert_eq!(suite.unmet(&suite.scenarios[0], &spec("1+1")).unwrap(), "room 1 has no node 2");
    assert_eq!(suite.unmet(&suite.scenarios[0], &spec("2+2")), None);
    let stuck = step("drive-stuck", "");
    assert!(parse(&[stuck.clone(), step("drive-works", ", which = 1")].join(", ")).is_ok());
    for bad in [step("drive-works", ", which = 2"), step("put-drive-back", "")] {
        let parsed = parse(&[stuck.clone(), bad].join(", "));
        assert!(matches!(parsed, Err(SuiteError::NothingToUndo { .. })));
    }
    assert!(matches!(parse(&stuck), Err(SuiteError::EndsBroken { .. })));
    assert!(matches!(parse(&step("drive-stuck", ", which = 'log'")), Err(SuiteError::Syntax { .. })));
}
