//! No text panics a reader, and what a reader says always has its place in the text.

mod common;

use common::{ARM, TOML};
use model::{Location, Severity};
use proptest::prelude::*;
use template::{ReadOptions, Source, read};

fn check(name: &str, text: &str) -> Result<(), TestCaseError> {
    let source = Source::new(name, text);
    let places: Vec<Option<Location>> = match read(&source, &ReadOptions::default()) {
        Ok(reading) => {
            let errors = reading.diagnostics.iter().any(|d| d.severity == Severity::Error);
            prop_assert_eq!(reading.spec.is_none(), errors);
            reading.diagnostics.into_iter().map(|diagnostic| diagnostic.location).collect()
        }
        Err(unreadable) => {
            prop_assert!(!unreadable.problems.is_empty());
            unreadable.problems.into_iter().map(|problem| problem.location).collect()
        }
    };
    let without_mark = text.strip_prefix('\u{feff}').unwrap_or(text);
    for span in places.into_iter().flatten().filter_map(|at| at.span) {
        prop_assert!(without_mark.get(span.clone()).is_some(), "{:?}", span);
    }
    Ok(())
}

/// Replaces the byte range by other text, at character boundaries.
fn mutated(text: &str, start: usize, length: usize, with: &str) -> String {
    let boundary = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = boundary(start % (text.len() + 1));
    let end = boundary((start + length).min(text.len())).max(start);
    format!("{}{with}{}", &text[..start], &text[end..])
}

/// Pieces that mean something to a parser or to a rule.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\[\\]{}\",:=#/*.0-9a-z\\\\\n-]{0,12}",
        prop::sample::select(vec![
            "null",
            "true",
            "\"\"",
            "[]",
            "{}",
            "0",
            "-1",
            "99999999999999999999",
            "1e400",
            "\"0.0.0.0/0\"",
            "\"255.255.255.255\"",
            "\"0.0.0.0\"",
            "'''",
            "\"\"\"",
            "\u{feff}",
            "\\u0000",
            "\"\\ud800\"",
            "1979-05-27",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        check("a.toml", &text)?;
        check("a.json", &text)?;
        check("a", &format!("{{{text}"))?;
    }

    #[test]
    fn mutated_files(edits in prop::collection::vec((any::<usize>(), 0..40_usize, piece()), 1..4)) {
        for base in [TOML, ARM] {
            let text = edits.iter().fold(base.to_owned(), |text, (start, length, with)| mutated(&text, *start, *length, with));
            check("a", &text)?;
        }
    }

    #[test]
    fn truncated_files(toml in 0..=TOML.len(), arm in 0..=ARM.len()) {
        check("a.toml", &mutated(TOML, toml, TOML.len(), ""))?;
        check("a.json", &mutated(ARM, arm, ARM.len(), ""))?;
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(source) = Source::from_bytes("a", &bytes) {
            let _ = read(&source, &ReadOptions::default());
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    for (name, opening) in [("a.json", "["), ("a.json", "{\"a\":"), ("a.toml", "a = ["), ("a.toml", "[a.")] {
        let text =
            format!("{}{}", &opening[..opening.len() - 1], opening[opening.len() - 1..].repeat(200_000));
        assert!(read(&Source::new(name, text), &ReadOptions::default()).is_err());
        assert!(read(&Source::new(name, opening.repeat(100_000)), &ReadOptions::default()).is_err());
    }
}
