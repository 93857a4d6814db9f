//! What the engine does over time: assembling an array, rebuilding a leg, stopping.
//!
//! Each step of an assembly touches one leg, and may be the last that it comes to: the machine, its agent or a target may be gone before the
//! next. A rebuild is the kernel's and goes on without the agent; its flush is the agent's.

use super::judge::Start;
use super::md::{Array, Hold, Member, Recover, bit};
use super::target::{Disk, chunk_of};
use super::{BLOCKS, CHUNK, CHUNKS, Event, IoKind, MS, World, node_index, volume_id};
use crate::bugs::Broken;
use control::LegRef;
use control::owner::{self, Assembly, Stage};
use control::state::{Base, Volume};
use control::target::Key;
use model::LegId;
use std::collections::{BTreeMap, BTreeSet};

/// An assembly under way.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) id: u32,
    assembly: Assembly,
    step: Step,
    lost: u32,
    /// The union of all bitmaps.
    union: u8,
    map: BTreeMap<u16, u8>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Read,
    /// The union, then the maps, on the leg of this place.
    Write(usize),
    /// This chunk, from the first leg to all others.
    Equal(usize),
    Flush,
    Start,
}

/// How long a step waits that could not be taken.
const AGAIN: u64 = 50 * MS;
/// How long md may take to become quiet before a copy.
const QUIET: u64 = 10_000 * MS;
/// So often it is asked whether writes have drained.
const DRAIN_TRIES: u32 = 30;

impl Work {
    pub(crate) fn new(id: u32, assembly: Assembly) -> Self {
        Self { id, assembly, step: Step::Read, lost: 0, union: 0, map: BTreeMap::new() }
    }

    fn legs(&self) -> Vec<(u16, Key, usize)> {
        let key = |incarnation| Key { epoch: self.assembly.epoch, incarnation };
        self.assembly.legs.iter().map(|(leg, (inc, node))| (leg.0, key(*inc), node_index(*node))).collect()
    }
}

impl World {
    pub(super) fn assemble(&mut self, machine: usize, volume: usize, id: u32) {
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        let Some(mut work) = agent.work[volume].take_if(|work| work.id == id) else { return };
        let (legs, epoch) = (work.legs(), work.assembly.epoch);
        let away: Vec<u16> = legs
            .iter()
            .filter(|(leg, key, _)| !self.reaches(machine, volume, *leg, *key))
            .map(|leg| leg.0)
            .collect();
        let was = work.lost;
        work.lost = away.iter().map(|leg| bit(*leg)).sum();
        let (lost, ready) = (work.lost, away.is_empty());
        let done = ready && self.step(machine, volume, &mut work, &legs);
        if !done && let Some(agent) = self.machines[machine].agent.as_mut() {
            agent.work[volume] = Some(work);
            let delay = if ready { self.random.u64(300..4_000) } else { AGAIN };
            self.post(delay, Event::Assemble(machine, volume, id));
        }
        if lost != was || lost != 0 {
            let legs = away.into_iter().map(LegId).collect();
            let late = BTreeSet::new();
            self.tell_owner(machine, volume, owner::Event::Unreached { epoch, legs, late });
        }
    }

    /// One step; whether it was the last.
    fn step(&mut self, machine: usize, volume: usize, work: &mut Work, legs: &[(u16, Key, usize)]) -> bool {
        match work.step {
            Step::Read => {
                self.read_maps(machine, volume, work, legs);
                work.step = Step::Write(0);
            }
            Step::Write(at) => {
                let (union, maps) = (work.union, (work.assembly.maps, work.map.clone()));
                if let Some((leg, _, _)) = legs.get(at) {
                    let disk = self.disk(volume, *leg);
                    disk.bits |= union;
                    disk.maps = maps;
                    work.step = Step::Write(at + 1);
                } else {
                    work.step = if work.assembly.make_equal { Step::Equal(0) } else { Step::Start };
                }
            }
            Step::Equal(chunk) => {
                if chunk == self.blocks_seen(machine, volume) / CHUNK {
                    work.step = Step::Flush;
                    return false;
                }
                work.step = Step::Equal(chunk + 1);
                if work.union & (1 << chunk) != 0 {
                    self.make_equal(volume, chunk, legs);
                }
            }
            Step::Flush => {
                for (leg, _, _) in legs {
                    let disk = self.disk(volume, *leg);
                    disk.durable = disk.value;
                }
                work.step = Step::Start;
            }
            Step::Start => {
                self.start(machine, volume, &work.assembly, legs);
                return true;
            }
        }
        false
    }

    /// Reads bitmaps and maps. A map of a lower sequence than the ledger's counts as unreadable.
    fn read_maps(&mut self, machine: usize, volume: usize, work: &mut Work, legs: &[(u16, Key, usize)]) {
        let known = self.sees(machine).volumes.get(&volume_id(volume)).map(|found| found.map_sequence);
        let disks = || legs.iter().filter_map(|(leg, _, _)| self.disks[volume].get(leg));
        work.union = disks().fold(0, |union, disk| union | disk.bits);
        let readable: Vec<_> = disks().filter(|disk| Some(disk.maps.0) >= known).collect();
        let mut map = BTreeMap::new();
        for stale in &work.assembly.stale {
            let missed = readable.iter().map(|disk| disk.maps.1.get(&stale.0).copied().unwrap_or(0));
            let missed = missed.fold(work.union, |all, bits| all | bits);
            map.insert(stale.0, if readable.is_empty() { self.everything(machine, volume) } else { missed });
        }
        work.map = map;
    }

    fn make_equal(&mut self, volume: usize, chunk: usize, legs: &[(u16, Key, usize)]) {
        let Some(source) = legs.first().and_then(|leg| self.disks[volume].get(&leg.0)).map(Disk::reads)
        else {
            return;
        };
        for (leg, _, _) in legs {
            let drive = self.disk(volume, *leg).drive;
            let volatile = self.drives[drive].volatile;
            let disk = self.disk(volume, *leg);
            for block in (0..disk.blocks()).filter(|block| chunk_of(*block) == chunk) {
                disk.value[block] = source[block];
                if !volatile {
                    disk.durable[block] = source[block];
                }
            }
        }
    }

    /// The array starts: md loads its bits without "needed", and clears them.
    fn start(&mut self, machine: usize, volume: usize, assembly: &Assembly, legs: &[(u16, Key, usize)]) {
        let numbers: Vec<u16> = legs.iter().map(|leg| leg.0).collect();
        self.judge_start(&Start { machine, volume, epoch: assembly.epoch, legs: &numbers });
        for leg in &numbers {
            self.disk(volume, *leg).bits = 0;
        }
        self.uid += 1;
        let member = |(leg, key, home): &(u16, Key, usize)| (*leg, Member::new(key.incarnation, *home));
        let members = legs.iter().map(member).collect();
        let array = Array::new(self.uid, assembly.epoch, assembly.maps, members);
        self.machines[machine].arrays[volume] = Some(array);
        self.tell(|_| format!("volume-{} assembled on node-{} from {numbers:?}", volume + 1, machine + 1));
        self.tell_owner(machine, volume, owner::Event::Assembled(assembly.clone()));
    }

    /// What a leg missed, by all that is known, durable on every leg that takes part; then the copy begins.
    pub(super) fn begin_rebuild(&mut self, machine: usize, volume: usize, leg: LegRef, base: Base) {
        let known = self.sees(machine).volumes.get(&volume_id(volume)).map(|found| found.map_sequence);
        let Some(array) = self.machines[machine].arrays[volume].as_ref() else { return };
        let id = array.id;
        let key = |incarnation| Key { epoch: array.epoch, incarnation };
        let takes_part = |(at, member): (&u16, &Member)| {
            // A local device is there whether its target has given it out or not; it is used when it has.
            let early = *at != leg.id.0 || self.bug == Some(Broken::OwnLegTooEarly);
            let local = member.home == machine && member.path && early;
            let there = self.disks[volume].get(at).is_some_and(|disk| self.drives[disk.drive].present);
            let reached = self.reaches(machine, volume, *at, key(member.inc)) || (local && there);
            (!member.failed && reached).then_some(*at)
        };
        let all: Vec<u16> = array.members.iter().filter_map(takes_part).collect();
        let whole = all.len() == array.members.values().filter(|member| !member.failed).count();
        let (sound, memory) = (array.sound(), array.bits());
        let other_failed = array.members.iter().any(|(at, member)| *at != leg.id.0 && member.failed);
        let at_once = self.bug == Some(Broken::CopyAtOnce);
        if other_failed && !at_once {
            return self.rebuild_fails(machine, volume, leg);
        }
        if !whole {
            // A leg that can't be read now: its map is not known either. It is tried again.
            self.post(AGAIN, Event::Copy(machine, volume, id));
            if let Some(array) = self.array(machine, volume) {
                array.recover = Some(Recover::new(leg, Some(base)));
            }
            return;
        }
        let sources: Vec<u16> = all.iter().copied().filter(|at| *at != leg.id.0).collect();
        let disks = || sources.iter().filter_map(|at| self.disks[volume].get(at));
        let readable: Vec<_> = disks().filter(|disk| Some(disk.maps.0) >= known).collect();
        let mapped = readable.iter().map(|disk| disk.maps.1.get(&leg.id.0).copied().unwrap_or(0));
        let own =
            self.disks[volume].get(&leg.id.0).map_or(self.everything(machine, volume), |disk| disk.bits);
        let bits = disks().fold(own, |bits, disk| bits | disk.bits);
        let mut union = mapped.fold(bits, |all, bits| all | bits);
        if base == Base::Scratch || readable.is_empty() {
            union = self.everything(machine, volume);
        }
        let maps = readable.first().map(|disk| disk.maps.clone());
        // md writes whole pages: bits that are on no disk yet are on the leg's from now on, but are not known to be chunks that it lacks.
        for at in all {
            self.disk(volume, at).bits |= union | memory;
        }
        if let Some(maps) = maps {
            self.disk(volume, leg.id.0).maps = maps;
        }
        self.set_chunks(machine, volume, union);
        let hold = if at_once { Hold::None } else { Hold::Awaits { sound, until: self.now + QUIET } };
        let begun = Recover::new(leg, None);
        self.tell(|_| {
            format!(
                "node-{}: {} of volume-{} lacks chunks {union:04b}, by memory {memory:04b}",
                machine + 1,
                leg.id,
                volume + 1
            )
        });
        let recover = Recover { todo: union, total: union, quiesces: true, hold, ..begun };
        if let Some(array) = self.machines[machine].arrays[volume].as_mut() {
            array.recover = Some(recover);
        }
        self.post(MS, Event::Copy(machine, volume, id));
    }

    /// The engine could not begin it: control has it stopped and begun anew.
    fn rebuild_fails(&mut self, machine: usize, volume: usize, leg: LegRef) {
        if let Some(array) = self.array(machine, volume) {
            array.recover = Some(Recover { hold: Hold::Failed, ..Recover::new(leg, None) });
        }
        self.tell(|_| {
            format!("node-{}: the rebuild of {} of volume-{} fails", machine + 1, leg.id, volume + 1)
        });
        self.tell_owner(machine, volume, owner::Event::RebuildFailed(leg));
        self.pump(machine, volume);
    }

    /// Whether a copy is past md's quiesce and the engine's hold.
    fn may_copy(&mut self, machine: usize, volume: usize) -> bool {
        let (now, agent) = (self.now, self.machines[machine].agent.is_some());
        let Some(array) = self.array(machine, volume) else { return false };
        let (quiet, sound_now) = (array.is_quiet(), array.sound());
        let Some(recover) = array.recover.as_mut() else { return false };
        let leg = recover.leg;
        recover.quiesces &= !quiet;
        let quiesces = recover.quiesces;
        let goes = match recover.hold {
            Hold::None => !quiesces,
            Hold::Failed => false,
            Hold::Awaits { .. } if !agent => false,
            Hold::Awaits { sound, until } => {
                if sound & !sound_now != 0 || (quiesces && now > until) {
                    self.rebuild_fails(machine, volume, leg);
                    return false;
                }
                if !quiesces {
                    recover.hold = Hold::None;
                }
                !quiesces
            }
        };
        self.pump(machine, volume);
        goes
    }

    pub(super) fn copy(&mut self, machine: usize, volume: usize, id: u32) {
        let Some(array) = self.machines[machine].arrays[volume].as_mut().filter(|array| array.id == id)
        else {
            return;
        };
        let Some(recover) = array.recover.as_ref().filter(|recover| recover.hold != Hold::Failed) else {
            return;
        };
        if let Some(base) = recover.base {
            let leg = recover.leg;
            return self.begin_rebuild(machine, volume, leg, base);
        }
        if recover.copying.is_some() || recover.flushing {
            return;
        }
        if !self.may_copy(machine, volume) {
            self.post(5 * MS, Event::Copy(machine, volume, id));
            return;
        }
        let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
        let Some(recover) = array.recover.as_mut() else { return };
        let leg = recover.leg.id.0;
        let Some(chunk) = (recover.next..CHUNKS).find(|at| recover.todo & (1 << at) != 0) else {
            recover.next = CHUNKS;
            return self.all_copied(machine, volume, leg);
        };
        recover.next = chunk;
        let source = array.members.iter().find(|(_, member)| !member.failed && !member.recovering);
        let source = source.map(|(at, member)| (*at, Key { epoch: array.epoch, incarnation: member.inc }));
        let busy = array.writes_to(chunk);
        let readable = source.filter(|(at, key)| {
            !busy && (self.home(volume, *at) == machine || self.reaches(machine, volume, *at, *key))
        });
        let Some(value) = readable.and_then(|(at, _)| self.disks[volume].get(&at)).map(Disk::reads) else {
            self.post(5 * MS, Event::Copy(machine, volume, id));
            return;
        };
        let blocks: Vec<usize> = (0..BLOCKS).filter(|block| chunk_of(*block) == chunk).collect();
        if let Some(recover) =
            self.machines[machine].arrays[volume].as_mut().and_then(|array| array.recover.as_mut())
        {
            recover.copying = Some((chunk, blocks.len() as u32));
        }
        for block in blocks {
            self.send(machine, volume, leg, IoKind::Copy(block as u8, value[block]));
        }
    }

    pub(super) fn copied(&mut self, machine: usize, volume: usize, leg: u16, ok: bool) {
        let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
        let id = array.id;
        let Some(recover) = array.recover.as_mut().filter(|recover| recover.leg.id.0 == leg) else { return };
        if !ok {
            array.recover = None;
            return self.pump(machine, volume);
        }
        let Some((chunk, blocks)) = recover.copying else { return };
        recover.copying = Some((chunk, blocks - 1)).filter(|(_, left)| *left > 0);
        if recover.copying.is_none() {
            recover.todo &= !(1 << chunk);
            recover.next = chunk + 1;
            let bytes = |bits: u8| u64::from(bits.count_ones()) << 24;
            let (done_bytes, total_bytes) =
                (bytes(recover.total) - bytes(recover.todo), bytes(recover.total));
            self.post(MS, Event::Copy(machine, volume, id));
            self.pump(machine, volume);
            self.tell_owner(machine, volume, owner::Event::Rebuilding { done_bytes, total_bytes });
        }
    }

    /// By md the leg is in sync. The agent flushes it and only then says so.
    fn all_copied(&mut self, machine: usize, volume: usize, leg: u16) {
        let there = self.machines[machine].agent.is_some();
        let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
        if let Some(member) = array.members.get_mut(&leg) {
            member.recovering = false;
        }
        let Some(recover) = array.recover.as_mut().filter(|recover| !recover.flushed && there) else {
            return;
        };
        recover.flushing = true;
        self.send(machine, volume, leg, IoKind::Flush);
    }

    pub(super) fn rebuild_flushed(&mut self, machine: usize, volume: usize, leg: u16, ok: bool) {
        let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
        let maps = array.maps;
        let Some(recover) = array.recover.as_mut().filter(|recover| recover.leg.id.0 == leg) else { return };
        if !ok {
            array.recover = None;
            return;
        }
        (recover.flushing, recover.flushed) = (false, true);
        let leg = recover.leg;
        self.tell_owner(machine, volume, owner::Event::Rebuilt(leg, maps));
    }

    /// An agent that finds an array takes up what the one before it had begun.
    pub(super) fn adopted(&mut self, machine: usize, volume: usize) {
        let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
        let (id, admitted, was) = (array.id, array.admitted, array.stopping);
        array.stopping = false;
        let held = array.recover.as_ref().filter(|recover| recover.hold != Hold::None);
        // Nobody knows whether what was written before has ended well.
        if let Some(leg) = held.map(|recover| recover.leg) {
            self.rebuild_fails(machine, volume, leg);
        }
        self.post(MS, Event::Copy(machine, volume, id));
        if admitted && was {
            self.users_come(machine, volume);
        }
        self.tell_owner(machine, volume, owner::Event::Stirred);
    }

    /// Users go, or are killed; every leg is flushed; the array is stopped.
    pub(super) fn stop(&mut self, machine: usize, volume: usize, kill: bool) {
        let agents = self.machines[machine].agents;
        if let Some(agent) = self.machines[machine].agent.as_mut() {
            agent.work[volume] = None;
        }
        let mut id = 0;
        if let Some(array) = self.machines[machine].arrays[volume].as_mut() {
            array.stopping = true;
            array.users += 1;
            id = array.id;
            if kill {
                array.forget_waiting();
            }
        }
        self.tell(|_| format!("node-{} stops volume-{}", machine + 1, volume + 1));
        // Now and then an array hangs: the node is reset for it.
        if id != 0 && self.random.u8(..) < 3 {
            return;
        }
        let delay = self.random.u64(1..25) * MS;
        self.post(delay, Event::Stop(machine, volume, agents, id, 0));
    }

    /// The legs that are in sync, as a machine knows.
    fn in_sync_here(&self, machine: usize, volume: usize) -> BTreeSet<LegRef> {
        let ledger = self.sees(machine);
        ledger.volumes.get(&volume_id(volume)).map(Volume::named_in_sync).unwrap_or_default()
    }

    pub(super) fn stopping(&mut self, machine: usize, volume: usize, agents: u32, id: u32, tries: u32) {
        if self.machines[machine].agents != agents {
            return;
        }
        let Some(agent) = self.machines[machine].agent.as_ref() else { return };
        let Stage::Stopping { epoch, .. } = agent.owners[volume].stage() else { return };
        let epoch = *epoch;
        let array = self.machines[machine].arrays[volume].as_ref().filter(|array| array.id == id);
        let Some(array) = array else {
            let flushed = BTreeSet::new();
            return self.tell_owner(machine, volume, owner::Event::Stopped { epoch, flushed });
        };
        let drained = array.writes.is_empty() && array.unmapped.is_empty();
        if !drained && tries < DRAIN_TRIES {
            self.post(10 * MS, Event::Stop(machine, volume, agents, id, tries + 1));
            return;
        }
        let key = |incarnation| Key { epoch: array.epoch, incarnation };
        let takes = |(leg, member): (&u16, &Member)| {
            !member.failed && self.reaches(machine, volume, *leg, key(member.inc))
        };
        let named = |(leg, member): (&u16, &Member)| LegRef { id: LegId(*leg), incarnation: member.inc };
        // Those that are in sync as it knows; none, if what users wrote is not through.
        let in_sync = self.in_sync_here(machine, volume);
        let have_taken = array.members.iter().filter(|(leg, member)| drained && takes((leg, member)));
        let flushed: BTreeSet<LegRef> = have_taken.map(named).filter(|leg| in_sync.contains(leg)).collect();
        for leg in &flushed {
            let disk = self.disk(volume, leg.id.0);
            disk.durable = disk.value;
        }
        self.end_array(machine, volume);
        self.tell_owner(machine, volume, owner::Event::Stopped { epoch, flushed });
    }
}
