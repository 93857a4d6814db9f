//! A virtual machine's memory on a block device or in a file, and back.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `twrsaved` |
//! | 8 | 4 | virtual machine |
//! | 12 | 4 | generation that was saved |
//! | 16 | 8 | length of what follows from byte 4096 on |
//! | 24 | 4 | its CRC-32 |
//! | 28 | 4 | which try at saving it that was |
//! | 32 | 4 | CRC-32 of the 32 bytes before |
//! | 4096 | | what QEMU sends when a machine moves |
//!
//! Purpose: [`device`] writes and reads it, in a process of its own ([`keeper`]): one that waits for a device can be killed, as anybody who has a device open can, and what it is told of its writes is told to nobody then.
//!
//! Invariants: the header is there only when all behind it is on the disk: it is wiped, flushed, before anything is written, and written, flushed, at the end. What is
//! not whole is never let run: QEMU may have taken it, but [`load`] says so, and the machine is killed.
//!
//! On failure: [`SavedError`]; a machine that was being saved stands still or runs, and can be let run.

mod device;
mod keeper;

use crate::instance::{Instance, InstanceError, Limits, Phase, Sending, Switchover};
pub use keeper::{Place, keep};
use model::{Generation, SaveTry, VmId};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

const MAGIC: [u8; 8] = *b"twrsaved";
const HEADER_BYTES: usize = 4096;
/// As long as it may run: a few pages at a time, so that it is looked at before all is sent.
const LIMITS: Limits = Limits { bandwidth: 40 << 10, downtime: Duration::ZERO };
/// As fast as it goes, once it stands still.
const FAST: Limits = Limits { bandwidth: 1 << 40, downtime: Duration::from_secs(1) };
/// How long a device may take to be opened, or for a header: to read, to wipe, to write with all before it flushed.
pub const HEADER_MAX: Duration = Duration::from_secs(30);

/// How long nothing may come, or be written, while it is saved: it stands still for that.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Why it could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file, or the socket to QEMU.
    #[error("can't {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: String,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Who writes and reads there has ended, or was killed.
    #[error("who has {} open has ended", .path.display())]
    Ended {
        /// Where.
        path: PathBuf,
    },
    /// Somebody is at it: a try that was given up, and whose last write has not ended.
    #[error("{} is being written or read", .path.display())]
    Busy {
        /// Which.
        path: PathBuf,
    },
    /// Nothing was saved there, or not all of it.
    #[error("{} holds no saved machine, or not all of one", .path.display())]
    Nothing {
        /// Where.
        path: PathBuf,
    },
    /// It is another's, another run's, or another try's.
    #[error("{} holds {found}, saved in {generation} by {which}", .path.display())]
    Other {
        /// Where.
        path: PathBuf,
        /// Whose.
        found: VmId,
        /// Which run of it.
        generation: Generation,
        /// Which try.
        which: SaveTry,
    },
    /// What was saved does not run any more: it had switched itself off, or had broken.
    #[error("{} holds a machine that is {phase:?}", .path.display())]
    Over {
        /// Where.
        path: PathBuf,
        /// How it is.
        phase: Phase,
    },
    /// Whoever wanted it saved wants it no more.
    #[error("it shall not be saved any more")]
    BrokenOff,
    /// It is not what was written.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
    },
}

impl SavedError {
    /// Whether what is there will never do: trying again would not help.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Nothing { .. } | Self::Other { .. } | Self::Damaged { .. } | Self::Over { .. })
    }
}

fn failed(what: &str, path: &Path) -> impl Fn(io::Error) -> SavedError + use<> {
    let (what, path) = (what.to_owned(), path.to_owned());
    move |source| SavedError::Io { what: what.clone(), path: path.clone(), source }
}

/// What was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Which machine.
    pub vm: VmId,
    /// Which run of it.
    pub generation: Generation,
    /// Which try at saving it.
    pub which: SaveTry,
    /// How much, bytes.
    pub bytes: u64,
    sum: u32,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&self.vm.0.to_le_bytes());
        header[12..16].copy_from_slice(&self.generation.0.to_le_bytes());
        header[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        header[24..28].copy_from_slice(&self.sum.to_le_bytes());
        header[28..32].copy_from_slice(&self.which.0.to_le_bytes());
        let sum = crc32fast::hash(&header[..32]);
        header[32..36].copy_from_slice(&sum.to_le_bytes());
        header
    }

    fn decode(header: &[u8]) -> Option<Self> {
        let word = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        if !header.starts_with(&MAGIC) || word(32)? != crc32fast::hash(&header[..32]) {
            return None;
        }
        let bytes = u64::from(word(16)?) | u64::from(word(20)?) << 32;
        let (vm, generation) = (VmId(word(8)?), Generation(word(12)?));
        Some(Self { vm, generation, which: SaveTry(word(28)?), bytes, sum: word(24)? })
    }
}

/// Makes it stand still and saves its memory. At the end it is [`Phase::Sent`]: it can be killed, or let run, after which what was saved is worth nothing.
///
/// One that has sent all of it before is let run for a moment, since QEMU sends nothing twice: whoever saves it sees to it that it may run. What this try has saved already is left as it is. As long as nothing has been closed
/// it may be broken off, whatever it waits for. Whatever comes of it, [`Place::may_hold`] says whether what is there must be wiped before the machine runs.
pub async fn save(
    instance: &mut Instance,
    place: &mut Place,
    which: SaveTry,
    within: Duration,
    broken_off: impl Future<Output = ()>,
) -> Result<Header, InstanceError> {
    let header = tokio::select! {
        biased;
        () = broken_off => return Err(SavedError::BrokenOff.into()),
        sent = all_sent(instance, place, which, within) => match sent? {
            Sent::Before(header) => return Ok(header),
            Sent::Now(header) => header,
        },
    };
    soon(within, place.close(header)).await?;
    Ok(header)
}

/// All of it is there.
enum Sent {
    /// And that was said, by this very try.
    Before(Header),
    /// And has to be said yet.
    Now(Header),
}

/// What is written before anything is said of it.
async fn all_sent(
    instance: &mut Instance,
    place: &mut Place,
    which: SaveTry,
    within: Duration,
) -> Result<Sent, InstanceError> {
    if let Some(header) = saved_before(instance, place, which, within).await? {
        return Ok(Sent::Before(header));
    }
    soon(within, place.wipe()).await?;
    if instance.phase().await? == Phase::Sent {
        instance.resume().await?;
    }
    let socket = instance.process().places().outgoing();
    soon(within, place.listen(&socket)).await?;
    // It is told to send before it stands still: one that stands still and was told nothing would be nobody's, were whoever saves it killed now.
    instance.send(&socket, Switchover::AtOnce, LIMITS).await?;
    instance.pause().await?;
    // Why it stands still is a part of what is saved. One that switched itself off, broke, or waits for a disk since it was asked last would be restored as that; and one that has sent all can't be asked any more.
    match instance.phase().await? {
        Phase::Still => {}
        phase => return Err(InstanceError::Phase { phase, what: "saved" }),
    }
    instance.limit(FAST).await?;
    let late = || InstanceError::Late { what: "saving", bound: within };
    let stalls = within.min(STALL_MAX);
    let taken = timeout(within, place.take_in(stalls)).await.map_err(|_| late())??;
    let stalled = || InstanceError::Late { what: "the volume for its memory", bound: stalls };
    let (bytes, sum) = taken.ok_or_else(stalled)?;
    match instance.sent(within).await? {
        Sending::Done => {}
        Sending::Failed(why) => return Err(InstanceError::Migration { status: "failed".to_owned(), why }),
        other => {
            return Err(InstanceError::Migration {
                status: format!("{other:?}"),
                why: "it has not ended".to_owned(),
            });
        }
    }
    let record = &instance.process().record;
    Ok(Sent::Now(Header { vm: record.machine.vm, generation: record.generation(), which, bytes, sum }))
}

/// What takes no time on a device that answers; one that takes longer is as good as not there.
async fn soon<T>(
    within: Duration,
    asked: impl Future<Output = Result<T, SavedError>>,
) -> Result<T, InstanceError> {
    let bound = within.min(HEADER_MAX);
    let late = |_| InstanceError::Late { what: "the volume for its memory", bound };
    Ok(timeout(bound, asked).await.map_err(late)??)
}

/// What this very try has saved of it before whoever did that was killed, or was told to do it once more. It has not run since: what is there is wiped before it does.
async fn saved_before(
    instance: &mut Instance,
    place: &mut Place,
    which: SaveTry,
    within: Duration,
) -> Result<Option<Header>, InstanceError> {
    if instance.phase().await? != Phase::Sent {
        return Ok(None);
    }
    let record = &instance.process().record;
    let (vm, generation) = (record.machine.vm, record.generation());
    match soon(within, place.header()).await {
        Ok(found) if (found.vm, found.generation, found.which) == (vm, generation, which) => Ok(Some(found)),
        Ok(_) | Err(InstanceError::Saved(SavedError::Nothing { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a machine that was started to be restored what was saved of it in that run by that try. At the end it stands still, complete, and may be let run once.
pub async fn load(
    instance: &mut Instance,
    place: &mut Place,
    (saved_in, saved_by): (Generation, SaveTry),
    within: Duration,
) -> Result<Header, InstanceError> {
    let late = || InstanceError::Late { what: "loading", bound: within };
    let header = soon(within, place.header()).await?;
    let Header { vm: found, generation, which, bytes, sum } = header;
    if found != instance.process().record.machine.vm || (generation, which) != (saved_in, saved_by) {
        return Err(SavedError::Other { path: place.path().to_owned(), found, generation, which }.into());
    }
    if is_loaded(instance.phase().await?) {
        return Ok(header);
    }
    // Before QEMU is given any of it: it runs what it is given.
    if timeout(within, place.sum(bytes)).await.map_err(|_| late())?? != sum {
        return Err(SavedError::Damaged { path: place.path().to_owned() }.into());
    }
    instance.listen().await?;
    let socket = instance.process().places().incoming();
    timeout(within, place.give(bytes, &socket)).await.map_err(|_| late())??;
    instance.received(within).await?;
    match instance.phase().await? {
        phase if is_loaded(phase) => Ok(header),
        // It would be that again, however often it is loaded.
        phase @ (Phase::Off | Phase::Broken) => {
            Err(SavedError::Over { path: place.path().to_owned(), phase }.into())
        }
        phase => Err(InstanceError::Phase { phase, what: "restored" }),
    }
}

/// Whether all of it is there, and goes on when it is told to. What waits for a disk asks that again.
const fn is_loaded(phase: Phase) -> bool {
    matches!(phase, Phase::Still | Phase::DiskError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_run_any_more_is_not_loaded_again_and_what_waits_for_a_disk_is_loaded() {
        assert!(is_loaded(Phase::Still) && is_loaded(Phase::DiskError));
        assert!(!is_loaded(Phase::Off) && !is_loaded(Phase::Broken) && !is_loaded(Phase::Waiting));
        let over = SavedError::Over { path: PathBuf::from("saved"), phase: Phase::Off };
        assert!(over.is_final());
        assert!(!SavedError::BrokenOff.is_final());
    }

    #[test]
    fn a_header_comes_back_and_one_wrong_bit_is_seen() {
        let header =
            Header { vm: VmId(7), generation: Generation(3), which: SaveTry(4), bytes: 1 << 33, sum: 5 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..36 * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), None);
        }
    }
}
