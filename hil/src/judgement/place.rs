//! Where a leg's data is on its drive. Pure.

use api::LegPlace;
use model::SLAB_BYTES;

/// Something on a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// From the drive's beginning, bytes.
    pub offset_bytes: u64,
    /// How much.
    pub len_bytes: u64,
}

/// What was asked for is not on the leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the leg has no {} bytes at {}: it has {data_bytes} bytes of data, in pieces of {pieces_bytes}",
    wanted.len_bytes,
    wanted.offset_bytes
)]
pub struct Outside {
    /// What was asked for, from the data's beginning.
    wanted: Range,
    data_bytes: u64,
    pieces_bytes: u64,
}

/// Where so much of what users of a volume see from some place on is, in order. It is in several ranges where it crosses the end of a piece, and nowhere where
/// nothing of a thin volume was mapped: there it is zeros. Of a thin volume it must be of one extent.
pub fn ranges(place: &LegPlace, at_bytes: u64, len_bytes: u64) -> Result<Vec<Range>, Outside> {
    let Some(table) = &place.mapped else { return on_array(place, at_bytes, len_bytes) };
    let (extent, from) = (at_bytes / SLAB_BYTES, at_bytes % SLAB_BYTES);
    if from.checked_add(len_bytes).is_none_or(|end| end > SLAB_BYTES) {
        let wanted = Range { offset_bytes: at_bytes, len_bytes };
        return Err(Outside { wanted, data_bytes: place.data_bytes, pieces_bytes: 0 });
    }
    let found = table.place_of(extent);
    found.map_or(Ok(Vec::new()), |found| on_array(place, found * SLAB_BYTES + from, len_bytes))
}

/// Where so much of a leg's data from some place on is.
fn on_array(place: &LegPlace, at_bytes: u64, len_bytes: u64) -> Result<Vec<Range>, Outside> {
    let pieces_bytes = place.pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.len_bytes));
    let wanted = Range { offset_bytes: at_bytes, len_bytes };
    let outside = Outside { wanted, data_bytes: place.data_bytes, pieces_bytes };
    let in_data = at_bytes.checked_add(len_bytes).is_some_and(|end| end <= place.data_bytes);
    let on_leg = place.data_offset_bytes.checked_add(at_bytes).filter(|_| in_data);
    let mut skip = on_leg.ok_or(outside)?;
    let mut left = len_bytes;
    let mut found = Vec::new();
    for piece in &place.pieces {
        let here = piece.len_bytes.saturating_sub(skip).min(left);
        if here > 0 {
            let offset_bytes = piece.offset_bytes.checked_add(skip).ok_or(outside)?;
            found.push(Range { offset_bytes, len_bytes: here });
            left -= here;
        }
        skip = skip.saturating_sub(piece.len_bytes);
        if left == 0 {
            return Ok(found);
        }
    }
    Err(outside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Piece;
    use model::{LegId, VolumeId};
    use proptest::prelude::*;

    fn place(pieces: &[(u64, u64)], data_offset_bytes: u64, data_bytes: u64) -> LegPlace {
        let pieces = pieces
            .iter()
            .map(|(offset_bytes, len_bytes)| Piece { offset_bytes: *offset_bytes, len_bytes: *len_bytes });
        LegPlace {
            volume: VolumeId(1),
            leg: LegId(1),
            serial: "S1".parse().unwrap(),
            pieces: pieces.collect(),
            data_offset_bytes,
            data_bytes,
            mapped: None,
        }
    }

    /// Its second extent stands behind its first, and its third does not stand anywhere.
    #[test]
    fn what_was_mapped_is_where_the_table_says_and_the_rest_is_nowhere() {
        let mut table = model::ExtentTable::begun();
        table.push(7);
        let leg = LegPlace { mapped: Some(table), ..place(&[(0, 4 * SLAB_BYTES)], 1 << 20, 2 * SLAB_BYTES) };
        let at = |at| ranges(&leg, at, 4096).map(|found| found.first().map(|range| range.offset_bytes));
        assert_eq!(at(0), Ok(Some(1 << 20)));
        assert_eq!(at(7 * SLAB_BYTES + 4096), Ok(Some((1 << 20) + SLAB_BYTES + 4096)));
        assert_eq!(at(3 * SLAB_BYTES), Ok(None));
        assert!(at(SLAB_BYTES - 1).is_err(), "of two extents");
    }

    #[test]
    fn data_is_behind_the_metadata_and_goes_on_in_the_next_piece() {
        let leg = place(&[(1000, 100), (5000, 50), (2000, 60)], 30, 170);
        let at = |at, len| {
            ranges(&leg, at, len)
                .map(|found| found.iter().map(|r| (r.offset_bytes, r.len_bytes)).collect::<Vec<_>>())
        };
        assert_eq!(at(0, 10), Ok(vec![(1030, 10)]));
        assert_eq!(at(60, 20), Ok(vec![(1090, 10), (5000, 10)]));
        assert_eq!(at(65, 70), Ok(vec![(1095, 5), (5000, 50), (2000, 15)]));
        assert_eq!(at(160, 10), Ok(vec![(2040, 10)]));
        assert!(at(165, 10).is_err() && at(u64::MAX, 10).is_err());
        let short = place(&[(0, 100)], 30, 100);
        let error = ranges(&short, 60, 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the leg has no 20 bytes at 60: it has 100 bytes of data, in pieces of 100"
        );
    }

    proptest! {
        #[test]
        fn each_byte_is_where_it_is_counted_to(
            lens in prop::collection::vec(0u64..40, 1..6), data_offset in 0u64..40, at in 0u64..200, len in 1u64..50,
        ) {
            let pieces: Vec<(u64, u64)> = lens.iter().enumerate().map(|(number, len)| (1000 * number as u64, *len)).collect();
            let bytes: Vec<u64> = pieces.iter().flat_map(|(offset, len)| *offset..offset + len).collect();
            let data_bytes = (bytes.len() as u64).saturating_sub(data_offset);
            let found = ranges(&place(&pieces, data_offset, data_bytes), at, len);
            let from = usize::try_from(data_offset + at).unwrap();
            let wanted = bytes.get(from..from + usize::try_from(len).unwrap());
            match (found, wanted) {
                (Ok(found), Some(wanted)) => {
                    let got: Vec<u64> = found.iter().flat_map(|r| r.offset_bytes..r.offset_bytes + r.len_bytes).collect();
                    prop_assert_eq!(&got[..], wanted);
                }
                (found, wanted) => prop_assert!(found.is_err() && wanted.is_none()),
            }
        }
    }
}
