//! Users that an earlier run of the agent has left, until this run's shell looks after them.
//!
//! Invariants: they are killed from when their lease ends soon ([`LeaseNote`]), whatever this run waits for meanwhile: the ledger's disk, its
//! quorum, the kernel. So this is a thread, begun before anything else, and asks nobody. ([`super::renewal`] asks, beside it.) One at a time has
//! the note: whoever looks after them takes it along.
//!
//! On failure: it is tried again.

use super::lease_note::{self, LeaseNote, ended_by};
use super::openers;
use super::place::engine_of_nobody;
use crate::{clock, priority};
use control::Moment;
use model::BootId;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use tracing::warn;

/// How often it is looked whether somebody else looks after them, or it is time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const KILL_EVERY: Duration = Duration::from_secs(1);

/// Looks after them until it is told that it need not.
#[derive(Debug, Clone)]
pub(crate) struct LeftUsers(Arc<Mutex<Left>>);

/// Who looks after them.
#[derive(Debug)]
enum Left {
    /// These threads, by the note of their lease; without one they have none.
    Ours(Option<LeaseNote>),
    /// Somebody else.
    LookedAfter,
}

impl LeftUsers {
    /// Begins.
    pub(crate) fn of(boot: BootId) -> io::Result<Self> {
        let note = LeaseNote::open(lease_note::FILE.as_ref(), boot).ok();
        let left = Self(Arc::new(Mutex::new(Left::Ours(note))));
        let own = left.clone();
        thread::Builder::new().name("left-users".to_owned()).spawn(move || own.look_after())?;
        Ok(left)
    }

    fn look_after(&self) {
        priority::is_in_time();
        let mut wait = true;
        loop {
            // Before the note: a lease that is renewed meanwhile must not be held against a later moment.
            let now = Moment(clock::uptime_ms());
            let Some(lease_end) = self.lease_end() else { return };
            // Whom an earlier run had wait while an array got a place more could not even be killed.
            if wait {
                let tried = engine_of_nobody().and_then(|engine| engine.let_users_go_on());
                wait =
                    tried.inspect_err(|error| warn!("users may wait yet: {}", crate::chain(error))).is_err();
            }
            if ended_by(now) >= lease_end {
                if let Err(error) = engine_of_nobody().and_then(|engine| openers::kill_all(&engine)) {
                    warn!("can't see who has volumes open: {}", crate::chain(&error));
                }
                thread::sleep(KILL_EVERY);
            } else {
                thread::sleep(LOOK_EVERY);
            }
        }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        // Nothing panics in the middle of a change of it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: somebody looks after them.
    fn lease_end(&self) -> Option<Moment> {
        match &*self.left() {
            Left::Ours(note) => Some(note.as_ref().map_or(Moment(0), LeaseNote::end)),
            Left::LookedAfter => None,
        }
    }

    /// Whether another lease may be taken for them.
    pub(super) fn are_renewable(&self, now: Moment) -> bool {
        matches!(&*self.left(), Left::Ours(Some(note)) if note.is_renewable(ended_by(now)))
    }

    /// A lease is granted for them until then. One that comes when they are being ended, or are looked after, counts for nothing.
    pub(super) fn renew(&self, now: impl FnOnce() -> Moment, end: Moment) -> io::Result<()> {
        match &mut *self.left() {
            Left::Ours(Some(note)) if note.is_renewable(ended_by(now())) => note.renew(end),
            _ => Ok(()),
        }
    }

    /// Somebody looks after them from now on, by this note.
    pub(super) fn taken_over(&self, boot: BootId) -> io::Result<LeaseNote> {
        let mut left = self.left();
        let note = match std::mem::replace(&mut *left, Left::Ours(None)) {
            Left::Ours(Some(note)) => note,
            Left::Ours(None) | Left::LookedAfter => LeaseNote::open(lease_note::FILE.as_ref(), boot)?,
        };
        *left = Left::LookedAfter;
        Ok(note)
    }

    /// There are none.
    pub(super) fn are_none(&self) {
        *self.left() = Left::LookedAfter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(directory: &tempfile::TempDir, lease_end: Moment) -> LeftUsers {
        let mut note = LeaseNote::open(&directory.path().join("lease"), BootId(1)).unwrap();
        note.extend(lease_end).unwrap();
        LeftUsers(Arc::new(Mutex::new(Left::Ours(Some(note)))))
    }

    #[test]
    fn they_have_until_half_a_second_before_their_leases_end() {
        let directory = tempfile::tempdir().unwrap();
        let left = left(&directory, Moment(8_000));
        assert!(ended_by(Moment(7_499)) < left.lease_end().unwrap() && left.are_renewable(Moment(7_499)));
        assert!(ended_by(Moment(7_500)) >= left.lease_end().unwrap() && !left.are_renewable(Moment(7_500)));
        // Granted too late: they are being ended.
        left.renew(|| Moment(7_500), Moment(10_000)).unwrap();
        assert_eq!(left.lease_end(), Some(Moment(8_000)));
        left.renew(|| Moment(7_400), Moment(10_000)).unwrap();
        assert_eq!(left.lease_end(), Some(Moment(10_000)));
    }

    #[test]
    fn whoever_looks_after_them_has_the_note_alone() {
        let directory = tempfile::tempdir().unwrap();
        let left = left(&directory, Moment(8_000));
        let note = left.taken_over(BootId(1)).unwrap();
        assert_eq!((note.end(), left.lease_end()), (Moment(8_000), None));
        assert!(!left.are_renewable(Moment(5_000)));
        left.renew(|| Moment(5_000), Moment(9_000)).unwrap();
        assert_eq!(LeaseNote::open(&directory.path().join("lease"), BootId(1)).unwrap().end(), Moment(8_000));
    }
}
