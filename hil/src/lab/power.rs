//! Taking a node's power away and giving it back.
//!
//! The machine is reset by QEMU: its memory is as after power on, its drives keep what they were given. (What a drive had not
//! flushed is kept too: no volatile write cache is modelled yet.) QEMU goes on, so cables, ports and the console's log stay.
//!
//! On failure: [`LabError`] if QEMU doesn't do as told. That the agent doesn't come back is the product's failure, told apart.

use super::{Lab, LabError, LabNode};
use api::{ClientError, Hello};
use model::NodeName;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a machine is asked that still answers from before its reset.
const POLL: Duration = Duration::from_millis(20);

impl Lab {
    /// Cycles a node's power, without letting its system know before. Returns with the first answer of another boot than this
    /// one, or with the last failure to get one within the bound.
    pub async fn power_cycle(
        &mut self,
        name: &NodeName,
        boot_id: &str,
        bound: Duration,
    ) -> Result<Result<Hello, ClientError>, LabError> {
        let node = self.nodes.get_mut(name).ok_or_else(|| LabError::Missing { node: name.to_string() })?;
        // Nodes run with -no-reboot, so that a kernel that panics ends its QEMU instead of starting over for ever. That
        // applies to resets from here as well, and to the one that SeaBIOS makes by itself when it finds that it has run
        // before; so it is lifted until the node is back.
        node.order("set-action", json!({ "reboot": "reset" })).await?;
        node.order("system_reset", Value::Null).await?;
        let back = node.back(boot_id, bound).await;
        node.order("set-action", json!({ "reboot": "shutdown" })).await?;
        Ok(back)
    }
}

impl LabNode {
    async fn order(&mut self, command: &str, arguments: Value) -> Result<(), LabError> {
        let done = self.qmp.execute(command, arguments).await;
        done.map(drop).map_err(|source| LabError::Qmp { node: self.plan.name.to_string(), source })
    }

    async fn back(&self, boot_id: &str, bound: Duration) -> Result<Hello, ClientError> {
        let deadline = Instant::now() + bound;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let hello = self.client.wait_ready(left).await?;
            if hello.boot_id != boot_id {
                return Ok(hello);
            }
            sleep(POLL).await;
        }
    }
}
