//! What steps say of drives.

use super::{DriveAt, Step};
use ::drives::fault::Fault;

impl Step {
    /// Which drive it is about.
    pub fn drive(&self) -> Option<DriveAt> {
        match *self {
            Self::DriveErrors { drive, .. }
            | Self::DriveSlow { drive, .. }
            | Self::DriveStuck { drive }
            | Self::DriveWorks { drive }
            | Self::PullDrive { drive }
            | Self::PutDriveBack { drive }
            | Self::KernelSeesDrive { drive, .. }
            | Self::WriteToDrive { drive, .. }
            | Self::OnlyFlushedIsSure { drive }
            | Self::DriveTookAtMost { drive, .. } => Some(drive),
            _ => None,
        }
    }

    /// What it makes of its drive.
    pub fn drive_fault(&self) -> Fault {
        match *self {
            Self::DriveErrors { of, range, .. } => Fault::Errors { of, range },
            Self::DriveSlow { delay_ms, .. } => Fault::Slow { delay_ms },
            Self::DriveStuck { .. } => Fault::Stuck,
            Self::PullDrive { .. } => Fault::Pulled,
            _ => Fault::None,
        }
    }

    /// Whether it makes no sense without a fault that it undoes.
    pub(super) fn only_undoes(&self) -> bool {
        matches!(
            self,
            Self::PowerOn { .. } | Self::Thaw { .. } | Self::DriveWorks { .. } | Self::PutDriveBack { .. }
        )
    }
}
