//! Reads what a run left behind.
//!
//! Invariants: a log of another version reads as far as it is known: lines of a kind that this version doesn't know
//! are counted, not refused. A last line without an end, as a killed run leaves one, is counted as cut off.
//!
//! On failure: [`ReadError`] names the file and the line.

use super::Summary;
use super::story::{Story, Unread};
use crate::events::Record;
use std::io;
use std::path::{Path, PathBuf};

/// A run that was read back.
#[derive(Debug, Clone)]
pub struct RunRead {
    /// Its events, put together.
    pub story: Story,
    /// Its summary; none: the run was killed before it could sum up.
    pub summary: Option<Summary>,
}

/// What a run left behind can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file can't be opened or read.
    #[error("cannot read {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line of the event log is no event.
    #[error("{} line {line}: not an event", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The event log says nothing about a run.
    #[error("{} line 1: the log does not begin with `run-started`", .path.display())]
    NoRun {
        /// The file.
        path: PathBuf,
    },
    /// The summary is none.
    #[error("{} is no summary of a run", .path.display())]
    Summary {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads a run's folder: `events.jsonl`, and `summary.json` if it is there.
pub fn read(dir: &Path) -> Result<RunRead, ReadError> {
    let path = dir.join("events.jsonl");
    // Not UTF-8 is no reason to show nothing: what was said is then shown with marks in it.
    let bytes = std::fs::read(&path).map_err(|source| ReadError::File { path: path.clone(), source })?;
    let (records, unread) = parse_events(&path, &String::from_utf8_lossy(&bytes))?;
    let story = Story::of(&records, unread).ok_or(ReadError::NoRun { path })?;
    Ok(RunRead { story, summary: summary(&dir.join("summary.json"))? })
}

fn summary(path: &Path) -> Result<Option<Summary>, ReadError> {
    let path = path.to_owned();
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(summary) => Ok(Some(summary)),
            Err(source) => Err(ReadError::Summary { path, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReadError::File { path, source }),
    }
}

/// The events of a log's text.
fn parse_events(path: &Path, text: &str) -> Result<(Vec<Record>, Unread), ReadError> {
    let mut records = Vec::new();
    let mut unread = Unread::default();
    let last = text.lines().count();
    for (number, line) in (1..).zip(text.lines()) {
        match serde_json::from_str::<Record>(line) {
            Ok(record) => records.push(record),
            Err(_) if is_event(line) => unread.unknown += 1,
            Err(_) if number == last && !text.ends_with('\n') => unread.cut_off = true,
            Err(source) => return Err(ReadError::Line { path: path.to_owned(), line: number, source }),
        }
    }
    Ok((records, unread))
}

/// Whether a line has the form of an event, of whatever kind.
fn is_event(line: &str) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    value.is_some_and(|value| value["at_ms"].is_u64() && value["event"].is_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: &str =
        r#"{"at_ms":0,"event":"run-started","run":"r","shape":"1+1","seed":1,"replay":"again"}"#;

    fn parse(text: &str) -> Result<(Vec<Record>, Unread), ReadError> {
        parse_events(Path::new("events.jsonl"), text)
    }

    #[test]
    fn what_a_newer_harness_logs_is_counted() {
        let (records, unread) =
            parse(&format!("{STARTED}\n{{\"at_ms\":1,\"event\":\"sang\",\"song\":3}}\n")).unwrap();
        assert_eq!((records.len(), unread), (1, Unread { unknown: 1, cut_off: false }));
    }

    #[test]
    fn a_killed_run_leaves_half_a_line() {
        let (records, unread) = parse(&format!("{STARTED}\n{{\"at_ms\":1,\"ev")).unwrap();
        assert_eq!((records.len(), unread), (1, Unread { unknown: 0, cut_off: true }));
    }

    #[test]
    fn garbage_is_refused_with_its_line() {
        let error = parse(&format!("{STARTED}\n{{\"at_ms\":1,\"ev\n{STARTED}\n")).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn a_folder_without_a_summary_reads_and_one_without_a_run_does_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(ReadError::File { .. })));
        std::fs::write(dir.path().join("events.jsonl"), format!("{STARTED}\n")).unwrap();
        assert!(read(dir.path()).unwrap().summary.is_none());
        std::fs::write(dir.path().join("events.jsonl"), "{\"at_ms\":1,\"event\":\"healed\"}\n").unwrap();
        assert!(matches!(read(dir.path()), Err(ReadError::NoRun { .. })));
        std::fs::write(dir.path().join("events.jsonl"), format!("{STARTED}\n")).unwrap();
        std::fs::write(dir.path().join("summary.json"), "{}").unwrap();
        assert!(matches!(read(dir.path()), Err(ReadError::Summary { .. })));
    }
}
