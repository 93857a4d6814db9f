//! The network stage: every member's links as planned, proven by reading back and by reaching the peers.
//!
//! ```text
//!   cables ─► PUT plan (pending) on all ─► read back by each agent ─► reach every peer ─► commit on all
//!      │ contradict the template                     │ failure                  │ failure
//!      ▼                                             └─► members take it back by themselves ◄┘
//!   refused
//! ```
//! Invariants: nothing is applied while a cable contradicts the template. No plan is committed anywhere before every
//! member has every peer in reach. A member that loses its way back to us takes the plan back by itself when the time to
//! confirm has passed.

use crate::mesh::{MeshProbe, RoundTrip, mesh};
use crate::{Cabling, Cluster, DeployError, Member, cabling};
use api::{Applied, ApplyRequest, ConfirmWithin, Outcome, PathsRequest};
use model::NodeName;
use network::{Generation, NetworkPlan, Op, diff, plan, plan_witness};
use std::time::Duration;

/// How long a plan waits for its confirmation: the mesh of four nodes per rack takes seconds on emulated machines.
const CONFIRM_WITHIN_MS: u32 = 60_000;

/// What the network stage came to.
#[derive(Debug)]
pub enum NetworkStage {
    /// A cable contradicts the template ([`Cabling::errors`] says which): nothing was applied anywhere.
    Refused(Cabling),
    /// The plans were taken up.
    Applied {
        /// The cables as they were just before.
        cabling: Cabling,
        /// How it went.
        applied: NetworkApplied,
    },
}

/// What applying the plans did.
#[derive(Debug)]
pub struct NetworkApplied {
    /// What each member did, in their order.
    pub members: Vec<(NodeName, Applied)>,
    /// The pairs that don't reach each other; not looked for if a member failed.
    pub unreached: Vec<RoundTrip>,
}

impl NetworkApplied {
    /// What went wrong, in words; empty if all is as planned.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.members.iter().filter_map(|(node, applied)| match &applied.outcome {
            Outcome::Unchanged | Outcome::Applied => None,
            Outcome::RolledBack { why } => Some(format!("{node}: {why}; its links are as they were")),
            Outcome::RollbackFailed { why, then } => Some(format!(
                "{node}: {why}; and the way back failed: {then}; its links are neither old nor new"
            )),
        });
        failed.chain(self.unreached.iter().map(ToString::to_string)).collect()
    }
}

/// Looks at the cables and, if they are what the template says, makes all members' links as planned. Doing it again
/// changes nothing. Neighbours that are missing are waited for at most `patience`.
pub async fn network(cluster: &Cluster, patience: Duration) -> Result<NetworkStage, DeployError> {
    let cabling = cabling(cluster, patience).await?;
    if cabling.errors().next().is_some() {
        return Ok(NetworkStage::Refused(cabling));
    }
    let applied = apply(cluster).await?;
    Ok(NetworkStage::Applied { cabling, applied })
}

async fn apply(cluster: &Cluster) -> Result<NetworkApplied, DeployError> {
    let states = cluster.ask_all(|member| member.client.network()).await?;
    let newest = states.iter().filter_map(|state| state.generation).max();
    let generation = Generation(newest.map_or(1, |newest| newest.0 + 1));
    let confirm_within_ms = ConfirmWithin::try_from(CONFIRM_WITHIN_MS).ok();
    let members = cluster
        .ask_all(|member| async move {
            let request = ApplyRequest { plan: plan_for(cluster, member, generation)?, confirm_within_ms };
            let applied = member.client.apply(&request).await?;
            Ok::<_, DeployError>((member.name.clone(), applied))
        })
        .await?;
    let mut result = NetworkApplied { members, unreached: Vec::new() };
    if !result.failures().is_empty() {
        return Ok(result);
    }
    result.unreached =
        mesh(cluster, MeshProbe::REACH).await?.into_iter().filter(|trip| !trip.is_complete()).collect();
    if result.unreached.is_empty() {
        let pending =
            |name: &NodeName| result.members.iter().any(|(node, done)| node == name && done.pending);
        let committed = cluster.ask_all(|member| {
            let pending = pending(&member.name);
            async move { if pending { member.client.commit(generation).await } else { Ok(()) } }
        });
        committed.await?;
    }
    Ok(result)
}

/// The plan of one member.
pub fn plan_for(
    cluster: &Cluster,
    member: &Member,
    generation: Generation,
) -> Result<NetworkPlan, DeployError> {
    let planned = if member.zone.is_some() {
        plan(&cluster.spec, &member.name, generation)
    } else {
        let adapters: Vec<_> = member.adapters.keys().cloned().collect();
        plan_witness(&cluster.spec, &adapters, generation)
    };
    planned.map_err(|source| DeployError::Plan { node: member.name.clone(), source })
}

/// What still differs from the plans, read back from every kernel: nothing, when all is well.
pub async fn read_back(cluster: &Cluster) -> Result<Vec<(NodeName, Vec<Op>)>, DeployError> {
    cluster
        .ask_all(|member| async move {
            let state = member.client.network().await?;
            let node = || member.name.clone();
            let plan = plan_for(cluster, member, state.generation.unwrap_or(Generation(1)))?;
            let ops = diff(&state.links, &plan, &member.adapters)
                .map_err(|source| DeployError::Diff { node: node(), source })?;
            Ok((node(), ops))
        })
        .await
}

/// Lets all nodes greet each other on all storage networks.
pub async fn start_paths(cluster: &Cluster) -> Result<(), DeployError> {
    let greeted = cluster.ask_all(|member| async move {
        match PathsRequest::of(&cluster.spec, &member.name) {
            Some(request) => member.client.greet(&request).await,
            None => Ok(()), // the witness has no storage
        }
    });
    Ok(greeted.await.map(drop)?)
}
