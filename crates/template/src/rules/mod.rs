//! The rules table: what a template is checked against, one entry a rule, and the judge that runs them all.
//!
//! Rules read the draft and change nothing. A rule says nothing about a value that another rule has reported as missing or
//! bad, so that one mistake gets one message.
//!
//! Rules about what only a running machine can show (drives, link speed, round trip, cabling) are not here.

mod address;
mod names;
mod net;
mod zones;

use crate::draft::Draft;
use crate::near::{quoted, suggestion};
use crate::tree::Flaw;
use crate::{Format, Problem, ReadOptions, place, spec};
use model::{ClusterSpec, Diagnostic, Location, RuleId, Severity};

/// Ids that more than one module names.
pub(crate) mod id {
    use model::RuleId;

    pub(crate) const VALUE_REQUIRED: RuleId = RuleId("template.value-required");
    pub(crate) const VALUE_KNOWN: RuleId = RuleId("template.value-known");
    pub(crate) const OVERRIDE_UNUSED: RuleId = RuleId("template.override-unused");
    pub(crate) const NAME_VALID: RuleId = RuleId("name.valid");
    pub(crate) const RACK_AWARE: RuleId = RuleId("zones.rack-aware");
    pub(crate) const VLAN_RANGE: RuleId = RuleId("net.vlan-range");
    pub(crate) const MTU_RANGE: RuleId = RuleId("net.mtu-range");
    pub(crate) const QOS_PRIORITIES: RuleId = RuleId("net.qos-priorities");
    pub(crate) const QOS_BANDWIDTH: RuleId = RuleId("net.qos-bandwidth");
    pub(crate) const STORAGE_SWITCHED: RuleId = RuleId("net.storage-switched");
    pub(crate) const NETWORKING_PATTERN: RuleId = RuleId("net.networking-pattern");
    pub(crate) const ADDRESS_VALID: RuleId = RuleId("address.valid");
    pub(crate) const ADDRESS_STATIC: RuleId = RuleId("address.static");
    pub(crate) const STORAGE_SUBNET_GIVEN: RuleId = RuleId("address.storage-subnet-given");
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Its stable id.
    pub id: RuleId,
    /// What must hold, in a few words.
    pub title: &'static str,
    /// How bad a violation is.
    pub severity: Severity,
    /// What an operator gives up by overriding it; `None`: it can't be overridden.
    pub override_costs: Option<&'static str>,
    /// What to change.
    pub help: &'static str,
    check: fn(&Draft, &mut Findings),
}

impl Rule {
    const fn error(
        id: &'static str,
        title: &'static str,
        help: &'static str,
        check: fn(&Draft, &mut Findings),
    ) -> Self {
        Self { id: RuleId(id), title, severity: Severity::Error, override_costs: None, help, check }
    }

    /// A rule that the readers look after: its violations are flaws noted while values were read.
    const fn read(id: RuleId, title: &'static str, help: &'static str) -> Self {
        Self { id, title, severity: Severity::Error, override_costs: None, help, check: |_, _| {} }
    }

    const fn severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    const fn overridable(self, costs: &'static str) -> Self {
        Self { override_costs: Some(costs), ..self }
    }
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

const TEMPLATE_RULES: [Rule; 3] = [
    Rule::read(id::VALUE_REQUIRED, "every required value is given", "add it"),
    Rule::read(id::VALUE_KNOWN, "a choice is one of the known words", "use one of the known words"),
    Rule::read(id::OVERRIDE_UNUSED, "an override overrides something", "remove the override")
        .severity(Severity::Note),
];

/// Every rule, in the order in which they are documented.
pub fn rules() -> impl Iterator<Item = &'static Rule> {
    [&TEMPLATE_RULES[..], names::RULES, zones::RULES, net::RULES, address::RULES].into_iter().flatten()
}

/// The overrides of the command line and of the template. An id that no rule has, or whose rule can't be overridden, is a
/// problem: a misspelt override must not pass for one.
pub(crate) fn overrides(draft: &Draft, options: &ReadOptions, problems: &mut Vec<Problem>) -> Vec<RuleId> {
    let of_options = options.overrides.iter().map(|id| (id.as_str(), None));
    let of_template = draft.overrides.iter().map(|id| (id.value.as_str(), Some(id.at.clone())));
    let mut overrides = Vec::new();
    for (id, at) in of_options.chain(of_template) {
        match rules().find(|rule| rule.id.0 == id) {
            Some(rule) if rule.override_costs.is_some() => overrides.push(rule.id),
            Some(rule) => problems
                .push(Problem::new(format!("rule {} can't be overridden", quoted(id)), at).help(rule.help)),
            None => {
                let known = rules().filter(|rule| rule.override_costs.is_some()).map(|rule| rule.id.0);
                let help = suggestion(id, rules().map(|rule| rule.id.0)).unwrap_or_else(|| {
                    format!("rules that can be overridden: {}", known.collect::<Vec<_>>().join(", "))
                });
                problems.push(Problem::new(format!("no rule is called {}", quoted(id)), at).help(help));
            }
        }
    }
    overrides
}

/// Runs every rule; without errors, makes the cluster.
pub(crate) fn judge(
    draft: &Draft,
    flaws: &[Flaw],
    overrides: &[RuleId],
) -> (Vec<Diagnostic>, Option<ClusterSpec>) {
    let mut diagnostics = Vec::new();
    for rule in rules() {
        let mut findings = Findings::default();
        for flaw in flaws.iter().filter(|flaw| flaw.rule == rule.id) {
            findings.anywhere(flaw.at.clone(), flaw.message.clone()).hint.clone_from(&flaw.hint);
        }
        (rule.check)(draft, &mut findings);
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
                diagnostics.push(diagnostic(&TEMPLATE_RULES[0], finding, draft.format, false));
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
    let help = match rule.override_costs {
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
    diagnostic(&TEMPLATE_RULES[2], finding, draft.format, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_rule_has_its_own_well_formed_id() {
        let ids: Vec<&str> = rules().map(|rule| rule.id.0).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        for rule in rules() {
            let (area, name) = rule.id.0.split_once('.').expect("area and name");
            let kebab =
                |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.is_empty();
            assert!(kebab(area) && kebab(name), "{}", rule.id);
            assert!(!rule.help.is_empty() && !rule.help.ends_with('.'), "{}", rule.id);
        }
    }

    #[test]
    fn every_flaw_id_is_in_the_table() {
        for id in [
            id::VALUE_REQUIRED,
            id::VALUE_KNOWN,
            id::OVERRIDE_UNUSED,
            id::NAME_VALID,
            id::RACK_AWARE,
            id::VLAN_RANGE,
            id::MTU_RANGE,
            id::QOS_PRIORITIES,
            id::QOS_BANDWIDTH,
            id::STORAGE_SWITCHED,
            id::NETWORKING_PATTERN,
            id::ADDRESS_VALID,
            id::ADDRESS_STATIC,
            id::STORAGE_SUBNET_GIVEN,
        ] {
            assert!(rules().any(|rule| rule.id == id), "{id}");
        }
    }
}
