//! The pool as placement sees it: nodes with drives, drives cut into slabs, legs that hold some of them.

use crate::{
    BLOCK_BYTES, DriveId, Geometry, LegId, Mirror, NodeId, Provision, SLAB_BYTES, Sizes, VolumeId, ZoneName,
};
use serde::{Deserialize, Serialize};

/// All drives of all nodes, and how they are cut up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The allocation unit, bytes; greater than 0.
    pub slab_bytes: u64,
    /// What a drive's own header takes from its beginning, bytes.
    pub header_bytes: u64,
    /// What one bit of a leg's bitmap stands for, bytes: what a leg needs beside its data follows from it ([`Geometry`]).
    pub chunk_bytes: u64,
    /// The nodes that have drives; the witness is none of them.
    pub nodes: Vec<PoolNode>,
}

/// A node with its drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolNode {
    /// Which.
    pub id: NodeId,
    /// Its rack.
    pub zone: ZoneName,
    /// Its drives.
    pub drives: Vec<PoolDrive>,
}

/// A drive of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDrive {
    /// Which.
    pub id: DriveId,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Whether something new may be put on it: it is there, and is not retired.
    pub usable: bool,
    /// Slabs of legs that are gone, which their target has not let go of yet: nobody's, and not free.
    pub leaving: Vec<Extent>,
}

/// How large a volume is, and how often it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeSize {
    /// How many copies.
    pub mirror: Mirror,
    /// When its space is given out.
    pub provision: Provision,
    /// What its users see, bytes.
    pub size_bytes: u64,
    /// What of it every leg has slabs for, bytes: all of a fixed volume, what is mapped of a thin one.
    pub array_bytes: u64,
    /// How large it can get, bytes: what its metadata is made for.
    pub room_bytes: u64,
}

impl VolumeSize {
    /// Of a volume that begins with this size.
    pub const fn new(mirror: Mirror, provision: Provision, size_bytes: u64) -> Self {
        let array_bytes = match provision {
            Provision::Fixed => size_bytes,
            Provision::Thin => SLAB_BYTES,
        };
        Self { mirror, provision, size_bytes, array_bytes, room_bytes: Sizes::room_of(size_bytes) }
    }
}

/// Slabs of a drive in a row, or extents of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// The first, counted from 0: after the drive's header, or from the volume's beginning.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// A leg and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedLeg {
    /// Of which volume.
    pub volume: VolumeId,
    /// Which.
    pub leg: LegId,
    /// On which drive.
    pub drive: DriveId,
    /// Its slabs: ascending, disjoint.
    pub extents: Vec<Extent>,
}

impl Pool {
    /// How many slabs a drive has.
    pub fn slabs(&self, drive: &PoolDrive) -> u64 {
        drive.size_bytes.saturating_sub(self.header_bytes).checked_div(self.slab_bytes).unwrap_or(0)
    }

    /// How many slabs a leg has: for its metadata (header, bitmap, maps), and for its data or what is mapped of it. What no volume can have takes
    /// more than there are.
    pub fn slabs_of(&self, size: VolumeSize) -> u64 {
        let whole = size.array_bytes.clamp(1, 1 << 60).next_multiple_of(BLOCK_BYTES);
        let sizes = Sizes { data_bytes: whole, room_bytes: size.room_bytes, chunk_bytes: self.chunk_bytes };
        let Ok(geometry) = Geometry::new(sizes) else {
            return u64::MAX;
        };
        geometry.backed_bytes().div_ceil(self.slab_bytes.max(1))
    }

    /// A drive and the node that it is in.
    pub fn drive(&self, id: DriveId) -> Option<(&PoolNode, &PoolDrive)> {
        let find = |node: &'_ PoolNode| node.drives.iter().position(|drive| drive.id == id);
        self.nodes.iter().find_map(|node| find(node).map(|at| (node, &node.drives[at])))
    }
}

impl PlacedLeg {
    /// How many slabs it holds.
    pub fn slabs(&self) -> u64 {
        self.extents.iter().map(|extent| extent.count).sum()
    }
}

impl Extent {
    /// The slab after the last.
    pub const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}
