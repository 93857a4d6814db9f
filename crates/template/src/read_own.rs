//! twinrack's own TOML into the draft. The format is shown in full in `docs/template.md`.
//!
//! On failure: unknown keys and wrong types make the template unreadable; bad values are left to the rules.

use crate::Format;
use crate::draft::{
    Draft, DraftIntent, DraftManagement, DraftNode, DraftQos, DraftStorageNetwork, DraftWitness, DraftZone,
    Listed, default_storage_subnet, default_storage_vlan, or_default,
};
use crate::near::quoted;
use crate::tree::{At, Field, Kind, Reader, Table, Value};
use ipnet::Ipv4Net;
use model::{
    ConfigurationMode, DeploymentMode, Location, RdmaTechnology, TrafficClass, Wiring, WitnessKind, rules,
};
use std::net::Ipv4Addr;

const ROOT_KEYS: [&str; 12] = [
    "name",
    "mode",
    "configuration",
    "wiring",
    "overrides",
    "management",
    "compute",
    "zone",
    "witness",
    "intent",
    "storage_network",
    "qos",
];
const MODES: [(&str, DeploymentMode); 2] =
    [("deploy", DeploymentMode::Deploy), ("validate", DeploymentMode::Validate)];
const CONFIGURATIONS: [(&str, ConfigurationMode); 3] = [
    ("express", ConfigurationMode::Express),
    ("infra-only", ConfigurationMode::InfraOnly),
    ("keep-storage", ConfigurationMode::KeepStorage),
];
const WIRINGS: [(&str, Wiring); 4] = [("A", Wiring::A), ("B", Wiring::B), ("C", Wiring::C), ("D", Wiring::D)];
const RDMA: [(&str, RdmaTechnology); 2] =
    [("rocev2", RdmaTechnology::RoCEv2), ("iwarp", RdmaTechnology::Iwarp)];
/// The kinds of traffic by name; ARM files use the same words.
pub(crate) const TRAFFIC: [(&str, TrafficClass); 3] = [
    ("management", TrafficClass::Management),
    ("compute", TrafficClass::Compute),
    ("storage", TrafficClass::Storage),
];

pub(crate) fn draft(tree: &Value, reader: &mut Reader) -> Draft {
    let entries = if let Kind::Table(entries) = &tree.kind { entries.as_slice() } else { &[] };
    let root = Table { entries, at: Location { path: String::new(), span: None } };
    reader.refuse_unknown(&root, &ROOT_KEYS);
    let name = reader.text(&root, "name");
    let name = reader.parsed(name, rules::NAME_VALID);
    let mode = reader.text(&root, "mode");
    let configuration = reader.text(&root, "configuration");
    let wiring = reader.text(&root, "wiring");
    let (zones, nodes) = zones_and_nodes(&root, reader);
    Draft {
        format: Format::Toml,
        overrides: reader.texts(&root, "overrides"),
        name: reader.required(name, &root, "name"),
        mode: reader.choice(mode, "mode", &MODES),
        configuration: reader.choice(configuration, "configuration", &CONFIGURATIONS),
        wiring: reader.choice(wiring, "wiring", &WIRINGS),
        zones: Listed { items: zones, at: reader.key_at(&root, "zone") },
        nodes: Listed { items: nodes, at: None },
        machines: Vec::new(),
        witness: witness(&root, reader),
        witness_at: None,
        management: management(&root, reader),
        compute_vlans: compute_vlans(&root, reader),
        intents: Listed { items: intents(&root, reader), at: reader.key_at(&root, "intent") },
        storage_networks: Listed {
            items: storage_networks(&root, reader),
            at: reader.key_at(&root, "storage_network"),
        },
        qos: qos(&root, reader),
    }
}

fn zones_and_nodes(root: &Table<'_>, reader: &mut Reader) -> (Vec<DraftZone>, Vec<DraftNode>) {
    let (mut zones, mut nodes) = (Vec::new(), Vec::new());
    for table in reader.tables(root, "zone") {
        reader.refuse_unknown(&table, &["name", "node"]);
        let name = reader.text(&table, "name");
        let name = reader.parsed(name, rules::NAME_VALID);
        let name = reader.required(name, &table, "name");
        let mut members = Vec::new();
        for node in reader.tables(&table, "node") {
            reader.refuse_unknown(&node, &["name", "management_ip", "ordinal"]);
            let name = reader.text(&node, "name");
            let name = reader.parsed(name, rules::NAME_VALID);
            let name = reader.required(name, &node, "name");
            members.push(name.clone());
            let management_ip = address(&node, reader, "management_ip");
            let ordinal = reader.number(&node, "ordinal");
            nodes.push(DraftNode {
                name,
                ordinal: reader.parsed(ordinal, rules::ZONES_ORDINALS),
                management_ip: reader.required(management_ip, &node, "management_ip"),
            });
        }
        zones.push(DraftZone { at: table.at, name, members });
    }
    (zones, nodes)
}

fn witness(root: &Table<'_>, reader: &mut Reader) -> Field<DraftWitness> {
    let Some(table) = reader.table(root, "witness") else { return Field::Missing };
    reader.refuse_unknown(&table, &["name", "management_ip"]);
    let name = reader.text(&table, "name");
    let name = reader.parsed(name, rules::NAME_VALID);
    let value = DraftWitness {
        name: reader.required(name, &table, "name"),
        kind: WitnessKind::Node,
        management_ip: address(&table, reader, "management_ip"),
    };
    Field::Good(At { value, at: table.at })
}

fn management(root: &Table<'_>, reader: &mut Reader) -> DraftManagement {
    let table = reader
        .table(root, "management")
        .unwrap_or(Table { entries: &[], at: Location { path: "management".to_owned(), span: None } });
    reader.refuse_unknown(&table, &["subnet", "gateway", "range_start", "range_end", "dns", "vlan"]);
    let subnet = network(&table, reader, "subnet", rules::ADDRESS_VALID);
    let gateway = address(&table, reader, "gateway");
    let range_start = address(&table, reader, "range_start");
    let range_end = address(&table, reader, "range_end");
    let dns = reader.texts(&table, "dns");
    let vlan = reader.number(&table, "vlan");
    DraftManagement {
        subnet: reader.required(subnet, &table, "subnet"),
        gateway: reader.required(gateway, &table, "gateway"),
        range_start: reader.required(range_start, &table, "range_start"),
        range_end: reader.required(range_end, &table, "range_end"),
        dns: dns.into_iter().map(|raw| parsed_address(reader, Some(raw))).collect(),
        vlan: reader.parsed(vlan, rules::VLAN_RANGE),
    }
}

fn compute_vlans(root: &Table<'_>, reader: &mut Reader) -> Vec<Field<model::VlanId>> {
    let Some(table) = reader.table(root, "compute") else { return Vec::new() };
    reader.refuse_unknown(&table, &["vlans"]);
    let vlans = reader.numbers(&table, "vlans");
    vlans.into_iter().map(|raw| reader.parsed(Some(raw), rules::VLAN_RANGE)).collect()
}

fn intents(root: &Table<'_>, reader: &mut Reader) -> Vec<DraftIntent> {
    let mut intents = Vec::new();
    for table in reader.tables(root, "intent") {
        reader.refuse_unknown(&table, &["name", "traffic", "adapters", "mtu", "rdma"]);
        let name = reader.text(&table, "name");
        let name = reader.parsed(name, rules::NAME_VALID);
        let traffic = reader.texts(&table, "traffic");
        let adapters = reader.texts(&table, "adapters");
        let mtu = reader.number(&table, "mtu");
        let rdma = reader.text(&table, "rdma");
        intents.push(DraftIntent {
            name: reader.required(name, &table, "name"),
            traffic: traffic
                .into_iter()
                .map(|raw| reader.choice(Some(raw), "kind of traffic", &TRAFFIC))
                .collect(),
            adapters: adapters.into_iter().map(|raw| reader.parsed(Some(raw), rules::NAME_VALID)).collect(),
            mtu: reader.parsed(mtu, rules::MTU_RANGE),
            rdma: reader.choice(rdma, "RDMA transport", &RDMA).value().copied(),
            at: table.at,
        });
    }
    intents
}

fn storage_networks(root: &Table<'_>, reader: &mut Reader) -> Vec<DraftStorageNetwork> {
    let mut networks = Vec::new();
    for (place, table) in reader.tables(root, "storage_network").into_iter().enumerate() {
        reader.refuse_unknown(&table, &["name", "adapter", "vlan", "subnet"]);
        let name = reader.text(&table, "name");
        let name = reader.parsed(name, rules::NAME_VALID);
        let adapter = reader.text(&table, "adapter");
        let adapter = reader.parsed(adapter, rules::NAME_VALID);
        let vlan = reader.number(&table, "vlan");
        let vlan = reader.parsed(vlan, rules::VLAN_RANGE);
        let subnet = network(&table, reader, "subnet", rules::ADDRESS_VALID);
        networks.push(DraftStorageNetwork {
            name: reader.required(name, &table, "name"),
            adapter: reader.required(adapter, &table, "adapter"),
            vlan: or_default(vlan, default_storage_vlan(place), &table.at),
            subnet: or_default(subnet, default_storage_subnet(place), &table.at),
            at: table.at,
        });
    }
    networks
}

fn qos(root: &Table<'_>, reader: &mut Reader) -> DraftQos {
    let Some(table) = reader.table(root, "qos") else { return DraftQos::UNSET };
    reader.refuse_unknown(&table, &["storage_priority", "heartbeat_priority", "storage_bandwidth_percent"]);
    let storage = reader.number(&table, "storage_priority");
    let heartbeat = reader.number(&table, "heartbeat_priority");
    let percent = reader.number(&table, "storage_bandwidth_percent");
    DraftQos {
        storage_priority: reader.parsed(storage, rules::QOS_PRIORITIES),
        heartbeat_priority: reader.parsed(heartbeat, rules::QOS_PRIORITIES),
        storage_bandwidth_percent: parsed_percent(reader, percent),
    }
}

/// A percentage; the rule for the storage share narrows it further.
pub(crate) fn parsed_percent(reader: &mut Reader, raw: Option<At<String>>) -> Field<u8> {
    reader.converted(raw, rules::QOS_BANDWIDTH, |text| {
        text.trim().parse().map_err(|_| (format!("{} is no percentage", quoted(text)), None))
    })
}

fn address(table: &Table<'_>, reader: &mut Reader, key: &str) -> Field<Ipv4Addr> {
    let raw = reader.text(table, key);
    parsed_address(reader, raw)
}

/// An IPv4 address in dotted decimals.
pub(crate) fn parsed_address(reader: &mut Reader, raw: Option<At<String>>) -> Field<Ipv4Addr> {
    reader.converted(raw, rules::ADDRESS_VALID, |text| {
        text.trim().parse().map_err(|_| (format!("{} is no IPv4 address", quoted(text)), None))
    })
}

fn network(table: &Table<'_>, reader: &mut Reader, key: &str, rule: &'static rules::Rule) -> Field<Ipv4Net> {
    let raw = reader.text(table, key);
    reader.converted(raw, rule, |text| {
        let subnet: Ipv4Net = text.trim().parse().map_err(|_| {
            (format!("{} is no IPv4 subnet", quoted(text)), Some("write it as 192.0.2.0/24".to_owned()))
        })?;
        if subnet == subnet.trunc() {
            return Ok(subnet);
        }
        Err((
            format!("{} is an address inside a subnet", quoted(text)),
            Some(format!("write {}", subnet.trunc())),
        ))
    })
}
