//! Their memory, saved by a try that the ledger counts, or not.

use super::super::{MS, World};
use super::{Step, vm_index};
use control::vm::runner::{self, Stage};
use control::vm::{How, VmPhase, WhyNotSaved};
use model::{Generation, SaveTry, VmId};

/// How much each saves.
const SAVED_BYTES: u64 = 1 << 20;

impl World {
    /// It is asked to go, or to be saved by this try.
    pub(super) fn stop_guest(
        &mut self,
        machine: usize,
        vm: VmId,
        generation: Generation,
        save: Option<SaveTry>,
    ) {
        let stage = self.stage(machine, vm, generation);
        if let (Some(known), Some(Stage::Saved(..))) = (save, stage)
            && self.is_image(vm, generation, known)
        {
            return self.tell_saved(machine, vm, generation, known);
        }
        // It has sent all, and runs for a moment before it does so again.
        if matches!(stage, Some(Stage::Saved(..) | Stage::NotSaved(..) | Stage::Paused(_))) {
            self.goes_on(machine, vm, generation);
        }
        self.set_stage(machine, vm, generation, save.map_or(Stage::Stopping, Stage::Saving));
        let delay = self.random_vm.u64(50..1_200) * MS;
        self.after(delay, machine, vm, generation, Step::Goes(save));
    }

    /// What it was asked for is done, if nothing else was asked for since.
    pub(super) fn guest_goes(
        &mut self,
        machine: usize,
        vm: VmId,
        generation: Generation,
        save: Option<SaveTry>,
    ) {
        if self.stage(machine, vm, generation) != Some(save.map_or(Stage::Stopping, Stage::Saving)) {
            return;
        }
        match save.map(|which| (which, self.random_vm.u8(..))) {
            None => self.guest_ends(machine, vm, generation, How::PoweredOff),
            Some((_, ..12)) => self.guest_ends(machine, vm, generation, How::Died),
            Some((which, chance)) => self.saved(machine, vm, generation, (which, chance >= 25)),
        }
    }

    /// What is loaded is of the run, and of the try, that the ledger says.
    pub(super) fn judge_image(&mut self, machine: usize, vm: VmId, generation: Generation) {
        let ledger = self.ledger();
        let Some(found) = ledger.vms.all.get(&vm) else { return };
        let (saved, which) = (found.saved, found.saves);
        let restores = matches!(found.phase, VmPhase::Restoring { at } if at.generation == generation);
        if restores && !saved.is_some_and(|saved| self.is_image(vm, saved, which)) {
            self.broke(format!("{vm} is restored on node-{} from another memory than {which}", machine + 1));
        }
    }

    /// It stands still, its memory saved; or it can't be saved.
    fn saved(
        &mut self,
        machine: usize,
        vm: VmId,
        generation: Generation,
        (which, is_saved): (SaveTry, bool),
    ) {
        self.users_go(machine, vm);
        if is_saved {
            self.set_stage(machine, vm, generation, Stage::Saved(which, SAVED_BYTES));
            let known = &mut self.vms[vm_index(vm)].known;
            known.image = Some((generation, which, known.lives));
            return self.tell_saved(machine, vm, generation, which);
        }
        self.set_stage(machine, vm, generation, Stage::NotSaved(which, WhyNotSaved::Late));
        self.vms[vm_index(vm)].known.image = None;
        self.tell(|_| format!("{vm} {generation} can't be saved on node-{} by {which}", machine + 1));
        self.tell_runner(machine, &runner::Event::NotSaved(vm, generation, which, WhyNotSaved::Late));
    }

    fn tell_saved(&mut self, machine: usize, vm: VmId, generation: Generation, which: SaveTry) {
        self.tell(|_| format!("{vm} {generation} is saved on node-{} by {which}", machine + 1));
        self.tell_runner(machine, &runner::Event::Saved(vm, generation, which, SAVED_BYTES));
    }

    /// Whether what is on its volume is this run's, by this try.
    fn is_image(&self, vm: VmId, generation: Generation, which: SaveTry) -> bool {
        let image = self.vms[vm_index(vm)].known.image;
        image.is_some_and(|(of, by, _)| (of, by) == (generation, which))
    }

    /// One that stood still writes again, and what was saved of it is worth nothing.
    fn goes_on(&mut self, machine: usize, vm: VmId, generation: Generation) {
        self.judge_begin(machine, vm, generation);
        self.judge_disks(machine, vm, true);
        self.vms[vm_index(vm)].known.image = None;
        for volume in self.vms[vm_index(vm)].volumes.clone() {
            self.users_come(machine, volume);
        }
    }
}
