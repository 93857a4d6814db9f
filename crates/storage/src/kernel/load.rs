//! What a drive's requests took, as the kernel counts it (Documentation/block/stat.rst).

use super::{StepError, observe};
use model::DriveSerial;

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

/// Of the drive with that serial number.
pub fn count(serial: &DriveSerial) -> Result<Count, StepError> {
    let stat = observe::drive_stat(serial)?;
    Count::parse(&stat).ok_or_else(|| StepError::Missing { what: format!("statistics of drive {serial}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_are_counted_and_timed() {
        let stat = "     446        3    11248      137     5214        0   120976     2811        0     4300     2948  0 0 0 0 0 0";
        assert_eq!(Count::parse(stat), Some(Count { requests: 5660, took_ms: 2948 }));
        assert_eq!(Count::parse("446 3 11248"), None);
        assert_eq!(Count::parse("a b"), None);
    }
}
