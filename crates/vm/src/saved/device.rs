//! What is saved, on its device.
//!
//! Invariants: everything goes past the page cache: what was read was on the disk, and nothing comes late. One at a time has it open (flock).
//!
//! On failure: [`SavedError`].

use super::{HEADER_BYTES, Header, SavedError, failed};
use rustix::fs::{FlockOperation, OFlags, flock};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What a device takes past the page cache begins and ends at these, in memory, too.
const ALIGNED_BYTES: usize = 4096;
const PIECE_BYTES: usize = 1 << 20;

/// The device, or a file.
#[derive(Debug)]
pub(super) struct Device {
    path: PathBuf,
    file: File,
}

impl Device {
    /// Opens one that is there.
    pub(super) fn open(path: &Path) -> Result<Self, SavedError> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
        let file = File::options().read(true).write(true).custom_flags(direct).open(path);
        let file = file.map_err(failed("open", path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SavedError::Busy { path: path.to_owned() }),
            Err(errno) => Err(failed("lock", path)(errno.into())),
        }
    }

    /// What is saved there.
    pub(super) fn header(&self) -> Result<Header, SavedError> {
        let mut piece = Piece::new(HEADER_BYTES);
        let header = piece.bytes();
        let nothing = || SavedError::Nothing { path: self.path.clone() };
        self.file.read_exact_at(header, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => nothing(),
            _ => failed("read", &self.path)(error),
        })?;
        Header::decode(header).ok_or_else(nothing)
    }

    /// Makes what is saved there, if anything is, unusable, for good.
    pub(super) fn wipe(&self) -> Result<(), SavedError> {
        self.put(&[0; HEADER_BYTES])
    }

    /// Says that all is there, when it is.
    pub(super) fn close(&self, header: Header) -> Result<(), SavedError> {
        self.file.sync_all().map_err(failed("flush", &self.path))?;
        self.put(&header.encode())
    }

    fn put(&self, header: &[u8; HEADER_BYTES]) -> Result<(), SavedError> {
        let mut piece = Piece::new(HEADER_BYTES);
        piece.bytes().copy_from_slice(header);
        let written = self.file.write_all_at(piece.bytes(), 0).and_then(|()| self.file.sync_all());
        written.map_err(failed("write", &self.path))
    }

    /// What somebody says, to behind the header: how much, and its sum. Each piece that is there is told.
    pub(super) fn take_in(
        &self,
        mut from: impl Read,
        mut tell: impl FnMut() -> io::Result<()>,
    ) -> Result<(u64, u32), SavedError> {
        let (mut piece, mut total, mut sum) = (Piece::new(PIECE_BYTES), 0, crc32fast::Hasher::new());
        loop {
            let bytes = piece.bytes();
            let len = fill(&mut from, bytes).map_err(failed("take in what goes to", &self.path))?;
            if len == 0 {
                return Ok((total, sum.finalize()));
            }
            sum.update(&bytes[..len]);
            let whole = len.next_multiple_of(ALIGNED_BYTES);
            bytes[len..whole].fill(0);
            let written = self.file.write_all_at(&bytes[..whole], HEADER_BYTES as u64 + total);
            written.map_err(failed("write", &self.path))?;
            total += len as u64;
            tell().map_err(failed("tell of", &self.path))?;
        }
    }

    /// Gives away, piece by piece, what is behind the header.
    pub(super) fn give(
        &self,
        len: u64,
        mut to: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), SavedError> {
        let (mut piece, mut at) = (Piece::new(PIECE_BYTES), 0);
        while at < len {
            let want = usize::try_from(len - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let bytes = &mut piece.bytes()[..want.next_multiple_of(ALIGNED_BYTES)];
            let read = self.file.read_exact_at(bytes, HEADER_BYTES as u64 + at);
            read.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => SavedError::Damaged { path: self.path.clone() },
                _ => failed("read", &self.path)(error),
            })?;
            to(&bytes[..want]).map_err(failed("give away what is on", &self.path))?;
            at += want as u64;
        }
        Ok(())
    }

    /// The sum of what is behind the header.
    pub(super) fn sum(&self, len: u64) -> Result<u32, SavedError> {
        let mut sum = crc32fast::Hasher::new();
        self.give(len, |piece| {
            sum.update(piece);
            Ok(())
        })?;
        Ok(sum.finalize())
    }
}

/// Memory that a device takes past the page cache.
struct Piece {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Piece {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGNED_BYTES];
        let from = bytes.as_ptr().align_offset(ALIGNED_BYTES);
        Self { bytes, from, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

/// As much as there is, up to the end.
fn fill(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < into.len() {
        match from.read(&mut into[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Generation, SaveTry, VmId};

    #[test]
    fn what_was_taken_in_is_given_away_and_one_at_a_time_is_there() {
        // What is opened past the page cache is not on a tmpfs.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("saved");
        assert!(matches!(Device::open(&path), Err(SavedError::Io { .. })), "it makes none");
        File::create(&path).unwrap();
        let device = Device::open(&path).unwrap();
        assert!(matches!(Device::open(&path), Err(SavedError::Busy { .. })));
        assert!(matches!(device.header(), Err(SavedError::Nothing { .. })));
        let all: Vec<u8> = (0..PIECE_BYTES + 5000).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut pieces = 0;
        let (bytes, sum) = device
            .take_in(all.as_slice(), || {
                pieces += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(pieces, 2);
        assert_eq!((bytes, sum), (all.len() as u64, crc32fast::hash(&all)));
        assert!(matches!(device.header(), Err(SavedError::Nothing { .. })), "it was not said to be whole");
        let header = Header { vm: VmId(7), generation: Generation(3), which: SaveTry(1), bytes, sum };
        device.close(header).unwrap();
        assert_eq!((device.header().unwrap(), device.sum(bytes).unwrap()), (header, sum));
        let mut back = Vec::new();
        let to = |piece: &[u8]| {
            back.extend_from_slice(piece);
            Ok(())
        };
        device.give(bytes, to).unwrap();
        assert!(back == all);
        let longer = device.sum(bytes + (1 << 20));
        assert!(matches!(longer, Err(SavedError::Damaged { .. })), "{longer:?}");
        device.wipe().unwrap();
        assert!(matches!(device.header(), Err(SavedError::Nothing { .. })));
        drop(device);
        assert!(Device::open(&path).is_ok());
    }
}
