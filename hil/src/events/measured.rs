//! What the harness measured or found, as it stands in the event log: plain data, so that a picture can be drawn again
//! from the log alone.
//!
//! Invariants: numbers are integers with their unit in the name; what was not seen is left out, not guessed.

use deploy::watch::PathCount;
use deploy::{Cabling, Cluster, Over, RoundTrip, Transfer};
use fabric::{Role, Snapshot};
use model::NodeName;
use network::probe::ROUND_TRIP_BOUNDS_US;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Who is cabled to which switch, as the switches announce it (LLDP), when the cluster was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Which of the reference wirings it is, in words.
    pub wiring: String,
    /// The machines: nodes, then the witness.
    pub nodes: Vec<CabledNode>,
}

/// A machine and its NICs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CabledNode {
    /// Its name.
    pub node: String,
    /// Its zone; none: the witness.
    pub zone: Option<String>,
    /// Its NICs.
    pub nics: Vec<CabledNic>,
}

/// A NIC and what it is cabled to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CabledNic {
    /// The template's name for it.
    pub adapter: String,
    /// The kernel's name for it.
    pub kernel_name: String,
    /// The storage networks on it, from 1.
    pub storage_networks: Vec<u8>,
    /// What it sees; none: no neighbour.
    pub port: Option<SwitchPort>,
}

/// A port of a switch, as it announces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchPort {
    /// The switch's chassis id.
    pub chassis: String,
    /// What the switch calls itself.
    pub name: Option<String>,
    /// The port.
    pub port: String,
}

/// What a storage path carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throughput {
    /// The storage network, from 1.
    pub network: u8,
    /// Who sent.
    pub from: String,
    /// Who received, and measured.
    pub to: String,
    /// Whether all paths between the rooms were sent on at once.
    pub at_once: bool,
    /// To which TCP port.
    pub port: u16,
    /// Payload that arrived, bytes.
    pub bytes: u64,
    /// In which time, microseconds.
    pub took_us: u64,
    /// Payload per time, bits per second; 0: nothing arrived.
    pub bits_per_s: u64,
}

/// How long a workload's writes waited around a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// Where it ran.
    pub node: String,
    /// Which of its runs.
    pub run: u32,
    /// The longest time between two acknowledgements since just before the fault, milliseconds.
    pub longest_gap_ms: u64,
    /// From the fault to the end of that, milliseconds.
    pub next_after_ms: u64,
    /// From the fault to the first acknowledgement of a write that was begun after it, milliseconds.
    pub begun_after_ms: u64,
    /// From the fault until the node, which had lost the ledger's leader, knew another, milliseconds; none: it had not lost it, or that
    /// was not seen.
    #[serde(default)]
    pub leader_after_ms: Option<u64>,
    /// From the fault until the node knew that a leg is not in sync any more, milliseconds; none: not seen.
    #[serde(default)]
    pub stale_after_ms: Option<u64>,
}

impl Stall {
    /// What the time is made of, as far as it was seen, in words.
    pub fn split(&self) -> String {
        let leader = self.leader_after_ms.map(|ms| format!("another leader was known after {ms} ms, "));
        let stale = self.stale_after_ms.map_or("no leg was seen to be given up".to_owned(), |ms| {
            format!("a leg was known to be given up after {ms} ms")
        });
        format!("{}{stale}", leader.unwrap_or_default())
    }
}

/// How a volume came to be usable after a fault: when each stage was first seen, milliseconds after the fault; none: over before it was
/// seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TookOver {
    /// Where it is open.
    pub owner: String,
    /// The ledger says who shall have it.
    pub decided_after_ms: Option<u64>,
    /// Nobody of an earlier epoch can write any more.
    pub fenced_after_ms: Option<u64>,
    /// Its legs are equal, and it may be written.
    pub assembled_after_ms: Option<u64>,
    /// Its owner shows a device.
    pub usable_after_ms: u64,
}

impl fmt::Display for TookOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages = [
            ("given to it", self.decided_after_ms),
            ("fenced", self.fenced_after_ms),
            ("assembled", self.assembled_after_ms),
        ];
        for (what, after_ms) in stages {
            if let Some(ms) = after_ms {
                write!(f, "{what} after {ms} ms, ")?;
            }
        }
        write!(f, "usable after {} ms", self.usable_after_ms)
    }
}

/// What a workload wrote, and when its writes waited. Times are since the run's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrote {
    /// Where it ran.
    pub node: String,
    /// Which of its runs.
    pub run: u32,
    /// When the first write was acknowledged, milliseconds.
    pub from_ms: u64,
    /// When the last was, or until when the next was waited for, milliseconds.
    pub to_ms: u64,
    /// How many were acknowledged.
    pub acknowledged: u64,
    /// When none was acknowledged for half a second or longer.
    pub stalls: Vec<Waited>,
}

/// A time without acknowledgements, milliseconds since the run's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// The last acknowledgement before it.
    pub from_ms: u64,
    /// The first after it.
    pub to_ms: u64,
}

/// What became of a leg in sync, read on its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegJudged {
    /// Which.
    pub leg: String,
    /// On which node.
    pub node: String,
    /// On which drive, by its serial number.
    pub drive: String,
    /// How many writes were acknowledged in all.
    pub acknowledged: u64,
    /// How many of its blocks were promised something.
    pub promised: u32,
    /// How many blocks were read.
    pub read: u32,
    /// How many don't hold what they must.
    pub lost: u32,
    /// The first of those, in words.
    pub findings: Vec<String>,
}

/// Round trips of all pairs of a kind on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// The network, in words.
    pub over: String,
    /// Between nodes of one room, or between the rooms.
    pub inside_a_room: bool,
    /// How many ways were measured: pairs, each way.
    pub ways: u32,
    /// Probes that were answered.
    pub answered: u64,
    /// Probes that were not.
    pub lost: u64,
    /// The shortest round trip of all, microseconds; none, here and below: no answer.
    pub min_us: Option<u64>,
    /// The median of the worst way, microseconds.
    pub worst_median_us: Option<u64>,
    /// The 99th percentile of the worst way, microseconds.
    pub worst_p99_us: Option<u64>,
    /// The longest round trip of all, microseconds.
    pub max_us: Option<u64>,
    /// Answered probes by round trip, shortest first, from the first to the last bucket that has any.
    pub buckets: Vec<Bucket>,
}

/// A bucket of a histogram of round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The longest round trip in it, microseconds; none: those beyond the last bound.
    pub up_to_us: Option<u64>,
    /// How many.
    pub probes: u64,
}

/// What went over the lab's cables since the fabric started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames that arrived, by kind of cable, VLAN and priority.
    pub carried: Vec<Carried>,
    /// Frames that did not, by kind of cable and reason.
    pub dropped: Vec<Dropped>,
}

/// Frames that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The kind of cable.
    pub cables: Cables,
    /// Their VLAN.
    pub vlan: u16,
    /// Their priority code point.
    pub pcp: u8,
    /// How many.
    pub frames: u64,
    /// How long together, bytes on the wire.
    pub bytes: u64,
}

/// Frames that were lost on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// The kind of cable.
    pub cables: Cables,
    /// Why, in one word of the fabric's.
    pub reason: String,
    /// How many.
    pub frames: u64,
}

/// A kind of cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cables {
    /// From a machine to a top-of-rack switch, both ways.
    Node,
    /// Between top-of-rack switches: the room-to-room links, and what joins the switches of a room.
    Switch,
    /// At a spine, whatever is at the other end: where storage frames must not be seen.
    Spine,
}

/// The state of all storage paths and reports, when it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Each storage network.
    pub networks: Vec<NetworkPaths>,
    /// Machines whose report is missing or too old to be believed.
    pub not_reporting: Vec<String>,
}

/// How many ways of a storage network carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPaths {
    /// Which, from 1.
    pub network: u8,
    /// Ways, from one node to another, on which something was heard lately.
    pub carrying: u32,
    /// Ways on which nothing was heard for as long as makes a path dead.
    pub silent: u32,
}

impl Topology {
    /// The cabling of a cluster.
    pub fn of(cluster: &Cluster, cabling: &Cabling) -> Self {
        let storage_networks = |adapter: &model::AdapterName| {
            let on_it = cluster.spec.storage_networks.iter().filter(|network| network.adapter == *adapter);
            on_it.map(|network| network.index.get()).collect()
        };
        let nodes = cabling.seen.iter().map(|node| CabledNode {
            node: node.node.to_string(),
            zone: node.zone.as_ref().map(ToString::to_string),
            nics: node
                .nics
                .iter()
                .map(|nic| CabledNic {
                    adapter: nic.adapter.to_string(),
                    kernel_name: nic.kernel_name.clone(),
                    storage_networks: if node.zone.is_some() {
                        storage_networks(&nic.adapter)
                    } else {
                        Vec::new() // a witness holds no data
                    },
                    port: nic.seen().map(|seen| SwitchPort {
                        chassis: seen.chassis_id.to_string(),
                        name: seen.system_name.clone(),
                        port: seen.port_id.to_string(),
                    }),
                })
                .collect(),
        });
        Self { wiring: cabling.wiring.to_string(), nodes: nodes.collect() }
    }
}

impl Throughput {
    /// What a transfer came to.
    pub fn of(transfer: &Transfer, at_once: bool) -> Self {
        Self {
            network: transfer.path.network.get(),
            from: transfer.path.from.to_string(),
            to: transfer.path.to.to_string(),
            at_once,
            port: transfer.port,
            bytes: transfer.arrived.map_or(0, |arrived| arrived.bytes),
            took_us: transfer.arrived.map_or(0, |arrived| arrived.took_us),
            bits_per_s: transfer.bits_per_s(),
        }
    }
}

impl RoundTrips {
    /// All round trips of a mesh, by network and by whether they stay in a room.
    pub fn of(cluster: &Cluster, trips: &[RoundTrip]) -> Vec<Self> {
        let zone = |name: &NodeName| {
            let member = cluster.members.iter().find(|member| member.name == *name);
            member.and_then(|member| member.zone.as_ref())
        };
        let mut groups: BTreeMap<(Over, bool), Vec<&RoundTrip>> = BTreeMap::new();
        for trip in trips {
            groups.entry((trip.over, zone(&trip.from) == zone(&trip.to))).or_default().push(trip);
        }
        groups.into_iter().map(|((over, inside), trips)| Self::group(over, inside, &trips)).collect()
    }

    fn group(over: Over, inside_a_room: bool, trips: &[&RoundTrip]) -> Self {
        let all = |read: fn(&RoundTrip) -> Option<u64>| trips.iter().filter_map(move |trip| read(trip));
        let mut counts = vec![0; ROUND_TRIP_BOUNDS_US.len() + 1];
        for trip in trips {
            for (count, more) in counts.iter_mut().zip(&trip.answer.histogram) {
                *count += u64::from(*more);
            }
        }
        Self {
            over: over.to_string(),
            inside_a_room,
            ways: u32::try_from(trips.len()).unwrap_or(u32::MAX),
            answered: trips.iter().map(|trip| u64::from(trip.answer.received)).sum(),
            lost: trips.iter().map(|trip| u64::from(trip.answer.lost)).sum(),
            min_us: all(|trip| trip.answer.min_us).min(),
            worst_median_us: all(|trip| trip.answer.median_us).max(),
            worst_p99_us: all(|trip| trip.answer.p99_us).max(),
            max_us: all(|trip| trip.answer.max_us).max(),
            buckets: buckets(&counts),
        }
    }
}

/// The counts with their bounds, without the empty ones at both ends.
fn buckets(counts: &[u64]) -> Vec<Bucket> {
    let bounds = ROUND_TRIP_BOUNDS_US.iter().map(|bound| Some(*bound)).chain([None]);
    let all: Vec<Bucket> =
        bounds.zip(counts).map(|(up_to_us, probes)| Bucket { up_to_us, probes: *probes }).collect();
    let first = all.iter().position(|bucket| bucket.probes > 0).unwrap_or(all.len());
    let end = all.iter().rposition(|bucket| bucket.probes > 0).map_or(first, |last| last + 1);
    all[first..end].to_vec()
}

impl Counters {
    /// The fabric's counters, summed up by kind of cable.
    pub fn of(topology: &fabric::Topology, counters: &Snapshot) -> Self {
        let spine: Vec<_> = topology.links_at(Role::Spine).map(|link| &link.id).collect();
        let mut carried: BTreeMap<(Cables, u16, u8), (u64, u64)> = BTreeMap::new();
        let mut dropped: BTreeMap<(Cables, String), u64> = BTreeMap::new();
        for counted in &counters.links {
            let link = topology.links.iter().find(|link| link.id == counted.link);
            let at_node = link.is_some_and(|link| link.ends().any(|end| matches!(end, fabric::End::Nic(_))));
            let cables = match (spine.contains(&&counted.link), at_node) {
                (true, _) => Cables::Spine,
                (false, true) => Cables::Node,
                (false, false) => Cables::Switch,
            };
            for way in [&counted.a_to_b, &counted.b_to_a] {
                for class in &way.carried {
                    let sum = carried.entry((cables, class.vlan.get(), class.pcp.get())).or_default();
                    *sum = (sum.0 + class.count.frames, sum.1 + class.count.bytes);
                }
                for drop in &way.dropped {
                    let reason = serde_json::to_value(drop.reason).unwrap_or_default();
                    let reason = reason.as_str().unwrap_or_default().to_owned();
                    *dropped.entry((cables, reason)).or_default() += drop.count.frames;
                }
            }
        }
        Self {
            carried: carried
                .into_iter()
                .map(|((cables, vlan, pcp), (frames, bytes))| Carried { cables, vlan, pcp, frames, bytes })
                .collect(),
            dropped: dropped
                .into_iter()
                .map(|((cables, reason), frames)| Dropped { cables, reason, frames })
                .collect(),
        }
    }
}

impl Paths {
    /// What a sighting says of the storage networks.
    pub fn of(sighting: &deploy::watch::Sighting) -> Self {
        let network = |(index, count): (&model::StorageNetworkIndex, &PathCount)| NetworkPaths {
            network: index.get(),
            carrying: count.carrying,
            silent: count.silent,
        };
        Self {
            networks: sighting.paths.iter().map(network).collect(),
            not_reporting: sighting.not_reporting.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_keeps_the_gaps_and_loses_the_ends() {
        let mut counts = vec![0; ROUND_TRIP_BOUNDS_US.len() + 1];
        counts[2] = 5;
        counts[4] = 1;
        let found: Vec<_> =
            buckets(&counts).into_iter().map(|bucket| (bucket.up_to_us, bucket.probes)).collect();
        let bound = |at: usize| Some(ROUND_TRIP_BOUNDS_US[at]);
        assert_eq!(found, [(bound(2), 5), (bound(3), 0), (bound(4), 1)]);
        *counts.last_mut().unwrap() = 1;
        assert_eq!(buckets(&counts).last().unwrap().up_to_us, None);
        assert_eq!(buckets(&[0, 0]), []);
    }

    #[test]
    fn ways_of_a_group_are_added_up_and_the_worst_is_told() {
        let trip = |median_us, p99_us, received, lost, bucket: usize| {
            let mut histogram = vec![0; ROUND_TRIP_BOUNDS_US.len() + 1];
            histogram[bucket] = received;
            let answer = api::PingAnswer {
                sent: received + lost,
                received,
                lost,
                min_us: Some(median_us - 1),
                median_us: Some(median_us),
                p99_us: Some(p99_us),
                max_us: Some(p99_us + 1),
                histogram,
                first_error: None,
            };
            let (from, to) = ("a1".parse().unwrap(), "b1".parse().unwrap());
            RoundTrip { from, to, over: Over::Management, filled: None, answer }
        };
        let trips = [trip(90, 700, 10, 0, 6), trip(120, 400, 9, 1, 7), trip(95, 100, 4, 0, 6)];
        let all = RoundTrips::group(Over::Management, false, &trips.iter().collect::<Vec<_>>());
        assert_eq!((all.ways, all.answered, all.lost), (3, 23, 1));
        assert_eq!((all.min_us, all.max_us), (Some(89), Some(701)));
        assert_eq!((all.worst_median_us, all.worst_p99_us), (Some(120), Some(700)));
        assert_eq!(all.buckets.iter().map(|bucket| bucket.probes).collect::<Vec<_>>(), [14, 9]);
    }

    #[test]
    fn frames_are_counted_by_the_kind_of_cable_both_ways() {
        let port = |switch: &str| serde_json::json!({"port": {"switch": switch, "port": "p1"}});
        let switch = |id: &str, role: &str| {
            serde_json::json!({"id": id, "system_name": id, "chassis_mac": "02:00:00:00:00:01", "role": role,
                "room": null, "mtu": 9000, "ports": []})
        };
        let link = |id: &str, a, b| serde_json::json!({"id": id, "a": a, "b": b});
        let topology = serde_json::from_value(serde_json::json!({
            "switches": [switch("t1", "tor"), switch("t2", "tor"), switch("s", "spine")],
            "nics": ["a1.nic"],
            "links": [
                link("node", serde_json::json!({"nic": "a1.nic"}), port("t1")),
                link("room", port("t1"), port("t2")),
                link("up", port("t1"), port("s")),
                link("witness", serde_json::json!({"nic": "a1.nic"}), port("s")),
            ],
            "lldp_interval_ms": 1000,
        }));
        let way = |frames: u64| {
            serde_json::json!({
                "carried": [{"vlan": 711, "pcp": 3, "count": {"frames": frames, "bytes": frames * 10}}],
                "dropped": [{"reason": "cut", "vlan": 711, "count": {"frames": 1, "bytes": 10}}],
                "link_local": {"frames": 5, "bytes": 50},
            })
        };
        let counted =
            |id: &str, frames| serde_json::json!({"link": id, "a_to_b": way(frames), "b_to_a": way(1)});
        let counters = serde_json::from_value(serde_json::json!({
            "at_us": 1,
            "links": [counted("node", 2), counted("room", 20), counted("up", 200), counted("witness", 2000)],
        }));
        let all = Counters::of(&topology.unwrap(), &counters.unwrap());
        let carried: Vec<_> =
            all.carried.iter().map(|class| (class.cables, class.vlan, class.pcp, class.frames)).collect();
        assert_eq!(
            carried,
            [(Cables::Node, 711, 3, 3), (Cables::Switch, 711, 3, 21), (Cables::Spine, 711, 3, 2202)]
        );
        assert_eq!(all.carried[2].bytes, 22_020);
        let dropped: Vec<_> =
            all.dropped.iter().map(|drop| (drop.cables, drop.reason.as_str(), drop.frames)).collect();
        assert_eq!(
            dropped,
            [(Cables::Node, "cut", 2), (Cables::Switch, "cut", 2), (Cables::Spine, "cut", 4)]
        );
    }
}
