//! What kernel objects are called, so that who looks at a kernel knows what each is for.
//!
//! Purpose: names from ids and back. A name that can't be read back is not ours, and is left alone.
//!
//! | object | name | lives |
//! |---|---|---|
//! | a leg as a local device (dm) | `tr-leg-VOLUME-LEG-EPOCH-INCARNATION` | while it is given out |
//! | an export (NVMe subsystem) | `nqn.2026-01.io.twinrack:CLUSTER:VOLUME-LEG-EPOCH-INCARNATION` | the same |
//! | a host that may use it | `nqn.2026-01.io.twinrack:CLUSTER:node-NODE` | |
//! | the gate to a leg (dm) | `tr-gate-VOLUME-LEG-EPOCH` | as long as the array |
//! | the gate's way to where the leg is given out (dm) | `tr-way-VOLUME-LEG-EPOCH` | as long as the gate; where it leads may change |
//! | an array (md) | `md_trVOLUME_LEDGER_NUMBER`, hexadecimal, since names end at 31 characters | an epoch |
//! | what users open (dm) | `tr-volume-VOLUME` | while users are let in |
//! | a virtual machine's disk, in front of that (dm) | `tr-disk-VOLUME` | as long as its process |
//! | where a thin volume's writes wait for places (dm) | `tr-queue-VOLUME` | the same |
//! | its way to its extents' places (dm) | `tr-route-VOLUME` | the same |
//! | what of it has no place (dm) | `tr-hole-VOLUME`, on `tr-zero-VOLUME` and `tr-deny-VOLUME` | the same |
//!
//! An epoch is `LEDGER.NUMBER`. UUID, NGUID and serial come from the export's name by SHA-256.

use crate::checksum;
use crate::header::ClusterId;
use control::target::{Key, LegOf};
use model::{Epoch, Incarnation, LedgerIncarnation, LegId, NodeId, VolumeId};
use std::fmt;
use std::str::FromStr;

const AUTHORITY: &str = "nqn.2026-01.io.twinrack";

/// A leg under the key that it is given out with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GivenLeg {
    /// Which leg.
    pub leg: LegOf,
    /// Under which key.
    pub key: Key,
}

/// Short, since plans are full of them.
impl fmt::Debug for GivenLeg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for GivenLeg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leg: (volume, leg), key: Key { epoch, incarnation } } = self;
        write!(f, "{}-{}-{epoch}-{}", volume.0, leg.0, incarnation.0)
    }
}

impl FromStr for GivenLeg {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let [volume, leg, epoch, incarnation] = parts(text, '-').ok_or(())?;
        let key = Key {
            epoch: parse_epoch(epoch).ok_or(())?,
            incarnation: Incarnation(number(incarnation).ok_or(())?),
        };
        let leg = LegId(u16::try_from(number(leg).ok_or(())?).map_err(drop)?);
        Ok(Self { leg: (VolumeId(number(volume).ok_or(())?), leg), key })
    }
}

impl GivenLeg {
    /// The local device's name.
    pub fn device(&self) -> String {
        format!("tr-leg-{self}")
    }

    /// Whose device that is.
    pub fn of_device(name: &str) -> Option<Self> {
        name.strip_prefix("tr-leg-")?.parse().ok()
    }

    /// The export's name.
    pub fn subsystem(&self, cluster: ClusterId) -> String {
        format!("{AUTHORITY}:{cluster}:{self}")
    }

    /// Whose export that is, if it is this cluster's.
    pub fn of_subsystem(cluster: ClusterId, name: &str) -> Option<Self> {
        name.strip_prefix(&format!("{AUTHORITY}:{cluster}:"))?.parse().ok()
    }

    /// What tells its namespace from all others, as a UUID of version 8 (RFC 9562: the maker's own).
    pub fn uuid(&self, cluster: ClusterId) -> String {
        let mut bytes = self.digest(cluster);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        hyphenated(&bytes)
    }

    /// The same as 16 bytes of NGUID; nvmet takes it in a UUID's form.
    pub fn nguid(&self, cluster: ClusterId) -> String {
        hyphenated(&self.digest(cluster))
    }

    /// The subsystem's serial number, 20 characters (NVMe: SN).
    pub fn serial(&self, cluster: ClusterId) -> String {
        hex(&self.digest(cluster))[..20].to_owned()
    }

    fn digest(&self, cluster: ClusterId) -> [u8; 16] {
        let sum = checksum::of(self.subsystem(cluster).as_bytes());
        std::array::from_fn(|i| sum[i])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn hyphenated(bytes: &[u8; 16]) -> String {
    let text = hex(bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

/// By which a node is let in as host.
pub fn host(cluster: ClusterId, node: NodeId) -> String {
    format!("{AUTHORITY}:{cluster}:{node}")
}

/// Whose host name that is.
pub fn node_of_host(cluster: ClusterId, name: &str) -> Option<NodeId> {
    number(name.strip_prefix(&format!("{AUTHORITY}:{cluster}:node-"))?).map(NodeId)
}

/// The host id that goes with it: kernels from 6.2 on want one for each host name.
pub fn host_id(cluster: ClusterId, node: NodeId) -> String {
    let sum = checksum::of(host(cluster, node).as_bytes());
    let mut bytes: [u8; 16] = std::array::from_fn(|i| sum[i]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    hyphenated(&bytes)
}

/// Whether a dm device is one of these, by how all their names begin.
pub fn is_device(name: &str) -> bool {
    name.starts_with("tr-")
}

/// The gate to a leg.
pub fn gate((volume, leg): LegOf, epoch: Epoch) -> String {
    format!("tr-gate-{}-{}-{epoch}", volume.0, leg.0)
}

/// Which gate that is.
pub fn of_gate(name: &str) -> Option<(LegOf, Epoch)> {
    let [volume, leg, epoch] = parts(name.strip_prefix("tr-gate-")?, '-')?;
    let leg = LegId(u16::try_from(number(leg)?).ok()?);
    Some(((VolumeId(number(volume)?), leg), parse_epoch(epoch)?))
}

/// A gate's way to where the leg is given out.
pub fn way((volume, leg): LegOf, epoch: Epoch) -> String {
    format!("tr-way-{}-{}-{epoch}", volume.0, leg.0)
}

/// Which gate's way that is.
pub fn of_way(name: &str) -> Option<(LegOf, Epoch)> {
    of_gate(&format!("tr-gate-{}", name.strip_prefix("tr-way-")?))
}

/// A volume's array in an epoch.
pub fn array(volume: VolumeId, epoch: Epoch) -> String {
    format!("md_tr{:x}_{:x}_{:x}", volume.0, epoch.ledger.0, epoch.number)
}

/// Which array that is.
pub fn of_array(name: &str) -> Option<(VolumeId, Epoch)> {
    let [volume, ledger, number] = parts(name.strip_prefix("md_tr")?, '_')?;
    let read = |text: &str| {
        let canonical = (text == "0" || !text.starts_with('0'))
            && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let epoch = Epoch { ledger: LedgerIncarnation(read(ledger)?), number: read(number)? };
    Some((VolumeId(read(volume)?), epoch))
}

/// What users open.
pub fn top(volume: VolumeId) -> String {
    format!("tr-volume-{}", volume.0)
}

/// A virtual machine's disk.
pub fn disk(volume: VolumeId) -> String {
    format!("tr-disk-{}", volume.0)
}

/// Where a thin volume's writes wait for places.
pub fn queue(volume: VolumeId) -> String {
    format!("tr-queue-{}", volume.0)
}

/// A thin volume's way to its extents' places.
pub fn route(volume: VolumeId) -> String {
    format!("tr-route-{}", volume.0)
}

/// What of a thin volume has no place.
pub fn hole(volume: VolumeId) -> String {
    format!("tr-hole-{}", volume.0)
}

/// Where reads of that go.
pub fn zero(volume: VolumeId) -> String {
    format!("tr-zero-{}", volume.0)
}

/// Where writes to that fail.
pub fn deny(volume: VolumeId) -> String {
    format!("tr-deny-{}", volume.0)
}

/// Which volume's it is that users open.
pub fn of_top(name: &str) -> Option<VolumeId> {
    number(name.strip_prefix("tr-volume-")?).map(VolumeId)
}

/// Whose disk it is.
pub fn of_disk(name: &str) -> Option<VolumeId> {
    number(name.strip_prefix("tr-disk-")?).map(VolumeId)
}

/// Which thin volume's way it is.
pub fn of_route(name: &str) -> Option<VolumeId> {
    number(name.strip_prefix("tr-route-")?).map(VolumeId)
}

fn parts<const N: usize>(text: &str, between: char) -> Option<[&str; N]> {
    text.split(between).collect::<Vec<_>>().try_into().ok()
}

fn parse_epoch(text: &str) -> Option<Epoch> {
    let [ledger, count] = parts(text, '.')?;
    Some(Epoch { ledger: LedgerIncarnation(number(ledger)?), number: number(count)? })
}

/// A number as we write it: `+1` and `01` are not.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `DISK_NAME_LEN` of linux/blkdev.h, less the zero at its end.
    const ARRAY_NAME_MAX: usize = 31;
    /// `NVMF_NQN_SIZE`.
    const NQN_MAX: usize = 223;

    prop_compose! {
        fn given()(volume: u32, leg: u16, ledger: u32, number: u32, incarnation: u32) -> GivenLeg {
            let epoch = Epoch { ledger: LedgerIncarnation(ledger), number };
            GivenLeg { leg: (VolumeId(volume), LegId(leg)), key: Key { epoch, incarnation: Incarnation(incarnation) } }
        }
    }

    proptest! {
        #[test]
        fn names_are_read_back_and_fit(given in given(), cluster: u128, node: u32) {
            let (cluster, node, epoch) = (ClusterId(cluster), NodeId(node), given.key.epoch);
            prop_assert_eq!(GivenLeg::of_device(&given.device()), Some(given));
            prop_assert_eq!(GivenLeg::of_subsystem(cluster, &given.subsystem(cluster)), Some(given));
            prop_assert_eq!(GivenLeg::of_subsystem(ClusterId(!cluster.0), &given.subsystem(cluster)), None);
            prop_assert!(given.subsystem(cluster).len() <= NQN_MAX);
            prop_assert_eq!(node_of_host(cluster, &host(cluster, node)), Some(node));
            prop_assert_eq!(of_gate(&gate(given.leg, epoch)), Some((given.leg, epoch)));
            prop_assert_eq!(of_way(&way(given.leg, epoch)), Some((given.leg, epoch)));
            prop_assert_eq!(of_way(&gate(given.leg, epoch)), None);
            let array = array(given.leg.0, epoch);
            prop_assert!(array.len() <= ARRAY_NAME_MAX);
            prop_assert_eq!(of_array(&array), Some((given.leg.0, epoch)));
            prop_assert_eq!(of_top(&top(given.leg.0)), Some(given.leg.0));
            prop_assert_eq!(of_disk(&disk(given.leg.0)), Some(given.leg.0));
        }

        #[test]
        fn no_text_panics_a_reader(text in "(tr-leg-|tr-gate-|tr-way-|md_tr|)[0-9a-f._+-]{0,30}") {
            if let Some(given) = GivenLeg::of_device(&text) {
                prop_assert_eq!(given.device(), text.clone());
            }
            if let Some((leg, epoch)) = of_gate(&text) {
                prop_assert_eq!(gate(leg, epoch), text.clone());
            }
            if let Some((leg, epoch)) = of_way(&text) {
                prop_assert_eq!(way(leg, epoch), text.clone());
            }
            if let Some((volume, epoch)) = of_array(&text) {
                prop_assert_eq!(array(volume, epoch), text);
            }
        }

        #[test]
        fn two_exports_share_nothing(one in given(), other in given()) {
            let cluster = ClusterId(1);
            prop_assume!(one != other);
            prop_assert_ne!(one.uuid(cluster), other.uuid(cluster));
            prop_assert_ne!(one.serial(cluster), other.serial(cluster));
        }
    }

    #[test]
    fn they_look_like_this() {
        let epoch = Epoch { ledger: LedgerIncarnation(1), number: 7 };
        let given =
            GivenLeg { leg: (VolumeId(3), LegId(2)), key: Key { epoch, incarnation: Incarnation(4) } };
        let cluster = ClusterId(0xabc);
        assert_eq!(given.device(), "tr-leg-3-2-1.7-4");
        assert_eq!(
            given.subsystem(cluster),
            "nqn.2026-01.io.twinrack:00000000000000000000000000000abc:3-2-1.7-4"
        );
        assert_eq!(gate(given.leg, epoch), "tr-gate-3-2-1.7");
        assert_eq!(array(VolumeId(30), epoch), "md_tr1e_1_7");
        assert_eq!(given.serial(cluster).len(), 20);
        assert_eq!(given.uuid(cluster).len(), 36);
        assert_eq!(given.uuid(cluster).as_bytes()[14], b'8');
    }
}
