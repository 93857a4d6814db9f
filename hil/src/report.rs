//! What a run leaves behind: `summary.json`, `junit.xml`, `report.html` and a table on the terminal.
//!
//! The event log is written while the run goes on ([`crate::events`]); what is here is written once, at the end, from
//! one [`Summary`], and the page from the log, so that it can be drawn again ([`redraw`]) and two runs be held against each
//! other ([`compare()`]). `cabling.json` is written when a deployment has looked at the cables ([`write_cabling`]). The schema of `summary.json` is documented in `docs/report.md`; its `schema` field changes with it.

mod cabling;
mod compare;
mod junit;
mod page;
mod read;
pub mod story;
mod terminal;

pub use cabling::{CABLING, CABLING_SCHEMA, write_cabling};
pub use compare::{COMPARE_SCHEMA, Comparison, NumberChange, Side, VerdictChange, WordsChange, compare};
pub use junit::junit;
pub use page::page;
pub use read::{ReadError, RunRead, read};
pub use terminal::terminal;

use crate::events::Verdict;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The version of the schema of `summary.json`.
pub const SUMMARY_SCHEMA: &str = "twinrack.hil.summary/1";

/// A whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_SCHEMA`].
    pub schema: String,
    /// The run's name, which is its folder's.
    pub run: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's shape.
    pub shape: String,
    /// The seed that every random choice came from.
    pub seed: u64,
    /// What the nodes run on.
    pub environment: Environment,
    /// Whether everything held.
    pub good: bool,
    /// Why the run ended before its suites did, in words.
    pub aborted: Option<String>,
    /// How long each phase took, in order.
    pub phases: Vec<Phase>,
    /// The suites, in the order in which they ran.
    pub suites: Vec<SuiteResult>,
    /// What the reader should know: overrides in force, what was ignored in the template.
    pub notes: Vec<String>,
    /// The command that does the same again.
    pub replay: String,
}

/// What the nodes run on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Environment {
    /// The accelerator, and why that one.
    pub accelerator: String,
    /// The nodes' kernel.
    pub kernel: String,
    /// The node image, by content.
    pub image: String,
}

/// A phase of a run and how long it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub name: String,
    /// Milliseconds.
    pub took_ms: u64,
}

/// What became of a suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteResult {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// Its scenarios, in order.
    pub scenarios: Vec<ScenarioResult>,
}

/// What became of a scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScenarioResult {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it is not applicable, if it is not.
    pub why: Option<String>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Its steps, in order, up to the first that did not hold.
    pub steps: Vec<StepResult>,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// The step, in words.
    pub step: String,
    /// Whether it held.
    pub good: bool,
    /// What was seen.
    pub seen: String,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// What it measures, if that is a time, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_ms: Option<u64>,
}

impl Summary {
    /// All scenarios with the suites they belong to.
    pub fn scenarios(&self) -> impl Iterator<Item = (&SuiteResult, &ScenarioResult)> {
        self.suites.iter().flat_map(|suite| suite.scenarios.iter().map(move |scenario| (suite, scenario)))
    }

    /// How many scenarios have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.scenarios().filter(|(_, scenario)| scenario.verdict == verdict).count()
    }
}

impl ScenarioResult {
    /// The step that did not hold, if there is one.
    pub fn failure(&self) -> Option<&StepResult> {
        self.steps.iter().find(|step| !step.good)
    }
}

/// A file of the report could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", .path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Writes `summary.json`, `junit.xml` and, drawn from the event log that is there by then, `report.html` into the run's
/// folder.
pub fn write(summary: &Summary, dir: &Path) -> Result<(), WriteError> {
    let put = |name: &str, content: String| {
        let path = dir.join(name);
        std::fs::write(&path, content).map_err(|source| WriteError { path, source })
    };
    let mut json = serde_json::to_string_pretty(summary).unwrap_or_default();
    json.push('\n');
    put("summary.json", json)?;
    put("junit.xml", junit(summary))?;
    redraw(dir).map(drop).map_err(|error| match error {
        RedrawError::Write(error) => error,
        RedrawError::Read(error) => WriteError { path: page_path(dir), source: io::Error::other(error) },
    })
}

/// A run's page could not be drawn again.
#[derive(Debug, thiserror::Error)]
pub enum RedrawError {
    /// What the run left behind can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The page can't be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Draws `report.html` from what is in the run's folder, and says where it is.
pub fn redraw(dir: &Path) -> Result<PathBuf, RedrawError> {
    let run = read(dir)?;
    let path = page_path(dir);
    match std::fs::write(&path, page(&run.story, run.summary.as_ref())) {
        Ok(()) => Ok(path),
        Err(source) => Err(WriteError { path, source }.into()),
    }
}

fn page_path(dir: &Path) -> PathBuf {
    dir.join("report.html")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Summary {
        let step = |step: &str, good, seen: &str, took_ms| StepResult {
            step: step.into(),
            good,
            seen: seen.into(),
            took_ms,
            measured_ms: None,
        };
        let scenario = |name: &str, verdict, steps: Vec<StepResult>| ScenarioResult {
            name: name.into(),
            verdict,
            why: (verdict == Verdict::NotApplicable).then(|| "storage shares its NICs".into()),
            took_ms: steps.iter().map(|step| step.took_ms).sum(),
            steps,
        };
        Summary {
            schema: SUMMARY_SCHEMA.into(),
            run: "20260101T000000-7".into(),
            started: "2026-01-01T00:00:00Z".into(),
            cluster: "plant".into(),
            shape: "2+2".into(),
            seed: 7,
            environment: Environment {
                accelerator: "TCG".into(),
                kernel: "6.1.0".into(),
                image: "abc".into(),
            },
            good: false,
            aborted: None,
            phases: vec![
                Phase { name: "boot".into(), took_ms: 9000 },
                Phase { name: "suites".into(), took_ms: 61_500 },
            ],
            suites: vec![
                SuiteResult {
                    name: "wiring".into(),
                    title: "Cabled as it says".into(),
                    scenarios: vec![scenario(
                        "links",
                        Verdict::Passed,
                        vec![step("links are as planned", true, "4 nodes", 40)],
                    )],
                },
                SuiteResult {
                    name: "tor-loss".into(),
                    title: "A switch fails".into(),
                    scenarios: vec![
                        scenario(
                            "off",
                            Verdict::Failed,
                            vec![
                                step("the switch is off", true, "sw-1 <A>", 3),
                                step("named", false, "nothing named", 2000),
                            ],
                        ),
                        scenario("deaf", Verdict::NotApplicable, vec![]),
                    ],
                },
            ],
            notes: vec!["rule x is overridden".into()],
            replay: "cargo xtask hil --seed 7".into(),
        }
    }

    #[test]
    fn the_summary_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let events = story::tests::example();
        let lines: Vec<String> = events.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
        std::fs::write(dir.path().join("events.jsonl"), lines.join("\n")).unwrap();
        write(&example(), dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("summary.json")).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), example());
        insta::assert_snapshot!(text);
    }
}
