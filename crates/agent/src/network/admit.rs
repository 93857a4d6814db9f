//! Whether a plan may be taken up, and whether it may be committed. Pure.

use super::saved::{Saved, Stage};
use model::NodeName;
use network::{Generation, NetworkPlan};

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the plan is for node {wanted}, this is {here}")]
    OtherNode { wanted: NodeName, here: NodeName },
    #[error("the plan has generation {}, the node has taken up generation {} already", offered.0, seen.0)]
    Stale { offered: Generation, seen: Generation },
    #[error("the node knows another plan of generation {}", generation.0)]
    Reused { generation: Generation },
    #[error("the plan of generation {} waits for its confirmation", pending.0)]
    Pending { pending: Generation },
    #[error("the plan of generation {} is not in force: it failed or was taken back", generation.0)]
    TooLate { generation: Generation },
    #[error("the node has not taken up a plan of generation {}", generation.0)]
    Unknown { generation: Generation },
    #[error("the agent is ending")]
    Stopping,
}

/// A plan may be taken up if it is ours, and newer than all before or the same as the last, and nothing is pending but it.
/// A last plan that is `stuck`, neither in force nor taken back, keeps nobody waiting.
pub(super) fn admit(node: &NodeName, saved: &Saved, stuck: bool, plan: &NetworkPlan) -> Result<(), Refused> {
    if plan.node != *node {
        return Err(Refused::OtherNode { wanted: plan.node.clone(), here: node.clone() });
    }
    let Some(last) = &saved.plan else { return Ok(()) };
    let (offered, seen) = (plan.generation, last.generation);
    if offered < seen {
        return Err(Refused::Stale { offered, seen });
    }
    if offered == seen && plan != last {
        return Err(Refused::Reused { generation: offered });
    }
    if offered > seen && matches!(saved.stage, Stage::Open { .. }) && !stuck {
        return Err(Refused::Pending { pending: seen });
    }
    Ok(())
}

/// A plan may be committed if it is the last one and in force: settled, or open and seen to be made (`stands`).
pub(super) fn commit(saved: &Saved, stands: bool, generation: Generation) -> Result<(), Refused> {
    if saved.plan.as_ref().is_none_or(|plan| plan.generation != generation) {
        return Err(Refused::Unknown { generation });
    }
    match saved.stage {
        Stage::Settled => Ok(()),
        Stage::Open { .. } if stands => Ok(()),
        Stage::Open { .. } | Stage::TakenBack { .. } => Err(Refused::TooLate { generation }),
    }
}
