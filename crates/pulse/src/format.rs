//! What the guest and whoever judges it agree on: its disk, its serial lines, its frames. Pure, without `std`: the guest includes
//! this file.
//!
//! **The disk.** Sector 0 boots; sector 1 has the [`Params`], written when the image was imported; sector 2 has the number of the
//! last run, written by the guest; then its code. From [`DATA_OFFSET`] on there are blocks of [`BLOCK_BYTES`], as `workload::block` describes them.
//!
//! **Lines** on the serial port: `~`, a letter, numbers in hexadecimal with a space before each, a CRC-32 of all before it as the last
//! of them, a line feed. **Frames**: [`ETHERTYPE`], [`Beat`].
//!
//! On failure: a sector, a line or a frame that is not whole, or of which a bit is wrong, is `None`.

/// How large a block is, bytes.
pub const BLOCK_BYTES: usize = 4096;
/// What a drive writes whole, bytes.
pub const SECTOR_BYTES: usize = 512;
/// Where block 0 is on the disk, bytes. In front of it there is the guest.
pub const DATA_OFFSET: u64 = 64 << 10;
/// The sector of the [`Params`].
pub const PARAMS_SECTOR: u64 = 1;
/// The sector of the last run's number.
pub const RUN_SECTOR: u64 = 2;
/// The most writes in flight.
pub const IN_FLIGHT_MAX: u8 = 8;
/// The beats' protocol: one that IEEE 802 leaves to local experiments.
pub const ETHERTYPE: u16 = 0x88b5;
/// To whom beats go: a group of nobody's, which switches flood.
pub const BEAT_GROUP: [u8; 6] = [0x03, b't', b'w', b'r', b'p', b'l'];
/// How long a beat's frame is, bytes: the shortest that Ethernet has, without its check sequence.
pub const FRAME_BYTES: usize = 60;
/// The longest line, bytes.
pub const LINE_BYTES: usize = 128;

const BLOCK_MAGIC: [u8; 8] = *b"twrkload";
const PARAMS_MAGIC: [u8; 8] = *b"twrpulse";
const RUN_MAGIC: [u8; 8] = *b"twrprun\0";
const BEAT_MAGIC: [u8; 4] = *b"twrb";

/// CRC-32 (IEEE 802.3), one byte at a time.
static CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// CRC-32 (IEEE 802.3) of these pieces, one behind the other.
pub fn checksum(pieces: &[&[u8]]) -> u32 {
    let mut sum = u32::MAX;
    for byte in pieces.iter().copied().flatten() {
        sum = (sum >> 8) ^ CRC[((sum ^ u32::from(*byte)) & 0xff) as usize];
    }
    !sum
}

/// Puts bytes at a place; what is beyond the end is left out. The offsets here are constants within their arrays.
fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in into.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// So many bytes from a place on; zeros beyond the end.
fn take<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(from.iter().skip(at)) {
        *to = *from;
    }
    bytes
}

/// What a guest is told: who it is and what it does. Little-endian in its sector:
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 8 | `twrpulse` |
/// | 8 | 4 | virtual machine |
/// | 12 | 4 | blocks at most |
/// | 16 | 4 | warm blocks |
/// | 20 | 2 | milliseconds between beats |
/// | 22 | 2 | flush every so many writes |
/// | 24 | 1 | writes at a beat |
/// | 25 | 1 | writes in flight |
/// | 26 | 1 | warm percent |
/// | 27 | 1 | zero |
/// | 28 | 8 | seed |
/// | 36 | 4 | CRC-32 of the 36 bytes before |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// The virtual machine's number.
    pub vm: u32,
    /// How many blocks it uses at most; 0: all that the disk has.
    pub blocks_max: u32,
    /// How many blocks from the first on are warm.
    pub warm_blocks: u32,
    /// The time between beats, ms; at least 1.
    pub beat_ms: u16,
    /// After how many writes a flush follows; 0: never.
    pub flush_every: u16,
    /// How many writes begin at a beat.
    pub writes_per_beat: u8,
    /// How many writes are in flight at most; [`IN_FLIGHT_MAX`] if more.
    pub in_flight: u8,
    /// Of a hundred writes, how many go to warm blocks.
    pub warm_percent: u8,
    /// Draws the blocks.
    pub seed: u64,
}

impl Params {
    /// As its sector is written.
    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut sector = [0; SECTOR_BYTES];
        put(&mut sector, 0, &PARAMS_MAGIC);
        put(&mut sector, 8, &self.vm.to_le_bytes());
        put(&mut sector, 12, &self.blocks_max.to_le_bytes());
        put(&mut sector, 16, &self.warm_blocks.to_le_bytes());
        put(&mut sector, 20, &self.beat_ms.to_le_bytes());
        put(&mut sector, 22, &self.flush_every.to_le_bytes());
        put(&mut sector, 24, &[self.writes_per_beat, self.in_flight, self.warm_percent]);
        put(&mut sector, 28, &self.seed.to_le_bytes());
        let sum = checksum(&[&sector[..36]]);
        put(&mut sector, 36, &sum.to_le_bytes());
        sector
    }

    /// `None`: nobody has written it, or it is damaged.
    pub fn decode(sector: &[u8; SECTOR_BYTES]) -> Option<Self> {
        let whole = u32::from_le_bytes(take(sector, 36)) == checksum(&[&sector[..36]]);
        let [writes_per_beat, in_flight, warm_percent, _] = take(sector, 24);
        (whole && sector.starts_with(&PARAMS_MAGIC)).then(|| Self {
            vm: u32::from_le_bytes(take(sector, 8)),
            blocks_max: u32::from_le_bytes(take(sector, 12)),
            warm_blocks: u32::from_le_bytes(take(sector, 16)),
            beat_ms: u16::from_le_bytes(take(sector, 20)),
            flush_every: u16::from_le_bytes(take(sector, 22)),
            writes_per_beat,
            in_flight,
            warm_percent,
            seed: u64::from_le_bytes(take(sector, 28)),
        })
    }
}

/// The sector that holds the last run's number: `twrprun` and a zero, the number, a CRC-32 of these.
pub fn encode_run(run: u32) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    put(&mut sector, 0, &RUN_MAGIC);
    put(&mut sector, 8, &run.to_le_bytes());
    let sum = checksum(&[&sector[..12]]);
    put(&mut sector, 12, &sum.to_le_bytes());
    sector
}

/// `None`: it is damaged, and nobody can say which runs there were.
pub fn decode_run(sector: &[u8; SECTOR_BYTES]) -> Option<u32> {
    let whole = u32::from_le_bytes(take(sector, 12)) == checksum(&[&sector[..12]]);
    (whole && sector.starts_with(&RUN_MAGIC)).then(|| u32::from_le_bytes(take(sector, 8)))
}

/// A block as it is written; `workload::block::encode` is the same, and says what is in it.
pub fn fill_block(block: &mut [u8; BLOCK_BYTES], number: u32, run: u32, sequence: u64) {
    for (at, sector) in (0u32..).zip(block.chunks_exact_mut(SECTOR_BYTES)) {
        put(sector, 0, &BLOCK_MAGIC);
        put(sector, 8, &run.to_le_bytes());
        put(sector, 12, &number.to_le_bytes());
        put(sector, 16, &sequence.to_le_bytes());
        put(sector, 24, &at.to_le_bytes());
        let mut word = sequence ^ u64::from(at).rotate_left(32) ^ u64::from(run).rotate_left(48);
        for bytes in sector[32..].chunks_exact_mut(8) {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            put(bytes, 0, &word.to_le_bytes());
        }
        let sum = checksum(&[&sector[..28], &sector[32..]]);
        put(sector, 28, &sum.to_le_bytes());
    }
}

/// Why a guest stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    /// Its parameters are missing or damaged.
    Params = 1,
    /// The number of the last run is damaged.
    Run = 2,
    /// There is no virtio disk that it knows how to use.
    NoDisk = 3,
    /// The disk has no room for a block.
    Small = 4,
    /// The new run's number could not be written.
    RunWrite = 5,
    /// The processor reported a fault.
    Fault = 6,
    /// Its own code found something impossible.
    Panic = 7,
    /// Its power button was pressed: all that it had begun was answered, and it switches itself off.
    PowerButton = 8,
}

impl Stop {
    const ALL: [Self; 8] = [
        Self::Params,
        Self::Run,
        Self::NoDisk,
        Self::Small,
        Self::RunWrite,
        Self::Fault,
        Self::Panic,
        Self::PowerButton,
    ];
}

/// What a guest says on its serial port. Times are milliseconds since it started, a clock that goes on where it stopped when the
/// guest is moved or restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// `s`: it begins; the run's number is on the disk.
    Started {
        /// Who.
        vm: u32,
        /// Which start.
        run: u32,
        /// How many blocks it has.
        blocks: u32,
        /// Drawn at the start: two copies that were started from one disk differ in it.
        nonce: u64,
        /// When.
        ms: u32,
    },
    /// `a`: a write was acknowledged.
    Acknowledged {
        /// Who.
        vm: u32,
        /// In which run.
        run: u32,
        /// The write's number.
        sequence: u64,
        /// Where.
        block: u32,
        /// How long it took, µs.
        took_us: u32,
        /// When it ended.
        ms: u32,
    },
    /// `f`: a flush was acknowledged.
    Flushed {
        /// Who.
        vm: u32,
        /// In which run.
        run: u32,
        /// The last write before which, and itself, all had been acknowledged when it was asked for.
        up_to: u64,
        /// How long it took, µs.
        took_us: u32,
        /// When it ended.
        ms: u32,
    },
    /// `x`: a write failed.
    Failed {
        /// Who.
        vm: u32,
        /// In which run.
        run: u32,
        /// The write's number.
        sequence: u64,
        /// Where.
        block: u32,
        /// virtio's status.
        status: u8,
        /// When.
        ms: u32,
    },
    /// `b`: a beat.
    Beat {
        /// Who.
        vm: u32,
        /// In which run.
        run: u32,
        /// The beat's number, from 1.
        beat: u64,
        /// When.
        ms: u32,
    },
    /// `e`: it stands still.
    Stopped {
        /// Who; 0 if it doesn't know.
        vm: u32,
        /// Why.
        why: Stop,
    },
}

/// A line as it goes out.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Line {
    /// Its bytes, the line feed included.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        if let Some(to) = self.bytes.get_mut(self.len) {
            *to = byte;
            self.len += 1;
        }
    }

    fn push_hex(&mut self, number: u64) {
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let value = (number >> (digit * 4) & 0xf) as u8;
            self.push(value + if value < 10 { b'0' } else { b'a' - 10 });
        }
    }
}

impl Said {
    /// As it goes out.
    pub fn line(&self) -> Line {
        let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
        let (kind, fields, count) = self.fields();
        line.push(b'~');
        line.push(kind);
        for field in fields.iter().take(count) {
            line.push(b' ');
            line.push_hex(*field);
        }
        let sum = checksum(&[line.as_bytes()]);
        line.push(b' ');
        line.push_hex(sum.into());
        line.push(b'\n');
        line
    }

    /// What a line says; without its line feed, a carriage return before that is let pass. `None`: it is none of ours, or not whole.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let end = line.iter().rposition(|byte| *byte == b' ')?;
        let (said, sum) = line.split_at(end);
        if parse_hex(&sum[1..])? != u64::from(checksum(&[said])) {
            return None;
        }
        let [b'~', kind, rest @ ..] = said else { return None };
        let (mut fields, mut count) = ([0; 6], 0);
        for field in rest.split(|byte| *byte == b' ').skip(1) {
            *fields.get_mut(count)? = parse_hex(field)?;
            count += 1;
        }
        let said = Self::of_fields(*kind, fields, count)?;
        // One way to say a thing: leading zeros, capitals and numbers too large for their field are not ours.
        (said.line().as_bytes().strip_suffix(b"\n") == Some(line)).then_some(said)
    }

    fn fields(&self) -> (u8, [u64; 6], usize) {
        match *self {
            Self::Started { vm, run, blocks, nonce, ms } => {
                (b's', [vm.into(), run.into(), blocks.into(), nonce, ms.into(), 0], 5)
            }
            Self::Acknowledged { vm, run, sequence, block, took_us, ms } => {
                (b'a', [vm.into(), run.into(), sequence, block.into(), took_us.into(), ms.into()], 6)
            }
            Self::Flushed { vm, run, up_to, took_us, ms } => {
                (b'f', [vm.into(), run.into(), up_to, took_us.into(), ms.into(), 0], 5)
            }
            Self::Failed { vm, run, sequence, block, status, ms } => {
                (b'x', [vm.into(), run.into(), sequence, block.into(), status.into(), ms.into()], 6)
            }
            Self::Beat { vm, run, beat, ms } => (b'b', [vm.into(), run.into(), beat, ms.into(), 0, 0], 4),
            Self::Stopped { vm, why } => (b'e', [vm.into(), (why as u8).into(), 0, 0, 0, 0], 2),
        }
    }

    /// The narrowing is checked by the caller, who compares what it would be written as.
    fn of_fields(kind: u8, fields: [u64; 6], count: usize) -> Option<Self> {
        let [vm, run, a, b, c, d] = fields;
        let (vm, run) = (vm as u32, run as u32);
        Some(match (kind, count) {
            (b's', 5) => Self::Started { vm, run, blocks: a as u32, nonce: b, ms: c as u32 },
            (b'a', 6) => {
                Self::Acknowledged { vm, run, sequence: a, block: b as u32, took_us: c as u32, ms: d as u32 }
            }
            (b'f', 5) => Self::Flushed { vm, run, up_to: a, took_us: b as u32, ms: c as u32 },
            (b'x', 6) => {
                Self::Failed { vm, run, sequence: a, block: b as u32, status: c as u8, ms: d as u32 }
            }
            (b'b', 4) => Self::Beat { vm, run, beat: a, ms: b as u32 },
            (b'e', 2) => Self::Stopped { vm, why: *Stop::ALL.iter().find(|why| **why as u32 == run)? },
            _ => return None,
        })
    }
}

fn parse_hex(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

/// A beat as a frame. Little-endian behind the Ethernet header of 14 bytes:
///
/// | offset | bytes | what |
/// |---|---|---|
/// | 0 | 4 | `twrb` |
/// | 4 | 4 | virtual machine |
/// | 8 | 4 | run |
/// | 12 | 8 | nonce |
/// | 20 | 8 | beat |
/// | 28 | 8 | how many writes of this run were acknowledged |
/// | 36 | 4 | CRC-32 of the 36 bytes before |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The virtual machine.
    pub vm: u32,
    /// Its run.
    pub run: u32,
    /// Drawn at the run's start.
    pub nonce: u64,
    /// The beat's number in the run, from 1.
    pub beat: u64,
    /// How many of the run's writes were acknowledged.
    pub acknowledged: u64,
}

/// Where a beat begins in a frame: behind the Ethernet header.
const HEADER_BYTES: usize = 14;
/// How much longer a frame with a VLAN's tag is.
const TAG_BYTES: usize = 4;

impl Beat {
    /// As a frame.
    pub fn frame(&self, source: [u8; 6]) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        put(&mut frame, 0, &BEAT_GROUP);
        put(&mut frame, 6, &source);
        put(&mut frame, 12, &ETHERTYPE.to_be_bytes());
        let beat = &mut frame[HEADER_BYTES..];
        put(beat, 0, &BEAT_MAGIC);
        put(beat, 4, &self.vm.to_le_bytes());
        put(beat, 8, &self.run.to_le_bytes());
        put(beat, 12, &self.nonce.to_le_bytes());
        put(beat, 20, &self.beat.to_le_bytes());
        put(beat, 28, &self.acknowledged.to_le_bytes());
        let sum = checksum(&[&beat[..36]]);
        put(beat, 36, &sum.to_le_bytes());
        frame
    }

    /// The beat in a frame, which may have a VLAN's tag; `None`: it holds none.
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        let tagged = frame.get(12..14)? == [0x81, 0x00];
        let header = HEADER_BYTES + if tagged { TAG_BYTES } else { 0 };
        if frame.get(header - 2..header)? != ETHERTYPE.to_be_bytes() {
            return None;
        }
        Self::of_payload(frame.get(header..)?)
    }

    /// The beat in what a frame holds behind its `EtherType`; `None`: it holds none.
    pub fn of_payload(payload: &[u8]) -> Option<Self> {
        let beat = payload.get(..40)?;
        let whole = u32::from_le_bytes(take(beat, 36)) == checksum(&[&beat[..36]]);
        (whole && beat.starts_with(&BEAT_MAGIC)).then(|| Self {
            vm: u32::from_le_bytes(take(beat, 4)),
            run: u32::from_le_bytes(take(beat, 8)),
            nonce: u64::from_le_bytes(take(beat, 12)),
            beat: u64::from_le_bytes(take(beat, 20)),
            acknowledged: u64::from_le_bytes(take(beat, 28)),
        })
    }
}
