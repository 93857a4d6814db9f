//! What the writer tells of, as it happens: records of 32 bytes, one after another. Little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | kind: 1 begun, 2 acknowledged, 3 flushed, 4 failed |
//! | 1 | 3 | zero |
//! | 4 | 4 | run |
//! | 8 | 8 | sequence; of a run that began 0; of a flush the greatest that was acknowledged before it was asked for |
//! | 16 | 4 | block number; of a run that began how many blocks there are; of a flush 0 |
//! | 20 | 4 | how long it took, µs, at most 2³²−1; of a failure the kernel's error number |
//! | 24 | 4 | when it ended, ms of the machine's clock that runs while it is suspended |
//! | 28 | 4 | CRC-32 (IEEE 802.3) of the 28 bytes before |
//!
//! On failure: [`read_all`] stops at the first record that is not whole and says how much it left.

use crate::{BlockNumber, Version};

/// How long a record is.
pub const RECORD_BYTES: usize = 32;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What.
    pub event: Event,
    /// How long it took, µs; more than 71 minutes count as that.
    pub took_us: u32,
    /// When it ended, ms since the machine started (`CLOCK_BOOTTIME`); wraps after 49 days.
    pub ended_ms: u32,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A writer begins.
    Begun {
        /// Its run.
        run: u32,
        /// How many blocks the volume has.
        blocks: u32,
    },
    /// A write was acknowledged.
    Acknowledged {
        /// Where.
        block: BlockNumber,
        /// Which.
        version: Version,
    },
    /// A flush was acknowledged.
    Flushed {
        /// The last write that had been acknowledged when the flush was asked for; all before it, too.
        up_to: Version,
    },
    /// A write failed. It may have happened or not.
    Failed {
        /// Where.
        block: BlockNumber,
        /// Which.
        version: Version,
        /// The kernel's error number.
        errno: u32,
    },
}

impl Record {
    /// Which run of the writer it is of.
    pub fn run(&self) -> u32 {
        match self.event {
            Event::Begun { run, .. } => run,
            Event::Flushed { up_to: version }
            | Event::Acknowledged { version, .. }
            | Event::Failed { version, .. } => version.run,
        }
    }

    /// As it is logged.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let (kind, version, block, number) = match self.event {
            Event::Begun { run, blocks } => (1, Version { run, sequence: 0 }, blocks, self.took_us),
            Event::Acknowledged { block, version } => (2, version, block, self.took_us),
            Event::Flushed { up_to } => (3, up_to, 0, self.took_us),
            Event::Failed { block, version, errno } => (4, version, block, errno),
        };
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&version.run.to_le_bytes());
        bytes[8..16].copy_from_slice(&version.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&block.to_le_bytes());
        bytes[20..24].copy_from_slice(&number.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.ended_ms.to_le_bytes());
        let sum = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// `None`: it is no record, or not whole.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let word = |from: usize| {
            bytes.get(from..from + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
        };
        if word(28) != crc32fast::hash(&bytes[..28]) || bytes[1..4] != [0; 3] {
            return None;
        }
        let version = Version { run: word(4), sequence: u64::from(word(8)) | u64::from(word(12)) << 32 };
        let (block, number) = (word(16), word(20));
        let (event, took_us) = match bytes[0] {
            1 => (Event::Begun { run: version.run, blocks: block }, number),
            2 => (Event::Acknowledged { block, version }, number),
            3 => (Event::Flushed { up_to: version }, number),
            4 => (Event::Failed { block, version, errno: number }, 0),
            _ => return None,
        };
        Some(Self { event, took_us, ended_ms: word(24) })
    }
}

/// All records of a log, and how many bytes behind them are none.
pub fn read_all(log: &[u8]) -> (Vec<Record>, usize) {
    let (pieces, _) = log.as_chunks::<RECORD_BYTES>();
    let records: Vec<Record> = pieces.iter().map_while(Record::decode).collect();
    let left = log.len() - records.len() * RECORD_BYTES;
    (records, left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version() -> impl Strategy<Value = Version> {
        (any::<u32>(), any::<u64>()).prop_map(|(run, sequence)| Version { run, sequence })
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (any::<u32>(), any::<u32>()).prop_map(|(run, blocks)| Event::Begun { run, blocks }),
            (any::<u32>(), version()).prop_map(|(block, version)| Event::Acknowledged { block, version }),
            version().prop_map(|up_to| Event::Flushed { up_to }),
            (any::<u32>(), version(), any::<u32>()).prop_map(|(block, version, errno)| Event::Failed {
                block,
                version,
                errno
            }),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back_and_a_torn_end_is_left(
            events in prop::collection::vec((event(), any::<u32>(), any::<u32>()), 0..9), cut in 0..RECORD_BYTES,
        ) {
            let record = |(event, took_us, ended_ms): (Event, u32, u32)| {
                let took_us = if matches!(event, Event::Failed { .. }) { 0 } else { took_us };
                Record { event, took_us, ended_ms }
            };
            let mut records: Vec<Record> = events.into_iter().map(record).collect();
            let mut log: Vec<u8> = records.iter().flat_map(Record::encode).collect();
            log.truncate(log.len().saturating_sub(cut));
            let (read, left) = read_all(&log);
            if cut > 0 {
                records.pop();
            }
            prop_assert_eq!(&read, &records);
            prop_assert_eq!(left, log.len() - records.len() * RECORD_BYTES);
        }

        #[test]
        fn one_wrong_bit_ends_the_log(event in event(), bit in 0..RECORD_BYTES * 8) {
            let mut bytes = Record { event, took_us: 0, ended_ms: 5 }.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read_all(&bytes), (Vec::new(), RECORD_BYTES));
        }
    }
}
