//! What the time is made of that writes or a volume wait around a fault, as far as the ledger tells who asks it again and again.
//!
//! Purpose: [`Steps`] are the stages that a volume was seen in, [`Commits`] what the writer's node knew while its writes waited.
//!
//! Invariants: a moment is when an answer with it came, so that it is late by what an answer takes and by the time between two. What was
//! over between two answers was not seen.
//!
//! On failure: what was not seen is not told.

use super::milliseconds;
use crate::events::TookOver;
use api::ClusterView;
use control::state::{Phase, Volume};
use deploy::Member;
use model::{Epoch, NodeName, VolumeId};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often the writer's node is asked: each answer costs it what its volume would need.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How many stages are kept.
const STEPS_MAX: usize = 64;

/// A volume's phase, without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Fencing,
    Opening,
    Open,
    Other,
}

/// The stages that a volume was seen in, each when it was first.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(Vec<(Instant, Epoch, Stage)>);

impl Steps {
    /// The volume is so now.
    pub(super) fn see(&mut self, volume: &Volume) {
        let stage = match volume.phase {
            Phase::Fencing { .. } => Stage::Fencing,
            Phase::Opening { .. } => Stage::Opening,
            Phase::Open { .. } => Stage::Open,
            Phase::Closed | Phase::Offline => Stage::Other,
        };
        if self.0.last().is_none_or(|(_, epoch, last)| (*epoch, *last) != (volume.epoch, stage)) {
            self.0.push((Instant::now(), volume.epoch, stage));
        }
        if self.0.len() > STEPS_MAX {
            self.0.remove(0);
        }
    }

    /// When after a fault the volume, which can be used now, was given to another owner, activated and opened.
    pub(super) fn since(&self, fault: Instant, owner: &NodeName, now: Instant) -> TookOver {
        let (last, after) = (self.0.last().map(|(_, epoch, _)| *epoch), fault);
        let first = |stages: &[Stage]| {
            let of_last = self.0.iter().filter(|(at, epoch, _)| Some(*epoch) == last && *at > after);
            of_last
                .filter(|(_, _, stage)| stages.contains(stage))
                .map(|(at, ..)| milliseconds(at.duration_since(fault)))
                .next()
        };
        TookOver {
            owner: owner.to_string(),
            decided_after_ms: first(&[Stage::Fencing, Stage::Opening, Stage::Open]),
            fenced_after_ms: first(&[Stage::Opening, Stage::Open]),
            assembled_after_ms: first(&[Stage::Open]),
            usable_after_ms: milliseconds(now.duration_since(fault)),
        }
    }
}

/// What the writer's node knew since a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Whether who led the ledger at the first answer does not work.
    leader_lost: bool,
    /// When it first knew another leader after that, milliseconds after the fault.
    pub(super) leader_after_ms: Option<u64>,
    /// When it first knew that a leg is not in sync any more, milliseconds after the fault.
    pub(super) stale_after_ms: Option<u64>,
}

/// Asks the writer's node until it is dropped.
pub(super) struct Commits {
    known: Arc<Mutex<Known>>,
    asking: AbortHandle,
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

impl Commits {
    /// `down`: the nodes that don't work.
    pub(super) fn ask(member: Member, volume: VolumeId, down: BTreeSet<NodeName>, fault: Instant) -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let told = Arc::clone(&known);
        let asking = tokio::spawn(async move {
            loop {
                let answer = timeout(ANSWER_LIMIT, deploy::pool::view(&member)).await;
                if let Ok(Ok(Some(view))) = answer {
                    let after_ms = milliseconds(fault.elapsed());
                    told.lock().unwrap_or_else(PoisonError::into_inner).see(&view, volume, &down, after_ms);
                }
                sleep(ASK_EVERY).await;
            }
        });
        Self { known, asking: asking.abort_handle() }
    }

    pub(super) fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn see(&mut self, view: &ClusterView, volume: VolumeId, down: &BTreeSet<NodeName>, after_ms: u64) {
        let leader = view.leader.and_then(|leader| view.state.nodes.get(&leader)).map(|node| &node.name);
        let works = leader.is_some_and(|leader| !down.contains(leader));
        if !works {
            self.leader_lost = true;
        } else if self.leader_lost {
            self.leader_after_ms.get_or_insert(after_ms);
        }
        let lacks = view.state.volumes.get(&volume).is_some_and(|it| it.in_sync().count() < it.legs.len());
        if lacks {
            self.stale_after_ms.get_or_insert(after_ms);
        }
    }
}
