//! The network of a cluster: intents to desired links, wiring, losses, probes.
//!
//! Purpose: decide, purely, what the links of a node shall look like ([`plan()`]), which operations lead there
//! ([`diff()`]), whether the cables say what the template says ([`wiring`]), what just failed ([`diagnose`]) and what is wrong while all
//! carries ([`conditions`]); and carry that out on a Linux kernel (`kernel`, behind the cargo feature of that name, which decides nothing).
//!
//! Invariants: without the feature `kernel` nothing here knows sockets, clocks or tokio. Links that twinrack makes are
//! called `tw-…`; of other links only the adapters that a plan names are touched. Peers' bytes and kernel answers
//! are parsed tolerantly and never panic.
//!
//! On failure: every operation has its error type, which names the link, adapter or byte concerned.

pub mod announce;
pub mod conditions;
pub mod diagnose;
pub mod diff;
pub mod difference;
#[cfg(feature = "kernel")]
pub mod kernel;
pub mod link;
pub mod lldp;
pub mod measure;
pub mod op;
pub mod plan;
pub mod probe;
pub mod simulate;
pub mod tap;
pub mod throughput;
pub mod traffic;
pub mod way_back;
pub mod wiring;

#[cfg(test)]
mod testing;

pub use diff::{DiffError, diff, steps};
pub use difference::{Attribute, Difference, differences};
pub use link::{
    AdapterMap, BondMode, CurrentLink, CurrentLinks, DesiredLink, DesiredLinks, LinkKind, LinkName, Route,
    VlanEntry,
};
pub use op::Op;
pub use plan::{AdapterSpeeds, plan, plan_at, plan_witness};
pub use plan::{Generation, LinkRef, NetworkPlan, PlanError, PlannedKind, PlannedLink, ResolveError};
pub use way_back::{Gone, WayBack, revert};
