//! Rebalancing: which legs move when nodes were added, so that every node of a rack has its share again.
//!
//! Purpose: [`rebalance()`] gives the moves, in an order in which they can be carried out one after the other, and what a report says of them: how even it
//! was and will be, how much is moved, and how much any other plan would have to move.
//!
//! Words:
//! - A node's **capacity** is what new legs may take of it when it is empty: the slabs of its usable drives less one drive's worth (rule 3 of [`crate`]).
//! - Its **share** is what it would hold if the legs of its rack were spread over the rack's nodes by capacity, to a fraction of a slab.
//! - A rack's **misplaced** slabs are those that nodes hold beyond their shares. This is the measure of evenness: 0 is even. Whole legs seldom give 0.
//!
//! A leg moves from a node above its share to one below, in the same rack, if
//! 1. the node has no leg of the volume, and room for it on the drive with most free slabs, with the reserve kept, while the old one is still there;
//! 2. it lessens what is misplaced by half of its slabs at least: what moves mostly does good;
//! 3. the node that takes it stays within its share, or goes beyond by less than half of the smallest leg that it then has.
//!
//! Of those that may, the one that takes its nodes least far past their shares comes first, then the largest; from the node with most beyond its share to the one that
//! lacks most of it. A node that was there before gets a leg only if it is itself below its share.
//!
//! Invariants: deterministic, the order of the input included. Each move lessens what is misplaced, so that there is an end, whatever happens between two moves
//! (none goes back, and planning again after the last gives none). No leg moves twice: one that has come leaves its node only if that is above its share, which by 3
//! is then by too little for any of its legs. A leg stays in its rack, and what [`Fixed`] names stays where it is.
//!
//! What whole legs and the rule make impossible is left: if nothing is barred by the rule or by room, and no leg has more than `s` slabs, less than
//! `(n − 1) · s` slabs are misplaced in a rack of `n` nodes (else a node has `s` too many and one lacks as much: 1 to 3 would move a leg). Drives of a node are not evened out.
//!
//! On failure: there is none; a rack where nothing can move has no moves.

mod bound;
mod plan;
#[cfg(test)]
mod tests;

use model::{DriveId, LegId, NodeId, PlacedLeg, Pool, VolumeId, ZoneName};
use plan::Rack;
use std::collections::BTreeSet;
use std::fmt;

/// What stays where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Volumes of which no leg is moved: one is on its way already, or nothing can be copied now. Their legs count where they are.
    pub volumes: BTreeSet<VolumeId>,
    /// Legs that go as soon as the one that replaces them is in sync. They have their slabs until then, and count no more; nor do they move.
    pub replaced: BTreeSet<(VolumeId, LegId)>,
}

/// A leg that goes to another drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegMove {
    /// Of which volume.
    pub volume: VolumeId,
    /// Which. On the other drive it has another number.
    pub leg: LegId,
    /// Where it is.
    pub from: DriveId,
    /// Where it goes: on another node of the same rack.
    pub to: DriveId,
    /// How many slabs it has.
    pub slabs: u64,
}

/// What moves, and what that is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebalance {
    /// In this order each finds the room that it needs when those before it are done and their old slabs are free.
    pub moves: Vec<LegMove>,
    /// Of every rack, by name.
    pub racks: Vec<RackBalance>,
}

/// A rack before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RackBalance {
    /// Which.
    pub zone: ZoneName,
    /// Its nodes, in ascending order.
    pub nodes: Vec<NodeBalance>,
    /// Slabs that nodes hold beyond their shares now, rounded up.
    pub misplaced_before_slabs: u64,
    /// And when all has moved.
    pub misplaced_after_slabs: u64,
    /// How many slabs move.
    pub moved_slabs: u64,
    /// What any plan moves that leaves as few misplaced, by whole legs, of those that may move.
    ///
    /// A slab that moves takes at most one off those that are misplaced: so it is no less than the difference. And whatever a plan does, of each node that is above its share some
    /// legs leave, whole ones, whose slabs are `o`; if it is `x` above, `x − o` stay misplaced unless `o ≥ x`. So no plan moves less than the smallest sum
    /// of such `o` of all nodes for which no more stays misplaced than here; and likewise for what comes to the nodes below theirs. The largest of the three is given.
    /// Neither the rule nor room is asked, so that a plan that keeps both may have to move more.
    pub bound_slabs: u64,
}

/// A node before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeBalance {
    /// Which.
    pub node: NodeId,
    /// What new legs may take of it when it is empty, slabs.
    pub capacity_slabs: u64,
    /// Its share of what the rack's legs hold, slabs, rounded down.
    pub share_slabs: u64,
    /// What legs hold on its usable drives now.
    pub before_slabs: u64,
    /// And when all has moved.
    pub after_slabs: u64,
}

/// The moves that give every node its share of the legs of its rack, as far as whole legs can; none if nothing is worth moving.
///
/// At most 1.05 times of what any plan must move that is as even ([`RackBalance::bound_slabs`]), in every rack where no move is barred by the rule or by room and where `21 · (n − 1)` times the
/// largest leg is no more than what is misplaced, `n` its nodes: only moves that take a node past its share move more than they lessen what is misplaced, by no more than they lessen it, and
/// they come when less than `(n − 1)` legs are misplaced. With larger legs it may be up to twice the bound, since half of each leg that moves does good.
pub fn rebalance(pool: &Pool, legs: &[PlacedLeg], fixed: &Fixed) -> Rebalance {
    let zones: BTreeSet<&ZoneName> = pool.nodes.iter().map(|node| &node.zone).collect();
    let (mut moves, mut racks) = (Vec::new(), Vec::new());
    for zone in zones {
        let mut rack = Rack::new(pool, zone, legs, fixed);
        let before = rack.clone();
        let own = rack.plan();
        racks.push(balance(zone, &before, &rack, own.iter().map(|step| step.slabs).sum()));
        moves.extend(own);
    }
    Rebalance { moves, racks }
}

fn balance(zone: &ZoneName, before: &Rack, after: &Rack, moved_slabs: u64) -> RackBalance {
    let node = |(at, (before_node, after_node)): (usize, (&plan::Node, &plan::Node))| NodeBalance {
        node: before_node.id,
        capacity_slabs: before_node.capacity,
        share_slabs: before.share(at),
        before_slabs: before_node.used,
        after_slabs: after_node.used,
    };
    RackBalance {
        zone: zone.clone(),
        nodes: before.nodes.iter().zip(&after.nodes).enumerate().map(node).collect(),
        misplaced_before_slabs: before.slabs_of(before.misplaced()),
        misplaced_after_slabs: after.slabs_of(after.misplaced()),
        moved_slabs,
        bound_slabs: bound::of(before, after.misplaced()),
    }
}

impl Rebalance {
    /// How many slabs move.
    pub fn moved_slabs(&self) -> u64 {
        self.racks.iter().map(|rack| rack.moved_slabs).fold(0, u64::saturating_add)
    }

    /// How many any plan moves that is as even. Legs stay in their racks: so what each rack takes adds up.
    pub fn bound_slabs(&self) -> u64 {
        self.racks.iter().map(|rack| rack.bound_slabs).fold(0, u64::saturating_add)
    }

    /// What moves, in hundredths of what any plan moves that is as even, rounded up; 100 if nothing moves.
    pub fn ratio_hundredths(&self) -> u64 {
        let moved = self.moved_slabs();
        if moved == 0 { 100 } else { moved.saturating_mul(100).div_ceil(self.bound_slabs().max(1)) }
    }
}

/// Lines for a report: of every rack and node, then of all.
impl fmt::Display for Rebalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rack in &self.racks {
            let RackBalance { zone, misplaced_before_slabs, misplaced_after_slabs, .. } = rack;
            writeln!(f, "{zone}: {misplaced_before_slabs} slabs misplaced, then {misplaced_after_slabs}")?;
            for node in &rack.nodes {
                let NodeBalance { node, before_slabs, after_slabs, share_slabs, capacity_slabs } = node;
                write!(f, "  {node}: {before_slabs} slabs, then {after_slabs}; ")?;
                writeln!(f, "its share is {share_slabs}, its capacity {capacity_slabs}")?;
            }
        }
        if self.moves.is_empty() {
            return write!(f, "nothing is worth moving");
        }
        let (copies, moved, bound) = (self.moves.len(), self.moved_slabs(), self.bound_slabs());
        let (whole, part) = (self.ratio_hundredths() / 100, self.ratio_hundredths() % 100);
        write!(f, "{copies} copies move, {moved} slabs; as even by any other plan: at least {bound} ")?;
        write!(f, "({whole}.{part:02} times that)")
    }
}
