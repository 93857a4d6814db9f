//! The numbers and names by which the ledger, the agents and the kernel's objects speak of volumes, and of who uses them.
//!
//! All numbers are given out by the ledger, only grow, and are never given out twice. On disk and on the wire they are bare
//! numbers; an [`Epoch`] reads `1.7`.

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A number as a type of its own.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($repr:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $repr);

        impl $name {
            /// The one after it.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number! {
    /// A node in the ledger. A node that lost its ledger state comes back under another.
    NodeId(u32), "node-"
}
number! {
    /// A drive in the ledger and in the header on the drive itself.
    DriveId(u32), "drive-"
}
number! {
    /// A virtual machine.
    VmId(u32), "vm-"
}
number! {
    /// A run of a virtual machine: each start and each arrival somewhere has another.
    Generation(u32), "g"
}
number! {
    /// A try at saving a virtual machine's memory, counted as long as there is that machine.
    SaveTry(u32), "try-"
}
number! {
    /// A volume.
    VolumeId(u32), "volume-"
}
number! {
    /// A leg, counted within its volume.
    LegId(u16), "leg-"
}
number! {
    /// How often a leg has been given out anew: what was sent to an earlier one never reaches a later one.
    Incarnation(u32), "i"
}
number! {
    /// How often the ledger itself was begun anew by forced quorum.
    LedgerIncarnation(u32), ""
}
number! {
    /// Counts the maps of what stale legs have missed, per volume.
    MapSequence(u32), "s"
}
number! {
    /// How often a drive may have forgotten what it had acknowledged, as its node counts: it had lost its power, or was away.
    PowerCycles(u32), ""
}

/// A volume's ownership generation. One of a later ledger incarnation is greater than all of an earlier one, so that
/// whoever remembers the highest it has seen need not know about forced quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Of which ledger.
    pub ledger: LedgerIncarnation,
    /// Counted within it.
    pub number: u32,
}

impl Epoch {
    /// The first of a ledger incarnation.
    pub const fn first(ledger: LedgerIncarnation) -> Self {
        Self { ledger, number: 1 }
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ledger, self.number)
    }
}

/// One run of a node's kernel, as `/proc/sys/kernel/random/boot_id` names it; written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(pub u128);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for BootId {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        let digits: String = value.trim().chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
        number.map(Self).ok_or_else(|| InvalidValue {
            what: "boot id",
            value: value.to_owned(),
            expected: "32 hexadecimal digits, with hyphens or without",
        })
    }
}

impl TryFrom<String> for BootId {
    type Error = InvalidValue;
    fn try_from(value: String) -> Result<Self, InvalidValue> {
        value.parse()
    }
}

impl From<BootId> for String {
    fn from(boot: BootId) -> Self {
        boot.to_string()
    }
}

/// Whether a volume's space is given out when it is made or when it is first written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provision {
    /// When it is first written.
    Thin,
    /// When the volume is made.
    Fixed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_of_a_later_ledger_is_greater_than_all_of_an_earlier_one() {
        let late = Epoch { ledger: LedgerIncarnation(1), number: 900 };
        assert!(Epoch::first(LedgerIncarnation(2)) > late && late.next() > late);
        assert_eq!(late.to_string(), "1.900");
    }

    #[test]
    fn a_boot_id_reads_as_the_kernel_writes_it() {
        let boot: BootId = "6f6a2d1e-3c55-4f3e-9d5a-0123456789ab\n".parse().unwrap();
        assert_eq!(serde_json::to_string(&boot).unwrap(), "\"6f6a2d1e3c554f3e9d5a0123456789ab\"");
        for bad in
            ["", "6f6a", "zz6a2d1e-3c55-4f3e-9d5a-0123456789ab", "6f6a2d1e-3c55-4f3e-9d5a-0123456789abcd"]
        {
            assert!(bad.parse::<BootId>().is_err(), "{bad}");
        }
    }
}
