//! `cargo xtask hil --bug matrix`: each rule broken on nodes, in a lab of its own for each suite that must notice, and whether it does.
//!
//! Invariants: a suite notices when a scenario of it, or the judgement at its end, does not hold. A lab that failed shows nothing, and is no
//! notice.
//!
//! On failure: exit code 1 if a rule was broken and not noticed, 69 if a lab failed.

use crate::hil_command::blocking;
use hil::run::{Options, Outcome, run};
use hil::seeded::RULES;
use hil::ui::Ui;
use std::process::ExitCode;

/// What a lab with a broken rule showed.
enum Shown {
    /// Somebody noticed; who, in words.
    Caught(String),
    /// Nobody did.
    Missed,
    /// The lab failed, and why.
    Nothing(String),
}

/// `options` of one run: all have its shape, wiring and lab.
pub(crate) fn print(options: &Options) -> ExitCode {
    let ui = Ui::new();
    let (mut missed, mut failed) = (false, false);
    let mut rows = vec!["| broken rule | suite | caught | by |".to_owned(), "|---|---|---|---|".to_owned()];
    for rule in RULES {
        for suite in rule.caught_by {
            let shown = show(
                &ui,
                Options {
                    bug: Some(rule.name.to_owned()),
                    suites: vec![(*suite).to_owned()],
                    ..options.clone()
                },
            );
            missed |= matches!(shown, Shown::Missed);
            failed |= matches!(shown, Shown::Nothing(_));
            let (caught, by) = match shown {
                Shown::Caught(by) => ("yes", by),
                Shown::Missed => ("NO", String::new()),
                Shown::Nothing(why) => ("the lab failed", why),
            };
            rows.push(format!("| `{}` | `{suite}` | {caught} | {by} |", rule.name));
        }
        if rule.caught_by.is_empty() {
            rows.push(format!("| `{}` | | not provoked in a lab | |", rule.name));
        }
    }
    println!("{}", rows.join("\n"));
    match (failed, missed) {
        (true, _) => ExitCode::from(69),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    }
}

fn show(ui: &Ui, options: Options) -> Shown {
    let outcome = match blocking(run(options, ui)) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => return Shown::Nothing(hil::chain(&error)),
        Err(error) => return Shown::Nothing(error.to_string()),
    };
    println!("report: {}", outcome.dir.display());
    what(&outcome)
}

fn what(Outcome { summary, error, .. }: &Outcome) -> Shown {
    if let Some(error) = error {
        return Shown::Nothing(hil::chain(error));
    }
    // The judge's word is worth most: it comes last.
    let failures = summary.scenarios().filter_map(|(_, scenario)| Some((scenario, scenario.failure()?)));
    let Some((scenario, step)) = failures.last() else { return Shown::Missed };
    let lines: Vec<&str> = step.seen.lines().collect();
    Shown::Caught(format!("{}: {}: {}", scenario.name, step.step, lines.join("; ")))
}
