//! The cache against a model that knows of each sector what it may hold after a power loss.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Small enough that writes meet, and that there is not always room.
const PAGES: usize = 6;
const DRIVE_SECTORS: usize = PAGES * SECTORS;
const HELD_PAGES: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Write { at: usize, len: usize, through: bool },
    Zero { at: usize, len: usize },
    Flush,
    LosePower,
}

fn op() -> impl Strategy<Value = Op> {
    let range = (0..DRIVE_SECTORS, 1..=2 * SECTORS + 3);
    let inside = |(at, len): (usize, usize)| (at, len.min(DRIVE_SECTORS - at));
    prop_oneof![
        6 => (range.clone(), any::<bool>(), any::<bool>()).prop_map(move |(range, a, b)| {
            let (at, len) = inside(range);
            Op::Write { at, len, through: a && b }
        }),
        2 => (0..DRIVE_SECTORS, 1..=DRIVE_SECTORS).prop_map(move |range| {
            let (at, len) = inside(range);
            Op::Zero { at, len }
        }),
        1 => Just(Op::Flush),
        1 => Just(Op::LosePower),
    ]
}

/// A medium, a cache before it, and what each sector was given since it was last sure to be there. Each write gives all its sectors
/// one number that no other has; zeros are 0.
struct Tested {
    cache: Cache,
    medium: Vec<u8>,
    may_be: Vec<Vec<u32>>,
    next: u32,
}

fn sector_of(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(SECTOR_BYTES / 4)
}

impl Tested {
    fn new(seed: u64) -> Self {
        let medium = vec![0; DRIVE_SECTORS * SECTOR_BYTES];
        Self { cache: Cache::new(HELD_PAGES, seed), medium, may_be: vec![vec![0]; DRIVE_SECTORS], next: 1 }
    }

    fn take(&mut self, extents: Vec<Extent>) {
        for Extent { offset_bytes, content } in extents {
            let bytes = match content {
                Content::Data(bytes) => bytes,
                Content::Zeros(len) => vec![0; len as usize],
            };
            self.medium[offset_bytes as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
    }

    fn medium_at(&self, sector: usize) -> u32 {
        number_at(&self.medium, sector)
    }

    fn do_it(&mut self, op: &Op) {
        match *op {
            Op::Write { at, len, through } => {
                let number = self.next;
                self.next += 1;
                let data = sector_of(number).repeat(len);
                let offset = (at * SECTOR_BYTES) as u64;
                if through {
                    self.cache.forget(offset, data.len() as u64);
                    self.take(vec![Extent { offset_bytes: offset, content: Content::Data(data) }]);
                } else {
                    let out = self.cache.write(offset, &data);
                    self.take(out);
                }
                for sector in &mut self.may_be[at..at + len] {
                    if through {
                        sector.clear();
                    }
                    sector.push(number);
                }
            }
            Op::Zero { at, len } => {
                let out = self.cache.zero((at * SECTOR_BYTES) as u64, (len * SECTOR_BYTES) as u64);
                self.take(out);
                self.may_be[at..at + len].iter_mut().for_each(|sector| sector.push(0));
            }
            Op::Flush => {
                let out = self.cache.flush();
                self.take(out);
                for (sector, may_be) in self.may_be.iter_mut().enumerate() {
                    let newest = *may_be.last().unwrap();
                    assert_eq!(number_at(&self.medium, sector), newest, "sector {sector} after a flush");
                    *may_be = vec![newest];
                }
            }
            Op::LosePower => {
                let loss = self.cache.lose_power();
                self.take(loss.survived);
                for (sector, may_be) in self.may_be.iter_mut().enumerate() {
                    let found = number_at(&self.medium, sector);
                    assert!(may_be.contains(&found), "sector {sector} has {found}, not one of {may_be:?}");
                    *may_be = vec![found];
                }
            }
        }
    }

    /// What a read of everything sees.
    fn check_read(&self) {
        let mut seen = self.medium.clone();
        self.cache.overlay(0, &mut seen);
        for (sector, may_be) in self.may_be.iter().enumerate() {
            assert_eq!(number_at(&seen, sector), *may_be.last().unwrap(), "sector {sector} as read");
        }
        let mut one = self.medium[SECTOR_BYTES..2 * SECTOR_BYTES].to_vec();
        self.cache.overlay(SECTOR_BYTES as u64, &mut one);
        assert_eq!(one, seen[SECTOR_BYTES..2 * SECTOR_BYTES]);
    }
}

/// The number that fills a sector wholly.
fn number_at(bytes: &[u8], sector: usize) -> u32 {
    let bytes = &bytes[sector * SECTOR_BYTES..][..SECTOR_BYTES];
    let number = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(bytes, sector_of(number), "sector {sector} is torn inside");
    number
}

proptest! {
    #[test]
    fn nothing_flushed_is_lost_and_nothing_older_comes_back(
        seed in any::<u64>(), ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut tested = Tested::new(seed);
        for op in &ops {
            tested.do_it(op);
            tested.check_read();
            prop_assert!(tested.cache.held_bytes() <= (HELD_PAGES * PAGE_BYTES) as u64);
            prop_assert_eq!(tested.cache.ages.len(), tested.cache.pages.len());
        }
    }
}

/// What the sectors of a page hold after these two writes to it and a power loss, over many seeds.
fn outcomes() -> BTreeSet<Vec<u32>> {
    let whole = Op::Write { at: 0, len: SECTORS, through: false };
    let seeds = 0..2000;
    let outcome = |seed| {
        let mut tested = Tested::new(seed);
        for op in [&whole, &whole, &Op::LosePower] {
            tested.do_it(op);
        }
        (0..SECTORS).map(|sector| tested.medium_at(sector)).collect()
    };
    seeds.map(outcome).collect()
}

#[test]
fn every_kind_of_loss_comes() {
    let outcomes = outcomes();
    for uniform in [0, 2] {
        assert!(outcomes.contains(&vec![uniform; SECTORS]), "all or nothing survives");
    }
    let torn = |outcome: &&Vec<u32>| outcome.contains(&0) && outcome.contains(&2);
    assert!(outcomes.iter().filter(torn).count() > 100, "a write is torn in many ways");
    assert!(outcomes.iter().any(|outcome| outcome.contains(&1)), "the older of two survives");
}

#[test]
fn the_same_seed_loses_the_same() {
    let loss = |seed| {
        let mut cache = Cache::new(HELD_PAGES, seed);
        let first = cache.write(0, &[7; 2 * PAGE_BYTES]);
        (first, cache.lose_power())
    };
    assert_eq!(loss(3), loss(3));
    let losses: BTreeSet<u64> = (0..50).map(|seed| loss(seed).1.lost_sectors).collect();
    assert!(losses.len() > 5, "{losses:?}");
}

#[test]
fn zeros_take_no_room_and_large_ones_go_past_the_cache() {
    let mut cache = Cache::new(HELD_PAGES, 1);
    let drive = (100 * PAGE_BYTES) as u64;
    let out = cache.zero(0, drive);
    let through = Extent { offset_bytes: 0, content: Content::Zeros(97 * PAGE_BYTES as u64) };
    assert_eq!(out, [through]);
    assert_eq!(cache.held_bytes(), (HELD_PAGES * PAGE_BYTES) as u64);
    let rest =
        Extent { offset_bytes: 97 * PAGE_BYTES as u64, content: Content::Zeros(3 * PAGE_BYTES as u64) };
    assert_eq!(cache.flush(), [rest]);
    assert_eq!(cache.flush(), []);
}
