//! One rack, by counts: the next leg that is worth moving, until there is none.
//!
//! Invariants: a surplus is counted in parts of a slab, `1 / capacity` of the rack, so that shares are exact. The surpluses of a rack add up to nothing.

use super::{Fixed, LegMove};
use crate::room::{self, Room};
use model::{DriveId, LegId, NodeId, PlacedLeg, Pool, VolumeId, ZoneName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A number of parts of a slab. Products of two counts of slabs fit: no cluster has 2^63 of them.
pub(super) type Parts = i128;

/// A rack's nodes, and the legs on their usable drives.
#[derive(Clone)]
pub(super) struct Rack {
    /// In ascending order; those that have usable drives.
    pub(super) nodes: Vec<Node>,
    /// Those that count.
    pub(super) legs: Vec<Leg>,
    /// How many legs of a volume are on a node, on whichever drive.
    holds: BTreeMap<(VolumeId, NodeId), usize>,
    /// Of all nodes, slabs.
    capacity: u64,
    /// Of all nodes, slabs.
    used: u64,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// What new legs may take of it when it is empty, slabs.
    pub(super) capacity: u64,
    /// What legs that count have on it, slabs.
    pub(super) used: u64,
    /// What is to stay free, slabs.
    reserve: u64,
    /// Of every usable drive, slabs.
    free: BTreeMap<DriveId, u64>,
}

#[derive(Clone)]
pub(super) struct Leg {
    volume: VolumeId,
    id: LegId,
    drive: DriveId,
    /// Which of the rack's nodes has it.
    pub(super) on: usize,
    pub(super) slabs: u64,
    /// Whether it may leave.
    pub(super) movable: bool,
}

impl Node {
    fn new(room: &Room<'_>) -> Self {
        Self {
            id: room.node.id,
            capacity: room.total().saturating_sub(room.reserve()),
            used: 0,
            reserve: room.reserve(),
            free: room.drives().map(|drive| (drive, room.free_on(drive))).collect(),
        }
    }

    /// The drive with most free slabs, of equals the lowest, if that has room for a new leg and the reserve is kept.
    fn place(&self, slabs: u64) -> Option<DriveId> {
        let all: u64 = self.free.values().sum();
        let (drive, free) = self.free.iter().max_by_key(|(drive, free)| (**free, Reverse(**drive)))?;
        (*free >= slabs && all >= self.reserve.saturating_add(slabs)).then_some(*drive)
    }
}

/// A move that is worth it, and how it compares; the greatest comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// What it moves beyond what it lessens what is misplaced by: least first.
    in_vain: Reverse<Parts>,
    slabs: u64,
    surplus: Parts,
    lack: Parts,
    /// What is free on the drive that it is on: fullest first.
    free: Reverse<u64>,
    leg: Reverse<(VolumeId, LegId)>,
    to: Reverse<usize>,
    at: usize,
    drive: DriveId,
}

impl Rack {
    pub(super) fn new(pool: &Pool, zone: &ZoneName, legs: &[PlacedLeg], fixed: &Fixed) -> Self {
        let rooms = room::rooms(pool, legs);
        let own = rooms.iter().filter(|room| room.node.zone == *zone && room.total() > 0);
        let mut nodes: Vec<Node> = own.map(Node::new).collect();
        let mut holds: BTreeMap<_, usize> = BTreeMap::new();
        let mut counted = Vec::new();
        let moving: BTreeSet<VolumeId> = fixed.replaced.iter().map(|(volume, _)| *volume).collect();
        for found in legs {
            let Some((node, _)) = pool.drive(found.drive) else { continue };
            *holds.entry((found.volume, node.id)).or_default() += 1;
            let at = nodes.iter().position(|node| node.free.contains_key(&found.drive));
            let (volume, leg, drive, slabs) = (found.volume, found.leg, found.drive, found.slabs());
            if let Some(on) = at.filter(|_| !fixed.replaced.contains(&(volume, leg))) {
                nodes[on].used = nodes[on].used.saturating_add(slabs);
                let movable = slabs > 0 && !fixed.volumes.contains(&volume) && !moving.contains(&volume);
                counted.push(Leg { volume, id: leg, drive, on, slabs, movable });
            }
        }
        let sum = |of: fn(&Node) -> u64| nodes.iter().map(of).fold(0, u64::saturating_add);
        let (capacity, used) = (sum(|node| node.capacity), sum(|node| node.used));
        Self { nodes, legs: counted, holds, capacity, used }
    }

    /// A count of slabs in parts.
    pub(super) fn parts(&self, slabs: u64) -> Parts {
        Parts::from(slabs).saturating_mul(self.capacity.into())
    }

    /// Parts in slabs, rounded up. A rack without capacity has nothing to share.
    pub(super) fn slabs_of(&self, parts: Parts) -> u64 {
        let capacity = u128::from(self.capacity).max(1);
        u64::try_from(parts.max(0).unsigned_abs().div_ceil(capacity)).unwrap_or(u64::MAX)
    }

    /// A node's share, slabs, rounded down.
    pub(super) fn share(&self, at: usize) -> u64 {
        let share = u128::from(self.nodes[at].capacity).saturating_mul(self.used.into());
        u64::try_from(share / u128::from(self.capacity).max(1)).unwrap_or(u64::MAX)
    }

    /// What a node holds beyond its share; below 0 what it lacks of it.
    pub(super) fn surplus(&self, at: usize) -> Parts {
        let share = Parts::from(self.nodes[at].capacity).saturating_mul(self.used.into());
        self.parts(self.nodes[at].used) - share
    }

    /// What nodes hold beyond their shares. Surpluses add up to nothing, so that it is also what nodes lack.
    pub(super) fn misplaced(&self) -> Parts {
        (0..self.nodes.len()).map(|at| self.surplus(at).max(0)).sum()
    }

    /// Moves what is worth moving. Each move lessens what is misplaced and no leg moves twice: so there are no more moves than legs.
    pub(super) fn plan(&mut self) -> Vec<LegMove> {
        let mut moves = Vec::new();
        for _ in 0..self.legs.len() {
            let Some(next) = self.next() else { break };
            moves.push(self.carry_out(&next));
        }
        moves
    }

    fn next(&self) -> Option<Candidate> {
        let surplus: Vec<Parts> = (0..self.nodes.len()).map(|at| self.surplus(at)).collect();
        let of_node = |at| self.legs.iter().filter(move |leg| leg.movable && leg.on == at);
        let smallest: Vec<Option<u64>> =
            (0..self.nodes.len()).map(|at| of_node(at).map(|leg| leg.slabs).min()).collect();
        let mut best: Option<Candidate> = None;
        for (at, leg) in self.legs.iter().enumerate() {
            if !leg.movable || surplus[leg.on] <= 0 {
                continue;
            }
            for (to, node) in self.nodes.iter().enumerate().filter(|(to, _)| surplus[*to] < 0) {
                let Some(in_vain) = self.in_vain(leg, surplus[leg.on], surplus[to], smallest[to]) else {
                    continue;
                };
                if self.holds.get(&(leg.volume, node.id)).is_some_and(|legs| *legs > 0) {
                    continue;
                }
                let Some(drive) = node.place(leg.slabs) else { continue };
                let candidate = Candidate {
                    in_vain: Reverse(in_vain),
                    slabs: leg.slabs,
                    surplus: surplus[leg.on],
                    lack: -surplus[to],
                    free: Reverse(self.nodes[leg.on].free.get(&leg.drive).copied().unwrap_or(0)),
                    leg: Reverse((leg.volume, leg.id)),
                    to: Reverse(to),
                    at,
                    drive,
                };
                best = best.max(Some(candidate));
            }
        }
        best
    }

    /// What of a leg's move from one node to another would be in vain, twice; `None` if it is not worth it.
    fn in_vain(&self, leg: &Leg, from: Parts, to: Parts, smallest: Option<u64>) -> Option<Parts> {
        let moved = self.parts(leg.slabs);
        let gain = (from.abs() - (from - moved).abs()) + (to.abs() - (to + moved).abs());
        // What a node has beyond its share because of this may not make any of its legs worth moving: a leg is if half of it is beyond the share.
        let beyond = (to + moved).max(0);
        let smallest = self.parts(smallest.map_or(leg.slabs, |other| other.min(leg.slabs)));
        let stays = beyond == 0 || 2 * beyond < smallest;
        (gain >= moved && stays).then_some(2 * moved - gain)
    }

    fn carry_out(&mut self, next: &Candidate) -> LegMove {
        let (at, Reverse(to)) = (next.at, next.to);
        let Leg { volume, id: leg, drive: from, on, slabs, .. } = self.legs[at];
        for (node, there) in [(on, false), (to, true)] {
            let node = &mut self.nodes[node];
            let drive = if there { next.drive } else { from };
            let free = node.free.entry(drive).or_default();
            let held = self.holds.entry((volume, node.id)).or_default();
            if there {
                (*free, node.used, *held) = (free.saturating_sub(slabs), node.used + slabs, *held + 1);
            } else {
                (*free, node.used, *held) = (*free + slabs, node.used - slabs, held.saturating_sub(1));
            }
        }
        (self.legs[at].on, self.legs[at].drive) = (to, next.drive);
        LegMove { volume, leg, from, to: next.drive, slabs }
    }
}
