//! The guest as bytes of a disk, and its lines as the judge's records.

use crate::format::{DATA_OFFSET, PARAMS_SECTOR, Params, RUN_SECTOR, SECTOR_BYTES, Said, encode_run};
use workload::Version;
use workload::record::{Event, Record};

/// The guest as the build script made it: a boot sector and what it loads.
static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pulse.bin"));

/// Parameters with which a guest would do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It would beat without a pause.
    #[error("the time between beats is 0 ms")]
    NoPause,
    /// It would never write.
    #[error("no write is in flight, or none begins at a beat")]
    NoWrites,
}

/// What a disk begins with so that this guest boots from it. All behind it, up to the disk's end, must be zeros, or what such a
/// guest has written.
pub fn image(params: &Params) -> Result<Vec<u8>, ImageError> {
    if params.beat_ms == 0 {
        return Err(ImageError::NoPause);
    }
    if params.in_flight == 0 || params.writes_per_beat == 0 {
        return Err(ImageError::NoWrites);
    }
    let mut image = GUEST.to_vec();
    image.resize(image.len().next_multiple_of(SECTOR_BYTES), 0);
    for (sector, contents) in [(PARAMS_SECTOR, params.encode()), (RUN_SECTOR, encode_run(0))] {
        let at = sector as usize * SECTOR_BYTES;
        image[at..at + SECTOR_BYTES].copy_from_slice(&contents);
    }
    debug_assert!(image.len() as u64 <= DATA_OFFSET, "the build script checks it");
    Ok(image)
}

/// The records of a virtual machine that are among these bytes of its serial port, for `workload::judge`, and everything that it
/// said. What is not whole is passed over: it promises nothing.
pub fn records(console: &[u8], vm: u32) -> (Vec<Record>, Vec<Said>) {
    let said = console.split(|byte| *byte == b'\n').filter_map(|line| Said::parse(from_mark(line)));
    let said: Vec<Said> = said.filter(|said| said.vm() == vm).collect();
    (said.iter().filter_map(Said::record).collect(), said)
}

/// A line from the last mark on: one that was cut off has no end, and the next one stands behind it.
fn from_mark(line: &[u8]) -> &[u8] {
    line.iter().rposition(|byte| *byte == b'~').map_or(line, |at| &line[at..])
}

impl Said {
    /// Who says it.
    pub fn vm(&self) -> u32 {
        match *self {
            Self::Started { vm, .. }
            | Self::Acknowledged { vm, .. }
            | Self::Flushed { vm, .. }
            | Self::Failed { vm, .. }
            | Self::Beat { vm, .. }
            | Self::Stopped { vm, .. } => vm,
        }
    }

    /// What the judge is to know of it.
    fn record(&self) -> Option<Record> {
        Some(match *self {
            Self::Started { run, blocks, ms, .. } => {
                Record { event: Event::Begun { run, blocks }, took_us: 0, ended_ms: ms }
            }
            Self::Acknowledged { run, sequence, block, took_us, ms, .. } => {
                let event = Event::Acknowledged { block, version: Version { run, sequence } };
                Record { event, took_us, ended_ms: ms }
            }
            Self::Flushed { run, up_to, took_us, ms, .. } => {
                let event = Event::Flushed { up_to: Version { run, sequence: up_to } };
                Record { event, took_us, ended_ms: ms }
            }
            Self::Failed { run, sequence, block, status, ms, .. } => {
                let event = Event::Failed { block, version: Version { run, sequence }, errno: status.into() };
                Record { event, took_us: 0, ended_ms: ms }
            }
            Self::Beat { .. } | Self::Stopped { .. } => return None,
        })
    }
}
