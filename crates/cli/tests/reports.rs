//! No text panics the drawing of a report, and none comes out of it with a secret or a control character.

use proptest::prelude::*;
use template::{ReadOptions, Source, read, render};

const FILES: [&str; 2] = [
    include_str!("../../template/tests/fixtures/clean.toml"),
    include_str!("../../template/tests/fixtures/clean.parameters.json"),
];

fn report(text: &str, colour: bool) -> String {
    let source = Source::new("a", text);
    match read(&source, &ReadOptions::default()) {
        Ok(reading) => render::reading(&source, &reading, colour),
        Err(unreadable) => render::unreadable(Some(&source), &unreadable, colour),
    }
}

/// The text with the byte range replaced, at character boundaries; the password's own line is left whole.
fn mutated(text: &str, start: usize, length: usize, with: &str) -> String {
    let start = text.floor_char_boundary(start % (text.len() + 1));
    let end = text.floor_char_boundary(start.saturating_add(length)).max(start);
    let password = text.find("\"localAdminPassword\"").map(|at| at..at + 64);
    if password.is_some_and(|line| start < line.end && line.start < end + 1) {
        return text.to_owned();
    }
    format!("{}{with}{}", &text[..start], &text[end..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reports_of_mutated_files(
        edits in prop::collection::vec((any::<usize>(), 0..40_usize, any::<String>()), 1..4),
        colour: bool,
    ) {
        for base in FILES {
            let text = edits.iter().fold(base.to_owned(), |text, (start, length, with)| mutated(&text, *start, *length, with));
            let said = report(&text, colour);
            prop_assert!(!said.contains("4711"), "{}", said);
            if !colour {
                let controls: Vec<_> = said.chars().filter(|c| c.is_control() && *c != '\n' && *c != '\t').collect();
                prop_assert!(controls.is_empty(), "{:?}", controls);
            }
        }
    }

    #[test]
    fn reports_of_any_text(text in any::<String>()) {
        report(&text, false);
        report(&format!("{{{text}"), false);
    }

    #[test]
    fn reports_of_truncated_files(length in any::<prop::sample::Index>()) {
        for base in FILES {
            let said = report(base.get(..length.index(base.len())).unwrap_or_default(), false);
            prop_assert!(!said.contains("4711"), "{}", said);
        }
    }
}
