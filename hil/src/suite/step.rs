//! Steps: what a suite does to a cluster, and what it asks of it.

use super::defaults::{eight, fifty, one, one_mib, twenty, yes};
use super::{
    BadPlan, Damage, Death, DeployStep, DriveAt, Flapping, Nics, Place, Room, SpineWay, SwitchFailure,
    VmStep, Way, Wrong,
};
use ::drives::fault::{Range, Requests};
use model::Mirror;
use serde::Deserialize;

/// A step of a scenario: a fault, its end, or something that must hold. (Steps without settings have braces, because serde refuses unknown keys only there.)
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// The switch of a storage network in a room fails.
    FailSwitch {
        /// The room.
        room: Room,
        /// The storage network whose switch it is.
        storage_network: u8,
        /// How.
        #[serde(default)]
        how: SwitchFailure,
    },
    /// The link between the rooms that a storage network crosses is cut.
    CutRoomLink {
        /// The storage network.
        storage_network: u8,
        /// Which way.
        #[serde(default)]
        way: Way,
    },
    /// The link to the spine of the switch that carries a storage network in a room is cut. No storage crosses it.
    CutSpineLink {
        /// The room.
        room: Room,
        /// The storage network whose switch it is.
        storage_network: u8,
        /// Which way.
        #[serde(default)]
        way: SpineWay,
    },
    /// The link between the rooms that a storage network crosses flaps. Until it is done, the storage networks that don't cross it lose no probe.
    FlapRoomLink {
        /// The storage network.
        storage_network: u8,
        /// How.
        flapping: Flapping,
    },
    /// The cable of a node's NIC for a storage network flaps, and its carrier with it. The same holds.
    FlapCable {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// The storage network.
        storage_network: u8,
        /// How.
        flapping: Flapping,
    },
    /// A node's NICs are cabled to the same switches of the other room.
    CrossCable {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// Which NICs.
        nics: Nics,
    },
    /// A node, or a whole room at once, loses its power.
    PowerOff {
        /// The room; `witness`; `all`: everything at once.
        room: Place,
        /// The node's position there, from 1; none: all of them.
        position: Option<u8>,
    },
    /// It gets its power back. Within a bound it has made its links by itself as they are planned; if nothing else is broken, all
    /// is well then, and since the first fault nothing but the faults made was named.
    PowerOn {
        /// The room; `witness`; `all`: everything at once.
        room: Place,
        /// As above.
        position: Option<u8>,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Its power goes and comes back at once. It is named while it boots; then the same holds.
    PowerCycle {
        /// The room; `witness`; `all`: everything at once.
        room: Place,
        /// As above.
        position: Option<u8>,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// A node, or a whole room, stands still.
    Freeze {
        /// The room; `witness`; `all`: everything at once.
        room: Place,
        /// As above.
        position: Option<u8>,
    },
    /// It goes on. The same holds as after power on.
    Thaw {
        /// The room; `witness`; `all`: everything at once.
        room: Place,
        /// As above.
        position: Option<u8>,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// A node's agent is killed; process 1 starts it again.
    KillAgent {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
    },
    /// A node's clock is set forward or back.
    SkewClock {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// Forward, seconds; negative: back.
        by_s: i32,
    },
    /// The ledger of a node that is off is damaged. In force until the node has joined again.
    DamageLedger {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// How.
        how: Damage,
    },
    /// The disk of a node's ledger is filled. It must have power until that is mended.
    FillLedgerDisk {
        /// The node's room; none: the node that leads the ledger.
        room: Option<Room>,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
    },
    /// The ledger is used until those whose disk is full have stopped, and no other, within a bound.
    LedgersStop {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// A node takes no part in the ledger, as its own is lost, and says so within a bound.
    LedgerIsRefused {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// A node that has lost its ledger, or whose ledger is over, joins again, as an operator has it, and votes within a bound.
    Rejoin {
        /// The node's room; `witness`.
        room: Place,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// Whether it votes then: not, if those who work are an even number with it.
        #[serde(default = "yes")]
        votes: bool,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// No quorum is left: an operator goes on with what one node has of the ledger, which then decides alone, within a bound.
    ForceQuorum {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The volume is offline, and none of its legs is taken to be good, within a bound.
    VolumeIsOffline {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// An operator overrides the volume: a node's leg is taken to be good, and the volume is open there within a bound.
    OverrideVolume {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Everybody's ledger is open, and everybody votes, within a bound.
    LedgersWork {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Something is wired or set up wrongly.
    Miswire {
        /// What.
        what: Wrong,
        /// The node's or switch's room.
        #[serde(default)]
        room: Room,
        /// The node's position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// The storage network.
        #[serde(default = "one")]
        storage_network: u8,
    },
    /// Miswirings drawn from the seed are made and mended one after another: each is named, all of it and nothing else, and is gone when it is mended.
    MiswireMany {
        /// How many.
        count: u8,
        /// Within what time each is named, milliseconds.
        named_within_ms: u64,
        /// Within what time after its mending all is well, milliseconds.
        well_within_ms: u64,
    },
    /// For so long nothing is wrong and nothing is said to be: no loss, no condition, no drift, and everybody reports.
    NothingRaised {
        /// How long, milliseconds.
        for_ms: u64,
    },
    /// A drive fails requests.
    DriveErrors {
        /// The drive.
        drive: DriveAt,
        /// Which requests.
        #[serde(default)]
        of: Requests,
        /// Where; none: everywhere.
        range: Option<Range>,
    },
    /// A drive takes longer for each request.
    DriveSlow {
        /// The drive.
        drive: DriveAt,
        /// How much longer, milliseconds.
        delay_ms: u32,
    },
    /// A drive answers nothing any more. Not longer than a minute: a kernel that resets its controller meanwhile makes QEMU wait for it.
    DriveStuck {
        /// The drive.
        drive: DriveAt,
    },
    /// A drive that erred, was slow or stuck works again; what waited is carried out.
    DriveWorks {
        /// The drive.
        drive: DriveAt,
    },
    /// A drive is pulled out: it loses its power, and its node the device.
    PullDrive {
        /// The drive.
        drive: DriveAt,
    },
    /// It is put back where it was.
    PutDriveBack {
        /// The drive.
        drive: DriveAt,
    },
    /// The node's kernel sees a drive as it was made: as erring, slow, stuck, gone or, within the bound, well. Where there is no volume, writes are tried too.
    KernelSeesDrive {
        /// The drive.
        drive: DriveAt,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Blocks are written to a drive itself: many that are flushed, and as many over and beside them that are not. Where there is no volume.
    WriteToDrive {
        /// The drive.
        drive: DriveAt,
        /// How many writes of each kind.
        writes: u32,
    },
    /// The drive's node is off: everything that was flushed is on the drive, or something written later, and of the rest a part is lost.
    OnlyFlushedIsSure {
        /// The drive.
        drive: DriveAt,
    },
    /// Since a drive that was broken was mended last, so much was written to it at most, zeros included.
    DriveTookAtMost {
        /// The drive.
        drive: DriveAt,
        /// How much, MiB.
        mib: u64,
    },
    /// Every fault is undone.
    Heal {},
    /// A node is given a plan that goes wrong, which nobody confirms; within a bound it is on its own again, says so and why, and reaches every peer.
    BadPlan {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// What is wrong with the plan.
        plan: BadPlan,
        /// What happens while the plan waits.
        meanwhile: Option<Death>,
        /// The bound, milliseconds, from what happens meanwhile on.
        within_ms: u64,
    },
    /// Two plans are applied to a node in turn, and it dies at a moment from the seed; each time it is on one of them within a bound, says which, and reaches all.
    DieDuringApplies {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        position: u8,
        /// What dies.
        death: Death,
        /// How often.
        times: u32,
        /// The bound, milliseconds, from each death on.
        within_ms: u64,
    },
    /// Exactly the faults made are diagnosed, each by its name, within a bound.
    Named {
        /// The bound from the last fault on, milliseconds.
        within_ms: u64,
    },
    /// From when they were named on, until so long after the first fault, exactly the faults made are named.
    StaysNamed {
        /// How long after the first fault, milliseconds.
        for_ms: u64,
    },
    /// From the first fault on until now, nothing but the faults made was named, and that without a storm.
    NamedCalmly {
        /// How often something must have been named, at least.
        at_least: usize,
        /// How often something may have been named or no longer been, at most.
        changes_at_most: usize,
    },
    /// From the first fault on, for some time, nothing is named: what was broken shows in no storage path, cable or node.
    NothingNamed {
        /// How long, milliseconds.
        for_ms: u64,
    },
    /// From the first fault on, for some time, no path of a storage network is silent; then every node reaches every other on it without losing a probe.
    Carries {
        /// The storage network.
        storage_network: u8,
        /// How long it is watched, from the first fault, milliseconds. Longer than it takes to call a path dead.
        for_ms: u64,
    },
    /// Every node and the witness reach each other on the management network.
    ManagementCarries {},
    /// On the management network nobody reaches a room from outside or the other way; outside it all reach each other.
    ManagementParted {
        /// The room.
        room: Room,
    },
    /// Deployment refuses the cabling, blames the cables that were moved and no other (node, NIC, switch and port), and touches no node.
    Refused {},
    /// What the nodes say they have is what the lab gave them.
    InventoryMatches {},
    /// Deployment finds nothing to say about the cabling, within a bound: of a cable that was just moved is heard at the next announcement.
    CablingIsRight {
        /// The bound, milliseconds; 0: when every NIC has had 10 s to hear a neighbour.
        within_ms: u64,
    },
    /// Each node's links are as planned, read back from its kernel.
    LinksAreAsPlanned {},
    /// So many attributes of managed links are changed behind the agents' backs, one after another, chosen by the seed:
    /// each is found within 5 s, told and mended, and nothing else is.
    Drift {
        /// How many.
        count: u8,
    },
    /// Applying the plans once more changes nothing, as seen by a netlink monitor on each node.
    SecondApplyChangesNothing {},
    /// Every node reaches every other on every storage network, both ways, and how fast.
    RoundTrips {
        /// Probes per pair, direction and network.
        probes: u32,
    },
    /// The largest packets of the storage MTU pass unfragmented, everywhere.
    JumboFrames {},
    /// While nodes send on all storage networks, over a lossy cable as well, every frame in the fabric carries the priority of what it is about.
    PrioritiesAreSeen {},
    /// What storage paths between the rooms carry, each alone and all at once, beside what the bandwidth rule asks for.
    Throughput {
        /// How long each is sent on alone, milliseconds.
        alone_ms: u32,
        /// How long all are sent on at once, milliseconds.
        together_ms: u32,
    },
    /// No storage network is reached from another network, whoever tries, and no frame goes astray.
    StorageIsIsolated {},
    /// No storage frame was ever seen on a spine link.
    SpineCarriesNoStorage {},
    /// While every node probes every other on every storage network, whoever answers, no storage frame is seen on a spine link.
    SpineStaysClean {},
    /// The pool is made of all data drives, or completed, and a volume over it, opened in a room, with all its legs in sync.
    MakeVolume {
        /// Its size, MiB.
        size_mib: u32,
        /// How many copies; none: those of the shape, two with one node in a room, else four.
        mirror: Option<Mirror>,
        /// Whether its space is given out when it is first written.
        #[serde(default)]
        thin: bool,
        /// Where it is opened first.
        #[serde(default)]
        room: Room,
        /// The bound for the volume, milliseconds.
        within_ms: u64,
    },
    /// A workload writes to the volume where it is open, until it is stopped or its node loses its power. The next run of it has the next number.
    StartWriting {
        /// How many writes are in flight.
        #[serde(default = "eight")]
        in_flight: u8,
        /// How long each of those who write pauses after a write, milliseconds.
        #[serde(default = "twenty")]
        pause_ms: u16,
        /// After how many writes a flush follows; 0: never.
        #[serde(default)]
        flush_every: u64,
        /// How many of a hundred writes go to the beginning of the volume, over and over; the others go anywhere behind.
        #[serde(default = "fifty")]
        warm_percent: u8,
        /// How long that beginning is, MiB.
        #[serde(default = "one_mib")]
        warm_mib: u16,
        /// The bound for the first acknowledgement, milliseconds.
        within_ms: u64,
    },
    /// A write that was begun after the last fault is acknowledged within a bound from that fault on.
    WritesGoOn {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// For so long from now on, writes are acknowledged, none of two too long after the other.
    KeepsWriting {
        /// How long, milliseconds.
        for_ms: u64,
        /// The longest time between two acknowledgements, milliseconds.
        gap_at_most_ms: u64,
    },
    /// So much has been acknowledged, from the first fault on, within a bound from it.
    HasWritten {
        /// How much in all, MiB.
        mib: u32,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Since the first fault, or the workload's first write where nothing is broken, writes were acknowledged, none of two too long after the other.
    KeptWriting {
        /// The longest time between two acknowledgements, milliseconds.
        gap_at_most_ms: u64,
    },
    /// For so long from now on the agents of all nodes and the witness together use no more of one processor, and none holds more memory at the end.
    AgentsRest {
        /// How long, milliseconds.
        for_ms: u64,
        /// The agents' own user and system time, all together, percent of one processor.
        processor_percent_at_most: u16,
        /// Resident memory of each, MiB.
        memory_mib_at_most: u16,
    },
    /// The volume is open and all its legs are in sync, within a bound from now on.
    LegsInSync {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// For so long from the first fault on (from now on, if there is none), the volume stays open where it was, and no leg is lost, not for
    /// a moment either: epoch and incarnations are those that were last seen when all legs were in sync.
    LegsStayInSync {
        /// How long, milliseconds.
        for_ms: u64,
    },
    /// Since all legs were last seen in sync before the first fault, they were given out anew so often at most.
    RebuildsAtMost {
        /// How often, all legs together.
        count: u64,
    },
    /// Within a bound from now on no drive that is broken holds a leg of the volume, the ledger calls each of them retired, each room has as many
    /// legs as it had when all were last in sync, and all legs are in sync.
    BrokenDrivesAreLeft {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Within a bound from now on the ledger calls every drive that is broken slow, has it retired, and no leg was lost for that: the volume can spare none.
    SlowDrivesAreTold {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// A node's leg of the volume is moved to another drive of its rack, while the workload writes.
    MoveLeg {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// The longest time between two acknowledgements meanwhile, milliseconds.
        gap_at_most_ms: u64,
        /// The bound for the move, milliseconds.
        within_ms: u64,
    },
    /// The volume is asked to grow, as an operator would; what has begun goes on by itself.
    BeginGrowth {
        /// To this size, MiB.
        size_mib: u32,
    },
    /// The volume, and what its users have of it, has this size within a bound from now on.
    VolumeHasGrown {
        /// The size, MiB.
        size_mib: u32,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The workload is ended, a node is handed the volume, and it goes on there: from the last acknowledgement here to the first there is a bound.
    HandOver {
        /// The room of the node that gets it.
        room: Room,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The workload is ended, and the volume's owner is asked to hand it over; that goes on by itself, or does not.
    BeginHandOver {
        /// The room of the node that is to get it.
        room: Room,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// Whether it is waited for that the ledger says so.
        #[serde(default)]
        committed: bool,
    },
    /// Another volume takes the pool's space, all but so much of each node's, and is not written.
    FillPool {
        /// What is left for volumes, MiB.
        leaving_mib: u32,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// It is deleted.
    FreePool {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Within a bound the volume's owner says that what is written to it gets no place; no leg is lost for that.
    WaitsForRoom {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The drive of a node's leg is replaced by the others of its rack, while the workload writes: it is empty, and out of the pool.
    ReplaceDrive {
        /// The node's room.
        room: Room,
        /// Its position there, from 1.
        #[serde(default = "one")]
        position: u8,
        /// The longest time between two acknowledgements meanwhile, milliseconds.
        gap_at_most_ms: u64,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// The ledger's leader is in a room: until it is, whoever leads loses its agent, or stands still if that is the witness.
    LeaderIn {
        /// The room.
        room: Room,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// Everybody who votes works, and no change of voters is under way, within a bound from now on.
    VotersWork {
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// For so long from now on, the workload that ran where the volume was open before has no write acknowledged that it began since its node froze, and none at all since the volume was seen open elsewhere.
    OldOwnerIsSilent {
        /// How long, milliseconds.
        for_ms: u64,
    },
    /// The volume is open in a room, with a device there, within a bound from the last fault on.
    VolumeOpens {
        /// The room; none: anywhere.
        room: Option<Room>,
        /// The bound, milliseconds.
        within_ms: u64,
    },
    /// What is done with a virtual machine, and asked of it.
    Vm(VmStep),
    /// The deployment of the whole cluster.
    Deployment(DeployStep),
    /// The workload is ended, with all its writes.
    StopWriting {},
    /// The workload is ended and all machines lose their power; then every leg in sync is read from its drive's file on its own: it holds every acknowledged write, and all are equal where nothing was in flight.
    Judge {},
}
