//! The small header by which a drive of the pool says whose it is.
//!
//! Purpose: [`DriveHeader`] to bytes and back, [`examine`] says what is on a drive, [`claim`] decides whether the header may be
//! written. The header only identifies; what is where on the drive, the ledger says.
//!
//! ```text
//!  0     8         12          28      32           40          …   zeros   …       4064        4096
//!  │magic│version  │cluster id │drive  │slab bytes  │                               │SHA-256     │
//! ```
//! Numbers are little-endian. Slabs begin at [`SLABS_OFFSET_BYTES`].
//!
//! Invariants: whatever can't be shown to be blank or ours is foreign, and foreign data is written over only with `wipe`.
//!
//! On failure: [`HeaderError`] for bytes that are meant to be a header, [`Refused`] for a drive that may not be claimed.

use crate::checksum::{self, CHECKSUM_BYTES, Reader};
use model::{DriveId, InvalidValue};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The header's length, bytes: what every drive writes as a whole.
pub const HEADER_BYTES: usize = 4096;

pub use model::SLABS_OFFSET_BYTES;

/// How much of a drive's beginning, and of its end, is looked at before it counts as blank, bytes: partition tables, volume
/// managers, RAID and file systems have their marks there (util-linux, `libblkid/src/superblocks`).
pub const EXAMINED_BYTES: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"TWINRACK";
const VERSION: u32 = 1;

/// Which cluster a drive belongs to; written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or_else(|| InvalidValue {
            what: "cluster id",
            value: text.to_owned(),
            expected: "32 hexadecimal digits",
        })
    }
}

impl TryFrom<String> for ClusterId {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

/// What a drive of the pool says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DriveHeader {
    /// Whose it is.
    pub cluster: ClusterId,
    /// Which one.
    pub drive: DriveId,
    /// How big its slabs are.
    pub slab_bytes: u64,
}

/// Bytes that are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Too few bytes.
    #[error("a drive header has {HEADER_BYTES} bytes, these are {0}")]
    Short(usize),
    /// Something else.
    #[error("no drive header")]
    NoHeader,
    /// A header that was damaged.
    #[error("the drive header is damaged: its checksum is wrong")]
    Damaged,
    /// Written by a later twinrack.
    #[error("the drive header has version {0}; this twinrack reads version {VERSION}")]
    Version(u32),
    /// It says what can't be.
    #[error("the drive header says that slabs have {0} bytes")]
    SlabSize(u64),
}

impl DriveHeader {
    /// As it stands on the drive.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut fields = Vec::new();
        fields.extend_from_slice(MAGIC);
        fields.extend_from_slice(&VERSION.to_le_bytes());
        fields.extend_from_slice(&self.cluster.0.to_le_bytes());
        fields.extend_from_slice(&self.drive.0.to_le_bytes());
        fields.extend_from_slice(&self.slab_bytes.to_le_bytes());
        bytes[..fields.len()].copy_from_slice(&fields);
        let (covered, sum) = bytes.split_at_mut(HEADER_BYTES - CHECKSUM_BYTES);
        sum.copy_from_slice(&checksum::of(covered));
        bytes
    }

    /// Read back. The version is looked at only when the checksum is right: the checksum's place is the same in all versions.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Short(bytes.len()))?;
        let (covered, sum) = bytes.split_at(HEADER_BYTES - CHECKSUM_BYTES);
        let mut reader = Reader(covered);
        if reader.bytes(MAGIC.len()) != Some(MAGIC) {
            return Err(HeaderError::NoHeader);
        }
        if checksum::of(covered) != sum {
            return Err(HeaderError::Damaged);
        }
        let mut fields = || Some((reader.u32()?, reader.u128()?, reader.u32()?, reader.u64()?));
        let (version, cluster, drive, slab_bytes) = fields().ok_or(HeaderError::Short(bytes.len()))?;
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        if !is_slab_size(slab_bytes) {
            return Err(HeaderError::SlabSize(slab_bytes));
        }
        Ok(Self { cluster: ClusterId(cluster), drive: DriveId(drive), slab_bytes })
    }
}

/// A power of two from 1 MiB to 1 GiB: smaller ones make long tables, bigger ones waste.
pub fn is_slab_size(bytes: u64) -> bool {
    bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)
}

/// What is on a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Zeros, as far as was looked.
    Blank,
    /// A drive of a pool, perhaps of another cluster's.
    Pool(DriveHeader),
    /// It was one, and its header can't be read.
    Unreadable(HeaderError),
    /// Somebody else's.
    Foreign {
        /// What it looks like.
        what: &'static str,
        /// The first byte of it that isn't zero, from the start or the end that was looked at.
        at: usize,
    },
}

/// A mark that others leave, and where in the drive's beginning.
const MARKS: [(&str, usize, &[u8]); 14] = [
    ("a GUID partition table", 512, b"EFI PART"),
    ("a GUID partition table", 4096, b"EFI PART"),
    ("an XFS file system", 0, b"XFSB"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an LVM volume", 512, b"LABELONE"),
    ("an LVM volume", 0, b"LABELONE"),
    ("a software RAID member", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a software RAID member", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("an ext2, ext3 or ext4 file system", 1080, &[0x53, 0xef]),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a btrfs file system", 65_600, b"_BHRfS_M"),
    ("an exFAT file system", 3, b"EXFAT   "),
    // Last: others above have it as well.
    ("a boot sector or partition table", 510, &[0x55, 0xaa]),
];

/// Says what is on a drive, from its first and its last [`EXAMINED_BYTES`] (less if it has less).
pub fn examine(first: &[u8], last: &[u8]) -> Content {
    match DriveHeader::decode(first) {
        Ok(header) => return Content::Pool(header),
        Err(HeaderError::NoHeader | HeaderError::Short(_)) => {}
        Err(error) => return Content::Unreadable(error),
    }
    let mark =
        MARKS.iter().find(|(_, at, mark)| first.get(*at..).is_some_and(|bytes| bytes.starts_with(mark)));
    let used = |bytes: &[u8]| bytes.iter().position(|byte| *byte != 0);
    match (mark, used(first), used(last)) {
        (Some((what, at, _)), _, _) => Content::Foreign { what, at: *at },
        (None, Some(at), _) => Content::Foreign { what: "data that nobody here knows", at },
        (None, None, Some(at)) => Content::Foreign { what: "data at its end that nobody here knows", at },
        (None, None, None) => Content::Blank,
    }
}

/// A drive that may not be claimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Somebody's data.
    #[error("the drive holds {what} (at byte {at}); say `wipe` to lose it")]
    Foreign {
        /// What it looks like.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// Another cluster's, or another of this one's.
    #[error("the drive is {} of cluster {}, not {} of {}; say `wipe` to lose what it holds", found.drive, found.cluster, wanted.drive, wanted.cluster)]
    Other {
        /// What it says.
        found: DriveHeader,
        /// What was wanted.
        wanted: DriveHeader,
    },
    /// It is mounted, or something stands on it.
    #[error("the system uses the drive: it is mounted, or something stands on it")]
    InUse,
    /// A header that can't be read: it may hold legs.
    #[error("the drive belonged to a pool; say `wipe` to lose what it holds")]
    Unreadable(#[source] HeaderError),
}

/// What is to be done to make a drive one of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it is.
    Done,
    /// Write the header.
    Write,
}

/// Decides whether the header may be written onto a drive that holds this.
pub fn claim(content: &Content, wanted: DriveHeader, wipe: bool) -> Result<Claim, Refused> {
    match content {
        Content::Pool(found) if *found == wanted => Ok(Claim::Done),
        Content::Blank => Ok(Claim::Write),
        _ if wipe => Ok(Claim::Write),
        Content::Pool(found) => Err(Refused::Other { found: *found, wanted }),
        Content::Unreadable(error) => Err(Refused::Unreadable(error.clone())),
        Content::Foreign { what, at } => Err(Refused::Foreign { what, at: *at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: DriveHeader =
        DriveHeader { cluster: ClusterId(7), drive: DriveId(3), slab_bytes: 64 << 20 };

    proptest! {
        #[test]
        fn a_header_is_read_back(cluster: u128, drive: u32, slab in 20u32..=30) {
            let header = DriveHeader { cluster: ClusterId(cluster), drive: DriveId(drive), slab_bytes: 1 << slab };
            prop_assert_eq!(DriveHeader::decode(&header.encode()), Ok(header));
            prop_assert_eq!(cluster_text(header.cluster), Some(header.cluster));
        }

        #[test]
        fn no_bit_can_fall_over_unseen(at in 0..HEADER_BYTES * 8) {
            let mut bytes = HEADER.encode();
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(DriveHeader::decode(&bytes).is_err());
            prop_assert_ne!(examine(&bytes, &[]), Content::Blank);
            prop_assert!(claim(&examine(&bytes, &[]), HEADER, false).is_err());
        }

        #[test]
        fn no_bytes_panic_the_reader(mut bytes in proptest::collection::vec(any::<u8>(), 0..5000), ours: bool, whole: bool) {
            if ours && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(MAGIC);
            }
            if whole && bytes.len() >= HEADER_BYTES {
                let sum = checksum::of(&bytes[..HEADER_BYTES - CHECKSUM_BYTES]);
                bytes[HEADER_BYTES - CHECKSUM_BYTES..HEADER_BYTES].copy_from_slice(&sum);
            }
            let _ = DriveHeader::decode(&bytes);
            let _ = examine(&bytes, &bytes);
        }

        #[test]
        fn one_byte_anywhere_is_foreign(at in 0usize..10_000, byte in 1u8.., end: bool) {
            let mut used = vec![0; 10_000];
            used[at] = byte;
            let blank = vec![0; 10_000];
            let content = if end { examine(&blank, &used) } else { examine(&used, &blank) };
            let foreign = matches!(content, Content::Foreign { .. });
            prop_assert!(foreign);
            prop_assert!(claim(&content, HEADER, false).is_err());
            prop_assert_eq!(claim(&content, HEADER, true), Ok(Claim::Write));
        }
    }

    fn cluster_text(id: ClusterId) -> Option<ClusterId> {
        id.to_string().parse().ok()
    }

    #[test]
    fn the_bytes_are_these() {
        let bytes = HEADER.encode();
        assert_eq!(&bytes[..12], b"TWINRACK\x01\0\0\0");
        assert_eq!((bytes[12], bytes[28], bytes[35]), (7, 3, 4));
    }

    #[test]
    fn a_drive_is_claimed_once_and_by_one() {
        let other = DriveHeader { cluster: ClusterId(8), ..HEADER };
        let content = examine(&HEADER.encode(), &[]);
        assert_eq!(claim(&content, HEADER, false), Ok(Claim::Done));
        assert_eq!(claim(&content, HEADER, true), Ok(Claim::Done));
        let refused = claim(&content, other, false).unwrap_err();
        assert_eq!(refused, Refused::Other { found: HEADER, wanted: other });
        assert!(refused.to_string().contains("say `wipe`"));
        assert_eq!(claim(&content, other, true), Ok(Claim::Write));
        assert_eq!(claim(&examine(&[0; 4096], &[0; 4096]), HEADER, false), Ok(Claim::Write));
    }

    #[test]
    fn what_others_leave_is_called_by_its_name() {
        for (name, at, mark) in MARKS {
            let mut bytes = vec![0; 1 << 17];
            bytes[at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(examine(&bytes, &[]), Content::Foreign { what: name, at });
        }
    }

    #[test]
    fn what_a_later_version_wrote_is_not_blank() {
        let mut bytes = HEADER.encode();
        bytes[8] = 9;
        let sum = checksum::of(&bytes[..HEADER_BYTES - CHECKSUM_BYTES]);
        bytes[HEADER_BYTES - CHECKSUM_BYTES..].copy_from_slice(&sum);
        assert_eq!(examine(&bytes, &[]), Content::Unreadable(HeaderError::Version(9)));
        assert!(matches!(claim(&examine(&bytes, &[]), HEADER, false), Err(Refused::Unreadable(_))));
    }
}
