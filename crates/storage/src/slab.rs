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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_lie_behind_the_header_one_after_another() {
        const MIB: u64 = 1 << 20;
        let slabs = [model::Extent { first: 3, count: 2 }, model::Extent { first: 0, count: 1 }];
        let piece = |offset, len| Extent { offset_bytes: offset * MIB, len_bytes: len * MIB };
        assert_eq!(pieces(&slabs), [piece(193, 128), piece(1, 64)]);
    }
}
