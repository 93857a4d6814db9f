//! The rules that a deployment is checked against: one table, whoever checks them.
//!
//! Purpose: each rule is an item with its stable id, what must hold, why, the words that a violation is told in, what to
//! change, how bad it is, what overriding it costs, and where it is checked. The checks are elsewhere (`template` for what
//! a file shows; `network` and `deploy` for what only machines, cables and measurements show) and name their rule by its
//! constant here, so that no check can have an id that is not in the table. `docs/rules.md` ([`markdown`]), `twinrack rules` and
//! `twinrack explain` ([`explained`]) are drawn from it.
//!
//! Invariants: ids are unique and never reused. A rule's messages are told in one of its forms; tests hold the checks to that.

mod address;
mod hardware;
mod measured;
mod name;
mod net;
mod page;
mod wires;
mod zones;

pub use address::*;
pub use hardware::*;
pub use measured::*;
pub use name::*;
pub use net::*;
pub use page::{explained, markdown};
pub use wires::*;
pub use zones::*;

use crate::{RuleId, Severity};
use serde::Serialize;
use std::fmt;

/// Where a rule is checked, in the order in which a deployment comes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checked {
    /// In the file alone: `twinrack validate`.
    Template,
    /// In what the machines say they have.
    Inventory,
    /// In what the switches say of the cables (LLDP).
    Wires,
    /// In what was sent and arrived.
    Measurement,
}

impl Checked {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Template, Self::Inventory, Self::Wires, Self::Measurement];
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Template => "template",
            Self::Inventory => "inventory",
            Self::Wires => "wires",
            Self::Measurement => "measurement",
        })
    }
}

/// How a violation is accepted knowingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "override", rename_all = "kebab-case")]
pub enum Override {
    /// It is not.
    No,
    /// By the rule's id, on the command line or in a template. It is then a warning.
    ById {
        /// What is given up by it.
        costs: &'static str,
    },
    /// By an option of the command that would break the rule.
    By {
        /// Which.
        how: &'static str,
        /// What is given up by it.
        costs: &'static str,
    },
}

/// One rule.
#[derive(Debug, Serialize)]
pub struct Rule {
    /// Its stable id.
    pub id: RuleId,
    /// Where it is checked.
    pub checked: Checked,
    /// How bad a violation is.
    pub severity: Severity,
    /// When it is less bad than that, and how bad then.
    pub milder: Option<&'static str>,
    /// What must hold.
    pub title: &'static str,
    /// Why.
    pub why: &'static str,
    /// The words of a violation, one form each; `…` stands for what is named.
    pub says: &'static [&'static str],
    /// What to change.
    pub help: &'static str,
    /// How a violation is accepted knowingly.
    #[serde(flatten)]
    pub on_override: Override,
}

impl Rule {
    /// What most rules are; the macro below fills in the rest.
    const BASE: Self = Self {
        id: RuleId(""),
        checked: Checked::Template,
        severity: Severity::Error,
        milder: None,
        title: "",
        why: "",
        says: &[],
        help: "",
        on_override: Override::No,
    };

    /// What is given up by overriding it by its id; `None`: it can't be.
    pub fn override_costs(&self) -> Option<&'static str> {
        if let Override::ById { costs } = self.on_override { Some(costs) } else { None }
    }

    /// Whether a message has one of the rule's forms.
    ///
    /// ```
    /// assert!(model::rules::VLAN_RANGE.has_form("`4095` is no VLAN id"));
    /// assert!(!model::rules::VLAN_RANGE.has_form("`4095` is no MTU"));
    /// ```
    pub fn has_form(&self, message: &str) -> bool {
        self.says.iter().any(|form| is_of_form(message, form))
    }
}

/// Rules are the same when their ids are: there is one of each.
impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Rule {}

/// Whether a text is the form with anything in the place of each `…`.
fn is_of_form(text: &str, form: &str) -> bool {
    let Some((start, inner)) = form.split_once('…') else { return text == form };
    let Some(mut rest) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = inner.split('…').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(end)
}

/// Every rule, in the order in which they are documented: by where they are checked.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    let of_template = [NAME_RULES, ZONES_RULES, NET_RULES, ADDRESS_RULES];
    let of_machines = [HARDWARE_RULES, WIRES_RULES, MEASURED_RULES];
    of_template.into_iter().chain(of_machines).flatten().copied()
}

/// The rule of an id.
pub fn find(id: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.id.0 == id)
}

/// A table of rules: a constant for each, and one with all of them.
macro_rules! rules {
    ($table:ident, $checked:ident: $($name:ident $id:literal { title: $title:literal, $($field:ident: $value:expr),* $(,)? })*) => {
        #[allow(unused_imports, reason = "not every table has overrides or other severities")]
        use super::{Checked, Override, Rule};
        #[allow(unused_imports, reason = "as above")]
        use crate::{RuleId, Severity};

        $(
            #[doc = concat!("`", $id, "`: ", $title, ".")]
            pub const $name: &Rule = &Rule {
                id: RuleId($id),
                checked: Checked::$checked,
                title: $title,
                $($field: $value,)*
                ..Rule::BASE
            };
        )*

        pub(super) const $table: &[&Rule] = &[$($name),*];
    };
}
use rules;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_rule_has_an_id_of_its_own_and_says_everything() {
        let ids: Vec<&str> = all().map(|rule| rule.id.0).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        for rule in all() {
            let (area, name) = rule.id.0.split_once('.').expect("area and name");
            let kebab =
                |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.is_empty();
            assert!(kebab(area) && kebab(name), "{}", rule.id);
            assert!(!rule.says.is_empty(), "{}", rule.id);
            let costs = match rule.on_override {
                Override::No => None,
                Override::ById { costs } | Override::By { costs, .. } => Some(costs),
            };
            for words in [Some(rule.title), Some(rule.why), Some(rule.help), costs, rule.milder]
                .into_iter()
                .flatten()
                .chain(rule.says.iter().copied())
            {
                assert!(!words.is_empty() && !words.ends_with('.') && !words.contains('\n'), "{}", rule.id);
            }
            assert_eq!(find(rule.id.0), Some(rule));
        }
        assert!(all().map(|rule| rule.checked).is_sorted(), "grouped by where they are checked");
    }

    #[test]
    fn a_form_is_its_words_with_anything_in_between() {
        for (text, form, is) in [
            ("a", "a", true),
            ("ab", "a", false),
            ("x is y", "… is …", true),
            ("`` is y", "`…` is …", true),
            ("` is y", "`…` is …", false),
            ("x is y is z", "… is …", true),
            ("there are 3 zones", "there are … zones", true),
            ("there are zones", "there are … zones", false),
            ("aXbYb", "a…b", true),
        ] {
            assert_eq!(is_of_form(text, form), is, "{text} {form}");
        }
    }
}
