//! Drives that are slow beside others.
//!
//! Purpose: every node says once a second what its drives' requests took ([`Reading`], with its request for a lease); where the leader is,
//! [`Watch`] holds each against the others of the cluster, and says which are slow. The ledger retires those.
//!
//! ```text
//!   well ──a reading is slow──► doubtful ──all are, for `slow_for`──► slow: said once, the ledger remembers it
//!     ▲                            │
//!     └── a reading that is not, or none worth anything for `fresh` ──┘
//! ```
//!
//! Invariants: a drive is held only against drives that have something to do, and only while it has: an idle one says nothing. One that a leg is
//! being made or brought up to date on is neither judged nor counted: copying is slow by nature. With fewer than two drives there is no verdict.
//! A drive that answers nothing at all gives no reading; that its path is lost is seen elsewhere.

use crate::moment::Moment;
use crate::retire::rack_of;
use crate::state::{Drive, Health, LegState, State};
use model::DriveId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a drive's requests took in the last second or so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// How many ended.
    pub requests: u64,
    /// What one took on average, microseconds.
    pub mean_us: u64,
}

/// What is called slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// So many times what the others take, in the middle of them.
    pub factor: u64,
    /// And so long at least: beside very fast drives a good one may look slow.
    pub at_least_us: u64,
    /// A reading of fewer requests says nothing.
    pub requests_at_least: u64,
    /// For how long all readings must be slow.
    pub slow_for: Duration,
    /// For how long a reading counts.
    pub fresh: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (slow_for, fresh) = (Duration::from_secs(10), Duration::from_secs(3));
        Self { factor: 10, at_least_us: 20_000, requests_at_least: 5, slow_for, fresh }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Known {
    at: Moment,
    reading: Reading,
    slow_since: Option<Moment>,
}

/// All drives beside each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Watch {
    limits: Limits,
    known: BTreeMap<DriveId, Known>,
}

impl Watch {
    /// What a node says of a drive.
    pub fn see(&mut self, now: Moment, ledger: &State, drive: DriveId, reading: Reading) {
        if reading.requests < self.limits.requests_at_least || is_copied_to(ledger, drive) {
            return;
        }
        self.forget_old(now);
        let slow = self.middle_of_others(ledger, drive).is_some_and(|middle_us| {
            let limit_us = middle_us.saturating_mul(self.limits.factor).max(self.limits.at_least_us);
            reading.mean_us >= limit_us
        });
        let before = self.known.get(&drive).and_then(|known| known.slow_since);
        let slow_since = slow.then(|| before.unwrap_or(now));
        self.known.insert(drive, Known { at: now, reading, slow_since });
    }

    /// The drives that are slow and that the ledger does not know to be.
    pub fn slow(&mut self, now: Moment, ledger: &State) -> Vec<DriveId> {
        self.forget_old(now);
        let is_news = |drive: &DriveId| {
            ledger.drives.get(drive).is_some_and(|known| known.health == Health::Good)
                && !is_copied_to(ledger, *drive)
        };
        let long = |known: &Known| {
            // From a reading to the last, not to now: silence proves nothing.
            known.slow_since.is_some_and(|since| known.at >= since.after(self.limits.slow_for))
        };
        let slow = self.known.iter().filter(|(drive, known)| long(known) && is_news(drive));
        let slow: Vec<DriveId> = slow.map(|(drive, _)| *drive).collect();
        // Several of a rack: its nodes have no time, or its load is another. That is no drive's fault.
        let alone = |drive: &DriveId| {
            let same_rack = |other: &&DriveId| rack_of(ledger, **other) == rack_of(ledger, *drive);
            slow.iter().filter(same_rack).count() == 1 && slow_in_rack(ledger, *drive).is_none()
        };
        slow.iter().copied().filter(alone).collect()
    }

    /// A leader that has just begun knows nothing.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    fn forget_old(&mut self, now: Moment) {
        let fresh = self.limits.fresh;
        self.known.retain(|_, known| now <= known.at.after(fresh));
    }

    /// What the others take, in the middle of them; of an even number the less. `None`: there are none.
    fn middle_of_others(&self, ledger: &State, drive: DriveId) -> Option<u64> {
        let others =
            self.known.iter().filter(|(other, _)| **other != drive && !is_copied_to(ledger, **other));
        let mut others: Vec<u64> = others.map(|(_, known)| known.reading.mean_us).collect();
        others.sort_unstable();
        others.get(others.len().checked_sub(1)? / 2).copied()
    }
}

/// A drive of the same rack, other than this, that the ledger calls slow.
pub(crate) fn slow_in_rack(ledger: &State, drive: DriveId) -> Option<DriveId> {
    let is_slow = |(id, known): &(&DriveId, &Drive)| {
        **id != drive && known.health == Health::Slow && rack_of(ledger, **id) == rack_of(ledger, drive)
    };
    ledger.drives.iter().find(is_slow).map(|(id, _)| *id)
}

/// Whether a leg on it is being made or brought up to date.
fn is_copied_to(ledger: &State, drive: DriveId) -> bool {
    let legs = ledger.volumes.values().flat_map(|volume| volume.legs.values());
    let copied = |state| matches!(state, LegState::Rebuilding { .. } | LegState::Stale { .. });
    legs.into_iter().any(|leg| leg.drive == drive && copied(leg.state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ClusterCommand, Command, VolumeCommand};
    use crate::state::Cache;
    use crate::testing::{cluster, leg_ref, must, now, open, with_volume};
    use model::Mirror;

    const SLOW: Reading = Reading { requests: 40, mean_us: 200_000 };
    const WELL: Reading = Reading { requests: 400, mean_us: 1_000 };
    const IDLE: Reading = Reading { requests: 2, mean_us: 900_000 };

    /// Drive 1 says this, drive 2 is well, each second; the seconds at which drive 1 is called slow.
    fn seconds(ledger: &State, readings: impl IntoIterator<Item = Option<Reading>>) -> Vec<u64> {
        let (mut watch, mut called) = (Watch::default(), Vec::new());
        for (second, reading) in (0..).zip(readings) {
            let at = Moment(second * 1000);
            watch.see(at, ledger, DriveId(2), WELL);
            if let Some(reading) = reading {
                watch.see(at, ledger, DriveId(1), reading);
            }
            if watch.slow(at, ledger) == [DriveId(1)] {
                called.push(second);
            }
        }
        called
    }

    #[test]
    fn a_drive_is_slow_when_all_it_says_for_long_enough_is() {
        let ledger = cluster(2, 1, &[Cache::Safe]);
        assert_eq!(seconds(&ledger, [Some(SLOW); 13]), [10, 11, 12]);
        let mut once_well = [Some(SLOW); 15];
        once_well[9] = Some(WELL);
        assert_eq!(seconds(&ledger, once_well), [0; 0], "one that is well begins it anew");
    }

    #[test]
    fn silence_and_idleness_prove_nothing() {
        let ledger = cluster(2, 1, &[Cache::Safe]);
        let mut silent = [None; 20];
        (silent[0], silent[12]) = (Some(SLOW), Some(SLOW));
        assert_eq!(seconds(&ledger, silent), [0; 0]);
        assert_eq!(seconds(&ledger, [Some(IDLE); 20]), [0; 0]);
        let mut pauses = [Some(SLOW); 13];
        (pauses[3], pauses[6]) = (None, Some(IDLE));
        assert_eq!(seconds(&ledger, pauses), [10, 11, 12], "a moment without load does not make it well");
    }

    #[test]
    fn it_takes_others_to_be_slow_beside_and_all_that_are_slow_are_alike() {
        let ledger = cluster(4, 1, &[Cache::Safe]);
        let mut watch = Watch::default();
        for second in 0..20 {
            let at = Moment(second * 1000);
            watch.see(at, &ledger, DriveId(1), SLOW);
            assert_eq!(watch.slow(at, &ledger), []);
        }
        for second in 20..40 {
            let at = Moment(second * 1000);
            (1..=4).for_each(|drive| watch.see(at, &ledger, DriveId(drive), SLOW));
            assert_eq!(watch.slow(at, &ledger), [], "a busy host is no slow drive");
        }
    }

    #[test]
    fn a_good_drive_beside_very_fast_ones_is_not_slow() {
        let ledger = cluster(2, 1, &[Cache::Safe]);
        let good = Reading { requests: 100, mean_us: 15_000 };
        assert_eq!(seconds(&ledger, [Some(good); 20]), [0; 0]);
    }

    #[test]
    fn a_drive_that_is_copied_to_is_not_judged() {
        let mut ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut ledger, &[1, 2]);
        assert_eq!(seconds(&ledger, [Some(SLOW); 11]), [10]);
        let stale = now(&ledger, VolumeCommand::LegStale(leg_ref(&ledger, 1)));
        must(&mut ledger, &stale);
        assert_eq!(seconds(&ledger, [Some(SLOW); 20]), [0; 0]);
    }

    #[test]
    fn what_the_ledger_knows_is_not_said_again() {
        let mut ledger = cluster(2, 1, &[Cache::Safe]);
        must(&mut ledger, &Command::Cluster(ClusterCommand::DriveSlow(DriveId(1))));
        assert!(ledger.drives[&DriveId(1)].retired);
        assert_eq!(seconds(&ledger, [Some(SLOW); 20]), [0; 0]);
    }
}
