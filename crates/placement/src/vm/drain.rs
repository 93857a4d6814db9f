//! What becomes of the virtual machines on a node or rack that is emptied in order.

use super::asked::Asked;
use super::plan::planned;
use super::reason::{amount, told};
use super::room::Rooms;
use super::{Cluster, Move, NodeState, Now, Reasons, Vm, Vms, Why};
use model::{NodeId, VmId, VmName, ZoneName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// A node.
    Node(NodeId),
    /// All nodes of a rack.
    Rack(ZoneName),
    /// These.
    Nodes(BTreeSet<NodeId>),
}

/// What becomes of those that can't move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// They are in the way: the drain is refused, and nothing moves.
    Refuse,
    /// They are saved: the operator has said so. Those that have no volume for their memory are in the way.
    Save,
}

/// What a drain does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drain {
    /// Who is migrated where, in this order.
    pub moves: Vec<Move>,
    /// Who is saved, and why it moves to no node.
    pub saved: BTreeMap<VmId, Reasons>,
}

/// Why there is no drain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDrained {
    /// There is no such node.
    #[error("there is no {0}")]
    NoSuchNode(NodeId),
    /// There is no such rack.
    #[error("there is no zone `{0}`")]
    NoSuchRack(ZoneName),
    /// These can't move.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    InTheWay(Vec<InTheWay>),
}

/// One that can't move, and what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InTheWay {
    /// Who.
    pub vm: VmId,
    /// Its name.
    pub name: VmName,
    /// Where it runs.
    pub on: NodeId,
    /// The zone that it never leaves, if the drain takes the last node of it that is up.
    pub last_home: Option<ZoneName>,
    /// Why each node can't have it.
    pub reasons: Reasons,
    /// What would let the drain go on. Any one of it does, for this virtual machine.
    pub helps: Vec<Help>,
}

/// What would let a drain go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Help {
    /// One of these nodes, up again: it has room when it is empty.
    BringBack(Vec<NodeId>),
    /// So much less on the node that lacks least.
    Room {
        /// Which node.
        node: NodeId,
        /// Memory.
        bytes: u64,
        /// Virtual processors.
        cores: u64,
    },
    /// A node outside its zone has room: it would go there if it were not strict.
    NotStrict,
    /// To stop it, or to order the drain with what can't move being saved.
    Save,
    /// To stop it: it has no volume for its memory.
    Stop,
}

impl fmt::Display for Help {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BringBack(nodes) => {
                let nodes = nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
                write!(f, "bring {nodes} back")
            }
            Self::Room { node, bytes, cores } => {
                write!(f, "free {} on {node}", amount(*bytes, *cores))
            }
            Self::NotStrict => f.write_str("make it non-strict"),
            Self::Save => f.write_str("stop it, or drain with what can't move being saved"),
            Self::Stop => f.write_str("stop it (it has no volume to save its memory on)"),
        }
    }
}

impl fmt::Display for InTheWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vm, name, on, last_home, reasons, helps } = self;
        write!(f, "{vm} `{name}` on {on} is in the way")?;
        if let Some(zone) = last_home {
            write!(f, ": it is strict, and this is the last of {zone}")?;
        }
        let helps = helps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; or ");
        write!(f, " ({}). What would help: {helps}", told(reasons))
    }
}

/// What a drain would do, or who is in its way: what [`super::plan()`] would say if these nodes were draining.
///
/// Only those on what is drained are spoken of: others may be held elsewhere, or off, with or without it.
pub fn drain(cluster: &Cluster, vms: &Vms, what: &Drained, leftover: Leftover) -> Result<Drain, NotDrained> {
    let drained = nodes_of(cluster, what)?;
    let mut after = cluster.clone();
    for (_, node) in after.nodes.iter_mut().filter(|(id, _)| drained.contains(id)) {
        if node.state == NodeState::Up {
            node.state = NodeState::Draining;
        }
    }
    let planned = planned(&after, vms);
    let is_there = |vm: VmId| {
        let now = vms.get(&vm).map(|vm| vm.now);
        matches!(now, Some(Now::Runs(node)) if drained.contains(&node))
    };
    let mut drain = Drain::default();
    drain
        .moves
        .extend(planned.plan.moves.iter().filter(|moved| moved.because.is_live() && is_there(moved.vm)));
    let stuck = planned.without.iter().filter(|asked| asked.because.is_live() && is_there(asked.vm));
    let mut in_the_way = Vec::new();
    for asked in stuck {
        let (Some(held), Some(vm)) = (planned.plan.held.get(&asked.vm), vms.get(&asked.vm)) else { continue };
        let can_be_saved = vm.spec.saves_to.is_some();
        if leftover == Leftover::Save && can_be_saved {
            drain.saved.insert(asked.vm, held.reasons.clone());
            continue;
        }
        let mut helps = helps(&after, &drained, &planned.rooms, asked, &held.reasons);
        helps.push(if can_be_saved { Help::Save } else { Help::Stop });
        in_the_way.push(InTheWay {
            vm: asked.vm,
            name: vm.spec.name.clone(),
            on: held.on,
            last_home: last_home(vm, &held.reasons),
            reasons: held.reasons.clone(),
            helps,
        });
    }
    in_the_way.sort_by_key(|found| found.vm);
    if in_the_way.is_empty() { Ok(drain) } else { Err(NotDrained::InTheWay(in_the_way)) }
}

fn nodes_of(cluster: &Cluster, what: &Drained) -> Result<BTreeSet<NodeId>, NotDrained> {
    match what {
        Drained::Node(id) if cluster.nodes.contains_key(id) => Ok(BTreeSet::from([*id])),
        Drained::Node(id) => Err(NotDrained::NoSuchNode(*id)),
        Drained::Nodes(ids) => {
            let unknown = ids.iter().find(|id| !cluster.nodes.contains_key(id));
            unknown.map_or_else(|| Ok(ids.clone()), |id| Err(NotDrained::NoSuchNode(*id)))
        }
        Drained::Rack(zone) => {
            let nodes = cluster.nodes.iter().filter(|(_, node)| node.zone == *zone).map(|(id, _)| *id);
            let nodes: BTreeSet<NodeId> = nodes.collect();
            if nodes.is_empty() { Err(NotDrained::NoSuchRack(zone.clone())) } else { Ok(nodes) }
        }
    }
}

/// The zone of a strict one, if no node of it is up beside what is drained.
fn last_home(vm: &Vm, reasons: &Reasons) -> Option<ZoneName> {
    let other = reasons.values().any(|why| matches!(why, Why::Lacks { .. }));
    let home = vm.spec.placement.home().filter(|_| vm.spec.placement.is_strict() && !other)?;
    Some(home.clone())
}

/// What would help one of them, the least effort first.
fn helps(
    after: &Cluster,
    drained: &BTreeSet<NodeId>,
    rooms: &Rooms,
    asked: &Asked,
    reasons: &Reasons,
) -> Vec<Help> {
    let mut helps = Vec::new();
    let could = |id: &NodeId| rooms.could(*id, asked);
    let is_away = |(id, why): &(&NodeId, &Why)| {
        matches!(why, Why::Down | Why::Drains) && !drained.contains(id) && could(id)
    };
    let away: Vec<NodeId> = reasons.iter().filter(is_away).map(|(id, _)| *id).collect();
    if !away.is_empty() {
        helps.push(Help::BringBack(away));
    }
    let lacks = reasons.iter().filter_map(|(id, why)| match why {
        Why::Lacks { bytes, cores } if could(id) => Some((*bytes, *cores, *id)),
        _ => None,
    });
    if let Some((bytes, cores, node)) = lacks.min() {
        helps.push(Help::Room { node, bytes, cores });
    }
    let anywhere = Asked { only: None, ..asked.clone() };
    if asked.only.is_some() && rooms.reasons(&anywhere).len() < after.nodes.len() {
        helps.push(Help::NotStrict);
    }
    helps
}
