//! The users of a volume, who write.

use super::grow::blocks_of;
use super::md::{Stage, Write};
use super::{Event, MS, World};

/// Writes that a user keeps in flight.
const SLOTS: u8 = 4;

impl World {
    pub(super) fn admit(&mut self, machine: usize, volume: usize, bytes: u64) {
        if let Some(array) = self.array(machine, volume) {
            (array.admitted, array.bytes) = (true, bytes);
        }
        self.tell(|_| format!("users of volume-{} are let in on node-{}", volume + 1, machine + 1));
        self.users_come(machine, volume);
    }

    pub(super) fn users_come(&mut self, machine: usize, volume: usize) {
        let Some(array) = self.array(machine, volume) else { return };
        array.users += 1;
        let (id, users) = (array.id, array.users);
        for slot in 0..SLOTS {
            let think = self.think();
            self.post(think, Event::User(machine, volume, id, users, slot));
        }
        self.judge_writers(volume);
        self.judge_users(machine, volume);
    }

    /// Bursts with pauses: chunks grow cold in between.
    pub(super) fn think(&mut self) -> u64 {
        if self.random.u8(..) < 215 { self.random.u64(1..100) * MS } else { self.random.u64(300..2500) * MS }
    }

    pub(super) fn user(&mut self, machine: usize, volume: usize, id: u32, users: u32, slot: u8) {
        let has = self.array(machine, volume).map_or(0, |array| array.bytes);
        let blocks = blocks_of(has);
        let block = self.random.usize(..blocks).min(self.random.usize(..blocks));
        let paused = self.paused_until[volume].saturating_sub(self.now);
        let Some(array) = self.array(machine, volume) else { return };
        if array.id != id || array.users != users || array.stopping {
            return;
        }
        if paused > 0 {
            let pause = paused + self.random.u64(..10 * MS);
            self.post(pause, Event::User(machine, volume, id, users, slot));
            return;
        }
        let block = block as u8;
        if array.writes.iter().any(|write| write.block == block) {
            let soon = 3 * MS;
            self.post(soon, Event::User(machine, volume, id, users, slot));
            return;
        }
        let epoch = array.epoch;
        let value = self.issued(volume, block, epoch);
        let stage = Stage::Waiting;
        let write = Write { value, block, slot, stage, legs: 0, pending: 0, done: 0, held: 0, leaked: 0 };
        if let Some(array) = self.array(machine, volume) {
            array.writes.push(write);
        }
        self.pump(machine, volume);
    }
}
