//! The input with numbers in place of names, so that what is compared often is compared fast.

use super::{Because, Cluster, NodeState, Now, Vm, Vms};
use model::{GroupName, NodeId, VmId, ZoneName};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// A zone, counted from 0 in the order in which they are met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone(pub(super) usize);

/// Zones and groups by number, nodes by place in the ascending order of ids.
pub(super) struct Names<'a> {
    zones: Vec<&'a ZoneName>,
    groups: HashMap<&'a GroupName, usize>,
    nodes: Vec<NodeId>,
}

/// A virtual machine for which a place is looked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) vm: VmId,
    pub(super) memory_bytes: u64,
    pub(super) cores: u64,
    pub(super) group: Option<usize>,
    /// It goes nowhere else.
    pub(super) only: Option<Zone>,
    /// It goes there if there is room.
    pub(super) first: Option<Zone>,
    /// How many of its volumes have a leg on a node: those that have any.
    pub(super) local: Vec<(usize, u32)>,
    /// A node that is taken last of its zone's.
    pub(super) avoids: Option<usize>,
    pub(super) from: Option<NodeId>,
    pub(super) because: Because,
}

impl Asked {
    /// The hardest to place first: those that have one zone only, then by size.
    pub(super) fn largest_first(&self) -> impl Ord + use<> {
        (self.only.is_none(), Reverse(self.memory_bytes), Reverse(self.cores), self.vm)
    }

    /// The easiest to fit first, but those that have one zone only before the others.
    pub(super) fn smallest_first(&self) -> impl Ord + use<> {
        (self.only.is_none(), self.memory_bytes, self.cores, self.vm)
    }
}

/// What is to be done with one.
pub(super) enum Wish {
    /// Nothing.
    Stays(NodeId),
    /// A place must be looked for.
    Needs(Asked),
    /// It may go home if there is room, and stays on the node until then.
    Home(Asked, NodeId),
}

impl<'a> Names<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let mut names = Self {
            zones: Vec::new(),
            groups: HashMap::new(),
            nodes: cluster.nodes.keys().copied().collect(),
        };
        for node in cluster.nodes.values() {
            names.zone(&node.zone);
        }
        names
    }

    /// A zone's number. There are two of them, and perhaps a few that no node is in.
    pub(super) fn zone(&mut self, zone: &'a ZoneName) -> Zone {
        Zone(self.zones.iter().position(|known| *known == zone).unwrap_or_else(|| {
            self.zones.push(zone);
            self.zones.len() - 1
        }))
    }

    pub(super) fn group(&mut self, group: &'a GroupName) -> usize {
        let next = self.groups.len();
        *self.groups.entry(group).or_insert(next)
    }

    pub(super) fn at(&self, node: NodeId) -> Option<usize> {
        self.nodes.binary_search(&node).ok()
    }

    /// What is to be done with one: who runs where it may stays, unless it may go home.
    pub(super) fn wish(&mut self, cluster: &'a Cluster, id: VmId, vm: &'a Vm) -> Wish {
        let home = vm.spec.placement.home();
        let (node, runs) = match vm.now {
            Now::Runs(node) => (Some(node), true),
            Now::Off(node) => (node, false),
        };
        let found = node.and_then(|node| cluster.nodes.get(&node));
        let at_home = found.is_some_and(|found| home == Some(&found.zone));
        let is_strict = vm.spec.placement.is_strict();
        let ready = home.is_some_and(|home| cluster.ready.contains(home));
        let because = match (runs, found.map(|found| found.state)) {
            (false, _) => Because::Starts,
            (true, None | Some(NodeState::Down)) => Because::NodeLost,
            (true, _) if is_strict && !at_home => Because::OutsideZone,
            (true, Some(NodeState::Draining)) => Because::NodeDrains,
            (true, Some(NodeState::Up)) => Because::GoesHome,
        };
        let goes_home = because == Because::GoesHome;
        if let Some(on) = node.filter(|_| goes_home && (at_home || !ready)) {
            return Wish::Stays(on);
        }
        let last = found.map(|found| &found.zone);
        let first = home.filter(|_| ready).or(last).or(home).map(|zone| self.zone(zone));
        let asked = Asked {
            vm: id,
            memory_bytes: vm.spec.memory_bytes,
            cores: u64::from(vm.spec.cores),
            group: vm.spec.anti_affinity.as_ref().map(|group| self.group(group)),
            only: home.filter(|_| is_strict || goes_home).map(|zone| self.zone(zone)),
            first,
            local: self.local(cluster, vm),
            avoids: vm.avoids.and_then(|node| self.at(node)),
            from: node.filter(|_| runs),
            because,
        };
        match node {
            Some(on) if goes_home => Wish::Home(asked, on),
            _ => Wish::Needs(asked),
        }
    }

    fn local(&self, cluster: &Cluster, vm: &Vm) -> Vec<(usize, u32)> {
        let mut local = BTreeMap::new();
        let legs = vm.spec.volumes.iter().filter_map(|volume| cluster.legs.get(volume)).flatten();
        for at in legs.filter_map(|node| self.at(*node)) {
            *local.entry(at).or_default() += 1;
        }
        local.into_iter().collect()
    }
}

/// Who runs on which node, the lost ones left out.
pub(super) fn running<'a>(cluster: &'a Cluster, vms: &'a Vms) -> impl Iterator<Item = (&'a Vm, NodeId)> {
    vms.values().filter_map(|vm| match vm.now {
        Now::Runs(node) if cluster.nodes.get(&node).is_some_and(|found| found.state != NodeState::Down) => {
            Some((vm, node))
        }
        _ => None,
    })
}
