//! Shaped and flapping cables in virtual time.

use super::tests::Recorder;
use super::*;
use crate::testing::{BROADCAST, frame, link, mac, nic, topology};

const STORAGE: Option<u16> = Some(0x62c7);

fn at(us: u64) -> Duration {
    Duration::from_micros(us)
}

struct Lab {
    board: Switchboard,
    out: Recorder,
}

impl Lab {
    /// After everybody has introduced itself, at 0; the next time is at 100 ms.
    fn new() -> Self {
        let mut lab = Self { board: Switchboard::new(&topology()).unwrap(), out: Recorder::default() };
        lab.board.tick(Duration::ZERO, &mut lab.out);
        lab.out.delivered.clear();
        lab
    }

    fn shape(&mut self, id: &str, ways: Ways, shaping: Shaping) {
        self.board.shape_link(&link(id), ways, shaping).unwrap();
    }

    /// A broadcast from a1.storage1 of so many bytes, which is how it is told from others.
    fn send(&mut self, now: Duration, bytes: usize) {
        let from = self.board.nic(&nic("a1.storage1")).unwrap();
        self.board.ingress(from, &frame(BROADCAST, mac(1), STORAGE, bytes), now, &mut self.out);
    }

    /// Payload lengths that came to b1.storage1 since the last time.
    fn at_b1(&mut self) -> Vec<usize> {
        let b1 = self.board.nic(&nic("b1.storage1")).unwrap();
        let frames = self.out.delivered.drain(..).filter(|(nic, _)| *nic == b1);
        frames.map(|(_, bytes)| bytes.len() - 18).collect()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.board.counters(Duration::ZERO).link(&link("room")).unwrap().a_to_b.dropped_frames(reason)
    }
}

#[test]
fn a_frame_arrives_when_its_latencies_are_over_and_the_board_says_when() {
    let mut lab = Lab::new();
    lab.shape("room", Ways::AToB, Shaping { latency_us: 3000, ..Shaping::default() });
    lab.shape("b1.storage1", Ways::BToA, Shaping { latency_us: 500, ..Shaping::default() });
    lab.send(at(1000), 60);
    assert_eq!(lab.board.tick(at(1000), &mut lab.out), at(4000));
    assert_eq!(lab.board.tick(at(3999), &mut lab.out), at(4000));
    assert_eq!(lab.at_b1(), [0; 0]);
    assert_eq!(lab.board.tick(at(4000), &mut lab.out), at(4500), "on to the next cable");
    assert_eq!(lab.board.tick(at(4500), &mut lab.out), at(100_000));
    assert_eq!(lab.at_b1(), [60]);
    // Called late, each cable still takes its own time and no more.
    lab.send(at(5000), 61);
    lab.board.tick(at(90_000), &mut lab.out);
    assert_eq!(lab.at_b1(), [61]);
    // The other way is not shaped.
    let from = lab.board.nic(&nic("b1.storage1")).unwrap();
    lab.board.ingress(from, &frame(BROADCAST, mac(2), STORAGE, 60), at(90_000), &mut lab.out);
    assert_eq!(lab.out.delivered.len(), 2);
}

#[test]
fn order_is_kept_with_jitter_and_when_shaping_changes_or_ends() {
    let mut lab = Lab::new();
    for (step, latency_us) in [(0, 5000), (1, 100), (2, 0)] {
        let jitter_us = latency_us / 2;
        lab.shape("room", Ways::Both, Shaping { latency_us, jitter_us, seed: 3, ..Shaping::default() });
        (0..10).for_each(|n| lab.send(at(100 * step + n), 60 + (10 * step + n) as usize));
    }
    lab.board.tick(at(20_000), &mut lab.out);
    assert_eq!(lab.at_b1(), (60..90).collect::<Vec<_>>());
    lab.send(at(20_001), 60);
    assert_eq!(lab.at_b1(), [60], "nothing is left of it");
}

#[test]
fn what_a_cable_loses_is_counted_and_lldp_is_no_exception() {
    let mut lab = Lab::new();
    lab.shape("room", Ways::Both, Shaping { loss_ppm: 1_000_000, ..Shaping::default() });
    lab.shape("b1.storage1", Ways::BToA, Shaping { loss_ppm: 1_000_000, ..Shaping::default() });
    lab.send(at(1), 60);
    assert_eq!((lab.at_b1(), lab.dropped(DropReason::Loss)), (vec![], 1));
    lab.board.tick(at(100_000), &mut lab.out);
    assert_eq!(lab.at_b1(), [0; 0], "no introduction");
    lab.shape("room", Ways::Both, Shaping { rate_bps: 1_000_000, queue_bytes: 1000, ..Shaping::default() });
    (0..20).for_each(|_| lab.send(at(100_001), 200));
    assert!(lab.dropped(DropReason::QueueFull) >= 14, "{}", lab.dropped(DropReason::QueueFull));
}

#[test]
fn what_is_on_a_cable_that_is_cut_is_lost_and_healing_ends_all() {
    let mut lab = Lab::new();
    lab.shape("room", Ways::Both, Shaping { latency_us: 1000, ..Shaping::default() });
    lab.send(at(10), 60);
    lab.board.cut_link(&link("room"), Ways::Both, &mut lab.out).unwrap();
    lab.send(at(20), 61);
    lab.board.restore_link(&link("room"), &mut lab.out).unwrap();
    lab.send(at(30), 62);
    lab.board.tick(at(5000), &mut lab.out);
    assert_eq!(
        (lab.at_b1(), lab.dropped(DropReason::Cut)),
        (vec![62], 2),
        "mended or not, what was on it is gone"
    );
    lab.send(at(5010), 63);
    lab.board.cut_link(&link("room"), Ways::AToB, &mut lab.out).unwrap();
    lab.board.tick(at(9000), &mut lab.out);
    assert_eq!((lab.at_b1(), lab.dropped(DropReason::Cut)), (vec![], 3));
    lab.board.heal(&mut lab.out);
    lab.out.delivered.clear();
    lab.send(at(9001), 64);
    assert_eq!(lab.at_b1(), [64]);
}

#[test]
fn a_cable_flaps_in_time_and_ends_up() {
    let mut lab = Lab::new();
    lab.board.advance(at(1_000), &mut lab.out);
    let flap = Flap { down_ms: 20, up_ms: 30, cycles: 2 };
    let changed = lab.board.flap_link(&link("b1.storage1"), flap, &mut lab.out).unwrap();
    assert_eq!(changed, [CarrierChange { nic: nic("b1.storage1"), carrier: false }]);
    let b1 = lab.board.nic(&nic("b1.storage1")).unwrap();
    let mut seen = Vec::new();
    for ms in 1..130u64 {
        let now = at(1000 * ms);
        assert!(lab.board.tick(now, &mut lab.out) > now);
        seen.push(lab.board.has_carrier(b1));
    }
    let up: Vec<bool> = (1..130).map(|ms| !matches!(ms, 1..=20 | 51..=70)).collect();
    assert_eq!(seen, up);
    // Ended early, it comes up and stays up; slept through, it has ended too.
    lab.board.flap_link(&link("room"), flap, &mut lab.out).unwrap();
    lab.board.restore_link(&link("room"), &mut lab.out).unwrap();
    lab.board.flap_link(&link("b1.storage1"), Flap { cycles: 10_000, ..flap }, &mut lab.out).unwrap();
    lab.board.tick(Duration::from_hours(1), &mut lab.out);
    assert!(lab.board.has_carrier(b1));
    lab.out.delivered.clear();
    lab.send(Duration::from_hours(1), 60);
    assert_eq!(lab.at_b1(), [60]);
    for wrong in [Flap { down_ms: 9, ..flap }, Flap { up_ms: 600_001, ..flap }, Flap { cycles: 0, ..flap }] {
        assert!(lab.board.flap_link(&link("room"), wrong, &mut lab.out).is_err());
    }
    let much = Shaping { latency_us: 10_000_001, ..Shaping::default() };
    assert!(lab.board.shape_link(&link("room"), Ways::Both, much).is_err());
}
