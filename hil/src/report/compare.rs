//! What changed between two runs.
//!
//! Purpose: [`compare`] holds one run against another, [`Comparison::text`] says it to people; `--json` writes the
//! [`Comparison`] as it is.
//!
//! Invariants: pure; scenarios are the same when their suite and name are, whatever their order. The text leaves out
//! what differs no more than two runs of the same thing do; the data has everything.

use super::page::words::time;
use super::read::RunRead;
use super::story::ScenarioStory;
use crate::events::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The version of the schema of a comparison.
pub const COMPARE_SCHEMA: &str = "twinrack.hil.compare/1";

/// Times that differ by less are the same, milliseconds: the diagnosis looks this often (`deploy::watch`).
const SAME_WITHIN_MS: u64 = 200;
/// Round trips that differ by less are the same, microseconds.
const SAME_WITHIN_US: u64 = 100;
/// So are those that differ by less than this share of the longer one: a fifth.
const SAME_SHARE: u64 = 5;

/// Two runs, side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`COMPARE_SCHEMA`].
    pub schema: String,
    /// The first run.
    pub before: Side,
    /// The second run.
    pub after: Side,
    /// Whether something held in the first run and did not in the second.
    pub worse: bool,
    /// Scenarios whose verdict differs, and those that only one of the runs has.
    pub verdicts: Vec<VerdictChange>,
    /// What the runs ran on and with, where it differs.
    pub environment: Vec<WordsChange>,
    /// How long phases took, milliseconds.
    pub phases: Vec<NumberChange>,
    /// From a scenario's last fault until it was named, milliseconds.
    pub named_after: Vec<NumberChange>,
    /// From the mending until all was well, milliseconds.
    pub well_after: Vec<NumberChange>,
    /// Medians and 99th percentiles of the worst way, microseconds.
    pub round_trips: Vec<NumberChange>,
}

/// One of the runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Its name.
    pub run: String,
    /// Whether everything held; null: its log ends before it did.
    pub good: Option<bool>,
}

/// A scenario with another verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictChange {
    /// `suite: scenario`.
    pub what: String,
    /// The verdict in the first run; null: it did not run, or not to its end.
    pub before: Option<Verdict>,
    /// The verdict in the second run.
    pub after: Option<Verdict>,
    /// What did not hold in the second run, and what was seen.
    pub failure: Option<String>,
}

/// Something said in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WordsChange {
    /// What.
    pub what: String,
    /// In the first run; null: it is not known.
    pub before: Option<String>,
    /// In the second run.
    pub after: Option<String>,
}

/// A measured number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberChange {
    /// What.
    pub what: String,
    /// In the first run; null: it was not measured.
    pub before: Option<u64>,
    /// In the second run.
    pub after: Option<u64>,
}

/// Holds the second run against the first.
pub fn compare(before: &RunRead, after: &RunRead) -> Comparison {
    let side = |run: &RunRead| Side { run: run.story.run.clone(), good: run.story.good };
    let verdicts = verdicts(before, after);
    let broke = |change: &VerdictChange| {
        change.before == Some(Verdict::Passed) && change.after == Some(Verdict::Failed)
    };
    let worse = before.story.good == Some(true) && after.story.good != Some(true);
    Comparison {
        schema: COMPARE_SCHEMA.to_owned(),
        before: side(before),
        after: side(after),
        worse: worse || verdicts.iter().any(broke),
        verdicts,
        environment: environment(before, after),
        phases: numbers(before, after, |run| {
            let took = |phase: &super::story::Span| Some(phase.to_ms?.saturating_sub(phase.from_ms));
            run.story.phases.iter().map(|phase| (phase.what.clone(), took(phase))).collect()
        }),
        named_after: numbers(before, after, |run| of_scenarios(run, ScenarioStory::named_after_ms)),
        well_after: numbers(before, after, |run| of_scenarios(run, ScenarioStory::well_after_ms)),
        round_trips: numbers(before, after, round_trips),
    }
}

/// All scenarios, by their suite and name, in their order.
fn scenarios(run: &RunRead) -> Vec<(String, &ScenarioStory)> {
    let named = run.story.scenarios();
    named.map(|(suite, scenario)| (format!("{}: {}", suite.name, scenario.name), scenario)).collect()
}

fn of_scenarios(run: &RunRead, read: fn(&ScenarioStory) -> Option<u64>) -> Vec<(String, Option<u64>)> {
    let broken = scenarios(run).into_iter().filter(|(_, scenario)| !scenario.faults.is_empty());
    broken.map(|(name, scenario)| (name, read(scenario))).collect()
}

fn round_trips(run: &RunRead) -> Vec<(String, Option<u64>)> {
    let both = |trips: &crate::events::RoundTrips| {
        let place = if trips.inside_a_room { "inside a room" } else { "between the rooms" };
        [
            (format!("{}, {place}, worst median", trips.over), trips.worst_median_us),
            (format!("{}, {place}, worst 99th percentile", trips.over), trips.worst_p99_us),
        ]
    };
    run.story.round_trips.iter().flat_map(both).collect()
}

/// Everything that either has: in the first's order, then what only the second has.
fn pairs<T>(before: Vec<(String, T)>, after: Vec<(String, T)>) -> Vec<(String, Option<T>, Option<T>)> {
    let order: Vec<String> = after.iter().map(|(what, _)| what.clone()).collect();
    let mut left: BTreeMap<String, T> = after.into_iter().collect();
    let mut all: Vec<(String, Option<T>, Option<T>)> = before
        .into_iter()
        .map(|(what, value)| {
            let other = left.remove(&what);
            (what, Some(value), other)
        })
        .collect();
    for what in order {
        if let Some(value) = left.remove(&what) {
            all.push((what, None, Some(value)));
        }
    }
    all
}

fn numbers(
    before: &RunRead,
    after: &RunRead,
    read: impl Fn(&RunRead) -> Vec<(String, Option<u64>)>,
) -> Vec<NumberChange> {
    let pairs = pairs(read(before), read(after)).into_iter();
    pairs
        .map(|(what, before, after)| NumberChange { what, before: before.flatten(), after: after.flatten() })
        .collect()
}

fn verdicts(before: &RunRead, after: &RunRead) -> Vec<VerdictChange> {
    let change = |(what, before, after): (String, Option<&ScenarioStory>, Option<&ScenarioStory>)| {
        let failure = after.and_then(ScenarioStory::failure);
        VerdictChange {
            what,
            before: before.and_then(|scenario| scenario.verdict),
            after: after.and_then(|scenario| scenario.verdict),
            failure: failure.map(|step| format!("{}: {}", step.step, step.seen)),
        }
    };
    let all = pairs(scenarios(before), scenarios(after)).into_iter().map(change);
    all.filter(|change| change.before != change.after).collect()
}

fn environment(before: &RunRead, after: &RunRead) -> Vec<WordsChange> {
    let facts = |run: &RunRead| {
        let mut facts = vec![
            ("shape".to_owned(), run.story.shape.clone()),
            ("seed".to_owned(), run.story.seed.to_string()),
        ];
        facts.extend(run.story.topology.iter().map(|found| ("cabling".to_owned(), found.wiring.clone())));
        if let Some(summary) = &run.summary {
            let found = &summary.environment;
            facts.push(("cluster".to_owned(), summary.cluster.clone()));
            facts.push(("processors".to_owned(), found.accelerator.clone()));
            facts.push(("kernel".to_owned(), found.kernel.clone()));
            facts.push(("node image".to_owned(), found.image.clone()));
            facts.push(("notes".to_owned(), summary.notes.join("; ")));
        }
        facts
    };
    let all = pairs(facts(before), facts(after)).into_iter();
    all.filter(|(_, before, after)| before != after)
        .map(|(what, before, after)| WordsChange { what, before, after })
        .collect()
}

impl NumberChange {
    /// Whether it differs by more than two runs of the same thing do.
    fn is_notable(&self, same_within: u64) -> bool {
        let (Some(before), Some(after)) = (self.before, self.after) else { return self.before != self.after };
        let by = before.abs_diff(after);
        by > same_within && by > before.max(after) / SAME_SHARE
    }
}

impl Comparison {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let good = |side: &Side| match side.good {
            Some(true) => "good",
            Some(false) => "not good",
            None => "did not end",
        };
        writeln!(text, "before  {}  {}", self.before.run, good(&self.before)).ok();
        writeln!(text, "after   {}  {}", self.after.run, good(&self.after)).ok();
        self.write_verdicts(&mut text);
        if !self.environment.is_empty() {
            writeln!(text, "\nenvironment").ok();
        }
        for change in &self.environment {
            let words = |words: &Option<String>| words.clone().unwrap_or_else(|| "not known".to_owned());
            let (before, after) = (words(&change.before), words(&change.after));
            writeln!(text, "  {}\n    before  {before}\n    after   {after}", change.what).ok();
        }
        write_numbers(&mut text, "phases", &self.phases, SAME_WITHIN_MS, time);
        write_numbers(&mut text, "named after", &self.named_after, SAME_WITHIN_MS, time);
        write_numbers(&mut text, "well after", &self.well_after, SAME_WITHIN_MS, time);
        write_numbers(&mut text, "round trips", &self.round_trips, SAME_WITHIN_US, |us| format!("{us} µs"));
        text
    }

    fn write_verdicts(&self, text: &mut String) {
        if self.verdicts.is_empty() {
            writeln!(text, "\nverdicts: the same").ok();
            return;
        }
        writeln!(text, "\nverdicts").ok();
        for change in &self.verdicts {
            let word = |verdict: Option<Verdict>| match verdict {
                Some(Verdict::Passed) => "passed",
                Some(Verdict::Failed) => "FAILED",
                Some(Verdict::NotApplicable) => "not applicable",
                None => "not run",
            };
            writeln!(text, "  {}: {} → {}", change.what, word(change.before), word(change.after)).ok();
            if let Some(failure) = &change.failure {
                writeln!(text, "      {}", failure.replace('\n', "\n      ")).ok();
            }
        }
    }
}

/// The numbers that differ notably, and how many don't.
fn write_numbers(
    text: &mut String,
    title: &str,
    numbers: &[NumberChange],
    same_within: u64,
    unit: fn(u64) -> String,
) {
    let (notable, same): (Vec<_>, Vec<_>) = numbers.iter().partition(|change| change.is_notable(same_within));
    if notable.is_empty() {
        if !same.is_empty() {
            writeln!(text, "\n{title}: about the same").ok();
        }
        return;
    }
    writeln!(text, "\n{title}").ok();
    let words = |number: Option<u64>| number.map_or("–".to_owned(), unit);
    let width = notable.iter().map(|change| change.what.chars().count()).max().unwrap_or(0);
    for change in notable {
        let (before, after) = (words(change.before), words(change.after));
        writeln!(text, "  {:<width$}  {before:>10} → {after:>10}", change.what).ok();
    }
    if !same.is_empty() {
        writeln!(text, "  and {} about the same", same.len()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, Record};
    use crate::report::story::{Story, Unread, tests::example};

    fn run(records: &[Record]) -> RunRead {
        let story = Story::of(records, Unread::default()).unwrap();
        RunRead { story, summary: Some(crate::report::tests::example()) }
    }

    /// The example as it might go another time: the second scenario passes, the first is named later, the third is gone.
    fn another() -> RunRead {
        let mut records = example();
        records.retain(|record| match &record.event {
            Event::ScenarioEnded { verdict, .. } => *verdict != Verdict::NotApplicable,
            _ => true,
        });
        for record in &mut records {
            match &mut record.event {
                Event::RunStarted { run, seed, .. } => (*run, *seed) = ("20260102T000000-8".into(), 8),
                Event::ScenarioEnded { verdict, .. } => *verdict = Verdict::Passed,
                Event::StepEnded { good, .. } | Event::RunEnded { good } => *good = true,
                Event::LossNamed { loss } if loss.starts_with("switch") => record.at_ms += 900,
                Event::RoundTrips(trips) => trips.worst_p99_us = Some(4000),
                _ => {}
            }
        }
        let mut run = run(&records);
        if let Some(summary) = &mut run.summary {
            summary.environment.kernel = "6.12.0".into();
        }
        run
    }

    #[test]
    fn what_changed_is_said() {
        insta::assert_snapshot!(compare(&run(&example()), &another()).text());
    }

    #[test]
    fn a_run_is_the_same_as_itself() {
        let one = run(&example());
        let same = compare(&one, &one);
        assert!(!same.worse && same.verdicts.is_empty() && same.environment.is_empty());
        assert!(same.named_after.iter().all(|change| change.before == change.after));
        assert_eq!(same.named_after.len(), 2);
        let json = serde_json::to_string(&same).unwrap();
        assert_eq!(serde_json::from_str::<Comparison>(&json).unwrap(), same);
    }

    #[test]
    fn what_held_and_does_not_any_more_is_worse_and_not_the_other_way_round() {
        let (good, bad) = (another(), run(&example()));
        assert!(compare(&good, &bad).worse);
        assert!(!compare(&bad, &good).worse);
        let mut killed = another();
        killed.story.good = None;
        assert!(compare(&good, &killed).worse);
    }

    #[test]
    fn small_and_relatively_small_differences_are_none() {
        let notable =
            |before, after| NumberChange { what: String::new(), before, after }.is_notable(SAME_WITHIN_MS);
        assert!(!notable(Some(100), Some(300)) && notable(Some(100), Some(301)));
        assert!(!notable(Some(10_000), Some(12_000)) && notable(Some(10_000), Some(13_000)));
        assert!(notable(None, Some(5)) && !notable(None, None));
    }
}
