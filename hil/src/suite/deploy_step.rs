//! What a suite does about deploying the whole cluster: `{ do = "deployment", what = … }`.

use super::{NodeAt, Place};
use serde::Deserialize;
use std::fmt;

/// A step about the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DeployStep {
    /// Every node and the witness are as they were when they came: all lose their power, all their drives are blank, and they boot. Every agent answers within a bound.
    Blank {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The cluster is deployed as `twinrack deploy` does it, by a process of its own, which is killed so many times on the way, spread over its steps, and started again.
    Deploy {
        /// How often it is killed.
        #[serde(default)]
        kills: u32,
        /// How many nodes of each rack, the last ones, stay blank.
        #[serde(default)]
        leaves_out: usize,
        /// The bound for all of it, milliseconds.
        within_ms: u64,
    },
    /// The nodes of each rack that are not deployed yet, one in each, are added as `twinrack node add` does it, by a process that is killed and started again in the same way. Then all that `twinrack verify` looks at holds of
    /// the larger cluster; once more changes nothing. Or, if nodes are named that are lost, each of them loses its power in a step of a run of its own, which ends and names it; with the node back it is gone on with.
    AddNodes {
        /// Who is lost, in this order.
        #[serde(default)]
        loses: Vec<NodeAt>,
        /// How often it is killed.
        #[serde(default)]
        kills: u32,
        /// The bound for all of it, milliseconds.
        within_ms: u64,
    },
    /// It is deployed once more, which changes nothing.
    ChangesNothing {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Every check of `twinrack verify` holds, asked by the harness when the deployment has ended, and the ledger has what the template asks for: each node in its zone, the witness in none, the lab's data drives, the
    /// volumes of the configuration.
    Verifies {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The cluster is given back as `twinrack destroy` does it, by a process that is killed and started again in the same way: then no node has a ledger, all links are as they were when it was blank, the kernel has
    /// nothing left of the cluster, and every data drive is blank. Once more changes nothing.
    Destroy {
        /// How often it is killed.
        #[serde(default)]
        kills: u32,
        /// The bound for all of it, milliseconds.
        within_ms: u64,
    },
    /// A node, or the witness, dies for good: it loses its power, and a blank machine comes in its place, or one that has its drives yet. It is repaired as `twinrack node repair` does it, by a process that is killed and started
    /// again in the same way, while whoever writes goes on; then all that `twinrack verify` looks at holds. Once more changes nothing.
    Repair {
        /// Where.
        room: Place,
        /// Its position there, from 1.
        #[serde(default = "first")]
        position: u8,
        /// Whether its data drives are left as they were.
        #[serde(default)]
        keeps_drives: bool,
        /// How often it is killed.
        #[serde(default)]
        kills: u32,
        /// The bound for all of it, milliseconds.
        within_ms: u64,
    },
    /// The node of this position in each room leaves the cluster as `twinrack node remove` does it, by a process that is killed and started again in the same way, while whoever writes goes on. Then the two have no ledger, no
    /// link of the cluster's and no drive that is not blank, and all that `twinrack verify` looks at holds of the others. Once more changes nothing.
    Removes {
        /// Its position there, from 1.
        #[serde(default = "first")]
        position: u8,
        /// How often it is killed.
        #[serde(default)]
        kills: u32,
        /// The bound for all of it, milliseconds.
        within_ms: u64,
    },
    /// A node loses its power in the middle of it: the deployment ends and names that node. With the node back it is gone on with, to its end.
    LosesANode {
        /// The bound for all of it, milliseconds.
        within_ms: u64,
    },
}

impl fmt::Display for DeployStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank { within_ms } => write!(f, "all nodes are blank, and answer within {within_ms} ms"),
            Self::Deploy { kills, leaves_out, within_ms } => {
                let what = match leaves_out {
                    0 => "the cluster is deployed".to_owned(),
                    1 => "the cluster is deployed without the last node of each rack".to_owned(),
                    nodes => format!("the cluster is deployed without the last {nodes} nodes of each rack"),
                };
                let by = killed(*kills);
                write!(f, "{what} within {within_ms} ms{by}")
            }
            Self::AddNodes { loses, kills, within_ms } => {
                let by = killed(*kills);
                write!(f, "a node is added to each rack within {within_ms} ms{by}")?;
                let lost = loses.iter().map(|NodeAt { room, position }| format!("node {position} of {room}"));
                let lost = lost.collect::<Vec<_>>().join(", then ");
                if lost.is_empty() {
                    Ok(())
                } else {
                    write!(f, ", in which {lost} loses its power and comes back")
                }
            }
            Self::ChangesNothing { within_ms } => {
                write!(f, "it is deployed once more within {within_ms} ms, which changes nothing")
            }
            Self::Verifies { within_ms } => write!(
                f,
                "within {within_ms} ms every check of `twinrack verify` holds, and the ledger has what the template asks for"
            ),
            Self::Destroy { kills, within_ms } => write!(
                f,
                "the cluster is given back within {within_ms} ms, by a process that is killed {kills} times on the way, and all nodes are as they were found"
            ),
            Self::Repair { room, position, keeps_drives, kills, within_ms } => {
                let who = match room {
                    Place::Room(room) => format!("node {position} of {room}"),
                    place => place.to_string(),
                };
                let with = if *keeps_drives { "with its drives and an empty system disk" } else { "blank" };
                let by = killed(*kills);
                write!(f, "{who} dies for good, comes back {with}, and is repaired within {within_ms} ms{by}")
            }
            Self::Removes { position, kills, within_ms } => {
                let by = killed(*kills);
                write!(
                    f,
                    "node {position} of each room leaves the cluster, and is as it was found, within {within_ms} ms{by}"
                )
            }
            Self::LosesANode { within_ms } => write!(
                f,
                "a node loses its power in the middle of the deployment, which names it; with the node back it is gone on with, all within {within_ms} ms"
            ),
        }
    }
}

const fn first() -> u8 {
    1
}

fn killed(times: u32) -> String {
    if times == 0 { String::new() } else { format!(", by a process that is killed {times} times on the way") }
}
