//! Round trips that got longer.
//!
//! A node reports the shortest of its round trips of the last four seconds, for each path. Of a pair of nodes the shorter of both ends'
//! counts: what is late by chance, because a machine was busy, goes away with that, and what is late by nature does not.
//!
//! - **Usual** is the median of what a pair showed in its last minute, once a second, while it was not slow; it never gets more than 1 ms
//!   above what it was at first, so that what creeps is found, too.
//! - **The rise** of a pair is what it shows above its usual, less what pairs inside the rooms show above theirs (the lower quartile):
//!   when the machine that runs all the emulated nodes is busy, all pairs rise. A usual that was learnt under such a load hides as much when that is gone.
//! - A pair **is slow** from a rise on that is 1 ms above what its usual varies by (the most of the last minute above the median; 1 ms at least
//!   while little is known), but 2.2 ms at most; until its rise is below seven tenths of that. On machines of metal that is 1 ms; where
//!   all nodes are emulated on a busy host, 3 ms are still found.
//! - **The more it varies and the fewer pairs say so, the longer it must last** to be said: where chance decides, a single pair may show
//!   no short round trip for many seconds.
//! - **A pair alone** must stand out from the others of either of its nodes, and from the others between the rooms if it is one of those: what
//!   they have in common takes some of them above their bounds before others. A node that was busy, and then the whole host, leave none of the
//!   node's pairs a quick round trip; a room link that gets slow while the host's load goes away again shows less with each pair.
//! - **A NIC, or a pair alone,** must stand out from the other storage NICs of its node or nodes: those, too, are slow while a node is busy,
//!   but not with every peer at every moment.
//! - When what several pairs had in common ends, they don't all show it at once: for four seconds **what is left of it** is not said pair by pair.
//! - A node all of whose pairs are slow on every storage network is busy itself: its pairs say nothing.
//!
//! Measured on the lab of 2+2, emulated, on a host with a load of ten on two processors. Shortest of the ten round trips of one end in 2 s, timed in
//! the process: 1.1 to 6.2 ms, mostly 2.0 to 3.8; with 3 ms added between the rooms 4.7 to 7.0 there and 1.8 to 3.4 inside them. Medians:
//! 3.4 to 14.7 ms whether or not, which is why they are not asked. With the kernel's stamps, 4 s and both ends: mostly 1.5 to 2.3 ms,
//! that of a pair varies by 0.5 to 1.5 ms. With a fixed bound of 1.5 ms one pair of twelve looked slow for 9 s within 40 s; with this one, in the same
//! records, no pair for 1 s in 100 s, and all four pairs between the rooms from 4.4 s after 3 ms were added on.

use super::memory::Found;
use super::place::{Pair, Pairs, pair, zone};
use super::{Condition, Place, Told, What};
use crate::wiring::{Connection, NodeCabling};
use model::{NodeName, StorageNetwork, StorageNetworkIndex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From so much more than its usual varies by a pair is slow, µs; and from so much in any case.
const SLOW_FROM_US: u32 = 1000;
const SLOW_FROM_MOST_US: u32 = 2200;
/// What the usual varies by at least, while it was looked at less often than this, µs.
const VARIES_FIRST_US: u32 = 1000;
const LOOKS_MANY: usize = 20;
/// By how much the usual may creep up, µs.
const CREEP_MAX_US: u32 = 1000;
/// Round trips of both ends together, without which nothing is said.
const SAMPLES_MIN: u32 = 8;
/// How often the usual takes a look in, ms, and how many looks it is the median of; with so many it is known.
const LOOK_EVERY_MS: u64 = 1000;
const LOOKS_KEPT: usize = 60;
const LOOKS_MIN: usize = 10;

/// How long something slow must last to be said, ms: where nothing varies; and where it varies by this much or more, when so many pairs
/// say so.
const LASTS_MS: u64 = 2000;
const VARIES_MUCH_US: u64 = 500;
const LASTS_VARYING_MS: [u64; 3] = [15_000, 6000, 3000];
/// And a pair alone, where there are others: longer than nodes that are busy one after another leave it without a quick round trip.
const LASTS_ALONE_MS: u64 = 6000;
/// How long it must not be seen to be gone, ms.
const GONE_MS: u64 = 1500;
/// Over how long a node counts its round trips, ms: so long what has ended may still be seen in a pair that had no quick one since.
const COUNTED_MS: u64 = 4000;

/// What is known of a pair of nodes on a storage network.
#[derive(Debug, Clone, Default)]
struct Known {
    looks_us: VecDeque<u32>,
    looked_ms: Option<u64>,
    /// The usual when it was first known.
    first_us: Option<u32>,
    is_slow: bool,
    /// When it was last one of several pairs that had something in common.
    among_others_ms: Option<u64>,
}

impl Known {
    fn usual_us(&self) -> Option<u32> {
        let mut looks: Vec<u32> = self.looks_us.iter().copied().collect();
        looks.sort_unstable();
        let median = looks.get(looks.len() / 2).copied().filter(|_| looks.len() >= LOOKS_MIN)?;
        Some(self.first_us.map_or(median, |first| median.min(first.saturating_add(CREEP_MAX_US))))
    }

    /// What its usual varies by, µs.
    fn varies_us(&self) -> u32 {
        let (most, usual) = (self.looks_us.iter().max().copied(), self.usual_us());
        let varies = most.unwrap_or_default().saturating_sub(usual.unwrap_or_default());
        let little_known = self.looks_us.len() < LOOKS_MANY;
        if little_known { varies.max(VARIES_FIRST_US) } else { varies }
    }

    /// From which rise on it is slow, or goes on being so, µs.
    fn slow_from_us(&self) -> i64 {
        let from = i64::from(SLOW_FROM_US.saturating_add(self.varies_us()).min(SLOW_FROM_MOST_US));
        if self.is_slow { well_below_us(from) } else { from }
    }

    fn look(&mut self, now_ms: u64, shows_us: u32) {
        if self.looked_ms.is_some_and(|looked| now_ms.saturating_sub(looked) < LOOK_EVERY_MS) {
            return;
        }
        self.looked_ms = Some(now_ms);
        self.looks_us.truncate(LOOKS_KEPT - 1);
        self.looks_us.push_front(shows_us);
        if self.first_us.is_none() {
            self.first_us = self.usual_us();
        }
    }
}

/// Below this a pair is not slow any more that is from this rise on, µs.
fn well_below_us(slow_from_us: i64) -> i64 {
    slow_from_us * 7 / 10
}

/// Which storage network, which nodes.
type Key = (StorageNetworkIndex, NodeName, NodeName);

fn key(network: StorageNetworkIndex, (one, other): &Pair<'_>) -> Key {
    (network, (*one).clone(), (*other).clone())
}

/// What is remembered of round trips.
#[derive(Debug, Clone, Default)]
pub(super) struct Usual {
    known: BTreeMap<Key, Known>,
}

/// What a pair shows at a moment, and the rise of that.
struct Shown {
    shows_us: u32,
    rise_us: Option<i64>,
}

impl Usual {
    /// Where round trips are longer than they were, on all storage networks.
    pub(super) fn judge(
        &mut self,
        now_ms: u64,
        networks: &[StorageNetwork],
        (known_good, cables): (&[NodeCabling], &[Connection]),
        alive: &[(&NodeName, &Told)],
        is_judged: impl Fn(&StorageNetwork, Pair<'_>) -> bool,
    ) -> Vec<Found> {
        let shown = self.shown(alive, known_good);
        for (key, shown) in &shown {
            let known = self.known.entry(key.clone()).or_default();
            if let Some(rise) = shown.rise_us {
                known.is_slow = rise >= known.slow_from_us();
            }
            let well_below_us = well_below_us(known.slow_from_us());
            if !known.is_slow && shown.rise_us.is_none_or(|rise| rise < well_below_us) {
                known.look(now_ms, shown.shows_us);
            }
        }
        let is_across = |(one, other): &Pair<'_>| zone(known_good, one) != zone(known_good, other);
        let busy = self.busy(&shown);
        let mut found = Vec::new();
        for network in networks {
            let here = shown.iter().filter(|((index, ..), _)| *index == network.index);
            // What some pairs alone say may look like something else.
            if here.clone().any(|(_, shown)| shown.rise_us.is_none()) {
                continue;
            }
            let here = here.filter(|((_, one, other), shown)| {
                shown.rise_us.is_some()
                    && !busy.contains(one)
                    && !busy.contains(other)
                    && is_judged(network, pair(one, other))
            });
            let here: BTreeMap<Pair<'_>, (bool, i64)> = here
                .map(|(key, shown)| {
                    (pair(&key.1, &key.2), (self.is_slow(key), shown.rise_us.unwrap_or_default()))
                })
                .collect();
            let troubled = here.iter().map(|(pair, (is_slow, _))| (*pair, *is_slow)).collect();
            for (place, pairs) in Pairs::new(network, known_good, cables, troubled).places() {
                let is_left_over = self.is_left_over(now_ms, network.index, &pairs);
                let stands_out = self.stands_out(network.index, &pairs, &here, is_across)
                    && self.is_not_its_nodes(network.index, (&place, &pairs), &here, &shown);
                if is_left_over || !stands_out {
                    continue;
                }
                let rises = pairs.iter().map(|pair| here[pair].1);
                let by_us = u32::try_from(rises.min().unwrap_or_default()).unwrap_or_default();
                let said = |pair: &Pair<'_>| format!("{} and {}: {} µs more", pair.0, pair.1, here[pair].1);
                let evidence = pairs.iter().map(said).collect();
                let condition = Condition { what: What::Slow { place, by_us }, evidence };
                let is_alone = pairs.len() == 1 && here.len() > 1;
                let at_least_ms = if is_alone { LASTS_ALONE_MS } else { 0 };
                let raise_ms = self.lasts_ms(network, &pairs).max(at_least_ms);
                found.push(Found { condition, raise_ms, clear_ms: GONE_MS, is_by_chance: true });
            }
        }
        found
    }

    /// Whether what these pairs say is what is left of something that more of them had in common; remembers what they have in common.
    fn is_left_over(&mut self, now_ms: u64, network: StorageNetworkIndex, pairs: &[Pair<'_>]) -> bool {
        if let [alone] = pairs {
            let among_others_ms =
                self.known.get(&key(network, alone)).and_then(|known| known.among_others_ms);
            return among_others_ms.is_some_and(|ms| now_ms.saturating_sub(ms) < COUNTED_MS);
        }
        for pair in pairs {
            if let Some(known) = self.known.get_mut(&key(network, pair)) {
                known.among_others_ms = Some(now_ms);
            }
        }
        false
    }

    /// Whether a pair that is alone shows so much more than all others do that have a node or the way between the rooms in common with it.
    fn stands_out(
        &self,
        network: StorageNetworkIndex,
        pairs: &[Pair<'_>],
        here: &BTreeMap<Pair<'_>, (bool, i64)>,
        is_across: impl Fn(&Pair<'_>) -> bool,
    ) -> bool {
        let [alone] = pairs else { return true };
        let least_us = |is_like: &dyn Fn(&Pair<'_>) -> bool| {
            let others = here.iter().filter(|(pair, _)| *pair != alone && is_like(pair));
            others.map(|(_, (_, rise_us))| *rise_us).min().unwrap_or_default()
        };
        let of = |node: &NodeName| least_us(&|pair| pair.0 == node || pair.1 == node);
        let across_us = if is_across(alone) { least_us(&is_across) } else { 0 };
        let common_us = of(alone.0).max(of(alone.1)).max(across_us).max(0);
        self.is_enough(network, alone, here[alone].1 - common_us)
    }

    /// Whether a NIC or a pair shows so much more than the other storage NICs of its nodes do, by the median of each node's pairs there:
    /// one that had a quick round trip by chance doesn't say that a node is not busy.
    fn is_not_its_nodes(
        &self,
        network: StorageNetworkIndex,
        (place, pairs): (&Place, &[Pair<'_>]),
        here: &BTreeMap<Pair<'_>, (bool, i64)>,
        shown: &BTreeMap<Key, Shown>,
    ) -> bool {
        let elsewhere_us = |node: &NodeName| {
            let of_node = shown
                .iter()
                .filter(|((index, one, other), _)| *index != network && (one == node || other == node));
            let mut rises: Vec<i64> = of_node.filter_map(|(_, shown)| shown.rise_us).collect();
            rises.sort_unstable();
            let median = rises.get(rises.len() / 2).copied().filter(|_| rises.len() > 1);
            median.unwrap_or_default().max(0)
        };
        let common_us = match place {
            Place::Nic { node, .. } => elsewhere_us(node),
            Place::Path { from, to, .. } => elsewhere_us(from).max(elsewhere_us(to)),
            Place::Switch { .. } | Place::RoomLink { .. } => return true,
        };
        pairs.iter().all(|pair| self.is_enough(network, pair, here[pair].1 - common_us))
    }

    /// Whether a pair would be slow with such a rise, or go on being so.
    fn is_enough(&self, network: StorageNetworkIndex, pair: &Pair<'_>, rise_us: i64) -> bool {
        self.known.get(&key(network, pair)).is_some_and(|known| rise_us >= known.slow_from_us())
    }

    /// How long it must last when these pairs say so.
    fn lasts_ms(&self, network: &StorageNetwork, pairs: &[Pair<'_>]) -> u64 {
        let known = pairs.iter().filter_map(|pair| self.known.get(&key(network.index, pair)));
        let varies_us = known.map(Known::varies_us).max().unwrap_or_default();
        let most_ms = LASTS_VARYING_MS[pairs.len().clamp(1, LASTS_VARYING_MS.len()) - 1];
        LASTS_MS + (most_ms - LASTS_MS) * u64::from(varies_us).min(VARIES_MUCH_US) / VARIES_MUCH_US
    }

    /// Whether the usual of every pair that was ever heard is known.
    pub(super) fn is_known(&self) -> bool {
        !self.known.is_empty() && self.known.values().all(|known| known.usual_us().is_some())
    }

    fn is_slow(&self, key: &Key) -> bool {
        self.known.get(key).is_some_and(|known| known.is_slow)
    }

    /// What every pair shows, and by how much that is more than usual and than others'.
    fn shown(&self, alive: &[(&NodeName, &Told)], known_good: &[NodeCabling]) -> BTreeMap<Key, Shown> {
        let mut trips: BTreeMap<Key, (u32, u32)> = BTreeMap::new();
        for (node, told) in alive {
            for quality in &told.qualities {
                let Some(min_us) = quality.min_us else { continue };
                let (one, other) = pair(node, &quality.peer);
                let (count, shortest) =
                    trips.entry((quality.network, one.clone(), other.clone())).or_insert((0, u32::MAX));
                *count += quality.round_trips;
                *shortest = min_us.min(*shortest);
            }
        }
        trips.retain(|_, (count, _)| *count >= SAMPLES_MIN);
        let above = |key: &Key, shows_us: u32| {
            Some(i64::from(shows_us) - i64::from(self.known.get(key)?.usual_us()?))
        };
        let is_inside = |one, other| zone(known_good, one) == zone(known_good, other);
        let inside = trips.iter().filter(|((_, one, other), _)| is_inside(one, other));
        let mut inside: Vec<i64> = inside.filter_map(|(key, (_, us))| above(key, *us)).collect();
        inside.sort_unstable();
        let everywhere = inside.get(inside.len() / 4).copied().unwrap_or_default().max(0);
        let shown = |(key, (_, shows_us)): (Key, (u32, u32))| {
            let rise_us = above(&key, shows_us).map(|above| above - everywhere);
            (key, Shown { shows_us, rise_us })
        };
        trips.into_iter().map(shown).collect()
    }

    /// Nodes all of whose pairs are slow, on more than one storage network and with more than one peer.
    fn busy(&self, shown: &BTreeMap<Key, Shown>) -> BTreeSet<NodeName> {
        let nodes: BTreeSet<&NodeName> = shown.keys().flat_map(|(_, one, other)| [one, other]).collect();
        let is_busy = |node: &&NodeName| {
            let own: Vec<&Key> =
                shown.keys().filter(|(_, one, other)| one == *node || other == *node).collect();
            let networks: BTreeSet<StorageNetworkIndex> = own.iter().map(|(network, ..)| *network).collect();
            let peers: BTreeSet<&NodeName> = own.iter().flat_map(|(_, one, other)| [one, other]).collect();
            networks.len() > 1 && peers.len() > 2 && own.iter().all(|key| self.is_slow(key))
        };
        nodes.into_iter().filter(is_busy).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::{Memory, PathQuality};
    use crate::diagnose::Thresholds;
    use crate::testing::{When, World, cabling, spec};

    /// What is named at the end of half a minute in which all is well, and 15 s in which round trips take so much more.
    fn named(more_us: impl Fn(&str, &str, u8) -> u32) -> Vec<String> {
        let world = World { spec: spec(2), faults: Vec::new(), when: When::Soon };
        let known_good = cabling(&world.spec);
        let mut memory = Memory::default();
        let mut named = Vec::new();
        for now_ms in (0..45_000_u64).step_by(200) {
            let quality = |me: &NodeName, peer: &NodeName, network: StorageNetworkIndex| {
                let (one, other) = pair(me, peer);
                let more_us = more_us(one.as_str(), other.as_str(), network.get());
                let us = 2000 + if now_ms < 30_000 { 0 } else { more_us };
                let (min_us, median_us) = (Some(us), Some(us));
                PathQuality {
                    peer: peer.clone(),
                    network,
                    round_trips: 20,
                    min_us,
                    median_us,
                    large_missing: 0,
                }
            };
            let told = world.reports().into_iter().map(|report| {
                let paths = report.paths.iter();
                let qualities = paths.map(|path| quality(&report.node, &path.peer, path.network)).collect();
                Told { report, qualities }
            });
            let told: Vec<Told> = told.collect();
            let raised = memory.judge(now_ms, &world.spec, &known_good, &told, Thresholds::default());
            named = raised.iter().map(|raised| raised.condition.what.id()).collect();
        }
        named
    }

    /// One pair of the other NIC had a quick round trip, by chance.
    #[test]
    fn a_nic_of_a_node_that_is_busy_is_not_slow() {
        let of_n1 =
            |one: &str, _: &str, network: u8| if one == "n1" { 4500 + 500 * u32::from(network) } else { 0 };
        let but_one = |one: &str, other: &str, network: u8| {
            if (other, network) == ("n4", 1) { 0 } else { of_n1(one, other, network) }
        };
        assert_eq!(named(of_n1), Vec::<String>::new());
        assert_eq!(named(but_one), Vec::<String>::new());
        let of_its_nic = |one: &str, _: &str, network: u8| if one == "n1" && network == 2 { 4500 } else { 0 };
        assert_eq!(named(of_its_nic), ["slow:nic:n1:Ethernet 4"]);
    }
}
