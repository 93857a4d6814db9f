//! What happens when things fail: the ledger's state machine, and the code that decides on every node.
//!
//! Purpose: [`State`] is what the ledger says, [`State::apply`] how it changes, [`transition`] has the pictures and the table.
//!
//! Invariants: sans-IO. Nothing here reads a clock, opens a file, starts a task or knows Raft, NVMe or md. [`check()`] and
//! [`check_step`] say what must hold of the ledger.
//!
//! On failure: a refused command is a [`Rejected`] with its reason and has changed nothing. docs/volumes.md has the protocol, why
//! it is safe, and the seam to the agent.

pub mod apply;
pub mod bug;
pub mod check;
pub mod command;
#[cfg(test)]
mod model_check;
pub mod moment;
pub mod owner;
pub mod rebuild;
pub mod state;
pub mod target;
#[cfg(test)]
mod testing;
pub mod transition;

pub use check::{Broken, check, check_step};
pub use command::{ClusterCommand, Command, Event, LegRef, Rejected, VolumeCommand};
pub use moment::Moment;
pub use state::State;
