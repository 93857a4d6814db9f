//! `twinrack drive`: what drives the pool has, and adding, replacing and removing them while volumes are used.
//!
//! On failure: [`ClusterError`].

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::{VERSION, json, name_of, rack_of, size, table};
use clap::{Args, Subcommand};
use control::State;
use deploy::Member;
use deploy::pool::{self, volumes_on};
use model::{DriveId, DriveSerial, NodeName, SLAB_BYTES, VolumeId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io;

const EXAMPLES: &str = "\
A drive is named by its id (`drive-1`) or its serial number. The access file is that of `twinrack volume`.

Examples:
  twinrack drive --access access.json list
  twinrack drive --access access.json add node-a1 S4XYNX0R123456
  twinrack drive --access access.json replace drive-1 --with drive-7
  twinrack drive --access access.json remove drive-1

Exit codes: 0 good; 1 the cluster refused or did not answer; 2 the access file or the command line can't be read.";

/// Drives of the pool: list, add, replace, remove.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DriveArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Every drive of the pool, and whose copies it holds.
    List,
    /// Take a node's drive into the pool. One that holds anything is refused, unless it shall be wiped.
    Add {
        /// The node that it is plugged in.
        node: NodeName,
        /// Its serial number.
        serial: DriveSerial,
        /// Take it whatever it holds: all of that is lost.
        #[arg(long)]
        wipe: bool,
    },
    /// Move all that is on a drive to others of its rack while it is used, and take the drive out of the pool. It can be pulled then.
    Replace {
        /// Which.
        drive: String,
        /// Where everything goes; without it, where most is free.
        #[arg(long, value_name = "DRIVE")]
        with: Option<String>,
    },
    /// Take a drive that holds no copies out of the pool.
    Remove {
        /// Which.
        drive: String,
    },
}

/// Every drive.
#[derive(Debug, Serialize)]
struct Listed {
    version: u32,
    drives: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    serial: String,
    node: String,
    rack: String,
    size_bytes: u64,
    used_bytes: u64,
    takes_new: bool,
    volumes: Vec<String>,
    leaving: usize,
}

/// What came of a command.
#[derive(Debug, Serialize)]
struct Done {
    version: u32,
    drive: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    added_to: Option<String>,
    removed: bool,
    moved: BTreeMap<String, String>,
}

impl Listed {
    fn of(state: &State) -> Self {
        let row = |(id, drive): (&DriveId, &control::state::Drive)| {
            let legs = state.volumes.values().flat_map(|volume| volume.legs.values());
            let own = legs.filter(|leg| leg.drive == *id).flat_map(|leg| &leg.extents);
            let leaving = drive.leaving.iter().flat_map(|leaving| &leaving.extents);
            let slabs: u64 = own.chain(leaving).map(|extent| extent.count).sum();
            Row {
                id: id.to_string(),
                serial: drive.serial.to_string(),
                node: name_of(state, drive.node),
                rack: rack_of(state, Some(drive.node)),
                size_bytes: drive.size_bytes,
                used_bytes: slabs.saturating_mul(SLAB_BYTES),
                takes_new: !drive.retired,
                volumes: volumes_on(state, *id).iter().map(|id| volume_name(state, *id)).collect(),
                leaving: drive.leaving.len(),
            }
        };
        let mut drives: Vec<Row> = state.drives.iter().map(row).collect();
        // By rack and node; ids stay in their order.
        drives.sort_by(|one, other| (&one.rack, &one.node).cmp(&(&other.rack, &other.node)));
        Self { version: VERSION, drives }
    }
}

fn volume_name(state: &State, id: VolumeId) -> String {
    state.volumes.get(&id).map_or_else(|| id.to_string(), |volume| volume.name.to_string())
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.drives.iter().map(|row| {
            let state = if row.takes_new { "in use" } else { "retired" };
            let leaving = if row.leaving > 0 { format!(" ({} leaving)", row.leaving) } else { String::new() };
            let holds = if row.volumes.is_empty() { "-".to_owned() } else { row.volumes.join(", ") };
            [
                row.rack.clone(),
                row.node.clone(),
                row.id.clone(),
                row.serial.clone(),
                size(row.size_bytes),
                size(row.used_bytes),
                state.to_owned(),
                holds + &leaving,
            ]
        });
        table(f, ["RACK", "NODE", "DRIVE", "SERIAL", "SIZE", "USED", "STATE", "COPIES OF"], rows)
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (volume, to) in &self.moved {
            writeln!(f, "the copy of {volume} is on {to}")?;
        }
        if let Some(node) = &self.added_to {
            writeln!(f, "{} of {node} is in the pool", self.drive)?;
        }
        if self.removed { writeln!(f, "{} has left the pool", self.drive) } else { Ok(()) }
    }
}

pub(crate) fn run(args: &DriveArgs) -> io::Result<Outcome> {
    cluster::run(&args.cluster, |members| async move { carry_out(args, &members).await })
}

async fn carry_out(args: &DriveArgs, members: &[Member]) -> Result<String, ClusterError> {
    let bound = args.cluster.bound();
    let (_, state) = pool::confirmed(members, bound).await?;
    let done = match &args.task {
        Task::List => {
            let listed = Listed::of(&state);
            return Ok(if args.cluster.json { json(&listed) } else { listed.to_string() });
        }
        Task::Add { node, serial, wipe } => {
            let member = members.iter().find(|member| member.name == *node);
            let member = member.ok_or_else(|| ClusterError::NoNode(node.to_string()))?;
            let drive = pool::add_one_drive(members, member, (serial, *wipe), bound).await?;
            let (drive, added_to) = (drive.to_string(), Some(node.to_string()));
            Done { version: VERSION, drive, added_to, removed: false, moved: BTreeMap::new() }
        }
        Task::Replace { drive, with } => {
            let drive = cluster::drive(&state, drive)?;
            let with = with.as_ref().map(|with| cluster::drive(&state, with)).transpose()?;
            let moved = pool::replace_drive(members, drive, with, bound).await?;
            let moved = moved.iter().map(|(id, to)| (volume_name(&state, *id), to.to_string()));
            let (drive, moved) = (drive.to_string(), moved.collect());
            Done { version: VERSION, drive, added_to: None, removed: true, moved }
        }
        Task::Remove { drive } => {
            let drive = cluster::drive(&state, drive)?;
            pool::remove_drive(members, drive, bound).await?;
            let drive = drive.to_string();
            Done { version: VERSION, drive, added_to: None, removed: true, moved: BTreeMap::new() }
        }
    };
    Ok(if args.cluster.json { json(&done) } else { done.to_string() })
}
