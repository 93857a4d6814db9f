//! The cluster that a template asks for, after every rule has passed or was knowingly overridden.

use crate::{
    AdapterName, ClusterName, Intent, Mtu, NodeName, NodeOrdinal, Qos, Shape, StorageNetwork, TrafficClass,
    VlanId, ZoneName,
};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Whether to deploy or only to validate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeploymentMode {
    /// Stop after validation.
    Validate,
    /// Validate, then deploy.
    Deploy,
}

/// Which volumes deployment makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigurationMode {
    /// One infrastructure volume for the cluster and one workload volume per node.
    Express,
    /// Just the infrastructure volume.
    InfraOnly,
    /// The volumes found on the drives.
    KeepStorage,
}

/// How nodes are cabled to switches; the four reference wirings of spec.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Wiring {
    /// Two TORs per room; each storage network crosses between one pair of TORs only.
    A,
    /// Two TORs per room, both storage networks on both, room-to-room port channels in a mesh.
    B,
    /// One TOR per room, both storage networks on it.
    C,
    /// Every node cabled to a TOR in each room.
    D,
}

/// A local availability zone: one rack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name.
    pub name: ZoneName,
    /// Its nodes, in the template's order.
    pub nodes: Vec<Node>,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its host name.
    pub name: NodeName,
    /// Its place in the template, from 1.
    pub ordinal: NodeOrdinal,
    /// Its address on the management network.
    pub management_ip: Ipv4Addr,
}

/// What a witness is in the file that asked for it; all become a witness node in a third place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WitnessKind {
    /// A twinrack witness node.
    Node,
    /// ARM `Cloud`.
    Cloud,
    /// ARM `FileShare`.
    FileShare,
    /// ARM `Local`.
    Local,
}

/// A voter in a third place that holds no data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Its host name.
    pub name: NodeName,
    /// What the template called it.
    pub kind: WitnessKind,
    /// Its address on the management network, when the template gives one.
    pub management_ip: Option<Ipv4Addr>,
}

/// The management network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagementNetwork {
    /// The subnet that all management addresses are in.
    pub subnet: Ipv4Net,
    /// Its gateway.
    pub gateway: Ipv4Addr,
    /// First address of the infrastructure range.
    pub range_start: Ipv4Addr,
    /// Last address of the infrastructure range.
    pub range_end: Ipv4Addr,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Its VLAN; `None`: untagged.
    pub vlan: Option<VlanId>,
}

/// A whole cluster as asked for. Made by the `template` crate from a file that passed its rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// The cluster's name.
    pub name: ClusterName,
    /// Whether to deploy or only to validate.
    pub mode: DeploymentMode,
    /// Which volumes deployment makes.
    pub configuration: ConfigurationMode,
    /// The two zones, in the template's order.
    pub zones: [Zone; 2],
    /// The voter in a third place.
    pub witness: Witness,
    /// The management network.
    pub management: ManagementNetwork,
    /// VLANs that virtual machines may use.
    pub compute_vlans: Vec<VlanId>,
    /// What the NICs are for.
    pub intents: Vec<Intent>,
    /// The storage networks; two unless converged by override.
    pub storage_networks: Vec<StorageNetwork>,
    /// How traffic is marked.
    pub qos: Qos,
    /// How the racks are cabled, when the template says so.
    pub wiring: Option<Wiring>,
}

impl ClusterSpec {
    /// Nodes per zone. The rules hold zones to equal sizes of 1 to 4.
    ///
    /// # Panics
    /// Never for a spec made by the template crate.
    pub fn shape(&self) -> Shape {
        Shape::with_nodes_per_zone(self.zones[0].nodes.len()).expect("the rules hold zones to 1 to 4 nodes")
    }

    /// Every node with its zone, in the order of ordinals.
    pub fn nodes(&self) -> impl Iterator<Item = (&Zone, &Node)> {
        let mut nodes: Vec<_> =
            self.zones.iter().flat_map(|zone| zone.nodes.iter().map(move |node| (zone, node))).collect();
        nodes.sort_by_key(|(_, node)| node.ordinal);
        nodes.into_iter()
    }

    /// The first intent that carries this kind of traffic.
    pub fn intent_for(&self, class: TrafficClass) -> Option<&Intent> {
        self.intents.iter().find(|intent| intent.carries(class))
    }

    /// Every adapter that an intent names, once, in the template's order.
    pub fn adapters(&self) -> Vec<&AdapterName> {
        let mut adapters: Vec<&AdapterName> = Vec::new();
        for adapter in self.intents.iter().flat_map(|intent| &intent.adapters) {
            if !adapters.contains(&adapter) {
                adapters.push(adapter);
            }
        }
        adapters
    }

    /// The address of a node on a storage network: the subnet's base plus the node's ordinal.
    ///
    /// ```
    /// # use model::*;
    /// let network = StorageNetwork {
    ///     index: StorageNetworkIndex::try_from(1).unwrap(), name: "StorageNetwork1".into(),
    ///     adapter: "Ethernet 3".parse().unwrap(), vlan: VlanId::STORAGE_1_DEFAULT,
    ///     subnet: "10.71.1.0/24".parse().unwrap(),
    /// };
    /// let address = ClusterSpec::storage_address(&network, NodeOrdinal::try_from(2).unwrap());
    /// assert_eq!(address.to_string(), "10.71.1.2");
    /// ```
    pub fn storage_address(network: &StorageNetwork, ordinal: NodeOrdinal) -> Ipv4Addr {
        let base = u32::from(network.subnet.network());
        Ipv4Addr::from(base.saturating_add(u32::from(ordinal.get())))
    }

    /// The MTU of the storage NICs.
    pub fn storage_mtu(&self) -> Mtu {
        self.intent_for(TrafficClass::Storage).map_or(Mtu::ETHERNET, |intent| intent.mtu)
    }
}
