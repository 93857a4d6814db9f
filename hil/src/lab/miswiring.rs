//! Racks that somebody wired or set up wrongly, and what the watch must then say.
//!
//! Purpose: one vocabulary ([`Miswiring`]) for suites that name what is wrong and for those that have it drawn from the seed
//! ([`draw`], pure); [`Lab::miswire`] makes it in the fabric.
//!
//! Invariants: what must be raised is told from what was done to the fabric, never from what anybody saw ([`Miswiring::names`]).
//! What one node a room, or a wiring, can't tell apart is not drawn there, and is not applicable to suites
//! ([`Miswiring::unmet`]).
//!
//! On failure: [`LabError`]; mending the lab undoes what was done.

use super::faults::{LabCable, Made, moved};
use super::topology::cable_id;
use super::{Lab, LabError};
use crate::suite::{Room, Wrong};
use fabric::{LinkId, NicId, PortRef, Shaping, SwitchId, Ways};
use fastrand::Rng;
use model::{AdapterName, ClusterSpec, Mtu, NodeName, TrafficClass, VlanId, Wiring};
use network::lldp::ChassisId;
use std::fmt;

/// By how much a round trip gets longer, in the words of spec.md: 3 ms between the rooms.
pub(crate) const SLOWER_BY_US: u32 = 3000;
/// What a switch takes that nobody set up for storage.
const SMALL: Mtu = Mtu::ETHERNET;

/// Something that is wired or set up wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Miswiring {
    /// Something about a NIC, its cable or its port.
    Nic {
        /// Whose.
        node: NodeName,
        /// Which.
        adapter: AdapterName,
        /// What.
        wrong: WrongNic,
    },
    /// The two storage NICs of a node have each other's cables.
    Swapped {
        /// The node.
        node: NodeName,
        /// Its storage NICs.
        adapters: [AdapterName; 2],
    },
    /// The switch of a storage network in a room takes small packets only.
    SmallSwitch {
        /// The room, from 0.
        room: usize,
        /// The storage network.
        storage_network: u8,
        /// Whether it says so.
        announced: bool,
    },
    /// What a storage network crosses between the rooms is slow, both ways together by [`SLOWER_BY_US`].
    SlowRoomLink {
        /// The storage network.
        storage_network: u8,
    },
}

/// What may be wrong with one NIC's cable or port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrongNic {
    /// The cable leads to the switch of the other room.
    OtherRoom,
    /// The cable leads to another port of its switch.
    OtherPort,
    /// The port does not carry this VLAN.
    NoVlan(VlanId),
    /// The port takes small packets only, and says so or not.
    Small { announced: bool },
    /// The cable is slow.
    Slow,
    /// What the node sends is lost.
    Mute,
    /// What is sent to it is lost.
    Deaf,
}

impl fmt::Display for Miswiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |announced: bool| if announced { "and say so" } else { "and don't say so" };
        match self {
            Self::Nic { node, adapter, wrong } => {
                write!(f, "{adapter} of {node}: ")?;
                match wrong {
                    WrongNic::OtherRoom => f.write_str("its cable leads to the other room"),
                    WrongNic::OtherPort => f.write_str("its cable leads to another port of its switch"),
                    WrongNic::NoVlan(vlan) => write!(f, "its port does not carry VLAN {vlan}"),
                    WrongNic::Small { announced: true } => {
                        write!(f, "its port takes {SMALL} bytes and says so")
                    }
                    WrongNic::Small { announced: false } => {
                        write!(f, "its port takes {SMALL} bytes and does not say so")
                    }
                    WrongNic::Slow => {
                        write!(f, "its cable makes round trips {SLOWER_BY_US} µs longer")
                    }
                    WrongNic::Mute => f.write_str("what it sends is lost in its cable"),
                    WrongNic::Deaf => f.write_str("what is sent to it is lost in its cable"),
                }
            }
            Self::Swapped { node, adapters: [first, second] } => {
                write!(f, "{first} and {second} of {node} have each other's cables")
            }
            Self::SmallSwitch { room, storage_network, announced } => write!(
                f,
                "the ports of the switch of storage network {storage_network} in room {} take {SMALL} bytes {}",
                room + 1,
                said(*announced)
            ),
            Self::SlowRoomLink { storage_network } => write!(
                f,
                "round trips between the rooms on storage network {storage_network} take {SLOWER_BY_US} µs longer"
            ),
        }
    }
}

/// What a cluster's nodes and wiring can tell apart.
fn unmet(spec: &ClusterSpec, alone_is_enough: bool) -> Option<&'static str> {
    (spec.shape().nodes_per_zone() < 2 && !alone_is_enough)
        .then_some("with one node in a room, this looks like something between the rooms")
}

impl Miswiring {
    /// Why this cluster can't have it, or nobody could name it; `None`: it can.
    pub(crate) fn unmet(&self, spec: &ClusterSpec) -> Option<&'static str> {
        let wiring = spec.wiring.unwrap_or(Wiring::A);
        match self {
            Self::Nic { wrong: WrongNic::OtherRoom | WrongNic::OtherPort, .. }
            | Self::Nic { wrong: WrongNic::Small { announced: true }, .. } => None,
            Self::Nic { adapter, wrong: WrongNic::NoVlan(_), .. } => unmet(spec, !is_storage(spec, adapter)),
            Self::Nic { .. } => unmet(spec, false),
            Self::Swapped { .. } if wiring != Wiring::A => {
                Some("only with wiring A does each switch carry one storage network")
            }
            Self::Swapped { .. } => None,
            Self::SmallSwitch { announced: false, .. } if wiring == Wiring::B => {
                Some("with wiring B some of the other switch's frames cross it, too")
            }
            Self::SmallSwitch { announced, .. } => unmet(spec, *announced),
            Self::SlowRoomLink { .. } => {
                (wiring == Wiring::D).then_some("with wiring D no storage crosses between the rooms")
            }
        }
    }

    /// A suite's word for it, at a node and storage network; `None`: the cluster has no such node or network.
    pub(crate) fn of(
        spec: &ClusterSpec,
        wrong: Wrong,
        (room, position): (Room, u8),
        storage_network: u8,
    ) -> Option<Self> {
        let index = usize::from(position).checked_sub(1)?;
        let node = spec.zones[room.index()].nodes.get(index)?.name.clone();
        let network = spec.storage_networks.iter().find(|network| network.index.get() == storage_network)?;
        let adapter = network.adapter.clone();
        let nic = |wrong| Self::Nic { node: node.clone(), adapter, wrong };
        Some(match wrong {
            Wrong::OtherPort => nic(WrongNic::OtherPort),
            Wrong::NoVlan => nic(WrongNic::NoVlan(network.vlan)),
            Wrong::SmallPort => nic(WrongNic::Small { announced: true }),
            Wrong::SmallPortUnsaid => nic(WrongNic::Small { announced: false }),
            Wrong::SlowCable => nic(WrongNic::Slow),
            Wrong::SendsNothing => nic(WrongNic::Mute),
            Wrong::ReceivesNothing => nic(WrongNic::Deaf),
            Wrong::SwappedStorageNics => Self::Swapped { adapters: storage_nics(spec)?, node },
            Wrong::SmallSwitch | Wrong::SmallSwitchUnsaid => {
                let announced = wrong == Wrong::SmallSwitch;
                Self::SmallSwitch { room: room.index(), storage_network, announced }
            }
            Wrong::SlowRoomLink => Self::SlowRoomLink { storage_network },
        })
    }
}

fn is_storage(spec: &ClusterSpec, adapter: &AdapterName) -> bool {
    spec.storage_networks.iter().any(|network| network.adapter == *adapter)
}

fn storage_nics(spec: &ClusterSpec) -> Option<[AdapterName; 2]> {
    match spec.storage_networks.as_slice() {
        [first, second] => Some([first.adapter.clone(), second.adapter.clone()]),
        _ => None,
    }
}

/// The VLANs that a NIC needs tagged.
fn vlans(spec: &ClusterSpec, adapter: &AdapterName) -> Vec<VlanId> {
    let mut vlans: Vec<VlanId> =
        spec.storage_networks.iter().filter(|n| n.adapter == *adapter).map(|n| n.vlan).collect();
    for intent in spec.intents.iter().filter(|intent| intent.adapters.contains(adapter)) {
        if intent.carries(TrafficClass::Management) {
            vlans.extend(spec.management.vlan);
        }
        if intent.carries(TrafficClass::Compute) {
            vlans.extend(&spec.compute_vlans);
        }
    }
    vlans
}

/// Draws so many: each kind in turn, in the seed's order; of a kind, whatever node, NIC, switch and direction.
pub(crate) fn draw(rng: &mut Rng, spec: &ClusterSpec, count: usize) -> Vec<Miswiring> {
    let mut kinds = kinds(spec);
    for kind in &mut kinds {
        kind.retain(|one| one.unmet(spec).is_none());
    }
    kinds.retain(|kind| !kind.is_empty());
    let mut drawn = Vec::new();
    while drawn.len() < count && !kinds.is_empty() {
        rng.shuffle(&mut kinds);
        for kind in kinds.iter().take(count - drawn.len()) {
            drawn.extend(kind.get(rng.usize(..kind.len())).cloned());
        }
    }
    drawn
}

/// All there are, by kind.
fn kinds(spec: &ClusterSpec) -> Vec<Vec<Miswiring>> {
    let nodes: Vec<&NodeName> = spec.nodes().map(|(_, node)| &node.name).collect();
    let all: Vec<&AdapterName> = spec.adapters().into_iter().collect();
    let storage: Vec<&AdapterName> = spec.storage_networks.iter().map(|network| &network.adapter).collect();
    let nics = |adapters: &[&AdapterName], wrong: &[WrongNic]| {
        let mut of_kind = Vec::new();
        for (node, adapter) in nodes.iter().flat_map(|node| adapters.iter().map(move |a| (*node, *a))) {
            let (node, adapter) = (node.clone(), adapter.clone());
            let one = |wrong: &WrongNic| Miswiring::Nic {
                node: node.clone(),
                adapter: adapter.clone(),
                wrong: *wrong,
            };
            of_kind.extend(wrong.iter().map(one));
        }
        of_kind
    };
    let mut no_vlan = Vec::new();
    for adapter in &all {
        for vlan in vlans(spec, adapter) {
            no_vlan.extend(nics(&[adapter], &[WrongNic::NoVlan(vlan)]));
        }
    }
    let networks = || spec.storage_networks.iter().map(|network| network.index.get());
    let swapped = storage_nics(spec).into_iter().flat_map(|adapters| {
        nodes.iter().map(move |node| Miswiring::Swapped { node: (*node).clone(), adapters: adapters.clone() })
    });
    let small = |announced| {
        let of_room = move |room| {
            networks().map(move |storage_network| Miswiring::SmallSwitch { room, storage_network, announced })
        };
        (0..spec.zones.len()).flat_map(of_room).collect::<Vec<_>>()
    };
    vec![
        nics(&all, &[WrongNic::OtherRoom]),
        nics(&all, &[WrongNic::OtherPort]),
        no_vlan,
        nics(&storage, &[WrongNic::Small { announced: true }, WrongNic::Small { announced: false }]),
        nics(&storage, &[WrongNic::Slow]),
        nics(&storage, &[WrongNic::Mute, WrongNic::Deaf]),
        swapped.collect(),
        [small(true), small(false)].concat(),
        networks().map(|storage_network| Miswiring::SlowRoomLink { storage_network }).collect(),
    ]
}

impl Lab {
    /// Draws miswirings from the lab's seed. Each call draws others.
    pub(crate) fn draw_miswirings(&mut self, spec: &ClusterSpec, count: usize) -> Vec<Miswiring> {
        // With wiring D a storage network has a switch in one room only.
        let room_has = |one: &Miswiring| match one {
            Miswiring::SmallSwitch { room, storage_network, .. } => {
                self.cables.storage_switch(*room, *storage_network).is_some()
            }
            _ => true,
        };
        let mut drawn: Vec<Miswiring> = Vec::new();
        while drawn.len() < count {
            let more = draw(&mut self.miswiring_rng, spec, count - drawn.len());
            if more.is_empty() {
                break;
            }
            drawn.extend(more.into_iter().filter(room_has));
        }
        drawn
    }

    /// Makes a miswiring.
    pub(crate) async fn miswire(
        &mut self,
        spec: &ClusterSpec,
        miswiring: &Miswiring,
    ) -> Result<Vec<Made>, LabError> {
        let made = match miswiring {
            Miswiring::Nic { node, adapter, wrong } => {
                self.miswire_nic(spec, node, adapter, *wrong, miswiring).await?
            }
            Miswiring::Swapped { node, adapters } => self.swap(node, adapters, miswiring).await?,
            Miswiring::SmallSwitch { room, storage_network, announced } => {
                let network = *storage_network;
                let switch = self.cables.storage_switch(*room, network).cloned();
                let switch = switch.ok_or(LabError::NoSuchNetwork { storage_network: network })?;
                self.control.lower_mtu(&switch, None, SMALL, *announced)?;
                let kind = if *announced { "frames-too-small" } else { "large-packets-lost" };
                let cables = self.storage_cables_at(spec, &switch);
                let chassis = self.chassis(&switch)?;
                let refused = if *announced { cables } else { Vec::new() };
                vec![wrong(miswiring, vec![format!("{kind}:switch:{chassis}")], refused)]
            }
            Miswiring::SlowRoomLink { storage_network } => {
                let network = *storage_network;
                let link = self.cables.room_link(network).cloned();
                let link = link.ok_or(LabError::NoSuchNetwork { storage_network: network })?;
                for cable in &link.cables {
                    self.slow(cable)?;
                }
                let names =
                    self.cables.networks_over(&link).map(|network| format!("slow:room-link:{network}"));
                vec![wrong(miswiring, names.collect(), Vec::new())]
            }
        };
        self.faults.extend(made.iter().cloned());
        Ok(made)
    }

    async fn miswire_nic(
        &mut self,
        spec: &ClusterSpec,
        node: &NodeName,
        adapter: &AdapterName,
        how: WrongNic,
        miswiring: &Miswiring,
    ) -> Result<Vec<Made>, LabError> {
        let (nic, port) = self.port_of(node, adapter)?;
        let here: Vec<LabCable> = self.lab_cable(node, adapter, &port).into_iter().collect();
        let one = |kind: &str| format!("{kind}:{node}:{adapter}");
        let (names, refused) = match how {
            WrongNic::OtherRoom | WrongNic::OtherPort => {
                let no_spare = || LabError::NoSpare { node: node.to_string(), adapter: adapter.to_string() };
                let home = self.cables.room_of_cable(&nic).ok_or_else(no_spare)?;
                let room = if how == WrongNic::OtherRoom { 1 - home } else { home };
                let to = self.cables.spare(room, adapter).cloned().ok_or_else(no_spare)?;
                let changes = self.control.recable(&nic, &to)?;
                self.tell_carriers(changes).await?;
                let made = self.lab_cable(node, adapter, &to).ok_or_else(no_spare)?;
                // The switch is right: storage is not cut off.
                if how == WrongNic::OtherPort {
                    return Ok(vec![Made::Cable { cable: made, is_cut_off: false }]);
                }
                return Ok(vec![moved(spec, made)]);
            }
            WrongNic::NoVlan(vlan) => {
                self.control.remove_vlan(&port, vlan)?;
                let mut names = vec![format!("vlan-missing:{node}:{adapter}:{vlan}")];
                let kills = spec.storage_networks.iter().any(|n| n.adapter == *adapter && n.vlan == vlan);
                names.extend(kills.then(|| one("nic")));
                (names, here)
            }
            WrongNic::Small { announced } => {
                self.control.lower_mtu(&port.switch, Some(&port.port), SMALL, announced)?;
                let kind = if announced { "frames-too-small:nic" } else { "large-packets-lost:nic" };
                (vec![one(kind)], if announced { here } else { Vec::new() })
            }
            WrongNic::Slow => {
                self.slow(&cable_id(&nic))?;
                (vec![one("slow:nic")], Vec::new())
            }
            // End a of a NIC's cable is the NIC.
            WrongNic::Mute => {
                self.control.cut_link(&cable_id(&nic), Ways::AToB)?;
                (vec![format!("nic:{node}:{adapter}:send")], Vec::new())
            }
            WrongNic::Deaf => {
                self.control.cut_link(&cable_id(&nic), Ways::BToA)?;
                (vec![format!("nic:{node}:{adapter}:receive")], here)
            }
        };
        Ok(vec![wrong(miswiring, names, refused)])
    }

    /// Gives two NICs of a node each other's ports, by way of a spare one.
    async fn swap(
        &mut self,
        node: &NodeName,
        [first, second]: &[AdapterName; 2],
        miswiring: &Miswiring,
    ) -> Result<Vec<Made>, LabError> {
        let no_spare = || LabError::NoSpare { node: node.to_string(), adapter: first.to_string() };
        let ((one, here), (other, there)) = (self.port_of(node, first)?, self.port_of(node, second)?);
        let home = self.cables.room_of_cable(&one).ok_or_else(no_spare)?;
        let aside = self.cables.spare(home, first).cloned().ok_or_else(no_spare)?;
        let mut changes = self.control.recable(&one, &aside)?;
        changes.extend(self.control.recable(&other, &here)?);
        changes.extend(self.control.recable(&one, &there)?);
        self.tell_carriers(changes).await?;
        let moved = [(first, &there), (second, &here)];
        let refused = moved.into_iter().filter_map(|(adapter, port)| self.lab_cable(node, adapter, port));
        let names = vec![
            format!("cables-swapped:{node}:{first}:{second}"),
            // Each is on the switch of the other storage network, which does not carry its own.
            format!("nic:{node}:{first}"),
            format!("nic:{node}:{second}"),
        ];
        Ok(vec![wrong(miswiring, names, refused.collect())])
    }

    fn slow(&mut self, cable: &LinkId) -> Result<(), LabError> {
        // Half of it each way.
        let shaping = Shaping { latency_us: SLOWER_BY_US / 2, ..Shaping::default() };
        Ok(self.control.shape_link(cable, Ways::Both, shaping)?)
    }

    /// A node's NIC and the port that its cable leads to when nothing is broken.
    fn port_of(&self, node: &NodeName, adapter: &AdapterName) -> Result<(NicId, PortRef), LabError> {
        let missing = || LabError::Missing { node: node.to_string() };
        let plan = &self.nodes.get(node).ok_or_else(missing)?.plan;
        let nic = plan.nics.iter().find(|nic| nic.adapter == *adapter).ok_or_else(missing)?;
        let link = self.cables.topology().link(&cable_id(&nic.id)).ok_or_else(missing)?;
        match &link.b {
            fabric::End::Port(port) => Ok((nic.id.clone(), port.clone())),
            fabric::End::Nic(_) => Err(missing()),
        }
    }

    fn lab_cable(&self, node: &NodeName, adapter: &AdapterName, port: &PortRef) -> Option<LabCable> {
        self.cable(&self.nodes.get(node)?.plan, adapter, port)
    }

    /// The cables of storage NICs that lead to a switch when nothing is broken.
    fn storage_cables_at(&self, spec: &ClusterSpec, switch: &SwitchId) -> Vec<LabCable> {
        let nodes = spec.nodes().map(|(_, node)| &node.name);
        let nics = nodes.flat_map(|node| spec.storage_networks.iter().map(move |n| (node, &n.adapter)));
        let at_it = nics.filter_map(|(node, adapter)| {
            let (_, port) = self.port_of(node, adapter).ok()?;
            (port.switch == *switch).then(|| self.lab_cable(node, adapter, &port)).flatten()
        });
        at_it.collect()
    }

    fn chassis(&self, switch: &SwitchId) -> Result<ChassisId, LabError> {
        let known = self.cables.topology().switch(switch);
        let missing = || LabError::Missing { node: switch.to_string() };
        Ok(ChassisId::Mac(known.ok_or_else(missing)?.chassis_mac))
    }
}

fn wrong(miswiring: &Miswiring, names: Vec<String>, refused: Vec<LabCable>) -> Made {
    Made::Wrong { what: miswiring.to_string(), names, refused }
}

#[cfg(test)]
#[path = "miswiring_tests.rs"]
mod tests;
