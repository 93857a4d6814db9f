//! ARM files as nobody should write them, and somebody does: nulls, empty texts, wrong types, marks, and keys from elsewhere.

mod common;

use common::{ARM, edited, ids, reading};
use serde_json::{Value, json};
use template::{IgnoredKind, ReadOptions, Reading, Source, Unreadable, read};

fn file() -> Value {
    serde_json::from_str(ARM).expect("the fixture is JSON")
}

fn read_value(value: &Value) -> Result<Reading, Unreadable> {
    read(&Source::new("a.json", value.to_string()), &ReadOptions::default())
}

fn parameters() -> Vec<String> {
    file()["parameters"].as_object().expect("parameters").keys().cloned().collect()
}

/// The text of every kind of value at every place in a value.
fn every_place(value: &Value, pointer: &str, places: &mut Vec<String>) {
    places.push(pointer.to_owned());
    match value {
        Value::Object(entries) => {
            entries.iter().for_each(|(key, value)| every_place(value, &format!("{pointer}/{key}"), places));
        }
        Value::Array(values) => {
            values
                .iter()
                .enumerate()
                .for_each(|(at, value)| every_place(value, &format!("{pointer}/{at}"), places));
        }
        _ => {}
    }
}

#[test]
fn null_is_the_same_as_nothing_for_every_parameter() {
    for name in parameters() {
        let [mut null, mut left_out] = [file(), file()];
        null["parameters"][&name]["value"] = Value::Null;
        left_out["parameters"].as_object_mut().unwrap().remove(&name);
        let [null, left_out] = [null, left_out].map(|value| read_value(&value).unwrap());
        let told = |reading: &Reading| -> Vec<(&'static str, String)> {
            reading.diagnostics.iter().map(|d| (d.rule.0, d.message.clone())).collect()
        };
        assert_eq!(told(&null), told(&left_out), "{name}");
        assert_eq!(null.spec, left_out.spec, "{name}");
    }
}

#[test]
fn any_value_at_any_place_is_read_or_refused_with_its_place() {
    let mut places = Vec::new();
    every_place(&file()["parameters"], "/parameters", &mut places);
    assert!(places.len() > 140, "{}", places.len());
    let values = [
        Value::Null,
        json!(""),
        json!("x"),
        json!(true),
        json!(1),
        json!(-1.5),
        json!([]),
        json!([null]),
        json!([[]]),
        json!([{}]),
        json!({}),
        json!({"value": null}),
    ];
    for (place, value) in places.iter().flat_map(|place| values.iter().map(move |value| (place, value))) {
        let mut file = file();
        *file.pointer_mut(place).unwrap() = value.clone();
        match read_value(&file) {
            Ok(reading) => assert_eq!(
                reading.spec.is_none(),
                reading.count(model::Severity::Error) > 0,
                "{place} {value}"
            ),
            Err(unreadable) => {
                assert!(!unreadable.problems.is_empty(), "{place} {value}");
                let told = unreadable
                    .problems
                    .iter()
                    .all(|problem| problem.location.is_some() || *place == "/parameters");
                assert!(told, "{place} {value}: {unreadable}");
            }
        }
    }
}

#[test]
fn empty_text_is_nothing_and_never_of_a_wrong_type() {
    let mut places = Vec::new();
    every_place(&file()["parameters"], "/parameters", &mut places);
    for place in places {
        let mut file = file();
        let there = file.pointer_mut(&place).unwrap();
        if there.is_string() || there.is_number() || there.is_boolean() {
            *there = json!("");
            assert!(read_value(&file).is_ok(), "{place}");
        }
    }
}

#[test]
fn a_vlan_is_a_number_or_text() {
    for written in ["711", "\"711\""] {
        let text = edited(ARM, &[("\"vlanId\": \"711\"", &format!("\"vlanId\": {written}"))]);
        assert_eq!(reading(&text).spec, reading(ARM).spec, "{written}");
    }
    for written in ["711.5", "\"711.0\"", "1e9", "-711", "\"0x2c7\"", "\"seven\"", "18446744073709551616"] {
        let text = edited(ARM, &[("\"vlanId\": \"711\"", &format!("\"vlanId\": {written}"))]);
        assert_eq!(ids(&reading(&text)), ["net.vlan-range"], "{written}");
    }
    for written in ["null", "\"\""] {
        let text = edited(ARM, &[("\"vlanId\": 715", &format!("\"vlanId\": {written}"))]);
        let spec = reading(&text).spec.unwrap();
        assert_eq!(spec.storage_networks[1].vlan.get(), 712, "the default: {written}");
    }
}

#[test]
fn what_is_not_known_is_listed_at_every_level_and_refuses_nothing() {
    let mut file = file();
    for place in [
        "",
        "/parameters",
        "/parameters/intentList/value/0",
        "/parameters/intentList/value/1/qosPolicyOverrides",
        "/parameters/intentList/value/1/adapterPropertyOverrides",
        "/parameters/storageNetworkList/value/0",
        "/parameters/physicalNodesSettings/value/0",
        "/parameters/localAvailabilityZones/value/1",
    ] {
        file.pointer_mut(place).unwrap()["ofNextYear"] = json!({ "value": 1 });
    }
    let listed = read_value(&file).unwrap();
    assert_eq!(listed.spec, reading(ARM).spec);
    let of_next_year: Vec<_> =
        listed.ignored.iter().filter(|item| item.path.ends_with("ofNextYear")).collect();
    assert_eq!(of_next_year.len(), 8, "{of_next_year:?}");
    assert!(of_next_year.iter().all(|item| item.kind == IgnoredKind::Unknown));
}

#[test]
fn every_mark_and_every_width_of_characters_is_read() {
    let text = edited(ARM, &[("\"parameters\"", "/* Mühle */ \"parameters\"")]);
    let utf16 = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
        mark.into_iter().chain(text.encode_utf16().flat_map(unit)).collect()
    };
    let [little, big] = [utf16([0xff, 0xfe], u16::to_le_bytes), utf16([0xfe, 0xff], u16::to_be_bytes)];
    for bytes in [text.as_bytes(), format!("\u{feff}{text}").as_bytes(), &little, &big] {
        let source = Source::from_bytes("a.json", bytes).unwrap();
        let reading = read(&source, &ReadOptions::default()).unwrap();
        assert_eq!(reading.spec, common::reading(ARM).spec);
    }
    let windows = text.replace('\n', "\r\n");
    assert_eq!(reading(&windows).spec, reading(ARM).spec);
}

#[test]
fn what_is_nearly_json_is_refused_with_its_place() {
    for (from, to) in [
        ("\"useDhcp\": { \"value\": false }", "\"useDhcp\": { \"value\": False }"),
        ("\"useDhcp\": { \"value\": false }", "\"useDhcp\": { 'value': false }"),
        ("\"useDhcp\": { \"value\": false }", "useDhcp: { \"value\": false }"),
        ("\"useDhcp\": { \"value\": false }", "\"useDhcp\": { \"value\": false, }"),
        ("\"useDhcp\": { \"value\": false }", "\"useDhcp\": { \"value\": NaN }"),
    ] {
        let text = edited(ARM, &[(from, to)]);
        let unreadable = read(&Source::new("a.json", text.as_str()), &ReadOptions::default()).unwrap_err();
        let [problem] = unreadable.problems.as_slice() else { panic!("{unreadable}") };
        assert!(problem.message.starts_with("not valid JSON: "), "{to}: {}", problem.message);
        let at = problem.location.as_ref().unwrap().span.clone().unwrap().start;
        let place = text.find(to).unwrap();
        assert!((place..=place + to.len()).contains(&at), "{to}: {at}");
    }
}
