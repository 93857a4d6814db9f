//! What outlives the agent: the newest plan, and what became of it.
//!
//! ```text
//!              save            commit, or nothing to confirm
//!   settled ─────────▶ open ────────────────────────────────▶ settled
//!      taken back ───▶  │ restored and read back
//!                       └────────────────────────────────────▶ taken back
//! ```
//! Invariants: `open` is on disk before the kernel is touched, and stays there until the plan is committed or the links
//! are seen to be as before. An agent that finds it at its start takes the plan back.

use crate::store::{Store, StoreError};
use network::{CurrentLinks, NetworkPlan};
use serde::{Deserialize, Serialize};

const FILE: &str = "network.json";

/// What outlives the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    /// The newest plan that was taken up.
    pub(super) plan: Option<NetworkPlan>,
    /// What became of it.
    pub(super) stage: Stage,
}

/// What became of the newest plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Stage {
    /// It is in force, or there never was one.
    #[default]
    Settled,
    /// It is being made, waits for its confirmation, or is being taken back.
    Open {
        /// The links before it, and before all earlier ones that could not be taken back.
        before: CurrentLinks,
    },
    /// The links are as before it.
    TakenBack {
        /// Why.
        why: String,
    },
}

/// Where [`Saved`] is kept.
pub(crate) trait Disk: Send + Sync + 'static {
    fn load(&self) -> Result<Saved, StoreError>;
    /// Returns when it is durable.
    fn save(&self, saved: &Saved) -> Result<(), StoreError>;
}

impl Disk for Store {
    fn load(&self) -> Result<Saved, StoreError> {
        Store::load(self, FILE)
    }

    fn save(&self, saved: &Saved) -> Result<(), StoreError> {
        Store::save(self, FILE, saved)
    }
}
