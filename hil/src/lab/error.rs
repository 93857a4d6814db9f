//! What can go wrong with a lab itself. It says nothing about the product: exit code 69, or 2 where
//! a lab file or template asks for a lab that can't be.

use super::file::LabFileError;
use super::handle::{Ended, KeepError};
use super::plan::PlanError;
use super::ports::PortError;
use super::qemu::NodeFiles;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// How many lines of a console or an output are shown with an error.
const TAIL_LINES: usize = 15;

/// The lab failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The lab file can't be used.
    #[error("the lab file can't be used")]
    File(#[from] LabFileError),
    /// The cluster can't be cabled.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No ports for the nodes.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The keeper failed.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// Too little room for a lab.
    #[error("{} has {free_mib} MiB free; this lab needs {needed_mib} MiB there", .dir.display())]
    NoRoom {
        /// Where.
        dir: PathBuf,
        /// What there is.
        free_mib: u64,
        /// What it takes.
        needed_mib: u64,
    },
    /// A file of the lab could not be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system for a node's state could not be made.
    #[error("cannot make the file system on {}", .path.display())]
    StateDrive {
        /// The drive's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::host::CommandError,
    },
    /// The nodes' certificates could not be made.
    #[error("cannot make the lab's certificates")]
    Pki(#[from] api::pki::PkiError),
    /// The switches don't run.
    #[error("the lab's switches did not start: {output}")]
    Fabric {
        /// What they said.
        output: String,
    },
    /// A socket's path is too long.
    #[error("the lab's directory has too long a path")]
    Socket(#[from] fabric::SocketError),
    /// The switches don't do as told.
    #[error("the lab's switches don't do as told")]
    Control(#[from] fabric::ControlError),
    /// A QEMU ended on its own.
    #[error("the QEMU of node {node} {status}\n{tail}")]
    QemuDied {
        /// The node.
        node: String,
        /// How it ended.
        status: String,
        /// What it and the console said last.
        tail: String,
    },
    /// Another process of the lab ended on its own.
    #[error("the lab's {name} {status}")]
    ProcessDied {
        /// Which.
        name: String,
        /// How it ended.
        status: String,
    },
    /// An agent did not answer in time.
    #[error("the agent of node {node} did not answer within {waited:?}\n{tail}")]
    NoAnswer {
        /// The node.
        node: String,
        /// How long it had.
        waited: Duration,
        /// What the console said last.
        tail: String,
    },
    /// The way to an agent could not be made.
    #[error("cannot make the way to an agent")]
    Client(#[source] api::ClientError),
    /// A suite speaks of a storage network that the lab hasn't.
    #[error("this lab has no storage network {storage_network}")]
    NoSuchNetwork {
        /// Which.
        storage_network: u8,
    },
    /// A suite speaks of a node that the lab hasn't.
    #[error("this lab has no node {position} in room {room}")]
    NoSuchNode {
        /// The room, from 1.
        room: usize,
        /// The node's position there, from 1.
        position: u8,
    },
    /// There is no free port for a cable that a suite moves.
    #[error("room {room} has no free port for {adapter}")]
    NoSpare {
        /// The room, from 1.
        room: usize,
        /// The NIC whose cable was to be moved there.
        adapter: String,
    },
    /// A node of the cluster is not in the lab.
    #[error("the lab was built without node {node}")]
    Missing {
        /// The node.
        node: String,
    },
    /// QEMU doesn't do as told.
    #[error("the QEMU of node {node} does not do as told")]
    Qmp {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: vm::qmp::QmpError,
    },
}

impl LabError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::File(_) => "hil/labs/qemu.toml is a good lab file to start from",
            Self::Plan(_) => "change the template",
            Self::Port(_) => {
                "end what uses the port, or change out_of_band.first_port in the lab file (0: any free)"
            }
            Self::NoRoom { .. } => "make room there, or set TMPDIR to a place that has it",
            Self::Write { .. } | Self::StateDrive { .. } => {
                "make room there, or see that this user may write there"
            }
            Self::QemuDied { .. } => "its own words are above; the lab file says which QEMU runs and how",
            Self::NoAnswer { .. } => {
                "the console above says how far it came; boot.timeout_s in the lab file is the bound"
            }
            Self::Socket(_) => "set TMPDIR to a place with a shorter path",
            Self::NoSuchNetwork { .. } | Self::NoSuchNode { .. } => "run the suite on a shape that has it",
            Self::ProcessDied { .. }
            | Self::NoSpare { .. }
            | Self::Missing { .. }
            | Self::Client(_)
            | Self::Keep(_)
            | Self::Pki(_)
            | Self::Fabric { .. }
            | Self::Control(_)
            | Self::Qmp { .. } => "the lab itself is broken: run again, and report it if that happens twice",
        }
    }
}

/// Waits for the first process of a lab that ends by itself, and says what it said last.
pub(crate) async fn first_death(
    mut ended: watch::Receiver<Ended>,
    files: BTreeMap<String, NodeFiles>,
) -> LabError {
    let first = match ended.wait_for(|ended| !ended.is_empty()).await {
        Ok(ended) => ended.first_key_value().map(|(name, status)| (name.clone(), status.clone())),
        Err(_) => None,
    };
    let (node, status) = first.unwrap_or_else(|| ("keeper".to_owned(), "is gone".to_owned()));
    match files.get(&node) {
        Some(files) => LabError::QemuDied { node, status, tail: tail(files) },
        None => LabError::ProcessDied { name: node, status },
    }
}

/// The last lines of what a node's console and its QEMU said, for an error message.
pub(crate) fn tail(files: &NodeFiles) -> String {
    let mut text = String::new();
    for (what, path) in [("QEMU", files.output()), ("console", files.console.clone())] {
        let said = std::fs::read(&path).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).replace('\r', "");
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if last.is_empty() {
            writeln!(text, "  {what} said nothing").ok();
        } else {
            writeln!(text, "  {what} said last:").ok();
        }
        for line in last {
            writeln!(text, "    | {line}").ok();
        }
    }
    text
}
