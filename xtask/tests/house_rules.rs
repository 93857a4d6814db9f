//! The house rules that a compiler does not hold: which crate may know which, and what pure code may not do.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may depend on whom, among our own crates. A new edge is a decision: make it here and in docs/ARCHITECTURE.md.
const EDGES: [(&str, &[&str]); 22] = [
    ("model", &[]),
    ("template", &["model"]),
    ("network", &["model"]),
    ("control", &["model", "placement"]),
    ("placement", &["model"]),
    ("sim", &["control", "model", "placement"]),
    ("vm", &["model", "pulse"]),
    ("nvme", &[]),
    ("markup", &[]),
    ("hands", &[]),
    ("workload", &[]),
    ("pulse", &["workload"]),
    ("api", &["control", "model", "network"]),
    ("ledger", &["api", "control", "model"]),
    ("agent", &["api", "control", "ledger", "model", "network", "nvme", "storage", "vm"]),
    ("storage", &["control", "model", "nvme"]),
    ("deploy", &["api", "control", "model", "network", "placement"]),
    ("fabric", &["model", "network"]),
    ("drives", &["model"]),
    ("cli", &["api", "control", "deploy", "markup", "model", "network", "placement", "template", "vm"]),
    (
        "hil",
        &[
            "api", "control", "deploy", "drives", "fabric", "hands", "markup", "model", "network", "pulse",
            "template", "vm", "workload",
        ],
    ),
    ("xtask", &["fabric", "hil", "ledger", "model", "placement", "sim", "template"]),
];

/// Code that decides: it may not look at a clock, a file or a socket, and may not start anything.
const PURE: [&str; 75] = [
    "crates/model/src",
    "crates/template/src",
    "crates/control/src",
    "crates/placement/src",
    "crates/sim/src/world.rs",
    "crates/sim/src/world",
    "crates/sim/src/schedule.rs",
    "crates/sim/src/hits.rs",
    "crates/ledger/src/machine.rs",
    "crates/network/src/announce.rs",
    "crates/network/src/plan.rs",
    "crates/network/src/diff.rs",
    "crates/network/src/diff",
    "crates/network/src/simulate.rs",
    "crates/network/src/simulate",
    "crates/network/src/tap.rs",
    "crates/network/src/traffic.rs",
    "crates/network/src/wiring.rs",
    "crates/network/src/wiring",
    "crates/network/src/diagnose.rs",
    "crates/network/src/diagnose",
    "crates/network/src/lldp.rs",
    "crates/network/src/lldp",
    "crates/network/src/measure.rs",
    "crates/network/src/measure",
    "crates/network/src/throughput.rs",
    "crates/storage/src/bitmap.rs",
    "crates/storage/src/checksum.rs",
    "crates/storage/src/header.rs",
    "crates/storage/src/leg.rs",
    "crates/storage/src/maps.rs",
    "crates/storage/src/name.rs",
    "crates/storage/src/owner.rs",
    "crates/storage/src/slab.rs",
    "crates/storage/src/target.rs",
    "crates/fabric/src/switchboard.rs",
    "crates/fabric/src/switchboard",
    "crates/drives/src/cache.rs",
    "crates/drives/src/fault.rs",
    "crates/drives/src/nbd.rs",
    "crates/pulse/src/choose.rs",
    "crates/pulse/src/format.rs",
    "crates/pulse/src/history.rs",
    "crates/pulse/src/image.rs",
    "crates/vm/src/image.rs",
    "crates/vm/src/image",
    "crates/vm/src/arguments.rs",
    "crates/vm/src/machine.rs",
    "crates/workload/src/block.rs",
    "crates/workload/src/choice.rs",
    "crates/workload/src/judge.rs",
    "crates/workload/src/record.rs",
    "crates/markup/src",
    "crates/cli/src/deploy/shown.rs",
    "crates/cli/src/report/page.rs",
    "crates/cli/src/status/seen.rs",
    "crates/cli/src/vm/shown.rs",
    "crates/cli/src/volume/shown.rs",
    "crates/deploy/src/deployment/express.rs",
    "crates/deploy/src/deployment/plan.rs",
    "crates/deploy/src/hardware.rs",
    "crates/deploy/src/pool/choose.rs",
    "crates/deploy/src/vms/told.rs",
    "hil/src/judgement/gaps.rs",
    "hil/src/judgement/place.rs",
    "hil/src/lab/by_hand.rs",
    "hil/src/lab/plan.rs",
    "hil/src/lab/topology.rs",
    "hil/src/runner/inventory.rs",
    "hil/src/runner/priority.rs",
    "hil/src/runner/refusal.rs",
    "hil/src/runner/spine.rs",
    "hil/src/report/story.rs",
    "hil/src/report/compare.rs",
    "hil/src/report/page",
];

/// What such code may not name: a path that has these parts in a row, the last of them as a beginning.
const IMPURE: [&[&str]; 17] = [
    &["Instant", "now"],
    &["SystemTime"],
    &["std", "env"],
    &["std", "fs"],
    &["std", "net", "Tcp"],
    &["std", "net", "Udp"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "time", "*"],
    &["std", "net", "*"],
    &["std", "*"],
    &["libc"],
    &["mio"],
    &["rustix"],
    &["socket2"],
    &["tokio"],
];

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

/// What a crate is built with, under the names that its packages have themselves. Tests may know more.
fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter();
    let tables = targets.flat_map(|targets| targets.values().filter_map(toml::Value::as_table));
    let mut found = BTreeSet::new();
    for table in tables.chain([manifest]) {
        for kind in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) else { continue };
            for (key, value) in dependencies {
                let package = value.get("package").and_then(toml::Value::as_str);
                found.insert(package.unwrap_or(key).to_owned());
            }
        }
    }
    found
}

/// The paths in code outside tests that name something of [`IMPURE`], and their lines.
fn impure(code: TokenStream) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    paths(code, &[], &mut found);
    let names = |path: &[String], parts: &[&str]| {
        path.windows(parts.len()).any(|window| {
            let (last, first) = (parts.len() - 1, &parts[..parts.len() - 1]);
            window[..last] == *first && window[last].starts_with(parts[last])
        })
    };
    // `tokio` as the first part only: a variable of that name is no path, but reads as one of a single part.
    let bad = |path: &[String]| {
        IMPURE.iter().any(|parts| match parts {
            [root] if root.starts_with(char::is_lowercase) => path.len() > 1 && path[0] == *root,
            parts => names(path, parts),
        })
    };
    found.retain(|(_, path)| bad(path));
    found.into_iter().map(|(line, path)| (line, path.join("::"))).collect()
}

/// Every path in the code with the prefix that the group around it has in a `use`; what only tests are built with is left out.
fn paths(code: TokenStream, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) {
    let mut path = prefix.to_vec();
    let mut colons = prefix.len() * 2;
    let mut tokens = code.into_iter().peekable();
    let mut only_in_tests = false;
    while let Some(token) = tokens.next() {
        let line = token.span().start().line;
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if matches!(tokens.peek(), Some(TokenTree::Punct(inner)) if inner.as_char() == '!') {
                    tokens.next();
                }
                if let Some(TokenTree::Group(attribute)) = tokens.peek() {
                    only_in_tests |= is_test(&attribute.stream().to_string());
                    tokens.next();
                }
            }
            // The end of the item that the attribute was for: its body, or its semicolon.
            TokenTree::Group(body) if only_in_tests => {
                only_in_tests = body.delimiter() != Delimiter::Brace;
            }
            TokenTree::Punct(end) if only_in_tests => only_in_tests = end.as_char() != ';',
            _ if only_in_tests => {}
            TokenTree::Ident(part) => {
                if colons < 2 {
                    path = prefix.to_vec();
                }
                path.push(part.to_string());
                colons = 0;
                record(line, &path, found);
            }
            TokenTree::Group(group) => {
                let in_use = colons >= 2 && group.delimiter() == Delimiter::Brace;
                paths(group.stream(), if in_use { &path } else { &[] }, found);
                (path, colons) = (Vec::new(), 0);
            }
            TokenTree::Punct(all) if all.as_char() == '*' && colons >= 2 => {
                path.push("*".to_owned());
                record(line, &path, found);
                (path, colons) = (Vec::new(), 0);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {
                path = prefix.to_vec();
                colons = prefix.len() * 2;
            }
        }
    }
}

/// Takes a path down; a longer one replaces what it goes on from.
fn record(line: usize, path: &[String], found: &mut Vec<(usize, Vec<String>)>) {
    let goes_on = |(at, last): &(usize, Vec<String>)| *at == line && path[..path.len() - 1] == last[..];
    if found.last().is_some_and(goes_on) {
        found.pop();
    }
    found.push((line, path.to_vec()));
}

fn is_test(attribute: &str) -> bool {
    let attribute: String = attribute.chars().filter(|c| !c.is_whitespace()).collect();
    attribute == "cfg(test)" || attribute.starts_with("cfg(all(test,")
}

#[test]
fn code_that_looks_around_is_found_however_it_is_written() {
    let bad = [
        "fn f() { let t = Instant::now(); }",
        "use std::time; fn f() { time::Instant::now(); }",
        "use std::{collections::BTreeMap, fs};",
        "use std::{io, net::{IpAddr, TcpStream}};",
        "use ::std::process::Command;",
        "use std::os::fd::AsFd;",
        "use std::*;",
        "use std::time::*;",
        "#[cfg(test)]\nmod tests { }\nfn f() { std::thread::yield_now() }",
        "#[cfg(test)]\nmod tests;\nuse std::fs;",
        "#[cfg(not(test))]\nuse std::fs;",
        "fn f() { println!(\"{:?}\", std::env::args()); }",
        "fn f() { tokio::spawn(g()); }",
        "fn f() { rustix::fs::sync() /* well */ }",
    ];
    for code in bad {
        assert_eq!(impure(code.parse().unwrap()).len(), 1, "{code}");
    }
    let good = [
        "// std::fs\n/// tokio::spawn\nfn f() -> &'static str { \"std::fs::read\" }",
        "#[cfg(test)]\nmod tests { use std::fs; }",
        "#[cfg(test)]\nuse std::fs;\nfn f() {}",
        "#[cfg(all(test, unix))]\n#[expect(x)]\nfn f(a: (u8, u8)) { std::fs::read(a) }",
        "use std::net::{IpAddr, Ipv4Addr};\nuse std::{fmt, time::{Duration, Instant}};",
        "fn f(tokio: u8, now: Instant) -> u8 { now.fs(); tokio }",
    ];
    for code in good {
        assert_eq!(impure(code.parse().unwrap()), [], "{code}");
    }
}

#[test]
fn every_way_to_depend_on_a_crate_is_found() {
    let manifest = "
        dependencies.a = '1'
        build-dependencies.b.path = '../b'
        dev-dependencies.only-tests = '1'
        dependencies.renamed = { package = 'c', path = '../c' }
        target.'cfg(unix)'.dependencies.d.workspace = true
        target.x86_64-unknown-linux-gnu.build-dependencies.e = '1'
    ";
    let found = dependencies(&manifest.parse().unwrap());
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
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
        let dependencies = dependencies(&manifest);
        let known: BTreeSet<&str> =
            dependencies.iter().map(String::as_str).filter(|name| ours.contains(name)).collect();
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
        let code: TokenStream = text.parse().unwrap();
        for (line, path) in impure(code) {
            wrong.push(format!("{}:{line}: {path}", file.display()));
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
