//! How much a storage path carries: one node is asked to receive, then the other to send.

use network::LinkName;
use network::throughput::Token;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Asks a node to let one peer send to one of its addresses by TCP, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveRequest {
    /// The node's own address that it listens at.
    pub address: Ipv4Addr,
    /// The only link that packets may come by; `None`: any.
    pub device: Option<LinkName>,
    /// The only address that may send.
    pub peer: Ipv4Addr,
    /// For how long what arrives is counted, milliseconds, 1 to 10000.
    pub duration_ms: u32,
    /// How long the peer may take to come, milliseconds, 1 to 30000.
    pub wait_ms: u32,
}

/// Where the peer may send to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveAnswer {
    /// The port: storage's own, [`network::traffic::STORAGE_PORT`], unless something else listens there.
    pub port: u16,
    /// Whether it is storage's own.
    pub is_storage_port: bool,
    /// What the sender must show.
    pub token: Token,
}

/// Asks a node to send to a peer that was asked to receive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// The node's own address that it sends from.
    pub source: Ipv4Addr,
    /// The only link that it may use; `None`: as the routes say.
    pub device: Option<LinkName>,
    /// Who receives.
    pub target: Ipv4Addr,
    /// At which port.
    pub port: u16,
    /// What the receiver answered.
    pub token: Token,
    /// For how long it sends at most, milliseconds, 1 to 10000.
    pub duration_ms: u32,
    /// How much at most, bytes, 1 to 1 TiB.
    pub bytes: u64,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendAnswer {
    /// What the sender's kernel took, bytes.
    pub sent_bytes: u64,
    /// What the receiver says that it got; `None`: it said nothing in time.
    pub arrived: Option<ArrivedBytes>,
    /// The first error, in the kernel's words.
    pub first_error: Option<String>,
}

/// What a receiver got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivedBytes {
    /// Payload, bytes.
    pub bytes: u64,
    /// From the beginning until the last of it, microseconds.
    pub took_us: u64,
    /// Payload per time, bits per second; `None`: it took no time that could be told.
    pub bits_per_s: Option<u64>,
}

impl From<network::throughput::Arrived> for ArrivedBytes {
    fn from(arrived: network::throughput::Arrived) -> Self {
        Self { bytes: arrived.bytes, took_us: arrived.took_us, bits_per_s: arrived.bits_per_s() }
    }
}
