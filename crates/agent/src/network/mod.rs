//! The node's links: plans in, the kernel's state out.
//!
//! ```text
//!              plan               commit
//!   settled ─────────▶ pending ────────────▶ settled
//!      ▲                  │ no confirmation in time, or a restart
//!      └──────────────────┘ links as before
//! ```
//! What to do is decided by [`admit`] (may this plan be taken up?) and by the network crate (which operations). Here is
//! the order of doing it: what leads back is on disk before the first operation, so that an agent that dies half-way
//! leaves a node that the next agent puts right.
//!
//! Invariants: one plan at a time; a plan that is pending is either committed or taken back; the newest generation that
//! was taken up is never forgotten while the links live (both end with the machine: the store is in memory).
//!
//! On failure: [`ChangeError`]; the links are as they were unless the outcome says otherwise.

mod admit;
mod changes;
mod kernel;
#[cfg(test)]
mod tests;

pub(crate) use admit::Refused;
pub(crate) use changes::Changes;
pub(crate) use kernel::{Executor, Kernel};

use crate::store::{Store, StoreError};
use admit::admit;
use api::{Applied, ApplyRequest, ConfirmWithin, NetworkState, Outcome, TakenBack};
use model::NodeName;
use network::kernel::{ApplyError, NetlinkError};
use network::{CurrentLinks, Generation, NetworkPlan};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

const FILE: &str = "network.json";

/// Why a plan was not taken up, or not committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("can't see the node's links")]
    Observe(#[source] NetlinkError),
    #[error("the plan can't be applied")]
    Apply(#[source] ApplyError),
    #[error("can't remember the way back")]
    Store(#[from] StoreError),
}

/// The node's links.
#[derive(Debug)]
pub(crate) struct Network<E> {
    node: NodeName,
    executor: E,
    store: Store,
    state: Mutex<Links>,
}

/// What outlives the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// The newest plan that was taken up.
    plan: Option<NetworkPlan>,
    /// Whether it is in force: applied, and not taken back.
    stands: bool,
    /// The links before it, while it is neither committed nor taken back.
    before: Option<CurrentLinks>,
}

/// What is known about the links.
#[derive(Debug, Default)]
struct Links {
    saved: Saved,
    timer: Option<Timer>,
    taken_back: Option<TakenBack>,
}

/// The dead man's switch.
#[derive(Debug)]
struct Timer {
    deadline: Instant,
    task: AbortHandle,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: Executor> Network<E> {
    /// Takes up what an earlier agent left: a plan that nobody confirmed is taken back first of all.
    pub(crate) async fn start(node: NodeName, executor: E, store: Store) -> Result<Arc<Self>, StoreError> {
        let saved = store.load(FILE)?;
        let state = Mutex::new(Links { saved, timer: None, taken_back: None });
        let network = Arc::new(Self { node, executor, store, state });
        let mut links = network.state.lock().await;
        network.take_back(&mut links, "the agent restarted before it was confirmed").await;
        drop(links);
        Ok(network)
    }

    /// Makes the links as the plan says. Don't drop the future half-way: run it as a task of its own.
    pub(crate) async fn apply(self: &Arc<Self>, request: ApplyRequest) -> Result<Applied, ChangeError> {
        let ApplyRequest { plan, confirm_within_ms } = request;
        let mut links = self.state.lock().await;
        admit(&self.node, &links.saved, &plan)?;
        // The way back leads to before the first attempt, however often the plan is sent.
        let was_pending = links.saved.before.is_some();
        let before = match links.saved.before.clone() {
            Some(before) => before,
            None => self.executor.observe().await.map_err(ChangeError::Observe)?,
        };
        let saved = Saved { plan: Some(plan.clone()), stands: false, before: Some(before) };
        self.store.save(FILE, &saved)?;
        links.saved = saved;
        links.timer = None;
        let report = match self.executor.apply(&plan).await {
            Ok(report) => report,
            Err(error) if was_pending => {
                self.take_back(&mut links, "a later attempt failed").await;
                return Err(ChangeError::Apply(error));
            }
            Err(error) => {
                // Nothing was changed.
                self.settle(&mut links)?;
                return Err(ChangeError::Apply(error));
            }
        };
        links.saved.stands = matches!(report.outcome, Outcome::Applied | Outcome::Unchanged);
        let to_confirm = report.outcome == Outcome::Applied || (was_pending && links.saved.stands);
        match confirm_within_ms {
            Some(within) if to_confirm => {
                links.timer = Some(self.arm(plan.generation, within));
                self.store.save(FILE, &links.saved)?;
            }
            _ => self.settle(&mut links)?,
        }
        info!("network plan {}: {} changes, {:?}", plan.generation.0, report.changed.len(), report.outcome);
        Ok(Applied { pending: links.timer.is_some(), ..report })
    }

    /// Confirms the pending plan of this generation. Doing it twice is good.
    pub(crate) async fn commit(&self, generation: Generation) -> Result<(), ChangeError> {
        let mut links = self.state.lock().await;
        admit::commit(&links.saved, generation)?;
        links.timer = None;
        self.settle(&mut links)?;
        Ok(())
    }

    /// The links now, and where the node stands with its plan.
    pub(crate) async fn state(&self) -> Result<NetworkState, ChangeError> {
        let links = self.state.lock().await;
        let left = |timer: &Timer| timer.deadline.saturating_duration_since(Instant::now()).as_millis();
        Ok(NetworkState {
            links: self.executor.observe().await.map_err(ChangeError::Observe)?,
            generation: links.saved.plan.as_ref().map(|plan| plan.generation),
            pending_ms: links.timer.as_ref().map(|timer| u32::try_from(left(timer)).unwrap_or(u32::MAX)),
            taken_back: links.taken_back.clone(),
        })
    }

    fn settle(&self, links: &mut Links) -> Result<(), StoreError> {
        links.saved.before = None;
        links.taken_back = None;
        self.store.save(FILE, &links.saved)
    }

    fn arm(self: &Arc<Self>, generation: Generation, within: ConfirmWithin) -> Timer {
        let deadline = Instant::now() + Duration::from_millis(u64::from(within.ms()));
        let network = Arc::clone(self);
        let task = tokio::spawn(async move {
            sleep_until(deadline).await;
            // A task of its own: to take the plan back removes the timer, which ends this task.
            tokio::spawn(async move { network.expire(generation, deadline).await });
        });
        Timer { deadline, task: task.abort_handle() }
    }

    async fn expire(&self, generation: Generation, deadline: Instant) {
        let mut links = self.state.lock().await;
        // Committed, or sent again, while this waited for the lock.
        if links.timer.as_ref().is_some_and(|timer| timer.deadline == deadline) {
            warn!("network plan {}: not confirmed in time", generation.0);
            self.take_back(&mut links, "it was not confirmed in time").await;
        }
    }

    /// Takes the plan back that is pending, if one is.
    async fn take_back(&self, links: &mut Links, why: &str) {
        links.timer = None;
        let (Some(plan), Some(before)) = (&links.saved.plan, &links.saved.before) else { return };
        let generation = plan.generation;
        let outcome = back(&self.executor, before, plan, why).await;
        warn!("network plan {} taken back: {outcome:?}", generation.0);
        links.saved.stands = false;
        // Once is enough: a way back that failed is told, and a new plan leads on.
        links.saved.before = None;
        links.taken_back = Some(TakenBack { generation, outcome });
        if let Err(error) = self.store.save(FILE, &links.saved) {
            warn!("{}", crate::chain(&error));
        }
    }
}

async fn back<E: Executor>(executor: &E, before: &CurrentLinks, plan: &NetworkPlan, why: &str) -> Outcome {
    let why = why.to_owned();
    match executor.restore(before, plan).await {
        Ok(report) => match report.outcome {
            Outcome::RollbackFailed { then, .. } => Outcome::RollbackFailed { why, then },
            Outcome::Unchanged => Outcome::Unchanged,
            Outcome::Applied | Outcome::RolledBack { .. } => Outcome::RolledBack { why },
        },
        Err(error) => Outcome::RollbackFailed { why, then: crate::chain(&error) },
    }
}
