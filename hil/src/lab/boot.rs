//! From a plan to nodes that answer.

use super::error::{tail, tail_of};
use super::handle::{Ended, Keeper};
use super::keeper::Process;
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
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vm::qmp::Qmp;

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
    let output = fabric_output(&keeper.dir);
    let args = ["lab-fabric".to_owned(), path_argument(&topology), path_argument(&keeper.dir)];
    keeper.spawn(Process::Fabric, program, args.to_vec(), &output).await?;
    let deadline = Instant::now() + FABRIC_BOUND;
    while Instant::now() < deadline && !keeper.ended().borrow().contains_key(&Process::Fabric) {
        if let Ok(control) = Control::connect(&keeper.dir) {
            return Ok(control);
        }
        tokio::time::sleep(FABRIC_POLL).await;
    }
    Err(LabError::Fabric { tail: tail_of(&[("fabric", &output)]) })
}

/// What the switches say, in the lab's directory.
pub(super) fn fabric_output(dir: &Path) -> PathBuf {
    dir.join("fabric.log")
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
    let process = Process::Node(node.plan.name.clone());
    let died = async {
        match ended.wait_for(|ended| ended.contains_key(&process)).await {
            Ok(ended) => ended.get(&process).cloned().unwrap_or_default(),
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
    if let Err(source) = answered {
        return Err(LabError::NoAnswer {
            node: name,
            bound,
            tail: tail(&node.files),
            source: Box::new(source),
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan_tests::plan;
    use api::Endpoint;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_answer_that_is_not_an_agents_is_told_as_such_and_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok();
            }
        });
        let plan = plan(model::Shape::ALL[0], 1).nodes.remove(0);
        let identity = Ca::new("test", Duration::from_hours(1)).unwrap().issue_client("lab").unwrap();
        let client = Client::new(Endpoint { node: plan.name.clone(), address }, &identity).unwrap();
        let files = NodeFiles::new(Path::new("/nowhere"), &plan, Path::new("/nowhere"));
        let node = Starting { plan, files, client, address, powered_on: Instant::now() };
        let (_tell, ended) = watch::channel(Ended::new());
        let bound = Duration::from_mins(10);
        let booted = boot(node, ended, bound, Ui::new().line("a1"), &|_, _| {}).await;
        let error = crate::chain(&booted.unwrap_err());
        assert!(error.starts_with("the agent of node a1 gave no good answer (it had 600s)\n"), "{error}");
        assert!(error.contains("\n  the last attempt: ") && error.contains("TLS: "), "{error}");
    }
}
