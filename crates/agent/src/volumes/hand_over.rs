//! Handing a volume of this node over to another: its users go first.
//!
//! Invariants: nobody is asked to end for a hand-over that is refused anyway.
//!
//! On failure: [`VolumesError`]; nothing has changed but that users may have been asked to end.

use super::shell::blocking;
use super::{Volumes, VolumesError, openers};
use api::HandOverRequest;
use model::VolumeId;
use std::sync::Arc;

impl Volumes {
    /// Begins it; the ledger says when it is done. Asked again it changes nothing; of another node, it goes there instead.
    pub(crate) async fn hand_over(&self, request: HandOverRequest) -> Result<(), VolumesError> {
        let HandOverRequest { volume, to, end_users } = request;
        let running = self.running()?;
        running.shell.hand_over(volume, to, false).await?;
        let place = Arc::clone(&running.place);
        let used_by = blocking(move || {
            let engine = place.own_engine()?;
            let devices = engine.users_devices(volume)?;
            let processes = openers::count(&devices);
            if end_users {
                openers::ask_to_end(&devices);
            }
            Ok((processes, engine.open_count(volume)?))
        });
        may_go(volume, used_by.await?, end_users)?;
        running.shell.hand_over(volume, to, true).await
    }
}

/// Whether what uses a volume may be in its way: so many processes, and so often is it open.
fn may_go(volume: VolumeId, used_by: (usize, usize), end_users: bool) -> Result<(), VolumesError> {
    match used_by {
        // What is mounted, or stands on it, nobody can be asked to end.
        (0, 1..) => Err(VolumesError::Mounted { volume }),
        (count, _) if count > 0 && !end_users => Err(VolumesError::InUse { volume, count }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_asked_to_end_if_that_is_wanted_and_nobody_for_what_is_mounted() {
        let may = |used_by, end_users| may_go(VolumeId(1), used_by, end_users);
        assert!(may((0, 0), false).is_ok() && may((2, 3), true).is_ok());
        assert!(matches!(may((2, 3), false), Err(VolumesError::InUse { count: 2, .. })));
        for end_users in [false, true] {
            assert!(matches!(may((0, 1), end_users), Err(VolumesError::Mounted { .. })));
        }
    }
}
