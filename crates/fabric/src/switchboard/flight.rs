//! Frames that are on a cable for a while: those of shaped cables.
//!
//! Invariants: bounded in frames and bytes, whatever is shaped; frames come out in the order of their times, and of those with one
//! time, in the order in which they went in.

use super::{Direction, Trip};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Frames on their way at most: 10 ms at 6 million a second.
const FRAMES_MAX: usize = 65_536;
/// Their bytes at most: 250 ms at 2 Gbit/s.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// A frame on a cable.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flight {
    /// When it comes out.
    pub(super) at: Duration,
    /// Which one it was to go in.
    number: u64,
    pub(super) link: usize,
    pub(super) direction: Direction,
    pub(super) trip: Trip,
    pub(super) bytes: Vec<u8>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Flights {
    heap: BinaryHeap<Reverse<Flight>>,
    bytes: usize,
    next_number: u64,
}

impl Flights {
    /// False if there is no room.
    pub(super) fn push(
        &mut self,
        at: Duration,
        link: usize,
        direction: Direction,
        trip: Trip,
        bytes: Vec<u8>,
    ) -> bool {
        if self.heap.len() >= FRAMES_MAX || self.bytes + bytes.len() > BYTES_MAX {
            return false;
        }
        self.bytes += bytes.len();
        self.heap.push(Reverse(Flight { at, number: self.next_number, link, direction, trip, bytes }));
        self.next_number += 1;
        true
    }

    /// When the next comes out.
    pub(super) fn next_at(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(flight)| flight.at)
    }

    /// The next that is out by now.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Flight> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse(flight) = self.heap.pop()?;
        self.bytes -= flight.bytes.len();
        Some(flight)
    }

    /// Takes away what is on a cable.
    pub(super) fn take_off(&mut self, link: usize) -> Vec<Flight> {
        let all = std::mem::take(&mut self.heap).into_iter().map(|Reverse(flight)| flight);
        let (gone, left): (Vec<Flight>, Vec<Flight>) = all.partition(|flight| flight.link == link);
        self.heap = left.into_iter().map(Reverse).collect();
        self.bytes -= gone.iter().map(|flight| flight.bytes.len()).sum::<usize>();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_and_again_when_they_are_out() {
        let mut flights = Flights::default();
        let push = |flights: &mut Flights, bytes: usize| {
            flights.push(Duration::from_secs(1), 0, Direction::AToB, Trip::default(), vec![0; bytes])
        };
        assert_eq!((0..FRAMES_MAX + 10).filter(|_| push(&mut flights, 60)).count(), FRAMES_MAX);
        assert!(flights.pop_due(Duration::from_millis(999)).is_none());
        assert!(flights.pop_due(Duration::from_secs(1)).is_some());
        assert!(push(&mut flights, 60) && !push(&mut flights, 60));
        assert_eq!(flights.take_off(0).len(), FRAMES_MAX);
        assert_eq!((0..100).filter(|_| push(&mut flights, 1 << 20)).count(), 64);
        assert_eq!(flights.take_off(1).len(), 0);
    }
}
