//! Switches and cables for a cluster: wiring option A of spec.md. Pure.
//!
//! ```text
//!                 spine ───────────── witness
//!            ┌──────┼──────┬──────┐
//!          TOR1   TOR2   TOR3   TOR4        management and compute: over the spine
//!  room 1    └──────┼──────┘      │  room 2
//!                   └─────────────┘         storage network 1: TOR1–TOR3 only; 2: TOR2–TOR4 only
//! ```
//!
//! Invariants: every VLAN's links make a tree, so that no frame can go round. A port carries what its NIC's intents
//! need and nothing else; untagged frames on storage ports end in a black hole. Storage VLANs are on no spine link.
//! Each switch has a spare port for every kind of NIC, for cables that a fault moves there.

use super::plan::{Draw, NodePlan, PlanError};
use fabric::{End, Link, LinkId, NicId, Port, PortName, PortRef, Role, Switch, SwitchId, Topology};
use model::{AdapterName, ClusterSpec, Mtu, TrafficClass, VlanId, Wiring};
use std::collections::{BTreeMap, BTreeSet};

/// TORs in a room with option A.
const TORS_PER_ROOM: usize = 2;
/// Real switches announce themselves every 30 s; nobody waits that long for a lab.
const LLDP_INTERVAL_MS: u32 = 1000;
/// The VLAN of an untagged management network inside the switches, unless the cluster uses it: spec.md's management VLAN.
const UNTAGGED_MANAGEMENT: u64 = 7;
/// Where untagged frames on storage ports end, unless the cluster uses it: spec.md's native VLAN.
const BLACK_HOLE: u64 = 99;
/// The largest packet that the lab's switches take, bytes: what data centre switches do.
const SWITCH_MTU: u64 = 9216;

/// The switches and what is cabled to what.
#[derive(Debug)]
pub(crate) struct Cables {
    topology: Topology,
    /// The link between the rooms of each storage network, by its index from 1; end a is in room 1.
    room_links: BTreeMap<u8, LinkId>,
    /// The port that a NIC of this adapter would have in this room.
    spares: BTreeMap<(usize, AdapterName), PortRef>,
}

impl Cables {
    /// The fabric's own description.
    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The link between the rooms that a storage network crosses.
    pub(crate) fn room_link(&self, storage_network: u8) -> Option<&LinkId> {
        self.room_links.get(&storage_network)
    }

    /// The switch that carries a storage network in a room.
    pub(crate) fn storage_switch(&self, room: usize, storage_network: u8) -> Option<&SwitchId> {
        let link = self.room_link(storage_network)?;
        let link = self.topology.links.iter().find(|other| other.id == *link)?;
        match if room == 0 { &link.a } else { &link.b } {
            End::Port(port) => Some(&port.switch),
            End::Nic(_) => None,
        }
    }

    /// The free port for a NIC of this adapter in a room.
    pub(crate) fn spare(&self, room: usize, adapter: &AdapterName) -> Option<&PortRef> {
        self.spares.get(&(room, adapter.clone()))
    }
}

/// Cables the nodes.
pub(super) fn build(spec: &ClusterSpec, nodes: &[NodePlan], draw: &mut Draw) -> Result<Cables, PlanError> {
    if let Some(wiring @ (Wiring::B | Wiring::C | Wiring::D)) = spec.wiring {
        return Err(PlanError::Wiring(wiring));
    }
    let mut builder = Builder::new(spec, nodes, draw);
    let routed = builder.routed();
    for room in 0..spec.zones.len() {
        for tor in 0..TORS_PER_ROOM {
            builder.join(tor_id(room, tor), spine_id(), &routed, &format!("spine-{}{}", room + 1, tor + 1));
        }
    }
    let mut room_links = BTreeMap::new();
    for tor in 0..TORS_PER_ROOM {
        let vlans = builder.storage_vlans_of(tor);
        let name = format!("room-link-{}", tor + 1);
        let link = builder.join(tor_id(0, tor), tor_id(1, tor), &vlans, &name);
        for network in spec.storage_networks.iter().filter(|network| builder.tor_of(&network.adapter) == tor)
        {
            room_links.insert(network.index.get(), link.clone());
        }
    }
    for node in nodes {
        for nic in &node.nics {
            let switch = node.zone.map_or_else(spine_id, |room| tor_id(room, builder.tor_of(&nic.adapter)));
            builder.cable(nic.id.clone(), &nic.adapter, switch);
        }
    }
    let spares = builder.spares();
    let topology = builder.finish(draw);
    topology.validate()?;
    Ok(Cables { topology, room_links, spares })
}

/// The name of a NIC's cable; its end a is the NIC.
pub(super) fn cable_id(nic: &NicId) -> LinkId {
    nic.as_str().parse().expect("a NIC's id is a valid link's id")
}

fn tor_id(room: usize, tor: usize) -> SwitchId {
    format!("tor-{}{}", room + 1, tor + 1).parse().expect("a valid id")
}

fn spine_id() -> SwitchId {
    "spine".parse().expect("a valid id")
}

/// A VLAN of the switches' own: the preferred one, or the next that the cluster does not use.
fn own_vlan(spec: &ClusterSpec, preferred: u64) -> VlanId {
    let used = |vlan: &VlanId| {
        spec.management.vlan == Some(*vlan)
            || spec.compute_vlans.contains(vlan)
            || spec.storage_networks.iter().any(|network| network.vlan == *vlan)
    };
    let mut free = (preferred..).map_while(|id| VlanId::try_from(id).ok()).filter(|vlan| !used(vlan));
    // A cluster that leaves none gets the preferred one, and the topology's check says what is wrong with that.
    free.next().unwrap_or_else(|| VlanId::try_from(preferred).expect("a constant in range"))
}

/// What a port carries.
#[derive(Debug, Clone, Default)]
struct Carried {
    native: Option<VlanId>,
    tagged: BTreeSet<VlanId>,
}

struct Builder<'a> {
    spec: &'a ClusterSpec,
    nics: Vec<NicId>,
    links: Vec<Link>,
    /// What each port carries, by switch, in the order in which ports were made; they get their names at the end.
    ports: BTreeMap<SwitchId, Vec<Carried>>,
    /// Port names by switch, shuffled: more than enough.
    names: BTreeMap<SwitchId, Vec<PortName>>,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a ClusterSpec, nodes: &[NodePlan], draw: &mut Draw) -> Self {
        let tors =
            (0..spec.zones.len()).flat_map(|room| (0..TORS_PER_ROOM).map(move |tor| tor_id(room, tor)));
        let switches: Vec<SwitchId> = tors.chain([spine_id()]).collect();
        // Every NIC, every adapter's spare and every link between switches once is more than any switch needs.
        let most =
            nodes.iter().map(|node| node.nics.len()).sum::<usize>() + spec.adapters().len() + switches.len();
        let names = switches.iter().map(|switch| {
            let names = draw.numbers(most.max(48)).into_iter();
            let names = names.map(|number| format!("Ethernet1/{number}").parse().expect("a valid port name"));
            (switch.clone(), names.collect())
        });
        let names = names.collect();
        let ports = switches.iter().map(|switch| (switch.clone(), Vec::new())).collect();
        Self { spec, nics: Vec::new(), links: Vec::new(), ports, names }
    }

    /// Which of a room's TORs the NIC of this adapter is cabled to.
    fn tor_of(&self, adapter: &AdapterName) -> usize {
        let network = self.spec.storage_networks.iter().position(|network| network.adapter == *adapter);
        let in_intent =
            || self.spec.intents.iter().find_map(|i| i.adapters.iter().position(|a| a == adapter));
        network.or_else(in_intent).unwrap_or(0) % TORS_PER_ROOM
    }

    /// Whether storage shares its NICs with management.
    fn is_converged(&self) -> bool {
        self.spec.intents.iter().any(model::Intent::is_converged_storage)
    }

    /// The storage VLANs that the TORs of this position carry. A converged team may use either side, so that both carry all.
    fn storage_vlans_of(&self, tor: usize) -> Carried {
        let networks = self.spec.storage_networks.iter();
        let tagged = networks
            .filter(|network| self.is_converged() || self.tor_of(&network.adapter) == tor)
            .map(|network| network.vlan)
            .collect();
        Carried { native: None, tagged }
    }

    /// What crosses the spine: management and compute.
    fn routed(&self) -> Carried {
        let management = self.spec.management.vlan.unwrap_or(own_vlan(self.spec, UNTAGGED_MANAGEMENT));
        let tagged = self.spec.compute_vlans.iter().copied().chain([management]).collect();
        Carried { native: None, tagged }
    }

    /// What the port of a NIC of this adapter carries.
    fn carried_for(&self, adapter: &AdapterName) -> Carried {
        let mut carried = Carried { native: Some(own_vlan(self.spec, BLACK_HOLE)), tagged: BTreeSet::new() };
        for intent in self.spec.intents.iter().filter(|intent| intent.adapters.contains(adapter)) {
            if intent.carries(TrafficClass::Management) {
                match self.spec.management.vlan {
                    Some(tagged) => drop(carried.tagged.insert(tagged)),
                    None => carried.native = Some(own_vlan(self.spec, UNTAGGED_MANAGEMENT)),
                }
            }
            if intent.carries(TrafficClass::Compute) {
                carried.tagged.extend(&self.spec.compute_vlans);
            }
            if intent.carries(TrafficClass::Storage) {
                carried.tagged.extend(self.storage_vlans_of(self.tor_of(adapter)).tagged);
            }
        }
        carried
    }

    /// A new port on a switch.
    fn port(&mut self, switch: SwitchId, carried: Carried) -> PortRef {
        let ports = self.ports.entry(switch.clone()).or_default();
        ports.push(carried);
        let port = self.names[&switch][ports.len() - 1].clone();
        PortRef { switch, port }
    }

    fn join(&mut self, a: SwitchId, b: SwitchId, carried: &Carried, name: &str) -> LinkId {
        let id: LinkId = name.parse().expect("a valid id");
        let a = End::Port(self.port(a, carried.clone()));
        let b = End::Port(self.port(b, carried.clone()));
        self.links.push(Link { id: id.clone(), a, b });
        id
    }

    fn cable(&mut self, nic: NicId, adapter: &AdapterName, switch: SwitchId) {
        let carried = self.carried_for(adapter);
        let port = self.port(switch, carried);
        self.links.push(Link { id: cable_id(&nic), a: End::Nic(nic.clone()), b: End::Port(port) });
        self.nics.push(nic);
    }

    fn spares(&mut self) -> BTreeMap<(usize, AdapterName), PortRef> {
        let adapters: Vec<AdapterName> = self.spec.adapters().into_iter().cloned().collect();
        let mut spares = BTreeMap::new();
        for room in 0..self.spec.zones.len() {
            for adapter in &adapters {
                let carried = self.carried_for(adapter);
                let port = self.port(tor_id(room, self.tor_of(adapter)), carried);
                spares.insert((room, adapter.clone()), port);
            }
        }
        spares
    }

    fn finish(self, draw: &mut Draw) -> Topology {
        let Self { spec, nics, links, ports, names } = self;
        let room_of = |id: &SwitchId| {
            (0..spec.zones.len()).find(|room| (0..TORS_PER_ROOM).any(|tor| tor_id(*room, tor) == *id))
        };
        let switches = ports.into_iter().map(|(id, carried)| {
            let named = names[&id].iter().zip(carried);
            let ports = named
                .map(|(name, carried)| Port {
                    id: name.clone(),
                    native_vlan: carried.native,
                    tagged_vlans: carried.tagged,
                    mtu: None,
                })
                .collect();
            Switch {
                room: room_of(&id).map(|room| format!("room-{}", room + 1)),
                role: if id == spine_id() { Role::Spine } else { Role::Tor },
                id,
                system_name: draw.word("sw-"),
                chassis_mac: draw.mac(),
                mtu: Mtu::try_from(SWITCH_MTU).expect("a constant in range"),
                suspended_vlans: BTreeSet::from([own_vlan(spec, BLACK_HOLE)]),
                ports,
            }
        });
        Topology { switches: switches.collect(), nics, links, lldp_interval_ms: LLDP_INTERVAL_MS }
    }
}
