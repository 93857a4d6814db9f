//! Files that try to cost more than their size, and the fuzz targets on their corpus: what holds of any input holds of these.
#![cfg(feature = "trial")]

use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use template::trial::{TARGETS, hostile, source_holds};
use template::{LISTED_MAX, ReadOptions, Source, read};

/// As large as a template may be, in tests that are not optimised.
const BYTES: usize = 256 * 1024;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

fn files(target: &str) -> Vec<Vec<u8>> {
    let read_all = |dir: PathBuf| -> Vec<Vec<u8>> {
        let mut paths: Vec<_> =
            fs::read_dir(dir).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).expect("a file")).collect()
    };
    let own = read_all(corpus(target));
    assert!(!own.is_empty(), "{target} has no corpus");
    // More may be named, as for cargo-fuzz.
    let more = std::env::var_os("FUZZ_CORPUS").map(|dir| read_all(dir.into()));
    own.into_iter().chain(more.unwrap_or_default()).collect()
}

#[test]
fn hostile_files_are_told_of_in_few_words() {
    for (name, format, text) in hostile(BYTES) {
        assert!(text.len() <= BYTES + 100, "{name}: {}", text.len());
        let source = Source::from_bytes(name, text.as_bytes()).unwrap();
        assert_eq!(source.format(), format, "{name}");
        source_holds(&source);
        let told = match read(&source, &ReadOptions::default()) {
            Ok(reading) => reading.diagnostics.len(),
            Err(unreadable) => unreadable.problems.len(),
        };
        assert!((1..=LISTED_MAX + 1).contains(&told), "{name}: {told}");
    }
}

#[test]
fn a_file_that_is_too_large_is_not_looked_at() {
    let text = "x".repeat(Source::SIZE_BYTES_MAX + 1);
    assert!(Source::from_bytes("large", text.as_bytes()).unwrap_err().to_string().contains("larger than"));
}

#[test]
fn every_target_has_its_fuzz_target_and_its_corpus_holds() {
    for (name, target) in TARGETS {
        let path = corpus("..").join(format!("fuzz_targets/{name}.rs"));
        let code = fs::read_to_string(&path).expect("a fuzz target");
        assert!(code.contains(&format!("template::trial::{name}(data)")), "{name}");
        for file in files(name) {
            target(&file);
        }
    }
}

/// One byte string changed in one place, as a fuzzer would.
fn changed(file: &[u8], at: usize, length: usize, with: &[u8]) -> Vec<u8> {
    let start = at % (file.len() + 1);
    let end = (start + length).min(file.len());
    [&file[..start], with, &file[end..]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_holds_of_the_corpus_holds_of_what_is_near_it(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec(
            (any::<usize>(), 0..30_usize, prop::collection::vec(prop_oneof![Just(b'"'), Just(b'['), Just(b'{'), Just(b'n'), any::<u8>()], 0..6)),
            1..4,
        ),
    ) {
        for (name, target) in TARGETS {
            let files = files(name);
            let file = &files[pick.index(files.len())];
            let edited = edits.iter().fold(file.clone(), |file, (at, length, with)| changed(&file, *at, *length, with));
            target(&edited);
        }
    }
}
