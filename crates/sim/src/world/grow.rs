//! Volumes that grow: slabs that are filled with zeros and mapped, users who get more.
//!
//! What a leg's device has no slab for reads as zeros and swallows what is written (`dm-zero`); a slab that a leg is given holds what another has left
//! there. `thin` has what differs where a volume is thin.

use super::md::{Array, Stage, Write};
use super::target::Disk;
use super::thin;
use super::{BLOCKS, CHUNK, Event, MS, Value, World, volume_id, volume_index};
use control::state::Reach;
use control::target::{self, Laid, LegOf};
use model::{Extent, SLAB_BYTES};

/// What volumes begin with: one slab of each leg has room for it.
pub(crate) const FIRST_BYTES: u64 = 1 << 20;
/// The blocks of that.
pub(crate) const FIRST_BLOCKS: usize = 8;
/// What slabs hold that were another's.
const GARBAGE: Value = Value::MAX;

/// How many blocks a volume of this size has: a chunk more for each slab.
pub(crate) fn blocks_of(size_bytes: u64) -> usize {
    blocks_on(1 + size_bytes.saturating_sub(FIRST_BYTES) / SLAB_BYTES)
}

/// How many blocks so many slabs have room for.
pub(crate) fn blocks_on(slabs: u64) -> usize {
    let more = usize::try_from(slabs.saturating_sub(1)).unwrap_or(BLOCKS);
    (FIRST_BLOCKS + more.min(BLOCKS) * CHUNK).min(BLOCKS)
}

/// A leg of which slabs are being filled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Laying {
    id: u32,
    leg: LegOf,
    /// The next slab.
    next: u64,
    laid: Laid,
}

impl Disk {
    /// What is there when a leg is made: zeros on its slabs, whatever there was behind them.
    pub(super) fn content(blocks: usize) -> [Value; BLOCKS] {
        std::array::from_fn(|at| if at < blocks { 0 } else { GARBAGE })
    }

    /// How many blocks of the leg's device are on slabs.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks_on(self.mapped)
    }

    /// How many blocks so many of its slabs have room for. A thin volume's first extent is as long as the others, so that a slab more is there for metadata.
    pub(super) fn blocks_on(&self, slabs: u64) -> usize {
        blocks_on(if self.thin { slabs.saturating_sub(1) } else { slabs })
    }

    /// What the leg's device reads.
    pub(crate) fn reads(&self) -> [Value; BLOCKS] {
        std::array::from_fn(|at| if at < self.blocks() { self.value[at] } else { 0 })
    }
}

/// The first so many slabs of these.
fn first(extents: &[Extent], mut count: u64) -> Vec<Extent> {
    let mut first = Vec::new();
    for extent in extents {
        let taken = extent.count.min(count);
        first.extend((taken > 0).then_some(Extent { first: extent.first, count: taken }));
        count -= taken;
    }
    first
}

impl World {
    /// How many blocks a volume's array has by what a machine sees of the ledger.
    pub(super) fn blocks_seen(&self, machine: usize, volume: usize) -> usize {
        self.sees(machine).volumes.get(&volume_id(volume)).map_or(FIRST_BLOCKS, thin::array_blocks)
    }

    /// A bitmap in which everything is marked that the volume's array has, or is to have.
    pub(super) fn everything(&self, machine: usize, volume: usize) -> u8 {
        let ledger = self.sees(machine);
        let found = ledger.volumes.get(&volume_id(volume));
        let blocks = found.map_or(FIRST_BLOCKS, thin::array_blocks_to_be);
        (1 << (blocks / CHUNK)) - 1
    }

    /// A leg's device has so many of the slabs that its machine sees the ledger give it, or gets them now.
    pub(super) fn has_slabs(&mut self, machine: usize, leg: LegOf, count: u64) {
        let ledger = self.sees(machine);
        let found = ledger.volumes.get(&leg.0).and_then(|volume| volume.legs.get(&leg.1));
        if let Some(extents) = found.map(|found| first(&found.extents, count)) {
            let (volume, number) = (volume_index(leg.0), leg.1.0);
            self.disk(volume, number).extents = extents;
            self.judge_slabs(volume, number);
        }
    }

    /// How many slabs of a leg a target maps when it makes its device: what it sees that the ledger says, or remembers; `None`: it knows of fewer slabs than it
    /// remembers.
    pub(super) fn maps(&self, machine: usize, leg: LegOf) -> Option<u64> {
        let ledger = self.sees(machine);
        let volume = ledger.volumes.get(&leg.0)?;
        let found = volume.legs.get(&leg.1)?;
        let noted = self.machines[machine].laid.get(&leg);
        let noted = noted.filter(|laid| laid.ledger == volume.epoch.ledger).map_or(0, |laid| laid.slabs);
        Some(found.laid_slabs().max(noted)).filter(|slabs| *slabs <= found.slabs())
    }

    pub(super) fn lay(&mut self, machine: usize, leg: LegOf, next: u64, laid: Laid) {
        self.uid += 1;
        let id = self.uid;
        if let Some(agent) = self.machines[machine].agent.as_mut() {
            agent.laying.push(Laying { id, leg, next, laid });
        }
        let delay = self.random.u64(100..2000);
        self.post(delay, Event::Lay(machine, id));
    }

    /// A fence ends it, and nothing of it is in flight any more.
    pub(super) fn lay_no_more(&mut self, machine: usize, leg: LegOf) {
        if let Some(agent) = self.machines[machine].agent.as_mut() {
            agent.laying.retain(|laying| laying.leg != leg);
        }
    }

    /// The next slab, or the end: written down, mapped, and told.
    pub(super) fn lay_next(&mut self, machine: usize, id: u32) {
        let Some(agent) = self.machines[machine].agent.as_mut() else { return };
        let Some(at) = agent.laying.iter().position(|laying| laying.id == id) else { return };
        let Laying { leg, next, laid, .. } = agent.laying[at];
        let (volume, number) = (volume_index(leg.0), leg.1.0);
        let drive = self.disk(volume, number).drive;
        if !self.drives[drive].present {
            self.lay_no_more(machine, leg);
            return self.tell_target(machine, target::Event::NotLaid(leg));
        }
        self.has_slabs(machine, leg, laid.slabs);
        if next < laid.slabs {
            let disk = self.disk(volume, number);
            for block in disk.blocks_on(next)..disk.blocks_on(next + 1) {
                (disk.value[block], disk.durable[block]) = (0, 0);
            }
            self.judge_volume(volume);
            if let Some(agent) = self.machines[machine].agent.as_mut() {
                agent.laying[at].next += 1;
            }
            let delay = self.random.u64(5..400) * MS;
            return self.post(delay, Event::Lay(machine, id));
        }
        self.lay_no_more(machine, leg);
        self.machines[machine].laid.insert(leg, laid);
        let disk = self.disk(volume, number);
        disk.mapped = disk.mapped.max(laid.slabs);
        self.tell(|_| {
            format!("node-{} has laid {} slabs of {} of {}", machine + 1, laid.slabs, leg.1, leg.0)
        });
        self.tell_target(machine, target::Event::Laid(leg, laid));
    }

    /// One order at a time, each of which takes its time.
    pub(super) fn extend_soon(&mut self, machine: usize, volume: usize, reach: Reach) {
        let delay =
            if self.random.u8(..) < 20 { self.random.u64(..60) * MS } else { self.random.u64(100..2000) };
        if let Some(id) = self.array(machine, volume).map(|array| array.id) {
            self.post(delay, Event::Extend(machine, volume, id, reach));
        }
    }

    /// Users get more as soon as nothing of theirs is in flight.
    pub(super) fn extend(&mut self, machine: usize, volume: usize, id: u32, reach: Reach) {
        if self.machines[machine].agent.is_none() {
            return;
        }
        let Some(array) = self.array(machine, volume).filter(|array| array.id == id && array.admitted) else {
            return;
        };
        if !array.stopping && array.extending.is_none() && array.reach != reach {
            array.extending = Some(reach);
            self.extended(machine, volume);
        }
    }

    pub(super) fn extended(&mut self, machine: usize, volume: usize) {
        let Some(array) = self.array(machine, volume) else { return };
        let in_flight = |write: &Write| write.stage != Stage::Waiting;
        if array.writes.iter().any(in_flight) {
            return;
        }
        let Some(reach) = array.extending.take() else { return };
        array.reach = reach;
        let epoch = array.epoch;
        self.judge_extended(machine, volume, epoch, reach);
        self.tell(|_| format!("users of volume-{} on node-{} have {reach:?}", volume + 1, machine + 1));
        self.tell_owner(machine, volume, control::owner::Event::Extended(reach));
        self.find_places(machine, volume);
        self.pump(machine, volume);
    }

    /// Whoever waits in the kernel for users' writes to end does so no more when its process is gone.
    pub(super) fn extend_no_more(&mut self, machine: usize) {
        for volume in 0..self.truths.len() {
            if self.array(machine, volume).and_then(|array| array.extending.take()).is_some() {
                self.pump(machine, volume);
            }
        }
    }

    /// People want more of a volume.
    pub(super) fn grow(&mut self, volume: usize) {
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let size_bytes = found.size_to_be() + SLAB_BYTES;
        if thin::user_blocks_of(found.provision, found.size_to_be()) < BLOCKS {
            self.ask(volume, control::VolumeCommand::Grow { size_bytes });
        }
    }
}

/// Whether an owner's users have all that the volume has.
pub(super) fn has_all(array: Option<&Array>, found: &control::state::Volume) -> bool {
    let under_way = found.growing.is_some() || !found.mapping.is_empty();
    !under_way && array.is_some_and(|array| array.reach == found.reach() && array.unmapped.is_empty())
}
