//! A migration that is cut or given up in one of its stages: one side goes on. A failover whose leader is lost in one of its.
//!
//! Invariants: a stage is one that the ledger was seen in; a fault that is made then comes some milliseconds later, and may meet the next stage.
//!
//! On failure: what the product does not do is a step that does not hold.

use super::super::{Runner, Seen, milliseconds, or_failure};
use super::{Guest, READ_EVERY, run_of};
use crate::run::RunError;
use crate::suite::{FailoverStage, MigrationStage, Room, Step};
use control::vm::VmPhase;
use deploy::DeployError;
use deploy::pool::{newest, views};
use deploy::vms::{NotMoved, VmsError};
use model::NodeName;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the ledger is asked how far a migration is: stages take some hundred milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Runner<'_> {
    /// It is ordered to the first node of a room, and seen in a stage of that.
    pub(super) async fn begin_migrating(
        &mut self,
        room: Room,
        reaches: MigrationStage,
        within: Duration,
    ) -> Result<Seen, RunError> {
        self.read_consoles().await;
        self.listen_anew()?;
        let to = self.there(room).into_iter().next();
        let (Some(to), Some(guest)) = (to, &mut self.guest) else {
            return Ok(Seen::not("there is no virtual machine"));
        };
        guest.migrates = guest.last_run();
        let (id, members) = (guest.id, self.working().members);
        let begun = Instant::now();
        let ordered = deploy::vms::begin_migration(&members, id, &to, within).await;
        match ordered.map_err(DeployError::from) {
            Ok(Some(_)) => Ok(self.reaches(reaches, begun, within).await),
            Ok(None) => Ok(Seen::not(format!("it runs on {to} already"))),
            Err(error) => Ok(or_failure(Err(error))),
        }
    }

    async fn reaches(&self, stage: MigrationStage, begun: Instant, within: Duration) -> Seen {
        loop {
            let phase = self.phase().await.map(|(phase, _)| phase);
            match phase.and_then(|phase| stage_of(&phase)) {
                Some(found) if found == stage => {
                    return Seen::held(format!("after {} ms", milliseconds(begun.elapsed())));
                }
                Some(before) if before < stage && begun.elapsed() < within => {
                    sleep(LOOK_EVERY).await;
                }
                _ => return Seen::not(format!("it is {phase:?}")),
            }
        }
    }

    /// What the ledger has it doing, and on which node.
    async fn phase(&self) -> Option<(VmPhase, Option<NodeName>)> {
        let views = views(&self.working().members).await;
        let state = &newest(&views)?.state;
        let phase = self.phase_in(state)?;
        let node = phase.seat().and_then(|seat| state.nodes.get(&seat.node));
        Some((phase, node.map(|node| node.name.clone())))
    }

    /// Whoever leads loses its agent as soon as the failover has come so far.
    pub(super) async fn leader_dies(
        &mut self,
        room: Room,
        stage: FailoverStage,
        within: Duration,
    ) -> Result<Seen, RunError> {
        let (since, there) = (self.last_fault(), self.there(room));
        let far = loop {
            let phase = self.phase().await;
            let far = phase.as_ref().and_then(|(phase, node)| how_far(phase, node.as_ref(), &there));
            match far.filter(|far| *far >= stage) {
                Some(far) => break far,
                None if since.elapsed() >= within => return Ok(Seen::not(format!("it is {phase:?}"))),
                None => sleep(LOOK_EVERY).await,
            }
        };
        let after_ms = milliseconds(since.elapsed());
        let leader = self.leader().await;
        let Some((room, position)) = leader.as_ref().and_then(|leader| self.place_of(leader)) else {
            return Ok(Seen::not(format!("{leader:?} leads, and no node of the racks")));
        };
        let made = self.break_it(&Step::KillAgent { room, position }).await?;
        let what = format!("it was {far} after {after_ms} ms: {}", made.what);
        Ok(Seen { what, ..made })
    }

    /// It stays where it is, or it has gone over and goes on there: either is an answer.
    pub(super) async fn cancel_migration(&self, within: Duration) -> Seen {
        let Some(id) = self.guest.as_ref().map(|guest| guest.id) else {
            return Seen::not("there is no virtual machine");
        };
        match deploy::vms::cancel_migration(&self.working().members, id, within).await {
            Ok(()) => Seen::held("it is given up"),
            Err(VmsError::NotMoved { why: why @ NotMoved::HasMoved(_), .. }) => Seen::held(why.to_string()),
            Err(error) => or_failure(Err(DeployError::from(error))),
        }
    }

    /// The ledger has it running, and it writes there.
    pub(super) async fn vm_settles(&mut self, alive: bool, within: Duration) -> Seen {
        let since = self.last_fault();
        let mut running: Option<(NodeName, Instant)> = None;
        loop {
            let phase = self.phase().await;
            running = match &phase {
                Some((VmPhase::Running { .. }, Some(node))) => {
                    let kept = running.filter(|(before, _)| before == node);
                    Some(kept.unwrap_or_else(|| (node.clone(), Instant::now())))
                }
                _ => None,
            };
            self.read_consoles().await;
            let Some(guest) = &self.guest else { return Seen::not("there is no virtual machine") };
            if let Some((node, from)) = &running
                && let Some(seen) = guest.settled(node, *from, since, alive)
            {
                return Seen { good: seen.good && since.elapsed() <= within, ..seen };
            }
            if since.elapsed() >= within {
                return Seen::not(format!("it is {phase:?}; {}", guest.last_words()));
            }
            sleep(READ_EVERY).await;
        }
    }
}

impl Guest {
    /// What is seen when a write of it was read where it runs since it was seen to.
    fn settled(&self, node: &NodeName, from: Instant, since: Instant, alive: bool) -> Option<Seen> {
        let (at, _, said) = self.acknowledged_since(from).find(|(_, there, _)| there == node)?;
        let same = run_of(said) == self.migrates;
        let booted = if same { "" } else { ", booted anew" };
        let after_ms = milliseconds(*at - since);
        let what = format!("it writes on {node} after {after_ms} ms{booted}");
        Some(Seen::of(same || !alive, what).measuring(after_ms))
    }
}

/// Which stage of a migration that is, if it is one of it.
fn stage_of(phase: &VmPhase) -> Option<MigrationStage> {
    match phase {
        VmPhase::Migrating { ready: false, .. } => Some(MigrationStage::Ordered),
        VmPhase::Migrating { ready: true, .. } => Some(MigrationStage::Sent),
        VmPhase::Landing { .. } => Some(MigrationStage::Landing),
        _ => None,
    }
}

/// How far a failover to these nodes has come, if it has begun.
fn how_far(phase: &VmPhase, node: Option<&NodeName>, there: &[NodeName]) -> Option<FailoverStage> {
    match (phase, node) {
        (VmPhase::Off, _) => Some(FailoverStage::Lost),
        (phase, Some(node)) if there.contains(node) => Some(match phase {
            VmPhase::Running { .. } => FailoverStage::Begun,
            _ => FailoverStage::Placed,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::vm::Seat;
    use model::{BootId, Generation, NodeId, VmId};
    use pulse::format::Said;

    #[test]
    fn stages_come_one_after_the_other() {
        let seat = |node| Seat { node: NodeId(node), boot: BootId(1), generation: Generation(1) };
        let migrating = |ready| VmPhase::Migrating { from: seat(1), to: seat(2), ready };
        let landing = VmPhase::Landing { from: seat(1), at: seat(2) };
        let all = [migrating(false), migrating(true), landing].map(|phase| stage_of(&phase).unwrap());
        assert!(all.is_sorted_by(|a, b| a < b));
        assert_eq!(stage_of(&VmPhase::Running { at: seat(1) }), None);
        let (a, b): (NodeName, NodeName) = ("a1".parse().unwrap(), "b1".parse().unwrap());
        let there = [b.clone()];
        let (starting, running) = (VmPhase::Starting { at: seat(2) }, VmPhase::Running { at: seat(2) });
        assert_eq!(how_far(&running, Some(&a), &there), None, "it is where it was");
        let far = [(VmPhase::Off, None), (starting, Some(&b)), (running, Some(&b))];
        let far = far.map(|(phase, node)| how_far(&phase, node, &there).unwrap());
        assert_eq!(far, [FailoverStage::Lost, FailoverStage::Placed, FailoverStage::Begun]);
    }

    #[test]
    fn one_that_runs_on_has_to_write_there_after_it_was_seen_to_run_and_in_the_same_run_if_it_must() {
        let mut guest = Guest::new(VmId(3), false);
        let (a, b): (NodeName, NodeName) = ("a1".parse().unwrap(), "b1".parse().unwrap());
        guest.migrates = Some(1);
        let since = Instant::now();
        let write = |run| Said::Acknowledged { vm: 3, run, sequence: 1, block: 5, took_us: 1, ms: 7 };
        guest.said.push((since, a.clone(), write(1)));
        let from = since + Duration::from_millis(10);
        assert!(guest.settled(&a, from, since, true).is_none(), "that was before");
        guest.said.push((from, a.clone(), write(1)));
        assert!(guest.settled(&b, from, since, true).is_none(), "that was elsewhere");
        assert!(guest.settled(&a, from, since, true).unwrap().good);
        guest.said.push((from, b.clone(), write(2)));
        assert!(!guest.settled(&b, from, since, true).unwrap().good, "it has booted");
        assert!(guest.settled(&b, from, since, false).unwrap().good);
    }
}
