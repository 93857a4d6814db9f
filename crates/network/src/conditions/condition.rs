//! What a condition says.

use crate::lldp::{ChassisId, Printable};
use crate::wiring::Connection;
use model::{AdapterName, NodeName, StorageNetworkIndex, VlanId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Something that is wrong and stops nothing, or not everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What is wrong.
    pub what: What,
    /// By what it is seen, in words.
    pub evidence: Vec<String>,
}

/// The kinds of things that are wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A cable leads to another port than it did.
    CableMoved {
        /// Where it led.
        from: Connection,
        /// Where it leads.
        to: Connection,
    },
    /// Two NICs of a node have each other's cables.
    CablesSwapped {
        /// Where one led when all was well, which is where the other leads now.
        first: Connection,
        /// Where the other led.
        second: Connection,
    },
    /// A port does not carry a VLAN that its NIC needs.
    VlanMissing {
        /// The NIC and the port.
        cable: Connection,
        /// The VLAN.
        vlan: VlanId,
        /// What it is for.
        purpose: String,
    },
    /// A switch says that its ports take only frames that are too small.
    SwitchFramesTooSmall {
        /// The switch.
        switch: ChassisId,
        /// What it calls itself.
        name: Option<String>,
        /// The largest frame that it takes, bytes.
        max_frame_bytes: u16,
    },
    /// One port says so.
    PortFramesTooSmall {
        /// The NIC and the port.
        cable: Connection,
        /// The largest frame that it takes, bytes.
        max_frame_bytes: u16,
    },
    /// Packets as large as they may be are swallowed, and small ones pass.
    LargePacketsLost {
        /// Where.
        place: Place,
    },
    /// Round trips take longer than they did.
    Slow {
        /// Where.
        place: Place,
        /// By how much at least, µs.
        by_us: u32,
    },
}

/// Where on the way from node to node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "kebab-case")]
pub enum Place {
    /// At a switch.
    Switch {
        /// Which.
        switch: ChassisId,
        /// What it calls itself.
        name: Option<String>,
    },
    /// Between the rooms, on a storage network.
    RoomLink {
        /// The storage network.
        network: StorageNetworkIndex,
    },
    /// At a NIC, its cable or the switch's port.
    Nic {
        /// The node.
        node: NodeName,
        /// The NIC.
        adapter: AdapterName,
    },
    /// Between two nodes, where nothing more can be told.
    Path {
        /// On which storage network.
        network: StorageNetworkIndex,
        /// One node: who sends, if that matters.
        from: NodeName,
        /// The other.
        to: NodeName,
    },
}

impl Place {
    fn id(&self) -> String {
        match self {
            Self::Switch { switch, .. } => format!("switch:{switch}"),
            Self::RoomLink { network } => format!("room-link:{network}"),
            Self::Nic { node, adapter } => format!("nic:{node}:{adapter}"),
            Self::Path { network, from, to } => format!("path:{network}:{from}>{to}"),
        }
    }
}

impl What {
    /// A stable id: the same thing has the same id each time it is wrong.
    pub fn id(&self) -> String {
        match self {
            Self::CableMoved { to, .. } => {
                format!("cable-moved:{}:{}>{}:{}", to.node, to.adapter, to.switch, to.port)
            }
            Self::CablesSwapped { first, second } => {
                format!("cables-swapped:{}:{}:{}", first.node, first.adapter, second.adapter)
            }
            Self::VlanMissing { cable, vlan, .. } => {
                format!("vlan-missing:{}:{}:{vlan}", cable.node, cable.adapter)
            }
            Self::SwitchFramesTooSmall { switch, .. } => format!("frames-too-small:switch:{switch}"),
            Self::PortFramesTooSmall { cable, .. } => {
                format!("frames-too-small:nic:{}:{}", cable.node, cable.adapter)
            }
            Self::LargePacketsLost { place } => format!("large-packets-lost:{}", place.id()),
            Self::Slow { place, .. } => format!("slow:{}", place.id()),
        }
    }
}

fn called(switch: &ChassisId, name: Option<&String>) -> String {
    name.map_or_else(|| format!("switch {switch}"), |name| format!("switch {} ({switch})", Printable(name)))
}

fn port_of(cable: &Connection) -> String {
    format!("{} port {}", called(&cable.switch, cable.switch_name.as_ref()), cable.port)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch { switch, name } => write!(f, "through {}", called(switch, name.as_ref())),
            Self::RoomLink { network } => write!(f, "between the rooms on storage network {network}"),
            Self::Nic { node, adapter } => write!(f, "at {adapter} of node {node} or its cable"),
            Self::Path { network, from, to } => {
                write!(f, "between {from} and {to} on storage network {network}")
            }
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CableMoved { from, to } => write!(
                f,
                "the cable of {} of node {} leads to {}, not to {} any more",
                to.adapter,
                to.node,
                port_of(to),
                port_of(from)
            ),
            Self::CablesSwapped { first, second } => write!(
                f,
                "{} and {} of node {} have each other's cables: {} and {}",
                first.adapter,
                second.adapter,
                first.node,
                port_of(second),
                port_of(first)
            ),
            Self::VlanMissing { cable, vlan, purpose } => write!(
                f,
                "{} does not carry VLAN {vlan} ({purpose}) for {} of node {}",
                port_of(cable),
                cable.adapter,
                cable.node
            ),
            Self::SwitchFramesTooSmall { switch, name, max_frame_bytes } => {
                write!(f, "{} takes only frames of {max_frame_bytes} bytes", called(switch, name.as_ref()))
            }
            Self::PortFramesTooSmall { cable, max_frame_bytes } => write!(
                f,
                "{} takes only frames of {max_frame_bytes} bytes from {} of node {}",
                port_of(cable),
                cable.adapter,
                cable.node
            ),
            Self::LargePacketsLost { place } => write!(f, "large packets are lost {place}"),
            Self::Slow { place, by_us } => {
                write!(f, "round trips {place} take {by_us} µs longer than they did")
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}
