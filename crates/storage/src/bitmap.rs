//! One bit per chunk of a volume: what may differ between legs, or what a leg has missed.
//!
//! The form is md's, as it stands on a leg: least significant bit first, no header (`drivers/md/md-bitmap.c`, measured). Bits behind
//! the last chunk are zero here, whatever the drive says.

use std::fmt;
use std::ops::Range;

/// How many bits one page of md's bitmap has: what it writes at once.
pub const BITS_PER_PAGE: u64 = 4096 * 8;

/// One bit per chunk.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bitmap {
    chunks: u64,
    bytes: Vec<u8>,
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {}", self.runs().collect::<Vec<_>>(), self.chunks)
    }
}

fn bytes_for(chunks: u64) -> usize {
    usize::try_from(chunks.div_ceil(8)).unwrap_or(usize::MAX)
}

impl Bitmap {
    /// Of so many chunks, none marked.
    pub fn none(chunks: u64) -> Self {
        Self { chunks, bytes: vec![0; bytes_for(chunks)] }
    }

    /// Of so many chunks, each marked: what is said where nothing can be read.
    pub fn all(chunks: u64) -> Self {
        Self { chunks, bytes: vec![0xff; bytes_for(chunks)] }.clean()
    }

    /// Of so many chunks, the first so many marked.
    pub fn first(chunks: u64, marked: u64) -> Self {
        let mut map = Self::none(chunks);
        for (at, byte) in (0..).zip(&mut map.bytes) {
            let bits = marked.min(chunks).saturating_sub(8 * at).min(8);
            *byte = u8::try_from((1u16 << bits) - 1).unwrap_or(u8::MAX);
        }
        map
    }

    /// As it was read from a leg; what is longer is cut off. `None` if it is too short.
    pub fn from_bytes(chunks: u64, bytes: &[u8]) -> Option<Self> {
        bytes.get(..bytes_for(chunks)).map(|bytes| Self { chunks, bytes: bytes.to_vec() }.clean())
    }

    fn clean(mut self) -> Self {
        if let Some(last) = self.bytes.last_mut()
            && !self.chunks.is_multiple_of(8)
        {
            *last &= (1 << (self.chunks % 8)) - 1;
        }
        self
    }

    /// As it is written to a leg.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many chunks the volume has.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// How many are marked.
    pub fn count(&self) -> u64 {
        self.bytes.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Whether a chunk is marked.
    pub fn has(&self, chunk: u64) -> bool {
        usize::try_from(chunk / 8)
            .is_ok_and(|at| self.bytes.get(at).is_some_and(|byte| byte >> (chunk % 8) & 1 == 1))
    }

    /// Marks a chunk; one that the volume has not is left alone.
    pub fn mark(&mut self, chunk: u64) {
        if let Some(byte) = usize::try_from(chunk / 8).ok().and_then(|at| self.bytes.get_mut(at))
            && chunk < self.chunks
        {
            *byte |= 1 << (chunk % 8);
        }
    }

    /// Marks what another has marked. One of another length marks everything: it speaks of another volume.
    pub fn add(&mut self, other: &Self) {
        if self.chunks != other.chunks {
            *self = Self::all(self.chunks);
        }
        self.bytes.iter_mut().zip(&other.bytes).for_each(|(mine, other)| *mine |= other);
    }

    /// Whether all that another has marked is marked here.
    pub fn covers(&self, other: &Self) -> bool {
        self.chunks == other.chunks
            && self.bytes.iter().zip(&other.bytes).all(|(mine, other)| other & !mine == 0)
    }

    /// With at least one mark in each page of md's bitmap, so that md writes every page.
    #[must_use]
    pub fn touching_every_page(mut self) -> Self {
        for page in 0..self.chunks.div_ceil(BITS_PER_PAGE) {
            let bits = page * BITS_PER_PAGE..((page + 1) * BITS_PER_PAGE).min(self.chunks);
            if !bits.clone().any(|bit| self.has(bit)) {
                self.mark(bits.start);
            }
        }
        self
    }

    /// Marked chunks, in rows.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = (next..self.chunks).find(|chunk| self.has(*chunk))?;
            let end = (start..self.chunks).find(|chunk| !self.has(*chunk)).unwrap_or(self.chunks);
            next = end;
            Some(start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_marked_is_what_is_told(chunks in 1u64..300, marks in proptest::collection::vec(0u64..320, 0..40)) {
            let mut map = Bitmap::none(chunks);
            for mark in &marks {
                map.mark(*mark);
            }
            let told: Vec<u64> = map.runs().flatten().collect();
            let mut wanted: Vec<u64> = marks.into_iter().filter(|mark| *mark < chunks).collect();
            wanted.sort_unstable();
            wanted.dedup();
            prop_assert_eq!(map.count(), wanted.len() as u64);
            prop_assert_eq!(told, wanted);
            prop_assert_eq!(Bitmap::from_bytes(chunks, map.as_bytes()), Some(map.clone()));
            prop_assert!(Bitmap::all(chunks).covers(&map));
            prop_assert_eq!(Bitmap::all(chunks).count(), chunks);
            prop_assert_eq!(Bitmap::first(chunks, chunks + 3), Bitmap::all(chunks));
            let first: Vec<u64> = Bitmap::first(chunks, chunks / 2).runs().flatten().collect();
            prop_assert_eq!(first, (0..chunks / 2).collect::<Vec<_>>());
        }

        #[test]
        fn a_union_covers_both(chunks in 1u64..100, one: u64, other: u64) {
            let map = |bits: u64| {
                let mut map = Bitmap::none(chunks);
                (0..64).filter(|bit| bits >> bit & 1 == 1).for_each(|bit| map.mark(bit));
                map
            };
            let mut union = map(one);
            union.add(&map(other));
            prop_assert!(union.covers(&map(one)) && union.covers(&map(other)));
            prop_assert_eq!(union, map(one | other));
        }

        #[test]
        fn no_bytes_panic_the_reader(chunks in 0u64..1000, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(map) = Bitmap::from_bytes(chunks, &bytes) {
                prop_assert!(map.count() <= chunks);
            }
        }
    }

    #[test]
    fn one_of_another_volume_marks_everything() {
        let mut map = Bitmap::none(9);
        map.add(&Bitmap::none(10));
        assert_eq!(map, Bitmap::all(9));
    }

    #[test]
    fn every_page_is_touched_with_one_mark_at_most() {
        let mut map = Bitmap::none(2 * BITS_PER_PAGE + 5);
        map.mark(BITS_PER_PAGE + 7);
        let map = map.touching_every_page();
        assert_eq!(
            map.runs().collect::<Vec<_>>(),
            [0..1, BITS_PER_PAGE + 7..BITS_PER_PAGE + 8, 2 * BITS_PER_PAGE..2 * BITS_PER_PAGE + 1]
        );
    }
}
