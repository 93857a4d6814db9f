//! A virtual machine as the ledger knows it.

use crate::{GroupName, InvalidValue, MacAddress, VlanId, VmId, VmName, VolumeId, ZoneName};
use serde::{Deserialize, Serialize};

/// Where a virtual machine may run. That a strict one has a home zone is in the type: one that never leaves "its zone" must have one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmPlacement {
    /// No home zone: where there is room. It stays where it is, and goes home nowhere.
    Anywhere,
    /// Non-strict: prefers this zone, fails over to the other one, and goes home.
    Prefers(ZoneName),
    /// Never leaves this zone.
    Strict(ZoneName),
}

impl VmPlacement {
    /// The home zone.
    pub const fn home(&self) -> Option<&ZoneName> {
        match self {
            Self::Anywhere => None,
            Self::Prefers(zone) | Self::Strict(zone) => Some(zone),
        }
    }

    /// Whether it may never run outside its home zone.
    pub const fn is_strict(&self) -> bool {
        matches!(self, Self::Strict(_))
    }
}

/// What a virtual machine was asked to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmSpec {
    /// Its name.
    pub name: VmName,
    /// Its memory, bytes: all of it is held as long as it runs.
    pub memory_bytes: u64,
    /// Its virtual processors.
    pub cores: u32,
    /// Where it may run.
    pub placement: VmPlacement,
    /// Those of one group are kept apart: in both racks where their homes leave the choice, and on different nodes.
    pub anti_affinity: Option<GroupName>,
    /// Its volumes: its disks, in order, and the one that its memory is saved on. No other virtual machine has any of them.
    pub volumes: Vec<VolumeId>,
    /// Which of them its memory is saved on: no disk of its. Without one it can't be saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saves_to: Option<VolumeId>,
    /// Its NICs, in order; at most [`VmNic::MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<VmNic>,
}

impl VmSpec {
    /// Its disks, in order: it boots from the first.
    pub fn disks(&self) -> impl Iterator<Item = VolumeId> {
        self.volumes.iter().copied().filter(|volume| self.saves_to != Some(*volume))
    }

    /// What a volume must have, bytes, for the memory of one with so much to be saved on it: what is sent is each page with a few bytes around it, what its board has in ROM and its
    /// devices' state; and there is a header.
    pub const fn saved_bytes_max(memory_bytes: u64) -> u64 {
        const REST: u64 = 32 << 20;
        (memory_bytes + memory_bytes / 64).next_multiple_of(1 << 20) + REST
    }
}

/// A NIC of a virtual machine: a port of the compute bridge of whichever node it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VmNic {
    /// The VLAN that it is in. Its frames have no tag inside the virtual machine.
    pub vlan: VlanId,
}

impl VmNic {
    /// The most that one virtual machine may have.
    pub const MAX: usize = 8;
}

/// Which of the locally administered MAC addresses a cluster's virtual machines have: one range of 16,128, drawn from the cluster's id, so that two
/// clusters in one VLAN hardly ever share one. Within a range an address is one NIC's alone, and the same one wherever it runs.
///
/// | byte | what |
/// |---|---|
/// | 0 | 2 (locally administered, nobody's group) and, from bit 2 on, the range's upper part, 0 to 62: never `fe`, which is for the nodes' ends of NICs |
/// | 1 | the range's lower part, exclusive-or the uppermost byte of the virtual machine's number |
/// | 2 to 4 | the rest of that number |
/// | 5 | the NIC's number, from 0 |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct MacRange(u16);

impl MacRange {
    /// How many there are.
    pub const COUNT: u16 = 63 << 8;

    /// Of the cluster with this id.
    pub const fn of_cluster(id: u128) -> Self {
        // Less than the divisor, which has 16 bits.
        Self((id % Self::COUNT as u128) as u16)
    }

    /// The address of a NIC.
    pub const fn of_nic(self, vm: VmId, nic: u8) -> MacAddress {
        let ([upper, lower], [a, b, c, d]) = (self.0.to_be_bytes(), vm.0.to_be_bytes());
        MacAddress([0x02 | upper << 2, lower ^ a, b, c, d, nic])
    }
}

impl TryFrom<u16> for MacRange {
    type Error = InvalidValue;

    fn try_from(value: u16) -> Result<Self, InvalidValue> {
        let (what, expected) = ("range of MAC addresses", "0 to 16127");
        let invalid = || InvalidValue { what, value: value.to_string(), expected };
        (value < Self::COUNT).then_some(Self(value)).ok_or_else(invalid)
    }
}

impl From<MacRange> for u16 {
    fn from(range: MacRange) -> Self {
        range.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = MacRange> {
        (0..MacRange::COUNT).prop_map(MacRange)
    }

    #[test]
    fn an_address_says_whose_it_is() {
        let mac = MacRange::of_cluster(0).of_nic(VmId(7), 1);
        assert_eq!(mac.to_string(), "02:00:00:00:07:01");
        let last = MacRange::of_cluster(u128::from(MacRange::COUNT) - 1);
        assert_eq!(last.of_nic(VmId(0x0102_0304), 0).to_string(), "fa:fe:02:03:04:00");
        assert_eq!(MacRange::of_cluster(MacRange::COUNT.into()), MacRange::of_cluster(0));
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        assert!(MacRange::try_from(MacRange::COUNT).is_err());
        assert!(serde_json::from_str::<MacRange>("16127").is_ok());
        assert!(serde_json::from_str::<MacRange>("16128").is_err());
    }

    #[test]
    fn a_machine_that_was_written_before_there_were_nics_has_none() {
        let old = r#"{"name":"a","memory_bytes":1,"cores":1,"placement":"anywhere","anti_affinity":null,"volumes":[]}"#;
        let spec: VmSpec = serde_json::from_str(old).unwrap();
        assert_eq!(spec.nics, []);
        assert_eq!(serde_json::to_string(&spec).unwrap(), old);
    }

    #[test]
    fn what_a_memory_is_saved_on_is_no_disk() {
        let json = r#"{"name":"a","memory_bytes":1,"cores":1,"placement":"anywhere","anti_affinity":null,"volumes":[3,1,2],"saves_to":1}"#;
        let spec: VmSpec = serde_json::from_str(json).unwrap();
        assert_eq!(spec.disks().collect::<Vec<_>>(), [VolumeId(3), VolumeId(2)]);
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
    }

    #[test]
    fn a_volume_for_a_memory_has_more_than_its_pages() {
        for mib in [1, 16, 1000, 1 << 20] {
            let (memory, volume) = (mib << 20, VmSpec::saved_bytes_max(mib << 20));
            assert!(volume > memory + memory / 100 && volume.is_multiple_of(4096), "{mib}");
        }
    }

    proptest! {
        #[test]
        fn addresses_are_locally_administered_and_of_one_nic_each(
            range in range(), one: (u32, u8), other: (u32, u8),
        ) {
            let mac = |(vm, nic)| range.of_nic(VmId(vm), nic);
            let MacAddress(bytes) = mac(one);
            prop_assert_eq!(bytes[0] & 3, 2);
            prop_assert_ne!(bytes[0], 0xfe);
            prop_assert_eq!(mac(one) == mac(other), one == other);
        }

        #[test]
        fn clusters_of_different_ranges_share_no_address_of_small_numbers(
            one in range(), other in range(), a in 0u32..1 << 24, b in 0u32..1 << 24, nic: u8,
        ) {
            prop_assert!(one == other || one.of_nic(VmId(a), nic) != other.of_nic(VmId(b), nic));
        }
    }
}
