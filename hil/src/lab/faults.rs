//! Breaking a lab and mending it, and what a good diagnosis must then say.
//!
//! Invariants: a fault goes to the fabric first, then the guests' carriers follow it; those of a node that is off, when its
//! power comes back. [`Lab::mend`] undoes every fault, whichever were made, and may be repeated.

use super::miswiring::Miswiring;
use super::plan::{NicPlan, NodePlan};
use super::power::Power;
use super::topology::cable_id;
use super::{Keeper, Lab, LabError};
use crate::suite::{Damage, Flapping, Nics, Place, Room, SpineWay, Step, SwitchFailure, Way, Whom};
use drives::fault::Fault;
use fabric::{CarrierChange, End, PortRef, Role, Switch, SwitchId, Ways};
use futures_util::future::try_join_all;
use model::{AdapterName, ClusterSpec, DriveSerial, NodeName, TrafficClass, Wiring};
use network::lldp::{ChassisId, PortId};
use std::collections::BTreeSet;
use std::fmt;

/// A fault that was made, with what the lab knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// A switch failed.
    Switch {
        /// Its chassis id.
        chassis: ChassisId,
        /// Its name.
        name: String,
        /// How it failed.
        how: SwitchFailure,
    },
    /// The link between the rooms of a storage network was cut.
    RoomLink {
        /// The storage network.
        storage_network: u8,
        /// From this zone to that one, if only one way.
        one_way: Option<(String, String)>,
    },
    /// The link of a switch to the spine was cut.
    SpineLink {
        /// The switch's name.
        switch: String,
        /// Which way.
        way: SpineWay,
    },
    /// Something goes down and up by itself; while it is down, this is lost.
    Flapping {
        /// The stable id of the loss.
        loss_id: String,
        /// What it is, in words.
        what: String,
        /// How.
        flapping: Flapping,
    },
    /// A cable was moved.
    Cable {
        /// The cable as it is now.
        cable: LabCable,
        /// Whether its storage network has nothing to do with the switch that it leads to now.
        is_cut_off: bool,
    },
    /// Something is wired or set up wrongly.
    Wrong {
        /// What, in words.
        what: String,
        /// What it must be called, all of it.
        names: Vec<String>,
        /// The cables for which a deployment must refuse it; none: it can't tell from the cables.
        refused: Vec<LabCable>,
    },
    /// Something is wrong with a drive, which no network shows.
    Drive {
        /// Its node.
        node: NodeName,
        /// Its serial number.
        drive: DriveSerial,
        /// What.
        fault: Fault,
    },
    /// A node's agent was killed. It is started again at once.
    Agent {
        /// The node.
        node: NodeName,
    },
    /// An agent does nothing any more.
    AgentFrozen {
        /// Its node.
        node: NodeName,
    },
    /// A node's clock was set.
    Clock {
        /// The node.
        node: NodeName,
        /// Forward, seconds.
        by_s: i32,
    },
    /// A node's ledger was damaged.
    Ledger {
        /// The node.
        node: NodeName,
        /// How.
        how: Damage,
    },
    /// The disk of a node's ledger is full.
    LedgerDisk {
        /// The node.
        node: NodeName,
    },
    /// A node does nothing.
    Down {
        /// Which.
        node: NodeName,
        /// Why.
        how: Stop,
    },
}

/// Why a node does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It has no power.
    Off,
    /// Its power went and came back at once: it boots.
    Cycled,
    /// It stands still.
    Frozen,
}

/// A cable from a node to a switch, as it is: what a refusal must name if it was moved there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabCable {
    /// The node's room, by its place in the template; the witness has none.
    pub room: Option<usize>,
    /// The node.
    pub node: NodeName,
    /// Its NIC.
    pub adapter: AdapterName,
    /// The switch.
    pub switch: ChassisId,
    /// The switch's port.
    pub port: PortId,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch { chassis, name, how } => write!(f, "switch {name} ({chassis}) {how}"),
            Self::RoomLink { storage_network, one_way: None } => {
                write!(f, "the room-to-room link of storage network {storage_network} is cut both ways")
            }
            Self::RoomLink { storage_network, one_way: Some((from, to)) } => {
                write!(
                    f,
                    "the room-to-room link of storage network {storage_network} is cut from {from} to {to}"
                )
            }
            Self::SpineLink { switch, way } => write!(f, "the spine link of switch {switch} is cut {way}"),
            Self::Flapping { what, flapping, .. } => write!(f, "{what} {flapping}"),
            Self::Cable { cable: LabCable { node, adapter, switch, port, .. }, .. } => {
                write!(f, "{adapter} of {node} is cabled to switch {switch} port {port}")
            }
            Self::Agent { node } => write!(f, "the agent of {node} was killed"),
            Self::AgentFrozen { node } => write!(f, "the agent of {node} does nothing any more"),
            Self::Clock { node, by_s } => write!(f, "the clock of {node} was set by {by_s} s"),
            Self::Ledger { node, how } => write!(f, "the ledger of {node} {how}"),
            Self::LedgerDisk { node } => write!(f, "the disk of the ledger of {node} is full"),
            Self::Down { node, how: Stop::Off } => write!(f, "node {node} is off"),
            Self::Down { node, how: Stop::Cycled } => write!(f, "node {node} lost its power for a moment"),
            Self::Down { node, how: Stop::Frozen } => write!(f, "node {node} is frozen"),
            Self::Wrong { what, .. } => f.write_str(what),
            Self::Drive { node, drive, fault } => write!(f, "drive {drive} of {node}: {fault}"),
        }
    }
}

impl Made {
    /// The stable ids of the losses and conditions that the watch must name; none if the fault stops nothing that it looks at.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Switch { chassis, .. } => vec![format!("switch:{chassis}")],
            Self::RoomLink { storage_network, one_way: None } => vec![format!("room-link:{storage_network}")],
            Self::RoomLink { storage_network, one_way: Some((from, to)) } => {
                vec![format!("room-link:{storage_network}:{from}>{to}")]
            }
            Self::Flapping { loss_id, .. } => vec![loss_id.clone()],
            Self::Down { node, .. } => vec![format!("node:{node}")],
            // No storage crosses the spine, and the watch looks at storage networks.
            // What of an agent that is back at once, or of a clock that nothing depends on?
            Self::SpineLink { .. }
            | Self::Drive { .. }
            | Self::Agent { .. }
            | Self::AgentFrozen { .. }
            | Self::Clock { .. }
            | Self::Ledger { .. }
            | Self::LedgerDisk { .. } => Vec::new(),
            Self::Cable { cable: LabCable { node, adapter, switch, port, .. }, is_cut_off } => {
                let mut names = vec![format!("cable-moved:{node}:{adapter}>{switch}:{port}")];
                names.extend(is_cut_off.then(|| format!("nic:{node}:{adapter}")));
                names
            }
            Self::Wrong { names, .. } => names.clone(),
        }
    }

    /// The cables for which a deployment must refuse it.
    pub fn refused(&self) -> &[LabCable] {
        match self {
            Self::Cable { cable, .. } => std::slice::from_ref(cable),
            Self::Wrong { refused, .. } => refused,
            Self::Switch { .. }
            | Self::RoomLink { .. }
            | Self::SpineLink { .. }
            | Self::Flapping { .. }
            | Self::Drive { .. }
            | Self::Agent { .. }
            | Self::AgentFrozen { .. }
            | Self::Clock { .. }
            | Self::Ledger { .. }
            | Self::LedgerDisk { .. }
            | Self::Down { .. } => &[],
        }
    }
}

impl Lab {
    /// The faults that are in force.
    pub fn faults(&self) -> &[Made] {
        &self.faults
    }

    /// The nodes whose ledger's disk is full.
    pub(crate) fn full_ledger_disks(&self) -> Vec<NodeName> {
        let full = self.faults.iter().filter_map(|made| match made {
            Made::LedgerDisk { node } => Some(node.clone()),
            _ => None,
        });
        full.collect()
    }

    /// Makes the fault of a step; gives what was made. Steps that are no faults make none.
    pub async fn break_it(
        &mut self,
        keeper: &mut Keeper,
        spec: &ClusterSpec,
        step: &Step,
    ) -> Result<Vec<Made>, LabError> {
        let made = match step {
            Step::FailSwitch { room, storage_network, how } => {
                self.fail_switch(*room, *storage_network, *how).await?
            }
            Step::CutRoomLink { storage_network, way } => {
                self.cut_room_link(spec, *storage_network, *way).await?
            }
            Step::CutSpineLink { room, storage_network, way } => {
                self.cut_spine_link(*room, *storage_network, *way)?
            }
            Step::FlapRoomLink { storage_network, flapping } => {
                self.flap_room_link(*storage_network, *flapping)?
            }
            Step::FlapCable { room, position, storage_network, flapping } => {
                self.flap_cable(spec, *room, *position, *storage_network, *flapping).await?
            }
            Step::CrossCable { room, position, nics } => {
                self.cross_cable(spec, *room, *position, *nics).await?
            }
            Step::PowerOff { .. } => {
                let names = self.nodes_of(spec, step)?;
                self.power_off(keeper, &names).await?;
                down(names, Stop::Off)
            }
            Step::PowerCycle { .. } => {
                let names = self.nodes_of(spec, step)?;
                self.power_off(keeper, &names).await?;
                self.power_on(keeper, &names).await?;
                down(names, Stop::Cycled)
            }
            Step::Freeze { .. } => {
                let names = self.nodes_of(spec, step)?;
                self.freeze(&names).await?;
                down(names, Stop::Frozen)
            }
            Step::KillAgent { room, position } => {
                let node = self.node_at(spec, *room, *position)?;
                node.kill_agent().await?;
                vec![Made::Agent { node: node.name().clone() }]
            }
            Step::SkewClock { room, position, by_s } => {
                let node = self.node_at(spec, *room, *position)?;
                node.skew_clock(*by_s).await?;
                vec![Made::Clock { node: node.name().clone(), by_s: *by_s }]
            }
            Step::DamageLedger { room, position, how } => {
                let node = self.node_at(spec, *room, *position)?;
                vec![node.damage_ledger(*how)?]
            }
            Step::Miswire { what, room, position, storage_network } => {
                let miswiring = Miswiring::of(spec, *what, (*room, *position), *storage_network);
                let missing = LabError::NoSuchNode { room: room.index() + 1, position: *position };
                // It tells of its faults itself.
                return self.miswire(spec, &miswiring.ok_or(missing)?).await;
            }
            _ => Vec::new(),
        };
        self.faults.extend(made.iter().cloned());
        Ok(made)
    }

    /// Undoes every fault. Nodes that were off have power then, and boot.
    pub async fn mend(&mut self, keeper: &mut Keeper) -> Result<(), LabError> {
        let changes = self.control.heal()?;
        let faults = std::mem::take(&mut self.faults);
        self.tell_carriers(changes).await?;
        let all = self.nodes.keys().cloned().collect();
        self.thaw(&all).await?;
        for made in &faults {
            if let Made::Drive { node, drive, .. } = made {
                self.mend_drive(node, drive).await?;
            }
            // A node that is off keeps what fills its disk: suites fill none of those.
            if let Made::LedgerDisk { node } = made
                && let Some(node) = self.nodes.get(node).filter(|node| node.has_power())
            {
                node.make_room().await?;
            }
            // Who was off comes back with the lab's own time.
            if let Made::Clock { node, by_s } = made
                && let Some(node) = self.nodes.get(node).filter(|node| node.has_power())
            {
                node.skew_clock(by_s.saturating_neg()).await?;
            }
        }
        self.power_on(keeper, &all).await
    }

    fn node_at(&self, spec: &ClusterSpec, room: Room, position: u8) -> Result<&super::LabNode, LabError> {
        let missing = || LabError::NoSuchNode { room: room.index() + 1, position };
        let nodes = &spec.zones.get(room.index()).ok_or_else(missing)?.nodes;
        let at = usize::from(position).checked_sub(1).ok_or_else(missing)?;
        self.nodes.get(&nodes.get(at).ok_or_else(missing)?.name).ok_or_else(missing)
    }

    /// Brings a step's nodes back, or takes note that they are.
    pub async fn bring_back(
        &mut self,
        keeper: &mut Keeper,
        spec: &ClusterSpec,
        step: &Step,
    ) -> Result<(), LabError> {
        let names = self.nodes_of(spec, step)?;
        match step {
            Step::PowerOn { .. } => self.power_on(keeper, &names).await?,
            Step::Thaw { .. } => self.thaw(&names).await?,
            _ => {}
        }
        self.faults.retain(|made| !matches!(made, Made::Down { node, .. } if names.contains(node)));
        Ok(())
    }

    /// The nodes that a step takes the power of, freezes, or brings back.
    pub(crate) fn nodes_of(&self, spec: &ClusterSpec, step: &Step) -> Result<BTreeSet<NodeName>, LabError> {
        let Some(Whom { room, position }) = step.whom() else { return Ok(BTreeSet::new()) };
        let room = match room {
            Place::Everywhere => return Ok(self.nodes.keys().cloned().collect()),
            Place::Witness => return Ok(BTreeSet::from([spec.witness.name.clone()])),
            Place::Room(room) => room,
        };
        let nodes = spec.zones.get(room.index()).map_or(&[][..], |zone| &zone.nodes);
        let here = (1u8..).zip(nodes).filter(|(at, _)| position.is_none_or(|position| *at == position));
        let names: BTreeSet<NodeName> = here.map(|(_, node)| node.name.clone()).collect();
        let all_there = !names.is_empty() && names.iter().all(|name| self.nodes.contains_key(name));
        let position = position.unwrap_or(1);
        if all_there { Ok(names) } else { Err(LabError::NoSuchNode { room: room.index() + 1, position }) }
    }

    async fn fail_switch(
        &mut self,
        room: Room,
        network: u8,
        how: SwitchFailure,
    ) -> Result<Vec<Made>, LabError> {
        let switch = self.cables.storage_switch(room.index(), network).cloned();
        let switch = switch.ok_or(LabError::NoSuchNetwork { storage_network: network })?;
        let changes = match how {
            SwitchFailure::Off => self.control.switch_down(&switch)?,
            SwitchFailure::Deaf => self.cut_around(&switch, true)?,
            SwitchFailure::Mute => self.cut_around(&switch, false)?,
        };
        self.tell_carriers(changes).await?;
        let mut made: Vec<Made> =
            self.switch(&switch).map(|switch| made_of(switch, how)).into_iter().collect();
        if how != SwitchFailure::Off {
            let cut_off = self.cables.networks_cut_off_by_peer(room.index(), &switch);
            made.extend(cut_off.map(|storage_network| Made::RoomLink { storage_network, one_way: None }));
        }
        Ok(made)
    }

    /// Cuts what leads to the spine from the switch of a storage network. Guests don't see it.
    fn cut_spine_link(&mut self, room: Room, network: u8, way: SpineWay) -> Result<Vec<Made>, LabError> {
        let switch = self.cables.storage_switch(room.index(), network).cloned();
        let switch = switch.ok_or(LabError::NoSuchNetwork { storage_network: network })?;
        let at = |end: &End| matches!(end, End::Port(port) if port.switch == switch);
        let links = self.cables.topology().links_at(Role::Spine);
        let links: Vec<_> = links
            .filter(|link| at(&link.a) || at(&link.b))
            .map(|link| (link.id.clone(), at(&link.a)))
            .collect();
        for (link, is_a) in &links {
            let cut = match way {
                SpineWay::Both => Ways::Both,
                SpineWay::ToSpine if *is_a => Ways::AToB,
                SpineWay::FromSpine if !*is_a => Ways::AToB,
                SpineWay::ToSpine | SpineWay::FromSpine => Ways::BToA,
            };
            self.control.cut_link(link, cut)?;
        }
        let name = self.switch(&switch).map(|switch| switch.system_name.clone());
        Ok(name.map(|switch| Made::SpineLink { switch, way }).into_iter().collect())
    }

    /// Cuts one direction of every cable at a switch: towards it, or away from it.
    fn cut_around(&mut self, switch: &SwitchId, towards: bool) -> Result<Vec<CarrierChange>, LabError> {
        let at = |end: &End| matches!(end, End::Port(port) if port.switch == *switch);
        let links = self.cables.topology().links.iter().filter(|link| at(&link.a) || at(&link.b));
        let mut changes = Vec::new();
        for link in links {
            let cut = if at(&link.b) == towards { Ways::AToB } else { Ways::BToA };
            changes.extend(self.control.cut_link(&link.id, cut)?);
        }
        Ok(changes)
    }

    async fn cut_room_link(
        &mut self,
        spec: &ClusterSpec,
        network: u8,
        way: Way,
    ) -> Result<Vec<Made>, LabError> {
        let link = self
            .cables
            .room_link(network)
            .ok_or(LabError::NoSuchNetwork { storage_network: network })?
            .clone();
        let cut = match way {
            Way::Both => Ways::Both,
            Way::OneToTwo => Ways::AToB,
            Way::TwoToOne => Ways::BToA,
        };
        let mut changes = Vec::new();
        for cable in &link.cables {
            changes.extend(self.control.cut_link(cable, cut)?);
        }
        self.tell_carriers(changes).await?;
        let [one, two] = [&spec.zones[0].name, &spec.zones[1].name].map(ToString::to_string);
        let one_way = match way {
            // A port channel takes a cable out that passes only one way, so that nothing passes.
            _ if link.is_channel => None,
            Way::Both => None,
            Way::OneToTwo => Some((one, two)),
            Way::TwoToOne => Some((two, one)),
        };
        let networks = self.cables.networks_over(&link);
        let made = |storage_network| Made::RoomLink { storage_network, one_way: one_way.clone() };
        Ok(networks.map(made).collect())
    }

    async fn cross_cable(
        &mut self,
        spec: &ClusterSpec,
        room: Room,
        position: u8,
        nics: Nics,
    ) -> Result<Vec<Made>, LabError> {
        let no_node = || LabError::NoSuchNode { room: room.index() + 1, position };
        let index = usize::from(position).checked_sub(1).ok_or_else(no_node)?;
        let name = &spec.zones[room.index()].nodes.get(index).ok_or_else(no_node)?.name;
        let node = self.nodes.get(name).ok_or_else(no_node)?;
        let mut changes = Vec::new();
        let mut made = Vec::new();
        for nic in &node.plan.nics {
            let intents = spec.intents.iter().filter(|intent| intent.adapters.contains(&nic.adapter));
            let storage = intents.clone().any(|intent| intent.carries(TrafficClass::Storage));
            if nics == Nics::Storage && !storage {
                continue;
            }
            let no_spare = || LabError::NoSpare { node: name.to_string(), adapter: nic.adapter.to_string() };
            let home = self.cables.room_of_cable(&nic.id).ok_or_else(no_spare)?;
            let port = self.cables.spare(1 - home, &nic.adapter).cloned().ok_or_else(no_spare)?;
            changes.extend(self.control.recable(&nic.id, &port)?);
            let cable = self.cable(&node.plan, &nic.adapter, &port);
            made.extend(cable.map(|cable| moved(spec, cable)));
        }
        self.tell_carriers(changes).await?;
        Ok(made)
    }

    /// Every cable from a node to a switch, as it is now.
    pub(crate) fn node_cables(&self) -> Vec<LabCable> {
        let of = |cables: &[LabCable], node: &NodeName, adapter: &AdapterName| {
            cables.iter().find(|cable| cable.node == *node && cable.adapter == *adapter).cloned()
        };
        let moved = |node: &NodeName, adapter: &AdapterName| {
            self.faults.iter().find_map(|made| match made {
                Made::Cable { cable, .. } => of(std::slice::from_ref(cable), node, adapter),
                Made::Wrong { refused, .. } => of(refused, node, adapter),
                _ => None,
            })
        };
        let as_built = |plan: &NodePlan, nic: &NicPlan| {
            let link = self.cables.topology().links.iter().find(|link| link.id == cable_id(&nic.id))?;
            match &link.b {
                End::Port(port) => self.cable(plan, &nic.adapter, port),
                End::Nic(_) => None,
            }
        };
        let of_node = |plan: &'_ NodePlan| {
            let cable = |nic: &NicPlan| moved(&plan.name, &nic.adapter).or_else(|| as_built(plan, nic));
            plan.nics.iter().filter_map(cable).collect::<Vec<_>>()
        };
        self.nodes.values().flat_map(|node| of_node(&node.plan)).collect()
    }

    pub(super) fn cable(&self, node: &NodePlan, adapter: &AdapterName, port: &PortRef) -> Option<LabCable> {
        let switch = ChassisId::Mac(self.switch(&port.switch)?.chassis_mac);
        let (node, room) = (node.name.clone(), node.zone);
        let port = PortId::InterfaceName(port.port.to_string());
        Some(LabCable { room, node, adapter: adapter.clone(), switch, port })
    }

    fn switch(&self, id: &SwitchId) -> Option<&Switch> {
        self.cables.topology().switch(id)
    }

    /// Lets the guests see the carriers that the fabric has.
    pub(super) async fn tell_carriers(&mut self, changes: Vec<CarrierChange>) -> Result<(), LabError> {
        try_join_all(self.nodes.values_mut().map(|node| node.follow(&changes))).await.map(drop)
    }
}

fn down(names: BTreeSet<NodeName>, how: Stop) -> Vec<Made> {
    names.into_iter().map(|node| Made::Down { node, how }).collect()
}

/// A cable that leads elsewhere now. With wiring D each storage network has one switch.
pub(super) fn moved(spec: &ClusterSpec, cable: LabCable) -> Made {
    let is_storage = spec.storage_networks.iter().any(|network| network.adapter == cable.adapter);
    Made::Cable { cable, is_cut_off: is_storage && spec.wiring == Some(Wiring::D) }
}

fn made_of(switch: &Switch, how: SwitchFailure) -> Made {
    Made::Switch { chassis: ChassisId::Mac(switch.chassis_mac), name: switch.system_name.clone(), how }
}

impl super::LabNode {
    async fn follow(&mut self, changes: &[CarrierChange]) -> Result<(), LabError> {
        for change in changes {
            let Some(nic) = self.plan.nics.iter().find(|nic| nic.id == change.nic) else { continue };
            let Power::On { qmp, .. } = &mut self.power else { return Ok(()) };
            let told = qmp.set_link(&nic.device, change.carrier).await;
            told.map_err(|source| LabError::Qmp { node: self.plan.name.to_string(), source })?;
        }
        Ok(())
    }
}
