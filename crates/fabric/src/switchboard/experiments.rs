//! Frames of the protocol that IEEE 802 leaves to local experiments, as they came from NICs: virtual machines of suites beat with them, and when and where their
//! beats were seen is what is known of them from outside.
//!
//! Invariants: what is kept has passed the NIC's cable and is carried by the port that it came to: others can hear it. It is kept in the order of its arrival,
//! and each has a number; memory is bounded by [`KEPT_MAX`], the oldest go first, and whoever reads is told of how many.
//!
//! On failure: none; a frame that holds no experiment is none.

use crate::control::{Experiment, Experiments};
use crate::frame::Frame;
use crate::ids::NicId;
use model::VlanId;
use std::collections::VecDeque;
use std::time::Duration;

/// The first of the two ethertypes for local experiments (IEEE 802-2014, 9.2.4).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// How many are kept: those of ten virtual machines that beat ten times a second, for ten minutes.
const KEPT_MAX: usize = 1 << 16;
/// How much of a frame is kept, bytes: what the shortest frame has behind its `EtherType`.
const PAYLOAD_BYTES: usize = 46;
/// How many are told at once.
pub(crate) const TOLD_MAX: usize = 2048;

#[derive(Debug, Clone, Copy)]
struct Kept {
    at: Duration,
    nic: usize,
    vlan: u16,
    payload: [u8; PAYLOAD_BYTES],
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Log {
    kept: VecDeque<Kept>,
    /// The number of the oldest that is kept.
    first: u64,
}

impl Log {
    /// A frame has come from a NIC, in a VLAN.
    pub(super) fn see(&mut self, frame: &Frame<'_>, (nic, vlan): (usize, u16), at: Duration) {
        let Some(bytes) = frame.rest().strip_prefix(&ETHERTYPE) else { return };
        let mut payload = [0; PAYLOAD_BYTES];
        payload.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(Kept { at, nic, vlan, payload });
    }

    /// Those from a number on, as many as are told at once.
    pub(super) fn since(&self, number: u64, name: impl Fn(usize) -> Option<NicId>) -> Experiments {
        let first = number.max(self.first);
        let skipped = usize::try_from(first - self.first).unwrap_or(usize::MAX);
        let told = self.kept.iter().skip(skipped).take(TOLD_MAX);
        let seen: Vec<Experiment> = told
            .filter_map(|kept| {
                Some(Experiment {
                    at_us: u64::try_from(kept.at.as_micros()).unwrap_or(u64::MAX),
                    nic: name(kept.nic)?,
                    vlan: VlanId::try_from(u64::from(kept.vlan)).ok()?,
                    payload: kept.payload.to_vec(),
                })
            })
            .collect();
        let left = self.kept.len().saturating_sub(skipped.saturating_add(TOLD_MAX));
        Experiments { first, seen, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: [u8; 2], first: u8) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend(protocol);
        bytes.extend([first; PAYLOAD_BYTES]);
        bytes
    }

    fn seen(log: &mut Log, number: usize) {
        let bytes = frame(ETHERTYPE, u8::try_from(number % 256).unwrap());
        let at = Duration::from_micros(number as u64);
        log.see(&Frame::parse(&bytes).unwrap(), (3, 8), at);
    }

    fn name(nic: usize) -> Option<NicId> {
        format!("nic{nic}").parse().ok()
    }

    #[test]
    fn they_are_told_in_their_order_a_part_at_a_time() {
        let mut log = Log::default();
        log.see(&Frame::parse(&frame([0x88, 0xb6], 1)).unwrap(), (3, 8), Duration::ZERO);
        assert_eq!(log.since(0, name), Experiments { first: 0, seen: Vec::new(), left: 0 });
        for number in 0..TOLD_MAX + 5 {
            seen(&mut log, number);
        }
        let told = log.since(0, name);
        assert_eq!((told.first, told.seen.len(), told.left), (0, TOLD_MAX, 5));
        let rest = log.since(told.first + told.seen.len() as u64, name);
        assert_eq!((rest.first, rest.seen.len(), rest.left), (TOLD_MAX as u64, 5, 0));
        assert_eq!((rest.seen[0].at_us, rest.seen[0].vlan.get()), (TOLD_MAX as u64, 8));
        assert_eq!((rest.seen[1].payload[0], rest.seen[1].payload.len()), (1, PAYLOAD_BYTES));
        assert_eq!(log.since(u64::MAX, name).seen, []);
    }

    #[test]
    fn what_is_kept_has_a_bound_and_what_is_gone_is_told() {
        let mut log = Log::default();
        for number in 0..KEPT_MAX + 3 {
            seen(&mut log, number);
        }
        assert_eq!(log.kept.len(), KEPT_MAX);
        let told = log.since(0, name);
        assert_eq!((told.first, told.seen[0].at_us), (3, 3));
    }
}
