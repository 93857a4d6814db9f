//! Virtual machines in the ledger: what was asked, where each may run, and the one table of what may follow what.
//!
//! ```text
//!            placed            began                     stop                ended
//!   ┌─────┐─────────►┌──────────┐──────►┌───────────┐──────────►┌──────────┐──────► Off
//!   │ Off │          │ Starting │       │  Running  │  save     ┌──────────┐ saved
//!   └─────┘◄─ lost ──└──────────┘       │           │──────────►│  Saving  │──────► Saved
//!   ┌───────┐ placed ┌───────────┐began │           │           └──────────┘
//!   │ Saved │───────►│ Restoring │─────►└─▲──┬────▲─┘◄──────────────────────────────────┐ began
//!   └───────┘◄─ lost └───────────┘        │  │    └ cancelled ┐                       │
//!       │ stop (its memory is given up)   │  │ migration begun│ switched  ┌─────────┐ │
//!       └──────────► Off       Off ◄ lost,┘  └──────►┌────────┴──┐───────►│ Landing ├─┘
//!                                   ended            │ Migrating │        └─────────┘
//!                                                    └───────────┘
//! ```
//! `lost` and `ended` lead to Off from everywhere (a restored one that has not begun keeps its memory: to Saved; what was saved and is not whole, `spoilt`, is given up: to Off). One that can't
//! be saved runs on (`cancelled`). A forced quorum loses what runs; it, and an override of one of its volumes, give up what was saved. All of it stands in [`transition::VMS`].
//!
//! Purpose: [`Vms`] is the ledger's part, [`command`] what may be asked, [`decide`] what the ledger's leader asks by itself, [`runner`] what a node has
//! against it, [`placing`] the ledger in `placement`'s words.
//!
//! Invariants ([`check`]): a virtual machine may run only where its [`Seat`] says, in that boot, and each seat has a [`Generation`] of its own. Whoever was
//! there before, and may still run, is *yielding*, and nothing is started before nobody is. A volume belongs to one virtual machine. What runs moves live only
//! in the commit that moves all its volumes.
//!
//! On failure: [`VmRejected`], and nothing has changed.

pub mod check;
pub mod command;
pub mod decide;
pub mod placing;
pub mod runner;
#[cfg(test)]
mod tests;
pub mod transition;

use crate::state::State;
pub use command::{Closed, How, VmCommand, VmRejected, VmsCommand};
use model::{BootId, Generation, NodeId, SaveTry, VmId, VmSpec, VolumeId, ZoneName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// All that the ledger knows of virtual machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vms {
    /// Every one.
    pub all: BTreeMap<VmId, Vm>,
    /// What each node has for them. One that has not said so takes none.
    pub rooms: BTreeMap<NodeId, Room>,
    /// Nodes in maintenance, or on the way there, and what becomes of those that can't leave.
    pub draining: BTreeMap<NodeId, Leftover>,
    /// Zones that lost a virtual machine with its node: none goes home there before the zone has been well for as long as [`Policy::hold_down_ms`].
    pub held_down: BTreeSet<ZoneName>,
    /// How they are moved.
    pub policy: Policy,
    /// The highest id given out.
    pub minted: VmId,
}

/// What a node has for virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Room {
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Cores, before overcommit.
    pub cores: u32,
}

/// How virtual machines are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// How long a zone that lost one must have been well before any goes home there, ms.
    pub hold_down_ms: u32,
    /// How many migrate at a time.
    pub migrations_max: u8,
    /// Virtual processors that a node may run, per hundred of its cores.
    pub cores_percent: u32,
}

impl Default for Policy {
    /// A rack that comes back twice within a minute is not back. Migrations share the wires with the volumes' writes.
    fn default() -> Self {
        let cores_percent = placement::vm::CORES_PERCENT_DEFAULT;
        Self { hold_down_ms: 60_000, migrations_max: 2, cores_percent }
    }
}

/// What becomes of those on a node in maintenance that can go nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leftover {
    /// They run on there.
    Stays,
    /// They are saved, and restored when there is a place again.
    Saved,
}

/// What an operator wants of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// That it runs.
    Running,
    /// That it does not. What was saved of its memory is given up.
    Stopped,
    /// That it does not, and goes on later where it was.
    Saved,
}

/// Why a try at saving one came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhyNotSaved {
    /// It is wanted otherwise by now.
    Unwanted,
    /// The volume for its memory did not take it in time: it does not answer, or the pool has no room.
    Late,
    /// The volume for its memory is not there, or failed.
    Volume,
    /// The machine itself could not be made to stand still, or to give its memory away.
    Machine,
    /// It was lost, or ended, before it was saved.
    Lost,
}

/// Why memory that was saved, or was about to be, is gone, though nobody gave it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryLost {
    /// What was saved is not whole, or does not run any more.
    Spoilt,
    /// It was loaded, and could not be wiped: so it was not let run with that.
    NotUsedUp,
    /// A quorum was forced, or a leg of one of its volumes declared good: what was saved does not surely fit to its disks.
    Overridden,
    /// It was lost, or ended, while it was being saved.
    Unsaved,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vm {
    /// What was asked for.
    pub spec: VmSpec,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// The highest generation given out. Only grows.
    pub generation: Generation,
    /// What may be done with it, and where.
    pub phase: VmPhase,
    /// Where it may run, or last might.
    pub last: Option<NodeId>,
    /// Nodes, and their boots, where an earlier run of it may go on: their leases are not known to be over. Nothing is started before each has yielded, but
    /// for the node itself on which it is started: that one ends what it has first.
    pub yielding: BTreeMap<NodeId, BootId>,
    /// How often in a row it did not get where it was to go.
    pub setbacks: u32,
    /// Where it was on its way to when its last migration was given up: the next goes there only if no other node of the zone has room. Until it has begun anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avoids: Option<NodeId>,
    /// Which run of it was saved, as long as its memory may be restored: no other one's is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<Generation>,
    /// The last try at saving it. Only grows: what is heard of an earlier one is void, and what that one has left is never loaded.
    #[serde(default)]
    pub saves: SaveTry,
    /// How much was saved last, bytes.
    #[serde(default)]
    pub saved_bytes: u64,
    /// Why the last try came to nothing, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_saved: Option<WhyNotSaved>,
    /// Why it has not the memory any more with which it was to go on; until it is saved anew, or is wanted stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_lost: Option<MemoryLost>,
}

/// Where it may run: a node in one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seat {
    /// Which node.
    pub node: NodeId,
    /// In which boot: what ran in another is gone.
    pub boot: BootId,
    /// Which run of it.
    pub generation: Generation,
}

/// What may be done with a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmPhase {
    /// Nothing of it is to run anywhere.
    Off,
    /// Its node starts it as soon as it has its volumes.
    Starting {
        /// Where.
        at: Seat,
    },
    /// Its node loads what was saved, and does not let it run before it has [`VmCommand::Began`]: after that the saved memory is older than the volumes.
    Restoring {
        /// Where.
        at: Seat,
    },
    /// It runs.
    Running {
        /// Where.
        at: Seat,
    },
    /// It is shut down.
    Stopping {
        /// Where.
        at: Seat,
    },
    /// Its memory is being saved.
    Saving {
        /// Where.
        at: Seat,
    },
    /// Its memory is saved. Nothing of it is to run.
    Saved,
    /// It runs, and its memory is copied to another node.
    Migrating {
        /// Where it runs.
        from: Seat,
        /// Where it waits, paused.
        to: Seat,
        /// Whether it does.
        ready: bool,
    },
    /// The side and the volumes have moved, in one commit; it goes on there as soon as the volumes are open. Where it was it never does.
    Landing {
        /// Where it was. Perhaps the last of its memory is still sent from there.
        from: Seat,
        /// Where it goes on.
        at: Seat,
    },
}

impl VmPhase {
    /// The seat that has its volumes, or shall have them.
    pub const fn seat(&self) -> Option<Seat> {
        match self {
            Self::Off | Self::Saved => None,
            Self::Starting { at }
            | Self::Restoring { at }
            | Self::Running { at }
            | Self::Stopping { at }
            | Self::Saving { at }
            | Self::Landing { at, .. }
            | Self::Migrating { from: at, .. } => Some(*at),
        }
    }

    /// The other seat, of one that moves: where it waits, or was.
    pub const fn other_seat(&self) -> Option<Seat> {
        match self {
            Self::Migrating { to: other, .. } | Self::Landing { from: other, .. } => Some(*other),
            _ => None,
        }
    }
}

impl Vm {
    /// The first of those, but a node itself, who must yield before it is started there.
    pub fn awaits_yield(&self, on: NodeId) -> Option<NodeId> {
        self.yielding.keys().copied().find(|node| *node != on)
    }
}

impl Vms {
    /// Whose disk a volume is.
    pub fn of_volume(&self, volume: VolumeId) -> Option<(VmId, &Vm)> {
        let found = self.all.iter().find(|(_, vm)| vm.spec.volumes.contains(&volume));
        found.map(|(id, vm)| (*id, vm))
    }

    /// Whether one that is there is to be saved: what a drain saves is wanted running.
    pub fn saves(&self, vm: &Vm, on: NodeId) -> bool {
        match vm.wanted {
            Wanted::Saved => true,
            Wanted::Running => self.draining.get(&on) == Some(&Leftover::Saved),
            Wanted::Stopped => false,
        }
    }

    /// Whether anything of one is on a node, or is to be.
    pub fn is_on(&self, node: NodeId) -> bool {
        let seats = self.all.values().flat_map(|vm| vm.phase.seat().into_iter().chain(vm.phase.other_seat()));
        seats.into_iter().any(|seat| seat.node == node)
    }
}

impl State {
    /// Whether a volume may be given to a node in order: what belongs to a virtual machine goes where that is to run, or stays. (What runs moves with all its
    /// volumes in one commit of its own.)
    pub fn may_go(&self, volume: VolumeId, to: NodeId) -> bool {
        let owner = self.volumes.get(&volume).map(|volume| volume.owner);
        let seat = self.vms.of_volume(volume).and_then(|(_, vm)| vm.phase.seat());
        owner == Some(to) || seat.is_none_or(|seat| seat.node == to)
    }
}
