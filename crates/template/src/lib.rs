//! Files in: a template's text becomes a [`ClusterSpec`], or a list of everything that is wrong with it.
//!
//! Two inputs, one model. twinrack's own TOML and Azure Resource Manager (ARM) deployment parameters files are both
//! parsed into one tree of values that know their place, then into one lenient draft. The rules run on the
//! draft, all of them, and only a draft without errors becomes a [`ClusterSpec`].
//!
//! Invariants: no text panics [`read`]; [`Reading::spec`] is `Some` exactly when no diagnostic is an error; a value
//! under a key that looks secret never gets further than the parser.
//!
//! Every list that is built from a text is no longer than the text, no rule compares everything with everything, and no more than
//! [`LISTED_MAX`] problems are told: a hostile file costs no more than its size.
//!
//! On failure: [`Unreadable`] is a text that means nothing (syntax, types, unknown keys; exit code 2). A text that was
//! understood and breaks rules is a [`Reading`] with errors among its diagnostics (exit code 1).
//!
//! *Architecture invariant*: this crate opens no file. Callers read the bytes and give them to
//! [`Source::from_bytes`].

mod arm_template;
mod convert;
mod draft;
mod near;
mod parse_json;
mod parse_toml;
mod read_arm;
mod read_arm_network;
mod read_own;
mod rules;
mod secrets;
mod source;
mod spec;
mod tree;

#[cfg(feature = "render")]
pub mod render;
#[cfg(feature = "trial")]
pub mod trial;

pub use convert::to_toml;
pub use rules::near_rule;
pub use source::Source;

use model::{ClusterSpec, Diagnostic, Location, Severity};
use serde::Serialize;
use std::fmt;

/// What the caller wants of [`read`].
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Ids of rules whose violations are accepted knowingly; added to those that a TOML template names itself.
    pub overrides: Vec<String>,
}

/// Which of the two inputs a template is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// twinrack's own TOML.
    Toml,
    /// An ARM deployment parameters file.
    Arm,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Toml => "twinrack TOML",
            Self::Arm => "ARM deployment parameters",
        })
    }
}

/// Why a part of the input has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IgnoredKind {
    /// It has a meaning here, and twinrack can't do it yet.
    NotBuiltYet,
    /// twinrack does not know it.
    Unknown,
    /// The input itself switches it off.
    SwitchedOff,
    /// It has no meaning on Linux.
    NoMeaningOnLinux,
}

/// A part of the input that has no effect, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ignored {
    /// The path of keys.
    pub path: String,
    /// Why, for a person.
    pub reason: String,
    /// Why, for a program.
    pub kind: IgnoredKind,
}

/// The most problems or diagnostics that are listed of one input. A cluster has at most eight nodes: whoever has more than so
/// many mistakes in its description starts with these.
pub const LISTED_MAX: usize = 200;

/// A template that was understood.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Which input it was.
    pub format: Format,
    /// What the rules have to say, sorted by place, at most [`LISTED_MAX`].
    pub diagnostics: Vec<Diagnostic>,
    /// How many more there are.
    pub unlisted: usize,
    /// The cluster asked for; `None` while a diagnostic is an error.
    pub spec: Option<ClusterSpec>,
    /// What had no effect: parameters in the order of the file, then what is inside them.
    pub ignored: Vec<Ignored>,
}

impl Reading {
    /// How many of the listed diagnostics are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }
}

/// One reason why a text could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to change, when there is more to say.
    pub help: Option<String>,
    /// Where; `None` if it is about the whole input or the command line.
    pub location: Option<Location>,
    /// Other places that belong to it, each with a few words.
    pub related: Vec<(Location, String)>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>, location: Option<Location>) -> Self {
        Self { message: message.into(), help: None, location, related: Vec::new() }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A template that can't be read: every reason, never none, sorted by place. Of more than [`LISTED_MAX`] the last says how many more
/// there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} can't be read: {}", problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; "))]
pub struct Unreadable {
    /// The input's name.
    pub name: String,
    /// The reasons.
    pub problems: Vec<Problem>,
}

impl Unreadable {
    pub(crate) fn new(name: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| place(problem.location.as_ref()));
        if let Some(more) = problems.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
            problems.truncate(LISTED_MAX);
            problems.push(Problem::new(format!("{more} more problems are not listed"), None));
        }
        Self { name: name.to_owned(), problems }
    }
}

/// The order of places: by position, and what has none last.
pub(crate) fn place(location: Option<&Location>) -> usize {
    location.and_then(|at| at.span.as_ref()).map_or(usize::MAX, |span| span.start)
}

/// Reads a template of either format, runs every rule over it and makes the cluster it asks for.
///
/// ```
/// use template::{ReadOptions, Source, read};
///
/// let source = Source::new("lab.toml", "name = \"lab\"\ncolour = \"red\"\n");
/// let unreadable = read(&source, &ReadOptions::default()).unwrap_err();
/// assert_eq!(unreadable.problems[0].message, "unknown key `colour`");
/// ```
pub fn read(source: &Source, options: &ReadOptions) -> Result<Reading, Unreadable> {
    let format = source.format();
    let unreadable = |problems| Unreadable::new(source.name(), problems);
    let parsed = match format {
        Format::Toml => parse_toml::parse(source.text()),
        Format::Arm => parse_json::parse(source.text()),
    };
    let mut tree = parsed.map_err(|problem| unreadable(vec![*problem]))?;
    let mut reader = tree::Reader::new(format);
    match (source.arm_template(), format) {
        (Some((template, base)), Format::Arm) => arm_template::merge(&mut tree, template, base, &mut reader),
        (Some(_), Format::Toml) => {
            let message =
                "an ARM template stands beside an ARM parameters file, and this is a twinrack TOML template";
            reader.problems.push(Problem::new(message, None).help("leave the ARM template out"));
        }
        (None, _) => {}
    }
    let draft = match format {
        Format::Toml => read_own::draft(&tree, &mut reader),
        Format::Arm => read_arm::draft(&tree, &mut reader),
    };
    let overrides = rules::overrides(&draft, options, &mut reader);
    if !reader.problems.is_empty() {
        return Err(unreadable(reader.problems));
    }
    let (mut diagnostics, spec) = rules::judge(&draft, &reader.flaws, &overrides);
    let unlisted = diagnostics.len().saturating_sub(LISTED_MAX);
    diagnostics.truncate(LISTED_MAX);
    Ok(Reading { format, diagnostics, unlisted, spec, ignored: reader.ignored })
}
