//! Gates to legs, and the ways below them.
//!
//! ```text
//!   tr-gate-…   multipath, bio-based, one path, queue_if_no_path: what the array has of a leg
//!       │
//!   tr-way-…    linear: where the leg is given out now; an error while that is nowhere
//!       │
//!   tr-leg-… or nvmeXn1
//! ```
//! Purpose: makes them, has them lead elsewhere, fails and removes them, and says what they are.
//!
//! Invariants: a gate has one table for life and is never suspended, so that nothing but `fail_if_no_path` ends its queueing, and nothing brings it back after that. Suspending a
//! bio-based multipath turns its queueing off until it is resumed, `noflush` or not (dm-mpath.c, 6.1, `multipath_presuspend`); if whoever asked for it is killed while it waits, the kernel sends what
//! came meanwhile on at once, and the target is not told that it may queue again (dm.c, `__dm_suspend`; dm-mpath has no `presuspend_undo`): where no path is left that is an error, to md and
//! without a commit (rule 2). What changes is the way's table. It queues nothing: when its swap is given up, what came meanwhile goes where it went before, and what fails there waits in the gate.
//!
//! On failure: [`StepError`]; what was done stays. A way without its gate is told of as a gate that leads nowhere, and goes with it.

use super::dm::{DeviceNumber, DmError, Target};
use super::{Engine, StepError, fabrics, sysfs};
use crate::bug::Bug;
use crate::name::{self, GivenLeg};
use crate::owner::{Gate, Way};
use control::target::LegOf;
use model::Epoch;
use rustix::io::Errno;
use std::path::Path;

const SECTOR_BYTES: u64 = 512;

fn whole(bytes: u64, kind: &'static str, parameters: String) -> [Target; 1] {
    [Target { start_sectors: 0, len_sectors: bytes / SECTOR_BYTES, kind, parameters }]
}

pub(super) fn make(engine: &Engine, way: Way, bytes: u64) -> Result<(), StepError> {
    let (leg, epoch) = (way.given.leg, way.epoch);
    // One that is there without a gate was left by a run that was killed, and may lead elsewhere.
    lead(engine, (leg, epoch), &to(way.below(engine)?, bytes))?;
    let below = engine.number_of(&name::way(leg, epoch))?;
    let queues = !engine.bugs.has(Bug::GateTimesOut);
    Ok(engine.dm.create(&way.device(), &table(below, bytes, queues))?)
}

/// The path is taken away first: what comes meanwhile waits in the gate, where it can be failed, and not in the way.
pub(super) fn turn(engine: &Engine, way: Way, bytes: u64) -> Result<(), StepError> {
    let (leg, epoch) = (way.given.leg, way.epoch);
    let table = to(way.below(engine)?, bytes);
    fail_path(engine, leg, epoch)?;
    lead(engine, (leg, epoch), &table)?;
    engine.tell_path(&way.device(), "reinstate_path")
}

/// One that is gone holds nothing.
pub(super) fn fail(engine: &Engine, leg: LegOf, epoch: Epoch) -> Result<(), StepError> {
    match engine.dm.message(&name::gate(leg, epoch), "fail_if_no_path") {
        Err(DmError { errno: Errno::NXIO, .. }) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn fail_path(engine: &Engine, leg: LegOf, epoch: Epoch) -> Result<(), StepError> {
    engine.tell_path(&name::gate(leg, epoch), "fail_path")
}

pub(super) fn empty(engine: &Engine, leg: LegOf, epoch: Epoch, bytes: u64) -> Result<(), StepError> {
    fail_path(engine, leg, epoch)?;
    // Should the path come back by mistake, it is lost again with the first request.
    lead(engine, (leg, epoch), &whole(bytes, "error", String::new()))
}

pub(super) fn remove(engine: &Engine, leg: LegOf, epoch: Epoch) -> Result<(), StepError> {
    engine.dm.remove(&name::gate(leg, epoch))?;
    Ok(engine.dm.remove(&name::way(leg, epoch))?)
}

/// Has a way lead there, once what is in flight through it has ended.
fn lead(engine: &Engine, (leg, epoch): (LegOf, Epoch), table: &[Target]) -> Result<(), StepError> {
    let way = name::way(leg, epoch);
    match engine.dm.info(&way)? {
        Some(_) => engine.dm.replace_when_idle(&way, table)?,
        None => engine.dm.create(&way, table)?,
    }
    Ok(())
}

impl Way {
    /// The NVMe head, or the local device.
    fn below(&self, engine: &Engine) -> Result<DeviceNumber, StepError> {
        if self.local {
            engine.number_of(&self.given.device())
        } else {
            fabrics::head_number(engine, self.given)
        }
    }
}

fn to(below: DeviceNumber, bytes: u64) -> [Target; 1] {
    whole(bytes, "linear", format!("{below} 0"))
}

/// A multipath with one path, and a queue for when that is gone (Documentation/admin-guide/device-mapper/dm-multipath).
pub(super) fn table(below: DeviceNumber, bytes: u64, queues: bool) -> [Target; 1] {
    let features = if queues { "3 queue_if_no_path queue_mode bio" } else { "2 queue_mode bio" };
    whole(bytes, "multipath", format!("{features} 0 1 1 round-robin 0 1 0 {below}"))
}

/// Whether a multipath's table says that it queues.
pub(super) fn queues(table: &str) -> bool {
    table.split_ascii_whitespace().any(|word| word == "queue_if_no_path")
}

/// `… MAJOR:MINOR A 0 …` for a path that is active, `F` for one that failed (drivers/md/dm-mpath.c, `multipath_status`).
pub(super) fn has_path(status: &str) -> bool {
    let mut words = status.split_ascii_whitespace();
    words.any(|word| word.contains(':')) && words.next() == Some("A")
}

/// What there is of a device's name, if it is a gate, or a way that has none; `names`: of all devices.
pub(super) fn seen(
    engine: &Engine,
    device: &str,
    names: &[String],
) -> Result<Option<(LegOf, Gate)>, StepError> {
    if let Some((leg, epoch)) = name::of_gate(device) {
        return Ok(Some((leg, of(engine, leg, epoch)?)));
    }
    let alone = name::of_way(device).filter(|(leg, epoch)| !names.contains(&name::gate(*leg, *epoch)));
    let nowhere = |epoch| Gate { epoch, to: None, local: false, path: false, queues: true };
    Ok(alone.map(|(leg, epoch)| (leg, nowhere(epoch))))
}

fn of(engine: &Engine, leg: LegOf, epoch: Epoch) -> Result<Gate, StepError> {
    let (gate, way) = (name::gate(leg, epoch), name::way(leg, epoch));
    let below = engine.dm.below(&way)?.first().copied();
    let own = below.and_then(own_device);
    Ok(Gate {
        epoch,
        to: own.or_else(|| fabrics::of_head(engine, below?)),
        local: own.is_some(),
        path: has_path(&engine.dm.status(&gate)?),
        queues: queues(&engine.dm.table(&gate)?),
    })
}

/// Which of this node's legs that is.
fn own_device(number: DeviceNumber) -> Option<GivenLeg> {
    GivenLeg::of_device(sysfs::read_if_there(Path::new(&format!("/sys/dev/block/{number}/dm/name")))?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gates_word_is_read() {
        assert!(has_path("2 0 0 0 1 1 A 0 1 0 259:3 A 0 "));
        assert!(!has_path("2 0 0 0 1 1 E 0 1 0 259:3 F 1 "));
        assert!(!has_path(""));
        assert!(!has_path("1:2"));
        assert!(queues("3 queue_if_no_path queue_mode bio 0 1 1") && !queues("2 queue_mode bio 0 1 1"));
    }
}
