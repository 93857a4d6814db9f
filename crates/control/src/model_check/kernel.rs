//! What the kernel, the drives and the engine do with what they are ordered.

use super::grow;
use super::world::{Array, Member, NOW, Order, Value, World, node_of};
use crate::command::LegRef;
use crate::owner::{self, LegLook, Look};
use crate::state::{Base, Cache};
use crate::target::{self, Key};
use crate::testing::{VOLUME, volume};
use model::{DriveId, Epoch, Incarnation, LegId, NodeId, PowerCycles};
use std::collections::{BTreeMap, BTreeSet};

impl World {
    pub(super) fn tell_target(&mut self, node: NodeId, event: target::Event) {
        let machine = self.machines.get_mut(&node).expect("machines stay");
        if !machine.up {
            return;
        }
        for effect in machine.target.step(NOW, &self.ledger, event) {
            match effect {
                target::Effect::Remember(leg, floor) => {
                    self.machines.get_mut(&node).expect("machines stay").floors.insert(leg, floor);
                }
                target::Effect::Fence((_, leg), floor) => {
                    let machine = self.machines.get_mut(&node).expect("machines stay");
                    // A local array of an older epoch is stopped with its openers; one of this epoch lets the leg go itself.
                    let holds = |array: &Array| array.epoch < floor.epoch && array.legs.contains_key(&leg);
                    if machine.array.as_ref().is_some_and(holds) {
                        machine.array = None;
                        machine.orders.clear();
                    }
                    let disk = self.disk(leg);
                    (disk.given, disk.laying, disk.end.mapped) = (None, None, false);
                    disk.fencing = Some(floor);
                    if self.config.coarse && self.is_through(leg) {
                        self.barrier(leg);
                    }
                }
                target::Effect::GiveOut((_, leg), key, to) => {
                    let mapped = self.maps_all(node, leg);
                    let disk = self.disk(leg);
                    disk.given = Some((key, to));
                    (disk.errored, disk.end.mapped) = (false, mapped);
                }
                target::Effect::Forget((_, leg)) => {
                    self.machines.get_mut(&node).expect("machines stay").floors.remove(&(VOLUME, leg));
                }
                target::Effect::Lay((_, leg), from, laid) => self.disk(leg).laying = Some((from, laid)),
                target::Effect::TakenBack(..) => panic!("drives stall on the sim rung"),
                target::Effect::Propose(command) => self.propose(command),
            }
        }
    }

    /// Whether an array's member has a way to its drive. A local device is there whether its target has given it out or not, unless its drive may have been
    /// pulled and have forgotten something; a fence takes its gate's path away.
    pub(super) fn reaches(&self, node: NodeId, epoch: Epoch, leg: LegId, member: Member) -> bool {
        let key = Key { epoch, incarnation: member.incarnation };
        let safe = self.ledger.drives[&DriveId(u32::from(leg.0))].cache == Cache::Safe;
        let cut_off = || self.machines[&node].floors.get(&(VOLUME, leg)).is_some_and(|floor| *floor > key);
        let local = node_of(leg) == node && safe && !cut_off();
        local || self.disks[&leg].given == Some((key, node))
    }

    /// Whether nothing is in flight to a leg, and no local array holds it as it was. The last in sync is never let go: its gate is taken off its device.
    pub(super) fn is_through(&self, leg: LegId) -> bool {
        let Some(floor) = self.disks[&leg].fencing else { return false };
        let member = self.array(node_of(leg)).and_then(|array| array.legs.get(&leg));
        let held = member.is_some_and(|member| member.incarnation < floor.incarnation);
        let last = volume(&self.ledger).in_sync().map(|(id, _)| id).eq([leg]);
        self.disks[&leg].queue.is_none() && (!held || last)
    }

    /// Owners hear of the gates that have no path, as they do from keep-alives.
    pub(super) fn notice_lost_gates(&mut self) {
        let mut lost = Vec::new();
        for (node, machine) in &self.machines {
            let wanted = machine.assembling.iter().flat_map(|assembly| {
                assembly.legs.iter().map(|(leg, (incarnation, _))| (assembly.epoch, *leg, *incarnation))
            });
            let members = machine.array.iter().flat_map(|array| {
                array.legs.iter().map(|(leg, member)| (array.epoch, *leg, member.incarnation))
            });
            let without = |(epoch, leg, incarnation): &(Epoch, LegId, Incarnation)| {
                let given = self.disks[leg].given;
                given != Some((Key { epoch: *epoch, incarnation: *incarnation }, *node))
            };
            lost.extend(wanted.chain(members).filter(without).map(|(_, leg, _)| (*node, leg)));
        }
        for (node, leg) in lost {
            self.tell_owner(node, owner::Event::GateLost(leg));
        }
    }

    pub(super) fn boot(&mut self, node: NodeId) {
        let found = &self.machines[&node];
        let notes = (found.floors.clone(), found.laid.clone());
        let machine = self.machine(node, found.boots + 1, notes);
        self.machines.insert(node, machine);
    }

    pub(super) fn is_used(&mut self, node: NodeId, used: bool) {
        let array = self.machines.get_mut(&node).and_then(|machine| machine.array.as_mut());
        if let Some(array) = array {
            array.used = used;
        }
    }

    /// Whether an owner has been told that a leg has no path, or has let it go.
    pub(super) fn knows_lost(&self, node: NodeId, leg: LegId) -> bool {
        let owner::Stage::Up(up) = self.machines[&node].owner.stage() else { return true };
        up.legs.get(&leg).is_none_or(|held| held.gate != owner::Gate::Path)
    }

    /// A drive is pulled and put back. What was on its way to it is held by the gate; other nodes' connections are gone, its own node's device stays while
    /// it is sure that nothing was forgotten.
    pub(super) fn away(&mut self, leg: LegId) {
        self.spent.pulls += 1;
        let (node, drive) = (node_of(leg), DriveId(u32::from(leg.0)));
        let volatile = self.ledger.drives[&drive].cache == Cache::Volatile;
        let disk = self.disk(leg);
        disk.queue = None;
        disk.power_cycles += 1;
        if volatile {
            disk.value = disk.durable;
        }
        disk.given.take_if(|(_, to)| volatile || *to != node);
        let (filled, count) = (disk.laying.take(), PowerCycles(disk.power_cycles));
        self.tell_target(node, target::Event::DriveReset(drive, count));
        if filled.is_some() {
            self.tell_target(node, target::Event::NotLaid((VOLUME, leg)));
        }
    }

    pub(super) fn barrier(&mut self, leg: LegId) {
        let disk = self.disk(leg);
        let (floor, errored) = (disk.fencing.take(), disk.errored);
        if let Some(floor) = floor {
            self.tell_target(node_of(leg), target::Event::Fenced { leg: (VOLUME, leg), floor, errored });
        }
    }

    pub(super) fn tell_owner(&mut self, node: NodeId, event: owner::Event) {
        let machine = self.machines.get_mut(&node).expect("machines stay");
        if !machine.up {
            return;
        }
        for effect in machine.owner.step(NOW, &self.ledger, event) {
            self.order(node, effect);
        }
    }

    fn order(&mut self, node: NodeId, effect: owner::Effect) {
        let machine = self.machines.get_mut(&node).expect("machines stay");
        match effect {
            owner::Effect::Assemble(assembly) => machine.assembling = Some(assembly),
            owner::Effect::Admit(reach) => machine.array.iter_mut().for_each(|array| {
                (array.admitted, array.long) = (true, reach.array_bytes >= grow::TO_BYTES);
            }),
            owner::Effect::Repoint(leg, _) => {
                self.member(node, leg.id, |member| member.incarnation = leg.incarnation);
            }
            owner::Effect::Rebuild(leg, _, base) => {
                if let Some(array) = &mut machine.array {
                    let member = Member { incarnation: leg.incarnation, failed: false, recovering: true };
                    let there = |found: &&Member| found.incarnation == leg.incarnation && !found.failed;
                    // One that is there goes on from where it is; it may have been copied already.
                    let member = array.legs.get(&leg.id).filter(there).copied().unwrap_or(member);
                    array.legs.insert(leg.id, member);
                    array.copying = Some((leg, base));
                }
            }
            owner::Effect::StopRebuild(_) => machine.array.iter_mut().for_each(|array| array.copying = None),
            // The engine says that it can't, later.
            owner::Effect::Stop { kill: false } if machine.array.as_ref().is_some_and(|array| array.used) => {
            }
            owner::Effect::Stop { .. } => self.stop(node),
            // Every other time it is lost.
            owner::Effect::GivenBack(legs) => {
                for (leg, (key, to)) in legs.into_iter().filter(|(_, (key, _))| key.epoch.number % 2 == 1) {
                    self.tell_target(to, target::Event::GivenBack((VOLUME, leg), key));
                }
            }
            owner::Effect::ResetNode => panic!("an array stops at once here"),
            owner::Effect::Propose(command) => self.propose(command),
            owner::Effect::Extend(reach) => self.extend(node, reach),
            owner::Effect::Look => self.ordered(node, Order::Look),
            owner::Effect::LetGo(leg) => self.ordered(node, Order::LetGo(leg)),
            owner::Effect::Release(legs) => self.ordered(node, Order::Release(legs)),
        }
    }

    fn stop(&mut self, node: NodeId) {
        let array = self.array(node).cloned();
        let machine = self.machines.get_mut(&node).expect("machines stay");
        (machine.array, machine.assembling) = (None, None);
        machine.orders.clear();
        let owner::Stage::Stopping { epoch, .. } = machine.owner.stage() else { return };
        let epoch = *epoch;
        // Those that are in sync as it knows: one that becomes so meanwhile is passed by.
        let in_sync = volume(&self.ledger).named_in_sync();
        let mut flushed = BTreeSet::new();
        for (leg, member) in array.iter().flat_map(|array| &array.legs) {
            let named = LegRef { id: *leg, incarnation: member.incarnation };
            if in_sync.contains(&named) && !member.failed && self.reaches(node, epoch, *leg, *member) {
                let disk = self.disk(*leg);
                disk.durable = disk.value;
                flushed.insert(named);
            }
        }
        self.tell_owner(node, owner::Event::Stopped { epoch, flushed });
    }

    fn ordered(&mut self, node: NodeId, order: Order) {
        if !self.config.slow_engine {
            return self.engine(node, order);
        }
        let machine = self.machines.get_mut(&node).expect("machines stay");
        if !machine.orders.contains(&order) {
            machine.orders.push_back(order);
        }
    }

    pub(super) fn engine(&mut self, node: NodeId, order: Order) {
        let Some(array) = self.machines.get_mut(&node).and_then(|machine| machine.array.as_mut()) else {
            return;
        };
        match order {
            Order::Look => {
                let failed = |member: &Member| if member.failed { LegLook::Failed } else { LegLook::Fine };
                let legs = array.legs.iter().map(|(leg, member)| (*leg, failed(member))).collect();
                let pending = array.writing.iter().flat_map(|(_, pending)| pending);
                let waits = pending.into_iter().any(|leg| array.legs.get(leg).is_some_and(|leg| leg.failed));
                self.tell_owner(node, owner::Event::Looked(Look { waits, legs }));
            }
            Order::LetGo(leg) => {
                self.member(node, leg.id, |member| member.failed = true);
                self.tell_owner(node, owner::Event::LetGo(leg.id));
            }
            Order::Release(legs) => {
                for leg in legs {
                    let failed = |member: &Member| member.failed && member.incarnation == leg.incarnation;
                    if !array.legs.get(&leg.id).is_some_and(failed) {
                        continue;
                    }
                    array.legs.remove(&leg.id);
                    if let Some((_, pending)) = &mut array.writing {
                        pending.remove(&leg.id);
                    }
                }
                self.acknowledge(node);
                self.tell_owner(node, owner::Event::Released);
            }
        }
    }

    pub(super) fn write(&mut self, node: NodeId) {
        self.spent.writes += 1;
        self.written += 1;
        let value = self.written;
        self.maybe.insert(value);
        let array = self.machines.get_mut(&node).and_then(|machine| machine.array.as_mut());
        if let Some(array) = array {
            array.writing = Some((value, array.legs.keys().copied().collect()));
        }
    }

    /// The bitmap's bit is on disk with the write, and the answer goes back if the way that it came is still there.
    pub(super) fn land(&mut self, leg: LegId) {
        let disk = self.disk(leg);
        let Some((value, from)) = disk.queue.take() else { return };
        (disk.value, disk.bitmap) = (value, true);
        let volatile = self.ledger.drives[&DriveId(u32::from(leg.0))].cache == Cache::Volatile;
        if !volatile {
            self.disk(leg).durable = value;
        }
        let Some(array) = self.array(from).cloned() else { return };
        let Some(member) = array.legs.get(&leg) else { return };
        let same = array.writing.as_ref().is_some_and(|(writing, _)| *writing == value);
        // What an own leg had in flight when its path was taken away is answered all the same.
        let answered = node_of(leg) == from || self.reaches(from, array.epoch, leg, *member);
        if same && !member.failed && answered {
            let array = self.machines.get_mut(&from).and_then(|machine| machine.array.as_mut());
            if let Some((_, pending)) = array.and_then(|array| array.writing.as_mut()) {
                pending.remove(&leg);
            }
            self.acknowledge(from);
        }
    }

    fn acknowledge(&mut self, node: NodeId) {
        let legs = volume(&self.ledger).legs.len();
        let Some(array) = self.machines.get_mut(&node).and_then(|machine| machine.array.as_mut()) else {
            return;
        };
        let Some((value, _)) = array.writing.take_if(|(_, pending)| pending.is_empty()) else { return };
        let whole = array.legs.values().filter(|member| !member.failed && !member.recovering).count() == legs;
        let members: Vec<LegId> = array.legs.keys().copied().collect();
        if self.maybe.remove(&value) {
            self.truth = value;
            self.settled.insert(value);
        } else if !self.settled.contains(&value) {
            self.broken =
                Some(format!("write {value} is acknowledged and was lost when the volume was opened"));
        }
        for leg in members.into_iter().filter(|_| whole) {
            self.disk(leg).bitmap = false;
        }
    }

    pub(super) fn allowed(&self, value: Value) -> bool {
        value == self.truth || self.maybe.contains(&value)
    }

    pub(super) fn assemble(&mut self, node: NodeId) {
        let machine = self.machines.get_mut(&node).expect("machines stay");
        let Some(assembly) = machine.assembling.take() else { return };
        let legs: Vec<LegId> = assembly.legs.keys().copied().collect();
        let disks = || legs.iter().map(|leg| &self.disks[leg]);
        let union = disks().any(|disk| disk.bitmap);
        let (source, more) = (self.disks[&legs[0]].value, self.disks[&legs[0]].end.more);
        let known = volume(&self.ledger).map_sequence;
        let readable: Vec<_> =
            disks().filter(|disk| disk.maps.0 >= known).map(|disk| disk.maps.1.clone()).collect();
        let missed = |stale: &LegId| {
            union
                || readable.is_empty()
                || readable.iter().any(|map| map.get(stale).copied().unwrap_or(false))
        };
        let map: BTreeMap<LegId, bool> = assembly.stale.iter().map(|leg| (*leg, missed(leg))).collect();
        for leg in &legs {
            if !self.allowed(self.disks[leg].value) {
                self.broken = Some(format!("opened from {leg}, which misses an acknowledged write"));
            }
            let disk = self.disk(*leg);
            if assembly.make_equal && union {
                (disk.value, disk.durable) = (source, source);
                disk.end.more = more && disk.end.mapped;
            }
            if disk.value != source {
                self.broken = Some(format!("opened with {leg} unequal"));
                return;
            }
            disk.maps = (assembly.maps, map.clone());
            // What md does to bits that it loads: without "needed" they are cleared.
            disk.bitmap = false;
        }
        self.truth = source;
        self.settled.insert(source);
        self.maybe.clear();
        let member = |incarnation| Member { incarnation, failed: false, recovering: false };
        let members =
            assembly.legs.iter().map(|(leg, (incarnation, _))| (*leg, member(*incarnation))).collect();
        let epoch = assembly.epoch;
        let array = Array {
            epoch,
            admitted: false,
            long: false,
            used: false,
            legs: members,
            writing: None,
            copying: None,
        };
        self.machines.get_mut(&node).expect("machines stay").array = Some(array);
        self.tell_owner(node, owner::Event::Assembled(assembly));
    }

    pub(super) fn copy(&mut self, node: NodeId) {
        let Some(array) = self.array(node).cloned() else { return };
        let Some((leg, base)) = array.copying else { return };
        let Some(member) = array.legs.get(&leg.id).filter(|member| !member.failed) else { return };
        let usable = |(leg, member): &(&LegId, &Member)| {
            !member.failed && !member.recovering && self.reaches(node, array.epoch, **leg, **member)
        };
        let sources: Vec<LegId> = array.legs.iter().filter(usable).map(|(leg, _)| *leg).collect();
        let reached = self.reaches(node, array.epoch, leg.id, *member);
        if !reached || sources.is_empty() {
            return;
        }
        let known = volume(&self.ledger).map_sequence;
        let readable = || sources.iter().map(|leg| &self.disks[leg]).filter(|disk| disk.maps.0 >= known);
        let mapped = readable().any(|disk| disk.maps.1.get(&leg.id).copied().unwrap_or(false));
        let bits = sources.iter().chain([&leg.id]).any(|leg| self.disks[leg].bitmap);
        let source = self.disks[&sources[0]].clone();
        let copies = mapped || bits || readable().next().is_none() || base == Base::Scratch;
        let disk = self.disk(leg.id);
        // Its own bitmap says from now on what the others' say: it may be the one that is left to say it.
        disk.bitmap = bits || mapped;
        if copies {
            disk.value = source.value;
            disk.end.more = source.end.more && disk.end.mapped;
        }
        (disk.durable, disk.maps) = (disk.value, source.maps.clone());
        self.member(node, leg.id, |member| member.recovering = false);
        let machine = self.machines.get_mut(&node).expect("machines stay");
        machine.array.iter_mut().for_each(|array| array.copying = None);
        self.tell_owner(node, owner::Event::Rebuilt(leg, source.maps.0));
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        self.spent.crashes += 1;
        let machine = self.machines.get_mut(&node).expect("machines stay");
        machine.up = false;
        (machine.array, machine.assembling) = (None, None);
        machine.orders.clear();
        for (leg, disk) in &mut self.disks {
            if node_of(*leg) == node {
                (disk.given, disk.queue, disk.fencing) = (None, None, None);
                (disk.laying, disk.end.mapped) = (None, false);
                disk.value = disk.durable;
                disk.power_cycles += 1;
            }
        }
    }
}
