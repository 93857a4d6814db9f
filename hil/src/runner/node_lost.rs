//! A node that loses its power in the middle of a deployment, or while nodes are added to a cluster that serves.
//!
//! Invariants: the node is lost in a step that was drawn and that the journal has begun. The process then ends by itself, and names it; with the node back the next one goes on.
//!
//! On failure: a process that ends well without the node, or says nothing of it, is a step that does not hold.

use super::deployment::{End, Files, failed, has_ended, late};
use super::{POLL, Runner, Seen};
use crate::run::RunError;
use crate::suite::{NodeAt, Place};
use model::NodeName;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Steps of an addition that every run has, however far an earlier one came: networks and quorum are looked at again.
const EVERY_RUN_HAS: u64 = 8;

impl Runner<'_> {
    /// The last node is lost in the first half of a deployment.
    pub(super) async fn deploy_and_lose(&mut self, bound: Duration) -> Result<Seen, RunError> {
        let files = self.deployment_files(0)?;
        // Where it is in somebody's way, and more than one node is in the ledger.
        let Some(lost) = self.cluster.nodes().last().map(|(member, _)| member.name.clone()) else {
            return Ok(Seen::not("there is no node"));
        };
        let half = u64::from(self.steps_of_a_deployment() / 2);
        let step = self.draw(6..half.max(7));
        self.ends_after(&files, &[(lost, step)], bound).await
    }

    /// These are lost while nodes are added, one in each run of the process.
    pub(super) async fn add_and_lose(&mut self, lost: &[NodeAt], bound: Duration) -> Result<Seen, RunError> {
        let (begun, files) = (Instant::now(), self.addition_files()?);
        let mut losses = Vec::new();
        for at in lost {
            let name = self.member_at(Place::Room(at.room), at.position).map(|member| member.name.clone());
            let Some(name) = name else { return Ok(Seen::not("there is no such node")) };
            losses.push((name, self.draw(1..EVERY_RUN_HAS)));
        }
        let seen = self.ends_after(&files, &losses, bound).await?;
        if !seen.good {
            return Ok(seen);
        }
        self.again(&files, bound.saturating_sub(begun.elapsed()), seen).await
    }

    /// One run for each who is lost, in a step of that number; then one that comes to its end.
    async fn ends_after(
        &mut self,
        files: &Files,
        losses: &[(NodeName, u64)],
        bound: Duration,
    ) -> Result<Seen, RunError> {
        let begun = Instant::now();
        let deadline = begun + bound;
        let mut said = Vec::new();
        for (lost, step) in losses {
            let seen = self.loses(files, (lost, *step), deadline).await?;
            if !seen.good {
                return Ok(seen);
            }
            said.push(seen.what);
        }
        match self.run_deployment(files, None, deadline).await? {
            End::Itself(status) if status.success() => {
                let took = begun.elapsed().as_millis();
                Ok(Seen::held(format!("{}\nall was done after {took} ms", said.join("\n"))))
            }
            End::Itself(status) => Ok(failed(files, status, &[])),
            End::Killed { .. } | End::Late => Ok(late(files, bound, &[])),
        }
    }

    /// A run in which a node loses its power: it ends and names that node, which is back then.
    async fn loses(
        &mut self,
        files: &Files,
        (lost, step): (&NodeName, u64),
        deadline: Instant,
    ) -> Result<Seen, RunError> {
        let mut child = self.start_deployment(files)?;
        let (begun, before) = (Instant::now(), files.begun().len());
        let is_before = |files: &Files| (files.begun().len() - before) as u64 <= step;
        while is_before(files) && Instant::now() < deadline && has_ended(&mut child)?.is_none() {
            sleep(POLL).await;
        }
        let broken_in = files.begun().last().cloned().unwrap_or_default();
        self.before_a_fault();
        self.lab.power_off(self.keeper, &BTreeSet::from([lost.clone()])).await?;
        let end = self.follow(&mut child, files, None, deadline).await?;
        let (said, after) = (files.tail(), begun.elapsed().as_millis());
        self.lab.power_on(self.keeper, &BTreeSet::from([lost.clone()])).await?;
        let End::Itself(status) = end else {
            return Ok(late(files, deadline.saturating_duration_since(begun), &[]));
        };
        // What it failed with is its last line.
        let names_it = said.lines().last().is_some_and(|line| line.contains(lost.as_str()));
        if status.success() || !names_it {
            return Ok(Seen::not(format!(
                "without {lost}, lost in `{broken_in}`, it ended with {status}: {said}"
            )));
        }
        if let Some(member) = self.cluster.members.iter().find(|member| member.name == *lost)
            && let Err(error) =
                member.client.wait_ready(deadline.saturating_duration_since(Instant::now())).await
        {
            return Ok(Seen::not(crate::chain(&error)));
        }
        Ok(Seen::held(format!(
            "{lost} was lost in `{broken_in}`; after {after} ms it had ended, and said: {}",
            said.lines().last().unwrap_or_default()
        )))
    }
}
