//! Rules about zones, their members and the witness.

use super::{Findings, Rule, id};
use crate::draft::Draft;
use crate::near::{nearest, quoted};
use crate::tree::{At, Field};
use model::{NodeName, Shape};
use std::collections::HashMap;

const NODES_PER_ZONE_MAX: usize = Shape::ALL.len();

pub(super) const RULES: &[Rule] = &[
    Rule::read(
        id::RACK_AWARE,
        "an ARM file's cluster pattern is RackAware",
        "set `clusterPattern` to `RackAware`",
    ),
    Rule::error(
        "zones.exactly-two",
        "there are exactly two zones",
        "give two zones, one for each rack",
        exactly_two,
    ),
    Rule::error("zones.node-count", "a zone has 1 to 4 nodes", "give each zone 1 to 4 nodes", node_count),
    Rule::error(
        "zones.equal-size",
        "both zones have the same number of nodes",
        "make the zones equal",
        equal_size,
    ),
    Rule::error(
        "zones.node-in-one",
        "a node is in exactly one zone",
        "keep the node in one zone",
        node_in_one,
    ),
    Rule::error(
        "zones.members-listed",
        "zone members, nodes and Azure machines are the same set",
        "name the same nodes everywhere",
        members_listed,
    ),
    Rule::error(
        "witness.required",
        "there is a witness in a third place",
        "add a witness: `[witness]` in a TOML template, `witnessType` `Cloud` in an ARM file",
        witness_required,
    ),
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

/// Reports what one list has and the other lacks; two names that were probably meant to be one are one report.
fn same_set(lists: &Lists<'_>, findings: &mut Findings) {
    let lacks = |name: &NodeName, list: &[&At<NodeName>]| !list.iter().any(|other| other.value == *name);
    let (left, right) = (&lists.left, &lists.right);
    let mut unmatched: Vec<_> = right.1.iter().filter(|name| lacks(&name.value, &left.1)).copied().collect();
    for name in left.1.iter().filter(|name| lacks(&name.value, &right.1)) {
        let shown = quoted(name.value.as_str());
        let finding = findings.at(&name.at, format!("{shown} is {} and not {}", left.0, right.0));
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

fn witness_required(draft: &Draft, findings: &mut Findings) {
    if draft.witness.is_missing() {
        findings.anywhere(draft.witness_at.clone(), "there is no witness".to_owned());
    }
}
