//! A virtual machine's memory in a file or on a block device, and back.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `twrsaved` |
//! | 8 | 4 | virtual machine |
//! | 12 | 4 | generation that was saved |
//! | 16 | 8 | length of what follows from byte 4096 on |
//! | 24 | 4 | its CRC-32 |
//! | 28 | 4 | CRC-32 of the 28 bytes before |
//! | 4096 | | what QEMU sends when a machine moves |
//!
//! Invariants: the header is there only when all behind it is on the disk: it is wiped, flushed, before anything is written, and written, flushed, at the end. What is
//! not whole is never let run: QEMU may have taken it, but [`load`] says so, and the machine is killed.
//!
//! On failure: [`SavedError`]; a machine that was being saved stands still or runs, and can be let run.

use crate::instance::{Instance, InstanceError, Limits, Phase, Sending, Switchover};
use model::{Generation, VmId};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const MAGIC: [u8; 8] = *b"twrsaved";
const HEADER_BYTES: usize = 4096;
const PIECE_BYTES: usize = 1 << 18;
/// As fast as it goes: it stands still meanwhile.
const LIMITS: Limits = Limits { bandwidth: 1 << 40, downtime: Duration::from_secs(1) };

/// Why it could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// The file, or the socket to QEMU.
    #[error("can't {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing was saved there, or not all of it.
    #[error("{} holds no saved machine, or not all of one", .path.display())]
    Nothing {
        /// Where.
        path: PathBuf,
    },
    /// It is another's.
    #[error("{} holds {found}, saved in {generation}", .path.display())]
    Other {
        /// Where.
        path: PathBuf,
        /// Whose.
        found: VmId,
        /// Which run of it.
        generation: Generation,
    },
    /// It is not what was written.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
    },
}

/// What was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which machine.
    pub vm: VmId,
    /// Which run of it.
    pub generation: Generation,
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
        let sum = crc32fast::hash(&header[..28]);
        header[28..32].copy_from_slice(&sum.to_le_bytes());
        header
    }

    fn decode(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let word = |at: usize| header.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        if !header.starts_with(&MAGIC) || word(28)? != crc32fast::hash(&header[..28]) {
            return None;
        }
        let bytes = u64::from(word(16)?) | u64::from(word(20)?) << 32;
        Some(Self { vm: VmId(word(8)?), generation: Generation(word(12)?), bytes, sum: word(24)? })
    }
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> SavedError + use<> {
    let path = path.to_owned();
    move |source| SavedError::Io { what, path: path.clone(), source }
}

/// What is saved there.
pub fn header(path: &Path) -> Result<Header, SavedError> {
    let nothing = || SavedError::Nothing { path: path.to_owned() };
    let mut header = [0; HEADER_BYTES];
    let mut file = File::open(path).map_err(failed("open", path))?;
    file.read_exact(&mut header).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => nothing(),
        _ => failed("read", path)(error),
    })?;
    Header::decode(&header).ok_or_else(nothing)
}

/// Makes it stand still and saves its memory. At the end it is [`Phase::Sent`]: it can be killed, or let run, after which what was saved is worth nothing.
pub async fn save(instance: &mut Instance, path: &Path, within: Duration) -> Result<Header, InstanceError> {
    instance.pause().await?;
    let socket = instance.process().places().outgoing();
    // One that was killed while it saved has left it.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(failed("listen at", &socket))?;
    let mut file = File::options().write(true).create(true).truncate(false).open(path);
    let file = file.as_mut().map_err(|error| failed("open", path)(io::Error::from(error.kind())))?;
    put(file, 0, &[0; HEADER_BYTES]).map_err(failed("write", path))?;
    instance.send(&socket, Switchover::AtOnce, LIMITS).await?;
    let late = InstanceError::Late { what: "saving", bound: within };
    let written = tokio::time::timeout(within, write_all(&listener, file)).await.map_err(|_| late)?;
    let (bytes, sum) = written.map_err(failed("write", path))?;
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
    let header = Header { vm: record.machine.vm, generation: record.generation(), bytes, sum };
    file.sync_all().map_err(failed("flush", path))?;
    put(file, 0, &header.encode()).map_err(failed("write", path))?;
    Ok(header)
}

fn put(file: &mut File, at: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What QEMU sends, to behind the header: how much, and its sum.
async fn write_all(listener: &UnixListener, file: &mut File) -> io::Result<(u64, u32)> {
    let (mut stream, _) = listener.accept().await?;
    let (mut piece, mut bytes, mut sum) = (vec![0; PIECE_BYTES], 0, crc32fast::Hasher::new());
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Ok((bytes, sum.finalize()));
        }
        sum.update(&piece[..read]);
        file.write_all(&piece[..read])?;
        bytes += read as u64;
    }
}

/// Gives a machine that was started to be restored what was saved of it. At the end it stands still, complete, and may be let run once.
pub async fn load(instance: &mut Instance, path: &Path, within: Duration) -> Result<Header, InstanceError> {
    let header = header(path)?;
    if header.vm != instance.process().record.machine.vm {
        let Header { vm: found, generation, .. } = header;
        return Err(SavedError::Other { path: path.to_owned(), found, generation }.into());
    }
    if instance.phase().await? == Phase::Still {
        return Ok(header);
    }
    let sum = sum(path, header.bytes).map_err(failed("read", path))?;
    if sum != header.sum {
        return Err(SavedError::Damaged { path: path.to_owned() }.into());
    }
    instance.listen().await?;
    let socket = instance.process().places().incoming();
    let late = InstanceError::Late { what: "loading", bound: within };
    let sent = tokio::time::timeout(within, read_all(&socket, path, header.bytes)).await.map_err(|_| late)?;
    sent.map_err(failed("send to", &socket))?;
    instance.received(within).await?;
    Ok(header)
}

/// The sum of what is behind the header, before QEMU is given any of it: it runs what it is given.
fn sum(path: &Path, bytes: u64) -> io::Result<u32> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    let (mut piece, mut sum, mut left) = (vec![0; PIECE_BYTES], crc32fast::Hasher::new(), bytes);
    while left > 0 {
        let want = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        file.read_exact(&mut piece[..want])?;
        sum.update(&piece[..want]);
        left -= want as u64;
    }
    Ok(sum.finalize())
}

async fn read_all(socket: &Path, path: &Path, bytes: u64) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
    let (mut piece, mut left) = (vec![0; PIECE_BYTES], bytes);
    while left > 0 {
        let want = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        file.read_exact(&mut piece[..want])?;
        stream.write_all(&piece[..want]).await?;
        left -= want as u64;
    }
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_one_wrong_bit_is_seen() {
        let header = Header { vm: VmId(7), generation: Generation(3), bytes: 1 << 33, sum: 5 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..32 * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), None);
        }
    }
}
