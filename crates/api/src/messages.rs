//! Requests and responses.

use crate::Role;
use model::NodeName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The node's name.
    pub node: NodeName,
    /// What it is in the cluster.
    pub role: Role,
    /// The daemon's version.
    pub version: String,
    /// The kernel's id of this boot: another one means that the machine restarted.
    pub boot_id: String,
    /// How long the machine has been up, milliseconds, time asleep included.
    pub uptime_ms: u64,
}

/// What to do with the machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerAction {
    /// Switch it off.
    Off,
    /// Restart it.
    Reboot,
}

/// Asks a node to switch itself off or to restart. Answered before it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerRequest {
    /// Which of the two.
    pub action: PowerAction,
}

/// Why an agent did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable word for programs, `stale-generation`.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}); {}", self.message, self.code, self.help)
    }
}
