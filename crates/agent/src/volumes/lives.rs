//! What this node's drives have gone through: how often each may have forgotten what it had acknowledged, and what its medium had lost when a leg was
//! given out.
//!
//! Purpose: a drive that was pulled and put back, or whose power failed, is another run to the ledger (docs/volumes.md, "Runs"): its legs are
//! given out only when they have been let go, or confirmed again. A drive whose medium has lost something since a leg was given out says so
//! when that leg is fenced.
//!
//! Invariants: the count only grows, over restarts too, and is on disk before anybody is told. A drive is
//! asked in a task of its own, and nobody waits for that.
//!
//! On failure: [`StoreError`]. A drive that nothing is known of goes on with the ledger's count: who has lost this file has lost its floors
//! beside it, and takes no part.

use super::VolumesError;
use super::place::Place;
use super::shell::{Ledgers, Told, blocking};
use super::uevents;
use crate::store::{Store, StoreError};
use control::State;
use control::member::Input;
use control::state::Drive;
use control::target::{Event, Key, LegOf};
use model::{BootId, DriveId, DriveSerial, PowerCycles};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{info, warn};

pub(super) const FILE: &str = "drives.json";
/// The count of a drive that has none in the ledger.
const FIRST_COUNT: PowerCycles = PowerCycles(1);
/// How often a drive that does not answer is asked again, and after how many tries it counts as one that was away.
const TRY_AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

/// A drive as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Life {
    count: PowerCycles,
    boot: BootId,
    /// As the kernel had found it in that boot.
    appearance: u64,
    /// What the drive itself had counted, if it has said so.
    power_cycles: Option<u64>,
}

/// A drive as it is seen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    boot: BootId,
    appearance: u64,
    power_cycles: Option<u64>,
}

impl Life {
    /// The life that goes on, or the next one. `known`: the ledger's count.
    fn now(last: Option<Self>, known: Option<PowerCycles>, seen: Sight) -> Self {
        let Sight { boot, appearance, power_cycles } = seen;
        // What it counts is held against this boot's alone: a boot is a new life anyway, and one is enough.
        let before = last.filter(|life| life.boot == boot).and_then(|life| life.power_cycles);
        let told = power_cycles.or(before);
        let count = last.map_or(known.unwrap_or(FIRST_COUNT), |life| {
            let was_on = before.is_none_or(|before| told == Some(before));
            let same = was_on && (life.boot, life.appearance) == (boot, appearance);
            if same { life.count } else { life.count.next() }
        });
        Self { count: count.max(known.unwrap_or_default()), boot, appearance, power_cycles: told }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    lives: BTreeMap<DriveSerial, Life>,
    /// Media errors that the drive of a leg had counted when it was given out under this key.
    media_errors: Vec<(LegOf, Key, u64)>,
}

/// What is known of this node's drives.
#[derive(Debug)]
pub(super) struct Lives {
    store: Store,
    saved: Mutex<Saved>,
}

impl Lives {
    pub(super) fn load(store: Store) -> Result<Self, StoreError> {
        let saved = store.load(FILE)?;
        Ok(Self { store, saved: Mutex::new(saved) })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Saved) -> T) -> Result<T, StoreError> {
        // Changed as a whole below: after a panic elsewhere it is still good.
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = saved.clone();
        let done = change(&mut new);
        if new != *saved {
            self.store.save(FILE, &new)?;
            *saved = new;
        }
        Ok(done)
    }

    /// A drive is seen like this: its count now. One that is not there keeps what it had.
    fn see(
        &self,
        serial: &DriveSerial,
        known: Option<PowerCycles>,
        seen: Option<Sight>,
    ) -> Result<PowerCycles, StoreError> {
        self.change(|saved| {
            let last = saved.lives.get(serial).copied();
            let Some(seen) = seen else {
                return last.map(|life| life.count).max(known).unwrap_or(FIRST_COUNT);
            };
            let now = Life::now(last, known, seen);
            saved.lives.insert(serial.clone(), now);
            now.count
        })
    }

    /// The drive counts as one that was away.
    fn begin_anew(&self, serial: &DriveSerial) -> Result<(), StoreError> {
        self.change(|saved| {
            if let Some(life) = saved.lives.get_mut(serial) {
                life.count = life.count.next();
            }
        })
    }

    /// A leg is given out now. Under the same key again, what counted before counts on.
    pub(super) fn given_out(&self, leg: LegOf, key: Key, media_errors: u64) -> Result<(), StoreError> {
        self.change(|saved| {
            if !saved.media_errors.iter().any(|(known, under, _)| (*known, *under) == (leg, key)) {
                saved.media_errors.retain(|(known, ..)| *known != leg);
                saved.media_errors.push((leg, key, media_errors));
            }
        })
    }

    /// Whether the drive has counted media errors since the leg was given out.
    pub(super) fn has_erred(&self, leg: LegOf, media_errors: u64) -> bool {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.media_errors.iter().any(|(known, _, then)| *known == leg && media_errors > *then)
    }

    /// The leg is gone for good.
    pub(super) fn forget(&self, leg: LegOf) -> Result<(), StoreError> {
        self.change(|saved| saved.media_errors.retain(|(known, ..)| *known != leg))
    }
}

/// The node's drives and their counts, by what the kernel has: no drive is asked anything, as one may hang.
pub(super) fn counts(
    place: &Place,
    state: &State,
    boot: BootId,
) -> Result<BTreeMap<DriveId, PowerCycles>, VolumesError> {
    let engine = place.own_engine()?;
    let count = |(id, drive): (DriveId, &Drive)| {
        let device = engine.drive(&drive.serial).ok();
        let appearance = device.and_then(|device| engine.appearance(&device));
        let seen = appearance.map(|appearance| Sight { boot, appearance, power_cycles: None });
        Ok((id, place.lives.see(&drive.serial, drive.power_cycles, seen)?))
    };
    state.drives_in(place.node).map(count).collect()
}

/// Looks at this node's drives whenever one of them has begun anew, or the ledger has got one more, and tells control their counts.
pub(super) struct Watch {
    pub(super) place: Arc<Place>,
    pub(super) ledger: Ledgers,
    pub(super) told: Told,
    pub(super) boot: BootId,
    /// What control knows.
    pub(super) counts: BTreeMap<DriveId, PowerCycles>,
}

impl Watch {
    pub(super) async fn run(self) {
        let mut state = self.ledger.watch();
        let news = uevents::of_drives().unwrap_or_else(|error| {
            warn!("drives that are reset or put back are not noticed: {error}");
            Arc::default()
        });
        let mut drives: BTreeMap<DriveId, Arc<Notify>> = BTreeMap::new();
        loop {
            for (id, drive) in self.ledger.now().drives_in(self.place.node) {
                drives.entry(id).or_insert_with(|| self.follow(id, drive.serial.clone()));
            }
            tokio::select! {
                () = news.notified() => drives.values().for_each(|drive| drive.notify_one()),
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// In a task of its own: a drive that hangs keeps no other from being looked at. The first look is at once.
    fn follow(&self, id: DriveId, serial: DriveSerial) -> Arc<Notify> {
        let news = Arc::new(Notify::new());
        news.notify_one();
        let one = One {
            place: Arc::clone(&self.place),
            ledger: self.ledger.clone(),
            told: self.told.clone(),
            boot: self.boot,
            drive: (id, serial),
            count: self.counts.get(&id).copied(),
        };
        tokio::spawn(one.run(Arc::clone(&news)));
        news
    }
}

/// One drive.
struct One {
    place: Arc<Place>,
    ledger: Ledgers,
    told: Told,
    boot: BootId,
    drive: (DriveId, DriveSerial),
    /// What control knows.
    count: Option<PowerCycles>,
}

impl One {
    async fn run(mut self, news: Arc<Notify>) {
        loop {
            news.notified().await;
            let mut failed = 0;
            while let Err(error) = self.look().await {
                failed += 1;
                if failed == TRIES {
                    // It may cache what it is given: nothing is given out on it until it says that it does not.
                    warn!(
                        "drive {} does not answer, and counts as one that was away: {}",
                        self.drive.1,
                        crate::chain(&error)
                    );
                    if let Err(error) = self.place.lives.begin_anew(&self.drive.1) {
                        warn!("can't note that: {}", crate::chain(&error));
                    }
                }
                sleep(TRY_AGAIN).await;
            }
        }
    }

    /// What was pulled and put back is told before the drive is asked anything: it may not answer.
    async fn look(&mut self) -> Result<(), VolumesError> {
        self.see(false).await?;
        self.see(true).await
    }

    async fn see(&mut self, asks: bool) -> Result<(), VolumesError> {
        let ((id, serial), place, boot) = (self.drive.clone(), Arc::clone(&self.place), self.boot);
        let Some(known) = self.ledger.now().drives.get(&id).map(|drive| drive.power_cycles) else {
            return Ok(());
        };
        let seen = blocking(move || {
            let engine = place.own_engine()?;
            // One that is not there is seen when it is back.
            let Ok(device) = engine.drive(&serial) else { return Ok(None) };
            let mut power_cycles = None;
            if asks {
                power_cycles = engine.health(&device)?.map(|health| health.power_cycles);
                engine.turn_cache_off(&device)?;
            }
            let appearance = engine.appearance(&device);
            let seen = appearance.map(|appearance| Sight { boot, appearance, power_cycles });
            Ok(Some(place.lives.see(&serial, known, seen)?))
        });
        if let Some(count) = seen.await?
            && self.count.replace(count) != Some(count)
        {
            info!("drive {} is in its life {count}", self.drive.1);
            self.told.tell(Input::Target(Event::DriveReset(id, count)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Epoch, Incarnation, LedgerIncarnation, LegId, VolumeId};

    const LEG: LegOf = (VolumeId(1), LegId(1));

    fn sight(boot: u128, appearance: u64, power_cycles: Option<u64>) -> Sight {
        Sight { boot: BootId(boot), appearance, power_cycles }
    }

    fn lives(directory: &std::path::Path) -> Lives {
        Lives::load(Store::in_directory(directory)).unwrap()
    }

    #[test]
    fn a_life_goes_on_until_the_drive_was_away_or_without_power() {
        let directory = tempfile::tempdir().unwrap();
        let serial: DriveSerial = "A".parse().unwrap();
        let see = |lives: &Lives, seen| lives.see(&serial, Some(PowerCycles(3)), seen).unwrap().0;
        let first = lives(directory.path());
        assert_eq!(see(&first, None), 3, "it is not there");
        assert_eq!(see(&first, Some(sight(1, 40, None))), 3, "the first look at it");
        assert_eq!(see(&first, Some(sight(1, 40, Some(9)))), 3, "now it has said what it counts");
        assert_eq!(see(&first, Some(sight(1, 40, None))), 3);
        assert_eq!(see(&first, Some(sight(1, 41, None))), 4, "pulled, and put back");
        assert_eq!(see(&first, None), 4, "pulled");
        let next = lives(directory.path());
        assert_eq!(see(&next, Some(sight(1, 41, Some(9)))), 4, "the agent has restarted");
        assert_eq!(
            see(&next, Some(sight(1, 41, Some(10)))),
            5,
            "without power for a moment, and the kernel saw a reset only"
        );
        assert_eq!(see(&next, Some(sight(2, 41, None))), 6, "another boot");
        assert_eq!(see(&next, Some(sight(2, 41, Some(12)))), 6, "what it counted meanwhile is no news");
        let (known, seen) = (Some(PowerCycles(20)), Some(sight(2, 41, Some(10))));
        assert_eq!(next.see(&serial, known, seen).unwrap(), PowerCycles(20), "never below the ledger's");
    }

    #[test]
    fn a_drive_that_does_not_answer_counts_as_one_that_was_away_once_and_that_is_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let (serial, other): (DriveSerial, DriveSerial) = ("A".parse().unwrap(), "B".parse().unwrap());
        let seen = Some(sight(1, 40, Some(9)));
        let see = |lives: &Lives, serial: &DriveSerial| lives.see(serial, None, seen).unwrap().0;
        let first = lives(directory.path());
        assert_eq!((see(&first, &serial), see(&first, &other)), (1, 1));
        first.begin_anew(&serial).unwrap();
        let next = lives(directory.path());
        assert_eq!(
            (see(&next, &serial), see(&next, &other)),
            (2, 1),
            "it looks as it did, and is in another run"
        );
        assert_eq!(see(&next, &serial), 2, "it answers again: that is no other life");
        next.begin_anew(&"C".parse().unwrap()).unwrap();
        assert_eq!(see(&next, &"C".parse().unwrap()), 1, "one that was never seen has no life to end");
    }

    #[test]
    fn media_errors_count_from_when_the_leg_was_given_out_under_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let key = |incarnation| Key {
            epoch: Epoch::first(LedgerIncarnation(1)),
            incarnation: Incarnation(incarnation),
        };
        let first = lives(directory.path());
        assert!(!first.has_erred(LEG, 7), "never given out: nothing of it is here");
        first.given_out(LEG, key(1), 7).unwrap();
        let next = lives(directory.path());
        assert!(!next.has_erred(LEG, 7) && next.has_erred(LEG, 8));
        next.given_out(LEG, key(1), 8).unwrap();
        assert!(next.has_erred(LEG, 8), "a bounce, or another try");
        next.given_out(LEG, key(2), 8).unwrap();
        assert!(!next.has_erred(LEG, 8));
        next.forget(LEG).unwrap();
        assert!(!next.has_erred(LEG, 9));
    }
}
