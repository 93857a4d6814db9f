//! What a virtual machine's serial port has said: the last of it, whatever became of the agent meanwhile.
//!
//! QEMU appends to a file and goes on doing so while there is no agent. The file is a ring without an end: what is old is cut out of it as a hole, so that a place in
//! it means the same for ever, nothing that is written meanwhile is lost, and no more than [`KEPT_MAX`] is held but between two calls of [`trim`].
//!
//! On failure: the kernel's error.

use crate::machine::Places;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much is kept, bytes.
pub const KEPT_MAX: u64 = 1 << 20;

/// A piece of what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, counted from the first byte that was ever said.
    pub from: u64,
    /// What was said.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Where what comes after it will begin.
    pub fn end(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }
}

/// What was said from a place on, at most so much; less than is there if that is old. Nothing has been said: an empty piece.
pub fn read(places: &Places, from: u64, bytes_max: usize) -> io::Result<Piece> {
    let file = match File::open(places.console_log()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Piece { from: 0, bytes: Vec::new() });
        }
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len();
    let from = from.clamp(size.saturating_sub(KEPT_MAX), size);
    let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(usize::MAX).min(bytes_max)];
    file.read_exact_at(&mut bytes, from)?;
    Ok(Piece { from, bytes })
}

/// Gives back what is older than what is kept. To be called now and then.
pub fn trim(places: &Places) -> io::Result<()> {
    let file = match File::options().write(true).open(places.console_log()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let old = file.metadata()?.len().saturating_sub(KEPT_MAX);
    if old > 0 {
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::VmId;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_old_is_given_back_and_places_stay() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::new(folder.path(), VmId(1));
        assert_eq!(read(&places, 5, 10).unwrap(), Piece { from: 0, bytes: Vec::new() });
        fs::create_dir(places.folder()).unwrap();
        let mut log = File::options().append(true).create(true).open(places.console_log()).unwrap();
        log.write_all(b"first line\n").unwrap();
        assert_eq!(read(&places, 6, 4).unwrap(), Piece { from: 6, bytes: b"line".to_vec() });
        log.write_all(&vec![b'x'; 2 * KEPT_MAX as usize]).unwrap();
        trim(&places).unwrap();
        log.write_all(b"last").unwrap();
        let said = read(&places, 6, usize::MAX).unwrap();
        assert_eq!((said.bytes.len() as u64, said.end()), (KEPT_MAX, 11 + 2 * KEPT_MAX + 4));
        assert!(said.bytes.ends_with(b"xlast"));
        assert_eq!(read(&places, said.end() - 4, 9).unwrap().bytes, b"last");
        let held = log.metadata().unwrap().blocks() * 512;
        assert!(held <= KEPT_MAX + 64 * 1024, "{held}");
    }
}
