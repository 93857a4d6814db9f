//! A node of each room that leaves the cluster while it serves, and is given back.
//!
//! Invariants: what is judged of the two is what their agents say of ledger and links, what the lab's own hands find in their kernels, and what lies in their drives' files, from outside.
//!
//! On failure: what is left of the cluster on them is told, node by node.

use super::deployment::ProcessTask;
use super::{Runner, Seen};
use crate::run::RunError;
use crate::suite::{Place, Room};
use api::NodeLedger;
use deploy::DeployError;
use model::NodeName;
use std::time::Duration;
use tokio::time::Instant;

impl Runner<'_> {
    /// The node of a position in each room leaves; once more changes nothing.
    pub(super) async fn remove_pair(
        &mut self,
        position: u8,
        kills: u32,
        bound: Duration,
    ) -> Result<Seen, RunError> {
        let room = Room::default();
        let members = [room, room.other()].map(|room| self.member_at(Place::Room(room), position));
        let pair: Vec<NodeName> = members.into_iter().flatten().map(|member| member.name.clone()).collect();
        let begun = Instant::now();
        let files = self.deployment_files(0)?.about(ProcessTask::Remove, &pair);
        let seen = self.deploy_whole(&files, kills, bound).await?;
        if !seen.good {
            return Ok(seen);
        }
        let mut wrong = Vec::new();
        for name in &pair {
            wrong.extend(self.is_left_on(name).await?);
        }
        if !wrong.is_empty() {
            return Ok(Seen::unless(&wrong, seen.what));
        }
        self.again(&files, bound.saturating_sub(begun.elapsed()), seen).await
    }

    /// What of a cluster is left on a node that has left it.
    async fn is_left_on(&self, name: &NodeName) -> Result<Vec<String>, RunError> {
        let mut wrong = Vec::new();
        let member = self.cluster.members.iter().find(|member| member.name == *name);
        let (Some(member), Some(node)) = (member, self.lab.nodes().get(name)) else { return Ok(wrong) };
        let ledger = member.client.ledger().await.map_err(DeployError::from)?;
        if ledger != (NodeLedger::None {}) {
            wrong.push(format!("{name} has a ledger"));
        }
        let network = member.client.network().await.map_err(DeployError::from)?;
        let way = member.client.way_home().await.map_err(DeployError::from)?;
        if network.committed.is_some() || !way.ops.is_empty() || way.unknown.is_some() {
            wrong.push(format!("{name} has links of the cluster yet: {way:?}"));
        }
        wrong.extend(
            node.has_of_a_cluster().await?.into_iter().map(|found| format!("{name}: its kernel has {found}")),
        );
        wrong.extend(
            node.drives_that_hold()?.into_iter().map(|drive| format!("{name}: drive {drive} is not blank")),
        );
        Ok(wrong)
    }

    /// As many steps as there are in a removal that finds two copies on each drive: virtual machines, volumes handed over, that they leave, their votes; each drive's copies, and it out of the pool; none is there, whom to greet; each gives
    /// back, and is out of the ledger; links, and two last looks.
    pub(super) fn steps_of_a_removal(&self) -> u32 {
        let drives = self.lab.nodes().values().map(|node| node.data_drives().len()).max().unwrap_or(0);
        u32::try_from(4 + 2 * drives + 1 + 2 + 4 + 3).unwrap_or(u32::MAX)
    }
}
