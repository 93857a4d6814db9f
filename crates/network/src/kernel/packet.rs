//! Packet sockets: whole Ethernet frames from and to one link (packet(7)).
//!
//! Invariants: a socket hears nothing until it is bound, and then only its link's frames of its protocol.
//!
//! On failure: the kernel's error.
#![expect(
    unsafe_code,
    reason = "sockaddr_ll and packet_mreq exist in no safe wrapper that the workspace has"
)]

use libc::c_int;
use model::MacAddress;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::os::fd::AsRawFd;

/// A socket that does not block. Protocol 0 first, or frames of other links would slip in before it is bound.
pub(super) fn socket() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW.cloexec().nonblocking(), Some(Protocol::from(0)))
}

/// Hears a link, by the kernel's number, from now on: frames of this protocol.
pub(super) fn bind(socket: &Socket, index: u32, ethertype: u16) -> io::Result<()> {
    let address = address(index, ethertype)?;
    // SAFETY: the pointer and the length are those of `address`, which lives until the call returns.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS_BYTES) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the link's NIC take frames to a group address while the socket lives.
pub(super) fn join(socket: &Socket, index: u32, group: MacAddress) -> io::Result<()> {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&group.0);
    let request = libc::packet_mreq {
        mr_ifindex: number(index)?,
        mr_type: libc::PACKET_MR_MULTICAST as libc::c_ushort,
        mr_alen: 6,
        mr_address: address,
    };
    // SAFETY: the pointer and the length are those of `request`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a whole frame, without its check sequence, on a link.
pub(super) fn send(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    let to = address(index, 0)?;
    // SAFETY: both pointers and lengths are those of `frame` and `to`, which live until the call returns.
    let sent = unsafe {
        let (bytes, length) = (frame.as_ptr().cast(), frame.len());
        libc::sendto(socket.as_raw_fd(), bytes, length, 0, (&raw const to).cast(), ADDRESS_BYTES)
    };
    if usize::try_from(sent) == Ok(frame.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

fn address(index: u32, ethertype: u16) -> io::Result<libc::sockaddr_ll> {
    Ok(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: number(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    })
}

fn number(index: u32) -> io::Result<c_int> {
    c_int::try_from(index).map_err(|_| io::ErrorKind::InvalidInput.into())
}
