//! Device-mapper, by its ioctls (`linux/dm-ioctl.h`, version 4).
//!
//! Purpose: make, load, remove devices, send them messages, ask their state, wait for events. No udev is waited for: nodes come
//! from devtmpfs as `/dev/dm-N`.
//!
//! Invariants: every buffer begins with `struct dm_ioctl` and says its own length. What the kernel answers is read within it.
//!
//! On failure: [`DmError`] with the operation and the device.
#![expect(unsafe_code, reason = "ioctl(2) takes untyped pointers")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result as IoResult};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

const CONTROL: &str = "/dev/mapper/control";
/// `sizeof(struct dm_ioctl)`.
const HEAD_BYTES: usize = 312;
const NAME_AT: usize = 48;
/// `DM_NAME_LEN`, with the zero at its end.
const NAME_BYTES: usize = 128;
/// `sizeof(struct dm_target_spec)`.
const SPEC_BYTES: usize = 40;
/// Room for an answer: a status of a gate has some hundred bytes, a list of devices some dozen a device. The kernel copies all of it both ways
/// each time, so that it begins small; what does not fit is asked again with more.
const BUFFER_BYTES: usize = 2 << 10;
const BUFFER_BYTES_MAX: usize = 16 << 20;

const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const TABLE_LOAD: u8 = 9;
const TABLE_CLEAR: u8 = 10;
const TABLE_DEPS: u8 = 11;
const TABLE_STATUS: u8 = 12;
const TARGET_MSG: u8 = 14;
const DEV_ARM_POLL: u8 = 16;

const STATUS_TABLE_FLAG: u32 = 1 << 4;
const SUSPEND_FLAG: u32 = 1 << 1;
const SKIP_LOCKFS_FLAG: u32 = 1 << 10;
const INACTIVE_PRESENT_FLAG: u32 = 1 << 6;
const BUFFER_FULL_FLAG: u32 = 1 << 8;
const DATA_OUT_FLAG: u32 = 1 << 16;

/// Device-mapper refused.
#[derive(Debug, thiserror::Error)]
#[error("device-mapper can't {what} {name}")]
pub struct DmError {
    /// What was to be done.
    pub what: &'static str,
    /// To which device.
    pub name: String,
    /// Why not.
    #[source]
    pub errno: Errno,
}

/// A device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Of its driver.
    pub major: u32,
    /// Within that.
    pub minor: u32,
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One target of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) start_sectors: u64,
    pub(super) len_sectors: u64,
    pub(super) kind: &'static str,
    pub(super) parameters: String,
}

/// One target of a table as the kernel says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) len_sectors: u64,
    pub(super) kind: String,
    pub(super) parameters: String,
}

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) number: DeviceNumber,
    pub(super) open_count: i32,
    pub(super) event: u32,
}

/// The control device.
#[derive(Debug)]
pub(super) struct Dm(File);

struct Request<'a> {
    command: u8,
    buffer: &'a mut [u8],
}

// SAFETY: all commands are _IOWR(0xfd, command, struct dm_ioctl); the pointer is to a buffer, borrowed exclusively for as long as
// `self`, that begins with that structure, whose `data_size` is the buffer's length: the kernel reads and writes no further.
unsafe impl Ioctl for Request<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u8; HEAD_BYTES]>(0xfd, self.command)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> IoResult<()> {
        Ok(())
    }
}

fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u32_at(buffer: &[u8], at: usize) -> u32 {
    buffer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(buffer: &[u8], at: usize) -> u64 {
    buffer.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// `huge_decode_dev` of `linux/kdev_t.h`.
fn device_number(dev: u64) -> DeviceNumber {
    let part = |number: u64| u32::try_from(number).unwrap_or(0);
    DeviceNumber { major: part((dev >> 8) & 0xfff), minor: part((dev & 0xff) | ((dev >> 12) & 0xf_ff00)) }
}

fn text_at(buffer: &[u8], at: usize) -> String {
    let bytes = buffer.get(at..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// A buffer with a request, and so much room for the answer at least.
fn request(name: &str, flags: u32, data: &[u8], targets: u32, room: usize) -> Result<Vec<u8>, Errno> {
    if name.len() >= NAME_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = vec![0; room.max(HEAD_BYTES + data.len())];
    let len = u32::try_from(buffer.len()).map_err(|_| Errno::TOOBIG)?;
    put(&mut buffer, 0, &4u32.to_ne_bytes());
    put(&mut buffer, 12, &len.to_ne_bytes());
    put(&mut buffer, 16, &312u32.to_ne_bytes());
    put(&mut buffer, 20, &targets.to_ne_bytes());
    put(&mut buffer, 28, &flags.to_ne_bytes());
    put(&mut buffer, NAME_AT, name.as_bytes());
    put(&mut buffer, HEAD_BYTES, data);
    Ok(buffer)
}

fn is_question(command: u8) -> bool {
    matches!(command, LIST_DEVICES | DEV_STATUS | TABLE_DEPS | TABLE_STATUS)
}

impl Dm {
    pub(super) fn open() -> Result<Self, DmError> {
        let opened = File::options().read(true).write(true).open(CONTROL);
        opened.map(Self).map_err(|error| DmError {
            what: "open",
            name: CONTROL.to_owned(),
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })
    }

    fn call(
        &self,
        what: &'static str,
        command: u8,
        name: &str,
        flags: u32,
        data: &[u8],
        targets: u32,
    ) -> Result<Vec<u8>, DmError> {
        let failed = |errno| DmError { what, name: name.to_owned(), errno };
        let mut room = BUFFER_BYTES;
        loop {
            let mut buffer = request(name, flags, data, targets, room).map_err(failed)?;
            // SAFETY: see the impl above.
            unsafe { ioctl(&self.0, Request { command, buffer: &mut buffer }) }.map_err(failed)?;
            if u32_at(&buffer, 28) & BUFFER_FULL_FLAG == 0 {
                return Ok(buffer);
            }
            room *= 4;
            // Asking twice changes nothing; telling twice may.
            if !is_question(command) || room > BUFFER_BYTES_MAX {
                return Err(failed(Errno::NOBUFS));
            }
        }
    }

    /// All devices' names.
    pub(super) fn names(&self) -> Result<Vec<String>, DmError> {
        let buffer = self.call("list", LIST_DEVICES, "", 0, &[], 0)?;
        let mut names = Vec::new();
        let mut at = u32_at(&buffer, 16) as usize;
        loop {
            // An empty list has one entry without number.
            if u64_at(&buffer, at) == 0 {
                return Ok(names);
            }
            names.push(text_at(&buffer, at + 12));
            match u32_at(&buffer, at + 8) as usize {
                0 => return Ok(names),
                next => at += next,
            }
        }
    }

    /// What a device is; `None` if there is none of that name.
    pub(super) fn info(&self, name: &str) -> Result<Option<Info>, DmError> {
        match self.call("look at", DEV_STATUS, name, 0, &[], 0) {
            Ok(buffer) => Ok(Some(Info {
                number: device_number(u64_at(&buffer, 40)),
                open_count: i32::from_ne_bytes(u32_at(&buffer, 24).to_ne_bytes()),
                event: u32_at(&buffer, 32),
            })),
            Err(DmError { errno: Errno::NXIO, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a device with this table. One that is there is left as it is, unless it has no table yet (a maker that was killed).
    pub(super) fn create(&self, name: &str, table: &[Target]) -> Result<(), DmError> {
        match self.call("make", DEV_CREATE, name, 0, &[], 0) {
            Ok(_) => {}
            Err(DmError { errno: Errno::BUSY, .. }) if self.status(name)?.is_empty() => {}
            Err(DmError { errno: Errno::BUSY, .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.load(name, table)?;
        self.resume(name)
    }

    /// Has a table ready for a device: [`Self::swap`].
    pub(super) fn load(&self, name: &str, table: &[Target]) -> Result<(), DmError> {
        let mut data = Vec::new();
        for target in table {
            // The parameters' text with its zero, and up to the next eight bytes.
            let len = (SPEC_BYTES + target.parameters.len() + 1).next_multiple_of(8);
            let mut spec = vec![0; len];
            put(&mut spec, 0, &target.start_sectors.to_ne_bytes());
            put(&mut spec, 8, &target.len_sectors.to_ne_bytes());
            put(&mut spec, 20, &u32::try_from(len).unwrap_or(0).to_ne_bytes());
            put(&mut spec, 24, target.kind.as_bytes());
            put(&mut spec, SPEC_BYTES, target.parameters.as_bytes());
            data.extend(spec);
        }
        let count = u32::try_from(table.len()).unwrap_or(0);
        self.call("load a table into", TABLE_LOAD, name, 0, &data, count).map(drop)
    }

    fn resume(&self, name: &str) -> Result<(), DmError> {
        self.call("resume", DEV_SUSPEND, name, 0, &[], 0).map(drop)
    }

    /// Waits until nothing is in flight through a device and has what comes wait. Ended by a signal, it changes nothing. A filesystem
    /// above is not frozen.
    pub(super) fn suspend(&self, name: &str) -> Result<(), DmError> {
        self.call("suspend", DEV_SUSPEND, name, SUSPEND_FLAG | SKIP_LOCKFS_FLAG, &[], 0).map(drop)
    }

    /// Lets a device that is suspended go on; another one is left alone.
    pub(super) fn go_on(&self, name: &str) -> Result<(), DmError> {
        match self.flags(name) {
            Ok(flags) if flags & SUSPEND_FLAG != 0 => self.resume(name),
            // It is gone.
            Ok(_) | Err(DmError { errno: Errno::NXIO, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a table is loaded that is not used yet.
    pub(super) fn has_table_ready(&self, name: &str) -> Result<bool, DmError> {
        Ok(self.flags(name)? & INACTIVE_PRESENT_FLAG != 0)
    }

    /// Drops a table that is loaded and not used yet.
    pub(super) fn clear(&self, name: &str) -> Result<(), DmError> {
        self.call("clear the table of", TABLE_CLEAR, name, 0, &[], 0).map(drop)
    }

    fn flags(&self, name: &str) -> Result<u32, DmError> {
        Ok(u32_at(&self.call("ask", DEV_STATUS, name, 0, &[], 0)?, 28))
    }

    /// Gives a device another table, once what is in flight through its old one has ended: [`Self::swap`].
    pub(super) fn replace_when_idle(&self, name: &str, table: &[Target]) -> Result<(), DmError> {
        self.load(name, table)?;
        self.swap(name)
    }

    /// Gives a device the table that was loaded, if there is one, once what is in flight through its old one has ended (dm.c,
    /// `dm_wait_for_completion`); what comes meanwhile waits. One call suspends, swaps and resumes (dm-ioctl.c, `do_resume`): whoever is killed in it leaves no
    /// device that is suspended, since the kernel gives the wait up and with it the new table. A signal does the same: `EINVAL` then. Not for what queues:
    /// `kernel/gate.rs`.
    pub(super) fn swap(&self, name: &str) -> Result<(), DmError> {
        self.call("swap the table of", DEV_SUSPEND, name, SKIP_LOCKFS_FLAG, &[], 0).map(drop)
    }

    /// Removes a device; one that is gone is as good. `EBUSY` while somebody has it open.
    pub(super) fn remove(&self, name: &str) -> Result<(), DmError> {
        match self.call("remove", DEV_REMOVE, name, 0, &[], 0) {
            Err(DmError { errno: Errno::NXIO, .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells a device something.
    pub(super) fn message(&self, name: &str, message: &str) -> Result<(), DmError> {
        let mut data = 0u64.to_ne_bytes().to_vec();
        data.extend_from_slice(message.as_bytes());
        data.push(0);
        self.call("tell", TARGET_MSG, name, 0, &data, 0).map(drop)
    }

    /// Tells a device something, and gives its answer, of no more than so many bytes; empty if it has none.
    pub(super) fn ask(&self, name: &str, message: &str, room: usize) -> Result<String, DmError> {
        let failed = |errno| DmError { what: "ask", name: name.to_owned(), errno };
        let mut data = 0u64.to_ne_bytes().to_vec();
        data.extend_from_slice(message.as_bytes());
        data.push(0);
        let mut buffer = request(name, 0, &data, 0, room).map_err(failed)?;
        // SAFETY: see the impl above.
        unsafe { ioctl(&self.0, Request { command: TARGET_MSG, buffer: &mut buffer }) }.map_err(failed)?;
        let flags = u32_at(&buffer, 28);
        if flags & BUFFER_FULL_FLAG != 0 {
            return Err(failed(Errno::NOBUFS));
        }
        let answers = flags & DATA_OUT_FLAG != 0;
        Ok(if answers { text_at(&buffer, u32_at(&buffer, 16) as usize) } else { String::new() })
    }

    /// What a device was loaded with, target by target.
    pub(super) fn targets(&self, name: &str) -> Result<Vec<Said>, DmError> {
        let buffer = self.call("ask the table of", TABLE_STATUS, name, STATUS_TABLE_FLAG, &[], 0)?;
        Ok(said(&buffer))
    }

    /// What a device's first target says; empty if it has no table.
    pub(super) fn status(&self, name: &str) -> Result<String, DmError> {
        let buffer = self.call("ask", TABLE_STATUS, name, 0, &[], 0)?;
        let there = u32_at(&buffer, 20) > 0;
        let at = u32_at(&buffer, 16) as usize + SPEC_BYTES;
        Ok(if there { text_at(&buffer, at) } else { String::new() })
    }

    /// What a device's first target was loaded with, as it is now.
    pub(super) fn table(&self, name: &str) -> Result<String, DmError> {
        let buffer = self.call("ask the table of", TABLE_STATUS, name, STATUS_TABLE_FLAG, &[], 0)?;
        Ok(text_at(&buffer, u32_at(&buffer, 16) as usize + SPEC_BYTES))
    }

    /// What a device stands on.
    pub(super) fn below(&self, name: &str) -> Result<Vec<DeviceNumber>, DmError> {
        let buffer = self.call("ask what is below", TABLE_DEPS, name, 0, &[], 0)?;
        let at = u32_at(&buffer, 16) as usize;
        let count = (u32_at(&buffer, at) as usize).min(buffer.len() / 8);
        Ok((0..count).map(|i| device_number(u64_at(&buffer, at + 8 + 8 * i))).collect())
    }

    /// Waits for an event of any device since the last call; whether there was one in time.
    pub(super) fn wait(&self, bound: Duration) -> Result<bool, DmError> {
        let failed = |errno| DmError { what: "wait for", name: "events".to_owned(), errno };
        let bound = Timespec::try_from(bound).map_err(|_| failed(Errno::INVAL))?;
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let count = match poll(&mut fds, Some(&bound)) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(failed(errno)),
        };
        self.arm()?;
        Ok(count > 0)
    }

    /// The kernel remembers how many events there were; with the next one this is readable (dm.c, `dm_poll`).
    pub(super) fn arm(&self) -> Result<(), DmError> {
        self.call("wait for", DEV_ARM_POLL, "", 0, &[], 0).map(drop)
    }
}

/// `struct dm_target_spec` and text, again and again; each says where the next is, from the first on.
fn said(buffer: &[u8]) -> Vec<Said> {
    let (first, count) = (u32_at(buffer, 16) as usize, u32_at(buffer, 20));
    let mut targets = Vec::new();
    let mut at = first;
    for _ in 0..count {
        if at + SPEC_BYTES > buffer.len() {
            break;
        }
        targets.push(Said {
            len_sectors: u64_at(buffer, at + 8),
            kind: text_at(&buffer[..at + SPEC_BYTES], at + 24),
            parameters: text_at(buffer, at + SPEC_BYTES),
        });
        at = first + u32_at(buffer, at + 20) as usize;
    }
    targets
}

impl AsFd for Dm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_much_room_it_has_and_only_questions_are_asked_twice() {
        let asked = request("x", 0, b"data", 1, BUFFER_BYTES).unwrap();
        assert_eq!((asked.len(), u32_at(&asked, 12)), (BUFFER_BYTES, BUFFER_BYTES as u32));
        assert_eq!((text_at(&asked, NAME_AT), text_at(&asked, HEAD_BYTES)), ("x".into(), "data".into()));
        let large = request("x", 0, &[1; 5000], 1, BUFFER_BYTES).unwrap();
        assert_eq!(large.len(), HEAD_BYTES + 5000);
        assert_eq!(request(&"x".repeat(NAME_BYTES), 0, &[], 0, 0), Err(Errno::NAMETOOLONG));
        assert!(is_question(TABLE_STATUS) && !is_question(TARGET_MSG) && !is_question(DEV_SUSPEND));
    }

    #[test]
    fn the_opcode_is_the_kernels() {
        let mut buffer = [0; HEAD_BYTES];
        let request = Request { command: DEV_STATUS, buffer: &mut buffer };
        assert_eq!(request.opcode(), 0xc138_fd07);
    }

    #[test]
    fn device_numbers_are_decoded_as_the_kernel_encodes_them() {
        assert_eq!(device_number(0xfd03), DeviceNumber { major: 253, minor: 3 });
        // huge_encode_dev(MKDEV(259, 0x12345)): (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12).
        let dev = 0x45 | 259 << 8 | 0x1_2300 << 12;
        assert_eq!(device_number(dev), DeviceNumber { major: 259, minor: 0x1_2345 });
    }
}
