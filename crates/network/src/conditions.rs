//! What is wrong while everything still carries.
//!
//! Purpose: besides losses ([`diagnose`](mod@crate::diagnose)) a watch raises conditions: a cable that leads elsewhere than it
//! did, a VLAN or a frame size that a port no longer has, large packets that are swallowed on the way, round trips that got
//! longer. [`Memory::judge`] takes the reports of all nodes and says which conditions hold, since when, and by what they are
//! seen.
//!
//! How, from the most certain to the least:
//! 1. `wires`: what LLDP says of each NIC's port, held against the cabling of better days and against what the intents need;
//! 2. `large`: hellos as large as a packet may be that don't come while small ones do, named after what the paths have in
//!    common: a NIC, a switch, the link between the rooms. What LLDP has told of frame sizes explains them;
//! 3. `slow`: round trips of a path against those of its own better days, named alike.
//!
//! What a condition explains is not said again as another one; NICs that are cabled elsewhere are judged by their cables
//! alone.
//!
//! Invariants: a condition is raised when it was found without a break for as long as its kind takes, and cleared when it
//! was seen not to hold for as long; in between, nothing changes. Who does not report or hears nothing says neither: what is raised
//! stays raised meanwhile, but not for ever. The same thing has the same id each time.
//!
//! On failure: none.

mod condition;
mod large;
mod memory;
mod place;
mod slow;
mod wires;

pub use condition::{Condition, Place, What};
pub use memory::{Memory, Raised};

use crate::diagnose::NodeReport;
use model::{NodeName, StorageNetworkIndex};
use serde::{Deserialize, Serialize};

/// How well the hellos of a peer come on one storage network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathQuality {
    /// The peer.
    pub peer: NodeName,
    /// On which storage network.
    pub network: StorageNetworkIndex,
    /// Round trips that were measured in the last four seconds.
    pub round_trips: u32,
    /// The shortest of them, µs; `None`, here and below: there were none.
    pub min_us: Option<u32>,
    /// Their median, µs.
    pub median_us: Option<u32>,
    /// Hellos as large as a packet may be that did not come behind a small one that did, since the last that came.
    pub large_missing: u32,
}

/// What one node reports, with what it knows of its paths.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its report.
    pub report: NodeReport,
    /// How well hellos come.
    pub qualities: Vec<PathQuality>,
}

#[cfg(test)]
mod simulated;
