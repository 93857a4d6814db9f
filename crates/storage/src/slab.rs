//! Which slabs of a drive belong to which leg.
//!
//! Purpose: the ledger does not give slabs out yet; until it does, each drive has a [`SlabMap`] that its node keeps. It is pure and
//! gives the same answer to the same question, so that the ledger can take it over as it is.
//!
//! Invariants: no slab belongs to two legs; a leg's slabs keep their order, so that its content stays where it is when it grows;
//! what is asked for twice is there once.
//!
//! On failure: [`SlabError`], and nothing has changed.

use crate::header::{SLABS_OFFSET_BYTES, is_slab_size};
use control::target::LegOf;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What slabs are cut to unless asked otherwise, bytes: a drive of 8 TB has some 120,000.
pub const SLAB_BYTES_DEFAULT: u64 = 64 << 20;

/// Slabs in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Run {
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// A piece of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// From the drive's start.
    pub offset_bytes: u64,
    /// Its length.
    pub len_bytes: u64,
}

/// A drive's slabs can't be given out so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlabError {
    /// No such size.
    #[error("slabs can't have {0} bytes: a power of two from 1 MiB to 1 GiB is wanted")]
    Size(u64),
    /// The drive is full.
    #[error("{wanted} slabs are wanted, and {free} are free")]
    Full {
        /// More than there are.
        wanted: u32,
        /// Free ones.
        free: u32,
    },
    /// Legs only grow.
    #[error("the leg has {has} slabs, more than the {wanted} that are wanted")]
    Shrinks {
        /// So many it has.
        has: u32,
        /// So many were asked for.
        wanted: u32,
    },
}

/// Which slabs of a drive belong to which leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlabMap {
    slab_bytes: u64,
    slabs: u32,
    #[serde(with = "pairs")]
    legs: BTreeMap<LegOf, Vec<Run>>,
}

/// JSON has only texts as keys.
mod pairs {
    use super::{BTreeMap, LegOf, Run};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        legs: &BTreeMap<LegOf, Vec<Run>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        legs.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<LegOf, Vec<Run>>, D::Error> {
        Vec::deserialize(from).map(|pairs| pairs.into_iter().collect())
    }
}

impl SlabMap {
    /// Of a drive of that size, all of it free.
    pub fn new(drive_bytes: u64, slab_bytes: u64) -> Result<Self, SlabError> {
        if !is_slab_size(slab_bytes) {
            return Err(SlabError::Size(slab_bytes));
        }
        let slabs = drive_bytes.saturating_sub(SLABS_OFFSET_BYTES) / slab_bytes;
        // A drive with more would have 4 EiB.
        let slabs = u32::try_from(slabs).unwrap_or(u32::MAX);
        Ok(Self { slab_bytes, slabs, legs: BTreeMap::new() })
    }

    /// How many slabs belong to nobody.
    pub fn free(&self) -> u32 {
        self.slabs - self.legs.values().map(|runs| count(runs)).sum::<u32>()
    }

    /// Whose slabs there are.
    pub fn legs(&self) -> impl Iterator<Item = LegOf> {
        self.legs.keys().copied()
    }

    /// Gives a leg slabs until it has room for that many bytes, the first free ones first.
    pub fn reserve(&mut self, leg: LegOf, bytes: u64) -> Result<(), SlabError> {
        let has = self.legs.get(&leg).map_or(0, |runs| count(runs));
        let wanted = u32::try_from(bytes.div_ceil(self.slab_bytes)).unwrap_or(u32::MAX);
        let mut more = wanted.checked_sub(has).ok_or(SlabError::Shrinks { has, wanted })?;
        if more > self.free() {
            return Err(SlabError::Full { wanted: more, free: self.free() });
        }
        let gaps = self.gaps();
        let runs = self.legs.entry(leg).or_default();
        for gap in gaps {
            let count = gap.count.min(more);
            match runs.last_mut() {
                _ if count == 0 => break,
                Some(last) if last.first + last.count == gap.first => last.count += count,
                _ => runs.push(Run { first: gap.first, count }),
            }
            more -= count;
        }
        Ok(())
    }

    /// Takes a leg's slabs back. One that has none is none the worse.
    pub fn release(&mut self, leg: LegOf) {
        self.legs.remove(&leg);
    }

    /// Where a leg's slabs are, in its order; `None` if it has none.
    pub fn extents(&self, leg: LegOf) -> Option<Vec<Extent>> {
        let place = |run: &Run| Extent {
            offset_bytes: SLABS_OFFSET_BYTES + u64::from(run.first) * self.slab_bytes,
            len_bytes: u64::from(run.count) * self.slab_bytes,
        };
        self.legs.get(&leg).map(|runs| runs.iter().map(place).collect())
    }

    /// Slabs that belong to nobody, in rows.
    fn gaps(&self) -> Vec<Run> {
        let mut taken: Vec<Run> = self.legs.values().flatten().copied().collect();
        taken.sort_unstable();
        taken.push(Run { first: self.slabs, count: 0 });
        let mut gaps = Vec::new();
        let mut next = 0;
        for run in taken {
            if run.first > next {
                gaps.push(Run { first: next, count: run.first - next });
            }
            next = run.first + run.count;
        }
        gaps
    }
}

fn count(runs: &[Run]) -> u32 {
    runs.iter().map(|run| run.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LegId, VolumeId};
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn leg(number: u32) -> LegOf {
        (VolumeId(number), LegId(1))
    }

    #[test]
    fn a_leg_grows_where_it_is_and_its_slabs_come_back() {
        let mut map = SlabMap::new(11 * MIB, MIB).unwrap();
        assert_eq!(map.free(), 10);
        map.reserve(leg(1), 3 * MIB).unwrap();
        map.reserve(leg(2), 1).unwrap();
        map.reserve(leg(1), 4 * MIB).unwrap();
        let place = |offset, len| Extent { offset_bytes: offset * MIB, len_bytes: len * MIB };
        assert_eq!(map.extents(leg(1)), Some(vec![place(1, 3), place(5, 1)]));
        assert_eq!(map.reserve(leg(3), 6 * MIB), Err(SlabError::Full { wanted: 6, free: 5 }));
        assert_eq!(map.reserve(leg(1), MIB), Err(SlabError::Shrinks { has: 4, wanted: 1 }));
        map.release(leg(2));
        map.reserve(leg(3), 6 * MIB).unwrap();
        assert_eq!(map.extents(leg(3)), Some(vec![place(4, 1), place(6, 5)]));
        assert_eq!(map.extents(leg(2)), None);
    }

    #[test]
    fn a_map_is_kept_as_text() {
        let mut map = SlabMap::new(1 << 40, SLAB_BYTES_DEFAULT).unwrap();
        map.reserve(leg(1), 1 << 30).unwrap();
        let text = serde_json::to_string(&map).unwrap();
        assert_eq!(serde_json::from_str::<SlabMap>(&text).unwrap(), map);
        assert_eq!(SlabMap::new(1 << 40, 12345), Err(SlabError::Size(12345)));
    }

    proptest! {
        #[test]
        fn no_slab_has_two_owners_and_what_a_leg_has_stays(
            steps in proptest::collection::vec((0u32..6, proptest::option::of(0u64..20)), 0..60)
        ) {
            let mut map = SlabMap::new(33 * MIB, MIB).unwrap();
            for (number, slabs) in steps {
                let before = map.clone();
                match slabs {
                    Some(slabs) => {
                        let done = map.reserve(leg(number), slabs * MIB);
                        if done.is_err() {
                            prop_assert_eq!(&map, &before);
                        } else {
                            let has: u64 = map.extents(leg(number)).unwrap().iter().map(|e| e.len_bytes).sum();
                            prop_assert_eq!(has, slabs * MIB);
                        }
                    }
                    None => map.release(leg(number)),
                }
                let mut owners = [0; 33];
                for leg in map.legs() {
                    for extent in map.extents(leg).unwrap() {
                        let first = extent.offset_bytes / MIB;
                        for slab in first..first + extent.len_bytes / MIB {
                            prop_assert!(slab >= 1);
                            owners[usize::try_from(slab).unwrap()] += 1;
                        }
                    }
                }
                prop_assert!(owners.iter().all(|count| *count <= 1));
                prop_assert_eq!(map.free() as usize, 32 - owners.iter().sum::<usize>());
                for other in before.legs().filter(|other| *other != leg(number)) {
                    prop_assert_eq!(map.extents(other), before.extents(other));
                }
                if let (Some(old), Some(new)) = (before.extents(leg(number)), map.extents(leg(number))) {
                    let bytes = |extents: &[Extent]| -> Vec<u64> {
                        extents.iter().flat_map(|e| (0..e.len_bytes / MIB).map(|i| e.offset_bytes + i * MIB)).collect()
                    };
                    prop_assert!(bytes(&new).starts_with(&bytes(&old)));
                }
            }
        }
    }
}
