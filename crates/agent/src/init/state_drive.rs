//! The drive that keeps state over a power cycle: the file system with the label [`LABEL`], on a drive of this machine.
//!
//! Who made the node made the file system (the lab's harness; an installer). Found by its label, which is read from the
//! superblock here, since there is no udev to do it. No check is run: the journal is replayed by mounting.
//!
//! On failure: one line on the console; the node goes on without, as one whose state ends with its power.

use rustix::fs::{FsWord, StatFs, statfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount as mount_at};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file system's label.
const LABEL: &str = "twinrack-state";
/// Where it is mounted.
const TARGET: &str = "/var/lib/twinrack";
/// What it is told: after an error nothing is written any more, instead of something wrong.
const OPTIONS: &std::ffi::CStr = c"errors=remount-ro";

/// Where the superblock is, and its fields (Documentation/filesystems/ext4/super.rst).
const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC_AT: usize = 0x38;
const MAGIC: [u8; 2] = 0xef53_u16.to_le_bytes();
const LABEL_AT: usize = 0x78;
const LABEL_BYTES: usize = 16;

/// File systems that live in memory (linux/magic.h): what is there ends with the power.
const IN_MEMORY: [FsWord; 2] = [0x0102_1994, 0x8584_58f6];

#[derive(Debug, thiserror::Error)]
enum StateDriveError {
    #[error("no drive has a file system labelled {LABEL}")]
    None,
    #[error("several drives have a file system labelled {LABEL}: {found}")]
    Several { found: String },
    #[error("can't make {TARGET}")]
    Directory(#[source] io::Error),
    #[error("can't mount {}", device.display())]
    Mount {
        device: PathBuf,
        #[source]
        source: Errno,
    },
}

/// Mounts the state drive, if there is one.
pub(super) fn mount() {
    if let Err(error) = try_mount() {
        eprintln!("twinrackd init: state does not outlive a power cycle: {}", crate::chain(&error));
    }
}

fn try_mount() -> Result<(), StateDriveError> {
    let device = the_one(labelled(Path::new("/sys/block"), Path::new("/dev")))?;
    fs::create_dir_all(TARGET).map_err(StateDriveError::Directory)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    match mount_at(&device, TARGET, "ext4", flags, OPTIONS) {
        Ok(()) => Ok(()),
        Err(source) => Err(StateDriveError::Mount { device, source }),
    }
}

/// Two with the label are one too many: taking either could bring back an old state.
fn the_one(mut found: Vec<PathBuf>) -> Result<PathBuf, StateDriveError> {
    match found.pop() {
        None => Err(StateDriveError::None),
        Some(device) if found.is_empty() => Ok(device),
        Some(device) => {
            let names: Vec<_> =
                found.iter().chain([&device]).map(|path| path.display().to_string()).collect();
            Err(StateDriveError::Several { found: names.join(", ") })
        }
    }
}

/// The whole drives with the label; partitions are not looked for.
fn labelled(block: &Path, dev: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(block).into_iter().flatten().flatten();
    // Loop, md, dm and the like have no device behind them.
    let drives = entries.filter(|entry| entry.path().join("device").exists());
    let mut found: Vec<_> =
        drives.map(|entry| dev.join(entry.file_name())).filter(|path| has_label(path)).collect();
    found.sort();
    found
}

/// A drive that can't be read has no label.
fn has_label(device: &Path) -> bool {
    let mut superblock = [0; SUPERBLOCK_BYTES];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut superblock, SUPERBLOCK_OFFSET));
    read.is_ok() && label(&superblock) == Some(LABEL.as_bytes())
}

fn label(superblock: &[u8; SUPERBLOCK_BYTES]) -> Option<&[u8]> {
    let is_ext = superblock[MAGIC_AT..].starts_with(&MAGIC);
    is_ext.then(|| superblock[LABEL_AT..][..LABEL_BYTES].split(|byte| *byte == 0).next())?
}

/// Where state is kept that shall outlive a power cycle, if there is such a place: the directory is there, and its file system
/// is not in memory. Under a distribution's init it is the unit's `StateDirectory=`, under our own the state drive.
pub(crate) fn durable_state_dir() -> Option<&'static Path> {
    let directory = Path::new(TARGET);
    statfs(directory).is_ok_and(|found| outlives_power(&found)).then_some(directory)
}

fn outlives_power(found: &StatFs) -> bool {
    !IN_MEMORY.contains(&found.f_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ext file system's beginning.
    fn file_system(label: &str) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let superblock = &mut bytes[1024..2048];
        superblock[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&[0x53, 0xef]);
        superblock[LABEL_AT..LABEL_AT + label.len()].copy_from_slice(label.as_bytes());
        bytes
    }

    #[test]
    fn drives_are_found_by_their_whole_label() {
        let dir = tempfile::tempdir().unwrap();
        let (block, dev) = (dir.path().join("block"), dir.path().join("dev"));
        fs::create_dir(&dev).unwrap();
        let drive = |name: &str, bytes: &[u8], device: &str| {
            fs::create_dir_all(block.join(name).join(device)).unwrap();
            fs::write(dev.join(name), bytes).unwrap();
        };
        drive("nvme0n1", &file_system("twinrack-state-2"), "device");
        drive("nvme1n1", &[0; 512], "device");
        drive("nvme2n1", &file_system("twinrack"), "device");
        let mut damaged = file_system(LABEL);
        damaged[1024 + MAGIC_AT] = 0;
        drive("nvme3n1", &damaged, "device");
        drive("loop0", &file_system(LABEL), "queue");
        assert!(matches!(the_one(labelled(&block, &dev)), Err(StateDriveError::None)));
        drive("nvme5n1", &file_system(LABEL), "device");
        assert_eq!(the_one(labelled(&block, &dev)).unwrap(), dev.join("nvme5n1"));
        drive("nvme4n1", &file_system(LABEL), "device");
        let error = the_one(labelled(&block, &dev)).unwrap_err().to_string();
        assert!(error.contains("dev/nvme4n1, ") && error.ends_with("dev/nvme5n1"), "{error}");
    }

    #[test]
    fn a_label_may_fill_its_field() {
        let mut superblock = [0; SUPERBLOCK_BYTES];
        superblock.copy_from_slice(&file_system("0123456789abcdef")[1024..2048]);
        assert_eq!(label(&superblock), Some(&b"0123456789abcdef"[..]));
    }

    #[test]
    fn what_is_in_memory_does_not_outlive_the_power() {
        // procfs stands for any file system that is neither tmpfs nor ramfs.
        assert!(outlives_power(&statfs("/proc").unwrap()));
        assert!(!outlives_power(&statfs("/dev/shm").unwrap()));
    }
}
