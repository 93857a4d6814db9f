//! Tables read back, and what is prepared from them: a small world of writes, crashes and legs that come and go, in which no write
//! that a leg has missed may be missing in its map.

use super::*;
use crate::leg::Sizes;
use proptest::prelude::*;

fn geometry(chunks: u64) -> Geometry {
    Geometry::new(Sizes { data_bytes: chunks << 20, room_bytes: chunks << 20, chunk_bytes: 1 << 20 }).unwrap()
}

fn bitmap(chunks: u64, bits: u64) -> Bitmap {
    let mut map = Bitmap::none(chunks);
    (0..64).filter(|bit| bits >> bit & 1 == 1).for_each(|bit| map.mark(bit));
    map
}

proptest! {
    #[test]
    fn a_table_is_read_back(
        chunks in 1u64..70_000, sequence: u32, written: u32,
        maps in proptest::collection::btree_map(any::<u16>(), any::<u64>(), 0..=7)
    ) {
        let maps = maps.into_iter().map(|(leg, bits)| (LegId(leg), bitmap(chunks, bits))).collect();
        let table = MapTable { sequence: MapSequence(sequence), written, maps };
        let bytes = table.encode(&geometry(chunks)).unwrap();
        prop_assert!(bytes.len() as u64 <= geometry(chunks).table_bytes());
        prop_assert!(bytes.len().is_multiple_of(4096));
        prop_assert_eq!(MapTable::decode(&geometry(chunks), &bytes), Some(table));
        prop_assert_eq!(MapTable::decode(&geometry(chunks + 8), &bytes), None);
    }

    #[test]
    fn no_bit_of_a_table_can_fall_over_unseen(at in 0usize..8192 * 8) {
        let maps = BTreeMap::from([(LegId(2), bitmap(40, 0x55))]);
        let mut bytes = MapTable { sequence: MapSequence(4), written: 1, maps }.encode(&geometry(40)).unwrap();
        bytes[at / 8] ^= 1 << (at % 8);
        prop_assert_eq!(MapTable::decode(&geometry(40), &bytes), None);
    }

    #[test]
    fn no_bytes_panic_the_reader(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000), count: u16) {
        if bytes.len() > 40 {
            bytes[..8].copy_from_slice(MAGIC);
            bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            bytes[20..28].copy_from_slice(&40u64.to_le_bytes());
            bytes[28..30].copy_from_slice(&count.to_le_bytes());
        }
        prop_assert_eq!(MapTable::decode(&geometry(40), &bytes), None);
    }

    /// The newest table is never the one that is written over.
    #[test]
    fn a_torn_table_leaves_the_one_before(tears in proptest::collection::vec(any::<bool>(), 1..20)) {
        let mut places = [None, None];
        let mut durable = None;
        for (written, torn) in (1..).zip(tears) {
            let (found, place) = newest(places.clone());
            prop_assert_eq!(found, durable.clone());
            let table = MapTable { sequence: MapSequence(1), written, maps: BTreeMap::new() };
            places[place] = (!torn).then(|| table.clone());
            if !torn {
                durable = Some(table);
            }
        }
    }
}

/// A leg of the small world: one bit of data a chunk is enough, the number of the last write.
#[derive(Debug, Clone)]
struct Leg {
    data: [u32; 8],
    /// md's bitmap as it is on disk.
    bitmap: Bitmap,
    table: Option<MapTable>,
    unreadable: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// To every leg in the set.
    Write(u64),
    /// A write that a crash leaves on some legs only; then assembly.
    Torn(u64, u8),
    /// A leg leaves the set.
    Lose(u8),
    /// A leg comes back: everything that its map has is copied.
    Rebuild(u8),
    /// The array starts anew; the map of some leg can't be read.
    Restart(Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..8).prop_map(Step::Write),
        2 => (0u64..8, any::<u8>()).prop_map(|(chunk, legs)| Step::Torn(chunk, legs)),
        1 => (0u8..3).prop_map(Step::Lose),
        1 => (0u8..3).prop_map(Step::Rebuild),
        1 => proptest::option::of(0u8..3).prop_map(Step::Restart),
    ]
}

#[derive(Debug)]
struct World {
    legs: BTreeMap<LegId, Leg>,
    in_sync: BTreeSet<LegId>,
    sequence: MapSequence,
    written: u32,
    count: u32,
}

impl World {
    fn new() -> Self {
        let leg = Leg { data: [0; 8], bitmap: Bitmap::none(8), table: None, unreadable: false };
        let legs: BTreeMap<LegId, Leg> = (0..3).map(|id| (LegId(id), leg.clone())).collect();
        Self { in_sync: legs.keys().copied().collect(), legs, sequence: MapSequence(0), written: 0, count: 0 }
    }

    fn read(&self) -> BTreeMap<LegId, LegMaps> {
        let read = |id: &LegId| {
            let leg = &self.legs[id];
            let bitmap = (!leg.unreadable).then(|| leg.bitmap.clone());
            (*id, LegMaps { bitmap, table: leg.table.clone().filter(|_| !leg.unreadable) })
        };
        self.in_sync.iter().map(read).collect()
    }

    fn write(&mut self, chunk: u64, only: impl Fn(LegId) -> bool) {
        self.count += 1;
        for id in &self.in_sync {
            let leg = self.legs.get_mut(id).unwrap();
            // md: the bit is on every leg before the write it covers.
            leg.bitmap.mark(chunk);
            if only(*id) {
                leg.data[usize::try_from(chunk).unwrap()] = self.count;
            }
        }
    }

    fn assemble(&mut self) {
        let stale: BTreeSet<LegId> =
            self.legs.keys().copied().filter(|leg| !self.in_sync.contains(leg)).collect();
        let prepared = prepare(&Bitmap::all(8), &self.read(), self.sequence, &stale);
        (self.sequence, self.written) = (self.sequence.next(), self.written + 1);
        let source = self.legs[self.in_sync.first().unwrap()].data;
        for id in &self.in_sync {
            let leg = self.legs.get_mut(id).unwrap();
            leg.unreadable = false;
            leg.table = Some(MapTable {
                sequence: self.sequence,
                written: self.written,
                maps: prepared.maps.clone(),
            });
            for chunk in prepared.union.runs().flatten() {
                leg.data[usize::try_from(chunk).unwrap()] = source[usize::try_from(chunk).unwrap()];
            }
            // md forgets what it loads.
            leg.bitmap = Bitmap::none(8);
        }
    }

    fn rebuild(&mut self, id: LegId) {
        let mut map = missed(&Bitmap::all(8), self.read().values(), self.sequence, id);
        for leg in self.in_sync.iter().chain([&id]) {
            map.add(&self.legs[leg].bitmap);
        }
        let source = self.legs[self.in_sync.first().unwrap()].clone();
        let leg = self.legs.get_mut(&id).unwrap();
        for chunk in map.runs().flatten() {
            leg.data[usize::try_from(chunk).unwrap()] = source.data[usize::try_from(chunk).unwrap()];
        }
        (leg.bitmap, leg.table) = (map, source.table);
        self.in_sync.insert(id);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(chunk) => {
                self.write(chunk, |_| true);
                if self.in_sync.len() == self.legs.len() {
                    // With every leg in sync md clears bits some seconds later: at once is the hardest.
                    self.legs.values_mut().for_each(|leg| leg.bitmap = Bitmap::none(8));
                }
            }
            Step::Torn(chunk, legs) => {
                self.write(chunk, |leg| legs >> leg.0 & 1 == 1);
                self.assemble();
            }
            Step::Lose(leg) if self.in_sync.len() > 1 => drop(self.in_sync.remove(&LegId(leg.into()))),
            Step::Rebuild(leg) if !self.in_sync.contains(&LegId(leg.into())) => {
                self.rebuild(LegId(leg.into()));
            }
            Step::Lose(_) | Step::Rebuild(_) => {}
            Step::Restart(unreadable) => {
                if let Some(leg) = unreadable.and_then(|leg| self.legs.get_mut(&LegId(leg.into()))) {
                    leg.unreadable = true;
                }
                self.assemble();
            }
        }
    }
}

proptest! {
    #[test]
    fn legs_in_sync_are_equal_after_every_step(steps in proptest::collection::vec(step(), 0..40)) {
        let mut world = World::new();
        world.assemble();
        for step in steps {
            world.take(step);
            let data: BTreeSet<[u32; 8]> = world.in_sync.iter().map(|leg| world.legs[leg].data).collect();
            prop_assert_eq!(data.len(), 1, "after {:?}: {:#?}", step, world);
        }
    }
}

#[test]
fn a_table_that_is_too_old_marks_everything() {
    let legs = |sequence| {
        let table = MapTable { sequence: MapSequence(sequence), written: 1, maps: BTreeMap::new() };
        BTreeMap::from([(LegId(1), LegMaps { bitmap: Some(Bitmap::none(9)), table: Some(table) })])
    };
    let stale = BTreeSet::from([LegId(2)]);
    let map =
        |sequence| prepare(&Bitmap::all(9), &legs(sequence), MapSequence(3), &stale).maps[&LegId(2)].clone();
    assert_eq!(map(2), Bitmap::all(9));
    assert_eq!(map(3), Bitmap::none(9));
    assert_eq!(map(4), Bitmap::none(9));
}

#[test]
fn a_bitmap_that_cannot_be_read_marks_everything() {
    let legs = BTreeMap::from([(LegId(1), LegMaps { bitmap: None, table: None })]);
    let prepared = prepare(&Bitmap::all(9), &legs, MapSequence(0), &BTreeSet::from([LegId(2)]));
    assert_eq!(prepared.union, Bitmap::all(9));
    assert_eq!(prepared.maps[&LegId(2)], Bitmap::all(9));
}
