//! The cluster's replicated, quorum-committed state: Raft (openraft) and its store (redb) around control's state machine. The
//! only crate that knows either.
//!
//! Purpose: [`Ledger`] is the handle: open, propose, watch what the ledger says, confirm that this node leads, change who votes.
//! [`bootstrap`] and [`join`] make a store, [`set_aside`] gives one up, [`force_quorum`] goes on with what one survivor has.
//! [`Transport`] carries letters between ledgers; [`http`] is the real one.
//!
//! Invariants: what was acknowledged is on the disks of a majority; a refused command changes nothing; a node whose store is lost
//! never comes back under its id; ledgers of different incarnations don't talk with each other.
//!
//! On failure: typed errors, one for each operation. docs/ledger.md has the store's format, the times, and what to do.

mod bug;
mod config;
mod elector;
mod force;
mod greetings;
pub mod http;
mod join;
mod ledger;
mod machine;
mod network;
mod propose;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod store;
mod token;
mod transport;
mod types;
mod voters;

pub use bug::{Bug, Bugs};
pub use config::{Config, ConfigError};
pub use force::{ForceError, ForceOrder, Forced, Survey, force_quorum, survey};
pub use join::{BootstrapError, InviteError, JoinError, Newcomer, bootstrap, join};
pub use ledger::{Behind, Leadership, Ledger, NotLeading, OpenError, Role, Status};
pub use machine::Refused;
pub use propose::{Applied, ProposeError};
pub use store::{FILE, StoreError, set_aside};
pub use token::{ClusterId, ForcingId, JoinToken, NoRandomness, NotAToken, StoreId, TokenRefused};
pub use transport::{Contact, Letter, Refusal, Reply, Transport, TransportError};
pub use types::{Identity, Member};
pub use voters::VotersError;
