//! What reports say at first sight: nodes, switches and NICs that are plainly gone.

use super::loss::{Blocked, Diagnosis, Loss, Lost, Seen, Way};
use super::{NicId, NodeReport, PathView, Thresholds, nic_of};
use crate::lldp::ChassisId;
use crate::wiring::{Connection, NodeCabling};
use model::{NodeName, StorageNetwork, StorageNetworkIndex};
use std::collections::{BTreeMap, BTreeSet};

/// Whether what one node sends reaches another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathState {
    /// Heard so lately that nothing can have happened to it before the oldest silence that counts as dead began.
    Alive,
    /// For how long by the time of the report, ms; `None`: since ever.
    Dead(Option<u32>),
    /// Silent for longer than an interval or two, not for long enough. The next reports decide.
    Wavering,
    /// The receiver has not reported lately, or is not asked to listen.
    Unknown,
}

/// All reports, each looked at once.
pub(super) struct View<'a> {
    pub(super) known_good: &'a [NodeCabling],
    /// Reports that are young enough.
    fresh: BTreeMap<&'a NodeName, &'a NodeReport>,
    /// Ages of reports that aren't.
    stale: BTreeMap<&'a NodeName, u32>,
    heard: BTreeMap<(&'a NodeName, &'a NodeName, StorageNetworkIndex), &'a PathView>,
    networks: BTreeSet<StorageNetworkIndex>,
    silent: BTreeSet<&'a NodeName>,
    perhaps_gone: BTreeSet<&'a NodeName>,
    /// NICs that have carrier, and lost it a moment ago.
    pub(super) young: BTreeSet<NicId>,
    thresholds: Thresholds,
}

impl<'a> View<'a> {
    pub(super) fn new(
        known_good: &'a [NodeCabling],
        reports: &'a [NodeReport],
        thresholds: Thresholds,
        young: BTreeSet<NicId>,
    ) -> Self {
        let is_fresh = |report: &&NodeReport| report.age_ms <= thresholds.stale_after_ms;
        let fresh: BTreeMap<_, _> =
            reports.iter().filter(is_fresh).map(|report| (&report.node, report)).collect();
        let stale = reports
            .iter()
            .filter(|report| !fresh.contains_key(&report.node))
            .map(|report| (&report.node, report.age_ms))
            .collect();
        let heard: BTreeMap<_, _> = fresh
            .values()
            .flat_map(|report| report.paths.iter().map(|path| (&report.node, path)))
            .map(|(by, path)| ((by, &path.peer, path.network), path))
            .collect();
        let networks = heard.keys().map(|(_, _, network)| *network).collect();
        let (silent, perhaps_gone) = (BTreeSet::new(), BTreeSet::new());
        let mut view =
            Self { known_good, fresh, stale, heard, networks, silent, perhaps_gone, young, thresholds };
        view.silent = view.nodes().filter(|node| view.looks_silent(node)).collect();
        view.perhaps_gone = view.nodes().filter(|node| view.looks_gone(node)).collect();
        view
    }

    /// Nodes that have zones; the witness is no matter of storage networks.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &'a NodeName> {
        self.known_good.iter().filter(|node| node.zone.is_some()).map(|node| &node.node)
    }

    pub(super) fn reports(&self, node: &NodeName) -> bool {
        self.fresh.contains_key(node)
    }

    /// What the receiver says. That it heard something is reckoned to now; that it heard nothing, only up to when it said so.
    pub(super) fn path(&self, from: &NodeName, to: &NodeName, network: StorageNetworkIndex) -> PathState {
        let Some(report) = self.fresh.get(to) else { return PathState::Unknown };
        let Thresholds { alive_within_ms, dead_after_ms, .. } = self.thresholds;
        match self.heard.get(&(to, from, network)).map(|path| path.heard_ms_ago) {
            Some(Some(ms)) if ms.saturating_add(report.age_ms) <= alive_within_ms => PathState::Alive,
            Some(Some(ms)) if ms > dead_after_ms => PathState::Dead(Some(ms)),
            Some(None) if report.listening_ms > dead_after_ms => PathState::Dead(None),
            Some(_) => PathState::Wavering,
            None => PathState::Unknown,
        }
    }

    /// Whether a path is alive and has been for a while. One that is not may have come back before others that went with it.
    pub(super) fn is_steady(&self, from: &NodeName, to: &NodeName, network: StorageNetworkIndex) -> bool {
        let late_ms_ago = self.heard.get(&(to, from, network)).and_then(|path| path.late_ms_ago);
        self.path(from, to, network) == PathState::Alive
            && late_ms_ago.is_none_or(|ms| ms > self.thresholds.steady_after_ms)
    }

    pub(super) fn seen(&self, from: &NodeName, to: &NodeName, network: StorageNetworkIndex) -> Option<Seen> {
        let (by, peer) = (to.clone(), from.clone());
        match self.path(from, to, network) {
            PathState::Alive => Some(Seen::Heard { by, peer, network }),
            PathState::Dead(for_ms) => Some(Seen::NotHeard { by, peer, network, for_ms }),
            PathState::Wavering | PathState::Unknown => None,
        }
    }

    /// A node that is silent: it does not report, and who listens and hears others hears it nowhere.
    pub(super) fn is_silent(&self, node: &NodeName) -> bool {
        self.silent.contains(node)
    }

    fn looks_silent(&self, node: &NodeName) -> bool {
        if self.reports(node) {
            return false;
        }
        let states: Vec<PathState> = self.towards_all(node).map(|(_, _, state)| state).collect();
        let open = states.iter().any(|state| matches!(state, PathState::Alive | PathState::Wavering));
        let witness = |(to, network, state): (&NodeName, StorageNetworkIndex, PathState)| {
            matches!(state, PathState::Dead(_)) && (self.hears_somebody(to, network) || self.is_alone(to))
        };
        !open && self.towards_all(node).any(witness)
    }

    /// Whether a node may be gone: it has not reported for a while, and nobody hears it anywhere. As long as that is so,
    /// its dead paths say nothing about cables and switches.
    pub(super) fn may_be_gone(&self, node: &NodeName) -> bool {
        self.perhaps_gone.contains(node)
    }

    fn looks_gone(&self, node: &NodeName) -> bool {
        let age_ms = self.fresh.get(node).map_or(u32::MAX, |report| report.age_ms);
        age_ms > self.thresholds.alive_within_ms
            && self.towards_all(node).all(|(_, _, state)| state != PathState::Alive)
    }

    /// Whether a node has heard anybody lately on a storage network; else it may be deaf.
    fn hears_somebody(&self, node: &NodeName, network: StorageNetworkIndex) -> bool {
        self.nodes().any(|from| self.path(from, node, network) == PathState::Alive)
    }

    /// Whether a node is the only one that reports.
    fn is_alone(&self, node: &NodeName) -> bool {
        self.nodes().filter(|other| self.reports(other)).all(|other| other == node)
    }

    fn towards_all<'b>(
        &'b self,
        from: &'b NodeName,
    ) -> impl Iterator<Item = (&'a NodeName, StorageNetworkIndex, PathState)> + 'b {
        let all = self.nodes().filter(move |to| *to != from);
        let all = all.flat_map(|to| self.networks.iter().map(move |network| (to, *network)));
        all.map(move |(to, network)| (to, network, self.path(from, to, network)))
    }

    pub(super) fn silent_nodes(&self, diagnosis: &mut Diagnosis) {
        for node in self.nodes().filter(|node| !self.reports(node)) {
            let age_ms = self.stale.get(node).copied();
            let missing = Seen::NoReport { node: node.clone(), age_ms };
            if self.is_silent(node) {
                let unheard =
                    self.towards_all(node).filter_map(|(to, network, _)| self.seen(node, to, network));
                let evidence = std::iter::once(missing).chain(unheard).collect();
                let what = Lost::Node { node: node.clone() };
                diagnosis.losses.push(Loss { what, evidence, could_also_be: self.instead_of(node) });
            } else {
                let what = format!("what node {node} hears");
                diagnosis.blocked.push(Blocked { what, why: missing.to_string() });
            }
        }
    }

    /// What would make a node look silent that is well: who could know is in the other room, or may be deaf.
    fn instead_of(&self, node: &NodeName) -> Vec<String> {
        let zone = |name: &NodeName| {
            self.known_good.iter().find(|known| known.node == *name).and_then(|known| known.zone.as_ref())
        };
        let reporting: Vec<&NodeName> = self.nodes().filter(|other| self.reports(other)).collect();
        let mut words = Vec::new();
        if reporting.iter().all(|other| zone(other) != zone(node)) {
            words.push("everything between the rooms".to_owned());
        }
        if let [alone] = reporting.as_slice() {
            words.push(format!("all storage NICs of {alone}, which hears nobody"));
        }
        words
    }

    /// What speaks against a NIC that had a cable, if its node reports.
    fn trouble(&self, cable: &Connection) -> Option<Seen> {
        let (node, adapter) = nic_of(cable);
        let report = self.fresh.get(&node)?;
        let nic = report.nics.iter().find(|nic| nic.cabling.adapter == adapter)?;
        if nic.carrier != Some(true) {
            return Some(Seen::NoCarrier { node, adapter });
        }
        let now = nic.cabling.seen().map(|seen| seen.chassis_id.clone());
        (now.as_ref() != Some(&cable.switch)).then_some(Seen::NoNeighbour { node, adapter, now })
    }

    /// Whether a NIC hears another switch than it did: its cable was moved.
    fn hears_another(&self, cable: &Connection) -> bool {
        matches!(self.trouble(cable), Some(Seen::NoNeighbour { now: Some(_), .. }))
    }

    /// Switches all of whose NICs are in trouble. Returns those NICs, and those of nodes without which a switch can't be
    /// judged.
    ///
    /// NICs that merely hear no LLDP convict nobody alone: what else they carry must be dead, too. NICs that hear another switch say
    /// nothing of the one that they were cabled to.
    pub(super) fn lost_switches(
        &self,
        networks: &[StorageNetwork],
        cables: &[Connection],
        diagnosis: &mut Diagnosis,
    ) -> BTreeSet<NicId> {
        let mut on_switch: BTreeMap<&ChassisId, Vec<&Connection>> = BTreeMap::new();
        let at_it = |cable: &&Connection| !self.is_silent(&cable.node) && !self.hears_another(cable);
        for cable in cables.iter().filter(at_it) {
            on_switch.entry(&cable.switch).or_default().push(cable);
        }
        let mut out = BTreeSet::new();
        for (switch, cables) in on_switch {
            let (told, untold): (Vec<&Connection>, Vec<&Connection>) =
                cables.into_iter().partition(|cable| self.reports(&cable.node));
            let evidence: Vec<Seen> = told.iter().filter_map(|cable| self.trouble(cable)).collect();
            if told.len() < 2 || evidence.len() < told.len() || !self.nothing_passes(networks, &told) {
                continue;
            }
            let name = told[0].switch_name.clone();
            if let Some(unknown) = untold.first() {
                let what = format!("whether switch {switch} is lost");
                let why = format!("node {}, which is cabled to it, has not reported lately", unknown.node);
                diagnosis.blocked.push(Blocked { what, why });
                out.extend(untold.iter().map(|cable| nic_of(cable)));
                continue;
            }
            out.extend(told.iter().map(|cable| nic_of(cable)));
            let could_also_be = one_node_alone(&told);
            let what = Lost::Switch { switch: switch.clone(), name };
            diagnosis.losses.push(Loss { what, evidence, could_also_be });
        }
        out
    }

    /// Whether NICs in trouble are of no use: one at least is plainly cut off, or carries storage that is dead; and
    /// nothing is heard through any.
    fn nothing_passes(&self, networks: &[StorageNetwork], cables: &[&Connection]) -> bool {
        let mut cut_off = false;
        for cable in cables {
            if !self.trouble(cable).as_ref().is_some_and(is_silence) {
                cut_off = true;
                continue;
            }
            let (sends, receives) = self.through(networks, cable, &BTreeSet::new());
            let states: Vec<PathState> = sends.into_iter().chain(receives).collect();
            if states.iter().any(|state| matches!(state, PathState::Alive | PathState::Wavering)) {
                return false;
            }
            cut_off |= states.iter().any(|state| matches!(state, PathState::Dead(_)));
        }
        cut_off
    }

    /// NICs whose paths can't speak about their switch: without carrier, or cabled to another one. A neighbour that is
    /// merely missing says nothing of the kind: where a switch went mute, neighbours time out one by one.
    pub(super) fn not_on_their_switch(&self, cables: &[Connection]) -> BTreeSet<NicId> {
        let elsewhere =
            |cable: &&Connection| self.trouble(cable).is_some_and(|trouble| !is_silence(&trouble));
        cables.iter().filter(elsewhere).map(nic_of).collect()
    }

    /// NICs without carrier; NICs without neighbour, or with another one, that are no use either. (That a cable was moved is a
    /// condition, not a loss.) Returns those that are lost, and those that only receive nothing.
    pub(super) fn lost_nics(
        &self,
        networks: &[StorageNetwork],
        cables: &[Connection],
        explained: &BTreeSet<NicId>,
        diagnosis: &mut Diagnosis,
    ) -> (BTreeSet<NicId>, BTreeSet<NicId>) {
        let (mut out, mut deaf) = (BTreeSet::new(), BTreeSet::new());
        for cable in cables.iter().filter(|cable| !explained.contains(&nic_of(cable))) {
            if self.young.contains(&nic_of(cable)) {
                self.young_nic(networks, cables, cable, explained, diagnosis);
                continue;
            }
            let Some(trouble) = self.trouble(cable) else { continue };
            let mut evidence = vec![trouble];
            let mut could_also_be = Vec::new();
            let moved = self.hears_another(cable);
            let what = if is_silence(&evidence[0]) || moved {
                evidence.extend(self.seen_through(networks, cable, explained));
                match self.deaf(networks, cable, explained) {
                    Deaf::Lost => nic_lost(cable),
                    Deaf::OneWay => nic_one_way(cable, Way::Receive),
                    Deaf::OnlyToLldp => continue,
                    Deaf::CantTell if moved && self.peers(networks, cable, explained).next().is_none() => {
                        continue;
                    }
                    Deaf::CantTell => {
                        let what = format!("whether {} of node {} works", cable.adapter, cable.node);
                        let hears = if moved { "another switch than before" } else { "no switch" };
                        let why = format!("it has carrier and hears {hears}, and nothing else shows");
                        diagnosis.blocked.push(Blocked { what, why });
                        continue;
                    }
                }
            } else {
                could_also_be.extend(self.instead_of_nic(cable, cables));
                nic_lost(cable)
            };
            let one_way = matches!(what, Lost::NicOneWay { .. });
            if one_way { &mut deaf } else { &mut out }.insert(nic_of(cable));
            diagnosis.losses.push(Loss { what, evidence, could_also_be });
        }
        (out, deaf)
    }

    /// A NIC whose carrier came back a moment ago is still lost if nothing that it sends, or nothing that is sent to it, comes
    /// through; unless it isn't alone on its switch in that.
    fn young_nic(
        &self,
        networks: &[StorageNetwork],
        cables: &[Connection],
        cable: &Connection,
        explained: &BTreeSet<NicId>,
        diagnosis: &mut Diagnosis,
    ) {
        let (sends, receives) = self.through(networks, cable, explained);
        if sends.iter().chain(&receives).all(|state| *state == PathState::Alive) {
            return;
        }
        let alone = |other: &&Connection| other.switch != cable.switch || *other == cable;
        let others_too =
            cables.iter().filter(|other| !alone(other)).any(|other| self.young.contains(&nic_of(other)));
        if !others_too && (all_dead(&sends) || all_dead(&receives)) {
            let (node, adapter) = nic_of(cable);
            let mut evidence = vec![Seen::CarrierBack { node, adapter }];
            evidence.extend(self.seen_through(networks, cable, explained));
            diagnosis.losses.push(Loss { what: nic_lost(cable), evidence, could_also_be: Vec::new() });
        } else {
            let what = format!("whether {} of node {} works", cable.adapter, cable.node);
            let why = "its carrier came back a moment ago".to_owned();
            diagnosis.blocked.push(Blocked { what, why });
        }
    }

    /// Its switch, when all of its NICs that are known of are in trouble.
    fn instead_of_nic(&self, cable: &Connection, cables: &[Connection]) -> Option<String> {
        let mut others = cables.iter().filter(|other| other.switch == cable.switch && *other != cable);
        let known = others.clone().any(|other| self.reports(&other.node));
        let all = others.all(|other| !self.reports(&other.node) || self.trouble(other).is_some());
        (known && all).then(|| format!("switch {}", cable.switch))
    }

    /// Peers that a NIC should reach on the storage networks that it carries.
    fn peers<'b>(
        &'b self,
        networks: &'b [StorageNetwork],
        cable: &'b Connection,
        explained: &'b BTreeSet<NicId>,
    ) -> impl Iterator<Item = (&'a NodeName, StorageNetworkIndex)> + 'b {
        networks.iter().filter(|network| network.adapter == cable.adapter).flat_map(move |network| {
            let reachable = move |peer: &&NodeName| {
                **peer != cable.node
                    && !explained.contains(&((*peer).clone(), network.adapter.clone()))
                    && !self.may_be_gone(peer)
            };
            self.nodes().filter(reachable).map(move |peer| (peer, network.index))
        })
    }

    /// The states of what a NIC sends, and of what it should receive.
    fn through(
        &self,
        networks: &[StorageNetwork],
        cable: &Connection,
        explained: &BTreeSet<NicId>,
    ) -> (Vec<PathState>, Vec<PathState>) {
        let both =
            |(peer, network)| (self.path(&cable.node, peer, network), self.path(peer, &cable.node, network));
        self.peers(networks, cable, explained).map(both).unzip()
    }

    fn seen_through(
        &self,
        networks: &[StorageNetwork],
        cable: &Connection,
        explained: &BTreeSet<NicId>,
    ) -> Vec<Seen> {
        let both =
            |(peer, network)| [self.seen(&cable.node, peer, network), self.seen(peer, &cable.node, network)];
        self.peers(networks, cable, explained).flat_map(both).flatten().collect()
    }

    /// A NIC with carrier whose switch is not heard: paths tell what else comes through.
    fn deaf(&self, networks: &[StorageNetwork], cable: &Connection, explained: &BTreeSet<NicId>) -> Deaf {
        let (sends, receives) = self.through(networks, cable, explained);
        if receives.contains(&PathState::Alive) {
            return Deaf::OnlyToLldp;
        }
        let steady = |(peer, network)| self.is_steady(&cable.node, peer, network);
        let is_heard = self.peers(networks, cable, explained).any(steady);
        match (is_heard, all_dead(&sends), all_dead(&receives)) {
            (true, _, true) => Deaf::OneWay,
            (false, true, true) => Deaf::Lost,
            _ => Deaf::CantTell,
        }
    }
}

/// Whether there are any and all are dead.
fn all_dead(states: &[PathState]) -> bool {
    !states.is_empty() && states.iter().all(|state| matches!(state, PathState::Dead(_)))
}

/// What one node alone says of a switch can be its own cables' fault.
fn one_node_alone(cables: &[&Connection]) -> Vec<String> {
    if cables.iter().any(|cable| cable.node != cables[0].node) {
        return Vec::new();
    }
    let adapters: Vec<&str> = cables.iter().map(|cable| cable.adapter.as_str()).collect();
    vec![format!("the cables of {} {}, all at once", cables[0].node, adapters.join(" and "))]
}

/// A NIC with carrier that hears no switch at all.
fn is_silence(trouble: &Seen) -> bool {
    matches!(trouble, Seen::NoNeighbour { now: None, .. })
}

enum Deaf {
    Lost,
    OneWay,
    OnlyToLldp,
    CantTell,
}

pub(super) fn nic_lost(cable: &Connection) -> Lost {
    Lost::Nic {
        node: cable.node.clone(),
        adapter: cable.adapter.clone(),
        switch: cable.switch.clone(),
        switch_name: cable.switch_name.clone(),
        port: cable.port.clone(),
    }
}

pub(super) fn nic_one_way(cable: &Connection, way: Way) -> Lost {
    Lost::NicOneWay {
        node: cable.node.clone(),
        adapter: cable.adapter.clone(),
        way,
        switch: cable.switch.clone(),
        switch_name: cable.switch_name.clone(),
        port: cable.port.clone(),
    }
}
