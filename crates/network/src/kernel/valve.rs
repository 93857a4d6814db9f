//! A valve on taps: what virtual machines send passes until a moment, and from then on nothing does, whoever is there to see to it.
//!
//! Why: a node that has lost its lease kills its virtual machines, but what kills them may be what is ill: an agent that is dead or hangs, or a node that stood
//! still and goes on with its virtual machines before its agent gets to run. By then others may run them. So the decision is not left to anybody who must be awake: the kernel asks its clock
//! for every frame.
//!
//! How: a program of nine instructions on each tap ([`program`], on its way in: it is run for whatever comes from the virtual machine, before the bridge sees it)
//! compares `CLOCK_BOOTTIME`, which runs while a machine is suspended, with a moment that all taps of the node share. Taps hold the program, and that the moment: a
//! valve that nobody moves on any more, because its agent has ended, closes in its time. (XDP would do, too, and copies each large frame into one piece.)
//!
//! Invariants: a new valve is closed.
//!
//! **Not held:** a machine whose clocks stand still as well (one that its hypervisor has stopped) does not know how late it is, and lets pass what was due; what had
//! passed the tap when the machine stood still, and is in a NIC's queue, leaves.
//!
//! On failure: [`ValveError`]; what is closed stays closed.
#![expect(unsafe_code, reason = "bpf(2) takes untyped structures")]

use super::netlink::{Netlink, NetlinkError};
use crate::link::LinkName;
use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

// `enum bpf_cmd`, linux/bpf.h.
const MAP_CREATE: c_int = 0;
const MAP_UPDATE_ELEM: c_int = 2;
const PROG_LOAD: c_int = 5;
const OBJ_GET_INFO_BY_FD: c_int = 15;
/// `BPF_MAP_TYPE_ARRAY`, linux/bpf.h.
const ARRAY: u32 = 2;
/// `BPF_PROG_TYPE_SCHED_CLS`, linux/bpf.h.
const CLASSIFIER: u32 = 3;
/// Of the helper that is called none asks for a licence.
const LICENCE: &CStr = c"Apache-2.0";

/// Why there is no valve, or why it does not move.
#[derive(Debug, thiserror::Error)]
pub enum ValveError {
    /// The kernel does not make one: no BPF, or not for us.
    #[error("the kernel makes no valve: can't {doing}")]
    Make {
        /// What failed.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It can't be moved on.
    #[error("the valve can't be moved on")]
    Move(#[source] io::Error),
    /// A link does not take it.
    #[error("{} does not take the valve", .name.as_str())]
    Attach {
        /// Which.
        name: LinkName,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// A valve. Taps that have it keep it when this is dropped, and it closes in its time.
#[derive(Debug)]
pub struct Valve {
    moment: OwnedFd,
    program: OwnedFd,
    /// The kernel's number of the program.
    id: u32,
}

impl Valve {
    /// A new one, closed.
    pub fn closed() -> Result<Self, ValveError> {
        let failed = |doing| move |source| ValveError::Make { doing, source };
        let mut array = MapAttributes { kind: ARRAY, key_bytes: 4, value_bytes: 8, entries: 1, flags: 0 };
        let moment = bpf(MAP_CREATE, &mut array).map(owned).map_err(failed("keep a moment"))?;
        let instructions = program(moment.as_raw_fd());
        let mut attributes = ProgramAttributes {
            kind: CLASSIFIER,
            count: instructions.len() as u32,
            instructions: address(&instructions),
            licence: LICENCE.as_ptr().expose_provenance() as u64,
        };
        let program = bpf(PROG_LOAD, &mut attributes).map(owned).map_err(failed("load a program"))?;
        let mut info = ProgramInfo::default();
        let mut asked = InfoAttributes {
            fd: descriptor(&program),
            bytes: size_of::<ProgramInfo>() as u32,
            info: (&raw mut info).expose_provenance() as u64,
        };
        bpf(OBJ_GET_INFO_BY_FD, &mut asked).map_err(failed("look at a program"))?;
        Ok(Self { moment, program, id: info.id })
    }

    /// What comes from taps passes until this moment of `CLOCK_BOOTTIME`.
    pub fn open_until(&self, moment: Duration) -> Result<(), ValveError> {
        let (key, value) = ([0u8; 4], u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX).to_ne_bytes());
        let (key, value, map) = (address(&key), address(&value), descriptor(&self.moment));
        let mut element = ElementAttributes { map, pad: 0, key, value, flags: 0 };
        bpf(MAP_UPDATE_ELEM, &mut element).map(drop).map_err(ValveError::Move)
    }

    /// Puts it on a link, in the place of any that is there. It may be told again.
    pub(super) async fn put_on(&self, netlink: &Netlink, name: &LinkName) -> Result<(), ValveError> {
        let put = netlink.put_program(name, (descriptor(&self.program), self.id)).await;
        put.map_err(|source| ValveError::Attach { name: name.clone(), source })
    }
}

/// The program, for a kernel that keeps the moment in this map:
///
/// ```text
///   r1 = the address of the moment          if r1 >= r6 goto out
///   r6 = the moment                         r0 = PASS
///   r0 = bpf_ktime_get_boot_ns()       out: return r0
///   r1 = r0; r0 = DROP
/// ```
fn program(map: c_int) -> [[u8; 8]; 9] {
    // linux/bpf.h: `BPF_LD | BPF_IMM | BPF_DW` with the source `BPF_PSEUDO_MAP_VALUE`, in two parts; `bpf_ktime_get_boot_ns` is helper 125.
    [
        instruction(0x18, (1, 2), 0, map),
        instruction(0, (0, 0), 0, 0),
        instruction(0x79, (6, 1), 0, 0),
        instruction(0x85, (0, 0), 0, 125),
        instruction(0xbf, (1, 0), 0, 0),
        instruction(0xb7, (0, 0), 0, DROP),
        instruction(0x3d, (1, 6), 1, 0),
        instruction(0xb7, (0, 0), 0, PASS),
        instruction(0x95, (0, 0), 0, 0),
    ]
}

// `TC_ACT_SHOT`; `TC_ACT_UNSPEC`: whatever comes next decides. linux/pkt_cls.h.
const DROP: i32 = 2;
const PASS: i32 = -1;

/// `struct bpf_insn`: operation, registers (to, from), offset, constant.
fn instruction(operation: u8, (to, from): (u8, u8), offset: i16, constant: i32) -> [u8; 8] {
    let registers = if cfg!(target_endian = "little") { to | from << 4 } else { from | to << 4 };
    let (offset, constant) = (offset.to_ne_bytes(), constant.to_ne_bytes());
    let mut bytes = [operation, registers, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset);
    bytes[4..].copy_from_slice(&constant);
    bytes
}

/// The beginning of `union bpf_attr` for each command; the kernel takes the rest as zeros.
trait Attributes {}

macro_rules! attributes {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        struct $name { $($field: $kind),* }
        impl Attributes for $name {}
    )*};
}

attributes! {
    MapAttributes { kind: u32, key_bytes: u32, value_bytes: u32, entries: u32, flags: u32 }
    ElementAttributes { map: u32, pad: u32, key: u64, value: u64, flags: u64 }
    ProgramAttributes { kind: u32, count: u32, instructions: u64, licence: u64 }
    InfoAttributes { fd: u32, bytes: u32, info: u64 }
}

/// The beginning of `struct bpf_prog_info`.
#[derive(Default)]
#[repr(C)]
struct ProgramInfo {
    kind: u32,
    id: u32,
}

fn address<T>(of: &T) -> u64 {
    (&raw const *of).expose_provenance() as u64
}

/// No descriptor is negative.
fn descriptor(of: &OwnedFd) -> u32 {
    of.as_raw_fd().unsigned_abs()
}

/// bpf(2). Of some commands the kernel writes to the attributes.
fn bpf<T: Attributes>(command: c_int, attributes: &mut T) -> io::Result<c_int> {
    // SAFETY: the attributes begin `union bpf_attr` as the command has it, their size is given, and what they have the addresses of lives until the call
    // returns and has the sizes that the kernel goes by: a key of 4 bytes, a value of 8, so many instructions of 8, a string that ends, an answer of so many bytes.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { c_int::try_from(done).map_err(io::Error::other) }
}

/// What the kernel has just made.
fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: the call succeeded, so the descriptor is open (with close-on-exec, as all of bpf(2)) and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
    #[repr(C)]
    struct RunAttributes {
        program: u32,
        result: u32,
        bytes_in: u32,
        bytes_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    impl Attributes for RunAttributes {}

    const PROG_TEST_RUN: c_int = 10;

    /// What the kernel's own run of it makes of a frame.
    fn run(valve: &Valve) -> i32 {
        let frame = [2u8; 60];
        let mut attributes = RunAttributes {
            program: descriptor(&valve.program),
            result: 0,
            bytes_in: 60,
            bytes_out: 0,
            data_in: address(&frame),
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        bpf(PROG_TEST_RUN, &mut attributes).unwrap();
        attributes.result.cast_signed()
    }

    fn uptime() -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
    }

    #[test]
    fn frames_pass_until_the_moment_and_no_longer() {
        let valve = match Valve::closed() {
            Err(ValveError::Make { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("not looked at: bpf(2) needs CAP_BPF and CAP_NET_ADMIN");
                return;
            }
            made => made.unwrap(),
        };
        assert_eq!(run(&valve), DROP, "a new one is closed");
        valve.open_until(uptime() + Duration::from_mins(1)).unwrap();
        assert_eq!(run(&valve), PASS);
        valve.open_until(uptime()).unwrap();
        assert_eq!(run(&valve), DROP);
        valve.open_until(Duration::MAX).unwrap();
        assert_eq!(run(&valve), PASS);
    }

    #[test]
    fn an_instruction_is_laid_out_as_the_kernel_has_it() {
        assert_eq!(size_of_val(&program(3)), 72);
        assert_eq!(program(3)[0], [0x18, 0x21, 0, 0, 3, 0, 0, 0]);
        assert_eq!(program(3)[6], [0x3d, 0x61, 1, 0, 0, 0, 0, 0]);
    }
}
