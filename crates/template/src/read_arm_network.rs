//! The network half of an ARM deployment parameters file: addresses, intents, storage networks, quality of service.

use crate::IgnoredKind;
use crate::draft::{
    DraftIntent, DraftManagement, DraftQos, DraftStorageNetwork, default_storage_subnet,
    default_storage_vlan, or_default,
};
use crate::near::quoted;
use crate::read_arm::ignore_others;
use crate::read_own::{TRAFFIC, parsed_address, parsed_percent};
use crate::tree::{At, Field, Kind, Reader, Table};
use ipnet::Ipv4Net;
use model::{Mtu, RdmaTechnology, TrafficClass, rules};
use std::net::Ipv4Addr;

/// Bytes by which Windows' `jumboPacket` is more than the MTU: the Ethernet header (IEEE 802.3, 3.1.1).
const ETHERNET_HEADER_BYTES: u64 = 14;

/// `networkDirectTechnology` as Network ATC knows it; plain RoCE is version 1, which needs no routing and no Linux
/// driver still speaks by choice.
const RDMA: [(&str, RdmaTechnology); 3] =
    [("RoCEv2", RdmaTechnology::RoCEv2), ("RoCE", RdmaTechnology::RoCEv2), ("iWARP", RdmaTechnology::Iwarp)];

pub(crate) fn management(file: &Table<'_>, reader: &mut Reader) -> DraftManagement {
    let dhcp = reader.boolean(file, "useDhcp");
    if let Some(dhcp) = dhcp.filter(|dhcp| dhcp.value) {
        reader.flaw(rules::ADDRESS_STATIC, "the addresses would come from DHCP", None, &dhcp.at);
    }
    let mut required = |key: &str| {
        let raw = reader.text(file, key);
        let address = parsed_address(reader, raw);
        reader.required(address, file, key)
    };
    let range_start = required("startingIPAddress");
    let range_end = required("endingIPAddress");
    let gateway = required("defaultGateway");
    let dns = reader.texts(file, "dnsServers");
    DraftManagement {
        subnet: subnet(file, &range_start, reader),
        gateway,
        range_start,
        range_end,
        dns: dns.into_iter().map(|raw| parsed_address(reader, Some(raw))).collect(),
        // ARM files for rack aware clusters can't say a management VLAN: the switches' native one carries it.
        vlan: Field::Missing,
    }
}

/// The file gives a mask only: the subnet is the one that the range starts in.
fn subnet(file: &Table<'_>, start: &Field<Ipv4Addr>, reader: &mut Reader) -> Field<Ipv4Net> {
    let raw = reader.text(file, "subnetMask");
    let mask = parsed_address(reader, raw);
    let mask = reader.required(mask, file, "subnetMask");
    let (Field::Good(mask), Some(start)) = (mask, start.value()) else { return Field::Bad };
    if let Ok(net) = Ipv4Net::with_netmask(*start, mask.value) {
        return Field::Good(At { value: net.trunc(), at: mask.at });
    }
    let message = format!("{} is no subnet mask", quoted(&mask.value.to_string()));
    reader.flaw(rules::ADDRESS_VALID, message, Some("write one like 255.255.255.0".to_owned()), &mask.at);
    Field::Bad
}

/// The intents, and the quality of service of the one that carries storage.
pub(crate) fn intents(file: &Table<'_>, reader: &mut Reader) -> (Vec<DraftIntent>, DraftQos) {
    const KNOWN: [&str; 9] = [
        "name",
        "trafficType",
        "adapter",
        "overrideVirtualSwitchConfiguration",
        "virtualSwitchConfigurationOverrides",
        "overrideQosPolicy",
        "qosPolicyOverrides",
        "overrideAdapterProperty",
        "adapterPropertyOverrides",
    ];
    let (mut intents, mut qos) = (Vec::new(), DraftQos::UNSET);
    for table in reader.tables(file, "intentList") {
        ignore_others(&table, &KNOWN, reader);
        for key in &KNOWN[3..5] {
            if reader.key_at(&table, key).is_some() {
                let reason = "there is no Hyper-V switch; a VLAN-aware bridge takes its place";
                reader.ignore(table.path(key), IgnoredKind::NoMeaningOnLinux, reason);
            }
        }
        let name = reader.text(&table, "name");
        let name = reader.parsed(name, rules::NAME_VALID);
        let traffic = reader.texts(&table, "trafficType");
        let adapters = reader.texts(&table, "adapter");
        let (mtu, rdma) = adapter_properties(&table, reader);
        let intent = DraftIntent {
            name: reader.required(name, &table, "name"),
            traffic: traffic
                .into_iter()
                .map(|raw| reader.choice(Some(raw), "kind of traffic", &TRAFFIC))
                .collect(),
            adapters: adapters.into_iter().map(|raw| reader.parsed(Some(raw), rules::NAME_VALID)).collect(),
            mtu,
            rdma,
            at: table.at.clone(),
        };
        if let Some(overrides) = qos_overrides(&table, intent.carries(TrafficClass::Storage), reader) {
            qos = overrides;
        }
        intents.push(intent);
    }
    (intents, qos)
}

/// A table of overrides, if the switch beside it is on. If it is off and the table holds values, that is listed.
fn switched<'t>(intent: &Table<'t>, switch: &str, key: &str, reader: &mut Reader) -> Option<Table<'t>> {
    let on = reader.boolean(intent, switch).is_some_and(|switch| switch.value);
    let overrides = reader.table(intent, key)?;
    if on {
        return Some(overrides);
    }
    let given =
        |kind: &Kind| !matches!(kind, Kind::Null) && !matches!(kind, Kind::Text(text) if text.is_empty());
    if overrides.entries.iter().any(|entry| given(&entry.value.kind)) {
        let reason = format!("`{switch}` is not true");
        reader.ignore(intent.path(key), IgnoredKind::SwitchedOff, reason);
    }
    None
}

fn adapter_properties(intent: &Table<'_>, reader: &mut Reader) -> (Field<Mtu>, Option<RdmaTechnology>) {
    let Some(table) = switched(intent, "overrideAdapterProperty", "adapterPropertyOverrides", reader) else {
        return (Field::Missing, None);
    };
    ignore_others(&table, &["jumboPacket", "networkDirect", "networkDirectTechnology"], reader);
    let jumbo = reader.number(&table, "jumboPacket");
    let mtu = reader.converted(jumbo, rules::MTU_RANGE, |text| {
        let packet: Option<u64> = text.trim().parse().ok();
        let mtu = packet.and_then(|bytes| bytes.checked_sub(ETHERNET_HEADER_BYTES));
        mtu.and_then(|mtu| Mtu::try_from(mtu).ok()).ok_or_else(|| {
            let hint = "needed: 1294 to 9230 bytes, the MTU and the 14-byte Ethernet header; 9014 is usual";
            (format!("{} is no jumbo packet size", quoted(text)), Some(hint.to_owned()))
        })
    });
    let direct = reader.text(&table, "networkDirect");
    let direct = reader.choice(direct, "setting", &[("Enabled", true), ("Disabled", false)]);
    let technology = reader.text(&table, "networkDirectTechnology");
    let technology = reader.choice(technology, "RDMA transport", &RDMA);
    let asked = direct.value().copied().unwrap_or(false);
    (mtu, asked.then(|| technology.value().copied().unwrap_or(RdmaTechnology::RoCEv2)))
}

fn qos_overrides(intent: &Table<'_>, carries_storage: bool, reader: &mut Reader) -> Option<DraftQos> {
    let table = switched(intent, "overrideQosPolicy", "qosPolicyOverrides", reader)?;
    if !carries_storage {
        let path = intent.path("qosPolicyOverrides");
        reader.ignore(path, IgnoredKind::NoMeaningOnLinux, "the intent carries no storage traffic to mark");
        return None;
    }
    let known = ["priorityValue8021Action_Cluster", "priorityValue8021Action_SMB", "bandwidthPercentage_SMB"];
    ignore_others(&table, &known, reader);
    let [cluster, smb, percent] = known.map(|key| reader.number(&table, key));
    Some(DraftQos {
        storage_priority: reader.parsed(smb, rules::QOS_PRIORITIES),
        heartbeat_priority: reader.parsed(cluster, rules::QOS_PRIORITIES),
        storage_bandwidth_percent: parsed_percent(reader, percent),
    })
}

pub(crate) fn storage_networks(file: &Table<'_>, reader: &mut Reader) -> Vec<DraftStorageNetwork> {
    let switchless = reader.boolean(file, "storageConnectivitySwitchless");
    if let Some(switchless) = switchless.filter(|switchless| switchless.value) {
        reader.flaw(
            rules::STORAGE_SWITCHED,
            "storage would be cabled without switches",
            None,
            &switchless.at,
        );
    }
    let auto_ip = reader.boolean(file, "enableStorageAutoIp").is_none_or(|auto| auto.value);
    let mut networks = Vec::new();
    for (place, table) in reader.tables(file, "storageNetworkList").into_iter().enumerate() {
        ignore_others(&table, &["name", "networkAdapterName", "vlanId", "storageAdapterIPInfo"], reader);
        let name = reader.text(&table, "name");
        let name = reader.parsed(name, rules::NAME_VALID);
        let adapter = reader.text(&table, "networkAdapterName");
        let adapter = reader.parsed(adapter, rules::NAME_VALID);
        let vlan = reader.number(&table, "vlanId");
        let vlan = reader.parsed(vlan, rules::VLAN_RANGE);
        let subnet = if auto_ip { Field::Missing } else { given_subnet(&table, reader) };
        networks.push(DraftStorageNetwork {
            name: reader.required(name, &table, "name"),
            adapter: reader.required(adapter, &table, "networkAdapterName"),
            vlan: or_default(vlan, default_storage_vlan(place), &table.at),
            subnet: or_default(subnet, default_storage_subnet(place), &table.at),
            at: table.at,
        });
    }
    networks
}

/// With storage auto IP off, the subnet is the one of the addresses given. The addresses themselves are not taken:
/// a node's is the subnet's base plus the node's ordinal.
fn given_subnet(network: &Table<'_>, reader: &mut Reader) -> Field<Ipv4Net> {
    let mut found: Option<At<Ipv4Net>> = None;
    for table in reader.tables(network, "storageAdapterIPInfo") {
        ignore_others(&table, &["physicalNode", "ipv4Address", "subnetMask"], reader);
        let address = reader.text(&table, "ipv4Address");
        let address = parsed_address(reader, address);
        let address = reader.required(address, &table, "ipv4Address");
        let mask = reader.text(&table, "subnetMask");
        let mask = parsed_address(reader, mask);
        let mask = reader.required(mask, &table, "subnetMask");
        let (Field::Good(address), Some(mask)) = (address, mask.value()) else { return Field::Bad };
        let net = Ipv4Net::with_netmask(address.value, *mask).map(|net| net.trunc());
        match (net, &found) {
            (Ok(net), None) => found = Some(At { value: net, at: address.at }),
            (Ok(net), Some(first)) if net == first.value => {}
            _ => {
                let message =
                    format!("{} with mask {mask} is not in one subnet with the others", address.value);
                reader.flaw(rules::STORAGE_SUBNET_GIVEN, message, None, &address.at);
                return Field::Bad;
            }
        }
    }
    let path = network.path("storageAdapterIPInfo");
    let Some(found) = found else {
        let message = format!("storage auto IP is off, and {} gives no addresses", quoted(&path));
        reader.flaw(rules::STORAGE_SUBNET_GIVEN, message, None, &network.at);
        return Field::Bad;
    };
    let reason =
        "only the subnet is taken: addresses in it follow the order of the nodes; own ones are not built yet";
    reader.ignore(path, IgnoredKind::NotBuiltYet, reason);
    Field::Good(found)
}

/// The file says its networking twice; what the intents say is what is built.
pub(crate) fn pattern(file: &Table<'_>, intents: &[DraftIntent], reader: &mut Reader) {
    let kind = reader.text(file, "networkingType");
    if let Some(kind) = kind.filter(|kind| !kind.value.eq_ignore_ascii_case("switchedMultiServerDeployment"))
    {
        let message = format!("the networking type is {}", quoted(&kind.value));
        reader.flaw(rules::STORAGE_SWITCHED, message, None, &kind.at);
    }
    let Some(pattern) = reader.text(file, "networkingPattern") else { return };
    let storage_converged = intents.iter().any(|i| i.carries(TrafficClass::Storage) && i.traffic.len() > 1);
    let agrees = match pattern.value.to_ascii_lowercase().as_str() {
        "hyperconverged" => storage_converged,
        "convergedmanagementcompute" => !storage_converged,
        "custom" => true,
        _ => false,
    };
    if !agrees {
        let message = format!(
            "the networking pattern is {}, and the intents are not like that",
            quoted(&pattern.value)
        );
        reader.flaw(rules::NETWORKING_PATTERN, message, None, &pattern.at);
    }
}
