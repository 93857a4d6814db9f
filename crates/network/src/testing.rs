//! Clusters for tests: a specification, its cables as option A wires them, and a world with faults that reports.

pub(crate) mod kernel;

use crate::diagnose::{NicReport, NodeReport, PathView};
use crate::link::{AdapterMap, CurrentLink, CurrentLinks, LinkKind, LinkName};
use crate::lldp::{ChassisId, Ets, Lldpdu, Pfc, PortId, Selection, VlanName};
use crate::traffic::Traffic;
use crate::wiring::{Neighbour, NicCabling, NodeCabling};
use model::{
    AdapterName, ClusterSpec, ConfigurationMode, DeploymentMode, Intent, MacAddress, ManagementNetwork, Mtu,
    Node, NodeName, NodeOrdinal, Qos, StorageNetwork, StorageNetworkIndex, TrafficClass, VlanId, Wiring,
    Witness, WitnessKind, Zone,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const ADAPTERS: [&str; 4] = ["Ethernet", "Ethernet 2", "Ethernet 3", "Ethernet 4"];

pub(crate) fn adapter(name: &str) -> AdapterName {
    name.parse().unwrap()
}

pub(crate) fn vlan(id: u64) -> VlanId {
    VlanId::try_from(id).unwrap()
}

/// Nodes n1, n2, … in zones a and b, alternating ordinals kept by zone: a has the first half.
pub(crate) fn spec(nodes_per_zone: u64) -> ClusterSpec {
    use TrafficClass::{Compute, Management, Storage};
    let intent = |name: &str, traffic: &[TrafficClass], adapters: &[&str], mtu| Intent {
        name: name.parse().unwrap(),
        traffic: traffic.iter().copied().collect(),
        adapters: adapters.iter().map(|name| adapter(name)).collect(),
        mtu,
        rdma: None,
    };
    let node = |ordinal: u64| Node {
        name: format!("n{ordinal}").parse().unwrap(),
        ordinal: NodeOrdinal::try_from(ordinal).unwrap(),
        management_ip: format!("192.168.7.{}", 10 + ordinal).parse().unwrap(),
    };
    let zone = |name: &str, ordinals: std::ops::RangeInclusive<u64>| Zone {
        name: name.parse().unwrap(),
        nodes: ordinals.map(node).collect(),
    };
    ClusterSpec {
        name: "plant".parse().unwrap(),
        mode: DeploymentMode::Deploy,
        configuration: ConfigurationMode::Express,
        zones: [zone("a", 1..=nodes_per_zone), zone("b", nodes_per_zone + 1..=2 * nodes_per_zone)],
        witness: Witness {
            name: "witness".parse().unwrap(),
            kind: WitnessKind::Node,
            management_ip: Some("192.168.7.99".parse().unwrap()),
        },
        management: ManagementNetwork {
            subnet: "192.168.7.0/24".parse().unwrap(),
            gateway: "192.168.7.1".parse().unwrap(),
            range_start: "192.168.7.100".parse().unwrap(),
            range_end: "192.168.7.120".parse().unwrap(),
            dns: Vec::new(),
            vlan: Some(vlan(7)),
        },
        compute_vlans: vec![vlan(8)],
        intents: vec![
            intent("management-compute", &[Management, Compute], &ADAPTERS[..2], Mtu::ETHERNET),
            intent("storage", &[Storage], &ADAPTERS[2..], Mtu::JUMBO),
        ],
        storage_networks: (1..=2).map(|index| storage_network(index, ADAPTERS[index as usize + 1])).collect(),
        qos: Qos::default(),
        wiring: Some(Wiring::A),
    }
}

fn storage_network(index: u64, on: &str) -> StorageNetwork {
    StorageNetwork {
        index: StorageNetworkIndex::try_from(index).unwrap(),
        name: format!("StorageNetwork{index}"),
        adapter: adapter(on),
        vlan: vlan(710 + index),
        subnet: format!("10.71.{index}.0/24").parse().unwrap(),
    }
}

/// One converged intent, untagged management, jumbo frames: what Microsoft's quick-start file asks for.
pub(crate) fn converged(nodes_per_zone: u64) -> ClusterSpec {
    let mut spec = spec(nodes_per_zone);
    let mut intent = spec.intents.remove(0);
    intent.traffic.insert(TrafficClass::Storage);
    intent.mtu = Mtu::JUMBO;
    spec.intents = vec![intent];
    spec.storage_networks =
        (1..=2).map(|index| storage_network(index, ADAPTERS[index as usize - 1])).collect();
    spec.management.vlan = None;
    spec
}

/// Option A: the first and third NIC on the zone's first TOR, the second and fourth on its second.
/// TORs are 1 and 2 in zone a, 3 and 4 in zone b.
pub(crate) fn tor_of(zone: &str, nic: usize) -> u8 {
    let first = if zone == "a" { 1 } else { 3 };
    first + (nic % 2) as u8
}

pub(crate) fn chassis(tor: u8) -> ChassisId {
    ChassisId::Mac(MacAddress([2, 0, 0, 0, 0xff, tor]))
}

pub(crate) fn neighbour(tor: u8, port: usize, vlans: &[u64]) -> Neighbour {
    let mut lldpdu = Lldpdu::new(chassis(tor), PortId::InterfaceName(format!("Ethernet1/{port}")), 20);
    lldpdu.system_name = Some(format!("tor{tor}"));
    lldpdu.port_vlan = Some(vlan(99));
    lldpdu.vlans = vlans.iter().map(|id| VlanName { vlan: vlan(*id), name: format!("v{id}") }).collect();
    lldpdu.max_frame_bytes = Some(9216);
    if vlans.iter().any(|id| [711, 712].contains(id)) {
        lldpdu.ets = Some(Ets {
            willing: false,
            credit_based_shaper: false,
            max_classes: 8,
            class_of: [0, 0, 0, 1, 0, 0, 0, 2],
            bandwidth_percent: [49, 50, 1, 0, 0, 0, 0, 0],
            selection: [Selection::Ets; 8],
        });
        lldpdu.pfc = Some(Pfc { willing: false, macsec_bypass: false, capability: 8, enabled: 1 << 3 });
    }
    Neighbour { lldpdu, received_age_ms: 1000 }
}

/// Every cable as the template says.
pub(crate) fn cabling(spec: &ClusterSpec) -> Vec<NodeCabling> {
    let vlans: [&[u64]; 4] = [&[7, 8], &[7, 8], &[711], &[712]];
    let nic = |zone: &str, node: &Node, at: usize| {
        let name = adapter(ADAPTERS[at]);
        let port = usize::from(node.ordinal.get()) * 10 + at;
        let intent = spec.intents.iter().find(|intent| intent.adapters.contains(&name));
        NicCabling {
            kernel_name: format!("eth{at}"),
            mac: MacAddress([2, 0, 0, 0, node.ordinal.get(), at as u8]),
            traffic: intent.map(|intent| intent.traffic.clone()).unwrap_or_default(),
            neighbour: Some(neighbour(tor_of(zone, at), port, vlans[at])),
            adapter: name,
        }
    };
    spec.nodes()
        .map(|(zone, node)| NodeCabling {
            zone: Some(zone.name.clone()),
            node: node.name.clone(),
            nics: (0..4).map(|at| nic(zone.name.as_str(), node, at)).collect(),
        })
        .collect()
}

/// A node's NICs by adapter: eth0 to eth3.
pub(crate) fn adapters() -> AdapterMap {
    ADAPTERS.iter().zip(0..).map(|(name, at)| (adapter(name), nic_mac(at))).collect()
}

pub(crate) fn nic_mac(at: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 1, at])
}

/// Four NICs as a kernel that has just started has them, and nothing else.
pub(crate) fn bare_nics() -> CurrentLinks {
    let nic = |at: u8| CurrentLink {
        index: u32::from(at) + 2,
        kind: LinkKind::Nic,
        mac: Some(nic_mac(at)),
        permanent_mac: Some(nic_mac(at)),
        up: false,
        carrier: None,
        mtu_bytes: 1500,
        master: None,
        addresses: BTreeSet::new(),
        bridge_vlans: BTreeMap::new(),
        ipv6_link_local: Some(true),
        routes: BTreeSet::new(),
        traffic: Traffic::default(),
    };
    CurrentLinks { links: (0..4).map(|at| (link_name(&format!("eth{at}")), nic(at))).collect() }
}

pub(crate) fn link_name(name: &str) -> LinkName {
    name.parse().unwrap()
}

/// Which way something is broken, as seen from a NIC, or from zone a.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Both,
    Send,
    Receive,
}

impl Cut {
    pub(crate) const ALL: [Self; 3] = [Self::Both, Self::Send, Self::Receive];

    fn stops_sending(self) -> bool {
        self != Self::Receive
    }

    fn stops_receiving(self) -> bool {
        self != Self::Send
    }
}

/// Something broken in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A node, by ordinal, is off.
    Node(u8),
    /// A TOR is off: its ports lose carrier.
    Tor(u8),
    /// A TOR passes no frames and keeps its ports up.
    FrozenTor(u8),
    /// The link between the rooms of a storage network; `Send` is what zone a sends.
    RoomLink(u8, Cut),
    /// The cable of a node's NIC on a storage network, with carrier.
    Cable(u8, u8, Cut),
    /// The same, pulled.
    Pulled(u8, u8),
    /// A node's reports don't come.
    Mute(u8),
}

/// How long ago faults came about, and what is seen of them by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Paths are dead, LLDP neighbours are still believed.
    Soon,
    /// Neighbours have timed out, too.
    Later,
}

/// A cluster wired as option A, with faults.
pub(crate) struct World {
    pub(crate) spec: ClusterSpec,
    pub(crate) faults: Vec<Fault>,
    pub(crate) when: When,
}

impl World {
    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn cut(&self, which: impl Fn(Fault) -> Option<Cut>, stops: impl Fn(Cut) -> bool) -> bool {
        self.faults.iter().filter_map(|fault| which(*fault)).any(stops)
    }

    fn cable(&self, node: u8, network: u8, stops: impl Fn(Cut) -> bool) -> bool {
        let which = |fault| match fault {
            Fault::Cable(n, i, cut) if (n, i) == (node, network) => Some(cut),
            Fault::Pulled(n, i) if (n, i) == (node, network) => Some(Cut::Both),
            _ => None,
        };
        self.cut(which, stops)
    }

    fn passes(&self, zone: &str, network: u8) -> bool {
        let tor = tor_of(zone, usize::from(network) + 1);
        !self.has(Fault::Tor(tor)) && !self.has(Fault::FrozenTor(tor))
    }

    fn path(&self, from: (&Zone, &Node), to: (&Zone, &Node), network: u8) -> bool {
        let (a, b) = (from.1.ordinal.get(), to.1.ordinal.get());
        let crosses = from.0.name != to.0.name;
        let sends_from_a = from.0.name.as_str() == "a";
        let link = |fault| match fault {
            Fault::RoomLink(index, cut) if index == network => Some(cut),
            _ => None,
        };
        let link_cut =
            crosses && self.cut(link, if sends_from_a { Cut::stops_sending } else { Cut::stops_receiving });
        !self.has(Fault::Node(a))
            && !self.has(Fault::Node(b))
            && !self.cable(a, network, Cut::stops_sending)
            && !self.cable(b, network, Cut::stops_receiving)
            && self.passes(from.0.name.as_str(), network)
            && self.passes(to.0.name.as_str(), network)
            && !link_cut
    }

    fn nic(&self, zone: &str, node: u8, at: usize, mut cabling: NicCabling) -> NicReport {
        let tor = tor_of(zone, at);
        // The third NIC is on the first storage network; the first two are on none.
        let network = at.checked_sub(1).filter(|index| *index > 0).map_or(0, |index| index as u8);
        let carrier = !self.has(Fault::Tor(tor)) && !self.has(Fault::Pulled(node, network));
        let deaf =
            self.has(Fault::FrozenTor(tor)) || self.cable(node, network, Cut::stops_receiving) || !carrier;
        if deaf
            && self.when == When::Later
            && let Some(neighbour) = &mut cabling.neighbour
        {
            neighbour.received_age_ms = 21_000;
        }
        NicReport { carrier: Some(carrier), carrier_losses: u32::from(!carrier), cabling }
    }

    /// What the nodes report that are able to.
    pub(crate) fn reports(&self) -> Vec<NodeReport> {
        let cabling = cabling(&self.spec);
        let members: Vec<(&Zone, &Node)> = self.spec.nodes().collect();
        let able = members.iter().zip(cabling).filter(|((_, node), _)| {
            let ordinal = node.ordinal.get();
            !self.has(Fault::Node(ordinal)) && !self.has(Fault::Mute(ordinal))
        });
        able.map(|((zone, node), cabling)| {
            let others = members.iter().filter(|(_, other)| other.name != node.name);
            let paths = others.flat_map(|other| {
                (1..=2u8).map(|network| PathView {
                    peer: other.1.name.clone(),
                    network: StorageNetworkIndex::try_from(u64::from(network)).unwrap(),
                    heard_ms_ago: Some(if self.path(*other, (zone, node), network) { 150 } else { 1900 }),
                    late_ms_ago: None,
                })
            });
            let nics = cabling.nics.into_iter().enumerate();
            NodeReport {
                node: node.name.clone(),
                age_ms: 100,
                listening_ms: 60_000,
                paths: paths.collect(),
                nics: nics
                    .map(|(at, nic)| self.nic(zone.name.as_str(), node.ordinal.get(), at, nic))
                    .collect(),
            }
        })
        .collect()
    }
}

pub(crate) fn node_name(ordinal: u8) -> NodeName {
    format!("n{ordinal}").parse().unwrap()
}
