//! What a drive's requests took, as the kernel counts it (Documentation/block/stat.rst).

use super::sysfs::failed;
use super::{StepError, observe};
use control::stall::Activity;
use model::DriveSerial;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

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

/// More than `stat` has: 17 numbers of 20 digits at most.
const STAT_BYTES_MAX: usize = 512;

/// The counts of drives. Their files are kept open: a serial number is looked for among all devices only when that of before can't be read
/// any more, since its drive is gone (kernfs answers `ENODEV`, also when another drive has the name by then).
#[derive(Debug, Default)]
pub struct Counters(BTreeMap<DriveSerial, File>);

impl Counters {
    /// Of the drive with that serial number.
    pub fn of(&mut self, serial: &DriveSerial) -> Result<Count, StepError> {
        Count::parse(&self.stat(serial)?).ok_or_else(|| unreadable(serial))
    }

    /// What that drive has in flight.
    pub fn activity(&mut self, serial: &DriveSerial) -> Result<Activity, StepError> {
        activity(&self.stat(serial)?).ok_or_else(|| unreadable(serial))
    }

    /// Whether all of them have been found: then nothing is looked for, unless one is gone.
    pub fn know<'a>(&self, mut serials: impl Iterator<Item = &'a DriveSerial>) -> bool {
        serials.all(|serial| self.0.contains_key(serial))
    }

    fn stat(&mut self, serial: &DriveSerial) -> Result<String, StepError> {
        if let Some(Ok(stat)) = self.0.get(serial).map(read) {
            return Ok(stat);
        }
        self.0.remove(serial);
        let path = observe::drive_folder(serial)?.join("stat");
        let file = File::open(&path).map_err(failed("open", &path))?;
        let stat = read(&file).map_err(failed("read", &path))?;
        self.0.insert(serial.clone(), file);
        Ok(stat)
    }
}

/// From its beginning: what it says now.
fn read(file: &File) -> io::Result<String> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let len = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
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
