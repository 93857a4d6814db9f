//! What goes wrong, and its end.

use super::vm::vm_id;
use super::{Event, MS, Seat, World, volume_id};
use crate::schedule::{Home, Plane, Then, VmWhat, Way, What};
use control::owner;
use control::state::Voters;
use control::vm::{Leftover, Wanted};
use control::{Command, VmCommand, VmsCommand, VolumeCommand};
use model::{LegId, NodeId};
use std::collections::BTreeSet;

impl World {
    pub(super) fn fault(&mut self, at: usize) {
        let fault = self.schedule.faults[at];
        self.tell(|_| format!("FAULT {}", fault.to_string().trim_start()));
        match fault.what {
            What::NodePower(node) => self.off(node),
            What::Witness => self.off(self.machines.len() - 1),
            What::RackPower(rack) => self.rack(rack).into_iter().for_each(|node| self.off(node)),
            What::AllPower => (0..self.machines.len()).for_each(|node| self.off(node)),
            What::NodeCut(..) | What::RoomCut(..) => self.cut(fault.what, true),
            What::Freeze(node, clock) => self.freeze(node, clock),
            What::AgentKill(node) => {
                self.end_agent(node);
                let run = self.machines[node].run;
                self.post(fault.for_ms.min(4_000) * MS / 4, Event::Agent(node, run));
            }
            What::DriveError(drive) => {
                // Either the next writes fail, or the drive finds it by itself.
                if self.random.bool() {
                    self.drives[drive].to_fail += 1 + self.random.u32(..3);
                } else {
                    self.drives[drive].errors += 1;
                    self.drive_reports(drive);
                }
            }
            What::AllLegsErr(volume) => self.all_legs_err(volume),
            What::DrivePull(drive) => self.pull(drive),
            What::DriveStall(drive) => self.drives[drive].stalls_until = self.now + fault.for_ms * MS,
            What::Pause(volume) => self.paused_until[volume] = self.now + fault.for_ms * MS,
            What::ClockJump(node) => self.jump(node, 3_600_000),
            What::Loss => self.losses += 1,
            What::HandOver(volume, node) => {
                // An agent gives nothing away that somebody has open.
                let free = |owner: &usize| self.waits_for_vm(*owner, volume) || self.vm_of(volume).is_none();
                if let Some(owner) =
                    self.owner_at(volume).filter(|owner| *owner != node && self.lives(*owner) && free(owner))
                {
                    let to = self.machines[node].node;
                    self.tell_owner(owner, volume, owner::Event::HandOver(to));
                    // Now and then it is taken back: too early, in time or too late.
                    if fault.for_ms % 3 == 1 {
                        self.post(fault.for_ms % 50 * MS, Event::TakeBack(owner, volume));
                    }
                }
            }
            What::Close(volume) => {
                if let Some(owner) = self.owner_at(volume).filter(|owner| self.lives(*owner)) {
                    self.tell_owner(owner, volume, owner::Event::Close);
                }
            }
            What::MoveLeg(volume, leg) => self.move_leg(volume, LegId(leg + 1)),
            What::Widen(volume) => self.widen(volume),
            What::Grow(volume) => self.grow(volume),
            What::Takeover(volume, node) => {
                let owner = self.machines[node].node;
                self.ask(volume, VolumeCommand::Takeover { owner, lease_over: false });
            }
            What::Activate(volume) => {
                (0..fault.for_ms / 4).for_each(|at| self.post(at * 4 * MS, Event::Activate(volume)));
            }
            What::Override(volume, leg) => self.override_by_force(volume, LegId(leg + 1)),
            What::ForceQuorum(rack) => {
                let mut lost = self.rack(rack);
                lost.push(self.machines.len() - 1);
                for node in lost {
                    self.machines[node].gone = true;
                    self.off(node);
                }
                self.forced = Some(rack);
            }
            What::Wipe(node) => self.wipe(node),
            What::Vm(what) => self.vm_fault(what, fault.for_ms),
        }
    }

    pub(super) fn mend(&mut self, at: usize) {
        let fault = self.schedule.faults[at];
        if self.mended {
            return;
        }
        self.tell(|_| format!("END OF {}", fault.to_string().trim_start()));
        match fault.what {
            What::NodePower(node) | What::Wipe(node) => self.on(node),
            What::Witness => self.on(self.machines.len() - 1),
            What::RackPower(rack) => self.rack(rack).into_iter().for_each(|node| self.on(node)),
            What::AllPower => (0..self.machines.len()).for_each(|node| self.on(node)),
            What::NodeCut(..) | What::RoomCut(..) => self.cut(fault.what, false),
            What::Freeze(node, _) => self.thaw(node),
            What::DrivePull(drive) => self.put_back(drive),
            What::Loss => self.losses = self.losses.saturating_sub(1),
            What::Vm(what) => self.vm_mended(what),
            _ => {}
        }
    }

    fn vm_fault(&mut self, what: VmWhat, for_ms: u64) {
        match what {
            VmWhat::Stop(vm) => self.ask_vms(VmsCommand::Want(vm_id(vm), Wanted::Stopped)),
            VmWhat::Save(vm) => self.ask_vms(VmsCommand::Want(vm_id(vm), Wanted::Saved)),
            VmWhat::Dies(vm) => self.dies(vm),
            VmWhat::Migrate(vm, node) => {
                let to = self.machines[node].node;
                self.ask_vm(vm, VmCommand::Migrate { to });
            }
            VmWhat::Drain(node, save) => self.drain(BTreeSet::from([self.machines[node].node]), save),
            VmWhat::DrainRack(rack, save) => {
                let nodes = self.rack(rack).into_iter().map(|node| self.machines[node].node);
                self.drain(nodes.collect(), save);
            }
            VmWhat::Place(vm, rack, true) => self.set_home(vm, Home::Strict(rack)),
            VmWhat::Place(vm, rack, false) => self.set_home(vm, Home::Prefers(rack)),
            VmWhat::ResetIts(vm) => {
                if let Some(node) = self.runner_of(vm) {
                    self.tell(|_| format!("node-{} resets itself", node + 1));
                    self.reset(node);
                }
            }
            VmWhat::Trap(vm, when, then) => self.vms[vm].trap = Some((when, then)),
            VmWhat::KillItsAgent(vm) => {
                if let Some(node) = self.runner_of(vm) {
                    self.end_agent(node);
                    let run = self.machines[node].run;
                    self.post(for_ms * MS, Event::Agent(node, run));
                }
            }
        }
    }

    /// Nothing passes between a node and the ledger, or it does again.
    fn cut_off(&mut self, node: usize, on: bool) {
        self.cut(What::NodeCut(node, Plane::Management, Way::Both), on);
    }

    pub(super) fn sprung(&mut self, vm: usize, then: Then) {
        let seat = self.ledger().vms.all.get(&vm_id(vm)).and_then(|vm| vm.phase.seat());
        let Some(node) = seat.map(|seat| super::node_index(seat.node)) else { return };
        if !self.machines[node].power || self.mended {
            return;
        }
        self.tell(|_| format!("SPRUNG on node-{}: {then:?}", node + 1));
        match then {
            Then::Reset => self.reset(node),
            Then::Dies => self.dies_on(node, vm),
            Then::CutAndReset => {
                self.cut_off(node, true);
                self.post(1_200 * MS, Event::CutOver(node));
            }
        }
    }

    pub(super) fn cut_over(&mut self, node: usize) {
        self.cut_off(node, false);
        if self.machines[node].power {
            self.reset(node);
        }
    }

    fn drain(&mut self, nodes: BTreeSet<NodeId>, save: bool) {
        let leftover = if save { Leftover::Saved } else { Leftover::Stays };
        self.ask_vms(VmsCommand::Drain { nodes, leftover });
    }

    fn vm_mended(&mut self, what: VmWhat) {
        match what {
            VmWhat::Stop(vm) | VmWhat::Save(vm) => self.ask_vms(VmsCommand::Want(vm_id(vm), Wanted::Running)),
            VmWhat::Drain(node, _) => {
                let nodes = BTreeSet::from([self.machines[node].node]);
                self.ask_vms(VmsCommand::EndDrain { nodes });
            }
            VmWhat::DrainRack(rack, _) => {
                let nodes = self.rack(rack).into_iter().map(|node| self.machines[node].node).collect();
                self.ask_vms(VmsCommand::EndDrain { nodes });
            }
            _ => {}
        }
    }

    pub(super) fn all_mended(&mut self) {
        self.mended = true;
        self.tell(|_| "ALL IS MENDED".to_owned());
        self.mended_now();
        self.cuts.iter_mut().for_each(|plane| plane.iter_mut().for_each(|cut| *cut = 0));
        self.losses = 0;
        for drive in 0..self.drives.len() {
            self.drives[drive].to_fail = 0;
            self.put_back(drive);
        }
        for node in 0..self.machines.len() {
            if self.machines[node].frozen > 0 {
                self.machines[node].frozen = 1;
                self.thaw(node);
            }
            if self.machines[node].off > 0 {
                self.machines[node].off = 1;
                self.on(node);
            }
        }
    }

    fn rack(&self, rack: usize) -> Vec<usize> {
        (0..self.machines.len()).filter(|node| self.machines[*node].rack == Some(rack)).collect()
    }

    fn off(&mut self, node: usize) {
        self.machines[node].off += 1;
        if self.machines[node].power {
            self.machine_ends(node, true);
        }
    }

    fn on(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        machine.off = machine.off.saturating_sub(1);
        if machine.off == 0 {
            let delay = (500 + self.random.u64(..1500)) * MS;
            self.post(delay, Event::Boot(node));
        }
    }

    /// A watchdog, or the agent itself: the kernel is gone, the drives keep their power.
    pub(super) fn reset(&mut self, node: usize) {
        self.machine_ends(node, false);
        let delay = (500 + self.random.u64(..1500)) * MS;
        self.post(delay, Event::Boot(node));
    }

    fn machine_ends(&mut self, node: usize, power: bool) {
        self.end_agent(node);
        let machine = &mut self.machines[node];
        machine.power = false;
        machine.run += 1;
        machine.watchdog = None;
        machine.lease_note = control::Moment(0);
        machine.arrays.iter_mut().for_each(|array| *array = None);
        machine.guests.clear();
        self.forget_deferred(node);
        self.targets_end(node, power);
        for volume in 0..self.truths.len() {
            self.judge_volume(volume);
        }
    }

    fn freeze(&mut self, node: usize, clock: bool) {
        let now = self.now;
        let machine = &mut self.machines[node];
        machine.frozen += 1;
        if clock && machine.clock_stopped_at.is_none() {
            machine.clock_stopped_at = Some(now);
        }
    }

    fn thaw(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        machine.frozen = machine.frozen.saturating_sub(1);
        if machine.frozen == 0 {
            self.thawed(node);
        }
    }

    /// A link is cut, or joined again, for every pair that the fault is about.
    fn cut(&mut self, what: What, on: bool) {
        let nodes = self.machines.len();
        let rack = |node: usize| self.machines[node].rack;
        let (mut links, plane, way) = match what {
            What::NodeCut(node, plane, way) => {
                ((0..nodes).filter(|other| *other != node).map(|other| (node, other)).collect(), plane, way)
            }
            What::RoomCut(plane, way) => {
                let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
                let between = |(from, to): &(usize, usize)| rack(*from) == Some(0) && rack(*to) == Some(1);
                (pairs.filter(between).collect::<Vec<_>>(), plane, way)
            }
            _ => return,
        };
        let back: Vec<(usize, usize)> = links.iter().map(|(from, to)| (*to, *from)).collect();
        match way {
            Way::From => {}
            Way::To => links = back,
            Way::Both => links.extend(back),
        }
        let planes: &[usize] = match plane {
            Plane::Management => &[0],
            Plane::Storage => &[1],
            Plane::All => &[0, 1],
        };
        for plane in planes {
            for (from, to) in &links {
                let cut = &mut self.cuts[*plane][from * nodes + to];
                *cut = if on { *cut + 1 } else { cut.saturating_sub(1) };
            }
        }
    }

    fn wipe(&mut self, node: usize) {
        let forced = self.schedule.faults.iter().any(|fault| matches!(fault.what, What::ForceQuorum(_)));
        self.off(node);
        // Others must have what it had, and be enough to go on.
        let ledger = self.ledger();
        let others = ledger
            .voters
            .present()
            .iter()
            .map(|node| super::node_index(*node))
            .filter(|other| *other != node);
        let latest = self.raft.log.len() - 1;
        let enough = matches!(&ledger.voters, Voters::Settled(set) if set.len() > 2);
        let others: Vec<usize> = others.collect();
        let kept = others.iter().any(|other| self.machines[*other].seat.stored == latest);
        let enough = enough && others.iter().all(|other| self.lives(*other));
        if self.wiped || forced || !enough || !kept || self.raft.is_changing() {
            return;
        }
        self.wiped = true;
        let machine = &mut self.machines[node];
        machine.seat = Seat { wiped: true, ..Seat::default() };
        machine.floors.clear();
        machine.laid.clear();
    }

    fn all_legs_err(&mut self, volume: usize) {
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        for (leg, _) in found.in_sync() {
            let Some(drive) = self.disks[volume].get(&leg.0).map(|disk| disk.drive) else { continue };
            self.drives[drive].errors += 1;
            let machine = self.drives[drive].node;
            if self.lives(machine) {
                self.tell_target(machine, control::target::Event::Errored((volume_id(volume), leg)));
            }
        }
    }

    /// Placement finds the leg another drive.
    fn move_leg(&mut self, volume: usize, leg: LegId) {
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let Some(old) = found.legs.get(&leg) else { return };
        let new = found.leg_minted.next();
        // What was asked for and has not been seen yet may still be committed.
        let taken: Vec<_> = ledger.placed().into_iter().chain(self.planned.iter().cloned()).collect();
        let moved = placement::replace(&ledger.pool(), &taken, (volume_id(volume), leg), new);
        let Ok(placed) = moved else { return };
        let leg = control::LegRef { id: leg, incarnation: old.incarnation };
        let command = VolumeCommand::MoveLeg { leg, to: placed.drive };
        self.planned.push(placed);
        self.ask(volume, command);
    }

    /// Placement finds two legs more a place each.
    fn widen(&mut self, volume: usize) {
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let slabs = found.legs.values().map(control::state::Leg::slabs).max().unwrap_or(0);
        let taken: Vec<_> = ledger.placed().into_iter().chain(self.planned.iter().cloned()).collect();
        let last = found.leg_minted;
        let Ok(placed) = placement::widen(&ledger.pool(), &taken, (volume_id(volume), last), slabs) else {
            return;
        };
        let drives = placed.iter().map(|leg| leg.drive).collect();
        self.planned.extend(placed);
        self.ask(volume, VolumeCommand::Widen { drives });
    }

    pub(super) fn override_by_force(&mut self, volume: usize, leg: LegId) {
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let Some(state) = found.legs.get(&leg) else { return };
        let Some(owner) = ledger.node_of(state) else { return };
        let leg = control::LegRef { id: leg, incarnation: state.incarnation };
        let by_force =
            VolumeCommand::Override { leg, owner, by: "operator".into(), loses: "what it missed".into() };
        self.ask(volume, VolumeCommand::Takeover { owner, lease_over: false });
        if let Some(leader) = self.leader() {
            let command = Command::Volume(volume_id(volume), found.epoch.next(), by_force);
            self.post(20 * MS, Event::Propose(leader, command, None));
        }
    }
}
