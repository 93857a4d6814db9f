//! A workload's records as they come, and its node's clock.

use crate::judgement::JudgeError;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use workload::record::{RECORD_BYTES, Record, read_all};

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 16;

/// The end of a file of records, from some moment on.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    at_bytes: u64,
    records: Vec<Record>,
}

impl Tail {
    /// From what is there now on.
    pub(super) fn at_end(path: &Path) -> Result<Self, JudgeError> {
        let at_bytes = match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            found => found.map_err(|source| failed(path, source))?.len(),
        };
        Ok(Self { path: path.to_owned(), at_bytes, records: Vec::new() })
    }

    /// What came since the beginning.
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Takes in what came meanwhile; whether there was something. A record of which a part is there is left for the next time.
    pub(super) fn read(&mut self) -> Result<bool, JudgeError> {
        let file = File::open(&self.path).map_err(|source| failed(&self.path, source))?;
        let before = self.records.len();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read =
                file.read_at(&mut chunk, self.at_bytes).map_err(|source| failed(&self.path, source))?;
            let whole = read - read % RECORD_BYTES;
            let (records, left_bytes) = read_all(&chunk[..whole]);
            if left_bytes > 0 {
                return Err(JudgeError::Records { path: self.path.clone(), left_bytes });
            }
            self.records.extend(records);
            self.at_bytes += whole as u64;
            if read < CHUNK_BYTES {
                return Ok(self.records.len() > before);
            }
        }
    }
}

fn failed(path: &Path, source: io::Error) -> JudgeError {
    JudgeError::Read { path: path.to_owned(), source }
}

/// A node's clock, as far as records tell: one is seen some time after it was made, so that the earliest sight of any is the best.
#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    /// The harness's time less the node's, µs.
    ahead_us: Option<i128>,
}

impl Clock {
    /// Of a node of which nothing was seen yet. No moment before the origin can be told.
    pub(super) fn new(origin: Instant) -> Self {
        Self { origin, ahead_us: None }
    }

    /// The last record was seen at this moment.
    pub(super) fn saw(&mut self, last: Option<&Record>, now: Instant) {
        let Some(record) = last else { return };
        let ahead_us = self.host_us(now) - i128::from(record.ended_ms) * 1000;
        self.ahead_us = Some(self.ahead_us.map_or(ahead_us, |least| least.min(ahead_us)));
    }

    /// A moment by the node's clock, µs.
    pub(super) fn node_us(&self, moment: Instant) -> Option<u64> {
        self.ahead_us.and_then(|ahead_us| u64::try_from(self.host_us(moment) - ahead_us).ok())
    }

    /// The moment of a time by the node's clock, µs.
    pub(super) fn moment(&self, node_us: u64) -> Option<Instant> {
        let host_us = i128::from(node_us) + self.ahead_us?;
        u64::try_from(host_us).ok().map(|us| self.origin + Duration::from_micros(us))
    }

    fn host_us(&self, moment: Instant) -> i128 {
        let after = moment.saturating_duration_since(self.origin).as_micros();
        i128::try_from(after).unwrap_or(i128::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use workload::record::Event;

    fn record(ended_ms: u32) -> Record {
        Record { event: Event::Begun { run: 1, blocks: 4 }, took_us: 1, ended_ms }
    }

    #[test]
    fn records_are_taken_in_as_they_come_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a1.records");
        assert!(Tail::at_end(&path).unwrap().read().is_err(), "nobody has made it");
        std::fs::write(&path, record(1).encode()).unwrap();
        let mut tail = Tail::at_end(&path).unwrap();
        assert!(!tail.read().unwrap());
        let mut file = File::options().append(true).open(&path).unwrap();
        let many: Vec<u8> = (2..5000).flat_map(|ms| record(ms).encode()).collect();
        file.write_all(&many[..many.len() - 5]).unwrap();
        assert!(tail.read().unwrap());
        assert_eq!(tail.records().last(), Some(&record(4998)));
        file.write_all(&many[many.len() - 5..]).unwrap();
        assert!(tail.read().unwrap() && !tail.read().unwrap());
        assert_eq!((tail.records().len(), tail.records().last()), (4998, Some(&record(4999))));
        file.write_all(&[1; RECORD_BYTES]).unwrap();
        assert!(matches!(tail.read(), Err(JudgeError::Records { left_bytes: RECORD_BYTES, .. })));
    }

    #[test]
    fn a_nodes_clock_is_told_by_the_record_that_was_seen_soonest() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let mut clock = Clock::new(origin);
        assert_eq!(clock.node_us(at(1)), None);
        clock.saw(Some(&record(5000)), at(1030));
        clock.saw(Some(&record(5100)), at(1102));
        clock.saw(Some(&record(5200)), at(1290));
        clock.saw(None, at(1300));
        assert_eq!(clock.node_us(at(1202)), Some(5_200_000));
        assert_eq!(clock.moment(5_200_000), Some(at(1202)));
        assert_eq!(clock.moment(0), None, "before anything was known of it");
        // A node that was on for long before, or a moment before it was switched on.
        let mut late = Clock::new(origin);
        late.saw(Some(&record(5)), at(900));
        assert_eq!(late.node_us(at(10)), None);
    }
}
