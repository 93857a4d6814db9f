//! The target's kernel and the drives: exports, barriers, caches.
//!
//! Leaky where the real ones are: what is in a target when its links are removed is still done (rule 5), what a stalled drive was given it does
//! late (rule 3), and a volatile cache forgets (rule 10).

use super::{BLOCKS, CHUNK, Event, Io, IoKind, MS, Value, World, volume_id};
use crate::bugs::Broken;
use crate::schedule::Plane;
use control::target::{self, Key, LegOf};
use model::{DriveId, Extent, LegId, NodeId, PowerCycles};
use std::collections::BTreeMap;

/// A target takes a leg back whose oldest I/O is older than this: sooner than an owner gives a path up.
const STALL: u64 = 700 * MS;

/// A drive.
#[derive(Debug, Clone)]
pub(crate) struct DriveSim {
    pub(crate) id: DriveId,
    pub(crate) node: usize,
    pub(crate) volatile: bool,
    pub(crate) present: bool,
    pub(crate) power_cycles: u32,
    /// So many writes will fail.
    pub(crate) to_fail: u32,
    /// By its own count, as the error log has it.
    pub(crate) errors: u32,
    pub(crate) stalls_until: u64,
}

/// A leg: what is on the drive, and what the target's kernel has of it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) drive: usize,
    /// Whether it is a thin volume's.
    pub(crate) thin: bool,
    /// The slabs there that its device has.
    pub(crate) extents: Vec<Extent>,
    /// Whether its slabs have been filled with zeros: its first fence does that.
    made: bool,
    /// How many of them its device maps; behind them it swallows what is written.
    pub(crate) mapped: u64,
    pub(crate) value: [Value; BLOCKS],
    /// What is left when a volatile cache loses its power.
    pub(crate) durable: [Value; BLOCKS],
    /// The write-intent bitmap; never in the cache.
    pub(crate) bits: u8,
    /// What stale legs have missed, and the sequence of that.
    pub(crate) maps: (model::MapSequence, BTreeMap<u16, u8>),
    pub(crate) given: Option<(Key, usize)>,
    pub(crate) fencing: Option<Key>,
    /// The drive's errors when the leg was given out.
    pub(crate) errors_then: u32,
    /// Sockets of earlier connections are shut.
    pub(crate) conn_min: u32,
    in_flight: Vec<(u32, u64)>,
}

impl Disk {
    pub(crate) fn new(drive: usize, extents: Vec<Extent>, thin: bool) -> Self {
        let mapped = extents.iter().map(|extent| extent.count).sum();
        let bare = Self::bare(drive, thin, mapped, extents);
        let value = Self::content(bare.blocks());
        Self { value, durable: value, ..bare }
    }

    fn bare(drive: usize, thin: bool, mapped: u64, extents: Vec<Extent>) -> Self {
        let value = [0; BLOCKS];
        Self {
            drive,
            thin,
            extents,
            made: false,
            mapped,
            value,
            durable: value,
            bits: 0,
            maps: (model::MapSequence(0), BTreeMap::new()),
            given: None,
            fencing: None,
            errors_then: 0,
            conn_min: 0,
            in_flight: Vec::new(),
        }
    }
}

impl World {
    pub(crate) fn disk(&mut self, volume: usize, leg: u16) -> &mut Disk {
        self.disks[volume].entry(leg).or_insert_with(|| Disk::new(0, Vec::new(), false))
    }

    /// The machine that a leg is in.
    pub(crate) fn home(&self, volume: usize, leg: u16) -> usize {
        self.disks[volume].get(&leg).map_or(0, |disk| self.drives[disk.drive].node)
    }

    /// Whether something of a leg may still be written: it is given out, has I/O in flight, or is in an array of its own node.
    pub(crate) fn stands(&self, volume: usize, leg: u16) -> bool {
        let home = self.home(volume, leg);
        let local = self.machines[home].arrays[volume].as_ref().and_then(|array| array.members.get(&leg));
        let held = local.is_some_and(|member| !member.failed && member.path);
        self.disks[volume]
            .get(&leg)
            .is_some_and(|disk| held || disk.given.is_some() || !disk.in_flight.is_empty())
    }

    /// Whether the drive has counted errors since a leg on it was given out.
    pub(crate) fn errored(&self, volume: usize, leg: u16) -> bool {
        self.disks[volume].get(&leg).is_some_and(|disk| self.drives[disk.drive].errors > disk.errors_then)
    }

    /// An I/O gets to the target's kernel; a local one to the drive's.
    pub(super) fn arrive(&mut self, io: Io) {
        if io.from != io.to {
            if !self.machines[io.to].power {
                return;
            }
            // Nothing acknowledges what is on a cut wire: it is sent again while the connection lasts.
            if !self.passes(Plane::Storage, io.from, io.to) {
                if self.is_connected(&io) {
                    self.post(20 * MS, Event::Arrive(io));
                }
                return;
            }
            let Some(disk) = self.disks[io.volume].get(&io.leg) else { return };
            let shut = io.conn < disk.conn_min && self.bug != Some(Broken::PathBackAtOnce);
            if disk.given != Some((io.key, io.from)) || shut {
                return;
            }
        }
        let now = self.now;
        let (drive, stalls) = {
            let disk = self.disk(io.volume, io.leg);
            disk.in_flight.push((io.uid, now));
            (disk.drive, self.drives[self.disks[io.volume][&io.leg].drive].stalls_until)
        };
        let _ = drive;
        let takes = 60 + self.random.u64(..350);
        let stuck = stalls > now && self.random.u8(..) < 90;
        self.post(if stuck { stalls - now + takes } else { takes }, Event::Land(io));
    }

    pub(super) fn land(&mut self, io: Io) {
        let Some(disk) = self.disks[io.volume].get_mut(&io.leg) else { return };
        let Some(at) = disk.in_flight.iter().position(|(uid, _)| *uid == io.uid) else { return };
        disk.in_flight.swap_remove(at);
        let drive = &mut self.drives[disk.drive];
        if !drive.present {
            // A target's namespace is gone, and with it the connection; a gate has what was on the way. Without one, md hears of it.
            if io.from == io.to && self.bug == Some(Broken::UngatedOwnLeg) {
                self.post(10, Event::Answer(io, false));
            }
            return;
        }
        let writes = io.kind != IoKind::Flush;
        if writes && drive.to_fail > 0 {
            drive.to_fail -= 1;
            drive.errors += 1;
            self.tell(|_| format!("a write to leg-{} of volume-{} fails", io.leg, io.volume + 1));
            self.answer_soon(io, false);
            self.barrier(io.volume, io.leg);
            return;
        }
        match io.kind {
            IoKind::Bit(chunk) => disk.bits |= 1 << chunk,
            IoKind::Data(block, value) | IoKind::Copy(block, value) => {
                let at = usize::from(block);
                if at < disk.blocks() {
                    disk.value[at] = value;
                    if !drive.volatile {
                        disk.durable[at] = value;
                    }
                }
                self.judge_block(io.volume, io.leg, at);
            }
            IoKind::Flush => disk.durable = disk.value,
        }
        self.answer_soon(io, true);
        self.barrier(io.volume, io.leg);
    }

    fn answer_soon(&mut self, io: Io, ok: bool) {
        let delay = if io.from == io.to { 5 } else { 40 + self.random.u64(..120) };
        self.post(delay, Event::Answer(io, ok));
    }

    /// Unlinks a leg from all ports, stops a local array of an older epoch, and lets the barrier begin.
    pub(super) fn fence(&mut self, machine: usize, volume: usize, leg: u16, floor: Key) {
        let older = |array: &super::md::Array| array.epoch < floor.epoch && array.members.contains_key(&leg);
        if self.machines[machine].arrays[volume].as_ref().is_some_and(older) {
            self.end_array(machine, volume);
        } else if self.bug != Some(Broken::UngatedOwnLeg) {
            // The owner's own leg, in this epoch: its gate has no path from now on.
            self.path_lost(machine, volume, leg);
        }
        let disk = self.disk(volume, leg);
        disk.given = None;
        disk.fencing = Some(floor);
        self.barrier(volume, leg);
    }

    /// The barrier is through when nothing is in flight to a leg, and no local array holds it as it was.
    pub(crate) fn barrier(&mut self, volume: usize, leg: u16) {
        let Some(disk) = self.disks[volume].get(&leg) else { return };
        let Some(floor) = disk.fencing else { return };
        let drive = &self.drives[disk.drive];
        let machine = drive.node;
        let member = self.machines[machine].arrays[volume].as_ref().and_then(|array| array.members.get(&leg));
        let held = member.is_some_and(|member| member.inc < floor.incarnation && member.path);
        let in_flight = !disk.in_flight.is_empty() && self.bug != Some(Broken::NoBarrier);
        if in_flight || held || !drive.present || !self.lives(machine) {
            return;
        }
        let errored = drive.errors > disk.errors_then;
        let disk = self.disk(volume, leg);
        disk.fencing = None;
        if !std::mem::replace(&mut disk.made, true) {
            self.judge_slabs(volume, leg);
        }
        let leg = (volume_id(volume), LegId(leg));
        self.tell_target(machine, target::Event::Fenced { leg, floor, errored });
    }

    /// Whether a leg can be reached anew: nothing of before is in flight to it. Only its target's agent can say so.
    pub(super) fn bounced(&self, machine: usize, volume: usize, leg: u16) -> bool {
        let home = self.home(volume, leg);
        let drained = self.disks[volume].get(&leg).is_some_and(|disk| disk.in_flight.is_empty());
        let asked = self.lives(home) && self.lives(machine);
        (drained && asked) || self.bug == Some(Broken::PathBackAtOnce)
    }

    pub(crate) fn barriers(&mut self, machine: usize) {
        for volume in 0..self.disks.len() {
            let waits = |(leg, disk): (&u16, &Disk)| {
                (disk.fencing.is_some() && self.drives[disk.drive].node == machine).then_some(*leg)
            };
            for leg in self.disks[volume].iter().filter_map(waits).collect::<Vec<_>>() {
                self.barrier(volume, leg);
            }
        }
    }

    pub(super) fn give_out(&mut self, machine: usize, volume: usize, leg: u16, key: Key, to: usize) {
        let drive = self.disk(volume, leg).drive;
        if !self.drives[drive].present {
            self.post(10 * MS, Event::NotGiven(machine, volume, leg));
            return;
        }
        let Some(mapped) = self.maps(machine, (volume_id(volume), LegId(leg))) else {
            return self.post(10 * MS, Event::NotGiven(machine, volume, leg));
        };
        self.has_slabs(machine, (volume_id(volume), LegId(leg)), mapped);
        let errors = self.drives[drive].errors;
        let disk = self.disk(volume, leg);
        disk.mapped = mapped;
        (disk.given, disk.errors_then, disk.conn_min) = (Some((key, to)), errors, 0);
    }

    pub(super) fn not_given(&mut self, machine: usize, volume: usize, leg: u16) {
        self.tell_target(machine, target::Event::Failed((volume_id(volume), LegId(leg))));
    }

    /// Threads that wait for a barrier end with the agent.
    pub(super) fn forget_fences(&mut self, machine: usize) {
        for disk in self.disks.iter_mut().flat_map(BTreeMap::values_mut) {
            if self.drives[disk.drive].node == machine {
                disk.fencing = None;
            }
        }
    }

    /// What configfs has, for an agent that starts.
    pub(super) fn given_by(&self, machine: usize) -> BTreeMap<LegOf, (Key, NodeId)> {
        let mut found = BTreeMap::new();
        for (volume, disks) in self.disks.iter().enumerate() {
            for (leg, disk) in disks.iter().filter(|(_, disk)| self.drives[disk.drive].node == machine) {
                if let Some((key, to)) = disk.given {
                    found.insert((volume_id(volume), LegId(*leg)), (key, self.machines[to].node));
                }
            }
        }
        found
    }

    /// Legs whose oldest I/O is too old.
    pub(super) fn stalled(&mut self, machine: usize) {
        let now = self.now;
        for volume in 0..self.disks.len() {
            let old = |(leg, disk): (&u16, &Disk)| {
                let own = self.drives[disk.drive].node == machine;
                (own && disk.in_flight.iter().any(|(_, since)| now > since + STALL)).then_some(*leg)
            };
            for leg in self.disks[volume].iter().filter_map(old).collect::<Vec<_>>() {
                self.tell_target(machine, target::Event::Stalled((volume_id(volume), LegId(leg))));
            }
        }
    }

    /// A drive reports an error by itself: a patrol read, SMART.
    pub(crate) fn drive_reports(&mut self, drive: usize) {
        let machine = self.drives[drive].node;
        for volume in 0..self.disks.len() {
            let on_it = |(leg, disk): (&u16, &Disk)| (disk.drive == drive).then_some(*leg);
            for leg in self.disks[volume].iter().filter_map(on_it).collect::<Vec<_>>() {
                self.tell_target(machine, target::Event::Errored((volume_id(volume), LegId(leg))));
            }
        }
    }

    /// What a machine's targets and drives have lost when it ends: `power`: the drives' power, too.
    pub(super) fn targets_end(&mut self, machine: usize, power: bool) {
        for disk in self.disks.iter_mut().flat_map(BTreeMap::values_mut) {
            let drive = &self.drives[disk.drive];
            if drive.node != machine {
                continue;
            }
            (disk.given, disk.fencing) = (None, None);
            disk.in_flight.clear();
            if power && drive.volatile {
                forget(disk, &mut self.random);
            }
        }
        for drive in self.drives.iter_mut().filter(|drive| power && drive.node == machine) {
            drive.power_cycles += 1;
        }
    }

    pub(crate) fn pull(&mut self, drive: usize) {
        self.drives[drive].present = false;
        let (node, volatile) = (self.drives[drive].node, self.drives[drive].volatile);
        for disk in self.disks.iter_mut().flat_map(BTreeMap::values_mut).filter(|disk| disk.drive == drive) {
            // Its node's own device stays, and is turned to the drive when that is back.
            disk.given.take_if(|(_, to)| volatile || *to != node);
        }
        if self.bug != Some(Broken::UngatedOwnLeg) {
            self.own_paths_lost(drive);
        }
    }

    pub(crate) fn put_back(&mut self, drive: usize) {
        if self.drives[drive].present {
            return;
        }
        let found = &mut self.drives[drive];
        found.present = true;
        found.power_cycles += 1;
        let (id, count, machine, volatile) = (found.id, found.power_cycles, found.node, found.volatile);
        for disk in self.disks.iter_mut().flat_map(BTreeMap::values_mut).filter(|disk| disk.drive == drive) {
            disk.in_flight.clear();
            if volatile {
                forget(disk, &mut self.random);
            }
        }
        self.tell_target(machine, target::Event::DriveReset(id, PowerCycles(count)));
    }
}

/// A volatile cache has lost its power: some of what was not flushed is gone.
fn forget(disk: &mut Disk, random: &mut fastrand::Rng) {
    for at in 0..disk.blocks() {
        if random.bool() {
            disk.value[at] = disk.durable[at];
        }
    }
    disk.durable = disk.value;
}

/// The chunk of a block.
pub(crate) fn chunk_of(block: usize) -> usize {
    block / CHUNK
}
