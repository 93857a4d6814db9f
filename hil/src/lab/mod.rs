//! A lab: two racks and a witness as virtual machines around virtual switches, and the faults that can be made in it.
//!
//! Purpose: [`Lab::up`] builds it and returns when every agent answers; the methods of [`faults`] break and mend it;
//! [`Lab::down`] ends it.
//!
//! Invariants: everything that a lab starts belongs to its keeper ([`keeper`]), so that dropping a [`Lab`] at any moment
//! ends it. A fault and its mending are carried out in the fabric first and then told to the guests as carrier, so that a
//! guest never sees a carrier that the fabric contradicts for longer than that takes.
//!
//! On failure: [`LabError`], which has the node's console where a node is concerned.

mod access;
mod blank;
mod boot;
pub(crate) mod by_hand;
mod directory;
pub mod drift;
mod drive_faults;
mod error;
pub mod faults;
pub mod file;
mod flap;
mod handle;
pub mod hands;
pub mod keeper;
mod ledger_faults;
pub(crate) mod miswiring;
mod plan;
#[cfg(test)]
mod plan_tests;
mod ports;
mod power;
mod qemu;
mod state_drive;
mod topology;
mod workload;

pub use access::{EndError, end_kept};
pub use error::LabError;
pub use plan::PlanError;
pub(crate) use topology::check_wiring;

pub(crate) use handle::Reset;
pub use handle::{KeepError, Keeper};

use crate::accel::Accel;
use crate::image::NodeImage;
use crate::ui::Ui;
use api::pki::Ca;
use api::{Client, Endpoint, TlsIdentity};
use boot::Starting;
use fabric::{Control, Experiments, LinkId, NicId, Shaping, Snapshot, Topology, Ways};
use file::{LabFile, LabKind};
use hands::{Hands, HandsError};
use keeper::Process;
use model::{AdapterName, ClusterSpec, DriveSerial, MacAddress, NodeName};
use network::measure::Machines;
use plan::{LabPlan, NodePlan};
use power::{Machine, Power};
pub use qemu::Kept;
use qemu::{BootFiles, NodeFiles};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
pub(crate) use workload::AgentUsage;

/// How long the lab's certificates are good for: a soak run takes days.
const CERTIFICATES_VALID_FOR: Duration = Duration::from_hours(30 * 24);

/// What a lab is built from.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The cluster.
    pub spec: &'a ClusterSpec,
    /// The lab file.
    pub file: &'a LabFile,
    /// What every random choice comes from.
    pub seed: u64,
    /// What nodes boot.
    pub image: &'a NodeImage,
    /// What runs their processors.
    pub accel: &'a Accel,
    /// The program that runs the keeper and the fabric, by its hidden commands.
    pub program: &'a Path,
    /// Where what outlives it goes.
    pub kept: Kept<'a>,
}

/// A node of a running lab.
#[derive(Debug)]
pub struct LabNode {
    plan: NodePlan,
    files: NodeFiles,
    machine: Machine,
    power: Power,
    /// The drives that are not plugged in.
    pulled: BTreeSet<DriveSerial>,
    /// Its agent.
    pub client: Client,
    /// The loopback address that leads to its agent.
    pub address: SocketAddr,
    /// From the first power on to the agent's first answer, milliseconds.
    pub boot_ms: u64,
}

/// What the lab gave a node, for comparison with what the node says.
#[derive(Debug, Clone)]
pub(crate) struct NodeHardware {
    pub(crate) name: NodeName,
    pub(crate) serial: String,
    pub(crate) memory_mib: u32,
    pub(crate) nic_speed_mbps: u32,
    pub(crate) nics: Vec<MacAddress>,
    pub(crate) drives: Vec<(DriveSerial, u64)>,
}

impl LabNode {
    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.plan.name
    }

    /// Whether it is a node of a rack; the witness is none.
    pub fn holds_data(&self) -> bool {
        self.plan.zone.is_some()
    }

    /// Which NIC is which adapter.
    pub fn adapters(&self) -> BTreeMap<AdapterName, MacAddress> {
        self.plan.adapters()
    }

    /// The fabric's names of its cables; end a is the node's.
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.plan.nics.iter().map(|nic| topology::cable_id(&nic.id))
    }

    /// The fabric's names of the cables that carry storage, of NICs that have carrier.
    pub(crate) fn storage_links(&self, spec: &ClusterSpec, carriers: &BTreeMap<NicId, bool>) -> Vec<LinkId> {
        let storage = |adapter: &AdapterName| spec.storage_networks.iter().any(|n| n.adapter == *adapter);
        let usable =
            self.plan.nics.iter().filter(|nic| storage(&nic.adapter) && carriers.get(&nic.id) == Some(&true));
        usable.map(|nic| topology::cable_id(&nic.id)).collect()
    }

    /// The fabric's name of the cable of one of its NICs; end a is the node's.
    pub(crate) fn link_of(&self, adapter: &AdapterName) -> Option<LinkId> {
        let nic = self.plan.nics.iter().find(|nic| nic.adapter == *adapter)?;
        Some(topology::cable_id(&nic.id))
    }

    /// A way to run commands on it, out of band.
    pub async fn hands(&self) -> Result<Hands, HandsError> {
        Hands::connect(&self.files.hands()).await
    }

    /// What the lab gave it.
    pub(crate) fn hardware(&self) -> NodeHardware {
        NodeHardware {
            name: self.plan.name.clone(),
            serial: self.plan.serial.clone(),
            memory_mib: self.plan.memory_mib,
            nic_speed_mbps: self.plan.nic_speed_mbps,
            nics: self.plan.nics.iter().map(|nic| nic.mac).collect(),
            drives: self.plan.drives.iter().map(|drive| (drive.serial.clone(), drive.size_bytes)).collect(),
        }
    }
}

/// A running lab. Its processes are its keeper's: they end with that, not with this.
pub struct Lab {
    control: Control,
    drives: drives::Control,
    nodes: BTreeMap<NodeName, LabNode>,
    cables: topology::Cables,
    faults: Vec<faults::Made>,
    /// What drifts are drawn from.
    drift_rng: fastrand::Rng,
    /// What miswirings are drawn from.
    miswiring_rng: fastrand::Rng,
    client_identity: TlsIdentity,
    seed: u64,
    /// Held while nodes are off, too.
    _ports: ports::Held,
    kind: LabKind,
}

impl Lab {
    /// Builds the lab; returns when every agent has answered. `ready` is told of each node as it comes.
    pub async fn up(
        launch: Launch<'_>,
        keeper: &mut Keeper,
        ui: &Ui,
        ready: impl Fn(&NodeName, u64),
    ) -> Result<Self, LabError> {
        let plan = LabPlan::new(launch.spec, launch.file, launch.seed)?;
        let names: Vec<String> = plan.nodes.iter().map(|node| node.name.to_string()).collect();
        let ports = ports::hold(launch.file.out_of_band.first_port, &names)?;
        let control = boot::start_fabric(keeper, launch.program, &plan.cables).await?;
        let ca = Ca::new(launch.spec.name.as_str(), CERTIFICATES_VALID_FOR)?;
        let client_identity = ca.issue_client("lab")?;
        let prepare = |node: NodePlan| {
            let files = NodeFiles::new(&keeper.dir, &node, launch.kept);
            boot::prepare(&node, &files, &ca).map(|()| (node, files))
        };
        let nodes = plan.nodes.into_iter().map(prepare).collect::<Result<Vec<_>, _>>()?;
        let with_files = nodes.iter().map(|(node, files)| (node, files));
        let drives = boot::start_drives(keeper, launch.program, with_files, !launch.seed).await?;
        let mut starting = Vec::new();
        for ((node, files), port) in nodes.into_iter().zip(ports.ports.iter().copied()) {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let endpoint = Endpoint { node: node.name.clone(), address };
            let client = Client::new(endpoint, &client_identity).map_err(LabError::Client)?;
            let boot = BootFiles::new(launch.image, launch.file);
            let arguments = qemu::arguments(&node, &files, &boot, launch.accel, port)?;
            let process = Process::Node(node.name.clone());
            let machine = Machine { binary: launch.file.qemu.binary.clone(), arguments };
            let (binary, arguments) = (&machine.binary, machine.arguments.clone());
            keeper.spawn(process, binary, arguments, &files.output()).await?;
            let powered_on = Instant::now();
            starting.push(Starting { plan: node, files, machine, client, address, powered_on });
        }
        let bound = Duration::from_secs(launch.file.boot.timeout_s);
        let nodes = boot::boot_all(starting, keeper, bound, ui, &ready).await?;
        let nodes = nodes.into_iter().map(|node| (node.plan.name.clone(), node)).collect();
        let drift_rng = fastrand::Rng::with_seed(launch.seed);
        let miswiring_rng = fastrand::Rng::with_seed(!launch.seed);
        Ok(Self {
            control,
            drives,
            nodes,
            cables: plan.cables,
            faults: Vec::new(),
            drift_rng,
            miswiring_rng,
            client_identity,
            seed: launch.seed,
            _ports: ports,
            kind: launch.file.kind,
        })
    }

    /// The nodes by name, the witness among them.
    pub fn nodes(&self) -> &BTreeMap<NodeName, LabNode> {
        &self.nodes
    }

    /// What every random choice comes from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Waits until a process of the lab ends by itself: none does while all is well.
    pub fn first_death(&self, keeper: &Keeper) -> impl Future<Output = LabError> + use<> {
        let nodes = self.nodes.iter().map(|(name, node)| (name.clone(), node.files.clone())).collect();
        error::first_death(keeper.ended(), nodes, keeper.dir.clone())
    }

    /// The switches and cables.
    pub fn topology(&self) -> &Topology {
        self.cables.topology()
    }

    /// What went over each cable so far.
    pub fn counters(&mut self) -> Result<Snapshot, LabError> {
        Ok(self.control.counters()?)
    }

    /// Frames for local experiments that the fabric took from nodes, from a number on; not all of them at once.
    pub(crate) fn experiments(&mut self, since: u64) -> Result<Experiments, LabError> {
        Ok(self.control.experiments(since)?)
    }

    /// Shapes a cable; the default shaping ends it. No fault: nothing needs to be named for it.
    pub(crate) fn shape(&mut self, link: &LinkId, ways: Ways, shaping: Shaping) -> Result<(), LabError> {
        Ok(self.control.shape_link(link, ways, shaping)?)
    }

    /// What its figures are worth.
    pub(crate) fn machines(&self) -> Machines {
        match self.kind {
            LabKind::Qemu => Machines::Emulated,
        }
    }

    /// Which NICs have carrier.
    pub(crate) fn carriers(&mut self) -> Result<BTreeMap<NicId, bool>, LabError> {
        Ok(self.control.carrier()?)
    }

    /// Writes the files with which somebody else can ask its agents; gives the access file's path.
    pub(crate) fn write_access(&self, dir: &Path) -> Result<PathBuf, LabError> {
        access::write_access(self, dir)
    }

    /// Leaves the lab running. Says how to get in and how to end it.
    pub async fn keep(self, keeper: Keeper) -> Result<String, LabError> {
        access::hand_over(&self, keeper).await
    }
}

/// The main function of the lab's switches: runs until it is killed.
pub fn fabric_process(topology: &Path, sockets: &Path) -> Result<(), FabricProcessError> {
    let read = |source| FabricProcessError::Read { path: topology.to_owned(), source };
    let text = std::fs::read(topology).map_err(read)?;
    let topology = serde_json::from_slice(&text).map_err(|error| read(error.into()))?;
    Ok(fabric::run(&fabric::Config { topology, socket_dir: sockets.to_owned(), exit_on_stdin_eof: false })?)
}

/// The main function of the lab's data drives: runs until it is killed.
pub fn drives_process(config: &Path, dir: &Path) -> Result<(), DrivesProcessError> {
    let read = |source| DrivesProcessError::Read { path: config.to_owned(), source };
    let text = std::fs::read(config).map_err(read)?;
    let config = serde_json::from_slice(&text).map_err(|error| read(error.into()))?;
    Ok(drives::run(&config, dir)?)
}

/// The drives ended by themselves.
#[derive(Debug, thiserror::Error)]
pub enum DrivesProcessError {
    /// What they are can't be read.
    #[error("cannot read the drives' configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The drives could not run.
    #[error(transparent)]
    Run(#[from] drives::RunError),
}

/// The switches ended by themselves.
#[derive(Debug, thiserror::Error)]
pub enum FabricProcessError {
    /// The topology can't be read.
    #[error("cannot read the topology {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The switches could not run.
    #[error(transparent)]
    Run(#[from] fabric::RunError),
}
