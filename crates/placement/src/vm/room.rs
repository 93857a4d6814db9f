//! What the nodes have left, and the best of them for one more.

use super::asked::{Asked, Names, Zone, running};
use super::{Cluster, NodeState, Reasons, Vms, Why};
use model::NodeId;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// What is wanted of a node beside room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Apart from its group, near its volumes, and with much left.
    Comfort,
    /// With as little left as may be, so that large ones still find a place.
    Tight,
}

/// All nodes, in ascending order.
#[derive(Debug, Clone)]
pub(super) struct Rooms {
    nodes: Vec<Room>,
    /// The nodes on which each group's members are.
    members: Vec<Vec<usize>>,
    /// How many of a group are on each node while a place is looked for; zeros else.
    counts: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Room {
    id: NodeId,
    zone: Zone,
    state: NodeState,
    bytes: Space,
    cores: Space,
}

/// What there is of something, and what is held of it; that may be more.
#[derive(Debug, Clone, Copy)]
struct Space {
    has: u64,
    held: u64,
}

impl Space {
    fn lacks(self, wanted: u64) -> u64 {
        self.held.saturating_add(wanted).saturating_sub(self.has)
    }

    fn free(self) -> u64 {
        self.has.saturating_sub(self.held)
    }
}

impl Room {
    fn why_not(&self, asked: &Asked) -> Option<Why> {
        if asked.only.is_some_and(|only| only != self.zone) {
            return Some(Why::OutsideZone);
        }
        match self.state {
            NodeState::Down => Some(Why::Down),
            NodeState::Draining => Some(Why::Drains),
            NodeState::Up => {
                let lacks = (self.bytes.lacks(asked.memory_bytes), self.cores.lacks(asked.cores));
                let (bytes, cores) = lacks;
                (lacks != (0, 0)).then_some(Why::Lacks { bytes, cores })
            }
        }
    }

    fn take(&mut self, bytes: u64, cores: u64) {
        self.bytes.held = self.bytes.held.saturating_add(bytes);
        self.cores.held = self.cores.held.saturating_add(cores);
    }
}

impl Rooms {
    /// With all that run on nodes that are there.
    pub(super) fn new<'a>(cluster: &'a Cluster, vms: &'a Vms, names: &mut Names<'a>) -> Self {
        let room = |(id, node): (&NodeId, &'a super::Node)| {
            let has = u64::from(node.cores) * u64::from(cluster.cores_percent) / 100;
            Room {
                id: *id,
                zone: names.zone(&node.zone),
                state: node.state,
                bytes: Space { has: node.memory_bytes, held: 0 },
                cores: Space { has, held: 0 },
            }
        };
        let rooms: Vec<Room> = cluster.nodes.iter().map(room).collect();
        let mut all = Self { counts: vec![0; rooms.len()], nodes: rooms, members: Vec::new() };
        for (vm, node) in running(cluster, vms) {
            let Some(at) = names.at(node) else { continue };
            all.nodes[at].take(vm.spec.memory_bytes, u64::from(vm.spec.cores));
            if let Some(group) = &vm.spec.anti_affinity {
                all.join(names.group(group), at);
            }
        }
        all
    }

    fn join(&mut self, group: usize, at: usize) {
        if self.members.len() <= group {
            self.members.resize(group + 1, Vec::new());
        }
        self.members[group].push(at);
    }

    /// The best node that has room, and it is held there from now on.
    pub(super) fn seat(&mut self, asked: &Asked, fit: Fit) -> Option<NodeId> {
        let group = asked.group.and_then(|group| self.members.get_mut(group));
        let members = group.map(std::mem::take).unwrap_or_default();
        let mut in_rack: Vec<u32> = Vec::new();
        for at in &members {
            self.counts[*at] += 1;
            let Zone(zone) = self.nodes[*at].zone;
            in_rack.resize(in_rack.len().max(zone + 1), 0);
            in_rack[zone] += 1;
        }
        let key = |(at, room): (usize, &Room)| {
            // What is packed is packed tight: that one finds a place at all goes before where.
            let is_avoided = fit != Fit::Tight && asked.avoids == Some(at);
            let elsewhere = (asked.first.is_some_and(|first| first != room.zone), is_avoided);
            if fit == Fit::Tight {
                return (elsewhere, 0, 0, Reverse(0), room.bytes.free(), at);
            }
            // Which rack is the group's to choose only where nothing else has.
            let is_open = asked.first.is_none();
            let in_rack = in_rack.get(room.zone.0).copied().filter(|_| is_open).unwrap_or(0);
            let local = asked.local.iter().find(|(node, _)| *node == at).map_or(0, |(_, legs)| *legs);
            (elsewhere, in_rack, self.counts[at], Reverse(local), u64::MAX - room.bytes.free(), at)
        };
        let fits = self.nodes.iter().enumerate().filter(|(_, room)| room.why_not(asked).is_none());
        let best = fits.map(key).min().map(|(.., at)| at);
        for at in &members {
            self.counts[*at] = 0;
        }
        if let Some(group) = asked.group.and_then(|group| self.members.get_mut(group)) {
            *group = members;
        }
        let at = best?;
        self.nodes[at].take(asked.memory_bytes, asked.cores);
        if let Some(group) = asked.group {
            self.join(group, at);
        }
        Some(self.nodes[at].id)
    }

    /// Why each node can't have it, if none can.
    pub(super) fn reasons(&self, asked: &Asked) -> Reasons {
        self.nodes.iter().filter_map(|room| Some((room.id, room.why_not(asked)?))).collect()
    }

    /// Whether a node could have it if nothing else ran there.
    pub(super) fn could(&self, node: NodeId, asked: &Asked) -> bool {
        let could = |room: &Room| asked.memory_bytes <= room.bytes.has && asked.cores <= room.cores.has;
        self.nodes.iter().any(|room| room.id == node && could(room))
    }

    /// Puts them where least is lacking, room or not: the memory and the virtual processors that this takes beside what there is. A node that held
    /// too much already takes that, too.
    pub(super) fn force<'a>(&mut self, all: impl Iterator<Item = &'a Asked>) -> (u64, u64) {
        let mut total = (0, 0);
        let mut counted = BTreeSet::new();
        for asked in all {
            let more = |(at, room): (usize, &Room)| {
                let before =
                    if counted.contains(&at) { (room.bytes.lacks(0), room.cores.lacks(0)) } else { (0, 0) };
                let bytes = room.bytes.lacks(asked.memory_bytes) - before.0;
                (bytes, room.cores.lacks(asked.cores) - before.1, at)
            };
            let may = |room: &Room| matches!(room.why_not(asked), None | Some(Why::Lacks { .. }));
            let best = self.nodes.iter().enumerate().filter(|(_, room)| may(room)).map(more).min();
            let Some((bytes, cores, at)) = best else { continue };
            total = (u64::saturating_add(total.0, bytes), u64::saturating_add(total.1, cores));
            self.nodes[at].take(asked.memory_bytes, asked.cores);
            counted.insert(at);
        }
        total
    }
}
