//! The maps of what stale legs have missed, as they stand on every leg that is in sync (design notes, rules 7 and 8).
//!
//! Purpose: md forgets what a stale leg has missed when an array starts anew, so we keep it. [`MapTable`] is what stands on a leg;
//! [`prepare`] computes what an assembly makes durable before its array starts.
//!
//! ```text
//!  every leg's bitmap ──OR──► union ──► onto every leg; made equal by it
//!                               │
//!  every leg's table ───OR──► map of each stale leg ──OR──► the new table, onto every leg, under the next sequence
//! ```
//! There are two places for tables on a leg; a new one goes where the newest is not, so that one is always whole.
//!
//! Invariants: what can't be read marks everything; a table with a lower sequence than the ledger's can't be read; a map only
//! grows until its leg is in sync again, and is dropped with the first table that is written after.
//!
//! On failure: bytes that are no table are [`None`].

use crate::bitmap::Bitmap;
use crate::checksum::{self, CHECKSUM_BYTES, Reader};
use crate::leg::{Geometry, MAPS_MAX, padded};
use model::{LegId, MapSequence};
use std::collections::{BTreeMap, BTreeSet};

const MAGIC: &[u8; 8] = b"TWINMAPS";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 4096;

/// All maps of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapTable {
    /// As the ledger counts them.
    pub sequence: MapSequence,
    /// Counts the tables that were written onto this leg: of two with the same sequence the later is the one.
    pub written: u32,
    /// What each stale leg has missed.
    pub maps: BTreeMap<LegId, Bitmap>,
}

impl MapTable {
    /// As it stands on a leg: at most [`Geometry::table_bytes`]. `None` if there are more maps than a table has room for.
    pub fn encode(&self, geometry: &Geometry) -> Option<Vec<u8>> {
        let count = u16::try_from(self.maps.len()).ok().filter(|count| u64::from(*count) <= MAPS_MAX)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.0.to_le_bytes());
        bytes.extend_from_slice(&self.written.to_le_bytes());
        bytes.extend_from_slice(&geometry.chunks().to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend(self.maps.keys().flat_map(|leg| leg.0.to_le_bytes()));
        bytes.resize(HEAD_BYTES, 0);
        bytes.extend(self.maps.values().flat_map(|map| padded(geometry, map)));
        let sum = sum(&bytes);
        bytes[HEAD_BYTES - CHECKSUM_BYTES..HEAD_BYTES].copy_from_slice(&sum);
        Some(bytes)
    }

    /// Read back from a table's place.
    pub fn decode(geometry: &Geometry, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        (reader.bytes(MAGIC.len())? == MAGIC && reader.u32()? == VERSION).then_some(())?;
        let (sequence, written, chunks) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let count = reader.u16()?;
        (chunks == geometry.chunks() && u64::from(count) <= MAPS_MAX).then_some(())?;
        let bitmap_bytes = usize::try_from(geometry.bitmap_bytes()).ok()?;
        let bytes = bytes.get(..HEAD_BYTES + usize::from(count) * bitmap_bytes)?;
        (bytes[HEAD_BYTES - CHECKSUM_BYTES..HEAD_BYTES] == sum(bytes)).then_some(())?;
        let mut bodies = Reader(&bytes[HEAD_BYTES..]);
        let mut maps = BTreeMap::new();
        for _ in 0..count {
            maps.insert(LegId(reader.u16()?), Bitmap::from_bytes(chunks, bodies.bytes(bitmap_bytes)?)?);
        }
        Some(Self { sequence: MapSequence(sequence), written, maps })
    }
}

/// Over everything but its own place.
fn sum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut covered = bytes.to_vec();
    covered[HEAD_BYTES - CHECKSUM_BYTES..HEAD_BYTES].fill(0);
    checksum::of(&covered)
}

/// The newest of a leg's two tables, and the place (0 or 1) that the next one goes to.
pub fn newest(places: [Option<MapTable>; 2]) -> (Option<MapTable>, usize) {
    let order = |table: &MapTable| (table.sequence, table.written);
    match places {
        [Some(first), Some(second)] if order(&second) > order(&first) => (Some(second), 0),
        [Some(first), _] => (Some(first), 1),
        [None, second] => (second, 0),
    }
}

/// What was read from a leg. `None`: it can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegMaps {
    /// md's bitmap.
    pub bitmap: Option<Bitmap>,
    /// The newest table.
    pub table: Option<MapTable>,
}

/// What an assembly makes durable before its array starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Where legs may differ. Goes onto each as md's bitmap.
    pub union: Bitmap,
    /// Goes onto each.
    pub maps: BTreeMap<LegId, Bitmap>,
}

/// Computes it. `everything` is what there is to be marked. `known` is the sequence that the ledger knows to be durable; `stale` are the legs that maps are kept for.
pub fn prepare(
    everything: &Bitmap,
    legs: &BTreeMap<LegId, LegMaps>,
    known: MapSequence,
    stale: &BTreeSet<LegId>,
) -> Prepared {
    let mut union = Bitmap::none(everything.chunks());
    for leg in legs.values() {
        union.add(leg.bitmap.as_ref().unwrap_or(everything));
    }
    let missed = |leg: &LegId| {
        let mut map = missed(everything, legs.values(), known, *leg);
        map.add(&union);
        (*leg, map)
    };
    Prepared { maps: stale.iter().map(missed).collect(), union }
}

/// What a leg had missed when these tables were written. One that is not in them was in sync then, and has missed what bitmaps
/// say; where there is no table to be had, it has missed everything.
pub fn missed<'a>(
    everything: &Bitmap,
    legs: impl Iterator<Item = &'a LegMaps>,
    known: MapSequence,
    leg: LegId,
) -> Bitmap {
    let tables = legs.filter_map(|leg| leg.table.as_ref()).filter(|table| table.sequence >= known);
    let mut found = None;
    for table in tables {
        let map = found.get_or_insert_with(|| Bitmap::none(everything.chunks()));
        if let Some(missed) = table.maps.get(&leg) {
            map.add(missed);
        }
    }
    found.unwrap_or_else(|| everything.clone())
}

#[cfg(test)]
#[path = "maps_tests.rs"]
mod tests;
