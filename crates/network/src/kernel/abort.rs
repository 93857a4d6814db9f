//! TCP connections that are ended from outside: by netlink's `SOCK_DESTROY`, as `ss --kill` does.
//!
//! Why: what the kernel itself has sent through a connection (NVMe) waits for that connection's own time-outs when the peer is dead.
//! Whoever knows sooner that the peer is silent can say so.
//!
//! Invariants: only connections to this peer's address, and only if one of the two ports is the one that is named. Blocks, within [`BOUND`] for each answer of the
//! kernel. Needs `CAP_NET_ADMIN`, and a kernel with `CONFIG_INET_DIAG_DESTROY`.
//!
//! On failure: [`AbortError`]; connections that were ended until then stay ended.

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long the kernel may take for an answer.
const BOUND: Duration = Duration::from_secs(1);

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`: `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `NLMSG_ERROR`, `NLMSG_DONE` (uapi/linux/netlink.h).
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const HEAD_BYTES: usize = 16;
/// `struct inet_diag_sockid`, `linux/inet_diag.h`: ports, addresses, interface, cookie.
const ID_BYTES: usize = 48;
/// Where it is in `struct inet_diag_msg`.
const ID_AT: usize = 4;
/// More than any answer: the kernel fills no more than this in one message of a list (netlink(7)).
const BUFFER_BYTES: usize = 32 << 10;
/// `TCP_ESTABLISHED` as a bit.
const ESTABLISHED: u32 = 1 << 1;

/// Connections could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum AbortError {
    /// The socket to the kernel.
    #[error("can't ask the kernel about connections")]
    Ask(#[source] io::Error),
    /// The kernel's own word.
    #[error("the kernel refuses to {what} connections to {peer}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// To whom.
        peer: Ipv4Addr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Ends all TCP connections between this machine and a peer that have this port at either end; how many.
pub fn abort_connections(peer: Ipv4Addr, port: u16) -> Result<usize, AbortError> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(AbortError::Ask)?;
    socket.bind_auto().map_err(AbortError::Ask)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(BOUND)).map_err(|errno| AbortError::Ask(errno.into()))?;
    let refused = |what| move |source| AbortError::Refused { what, peer, source };
    let mut ids = Vec::new();
    let list = request(BY_FAMILY, REQUEST | DUMP, ESTABLISHED, &[0; ID_BYTES]);
    ask(&socket, &list, |body| ids.extend(id_of(body, peer, port))).map_err(refused("list"))?;
    for id in &ids {
        let end = request(DESTROY, REQUEST | ACK, ESTABLISHED, id);
        match ask(&socket, &end, |_| {}) {
            // It has ended by itself meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            other => other.map_err(refused("end"))?,
        }
    }
    Ok(ids.len())
}

/// `struct nlmsghdr`, `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, states: u32, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one question at a time.
    message.extend([0; 8]);
    let family = u8::try_from(libc::AF_INET).unwrap_or_default();
    let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
    message.extend([family, protocol, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(id);
    let len = u32::try_from(message.len()).unwrap_or_default();
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

/// Whose connection that is, if it is one that is meant.
fn id_of(body: &[u8], peer: Ipv4Addr, port: u16) -> Option<[u8; ID_BYTES]> {
    let id: [u8; ID_BYTES] = body.get(ID_AT..ID_AT + ID_BYTES)?.try_into().ok()?;
    let port = port.to_be_bytes();
    ((id[..2] == port || id[2..4] == port) && id[20..24] == peer.octets()).then_some(id)
}

/// Asks, and takes answers until the last one.
fn ask(socket: &Socket, message: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<()> {
    socket.send_to(message, &SocketAddr::new(0, 0), 0)?;
    loop {
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        socket.recv(&mut buffer, 0)?;
        for (kind, body) in messages(&buffer) {
            match kind {
                ERROR => return verdict(body),
                DONE => return Ok(()),
                _ => take(body),
            }
        }
    }
}

/// `struct nlmsgerr`: the number of an error, negative; 0 is good.
fn verdict(body: &[u8]) -> io::Result<()> {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The messages in what was received, each with its kind; what is cut short ends it.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(len), Some(kind)) = (bytes.get(..4), bytes.get(4..6)) {
        let len = len.try_into().map_or(0, u32::from_ne_bytes) as usize;
        let Some(body) = bytes.get(HEAD_BYTES..len) else { break };
        found.push((kind.try_into().map_or(0, u16::from_ne_bytes), body));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_request_has_the_kernels_sizes() {
        let bytes = request(BY_FAMILY, REQUEST | DUMP, ESTABLISHED, &[7; ID_BYTES]);
        // sizeof(struct nlmsghdr) + sizeof(struct inet_diag_req_v2).
        assert_eq!((bytes.len(), bytes[0]), (16 + 56, 72));
        assert_eq!(bytes[HEAD_BYTES + 8..], [7; ID_BYTES]);
    }

    #[test]
    fn no_bytes_panic_the_reader() {
        for len in 0..64 {
            for byte in [0, 1, 15, 16, 17, 255] {
                messages(&vec![byte; len]);
            }
        }
        assert_eq!(
            messages(&[20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7]),
            [(3, &[7, 7, 7, 7][..])]
        );
    }

    /// Without rights the kernel's refusal is what is seen.
    #[test]
    fn connections_to_the_peer_are_ended_and_no_others() {
        let listen = |address: &str| TcpListener::bind((address, 0)).unwrap();
        let (dead, alive) = (listen("127.0.0.2"), listen("127.0.0.3"));
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let mut to_dead = TcpStream::connect(dead.local_addr().unwrap()).unwrap();
        let to_alive = TcpStream::connect(alive.local_addr().unwrap()).unwrap();
        match abort_connections(Ipv4Addr::new(127, 0, 0, 2), port(&dead)) {
            Ok(count) => assert_eq!(count, 1),
            // A kernel without CONFIG_INET_DIAG_DESTROY, or a test without rights.
            Err(AbortError::Refused { source, .. }) => {
                let known = [Some(libc::EPERM), Some(libc::EOPNOTSUPP), Some(libc::ENOENT)];
                assert!(known.contains(&source.raw_os_error()), "{source}");
                return;
            }
            Err(error) => panic!("{error}"),
        }
        let ended = to_dead.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionAborted);
        assert!(to_alive.take_error().unwrap().is_none());
        assert_eq!(abort_connections(Ipv4Addr::new(127, 0, 0, 3), port(&dead)).unwrap(), 0);
        assert!(to_alive.take_error().unwrap().is_none());
    }
}
