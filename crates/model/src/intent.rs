//! Network intents: what a set of NICs is for.

use crate::{AdapterName, IntentName, Mtu, Priority, StorageNetworkIndex, VlanId};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A kind of traffic that an intent carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficClass {
    /// The nodes' own addresses, the cluster's API.
    Management,
    /// What virtual machines send.
    Compute,
    /// What mirrors volumes between nodes.
    Storage,
}

/// Which RDMA transport an intent asks its NICs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RdmaTechnology {
    /// RDMA over converged Ethernet, version 2.
    RoCEv2,
    /// Internet wide-area RDMA protocol.
    Iwarp,
}

/// What a set of NICs is for. The same adapters on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its name in the template.
    pub name: IntentName,
    /// What it carries; never empty.
    pub traffic: BTreeSet<TrafficClass>,
    /// The NICs, in the template's order; never empty.
    pub adapters: Vec<AdapterName>,
    /// The MTU of the NICs and of what stands on them.
    pub mtu: Mtu,
    /// The RDMA transport asked for, if any.
    pub rdma: Option<RdmaTechnology>,
}

impl Intent {
    /// Whether the intent carries this kind of traffic.
    pub fn carries(&self, class: TrafficClass) -> bool {
        self.traffic.contains(&class)
    }

    /// Whether storage shares its NICs with something else, which needs an override and loses path diversity.
    pub fn is_converged_storage(&self) -> bool {
        self.carries(TrafficClass::Storage) && self.traffic.len() > 1
    }
}

/// One storage VLAN on one NIC per node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageNetwork {
    /// First, second, …, in the template's order.
    pub index: StorageNetworkIndex,
    /// Its name in the template.
    pub name: String,
    /// The NIC that carries it on every node.
    pub adapter: AdapterName,
    /// Its VLAN.
    pub vlan: VlanId,
    /// Its subnet: 10.71.*index*.0/24 unless the template says otherwise. Never routed.
    pub subnet: Ipv4Net,
}

/// How traffic is marked and shares a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qos {
    /// Priority of storage traffic.
    pub storage_priority: Priority,
    /// Priority of cluster heartbeats.
    pub heartbeat_priority: Priority,
    /// Share of the bandwidth for storage, percent.
    pub storage_bandwidth_percent: u8,
}

impl Default for Qos {
    /// spec.md: priorities 3 and 7, at least half of the bandwidth for storage.
    fn default() -> Self {
        Self {
            storage_priority: Priority::STORAGE,
            heartbeat_priority: Priority::HEARTBEAT,
            storage_bandwidth_percent: 50,
        }
    }
}
