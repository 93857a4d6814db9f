//! The full mesh: every member probes every other, both ways, on every network that they share.

use crate::{Cluster, DeployError, Member};
use api::{PingAnswer, PingRequest};
use futures_util::future::try_join_all;
use model::rules::{self, Rule};
use model::{ClusterSpec, Mtu, Node, NodeName, Priority, StorageNetwork, StorageNetworkIndex};
use network::measure::latency::Way;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::time::sleep;

/// Headers of an ICMP echo in an IPv4 packet, bytes (RFC 791: 20; RFC 792: 8).
const HEADER_BYTES: u16 = 28;
/// Payload of a probe that is about round trips: what ping(8) sends.
const SMALL_BYTES: u16 = 56;
/// From one probe to the next, microseconds: seldom enough that a mesh of emulated nodes does not measure its own load. Of four nodes on two processors of a host that was three times
/// slower than it mostly is, 5 ms took all there was, and medians were 15 to 25 ms.
const INTERVAL_US: u32 = 10_000;
/// How long a run of probes may take, milliseconds, besides what its probes take one after the other.
const SLACK_MS: u32 = 2000;
/// How long an emulated machine may take for a probe, milliseconds.
const PROBE_MS: u32 = 20;

/// What a mesh sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshProbe {
    /// Probes per pair, direction and network.
    pub count: u16,
    /// Whether they are as big as the network's MTU, undivided.
    pub full_size: bool,
    /// Which networks are probed.
    pub over: Networks,
    /// Whether a member probes all its peers on a network in the same time, as often together as one after the other: then
    /// whatever else goes on meets all of them alike, and their figures can be compared.
    pub interleaved: bool,
}

/// Which networks a mesh probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Networks {
    /// All storage networks and the management network.
    All,
    /// All storage networks.
    Storage,
    /// The management network, with the witness.
    Management,
    /// One storage network.
    One(StorageNetworkIndex),
}

impl MeshProbe {
    /// Whether everybody can be reached at all.
    pub const REACH: Self = Self { count: 3, full_size: false, over: Networks::All, interleaved: false };
    /// Whether the largest packets pass.
    pub const FULL_SIZE: Self =
        Self { count: 3, full_size: true, over: Networks::Storage, interleaved: false };

    /// Whether management still carries.
    pub const MANAGEMENT: Self =
        Self { count: 10, full_size: false, over: Networks::Management, interleaved: false };

    /// How fast.
    pub fn round_trips(count: u16) -> Self {
        Self { count, full_size: false, over: Networks::Storage, interleaved: true }
    }

    /// Whether a storage network still carries.
    pub fn carries(network: StorageNetworkIndex) -> Self {
        Self { count: 20, full_size: false, over: Networks::One(network), interleaved: false }
    }
}

/// The network that two members share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Over {
    /// A storage network.
    Storage(StorageNetworkIndex),
    /// The management network.
    Management,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage(index) => write!(f, "storage network {index}"),
            Self::Management => f.write_str("the management network"),
        }
    }
}

/// What one member saw of another.
#[derive(Debug, Clone)]
pub struct RoundTrip {
    /// Who probed.
    pub from: NodeName,
    /// Who should answer.
    pub to: NodeName,
    /// Over which network.
    pub over: Over,
    /// The MTU that the probes filled, undivided; `None`: they were small.
    pub filled: Option<Mtu>,
    /// How the probes went.
    pub answer: PingAnswer,
}

impl RoundTrip {
    /// The rule that it breaks if it is not complete.
    pub fn rule(&self) -> &'static Rule {
        if self.filled.is_some() { rules::FULL_SIZE_LOST } else { rules::PEER_UNREACHED }
    }

    /// Whether every probe was answered.
    pub fn is_complete(&self) -> bool {
        self.answer.lost == 0 && self.answer.received > 0
    }
}

impl fmt::Display for RoundTrip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, over, filled, answer } = self;
        let sent = answer.lost + answer.received;
        write!(f, "{from} to {to} over {over}: {} of {sent} ", answer.lost)?;
        match filled {
            Some(mtu) => write!(f, "packets of {mtu} bytes lost")?,
            None => f.write_str("probes lost")?,
        }
        if let Some(error) = &answer.first_error {
            write!(f, " ({error})")?;
        }
        Ok(())
    }
}

/// Who can be probed where, by whom.
struct Probe {
    to: NodeName,
    over: Over,
    source: Ipv4Addr,
    target: Ipv4Addr,
    mtu: Mtu,
    priority: Priority,
}

/// Probes the full mesh. All members probe at once; each takes its peers one after the other, or interleaved, beginning with
/// the one after itself, so that no member has to answer all others at the same time.
pub async fn mesh(cluster: &Cluster, probe: MeshProbe) -> Result<Vec<RoundTrip>, DeployError> {
    let of_members = cluster.ask_all(|member| async move {
        let mut trips = Vec::new();
        let ways = ways(&cluster.spec, member, probe.over);
        for together in ways.chunk_by(|a, b| probe.interleaved && a.over == b.over) {
            let peers = u32::try_from(together.len()).unwrap_or(u32::MAX);
            let asked = (0u32..).zip(together).map(|(place, way)| async move {
                // Each at its own place in the interval, or they would wait for each other.
                sleep(Duration::from_micros(u64::from(INTERVAL_US) * u64::from(place))).await;
                let answer = member.client.ping(&request(way, probe, peers)).await?;
                let (from, to) = (member.name.clone(), way.to.clone());
                let filled = probe.full_size.then_some(way.mtu);
                Ok::<_, DeployError>(RoundTrip { from, to, over: way.over, filled, answer })
            });
            trips.extend(try_join_all(asked).await?);
        }
        Ok::<_, DeployError>(trips)
    });
    Ok(of_members.await?.into_iter().flatten().collect())
}

/// Everybody a member shares a network with, network by network.
fn ways(spec: &ClusterSpec, member: &Member, over: Networks) -> Vec<Probe> {
    let mut ways = Vec::new();
    let own = spec.nodes().find(|(_, node)| node.name == member.name).map(|(_, node)| node);
    let wanted = |network: &&StorageNetwork| match over {
        Networks::One(index) => network.index == index,
        Networks::All | Networks::Storage => true,
        Networks::Management => false,
    };
    let storage_networks = spec.storage_networks.iter().filter(wanted);
    for (network, own) in storage_networks.filter_map(|network| own.map(|own| (network, own))) {
        let (before, after): (Vec<&Node>, Vec<&Node>) = spec
            .nodes()
            .map(|(_, node)| node)
            .filter(|node| node.name != own.name)
            .partition(|n| n.ordinal < own.ordinal);
        for peer in after.into_iter().chain(before) {
            ways.push(Probe {
                to: peer.name.clone(),
                over: Over::Storage(network.index),
                source: ClusterSpec::storage_address(network, own.ordinal),
                target: ClusterSpec::storage_address(network, peer.ordinal),
                mtu: spec.storage_mtu(),
                priority: spec.qos.storage_priority,
            });
        }
    }
    let mut addresses: Vec<(NodeName, Ipv4Addr)> =
        spec.nodes().map(|(_, node)| (node.name.clone(), node.management_ip)).collect();
    addresses.extend(spec.witness.management_ip.map(|address| (spec.witness.name.clone(), address)));
    let source = addresses.iter().find(|(name, _)| *name == member.name).map(|(_, address)| *address);
    if let (Some(source), Networks::All | Networks::Management) = (source, over) {
        for (to, target) in addresses.iter().filter(|(name, _)| *name != member.name).cloned() {
            let (over, mtu, priority) = (Over::Management, Mtu::ETHERNET, Priority::DEFAULT);
            ways.push(Probe { to, over, source, target, mtu, priority });
        }
    }
    ways
}

/// `peers` are probed in the same time: each so much less often.
fn request(way: &Probe, probe: MeshProbe, peers: u32) -> PingRequest {
    PingRequest {
        source: way.source,
        target: way.target,
        device: None,
        count: probe.count,
        interval_us: INTERVAL_US * peers,
        payload_bytes: if probe.full_size { way.mtu.get() - HEADER_BYTES } else { SMALL_BYTES },
        dont_fragment: true,
        priority: way.priority,
        deadline_ms: SLACK_MS + u32::from(probe.count) * (PROBE_MS + peers * INTERVAL_US / 1000),
    }
}

/// What of a mesh is judged: its ways on storage networks.
pub fn storage_ways(cluster: &Cluster, trips: &[RoundTrip]) -> Vec<Way> {
    let way = |trip: &RoundTrip| match trip.over {
        Over::Management => None,
        Over::Storage(network) => Some(Way {
            from: trip.from.clone(),
            to: trip.to.clone(),
            network,
            between_rooms: cluster.zone_of(&trip.from) != cluster.zone_of(&trip.to),
            answered: trip.answer.received,
            median_us: trip.answer.median_us,
        }),
    };
    trips.iter().filter_map(way).collect()
}
