//! TOML into the tree.
//!
//! On failure: one [`Problem`] with the place, in the TOML parser's words; they don't repeat the text.

use crate::Problem;
use crate::secrets::is_secret_key;
use crate::tree::{Entry, Kind, Value};
use model::Location;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(crate) fn parse(text: &str) -> Result<Value, Box<Problem>> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map(|span| Location { path: String::new(), span: Some(span) });
        Box::new(Problem::new(format!("not valid TOML: {}", error.message()), at))
    })?;
    Ok(Value { span: 0..0, kind: Kind::Table(entries(table.get_ref())) })
}

/// The parser sorts keys by name; here they are put back in the order of the file.
fn entries(table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| {
            let name = key.get_ref().to_string();
            let value = if is_secret_key(&name) {
                Value { kind: Kind::Withheld, span: key.span() }
            } else {
                convert(value)
            };
            Entry { key: name, key_span: key.span(), value }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

fn convert(value: &Spanned<DeValue<'_>>) -> Value {
    let kind = match value.get_ref() {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(integer) => Kind::Number(
            i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| integer.as_str().to_owned(), |number| number.to_string()),
        ),
        DeValue::Float(float) => Kind::Number(float.as_str().to_owned()),
        DeValue::Boolean(value) => Kind::Bool(*value),
        DeValue::Datetime(_) => Kind::Date,
        DeValue::Array(values) => Kind::List(values.iter().map(convert).collect()),
        DeValue::Table(table) => Kind::Table(entries(table)),
    };
    Value { kind, span: value.span() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_a_secret_key_is_not_in_the_tree() {
        let tree = parse("[a]\nb = \"seen\"\n[a.password]\nhunter1 = \"hunter2\"").unwrap();
        let said = format!("{tree:?}");
        assert!(said.contains("seen") && !said.contains("hunter"), "{said}");
    }

    #[test]
    fn keys_are_in_the_order_of_the_file() {
        let tree = parse("b = 1\na = 0x1F\n[d]\n[c]").unwrap();
        let Kind::Table(entries) = tree.kind else { panic!("a table") };
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["b", "a", "d", "c"]);
        assert!(matches!(&entries[1].value.kind, Kind::Number(digits) if digits == "31"));
    }
}
