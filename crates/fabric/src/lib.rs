//! The virtual switches of the lab: one process without privileges, every NIC a unix socket that QEMU connects to.
//!
//! Purpose: model TORs, spines and the cables between them well enough that what runs on the nodes can't tell (VLANs,
//! MTU, MAC learning, LLDP), break them on command, and count what went where. The model, the control protocol and the
//! limits are described in `docs/fabric.md`.
//!
//! The parts, from the inside out: [`Topology`] says what there is; [`switchboard`] decides what happens to a frame or
//! a fault, purely; [`run`] is the event loop around it, the only place with sockets, clock and files; [`Control`] is
//! how a lab talks to a running fabric.
//!
//! Invariants: no frame is copied to a NIC whose port doesn't carry its VLAN, through a cable that is cut in its
//! direction, or back where it came from. Memory is bounded: buffers per NIC, addresses per switch, control clients.
//! A NIC that reads slowly loses frames and delays nobody.
//!
//! On failure: a topology that can't work is refused before anything is bound; whatever a connected QEMU or client
//! sends, at worst its own connection is closed. When the fabric ends, it takes its sockets along.

mod control;
mod counters;
mod flow;
mod frame;
mod ids;
mod kind;
mod lldp;
mod mac_table;
mod pcap;
mod server;
pub mod switchboard;
mod topology;
mod validate;
mod wire;

#[cfg(test)]
extern crate self as fabric; // so that unit tests share what integration tests use
#[cfg(test)]
#[path = "../tests/live/common.rs"]
mod testing;

pub use control::{Answer, Control, ControlError, Experiment, Experiments, NicState, Request, Response};
pub use counters::{
    ClassCount, Count, DirectionCounters, DropCount, DropReason, KindCount, LinkCounters, Snapshot,
};
pub use frame::{Frame, Tag};
pub use ids::{ChannelId, LinkId, NicId, PortName, SwitchId};
pub use kind::Kind;
pub use lldp::lldpdu;
pub use pcap::CaptureReport;
pub use server::{Config, Fabric, RunError, SocketError, Stopper, run, socket_path};
pub use switchboard::{CarrierChange, Flap, Shaping, Ways};
pub use topology::{Channel, Dcb, End, Home, Link, Pair, Port, PortRef, Role, Switch, Topology};
pub use validate::TopologyError;
