//! What tests, fuzzers and measurements share: inputs that try to do harm, and what must hold of any input.
//!
//! Needs the feature `trial`. The functions panic when something does not hold: that is what they are for.

use crate::{Format, LISTED_MAX, ReadOptions, Reading, Source, Unreadable, read, to_toml};
use model::{ClusterSpec, Location, Severity, WitnessKind};
use std::fmt::Write as _;

/// A parameters file for `azuredeploy.json`, as far as the target that tries templates needs one.
const PARAMETERS: &str = r#"{"parameters": {"clusterName": {"value": null}, "dnsServers": {"value": []}}}"#;

/// Any bytes of any file.
pub fn bytes(data: &[u8]) {
    match Source::from_bytes("any", data) {
        Ok(source) => source_holds(&source),
        Err(unreadable) => assert!(!unreadable.problems.is_empty()),
    }
}

/// Any text as twinrack's TOML.
pub fn toml(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        source_holds(&Source::new("any.toml", text));
    }
}

/// Any text as an ARM deployment parameters file.
pub fn arm(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        source_holds(&Source::new("any.json", text));
    }
}

/// Any text as the ARM template beside a parameters file.
pub fn arm_template(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let source = Source::new("any.parameters.json", PARAMETERS);
        source_holds(&source.beside(Source::new("any.json", text)));
    }
}

/// What a fuzzer calls with any bytes, and its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every function above with its name, which is its fuzz target's.
pub const TARGETS: [Target; 4] =
    [("bytes", bytes), ("toml", toml), ("arm", arm), ("arm_template", arm_template)];

/// What must hold of a source, whatever is in it.
pub fn source_holds(source: &Source) {
    let options = ReadOptions::default();
    let outcome = read(source, &options);
    for at in places(&outcome) {
        if let Some(span) = &at.span {
            let (file, base) = source.file_at(span.start);
            assert!(file.text().get(span.start - base..span.end - base).is_some(), "{at:?} is no place");
            let (line, column) = source.line_column(span.start);
            assert!(line > 0 && column > 0, "{at:?}");
        }
    }
    #[cfg(feature = "render")]
    rendered(source, &outcome);
    match outcome {
        Ok(reading) => reading_holds(source, &reading),
        Err(Unreadable { problems, .. }) => {
            assert!((1..=LISTED_MAX + 1).contains(&problems.len()), "{} problems", problems.len());
        }
    }
}

fn reading_holds(source: &Source, reading: &Reading) {
    assert!(reading.diagnostics.len() <= LISTED_MAX);
    let errors = reading.count(Severity::Error) > 0;
    if reading.unlisted == 0 {
        assert_eq!(reading.spec.is_none(), errors);
    }
    for diagnostic in &reading.diagnostics {
        let rule = model::rules::find(diagnostic.rule.0).expect("a rule of the table");
        assert!(rule.has_form(&diagnostic.message), "{}: {}", rule.id, diagnostic.message);
    }
    let Some(text) = to_toml(source, reading) else {
        return assert!(reading.spec.is_none());
    };
    let again = read(&Source::new("converted.toml", text.as_str()), &ReadOptions::default())
        .unwrap_or_else(|unreadable| panic!("{unreadable}\n{text}"));
    assert_eq!(again.spec.as_ref(), reading.spec.as_ref().map(as_twinrack).as_ref(), "{text}");
}

/// The cluster with its witness as twinrack's own format has it.
pub fn as_twinrack(spec: &ClusterSpec) -> ClusterSpec {
    let mut spec = spec.clone();
    spec.witness.kind = WitnessKind::Node;
    spec
}

fn places(outcome: &Result<Reading, Unreadable>) -> Vec<&Location> {
    let (main, related): (Vec<_>, Vec<_>) = match outcome {
        Ok(reading) => reading.diagnostics.iter().map(|d| (d.location.as_ref(), &d.related)).unzip(),
        Err(unreadable) => unreadable.problems.iter().map(|p| (p.location.as_ref(), &p.related)).unzip(),
    };
    main.into_iter().flatten().chain(related.into_iter().flatten().map(|(at, _)| at)).collect()
}

/// Reports have no control characters; drawing them must not fail.
#[cfg(feature = "render")]
fn rendered(source: &Source, outcome: &Result<Reading, Unreadable>) {
    let said = match outcome {
        Ok(reading) => crate::render::reading(source, reading, false),
        Err(unreadable) => crate::render::unreadable(Some(source), unreadable, false),
    };
    let control = said.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(control, None, "{said:?}");
}

/// Files of about so many bytes that try to cost more than their size: many of what is compared with each other, looked up, told
/// or nested.
pub fn hostile(bytes: usize) -> Vec<(&'static str, Format, String)> {
    let mut files = Vec::new();
    for (name, head, each, tail) in ARM {
        files.push((name, Format::Arm, repeated(bytes, head, each, tail)));
    }
    for (name, head, each, tail) in TOML {
        files.push((name, Format::Toml, repeated(bytes, head, each, tail)));
    }
    // A key as long as half the file, over as many as the other half has room for: paths would be as long each.
    let long = "k".repeat(bytes / 2);
    let head = format!("{{\"parameters\": {{\"{long}\": {{");
    files.push((
        "keys below a long key",
        Format::Arm,
        repeated(bytes, &head, "\"a\": 1, \"A\": 1,", "\"b\": 1}}}"),
    ));
    files.push(("one long text", Format::Toml, format!("name = \"{}\"", "x".repeat(bytes))));
    files.push(("nested lists", Format::Arm, format!("{{\"parameters\": {}", "[".repeat(bytes))));
    files.push(("nested tables", Format::Toml, format!("{}x = 1", "a.".repeat(bytes / 2))));
    files.push(("compute and storage VLANs", Format::Toml, vlans(bytes)));
    files
}

type Shape = (&'static str, &'static str, &'static str, &'static str);

/// What a file begins with, what it has over and over (`#`: a number), and what it ends with.
const ARM: [Shape; 8] = [
    ("unknown parameters", "{\"parameters\": {", "\"clusterNmae#\": {\"value\": 1},", "\"x\": {}}}"),
    ("one parameter over and over", "{\"parameters\": {", "\"clusterName\": {\"value\": 1},", "\"x\": {}}}"),
    (
        "nodes that are in no zone",
        "{\"parameters\": {\"localAvailabilityZones\": {\"value\": [{\"localAvailabilityZoneName\": \"a\", \"nodes\": [\"n\"]}]}, \
         \"physicalNodesSettings\": {\"value\": [",
        "{\"name\": \"node-#\"},",
        "{}]}}}",
    ),
    (
        "Azure machines",
        "{\"parameters\": {\"arcNodeResourceIds\": {\"value\": [",
        "\"/x/vhost#\",",
        "\"y\"]}}}",
    ),
    (
        "storage networks on no adapter",
        "{\"parameters\": {\"intentList\": {\"value\": [{\"name\": \"s\", \"trafficType\": [\"Storage\"], \"adapter\": [\"a\"]}]}, \
         \"storageNetworkList\": {\"value\": [",
        "{\"name\": \"n#\", \"networkAdapterName\": \"b#\"},",
        "{}]}}}",
    ),
    ("wrong types", "{\"parameters\": {\"dnsServers\": {\"value\": [", "{},", "[]]}}}"),
    ("nulls", "{\"parameters\": {\"dnsServers\": {\"value\": [", "null,", "null]}}}"),
    ("comments", "{", "/* # */ // \"password\": \"x\n", "\"parameters\": {}}"),
];

const TOML: [Shape; 10] = [
    ("unknown keys", "", "nmae# = 1\n", ""),
    ("overrides", "overrides = [", "\"net.storage-intnet-dedicatde-#\",", "]\n"),
    ("zones", "", "[[zone]]\nname = \"z\"\n", ""),
    ("nodes", "[[zone]]\nname = \"z\"\n", "[[zone.node]]\nname = \"n#\"\n", ""),
    ("intents", "", "[[intent]]\nname = \"i#\"\ntraffic = [\"storage\"]\nadapters = [\"a\"]\n", ""),
    ("traffic", "[[intent]]\ntraffic = [", "\"storage\",", "]\n"),
    ("storage networks", "", "[[storage_network]]\nsubnet = \"10.0.0.0/8\"\n", ""),
    ("name servers", "[management]\ndns = [", "\"1.2.3\",", "]\n"),
    ("tables", "", "[a#.b]\n", ""),
    ("secrets", "", "password# = \"\"\"x\"\"\" \n", ""),
];

fn repeated(bytes: usize, head: &str, each: &str, tail: &str) -> String {
    let mut text = String::with_capacity(bytes);
    text.push_str(head);
    let mut number = 0_u32;
    while text.len() + each.len() + tail.len() + 10 < bytes {
        for (place, part) in each.split('#').enumerate() {
            if place > 0 {
                let _ = write!(text, "{number}");
            }
            text.push_str(part);
        }
        number += 1;
    }
    text + tail
}

fn vlans(bytes: usize) -> String {
    let half = repeated(bytes / 2, "[compute]\nvlans = [", "711,", "711]\n");
    half + &repeated(bytes / 2, "", "[[storage_network]]\nvlan = 711\n", "")
}
