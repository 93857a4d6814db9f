//! Rules about names.

use super::{Check, Findings};
use crate::Format;
use crate::draft::Draft;
use crate::near::quoted;
use crate::tree::{At, Field};
use model::rules::{self, Rule};
use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;

/// Azure Local's limits for a cluster's name (`minLength` and `maxLength` of the published template's `clusterName`).
const ARM_CLUSTER_NAME_CHARACTERS: std::ops::RangeInclusive<usize> = 3..=15;

pub(super) const CHECKS: &[(&Rule, Check)] = &[
    (rules::NAME_UNIQUE, unique),
    (rules::NAME_CLUSTER_DIFFERS, cluster_differs),
    (rules::NAME_CLUSTER_LENGTH, cluster_length),
];

fn unique(draft: &Draft, findings: &mut Findings) {
    let nodes = draft.nodes.items.iter().map(|node| &node.name);
    let witness = draft.witness.value().map(|witness| &witness.name);
    twice("machine", nodes.chain(witness), findings);
    twice("Azure machine", draft.machines.iter(), findings);
    twice("zone", draft.zones.items.iter().map(|zone| &zone.name), findings);
    twice("intent", draft.intents.items.iter().map(|intent| &intent.name), findings);
    twice("storage network", draft.storage_networks.items.iter().map(|network| &network.name), findings);
}

/// Reports every name that has been seen before.
fn twice<'d, T: Eq + Hash + Display + 'd>(
    what: &str,
    names: impl Iterator<Item = &'d Field<T>>,
    findings: &mut Findings,
) {
    let mut seen: HashMap<&T, &At<T>> = HashMap::new();
    for name in names.filter_map(Field::good) {
        if let Some(first) = seen.get(&name.value) {
            let message = format!("two {what}s are called {}", quoted(&name.value.to_string()));
            findings.at(&name.at, message).related(&first.at, "the first one");
        } else {
            seen.insert(&name.value, name);
        }
    }
}

fn cluster_differs(draft: &Draft, findings: &mut Findings) {
    let Some(cluster) = draft.name.good() else { return };
    let witness = draft.witness.value().map(|witness| &witness.name);
    for machine in draft.nodes.items.iter().map(|node| &node.name).chain(witness).filter_map(Field::good) {
        if machine.value.as_str().eq_ignore_ascii_case(cluster.value.as_str()) {
            let message = format!("the cluster's name {} is a machine's too", quoted(cluster.value.as_str()));
            findings.at(&cluster.at, message).related(&machine.at, "the machine");
        }
    }
}

fn cluster_length(draft: &Draft, findings: &mut Findings) {
    let Some(cluster) = draft.name.good().filter(|_| draft.format == Format::Arm) else { return };
    let characters = cluster.value.as_str().chars().count();
    if !ARM_CLUSTER_NAME_CHARACTERS.contains(&characters) {
        let message =
            format!("the cluster's name {} has {characters} characters", quoted(cluster.value.as_str()));
        findings.at(&cluster.at, message);
    }
}
