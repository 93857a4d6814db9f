//! What changed in the kernel's links, by number, so that a second apply is seen to change nothing.
//!
//! Invariants: the last [`KEPT`] changes are kept, whatever comes.

use api::{LinkChange, LinkChanges};
use network::kernel::{Change, ChangeKind, Monitor};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// A whole apply makes some dozens.
const KEPT: usize = 256;
/// The kernel tells a change as it makes it; it is here when nothing came for this long.
const QUIET: Duration = Duration::from_millis(50);
/// Links that change all the time are told as they are then.
const QUIET_LIMIT: Duration = Duration::from_secs(1);

/// The changes since the agent started.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    log: Mutex<Log>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Log {
    count: u64,
    missed: u64,
    last: VecDeque<LinkChange>,
}

impl Log {
    fn add(&mut self, change: Change) {
        self.count += 1;
        self.last.truncate(KEPT - 1);
        let kind = match change.kind {
            ChangeKind::Link => "link",
            ChangeKind::LinkGone => "link-gone",
            ChangeKind::Address => "address",
            ChangeKind::AddressGone => "address-gone",
            ChangeKind::Route => "route",
            ChangeKind::RouteGone => "route-gone",
        };
        let (number, kind) = (self.count, kind.to_owned());
        self.last.push_front(LinkChange { number, kind, index: change.index, name: change.name });
    }

    fn since(&self, since: u64) -> LinkChanges {
        let newer = self.last.iter().take_while(|change| change.number > since);
        let mut changes: Vec<_> = newer.cloned().collect();
        changes.reverse();
        LinkChanges { count: self.count, missed: self.missed, changes }
    }
}

impl Changes {
    /// Listens until the monitor ends.
    pub(crate) async fn watch(self: Arc<Self>, mut monitor: Monitor) {
        while let Some(change) = monitor.next().await {
            let mut log = self.log();
            log.add(change);
            log.missed = monitor.missed();
            drop(log);
            self.changed.notify_waiters();
        }
    }

    /// Changes after number `since`, once all that happened is here.
    pub(crate) async fn since(&self, since: u64) -> LinkChanges {
        let quiet = async { while timeout(QUIET, self.changed.notified()).await.is_ok() {} };
        tokio::select! {
            () = quiet => {}
            () = sleep(QUIET_LIMIT) => {}
        }
        self.log().since(since)
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
        assert_eq!(log.since(0), LinkChanges { count: 0, missed: 0, changes: Vec::new() });
        for index in 1..=300 {
            log.add(change(index));
        }
        let all = log.since(0);
        assert_eq!((all.count, all.changes.len(), all.changes[0].number), (300, KEPT, 45));
        let numbers: Vec<_> = log.since(298).changes.iter().map(|change| change.number).collect();
        assert_eq!(numbers, [299, 300]);
        assert!(log.since(300).changes.is_empty() && log.since(u64::MAX).changes.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_quiet_but_not_for_ever() {
        let changes = Changes::default();
        assert_eq!(changes.since(0).await.count, 0);
        let restless = async {
            loop {
                sleep(QUIET / 2).await;
                changes.log().add(change(1));
                changes.changed.notify_waiters();
            }
        };
        tokio::select! {
            () = restless => {}
            seen = changes.since(0) => assert!(seen.count > 30, "{}", seen.count),
        }
    }
}
