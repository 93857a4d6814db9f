//! What goes wrong when: a list of faults, made from a seed.
//!
//! Invariants: the same seed and shape give the same schedule, whatever is left out of it afterwards. Every fault ends by itself or when all
//! is mended.

mod vms;

use std::fmt;
pub(crate) use vms::{Home, Machine};
pub use vms::{Then, VmWhat, When};

/// What a cluster is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 1+1, two-way volumes.
    OnePlusOne,
    /// 2+2, four-way and two-way volumes.
    TwoPlusTwo,
}

impl Kind {
    /// Nodes with drives; the witness is one more.
    pub fn nodes(self) -> usize {
        match self {
            Self::OnePlusOne => 2,
            Self::TwoPlusTwo => 4,
        }
    }

    /// How many legs each volume has.
    pub fn volumes(self) -> &'static [u16] {
        match self {
            Self::OnePlusOne => &[2, 2],
            Self::TwoPlusTwo => &[4, 2, 4],
        }
    }
}

/// What a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Heartbeats and the ledger.
    Management,
    /// NVMe/TCP.
    Storage,
    /// Both.
    All,
}

/// Which way nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Neither.
    Both,
    /// From the one that was named.
    From,
    /// To it.
    To,
}

/// What goes wrong. Nodes, drives and volumes are indices from 0; the witness is the last node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A node's power is off.
    NodePower(usize),
    /// A rack's.
    RackPower(usize),
    /// Everybody's.
    AllPower,
    /// A node is cut off.
    NodeCut(usize, Plane, Way),
    /// The racks are cut off from each other, seen from rack 0.
    RoomCut(Plane, Way),
    /// The witness's power is off.
    Witness,
    /// A node stands still, perhaps its clock, too.
    Freeze(usize, bool),
    /// A node's agent is killed, and starts again.
    AgentKill(usize),
    /// The next writes to a drive fail.
    DriveError(usize),
    /// The drives under a volume's in-sync legs all find an error by themselves.
    AllLegsErr(usize),
    /// A drive is pulled and put back.
    DrivePull(usize),
    /// Some of what a drive is given it does only at the end.
    DriveStall(usize),
    /// The users of a volume write nothing, and then all at once.
    Pause(usize),
    /// A clock jumps an hour ahead.
    ClockJump(usize),
    /// Messages on management are lost, some of them, or come late, or twice.
    Loss,
    /// The owner gives a volume to another node, in order.
    HandOver(usize, usize),
    /// A volume is closed, in order, and opened later.
    Close(usize),
    /// A leg is moved to another drive in its rack.
    MoveLeg(usize, u16),
    /// A two-way volume becomes a four-way one, if there are nodes for that.
    Widen(usize),
    /// A volume is made larger.
    Grow(usize),
    /// An operator takes a volume over by force.
    Takeover(usize, usize),
    /// Somebody wants a volume's epoch activated, again and again.
    Activate(usize),
    /// An operator declares a leg of a volume good, whatever the ledger says.
    Override(usize, u16),
    /// A rack and the witness are gone for good; an operator forces a quorum with the others.
    ForceQuorum(usize),
    /// A voter's disk is wiped while it is off; it comes back under its old id, without a vote.
    Wipe(usize),
    /// Something about a virtual machine.
    Vm(VmWhat),
}

/// A fault and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, ms.
    pub at_ms: u64,
    /// How long it lasts, ms.
    pub for_ms: u64,
    /// What it is.
    pub what: What,
}

/// A cluster and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Where every random choice comes from.
    pub seed: u64,
    /// The cluster.
    pub kind: Kind,
    /// One drive in each rack may forget what it has acknowledged.
    pub volatile: bool,
    /// In the order of their times.
    pub faults: Vec<Fault>,
    /// From when on all is mended, ms.
    pub mended_ms: u64,
}

/// Until when nothing goes wrong, ms.
const CALM_MS: u64 = 1_500;
/// What is added to a seed to draw which volumes are thin.
const THIN: u64 = 1;
/// The last moment for a fault to begin, ms.
const LAST_MS: u64 = 15_000;

impl Schedule {
    /// How many extents a thin volume begins with; `None`: it is fixed. Of three volumes about one is thin. By the seed, but without the schedule's own
    /// randomness: what happens to fixed volumes is what happened before there were thin ones.
    pub(crate) fn thin(&self, volume: usize) -> Option<u64> {
        let drawn =
            fastrand::Rng::with_seed(self.seed.wrapping_mul(31).wrapping_add(THIN + volume as u64)).u64(..);
        drawn.is_multiple_of(3).then_some(2 + u64::from(!(drawn / 3).is_multiple_of(4)))
    }

    /// Whether agents look half as often, as they do at rest. By the seed alone, too.
    pub(crate) fn looks_seldom(&self) -> bool {
        self.seed % 2 == 1
    }

    /// The schedule of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed_0f5c_4ed0_1e50);
        let kind = if random.u8(..) < 128 { Kind::OnePlusOne } else { Kind::TwoPlusTwo };
        let mut volatile = random.u8(..) < 64;
        let mut faults = Vec::new();
        let count = 3 + random.usize(..6);
        // Faults that come together are worse than those that come one by one.
        let mut at_ms = CALM_MS + random.u64(..1500);
        for _ in 0..count {
            faults.push(fault(&mut random, kind, at_ms));
            at_ms += if random.u8(..) < 110 { random.u64(..700) } else { random.u64(500..4500) };
            at_ms = at_ms.min(LAST_MS);
        }
        let owner = random.usize(..kind.nodes());
        if !faults.iter().any(|fault| fault.what.takes_over()) {
            let for_ms = 4_000 + random.u64(..4_000);
            faults.push(Fault { at_ms: CALM_MS + random.u64(..6000), for_ms, what: What::NodePower(owner) });
        }
        if random.u8(..) < 45 {
            let at_ms = faults.iter().map(|fault| fault.at_ms).max().unwrap_or(CALM_MS) + random.u64(..4_000);
            faults.extend(rare(&mut random, kind, at_ms));
        }
        if random.u8(..) < 80 {
            let at_ms = CALM_MS + random.u64(..8_000);
            let (late, forgets) = ghosts(&mut random, kind, at_ms);
            volatile |= forgets;
            faults.extend(late);
        }
        // By a source of its own: other schedules stay what they were.
        let mut random_held = fastrand::Rng::with_seed(seed ^ 0x4e1d_0f5c_4ed0_1e50);
        if kind == Kind::TwoPlusTwo && random_held.u8(..) < 40 {
            faults = held(&mut random_held, kind);
        }
        faults.extend(growth(seed, kind, &faults));
        let so_far = Self { seed, kind, volatile, faults, mended_ms: 0 };
        let (mut more, forced) = (vms::happenings(&so_far), vms::saved_and_overridden(&so_far));
        let mut faults = so_far.faults;
        more.extend(forced);
        faults.extend(more);
        faults.sort_by_key(|fault| fault.at_ms);
        let end = |fault: &Fault| fault.at_ms + fault.for_ms;
        let mended_ms = faults.iter().map(end).max().unwrap_or(0).max(12_000) + random.u64(..2_000);
        Self { seed, kind, volatile, faults, mended_ms }
    }
}

/// What hardly ever comes together by chance: the last leg's end and a forced quorum, in each of a volume's phases.
fn rare(random: &mut fastrand::Rng, kind: Kind, at_ms: u64) -> Vec<Fault> {
    let volume = random.usize(..kind.volumes().len());
    let node = random.usize(..kind.nodes());
    let end = if random.bool() { What::AllLegsErr(volume) } else { What::ForceQuorum(node % 2) };
    let fault = |after_ms, for_ms, what| Fault { at_ms: at_ms + after_ms, for_ms, what };
    match random.u8(..5) {
        // Open.
        0 => vec![fault(0, 3_000, end)],
        1 => vec![fault(0, 0, What::Close(volume)), fault(random.u64(150..1_200), 3_000, end)],
        2 => {
            // No storage between the racks: the owner can't assemble, and does not give up for 3 s.
            let cut = What::RoomCut(Plane::Storage, Way::Both);
            let takeover = What::Takeover(volume, node);
            vec![fault(0, 6_000, cut), fault(50, 0, takeover), fault(random.u64(300..2_500), 3_000, end)]
        }
        3 => {
            // A target that does not answer: its fence is waited for.
            let takeover = What::Takeover(volume, (node + 1) % kind.nodes());
            let freeze = What::Freeze(node, false);
            vec![fault(0, 3_000, freeze), fault(150, 0, takeover), fault(random.u64(200..1_000), 3_000, end)]
        }
        _ => {
            let errors = What::AllLegsErr(volume);
            vec![fault(0, 0, errors), fault(random.u64(100..2_000), 3_000, What::ForceQuorum(node % 2))]
        }
    }
}

/// What was written before comes after what was written later: old writes that a drive does late, old confirmations. And whether a drive must
/// be able to forget for it to be seen.
fn ghosts(random: &mut fastrand::Rng, kind: Kind, at_ms: u64) -> (Vec<Fault>, bool) {
    let volume = random.usize(..kind.volumes().len());
    let node = random.usize(..kind.nodes());
    let other = (node + 1 + random.usize(..kind.nodes() - 1)) % kind.nodes();
    let fault = |after_ms, for_ms, what| Fault { at_ms: at_ms + after_ms, for_ms, what };
    let stalls = |after_ms, for_ms| [0, 1].map(|at| fault(after_ms, for_ms, What::DriveStall(2 * node + at)));
    match random.u8(..7) {
        // A write is stuck in a drive when its leg is fenced.
        0 => {
            let mut faults = stalls(0, 1_500 + random.u64(..2_500)).to_vec();
            faults.push(fault(20 + random.u64(..600), 0, What::Takeover(volume, other)));
            (faults, false)
        }
        // A write was long on its way when it got stuck: its path is lost and back before the target finds it old.
        1 => {
            let mut faults = stalls(200 + random.u64(..500), 700 + random.u64(..900)).to_vec();
            faults.push(fault(0, 950 + random.u64(..250), What::NodeCut(node, Plane::Storage, Way::Both)));
            (faults, false)
        }
        // One leg is being let go when another errs.
        2 => {
            let error = What::DriveError(2 * other + random.usize(..2));
            let off = fault(0, 4_000, What::NodePower(node));
            (vec![off, fault(700 + random.u64(..700), 0, error)], false)
        }
        // A rebuild is stuck in a drive when the volume goes to that drive's node.
        3 => {
            let mut faults = stalls(1_600, 5_000).to_vec();
            faults.push(fault(0, 1_500, What::NodePower(node)));
            faults.push(fault(3_200 + random.u64(..2_000), 0, What::HandOver(volume, node)));
            (faults, false)
        }
        // The witness loses what one rack has not heard of, and then the other rack is gone.
        4 => {
            let cut = fault(0, 4_000 + random.u64(..1_000), What::RoomCut(Plane::All, Way::Both));
            let wipe = fault(2_800, 300, What::Wipe(kind.nodes()));
            (vec![cut, wipe, fault(4_000, 5_000, What::RackPower(node % 2))], false)
        }
        // A fence is confirmed, and then its node restarts, while another's is still waited for.
        _ => {
            let last = kind.nodes() - 1;
            let mut faults = [0, 1].map(|drive| fault(0, 2_500, What::DriveStall(drive))).to_vec();
            faults.push(fault(150, 0, What::Takeover(volume, 0)));
            faults.push(fault(160 + random.u64(..60), 10, What::NodePower(last)));
            faults.push(fault(600, 1_500, What::Activate(volume)));
            (faults, true)
        }
    }
}

/// A leg comes back to a volume whose chunks are cold. Writes that wait for their bits in all others' drives were begun before it came; one of them then fails
/// in another leg's drive, and is held.
fn held(random: &mut fastrand::Rng, kind: Kind) -> Vec<Fault> {
    let nodes = kind.nodes();
    let away = random.usize(..nodes);
    let errs = (away + 1 + random.usize(..nodes - 1)) % nodes;
    let fault = |after_ms, for_ms, what| Fault { at_ms: CALM_MS + after_ms, for_ms, what };
    let back_ms = 5_200;
    let writes_ms = back_ms + random.u64(..110);
    let bits_ms = 300 + random.u64(..300);
    let mut faults: Vec<Fault> =
        [0, 2].map(|volume| fault(0, writes_ms, What::Pause(volume))).into_iter().collect();
    faults.push(fault(2_000, back_ms - 2_000, What::NodeCut(away, Plane::All, Way::Both)));
    let others = (0..nodes).filter(|node| *node != away).flat_map(|node| [2 * node, 2 * node + 1]);
    faults.extend(others.map(|drive| fault(writes_ms, bits_ms, What::DriveStall(drive))));
    let data_ms = writes_ms + bits_ms;
    for drive in [2 * errs, 2 * errs + 1] {
        faults.push(fault(data_ms - 5, 200 + random.u64(..400), What::DriveStall(drive)));
        faults.push(fault(data_ms + 20 + random.u64(..150), 0, What::DriveError(drive)));
    }
    let volume = random.usize(..kind.volumes().len());
    faults.push(fault(data_ms + 3_000, 0, What::Takeover(volume, random.usize(..nodes))));
    faults
}

/// Volumes that grow, some of them while something goes wrong. By a source of its own, too.
fn growth(seed: u64, kind: Kind, faults: &[Fault]) -> Vec<Fault> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x9607_0f5c_4ed0_1e50);
    let count = if random.u8(..) < 100 { 1 + random.usize(..4) } else { 0 };
    let grow = |_| {
        let near = random.choice(faults).map_or(CALM_MS, |fault| fault.at_ms);
        let at_ms = (near + random.u64(..2_000)).saturating_sub(1_000).max(CALM_MS);
        Fault { at_ms, for_ms: 0, what: What::Grow(random.usize(..kind.volumes().len())) }
    };
    let mut faults: Vec<Fault> = (0..count).map(grow).collect();
    if random.u8(..) < 30 {
        faults.extend(laid_behind(&mut random, kind));
    }
    faults
}

/// A target lays what its leg got, and hears no more of the ledger: neither that it has said so, nor that users have more and write there. Its agent is killed,
/// and comes back with what it had heard.
fn laid_behind(random: &mut fastrand::Rng, kind: Kind) -> [Fault; 3] {
    let (volume, node) = (random.usize(..kind.volumes().len()), random.usize(..kind.nodes()));
    let at_ms = CALM_MS + random.u64(..2_000);
    let fault = |after_ms, for_ms, what| Fault { at_ms: at_ms + after_ms, for_ms, what };
    [
        fault(0, 0, What::Grow(volume)),
        fault(20 + random.u64(..150), 4_000, What::NodeCut(node, Plane::Management, Way::To)),
        fault(700 + random.u64(..900), 200 + random.u64(..2_000), What::AgentKill(node)),
    ]
}

fn fault(random: &mut fastrand::Rng, kind: Kind, at_ms: u64) -> Fault {
    let nodes = kind.nodes();
    let drives = 2 * nodes;
    let volume = random.usize(..kind.volumes().len());
    let leg = random.u16(..kind.volumes()[volume]);
    let node = random.usize(..nodes);
    let for_ms = if random.bool() { 200 + random.u64(..2_500) } else { 1_000 + random.u64(..7_000) };
    let way = [Way::Both, Way::From, Way::To][random.usize(..3)];
    let plane = [Plane::Management, Plane::Storage, Plane::All][random.usize(..3)];
    let what = match random.u8(..100) {
        0..14 => What::NodePower(node),
        14..22 => What::RackPower(random.usize(..2)),
        22..26 => What::AllPower,
        26..36 => What::NodeCut(random.usize(..=nodes), plane, way),
        36..46 => What::RoomCut(plane, way),
        46..49 => What::Witness,
        49..58 => What::Freeze(random.usize(..=nodes), random.bool()),
        58..64 => What::AgentKill(random.usize(..=nodes)),
        64..71 => What::DriveError(random.usize(..drives)),
        71..76 => What::DrivePull(random.usize(..drives)),
        76..80 => What::DriveStall(random.usize(..drives)),
        80..82 => What::ClockJump(random.usize(..=nodes)),
        82..85 => What::Loss,
        85..90 => What::HandOver(volume, node),
        90..93 => What::Close(volume),
        93..94 => What::MoveLeg(volume, leg),
        94..95 => What::Widen(volume),
        95..97 => What::Takeover(volume, node),
        97..98 => What::Override(volume, leg),
        _ => What::Wipe(random.usize(..=nodes)),
    };
    Fault { at_ms, for_ms, what }
}

impl What {
    /// Whether it makes a volume change its owner, most of the time.
    fn takes_over(self) -> bool {
        matches!(self, Self::RackPower(_) | Self::AllPower | Self::Takeover(..) | Self::ForceQuorum(_))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both ways",
            Self::From => "from it",
            Self::To => "to it",
        })
    }
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Management => "management",
            Self::Storage => "storage",
            Self::All => "everything",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms  ", self.at_ms)?;
        let lasts = self.for_ms;
        match self.what {
            What::NodePower(node) => write!(f, "node-{} without power for {lasts} ms", node + 1),
            What::RackPower(rack) => write!(f, "rack {} without power for {lasts} ms", rack + 1),
            What::AllPower => write!(f, "everything without power for {lasts} ms"),
            What::NodeCut(node, plane, way) => {
                write!(f, "node-{} cut off, {plane}, {way}, for {lasts} ms", node + 1)
            }
            What::RoomCut(plane, way) => {
                write!(f, "rack 1 cut off from rack 2, {plane}, {way}, for {lasts} ms")
            }
            What::Witness => write!(f, "the witness without power for {lasts} ms"),
            What::Freeze(node, clock) => {
                let clock = if clock { ", its clock too" } else { "" };
                write!(f, "node-{} stands still{clock} for {lasts} ms", node + 1)
            }
            What::AgentKill(node) => write!(f, "the agent of node-{} killed, back in {lasts} ms", node + 1),
            What::DriveError(drive) => write!(f, "the next writes to drive-{} fail", drive + 1),
            What::AllLegsErr(volume) => {
                write!(f, "every in-sync leg of volume-{} reports an error", volume + 1)
            }
            What::DrivePull(drive) => write!(f, "drive-{} pulled for {lasts} ms", drive + 1),
            What::DriveStall(drive) => write!(f, "drive-{} stalls for {lasts} ms", drive + 1),
            What::Pause(volume) => write!(f, "no writes to volume-{} for {lasts} ms", volume + 1),
            What::ClockJump(node) => write!(f, "the clock of node-{} jumps an hour ahead", node + 1),
            What::Loss => write!(f, "messages are lost, late and doubled for {lasts} ms"),
            What::HandOver(volume, node) => {
                write!(f, "volume-{} handed over to node-{}", volume + 1, node + 1)
            }
            What::Close(volume) => write!(f, "volume-{} closed", volume + 1),
            What::MoveLeg(volume, leg) => write!(f, "volume-{}: leg-{} moved", volume + 1, leg + 1),
            What::Widen(volume) => write!(f, "volume-{} gets four legs", volume + 1),
            What::Grow(volume) => write!(f, "volume-{} grows", volume + 1),
            What::Takeover(volume, node) => {
                write!(f, "volume-{} taken over by node-{}", volume + 1, node + 1)
            }
            What::Activate(volume) => {
                write!(f, "activations of volume-{} are asked for, for {lasts} ms", volume + 1)
            }
            What::Override(volume, leg) => {
                write!(f, "volume-{}: leg-{} declared good by an operator", volume + 1, leg + 1)
            }
            What::ForceQuorum(rack) => {
                write!(f, "rack {} and the witness gone for good, quorum forced", rack + 1)
            }
            What::Wipe(node) => write!(f, "node-{} off for {lasts} ms, its ledger wiped", node + 1),
            What::Vm(what) => write!(f, "{what:?} for {lasts} ms (virtual machines and nodes from 0)"),
        }
    }
}
