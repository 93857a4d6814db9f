//! Users whose lease ends while the agent does nothing: stopped, short of memory, hung in a call.
//!
//! Purpose: that two copies of a virtual machine never run. An agent that lives ends its users a second before their lease is over, and one that was started again half a second
//! ([`super::left_users`]); one that hangs ends nobody, and whoever is over it gives it more time than a lease has. So this is not the agent: process 1 of a lab's node
//! runs it, elsewhere a service of its own (`twinrackd --guard-users`).
//!
//! Invariants: nobody is ended whose lease a living agent would still go by: it has ended its users before. It goes by the note of the lease alone ([`lease_note`]), read twice: what is
//! read while it is written may be neither the old one nor the new one.
//!
//! On failure: it is tried again, as long as there is a volume that could be used. What is mounted, or a loop device, has no process: that costs the node, when an agent is back.

use super::lease_note;
use super::openers;
use super::place::engine_of_nobody;
use crate::clock;
use control::Moment;
use control::member::Timing;
use model::BootId;
use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::Duration;

/// Between two looks at a note that ends soon.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Between two looks at any other.
const LOOK_SELDOM: Duration = Duration::from_millis(500);

/// Guards for as long as the machine is up.
pub(crate) fn guard(boot: BootId) -> ! {
    let before = Timing::default().holder.stop_left_before;
    let noted = || lease_note::noted(lease_note::FILE.as_ref(), boot);
    let (mut seen, mut said) = (Notes::default(), String::new());
    loop {
        let (end, now) = (noted(), Moment(clock::uptime_ms()));
        if seen.is_over(now.after(before), end) {
            let what = match end_users(|| noted() == end) {
                Ok(Users::None) => {
                    seen.ended = end;
                    String::new()
                }
                Ok(Users::Ended { count: 0, .. }) => String::new(),
                Ok(Users::Ended { count, left }) => {
                    format!("{count} users were ended whose lease is over; {left} of them may go on yet")
                }
                Err(error) => format!("can't see who has volumes open: {}", crate::chain(&*error)),
            };
            if what != said && !what.is_empty() {
                eprintln!("twinrackd: {what}");
            }
            said = what;
        }
        sleep(seen.rest(now.after(before), end));
    }
}

/// What was found.
enum Users {
    /// No volume is there that anybody could use.
    None,
    /// So many were ended, none if they have a lease after all; how many of them may go on.
    Ended { count: usize, left: usize },
}

/// Ends everybody who has a volume open, agents left out, if it is still so that they have no lease when they have been found. What waits in a device dies as well: it is
/// sent the signal like all others, and never returns.
fn end_users(is_still_so: impl Fn() -> bool) -> Result<Users, Box<dyn Error>> {
    let engine = engine_of_nobody()?;
    let volumes = engine.open_volumes()?;
    if volumes.is_empty() {
        return Ok(Users::None);
    }
    // One that can't be looked at must not save the users of the others.
    let (mut devices, mut unknown) = (BTreeSet::new(), None);
    for volume in volumes {
        match engine.users_devices(volume) {
            Ok(paths) => {
                devices.extend(paths.iter().filter_map(|path| Some(fs::metadata(path).ok()?.rdev())));
            }
            Err(error) => unknown = Some(error),
        }
    }
    let users = openers::users(&devices)?;
    let users = if is_still_so() { users } else { Vec::new() };
    let ended = Users::Ended { count: users.len(), left: openers::end(&users) };
    unknown.map_or(Ok(ended), |error| Err(error.into()))
}

/// What was read so far.
#[derive(Debug, Default)]
struct Notes {
    last: Moment,
    /// The end of the lease when there was nothing more to be used. Other users come only with another.
    ended: Moment,
    /// How often it was over already.
    tries: u32,
}

impl Notes {
    /// Whether that lease ends by then, and there may be users. Zero is none.
    fn is_over(&mut self, by: Moment, end: Moment) -> bool {
        let is_read_twice = std::mem::replace(&mut self.last, end) == end;
        let is_over = is_read_twice && end != Moment(0) && end != self.ended && by >= end;
        self.tries = if is_over { self.tries.saturating_add(1) } else { 0 };
        is_over
    }

    /// How long to wait until the next look.
    fn rest(&self, by: Moment, end: Moment) -> Duration {
        let least = LOOK_EVERY.saturating_mul(1 << self.tries.min(5)).min(LOOK_SELDOM);
        if end == self.ended { LOOK_SELDOM } else { end.since(by).clamp(least, LOOK_SELDOM) }
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
        let mut notes = Notes { last: Moment(3000), ..Notes::default() };
        let end = Moment(3000);
        assert_eq!(notes.rest(Moment(500), end), LOOK_SELDOM);
        assert_eq!(notes.rest(Moment(2800), end), Duration::from_millis(200));
        assert_eq!(notes.rest(Moment(2990), end), LOOK_EVERY);
        // Those that do not end, less and less often.
        let mut rests_ms = Vec::new();
        for _ in 0..5 {
            assert!(notes.is_over(end, end));
            rests_ms.push(notes.rest(end, end).as_millis());
        }
        assert_eq!(rests_ms, [100, 200, 400, 500, 500]);
    }
}
