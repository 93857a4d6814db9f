//! How much room a leg takes, and where on it everything is.
//!
//! ```text
//!  0        4096                                                     1 MiB × n
//!  │ header │ md's bitmap │ map table A │ map table B │  …  zeros  …  │ data …
//! ```
//! Purpose: [`Geometry`] computes it from the volume's room, size and chunk. The ledger gives out slabs by it, and what writes to drives goes by
//! it: it is the same everywhere, always.
//!
//! Invariants: offsets of md's bitmap and of the tables depend on room and chunk alone, so that all legs of a volume agree and a volume that grows
//! leaves them where they are; all lengths are whole blocks of 4096 bytes.
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

/// Room comes in pieces of so much, bytes: a page of md's bitmap has so many bits (4096 bytes, [`CHUNK_BYTES`] each), and a page is what md and we
/// read and write at least. So the room of a small volume costs nothing.
const ROOM_STEP_BYTES: u64 = BLOCK_BYTES * 8 * CHUNK_BYTES;

/// Above, offsets could overflow; nobody has such drives.
const ROOM_MAX_BYTES: u64 = 1 << 56;

/// What data is aligned to, bytes.
const DATA_ALIGN_BYTES: u64 = 1 << 20;

/// A volume can't have these sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a volume can't have {data_bytes} bytes in room for {room_bytes}, in chunks of {chunk_bytes}: whole blocks of {BLOCK_BYTES}, no more than its \
     room, and a power of two from 64 KiB"
)]
pub struct InvalidSizes {
    /// The volume's.
    pub data_bytes: u64,
    /// Its room's.
    pub room_bytes: u64,
    /// One bit's.
    pub chunk_bytes: u64,
}

/// A volume's sizes, which all its legs share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sizes {
    /// How much data legs have: what users see, of a thin volume what is mapped.
    pub data_bytes: u64,
    /// How large it can get: what its bitmaps, array and legs' devices are made for, once.
    pub room_bytes: u64,
    /// What one bit stands for.
    pub chunk_bytes: u64,
}

/// Where everything is on a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    sizes: Sizes,
}

impl Sizes {
    /// How large a volume can get that begins with this size, bytes: four times, up to the next whole page of its bitmap, which are 512 GiB.
    pub const fn room_of(data_bytes: u64) -> u64 {
        let wanted = data_bytes.saturating_mul(4).div_ceil(ROOM_STEP_BYTES);
        let room = wanted.saturating_mul(ROOM_STEP_BYTES);
        if room > ROOM_MAX_BYTES { ROOM_MAX_BYTES } else { room }
    }
}

impl Geometry {
    /// Where md's bitmap begins, bytes.
    pub const BITMAP_OFFSET_BYTES: u64 = BLOCK_BYTES;

    /// Of a volume with these sizes.
    ///
    /// # Errors
    /// Sizes that can't be.
    pub fn new(sizes: Sizes) -> Result<Self, InvalidSizes> {
        let Sizes { data_bytes, room_bytes, chunk_bytes } = sizes;
        let chunk_fits = chunk_bytes.is_power_of_two() && (64 << 10..=1 << 30).contains(&chunk_bytes);
        let whole = |bytes: u64| bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES);
        let data_fits = whole(data_bytes) && data_bytes <= room_bytes;
        if chunk_fits && data_fits && whole(room_bytes) && room_bytes <= ROOM_MAX_BYTES {
            Ok(Self { sizes })
        } else {
            Err(InvalidSizes { data_bytes, room_bytes, chunk_bytes })
        }
    }

    /// The volume's sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// How many bits a bitmap has: those of the room.
    pub fn chunks(&self) -> u64 {
        self.sizes.room_bytes.div_ceil(self.sizes.chunk_bytes)
    }

    /// How many of them, the first, stand for something that the volume has.
    pub fn used_chunks(&self) -> u64 {
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

    /// The whole leg with its room, bytes: how long its device is.
    pub fn leg_bytes(&self) -> u64 {
        self.data_offset_bytes() + self.sizes.room_bytes
    }

    /// What of it has to be on a drive, bytes, from its beginning: the rest is nowhere and reads as zeros.
    pub fn backed_bytes(&self) -> u64 {
        self.data_offset_bytes() + self.sizes.data_bytes
    }

    /// Where a chunk's data is on the leg, and how much it is, bytes.
    pub fn chunk(&self, chunk: u64) -> (u64, u64) {
        let from = chunk * self.sizes.chunk_bytes;
        let len = self.sizes.chunk_bytes.min(self.sizes.room_bytes.saturating_sub(from));
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
            let sizes = Sizes { data_bytes, room_bytes: data_bytes, chunk_bytes };
            assert!(Geometry::new(sizes).is_err(), "{data_bytes} {chunk_bytes}");
        }
        let sizes = Sizes { data_bytes: 8192, room_bytes: 4096, chunk_bytes: 1 << 20 };
        assert!(Geometry::new(sizes).is_err(), "more than its room");
    }

    #[test]
    fn room_costs_a_small_volume_nothing_and_lies_where_it_lay_when_it_has_grown() {
        let geometry = |data_bytes, room_bytes| {
            Geometry::new(Sizes { data_bytes, room_bytes, chunk_bytes: CHUNK_BYTES }).unwrap()
        };
        let small = geometry(128 << 20, Sizes::room_of(128 << 20));
        let bare = geometry(128 << 20, 128 << 20);
        assert_eq!(small.sizes().room_bytes, 512 << 30);
        assert_eq!(small.data_offset_bytes(), bare.data_offset_bytes());
        assert_eq!(small.bitmap_bytes(), bare.bitmap_bytes());
        assert_eq!((small.used_chunks(), small.backed_bytes()), (8, bare.leg_bytes()));
        let grown = geometry(512 << 30, small.sizes().room_bytes);
        assert_eq!(grown.data_offset_bytes(), small.data_offset_bytes());
        assert_eq!(Sizes::room_of(10 << 40), 40 << 40);
        assert_eq!(Sizes::room_of(u64::MAX), ROOM_MAX_BYTES);
    }
}
