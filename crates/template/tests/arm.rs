//! ARM deployment parameters files: what is read, tolerated, listed, refused, and never repeated.

mod common;

use common::{ARM, edited, ids, problems, reading, try_read};
use model::{ClusterSpec, ConfigurationMode, DeploymentMode, Mtu, RdmaTechnology, TrafficClass, WitnessKind};
use template::{Format, IgnoredKind, ReadOptions, Reading, Source, read};

const SECRET: &str = "Grist-4711-Secret";

fn spec(text: &str) -> ClusterSpec {
    let reading = reading(text);
    assert_eq!(ids(&reading), Vec::<&str>::new());
    reading.spec.expect("no errors")
}

fn ignored(reading: &Reading, path: &str) -> Option<(IgnoredKind, String)> {
    reading.ignored.iter().find(|item| item.path == path).map(|item| (item.kind, item.reason.clone()))
}

#[test]
fn everything_the_file_says_is_in_the_cluster() {
    let spec = spec(ARM);
    assert_eq!((spec.mode, spec.configuration), (DeploymentMode::Deploy, ConfigurationMode::InfraOnly));
    assert_eq!(spec.witness.kind, WitnessKind::FileShare);
    assert_eq!((spec.witness.name.as_str(), spec.witness.management_ip), ("mill-witness", None));
    let nodes: Vec<_> =
        spec.nodes().map(|(zone, node)| format!("{} {} {}", node.ordinal, node.name, zone.name)).collect();
    assert_eq!(nodes, ["1 press1 East", "2 press3 West", "3 press2 East", "4 press4 West"]);
    assert_eq!(spec.management.subnet.to_string(), "172.20.0.0/24");
    assert_eq!((spec.management.dns.len(), spec.management.vlan), (1, None));
    assert!(spec.compute_vlans.is_empty() && spec.wiring.is_none());
    let storage = spec.intent_for(TrafficClass::Storage).unwrap();
    assert_eq!((storage.mtu, storage.rdma), (Mtu::JUMBO, Some(RdmaTechnology::Iwarp)));
    let other = spec.intent_for(TrafficClass::Management).unwrap();
    assert_eq!((other.mtu, other.rdma), (Mtu::ETHERNET, None));
    let networks: Vec<_> = spec
        .storage_networks
        .iter()
        .map(|n| format!("{} {} {} {}", n.name, n.adapter, n.vlan, n.subnet))
        .collect();
    assert_eq!(networks, ["left slot 3 711 10.71.1.0/24", "right Slot 4 715 10.71.2.0/24"]);
    let qos = spec.qos;
    assert_eq!(
        (qos.storage_priority.get(), qos.heartbeat_priority.get(), qos.storage_bandwidth_percent),
        (4, 5, 70)
    );
}

#[test]
fn keys_compare_without_case_at_every_level() {
    let keys = regex_free_keys(ARM);
    let shouted = keys.iter().fold(ARM.to_owned(), |text, key| {
        text.replace(&format!("\"{key}\":"), &format!("\"{}\":", key.to_uppercase()))
    });
    assert_ne!(shouted, ARM);
    assert_eq!(spec(&shouted), spec(ARM));
}

/// Every key of the file, by its look.
fn regex_free_keys(text: &str) -> Vec<String> {
    text.split("\":").filter_map(|before| before.rsplit('"').next()).map(str::to_owned).collect()
}

#[test]
fn comments_and_byte_order_marks_are_tolerated() {
    let commented = edited(ARM, &[("\"parameters\"", "// the mill\n /* two halls */ \"parameters\"")]);
    let utf8 = format!("\u{feff}{commented}");
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(commented.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    for bytes in [utf8.as_bytes(), &utf16] {
        let source = Source::from_bytes("a.parameters.json", bytes).unwrap();
        let reading = read(&source, &ReadOptions::default()).unwrap();
        assert_eq!(reading.format, Format::Arm);
        assert_eq!(reading.spec.unwrap(), spec(ARM));
    }
}

#[test]
fn every_kind_of_witness_becomes_a_witness() {
    for (word, kind) in
        [("cloud", WitnessKind::Cloud), ("FILESHARE", WitnessKind::FileShare), ("Local", WitnessKind::Local)]
    {
        assert_eq!(spec(&edited(ARM, &[("\"FileShare\"", &format!("\"{word}\""))])).witness.kind, kind);
    }
}

#[test]
fn overrides_count_only_where_they_are_switched_on() {
    let off = edited(ARM, &[("\"overrideAdapterProperty\": true", "\"overrideAdapterProperty\": false")]);
    let reading = reading(&off);
    assert_eq!(
        ignored(&reading, "intentList[1].adapterPropertyOverrides").unwrap().0,
        IgnoredKind::SwitchedOff
    );
    assert_eq!(reading.spec.unwrap().storage_mtu(), Mtu::ETHERNET);
    assert!(
        ignored(&common::reading(ARM), "intentList[0].adapterPropertyOverrides").is_none(),
        "all of it is empty"
    );
}

#[test]
fn what_has_no_effect_is_listed_with_the_reason() {
    let text = edited(ARM, &[("\"sbeVersion\"", "\"clusterNaem\": { \"value\": 1 }, \"sbeVersion\"")]);
    let reading = reading(&text);
    for (path, kind, reason) in [
        ("keyVaultName", IgnoredKind::NoMeaningOnLinux, "Key Vault"),
        ("domainFqdn", IgnoredKind::NoMeaningOnLinux, "Active Directory"),
        ("streamingDataClient", IgnoredKind::NoMeaningOnLinux, "Microsoft"),
        ("sbeVersion", IgnoredKind::NoMeaningOnLinux, "extensions"),
        ("localAdminPassword", IgnoredKind::NoMeaningOnLinux, "accounts"),
        ("bitlockerDataVolumes", IgnoredKind::NotBuiltYet, "encryption"),
        ("clusterNaem", IgnoredKind::Unknown, "did you mean `clusterName`?"),
        ("intentList[0].virtualSwitchConfigurationOverrides", IgnoredKind::NoMeaningOnLinux, "bridge"),
    ] {
        let (found, why) = ignored(&reading, path).unwrap_or_else(|| panic!("{path} is not listed"));
        assert!(found == kind && why.contains(reason), "{path}: {found:?} {why}");
    }
    assert!(ignored(&reading, "smbClusterEncryption").is_none(), "false asks for nothing");
}

#[test]
fn wrong_types_are_told_with_their_place() {
    for (edit, message) in [
        (("\"value\": \"mill\"", "\"value\": [1]"), "`clusterName` must be text, and is a list"),
        (
            ("\"useDhcp\": { \"value\": false", "\"useDhcp\": { \"value\": \"no\""),
            "`useDhcp` must be true or false, and is text",
        ),
        (
            ("[ \"press1\", \"PRESS2\" ]", "\"press1\""),
            "`localAvailabilityZones[0].nodes` must be a list, and is text",
        ),
        (
            ("\"vlanId\": 715", "\"vlanId\": true"),
            "`storageNetworkList[1].vlanId` must be a number, and is true or false",
        ),
        (
            ("\"clusterName\": { \"value\": \"mill\" }", "\"clusterName\": \"mill\""),
            "`clusterName` must be a table, and is text",
        ),
        (("\"clusterName\": { \"value\": \"mill\" }", "\"clusterName\": {}"), "`clusterName` has no `value`"),
        (
            ("\"clusterName\": { \"value\": \"mill\" }", "\"clusterName\": { \"reference\": {} }"),
            "`clusterName` refers to a key vault, which twinrack can't read",
        ),
    ] {
        assert_eq!(problems(&edited(ARM, &[edit])), [message]);
    }
}

#[test]
fn keys_that_differ_only_in_case_are_refused() {
    let edits = [
        ("\"clusterName\"", "\"CLUSTERNAME\": { \"value\": \"x\" }, \"clusterName\""),
        ("\"name\": \"left\"", "\"name\": \"left\", \"Name\": \"l\""),
    ];
    assert_eq!(
        problems(&edited(ARM, &edits)),
        [
            "`clusterName` is given twice: keys compare without case",
            "`Name` is given twice: keys compare without case"
        ]
    );
}

#[test]
fn other_json_is_told_from_a_parameters_file() {
    assert_eq!(problems("{}"), ["there are no `parameters`"]);
    assert_eq!(problems("{\"parameters\": 3}")[0], "`parameters` must be a table, and is a number");
    let template = edited(ARM, &[("deploymentParameters.json", "deploymentTemplate.json")]);
    assert_eq!(problems(&template), ["this is an ARM deployment template, not its parameters file"]);
    let source = Source::new("a.json", "[]");
    let unreadable = read(&source, &ReadOptions::default()).unwrap_err();
    assert_eq!(unreadable.problems[0].message, "the whole file must be a table, and is a list");
}

#[test]
fn given_storage_addresses_give_the_subnet() {
    let ips = |net: u8| {
        format!(
            r#""storageAdapterIPInfo": [
              {{ "physicalNode": "press1", "ipv4Address": "10.9.{net}.10", "subnetMask": "255.255.255.0" }},
              {{ "physicalNode": "press2", "ipv4Address": "10.9.{net}.11", "subnetMask": "255.255.255.0" }} ],"#
        )
    };
    let edits = [
        (
            "\"enableStorageAutoIp\": { \"value\": true }",
            "\"enableStorageAutoIp\": { \"value\": false }".to_owned(),
        ),
        ("{ \"name\": \"left\",", format!("{{ {} \"name\": \"left\",", ips(1))),
        ("{ \"name\": \"right\",", format!("{{ {} \"name\": \"right\",", ips(2))),
    ];
    let edits: Vec<_> = edits.iter().map(|(from, to)| (*from, to.as_str())).collect();
    let reading = reading(&edited(ARM, &edits));
    assert_eq!(
        ignored(&reading, "storageNetworkList[0].storageAdapterIPInfo").unwrap().0,
        IgnoredKind::NotBuiltYet
    );
    let subnets: Vec<_> =
        reading.spec.unwrap().storage_networks.iter().map(|n| n.subnet.to_string()).collect();
    assert_eq!(subnets, ["10.9.1.0/24", "10.9.2.0/24"]);
}

/// A published file for disconnected operation names its nodes `v-host1` in one place and `vhost1` in another, puts both
/// storage networks on one VLAN and writes adapters in two cases. Same mistakes here.
#[test]
fn mistakes_of_published_files_are_told_apart() {
    let text = edited(
        ARM,
        &[
            ("{ \"name\": \"press1\"", "{ \"name\": \"pr-ess1\""),
            ("{ \"name\": \"press3\"", "{ \"name\": \"pr-Ess3\""),
            ("\"vlanId\": \"711\"", "\"vlanId\": \"8\""),
            ("\"vlanId\": 715", "\"vlanId\": \"8\""),
        ],
    );
    let reading = reading(&text);
    let listed = "zones.members-listed";
    assert_eq!(ids(&reading), [listed, listed, "net.storage-vlans-distinct", listed, listed]);
    for (diagnostic, pair) in reading.diagnostics.iter().zip([("Press1", "pr-ess1"), ("press3", "pr-Ess3")]) {
        let hint = format!("`{}` and `{}` look like the same machine", pair.0, pair.1);
        assert!(diagnostic.help.contains(&hint), "{}", diagnostic.help);
    }
}

#[test]
fn secrets_are_never_repeated() {
    let forms = [
        format!("{{ \"value\": \"{SECRET}\" }}"),
        format!("\"{SECRET}\""),
        format!("[ \"{SECRET}\" ]"),
        format!("{{ \"value\": {{ \"{SECRET}\": \"{SECRET}\" }} }}"),
    ];
    let original = format!("{{ \"value\": \"{SECRET}\" }}");
    let keys = [
        "localAdminPassword",
        "clusterNamePassword",
        "arbDeploymentAppSecret",
        "AzureStackLCMAdminPasssword",
    ];
    for (form, key) in forms.iter().flat_map(|form| keys.map(|key| (form, key))) {
        let text =
            edited(ARM, &[(&format!("\"localAdminPassword\": {original}"), &format!("\"{key}\": {form}"))]);
        // Good, against a rule beside it, of a wrong type beside it, and cut off in the middle of it.
        let cut = &text[..text.find(SECRET).unwrap() + 8];
        for text in [
            &text,
            &edited(&text, &[("\"miller\"", "7"), ("\"FileShare\"", "\"Fire\"")]),
            &edited(&text, &[("\"FileShare\"", "1")]),
            cut,
        ] {
            let source = Source::new("a", text);
            let said = format!("{source:?} {:?} {}", read(&source, &ReadOptions::default()), source.shown());
            assert!(!said.contains(&SECRET[..8]), "{form} {key}");
        }
    }
}

#[test]
fn a_cut_off_file_is_one_clear_problem() {
    for length in (20..ARM.len() - 8).step_by(97) {
        let cut = &ARM[..length];
        let unreadable = try_read(cut, &[]).unwrap_err();
        let [problem] = unreadable.problems.as_slice() else { panic!("{unreadable}") };
        assert_eq!(problem.message, "the file ends in the middle of a value", "{length}");
        assert_eq!(problem.location.clone().unwrap().span.unwrap().end, cut.trim_end().len());
    }
}
