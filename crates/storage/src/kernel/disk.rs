//! What a virtual machine has as its disk: a device in front of what users of a volume open, which stays where it is while the volume goes from node to node.
//!
//! ```text
//!   tr-disk-V   linear, to tr-volume-V   the volume is here, and its users are let in (`lead_disk`)
//!               error                    not yet, or not any more (`hold_disk`, `part_disk`)
//! ```
//! Purpose: QEMU keeps the files of its disks open as long as it lives, also while it stands still on either side of a live migration. So what it has open must not
//! hold the array, and must be there before the volume is.
//!
//! Invariants: a disk that does not lead to its volume answers nothing but errors; it never takes a write that goes nowhere (dm-zero would). A disk that leads is one with its volume to everybody
//! who asks who has that open, and is removed with it ([`Engine::remove_top`]). Tables are swapped when nothing is in flight, within a bound.
//!
//! On failure: [`StepError`]; the disk leads where it led.

use super::carry_target::linear;
use super::dm::{Info, Target};
use super::{Engine, StepError, idle, observe};
use crate::name;
use crate::slab::Extent;
use model::VolumeId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long what is in flight may take to end before a table is not swapped. Whoever swaps has seen that nobody begins anything.
const IDLE_BOUND: Duration = Duration::from_secs(1);

impl Engine {
    /// A disk for a volume that is not here yet, of so many bytes. One that is there already is taken away from what it led to.
    pub fn hold_disk(&self, volume: VolumeId, bytes: u64) -> Result<PathBuf, StepError> {
        let turn = turn(volume);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.turn_disk(volume, &nowhere(bytes))
    }

    /// Lets a volume's disk lead to it, and makes the disk if there is none. [`StepError::Missing`]: users are not let in here.
    pub fn lead_disk(&self, volume: VolumeId) -> Result<PathBuf, StepError> {
        let turn = turn(volume);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.to_top(volume)?;
        self.turn_disk(volume, &table)
    }

    /// Takes the volume away from its disk, if there is one: whoever has it open gets errors.
    pub fn part_disk(&self, volume: VolumeId) -> Result<(), StepError> {
        let turn = turn(volume);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        match observe::len_bytes(self, &name::disk(volume))? {
            Some(bytes) => self.turn_disk(volume, &nowhere(bytes)).map(drop),
            None => Ok(()),
        }
    }

    /// Removes a volume's disk; one that is gone is as good. It fails while somebody has it open.
    pub fn remove_disk(&self, volume: VolumeId) -> Result<(), StepError> {
        Ok(self.dm.remove(&name::disk(volume))?)
    }

    /// Removes all disks that nobody has open.
    pub fn remove_idle_disks(&self) -> Result<(), StepError> {
        let names = self.dm.names()?;
        for disk in names.iter().filter(|name| name::of_disk(name).is_some()) {
            if self.dm.info(disk)?.is_some_and(|info| info.open_count == 0) {
                self.dm.remove(disk)?;
            }
        }
        Ok(())
    }

    /// What stands in front of a volume's device and leads to it.
    pub(super) fn disk_in_front(&self, volume: VolumeId) -> Result<Option<Info>, StepError> {
        let (disk, top) = (name::disk(volume), name::top(volume));
        let (Some(found), Some(top)) = (self.dm.info(&disk)?, self.dm.info(&top)?) else { return Ok(None) };
        Ok(self.dm.below(&disk)?.contains(&top.number).then_some(found))
    }

    /// Removes what users of a volume open, and a disk that leads there. It fails while somebody has either open. A disk that leads nowhere holds the volume all the same if whoever
    /// was to lead it there was killed before the table was taken: that table goes.
    pub(super) fn remove_top(&self, volume: VolumeId) -> Result<(), StepError> {
        let disk = name::disk(volume);
        if self.disk_in_front(volume)?.is_some() {
            self.remove_disk(volume)?;
        } else if self.dm.info(&disk)?.is_some() && self.dm.has_table_ready(&disk)? {
            self.dm.clear(&disk)?;
        }
        Ok(self.dm.remove(&name::top(volume))?)
    }

    /// Makes a disk that leads to a volume as long as that has become. One that was taken away from it meanwhile is left there.
    pub(super) fn lengthen_disk(&self, volume: VolumeId) -> Result<(), StepError> {
        let turn = turn(volume);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        match self.disk_in_front(volume)? {
            Some(_) => self.turn_disk(volume, &self.to_top(volume)?).map(drop),
            None => Ok(()),
        }
    }

    fn to_top(&self, volume: VolumeId) -> Result<Vec<Target>, StepError> {
        let top = name::top(volume);
        let device = self.number_of(&top)?.to_string();
        // One that is just being made has no table yet.
        let len_bytes = observe::len_bytes(self, &top)?.filter(|len_bytes| *len_bytes > 0);
        let len_bytes = len_bytes.ok_or_else(|| StepError::Missing { what: format!("table of {top}") })?;
        Ok(linear(&device, &[Extent { offset_bytes: 0, len_bytes }]))
    }

    fn turn_disk(&self, volume: VolumeId, table: &[Target]) -> Result<PathBuf, StepError> {
        let disk = name::disk(volume);
        self.dm.create(&disk, table)?;
        let has = |target: &Target| {
            let said = self.dm.targets(&disk)?;
            let same = |said: &super::dm::Said| {
                (said.len_sectors, said.kind.as_str()) == (target.len_sectors, target.kind)
                    && said.parameters.trim_end() == target.parameters
            };
            Ok::<_, StepError>(said.len() == 1 && said.iter().all(same))
        };
        // One that is ready and not taken, of whoever was killed, holds what it leads to as well.
        if self.dm.has_table_ready(&disk)? || !has(&table[0])? {
            self.dm.load(&disk, table)?;
            idle::swap_soon(&self.dm, &disk, IDLE_BOUND)?;
        }
        self.node_of(&disk)
    }
}

/// Who looks where a volume's disk leads and then has it lead somewhere, one at a time, of all of this process. Not the turn of those who swap what users go through
/// ([`idle::turn`]): they wait as long as it takes, perhaps for a leg that is to be let go.
fn turn(volume: VolumeId) -> Arc<Mutex<()>> {
    static TURNS: Mutex<BTreeMap<VolumeId, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    Arc::clone(TURNS.lock().unwrap_or_else(PoisonError::into_inner).entry(volume).or_default())
}

/// A table of errors.
fn nowhere(bytes: u64) -> Vec<Target> {
    let (kind, parameters) = ("error", String::new());
    vec![Target { start_sectors: 0, len_sectors: bytes / 512, kind, parameters }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_volume_one_at_a_time_has_its_disk_lead_somewhere() {
        let (one, other) = (turn(VolumeId(1)), turn(VolumeId(2)));
        let _held = one.lock().unwrap();
        assert!(turn(VolumeId(1)).try_lock().is_err() && other.try_lock().is_ok());
        assert!(idle::turn(VolumeId(1)).try_lock().is_ok(), "nobody waits for a swap that waits for a leg");
    }
}
