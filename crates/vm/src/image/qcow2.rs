//! QEMU's qcow2: a header, a table of tables, and tables of clusters, all in one file, numbers with the high byte first.

use super::{Bounded, ImageError};
use flate2::{Decompress, FlushDecompress};
use std::io::{Read, Seek};

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// What every header has: 72 bytes in version 2, and 104 at least in version 3.
const HEADER_V2: usize = 72;
const HEADER_V3: usize = 104;
/// Clusters are 512 bytes to 2 MiB (QEMU's `MIN_CLUSTER_BITS`, `MAX_CLUSTER_BITS`).
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The first table is 32 MiB at most (QEMU's `QCOW_MAX_L1_SIZE`).
const L1_BYTES_MAX: u64 = 32 << 20;
/// Of an entry of either table, where what it names begins.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Of an entry of a second table: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The same: it reads as zeros, whatever there is (version 3).
const ZERO: u64 = 1;

/// Features without which an image is not understood. That it was not closed (bit 0) concerns counts of references alone, which nobody reads here.
const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

/// What a header says, and what was read last.
#[derive(Debug)]
pub(super) struct Qcow2 {
    pub(super) size_bytes: u64,
    version: u32,
    cluster_bits: u32,
    l1: Vec<u64>,
    /// The last second table, and which it was.
    l2: Option<(usize, Vec<u64>)>,
    /// The last cluster that was unpacked, and which it was.
    unpacked: Option<(u64, Vec<u8>)>,
}

/// Whether a file begins as one.
pub(super) fn is_one<F: Read + Seek>(file: &mut Bounded<F>) -> Result<bool, ImageError> {
    let mut magic = [0; 4];
    if !file.holds(0, 4) {
        return Ok(false);
    }
    file.read(0, &mut magic)?;
    Ok(magic == MAGIC)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

impl Qcow2 {
    pub(super) fn open<F: Read + Seek>(file: &mut Bounded<F>) -> Result<Self, ImageError> {
        let mut header = [0; HEADER_V3];
        let present = usize::try_from(file.size).unwrap_or(HEADER_V3).min(HEADER_V3);
        if present < HEADER_V2 {
            return Err(ImageError::Damaged("its header is cut off"));
        }
        file.read(0, &mut header[..present])?;
        let version = u32_at(&header, 4);
        match version {
            2 => {}
            3 if present == HEADER_V3 => is_understood(u64_at(&header, 72))?,
            3 => return Err(ImageError::Damaged("its header is cut off")),
            _ => return Err(ImageError::Unsupported("this version of qcow2")),
        }
        if u64_at(&header, 8) != 0 {
            return Err(ImageError::Unsupported("an image with a backing file"));
        }
        if u32_at(&header, 32) != 0 {
            return Err(ImageError::Unsupported("an encrypted image"));
        }
        let cluster_bits = u32_at(&header, 20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(ImageError::Damaged("its clusters are too small or too large"));
        }
        let size_bytes = u64_at(&header, 24);
        if size_bytes == 0 {
            return Err(ImageError::Empty);
        }
        // A second table fills a cluster with entries of eight bytes.
        let needed = size_bytes.div_ceil(1 << (2 * cluster_bits - 3));
        if needed * 8 > L1_BYTES_MAX {
            return Err(ImageError::Unsupported("a disk of this size"));
        }
        if u64::from(u32_at(&header, 36)) < needed {
            return Err(ImageError::Damaged("its first table is too short for its size"));
        }
        let l1 = table(file, u64_at(&header, 40), needed)?;
        Ok(Self { size_bytes, version, cluster_bits, l1, l2: None, unpacked: None })
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(super) fn read<F: Read + Seek>(
        &mut self,
        file: &mut Bounded<F>,
        mut at: u64,
        mut into: &mut [u8],
    ) -> Result<(), ImageError> {
        while !into.is_empty() {
            let within = at & (self.cluster_bytes() - 1);
            let rest = usize::try_from(self.cluster_bytes() - within).unwrap_or(usize::MAX);
            let (now, later) = into.split_at_mut(rest.min(into.len()));
            self.read_within(file, at >> self.cluster_bits, within, now)?;
            at += now.len() as u64;
            into = later;
        }
        Ok(())
    }

    /// A part of one cluster of the disk.
    fn read_within<F: Read + Seek>(
        &mut self,
        file: &mut Bounded<F>,
        cluster: u64,
        within: u64,
        into: &mut [u8],
    ) -> Result<(), ImageError> {
        let entry = self.entry(file, cluster)?;
        if entry & COMPRESSED != 0 {
            let unpacked = self.unpack(file, entry)?;
            let begin = usize::try_from(within).unwrap_or(usize::MAX);
            let part = unpacked.get(begin..).and_then(|bytes| bytes.get(..into.len()));
            into.copy_from_slice(part.ok_or(ImageError::Damaged("a compressed cluster is too short"))?);
            return Ok(());
        }
        let begins = entry & OFFSET;
        if begins == 0 || (self.version >= 3 && entry & ZERO != 0) {
            into.fill(0);
            return Ok(());
        }
        if begins & (self.cluster_bytes() - 1) != 0 {
            return Err(ImageError::Damaged("a cluster begins within another"));
        }
        let place = begins + within;
        if !file.holds(place, into.len() as u64) {
            return Err(ImageError::Damaged("a cluster is behind the end of the file"));
        }
        file.read(place, into)
    }

    /// What the second table says of a cluster; 0, if there is none.
    fn entry<F: Read + Seek>(&mut self, file: &mut Bounded<F>, cluster: u64) -> Result<u64, ImageError> {
        let entries = self.cluster_bytes() / 8;
        let first = usize::try_from(cluster / entries).unwrap_or(usize::MAX);
        let second = usize::try_from(cluster % entries).unwrap_or(usize::MAX);
        let begins = self.l1.get(first).copied().unwrap_or(0) & OFFSET;
        if begins == 0 {
            return Ok(0);
        }
        if !matches!(&self.l2, Some((which, _)) if *which == first) {
            if begins & (self.cluster_bytes() - 1) != 0 {
                return Err(ImageError::Damaged("a table begins within a cluster"));
            }
            self.l2 = Some((first, table(file, begins, entries)?));
        }
        let found = self.l2.as_ref().and_then(|(_, table)| table.get(second));
        Ok(found.copied().unwrap_or(0))
    }

    /// A compressed cluster: raw deflate, from a byte on to the end of a sector of 512. (The bits of an entry are split by the size of a cluster.)
    fn unpack<F: Read + Seek>(&mut self, file: &mut Bounded<F>, entry: u64) -> Result<&[u8], ImageError> {
        if !matches!(&self.unpacked, Some((which, _)) if *which == entry) {
            let split = 62 - (self.cluster_bits - 8);
            let begins = entry & ((1 << split) - 1);
            let sectors = ((entry & (COMPRESSED - 1)) >> split) + 1;
            let ends = (begins & !511) + sectors * 512;
            // The last sector of a file need not be whole.
            let packed_bytes = ends.min(file.size).saturating_sub(begins);
            if packed_bytes == 0 {
                return Err(ImageError::Damaged("a cluster is behind the end of the file"));
            }
            let mut packed = vec![0; usize::try_from(packed_bytes).unwrap_or(0)];
            file.read(begins, &mut packed)?;
            let mut bytes = vec![0; usize::try_from(self.cluster_bytes()).unwrap_or(0)];
            let mut inflate = Decompress::new(false);
            let unpacked = inflate.decompress(&packed, &mut bytes, FlushDecompress::Finish);
            if unpacked.is_err() || inflate.total_out() != self.cluster_bytes() {
                return Err(ImageError::Damaged("a compressed cluster can't be unpacked"));
            }
            self.unpacked = Some((entry, bytes));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |(_, bytes)| bytes))
    }
}

fn is_understood(incompatible: u64) -> Result<(), ImageError> {
    let features = [
        (INCOMPATIBLE_CORRUPT, "an image that is marked as corrupt"),
        (INCOMPATIBLE_DATA_FILE, "an image with its data in another file"),
        (INCOMPATIBLE_COMPRESSION, "an image that is compressed with anything but deflate"),
        (INCOMPATIBLE_EXTENDED_L2, "an image with subclusters"),
        (!INCOMPATIBLE_DIRTY, "an image with unknown features"),
    ];
    let found = features.into_iter().find(|(bits, _)| incompatible & bits != 0);
    found.map_or(Ok(()), |(_, what)| Err(ImageError::Unsupported(what)))
}

/// So many entries from a place on, which must all be in the file.
fn table<F: Read + Seek>(file: &mut Bounded<F>, begins: u64, entries: u64) -> Result<Vec<u64>, ImageError> {
    if !file.holds(begins, entries * 8) {
        return Err(ImageError::Damaged("a table is behind the end of the file"));
    }
    let mut bytes = vec![0; usize::try_from(entries * 8).unwrap_or(0)];
    file.read(begins, &mut bytes)?;
    Ok(bytes.chunks_exact(8).map(|entry| u64_at(entry, 0)).collect())
}
