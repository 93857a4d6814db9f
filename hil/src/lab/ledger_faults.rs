//! What is done to a node's ledger: its file is damaged while the node has no power, or its disk is filled.
//!
//! The file is damaged on the node's boot drive from outside, by `debugfs` (e2fsprogs, which a lab needs anyway): its file system's journal is
//! replayed first, as mounting would. The disk is filled by a file that the node's hands make beside the ledger, to the last block.
//!
//! Invariants: nothing but the ledger's file is changed. Mending takes the file that fills a disk away; what was damaged stays so: the product has
//! to get over it.
//!
//! On failure: [`LabError`].

use super::faults::Made;
use super::plan::DriveRole;
use super::{Lab, LabError, LabNode};
use crate::host::{CommandError, DEBUGFS, E2FSCK, run, run_well};
use crate::suite::Damage;
use model::NodeName;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Where the node's agent has it, on the file system of the boot drive, and where that is on the node.
const LEDGER: &str = "ledger/ledger.redb";
const FILLER: &str = "/var/lib/twinrack/filler";
/// How long a tool may take; it takes milliseconds.
const LIMIT: Duration = Duration::from_mins(1);
/// More blocks than a ledger has.
const BLOCKS_MAX: u64 = 16_384;
/// The first of the file's bytes that may be changed: what says that it is a store stays.
const HEAD_BYTES: u64 = 4096;
/// Documentation/filesystems/ext4/super.rst: the superblock, and its `s_log_block_size`.
const LOG_BLOCK_SIZE_AT: u64 = 1024 + 0x18;

impl LabNode {
    /// Damages its ledger, while it has no power.
    pub(super) fn damage_ledger(&self, how: Damage) -> Result<Made, LabError> {
        let name = self.name().clone();
        let boot = self.plan.drives.iter().position(|drive| drive.role == DriveRole::Boot);
        let refused = |said: &str| LabError::Refused {
            node: name.to_string(),
            what: "have its ledger damaged".to_owned(),
            said: said.to_owned(),
        };
        if self.has_power() {
            return Err(refused("it has power"));
        }
        let path = self.files.drive(boot.ok_or_else(|| refused("it has no boot drive"))?);
        let damaged = damage(&path, how).map_err(|source| LabError::StateDrive { path, source })?;
        if damaged == 0 { Err(refused("it has no ledger")) } else { Ok(Made::Ledger { node: name, how }) }
    }

    /// Takes away what fills its disk.
    pub(super) async fn make_room(&self) -> Result<(), LabError> {
        self.told("make room on its disk", &["@remove", FILLER]).await.map(drop)
    }
}

impl Lab {
    /// Fills the disk that a node's ledger is on.
    pub(crate) async fn fill_ledger_disk(&mut self, name: &NodeName) -> Result<Made, LabError> {
        let node = self.nodes.get(name).ok_or_else(|| LabError::Missing { node: name.to_string() })?;
        node.told("fill its disk", &["@fill", FILLER]).await?;
        let made = Made::LedgerDisk { node: name.clone() };
        self.faults.push(made.clone());
        Ok(made)
    }

    /// A node's ledger is as it was.
    pub(crate) fn ledger_is_back(&mut self, name: &NodeName) {
        self.faults.retain(|made| !matches!(made, Made::Ledger { node, .. } if node == name));
    }
}

/// Damages the ledger on a boot drive; how many of its bytes were changed, or are left.
fn damage(drive: &Path, how: Damage) -> Result<u64, CommandError> {
    // It also says so when there was something to replay.
    run(Command::new(E2FSCK.file).args(["-p"]).arg(drive), LIMIT)?;
    match how {
        Damage::CutOff => {
            let blocks = blocks(drive)?;
            let half = blocks.len() / 2;
            let left = half as u64 * block_bytes(drive).map_err(|source| cant(drive, source))?;
            let cut = format!("set_inode_field {LEDGER} size {left}");
            for order in [cut, format!("punch {LEDGER} {half}")] {
                run_well(Command::new(DEBUGFS.file).args(["-w", "-R", &order]).arg(drive), LIMIT)?;
            }
            Ok(left)
        }
        Damage::Changed => {
            let blocks = blocks(drive)?;
            change(drive, &blocks).map_err(|source| cant(drive, source))
        }
    }
}

fn cant(drive: &Path, source: io::Error) -> CommandError {
    CommandError::Follow { command: format!("change {}", drive.display()), source }
}

/// Changes a byte of each block of the file behind its head; how many.
fn change(drive: &Path, blocks: &[u64]) -> io::Result<u64> {
    let block_bytes = block_bytes(drive)?;
    let file = File::options().read(true).write(true).open(drive)?;
    let skipped = usize::try_from(HEAD_BYTES.div_ceil(block_bytes)).unwrap_or(usize::MAX);
    let mut changed = 0;
    // The middle of a block: its head may be all that a page uses, or not be used at all.
    for block in blocks.iter().skip(skipped).filter(|block| **block != 0) {
        let (at, mut byte) = (block * block_bytes + block_bytes / 2, [0]);
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[!byte[0]], at)?;
        changed += 1;
    }
    file.sync_all()?;
    Ok(changed)
}

fn block_bytes(drive: &Path) -> io::Result<u64> {
    let mut log = [0; 4];
    File::open(drive)?.read_exact_at(&mut log, LOG_BLOCK_SIZE_AT)?;
    Ok(1024 << u32::from_le_bytes(log).min(6))
}

/// Where the file's blocks are, in order; 0 where it has none. What is behind its last one is left out.
fn blocks(drive: &Path) -> Result<Vec<u64>, CommandError> {
    let script = tempfile::NamedTempFile::new().map_err(|source| cant(drive, source))?;
    let lines: Vec<String> = (0..BLOCKS_MAX).map(|block| format!("bmap {LEDGER} {block}")).collect();
    fs::write(script.path(), lines.join("\n")).map_err(|source| cant(drive, source))?;
    let said = run_well(Command::new(DEBUGFS.file).arg("-f").arg(script.path()).arg(drive), LIMIT)?;
    let mut blocks: Vec<u64> = said.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let end = blocks.iter().rposition(|block| *block != 0).map_or(0, |last| last + 1);
    blocks.truncate(end);
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive_with(content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (drive, file) = (dir.path().join("n0.drive0"), dir.path().join("content"));
        File::create(&drive).and_then(|file| file.set_len(64 << 20)).unwrap();
        super::super::state_drive::format(&drive).unwrap();
        fs::write(&file, content).unwrap();
        for line in ["mkdir ledger".to_owned(), format!("write {} {LEDGER}", file.display())] {
            run_well(Command::new(DEBUGFS.file).args(["-w", "-R", &line]).arg(&drive), LIMIT).unwrap();
        }
        (dir, drive)
    }

    fn content(dir: &Path, drive: &Path) -> Vec<u8> {
        let to = dir.join("found");
        let dump = format!("dump {LEDGER} {}", to.display());
        run_well(Command::new(DEBUGFS.file).args(["-R", &dump]).arg(drive), LIMIT).unwrap();
        fs::read(to).unwrap()
    }

    #[test]
    fn a_ledger_is_changed_behind_its_head_or_cut_off_and_the_file_system_stays_whole() {
        let before: Vec<u8> = (0..40_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        for how in [Damage::Changed, Damage::CutOff] {
            let (dir, drive) = drive_with(&before);
            assert!(damage(&drive, how).unwrap() > 0);
            let after = content(dir.path(), &drive);
            match how {
                Damage::Changed => {
                    assert_eq!((after.len(), &after[..4096]), (before.len(), &before[..4096]));
                    let changed = before.iter().zip(&after).filter(|(one, other)| one != other).count();
                    assert!(changed > 5, "{changed} bytes");
                }
                Damage::CutOff => assert!(before.starts_with(&after) && after.len() < 30_000),
            }
            run_well(Command::new(E2FSCK.file).args(["-fn"]).arg(&drive), LIMIT).unwrap();
        }
    }
}
