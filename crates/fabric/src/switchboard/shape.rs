//! How a cable treats frames in one direction: later, seldom lost, at a rate. Pure; time comes in from outside.
//!
//! A frame waits until those before it are out (rate), may be lost on the way (loss), and arrives after the latency and a random
//! part of the jitter, but never before the frame that was sent before it: a cable doesn't reorder.
//!
//! Invariants: the same seed, frames and times give the same fates. The queue in front of a rate is bounded; what finds it full is
//! dropped. All arithmetic is in whole nanoseconds.

use crate::counters::DropReason;
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a frame takes on a cable besides its bytes, bytes: preamble and start delimiter (8), check sequence (4), gap (12); IEEE
/// 802.3, 3.1.1 and 4.4.2.
const LINE_OVERHEAD_BYTES: u64 = 24;
/// A millionth: the unit of [`Shaping::loss_ppm`].
const PPM: u32 = 1_000_000;

/// How one direction of a cable is made worse. All zero: not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shaping {
    /// How much later each frame arrives, microseconds; at most 10 s.
    pub latency_us: u32,
    /// Up to how much later still, drawn anew for each frame, microseconds; at most 10 s.
    pub jitter_us: u32,
    /// How many of a million frames are lost, drawn for each frame; at most a million.
    pub loss_ppm: u32,
    /// Bits a second, preamble and gap included; 0: as fast as they come.
    pub rate_bps: u64,
    /// How much may wait for the rate, bytes of frames; 0: 256 KiB. A frame that finds nothing waiting is always taken.
    pub queue_bytes: u32,
    /// What every random choice comes from.
    pub seed: u64,
}

/// What waits for a rate when the shaping doesn't say, bytes.
const QUEUE_BYTES: u32 = 256 * 1024;
/// The longest latency or jitter, microseconds.
const DELAY_US_MAX: u32 = 10_000_000;

impl Shaping {
    /// Whether it changes nothing.
    pub fn is_none(&self) -> bool {
        (self.latency_us, self.jitter_us, self.loss_ppm, self.rate_bps) == (0, 0, 0, 0)
    }

    /// Whether its numbers are within their bounds.
    pub(crate) fn is_possible(&self) -> bool {
        self.latency_us <= DELAY_US_MAX && self.jitter_us <= DELAY_US_MAX && self.loss_ppm <= PPM
    }
}

/// One direction of a cable that is shaped, or was until a moment ago.
#[derive(Debug)]
pub(super) struct Shaper {
    shaping: Shaping,
    rng: Rng,
    /// When the last frame taken will be out.
    free_at: Duration,
    /// When the last frame taken arrives.
    last_arrival: Duration,
}

impl Shaper {
    /// `before`: what shaped this direction until now; its frames arrive first.
    pub(super) fn new(shaping: Shaping, before: Option<&Self>) -> Self {
        let last_arrival = before.map_or(Duration::ZERO, |before| before.last_arrival);
        Self { shaping, rng: Rng::with_seed(shaping.seed), free_at: Duration::ZERO, last_arrival }
    }

    /// Whether nothing is shaped any more, and nothing sent now could overtake what was.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        self.shaping.is_none() && self.last_arrival <= now
    }

    /// When a frame of this length, sent now, arrives; or why it doesn't.
    pub(super) fn admit(&mut self, now: Duration, wire_bytes: usize) -> Result<Duration, DropReason> {
        let Shaping { latency_us, jitter_us, loss_ppm, rate_bps, queue_bytes, .. } = self.shaping;
        let mut out_at = now;
        if rate_bps > 0 {
            let waiting = self.free_at.saturating_sub(now);
            let queue_bytes = if queue_bytes == 0 { QUEUE_BYTES } else { queue_bytes };
            let bytes_waiting = waiting.as_nanos() * u128::from(rate_bps) / 8_000_000_000;
            if !waiting.is_zero() && bytes_waiting + wire_bytes as u128 > u128::from(queue_bytes) {
                return Err(DropReason::QueueFull);
            }
            let bits = u128::from((wire_bytes as u64 + LINE_OVERHEAD_BYTES) * 8);
            let nanos = (bits * 1_000_000_000).div_ceil(u128::from(rate_bps));
            out_at = self.free_at.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.free_at = out_at;
        }
        if loss_ppm > 0 && self.rng.u32(..PPM) < loss_ppm {
            return Err(DropReason::Loss);
        }
        let jitter_ns = if jitter_us > 0 { self.rng.u64(..=u64::from(jitter_us) * 1000) } else { 0 };
        let delay = Duration::from_micros(latency_us.into()) + Duration::from_nanos(jitter_ns);
        self.last_arrival = self.last_arrival.max(out_at + delay);
        Ok(self.last_arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn latency_is_exact() {
        let mut shaper = Shaper::new(Shaping { latency_us: 3000, ..Shaping::default() }, None);
        for sent in [0, 1, 1, 500, 10_000] {
            assert_eq!(shaper.admit(at(sent), 100), Ok(at(sent + 3000)));
        }
    }

    #[test]
    fn a_rate_spaces_frames_and_its_queue_is_bounded() {
        // 976 bytes and 24 of overhead at 8 Mbit/s: 1 ms each.
        let shaping = Shaping { rate_bps: 8_000_000, queue_bytes: 3000, ..Shaping::default() };
        let mut shaper = Shaper::new(shaping, None);
        assert_eq!(shaper.admit(at(0), 976), Ok(at(1000)));
        assert_eq!(shaper.admit(at(0), 976), Ok(at(2000)));
        assert_eq!(shaper.admit(at(0), 976), Ok(at(3000)));
        assert_eq!(shaper.admit(at(0), 976), Err(DropReason::QueueFull));
        assert_eq!(shaper.admit(at(1000), 976), Ok(at(4000)), "one is out: there is room again");
        assert_eq!(shaper.admit(at(9000), 60_000), Ok(at(9000 + 60_024)), "an idle line takes any frame");
    }

    #[test]
    fn losses_are_as_many_as_asked_for_and_the_same_every_time() {
        let fates = |seed| {
            let mut shaper = Shaper::new(Shaping { loss_ppm: 20_000, seed, ..Shaping::default() }, None);
            (0..50_000).map(|frame| shaper.admit(at(frame), 100).is_err()).collect::<Vec<_>>()
        };
        let lost = fates(7).into_iter().filter(|lost| *lost).count();
        // Binomial, n = 50 000, p = 0.02: mean 1000, standard deviation 31.3; five of them.
        assert!((844..=1156).contains(&lost), "{lost}");
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
        let mut all = Shaper::new(Shaping { loss_ppm: PPM, ..Shaping::default() }, None);
        assert!((0..1000).all(|frame| all.admit(at(frame), 100) == Err(DropReason::Loss)));
    }

    #[test]
    fn what_comes_after_shaping_ended_does_not_overtake() {
        let mut slow = Shaper::new(Shaping { latency_us: 5000, ..Shaping::default() }, None);
        slow.admit(at(0), 100).unwrap();
        let mut ended = Shaper::new(Shaping::default(), Some(&slow));
        assert!(!ended.is_over(at(4999)));
        assert_eq!(ended.admit(at(10), 100), Ok(at(5000)));
        assert!(ended.is_over(at(5000)));
    }

    proptest! {
        #[test]
        fn order_is_kept_and_delay_is_within_its_bounds(
            latency_us in 0..5000u32, jitter_us in 0..5000u32, rate in prop::option::of(1_000_000..1_000_000_000u64),
            seed: u64, frames in prop::collection::vec((0..500u64, 60..9000usize), 1..60),
        ) {
            let shaping = Shaping { latency_us, jitter_us, rate_bps: rate.unwrap_or(0), seed, ..Shaping::default() };
            let mut shaper = Shaper::new(shaping, None);
            let (mut now, mut last, mut free) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
            for (gap_us, bytes) in frames {
                now += at(gap_us);
                let Ok(arrival) = shaper.admit(now, bytes) else { continue };
                prop_assert!(arrival >= last, "reordered");
                let line_ns = rate.map_or(0, |rate| ((bytes + 24) as u64 * 8_000_000_000).div_ceil(rate));
                free = free.max(now) + Duration::from_nanos(line_ns);
                let delay = arrival.saturating_sub(free);
                prop_assert!(delay >= at(latency_us.into()), "{delay:?} is too early");
                prop_assert!(arrival <= last.max(free + at(u64::from(latency_us) + u64::from(jitter_us))));
                last = arrival;
            }
        }
    }
}
