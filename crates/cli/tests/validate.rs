//! The binary as an operator meets it: exit codes, messages, and what it must not say.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SECRET: &str = "Grist-4711-Secret";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../template/tests/fixtures").join(name)
}

fn twinrack(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twinrack")).args(arguments).output().expect("of a test")
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn validate(file: &Path, arguments: &[&str]) -> Said {
    let file = file.to_str().expect("of a test");
    let output = twinrack(&[&["validate", file], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("of a test");
    Said {
        code: output.status.code().expect("of a test"),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// A file with this content in a folder of its own; the folder goes when it is dropped.
fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("of a test");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("of a test");
    (folder, path)
}

fn edited(name: &str, from: &str, to: &str) -> (tempfile::TempDir, PathBuf) {
    let text = std::fs::read_to_string(fixture(name)).expect("of a test");
    assert!(text.contains(from), "{from}");
    file(name, text.replacen(from, to, 1))
}

#[test]
fn a_good_template_exits_with_0_and_is_summed_up() {
    let said = validate(&fixture("clean.toml"), &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    for words in [
        "cluster     mill, 2+2, four-way mirror",
        "zone        east: press1 172.20.0.11, press2 172.20.0.12",
        "storage     right: 10.71.2.0/24 VLAN 712 on san2",
        "(twinrack TOML): 0 errors, 0 warnings",
    ] {
        assert!(said.out.contains(words), "{words}\n{}", said.out);
    }
    assert!(!said.out.contains('\u{1b}'), "no colours outside a terminal");
}

#[test]
fn a_good_arm_file_exits_with_0_and_says_what_it_ignores() {
    let said = validate(&fixture("clean.parameters.json"), &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("Asked for, and not built yet:"));
    assert!(said.out.contains("secrets are not kept in an Azure Key Vault: keyVaultName"));
    assert!(!said.out.contains(SECRET));
}

#[test]
fn a_violation_exits_with_1_and_is_shown_where_it_stands() {
    let (_folder, path) = edited("clean.toml", "\"172.20.0.12\"", "\"172.20.0.59\"");
    let said = validate(&path, &[]);
    assert_eq!(said.code, 1);
    for words in [
        "address.outside-range",
        "node `press2` has 172.20.0.59, inside the infrastructure range 172.20.0.50–172.20.0.59",
        "clean.toml:22:17]",
        "`--override address.outside-range`",
        "1 error, 0 warnings",
    ] {
        assert!(said.out.contains(words), "{words}\n{}", said.out);
    }
    let said = validate(&path, &["--override", "address.outside-range"]);
    assert_eq!(said.code, 0);
    assert!(said.out.contains("0 errors, 1 warning\n"));
}

#[test]
fn input_that_cannot_be_read_exits_with_2_and_says_why() {
    let text = std::fs::read_to_string(fixture("clean.parameters.json")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.toml");
    for ((_folder, path), words) in [
        (file("cut.json", &text[..900]), "the file ends in the middle of a value"),
        (file("a.toml", "name = \"mi"), "not valid TOML"),
        (file("a.toml", "colour = 1"), "unknown key `colour`"),
        (file("a.bin", b"\x7fELF\x02\x01\x01\x80\xff\xfe"), "not text: the byte at position 7"),
        (file("a.bin", b"\0\0\0\0"), "not text: it contains zero bytes"),
        (file("a.json", ""), "the file is empty"),
        (file("big.toml", vec![b'#'; 2 << 20]), "larger than"),
        ((tempfile::tempdir().unwrap(), missing), "there is no file"),
        ((tempfile::tempdir().unwrap(), folder.path().to_owned()), "is a directory"),
    ] {
        let said = validate(&path, &[]);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{words}");
        assert!(said.err.contains(words), "{words}\n{}", said.err);
        assert!(!said.err.contains("panicked") && !said.err.contains("RUST_BACKTRACE"));
    }
}

#[test]
fn a_command_line_that_cannot_be_read_exits_with_2() {
    let good = fixture("clean.toml");
    for arguments in [
        &["--override", "net.storage-dedicated"][..],
        &["--override", "zones.equal-size"],
        &["--format", "xml"],
    ] {
        assert_eq!(validate(&good, arguments).code, 2, "{arguments:?}");
    }
    assert_eq!(twinrack(&["validate"]).status.code(), Some(2));
    assert_eq!(twinrack(&["valdate"]).status.code(), Some(2));
}

#[test]
fn excerpts_never_show_a_secret() {
    // Something wrong on the lines beside the password, so that it would be in the excerpt.
    for (from, to) in [
        ("{ \"value\": \"miller\" },", "{ \"value\": \"miller\" }"),
        ("\"AzureStackLCMAdminUsername\"", "\"ClusterName\""),
        ("\"witnessPath\": {", "\"witnessType\": {"),
        (SECRET, &format!("{SECRET}\", \"")),
    ] {
        let (_folder, path) = edited("clean.parameters.json", from, to);
        let said = validate(&path, &[]);
        assert_eq!(said.code, 2, "{from}");
        assert!(
            said.err.contains("localAdminPassword") || said.err.contains("twice"),
            "no excerpt: {}",
            said.err
        );
        assert!(!said.err.contains("4711"), "{}", said.err);
        let said = validate(&path, &["--format", "json"]);
        assert!(!said.out.contains("4711"), "{}", said.out);
    }
}

#[test]
fn control_characters_of_a_file_stay_out_of_the_terminal() {
    let (_folder, path) = file("a.toml", "name = \"a\u{7f}b\" # \u{9b}31m \u{1b}[31m\n");
    let said = validate(&path, &[]);
    assert!(!said.err.contains(['\u{1b}', '\u{9b}']), "{:?}", said.err);
}

#[test]
fn json_is_for_programs() {
    let report = |path: &Path, code: i32| -> serde_json::Value {
        let said = validate(path, &["--format", "json"]);
        assert_eq!((said.code, said.err.as_str()), (code, ""));
        serde_json::from_str(&said.out).unwrap()
    };
    let good = report(&fixture("clean.toml"), 0);
    assert_eq!(
        (&good["version"], &good["outcome"], &good["format"]),
        (&1.into(), &"good".into(), &"toml".into())
    );
    assert_eq!(good["cluster"]["zones"][1]["nodes"][0]["management_ip"], "172.20.0.13");

    let (_folder, path) = edited("clean.parameters.json", "\"vlanId\": 715", "\"vlanId\": 711");
    let violated = report(&path, 1);
    assert_eq!((&violated["outcome"], &violated["errors"]), (&"violated".into(), &1.into()));
    let diagnostic = &violated["diagnostics"][0];
    assert_eq!(diagnostic["rule"], "net.storage-vlans-distinct");
    assert_eq!(diagnostic["place"]["path"], "storageNetworkList[1].vlanId");
    assert_eq!((&diagnostic["place"]["line"], &diagnostic["place"]["column"]), (&74.into(), &70.into()));
    assert_eq!(diagnostic["related"][0]["line"], 73);
    assert!(violated["cluster"].is_null());

    let unreadable = report(Path::new("/nowhere/at.all"), 2);
    assert_eq!(unreadable["outcome"], "unreadable");
    assert_eq!(unreadable["diagnostics"][0]["message"], "there is no file `/nowhere/at.all`");
}

#[test]
fn the_rules_are_listed() {
    let out = String::from_utf8(twinrack(&["rules"]).stdout).unwrap();
    for rule in model::rules::all() {
        assert!(out.contains(rule.id.0) && out.contains(rule.title), "{}", rule.id);
    }
    let json: serde_json::Value = serde_json::from_slice(&twinrack(&["rules", "--json"]).stdout).unwrap();
    assert_eq!(
        (&json["version"], json["rules"].as_array().unwrap().len()),
        (&1.into(), model::rules::all().count())
    );
    let wiping =
        json["rules"].as_array().unwrap().iter().find(|rule| rule["id"] == "drive.foreign-data").unwrap();
    assert_eq!((&wiping["checked"], &wiping["override"]), (&"inventory".into(), &"by".into()));
    let page = String::from_utf8(twinrack(&["rules", "--markdown"]).stdout).unwrap();
    assert_eq!(page, model::rules::markdown());
}

#[test]
fn a_rule_is_explained_and_an_unknown_one_is_told_what_was_meant() {
    let output = twinrack(&["explain", "net.vlan-range"]);
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(out.starts_with("net.vlan-range: a VLAN is 1 to 4094\n") && out.contains("IEEE 802.1Q"), "{out}");
    for (id, meant) in [
        ("net.vlan-rnage", "did you mean `net.vlan-range`?"),
        ("VLANs", "did you mean one of net.storage-vlans-distinct, lldp.vlans-unknown?"),
        ("", "`twinrack rules` lists them"),
        ("\u{1b}[31m", "no rule is called `\\u{1b}[31m`"),
    ] {
        let output = twinrack(&["explain", id]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{id}");
        assert!(said.contains(meant), "{id}: {said}");
    }
}

#[test]
fn a_file_is_converted_to_what_validates_the_same() {
    let convert = |path: &Path, arguments: &[&str]| {
        let path = path.to_str().unwrap();
        twinrack(&[&["convert", path, "--to", "toml"], arguments].concat())
    };
    let output = convert(&fixture("clean.parameters.json"), &[]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let (_folder, path) = file("plant.toml", &output.stdout);
    let [of_file, of_arm] = [path, fixture("clean.parameters.json")].map(|path| validate(&path, &[]));
    let cluster = |out: &str| {
        out[out.find("cluster     ").unwrap()..].lines().take(9).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((of_file.code, cluster(&of_file.out)), (0, cluster(&of_arm.out)));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("4711"));

    let (_folder, wrong) = edited("clean.parameters.json", "\"vlanId\": 715", "\"vlanId\": 711");
    let output = convert(&wrong, &[]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("net.storage-vlans-distinct"));
    let (_folder, cut) = file("cut.json", "{");
    assert_eq!(convert(&cut, &[]).status.code(), Some(2));
    assert_eq!(twinrack(&["convert", wrong.to_str().unwrap(), "--to", "xml"]).status.code(), Some(2));
}

#[test]
fn an_arm_template_beside_the_file_gives_what_it_leaves_out() {
    let (_folder, path) =
        edited("clean.parameters.json", "\"clusterPattern\": { \"value\": \"RackAware\" },", "");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("\"subnetMask\": { \"value\": \"255.255.255.0\" },", "");
    std::fs::write(&path, text).unwrap();
    assert_eq!(validate(&path, &[]).code, 1, "the mask is missing");
    let template = fixture("azuredeploy.json");
    let template = template.to_str().unwrap();
    let said = validate(&path, &["--arm-template", template]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{}", said.out);

    let text = std::fs::read_to_string(template).unwrap().replace("255.255.255.0", "255.0.255.0");
    let (_folder, wrong) = file("azuredeploy.json", text);
    let said = validate(&path, &["--arm-template", wrong.to_str().unwrap()]);
    assert!(said.code == 1 && said.out.contains("azuredeploy.json:14:"), "{}", said.out);
    let said = validate(&path, &["--arm-template", wrong.to_str().unwrap(), "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let place = &report["diagnostics"][0]["place"];
    assert!(place["file"].as_str().unwrap().ends_with("azuredeploy.json") && place["line"] == 14, "{place}");

    let said = validate(&path, &["--arm-template", "/nowhere/at.all"]);
    assert!(said.code == 2 && said.err.contains("there is no file `/nowhere/at.all`"), "{}", said.err);
    let said = validate(&fixture("clean.toml"), &["--arm-template", template]);
    assert!(said.code == 2 && said.err.contains("this is a twinrack TOML template"), "{}", said.err);
}

#[test]
fn help_teaches() {
    let out = String::from_utf8(twinrack(&["--help"]).stdout).unwrap();
    assert!(out.contains("Examples:\n  twinrack validate plant.toml") && out.contains("Exit codes:"));
    let out = String::from_utf8(twinrack(&["validate", "--help"]).stdout).unwrap();
    assert!(out.contains("--override <RULE>") && out.contains("TOML template"));
}
