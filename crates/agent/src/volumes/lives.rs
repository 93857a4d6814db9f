//! What this node's drives have gone through: how often each may have forgotten what it had acknowledged, and what its medium had lost when a leg was
//! given out.
//!
//! Purpose: a drive that was pulled and put back, or whose power failed, is another run to the ledger (docs/volumes.md, "Runs"): its legs are
//! given out only when they have been let go, or confirmed again. A drive whose medium has lost something since a leg was given out says so
//! when that leg is fenced.
//!
//! Invariants: the count only grows, over restarts too, and is on disk before anybody is told. Nothing here waits for a drive.
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
use control::target::{Event, LegOf};
use model::{BootId, DriveId, DriveSerial, NodeId, PowerCycles};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{info, warn};

const FILE: &str = "drives.json";
/// The count of a drive that has none in the ledger.
const FIRST_COUNT: PowerCycles = PowerCycles(1);

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
            let same = (life.boot, life.appearance) == (boot, appearance) && told == before.or(told);
            if same { life.count } else { PowerCycles(life.count.0.saturating_add(1)) }
        });
        Self { count: count.max(known.unwrap_or_default()), boot, appearance, power_cycles: told }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    lives: BTreeMap<DriveSerial, Life>,
    /// Media errors that the drive of a leg had counted when it was given out.
    media_errors: Vec<(LegOf, u64)>,
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

    /// A leg is given out now.
    pub(super) fn given_out(&self, leg: LegOf, media_errors: u64) -> Result<(), StoreError> {
        self.change(|saved| {
            saved.media_errors.retain(|(known, _)| *known != leg);
            saved.media_errors.push((leg, media_errors));
        })
    }

    /// Whether the drive has counted media errors since the leg was given out.
    pub(super) fn has_erred(&self, leg: LegOf, media_errors: u64) -> bool {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.media_errors.iter().any(|(known, then)| *known == leg && media_errors > *then)
    }

    /// The leg is gone for good.
    pub(super) fn forget(&self, leg: LegOf) -> Result<(), StoreError> {
        self.change(|saved| saved.media_errors.retain(|(known, _)| *known != leg))
    }
}

/// The node's drives and their counts, by what the kernel has: no drive is asked anything, as one may hang.
pub(super) fn counts(
    place: &Place,
    state: &State,
    boot: BootId,
) -> Result<BTreeMap<DriveId, PowerCycles>, VolumesError> {
    let own = state.drives.iter().filter(|(_, drive)| drive.node == place.node);
    let count = |(id, drive): (&DriveId, &control::state::Drive)| {
        let engine = place.own_engine()?;
        let device = engine.drive(&drive.serial).ok();
        let appearance = device.and_then(|device| engine.appearance(&device));
        let seen = appearance.map(|appearance| Sight { boot, appearance, power_cycles: None });
        Ok((*id, place.lives.see(&drive.serial, drive.power_cycles, seen)?))
    };
    own.map(count).collect()
}

/// One drive, asked: its cache is turned off if it was on, and its count told.
fn look(
    place: &Place,
    (serial, known): (&DriveSerial, Option<PowerCycles>),
    boot: BootId,
) -> Result<PowerCycles, VolumesError> {
    let engine = place.own_engine()?;
    let device = engine.drive(serial)?;
    // First: what was pulled and put back is told, also if the drive does not answer.
    let seen =
        |power_cycles| engine.appearance(&device).map(|appearance| Sight { boot, appearance, power_cycles });
    let count = place.lives.see(serial, known, seen(None))?;
    let asked = || -> Result<Option<u64>, VolumesError> {
        engine.turn_cache_off(&device)?;
        Ok(engine.health(&device)?.map(|health| health.power_cycles))
    };
    match asked() {
        Ok(power_cycles) => Ok(place.lives.see(serial, known, seen(power_cycles))?),
        Err(error) => {
            warn!("drive {serial}: {}", crate::chain(&error));
            Ok(count)
        }
    }
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
    pub(super) async fn run(mut self) {
        let mut state = self.ledger.watch();
        let news = uevents::of_drives().unwrap_or_else(|error| {
            warn!("drives that are reset or put back are not noticed: {error}");
            Arc::default()
        });
        self.look_at(|_| true).await;
        loop {
            tokio::select! {
                () = news.notified() => self.look_at(|_| true).await,
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let known = self.counts.clone();
                    self.look_at(|id| !known.contains_key(&id)).await;
                }
            }
        }
    }

    /// Each on a thread of its own: one that hangs keeps no other from being looked at.
    async fn look_at(&mut self, which: impl Fn(DriveId) -> bool) {
        let wanted = own(&self.ledger.now(), self.place.node).into_iter().filter(|(id, ..)| which(*id));
        let look = |(id, serial, known): Own| {
            let (place, named, boot) = (Arc::clone(&self.place), serial.clone(), self.boot);
            let looked = blocking(move || look(&place, (&serial, known), boot));
            (id, named, tokio::spawn(looked))
        };
        let looks: Vec<_> = wanted.map(look).collect();
        for (id, serial, looked) in looks {
            let looked = looked.await.map_err(VolumesError::from).flatten();
            match looked {
                Ok(count) => {
                    if self.counts.insert(id, count) != Some(count) {
                        info!("drive {serial} is in its life {count}");
                        self.told.tell(Input::Target(Event::DriveReset(id, count)));
                    }
                }
                Err(error) => warn!("can't see drive {serial}: {}", crate::chain(&error)),
            }
        }
    }
}

type Own = (DriveId, DriveSerial, Option<PowerCycles>);

fn own(state: &State, node: NodeId) -> Vec<Own> {
    let own = state.drives.iter().filter(|(_, drive)| drive.node == node);
    own.map(|(id, drive)| (*id, drive.serial.clone(), drive.power_cycles)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LegId, VolumeId};

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
    fn media_errors_count_from_when_the_leg_was_given_out() {
        let directory = tempfile::tempdir().unwrap();
        let first = lives(directory.path());
        assert!(!first.has_erred(LEG, 7), "never given out: nothing of it is here");
        first.given_out(LEG, 7).unwrap();
        let next = lives(directory.path());
        assert!(!next.has_erred(LEG, 7) && next.has_erred(LEG, 8));
        next.given_out(LEG, 8).unwrap();
        assert!(!next.has_erred(LEG, 8));
        next.forget(LEG).unwrap();
        assert!(!next.has_erred(LEG, 9));
    }
}
