//! Whether a drive stalls: its oldest request is older than a path may stall (design notes, rule 3).
//!
//! Purpose: from what the kernel counts ([`Activity`]), looked at several times a second, [`Stall::look`] says it.
//!
//! Invariants: nobody is accused wrongly. If something was in flight at every look and nothing has ended between the first and the last, then
//! what was in flight at the first is so still, and as old as the time between. One request that hangs while others end is not seen: that
//! shows at its owner, as a path that is given up. A node that stands still itself looks seldom, and a few looks prove nothing.
//!
//! On failure: a drive that can't be looked at, or counts anew, begins anew here.

use crate::moment::Moment;
use std::time::Duration;

/// How many looks in a row it takes.
pub const LOOKS_MIN: u32 = 6;

/// What the kernel counts of a drive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Activity {
    /// Requests that it has and has not answered.
    pub in_flight: u64,
    /// How many have ended since the drive came.
    pub ended: u64,
}

/// One drive, as it was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Stall {
    /// Since when nothing has ended while something was in flight, how much had ended then, and in how many looks.
    since: Option<(Moment, u64, u32)>,
}

impl Stall {
    /// A look at it; `None`: it can't be looked at. Whether its oldest request is older than `bound`.
    pub fn look(&mut self, now: Moment, seen: Option<Activity>, bound: Duration) -> bool {
        let Some(Activity { ended, .. }) = seen.filter(|seen| seen.in_flight > 0) else {
            self.since = None;
            return false;
        };
        let (since, then, looks) =
            self.since.filter(|(_, then, _)| *then == ended).unwrap_or((now, ended, 0));
        self.since = Some((since, then, looks.saturating_add(1)));
        looks >= LOOKS_MIN && now >= since.after(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(2);

    /// At which of these looks, one every 250 ms, it stalls first.
    fn stalls_at(looks: impl IntoIterator<Item = Option<(u64, u64)>>) -> Option<usize> {
        let mut stall = Stall::default();
        let activity =
            |look: Option<(u64, u64)>| look.map(|(in_flight, ended)| Activity { in_flight, ended });
        looks.into_iter().enumerate().find_map(|(at, look)| {
            stall.look(Moment(1_000 + at as u64 * 250), activity(look), BOUND).then_some(at)
        })
    }

    #[test]
    fn a_drive_stalls_when_nothing_has_ended_for_so_long_while_something_was_in_flight() {
        assert_eq!(stalls_at([Some((3, 70)); 20]), Some(8), "two seconds after the first look");
        let idle = [Some((0, 70)); 20];
        assert_eq!(stalls_at(idle), None);
        let slow = (0..40).map(|at| Some((5, at / 7)));
        assert_eq!(stalls_at(slow), None, "something ends every 1.75 s");
        let idle_between = (0..40).map(|at| Some((u64::from(at % 8 != 7), 70)));
        assert_eq!(stalls_at(idle_between), None, "another request each time, though none was seen to end");
        let away = (0..40).map(|at| (at % 8 != 7).then_some((1, 70)));
        assert_eq!(stalls_at(away), None);
        let again = (0..20).map(|at| Some((1, if at < 4 { 900 } else { 3 })));
        assert_eq!(stalls_at(again), Some(12), "it counts anew");
    }

    #[test]
    fn a_node_that_stands_still_accuses_nobody() {
        let mut stall = Stall::default();
        let seen = Some(Activity { in_flight: 1, ended: 70 });
        assert!(!stall.look(Moment(1_000), seen, BOUND));
        assert!(!stall.look(Moment(60_000), seen, BOUND), "it may have slept as long");
        assert!((1..u64::from(LOOKS_MIN) - 1).all(|at| !stall.look(Moment(60_000 + at), seen, BOUND)));
        assert!(stall.look(Moment(60_100), seen, BOUND));
    }
}
