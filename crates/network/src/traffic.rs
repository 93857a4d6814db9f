//! What a link's outgoing traffic is marked with, and how its classes share a NIC.
//!
//! ```text
//!   sockets, softirq, timewait ─► tw-st711 ─ filters (clsact, egress) ─ map of priorities ─► tag with PCP
//!                                                 │ socket buffer's priority
//!                                                 ▼
//!                                    eth2: ETS queue, or the NIC's own ETS and PFC (DCB)
//! ```
//! Why filters: acknowledgements, resets and what is sent for a connection that is closing come from the kernel's own contexts,
//! where no socket's priority holds ([`Marks`] sees every packet, whoever sends it).
//!
//! Invariants: the first rule that matches counts, and the last one matches everything, so that nothing depends on what
//! sockets say. Shares of a NIC add up to 100 percent. A NIC whose driver has ETS of its own has no queue of ours, so that
//! nothing is divided twice.
//!
//! **Not modelled**: filters on the way in, and on links that no plan marks; classes and filters below a queue that somebody
//! set (such a queue counts as another one, and can't be made again: [`Queue::can_be_made`]).

use model::{Priority, Qos};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The port of NVMe/TCP (IANA).
pub const STORAGE_PORT: u16 = 4420;

/// Above this speed, heartbeats get one percent, Mb/s (spec.md).
const HEARTBEAT_SPEED_MBPS: u32 = 10_000;

/// What one percent may send in a round, bytes: a frame of Ethernet's own MTU. A round of all classes is then
/// 151,400 bytes, 121 µs at 10 Gb/s.
const QUANTUM_PER_PERCENT_BYTES: u32 = 1514;

/// Socket buffer priorities that a queue tells apart (`TC_PRIO_MAX` + 1, `uapi/linux/pkt_sched.h`).
pub const QUEUE_PRIORITIES: usize = 16;

/// Traffic classes and priorities of DCB (`IEEE_8021QAZ_MAX_TCS`, `uapi/linux/dcbnl.h`).
pub const DCB_CLASSES: usize = 8;

/// `IEEE_8021QAZ_TSA_ETS`, `uapi/linux/dcbnl.h`.
pub const SELECTION_ETS: u8 = 2;

/// What a kernel has of a link's outgoing traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Its root queueing discipline.
    #[serde(skip_serializing_if = "Queue::is_default")]
    pub queue: Queue,
    /// Its filters on the way out. Seen only on VLAN links of ours.
    #[serde(skip_serializing_if = "Marks::is_none")]
    pub marks: Marks,
    /// What its driver has of DCB; `None`: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dcb: Option<Dcb>,
}

impl Traffic {
    /// Whether nobody has set anything.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a link's outgoing traffic shall have. `None`: as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WantedTraffic {
    /// Its root queueing discipline.
    pub queue: Option<Queue>,
    /// Its filters on the way out.
    pub marks: Option<Marks>,
    /// The NIC's own shares.
    pub dcb_ets: Option<DcbEts>,
    /// Which priorities the NIC may be told to pause.
    pub dcb_pfc: Option<DcbPfc>,
}

/// A link's root queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Queue {
    /// What the kernel gives a link by itself.
    #[default]
    Default,
    /// Classes that share the link.
    Ets(Ets),
    /// Another one that somebody set.
    Other {
        /// The kernel's word.
        kind: String,
        /// Its options, as the kernel reports them.
        options: Vec<u8>,
        /// Whether it has nothing below it that isn't told here.
        whole: bool,
    },
}

impl Queue {
    fn is_default(&self) -> bool {
        *self == Self::Default
    }

    /// Whether it can be made from what is known of it: the kernel takes as options what it reports of these, and they have
    /// no classes (`net/sched/sch_*.c`).
    pub fn can_be_made(&self) -> bool {
        match self {
            Self::Default | Self::Ets(_) => true,
            Self::Other { kind, whole, .. } => {
                *whole && ["bfifo", "codel", "fq", "fq_codel", "pfifo", "pie"].contains(&kind.as_str())
            }
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the kernel's own"),
            Self::Ets(ets) => write!(f, "{ets}"),
            Self::Other { kind, whole: true, .. } => f.write_str(kind),
            Self::Other { kind, .. } => write!(f, "{kind} with something below it"),
        }
    }
}

/// Enhanced transmission selection as a queue (tc-ets(8)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ets {
    /// How many bands come strictly before the others.
    pub strict: u8,
    /// What each other band may send in a round, bytes.
    pub quanta_bytes: Vec<u32>,
    /// The band of each socket buffer priority.
    pub bands: [u8; QUEUE_PRIORITIES],
}

impl fmt::Display for Ets {
    /// `ETS 48:50:2, bands 0001000200000000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.quanta_bytes.iter().map(|quantum| u64::from(*quantum)).sum();
        let percent = |quantum: &u32| (u64::from(*quantum) * 100 / total.max(1)).to_string();
        let strict = (0..self.strict).map(|_| "strict".to_owned());
        let shares: Vec<String> = strict.chain(self.quanta_bytes.iter().map(percent)).collect();
        let bands: Vec<String> = self.bands.iter().map(ToString::to_string).collect();
        write!(f, "ETS {}, bands {}", shares.join(":"), bands.concat())
    }
}

/// How classes of traffic share a NIC that carries storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Percent of the bandwidth by priority; all other priorities have the share of 0. Together 100.
    pub percent: BTreeMap<Priority, u8>,
    /// The priority that is paused rather than lost, where a NIC can.
    pub lossless: Priority,
}

impl Shares {
    /// What spec.md asks for on a NIC of this speed; `None`: nobody knows.
    pub fn of(qos: Qos, speed_mbps: Option<u32>) -> Self {
        let heartbeat = if speed_mbps.is_some_and(|speed| speed > HEARTBEAT_SPEED_MBPS) { 1 } else { 2 };
        let storage = qos.storage_bandwidth_percent.min(99 - heartbeat);
        let mut percent = BTreeMap::from([(Priority::DEFAULT, 100 - storage - heartbeat)]);
        *percent.entry(qos.storage_priority).or_default() += storage;
        *percent.entry(qos.heartbeat_priority).or_default() += heartbeat;
        Self { percent, lossless: qos.storage_priority }
    }

    /// How many classes that are.
    pub fn classes(&self) -> usize {
        self.percent.len()
    }

    /// The class of a priority: classes are numbered in the order of their priorities.
    fn class_of(&self, priority: u8) -> u8 {
        let own = self.percent.keys().zip(0u8..).find(|(of, _)| of.get() == priority);
        own.map_or(0, |(_, class)| class)
    }

    /// As a queue.
    pub fn ets(&self) -> Ets {
        let quantum = |percent: &u8| u32::from(*percent) * QUANTUM_PER_PERCENT_BYTES;
        let mut bands = [0; QUEUE_PRIORITIES];
        for (band, priority) in bands.iter_mut().zip(0..) {
            *band = self.class_of(priority);
        }
        Ets { strict: 0, quanta_bytes: self.percent.values().map(quantum).collect(), bands }
    }

    /// As a NIC's own ETS, on top of what it has now.
    pub fn dcb_ets(&self, now: &DcbEts) -> DcbEts {
        let mut ets = DcbEts {
            willing: false,
            transmit_percent: [0; DCB_CLASSES],
            selection: [0; DCB_CLASSES],
            ..now.clone()
        };
        for ((transmit, selection), percent) in
            ets.transmit_percent.iter_mut().zip(&mut ets.selection).zip(self.percent.values())
        {
            (*transmit, *selection) = (*percent, SELECTION_ETS);
        }
        for (class, priority) in ets.class_of.iter_mut().zip(0..) {
            *class = self.class_of(priority);
        }
        ets
    }

    /// As a NIC's priority flow control, on top of what it has now.
    pub fn dcb_pfc(&self, now: DcbPfc) -> DcbPfc {
        DcbPfc { enabled: 1 << self.lossless.get(), ..now }
    }
}

/// The filters of a link's way out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Marks {
    /// No place for filters (no `clsact`).
    #[default]
    None,
    /// Filters by preference: the lowest number is asked first.
    Filters(BTreeMap<u16, Filter>),
}

impl Marks {
    fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Rules in this order.
    pub fn of(rules: &[MarkRule]) -> Self {
        Self::Filters((1..).zip(rules.iter().map(|rule| Filter::Mark(*rule))).collect())
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Filters(filters) = self else { return f.write_str("none") };
        let filters: Vec<String> =
            filters.iter().map(|(preference, filter)| format!("{preference} {filter}")).collect();
        write!(f, "[{}]", filters.join(", "))
    }
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// One that twinrack sets.
    Mark(MarkRule),
    /// Another, by the kernel's word. It can't be made again.
    Other(String),
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(rule) => write!(f, "{rule}"),
            Self::Other(kind) => write!(f, "another {kind} filter"),
        }
    }
}

/// What gets which priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRule {
    /// Which packets.
    pub of: Packets,
    /// Their priority.
    pub priority: Priority,
}

impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.of, self.priority)
    }
}

/// Some of a link's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packets {
    /// TCP over IPv4 to this port.
    TcpTo(u16),
    /// TCP over IPv4 from this port.
    TcpFrom(u16),
    /// UDP over IPv4 to this port.
    UdpTo(u16),
    /// Everything, whatever it is.
    All,
}

impl fmt::Display for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpTo(port) => write!(f, "TCP to {port}"),
            Self::TcpFrom(port) => write!(f, "TCP from {port}"),
            Self::UdpTo(port) => write!(f, "UDP to {port}"),
            Self::All => f.write_str("the rest"),
        }
    }
}

/// What a NIC's driver has of data centre bridging.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dcb {
    /// Shares of its traffic classes.
    pub ets: Option<DcbEts>,
    /// Priorities that may be paused.
    pub pfc: Option<DcbPfc>,
}

impl Dcb {
    /// The NIC's own ETS, if it has so many classes.
    pub fn ets_of(&self, classes: usize) -> Option<&DcbEts> {
        self.ets.as_ref().filter(|ets| usize::from(ets.classes) >= classes)
    }
}

/// A NIC's own ETS (`struct ieee_ets`, `uapi/linux/dcbnl.h`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DcbEts {
    /// Whether it takes over what its neighbour recommends.
    pub willing: bool,
    /// How many traffic classes it can tell apart.
    pub classes: u8,
    /// Whether it has the credit-based shaper.
    pub credit_based_shaper: bool,
    /// Percent of the bandwidth by class.
    pub transmit_percent: [u8; DCB_CLASSES],
    /// The same on the way in.
    pub receive_percent: [u8; DCB_CLASSES],
    /// How each class is selected (`IEEE_8021QAZ_TSA_*`).
    pub selection: [u8; DCB_CLASSES],
    /// The class of each priority.
    pub class_of: [u8; DCB_CLASSES],
    /// What it recommends to its neighbour: percent by class.
    pub recommended_percent: [u8; DCB_CLASSES],
    /// How classes should be selected there.
    pub recommended_selection: [u8; DCB_CLASSES],
    /// The class of each priority there.
    pub recommended_class_of: [u8; DCB_CLASSES],
}

impl fmt::Display for DcbEts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |numbers: &[u8], with: &str| {
            numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(with)
        };
        write!(
            f,
            "{} selected by {}, classes {}{}",
            join(&self.transmit_percent, ":"),
            join(&self.selection, ""),
            join(&self.class_of, ""),
            if self.willing { ", willing" } else { "" }
        )
    }
}

/// A NIC's priority flow control (`struct ieee_pfc`, `uapi/linux/dcbnl.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DcbPfc {
    /// How many traffic classes can have it.
    pub classes: u8,
    /// The priorities that have it, one bit each.
    pub enabled: u8,
    /// Whether it can bypass `MACsec`.
    pub macsec_bypass: bool,
    /// How long a pause takes to arrive, bits.
    pub delay_bits: u16,
}

impl fmt::Display for DcbPfc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<String> =
            (0..8u8).filter(|bit| self.enabled >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
        if on.is_empty() { f.write_str("nothing") } else { f.write_str(&on.join(", ")) }
    }
}

/// What a storage link marks: storage both ways, hellos, and the rest.
pub fn mark_rules(qos: Qos) -> Vec<MarkRule> {
    let rule = |of, priority| MarkRule { of, priority };
    vec![
        rule(Packets::TcpTo(STORAGE_PORT), qos.storage_priority),
        rule(Packets::TcpFrom(STORAGE_PORT), qos.storage_priority),
        rule(Packets::UdpTo(crate::probe::HELLO_PORT), qos.heartbeat_priority),
        rule(Packets::All, Priority::DEFAULT),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(speed_mbps: Option<u32>) -> Shares {
        Shares::of(Qos::default(), speed_mbps)
    }

    #[test]
    fn half_is_for_storage_and_heartbeats_have_two_percent_up_to_ten_gigabits() {
        let percent = |speed| shares(speed).percent.into_values().collect::<Vec<_>>();
        assert_eq!(percent(None), [48, 50, 2]);
        assert_eq!(percent(Some(10_000)), [48, 50, 2]);
        assert_eq!(percent(Some(25_000)), [49, 50, 1]);
    }

    #[test]
    fn shares_are_never_more_than_all_and_never_nothing() {
        for storage in [0, 50, 98, 100] {
            for (own, heart) in [(3, 7), (0, 0), (5, 5), (0, 7)] {
                let priority = |level: u64| Priority::try_from(level).unwrap();
                let qos = Qos {
                    storage_priority: priority(own),
                    heartbeat_priority: priority(heart),
                    storage_bandwidth_percent: storage,
                };
                let shares = Shares::of(qos, None);
                assert_eq!(shares.percent.values().map(|percent| u32::from(*percent)).sum::<u32>(), 100);
                assert!(shares.percent[&Priority::DEFAULT] > 0);
            }
        }
    }

    #[test]
    fn a_queue_has_a_band_for_each_priority() {
        let ets = shares(None).ets();
        assert_eq!(ets.to_string(), "ETS 48:50:2, bands 0001000200000000");
        assert_eq!(ets.quanta_bytes, [48 * 1514, 50 * 1514, 2 * 1514]);
    }

    #[test]
    fn a_nic_with_dcb_keeps_what_is_not_asked_for() {
        let now = DcbEts {
            willing: true,
            classes: 8,
            credit_based_shaper: true,
            transmit_percent: [0; 8],
            receive_percent: [9; 8],
            selection: [255; 8],
            class_of: [0, 1, 2, 3, 4, 5, 6, 7],
            recommended_percent: [1; 8],
            recommended_selection: [2; 8],
            recommended_class_of: [3; 8],
        };
        let ets = shares(Some(25_000)).dcb_ets(&now);
        assert_eq!(ets.to_string(), "49:50:1:0:0:0:0:0 selected by 22200000, classes 00010002");
        assert_eq!((ets.receive_percent, ets.recommended_class_of), ([9; 8], [3; 8]));
        let pfc = DcbPfc { classes: 8, enabled: 0xff, macsec_bypass: true, delay_bits: 7 };
        assert_eq!(shares(None).dcb_pfc(pfc), DcbPfc { enabled: 8, ..pfc });
        let dcb = Dcb { ets: Some(DcbEts { classes: 2, ..now }), pfc: None };
        assert!(dcb.ets_of(2).is_some() && dcb.ets_of(3).is_none());
    }

    #[test]
    fn a_queue_that_the_kernel_does_not_tell_all_of_can_not_be_made() {
        let other = |kind: &str, whole| Queue::Other { kind: kind.to_owned(), options: Vec::new(), whole };
        assert!(other("fq_codel", true).can_be_made());
        assert!(!other("fq_codel", false).can_be_made());
        assert!(!other("htb", true).can_be_made());
    }
}
