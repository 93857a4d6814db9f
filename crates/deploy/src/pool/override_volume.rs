//! Opening a volume of which no copy is known to be good: an operator declares one to be, and all others are made from it.
//!
//! Purpose: [`choose_override`] decides from what the ledger says which copy that is, and what may be lost by it; [`override_volume`] has it done and waits
//! until the volume is open.
//!
//! Invariants: only a volume that is offline is overridden, and only with a copy on a node that answers. The ledger is asked by the epoch and the leg's
//! incarnation that the operator was told of, so that anything that has happened since is no part of it. It keeps who ordered it, and what was told.
//!
//! On failure: [`CantOverride`], nothing has changed; [`PoolError`]: what was done stands, and `twinrack volume show` says what it is.

use super::volume::{confirmed, leg_in_words, opened, phase_in_words};
use super::{POLL, PoolError, VolumeReady, settle, views};
use crate::Member;
use control::state::{Base, Doubt, Leg, LegState, Phase};
use control::{Command, LegRef, State, VolumeCommand};
use model::{Epoch, LegId, NodeId, VolumeId};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A copy that is declared to be good, and what that may lose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverridePlan {
    /// Of which volume.
    pub volume: VolumeId,
    epoch: Epoch,
    /// Which copy.
    pub leg: LegRef,
    /// The node that has it, and owns the volume from now on.
    pub owner: NodeId,
    /// What may be lost, a line each.
    pub loses: Vec<String>,
}

impl fmt::Display for OverridePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.loses.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Why no copy is declared to be good. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantOverride {
    /// The ledger does not know it.
    #[error("there is no {0}")]
    NoVolume(VolumeId),
    /// It has copies that are known to be good.
    #[error("{volume} is {phase}: it has a copy that is good")]
    NotOffline {
        /// Which.
        volume: VolumeId,
        /// In which phase it is.
        phase: String,
    },
    /// It has no such copy.
    #[error("{0} has no {1}")]
    NoLeg(VolumeId, LegId),
    /// It never had everything.
    #[error("{0} is being made in the place of another copy: it never had everything")]
    Moving(LegId),
    /// It has never had everything.
    #[error("{0} was added and has never had everything: nothing of it can be taken for good")]
    NeverHeldAll(LegId),
    /// Nobody who answers has a copy, or not the one that was named.
    #[error("no node that answers has {what}")]
    Silent {
        /// What is looked for.
        what: String,
    },
}

impl CantOverride {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotOffline { .. } => {
                "nothing is to be overridden; `twinrack volume show` says what it waits for"
            }
            Self::Silent { .. } => "give power to a node that has a copy, or name another with --leg",
            Self::NoVolume(_) | Self::NoLeg(..) | Self::Moving(_) | Self::NeverHeldAll(_) => {
                "`twinrack volume show` has the copies"
            }
        }
    }
}

/// How much a copy is likely to lack; the least first.
fn lacks(state: LegState) -> u8 {
    match state {
        LegState::InSync => 0,
        LegState::Suspect { why: Doubt::Unproven } => 1,
        LegState::Suspect { why: Doubt::CacheLost } => 2,
        LegState::Suspect { why: Doubt::Errored } => 3,
        LegState::Stale { base: Base::Changes, .. } | LegState::Rebuilding { .. } => 4,
        LegState::Stale { base: Base::Scratch, .. } => 5,
    }
}

/// What is lost with a copy as it is.
fn loss(leg: &Leg) -> &'static str {
    match leg.state {
        LegState::InSync => "nothing that was acknowledged",
        LegState::Suspect { why: Doubt::Unproven } => {
            "writes that were acknowledged without it, if the lost majority had taken it out before"
        }
        LegState::Suspect { why: Doubt::CacheLost } => "what its drive had not flushed when it restarted",
        LegState::Suspect { why: Doubt::Errored } => {
            "what its drive can't read, and all that was written since it erred"
        }
        LegState::Stale { .. } | LegState::Rebuilding { .. } => {
            "what was written since it was taken out; of a copy that was half made anything"
        }
    }
}

/// Decides which copy is declared to be good: the one that was named, or, of those whose nodes answer, the one that is likely to lack least.
pub fn choose_override(
    state: &State,
    answering: &BTreeSet<NodeId>,
    id: VolumeId,
    named: Option<LegId>,
) -> Result<OverridePlan, CantOverride> {
    let volume = state.volumes.get(&id).ok_or(CantOverride::NoVolume(id))?;
    if volume.phase != Phase::Offline {
        return Err(CantOverride::NotOffline { volume: id, phase: phase_in_words(&volume.phase) });
    }
    if let Some(named) = named {
        let leg = volume.legs.get(&named).ok_or(CantOverride::NoLeg(id, named))?;
        if leg.replaces.is_some() {
            return Err(CantOverride::Moving(named));
        }
        if !leg.held_all {
            return Err(CantOverride::NeverHeldAll(named));
        }
    }
    let there = volume
        .legs
        .iter()
        .filter(|(_, found)| found.replaces.is_none() && found.held_all && !state.is_lost(found.drive))
        .filter(|(leg, _)| named.is_none_or(|named| named == **leg));
    let there = there.filter_map(|(leg, found)| {
        let node = state.node_of(found).filter(|node| answering.contains(node) && state.is_member(*node))?;
        Some((lacks(found.state), *leg, node, found))
    });
    let best = there.min_by_key(|(lacks, leg, ..)| (*lacks, *leg));
    let what = || named.map_or_else(|| "a copy of it".to_owned(), |leg| leg.to_string());
    let (_, leg, owner, found) = best.ok_or_else(|| CantOverride::Silent { what: what() })?;
    let place = |node: Option<NodeId>| {
        let name = node.and_then(|node| state.nodes.get(&node)).map(|node| node.name.to_string());
        name.unwrap_or_else(|| "a node that is gone".to_owned())
    };
    let now = leg_in_words(found.state);
    let mut loses = vec![format!(
        "{leg} on {}, which is {now}, is taken for good; lost is {}",
        place(Some(owner)),
        loss(found)
    )];
    loses.extend(volume.legs.iter().filter(|(other, _)| **other != leg).map(|(other, found)| {
        format!(
            "{other} on {} is made anew from it: what only that one has is lost",
            place(state.node_of(found))
        )
    }));
    let leg = LegRef { id: leg, incarnation: found.incarnation };
    Ok(OverridePlan { volume: id, epoch: volume.epoch, leg, owner, loses })
}

/// What a leader says whom a quorum has confirmed, and which nodes answer.
pub async fn answering(members: &[Member], bound: Duration) -> Result<(State, BTreeSet<NodeId>), PoolError> {
    let (_, state) = confirmed(members, bound).await?;
    let views = views(members).await;
    // After a forced quorum others may still answer by the old ledger's ids.
    let present = views.iter().filter(|(_, view)| view.state.incarnation == state.incarnation);
    let nodes = present.map(|(_, view)| view.node).collect();
    Ok((state, nodes))
}

/// Declares the copy to be good, as `by` was told, and waits until the volume is open.
pub async fn override_volume(
    members: &[Member],
    plan: &OverridePlan,
    by: &str,
    bound: Duration,
) -> Result<VolumeReady, PoolError> {
    let deadline = Instant::now() + bound;
    let (contact, _) = confirmed(members, bound).await?;
    let OverridePlan { volume: id, epoch, leg, owner, ref loses } = *plan;
    let (by, loses) = (by.to_owned(), loses.join("; "));
    let command = Command::Volume(id, epoch, VolumeCommand::Override { leg, owner, by, loses });
    let begun = |state: &State| state.volumes.get(&id).is_none_or(|volume| volume.epoch > epoch);
    settle(contact, &format!("{id} to be overridden"), bound, &command, begun).await?;
    loop {
        let last = match opened(&views(members).await, id) {
            Ok(ready) => return Ok(ready),
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            return Err(PoolError::Late { what: format!("{id} to be open"), bound, last: Some(last) });
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
#[path = "override_tests.rs"]
mod tests;
