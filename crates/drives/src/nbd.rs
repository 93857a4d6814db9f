//! What QEMU and a drive say to each other: the network block device's protocol, as far as QEMU's client needs it (fixed newstyle
//! handshake, simple replies; the NBD project's `doc/proto.md`). Pure.

use crate::cache::{PAGE_BYTES, SECTOR_BYTES};

/// The longest read or write, bytes. The client is told, and splits longer ones.
pub const IO_BYTES_MAX: u32 = 1 << 20;
/// The longest option, bytes: it holds an export's name, of which there is none here.
pub const OPTION_BYTES_MAX: u32 = 4096;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Fixed newstyle; no zeros after the old handshake, which isn't spoken here anyway.
const HANDSHAKE_FLAGS: u16 = 1 | 2;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const OPTION_EXPORT_NAME: u32 = 1;
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 1 << 31 | 1;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
/// There are flags; flush, FUA, trim and zeros can be asked for.
const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;
const FLAG_FUA: u16 = 1;

/// How long a request is without what it writes, bytes.
pub const REQUEST_BYTES: usize = 28;
/// How long an option is without what it says, bytes.
pub const OPTION_BYTES: usize = 16;

/// What a drive says first; the client answers with four bytes of flags.
pub fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    bytes[16..].copy_from_slice(&HANDSHAKE_FLAGS.to_be_bytes());
    bytes
}

/// Something that this is not, or not as it is spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came is not the protocol: {0}")]
pub struct NotNbd(&'static str);

/// What follows an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterOption {
    /// The next option, after this is said.
    More(Vec<u8>),
    /// Requests, after this is said.
    Requests(Vec<u8>),
    /// Nothing, after this is said.
    End(Vec<u8>),
}

/// The number of an option, and how much it says.
pub fn option_head(head: &[u8; OPTION_BYTES]) -> Result<(u32, u32), NotNbd> {
    if be64(&head[..8]) != OPTION_MAGIC {
        return Err(NotNbd("no option where one must be"));
    }
    let len = be32(&head[12..]);
    if len > OPTION_BYTES_MAX { Err(NotNbd("too long an option")) } else { Ok((be32(&head[8..12]), len)) }
}

/// Answers an option of a client of a drive of that size. What it says, the name of an export, tells nothing: a socket is a drive.
pub fn answer_option(option: u32, size_bytes: u64) -> Result<AfterOption, NotNbd> {
    match option {
        // There is no way to refuse it but to hang up.
        OPTION_EXPORT_NAME => Err(NotNbd("an option that only older clients need")),
        OPTION_ABORT => Ok(AfterOption::End(option_reply(option, ACK, &[]))),
        OPTION_INFO | OPTION_GO => {
            let mut export = INFO_EXPORT.to_be_bytes().to_vec();
            export.extend(size_bytes.to_be_bytes());
            export.extend(TRANSMISSION_FLAGS.to_be_bytes());
            let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
            for size in [SECTOR_BYTES as u32, PAGE_BYTES as u32, IO_BYTES_MAX] {
                sizes.extend(size.to_be_bytes());
            }
            let mut answer = option_reply(option, INFO, &export);
            answer.extend(option_reply(option, INFO, &sizes));
            answer.extend(option_reply(option, ACK, &[]));
            Ok(if option == OPTION_GO { AfterOption::Requests(answer) } else { AfterOption::More(answer) })
        }
        _ => Ok(AfterOption::More(option_reply(option, UNSUPPORTED, &[]))),
    }
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for number in [option, kind, data.len() as u32] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend_from_slice(data);
    bytes
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    Read,
    /// To keep bytes.
    Write,
    /// The end of the conversation.
    Disconnect,
    /// That all that was acknowledged before is durable.
    Flush,
    /// To keep zeros, or nothing, which reads as zeros.
    Zero,
    /// Something that this drive was never said to be able to.
    Unknown,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub kind: Kind,
    /// Whether it must be durable before it is answered.
    pub fua: bool,
    /// What the answer is told apart by.
    pub cookie: u64,
    /// From the drive's beginning, bytes.
    pub offset_bytes: u64,
    /// How much.
    pub len_bytes: u32,
    /// What a write writes; else nothing.
    pub data: Vec<u8>,
}

/// Why a request fails, as the protocol counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// The drive can't.
    Io = 5,
    /// The client asked for what there is not.
    Invalid = 22,
}

/// The first request in some bytes, and how many it takes; `None`: there is not all of it yet.
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, NotNbd> {
    let Some(head) = bytes.first_chunk::<REQUEST_BYTES>() else { return Ok(None) };
    if be32(&head[..4]) != REQUEST_MAGIC {
        return Err(NotNbd("no request where one must be"));
    }
    let kind = match be16(&head[6..8]) {
        0 => Kind::Read,
        1 => Kind::Write,
        2 => Kind::Disconnect,
        3 => Kind::Flush,
        4 | 6 => Kind::Zero,
        _ => Kind::Unknown,
    };
    let len_bytes = be32(&head[24..]);
    if matches!(kind, Kind::Read | Kind::Write) && len_bytes > IO_BYTES_MAX {
        return Err(NotNbd("a longer read or write than was agreed"));
    }
    let end = REQUEST_BYTES + if kind == Kind::Write { len_bytes as usize } else { 0 };
    let Some(data) = bytes.get(REQUEST_BYTES..end) else { return Ok(None) };
    let request = Request {
        kind,
        fua: be16(&head[4..6]) & FLAG_FUA != 0,
        cookie: be64(&head[8..16]),
        offset_bytes: be64(&head[16..24]),
        len_bytes,
        data: data.to_owned(),
    };
    Ok(Some((request, end)))
}

impl Request {
    /// Whether it asks for something that a drive of that size has.
    pub fn check(&self, size_bytes: u64) -> Result<(), Errno> {
        let sector = SECTOR_BYTES as u64;
        let whole =
            self.offset_bytes.is_multiple_of(sector) && u64::from(self.len_bytes).is_multiple_of(sector);
        let end = self.offset_bytes.checked_add(self.len_bytes.into());
        let good = match self.kind {
            Kind::Read | Kind::Write | Kind::Zero => whole && end.is_some_and(|end| end <= size_bytes),
            Kind::Flush | Kind::Disconnect => true,
            Kind::Unknown => false,
        };
        if good { Ok(()) } else { Err(Errno::Invalid) }
    }
}

/// The head of an answer, which a good one to a read goes on after with its bytes.
pub fn reply(cookie: u64, error: Option<Errno>) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.map_or(0, |error| error as u32).to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

fn be16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |number, byte| number << 8 | u16::from(*byte))
}

fn be32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn be64(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(kind: u16, flags: u16, offset: u64, len: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(7u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn a_request_is_read_when_all_of_it_is_there() {
        let mut bytes = bytes_of(1, FLAG_FUA, 4096, 512, &[3; 512]);
        for end in 0..bytes.len() {
            assert_eq!(request(&bytes[..end]), Ok(None), "{end}");
        }
        bytes.push(9);
        let (write, end) = request(&bytes).unwrap().unwrap();
        assert_eq!((write.kind, write.fua, write.cookie, end), (Kind::Write, true, 7, bytes.len() - 1));
        assert_eq!((write.offset_bytes, &write.data[..]), (4096, &[3; 512][..]));
        let (read, end) = request(&bytes_of(0, 0, 0, 512, &[])).unwrap().unwrap();
        assert_eq!((read.kind, read.fua, end), (Kind::Read, false, REQUEST_BYTES));
        assert!(request(&bytes_of(1, 0, 0, IO_BYTES_MAX + 1, &[])).is_err());
    }

    #[test]
    fn what_a_drive_has_not_is_refused() {
        let check = |kind, offset, len| {
            let (request, _) = request(&bytes_of(kind, 0, offset, len, &[0; 512])).unwrap().unwrap();
            request.check(8192).is_ok()
        };
        assert!(check(0, 0, 8192) && check(4, 7680, 512) && check(3, 0, 0));
        assert!(!check(0, 1, 512) && !check(0, 0, 100) && !check(0, 7680, 1024));
        assert!(!check(0, u64::MAX - 511, 512) && !check(5, 0, 512));
    }

    #[test]
    fn a_client_that_goes_is_told_size_flags_and_block_sizes() {
        let AfterOption::Requests(answer) = answer_option(OPTION_GO, 1 << 30).unwrap() else { panic!() };
        assert_eq!(answer.len(), 20 + 12 + 20 + 14 + 20);
        assert_eq!((be64(&answer[22..30]), be16(&answer[30..32])), (1 << 30, 0b110_1101));
        assert!(matches!(answer_option(8, 1), Ok(AfterOption::More(_))), "no structured replies");
        assert!(answer_option(OPTION_EXPORT_NAME, 1).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..80), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            }
            if let Ok(Some((request, end))) = request(&bytes) {
                prop_assert!(end <= bytes.len());
                request.check(1 << 30).ok();
            }
            if let Some(head) = bytes.first_chunk() {
                option_head(head).ok();
            }
        }
    }
}
