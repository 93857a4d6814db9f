//! A node whose agent hangs under a virtual machine: it ends there, and runs elsewhere.

use super::super::{Runner, Seen, milliseconds};
use super::READ_EVERY;
use crate::lab::LabError;
use crate::lab::faults::Made;
use crate::run::RunError;
use model::NodeName;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A virtual machine that has had no processor time for so long has ended: it beats ten times a second.
const STANDS_STILL: Duration = Duration::from_millis(500);

impl Runner<'_> {
    /// The agent of the node where it was last seen to write is stopped.
    pub(super) async fn freeze_agent(&mut self) -> Result<Seen, RunError> {
        let seen = self.guest.as_ref().and_then(|guest| guest.said.last()).map(|(_, node, _)| node.clone());
        let Some(node) = seen else { return Ok(Seen::not("it has said nothing yet")) };
        let missing = || LabError::Missing { node: node.to_string() };
        let found = self.lab.nodes().get(&node).ok_or_else(missing)?;
        if found.vms_processor_ms().await?.is_none() {
            return Ok(Seen::not(format!("it has no process on {node}")));
        }
        self.before_a_fault();
        let now = Instant::now();
        found.freeze_agent().await?;
        if let Some(guest) = &mut self.guest {
            guest.frozen = Some(node.clone());
        }
        Ok(self.made(now, &[Made::AgentFrozen { node: node.clone() }]))
    }

    /// Nothing of it runs any more where its agent was stopped: what is left of its process, whose parent that is, has no processor time.
    pub(super) async fn vm_has_ended(&mut self, within: Duration) -> Result<Seen, RunError> {
        let since = self.last_fault();
        let seen = self.guest.as_ref().and_then(|guest| guest.frozen.clone());
        let Some(node) = seen else { return Ok(Seen::not("no agent was stopped")) };
        let missing = || LabError::Missing { node: node.to_string() };
        let had = async || self.lab.nodes().get(&node).ok_or_else(missing)?.vms_processor_ms().await;
        let mut last = (had().await?, since.elapsed());
        loop {
            sleep(READ_EVERY).await;
            let (at, now) = (since.elapsed(), had().await?);
            if now != last.0 {
                last = (now, at);
            }
            let (_, after) = last;
            if at.saturating_sub(after) >= STANDS_STILL {
                let after_ms = milliseconds(after);
                return Ok(Seen::of(after <= within, format!("after {after_ms} ms")).measuring(after_ms));
            }
            if after > within {
                return Ok(Seen::not("it goes on there"));
            }
        }
    }

    /// All nodes but the one whose agent was stopped.
    pub(super) fn elsewhere(&self) -> Vec<NodeName> {
        let frozen = self.guest.as_ref().and_then(|guest| guest.frozen.as_ref());
        let names = self.cluster.members.iter().map(|member| &member.name);
        names.filter(|name| Some(*name) != frozen).cloned().collect()
    }
}
