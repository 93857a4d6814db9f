//! From a plan to nodes that answer.
//!
//! A node's power comes on in two steps, the first time as any other: its QEMU is started and stands still, and
//! [`release`] lets it go once its cables are as the fabric has them.

use super::blank::blank_drives;
use super::error::{tail, tail_of};
use super::handle::{Ended, Keeper};
use super::keeper::Process;
use super::plan::NodePlan;
use super::power::{Machine, Power};
use super::qemu::{NodeFiles, OUT_OF_BAND_ADDRESS};
use super::topology::Cables;
use super::{LabError, LabNode};
use crate::progress::Progress;
use crate::ui::{Line, Ui};
use api::pki::Ca;
use api::{AGENT_PORT, Client, NodeConfig, OutOfBand, Role};
use drives::DriveConfig;
use fabric::{Control, NicId};
use futures_util::future::try_join_all;
use ipnet::Ipv4Net;
use model::NodeName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vm::qmp::{Qmp, QmpError};

/// How long the switches and the drives have to be there; they need milliseconds.
const FABRIC_BOUND: Duration = Duration::from_secs(10);
/// How often it is looked whether they are.
const FABRIC_POLL: Duration = Duration::from_millis(20);
/// How long QEMU has to answer a command.
const QMP_BOUND: Duration = Duration::from_secs(10);

/// How often it is tried whether a QEMU that was just started takes commands.
const QMP_POLL: Duration = Duration::from_millis(5);

/// A node whose QEMU was started.
pub(super) struct Starting {
    pub(super) plan: NodePlan,
    pub(super) files: NodeFiles,
    pub(super) machine: Machine,
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

/// Starts the data drives of all nodes and waits until they take orders. Their files are there; what each loses comes from the seed.
pub(super) async fn start_drives<'a>(
    keeper: &mut Keeper,
    program: &Path,
    nodes: impl Iterator<Item = (&'a NodePlan, &'a NodeFiles)>,
    seed: u64,
) -> Result<drives::Control, LabError> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut all = Vec::new();
    for (plan, files) in nodes {
        all.extend(plan.data_drives().map(|(index, drive)| DriveConfig {
            drive: drive.serial.clone(),
            file: files.drive(index),
            socket: files.drive_socket(index),
            seed: rng.u64(..),
        }));
    }
    let config = keeper.dir.join("drives.json");
    let text = serde_json::to_vec(&drives::Config { drives: all }).unwrap_or_default();
    write(&config, &text, 0o600)?;
    let output = drives_output(&keeper.dir);
    let args = ["lab-drives".to_owned(), path_argument(&config), path_argument(&keeper.dir)];
    keeper.spawn(Process::Drives, program, args.to_vec(), &output).await?;
    let deadline = Instant::now() + FABRIC_BOUND;
    while Instant::now() < deadline && !keeper.ended().borrow().contains_key(&Process::Drives) {
        if let Ok(control) = drives::Control::connect(&keeper.dir) {
            return Ok(control);
        }
        tokio::time::sleep(FABRIC_POLL).await;
    }
    Err(LabError::Drives { tail: tail_of(&[("drives", &output)]) })
}

/// What the drives say, in the lab's directory.
pub(super) fn drives_output(dir: &Path) -> PathBuf {
    dir.join("drives.log")
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
    blank_drives(plan, files, false)
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
    let qmp = release(&node.plan, &node.files, ended.clone(), &BTreeMap::new()).await?;
    let answered = unless_dead(&node.plan, &node.files, &mut ended, node.client.wait_ready(bound)).await?;
    if let Err(source) = answered {
        return Err(LabError::NoAnswer {
            node: node.plan.name.to_string(),
            bound,
            tail: tail(&node.files),
            source: Box::new(source),
        });
    }
    let boot_ms = u64::try_from(node.powered_on.elapsed().as_millis()).unwrap_or(u64::MAX);
    line.step("answers");
    ready(&node.plan.name, boot_ms);
    Ok(LabNode {
        plan: node.plan,
        files: node.files,
        machine: node.machine,
        power: Power::On { qmp, frozen: false },
        pulled: BTreeSet::new(),
        client: node.client,
        address: node.address,
        boot_ms,
    })
}

/// Lets a machine go that was started and stands still: first its cables are as the fabric has them. A NIC of which
/// nothing is said has carrier.
pub(super) async fn release(
    plan: &NodePlan,
    files: &NodeFiles,
    mut ended: watch::Receiver<Ended>,
    carriers: &BTreeMap<NicId, bool>,
) -> Result<Qmp, LabError> {
    let released = async {
        let mut qmp = take_hold(&files.qmp()).await?;
        for nic in plan.nics.iter().filter(|nic| carriers.get(&nic.id) == Some(&false)) {
            qmp.set_link(&nic.device, false).await?;
        }
        qmp.execute("cont", Value::Null).await?;
        Ok(qmp)
    };
    let released = unless_dead(plan, files, &mut ended, released).await?;
    released.map_err(|source| LabError::Qmp { node: plan.name.to_string(), source })
}

/// Connects to a QEMU that may not listen yet. What an earlier one left at its socket refuses.
async fn take_hold(socket: &Path) -> Result<Qmp, QmpError> {
    let deadline = Instant::now() + QMP_BOUND;
    loop {
        match Qmp::connect(socket, QMP_BOUND).await {
            Err(QmpError::Connect { .. }) if Instant::now() < deadline => tokio::time::sleep(QMP_POLL).await,
            connected => return connected,
        }
    }
}

/// What comes of something, unless the node's QEMU ends before.
async fn unless_dead<T>(
    plan: &NodePlan,
    files: &NodeFiles,
    ended: &mut watch::Receiver<Ended>,
    something: impl Future<Output = T>,
) -> Result<T, LabError> {
    let process = Process::Node(plan.name.clone());
    let died = async {
        match ended.wait_for(|ended| ended.contains_key(&process)).await {
            Ok(ended) => ended.get(&process).cloned().unwrap_or_default(),
            Err(_) => "is gone with the lab's keeper".to_owned(),
        }
    };
    tokio::select! {
        biased;
        status = died => {
            Err(LabError::QemuDied { node: plan.name.to_string(), status, tail: tail(files) })
        }
        outcome = something => Ok(outcome),
    }
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
    use crate::lab::qemu::Kept;
    use api::Endpoint;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{TcpListener, UnixListener};

    fn nowhere() -> Kept<'static> {
        Kept { consoles: Path::new("/nowhere"), records: Path::new("/nowhere") }
    }

    /// A QEMU that does everything it is told. What that was.
    async fn obey(listener: UnixListener) -> Vec<String> {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut told = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            let order: Value = serde_json::from_str(&line).unwrap();
            let answer = format!("{}\n", serde_json::json!({ "return": {}, "id": order["id"] }));
            writer.write_all(answer.as_bytes()).await.unwrap();
            told.push(format!("{} {}", order["execute"].as_str().unwrap(), order["arguments"]));
        }
        told
    }

    #[tokio::test]
    async fn a_machine_is_let_go_when_its_cables_are_as_the_fabric_has_them() {
        let plan = plan(model::Shape::ALL[0], 1).nodes.remove(0);
        let dir = tempfile::tempdir().unwrap();
        let files = NodeFiles::new(dir.path(), &plan, nowhere());
        // What an earlier QEMU left.
        drop(UnixListener::bind(files.qmp()).unwrap());
        let qemu = tokio::spawn({
            let socket = files.qmp();
            async move {
                std::fs::remove_file(&socket).unwrap();
                obey(UnixListener::bind(socket).unwrap()).await
            }
        });
        let (_tell, ended) = watch::channel(Ended::new());
        let carriers = plan.nics.iter().map(|nic| (nic.id.clone(), nic.device != "nic2")).collect();
        drop(release(&plan, &files, ended, &carriers).await.unwrap());
        let cut = r#"set_link {"name":"nic2","up":false}"#;
        assert_eq!(qemu.await.unwrap(), ["qmp_capabilities null", cut, "cont null"]);
    }

    #[tokio::test]
    async fn a_qemu_that_ends_instead_of_listening_is_told_at_once() {
        let plan = plan(model::Shape::ALL[0], 1).nodes.remove(0);
        let files = NodeFiles::new(Path::new("/nowhere"), &plan, nowhere());
        let (tell, ended) = watch::channel(Ended::new());
        let process = Process::Node(plan.name.clone());
        tell.send_modify(|ended| drop(ended.insert(process, "ended with exit code 1".to_owned())));
        let error = release(&plan, &files, ended, &BTreeMap::new()).await.unwrap_err();
        assert!(matches!(error, LabError::QemuDied { .. }), "{error}");
    }

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
        let dir = tempfile::tempdir().unwrap();
        let files = NodeFiles::new(dir.path(), &plan, nowhere());
        let qemu = UnixListener::bind(files.qmp()).unwrap();
        tokio::spawn(async move { obey(qemu).await });
        let machine = Machine { binary: "/nowhere".into(), arguments: Vec::new() };
        let node = Starting { plan, files, machine, client, address, powered_on: Instant::now() };
        let (_tell, ended) = watch::channel(Ended::new());
        let bound = Duration::from_mins(10);
        let booted = boot(node, ended, bound, Ui::new().line("a1"), &|_, _| {}).await;
        let error = crate::chain(&booted.unwrap_err());
        assert!(error.starts_with("the agent of node a1 gave no good answer (it had 600s)\n"), "{error}");
        assert!(error.contains("\n  the last attempt: ") && error.contains("TLS: "), "{error}");
    }
}
