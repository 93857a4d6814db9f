//! An Ethernet frame as a switch looks at it: addresses, at most one 802.1Q tag, the rest.
//!
//! A view, not a copy: a frame goes through any number of switches without being moved, only its tag changes.

use std::io;
use std::net::Ipv4Addr;

/// Ethertype of a C-VLAN tag (IEEE 802.1Q-2018, table 9-1).
const TAG_ETHERTYPE: [u8; 2] = [0x81, 0x00];

/// A tag's control information (802.1Q, 9.6): priority (3 bits), drop eligible (1), VLAN id (12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(u16);

impl Tag {
    /// From the two bytes after the Ethertype.
    pub const fn from_tci(tci: u16) -> Self {
        Self(tci)
    }

    /// The VLAN id as it stands there: 0 is "priority only", 4095 is reserved.
    pub const fn vid(self) -> u16 {
        self.0 & 0x0fff
    }

    /// The priority code point, 0–7.
    pub const fn pcp(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// The same priority and drop eligibility in another VLAN.
    #[must_use]
    pub const fn with_vid(self, vid: u16) -> Self {
        Self(self.0 & 0xf000 | vid & 0x0fff)
    }
}

/// A frame of at least a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    addresses: &'a [u8; 12],
    tag: Option<Tag>,
    /// Ethertype and payload.
    rest: &'a [u8],
}

impl<'a> Frame<'a> {
    /// `None` if the bytes end before the Ethertype or the tag does.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (addresses, rest) = bytes.split_first_chunk::<12>()?;
        let ethertype = rest.first_chunk::<2>()?;
        if *ethertype != TAG_ETHERTYPE {
            return Some(Self { addresses, tag: None, rest });
        }
        let (tag, rest) = rest.split_first_chunk::<4>()?;
        rest.first_chunk::<2>()?;
        Some(Self { addresses, tag: Some(Tag(u16::from_be_bytes([tag[2], tag[3]]))), rest })
    }

    /// Its tag, if it has one.
    pub fn tag(&self) -> Option<Tag> {
        self.tag
    }

    /// The same frame with another tag, or without.
    #[must_use]
    pub fn with_tag(self, tag: Option<Tag>) -> Self {
        Self { tag, ..self }
    }

    /// Destination address.
    pub fn destination(&self) -> [u8; 6] {
        self.addresses.first_chunk().copied().unwrap_or_default()
    }

    /// Source address.
    pub fn source(&self) -> [u8; 6] {
        self.addresses.last_chunk().copied().unwrap_or_default()
    }

    /// Whom an IPv4 packet is from and to (RFC 791), or an ARP packet for IPv4 speaks of (RFC 826: sender and target);
    /// `None` for everything else.
    pub fn ipv4_ends(&self) -> Option<[Ipv4Addr; 2]> {
        let (ethertype, packet) = self.rest.split_first_chunk::<2>()?;
        let at = match *ethertype {
            [0x08, 0x00] => [12, 16],
            [0x08, 0x06] => [14, 24],
            _ => return None,
        };
        let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?));
        Some([address(at[0])?, address(at[1])?])
    }

    /// Whether it is an ARP packet.
    pub fn is_arp(&self) -> bool {
        self.rest.starts_with(&[0x08, 0x06])
    }

    /// Whether it is an ARP question (RFC 826, operation 1). Who asks without an address of its own asks in its own
    /// behalf, whether anybody has the address already (RFC 5227): that is a claim, not a question.
    pub fn is_arp_question(&self) -> bool {
        let Some((ethertype, packet)) = self.rest.split_first_chunk::<2>() else { return false };
        let names_itself = packet.get(14..18).is_some_and(|sender| sender != [0; 4]);
        *ethertype == [0x08, 0x06] && packet.get(6..8) == Some(&[0, 1]) && names_itself
    }

    /// Ethertype and payload.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Length with the tag and without check sequence, bytes.
    pub fn wire_bytes(&self) -> usize {
        12 + self.rest.len() + if self.tag.is_some() { 4 } else { 0 }
    }

    /// Length of what an MTU limits, bytes: what follows the Ethertype.
    pub fn payload_bytes(&self) -> usize {
        self.rest.len().saturating_sub(2)
    }

    /// Whether it goes to one of the addresses that no bridge forwards: 01:80:c2:00:00:00 to 0f (802.1Q, table 8-1).
    pub fn is_link_local(&self) -> bool {
        let destination = self.destination();
        destination[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && destination[5] & 0xf0 == 0
    }

    /// Hands over the frame's bytes, piece by piece.
    pub fn pieces(&self, mut take: impl FnMut(&[u8])) {
        take(self.addresses);
        if let Some(Tag(tci)) = self.tag {
            let tci = tci.to_be_bytes();
            take(&[TAG_ETHERTYPE[0], TAG_ETHERTYPE[1], tci[0], tci[1]]);
        }
        take(self.rest);
    }

    /// Writes the frame's bytes.
    pub fn write_to(&self, writer: &mut impl io::Write) -> io::Result<()> {
        let mut result = Ok(());
        self.pieces(|piece| {
            if result.is_ok() {
                result = writer.write_all(piece);
            }
        });
        result
    }

    /// The frame's bytes.
    pub fn to_vec(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.wire_bytes());
        self.pieces(|piece| bytes.extend_from_slice(piece));
        bytes
    }
}

/// Whether an address is a group's: broadcast or multicast (802.3, 3.2.3).
pub(crate) fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tag_is_taken_apart() {
        let tag = Tag::from_tci(0x72c7);
        assert_eq!((tag.pcp(), tag.vid()), (3, 711));
        assert_eq!(tag.with_vid(8), Tag::from_tci(0x7008), "drop eligibility and priority stay");
    }

    #[test]
    fn a_frame_that_ends_inside_its_tag_is_none() {
        let mut frame = [0u8; 18];
        frame[12] = 0x81;
        assert!(Frame::parse(&frame).is_some());
        assert!(Frame::parse(&frame[..17]).is_none());
        assert!(Frame::parse(&[0; 14]).is_some());
        assert!(Frame::parse(&[0; 13]).is_none());
    }

    proptest! {
        #[test]
        fn what_was_parsed_is_written_back(bytes: Vec<u8>, tagged: bool) {
            let mut bytes = bytes;
            if tagged && bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&TAG_ETHERTYPE);
            }
            if let Some(frame) = Frame::parse(&bytes) {
                prop_assert_eq!(frame.wire_bytes(), bytes.len());
                prop_assert_eq!(frame.to_vec(), bytes);
            }
        }
    }
}
