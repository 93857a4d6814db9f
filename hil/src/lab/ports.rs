//! Loopback ports for the nodes' out-of-band access.
//!
//! Invariants: a port that was chosen stays the lab's as long as it is [held](Held), also while its node is off: a socket
//! is bound to it that doesn't listen. QEMU binds beside it, because both allow that (`SO_REUSEADDR`, socket(7)); the kernel
//! gives the port to no outgoing connection, which would then keep a node from starting again.
//!
//! On failure: if somebody listens there all the same, QEMU says so and ends, which the lab reports with QEMU's words.

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

/// No port for a node.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A port that the lab file names is in use.
    #[error("loopback port {port}, meant for the out-of-band access of node {node}, is in use")]
    InUse {
        /// The port.
        port: u16,
        /// The node.
        node: String,
        /// Why it can't be had.
        #[source]
        source: io::Error,
    },
    /// There are not that many ports above the first one.
    #[error("out_of_band.first_port = {first}: {count} ports from there on go past 65535")]
    Range {
        /// The first port.
        first: u16,
        /// How many are needed.
        count: usize,
    },
}

/// Ports that nobody else gets.
#[derive(Debug)]
pub(crate) struct Held {
    /// One per node, in their order.
    pub(crate) ports: Vec<u16>,
    _sockets: Vec<OwnedFd>,
}

/// A free port per node: from `first` on, or any if that is 0.
pub(crate) fn hold(first: u16, nodes: &[String]) -> Result<Held, PortError> {
    let range = || PortError::Range { first, count: nodes.len() };
    let (mut ports, mut sockets) = (Vec::new(), Vec::new());
    for (index, node) in nodes.iter().enumerate() {
        let port = if first == 0 {
            0
        } else {
            u16::try_from(index).ok().and_then(|index| first.checked_add(index)).ok_or_else(range)?
        };
        let in_use = |source| PortError::InUse { port, node: node.clone(), source };
        let (socket, port) = hold_one(port).map_err(in_use)?;
        sockets.push(socket);
        ports.push(port);
    }
    Ok(Held { ports, _sockets: sockets })
}

fn hold_one(port: u16) -> io::Result<(OwnedFd, u16)> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn free_ports_are_distinct() {
        let nodes: Vec<String> = (0..9).map(|index| format!("n{index}")).collect();
        let held = hold(0, &nodes).unwrap();
        assert_eq!(held.ports.iter().collect::<std::collections::BTreeSet<_>>().len(), 9);
    }

    #[test]
    fn a_port_in_use_is_named_with_its_node() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = hold(port, &["a1".to_owned()]).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("a1"), "{error}");
    }

    /// As QEMU does, again and again; a listener of the standard library allows others beside it, too.
    #[test]
    fn who_knows_a_held_port_can_listen_there_and_nobody_else_is_given_it() {
        let held = hold(0, &["a1".to_owned()]).unwrap();
        for _ in 0..2 {
            let node = TcpListener::bind((Ipv4Addr::LOCALHOST, held.ports[0])).unwrap();
            let client = TcpStream::connect(node.local_addr().unwrap()).unwrap();
            drop((node.accept().unwrap(), client));
        }
        let without_asking = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, held.ports[0]);
        assert!(bind(without_asking.unwrap(), &address).is_err());
    }

    #[test]
    fn ports_end_at_65535() {
        let nodes = vec!["a1".to_owned(), "a2".to_owned()];
        assert!(matches!(hold(65535, &nodes), Err(PortError::Range { .. } | PortError::InUse { .. })));
    }
}
