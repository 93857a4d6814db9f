//! Rules about intents, adapters, VLANs, MTU and quality of service.

use super::{Findings, Rule, id};
use crate::draft::{Draft, DraftIntent};
use crate::near::{nearest, quoted};
use crate::tree::{At, Field};
use model::{AdapterName, Mtu, Qos, Severity, TrafficClass, VlanId};
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Percent of the bandwidth for storage: at least half (spec.md); 2 for heartbeats and 1 for the rest must be left.
const STORAGE_BANDWIDTH_PERCENT: RangeInclusive<u8> = 50..=97;

/// Windows' size of a jumbo packet in bytes, which counts the Ethernet header and is no MTU.
const WINDOWS_JUMBO_PACKET_BYTES: u16 = 9014;

pub(super) const RULES: &[Rule] = &[
    Rule::error(
        "net.intent-traffic",
        "an intent carries traffic, each kind once",
        "list what the intent carries",
        intent_traffic,
    ),
    Rule::error(
        "net.intent-adapters",
        "an intent has adapters",
        "list the intent's adapters",
        intent_adapters,
    ),
    Rule::error("net.adapter-once", "an intent names an adapter once", "name the adapter once", adapter_once),
    Rule::error(
        "net.adapter-one-intent",
        "an adapter belongs to one intent",
        "take the adapter out of one of the intents",
        adapter_one_intent,
    ),
    Rule::error(
        "net.management-compute-intent",
        "exactly one intent carries management and compute",
        "give management and compute to one intent, the same one",
        management_compute_intent,
    ),
    Rule::error(
        "net.one-storage-intent",
        "exactly one intent carries storage",
        "give storage to one intent",
        one_storage_intent,
    ),
    Rule::error(
        "net.storage-intent-dedicated",
        "the storage intent carries storage alone",
        "give storage an intent of its own, with adapters of its own",
        storage_intent_dedicated,
    )
    .overridable("both storage networks then run on the shared team, and their path diversity is lost"),
    Rule::error(
        "net.two-storage-networks",
        "there are exactly two storage networks",
        "give two storage networks",
        two_storage_networks,
    ),
    Rule::error(
        "net.storage-adapters-distinct",
        "the storage networks are on different adapters",
        "give each storage network its own adapter",
        storage_adapters_distinct,
    ),
    Rule::error(
        "net.storage-adapter-in-intent",
        "a storage network's adapter belongs to the storage intent",
        "use an adapter of the storage intent",
        storage_adapter_in_intent,
    ),
    Rule::error(
        "net.storage-vlans-distinct",
        "the storage networks have different VLANs",
        "give each storage network its own VLAN; 711 and 712 are usual",
        storage_vlans_distinct,
    ),
    Rule::error(
        "net.storage-vlan-separate",
        "storage VLANs differ from management and compute VLANs",
        "use another VLAN",
        storage_vlan_separate,
    ),
    Rule::read(id::VLAN_RANGE, "a VLAN is 1 to 4094", "use a VLAN from 1 to 4094"),
    Rule::error(
        "net.compute-vlan-once",
        "a compute VLAN is listed once",
        "list the VLAN once",
        compute_vlan_once,
    ),
    Rule::read(
        id::MTU_RANGE,
        "an MTU is 1280 to 9216 bytes",
        "use 1500, or 9000 for jumbo frames (ARM: `jumboPacket` 9014)",
    ),
    Rule::error(
        "net.mtu-without-header",
        "an MTU does not count the Ethernet header",
        "write 9000 for jumbo frames",
        mtu_without_header,
    )
    .severity(Severity::Warning),
    Rule::read(
        id::STORAGE_SWITCHED,
        "storage is cabled through switches",
        "cable it as one of the wirings A to D: `storageConnectivitySwitchless` false, `networkingType` `switchedMultiServerDeployment`",
    ),
    Rule::read(
        id::NETWORKING_PATTERN,
        "an ARM file's networking pattern agrees with its intents",
        "correct one of them; the intents are what is built",
    )
    .severity(Severity::Warning),
    Rule::error(
        id::QOS_PRIORITIES.0,
        "storage and heartbeats have different priorities, 1 to 7",
        "use 3 for storage and 7 for heartbeats",
        qos_priorities,
    ),
    Rule::error(
        id::QOS_BANDWIDTH.0,
        "storage gets 50 to 97 percent of the bandwidth",
        "give storage 50 to 97 percent",
        qos_bandwidth,
    ),
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
    for network in &draft.storage_networks.items {
        let Some(adapter) = network.adapter.good() else { continue };
        if adapters().any(|of_intent| of_intent.value() == Some(&adapter.value)) {
            continue;
        }
        let name = quoted(adapter.value.as_str());
        let message = format!("{} is on adapter {name}, which is not in the storage intent", network.title());
        let finding = findings.at(&adapter.at, message);
        let names: Vec<&str> = adapters().filter_map(Field::value).map(AdapterName::as_str).collect();
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
    let others: Vec<_> = management.into_iter().chain(compute).collect();
    for network in &draft.storage_networks.items {
        let Some(vlan) = network.vlan.good() else { continue };
        for (other, class) in others.iter().filter(|(other, _)| other.value == vlan.value) {
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
