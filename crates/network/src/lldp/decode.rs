//! Ethernet frame to data unit.

use super::{
    Capabilities, ChassisId, DESTINATION, ETHERTYPE, Ets, Lldpdu, Pfc, PortId, Received, STRING_BYTES_MAX,
    VLAN_NAME_BYTES_MAX, VlanName, subtype, tlv,
};
use model::{MacAddress, VlanId};

/// The Ethertype of an 802.1Q tag. Some switches send LLDP with a priority tag.
const TAG_ETHERTYPE: u16 = 0x8100;

/// A frame that is not LLDP, or whose mandatory part can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than an Ethernet header.
    #[error("a frame of {bytes} bytes is too short for an Ethernet header")]
    NoHeader {
        /// Length of the frame, bytes.
        bytes: usize,
    },
    /// Something else than LLDP.
    #[error("the frame is not LLDP: its Ethertype is {ethertype:#06x}")]
    NotLldp {
        /// What it is.
        ethertype: u16,
    },
    /// LLDP for bridges farther away, which says nothing about the cable.
    #[error("the frame goes to {destination}, not to the nearest bridge")]
    NotNearestBridge {
        /// Where it goes.
        destination: MacAddress,
    },
    /// One of the first three TLVs is another than it must be (802.1AB, 8.5.1 to 8.5.3).
    #[error("the {expected} TLV is missing: type {found:?} stands in its place")]
    Mandatory {
        /// Which one.
        expected: &'static str,
        /// The type found, `None` at the frame's end.
        found: Option<u8>,
    },
    /// One of the first three TLVs has a length that it can't have.
    #[error("the {field} TLV has {bytes} bytes")]
    MandatoryLength {
        /// Which one.
        field: &'static str,
        /// Its length, bytes.
        bytes: usize,
    },
    /// A TLV claims more bytes than there are before the mandatory three were read.
    #[error("the frame ends inside the {field} TLV")]
    Truncated {
        /// Which one.
        field: &'static str,
    },
    /// A mandatory TLV comes twice, so that who sent the frame can't be told.
    #[error("the {field} TLV comes twice")]
    Repeated {
        /// Which one.
        field: &'static str,
    },
}

/// Reads a whole Ethernet frame, with or without an 802.1Q tag, without check sequence.
pub fn decode(frame: &[u8]) -> Result<Received, DecodeError> {
    let header = |offset: usize| -> Option<u16> {
        frame.get(offset..offset + 2)?.try_into().ok().map(u16::from_be_bytes)
    };
    let no_header = DecodeError::NoHeader { bytes: frame.len() };
    let (Some((destination, rest)), Some(outer)) = (frame.split_first_chunk::<6>(), header(12)) else {
        return Err(no_header);
    };
    let Some((source, _)) = rest.split_first_chunk::<6>() else { return Err(no_header) };
    let (ethertype, payload_at) =
        if outer == TAG_ETHERTYPE { (header(16).ok_or(no_header)?, 18) } else { (outer, 14) };
    if ethertype != ETHERTYPE {
        return Err(DecodeError::NotLldp { ethertype });
    }
    if *destination != DESTINATION.0 {
        return Err(DecodeError::NotNearestBridge { destination: MacAddress(*destination) });
    }
    let mut tlvs = Tlvs { bytes: frame.get(payload_at..).unwrap_or_default() };
    let lldpdu = mandatory(&mut tlvs)?;
    let mut received = Received { source: MacAddress(*source), lldpdu, unknown_tlvs: 0, malformed_tlvs: 0 };
    optional(&mut tlvs, &mut received)?;
    Ok(received)
}

/// What reading one TLV came to.
enum Tlv<'a> {
    Whole {
        kind: u8,
        value: &'a [u8],
    },
    Truncated {
        kind: Option<u8>,
    },
    /// No bytes left: the End TLV may be left out.
    None,
}

struct Tlvs<'a> {
    bytes: &'a [u8],
}

impl<'a> Tlvs<'a> {
    fn next(&mut self) -> Tlv<'a> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<2>() else {
            let leftover = !self.bytes.is_empty();
            self.bytes = &[];
            return if leftover { Tlv::Truncated { kind: None } } else { Tlv::None };
        };
        let header = u16::from_be_bytes(*header);
        let (kind, length) = ((header >> 9) as u8, usize::from(header & 0x1ff));
        if let Some((value, rest)) = rest.split_at_checked(length) {
            self.bytes = rest;
            Tlv::Whole { kind, value }
        } else {
            self.bytes = &[];
            Tlv::Truncated { kind: Some(kind) }
        }
    }
}

/// The first three, in their order.
fn mandatory(tlvs: &mut Tlvs<'_>) -> Result<Lldpdu, DecodeError> {
    let (subtype, bytes) = read_id(tlvs, tlv::CHASSIS_ID, "chassis id")?;
    let chassis_id = match (subtype, <[u8; 6]>::try_from(bytes)) {
        (subtype::CHASSIS_MAC, Ok(mac)) => ChassisId::Mac(MacAddress(mac)),
        (subtype::CHASSIS_INTERFACE_NAME, _) => ChassisId::InterfaceName(text(bytes)),
        (subtype::CHASSIS_LOCAL, _) => ChassisId::Local(text(bytes)),
        _ => ChassisId::Other { subtype, bytes: bytes.to_vec() },
    };
    let (subtype, bytes) = read_id(tlvs, tlv::PORT_ID, "port id")?;
    let port_id = match (subtype, <[u8; 6]>::try_from(bytes)) {
        (subtype::PORT_MAC, Ok(mac)) => PortId::Mac(MacAddress(mac)),
        (subtype::PORT_INTERFACE_NAME, _) => PortId::InterfaceName(text(bytes)),
        (subtype::PORT_LOCAL, _) => PortId::Local(text(bytes)),
        _ => PortId::Other { subtype, bytes: bytes.to_vec() },
    };
    let ttl = expect(tlvs, tlv::TTL, "time to live")?;
    // 802.1AB, 9.2.7.7.2: more bytes than the two that are known are for later versions, and ignored.
    let ttl_s = word(ttl).ok_or(DecodeError::MandatoryLength { field: "time to live", bytes: ttl.len() })?;
    Ok(Lldpdu::new(chassis_id, port_id, ttl_s))
}

fn read_id<'a>(tlvs: &mut Tlvs<'a>, kind: u8, field: &'static str) -> Result<(u8, &'a [u8]), DecodeError> {
    let value = expect(tlvs, kind, field)?;
    match value.split_first() {
        Some((subtype, bytes)) if !bytes.is_empty() && bytes.len() <= STRING_BYTES_MAX => {
            Ok((*subtype, bytes))
        }
        _ => Err(DecodeError::MandatoryLength { field, bytes: value.len() }),
    }
}

fn expect<'a>(tlvs: &mut Tlvs<'a>, kind: u8, field: &'static str) -> Result<&'a [u8], DecodeError> {
    match tlvs.next() {
        Tlv::Whole { kind: found, value } if found == kind => Ok(value),
        Tlv::Truncated { kind: Some(found) } if found == kind => Err(DecodeError::Truncated { field }),
        Tlv::Whole { kind: found, .. } | Tlv::Truncated { kind: Some(found) } => {
            Err(DecodeError::Mandatory { expected: field, found: Some(found) })
        }
        Tlv::Truncated { kind: None } => Err(DecodeError::Truncated { field }),
        Tlv::None => Err(DecodeError::Mandatory { expected: field, found: None }),
    }
}

/// Everything after the mandatory three, up to the End TLV or the frame's end. What follows End is padding.
fn optional(tlvs: &mut Tlvs<'_>, received: &mut Received) -> Result<(), DecodeError> {
    loop {
        let read = match tlvs.next() {
            Tlv::None | Tlv::Whole { kind: tlv::END, .. } => return Ok(()),
            Tlv::Truncated { .. } => Read::Malformed,
            Tlv::Whole { kind: tlv::CHASSIS_ID, .. } => {
                return Err(DecodeError::Repeated { field: "chassis id" });
            }
            Tlv::Whole { kind: tlv::PORT_ID, .. } => return Err(DecodeError::Repeated { field: "port id" }),
            Tlv::Whole { kind: tlv::TTL, .. } => {
                return Err(DecodeError::Repeated { field: "time to live" });
            }
            Tlv::Whole { kind, value } => optional_one(&mut received.lldpdu, kind, value),
        };
        match read {
            Read::Taken => {}
            Read::Unknown => received.unknown_tlvs = received.unknown_tlvs.saturating_add(1),
            Read::Malformed => received.malformed_tlvs = received.malformed_tlvs.saturating_add(1),
        }
    }
}

/// What became of an optional TLV.
enum Read {
    Taken,
    Unknown,
    Malformed,
}

impl Read {
    /// Fills a field that may come once: the first wins, as it would with a receiver that stops reading there.
    fn once<T>(field: &mut Option<T>, value: Option<T>) -> Self {
        if field.is_some() || value.is_none() {
            return Self::Malformed;
        }
        *field = value;
        Self::Taken
    }
}

fn optional_one(lldpdu: &mut Lldpdu, kind: u8, value: &[u8]) -> Read {
    match kind {
        tlv::PORT_DESCRIPTION => Read::once(&mut lldpdu.port_description, short_text(value)),
        tlv::SYSTEM_NAME => Read::once(&mut lldpdu.system_name, short_text(value)),
        tlv::SYSTEM_DESCRIPTION => Read::once(&mut lldpdu.system_description, short_text(value)),
        tlv::SYSTEM_CAPABILITIES => {
            let pair = word(value).zip(value.get(2..).and_then(word));
            let bits = pair.map(|(supported, enabled)| Capabilities { supported, enabled });
            Read::once(&mut lldpdu.capabilities, bits)
        }
        tlv::ORGANISATION => organisation(lldpdu, value),
        _ => Read::Unknown,
    }
}

fn organisation(lldpdu: &mut Lldpdu, value: &[u8]) -> Read {
    let Some((which, value)) = value.split_first_chunk::<4>() else { return Read::Malformed };
    match *which {
        tlv::PORT_VLAN => match word(value) {
            Some(0) => Read::Taken, // "no port VLAN" (802.1Q, D.2.1.1)
            Some(vlan) => Read::once(&mut lldpdu.port_vlan, VlanId::try_from(u64::from(vlan)).ok()),
            None => Read::Malformed,
        },
        tlv::VLAN_NAME => match vlan_name(value) {
            Some(vlan) => {
                lldpdu.vlans.push(vlan);
                Read::Taken
            }
            None => Read::Malformed,
        },
        tlv::ETS => Read::once(&mut lldpdu.ets, Ets::decode(value)),
        tlv::PFC => Read::once(&mut lldpdu.pfc, Pfc::decode(value)),
        tlv::MAX_FRAME_SIZE => Read::once(&mut lldpdu.max_frame_bytes, word(value)),
        _ => Read::Unknown,
    }
}

/// VLAN id (2 bytes), length of the name (1), name (802.1Q, D.2.3).
fn vlan_name(value: &[u8]) -> Option<VlanName> {
    let vlan = VlanId::try_from(u64::from(word(value)?)).ok()?;
    let length = usize::from(*value.get(2)?);
    if length > VLAN_NAME_BYTES_MAX {
        return None;
    }
    Some(VlanName { vlan, name: text(value.get(3..3 + length)?) })
}

fn word(value: &[u8]) -> Option<u16> {
    value.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

fn short_text(value: &[u8]) -> Option<String> {
    (value.len() <= STRING_BYTES_MAX).then(|| text(value))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
