//! What a drive's requests took, as the kernel counts it (Documentation/block/stat.rst).

use super::{StepError, observe, sysfs};
use control::stall::Activity;
use model::DriveSerial;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Reads and writes that have ended since the drive came, and what they took, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub requests: u64,
    /// How long all of them took, milliseconds.
    pub took_ms: u64,
}

impl Count {
    /// Fields 1 and 5 count, 4 and 8 are times. `None`: not of that form.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<u64> = stat.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let [reads, _, _, read_ms, writes, _, _, write_ms, ..] = fields[..] else { return None };
        let (requests, took_ms) = (reads.saturating_add(writes), read_ms.saturating_add(write_ms));
        Some(Self { requests, took_ms })
    }
}

/// What a drive has in flight, and how much of all kinds has ended: fields 9, and 1, 5, 12 and 16 (reads, writes, discards, flushes; older kernels have fewer).
/// `None`: not of that form.
fn activity(stat: &str) -> Option<Activity> {
    let fields: Vec<u64> = stat.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let ended = [0, 4, 11, 15].into_iter().filter_map(|at| fields.get(at));
    let ended = ended.fold(0_u64, |all, count| all.saturating_add(*count));
    Some(Activity { in_flight: *fields.get(8)?, ended })
}

/// The counts of drives, where they were found last: a serial number is looked for among all devices only when it is not there any more.
#[derive(Debug, Default)]
pub struct Counters(BTreeMap<DriveSerial, PathBuf>);

impl Counters {
    /// Of the drive with that serial number.
    pub fn of(&mut self, serial: &DriveSerial) -> Result<Count, StepError> {
        Count::parse(&self.stat(serial)?).ok_or_else(|| unreadable(serial))
    }

    /// What that drive has in flight.
    pub fn activity(&mut self, serial: &DriveSerial) -> Result<Activity, StepError> {
        activity(&self.stat(serial)?).ok_or_else(|| unreadable(serial))
    }

    fn stat(&mut self, serial: &DriveSerial) -> Result<String, StepError> {
        let known = self.0.get(serial).filter(|folder| observe::is_drive(folder, serial)).cloned();
        let folder = match known {
            Some(folder) => folder,
            None => observe::drive_folder(serial)?,
        };
        let stat = sysfs::read(&folder.join("stat"))?;
        self.0.insert(serial.clone(), folder);
        Ok(stat)
    }
}

fn unreadable(serial: &DriveSerial) -> StepError {
    StepError::Missing { what: format!("statistics of drive {serial}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_is_told_from_what_has_ended_of_every_kind() {
        let stat = "     446        3    11248      137     5214        0   120976     2811        7     4300     2948  20 0 0 0 300 0";
        assert_eq!(activity(stat), Some(Activity { in_flight: 7, ended: 446 + 5214 + 20 + 300 }));
        let older = "446 3 11248 137 5214 0 120976 2811 1 4300 2948";
        assert_eq!(activity(older), Some(Activity { in_flight: 1, ended: 446 + 5214 }));
    }

    #[test]
    fn reads_and_writes_are_counted_and_timed() {
        let stat = "     446        3    11248      137     5214        0   120976     2811        0     4300     2948  0 0 0 0 0 0";
        assert_eq!(Count::parse(stat), Some(Count { requests: 5660, took_ms: 2948 }));
        assert_eq!(Count::parse("446 3 11248"), None);
        assert_eq!(activity("446 3 11248"), None);
        assert_eq!(Count::parse("a b"), None);
    }
}
