//! What outlives the agent, and where it can the machine: the newest plan, what became of it, and the plan that was last
//! confirmed.
//!
//! ```text
//!              save            commit, or nothing to confirm
//!   settled ─────────▶ open ────────────────────────────────▶ settled
//!      taken back ───▶  │ restored and read back, or the links are gone with the boot that had them
//!                       └────────────────────────────────────▶ taken back
//! ```
//! Invariants: `open` is on disk before the kernel is touched, and stays there until the plan is committed or the links
//! are seen to be as before. An agent that finds it at its start takes the plan back.
//!
//! **Another boot.** Links end with the machine, so a way back leads nowhere in the next boot, and what was confirmed has to be
//! made anew. Therefore both carry the boot's id ([`Saved::at_start`]). A file without ids was written by an agent that kept it in
//! memory: it is of this boot.

use crate::inventory;
use crate::store::{Store, StoreError};
use network::{CurrentLinks, NetworkPlan};
use serde::{Deserialize, Serialize};

const FILE: &str = "network.json";

/// Why a plan is not in force that was open when the machine went down.
pub(super) const RESTARTED: &str = "the node restarted before it was confirmed";

/// The kernel's id of one boot (`random(4)`, `boot_id`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct BootId(String);

impl BootId {
    /// Of the boot that this is; `None` if the kernel doesn't say.
    pub(crate) fn here() -> Option<Self> {
        Some(inventory::boot_id()).filter(|id| !id.is_empty()).map(Self)
    }

    #[cfg(test)]
    pub(super) fn of(number: u32) -> Self {
        Self(format!("boot {number}"))
    }
}

/// What outlives the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    /// The newest plan that was taken up.
    pub(super) plan: Option<NetworkPlan>,
    /// What became of it.
    pub(super) stage: Stage,
    /// The newest plan that was settled: what is made anew in another boot.
    #[serde(default)]
    pub(super) committed: Option<NetworkPlan>,
    /// The boot in which `committed` was last made.
    #[serde(default)]
    pub(super) made_in: Option<BootId>,
    /// The links as they were before the first plan that was made in a boot, until they are given back.
    #[serde(default)]
    pub(super) found: Option<Found>,
}

/// Links that nobody here had touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Found {
    /// They.
    pub(super) links: CurrentLinks,
    /// In which boot.
    pub(super) boot: BootId,
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
        /// The boot whose links they are.
        #[serde(default)]
        boot: Option<BootId>,
    },
    /// The links are as before it.
    TakenBack {
        /// Why.
        why: String,
    },
}

impl Saved {
    /// What an agent makes of what it finds when it starts in the boot `here`. An open plan of another boot is not in force: the
    /// way back led to links that are no more. Doing it again changes nothing.
    pub(super) fn at_start(mut self, here: &BootId) -> Self {
        if self.made_in.is_none() {
            if self.stage == Stage::Settled {
                self.committed.clone_from(&self.plan);
            }
            self.made_in = Some(here.clone());
        }
        let is_made_here = self.is_made_in(here);
        let why = match &mut self.stage {
            Stage::Open { boot, .. } if boot.as_ref().is_none_or(|boot| boot == here) => {
                *boot = Some(here.clone());
                return self;
            }
            Stage::Open { .. } => RESTARTED.to_owned(),
            Stage::TakenBack { why } if !is_made_here => why.clone(),
            Stage::TakenBack { .. } | Stage::Settled => return self,
        };
        // It was confirmed once and then sent again: so it comes back with this boot, whatever became of the second time.
        let is_committed = self.plan == self.committed;
        self.stage = if is_committed { Stage::Settled } else { Stage::TakenBack { why } };
        self
    }

    /// What this boot's links were before any plan; `None`: nobody has written it down.
    pub(super) fn found_in(&self, here: &BootId) -> Option<&CurrentLinks> {
        self.found.as_ref().filter(|found| found.boot == *here).map(|found| &found.links)
    }

    /// Whether a plan is in force in this boot, or may be half-way: then what is there now is not what was found.
    pub(super) fn is_touched_in(&self, here: &BootId) -> bool {
        let is_open = matches!(self.stage, Stage::Open { .. });
        is_open || (self.committed.is_some() && self.is_made_in(here))
    }

    /// Whether the committed plan was made in this boot.
    pub(super) fn is_made_in(&self, here: &BootId) -> bool {
        self.made_in.as_ref() == Some(here)
    }
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
