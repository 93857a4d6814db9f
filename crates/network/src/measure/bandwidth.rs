//! Whether the way between the rooms is as wide as the rule says.
//!
//! The rule (spec.md): inter-room bandwidth = nodes per zone × storage ports per node × NIC speed, a 1:1 ratio with what the
//! rack's storage can take. In both directions, as links are full duplex.
//!
//! What cables and switches can carry is not announced by anybody. So the NICs' speeds are checked, the sum is said, and what all
//! ways between the rooms carried at once, by measurement, is held against it: below [`CARRIED_MIN_PERCENT`] is
//! worth a warning. That much is lost on no healthy network: headers take 5 % of 1500-byte packets.

use super::Machines;
use model::{AdapterName, ClusterSpec, Intent, NodeName, Severity, rules};
use std::collections::BTreeSet;
use std::fmt;

/// The slowest storage NIC, Mb/s.
pub const NIC_MIN_MBPS: u32 = 10_000;
/// The slowest storage NIC that is recommended, Mb/s.
pub const NIC_RECOMMENDED_MBPS: u32 = 25_000;
/// How much of the rule's sum must have been carried, percent.
pub const CARRIED_MIN_PERCENT: u64 = 80;

/// A NIC that carries storage, and its speed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageNic {
    /// Whose.
    pub node: NodeName,
    /// Which.
    pub adapter: AdapterName,
    /// What it says of its speed, Mb/s; `None`: nothing.
    pub speed_mbps: Option<u32>,
}

/// What the rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Nodes per zone.
    pub nodes_per_zone: u32,
    /// Storage ports per node that carry at a time.
    pub ports_per_node: u32,
    /// The slowest of their speeds, Mb/s; `None`: one or more didn't say.
    pub nic_mbps: Option<u32>,
}

impl Rule {
    /// What it asks of a cluster with these NICs.
    pub fn of(spec: &ClusterSpec, nics: &[StorageNic]) -> Self {
        let adapters: BTreeSet<&AdapterName> =
            spec.storage_networks.iter().map(|network| &network.adapter).collect();
        // A team carries by one of its ports at a time.
        let is_converged = spec.intents.iter().any(Intent::is_converged_storage);
        let ports = if is_converged { 1 } else { adapters.len() };
        let speeds: Option<Vec<u32>> = nics.iter().map(|nic| nic.speed_mbps).collect();
        Self {
            nodes_per_zone: count(spec.zones[0].nodes.len()),
            ports_per_node: count(ports),
            nic_mbps: speeds.and_then(|speeds| speeds.into_iter().min()),
        }
    }

    /// The bandwidth between the rooms, Mb/s each way.
    pub fn inter_room_mbps(self) -> Option<u64> {
        let ports = u64::from(self.nodes_per_zone) * u64::from(self.ports_per_node);
        self.nic_mbps.map(|mbps| ports * u64::from(mbps))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes_per_zone, ports_per_node, nic_mbps } = self;
        write!(f, "{nodes_per_zone} nodes a room × {ports_per_node} storage ports × ")?;
        match (nic_mbps, self.inter_room_mbps()) {
            (Some(nic), Some(sum)) => write!(f, "{} = {}", Gbps(u64::from(*nic)), Gbps(sum)),
            _ => f.write_str("a speed that NICs don't tell"),
        }
    }
}

/// Mb/s, in Gb/s.
struct Gbps(u64);

impl fmt::Display for Gbps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 { write!(f, "{whole} Gb/s") } else { write!(f, "{whole}.{rest:03} Gb/s") }
    }
}

/// What all ways from one room to the other carried at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// From which zone.
    pub from_zone: String,
    /// To which.
    pub to_zone: String,
    /// Payload, bits per second.
    pub bits_per_s: u64,
}

/// Something about the bandwidth that is worth saying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A storage NIC is slower than the rules allow.
    NicTooSlow(StorageNic),
    /// A storage NIC is slower than recommended.
    NicBelowRecommended(StorageNic),
    /// A storage NIC doesn't say how fast it is.
    NicSpeedUnknown(StorageNic),
    /// Storage NICs of different speeds: the slowest is what counts.
    NicSpeedsDiffer {
        /// The slowest.
        slowest: StorageNic,
        /// The fastest.
        fastest: StorageNic,
    },
    /// From one room to the other less was carried than the rule asks for.
    RoomsTooSlow {
        /// What was carried.
        carried: Carried,
        /// What the rule asks for, Mb/s.
        asked_mbps: u64,
    },
}

impl Finding {
    /// Its rule.
    pub fn rule(&self) -> &'static rules::Rule {
        match self {
            Self::NicTooSlow(_) => rules::NIC_TOO_SLOW,
            Self::NicBelowRecommended(_) => rules::NIC_BELOW_RECOMMENDED,
            Self::NicSpeedUnknown(_) => rules::NIC_SPEED_UNKNOWN,
            Self::NicSpeedsDiffer { .. } => rules::STORAGE_NIC_SPEEDS_DIFFER,
            Self::RoomsTooSlow { .. } => rules::ROOMS_TOO_SLOW,
        }
    }

    /// Its rule's stable id.
    pub fn id(&self) -> &'static str {
        self.rule().id.0
    }

    /// How bad it is. On emulated machines nothing of it is.
    pub fn severity(&self, machines: Machines) -> Severity {
        match machines {
            Machines::Emulated => Severity::Note,
            Machines::Real => self.rule().severity,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speed = |nic: &StorageNic| Gbps(u64::from(nic.speed_mbps.unwrap_or_default()));
        match self {
            Self::NicTooSlow(nic) => write!(
                f,
                "{} {} has {}; storage needs {}",
                nic.node,
                nic.adapter,
                speed(nic),
                Gbps(u64::from(NIC_MIN_MBPS))
            ),
            Self::NicBelowRecommended(nic) => write!(
                f,
                "{} {} has {}; {} are recommended for storage",
                nic.node,
                nic.adapter,
                speed(nic),
                Gbps(u64::from(NIC_RECOMMENDED_MBPS))
            ),
            Self::NicSpeedUnknown(nic) => write!(f, "{} {} doesn't tell its speed", nic.node, nic.adapter),
            Self::NicSpeedsDiffer { slowest, fastest } => write!(
                f,
                "{} {} has {}, {} {} has {}: all storage NICs need the same",
                slowest.node,
                slowest.adapter,
                speed(slowest),
                fastest.node,
                fastest.adapter,
                speed(fastest)
            ),
            Self::RoomsTooSlow { carried, asked_mbps } => write!(
                f,
                "from {} to {} {} were carried, and the rule asks for {}",
                carried.from_zone,
                carried.to_zone,
                Gbps(carried.bits_per_s / 1_000_000),
                Gbps(*asked_mbps)
            ),
        }
    }
}

/// All that there is to say; `carried` each way.
pub fn check(rule: Rule, nics: &[StorageNic], carried: &[Carried]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = nics
        .iter()
        .filter_map(|nic| match nic.speed_mbps {
            None => Some(Finding::NicSpeedUnknown(nic.clone())),
            Some(mbps) if mbps < NIC_MIN_MBPS => Some(Finding::NicTooSlow(nic.clone())),
            Some(mbps) if mbps < NIC_RECOMMENDED_MBPS => Some(Finding::NicBelowRecommended(nic.clone())),
            Some(_) => None,
        })
        .collect();
    let known = || nics.iter().filter(|nic| nic.speed_mbps.is_some());
    let by_speed = |nic: &&StorageNic| nic.speed_mbps;
    if let (Some(slowest), Some(fastest)) = (known().min_by_key(by_speed), known().max_by_key(by_speed))
        && slowest.speed_mbps != fastest.speed_mbps
    {
        findings.push(Finding::NicSpeedsDiffer { slowest: slowest.clone(), fastest: fastest.clone() });
    }
    if let Some(asked_mbps) = rule.inter_room_mbps() {
        let asked_bits_per_s = u128::from(asked_mbps) * 1_000_000;
        let is_short = |carried: &&Carried| {
            u128::from(carried.bits_per_s) * 100 < asked_bits_per_s * u128::from(CARRIED_MIN_PERCENT)
        };
        let short = carried.iter().filter(is_short);
        findings.extend(short.map(|carried| Finding::RoomsTooSlow { carried: carried.clone(), asked_mbps }));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;

    fn nics(nodes_per_zone: u64, speed_mbps: Option<u32>) -> Vec<StorageNic> {
        let of = |node: u64, adapter: &str| StorageNic {
            node: format!("n{node}").parse().unwrap(),
            adapter: adapter.parse().unwrap(),
            speed_mbps,
        };
        let nodes = 1..=2 * nodes_per_zone;
        nodes.flat_map(|node| [of(node, "Ethernet 3"), of(node, "Ethernet 4")]).collect()
    }

    fn carried(bits_per_s: u64) -> Carried {
        Carried { from_zone: "a".to_owned(), to_zone: "b".to_owned(), bits_per_s }
    }

    fn ids(findings: &[Finding]) -> Vec<&'static str> {
        findings.iter().map(Finding::id).collect()
    }

    /// The two examples of the specification.
    #[test]
    fn one_node_of_two_10_gigabit_ports_needs_20_and_four_of_two_25_gigabit_ports_200() {
        let rule = |nodes, mbps| Rule::of(&spec(nodes), &nics(nodes, Some(mbps)));
        assert_eq!(rule(1, 10_000).inter_room_mbps(), Some(20_000));
        assert_eq!(rule(4, 25_000).inter_room_mbps(), Some(200_000));
        assert_eq!(rule(4, 25_000).to_string(), "4 nodes a room × 2 storage ports × 25 Gb/s = 200 Gb/s");
    }

    #[test]
    fn a_team_carries_by_one_port() {
        let mut spec = spec(2);
        let storage = spec.intents.iter().position(|i| i.carries(model::TrafficClass::Storage)).unwrap();
        spec.intents[storage].traffic.insert(model::TrafficClass::Management);
        assert_eq!(Rule::of(&spec, &nics(2, Some(25_000))).inter_room_mbps(), Some(50_000));
    }

    #[test]
    fn speeds_are_judged_each_by_its_own_bound() {
        let said = |mbps| ids(&check(Rule::of(&spec(1), &nics(1, mbps)), &nics(1, mbps), &[]));
        assert_eq!(said(Some(1000)), ["bandwidth.nic-too-slow"; 4]);
        assert_eq!(said(Some(10_000)), ["bandwidth.nic-below-recommended"; 4]);
        assert_eq!(said(Some(25_000)), [""; 0]);
        assert_eq!(said(None), ["bandwidth.nic-speed-unknown"; 4]);
        let mut mixed = nics(1, Some(25_000));
        mixed[2].speed_mbps = Some(100_000);
        let found = check(Rule::of(&spec(1), &mixed), &mixed, &[]);
        assert_eq!(ids(&found), ["bandwidth.nic-speeds-differ"]);
        assert_eq!(
            found[0].to_string(),
            "n1 Ethernet 3 has 25 Gb/s, n2 Ethernet 3 has 100 Gb/s: all storage NICs need the same"
        );
        assert_eq!(Rule::of(&spec(1), &mixed).inter_room_mbps(), Some(50_000), "the slowest counts");
    }

    #[test]
    fn what_was_carried_is_held_against_the_rule_each_way() {
        let nics = nics(1, Some(10_000));
        let rule = Rule::of(&spec(1), &nics);
        let check = |bits| check(rule, &nics, &[carried(bits)]);
        assert_eq!(ids(&check(16_000_000_000)), ["bandwidth.nic-below-recommended"; 4]);
        let found = check(15_999_999_999);
        assert_eq!(
            found[4].to_string(),
            "from a to b 15.999 Gb/s were carried, and the rule asks for 20 Gb/s"
        );
        assert_eq!(found[4].severity(Machines::Real), Severity::Warning);
    }

    #[test]
    fn on_emulated_machines_nothing_is_more_than_a_note() {
        let slow = nics(1, Some(100));
        let found = check(Rule::of(&spec(1), &slow), &slow, &[carried(1)]);
        assert_eq!(found.len(), 5);
        assert!(found.iter().all(|finding| finding.severity(Machines::Emulated) == Severity::Note));
        assert!(found.iter().any(|finding| finding.severity(Machines::Real) == Severity::Error));
    }

    #[test]
    fn without_speeds_there_is_no_sum_and_nothing_to_hold_against_it() {
        let unknown = nics(2, None);
        let rule = Rule::of(&spec(2), &unknown);
        assert_eq!(rule.inter_room_mbps(), None);
        assert_eq!(rule.to_string(), "2 nodes a room × 2 storage ports × a speed that NICs don't tell");
        assert!(!ids(&check(rule, &unknown, &[carried(1)])).contains(&"bandwidth.rooms-too-slow"));
    }
}
