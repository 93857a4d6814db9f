//! Virtual machines of a schedule, and what happens to them. By sources of its own: schedules without any stay what they were.

use super::{CALM_MS, Fault, Kind, LAST_MS, Schedule, What};

/// What is mixed into a seed to draw virtual machines.
const MACHINES: u64 = 0x0a11_ce5e_4ed0_1e51;
/// How many schedules of 256 have any.
const SCHEDULES: u8 = 110;

/// What happens to a virtual machine, or for one. Machines are indices from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmWhat {
    /// It is wanted stopped, and running again at the end.
    Stop(usize),
    /// It is wanted saved, and running again at the end.
    Save(usize),
    /// It dies, or shuts itself down.
    Dies(usize),
    /// An operator has it go to a node.
    Migrate(usize, usize),
    /// A node is emptied, and takes some again at the end; the others on it stay or are saved.
    Drain(usize, bool),
    /// A rack is.
    DrainRack(usize, bool),
    /// It is made strict in a rack, or non-strict.
    Place(usize, usize, bool),
    /// The node where it runs resets itself.
    ResetIts(usize),
    /// The agent there is killed, and starts again.
    KillItsAgent(usize),
    /// As soon as it is restored or has been switched over.
    Trap(usize, When, Then),
}

/// When a trap springs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The ledger says that it is to be restored.
    Restoring,
    /// The ledger says that it has moved.
    Landing,
}

/// What a trap does, where the ledger says that it is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The node resets itself.
    Reset,
    /// What waits there dies.
    Dies,
    /// The node is cut off from the ledger, and resets itself a second later.
    CutAndReset,
}

/// Where a virtual machine of a schedule may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    Anywhere,
    Prefers(usize),
    Strict(usize),
}

/// A virtual machine of a schedule: its volumes and its home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) volumes: Vec<usize>,
    pub(crate) home: Home,
}

fn source(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed ^ MACHINES)
}

impl Schedule {
    /// Its virtual machines; none in about every other schedule.
    pub(crate) fn machines(&self) -> Vec<Machine> {
        let mut random = source(self.seed);
        if random.u8(..) >= SCHEDULES {
            return Vec::new();
        }
        let volumes: &[&[usize]] = match self.kind {
            Kind::OnePlusOne if random.bool() => &[&[0, 1]],
            Kind::OnePlusOne => &[&[0], &[1]],
            Kind::TwoPlusTwo if random.bool() => &[&[0, 1], &[2]],
            Kind::TwoPlusTwo => &[&[1], &[2]],
        };
        let mut home = || match random.u8(..8) {
            0..2 => Home::Anywhere,
            2..5 => Home::Prefers(random.usize(..2)),
            _ => Home::Strict(random.usize(..2)),
        };
        volumes.iter().map(|own| Machine { volumes: own.to_vec(), home: home() }).collect()
    }

    /// Where random choices about them come from while it runs.
    pub(crate) fn machines_source(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(!self.seed ^ MACHINES)
    }
}

/// What happens to them, some of it while something else does.
pub(super) fn happenings(schedule: &Schedule) -> Vec<Fault> {
    let machines = schedule.machines().len();
    let mut random = fastrand::Rng::with_seed(schedule.seed.rotate_left(7) ^ MACHINES);
    if machines == 0 {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for _ in 0..=random.usize(..4) {
        let near = random.choice(&schedule.faults).map_or(CALM_MS, |fault| fault.at_ms);
        let at_ms = if random.bool() { near } else { CALM_MS + random.u64(..LAST_MS - CALM_MS) };
        let at_ms = (at_ms + random.u64(..2_000)).saturating_sub(1_000).max(CALM_MS);
        faults.extend(happening(&mut random, schedule.kind, machines, at_ms));
    }
    faults
}

/// One thing, and perhaps another on its heels: what takes several steps is hit in each of them.
fn happening(random: &mut fastrand::Rng, kind: Kind, machines: usize, at_ms: u64) -> Vec<Fault> {
    let (vm, node) = (random.usize(..machines), random.usize(..kind.nodes()));
    let for_ms = 500 + random.u64(..6_000);
    let fault = |after_ms, for_ms, what| Fault { at_ms: at_ms + after_ms, for_ms, what: What::Vm(what) };
    let first = match random.u8(..20) {
        0..2 => VmWhat::Stop(vm),
        2..5 => VmWhat::Save(vm),
        5..7 => VmWhat::Dies(vm),
        7..12 => VmWhat::Migrate(vm, node),
        12..15 => VmWhat::Drain(node, random.bool()),
        15..18 => VmWhat::DrainRack(node % 2, random.bool()),
        18..19 => VmWhat::Place(vm, random.usize(..2), random.bool()),
        _ => VmWhat::ResetIts(vm),
    };
    let mut faults = vec![fault(0, for_ms, first)];
    let soon = match first {
        VmWhat::Save(_) if random.bool() => for_ms,
        _ => 0,
    };
    let then = [Then::Reset, Then::Dies, Then::CutAndReset][random.usize(..3)];
    match first {
        VmWhat::Save(_) if random.bool() => {
            faults.insert(0, fault(0, 0, VmWhat::Trap(vm, When::Restoring, then)));
        }
        VmWhat::Migrate(..) | VmWhat::Drain(..) | VmWhat::DrainRack(..) if random.u8(..) < 90 => {
            faults.insert(0, fault(0, 0, VmWhat::Trap(vm, When::Landing, then)));
        }
        _ => {}
    }
    let within_ms = if random.bool() { 300 } else { 2_500 };
    let after_ms = soon + random.u64(..within_ms);
    match random.u8(..10) {
        0..3 => faults.push(fault(after_ms, 0, VmWhat::ResetIts(vm))),
        3..4 => faults.push(fault(after_ms, 200, VmWhat::KillItsAgent(vm))),
        4..5 => faults.push(fault(after_ms, 1_000, VmWhat::Stop(vm))),
        5..6 => faults.push(fault(after_ms, 0, VmWhat::Dies(vm))),
        6..7 => faults.push(Fault { at_ms: at_ms + after_ms, for_ms: 1_500, what: What::NodePower(node) }),
        _ => {}
    }
    faults
}

/// What was saved while a volume is declared good by an operator.
pub(super) fn saved_and_overridden(schedule: &Schedule) -> Vec<Fault> {
    let mut random = fastrand::Rng::with_seed(schedule.seed.rotate_left(9) ^ MACHINES);
    let machines = schedule.machines();
    let (Some(machine), true) = (machines.first(), random.u8(..) < 16) else { return Vec::new() };
    let at_ms = CALM_MS + 500 + random.u64(..3_000);
    let fault = |after_ms, for_ms, what| Fault { at_ms: at_ms + after_ms, for_ms, what };
    let volume = machine.volumes[0];
    vec![
        fault(0, 7_000, What::Vm(VmWhat::Save(0))),
        fault(2_500, 0, What::Takeover(volume, random.usize(..schedule.kind.nodes()))),
        fault(2_550, 0, What::Override(volume, random.u16(..schedule.kind.volumes()[volume]))),
    ]
}
