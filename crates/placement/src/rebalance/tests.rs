//! Random racks with new nodes: every step of a plan is held against the rule and the reserve, and small ones against every plan there is.

use super::*;
use crate::tests::{SLAB, fill, pool, size};
use crate::{check, check_reserve, place, replace};
use model::{Extent, Mirror, PoolNode, VolumeSize};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A pool, what is on it, and what is not to be touched.
#[derive(Debug, Clone)]
struct Case {
    pool: Pool,
    volumes: BTreeMap<VolumeId, VolumeSize>,
    legs: Vec<PlacedLeg>,
    fixed: Fixed,
}

impl Case {
    /// Volumes on some nodes, and then further nodes, one a rack.
    fn scaled_out(nodes: &[Vec<u64>], new: &[Vec<u64>], wanted: &[VolumeSize]) -> Self {
        let all = pool(&[nodes, new].concat());
        let old = Pool { nodes: all.nodes[..nodes.len()].to_vec(), ..all.clone() };
        let (volumes, legs) = fill(&old, wanted);
        Self { pool: all, volumes, legs, fixed: Fixed::default() }
    }

    fn plan(&self) -> Rebalance {
        rebalance(&self.pool, &self.legs, &self.fixed)
    }

    fn node(&self, drive: DriveId) -> &PoolNode {
        self.pool.drive(drive).unwrap().0
    }

    /// What does not hold of those legs that stay, and of slabs that are held twice by any.
    fn broken(&self) -> Vec<crate::Broken> {
        let mut broken = check(&self.pool, &self.volumes, &self.legs);
        broken.retain(|broken| matches!(broken, crate::Broken::HeldTwice(..)));
        let stays = |leg: &&PlacedLeg| !self.fixed.replaced.contains(&(leg.volume, leg.leg));
        let legs: Vec<PlacedLeg> = self.legs.iter().filter(stays).cloned().collect();
        broken.extend(check(&self.pool, &self.volumes, &legs));
        broken
    }

    /// The new leg is made beside the old one, under the next number, out of the first free slabs; then the old one goes.
    fn carry_out(&mut self, step: &LegMove) -> Result<(), TestCaseError> {
        let old = |leg: &PlacedLeg| (leg.volume, leg.leg, leg.drive) == (step.volume, step.leg, step.from);
        prop_assert_eq!(
            self.legs.iter().filter(|leg| old(leg)).map(PlacedLeg::slabs).sum::<u64>(),
            step.slabs
        );
        let (home, there) = (self.node(step.from), self.node(step.to));
        prop_assert!(home.zone == there.zone && home.id != there.id, "{step:?}");
        let (_, drive) = self.pool.drive(step.to).unwrap();
        prop_assert!(drive.usable, "{step:?}");
        let held = |slab: &u64| {
            let on_it = self.legs.iter().filter(|leg| leg.drive == step.to).flat_map(|leg| &leg.extents);
            on_it.chain(&drive.leaving).any(|held| (held.first..held.end()).contains(slab))
        };
        let free: Vec<u64> = (0..self.pool.slabs(drive)).filter(|slab| !held(slab)).collect();
        let count = usize::try_from(step.slabs).unwrap();
        prop_assert!(free.len() >= count, "{step:?} has {} slabs free", free.len());
        let extents = free[..count].iter().map(|first| Extent { first: *first, count: 1 }).collect();
        let last = self.legs.iter().filter(|leg| leg.volume == step.volume).map(|leg| leg.leg).max();
        let there = there.id;
        let new = PlacedLeg { volume: step.volume, leg: last.unwrap().next(), drive: step.to, extents };
        self.legs.push(new);
        let short = check_reserve(&self.pool, &self.legs);
        let takes =
            |broken: &crate::Broken| matches!(broken, crate::Broken::Reserve { node, .. } if *node == there);
        prop_assert!(!short.iter().any(takes), "{step:?}: {short:?}");
        self.legs.retain(|leg| !old(leg));
        Ok(())
    }

    /// What legs that count hold on each node of a rack, and what the node's capacity is: said without the planner.
    fn held(&self, zone: &ZoneName, legs: &[PlacedLeg]) -> Vec<(u64, u64)> {
        let nodes = self.pool.nodes.iter().filter(|node| node.zone == *zone);
        let usable = nodes.map(|node| node.drives.iter().filter(|drive| drive.usable).collect::<Vec<_>>());
        let counts = |leg: &&PlacedLeg| !self.fixed.replaced.contains(&(leg.volume, leg.leg));
        let of = |drives: Vec<&model::PoolDrive>| {
            let total: u64 = drives.iter().map(|drive| self.pool.slabs(drive)).sum();
            let kept = drives.iter().map(|drive| self.pool.slabs(drive)).max().filter(|_| drives.len() > 1);
            let on = |leg: &&PlacedLeg| drives.iter().any(|drive| drive.id == leg.drive);
            let held = legs.iter().filter(counts).filter(on).map(PlacedLeg::slabs).sum();
            (held, total - kept.unwrap_or(0))
        };
        usable.filter(|drives| !drives.is_empty()).map(of).collect()
    }
}

/// What nodes hold beyond their shares, times all capacity.
fn misplaced(held: &[(u64, u64)]) -> u64 {
    let (used, capacity): (u64, u64) =
        held.iter().fold((0, 0), |(used, capacity), node| (used + node.0, capacity + node.1));
    held.iter().map(|node| (node.0 * capacity).saturating_sub(node.1 * used)).sum()
}

fn sizes() -> impl Strategy<Value = VolumeSize> {
    let mirror = prop_oneof![Just(Mirror::TwoWay), Just(Mirror::FourWay)];
    (mirror, 1u64..12).prop_map(|(mirror, slabs)| size(mirror, slabs))
}

prop_compose! {
    /// Nodes with unequal drives, and one or two a rack that were added; drives that are retired or let go of something, volumes that are gone, others with
    /// a leg on its way.
    fn cases()(
        per_rack in 1usize..=3, added in 1usize..=2,
        nodes in proptest::collection::vec(proptest::collection::vec(1u64..40, 1..5), 10),
        wanted in proptest::collection::vec(sizes(), 0..16),
        retired in proptest::collection::vec(0usize..30, 0..3),
        gone in proptest::collection::vec(1u32..16, 0..4),
        going in proptest::collection::vec(0usize..40, 0..3),
        leaving in proptest::option::of(0usize..10),
    ) -> Case {
        let (old, new) = nodes.split_at(2 * per_rack);
        let mut case = Case::scaled_out(old, &new[..2 * added], &wanted);
        case.volumes.retain(|volume, _| !gone.contains(&volume.0));
        case.legs.retain(|leg| !gone.contains(&leg.volume.0));
        let mut drives: Vec<_> = case.pool.nodes.iter_mut().flat_map(|node| &mut node.drives).collect();
        for at in retired {
            let at = at % drives.len();
            drives[at].usable = false;
        }
        for at in going {
            let Some(leg) = case.legs.get(at).filter(|leg| !case.fixed.volumes.contains(&leg.volume)) else { continue };
            let old = (leg.volume, leg.leg);
            if let Ok(new) = replace(&case.pool, &case.legs, old, LegId(9)) {
                case.legs.push(new);
                case.fixed.replaced.insert(old);
                case.fixed.volumes.insert(old.0);
            }
        }
        if let Some(at) = leaving {
            let drive = &mut case.pool.nodes.last_mut().unwrap().drives[0];
            if case.legs.iter().all(|leg| leg.drive != drive.id) {
                drive.leaving = vec![Extent { first: 0, count: u64::try_from(at).unwrap().min((drive.size_bytes - 4096) / SLAB) }];
                drive.leaving.retain(|extent| extent.count > 0);
            }
        }
        case
    }
}

proptest! {
    /// The rule, the racks, room and the reserve at every step; then nothing more is worth moving, and what is said of it is so.
    #[test]
    fn every_step_keeps_the_rule_and_the_reserve_and_there_is_an_end(case in cases()) {
        let plan = case.plan();
        let before = case.broken();
        let mut after = case.clone();
        let mut moved = BTreeSet::new();
        let mut last = plan.clone();
        for step in &plan.moves {
            prop_assert!(moved.insert((step.volume, step.leg)), "{step:?} moves twice");
            prop_assert!(!case.fixed.volumes.contains(&step.volume));
            after.carry_out(step)?;
            prop_assert_eq!(&after.broken(), &before);
            // Whoever looks anew before each move goes on with the same plan.
            let left = after.plan();
            prop_assert!(left.moves.len() < last.moves.len().max(1));
            last = left;
        }
        prop_assert_eq!(&last.moves, &[]);
        for rack in &plan.racks {
            let (held, then) = (case.held(&rack.zone, &case.legs), case.held(&rack.zone, &after.legs));
            prop_assert_eq!(rack.nodes.iter().map(|n| (n.before_slabs, n.capacity_slabs)).collect::<Vec<_>>(), held.clone());
            prop_assert_eq!(rack.nodes.iter().map(|n| n.after_slabs).collect::<Vec<_>>(), then.iter().map(|n| n.0).collect::<Vec<_>>());
            let capacity = held.iter().map(|node| node.1).sum::<u64>().max(1);
            prop_assert_eq!(rack.misplaced_before_slabs, misplaced(&held).div_ceil(capacity));
            prop_assert_eq!(rack.misplaced_after_slabs, misplaced(&then).div_ceil(capacity));
            prop_assert!(rack.bound_slabs <= rack.moved_slabs && rack.moved_slabs <= 2 * rack.bound_slabs, "{rack:?}");
        }
        prop_assert_eq!(plan.moved_slabs(), plan.moves.iter().map(|step| step.slabs).sum::<u64>());
    }

    /// Whoever plans anew before each move, as after a kill, gets to an end that is as even for what it moves.
    #[test]
    fn planning_anew_before_each_move_comes_to_an_end_too(case in cases()) {
        let mut after = case.clone();
        let mut moved: BTreeMap<ZoneName, u64> = BTreeMap::new();
        for _ in 0..=case.legs.len() {
            let Some(step) = after.plan().moves.first().copied() else { break };
            after.carry_out(&step)?;
            *moved.entry(case.node(step.to).zone.clone()).or_default() += step.slabs;
        }
        let (before, end) = (case.plan(), after.plan());
        prop_assert_eq!(&end.moves, &[]);
        for (rack, end) in before.racks.iter().zip(&end.racks) {
            let moved = moved.get(&rack.zone).copied().unwrap_or(0);
            let good = rack.misplaced_before_slabs - end.misplaced_after_slabs;
            prop_assert!(moved <= 2 * (good + 1), "{moved}: {rack:?}, {end:?}");
            prop_assert_eq!(moved, rack.moved_slabs);
        }
    }

    #[test]
    fn the_same_set_gives_the_same_plan(case in cases()) {
        let mut turned = case.clone();
        turned.pool.nodes.reverse();
        turned.pool.nodes.iter_mut().for_each(|node| node.drives.reverse());
        turned.legs.reverse();
        prop_assert_eq!(case.plan(), turned.plan());
    }

    /// Legs that are small beside what has to move: hardly more is moved than must be.
    #[test]
    fn with_small_legs_at_most_a_twentieth_more_is_moved_than_must_be(
        per_rack in 1usize..=3, old in 300u64..600, new in 200u64..900, drives in 2usize..4,
        wanted in proptest::collection::vec((any::<bool>(), 1u64..4), 150..250),
    ) {
        let four = |four: bool| if four && per_rack > 1 { Mirror::FourWay } else { Mirror::TwoWay };
        let wanted: Vec<_> = wanted.into_iter().map(|(is_four, slabs)| size(four(is_four), slabs)).collect();
        let case = Case::scaled_out(&vec![vec![old; drives]; 2 * per_rack], &vec![vec![new; drives]; 2], &wanted);
        let plan = case.plan();
        let largest = case.legs.iter().map(PlacedLeg::slabs).max().unwrap_or(0);
        for rack in &plan.racks {
            let few = u64::try_from(per_rack).unwrap() * largest;
            prop_assume!(rack.misplaced_before_slabs >= 21 * few);
            prop_assert!(100 * rack.moved_slabs <= 105 * rack.bound_slabs, "{rack:?}");
            prop_assert!(rack.misplaced_after_slabs <= few, "{rack:?}");
        }
    }

    /// Equal nodes and legs: as after placing them anew, no node has two legs more than another, and only to the new one is moved. As little as can be.
    #[test]
    fn equal_things_are_even_again_and_old_nodes_get_nothing(
        per_rack in 1usize..=3, drives in 2usize..4, volumes in 0usize..24, slabs in 1u64..4, four in any::<bool>(),
    ) {
        let mirror = if four && per_rack > 1 { Mirror::FourWay } else { Mirror::TwoWay };
        let case = Case::scaled_out(&vec![vec![80; drives]; 2 * per_rack], &vec![vec![80; drives]; 2], &vec![size(mirror, slabs); volumes]);
        let plan = case.plan();
        for rack in &plan.racks {
            let legs = || rack.nodes.iter().map(|node| node.after_slabs / slabs);
            prop_assert!(legs().max().unwrap() - legs().min().unwrap() <= 1, "{rack:?}");
            prop_assert_eq!(rack.moved_slabs, rack.bound_slabs);
        }
        let new = u32::try_from(2 * per_rack).unwrap();
        prop_assert!(plan.moves.iter().all(|step| case.node(step.to).id.0 > new));
    }

    /// Few legs: no plan at all that is as even moves less than the bound, and the bound is what the best of them moves, if the rule does not stand in the way.
    #[test]
    fn no_plan_that_is_as_even_moves_less_than_the_bound(
        per_rack in 1usize..=2, drives in proptest::collection::vec(20u64..60, 6), wanted in proptest::collection::vec(sizes(), 1..6),
    ) {
        let nodes: Vec<Vec<u64>> = drives.iter().map(|slabs| vec![*slabs; 2]).collect();
        let case = Case::scaled_out(&nodes[..2 * per_rack], &nodes[4..], &wanted);
        for rack in case.plan().racks {
            let best = fewest(&case, &rack);
            prop_assert!(rack.bound_slabs <= best, "{best}: {rack:?}");
            prop_assert!(best <= rack.moved_slabs, "{best}: {rack:?}");
        }
    }
}

/// The fewest slabs that leave as few misplaced as a plan: every way to put the legs of a rack on its nodes is looked at, the rule or not.
fn fewest(case: &Case, rack: &RackBalance) -> u64 {
    let nodes: Vec<&PoolNode> = case.pool.nodes.iter().filter(|node| node.zone == rack.zone).collect();
    let at = |leg: &PlacedLeg| nodes.iter().position(|node| node.id == case.node(leg.drive).id);
    let legs: Vec<(usize, u64)> =
        case.legs.iter().filter_map(|leg| at(leg).map(|at| (at, leg.slabs()))).collect();
    let then: Vec<(u64, u64)> =
        rack.nodes.iter().map(|node| (node.after_slabs, node.capacity_slabs)).collect();
    let most = misplaced(&then);
    let ways = nodes.len().pow(u32::try_from(legs.len()).unwrap());
    let moved = |mut way: usize| {
        let mut held: Vec<(u64, u64)> = then.iter().map(|node| (0, node.1)).collect();
        let mut moved = 0;
        for (home, slabs) in &legs {
            let to = way % nodes.len();
            way /= nodes.len();
            held[to].0 += slabs;
            moved += if to == *home { 0 } else { *slabs };
        }
        (misplaced(&held) <= most).then_some(moved)
    };
    (0..ways).filter_map(moved).min().unwrap()
}

fn told(case: &Case) -> String {
    let plan = case.plan();
    let line = |step: &LegMove| {
        let LegMove { volume, leg, from, to, slabs } = step;
        let (home, there) = (case.node(*from).id, case.node(*to).id);
        format!("{volume} {leg}: {from} of {home} to {to} of {there}, {slabs} slabs\n")
    };
    plan.moves.iter().map(line).collect::<String>() + &plan.to_string()
}

/// A small one for the cluster, and as many others as there are nodes, as express deployment makes them.
fn express(per_rack: usize, mirror: Mirror) -> Case {
    let node = vec![vec![40; 3]; 2 * per_rack];
    let mut wanted = vec![size(mirror, 3)];
    wanted.extend(vec![size(mirror, 10); 2 * per_rack]);
    Case::scaled_out(&node, &node[..2], &wanted)
}

#[test]
fn one_node_a_rack_becomes_two() {
    insta::assert_snapshot!(told(&express(1, Mirror::TwoWay)));
}

#[test]
fn two_nodes_a_rack_become_three() {
    insta::assert_snapshot!(told(&express(2, Mirror::FourWay)));
}

#[test]
fn three_nodes_a_rack_become_four() {
    insta::assert_snapshot!(told(&express(3, Mirror::FourWay)));
}

#[test]
fn what_is_even_or_has_no_other_node_stays() {
    let alone = Case::scaled_out(&vec![vec![40; 2]; 2], &[], &[size(Mirror::TwoWay, 3)]);
    assert_eq!(alone.plan().moves, []);
    assert_eq!(alone.plan().ratio_hundredths(), 100);
    let nothing = Case::scaled_out(&[], &[], &[]);
    assert_eq!(nothing.plan(), Rebalance { moves: vec![], racks: vec![] });
    // One leg is better on a node that is full than on none: half of it would not do any good elsewhere.
    let one = Case::scaled_out(&vec![vec![40; 2]; 2], &vec![vec![40; 2]; 2], &[size(Mirror::TwoWay, 3)]);
    assert_eq!(one.plan().moves, []);
}

#[test]
fn a_larger_node_takes_more() {
    let case =
        Case::scaled_out(&vec![vec![60; 2]; 2], &vec![vec![120; 2]; 2], &[size(Mirror::TwoWay, 2); 12]);
    let after: Vec<u64> = case.plan().racks[0].nodes.iter().map(|node| node.after_slabs).collect();
    assert_eq!(after, [8, 16]);
}

#[test]
fn a_leg_that_is_on_its_way_counts_where_it_goes() {
    let mut case = Case::scaled_out(&vec![vec![60]; 2], &vec![vec![60]; 2], &[size(Mirror::TwoWay, 5); 2]);
    assert_eq!(case.plan().moves.len(), 2, "one a rack");
    let mut legs = case.legs.clone();
    for leg in [LegId(1), LegId(2)] {
        let old = (VolumeId(1), leg);
        legs.push(replace(&case.pool, &legs, old, LegId(leg.0 + 2)).unwrap());
        case.fixed.replaced.insert(old);
    }
    case.legs = legs;
    assert_eq!(case.plan().moves, []);
}

#[test]
fn nodes_and_drives_that_take_nothing_are_left_out() {
    let mut case =
        Case::scaled_out(&vec![vec![60]; 2], &vec![vec![60, 60]; 2], &[size(Mirror::TwoWay, 5); 4]);
    let there = |case: &Case| case.plan().moves.iter().map(|step| step.to).collect::<BTreeSet<_>>();
    assert_eq!(there(&case), [3, 4, 5, 6].map(DriveId).into());
    case.pool.nodes[2].drives[0].usable = false;
    assert_eq!(there(&case), [4, 5, 6].map(DriveId).into());
    for node in [2, 3] {
        case.pool.nodes[node].drives.iter_mut().for_each(|drive| drive.usable = false);
    }
    assert_eq!(case.plan().moves, []);
    // What is on a drive that is retired is not moved by this.
    let mut case = Case::scaled_out(&vec![vec![60]; 2], &vec![vec![60]; 2], &[size(Mirror::TwoWay, 5); 4]);
    case.pool.nodes[0].drives[0].usable = false;
    assert!(case.plan().moves.iter().all(|step| step.from != DriveId(1)));
}

#[test]
fn a_full_node_gets_nothing_even_if_its_share_is_more() {
    // What is leaving is not free yet.
    let mut case = Case::scaled_out(&vec![vec![60]; 2], &vec![vec![60]; 2], &[size(Mirror::TwoWay, 5); 4]);
    for node in [2, 3] {
        case.pool.nodes[node].drives[0].leaving = vec![Extent { first: 0, count: 56 }];
    }
    assert_eq!(case.plan().moves, []);
}

#[test]
fn a_leg_needs_its_room_on_one_drive() {
    let leg = [size(Mirror::TwoWay, 6); 2];
    let case = |drive: u64| Case::scaled_out(&vec![vec![30]; 2], &vec![vec![drive; 12]; 2], &leg);
    assert_eq!(case(5).plan().moves, []);
    assert_eq!(case(6).plan().moves.len(), 2, "one a rack");
}

#[test]
fn a_placement_and_a_rebalancing_agree_on_equal_nodes() {
    let mut case = express(2, Mirror::FourWay);
    for step in case.plan().moves {
        case.carry_out(&step).unwrap();
    }
    let more = place(&case.pool, &case.legs, VolumeId(99), size(Mirror::FourWay, 10)).unwrap();
    case.volumes.insert(VolumeId(99), size(Mirror::FourWay, 10));
    case.legs.extend(more);
    assert_eq!(case.plan().moves, []);
}
