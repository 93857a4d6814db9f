//! Loopback ports for the nodes' out-of-band access.
//!
//! QEMU binds them itself, so all that can be done beforehand is to see that they are free. If one is taken between
//! that look and QEMU's, QEMU says so and ends, which the lab reports with QEMU's words.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

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

/// A free port per node: from `first` on, or any if that is 0.
pub(crate) fn choose(first: u16, nodes: &[String]) -> Result<Vec<u16>, PortError> {
    let range = || PortError::Range { first, count: nodes.len() };
    // All are held until all are found, so that none is chosen twice.
    let mut held = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let port = if first == 0 {
            0
        } else {
            u16::try_from(index).ok().and_then(|index| first.checked_add(index)).ok_or_else(range)?
        };
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let in_use = |source| PortError::InUse { port, node: node.clone(), source };
        held.push((bound.map_err(in_use)?, node, port));
    }
    held.iter()
        .map(|(listener, node, port)| {
            let address = listener.local_addr();
            let lost = |source| PortError::InUse { port: *port, node: (*node).clone(), source };
            Ok(address.map_err(lost)?.port())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_distinct() {
        let nodes: Vec<String> = (0..9).map(|index| format!("n{index}")).collect();
        let ports = choose(0, &nodes).unwrap();
        assert_eq!(ports.iter().collect::<std::collections::BTreeSet<_>>().len(), 9);
    }

    #[test]
    fn a_port_in_use_is_named_with_its_node() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = choose(port, &["a1".to_owned()]).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("a1"), "{error}");
    }

    #[test]
    fn ports_end_at_65535() {
        let nodes = vec!["a1".to_owned(), "a2".to_owned()];
        assert!(matches!(choose(65535, &nodes), Err(PortError::Range { .. } | PortError::InUse { .. })));
    }
}
