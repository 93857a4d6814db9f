//! The slab map: which slabs of a drive belong to which leg.
//!
//! ```text
//!   free ──► a leg's ──► leaving ──► free
//!     created,    removed,     its target has
//!     moved,      deleted      fenced it
//!     grown, mapped
//! ```
//! Purpose: slabs are given out here, in the commit that makes a leg, so that no two planners can give the same ones. Whoever plans names
//! drives; which slabs of them follows from the ledger alone.
//!
//! Invariants ([`crate::check`]): no slab belongs to two legs, a leg that is leaving counted as one. A leg's slabs keep their order. A slab never goes
//! from one leg to another in one step: a leg that the ledger has dropped may still be given out, or written by an owner that has not heard of it. Its slabs
//! are leaving until its target says that the barrier is through ([`crate::command::ClusterCommand::Freed`]). The target never gives it out
//! again, whatever it forgets, because the ledger no longer wants that; so this needs no run and can't be undone by a restart.
//! New legs leave on each node what its largest drive needs to be rebuilt.
//!
//! On failure: [`Rejected`], and nothing has changed.

use crate::command::Rejected;
use crate::state::{Drive, Leg, State, Volume};
use model::{
    CHUNK_BYTES, DriveId, Extent, Geometry, LegId, NodeId, PlacedLeg, Pool, PoolDrive, PoolNode, Provision,
    SLAB_BYTES, SLABS_OFFSET_BYTES, Sizes, VolumeSize,
};
use std::collections::BTreeMap;

impl State {
    /// The pool in placement's words. A node that never registered has no drive that something may be put on.
    pub fn pool(&self) -> Pool {
        let drive = |id: &DriveId, drive: &Drive, there: bool| PoolDrive {
            id: *id,
            size_bytes: drive.size_bytes,
            usable: there && !drive.retired,
            leaving: drive.leaving.iter().flat_map(|leaving| leaving.extents.iter().copied()).collect(),
        };
        let nodes = self.nodes.iter().filter_map(|(id, node)| {
            let own = self.drives.iter().filter(|(_, drive)| drive.node == *id);
            let drives: Vec<_> = own.map(|(id, found)| drive(id, found, node.boot.is_some())).collect();
            let zone = node.zone.clone()?;
            (!drives.is_empty()).then_some(PoolNode { id: *id, zone, drives })
        });
        pool_of(nodes.collect())
    }

    /// Every leg and what it holds.
    pub fn placed(&self) -> Vec<PlacedLeg> {
        let of = |(volume, found): (&_, &Volume)| {
            let legs = found.legs.clone().into_iter();
            let volume = *volume;
            legs.map(move |(leg, found)| PlacedLeg {
                volume,
                leg,
                drive: found.drive,
                extents: found.extents,
            })
        };
        self.volumes.iter().flat_map(of).collect()
    }

    /// What is held of a drive: by legs, and by those that are leaving.
    pub(crate) fn held(&self, drive: DriveId) -> Vec<Extent> {
        let legs = self.volumes.values().flat_map(|volume| volume.legs.values());
        let own = legs.filter(|leg| leg.drive == drive).flat_map(|leg| &leg.extents);
        let leaving = self.drives.get(&drive).into_iter().flat_map(|drive| &drive.leaving);
        let mut held: Vec<Extent> =
            own.chain(leaving.flat_map(|leaving| &leaving.extents)).copied().collect();
        held.sort_unstable();
        held
    }

    /// The first free slabs of a drive.
    pub(crate) fn allocate(&self, drive: DriveId, wanted: u64) -> Result<Vec<Extent>, Rejected> {
        let found = self.drives.get(&drive).ok_or(Rejected::NoSuchDrive(drive))?;
        let end = Extent { first: slabs(found), count: 0 };
        let (mut taken, mut next, mut more) = (Vec::new(), 0, wanted);
        for held in self.held(drive).into_iter().chain([end]) {
            let count = held.first.saturating_sub(next).min(more);
            if count > 0 {
                taken.push(Extent { first: next, count });
            }
            more -= count;
            next = next.max(held.end());
        }
        if more == 0 { Ok(taken) } else { Err(Rejected::NoRoom { drive, missing_slabs: more }) }
    }

    /// The slabs that each leg of a volume lacks of what an array of this size takes: free ones of the drive that it is on, and not of what is kept free.
    /// A thin volume's leg that is on a retired drive still, since there is nowhere for it to go, takes what is free there: its users would wait for an operator.
    pub(crate) fn slabs_for(
        &self,
        volume: &Volume,
        array_bytes: u64,
    ) -> Result<Vec<(LegId, Vec<Extent>)>, Rejected> {
        let slabs = needed(volume, array_bytes);
        let more = |leg: &Leg| slabs.saturating_sub(leg.slabs());
        let retired = |leg: &Leg| self.drives.get(&leg.drive).is_some_and(|drive| drive.retired);
        let stays = |leg: &&Leg| volume.provision == Provision::Thin && retired(leg);
        let legs = volume.legs.values().filter(|leg| !stays(leg));
        self.keeps_reserve(legs.map(|leg| (leg.drive, more(leg))))?;
        let of = |(id, leg): (&LegId, &Leg)| Ok((*id, self.allocate(leg.drive, more(leg))?));
        volume.legs.iter().map(of).collect()
    }

    /// New legs of so many slabs on these drives leave each node its reserve: the slabs of its largest drive that takes something, if it has another.
    pub(crate) fn keeps_reserve(&self, drives: impl Iterator<Item = (DriveId, u64)>) -> Result<(), Rejected> {
        let mut wanted: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (drive, slabs) in drives {
            let found = self.drives.get(&drive).ok_or(Rejected::NoSuchDrive(drive))?;
            let on_node = wanted.entry(found.node).or_default();
            *on_node = on_node.saturating_add(slabs);
        }
        for (node, wanted) in wanted.into_iter().filter(|(_, wanted)| *wanted > 0) {
            let own = || self.drives.iter().filter(|(_, drive)| drive.node == node && !drive.retired);
            let largest = own().map(|(_, drive)| slabs(drive)).max().unwrap_or(0);
            let reserve = if own().count() > 1 { largest } else { 0 };
            let held = |drive| self.held(drive).iter().map(|extent| extent.count).sum::<u64>();
            let free: u64 = own().map(|(id, drive)| slabs(drive).saturating_sub(held(*id))).sum();
            let missing_slabs = wanted.saturating_add(reserve).saturating_sub(free);
            if missing_slabs > 0 {
                return Err(Rejected::Reserve { node, missing_slabs });
            }
        }
        Ok(())
    }
}

impl Volume {
    /// Its size, in placement's words.
    pub fn size(&self) -> VolumeSize {
        VolumeSize {
            mirror: self.mirror,
            provision: self.provision,
            size_bytes: self.size_bytes,
            array_bytes: self.array_bytes(),
            room_bytes: self.room_bytes,
        }
    }
}

/// How many slabs a drive has.
pub(crate) fn slabs(drive: &Drive) -> u64 {
    drive.size_bytes.saturating_sub(SLABS_OFFSET_BYTES) / SLAB_BYTES
}

/// How many slabs a leg of such a volume is given, if there can be one of its size.
pub(crate) fn slabs_of(size: VolumeSize) -> Result<u64, Rejected> {
    let sizes = Sizes { data_bytes: size.size_bytes, room_bytes: size.room_bytes, chunk_bytes: CHUNK_BYTES };
    Geometry::new(sizes).map_err(|_| Rejected::Size { size_bytes: size.size_bytes })?;
    Ok(pool_of(Vec::new()).slabs_of(size))
}

/// How many slabs a leg of a volume needs when its array has this size.
pub(crate) fn needed(volume: &Volume, array_bytes: u64) -> u64 {
    pool_of(Vec::new()).slabs_of(VolumeSize { array_bytes, ..volume.size() })
}

fn pool_of(nodes: Vec<PoolNode>) -> Pool {
    Pool { slab_bytes: SLAB_BYTES, header_bytes: SLABS_OFFSET_BYTES, chunk_bytes: CHUNK_BYTES, nodes }
}

/// More slabs for a leg, behind those that it has.
pub(crate) fn append(extents: &mut Vec<Extent>, more: Vec<Extent>) {
    for extent in more {
        match extents.last_mut() {
            Some(last) if last.end() == extent.first => last.count += extent.count,
            _ => extents.push(extent),
        }
    }
}
