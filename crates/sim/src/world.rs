//! A cluster in virtual time: the real deciding code, and around it machines, drives, links, a kernel and Raft, all simulated.
//!
//! Everything that happens is an [`Event`] at a time, µs; events at the same time come in the order in which they were ordered. A frozen
//! machine's events wait for it; those of a run that is over are void. `shell` is what an agent is around the roles, `md` and `gate` the owner's
//! kernel, `target` the target's and the drives, `raft` the ledger, `engine` assembling and rebuilding, `faults` what goes wrong, `operator` what people and
//! the API do, `judge` what must hold.
//!
//! Invariants: nothing but the schedule and its seed decides what happens.

mod engine;
mod faults;
mod gate;
mod grow;
mod judge;
mod md;
mod operator;
mod raft;
mod setup;
mod shell;
mod target;
mod thin;
mod users;
mod vm;

use crate::bugs::Broken;
use crate::hits::Hits;
use crate::schedule::{Home, Plane, Schedule, Then, When};
use control::owner::{self, Owner};
use control::state::{Reach, State};
use control::target::{Key, Laid, LegOf, Target};
use control::vm::runner::Runner;
use control::{Command, LegRef, Moment, decider::Decider, lease::Holder};
use judge::{Judge, Truth};
use md::Array;
use model::{BootId, Generation, NodeId, PlacedLeg, VmId, VolumeId};
use raft::{Raft, Seat};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::rc::Rc;
use target::{Disk, DriveSim};

/// The blocks of a volume that has grown to all of its room. Few: what matters is that writes meet.
pub(crate) const BLOCKS: usize = 12;
/// Blocks of a chunk of the bitmap.
pub(crate) const CHUNK: usize = 2;
/// Chunks of its room.
pub(crate) const CHUNKS: usize = BLOCKS / CHUNK;
/// A millisecond in the clock of the simulation.
pub(crate) const MS: u64 = 1000;
/// How often an agent looks at everything: this, or half as often.
const TICK: u64 = 100 * MS;
/// More events than this is a storm, not a schedule.
const EVENTS_MAX: u64 = 3_000_000;

/// The number of a write, which is what it writes. 0 is what was there before.
pub(crate) type Value = u32;

/// What happens at a time.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A machine's 100 ms: of its run.
    Tick(usize, u32),
    /// A proposal reaches a machine.
    /// To whom, what, and the only term in which it is to be taken.
    Propose(usize, Command, Option<u64>),
    /// A leader tries to commit what it has.
    Commit(usize),
    /// A machine hears how far the log is committed.
    Seen(usize, usize),
    /// A leader's round with the quorum ends: machine, term, round.
    Confirm(usize, u64, u64),
    /// A machine asks a leader for a lease: leader, machine, request.
    Asked(usize, usize, u64),
    /// A lease was granted.
    Granted(usize, u64),
    /// An I/O gets to the target's kernel.
    Arrive(Io),
    /// A drive has done it.
    Land(Io),
    /// The answer gets to the owner's kernel.
    Answer(Io, bool),
    /// An agent does what it was ordered next: machine, volume, agent.
    Engine(usize, usize, u32),
    /// The next step of an assembly: machine, volume, which assembly.
    Assemble(usize, usize, u32),
    /// The next step of a rebuild: machine, volume, array.
    Copy(usize, usize, u32),
    /// An array that is being stopped: machine, volume, agent, array, tries.
    Stop(usize, usize, u32, u32, u32),
    /// A user writes: machine, volume, array, users, slot.
    User(usize, usize, u32, u32, u8),
    /// A machine that was off boots.
    Boot(usize),
    /// An agent starts: machine, run.
    Agent(usize, u32),
    /// Somebody asks for a volume's activation.
    Activate(usize),
    /// A hand-over is to be given up: machine, volume.
    TakeBack(usize, usize),
    /// A slab of a leg is to be filled with zeros: machine, which laying.
    Lay(usize, u32),
    /// Users are to get more: machine, volume, array, what.
    Extend(usize, usize, u32, Reach),
    /// An owner hears that a leg was taken back, since its drive stalls.
    TakenBack(usize, usize, LegRef),
    /// A target hears that a leg of its was given back: machine, leg, as it was given out.
    GivenBack(usize, LegOf, Key),
    /// A leg could not be given out: machine, volume, leg.
    NotGiven(usize, usize, u16),
    /// A fault begins.
    Fault(usize),
    /// It ends.
    Mend(usize),
    /// All faults end.
    Mended,
    /// People and the API look.
    Operator,
    /// A trap for a virtual machine springs.
    Sprung(usize, Then),
    /// A node that a trap has cut off from the ledger resets itself.
    CutOver(usize),
    /// What comes next of a virtual machine on a machine, in its run: which, and which run of it.
    Guest(usize, u32, VmId, Generation, vm::Step),
}

/// An I/O on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Io {
    pub(crate) volume: usize,
    pub(crate) leg: u16,
    /// The owner, and which array of it.
    pub(crate) from: usize,
    pub(crate) array: u32,
    /// The connection that it was sent on.
    pub(crate) conn: u32,
    /// The target.
    pub(crate) to: usize,
    pub(crate) key: Key,
    /// Of this attempt.
    pub(crate) uid: u32,
    /// Of the I/O, whichever attempt.
    pub(crate) id: u32,
    pub(crate) kind: IoKind,
}

/// What an I/O does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IoKind {
    /// A chunk's bit, set.
    Bit(u8),
    /// A user's write.
    Data(u8, Value),
    /// A rebuild's.
    Copy(u8, Value),
    /// What is in the drive's cache becomes durable.
    Flush,
}

/// A machine: what is on its disk, its kernel, its agent.
pub(crate) struct Machine {
    pub(crate) node: NodeId,
    pub(crate) rack: Option<usize>,
    pub(crate) power: bool,
    /// It will never be back.
    pub(crate) gone: bool,
    /// Faults that keep its power off.
    pub(crate) off: u32,
    /// Faults that keep it frozen.
    pub(crate) frozen: u32,
    pub(crate) clock_stopped_at: Option<u64>,
    deferred: Vec<Event>,
    pub(crate) boots: u32,
    /// Grows with each boot and each loss of power.
    pub(crate) run: u32,
    clock_ahead_ms: u64,
    /// It was set ahead.
    pub(crate) clock_jumped: bool,
    clock_behind_us: u64,
    clock_ppm: i64,
    pub(crate) watchdog: Option<Moment>,
    /// When the last lease ends that was granted in this boot.
    pub(crate) lease_note: Moment,
    pub(crate) arrays: Vec<Option<Array>>,
    pub(crate) floors: BTreeMap<LegOf, Key>,
    /// What is remembered of slabs that were laid; on disk, like floors.
    pub(crate) laid: BTreeMap<LegOf, Laid>,
    /// Virtual machines. They end with its kernel.
    pub(crate) guests: BTreeMap<VmId, vm::Guest>,
    pub(crate) agent: Option<Agent>,
    pub(crate) agents: u32,
    pub(crate) seat: Seat,
}

/// What an agent has in memory.
pub(crate) struct Agent {
    /// The term in which it knows that this machine leads: it looks at times.
    pub(crate) leads: Option<u64>,
    pub(crate) target: Target,
    pub(crate) owners: Vec<Owner>,
    pub(crate) runner: Runner,
    pub(crate) decider: Decider,
    pub(crate) holder: Holder,
    pub(crate) laying: Vec<grow::Laying>,
    pub(crate) in_flight: Vec<(Command, u64)>,
    pub(crate) orders: Vec<VecDeque<Order>>,
    pub(crate) work: Vec<Option<engine::Work>>,
    pub(crate) heard: Vec<u64>,
    pub(crate) silent: Vec<bool>,
}

/// A virtual machine.
pub(crate) struct VmSim {
    pub(crate) volumes: Vec<usize>,
    pub(crate) home: Home,
    pub(crate) known: vm::Known,
    /// What happens as soon as it is so far.
    pub(crate) trap: Option<(When, Then)>,
}

impl Machine {
    /// Whether its clock has jumped, or stands still, or did: then leases don't say who runs.
    pub(crate) fn clock_astray(&self) -> bool {
        self.clock_jumped || self.clock_behind_us > 0 || self.clock_stopped_at.is_some()
    }
}

/// What an engine takes its time for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Look,
    LetGo(LegRef),
    Release(std::collections::BTreeSet<LegRef>),
}

struct Due {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The cluster.
pub(crate) struct World {
    pub(crate) schedule: Schedule,
    pub(crate) bug: Option<Broken>,
    pub(crate) random: fastrand::Rng,
    /// For what virtual machines do.
    pub(crate) random_vm: fastrand::Rng,
    pub(crate) vms: Vec<VmSim>,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Due>>,
    number: u64,
    pub(crate) uid: u32,
    pub(crate) machines: Vec<Machine>,
    pub(crate) drives: Vec<DriveSim>,
    /// By volume, then by leg.
    pub(crate) disks: Vec<BTreeMap<u16, Disk>>,
    /// How many faults cut a link, by plane, from, to.
    pub(crate) cuts: [Vec<u32>; 2],
    pub(crate) losses: u32,
    pub(crate) raft: Raft,
    pub(crate) truths: Vec<Truth>,
    pub(crate) judge: Judge,
    pub(crate) hits: Hits,
    /// Moves that were asked for.
    pub(crate) planned: Vec<PlacedLeg>,
    pub(crate) closed_since: Vec<Option<u64>>,
    /// Until when a volume's users write nothing.
    pub(crate) paused_until: Vec<u64>,
    pub(crate) mended: bool,
    pub(crate) done: bool,
    pub(crate) wiped: bool,
    pub(crate) forced: Option<usize>,
    pub(crate) story: Option<Vec<String>>,
}

/// A virtual second has passed so often until all must be well again.
pub(crate) const PROGRESS_US: u64 = 120_000 * MS;

impl World {
    /// Runs on until it is over: something does not hold, or all is well again.
    pub(crate) fn run(&mut self) {
        let mut events = 0;
        while let Some(Reverse(Due { at, event, .. })) = self.queue.pop() {
            self.now = at;
            events += 1;
            self.dispatch(event);
            if self.done || self.judge.broken.is_some() {
                return;
            }
            if events > EVENTS_MAX {
                self.judge.broken = Some(format!("more than {EVENTS_MAX} events: a storm"));
                return;
            }
        }
    }

    pub(crate) fn post(&mut self, in_us: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Due { at: self.now + in_us, number: self.number, event }));
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(machine) = whose(&event) {
            let machine = &mut self.machines[machine];
            if machine.frozen > 0 && machine.power {
                machine.deferred.push(event);
                return;
            }
        }
        match event {
            Event::Tick(machine, run) => self.tick(machine, run),
            Event::Propose(machine, command, term) => self.proposed(machine, command, term),
            Event::Commit(machine) => self.commit(machine),
            Event::Seen(machine, index) => self.seen(machine, index),
            Event::Confirm(machine, term, round) => self.confirm(machine, term, round),
            Event::Asked(leader, machine, request) => self.asked(leader, machine, request),
            Event::Granted(machine, request) => self.tell_holder(machine, Some(request)),
            Event::Arrive(io) => self.arrive(io),
            Event::Land(io) => self.land(io),
            Event::Answer(io, ok) => self.answer(io, ok),
            Event::Engine(machine, volume, agent) => self.engine(machine, volume, agent),
            Event::Assemble(machine, volume, work) => self.assemble(machine, volume, work),
            Event::Copy(machine, volume, array) => self.copy(machine, volume, array),
            Event::Stop(machine, volume, agent, array, tries) => {
                self.stopping(machine, volume, agent, array, tries);
            }
            Event::User(machine, volume, array, users, slot) => {
                self.user(machine, volume, array, users, slot);
            }
            Event::Boot(machine) => self.boot(machine),
            Event::Agent(machine, run) => self.start_agent(machine, run),
            Event::TakeBack(machine, volume) => {
                let own = self.machines[machine].node;
                self.tell_owner(machine, volume, owner::Event::HandOver(own));
            }
            Event::Activate(volume) => self.ask(volume, control::VolumeCommand::Activate),
            Event::Lay(machine, id) => self.lay_next(machine, id),
            Event::Extend(machine, volume, array, bytes) => self.extend(machine, volume, array, bytes),
            Event::NotGiven(machine, volume, leg) => self.not_given(machine, volume, leg),
            Event::TakenBack(machine, volume, leg) => {
                self.tell_owner(machine, volume, owner::Event::TakenBack(leg));
            }
            Event::GivenBack(machine, leg, key) => {
                self.tell_target(machine, control::target::Event::GivenBack(leg, key));
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Mend(fault) => self.mend(fault),
            Event::Mended => self.all_mended(),
            Event::Operator => self.operate(),
            Event::Sprung(vm, then) => self.sprung(vm, then),
            Event::CutOver(machine) => self.cut_over(machine),
            Event::Guest(machine, run, vm, generation, step) => {
                self.guest_step(machine, run, vm, generation, step);
            }
        }
    }

    /// What happened to a frozen machine meanwhile happens now.
    pub(crate) fn thawed(&mut self, machine: usize) {
        let now = self.now;
        let found = &mut self.machines[machine];
        if let Some(since) = found.clock_stopped_at.take() {
            found.clock_behind_us += now - since;
        }
        for event in std::mem::take(&mut found.deferred) {
            self.post(1, event);
        }
    }

    /// What waits for a frozen machine that loses its power is lost.
    pub(crate) fn forget_deferred(&mut self, machine: usize) {
        self.machines[machine].deferred.clear();
    }

    /// A machine's clock: ms that never go back.
    pub(crate) fn clock(&self, machine: usize) -> Moment {
        let found = &self.machines[machine];
        let stopped = found.clock_stopped_at.unwrap_or(self.now);
        let real = stopped.saturating_sub(found.clock_behind_us);
        let rated = real.saturating_add_signed(real.cast_signed() / 1_000_000 * found.clock_ppm);
        Moment(rated / MS + found.clock_ahead_ms)
    }

    pub(crate) fn jump(&mut self, machine: usize, ms: u64) {
        self.machines[machine].clock_ahead_ms += ms;
        self.machines[machine].clock_jumped = true;
    }

    pub(crate) fn boot_id(&self, machine: usize) -> BootId {
        let found = &self.machines[machine];
        BootId(u128::from(found.node.0) * 100_000 + u128::from(found.boots))
    }

    pub(crate) fn passes(&self, plane: Plane, from: usize, to: usize) -> bool {
        let at = from * self.machines.len() + to;
        let cut = |plane: usize| self.cuts[plane][at] > 0;
        from == to
            || match plane {
                Plane::Management => !cut(0),
                Plane::Storage => !cut(1),
                Plane::All => !cut(0) && !cut(1),
            }
    }

    /// A message on management: its delay, or `None` if it is lost.
    pub(crate) fn message(&mut self, from: usize, to: usize) -> Option<u64> {
        if !self.passes(Plane::Management, from, to) {
            return None;
        }
        if self.losses > 0 {
            match self.random.u8(..) {
                0..60 => return None,
                60..90 => return Some(self.random.u64(..2000) * MS),
                _ => {}
            }
        }
        Some(100 + self.random.u64(..400))
    }

    /// Whether a machine's agent takes part.
    pub(crate) fn lives(&self, machine: usize) -> bool {
        let found = &self.machines[machine];
        found.power && found.frozen == 0 && found.agent.is_some()
    }

    /// What a machine has seen of the ledger.
    pub(crate) fn sees(&self, machine: usize) -> Rc<State> {
        self.raft.log[self.machines[machine].seat.applied].clone()
    }

    /// What is committed.
    pub(crate) fn ledger(&self) -> Rc<State> {
        self.raft.log.last().cloned().unwrap_or_else(|| self.raft.log[0].clone())
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let line = format!("{:>6}.{:03} ms  {}", self.now / MS, self.now % MS, line(self));
            self.story.iter_mut().for_each(|story| story.push(line.clone()));
        }
    }

    pub(crate) fn tell_owners(&mut self, machine: usize, event: &owner::Event) {
        for volume in 0..self.truths.len() {
            self.tell_owner(machine, volume, event.clone());
        }
        self.tell_runner_lease(machine, event);
    }
}

/// Whose event it is, if it is anybody's.
fn whose(event: &Event) -> Option<usize> {
    match event {
        Event::Tick(machine, _)
        | Event::Propose(machine, ..)
        | Event::Commit(machine)
        | Event::Seen(machine, _)
        | Event::Confirm(machine, ..)
        | Event::Asked(machine, ..)
        | Event::Granted(machine, _)
        | Event::Engine(machine, ..)
        | Event::Assemble(machine, ..)
        | Event::Copy(machine, ..)
        | Event::Stop(machine, ..)
        | Event::User(machine, ..)
        | Event::Lay(machine, _)
        | Event::TakeBack(machine, _)
        | Event::Extend(machine, ..)
        | Event::NotGiven(machine, ..)
        | Event::TakenBack(machine, ..)
        | Event::GivenBack(machine, ..)
        | Event::Guest(machine, ..)
        | Event::Agent(machine, _) => Some(*machine),
        Event::Arrive(io) | Event::Land(io) => Some(io.to),
        Event::Answer(io, _) => Some(io.from),
        Event::Activate(_)
        | Event::Boot(_)
        | Event::Fault(_)
        | Event::Mend(_)
        | Event::Mended
        | Event::Sprung(..)
        | Event::CutOver(_)
        | Event::Operator => None,
    }
}

pub(crate) fn volume_id(volume: usize) -> VolumeId {
    VolumeId(u32::try_from(volume).unwrap_or(u32::MAX - 1) + 1)
}

pub(crate) fn volume_index(id: VolumeId) -> usize {
    id.0 as usize - 1
}

pub(crate) fn node_index(id: NodeId) -> usize {
    id.0 as usize - 1
}
