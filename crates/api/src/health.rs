//! How a node is and what it sees, as it reports to whoever watches.

use crate::DriftGlance;
use model::{AdapterName, MacAddress, NodeName, TrafficClass, VolumeId};
use network::conditions::PathQuality;
use network::diagnose::{NicReport, NodeReport, PathView};
use network::wiring::{Neighbour, NicCabling};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a node is, right now. Nothing in it is judged: that is for who has the reports of all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Who reports.
    pub node: NodeName,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// How long the machine has been up, milliseconds, time asleep included. Doesn't jump.
    pub uptime_ms: u64,
    /// What the node takes for the time of day, milliseconds since 1970. Faults skew it.
    pub wall_ms: u64,
    /// How long it has been listening for hellos, milliseconds; 0 before it was told to.
    pub listening_ms: u32,
    /// What it has heard of its peers.
    pub paths: Vec<PathView>,
    /// How well the hellos come that it hears.
    #[serde(default)]
    pub qualities: Vec<PathQuality>,
    /// What its adapters see, in the order of their names.
    pub nics: Vec<NicState>,
    /// Whether somebody changes its links behind its back.
    #[serde(default)]
    pub drifts: DriftGlance,
    /// Thin volumes that it owns whose users write what gets no place, and why: they wait.
    #[serde(default)]
    pub out_of_room: BTreeMap<VolumeId, String>,
}

/// One adapter and what it sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicState {
    /// The template's name for it.
    pub adapter: AdapterName,
    /// The MAC address that it is known by.
    pub mac: MacAddress,
    /// The kernel's name for it; `None`: the node has no such NIC.
    pub kernel_name: Option<String>,
    /// Its carrier; `None` while it is down or missing.
    pub carrier: Option<bool>,
    /// How often it has lost its carrier since it came to be.
    #[serde(default)]
    pub carrier_losses: u32,
    /// What it heard last from the port that it is cabled to, unless that has expired.
    pub neighbour: Option<Neighbour>,
}

/// What a node's adapters see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Who reports.
    pub node: NodeName,
    /// Its adapters, in the order of their names.
    pub nics: Vec<NicState>,
}

impl NicState {
    /// What wiring checks want to know. Which traffic the adapter carries is the asker's knowledge, not the node's.
    pub fn cabling(&self, traffic: BTreeSet<TrafficClass>) -> NicCabling {
        NicCabling {
            adapter: self.adapter.clone(),
            kernel_name: self.kernel_name.clone().unwrap_or_default(),
            mac: self.mac,
            traffic,
            neighbour: self.neighbour.clone(),
        }
    }
}

impl Health {
    /// What a diagnosis wants to know: this report, received `age_ms` ago.
    pub fn report(
        &self,
        age_ms: u32,
        traffic: impl Fn(&AdapterName) -> BTreeSet<TrafficClass>,
    ) -> NodeReport {
        let nic = |nic: &NicState| NicReport {
            carrier: nic.carrier,
            carrier_losses: nic.carrier_losses,
            cabling: nic.cabling(traffic(&nic.adapter)),
        };
        NodeReport {
            node: self.node.clone(),
            age_ms,
            listening_ms: self.listening_ms,
            paths: self.paths.clone(),
            nics: self.nics.iter().map(nic).collect(),
        }
    }
}
