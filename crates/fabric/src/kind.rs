//! What a frame is about, as far as priorities go: storage, heartbeats, echoes, everything else.
//!
//! Invariants: decided by protocol and ports alone, never by the priority, so that both can be compared. Reads any bytes without
//! panicking.

use crate::frame::Frame;
use network::probe::HELLO_PORT;
use network::traffic::STORAGE_PORT;
use serde::{Deserialize, Serialize};
use std::fmt;

const IPV4: [u8; 2] = [0x08, 0x00];
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// TCP to or from the storage port: data, acknowledgements and whatever else belongs to a connection.
    Storage,
    /// A hello: UDP to the hellos' port.
    Heartbeat,
    /// An ICMP echo or its answer: whoever probes chooses its priority.
    Echo,
    /// Everything else, later fragments of a packet included, which have no ports.
    Other,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Storage, Self::Heartbeat, Self::Echo, Self::Other];

    /// What a frame is about. IPv4 only: twinrack's storage and hellos have no IPv6.
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        let packet = match frame.rest().split_first_chunk::<2>() {
            Some((ethertype, packet)) if *ethertype == IPV4 => packet,
            _ => return Self::Other,
        };
        // RFC 791, 3.1.
        let Some(header) = packet.first_chunk::<20>() else { return Self::Other };
        let is_later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
        let payload = packet.get(usize::from(header[0] & 0x0f) * 4..).filter(|_| !is_later_fragment);
        let ports = payload.and_then(|payload| payload.first_chunk::<4>()).map(|ports| {
            [u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])]
        });
        match (header[9], ports) {
            (TCP, Some(ports)) if ports.contains(&STORAGE_PORT) => Self::Storage,
            (UDP, Some([_, HELLO_PORT])) => Self::Heartbeat,
            (ICMP, Some(_)) if payload.is_some_and(|p| matches!(p.first(), Some(&(ECHO | ECHO_REPLY)))) => {
                Self::Echo
            }
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storage => "storage",
            Self::Heartbeat => "heartbeat",
            Self::Echo => "echo",
            Self::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet of a protocol with this fragment field and these bytes behind the header.
    fn kind(tagged: bool, protocol: u8, fragment: u16, payload: &[u8]) -> Kind {
        let mut bytes = [[2u8; 6], [4; 6]].concat();
        if tagged {
            bytes.extend([0x81, 0x00, 0x62, 0xc7]);
        }
        bytes.extend(IPV4);
        bytes.extend([0x45, 0, 0, 44, 0, 1]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([64, protocol, 0, 0, 10, 71, 1, 1, 10, 71, 1, 2]);
        bytes.extend(payload);
        Kind::of(&Frame::parse(&bytes).unwrap())
    }

    fn ports(from: u16, to: u16) -> Vec<u8> {
        [from.to_be_bytes(), to.to_be_bytes()].concat()
    }

    #[test]
    fn storage_is_known_in_both_directions_with_a_tag_and_without() {
        for tagged in [false, true] {
            assert_eq!(kind(tagged, TCP, 0x4000, &ports(51_000, 4420)), Kind::Storage);
            assert_eq!(kind(tagged, TCP, 0x4000, &ports(4420, 51_000)), Kind::Storage);
        }
        assert_eq!(kind(true, TCP, 0, &ports(51_000, 4421)), Kind::Other);
        assert_eq!(kind(true, UDP, 0, &ports(51_000, 4420)), Kind::Other);
    }

    #[test]
    fn hellos_and_echoes_are_known() {
        assert_eq!(kind(true, UDP, 0, &ports(7117, 7117)), Kind::Heartbeat);
        assert_eq!(kind(true, UDP, 0, &ports(7117, 53)), Kind::Other);
        assert_eq!(kind(true, TCP, 0, &ports(7117, 7117)), Kind::Other);
        assert_eq!(kind(true, ICMP, 0, &[8, 0, 0, 0]), Kind::Echo);
        assert_eq!(kind(true, ICMP, 0, &[0, 0, 0, 0]), Kind::Echo);
        assert_eq!(kind(true, ICMP, 0, &[3, 1, 0, 0]), Kind::Other);
    }

    #[test]
    fn of_a_packet_in_pieces_the_first_is_known() {
        assert_eq!(kind(true, TCP, 0x2000, &ports(4420, 51_000)), Kind::Storage);
        assert_eq!(kind(true, TCP, 0x00b9, &ports(4420, 51_000)), Kind::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 14..100), ipv4: bool) {
            let mut bytes = bytes;
            if ipv4 {
                bytes[12..14].copy_from_slice(&IPV4);
            }
            Kind::of(&Frame::parse(&bytes).unwrap());
        }
    }
}
