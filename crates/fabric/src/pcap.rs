//! Writes captures that tcpdump and Wireshark read: the classic libpcap format, nanosecond flavour, big-endian
//! (draft-ietf-opsawg-pcap, sections 4 and 5; the same as libpcap's `pcap-savefile(5)`).
//!
//! On failure: the first error, or the limit, ends the capture; frames after that are counted as missed, and the report
//! says so.

use crate::frame::Frame;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::time::Duration;

/// Says: nanoseconds after the seconds; and by its order, which end comes first.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Major and minor version.
const VERSION: [u16; 2] = [2, 4];
/// More than the longest frame, bytes: nothing is cut off.
const SNAPLEN: u32 = 262_144;
/// Ethernet, no check sequence at the end.
const LINKTYPE_ETHERNET: u32 = 1;
const HEADER_BYTES: u64 = 24;
const RECORD_HEADER_BYTES: u64 = 16;

/// What a capture came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureReport {
    /// Frames in the file.
    pub frames: u64,
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Frames that came after the limit or after the file could no longer be written.
    pub missed_frames: u64,
    /// Why the file could no longer be written.
    pub error: Option<String>,
}

/// A capture being written.
#[derive(Debug)]
pub(crate) struct Capture<W: Write> {
    writer: W,
    max_bytes: u64,
    report: CaptureReport,
}

impl<W: Write> Capture<W> {
    /// Writes the file's header.
    pub(crate) fn start(mut writer: W, max_bytes: u64) -> io::Result<Self> {
        writer.write_all(&MAGIC_NANOSECONDS.to_be_bytes())?;
        writer.write_all(&VERSION[0].to_be_bytes())?;
        writer.write_all(&VERSION[1].to_be_bytes())?;
        writer.write_all(&[0; 8])?; // reserved
        writer.write_all(&SNAPLEN.to_be_bytes())?;
        writer.write_all(&LINKTYPE_ETHERNET.to_be_bytes())?;
        let report = CaptureReport { frames: 0, file_bytes: HEADER_BYTES, missed_frames: 0, error: None };
        Ok(Self { writer, max_bytes, report })
    }

    /// Writes a frame, seen so long after 1970.
    pub(crate) fn write(&mut self, frame: &Frame<'_>, since_epoch: Duration) {
        let bytes = RECORD_HEADER_BYTES + frame.wire_bytes() as u64;
        if self.report.error.is_some() || self.report.file_bytes + bytes > self.max_bytes {
            self.report.missed_frames += 1;
            return;
        }
        match self.write_record(frame, since_epoch) {
            Ok(()) => {
                self.report.frames += 1;
                self.report.file_bytes += bytes;
            }
            Err(error) => self.fail(&error),
        }
    }

    fn write_record(&mut self, frame: &Frame<'_>, since_epoch: Duration) -> io::Result<()> {
        // Seconds are unsigned in the format and last until 2106.
        let length = frame.wire_bytes() as u32;
        for word in [since_epoch.as_secs() as u32, since_epoch.subsec_nanos(), length, length] {
            self.writer.write_all(&word.to_be_bytes())?;
        }
        frame.write_to(&mut self.writer)
    }

    /// Hands everything to the file system, so that others can read along.
    pub(crate) fn flush(&mut self) {
        if let Err(error) = self.writer.flush() {
            self.fail(&error);
        }
    }

    /// Ends the capture.
    pub(crate) fn finish(mut self) -> CaptureReport {
        self.flush();
        self.report
    }

    fn fail(&mut self, error: &io::Error) {
        self.report.error.get_or_insert_with(|| error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = [[2u8; 12].as_slice(), &[0x81, 0x00, 0x62, 0xc7, 0x08, 0x00, 9]].concat();
        let frame = Frame::parse(&bytes).unwrap();
        let mut file = Vec::new();
        let mut capture = Capture::start(&mut file, 1000).unwrap();
        capture.write(&frame, Duration::new(0x0102_0304, 5));
        let report = capture.finish();
        let header = [0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1];
        let record = [1, 2, 3, 4, 0, 0, 0, 5, 0, 0, 0, 19, 0, 0, 0, 19];
        assert_eq!(file, [&header[..], &record, &bytes].concat());
        assert_eq!(
            report,
            CaptureReport { frames: 1, file_bytes: file.len() as u64, missed_frames: 0, error: None }
        );
    }

    #[test]
    fn it_stops_at_its_limit_and_at_the_first_error() {
        let bytes = [2u8; 60];
        let frame = Frame::parse(&bytes).unwrap();
        let mut limited = Capture::start(Vec::new(), 24 + 2 * 76).unwrap();
        (0..3).for_each(|_| limited.write(&frame, Duration::ZERO));
        let report = limited.finish();
        assert_eq!((report.frames, report.missed_frames, report.error), (2, 1, None));

        let mut room = [0u8; 100];
        let mut full = Capture::start(&mut room[..], 1000).unwrap();
        (0..3).for_each(|_| full.write(&frame, Duration::ZERO));
        let report = full.finish();
        assert_eq!((report.frames, report.missed_frames), (1, 1));
        assert!(report.error.is_some());
    }
}
