//! How long writes waited, from what the workload recorded. Pure. Times are the node's, µs since it started.

use workload::record::{Event, Record};

/// A write that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// When it was begun.
    pub began_us: u64,
    /// When it was acknowledged.
    pub ended_us: u64,
}

/// A time without acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// From the last one before it.
    pub from_us: u64,
    /// To the first one after it; of one that has not ended, until now.
    pub until_us: u64,
}

impl Gap {
    /// How long.
    pub fn len_us(self) -> u64 {
        self.until_us.saturating_sub(self.from_us)
    }
}

/// The writes of a run that were acknowledged, in the order of their acknowledgements.
pub fn acknowledged(records: &[Record], run: u32) -> Vec<Acknowledged> {
    let of_run = records.iter().filter_map(|record| match record.event {
        Event::Acknowledged { version, .. } if version.run == run => {
            let ended_us = u64::from(record.ended_ms) * 1000;
            Some(Acknowledged { began_us: ended_us.saturating_sub(u64::from(record.took_us)), ended_us })
        }
        _ => None,
    });
    of_run.collect()
}

/// The longest time without acknowledgements of those that were not over at some moment, up to another moment. `None`: nothing was
/// acknowledged before that.
pub fn longest_gap(writes: &[Acknowledged], since_us: u64, until_us: u64) -> Option<Gap> {
    let mut longest: Option<Gap> = None;
    for (at, before) in writes.iter().enumerate().filter(|(_, write)| write.ended_us <= until_us) {
        let next = writes.get(at + 1).map_or(until_us, |next| next.ended_us.min(until_us));
        let gap = Gap { from_us: before.ended_us, until_us: next };
        // Of equally long ones the first: it is the one that something caused.
        if gap.until_us > since_us && longest.is_none_or(|longest| longest.len_us() < gap.len_us()) {
            longest = Some(gap);
        }
    }
    longest
}

/// Times without acknowledgements between two of them that are so long at least.
pub fn stalls(writes: &[Acknowledged], at_least_us: u64) -> Vec<Gap> {
    let gap = |two: &[Acknowledged]| Gap { from_us: two[0].ended_us, until_us: two[1].ended_us };
    writes.windows(2).map(gap).filter(|gap| gap.len_us() >= at_least_us).collect()
}

/// The first acknowledgement of a write that was begun after some moment: who waited has been let go, and more.
pub fn first_begun_after(writes: &[Acknowledged], moment_us: u64) -> Option<Acknowledged> {
    writes.iter().find(|write| write.began_us > moment_us).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use workload::Version;

    fn record(run: u32, sequence: u64, ended_ms: u32, took_us: u32) -> Record {
        Record {
            event: Event::Acknowledged { block: 0, version: Version { run, sequence } },
            took_us,
            ended_ms,
        }
    }

    /// Four in flight when the other rack dies at 1000 ms; they are let go at 3500 ms.
    fn stalled() -> Vec<Record> {
        let mut records: Vec<Record> = (0..100).map(|n| record(2, u64::from(n), n * 10, 4000)).collect();
        records.push(record(1, 7, 1500, 1));
        records.push(Record {
            event: Event::Flushed { up_to: Version { run: 2, sequence: 3 } },
            took_us: 1,
            ended_ms: 1600,
        });
        records.extend((100..104).map(|n| record(2, n, 3500, 2_515_000)));
        records.extend((0..10).map(|n| record(2, 104 + u64::from(n), 3510 + n * 10, 5000)));
        records
    }

    #[test]
    fn the_stall_is_the_longest_gap_and_ends_with_what_had_waited() {
        let writes = acknowledged(&stalled(), 2);
        assert_eq!(writes.len(), 114);
        let gap = longest_gap(&writes, 1_000_000, 3_600_000).unwrap();
        assert_eq!(gap, Gap { from_us: 990_000, until_us: 3_500_000 });
        assert_eq!(gap.len_us(), 2_510_000);
        assert_eq!(first_begun_after(&writes, 1_000_000).unwrap().ended_us, 3_510_000);
        assert_eq!(stalls(&writes, 500_000), [gap]);
        assert_eq!(stalls(&writes, 2_510_001), []);
    }

    #[test]
    fn what_has_not_ended_is_a_gap_until_now_and_what_was_over_is_none() {
        let writes = acknowledged(&stalled()[..100], 2);
        assert_eq!(
            longest_gap(&writes, 1_000_000, 9_000_000).unwrap(),
            Gap { from_us: 990_000, until_us: 9_000_000 }
        );
        assert_eq!(first_begun_after(&writes, 1_000_000), None);
        let later = acknowledged(&stalled(), 2);
        let gap = longest_gap(&later, 3_505_000, 3_605_000).unwrap();
        assert_eq!(gap.len_us(), 10_000);
        assert_eq!(longest_gap(&[], 0, 1), None);
    }
}
