//! Reports for programs: one JSON object with a version.
//!
//! Invariant: fields are added within a version, and never removed or changed in meaning.

use model::{ClusterSpec, Diagnostic, Location, Severity};
use serde::Serialize;
use template::{Format, Ignored, Reading, Source, Unreadable};

/// Version of the object below.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Report<'r> {
    version: u32,
    file: &'r str,
    /// What a program asks first: `good`, `violated` or `unreadable`.
    outcome: &'static str,
    format: Option<Format>,
    errors: usize,
    warnings: usize,
    diagnostics: Vec<Entry<'r>>,
    /// How many more there are than are listed.
    unlisted: usize,
    ignored: &'r [Ignored],
    /// The cluster asked for, unless there are errors.
    cluster: Option<&'r ClusterSpec>,
}

/// A diagnostic, or a reason why the file can't be read; that has no rule.
#[derive(Serialize)]
struct Entry<'r> {
    rule: Option<&'static str>,
    severity: Severity,
    message: &'r str,
    help: Option<&'r str>,
    overridden: bool,
    place: Option<Place<'r>>,
    related: Vec<Related<'r>>,
}

#[derive(Serialize)]
struct Related<'r> {
    words: &'r str,
    #[serde(flatten)]
    place: Place<'r>,
}

/// Line and column count from 1, columns in characters; the offset is in bytes of the file as UTF-8 without a byte order
/// mark.
#[derive(Serialize)]
struct Place<'r> {
    /// The file, or the ARM template beside it.
    file: Option<&'r str>,
    path: &'r str,
    line: Option<usize>,
    column: Option<usize>,
    offset_bytes: Option<usize>,
    length_bytes: Option<usize>,
}

pub(crate) fn reading(source: &Source, reading: &Reading) -> String {
    text(&Report {
        version: VERSION,
        file: source.name(),
        outcome: if reading.spec.is_some() { "good" } else { "violated" },
        format: Some(reading.format),
        errors: reading.count(Severity::Error),
        warnings: reading.count(Severity::Warning),
        diagnostics: reading.diagnostics.iter().map(|diagnostic| entry(source, diagnostic)).collect(),
        unlisted: reading.unlisted,
        ignored: &reading.ignored,
        cluster: reading.spec.as_ref(),
    })
}

pub(crate) fn unreadable(source: Option<&Source>, unreadable: &Unreadable) -> String {
    let entries = unreadable.problems.iter().map(|problem| Entry {
        rule: None,
        severity: Severity::Error,
        message: &problem.message,
        help: problem.help.as_deref(),
        overridden: false,
        place: problem.location.as_ref().map(|at| place(source, at)),
        related: related(source, &problem.related),
    });
    text(&Report {
        version: VERSION,
        file: &unreadable.name,
        outcome: "unreadable",
        format: source.map(Source::format),
        errors: unreadable.problems.len(),
        warnings: 0,
        diagnostics: entries.collect(),
        unlisted: 0,
        ignored: &[],
        cluster: None,
    })
}

fn entry<'r>(source: &'r Source, diagnostic: &'r Diagnostic) -> Entry<'r> {
    Entry {
        rule: Some(diagnostic.rule.0),
        severity: diagnostic.severity,
        message: &diagnostic.message,
        help: Some(&diagnostic.help),
        overridden: diagnostic.overridden,
        place: diagnostic.location.as_ref().map(|at| place(Some(source), at)),
        related: related(Some(source), &diagnostic.related),
    }
}

fn related<'r>(source: Option<&'r Source>, related: &'r [(Location, String)]) -> Vec<Related<'r>> {
    related.iter().map(|(at, words)| Related { words, place: place(source, at) }).collect()
}

fn place<'r>(source: Option<&'r Source>, at: &'r Location) -> Place<'r> {
    let counted = source.zip(at.span.as_ref()).map(|(source, span)| source.line_column(span.start));
    Place {
        file: source.map(|source| at.span.as_ref().map_or(source.name(), |span| source.name_at(span.start))),
        path: &at.path,
        line: counted.map(|(line, _)| line),
        column: counted.map(|(_, column)| column),
        offset_bytes: source.zip(at.span.as_ref()).map(|(source, span)| source.offset_at(span.start)),
        length_bytes: at.span.as_ref().map(ExactSizeIterator::len),
    }
}

fn text(report: &Report<'_>) -> String {
    // Keys are all text and nothing here fails to serialise; an empty object would still be told from a report.
    let json = serde_json::to_string_pretty(report).unwrap_or_else(|_| "{}".to_owned());
    json + "\n"
}
