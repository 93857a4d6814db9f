//! What ports say of themselves by LLDP, against the cabling of better days and what the intents need.

use super::{Condition, What};
use crate::lldp::ChassisId;
use crate::wiring::{self, Connection, NicCabling, NodeCabling, WiringFinding, connections};
use model::{ClusterSpec, ZoneName};
use std::collections::BTreeMap;

/// Every cable that leads elsewhere, and what is wrong with the ports of those that don't.
pub(super) fn found(spec: &ClusterSpec, known_good: &[NodeCabling], now: &[NodeCabling]) -> Vec<Condition> {
    let (known, seen) = (connections(known_good), connections(now));
    let mut conditions = moved(known_good, &known, &seen);
    let in_place = in_place(&known, now);
    conditions.extend(ports(&wiring::check(spec, &in_place), &in_place));
    conditions
}

/// Where the same NIC's cable leads, if it is among these.
fn of_nic<'a>(cables: &'a [Connection], nic: &Connection) -> Option<&'a Connection> {
    cables.iter().find(|cable| cable.node == nic.node && cable.adapter == nic.adapter)
}

fn is_same_port(one: &Connection, other: &Connection) -> bool {
    one.switch == other.switch && one.port == other.port
}

fn moved(known_good: &[NodeCabling], known: &[Connection], seen: &[Connection]) -> Vec<Condition> {
    let elsewhere = |from: &'_ Connection| -> Option<(Connection, Connection)> {
        let to = of_nic(seen, from)?;
        (!is_same_port(from, to)).then(|| (from.clone(), to.clone()))
    };
    let moves: Vec<(Connection, Connection)> = known.iter().filter_map(elsewhere).collect();
    let swapped_with = |(from, to): &(Connection, Connection)| {
        moves.iter().find(|(other_from, other_to)| {
            other_from.node == from.node && is_same_port(to, other_from) && is_same_port(other_to, from)
        })
    };
    let mut conditions = Vec::new();
    for one in &moves {
        let (from, to) = one;
        let what = match swapped_with(one) {
            // Said once, by the first of the two.
            Some((other, _)) if position(known, other) < position(known, from) => continue,
            Some((other, _)) => What::CablesSwapped { first: from.clone(), second: other.clone() },
            None => What::CableMoved { from: from.clone(), to: to.clone() },
        };
        conditions.push(Condition { evidence: evidence(&what, known_good, from), what });
    }
    conditions
}

fn position(known: &[Connection], cable: &Connection) -> Option<usize> {
    known.iter().position(|other| other == cable)
}

/// Whose the switch is that a cable leads to.
fn evidence(what: &What, known_good: &[NodeCabling], from: &Connection) -> Vec<String> {
    let What::CableMoved { to, .. } = what else { return Vec::new() };
    let mut zones: BTreeMap<&ZoneName, usize> = BTreeMap::new();
    for cable in &connections(known_good) {
        let zone = known_good.iter().find(|node| node.node == cable.node).and_then(|node| node.zone.as_ref());
        if let Some(zone) = zone.filter(|_| cable.switch == to.switch) {
            *zones.entry(zone).or_default() += 1;
        }
    }
    match (zones.len(), zones.keys().next()) {
        (1, Some(zone)) if Some(*zone) != from.zone.as_ref() => {
            vec![format!("switch {} is that of zone {zone}", to.switch)]
        }
        _ => Vec::new(),
    }
}

/// The NICs that hear the port that they always heard.
fn in_place(known: &[Connection], now: &[NodeCabling]) -> Vec<NodeCabling> {
    let mut nodes = now.to_vec();
    for node in &mut nodes {
        let seen = connections(std::slice::from_ref(node));
        let stays = |nic: &NicCabling| {
            let cable = seen.iter().find(|cable| cable.adapter == nic.adapter);
            cable.is_some_and(|cable| of_nic(known, cable).is_some_and(|known| is_same_port(known, cable)))
        };
        node.nics.retain(stays);
    }
    nodes
}

/// What the findings say of ports: the same port of a switch, or all that are known of it.
fn ports(findings: &[WiringFinding], in_place: &[NodeCabling]) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = Vec::new();
    for finding in findings {
        let what = match finding {
            WiringFinding::VlanMissing { cable, vlan, purpose, .. } => {
                What::VlanMissing { cable: cable.clone(), vlan: *vlan, purpose: purpose.clone() }
            }
            WiringFinding::FrameTooBig { cable, needed_bytes, max_frame_bytes, .. } => {
                let (cable, max_frame_bytes) = (cable.clone(), *max_frame_bytes);
                if all_are_small(&cable.switch, *needed_bytes, in_place) {
                    let (switch, name) = (cable.switch, cable.switch_name);
                    What::SwitchFramesTooSmall { switch, name, max_frame_bytes }
                } else {
                    What::PortFramesTooSmall { cable, max_frame_bytes }
                }
            }
            _ => continue,
        };
        let said = finding.to_string();
        match conditions.iter_mut().find(|known| known.what.id() == what.id()) {
            Some(known) => known.evidence.push(said),
            None => conditions.push(Condition { what, evidence: vec![said] }),
        }
    }
    conditions
}

/// Whether all ports that are known of a switch, two at least, take less than is needed.
fn all_are_small(switch: &ChassisId, needed_bytes: u32, in_place: &[NodeCabling]) -> bool {
    let nics = in_place.iter().flat_map(|node| &node.nics).filter_map(NicCabling::seen);
    let told = nics.filter(|seen| seen.chassis_id == *switch).filter_map(|seen| seen.max_frame_bytes);
    // 0 is what a port says that doesn't know.
    let told: Vec<u16> = told.filter(|bytes| *bytes != 0).collect();
    told.len() > 1 && told.iter().all(|bytes| u32::from(*bytes) < needed_bytes)
}
