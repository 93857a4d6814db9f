//! Nodes as they were when they came: nothing on any drive.
//!
//! Invariants: a drive is only made blank while its machine has no power.
//!
//! On failure: [`LabError`].

use super::plan::DriveRole;
use super::{Lab, LabError, LabNode, state_drive};
use std::fs::OpenOptions;

impl Lab {
    /// Makes every drive of every node blank; the boot drive gets an empty file system. All of them are off.
    pub(crate) fn make_blank(&self) -> Result<(), LabError> {
        self.nodes.values().try_for_each(LabNode::make_blank)
    }
}

impl LabNode {
    fn make_blank(&self) -> Result<(), LabError> {
        if self.has_power() {
            return Err(LabError::Refused {
                node: self.name().to_string(),
                what: "have its drives made blank".to_owned(),
                said: "it has power".to_owned(),
            });
        }
        for (index, drive) in self.plan.drives.iter().enumerate() {
            let path = self.files.drive(index);
            // The same file, of which all is taken away: whoever serves it has it open.
            let file = OpenOptions::new().write(true).open(&path);
            let blank = file.and_then(|file| file.set_len(0).and_then(|()| file.set_len(drive.size_bytes)));
            blank.map_err(|source| LabError::Write { path: path.clone(), source })?;
            if drive.role == DriveRole::Boot {
                state_drive::format(&path).map_err(|source| LabError::StateDrive { path, source })?;
            }
        }
        Ok(())
    }
}
