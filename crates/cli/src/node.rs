//! `twinrack node`: what nodes have for virtual machines, and emptying them for maintenance.
//!
//! On failure: [`ClusterError`].

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::deploy::{self, AddArgs};
use crate::remove::{self, RemoveArgs};
use crate::shown::json;
use crate::vm::shown::{Drained, Nodes};
use crate::vm::waits;
use ::deploy::deployment::Aim;
use ::deploy::{Member, pool, vms};
use clap::{Args, Subcommand};
use control::State;
use control::vm::Leftover;
use model::{NodeId, NodeName, ZoneName};
use std::collections::BTreeSet;
use std::io;

const EXAMPLES: &str = "\
A node in maintenance takes no virtual machines, and those on it leave, live. If one can't leave, the maintenance is refused, and who is in the way is named, with what would
help; with --save what can't leave is saved, if it was made with --can-be-saved, and goes on where it was when there is a place again. A rack is emptied with --rack. The access file is that of `twinrack volume`.

Examples:
  twinrack node --access access.json list
  twinrack node --access access.json drain node-a1
  twinrack node --access access.json drain --rack room-1 --save --within 600
  twinrack node --access access.json end-drain node-a1

Exit codes: 0 good; 1 the cluster refused or did not answer; 2 the access file or the command line can't be read.";

const ADD_EXAMPLES: &str = "\
The template is that of the cluster as it shall be: the one that it was deployed with, and one node more in each rack. Nodes that are there keep their ordinals (say them where the new ones come between: a node's
storage addresses follow from its ordinal), and nothing of theirs is changed. The new nodes are looked at, connected and measured as in a deployment; they join the ledger and vote, and their drives become the pool's. A
1+1 cluster's two-way volumes get two copies more, and are four-way mirrors then. The access file names all nodes. It goes on where it was interrupted when it is given again, and changes nothing when all is done.

Examples:
  twinrack node --access access.json add plant-2x2.toml --validate-only
  twinrack node --access access.json add plant-2x2.toml

Exit codes: 0 good; 1 a rule is violated, something is in the way or a step failed; 2 a file or the command line can't be read; 130 interrupted.";

const REPAIR_EXAMPLES: &str = "\
The template is that of the cluster. The node answers at the address that the access file and the template have for it: it is another machine with the dead one's name and place, or the same one with an empty system disk. It is looked
at, connected and measured as in a deployment, and joins the ledger again, under a new id. Drives that it still has, with their header, keep what they hold, and are brought up to date. Drives that the ledger has of it and that it has not any more, or
that are empty, are given up for lost: that is shown, and confirmed, before. Their copies are made anew on the drives that it has, from the others. Refused while one of them has the last good copy of a volume. Other nodes
are let alone, and volumes stay in use. It goes on where it was interrupted when it is given again, and changes nothing when all is done.

Examples:
  twinrack node --access access.json repair plant.toml --node a1 --validate-only
  twinrack node --access access.json repair plant.toml --node a1

Exit codes: 0 good; 1 a rule is violated, something is in the way or a step failed; 2 a file or the command line can't be read; 130 interrupted.";

/// Nodes and virtual machines: list, drain, end-drain, add, repair, remove.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// What each node has for virtual machines, and which are there.
    List,
    /// Empty a node or a rack, and wait until it is.
    Drain {
        #[command(flatten)]
        which: Which,
        /// Save what can't leave. Without it, that is in the way, and nothing is moved; what was made without --can-be-saved is in the way all the same.
        #[arg(long)]
        save: bool,
    },
    /// Have it take virtual machines again.
    EndDrain {
        #[command(flatten)]
        which: Which,
    },
    /// Add a node to each rack, and spread copies over all of them, while the cluster serves.
    #[command(after_help = ADD_EXAMPLES)]
    Add(Box<AddArgs>),
    /// Put a new node in the place of one that is dead, or bring one back that has lost what it had, while the cluster serves.
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair(Box<RepairArgs>),
    /// Have a node of each rack leave, and give both back as they were found, while the cluster serves.
    #[command(after_help = remove::EXAMPLES)]
    Remove(Box<RemoveArgs>),
}

#[derive(Debug, Args)]
struct RepairArgs {
    /// Which: its name in the template.
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    #[command(flatten)]
    how: AddArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// A node: its name or its id (`node-2`).
    node: Option<String>,
    /// All nodes of a rack.
    #[arg(long, value_name = "ZONE")]
    rack: Option<ZoneName>,
}

impl Which {
    fn what(&self, state: &State) -> Result<placement::vm::Drained, ClusterError> {
        match (&self.node, &self.rack) {
            (_, Some(zone)) => Ok(placement::vm::Drained::Rack(zone.clone())),
            (node, None) => {
                let node = node.as_deref().unwrap_or_default();
                cluster::node(state, node).map(placement::vm::Drained::Node)
            }
        }
    }

    fn nodes(&self, state: &State) -> Result<BTreeSet<NodeId>, ClusterError> {
        match self.what(state)? {
            placement::vm::Drained::Node(node) => Ok(BTreeSet::from([node])),
            placement::vm::Drained::Nodes(nodes) => Ok(nodes),
            placement::vm::Drained::Rack(zone) => {
                let of_zone = state.nodes.iter().filter(|(_, node)| node.zone.as_ref() == Some(&zone));
                let nodes: BTreeSet<NodeId> = of_zone.map(|(id, _)| *id).collect();
                if nodes.is_empty() { Err(vms::VmsError::NoZone(zone).into()) } else { Ok(nodes) }
            }
        }
    }
}

pub(crate) fn run(args: &NodeArgs) -> io::Result<Outcome> {
    if let Task::Add(add) = &args.task {
        return deploy::beside_others(&args.cluster, add, Aim::Grow);
    }
    if let Task::Repair(repair) = &args.task {
        return deploy::beside_others(&args.cluster, &repair.how, Aim::Repair(repair.node.clone()));
    }
    if let Task::Remove(removal) = &args.task {
        return remove::run(&args.cluster, removal);
    }
    cluster::run(&args.cluster, |members| async move { carry_out(args, &members).await })
}

async fn carry_out(args: &NodeArgs, members: &[Member]) -> Result<String, ClusterError> {
    let bound = args.cluster.bound();
    let (_, state) = pool::confirmed(members, bound).await?;
    match &args.task {
        Task::List => {
            let nodes = Nodes::of(&state, &pool::views(members).await);
            Ok(if args.cluster.json { json(&nodes) } else { nodes.to_string() })
        }
        Task::Drain { which, save } => {
            let leftover = if *save { Leftover::Saved } else { Leftover::Stays };
            let drains = vms::drain(members, &which.what(&state)?, leftover, bound, waits).await?;
            let drained = Drained::new(&state, &drains);
            Ok(if args.cluster.json { json(&drained) } else { drained.to_string() })
        }
        // These look at the cluster by themselves.
        Task::Add(_) | Task::Repair(_) | Task::Remove(_) => Ok(String::new()),
        Task::EndDrain { which } => {
            let nodes = which.nodes(&state)?;
            vms::end_drain(members, &nodes, bound).await?;
            let over = Drained::over(&state, nodes.into_iter());
            Ok(if args.cluster.json { json(&over) } else { over.to_string() })
        }
    }
}
