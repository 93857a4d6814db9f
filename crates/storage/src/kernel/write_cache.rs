//! A drive's volatile write cache: turned off, and read back (design notes, rule 10).
//!
//! Purpose: what a drive acknowledged outlives its power, without a flush. A flush alone does not do: one that fails over between paths
//! is answered without having been done, and md swallows the errors of flushes.
//!
//! Invariants: a drive passes only if it says itself that its cache is off, or that it has none. What the kernel believes of it stays as
//! it is: flushes that are not needed cost little.
//!
//! On failure: [`StepError`]; such a drive may hold no leg. A drive that is reset or loses its power may forget this setting: it is asked
//! again before each leg is given out.
#![expect(unsafe_code, reason = "ioctl(2) takes untyped pointers")]

use super::StepError;
use super::sysfs::{self, FileError, failed};
use rustix::io::Result as IoResult;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// How long a controller may take to answer: one that hangs must not hang an order for ever.
const ANSWER_BOUND_MS: u32 = 5000;
/// Bytes of an Identify data structure.
const IDENTIFY_BYTES: usize = 4096;
// NVM Express Base Specification 2.0, figure 138 (opcodes), figure 275 (Identify Controller), 5.27.1.4 (Volatile Write Cache).
const GET_FEATURES: u8 = 0x0a;
const SET_FEATURES: u8 = 0x09;
const IDENTIFY: u8 = 0x06;
/// CNS 1: the controller.
const IDENTIFY_CONTROLLER: u32 = 1;
const VOLATILE_WRITE_CACHE: u32 = 0x06;
/// Where Identify says whether there is such a cache, in bit 0.
const VWC_AT: usize = 525;

/// Turns the write cache of a block device's drive off.
pub(super) fn turn_off(device: &Path) -> Result<(), StepError> {
    let name = device.file_name().unwrap_or_default();
    let folder = Path::new("/sys/block").join(name);
    let Some(controller) = controller(&folder) else {
        // What is no NVMe drive is not told anything. The kernel knows of such a cache (Documentation/ABI/stable/sysfs-block).
        let known = sysfs::read_if_there(&folder.join("queue/write_cache"));
        return if known.as_deref() == Some("write through") { Ok(()) } else { Err(stays_on(device)) };
    };
    let path = Path::new("/dev").join(controller);
    let drive = Controller { file: File::open(&path).map_err(failed("open", &path))?, path };
    if !drive.has_cache()? || !drive.is_on()? {
        return Ok(());
    }
    drive.send(SET_FEATURES, VOLATILE_WRITE_CACHE, &mut [])?;
    if drive.is_on()? { Err(stays_on(device)) } else { Ok(()) }
}

fn stays_on(device: &Path) -> StepError {
    StepError::VolatileCache { device: device.display().to_string() }
}

/// The controller in this machine: what `device` is, or with multipath one of those that its subsystem lists.
fn controller(folder: &Path) -> Option<String> {
    let device: PathBuf = std::fs::canonicalize(folder.join("device")).ok()?;
    let itself = device.file_name()?.to_str()?.to_owned();
    let transport =
        |name: &String| sysfs::read_if_there(&Path::new("/sys/class/nvme").join(name).join("transport"));
    std::iter::once(itself)
        .chain(sysfs::names(&device))
        .find(|name| transport(name).as_deref() == Some("pcie"))
}

struct Controller {
    file: File,
    path: PathBuf,
}

impl Controller {
    fn has_cache(&self) -> Result<bool, FileError> {
        let mut data = [0; IDENTIFY_BYTES];
        self.send(IDENTIFY, IDENTIFY_CONTROLLER, &mut data)?;
        Ok(data[VWC_AT] & 1 == 1)
    }

    fn is_on(&self) -> Result<bool, FileError> {
        Ok(self.send(GET_FEATURES, VOLATILE_WRITE_CACHE, &mut [])? & 1 == 1)
    }

    /// Sends a command whose second argument is 0: to set the feature means to turn it off. Gives its result.
    fn send(&self, opcode: u8, cdw10: u32, data: &mut [u8]) -> Result<u32, FileError> {
        let what = format!("send NVMe admin command {opcode:#04x} to");
        let data_len = u32::try_from(data.len()).unwrap_or_default();
        let command =
            AdminCommand { opcode, cdw10, data_len, timeout_ms: ANSWER_BOUND_MS, ..Default::default() };
        // SAFETY: see the impl below.
        let sent = unsafe { ioctl(&self.file, Admin { command, data }) };
        let (status, result) = sent.map_err(|errno| failed(what.clone(), &self.path)(errno.into()))?;
        if status == 0 {
            return Ok(result);
        }
        let refused = io::Error::other(format!("it answered with status {status:#06x}"));
        Err(failed(what, &self.path)(refused))
    }
}

/// `struct nvme_passthru_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11_to_15: [u32; 5],
    timeout_ms: u32,
    result: u32,
}

/// An admin command that reads into `data`. Its output is the command's status, 0 for success, and its result.
struct Admin<'a> {
    command: AdminCommand,
    data: &'a mut [u8],
}

// SAFETY: the opcode is _IOWR('N', 0x41, struct nvme_passthru_cmd); the pointer is to that structure, inside `self`, which
// lives through the call. `data` is borrowed exclusively for as long as `self`, and address and length were set from it.
unsafe impl Ioctl for Admin<'_> {
    type Output = (u32, u32);
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<AdminCommand>(b'N', 0x41)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        if !self.data.is_empty() {
            self.command.address = self.data.as_mut_ptr().expose_provenance() as u64;
        }
        (&raw mut self.command).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, command: *mut c_void) -> IoResult<Self::Output> {
        // SAFETY: `command` is what `as_ptr` gave: this structure, alive and aligned.
        let result = unsafe { (*command.cast::<AdminCommand>()).result };
        Ok((output.unsigned_abs(), result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_kernels_size_and_the_opcode_its_value() {
        assert_eq!(size_of::<AdminCommand>(), 72);
        assert_eq!(opcode::read_write::<AdminCommand>(b'N', 0x41), 0xc048_4e41);
    }

    #[test]
    fn what_does_not_say_that_it_is_safe_is_refused() {
        let error = turn_off(Path::new("/dev/no-such-drive")).unwrap_err();
        assert!(matches!(error, StepError::VolatileCache { .. }), "{error}");
    }
}
