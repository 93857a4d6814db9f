//! How things are printed: sizes, tables, names, JSON. Pure.
//!
//! Invariant of the JSON: fields are added within a version, and never removed or changed in meaning.

use control::State;
use model::NodeId;
use serde::Serialize;
use std::fmt;

/// Version of the objects that are printed.
pub(crate) const VERSION: u32 = 1;

pub(crate) fn json(shown: &impl Serialize) -> String {
    // Keys are all text and nothing here fails to serialise; an empty object would still be told from an answer.
    serde_json::to_string_pretty(shown).unwrap_or_else(|_| "{}".to_owned()) + "\n"
}

pub(crate) fn name_of(state: &State, node: NodeId) -> String {
    state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.to_string())
}

pub(crate) fn rack_of(state: &State, node: Option<NodeId>) -> String {
    let zone = node.and_then(|node| state.nodes.get(&node)).and_then(|node| node.zone.as_ref());
    zone.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// Whole units, one digit behind the point.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| bytes >= 1 << shift);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(shift, unit)| {
            let tenths = bytes / ((1_u64 << shift) / 10).max(1);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        },
    )
}

/// Columns as wide as what is in them.
pub(crate) fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
