//! Which block is written next. Pure.
//!
//! Invariants: a block that is being written is not chosen, so that the writes of each have an order. The same seed and the
//! same ends give the same choices.

use crate::BlockNumber;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where writes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// How many blocks from the beginning are warm: written again and again, so that what keeps track of changes has them marked.
    pub warm_blocks: u32,
    /// Of a hundred writes, how many go there. The others go anywhere behind.
    pub warm_percent: u8,
}

/// Chooses blocks.
#[derive(Debug)]
pub struct Choice {
    random: fastrand::Rng,
    pattern: Pattern,
    blocks: u32,
    in_flight: BTreeSet<BlockNumber>,
}

impl Choice {
    /// Among so many blocks.
    pub fn new(seed: u64, blocks: u32, pattern: Pattern) -> Self {
        let warm_blocks = pattern.warm_blocks.min(blocks);
        let pattern = Pattern { warm_blocks, ..pattern };
        Self { random: fastrand::Rng::with_seed(seed), pattern, blocks, in_flight: BTreeSet::new() }
    }

    /// The next block; `None` while all of its region are being written.
    pub fn take(&mut self) -> Option<BlockNumber> {
        let warm = self.pattern.warm_blocks;
        let is_warm = warm == self.blocks || (warm > 0 && self.random.u8(0..100) < self.pattern.warm_percent);
        let region = if is_warm { 0..warm } else { warm..self.blocks };
        if region.is_empty() {
            return None;
        }
        let start = self.random.u32(region.clone());
        let free = |block: &BlockNumber| !self.in_flight.contains(block);
        let chosen = (start..region.end).chain(region.start..start).find(free)?;
        self.in_flight.insert(chosen);
        Some(chosen)
    }

    /// Its write has ended.
    pub fn ended(&mut self, block: BlockNumber) {
        self.in_flight.remove(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_block_is_chosen_twice_before_its_write_ended(
            seed: u64, blocks in 0u32..20, warm_blocks in 0u32..30, warm_percent in 0u8..=100,
            ends in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut choice = Choice::new(seed, blocks, Pattern { warm_blocks, warm_percent });
            let mut open = Vec::new();
            for end in ends {
                if end && !open.is_empty() {
                    choice.ended(open.remove(0));
                } else if let Some(block) = choice.take() {
                    prop_assert!(block < blocks && !open.contains(&block));
                    open.push(block);
                }
            }
        }
    }

    #[test]
    fn warm_blocks_get_their_share_and_cold_ones_all_get_some() {
        let mut choice = Choice::new(1, 100, Pattern { warm_blocks: 10, warm_percent: 70 });
        let mut written = [0; 100];
        for _ in 0..10_000 {
            let block = choice.take().unwrap();
            written[block as usize] += 1;
            choice.ended(block);
        }
        let warm: i32 = written[..10].iter().sum();
        assert!((6500..7500).contains(&warm), "{warm}");
        assert!(written.iter().all(|count| *count > 0));
    }
}
