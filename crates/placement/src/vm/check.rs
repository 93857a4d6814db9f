//! The rules, held against a plan. Nothing here is shared with what makes one.

use super::{Because, Cluster, Node, NodeState, Now, Plan, Reasons, Vm, Vms, Why};
use model::{NodeId, VmId, ZoneName};
use std::collections::BTreeMap;

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The plan says nothing of one, or more than one thing, or speaks of one that there is not.
    #[error("the plan speaks {1} times of {0}")]
    Said(VmId, usize),
    /// One is put on a node that is not there or not up.
    #[error("{0} is put on {1}, which is not up")]
    NotUp(VmId, NodeId),
    /// A strict one is put outside its zone.
    #[error("{0} is strict and put on {1}, outside its zone")]
    OutsideZone(VmId, NodeId),
    /// A node is given more than it has, those that leave it counted.
    #[error("{0} is given more than it has")]
    Full(NodeId),
    /// Something is said of one that is not so: where it is, or why it moves.
    #[error("{0} is not where or what the plan takes it for")]
    NotSo(VmId),
    /// One is moved that may stay.
    #[error("{0} is moved without need")]
    Needless(VmId),
    /// One goes to the other zone, or stays there, and the zone that comes first has room.
    #[error("{0} is on {1}, and its zone has room on {2}")]
    ZoneHasRoom(VmId, NodeId, NodeId),
    /// One has no place, and a node has room.
    #[error("{0} has no place, and {1} has room")]
    HasRoom(VmId, NodeId),
    /// What is said of a node is not why it can't have it, or there is not one reason for each node.
    #[error("why {0} has no place is not said right")]
    Reasons(VmId),
    /// Something less urgent is in front of something more urgent.
    #[error("{0} is late in the order of moves")]
    Late(VmId),
}

/// Everything that does not hold of a plan.
pub fn check(cluster: &Cluster, vms: &Vms, plan: &Plan) -> Vec<Broken> {
    let checker = Checker { cluster, vms, held: held(vms, plan) };
    let mut broken = checker.said(plan);
    broken.extend(checker.full(plan));
    for moved in &plan.moves {
        let Some(vm) = vms.get(&moved.vm) else { continue };
        let from = match vm.now {
            Now::Runs(node) => Some(node),
            Now::Off(_) => None,
        };
        if from != moved.from || !checker.is_so(vm, moved.because) {
            broken.push(Broken::NotSo(moved.vm));
        }
        broken.extend(checker.put(moved.vm, vm, moved.to));
        broken.extend(checker.zone_has_room(moved.vm, vm, moved.to));
    }
    for (id, on) in &plan.stays {
        broken.extend(vms.get(id).and_then(|vm| checker.stays(*id, vm, *on)));
    }
    for (id, held) in &plan.held {
        let Some(vm) = vms.get(id) else { continue };
        let is_so = vm.now == Now::Runs(held.on) && held.because.is_live();
        if !is_so || held.because == Because::GoesHome || !checker.is_so(vm, held.because) {
            broken.push(Broken::NotSo(*id));
        }
        broken.extend(checker.without(*id, vm, &held.reasons));
    }
    for (id, off) in &plan.off {
        let Some(vm) = vms.get(id) else { continue };
        let is_so = match (vm.now, off.lost_with) {
            (Now::Runs(node), Some(lost)) => node == lost && checker.is_lost(node),
            (Now::Off(_), None) => true,
            _ => false,
        };
        if !is_so {
            broken.push(Broken::NotSo(*id));
        }
        broken.extend(checker.without(*id, vm, &off.reasons));
    }
    let rank = |because: Because| match because {
        Because::NodeLost | Because::Starts => 0,
        Because::OutsideZone | Because::NodeDrains => 1,
        Because::GoesHome => 2,
    };
    let late = plan.moves.windows(2).filter(|pair| rank(pair[0].because) > rank(pair[1].because));
    broken.extend(late.map(|pair| Broken::Late(pair[1].vm)));
    broken
}

/// What each node holds while the moves are carried out, memory and virtual processors: who comes and who goes are both there.
fn held(vms: &Vms, plan: &Plan) -> BTreeMap<NodeId, (u128, u128)> {
    let mut held: BTreeMap<NodeId, (u128, u128)> = BTreeMap::new();
    let mut add = |node: NodeId, vm: &Vm| {
        let (bytes, cores) = held.entry(node).or_default();
        *bytes += u128::from(vm.spec.memory_bytes);
        *cores += u128::from(vm.spec.cores);
    };
    for vm in vms.values() {
        if let Now::Runs(node) = vm.now {
            add(node, vm);
        }
    }
    for moved in &plan.moves {
        if let Some(vm) = vms.get(&moved.vm) {
            add(moved.to, vm);
        }
    }
    held
}

struct Checker<'a> {
    cluster: &'a Cluster,
    vms: &'a Vms,
    held: BTreeMap<NodeId, (u128, u128)>,
}

impl Checker<'_> {
    fn node(&self, id: NodeId) -> Option<&Node> {
        self.cluster.nodes.get(&id)
    }

    fn is_lost(&self, id: NodeId) -> bool {
        self.node(id).is_none_or(|node| node.state == NodeState::Down)
    }

    /// Each once.
    fn said(&self, plan: &Plan) -> Vec<Broken> {
        let mut times: BTreeMap<VmId, usize> = self.vms.keys().map(|vm| (*vm, 0)).collect();
        let said = plan.moves.iter().map(|moved| &moved.vm);
        for vm in said.chain(plan.stays.keys()).chain(plan.held.keys()).chain(plan.off.keys()) {
            // One that there is not is wrong even once.
            *times.entry(*vm).or_insert(1) += 1;
        }
        times
            .into_iter()
            .filter(|(_, times)| *times != 1)
            .map(|(vm, times)| Broken::Said(vm, times))
            .collect()
    }

    /// Nodes that are given something have it. One that holds too much already may hold it on, but is given nothing.
    fn full(&self, plan: &Plan) -> Vec<Broken> {
        let mut given: Vec<NodeId> = plan.moves.iter().map(|moved| moved.to).collect();
        given.sort_unstable();
        given.dedup();
        given.retain(|id| self.node(*id).is_some_and(|node| self.lacks(*id, node, 0, 0) != (0, 0)));
        given.into_iter().map(Broken::Full).collect()
    }

    /// What a node lacks for so much more.
    fn lacks(&self, id: NodeId, node: &Node, bytes: u64, cores: u32) -> (u128, u128) {
        let (held_bytes, held_cores) = self.held.get(&id).copied().unwrap_or_default();
        let has_cores = u128::from(node.cores) * u128::from(self.cluster.cores_percent) / 100;
        let bytes = (held_bytes + u128::from(bytes)).saturating_sub(u128::from(node.memory_bytes));
        (bytes, (held_cores + u128::from(cores)).saturating_sub(has_cores))
    }

    fn has_room(&self, id: NodeId, node: &Node, vm: &Vm) -> bool {
        node.state == NodeState::Up && self.lacks(id, node, vm.spec.memory_bytes, vm.spec.cores) == (0, 0)
    }

    fn is_outside(vm: &Vm, node: &Node) -> bool {
        vm.spec.placement.is_strict() && vm.spec.placement.home() != Some(&node.zone)
    }

    /// Whether it is as the plan says of one that moves or should.
    fn is_so(&self, vm: &Vm, because: Because) -> bool {
        let (Now::Runs(on), true) = (vm.now, because != Because::Starts) else {
            return matches!(vm.now, Now::Off(_)) && because == Because::Starts;
        };
        let Some(node) = self.node(on).filter(|node| node.state != NodeState::Down) else {
            return because == Because::NodeLost;
        };
        let home = vm.spec.placement.home();
        match because {
            Because::OutsideZone => Self::is_outside(vm, node),
            Because::NodeDrains => node.state == NodeState::Draining && !Self::is_outside(vm, node),
            Because::GoesHome => {
                let is_ready = home.is_some_and(|home| self.cluster.ready.contains(home));
                node.state == NodeState::Up && is_ready && home != Some(&node.zone)
            }
            Because::NodeLost | Because::Starts => false,
        }
    }

    /// Whether one may be put there.
    fn put(&self, id: VmId, vm: &Vm, to: NodeId) -> Option<Broken> {
        let Some(node) = self.node(to).filter(|node| node.state == NodeState::Up) else {
            return Some(Broken::NotUp(id, to));
        };
        if Self::is_outside(vm, node) {
            return Some(Broken::OutsideZone(id, to));
        }
        let Now::Runs(from) = vm.now else { return None };
        let from = self.node(from)?;
        let may_stay = from.state == NodeState::Up && !Self::is_outside(vm, from);
        let goes_home = vm.spec.placement.home() == Some(&node.zone)
            && self.cluster.ready.contains(&node.zone)
            && from.zone != node.zone;
        (may_stay && !goes_home).then_some(Broken::Needless(id))
    }

    /// The zone that comes first: home if it is strict or that is ready, else where it was last, else home.
    fn first<'a>(&'a self, vm: &'a Vm) -> Option<&'a ZoneName> {
        let home = vm.spec.placement.home();
        let last = match vm.now {
            Now::Runs(node) => Some(node),
            Now::Off(node) => node,
        };
        let last = last.and_then(|node| self.node(node)).map(|node| &node.zone);
        match home {
            Some(home) if vm.spec.placement.is_strict() || self.cluster.ready.contains(home) => Some(home),
            home => last.or(home),
        }
    }

    fn zone_has_room(&self, id: VmId, vm: &Vm, on: NodeId) -> Option<Broken> {
        let first = self.first(vm)?;
        if self.node(on)?.zone == *first {
            return None;
        }
        let in_zone = self.cluster.nodes.iter().filter(|(_, node)| node.zone == *first);
        let room = in_zone.filter(|(node, found)| self.has_room(**node, found, vm)).map(|(node, _)| *node);
        room.map(|node| Broken::ZoneHasRoom(id, on, node)).next()
    }

    /// Whether one may stay where it is, and need not go home.
    fn stays(&self, id: VmId, vm: &Vm, on: NodeId) -> Option<Broken> {
        let node = self.node(on).filter(|node| node.state == NodeState::Up);
        let Some(node) = node.filter(|_| vm.now == Now::Runs(on)) else { return Some(Broken::NotSo(id)) };
        if Self::is_outside(vm, node) {
            return Some(Broken::OutsideZone(id, on));
        }
        self.zone_has_room(id, vm, on)
    }

    /// Whether there is no place for one, and that is said of every node.
    fn without(&self, id: VmId, vm: &Vm, reasons: &Reasons) -> Option<Broken> {
        let why = |node: NodeId, found: &Node| match found.state {
            _ if Self::is_outside(vm, found) => Some(Why::OutsideZone),
            NodeState::Down => Some(Why::Down),
            NodeState::Draining => Some(Why::Drains),
            NodeState::Up => {
                let (bytes, cores) = self.lacks(node, found, vm.spec.memory_bytes, vm.spec.cores);
                let lacks = Why::Lacks { bytes: bytes.try_into().ok()?, cores: cores.try_into().ok()? };
                ((bytes, cores) != (0, 0)).then_some(lacks)
            }
        };
        let whys = self.cluster.nodes.iter().map(|(node, found)| (*node, why(*node, found)));
        let whys: BTreeMap<NodeId, Option<Why>> = whys.collect();
        if let Some((node, _)) = whys.iter().find(|(_, why)| why.is_none()) {
            return Some(Broken::HasRoom(id, *node));
        }
        let right =
            whys.len() == reasons.len() && whys.iter().all(|(node, why)| reasons.get(node).copied() == *why);
        (!right).then_some(Broken::Reasons(id))
    }
}
