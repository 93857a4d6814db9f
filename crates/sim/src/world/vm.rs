//! Virtual machines on their nodes: what QEMU is to an agent. They outlive the agent, and end with the node.
//!
//! Who runs writes to its volumes; memory is how often it has run, which is what a saved one must agree with. A migration takes its time and then pauses its
//! source as soon as nothing of it is in flight; it needs the way between the two, and the source until the last of it is sent.

mod saves;

use super::{Event, MS, World, node_index, volume_id, volume_index};
use crate::schedule::{Home, Plane, Then, When};
use control::Command;
use control::owner::{self, Hold};
use control::vm::runner::{self, Effect, Instance, Role, Stage};
use control::vm::transition::VmKind;
use control::vm::{How, VmCommand, VmPhase, VmsCommand, Wanted};
use model::{Generation, NodeId, SaveTry, VmId, VmPlacement, VolumeId};
use std::collections::BTreeMap;

/// One on a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest {
    pub(crate) instance: Instance,
    /// Everything of its memory has come.
    received: bool,
}

/// What comes next of one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// It is there, or can't be started.
    Launched,
    /// Its memory is there but for the last of it.
    Sent(usize, Generation),
    /// All of it is.
    Received,
    /// It is let run; so often this was tried.
    Resume(u32, u32),
    /// It goes by itself; or its memory is saved by this try, or not.
    Goes(Option<SaveTry>),
    /// Its end is told.
    Told(How),
}

/// What is known of one from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// The last run that there was, and on which machine, in which of its runs.
    ran: Option<(Generation, usize, u32)>,
    /// How often something has become of its disks that a saved memory does not know.
    lives: u64,
    /// Which run of it was saved, by which try, and its lives then.
    image: Option<(Generation, SaveTry, u64)>,
    /// The placement was changed: where it runs is the ledger's to judge.
    moved_home: bool,
}

pub(crate) fn vm_id(vm: usize) -> VmId {
    VmId(u32::try_from(vm).unwrap_or(u32::MAX - 1) + 1)
}

fn vm_index(id: VmId) -> usize {
    id.0 as usize - 1
}

pub(super) fn placement(home: Home) -> VmPlacement {
    let zone = |rack: usize| super::setup::zone(rack);
    match home {
        Home::Anywhere => VmPlacement::Anywhere,
        Home::Prefers(rack) => VmPlacement::Prefers(zone(rack)),
        Home::Strict(rack) => VmPlacement::Strict(zone(rack)),
    }
}

impl World {
    /// The virtual machine that has a volume.
    pub(super) fn vm_of(&self, volume: usize) -> Option<VmId> {
        let found = self.vms.iter().position(|vm| vm.volumes.contains(&volume));
        found.map(vm_id)
    }

    /// Whether nobody but a virtual machine may write to a volume, and none does on this machine.
    pub(super) fn waits_for_vm(&self, machine: usize, volume: usize) -> bool {
        self.vm_of(volume).is_some_and(|vm| !self.runs(machine, vm))
    }

    fn runs(&self, machine: usize, vm: VmId) -> bool {
        let found = self.machines[machine].guests.get(&vm);
        let runs =
            |stage| matches!(stage, Stage::Running | Stage::Stopping | Stage::Saving(_) | Stage::Sending(_));
        found.is_some_and(|guest| runs(guest.instance.stage))
    }

    /// What an agent finds that starts.
    pub(super) fn found_guests(&self, machine: usize) -> BTreeMap<VmId, Instance> {
        let found = |(id, guest): (&VmId, &Guest)| {
            let mut instance = guest.instance;
            // Whether it was asked to go, or is saved, nobody knows any more.
            match instance.stage {
                Stage::Stopping | Stage::Saving(_) => instance.stage = Stage::Running,
                Stage::NotSaved(..) | Stage::Saved(..) => instance.stage = Stage::Sending(Generation(0)),
                _ => {}
            }
            (*id, instance)
        };
        self.machines[machine].guests.iter().map(found).collect()
    }

    /// How a migration stands that nobody looked after, is asked anew.
    pub(super) fn guests_adopted(&mut self, machine: usize) {
        for (id, Guest { instance, .. }) in self.machines[machine].guests.clone() {
            if let Stage::Sending(to) = instance.stage {
                let node = self.seat_of(id, to).unwrap_or(machine);
                self.after(50 * MS, machine, id, instance.generation, Step::Sent(node, to));
            }
        }
    }

    /// The machine that has one in a generation.
    fn seat_of(&self, vm: VmId, generation: Generation) -> Option<usize> {
        let there = |at: &usize| {
            let guest = self.machines[*at].guests.get(&vm);
            guest.is_some_and(|guest| guest.instance.generation == generation)
        };
        (0..self.machines.len()).find(there)
    }

    pub(crate) fn tell_runner(&mut self, machine: usize, event: &runner::Event) {
        if self.vms.is_empty() || self.machines[machine].rack.is_none() {
            return;
        }
        self.see_lease(machine);
        let (now, ledger) = (self.clock(machine), self.sees(machine));
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        let holds: BTreeMap<VolumeId, Hold> = agent
            .owners
            .iter()
            .enumerate()
            .map(|(volume, owner)| (volume_id(volume), owner.hold(&ledger)))
            .collect();
        for effect in agent.runner.step(now, &ledger, &holds, event) {
            self.order_guest(machine, effect);
        }
    }

    fn order_guest(&mut self, machine: usize, effect: Effect) {
        let agents = self.machines[machine].agents;
        match effect {
            Effect::Start(vm, generation, role) => {
                self.judge_disks(machine, vm, role == Role::Restore);
                let instance = Instance { generation, stage: Stage::Launched(role) };
                self.machines[machine].guests.insert(vm, Guest { instance, received: false });
                let delay = self.random_vm.u64(20..400) * MS;
                self.after(delay, machine, vm, generation, Step::Launched);
            }
            Effect::Send(vm, generation, node, to) => {
                self.set_stage(machine, vm, generation, Stage::Sending(to));
                let delay = self.random_vm.u64(100..1_500) * MS;
                self.after(delay, machine, vm, generation, Step::Sent(node_index(node), to));
            }
            Effect::Continue(vm, generation) => self.send_last(machine, vm, generation),
            Effect::Resume(vm, generation) => {
                self.judge_disks(machine, vm, true);
                let delay = self.random_vm.u64(1..30) * MS;
                self.after(delay, machine, vm, generation, Step::Resume(agents, 0));
            }
            Effect::Stop { vm, generation, save } => {
                self.stop_guest(machine, vm, generation, save);
            }
            Effect::End(vm, generation) => self.guest_ends(machine, vm, generation, How::Died),
            Effect::Owner(volume, event) => self.tell_owner(machine, volume_index(volume), event),
            Effect::Propose(command) => self.propose(machine, command),
        }
    }

    fn after(&mut self, delay: u64, machine: usize, vm: VmId, generation: Generation, step: Step) {
        let run = self.machines[machine].run;
        self.post(delay, Event::Guest(machine, run, vm, generation, step));
    }

    fn guest(&mut self, machine: usize, vm: VmId, generation: Generation) -> Option<&mut Guest> {
        self.machines[machine].guests.get_mut(&vm).filter(|guest| guest.instance.generation == generation)
    }

    fn stage(&mut self, machine: usize, vm: VmId, generation: Generation) -> Option<Stage> {
        self.guest(machine, vm, generation).map(|guest| guest.instance.stage)
    }

    fn set_stage(&mut self, machine: usize, vm: VmId, generation: Generation, stage: Stage) {
        if let Some(guest) = self.guest(machine, vm, generation) {
            guest.instance.stage = stage;
        }
    }

    pub(super) fn guest_step(
        &mut self,
        machine: usize,
        run: u32,
        vm: VmId,
        generation: Generation,
        step: Step,
    ) {
        if self.machines[machine].run != run || !self.machines[machine].power {
            return;
        }
        match step {
            Step::Told(how) => self.tell_runner(machine, &runner::Event::Ended(vm, generation, how)),
            Step::Launched => self.launched(machine, vm, generation),
            Step::Sent(node, to) => self.sent(machine, vm, generation, (node, to)),
            Step::Received => {
                if let Some(guest) = self.guest(machine, vm, generation) {
                    guest.received = true;
                }
            }
            Step::Resume(agents, tries) => self.resume(machine, vm, generation, (agents, tries)),
            Step::Goes(save) => {
                self.guest_goes(machine, vm, generation, save);
            }
        }
    }

    fn launched(&mut self, machine: usize, vm: VmId, generation: Generation) {
        let Some(Stage::Launched(role)) = self.stage(machine, vm, generation) else { return };
        match self.random_vm.u8(..) {
            ..10 => return self.guest_ends(machine, vm, generation, How::Died),
            10..16 if role == Role::Restore => {
                return self.guest_ends(machine, vm, generation, How::Spoilt);
            }
            _ => {}
        }
        if role == Role::Restore {
            self.judge_image(machine, vm, generation);
        }
        self.set_stage(machine, vm, generation, Stage::Ready(role));
        self.tell_runner(machine, &runner::Event::Ready(vm, generation));
    }

    /// It runs from now on, and writes.
    fn begins(&mut self, machine: usize, vm: VmId, generation: Generation, goes_on: bool) {
        // The agent looks just before: since that was ordered its machine may have stood still.
        if self.clock(machine) >= self.machines[machine].lease_note {
            return self.guest_ends(machine, vm, generation, How::Died);
        }
        let was = self.stage(machine, vm, generation);
        self.judge_begin(machine, vm, generation);
        let known = &mut self.vms[vm_index(vm)].known;
        let lives = known.image.map(|(_, _, lives)| lives);
        if was == Some(Stage::Ready(Role::Restore)) && lives != Some(known.lives) {
            let why = format!(
                "{vm} is restored on node-{} from a memory that is older than its disks",
                machine + 1
            );
            self.broke(why);
        }
        let known = &mut self.vms[vm_index(vm)].known;
        known.lives += u64::from(!goes_on);
        if matches!(was, Some(Stage::Saved(..))) {
            known.image = None;
        }
        self.set_stage(machine, vm, generation, Stage::Running);
        self.tell(|_| format!("{vm} {generation} runs on node-{}", machine + 1));
        for volume in self.vms[vm_index(vm)].volumes.clone() {
            self.users_come(machine, volume);
        }
        self.tell_runner(machine, &runner::Event::Started(vm, generation));
    }

    /// Never two that run, each later one in a later generation, a strict one in its rack, and all with their disks.
    fn judge_begin(&mut self, machine: usize, vm: VmId, generation: Generation) {
        let known = &self.vms[vm_index(vm)];
        let rack = self.machines[machine].rack;
        if let Home::Strict(home) = known.home
            && rack != Some(home)
            && !known.known.moved_home
        {
            let why = format!("{vm} runs on node-{}, outside the rack that it never leaves", machine + 1);
            return self.broke(why);
        }
        let seat = (generation, machine, self.machines[machine].run);
        // Where the clock stood still with everything else, what was on its way when it did goes on before anything could be heard. It may not write, and is ended.
        if self.machines[machine].clock_astray() && known.known.ran.is_some_and(|ran| generation < ran.0) {
            return;
        }
        if known.known.ran.is_some_and(|ran| generation < ran.0 || (generation == ran.0 && seat != ran)) {
            let why = format!("{vm} runs on node-{} in {generation}, which was another run's", machine + 1);
            return self.broke(why);
        }
        let alone = self.other_runner(machine, vm).filter(|_| !self.any_clock_astray());
        if let Some(other) = alone {
            let why = format!("{vm} begins on node-{} while it runs on node-{}", machine + 1, other + 1);
            return self.broke(why);
        }
        self.vms[vm_index(vm)].known.ran = Some(seat);
    }

    fn has_disks(&self, machine: usize, vm: VmId) -> bool {
        let disk = |volume: &usize| {
            let array = self.machines[machine].arrays[*volume].as_ref();
            array.is_some_and(|array| array.admitted && !array.stopping)
        };
        self.vms[vm_index(vm)].volumes.iter().all(disk)
    }

    /// Nothing is ordered to run without.
    fn judge_disks(&mut self, machine: usize, vm: VmId, needed: bool) {
        if needed && !self.has_disks(machine, vm) {
            self.broke(format!("{vm} is to run on node-{} without its disks", machine + 1));
        }
    }

    fn other_runner(&self, machine: usize, vm: VmId) -> Option<usize> {
        let up = |other: &usize| self.machines[*other].power && self.machines[*other].frozen == 0;
        (0..self.machines.len()).filter(|other| *other != machine && up(other)).find(|at| self.runs(*at, vm))
    }

    /// Almost all of it is there: the source pauses, if the destination waits and the way is free, when nothing of it is in flight.
    fn sent(&mut self, machine: usize, vm: VmId, generation: Generation, (node, to): (usize, Generation)) {
        if self.stage(machine, vm, generation) != Some(Stage::Sending(to)) {
            return;
        }
        let waits = self.stage(node, vm, to) == Some(Stage::Ready(Role::Incoming));
        let reached = self.passes(Plane::Management, machine, node) && self.machines[node].frozen == 0;
        if !waits || !reached || !self.machines[node].power || self.random_vm.u8(..) < 12 {
            self.tell(|_| format!("the migration of {vm} from node-{} fails", machine + 1));
            return self.tell_runner(machine, &runner::Event::Failed(vm, generation));
        }
        // It writes nothing more; what it has begun ends first.
        let volumes = self.vms[vm_index(vm)].volumes.clone();
        self.users_go(machine, vm);
        let busy = |volume: &usize| {
            let array = self.machines[machine].arrays[*volume].as_ref();
            array.is_some_and(|array| !array.writes.is_empty() || !array.unmapped.is_empty())
        };
        if volumes.iter().any(busy) {
            return self.after(10 * MS, machine, vm, generation, Step::Sent(node, to));
        }
        self.set_stage(machine, vm, generation, Stage::Paused(to));
        self.tell(|_| format!("{vm} {generation} has paused on node-{}", machine + 1));
        self.tell_runner(machine, &runner::Event::Paused(vm, generation));
    }

    fn send_last(&mut self, machine: usize, vm: VmId, generation: Generation) {
        let Some(Stage::Paused(to)) = self.stage(machine, vm, generation) else { return };
        self.set_stage(machine, vm, generation, Stage::Sent);
        let node = self.seat_of(vm, to);
        if let Some(node) = node.filter(|node| self.passes(Plane::Management, machine, *node)) {
            let delay = self.random_vm.u64(1..40) * MS;
            self.after(delay, node, vm, to, Step::Received);
        }
    }

    fn resume(&mut self, machine: usize, vm: VmId, generation: Generation, (agents, tries): (u32, u32)) {
        if self.machines[machine].agents != agents {
            return;
        }
        let received = self.guest(machine, vm, generation).is_some_and(|guest| guest.received);
        match self.stage(machine, vm, generation) {
            Some(Stage::Ready(Role::Incoming)) if !received => {
                if tries > 100 {
                    return self.guest_ends(machine, vm, generation, How::Died);
                }
                self.after(20 * MS, machine, vm, generation, Step::Resume(agents, tries + 1));
            }
            Some(
                Stage::Ready(_)
                | Stage::Paused(_)
                | Stage::Sending(_)
                | Stage::Saving(_)
                | Stage::NotSaved(..)
                | Stage::Saved(..),
            ) if !self.has_disks(machine, vm) => {
                self.guest_ends(machine, vm, generation, How::Died);
            }
            Some(Stage::Ready(role)) => self.begins(machine, vm, generation, role == Role::Incoming),
            Some(
                Stage::Paused(_)
                | Stage::Sending(_)
                | Stage::Saving(_)
                | Stage::NotSaved(..)
                | Stage::Saved(..),
            ) => {
                self.begins(machine, vm, generation, true);
            }
            _ => {}
        }
    }

    fn users_go(&mut self, machine: usize, vm: VmId) {
        for volume in self.vms[vm_index(vm)].volumes.clone() {
            if let Some(array) = self.array(machine, volume) {
                array.users += 1;
            }
        }
    }

    /// Nothing of it is left, but what it had in flight.
    fn guest_ends(&mut self, machine: usize, vm: VmId, generation: Generation, how: How) {
        if self.guest(machine, vm, generation).is_none() {
            return;
        }
        self.tell(|_| format!("{vm} {generation} ends on node-{}: {how:?}", machine + 1));
        if self.runs(machine, vm) {
            self.users_go(machine, vm);
        }
        self.machines[machine].guests.remove(&vm);
        let delay = self.random_vm.u64(1..20) * MS;
        self.after(delay, machine, vm, generation, Step::Told(how));
    }

    /// Where it runs.
    pub(super) fn runner_of(&self, vm: usize) -> Option<usize> {
        (0..self.machines.len()).find(|machine| self.lives(*machine) && self.runs(*machine, vm_id(vm)))
    }

    /// It dies, or shuts itself down.
    pub(super) fn dies(&mut self, vm: usize) {
        let Some(machine) = self.runner_of(vm) else { return };
        let Some(guest) = self.machines[machine].guests.get(&vm_id(vm)).copied() else { return };
        let how = if self.random_vm.bool() { How::Died } else { How::PoweredOff };
        self.guest_ends(machine, vm_id(vm), guest.instance.generation, how);
    }

    /// What waits or runs there does.
    pub(super) fn dies_on(&mut self, machine: usize, vm: usize) {
        if let Some(guest) = self.machines[machine].guests.get(&vm_id(vm)).copied() {
            self.guest_ends(machine, vm_id(vm), guest.instance.generation, How::Died);
        }
    }

    /// A trap waits for the ledger to say this.
    pub(super) fn spring(&mut self, id: VmId, to: VmKind) {
        let vm = vm_index(id);
        let is_it = |(when, _): &mut (When, Then)| match when {
            When::Restoring => to == VmKind::Restoring,
            When::Landing => to == VmKind::Landing,
        };
        if let Some((when, then)) = self.vms.get_mut(vm).and_then(|found| found.trap.take_if(is_it)) {
            let within = if when == When::Landing { 40 } else { 900 };
            let delay = if then == Then::CutAndReset { 1 } else { self.random_vm.u64(..within) * MS };
            self.post(delay, Event::Sprung(vm, then));
        }
    }

    /// What saved memory does not know of has become of a volume, or everything.
    pub(super) fn disks_changed(&mut self, volume: Option<usize>) {
        for vm in &mut self.vms {
            if volume.is_none_or(|volume| vm.volumes.contains(&volume)) {
                vm.known.lives += 1;
                // Generations of a log that is lost may be given out again.
                if volume.is_none() {
                    vm.known.ran = None;
                }
            }
        }
    }

    /// Asks the ledger about virtual machines.
    pub(super) fn ask_vms(&mut self, command: VmsCommand) {
        if let Some(leader) = self.leader() {
            self.post(500, Event::Propose(leader, Command::Vms(command), None));
        }
    }

    /// Asks it about one, as it is.
    pub(super) fn ask_vm(&mut self, vm: usize, command: VmCommand) {
        let generation = self.ledger().vms.all.get(&vm_id(vm)).map(|vm| vm.generation);
        if let (Some(leader), Some(generation)) = (self.leader(), generation) {
            self.post(500, Event::Propose(leader, Command::Vm(vm_id(vm), generation, command), None));
        }
    }

    pub(super) fn set_home(&mut self, vm: usize, home: Home) {
        let found = &mut self.vms[vm];
        (found.known.moved_home, found.home) = (true, home);
        self.ask_vms(VmsCommand::SetPlacement(vm_id(vm), placement(home)));
    }

    /// When all is mended: everybody is wanted running, no node is emptied.
    pub(super) fn want_all(&mut self) {
        let ledger = self.ledger();
        let nodes: std::collections::BTreeSet<NodeId> = ledger.vms.draining.keys().copied().collect();
        if !nodes.is_empty() {
            self.ask_vms(VmsCommand::EndDrain { nodes });
        }
        for (vm, found) in self.vms.iter().enumerate().map(|(vm, found)| (vm, found.home)).collect::<Vec<_>>()
        {
            let id = vm_id(vm);
            let Some(known) = ledger.vms.all.get(&id) else { continue };
            if known.spec.placement != placement(found) {
                self.ask_vms(VmsCommand::SetPlacement(id, placement(found)));
            }
            if known.wanted != Wanted::Running {
                self.ask_vms(VmsCommand::Want(id, Wanted::Running));
            }
        }
    }

    /// Whether one can't run any more: its rack is gone for good.
    pub(super) fn has_no_home(&self, vm: VmId) -> bool {
        let gone = |rack: usize| {
            let of_rack = |found: &&super::Machine| found.rack == Some(rack);
            self.machines.iter().filter(of_rack).all(|found| found.gone)
        };
        matches!(self.vms[vm_index(vm)].home, Home::Strict(rack) if gone(rack))
    }

    /// Why a virtual machine is not where it shall be at the end.
    pub(super) fn vm_astray(&self) -> Option<String> {
        let ledger = self.ledger();
        let gone = |rack: usize| {
            let of_rack = |found: &&super::Machine| found.rack == Some(rack);
            self.machines.iter().filter(of_rack).all(|found| found.gone)
        };
        for (at, found) in self.vms.iter().enumerate() {
            let id = vm_id(at);
            if self.has_no_home(id) {
                continue;
            }
            let vm = ledger.vms.all.get(&id)?;
            let home = match found.home {
                Home::Prefers(rack) | Home::Strict(rack) if !gone(rack) => Some(rack),
                _ => None,
            };
            let runs_on = match vm.phase {
                VmPhase::Running { at } => Some(node_index(at.node)),
                _ => None,
            };
            let well = runs_on.is_some_and(|on| {
                self.runs(on, id) && home.is_none_or(|home| self.machines[on].rack == Some(home))
            });
            if !well {
                let what = &ledger.vms;
                return Some(format!(
                    "{id} is not home: {vm:?}; held down {:?}, {:?}",
                    what.held_down, what.draining
                ));
            }
        }
        None
    }

    pub(super) fn tell_runner_lease(&mut self, machine: usize, event: &owner::Event) {
        let event = match event {
            owner::Event::Leased => runner::Event::Leased,
            owner::Event::LeaseLost => runner::Event::LeaseLost,
            owner::Event::Silent(node) => runner::Event::Silent(*node),
            owner::Event::Heard(node) => runner::Event::Heard(*node),
            _ => return,
        };
        self.tell_runner(machine, &event);
    }

    pub(super) fn any_clock_astray(&self) -> bool {
        self.machines.iter().any(super::Machine::clock_astray)
    }

    /// What an agent holds against the ledger that starts.
    pub(super) fn runner(&self, machine: usize, node: NodeId) -> runner::Runner {
        runner::Runner::new(node, self.boot_id(machine), self.found_guests(machine)).with_bugs(self.bugs())
    }
}
