//! What any plan must move: [`super::RackBalance::bound_slabs`] says why.

use super::plan::{Parts, Rack};

/// Sums of legs are looked at slab by slab up to so many: 64 TiB of slabs of 64 MiB. A node that has more too many is taken to have legs of any size.
const SUM_MAX: u64 = 1 << 20;

/// And up to so many nodes on one side are taken in all combinations; beyond that, too, legs are taken to be of any size.
const NODES_MAX: usize = 12;

/// What a node is above its share, or lacks of it, and what whole legs can do about it.
struct Side {
    /// Greater than 0.
    parts: Parts,
    /// The largest sum of legs that is no more, slabs.
    below: u64,
    /// The smallest that is no less, slabs, if all legs are as much.
    above: Option<u64>,
}

/// The fewest slabs that whole legs can move for no more to be misplaced than this.
pub(super) fn of(rack: &Rack, left: Parts) -> u64 {
    let nodes = 0..rack.nodes.len();
    let legs = |node: usize, there: bool| {
        let own = rack.legs.iter().filter(move |leg| leg.movable && (leg.on == node) == there);
        own.map(|leg| leg.slabs).collect::<Vec<u64>>()
    };
    let side = |sign: Parts| {
        let sides = nodes.clone().map(move |node| (node, sign * rack.surplus(node)));
        let sides = sides.filter(|(_, parts)| *parts > 0);
        // What leaves a node is of its own legs; what comes is of the others'.
        sides.map(|(node, parts)| side(rack, parts, &legs(node, sign > 0))).collect::<Vec<Side>>()
    };
    let difference = rack.slabs_of(rack.misplaced() - left);
    [side(1), side(-1)].iter().map(|sides| fewest(rack, sides, left)).fold(difference, u64::max)
}

fn side(rack: &Rack, parts: Parts, legs: &[u64]) -> Side {
    let at_least = rack.slabs_of(parts);
    // Parts in whole slabs, rounded down.
    let at_most = if rack.parts(at_least) == parts { at_least } else { at_least - 1 };
    let largest = legs.iter().copied().max().unwrap_or(0);
    let Some(end) = at_least.checked_add(largest).filter(|end| *end <= SUM_MAX) else {
        return Side { parts, below: at_most, above: Some(at_least) };
    };
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    // Beyond `end` no sum is of interest: taking a leg away from it leaves one that is still enough.
    let mut sums = vec![false; end + 1];
    sums[0] = true;
    for leg in legs {
        let leg = usize::try_from(*leg).unwrap_or(usize::MAX);
        for sum in (leg..=end).rev() {
            sums[sum] |= sums[sum - leg];
        }
    }
    let is_sum = |sum: &u64| usize::try_from(*sum).is_ok_and(|sum| sums.get(sum).is_some_and(|is| *is));
    let below = (0..=at_most).rev().find(is_sum).unwrap_or(0);
    let above = (at_least..=at_least.saturating_add(largest)).find(is_sum);
    Side { parts, below, above }
}

/// Each node either has all of it done, by more than that, or is left with something; which, is tried in all ways.
fn fewest(rack: &Rack, sides: &[Side], left: Parts) -> u64 {
    let mut fewest = None;
    if sides.len() > NODES_MAX {
        return 0;
    }
    for done in 0_u32..1 << sides.len() {
        let (mut moved, mut needed, mut possible) = (Some(0_u64), -left, 0);
        for (at, side) in sides.iter().enumerate() {
            if done & (1 << at) == 0 {
                needed += side.parts;
                possible += rack.parts(side.below);
            } else {
                moved = moved.zip(side.above).map(|(moved, above)| moved.saturating_add(above));
            }
        }
        if possible >= needed
            && let Some(moved) = moved
        {
            let all = moved.saturating_add(rack.slabs_of(needed));
            fewest = Some(fewest.map_or(all, |fewest: u64| fewest.min(all)));
        }
    }
    fewest.unwrap_or(0)
}
