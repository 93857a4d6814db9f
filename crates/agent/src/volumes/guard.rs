//! Users whose lease ends while the agent does nothing: stopped, short of memory, hung in a call.
//!
//! Purpose: that two copies of a virtual machine never run. An agent that lives ends its users a second before their lease is over, and one that was started again half a second
//! ([`super::left_users`]); one that hangs ends nobody, and whoever is over it gives it more time than a lease has. So this is not the agent: process 1 of a lab's node
//! runs it, elsewhere a service of its own (`twinrackd --guard-users`).
//!
//! Invariants: nobody is ended whose lease a living agent would still go by: it has ended its users before. It goes by the note of the lease alone ([`LeaseNote`]), read twice: what is
//! read while it is written may be neither the old one nor the new one.
//!
//! On failure: it is tried again until nobody is left who could use a volume, or hear of what it did.

use super::lease_note::{self, LeaseNote};
use super::openers;
use super::place::engine_of_nobody;
use crate::clock;
use control::Moment;
use control::member::Timing;
use model::BootId;
use std::thread::sleep;
use std::time::Duration;
use storage::kernel::StepError;

/// Between two looks at a note that ends soon.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two looks at any other.
const LOOK_SELDOM: Duration = Duration::from_millis(500);

/// Guards for as long as the machine is up.
pub(crate) fn guard(boot: BootId) -> ! {
    let before = Timing::default().holder.stop_left_before;
    let mut seen = Notes::default();
    loop {
        let end = LeaseNote::open(lease_note::FILE.as_ref(), boot).map_or(Moment(0), |note| note.end());
        let now = Moment(clock::uptime_ms());
        if seen.is_over(now.after(before), end) {
            match end_all() {
                Ok(0) => seen.ended = end,
                Ok(left) => eprintln!("twinrackd: {left} users have not ended whose lease is over"),
                Err(error) => {
                    eprintln!("twinrackd: can't see who has volumes open: {}", crate::chain(&error));
                }
            }
        }
        sleep(seen.rest(now.after(before), end));
    }
}

/// Ends everybody who has a volume open, but for agents; how many are left who may go on. Those that wait because the agent had them wait could not even be killed.
fn end_all() -> Result<usize, StepError> {
    let engine = engine_of_nobody()?;
    if let Err(error) = engine.let_users_go_on() {
        eprintln!("twinrackd: users may wait yet: {}", crate::chain(&error));
    }
    let mut left = 0;
    for volume in engine.open_volumes()? {
        left += openers::end(&engine.users_devices(volume)?);
    }
    Ok(left)
}

/// What was read so far.
#[derive(Debug, Default)]
struct Notes {
    last: Moment,
    /// The end of the lease whose users have ended. Others come only with another.
    ended: Moment,
}

impl Notes {
    /// Whether that lease ends by then, and there may be users. Zero is none.
    fn is_over(&mut self, by: Moment, end: Moment) -> bool {
        let is_read_twice = std::mem::replace(&mut self.last, end) == end;
        is_read_twice && end != Moment(0) && end != self.ended && by >= end
    }

    /// How long to wait until the next look.
    fn rest(&self, by: Moment, end: Moment) -> Duration {
        if end == self.ended { LOOK_SELDOM } else { end.since(by).clamp(LOOK_EVERY, LOOK_SELDOM) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_end_once_when_their_lease_is_over_and_was_read_twice() {
        let mut notes = Notes::default();
        let at = Moment;
        assert!(!notes.is_over(at(500), at(0)) && !notes.is_over(at(600), at(0)), "no lease yet");
        assert!(!notes.is_over(at(2900), at(3000)));
        assert!(!notes.is_over(at(2950), at(3000)));
        assert!(notes.is_over(at(3000), at(3000)));
        assert!(notes.is_over(at(3100), at(3000)), "somebody is left");
        notes.ended = at(3000);
        assert!(!notes.is_over(at(3200), at(3000)));
        // Half of another note: it has not been read so before.
        assert!(!notes.is_over(at(3300), at(2000)));
        assert!(!notes.is_over(at(3350), at(6000)));
        assert!(!notes.is_over(at(6000), at(6400)));
        assert!(!notes.is_over(at(6400), at(6000)));
        assert!(notes.is_over(at(6450), at(6000)));
    }

    #[test]
    fn what_ends_soon_is_looked_at_often() {
        let notes = Notes { last: Moment(3000), ended: Moment(0) };
        let rest = |by| notes.rest(Moment(by), Moment(3000));
        assert_eq!(rest(500), LOOK_SELDOM);
        assert_eq!(rest(2800), Duration::from_millis(200));
        assert_eq!(rest(2990), LOOK_EVERY);
    }
}
