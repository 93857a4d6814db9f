//! What an NVMe controller of this machine is asked and told.
//!
//! Purpose: Identify, the health log, the volatile write cache. Formats: NVM Express Base Specification 2.0, figure 138 (opcodes), figure 275
//! (Identify Controller), figure 207 (SMART / Health Information log), 5.27.1.4 (Volatile Write Cache).
//!
//! Invariants: a controller that hangs does not hang whoever asks for longer than [`ANSWER_BOUND_MS`]. No bytes of a controller panic.
//!
//! On failure: [`NvmeError`].

mod ioctl;

use std::fs::File;
use std::path::{Path, PathBuf};

/// How long a controller may take to answer, ms.
pub const ANSWER_BOUND_MS: u32 = 5000;

const GET_LOG_PAGE: u8 = 0x02;
const IDENTIFY: u8 = 0x06;
const SET_FEATURES: u8 = 0x09;
const GET_FEATURES: u8 = 0x0a;
/// CNS 1 of Identify: the controller.
const CNS_CONTROLLER: u32 = 1;
/// Bytes of an Identify data structure.
const IDENTIFY_BYTES: usize = 4096;
const HEALTH_LOG: u32 = 0x02;
const HEALTH_BYTES: usize = 512;
const VOLATILE_WRITE_CACHE: u32 = 0x06;
/// Namespace id that means the whole controller.
const WHOLE_CONTROLLER: u32 = 0xffff_ffff;

/// A controller that did not answer, or refused.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// There is none, or this process may not.
    #[error("can't open {}", path.display())]
    Open {
        /// Its device.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel did not pass it on, or no answer came in time.
    #[error("can't send {command} to {}", path.display())]
    Send {
        /// Its device.
        path: PathBuf,
        /// What.
        command: &'static str,
        /// Why.
        #[source]
        source: rustix::io::Errno,
    },
    /// The answer is an error.
    #[error("{} refused {command} with status {status:#06x}", path.display())]
    Refused {
        /// Its device.
        path: PathBuf,
        /// What.
        command: &'static str,
        /// Status field of the completion.
        status: u32,
    },
}

/// Identify Controller, as far as anybody here needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identify {
    /// Serial number.
    pub serial: String,
    /// Model number.
    pub model: String,
    /// Firmware revision.
    pub firmware: String,
    /// Whether there is a volatile write cache, on or off.
    pub has_volatile_cache: bool,
}

impl Identify {
    fn from_bytes(data: &[u8; IDENTIFY_BYTES]) -> Self {
        Self {
            serial: ascii(&data[4..24]),
            model: ascii(&data[24..64]),
            firmware: ascii(&data[64..72]),
            has_volatile_cache: data[525] & 1 == 1,
        }
    }
}

/// The health log, as far as anybody here needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Percentage Used; 255 stands for everything above 254.
    pub wear_percent: u8,
    /// Power Cycles. The log has 128 bits of each count; what is more than these says the most.
    pub power_cycles: u64,
    /// Media and Data Integrity Errors: how many times the controller found data that it could not give back as they were.
    pub media_errors: u64,
}

impl Health {
    fn from_bytes(log: &[u8; HEALTH_BYTES]) -> Self {
        let count = |at: usize| {
            let whole = u128::from_le_bytes(std::array::from_fn(|byte| log[at + byte]));
            u64::try_from(whole).unwrap_or(u64::MAX)
        };
        Self { wear_percent: log[5], power_cycles: count(112), media_errors: count(160) }
    }
}

/// A controller.
#[derive(Debug)]
pub struct Controller {
    file: File,
    path: PathBuf,
}

impl Controller {
    /// That of a character device, `/dev/nvme0`.
    pub fn open(path: &Path) -> Result<Self, NvmeError> {
        let path = path.to_owned();
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(NvmeError::Open { path, source }),
        }
    }

    /// What it is.
    pub fn identify(&self) -> Result<Identify, NvmeError> {
        let mut data = [0; IDENTIFY_BYTES];
        self.send("Identify Controller", IDENTIFY, 0, CNS_CONTROLLER, &mut data)?;
        Ok(Identify::from_bytes(&data))
    }

    /// How it is.
    pub fn health(&self) -> Result<Health, NvmeError> {
        let mut log = [0; HEALTH_BYTES];
        // The number of dwords, less one, in the upper half.
        let dwords = (HEALTH_BYTES / 4 - 1) as u32;
        self.send(
            "Get Log Page (SMART)",
            GET_LOG_PAGE,
            WHOLE_CONTROLLER,
            dwords << 16 | HEALTH_LOG,
            &mut log,
        )?;
        Ok(Health::from_bytes(&log))
    }

    /// Whether it has a volatile write cache that is on.
    pub fn caches_writes(&self) -> Result<bool, NvmeError> {
        Ok(self.identify()?.has_volatile_cache
            && self.send("Get Features (cache)", GET_FEATURES, 0, VOLATILE_WRITE_CACHE, &mut [])? & 1 == 1)
    }

    /// Turns the volatile write cache off. That it is off, [`Controller::caches_writes`] says.
    pub fn turn_cache_off(&self) -> Result<(), NvmeError> {
        // The second argument is 0: off.
        self.send("Set Features (cache)", SET_FEATURES, 0, VOLATILE_WRITE_CACHE, &mut []).map(drop)
    }

    /// Gives the first dword of the answer.
    fn send(
        &self,
        command: &'static str,
        opcode: u8,
        namespace: u32,
        cdw10: u32,
        data: &mut [u8],
    ) -> Result<u32, NvmeError> {
        let path = || self.path.clone();
        match ioctl::admin(&self.file, ioctl::Command { opcode, namespace, cdw10 }, data) {
            Ok((0, result)) => Ok(result),
            Ok((status, _)) => Err(NvmeError::Refused { path: path(), command, status }),
            Err(source) => Err(NvmeError::Send { path: path(), command, source }),
        }
    }
}

/// Text padded with spaces. The standard promises ASCII; what isn't becomes `?`, zeros (seen in the field) end it.
pub fn ascii(bytes: &[u8]) -> String {
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
        let found = Identify::from_bytes(&data);
        assert_eq!(
            (found.serial.as_str(), found.model.as_str(), found.firmware.as_str(), found.has_volatile_cache),
            ("TW-DRIVE-1", "QEMU NVMe Ctrl", "7.2.22", true)
        );
        data[525] = 0b110;
        assert!(!Identify::from_bytes(&data).has_volatile_cache);
    }

    #[test]
    fn health_is_read_at_the_standards_offsets() {
        let mut log = [0; HEALTH_BYTES];
        log[5] = 103;
        log[112..128].copy_from_slice(&7_000_000_000_u128.to_le_bytes());
        log[128] = 0xff;
        log[160..176].copy_from_slice(&(1_u128 << 100).to_le_bytes());
        log[159] = 0xff;
        log[176] = 0xff;
        let expected = Health { wear_percent: 103, power_cycles: 7_000_000_000, media_errors: u64::MAX };
        assert_eq!(Health::from_bytes(&log), expected);
    }

    #[test]
    fn a_controller_that_is_not_there_is_named() {
        let error = Controller::open(Path::new("/dev/nvme-none")).unwrap_err();
        assert_eq!(error.to_string(), "can't open /dev/nvme-none");
        let no_controller = Controller::open(Path::new("/dev/null")).unwrap().identify().unwrap_err();
        assert_eq!(no_controller.to_string(), "can't send Identify Controller to /dev/null");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_all_text_is_printable(bytes: Vec<u8>) {
            let text = ascii(&bytes);
            prop_assert!(text.chars().all(|c| !c.is_control()) && text.trim() == text);
        }
    }
}
