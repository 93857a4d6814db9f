//! An ARM template beside its parameters file: parameters that the file leaves out have the template's defaults.
//!
//! Invariants: what the file gives stands, whatever the template says; `null` there means "not given", as everywhere in such a file. Of a
//! template only the defaults of parameters that are read here are taken; places in them are places of the template
//! ([`Source::beside`](crate::Source::beside)).
//!
//! Defaults that are expressions (`[resourceGroup().location]`) are not worked out: they are listed, and the parameter counts as
//! not given. `[[` at a text's start is how a template writes a single bracket.
//!
//! On failure: a template that is none, or no JSON, is a [`Problem`].

use crate::near::quoted;
use crate::read_arm::{READ, duplicates};
use crate::tree::{Entry, Kind, Reader, Value};
use crate::{IgnoredKind, Problem, Source, parse_json};
use model::Location;

/// Puts the template's defaults into the file's tree. `base`: where the places of the template begin.
pub(crate) fn merge(file: &mut Value, template: &Source, base: usize, reader: &mut Reader) {
    let mut tree = match parse_json::parse(template.text()) {
        Ok(tree) => tree,
        Err(problem) => return reader.problems.push(moved(*problem, base)),
    };
    move_value(&mut tree, base);
    let name = quoted(template.name());
    let wrong = |message: String| {
        let at = Location { path: String::new(), span: Some(base..base) };
        Problem::new(message, Some(at))
            .help("give the template that the parameters file is for, `azuredeploy.json`")
    };
    let entries = entries(&tree);
    duplicates(entries, reader);
    let schema = entry(entries, "$schema").map(|entry| &entry.value.kind);
    let is_template = |text: &str| text.to_ascii_lowercase().contains("deploymenttemplate.json");
    if matches!(schema, Some(Kind::Text(text)) if !is_template(text)) {
        return reader.problems.push(wrong(format!("{name} is no ARM template")));
    }
    let Some(Kind::Table(declared)) = entry(entries, "parameters").map(|entry| &entry.value.kind) else {
        return reader.problems.push(wrong(format!("the ARM template {name} has no `parameters`")));
    };
    let Kind::Table(file) = &mut file.kind else { return };
    let Some(given) = file.iter_mut().find(|entry| entry.key.eq_ignore_ascii_case("parameters")) else {
        return;
    };
    let Kind::Table(given) = &mut given.value.kind else { return };
    let mut defaults = Vec::new();
    for parameter in declared.iter().filter(|p| READ.iter().any(|known| known.eq_ignore_ascii_case(&p.key))) {
        if entry(given, &parameter.key).is_some_and(is_given) {
            continue;
        }
        let Some(default) = default_of(parameter) else { continue };
        if is_expression(&default.value) {
            let reason = format!("its default in {name} is an expression, which is not worked out");
            reader.ignore(parameter.key.clone(), IgnoredKind::NotBuiltYet, reason);
            continue;
        }
        defaults.push(lifted(parameter, default));
    }
    given.retain(|entry| is_given(entry) || !defaults.iter().any(|d| d.key.eq_ignore_ascii_case(&entry.key)));
    given.extend(defaults);
}

fn entries(value: &Value) -> &[Entry] {
    if let Kind::Table(entries) = &value.kind { entries } else { &[] }
}

fn entry<'t>(entries: &'t [Entry], key: &str) -> Option<&'t Entry> {
    entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(key))
}

/// Whether the file says something of a parameter. What is not even a table is left to be complained of.
fn is_given(parameter: &Entry) -> bool {
    let Kind::Table(inside) = &parameter.value.kind else { return true };
    let value = entry(inside, "value").map(|entry| &entry.value.kind);
    entry(inside, "reference").is_some() || !matches!(value, None | Some(Kind::Null))
}

fn default_of(parameter: &Entry) -> Option<&Entry> {
    entry(entries(&parameter.value), "defaultValue").filter(|entry| !matches!(entry.value.kind, Kind::Null))
}

/// Whether it, or anything in it, is an expression.
fn is_expression(value: &Value) -> bool {
    match &value.kind {
        Kind::Text(text) => text.starts_with('[') && !text.starts_with("[[") && text.ends_with(']'),
        Kind::List(values) => values.iter().any(is_expression),
        Kind::Table(entries) => entries.iter().any(|entry| is_expression(&entry.value)),
        _ => false,
    }
}

/// The default as a parameters file would give it.
fn lifted(parameter: &Entry, default: &Entry) -> Entry {
    let mut value = default.value.clone();
    unescape(&mut value);
    let inner = Entry { key: "value".to_owned(), key_span: default.key_span.clone(), value };
    let kind = Kind::Table(vec![inner]);
    Entry { value: Value { kind, span: parameter.value.span.clone() }, ..parameter.clone() }
}

fn unescape(value: &mut Value) {
    match &mut value.kind {
        Kind::Text(text) if text.starts_with("[[") => drop(text.remove(0)),
        Kind::List(values) => values.iter_mut().for_each(unescape),
        Kind::Table(entries) => entries.iter_mut().for_each(|entry| unescape(&mut entry.value)),
        _ => {}
    }
}

fn move_value(value: &mut Value, by: usize) {
    value.span = value.span.start + by..value.span.end + by;
    match &mut value.kind {
        Kind::List(values) => values.iter_mut().for_each(|value| move_value(value, by)),
        Kind::Table(entries) => {
            for entry in entries {
                entry.key_span = entry.key_span.start + by..entry.key_span.end + by;
                move_value(&mut entry.value, by);
            }
        }
        _ => {}
    }
}

fn moved(mut problem: Problem, by: usize) -> Problem {
    let places = problem.location.iter_mut().chain(problem.related.iter_mut().map(|(at, _)| at));
    for span in places.filter_map(|at| at.span.as_mut()) {
        *span = span.start + by..span.end + by;
    }
    problem
}
