//! Thin volumes: what users see has a place in the array only once they have written there.
//!
//! A write to an extent without a place waits before md (the gap's queue), and the agent is told of it; reads of it are zeros, and nobody here reads. What has
//! a place goes to the array's block there. The judge goes by users' blocks, and finds them on legs through the ledger's table.

use super::grow::{FIRST_BLOCKS, blocks_of};
use super::md::Write;
use super::{BLOCKS, CHUNK, World, volume_id};
use control::owner;
use control::state::Volume;
use model::{Provision, SLAB_BYTES};
use std::collections::BTreeSet;

/// Where an extent, or a place, begins.
fn begin(extent: u64) -> usize {
    let before = usize::try_from(extent).unwrap_or(BLOCKS).min(BLOCKS);
    if before == 0 { 0 } else { (FIRST_BLOCKS + (before - 1) * CHUNK).min(BLOCKS) }
}

/// The extent of a user's block.
pub(super) fn extent_of(block: usize) -> u64 {
    block.checked_sub(FIRST_BLOCKS).map_or(0, |behind| 1 + (behind / CHUNK) as u64)
}

/// How many blocks users see of a volume of this size.
pub(super) fn user_blocks_of(provision: Provision, size_bytes: u64) -> usize {
    match provision {
        Provision::Fixed => blocks_of(size_bytes),
        Provision::Thin => begin(size_bytes.div_ceil(SLAB_BYTES)),
    }
}

/// How many blocks a volume's array has.
pub(super) fn array_blocks(volume: &Volume) -> usize {
    match volume.provision {
        Provision::Fixed => blocks_of(volume.size_bytes),
        Provision::Thin => begin(volume.mapped.count()),
    }
}

/// How many it has, or is to have.
pub(super) fn array_blocks_to_be(volume: &Volume) -> usize {
    match volume.provision {
        Provision::Fixed => blocks_of(volume.size_to_be()),
        Provision::Thin => begin(volume.mapped.count() + volume.mapping.len() as u64),
    }
}

/// Where a user's block is in as much of the array; `None`: nowhere.
pub(super) fn place(volume: &Volume, array_bytes: u64, block: usize) -> Option<usize> {
    match volume.provision {
        Provision::Fixed => (block < blocks_of(array_bytes)).then_some(block),
        Provision::Thin => {
            let extent = extent_of(block);
            let place = volume.mapped.first(array_bytes).place_of(extent)?;
            Some(begin(place) + (block - begin(extent)))
        }
    }
}

impl World {
    /// A user's write is given to md, if it has a place.
    pub(super) fn route(&mut self, machine: usize, volume: usize, mut write: Write) {
        let ledger = self.sees(machine);
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let Some(array) = self.array(machine, volume) else { return };
        if let Some(block) = place(found, array.reach.array_bytes, write.user.into()) {
            write.block = block as u8;
            array.writes.push(write);
        } else {
            array.unmapped.push(write);
            self.say_unmapped(machine, volume);
        }
    }

    /// Users have more of the array: what waited for that goes on.
    pub(super) fn find_places(&mut self, machine: usize, volume: usize) {
        let Some(array) = self.array(machine, volume) else { return };
        let waited = std::mem::take(&mut array.unmapped);
        for write in waited {
            self.route(machine, volume, write);
        }
        self.say_unmapped(machine, volume);
    }

    /// What an agent finds in the gap: again and again, since it may be another than the one that was told.
    pub(super) fn say_unmapped(&mut self, machine: usize, volume: usize) {
        let Some(array) = self.array(machine, volume) else { return };
        let extents: BTreeSet<u64> =
            array.unmapped.iter().map(|write| extent_of(write.user.into())).collect();
        self.tell_owner(machine, volume, owner::Event::Unmapped(extents));
    }

    /// Whether a block of a volume can have no place any more: a quorum was forced, and what was mapped then is not known.
    pub(super) fn is_lost_to_users(&self, machine: usize, volume: usize, block: usize) -> bool {
        let ledger = self.sees(machine);
        let found = ledger.volumes.get(&volume_id(volume));
        found.is_some_and(|found| found.forced && place(found, found.array_bytes(), block).is_none())
    }
}
