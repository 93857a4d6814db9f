//! Rules about intents, adapters, VLANs, MTU and quality of service.

use super::{Check, Findings};
use crate::draft::{Draft, DraftIntent};
use crate::near::{nearest, quoted};
use crate::tree::{At, Field};
use model::rules::{self, Rule};
use model::{AdapterName, Mtu, Qos, TrafficClass, VlanId};
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

/// Percent of the bandwidth for storage: at least half (spec.md); 2 for heartbeats and 1 for the rest must be left.
const STORAGE_BANDWIDTH_PERCENT: RangeInclusive<u8> = 50..=97;

/// Windows' size of a jumbo packet in bytes, which counts the Ethernet header and is no MTU.
const WINDOWS_JUMBO_PACKET_BYTES: u16 = 9014;

/// Most adapters that a message names.
const NAMED_MAX: usize = 16;

pub(super) const CHECKS: &[(&Rule, Check)] = &[
    (rules::INTENT_TRAFFIC, intent_traffic),
    (rules::INTENT_ADAPTERS, intent_adapters),
    (rules::ADAPTER_ONCE, adapter_once),
    (rules::ADAPTER_ONE_INTENT, adapter_one_intent),
    (rules::MANAGEMENT_COMPUTE_INTENT, management_compute_intent),
    (rules::ONE_STORAGE_INTENT, one_storage_intent),
    (rules::STORAGE_INTENT_DEDICATED, storage_intent_dedicated),
    (rules::TWO_STORAGE_NETWORKS, two_storage_networks),
    (rules::STORAGE_ADAPTERS_DISTINCT, storage_adapters_distinct),
    (rules::STORAGE_ADAPTER_IN_INTENT, storage_adapter_in_intent),
    (rules::STORAGE_VLANS_DISTINCT, storage_vlans_distinct),
    (rules::STORAGE_VLAN_SEPARATE, storage_vlan_separate),
    (rules::COMPUTE_VLAN_ONCE, compute_vlan_once),
    (rules::MTU_WITHOUT_HEADER, mtu_without_header),
    (rules::QOS_PRIORITIES, qos_priorities),
    (rules::QOS_BANDWIDTH, qos_bandwidth),
];

/// The intents, unless one has a kind of traffic that has been reported as bad: then none can be counted.
fn countable(draft: &Draft) -> &[DraftIntent] {
    let bad =
        draft.intents.items.iter().flat_map(|intent| &intent.traffic).any(|traffic| traffic.good().is_none());
    if bad { &[] } else { &draft.intents.items }
}

fn intent_traffic(draft: &Draft, findings: &mut Findings) {
    for intent in &draft.intents.items {
        if intent.traffic.is_empty() {
            findings.at(&intent.at, format!("{} carries nothing", intent.title()));
        }
        let mut seen: Vec<TrafficClass> = Vec::new();
        for traffic in intent.traffic.iter().filter_map(Field::good) {
            if seen.contains(&traffic.value) {
                findings.at(&traffic.at, format!("{} lists a kind of traffic twice", intent.title()));
            }
            seen.push(traffic.value);
        }
    }
}

fn intent_adapters(draft: &Draft, findings: &mut Findings) {
    for intent in draft.intents.items.iter().filter(|intent| intent.adapters.is_empty()) {
        findings.at(&intent.at, format!("{} has no adapters", intent.title()));
    }
}

fn adapter_once(draft: &Draft, findings: &mut Findings) {
    for intent in &draft.intents.items {
        let mut seen: HashMap<&AdapterName, &At<AdapterName>> = HashMap::new();
        for adapter in intent.adapters.iter().filter_map(Field::good) {
            if let Some(first) = seen.insert(&adapter.value, adapter) {
                let message =
                    format!("{} names adapter {} twice", intent.title(), quoted(adapter.value.as_str()));
                findings.at(&adapter.at, message).related(&first.at, "first here");
            }
        }
    }
}

fn adapter_one_intent(draft: &Draft, findings: &mut Findings) {
    let mut seen: HashMap<&AdapterName, (usize, &At<AdapterName>)> = HashMap::new();
    for (place, intent) in draft.intents.items.iter().enumerate() {
        for adapter in intent.adapters.iter().filter_map(Field::good) {
            match seen.get(&adapter.value) {
                Some((first, _)) if *first == place => {}
                Some((_, first)) => {
                    let message = format!("adapter {} is in two intents", quoted(adapter.value.as_str()));
                    findings.at(&adapter.at, message).related(&first.at, "first here");
                }
                None => {
                    seen.insert(&adapter.value, (place, adapter));
                }
            }
        }
    }
}

fn management_compute_intent(draft: &Draft, findings: &mut Findings) {
    let intents = countable(draft);
    if intents.is_empty() && !draft.intents.items.is_empty() {
        return;
    }
    let carriers = |class| intents.iter().filter(move |intent| intent.carries(class)).collect::<Vec<_>>();
    for (class, word) in [(TrafficClass::Management, "management"), (TrafficClass::Compute, "compute")] {
        match carriers(class).as_slice() {
            [] => {
                findings.anywhere(draft.intents.at.clone(), format!("no intent carries {word}"));
            }
            [_] => {}
            [first, second, ..] => {
                let message = format!("{} carries {word} too", second.title());
                findings.at(&second.at, message).related(&first.at, "the first one");
            }
        }
    }
    if let ([management], [compute]) =
        (carriers(TrafficClass::Management).as_slice(), carriers(TrafficClass::Compute).as_slice())
        && !std::ptr::eq(*management, *compute)
    {
        let message = format!("{} carries compute and {} management", compute.title(), management.title());
        findings.at(&compute.at, message).related(&management.at, "carries management");
    }
}

fn one_storage_intent(draft: &Draft, findings: &mut Findings) {
    let intents = countable(draft);
    if intents.is_empty() && !draft.intents.items.is_empty() {
        return;
    }
    let carriers: Vec<_> = intents.iter().filter(|intent| intent.carries(TrafficClass::Storage)).collect();
    match carriers.as_slice() {
        [] => {
            findings.anywhere(draft.intents.at.clone(), "no intent carries storage".to_owned());
        }
        [_] => {}
        [first, second, ..] => {
            let message = format!("{} carries storage too", second.title());
            findings.at(&second.at, message).related(&first.at, "the first one");
        }
    }
}

fn storage_intent_dedicated(draft: &Draft, findings: &mut Findings) {
    for intent in &draft.intents.items {
        let shared =
            intent.traffic.iter().filter_map(Field::value).any(|class| *class != TrafficClass::Storage);
        let storage =
            intent.traffic.iter().filter_map(Field::good).find(|t| t.value == TrafficClass::Storage);
        if let Some(storage) = storage.filter(|_| shared) {
            let message = format!(
                "{} carries storage together with others: {}",
                intent.title(),
                intent.traffic_words()
            );
            findings.at(&storage.at, message);
        }
    }
}

fn two_storage_networks(draft: &Draft, findings: &mut Findings) {
    let networks = &draft.storage_networks;
    let at = networks
        .items
        .get(2)
        .or(networks.items.first())
        .map(|network| network.at.clone())
        .or(networks.at.clone());
    match networks.items.len() {
        2 => {}
        0 => {
            findings.anywhere(at, "there are no storage networks".to_owned());
        }
        1 => {
            findings.anywhere(at, "there is only one storage network".to_owned());
        }
        count => {
            findings.anywhere(at, format!("there are {count} storage networks"));
        }
    }
}

fn storage_adapters_distinct(draft: &Draft, findings: &mut Findings) {
    let mut seen: HashMap<&AdapterName, &At<AdapterName>> = HashMap::new();
    for network in &draft.storage_networks.items {
        let Some(adapter) = network.adapter.good() else { continue };
        if let Some(first) = seen.insert(&adapter.value, adapter) {
            let message =
                format!("{} is on adapter {} as well", network.title(), quoted(adapter.value.as_str()));
            findings.at(&adapter.at, message).related(&first.at, "the other storage network");
        }
    }
}

fn storage_adapter_in_intent(draft: &Draft, findings: &mut Findings) {
    let storage: Vec<_> =
        countable(draft).iter().filter(|intent| intent.carries(TrafficClass::Storage)).collect();
    let adapters = || storage.iter().flat_map(|intent| &intent.adapters);
    // Without a storage intent, or with a bad or no adapter in it, there is nothing to compare with.
    if storage.is_empty() || adapters().count() == 0 || adapters().any(|adapter| adapter.good().is_none()) {
        return;
    }
    let known: HashSet<&AdapterName> = adapters().filter_map(Field::value).collect();
    for network in &draft.storage_networks.items {
        let Some(adapter) = network.adapter.good() else { continue };
        if known.contains(&adapter.value) {
            continue;
        }
        let name = quoted(adapter.value.as_str());
        let message = format!("{} is on adapter {name}, which is not in the storage intent", network.title());
        let finding = findings.at(&adapter.at, message);
        let names: Vec<&str> =
            adapters().filter_map(Field::value).map(AdapterName::as_str).take(NAMED_MAX).collect();
        match nearest(adapter.value.as_str(), names.iter().copied()) {
            Some(near) => finding.hint(format!("did you mean {}?", quoted(near))),
            None => finding.hint(format!("it has {}", names.join(", "))),
        };
    }
}

fn storage_vlans_distinct(draft: &Draft, findings: &mut Findings) {
    let mut seen: HashMap<VlanId, &At<VlanId>> = HashMap::new();
    for network in &draft.storage_networks.items {
        let Some(vlan) = network.vlan.good() else { continue };
        if let Some(first) = seen.insert(vlan.value, vlan) {
            let message = format!("{} has VLAN {} as well", network.title(), vlan.value);
            findings.at(&vlan.at, message).related(&first.at, "the other storage network");
        }
    }
}

fn storage_vlan_separate(draft: &Draft, findings: &mut Findings) {
    let management = draft.management.vlan.good().map(|vlan| (vlan, "management"));
    let compute = draft.compute_vlans.iter().filter_map(Field::good).map(|vlan| (vlan, "compute"));
    let mut others: HashMap<VlanId, (&At<VlanId>, &str)> = HashMap::new();
    for (vlan, class) in management.into_iter().chain(compute) {
        others.entry(vlan.value).or_insert((vlan, class));
    }
    for network in &draft.storage_networks.items {
        let Some(vlan) = network.vlan.good() else { continue };
        if let Some((other, class)) = others.get(&vlan.value) {
            let message = format!("{} has VLAN {}, which carries {class}", network.title(), vlan.value);
            findings.at(&vlan.at, message).related(&other.at, class);
        }
    }
}

fn compute_vlan_once(draft: &Draft, findings: &mut Findings) {
    let mut seen: HashMap<VlanId, &At<VlanId>> = HashMap::new();
    for vlan in draft.compute_vlans.iter().filter_map(Field::good) {
        if let Some(first) = seen.insert(vlan.value, vlan) {
            findings
                .at(&vlan.at, format!("VLAN {} is listed twice", vlan.value))
                .related(&first.at, "first here");
        }
    }
}

fn mtu_without_header(draft: &Draft, findings: &mut Findings) {
    for mtu in draft.intents.items.iter().filter_map(|intent| intent.mtu.good()) {
        if mtu.value.get() == WINDOWS_JUMBO_PACKET_BYTES {
            let message = format!(
                "an MTU of {} bytes is what Windows calls a jumbo packet of {}",
                Mtu::JUMBO,
                mtu.value
            );
            findings.at(&mtu.at, message);
        }
    }
}

fn qos_priorities(draft: &Draft, findings: &mut Findings) {
    let default = Qos::default();
    let (storage, heartbeat) = (&draft.qos.storage_priority, &draft.qos.heartbeat_priority);
    for (field, whose) in [(storage, "storage"), (heartbeat, "heartbeats")] {
        if let Some(zero) = field.good().filter(|priority| priority.value.get() == 0) {
            findings.at(&zero.at, format!("{whose} would have priority 0, that of the rest"));
        }
    }
    let values = [
        storage.value().copied().unwrap_or(default.storage_priority),
        heartbeat.value().copied().unwrap_or(default.heartbeat_priority),
    ];
    let Some(given) = heartbeat.good().or(storage.good()) else { return };
    if values[0] == values[1] && values[0].get() != 0 {
        findings.at(&given.at, format!("storage and heartbeats would both have priority {}", values[0]));
    }
}

fn qos_bandwidth(draft: &Draft, findings: &mut Findings) {
    let Some(percent) = draft.qos.storage_bandwidth_percent.good() else { return };
    if !STORAGE_BANDWIDTH_PERCENT.contains(&percent.value) {
        findings.at(&percent.at, format!("storage would get {} percent of the bandwidth", percent.value));
    }
}
