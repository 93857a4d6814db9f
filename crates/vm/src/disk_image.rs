//! Images of disks, as they come from elsewhere: raw, or qcow2 (QEMU's `docs/interop/qcow2.txt`). They are read here and not by QEMU, because what is in one must
//! not be believed: a qcow2 image can name other files to be read in its place, on a machine where everything is readable.
//!
//! Purpose: [`Image::open`] says what it is and how large the disk is; [`Image::read`] gives the disk's bytes wherever they are wanted, so that an import is a
//! loop of whoever writes.
//!
//! Invariants: everything is bounded by the file's length and by [`DISK_MAX`]; what the image says of places is checked before it is used. Refused are backing files,
//! external data files, encryption, internal snapshots' data (only the active disk is read), images that were not closed cleanly or are marked corrupt, and features that
//! are not known. Compressed clusters are refused, too: `qemu-img convert` makes an image without.
//!
//! On failure: [`ImageError`] says what is wrong and where. Nothing is written here.

use std::io;
use std::os::unix::fs::FileExt;

/// The largest disk, bytes.
pub const DISK_MAX: u64 = 64 << 40;
/// How much of the table of tables is held, entries: a disk of 64 TiB with the largest clusters needs fewer, one with the smallest has at most 16 TiB (2 MiB of entries is QEMU's own bound: 32 MiB).
const TABLES_MAX: u64 = (32 << 20) / 8;

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
const HEADER_BYTES: usize = 104;
/// Bits of an entry that are a place in the file.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// In an entry for a cluster: it reads as zeros.
const ZERO: u64 = 1;
/// Not closed cleanly; corrupt; an external data file. Of the other incompatible features, compression types are of compressed clusters alone.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;

/// Why an image can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It can't be read.
    #[error("can't read the image at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A kind or a feature that is not taken.
    #[error(
        "the image {what}; convert it with `qemu-img convert -O qcow2` (or `raw`), which makes one without"
    )]
    Refused {
        /// What it is or has.
        what: &'static str,
    },
    /// It is not as the format says.
    #[error("the image is damaged: {what} (at byte {at})")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where in the file.
        at: u64,
    },
    /// More than a disk may have.
    #[error("the image is of a disk of {bytes} bytes; {DISK_MAX} is the most")]
    TooLarge {
        /// How much.
        bytes: u64,
    },
}

/// An image that can be read.
#[derive(Debug)]
pub struct Image<F> {
    file: F,
    file_bytes: u64,
    disk_bytes: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Raw,
    Qcow2(Qcow2),
}

#[derive(Debug)]
struct Qcow2 {
    cluster_bits: u32,
    /// Where the table for each piece of the disk is; 0: there is none.
    tables: Vec<u64>,
    /// The last one that was read: of which piece, and what is in it.
    table: Option<(usize, Vec<u64>)>,
}

/// A place in a file, to be read. Files are; so is a vector, in tests.
pub trait ReadAt {
    /// Fills the buffer from there.
    fn fill(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn fill(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl ReadAt for &[u8] {
    fn fill(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn read<F: ReadAt>(file: &F, at: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
    file.fill(at, buffer).map_err(|source| ImageError::Read { at, source })
}

/// Big-endian words, as all of qcow2 is.
fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_be_bytes(*word)).collect()
}

impl<F: ReadAt> Image<F> {
    /// Looks at an image of so many bytes. What does not begin as qcow2 is raw.
    pub fn open(file: F, file_bytes: u64) -> Result<Self, ImageError> {
        let mut magic = [0; 4];
        if file_bytes >= 4 {
            read(&file, 0, &mut magic)?;
        }
        let (kind, disk_bytes) = if magic == QCOW2_MAGIC {
            let (qcow2, bytes) = Qcow2::open(&file, file_bytes)?;
            (Kind::Qcow2(qcow2), bytes)
        } else {
            (Kind::Raw, file_bytes)
        };
        if disk_bytes > DISK_MAX {
            return Err(ImageError::TooLarge { bytes: disk_bytes });
        }
        Ok(Self { file, file_bytes, disk_bytes, kind })
    }

    /// How large the disk is.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Fills the buffer with the disk's bytes from there; beyond its end there are zeros. Whether anything but zeros can be there: a hole need not be written.
    pub fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<bool, ImageError> {
        buffer.fill(0);
        let left = usize::try_from(self.disk_bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        let wanted = &mut buffer[..len];
        match &mut self.kind {
            Kind::Raw if wanted.is_empty() => Ok(false),
            Kind::Raw => read(&self.file, at, wanted).map(|()| true),
            Kind::Qcow2(qcow2) => qcow2.read(&self.file, self.file_bytes, at, wanted),
        }
    }
}

impl Qcow2 {
    fn open<F: ReadAt>(file: &F, file_bytes: u64) -> Result<(Self, u64), ImageError> {
        let mut header = [0; HEADER_BYTES];
        let known = usize::try_from(file_bytes).map_or(HEADER_BYTES, |bytes| bytes.min(HEADER_BYTES));
        if known < 72 {
            return Err(ImageError::Damaged { what: "it ends in its header", at: file_bytes });
        }
        read(file, 0, &mut header[..known])?;
        let short = |at: usize| {
            u64::from(u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
        };
        let long = |at: usize| short(at) << 32 | short(at + 4);
        let (version, bits, disk_bytes) = (short(4), short(20), long(24));
        let refused = |what| Err(ImageError::Refused { what });
        let features = if version == 3 { long(72) } else { 0 };
        match () {
            () if version != 2 && version != 3 => return refused("is of a version that is not known"),
            () if long(8) != 0 || short(16) != 0 => return refused("has a backing file"),
            () if short(32) != 0 => return refused("is encrypted"),
            () if features & EXTERNAL_DATA != 0 => return refused("keeps its data in another file"),
            () if features & DIRTY != 0 => return refused("was not closed cleanly"),
            () if features & CORRUPT != 0 => return refused("is marked corrupt"),
            () if features & !COMPRESSION_TYPE != 0 => return refused("has features that are not known"),
            () => {}
        }
        let Ok(cluster_bits @ 9..=21) = u32::try_from(bits) else {
            return Err(ImageError::Damaged { what: "the size of its clusters can't be", at: 20 });
        };
        if disk_bytes > DISK_MAX {
            return Err(ImageError::TooLarge { bytes: disk_bytes });
        }
        // A table fills a cluster with eight bytes for each of its clusters.
        let per_table = 1u64 << (2 * cluster_bits - 3);
        let needed = disk_bytes.div_ceil(per_table);
        let (count, at) = (short(36), long(40));
        let ends = at.checked_add(count * 8).is_some_and(|end| end <= file_bytes);
        if count < needed || needed > TABLES_MAX || !ends || !at.is_multiple_of(1 << cluster_bits) {
            return Err(ImageError::Damaged {
                what: "its table of tables is too short, or not in the file",
                at: 36,
            });
        }
        let mut bytes = vec![0; needed as usize * 8];
        read(file, at, &mut bytes)?;
        Ok((Self { cluster_bits, tables: words(&bytes), table: None }, disk_bytes))
    }

    /// Reads cluster by cluster.
    fn read<F: ReadAt>(
        &mut self,
        file: &F,
        file_bytes: u64,
        at: u64,
        buffer: &mut [u8],
    ) -> Result<bool, ImageError> {
        let cluster = 1u64 << self.cluster_bits;
        let (mut at, mut rest, mut any) = (at, buffer, false);
        while !rest.is_empty() {
            let within = at % cluster;
            let len = usize::try_from(cluster - within).unwrap_or(usize::MAX).min(rest.len());
            let (piece, behind) = rest.split_at_mut(len);
            if let Some(place) = self.place(file, file_bytes, at)? {
                // The last cluster of a file may be cut off where it is not used.
                let there = usize::try_from(file_bytes.saturating_sub(place + within)).unwrap_or(usize::MAX);
                let there = there.min(len);
                read(file, place + within, &mut piece[..there])?;
                any = true;
            }
            (at, rest) = (at + len as u64, behind);
        }
        Ok(any)
    }

    /// Where the cluster of a place on the disk is in the file; `None`: it is zeros.
    fn place<F: ReadAt>(&mut self, file: &F, file_bytes: u64, at: u64) -> Result<Option<u64>, ImageError> {
        let entries = 1usize << (self.cluster_bits - 3);
        let number = at >> self.cluster_bits;
        let piece = usize::try_from(number).unwrap_or(usize::MAX) / entries;
        let Some(entry) = self.tables.get(piece).copied() else { return Ok(None) };
        let Some(table_at) = self.checked(entry, file_bytes)? else { return Ok(None) };
        if self.table.as_ref().is_none_or(|(known, _)| *known != piece) {
            let mut bytes = vec![0; entries * 8];
            read(file, table_at, &mut bytes)?;
            self.table = Some((piece, words(&bytes)));
        }
        let index = usize::try_from(number).unwrap_or(usize::MAX) % entries;
        let entry = self.table.as_ref().and_then(|(_, table)| table.get(index).copied()).unwrap_or(0);
        if entry & COMPRESSED != 0 {
            return Err(ImageError::Refused { what: "has compressed clusters" });
        }
        if entry & ZERO != 0 { Ok(None) } else { self.checked(entry, file_bytes) }
    }

    /// The place that an entry names, at the beginning of a cluster within the file.
    fn checked(&self, entry: u64, file_bytes: u64) -> Result<Option<u64>, ImageError> {
        let place = entry & PLACE;
        if !place.is_multiple_of(1 << self.cluster_bits) || place >= file_bytes {
            return Err(ImageError::Damaged {
                what: "an entry of a table names no cluster of the file",
                at: place,
            });
        }
        Ok((place != 0).then_some(place))
    }
}
