//! What changed in the kernel's links, by number, so that a second apply is seen to change nothing.
//!
//! Invariants: the last [`KEPT`] changes are kept, whatever comes. Numbers count within one epoch, which is drawn when the agent
//! starts: another agent's numbers mean something else.
//!
//! On failure: when the monitor ends nothing more is seen, and whoever asks gets [`NotWatching`] and no list, since an empty
//! one would say that nothing changed.

use crate::clock;
use api::{LinkChange, LinkChanges};
use network::kernel::{Change, ChangeKind, Monitor, Told};
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// A whole apply makes some dozens.
const KEPT: usize = 256;
/// The kernel tells a change as it makes it; it is here when nothing came for this long.
const QUIET: Duration = Duration::from_millis(50);
/// Links that change all the time are told as they are then.
const QUIET_LIMIT: Duration = Duration::from_secs(1);

/// The kernel's changes are not seen any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent lost the netlink socket that tells what changes")]
pub(crate) struct NotWatching;

/// The changes since the agent started.
#[derive(Debug)]
pub(crate) struct Changes {
    epoch: u32,
    log: Mutex<Log>,
    changed: Notify,
}

impl Default for Changes {
    fn default() -> Self {
        // The standard library's one source of randomness, seeded by the kernel: the low half of an empty hash.
        let epoch = RandomState::new().build_hasher().finish() as u32;
        Self { epoch, log: Mutex::default(), changed: Notify::default() }
    }
}

#[derive(Debug, Default)]
struct Log {
    ended: bool,
    count: u64,
    missed: u64,
    last: VecDeque<LinkChange>,
}

impl Log {
    fn add(&mut self, change: Change, at_ms: u64) {
        self.count += 1;
        self.last.truncate(KEPT - 1);
        let kind = match change.kind {
            ChangeKind::Link => "link",
            ChangeKind::LinkGone => "link-gone",
            ChangeKind::Address => "address",
            ChangeKind::AddressGone => "address-gone",
            ChangeKind::Route => "route",
            ChangeKind::RouteGone => "route-gone",
            ChangeKind::Queue => "queue",
            ChangeKind::QueueGone => "queue-gone",
            ChangeKind::Filter => "filter",
            ChangeKind::FilterGone => "filter-gone",
            ChangeKind::Dcb => "dcb",
        };
        let (number, kind) = (self.count, kind.to_owned());
        self.last.push_front(LinkChange { number, kind, index: change.index, name: change.name, at_ms });
    }

    fn since(&self, epoch: u32, since: u64) -> Result<LinkChanges, NotWatching> {
        if self.ended {
            return Err(NotWatching);
        }
        let newer = self.last.iter().take_while(|change| change.number > since);
        let mut changes: Vec<_> = newer.cloned().collect();
        changes.reverse();
        Ok(LinkChanges { epoch, count: self.count, missed: self.missed, changes })
    }
}

impl Changes {
    /// Listens until the monitor ends, which it does only when its socket dies.
    pub(crate) async fn watch(self: Arc<Self>, mut monitor: Monitor) {
        while let Some(told) = monitor.next().await {
            self.note(told, monitor.missed());
        }
        warn!("{NotWatching}");
        self.end();
    }

    pub(super) fn end(&self) {
        self.log().ended = true;
        self.changed.notify_waiters();
    }

    pub(super) fn note(&self, told: Told, missed: u64) {
        let mut log = self.log();
        if let Told::Change(change) = told {
            log.add(change, clock::uptime_ms());
        }
        log.missed = missed;
        drop(log);
        self.changed.notify_waiters();
    }

    /// Changes after number `since`, once all that happened is here.
    pub(crate) async fn since(&self, since: u64) -> Result<LinkChanges, NotWatching> {
        let quiet = async { while timeout(QUIET, self.changed.notified()).await.is_ok() {} };
        tokio::select! {
            () = quiet => {}
            () = sleep(QUIET_LIMIT) => {}
        }
        self.log().since(self.epoch, since)
    }

    /// Waits until there are changes after number `since`, or more than `missed` were missed; for ever, when the kernel's changes are not
    /// seen any more.
    pub(crate) async fn beyond(&self, since: u64, missed: u64) {
        loop {
            let told = self.changed.notified();
            let mut told = pin!(told);
            // Registered before the count is looked at: a change in between is not slept through.
            told.as_mut().enable();
            let is_beyond = {
                let log = self.log();
                log.count > since || log.missed > missed
            };
            if is_beyond {
                return;
            }
            told.await;
        }
    }

    /// Every change is added whole: after a panic elsewhere the log is still good.
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(index: u32) -> Change {
        Change { kind: ChangeKind::Link, index: Some(index), name: None }
    }

    #[test]
    fn changes_are_numbered_and_the_last_ones_are_kept() {
        let mut log = Log::default();
        let none = LinkChanges { epoch: 5, count: 0, missed: 0, changes: Vec::new() };
        assert_eq!(log.since(5, 0), Ok(none));
        for index in 1..=300 {
            log.add(change(index), 0);
        }
        let all = log.since(5, 0).unwrap();
        assert_eq!((all.count, all.changes.len(), all.changes[0].number), (300, KEPT, 45));
        let later = log.since(5, 298).unwrap();
        assert_eq!(later.changes.iter().map(|change| change.number).collect::<Vec<_>>(), [299, 300]);
        for since in [300, u64::MAX] {
            assert!(log.since(5, since).unwrap().changes.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_is_seen_without_a_change_after_it_and_restarts_have_other_epochs() {
        let changes = Changes::default();
        changes.note(Told::Change(change(1)), 0);
        changes.note(Told::Gap, 3);
        let seen = changes.since(0).await.unwrap();
        assert_eq!((seen.count, seen.missed), (1, 3));
        assert_eq!(changes.since(0).await.unwrap().epoch, seen.epoch);
        // Two of 2^32 are the same by chance once in four thousand million runs.
        assert_ne!(Changes::default().since(0).await.unwrap().epoch, seen.epoch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_ended_is_an_error_and_no_empty_list() {
        let changes = Changes::default();
        changes.note(Told::Change(change(1)), 0);
        assert!(changes.since(0).await.is_ok());
        changes.end();
        assert_eq!(changes.since(0).await, Err(NotWatching));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_quiet_but_not_for_ever() {
        let changes = Changes::default();
        assert_eq!(changes.since(0).await.unwrap().count, 0);
        let restless = async {
            loop {
                sleep(QUIET / 2).await;
                changes.note(Told::Change(change(1)), 0);
            }
        };
        tokio::select! {
            () = restless => {}
            seen = changes.since(0) => assert!(seen.unwrap().count > 30),
        }
    }
}
