//! The deployment pipeline: a library over the api, used by whoever deploys (so far the lab).
//!
//! ```text
//!   inventory ─► cabling ─► network (look at the cables again, apply, read back, reach) ─► watch
//!                                     └─► pool (ledger, voters, drives) ─► volume
//! ```
//! [`hardware`] judges the inventory. [`ledger`] is beside it: how each node's ledger is, and bringing one back; so are [`vms`]: virtual machines, and nodes in maintenance; [`removal`]: nodes of it given back while it serves; and [`mod@verify`]: whether what
//! was deployed is as it has to be.
//!
//! Purpose: each stage is a function that can be run again at any time: it looks before it changes, and changes nothing
//! where nothing differs. [`watch`](mod@watch) keeps looking afterwards.
//!
//! Invariants: decisions are made by the pure crates; here they are only asked for and carried out, on all nodes at
//! once. Nothing is applied while a cable contradicts the template: [`network`](fn@network) is the only way to apply, and
//! looks at the cables first.
//!
//! On failure: [`DeployError`] names the node; what other nodes did meanwhile stands, and the stage can be run again.

mod access;
mod cabling;
mod cluster;
pub mod deployment;
pub mod destruction;
pub mod hardware;
mod isolation;
pub mod journal;
pub mod ledger;
mod mesh;
mod network_stage;
pub mod pool;
pub mod recorder;
pub mod removal;
mod throughput;
pub mod verify;
pub mod vms;
pub mod watch;

pub use access::{AccessError, NoAgent, access};
pub use cabling::{Cabling, cabling};
pub use cluster::{Cluster, Member, place_witness};
pub use isolation::{Crossing, crossings};
pub use mesh::{MeshProbe, Networks, Over, RoundTrip, mesh, storage_ways};
pub use network_stage::{
    NetworkApplied, NetworkStage, network, network_beside, plan_for, read_back, start_paths,
};
pub use throughput::{Load, StoragePath, Transfer};

use api::ClientError;
use model::NodeName;
use network::{DiffError, PlanError};

/// A stage could not be carried out. (That a stage finds something wrong is a result, not an error.)
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A node could not be asked.
    #[error(transparent)]
    Ask(#[from] ClientError),
    /// The specification has no plan for a node.
    #[error("there is no network plan for node {node}")]
    Plan {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: PlanError,
    },
    /// The pool or a volume could not be made.
    #[error(transparent)]
    Pool(#[from] pool::PoolError),
    /// Virtual machines could not be made, stopped or deleted.
    #[error(transparent)]
    Vms(Box<vms::VmsError>),
    /// A node's links can't be compared with its plan.
    #[error("the links of node {node} can't be compared with its plan")]
    Diff {
        /// The node.
        node: NodeName,
        /// Why.
        #[source]
        source: DiffError,
    },
    /// The management network has no free address for the witness.
    #[error("the management subnet {subnet} has no free address for the witness")]
    NoWitnessAddress {
        /// The subnet.
        subnet: ipnet::Ipv4Net,
    },
}

impl From<vms::VmsError> for DeployError {
    fn from(error: vms::VmsError) -> Self {
        Self::Vms(Box::new(error))
    }
}

impl DeployError {
    /// The rule that is broken, where it is one of those that a deployment is checked against.
    pub fn rule(&self) -> Option<&'static model::rules::Rule> {
        if let Self::Pool(error) = self { error.rule() } else { None }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Ask(_) => {
                "see that the node runs and that its agent does; its console or journal says why not"
            }
            Self::Pool(error) => error.help(),
            Self::Vms(error) => error.help(),
            Self::Plan { .. } => "give the node an intent for every storage network in the template",
            Self::Diff { .. } => {
                "see that the node has the NICs that the template names, each with its MAC address"
            }
            Self::NoWitnessAddress { .. } => {
                "give the witness an address in the template (witness.management_ip)"
            }
        }
    }
}
