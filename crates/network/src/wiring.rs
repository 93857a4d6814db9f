//! Whether the cables say what the template says.
//!
//! Purpose: from the LLDP neighbour of every NIC, who is cabled to which switch ([`maps`]), what is wrong with that
//! ([`check`]), and which of the reference wirings it is ([`recognise`]).
//!
//! Invariants: only chassis ids and who sees whom decide; a switch's name is for people. A neighbour whose time to live has
//! passed counts as none.
//!
//! Who is wrong, when a zone's nodes see different switches? A switch belongs to the zone that has most NICs on it.
//! A NIC on a switch of the other zone is the miswired one, however few nodes a zone has. Of the rest, per adapter, the
//! odd ones out. Where neither decides, both sides are named and nobody is accused.
//!
//! On failure: none; what can't be told is said to be unknown.

mod check;
mod finding;
mod priorities;
mod recognise;

use crate::lldp::{ChassisId, Lldpdu, PortId, Printable};
use model::{AdapterName, MacAddress, NodeName, TrafficClass, ZoneName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub use check::check;
pub use finding::WiringFinding;
pub use recognise::{Recognised, recognise};

/// What a NIC heard from the port that it is cabled to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// What the port says.
    pub lldpdu: Lldpdu,
    /// How long ago it said so, ms.
    pub received_age_ms: u32,
}

impl Neighbour {
    /// Whether its time to live has not passed, and it did not say good-bye.
    pub fn is_alive(&self) -> bool {
        u64::from(self.received_age_ms) < u64::from(self.lldpdu.ttl_s) * 1000
    }
}

/// One NIC and what it sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicCabling {
    /// The template's name for it.
    pub adapter: AdapterName,
    /// The kernel's name for it.
    pub kernel_name: String,
    /// Its permanent MAC address.
    pub mac: MacAddress,
    /// What its intent carries.
    pub traffic: BTreeSet<TrafficClass>,
    /// What it sees.
    pub neighbour: Option<Neighbour>,
}

impl NicCabling {
    /// What it sees, if that is not too old.
    pub fn seen(&self) -> Option<&Lldpdu> {
        self.neighbour.as_ref().filter(|neighbour| neighbour.is_alive()).map(|neighbour| &neighbour.lldpdu)
    }
}

/// One node and what its NICs see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCabling {
    /// The zone that the template puts it in; the witness is in none.
    pub zone: Option<ZoneName>,
    /// The node.
    pub node: NodeName,
    /// Its NICs.
    pub nics: Vec<NicCabling>,
}

/// One cable, from the node's end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Connection {
    /// The node's zone.
    pub zone: Option<ZoneName>,
    /// The node.
    pub node: NodeName,
    /// The template's name of the NIC.
    pub adapter: AdapterName,
    /// The kernel's name of the NIC.
    pub kernel_name: String,
    /// The switch.
    pub switch: ChassisId,
    /// What the switch calls itself.
    pub switch_name: Option<String>,
    /// The switch's port.
    pub port: PortId,
    /// What the switch calls that port.
    pub port_description: Option<String>,
}

impl std::fmt::Display for Connection {
    /// `node1 Ethernet 3 (ens5) on switch tor1 (02:..:01) port Ethernet1/1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({}) on switch ", self.node, self.adapter, self.kernel_name)?;
        match &self.switch_name {
            Some(name) => write!(f, "{} ({})", Printable(name), self.switch)?,
            None => write!(f, "{}", self.switch)?,
        }
        write!(f, " port {}", self.port)
    }
}

/// Every cable that is seen, in the order of the input.
pub fn connections(cabling: &[NodeCabling]) -> Vec<Connection> {
    let of_node = |node: &NodeCabling| {
        let (zone, name) = (node.zone.clone(), node.node.clone());
        node.nics
            .iter()
            .filter_map(|nic| nic.seen().map(|seen| (nic, seen)))
            .map(move |(nic, seen)| Connection {
                zone: zone.clone(),
                node: name.clone(),
                adapter: nic.adapter.clone(),
                kernel_name: nic.kernel_name.clone(),
                switch: seen.chassis_id.clone(),
                switch_name: seen.system_name.clone(),
                port: seen.port_id.clone(),
                port_description: seen.port_description.clone(),
            })
            .collect::<Vec<_>>()
    };
    cabling.iter().flat_map(of_node).collect()
}

/// One switch and who is cabled to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchNodes {
    /// The switch.
    pub switch: ChassisId,
    /// What it calls itself.
    pub name: Option<String>,
    /// The zones of the nodes on it.
    pub zones: BTreeSet<ZoneName>,
    /// The nodes on it.
    pub nodes: BTreeSet<NodeName>,
}

/// The merged neighbour data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CablingMaps {
    /// Node → the switches that its NICs see, by adapter.
    pub node_to_switch: BTreeMap<NodeName, BTreeMap<AdapterName, ChassisId>>,
    /// Switch → nodes, by chassis id.
    pub switch_to_node: Vec<SwitchNodes>,
    /// Every cable.
    pub connections: Vec<Connection>,
}

/// The merged neighbour data of all nodes.
pub fn maps(cabling: &[NodeCabling]) -> CablingMaps {
    let connections = connections(cabling);
    let mut switches: BTreeMap<&ChassisId, SwitchNodes> = BTreeMap::new();
    let mut node_to_switch: BTreeMap<NodeName, BTreeMap<AdapterName, ChassisId>> =
        cabling.iter().map(|node| (node.node.clone(), BTreeMap::new())).collect();
    for cable in &connections {
        let seen = switches.entry(&cable.switch).or_insert_with(|| SwitchNodes {
            switch: cable.switch.clone(),
            name: cable.switch_name.clone(),
            zones: BTreeSet::new(),
            nodes: BTreeSet::new(),
        });
        seen.zones.extend(cable.zone.clone());
        seen.nodes.insert(cable.node.clone());
        let by_adapter = node_to_switch.entry(cable.node.clone()).or_default();
        by_adapter.insert(cable.adapter.clone(), cable.switch.clone());
    }
    let switch_to_node = switches.into_values().collect();
    CablingMaps { node_to_switch, switch_to_node, connections }
}

#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod tests;
