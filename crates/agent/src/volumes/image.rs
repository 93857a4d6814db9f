//! Images of virtual machines, written to volumes of this node piece by piece.
//!
//! Invariants: nothing is written while anybody has the volume open, or while its virtual machine is not off. Whoever was answered knows that the piece is
//! on every copy: it is flushed.
//!
//! On failure: [`VolumesError`]; of the piece nothing, a part, or all may be written. It can be sent again.

use super::shell::blocking;
use super::{Volumes, VolumesError, openers};
use api::ImageQuery;
use control::vm::VmPhase;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A sector, bytes.
const SECTOR: u64 = 512;

impl Volumes {
    /// Writes a piece there.
    pub(crate) async fn write_image(&self, to: ImageQuery, piece: Vec<u8>) -> Result<(), VolumesError> {
        let running = self.running()?;
        let (volume, offset, len) = (to.volume(), to.offset, piece.len());
        let state = Arc::clone(&running.ledger.state().borrow());
        if let Some((vm, found)) = state.vms.of_volume(volume)
            && found.phase != VmPhase::Off
        {
            return Err(VolumesError::InVm { volume, vm });
        }
        let whole = offset.is_multiple_of(SECTOR) && (len as u64).is_multiple_of(SECTOR);
        let size = state.volumes.get(&volume).map_or(0, |found| found.size_bytes);
        if !whole || len == 0 || offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(VolumesError::BadPiece { volume, offset, len });
        }
        let place = Arc::clone(&running.place);
        blocking(move || {
            let engine = place.own_engine()?;
            let device = engine.top(volume)?.ok_or(VolumesError::NotHere(volume))?;
            match (openers::count(&engine.users_devices(volume)?), engine.open_count(volume)?) {
                (0, 0) => {}
                (0, _) => return Err(VolumesError::Mounted { volume }),
                (count, _) => return Err(VolumesError::InUse { volume, count }),
            }
            let failed = |source| VolumesError::Image { volume, source };
            let file = File::options().write(true).open(&device).map_err(failed)?;
            file.write_all_at(&piece, offset).and_then(|()| file.sync_all()).map_err(failed)
        })
        .await
    }
}
