//! How much room a leg takes, and where on it everything is.
//!
//! ```text
//!  0        4096                                                     1 MiB × n
//!  │ header │ md's bitmap │ map table A │ map table B │  …  zeros  …  │ data …
//! ```
//! Purpose: [`Geometry`] computes it from the volume's size and chunk. The ledger gives out slabs by it, and what writes to drives goes by
//! it: it is the same everywhere, always.
//!
//! Invariants: offsets of md's bitmap and of the tables depend on size and chunk alone, so that all legs of a volume agree; all lengths
//! are whole blocks of 4096 bytes.
//!
//! On failure: [`InvalidSizes`].

use serde::{Deserialize, Serialize};

/// What is read and written at once, bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// How many stale legs a table has room for: a four-way mirror with each leg being replaced, less the one in sync.
pub const MAPS_MAX: u64 = 7;

/// Where slabs begin, bytes from the drive's start: what is before is the drive's own header.
pub const SLABS_OFFSET_BYTES: u64 = 1 << 20;

/// What drives are cut to, bytes: a drive of 8 TB has some 120,000. The ledger counts in them and drives' headers name it: another number
/// is another format of both.
pub const SLAB_BYTES: u64 = 64 << 20;

/// What one bit of a bitmap stands for, bytes: a warm bitmap of such chunks cost least (design notes, "Costs"). A leg's room depends on
/// it: another number is another format.
pub const CHUNK_BYTES: u64 = 16 << 20;

/// What data is aligned to, bytes.
const DATA_ALIGN_BYTES: u64 = 1 << 20;

/// A volume can't have these sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a volume can't have {data_bytes} bytes in chunks of {chunk_bytes}: whole blocks of {BLOCK_BYTES}, and a power of two from 64 KiB"
)]
pub struct InvalidSizes {
    /// The volume's.
    pub data_bytes: u64,
    /// One bit's.
    pub chunk_bytes: u64,
}

/// A volume's sizes, which all its legs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sizes {
    /// What users see.
    pub data_bytes: u64,
    /// What one bit stands for.
    pub chunk_bytes: u64,
}

/// Where everything is on a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    sizes: Sizes,
}

impl Geometry {
    /// Where md's bitmap begins, bytes.
    pub const BITMAP_OFFSET_BYTES: u64 = BLOCK_BYTES;

    /// Of a volume with these sizes.
    ///
    /// # Errors
    /// Sizes that can't be.
    pub fn new(sizes: Sizes) -> Result<Self, InvalidSizes> {
        let Sizes { data_bytes, chunk_bytes } = sizes;
        let chunk_fits = chunk_bytes.is_power_of_two() && (64 << 10..=1 << 30).contains(&chunk_bytes);
        // Above, offsets could overflow; nobody has such drives.
        let data_fits = data_bytes > 0 && data_bytes.is_multiple_of(BLOCK_BYTES) && data_bytes <= 1 << 56;
        if chunk_fits && data_fits {
            Ok(Self { sizes })
        } else {
            Err(InvalidSizes { data_bytes, chunk_bytes })
        }
    }

    /// The volume's sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// How many bits a bitmap has.
    pub fn chunks(&self) -> u64 {
        self.sizes.data_bytes.div_ceil(self.sizes.chunk_bytes)
    }

    /// How much room a bitmap has, whole blocks, bytes.
    pub fn bitmap_bytes(&self) -> u64 {
        self.chunks().div_ceil(8).next_multiple_of(BLOCK_BYTES)
    }

    /// How much room a map table has, bytes.
    pub fn table_bytes(&self) -> u64 {
        BLOCK_BYTES + MAPS_MAX * self.bitmap_bytes()
    }

    /// Where the two map tables begin, bytes.
    pub fn table_offsets_bytes(&self) -> [u64; 2] {
        let first = Self::BITMAP_OFFSET_BYTES + self.bitmap_bytes();
        [first, first + self.table_bytes()]
    }

    /// Where the data begins, bytes.
    pub fn data_offset_bytes(&self) -> u64 {
        let [_, second] = self.table_offsets_bytes();
        (second + self.table_bytes()).next_multiple_of(DATA_ALIGN_BYTES)
    }

    /// The whole leg, bytes.
    pub fn leg_bytes(&self) -> u64 {
        self.data_offset_bytes() + self.sizes.data_bytes
    }

    /// Where a chunk's data is on the leg, and how much it is, bytes.
    pub fn chunk(&self, chunk: u64) -> (u64, u64) {
        let from = chunk * self.sizes.chunk_bytes;
        let len = self.sizes.chunk_bytes.min(self.sizes.data_bytes.saturating_sub(from));
        (self.data_offset_bytes() + from, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_be_are_errors() {
        for (data_bytes, chunk_bytes) in
            [(0, 1 << 20), (4097, 1 << 20), (4096, 3 << 20), (4096, 4096), (u64::MAX - 4095, 1 << 20)]
        {
            assert!(Geometry::new(Sizes { data_bytes, chunk_bytes }).is_err(), "{data_bytes} {chunk_bytes}");
        }
    }
}
