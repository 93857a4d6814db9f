//! Data unit to Ethernet frame.

use super::{
    ChassisId, DESTINATION, ETHERTYPE, Lldpdu, PortId, STRING_BYTES_MAX, VLAN_NAME_BYTES_MAX, subtype, tlv,
};
use model::MacAddress;

/// The shortest frame without its check sequence, bytes (802.3, 3.2.8).
const FRAME_BYTES_MIN: usize = 60;
/// The longest: a header and the payload of an ordinary Ethernet frame, bytes. A data unit is never split.
const FRAME_BYTES_MAX: usize = 14 + 1500;

/// A data unit that doesn't fit its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// An id must have at least one byte.
    #[error("the {field} of an LLDP data unit is empty")]
    Empty {
        /// Which one.
        field: &'static str,
    },
    /// A string is longer than its TLV can be.
    #[error("the {field} of an LLDP data unit has {bytes} bytes, at most {max} fit")]
    TooLong {
        /// Which one.
        field: &'static str,
        /// Its length, bytes.
        bytes: usize,
        /// What fits, bytes.
        max: usize,
    },
    /// All together is more than a frame.
    #[error(
        "an LLDP data unit makes a frame of {bytes} bytes, at most {max} fit: carry fewer VLANs on the port"
    )]
    FrameTooLong {
        /// Length of the frame, bytes.
        bytes: usize,
        /// What fits, bytes.
        max: usize,
    },
}

/// The whole Ethernet frame, without check sequence, padded to the shortest frame.
pub fn encode(lldpdu: &Lldpdu, source: MacAddress) -> Result<Vec<u8>, EncodeError> {
    let mut frame = Vec::with_capacity(256);
    frame.extend_from_slice(&DESTINATION.0);
    frame.extend_from_slice(&source.0);
    frame.extend_from_slice(&ETHERTYPE.to_be_bytes());

    push_chassis_id(&mut frame, &lldpdu.chassis_id)?;
    push_port_id(&mut frame, &lldpdu.port_id)?;
    push(&mut frame, tlv::TTL, &[&lldpdu.ttl_s.to_be_bytes()]);
    push_string(&mut frame, tlv::PORT_DESCRIPTION, "port description", lldpdu.port_description.as_deref())?;
    push_string(&mut frame, tlv::SYSTEM_NAME, "system name", lldpdu.system_name.as_deref())?;
    push_string(
        &mut frame,
        tlv::SYSTEM_DESCRIPTION,
        "system description",
        lldpdu.system_description.as_deref(),
    )?;
    if let Some(capabilities) = lldpdu.capabilities {
        let bits = [capabilities.supported.to_be_bytes(), capabilities.enabled.to_be_bytes()];
        push(&mut frame, tlv::SYSTEM_CAPABILITIES, &[bits.as_flattened()]);
    }
    if let Some(vlan) = lldpdu.port_vlan {
        push(&mut frame, tlv::ORGANISATION, &[&tlv::PORT_VLAN, &vlan.get().to_be_bytes()]);
    }
    for vlan in &lldpdu.vlans {
        let name = bounded("VLAN name", vlan.name.as_bytes(), VLAN_NAME_BYTES_MAX)?;
        let id = vlan.vlan.get().to_be_bytes();
        push(&mut frame, tlv::ORGANISATION, &[&tlv::VLAN_NAME, &id, &[name.len() as u8], name]);
    }
    if let Some(bytes) = lldpdu.max_frame_bytes {
        push(&mut frame, tlv::ORGANISATION, &[&tlv::MAX_FRAME_SIZE, &bytes.to_be_bytes()]);
    }
    if let Some(ets) = &lldpdu.ets {
        push(&mut frame, tlv::ORGANISATION, &[&tlv::ETS, &ets.encode()]);
    }
    if let Some(pfc) = lldpdu.pfc {
        push(&mut frame, tlv::ORGANISATION, &[&tlv::PFC, &pfc.encode()]);
    }
    push(&mut frame, tlv::END, &[]);

    if frame.len() > FRAME_BYTES_MAX {
        return Err(EncodeError::FrameTooLong { bytes: frame.len(), max: FRAME_BYTES_MAX });
    }
    frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
    Ok(frame)
}

fn push_chassis_id(frame: &mut Vec<u8>, id: &ChassisId) -> Result<(), EncodeError> {
    let (subtype, bytes): (u8, &[u8]) = match id {
        ChassisId::Mac(mac) => (subtype::CHASSIS_MAC, &mac.0),
        ChassisId::InterfaceName(name) => (subtype::CHASSIS_INTERFACE_NAME, name.as_bytes()),
        ChassisId::Local(name) => (subtype::CHASSIS_LOCAL, name.as_bytes()),
        ChassisId::Other { subtype, bytes } => (*subtype, bytes),
    };
    push_id(frame, tlv::CHASSIS_ID, "chassis id", subtype, bytes)
}

fn push_port_id(frame: &mut Vec<u8>, id: &PortId) -> Result<(), EncodeError> {
    let (subtype, bytes): (u8, &[u8]) = match id {
        PortId::Mac(mac) => (subtype::PORT_MAC, &mac.0),
        PortId::InterfaceName(name) => (subtype::PORT_INTERFACE_NAME, name.as_bytes()),
        PortId::Local(name) => (subtype::PORT_LOCAL, name.as_bytes()),
        PortId::Other { subtype, bytes } => (*subtype, bytes),
    };
    push_id(frame, tlv::PORT_ID, "port id", subtype, bytes)
}

fn push_id(
    frame: &mut Vec<u8>,
    kind: u8,
    field: &'static str,
    subtype: u8,
    bytes: &[u8],
) -> Result<(), EncodeError> {
    if bytes.is_empty() {
        return Err(EncodeError::Empty { field });
    }
    push(frame, kind, &[&[subtype], bounded(field, bytes, STRING_BYTES_MAX)?]);
    Ok(())
}

fn push_string(
    frame: &mut Vec<u8>,
    kind: u8,
    field: &'static str,
    text: Option<&str>,
) -> Result<(), EncodeError> {
    if let Some(text) = text {
        push(frame, kind, &[bounded(field, text.as_bytes(), STRING_BYTES_MAX)?]);
    }
    Ok(())
}

fn bounded<'a>(field: &'static str, bytes: &'a [u8], max: usize) -> Result<&'a [u8], EncodeError> {
    if bytes.len() > max {
        return Err(EncodeError::TooLong { field, bytes: bytes.len(), max });
    }
    Ok(bytes)
}

/// Seven bits of type, nine of length, then the value (802.1AB, 8.4). Callers keep values below 512 bytes.
fn push(frame: &mut Vec<u8>, kind: u8, value: &[&[u8]]) {
    let length: usize = value.iter().map(|part| part.len()).sum();
    debug_assert!(length < 512, "a TLV holds 511 bytes");
    let header = u16::from(kind) << 9 | length as u16;
    frame.extend_from_slice(&header.to_be_bytes());
    for part in value {
        frame.extend_from_slice(part);
    }
}
