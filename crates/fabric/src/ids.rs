//! Names of the fabric's parts as types. All are checked where they are made, serde included.

use model::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

name! {
    /// A switch as the lab calls it (`tor-a1`). Never sent on the wire, so that nobody can tell rooms by it.
    SwitchId, check_id
}

name! {
    /// A node's NIC (`a1.storage1`): one unix socket of the fabric, and part of its file name.
    NicId, check_id
}

name! {
    /// A cable.
    LinkId, check_id
}

name! {
    /// A port channel.
    ChannelId, check_id
}

name! {
    /// A switch's port as the switch calls it (`Ethernet1/7`): what LLDP sends as port id. Unique within its switch.
    PortName, check_port_name
}

/// Safe as a part of a file name, and short enough to leave room for the directory.
fn check_id(value: &str) -> Result<(), InvalidValue> {
    let inner = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let first = value.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if inner && first && value.len() <= 64 {
        return Ok(());
    }
    Err(InvalidValue {
        what: "fabric id",
        value: value.escape_debug().to_string(),
        expected: "1 to 64 letters, digits, dots, hyphens and underscores, starting with a letter or a digit",
    })
}

/// What fits in an LLDP port id (IEEE 802.1AB, 8.5.3) and can be read by people.
fn check_port_name(value: &str) -> Result<(), InvalidValue> {
    let bytes = value.len();
    if (1..=network::lldp::STRING_BYTES_MAX).contains(&bytes) && !value.chars().any(char::is_control) {
        return Ok(());
    }
    Err(InvalidValue {
        what: "port name",
        value: value.escape_debug().to_string(),
        expected: "1 to 255 bytes without control characters",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_safe_file_names() {
        for good in ["a1.storage1", "tor-a1", "7", "a--b_c"] {
            assert!(good.parse::<NicId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "é", "a\0", &"x".repeat(65)] {
            assert!(bad.parse::<NicId>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<NicId>("\"../x\"").is_err());
        assert!("Ethernet1/7".parse::<PortName>().is_ok());
        assert!("Ethernet1/7\n".parse::<PortName>().is_err());
    }
}
