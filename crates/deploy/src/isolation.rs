//! Whether a storage network can be reached from where it must not: from the other storage network, from management, from the
//! bridge that compute stands on.
//!
//! Two things are tried from every member. *By source*: packets that leave as the routes say, but from an address of another
//! network; the answer would have to come over that. *By link*: packets that may leave by another network's link only; the
//! kernel then asks there who has the address (ARP), and nobody may answer. The fabric counts such questions, and any packet that went
//! astray after all.

use crate::{Cluster, DeployError, Member};
use api::{PingAnswer, PingRequest};
use futures_util::future::try_join_all;
use model::rules::{self, Rule};
use model::{ClusterSpec, NodeName, Priority, StorageNetworkIndex};
use network::LinkName;
use std::fmt;
use std::net::Ipv4Addr;

/// Probes a crossing.
const PROBES: u16 = 2;
/// From one to the next, microseconds.
const INTERVAL_US: u32 = 20_000;
/// How long an answer may take, milliseconds: what is reachable at all answers within a few.
const DEADLINE_MS: u32 = 300;
/// Crossings that a member tries at a time: an agent has room for a few more runs.
const AT_ONCE: usize = 4;

/// One try to reach a storage address from where it must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// Who tried.
    pub from: NodeName,
    /// Whom.
    pub to: NodeName,
    /// On which storage network.
    pub network: StorageNetworkIndex,
    /// From which address.
    pub source: Ipv4Addr,
    /// By which link alone; `None`: as the routes say.
    pub device: Option<LinkName>,
    /// The address tried.
    pub target: Ipv4Addr,
    /// How it went.
    pub answer: PingAnswer,
}

impl Crossing {
    /// Whether nobody answered.
    pub fn is_isolated(&self) -> bool {
        self.answer.received == 0
    }

    /// The rule that it breaks if somebody answered.
    pub fn rule(&self) -> &'static Rule {
        rules::STORAGE_NOT_ISOLATED
    }
}

impl fmt::Display for Crossing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, network, source, target, .. } = self;
        write!(f, "{from} reaches {to} ({target}, storage network {network}) from {source}")?;
        self.device.as_ref().map_or(Ok(()), |device| write!(f, " over {device}"))
    }
}

/// Tries every crossing, from all members at once.
pub async fn crossings(cluster: &Cluster) -> Result<Vec<Crossing>, DeployError> {
    let of_members = cluster.ask_all(|member| async move {
        let mut done = Vec::new();
        for tries in tries(&cluster.spec, member).chunks(AT_ONCE) {
            let asked = tries.iter().map(|crossing| async move {
                let answer = member.client.ping(&request(crossing)).await?;
                Ok::<_, DeployError>(Crossing { answer, ..crossing.clone() })
            });
            done.extend(try_join_all(asked).await?);
        }
        Ok::<_, DeployError>(done)
    });
    Ok(of_members.await?.into_iter().flatten().collect())
}

/// Where a member has no business: every storage address of every other node, by every network but its own.
fn tries(spec: &ClusterSpec, member: &Member) -> Vec<Crossing> {
    let own = spec.nodes().find(|(_, node)| node.name == member.name).map(|(_, node)| node);
    let management = own.map(|node| node.management_ip).or(spec.witness.management_ip);
    let mut tries = Vec::new();
    for network in &spec.storage_networks {
        // Each way in: an address, and links that are not the network's.
        let mut ways: Vec<(Ipv4Addr, Option<LinkName>)> = Vec::new();
        for other in spec.storage_networks.iter().filter(|other| other.index != network.index) {
            if let Some(own) = own {
                let source = ClusterSpec::storage_address(other, own.ordinal);
                ways.push((source, None));
                ways.push((source, Some(LinkName::storage(other.vlan))));
            }
        }
        if let Some(source) = management {
            ways.push((source, Some(LinkName::management())));
            ways.push((source, Some(LinkName::bridge())));
            // A witness has no route to storage at all.
            ways.extend(own.map(|_| (source, None)));
        }
        for (_, peer) in spec.nodes().filter(|(_, peer)| peer.name != member.name) {
            tries.extend(ways.iter().map(|(source, device)| Crossing {
                from: member.name.clone(),
                to: peer.name.clone(),
                network: network.index,
                source: *source,
                device: device.clone(),
                target: ClusterSpec::storage_address(network, peer.ordinal),
                answer: unanswered(),
            }));
        }
    }
    tries
}

/// Nothing was sent, and nothing came.
pub(crate) fn unanswered() -> PingAnswer {
    PingAnswer {
        sent: 0,
        received: 0,
        lost: 0,
        min_us: None,
        median_us: None,
        p99_us: None,
        max_us: None,
        histogram: Vec::new(),
        first_error: None,
    }
}

fn request(crossing: &Crossing) -> PingRequest {
    PingRequest {
        source: crossing.source,
        target: crossing.target,
        device: crossing.device.clone(),
        count: PROBES,
        interval_us: INTERVAL_US,
        payload_bytes: 56,
        dont_fragment: true,
        priority: Priority::DEFAULT,
        deadline_ms: DEADLINE_MS,
    }
}
