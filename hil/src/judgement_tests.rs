//! The judge over files as drives are: with a lost write, a ghost, and a write in flight.

use super::*;
use api::Piece;
use fastrand::Rng;
use model::VolumeId;
use std::collections::BTreeMap;
use workload::Version;
use workload::block::encode;

const BLOCKS: u32 = 200;
const BLOCK: u64 = BLOCK_BYTES as u64;

struct Story {
    dir: tempfile::TempDir,
    records: Vec<Record>,
    /// What each block holds at the end.
    last: BTreeMap<BlockNumber, Version>,
    rng: Rng,
}

/// Two legs at different places, the second in three pieces of odd order, one of them ending within a block.
fn places() -> [LegPlace; 2] {
    let place = |number, pieces: &[(u64, u64)], data_offset_bytes| LegPlace {
        volume: VolumeId(1),
        leg: LegId(number),
        serial: format!("S{number}").parse().unwrap(),
        pieces: pieces
            .iter()
            .map(|(offset_bytes, len_bytes)| Piece { offset_bytes: *offset_bytes, len_bytes: *len_bytes })
            .collect(),
        data_offset_bytes,
        data_bytes: u64::from(BLOCKS) * BLOCK,
        mapped: None,
    };
    let half = 100 * BLOCK + 512;
    [
        place(1, &[(1 << 20, 300 * BLOCK)], 64 * BLOCK),
        place(2, &[(3 << 20, half), (1 << 20, 50 * BLOCK), (5 << 20, 200 * BLOCK)], 8192),
    ]
}

impl Story {
    /// Two runs of writes, all of them on both legs.
    fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for leg in ["0", "1"] {
            File::create(dir.path().join(leg)).unwrap().set_len(8 << 20).unwrap();
        }
        let mut story = Self { dir, records: Vec::new(), last: BTreeMap::new(), rng: Rng::with_seed(seed) };
        for run in 1..=2 {
            story.record(Event::Begun { run, blocks: BLOCKS });
            for sequence in 1..=300 {
                let (block, version) = (story.rng.u32(..BLOCKS), Version { run, sequence });
                story.put(&[0, 1], block, version);
                story.record(Event::Acknowledged { block, version });
            }
        }
        story
    }

    fn record(&mut self, event: Event) {
        self.records.push(Record { event, took_us: 1, ended_ms: 1 });
    }

    fn legs(&self) -> Vec<LegFile> {
        let leg = |(number, place): (usize, LegPlace)| LegFile {
            leg: place.leg,
            node: "a1".parse().unwrap(),
            place,
            file: self.dir.path().join(number.to_string()),
        };
        places().into_iter().enumerate().map(leg).collect()
    }

    /// Writes a block to legs, where they have it.
    fn put(&mut self, legs: &[usize], block: BlockNumber, version: Version) {
        let all = self.legs();
        for leg in legs {
            let LegFile { place, file, .. } = &all[*leg];
            let file = File::options().write(true).open(file).unwrap();
            let content = encode(block, version);
            let mut rest = &content[..];
            for range in ranges(place, u64::from(block) * BLOCK, BLOCK).unwrap() {
                let (part, behind) = rest.split_at(usize::try_from(range.len_bytes).unwrap());
                file.write_all_at(part, range.offset_bytes).unwrap();
                rest = behind;
            }
        }
        self.last.insert(block, version);
    }

    /// A block of which the last run had acknowledged a write.
    fn some_block(&mut self) -> BlockNumber {
        let written: Vec<u32> =
            self.last.iter().filter(|(_, version)| version.run == 2).map(|(block, _)| *block).collect();
        written[self.rng.usize(..written.len())]
    }

    fn judged(&self) -> Judgement {
        judge(&self.records, &self.legs()).unwrap()
    }
}

#[test]
fn what_was_written_to_both_legs_is_good() {
    let story = Story::new(1);
    let judged = story.judged();
    assert!(judged.is_good(), "{judged:?}");
    assert_eq!((judged.acknowledged, judged.legs.len(), judged.in_flight), (600, 2, 0));
    assert_eq!(judged.legs[0].promised as usize, story.last.len());
}

#[test]
fn a_lost_write_on_one_leg_is_found_there_and_the_legs_differ() {
    for seed in 0..20 {
        let mut story = Story::new(seed);
        let block = story.some_block();
        story.put(&[1], block, Version { run: 1, sequence: 1 });
        let judged = story.judged();
        assert!(!judged.is_good());
        assert_eq!((judged.legs[0].wrong, judged.legs[1].wrong), (0, 1), "seed {seed}");
        assert_eq!((judged.unequal, judged.unequal_blocks.as_slice()), (1, &[block][..]));
    }
}

#[test]
fn only_what_the_last_run_had_in_flight_may_differ() {
    let mut story = Story::new(3);
    let block = story.some_block();
    story.put(&[1], block, Version { run: 2, sequence: 301 });
    let judged = story.judged();
    assert!(judged.is_good() && judged.in_flight == 1, "{judged:?}");
    // The same of the run before: its legs were made equal since.
    let empty = (0..BLOCKS).find(|block| !story.last.contains_key(block)).unwrap();
    story.put(&[0], empty, Version { run: 1, sequence: 301 });
    let judged = story.judged();
    assert_eq!(
        (judged.unequal, judged.unequal_blocks.as_slice(), judged.is_good()),
        (1, &[empty][..], false)
    );
    assert!(judged.legs.iter().all(Verdict::is_good), "each on its own is good");
}

#[test]
fn no_leg_and_no_write_show_nothing() {
    let story = Story::new(1);
    assert!(!judge(&story.records, &[]).unwrap().is_good());
    assert!(!judge(&[], &story.legs()).unwrap().is_good());
}

#[test]
fn what_can_t_be_read_is_said() {
    let story = Story::new(1);
    let mut legs = story.legs();
    legs[0].place.data_bytes -= BLOCK;
    assert!(matches!(judge(&story.records, &legs), Err(JudgeError::Outside { leg: LegId(1), .. })));
    File::options().write(true).open(&legs[1].file).unwrap().set_len(4 << 20).unwrap();
    assert!(
        matches!(judge(&story.records, &legs[1..]), Err(JudgeError::Read { path, .. }) if path == legs[1].file)
    );
}

#[test]
fn records_of_all_nodes_are_read_and_what_is_none_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let record = Record { event: Event::Begun { run: 1, blocks: 4 }, took_us: 1, ended_ms: 2 };
    std::fs::write(path("a1"), record.encode()).unwrap();
    std::fs::write(path("b1"), [record.encode(), record.encode()].concat()).unwrap();
    assert_eq!(records(&[path("a1"), path("none"), path("b1")], 0).unwrap().len(), 3);
    let later = Record { event: Event::Begun { run: 2, blocks: 4 }, took_us: 1, ended_ms: 2 };
    std::fs::write(path("b1"), [record.encode(), later.encode()].concat()).unwrap();
    assert_eq!(records(&[path("a1"), path("b1")], 2).unwrap(), [later], "what was written to another volume");
    std::fs::write(path("a1"), &record.encode()[..20]).unwrap();
    assert!(matches!(records(&[path("a1")], 0), Err(JudgeError::Records { left_bytes: 20, .. })));
}
