//! What tells one life of a drive from the next, and what its drive has counted in it.
//!
//! A drive that was pulled and put back, or whose power failed, may have forgotten what it had acknowledged; one whose medium failed may give
//! back less than it was given (design notes, rules 4 and 10). Neither need be seen as an error of a request.
//!
//! On failure: [`StepError`]. What is no NVMe drive counts nothing.

use super::StepError;
use super::sysfs;
use nvme::{Controller, Health};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A drive as the kernel has found it: another number after it was gone and came back. The number of its controller's folder in sysfs, which
/// the kernel gives out in turn (fs/kernfs/dir.c, `__kernfs_new_node`).
pub(super) fn appearance(device: &Path) -> Option<u64> {
    let name = controller_of(device)?;
    fs::metadata(Path::new("/sys/class/nvme").join(name)).ok().map(|folder| folder.ino())
}

/// Its health log.
pub(super) fn health(device: &Path) -> Result<Option<Health>, StepError> {
    Ok(controller(device)?.map(|drive| drive.health()).transpose()?)
}

/// The controller of a block device, if it is an NVMe drive of this machine.
pub(super) fn controller(device: &Path) -> Result<Option<Controller>, StepError> {
    let name = controller_of(device);
    Ok(name.map(|name| Controller::open(&Path::new("/dev").join(name))).transpose()?)
}

/// The controller in this machine: what `device` is, or with multipath one of those that its subsystem lists.
fn controller_of(device: &Path) -> Option<String> {
    let folder = Path::new("/sys/block").join(device.file_name()?);
    let device: PathBuf = fs::canonicalize(folder.join("device")).ok()?;
    let itself = device.file_name()?.to_str()?.to_owned();
    let transport =
        |name: &String| sysfs::read_if_there(&Path::new("/sys/class/nvme").join(name).join("transport"));
    std::iter::once(itself)
        .chain(sysfs::names(&device))
        .find(|name| transport(name).as_deref() == Some("pcie"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_drive_of_this_machine_has_no_life_and_counts_nothing() {
        let device = Path::new("/dev/no-such-drive");
        assert_eq!(appearance(device), None);
        assert_eq!(health(device).unwrap(), None);
    }
}
