//! A few requests to a device, one after another, each timed: whether it answers, and how fast.
//!
//! Invariants: the page cache is bypassed, so that it is the device that answers. A write writes what a writer's block would hold.
//!
//! On failure: [`ProbeError`] at the first request that fails.

use crate::block::encode;
use crate::{BLOCK_BYTES, BlockNumber, Version};
use rustix::fs::{Mode, OFlags, fdatasync, open};
use rustix::io::{pread, pwrite};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

/// What is asked of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The device, or a file.
    pub device: PathBuf,
    /// What.
    pub what: What,
    /// The block that is read or written.
    pub block: BlockNumber,
    /// How often.
    pub times: u32,
}

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A block is read.
    Read,
    /// A block is written.
    Write,
    /// What was acknowledged is made durable.
    Flush,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The device can't be opened.
    #[error("can't open {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A request failed.
    #[error("{what:?} of block {block} failed")]
    Request {
        /// What was asked.
        what: What,
        /// Of which block.
        block: BlockNumber,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Carries it out; how long each request took, µs.
pub fn probe(probe: &Probe) -> Result<Vec<u64>, ProbeError> {
    let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let device = open(&probe.device, flags, Mode::empty());
    let device =
        device.map_err(|errno| ProbeError::Open { path: probe.device.clone(), source: errno.into() })?;
    let mut memory = vec![0; 2 * BLOCK_BYTES];
    // What bypasses the page cache has to begin at a multiple of the device's block.
    let from = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
    let buffer = &mut memory[from..from + BLOCK_BYTES];
    let at = u64::from(probe.block) * BLOCK_BYTES as u64;
    let mut took_us = Vec::new();
    for sequence in 1..=probe.times {
        buffer.copy_from_slice(&encode(probe.block, Version { run: 0, sequence: sequence.into() }));
        let begun = Instant::now();
        let done = match probe.what {
            What::Read => pread(&device, &mut *buffer, at).map(whole),
            What::Write => pwrite(&device, buffer, at).map(whole),
            What::Flush => fdatasync(&device).map(Ok),
        };
        let failed = |source| ProbeError::Request { what: probe.what, block: probe.block, source };
        done.map_err(|errno| failed(errno.into()))?.map_err(failed)?;
        took_us.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(took_us)
}

fn whole(bytes: usize) -> io::Result<()> {
    if bytes == BLOCK_BYTES { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_timed_and_one_that_fails_is_told() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let device = dir.path().join("device");
        std::fs::write(&device, [0; 2 * BLOCK_BYTES]).unwrap();
        let ask = |what, block| probe(&Probe { device: device.clone(), what, block, times: 3 });
        for what in [What::Write, What::Read, What::Flush] {
            assert_eq!(ask(what, 1).unwrap().len(), 3);
        }
        let content = std::fs::read(&device).unwrap();
        assert_eq!(content[BLOCK_BYTES..], encode(1, Version { run: 0, sequence: 3 }));
        assert_eq!(ask(What::Read, 2).unwrap_err().to_string(), "Read of block 2 failed");
    }
}
