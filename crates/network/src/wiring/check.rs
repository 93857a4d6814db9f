//! The checks themselves.

use super::{
    Connection, NicCabling, NodeCabling, Recognised, WiringFinding, connections, priorities, recognise,
};
use crate::lldp::{ChassisId, FRAME_OVERHEAD_BYTES, Lldpdu};
use model::{
    AdapterName, ClusterSpec, Mtu, NodeName, RdmaTechnology, TrafficClass, VlanId, Wiring, ZoneName,
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is wrong with the cables of a cluster; empty when they are as the template says.
pub fn check(spec: &ClusterSpec, cabling: &[NodeCabling]) -> Vec<WiringFinding> {
    let cables = connections(cabling);
    let mut findings = neighbours(cabling);
    // In option D every switch serves both zones: cables prove no zones there, but an adapter has one switch everywhere.
    let is_option_d = spec.wiring == Some(Wiring::D);
    let foreign = if is_option_d { Vec::new() } else { zones(cabling, &cables, &mut findings) };
    let at_home: Vec<&Connection> = cables.iter().filter(|cable| !foreign.contains(cable)).collect();
    let mut of_ports = Vec::new();
    ports(spec, cabling, &cables, &mut of_ports);
    adapters(&at_home, is_option_d, &of_ports, &mut findings);
    diversity(spec, cabling, &mut findings);
    findings.extend(of_ports);
    // Where a cable leads to the other zone, what all of them look like says nothing.
    if foreign.is_empty()
        && let (Some(declared), Recognised::As(recognised)) = (spec.wiring, recognise(spec, cabling))
        && declared != recognised
    {
        findings.push(WiringFinding::OtherWiring { declared, recognised });
    }
    findings
}

fn neighbours(cabling: &[NodeCabling]) -> Vec<WiringFinding> {
    let deaf = |nic: &&NicCabling| nic.seen().is_none();
    let of_node = |node: &NodeCabling| {
        let finding = |nic: &NicCabling| WiringFinding::NoNeighbour {
            node: node.node.clone(),
            adapter: nic.adapter.clone(),
            kernel_name: nic.kernel_name.clone(),
            last_heard_ms: nic.neighbour.as_ref().map(|neighbour| neighbour.received_age_ms),
        };
        node.nics.iter().filter(deaf).map(finding).collect::<Vec<_>>()
    };
    cabling.iter().flat_map(of_node).collect()
}

/// Whose a switch is: the zone's with most cables on it.
enum Owner<'a> {
    Zone(&'a ZoneName),
    Undecided,
}

fn owners(cables: &[Connection]) -> BTreeMap<&ChassisId, Owner<'_>> {
    let mut claims: BTreeMap<&ChassisId, BTreeMap<&ZoneName, usize>> = BTreeMap::new();
    for cable in cables {
        if let Some(zone) = &cable.zone {
            *claims.entry(&cable.switch).or_default().entry(zone).or_default() += 1;
        }
    }
    claims
        .into_iter()
        .map(|(switch, claims)| (switch, most(claims.into_iter()).map_or(Owner::Undecided, Owner::Zone)))
        .collect()
}

/// What has strictly the most.
fn most<T: Copy>(counted: impl Iterator<Item = (T, usize)>) -> Option<T> {
    let mut counted: Vec<_> = counted.collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    match counted.as_slice() {
        [(one, _)] => Some(*one),
        [(first, most), (_, next), ..] if most > next => Some(*first),
        _ => None,
    }
}

/// Switches that serve both zones. Returns the cables that it told of.
fn zones(
    cabling: &[NodeCabling],
    cables: &[Connection],
    findings: &mut Vec<WiringFinding>,
) -> Vec<Connection> {
    let owners = owners(cables);
    let owner_of = |cable: &Connection| match owners.get(&cable.switch) {
        Some(Owner::Zone(zone)) => Some(*zone),
        _ => None,
    };
    let foreign = |cable: &&Connection| {
        owner_of(cable).is_some_and(|owner| cable.zone.as_ref().is_some_and(|zone| zone != owner))
    };
    let mut told = Vec::new();
    for node in cabling {
        let Some(zone) = &node.zone else { continue };
        let own: Vec<&Connection> = cables.iter().filter(|cable| cable.node == node.node).collect();
        let wrong: Vec<&Connection> = own.iter().copied().filter(foreign).collect();
        let homes: BTreeSet<_> = own.iter().map(|cable| owner_of(cable)).collect();
        let Some((first, belongs_to)) = wrong.first().and_then(|c| owner_of(c).map(|z| (*c, z))) else {
            continue;
        };
        told.extend(wrong.iter().map(|cable| (*cable).clone()));
        if wrong.len() == own.len() && own.len() > 1 && homes.len() == 1 {
            findings.push(WiringFinding::NodeInOtherZone {
                node: node.node.clone(),
                zone: zone.clone(),
                belongs_to: belongs_to.clone(),
                cables: own.iter().map(|cable| (*cable).clone()).collect(),
                other_side: other_side(cables, first, belongs_to),
            });
        } else {
            findings.extend(wrong.iter().filter_map(|cable| {
                let belongs_to = owner_of(cable)?;
                Some(WiringFinding::OtherZonesSwitch {
                    cable: (*cable).clone(),
                    belongs_to: belongs_to.clone(),
                    other_side: other_side(cables, cable, belongs_to),
                })
            }));
        }
    }
    for (switch, _) in owners.iter().filter(|(_, owner)| matches!(owner, Owner::Undecided)) {
        let on_it = cables.iter().filter(|cable| cable.switch == **switch && cable.zone.is_some());
        let cables: Vec<Connection> = on_it.cloned().collect();
        told.extend_from_slice(&cables);
        findings.push(WiringFinding::SharedSwitch { switch: (*switch).clone(), cables });
    }
    told
}

/// A cable of the zone that a switch belongs to, the same adapter's if there is one.
fn other_side(cables: &[Connection], cable: &Connection, zone: &ZoneName) -> Connection {
    let there = || cables.iter().filter(|c| c.switch == cable.switch && c.zone.as_ref() == Some(zone));
    there().find(|c| c.adapter == cable.adapter).or_else(|| there().next()).unwrap_or(cable).clone()
}

/// Per adapter, all nodes of a zone see the same switch, or all nodes at all.
fn adapters(
    cables: &[&Connection],
    across_zones: bool,
    of_ports: &[WiringFinding],
    findings: &mut Vec<WiringFinding>,
) {
    let lacks_vlan = |cable: &&Connection| {
        let lacks = |finding: &WiringFinding| matches!(finding, WiringFinding::VlanMissing { cable: other, .. } if other == *cable);
        of_ports.iter().any(lacks)
    };
    let mut groups: BTreeMap<(Option<&ZoneName>, &AdapterName), Vec<&Connection>> = BTreeMap::new();
    for cable in cables {
        if let Some(zone) = &cable.zone {
            let zone = (!across_zones).then_some(zone);
            groups.entry((zone, &cable.adapter)).or_default().push(cable);
        }
    }
    for ((zone, adapter), group) in groups {
        let mut by_switch: BTreeMap<&ChassisId, Vec<&Connection>> = BTreeMap::new();
        for cable in &group {
            by_switch.entry(&cable.switch).or_default().push(cable);
        }
        if by_switch.len() < 2 {
            continue;
        }
        let home = most(by_switch.iter().map(|(switch, cables)| (*switch, cables.len())));
        if let Some(model) = home.and_then(|home| by_switch[home].first().copied()) {
            let odd = group.iter().filter(|cable| cable.switch != model.switch);
            findings.extend(
                odd.map(|cable| WiringFinding::OddSwitch { cable: (*cable).clone(), most: model.clone() }),
            );
        } else if !told_by_vlans(&group, lacks_vlan) {
            findings.push(WiringFinding::SplitZone {
                zone: zone.cloned(),
                adapter: adapter.clone(),
                cables: group.into_iter().cloned().collect(),
            });
        }
    }
}

/// Whether those that are where their VLANs are agree on a switch: the others are told of for what they lack.
fn told_by_vlans(group: &[&Connection], lacks_vlan: impl Fn(&&Connection) -> bool) -> bool {
    let right: Vec<&&Connection> = group.iter().filter(|cable| !lacks_vlan(cable)).collect();
    let agree = right.windows(2).all(|two| two[0].switch == two[1].switch);
    right.len() < group.len() && !right.is_empty() && agree
}

/// The switches of a node's storage NICs, with one NIC each.
pub(super) fn storage_switches(node: &NodeCabling) -> BTreeMap<&ChassisId, Vec<&NicCabling>> {
    let mut switches: BTreeMap<&ChassisId, Vec<&NicCabling>> = BTreeMap::new();
    for nic in node.nics.iter().filter(|nic| nic.traffic == BTreeSet::from([TrafficClass::Storage])) {
        if let Some(seen) = nic.seen() {
            switches.entry(&seen.chassis_id).or_default().push(nic);
        }
    }
    switches
}

/// Two storage NICs of a node on one switch. That is what option C is; so only where the template says otherwise, or,
/// if it says nothing, where another node has them on two.
fn diversity(spec: &ClusterSpec, cabling: &[NodeCabling], findings: &mut Vec<WiringFinding>) {
    let two_switches = |node: &NodeCabling| storage_switches(node).len() > 1;
    let wanted = match spec.wiring {
        Some(wiring) => wiring != Wiring::C,
        None => cabling.iter().any(two_switches),
    };
    if !wanted {
        return;
    }
    for node in cabling {
        let cables = connections(std::slice::from_ref(node));
        let cable = |nic: &NicCabling| cables.iter().find(|cable| cable.adapter == nic.adapter).cloned();
        for nics in storage_switches(node).into_values() {
            if let [first, second, ..] = nics.as_slice()
                && let (Some(first), Some(second)) = (cable(first), cable(second))
            {
                findings.push(WiringFinding::StorageOnOneSwitch { first, second });
            }
        }
    }
}

/// What a NIC needs of the port that it is cabled to.
struct Needs {
    vlans: BTreeMap<VlanId, String>,
    mtu: Mtu,
    /// Whether it carries storage.
    storage: bool,
    rdma: Option<RdmaTechnology>,
}

fn needs(spec: &ClusterSpec) -> BTreeMap<&AdapterName, Needs> {
    let mut needs = BTreeMap::new();
    for intent in &spec.intents {
        for adapter in &intent.adapters {
            let mut vlans = BTreeMap::new();
            // A converged team fails over: each of its ports needs all storage VLANs.
            let carried = spec.storage_networks.iter().filter(|network| {
                intent.carries(TrafficClass::Storage)
                    && (intent.is_converged_storage() || network.adapter == *adapter)
            });
            vlans.extend(carried.map(|network| (network.vlan, format!("storage network {}", network.name))));
            if intent.carries(TrafficClass::Compute) {
                vlans.extend(spec.compute_vlans.iter().map(|vlan| (*vlan, "compute".to_owned())));
            }
            if intent.carries(TrafficClass::Management) {
                vlans.extend(spec.management.vlan.map(|vlan| (vlan, "management".to_owned())));
            }
            let (mtu, rdma, storage) = (intent.mtu, intent.rdma, intent.carries(TrafficClass::Storage));
            needs.insert(adapter, Needs { vlans, mtu, storage, rdma });
        }
    }
    needs
}

/// What a port says that it carries; `None`: it doesn't say.
pub(super) fn carried(seen: &Lldpdu) -> Option<BTreeSet<VlanId>> {
    let named = seen.vlans.iter().map(|vlan| vlan.vlan);
    (!seen.vlans.is_empty()).then(|| named.chain(seen.port_vlan).collect())
}

/// VLANs, frame sizes and priorities that ports advertise, against what the intents need. Only nodes of a zone have intents.
fn ports(
    spec: &ClusterSpec,
    cabling: &[NodeCabling],
    cables: &[Connection],
    findings: &mut Vec<WiringFinding>,
) {
    let needs = needs(spec);
    let cable_of = |node: &NodeName, nic: &NicCabling| {
        cables.iter().find(|cable| cable.node == *node && cable.adapter == nic.adapter).cloned()
    };
    for node in cabling.iter().filter(|node| node.zone.is_some()) {
        for nic in &node.nics {
            if let (Some(needed), Some(seen), Some(cable)) =
                (needs.get(&nic.adapter), nic.seen(), cable_of(&node.node, nic))
            {
                port(needed, seen, &cable, findings);
                if needed.storage {
                    priorities::check(spec.qos, needed.rdma, seen, &cable, findings);
                }
            }
        }
    }
}

fn port(needed: &Needs, seen: &Lldpdu, cable: &Connection, findings: &mut Vec<WiringFinding>) {
    match carried(seen) {
        Some(carried) => {
            let missing = needed.vlans.iter().filter(|(vlan, _)| !carried.contains(vlan));
            findings.extend(missing.map(|(vlan, purpose)| WiringFinding::VlanMissing {
                cable: cable.clone(),
                vlan: *vlan,
                purpose: purpose.clone(),
                carried: carried.iter().copied().collect(),
            }));
        }
        None if !needed.vlans.is_empty() => {
            findings.push(WiringFinding::VlansUnknown { cable: cable.clone() });
        }
        None => {}
    }
    let needed_bytes = u32::from(needed.mtu.get()) + u32::from(FRAME_OVERHEAD_BYTES);
    // 0 is what a port sends that doesn't know.
    if let Some(max_frame_bytes) = seen.max_frame_bytes.filter(|bytes| *bytes != 0)
        && u32::from(max_frame_bytes) < needed_bytes
    {
        let cable = cable.clone();
        findings.push(WiringFinding::FrameTooBig { cable, mtu: needed.mtu, needed_bytes, max_frame_bytes });
    }
}
