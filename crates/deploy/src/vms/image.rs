//! An image's contents, written to a volume piece by piece.
//!
//! Every byte is written, zeros too: what the volume held before must not show through. A piece is sent to whoever owns the volume, and is on every copy when
//! that is answered. When the owner changes, or does not answer, the piece is sent again: writing it twice does nothing.
//!
//! On failure: [`super::VmsError`]; what was written stays, and it can be done again from the start.

use super::{VmsError, told};
use crate::Member;
use crate::pool::{POLL, PoolError, chain, confirmed, says};
use api::{Failure, ImageQuery};
use control::State;
use control::vm::VmPhase;
use model::{VmId, VolumeId};
use std::io;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A sector, bytes: pieces are whole ones.
const SECTOR: u64 = 512;

/// Why an image is not written, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum NotWritten {
    /// There is no such volume.
    #[error("there is no {0}")]
    NoVolume(VolumeId),
    /// It does not fit.
    #[error("it has {image_bytes} bytes, and {volume} has {volume_bytes}")]
    TooLarge {
        /// Which volume.
        volume: VolumeId,
        /// What it would have to hold.
        image_bytes: u64,
        /// What it holds.
        volume_bytes: u64,
    },
    /// Its virtual machine may be running on it.
    #[error("{volume} is a disk of {vm}, which is {phase}")]
    InVm {
        /// Which volume.
        volume: VolumeId,
        /// Whose it is.
        vm: VmId,
        /// What that is doing.
        phase: String,
    },
    /// The image can't be read.
    #[error("what comes at byte {at} can't be read")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The volume's owner refuses it.
    #[error("what comes at byte {at} is refused")]
    Refused {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: Box<api::ClientError>,
    },
}

impl NotWritten {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoVolume(_) => "`twinrack volume list` shows names and ids",
            Self::TooLarge { .. } => "`twinrack volume grow` makes the volume larger",
            Self::InVm { .. } => "stop the virtual machine first: `twinrack vm stop`",
            Self::Read { .. } => "see that the file is whole",
            Self::Refused { .. } => "the volume's owner says why; see that nobody has the volume open there",
        }
    }
}

/// Writes `size` bytes to the start of a volume; `read` gives the bytes at a place, and is asked for them in order. The last sector is filled up with zeros. `told` hears
/// how many bytes are written.
///
/// `bound`: how long to wait for any one piece.
pub async fn write(
    members: &[Member],
    volume: VolumeId,
    size: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    bound: Duration,
    mut told: impl FnMut(u64),
) -> Result<(), VmsError> {
    let (_, state) = confirmed(members, bound).await?;
    may_write(&state, volume, size)?;
    let mut owner = owner(members, &state, volume);
    let mut at = 0;
    while at < size {
        let length = (size - at).min(ImageQuery::PIECE_MAX as u64);
        let mut piece = vec![0; usize::try_from(length.next_multiple_of(SECTOR)).unwrap_or(0)];
        let bytes = usize::try_from(length).unwrap_or(0);
        read(at, &mut piece[..bytes]).map_err(|source| NotWritten::Read { at, source })?;
        let deadline = Instant::now() + bound;
        loop {
            let last = match owner {
                None => "nobody who answers owns it".to_owned(),
                Some(member) => match member.client.write_image(volume, at, piece.clone()).await {
                    Ok(()) => break,
                    Err(error) if is_final(&error) => {
                        return Err(NotWritten::Refused { at, source: Box::new(error) }.into());
                    }
                    Err(error) => chain(&error),
                },
            };
            if Instant::now() >= deadline {
                let what = format!("what comes at byte {at} to be written to {volume}");
                return Err(PoolError::Late { what, bound, last: Some(last) }.into());
            }
            sleep(POLL).await;
            let (_, state) = confirmed(members, bound).await?;
            may_write(&state, volume, size)?;
            owner = self::owner(members, &state, volume);
        }
        at += length;
        told(at);
    }
    Ok(())
}

/// Whether asking again would not help. Who does not have the volume, or can't do it now, is asked again: it may be being handed over.
fn is_final(error: &api::ClientError) -> bool {
    let refused = matches!(error.failure(), Some(Failure::Problem { .. }));
    refused && !["not-here", "not-now", "no-ledger"].iter().any(|word| says(error, word))
}

/// Pure.
fn may_write(state: &State, volume: VolumeId, size: u64) -> Result<(), NotWritten> {
    let found = state.volumes.get(&volume).ok_or(NotWritten::NoVolume(volume))?;
    if let Some((vm, used)) = state.vms.of_volume(volume)
        && used.phase != VmPhase::Off
    {
        return Err(NotWritten::InVm { volume, vm, phase: told::phase_in_words(state, &used.phase) });
    }
    if size > found.size_bytes {
        let (image_bytes, volume_bytes) = (size, found.size_bytes);
        return Err(NotWritten::TooLarge { volume, image_bytes, volume_bytes });
    }
    Ok(())
}

fn owner<'a>(members: &'a [Member], state: &State, volume: VolumeId) -> Option<&'a Member> {
    let name = &state.nodes.get(&state.volumes.get(&volume)?.owner)?.name;
    members.iter().find(|member| member.name == *name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{VM, with_vm};
    use super::*;
    use model::VmPlacement;

    #[test]
    fn what_is_too_large_or_for_a_disk_that_may_be_running_is_not_begun() {
        let ledger = with_vm(VmPlacement::Anywhere);
        let size = 1 << 28;
        assert!(may_write(&ledger, VolumeId(2), size).is_ok());
        assert!(matches!(may_write(&ledger, VolumeId(2), size + 1), Err(NotWritten::TooLarge { .. })));
        assert!(matches!(may_write(&ledger, VolumeId(9), 1), Err(NotWritten::NoVolume(_))));
        assert!(matches!(may_write(&ledger, VolumeId(1), 1), Err(NotWritten::InVm { vm: VM, .. })));
    }
}
