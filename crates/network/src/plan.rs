//! From a cluster's specification to the links of one node.
//!
//! ```text
//!   Ethernet ─┐                                       Ethernet 3 ── tw-st711  10.71.1.x/24
//!             ├─ tw-team ── tw-br ── tw-mgmt  address
//!   Ethernet 2┘  (bond)    (bridge)  (VLAN)           Ethernet 4 ── tw-st712  10.71.2.x/24
//! ```
//!
//! Purpose: [`plan`] for a node, [`plan_witness`] for the witness. A [`NetworkPlan`] is immutable data that leaves no
//! choice to its executor; it speaks of adapters, and [`NetworkPlan::resolve`] puts one node's NICs in their place.
//!
//! Choices:
//! - The team is active-backup with the intent's first adapter as primary, on every node: switch-independent, and in a
//!   converged intent all nodes use the same side. Carrier is looked at every [`MIIMON_MS`].
//! - The bridge has no default VLAN. The management address is always on a VLAN link of the bridge. An untagged
//!   management network is a VLAN inside the bridge only, which the team's port strips ([`native_vlan`]).
//! - Storage VLANs of a converged intent stand on the team itself, below the bridge: no virtual machine can reach
//!   them, and the frames skip the bridge. The kernel gives a VLAN link its frames before the bridge sees them
//!   (`__netif_receive_skb_core`).
//! - Routes are not a plan's matter: all nodes are in the management subnet, storage is never routed. Routes that a node has
//!   (a default route over the NIC that becomes a port of the team) are kept by the diff, on the link that takes the gateway's subnet over.
//!
//! On failure: [`PlanError`] for a specification that passed no rules, [`ResolveError`] for a node without the NIC.

use crate::link::{
    AdapterMap, BondMode, CurrentLinks, DesiredLink, DesiredLinks, LinkKind, LinkName, Reselect, VlanEntry,
};
use crate::traffic::{MarkRule, Marks, Queue, Shares, Traffic, WantedTraffic, mark_rules};
use ipnet::Ipv4Net;
use model::{
    AdapterName, ClusterSpec, Intent, IntentName, MacAddress, ManagementNetwork, Mtu, NodeName, NodeOrdinal,
    Priority, Qos, StorageNetwork, TrafficClass, VlanId,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// How often a team looks at the carrier of its ports, ms. What the kernel's documentation (networking/bonding.rst)
/// takes as a good starting point; a path that fails is given up well within a second.
pub const MIIMON_MS: u32 = 100;

/// Which state of the ledger a plan was made from. An agent refuses a plan older than what it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// The links that one node shall have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Which state of the ledger it was made from.
    pub generation: Generation,
    /// Whose it is.
    pub node: NodeName,
    /// The links, each after those that it stands on.
    pub links: Vec<PlannedLink>,
    /// The VLANs that virtual machines may be in; one that names none is in the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compute_vlans: Vec<VlanId>,
}

/// A link of a plan: a NIC that is there, by its adapter name, or one that is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkRef {
    /// A NIC.
    Adapter(AdapterName),
    /// A link of ours.
    Ours(LinkName),
}

/// What a planned link is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedKind {
    /// A NIC.
    Nic,
    /// A bond, active-backup.
    Team {
        /// The port that carries traffic first.
        primary: AdapterName,
        /// How often the carrier of ports is looked at, ms.
        miimon_ms: u32,
        /// When it goes back to the primary port.
        #[serde(default)]
        reselect: Reselect,
    },
    /// A VLAN-aware bridge without default VLAN.
    Bridge,
    /// One VLAN of another link.
    Vlan {
        /// The link below.
        parent: LinkRef,
        /// Which VLAN.
        vlan: VlanId,
        /// Socket buffer priority to priority code point.
        egress_qos: BTreeMap<u32, Priority>,
    },
}

/// One link of a plan; all of them are up, and the kernel gives none of them IPv6 addresses by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedLink {
    /// Which.
    pub link: LinkRef,
    /// What it is.
    pub kind: PlannedKind,
    /// Its MTU.
    pub mtu: Mtu,
    /// The bond or bridge that it is a port of.
    pub master: Option<LinkName>,
    /// Its IPv4 address.
    pub address: Option<Ipv4Net>,
    /// Its VLANs on the bridge.
    pub bridge_vlans: BTreeMap<VlanId, VlanEntry>,
    /// What its packets are marked with: the first rule that matches counts. Empty: filters and queue stay as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<MarkRule>,
    /// How classes of traffic share it; `None`: its queue stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
}

/// The speeds of adapters as far as they are known, Mb/s; the same on every node.
pub type AdapterSpeeds = BTreeMap<AdapterName, u32>;

/// Why a specification has no plan. The template's rules exclude all of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The node is not in the specification.
    #[error("the cluster has no node {0}")]
    UnknownNode(NodeName),
    /// No intent carries management.
    #[error("no intent carries management traffic")]
    NoManagement,
    /// Management is asked for on no adapter.
    #[error("there is no adapter for the management network")]
    NoAdapters,
    /// Compute has NICs of its own, which have no bridge.
    #[error("intent {0} carries compute traffic apart from management; both need the same NICs")]
    ComputeApart(IntentName),
    /// Two intents have the same adapter.
    #[error("adapter {adapter} is in intent {first} and in intent {second}")]
    SharedAdapter {
        /// The adapter.
        adapter: AdapterName,
        /// One intent.
        first: IntentName,
        /// The other.
        second: IntentName,
    },
    /// There are storage networks and no storage intent, or the adapter is not in it.
    #[error(
        "storage network {network} is on adapter {adapter}, which is in no intent that carries storage traffic"
    )]
    StorageAdapter {
        /// The storage network.
        network: String,
        /// Its adapter.
        adapter: AdapterName,
    },
    /// Two networks have the same VLAN.
    #[error("VLAN {vlan} is used for {first} and for {second}")]
    SharedVlan {
        /// The VLAN.
        vlan: VlanId,
        /// One use.
        first: String,
        /// The other.
        second: String,
    },
    /// A prefix is longer than 32 bits. The type of the subnet excludes it.
    #[error("{0} has a prefix length that is none")]
    Prefix(Ipv4Net),
    /// The witness has no address on the management network.
    #[error("witness {0} has no address on the management network")]
    WitnessAddress(NodeName),
}

/// Why a plan does not fit a node's NICs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nobody said which NIC the adapter is.
    #[error("nobody said which NIC adapter {0} is")]
    Unmapped(AdapterName),
    /// The NIC isn't there.
    #[error("adapter {adapter} is the NIC with MAC address {mac}, and there is none")]
    NoNic {
        /// The adapter.
        adapter: AdapterName,
        /// Its permanent MAC address.
        mac: MacAddress,
    },
    /// Two adapters are the same NIC.
    #[error("adapter {adapter} is {nic}, which another adapter is, too")]
    SameNic {
        /// The second adapter.
        adapter: AdapterName,
        /// The kernel's name of the NIC.
        nic: LinkName,
    },
}

/// The links of a node whose NICs are of unknown speed.
pub fn plan(spec: &ClusterSpec, node: &NodeName, generation: Generation) -> Result<NetworkPlan, PlanError> {
    plan_at(spec, node, generation, &AdapterSpeeds::new())
}

/// The links of a node.
pub fn plan_at(
    spec: &ClusterSpec,
    node: &NodeName,
    generation: Generation,
    speeds: &AdapterSpeeds,
) -> Result<NetworkPlan, PlanError> {
    let (_, member) =
        spec.nodes().find(|(_, n)| n.name == *node).ok_or_else(|| PlanError::UnknownNode(node.clone()))?;
    check_adapters(spec)?;
    check_vlans(spec)?;
    let intent = spec.intent_for(TrafficClass::Management).ok_or(PlanError::NoManagement)?;
    if let Some(apart) = spec.intents.iter().find(|i| i.carries(TrafficClass::Compute) && *i != intent) {
        return Err(PlanError::ComputeApart(apart.name.clone()));
    }
    let address = in_subnet(member.management_ip, spec.management.subnet)?;
    let reselect = if intent.is_converged_storage() {
        // All nodes must use the same side: only there does a storage network reach the other room's nodes.
        Reselect::Always
    } else {
        // To go back is one more interruption, and a flapping port would cause many.
        Reselect::Failure
    };
    let team = Team { adapters: &intent.adapters, mtu: intent.mtu, reselect };
    let mut links = team.links(&spec.management, &spec.compute_vlans, native_vlan(spec), address)?;
    for network in &spec.storage_networks {
        add_storage(&mut links, spec, intent, network, member.ordinal)?;
    }
    share(&mut links, spec, speeds);
    let compute_vlans = spec.compute_vlans.clone();
    Ok(NetworkPlan { generation, node: member.name.clone(), links, compute_vlans })
}

/// The links of the witness: management alone, on these adapters, built like a node's.
pub fn plan_witness(
    spec: &ClusterSpec,
    adapters: &[AdapterName],
    generation: Generation,
) -> Result<NetworkPlan, PlanError> {
    let witness = &spec.witness;
    let ip = witness.management_ip.ok_or_else(|| PlanError::WitnessAddress(witness.name.clone()))?;
    let address = in_subnet(ip, spec.management.subnet)?;
    let mtu = spec.intent_for(TrafficClass::Management).map_or(Mtu::ETHERNET, |intent| intent.mtu);
    let team = Team { adapters, mtu, reselect: Reselect::Failure };
    let links = team.links(&spec.management, &[], native_vlan(spec), address)?;
    Ok(NetworkPlan { generation, node: witness.name.clone(), links, compute_vlans: Vec::new() })
}

fn in_subnet(ip: Ipv4Addr, subnet: Ipv4Net) -> Result<Ipv4Net, PlanError> {
    Ipv4Net::new(ip, subnet.prefix_len()).map_err(|_| PlanError::Prefix(subnet))
}

/// What an untagged management network is called inside the bridge: the first VLAN that nobody else uses. It is on
/// no wire, but virtual machines' VLANs share the bridge.
pub fn native_vlan(spec: &ClusterSpec) -> VlanId {
    let taken: BTreeSet<u16> = spec
        .compute_vlans
        .iter()
        .copied()
        .chain(spec.storage_networks.iter().map(|network| network.vlan))
        .map(VlanId::get)
        .collect();
    let mut free = (1..=4094u64).filter(|id| !taken.iter().any(|vlan| u64::from(*vlan) == *id));
    free.find_map(|id| VlanId::try_from(id).ok()).unwrap_or(VlanId::STORAGE_1_DEFAULT)
}

fn check_adapters(spec: &ClusterSpec) -> Result<(), PlanError> {
    let mut owners: BTreeMap<&AdapterName, &Intent> = BTreeMap::new();
    for intent in &spec.intents {
        for adapter in &intent.adapters {
            if let Some(first) = owners.insert(adapter, intent)
                && first != intent
            {
                let (first, second) = (first.name.clone(), intent.name.clone());
                return Err(PlanError::SharedAdapter { adapter: adapter.clone(), first, second });
            }
        }
    }
    Ok(())
}

fn check_vlans(spec: &ClusterSpec) -> Result<(), PlanError> {
    let management = spec.management.vlan.map(|vlan| (vlan, "management".to_owned()));
    let storage = spec.storage_networks.iter().map(|n| (n.vlan, format!("storage network {}", n.name)));
    let mut uses: BTreeMap<VlanId, String> = BTreeMap::new();
    for (vlan, second) in management.into_iter().chain(storage) {
        if let Some(first) = uses.insert(vlan, second.clone()) {
            return Err(PlanError::SharedVlan { vlan, first, second });
        }
    }
    // Virtual machines may stand in the management VLAN, but never in a storage VLAN.
    for vlan in &spec.compute_vlans {
        if let Some(first) = uses.get(vlan)
            && spec.management.vlan != Some(*vlan)
        {
            return Err(PlanError::SharedVlan {
                vlan: *vlan,
                first: first.clone(),
                second: "compute".to_owned(),
            });
        }
    }
    Ok(())
}

/// The NICs that are teamed.
struct Team<'a> {
    adapters: &'a [AdapterName],
    mtu: Mtu,
    reselect: Reselect,
}

impl Team<'_> {
    /// NICs, bond, bridge and the link with the management address.
    fn links(
        &self,
        management: &ManagementNetwork,
        compute_vlans: &[VlanId],
        native: VlanId,
        address: Ipv4Net,
    ) -> Result<Vec<PlannedLink>, PlanError> {
        let primary = self.adapters.first().ok_or(PlanError::NoAdapters)?.clone();
        let (vlan, entry) = match management.vlan {
            Some(vlan) => (vlan, VlanEntry::TAGGED),
            None => (native, VlanEntry::NATIVE),
        };
        let mut uplink: BTreeMap<_, _> =
            compute_vlans.iter().map(|vlan| (*vlan, VlanEntry::TAGGED)).collect();
        uplink.insert(vlan, entry);
        let nics = self.adapters.iter().map(|adapter| PlannedLink {
            master: Some(LinkName::team()),
            ..self.link(LinkRef::Adapter(adapter.clone()), PlannedKind::Nic)
        });
        let team = PlannedLink {
            master: Some(LinkName::bridge()),
            bridge_vlans: uplink,
            ..self.link(
                LinkRef::Ours(LinkName::team()),
                PlannedKind::Team { primary, miimon_ms: MIIMON_MS, reselect: self.reselect },
            )
        };
        let bridge = PlannedLink {
            bridge_vlans: BTreeMap::from([(vlan, VlanEntry::TAGGED)]),
            ..self.link(LinkRef::Ours(LinkName::bridge()), PlannedKind::Bridge)
        };
        let parent = LinkRef::Ours(LinkName::bridge());
        let kind = PlannedKind::Vlan { parent, vlan, egress_qos: BTreeMap::new() };
        let place =
            PlannedLink { address: Some(address), ..self.link(LinkRef::Ours(LinkName::management()), kind) };
        Ok(nics.chain([team, bridge, place]).collect())
    }

    fn link(&self, link: LinkRef, kind: PlannedKind) -> PlannedLink {
        bare(link, kind, self.mtu)
    }
}

fn bare(link: LinkRef, kind: PlannedKind, mtu: Mtu) -> PlannedLink {
    PlannedLink {
        link,
        kind,
        mtu,
        master: None,
        address: None,
        bridge_vlans: BTreeMap::new(),
        marks: Vec::new(),
        shares: None,
    }
}

/// The NIC of a storage network, unless it is in the team or planned already, and its VLAN link.
fn add_storage(
    links: &mut Vec<PlannedLink>,
    spec: &ClusterSpec,
    management: &Intent,
    network: &StorageNetwork,
    ordinal: NodeOrdinal,
) -> Result<(), PlanError> {
    let carries = |intent: &&Intent| {
        intent.carries(TrafficClass::Storage) && intent.adapters.contains(&network.adapter)
    };
    let intent = spec.intents.iter().find(carries).ok_or_else(|| PlanError::StorageAdapter {
        network: network.name.clone(),
        adapter: network.adapter.clone(),
    })?;
    let parent = if intent == management {
        LinkRef::Ours(LinkName::team())
    } else {
        let nic = LinkRef::Adapter(network.adapter.clone());
        if !links.iter().any(|link| link.link == nic) {
            links.push(bare(nic.clone(), PlannedKind::Nic, intent.mtu));
        }
        nic
    };
    let kind = PlannedKind::Vlan { parent, vlan: network.vlan, egress_qos: egress_qos(spec.qos) };
    let address = in_subnet(ClusterSpec::storage_address(network, ordinal), network.subnet)?;
    let link = LinkRef::Ours(LinkName::storage(network.vlan));
    let marks = mark_rules(spec.qos);
    links.push(PlannedLink { address: Some(address), marks, ..bare(link, kind, intent.mtu) });
    Ok(())
}

/// Every NIC that storage may leave by, also as a port of the team, divides its bandwidth.
fn share(links: &mut [PlannedLink], spec: &ClusterSpec, speeds: &AdapterSpeeds) {
    for link in links {
        let LinkRef::Adapter(adapter) = &link.link else { continue };
        let mut storage = spec.intents.iter().filter(|intent| intent.carries(TrafficClass::Storage));
        if !spec.storage_networks.is_empty() && storage.any(|intent| intent.adapters.contains(adapter)) {
            link.shares = Some(Shares::of(spec.qos, speeds.get(adapter).copied()));
        }
    }
}

/// The filters of the link say the priority ([`mark_rules`]), the tag has the same.
fn egress_qos(qos: Qos) -> BTreeMap<u32, Priority> {
    [qos.storage_priority, qos.heartbeat_priority]
        .into_iter()
        .filter(|priority| *priority != Priority::DEFAULT)
        .map(|priority| (u32::from(priority.get()), priority))
        .collect()
}

impl NetworkPlan {
    /// The plan with one node's NICs in place of adapters.
    pub fn resolve(
        &self,
        adapters: &AdapterMap,
        current: &CurrentLinks,
    ) -> Result<DesiredLinks, ResolveError> {
        let nic = |adapter: &AdapterName| {
            let mac = *adapters.get(adapter).ok_or_else(|| ResolveError::Unmapped(adapter.clone()))?;
            let missing = || ResolveError::NoNic { adapter: adapter.clone(), mac };
            current.nic_by_mac(mac).cloned().ok_or_else(missing)
        };
        let name = |link: &LinkRef| match link {
            LinkRef::Adapter(adapter) => nic(adapter),
            LinkRef::Ours(name) => Ok(name.clone()),
        };
        let mut links = BTreeMap::new();
        for planned in &self.links {
            let at = name(&planned.link)?;
            let kind = match &planned.kind {
                PlannedKind::Nic => current.get(&at).map_or(LinkKind::Nic, |link| link.kind.clone()),
                PlannedKind::Team { primary, miimon_ms, reselect } => LinkKind::Bond {
                    mode: BondMode::ActiveBackup,
                    miimon_ms: *miimon_ms,
                    primary: Some(nic(primary)?),
                    reselect: *reselect,
                },
                PlannedKind::Bridge => LinkKind::Bridge { vlan_filtering: true, default_pvid: None },
                PlannedKind::Vlan { parent, vlan, egress_qos } => {
                    LinkKind::Vlan { parent: name(parent)?, vlan: *vlan, egress_qos: egress_qos.clone() }
                }
            };
            let desired = DesiredLink {
                kind,
                mtu_bytes: u32::from(planned.mtu.get()),
                up: true,
                master: planned.master.clone(),
                addresses: planned.address.into_iter().collect(),
                bridge_vlans: planned.bridge_vlans.clone(),
                ipv6_link_local: Some(false),
                routes: None,
                traffic: wanted_traffic(planned, current.get(&at).map(|link| &link.traffic)),
            };
            if links.insert(at.clone(), desired).is_some()
                && let LinkRef::Adapter(adapter) = &planned.link
            {
                return Err(ResolveError::SameNic { adapter: adapter.clone(), nic: at });
            }
        }
        Ok(DesiredLinks { links })
    }
}

/// A NIC's own means come before a queue of the kernel's.
fn wanted_traffic(planned: &PlannedLink, now: Option<&Traffic>) -> WantedTraffic {
    if !planned.marks.is_empty() {
        let (queue, marks) = (Some(Queue::Default), Some(Marks::of(&planned.marks)));
        return WantedTraffic { queue, marks, ..WantedTraffic::default() };
    }
    let Some(shares) = &planned.shares else { return WantedTraffic::default() };
    let dcb = now.and_then(|traffic| traffic.dcb.as_ref());
    let own = dcb.and_then(|dcb| dcb.ets_of(shares.classes()));
    WantedTraffic {
        queue: own.is_none().then(|| Queue::Ets(shares.ets())),
        marks: None,
        dcb_ets: own.map(|own| shares.dcb_ets(own)),
        dcb_pfc: dcb.and_then(|dcb| dcb.pfc).map(|pfc| shares.dcb_pfc(pfc)),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
