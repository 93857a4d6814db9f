//! What may be asked about virtual machines, and why it is refused.
//!
//! A command about one names the generation that its sender believes in: a proposal is a compare-and-swap, and sending one twice, or late, is
//! harmless. What operators ask names none: it says what is wanted, whatever goes on.

use super::transition::{VmCause, VmKind};
use super::{Leftover, Policy, Room, Wanted, WhyNotSaved};
use crate::command::LegRef;
use model::{
    BootId, Epoch, Generation, NodeId, SaveTry, VmId, VmNic, VmPlacement, VmSpec, VolumeId, ZoneName,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What operators and nodes ask about virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmsCommand {
    /// Make one, under the next id. Whoever proposes has asked [`super::placing::admit`] whether it still fits when a rack is lost.
    Create(Box<VmSpec>),
    /// One is no longer wanted. Its volumes are nobody's.
    Delete(VmId),
    /// What is wanted of one.
    Want(VmId, Wanted),
    /// Where one may run. Whoever is where it may no longer be moves by itself.
    SetPlacement(VmId, VmPlacement),
    /// What a node has for them.
    SetRoom(NodeId, Room),
    /// How they are moved.
    SetPolicy(Policy),
    /// These nodes are to be emptied, and take none. Whoever proposes has asked [`super::placing::drain`] who would be in the way.
    Drain {
        /// Which.
        nodes: BTreeSet<NodeId>,
        /// What becomes of those that can't leave.
        leftover: Leftover,
    },
    /// They take some again.
    EndDrain {
        /// Which.
        nodes: BTreeSet<NodeId>,
    },
    /// The decider: a zone has been well for long enough.
    ZoneReady(ZoneName),
}

/// What may be asked about one. The generation that comes with it must be the highest that was given out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmCommand {
    /// The decider: it shall run there, under the next generation.
    Place {
        /// Where.
        on: NodeId,
    },
    /// Its node: it runs; or, restored, is about to.
    Began,
    /// Its node: nothing of it runs.
    Ended(How),
    /// The decider: its node is lost, or has booted anew.
    Lost,
    /// The decider: shut it down; or give up what was saved.
    Stop,
    /// The decider: save it, which is the next try at that.
    Save,
    /// The decider, or an operator: it shall go on there, under the next generation.
    Migrate {
        /// Where.
        to: NodeId,
    },
    /// The node that is to receive it: it waits there.
    IncomingReady,
    /// Its node: it is paused, and its volumes are closed. Side and volumes move, all at once.
    Switch {
        /// Each of its volumes, as it was closed.
        volumes: BTreeMap<VolumeId, Closed>,
    },
    /// Either side, or the decider: it stays where it runs.
    Cancel,
    /// Its node: it can't be saved. The decider: it shall not be any more. Either way it runs on, and is not wanted saved.
    GiveUpSaving(SaveTry, WhyNotSaved),
    /// Nothing of an earlier run goes on there: the decider, since the lease is over or the node has booted anew; or that node itself.
    Yielded {
        /// Which node.
        node: NodeId,
        /// In which boot.
        boot: BootId,
    },
}

/// A volume that was closed for a switch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Closed {
    /// In this epoch.
    pub epoch: Epoch,
    /// The legs that have taken the flush.
    pub flushed: BTreeSet<LegRef>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Nobody asked for it; or it was killed.
    Died,
    /// It shut itself down.
    PoweredOff,
    /// Its memory is saved, by this try: so many bytes. What is left of it stands still, and is ended as soon as the ledger has it.
    Saved(SaveTry, u64),
    /// It was to be restored, and what was saved is not whole, or another run's; or it was, and could not be used up, and so has not run.
    Spoilt,
}

/// Why something about a virtual machine was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum VmRejected {
    /// No such virtual machine.
    #[error("there is no {0}")]
    NoSuchVm(VmId),
    /// Another run of it has been begun.
    #[error("superseded: it is in generation {present}")]
    Superseded {
        /// Its generation.
        present: Generation,
    },
    /// The phase does not allow it.
    #[error("a virtual machine that is {phase:?} can't change by {cause:?}")]
    Cannot {
        /// Its phase.
        phase: VmKind,
        /// What was wanted.
        cause: VmCause,
    },
    /// It runs, or may still run somewhere.
    #[error("it is {0:?}, or may still run somewhere: stop it first")]
    NotOff(VmKind),
    /// It is not wanted running.
    #[error("it is wanted {0:?}")]
    NotWanted(Wanted),
    /// Nothing runs without.
    #[error("a virtual machine needs memory, at least one core and at least one volume")]
    Empty,
    /// More NICs than one may have.
    #[error("a virtual machine has {max} NICs at most, not {0}", max = VmNic::MAX)]
    Nics(usize),
    /// One of its disks is named twice, or is another's, or is not there.
    #[error("{0} can't be its disk: it is named twice, another's, or not there")]
    Disk(VolumeId),
    /// It has no volume for its memory.
    #[error("it has no volume to save its memory on")]
    NowhereToSave,
    /// It is not being saved, or by a later try.
    #[error("that try at saving it is over")]
    NotThatTry(SaveTry),
    /// Saving it is given up as unwanted, and it is wanted.
    #[error("it is to be saved")]
    SavesOn,
    /// What is saved of it would be forgotten.
    #[error("its memory is saved: stop it first, which gives that up")]
    HoldsMemory,
    /// Its memory is saved on a volume that is not its own.
    #[error("{0}, which its memory is to be saved on, is not one of its volumes")]
    NotItsVolume(VolumeId),
    /// No node is in the zone.
    #[error("there is no zone `{0}`")]
    NoSuchZone(ZoneName),
    /// It never leaves its zone.
    #[error("{0} is outside the zone that it never leaves")]
    OutsideZone(NodeId),
    /// The node is to be emptied.
    #[error("{0} is in maintenance")]
    Drains(NodeId),
    /// The node has not enough left.
    #[error("{node} lacks {bytes} bytes of memory and {cores} virtual cores")]
    NoRoom {
        /// Which.
        node: NodeId,
        /// Memory.
        bytes: u64,
        /// Virtual processors.
        cores: u64,
    },
    /// It runs there.
    #[error("it is on {0} already")]
    There(NodeId),
    /// One of its volumes is not open where it runs.
    #[error("{0} is not open where it runs")]
    NotItsOwn(VolumeId),
    /// Not all of its volumes are named.
    #[error("a switch moves all volumes at once")]
    NotAllVolumes,
    /// What is to receive it does not wait yet.
    #[error("what is to receive it is not ready")]
    NotReady,
    /// The volume goes where its virtual machine runs.
    #[error("{volume} is a disk of {vm}, which is to have it elsewhere")]
    OfVm {
        /// Which volume.
        volume: VolumeId,
        /// Whose.
        vm: VmId,
    },
    /// Nothing is begun while an earlier run may go on.
    #[error("an earlier run may go on on {0}")]
    MayStillRun(NodeId),
    /// The node yields nothing, or not in that boot.
    #[error("{0} has nothing to yield")]
    NothingToYield(NodeId),
    /// All nodes of the cluster would be in maintenance.
    #[error("no node would be left")]
    NobodyLeft,
    /// No zone of that name is held down.
    #[error("zone `{0}` is not held down")]
    NotHeldDown(ZoneName),
    /// At least one at a time, and some processors.
    #[error("at least one migrates at a time, and a core runs at least one virtual processor")]
    Policy,
}
