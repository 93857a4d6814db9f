//! Whether two legs hold the same, without sending what they hold: keyed digests of their pieces.
//!
//! Purpose: before a volume opens, its legs are made equal wherever they may differ (design notes, rule 7). They hardly ever do: at most what was in
//! flight when the owner died. So each node digests its own leg, and only pieces whose digests differ are copied.
//!
//! Invariants: the key is drawn anew for every comparison, after the last write by users: who wrote the blocks could not know it, so that different pieces
//! have the same digest with a probability of about 2⁻¹²⁸, whatever was written (SipHash-1-3 with 128 bits, Aumasson and Bernstein, 2012).
//! What there is no digest of differs.

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;
use std::ops::Range;

/// How much one digest is of, bytes.
pub const PIECE_BYTES: u64 = 64 << 10;

/// How much is asked for at once, bytes: its digests, as text, are a letter of 25 KiB.
pub const BATCH_BYTES: u64 = 32 << 20;

/// Under what digests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestKey(pub [u8; 16]);

/// Of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub u64, pub u64);

/// Of every piece of these bytes; the last may be shorter.
pub fn digests(key: DigestKey, bytes: &[u8]) -> Vec<Digest> {
    let piece = usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX);
    bytes.chunks(piece).map(|piece| digest(key, piece)).collect()
}

fn digest(key: DigestKey, piece: &[u8]) -> Digest {
    let mut hasher = SipHasher13::new_with_key(&key.0);
    hasher.write(piece);
    let hash = hasher.finish128();
    Digest(hash.h1, hash.h2)
}

/// The pieces of `len_bytes` that may differ, as bytes from their start; pieces that meet are one.
pub fn differing(len_bytes: u64, own: &[Digest], other: &[Digest]) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for number in 0..len_bytes.div_ceil(PIECE_BYTES) {
        let of = |digests: &[Digest]| digests.get(usize::try_from(number).ok()?).copied();
        if of(own).is_some() && of(own) == of(other) {
            continue;
        }
        let piece = number * PIECE_BYTES..((number + 1) * PIECE_BYTES).min(len_bytes);
        match found.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => found.push(piece),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: DigestKey = DigestKey([7; 16]);

    #[test]
    fn a_piece_without_a_digest_differs() {
        let len = 3 * PIECE_BYTES + 4096;
        let own = digests(KEY, &vec![1; usize::try_from(len).unwrap()]);
        assert_eq!(own.len(), 4);
        let ranges = |len, own: &[_], other: &[_]| -> Vec<(u64, u64)> {
            differing(len, own, other).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(ranges(len, &own, &own), []);
        assert_eq!(ranges(len, &own, &own[..2]), [(2 * PIECE_BYTES, len)]);
        assert_eq!(ranges(len, &[], &[]), [(0, len)]);
        assert_eq!(ranges(0, &own, &[]), []);
    }

    #[test]
    fn another_key_gives_other_digests() {
        assert_ne!(digests(KEY, &[0; 4096]), digests(DigestKey([8; 16]), &[0; 4096]));
    }

    proptest! {
        /// Blocks that differ are in what is copied, and nothing is but their pieces.
        #[test]
        fn exactly_the_pieces_that_differ_are_found(
            blocks in 1_u64..100,
            changed in proptest::collection::btree_set(0_u64..100, 0..8),
        ) {
            let len = blocks * 4096;
            let own = vec![0_u8; usize::try_from(len).unwrap()];
            let mut other = own.clone();
            let changed: Vec<u64> = changed.into_iter().filter(|block| *block < blocks).collect();
            for block in &changed {
                other[usize::try_from(block * 4096 + 5).unwrap()] ^= 1;
            }
            let found = differing(len, &digests(KEY, &own), &digests(KEY, &other));
            let pieces: std::collections::BTreeSet<u64> = changed.iter().map(|block| block * 4096 / PIECE_BYTES).collect();
            let covered: u64 = found.iter().map(|range| range.end - range.start).sum();
            let want: u64 = pieces.iter().map(|piece| PIECE_BYTES.min(len - piece * PIECE_BYTES)).sum();
            prop_assert_eq!(covered, want);
            for block in changed {
                prop_assert!(found.iter().any(|range| range.contains(&(block * 4096))));
            }
        }
    }
}
