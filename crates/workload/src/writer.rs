//! The writer: several threads that write, and flush now and then, for as long as they may.
//!
//! Invariants: sequences are given and acknowledgements recorded under one lock, so that records are in the order in which the
//! kernel's answers were seen. Writes bypass the page cache (`O_DIRECT`): an acknowledgement is the device's.
//!
//! On failure: [`WriterError`]. The first write or flush that fails ends all threads, each after the write that it has in
//! flight; a write that hangs makes its thread hang.

use crate::block::encode;
use crate::choice::{Choice, Pattern};
use crate::record::{Event, Record};
use crate::{BLOCK_BYTES, BlockNumber, Version};
use rustix::fs::{Mode, OFlags, SeekFrom, fdatasync, open, seek};
use rustix::io::pwrite;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Who looks for a free block again waits so long: all are being written.
const ALL_BUSY: Duration = Duration::from_millis(1);

/// What a writer does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The volume's device, or a file.
    pub device: PathBuf,
    /// Where records go: a file, or a port that leads out of the machine.
    pub log: PathBuf,
    /// Which start this is; greater than that of any earlier writer on this volume.
    pub run: u32,
    /// Draws the blocks.
    pub seed: u64,
    /// How many writes are in flight.
    pub in_flight: u8,
    /// How long each of those who write pauses after a write, ms: writes without an end would take an emulated machine's one processor
    /// from whoever keeps the volume going.
    #[serde(default)]
    pub pause_ms: u16,
    /// Where they go.
    pub pattern: Pattern,
    /// After how many writes a flush follows; 0: never.
    pub flush_every: u64,
    /// How many writes there are in all; `None`: no end.
    pub writes: Option<u64>,
}

/// Why a writer ended.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The volume or the log can't be opened.
    #[error("can't open {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The volume has no whole block, or more than 2³².
    #[error("{} has {bytes} bytes; between one block of {BLOCK_BYTES} bytes and 2^32 of them can be judged", .device.display())]
    Size {
        /// The volume.
        device: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A write failed; it is recorded.
    #[error("write {} to block {block} failed", .version.sequence)]
    Write {
        /// Where.
        block: BlockNumber,
        /// Which.
        version: Version,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A flush failed.
    #[error("a flush failed")]
    Flush(#[source] io::Error),
    /// A record could not be made.
    #[error("can't record in {}", .log.display())]
    Log {
        /// The log.
        log: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

struct Shared {
    choice: Choice,
    last: u64,
    in_flight: BTreeMap<u64, BlockNumber>,
    log: File,
    failed: Option<WriterError>,
}

struct Writer<'a> {
    config: &'a Config,
    device: OwnedFd,
    shared: Mutex<Shared>,
}

/// Writes until all writes are done, or for ever.
pub fn write(config: &Config) -> Result<(), WriterError> {
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source| WriterError::Open { path, source }
    };
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let device = open(&config.device, flags, Mode::empty())
        .map_err(io::Error::from)
        .map_err(failed(&config.device))?;
    let bytes = seek(&device, SeekFrom::End(0)).map_err(io::Error::from).map_err(failed(&config.device))?;
    let blocks = u32::try_from(bytes / BLOCK_BYTES as u64).ok().filter(|blocks| *blocks > 0);
    let blocks = blocks.ok_or_else(|| WriterError::Size { device: config.device.clone(), bytes })?;
    let log = File::options().append(true).create(true).open(&config.log).map_err(failed(&config.log))?;
    let choice = Choice::new(config.seed, blocks, config.pattern);
    let shared = Shared { choice, last: 0, in_flight: BTreeMap::new(), log, failed: None };
    let writer = Writer { config, device, shared: Mutex::new(shared) };
    writer.record(&mut writer.lock(), Event::Begun { run: config.run, blocks }, now())?;
    thread::scope(|scope| {
        for _ in 0..config.in_flight.max(1) {
            scope.spawn(|| {
                if let Err(error) = writer.run() {
                    writer.lock().failed.get_or_insert(error);
                }
            });
        }
    });
    writer.lock().failed.take().map_or(Ok(()), Err)
}

impl Writer<'_> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing panics while it holds this; if it did, the data is whole all the same.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) -> Result<(), WriterError> {
        let mut memory = vec![0; 2 * BLOCK_BYTES];
        // What bypasses the page cache has to begin at a multiple of the device's block.
        let from = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        let buffer = &mut memory[from..from + BLOCK_BYTES];
        while let Some((block, version)) = self.begin() {
            buffer.copy_from_slice(&encode(block, version));
            let began = now();
            let written = self.put(buffer, block);
            let mut shared = self.lock();
            shared.choice.ended(block);
            shared.in_flight.remove(&version.sequence);
            match written {
                Ok(()) => self.record(&mut shared, Event::Acknowledged { block, version }, began)?,
                Err(source) => {
                    let errno = source.raw_os_error().map_or(0, i32::unsigned_abs);
                    self.record(&mut shared, Event::Failed { block, version, errno }, began)?;
                    return Err(WriterError::Write { block, version, source });
                }
            }
            if self.config.flush_every > 0 && version.sequence.is_multiple_of(self.config.flush_every) {
                self.flush(shared)?;
            } else {
                drop(shared);
            }
            if self.config.pause_ms > 0 {
                thread::sleep(Duration::from_millis(self.config.pause_ms.into()));
            }
        }
        Ok(())
    }

    /// The next write; `None`: no more.
    fn begin(&self) -> Option<(BlockNumber, Version)> {
        loop {
            let mut shared = self.lock();
            let all = self.config.writes.is_some_and(|writes| shared.last >= writes);
            if all || shared.failed.is_some() {
                return None;
            }
            if let Some(block) = shared.choice.take() {
                shared.last += 1;
                let sequence = shared.last;
                shared.in_flight.insert(sequence, block);
                return Some((block, Version { run: self.config.run, sequence }));
            }
            drop(shared);
            thread::sleep(ALL_BUSY);
        }
    }

    fn put(&self, mut buffer: &[u8], block: BlockNumber) -> io::Result<()> {
        let mut at = u64::from(block) * BLOCK_BYTES as u64;
        while !buffer.is_empty() {
            let written = pwrite(&self.device, buffer, at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            (buffer, at) = (&buffer[written..], at + written as u64);
        }
        Ok(())
    }

    /// Flushes what was acknowledged up to now.
    fn flush(&self, shared: MutexGuard<'_, Shared>) -> Result<(), WriterError> {
        let oldest = shared.in_flight.keys().next().copied();
        let sequence = oldest.map_or(shared.last, |oldest| oldest - 1);
        drop(shared);
        let began = now();
        fdatasync(&self.device).map_err(|error| WriterError::Flush(error.into()))?;
        let up_to = Version { run: self.config.run, sequence };
        self.record(&mut self.lock(), Event::Flushed { up_to }, began)
    }

    fn record(&self, shared: &mut Shared, event: Event, began: Duration) -> Result<(), WriterError> {
        let ended = now();
        let took_us = u32::try_from(ended.saturating_sub(began).as_micros()).unwrap_or(u32::MAX);
        // Wraps, as documented.
        let ended_ms = (ended.as_millis() & u128::from(u32::MAX)) as u32;
        let record = Record { event, took_us, ended_ms };
        let failed = |source| WriterError::Log { log: self.config.log.clone(), source };
        shared.log.write_all(&record.encode()).map_err(failed)
    }
}

/// Since the machine started, the time while it was suspended included.
fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // Never negative: it counts from the machine's start.
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}
