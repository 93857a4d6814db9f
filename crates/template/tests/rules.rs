//! One mistake at a time in a clean file gives that rule's message and no other.

mod common;

use common::{ARM, TOML, edited, ids, reading, try_read};
use model::Severity;
use model::rules::{self, Checked};
use std::collections::HashSet;

/// A rule, the clean file, what is done to it, and the offending value that the message must name.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const CASES: &[Case] = &[
    ("template.value-required", TOML, &[("name = \"mill\"\n", "")], "`name`"),
    ("template.value-required", TOML, &[("gateway = \"172.20.0.1\"\n", "")], "`management.gateway`"),
    (
        "template.value-required",
        TOML,
        &[("management_ip = \"172.20.0.14\"\n", "")],
        "`zone[1].node[1].management_ip`",
    ),
    ("template.value-required", ARM, &[("\"value\": \"mill\"", "\"value\": null")], "`clusterName`"),
    (
        "template.value-required",
        ARM,
        &[("\"ipv4Address\": \"172.20.0.12\"", "\"ipv4Address\": \"\"")],
        "ipv4Address",
    ),
    ("template.value-known", TOML, &[("wiring = \"B\"", "wiring = \"E\"")], "`E`"),
    ("template.value-known", TOML, &[("\"compute\"]", "\"computer\"]")], "`computer`"),
    ("template.value-known", ARM, &[("\"Deploy\"", "\"Depoly\"")], "`Depoly`"),
    ("template.value-known", ARM, &[("\"FileShare\"", "\"Cluod\"")], "`Cluod`"),
    ("name.valid", TOML, &[("name = \"press2\"", "name = \"press_2\"")], "`press_2`"),
    ("name.valid", TOML, &[("name = \"mill\"", "name = \"\"")], "``"),
    ("name.valid", ARM, &[("\"value\": \"mill\"", "\"value\": \"the mill\"")], "`the mill`"),
    ("name.unique", TOML, &[("name = \"press2\"", "name = \"Press1\"")], "`Press1`"),
    ("name.unique", TOML, &[("name = \"office\"", "name = \"press1\"")], "`press1`"),
    ("name.unique", TOML, &[("name = \"west\"", "name = \"East\"")], "`East`"),
    ("name.unique", TOML, &[("name = \"mirror\"", "name = \"ports\"")], "`ports`"),
    ("name.unique", TOML, &[("name = \"right\"", "name = \"left\"")], "`left`"),
    ("name.cluster-differs", TOML, &[("name = \"mill\"", "name = \"Press4\"")], "`Press4`"),
    ("name.cluster-differs", ARM, &[("\"value\": \"mill\"", "\"value\": \"PRESS3\"")], "`PRESS3`"),
    ("name.cluster-length", ARM, &[("\"value\": \"mill\"", "\"value\": \"millwheelworks16\"")], "16"),
    ("name.cluster-length", ARM, &[("\"value\": \"mill\"", "\"value\": \"ml\"")], "`ml`"),
    ("zones.rack-aware", ARM, &[("\"RackAware\"", "\"Standard\"")], "`Standard`"),
    (
        "zones.exactly-two",
        TOML,
        &[(
            "[witness]",
            "[[zone]]\nname = \"up\"\n[[zone.node]]\nname = \"p5\"\nmanagement_ip = \"172.20.0.15\"\n[witness]",
        )],
        "3 zones",
    ),
    (
        "zones.exactly-two",
        ARM,
        &[
            ("\"press1\", \"PRESS2\" ] },", "\"press1\", \"PRESS2\", \"press3\", \"press4\" ] }"),
            ("{ \"localAvailabilityZoneName\": \"West\", \"nodes\": [ \"press3\", \"press4\" ] }", ""),
        ],
        "only one",
    ),
    (
        "zones.node-count",
        ARM,
        &[
            ("\"press1\", \"PRESS2\"", "\"press1\", \"PRESS2\", \"press3\", \"press4\", \"press5\""),
            ("[ \"press3\", \"press4\" ]", "[ \"press6\" ]"),
            ("{ \"name\": \"press1\"", FIVE_AND_SIX),
            ("machines/Press1\",", MACHINES_FIVE_AND_SIX),
        ],
        "5 nodes",
    ),
    (
        "zones.equal-size",
        TOML,
        &[("[[zone.node]]\nname = \"press4\"\nmanagement_ip = \"172.20.0.14\"\n", "")],
        "2 and 1",
    ),
    (
        "zones.node-in-one",
        ARM,
        &[("\"press3\", \"press4\" ]", "\"press3\", \"Press1\" ]"), DROP_FOUR, DROP_MACHINE_FOUR],
        "`Press1`",
    ),
    ("zones.members-listed", ARM, &[("\"PRESS2\"", "\"press-2\"")], "`press-2`"),
    ("zones.members-listed", ARM, &[("machines/press3", "machines/press-3")], "`press-3`"),
    (
        "witness.required",
        TOML,
        &[("[witness]\nname = \"office\"\nmanagement_ip = \"172.20.0.20\"\n", "")],
        "no witness",
    ),
    (
        "zones.ordinals",
        TOML,
        &[("name = \"press2\"", "name = \"press2\"\nordinal = 1")],
        "`press2` has ordinal 1",
    ),
    (
        "zones.ordinals",
        TOML,
        &[("name = \"press2\"", "name = \"press2\"\nordinal = 3")],
        "`press3` has ordinal 3",
    ),
    ("zones.ordinals", TOML, &[("name = \"press2\"", "name = \"press2\"\nordinal = 5")], "there are 4 nodes"),
    ("zones.ordinals", TOML, &[("name = \"press2\"", "name = \"press2\"\nordinal = 0")], "`0`"),
    ("witness.required", ARM, &[("\"FileShare\"", "\"No Witness\"")], "no witness"),
    ("witness.required", ARM, &[("\"FileShare\"", "\"\"")], "no witness"),
    (
        "net.intent-traffic",
        TOML,
        &[("\"management\", \"compute\"", "\"management\", \"compute\", \"compute\"")],
        "`ports`",
    ),
    ("net.intent-adapters", TOML, &[("[\"lan1\", \"lan2\"]", "[]")], "`ports`"),
    ("net.adapter-once", TOML, &[("[\"lan1\", \"lan2\"]", "[\"lan1\", \"LAN1\"]")], "`LAN1`"),
    ("net.adapter-one-intent", TOML, &[("[\"lan1\", \"lan2\"]", "[\"lan1\", \"san2\"]")], "`san2`"),
    (
        "net.management-compute-intent",
        TOML,
        &[("traffic = [\"management\", \"compute\"]", "traffic = [\"management\"]")],
        "no intent carries compute",
    ),
    (
        "net.management-compute-intent",
        TOML,
        &[(
            "traffic = [\"management\", \"compute\"]\nadapters = [\"lan1\", \"lan2\"]",
            "traffic = [\"management\"]\nadapters = [\"lan1\"]\n[[intent]]\nname = \"vms\"\ntraffic = [\"compute\"]\nadapters = [\"lan2\"]",
        )],
        "intent `vms`",
    ),
    (
        "net.one-storage-intent",
        TOML,
        &[(
            "[[storage_network]]",
            "[[intent]]\nname = \"more\"\ntraffic = [\"storage\"]\nadapters = [\"san3\"]\n[[storage_network]]",
        )],
        "`more`",
    ),
    (
        "net.storage-intent-dedicated",
        TOML,
        &[
            (
                "traffic = [\"management\", \"compute\"]\nadapters = [\"lan1\", \"lan2\"]",
                "traffic = [\"management\", \"compute\", \"storage\"]\nadapters = [\"san1\", \"san2\"]",
            ),
            (
                "[[intent]]\nname = \"mirror\"\ntraffic = [\"storage\"]\nadapters = [\"san1\", \"san2\"]\nmtu = 9000\nrdma = \"iwarp\"\n",
                "",
            ),
        ],
        "`ports`",
    ),
    (
        "net.two-storage-networks",
        TOML,
        &[(
            "[[storage_network]]\nname = \"right\"\nadapter = \"san2\"\nvlan = 712\nsubnet = \"10.71.2.0/24\"\n",
            "",
        )],
        "only one",
    ),
    (
        "net.two-storage-networks",
        ARM,
        &[
            (
                "\"vlanId\": 715 }",
                "\"vlanId\": 715 }, { \"name\": \"up\", \"networkAdapterName\": \"Slot 5\", \"vlanId\": 716 }",
            ),
            ("\"Slot 4\" ]", "\"Slot 4\", \"slot 5\" ]"),
        ],
        "3",
    ),
    ("net.storage-adapters-distinct", TOML, &[("adapter = \"san2\"", "adapter = \"SAN1\"")], "`SAN1`"),
    ("net.storage-adapter-in-intent", TOML, &[("adapter = \"san2\"", "adapter = \"san_2x\"")], "`san_2x`"),
    ("net.storage-vlans-distinct", TOML, &[("vlan = 712", "vlan = 711")], "711"),
    ("net.storage-vlans-distinct", ARM, &[("\"vlanId\": 715", "\"vlanId\": \"711\"")], "711"),
    ("net.storage-vlan-separate", TOML, &[("vlan = 712", "vlan = 9")], "VLAN 9"),
    ("net.storage-vlan-separate", TOML, &[("vlan = 712", "vlan = 7")], "management"),
    ("net.vlan-range", TOML, &[("vlan = 712", "vlan = 4095")], "`4095`"),
    ("net.vlan-range", TOML, &[("vlans = [8, 9]", "vlans = [8, 0]")], "`0`"),
    ("net.vlan-range", ARM, &[("\"vlanId\": 715", "\"vlanId\": \"71b\"")], "`71b`"),
    ("net.vlan-range", ARM, &[("\"vlanId\": 715", "\"vlanId\": -1.5e3")], "`-1.5e3`"),
    ("net.compute-vlan-once", TOML, &[("vlans = [8, 9]", "vlans = [8, 8]")], "VLAN 8"),
    ("net.mtu-range", TOML, &[("mtu = 9000", "mtu = 90000")], "`90000`"),
    ("net.mtu-range", ARM, &[("\"jumboPacket\": \"9014\"", "\"jumboPacket\": \"13\"")], "`13`"),
    ("net.mtu-without-header", TOML, &[("mtu = 9000", "mtu = 9014")], "9014"),
    (
        "net.storage-switched",
        ARM,
        &[(
            "\"storageConnectivitySwitchless\": { \"value\": false",
            "\"storageConnectivitySwitchless\": { \"value\": true",
        )],
        "without switches",
    ),
    (
        "net.storage-switched",
        ARM,
        &[("\"switchedMulti", "\"switchlessMulti")],
        "`switchlessMultiServerDeployment`",
    ),
    (
        "net.networking-pattern",
        ARM,
        &[("\"convergedManagementCompute\"", "\"hyperConverged\"")],
        "`hyperConverged`",
    ),
    ("net.qos-priorities", TOML, &[("heartbeat_priority = 7", "heartbeat_priority = 3")], "priority 3"),
    ("net.qos-priorities", TOML, &[("storage_priority = 3", "storage_priority = 0")], "priority 0"),
    ("net.qos-priorities", ARM, &[("Action_SMB\": \"4\"", "Action_SMB\": \"8\"")], "`8`"),
    ("net.qos-bandwidth", TOML, &[("percent = 60", "percent = 49")], "49"),
    ("net.qos-bandwidth", ARM, &[("\"70\"", "\"most\"")], "`most`"),
    ("address.valid", TOML, &[("gateway = \"172.20.0.1\"", "gateway = \"172.20.0.256\"")], "`172.20.0.256`"),
    ("address.valid", TOML, &[("\"10.71.2.0/24\"", "\"10.71.2.1/24\"")], "`10.71.2.1/24`"),
    ("address.valid", ARM, &[("255.255.255.0", "255.0.255.0")], "`255.0.255.0`"),
    ("address.static", ARM, &[("\"useDhcp\": { \"value\": false", "\"useDhcp\": { \"value\": true")], "DHCP"),
    ("address.in-subnet", TOML, &[("\"172.20.0.12\"", "\"172.20.1.12\"")], "172.20.1.12"),
    ("address.in-subnet", TOML, &[("\"172.20.0.20\"", "\"172.20.0.255\"")], "broadcast"),
    ("address.outside-range", TOML, &[("\"172.20.0.12\"", "\"172.20.0.59\"")], "172.20.0.59"),
    (
        "address.outside-range",
        ARM,
        &[("\"172.20.0.12\"", "\"172.20.0.50\"")],
        "node `press2` has 172.20.0.50",
    ),
    ("address.unique", TOML, &[("\"172.20.0.12\"", "\"172.20.0.11\"")], "172.20.0.11"),
    ("address.unique", TOML, &[("\"172.20.0.20\"", "\"172.20.0.1\"")], "the gateway"),
    ("address.unique", TOML, &[("gateway = \"172.20.0.1\"", "gateway = \"172.20.0.55\"")], "172.20.0.55"),
    (
        "address.gateway-in-subnet",
        TOML,
        &[("gateway = \"172.20.0.1\"", "gateway = \"172.21.0.1\"")],
        "172.21.0.1",
    ),
    ("address.gateway-in-subnet", ARM, &[("\"172.20.0.1\"", "\"172.20.9.1\"")], "172.20.9.1"),
    ("address.range-order", TOML, &[("\"172.20.0.59\"", "\"172.20.0.49\"")], "172.20.0.49"),
    ("address.range-in-subnet", TOML, &[("\"172.20.0.59\"", "\"172.20.1.59\"")], "172.20.1.59"),
    ("address.range-size", TOML, &[("\"172.20.0.59\"", "\"172.20.0.54\"")], "5 addresses"),
    (
        "address.storage-subnet-given",
        ARM,
        &[
            ("\"enableStorageAutoIp\": { \"value\": true }", "\"enableStorageAutoIp\": { \"value\": false }"),
            ("\"vlanId\": \"711\"", LEFT_IPS),
        ],
        "storageNetworkList[1]",
    ),
    ("address.storage-subnet-size", TOML, &[("\"10.71.2.0/24\"", "\"10.71.2.0/30\"")], "10.71.2.0/30"),
    ("address.storage-not-management", TOML, &[("\"10.71.2.0/24\"", "\"172.20.0.0/16\"")], "172.20.0.0/16"),
    ("address.storage-subnets-disjoint", TOML, &[("\"10.71.2.0/24\"", "\"10.71.0.0/16\"")], "10.71.0.0/16"),
];

const FIVE_AND_SIX: &str = r#"{ "name": "press5", "ipv4Address": "172.20.0.15" },
        { "name": "press6", "ipv4Address": "172.20.0.16" },
        { "name": "press1""#;
const MACHINES_FIVE_AND_SIX: &str = r#"machines/Press1", "/x/press5", "/x/press6","#;
const DROP_FOUR: (&str, &str) = (
    r#""172.20.0.12" },
        { "name": "press4", "ipv4Address": "172.20.0.14" }"#,
    r#""172.20.0.12" }"#,
);
const DROP_MACHINE_FOUR: (&str, &str) = (
    r#"machines/press3",
        "/subscriptions/0/resourceGroups/mill/providers/Microsoft.HybridCompute/machines/press4""#,
    r#"machines/press3""#,
);
const LEFT_IPS: &str = r#""vlanId": "711", "storageAdapterIPInfo": [
          { "physicalNode": "press1", "ipv4Address": "10.9.1.7", "subnetMask": "255.255.255.0" } ]"#;

#[test]
fn clean_files_are_clean() {
    for text in [TOML, ARM] {
        let reading = reading(text);
        assert_eq!(ids(&reading), Vec::<&str>::new());
        assert!(reading.spec.is_some());
    }
}

#[test]
fn each_mistake_is_told_by_its_rule_alone() {
    for (rule, text, edits, value) in CASES {
        let text = edited(text, edits);
        let reading = reading(&text);
        let [diagnostic] = reading.diagnostics.as_slice() else {
            panic!(
                "{rule}: {:?}",
                reading.diagnostics.iter().map(|d| (d.rule.0, &d.message)).collect::<Vec<_>>()
            );
        };
        assert_eq!(diagnostic.rule.0, *rule, "{}", diagnostic.message);
        assert!(diagnostic.message.contains(value), "{rule}: {}", diagnostic.message);
        let of_table = rules::find(rule).unwrap();
        assert!(of_table.has_form(&diagnostic.message), "{rule}: {}", diagnostic.message);
        assert_eq!(diagnostic.severity, of_table.severity, "{rule}");
        assert_eq!(reading.spec.is_none(), diagnostic.severity == Severity::Error, "{rule}");
        // What is there stands somewhere; what is missing as a whole does not.
        let span = diagnostic.location.as_ref().and_then(|at| at.span.clone());
        assert!(span.is_none_or(|span| text.get(span).is_some()), "{rule}");
    }
}

#[test]
fn every_rule_has_a_mistake_here() {
    let tried: HashSet<_> = CASES.iter().map(|(rule, ..)| *rule).collect();
    let of_files = rules::all().filter(|rule| rule.checked == Checked::Template);
    let untried: Vec<_> = of_files.map(|rule| rule.id.0).filter(|id| !tried.contains(id)).collect();
    assert_eq!(untried, ["template.override-unused"], "which has a test of its own");
}

#[test]
fn the_place_is_that_of_the_value() {
    let text = edited(TOML, &[("\"172.20.0.12\"", "\"172.20.0.59\"")]);
    let diagnostic = &reading(&text).diagnostics[0];
    let at = diagnostic.location.as_ref().unwrap();
    assert_eq!(at.path, "zone[0].node[1].management_ip");
    assert_eq!(&text[at.span.clone().unwrap()], "\"172.20.0.59\"");
}

#[test]
fn all_violations_are_told_at_once_in_the_order_of_the_file() {
    let edits = [
        ("vlan = 712", "vlan = 711"),
        ("\"172.20.0.59\"", "\"172.20.0.51\""),
        ("\"172.20.0.14\"", "\"1.2.3.4\""),
    ];
    let reading = reading(&edited(TOML, &edits));
    assert_eq!(ids(&reading), ["address.range-size", "address.in-subnet", "net.storage-vlans-distinct"]);
}

#[test]
fn overriding_makes_a_warning_and_a_cluster() {
    let (rule, text, edits, _) = CASES.iter().find(|case| case.0 == "net.storage-intent-dedicated").unwrap();
    let text = edited(text, edits);
    let refused = &reading(&text).diagnostics[0];
    assert!(refused.help.contains("--override net.storage-intent-dedicated"), "{}", refused.help);
    assert!(refused.help.contains("overrides = [\"net.storage-intent-dedicated\"]"), "{}", refused.help);
    let in_template = format!("overrides = [\"{rule}\"]\n{text}");
    for reading in [try_read(&text, &[rule]).unwrap(), reading(&in_template)] {
        let diagnostic = &reading.diagnostics[0];
        assert_eq!((diagnostic.severity, diagnostic.overridden), (Severity::Warning, true));
        assert!(diagnostic.help.contains("path diversity is lost"));
        assert!(reading.spec.unwrap().intents[0].is_converged_storage());
    }
}

#[test]
fn an_override_that_overrides_nothing_is_noted() {
    let reading = try_read(TOML, &["address.outside-range"]).unwrap();
    assert_eq!(ids(&reading), ["template.override-unused"]);
    assert_eq!(reading.diagnostics[0].severity, Severity::Note);
    assert!(reading.spec.is_some());
}

#[test]
fn an_override_of_no_rule_is_no_override() {
    let unreadable = try_read(TOML, &["address.outside-rnge", "witness.required"]).unwrap_err();
    let [unknown, refused] = unreadable.problems.as_slice() else { panic!("{unreadable}") };
    assert_eq!(unknown.message, "no rule is called `address.outside-rnge`");
    assert_eq!(unknown.help.as_deref(), Some("did you mean `address.outside-range`?"));
    assert_eq!(refused.message, "rule `witness.required` can't be overridden");
}

#[test]
fn a_near_miss_is_pointed_out() {
    let text = edited(ARM, &[("\"press1\", \"PRESS2\"", "\"p-ress1\", \"PRESS2\"")]);
    let diagnostic = &reading(&text).diagnostics[0];
    assert!(
        diagnostic.help.contains("`p-ress1` and `press1` look like the same machine"),
        "{}",
        diagnostic.help
    );
    assert_eq!(diagnostic.related[0].0.path, "physicalNodesSettings[0].name");
}
