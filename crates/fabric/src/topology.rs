//! What the fabric is made of: switches with ports, NICs, and the cables between them.
//!
//! Purpose: the lab's harness writes it, [`Topology::validate`] checks it, the switchboard is built from it. Plain data;
//! unknown keys are refused.

use crate::ids::{ChannelId, LinkId, NicId, PortName, SwitchId};
use ipnet::Ipv4Net;
use model::{MacAddress, Mtu, VlanId};
use network::lldp::{Ets, Pfc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// All switches, NICs and cables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The switches.
    pub switches: Vec<Switch>,
    /// The NICs, cabled or not; each is one socket.
    pub nics: Vec<NicId>,
    /// The cables as they are meant to be.
    pub links: Vec<Link>,
    /// Cables that work as one.
    #[serde(default)]
    pub channels: Vec<Channel>,
    /// Switches that others are bundled to as if they were one.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// Addresses that no frame on a cable at a spine may be from or to; such frames are counted there.
    #[serde(default)]
    pub kept_off_spine: Vec<Ipv4Net>,
    /// Which VLANs addresses belong to; packets to them in other VLANs are counted.
    #[serde(default)]
    pub homes: Vec<Home>,
    /// How often every port sends LLDP, milliseconds. Real switches take 30 s (IEEE 802.1AB, 9.2.5.7); a lab 1 s.
    pub lldp_interval_ms: u32,
}

/// The one VLAN that a subnet's addresses may be reached in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Home {
    /// The addresses.
    pub subnet: Ipv4Net,
    /// The VLAN.
    pub vlan: VlanId,
}

/// Where a switch stands in the wiring. Forwarding doesn't look at it; checks of the counters do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Top of rack.
    Tor,
    /// What joins the racks for management and compute.
    Spine,
}

/// A switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// The lab's name for it, never sent.
    pub id: SwitchId,
    /// What LLDP sends as system name.
    pub system_name: String,
    /// What LLDP sends as chassis id, and the source address of its frames.
    pub chassis_mac: MacAddress,
    /// Its place in the wiring.
    pub role: Role,
    /// The room where it stands; a spine may stand nowhere in particular.
    pub room: Option<String>,
    /// The largest packet that its ports take, bytes, unless a port says otherwise.
    pub mtu: Mtu,
    /// VLANs that the switch knows and forwards nowhere: black holes for native VLANs.
    #[serde(default)]
    pub suspended_vlans: BTreeSet<VlanId>,
    /// Its ports, cabled or not.
    pub ports: Vec<Port>,
}

/// A switch's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// What LLDP sends as port id.
    pub id: PortName,
    /// The VLAN of untagged frames; without one they are dropped.
    pub native_vlan: Option<VlanId>,
    /// The VLANs that the port carries with a tag; the native one is not among them.
    pub tagged_vlans: BTreeSet<VlanId>,
    /// The largest packet that it takes, bytes; `None`: the switch's.
    #[serde(default)]
    pub mtu: Option<Mtu>,
    /// What it says of priorities. It only says so: the fabric pauses nothing and serves frames as they come.
    #[serde(default)]
    pub dcb: Option<Dcb>,
}

/// What a port that is set up for storage says of priorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dcb {
    /// How it shares its bandwidth.
    pub ets: Ets,
    /// What it pauses rather than lose.
    pub pfc: Pfc,
}

/// One port of one switch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRef {
    /// The switch.
    pub switch: SwitchId,
    /// Its port.
    pub port: PortName,
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.switch, self.port)
    }
}

/// Where a cable ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// At a switch.
    Port(PortRef),
    /// At a node.
    Nic(NicId),
}

/// A cable. Its ends are called a and b in faults and counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its name.
    pub id: LinkId,
    /// One end.
    pub a: End,
    /// The other.
    pub b: End,
}

/// A port channel: parallel cables between two switches, or between pairs of switches, that frames see as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Its name.
    pub id: ChannelId,
    /// Its members. End a of all of them is on one side, end b on the other.
    pub links: Vec<LinkId>,
}

/// Two switches that are one to whatever is bundled to both of them (MLAG, vPC). What is cabled to one of them only stays so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The switches. The second steps back when the two can't hear each other.
    pub switches: [SwitchId; 2],
    /// What joins them: a port channel with end a at the first and end b at the second.
    pub peer_channel: ChannelId,
}

impl Topology {
    /// The port channel of this name.
    pub fn channel(&self, id: &ChannelId) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.id == *id)
    }

    /// The cable of this name.
    pub fn link(&self, id: &LinkId) -> Option<&Link> {
        self.links.iter().find(|link| link.id == *id)
    }

    /// The switch of this name.
    pub fn switch(&self, id: &SwitchId) -> Option<&Switch> {
        self.switches.iter().find(|switch| switch.id == *id)
    }

    /// The cables with an end at a switch of this role: where storage frames must not be seen, for [`Role::Spine`].
    pub fn links_at(&self, role: Role) -> impl Iterator<Item = &Link> {
        let at = move |end: &End| match end {
            End::Port(port) => self.switch(&port.switch).is_some_and(|switch| switch.role == role),
            End::Nic(_) => false,
        };
        self.links.iter().filter(move |link| link.ends().any(at))
    }
}

impl Link {
    /// Both ends, a first.
    pub fn ends(&self) -> impl Iterator<Item = &End> {
        [&self.a, &self.b].into_iter()
    }
}

impl Port {
    /// Whether the port carries this VLAN, with a tag or without.
    pub fn carries(&self, vlan: VlanId) -> bool {
        self.native_vlan == Some(vlan) || self.tagged_vlans.contains(&vlan)
    }
}
