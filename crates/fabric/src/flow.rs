//! Which flow a frame belongs to: what a port channel's hash looks at.
//!
//! Invariants: all frames of a flow have one hash, so that a port channel keeps their order. Fragments of a packet are hashed
//! without ports, all alike: only the first of them has any. Reads any bytes without panicking.

use crate::frame::Frame;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
/// FNV-1a, 64 bit (RFC 9923, section 5).
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A hash over both MAC addresses, the IP addresses, the protocol and the ports, as far as the frame has them: what switches call
/// "L2, L3 and L4". The VLAN and the priority don't count: a tag that changes must not move a flow.
pub(crate) fn hash(frame: &Frame<'_>) -> u64 {
    let mut state = FNV_OFFSET;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            state = (state ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    };
    take(&frame.destination());
    take(&frame.source());
    if let Some((ethertype, packet)) = frame.rest().split_first_chunk::<2>() {
        take(ethertype);
        match *ethertype {
            IPV4 => ipv4(packet, take),
            IPV6 => ipv6(packet, take),
            _ => {}
        }
    }
    // The low bits of FNV see only the low bits of what goes in; a few members are chosen by them.
    state ^ state >> 32 ^ state >> 17
}

/// RFC 791, 3.1.
fn ipv4(packet: &[u8], mut take: impl FnMut(&[u8])) {
    let Some(header) = packet.first_chunk::<20>() else { return };
    let protocol = header[9];
    take(&[protocol]);
    take(&header[12..20]);
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if !is_fragment {
        ports(protocol, packet.get(usize::from(header[0] & 0x0f) * 4..), take);
    }
}

/// RFC 8200, 3. With extension headers the ports are not looked for.
fn ipv6(packet: &[u8], mut take: impl FnMut(&[u8])) {
    let Some((header, rest)) = packet.split_first_chunk::<40>() else { return };
    take(&[header[6]]);
    take(&header[8..40]);
    ports(header[6], Some(rest), take);
}

fn ports(protocol: u8, segment: Option<&[u8]>, mut take: impl FnMut(&[u8])) {
    if let (TCP | UDP, Some(ports)) = (protocol, segment.and_then(|segment| segment.first_chunk::<4>())) {
        take(ports);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A TCP segment between two machines, from this port.
    fn segment(port: u16, flags: u16, payload: u8) -> Vec<u8> {
        let mut bytes = [[2u8; 6], [4; 6]].concat();
        bytes.extend(IPV4);
        bytes.extend([0x45, 0, 0, 44, 0, payload]);
        bytes.extend(flags.to_be_bytes());
        bytes.extend([64, TCP, 0, 0, 10, 71, 1, 1, 10, 71, 1, 2]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0x11, 0x44, payload, payload]);
        bytes
    }

    fn hashed(bytes: &[u8]) -> u64 {
        hash(&Frame::parse(bytes).unwrap())
    }

    #[test]
    fn a_flow_stays_together_and_flows_spread() {
        assert_eq!(hashed(&segment(1000, 0, 1)), hashed(&segment(1000, 0, 2)));
        let mut members = BTreeMap::new();
        for port in 1000..1400 {
            *members.entry(hashed(&segment(port, 0, 0)) % 4).or_insert(0) += 1;
        }
        assert_eq!(members.len(), 4);
        assert!(members.values().all(|flows| (60..140).contains(flows)), "{members:?}");
    }

    #[test]
    fn the_fragments_of_a_packet_stay_together() {
        // "More fragments" on the first, an offset on the next, whose first bytes are no ports.
        assert_eq!(hashed(&segment(1000, 0x2000, 0)), hashed(&segment(2000, 0x00b9, 0)));
        assert_ne!(hashed(&segment(1000, 0, 0)), hashed(&segment(2000, 0, 0)));
    }

    #[test]
    fn a_tag_does_not_move_a_flow() {
        let untagged = segment(1000, 0, 0);
        let mut tagged = untagged.clone();
        tagged.splice(12..12, [0x81, 0x00, 0x62, 0xc7]);
        assert_eq!(hashed(&untagged), hashed(&tagged));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 14..100), ipv6: bool) {
            let mut bytes = bytes;
            bytes[12..14].copy_from_slice(if ipv6 { &IPV6 } else { &IPV4 });
            hashed(&bytes);
        }
    }
}
