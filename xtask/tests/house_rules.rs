//! The house rules that a compiler does not hold: which crate may know which, and what pure code may not do.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may depend on whom, among our own crates. A new edge is a decision: make it here and in docs/ARCHITECTURE.md.
const EDGES: [(&str, &[&str]); 12] = [
    ("model", &[]),
    ("template", &["model"]),
    ("network", &["model"]),
    ("vm", &[]),
    ("hands", &[]),
    ("api", &["model", "network"]),
    ("agent", &["api", "model", "network"]),
    ("deploy", &["api", "model", "network"]),
    ("fabric", &["model", "network"]),
    ("cli", &["model", "template"]),
    ("hil", &["api", "deploy", "fabric", "hands", "model", "network", "template", "vm"]),
    ("xtask", &["hil", "model"]),
];

/// Code that decides: it may not look at a clock, a file or a socket, and may not start anything.
const PURE: [&str; 19] = [
    "crates/model/src",
    "crates/template/src",
    "crates/network/src/announce.rs",
    "crates/network/src/plan.rs",
    "crates/network/src/diff.rs",
    "crates/network/src/simulate.rs",
    "crates/network/src/wiring.rs",
    "crates/network/src/wiring",
    "crates/network/src/diagnose.rs",
    "crates/network/src/diagnose",
    "crates/network/src/lldp.rs",
    "crates/network/src/lldp",
    "crates/fabric/src/switchboard.rs",
    "crates/fabric/src/switchboard",
    "hil/src/lab/plan.rs",
    "hil/src/lab/topology.rs",
    "hil/src/runner/inventory.rs",
    "hil/src/runner/refusal.rs",
    "hil/src/runner/spine.rs",
];

const IMPURE: [&str; 7] =
    ["Instant::now", "SystemTime", "std::fs", "std::net::Tcp", "std::net::Udp", "tokio::", "std::thread"];

/// The longest file that is still one thing.
const LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn manifests() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let crates = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    for dir in crates.chain([root().join("hil"), root().join("xtask")]) {
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        found.insert(name, dir.join("Cargo.toml"));
    }
    found
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    if dir.is_file() {
        found.push(dir.to_owned());
        return;
    }
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
            rust_files(&path, found);
        }
    }
}

#[test]
fn crates_know_only_whom_they_may() {
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    let manifests = manifests();
    assert_eq!(
        manifests.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        ours,
        "crates and EDGES differ"
    );
    for (name, allowed) in EDGES {
        let manifest: toml::Table = fs::read_to_string(&manifests[name]).unwrap().parse().unwrap();
        let dependencies =
            manifest.get("dependencies").and_then(|value| value.as_table()).cloned().unwrap_or_default();
        let known: BTreeSet<&str> =
            dependencies.keys().map(String::as_str).filter(|key| ours.contains(key)).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(known, allowed, "edges of {name}");
    }
}

#[test]
fn code_that_decides_does_not_look_around() {
    let mut files = Vec::new();
    for path in PURE {
        rust_files(&root().join(path), &mut files);
    }
    assert!(files.len() > PURE.len());
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in
            code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(*word)) {
                wrong.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn files_are_one_thing_each() {
    let mut files = Vec::new();
    for dir in ["crates", "hil", "xtask"] {
        rust_files(&root().join(dir), &mut files);
    }
    let lines = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count();
    let long: Vec<String> = files
        .iter()
        .filter(|file| lines(file) > LINES_MAX)
        .map(|file| format!("{}: {} lines", file.display(), lines(file)))
        .collect();
    assert_eq!(long, Vec::<String>::new(), "what are these files hiding?");
}
