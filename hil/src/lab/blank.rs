//! Nodes as they were when they came: nothing on any drive.
//!
//! Invariants: a drive is only made blank while its machine has no power.
//!
//! On failure: [`LabError`].

use super::plan::{DriveRole, NodePlan};
use super::qemu::NodeFiles;
use super::{Lab, LabError, LabNode, state_drive};
use model::{DriveSerial, NodeName};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// How much of a drive is looked at, at either end, to tell whether it holds anything.
const ENDS_BYTES: usize = 1 << 20;

impl Lab {
    /// Makes every drive of some nodes blank, or their boot drives alone; those get an empty file system. All of them are off.
    pub(crate) fn make_blank(
        &self,
        which: impl Fn(&NodeName) -> bool,
        keeps_data: bool,
    ) -> Result<(), LabError> {
        let mut nodes = self.nodes.iter().filter(|(name, _)| which(name));
        nodes.try_for_each(|(_, node)| node.make_blank(keeps_data))
    }
}

impl LabNode {
    /// Its data drives that hold something where anybody looks first: in their first and last MiB. Read from outside, past caches of theirs that a loss of power would empty.
    pub(crate) fn drives_that_hold(&self) -> Result<Vec<DriveSerial>, LabError> {
        let mut hold = Vec::new();
        for (index, drive) in self.plan.data_drives() {
            let path = self.files.drive(index);
            let read = |source| LabError::Read { path: path.clone(), source };
            let file = File::open(&path).map_err(read)?;
            let mut bytes = vec![0; ENDS_BYTES];
            for at in [0, drive.size_bytes.saturating_sub(ENDS_BYTES as u64)] {
                file.read_exact_at(&mut bytes, at).map_err(read)?;
                if bytes.iter().any(|byte| *byte != 0) && !hold.contains(&drive.serial) {
                    hold.push(drive.serial.clone());
                }
            }
        }
        Ok(hold)
    }

    fn make_blank(&self, keeps_data: bool) -> Result<(), LabError> {
        if self.has_power() {
            return Err(LabError::Refused {
                node: self.name().to_string(),
                what: "have its drives made blank".to_owned(),
                said: "it has power".to_owned(),
            });
        }
        blank_drives(&self.plan, &self.files, keeps_data)
    }
}

/// Makes a node's drives (or its boot drive alone) as long as they are and blank, the boot drive with an empty file system. Of those that are there the files stay the same ones: whoever serves them has them open.
pub(super) fn blank_drives(plan: &NodePlan, files: &NodeFiles, keeps_data: bool) -> Result<(), LabError> {
    let goes = |drive: &DriveRole| *drive == DriveRole::Boot || !keeps_data;
    for (index, drive) in plan.drives.iter().enumerate().filter(|(_, drive)| goes(&drive.role)) {
        let path = files.drive(index);
        let made = File::create(&path).and_then(|file| file.set_len(drive.size_bytes));
        made.map_err(|source| LabError::Write { path: path.clone(), source })?;
        if drive.role == DriveRole::Boot {
            state_drive::format(&path).map_err(|source| LabError::StateDrive { path, source })?;
        }
    }
    Ok(())
}
