//! The owner's kernel: an array of a volume's legs, their gates, its users.
//!
//! md's own holding back is leaky, as measured: the write that makes a leg `faulty` is held until it is answered; those that are in flight to
//! a leg which is already faulty are acknowledged without that leg, and so are those whose bitmap update failed first; one answer
//! (`active`) lets all go (rule 3). It forgets bits that it loads (rule 8). A gate queues what has no path, and fails it only when told.
//! Its quiesce before a copy counts a write that failed on a leg and is held as ended (raid1.c 6.1, `freeze_array`), and only when a write ends is its
//! chunk one that the leg which came meanwhile lacks: the copy passes over what it does not know of.

use super::target::chunk_of;
use super::{CHUNKS, Event, Io, IoKind, MS, Value, World, node_index, volume_id};
use crate::schedule::Plane;
use control::LegRef;
use control::owner::{self, Gate, Held, LegLook, Look, Standing, Up};
use control::rebuild::Progress;
use control::state::{Base, Reach};
use control::target::Key;
use model::{Epoch, Incarnation, LegId, MapSequence};
use std::collections::{BTreeMap, BTreeSet};

/// An array.
#[derive(Debug)]
pub(crate) struct Array {
    pub(crate) id: u32,
    pub(crate) epoch: Epoch,
    pub(crate) maps: MapSequence,
    pub(crate) admitted: bool,
    /// What its users have.
    pub(crate) reach: Reach,
    /// What they are to have, once nothing of theirs is in flight: what comes meanwhile waits (a suspend of device-mapper).
    pub(crate) extending: Option<Reach>,
    pub(crate) stopping: bool,
    /// Grows when users come or go.
    pub(crate) users: u32,
    pub(crate) members: BTreeMap<u16, Member>,
    pub(crate) writes: Vec<Write>,
    /// Those to extents without a place.
    pub(crate) unmapped: Vec<Write>,
    pub(crate) chunks: [Chunk; CHUNKS],
    pub(crate) recover: Option<Recover>,
}

/// A leg in it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) inc: Incarnation,
    pub(crate) home: usize,
    /// `faulty`.
    pub(crate) failed: bool,
    /// Not in sync by md yet.
    pub(crate) recovering: bool,
    pub(crate) path: bool,
    pub(super) conn: u32,
    pub(super) unreached_since: Option<u64>,
    pub(super) retry_at: u64,
    pub(super) ios: Vec<OwnIo>,
}

#[derive(Debug)]
pub(super) struct OwnIo {
    pub(super) id: u32,
    kind: IoKind,
    /// `None`: its gate has it.
    pub(super) sent_at: Option<u64>,
}

/// A chunk's bit in memory.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Chunk {
    pub(super) set: bool,
    /// The legs on which it is being written.
    setting: u32,
    pub(super) touched: u64,
}

/// A user's write.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) value: Value,
    /// The block that the user writes.
    pub(crate) user: u8,
    /// Where that is in the array.
    pub(crate) block: u8,
    pub(super) slot: u8,
    pub(super) stage: Stage,
    /// Legs that there were when it began: it goes to no others.
    pub(super) legs: u32,
    /// Legs that have not answered.
    pub(super) pending: u32,
    /// In-sync legs that have done it.
    pub(super) done: u32,
    /// Legs that failed it, and md waits for an answer.
    pub(super) held: u32,
    /// Legs without which md goes on by itself.
    pub(crate) leaked: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    Bit,
    Data,
}

/// A rebuild.
#[derive(Debug)]
pub(crate) struct Recover {
    pub(crate) leg: LegRef,
    /// Chunks that are known to be missing on the leg.
    pub(crate) todo: u8,
    pub(crate) total: u8,
    /// Chunks before this one are copied or passed over.
    pub(crate) next: usize,
    /// The chunk that is being copied, and how many of its blocks are not there.
    pub(crate) copying: Option<(usize, u32)>,
    pub(crate) flushing: bool,
    pub(crate) flushed: bool,
    /// Legs could not all be read: it is to begin.
    pub(crate) base: Option<Base>,
    /// Nothing is begun until what was begun before the leg came has ended, or has failed on another leg and is held (`md_do_sync`).
    pub(crate) quiesces: bool,
    pub(crate) hold: Hold,
}

/// What keeps a copy from its first chunk (`sync_max`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nothing.
    None,
    /// The engine waits until md is quiet, not longer than this; these legs were in sync when it was planned.
    Awaits { sound: u32, until: u64 },
    /// The engine's wait has failed: the rebuild is begun anew.
    Failed,
}

impl Recover {
    pub(crate) fn new(leg: LegRef, base: Option<Base>) -> Self {
        let (todo, total, next, copying) = (0, 0, 0, None);
        let (flushing, flushed, quiesces, hold) = (false, false, false, Hold::None);
        Self { leg, todo, total, next, copying, flushing, flushed, base, quiesces, hold }
    }
}

pub(crate) fn bit(leg: u16) -> u32 {
    1 << leg
}

impl Member {
    pub(crate) fn new(inc: Incarnation, home: usize) -> Self {
        let (failed, recovering, path, conn) = (false, false, true, 0);
        Self {
            inc,
            home,
            failed,
            recovering,
            path,
            conn,
            unreached_since: None,
            retry_at: 0,
            ios: Vec::new(),
        }
    }
}

impl Array {
    pub(crate) fn new(id: u32, epoch: Epoch, maps: MapSequence, members: BTreeMap<u16, Member>) -> Self {
        let (admitted, stopping, users, reach, extending) = (false, false, 0, Reach::default(), None);
        let (writes, unmapped, chunks, recover) = (Vec::new(), Vec::new(), [Chunk::default(); CHUNKS], None);
        Self {
            id,
            epoch,
            maps,
            admitted,
            reach,
            extending,
            stopping,
            users,
            members,
            writes,
            unmapped,
            chunks,
            recover,
        }
    }

    /// What `state` and `array_state` say.
    pub(crate) fn looks(&self) -> Look {
        let look = |member: &Member| if member.failed { LegLook::Failed } else { LegLook::Fine };
        let legs = self.members.iter().map(|(leg, member)| (LegId(*leg), look(member))).collect();
        Look { waits: self.writes.iter().any(|write| write.held != 0), legs }
    }

    /// What an agent makes of it that starts and finds it.
    pub(crate) fn adopted(&self, now: control::Moment) -> Up {
        let held = |(leg, member): (&u16, &Member)| {
            let gate = if member.path { Gate::Path } else { Gate::NoPath { since: now } };
            let node = model::NodeId(member.home as u32 + 1);
            (LegId(*leg), Held { incarnation: member.inc, node, gate, standing: Standing::In })
        };
        let rebuild = self.recover.as_ref().map(|recover| owner::Rebuild {
            leg: recover.leg,
            progress: Progress::begun(now),
            done: recover.flushed.then_some(self.maps),
        });
        let legs = self.members.iter().map(held).collect();
        let (admitted, reach) = (self.admitted, self.reach);
        Up { admitted, reach, legs, rebuild, ..Up::bare(self.epoch, self.maps) }
    }

    fn is_blocked(&self) -> bool {
        self.members.values().any(|member| member.failed)
    }

    /// Whether writes that wait have to go on waiting.
    fn begins_nothing(&self) -> bool {
        self.is_blocked()
            || self.extending.is_some()
            || self.recover.as_ref().is_some_and(|recover| recover.quiesces)
    }

    /// Killed users write no more.
    pub(crate) fn forget_waiting(&mut self) {
        self.writes.retain(|write| write.stage != Stage::Waiting);
        self.unmapped.clear();
    }

    /// By `freeze_array`: what waits for nothing but an answer to md does not count.
    pub(crate) fn is_quiet(&self) -> bool {
        let waits =
            |write: &Write| write.stage == Stage::Bit || (write.stage == Stage::Data && write.pending != 0);
        !self.writes.iter().any(waits)
    }

    /// Legs in sync that have not failed.
    pub(crate) fn sound(&self) -> u32 {
        let sound = self.members.iter().filter(|(_, member)| !member.failed && !member.recovering);
        sound.map(|(leg, _)| bit(*leg)).sum()
    }

    /// Bits in memory, those included that are not on disk yet.
    pub(super) fn bits(&self) -> u8 {
        let marked = |at: &usize| self.chunks[*at].set || self.chunks[*at].setting != 0;
        (0..CHUNKS).filter(marked).fold(0, |bits, at| bits | 1 << at)
    }

    fn legs(&self) -> u32 {
        self.members.keys().map(|leg| bit(*leg)).sum()
    }

    /// A write has ended: now md knows that its chunk is missing on a leg that came after it began (`md_bitmap_endwrite`). A copy does not turn back for it.
    fn ended(&mut self, write: &Write) {
        let Some(recover) = self.recover.as_mut() else { return };
        let chunk = chunk_of(write.block.into());
        if write.legs & bit(recover.leg.id.0) == 0 && chunk >= recover.next {
            recover.todo |= 1 << chunk;
            recover.total |= 1 << chunk;
        }
    }

    /// Whether a chunk may not be copied now.
    pub(crate) fn writes_to(&self, chunk: usize) -> bool {
        let busy = |write: &Write| write.stage != Stage::Waiting && chunk_of(write.block.into()) == chunk;
        self.writes.iter().any(busy)
    }
}

impl World {
    pub(super) fn array(&mut self, machine: usize, volume: usize) -> Option<&mut Array> {
        self.machines[machine].arrays[volume].as_mut()
    }

    /// Begins what waits and need not any more.
    pub(crate) fn pump(&mut self, machine: usize, volume: usize) {
        let now = self.now;
        loop {
            let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
            if array.begins_nothing() {
                return;
            }
            let copying = array.recover.as_ref().and_then(|recover| recover.copying).map(|(chunk, _)| chunk);
            let may = |write: &&mut Write| {
                write.stage == Stage::Waiting && copying != Some(chunk_of(write.block.into()))
            };
            let legs = array.legs();
            let Some(write) = array.writes.iter_mut().find(may) else { return };
            let at = chunk_of(write.block.into());
            let chunk = &mut array.chunks[at];
            chunk.touched = now;
            if chunk.set {
                self.send_data(machine, volume, at);
                continue;
            }
            (write.stage, write.legs) = (Stage::Bit, legs);
            if chunk.setting == 0 {
                let legs: Vec<u16> = array.members.keys().copied().collect();
                chunk.setting = legs.iter().map(|leg| bit(*leg)).sum();
                for leg in legs {
                    self.send(machine, volume, leg, IoKind::Bit(at as u8));
                }
            }
        }
    }

    /// A chunk's bit is on disk: its data may be written.
    fn send_data(&mut self, machine: usize, volume: usize, chunk: usize) {
        let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
        let copying = array.recover.as_ref().and_then(|recover| recover.copying).map(|(chunk, _)| chunk);
        let legs: Vec<(u16, bool)> =
            array.members.iter().map(|(leg, member)| (*leg, member.failed)).collect();
        let (blocked, now_there) = (array.begins_nothing(), array.legs());
        let mut sends = Vec::new();
        for write in array.writes.iter_mut().filter(|write| chunk_of(write.block.into()) == chunk) {
            let goes = write.stage == Stage::Bit
                || (write.stage == Stage::Waiting && !blocked && copying != Some(chunk));
            if !goes {
                continue;
            }
            if write.stage == Stage::Waiting {
                write.legs = now_there;
            }
            write.stage = Stage::Data;
            for (leg, failed) in legs.iter().filter(|(leg, _)| write.legs & bit(*leg) != 0) {
                if *failed {
                    write.leaked |= bit(*leg);
                } else {
                    write.pending |= bit(*leg);
                    sends.push((*leg, IoKind::Data(write.block, write.value)));
                }
            }
        }
        for (leg, kind) in sends {
            self.send(machine, volume, leg, kind);
        }
        self.acknowledge(machine, volume);
    }

    /// Gives an I/O to a leg's gate, or to the local drive.
    pub(crate) fn send(&mut self, machine: usize, volume: usize, leg: u16, kind: IoKind) {
        self.uid += 1;
        let id = self.uid;
        let Some(member) = self.array(machine, volume).and_then(|array| array.members.get_mut(&leg)) else {
            return;
        };
        member.ios.push(OwnIo { id, kind, sent_at: None });
        if member.path {
            self.submit(machine, volume, leg, id);
        }
    }

    pub(super) fn submit(&mut self, machine: usize, volume: usize, leg: u16, id: u32) {
        self.uid += 1;
        let (uid, now) = (self.uid, self.now);
        let Some(array) = self.array(machine, volume) else { return };
        let (array_id, epoch) = (array.id, array.epoch);
        let Some(member) = array.members.get_mut(&leg) else { return };
        let key = Key { epoch, incarnation: member.inc };
        let (conn, to) = (member.conn, member.home);
        let Some(own) = member.ios.iter_mut().find(|own| own.id == id) else { return };
        own.sent_at = Some(now);
        let kind = own.kind;
        let io = Io { volume, leg, from: machine, array: array_id, conn, to, key, uid, id, kind };
        if to == machine {
            return self.arrive(io);
        }
        let delay = 40 + self.random.u64(..120);
        self.post(delay, Event::Arrive(io));
    }

    pub(super) fn answer(&mut self, io: Io, ok: bool) {
        if !self.machines[io.from].power {
            return;
        }
        if io.from != io.to {
            if !self.is_connected(&io) {
                return;
            }
            if !self.passes(Plane::Storage, io.to, io.from) {
                self.post(20 * MS, Event::Answer(io, ok));
                return;
            }
        }
        let array = self.machines[io.from].arrays[io.volume].as_mut().filter(|array| array.id == io.array);
        let Some(member) = array.and_then(|array| array.members.get_mut(&io.leg)) else { return };
        let Some(at) = member.ios.iter().position(|own| own.id == io.id) else { return };
        member.ios.swap_remove(at);
        self.io_done(io.from, io.volume, io.leg, io.kind, ok);
        self.acknowledge(io.from, io.volume);
    }

    /// An I/O of a leg has been done, or has failed.
    fn io_done(&mut self, machine: usize, volume: usize, leg: u16, kind: IoKind, ok: bool) {
        let first = !ok && self.fails(machine, volume, leg);
        let Some(array) = self.array(machine, volume) else { return };
        let Some(member) = array.members.get(&leg) else { return };
        let counts = !member.failed && !member.recovering;
        match kind {
            IoKind::Bit(chunk) => {
                let at = usize::from(chunk);
                let chunk = &mut array.chunks[at];
                let waited = chunk.setting & bit(leg) != 0;
                chunk.setting &= !bit(leg);
                if waited && chunk.setting == 0 {
                    chunk.set = true;
                    self.send_data(machine, volume, at);
                }
            }
            IoKind::Data(_, value) => {
                let Some(write) = array.writes.iter_mut().find(|write| write.value == value) else { return };
                write.pending &= !bit(leg);
                if ok && counts {
                    write.done |= bit(leg);
                } else if first {
                    write.held |= bit(leg);
                } else if !ok {
                    write.leaked |= bit(leg);
                }
            }
            IoKind::Copy(..) => self.copied(machine, volume, leg, ok),
            IoKind::Flush => self.rebuild_flushed(machine, volume, leg, ok),
        }
    }

    /// A leg becomes `faulty`, if it is not: whether it was this that made it so.
    fn fails(&mut self, machine: usize, volume: usize, leg: u16) -> bool {
        let Some(member) = self.array(machine, volume).and_then(|array| array.members.get_mut(&leg)) else {
            return false;
        };
        if member.failed {
            return false;
        }
        member.failed = true;
        self.tell(|_| format!("node-{}: leg-{leg} of volume-{} is faulty", machine + 1, volume + 1));
        self.tell_owner(machine, volume, owner::Event::Stirred);
        true
    }

    /// Writes that nothing holds are acknowledged, or have failed on every leg.
    pub(super) fn acknowledge(&mut self, machine: usize, volume: usize) {
        loop {
            let Some(array) = self.array(machine, volume) else { return };
            let over = |write: &Write| write.stage == Stage::Data && write.pending == 0 && write.held == 0;
            let Some(at) = array.writes.iter().position(over) else { return self.extended(machine, volume) };
            let write = array.writes.swap_remove(at);
            array.ended(&write);
            let (id, users) = (array.id, array.users);
            // On no leg that was in sync all the while: its user gets an error. It may have happened or not, and the user goes on.
            if write.done == 0 {
                self.tell(|_| format!("a write to volume-{} on node-{} fails", volume + 1, machine + 1));
            } else {
                self.acknowledged(machine, volume, &write);
            }
            let think = self.think();
            self.post(think, Event::User(machine, volume, id, users, write.slot));
        }
    }

    /// The gate fails what it holds, now and from now on.
    pub(super) fn let_go(&mut self, machine: usize, volume: usize, leg: LegRef) {
        let leg_at = leg.id.0;
        let Some(member) = self.array(machine, volume).and_then(|array| array.members.get_mut(&leg_at))
        else {
            return;
        };
        if member.inc != leg.incarnation {
            return;
        }
        member.conn += 1;
        let ios = std::mem::take(&mut member.ios);
        if ios.is_empty() {
            self.fails(machine, volume, leg_at);
        }
        for own in ios {
            self.io_done(machine, volume, leg_at, own.kind, false);
        }
        self.acknowledge(machine, volume);
    }

    /// `-blocked` for these legs, and `active` when no other has failed.
    pub(super) fn release(&mut self, machine: usize, volume: usize, legs: &BTreeSet<LegRef>) {
        let Some(array) = self.array(machine, volume) else { return };
        for leg in legs {
            let is = |member: &Member| member.failed && member.inc == leg.incarnation;
            if !array.members.get(&leg.id.0).is_some_and(is) {
                continue;
            }
            array.members.remove(&leg.id.0);
            for chunk in &mut array.chunks {
                chunk.setting &= !bit(leg.id.0);
            }
            for write in &mut array.writes {
                write.pending &= !bit(leg.id.0);
            }
            if array.recover.as_ref().is_some_and(|recover| recover.leg == *leg) {
                array.recover = None;
            }
        }
        if !array.is_blocked() {
            array.writes.iter_mut().for_each(|write| write.held = 0);
        }
        let stuck: Vec<usize> = (0..CHUNKS)
            .filter(|at| {
                let chunk = &array.chunks[*at];
                let waits = |write: &Write| write.stage == Stage::Bit && chunk_of(write.block.into()) == *at;
                chunk.setting == 0 && array.writes.iter().any(waits)
            })
            .collect();
        for chunk in stuck {
            if let Some(array) = self.array(machine, volume) {
                array.chunks[chunk].set = true;
            }
            self.send_data(machine, volume, chunk);
        }
        self.acknowledge(machine, volume);
        self.pump(machine, volume);
        self.barriers(machine);
        self.judge_writers(volume);
    }

    pub(super) fn repoint(&mut self, machine: usize, volume: usize, leg: LegRef) {
        if let Some(member) = self.array(machine, volume).and_then(|array| array.members.get_mut(&leg.id.0)) {
            member.inc = leg.incarnation;
            if member.home != machine {
                self.path_lost(machine, volume, leg.id.0);
            }
        }
        self.barriers(machine);
    }

    /// An array is gone: with its agent's machine, or because its target stopped it.
    pub(crate) fn end_array(&mut self, machine: usize, volume: usize) {
        self.machines[machine].arrays[volume] = None;
        if let Some(agent) = self.machines[machine].agent.as_mut() {
            agent.orders[volume].clear();
        }
        self.barriers(machine);
    }

    /// A leg joins an array, to be brought up to date.
    pub(super) fn rebuild(&mut self, machine: usize, volume: usize, leg: LegRef, home: usize, base: Base) {
        let Some(array) = self.array(machine, volume) else { return };
        let mut member = Member::new(leg.incarnation, home);
        member.recovering = true;
        array.members.insert(leg.id.0, member);
        array.recover = None;
        self.begin_rebuild(machine, volume, leg, base);
    }

    pub(super) fn epoch_of(&self, machine: usize, volume: usize) -> Option<Epoch> {
        self.machines[machine].arrays[volume].as_ref().map(|array| array.epoch)
    }

    /// A rebuild's union of bits, in memory.
    pub(super) fn set_chunks(&mut self, machine: usize, volume: usize, bits: u8) {
        let now = self.now;
        let Some(array) = self.array(machine, volume) else { return };
        for at in (0..CHUNKS).filter(|at| bits & (1 << at) != 0) {
            array.chunks[at].set = true;
            array.chunks[at].touched = now;
        }
    }

    /// Where a machine's node is in the ledger's words.
    pub(super) fn owner_at(&self, volume: usize) -> Option<usize> {
        self.ledger().volumes.get(&volume_id(volume)).map(|found| node_index(found.owner))
    }
}
