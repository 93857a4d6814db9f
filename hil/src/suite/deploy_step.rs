//! What a suite does about deploying the whole cluster: `{ do = "deployment", what = … }`.

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
        /// The bound for all of it, milliseconds.
        within_ms: u64,
    },
    /// It is deployed once more, which changes nothing.
    ChangesNothing {
        /// The bound, milliseconds.
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
            Self::Deploy { kills: 0, within_ms } => {
                write!(f, "the cluster is deployed within {within_ms} ms")
            }
            Self::Deploy { kills, within_ms } => {
                write!(
                    f,
                    "the cluster is deployed within {within_ms} ms, by a process that is killed {kills} times on the way"
                )
            }
            Self::ChangesNothing { within_ms } => {
                write!(f, "it is deployed once more within {within_ms} ms, which changes nothing")
            }
            Self::LosesANode { within_ms } => write!(
                f,
                "a node loses its power in the middle of the deployment, which names it; with the node back it is gone on with, all within {within_ms} ms"
            ),
        }
    }
}
