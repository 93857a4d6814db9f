//! What reports say at first sight: nodes, switches and NICs that are plainly gone.

use super::loss::{Blocked, Diagnosis, Loss, Lost, Seen, Way};
use super::{NicId, NodeReport, Thresholds, nic_of};
use crate::lldp::ChassisId;
use crate::wiring::{Connection, NodeCabling};
use model::{NodeName, StorageNetwork, StorageNetworkIndex};
use std::collections::{BTreeMap, BTreeSet};

/// Whether what one node sends reaches another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathState {
    Alive,
    /// For how long, ms; `None`: since ever.
    Dead(Option<u32>),
    Unknown,
}

/// All reports, each looked at once.
pub(super) struct View<'a> {
    pub(super) known_good: &'a [NodeCabling],
    /// Reports that are young enough.
    fresh: BTreeMap<&'a NodeName, &'a NodeReport>,
    /// Ages of reports that aren't.
    stale: BTreeMap<&'a NodeName, u32>,
    heard: BTreeMap<(&'a NodeName, &'a NodeName, StorageNetworkIndex), Option<u32>>,
    thresholds: Thresholds,
}

impl<'a> View<'a> {
    pub(super) fn new(
        known_good: &'a [NodeCabling],
        reports: &'a [NodeReport],
        thresholds: Thresholds,
    ) -> Self {
        let is_fresh = |report: &&NodeReport| report.age_ms <= thresholds.stale_after_ms;
        let fresh: BTreeMap<_, _> =
            reports.iter().filter(is_fresh).map(|report| (&report.node, report)).collect();
        let stale = reports
            .iter()
            .filter(|report| !fresh.contains_key(&report.node))
            .map(|report| (&report.node, report.age_ms))
            .collect();
        let heard = fresh
            .values()
            .flat_map(|report| report.paths.iter().map(|path| (&report.node, path)))
            .map(|(by, path)| ((by, &path.peer, path.network), path.heard_ms_ago))
            .collect();
        Self { known_good, fresh, stale, heard, thresholds }
    }

    /// Nodes that have zones; the witness is no matter of storage networks.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &'a NodeName> {
        self.known_good.iter().filter(|node| node.zone.is_some()).map(|node| &node.node)
    }

    pub(super) fn reports(&self, node: &NodeName) -> bool {
        self.fresh.contains_key(node)
    }

    /// What the receiver says.
    pub(super) fn path(&self, from: &NodeName, to: &NodeName, network: StorageNetworkIndex) -> PathState {
        let Some(report) = self.fresh.get(to) else { return PathState::Unknown };
        match self.heard.get(&(to, from, network)) {
            Some(Some(ms)) if *ms <= self.thresholds.dead_after_ms => PathState::Alive,
            Some(Some(ms)) => PathState::Dead(Some(*ms)),
            Some(None) if report.listening_ms > self.thresholds.dead_after_ms => PathState::Dead(None),
            Some(None) | None => PathState::Unknown,
        }
    }

    pub(super) fn seen(&self, from: &NodeName, to: &NodeName, network: StorageNetworkIndex) -> Option<Seen> {
        let (by, peer) = (to.clone(), from.clone());
        match self.path(from, to, network) {
            PathState::Alive => Some(Seen::Heard { by, peer, network }),
            PathState::Dead(for_ms) => Some(Seen::NotHeard { by, peer, network, for_ms }),
            PathState::Unknown => None,
        }
    }

    fn networks_heard(&self) -> BTreeSet<StorageNetworkIndex> {
        self.heard.keys().map(|(_, _, network)| *network).collect()
    }

    /// A node that is silent: it does not report, and somebody who listens hears it nowhere.
    pub(super) fn is_silent(&self, node: &NodeName) -> bool {
        !self.reports(node) && {
            let states: Vec<PathState> = self.towards_all(node).map(|(_, _, state)| state).collect();
            let alive = states.contains(&PathState::Alive);
            !alive && states.iter().any(|state| matches!(state, PathState::Dead(_)))
        }
    }

    fn towards_all(
        &self,
        from: &'a NodeName,
    ) -> impl Iterator<Item = (&'a NodeName, StorageNetworkIndex, PathState)> {
        let networks = self.networks_heard();
        let others: Vec<&'a NodeName> = self.nodes().filter(|to| *to != from).collect();
        let all: Vec<_> = others
            .into_iter()
            .flat_map(|to| networks.iter().map(move |network| (to, *network)))
            .map(|(to, network)| (to, network, self.path(from, to, network)))
            .collect();
        all.into_iter()
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
                diagnosis.losses.push(Loss { what, evidence, could_also_be: Vec::new() });
            } else {
                let what = format!("what node {node} hears");
                diagnosis.blocked.push(Blocked { what, why: missing.to_string() });
            }
        }
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

    /// Switches all of whose NICs are in trouble. Returns those NICs.
    pub(super) fn lost_switches(&self, cables: &[Connection], diagnosis: &mut Diagnosis) -> BTreeSet<NicId> {
        let mut on_switch: BTreeMap<&ChassisId, Vec<&Connection>> = BTreeMap::new();
        for cable in cables.iter().filter(|cable| self.reports(&cable.node)) {
            on_switch.entry(&cable.switch).or_default().push(cable);
        }
        let mut out = BTreeSet::new();
        for (switch, cables) in on_switch {
            let evidence: Vec<Seen> = cables.iter().filter_map(|cable| self.trouble(cable)).collect();
            if cables.len() < 2 || evidence.len() < cables.len() {
                continue;
            }
            out.extend(cables.iter().map(|cable| nic_of(cable)));
            let what = Lost::Switch { switch: switch.clone(), name: cables[0].switch_name.clone() };
            diagnosis.losses.push(Loss { what, evidence, could_also_be: Vec::new() });
        }
        out
    }

    /// NICs whose paths can't speak about their switch: without carrier, or cabled to another one. A neighbour that is
    /// merely missing says nothing of the kind: where a switch went mute, neighbours time out one by one.
    pub(super) fn not_on_their_switch(&self, cables: &[Connection]) -> BTreeSet<NicId> {
        let elsewhere = |cable: &&Connection| {
            self.trouble(cable).is_some_and(|trouble| !matches!(trouble, Seen::NoNeighbour { now: None, .. }))
        };
        cables.iter().filter(elsewhere).map(nic_of).collect()
    }

    /// NICs without carrier; NICs without neighbour that are no use either. Returns them.
    pub(super) fn lost_nics(
        &self,
        networks: &[StorageNetwork],
        cables: &[Connection],
        explained: &BTreeSet<NicId>,
        diagnosis: &mut Diagnosis,
    ) -> BTreeSet<NicId> {
        let mut out = BTreeSet::new();
        for cable in cables.iter().filter(|cable| !explained.contains(&nic_of(cable))) {
            let Some(trouble) = self.trouble(cable) else { continue };
            let mut evidence = vec![trouble];
            let what = if matches!(evidence[0], Seen::NoNeighbour { now: None, .. }) {
                match self.deaf(networks, cable, explained, &mut evidence) {
                    Deaf::Lost => nic_lost(cable),
                    Deaf::OneWay => nic_one_way(cable, Way::Receive),
                    Deaf::OnlyToLldp => continue,
                }
            } else {
                nic_lost(cable)
            };
            out.insert(nic_of(cable));
            diagnosis.losses.push(Loss { what, evidence, could_also_be: Vec::new() });
        }
        out
    }

    /// A NIC with carrier whose switch is not heard: paths tell what else comes through.
    fn deaf(
        &self,
        networks: &[StorageNetwork],
        cable: &Connection,
        explained: &BTreeSet<NicId>,
        evidence: &mut Vec<Seen>,
    ) -> Deaf {
        let node = &cable.node;
        let (mut sends, mut receives) = (false, false);
        for network in networks.iter().filter(|network| network.adapter == cable.adapter) {
            let reachable = |peer: &&NodeName| {
                *peer != node && !explained.contains(&((*peer).clone(), network.adapter.clone()))
            };
            for peer in self.nodes().filter(reachable) {
                sends |= self.path(node, peer, network.index) == PathState::Alive;
                receives |= self.path(peer, node, network.index) == PathState::Alive;
                evidence.extend(self.seen(node, peer, network.index));
                evidence.extend(self.seen(peer, node, network.index));
            }
        }
        match (sends, receives) {
            (_, true) => Deaf::OnlyToLldp,
            (true, false) => Deaf::OneWay,
            (false, false) => Deaf::Lost,
        }
    }
}

enum Deaf {
    Lost,
    OneWay,
    OnlyToLldp,
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
