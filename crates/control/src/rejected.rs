//! Why the ledger refuses a command.
//!
//! Invariants: nothing has changed. Each reason says what the sender did not know, or what has to be first.

use crate::state::{Phase, RebuildRate, Run};
use crate::transition::{LegCause, LegKind, PhaseKind, VolumeCause};
use crate::vm::VmRejected;
use model::{DriveId, Epoch, Incarnation, LedgerIncarnation, LegId, MapSequence, NodeId, VolumeId, ZoneName};
use serde::{Deserialize, Serialize};

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
    /// Nothing new comes to a node that leaves, and none but those who leave already leave then.
    #[error("{0} leaves the cluster")]
    Leaves(NodeId),
    /// Racks stay of one size, and the witness stays.
    #[error("not as many nodes of each rack were named, or the witness was")]
    NotOfEachRack,
    /// Copies in a rack are on different nodes.
    #[error("{stay} nodes of {zone} would stay, and volumes need {needs}")]
    TooFewStay {
        /// Of which rack.
        zone: ZoneName,
        /// So many.
        stay: usize,
        /// What the copies of volumes need there.
        needs: usize,
    },
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
    /// What it holds was never all.
    #[error("{0} has never had everything: it can't be declared good")]
    NeverHeldAll(LegId),
    /// It has four legs already, or is getting them.
    #[error("the volume is a four-way mirror already")]
    IsFourWay,
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
    /// A node that whoever ends the cluster does not know of would be left behind.
    #[error("the cluster has other nodes than those that were named")]
    OtherNodes,
    /// It ends: nothing is added to it any more.
    #[error("the cluster is dissolved")]
    Dissolved,
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
