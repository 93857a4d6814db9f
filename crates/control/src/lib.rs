//! What happens when things fail: the ledger's state machine, and the code that decides on every node.
//!
//! Purpose: [`State`] is what the ledger says, [`State::apply`] how it changes, [`transition`] has the pictures and the table.
//! [`target`], [`owner`] and [`decider`] hold what a node has against it and order what leads from one to the other; [`lease`]
//! says who may run anything, [`vm`] where virtual machines run, [`voters`] who shall vote, [`rebuild`] which leg is next,
//! [`retire`] where the legs of a retired drive go, [`leaving`] when a node has left, [`rebalance`] which move when nodes were added, [`slow`]
//! which drives are slow beside others, [`stall`] which answer nothing, [`thin`] which extents of a thin volume are mapped next.
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
pub mod decider;
pub mod hand_over;
pub mod lease;
pub mod leaving;
pub mod member;
#[cfg(test)]
mod model_check;
pub mod moment;
pub mod owner;
pub mod pool;
pub mod rebalance;
pub mod rebuild;
mod rejected;
pub mod retire;
pub mod slow;
pub mod stall;
pub mod state;
mod subject;
pub mod target;
#[cfg(test)]
mod testing;
pub mod thin;
pub mod transition;
pub mod vm;
pub mod voters;

pub use check::{Broken, check, check_step};
pub use command::{ClusterCommand, Command, Event, LegRef, Rejected, VolumeCommand};
pub use moment::Moment;
pub use state::State;
pub use vm::{VmCommand, VmRejected, VmsCommand};
