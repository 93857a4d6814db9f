//! JSON with comments, as ARM files are written, into the tree.
//!
//! On failure: one [`Problem`] with the place. A text that just stops (a truncated file) is told from one that is
//! wrong in the middle, and then the place is the end.

use crate::Problem;
use crate::secrets::is_secret_key;
use crate::tree::{Entry, Kind, Span, Value};
use jsonc_parser::ast::Value as Json;
use jsonc_parser::common::{Range, Ranged};
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use model::Location;

/// What Azure's own tools accept: JSON and comments.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

pub(crate) fn parse(text: &str) -> Result<Value, Box<Problem>> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &OPTIONS);
    match parsed.map(|result| result.value) {
        Ok(Some(value)) => Ok(convert(&value)),
        Ok(None) => Err(Box::new(Problem::new("the file is empty", None))),
        Err(error) => Err(Box::new(syntax(text, error.kind(), error.range()))),
    }
}

fn syntax(text: &str, kind: &ParseErrorKind, range: Range) -> Problem {
    let end = text.trim_end().len();
    let unclosed = match kind {
        ParseErrorKind::UnterminatedObject => Some("this object is not closed"),
        ParseErrorKind::UnterminatedArray => Some("this list is not closed"),
        ParseErrorKind::UnterminatedCommentBlock => Some("this comment is not closed"),
        _ => None,
    };
    if unclosed.is_none() && range.end.max(range.start) < end {
        let message = format!("not valid JSON: {}", lower_first(&kind.to_string()));
        return Problem::new(message, Some(whole_file(range.start..range.end)));
    }
    let last = text[..end].char_indices().next_back().map_or(0..0, |(start, _)| start..end);
    let mut problem = Problem::new("the file ends in the middle of a value", Some(whole_file(last)))
        .help("the file looks cut off: get the whole of it, or close what is open");
    if let Some(unclosed) = unclosed {
        let opening = range.start..(range.start + 1).min(text.len());
        problem.related.push((whole_file(opening), unclosed.to_owned()));
    }
    problem
}

fn whole_file(span: Span) -> Location {
    Location { path: String::new(), span: Some(span) }
}

fn lower_first(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

fn convert(json: &Json<'_>) -> Value {
    let kind = match json {
        Json::NullKeyword(_) => Kind::Null,
        Json::BooleanLit(literal) => Kind::Bool(literal.value),
        Json::NumberLit(literal) => Kind::Number(literal.value.to_owned()),
        Json::StringLit(literal) => Kind::Text(literal.value.clone().into_owned()),
        Json::Array(array) => Kind::List(array.elements.iter().map(convert).collect()),
        Json::Object(object) => Kind::Table(
            object
                .properties
                .iter()
                .map(|property| {
                    let key = property.name.as_str().to_owned();
                    let name = property.name.range();
                    let value = if is_secret_key(&key) {
                        Value { kind: Kind::Withheld, span: name.start..name.end }
                    } else {
                        convert(&property.value)
                    };
                    Entry { key, key_span: name.start..name.end, value }
                })
                .collect(),
        ),
    };
    let range = json.range();
    Value { kind, span: range.start..range.end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_off_file_is_called_so_and_a_wrong_one_is_shown_its_place() {
        for cut in
            ["{", "{\"a\"", "{\"a\":", "{\"a\": \"b", "{\"a\": [1,", "{\"a\": [1\n", "{\"a\": {}", "{ /* x"]
        {
            let problem = parse(cut).unwrap_err();
            assert_eq!(problem.message, "the file ends in the middle of a value", "{cut}");
            let span = problem.location.unwrap().span.unwrap();
            assert_eq!(span.end, cut.trim_end().len(), "{cut}");
        }
        let problem = parse("{\"a\": 1 \"b\": 2}").unwrap_err();
        assert_eq!(problem.message, "not valid JSON: expected comma");
        assert_eq!(problem.location.unwrap().span, Some(7..7));
        assert_eq!(parse(" // nothing\n").unwrap_err().message, "the file is empty");
    }

    #[test]
    fn what_is_under_a_secret_key_is_not_in_the_tree() {
        let tree = parse(r#"{"a": {"myPassword": {"hunter1": "hunter2"}, "b": "seen"}}"#).unwrap();
        let said = format!("{tree:?}");
        assert!(said.contains("seen") && !said.contains("hunter"), "{said}");
    }
}
