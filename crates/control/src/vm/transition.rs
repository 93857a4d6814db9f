//! The one table of what may happen to a virtual machine. [`crate::vm`] has the picture.

use super::{VmPhase, VmRejected};
use serde::{Deserialize, Serialize};

/// A phase without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmKind {
    /// [`VmPhase::Off`].
    Off,
    /// [`VmPhase::Starting`].
    Starting,
    /// [`VmPhase::Restoring`].
    Restoring,
    /// [`VmPhase::Running`].
    Running,
    /// [`VmPhase::Stopping`].
    Stopping,
    /// [`VmPhase::Saving`].
    Saving,
    /// [`VmPhase::Saved`].
    Saved,
    /// [`VmPhase::Migrating`].
    Migrating,
    /// [`VmPhase::Landing`].
    Landing,
}

/// Why a phase changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmCause {
    /// It is to run on a node.
    Placed,
    /// Its node says that it runs, or is about to.
    Began,
    /// Its node says that nothing of it runs.
    Ended,
    /// Its memory is saved.
    Saved,
    /// Its node is lost, or has booted anew; or an operator declared a leg of one of its volumes good, or forced a quorum.
    Lost,
    /// It is wanted stopped.
    Stop,
    /// It is wanted saved, or its node is being emptied.
    Save,
    /// It is to go on elsewhere.
    MigrationBegun,
    /// What is to receive it waits.
    IncomingReady,
    /// Side and volumes have moved.
    Switched,
    /// It stays where it runs; or can't be saved, and runs on.
    Cancelled,
    /// What was saved is not whole, or another run's.
    Spoilt,
    /// An operator declared a leg of one of its volumes good, or forced a quorum: what was saved may not fit to them any more.
    VolumeOverridden,
}

/// All that may happen to a virtual machine.
pub const VMS: [(VmKind, VmCause, VmKind); 32] = {
    use VmCause as C;
    use VmKind::{Landing, Migrating, Off, Restoring, Running, Saved, Saving, Starting, Stopping};
    [
        (Off, C::Placed, Starting),
        (Saved, C::Placed, Restoring),
        (Starting, C::Began, Running),
        (Restoring, C::Began, Running),
        (Landing, C::Began, Running),
        (Starting, C::Ended, Off),
        (Restoring, C::Ended, Saved),
        (Running, C::Ended, Off),
        (Stopping, C::Ended, Off),
        (Saving, C::Ended, Off),
        (Migrating, C::Ended, Off),
        (Landing, C::Ended, Off),
        (Saving, C::Saved, Saved),
        (Saving, C::Cancelled, Running),
        (Restoring, C::Spoilt, Off),
        (Starting, C::Lost, Off),
        (Restoring, C::Lost, Saved),
        (Running, C::Lost, Off),
        (Stopping, C::Lost, Off),
        (Saving, C::Lost, Off),
        (Migrating, C::Lost, Off),
        (Landing, C::Lost, Off),
        (Starting, C::Stop, Stopping),
        (Restoring, C::Stop, Stopping),
        (Running, C::Stop, Stopping),
        (Saved, C::Stop, Off),
        (Running, C::Save, Saving),
        (Running, C::MigrationBegun, Migrating),
        (Migrating, C::IncomingReady, Migrating),
        (Migrating, C::Switched, Landing),
        (Migrating, C::Cancelled, Running),
        (Saved, C::VolumeOverridden, Off),
    ]
};

impl VmPhase {
    /// Without its data.
    pub const fn kind(&self) -> VmKind {
        match self {
            Self::Off => VmKind::Off,
            Self::Starting { .. } => VmKind::Starting,
            Self::Restoring { .. } => VmKind::Restoring,
            Self::Running { .. } => VmKind::Running,
            Self::Stopping { .. } => VmKind::Stopping,
            Self::Saving { .. } => VmKind::Saving,
            Self::Saved => VmKind::Saved,
            Self::Migrating { .. } => VmKind::Migrating,
            Self::Landing { .. } => VmKind::Landing,
        }
    }
}

/// Whether a virtual machine may go so.
pub fn vm(from: &VmPhase, cause: VmCause, to: &VmPhase) -> Result<(), VmRejected> {
    let wanted = (from.kind(), cause, to.kind());
    if VMS.contains(&wanted) { Ok(()) } else { Err(VmRejected::Cannot { phase: from.kind(), cause }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// From one phase a cause leads to one phase: otherwise the log would not say what happened.
    #[test]
    fn a_cause_leads_to_one_phase() {
        let all: BTreeSet<_> = VMS.iter().map(|(from, cause, _)| (from, cause)).collect();
        assert_eq!(all.len(), VMS.len());
    }

    #[test]
    fn what_runs_goes_on_elsewhere_only_by_a_switch_and_runs_twice_never() {
        let moves = VMS.iter().filter(|(from, _, to)| *from == VmKind::Migrating && *to == VmKind::Landing);
        assert_eq!(moves.map(|row| row.1).collect::<Vec<_>>(), [VmCause::Switched]);
        let places = VMS.iter().filter(|row| row.1 == VmCause::Placed).map(|row| row.0);
        assert_eq!(places.collect::<Vec<_>>(), [VmKind::Off, VmKind::Saved], "nothing runs anywhere then");
    }
}
