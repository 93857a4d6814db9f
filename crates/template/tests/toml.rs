//! twinrack's own format: what is refused, the lab's templates, and the format as it is documented.

mod common;

use common::{TOML, edited, ids, problems, reading, try_read};
use model::{ConfigurationMode, DeploymentMode, Mtu, Shape, TrafficClass, Wiring};
use std::path::{Path, PathBuf};
use template::{Format, ReadOptions, Source, read};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_labs_templates_are_clean_and_have_their_shape() {
    for shape in Shape::ALL {
        let path = repository().join(format!("hil/templates/{shape}.toml"));
        let source = Source::from_bytes("lab", &std::fs::read(&path).unwrap()).unwrap();
        let reading = read(&source, &ReadOptions::default()).unwrap();
        assert_eq!(reading.diagnostics, [], "{shape}");
        let spec = reading.spec.unwrap();
        assert_eq!(spec.shape(), shape);
        assert_eq!(spec.adapters().len(), 4);
        assert_eq!(spec.storage_mtu(), Mtu::JUMBO);
        let vlans: Vec<_> = spec.storage_networks.iter().map(|network| network.vlan.get()).collect();
        assert_eq!((spec.management.vlan.map(model::VlanId::get), vlans), (Some(7), vec![711, 712]));
        assert!(spec.witness.management_ip.is_some());
    }
}

#[test]
fn everything_the_template_says_is_in_the_cluster() {
    let spec = reading(TOML).spec.unwrap();
    assert_eq!(spec.name.as_str(), "mill");
    assert_eq!((spec.mode, spec.configuration), (DeploymentMode::Deploy, ConfigurationMode::Express));
    assert_eq!(spec.wiring, Some(Wiring::B));
    let nodes: Vec<_> = spec
        .nodes()
        .map(|(zone, node)| format!("{} {} {}", zone.name, node.ordinal, node.management_ip))
        .collect();
    assert_eq!(
        nodes,
        ["east 1 172.20.0.11", "east 2 172.20.0.12", "west 3 172.20.0.13", "west 4 172.20.0.14"]
    );
    assert_eq!(spec.intent_for(TrafficClass::Storage).unwrap().mtu, Mtu::JUMBO);
    assert_eq!(spec.intent_for(TrafficClass::Compute).unwrap().mtu, Mtu::ETHERNET);
    assert_eq!(spec.qos.storage_bandwidth_percent, 60);
    assert_eq!(spec.compute_vlans.len(), 2);
}

#[test]
fn what_may_be_left_out_has_its_documented_default() {
    let text = edited(
        TOML,
        &[
            ("vlan = 711\nsubnet = \"10.71.1.0/24\"\n", ""),
            ("vlan = 712\nsubnet = \"10.71.2.0/24\"\n", ""),
            ("[qos]\nstorage_priority = 3\nheartbeat_priority = 7\nstorage_bandwidth_percent = 60\n", ""),
        ],
    );
    let spec = reading(&text).spec.unwrap();
    let networks: Vec<_> = spec.storage_networks.iter().map(|n| format!("{} {}", n.vlan, n.subnet)).collect();
    assert_eq!(networks, ["711 10.71.1.0/24", "712 10.71.2.0/24"]);
    assert_eq!(spec.qos, model::Qos::default());
}

#[test]
fn unknown_keys_are_refused_all_at_once_with_what_was_meant() {
    let text = edited(
        TOML,
        &[("gateway =", "gatewya ="), ("[witness]", "[witnes]"), ("[qos]", "[qos]\ncolour = 1")],
    );
    let unreadable = try_read(&text, &[]).unwrap_err();
    let told: Vec<_> = unreadable
        .problems
        .iter()
        .map(|p| (p.message.as_str(), p.help.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        told,
        [
            ("unknown key `gatewya`", "did you mean `gateway`?"),
            ("unknown key `witnes`", "did you mean `witness`?"),
            (
                "unknown key `colour`",
                "known here: storage_priority, heartbeat_priority, storage_bandwidth_percent"
            ),
        ]
    );
    let at = unreadable.problems[0].location.clone().unwrap();
    assert_eq!((at.path.as_str(), &text[at.span.unwrap()]), ("management.gatewya", "gatewya"));
}

#[test]
fn wrong_types_are_told_with_their_place() {
    for (edit, message) in [
        (("vlan = 712", "vlan = \"712\""), "`storage_network[1].vlan` must be a number, and is text"),
        (("vlans = [8, 9]", "vlans = 8"), "`compute.vlans` must be a list, and is a number"),
        (("name = \"mill\"", "name = 1979-05-27"), "`name` must be text, and is a date"),
        (("[witness]", "[[witness]]"), "`witness` must be a table, and is a list"),
        (("[\"172.20.0.2\"]", "[172]"), "`management.dns[0]` must be text, and is a number"),
        (("name = \"mill\"", "name = true"), "`name` must be text, and is true or false"),
    ] {
        assert_eq!(problems(&edited(TOML, &[edit])), [message]);
    }
}

#[test]
fn broken_syntax_is_one_problem_with_its_place() {
    for text in ["name = \"mi", "name = ", "[management", "name = \"a\"\nname = \"b\"", "a = [1,", "x"] {
        let unreadable = try_read(text, &[]).unwrap_err();
        assert_eq!(unreadable.problems.len(), 1, "{text}");
        assert!(unreadable.problems[0].message.starts_with("not valid TOML: "), "{text}");
        let span = unreadable.problems[0].location.clone().unwrap().span.unwrap();
        assert!(text.get(span).is_some(), "{text}");
    }
}

#[test]
fn an_empty_template_lacks_everything_and_says_so() {
    let reading = reading("");
    assert_eq!(reading.format, Format::Toml);
    assert!(reading.spec.is_none());
    for rule in
        ["template.value-required", "zones.exactly-two", "witness.required", "net.two-storage-networks"]
    {
        assert!(ids(&reading).contains(&rule), "{rule}");
    }
}

fn documentation() -> String {
    std::fs::read_to_string(repository().join("docs/template.md")).expect("the page")
}

#[test]
fn the_documented_format_is_the_format() {
    let page = documentation();
    let example =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let reading = reading(example);
    assert_eq!(reading.diagnostics, []);
    assert_eq!(reading.spec.unwrap().shape().to_string(), "2+2");
    // Every key of the format is in the example: a refusal lists the keys that would have been right.
    for table in [
        "",
        "[management]",
        "[compute]",
        "[[zone]]",
        "[[zone.node]]",
        "[witness]",
        "[[intent]]",
        "[[storage_network]]",
        "[qos]",
    ] {
        let text = if table.is_empty() {
            format!("zzzzzz = 1\n{example}")
        } else {
            edited(example, &[(table, &format!("{table}\nzzzzzz = 1"))])
        };
        let help = try_read(&text, &[]).unwrap_err().problems[0].help.clone().unwrap();
        for key in help.strip_prefix("known here: ").expect("a list of keys").split(", ") {
            let there =
                [format!("\n{key} = "), format!("\n[{key}]"), format!("[{key}]]"), format!(".{key}]]")];
            assert!(
                there.iter().any(|form| example.contains(form)),
                "`{key}` of `{table}` is not in the example"
            );
        }
    }
}
