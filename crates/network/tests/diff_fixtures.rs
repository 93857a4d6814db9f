//! Every directory in `fixtures` is a case: `current.json` is what a kernel had (most were observed on Linux 6.1), `desired.json` a plan,
//! `diff.snap` what leads from one to the other, `revert.snap` what leads back.

use network::{AdapterMap, CurrentLinks, NetworkPlan, Op, diff, revert, simulate};
use std::fs;
use std::path::{Path, PathBuf};

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> (AdapterMap, Vec<PathBuf>) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut cases: Vec<PathBuf> = fs::read_dir(&fixtures)
        .expect("the directory of fixtures")
        .map(|entry| entry.expect("an entry of it").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    (read(&fixtures.join("adapters.json")), cases)
}

/// Holds operations against a case's file of that name.
fn hold(case: &Path, name: &str, ops: &[Op]) {
    let lines = ops.iter().map(Op::to_string).collect::<Vec<_>>().join("\n");
    insta::with_settings!(
        { snapshot_path => case, prepend_module_to_snapshot => false, omit_expression => true },
        { insta::assert_snapshot!(name, lines) }
    );
}

fn run(state: &mut CurrentLinks, ops: &[Op]) {
    for op in ops {
        simulate::apply(state, op).unwrap_or_else(|refused| panic!("{op}: {refused}"));
    }
}

#[test]
fn every_case_has_the_operations_of_its_file_and_none_after_them() {
    let (adapters, cases) = cases();
    assert!(cases.len() >= 5, "{cases:?}");
    for case in cases {
        let current: CurrentLinks = read(&case.join("current.json"));
        let plan: NetworkPlan = read(&case.join("desired.json"));
        let ops = diff(&current, &plan, &adapters).unwrap();
        hold(&case, "diff", &ops);
        let mut state = current.clone();
        run(&mut state, &ops);
        assert_eq!(diff(&state, &plan, &adapters), Ok(vec![]), "{}", case.display());
        let back = revert(&state, &current, &plan, &adapters).unwrap();
        hold(&case, "revert", &back.ops);
        run(&mut state, &back.ops);
        let left = revert(&state, &current, &plan, &adapters).unwrap().left();
        assert_eq!(left, None, "{}", case.display());
    }
}
