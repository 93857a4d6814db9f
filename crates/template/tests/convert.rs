//! What a file asks for and what its conversion asks for are the same.

mod common;

use common::{ARM, TOML, edited, ids, reading, try_read};
use model::{ClusterSpec, RdmaTechnology, Severity, Shape, WitnessKind};
use proptest::prelude::*;
use serde_json::{Value, json};
use template::{ReadOptions, Reading, Source, read, to_toml};

/// The conversion of a text that has no errors, and its reading.
fn converted(text: &str, overrides: &[&str]) -> (Reading, String) {
    let before = try_read(text, overrides).unwrap_or_else(|unreadable| panic!("{unreadable}"));
    let toml = to_toml(&Source::new("plant.json", text), &before).expect("no errors");
    (before, toml)
}

/// The cluster with its witness as twinrack's own format has it.
fn as_twinrack(spec: Option<&ClusterSpec>) -> Option<ClusterSpec> {
    spec.cloned().map(|mut spec| {
        spec.witness.kind = WitnessKind::Node;
        spec
    })
}

fn told(reading: &Reading) -> Vec<(&str, Severity, bool)> {
    reading.diagnostics.iter().map(|d| (d.rule.0, d.severity, d.overridden)).collect()
}

#[test]
fn clean_files_convert_to_what_asks_for_the_same() {
    let labs = Shape::ALL.map(|shape| {
        let path = format!("{}/../../hil/templates/{shape}.toml", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    });
    for text in [TOML, ARM].into_iter().chain(labs.iter().map(String::as_str)) {
        let (before, toml) = converted(text, &[]);
        let after = reading(&toml);
        assert_eq!(after.diagnostics, [], "{toml}");
        assert_eq!(after.spec, as_twinrack(before.spec.as_ref()), "{toml}");
        let (_, again) = converted(&toml, &[]);
        let body =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        assert_eq!(body(&again).trim(), body(&toml).trim(), "converting twice changes nothing");
    }
}

#[test]
fn nodes_keep_their_storage_addresses_though_an_arm_file_mixes_the_zones() {
    let (_, toml) = converted(ARM, &[]);
    assert!(toml.contains("name = \"press3\"\nmanagement_ip = \"172.20.0.13\"\nordinal = 2\n"), "{toml}");
    let (_, toml) = converted(TOML, &[]);
    assert!(!toml.contains("ordinal"), "{toml}");
}

#[test]
fn what_was_overridden_is_overridden_in_the_file() {
    let text = edited(
        ARM,
        &[("\"172.20.0.12\"", "\"172.20.0.51\""), ("\"jumboPacket\": \"9014\"", "\"jumboPacket\": \"9028\"")],
    );
    let (before, toml) = converted(&text, &["address.outside-range", "net.storage-intent-dedicated"]);
    assert!(toml.contains("overrides = [\"address.outside-range\"]\n"), "only what was needed: {toml}");
    let after = reading(&toml);
    let noted = |told: &mut Vec<(&str, Severity, bool)>| {
        told.retain(|(rule, ..)| *rule != "template.override-unused");
    };
    let [mut was, mut is] = [told(&before), told(&after)];
    for told in [&mut was, &mut is] {
        noted(told);
        told.sort_unstable();
    }
    assert_eq!(was.len(), 2, "{was:?}");
    assert_eq!(is, was);
    assert_eq!(after.spec, as_twinrack(before.spec.as_ref()));
}

#[test]
fn what_is_not_built_yet_is_said_in_a_comment_and_secrets_are_not() {
    let (_, toml) = converted(ARM, &[]);
    assert!(toml.starts_with("# From plant.json, an ARM deployment parameters file.\n"), "{toml}");
    assert!(
        toml.contains("# It has bitlockerDataVolumes: encryption of data volumes is not built yet.\n"),
        "{toml}"
    );
    assert!(!toml.contains("4711") && !toml.contains("miller"), "{toml}");
}

#[test]
fn a_file_with_errors_is_not_converted() {
    let text = edited(ARM, &[("\"172.20.0.12\"", "\"172.20.0.51\"")]);
    let reading = reading(&text);
    assert_eq!(ids(&reading), ["address.outside-range"]);
    assert_eq!(to_toml(&Source::new("a", text), &reading), None);
}

#[test]
fn a_name_can_not_leave_its_string_nor_a_file_its_comment() {
    let text = edited(ARM, &[("\"Slot 4\" ]", "\"Slo\\\"t\\\\ 4\" ]"), ("\"Slot 4\"", "\"Slo\\\"t\\\\ 4\"")]);
    let before = reading(&text);
    let source = Source::new("a\nname = \"b\"", text);
    let toml = to_toml(&source, &before).unwrap();
    assert!(toml.starts_with("# From a?name"), "{toml}");
    assert_eq!(reading(&toml).spec, as_twinrack(before.spec.as_ref()));
}

/// An ARM file as somebody could write it, from what he chose.
#[derive(Debug, Clone)]
struct Choices {
    nodes_per_zone: usize,
    order: Vec<usize>,
    names: Vec<String>,
    converged: bool,
    mtu: Option<u16>,
    rdma: Option<RdmaTechnology>,
    vlans: (u16, u16),
    qos: Option<(u8, u8, u8)>,
    words: (&'static str, &'static str, &'static str),
    in_range: bool,
    auto_ip: bool,
}

impl Choices {
    fn file(&self) -> Value {
        let nodes: Vec<String> =
            (1..=2 * self.nodes_per_zone).map(|number| format!("node-{number}")).collect();
        let address = |place: usize| {
            let last = if self.in_range && place == 0 { 105 } else { 11 + place };
            json!({ "name": nodes[place], "ipv4Address": format!("10.1.0.{last}") })
        };
        let zone =
            |name: &str, nodes: &[String]| json!({ "localAvailabilityZoneName": name, "nodes": nodes });
        let (first, second) = nodes.split_at(self.nodes_per_zone);
        let adapter = |at: usize| format!("{}{at}", self.names[at]);
        let properties = json!({
            "jumboPacket": self.mtu.map(|mtu| (mtu + 14).to_string()),
            "networkDirect": self.rdma.map_or("Disabled", |_| "Enabled"),
            "networkDirectTechnology": self.rdma.map(|rdma| if rdma == RdmaTechnology::Iwarp { "iWARP" } else { "RoCEv2" }),
        });
        let qos = self.qos.map(|(storage, heartbeat, percent)| {
            json!({
                "priorityValue8021Action_Cluster": heartbeat.to_string(),
                "priorityValue8021Action_SMB": storage,
                "bandwidthPercentage_SMB": percent.to_string(),
            })
        });
        let intent = |name: &str, traffic: &[&str], adapters: [String; 2]| {
            json!({
                "name": name, "trafficType": traffic, "adapter": adapters,
                "overrideQosPolicy": qos.is_some(), "qosPolicyOverrides": qos,
                "overrideAdapterProperty": true, "adapterPropertyOverrides": properties,
            })
        };
        let first_pair = [adapter(0), adapter(1)];
        let intents = if self.converged {
            vec![intent("all", &["Management", "Compute", "Storage"], first_pair)]
        } else {
            vec![
                intent("lan", &["Management", "Compute"], first_pair),
                intent("san", &["Storage"], [adapter(2), adapter(3)]),
            ]
        };
        let network = |at: usize, vlan: u16| {
            json!({
                "name": format!("{} {at}", self.names[at]), "networkAdapterName": adapter(if self.converged { at } else { at + 2 }),
                "vlanId": vlan,
                "storageAdapterIPInfo": [{ "ipv4Address": format!("10.9{at}.0.4"), "subnetMask": "255.255.255.0" }],
            })
        };
        let parameters = json!({
            "clusterName": "mill", "deploymentMode": self.words.0, "configurationMode": self.words.1, "witnessType": self.words.2,
            "clusterPattern": "RackAware", "useDhcp": false, "enableStorageAutoIp": self.auto_ip,
            "startingIPAddress": "10.1.0.100", "endingIPAddress": "10.1.0.120", "subnetMask": "255.255.255.0",
            "defaultGateway": "10.1.0.1", "dnsServers": ["10.1.0.2", "10.1.0.3"],
            "physicalNodesSettings": self.order.iter().filter(|place| **place < nodes.len()).map(|place| address(*place)).collect::<Vec<_>>(),
            "localAvailabilityZones": [zone(&format!("{} a", self.names[0]), first), zone("b", second)],
            "intentList": intents,
            "storageNetworkList": [network(0, self.vlans.0), network(1, self.vlans.1)],
        });
        let Value::Object(parameters) = parameters else { unreachable!() };
        let wrapped: serde_json::Map<_, _> =
            parameters.into_iter().map(|(key, value)| (key, json!({ "value": value }))).collect();
        json!({ "parameters": wrapped })
    }
}

fn choices() -> impl Strategy<Value = Choices> {
    let name = "[A-Za-zäß\"\\\\#'=.\\[\\]]{1,12}";
    let words = (
        prop::sample::select(vec!["Validate", "deploy"]),
        prop::sample::select(vec!["Express", "InfraOnly", "KeepStorage"]),
        prop::sample::select(vec!["Cloud", "FileShare", "Local"]),
    );
    let rdma = prop::sample::select(vec![None, Some(RdmaTechnology::RoCEv2), Some(RdmaTechnology::Iwarp)]);
    let qos = prop::option::of((1..=3_u8, 4..=7_u8, 50..=97_u8));
    (
        (1..=4_usize, Just((0..8).collect::<Vec<usize>>()).prop_shuffle(), prop::collection::vec(name, 4)),
        (any::<bool>(), prop::option::of(1280..=9216_u16), rdma),
        ((1..2000_u16, 2000..=4094_u16), qos, words, any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                (nodes_per_zone, order, names),
                (converged, mtu, rdma),
                (vlans, qos, words, in_range, auto_ip),
            )| {
                Choices {
                    nodes_per_zone,
                    order,
                    names,
                    converged,
                    mtu,
                    rdma,
                    vlans,
                    qos,
                    words,
                    in_range,
                    auto_ip,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_arm_file_without_errors_converts_to_what_asks_for_the_same(choices in choices()) {
        let text = choices.file().to_string();
        let overrides = ["net.storage-intent-dedicated", "address.outside-range"].map(str::to_owned).to_vec();
        let source = Source::new("a.json", text.as_str());
        let before = read(&source, &ReadOptions { overrides }).unwrap();
        let mut was = told(&before);
        prop_assert!(before.spec.is_some(), "{:?}\n{}", before.diagnostics, text);
        let toml = to_toml(&source, &before).unwrap();
        let after = reading(&toml);
        prop_assert_eq!(&after.spec, &as_twinrack(before.spec.as_ref()), "{}", toml);
        let mut is = told(&after);
        was.retain(|(rule, ..)| *rule != "template.override-unused");
        was.sort_unstable();
        is.sort_unstable();
        prop_assert_eq!(is, was, "{}", toml);
    }
}
