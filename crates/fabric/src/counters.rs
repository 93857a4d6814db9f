//! What went over each cable, each way, and what did not.
//!
//! A frame is counted on every cable it crosses, by VLAN and priority. The VLAN is the one that the frame belongs to in
//! the sending switch (or, from a NIC, in the receiving one), whether or not it carries a tag on that cable; so an
//! untagged frame counts in the native VLAN, with priority 0. Bytes are those on the wire, tag included, check sequence
//! not.
//!
//! What is put on a cable is also counted by what it is about ([`Kind`]), whether it arrives or not: so no frame of a kind that
//! has the wrong priority can hide.

use crate::ids::LinkId;
use crate::kind::Kind;
use model::{Priority, VlanId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All counters at one moment. They start at zero with the fabric and only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Microseconds since the fabric started, on a clock that never goes back.
    pub at_us: u64,
    /// Every cable, in the topology's order.
    pub links: Vec<LinkCounters>,
}

/// One cable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkCounters {
    /// Its name.
    pub link: LinkId,
    /// Frames from end a to end b.
    pub a_to_b: DirectionCounters,
    /// Frames from end b to end a.
    pub b_to_a: DirectionCounters,
}

/// One way over a cable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectionCounters {
    /// Frames that arrived and were taken, by VLAN and priority; only those that are not zero.
    pub carried: Vec<ClassCount>,
    /// Frames that were lost on the way, by reason and VLAN; only those that are not zero.
    pub dropped: Vec<DropCount>,
    /// LLDP and other frames that no bridge forwards.
    pub link_local: Count,
    /// Frames, arrived or not, from or to addresses that the topology keeps off this cable.
    #[serde(default)]
    pub trespassing: Count,
    /// Frames, arrived or not, by VLAN, priority and what they are about; only those that are not zero.
    #[serde(default)]
    pub sent: Vec<KindCount>,
    /// Packets to addresses whose home is another VLAN, and ARP packets whose sender is such an address. Arrived or not.
    #[serde(default)]
    pub astray: Count,
    /// ARP questions for addresses whose home is another VLAN, from addresses that are at home or have none. Arrived or not.
    #[serde(default)]
    pub asked_astray: Count,
}

/// Frames of one VLAN, priority and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KindCount {
    /// Their VLAN; `None` if they belong to none that a port carries.
    pub vlan: Option<VlanId>,
    /// Their priority code point.
    pub pcp: Priority,
    /// What they are about.
    pub kind: Kind,
    /// How many.
    pub frames: u64,
}

/// Frames and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// How many.
    pub frames: u64,
    /// How long together.
    pub bytes: u64,
}

impl Count {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

/// Frames of one VLAN and priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassCount {
    /// Their VLAN.
    pub vlan: VlanId,
    /// Their priority code point.
    pub pcp: Priority,
    /// How many.
    pub count: Count,
}

/// Frames lost for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropCount {
    /// Why.
    pub reason: DropReason,
    /// Their VLAN; `None` if they belong to none (untagged at a port without a native VLAN, or not readable).
    pub vlan: Option<VlanId>,
    /// How many.
    pub count: Count,
}

/// Why a frame was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// The cable is cut in this direction.
    Cut,
    /// The switch that should receive it is down.
    SwitchDown,
    /// No Ethernet header, a tag that ends too early, or a group as source address.
    Malformed,
    /// The port that receives it doesn't carry its VLAN.
    VlanNotCarried,
    /// Its VLAN is a black hole.
    VlanSuspended,
    /// Longer than the sending or the receiving port takes.
    Oversize,
    /// It went through more switches than a sane network has.
    TooManyHops,
    /// Its port channel has no working member here; or, when it arrived, the member that it came over had left the channel.
    ChannelDown,
    /// Lost on a cable that loses frames.
    Loss,
    /// Too much waits already for a cable's rate, or on all shaped cables together.
    QueueFull,
    /// No QEMU is connected to the NIC that should receive it.
    NoSocket,
    /// The NIC that should receive it reads too slowly.
    Backpressure,
}

impl DirectionCounters {
    /// Frames of a VLAN that arrived.
    pub fn carried_frames(&self, vlan: VlanId) -> u64 {
        self.carried.iter().filter(|class| class.vlan == vlan).map(|class| class.count.frames).sum()
    }

    /// Frames of a VLAN that were sent this way, whether they arrived or not.
    pub fn sent_frames(&self, vlan: VlanId) -> u64 {
        let dropped = self.dropped.iter().filter(|drop| drop.vlan == Some(vlan));
        self.carried_frames(vlan) + dropped.map(|drop| drop.count.frames).sum::<u64>()
    }

    /// Frames lost for a reason.
    pub fn dropped_frames(&self, reason: DropReason) -> u64 {
        self.dropped.iter().filter(|drop| drop.reason == reason).map(|drop| drop.count.frames).sum()
    }
}

impl Snapshot {
    /// The counters of a cable.
    pub fn link(&self, link: &LinkId) -> Option<&LinkCounters> {
        self.links.iter().find(|counters| counters.link == *link)
    }
}

impl LinkCounters {
    /// Both ways over the cable.
    pub fn ways(&self) -> impl Iterator<Item = &DirectionCounters> {
        [&self.a_to_b, &self.b_to_a].into_iter()
    }

    /// Frames of a VLAN that were put on this cable from either end, also those that the other end refused. For storage
    /// VLANs and a spine's cables this must stay zero.
    pub fn sent_frames(&self, vlan: VlanId) -> u64 {
        self.a_to_b.sent_frames(vlan) + self.b_to_a.sent_frames(vlan)
    }
}

/// A place in every direction's counters for each VLAN that any port carries.
#[derive(Debug)]
pub(crate) struct VlanSlots {
    vlans: Vec<VlanId>,
    slot_of: BTreeMap<u16, usize>,
}

impl VlanSlots {
    pub(crate) fn new(vlans: impl Iterator<Item = VlanId>) -> Self {
        let mut vlans: Vec<VlanId> = vlans.collect();
        vlans.sort_unstable();
        vlans.dedup();
        let slot_of = vlans.iter().enumerate().map(|(slot, vlan)| (vlan.get(), slot)).collect();
        Self { vlans, slot_of }
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            carried: vec![[Count::default(); 8]; self.vlans.len()],
            sent: vec![[[0; Kind::ALL.len()]; 8]; self.vlans.len() + 1],
            ..Tally::default()
        }
    }
}

/// One direction's counters as they are kept: cheap to add to. Bounded, because VLAN ids and reasons are.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    carried: Vec<[Count; 8]>,
    dropped: BTreeMap<(DropReason, Option<u16>), Count>,
    pub(crate) link_local: Count,
    pub(crate) trespassing: Count,
    /// By VLAN, priority and kind; the last VLAN is none.
    sent: Vec<[[u64; Kind::ALL.len()]; 8]>,
    pub(crate) astray: Count,
    pub(crate) asked_astray: Count,
}

impl Tally {
    pub(crate) fn send(&mut self, slots: &VlanSlots, vlan: Option<u16>, pcp: u8, kind: Kind) {
        let slot = vlan.and_then(|vlan| slots.slot_of.get(&vlan)).copied().unwrap_or(slots.vlans.len());
        let class = self.sent.get_mut(slot).and_then(|classes| classes.get_mut(usize::from(pcp)));
        if let Some(frames) = class.and_then(|kinds| kinds.get_mut(kind as usize)) {
            *frames += 1;
        }
    }

    fn sent(&self, slots: &VlanSlots) -> Vec<KindCount> {
        let vlans = slots.vlans.iter().copied().map(Some).chain([None]);
        let of_vlan = |(vlan, classes): (Option<VlanId>, &[[u64; Kind::ALL.len()]; 8])| {
            let of_class = |(pcp, kinds): (u64, &[u64; Kind::ALL.len()])| {
                let pcp = Priority::try_from(pcp).ok();
                let counted = Kind::ALL.into_iter().zip(*kinds).filter(|(_, frames)| *frames > 0);
                let count = |(kind, frames)| pcp.map(|pcp| KindCount { vlan, pcp, kind, frames });
                counted.filter_map(count).collect::<Vec<_>>()
            };
            (0u64..).zip(classes).flat_map(of_class).collect::<Vec<_>>()
        };
        vlans.zip(&self.sent).flat_map(of_vlan).collect()
    }

    pub(crate) fn carry(&mut self, slots: &VlanSlots, vlan: Option<u16>, pcp: u8, bytes: usize) {
        let class =
            vlan.and_then(|vlan| slots.slot_of.get(&vlan)).and_then(|slot| self.carried.get_mut(*slot));
        if let Some(count) = class.and_then(|classes| classes.get_mut(usize::from(pcp))) {
            count.add(bytes);
        }
    }

    pub(crate) fn lose(&mut self, reason: DropReason, vlan: Option<u16>, bytes: usize) {
        self.dropped.entry((reason, vlan)).or_default().add(bytes);
    }

    pub(crate) fn snapshot(&self, slots: &VlanSlots) -> DirectionCounters {
        let classes = slots.vlans.iter().zip(&self.carried).flat_map(|(vlan, classes)| {
            (0u64..).zip(classes).filter_map(|(pcp, count)| {
                let pcp = Priority::try_from(pcp).ok()?;
                (count.frames > 0).then_some(ClassCount { vlan: *vlan, pcp, count: *count })
            })
        });
        let dropped = self.dropped.iter().map(|((reason, vlan), count)| DropCount {
            reason: *reason,
            vlan: vlan.and_then(|vlan| VlanId::try_from(u64::from(vlan)).ok()),
            count: *count,
        });
        DirectionCounters {
            carried: classes.collect(),
            dropped: dropped.collect(),
            link_local: self.link_local,
            trespassing: self.trespassing,
            sent: self.sent(slots),
            astray: self.astray,
            asked_astray: self.asked_astray,
        }
    }
}
