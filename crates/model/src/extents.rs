//! Which extents of a thin volume are mapped, and where in its array each stands.
//!
//! ```text
//!   users see     0 │ 1 │ 2 │ 3 │ 4 │ 5 …          an extent is as long as a slab
//!                 │           │   │
//!   the array     0 │ 4 │ 3 │ …                     places, given out one after the other, for ever
//! ```
//! Invariants: an extent that is mapped stays where it is; a table that has grown begins as it was. So how much of the array somebody has says which
//! extents that is ([`ExtentTable::first`]).
//!
//! On failure: none.

use crate::{Extent, SLAB_BYTES};
use serde::{Deserialize, Serialize};

/// The extents that are mapped, in the order of their places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExtentTable {
    runs: Vec<Extent>,
}

/// A part of what users see, in extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Its extents.
    pub extents: Extent,
    /// Where the first of them stands in the array, the others behind it; `None`: they are not mapped.
    pub place: Option<u64>,
}

impl ExtentTable {
    /// What a volume begins with: its first extent, at the array's beginning. Whoever uses a volume writes there first, and no array is empty.
    pub fn begun() -> Self {
        Self { runs: vec![Extent { first: 0, count: 1 }] }
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many extents are mapped: so many places of the array are taken.
    pub fn count(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.count))
    }

    /// How much of the array that is, bytes.
    pub fn array_bytes(&self) -> u64 {
        self.count().saturating_mul(SLAB_BYTES)
    }

    /// Runs in the order of their places, each with its first place.
    pub fn runs(&self) -> impl Iterator<Item = (u64, Extent)> {
        self.runs.iter().scan(0_u64, |next, run| {
            let place = *next;
            *next = next.saturating_add(run.count);
            Some((place, *run))
        })
    }

    /// The last of them: what was mapped latest.
    pub fn last_run(&self) -> Option<Extent> {
        self.runs.last().copied()
    }

    /// Every extent, in the order of their places.
    pub fn extents(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|run| run.first..run.end())
    }

    /// Where an extent stands; `None`: it is not mapped.
    pub fn place_of(&self, extent: u64) -> Option<u64> {
        let has = |run: &Extent| run.first <= extent && extent < run.end();
        self.runs().find(|(_, run)| has(run)).map(|(place, run)| place + (extent - run.first))
    }

    /// Maps an extent at the next place.
    pub fn push(&mut self, extent: u64) {
        match self.runs.last_mut() {
            Some(last) if last.end() == extent => last.count += 1,
            _ => self.runs.push(Extent { first: extent, count: 1 }),
        }
    }

    /// What of it stands in so many bytes of the array: the table as it was when the array had those.
    #[must_use]
    pub fn first(&self, array_bytes: u64) -> Self {
        let places = array_bytes / SLAB_BYTES;
        let within = |(place, run): (u64, Extent)| {
            let count = run.count.min(places.saturating_sub(place));
            (count > 0).then_some(Extent { count, ..run })
        };
        Self { runs: self.runs().filter_map(within).collect() }
    }

    /// All of a volume of this size in the order in which users see it, mapped or not.
    pub fn segments(&self, size_bytes: u64) -> Vec<Segment> {
        let end = size_bytes.div_ceil(SLAB_BYTES);
        let mut mapped: Vec<(u64, Extent)> = self.runs().collect();
        mapped.sort_unstable_by_key(|(_, run)| run.first);
        let (mut segments, mut next) = (Vec::new(), 0);
        let hole = |from: u64, to: u64| {
            let extents = Extent { first: from, count: to.saturating_sub(from) };
            (extents.count > 0).then_some(Segment { extents, place: None })
        };
        for (place, run) in mapped {
            segments.extend(hole(next, run.first.min(end)));
            let count = run.count.min(end.saturating_sub(run.first));
            let extents = Extent { count, ..run };
            segments.extend((count > 0).then_some(Segment { extents, place: Some(place) }));
            next = next.max(run.end());
        }
        segments.extend(hole(next, end));
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(extents: &[u64]) -> ExtentTable {
        let mut table = ExtentTable::default();
        for extent in extents {
            table.push(*extent);
        }
        table
    }

    #[test]
    fn extents_stand_in_the_order_in_which_they_were_mapped() {
        let table = table(&[0, 4, 5, 3]);
        assert_eq!(
            [0, 4, 5, 3, 1].map(|extent| table.place_of(extent)),
            [Some(0), Some(1), Some(2), Some(3), None]
        );
        assert_eq!((table.count(), table.array_bytes()), (4, 4 * SLAB_BYTES));
        assert_eq!(table.extents().collect::<Vec<_>>(), [0, 4, 5, 3]);
        assert_eq!(table.last_run(), Some(Extent { first: 3, count: 1 }));
    }

    #[test]
    fn a_table_begins_as_it_was() {
        let whole = table(&[0, 4, 5, 3]);
        assert_eq!(whole.first(2 * SLAB_BYTES), table(&[0, 4]));
        assert_eq!(whole.first(9 * SLAB_BYTES), whole);
        assert!(whole.first(SLAB_BYTES - 1).is_empty());
    }

    #[test]
    fn segments_cover_the_volume_once() {
        let of = |first, count, place| Segment { extents: Extent { first, count }, place };
        let table = table(&[0, 4, 5, 3]);
        let whole = [of(0, 1, Some(0)), of(1, 2, None), of(3, 1, Some(3)), of(4, 2, Some(1)), of(6, 1, None)];
        assert_eq!(table.segments(6 * SLAB_BYTES + 4096), whole);
        assert_eq!(table.segments(SLAB_BYTES * 5)[3], of(4, 1, Some(1)));
        assert_eq!(ExtentTable::default().segments(1), [of(0, 1, None)]);
    }
}
