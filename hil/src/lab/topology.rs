//! Switches and cables for a cluster: the wiring options of spec.md. Pure.
//!
//! ```text
//!  A              spine ─────────── witness      B: the same switches, TOR1+TOR2 and TOR3+TOR4 pairs (MLAG) with a peer
//!          ┌──────┬─┴────┬──────┐                   channel, one port channel of four cables between the pairs, both
//!        TOR1   TOR2   TOR3   TOR4                   storage VLANs on all
//!  room 1  └──────┼──────┘      │  room 2        C: TOR1 and TOR3 alone, two cables between them as a port channel
//!                 └─────────────┘                D: TOR1 and TOR3 alone, nothing between them; every node has its first
//!    storage network 1: TOR1–TOR3                   NIC of each intent on TOR1, its second on TOR3
//!    storage network 2: TOR2–TOR4
//! ```
//!
//! Invariants: every VLAN's links make a tree, a port channel counting as one link and a pair as one switch, so that no frame
//! can go round. A port carries what its NIC's intents need (with B and C all storage VLANs) and nothing else; untagged frames on
//! storage ports end in a black hole. Management and compute go over the spine, storage VLANs are on no spine link.
//! Each switch has a spare port for every kind of NIC, for cables that a fault moves there.

use super::plan::{Draw, NodePlan, PlanError};
use fabric::{
    Channel, ChannelId, Dcb, End, Home, Link, LinkId, NicId, Pair, Port, PortName, PortRef, Role, Switch,
    SwitchId, Topology,
};
use model::{AdapterName, ClusterSpec, Mtu, Qos, StorageNetwork, TrafficClass, VlanId, Wiring};
use network::lldp::{Ets, Pfc, Selection};
use std::collections::{BTreeMap, BTreeSet};

/// Cables of the port channel between two TORs, and of a peer channel: enough to lose one.
const BUNDLE: usize = 2;
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
    /// What each storage network, by its index from 1, crosses between the rooms; end a of all cables is in room 1.
    room_links: BTreeMap<u8, RoomLink>,
    /// The switch of a storage network in a room.
    storage_switches: BTreeMap<(usize, u8), SwitchId>,
    /// The port that a NIC of this adapter would have in this room.
    spares: BTreeMap<(usize, AdapterName), PortRef>,
}

/// What joins the rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoomLink {
    /// Its cables.
    pub(crate) cables: Vec<LinkId>,
    /// Whether they are a port channel, which uses no cable that passes only one way.
    pub(crate) is_channel: bool,
}

impl Cables {
    /// The fabric's own description.
    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What a storage network crosses between the rooms; `None` with option D.
    pub(crate) fn room_link(&self, storage_network: u8) -> Option<&RoomLink> {
        self.room_links.get(&storage_network)
    }

    /// The storage networks that cross this.
    pub(crate) fn networks_over<'a>(&'a self, link: &'a RoomLink) -> impl Iterator<Item = u8> + 'a {
        self.room_links.iter().filter(move |(_, other)| *other == link).map(|(network, _)| *network)
    }

    /// The switch that carries a storage network's NICs in a room; with option D it has one only in one room.
    pub(crate) fn storage_switch(&self, room: usize, storage_network: u8) -> Option<&SwitchId> {
        self.storage_switches.get(&(room, storage_network))
    }

    /// Storage networks that lose the way between the rooms when a switch lives, but forwards nothing: where it is the first of a
    /// pair, the second takes the peer channel for dead, leaves all its port channels, and its NICs reach only each other.
    pub(crate) fn networks_cut_off_by_peer<'a>(
        &'a self,
        room: usize,
        first: &'a SwitchId,
    ) -> impl Iterator<Item = u8> + 'a {
        let second = self.topology.pairs.iter().find(|pair| pair.switches[0] == *first);
        let second = second.map(|pair| &pair.switches[1]);
        let on_it =
            move |((at, _), switch): &(&(usize, u8), &SwitchId)| *at == room && Some(*switch) == second;
        self.storage_switches.iter().filter(on_it).map(|((_, network), _)| *network)
    }

    /// The room where a NIC's cable ends when nothing is broken, which with option D is not always its node's.
    pub(crate) fn room_of_cable(&self, nic: &NicId) -> Option<usize> {
        let link = self.topology.link(&cable_id(nic))?;
        let End::Port(port) = &link.b else { return None };
        let room = self.topology.switch(&port.switch)?.room.as_deref()?;
        (0..2).find(|index| room_name(*index) == room)
    }

    /// The free port for a NIC of this adapter in a room.
    pub(crate) fn spare(&self, room: usize, adapter: &AdapterName) -> Option<&PortRef> {
        self.spares.get(&(room, adapter.clone()))
    }
}

/// Cables the nodes, as the template says or else as option A.
pub(super) fn build(spec: &ClusterSpec, nodes: &[NodePlan], draw: &mut Draw) -> Result<Cables, PlanError> {
    check_wiring(spec)?;
    let wiring = spec.wiring.unwrap_or(Wiring::A);
    let mut builder = Builder::new(spec, wiring, nodes, draw);
    let routed = builder.routed();
    for (room, tor) in builder.tors() {
        builder.join(tor_id(room, tor), spine_id(), &routed, &format!("spine-{}{}", room + 1, tor + 1));
    }
    let room_links = builder.join_rooms();
    for node in nodes {
        for nic in &node.nics {
            let switch = node.zone.map_or_else(spine_id, |room| builder.tor_of(room, &nic.adapter));
            builder.cable(nic.id.clone(), &nic.adapter, switch);
        }
    }
    let storage_switches = builder.storage_switches();
    let spares = builder.spares();
    let topology = builder.finish(draw);
    topology.validate()?;
    Ok(Cables { topology, room_links, storage_switches, spares })
}

/// Sees that the cluster can be cabled as its template says, as far as the template alone can tell.
pub(crate) fn check_wiring(spec: &ClusterSpec) -> Result<(), PlanError> {
    if spec.wiring == Some(Wiring::D) && is_converged(spec) {
        return Err(PlanError::ConvergedWithoutRoomLink);
    }
    Ok(())
}

fn room_name(room: usize) -> String {
    format!("room-{}", room + 1)
}

/// Whether storage shares its NICs with management.
fn is_converged(spec: &ClusterSpec) -> bool {
    spec.intents.iter().any(model::Intent::is_converged_storage)
}

/// The name of a NIC's cable; its end a is the NIC.
pub(super) fn cable_id(nic: &NicId) -> LinkId {
    nic.as_str().parse().expect("a NIC's id is a valid link's id")
}

/// All TORs: room and number in the room.
fn tors(spec: &ClusterSpec, wiring: Wiring) -> impl Iterator<Item = (usize, usize)> + use<> {
    let per_room = match wiring {
        Wiring::A | Wiring::B => 2,
        Wiring::C | Wiring::D => 1,
    };
    (0..spec.zones.len()).flat_map(move |room| (0..per_room).map(move |tor| (room, tor)))
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

/// What a TOR that is set up for the cluster says of priorities: storage has a class of its own, which is paused rather than lost,
/// heartbeats have another, and the rest shares the first.
fn dcb(qos: Qos, nic_speed_mbps: u32) -> Dcb {
    // spec.md: 2 % up to 10 Gb/s, 1 % above.
    let heartbeat_percent = if nic_speed_mbps <= 10_000 { 2 } else { 1 };
    let storage_percent = qos.storage_bandwidth_percent.min(100 - heartbeat_percent);
    let mut class_of = [0; 8];
    class_of[usize::from(qos.storage_priority.get())] = 1;
    class_of[usize::from(qos.heartbeat_priority.get())] = 2;
    let mut bandwidth_percent = [0; 8];
    bandwidth_percent[..3].copy_from_slice(&[
        100 - storage_percent - heartbeat_percent,
        storage_percent,
        heartbeat_percent,
    ]);
    let selection = [Selection::Ets; 8];
    let ets = Ets {
        willing: false,
        credit_based_shaper: false,
        max_classes: 8,
        class_of,
        bandwidth_percent,
        selection,
    };
    let enabled = 1 << qos.storage_priority.get();
    Dcb { ets, pfc: Pfc { willing: false, macsec_bypass: false, capability: 8, enabled } }
}

/// What a port carries.
#[derive(Debug, Clone, Default)]
struct Carried {
    native: Option<VlanId>,
    tagged: BTreeSet<VlanId>,
}

struct Builder<'a> {
    spec: &'a ClusterSpec,
    wiring: Wiring,
    nic_speed_mbps: u32,
    nics: Vec<NicId>,
    links: Vec<Link>,
    channels: Vec<Channel>,
    pairs: Vec<Pair>,
    /// What each port carries, by switch, in the order in which ports were made; they get their names at the end.
    ports: BTreeMap<SwitchId, Vec<Carried>>,
    /// Port names by switch, shuffled: more than enough.
    names: BTreeMap<SwitchId, Vec<PortName>>,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a ClusterSpec, wiring: Wiring, nodes: &[NodePlan], draw: &mut Draw) -> Self {
        let tors = tors(spec, wiring).map(|(room, tor)| tor_id(room, tor));
        let switches: Vec<SwitchId> = tors.chain([spine_id()]).collect();
        // Every NIC, every adapter's spare, and as many links between switches as there are switches: more than any needs.
        let most =
            nodes.iter().map(|node| node.nics.len()).sum::<usize>() + spec.adapters().len() + switches.len();
        let names = switches.iter().map(|switch| {
            let names = draw.numbers(most.max(48)).into_iter();
            let names = names.map(|number| format!("Ethernet1/{number}").parse().expect("a valid port name"));
            (switch.clone(), names.collect())
        });
        let names = names.collect();
        let ports = switches.iter().map(|switch| (switch.clone(), Vec::new())).collect();
        let (nics, links, channels, pairs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let nic_speed_mbps = nodes.iter().map(|node| node.nic_speed_mbps).max().unwrap_or_default();
        Self { spec, wiring, nic_speed_mbps, nics, links, channels, pairs, ports, names }
    }

    /// All TORs: room and number in the room.
    fn tors(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        tors(self.spec, self.wiring)
    }

    /// Whether the NIC of this adapter is the first of its kind or the second: which of two switches it goes to.
    fn side_of(&self, adapter: &AdapterName) -> usize {
        let network = self.spec.storage_networks.iter().position(|network| network.adapter == *adapter);
        let in_intent =
            || self.spec.intents.iter().find_map(|i| i.adapters.iter().position(|a| a == adapter));
        network.or_else(in_intent).unwrap_or(0) % 2
    }

    /// The TOR of a NIC of this adapter in a node of this room.
    fn tor_of(&self, room: usize, adapter: &AdapterName) -> SwitchId {
        let side = self.side_of(adapter);
        match self.wiring {
            Wiring::A | Wiring::B => tor_id(room, side),
            Wiring::C => tor_id(room, 0),
            Wiring::D => tor_id(side, 0),
        }
    }

    /// The storage VLANs of the switches of a side. A converged team may use either side, so that both carry all.
    fn storage_vlans_of(&self, side: usize) -> Carried {
        let all = matches!(self.wiring, Wiring::B | Wiring::C) || is_converged(self.spec);
        let networks = self.spec.storage_networks.iter();
        let tagged = networks
            .filter(|network| all || self.side_of(&network.adapter) == side)
            .map(|network| network.vlan)
            .collect();
        Carried { native: None, tagged }
    }

    /// Joins the rooms for storage, as the wiring has it.
    fn join_rooms(&mut self) -> BTreeMap<u8, RoomLink> {
        let networks = self.spec.storage_networks.iter();
        let sides = networks.map(|network| (network.index.get(), self.side_of(&network.adapter)));
        let sides: Vec<(u8, usize)> = sides.collect();
        let of_side: Vec<RoomLink> = match self.wiring {
            Wiring::A => (0..2)
                .map(|side| {
                    let vlans = self.storage_vlans_of(side);
                    let name = format!("room-link-{}", side + 1);
                    let cable = self.join(tor_id(0, side), tor_id(1, side), &vlans, &name);
                    RoomLink { cables: vec![cable], is_channel: false }
                })
                .collect(),
            Wiring::B => {
                for room in 0..self.spec.zones.len() {
                    self.pair(room);
                }
                let mesh = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (tor_id(0, a), tor_id(1, b)));
                vec![self.room_channel(&mesh); 2]
            }
            Wiring::C => vec![self.room_channel(&vec![(tor_id(0, 0), tor_id(1, 0)); BUNDLE]); 2],
            Wiring::D => Vec::new(),
        };
        sides.into_iter().filter_map(|(network, side)| Some((network, of_side.get(side)?.clone()))).collect()
    }

    fn room_channel(&mut self, joined: &[(SwitchId, SwitchId)]) -> RoomLink {
        RoomLink { cables: self.channel("room-link", joined), is_channel: true }
    }

    /// Makes one switch of a room's two, for storage.
    fn pair(&mut self, room: usize) {
        let switches = [tor_id(room, 0), tor_id(room, 1)];
        let name = format!("peer-{}", room + 1);
        self.channel(&name, &vec![switches.clone().into(); BUNDLE]);
        self.pairs.push(Pair { switches, peer_channel: name.parse().expect("a valid id") });
    }

    /// A port channel of storage VLANs.
    fn channel(&mut self, name: &str, joined: &[(SwitchId, SwitchId)]) -> Vec<LinkId> {
        let vlans = self.storage_vlans_of(0); // with port channels, both sides carry all
        let cable = |(number, (a, b)): (usize, &(SwitchId, SwitchId))| {
            self.join(a.clone(), b.clone(), &vlans, &format!("{name}-{}", number + 1))
        };
        let links: Vec<LinkId> = joined.iter().enumerate().map(cable).collect();
        let id: ChannelId = name.parse().expect("a valid id");
        self.channels.push(Channel { id, links: links.clone() });
        links
    }

    /// Where each storage network's NICs are cabled to, by room of the switch.
    fn storage_switches(&self) -> BTreeMap<(usize, u8), SwitchId> {
        let mut switches = BTreeMap::new();
        for network in &self.spec.storage_networks {
            for room in 0..self.spec.zones.len() {
                let switch = self.tor_of(room, &network.adapter);
                if let Some((room, _)) = self.tors().find(|(room, tor)| tor_id(*room, *tor) == switch) {
                    switches.insert((room, network.index.get()), switch);
                }
            }
        }
        switches
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
                carried.tagged.extend(self.storage_vlans_of(self.side_of(adapter)).tagged);
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
                let tor = if self.wiring == Wiring::D { tor_id(room, 0) } else { self.tor_of(room, adapter) };
                let port = self.port(tor, carried);
                spares.insert((room, adapter.clone()), port);
            }
        }
        spares
    }

    fn finish(self, draw: &mut Draw) -> Topology {
        let Self { spec, wiring, nic_speed_mbps, nics, links, channels, pairs, ports, names } = self;
        let storage: BTreeSet<VlanId> = spec.storage_networks.iter().map(|network| network.vlan).collect();
        let dcb = dcb(spec.qos, nic_speed_mbps);
        let room_of = |id: &SwitchId| {
            tors(spec, wiring).find(|(room, tor)| tor_id(*room, *tor) == *id).map(|(room, _)| room)
        };
        let switches = ports.into_iter().map(|(id, carried)| {
            let named = names[&id].iter().zip(carried);
            let ports = named
                .map(|(name, carried)| Port {
                    id: name.clone(),
                    native_vlan: carried.native,
                    dcb: carried.tagged.iter().any(|vlan| storage.contains(vlan)).then_some(dcb),
                    tagged_vlans: carried.tagged,
                    mtu: None,
                })
                .collect();
            Switch {
                room: room_of(&id).map(room_name),
                role: if id == spine_id() { Role::Spine } else { Role::Tor },
                id,
                system_name: draw.word("sw-"),
                chassis_mac: draw.mac(),
                mtu: Mtu::try_from(SWITCH_MTU).expect("a constant in range"),
                suspended_vlans: BTreeSet::from([own_vlan(spec, BLACK_HOLE)]),
                ports,
            }
        });
        let switches = switches.collect();
        let home = |network: &StorageNetwork| Home { subnet: network.subnet, vlan: network.vlan };
        let homes = spec.storage_networks.iter().map(home);
        let kept_off_spine = spec.storage_networks.iter().map(|network| network.subnet).collect();
        Topology {
            switches,
            nics,
            links,
            channels,
            pairs,
            kept_off_spine,
            homes: homes.collect(),
            lldp_interval_ms: LLDP_INTERVAL_MS,
        }
    }
}
