//! The ioctls that no crate wraps: interface flags and addresses, ethtool.
//!
//! Invariants: every structure is the kernel's byte for byte (uapi headers named at each), and every pointer handed to
//! the kernel is to memory that outlives the call and has the length that the kernel is told.
//!
//! On failure: the kernel's errno. Nothing here interprets what was read.
#![expect(unsafe_code, reason = "ioctl(2) takes untyped pointers")]

use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::{AddressFamily, SocketType, socket};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

/// `IFF_UP` of linux/if.h.
const IFF_UP: u16 = 1;
// linux/sockios.h.
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCETHTOOL: Opcode = 0x8946;
// linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GPERMADDR: u32 = 0x20;

/// `struct ifreq` of linux/if.h: a name and a union of 24 bytes.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; 16],
    data: [u8; 24],
}

/// Asks the kernel about interfaces, and configures them, through any socket.
#[derive(Debug)]
pub(crate) struct Interfaces {
    socket: OwnedFd,
}

impl Interfaces {
    pub(crate) fn open() -> Result<Self> {
        socket(AddressFamily::INET, SocketType::DGRAM, None).map(|socket| Self { socket })
    }

    /// Sets the interface up. Doing it twice changes nothing.
    pub(crate) fn set_up(&self, name: &str) -> Result<()> {
        let flags = self.request::<SIOCGIFFLAGS>(name, [0; 24])?;
        let mut data = [0; 24];
        data[..2].copy_from_slice(&(u16::from_ne_bytes([flags[0], flags[1]]) | IFF_UP).to_ne_bytes());
        self.request::<SIOCSIFFLAGS>(name, data).map(drop)
    }

    /// Gives the interface its one IPv4 address.
    pub(crate) fn set_address(&self, name: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> Result<()> {
        self.request::<SIOCSIFADDR>(name, socket_address(address))?;
        self.request::<SIOCSIFNETMASK>(name, socket_address(netmask)).map(drop)
    }

    /// The first six bytes of `struct ethtool_perm_addr`'s address; `None` if the NIC has an address of another length.
    pub(crate) fn permanent_mac(&self, name: &str) -> Result<Option<[u8; 6]>> {
        let mut answer = [0; 8 + 32];
        answer[..4].copy_from_slice(&ETHTOOL_GPERMADDR.to_ne_bytes());
        answer[4..8].copy_from_slice(&32u32.to_ne_bytes());
        self.ethtool(name, &mut answer)?;
        let mac: [u8; 6] = std::array::from_fn(|i| answer[8 + i]);
        Ok((answer[4..8] == 6u32.to_ne_bytes()).then_some(mac))
    }

    /// `fw_version` of `struct ethtool_drvinfo`: 32 bytes from byte 68, ended by a zero.
    pub(crate) fn firmware_version(&self, name: &str) -> Result<[u8; 32]> {
        let mut answer = [0; 196];
        answer[..4].copy_from_slice(&ETHTOOL_GDRVINFO.to_ne_bytes());
        self.ethtool(name, &mut answer)?;
        Ok(std::array::from_fn(|i| answer[68 + i]))
    }

    fn ethtool<const N: usize>(&self, name: &str, command: &mut [u8; N]) -> Result<()> {
        // ethtool_drvinfo and ethtool_perm_addr start with u32s; the kernel copies them bytewise, so any alignment does.
        let mut data = [0; 24];
        let address = (&raw mut *command).expose_provenance();
        data[..size_of::<usize>()].copy_from_slice(&address.to_ne_bytes());
        self.request::<SIOCETHTOOL>(name, data).map(drop)
    }

    fn request<const OPCODE: Opcode>(&self, name: &str, data: [u8; 24]) -> Result<[u8; 24]> {
        let mut request = InterfaceRequest { name: [0; 16], data };
        // The last byte stays zero: the kernel ends names with it (IFNAMSIZ is 16 with the zero).
        if name.is_empty() || name.len() > 15 {
            return Err(Errno::NODEV);
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: all opcodes used here take a `struct ifreq`, which `InterfaceRequest` is; for SIOCETHTOOL its data is the
        // address of a live, exclusively borrowed buffer with the size of the structure that its command word asks for.
        unsafe { ioctl(&self.socket, Updater::<OPCODE, InterfaceRequest>::new(&mut request)) }?;
        Ok(request.data)
    }
}

/// `struct sockaddr_in` at the start of the union: family (host order), port, address (network order).
fn socket_address(address: Ipv4Addr) -> [u8; 24] {
    let mut data = [0; 24];
    data[..2].copy_from_slice(&AddressFamily::INET.as_raw().to_ne_bytes());
    data[4..8].copy_from_slice(&address.octets());
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structure_has_the_kernels_size() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
    }

    #[test]
    fn impossible_interfaces_are_errors() {
        let interfaces = Interfaces::open().unwrap();
        for name in ["", "nosuchlink0", "a-name-far-too-long-for-a-kernel"] {
            assert_eq!(interfaces.permanent_mac(name), Err(Errno::NODEV), "{name}");
        }
        assert!(interfaces.set_address("nosuchlink0", Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST).is_err());
    }
}
