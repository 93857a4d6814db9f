//! What is around the deciding code: kernels, drives, the network, and what they may do to it.

use super::grow;
use super::proposed::{may_be_taken, may_register};
use crate::bug::{Bug, Bugs};
use crate::check_step;
use crate::command::{ClusterCommand, Command, Event, LegRef, VolumeCommand};
use crate::moment::Moment;
use crate::owner::{self, Assembly, Owner, Timing};
use crate::state::{Base, Cache, Phase, Run, State};
use crate::target::{self, Key, Laid, LegOf, Target};
use crate::testing::{VOLUME, boot, volume, with_volume};
use model::{BootId, DriveId, Epoch, Incarnation, LegId, MapSequence, Mirror, NodeId, PowerCycles};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

/// How much may happen, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Config {
    pub(super) nodes: u32,
    pub(super) mirror: Mirror,
    pub(super) caches: &'static [Cache],
    /// Who may take over.
    pub(super) new_owners: &'static [u32],
    /// Takeovers.
    pub(super) epochs: u32,
    /// Writes after the opening.
    pub(super) writes: u8,
    /// Power losses of a node.
    pub(super) crashes: u8,
    /// Gates that lose their paths.
    pub(super) gates: u8,
    /// Drive errors.
    pub(super) errors: u8,
    /// Drives that are pulled and put back.
    pub(super) pulls: u8,
    /// Orderly changes of owner, and orderly closes.
    pub(super) handovers: u8,
    /// Orderly closes of what turns out to be used by no process.
    pub(super) used: u8,
    /// Whether the volume grows, once.
    pub(super) grows: bool,
    /// Whether writes land, and barriers are through, at once.
    pub(super) coarse: bool,
    /// Whether the engine's answers take time.
    pub(super) slow_engine: bool,
    pub(super) bug: Option<Bug>,
}

/// What may happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// A node sees the ledger as it is.
    See(NodeId),
    /// Something that was proposed once reaches the ledger.
    Deliver(Epoch, VolumeCommand),
    /// A registration does.
    Register(NodeId, Registration),
    /// The decider begins an epoch.
    Takeover(NodeId),
    /// It activates the epoch.
    Activate,
    /// A user writes.
    Write(NodeId),
    /// The write gets to a target's kernel.
    Reach(NodeId, LegId),
    /// It gets from there to the drive, and the answer back if there is a way.
    Land(LegId),
    /// A gate has no path.
    GateLost(NodeId, LegId),
    /// An owner hears that its own leg is fenced.
    CutOff(NodeId, LegId),
    /// A drive refuses the write.
    Error(NodeId, LegId),
    /// A drive is pulled and put back.
    Away(LegId),
    /// A fence's barrier is through.
    Barrier(LegId),
    /// An array is made.
    Assemble(NodeId),
    /// A rebuild copies.
    Copy(NodeId),
    /// The engine does what it was ordered next.
    Engine(NodeId),
    /// A node loses its power.
    Crash(NodeId),
    /// It is back.
    Boot(NodeId),
    /// An orderly change of owner.
    HandOver(NodeId, NodeId),
    /// An orderly close.
    Close(NodeId),
    /// The same, of what is used by no process; later the engine says so.
    CloseUsed(NodeId),
    InUse(NodeId),
    /// A closed volume is opened.
    Open(NodeId),
    /// The volume is to grow.
    Grow,
    /// What a leg got for that is filled with zeros, and mapped.
    Fill(LegId),
    /// A user writes behind the old end.
    WriteMore(NodeId),
}

/// What a node's own disk has of its legs.
pub(super) type Notes = (BTreeMap<LegOf, Key>, BTreeMap<LegOf, Laid>);

/// A node's boot before, and its run now.
pub(super) type Registration = (Option<BootId>, Run);

/// The number of a write; each writes it to the one block that there is.
pub(super) type Value = u8;

/// A part of the world that is shared between states until it changes, and hashed once.
#[derive(Debug, Clone)]
pub(super) struct Part<T>(Rc<(u64, T)>);

impl<T: Hash + Clone> Part<T> {
    fn new(value: T) -> Self {
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        Self(Rc::new((hasher.finish(), value)))
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.1.clone();
        let result = change(&mut value);
        *self = Self::new(value);
        result
    }
}

impl<T> Deref for Part<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.0.hash(state);
    }
}

#[derive(Debug, Clone, Hash)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) ledger: Part<State>,
    pub(super) machines: BTreeMap<NodeId, Machine>,
    pub(super) disks: BTreeMap<LegId, Disk>,
    pub(super) proposed: BTreeSet<(Epoch, VolumeCommand)>,
    pub(super) registrations: BTreeSet<(NodeId, Registration)>,
    /// What was last acknowledged, or read by an owner that opened.
    pub(super) truth: Value,
    /// Written and not acknowledged: it may be there or not.
    pub(super) maybe: BTreeSet<Value>,
    /// What was once the truth: its acknowledgement may come late.
    pub(super) settled: BTreeSet<Value>,
    pub(super) written: Value,
    /// Something behind the old end was acknowledged.
    pub(super) more: bool,
    pub(super) spent: Spent,
    pub(super) broken: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Spent {
    pub(super) epochs: u32,
    pub(super) writes: u8,
    pub(super) crashes: u8,
    pub(super) gates: u8,
    pub(super) errors: u8,
    pub(super) pulls: u8,
    pub(super) handovers: u8,
    pub(super) used: u8,
}

/// A node: what runs on it, and what is on its own disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Machine {
    pub(super) up: bool,
    pub(super) boots: u32,
    pub(super) floors: BTreeMap<LegOf, Key>,
    pub(super) laid: BTreeMap<LegOf, Laid>,
    pub(super) target: Target,
    pub(super) owner: Owner,
    pub(super) assembling: Option<Assembly>,
    pub(super) array: Option<Array>,
    pub(super) orders: VecDeque<Order>,
}

/// What an engine may take its time for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Order {
    Look,
    LetGo(LegRef),
    Release(BTreeSet<LegRef>),
}

/// The kernel's array.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Array {
    pub(super) epoch: Epoch,
    pub(super) admitted: bool,
    /// Whether users have all that the volume has grown to.
    pub(super) long: bool,
    /// Whether it is used by what can't be killed, and is to be closed.
    pub(super) used: bool,
    pub(super) legs: BTreeMap<LegId, Member>,
    pub(super) writing: Option<(Value, BTreeSet<LegId>)>,
    pub(super) copying: Option<(LegRef, Base)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Member {
    pub(super) incarnation: Incarnation,
    pub(super) failed: bool,
    pub(super) recovering: bool,
}

/// A leg: the drive's content, the metadata area, and what the target's kernel has of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub(super) value: Value,
    /// What is left when a volatile cache loses its power.
    pub(super) durable: Value,
    /// The write-intent bitmap's one bit.
    pub(super) bitmap: bool,
    /// What stale legs have missed, and the sequence of that.
    pub(super) maps: (MapSequence, BTreeMap<LegId, bool>),
    pub(super) power_cycles: u32,
    /// To whom the kernel gives it out.
    pub(super) given: Option<(Key, NodeId)>,
    /// A write in the kernel, and whose.
    pub(super) queue: Option<(Value, NodeId)>,
    /// A fence that waits for its barrier.
    pub(super) fencing: Option<Key>,
    pub(super) errored: bool,
    /// Slabs that are being filled: from which on, and what is laid then.
    pub(super) laying: Option<(u64, Laid)>,
    /// What the leg got when the volume grew.
    pub(super) end: End,
}

/// The end of a leg, which it got when the volume grew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct End {
    /// Whether the leg's device has it.
    pub(super) mapped: bool,
    /// Whether what users write there is there.
    pub(super) more: bool,
}

const NO_PATIENCE: Timing = Timing {
    assembly_patience: Duration::ZERO,
    gate_patience: Duration::ZERO,
    rebuild_patience: Duration::from_secs(1),
    rebuild_pause: Duration::ZERO,
    stop_max: Duration::from_secs(1),
    close_max: Duration::from_secs(1),
};

pub(super) const NOW: Moment = Moment(0);

pub(super) fn node_of(leg: LegId) -> NodeId {
    NodeId(u32::from(leg.0))
}

impl World {
    /// A cluster whose volume is open at node 1, made and opened by the code itself.
    pub(super) fn opened(config: Config) -> Self {
        let mut ledger = with_volume(config.nodes, 1, config.mirror, config.caches);
        grow::may_grow(&mut ledger, config);
        ledger.settings.rebuilds_per_node_max = 1;
        // Legs stay where they are: a third node's drive takes none. The sim rung moves them.
        let holds: Vec<_> = volume(&ledger).legs.values().map(|leg| leg.drive).collect();
        for (_, drive) in ledger.drives.iter_mut().filter(|(id, _)| !holds.contains(id)) {
            drive.retired = true;
        }
        let disk = Disk {
            value: 0,
            durable: 0,
            bitmap: false,
            maps: (MapSequence(0), BTreeMap::new()),
            power_cycles: 1,
            given: None,
            queue: None,
            fencing: None,
            errored: false,
            laying: None,
            end: End::default(),
        };
        let disks = volume(&ledger).legs.keys().map(|leg| (*leg, disk.clone())).collect();
        let mut world = Self {
            config,
            ledger: Part::new(ledger),
            machines: BTreeMap::new(),
            disks,
            proposed: BTreeSet::new(),
            registrations: BTreeSet::new(),
            truth: 0,
            maybe: BTreeSet::new(),
            settled: BTreeSet::from([0]),
            written: 0,
            more: false,
            spent: Spent::default(),
            broken: None,
        };
        for node in (1..=config.nodes).map(NodeId) {
            let machine = world.machine(node, 1, (BTreeMap::new(), BTreeMap::new()));
            world.machines.insert(node, machine);
        }
        for _ in 0..20 {
            let wanted = |action: &Action| match action {
                Action::Activate => world.all_confirmed(),
                Action::See(_) | Action::Deliver(..) | Action::Barrier(_) | Action::Assemble(_) => true,
                _ => false,
            };
            for action in world.actions().into_iter().filter(wanted).collect::<Vec<_>>() {
                if world.actions().contains(&action) {
                    world.act(&action);
                }
            }
        }
        let open = world.machines[&NodeId(1)].array.as_ref().is_some_and(|array| array.admitted);
        assert!(open && world.broken().is_none(), "{:?}", world.broken);
        world
    }

    fn all_confirmed(&self) -> bool {
        let volume = volume(&self.ledger);
        matches!(&volume.phase, Phase::Fencing { confirmed } if confirmed.len() == volume.legs.len())
    }

    pub(super) fn machine(&self, node: NodeId, boots: u32, (floors, laid): Notes) -> Machine {
        let bugs = self.config.bug.map(Bugs::with).unwrap_or_default();
        let cycles = |(leg, disk): (&LegId, &Disk)| {
            (node_of(*leg) == node).then_some((DriveId(u32::from(leg.0)), PowerCycles(disk.power_cycles)))
        };
        let drives = self.disks.iter().filter_map(cycles).collect();
        let boot = boot(node, boots);
        let target =
            Target::new(node, boot, drives, (floors.clone(), laid.clone()), BTreeMap::new()).with_bugs(bugs);
        let mut owner = Owner::new(VOLUME, node, boot, NO_PATIENCE, None).with_bugs(bugs);
        // Leases are checked on their own: here a node always has one.
        let _ = owner.step(NOW, &State::new(self.ledger.settings), owner::Event::Leased);
        let (assembling, array, orders) = (None, None, VecDeque::new());
        Machine { up: true, boots, floors, laid, target, owner, assembling, array, orders }
    }

    /// Everything that may happen next.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let volume = volume(&self.ledger);
        actions.extend(self.proposed.iter().map(|(epoch, command)| Action::Deliver(*epoch, command.clone())));
        actions.extend(self.registrations.iter().map(|(node, run)| Action::Register(*node, *run)));
        if matches!(volume.phase, Phase::Fencing { .. }) {
            actions.push(Action::Activate);
        }
        self.growth_actions(&mut actions);
        for (node, machine) in &self.machines {
            if self.spent.epochs < self.config.epochs && self.config.new_owners.contains(&node.0) {
                actions.push(Action::Takeover(*node));
            }
            if !machine.up {
                actions.push(Action::Boot(*node));
                continue;
            }
            actions.push(Action::See(*node));
            if volume.phase == Phase::Closed {
                actions.push(Action::Open(*node));
            }
            if self.spent.crashes < self.config.crashes {
                actions.push(Action::Crash(*node));
            }
            if machine.assembling.as_ref().is_some_and(|assembly| self.can_assemble(*node, assembly)) {
                actions.push(Action::Assemble(*node));
            }
            if !machine.orders.is_empty() {
                actions.push(Action::Engine(*node));
            }
            if let Some(array) = &machine.array {
                self.array_actions(*node, array, &mut actions);
            }
            // What is to go elsewhere, and perhaps has, is to stay after all.
            if matches!(machine.owner.stage(), owner::Stage::Stopped { then: owner::Then::HandOver(to), .. } if to != node)
            {
                actions.push(Action::HandOver(*node, *node));
            }
            if let Some(assembly) =
                machine.assembling.as_ref().filter(|_| self.spent.gates < self.config.gates)
            {
                let remote = assembly.legs.keys().filter(|leg| node_of(**leg) != *node);
                actions.extend(remote.map(|leg| Action::GateLost(*node, *leg)));
            }
        }
        for (leg, disk) in &self.disks {
            if self.spent.pulls < self.config.pulls && self.machines[&node_of(*leg)].up {
                actions.push(Action::Away(*leg));
            }
            if disk.queue.is_some() {
                actions.push(Action::Land(*leg));
            } else if self.is_through(*leg) {
                actions.push(Action::Barrier(*leg));
            }
        }
        actions
    }

    fn array_actions(&self, node: NodeId, array: &Array, actions: &mut Vec<Action>) {
        if array.admitted && array.writing.is_none() && self.spent.writes < self.config.writes {
            actions.push(Action::Write(node));
        }
        if array.copying.is_some() && array.writing.is_none() {
            actions.push(Action::Copy(node));
        }
        let pending = |leg: &LegId| array.writing.as_ref().is_some_and(|(_, legs)| legs.contains(leg));
        for (leg, member) in &array.legs {
            let free = self.disks[leg].queue.is_none() && !member.failed;
            if pending(leg) && free && self.reaches(node, array.epoch, *leg, *member) {
                actions.push(Action::Reach(node, *leg));
            }
            let remote = node_of(*leg) != node;
            if remote && !member.failed && self.spent.gates < self.config.gates {
                actions.push(Action::GateLost(node, *leg));
            }
            let cut_off = !remote && !self.reaches(node, array.epoch, *leg, *member);
            if cut_off && !member.failed && !self.knows_lost(node, *leg) {
                actions.push(Action::CutOff(node, *leg));
            }
            if pending(leg) && free && self.spent.errors < self.config.errors {
                actions.push(Action::Error(node, *leg));
            }
        }
        if array.admitted && array.writing.is_none() && self.spent.handovers < self.config.handovers {
            let others = self.machines.keys().filter(|other| **other != node);
            actions.extend(others.map(|other| Action::HandOver(node, *other)));
            actions.push(Action::Close(node));
        }
        if array.used {
            actions.push(Action::InUse(node));
        } else if array.admitted && self.spent.used < self.config.used {
            actions.push(Action::CloseUsed(node));
        }
    }

    fn can_assemble(&self, node: NodeId, assembly: &Assembly) -> bool {
        let ready = |(leg, (incarnation, _)): (&LegId, &(Incarnation, NodeId))| {
            let key = Key { epoch: assembly.epoch, incarnation: *incarnation };
            self.disks[leg].given == Some((key, node))
        };
        assembly.legs.iter().all(ready)
    }

    /// It happens; what it changed in the ledger.
    pub(super) fn act(&mut self, action: &Action) -> Vec<Event> {
        match action {
            Action::See(node) => {
                self.tell_target(*node, target::Event::Look);
                self.tell_owner(*node, owner::Event::Look);
            }
            Action::Deliver(epoch, command) => {
                return self.commit(&Command::Volume(VOLUME, *epoch, command.clone()));
            }
            Action::Register(node, (was, run)) => {
                let own = self.disks.keys().filter(|leg| node_of(**leg) == *node);
                let drives = own.map(|leg| (DriveId(u32::from(leg.0)), run.power_cycles)).collect();
                let (node, was, boot) = (*node, *was, run.boot);
                return self.commit(&Command::Cluster(ClusterCommand::Register { node, was, boot, drives }));
            }
            Action::Takeover(owner) => {
                self.spent.epochs += 1;
                return self.commit_now(VolumeCommand::Takeover { owner: *owner, lease_over: true });
            }
            Action::Activate => return self.commit_now(VolumeCommand::Activate),
            Action::Write(node) => self.write(*node),
            Action::Reach(node, leg) => {
                let value =
                    self.array(*node).and_then(|array| array.writing.as_ref()).map(|(value, _)| *value);
                self.disk(*leg).queue = value.map(|value| (value, *node));
                if self.config.coarse {
                    self.land(*leg);
                }
            }
            Action::Land(leg) => self.land(*leg),
            Action::GateLost(node, leg) => {
                self.spent.gates += 1;
                self.tell_owner(*node, owner::Event::GateLost(*leg));
            }
            Action::CutOff(node, leg) => self.tell_owner(*node, owner::Event::GateLost(*leg)),
            Action::Away(leg) => self.away(*leg),
            Action::Error(node, leg) => {
                self.spent.errors += 1;
                self.disk(*leg).errored = true;
                self.member(*node, *leg, |member| member.failed = true);
                self.tell_owner(*node, owner::Event::Stirred);
            }
            Action::Barrier(leg) => self.barrier(*leg),
            Action::Assemble(node) => self.assemble(*node),
            Action::Copy(node) => self.copy(*node),
            Action::Engine(node) => {
                let order = self.machines.get_mut(node).and_then(|machine| machine.orders.pop_front());
                if let Some(order) = order {
                    self.engine(*node, order);
                }
            }
            Action::Crash(node) => self.crash(*node),
            Action::Boot(node) => self.boot(*node),
            Action::HandOver(node, to) => {
                self.spent.handovers += u8::from(node != to);
                self.tell_owner(*node, owner::Event::HandOver(*to));
            }
            Action::Close(node) => {
                self.spent.handovers += 1;
                self.tell_owner(*node, owner::Event::Close);
            }
            Action::CloseUsed(node) => {
                self.spent.used += 1;
                self.is_used(*node, true);
                self.tell_owner(*node, owner::Event::Close);
            }
            Action::InUse(node) => {
                self.is_used(*node, false);
                if let owner::Stage::Stopping { epoch, kill, .. } = self.machines[node].owner.stage() {
                    let event = owner::Event::InUse { epoch: *epoch, kill: *kill };
                    self.tell_owner(*node, event);
                }
            }
            Action::Open(node) => return self.commit_now(VolumeCommand::Open { owner: *node }),
            Action::Grow => return self.commit_now(grow::command()),
            Action::Fill(leg) => self.fill(*leg),
            Action::WriteMore(node) => self.write_more(*node),
        }
        Vec::new()
    }

    pub(super) fn commit_now(&mut self, command: VolumeCommand) -> Vec<Event> {
        let epoch = volume(&self.ledger).epoch;
        self.commit(&Command::Volume(VOLUME, epoch, command))
    }

    pub(super) fn commit(&mut self, command: &Command) -> Vec<Event> {
        let before = self.ledger.clone();
        let bugs = self.config.bug.map(Bugs::with).unwrap_or_default();
        let Ok(events) = self.ledger.change(|ledger| ledger.apply_with(command, bugs)) else {
            return Vec::new();
        };
        if let Some(broken) = check_step(&before, &self.ledger).first() {
            self.broken = Some(broken.to_string());
        }
        let ledger = self.ledger.clone();
        self.proposed.retain(|(epoch, command)| may_be_taken(&ledger, *epoch, command));
        self.registrations.retain(|(node, (was, run))| may_register(&ledger, *node, *was, *run));
        events
    }

    pub(super) fn array(&self, node: NodeId) -> Option<&Array> {
        self.machines[&node].array.as_ref()
    }

    pub(super) fn disk(&mut self, leg: LegId) -> &mut Disk {
        self.disks.get_mut(&leg).expect("a leg's disk stays")
    }

    pub(super) fn member(&mut self, node: NodeId, leg: LegId, change: impl FnOnce(&mut Member)) {
        let array = self.machines.get_mut(&node).and_then(|machine| machine.array.as_mut());
        if let Some(member) = array.and_then(|array| array.legs.get_mut(&leg)) {
            change(member);
        }
    }

    pub(super) fn propose(&mut self, command: Command) {
        match command {
            Command::Volume(_, epoch, command) => {
                // Its own takeovers are among those that may come at any time.
                let takeover = matches!(command, VolumeCommand::Takeover { .. });
                if !takeover && may_be_taken(&self.ledger, epoch, &command) {
                    self.proposed.insert((epoch, command));
                }
            }
            Command::Cluster(ClusterCommand::Register { node, was, boot, drives }) => {
                let power_cycles = drives.values().next().copied().unwrap_or_default();
                let run = Run { boot, power_cycles };
                if may_register(&self.ledger, node, was, run) {
                    self.registrations.insert((node, (was, run)));
                }
            }
            other => panic!("no role proposes {other:?}"),
        }
    }
}
