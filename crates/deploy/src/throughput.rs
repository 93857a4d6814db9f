//! What storage paths carry: TCP from one node's storage address to another's, measured where it arrives.

use crate::{Cluster, DeployError, Member};
use api::{ArrivedBytes, ReceiveRequest, SendRequest};
use futures_util::future::try_join_all;
use model::{ClusterSpec, Node, NodeName, StorageNetwork, StorageNetworkIndex, ZoneName};
use network::LinkName;
use network::measure::bandwidth::{Carried, StorageNic};
use std::collections::BTreeMap;
use std::fmt;

/// How long a sender may take to come after its receiver was asked, milliseconds: two requests to agents that have much to do.
const WAIT_MS: u32 = 10_000;

/// From one node to another on a storage network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoragePath {
    /// On which storage network.
    pub network: StorageNetworkIndex,
    /// Who sends.
    pub from: NodeName,
    /// Who receives.
    pub to: NodeName,
}

impl fmt::Display for StoragePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} over storage network {}", self.from, self.to, self.network)
    }
}

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// For how long at most, milliseconds.
    pub duration_ms: u32,
    /// How much at most, bytes.
    pub bytes: u64,
}

/// What a path carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The path.
    pub path: StoragePath,
    /// The port that it was sent to.
    pub port: u16,
    /// Whether that is storage's own.
    pub is_storage_port: bool,
    /// What the sender's kernel took, bytes.
    pub sent_bytes: u64,
    /// What the receiver got; `None`: it said nothing.
    pub arrived: Option<ArrivedBytes>,
    /// The first error, in the kernel's words.
    pub first_error: Option<String>,
}

impl Transfer {
    /// What is wrong with it, in words; `None`: something arrived, and nothing went wrong.
    pub fn failure(&self) -> Option<String> {
        match (&self.first_error, self.arrived) {
            (None, Some(arrived)) if arrived.bytes > 0 => None,
            (Some(error), _) => Some(format!("{}: {error}", self.path)),
            (None, _) => Some(format!("{}: nothing arrived", self.path)),
        }
    }

    /// Payload, bits per second; 0 if nothing arrived.
    pub fn bits_per_s(&self) -> u64 {
        self.arrived.and_then(|arrived| arrived.bits_per_s).unwrap_or_default()
    }
}

impl Cluster {
    /// Every storage path, from every node to every other; network by network.
    pub fn storage_paths(&self) -> Vec<StoragePath> {
        let mut paths = Vec::new();
        for network in &self.spec.storage_networks {
            for (_, from) in self.nodes() {
                for (_, to) in self.nodes().filter(|(_, to)| to.name != from.name) {
                    let (from, to) = (from.name.clone(), to.name.clone());
                    paths.push(StoragePath { network: network.index, from, to });
                }
            }
        }
        paths
    }

    /// The storage paths that lead from one room to the other.
    pub fn paths_between_rooms(&self) -> Vec<StoragePath> {
        let mut paths = self.storage_paths();
        paths.retain(|path| self.zone_of(&path.from) != self.zone_of(&path.to));
        paths
    }

    /// The zone of a member.
    pub fn zone_of(&self, name: &NodeName) -> Option<&ZoneName> {
        self.members.iter().find(|member| member.name == *name).and_then(|member| member.zone.as_ref())
    }

    fn node(&self, name: &NodeName) -> Option<(&Member, &Node)> {
        self.nodes().find(|(member, _)| member.name == *name)
    }

    /// Sends on all these paths at once, as soon as all their receivers listen. Paths of nodes or networks that the
    /// cluster has not got are left out.
    pub async fn transfer(&self, paths: &[StoragePath], load: Load) -> Result<Vec<Transfer>, DeployError> {
        let known = paths.iter().filter_map(|path| {
            let network = self.spec.storage_networks.iter().find(|network| network.index == path.network)?;
            Some((path, network, self.node(&path.from)?, self.node(&path.to)?))
        });
        let ready = try_join_all(known.map(|(path, network, from, to)| async move {
            let request = receive_request(network, from.1, to.1, load);
            let answer = to.0.client.throughput_receive(&request).await?;
            Ok::<_, DeployError>((path, network, from, to, answer))
        }));
        let sends = ready.await?.into_iter().map(|(path, network, from, to, receiver)| async move {
            let request = SendRequest {
                source: ClusterSpec::storage_address(network, from.1.ordinal),
                device: Some(LinkName::storage(network.vlan)),
                target: ClusterSpec::storage_address(network, to.1.ordinal),
                port: receiver.port,
                token: receiver.token,
                duration_ms: load.duration_ms,
                bytes: load.bytes,
            };
            let answer = from.0.client.throughput_send(&request).await?;
            Ok::<_, DeployError>(Transfer {
                path: path.clone(),
                port: receiver.port,
                is_storage_port: receiver.is_storage_port,
                sent_bytes: answer.sent_bytes,
                arrived: answer.arrived,
                first_error: answer.first_error,
            })
        });
        try_join_all(sends).await
    }

    /// The NICs that carry storage, with their speeds.
    pub async fn storage_nics(&self) -> Result<Vec<StorageNic>, DeployError> {
        let inventories = self.inventories().await?;
        let of_member = |(member, inventory): (&Member, &model::Inventory)| {
            let adapters = self.spec.storage_networks.iter().map(|network| &network.adapter);
            let mut adapters: Vec<_> = adapters.collect();
            adapters.dedup();
            let nic = |adapter: &model::AdapterName| {
                let mac = member.adapters.get(adapter)?;
                let found = inventory.nics.iter().find(|nic| nic.mac == *mac);
                let (node, adapter) = (member.name.clone(), adapter.clone());
                Some(StorageNic { node, adapter, speed_mbps: found.and_then(|nic| nic.speed_mbps) })
            };
            adapters.into_iter().filter_map(nic).collect::<Vec<_>>()
        };
        let nodes = self.members.iter().zip(&inventories).filter(|(member, _)| member.zone.is_some());
        Ok(nodes.flat_map(of_member).collect())
    }

    /// What transfers that ran at the same time carried together, from each room to the other.
    pub fn carried_between_rooms(&self, transfers: &[Transfer]) -> Vec<Carried> {
        let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
        for transfer in transfers {
            let (from, to) = (self.zone_of(&transfer.path.from), self.zone_of(&transfer.path.to));
            if let (Some(from), Some(to)) = (from, to)
                && from != to
            {
                *sums.entry((from.to_string(), to.to_string())).or_default() += transfer.bits_per_s();
            }
        }
        let carried = |((from_zone, to_zone), bits_per_s)| Carried { from_zone, to_zone, bits_per_s };
        sums.into_iter().map(carried).collect()
    }
}

fn receive_request(network: &StorageNetwork, from: &Node, to: &Node, load: Load) -> ReceiveRequest {
    ReceiveRequest {
        address: ClusterSpec::storage_address(network, to.ordinal),
        device: Some(LinkName::storage(network.vlan)),
        peer: ClusterSpec::storage_address(network, from.ordinal),
        duration_ms: load.duration_ms,
        wait_ms: WAIT_MS,
    }
}
