//! Which of the reference wirings the cables are.
//!
//! This version knows option A. B looks like A by its cables alone and differs in that both storage VLANs are on both switches,
//! so a switch that doesn't tell its VLANs leaves the two apart unknown.

use super::check::{carried, storage_switches};
use super::{NodeCabling, connections};
use crate::lldp::ChassisId;
use model::{ClusterSpec, VlanId, Wiring, ZoneName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the cables are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recognised {
    /// This reference wiring.
    As(Wiring),
    /// None that is known, or not enough is seen.
    Unknown {
        /// What spoke against it.
        why: String,
    },
}

impl fmt::Display for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::As(wiring) => write!(f, "wiring option {wiring:?}"),
            Self::Unknown { why } => write!(f, "no wiring option that is known: {why}"),
        }
    }
}

/// Recognises the wiring by who sees whom.
pub fn recognise(spec: &ClusterSpec, cabling: &[NodeCabling]) -> Recognised {
    match option_a(spec, cabling) {
        Ok(()) => Recognised::As(Wiring::A),
        Err(why) => Recognised::Unknown { why },
    }
}

fn option_a(spec: &ClusterSpec, cabling: &[NodeCabling]) -> Result<(), String> {
    let mut of_zone: BTreeMap<&ZoneName, BTreeSet<&ChassisId>> = BTreeMap::new();
    for node in cabling {
        let Some(zone) = &node.zone else { continue };
        let switches = storage_switches(node);
        if switches.len() != 2 {
            return Err(format!("the storage NICs of {} see {} switches, not 2", node.node, switches.len()));
        }
        of_zone.entry(zone).or_default().extend(switches.keys());
    }
    if of_zone.len() != 2 {
        return Err(format!("{} zones are seen, not 2", of_zone.len()));
    }
    for (zone, switches) in &of_zone {
        if switches.len() != 2 {
            return Err(format!("the storage NICs of zone {zone} see {} switches, not 2", switches.len()));
        }
    }
    let zones_of = |switch: &ChassisId| of_zone.values().filter(|switches| switches.contains(switch)).count();
    let cables = connections(cabling);
    if let Some(shared) = cables.iter().find(|cable| zones_of(&cable.switch) > 1) {
        return Err(format!("switch {} serves both zones", shared.switch));
    }
    one_storage_vlan_each(spec, cabling)
}

fn one_storage_vlan_each(spec: &ClusterSpec, cabling: &[NodeCabling]) -> Result<(), String> {
    let storage: BTreeSet<VlanId> = spec.storage_networks.iter().map(|network| network.vlan).collect();
    let mut on_switch: BTreeMap<&ChassisId, BTreeSet<VlanId>> = BTreeMap::new();
    for node in cabling.iter().filter(|node| node.zone.is_some()) {
        for (switch, nics) in storage_switches(node) {
            for seen in nics.iter().filter_map(|nic| nic.seen()) {
                let vlans = carried(seen)
                    .ok_or_else(|| format!("switch {switch} does not tell its VLANs: option A or B"))?;
                on_switch.entry(switch).or_default().extend(vlans.intersection(&storage));
            }
        }
    }
    match on_switch.iter().find(|(_, vlans)| vlans.len() != 1) {
        Some((switch, vlans)) => Err(format!("switch {switch} carries {} storage VLANs, not 1", vlans.len())),
        None => Ok(()),
    }
}
