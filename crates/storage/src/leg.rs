//! What stands on a leg: its own header, md's bitmap, the maps of what stale legs have missed, and the data.
//!
//! Purpose: `model`'s [`Geometry`] says where everything is; [`LegHeader`] says whose leg it is and with which geometry. It is written last
//! when a leg is made: all zeros, then the header.
//!
//! Invariants: the header never changes while a leg is given out.
//!
//! On failure: [`LegError`].

use crate::bitmap::Bitmap;
use crate::checksum::{self, CHECKSUM_BYTES, Reader};
use crate::header::ClusterId;
use control::target::LegOf;
pub use model::{BLOCK_BYTES, Geometry, InvalidSizes, MAPS_MAX, Sizes};
use model::{LegId, VolumeId};

const MAGIC: &[u8; 8] = b"TWINLEG\0";
const VERSION: u32 = 1;

/// A leg's sizes can't be, or its header is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LegError {
    /// No such size.
    #[error(transparent)]
    Sizes(#[from] InvalidSizes),
    /// There is none: the leg was never made, or was being made.
    #[error("the leg has no header")]
    NoHeader,
    /// It is damaged.
    #[error("the leg's header is damaged")]
    Damaged,
    /// Written by a later twinrack.
    #[error("the leg's header has version {0}; this twinrack reads version {VERSION}")]
    Version(u32),
    /// Another's.
    #[error("this is {}/{} of cluster {}", found.leg.0, found.leg.1, found.cluster)]
    Other {
        /// What it says.
        found: LegHeader,
    },
}

/// A bitmap with its whole blocks, as it is written to a leg.
pub fn padded(geometry: &Geometry, bitmap: &Bitmap) -> Vec<u8> {
    let mut bytes = bitmap.as_bytes().to_vec();
    bytes.resize(usize::try_from(geometry.bitmap_bytes()).unwrap_or(usize::MAX), 0);
    bytes
}

/// All that the volume has, marked: what is said where nothing can be read. What is only room is nowhere, and equal on all legs.
pub fn everything(geometry: &Geometry) -> Bitmap {
    Bitmap::first(geometry.chunks(), geometry.used_chunks())
}

/// Whose leg it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LegHeader {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Which.
    pub leg: LegOf,
    /// With room for so much: its size may have grown since.
    pub room_bytes: u64,
    /// In chunks of this.
    pub chunk_bytes: u64,
}

impl LegHeader {
    /// Of a leg of a volume with these sizes.
    pub fn new(cluster: ClusterId, leg: LegOf, sizes: Sizes) -> Self {
        let Sizes { room_bytes, chunk_bytes, .. } = sizes;
        Self { cluster, leg, room_bytes, chunk_bytes }
    }

    /// As it stands on the leg.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.cluster.0.to_le_bytes());
        bytes.extend_from_slice(&self.leg.0.0.to_le_bytes());
        bytes.extend_from_slice(&self.leg.1.0.to_le_bytes());
        bytes.extend_from_slice(&self.room_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        bytes.resize(usize::try_from(BLOCK_BYTES).unwrap_or(0) - CHECKSUM_BYTES, 0);
        bytes.extend_from_slice(&checksum::of(&bytes));
        bytes
    }

    /// Read back.
    pub fn decode(bytes: &[u8]) -> Result<Self, LegError> {
        let block = usize::try_from(BLOCK_BYTES).unwrap_or(0);
        let bytes = bytes.get(..block).ok_or(LegError::NoHeader)?;
        let (covered, sum) = bytes.split_at(block - CHECKSUM_BYTES);
        let mut reader = Reader(covered);
        if reader.bytes(MAGIC.len()) != Some(MAGIC) {
            return Err(LegError::NoHeader);
        }
        if checksum::of(covered) != sum {
            return Err(LegError::Damaged);
        }
        let version = reader.u32().ok_or(LegError::Damaged)?;
        if version != VERSION {
            return Err(LegError::Version(version));
        }
        let mut fields =
            || Some((reader.u128()?, reader.u32()?, reader.u16()?, reader.u64()?, reader.u64()?));
        let (cluster, volume, leg, room_bytes, chunk_bytes) = fields().ok_or(LegError::Damaged)?;
        let sizes = Sizes { data_bytes: room_bytes, room_bytes, chunk_bytes };
        Geometry::new(sizes)?;
        Ok(Self::new(ClusterId(cluster), (VolumeId(volume), LegId(leg)), sizes))
    }

    /// Whether a leg with this beginning, which the ledger calls new, is made. `Ok(false)`: it has to be.
    pub fn is_made(&self, beginning: &[u8]) -> Result<bool, LegError> {
        match Self::decode(beginning) {
            Ok(found) if found == *self => Ok(true),
            // What is there is an earlier leg's, whose slabs have come back.
            Ok(found) if found.leg != self.leg || found.cluster != self.cluster => Ok(false),
            Ok(found) => Err(LegError::Other { found }),
            Err(LegError::NoHeader | LegError::Damaged) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZES: Sizes = Sizes { data_bytes: 64 << 20, room_bytes: 64 << 20, chunk_bytes: 1 << 20 };

    fn header() -> LegHeader {
        LegHeader::new(ClusterId(5), (VolumeId(3), LegId(2)), SIZES)
    }

    proptest! {
        #[test]
        fn nothing_on_a_leg_overlaps(blocks in 1u64..1 << 34, chunk in 16u32..=30) {
            let bytes = blocks * BLOCK_BYTES;
            let sizes = Sizes { data_bytes: bytes, room_bytes: bytes, chunk_bytes: 1 << chunk };
            let geometry = Geometry::new(sizes).unwrap();
            let [first, second] = geometry.table_offsets_bytes();
            prop_assert!(Geometry::BITMAP_OFFSET_BYTES + geometry.chunks().div_ceil(8) <= first);
            prop_assert!(first + geometry.table_bytes() <= second);
            prop_assert!(second + geometry.table_bytes() <= geometry.data_offset_bytes());
            let (from, len) = geometry.chunk(geometry.chunks() - 1);
            prop_assert_eq!(from + len, geometry.leg_bytes());
            for place in [first, second, geometry.data_offset_bytes(), geometry.leg_bytes()] {
                prop_assert!(place.is_multiple_of(BLOCK_BYTES));
            }
        }

        #[test]
        fn no_bytes_panic_the_reader(mut bytes in proptest::collection::vec(any::<u8>(), 0..5000), whole: bool) {
            if whole && bytes.len() >= 4096 {
                bytes[..8].copy_from_slice(MAGIC);
                let sum = checksum::of(&bytes[..4096 - CHECKSUM_BYTES]);
                bytes[4096 - CHECKSUM_BYTES..4096].copy_from_slice(&sum);
            }
            let _ = LegHeader::decode(&bytes);
        }

        #[test]
        fn no_bit_can_fall_over_unseen(at in 0usize..4096 * 8) {
            let mut bytes = header().encode();
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(LegHeader::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_leg_is_made_once() {
        assert_eq!(LegHeader::decode(&header().encode()), Ok(header()));
        assert_eq!(header().is_made(&header().encode()), Ok(true));
        assert_eq!(header().is_made(&[0; 4096]), Ok(false));
        let earlier = LegHeader { leg: (VolumeId(2), LegId(2)), ..header() };
        assert_eq!(header().is_made(&earlier.encode()), Ok(false));
        let resized = LegHeader { room_bytes: 4096, ..header() };
        assert_eq!(header().is_made(&resized.encode()), Err(LegError::Other { found: resized }));
    }
}
