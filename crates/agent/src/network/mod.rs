//! The node's links: plans in, the kernel's state out.
//!
//! ```text
//!                       plan                  commit
//!   settled, taken back ─────────▶ pending ────────────▶ settled
//!        ▲                          │ it failed; no confirmation in time; the agent ends or restarts
//!        │ links as before          ▼
//!        └───────────────────── taking back ◄──┐
//!                                   └──────────┘ failed: again after 1, 2, 4 … 60 s, [`TRIES_MAX`] times; then at the
//!                                                agent's next start, or before the next plan, which may also lead on
//! ```
//! What to do is decided by [`admit`] (may this plan be taken up?) and by the network crate (which operations). Here is
//! the order of doing it: what leads back is on disk ([`saved`]) before the first operation and until the end is certain,
//! so that an agent that dies half-way leaves a node that the next agent puts right; and the timer runs before the
//! first operation.
//!
//! Invariants: one plan at a time; while the plan is open on disk and the agent lives, a timer runs that takes it back, or the
//! tries have ended and the state says `rollback-failed`; memory is what the disk says in this boot ([`Saved::at_start`]) and
//! never runs ahead of it; the newest generation that was taken up is never forgotten where the store outlives the machine.
//! `tests/deaths.rs` kills the agent and the machine at every step and holds these.
//!
//! **The timer outlives the agent** as long as something starts the next one, whose first act is to take back: on a lab node
//! init does, for ever, and it kills an agent that has frozen ([`crate::pulse`]); on a host its service manager must
//! (docs/network.md). An agent that is told to end (SIGTERM) takes a pending plan back first.
//!
//! **The machine dies.** Its links are gone, so nothing has to be taken back: an open plan is dropped, and the plan that was
//! last committed is made again, at the agent's start and then as often as a plan is taken back, until it is. A new plan need
//! not wait for that.
//!
//! **Sent again.** The same plan under the same generation is always taken: while it waits, its time starts anew, and the way
//! back still leads to before the first time. A commit may be repeated too. So who lost an answer just asks again. *Another* plan
//! is refused while one waits ([`Refused::Pending`]); that includes the same links under a new generation.
//!
//! A new plan that leads on from one that is stuck takes over its way back: our links, and the NICs that the new plan
//! names. Plans name all of a node's adapters, so that is all of them.
//!
//! **Drift.** While a plan is in force, [`drift`] looks again and again whether the links are as it says, and makes them so.
//!
//! On failure: [`ChangeError`]; the links are as they were unless the outcome or the state says otherwise.

mod admit;
mod changes;
mod drift;
mod give_back;
mod kernel;
mod saved;
#[cfg(test)]
mod tests;

pub(crate) use admit::Refused;
pub(crate) use changes::{Changes, NotWatching};
pub(crate) use kernel::{Executor, Kernel};

use crate::chain;
use crate::store::{Store, StoreError};
use admit::admit;
use api::{Applied, ApplyRequest, Committed, ConfirmWithin, NetworkState, Outcome, TakenBack};
use model::NodeName;
use network::kernel::{ApplyError, NetlinkError};
use network::{CurrentLinks, Generation, NetworkPlan};
pub(crate) use saved::BootId;
use saved::{Disk, Found, Saved, Stage};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// How often a plan is tried to be taken back, or to be made again, over six minutes: a kernel that still refuses then needs somebody's hand.
const TRIES_MAX: u32 = 12;
/// Between tries, at most.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// A plan that needs no confirmation is taken back after this time if the agent could not finish with it.
const UNFINISHED: Duration = Duration::from_mins(1);

/// Why a plan was not taken up, or not committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("can't see the node's links")]
    Observe(#[source] NetlinkError),
    #[error("the plan can't be applied")]
    Apply(#[source] ApplyError),
    #[error("can't remember what becomes of the plan")]
    Store(#[from] StoreError),
    #[error("the links are not given back: {0}")]
    NotGivenBack(String),
}

/// The node's links.
#[derive(Debug)]
pub(crate) struct Network<E, D = Store> {
    node: NodeName,
    boot: BootId,
    executor: E,
    disk: D,
    state: Mutex<Links>,
    drifts: drift::Shared,
}

/// What is known about the links.
#[derive(Debug, Default)]
struct Links {
    /// As it is on disk, read in this boot.
    saved: Saved,
    next: Next,
    stopping: bool,
}

/// What comes next by itself. `Nothing` exactly when no plan is open and the committed one was made in this boot.
#[derive(Debug, Default)]
enum Next {
    #[default]
    Nothing,
    /// The plan is taken back when the time is up. Only one that `stands`, made and read back, may be committed.
    TakeBack { timer: Timer, stands: bool },
    /// It could not be taken back (or not be remembered that it was). No timer: these were all tries.
    TryAgain { tries: u32, outcome: Outcome, timer: Option<Timer> },
    /// The committed plan could not be made in this boot, for this reason. No timer: as above.
    MakeAgain { tries: u32, why: String, timer: Option<Timer> },
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

impl Links {
    fn timer(&self) -> Option<&Timer> {
        match &self.next {
            Next::Nothing => None,
            Next::TakeBack { timer, .. } => Some(timer),
            Next::TryAgain { timer, .. } | Next::MakeAgain { timer, .. } => timer.as_ref(),
        }
    }

    fn is_stuck(&self) -> bool {
        matches!(self.next, Next::TryAgain { .. })
    }

    fn stands(&self) -> bool {
        matches!(self.next, Next::TakeBack { stands: true, .. })
    }

    /// The plan that the links shall be like, if one is: settled, with nothing pending and no end near.
    fn in_force(&self) -> Option<&NetworkPlan> {
        let settled = self.saved.stage == Stage::Settled && matches!(self.next, Next::Nothing);
        self.saved.plan.as_ref().filter(|_| settled && !self.stopping)
    }

    /// What the node is on when nothing is pending, and why it isn't.
    fn committed(&self, here: &BootId) -> Option<Committed> {
        let generation = self.saved.committed.as_ref()?.generation;
        let why = || match &self.next {
            Next::MakeAgain { why, .. } => why.clone(),
            Next::Nothing | Next::TakeBack { .. } | Next::TryAgain { .. } => {
                "another plan came before it was made in this boot".to_owned()
            }
        };
        Some(Committed { generation, not_made: (!self.saved.is_made_in(here)).then(why) })
    }

    /// How the newest plan was taken back, if it was or should have been.
    fn taken_back(&self) -> Option<TakenBack> {
        let generation = self.saved.plan.as_ref()?.generation;
        let outcome = match (&self.next, &self.saved.stage) {
            (Next::TryAgain { outcome, .. }, _) => outcome.clone(),
            (_, Stage::TakenBack { why }) => Outcome::RolledBack { why: why.clone() },
            (_, Stage::Settled | Stage::Open { .. }) => return None,
        };
        Some(TakenBack { generation, outcome })
    }
}

impl<E: Executor, D: Disk> Network<E, D> {
    /// Takes up what an earlier agent left: a plan that nobody confirmed is taken back first of all; in another boot, the
    /// committed one is made.
    pub(crate) async fn start(
        node: NodeName,
        boot: BootId,
        executor: E,
        disk: D,
    ) -> Result<Arc<Self>, StoreError> {
        let links = Links { saved: disk.load()?.at_start(&boot), ..Links::default() };
        let network = Arc::new(Self {
            node,
            boot,
            executor,
            disk,
            state: Mutex::new(links),
            drifts: drift::Shared::default(),
        });
        let mut links = network.state.lock().await;
        if network.take_back(&mut links, "the agent restarted before it was confirmed").await.is_none() {
            network.make_again(&mut links).await;
        }
        drop(links);
        Ok(network)
    }

    /// Makes the links as the plan says. Don't drop the future half-way: run it as a task of its own.
    pub(crate) async fn apply(self: &Arc<Self>, request: ApplyRequest) -> Result<Applied, ChangeError> {
        let ApplyRequest { plan, confirm_within_ms } = request;
        let mut links = self.state.lock().await;
        if links.stopping {
            return Err(Refused::Stopping.into());
        }
        admit(&self.node, &links.saved, links.is_stuck(), &plan)?;
        if links.is_stuck() {
            self.take_back(&mut links, "a new plan came").await;
        }
        let now = self.executor.observe().await.map_err(ChangeError::Observe)?;
        // Nothing is remembered of a plan that no way leads to: no way would lead back from it either.
        self.executor.check(&now, &plan).map_err(ChangeError::Apply)?;
        // The way back leads to before the first attempt, however often the plan is sent.
        let (before, was_open) = match &links.saved.stage {
            Stage::Open { before, .. } => (before.clone(), true),
            Stage::Settled | Stage::TakenBack { .. } => (now, false),
        };
        let found = self.found(&links.saved, &before);
        let stage = Stage::Open { before, boot: Some(self.boot.clone()) };
        let saved = Saved { plan: Some(plan.clone()), stage, found, ..links.saved.clone() };
        self.save(&mut links, saved)?;
        let unfinished = confirm_within_ms.map_or(UNFINISHED, confirm_within);
        links.next = Next::TakeBack { timer: self.arm(unfinished), stands: false };
        let report = match self.executor.apply(&plan).await {
            Ok(report) => report,
            Err(error) => {
                self.take_back(&mut links, &chain(&error)).await;
                return Err(ChangeError::Apply(error));
            }
        };
        let report = match report.outcome {
            Outcome::RolledBack { ref why } | Outcome::RollbackFailed { ref why, .. } => {
                let outcome = self.take_back(&mut links, why).await.unwrap_or(report.outcome);
                Applied { outcome, ..report }
            }
            Outcome::Applied | Outcome::Unchanged => {
                let to_confirm = report.outcome == Outcome::Applied || was_open;
                self.made(&mut links, confirm_within_ms.filter(|_| to_confirm))?;
                report
            }
        };
        info!("network plan {}: {} changes, {:?}", plan.generation.0, report.changed.len(), report.outcome);
        Ok(Applied { pending: links.stands(), ..report })
    }

    /// Confirms the pending plan of this generation. Doing it twice is good.
    pub(crate) async fn commit(self: &Arc<Self>, generation: Generation) -> Result<(), ChangeError> {
        let mut links = self.state.lock().await;
        admit::commit(&links.saved, links.stands(), generation)?;
        self.settle(&mut links)?;
        Ok(())
    }

    /// The links now, whatever is being done to them.
    pub(crate) async fn links(&self) -> Result<CurrentLinks, NetlinkError> {
        self.executor.observe().await
    }

    /// The links now, and where the node stands with its plan.
    pub(crate) async fn state(&self) -> Result<NetworkState, ChangeError> {
        let links = self.state.lock().await;
        let left = |timer: &Timer| timer.deadline.saturating_duration_since(Instant::now()).as_millis();
        let pending = match &links.next {
            Next::TakeBack { timer, .. } => Some(timer),
            Next::Nothing | Next::TryAgain { .. } | Next::MakeAgain { .. } => None,
        };
        Ok(NetworkState {
            links: self.executor.observe().await.map_err(ChangeError::Observe)?,
            generation: links.saved.plan.as_ref().map(|plan| plan.generation),
            pending_ms: pending.map(|timer| u32::try_from(left(timer)).unwrap_or(u32::MAX)),
            taken_back: links.taken_back(),
            drifts: self.drifts.all(),
            committed: links.committed(&self.boot),
            compute_vlans: links.in_force().map(|plan| plan.compute_vlans.clone()).unwrap_or_default(),
        })
    }

    /// Ends with no plan pending: one that is, is taken back. No other is taken up from now on.
    pub(crate) async fn stop(self: &Arc<Self>) {
        let mut links = self.state.lock().await;
        links.stopping = true;
        self.take_back(&mut links, "the agent ended before it was confirmed").await;
    }

    /// The plan was made and read back: it waits for its confirmation, or needs none.
    fn made(self: &Arc<Self>, links: &mut Links, confirm: Option<ConfirmWithin>) -> Result<(), StoreError> {
        match confirm {
            Some(within) => {
                links.next = Next::TakeBack { timer: self.arm(confirm_within(within)), stands: true };
                Ok(())
            }
            None => self.settle(links),
        }
    }

    fn settle(&self, links: &mut Links) -> Result<(), StoreError> {
        let plan = links.saved.plan.clone();
        let made_in = Some(self.boot.clone());
        let saved =
            Saved { committed: plan.clone(), plan, stage: Stage::Settled, made_in, ..links.saved.clone() };
        self.save(links, saved)?;
        links.next = Next::Nothing;
        Ok(())
    }

    /// On disk first, then in memory: when it fails, memory is still as the disk.
    fn save(&self, links: &mut Links, saved: Saved) -> Result<(), StoreError> {
        self.disk.save(&saved)?;
        links.saved = saved;
        Ok(())
    }

    fn arm(self: &Arc<Self>, within: Duration) -> Timer {
        let deadline = Instant::now() + within;
        let network = Arc::clone(self);
        let task = tokio::spawn(async move {
            sleep_until(deadline).await;
            // A task of its own: to take the plan back removes the timer, which ends this task.
            tokio::spawn(async move { network.expire(deadline).await });
        });
        Timer { deadline, task: task.abort_handle() }
    }

    async fn expire(self: &Arc<Self>, deadline: Instant) {
        let mut links = self.state.lock().await;
        // Committed, or sent again, while this waited for the lock.
        if links.timer().is_none_or(|timer| timer.deadline != deadline) {
            return;
        }
        match links.next {
            Next::MakeAgain { .. } => self.make_again(&mut links).await,
            Next::Nothing | Next::TakeBack { .. } | Next::TryAgain { .. } => {
                self.take_back(&mut links, "it was not confirmed in time").await;
            }
        }
    }

    /// Makes the committed plan, if that has not been done in this boot.
    async fn make_again(self: &Arc<Self>, links: &mut Links) {
        if links.saved.is_made_in(&self.boot) {
            return;
        }
        let tries = match links.next {
            Next::MakeAgain { tries, .. } => tries.saturating_add(1),
            Next::Nothing | Next::TakeBack { .. } | Next::TryAgain { .. } => 1,
        };
        // The next try is certain before this one begins.
        links.next = self.make_later(tries, "the agent is at it");
        match self.make(links).await {
            Ok(()) => links.next = Next::Nothing,
            Err(why) => {
                warn!("the committed network plan can't be made, try {tries}: {why}");
                links.next = self.make_later(tries, &why);
            }
        }
    }

    async fn make(&self, links: &mut Links) -> Result<(), String> {
        if let Some(plan) = links.saved.committed.clone() {
            if links.saved.found_in(&self.boot).is_none() {
                let now = self.executor.observe().await.map_err(|error| chain(&error))?;
                let found = self.found(&links.saved, &now);
                self.save(links, Saved { found, ..links.saved.clone() }).map_err(|error| chain(&error))?;
            }
            let report = self.executor.apply(&plan).await.map_err(|error| chain(&error))?;
            if let Some(why) = reason(&report.outcome) {
                return Err(why.to_owned());
            }
            info!("network plan {} made in another boot: {:?}", plan.generation.0, report.outcome);
        }
        let made = Saved { made_in: Some(self.boot.clone()), ..links.saved.clone() };
        self.save(links, made).map_err(|error| chain(&error))
    }

    fn make_later(self: &Arc<Self>, tries: u32, why: &str) -> Next {
        Next::MakeAgain { tries, why: why.to_owned(), timer: pause(tries).map(|pause| self.arm(pause)) }
    }

    /// Takes the plan back that is open, if one is; says how that ended.
    async fn take_back(self: &Arc<Self>, links: &mut Links, why: &str) -> Option<Outcome> {
        let (Some(plan), Stage::Open { before, .. }) = (links.saved.plan.clone(), &links.saved.stage) else {
            return None;
        };
        let before = before.clone();
        let (tries, why) = match &links.next {
            // What counts is why it began.
            Next::TryAgain { tries, outcome, .. } => {
                (tries.saturating_add(1), reason(outcome).unwrap_or(why))
            }
            Next::Nothing | Next::TakeBack { .. } | Next::MakeAgain { .. } => (1, why),
        };
        let why = why.to_owned();
        // The next try is certain before this one begins.
        self.try_again(
            links,
            tries,
            Outcome::RollbackFailed { why: why.clone(), then: "not ended".to_owned() },
        );
        let outcome = match restore(&self.executor, &before, &plan).await {
            Ok(()) => Outcome::RolledBack { why: why.clone() },
            Err(then) => Outcome::RollbackFailed { why: why.clone(), then },
        };
        warn!("network plan {} taken back, try {tries}: {outcome:?}", plan.generation.0);
        if let Outcome::RolledBack { .. } = outcome {
            let saved = Saved { stage: Stage::TakenBack { why }, ..links.saved.clone() };
            match self.save(links, saved) {
                Ok(()) => {
                    let is_made = links.saved.is_made_in(&self.boot);
                    links.next =
                        if is_made { Next::Nothing } else { self.make_later(1, "it waits its turn") };
                    return Some(outcome);
                }
                Err(error) => warn!("{}", chain(&error)),
            }
        }
        self.try_again(links, tries, outcome.clone());
        Some(outcome)
    }

    fn try_again(self: &Arc<Self>, links: &mut Links, tries: u32, outcome: Outcome) {
        links.next = Next::TryAgain { tries, outcome, timer: pause(tries).map(|pause| self.arm(pause)) };
    }
}

fn confirm_within(within: ConfirmWithin) -> Duration {
    Duration::from_millis(u64::from(within.ms()))
}

/// How long to wait after so many tries; `None`: that was the last one.
fn pause(tries: u32) -> Option<Duration> {
    let doubled = Duration::from_secs(1).saturating_mul(2u32.saturating_pow(tries.saturating_sub(1)));
    (tries < TRIES_MAX).then(|| doubled.min(PAUSE_MAX))
}

fn reason(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::RolledBack { why } | Outcome::RollbackFailed { why, .. } => Some(why),
        Outcome::Unchanged | Outcome::Applied => None,
    }
}

/// Puts the links back and sees that they are.
async fn restore<E: Executor>(executor: &E, before: &CurrentLinks, plan: &NetworkPlan) -> Result<(), String> {
    match executor.restore(before, plan).await {
        Ok(Applied { outcome: Outcome::RollbackFailed { then, .. }, .. }) => Err(then),
        Ok(_) => Ok(()),
        Err(error) => Err(chain(&error)),
    }
}
