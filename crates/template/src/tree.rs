//! One tree for both formats: values that know their place, and a [`Reader`] that takes them out by key.
//!
//! Invariant: nothing under a key that looks secret is in the tree ([`Kind::Withheld`] stands there instead).
//!
//! On failure: the reader notes a [`Problem`] for a value of the wrong type (the text can't be read) or a [`Flaw`] for a
//! value that a rule is against, and goes on, so that everything is reported at once.

use crate::near::{quoted, suggestion};
use crate::{Format, Ignored, IgnoredKind, LISTED_MAX, Problem};
use model::{InvalidValue, Location, rules};
use std::ops::Range;
use std::str::FromStr;

/// Bytes of the text.
pub(crate) type Span = Range<usize>;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// As decimal digits, or whatever else a number is written with.
    Number(String),
    Text(String),
    List(Vec<Value>),
    Table(Vec<Entry>),
    /// A date or time.
    Date,
    /// A secret; never read.
    Withheld,
}

impl Kind {
    fn noun(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Date => "a date",
            Self::Withheld => "a secret",
        }
    }
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Value,
}

/// A value taken out of the tree, with its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Location,
}

/// A value that a template may have.
#[derive(Debug, Clone)]
pub(crate) enum Field<T> {
    /// The template doesn't have it.
    Missing,
    /// It has it and it is no valid one: reported already.
    Bad,
    /// It has it.
    Good(At<T>),
}

impl<T> Field<T> {
    pub(crate) fn good(&self) -> Option<&At<T>> {
        if let Self::Good(at) = self { Some(at) } else { None }
    }

    pub(crate) fn value(&self) -> Option<&T> {
        self.good().map(|at| &at.value)
    }

    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

/// A violation found while values were taken out: one value against one rule.
#[derive(Debug, Clone)]
pub(crate) struct Flaw {
    pub(crate) rule: &'static rules::Rule,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) at: Option<Location>,
}

/// A table being read.
#[derive(Debug, Clone)]
pub(crate) struct Table<'t> {
    pub(crate) entries: &'t [Entry],
    pub(crate) at: Location,
}

/// Takes values out of the tree and notes what is wrong with them.
#[derive(Debug)]
pub(crate) struct Reader {
    format: Format,
    pub(crate) problems: Vec<Problem>,
    pub(crate) flaws: Vec<Flaw>,
    pub(crate) ignored: Vec<Ignored>,
    /// How many words may still be looked up for what they may have been meant to be.
    suggestions_left: usize,
}

impl Reader {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            problems: Vec::new(),
            flaws: Vec::new(),
            ignored: Vec::new(),
            suggestions_left: LISTED_MAX,
        }
    }

    /// `did you mean `x`?`, for as many words as are listed.
    pub(crate) fn suggestion<'c>(
        &mut self,
        word: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Option<String> {
        self.suggestions_left = self.suggestions_left.checked_sub(1)?;
        suggestion(word, candidates)
    }

    pub(crate) fn problem(&mut self, message: String, at: &Location) {
        self.problems.push(Problem::new(message, Some(at.clone())));
    }

    pub(crate) fn flaw(
        &mut self,
        rule: &'static rules::Rule,
        message: impl Into<String>,
        hint: Option<String>,
        at: &Location,
    ) {
        self.flaws.push(Flaw { rule, message: message.into(), hint, at: Some(at.clone()) });
    }

    pub(crate) fn ignore(&mut self, path: impl Into<String>, kind: IgnoredKind, reason: impl Into<String>) {
        self.ignored.push(Ignored { path: path.into(), reason: reason.into(), kind });
    }

    /// Notes a problem for every key that is not known.
    pub(crate) fn refuse_unknown(&mut self, table: &Table<'_>, known: &[&str]) {
        for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let at = Location { path: table.path(&entry.key), span: Some(entry.key_span.clone()) };
            let help = self
                .suggestion(&entry.key, known.iter().copied())
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            let message = format!("unknown key {}", quoted(&entry.key));
            self.problems.push(Problem::new(message, Some(at)).help(help));
        }
    }

    /// The entry of a key. ARM's keys compare without case, and `null` there means "not given".
    fn entry<'t>(&self, table: &Table<'t>, key: &str) -> Option<&'t Entry> {
        let arm = self.format == Format::Arm;
        table
            .entries
            .iter()
            .find(|entry| if arm { entry.key.eq_ignore_ascii_case(key) } else { entry.key == key })
            .filter(|entry| !(arm && matches!(entry.value.kind, Kind::Null)))
    }

    fn wrong_type(&mut self, expected: &str, found: &Kind, at: &Location) {
        let what = if at.path.is_empty() { "the whole file".to_owned() } else { quoted(&at.path) };
        let message = format!("{what} must be {expected}, and is {}", found.noun());
        self.problem(message, at);
    }

    /// Where a key stands, if the table has it.
    pub(crate) fn key_at(&self, table: &Table<'_>, key: &str) -> Option<Location> {
        let entry = self.entry(table, key)?;
        Some(Location { path: table.path(key), span: Some(entry.key_span.clone()) })
    }

    /// Text. In an ARM file, empty text means "not given".
    pub(crate) fn text(&mut self, table: &Table<'_>, key: &str) -> Option<At<String>> {
        let entry = self.entry(table, key)?;
        self.text_of(&entry.value, table.path(key))
    }

    fn text_of(&mut self, value: &Value, path: String) -> Option<At<String>> {
        let at = Location { path, span: Some(value.span.clone()) };
        match &value.kind {
            Kind::Text(text) if text.trim().is_empty() && self.format == Format::Arm => None,
            Kind::Text(text) => Some(At { value: text.clone(), at }),
            other => {
                self.wrong_type("text", other, &at);
                None
            }
        }
    }

    /// Every text of a list.
    pub(crate) fn texts(&mut self, table: &Table<'_>, key: &str) -> Vec<At<String>> {
        self.elements(table, key).into_iter().filter_map(|(value, path)| self.text_of(value, path)).collect()
    }

    /// A whole number, as digits; ARM files also write numbers as text.
    pub(crate) fn number(&mut self, table: &Table<'_>, key: &str) -> Option<At<String>> {
        let entry = self.entry(table, key)?;
        self.number_of(&entry.value, table.path(key))
    }

    fn number_of(&mut self, value: &Value, path: String) -> Option<At<String>> {
        let at = Location { path, span: Some(value.span.clone()) };
        match &value.kind {
            Kind::Number(digits) => Some(At { value: digits.clone(), at }),
            Kind::Text(_) if self.format == Format::Arm => self.text_of(value, at.path),
            other => {
                self.wrong_type("a number", other, &at);
                None
            }
        }
    }

    /// Every number of a list.
    pub(crate) fn numbers(&mut self, table: &Table<'_>, key: &str) -> Vec<At<String>> {
        self.elements(table, key)
            .into_iter()
            .filter_map(|(value, path)| self.number_of(value, path))
            .collect()
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, table: &Table<'_>, key: &str) -> Option<At<bool>> {
        let entry = self.entry(table, key)?;
        let at = Location { path: table.path(key), span: Some(entry.value.span.clone()) };
        match &entry.value.kind {
            Kind::Bool(value) => Some(At { value: *value, at }),
            Kind::Text(text) if text.is_empty() && self.format == Format::Arm => None,
            other => {
                self.wrong_type("true or false", other, &at);
                None
            }
        }
    }

    /// A table under a key.
    pub(crate) fn table<'t>(&mut self, table: &Table<'t>, key: &str) -> Option<Table<'t>> {
        let entry = self.entry(table, key)?;
        let at = Location { path: table.path(key), span: Some(entry.key_span.clone()) };
        self.table_of(&entry.value, at)
    }

    pub(crate) fn table_of<'t>(&mut self, value: &'t Value, at: Location) -> Option<Table<'t>> {
        match &value.kind {
            Kind::Table(entries) => Some(Table { entries, at }),
            other => {
                self.wrong_type("a table", other, &at);
                None
            }
        }
    }

    /// Every table of a list.
    pub(crate) fn tables<'t>(&mut self, table: &Table<'t>, key: &str) -> Vec<Table<'t>> {
        self.elements(table, key)
            .into_iter()
            .filter_map(|(value, path)| {
                let at = Location { path, span: Some(opening(value)) };
                self.table_of(value, at)
            })
            .collect()
    }

    /// The values of a list with their paths.
    fn elements<'t>(&mut self, table: &Table<'t>, key: &str) -> Vec<(&'t Value, String)> {
        let Some(entry) = self.entry(table, key) else { return Vec::new() };
        let path = table.path(key);
        match &entry.value.kind {
            Kind::List(values) => {
                values.iter().enumerate().map(|(i, value)| (value, format!("{path}[{i}]"))).collect()
            }
            other => {
                self.wrong_type("a list", other, &Location { path, span: Some(entry.value.span.clone()) });
                Vec::new()
            }
        }
    }

    /// A raw value made into what it stands for; a value that its type refuses is a flaw under `rule`.
    pub(crate) fn parsed<T: FromStr<Err = InvalidValue>>(
        &mut self,
        raw: Option<At<String>>,
        rule: &'static rules::Rule,
    ) -> Field<T> {
        self.converted(raw, rule, |text| {
            text.parse().map_err(|e: InvalidValue| {
                (format!("{} is no {}", quoted(text), e.what), Some(format!("needed: {}", e.expected)))
            })
        })
    }

    /// One of a few words, compared without case.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        raw: Option<At<String>>,
        what: &str,
        choices: &[(&str, T)],
    ) -> Field<T> {
        let near = raw.as_ref().and_then(|raw| {
            let known = choices.iter().any(|(word, _)| word.eq_ignore_ascii_case(raw.value.trim()));
            if known { None } else { self.suggestion(&raw.value, choices.iter().map(|(word, _)| *word)) }
        });
        self.converted(raw, rules::VALUE_KNOWN, |text| {
            let found = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim()));
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words = choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
                (format!("{} is no {what}", quoted(text)), Some(near.unwrap_or(format!("known: {words}"))))
            })
        })
    }

    /// A raw value through any conversion; an error is a message and what to change.
    pub(crate) fn converted<T>(
        &mut self,
        raw: Option<At<String>>,
        rule: &'static rules::Rule,
        convert: impl FnOnce(&str) -> Result<T, (String, Option<String>)>,
    ) -> Field<T> {
        let Some(raw) = raw else { return Field::Missing };
        match convert(&raw.value) {
            Ok(value) => Field::Good(At { value, at: raw.at }),
            Err((message, hint)) => {
                self.flaw(rule, message, hint, &raw.at);
                Field::Bad
            }
        }
    }

    /// The field as it came; a missing one is a flaw of the table.
    pub(crate) fn required<T>(&mut self, field: Field<T>, table: &Table<'_>, key: &str) -> Field<T> {
        if field.is_missing() {
            let path = table.path(key);
            let at = Location { path: path.clone(), span: table.at.span.clone() };
            self.flaw(rules::VALUE_REQUIRED, format!("{} is missing", quoted(&path)), None, &at);
        }
        field
    }
}

impl Table<'_> {
    /// The path of a key of this table.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.at.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at.path) }
    }
}

/// Where a table begins: its first byte, so that a report points at a place and not at half the file. A TOML
/// table's span is its header, which is short enough to be shown whole.
fn opening(value: &Value) -> Span {
    let one_line = value.span.len() <= 80;
    if one_line { value.span.clone() } else { value.span.start..value.span.start + 1 }
}
