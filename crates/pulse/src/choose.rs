//! Which block the guest writes next. Pure, without `std`: the guest includes this file.
//!
//! Invariants: a block that is being written is not chosen, so that the writes of each have an order (as `workload::choice`).

/// Draws blocks.
#[derive(Debug, Clone, Copy)]
pub struct Chooser {
    state: u64,
    blocks: u32,
    warm_blocks: u32,
    warm_percent: u8,
}

impl Chooser {
    /// Among so many blocks, of which so many from the first on are warm and get so many of a hundred writes.
    pub fn new(seed: u64, blocks: u32, warm_blocks: u32, warm_percent: u8) -> Self {
        Self { state: seed, blocks, warm_blocks: warm_blocks.min(blocks), warm_percent }
    }

    /// The next block; `None` while all of its region are being written.
    pub fn next(&mut self, is_free: impl Fn(u32) -> bool) -> Option<u32> {
        let (warm, all) = (self.warm_blocks, self.blocks);
        let is_warm = warm == all || (warm > 0 && self.below(100) < u32::from(self.warm_percent));
        let (from, to) = if is_warm { (0, warm) } else { (warm, all) };
        if from == to {
            return None;
        }
        let start = from + self.below(to - from);
        (start..to).chain(from..start).find(|block| is_free(*block))
    }

    /// A number below the bound. Not quite even for large bounds, which is good enough for places of writes.
    fn below(&mut self, bound: u32) -> u32 {
        // Knuth's MMIX generator; its upper half is the random one.
        self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (((self.state >> 32) * u64::from(bound)) >> 32) as u32
    }
}
