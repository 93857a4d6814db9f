//! The file system on a node's boot drive, in which its state outlives a power cycle. Made without root.
//!
//! On failure: what `mkfs.ext4` said.

use crate::host::{CommandError, MKE2FS, run_well};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The label by which a node finds it.
const LABEL: &str = "twinrack-state";

/// How long it may take; it takes milliseconds.
const LIMIT: Duration = Duration::from_mins(1);

/// Makes the file system in a sparse file, which stays sparse.
pub(super) fn format(drive: &Path) -> Result<(), CommandError> {
    run_well(&mut command(drive), LIMIT).map(drop)
}

fn command(drive: &Path) -> Command {
    let mut command = Command::new(MKE2FS.file);
    // The file is all zeros, so that nothing must be zeroed: neither now nor, by a thread of the kernel, on the node.
    let options =
        "lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1,nodiscard,root_owner=0:0";
    command.args(["-q", "-F", "-t", "ext4", "-L", LABEL, "-m", "0", "-E", options]).arg(drive);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_file_system_has_the_label_and_takes_little_room() {
        let dir = tempfile::tempdir().unwrap();
        let drive = dir.path().join("n0.drive0");
        File::create(&drive).and_then(|file| file.set_len(256 << 20)).unwrap();
        format(&drive).unwrap();
        let found = fs::metadata(&drive).unwrap();
        assert_eq!(found.len(), 256 << 20);
        assert!(found.blocks() * 512 < 4 << 20, "{} KiB", found.blocks() / 2);
        let bytes = fs::read(&drive).unwrap();
        // Documentation/filesystems/ext4/super.rst: s_magic, s_volume_name.
        assert_eq!(
            (&bytes[1024 + 0x38..][..2], &bytes[1024 + 0x78..][..16]),
            (&b"\x53\xef"[..], &b"twinrack-state\0\0"[..])
        );
    }

    #[test]
    fn a_drive_that_is_too_small_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let drive = dir.path().join("n0.drive0");
        File::create(&drive).and_then(|file| file.set_len(4096)).unwrap();
        let error = crate::chain(&format(&drive).unwrap_err());
        assert!(error.contains("mkfs.ext4") && error.contains(LABEL), "{error}");
    }
}
