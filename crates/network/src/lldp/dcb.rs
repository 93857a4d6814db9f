//! What a port says of priorities: the ETS configuration and PFC configuration TLVs of DCBX.
//!
//! Formats: IEEE 802.1Q-2018, D.2.8 (ETS configuration, subtype 9) and D.2.10 (priority-based flow control, subtype 0x0b).
//!
//! Invariants: what is encoded is decoded equal. Bits that the standard reserves are sent as zero and not looked at.
//!
//! On failure: a TLV that is too short or has a number that can't be is `None`; the caller counts it as malformed.

use serde::{Deserialize, Serialize};

/// Priorities, and traffic classes at most (802.1Q, 8.6.6).
const CLASSES: usize = 8;

/// How a traffic class is served (802.1Q, table D-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// Before all others (0).
    Strict,
    /// By its credit (1).
    CreditBased,
    /// By its share of the bandwidth (2).
    Ets,
    /// In the vendor's way, or one that this codec doesn't know.
    Other(u8),
}

impl Selection {
    fn from_octet(octet: u8) -> Self {
        match octet {
            0 => Self::Strict,
            1 => Self::CreditBased,
            2 => Self::Ets,
            other => Self::Other(other),
        }
    }

    fn octet(self) -> u8 {
        match self {
            Self::Strict => 0,
            Self::CreditBased => 1,
            Self::Ets => 2,
            Self::Other(octet) => octet,
        }
    }
}

/// Enhanced transmission selection, as the port has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ets {
    /// Whether the port takes its neighbour's configuration.
    pub willing: bool,
    /// Whether it has credit-based shapers.
    pub credit_based_shaper: bool,
    /// How many traffic classes it has, 1 to 8.
    pub max_classes: u8,
    /// The traffic class of each priority, 0 to 7 (a class takes four bits: up to 15 is read as it is).
    pub class_of: [u8; CLASSES],
    /// Each traffic class's share of the bandwidth, percent.
    pub bandwidth_percent: [u8; CLASSES],
    /// How each traffic class is served.
    pub selection: [Selection; CLASSES],
}

/// Length of its value after organisation and subtype, bytes.
pub(super) const ETS_BYTES: usize = 21;

impl Ets {
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let value = value.first_chunk::<ETS_BYTES>()?;
        let [flags, classes @ ..] = value;
        let (classes, tables) = classes.split_first_chunk::<4>()?;
        let (bandwidth_percent, selection) = tables.split_first_chunk::<CLASSES>()?;
        let selection = selection.first_chunk::<CLASSES>()?;
        let mut class_of = [0; CLASSES];
        for (pair, octet) in class_of.chunks_exact_mut(2).zip(classes) {
            pair.copy_from_slice(&[octet >> 4, octet & 0x0f]);
        }
        Some(Self {
            willing: flags & 0x80 != 0,
            credit_based_shaper: flags & 0x40 != 0,
            // Three bits; 0 means 8.
            max_classes: match flags & 0x07 {
                0 => 8,
                classes => classes,
            },
            class_of,
            bandwidth_percent: *bandwidth_percent,
            selection: selection.map(Selection::from_octet),
        })
    }

    pub(super) fn encode(&self) -> [u8; ETS_BYTES] {
        let mut value = [0; ETS_BYTES];
        value[0] =
            u8::from(self.willing) << 7 | u8::from(self.credit_based_shaper) << 6 | self.max_classes & 0x07;
        for (octet, pair) in value[1..5].iter_mut().zip(self.class_of.chunks_exact(2)) {
            *octet = pair[0] << 4 | pair[1] & 0x0f;
        }
        value[5..13].copy_from_slice(&self.bandwidth_percent);
        value[13..].copy_from_slice(&self.selection.map(Selection::octet));
        value
    }
}

/// Priority-based flow control, as the port has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pfc {
    /// Whether the port takes its neighbour's configuration.
    pub willing: bool,
    /// Whether it can't pause with `MACsec` in between.
    pub macsec_bypass: bool,
    /// How many traffic classes it can pause, 0 to 15 (0: all).
    pub capability: u8,
    /// The priorities that it pauses, bit *n* for priority *n*.
    pub enabled: u8,
}

impl Pfc {
    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let [flags, enabled] = *value.first_chunk::<2>()?;
        Some(Self {
            willing: flags & 0x80 != 0,
            macsec_bypass: flags & 0x40 != 0,
            capability: flags & 0x0f,
            enabled,
        })
    }

    pub(super) fn encode(self) -> [u8; 2] {
        [
            u8::from(self.willing) << 7 | u8::from(self.macsec_bypass) << 6 | self.capability & 0x0f,
            self.enabled,
        ]
    }

    /// Whether a priority is paused.
    pub fn pauses(self, priority: model::Priority) -> bool {
        self.enabled >> priority.get() & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_those_of_the_standard() {
        let ets = Ets {
            willing: false,
            credit_based_shaper: false,
            max_classes: 8,
            class_of: [0, 0, 0, 1, 0, 0, 0, 2],
            bandwidth_percent: [48, 50, 2, 0, 0, 0, 0, 0],
            selection: [Selection::Ets; 8],
        };
        let expected = [0, 0x00, 0x01, 0x00, 0x02, 48, 50, 2, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2];
        assert_eq!(ets.encode(), expected);
        assert_eq!(Ets::decode(&expected), Some(ets));
        assert_eq!(Ets::decode(&expected[..20]), None);
        let pfc = Pfc { willing: false, macsec_bypass: false, capability: 8, enabled: 1 << 3 };
        assert_eq!(pfc.encode(), [0x08, 0x08]);
        assert_eq!(Pfc::decode(&[0x08, 0x08]), Some(pfc));
        assert_eq!(Pfc::decode(&[0x08]), None);
        assert!(pfc.pauses(model::Priority::STORAGE) && !pfc.pauses(model::Priority::HEARTBEAT));
    }

    proptest! {
        #[test]
        fn what_was_read_is_written_back(ets: [u8; ETS_BYTES], pfc: [u8; 2]) {
            let mut ets = ets;
            ets[0] &= 0xc7; // the reserved bits
            prop_assert_eq!(Ets::decode(&ets).unwrap().encode(), ets);
            let pfc = [pfc[0] & 0xcf, pfc[1]];
            prop_assert_eq!(Pfc::decode(&pfc).unwrap().encode(), pfc);
        }
    }
}
