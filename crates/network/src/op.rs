//! One change of one link: what a diff consists of and an executor carries out.

use crate::link::{BondMode, LinkName, Reselect, Route, VlanEntry};
use crate::traffic::{DcbEts, DcbPfc, Filter, Queue};
use ipnet::Ipv4Net;
use model::{Priority, VlanId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One change. Each is one netlink request; links are named, because indices of new ones aren't known beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Make a bond, down and without ports. The mode can only be given while it has none.
    CreateBond {
        /// Its name.
        name: LinkName,
        /// How it spreads traffic.
        mode: BondMode,
        /// How often the carrier of ports is looked at, ms.
        miimon_ms: u32,
    },
    /// Make a bridge, down and without ports.
    CreateBridge {
        /// Its name.
        name: LinkName,
        /// Whether frames are kept to the VLANs of ports.
        vlan_filtering: bool,
        /// The VLAN that new ports get untagged.
        default_pvid: Option<VlanId>,
    },
    /// Make a VLAN link, down.
    CreateVlan {
        /// Its name.
        name: LinkName,
        /// The link below.
        parent: LinkName,
        /// Which VLAN.
        vlan: VlanId,
        /// Socket buffer priority to priority code point.
        egress_qos: BTreeMap<u32, Priority>,
    },
    /// Remove a link. Its ports are released, its VLAN links go with it.
    Delete {
        /// Which.
        name: LinkName,
    },
    /// Change the MTU.
    SetMtu {
        /// Of which link.
        name: LinkName,
        /// Bytes.
        mtu_bytes: u32,
    },
    /// Bring it up.
    SetUp {
        /// Which.
        name: LinkName,
    },
    /// Take it down.
    SetDown {
        /// Which.
        name: LinkName,
    },
    /// Make it a port.
    Join {
        /// Which.
        name: LinkName,
        /// Of this bond or bridge.
        master: LinkName,
    },
    /// Release it from the bond or bridge that it is a port of.
    Leave {
        /// Which.
        name: LinkName,
    },
    /// Change how often a bond looks at carriers.
    SetMiimon {
        /// Of which bond.
        name: LinkName,
        /// Milliseconds.
        miimon_ms: u32,
    },
    /// Change when a bond goes back to its primary port.
    SetReselect {
        /// Of which bond.
        name: LinkName,
        /// When.
        reselect: Reselect,
    },
    /// Change a bond's preferred port.
    SetPrimary {
        /// Of which bond.
        name: LinkName,
        /// One of its ports; `None`: no preference.
        port: Option<LinkName>,
    },
    /// Change how a bridge treats VLANs.
    SetFiltering {
        /// Of which bridge.
        name: LinkName,
        /// Whether frames are kept to the VLANs of ports.
        vlan_filtering: bool,
        /// The VLAN that new ports get untagged.
        default_pvid: Option<VlanId>,
    },
    /// Change a VLAN link's map of priorities. Only the named ones change; 0 takes a mapping away.
    SetEgressQos {
        /// Of which VLAN link.
        name: LinkName,
        /// Socket buffer priority to priority code point.
        egress_qos: BTreeMap<u32, Priority>,
    },
    /// Add a VLAN to a port or to the bridge itself, or change its flags.
    SetBridgeVlan {
        /// The port or the bridge.
        name: LinkName,
        /// Which VLAN.
        vlan: VlanId,
        /// With or without tags.
        entry: VlanEntry,
    },
    /// Take a VLAN from a port or from the bridge itself.
    RemoveBridgeVlan {
        /// The port or the bridge.
        name: LinkName,
        /// Which VLAN.
        vlan: VlanId,
    },
    /// Add an address.
    AddAddress {
        /// To which link.
        name: LinkName,
        /// With its prefix length.
        address: Ipv4Net,
    },
    /// Remove an address.
    RemoveAddress {
        /// From which link.
        name: LinkName,
        /// With its prefix length.
        address: Ipv4Net,
    },
    /// Add a route, after others to the same destination with the same metric.
    AddRoute {
        /// Through which link.
        name: LinkName,
        /// The route.
        route: Route,
    },
    /// Remove a route.
    RemoveRoute {
        /// Through which link.
        name: LinkName,
        /// The route.
        route: Route,
    },
    /// Say whether the kernel may give the link an IPv6 link-local address by itself.
    SetIpv6LinkLocal {
        /// Which.
        name: LinkName,
        /// Whether it may.
        enabled: bool,
    },
    /// Give a link another root queue, anew even if it has one of the kind; the kernel's own takes away what somebody set.
    SetQueue {
        /// Which.
        name: LinkName,
        /// The queue.
        queue: Queue,
    },
    /// Make a place for filters on a link's ways in and out.
    AddClassifier {
        /// Which.
        name: LinkName,
    },
    /// Take that away with all filters.
    RemoveClassifier {
        /// Which.
        name: LinkName,
    },
    /// Add a filter on the way out.
    AddFilter {
        /// Of which link.
        name: LinkName,
        /// When it is asked: the lowest number first.
        preference: u16,
        /// What it does.
        filter: Filter,
    },
    /// Take all filters of a preference away.
    RemoveFilter {
        /// From which link.
        name: LinkName,
        /// Which.
        preference: u16,
    },
    /// Change the shares of a NIC's own traffic classes.
    SetDcbEts {
        /// Of which NIC.
        name: LinkName,
        /// The shares.
        ets: DcbEts,
    },
    /// Change which priorities a NIC may be told to pause.
    SetDcbPfc {
        /// Of which NIC.
        name: LinkName,
        /// The priorities.
        pfc: DcbPfc,
    },
}

impl Op {
    /// The link that changes.
    pub fn name(&self) -> &LinkName {
        match self {
            Self::CreateBond { name, .. }
            | Self::CreateBridge { name, .. }
            | Self::CreateVlan { name, .. }
            | Self::Delete { name }
            | Self::SetMtu { name, .. }
            | Self::SetUp { name }
            | Self::SetDown { name }
            | Self::Join { name, .. }
            | Self::Leave { name }
            | Self::SetMiimon { name, .. }
            | Self::SetPrimary { name, .. }
            | Self::SetReselect { name, .. }
            | Self::SetFiltering { name, .. }
            | Self::SetEgressQos { name, .. }
            | Self::SetBridgeVlan { name, .. }
            | Self::RemoveBridgeVlan { name, .. }
            | Self::AddAddress { name, .. }
            | Self::RemoveAddress { name, .. }
            | Self::AddRoute { name, .. }
            | Self::RemoveRoute { name, .. }
            | Self::SetIpv6LinkLocal { name, .. }
            | Self::SetQueue { name, .. }
            | Self::AddClassifier { name }
            | Self::RemoveClassifier { name }
            | Self::AddFilter { name, .. }
            | Self::RemoveFilter { name, .. }
            | Self::SetDcbEts { name, .. }
            | Self::SetDcbPfc { name, .. } => name,
        }
    }

    /// Whether the operation takes something away. What is gone already need not be taken away: the kernel itself
    /// removes, for example, secondary addresses with the primary one.
    pub fn is_removal(&self) -> bool {
        matches!(
            self,
            Self::Delete { .. }
                | Self::RemoveBridgeVlan { .. }
                | Self::RemoveAddress { .. }
                | Self::RemoveRoute { .. }
                | Self::SetQueue { queue: Queue::Default, .. }
                | Self::RemoveClassifier { .. }
                | Self::RemoveFilter { .. }
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBond { name, .. } => write!(f, "create bond {name}"),
            Self::CreateBridge { name, .. } => write!(f, "create bridge {name}"),
            Self::CreateVlan { name, parent, vlan, .. } => {
                write!(f, "create {name}, VLAN {vlan} of {parent}")
            }
            Self::Delete { name } => write!(f, "delete {name}"),
            Self::SetMtu { name, mtu_bytes } => write!(f, "set the MTU of {name} to {mtu_bytes}"),
            Self::SetUp { name } => write!(f, "bring {name} up"),
            Self::SetDown { name } => write!(f, "take {name} down"),
            Self::Join { name, master } => write!(f, "make {name} a port of {master}"),
            Self::Leave { name } => write!(f, "release {name} from its master"),
            Self::SetMiimon { name, miimon_ms } => {
                write!(f, "let {name} look at carriers every {miimon_ms} ms")
            }
            Self::SetPrimary { name, port: Some(port) } => {
                write!(f, "make {port} the primary port of {name}")
            }
            Self::SetReselect { name, reselect } => {
                let when = match reselect {
                    Reselect::Always => "as soon as it can",
                    Reselect::Better => "when that is faster",
                    Reselect::Failure => "when the active one fails",
                };
                write!(f, "let {name} go back to its primary port {when}")
            }
            Self::SetPrimary { name, port: None } => write!(f, "let {name} have no primary port"),
            Self::SetFiltering { name, vlan_filtering, default_pvid } => {
                write!(f, "{} VLAN filtering on {name}, ", if *vlan_filtering { "set" } else { "clear" })?;
                match default_pvid {
                    Some(vlan) => write!(f, "default VLAN {vlan}"),
                    None => f.write_str("no default VLAN"),
                }
            }
            Self::SetEgressQos { name, egress_qos } => {
                let map: Vec<String> =
                    egress_qos.iter().map(|(from, to)| format!("{from} to {to}")).collect();
                write!(f, "map priorities of {name}: {}", map.join(", "))
            }
            Self::SetBridgeVlan { name, vlan, entry } => {
                let untagged = if entry.untagged { " untagged" } else { "" };
                write!(
                    f,
                    "let {name} carry VLAN {vlan}{untagged}{}",
                    if entry.pvid { " as its native VLAN" } else { "" }
                )
            }
            Self::RemoveBridgeVlan { name, vlan } => write!(f, "take VLAN {vlan} from {name}"),
            Self::AddAddress { name, address } => write!(f, "add {address} to {name}"),
            Self::RemoveAddress { name, address } => write!(f, "remove {address} from {name}"),
            Self::AddRoute { name, route } => write!(f, "add route {route} through {name}"),
            Self::RemoveRoute { name, route } => write!(f, "remove route {route} through {name}"),
            Self::SetIpv6LinkLocal { name, enabled } => {
                write!(f, "{} IPv6 link-local addresses on {name}", if *enabled { "allow" } else { "forbid" })
            }
            Self::SetQueue { name, queue } => write!(f, "make the queue of {name} {queue}"),
            Self::AddClassifier { name } => write!(f, "make a place for filters on {name}"),
            Self::RemoveClassifier { name } => write!(f, "take the place for filters from {name}"),
            Self::AddFilter { name, preference, filter } => {
                write!(f, "let filter {preference} of {name} mark {filter}")
            }
            Self::RemoveFilter { name, preference } => write!(f, "remove filter {preference} of {name}"),
            Self::SetDcbEts { name, ets } => write!(f, "set ETS of {name} to {ets}"),
            Self::SetDcbPfc { name, pfc } => write!(f, "let {name} be paused for {pfc}"),
        }
    }
}
