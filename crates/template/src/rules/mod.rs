//! The rules of `model::rules` that a file alone can break: what checks them, and the judge that runs them all.
//!
//! Checks read the draft and change nothing. A check says nothing about a value that another rule has reported as missing or
//! bad, so that one mistake gets one message.
//!
//! Rules about what only a running machine can show (drives, link speed, round trip, cabling) are checked elsewhere.

mod address;
mod names;
mod net;
mod zones;

use crate::draft::Draft;
use crate::near::{quoted, suggestion};
use crate::tree::{Flaw, Reader};
use crate::{Format, Problem, ReadOptions, place, spec};
use model::rules::{self, Checked, Override, Rule};
use model::{ClusterSpec, Diagnostic, Location, RuleId, Severity};

/// What looks for violations of a rule. Rules without one are looked after by the readers: their violations are flaws noted
/// while values were read.
type Check = fn(&Draft, &mut Findings);

/// The rules that are checked here, in the order in which they are documented, each with its check.
fn checked() -> impl Iterator<Item = (&'static Rule, Option<Check>)> {
    let checks = || [names::CHECKS, zones::CHECKS, net::CHECKS, address::CHECKS].into_iter().flatten();
    let of_rule = move |rule: &Rule| checks().find(|(checked, _)| *checked == rule).map(|(_, check)| *check);
    rules::all().filter(|rule| rule.checked == Checked::Template).map(move |rule| (rule, of_rule(rule)))
}

/// What one rule found.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

#[derive(Debug)]
pub(crate) struct Finding {
    message: String,
    hint: Option<String>,
    at: Option<Location>,
    related: Vec<(Location, String)>,
}

impl Findings {
    /// A violation at a place.
    fn at(&mut self, at: &Location, message: String) -> &mut Finding {
        self.anywhere(Some(at.clone()), message)
    }

    /// A violation that may have no place.
    fn anywhere(&mut self, at: Option<Location>, message: String) -> &mut Finding {
        self.0.push(Finding { message, hint: None, at, related: Vec::new() });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

impl Finding {
    fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    fn related(&mut self, at: &Location, words: &str) -> &mut Self {
        self.related.push((at.clone(), words.to_owned()));
        self
    }
}

/// The overrides of the command line and of the template. An id that no rule has, or whose rule can't be overridden, is a
/// problem: a misspelt override must not pass for one.
pub(crate) fn overrides(draft: &Draft, options: &ReadOptions, reader: &mut Reader) -> Vec<RuleId> {
    let of_options = options.overrides.iter().map(|id| (id.as_str(), None));
    let of_template = draft.overrides.iter().map(|id| (id.value.as_str(), Some(id.at.clone())));
    let mut overrides = Vec::new();
    for (id, at) in of_options.chain(of_template) {
        let Some(rule) = rules::find(id) else {
            let known = rules::all().filter(|rule| rule.override_costs().is_some()).map(|rule| rule.id.0);
            let near = reader.suggestion(id, rules::all().map(|rule| rule.id.0));
            let help = near.unwrap_or_else(|| {
                format!("rules that can be overridden: {}", known.collect::<Vec<_>>().join(", "))
            });
            reader.problems.push(Problem::new(format!("no rule is called {}", quoted(id)), at).help(help));
            continue;
        };
        let help = match rule.on_override {
            Override::ById { .. } => {
                overrides.push(rule.id);
                continue;
            }
            Override::No => rule.help.to_owned(),
            Override::By { how, .. } => format!("`{how}` accepts it"),
        };
        reader.problems.push(Problem::new(format!("rule {} can't be overridden", quoted(id)), at).help(help));
    }
    overrides
}

/// Which rule an id that none has probably means: ``did you mean `net.vlan-range`?``, or nothing.
pub fn near_rule(id: &str) -> Option<String> {
    suggestion(id, rules::all().map(|rule| rule.id.0))
}

/// Runs every rule; without errors, makes the cluster.
pub(crate) fn judge(
    draft: &Draft,
    flaws: &[Flaw],
    overrides: &[RuleId],
) -> (Vec<Diagnostic>, Option<ClusterSpec>) {
    let mut diagnostics = Vec::new();
    for (rule, check) in checked() {
        let mut findings = Findings::default();
        for flaw in flaws.iter().filter(|flaw| flaw.rule == rule) {
            findings.anywhere(flaw.at.clone(), flaw.message.clone()).hint.clone_from(&flaw.hint);
        }
        if let Some(check) = check {
            check(draft, &mut findings);
        }
        let overridden = overrides.contains(&rule.id);
        if overridden && findings.0.is_empty() {
            diagnostics.push(unused(draft, rule));
        }
        diagnostics.extend(
            findings.0.into_iter().map(|finding| diagnostic(rule, finding, draft.format, overridden)),
        );
    }
    let mut spec = None;
    if diagnostics.iter().all(|diagnostic| diagnostic.severity < Severity::Error) {
        match spec::build(draft) {
            Ok(built) => spec = Some(built),
            Err(spec::Incomplete(what)) => {
                let message = format!("the template does not say {what}");
                let finding = Finding { message, hint: None, at: None, related: Vec::new() };
                diagnostics.push(diagnostic(rules::VALUE_REQUIRED, finding, draft.format, false));
            }
        }
    }
    diagnostics.sort_by(|a, b| {
        place(a.location.as_ref()).cmp(&place(b.location.as_ref())).then_with(|| a.rule.cmp(&b.rule))
    });
    (diagnostics, spec)
}

fn diagnostic(rule: &Rule, finding: Finding, format: Format, overridden: bool) -> Diagnostic {
    let advice = match finding.hint {
        Some(hint) => format!("{}; {hint}", rule.help),
        None => rule.help.to_owned(),
    };
    let help = match rule.override_costs() {
        Some(costs) if overridden => format!("overridden: {costs}"),
        Some(costs) => {
            let in_template = match format {
                Format::Toml => format!(", or `overrides = [\"{}\"]` in the template", rule.id),
                Format::Arm => String::new(),
            };
            format!("{advice}. To go ahead knowingly ({costs}): `--override {}`{in_template}", rule.id)
        }
        None => advice,
    };
    let severity = if overridden { rule.severity.min(Severity::Warning) } else { rule.severity };
    Diagnostic {
        rule: rule.id,
        severity,
        message: finding.message,
        help,
        location: finding.at,
        related: finding.related,
        overridden,
    }
}

fn unused(draft: &Draft, rule: &Rule) -> Diagnostic {
    let named = draft.overrides.iter().find(|id| id.value == rule.id.0);
    let finding = Finding {
        message: format!("{} is overridden, and nothing violates it", quoted(rule.id.0)),
        hint: None,
        at: named.map(|id| id.at.clone()),
        related: Vec::new(),
    };
    diagnostic(rules::OVERRIDE_UNUSED, finding, draft.format, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_of_a_rule_that_is_checked_here() {
        let run = checked().filter(|(_, check)| check.is_some()).count();
        let there: usize =
            [names::CHECKS, zones::CHECKS, net::CHECKS, address::CHECKS].iter().map(|of| of.len()).sum();
        assert_eq!(run, there, "each has one rule, and it is a template's");
    }
}
