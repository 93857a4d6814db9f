//! What the guest writes is what `workload` reads, and nothing that is not whole is taken for something.

use proptest::prelude::*;
use pulse::choose::Chooser;
use pulse::format::{
    self, BLOCK_BYTES, Beat, FRAME_BYTES, Params, SECTOR_BYTES, Said, Stop, checksum, decode_run, encode_run,
    fill_block,
};
use pulse::{ImageError, image, records};
use workload::record::Event;
use workload::{Version, block};

const PARAMS: Params = Params {
    vm: 7,
    blocks_max: 100,
    warm_blocks: 10,
    beat_ms: 50,
    flush_every: 9,
    writes_per_beat: 1,
    in_flight: 8,
    warm_percent: 30,
    seed: 5,
};

fn said() -> impl Strategy<Value = Said> {
    let start = any::<(u32, u32, u32, u64, u32)>();
    let acknowledged = any::<(u32, u32, u64, u32, u32, u32)>();
    let failed = any::<(u32, u32, u64, u32, u8, u32)>();
    let stops = [
        Stop::Params,
        Stop::Run,
        Stop::NoDisk,
        Stop::Small,
        Stop::RunWrite,
        Stop::Fault,
        Stop::Panic,
        Stop::PowerButton,
    ];
    prop_oneof![
        start.prop_map(|(vm, run, blocks, nonce, ms)| Said::Started { vm, run, blocks, nonce, ms }),
        acknowledged.prop_map(|(vm, run, sequence, block, took_us, ms)| Said::Acknowledged {
            vm,
            run,
            sequence,
            block,
            took_us,
            ms
        }),
        any::<(u32, u32, u64, u32, u32)>().prop_map(|(vm, run, up_to, took_us, ms)| Said::Flushed {
            vm,
            run,
            up_to,
            took_us,
            ms
        }),
        failed.prop_map(|(vm, run, sequence, block, status, ms)| Said::Failed {
            vm,
            run,
            sequence,
            block,
            status,
            ms
        }),
        any::<(u32, u32, u64, u32)>().prop_map(|(vm, run, beat, ms)| Said::Beat { vm, run, beat, ms }),
        (any::<u32>(), prop::sample::select(stops.to_vec())).prop_map(|(vm, why)| Said::Stopped { vm, why }),
    ]
}

fn beat() -> impl Strategy<Value = Beat> {
    any::<(u32, u32, u64, u64, u64)>().prop_map(|(vm, run, nonce, beat, acknowledged)| Beat {
        vm,
        run,
        nonce,
        beat,
        acknowledged,
    })
}

proptest! {
    #[test]
    fn a_block_is_the_one_that_workload_writes(number: u32, run: u32, sequence: u64) {
        let mut own = [0; BLOCK_BYTES];
        fill_block(&mut own, number, run, sequence);
        let version = Version { run, sequence };
        prop_assert!(own == block::encode(number, version));
    }

    #[test]
    fn lines_come_back_and_one_wrong_byte_is_seen(said in said(), at in 0usize..128, wrong: u8) {
        let line = said.line();
        let line = line.as_bytes().strip_suffix(b"\n").unwrap();
        prop_assert_eq!(Said::parse(line), Some(said));
        let mut bad = line.to_vec();
        let at = at % bad.len();
        if bad[at] != wrong {
            bad[at] = wrong;
            prop_assert_eq!(Said::parse(&bad), None);
        }
        prop_assert_eq!(Said::parse(&line[..at]), None);
    }

    #[test]
    fn anything_can_be_a_line_or_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Said::parse(&bytes), None);
        prop_assert_eq!(Beat::of_frame(&bytes), None);
    }

    #[test]
    fn frames_come_back_tagged_or_not_and_one_wrong_bit_is_seen(beat in beat(), bit in 0..40 * 8usize) {
        let mut frame = beat.frame([2, 0, 0, 0, 0, 1]);
        prop_assert_eq!(Beat::of_frame(&frame), Some(beat));
        let tagged = [&frame[..12], &[0x81, 0, 0, 8], &frame[12..]].concat();
        prop_assert_eq!(Beat::of_frame(&tagged), Some(beat));
        frame[14 + bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Beat::of_frame(&frame), None);
    }

    #[test]
    fn parameters_and_runs_come_back_and_one_wrong_bit_is_seen(
        numbers: (u32, u32, u32, u16, u16, u8, u8, u8, u64), bit in 0..36 * 8usize, run: u32,
    ) {
        let (vm, blocks_max, warm_blocks, beat_ms, flush_every, writes_per_beat, in_flight, warm_percent, seed) =
            numbers;
        let params = Params {
            vm, blocks_max, warm_blocks, beat_ms, flush_every, writes_per_beat, in_flight, warm_percent, seed,
        };
        let mut sector = params.encode();
        prop_assert_eq!(Params::decode(&sector), Some(params));
        sector[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Params::decode(&sector), None);
        let mut sector = encode_run(run);
        prop_assert_eq!(decode_run(&sector), Some(run));
        sector[bit % 96 / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(decode_run(&sector), None);
    }

    #[test]
    fn no_block_is_chosen_that_is_being_written(
        seed: u64, blocks in 0u32..20, warm_blocks in 0u32..30, warm_percent in 0u8..=100,
        ends in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let mut chooser = Chooser::new(seed, blocks, warm_blocks, warm_percent);
        let mut open = Vec::new();
        for end in ends {
            if end && !open.is_empty() {
                open.remove(0);
            } else if let Some(block) = chooser.next(|block| !open.contains(&block)) {
                prop_assert!(block < blocks && !open.contains(&block));
                open.push(block);
            }
        }
    }
}

#[test]
fn the_checksum_is_that_of_the_records() {
    assert_eq!(checksum(&[b"1234", b"56789"]), 0xcbf4_3926);
}

#[test]
fn warm_blocks_get_their_share_and_cold_ones_all_get_some() {
    let mut chooser = Chooser::new(1, 100, 10, 70);
    let mut written = [0; 100];
    for _ in 0..10_000 {
        written[chooser.next(|_| true).unwrap() as usize] += 1;
    }
    let warm: i32 = written[..10].iter().sum();
    assert!((6500..7500).contains(&warm), "{warm}");
    assert!(written.iter().all(|count| *count > 0));
}

#[test]
fn the_image_is_a_few_kilobytes_and_says_who_it_is() {
    let made = image(&PARAMS).unwrap();
    assert!(made.len() <= 16 << 10, "{}", made.len());
    assert_eq!(made[510..512], [0x55, 0xaa]);
    let sector = |number: usize| -> &[u8; SECTOR_BYTES] { made.as_chunks().0.get(number).unwrap() };
    assert_eq!(Params::decode(sector(1)), Some(PARAMS));
    assert_eq!(decode_run(sector(2)), Some(0));
    assert_eq!(image(&Params { beat_ms: 0, ..PARAMS }), Err(ImageError::NoPause));
    assert_eq!(image(&Params { in_flight: 0, ..PARAMS }), Err(ImageError::NoWrites));
    assert_eq!(image(&Params { writes_per_beat: 0, ..PARAMS }), Err(ImageError::NoWrites));
    assert_eq!(FRAME_BYTES, 60);
    assert_eq!(format::ETHERTYPE, 0x88b5);
}

#[test]
fn records_are_those_of_one_machine_and_pass_over_what_is_cut_off() {
    let acknowledged = Said::Acknowledged { vm: 7, run: 2, sequence: 3, block: 4, took_us: 5, ms: 6 }.line();
    let other = Said::Beat { vm: 8, run: 2, beat: 3, ms: 6 }.line();
    let whole = [&b"SeaBIOS\r\n"[..], other.as_bytes(), acknowledged.as_bytes()].concat();
    // The machine was killed in the middle of a line, and started again.
    let console = [&whole[..], &acknowledged.as_bytes()[..9], acknowledged.as_bytes()].concat();
    let (found, said) = records(&console, 7);
    assert_eq!((found.len(), said.len()), (2, 2));
    let version = Version { run: 2, sequence: 3 };
    assert_eq!(found[0].event, Event::Acknowledged { block: 4, version });
    assert_eq!((found[0].took_us, found[0].ended_ms), (5, 6));
}
