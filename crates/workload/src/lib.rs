//! A writer whose every acknowledged write can be found again, and the judge who looks for them.
//!
//! Purpose: the proof that no acknowledged write is lost. The writer fills a volume with [`block`]s that say which write they
//! are, and tells of each acknowledgement in a [`record`] that outlives its machine. When everything has ended, the
//! [`judge`] reads a leg on its own and compares: each block must hold the write that was acknowledged last, or a later one.
//!
//! Invariants: a block has one write in flight at most ([`choice`]), so that its writes have an order; what is written later has a
//! greater [`Version`], across runs of the writer too. A record is made after the kernel has acknowledged the write, never
//! before, so that what the judge asks for was promised.
//!
//! On failure: a write that fails is recorded as such and promises nothing. A log that ends in the middle of a record is read
//! up to there: what was acknowledged and not recorded isn't asked for, which can hide a loss and never invents one.

pub mod block;
pub mod choice;
pub mod judge;
pub mod measure;
pub mod probe;
pub mod record;
pub mod writer;

use serde::{Deserialize, Serialize};

/// How large a block is, bytes: what most filesystems and databases write at least.
pub const BLOCK_BYTES: usize = 4096;

/// The name of the port of a lab's node to which records go: whatever becomes of the node, they are in a file of the lab's.
pub const RECORDS_PORT: &str = "twinrack.records";

/// Which write it is. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The writer's start, counted by whoever starts it: a later start has a greater number.
    pub run: u32,
    /// The write's number in that run, from 1.
    pub sequence: u64,
}

/// Where a block is: its number from the volume's beginning, in units of [`BLOCK_BYTES`].
pub type BlockNumber = u32;
