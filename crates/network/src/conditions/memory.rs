//! Since when conditions hold, and which of them are certain.

use super::place::{Pair, pair, zone};
use super::slow::Usual;
use super::{Condition, Place, Told, What, large, wires};
use crate::diagnose::Thresholds;
use crate::lldp::ChassisId;
use crate::wiring::{Connection, NodeCabling, connections};
use model::{AdapterName, ClusterSpec, NodeName, StorageNetwork, StorageNetworkIndex, Wiring};
use std::collections::{BTreeMap, BTreeSet};

/// For how long what is raised stays so when nobody can tell any more, ms.
const UNTOLD_MAX_MS: u64 = 15_000;

/// A condition that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// What is wrong, as it was when it was raised.
    pub condition: Condition,
    /// Since when, by the clock of who judges, ms.
    pub since_ms: u64,
}

/// Something raised, and since when it is not found any more.
#[derive(Debug, Clone)]
struct Kept {
    raised: Raised,
    clear_ms: u64,
    well_since_ms: Option<u64>,
    untold_since_ms: Option<u64>,
}

/// What a watch remembers from one judgement to the next.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// What was found and is not raised yet, by id: since when without a break, ms, and whether it may be chance.
    suspected: BTreeMap<String, (u64, bool)>,
    raised: Vec<Kept>,
    usual: Usual,
}

/// Something that is found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) condition: Condition,
    /// For how long it must be found without a break to be raised, and not be found to be cleared, ms.
    pub(super) raise_ms: u64,
    pub(super) clear_ms: u64,
    /// Whether chance may make it look so.
    pub(super) is_by_chance: bool,
}

impl Found {
    /// What LLDP tells.
    fn told(condition: Condition) -> Self {
        Self { condition, raise_ms: 800, clear_ms: 800, is_by_chance: false }
    }

    /// What paths tell of large packets: it comes and goes a second apart on different paths.
    fn seen(condition: Condition) -> Self {
        Self { condition, raise_ms: 1500, clear_ms: 600, is_by_chance: false }
    }
}

/// What is known at a moment.
struct Moment<'a> {
    spec: &'a ClusterSpec,
    known_good: &'a [NodeCabling],
    /// The cables of better days.
    cables: Vec<Connection>,
    /// What every NIC of a node that reports sees now.
    now: Vec<NodeCabling>,
    fresh: Vec<(&'a NodeName, &'a Told)>,
    thresholds: Thresholds,
}

impl Memory {
    /// What is wrong, in the order in which it was raised.
    ///
    /// `known_good` is the cabling when all was well, as a diagnosis has it, and `now_ms` of any clock that doesn't stop.
    pub fn judge(
        &mut self,
        now_ms: u64,
        spec: &ClusterSpec,
        known_good: &[NodeCabling],
        told: &[Told],
        thresholds: Thresholds,
    ) -> Vec<Raised> {
        let moment = Moment::new(spec, known_good, told, thresholds);
        let wires = wires::found(spec, known_good, &moment.now);
        let explains: Vec<What> =
            wires.iter().map(|condition| condition.what.clone()).chain(self.whats()).collect();
        let mut found: Vec<Found> = wires.into_iter().map(Found::told).collect();
        let elsewhere = elsewhere(&explains);
        let mut wavering = BTreeSet::new();
        for network in &spec.storage_networks {
            let is_judged = |pair: Pair<'_>| {
                !has_nic_of(pair, network, &elsewhere) && !moment.is_small(pair, network, &explains)
            };
            let hears = |told: &Told, peer: &NodeName| moment.hears(told, peer, network.index);
            match large::judge(network, known_good, &moment.cables, &moment.fresh, is_judged, hears) {
                large::Verdict::Lost(conditions) => found.extend(conditions.into_iter().map(Found::seen)),
                large::Verdict::Wavering => drop(wavering.insert(network.index)),
            }
        }
        let is_judged = |network: &StorageNetwork, pair: Pair<'_>| !has_nic_of(pair, network, &elsewhere);
        let cabling = (known_good, &moment.cables[..]);
        found.extend(self.usual.judge(now_ms, &spec.storage_networks, cabling, &moment.fresh, is_judged));
        self.remember(now_ms, found, |what| moment.tells(what, &wavering));
        self.raised.iter().map(|kept| kept.raised.clone()).collect()
    }

    /// How many conditions are found and not certain yet, but for those that may be chance.
    pub fn suspected(&self) -> usize {
        self.suspected.values().filter(|(_, is_by_chance)| !is_by_chance).count()
    }

    /// Whether it is known how long round trips usually take, of all pairs: before, none can be found to be slow.
    pub fn knows_usual(&self) -> bool {
        self.usual.is_known()
    }

    fn whats(&self) -> impl Iterator<Item = What> {
        self.raised.iter().map(|kept| kept.raised.condition.what.clone())
    }

    /// Raises what was found for long enough, and clears what was not. `tells` says whether a thing that is not found would have been.
    fn remember(&mut self, now_ms: u64, found: Vec<Found>, tells: impl Fn(&What) -> bool) {
        let mut by_id: BTreeMap<String, Found> = BTreeMap::new();
        for found in found {
            by_id.entry(found.condition.what.id()).or_insert(found);
        }
        self.raised.retain_mut(|kept| {
            let what = &kept.raised.condition.what;
            if by_id.remove(&what.id()).is_some() {
                (kept.well_since_ms, kept.untold_since_ms) = (None, None);
                return true;
            }
            if tells(what) {
                kept.untold_since_ms = None;
                let since = *kept.well_since_ms.get_or_insert(now_ms);
                return now_ms.saturating_sub(since) < kept.clear_ms;
            }
            kept.well_since_ms = None;
            let since = *kept.untold_since_ms.get_or_insert(now_ms);
            now_ms.saturating_sub(since) < UNTOLD_MAX_MS
        });
        self.suspected.retain(|id, _| by_id.contains_key(id));
        for (id, Found { condition, raise_ms, clear_ms, is_by_chance }) in by_id {
            let (since_ms, _) = *self.suspected.entry(id.clone()).or_insert((now_ms, is_by_chance));
            if now_ms.saturating_sub(since_ms) >= raise_ms {
                self.suspected.remove(&id);
                let raised = Raised { condition, since_ms };
                self.raised.push(Kept { raised, clear_ms, well_since_ms: None, untold_since_ms: None });
            }
        }
    }
}

/// NICs whose cables lead elsewhere.
fn elsewhere(whats: &[What]) -> BTreeSet<(NodeName, AdapterName)> {
    let of = |cable: &Connection| (cable.node.clone(), cable.adapter.clone());
    let nics = whats.iter().flat_map(|what| match what {
        What::CableMoved { to, .. } => vec![of(to)],
        What::CablesSwapped { first, second } => vec![of(first), of(second)],
        _ => Vec::new(),
    });
    nics.collect()
}

fn has_nic_of(
    (one, other): Pair<'_>,
    network: &StorageNetwork,
    nics: &BTreeSet<(NodeName, AdapterName)>,
) -> bool {
    [one, other].into_iter().any(|node| nics.contains(&(node.clone(), network.adapter.clone())))
}

impl<'a> Moment<'a> {
    fn new(
        spec: &'a ClusterSpec,
        known_good: &'a [NodeCabling],
        told: &'a [Told],
        thresholds: Thresholds,
    ) -> Self {
        let is_fresh = |told: &&Told| told.report.age_ms <= thresholds.stale_after_ms;
        let fresh: Vec<(&NodeName, &Told)> =
            told.iter().filter(is_fresh).map(|told| (&told.report.node, told)).collect();
        let now = known_good.iter().filter_map(|known| {
            let (_, told) = fresh.iter().find(|(node, _)| **node == known.node)?;
            // Without carrier a neighbour is a memory.
            let nics = told.report.nics.iter().filter(|nic| nic.carrier == Some(true));
            let nics = nics.map(|nic| nic.cabling.clone()).collect();
            Some(NodeCabling { zone: known.zone.clone(), node: known.node.clone(), nics })
        });
        let now = now.collect();
        Self { spec, known_good, cables: connections(known_good), now, fresh, thresholds }
    }

    /// Whether a node has heard a peer lately on a storage network.
    fn hears(&self, told: &Told, peer: &NodeName, network: StorageNetworkIndex) -> bool {
        let path = told.report.paths.iter().find(|path| path.peer == *peer && path.network == network);
        let age_ms = told.report.age_ms;
        path.and_then(|path| path.heard_ms_ago)
            .is_some_and(|ms| ms.saturating_add(age_ms) <= self.thresholds.alive_within_ms)
    }

    /// Whether LLDP has told of a port or switch on a pair's way that takes only small frames. With wiring B the frames of one
    /// switch of a pair may come through the other.
    fn is_small(&self, (one, other): Pair<'_>, network: &StorageNetwork, whats: &[What]) -> bool {
        let is_pair = self.spec.wiring == Some(Wiring::B);
        let ends = |cable: &&Connection| {
            (cable.node == *one || cable.node == *other) && (is_pair || cable.adapter == network.adapter)
        };
        self.cables.iter().filter(ends).any(|cable| {
            whats.iter().any(|what| match what {
                What::SwitchFramesTooSmall { switch, .. } => cable.switch == *switch,
                What::PortFramesTooSmall { cable: small, .. } => {
                    (&small.node, &small.adapter) == (&cable.node, &network.adapter)
                }
                _ => false,
            })
        })
    }

    /// Whether somebody would tell if this were still so.
    fn tells(&self, what: &What, wavering: &BTreeSet<StorageNetworkIndex>) -> bool {
        let sees = |cable: &Connection| {
            let node = self.now.iter().find(|node| node.node == cable.node);
            let nic = node.and_then(|node| node.nics.iter().find(|nic| nic.adapter == cable.adapter));
            nic.is_some_and(|nic| nic.seen().is_some())
        };
        match what {
            What::CableMoved { to: cable, .. }
            | What::VlanMissing { cable, .. }
            | What::PortFramesTooSmall { cable, .. } => sees(cable),
            What::CablesSwapped { first, second } => sees(first) && sees(second),
            What::SwitchFramesTooSmall { switch, .. } => {
                self.cables.iter().filter(|cable| cable.switch == *switch).any(sees)
            }
            What::LargePacketsLost { place } => {
                wavering.is_empty()
                    && self.path_at(place, |told, peer, network| self.hears(told, peer, network))
            }
            What::Slow { place, .. } => self.path_at(place, |told, peer, network| {
                let quality = told.qualities.iter().find(|q| q.peer == *peer && q.network == network);
                quality.is_some_and(|quality| quality.min_us.is_some())
            }),
        }
    }

    /// Whether this holds of a path that leads through a place.
    fn path_at(&self, place: &Place, holds: impl Fn(&Told, &NodeName, StorageNetworkIndex) -> bool) -> bool {
        let zone = |node: &NodeName| zone(self.known_good, node);
        let is_on = |node: &NodeName, network: &StorageNetwork, switch: &ChassisId| {
            let mut nics = self.cables.iter();
            nics.any(|cable| {
                cable.node == *node && cable.adapter == network.adapter && cable.switch == *switch
            })
        };
        let leads = |one: &NodeName, other: &NodeName, network: &StorageNetwork| match place {
            Place::Switch { switch, .. } => is_on(one, network, switch) || is_on(other, network, switch),
            Place::RoomLink { network: index } => network.index == *index && zone(one) != zone(other),
            Place::Nic { node, adapter } => network.adapter == *adapter && (one == node || other == node),
            Place::Path { network: index, from, to } => {
                network.index == *index && pair(one, other) == pair(from, to)
            }
        };
        self.fresh.iter().any(|(node, told)| {
            told.qualities.iter().any(|quality| {
                let network = self.spec.storage_networks.iter().find(|n| n.index == quality.network);
                network.is_some_and(|network| {
                    leads(node, &quality.peer, network) && holds(told, &quality.peer, quality.network)
                })
            })
        })
    }
}
