//! What measured times and rates mean.
//!
//! Purpose: [`latency`] judges round trips, [`bandwidth`] the way between the rooms.
//!
//! Invariants: what is judged and what is only reported depends on what was measured: [`Machines`]. A bound that is not
//! the specification's is part of the judgement, so that a report can't but say it.
//!
//! On failure: none; what can't be judged is said to be so, with the reason.

pub mod bandwidth;
pub mod latency;

use serde::{Deserialize, Serialize};

/// What the figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Machines {
    /// Hardware: the specification's bounds hold.
    Real,
    /// Emulated processors and NICs on a shared host: their times and rates are the host's.
    Emulated,
}
