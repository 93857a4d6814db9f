//! A cluster that runs: hellos with noise and load, LLDP, reports in time, something wrong that begins and is mended, and a watch.
//!
//! Everything is a function of time and a seed; nothing is remembered, so a moment can be looked at alone. Hellos come every 200 ms
//! with phases of their own, each fifth with a large one; reports are up to 350 ms old, and now and then one is missing for a while.
//! Round trips have a floor for each pair, noise with a long tail, and grow with the load of the machine that runs all nodes, and while
//! their own node is busy.

use super::*;
use crate::diagnose::{NicReport, PathView, Thresholds};
use crate::testing::{ADAPTERS, cabling, chassis, neighbour, node_name, spec, tor_of};
use crate::wiring::NodeCabling;
use model::ClusterSpec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const TICK_MS: i64 = 200;
/// When something goes wrong: the usual round trips are known by then.
const FROM_MS: i64 = 20_000;
const LASTS_MS: i64 = 25_000;
/// How long it may stay named after it was mended.
const CLEARED_MS: i64 = 4000;
const SLOWER_US: i64 = 3000;

/// What goes wrong. Nodes by ordinal, NICs from 0, storage networks from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// To a port of this TOR.
    Moved(u8, usize, u8),
    Swapped(u8),
    NoVlan(u8, usize),
    SmallSwitch(u8, bool),
    SmallPort(u8, usize, bool),
    SlowRoomLink(u8),
    SlowCable(u8, usize),
}

const VLANS: [u64; 4] = [7, 7, 711, 712];

impl Wrong {
    /// What it must be called.
    fn id(self) -> Option<String> {
        let nic = |node: u8, nic: usize| format!("{}:{}", node_name(node), ADAPTERS[nic]);
        Some(match self {
            Self::Nothing => return None,
            Self::Moved(node, at, tor) => {
                format!("cable-moved:{}>{}:Ethernet1/99", nic(node, at), chassis(tor))
            }
            Self::Swapped(node) => {
                format!("cables-swapped:{}:{}:{}", node_name(node), ADAPTERS[2], ADAPTERS[3])
            }
            Self::NoVlan(node, at) => format!("vlan-missing:{}:{}", nic(node, at), VLANS[at]),
            Self::SmallSwitch(tor, true) => format!("frames-too-small:switch:{}", chassis(tor)),
            Self::SmallSwitch(tor, false) => format!("large-packets-lost:switch:{}", chassis(tor)),
            Self::SmallPort(node, at, true) => format!("frames-too-small:nic:{}", nic(node, at)),
            Self::SmallPort(node, at, false) => format!("large-packets-lost:nic:{}", nic(node, at)),
            Self::SlowRoomLink(network) => format!("slow:room-link:{network}"),
            Self::SlowCable(node, at) => format!("slow:nic:{}", nic(node, at)),
        })
    }

    /// How long it may stay unnamed, ms. Longer when the load changes meanwhile, which looks like round trips that get shorter and longer.
    fn bound_ms(self, nodes_per_zone: u64, run: &Run) -> i64 {
        let restless = run.is_restless();
        match self {
            Self::SlowRoomLink(_) | Self::SlowCable(..) if run.is_learnt_under_load() => LASTS_MS,
            Self::SmallSwitch(_, false) | Self::SmallPort(_, _, false) => 7000,
            Self::SlowRoomLink(_) | Self::SlowCable(..) if nodes_per_zone > 1 && !restless => 10_000,
            Self::SlowRoomLink(_) | Self::SlowCable(..) if nodes_per_zone > 1 => 13_000,
            Self::SlowRoomLink(_) | Self::SlowCable(..) => 22_000,
            _ => 2000,
        }
    }
}

/// One run.
#[derive(Debug, Clone)]
struct Run {
    nodes_per_zone: u64,
    wrong: Wrong,
    /// From when to when the machine has a load, and what that adds to a round trip at most, µs.
    load: (i64, i64, u64),
    /// A node that is busy from when to when.
    busy: (u8, i64, i64),
    /// A node that does not report from when to when.
    mute: (u8, i64, i64),
    seed: u64,
}

/// `SplitMix64` over a few numbers: chance without state.
fn chance(seed: u64, of: &[u64], below: u64) -> i64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let hash = of.iter().fold(seed, |hash, part| mix(hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(*part)));
    i64::try_from(hash % below.max(1)).unwrap()
}

/// A node and its zone.
type Member = (u8, &'static str);

fn zone_of(node: u8, nodes_per_zone: u64) -> &'static str {
    if u64::from(node) <= nodes_per_zone { "a" } else { "b" }
}

impl Run {
    /// Whether the load changes while something is wrong and not named yet, or has hardly changed before.
    fn is_restless(&self) -> bool {
        let near = |at_ms: i64| (FROM_MS - 4000..FROM_MS + 13_000).contains(&at_ms);
        let (load, busy) = (self.load, self.busy);
        [load.0, load.1, busy.1, busy.2].into_iter().any(near)
    }

    /// Whether the usual was mostly learnt under a load that is gone, which hides what is slow (`super::slow`).
    fn is_learnt_under_load(&self) -> bool {
        let (from, until) = (self.load.0.max(5000), self.load.1.min(FROM_MS));
        until - from > (FROM_MS - 5000) / 2
    }

    fn wrong_at(&self, at_ms: i64) -> Wrong {
        if (FROM_MS..FROM_MS + LASTS_MS).contains(&at_ms) { self.wrong } else { Wrong::Nothing }
    }

    fn members(&self) -> Vec<Member> {
        (1..=2 * self.nodes_per_zone as u8).map(|node| (node, zone_of(node, self.nodes_per_zone))).collect()
    }

    /// The moment of a node's hello.
    fn hello_ms(&self, from: u8, count: i64) -> i64 {
        chance(self.seed, &[1, from.into()], 200)
            + count * TICK_MS
            + chance(self.seed, &[2, from.into(), count.unsigned_abs()], 30)
    }

    /// What a port or its switch swallows, on a storage network between two nodes.
    fn swallows_large(&self, at_ms: i64, one: Member, other: Member, network: u8) -> bool {
        let nic = usize::from(network) + 1;
        [one, other].into_iter().any(|(node, zone)| match self.wrong_at(at_ms) {
            Wrong::SmallSwitch(tor, _) => tor == tor_of(zone, nic),
            Wrong::SmallPort(n, at, _) => (n, at) == (node, nic),
            _ => false,
        })
    }

    fn passes(&self, at_ms: i64, one: Member, other: Member, network: u8) -> bool {
        let nic = usize::from(network) + 1;
        ![one, other].into_iter().any(|(node, _)| match self.wrong_at(at_ms) {
            Wrong::Swapped(n) => n == node,
            Wrong::NoVlan(n, at) => (n, at) == (node, nic),
            _ => false,
        })
    }

    /// How long a hello takes there and back.
    fn round_trip_us(&self, at_ms: i64, one: Member, other: Member, network: u8, count: i64) -> u32 {
        let (a, b) = (one.0.min(other.0), one.0.max(other.0));
        let floor = 900 + chance(self.seed, &[3, a.into(), b.into(), network.into()], 1500);
        let draw = |salt, below| {
            chance(
                self.seed,
                &[salt, one.0.into(), other.0.into(), network.into(), count.unsigned_abs()],
                below,
            )
        };
        // A long tail: a third is quick, a tenth takes more than 7 ms.
        let tail = draw(4, 1000);
        let noise = tail * tail * tail / 100_000;
        let (from, until, most) = self.load;
        let load = if (from..until).contains(&at_ms) {
            i64::try_from(most / 2).unwrap() + draw(5, most / 2)
        } else {
            0
        };
        let (node, from, until) = self.busy;
        let is_busy = (from..until).contains(&at_ms) && [one.0, other.0].contains(&node);
        let busy = if is_busy { 2000 + draw(6, 8000) } else { 0 };
        let nic = usize::from(network) + 1;
        let slow = match self.wrong_at(at_ms) {
            Wrong::SlowRoomLink(index) => index == network && one.1 != other.1,
            Wrong::SlowCable(n, at) => at == nic && [one.0, other.0].contains(&n),
            _ => false,
        };
        u32::try_from(floor + noise + load + busy + if slow { SLOWER_US } else { 0 }).unwrap()
    }

    /// What a node knows of a peer at a moment.
    fn path(&self, now_ms: i64, me: Member, peer: Member, network: u8) -> (PathView, PathQuality) {
        let index = StorageNetworkIndex::try_from(u64::from(network)).unwrap();
        let last = now_ms / TICK_MS;
        let came = (0..=last).rev().map(|count| (count, self.hello_ms(peer.0, count)));
        let came = came.filter(|(_, at)| *at <= now_ms && self.passes(*at, me, peer, network));
        let mut trips: Vec<u32> = Vec::new();
        let (mut heard_ms_ago, mut large_missing, mut large_came) = (None, 0, false);
        for (count, at) in came.take_while(|(_, at)| *at > now_ms - 30_000) {
            let is_last = heard_ms_ago.is_none();
            heard_ms_ago = heard_ms_ago.or(Some(u32::try_from(now_ms - at).unwrap()));
            if now_ms - at <= 4000 {
                trips.push(self.round_trip_us(at, me, peer, network, count));
            }
            // A large one comes right behind the small one.
            large_came |= count % 5 == 0 && !self.swallows_large(at, me, peer, network);
            if large_came && now_ms - at > 4000 {
                break;
            }
            large_missing += u32::from(!large_came && count % 5 == 0 && !is_last);
        }
        trips.sort_unstable();
        let quality = PathQuality {
            peer: node_name(peer.0),
            network: index,
            round_trips: trips.len() as u32,
            min_us: trips.first().copied(),
            median_us: trips.get(trips.len() / 2).copied(),
            large_missing,
        };
        let view = PathView { peer: node_name(peer.0), network: index, heard_ms_ago, late_ms_ago: None };
        (view, quality)
    }

    /// What a node's NICs hear.
    fn nics(&self, now_ms: i64, node: u8, known: &NodeCabling) -> Vec<NicReport> {
        let mut nics = known.nics.clone();
        let wrong = self.wrong_at(now_ms);
        for (at, nic) in nics.iter_mut().enumerate() {
            let lldpdu = &mut nic.neighbour.as_mut().unwrap().lldpdu;
            let tor = tor_of(zone_of(node, self.nodes_per_zone), at);
            match wrong {
                Wrong::NoVlan(n, nic) if (n, nic) == (node, at) => {
                    lldpdu.vlans.retain(|named| u64::from(named.vlan.get()) != VLANS[at]);
                    lldpdu
                        .vlans
                        .push(crate::lldp::VlanName { vlan: crate::testing::vlan(99), name: "x".into() });
                }
                Wrong::SmallSwitch(small, true) if small == tor => lldpdu.max_frame_bytes = Some(1518),
                Wrong::SmallPort(n, nic, true) if (n, nic) == (node, at) => {
                    lldpdu.max_frame_bytes = Some(1518);
                }
                Wrong::Moved(n, nic, to) if (n, nic) == (node, at) => {
                    *lldpdu = neighbour(to, 99, &[VLANS[at], 8]).lldpdu;
                }
                _ => {}
            }
        }
        if wrong == Wrong::Swapped(node) {
            let [.., third, fourth] = nics.as_mut_slice() else { unreachable!() };
            std::mem::swap(&mut third.neighbour, &mut fourth.neighbour);
        }
        nics.into_iter()
            .map(|cabling| NicReport { carrier: Some(true), carrier_losses: 0, cabling })
            .collect()
    }

    fn told(&self, now_ms: i64, known_good: &[NodeCabling]) -> Vec<Told> {
        let members = self.members();
        let told = |(me, known): (&Member, &NodeCabling)| {
            let (mute, from, until) = self.mute;
            let age_ms = 50 + chance(self.seed, &[7, me.0.into(), now_ms.unsigned_abs()], 300);
            let age_ms =
                if mute == me.0 && (from..until).contains(&now_ms) { now_ms - from + age_ms } else { age_ms };
            let then = (now_ms - age_ms).max(0);
            let others = members.iter().filter(|other| *other != me);
            let paths = others.flat_map(|other| (1..=2).map(|network| self.path(then, *me, *other, network)));
            let (paths, qualities): (Vec<PathView>, Vec<PathQuality>) = paths.unzip();
            let report = NodeReport {
                node: known.node.clone(),
                age_ms: u32::try_from(age_ms).unwrap(),
                listening_ms: u32::try_from(then).unwrap(),
                paths,
                nics: self.nics(then, me.0, known),
            };
            Told { report, qualities }
        };
        members.iter().zip(known_good).map(told).collect()
    }

    /// What is wrong with what was named, if anything.
    fn judged(&self) -> Result<(), String> {
        let spec: ClusterSpec = spec(self.nodes_per_zone);
        let known_good = cabling(&spec);
        let mut memory = Memory::default();
        let end = FROM_MS + LASTS_MS + CLEARED_MS + 6000;
        for now in (5000..end).step_by(200) {
            let told = self.told(now, &known_good);
            let raised = memory.judge(now.unsigned_abs(), &spec, &known_good, &told, Thresholds::default());
            let named: Vec<String> = raised.iter().map(|raised| raised.condition.what.id()).collect();
            let expected: Vec<String> = self.wrong.id().into_iter().collect();
            let bound_ms = self.wrong.bound_ms(self.nodes_per_zone, self);
            let must = (FROM_MS + bound_ms..FROM_MS + LASTS_MS).contains(&now);
            let may = (FROM_MS..FROM_MS + LASTS_MS + CLEARED_MS).contains(&now);
            if !(if must { named == expected } else { named.is_empty() || may && named == expected }) {
                let evidence: Vec<_> = raised.iter().map(|raised| &raised.condition.evidence).collect();
                return Err(format!("{} ms after: {named:?} {evidence:?}", now - FROM_MS));
            }
        }
        Ok(())
    }
}

/// What can go wrong where a room has so many nodes.
fn wrong(nodes_per_zone: u8) -> BoxedStrategy<Wrong> {
    let node = 1..=2 * nodes_per_zone;
    let alone = prop_oneof![
        Just(Wrong::Nothing),
        (node.clone(), 0..4usize, 1u8..=4).prop_map(|(node, nic, tor)| Wrong::Moved(node, nic, tor)),
        node.clone().prop_map(Wrong::Swapped),
        (node.clone(), 0..4usize).prop_map(|(node, nic)| Wrong::NoVlan(node, nic)),
        (1u8..=4).prop_map(|tor| Wrong::SmallSwitch(tor, true)),
        (node.clone(), 2..4usize).prop_map(|(node, nic)| Wrong::SmallPort(node, nic, true)),
        (1u8..=2).prop_map(Wrong::SlowRoomLink),
    ];
    let with_mates = prop_oneof![
        (1u8..=4).prop_map(|tor| Wrong::SmallSwitch(tor, false)),
        (node.clone(), 2..4usize).prop_map(|(node, nic)| Wrong::SmallPort(node, nic, false)),
        (node, 2..4usize).prop_map(|(node, nic)| Wrong::SlowCable(node, nic)),
    ];
    if nodes_per_zone > 1 { prop_oneof![2 => alone, 1 => with_mates].boxed() } else { alone.boxed() }
}

fn any_run() -> impl Strategy<Value = Run> {
    let span = |longest: i64| (5000i64..40_000, 0..longest).prop_map(|(from, long)| (from, from + long));
    prop::sample::select(vec![1u8, 1, 2, 2, 2, 3]).prop_flat_map(move |nodes| {
        // With one node a room nothing inside the rooms tells of the machine's load.
        let most = if nodes == 1 { 600u64 } else { 2500 };
        let node = 1..=2 * nodes;
        (wrong(nodes), (span(30_000), 2..most), (node.clone(), span(3000)), (node, span(900)), any::<u64>())
            .prop_map(move |(wrong, (load, most), (busy, from_busy), (mute, from_mute), seed)| Run {
                nodes_per_zone: nodes.into(),
                wrong,
                load: (load.0, load.1, most),
                busy: (busy, from_busy.0, from_busy.1),
                mute: (mute, from_mute.0, from_mute.1),
                seed,
            })
    })
}

proptest! {
    // Always the same few; others, and more, with PROPTEST_CASES, and then in release: noise is chance, and once in thousands it looks like something.
    #![proptest_config(match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig { cases: 12, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() },
    })]

    /// Only what is wrong is ever named, it is within its bound, and it is not any more when it was mended: with noise, with load, with a
    /// node that is busy and reports that are late.
    #[test]
    fn what_is_wrong_is_named_alone_from_its_beginning_to_its_end(run in any_run()) {
        if let Err(wrong) = run.judged() {
            prop_assert!(false, "{}", wrong);
        }
    }
}

/// The pairs between the rooms don't get well all at once: what is left of a slow room link is not a slow path. It was named after 27.4 s.
#[test]
fn what_is_left_of_a_slow_room_link_is_no_slow_path() {
    let run = Run {
        nodes_per_zone: 3,
        wrong: Wrong::SlowRoomLink(1),
        load: (19_843, 47_027, 2102),
        busy: (1, 17_802, 18_022),
        mute: (5, 26_106, 26_772),
        seed: 17_130_641_453_887_192_421,
    };
    assert_eq!(run.judged(), Ok(()));
}

/// A node that is busy, and then the whole host, leave none of the node's pairs a quick round trip for 7 s. One of them was named after 14.2 s.
#[test]
fn one_of_a_busy_node_s_pairs_is_no_slow_path() {
    let run = Run {
        nodes_per_zone: 2,
        wrong: Wrong::SlowCable(1, 2),
        load: (30_571, 34_577, 2042),
        busy: (1, 27_872, 30_493),
        mute: (1, 5000, 5000),
        seed: 2_736_647_015_539_853_410,
    };
    assert_eq!(run.judged(), Ok(()));
}

/// A room link gets slow under a load that goes away: one of its pairs came above its bound and was
/// named after 10.4 s, and the others never did.
#[test]
fn the_first_of_the_pairs_between_the_rooms_is_no_slow_path() {
    let run = Run {
        nodes_per_zone: 2,
        wrong: Wrong::SlowRoomLink(1),
        load: (6231, 19_683, 1748),
        busy: (1, 10_612, 13_276),
        mute: (1, 5000, 5000),
        seed: 6_629_005_900_300_079_214,
    };
    assert_eq!(run.judged(), Ok(()));
}

/// For 4 s none of a node's pairs had a quick round trip, first by its own fault, then by the host's. One was named after 21.8 s.
#[test]
fn a_node_that_is_busy_before_the_host_is_has_no_slow_path() {
    let run = Run {
        nodes_per_zone: 2,
        wrong: Wrong::Nothing,
        load: (37_629, 41_445, 1822),
        busy: (2, 35_596, 37_413),
        mute: (4, 9857, 10_172),
        seed: 18_301_800_222_198_827_726,
    };
    assert_eq!(run.judged(), Ok(()));
}
