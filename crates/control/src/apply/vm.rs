//! Commands about virtual machines. A phase changes only by [`go`], which looks into the table.

use super::volume;
use crate::bug::{Bug, Bugs};
use crate::command::{Event, Rejected, VolumeCommand};
use crate::state::{Phase, State};
use crate::vm::transition::{self, VmCause};
use crate::vm::{
    Closed, How, MemoryLost, Policy, Seat, Vm, VmCommand, VmPhase, VmRejected, VmsCommand, Wanted,
    WhyNotSaved,
};
use model::{Generation, NodeId, SaveTry, VmId, VmNic, VmPlacement, VmSpec, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// Applies a command of an operator or a node. On an error the state may be half changed: the caller gives a copy.
pub(super) fn apply_all(state: &mut State, command: &VmsCommand) -> Result<Vec<Event>, Rejected> {
    use VmsCommand as C;
    match command {
        C::Create(spec) => return create(state, spec),
        C::Delete(id) => return delete(state, *id),
        C::Want(id, wanted) => {
            let vm = found(state, *id)?;
            if *wanted == Wanted::Saved && vm.spec.saves_to.is_none() {
                return Err(VmRejected::NowhereToSave.into());
            }
            // What has no memory, or soon will have none, would be off for good, or be started for that alone.
            if *wanted == Wanted::Saved && matches!(vm.phase, VmPhase::Off | VmPhase::Stopping { .. }) {
                return Err(cannot(vm, VmCause::Save));
            }
            match wanted {
                // What is told of an earlier try would be taken for this one's.
                Wanted::Saved => vm.not_saved = None,
                Wanted::Stopped => vm.memory_lost = None,
                Wanted::Running => {}
            }
            vm.wanted = *wanted;
        }
        C::SetPlacement(id, placement) => {
            has_zone(state, placement)?;
            found(state, *id)?.spec.placement = placement.clone();
        }
        C::SetRoom(node, room) => {
            state.nodes.get(node).filter(|node| node.zone.is_some()).ok_or(Rejected::CannotOwn(*node))?;
            state.vms.rooms.insert(*node, *room);
        }
        C::SetPolicy(Policy { migrations_max: 0, .. } | Policy { cores_percent: 0..100, .. }) => {
            return Err(VmRejected::Policy.into());
        }
        C::SetPolicy(policy) => state.vms.policy = *policy,
        C::Drain { nodes, leftover } => {
            for node in nodes {
                state
                    .nodes
                    .get(node)
                    .filter(|node| node.zone.is_some())
                    .ok_or(Rejected::NoSuchNode(*node))?;
                state.vms.draining.insert(*node, *leftover);
            }
            let mut storage = state.nodes.iter().filter(|(_, node)| node.zone.is_some());
            if storage.all(|(id, _)| state.vms.draining.contains_key(id)) {
                return Err(VmRejected::NobodyLeft.into());
            }
        }
        C::EndDrain { nodes } => {
            if let Some(leaves) = nodes.iter().find(|node| state.leaves(**node)) {
                return Err(Rejected::Leaves(*leaves));
            }
            state.vms.draining.retain(|node, _| !nodes.contains(node));
        }
        C::ZoneReady(zone) => {
            if !state.vms.held_down.remove(zone) {
                return Err(VmRejected::NotHeldDown(zone.clone()).into());
            }
        }
    }
    Ok(vec![Event::Changed])
}

fn found(state: &mut State, id: VmId) -> Result<&mut Vm, Rejected> {
    state.vms.all.get_mut(&id).ok_or(VmRejected::NoSuchVm(id).into())
}

fn has_zone(state: &State, placement: &VmPlacement) -> Result<(), Rejected> {
    let Some(home) = placement.home() else { return Ok(()) };
    let there = state.nodes.values().any(|node| node.zone.as_ref() == Some(home));
    if there { Ok(()) } else { Err(VmRejected::NoSuchZone(home.clone()).into()) }
}

/// What can be seen from the ledger alone; whether it fits when a rack is lost, its proposer has asked.
fn create(state: &mut State, spec: &VmSpec) -> Result<Vec<Event>, Rejected> {
    if spec.memory_bytes == 0 || spec.cores == 0 || spec.volumes.is_empty() {
        return Err(VmRejected::Empty.into());
    }
    if spec.nics.len() > VmNic::MAX {
        return Err(VmRejected::Nics(spec.nics.len()).into());
    }
    if state.vms.all.values().any(|vm| vm.spec.name == spec.name) {
        return Err(Rejected::NameTaken);
    }
    has_zone(state, &spec.placement)?;
    let mut own = BTreeSet::new();
    for volume in &spec.volumes {
        let free = state.volumes.contains_key(volume) && state.vms.of_volume(*volume).is_none();
        if !free || !own.insert(volume) {
            return Err(VmRejected::Disk(*volume).into());
        }
    }
    if let Some(volume) = spec.saves_to.filter(|volume| !own.contains(volume)) {
        return Err(VmRejected::NotItsVolume(volume).into());
    }
    let id = state.vms.minted.next();
    state.vms.minted = id;
    let vm = Vm {
        spec: spec.clone(),
        wanted: Wanted::Stopped,
        generation: Generation(0),
        phase: VmPhase::Off,
        last: None,
        yielding: BTreeMap::new(),
        setbacks: 0,
        avoids: None,
        saved: None,
        saves: SaveTry(0),
        saved_bytes: 0,
        not_saved: None,
        memory_lost: None,
    };
    state.vms.all.insert(id, vm);
    Ok(vec![Event::VmCreated(id)])
}

fn delete(state: &mut State, id: VmId) -> Result<Vec<Event>, Rejected> {
    let vm = found(state, id)?;
    if vm.phase == VmPhase::Saved {
        return Err(VmRejected::HoldsMemory.into());
    }
    if vm.phase != VmPhase::Off || !vm.yielding.is_empty() {
        return Err(VmRejected::NotOff(vm.phase.kind()).into());
    }
    state.vms.all.remove(&id);
    Ok(vec![Event::VmDeleted(id)])
}

/// Applies a command about one. On an error the state may be half changed: the caller gives a copy.
pub(super) fn apply(
    state: &mut State,
    id: VmId,
    generation: Generation,
    command: &VmCommand,
    bugs: Bugs,
) -> Result<Vec<Event>, Rejected> {
    let mut vm = found(state, id)?.clone();
    if vm.generation != generation {
        return Err(VmRejected::Superseded { present: vm.generation }.into());
    }
    let mut events = Vec::new();
    let mut edit = Edit { state, id, bugs, events: &mut events };
    edit.command(&mut vm, command)?;
    state.vms.all.insert(id, vm);
    if events.is_empty() {
        events.push(Event::Changed);
    }
    Ok(events)
}

struct Edit<'a> {
    state: &'a mut State,
    id: VmId,
    bugs: Bugs,
    events: &'a mut Vec<Event>,
}

impl Edit<'_> {
    fn command(&mut self, vm: &mut Vm, command: &VmCommand) -> Result<(), Rejected> {
        use VmCommand as C;
        match command {
            C::Place { on } => self.place(vm, *on),
            C::Began => self.began(vm),
            C::Ended(how) => self.ended(vm, *how),
            C::Lost => {
                let node = vm.phase.seat().and_then(|seat| self.state.nodes.get(&seat.node));
                let zone = node.and_then(|node| node.zone.clone());
                self.lost(vm)?;
                // No home until it has been well for a while.
                self.state.vms.held_down.extend(zone);
                Ok(())
            }
            C::Stop if vm.phase == VmPhase::Saved => self.go(vm, VmCause::Stop, VmPhase::Off),
            C::Stop => match vm.phase.seat() {
                Some(at) => self.go(vm, VmCause::Stop, VmPhase::Stopping { at }),
                None => self.go(vm, VmCause::Stop, VmPhase::Off),
            },
            C::Save if vm.spec.saves_to.is_none() => Err(VmRejected::NowhereToSave.into()),
            C::Save => match vm.phase.seat() {
                Some(at) => {
                    vm.saves = vm.saves.next();
                    (vm.not_saved, vm.memory_lost) = (None, None);
                    self.go(vm, VmCause::Save, VmPhase::Saving { at })
                }
                None => Err(cannot(vm, VmCause::Save)),
            },
            C::Migrate { to } => self.migrate(vm, *to),
            C::IncomingReady => {
                let VmPhase::Migrating { from, to, .. } = vm.phase else {
                    return Err(cannot(vm, VmCause::IncomingReady));
                };
                self.go(vm, VmCause::IncomingReady, VmPhase::Migrating { from, to, ready: true })
            }
            C::Switch { volumes } => self.switch(vm, volumes),
            C::Cancel => {
                let VmPhase::Migrating { from: at, to, .. } = vm.phase else {
                    return Err(cannot(vm, VmCause::Cancelled));
                };
                vm.setbacks = vm.setbacks.saturating_add(1);
                vm.avoids = Some(to.node);
                self.go(vm, VmCause::Cancelled, VmPhase::Running { at })
            }
            C::GiveUpSaving(which, why) => self.give_up_saving(vm, *which, *why),
            C::Yielded { node, boot } => {
                if vm.yielding.get(node) != Some(boot) {
                    return Err(VmRejected::NothingToYield(*node).into());
                }
                vm.yielding.remove(node);
                Ok(())
            }
        }
    }

    /// Changes the phase, if the table has it. What was saved is kept as long as it may be restored.
    fn go(&mut self, vm: &mut Vm, cause: VmCause, to: VmPhase) -> Result<(), Rejected> {
        transition::vm(&vm.phase, cause, &to)?;
        vm.saved = match (&vm.phase, &to) {
            (VmPhase::Saving { at }, VmPhase::Saved) => Some(at.generation),
            (_, VmPhase::Saved | VmPhase::Restoring { .. }) => vm.saved,
            // Its node has to know what it is to use up.
            _ => None,
        };
        self.events.push(Event::Vm(self.id, vm.generation, vm.phase.kind(), cause, to.kind()));
        vm.phase = to;
        Ok(())
    }

    /// Where it is being saved, by that try. What is told of another one, or late, changes nothing: it may run again, and what is saved be older than its disks.
    fn being_saved(vm: &Vm, which: SaveTry) -> Result<Seat, Rejected> {
        match vm.phase {
            VmPhase::Saving { at } if vm.saves == which => Ok(at),
            _ => Err(VmRejected::NotThatTry(which).into()),
        }
    }

    fn give_up_saving(&mut self, vm: &mut Vm, which: SaveTry, why: WhyNotSaved) -> Result<(), Rejected> {
        let at = Self::being_saved(vm, which)?;
        // Who wanted it otherwise wants it saved again by now.
        if why == WhyNotSaved::Unwanted && self.state.vms.saves(vm, at.node) {
            return Err(VmRejected::SavesOn.into());
        }
        // Else it would be tried again and again, and whoever asked for it would hear nothing.
        want_no_memory(vm, why);
        vm.not_saved = Some(why);
        vm.setbacks = vm.setbacks.saturating_add(1);
        self.go(vm, VmCause::Cancelled, VmPhase::Running { at })
    }

    /// A new seat on a node that may have it, under the next generation.
    fn seat(&self, vm: &mut Vm, node: NodeId) -> Result<Seat, Rejected> {
        let host = self.state.nodes.get(&node).ok_or(Rejected::NoSuchNode(node))?;
        let boot = host.boot.filter(|_| host.zone.is_some()).ok_or(Rejected::CannotOwn(node))?;
        let placement = &vm.spec.placement;
        if placement.is_strict() && placement.home() != host.zone.as_ref() {
            return Err(VmRejected::OutsideZone(node).into());
        }
        if self.state.vms.draining.contains_key(&node) {
            return Err(VmRejected::Drains(node).into());
        }
        self.has_room(&vm.spec, node)?;
        if !self.bugs.has(Bug::SameGeneration) {
            vm.generation = vm.generation.next();
        }
        Ok(Seat { node, boot, generation: vm.generation })
    }

    fn has_room(&self, spec: &VmSpec, node: NodeId) -> Result<(), Rejected> {
        let vms = &self.state.vms;
        let (mut bytes, mut cores) = (spec.memory_bytes, u64::from(spec.cores));
        let on_it = |seat: Option<Seat>| seat.is_some_and(|seat| seat.node == node);
        for (_, other) in vms.all.iter().filter(|(id, _)| **id != self.id) {
            if on_it(other.phase.seat()) || on_it(other.phase.other_seat()) {
                bytes = bytes.saturating_add(other.spec.memory_bytes);
                cores = cores.saturating_add(other.spec.cores.into());
            }
        }
        let room = vms.rooms.get(&node);
        let has_bytes = room.map_or(0, |room| room.memory_bytes);
        let has_cores =
            room.map_or(0, |room| u64::from(room.cores) * u64::from(vms.policy.cores_percent) / 100);
        let (bytes, cores) = (bytes.saturating_sub(has_bytes), cores.saturating_sub(has_cores));
        if bytes + cores == 0 { Ok(()) } else { Err(VmRejected::NoRoom { node, bytes, cores }.into()) }
    }

    fn place(&mut self, vm: &mut Vm, on: NodeId) -> Result<(), Rejected> {
        if !matches!(vm.phase, VmPhase::Off | VmPhase::Saved) {
            return Err(cannot(vm, VmCause::Placed));
        }
        if vm.wanted != Wanted::Running {
            return Err(VmRejected::NotWanted(vm.wanted).into());
        }
        let restores = vm.phase == VmPhase::Saved;
        let at = self.seat(vm, on)?;
        vm.last = Some(on);
        let to = if restores { VmPhase::Restoring { at } } else { VmPhase::Starting { at } };
        self.go(vm, VmCause::Placed, to)
    }

    fn began(&mut self, vm: &mut Vm) -> Result<(), Rejected> {
        let Some(at) = vm.phase.seat() else { return Err(cannot(vm, VmCause::Began)) };
        if let Some(node) = vm.awaits_yield(at.node) {
            return Err(VmRejected::MayStillRun(node).into());
        }
        self.go(vm, VmCause::Began, VmPhase::Running { at })?;
        vm.yielding.clear();
        (vm.setbacks, vm.avoids) = (0, None);
        Ok(())
    }

    fn ended(&mut self, vm: &mut Vm, how: How) -> Result<(), Rejected> {
        let (cause, to) = match (how, &vm.phase) {
            (How::Saved(which, bytes), _) => {
                Self::being_saved(vm, which)?;
                vm.saved_bytes = bytes;
                (VmCause::Saved, VmPhase::Saved)
            }
            (How::Spoilt, VmPhase::Restoring { .. }) => (VmCause::Spoilt, VmPhase::Off),
            (_, VmPhase::Restoring { .. }) => (VmCause::Ended, VmPhase::Saved),
            _ => (VmCause::Ended, VmPhase::Off),
        };
        if let Some(lost) = memory_lost_by_end(&vm.phase, how) {
            vm.memory_lost = Some(lost);
        }
        let by_itself = matches!(vm.phase, VmPhase::Stopping { .. } | VmPhase::Saving { .. });
        self.go(vm, cause, to)?;
        if to == VmPhase::Off {
            want_no_memory(vm, WhyNotSaved::Lost);
        }
        if how == How::PoweredOff && vm.wanted == Wanted::Running {
            vm.wanted = Wanted::Stopped;
        } else if !by_itself {
            vm.setbacks = vm.setbacks.saturating_add(1);
        }
        Ok(())
    }

    /// What ran may run on, until its node has yielded. (One that was being restored has not begun, and never will.)
    fn lost(&mut self, vm: &mut Vm) -> Result<(), Rejected> {
        let Some(seat) = vm.phase.seat() else { return Err(cannot(vm, VmCause::Lost)) };
        let restoring = matches!(vm.phase, VmPhase::Restoring { .. });
        let to = if restoring { VmPhase::Saved } else { VmPhase::Off };
        if matches!(vm.phase, VmPhase::Saving { .. }) {
            vm.memory_lost = Some(MemoryLost::Unsaved);
        }
        self.go(vm, VmCause::Lost, to)?;
        if to == VmPhase::Off {
            want_no_memory(vm, WhyNotSaved::Lost);
        }
        // One that has left the ledger may run on.
        if self.state.nodes.get(&seat.node).is_none_or(|node| node.boot == Some(seat.boot)) {
            vm.yielding.insert(seat.node, seat.boot);
        }
        Ok(())
    }

    fn migrate(&mut self, vm: &mut Vm, to: NodeId) -> Result<(), Rejected> {
        let VmPhase::Running { at: from } = vm.phase else {
            return Err(cannot(vm, VmCause::MigrationBegun));
        };
        if from.node == to {
            return Err(VmRejected::There(to).into());
        }
        if vm.wanted != Wanted::Running {
            return Err(VmRejected::NotWanted(vm.wanted).into());
        }
        for id in &vm.spec.volumes {
            let volume = self.state.volumes.get(id).ok_or(Rejected::NoSuchVolume(*id))?;
            if volume.owner != from.node || !matches!(volume.phase, Phase::Open { .. }) {
                return Err(VmRejected::NotItsOwn(*id).into());
            }
        }
        let to = self.seat(vm, to)?;
        self.go(vm, VmCause::MigrationBegun, VmPhase::Migrating { from, to, ready: false })
    }

    /// Epochs, owners and the running side, all in this commit: whichever of them had gone another way before makes it void.
    fn switch(&mut self, vm: &mut Vm, volumes: &BTreeMap<VolumeId, Closed>) -> Result<(), Rejected> {
        let VmPhase::Migrating { from, to, ready } = vm.phase else {
            return Err(cannot(vm, VmCause::Switched));
        };
        if !ready {
            return Err(VmRejected::NotReady.into());
        }
        if !volumes.keys().eq(vm.spec.volumes.iter().collect::<BTreeSet<_>>()) {
            return Err(VmRejected::NotAllVolumes.into());
        }
        for (id, Closed { epoch, flushed }) in volumes {
            let owner = self.state.volumes.get(id).map(|volume| volume.owner);
            if owner != Some(from.node) {
                return Err(VmRejected::NotItsOwn(*id).into());
            }
            let hand_over = VolumeCommand::HandOver { to: to.node, flushed: flushed.clone() };
            self.events.extend(volume::apply(self.state, *id, *epoch, &hand_over, self.bugs)?);
        }
        vm.last = Some(to.node);
        self.go(vm, VmCause::Switched, VmPhase::Landing { from, at: to })
    }
}

/// There is no memory of it that could be kept: who was wanted saved is wanted running, and boots; nobody would start it otherwise.
fn want_no_memory(vm: &mut Vm, why: WhyNotSaved) {
    if vm.wanted == Wanted::Saved {
        vm.wanted = Wanted::Running;
        vm.not_saved = Some(why);
    }
}

/// The memory that is gone with a run that ended so.
const fn memory_lost_by_end(phase: &VmPhase, how: How) -> Option<MemoryLost> {
    match (phase, how) {
        (VmPhase::Restoring { .. }, How::Spoilt) => Some(MemoryLost::Spoilt),
        (_, How::Spoilt) => Some(MemoryLost::NotUsedUp),
        (VmPhase::Saving { .. }, How::Died) => Some(MemoryLost::Unsaved),
        _ => None,
    }
}

/// What was saved does not surely fit to its disks: it is given up while nothing of it runs, and who was to stay saved stays off.
fn stays_off(vm: &mut Vm) {
    vm.memory_lost = Some(MemoryLost::Overridden);
    if vm.wanted == Wanted::Saved {
        vm.wanted = Wanted::Stopped;
    }
}

fn cannot(vm: &Vm, cause: VmCause) -> Rejected {
    VmRejected::Cannot { phase: vm.phase.kind(), cause }.into()
}

/// An operator declared a leg of a volume good: no memory of its virtual machine may fit to it any more, neither a saved one nor one that waits to go on.
pub(super) fn volume_overridden(state: &mut State, volume: VolumeId) -> Result<Vec<Event>, Rejected> {
    let Some((id, mut vm)) = state.vms.of_volume(volume).map(|(id, vm)| (id, vm.clone())) else {
        return Ok(Vec::new());
    };
    let mut events = Vec::new();
    let mut edit = Edit { state, id, bugs: Bugs::default(), events: &mut events };
    if vm.phase.seat().is_some() {
        edit.lost(&mut vm)?;
    }
    if vm.phase == VmPhase::Saved {
        edit.go(&mut vm, VmCause::VolumeOverridden, VmPhase::Off)?;
        stays_off(&mut vm);
    }
    state.vms.all.insert(id, vm);
    Ok(events)
}

/// How many generations, and tries at saving, a ledger that was forced may have forgotten. None is given out twice: what was begun or saved in one of those is not what comes now.
const FORGOTTEN_MAX: u32 = 1 << 16;

/// A quorum was forced: whatever ran is lost with those that ran it, and runs on there until its lease is over.
pub(super) fn quorum_forced(state: &mut State) -> Result<Vec<Event>, Rejected> {
    let ids: Vec<VmId> = state.vms.all.keys().copied().collect();
    let mut events = Vec::new();
    for id in ids {
        let Some(mut vm) = state.vms.all.get(&id).cloned() else { continue };
        let mut edit = Edit { state, id, bugs: Bugs::default(), events: &mut events };
        let other = vm.phase.other_seat();
        if vm.phase.seat().is_some() {
            edit.lost(&mut vm)?;
        }
        // Which of the two sides had been told to run is not known.
        vm.yielding.extend(other.map(|seat| (seat.node, seat.boot)));
        if vm.phase == VmPhase::Saved {
            edit.go(&mut vm, VmCause::VolumeOverridden, VmPhase::Off)?;
            stays_off(&mut vm);
        }
        vm.generation = Generation(vm.generation.0.saturating_add(FORGOTTEN_MAX));
        vm.saves = SaveTry(vm.saves.0.saturating_add(FORGOTTEN_MAX));
        state.vms.all.insert(id, vm);
    }
    Ok(events)
}
