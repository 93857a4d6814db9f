//! The network stage: every member's links as planned, proven by reading back and by reaching the peers.
//!
//! ```text
//!   cables ─► PUT plan (pending) on all ─► read back by each agent ─► reach every peer ─► commit on all
//!      │ contradict the template                     │ failure                  │ failure
//!      ▼                                             └─► members take it back by themselves ◄┘
//!   refused
//! ```
//! Invariants: nothing is applied while a cable is known to contradict the template (LLDP may know of a moved cable only
//! after its switch's interval), and nothing is committed: the cables are looked at before both. No plan is committed
//! anywhere before every member has every peer in reach. A run that was killed can be repeated: plans that still wait for its
//! confirmation are waited for until the members have taken them back. A member that loses its way back to us takes the plan back by itself when the time to
//! confirm has passed.

use crate::mesh::{MeshProbe, RoundTrip, mesh};
use crate::{Cabling, Cluster, DeployError, Member};
use api::{Applied, ApplyRequest, ConfirmWithin, Outcome, PathsRequest};
use model::NodeName;
use network::{Generation, NetworkPlan, Op, diff, plan_at, plan_witness};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a plan waits for its confirmation: the mesh of four nodes per rack takes seconds on emulated machines.
const CONFIRM_WITHIN_MS: u32 = 60_000;

/// How long members may take to reach each other once their links are made and read back: kernels look at carriers once a second
/// (`net/core/link_watch.c`), and switches learn where somebody is when he sends. Far less than a plan waits for its confirmation.
const REACH_WITHIN: Duration = Duration::from_secs(10);
/// From one look to the next.
const REACH_POLL: Duration = Duration::from_millis(200);

/// How often members with a plan of an earlier run are looked at.
const PENDING_POLL: Duration = Duration::from_millis(500);

/// What the network stage came to.
#[derive(Debug)]
pub enum NetworkStage {
    /// A cable contradicts the template ([`Cabling::errors`] says which): nothing was applied; or one was found to when the
    /// plans were to be committed, and the members that changed something take it back by themselves.
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
        let unreached = self.unreached.iter().map(|trip| format!("{}: {trip}", trip.rule().id));
        failed.chain(unreached).collect()
    }
}

/// Looks at the cables and, if they are what the template says, makes all members' links as planned. Doing it again
/// changes nothing. Neighbours that are missing are waited for at most `patience`.
pub async fn network(cluster: &Cluster, patience: Duration) -> Result<NetworkStage, DeployError> {
    network_beside(cluster, &BTreeSet::new(), patience).await
}

/// The same of those who do not serve yet. What serves is let alone, whatever becomes of the others; they must reach it.
pub async fn network_beside(
    cluster: &Cluster,
    serving: &BTreeSet<NodeName>,
    patience: Duration,
) -> Result<NetworkStage, DeployError> {
    let cabling = crate::cabling(cluster, patience).await?;
    if cabling.errors().next().is_some() {
        return Ok(NetworkStage::Refused(cabling));
    }
    let pending = apply(cluster, serving).await?;
    if !pending.applied.failures().is_empty() {
        return Ok(NetworkStage::Applied { cabling, applied: pending.applied });
    }
    let cabling = crate::cabling(cluster, Duration::ZERO).await?;
    if cabling.errors().next().is_some() {
        return Ok(NetworkStage::Refused(cabling));
    }
    commit(cluster, &pending).await?;
    Ok(NetworkStage::Applied { cabling, applied: pending.applied })
}

/// Plans that were taken up, and wait for a word where they changed something.
struct Pending {
    generation: Generation,
    applied: NetworkApplied,
}

async fn apply(cluster: &Cluster, serving: &BTreeSet<NodeName>) -> Result<Pending, DeployError> {
    let newest = wait_for_none_pending(cluster).await?;
    let generation = Generation(newest.map_or(1, |newest| newest.0 + 1));
    let confirm_within_ms = ConfirmWithin::try_from(CONFIRM_WITHIN_MS).ok();
    let members = cluster
        .ask_all(|member| async move {
            if serving.contains(&member.name) {
                return Ok(None);
            }
            let request = ApplyRequest { plan: plan_for(cluster, member, generation)?, confirm_within_ms };
            let applied = member.client.apply(&request).await?;
            Ok::<_, DeployError>(Some((member.name.clone(), applied)))
        })
        .await?;
    let members = members.into_iter().flatten().collect();
    let mut applied = NetworkApplied { members, unreached: Vec::new() };
    if applied.failures().is_empty() {
        applied.unreached = unreached(cluster).await?;
    }
    Ok(Pending { generation, applied })
}

/// Waits until everybody reaches everybody, within a bound; gives the pairs that did not when it was over.
async fn unreached(cluster: &Cluster) -> Result<Vec<RoundTrip>, DeployError> {
    let deadline = Instant::now() + REACH_WITHIN;
    loop {
        let trips = mesh(cluster, MeshProbe::REACH).await?;
        let unreached: Vec<RoundTrip> = trips.into_iter().filter(|trip| !trip.is_complete()).collect();
        if unreached.is_empty() || Instant::now() >= deadline {
            return Ok(unreached);
        }
        sleep(REACH_POLL).await;
    }
}

/// Waits until no member has a plan of an earlier run that waits for its confirmation; gives the newest plan that any has
/// seen. It comes by itself: a member takes such a plan back, at the latest after the time that it was given.
async fn wait_for_none_pending(cluster: &Cluster) -> Result<Option<Generation>, DeployError> {
    loop {
        let states = cluster.ask_all(|member| member.client.network()).await?;
        let Some(left_ms) = states.iter().filter_map(|state| state.pending_ms).max() else {
            return Ok(states.iter().filter_map(|state| state.generation).max());
        };
        // It counts down; that it is looked at again soon is for a commit that comes meanwhile.
        sleep(Duration::from_millis(u64::from(left_ms)).min(PENDING_POLL)).await;
    }
}

async fn commit(cluster: &Cluster, pending: &Pending) -> Result<(), DeployError> {
    let waits = |name: &NodeName| {
        pending.applied.members.iter().any(|(node, applied)| node == name && applied.pending)
    };
    let committed = cluster.ask_all(|member| {
        let waits = waits(&member.name);
        async move { if waits { member.client.commit(pending.generation).await } else { Ok(()) } }
    });
    Ok(committed.await.map(drop)?)
}

/// The plan of one member.
pub fn plan_for(
    cluster: &Cluster,
    member: &Member,
    generation: Generation,
) -> Result<NetworkPlan, DeployError> {
    let planned = if member.zone.is_some() {
        plan_at(&cluster.spec, &member.name, generation, &cluster.speeds)
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
