//! Where virtual machines run: home zones, strict or not, groups that are kept apart, memory and cores, drains, the loss of a rack.
//!
//! Purpose: [`plan()`] says of every virtual machine where it shall run, from what the cluster is and where they run now. [`admit()`] says
//! whether one more still fits when a rack is lost, [`drain()`] what becomes of those on a node or rack that is emptied. [`check()`] holds
//! a plan against the rules: it shares no code with the planner.
//!
//! Rules:
//! 1. Who runs on a node that is up, where it may be, stays there. Nobody is moved to make room for another, or for balance.
//! 2. A strict one is put nowhere but in its home zone.
//! 3. Memory is a hard limit, and so are cores times the overcommit factor. Who leaves a node holds its memory there until it has left,
//!    so that the moves of a plan may be carried out in any order, and all at once.
//! 4. Those that don't run come first, then those that must leave where they are, then those that may go home.
//! 5. The zone first: the home zone if it is ready or the virtual machine was there last, else the zone where it was last. The other
//!    zone only when no node of that one has room.
//! 6. In a zone, the node with fewest of the same group, then the one that has most of its volumes' legs, then the one with most free memory.
//! 7. No plan stops what runs: who must leave a node and has nowhere to go is [`Held`] there. Only who does not run anyway is [`Off`].
//!
//! Invariants: deterministic; the input has no order. Who is off or held fits on no node beside those that the plan puts there: one reason per
//! node says why. That the most run is *not* promised (see docs/virtual-machines.md for what is).

mod admit;
mod asked;
mod check;
mod drain;
mod plan;
mod reason;
mod room;
#[cfg(test)]
mod tests;

pub use admit::{Lack, NotAdmitted, admit, admit_placement};
pub use check::{Broken, check};
pub use drain::{Drain, Drained, Help, InTheWay, Leftover, NotDrained, drain};
use model::{NodeId, VmId, VmSpec, VolumeId, ZoneName};
pub use plan::plan;
pub use reason::Why;
use std::collections::{BTreeMap, BTreeSet};

/// What a virtual processor costs unless the cluster says otherwise: four of them to a core.
pub const CORES_PERCENT_DEFAULT: u32 = 400;

/// What virtual machines run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The nodes; the witness is none of them.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Virtual processors that a node may run, per hundred of its cores.
    pub cores_percent: u32,
    /// Zones to which virtual machines may go home: their legs are in sync, and they have been well for long enough. Somebody else's to say.
    pub ready: BTreeSet<ZoneName>,
    /// The nodes that have a leg of a volume. Reads are local there; it may be opened elsewhere, too.
    pub legs: BTreeMap<VolumeId, BTreeSet<NodeId>>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its rack.
    pub zone: ZoneName,
    /// Its memory for virtual machines, bytes.
    pub memory_bytes: u64,
    /// Its cores, before overcommit.
    pub cores: u32,
    /// Whether it takes any.
    pub state: NodeState,
}

/// Whether a node takes virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It does.
    Up,
    /// It is lost: what ran there does not run.
    Down,
    /// In maintenance, or on the way there: it takes none, and what runs there shall leave.
    Draining,
}

/// A virtual machine that shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// What it is.
    pub spec: VmSpec,
    /// Where it is.
    pub now: Now,
    /// Where it was on its way to when its last migration was given up: it goes there only if no other node of the zone has room.
    pub avoids: Option<NodeId>,
}

/// Where a virtual machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// It was started there, and nothing has ended it but, perhaps, the loss of the node.
    Runs(NodeId),
    /// It does not run, and where it last did, if it ever did. One whose node came back from being lost is this.
    Off(Option<NodeId>),
}

/// All that shall run.
pub type Vms = BTreeMap<VmId, Vm>;

/// Where everything shall run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What moves or starts, the most urgent first. Every part of it may be carried out alone.
    pub moves: Vec<Move>,
    /// Who goes on where it is.
    pub stays: BTreeMap<VmId, NodeId>,
    /// Who should leave where it runs, but can go nowhere: it goes on running.
    pub held: BTreeMap<VmId, Held>,
    /// Who does not run.
    pub off: BTreeMap<VmId, Off>,
}

/// One that shall run elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Who.
    pub vm: VmId,
    /// Where it is, or was when that node was lost.
    pub from: Option<NodeId>,
    /// Where it shall be.
    pub to: NodeId,
    /// Why.
    pub because: Because,
}

/// Why something moves, or should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// Its node was lost: it is started anew elsewhere.
    NodeLost,
    /// It does not run: it is started.
    Starts,
    /// It is strict and outside its zone, because it was made so there: it is migrated live.
    OutsideZone,
    /// Its node is being drained: it is migrated live.
    NodeDrains,
    /// Its home zone is ready again: it is migrated live.
    GoesHome,
}

impl Because {
    /// Whether it is running meanwhile.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::OutsideZone | Self::NodeDrains | Self::GoesHome)
    }
}

/// Why each node can't have it: one reason per node of the cluster.
pub type Reasons = BTreeMap<NodeId, Why>;

/// One that should leave where it runs, but can't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Where it goes on running.
    pub on: NodeId,
    /// Why it should leave.
    pub because: Because,
    /// Why each node can't have it.
    pub reasons: Reasons,
}

/// One that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Off {
    /// Where it ran when that node was lost; none if it was off already.
    pub lost_with: Option<NodeId>,
    /// Why each node can't have it.
    pub reasons: Reasons,
}

impl Plan {
    /// Where it runs when all is carried out.
    pub fn node_of(&self, vm: VmId) -> Option<NodeId> {
        let moved = self.moves.iter().find(|moved| moved.vm == vm).map(|moved| moved.to);
        moved.or_else(|| self.stays.get(&vm).copied()).or_else(|| self.held.get(&vm).map(|held| held.on))
    }

    /// The virtual machines as they are when all is carried out: what is lost with its node is off.
    #[must_use]
    pub fn carried_out(&self, vms: &Vms) -> Vms {
        let mut after = vms.clone();
        let mut set = |vm: &VmId, now: Now| {
            if let Some(found) = after.get_mut(vm) {
                found.now = now;
            }
        };
        self.moves.iter().for_each(|moved| set(&moved.vm, Now::Runs(moved.to)));
        for (vm, off) in &self.off {
            if let Some(node) = off.lost_with {
                set(vm, Now::Off(Some(node)));
            }
        }
        after
    }
}
