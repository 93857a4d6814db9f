//! What is written: blocks that say what they are.
//!
//! A block is eight sectors of 512 bytes, the unit that a drive writes whole. Each says on its own which write of which block it
//! belongs to, so that a block that was written in part shows as one. Little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `twrkload` |
//! | 8 | 4 | run |
//! | 12 | 4 | block number |
//! | 16 | 8 | sequence |
//! | 24 | 4 | sector, from 0 |
//! | 28 | 4 | CRC-32 (IEEE 802.3) of the other 508 bytes |
//! | 32 | 480 | bytes that follow from the above |
//!
//! On failure: what is no sector of ours, or not whole, is [`Content::Foreign`], never a version.

use crate::{BLOCK_BYTES, BlockNumber, Version};

const SECTOR_BYTES: usize = 512;
const MAGIC: [u8; 8] = *b"twrkload";
const HEADER_BYTES: usize = 32;
const CRC: std::ops::Range<usize> = 28..32;

/// What is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeros: it was never written.
    Empty,
    /// One write, whole.
    Whole(Version),
    /// Sectors of several writes, or of one and nothing: the least and the greatest.
    Torn(Option<Version>, Version),
    /// A whole write of another block.
    Elsewhere(BlockNumber, Version),
    /// Something that was never written by a writer, or that changed since.
    Foreign,
}

/// A block as it is written.
pub fn encode(number: BlockNumber, version: Version) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    for (at, sector) in (0u32..).zip(block.chunks_exact_mut(SECTOR_BYTES)) {
        sector[..8].copy_from_slice(&MAGIC);
        sector[8..12].copy_from_slice(&version.run.to_le_bytes());
        sector[12..16].copy_from_slice(&number.to_le_bytes());
        sector[16..24].copy_from_slice(&version.sequence.to_le_bytes());
        sector[24..28].copy_from_slice(&at.to_le_bytes());
        // No two writes look alike, so that nothing is saved by leaving one out.
        let mut word =
            version.sequence ^ u64::from(at).rotate_left(32) ^ u64::from(version.run).rotate_left(48);
        for bytes in sector[HEADER_BYTES..].chunks_exact_mut(8) {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let sum = sum_of(sector);
        sector[CRC].copy_from_slice(&sum.to_le_bytes());
    }
    block
}

/// What is in a block that was read at a place.
pub fn decode(number: BlockNumber, block: &[u8; BLOCK_BYTES]) -> Content {
    let mut written: Vec<(BlockNumber, Version)> = Vec::new();
    for (at, sector) in (0u32..).zip(block.chunks_exact(SECTOR_BYTES)) {
        match read(at, sector) {
            Sector::Empty => {}
            Sector::Written(place, version) => written.push((place, version)),
            Sector::Foreign => return Content::Foreign,
        }
    }
    let (Some(first), Some(last)) = (written.iter().min_by_key(|w| w.1), written.iter().max_by_key(|w| w.1))
    else {
        return Content::Empty;
    };
    let complete = written.len() == BLOCK_BYTES / SECTOR_BYTES;
    let one_place = written.iter().all(|(place, _)| *place == first.0);
    if !one_place {
        return Content::Foreign;
    }
    match (complete && first.1 == last.1, first.0 == number) {
        (true, true) => Content::Whole(last.1),
        (true, false) => Content::Elsewhere(first.0, last.1),
        (false, true) => Content::Torn(complete.then_some(first.1), last.1),
        (false, false) => Content::Foreign,
    }
}

/// What one sector is.
enum Sector {
    Empty,
    Written(BlockNumber, Version),
    Foreign,
}

fn read(at: u32, sector: &[u8]) -> Sector {
    if sector.iter().all(|byte| *byte == 0) {
        return Sector::Empty;
    }
    let word = |from: usize| {
        sector.get(from..from + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let sequence = u64::from(word(16)) | u64::from(word(20)) << 32;
    if sector.starts_with(&MAGIC) && word(24) == at && word(CRC.start) == sum_of(sector) {
        Sector::Written(word(12), Version { run: word(8), sequence })
    } else {
        Sector::Foreign
    }
}

fn sum_of(sector: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&sector[..CRC.start]);
    sum.update(&sector[CRC.end..]);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: Version = Version { run: 1, sequence: 7 };
    const NEW: Version = Version { run: 2, sequence: 3 };

    #[test]
    fn a_block_says_what_it_is() {
        assert_eq!(decode(5, &encode(5, NEW)), Content::Whole(NEW));
        assert_eq!(decode(6, &encode(5, NEW)), Content::Elsewhere(5, NEW));
        assert_eq!(decode(5, &[0; BLOCK_BYTES]), Content::Empty);
        assert_eq!(decode(5, &[1; BLOCK_BYTES]), Content::Foreign);
    }

    #[test]
    fn a_block_that_was_written_in_part_is_torn() {
        let mut block = encode(5, OLD);
        block[..1024].copy_from_slice(&encode(5, NEW)[..1024]);
        assert_eq!(decode(5, &block), Content::Torn(Some(OLD), NEW));
        let mut block = [0; BLOCK_BYTES];
        block[3584..].copy_from_slice(&encode(5, NEW)[3584..]);
        assert_eq!(decode(5, &block), Content::Torn(None, NEW));
    }

    #[test]
    fn writes_don_t_look_alike() {
        let (one, other) = (encode(5, OLD), encode(5, Version { sequence: 8, ..OLD }));
        for (one, other) in one.chunks(512).zip(other.chunks(512)) {
            assert!(one[HEADER_BYTES..].chunks(8).zip(other[HEADER_BYTES..].chunks(8)).all(|(a, b)| a != b));
        }
    }

    proptest! {
        #[test]
        fn one_wrong_bit_is_seen(number: u32, run: u32, sequence: u64, bit in 0..BLOCK_BYTES * 8) {
            let mut block = encode(number, Version { run, sequence });
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(number, &block), Content::Foreign);
        }

        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), BLOCK_BYTES), keep in 0..BLOCK_BYTES) {
            let mut block = encode(1, NEW);
            block[keep..].copy_from_slice(&bytes[keep..]);
            let whole = block == encode(1, NEW);
            prop_assert_eq!(decode(1, &block) == Content::Whole(NEW), whole);
        }
    }
}
