//! What a diagnosis says.

use crate::lldp::{ChassisId, PortId, Printable};
use model::{AdapterName, NodeName, StorageNetworkIndex, ZoneName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Everything that is lost, and everything that can't be told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Diagnosis {
    /// What is lost; empty: nothing.
    pub losses: Vec<Loss>,
    /// What can't be told.
    pub blocked: Vec<Blocked>,
}

/// One failed thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// What failed.
    pub what: Lost,
    /// What was seen of it.
    pub evidence: Vec<Seen>,
    /// What else would look the same, in words.
    pub could_also_be: Vec<String>,
}

/// The kinds of things that fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Lost {
    /// A node reports nothing and is heard by nobody.
    Node {
        /// Which.
        node: NodeName,
    },
    /// A switch.
    Switch {
        /// Which.
        switch: ChassisId,
        /// What it calls itself.
        name: Option<String>,
    },
    /// The link between the rooms that carries a storage network.
    RoomLink {
        /// Which storage network.
        network: StorageNetworkIndex,
        /// Its ends.
        ends: [RoomEnd; 2],
        /// Which way nothing comes through.
        direction: Direction,
    },
    /// A NIC, its cable or the switch's port.
    Nic {
        /// Whose.
        node: NodeName,
        /// Which.
        adapter: AdapterName,
        /// The switch at the other end.
        switch: ChassisId,
        /// What the switch calls itself.
        switch_name: Option<String>,
        /// The switch's port.
        port: PortId,
    },
    /// One direction of a NIC's cable.
    NicOneWay {
        /// Whose.
        node: NodeName,
        /// Which.
        adapter: AdapterName,
        /// What the node can't do any more.
        way: Way,
        /// The switch at the other end.
        switch: ChassisId,
        /// What the switch calls itself.
        switch_name: Option<String>,
        /// The switch's port.
        port: PortId,
    },
    /// What one node sends another, where nothing bigger explains it.
    Path {
        /// On which storage network.
        network: StorageNetworkIndex,
        /// Who sends.
        from: NodeName,
        /// Who does not hear it.
        to: NodeName,
    },
}

/// One end of a link between rooms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomEnd {
    /// The zone in that room.
    pub zone: ZoneName,
    /// The switch that carries the storage network there, when the cabling says.
    pub switch: Option<ChassisId>,
    /// What it calls itself.
    pub switch_name: Option<String>,
}

/// Which way nothing comes through a link between rooms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Neither way.
    Both,
    /// One way; the other is well.
    OneWay {
        /// From this zone.
        from: ZoneName,
        /// To this one.
        to: ZoneName,
    },
    /// One way; nobody knows of the other.
    AtLeast {
        /// From this zone.
        from: ZoneName,
        /// To this one.
        to: ZoneName,
    },
}

/// What a node can't do any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// What it sends is lost.
    Send,
    /// What is sent to it is lost.
    Receive,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "kebab-case")]
pub enum Seen {
    /// A NIC has no carrier, or is down.
    NoCarrier {
        /// Whose.
        node: NodeName,
        /// Which.
        adapter: AdapterName,
    },
    /// A NIC has carrier, and had none a moment ago.
    CarrierBack {
        /// Whose.
        node: NodeName,
        /// Which.
        adapter: AdapterName,
    },
    /// A NIC has carrier and hears no switch, or another one.
    NoNeighbour {
        /// Whose.
        node: NodeName,
        /// Which.
        adapter: AdapterName,
        /// The switch that it hears now.
        now: Option<ChassisId>,
    },
    /// A node has not heard a peer.
    NotHeard {
        /// Who listens.
        by: NodeName,
        /// Who sends.
        peer: NodeName,
        /// On which storage network.
        network: StorageNetworkIndex,
        /// Since when, ms; `None`: never heard.
        for_ms: Option<u32>,
    },
    /// A node has heard a peer.
    Heard {
        /// Who listens.
        by: NodeName,
        /// Who sends.
        peer: NodeName,
        /// On which storage network.
        network: StorageNetworkIndex,
    },
    /// What was lost has come back and gone again, and is not lost at this moment.
    ComesAndGoes {
        /// How often it was lost again.
        times: u32,
        /// For how long it has not been lost, ms.
        well_for_ms: u64,
    },
    /// A node has not reported.
    NoReport {
        /// Who.
        node: NodeName,
        /// The age of its last report, ms.
        age_ms: Option<u32>,
    },
}

/// Something that can't be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

impl Lost {
    /// A stable id: the same thing has the same id each time it fails.
    pub fn id(&self) -> String {
        match self {
            Self::Node { node } => format!("node:{node}"),
            Self::Switch { switch, .. } => format!("switch:{switch}"),
            Self::RoomLink { network, direction: Direction::Both, .. } => format!("room-link:{network}"),
            Self::RoomLink {
                network,
                direction: Direction::OneWay { from, to } | Direction::AtLeast { from, to },
                ..
            } => {
                format!("room-link:{network}:{from}>{to}")
            }
            Self::Nic { node, adapter, .. } => format!("nic:{node}:{adapter}"),
            Self::NicOneWay { node, adapter, way: Way::Send, .. } => format!("nic:{node}:{adapter}:send"),
            Self::NicOneWay { node, adapter, way: Way::Receive, .. } => {
                format!("nic:{node}:{adapter}:receive")
            }
            Self::Path { network, from, to } => format!("path:{network}:{from}>{to}"),
        }
    }
}

fn called(switch: &ChassisId, name: Option<&String>) -> String {
    name.map_or_else(|| switch.to_string(), |name| format!("{} ({switch})", Printable(name)))
}

impl fmt::Display for RoomEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.switch {
            Some(switch) => {
                write!(f, "switch {} in zone {}", called(switch, self.switch_name.as_ref()), self.zone)
            }
            None => write!(f, "zone {}", self.zone),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { node } => write!(f, "node {node} is silent"),
            Self::Switch { switch, name } => write!(f, "switch {} is lost", called(switch, name.as_ref())),
            Self::RoomLink { network, ends: [a, b], direction } => {
                write!(f, "the room-to-room link of storage network {network} between {a} and {b} is lost")?;
                match direction {
                    Direction::Both => Ok(()),
                    Direction::OneWay { from, to } => write!(f, " one way: from zone {from} to zone {to}"),
                    Direction::AtLeast { from, to } => {
                        write!(f, ", at least from zone {from} to zone {to}")
                    }
                }
            }
            Self::Nic { node, adapter, switch, switch_name, port } => {
                write!(
                    f,
                    "{adapter} of node {node}, or its cable to {}",
                    called(switch, switch_name.as_ref())
                )?;
                write!(f, " port {port}, is lost")
            }
            Self::NicOneWay { node, adapter, way, switch, switch_name, port } => {
                let way = match way {
                    Way::Send => "sends",
                    Way::Receive => "should receive",
                };
                write!(f, "what {adapter} of node {node} {way} is lost between it and ")?;
                write!(f, "{} port {port}; the other direction is well", called(switch, switch_name.as_ref()))
            }
            Self::Path { network, from, to } => {
                write!(f, "what {from} sends to {to} on storage network {network} is lost")
            }
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCarrier { node, adapter } => write!(f, "{node} {adapter} has no carrier"),
            Self::CarrierBack { node, adapter } => {
                write!(f, "{node} {adapter} has carrier again since a moment ago")
            }
            Self::NoNeighbour { node, adapter, now: None } => write!(f, "{node} {adapter} hears no switch"),
            Self::NoNeighbour { node, adapter, now: Some(now) } => {
                write!(f, "{node} {adapter} hears switch {now}")
            }
            Self::NotHeard { by, peer, network, for_ms: Some(ms) } => {
                write!(f, "{by} has not heard {peer} on storage network {network} for {ms} ms")
            }
            Self::NotHeard { by, peer, network, for_ms: None } => {
                write!(f, "{by} has never heard {peer} on storage network {network}")
            }
            Self::Heard { by, peer, network } => write!(f, "{by} hears {peer} on storage network {network}"),
            Self::ComesAndGoes { times, well_for_ms } => {
                write!(f, "it was lost {times} times again, and has been well for {well_for_ms} ms")
            }
            Self::NoReport { node, age_ms: Some(ms) } => write!(f, "{node} has not reported for {ms} ms"),
            Self::NoReport { node, age_ms: None } => write!(f, "{node} has not reported"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} can't be told: {}", self.what, self.why)
    }
}
