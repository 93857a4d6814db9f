//! What the tests share: the clean files and how to break them.
#![allow(dead_code, reason = "every test binary uses its own part")]

use template::{ReadOptions, Reading, Source, Unreadable, read};

pub(crate) const TOML: &str = include_str!("../fixtures/clean.toml");
pub(crate) const ARM: &str = include_str!("../fixtures/clean.parameters.json");

/// The text with each edit made once; an edit that finds nothing fails the test.
pub(crate) fn edited(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "nothing to edit: {from}");
        text.replacen(from, to, 1)
    })
}

pub(crate) fn try_read(text: &str, overrides: &[&str]) -> Result<Reading, Unreadable> {
    let overrides = overrides.iter().map(ToString::to_string).collect();
    read(&Source::new("fixture", text), &ReadOptions { overrides })
}

/// Reads a text that can be read.
pub(crate) fn reading(text: &str) -> Reading {
    try_read(text, &[]).unwrap_or_else(|unreadable| panic!("{unreadable}"))
}

/// The messages of a text that can't be read.
pub(crate) fn problems(text: &str) -> Vec<String> {
    let unreadable = try_read(text, &[]).expect_err("unreadable");
    unreadable.problems.into_iter().map(|problem| problem.message).collect()
}

/// The ids of everything that the rules had to say.
pub(crate) fn ids(reading: &Reading) -> Vec<&'static str> {
    reading.diagnostics.iter().map(|diagnostic| diagnostic.rule.0).collect()
}
