//! From a plan to nodes that answer.

use super::error::tail;
use super::handle::{Ended, Keeper};
use super::plan::{DriveRole, NodePlan};
use super::qemu::{AGENT_PORT, NodeFiles, OUT_OF_BAND_ADDRESS};
use super::topology::Cables;
use super::{LabError, LabNode, state_drive};
use crate::progress::Progress;
use crate::ui::{Line, Ui};
use api::pki::Ca;
use api::{Client, NodeConfig, OutOfBand, Role};
use fabric::Control;
use futures_util::future::try_join_all;
use ipnet::Ipv4Net;
use model::NodeName;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vm::qmp::Qmp;

/// The name of the fabric among the keeper's processes.
const FABRIC: &str = "fabric";
/// How long the switches have to be there; they need milliseconds.
const FABRIC_BOUND: Duration = Duration::from_secs(10);
/// How often it is looked whether they are.
const FABRIC_POLL: Duration = Duration::from_millis(20);
/// How long QEMU has to answer a command.
const QMP_BOUND: Duration = Duration::from_secs(10);

/// A node whose power is on.
pub(super) struct Starting {
    pub(super) plan: NodePlan,
    pub(super) files: NodeFiles,
    pub(super) client: Client,
    pub(super) address: SocketAddr,
    pub(super) powered_on: Instant,
}

/// Starts the switches and waits until they take orders.
pub(super) async fn start_fabric(
    keeper: &mut Keeper,
    program: &Path,
    cables: &Cables,
) -> Result<Control, LabError> {
    let topology = keeper.dir.join("topology.json");
    write(&topology, serde_json::to_vec(cables.topology()).unwrap_or_default().as_slice(), 0o600)?;
    let output = keeper.dir.join("fabric.log");
    let args = ["lab-fabric".to_owned(), path_argument(&topology), path_argument(&keeper.dir)];
    keeper.spawn(FABRIC, program, args.to_vec(), &output).await?;
    let deadline = Instant::now() + FABRIC_BOUND;
    while Instant::now() < deadline && !keeper.ended().borrow().contains_key(FABRIC) {
        if let Ok(control) = Control::connect(&keeper.dir) {
            return Ok(control);
        }
        tokio::time::sleep(FABRIC_POLL).await;
    }
    Err(LabError::Fabric { output: fs::read_to_string(output).unwrap_or_default() })
}

/// Writes what a node starts with: what it is told, and its drives.
pub(super) fn prepare(plan: &NodePlan, files: &NodeFiles, ca: &Ca) -> Result<(), LabError> {
    let (address, prefix) = OUT_OF_BAND_ADDRESS;
    let config = NodeConfig {
        node: plan.name.clone(),
        role: if plan.zone.is_some() { Role::Node } else { Role::Witness },
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, AGENT_PORT)),
        out_of_band: Some(OutOfBand {
            mac: plan.out_of_band_mac,
            address: Ipv4Net::new_assert(address, prefix),
        }),
        adapters: plan.adapters(),
        tls: ca.issue_node(&plan.name)?,
    };
    let config = serde_json::to_vec(&config).unwrap_or_default();
    write(&files.config(), &config, 0o600)?;
    for (index, drive) in plan.drives.iter().enumerate() {
        let path = files.drive(index);
        let made = File::create(&path).and_then(|file| file.set_len(drive.size_bytes));
        made.map_err(|source| LabError::Write { path: path.clone(), source })?;
        if drive.role == DriveRole::Boot {
            state_drive::format(&path).map_err(|source| LabError::StateDrive { path, source })?;
        }
    }
    Ok(())
}

/// Waits until every agent answers and every QEMU takes orders.
pub(super) async fn boot_all(
    starting: Vec<Starting>,
    keeper: &Keeper,
    bound: Duration,
    ui: &Ui,
    ready: &impl Fn(&NodeName, u64),
) -> Result<Vec<LabNode>, LabError> {
    try_join_all(starting.into_iter().map(|node| {
        let line = ui.line(node.plan.name.as_str());
        boot(node, keeper.ended(), bound, line, ready)
    }))
    .await
}

async fn boot(
    node: Starting,
    mut ended: watch::Receiver<Ended>,
    bound: Duration,
    line: Line,
    ready: &impl Fn(&NodeName, u64),
) -> Result<LabNode, LabError> {
    line.step("boots");
    let name = node.plan.name.to_string();
    let died = async {
        match ended.wait_for(|ended| ended.contains_key(&name)).await {
            Ok(ended) => ended.get(&name).cloned().unwrap_or_default(),
            Err(_) => "is gone with the lab's keeper".to_owned(),
        }
    };
    let answered = tokio::select! {
        biased;
        status = died => {
            return Err(LabError::QemuDied { node: name, status, tail: tail(&node.files) });
        }
        answered = node.client.wait_ready(bound) => answered,
    };
    if answered.is_err() {
        return Err(LabError::NoAnswer { node: name, waited: bound, tail: tail(&node.files) });
    }
    let boot_ms = u64::try_from(node.powered_on.elapsed().as_millis()).unwrap_or(u64::MAX);
    line.step("answers");
    ready(&node.plan.name, boot_ms);
    let qmp = Qmp::connect(&node.files.qmp(), QMP_BOUND)
        .await
        .map_err(|source| LabError::Qmp { node: name, source })?;
    Ok(LabNode {
        plan: node.plan,
        files: node.files,
        qmp,
        client: node.client,
        address: node.address,
        boot_ms,
    })
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), LabError> {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content));
    written.map_err(|source| LabError::Write { path: path.to_owned(), source })
}

fn path_argument(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
