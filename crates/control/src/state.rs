//! What the ledger says: the replicated state, as data.
//!
//! A volume is in one of five phases, a leg in one of four states; [`crate::transition`] has the pictures and the table of
//! what may follow what. Everything here is plain data that derives equality, hash and serde; [`State::apply`] is the only
//! code that changes it.
//!
//! Invariants: [`crate::check`]. On failure: none, data can't fail.

use crate::command::LegRef;
pub use crate::subject::Subject;
use crate::vm::Vms;
use model::{
    BootId, ClusterSpec, DriveId, DriveSerial, Epoch, Extent, ExtentTable, Incarnation, LedgerIncarnation,
    LegId, MapSequence, Mirror, NodeId, NodeName, PowerCycles, Provision, SLAB_BYTES, VolumeId, VolumeName,
    ZoneName,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// The whole of the ledger: kilobytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct State {
    /// How often it was begun anew by forced quorum.
    pub incarnation: LedgerIncarnation,
    /// What the cluster shall be.
    pub spec: Option<Spec>,
    /// What all nodes must agree on.
    pub settings: Settings,
    /// Every node, the witness included.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Every drive of the pool.
    pub drives: BTreeMap<DriveId, Drive>,
    /// Every volume.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Who votes.
    pub voters: Voters,
    /// What takes more than one commit and is under way. The key is what it is done to: one at a time on each.
    pub operations: BTreeMap<Subject, Operation>,
    /// What operators overrode, latest last; at most [`State::OVERRIDES_MAX`].
    pub overrides: Vec<Override>,
    /// The highest ids given out.
    pub minted: Minted,
    /// Every virtual machine, and what is wanted of nodes and zones for them.
    #[serde(default)]
    pub vms: Vms,
    /// The cluster has ended: it holds nothing, and never will again.
    #[serde(default)]
    pub dissolved: bool,
}

/// The specification and its generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Grows by one with each change; plans carry it.
    pub generation: u64,
    /// What was asked for.
    pub cluster: Box<ClusterSpec>,
}

impl Hash for Spec {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.generation.hash(state);
    }
}

/// What all nodes must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// How long a node's lease is, ms, counted from when the node asked for it.
    pub lease_ms: u32,
    /// By how much two clocks may have drifted apart at a lease's end, ms.
    pub drift_ms: u32,
    /// How many legs may be rebuilt at a time on one node's drives.
    pub rebuilds_per_node_max: u8,
    /// How fast each is.
    #[serde(default)]
    pub rebuild: RebuildRate,
}

/// How fast a leg is brought up to date, MiB a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RebuildRate {
    /// At least, whatever users write meanwhile.
    pub min_mib_s: u32,
    /// At most.
    pub max_mib_s: u32,
}

impl RebuildRate {
    /// More is no limit.
    pub const MIB_S_MAX: u32 = 1 << 20;

    /// Whether both can be kept: something is copied at least, so that no volume waits for ever.
    pub fn is_sound(self) -> bool {
        0 < self.min_mib_s && self.min_mib_s <= self.max_mib_s && self.max_mib_s <= Self::MIB_S_MAX
    }
}

impl Default for RebuildRate {
    /// Users come first, and a volume that is never idle does not wait for hours (md's own least is 1 MiB/s).
    fn default() -> Self {
        Self { min_mib_s: 32, max_mib_s: 256 }
    }
}

impl Default for Settings {
    /// A lease of 3 s lets a dead rack's volumes be taken over within the 6 s that are promised; 150 ms are 5 %.
    fn default() -> Self {
        Self { lease_ms: 3000, drift_ms: 150, rebuilds_per_node_max: 2, rebuild: RebuildRate::default() }
    }
}

/// The highest ids given out, so that none is given out twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Minted {
    /// Of nodes.
    pub node: NodeId,
    /// Of drives.
    pub drive: DriveId,
    /// Of volumes.
    pub volume: VolumeId,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// Its host name.
    pub name: NodeName,
    /// Its rack; `None`: the witness, which has no drives and owns nothing.
    pub zone: Option<ZoneName>,
    /// The boot that it last registered with; `None`: it never did.
    pub boot: Option<BootId>,
    /// The ledger that it takes part in. Forced quorum begins a new one with those who vote then; all others are strangers to it,
    /// whose logs may say otherwise, and have a voice again only under a new id.
    pub ledger: LedgerIncarnation,
    /// It leaves, for good ([`crate::leaving`]).
    #[serde(default)]
    pub leaving: bool,
}

/// Whether what a drive has acknowledged survives its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// No volatile write cache, or power-loss protection, or every write goes through it.
    Safe,
    /// It may forget.
    Volatile,
}

/// A physical disk of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Drive {
    /// Where it is.
    pub node: NodeId,
    /// What it calls itself.
    pub serial: DriveSerial,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it may forget.
    pub cache: Cache,
    /// The count that its node last registered; `None`: never.
    pub power_cycles: Option<PowerCycles>,
    /// Nothing new is put on it, and what is on it moves elsewhere.
    pub retired: bool,
    /// What it has shown of itself.
    #[serde(default)]
    pub health: Health,
    /// Legs that are gone, and whose slabs nobody may have yet: the target has not said that it has let go of them.
    pub leaving: Vec<Leaving>,
}

impl Drive {
    /// Whether it is gone for good.
    pub fn is_lost(&self) -> bool {
        self.health == Health::Lost
    }
}

/// What a drive has shown of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nothing bad.
    #[default]
    Good,
    /// It took many times what others took, for long. It is retired by the commit that says so.
    Slow,
    /// It reported an error on a leg. It is retired by the commit that says so, and stays that.
    Erred,
    /// An operator says that it is gone for good, with all that was on it. It is in no run any more: nothing of it is given out, and no word of it counts.
    Lost,
}

/// A leg that the ledger knows no more and its target may still have given out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Leaving {
    /// Of which volume.
    pub volume: VolumeId,
    /// Which it was.
    pub leg: LegId,
    /// The volume's epoch when it went.
    pub epoch: Epoch,
    /// Its last incarnation.
    pub incarnation: Incarnation,
    /// Its slabs.
    pub extents: Vec<Extent>,
}

/// One run of a node's kernel and of a drive. What was promised in one is not promised in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Run {
    /// The kernel's.
    pub boot: BootId,
    /// The drive's.
    pub power_cycles: PowerCycles,
}

/// A mirrored block device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// How many copies it shall have.
    pub mirror: Mirror,
    /// When its space is given out.
    pub provision: Provision,
    /// What its users see. Only grows.
    pub size_bytes: u64,
    /// What it grows to: its legs have the slabs for that, and it has that size in the commit that says so of the last of those that are in sync or
    /// being rebuilt.
    #[serde(default)]
    pub growing: Option<u64>,
    /// If it is thin: which of its extents are mapped, and where in the array each stands. What is not mapped reads as zeros.
    #[serde(default)]
    pub mapped: ExtentTable,
    /// The extents that come next, in the order of their places: its legs have the slabs for them, and they are mapped in the commit that says so of the
    /// last of those that are in sync or being rebuilt.
    #[serde(default)]
    pub mapping: BTreeSet<u64>,
    /// A quorum was forced since it was made. What those that are lost may have written behind its end is not known, so it never grows.
    #[serde(default)]
    pub forced: bool,
    /// How large it can get: fixed when it is made, since its array and its legs' devices are made for that once.
    pub room_bytes: u64,
    /// Its ownership generation: the one in `phase`, activated or not.
    pub epoch: Epoch,
    /// Who owns that epoch.
    pub owner: NodeId,
    /// Where its virtual machine runs.
    pub running: Option<NodeId>,
    /// Owners of earlier epochs, and their boots, whose users may still run: it was taken before their leases were over. Nobody is let
    /// in before each has yielded, but for the present owner: its node stops what it had before it makes an array anew. It stays here
    /// until then, since it may lose the volume again before it has seen that it has it.
    pub yielding: BTreeMap<NodeId, BootId>,
    /// What may be done with it.
    pub phase: Phase,
    /// Its copies.
    pub legs: BTreeMap<LegId, Leg>,
    /// Maps of what stale legs have missed are durable on every in-sync leg with at least this sequence.
    pub map_sequence: MapSequence,
    /// The highest leg number given out.
    pub leg_minted: LegId,
}

/// What may be done with a volume.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The epoch has begun and is not activated: nobody may write, targets confirm that nobody can.
    Fencing {
        /// Whose targets have, and in which run.
        confirmed: BTreeMap<LegId, Run>,
    },
    /// Activated: the owner assembles it. Nobody may open it yet.
    Opening {
        /// The owner's boot; if it registers another, the array is gone.
        boot: BootId,
        /// Whether the legs may differ (anything but a clean hand-over) and must be made equal first.
        make_equal: bool,
    },
    /// Activated, assembled, legs equal, maps durable: it may be written.
    Open {
        /// The owner's boot.
        boot: BootId,
    },
    /// Closed in order: no array, legs equal.
    Closed,
    /// No in-sync leg is left. Only an operator's override leads on.
    Offline,
}

/// One copy of a volume, on one drive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Leg {
    /// Where.
    pub drive: DriveId,
    /// Its slabs there, in its order.
    pub extents: Vec<Extent>,
    /// How many of them, the last, its target has yet to fill with zeros and to map: the volume grows, or has grown while this leg was away.
    #[serde(default)]
    pub to_lay: u64,
    /// How often it has been given out anew.
    pub incarnation: Incarnation,
    /// The run in which it was last known to be good or was last given out. If the drive's present run is another, the target has
    /// restarted and exports nothing of it. `None`: never yet.
    pub run: Option<Run>,
    /// What the ledger says of its content.
    pub state: LegState,
    /// The leg that goes as soon as this one is in sync.
    pub replaces: Option<LegId>,
    /// Whether it has ever had everything: one that was added, or is made in another's place, has not until it is in sync.
    #[serde(default = "held_all")]
    pub held_all: bool,
}

/// What a ledger of before says of its legs; those that replace one are told apart by that.
fn held_all() -> bool {
    true
}

/// What the ledger says of a leg's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LegState {
    /// Has every acknowledged write.
    InSync,
    /// Has missed writes.
    Stale {
        /// What brings it up to date.
        base: Base,
        /// Whether its target has fenced it since and given it out under a new incarnation, so that a rebuild may begin.
        back: bool,
    },
    /// The owner copies onto it what it missed. Every write goes to it, too.
    Rebuilding {
        /// What is copied.
        base: Base,
    },
    /// May have lost what it had. Never opened, also when it is the only one left, until rebuilt or overridden.
    Suspect {
        /// Why.
        why: Doubt,
    },
}

/// What brings a leg up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// What its map says that it missed.
    Changes,
    /// Everything.
    Scratch,
}

/// Why a leg may have lost what it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doubt {
    /// Its drive reported an error.
    Errored,
    /// Its drive has a volatile cache and has restarted.
    CacheLost,
    /// Forced quorum: what the lost majority had committed about it is not known.
    Unproven,
}

/// Who votes in the ledger. Changes are serialised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voters {
    /// These.
    Settled(BTreeSet<NodeId>),
    /// A joint change is in flight.
    Changing {
        /// From these.
        from: BTreeSet<NodeId>,
        /// To these.
        to: BTreeSet<NodeId>,
    },
}

/// What takes more than one commit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Operation {
    /// In an operator's words: `drain`, `grow`.
    pub what: String,
    /// Who drives it; another may take it up when that node is gone.
    pub driver: NodeId,
}

/// What an operator overrode, and what that lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Override {
    /// What was done.
    pub what: Overridden,
    /// Who ordered it.
    pub by: String,
    /// What the operator was told would be lost.
    pub loses: String,
}

/// What an operator may override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overridden {
    /// A leg that was not in sync was declared to be.
    Leg(VolumeId, LegId),
    /// A quorum was forced, and the ledger is this incarnation since.
    Quorum(LedgerIncarnation),
}

impl State {
    /// How many overrides are kept.
    pub const OVERRIDES_MAX: usize = 64;

    /// A ledger that knows of nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            incarnation: LedgerIncarnation(1),
            spec: None,
            settings,
            nodes: BTreeMap::new(),
            drives: BTreeMap::new(),
            volumes: BTreeMap::new(),
            voters: Voters::Settled(BTreeSet::new()),
            operations: BTreeMap::new(),
            overrides: Vec::new(),
            minted: Minted::default(),
            vms: Vms::default(),
            dissolved: false,
        }
    }

    /// The present run of a drive, as far as its node has registered it.
    pub fn run(&self, drive: DriveId) -> Option<Run> {
        let drive = self.drives.get(&drive)?;
        let boot = self.nodes.get(&drive.node)?.boot?;
        Some(Run { boot, power_cycles: drive.power_cycles? })
    }

    /// The drive that calls itself so; none that is lost, whose name another may have by now.
    pub fn drive_of(&self, serial: &DriveSerial) -> Option<(DriveId, &Drive)> {
        let mut present = self.drives.iter().filter(|(_, drive)| !drive.is_lost());
        present.find(|(_, drive)| drive.serial == *serial).map(|(id, drive)| (*id, drive))
    }

    /// The drives that a node has; none that is lost.
    pub fn drives_in(&self, node: NodeId) -> impl Iterator<Item = (DriveId, &Drive)> {
        let own = move |(_, drive): &(&DriveId, &Drive)| drive.node == node && !drive.is_lost();
        self.drives.iter().filter(own).map(|(id, drive)| (*id, drive))
    }

    /// Whether a drive is gone for good.
    pub fn is_lost(&self, drive: DriveId) -> bool {
        self.drives.get(&drive).is_some_and(Drive::is_lost)
    }

    /// The node that a leg is on.
    pub fn node_of(&self, leg: &Leg) -> Option<NodeId> {
        self.drives.get(&leg.drive).map(|drive| drive.node)
    }

    /// Whether a node takes part in this ledger, and may vote.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.ledger == self.incarnation)
    }

    /// Whether a leg whose drive was away, and has forgotten nothing, stays as it is given out: the last in sync, in the array of its own node, which is
    /// in the boot in which it was given out. Its owner would never let it go, and what it waits for goes on where it was.
    pub fn stays(&self, volume: &Volume, (id, leg): (LegId, &Leg)) -> bool {
        let Some(drive) = self.drives.get(&leg.drive).filter(|drive| drive.cache == Cache::Safe) else {
            return false;
        };
        let boot = leg.run.map(|run| run.boot);
        let same_boot = boot.is_some()
            && volume.activated() == boot
            && self.nodes.get(&drive.node).and_then(|node| node.boot) == boot;
        same_boot && volume.owner == drive.node && leg.state == LegState::InSync && volume.is_last_in_sync(id)
    }

    /// Whether a leg's target is still in the run in which the leg was last given out.
    pub fn same_run(&self, leg: &Leg) -> bool {
        leg.run.is_some() && leg.run == self.run(leg.drive)
    }
}

impl Leg {
    /// How many slabs it has.
    pub fn slabs(&self) -> u64 {
        self.extents.iter().map(|extent| extent.count).sum()
    }

    /// How many of them, the first, are mapped; what of them was never written is zeros.
    pub fn laid_slabs(&self) -> u64 {
        self.slabs().saturating_sub(self.to_lay)
    }
}

/// How much of a volume users have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reach {
    /// How long what they see is, bytes.
    pub size_bytes: u64,
    /// How much of the array is behind it, bytes: of a fixed volume the same; of a thin one what was mapped, the rest of what they see being holes.
    pub array_bytes: u64,
}

impl Volume {
    /// What users see, or what that grows to.
    pub fn size_to_be(&self) -> u64 {
        self.growing.map_or(self.size_bytes, |to| to.max(self.size_bytes))
    }

    /// How much data its legs have, bytes: all that users see, or what is mapped of it.
    pub fn array_bytes(&self) -> u64 {
        match self.provision {
            Provision::Fixed => self.size_bytes,
            Provision::Thin => self.mapped.array_bytes(),
        }
    }

    /// As [`Self::array_bytes`], or what that grows to.
    pub fn array_to_be(&self) -> u64 {
        match self.provision {
            Provision::Fixed => self.size_to_be(),
            Provision::Thin => self.array_bytes() + self.mapping.len() as u64 * SLAB_BYTES,
        }
    }

    /// What its users are to have.
    pub fn reach(&self) -> Reach {
        Reach { size_bytes: self.size_bytes, array_bytes: self.array_bytes() }
    }

    /// Whether an extent is mapped, or is about to be.
    pub fn has_extent(&self, extent: u64) -> bool {
        self.provision == Provision::Fixed
            || self.mapping.contains(&extent)
            || self.mapped.place_of(extent).is_some()
    }

    /// How many extents users see.
    pub fn extents(&self) -> u64 {
        self.size_bytes.div_ceil(SLAB_BYTES)
    }

    /// Whether all that the volume's array has is on slabs of a leg.
    pub fn is_laid(&self, leg: &Leg) -> bool {
        leg.laid_slabs() >= crate::pool::needed(self, self.array_bytes())
    }

    /// The legs that have every acknowledged write.
    pub fn in_sync(&self) -> impl Iterator<Item = (LegId, &Leg)> {
        self.legs.iter().filter(|(_, leg)| leg.state == LegState::InSync).map(|(id, leg)| (*id, leg))
    }

    /// These legs, as they are given out.
    pub fn named_in_sync(&self) -> BTreeSet<LegRef> {
        self.in_sync().map(|(id, leg)| LegRef { id, incarnation: leg.incarnation }).collect()
    }

    /// Whether this is the only leg that has every acknowledged write.
    pub fn is_last_in_sync(&self, id: LegId) -> bool {
        self.in_sync().all(|(other, _)| other == id)
    }

    /// The first of those, but the present owner, who must yield before anybody is let in.
    pub fn awaits_yield(&self) -> Option<NodeId> {
        self.yielding.keys().copied().find(|node| *node != self.owner)
    }

    /// The boot under which the owner may have it assembled, if the epoch is activated.
    pub fn activated(&self) -> Option<BootId> {
        match self.phase {
            Phase::Opening { boot, .. } | Phase::Open { boot } => Some(boot),
            Phase::Fencing { .. } | Phase::Closed | Phase::Offline => None,
        }
    }
}

impl Voters {
    /// Who votes, while a change is in flight those who did before.
    pub fn present(&self) -> &BTreeSet<NodeId> {
        match self {
            Self::Settled(set) | Self::Changing { from: set, .. } => set,
        }
    }
}
