//! Plans for a node's links: bringing one there, confirming it, looking at the result.
//!
//! ```text
//!              PUT plan            POST commit
//!   settled ─────────────▶ pending ────────────▶ settled
//!      ▲                      │ confirm_within_ms passed, or the agent ended or restarted
//!      └──────────────────────┘ links as they were before; tried again while that fails
//! ```
//! A plan that changed nothing, or that asks for no confirmation, is settled at once.

use crate::Drifts;
use model::{InvalidValue, VlanId};
use network::{CurrentLinks, Generation, NetworkPlan, Op};
use serde::{Deserialize, Serialize};

/// How long a plan may wait for its confirmation, milliseconds: long enough to reach every peer, short enough that a node
/// nobody can reach any more comes back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ConfirmWithin(u32);

impl ConfirmWithin {
    /// The bare number, milliseconds.
    pub const fn ms(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for ConfirmWithin {
    type Error = InvalidValue;
    fn try_from(ms: u32) -> Result<Self, InvalidValue> {
        let expected = "100 to 600000 milliseconds";
        let wrong = || InvalidValue { what: "time to confirm", value: ms.to_string(), expected };
        (100..=600_000).contains(&ms).then_some(Self(ms)).ok_or_else(wrong)
    }
}

impl From<ConfirmWithin> for u32 {
    fn from(within: ConfirmWithin) -> Self {
        within.0
    }
}

/// Asks a node to make its links as a plan says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The plan. One that is older than what the node has seen is refused.
    pub plan: NetworkPlan,
    /// Take it back unless it is confirmed within this time. `None`: good as soon as it was read back.
    pub confirm_within_ms: Option<ConfirmWithin>,
}

/// How an apply ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// There was nothing to do.
    Unchanged,
    /// Done, and read back.
    Applied,
    /// It failed, and the links are as they were.
    RolledBack {
        /// What failed.
        why: String,
    },
    /// It failed, and so did the way back: the links are neither.
    RollbackFailed {
        /// What failed.
        why: String,
        /// What failed on the way back.
        then: String,
    },
}

/// What an apply did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The plan's generation.
    pub generation: Generation,
    /// What the kernel carried out, in order, the way back included.
    pub changed: Vec<Op>,
    /// How long it took, microseconds.
    pub duration_us: u64,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Whether it is taken back unless it is confirmed.
    pub pending: bool,
}

/// Confirms the plan of a generation: its peers were reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    /// Which.
    pub generation: Generation,
}

/// What leads from a node's links to those that were found there, before the first plan in this boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WayHome {
    /// The operations, in order; none: the links are as they were found.
    pub ops: Vec<Op>,
    /// Why nobody knows the way, if it is so.
    pub unknown: Option<String>,
}

/// A node's links were given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenBack {
    /// Whether anything was to be given back.
    pub changed: bool,
    /// Why links stay as they are until the node's next restart, if they do: nobody knows how they were.
    #[serde(default)]
    pub unknown: Option<String>,
}

/// A node's links and where it stands with its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// The links as the kernel has them now.
    pub links: CurrentLinks,
    /// The newest plan that the node has taken up, whatever became of it.
    pub generation: Option<Generation>,
    /// After what time the plan is taken back unless it is confirmed, milliseconds; `None`: it isn't.
    pub pending_ms: Option<u32>,
    /// How the plan of `generation` was taken back, if it was or should have been, for whatever reason. `None` when nothing is
    /// pending: the plan is in force.
    pub taken_back: Option<TakenBack>,
    /// The plan that the node is on when none is pending, and after a restart of the machine: the newest that was confirmed, or
    /// needed no confirmation.
    pub committed: Option<Committed>,
    /// What somebody changed behind the agent's back.
    #[serde(default)]
    pub drifts: Drifts,
    /// The VLANs that virtual machines may be in, by the plan in force; one that names none is in the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compute_vlans: Vec<VlanId>,
}

/// The plan that was last confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Its generation.
    pub generation: Generation,
    /// Why it could not be made since the machine started; it is tried again. `None`: it was made.
    pub not_made: Option<String>,
}

/// A plan that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBack {
    /// Its generation.
    pub generation: Generation,
    /// How the way back ended: `rolled-back`, the links are seen to be as before it; or `rollback-failed`, they are not, which
    /// turns into `rolled-back` when a later try succeeds.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Where to start with changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesSince {
    /// Only changes with greater numbers.
    #[serde(default)]
    pub since: u64,
}

/// What changed in the kernel's links, addresses and routes, whoever did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChanges {
    /// Which agent's counting this is, drawn at its start. Numbers of different epochs can't be compared.
    pub epoch: u32,
    /// How many changes there were since the agent started; the number of the last one.
    pub count: u64,
    /// How many others the agent could not look at in time, at least. They are not in `count`.
    pub missed: u64,
    /// The changes asked for, as far as the agent still has them (the last 256).
    pub changes: Vec<LinkChange>,
}

/// Why two looks at a node don't say all that changed between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangesGap {
    /// Another agent counted.
    #[error("the agent restarted in between: what changed before is not known")]
    Restarted,
    /// The agent did not see all.
    #[error("the agent missed at least {0} changes")]
    Missed(u64),
    /// The later look lists fewer changes than there were.
    #[error("{0} changes are too long ago for the agent to name")]
    Forgotten(u64),
}

impl LinkChanges {
    /// Whether this look, asked for since an earlier look's count, has all that changed since. Whoever concludes from an
    /// empty list must ask.
    pub fn all_since(&self, earlier: &Self) -> Result<(), ChangesGap> {
        if self.epoch != earlier.epoch || self.count < earlier.count || self.missed < earlier.missed {
            return Err(ChangesGap::Restarted);
        }
        if self.missed > earlier.missed {
            return Err(ChangesGap::Missed(self.missed - earlier.missed));
        }
        let named = u64::try_from(self.changes.len()).unwrap_or(u64::MAX);
        match (self.count - earlier.count).saturating_sub(named) {
            0 => Ok(()),
            forgotten => Err(ChangesGap::Forgotten(forgotten)),
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChange {
    /// Which, from 1.
    pub number: u64,
    /// What kind: `link`, `link-gone`, `address`, `address-gone`, `route`, `route-gone`, `queue`,
    /// `queue-gone`, `filter`, `filter-gone`, `dcb`.
    pub kind: String,
    /// The kernel's number of the link; none for routes.
    pub index: Option<u32>,
    /// The link's name, where the kernel said it.
    pub name: Option<String>,
    /// When the agent heard of it: how long the machine had been up, milliseconds.
    #[serde(default)]
    pub at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_read_as_one_flat_object() {
        let applied = Applied {
            generation: Generation(3),
            changed: Vec::new(),
            duration_us: 12,
            outcome: Outcome::RollbackFailed { why: "a".to_owned(), then: "b".to_owned() },
            pending: false,
        };
        let json = serde_json::to_string(&applied).unwrap();
        insta::assert_snapshot!(json, @r#"{"generation":3,"changed":[],"duration_us":12,"outcome":"rollback-failed","why":"a","then":"b","pending":false}"#);
        assert_eq!(serde_json::from_str::<Applied>(&json).unwrap(), applied);
    }

    #[test]
    fn an_empty_list_proves_something_only_within_one_watch_without_gaps() {
        let look = |epoch, count, missed, named: u64| {
            let change =
                |number| LinkChange { number, kind: "link".to_owned(), index: None, name: None, at_ms: 0 };
            LinkChanges { epoch, count, missed, changes: (0..named).map(change).collect() }
        };
        let earlier = look(1, 40, 2, 0);
        assert_eq!(look(1, 40, 2, 0).all_since(&earlier), Ok(()));
        assert_eq!(look(1, 43, 2, 3).all_since(&earlier), Ok(()));
        assert_eq!(look(2, 40, 2, 0).all_since(&earlier), Err(ChangesGap::Restarted));
        assert_eq!(look(1, 39, 2, 0).all_since(&earlier), Err(ChangesGap::Restarted));
        assert_eq!(look(1, 40, 3, 0).all_since(&earlier), Err(ChangesGap::Missed(1)));
        assert_eq!(look(1, 340, 2, 256).all_since(&earlier), Err(ChangesGap::Forgotten(44)));
    }

    #[test]
    fn nobody_waits_for_ever_or_not_at_all() {
        for bad in [0, 99, 600_001, u32::MAX] {
            assert!(ConfirmWithin::try_from(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<ConfirmWithin>("30000").unwrap().ms(), 30_000);
    }
}
