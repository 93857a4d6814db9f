//! Taking power away and giving it back, and machines that stand still.
//!
//! ```text
//!              freeze               power off
//!   frozen ◀──────────── on ──────────────────▶ off
//!     │  ──────────────▶ ▲ ◀──────────────────
//!     │        thaw      │          power on
//!     └──────────────────┼───────────────────▶ (power off)
//! ```
//! A power loss is the end of the node's QEMU, by SIGKILL: nothing in the machine gets to do anything any more, its NICs are
//! gone from the switches' ports, its memory is lost. Power on is a new QEMU with the same command line, drives, addresses and
//! sockets. A data drive keeps what it was given to flush, and any part of the rest (docs/power.md); the boot drive keeps all.
//!
//! Invariants: every QEMU is the keeper's, whatever becomes of the harness in between. When a node is told to be off,
//! the switches have seen its NICs go and its drives have lost what they lose, and before it runs its first instruction they have seen them come, and its
//! carriers are what the fabric's cables say. Nodes that are named together lose their power together.
//!
//! On failure: [`LabError`] if the keeper, QEMU or the fabric doesn't do as told; what was switched off by then is off. That an agent
//! doesn't come back is the product's failure, told apart.

use super::boot::release;
use super::handle::Keeper;
use super::keeper::Process;
use super::{Lab, LabError, LabNode};
use api::{ClientError, Hello};
use fabric::NicId;
use futures_util::future::try_join_all;
use model::{DriveSerial, NodeName};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use vm::qmp::Qmp;

/// How long the switches may take to see that NICs came or went, and drives that their machines did. They need milliseconds.
const PLUGGED_BOUND: Duration = Duration::from_secs(10);
/// How often they are asked.
const PLUGGED_POLL: Duration = Duration::from_millis(5);

/// A node's QEMU, as it is started each time.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) binary: PathBuf,
    pub(super) arguments: Vec<String>,
}

/// Whether a node runs.
#[derive(Debug)]
pub(super) enum Power {
    On {
        /// The way to its QEMU.
        qmp: Qmp,
        /// Whether it stands still.
        frozen: bool,
    },
    Off,
}

impl Lab {
    /// The nodes that do nothing: off, or frozen.
    pub fn down(&self) -> BTreeSet<NodeName> {
        let down = self.nodes.values().filter(|node| !matches!(node.power, Power::On { frozen: false, .. }));
        down.map(|node| node.plan.name.clone()).collect()
    }

    /// Takes the power of nodes away, of all at once, without letting their systems know. What is off stays off.
    pub async fn power_off(
        &mut self,
        keeper: &mut Keeper,
        names: &BTreeSet<NodeName>,
    ) -> Result<(), LabError> {
        let has_power =
            |node: &&mut LabNode| names.contains(&node.plan.name) && !matches!(node.power, Power::Off);
        let mut going: Vec<&mut LabNode> = self.nodes.values_mut().filter(has_power).collect();
        if going.is_empty() {
            return Ok(());
        }
        keeper.kill(going.iter().map(|node| Process::Node(node.plan.name.clone())).collect()).await?;
        for node in &mut going {
            node.power = Power::Off;
            node.mark("power off")?;
        }
        let nics = going.iter().flat_map(|node| node.nic_ids()).collect();
        let drives = going.iter().flat_map(|node| node.data_drives()).collect();
        self.drives_are_off(&drives).await?;
        self.plugged(&nics, false).await
    }

    /// Gives nodes power. Returns when their machines run; their systems have yet to boot. What has power is let alone.
    pub async fn power_on(
        &mut self,
        keeper: &mut Keeper,
        names: &BTreeSet<NodeName>,
    ) -> Result<(), LabError> {
        let is_off = |node: &&LabNode| names.contains(&node.plan.name) && matches!(node.power, Power::Off);
        let coming: Vec<&LabNode> = self.nodes.values().filter(is_off).collect();
        let nics: BTreeSet<NicId> = coming.iter().flat_map(|node| node.nic_ids()).collect();
        let names: BTreeSet<NodeName> = coming.iter().map(|node| node.plan.name.clone()).collect();
        for node in coming {
            node.mark("power on")?;
            let process = Process::Node(node.plan.name.clone());
            keeper.spawn(process, &node.machine.binary, node.arguments(), &node.files.output()).await?;
        }
        let death = self.first_death(keeper);
        tokio::select! {
            biased;
            error = death => return Err(error),
            plugged = self.plugged(&nics, true) => plugged?,
        }
        let carriers = self.control.carrier()?;
        let coming = self.nodes.values_mut().filter(|node| names.contains(&node.plan.name));
        try_join_all(coming.map(|node| async {
            let qmp = release(&node.plan, &node.files, keeper.ended(), &carriers).await?;
            node.power = Power::On { qmp, frozen: false };
            Ok(())
        }))
        .await
        .map(drop)
    }

    /// Starts a node again that reset itself: its machine is gone as after a power loss.
    pub(crate) async fn after_reset(&mut self, keeper: &mut Keeper, name: &NodeName) -> Result<(), LabError> {
        let node = self.nodes.get_mut(name).ok_or_else(|| LabError::Missing { node: name.to_string() })?;
        node.power = Power::Off;
        node.mark("it reset itself")?;
        let nics = node.nic_ids().collect();
        self.plugged(&nics, false).await?;
        self.power_on(keeper, &BTreeSet::from([name.clone()])).await
    }

    /// Cycles a node's power. Returns with the first answer of its agent, or with the last failure to get one within the bound.
    pub async fn power_cycle(
        &mut self,
        keeper: &mut Keeper,
        name: &NodeName,
        bound: Duration,
    ) -> Result<Result<Hello, ClientError>, LabError> {
        let deadline = Instant::now() + bound;
        let names = BTreeSet::from([name.clone()]);
        self.power_off(keeper, &names).await?;
        self.power_on(keeper, &names).await?;
        let node = self.nodes.get(name).ok_or_else(|| LabError::Missing { node: name.to_string() })?;
        Ok(node.client.wait_ready(deadline.saturating_duration_since(Instant::now())).await)
    }

    /// Lets nodes stand still, their clocks included. What is off or frozen already is let alone.
    pub async fn freeze(&mut self, names: &BTreeSet<NodeName>) -> Result<(), LabError> {
        let chosen = self.nodes.values_mut().filter(|node| names.contains(&node.plan.name));
        try_join_all(chosen.map(|node| node.stand_still(true))).await.map(drop)
    }

    /// Lets frozen nodes go on, as if nothing had been.
    pub async fn thaw(&mut self, names: &BTreeSet<NodeName>) -> Result<(), LabError> {
        let chosen = self.nodes.values_mut().filter(|node| names.contains(&node.plan.name));
        try_join_all(chosen.map(|node| node.stand_still(false))).await.map(drop)
    }

    /// Waits until drives have sorted out what they had not flushed: from then on their files are what they hold.
    async fn drives_are_off(&mut self, drives: &BTreeSet<DriveSerial>) -> Result<(), LabError> {
        let deadline = Instant::now() + PLUGGED_BOUND;
        loop {
            let states = self.drives.states()?;
            let late = states.iter().find(|state| drives.contains(&state.drive) && state.has_power);
            let Some(late) = late else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(LabError::DrivePower { drive: late.drive.to_string() });
            }
            sleep(PLUGGED_POLL).await;
        }
    }

    /// Waits until the switches see all of these NICs plugged in, or none of them.
    async fn plugged(&mut self, nics: &BTreeSet<NicId>, in_or_out: bool) -> Result<(), LabError> {
        let deadline = Instant::now() + PLUGGED_BOUND;
        loop {
            let states = self.control.nics()?;
            let late = states.iter().find(|nic| nics.contains(&nic.nic) && nic.connected != in_or_out);
            let Some(late) = late else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(LabError::Plug { nic: late.nic.to_string(), plugged_in: late.connected });
            }
            sleep(PLUGGED_POLL).await;
        }
    }
}

impl LabNode {
    /// Whether it is on, or frozen.
    pub(super) fn has_power(&self) -> bool {
        matches!(self.power, Power::On { .. })
    }

    fn nic_ids(&self) -> impl Iterator<Item = NicId> {
        self.plan.nics.iter().map(|nic| nic.id.clone())
    }

    /// Notes in the console's log what the lab did to the machine: what follows is of another boot.
    fn mark(&self, what: &str) -> Result<(), LabError> {
        let console = &self.files.console;
        let log = OpenOptions::new().create(true).append(true).open(console);
        let marked = log.and_then(|mut log| write!(log, "\r\n=== the lab: {what} ===\r\n"));
        marked.map_err(|source| LabError::Write { path: console.clone(), source })
    }

    async fn stand_still(&mut self, still: bool) -> Result<(), LabError> {
        match &mut self.power {
            Power::On { qmp, frozen } if *frozen != still => {
                let told = qmp.execute(if still { "stop" } else { "cont" }, Value::Null).await;
                told.map_err(|source| LabError::Qmp { node: self.plan.name.to_string(), source })?;
                *frozen = still;
                Ok(())
            }
            Power::On { .. } | Power::Off => Ok(()),
        }
    }
}
