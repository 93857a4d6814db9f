//! The table at the end of a run.

use super::{ScenarioResult, SuiteResult, Summary};
use crate::events::Verdict;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The run as text for people. `colour` only when a terminal reads it.
pub fn terminal(summary: &Summary, colour: bool) -> String {
    let mut text = String::new();
    let width = summary.scenarios().map(|(_, scenario)| scenario.name.chars().count()).max().unwrap_or(0);
    for suite in &summary.suites {
        writeln!(text, "\n{} — {}", paint(&suite.name, Paint::Bold, colour), suite.title).ok();
        for scenario in &suite.scenarios {
            write_scenario(&mut text, scenario, width, colour);
        }
        write_medians(&mut text, suite);
    }
    let phases: Vec<String> =
        summary.phases.iter().map(|phase| format!("{} {}", phase.name, seconds(phase.took_ms))).collect();
    writeln!(text, "\ntimes: {}", phases.join(", ")).ok();
    for note in &summary.notes {
        writeln!(text, "note: {note}").ok();
    }
    if let Some(why) = &summary.aborted {
        writeln!(text, "{} {why}", paint("aborted:", Paint::Red, colour)).ok();
    }
    let (passed, failed) = (summary.count(Verdict::Passed), summary.count(Verdict::Failed));
    let not_applicable = summary.count(Verdict::NotApplicable);
    let verdict = if summary.good {
        paint("good", Paint::Green, colour)
    } else {
        paint("not good", Paint::Red, colour)
    };
    write!(text, "{verdict}: {passed} scenarios passed, {failed} failed").ok();
    if not_applicable > 0 {
        write!(text, ", {not_applicable} not applicable").ok();
    }
    text.push('\n');
    text
}

/// So many values at least make a median worth a line.
const MEDIAN_OF: usize = 3;

/// Of what was measured several times in a suite: the middle, the least and the most.
fn write_medians(text: &mut String, suite: &SuiteResult) {
    let mut measured: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for step in suite.scenarios.iter().flat_map(|scenario| &scenario.steps) {
        measured.entry(&step.step).or_default().extend(step.measured_ms);
    }
    for (step, mut values) in measured {
        values.sort_unstable();
        let count = values.len();
        if let [least, .., most] = values[..]
            && count >= MEDIAN_OF
        {
            // Of an even number the upper one of the two in the middle.
            let (middle, least, most) = (precise(values[count / 2]), precise(least), precise(most));
            writeln!(text, "  {step}: {middle} in the middle of {count}, {least} to {most}").ok();
        }
    }
}

/// Seconds to the hundredth.
fn precise(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

fn write_scenario(text: &mut String, scenario: &ScenarioResult, width: usize, colour: bool) {
    let (mark, paint_as) = match scenario.verdict {
        Verdict::Passed => ("passed", Paint::Green),
        Verdict::Failed => ("FAILED", Paint::Red),
        Verdict::NotApplicable => ("not applicable", Paint::Bold),
    };
    let (name, took) = (&scenario.name, seconds(scenario.took_ms));
    writeln!(text, "  {name:<width$}  {took:>8}  {}", paint(mark, paint_as, colour)).ok();
    if let Some(why) = &scenario.why {
        writeln!(text, "      {why}").ok();
    }
    if scenario.verdict == Verdict::Failed {
        for step in &scenario.steps {
            let mark = if step.good { "held" } else { "DID NOT HOLD" };
            writeln!(text, "      {mark}: {}: {}", step.step, step.seen.replace('\n', "\n        ")).ok();
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// The few ways in which text is set off (ECMA-48 select graphic rendition).
#[derive(Clone, Copy)]
enum Paint {
    Bold = 1,
    Red = 31,
    Green = 32,
}

fn paint(text: &str, paint: Paint, colour: bool) -> String {
    if colour { format!("\x1b[{}m{text}\x1b[0m", paint as u8) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn the_table_shows_what_failed_and_why() {
        insta::assert_snapshot!(terminal(&example(), false));
    }

    #[test]
    fn what_was_measured_several_times_has_a_median() {
        let mut summary = example();
        let step = summary.suites[0].scenarios[0].steps[0].clone();
        let of = |ms| super::super::StepResult { measured_ms: Some(ms), ..step.clone() };
        summary.suites[0].scenarios[0].steps = [1240, 990, 3000].map(of).to_vec();
        let text = terminal(&summary, false);
        assert!(
            text.contains("  links are as planned: 1.24 s in the middle of 3, 0.99 s to 3.00 s\n"),
            "{text}"
        );
        summary.suites[0].scenarios[0].steps.pop();
        assert!(!terminal(&summary, false).contains("in the middle"));
    }

    #[test]
    fn colour_only_where_asked_for() {
        assert!(!terminal(&example(), false).contains('\x1b'));
        assert!(terminal(&example(), true).contains('\x1b'));
    }
}
