//! `twinrack rules` and `twinrack explain`: the table of rules, shown.
//!
//! Invariant of the JSON: fields are added within a version, and never removed or changed in meaning.

use crate::Outcome;
use crate::shown::{VERSION, json};
use clap::Args;
use model::rules::{self, Override, Rule};
use serde::Serialize;
use std::io::{self, Write};

/// Most ids that an answer to an unknown one names.
const NAMED_MAX: usize = 12;

/// How to list the rules.
#[derive(Debug, Args)]
pub(crate) struct RulesArgs {
    /// One JSON object, for programs.
    #[arg(long)]
    json: bool,
    /// The page that docs/rules.md is.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

#[derive(Serialize)]
struct Listed {
    version: u32,
    rules: Vec<&'static Rule>,
}

pub(crate) fn list(args: &RulesArgs) -> io::Result<Outcome> {
    let text = if args.json {
        json(&Listed { version: VERSION, rules: rules::all().collect() })
    } else if args.markdown {
        rules::markdown()
    } else {
        rules::all().map(line).collect()
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Outcome::Good)
}

fn line(rule: &Rule) -> String {
    let line = format!("{:<34} {:<8} {:<11} {}\n", rule.id, rule.severity, rule.checked, rule.title);
    match rule.on_override {
        Override::No => line,
        Override::ById { costs } => format!("{line}{:<55} can be overridden; {costs}\n", ""),
        Override::By { how, costs } => format!("{line}{:<55} `{how}` overrides it; {costs}\n", ""),
    }
}

/// Explains a rule; an id that none has is a command line that can't be read, and is told what was probably meant.
pub(crate) fn explain(id: &str) -> io::Result<Outcome> {
    if let Some(rule) = rules::find(id) {
        io::stdout().lock().write_all(rules::explained(rule).as_bytes())?;
        return Ok(Outcome::Good);
    }
    let mut out = io::stderr().lock();
    writeln!(out, "error: no rule is called `{}`", id.escape_debug())?;
    writeln!(out, "  help: {}", meant(id))?;
    Ok(Outcome::Unreadable)
}

/// What somebody may have meant: the nearest id, else those that have his words in them, else where to look.
fn meant(id: &str) -> String {
    if let Some(near) = template::near_rule(id) {
        return near;
    }
    let word = id.trim().to_lowercase();
    let ids = rules::all().map(|rule| rule.id.0);
    let having: Vec<&str> =
        ids.filter(|known| !word.is_empty() && known.contains(&word)).take(NAMED_MAX).collect();
    if having.is_empty() {
        "`twinrack rules` lists them".to_owned()
    } else {
        format!("did you mean one of {}?", having.join(", "))
    }
}
