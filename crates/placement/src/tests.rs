//! Random pools and volumes: whatever is placed passes the checker, and what is refused could not be placed.

use super::*;
use model::{Mirror, PoolDrive, PoolNode, Provision};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(crate) const SLAB: u64 = 2 << 20;
/// What a leg of a small volume has beside its data.
const METADATA: u64 = 1 << 20;

/// Nodes in turns in rack 1 and 2; the drives' sizes in slabs.
pub(crate) fn pool(nodes: &[Vec<u64>]) -> Pool {
    let mut drives = 0;
    let mut node = |(at, sizes): (usize, &Vec<u64>)| PoolNode {
        id: NodeId(u32::try_from(at).unwrap() + 1),
        zone: if at % 2 == 0 { "rack1" } else { "rack2" }.parse().unwrap(),
        drives: sizes
            .iter()
            .map(|slabs| {
                drives += 1;
                PoolDrive {
                    id: DriveId(drives),
                    size_bytes: slabs * SLAB + 4096,
                    usable: true,
                    leaving: Vec::new(),
                }
            })
            .collect(),
    };
    let nodes = nodes.iter().enumerate().map(&mut node).collect();
    Pool { slab_bytes: SLAB, header_bytes: 4096, chunk_bytes: 16 << 20, nodes }
}

pub(crate) fn size(mirror: Mirror, slabs: u64) -> VolumeSize {
    VolumeSize::new(mirror, Provision::Fixed, slabs * SLAB - METADATA)
}

fn pools() -> impl Strategy<Value = Pool> {
    let node = proptest::collection::vec(1u64..40, 1..5);
    (1usize..5)
        .prop_flat_map(move |zone| proptest::collection::vec(node.clone(), 2 * zone))
        .prop_map(|n| pool(&n))
}

fn sizes() -> impl Strategy<Value = VolumeSize> {
    let mirror = prop_oneof![Just(Mirror::TwoWay), Just(Mirror::FourWay)];
    let provision = prop_oneof![Just(Provision::Thin), Just(Provision::Fixed)];
    (mirror, provision, 1u64..20)
        .prop_map(|(mirror, provision, slabs)| VolumeSize { provision, ..size(mirror, slabs) })
}

/// Places as many as find room.
pub(crate) fn fill(pool: &Pool, wanted: &[VolumeSize]) -> (BTreeMap<VolumeId, VolumeSize>, Vec<PlacedLeg>) {
    let (mut volumes, mut legs) = (BTreeMap::new(), Vec::new());
    for (at, size) in wanted.iter().enumerate() {
        let volume = VolumeId(u32::try_from(at).unwrap() + 1);
        if let Ok(placed) = place(pool, &legs, volume, *size) {
            volumes.insert(volume, *size);
            legs.extend(placed);
        }
    }
    (volumes, legs)
}

/// Whether a rack has a node for each leg, each with room above its reserve: said without the placer.
fn could(pool: &Pool, legs: &[PlacedLeg], size: VolumeSize) -> bool {
    let needed = pool.slabs_of(size);
    let free = |drive: &PoolDrive| {
        let used: u64 = legs.iter().filter(|leg| leg.drive == drive.id).map(PlacedLeg::slabs).sum();
        pool.slabs(drive) - used
    };
    let fits = |node: &&PoolNode| {
        let reserve =
            if node.drives.len() > 1 { node.drives.iter().map(|d| pool.slabs(d)).max() } else { None };
        let all: u64 = node.drives.iter().map(free).sum();
        all >= needed + reserve.unwrap_or(0) && node.drives.iter().any(|drive| free(drive) >= needed)
    };
    ["rack1", "rack2"].iter().all(|zone| {
        let nodes = pool.nodes.iter().filter(|node| node.zone.as_str() == *zone);
        nodes.filter(fits).count() >= size.mirror.legs() / 2
    })
}

proptest! {
    #[test]
    fn what_is_placed_keeps_the_rule_and_the_reserve(pool in pools(), wanted in proptest::collection::vec(sizes(), 0..12)) {
        let (volumes, legs) = fill(&pool, &wanted);
        prop_assert_eq!(check(&pool, &volumes, &legs), []);
        // A node whose drives are all of its reserve takes nothing, and so has it free.
        prop_assert_eq!(check_reserve(&pool, &legs), []);
    }

    #[test]
    fn what_is_refused_could_not_be_placed_and_what_is_missing_would_have_been_enough(
        pool in pools(), wanted in proptest::collection::vec(sizes(), 0..8), last in sizes(),
    ) {
        let (_, legs) = fill(&pool, &wanted);
        let placed = place(&pool, &legs, VolumeId(99), last);
        prop_assert_eq!(placed.is_ok(), could(&pool, &legs, last));
        let Err(Refused::Racks(lacks)) = placed else { return Ok(()) };
        for lack in lacks {
            let Lack::Bytes { missing_bytes, leg_bytes, .. } = lack else { continue };
            prop_assert!(missing_bytes > 0 && missing_bytes <= leg_bytes * 2);
        }
    }

    #[test]
    fn the_same_set_gives_the_same_result(pool in pools(), wanted in proptest::collection::vec(sizes(), 0..8), last in sizes()) {
        let (_, mut legs) = fill(&pool, &wanted);
        let first = place(&pool, &legs, VolumeId(99), last);
        let mut turned = pool.clone();
        turned.nodes.reverse();
        turned.nodes.iter_mut().for_each(|node| node.drives.reverse());
        legs.reverse();
        prop_assert_eq!(first, place(&turned, &legs, VolumeId(99), last));
    }

    /// Equal nodes and equal volumes: no node holds two legs more than another of its rack, no drive two more than another of its node.
    #[test]
    fn equal_things_are_balanced(nodes in 1usize..4, drives in 2usize..5, volumes in 1usize..20) {
        let pool = pool(&vec![vec![50; drives]; 2 * nodes]);
        let (_, legs) = fill(&pool, &vec![size(Mirror::TwoWay, 2); volumes]);
        let on = |drive: &PoolDrive| legs.iter().filter(|leg| leg.drive == drive.id).count();
        for zone in ["rack1", "rack2"] {
            let of_zone = pool.nodes.iter().filter(|node| node.zone.as_str() == zone);
            let counts: Vec<usize> = of_zone.map(|node| node.drives.iter().map(on).sum()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
        for node in &pool.nodes {
            let counts: Vec<usize> = node.drives.iter().map(on).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
    }

    /// Small legs on equal drives: whichever drive fails, all that was on it finds a place in its rack.
    #[test]
    fn the_reserve_takes_a_drive_that_fails(drives in 2usize..5, wanted in proptest::collection::vec(sizes(), 1..12), lost in 0usize..16) {
        let mut pool = pool(&vec![vec![100; drives]; 4]);
        let (volumes, mut legs) = fill(&pool, &wanted);
        let drive = DriveId(u32::try_from(lost % (4 * drives)).unwrap() + 1);
        for node in &mut pool.nodes {
            node.drives.iter_mut().filter(|found| found.id == drive).for_each(|found| found.usable = false);
        }
        for at in 0..legs.len() {
            if legs[at].drive == drive {
                let (volume, leg) = (legs[at].volume, legs[at].leg);
                let placed = replace(&pool, &legs, (volume, leg), leg);
                prop_assert!(placed.is_ok(), "{placed:?}");
                legs[at] = placed.unwrap();
            }
        }
        prop_assert_eq!(check(&pool, &volumes, &legs), []);
        prop_assert!(legs.iter().all(|leg| leg.drive != drive));
    }
}

#[test]
fn a_refusal_says_which_rack_lacks_how_much() {
    let uneven = pool(&[vec![10, 10], vec![10, 4], vec![10, 10], vec![10, 4]]);
    let refused = place(&uneven, &[], VolumeId(1), size(Mirror::FourWay, 6)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "rack2 lacks 8388608 bytes (beyond what is kept free) for 2 legs of 12582912 bytes"
    );
    let one = pool(&[vec![10, 10], vec![10, 10]]);
    let refused = place(&one, &[], VolumeId(1), size(Mirror::FourWay, 1)).unwrap_err();
    let nodes = |zone: &str| Lack::Nodes { zone: zone.parse().unwrap(), nodes: 1, legs: 2 };
    assert_eq!(refused, Refused::Racks(vec![nodes("rack1"), nodes("rack2")]));
    let half = pool(&[vec![10]]);
    assert_eq!(place(&half, &[], VolumeId(1), size(Mirror::TwoWay, 1)), Err(Refused::NotTwoRacks(1)));
}

#[test]
fn capacity_is_what_is_there_less_what_is_held_and_kept() {
    let pool = pool(&[vec![10, 6], vec![10]]);
    let legs = place(&pool, &[], VolumeId(1), size(Mirror::TwoWay, 3)).unwrap();
    let nodes = capacity(&pool, &legs).nodes;
    let slabs = |node: &NodeCapacity| {
        [node.total_bytes, node.used_bytes, node.reserve_bytes, node.available_bytes]
            .map(|bytes| bytes / SLAB)
    };
    assert_eq!(nodes.iter().map(slabs).collect::<Vec<_>>(), [[16, 3, 10, 3], [10, 3, 0, 7]]);
}

#[test]
fn slabs_that_became_free_are_used_again_and_a_leg_grows_on_its_drive() {
    let pool = pool(&[vec![10], vec![10]]);
    let mut legs = place(&pool, &[], VolumeId(1), size(Mirror::TwoWay, 2)).unwrap();
    legs.extend(place(&pool, &legs, VolumeId(2), size(Mirror::TwoWay, 2)).unwrap());
    legs.retain(|leg| leg.volume == VolumeId(2));
    let third = place(&pool, &legs, VolumeId(3), size(Mirror::TwoWay, 4)).unwrap();
    assert_eq!(third[0].extents, [Extent { first: 0, count: 2 }, Extent { first: 4, count: 2 }]);
    let more = extend(&pool, &legs, (VolumeId(2), LegId(1)), 3).unwrap();
    assert_eq!(more, [Extent { first: 0, count: 2 }, Extent { first: 4, count: 1 }]);
    let refused = extend(&pool, &legs, (VolumeId(2), LegId(1)), 9).unwrap_err();
    assert_eq!(refused, Refused::Drive { drive: DriveId(1), missing_bytes: SLAB });
}

#[test]
fn what_a_target_has_not_let_go_of_is_not_free() {
    let mut pool = pool(&[vec![10], vec![10]]);
    pool.nodes[0].drives[0].leaving = vec![Extent { first: 0, count: 3 }];
    let legs = place(&pool, &[], VolumeId(1), size(Mirror::TwoWay, 7)).unwrap();
    assert_eq!(legs[0].extents, [Extent { first: 3, count: 7 }]);
    assert!(place(&pool, &[], VolumeId(1), size(Mirror::TwoWay, 8)).is_err());
    let over =
        [PlacedLeg { extents: vec![Extent { first: 2, count: 7 }], ..legs[0].clone() }, legs[1].clone()];
    let volumes = BTreeMap::from([(VolumeId(1), size(Mirror::TwoWay, 7))]);
    assert_eq!(check(&pool, &volumes, &over), [Broken::HeldTwice(DriveId(1), 2)]);
}

/// The checker can fail: each way to break the rule is named.
#[test]
fn the_checker_finds_what_is_wrong() {
    let pool = pool(&[vec![10, 10], vec![10, 10], vec![10, 10], vec![10, 10]]);
    let volume = VolumeId(1);
    let volumes = BTreeMap::from([(volume, size(Mirror::FourWay, 2))]);
    let good = place(&pool, &[], volume, volumes[&volume]).unwrap();
    assert_eq!(check(&pool, &volumes, &good), []);
    let with = |at: usize, drive: u32| {
        let mut legs = good.clone();
        legs[at].drive = DriveId(drive);
        check(&pool, &volumes, &legs)
    };
    assert_eq!(with(1, 2), [Broken::SameNode(volume, NodeId(1))]);
    let uneven = |zone: &str, legs| Broken::Racks { volume, zone: zone.parse().unwrap(), legs };
    let mut elsewhere = with(1, 4);
    elsewhere.retain(|broken| matches!(broken, Broken::Racks { .. }));
    assert_eq!(elsewhere, [uneven("rack1", 1), uneven("rack2", 3)]);
    assert!(with(0, 99).contains(&Broken::NoSuchDrive(volume, LegId(1), DriveId(99))));
    let mut legs = good.clone();
    legs[0].extents[0].count = 1;
    legs[1].extents[0].first = 9;
    legs.pop();
    assert_eq!(
        check(&pool, &volumes, &legs),
        [
            Broken::TooFewSlabs(volume, LegId(1), 1),
            Broken::OffTheDrive(volume, LegId(2)),
            Broken::LegCount { volume, legs: 3, needed: 4 },
            uneven("rack2", 1),
        ]
    );
    let mut twice = good.clone();
    twice.push(PlacedLeg { volume: VolumeId(2), ..good[0].clone() });
    assert!(check(&pool, &volumes, &twice).contains(&Broken::HeldTwice(good[0].drive, 0)));
    let extents = |count| vec![Extent { first: 0, count }];
    let full = [
        PlacedLeg { extents: extents(10), ..good[0].clone() },
        PlacedLeg { drive: DriveId(2), extents: extents(1), ..good[0].clone() },
    ];
    let reserve = Broken::Reserve { node: NodeId(1), free_slabs: 9, reserve_slabs: 10 };
    assert_eq!(check_reserve(&pool, &full), [reserve]);
}
