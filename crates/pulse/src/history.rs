//! What the beats of one virtual machine say of it, in the order in which they were seen: never two copies, and how long it was away. Pure.
//!
//! The rule: a later start has a greater run, and within a start each beat is greater than the last. Two copies of one machine that were
//! started from one disk have the same run and differ in the nonce; two that go on after one migration have the same nonce, and
//! say the same beats twice. Either way one beat comes that may not come after the one before.
//!
//! On failure: [`Twice`] names both beats. What is seen from one place only proves something of what reached it.

use crate::format::Beat;
use std::fmt;
use std::time::Duration;

/// A beat that can't be of the only copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twice {
    /// The beat before.
    pub before: Beat,
    /// The one that may not come after it.
    pub after: Beat,
}

impl fmt::Display for Twice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after } = self;
        write!(
            f,
            "vm-{}: beat {} of run {} ({:x}) after beat {} of run {} ({:x}): two copies ran",
            after.vm, after.beat, after.run, after.nonce, before.beat, before.run, before.nonce
        )
    }
}

impl std::error::Error for Twice {}

/// Follows one virtual machine.
#[derive(Debug, Clone, Default)]
pub struct History {
    last: Option<(Duration, Beat)>,
    longest: Duration,
}

impl History {
    /// A beat was seen at this time, on any clock that only goes forward.
    pub fn saw(&mut self, at: Duration, beat: Beat) -> Result<(), Twice> {
        if let Some((when, before)) = self.last.replace((at, beat)) {
            let next = beat.run == before.run && beat.nonce == before.nonce && beat.beat > before.beat;
            if !next && beat.run <= before.run {
                return Err(Twice { before, after: beat });
            }
            self.longest = self.longest.max(at.saturating_sub(when));
        }
        Ok(())
    }

    /// The longest time without a beat, between two.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The last beat, and when it was seen.
    pub fn last(&self) -> Option<(Duration, Beat)> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(run: u32, nonce: u64, beat: u64) -> Beat {
        Beat { vm: 1, run, nonce, beat, acknowledged: 0 }
    }

    fn seen(beats: &[Beat]) -> Result<History, Twice> {
        let mut history = History::default();
        for (at, beat) in (0..).map(Duration::from_millis).zip(beats) {
            history.saw(at, *beat)?;
        }
        Ok(history)
    }

    #[test]
    fn one_copy_beats_on_across_starts_and_lost_frames() {
        assert!(seen(&[beat(1, 7, 1), beat(1, 7, 2), beat(1, 7, 9), beat(2, 3, 1), beat(4, 5, 6)]).is_ok());
    }

    #[test]
    fn two_copies_are_seen_however_they_came_to_be() {
        // Started twice from one disk.
        assert!(seen(&[beat(1, 7, 1), beat(1, 8, 1)]).is_err());
        assert!(seen(&[beat(1, 7, 1), beat(1, 8, 2)]).is_err());
        // The old one goes on after the new one has started.
        let twice = seen(&[beat(1, 7, 5), beat(2, 8, 1), beat(1, 7, 6)]).unwrap_err();
        assert_eq!(twice.to_string(), "vm-1: beat 6 of run 1 (7) after beat 1 of run 2 (8): two copies ran");
        // Both go on after a migration.
        assert!(seen(&[beat(1, 7, 5), beat(1, 7, 5)]).is_err());
    }

    #[test]
    fn the_longest_gap_is_kept() {
        let mut history = History::default();
        for (ms, number) in [(0, 1), (50, 2), (400, 3), (450, 4)] {
            history.saw(Duration::from_millis(ms), beat(1, 1, number)).unwrap();
        }
        assert_eq!(history.longest(), Duration::from_millis(350));
        assert_eq!(history.last(), Some((Duration::from_millis(450), beat(1, 1, 4))));
    }
}
