//! Running fabrics: in a thread with sockets as QEMU has them, and as a process.
#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

mod common;
mod process;
mod sockets;
