//! The owner's gates: paths that are lost and come back, what is seen of a leg from afar, bits that md clears.
//!
//! Two things are the engine's that the recipe does not have yet, and that a sound cluster needs (docs/sim.md): the owner's own leg has a gate, too,
//! and a path that was lost comes back only when its target has shut what was before and nothing of it is in flight.

use super::md::Member;
use super::target::chunk_of;
use super::{CHUNKS, Io, MS, World, volume_id};
use crate::bugs::Broken;
use crate::schedule::Plane;
use control::LegRef;
use control::owner;
use control::target::Key;
use model::{Incarnation, LegId};

/// A path is given up when an I/O on it is older than this (`queue/io_timeout`).
const IO_TIMEOUT: u64 = 1_000 * MS;
/// The same of an idle one, from keep-alives.
const KEEP_ALIVE: u64 = 2_600 * MS;
/// How often a lost path is tried.
const RETRY: u64 = 300 * MS;
/// A bit is cleared when its chunk has not been written for so long.
const IDLE: u64 = 1_500 * MS;

impl World {
    /// Whether the connection that an I/O was sent on is still there at the owner's side.
    pub(super) fn is_connected(&self, io: &Io) -> bool {
        let array = self.machines[io.from].arrays[io.volume].as_ref().filter(|array| array.id == io.array);
        array
            .and_then(|array| array.members.get(&io.leg))
            .is_some_and(|member| member.conn == io.conn && member.path)
    }

    pub(crate) fn path_lost(&mut self, machine: usize, volume: usize, leg: u16) {
        let retry_at = self.now + 100 * MS;
        let Some(member) = self.array(machine, volume).and_then(|array| array.members.get_mut(&leg)) else {
            return;
        };
        if !member.path {
            return;
        }
        (member.path, member.conn, member.retry_at) = (false, member.conn + 1, retry_at);
        member.unreached_since = None;
        member.ios.iter_mut().for_each(|own| own.sent_at = None);
        self.tell(|_| format!("node-{}: leg-{leg} of volume-{} has no path", machine + 1, volume + 1));
        if self.bug == Some(Broken::GateTimesOut) {
            let inc =
                self.array(machine, volume).and_then(|array| array.members.get(&leg)).map(|found| found.inc);
            if let Some(incarnation) = inc {
                self.let_go(machine, volume, LegRef { id: LegId(leg), incarnation });
            }
        }
        self.tell_owner(machine, volume, owner::Event::GateLost(LegId(leg)));
    }

    /// The drive under the owner's own legs is gone: their gates queue.
    pub(super) fn own_paths_lost(&mut self, drive: usize) {
        let machine = self.drives[drive].node;
        for volume in 0..self.disks.len() {
            let on_it = |(leg, disk): (&u16, &super::target::Disk)| (disk.drive == drive).then_some(*leg);
            for leg in self.disks[volume].iter().filter_map(on_it).collect::<Vec<_>>() {
                self.path_lost(machine, volume, leg);
            }
        }
    }

    pub(super) fn path_back(&mut self, machine: usize, volume: usize, leg: u16) {
        if let Some(conn) =
            self.array(machine, volume).and_then(|a| a.members.get(&leg)).map(|found| found.conn)
        {
            self.disk(volume, leg).conn_min = conn;
        }
        let Some(member) = self.array(machine, volume).and_then(|array| array.members.get_mut(&leg)) else {
            return;
        };
        member.path = true;
        let ios: Vec<u32> = member.ios.iter().map(|own| own.id).collect();
        for id in ios {
            self.submit(machine, volume, leg, id);
        }
        self.tell_owner(machine, volume, owner::Event::GateBack(LegId(leg)));
    }

    /// Keep-alives, timeouts, reconnects; bits that are cleared; barriers.
    pub(super) fn kernel_tick(&mut self, machine: usize) {
        for volume in 0..self.truths.len() {
            let Some(array) = &self.machines[machine].arrays[volume] else { continue };
            let epoch = array.epoch;
            let own = |member: &Member| member.home == machine && member.path;
            let gated = array.members.iter().filter(|(_, member)| !own(member) && !member.failed);
            let legs: Vec<(u16, Incarnation)> = gated.map(|(leg, member)| (*leg, member.inc)).collect();
            for (leg, inc) in legs {
                self.gate_tick(machine, volume, leg, Key { epoch, incarnation: inc });
            }
            self.clear_bits(machine, volume);
        }
        self.barriers(machine);
    }

    fn gate_tick(&mut self, machine: usize, volume: usize, leg: u16, key: Key) {
        let disk = self.disks[volume].get(&leg);
        let given =
            disk.is_some_and(|disk| disk.given == Some((key, machine)) && self.drives[disk.drive].present);
        let home = self.home(volume, leg);
        let there = self.machines[home].power && self.machines[home].frozen == 0;
        let to = self.passes(Plane::Storage, machine, home);
        let wired = to && self.passes(Plane::Storage, home, machine);
        // The agents see to it that the target unlinks the leg, waits for its barrier, and links it again.
        let bounced = self.bounced(machine, volume, leg);
        let now = self.now;
        let Some(member) = self.array(machine, volume).and_then(|array| array.members.get_mut(&leg)) else {
            return;
        };
        if !member.path {
            if now >= member.retry_at {
                member.retry_at = now + RETRY;
                if given && there && wired && bounced {
                    self.path_back(machine, volume, leg);
                }
            }
            return;
        }
        let oldest = member.ios.iter().filter_map(|own| own.sent_at).min();
        let late = oldest.is_some_and(|sent| now > sent + IO_TIMEOUT);
        // A machine that lives refuses what it no longer gives out.
        let refused = there && wired && !given;
        let unreached = !there || !wired;
        member.unreached_since = if unreached { member.unreached_since.or(Some(now)) } else { None };
        let silent = member.unreached_since.is_some_and(|since| now > since + KEEP_ALIVE);
        if late || refused || silent {
            self.path_lost(machine, volume, leg);
        }
    }

    /// md clears the bits of chunks that have been idle, if no leg is missing.
    fn clear_bits(&mut self, machine: usize, volume: usize) {
        let now = self.now;
        // An array has no place for a leg that was never added to it.
        let has_place = |leg: &&control::state::Leg| leg.held_all && leg.replaces.is_none();
        let ledger = self.sees(machine);
        let legs = ledger
            .volumes
            .get(&volume_id(volume))
            .map_or(0, |found| found.legs.values().filter(has_place).count());
        let Some(array) = self.machines[machine].arrays[volume].as_mut() else { return };
        let whole = array.members.values().filter(|m| !m.failed && !m.recovering && m.path).count() >= legs;
        if !whole || array.stopping {
            return;
        }
        let mut cleared = 0u8;
        for at in 0..CHUNKS {
            let busy = array.writes.iter().any(|write| chunk_of(write.block.into()) == at);
            let chunk = &mut array.chunks[at];
            if chunk.set && !busy && now > chunk.touched + IDLE {
                chunk.set = false;
                cleared |= 1 << at;
            }
        }
        if cleared == 0 {
            return;
        }
        let members: Vec<(u16, Incarnation)> = array.members.iter().map(|(leg, m)| (*leg, m.inc)).collect();
        let epoch = array.epoch;
        for (leg, incarnation) in members {
            let reached = self.reaches(machine, volume, leg, Key { epoch, incarnation })
                || self.home(volume, leg) == machine;
            if reached {
                self.disk(volume, leg).bits &= !cleared;
            }
        }
    }

    /// Whether a machine can read and write a leg that it has been given under a key.
    pub(crate) fn reaches(&self, machine: usize, volume: usize, leg: u16, key: Key) -> bool {
        let Some(disk) = self.disks[volume].get(&leg) else { return false };
        let drive = &self.drives[disk.drive];
        let home = &self.machines[drive.node];
        let there = drive.node == machine || (home.power && home.frozen == 0);
        let wired = self.passes(Plane::Storage, machine, drive.node)
            && self.passes(Plane::Storage, drive.node, machine);
        drive.present && there && wired && disk.given == Some((key, machine))
    }
}
