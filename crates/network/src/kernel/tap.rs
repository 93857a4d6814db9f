//! Makes taps: the one kind of link that netlink can't make (`tun_validate`, drivers/net/tun.c), but only take away.
//!
//! Invariants: a tap outlives whoever made it only when it has its address: until then it ends with its file (`TUNSETPERSIST` comes last), so that a
//! maker that dies leaves nothing or a whole one. It is down, a port of nothing, and nobody has it open.
//!
//! On failure: [`TapError`].
#![expect(unsafe_code, reason = "ioctl(2) takes untyped pointers")]

use super::netlink::{Netlink, NetlinkError};
use super::valve::{Valve, ValveError};
use crate::op::Op;
use crate::tap::{CantConnect, Tap, is_there, settle, taps};
use model::VmId;
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl};
use std::fs::File;
use std::io;

/// The device that makes taps.
const MAKER: &str = "/dev/net/tun";

// linux/if_tun.h: `_IOW('T', 202, int)`, `_IOW('T', 203, int)`; linux/sockios.h.
const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETPERSIST: Opcode = 0x4004_54cb;
const SIOCSIFHWADDR: Opcode = 0x8924;
// linux/if_tun.h. Frames, without a header of the kernel's own, and none that is there already.
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_TUN_EXCL: u16 = 0x8000;
/// `ARPHRD_ETHER`, `linux/if_arp.h`.
const ETHERNET: u16 = 1;

/// Why a tap is not there, or not what it shall be.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// It can't be connected.
    #[error(transparent)]
    CantConnect(#[from] CantConnect),
    /// The kernel's links can't be seen or changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// It can't be shut when it must be.
    #[error(transparent)]
    Valve(#[from] ValveError),
    /// It can't be made.
    #[error("can't make {}", .name.as_str())]
    Make {
        /// Its name.
        name: crate::LinkName,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Whoever made it ended.
    #[error("the making of a tap was given up")]
    GivenUp(#[from] tokio::task::JoinError),
}

/// `struct ifreq` of linux/if.h: a name and a union of 24 bytes.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; 16],
    data: [u8; 24],
}

impl InterfaceRequest {
    fn new(name: &str, parts: [&[u8]; 2]) -> Self {
        let mut request = Self { name: [0; 16], data: [0; 24] };
        // The names of links have 15 bytes at most, the two parts 2 and 6.
        request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        request.data.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
        request
    }
}

/// Makes a tap. One of that name that is there already is an error.
fn make(tap: &Tap) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(MAKER)?;
    let flags = (IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL).to_ne_bytes();
    let mut request = InterfaceRequest::new(tap.name.as_str(), [&flags, &[]]);
    // SAFETY: it takes a `struct ifreq`, which `InterfaceRequest` is, with flags first in its union, and writes one back.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }?;
    let mut request = InterfaceRequest::new(tap.name.as_str(), [&ETHERNET.to_ne_bytes(), &tap.mac.0]);
    // SAFETY: the same structure, with a `struct sockaddr` as its union: family, address.
    unsafe { ioctl(&file, Updater::<SIOCSIFHWADDR, InterfaceRequest>::new(&mut request)) }?;
    // SAFETY: it takes a number, and none that is an address.
    unsafe { ioctl(&file, IntegerSetter::<TUNSETPERSIST>::new_usize(1)) }?;
    Ok(())
}

/// Has a NIC connected: its tap is there, has the valve before anything can come from it, and is what it shall be. It may be told again.
pub async fn connect(netlink: &Netlink, tap: &Tap, valve: &Valve) -> Result<(), TapError> {
    let mut now = netlink.observe().await?;
    if !is_there(&now, tap)? {
        let own = tap.clone();
        match tokio::task::spawn_blocking(move || make(&own)).await? {
            // Somebody else has made it meanwhile: if it is none, that is seen below.
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
            made => made.map_err(|source| TapError::Make { name: tap.name.clone(), source })?,
        }
        now = netlink.observe().await?;
    }
    valve.put_on(netlink, &tap.name).await?;
    for op in settle(&now, tap)? {
        netlink.execute(&op).await?;
    }
    Ok(())
}

/// Takes the taps of virtual machines away, but for those of whom this is said to be so; which, and how many. It may be told again.
pub async fn disconnect(netlink: &Netlink, stays: impl Fn(VmId) -> bool) -> Result<usize, TapError> {
    let now = netlink.observe().await?;
    let gone: Vec<_> = taps(&now).filter(|(vm, _)| !stays(*vm)).map(|(_, name)| name.clone()).collect();
    for name in &gone {
        netlink.execute(&Op::Delete { name: name.clone() }).await?;
    }
    Ok(gone.len())
}

#[cfg(test)]
mod tests {
    use super::super::packet;
    use super::*;
    use crate::link::LinkName;
    use model::{MacAddress, VlanId};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::io::{Read, Write};
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn a_structure_has_the_kernels_size_and_its_parts_their_places() {
        assert_eq!(size_of::<InterfaceRequest>(), 40);
        let request = InterfaceRequest::new("vm7n0", [&[1, 0], &[2, 3, 4, 5, 6, 7]]);
        assert_eq!(&request.name[..6], b"vm7n0\0");
        assert_eq!(request.data[..9], [1, 0, 2, 3, 4, 5, 6, 7, 0]);
    }

    fn tap() -> Tap {
        Tap::new(VmId(7), 1, MacAddress([2, 0, 0, 0, 7, 1]), VlanId::try_from(8).unwrap())
    }

    /// Opens a tap as QEMU does.
    fn opened(tap: &Tap) -> File {
        let file = File::options().read(true).write(true).open(MAKER).unwrap();
        let flags = (IFF_TAP | IFF_NO_PI).to_ne_bytes();
        let mut request = InterfaceRequest::new(tap.name.as_str(), [&flags, &[]]);
        // SAFETY: as in `make`.
        unsafe { ioctl(&file, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }.unwrap();
        file
    }

    fn ip(arguments: &str) {
        let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(done.success(), "ip {arguments}");
    }

    /// Whether a frame that the virtual machine sends comes out on the other side of the bridge.
    fn passes(machine: &mut File, outside: &socket2::Socket) -> bool {
        let mut frame = [0; 60];
        frame[..14].copy_from_slice(&[3, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7, 1, 0x88, 0xb5]);
        machine.write_all(&frame).unwrap();
        let wait = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let came = poll(&mut [PollFd::new(outside, PollFlags::IN)], Some(&wait)).unwrap() > 0;
        if came {
            let mut bytes = [0; 100];
            assert_eq!((&mut &*outside).read(&mut bytes).unwrap(), frame.len());
        }
        came
    }

    /// `unshare -n cargo nextest run -p network --all-features --run-ignored only valve`
    #[tokio::test]
    #[ignore = "needs to be root in a network namespace of its own"]
    async fn what_a_virtual_machine_sends_passes_the_bridge_while_the_valve_is_open() {
        let netlink = Netlink::open().unwrap();
        let tap = tap();
        assert!(netlink.observe().await.unwrap().links.is_empty(), "somebody else's namespace");
        make(&tap).unwrap();
        let busy = make(&tap).unwrap_err().raw_os_error();
        assert_eq!(busy, Some(Errno::BUSY.raw_os_error()), "it is there already");
        let valve = Valve::closed().unwrap();
        for _ in 0..2 {
            valve.put_on(&netlink, &tap.name).await.unwrap();
        }
        for link in [
            "link add bridge type bridge",
            "link add inside type veth peer name outside",
            "link set inside master bridge up",
            "link set outside up",
            "link set bridge up",
            "link set vm7n1 master bridge up",
        ] {
            ip(link);
        }
        let links = netlink.observe().await.unwrap();
        assert_eq!(links.links[&tap.name].mac, Some(tap.mac));
        let outside = packet::socket().unwrap();
        packet::bind(&outside, links.links[&"outside".parse::<LinkName>().unwrap()].index, 0x88b5).unwrap();
        let mut machine = opened(&tap);
        assert!(!passes(&mut machine, &outside), "it is closed");
        valve.open_until(Duration::MAX).unwrap();
        assert!(passes(&mut machine, &outside));
        valve.open_until(Duration::from_nanos(1)).unwrap();
        assert!(!passes(&mut machine, &outside), "its time is over");
        // The next run of the agent has one of its own, and the former goes.
        let next = Valve::closed().unwrap();
        next.open_until(Duration::MAX).unwrap();
        next.put_on(&netlink, &tap.name).await.unwrap();
        drop(valve);
        assert!(passes(&mut machine, &outside));
        drop(next);
        assert!(passes(&mut machine, &outside), "the tap holds it");
        // Also under the feet of whoever has it open.
        assert_eq!(disconnect(&netlink, |vm| vm == VmId(7)).await.unwrap(), 0);
        assert_eq!(disconnect(&netlink, |_| false).await.unwrap(), 1);
        assert!(!netlink.observe().await.unwrap().links.contains_key(&tap.name));
    }
}
