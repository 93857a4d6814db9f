//! What may be asked of the ledger, what it answers, and what a commit changed.
//!
//! A command names the epoch and incarnation that its sender believes in. Whoever is behind gets an error that says so, and
//! nothing has changed: a proposal is a compare-and-swap. Sending one twice is harmless.

pub use crate::rejected::Rejected;
use crate::state::{Cache, Doubt, Operation, RebuildRate, Run, Settings, Subject};
use crate::transition::{LegCause, LegKind, PhaseKind, VolumeCause};
use crate::vm::transition::{VmCause, VmKind};
use crate::vm::{VmCommand, VmsCommand};
use model::{
    BootId, ClusterSpec, DriveId, DriveSerial, Epoch, Generation, Incarnation, LedgerIncarnation, LegId,
    MapSequence, Mirror, NodeId, NodeName, PowerCycles, Provision, VmId, VolumeId, VolumeName, ZoneName,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What may be asked of the ledger: about one volume, or about the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// About a volume, in the epoch that the sender believes in.
    Volume(VolumeId, Epoch, VolumeCommand),
    /// About the cluster.
    Cluster(ClusterCommand),
    /// About virtual machines, by operators and nodes.
    Vms(VmsCommand),
    /// About one, in the generation that the sender believes in.
    Vm(VmId, Generation, VmCommand),
}

/// What may be asked about a volume. The epoch that comes with it must be the volume's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeCommand {
    /// The owner can't write a leg and wants to go on without it; or gives up its rebuild.
    LegStale(LegRef),
    /// The leader: a leg in sync on a slow drive is taken out, if the volume can spare it now ([`crate::retire::spares`]).
    LegSpared(LegRef),
    /// A drive reported an error on a leg (owner or target).
    LegSuspect(LegRef),
    /// The decider: begin the next epoch with this owner.
    Takeover {
        /// The new owner.
        owner: NodeId,
        /// Whether the present owner's lease is over, as the leader knows. If not, its users may still run.
        lease_over: bool,
    },
    /// No user runs any more on a former owner: the decider, since its lease is over or it has booted anew; or that node itself,
    /// since it has no array any more.
    Yielded {
        /// Which node.
        node: NodeId,
        /// In which boot it was the owner.
        boot: BootId,
    },
    /// A target: nobody of an older epoch can write this leg any more.
    ConfirmFence {
        /// Which leg.
        leg: LegRef,
        /// In which run the fence was made.
        run: Run,
        /// Whether the drive has counted errors since the leg was activated.
        errored: bool,
    },
    /// The decider: unconfirmed legs are stale *and* the epoch is activated, in one commit.
    Activate,
    /// The owner: legs are equal, and maps are durable on each with this sequence. From now on it may be opened.
    Opened {
        /// One more than the ledger's.
        maps: MapSequence,
    },
    /// The owner: maps are durable on every in-sync leg with this sequence.
    MapDurable {
        /// One more than the ledger's.
        maps: MapSequence,
    },
    /// A target: the leg is fenced; give it out anew.
    Reexport {
        /// Which leg, as it was.
        leg: LegRef,
        /// The present run.
        run: Run,
    },
    /// A target: the drive of this leg was away, and has forgotten nothing; the leg is the last in sync and stands in the array of its own node
    /// as it was given out ([`crate::State::stays`]). It counts as given out in the present run.
    Kept {
        /// Which leg, as it is.
        leg: LegRef,
        /// The present run.
        run: Run,
    },
    /// The owner: a leg that is back shall be brought up to date.
    BeginRebuild(LegRef),
    /// The owner: it is, it has been flushed, and maps of this sequence are durable on it.
    LegInSync {
        /// Which leg.
        leg: LegRef,
        /// The maps on it.
        maps: MapSequence,
    },
    /// The owner has let nobody in any more, stopped its array in order, and flushed. Refused while a leg is in sync that is not among those: it became so meanwhile.
    Close {
        /// The legs that took a flush when nobody could write any more, each seen at its target.
        flushed: BTreeSet<LegRef>,
    },
    /// Open a closed volume.
    Open {
        /// Where.
        owner: NodeId,
    },
    /// As [`Self::Close`] and [`Self::Open`] at once: epoch and running side move in one commit. To its owner itself: it is not handed over after all.
    HandOver {
        /// Where to.
        to: NodeId,
        /// As with [`Self::Close`].
        flushed: BTreeSet<LegRef>,
    },
    /// Where the virtual machine runs.
    Running(Option<NodeId>),
    /// An operator: this leg is good, whatever the ledger says; all others are made from it.
    Override {
        /// Which leg.
        leg: LegRef,
        /// Who shall own the volume.
        owner: NodeId,
        /// Who orders it.
        by: String,
        /// What the operator was told is lost.
        loses: String,
    },
    /// Make it larger: its legs get the slabs for that. It has the size when all that count have [`Self::Laid`] them. What users see of a thin volume
    /// is larger at once, and takes no slabs.
    Grow {
        /// The new size.
        size_bytes: u64,
    },
    /// The owner of a thin volume: users write these extents, which are not mapped. Its legs get the slabs for them, and they are mapped when all
    /// that count have [`Self::Laid`] those. Extents that are mapped already, or about to be, are passed over.
    Map {
        /// Which, counted from the volume's beginning.
        extents: BTreeSet<u64>,
    },
    /// A target: so many slabs of a leg, from its beginning, are mapped, and what was new of them is durably zeros.
    Laid {
        /// Which leg.
        leg: LegRef,
        /// In which run. A word of an earlier one could come after what was remembered of it is lost.
        run: Run,
        /// How many.
        slabs: u64,
    },
    /// Make a leg on another drive, which replaces this one as soon as it is in sync.
    MoveLeg {
        /// Which.
        leg: LegRef,
        /// Where to.
        to: DriveId,
    },
    /// Make a two-way mirror a four-way one: two legs more, on these drives. They count as any that have missed everything, until they are in sync.
    Widen {
        /// Where: placement has chosen, one in each rack.
        drives: Vec<DriveId>,
    },
    /// It is no longer wanted.
    Delete,
}

/// A leg as its sender knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LegRef {
    /// Which.
    pub id: LegId,
    /// In which incarnation.
    pub incarnation: Incarnation,
}

/// What may be asked about the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterCommand {
    /// A new specification, made from the one of the generation given.
    SetSpec {
        /// What it was made from; 0: from nothing.
        from_generation: u64,
        /// What is wanted.
        cluster: Box<ClusterSpec>,
    },
    /// What all nodes must agree on.
    SetSettings(Settings),
    /// How fast legs are brought up to date.
    SetRebuildRate(RebuildRate),
    /// A node joins, under the next id.
    AddNode {
        /// Its host name.
        name: NodeName,
        /// Its rack; `None`: the witness.
        zone: Option<ZoneName>,
    },
    /// A node is gone for good. It has no drives and no vote, and owns nothing.
    RemoveNode(NodeId),
    /// As many nodes of each rack leave the cluster: nothing new comes to them, and they vote no more as soon as voters have changed. It is never taken back.
    NodesLeave {
        /// Who.
        nodes: BTreeSet<NodeId>,
    },
    /// A node that lost its ledger state comes back under the next id, with the same name, rack and drives. It votes only once voters
    /// are changed to it. What the lost one had open is its own until that is taken over, and then the lost one can be removed.
    ReplaceNode {
        /// The id that it had, which never comes back.
        lost: NodeId,
    },
    /// A node, before it does anything in this boot: in which run it and its drives are.
    Register {
        /// Who.
        node: NodeId,
        /// The boot that the ledger knew: a registration that comes late must not bring an old one back.
        was: Option<BootId>,
        /// Its boot.
        boot: BootId,
        /// Its drives, as far as they answer.
        drives: BTreeMap<DriveId, PowerCycles>,
    },
    /// A drive joins the pool, under the next id.
    AddDrive {
        /// Where it is.
        node: NodeId,
        /// What it calls itself.
        serial: DriveSerial,
        /// Its size.
        size_bytes: u64,
        /// Whether it may forget.
        cache: Cache,
        /// Its count.
        power_cycles: PowerCycles,
    },
    /// Put nothing new on a drive, and move what is on it.
    RetireDrive(DriveId),
    /// The decider: a drive is slow beside the others. It is retired.
    DriveSlow(DriveId),
    /// An operator: a drive is gone for good, with all that was on it. It is retired, and leaves the pool without a word of its node as soon as no leg is
    /// there. Refused while a leg there counts in a volume that is in use, or is the last in sync of one.
    DriveLost(DriveId),
    /// An operator: whatever a drive has shown, it is good again, and no longer retired.
    ReadmitDrive(DriveId),
    /// Retire a drive and move all its legs to another.
    ReplaceDrive {
        /// Which.
        drive: DriveId,
        /// Where its legs go.
        with: DriveId,
    },
    /// A drive without legs leaves the pool.
    RemoveDrive(DriveId),
    /// A target: a leg that the ledger dropped is fenced, and will never be given out again: its slabs are free.
    Freed {
        /// On which drive.
        drive: DriveId,
        /// Of which volume it was.
        volume: VolumeId,
        /// Which it was.
        leg: LegId,
    },
    /// Make a volume, under the next id, with a leg on each of the drives, on the first slabs that are free there. Its first epoch is activated when the targets have made
    /// the legs and confirmed them, as after a takeover.
    CreateVolume {
        /// Its name.
        name: VolumeName,
        /// How many copies.
        mirror: Mirror,
        /// When its space is given out.
        provision: Provision,
        /// Its size.
        size_bytes: u64,
        /// Where the copies go: placement has chosen.
        drives: Vec<DriveId>,
        /// Who opens it first.
        owner: NodeId,
    },
    /// Change the set of voters; in flight until it is settled.
    ChangeVoters(BTreeSet<NodeId>),
    /// The change in flight is done.
    VotersSettled,
    /// Something that takes more than one commit begins; only one at a time on each subject.
    Begin(Subject, Operation),
    /// It is done, or given up.
    End(Subject),
    /// An operator: the majority is gone for good; go on with these voters.
    ForceQuorum {
        /// The ledger's incarnation from now on: a later one, and drawn, so that of two that are forced apart from each other one is later.
        incarnation: LedgerIncarnation,
        /// Who votes from now on. All other nodes have no vote and come back only under a new id.
        voters: BTreeSet<NodeId>,
        /// Who orders it.
        by: String,
        /// What the operator was told may be lost.
        loses: String,
    },
    /// The cluster ends: it has no volumes and no virtual machines, gets none any more, nor drives or nodes. From then on each node that knows of it gives back what it has by itself.
    Dissolve {
        /// All nodes of it, as whoever asks for that knows them.
        nodes: BTreeSet<NodeId>,
    },
}

/// What a commit changed, for the timeline and for counting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A volume's phase.
    Volume(VolumeId, Epoch, PhaseKind, VolumeCause, PhaseKind),
    /// A leg's state.
    Leg(VolumeId, LegRef, LegKind, LegCause, LegKind),
    /// A node has its id.
    NodeAdded(NodeId),
    /// A drive has its id.
    DriveAdded(DriveId),
    /// A drive has reported an error for the first time, and is retired.
    DriveErred(DriveId),
    /// A drive is slow beside the others, and is retired.
    DriveSlow(DriveId),
    /// A drive is gone for good.
    DriveLost(DriveId),
    /// A volume has its id.
    VolumeCreated(VolumeId),
    /// A leg has its number.
    LegAdded(VolumeId, LegId),
    /// A leg is no longer there. Its slabs are free when its target has let go of it.
    LegRemoved(VolumeId, LegId),
    /// It has.
    LegFreed(VolumeId, LegId),
    /// A volume has another size, bytes.
    VolumeGrown(VolumeId, u64),
    /// So many extents of a volume are mapped.
    ExtentsMapped(VolumeId, u64),
    /// A volume is no longer there.
    VolumeDeleted(VolumeId),
    /// A virtual machine's phase.
    Vm(VmId, Generation, VmKind, VmCause, VmKind),
    /// A virtual machine has its id.
    VmCreated(VmId),
    /// A virtual machine is no longer there.
    VmDeleted(VmId),
    /// Anything else.
    Changed,
}

impl Doubt {
    /// Why a leg in sync becomes suspect by it.
    pub fn cause(self) -> LegCause {
        match self {
            Self::Errored => LegCause::Errored,
            Self::CacheLost => LegCause::CacheLost,
            Self::Unproven => LegCause::Unproven,
        }
    }
}
