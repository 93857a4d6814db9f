//! The processes at the ends of a measurement, and the relay that the fabric is compared with.
//!
//! Frames go as QEMU sends them: each by a write of its own, after its length in four bytes. They are numbered; the receiver takes
//! only the next number, so that a frame lost, doubled or out of order ends the measurement. It answers every quarter of a window
//! with what it has; the sender never has more than a window under way, as TCP wouldn't: nothing on the way is full ever.
//!
//! On failure: an error with its operation; the process ends with it, and so does the measurement.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// What may be under way, bytes: below what the fabric keeps for a NIC (4 MiB).
const WINDOW_BYTES: u64 = 512 * 1024;
/// Frames are never fewer than this in a window.
const WINDOW_FRAMES_MIN: u64 = 16;
/// Addresses, an 802.1Q tag (VLAN 711, priority 3) and an Ethertype for experiments (IEEE 802, 9.2.3).
const HEADER_BYTES: usize = 18;
/// The shortest frame here, bytes: the header, a number, and whether it is the last one.
pub(super) const FRAME_BYTES_MIN: usize = 64;
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];

/// A process's socket did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The other end is not there, or went away.
    #[error("cannot {doing}")]
    Socket {
        /// What it was doing.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The receiver got another frame than the next.
    #[error("frame {expected} was to come, frame {found} came: lost, doubled or out of order")]
    Order {
        /// The number expected.
        expected: u64,
        /// The number found.
        found: u64,
    },
}

fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> PeerError {
    move |source| PeerError::Socket { doing, source }
}

/// A frame in its buffer, length in front.
struct Buffer(Vec<u8>);

impl Buffer {
    fn new(destination: [u8; 6], source: [u8; 6], frame_bytes: usize) -> Self {
        let mut bytes = (frame_bytes as u32).to_be_bytes().to_vec();
        bytes.extend([destination, source].as_flattened());
        bytes.extend([0x81, 0x00, 0x62, 0xc7, ETHERTYPE[0], ETHERTYPE[1]]);
        bytes.resize(4 + frame_bytes, 0x5a);
        Self(bytes)
    }

    fn numbered(&mut self, number: u64, is_last: bool) -> &[u8] {
        self.0[4 + HEADER_BYTES..][..8].copy_from_slice(&number.to_be_bytes());
        self.0[4 + HEADER_BYTES + 8] = is_last.into();
        &self.0
    }
}

/// Reads the next frame of ours, whatever else comes (the ports' LLDP); gives its number, and whether it is the last.
fn next_frame(stream: &mut BufReader<UnixStream>, buffer: &mut Vec<u8>) -> Result<(u64, bool), PeerError> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).map_err(failed("read a frame's length"))?;
        buffer.resize(u32::from_be_bytes(length) as usize, 0);
        stream.read_exact(buffer).map_err(failed("read a frame"))?;
        let number = buffer.get(HEADER_BYTES..).and_then(|rest| rest.split_first_chunk::<8>());
        if let (Some((number, [last, ..])), true) = (number, buffer.get(16..18) == Some(&ETHERTYPE)) {
            return Ok((u64::from_be_bytes(*number), *last == 1));
        }
    }
}

fn connect(socket: &Path) -> Result<BufReader<UnixStream>, PeerError> {
    let stream = UnixStream::connect(socket).map_err(failed("connect"))?;
    Ok(BufReader::with_capacity(256 * 1024, stream))
}

fn window_frames(frame_bytes: usize) -> u64 {
    (WINDOW_BYTES / frame_bytes as u64).max(WINDOW_FRAMES_MIN)
}

/// Sends for so long after the receiver's first word; prints frames and nanoseconds until the last was answered.
pub(super) fn send(socket: &Path, frame_bytes: usize, duration: Duration) -> Result<(), PeerError> {
    let mut stream = connect(socket)?;
    let mut buffer = Vec::new();
    next_frame(&mut stream, &mut buffer)?;
    let started = Instant::now();
    let mut frame = Buffer::new(RECEIVER, SENDER, frame_bytes.max(FRAME_BYTES_MIN));
    let (mut sent, mut answered) = (0u64, 0u64);
    let window = window_frames(frame_bytes);
    loop {
        // The clock is looked at once a quarter of a window.
        let is_last = sent.is_multiple_of(window / 4) && started.elapsed() >= duration;
        sent += 1;
        stream.get_mut().write_all(frame.numbered(sent, is_last)).map_err(failed("send a frame"))?;
        while answered < sent && (is_last || sent - answered >= window) {
            (answered, _) = next_frame(&mut stream, &mut buffer)?;
        }
        if is_last {
            println!("{sent} {}", started.elapsed().as_nanos());
            return Ok(());
        }
    }
}

/// Says that it is there, then counts; prints the frames received.
pub(super) fn receive(socket: &Path, frame_bytes: usize) -> Result<(), PeerError> {
    let mut stream = connect(socket)?;
    let mut answer = Buffer::new(BROADCAST, RECEIVER, FRAME_BYTES_MIN);
    stream.get_mut().write_all(answer.numbered(0, false)).map_err(failed("say hello"))?;
    answer = Buffer::new(SENDER, RECEIVER, FRAME_BYTES_MIN);
    let quarter = window_frames(frame_bytes) / 4;
    let mut buffer = Vec::new();
    let mut received = 0;
    loop {
        let (found, is_last) = next_frame(&mut stream, &mut buffer)?;
        received += 1;
        if found != received {
            return Err(PeerError::Order { expected: received, found });
        }
        if is_last || received % quarter == 0 {
            stream.get_mut().write_all(answer.numbered(received, false)).map_err(failed("answer"))?;
        }
        if is_last {
            println!("{received}");
            return Ok(());
        }
    }
}

/// The least that a process between two sockets can do: takes a connection at each, then passes on what comes, both ways. Two threads,
/// because without knowing what it carries it can't wait for both at once with fewer calls.
pub(super) fn relay(one: &Path, other: &Path) -> Result<(), PeerError> {
    let listen = |path| UnixListener::bind(path).map_err(failed("listen"));
    let (one, other) = (listen(one)?, listen(other)?);
    let accept = |listener: &UnixListener| listener.accept().map_err(failed("take a connection"));
    let (one, other) = (accept(&one)?.0, accept(&other)?.0);
    let back = (other.try_clone(), one.try_clone());
    let (back_from, back_to) =
        (back.0.map_err(failed("share a socket"))?, back.1.map_err(failed("share a socket"))?);
    let there = std::thread::spawn(move || pass_on(one, other));
    pass_on(back_from, back_to)?;
    there.join().unwrap_or(Ok(()))
}

fn pass_on(mut from: UnixStream, mut to: UnixStream) -> Result<(), PeerError> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(failed("read what is to be passed on")(error)),
        };
        to.write_all(&buffer[..bytes]).map_err(failed("pass on"))?;
    }
}
