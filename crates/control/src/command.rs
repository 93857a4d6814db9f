//! What may be asked of the ledger, what it answers, and what a commit changed.
//!
//! A command names the epoch and incarnation that its sender believes in. Whoever is behind gets an error that says so, and
//! nothing has changed: a proposal is a compare-and-swap. Sending one twice is harmless.

use crate::state::{Cache, Doubt, Operation, Phase, RebuildRate, Run, Settings, Subject};
use crate::transition::{LegCause, LegKind, PhaseKind, VolumeCause};
use crate::vm::transition::{VmCause, VmKind};
use crate::vm::{VmCommand, VmRejected, VmsCommand};
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
    /// A node that lost its ledger state comes back under the next id, with the same name, rack and drives. It votes only once voters
    /// are changed to it, and then the lost one can be removed. What it owned has been taken over before.
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

/// Why a command was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Rejected {
    /// No such volume.
    #[error("there is no {0}")]
    NoSuchVolume(VolumeId),
    /// No such leg.
    #[error("the volume has no {0}")]
    NoSuchLeg(LegId),
    /// No such node.
    #[error("there is no {0}")]
    NoSuchNode(NodeId),
    /// No such drive.
    #[error("there is no {0}")]
    NoSuchDrive(DriveId),
    /// The volume has gone on to another epoch.
    #[error("superseded: the volume is in epoch {present}")]
    Superseded {
        /// Its epoch.
        present: Epoch,
    },
    /// The leg has been given out anew.
    #[error("the leg is in incarnation {present}")]
    OtherIncarnation {
        /// Its incarnation.
        present: Incarnation,
    },
    /// The leg's state does not allow it.
    #[error("a leg that is {state:?} can't change by {cause:?}")]
    LegCannot {
        /// Its state.
        state: LegKind,
        /// What was wanted.
        cause: LegCause,
    },
    /// The volume's phase does not allow it.
    #[error("a volume that is {phase:?} can't change by {cause:?}")]
    VolumeCannot {
        /// Its phase.
        phase: PhaseKind,
        /// What was wanted.
        cause: VolumeCause,
    },
    /// The command is for another phase.
    #[error("the volume is {phase:?}")]
    WrongPhase {
        /// Its phase.
        phase: PhaseKind,
    },
    /// It would leave no leg that has every acknowledged write.
    #[error("no in-sync leg would be left")]
    NoInSyncLegLeft,
    /// It is not on a slow drive, or too few others would be left.
    #[error("the volume can't spare {0}")]
    NotSpared(LegId),
    /// More than one at a time: then it is the rack that is slow.
    #[error("{0} of the same rack is slow already")]
    SlowInRack(DriveId),
    /// No in-sync leg has been confirmed.
    #[error("no in-sync leg has confirmed the fence")]
    NothingConfirmed,
    /// The fence was made in a run that is over, or not registered.
    #[error("this run is not the one that is registered ({registered:?})")]
    OtherRun {
        /// The one that is.
        registered: Option<Run>,
    },
    /// The node has registered another boot meanwhile, or the drive a higher count.
    #[error("another run is registered")]
    OldRegistration,
    /// The owner lets a leg go before its target gives it out anew.
    #[error("the leg is in sync and its owner has not let it go")]
    StillInSync,
    /// The leg is suspect and nothing better is there: it stays as it is, for an override.
    #[error("the leg is suspect, and no other is in sync")]
    NothingBetter,
    /// The leg has already been given out anew in this run.
    #[error("the leg has been given out anew already")]
    AlreadyBack,
    /// It is not the owner's own, or not the last in sync, or its drive may have forgotten something, or it is kept already.
    #[error("{0} is not kept as it is given out")]
    NotKept(LegId),
    /// The leg's target has not fenced it and given it out anew in this run.
    #[error("the leg is not back")]
    NotBack,
    /// As many rebuilds as are allowed are under way on that node's drives.
    #[error("{0} rebuilds as many legs as it may")]
    RebuildLimit(NodeId),
    /// Maps must grow one by one.
    #[error("maps are at sequence {present}")]
    MapSequence {
        /// The ledger's.
        present: MapSequence,
    },
    /// That node is a witness, or has not registered.
    #[error("{0} can't own a volume: it is a witness or has not registered")]
    CannotOwn(NodeId),
    /// Nobody is let in while another's users may run.
    #[error("users of {0}, a former owner, may still run")]
    MayStillRun(NodeId),
    /// The node yields nothing, or not in that boot.
    #[error("{0} has nothing to yield")]
    NothingToYield(NodeId),
    /// The virtual machine runs where the volume is.
    #[error("{0} does not own the volume")]
    NotTheOwner(NodeId),
    /// A volume grows within the room that it was made with.
    #[error("it has room for {room_bytes} bytes at most")]
    BeyondRoom {
        /// How much.
        room_bytes: u64,
    },
    /// A volume only grows.
    #[error("the volume has {present_bytes} bytes already")]
    NotLarger {
        /// Its size.
        present_bytes: u64,
    },
    /// One growth at a time.
    #[error("the volume is growing to {to_bytes} bytes")]
    Growing {
        /// To what.
        to_bytes: u64,
    },
    /// All of a fixed volume is there.
    #[error("the volume is not thin: nothing of it is to be mapped")]
    NotThin,
    /// Users see no such extent.
    #[error("the volume has no extent {extent}: users see {extents}")]
    NoSuchExtent {
        /// What was asked for.
        extent: u64,
        /// How many there are.
        extents: u64,
    },
    /// All that were asked for are mapped, or are about to be.
    #[error("these extents are mapped already, or are about to be")]
    AlreadyMapped,
    /// Some at a time.
    #[error("{extents} extents of the volume are being mapped")]
    Mapping {
        /// How many.
        extents: u64,
    },
    /// What lies behind its end may have been written by those that are lost.
    #[error(
        "a quorum was forced since the volume was made: it can't grow any more, nor can more of it be mapped"
    )]
    Forced,
    /// The leg lacks what the volume has grown by.
    #[error("{0} has not all slabs of the volume's size mapped")]
    NotLaid(LegId),
    /// So much has been laid already.
    #[error("so much of the leg has been laid already")]
    AlreadyLaid,
    /// Legs must be on drives of their own.
    #[error("{0} holds a leg of this volume already")]
    DriveInUse(DriveId),
    /// The drive takes nothing new.
    #[error("{0} is retired")]
    DriveRetired(DriveId),
    /// No volume can have this size.
    #[error("a volume can't have {size_bytes} bytes: whole blocks of {} are wanted", model::BLOCK_BYTES)]
    Size {
        /// What was asked for.
        size_bytes: u64,
    },
    /// The drive has too few free slabs. Those of legs that are leaving are not free.
    #[error("{drive} lacks {missing_slabs} slabs")]
    NoRoom {
        /// Which.
        drive: DriveId,
        /// How many more it would take.
        missing_slabs: u64,
    },
    /// What is kept free on a node, for a drive that fails, would be taken.
    #[error("{node} lacks {missing_slabs} slabs beside what is kept free for a drive that fails")]
    Reserve {
        /// Which.
        node: NodeId,
        /// How many more it would take.
        missing_slabs: u64,
    },
    /// The leg is not leaving that drive.
    #[error("{0} of {1} is not leaving that drive")]
    NotLeaving(LegId, VolumeId),
    /// What its drive had not flushed when the array was stopped, it may forget.
    #[error("{0} is in sync, and has not taken the flush with which the array was stopped")]
    NotFlushed(LegId),
    /// The leg is being moved, or made in place of another.
    #[error("the leg is being moved")]
    Moving,
    /// A volume has as many legs as its mirror says.
    #[error("the volume needs {needed} drives")]
    WrongLegCount {
        /// How many.
        needed: usize,
    },
    /// Names are unique.
    #[error("the name is taken")]
    NameTaken,
    /// It holds legs, drives, a volume or a vote.
    #[error("it is in use")]
    InUse,
    /// The specification has been changed meanwhile.
    #[error("the specification is at generation {present}")]
    OtherGeneration {
        /// The ledger's.
        present: u64,
    },
    /// A set of voters has odd size and knows all its members.
    #[error("a set of voters has odd size")]
    EvenVoters,
    /// A forced quorum begins a later incarnation.
    #[error("the ledger is {0} already")]
    NotLater(LedgerIncarnation),
    /// That node is of a ledger that a forced quorum has ended.
    #[error("{0} is of an earlier ledger: it votes again only under a new id")]
    Stranger(NodeId),
    /// A change of voters is in flight.
    #[error("a change of voters is in flight")]
    VotersChanging,
    /// No change of voters is in flight.
    #[error("no change of voters is in flight")]
    VotersAreSettled,
    /// Nothing would be copied, or less at most than at least.
    #[error("a rebuild copies 1 MiB/s at least, and no less at most than at least: {} to {} MiB/s is no rate", .0.min_mib_s, .0.max_mib_s)]
    RebuildRate(RebuildRate),
    /// Something else is under way there.
    #[error("`{0}` is under way there")]
    Busy(String),
    /// Nothing is under way there.
    #[error("nothing is under way there")]
    NotBusy,
    /// It was about a virtual machine.
    #[error(transparent)]
    Vm(#[from] VmRejected),
}

impl Rejected {
    /// The command is for a phase that the volume isn't in.
    pub fn wrong_phase(phase: &Phase) -> Self {
        Self::WrongPhase { phase: phase.kind() }
    }

    /// Why a leg may have to be rebuilt is one thing, that it may not be now another: only the latter is worth another try.
    pub fn is_for_now(&self) -> bool {
        matches!(
            self,
            Self::RebuildLimit(_) | Self::MapSequence { .. } | Self::Busy(_) | Self::VotersChanging
        )
    }

    /// Whether there are too few free slabs: a drive more, or a volume less, would help.
    pub fn is_out_of_slabs(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::Reserve { .. })
    }
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
