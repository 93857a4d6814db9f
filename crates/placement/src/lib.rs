//! Where the legs of a volume go: racks first, then nodes, then drives, balanced. Where virtual machines run: [`vm`].
//!
//! Purpose: [`place`] gives a new volume its legs, [`replace`] a leg another drive, [`extend`] a leg more slabs; each from the pool and
//! the legs that are there. [`rebalance()`] says which legs move when nodes were added. [`capacity`] says what is left. [`check()`] and [`check_reserve`] hold a result against the rule: they
//! share no code with the placer.
//!
//! Rules:
//! 1. Each rack has as many legs of a volume as the other: one of a two-way mirror, two of a four-way mirror.
//! 2. Legs of a volume in a rack are on different nodes.
//! 3. On each node one drive's worth stays free (its largest usable drive's slabs), so that what was on a drive that failed finds room
//!    in its own rack. A new volume never takes of it; [`replace`] does. A node with a single drive keeps nothing free: there would be
//!    no other drive to rebuild on.
//! 4. Among those that fit, the node with most to give, and on it the drive with most free slabs; then the lowest id.
//!
//! Invariants: deterministic, the order of nodes, drives and legs in the input included: the same set gives the same result. A leg is on one drive.
//! Because all legs of a volume need the same and each is on a node of its own, taking the best first never misses a placement that there is.
//!
//! On failure: [`Refused`] says of each rack that can't take its legs what is missing.

mod check;
mod rebalance;
mod room;
#[cfg(test)]
mod tests;
pub mod vm;

pub use check::{Broken, check, check_reserve};
use model::{DriveId, Extent, LegId, NodeId, PlacedLeg, Pool, VolumeId, VolumeSize, ZoneName};
pub use rebalance::{Fixed, LegMove, NodeBalance, RackBalance, Rebalance, rebalance};
use room::Room;
use std::collections::{BTreeMap, BTreeSet};

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are not two racks.
    #[error("the pool has drives in {0} racks, not in two")]
    NotTwoRacks(usize),
    /// Racks that can't take their legs.
    #[error("{}", said(.0))]
    Racks(Vec<Lack>),
    /// The leg is not there.
    #[error("there is no {1} of {0}")]
    NoSuchLeg(VolumeId, LegId),
    /// The leg's drive has not enough left.
    #[error("{drive} lacks {missing_bytes} bytes")]
    Drive {
        /// Which.
        drive: DriveId,
        /// How many.
        missing_bytes: u64,
    },
}

/// What a rack lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Nodes: each leg is on one of its own.
    #[error("{zone} has {nodes} nodes for {legs} legs on different nodes")]
    Nodes {
        /// Which rack.
        zone: ZoneName,
        /// Its nodes that may take a leg.
        nodes: usize,
        /// How many legs it shall take.
        legs: usize,
    },
    /// Space.
    #[error(
        "{zone} lacks {missing_bytes} bytes (beyond what is kept free) for {legs} legs of {leg_bytes} bytes"
    )]
    Bytes {
        /// Which rack.
        zone: ZoneName,
        /// How much more it would take, in whole slabs, on the nodes that lack least.
        missing_bytes: u64,
        /// How many legs it shall take.
        legs: usize,
        /// What each needs, in whole slabs.
        leg_bytes: u64,
    },
}

fn said(lacks: &[Lack]) -> String {
    lacks.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What the pool has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Of each node, in ascending order.
    pub nodes: Vec<NodeCapacity>,
}

/// What a node has, bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCapacity {
    /// Which.
    pub node: NodeId,
    /// Its rack.
    pub zone: ZoneName,
    /// In slabs of its usable drives.
    pub total_bytes: u64,
    /// Held by legs on its usable drives, those that are leaving included.
    pub used_bytes: u64,
    /// What shall stay free for a drive that fails.
    pub reserve_bytes: u64,
    /// What new legs may take.
    pub available_bytes: u64,
}

/// What each node has and may still give.
pub fn capacity(pool: &Pool, legs: &[PlacedLeg]) -> Capacity {
    let bytes = |slabs: u64| slabs.saturating_mul(pool.slab_bytes);
    let of = |room: &Room<'_>| NodeCapacity {
        node: room.node.id,
        zone: room.node.zone.clone(),
        total_bytes: bytes(room.total()),
        used_bytes: bytes(room.total() - room.free()),
        reserve_bytes: bytes(room.reserve()),
        available_bytes: bytes(room.available()),
    };
    Capacity { nodes: room::rooms(pool, legs).iter().map(of).collect() }
}

/// Legs for a new volume, numbered from 1: first those of the first rack by name.
pub fn place(
    pool: &Pool,
    legs: &[PlacedLeg],
    volume: VolumeId,
    size: VolumeSize,
) -> Result<Vec<PlacedLeg>, Refused> {
    let rooms = room::rooms(pool, legs);
    let zones: BTreeSet<&ZoneName> = rooms.iter().map(|room| &room.node.zone).collect();
    if zones.len() != 2 {
        return Err(Refused::NotTwoRacks(zones.len()));
    }
    let (per_zone, needed) = (size.mirror.legs() / 2, pool.slabs_of(size));
    let (mut placed, mut lacks) = (Vec::new(), Vec::new());
    for zone in zones {
        let in_zone = rooms.iter().filter(|room| room.node.zone == *zone).collect();
        match choose(pool, zone, in_zone, per_zone, needed, Kept::Reserve) {
            Ok(chosen) => placed.extend(chosen),
            Err(lack) => lacks.push(lack),
        }
    }
    if !lacks.is_empty() {
        return Err(Refused::Racks(lacks));
    }
    let number = |at: usize| LegId(u16::try_from(at + 1).unwrap_or(u16::MAX));
    let leg = |(at, (drive, extents))| PlacedLeg { volume, leg: number(at), drive, extents };
    Ok(placed.into_iter().enumerate().map(leg).collect())
}

/// Another drive for a leg, under the number given, in the same rack and on no node that holds another leg of the volume there. It may take of
/// what is kept free.
pub fn replace(
    pool: &Pool,
    legs: &[PlacedLeg],
    old: (VolumeId, LegId),
    new: LegId,
) -> Result<PlacedLeg, Refused> {
    let (volume, leg) = old;
    let found = legs.iter().find(|found| (found.volume, found.leg) == old);
    let missing = Refused::NoSuchLeg(volume, leg);
    let Some((found, (home, _))) = found.and_then(|found| Some((found, pool.drive(found.drive)?))) else {
        return Err(missing);
    };
    let siblings = legs.iter().filter(|other| other.volume == volume && other.leg != leg);
    let taken: BTreeSet<NodeId> =
        siblings.filter_map(|other| pool.drive(other.drive)).map(|(node, _)| node.id).collect();
    let mut rooms = room::rooms(pool, legs);
    for room in &mut rooms {
        room.leave_out(found.drive);
    }
    let may = |room: &&Room<'_>| room.node.zone == home.zone && !taken.contains(&room.node.id);
    let rooms: Vec<&Room<'_>> = rooms.iter().filter(may).collect();
    let mut chosen = choose(pool, &home.zone, rooms, 1, found.slabs().max(1), Kept::Nothing)
        .map_err(|lack| Refused::Racks(vec![lack]))?;
    let (drive, extents) = chosen.pop().ok_or(missing)?;
    Ok(PlacedLeg { volume, leg: new, drive, extents })
}

/// Legs that make a two-way volume a four-way one: one more in each rack that it has one in, on another node, of so many slabs. They are numbered after `last`.
pub fn widen(
    pool: &Pool,
    legs: &[PlacedLeg],
    (volume, last): (VolumeId, LegId),
    slabs: u64,
) -> Result<Vec<PlacedLeg>, Refused> {
    let own = legs.iter().filter(|leg| leg.volume == volume);
    let taken: BTreeMap<NodeId, &ZoneName> =
        own.filter_map(|leg| pool.drive(leg.drive)).map(|(node, _)| (node.id, &node.zone)).collect();
    let zones: BTreeSet<&ZoneName> = taken.values().copied().collect();
    if zones.len() != 2 {
        return Err(Refused::NotTwoRacks(zones.len()));
    }
    let rooms = room::rooms(pool, legs);
    let (mut placed, mut lacks) = (Vec::new(), Vec::new());
    for zone in zones {
        let may = |room: &&Room<'_>| room.node.zone == *zone && !taken.contains_key(&room.node.id);
        match choose(pool, zone, rooms.iter().filter(may).collect(), 1, slabs.max(1), Kept::Reserve) {
            Ok(chosen) => placed.extend(chosen),
            Err(lack) => lacks.push(lack),
        }
    }
    if !lacks.is_empty() {
        return Err(Refused::Racks(lacks));
    }
    let number = |at: usize| LegId(last.0.saturating_add(u16::try_from(at + 1).unwrap_or(u16::MAX)));
    let leg = |(at, (drive, extents))| PlacedLeg { volume, leg: number(at), drive, extents };
    Ok(placed.into_iter().enumerate().map(leg).collect())
}

/// More slabs for a leg on the drive that it is on: of a thin volume that is written, or one that grows.
pub fn extend(
    pool: &Pool,
    legs: &[PlacedLeg],
    leg: (VolumeId, LegId),
    slabs: u64,
) -> Result<Vec<Extent>, Refused> {
    let missing = Refused::NoSuchLeg(leg.0, leg.1);
    let Some(found) = legs.iter().find(|found| (found.volume, found.leg) == leg) else { return Err(missing) };
    let rooms = room::rooms(pool, legs);
    let room = rooms.iter().find(|room| room.has(found.drive)).ok_or(missing)?;
    let free = room.free_on(found.drive).min(room.available());
    if free < slabs {
        let missing_bytes = (slabs - free).saturating_mul(pool.slab_bytes);
        return Err(Refused::Drive { drive: found.drive, missing_bytes });
    }
    Ok(room.take(found.drive, slabs))
}

/// What a placement leaves free.
#[derive(Clone, Copy)]
enum Kept {
    /// One drive's worth a node.
    Reserve,
    /// Nothing: this is what the reserve is for.
    Nothing,
}

/// So many nodes of a rack, the best first, and a drive and slabs on each.
fn choose(
    pool: &Pool,
    zone: &ZoneName,
    mut rooms: Vec<&Room<'_>>,
    legs: usize,
    needed: u64,
    kept: Kept,
) -> Result<Vec<(DriveId, Vec<Extent>)>, Lack> {
    let gives = |room: &Room<'_>| match kept {
        Kept::Reserve => room.available(),
        Kept::Nothing => room.free(),
    };
    rooms.retain(|room| room.total() > 0);
    if rooms.len() < legs {
        return Err(Lack::Nodes { zone: zone.clone(), nodes: rooms.len(), legs });
    }
    let lacks = |room: &&Room<'_>| {
        let best = room.best().map_or(0, |drive| room.free_on(drive));
        needed.saturating_sub(gives(room).min(best))
    };
    rooms.sort_by_key(|room| (lacks(room), std::cmp::Reverse(gives(room)), room.node.id));
    rooms.truncate(legs);
    let missing: u64 = rooms.iter().map(lacks).fold(0, u64::saturating_add);
    if missing > 0 {
        let bytes = |slabs: u64| slabs.saturating_mul(pool.slab_bytes);
        let (missing_bytes, leg_bytes) = (bytes(missing), bytes(needed));
        return Err(Lack::Bytes { zone: zone.clone(), missing_bytes, legs, leg_bytes });
    }
    let on = |room: &Room<'_>| room.best().map(|drive| (drive, room.take(drive, needed)));
    Ok(rooms.into_iter().filter_map(on).collect())
}
