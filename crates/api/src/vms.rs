//! Virtual machines, beyond what the ledger says of them and is asked (`control::vm`).

use model::{Generation, VmId, VolumeId};
use serde::{Deserialize, Serialize};

/// Where a piece of an image goes. (Numbers in a query are bare: `volume=3`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageQuery {
    /// The volume's number.
    pub volume: u32,
    /// Where in it, bytes; whole sectors of 512.
    pub offset: u64,
}

impl ImageQuery {
    /// How long a piece may be, bytes: less than the longest body.
    pub const PIECE_MAX: usize = 512 << 10;

    /// Which volume.
    pub const fn volume(&self) -> VolumeId {
        VolumeId(self.volume)
    }
}

/// Which virtual machine's console, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleQuery {
    /// The virtual machine's number.
    pub vm: u32,
    /// From which byte on, counted from the first that it ever said on this node in this boot.
    #[serde(default)]
    pub from: u64,
}

impl ConsoleQuery {
    /// Which virtual machine.
    pub const fn vm(&self) -> VmId {
        VmId(self.vm)
    }
}

/// What it said there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// Where the text begins: later than was asked, if that is not kept any more.
    pub from: u64,
    /// Where what comes after it begins.
    pub end: u64,
    /// The text; bytes that are no UTF-8 are shown as U+FFFD.
    pub text: String,
}

/// Which virtual machine's memory comes, and for which run of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncomingQuery {
    /// The virtual machine's number.
    pub vm: u32,
    /// The number of the run that waits for it.
    pub generation: u32,
}

impl IncomingQuery {
    /// Which virtual machine.
    pub const fn vm(&self) -> VmId {
        VmId(self.vm)
    }

    /// Which run waits.
    pub const fn generation(&self) -> Generation {
        Generation(self.generation)
    }
}
