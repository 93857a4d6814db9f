//! Brings a plan to the kernel: observe, diff, execute, read back; take it back if that fails.
//!
//! Invariants: nothing is executed when there is nothing to do. What is gone is left out of the way back, not the way back
//! because of it ([`crate::way_back`]); then it has failed, and says what is gone. After the first operation there are three ends: applied
//! and verified, rolled back and verified, or neither, which says both reasons.
//!
//! Not here: the dead-man timer and reaching the peers. The agent keeps the observation from before ([`Netlink::observe`])
//! on disk and calls [`restore`] with it when it doesn't hear that all is well.

use super::netlink::{Known, Netlink, NetlinkError};
use crate::diff::{DiffError, diff};
use crate::link::{AdapterMap, CurrentLinks};
use crate::op::Op;
use crate::plan::NetworkPlan;
use crate::way_back::revert;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::time::Instant;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel's links are not known.
    #[error("can't see the node's links")]
    Observe(#[from] NetlinkError),
    /// No way leads to the plan.
    #[error("there is no way to the plan")]
    Diff(#[from] DiffError),
}

/// How an apply ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum ApplyOutcome {
    /// There was nothing to do.
    Unchanged,
    /// Done, and read back.
    Applied,
    /// It failed, and all is as it was.
    RolledBack {
        /// What failed.
        why: String,
    },
    /// It failed, and so did the way back.
    RollbackFailed {
        /// What failed.
        why: String,
        /// What failed on the way back.
        then: String,
    },
}

/// What an apply did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// Operations that the kernel carried out, in order, those of the way back included.
    pub changed: Vec<Op>,
    /// Whether the links were read back and are as the plan says.
    pub verified: bool,
    /// How long it took, µs.
    pub duration_us: u64,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: ApplyOutcome,
}

/// Makes the node's links as the plan says.
pub async fn apply(
    netlink: &Netlink,
    plan: &NetworkPlan,
    adapters: &AdapterMap,
) -> Result<ApplyReport, ApplyError> {
    let start = Instant::now();
    let before = netlink.observe().await?;
    let ops = diff(&before, plan, adapters)?;
    let mut changed = Vec::new();
    let outcome = if ops.is_empty() {
        ApplyOutcome::Unchanged
    } else {
        match forward(netlink, (&before, &ops), plan, adapters, &mut changed).await {
            Ok(()) => ApplyOutcome::Applied,
            Err(why) => match back(netlink, &before, plan, adapters, &mut changed).await {
                Ok(()) => ApplyOutcome::RolledBack { why },
                Err(then) => ApplyOutcome::RollbackFailed { why, then },
            },
        }
    };
    let verified = matches!(outcome, ApplyOutcome::Unchanged | ApplyOutcome::Applied);
    Ok(ApplyReport { changed, verified, duration_us: micros(start), outcome })
}

/// Makes our links, and the NICs of `plan`, as they were `before`. The way back when an applied plan turns out badly.
pub async fn restore(
    netlink: &Netlink,
    before: &CurrentLinks,
    plan: &NetworkPlan,
    adapters: &AdapterMap,
) -> Result<ApplyReport, ApplyError> {
    let start = Instant::now();
    let now = netlink.observe().await?;
    let way = revert(&now, before, plan, adapters)?;
    let mut changed = Vec::new();
    let why = "asked to go back".to_owned();
    let outcome = if way.left().is_none() {
        ApplyOutcome::Unchanged
    } else {
        match back(netlink, before, plan, adapters, &mut changed).await {
            Ok(()) => ApplyOutcome::RolledBack { why },
            Err(then) => ApplyOutcome::RollbackFailed { why, then },
        }
    };
    Ok(ApplyReport { changed, verified: false, duration_us: micros(start), outcome })
}

async fn forward(
    netlink: &Netlink,
    (now, ops): (&CurrentLinks, &[Op]),
    plan: &NetworkPlan,
    adapters: &AdapterMap,
    changed: &mut Vec<Op>,
) -> Result<(), String> {
    execute(netlink, now, ops, changed).await?;
    let after = netlink.observe().await.map_err(|error| chain(&error))?;
    let left = diff(&after, plan, adapters).map_err(|error| chain(&error))?;
    nothing_left(&left)
}

async fn back(
    netlink: &Netlink,
    before: &CurrentLinks,
    plan: &NetworkPlan,
    adapters: &AdapterMap,
    changed: &mut Vec<Op>,
) -> Result<(), String> {
    let now = netlink.observe().await.map_err(|error| chain(&error))?;
    let way = revert(&now, before, plan, adapters).map_err(|error| chain(&error))?;
    execute(netlink, &now, &way.ops, changed).await?;
    let after = netlink.observe().await.map_err(|error| chain(&error))?;
    let left = revert(&after, before, plan, adapters).map_err(|error| chain(&error))?.left();
    left.map_or(Ok(()), Err)
}

/// Carries operations out on links that were just seen as `now`.
async fn execute(
    netlink: &Netlink,
    now: &CurrentLinks,
    ops: &[Op],
    changed: &mut Vec<Op>,
) -> Result<(), String> {
    let mut known = Known::of(now);
    for op in ops {
        netlink.execute_knowing(op, &mut known).await.map_err(|error| chain(&error))?;
        changed.push(op.clone());
    }
    Ok(())
}

fn nothing_left(left: &[Op]) -> Result<(), String> {
    if left.is_empty() {
        return Ok(());
    }
    let left: Vec<String> = left.iter().map(Op::to_string).collect();
    Err(format!("read back, the kernel still needs to {}", left.join(", ")))
}

/// An error with all that led to it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
