//! Reading and writing block devices past the page cache.
//!
//! Invariants: what is written is durable when the call returns (`O_DSYNC`: the kernel writes FUA, or flushes), and is read back
//! where that is said. Offsets and lengths are whole blocks of 4096 bytes.
//!
//! On failure: [`FileError`].

use super::sysfs::{FileError, failed};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const BLOCK: usize = 4096;

/// An open block device (a plain file in tests).
#[derive(Debug)]
pub(super) struct Block {
    path: PathBuf,
    file: File,
}

/// Bytes at an address that direct I/O takes.
struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + BLOCK];
        let from = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { bytes, from, len }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}

impl Block {
    /// Opens it, without the page cache.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        Self::open_as(path, true)
    }

    /// The same, to read only.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, FileError> {
        Self::open_as(path, false)
    }

    fn open_as(path: &Path, write: bool) -> Result<Self, FileError> {
        let flags = i32::try_from((OFlags::DIRECT | OFlags::DSYNC | OFlags::CLOEXEC).bits()).unwrap_or(0);
        let file = File::options().read(true).write(write).custom_flags(flags).open(path);
        Ok(Self { file: file.map_err(failed("open", path))?, path: path.to_owned() })
    }

    /// Has a block device for itself, as long as what this gives lives; `None`: the system uses it or a part of it, as it is mounted or something stands on it
    /// (`O_EXCL`, open(2); `bd_may_claim` of the kernel's block/bdev.c).
    pub(super) fn hold(path: &Path) -> Result<Option<File>, FileError> {
        let flags = i32::try_from((OFlags::EXCL | OFlags::CLOEXEC).bits()).unwrap_or(0);
        match File::options().read(true).custom_flags(flags).open(path) {
            Ok(held) => Ok(Some(held)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(failed("open", path)(error)),
        }
    }

    /// Its length, bytes.
    pub(super) fn len_bytes(&self) -> Result<u64, FileError> {
        (&self.file).seek(SeekFrom::End(0)).map_err(failed("measure", &self.path))
    }

    pub(super) fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>, FileError> {
        let mut buffer = Aligned::new(len_bytes.next_multiple_of(BLOCK));
        let read = self.file.read_exact_at(buffer.get(), offset_bytes);
        read.map_err(failed(format!("read {len_bytes} bytes at {offset_bytes} of"), &self.path))?;
        Ok(buffer.get()[..len_bytes].to_vec())
    }

    /// Writes whole blocks, durably.
    pub(super) fn write(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), FileError> {
        let mut buffer = Aligned::new(bytes.len());
        buffer.get().copy_from_slice(bytes);
        let written = self.file.write_all_at(buffer.get(), offset_bytes);
        written.map_err(failed(format!("write {} bytes at {offset_bytes} of", bytes.len()), &self.path))
    }

    /// The same, and reads it back.
    pub(super) fn write_and_check(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.write(offset_bytes, bytes)?;
        if self.read(offset_bytes, bytes.len())? == bytes {
            return Ok(());
        }
        let what = format!("read back what was written at {offset_bytes} of");
        Err(failed(what, &self.path)(io::Error::from(io::ErrorKind::InvalidData)))
    }

    /// Makes so much of it zeros: by the drive itself if it can (`blkdev_fallocate` of the kernel's block/fops.c).
    pub(super) fn zero(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), FileError> {
        let zeroed = fallocate(&self.file, FallocateFlags::ZERO_RANGE, offset_bytes, len_bytes);
        let what = || format!("zero {len_bytes} bytes at {offset_bytes} of");
        zeroed.map_err(|errno| failed(what(), &self.path)(errno.into()))
    }

    /// Flushes what the drive has not made durable, and says whether it did.
    pub(super) fn flush(&self) -> Result<(), FileError> {
        self.file.sync_all().map_err(failed("flush", &self.path))
    }
}
