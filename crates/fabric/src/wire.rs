//! Frames on a stream, as QEMU's `-netdev stream` has them: each after its length in four bytes, most significant first
//! (QEMU `net/net.c`, `net_fill_rstate`; `net/stream.c`, `net_stream_receive`; no virtio-net header).

use crate::frame::Frame;
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// The longest frame that QEMU sends or takes, bytes (`NET_BUFSIZE` in `include/net/net.h`).
pub(crate) const FRAME_BYTES_MAX: usize = 4096 + 65536;
/// What is read at once from a socket, bytes: many small frames or some jumbo ones.
const INBOX_BYTES: usize = 128 * 1024;
/// What may wait for a NIC that reads slowly, bytes: about 15 ms at 2 Gbit/s.
pub(crate) const OUTBOX_BYTES: usize = 4 * 1024 * 1024;
const PREFIX_BYTES: usize = 4;

/// A length that no QEMU sends: the stream can't be followed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {bytes} bytes was announced")]
pub(crate) struct BadLength {
    bytes: u32,
}

/// Bytes that came in and are not yet frames.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; INBOX_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Where to read to. Never empty, once [`Self::next_frame`] has said that there are no more.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// So many bytes were read to [`Self::space`].
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// The next whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<&[u8]>, BadLength> {
        let Some((prefix, rest)) = self.buffer[self.start..self.end].split_first_chunk::<PREFIX_BYTES>()
        else {
            return Ok(None);
        };
        let bytes = u32::from_be_bytes(*prefix);
        let length = bytes as usize;
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(BadLength { bytes });
        }
        let frame = rest.get(..length);
        if frame.is_some() {
            self.start += PREFIX_BYTES + length;
        }
        Ok(frame)
    }
}

/// Bytes that wait to go out. Holds whole frames, but for the one that is being written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: VecDeque<u8>,
}

impl Outbox {
    /// False if there is no room; the frame is lost then.
    pub(crate) fn push(&mut self, frame: &Frame<'_>) -> bool {
        let length = frame.wire_bytes();
        // A tag may have made the longest frame too long for QEMU, which would close the connection.
        if length > FRAME_BYTES_MAX || self.bytes.len() + PREFIX_BYTES + length > OUTBOX_BYTES {
            return false;
        }
        self.bytes.extend(&(length as u32).to_be_bytes());
        frame.pieces(|piece| self.bytes.extend(piece));
        true
    }

    /// Writes until everything is out (true) or the writer would block (false).
    pub(crate) fn flush(&mut self, mut writer: impl Write) -> io::Result<bool> {
        while !self.bytes.is_empty() {
            let (front, back) = self.bytes.as_slices();
            match writer.write_vectored(&[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.bytes.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(inbox: &mut Inbox, bytes: &[u8]) -> Result<Vec<Vec<u8>>, BadLength> {
        inbox.space()[..bytes.len()].copy_from_slice(bytes);
        inbox.filled(bytes.len());
        let mut frames = Vec::new();
        while let Some(frame) = inbox.next_frame()? {
            frames.push(frame.to_vec());
        }
        Ok(frames)
    }

    #[test]
    fn lengths_that_no_qemu_sends_are_refused() {
        assert_eq!(feed(&mut Inbox::new(), &[0, 0, 0, 0]), Err(BadLength { bytes: 0 }));
        assert_eq!(feed(&mut Inbox::new(), &[0, 1, 0x10, 1]), Err(BadLength { bytes: 69_633 }));
        assert_eq!(feed(&mut Inbox::new(), &[0, 1, 0x10, 0]), Ok(vec![]));
    }

    #[test]
    fn an_outbox_is_bounded_and_takes_whole_frames_only() {
        let bytes = vec![7u8; 60_000];
        let frame = Frame::parse(&bytes).unwrap();
        let mut outbox = Outbox::default();
        let taken = (0..100).filter(|_| outbox.push(&frame)).count();
        assert_eq!(taken, OUTBOX_BYTES / 60_004);
        let mut out = Vec::new();
        assert!(outbox.flush(&mut out).unwrap());
        assert_eq!(out.len(), taken * 60_004);
        assert_eq!(out[..4], 60_000u32.to_be_bytes());
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_however_the_stream_is_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 14..200), 0..20),
            cuts in prop::collection::vec(1..64usize, 1..50),
        ) {
            let mut outbox = Outbox::default();
            for frame in &frames {
                prop_assert!(Frame::parse(frame).is_none_or(|frame| outbox.push(&frame)));
            }
            let sent: Vec<_> = frames.into_iter().filter(|frame| Frame::parse(frame).is_some()).collect();
            let mut stream = Vec::new();
            outbox.flush(&mut stream).unwrap();
            let (mut inbox, mut received, mut rest) = (Inbox::new(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at(rest.len().min(*cut));
                received.extend(feed(&mut inbox, now).unwrap());
                rest = later;
            }
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
            let _ = feed(&mut Inbox::new(), &bytes);
        }
    }
}
