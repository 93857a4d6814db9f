//! The users of a volume, who write.

use super::md::{Stage, Write};
use super::{Event, MS, World, thin, volume_id};
use control::state::Reach;

/// Writes that a user keeps in flight.
const SLOTS: u8 = 4;

impl World {
    pub(super) fn admit(&mut self, machine: usize, volume: usize, reach: Reach) {
        if let Some(array) = self.array(machine, volume) {
            (array.admitted, array.reach) = (true, reach);
        }
        self.tell(|_| format!("users of volume-{} are let in on node-{}", volume + 1, machine + 1));
        self.users_come(machine, volume);
    }

    pub(super) fn users_come(&mut self, machine: usize, volume: usize) {
        let Some(array) = self.array(machine, volume) else { return };
        array.users += 1;
        let (id, users) = (array.id, array.users);
        let slots = if self.waits_for_vm(machine, volume) { 0 } else { SLOTS };
        for slot in 0..slots {
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
        let has = self.array(machine, volume).map_or(0, |array| array.reach.size_bytes);
        let provision = self.sees(machine).volumes.get(&volume_id(volume)).map(|found| found.provision);
        let blocks = thin::user_blocks_of(provision.unwrap_or(model::Provision::Fixed), has).max(1);
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
        let user = block as u8;
        let waits = array.writes.iter().chain(&array.unmapped).any(|write| write.user == user);
        if waits || self.is_lost_to_users(machine, volume, block) {
            let soon = 3 * MS;
            self.post(soon, Event::User(machine, volume, id, users, slot));
            return;
        }
        let Some(epoch) = self.epoch_of(machine, volume) else { return };
        let value = self.issued(volume, user, epoch);
        let (stage, block) = (Stage::Waiting, user);
        let write =
            Write { value, user, block, slot, stage, legs: 0, pending: 0, done: 0, held: 0, leaked: 0 };
        self.route(machine, volume, write);
        self.pump(machine, volume);
    }
}
