//! What is free on a node, slab by slab.

use model::{DriveId, Extent, PlacedLeg, Pool, PoolNode};
use std::collections::BTreeMap;

/// A node and the free slabs of its usable drives.
pub(crate) struct Room<'a> {
    pub(crate) node: &'a PoolNode,
    drives: BTreeMap<DriveId, Space>,
}

struct Space {
    total: u64,
    free: Vec<Extent>,
}

impl Space {
    fn free(&self) -> u64 {
        self.free.iter().map(|extent| extent.count).sum()
    }
}

/// Of every node, in ascending order.
pub(crate) fn rooms<'a>(pool: &'a Pool, legs: &[PlacedLeg]) -> Vec<Room<'a>> {
    let mut rooms: Vec<Room<'a>> = pool.nodes.iter().map(|node| room(pool, node, legs)).collect();
    rooms.sort_by_key(|room| room.node.id);
    rooms
}

fn room<'a>(pool: &Pool, node: &'a PoolNode, legs: &[PlacedLeg]) -> Room<'a> {
    let usable = node.drives.iter().filter(|drive| drive.usable);
    let space = |drive: &model::PoolDrive| {
        let total = pool.slabs(drive);
        let on_it = legs.iter().filter(|leg| leg.drive == drive.id);
        let taken = on_it.flat_map(|leg| &leg.extents).chain(&drive.leaving);
        (drive.id, Space { total, free: gaps(total, taken) })
    };
    Room { node, drives: usable.map(space).collect() }
}

/// What is between the extents, up to a number of slabs.
fn gaps<'a>(total: u64, taken: impl Iterator<Item = &'a Extent>) -> Vec<Extent> {
    let mut taken: Vec<Extent> = taken.copied().collect();
    taken.sort_unstable();
    let (mut free, mut next) = (Vec::new(), 0);
    for extent in taken.into_iter().chain([Extent { first: total, count: 0 }]) {
        let until = extent.first.min(total);
        if until > next {
            free.push(Extent { first: next, count: until - next });
        }
        next = next.max(extent.end());
    }
    free
}

impl Room<'_> {
    pub(crate) fn has(&self, drive: DriveId) -> bool {
        self.drives.contains_key(&drive)
    }

    pub(crate) fn leave_out(&mut self, drive: DriveId) {
        self.drives.remove(&drive);
    }

    /// Its usable drives, in ascending order.
    pub(crate) fn drives(&self) -> impl Iterator<Item = DriveId> {
        self.drives.keys().copied()
    }

    /// Slabs of its drives.
    pub(crate) fn total(&self) -> u64 {
        self.drives.values().map(|space| space.total).sum()
    }

    /// Those that no leg holds, and none that is leaving.
    pub(crate) fn free(&self) -> u64 {
        self.drives.values().map(Space::free).sum()
    }

    pub(crate) fn free_on(&self, drive: DriveId) -> u64 {
        self.drives.get(&drive).map_or(0, Space::free)
    }

    /// One drive's worth, if there is another to rebuild on.
    pub(crate) fn reserve(&self) -> u64 {
        let largest = self.drives.values().map(|space| space.total).max().unwrap_or(0);
        if self.drives.len() > 1 { largest } else { 0 }
    }

    /// What new legs may take.
    pub(crate) fn available(&self) -> u64 {
        self.free().saturating_sub(self.reserve())
    }

    /// The drive with most free slabs; of equals the lowest id.
    pub(crate) fn best(&self) -> Option<DriveId> {
        let best = self.drives.iter().max_by_key(|(id, space)| (space.free(), std::cmp::Reverse(**id)));
        best.map(|(id, _)| *id)
    }

    /// The first free slabs of a drive: so many, or all there are.
    pub(crate) fn take(&self, drive: DriveId, mut slabs: u64) -> Vec<Extent> {
        let mut taken = Vec::new();
        for extent in self.drives.get(&drive).into_iter().flat_map(|space| &space.free) {
            let count = extent.count.min(slabs);
            if count > 0 {
                taken.push(Extent { count, ..*extent });
            }
            slabs -= count;
        }
        taken
    }
}
