//! An ARM template beside a parameters file.

mod common;

use common::{ARM, TOML, edited, ids, try_read};
use model::{ConfigurationMode, DeploymentMode, WitnessKind};
use template::{IgnoredKind, ReadOptions, Reading, Source, Unreadable, read};

const TEMPLATE: &str = include_str!("fixtures/azuredeploy.json");

fn beside(file: &str, template: &str) -> (Source, Result<Reading, Unreadable>) {
    let source = Source::new("p.json", file).beside(Source::new("azuredeploy.json", template));
    let outcome = read(&source, &ReadOptions::default());
    (source, outcome)
}

/// The clean file without what the template has a default for.
fn bare() -> String {
    let mut value: serde_json::Value = serde_json::from_str(ARM).expect("the fixture is JSON");
    let parameters = value["parameters"].as_object_mut().expect("parameters");
    for key in [
        "deploymentMode",
        "configurationMode",
        "witnessType",
        "subnetMask",
        "dnsServers",
        "storageNetworkList",
        "clusterPattern",
    ] {
        parameters.remove(key).expect("a parameter of the fixture");
    }
    value.to_string()
}

#[test]
fn what_the_file_leaves_out_has_the_templates_default() {
    assert!(ids(&try_read(&bare(), &[]).unwrap()).contains(&"witness.required"), "without a template");
    let reading = beside(&bare(), TEMPLATE).1.unwrap();
    assert_eq!(ids(&reading), [""; 0]);
    let spec = reading.spec.unwrap();
    assert_eq!((spec.mode, spec.configuration), (DeploymentMode::Validate, ConfigurationMode::Express));
    assert_eq!(spec.witness.kind, WitnessKind::Cloud);
    assert_eq!(spec.management.subnet.to_string(), "172.20.0.0/24");
    assert_eq!(spec.management.dns, ["172.20.0.3".parse::<std::net::Ipv4Addr>().unwrap()]);
    let vlans: Vec<_> = spec.storage_networks.iter().map(|network| network.vlan.get()).collect();
    assert_eq!(vlans, [720, 721]);
}

#[test]
fn what_the_file_gives_stands_and_null_gives_nothing() {
    let with = beside(ARM, TEMPLATE).1.unwrap();
    let without = try_read(ARM, &[]).unwrap();
    assert_eq!((with.spec, with.ignored), (without.spec, without.ignored));
    let text = edited(
        ARM,
        &[(
            "\"configurationMode\": { \"value\": \"InfraOnly\" }",
            "\"ConfigurationMode\": { \"value\": null }",
        )],
    );
    assert_eq!(beside(&text, TEMPLATE).1.unwrap().spec.unwrap().configuration, ConfigurationMode::Express);
    // Empty text is text to ARM: it is given.
    let text = edited(ARM, &[("\"FileShare\"", "\"\"")]);
    assert_eq!(ids(&beside(&text, TEMPLATE).1.unwrap()), ["witness.required"]);
}

#[test]
fn expressions_are_listed_and_give_nothing() {
    let text = edited(ARM, &[("\"defaultGateway\": { \"value\": \"172.20.0.1\" },", "")]);
    let reading = beside(&text, TEMPLATE).1.unwrap();
    assert_eq!(ids(&reading), ["template.value-required"]);
    let gateway = reading.ignored.iter().find(|item| item.path == "defaultGateway").unwrap();
    assert_eq!(gateway.kind, IgnoredKind::NotBuiltYet);
    assert_eq!(gateway.reason, "its default in `azuredeploy.json` is an expression, which is not worked out");
    let literal = edited(TEMPLATE, &[("\"[parameters('gateway')]\"", "\"[[x]\"")]);
    let reading = beside(&text, &literal).1.unwrap();
    assert_eq!(reading.diagnostics[0].message, "`[x]` is no IPv4 address", "two brackets are one");
}

#[test]
fn a_violation_of_a_default_is_shown_where_it_stands() {
    let template = edited(TEMPLATE, &[("\"vlanId\": \"721\"", "\"vlanId\": \"720\"")]);
    let (source, outcome) = beside(&bare(), &template);
    let reading = outcome.unwrap();
    assert_eq!(ids(&reading), ["net.storage-vlans-distinct"]);
    let span = reading.diagnostics[0].location.as_ref().unwrap().span.clone().unwrap();
    assert_eq!(source.name_at(span.start), "azuredeploy.json");
    assert_eq!(source.line_column(span.start), (21, 70));
    assert_eq!(&template[source.offset_at(span.start)..][..5], "\"720\"");
}

#[cfg(feature = "render")]
#[test]
fn excerpts_are_of_the_file_that_is_wrong() {
    let template = edited(TEMPLATE, &[("\"vlanId\": \"721\"", "\"vlanId\": \"720\"")]);
    let (source, outcome) = beside(&bare(), &template);
    let said = template::render::reading(&source, &outcome.unwrap(), false);
    assert!(
        said.contains("azuredeploy.json:21:70]") && said.contains("\"networkAdapterName\": \"Slot 4\""),
        "{said}"
    );
}

#[test]
fn what_is_no_template_is_refused() {
    let parameters = "{\"$schema\": \"https://x/deploymentParameters.json#\", \"parameters\": {}}";
    for (template, message) in [
        ("{", "the file ends in the middle of a value"),
        ("[]", "the ARM template `azuredeploy.json` has no `parameters`"),
        ("{\"parameters\": 1}", "the ARM template `azuredeploy.json` has no `parameters`"),
        (parameters, "`azuredeploy.json` is no ARM template"),
        ("{\"parameters\": {\"a\": {}, \"A\": {}}}", "`A` is given twice: keys compare without case"),
    ] {
        let (source, outcome) = beside(ARM, template);
        let unreadable = outcome.unwrap_err();
        assert_eq!(unreadable.problems.len(), 1, "{unreadable}");
        assert_eq!(unreadable.problems[0].message, message);
        let span = unreadable.problems[0].location.as_ref().unwrap().span.clone().unwrap();
        assert_eq!(source.name_at(span.start), "azuredeploy.json", "{template}");
    }
    let toml = Source::new("a.toml", TOML).beside(Source::new("azuredeploy.json", TEMPLATE));
    let unreadable = read(&toml, &ReadOptions::default()).unwrap_err();
    assert!(unreadable.problems[0].message.contains("twinrack TOML"), "{unreadable}");
}

#[test]
fn wrong_types_of_defaults_are_told() {
    let template = edited(TEMPLATE, &[("\"defaultValue\": [ \"172.20.0.3\" ]", "\"defaultValue\": 7")]);
    let unreadable = beside(&bare(), &template).1.unwrap_err();
    assert_eq!(unreadable.problems[0].message, "`dnsServers` must be a list, and is a number");
}

#[test]
fn secrets_of_the_template_are_not_repeated() {
    let template = edited(TEMPLATE, &[("\"type\": \"securestring\",", "\"type\": \"securestring\"")]);
    for template in [TEMPLATE, &template] {
        let (source, outcome) = beside(&bare(), template);
        assert!(!format!("{source:?} {outcome:?}").contains("4711"));
        #[cfg(feature = "render")]
        if let Err(unreadable) = outcome {
            let said = template::render::unreadable(Some(&source), &unreadable, false);
            assert!(said.contains("localAdminPassword") && !said.contains("4711"), "{said}");
        }
    }
}
