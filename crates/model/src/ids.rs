//! Identifiers and small quantities as types, so that a VLAN can't be passed for a priority.
//!
//! Every type here is checked where it is made and serialises as what a person would write.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// A value that its type refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {what}: {expected}")]
pub struct InvalidValue {
    /// What the value was meant to be, for example `VLAN id`.
    pub what: &'static str,
    /// The value as it was given.
    pub value: String,
    /// What would have been right.
    pub expected: &'static str,
}

impl InvalidValue {
    fn new(what: &'static str, value: impl fmt::Display, expected: &'static str) -> Self {
        Self { what, value: value.to_string(), expected }
    }
}

/// A name checked by a function when it is made; serialises as the bare string.
macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidValue;
            fn try_from(value: String) -> Result<Self, InvalidValue> {
                $check(&value)?;
                Ok(Self(value))
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(value: &str) -> Result<Self, InvalidValue> {
                Self::try_from(value.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

/// Comparison, order and hash of a name that ignore ASCII case: host names and ARM values compare so.
macro_rules! caseless {
    ($name:ident) => {
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.eq_ignore_ascii_case(&other.0)
            }
        }
        impl Eq for $name {}
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let fold = |name: &Self| name.0.bytes().map(|b| b.to_ascii_lowercase()).collect::<Vec<_>>();
                fold(self).cmp(&fold(other))
            }
        }
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                for byte in self.0.bytes() {
                    state.write_u8(byte.to_ascii_lowercase());
                }
                state.write_u8(0xff);
            }
        }
    };
}

checked_name! {
    /// A cluster's name: one host-name label. ARM files narrow it to 3–15 characters; that is a rule, not a type.
    ClusterName, check_host_label
}
caseless!(ClusterName);

checked_name! {
    /// A node's host name: one label of RFC 1123 (letters, digits, inner hyphens, at most 63). Compares without case.
    NodeName, check_host_label
}
caseless!(NodeName);

checked_name! {
    /// A local availability zone, one rack.
    ZoneName, check_plain_name
}
caseless!(ZoneName);

checked_name! {
    /// A network adapter as templates call it (`Ethernet 2`). Every node maps it to a NIC by MAC address.
    AdapterName, check_plain_name
}
caseless!(AdapterName);

checked_name! {
    /// A network intent's name.
    IntentName, check_plain_name
}
caseless!(IntentName);

checked_name! {
    /// A drive's serial number as the drive reports it, without padding.
    DriveSerial, check_plain_name
}
caseless!(DriveSerial);

checked_name! {
    /// A volume's name.
    VolumeName, check_plain_name
}
caseless!(VolumeName);

checked_name! {
    /// A virtual machine's name.
    VmName, check_plain_name
}
caseless!(VmName);

checked_name! {
    /// The name of a group of virtual machines that are kept apart.
    GroupName, check_plain_name
}
caseless!(GroupName);

/// RFC 1123, section 2.1, one label.
fn check_host_label(value: &str) -> Result<(), InvalidValue> {
    let expected = "1 to 63 letters, digits and hyphens, neither starting nor ending with a hyphen";
    let inner = value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let ends = !value.starts_with('-') && !value.ends_with('-');
    if inner && ends && (1..=63).contains(&value.len()) {
        return Ok(());
    }
    Err(InvalidValue::new("host name", value, expected))
}

/// Anything a person would type as a name: printable, not blank, no outer spaces, at most 80 characters.
fn check_plain_name(value: &str) -> Result<(), InvalidValue> {
    let expected = "1 to 80 printable characters without spaces at the ends";
    let printable = !value.chars().any(char::is_control) && value.trim() == value;
    if printable && !value.is_empty() && value.chars().count() <= 80 {
        return Ok(());
    }
    Err(InvalidValue::new("name", value.escape_debug(), expected))
}

/// A number in a range, checked when it is made.
macro_rules! checked_number {
    ($(#[$doc:meta])* $name:ident($repr:ty), $what:literal, $range:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        pub struct $name($repr);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidValue;
            fn try_from(value: u64) -> Result<Self, InvalidValue> {
                match <$repr>::try_from(value) {
                    Ok(number) if ($range).contains(&number) => Ok(Self(number)),
                    _ => Err(InvalidValue::new($what, value, $expected)),
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(value: &str) -> Result<Self, InvalidValue> {
                let number: u64 =
                    value.trim().parse().map_err(|_| InvalidValue::new($what, value, $expected))?;
                Self::try_from(number)
            }
        }

        impl From<$name> for u64 {
            fn from(number: $name) -> Self {
                Self::from(number.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

checked_number! {
    /// An IEEE 802.1Q VLAN id: 1–4094 (0 means "priority only" and 4095 is reserved, 802.1Q table 9-2).
    VlanId(u16), "VLAN id", 1..=4094, "a number from 1 to 4094"
}

checked_number! {
    /// An IEEE 802.1p priority code point: 0–7.
    Priority(u8), "priority", 0..=7, "a number from 0 to 7"
}

checked_number! {
    /// A link's MTU in bytes: the largest IP packet, without the Ethernet header. 1280 is what IPv6 needs (RFC 8200),
    /// 9216 what switches carry at most.
    Mtu(u16), "MTU", 1280..=9216, "a number of bytes from 1280 to 9216"
}

checked_number! {
    /// A node's place in the template, from 1. Storage addresses come from it, so it never changes once given.
    NodeOrdinal(u8), "node ordinal", 1..=254, "a number from 1 to 254"
}

checked_number! {
    /// Which of the storage networks, from 1.
    StorageNetworkIndex(u8), "storage network index", 1..=8, "a number from 1 to 8"
}

impl VlanId {
    /// VLAN of the first storage network unless the template says otherwise (Azure Local's default).
    pub const STORAGE_1_DEFAULT: Self = Self(711);
    /// VLAN of the second storage network unless the template says otherwise (Azure Local's default).
    pub const STORAGE_2_DEFAULT: Self = Self(712);
}

impl Mtu {
    /// 1500 bytes, Ethernet's own (IEEE 802.3, 3.2.7).
    pub const ETHERNET: Self = Self(1500);
    /// 9000 bytes: what `jumboPacket` 9014 in an ARM file means, less the 14-byte Ethernet header.
    pub const JUMBO: Self = Self(9000);
}

impl Priority {
    /// The rest of the traffic.
    pub const DEFAULT: Self = Self(0);
    /// Storage traffic unless the template says otherwise.
    pub const STORAGE: Self = Self(3);
    /// Cluster heartbeats unless the template says otherwise.
    pub const HEARTBEAT: Self = Self(7);
}

/// An IEEE 802 MAC address; written as six lower-case hexadecimal pairs with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mac = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        let invalid = || InvalidValue::new("MAC address", value, "six hexadecimal pairs with colons");
        let mut bytes = [0u8; 6];
        let mut parts = value.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidValue;
    fn try_from(value: String) -> Result<Self, InvalidValue> {
        value.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn node_names_compare_without_case_but_keep_theirs() {
        let (upper, lower): (NodeName, NodeName) = ("VHost1".parse().unwrap(), "vhost1".parse().unwrap());
        assert_eq!(upper, lower);
        assert_eq!(upper.to_string(), "VHost1");
        assert_eq!(std::collections::HashSet::from([upper, lower]).len(), 1);
    }

    #[test]
    fn host_names_follow_rfc_1123() {
        for good in ["a", "v-host1", "1", &"x".repeat(63)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_keep_to_their_range() {
        assert_eq!("4094".parse::<VlanId>().unwrap().get(), 4094);
        for bad in ["0", "4095", "65537", "-1", "", "x"] {
            assert!(bad.parse::<VlanId>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<VlanId>("4095").is_err());
    }

    proptest! {
        #[test]
        fn mac_addresses_round_trip(bytes: [u8; 6]) {
            let mac = MacAddress(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
            prop_assert_eq!(mac.to_string().to_uppercase().replace(':', "-").parse::<MacAddress>().unwrap(), mac);
        }

        #[test]
        fn no_text_panics_a_parser(text: String) {
            let _ = text.parse::<MacAddress>();
            let _ = text.parse::<NodeName>();
            let _ = text.parse::<AdapterName>();
            let _ = text.parse::<VlanId>();
        }
    }
}
