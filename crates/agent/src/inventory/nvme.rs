//! What an NVMe controller says about itself.
//!
//! Formats: NVM Express Base Specification 2.0, figure 275 (Identify Controller) and figure 207 (SMART / Health log).

use crate::ioctl::{NvmeRead, nvme_read};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Bytes of an Identify data structure.
const IDENTIFY_BYTES: usize = 4096;
/// Bytes of the SMART / Health log page.
const SMART_BYTES: usize = 512;
/// Namespace id that means the whole controller.
const WHOLE_CONTROLLER: u32 = 0xffff_ffff;

/// A controller that did not say.
#[derive(Debug, thiserror::Error)]
pub(super) enum NvmeError {
    #[error("can't open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("can't send {command}")]
    Send {
        command: &'static str,
        #[source]
        source: rustix::io::Errno,
    },
    #[error("{command} refused with status {status:#06x}")]
    Refused { command: &'static str, status: u32 },
}

/// Identify Controller, as far as an inventory needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(super) struct Identify {
    pub(super) serial: String,
    pub(super) model: String,
    pub(super) firmware: String,
    pub(super) volatile_write_cache: bool,
}

/// What the controller at `path` (`/dev/nvme0`) says: itself, and its wear in percent if it has a health log.
pub(super) fn ask(path: &Path) -> Result<(Identify, Option<u8>), NvmeError> {
    let controller = File::open(path).map_err(|source| NvmeError::Open { path: path.to_owned(), source })?;
    let mut data = [0; IDENTIFY_BYTES];
    // CNS 1: the controller.
    let identify = NvmeRead { opcode: 0x06, namespace: 0, cdw10: 1 };
    send(&controller, "Identify Controller", identify, &mut data)?;
    let mut log = [0; SMART_BYTES];
    // Log page 2; the number of dwords, less one, in the upper half.
    let dwords = (SMART_BYTES / 4 - 1) as u32;
    let get_log = NvmeRead { opcode: 0x02, namespace: WHOLE_CONTROLLER, cdw10: dwords << 16 | 0x02 };
    let wear = match send(&controller, "Get Log Page (SMART)", get_log, &mut log) {
        Ok(()) => wear_percent(&log),
        Err(error) => {
            tracing::warn!("{}: {error}", path.display());
            None
        }
    };
    Ok((identify_from(&data), wear))
}

fn send(controller: &File, command: &'static str, read: NvmeRead, data: &mut [u8]) -> Result<(), NvmeError> {
    match nvme_read(controller, read, data) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(status)) => Err(NvmeError::Refused { command, status }),
        Err(source) => Err(NvmeError::Send { command, source }),
    }
}

fn identify_from(data: &[u8; IDENTIFY_BYTES]) -> Identify {
    Identify {
        serial: ascii(&data[4..24]),
        model: ascii(&data[24..64]),
        firmware: ascii(&data[64..72]),
        // VWC bit 0.
        volatile_write_cache: data[525] & 1 == 1,
    }
}

/// Percentage Used: byte 5; 255 stands for everything above 254.
fn wear_percent(log: &[u8]) -> Option<u8> {
    log.get(5).copied()
}

/// Text padded with spaces. The standard promises ASCII; what isn't becomes `?`, zeros (seen in the field) end it.
pub(super) fn ascii(bytes: &[u8]) -> String {
    let text = bytes.iter().take_while(|byte| **byte != 0);
    let readable = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' };
    text.map(readable).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identify_is_read_at_the_standards_offsets() {
        let mut data = [0; IDENTIFY_BYTES];
        data[..4].copy_from_slice(b"\x36\x1b\xf4\x1a");
        data[4..24].copy_from_slice(b"  TW-DRIVE-1        ");
        data[24..64].copy_from_slice(b"QEMU NVMe Ctrl                          ");
        data[64..72].copy_from_slice(b"7.2.22  ");
        data[72] = b'X';
        data[525] = 0b111;
        insta::assert_json_snapshot!(identify_from(&data));
        data[525] = 0b110;
        assert!(!identify_from(&data).volatile_write_cache);
    }

    #[test]
    fn wear_is_byte_five() {
        let mut log = [0; SMART_BYTES];
        log[5] = 103;
        assert_eq!(wear_percent(&log), Some(103));
        assert_eq!(wear_percent(&log[..5]), None);
    }

    #[test]
    fn a_controller_that_is_not_there_is_named() {
        let error = ask(Path::new("/dev/nvme-none")).unwrap_err();
        assert_eq!(error.to_string(), "can't open /dev/nvme-none");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_all_text_is_printable(bytes: Vec<u8>) {
            let text = ascii(&bytes);
            prop_assert!(text.chars().all(|c| !c.is_control()) && text.trim() == text);
        }
    }
}
