//! `NVME_IOCTL_ADMIN_CMD` of `linux/nvme_ioctl.h`.
//!
//! Invariants: the structure is the kernel's byte for byte; the pointer in it is to memory that outlives the call and has the length that the
//! kernel is told.
#![expect(unsafe_code, reason = "ioctl(2) takes untyped pointers")]

use crate::ANSWER_BOUND_MS;
use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::ffi::c_void;
use std::fs::File;

/// What is sent; everything else is zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Command {
    pub(crate) opcode: u8,
    pub(crate) namespace: u32,
    pub(crate) cdw10: u32,
}

/// Sends a command whose data, if it has any, come from the controller. Gives its status, 0 for success, and its result.
pub(crate) fn admin(controller: &File, command: Command, data: &mut [u8]) -> Result<(u32, u32)> {
    let Command { opcode, namespace, cdw10 } = command;
    let data_len = u32::try_from(data.len()).map_err(|_| Errno::INVAL)?;
    let command = AdminCommand {
        opcode,
        namespace,
        cdw10,
        data_len,
        timeout_ms: ANSWER_BOUND_MS,
        ..AdminCommand::default()
    };
    // SAFETY: see the impl below.
    unsafe { ioctl(controller, Admin { command, data }) }
}

/// `struct nvme_passthru_cmd`.
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

    unsafe fn output_from_ptr(output: IoctlOutput, command: *mut c_void) -> Result<Self::Output> {
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
}
