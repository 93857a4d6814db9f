//! The writer and the judge together, on files.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use tempfile::TempDir;
use workload::choice::Pattern;
use workload::judge::{Durable, Promises, Verdict, judge};
use workload::record::{Event, read_all};
use workload::writer::{Config, WriterError, write};
use workload::{BLOCK_BYTES, BlockNumber};

const BLOCKS: u32 = 64;

fn config(directory: &TempDir, run: u32) -> Config {
    Config {
        device: directory.path().join("volume"),
        log: directory.path().join("log"),
        run,
        seed: 5,
        in_flight: 8,
        pause_ms: 0,
        pattern: Pattern { warm_blocks: 12, warm_percent: 50 },
        flush_every: 50,
        writes: Some(300),
    }
}

/// In the directory of the build: what bypasses the page cache needs a disk's filesystem.
fn volume() -> TempDir {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = File::create(directory.path().join("volume")).unwrap();
    file.set_len(u64::from(BLOCKS) * BLOCK_BYTES as u64).unwrap();
    directory
}

fn judged(config: &Config) -> (Promises, Verdict) {
    let (records, left) = read_all(&fs::read(&config.log).unwrap());
    assert_eq!(left, 0);
    let promises = Promises::of(&records, Durable::WhenAcknowledged);
    let file = File::open(&config.device).unwrap();
    let read = |block: BlockNumber| {
        let mut bytes = [0; BLOCK_BYTES];
        file.read_exact_at(&mut bytes, u64::from(block) * BLOCK_BYTES as u64).map(|()| bytes)
    };
    let verdict = judge(&promises, read).unwrap();
    (promises, verdict)
}

#[test]
fn everything_written_is_found_and_a_write_taken_back_is_missed() {
    let directory = volume();
    let first = config(&directory, 1);
    write(&first).unwrap();
    let (promises, verdict) = judged(&first);
    assert_eq!((promises.acknowledged, promises.failed, promises.blocks), (300, 0, BLOCKS));
    assert!(verdict.is_good(), "{verdict:?}");
    let before = fs::read(&first.device).unwrap();
    write(&config(&directory, 2)).unwrap();
    assert!(judged(&first).1.is_good());
    // One block as the run before left it.
    let file = File::options().write(true).open(&first.device).unwrap();
    file.write_all_at(&before[..BLOCK_BYTES], 0).unwrap();
    assert_eq!(judged(&first).1.wrong, 1);
}

#[test]
fn a_flush_promises_only_what_had_been_acknowledged() {
    let directory = volume();
    let config = config(&directory, 1);
    write(&config).unwrap();
    let (records, _) = read_all(&fs::read(&config.log).unwrap());
    let mut acknowledged = BTreeSet::new();
    let mut flushes = 0;
    for record in records {
        match record.event {
            Event::Acknowledged { version, .. } => {
                acknowledged.insert(version.sequence);
            }
            Event::Flushed { up_to } => {
                flushes += 1;
                assert!((1..=up_to.sequence).all(|sequence| acknowledged.contains(&sequence)));
            }
            Event::Begun { .. } | Event::Failed { .. } => {}
        }
    }
    assert_eq!(flushes, 6);
}

#[test]
fn what_can_t_be_written_is_said() {
    let directory = volume();
    let missing = Config { device: directory.path().join("none"), ..config(&directory, 1) };
    assert!(matches!(write(&missing), Err(WriterError::Open { path, .. }) if path == missing.device));
    File::create(directory.path().join("small")).unwrap();
    let small = Config { device: directory.path().join("small"), ..config(&directory, 1) };
    assert!(matches!(write(&small), Err(WriterError::Size { bytes: 0, .. })));
}
