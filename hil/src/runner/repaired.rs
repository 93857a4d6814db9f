//! A node that dies for good, and a blank one in its place.
//!
//! Invariants: the machine that comes has the dead one's place, name and addresses, and nothing of what it had: its drives are blank, or, where they are kept, its system disk alone. What is judged is what the cluster says, and what lies
//! on drives at the end.
//!
//! On failure: a repair that does not come to its end is a step that does not hold.

use super::deployment::ProcessTask;
use super::{Runner, Seen};
use crate::run::RunError;
use crate::suite::Place;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

impl Runner<'_> {
    /// A node, or the witness, loses its power and what it had, and is repaired; once more changes nothing.
    pub(super) async fn repair(
        &mut self,
        (place, position): (Place, u8),
        (keeps_drives, kills): (bool, u32),
        bound: Duration,
    ) -> Result<Seen, RunError> {
        let Some(name) = self.member_at(place, position).map(|member| member.name.clone()) else {
            return Ok(Seen::not("there is no such node"));
        };
        let begun = Instant::now();
        let one = BTreeSet::from([name.clone()]);
        self.lab.power_off(self.keeper, &one).await?;
        self.lab.make_blank(|node| *node == name, keeps_drives)?;
        self.lab.power_on(self.keeper, &one).await?;
        if let Some(member) = self.member_at(place, position)
            && let Err(error) = member.client.wait_ready(bound.saturating_sub(begun.elapsed())).await
        {
            return Ok(Seen::not(crate::chain(&error)));
        }
        let files = self.deployment_files(0)?.about(ProcessTask::Repair, std::slice::from_ref(&name));
        let seen = self.deploy_whole(&files, kills, bound.saturating_sub(begun.elapsed())).await?;
        let what = format!("{name}: {}", seen.what);
        let seen = Seen { what, ..seen };
        if seen.good {
            self.again(&files, bound.saturating_sub(begun.elapsed()), seen).await
        } else {
            Ok(seen)
        }
    }

    /// As many steps as there are in a repair that finds drives lost: the network, four that look at it, the node in the ledger again, the ledger on all, their votes; each drive of a node lost, taken, its copy
    /// of a volume made, and out of the pool; the last look.
    pub(super) fn steps_of_a_repair(&self) -> u32 {
        let drives = self.lab.nodes().values().map(|node| node.data_drives().len()).max().unwrap_or(0);
        u32::try_from(1 + 4 + 1 + 1 + self.cluster.members.len() + 1 + 4 * drives + 1).unwrap_or(u32::MAX)
    }
}

impl ProcessTask {
    /// What its journal and what it says are called.
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Deploy | Self::Add => "deployment",
            Self::Repair => "repair",
            Self::Remove => "removal",
            Self::Destroy => "destruction",
        }
    }
}
