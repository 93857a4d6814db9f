//! Virtual machines: QEMU under supervision.
//!
//! So far only its machine protocol ([`qmp`]): the lab drives its nodes with it, and the agent will drive its
//! virtual machines with the same client.

pub mod qmp;
