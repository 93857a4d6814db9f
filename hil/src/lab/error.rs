//! What can go wrong with a lab itself. It says nothing about the product: exit code 69, or 2 where
//! a lab file or template asks for a lab that can't be.

use super::boot::{drives_output, fabric_output};
use super::file::LabFileError;
use super::handle::{Ended, KeepError};
use super::keeper::Process;
use super::plan::PlanError;
use super::ports::PortError;
use super::qemu::NodeFiles;
use model::NodeName;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// How many lines of a console or an output are shown with an error.
const TAIL_LINES: usize = 15;

/// The lab failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The lab file can't be used.
    #[error("the lab file {} can't be used", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: LabFileError,
    },
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
    /// A file can't be read.
    #[error("cannot read {}", .path.display())]
    Read {
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
    /// The process that deploys the cluster can't be followed.
    #[error("cannot follow the process that deploys the cluster")]
    Deployment {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The nodes' certificates could not be made.
    #[error("cannot make the lab's certificates")]
    Pki(#[from] api::pki::PkiError),
    /// The switches don't run.
    #[error("the lab's switches did not start\n{tail}")]
    Fabric {
        /// What they said last.
        tail: String,
    },
    /// The drives don't run.
    #[error("the lab's drives did not start\n{tail}")]
    Drives {
        /// What they said last.
        tail: String,
    },
    /// The drives don't do as told.
    #[error("the lab's drives don't do as told")]
    DriveControl(#[from] drives::ControlError),
    /// A drive does not see that its machine is gone.
    #[error("the lab's drive {drive} still has power though its machine is off")]
    DrivePower {
        /// Its serial number.
        drive: String,
    },
    /// The lab has no such drive.
    #[error("this lab has no data drive {drive}")]
    NoSuchDrive {
        /// Which: its serial number, or its place.
        drive: String,
    },
    /// A guest does not let go of a drive that was pulled.
    #[error("node {node} has not let go of drive {drive} within {bound:?}")]
    Unplug {
        /// The node.
        node: String,
        /// The drive's serial number.
        drive: String,
        /// How long it had.
        bound: Duration,
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
    #[error("the lab's {what} {status}\n{tail}")]
    ProcessDied {
        /// Which.
        what: &'static str,
        /// How it ended.
        status: String,
        /// What it said last.
        tail: String,
    },
    /// An agent did not answer in time, or not as it should. The cause is told below the console.
    #[error("the agent of node {node} gave no good answer (it had {bound:?})\n{tail}  the last attempt")]
    NoAnswer {
        /// The node.
        node: String,
        /// How long it had.
        bound: Duration,
        /// What the console said last.
        tail: String,
        /// What came instead of a good answer.
        #[source]
        source: Box<api::ClientError>,
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
    #[error("the other room has no free port for {adapter} of {node}")]
    NoSpare {
        /// The node.
        node: String,
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
    /// The switches don't see what the lab did to a NIC.
    #[error("the lab's switches see NIC {nic} plugged {}, which it is not any more", if *plugged_in { "in" } else { "out" })]
    Plug {
        /// The fabric's name of the NIC.
        nic: String,
        /// How they see it.
        plugged_in: bool,
    },
    /// A command on a node could not be run out of band.
    #[error("the hands of node {node} do not do as told")]
    Hands {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: super::hands::HandsError,
    },
    /// A command that was given to a node's hands was refused.
    #[error("node {node} refuses to {what}: {said}")]
    Refused {
        /// The node.
        node: String,
        /// What was to be done.
        what: String,
        /// What it said.
        said: String,
    },
}

impl LabError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::File { .. } => "hil/labs/qemu.toml is a good lab file to start from",
            Self::Plan(_) => "change the template",
            Self::Port(_) => {
                "end what uses the port, or change out_of_band.first_port in the lab file (0: any free)"
            }
            Self::NoRoom { .. } => "make room there, or set TMPDIR to a place that has it",
            Self::Deployment { .. } => "see that the host has processes left",
            Self::Read { .. } => "see that it is there and that this user may read it",
            Self::Write { .. } | Self::StateDrive { .. } => {
                "make room there, or see that this user may write there"
            }
            Self::QemuDied { .. } => "its own words are above; the lab file says which QEMU runs and how",
            Self::NoAnswer { .. } => {
                "the console above says how far it came; boot.timeout_s in the lab file is the bound"
            }
            Self::Socket(_) => "set TMPDIR to a place with a shorter path",
            Self::NoSuchNetwork { .. } | Self::NoSuchNode { .. } => "run the suite on a shape that has it",
            Self::NoSuchDrive { .. } => {
                "run the suite on a lab that has it (node.data_drives in the lab file)"
            }
            Self::ProcessDied { .. }
            | Self::NoSpare { .. }
            | Self::Missing { .. }
            | Self::Client(_)
            | Self::Keep(_)
            | Self::Pki(_)
            | Self::Fabric { .. }
            | Self::Control(_)
            | Self::Drives { .. }
            | Self::DriveControl(_)
            | Self::DrivePower { .. }
            | Self::Unplug { .. }
            | Self::Plug { .. }
            | Self::Hands { .. }
            | Self::Refused { .. }
            | Self::Qmp { .. } => "the lab itself is broken: run again, and report it if that happens twice",
        }
    }
}

/// Waits for the first process of a lab that ends by itself, and says what it said last.
pub(crate) async fn first_death(
    mut ended: watch::Receiver<Ended>,
    nodes: BTreeMap<NodeName, NodeFiles>,
    dir: PathBuf,
) -> LabError {
    let died = |what, status, output: PathBuf| LabError::ProcessDied {
        what,
        status,
        tail: tail_of(&[(what, &output)]),
    };
    let first = match ended.wait_for(|ended| !ended.is_empty()).await {
        Ok(ended) => ended.first_key_value().map(|(process, status)| (process.clone(), status.clone())),
        Err(_) => None,
    };
    match first {
        Some((Process::Node(node), status)) => {
            let tail = nodes.get(&node).map(tail).unwrap_or_default();
            LabError::QemuDied { node: node.to_string(), status, tail }
        }
        Some((Process::Fabric, status)) => died("fabric", status, fabric_output(&dir)),
        Some((Process::Drives, status)) => died("drives", status, drives_output(&dir)),
        None => LabError::ProcessDied { what: "keeper", status: "is gone".to_owned(), tail: String::new() },
    }
}

/// The last lines of what a node's console and its QEMU said, for an error message.
pub(crate) fn tail(files: &NodeFiles) -> String {
    tail_of(&[("QEMU", &files.output()), ("console", &files.console)])
}

/// The last lines of what somebody said, each in a file.
pub(crate) fn tail_of(speakers: &[(&str, &Path)]) -> String {
    let mut text = String::new();
    for (what, path) in speakers {
        let said = std::fs::read(path).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a keeper that is gone has told.
    fn told(ended: Ended) -> watch::Receiver<Ended> {
        let (_keeper, told) = watch::channel(ended);
        told
    }

    fn dead(process: Process) -> watch::Receiver<Ended> {
        told(Ended::from([(process, "was killed by signal 9".to_owned())]))
    }

    #[tokio::test]
    async fn a_dead_fabric_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("fabric.log");
        std::fs::write(&log, "no more ports\n").unwrap();
        let error =
            first_death(dead(Process::Fabric), BTreeMap::new(), dir.path().to_owned()).await.to_string();
        assert_eq!(
            error,
            "the lab's fabric was killed by signal 9\n  fabric said last:\n    | no more ports\n"
        );
    }

    #[tokio::test]
    async fn a_node_called_fabric_dies_as_a_node() {
        let process = Process::Node("fabric".parse().unwrap());
        let error = first_death(dead(process), BTreeMap::new(), PathBuf::new()).await.to_string();
        assert_eq!(error, "the QEMU of node fabric was killed by signal 9\n");
    }

    #[tokio::test]
    async fn a_keeper_that_is_gone_is_named() {
        let error = first_death(told(Ended::new()), BTreeMap::new(), PathBuf::new()).await;
        assert_eq!(error.to_string(), "the lab's keeper is gone\n");
    }
}
