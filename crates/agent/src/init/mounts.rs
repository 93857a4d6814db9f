//! The kernel's own file systems.

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::io;

/// A file system without which nothing works.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountError {
    #[error("can't make the directory {target}")]
    Directory {
        target: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("can't mount {kind} on {target}")]
    Mount {
        kind: &'static str,
        target: &'static str,
        #[source]
        source: Errno,
    },
}

/// Mounts what the agent needs. What is already mounted stays.
pub(super) fn kernel_file_systems() -> Result<(), MountError> {
    let hardened = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, target, flags) in [
        ("proc", "/proc", hardened),
        ("sysfs", "/sys", hardened),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV),
    ] {
        fs::create_dir_all(target).map_err(|source| MountError::Directory { target, source })?;
        match mount(kind, target, kind, flags, None) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(source) => return Err(MountError::Mount { kind, target, source }),
        }
    }
    Ok(())
}

/// Where NVMe targets are made; there once its module is loaded. A witness does without.
pub(super) fn configfs() {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("configfs", "/sys/kernel/config", "configfs", flags, None) {
        Ok(()) | Err(Errno::BUSY | Errno::NOENT | Errno::NODEV) => {}
        Err(errno) => eprintln!("twinrackd init: can't mount configfs: {errno}"),
    }
}
