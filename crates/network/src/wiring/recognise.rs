//! Which of the reference wirings the cables are.
//!
//! By who sees whom: A and B have two switches per zone, of its own; C has one; in D both zones share the same two. A looks like
//! B by its cables alone and differs in that each of its switches has one storage VLAN, so a switch that doesn't tell its VLANs
//! leaves the two apart unknown. What joins the switches to each other no node can see.

use super::check::{carried, storage_switches};
use super::{NodeCabling, connections};
use crate::lldp::ChassisId;
use model::{AdapterName, ClusterSpec, VlanId, Wiring, ZoneName};
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
    match one_of_four(spec, cabling) {
        Ok(wiring) => Recognised::As(wiring),
        Err(why) => Recognised::Unknown { why },
    }
}

fn one_of_four(spec: &ClusterSpec, cabling: &[NodeCabling]) -> Result<Wiring, String> {
    if is_option_c(cabling) {
        return Ok(Wiring::C);
    }
    let of_zone = switches_of_zones(cabling)?;
    let zones: Vec<_> = of_zone.values().collect();
    if let [one, other] = zones.as_slice()
        && one == other
    {
        return networks_have_switches_of_their_own(cabling).map(|()| Wiring::D);
    }
    let zones_of = |switch: &ChassisId| of_zone.values().filter(|switches| switches.contains(switch)).count();
    let cables = connections(cabling);
    if let Some(shared) = cables.iter().find(|cable| zones_of(&cable.switch) > 1) {
        return Err(format!("switch {} serves both zones", shared.switch));
    }
    a_or_b(spec, cabling)
}

/// Every NIC of a zone sees the zone's one switch, none is deaf, and the zones' switches are two.
fn is_option_c(cabling: &[NodeCabling]) -> bool {
    let mut of_zone: BTreeMap<&ZoneName, BTreeSet<Option<&ChassisId>>> = BTreeMap::new();
    for node in cabling {
        let Some(zone) = &node.zone else { continue };
        let seen = node.nics.iter().map(|nic| nic.seen().map(|seen| &seen.chassis_id));
        of_zone.entry(zone).or_default().extend(seen);
    }
    let switches: BTreeSet<_> = of_zone.values().flatten().collect();
    of_zone.len() == 2
        && of_zone.values().all(|seen| seen.len() == 1)
        && switches.len() == 2
        && switches.iter().all(|switch| switch.is_some())
}

/// The two switches that the storage NICs of each zone see.
fn switches_of_zones(cabling: &[NodeCabling]) -> Result<BTreeMap<&ZoneName, BTreeSet<&ChassisId>>, String> {
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
    match of_zone.iter().find(|(_, switches)| switches.len() != 2) {
        Some((zone, switches)) => {
            Err(format!("the storage NICs of zone {zone} see {} switches, not 2", switches.len()))
        }
        None => Ok(of_zone),
    }
}

/// Nothing joins the switches of option D for storage: all NICs of a storage network must be on one.
fn networks_have_switches_of_their_own(cabling: &[NodeCabling]) -> Result<(), String> {
    let mut of_adapter: BTreeMap<&AdapterName, &ChassisId> = BTreeMap::new();
    for node in cabling.iter().filter(|node| node.zone.is_some()) {
        for (switch, nics) in storage_switches(node) {
            for nic in nics {
                if *of_adapter.entry(&nic.adapter).or_insert(switch) != switch {
                    return Err(format!("both zones share their switches, but {} is on both", nic.adapter));
                }
            }
        }
    }
    Ok(())
}

fn a_or_b(spec: &ClusterSpec, cabling: &[NodeCabling]) -> Result<Wiring, String> {
    let storage: BTreeSet<VlanId> = spec.storage_networks.iter().map(|network| network.vlan).collect();
    let mut on_switch: BTreeMap<&ChassisId, BTreeSet<VlanId>> = BTreeMap::new();
    let mut everywhere = true;
    for node in cabling.iter().filter(|node| node.zone.is_some()) {
        for (switch, nics) in storage_switches(node) {
            for seen in nics.iter().filter_map(|nic| nic.seen()) {
                let vlans = carried(seen)
                    .ok_or_else(|| format!("switch {switch} does not tell its VLANs: option A or B"))?;
                everywhere &= storage.is_subset(&vlans);
                on_switch.entry(switch).or_default().extend(vlans.intersection(&storage));
            }
        }
    }
    if everywhere && storage.len() > 1 {
        return Ok(Wiring::B);
    }
    match on_switch.iter().find(|(_, vlans)| vlans.len() != 1) {
        Some((switch, vlans)) => {
            let (some, all) = (vlans.len(), storage.len());
            Err(format!(
                "switch {switch} carries {some} storage VLANs, neither 1 nor all {all} on every port"
            ))
        }
        None => Ok(Wiring::A),
    }
}
