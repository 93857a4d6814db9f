//! From the ledger's slabs to pieces of a drive.
//!
//! Invariants: a leg's slabs keep their order, so that its content stays where it is when it grows.
//!
//! On failure: nothing here fails.

use model::{SLAB_BYTES, SLABS_OFFSET_BYTES};
use serde::{Deserialize, Serialize};

/// A piece of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// From the drive's start.
    pub offset_bytes: u64,
    /// Its length.
    pub len_bytes: u64,
}

/// Where these slabs are, in their order. What is beyond any drive stays beyond it.
pub fn pieces(slabs: &[model::Extent]) -> Vec<Extent> {
    let place = |extent: &model::Extent| Extent {
        offset_bytes: extent.first.saturating_mul(SLAB_BYTES).saturating_add(SLABS_OFFSET_BYTES),
        len_bytes: extent.count.saturating_mul(SLAB_BYTES),
    };
    slabs.iter().map(place).collect()
}

/// How much is filled with zeros at a time: a fence waits for so much.
const STRETCH_BYTES: u64 = 8 << 20;

/// These slabs from the first to one, and from that one on.
pub fn split(slabs: &[model::Extent], at: u64) -> (Vec<model::Extent>, Vec<model::Extent>) {
    let (mut left, mut first, mut rest) = (at, Vec::new(), Vec::new());
    for extent in slabs {
        let count = extent.count.min(left);
        left -= count;
        let (one, other) = (model::Extent { count, ..*extent }, extent.count - count);
        first.extend((count > 0).then_some(one));
        rest.extend((other > 0).then_some(model::Extent { first: one.end(), count: other }));
    }
    (first, rest)
}

/// A piece, in stretches that are filled one after the other.
pub fn stretches(piece: Extent) -> impl Iterator<Item = Extent> {
    let end = piece.offset_bytes.saturating_add(piece.len_bytes);
    let step = usize::try_from(STRETCH_BYTES).unwrap_or(usize::MAX);
    let stretch =
        move |offset_bytes: u64| Extent { offset_bytes, len_bytes: STRETCH_BYTES.min(end - offset_bytes) };
    (piece.offset_bytes..end).step_by(step).map(stretch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_lie_behind_the_header_one_after_another() {
        const MIB: u64 = 1 << 20;
        let slabs = [model::Extent { first: 3, count: 2 }, model::Extent { first: 0, count: 1 }];
        let piece = |offset, len| Extent { offset_bytes: offset * MIB, len_bytes: len * MIB };
        assert_eq!(pieces(&slabs), [piece(193, 128), piece(1, 64)]);
        let (mapped, to_lay) = split(&slabs, 1);
        assert_eq!(
            (pieces(&mapped), pieces(&to_lay)),
            (vec![piece(193, 64)], vec![piece(257, 64), piece(1, 64)])
        );
        assert_eq!(split(&slabs, 9).1, []);
        assert_eq!(split(&slabs, 0).0, []);
    }

    #[test]
    fn what_is_filled_is_the_whole_piece_and_nothing_else() {
        let piece = Extent { offset_bytes: 1 << 20, len_bytes: (20 << 20) + 4096 };
        let all: Vec<Extent> = stretches(piece).collect();
        assert_eq!(
            all.iter().map(|one| one.len_bytes).collect::<Vec<_>>(),
            [8 << 20, 8 << 20, (4 << 20) + 4096]
        );
        let follows = |pair: &[Extent]| pair[0].offset_bytes + pair[0].len_bytes == pair[1].offset_bytes;
        assert!(all[0].offset_bytes == piece.offset_bytes && all.windows(2).all(follows));
    }
}
