//! What a node finds out about the way to its peers.

use model::{ClusterName, ClusterSpec, Mtu, NodeName, NodeOrdinal, Priority, StorageNetworkIndex};
use network::LinkName;
use network::probe::HELLO_INTERVAL_MS;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Asks a node to greet its peers on all storage networks from now on, and to remember when it heard them. Replaces what
/// it was told before; without networks it stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathsRequest {
    /// Whose cluster.
    pub cluster: ClusterName,
    /// The node's own ordinal.
    pub sender: NodeOrdinal,
    /// How often it sends, milliseconds, 10 to 60000.
    pub interval_ms: u32,
    /// The priority that its hellos leave with.
    pub priority: Priority,
    /// How large the largest packets are: once a second a hello is as large. None: no hello is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet_bytes: Option<Mtu>,
    /// The storage networks.
    pub networks: Vec<PathNetwork>,
}

/// A storage network and who is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathNetwork {
    /// Which.
    pub network: StorageNetworkIndex,
    /// The node's own address there.
    pub address: Ipv4Addr,
    /// The others.
    pub peers: Vec<PathPeer>,
}

/// Another node on a storage network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathPeer {
    /// Its name.
    pub node: NodeName,
    /// Its ordinal, which its hellos carry.
    pub ordinal: NodeOrdinal,
    /// Its address there.
    pub address: Ipv4Addr,
}

impl PathsRequest {
    /// What a node of a cluster is told; `None` if it is none.
    pub fn of(spec: &ClusterSpec, node: &NodeName) -> Option<Self> {
        let sender = spec.nodes().find(|(_, member)| member.name == *node)?.1.ordinal;
        let network = |network: &model::StorageNetwork| {
            let address = |ordinal| ClusterSpec::storage_address(network, ordinal);
            let others = spec.nodes().map(|(_, member)| member).filter(|member| member.ordinal != sender);
            let peer = |member: &model::Node| PathPeer {
                node: member.name.clone(),
                ordinal: member.ordinal,
                address: address(member.ordinal),
            };
            PathNetwork {
                network: network.index,
                address: address(sender),
                peers: others.map(peer).collect(),
            }
        };
        Some(Self {
            cluster: spec.name.clone(),
            sender,
            interval_ms: HELLO_INTERVAL_MS,
            priority: spec.qos.heartbeat_priority,
            packet_bytes: Some(spec.storage_mtu()),
            networks: spec.storage_networks.iter().map(network).collect(),
        })
    }
}

/// Asks a node to measure round trips by ICMP echo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// The node's own address that probes leave from.
    pub source: Ipv4Addr,
    /// Who shall answer.
    pub target: Ipv4Addr,
    /// The only link that probes may use; `None`: as the routes say.
    pub device: Option<LinkName>,
    /// How many probes, 1 to 10000.
    pub count: u16,
    /// From one probe to the next, microseconds, at least 100.
    pub interval_us: u32,
    /// Bytes in each probe beside the 28 of the IPv4 and ICMP headers: an MTU of 9000 is proven by 8972, undivided.
    pub payload_bytes: u16,
    /// Whether a probe that is too big is lost instead of cut to pieces.
    pub dont_fragment: bool,
    /// The priority that probes leave with.
    pub priority: Priority,
    /// When the run ends at the latest, milliseconds, at most 50000.
    pub deadline_ms: u32,
}

/// How the probes went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingAnswer {
    /// Probes that left.
    pub sent: u32,
    /// Probes that were answered in time.
    pub received: u32,
    /// Probes asked for that weren't answered, unsent ones included.
    pub lost: u32,
    /// The shortest round trip, microseconds; `None`, here and below: no answer.
    pub min_us: Option<u64>,
    /// The median, microseconds.
    pub median_us: Option<u64>,
    /// The 99th percentile, microseconds.
    pub p99_us: Option<u64>,
    /// The longest, microseconds.
    pub max_us: Option<u64>,
    /// Answered probes by round trip: a count for each of [`network::probe::ROUND_TRIP_BOUNDS_US`], and one for what is
    /// longer. Empty: an agent that doesn't count them.
    #[serde(default)]
    pub histogram: Vec<u32>,
    /// The first error of sending or receiving, in the kernel's words.
    pub first_error: Option<String>,
}
