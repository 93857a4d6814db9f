//! LLDP frames: a codec of IEEE Std 802.1AB-2016 data units, free of netlink and of any socket.
//!
//! Purpose: what switches tell about themselves on every port, as plain data that also travels in the API. The lab's
//! virtual switches encode it, nodes decode it. Carried are the TLVs that wiring checks use: the three mandatory ones,
//! port description, system name, description and capabilities (802.1AB, 8.5), port VLAN and VLAN names
//! (802.1Q-2018, annex D), ETS and PFC configuration (the same annex), and the maximum frame size (802.3-2018, 79.3.4).
//!
//! Invariants: [`decode`] reads any bytes without panicking; what [`encode`] wrote, [`decode`] reads back equal.
//!
//! On failure: the three mandatory TLVs must be right, or the frame is a [`DecodeError`]. After them the decoder is
//! tolerant, because a switch's optional extras must not hide who it is: TLVs that are not known are counted and
//! skipped, those that are wrong in themselves are counted as malformed and skipped, and a TLV that claims more
//! bytes than there are ends the reading. Strings that are not UTF-8 are read with replacement characters.
//!
//! Whatever a switch says may hold control characters that a terminal would obey. The types keep it as it came; everything
//! that is displayed goes through [`Printable`].

mod dcb;
mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use dcb::{Ets, Pfc, Selection};
pub use decode::{DecodeError, decode};
pub use encode::{EncodeError, encode};

use model::{MacAddress, VlanId};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};

/// Where LLDP frames go: the "nearest bridge" group address, which no bridge forwards (802.1AB, table 7-1).
pub const DESTINATION: MacAddress = MacAddress([0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e]);
/// The Ethertype of LLDP (802.1AB, table 7-3).
pub const ETHERTYPE: u16 = 0x88cc;
/// What a frame adds to its payload, bytes: header (14) and check sequence (4). A port with an MTU of *n* bytes
/// advertises a maximum frame size of *n* + 18 (802.3, 3.2.7: 1518 for a basic frame).
pub const FRAME_OVERHEAD_BYTES: u16 = 18;
/// The longest VLAN name, bytes (802.1Q, D.2.3.5).
pub const VLAN_NAME_BYTES_MAX: usize = 32;
/// The longest string or id of any other TLV, bytes (802.1AB, 8.5).
pub const STRING_BYTES_MAX: usize = 255;

/// TLV type numbers (802.1AB, table 8-1).
mod tlv {
    pub(super) const END: u8 = 0;
    pub(super) const CHASSIS_ID: u8 = 1;
    pub(super) const PORT_ID: u8 = 2;
    pub(super) const TTL: u8 = 3;
    pub(super) const PORT_DESCRIPTION: u8 = 4;
    pub(super) const SYSTEM_NAME: u8 = 5;
    pub(super) const SYSTEM_DESCRIPTION: u8 = 6;
    pub(super) const SYSTEM_CAPABILITIES: u8 = 7;
    pub(super) const ORGANISATION: u8 = 127;

    /// Organisation, then its subtype: port VLAN id (802.1Q, D.2.1).
    pub(super) const PORT_VLAN: [u8; 4] = [0x00, 0x80, 0xc2, 1];
    /// VLAN name (802.1Q, D.2.3).
    pub(super) const VLAN_NAME: [u8; 4] = [0x00, 0x80, 0xc2, 3];
    /// ETS configuration (802.1Q, D.2.8).
    pub(super) const ETS: [u8; 4] = [0x00, 0x80, 0xc2, 9];
    /// PFC configuration (802.1Q, D.2.10).
    pub(super) const PFC: [u8; 4] = [0x00, 0x80, 0xc2, 0x0b];
    /// Maximum frame size (802.3, 79.3.4).
    pub(super) const MAX_FRAME_SIZE: [u8; 4] = [0x00, 0x12, 0x0f, 4];
}

/// Chassis id subtypes (802.1AB, table 8-2) and port id subtypes (table 8-3) that have a form of their own here.
mod subtype {
    pub(super) const CHASSIS_MAC: u8 = 4;
    pub(super) const CHASSIS_INTERFACE_NAME: u8 = 6;
    pub(super) const CHASSIS_LOCAL: u8 = 7;
    pub(super) const PORT_MAC: u8 = 3;
    pub(super) const PORT_INTERFACE_NAME: u8 = 5;
    pub(super) const PORT_LOCAL: u8 = 7;
}

/// Which switch sent a frame. Two NICs that see the same chassis id are cabled to the same switch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChassisId {
    /// A MAC address (subtype 4): what most switches send.
    Mac(MacAddress),
    /// The name of an interface (subtype 6).
    InterfaceName(String),
    /// Whatever its administrator chose (subtype 7).
    Local(String),
    /// Any other subtype, or one of the above with bytes that don't fit it.
    Other {
        /// The subtype as it was sent.
        subtype: u8,
        /// The id as it was sent.
        bytes: Vec<u8>,
    },
}

/// Which of its ports a switch sent a frame from. Unique only within the chassis.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PortId {
    /// A MAC address (subtype 3).
    Mac(MacAddress),
    /// The name of an interface (subtype 5): what most switches send.
    InterfaceName(String),
    /// Whatever its administrator chose (subtype 7).
    Local(String),
    /// Any other subtype, or one of the above with bytes that don't fit it.
    Other {
        /// The subtype as it was sent.
        subtype: u8,
        /// The id as it was sent.
        bytes: Vec<u8>,
    },
}

impl fmt::Display for ChassisId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::InterfaceName(name) | Self::Local(name) => Printable(name).fmt(f),
            Self::Other { subtype, bytes } => fmt_other(f, *subtype, bytes),
        }
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::InterfaceName(name) | Self::Local(name) => Printable(name).fmt(f),
            Self::Other { subtype, bytes } => fmt_other(f, *subtype, bytes),
        }
    }
}

/// A switch's words for a terminal or a log: control characters, and format characters that reverse or hide text (Unicode
/// categories Cc and Cf of bidirectional text, lines and paragraphs), are written as `\u{1b}`, a backslash as `\\`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            c if is_hostile(c) => write!(f, "{}", c.escape_unicode()),
            c => f.write_char(c),
        })
    }
}

/// Whether a character does something to the text around it instead of being seen.
fn is_hostile(c: char) -> bool {
    let bidirectional =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let invisible = matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}');
    c.is_control() || bidirectional || invisible || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `subtype 1: 0a0b0c`.
fn fmt_other(f: &mut fmt::Formatter<'_>, subtype: u8, bytes: &[u8]) -> fmt::Result {
    write!(f, "subtype {subtype}: ")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// What a system can do and does, one bit each (802.1AB, table 8-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What it can do.
    pub supported: u16,
    /// What of it is switched on.
    pub enabled: u16,
}

impl Capabilities {
    /// Bit of a bridge: what tells a switch from a machine that was cabled in its place.
    pub const BRIDGE: u16 = 1 << 2;
}

/// A VLAN that the port carries, as the switch names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlanName {
    /// The VLAN.
    pub vlan: VlanId,
    /// Its name, at most 32 bytes.
    pub name: String,
}

/// What one port of a switch says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lldpdu {
    /// The switch.
    pub chassis_id: ChassisId,
    /// The port.
    pub port_id: PortId,
    /// How long this stays true without another frame, seconds. 0: the port says good-bye.
    pub ttl_s: u16,
    /// The port in the switch's own words.
    pub port_description: Option<String>,
    /// The switch's name.
    pub system_name: Option<String>,
    /// The switch's make and software.
    pub system_description: Option<String>,
    /// What the sender is.
    pub capabilities: Option<Capabilities>,
    /// The VLAN of untagged frames (native VLAN). `None` also when the switch sends 0, which means "none".
    pub port_vlan: Option<VlanId>,
    /// The VLANs that the port carries, in the order of the frame.
    pub vlans: Vec<VlanName>,
    /// The largest frame that the port takes, bytes, header and check sequence included.
    pub max_frame_bytes: Option<u16>,
    /// How it shares its bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ets: Option<Ets>,
    /// What it pauses rather than lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pfc: Option<Pfc>,
}

impl Lldpdu {
    /// A data unit with nothing but the mandatory parts.
    pub fn new(chassis_id: ChassisId, port_id: PortId, ttl_s: u16) -> Self {
        Self {
            chassis_id,
            port_id,
            ttl_s,
            port_description: None,
            system_name: None,
            system_description: None,
            capabilities: None,
            port_vlan: None,
            vlans: Vec::new(),
            max_frame_bytes: None,
            ets: None,
            pfc: None,
        }
    }
}

/// A data unit as it came out of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// The frame's source address: the port's or the switch's, as the switch likes.
    pub source: MacAddress,
    /// What it said.
    pub lldpdu: Lldpdu,
    /// TLVs that were skipped because this codec doesn't know them.
    pub unknown_tlvs: u16,
    /// TLVs that were skipped because they are wrong: too short, a VLAN that can't be, a second one of a kind that
    /// may come once, or one that claims more bytes than the frame has.
    pub malformed_tlvs: u16,
}
