//! Rules about zones, their members and the witness.

use super::{Check, Findings};
use crate::draft::Draft;
use crate::near::{nearest, quoted};
use crate::tree::{At, Field};
use model::rules::{self, Rule};
use model::{Location, NodeName, NodeOrdinal, Shape};
use std::collections::{HashMap, HashSet};

/// Among more names than these nobody looks for the one that was meant: no cluster has so many nodes.
const COMPARED_MAX: usize = 64;

const NODES_PER_ZONE_MAX: usize = Shape::ALL.len();

pub(super) const CHECKS: &[(&Rule, Check)] = &[
    (rules::ZONES_EXACTLY_TWO, exactly_two),
    (rules::ZONES_NODE_COUNT, node_count),
    (rules::ZONES_EQUAL_SIZE, equal_size),
    (rules::ZONES_NODE_IN_ONE, node_in_one),
    (rules::ZONES_MEMBERS_LISTED, members_listed),
    (rules::ZONES_ORDINALS, ordinals),
    (rules::WITNESS_REQUIRED, witness_required),
];

fn exactly_two(draft: &Draft, findings: &mut Findings) {
    let zones = &draft.zones.items;
    if let [_, _, third, ..] = zones.as_slice() {
        findings.at(&third.at, format!("there are {} zones", zones.len()));
    } else if zones.len() < 2 {
        let at = zones.first().map(|zone| zone.at.clone()).or_else(|| draft.zones.at.clone());
        findings.anywhere(
            at,
            format!("there {}", if zones.is_empty() { "are no zones" } else { "is only one zone" }),
        );
    }
}

fn node_count(draft: &Draft, findings: &mut Findings) {
    for zone in &draft.zones.items {
        let nodes = zone.members.len();
        if !(1..=NODES_PER_ZONE_MAX).contains(&nodes) {
            let name = zone.name.value().map_or_else(|| "a zone".to_owned(), |name| format!("zone `{name}`"));
            findings.at(&zone.at, format!("{name} has {nodes} nodes"));
        }
    }
}

fn equal_size(draft: &Draft, findings: &mut Findings) {
    let [first, second] = draft.zones.items.as_slice() else { return };
    let sizes = [first.members.len(), second.members.len()];
    // A zone that is too small or too large has a rule of its own.
    if sizes[0] != sizes[1] && sizes.iter().all(|size| (1..=NODES_PER_ZONE_MAX).contains(size)) {
        let message = format!("the zones have {} and {} nodes", sizes[0], sizes[1]);
        findings.at(&second.at, message).related(&first.at, "the other zone");
    }
}

fn node_in_one(draft: &Draft, findings: &mut Findings) {
    let mut seen: HashMap<&NodeName, (usize, &At<NodeName>)> = HashMap::new();
    for (place, zone) in draft.zones.items.iter().enumerate() {
        for member in zone.members.iter().filter_map(Field::good) {
            match seen.get(&member.value) {
                // In TOML a zone lists its nodes in full, and the rule on unique names has reported it.
                Some((first_zone, _)) if *first_zone == place && draft.format == crate::Format::Toml => {}
                Some((first_zone, first)) => {
                    let how = if *first_zone == place { "twice in one zone" } else { "in two zones" };
                    let message = format!("node {} is {how}", quoted(member.value.as_str()));
                    findings.at(&member.at, message).related(&first.at, "first here");
                }
                None => {
                    seen.insert(&member.value, (place, member));
                }
            }
        }
    }
}

/// Two lists that must name the same machines.
struct Lists<'d> {
    left: (&'static str, Vec<&'d At<NodeName>>),
    right: (&'static str, Vec<&'d At<NodeName>>),
}

fn members_listed(draft: &Draft, findings: &mut Findings) {
    let nodes: Vec<_> = draft.nodes.items.iter().filter_map(|node| node.name.good()).collect();
    let members: Vec<_> =
        draft.zones.items.iter().flat_map(|zone| &zone.members).filter_map(Field::good).collect();
    let machines: Vec<_> = draft.machines.iter().filter_map(Field::good).collect();
    // A list with a bad name in it, or none at all, is reported by other rules.
    let bad = draft.nodes.items.iter().any(|node| node.name.good().is_none())
        || draft.zones.items.iter().flat_map(|zone| &zone.members).any(|member| member.good().is_none())
        || draft.machines.iter().any(|machine| machine.good().is_none());
    if bad {
        return;
    }
    if !members.is_empty() {
        same_set(
            &Lists { left: ("in a zone", members), right: ("among the nodes", nodes.clone()) },
            findings,
        );
    }
    if !machines.is_empty() {
        same_set(
            &Lists { left: ("an Azure machine", machines), right: ("among the nodes", nodes) },
            findings,
        );
    }
}

fn names<'d>(list: &[&'d At<NodeName>]) -> HashSet<&'d NodeName> {
    list.iter().map(|name| &name.value).collect()
}

/// Reports what one list has and the other lacks; two names that were probably meant to be one are one report.
fn same_set(lists: &Lists<'_>, findings: &mut Findings) {
    let (left, right) = (&lists.left, &lists.right);
    let [in_left, in_right] = [left, right].map(|list| names(&list.1));
    let mut unmatched: Vec<_> =
        right.1.iter().filter(|name| !in_left.contains(&name.value)).copied().collect();
    for name in left.1.iter().filter(|name| !in_right.contains(&name.value)) {
        let shown = quoted(name.value.as_str());
        let finding = findings.at(&name.at, format!("{shown} is {} and not {}", left.0, right.0));
        if unmatched.len() > COMPARED_MAX {
            continue;
        }
        let near = nearest(name.value.as_str(), unmatched.iter().map(|other| other.value.as_str()));
        if let Some(place) = near.and_then(|near| unmatched.iter().position(|o| o.value.as_str() == near)) {
            let meant = unmatched.remove(place);
            let hint = format!("{shown} and {} look like the same machine", quoted(meant.value.as_str()));
            finding.hint(hint).related(&meant.at, "did you mean this one?");
        }
    }
    for name in unmatched {
        let message = format!("{} is {} and not {}", quoted(name.value.as_str()), right.0, left.0);
        findings.at(&name.at, message);
    }
}

fn ordinals(draft: &Draft, findings: &mut Findings) {
    let nodes = &draft.nodes.items;
    // Without any, they follow the places, and those are right.
    if nodes.iter().all(|node| node.ordinal.is_missing()) {
        return;
    }
    let mut seen: HashMap<NodeOrdinal, (&str, &Location)> = HashMap::new();
    for (place, node) in nodes.iter().enumerate() {
        let (Some(name), Some(ordinal)) = (node.name.good(), draft.ordinal(place)) else { continue };
        let (title, at) = (name.value.as_str(), node.ordinal.good().map_or(&name.at, |given| &given.at));
        if usize::from(ordinal.get()) > nodes.len() {
            let message =
                format!("node {} has ordinal {ordinal}, and there are {} nodes", quoted(title), nodes.len());
            findings.at(at, message);
        } else if let Some((first, first_at)) = seen.get(&ordinal) {
            let message =
                format!("node {} has ordinal {ordinal}, and so has {}", quoted(title), quoted(first));
            findings.at(at, message).related(first_at, "the first one");
        } else {
            seen.insert(ordinal, (title, at));
        }
    }
}

fn witness_required(draft: &Draft, findings: &mut Findings) {
    if draft.witness.is_missing() {
        findings.anywhere(draft.witness_at.clone(), "there is no witness".to_owned());
    }
}
