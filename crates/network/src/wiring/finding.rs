//! What can be wrong with the cables, in words.

use super::Connection;
use crate::lldp::ChassisId;
use model::rules::{self, Rule};
use model::{AdapterName, Diagnostic, Mtu, NodeName, Priority, Severity, VlanId, Wiring, ZoneName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing that is wrong with the cables, or can't be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
pub enum WiringFinding {
    /// A NIC hears no switch.
    NoNeighbour {
        /// Whose.
        node: NodeName,
        /// Which.
        adapter: AdapterName,
        /// The kernel's name for it.
        kernel_name: String,
        /// How long ago it last heard one, ms.
        last_heard_ms: Option<u32>,
    },
    /// A NIC is on a switch that belongs to the other zone.
    OtherZonesSwitch {
        /// The miswired cable.
        cable: Connection,
        /// The zone that the switch belongs to.
        belongs_to: ZoneName,
        /// A cable by which it belongs there.
        other_side: Connection,
    },
    /// All NICs of a node are on switches of the other zone: the node is in the wrong rack, or has the wrong label.
    NodeInOtherZone {
        /// The node.
        node: NodeName,
        /// The zone of its label.
        zone: ZoneName,
        /// The zone that its switches belong to.
        belongs_to: ZoneName,
        /// Its cables.
        cables: Vec<Connection>,
        /// A cable by which the first of those switches belongs to the other zone.
        other_side: Connection,
    },
    /// Zones have as many NICs on a switch one as the other, so that nobody can tell whose it is.
    SharedSwitch {
        /// The switch.
        switch: ChassisId,
        /// The cables of both zones.
        cables: Vec<Connection>,
    },
    /// A NIC is on another switch than the same NIC of most nodes of its zone.
    OddSwitch {
        /// The odd cable.
        cable: Connection,
        /// One of the others.
        most: Connection,
    },
    /// The same NIC of a zone's nodes is on different switches, and none of them has the majority.
    SplitZone {
        /// The zone; `None`: with wiring D, where the nodes of both are meant.
        zone: Option<ZoneName>,
        /// The NIC.
        adapter: AdapterName,
        /// Its cables on all those nodes.
        cables: Vec<Connection>,
    },
    /// Two storage NICs of a node are on the same switch.
    StorageOnOneSwitch {
        /// One cable.
        first: Connection,
        /// The other.
        second: Connection,
    },
    /// The switch's port does not carry a VLAN that the NIC needs.
    VlanMissing {
        /// The cable.
        cable: Connection,
        /// The VLAN.
        vlan: VlanId,
        /// What it is for.
        purpose: String,
        /// What the port carries.
        carried: Vec<VlanId>,
    },
    /// The switch does not say which VLANs its port carries.
    VlansUnknown {
        /// The cable.
        cable: Connection,
    },
    /// The switch's port takes only frames that are smaller than the NIC's.
    FrameTooBig {
        /// The cable.
        cable: Connection,
        /// The MTU of the NIC.
        mtu: Mtu,
        /// The largest frame of such a NIC, without tag, bytes.
        needed_bytes: u32,
        /// The largest frame that the port takes, bytes.
        max_frame_bytes: u16,
    },
    /// The switch's port does not pause storage's priority: it loses frames instead.
    PfcOff {
        /// The cable.
        cable: Connection,
        /// Storage's priority.
        priority: Priority,
        /// Whether RDMA needs it.
        needed: bool,
    },
    /// The switch's port pauses other priorities than storage's.
    PfcOnOthers {
        /// The cable.
        cable: Connection,
        /// Which.
        priorities: Vec<Priority>,
    },
    /// The switch does not say what its port pauses.
    PfcUnknown {
        /// The cable.
        cable: Connection,
    },
    /// A priority has less of the port than was asked for.
    EtsShareTooSmall {
        /// The cable.
        cable: Connection,
        /// The priority: storage's or the heartbeat's.
        priority: Priority,
        /// Its class's share, percent.
        percent: u8,
        /// What was asked for, percent.
        asked_percent: u8,
    },
    /// Storage or the heartbeat is in one traffic class with other priorities, which take of its share.
    EtsClassShared {
        /// The cable.
        cable: Connection,
        /// The priority: storage's or the heartbeat's.
        priority: Priority,
        /// The traffic class.
        class: u8,
        /// Who else is in it.
        others: Vec<Priority>,
    },
    /// The switch does not say how it shares its port.
    EtsUnknown {
        /// The cable.
        cable: Connection,
    },
    /// The wiring is another one than the template says.
    OtherWiring {
        /// What the template says.
        declared: Wiring,
        /// What the cables say.
        recognised: Wiring,
    },
}

impl WiringFinding {
    /// Its rule.
    pub fn rule(&self) -> &'static Rule {
        match self {
            Self::NoNeighbour { .. } => rules::LLDP_NO_NEIGHBOUR,
            Self::OtherZonesSwitch { .. } => rules::LLDP_OTHER_ZONES_SWITCH,
            Self::NodeInOtherZone { .. } => rules::LLDP_NODE_IN_OTHER_ZONE,
            Self::SharedSwitch { .. } => rules::LLDP_SHARED_SWITCH,
            Self::OddSwitch { .. } => rules::LLDP_ODD_SWITCH,
            Self::SplitZone { .. } => rules::LLDP_SPLIT_ZONE,
            Self::StorageOnOneSwitch { .. } => rules::LLDP_STORAGE_ON_ONE_SWITCH,
            Self::VlanMissing { .. } => rules::LLDP_VLAN_MISSING,
            Self::VlansUnknown { .. } => rules::LLDP_VLANS_UNKNOWN,
            Self::FrameTooBig { .. } => rules::LLDP_FRAME_TOO_BIG,
            Self::PfcOff { .. } => rules::LLDP_PFC_OFF,
            Self::PfcOnOthers { .. } => rules::LLDP_PFC_ON_OTHERS,
            Self::PfcUnknown { .. } => rules::LLDP_PFC_UNKNOWN,
            Self::EtsShareTooSmall { .. } => rules::LLDP_ETS_SHARE_TOO_SMALL,
            Self::EtsClassShared { .. } => rules::LLDP_ETS_CLASS_SHARED,
            Self::EtsUnknown { .. } => rules::LLDP_ETS_UNKNOWN,
            Self::OtherWiring { .. } => rules::LLDP_OTHER_WIRING,
        }
    }

    /// Its rule's stable id.
    pub fn id(&self) -> &'static str {
        self.rule().id.0
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::PfcOff { needed: false, .. } => Severity::Warning,
            _ => self.rule().severity,
        }
    }

    /// The cables that are at fault, or of which some must be: not those that are only named beside them.
    pub fn blamed(&self) -> Vec<&Connection> {
        match self {
            Self::NoNeighbour { .. } | Self::OtherWiring { .. } => Vec::new(),
            Self::OtherZonesSwitch { cable, .. }
            | Self::OddSwitch { cable, .. }
            | Self::VlanMissing { cable, .. }
            | Self::VlansUnknown { cable }
            | Self::FrameTooBig { cable, .. }
            | Self::PfcOff { cable, .. }
            | Self::PfcOnOthers { cable, .. }
            | Self::PfcUnknown { cable }
            | Self::EtsShareTooSmall { cable, .. }
            | Self::EtsClassShared { cable, .. }
            | Self::EtsUnknown { cable } => vec![cable],
            Self::NodeInOtherZone { cables, .. }
            | Self::SharedSwitch { cables, .. }
            | Self::SplitZone { cables, .. } => cables.iter().collect(),
            Self::StorageOnOneSwitch { first, second } => vec![first, second],
        }
    }

    /// What to change.
    pub fn help(&self) -> String {
        match self {
            Self::NoNeighbour { adapter, .. } => format!(
                "check the cable of {adapter}, that the switch sends LLDP on that port, and that the NIC's firmware does not swallow it"
            ),
            Self::OtherZonesSwitch { cable, .. } => {
                format!(
                    "move the cable of {} to the switch that the other nodes of its zone use",
                    cable.adapter
                )
            }
            Self::NodeInOtherZone { node, belongs_to, .. } => {
                format!(
                    "put {node} into zone {belongs_to} in the template, or move its cables to its own rack"
                )
            }
            Self::SharedSwitch { .. } => {
                "each zone needs switches of its own: move one side's cables, or correct the zones; or say wiring D, if every node is meant to have cables to both racks".to_owned()
            }
            Self::OddSwitch { cable, most } => {
                format!("move the cable of {} {} to switch {}", cable.node, cable.adapter, most.switch)
            }
            Self::SplitZone { adapter, .. } => {
                format!("cable {adapter} of all these nodes to the same switch")
            }
            Self::StorageOnOneSwitch { second, .. } => {
                format!("cable {} to the rack's other switch", second.adapter)
            }
            Self::VlanMissing { vlan, cable, .. } => {
                format!("add VLAN {vlan} to port {} of switch {}", cable.port, cable.switch)
            }
            Self::VlansUnknown { .. } => {
                "switch on the VLAN Name TLVs of LLDP (IEEE 802.1Q, annex D) on that port".to_owned()
            }
            Self::FrameTooBig { needed_bytes, cable, .. } => {
                format!(
                    "raise the frame size of port {} to {needed_bytes} bytes, or lower the intent's MTU",
                    cable.port
                )
            }
            Self::PfcOff { priority, cable, .. } => {
                format!("switch on priority flow control for priority {priority} on port {}", cable.port)
            }
            Self::PfcOnOthers { cable, .. } => {
                format!("switch off priority flow control for these on port {}: one paused flow holds all others up", cable.port)
            }
            Self::EtsShareTooSmall { priority, asked_percent, cable, .. } => {
                format!("give the traffic class of priority {priority} {asked_percent} percent of port {}", cable.port)
            }
            Self::EtsClassShared { priority, cable, .. } => {
                format!("give priority {priority} a traffic class of its own on port {}", cable.port)
            }
            Self::PfcUnknown { .. } | Self::EtsUnknown { .. } => {
                "switch on the DCBX TLVs of LLDP (IEEE 802.1Q, annex D) on that port, or look at its settings by hand"
                    .to_owned()
            }
            Self::OtherWiring { recognised, .. } => {
                format!("say {recognised:?} in the template, or change the cables")
            }
        }
    }

    /// The finding as every other check says things.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic {
            rule: self.rule().id,
            severity: self.severity(),
            message: self.to_string(),
            help: self.help(),
            location: None,
            related: Vec::new(),
            overridden: false,
        }
    }
}

impl fmt::Display for WiringFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNeighbour { node, adapter, kernel_name, last_heard_ms } => {
                write!(f, "{node} {adapter} ({kernel_name}) hears no switch")?;
                last_heard_ms.map_or(Ok(()), |ms| write!(f, "; the last one {ms} ms ago"))
            }
            Self::OtherZonesSwitch { cable, belongs_to, other_side } => {
                let zone = cable.zone.as_ref().map_or("", ZoneName::as_str);
                write!(f, "{} of zone {zone} has a cable to zone {belongs_to}: {cable}; ", cable.node)?;
                write!(f, "that is where zone {belongs_to} has {other_side}")
            }
            Self::NodeInOtherZone { node, zone, belongs_to, cables, other_side } => write!(
                f,
                "{node} is in zone {zone}, but all its cables go to switches of zone {belongs_to}: {}; \
                 that is where zone {belongs_to} has {other_side}",
                join(cables)
            ),
            Self::SharedSwitch { switch, cables } => {
                write!(f, "switch {switch} is used by both zones: {}", join(cables))
            }
            Self::OddSwitch { cable, most } => write!(f, "{cable}, but most of the nodes like {most}"),
            Self::SplitZone { zone: Some(zone), adapter, cables } => {
                write!(f, "the nodes of zone {zone} have {adapter} on different switches: {}", join(cables))
            }
            Self::SplitZone { zone: None, adapter, cables } => {
                write!(f, "the nodes of both zones have {adapter} on different switches: {}", join(cables))
            }
            Self::StorageOnOneSwitch { first, second } => {
                write!(f, "both storage networks of {} depend on one switch: {first}; {second}", first.node)
            }
            Self::VlanMissing { cable, vlan, purpose, carried } => {
                let carried: Vec<_> = carried.iter().map(VlanId::to_string).collect();
                write!(f, "{cable} needs VLAN {vlan} for {purpose}; the port carries {}", carried.join(", "))
            }
            Self::VlansUnknown { cable } => {
                write!(f, "{cable}: the switch does not say which VLANs the port carries")
            }
            Self::FrameTooBig { cable, mtu, needed_bytes, max_frame_bytes } => write!(
                f,
                "{cable}: MTU {mtu} needs frames of {needed_bytes} bytes, the port takes {max_frame_bytes}"
            ),
            Self::PfcOff { cable, priority, .. } => {
                write!(f, "{cable}: the port does not pause priority {priority}, which is storage's")
            }
            Self::PfcOnOthers { cable, priorities } => {
                write!(f, "{cable}: the port pauses priority {}, which are not storage's", list(priorities))
            }
            Self::PfcUnknown { cable } => {
                write!(f, "{cable}: the switch does not say what it pauses (PFC)")
            }
            Self::EtsShareTooSmall { cable, priority, percent, asked_percent } => write!(
                f,
                "{cable}: priority {priority} has {percent} percent of the port, and is to have {asked_percent}"
            ),
            Self::EtsClassShared { cable, priority, class, others } => write!(
                f,
                "{cable}: priority {priority} shares traffic class {class} with priority {}",
                list(others)
            ),
            Self::EtsUnknown { cable } => {
                write!(f, "{cable}: the switch does not say how it shares the port (ETS)")
            }
            Self::OtherWiring { declared, recognised } => {
                write!(f, "the template says wiring {declared:?}, the cables are wiring {recognised:?}")
            }
        }
    }
}

fn join(cables: &[Connection]) -> String {
    cables.iter().map(Connection::to_string).collect::<Vec<_>>().join("; ")
}

fn list(priorities: &[Priority]) -> String {
    priorities.iter().map(Priority::to_string).collect::<Vec<_>>().join(", ")
}
