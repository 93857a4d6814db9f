//! What is drawn, and for whom.

use super::*;
use std::collections::BTreeSet;

fn spec(shape: &str, wiring: Wiring) -> ClusterSpec {
    let text = std::fs::read_to_string(format!("templates/{shape}.toml")).unwrap();
    let source = template::Source::new(shape.to_owned(), &text);
    let spec = template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap();
    ClusterSpec { wiring: Some(wiring), ..spec }
}

fn drawn(seed: u64, spec: &ClusterSpec, count: usize) -> Vec<Miswiring> {
    draw(&mut Rng::with_seed(seed), spec, count)
}

/// The kind of a miswiring: what `kinds` puts together.
fn kind(spec: &ClusterSpec, one: &Miswiring) -> usize {
    kinds(spec).iter().position(|kind| kind.contains(one)).unwrap()
}

#[test]
fn every_kind_comes_before_any_comes_twice_and_the_seed_decides() {
    let spec = spec("2+2", Wiring::A);
    let number = kinds(&spec).len();
    assert_eq!(number, 9);
    let twenty = drawn(7, &spec, 20);
    assert_eq!(twenty.len(), 20);
    assert_eq!(twenty, drawn(7, &spec, 20));
    assert_ne!(twenty, drawn(8, &spec, 20));
    for round in twenty.chunks(number) {
        let kinds: BTreeSet<usize> = round.iter().map(|one| kind(&spec, one)).collect();
        assert_eq!(kinds.len(), round.len());
    }
}

#[test]
fn over_many_seeds_everything_is_drawn_and_nothing_that_nobody_could_name() {
    for (shape, wiring) in [("1+1", Wiring::A), ("2+2", Wiring::A), ("2+2", Wiring::B), ("3+3", Wiring::D)] {
        let spec = spec(shape, wiring);
        let all: Vec<Miswiring> = kinds(&spec).concat();
        let seen: BTreeSet<String> =
            (0..400).flat_map(|seed| drawn(seed, &spec, 9)).map(|one| one.to_string()).collect();
        for one in all {
            assert_eq!(
                seen.contains(&one.to_string()),
                one.unmet(&spec).is_none(),
                "{shape} {wiring:?}: {one}"
            );
        }
    }
}

#[test]
fn a_suite_says_what_the_vocabulary_has() {
    let spec = spec("2+2", Wiring::A);
    let (room, missing) = (Room::try_from(2).unwrap(), (Room::default(), 3));
    let no_vlan = Miswiring::of(&spec, Wrong::NoVlan, (room, 1), 2).unwrap();
    assert!(no_vlan.to_string().ends_with("its port does not carry VLAN 712"), "{no_vlan}");
    assert!(kinds(&spec).concat().contains(&no_vlan));
    assert_eq!(Miswiring::of(&spec, Wrong::NoVlan, missing, 1), None);
    assert_eq!(Miswiring::of(&spec, Wrong::SlowRoomLink, (room, 1), 3), None);
}
