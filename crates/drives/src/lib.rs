//! The data drives of a lab: one process, every drive a unix socket on which a node's QEMU speaks NBD.
//!
//! ```text
//!   QEMU ──NBD──► thread of a drive: fault? ─► cache ─► sparse file
//!                        ▲                       └─ power lost: a part, drawn from the seed
//!   harness ──control────┘
//! ```
//! Purpose: a drive that forgets, when its power goes, what it was not told to keep, as drives with a volatile write cache
//! do; and one that errs, is slow or hangs when it is told to.
//!
//! Invariants: a drive has power as long as QEMU's connection to it lasts. When that ends, however it does, each sector
//! that was written since the last flush holds what was flushed or something that was written after it, and each sector
//! that was flushed or written with FUA holds that. What is kept is in the drive's file before the state says that the
//! power is gone. `cache`, `fault` and `nbd` decide and hold no file, clock or socket.
//!
//! On failure: a file that can't be read or written ends the process: a drive that lies would prove nothing.

pub mod cache;
mod control;
pub mod fault;
pub mod nbd;
mod server;

pub use control::{Answer, CONTROL_SOCKET, Control, ControlError, DriveState, Request, Response};
pub use server::{Config, DriveConfig, RunError, run};
