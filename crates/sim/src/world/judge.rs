//! What must hold, after every step: no acknowledged write is missing from a leg that the ledger calls in sync; never two that can both
//! acknowledge; and, when all is mended, that all is well again.
//!
//! Two things are let pass, because the protocol has another answer to them. A leg whose drive has counted an error since it was given out may lack what md
//! let go by itself: its target says so when it is fenced (rule 4). A leg on a volatile drive that has restarted may have forgotten: it
//! is suspect as soon as it is asked (rule 10). After an operator's override what was there before counts for nothing.

use super::grow::has_all;
use super::md::{Write, bit};
use super::target::Disk;
use super::{BLOCKS, PROGRESS_US, Value, World, node_index, thin, volume_id};
use control::state::{Leg, LegState, Phase, Reach, Run, State, Volume};
use control::target::Key;
use control::transition::VolumeCause;
use control::{Command, Event};
use model::{Epoch, Extent, LegId, PowerCycles};

/// What is known of a volume's content.
#[derive(Debug, Clone)]
pub(crate) struct Truth {
    blocks: [Block; BLOCKS],
    /// An operator has overridden something: the next opening says what there is.
    lossy: bool,
    /// What was opened in epochs before this is nobody's business any more.
    exempt_before: Option<Epoch>,
    opened: Option<Epoch>,
    pub(crate) acknowledged: bool,
}

#[derive(Debug, Clone, Default)]
struct Block {
    /// Last acknowledged, or read at an opening.
    truth: Value,
    /// Written, not acknowledged: there or not.
    maybe: Vec<Value>,
}

/// A write's fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Maybe,
    /// Acknowledged, or found at an opening: its acknowledgement may come late.
    Settled,
    /// Not found at an opening, or written by one that was superseded: it may never be there.
    Void,
}

/// The judge's own.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(crate) broken: Option<String>,
    pub(crate) acknowledged: u64,
    fates: Vec<Fate>,
    mended_at: u64,
}

/// An array that starts.
pub(crate) struct Start<'a> {
    pub(crate) machine: usize,
    pub(crate) volume: usize,
    pub(crate) epoch: Epoch,
    pub(crate) legs: &'a [u16],
}

impl Truth {
    pub(crate) fn new() -> Self {
        let blocks = std::array::from_fn(|_| Block::default());
        Self { blocks, lossy: false, exempt_before: None, opened: None, acknowledged: false }
    }

    fn allows(&self, block: usize, value: Value) -> bool {
        let block = &self.blocks[block];
        value == block.truth || block.maybe.contains(&value)
    }
}

impl World {
    pub(super) fn broke(&mut self, why: String) {
        if self.judge.broken.is_none() {
            self.tell(|_| why.clone());
            self.judge.broken = Some(why);
        }
    }

    /// The number of a new write.
    pub(super) fn issued(&mut self, volume: usize, block: u8, epoch: Epoch) -> Value {
        if self.judge.fates.is_empty() {
            self.judge.fates.push(Fate::Settled);
        }
        let value = self.judge.fates.len() as Value;
        let truth = &mut self.truths[volume];
        if truth.opened > Some(epoch) {
            self.judge.fates.push(Fate::Void);
        } else {
            truth.blocks[usize::from(block)].maybe.push(value);
            self.judge.fates.push(Fate::Maybe);
        }
        value
    }

    pub(super) fn acknowledged(&mut self, machine: usize, volume: usize, write: &Write) {
        let Some(epoch) = self.epoch_of(machine, volume) else { return };
        let value = write.value;
        let at = usize::from(write.user);
        self.judge.acknowledged += 1;
        let truth = &mut self.truths[volume];
        truth.acknowledged = true;
        if truth.exempt_before.is_some_and(|before| epoch < before) || truth.lossy {
            return;
        }
        match self.judge.fates[value as usize] {
            Fate::Settled => return,
            Fate::Void => {
                return self.broke(format!(
                    "volume-{}: write {value} to block {at} is acknowledged by node-{} and was not there when the volume was opened",
                    volume + 1,
                    machine + 1
                ));
            }
            Fate::Maybe => {}
        }
        self.judge.fates[value as usize] = Fate::Settled;
        truth.blocks[at].truth = value;
        truth.blocks[at].maybe.retain(|other| *other != value);
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let Some(place) = thin::place(found, found.array_bytes(), at) else {
            return self.broke(format!(
                "volume-{}: write {value} to block {at} is acknowledged by node-{} and has no place in the array",
                volume + 1,
                machine + 1
            ));
        };
        for (leg, state) in found.in_sync() {
            let Some(disk) = self.disks[volume].get(&leg.0) else { continue };
            let has = disk.reads()[place];
            let leaked = write.leaked & bit(leg.0) != 0 && self.errored(volume, leg.0);
            if has != value && !leaked && !self.forgot(&ledger, volume, leg, state) {
                return self.broke(format!(
                    "volume-{}: write {value} to block {at} is acknowledged by node-{}, and {leg} is in sync by the ledger and has {}",
                    volume + 1, machine + 1, has
                ));
            }
        }
    }

    /// Whether a leg is on a volatile drive that has restarted since it was last known to be good.
    fn forgot(&self, ledger: &State, volume: usize, leg: LegId, state: &Leg) -> bool {
        let Some(disk) = self.disks[volume].get(&leg.0) else { return true };
        let drive = &self.drives[disk.drive];
        let declared =
            ledger.drives.get(&drive.id).is_none_or(|drive| drive.cache == control::state::Cache::Volatile);
        let present = Run { boot: self.boot_id(drive.node), power_cycles: PowerCycles(drive.power_cycles) };
        declared && drive.volatile && state.run != Some(present)
    }

    /// A block of a leg has changed.
    pub(super) fn judge_block(&mut self, volume: usize, leg: u16, block: usize) {
        let ledger = self.ledger();
        let found = ledger.volumes.get(&volume_id(volume)).and_then(|found| found.legs.get(&LegId(leg)));
        if let Some(state) = found.filter(|state| state.state == LegState::InSync) {
            self.judge_leg(&ledger, volume, LegId(leg), state, block..block + 1);
        }
    }

    fn judge_leg(
        &mut self,
        ledger: &State,
        volume: usize,
        leg: LegId,
        state: &Leg,
        blocks: std::ops::Range<usize>,
    ) {
        let truth = &self.truths[volume];
        if truth.lossy || self.errored(volume, leg.0) || self.forgot(ledger, volume, leg, state) {
            return;
        }
        let Some(disk) = self.disks[volume].get(&leg.0) else { return };
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let reads = disk.reads();
        for block in 0..BLOCKS {
            let place = thin::place(found, found.array_bytes(), block).filter(|at| blocks.contains(at));
            let Some(value) = place.map(|at| reads[at]) else { continue };
            if !truth.allows(block, value) {
                let truth = truth.blocks[block].truth;
                return self.broke(format!(
                    "volume-{}: {leg} is in sync by the ledger and has {value} in block {block}; acknowledged was {truth}",
                    volume + 1
                ));
            }
        }
    }

    /// Everything of a volume that can be seen from outside.
    pub(super) fn judge_volume(&mut self, volume: usize) {
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        for (leg, state) in found.in_sync() {
            self.judge_leg(&ledger, volume, leg, state, 0..BLOCKS);
        }
    }

    /// An owner opens it: what it reads is what was written.
    pub(super) fn judge_start(&mut self, start: &Start<'_>) {
        let Start { machine, volume, epoch, legs } = *start;
        let Some(source) = legs.first().and_then(|leg| self.disks[volume].get(leg)).map(Disk::reads) else {
            return;
        };
        let size = self.blocks_seen(machine, volume);
        let ledger = self.sees(machine);
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let place = |block| thin::place(found, found.array_bytes(), block);
        for leg in legs {
            let Some(has) = self.disks[volume].get(leg).map(Disk::reads) else { continue };
            let errored = self.errored(volume, *leg);
            for block in (0..BLOCKS).filter(|_| !errored && !self.truths[volume].lossy) {
                let value = place(block).map_or(0, |at| has[at]);
                if !self.truths[volume].allows(block, value) {
                    return self.broke(format!(
                        "volume-{}: node-{} opens it from leg-{leg}, which has {value} in block {block}; acknowledged was {}",
                        volume + 1, machine + 1, self.truths[volume].blocks[block].truth
                    ));
                }
            }
            for block in (0..size).filter(|_| !errored) {
                if has[block] != source[block] {
                    return self.broke(format!(
                        "volume-{}: node-{} opens it with leg-{leg} unequal in block {block}",
                        volume + 1,
                        machine + 1
                    ));
                }
            }
        }
        let truth = &mut self.truths[volume];
        if truth.opened > Some(epoch) {
            return self.broke(format!(
                "volume-{}: node-{} assembles a superseded epoch",
                volume + 1,
                machine + 1
            ));
        }
        (truth.lossy, truth.opened) = (false, Some(epoch));
        for (at, block) in truth.blocks.iter_mut().enumerate() {
            let value = place(at).map_or(0, |at| source[at]);
            for maybe in block.maybe.drain(..) {
                self.judge.fates[maybe as usize] = if maybe == value { Fate::Settled } else { Fate::Void };
            }
            block.truth = value;
        }
    }

    /// The slabs of a leg are anybody's.
    fn leg_freed(&mut self, volume: usize, leg: u16) {
        if self.stands(volume, leg) {
            self.broke(format!("leg-{leg} of volume-{} is freed and may be written", volume + 1));
        }
    }

    /// A leg's device has its slabs: nothing of another that had them may be written any more.
    pub(super) fn judge_slabs(&mut self, volume: usize, leg: u16) {
        let Some(own) = self.disks[volume].get(&leg) else { return };
        let shares =
            |other: &Extent| own.extents.iter().any(|own| own.first < other.end() && other.first < own.end());
        let others = self
            .disks
            .iter()
            .enumerate()
            .flat_map(|(volume, disks)| disks.iter().map(move |(leg, disk)| ((volume, *leg), disk)));
        let mut others = others.filter(|(other, disk)| *other != (volume, leg) && disk.drive == own.drive);
        let standing = others
            .find(|((volume, leg), disk)| disk.extents.iter().any(shares) && self.stands(*volume, *leg));
        if let Some(((other, number), _)) = standing {
            let (drive, volume, other) = (own.drive + 1, volume + 1, other + 1);
            self.broke(format!(
                "slabs of drive-{drive} are filled for leg-{leg} of volume-{volume} while leg-{number} of volume-{other} may be written"
            ));
        }
    }

    /// Never users on two machines, whatever they could write: nobody is let in before those of a former owner are killed. (Those of a
    /// machine that stands still don't run; when it goes on it kills them.) That alone depends on clocks: not while one has jumped, or
    /// stood still.
    pub(super) fn judge_users(&mut self, machine: usize, volume: usize) {
        if self.any_clock_astray() {
            return;
        }
        let exempt_before = self.truths[volume].exempt_before;
        let used = |found: &super::Machine| {
            let array = found.arrays[volume].as_ref()?;
            let exempt = exempt_before.is_some_and(|before| array.epoch < before);
            let runs = found.power && found.frozen == 0;
            (runs && array.admitted && !array.stopping && !exempt).then_some(())
        };
        let other = (0..self.machines.len())
            .find(|other| *other != machine && used(&self.machines[*other]).is_some());
        if let Some(other) = other {
            self.broke(format!(
                "volume-{}: users are let in on node-{} while some run on node-{}",
                volume + 1,
                machine + 1,
                other + 1
            ));
        }
    }

    /// Users have no more than the volume has, and all that the ledger says that they have.
    pub(super) fn judge_extended(&mut self, machine: usize, volume: usize, epoch: Epoch, reach: Reach) {
        let has = self.ledger().volumes.get(&volume_id(volume)).map(Volume::reach).unwrap_or_default();
        let more = reach.size_bytes > has.size_bytes || reach.array_bytes > has.array_bytes;
        let exempt = self.truths[volume].exempt_before.is_some_and(|before| epoch < before);
        if more && !exempt {
            self.broke(format!("volume-{}: users on node-{} get more than it has", volume + 1, machine + 1));
        }
    }

    /// Never two machines whose users would both get an answer to a write.
    pub(super) fn judge_writers(&mut self, volume: usize) {
        let able = |machine: &usize| {
            let Some(array) = self.machines[*machine].arrays[volume].as_ref() else { return false };
            let exempt = self.truths[volume].exempt_before.is_some_and(|before| array.epoch < before);
            let reaches = |(leg, member): (&u16, &super::md::Member)| {
                let key = Key { epoch: array.epoch, incarnation: member.inc };
                let given = self.disks[volume].get(leg).and_then(|disk| disk.given);
                !member.failed && (member.home == *machine || given == Some((key, *machine)))
            };
            array.admitted && !array.stopping && !exempt && array.members.iter().all(reaches)
        };
        let able: Vec<usize> = (0..self.machines.len()).filter(able).collect();
        if let [one, other, ..] = able[..] {
            self.broke(format!(
                "volume-{}: node-{} and node-{} can both write",
                volume + 1,
                one + 1,
                other + 1
            ));
        }
    }

    /// The ledger has changed.
    pub(super) fn committed(&mut self, command: &Command, events: &[Event]) {
        for event in events {
            match event {
                Event::LegAdded(id, leg) => self.leg_added(*id, *leg),
                Event::VolumeGrown(id, bytes) => self.tell(|_| format!("{id} has {bytes} bytes")),
                Event::ExtentsMapped(id, extents) => {
                    self.tell(|_| format!("{id} has {extents} extents mapped"));
                }
                Event::Vm(id, _, _, _, to) => self.spring(*id, *to),
                Event::LegFreed(id, leg) => self.leg_freed(super::volume_index(*id), leg.0),
                Event::Volume(id, epoch, _, VolumeCause::Override | VolumeCause::ForcedQuorum, _) => {
                    let truth = &mut self.truths[super::volume_index(*id)];
                    (truth.lossy, truth.exempt_before) = (true, Some(epoch.next()));
                    truth.opened = truth.opened.min(Some(*epoch));
                    self.disks_changed(Some(super::volume_index(*id)));
                }
                _ => {}
            }
        }
        for volume in self.about(command) {
            self.judge_volume(volume);
            self.judge_writers(volume);
            let closed = self
                .ledger()
                .volumes
                .get(&volume_id(volume))
                .is_some_and(|found| found.phase == Phase::Closed);
            let since = &mut self.closed_since[volume];
            *since = if closed { since.or(Some(self.now)) } else { None };
        }
    }

    pub(super) fn mended_now(&mut self) {
        self.judge.mended_at = self.now;
    }

    /// When all is mended: whether all is well, or it is too late for that.
    pub(super) fn judge_progress(&mut self) {
        let ledger = self.ledger();
        let mut waits = None;
        for volume in 0..self.truths.len() {
            let Some(found) = ledger.volumes.get(&volume_id(volume)) else { continue };
            let gone =
                |leg: &Leg| ledger.node_of(leg).is_none_or(|node| self.machines[node_index(node)].gone);
            let whole = found.legs.values().all(|leg| gone(leg) || leg.state == LegState::InSync);
            let open = matches!(found.phase, Phase::Open { .. });
            let owner = node_index(found.owner);
            let well = whole && open && has_all(self.machines[owner].arrays[volume].as_ref(), found);
            if !well {
                self.truths[volume].acknowledged = false;
            }
            // Whoever can't run any more writes nothing.
            let idle = self.vm_of(volume).is_some_and(|vm| self.has_no_home(vm));
            let fine = self.truths[volume].acknowledged || (idle && well);
            if !fine {
                let grows = (found.size_bytes, found.growing, &found.mapped, &found.mapping);
                waits = Some((volume, format!("{:?}, {grows:?}, {:?}", found.phase, found.legs)));
            }
        }
        let astray = self.vm_astray();
        match waits {
            None if astray.is_some() => {
                if self.now > self.judge.mended_at + PROGRESS_US {
                    self.broke(format!("all was mended {} s ago, and {astray:?}", PROGRESS_US / 1_000_000));
                }
            }
            None => {
                self.done = true;
                for broken in self.placement_broken() {
                    self.broke(format!("placement: {broken}"));
                }
            }
            Some((volume, state)) if self.now > self.judge.mended_at + PROGRESS_US => {
                let owner = self.owner_at(volume).unwrap_or(0);
                let role = self.machines[owner].agent.as_ref().map(|agent| agent.owners[volume].stage());
                let array = self.machines[owner].arrays[volume].as_ref();
                let there = format!("{role:?}, {array:?}");
                self.broke(format!(
                    "all was mended {} s ago, and volume-{} takes no write: {state}; owner node-{}: {there}",
                    PROGRESS_US / 1_000_000,
                    volume + 1,
                    owner + 1
                ));
            }
            Some(_) => {}
        }
    }
}
