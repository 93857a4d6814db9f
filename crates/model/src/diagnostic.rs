//! What a check has to say: which rule, how bad, where, and what to do.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// The stable id of a rule of [`rules`](crate::rules), for example `net.vlan-range`. Ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RuleId(pub &'static str);

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// How bad it is. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; changes nothing.
    Note,
    /// Allowed, but the cluster is worse for it.
    Warning,
    /// Against a rule.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Where in the input a value stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// The path of keys, `zones[0].nodes[1].management_ip`.
    pub path: String,
    /// Bytes of the file, when the value has a place there.
    pub span: Option<Range<usize>>,
}

/// One thing that a check has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Which rule.
    pub rule: RuleId,
    /// How bad, after overrides.
    pub severity: Severity,
    /// What is wrong, naming the offending value.
    pub message: String,
    /// What to change.
    pub help: String,
    /// Where it stands; `None` if it is about the whole input.
    pub location: Option<Location>,
    /// Other places that belong to it, each with a few words.
    pub related: Vec<(Location, String)>,
    /// Whether an override turned an error into a warning.
    pub overridden: bool,
}
