//! Users that an earlier run of the agent has left, until this run's shell looks after them.
//!
//! Invariants: they are killed from when their lease ends soon ([`LeaseNote`]), whatever this run waits for meanwhile: the ledger's disk, its
//! quorum, the kernel. So this is a thread, begun before anything else, and asks nobody.
//!
//! On failure: it is tried again.

use super::lease_note::{self, LeaseNote};
use super::openers;
use super::place::engine_of_nobody;
use crate::clock;
use control::Moment;
use control::member::Timing;
use model::BootId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tracing::warn;

/// How often it is looked whether somebody else looks after them, or it is time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const KILL_EVERY: Duration = Duration::from_secs(1);

/// Looks after them until it is told that it need not.
#[derive(Debug, Clone)]
pub(crate) struct LeftUsers(Arc<AtomicBool>);

impl LeftUsers {
    /// Begins.
    pub(crate) fn of(boot: BootId) -> std::io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        let lease_end = LeaseNote::open(lease_note::FILE.as_ref(), boot).map_or(Moment(0), |note| note.end());
        let look_after = move || {
            let mut wait = true;
            while !asked.load(Ordering::SeqCst) {
                // Whom an earlier run had wait while an array got a place more could not even be killed.
                if wait {
                    let tried = engine_of_nobody().and_then(|engine| engine.let_users_go_on());
                    wait = tried
                        .inspect_err(|error| warn!("users may wait yet: {}", crate::chain(error)))
                        .is_err();
                }
                if is_time(Moment(clock::uptime_ms()), lease_end) {
                    if let Err(error) = engine_of_nobody().and_then(|engine| openers::kill_all(&engine)) {
                        warn!("can't see who has volumes open: {}", crate::chain(&error));
                    }
                    thread::sleep(KILL_EVERY);
                } else {
                    thread::sleep(LOOK_EVERY);
                }
            }
        };
        thread::Builder::new().name("left-users".to_owned()).spawn(look_after)?;
        Ok(Self(over))
    }

    /// Somebody else does, or there are none.
    pub(super) fn are_looked_after(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn is_time(now: Moment, lease_end: Moment) -> bool {
    now.after(Timing::default().holder.stop_left_before) >= lease_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_until_half_a_second_before_their_leases_end() {
        assert!(!is_time(Moment(7_499), Moment(8_000)));
        assert!(is_time(Moment(7_500), Moment(8_000)));
        assert!(is_time(Moment(5), Moment(0)), "there was none");
    }
}
