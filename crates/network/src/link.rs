//! Links as plain data: what a kernel has, and what it shall have.
//!
//! Invariants: a [`LinkName`] is one that Linux accepts. What the kernel reports is kept even where twinrack would never
//! ask for it (any MTU, any bond mode), so that the way back to it can be computed.

use crate::traffic::{Traffic, WantedTraffic};
use ipnet::Ipv4Net;
use model::{AdapterName, InvalidValue, MacAddress, Priority, VlanId, VmId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Which NIC an adapter of the template is on one node: by permanent MAC address, since kernel names depend on slots.
pub type AdapterMap = BTreeMap<AdapterName, MacAddress>;

/// The kernel's name of a link: 1–15 bytes, none of them `/`, `:` or white space, not `.` or `..`
/// (`dev_valid_name`, net/core/dev.c).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

impl LinkName {
    /// What the names of all links start with that twinrack makes, changes and deletes.
    pub const PREFIX: &'static str = "tw-";

    /// The bond of the management and compute NICs.
    pub fn team() -> Self {
        Self("tw-team".to_owned())
    }

    /// The VLAN-aware bridge above the team.
    pub fn bridge() -> Self {
        Self("tw-br".to_owned())
    }

    /// The VLAN link that has the management address.
    pub fn management() -> Self {
        Self("tw-mgmt".to_owned())
    }

    /// The VLAN link of a storage network.
    pub fn storage(vlan: VlanId) -> Self {
        Self(format!("tw-st{vlan}"))
    }

    /// The tap of a virtual machine's NIC, the first is 0: at most 14 bytes, as a machine has eight of them.
    pub fn tap(vm: VmId, nic: u8) -> Self {
        Self(format!("vm{}n{nic}", vm.0))
    }

    /// The name as the kernel writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is one of those that belong to twinrack.
    pub fn is_ours(&self) -> bool {
        self.0.starts_with(Self::PREFIX)
    }
}

impl TryFrom<String> for LinkName {
    type Error = InvalidValue;

    fn try_from(value: String) -> Result<Self, InvalidValue> {
        let plain = !value.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
        if plain && (1..=15).contains(&value.len()) && value != "." && value != ".." {
            return Ok(Self(value));
        }
        let expected = "1 to 15 bytes without slash, colon or white space";
        Err(InvalidValue { what: "link name", value: value.escape_debug().to_string(), expected })
    }
}

impl FromStr for LinkName {
    type Err = InvalidValue;
    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        Self::try_from(value.to_owned())
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> Self {
        name.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a bond spreads traffic over its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BondMode {
    /// One port carries all traffic, the others wait. Needs nothing from the switches.
    ActiveBackup,
    /// Another mode, by the kernel's number (`BOND_MODE_*`, `uapi/linux/if_bonding.h`).
    Other(u8),
}

/// When a bond goes back to its primary port (`BOND_PRI_RESELECT_*`, `net/bonding.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reselect {
    /// As soon as it can: the kernel's default.
    #[default]
    Always,
    /// As soon as it can, if it is faster than the active one.
    Better,
    /// When the active port fails.
    Failure,
}

/// What a link is, with the attributes that only this kind has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// A physical NIC: a link that no driver of virtual links made.
    Nic,
    /// A bond.
    Bond {
        /// How it spreads traffic.
        mode: BondMode,
        /// How often the carrier of ports is looked at, ms; 0: never.
        miimon_ms: u32,
        /// The port that carries traffic first.
        primary: Option<LinkName>,
        /// When it does so again after it failed.
        #[serde(default)]
        reselect: Reselect,
    },
    /// A bridge.
    Bridge {
        /// Whether frames are kept to the VLANs of ports.
        vlan_filtering: bool,
        /// The VLAN that new ports get untagged; `None`: none.
        default_pvid: Option<VlanId>,
    },
    /// One VLAN of another link.
    Vlan {
        /// The link below.
        parent: LinkName,
        /// Which VLAN.
        vlan: VlanId,
        /// Socket buffer priority (`SO_PRIORITY`) to priority code point in the tag. What isn't named leaves as 0.
        egress_qos: BTreeMap<u32, Priority>,
    },
    /// Anything else, by the kernel's word (`IFLA_INFO_KIND`).
    Other(String),
}

/// One VLAN of a bridge's port, or of the bridge itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VlanEntry {
    /// Untagged frames that come in belong to it.
    pub pvid: bool,
    /// Its frames go out without a tag.
    pub untagged: bool,
}

impl VlanEntry {
    /// A VLAN whose frames have tags both ways.
    pub const TAGGED: Self = Self { pvid: false, untagged: false };
    /// The one VLAN whose frames have no tags.
    pub const NATIVE: Self = Self { pvid: true, untagged: true };
}

/// A route of the main table that somebody set (IPv4, unicast, one next hop): none that the kernel makes with an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// The next hop; `None`: the destination is on the wire.
    pub gateway: Option<Ipv4Addr>,
    /// Which of several routes is taken: the lowest number.
    pub metric: u32,
    /// Who set it, by the kernel's number (`RTPROT_*`, `uapi/linux/rtnetlink.h`).
    pub protocol: u8,
    /// How far away the destination is, by the kernel's number (`RT_SCOPE_*`): 0 anywhere, 253 on the wire.
    pub scope: u8,
    /// The source address of what is sent, where nothing else decides it.
    pub source: Option<Ipv4Addr>,
    /// Whether the gateway counts as on the wire whatever the addresses say (`RTNH_F_ONLINK`).
    pub on_link: bool,
}

impl fmt::Display for Route {
    /// `10.0.0.0/8 via 192.168.7.1 metric 100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if self.metric == 0 { Ok(()) } else { write!(f, " metric {}", self.metric) }
    }
}

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentLink {
    /// The kernel's number for it.
    pub index: u32,
    /// What it is.
    pub kind: LinkKind,
    /// Its MAC address now: ports of a bond have the bond's.
    pub mac: Option<MacAddress>,
    /// Its permanent MAC address, when it has one.
    pub permanent_mac: Option<MacAddress>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has carrier; `None` while it is down.
    pub carrier: Option<bool>,
    /// Its MTU, bytes. 0 in a simulation: the kernel chose one that nobody asked for.
    pub mtu_bytes: u32,
    /// The bond or bridge that it is a port of.
    pub master: Option<LinkName>,
    /// Its IPv4 addresses.
    pub addresses: BTreeSet<Ipv4Net>,
    /// VLANs that its bridge lets it have; of a bridge: what the host's own traffic may have.
    pub bridge_vlans: BTreeMap<VlanId, VlanEntry>,
    /// Whether the kernel gives it an IPv6 link-local address by itself; `None`: no IPv6 here.
    pub ipv6_link_local: Option<bool>,
    /// The routes through it that somebody set.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub routes: BTreeSet<Route>,
    /// What is set of its outgoing traffic.
    #[serde(default, skip_serializing_if = "Traffic::is_default")]
    pub traffic: Traffic,
}

/// All links of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CurrentLinks {
    /// By kernel name.
    pub links: BTreeMap<LinkName, CurrentLink>,
}

impl CurrentLinks {
    /// The link of this name.
    pub fn get(&self, name: &LinkName) -> Option<&CurrentLink> {
        self.links.get(name)
    }

    /// The name of the NIC with this permanent MAC address. A link without a permanent address counts by its address
    /// now, unless another link has that one for good.
    pub fn nic_by_mac(&self, mac: MacAddress) -> Option<&LinkName> {
        let nics =
            || self.links.iter().filter(|(_, link)| matches!(link.kind, LinkKind::Nic | LinkKind::Other(_)));
        nics()
            .find(|(_, link)| link.permanent_mac == Some(mac))
            .or_else(|| nics().find(|(_, link)| link.permanent_mac.is_none() && link.mac == Some(mac)))
            .map(|(name, _)| name)
    }

    /// The ports of a bond or bridge.
    pub fn ports<'a>(&'a self, master: &'a LinkName) -> impl Iterator<Item = &'a LinkName> {
        self.links.iter().filter(|(_, link)| link.master.as_ref() == Some(master)).map(|(name, _)| name)
    }
}

/// A link as it shall be. What isn't here is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredLink {
    /// What it is, with the attributes of the kind.
    pub kind: LinkKind,
    /// Its MTU, bytes.
    pub mtu_bytes: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The bond or bridge that it is a port of.
    pub master: Option<LinkName>,
    /// Its IPv4 addresses, all of them.
    pub addresses: BTreeSet<Ipv4Net>,
    /// Its VLANs on the bridge, all of them.
    pub bridge_vlans: BTreeMap<VlanId, VlanEntry>,
    /// Whether the kernel may give it an IPv6 link-local address; `None`: as it is.
    pub ipv6_link_local: Option<bool>,
    /// The routes through it, all of them; `None`: those that it has stay, as far as its addresses let them.
    #[serde(default)]
    pub routes: Option<BTreeSet<Route>>,
    /// What its outgoing traffic shall have.
    #[serde(default)]
    pub traffic: WantedTraffic,
}

/// The links that a plan names, by kernel name. Bonds, bridges and VLANs called `tw-…` that are not here are unwanted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DesiredLinks {
    /// By kernel name.
    pub links: BTreeMap<LinkName, DesiredLink>,
}

impl DesiredLinks {
    /// What leads back to `before`: all links that are ours there, the NICs that are their ports, and these NICs.
    pub fn restoring(before: &CurrentLinks, nics: &BTreeSet<LinkName>) -> Self {
        let kept = before.links.iter().filter(|(name, link)| {
            let port_of_ours =
                link.kind == LinkKind::Nic && link.master.as_ref().is_some_and(LinkName::is_ours);
            is_made_by_us(name, &link.kind) || nics.contains(*name) || port_of_ours
        });
        let links = kept
            .map(|(name, link)| {
                let wanted = DesiredLink {
                    kind: link.kind.clone(),
                    mtu_bytes: link.mtu_bytes,
                    up: link.up,
                    master: link.master.clone(),
                    addresses: link.addresses.clone(),
                    bridge_vlans: link.bridge_vlans.clone(),
                    ipv6_link_local: link.ipv6_link_local,
                    routes: Some(link.routes.clone()),
                    traffic: was(name, link),
                };
                (name.clone(), wanted)
            })
            .collect();
        Self { links }
    }
}

/// All that was seen of a link's outgoing traffic.
fn was(name: &LinkName, link: &CurrentLink) -> WantedTraffic {
    let Traffic { queue, marks, dcb } = link.traffic.clone();
    let dcb = dcb.unwrap_or_default();
    WantedTraffic {
        queue: Some(queue),
        marks: is_made_by_us(name, &link.kind).then_some(marks),
        dcb_ets: dcb.ets,
        dcb_pfc: dcb.pfc,
    }
}

/// Whether twinrack makes such links: the name is ours, and the kind is one that plans have. (Taps of virtual machines
/// may have names like ours, too; they are not the network's.)
pub fn is_made_by_us(name: &LinkName, kind: &LinkKind) -> bool {
    name.is_ours() && matches!(kind, LinkKind::Bond { .. } | LinkKind::Bridge { .. } | LinkKind::Vlan { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_linux_takes() {
        for good in ["eth0", "tw-st4094", "a.b", "123456789012345"] {
            assert!(good.parse::<LinkName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "1234567890123456"] {
            assert!(bad.parse::<LinkName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn our_names_are_valid_and_ours() {
        let longest = LinkName::storage(VlanId::try_from(4094).unwrap());
        for name in [LinkName::team(), LinkName::bridge(), LinkName::management(), longest] {
            assert!(name.is_ours());
            assert_eq!(name.as_str().parse::<LinkName>().unwrap(), name);
        }
    }
}
