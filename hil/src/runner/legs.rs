//! What must hold of the volume's legs and of who votes, as the ledger says it.

use super::volume::Tested;
use super::{Runner, Seen, milliseconds};
use crate::lab::faults::Made;
use api::ClusterView;
use control::state::{Health, Leg, LegState, Phase, Volume, Voters};
use deploy::pool::{in_words, newest};
use model::{DriveSerial, Epoch, Incarnation, LegId, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the ledger is asked while nothing shall change: answers cost an emulated node what its volume would need.
const SELDOM: Duration = Duration::from_millis(250);

/// A volume when all its legs were in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whole {
    epoch: Epoch,
    incarnations: BTreeMap<LegId, Incarnation>,
}

impl Whole {
    fn of(volume: &Volume) -> Self {
        let incarnations = volume.legs.iter().map(|(id, leg)| (*id, leg.incarnation)).collect();
        Self { epoch: volume.epoch, incarnations }
    }

    /// What has happened to the volume since, in words; `None`: nothing. A leg that was lost is in sync again under another incarnation
    /// only, so that one that was lost for a moment is seen, too.
    fn lost_since(&self, volume: &Volume) -> Option<String> {
        let now = Self::of(volume);
        let is_open = matches!(volume.phase, Phase::Open { .. });
        let all = volume.in_sync().count() == volume.legs.len();
        let epochs = format!("it was in epoch {}, is in epoch {}", self.epoch, now.epoch);
        (now != *self || !is_open || !all)
            .then(|| format!("{epochs}; legs were lost {} times: {}", self.losses(volume), in_words(volume)))
    }

    /// How often legs were lost since, all together: given out anew since, or lost and not yet given out anew.
    fn losses(&self, volume: &Volume) -> u64 {
        let lost = |(id, leg): (&LegId, &Leg)| {
            let before = self.incarnations.get(id).map_or(0, |incarnation| u64::from(incarnation.0));
            let is_gone = matches!(leg.state, LegState::Stale { back: false, .. } | LegState::Suspect { .. });
            u64::from(leg.incarnation.0).saturating_sub(before) + u64::from(is_gone)
        };
        volume.legs.iter().map(lost).sum()
    }
}

impl Runner<'_> {
    /// Remembers the volume as it is, with all legs in sync.
    pub(super) fn note_whole(&mut self, views: &[(NodeName, ClusterView)]) {
        if let Some(tested) = &mut self.volume {
            tested.whole = tested.of(views).map(Whole::of);
        }
    }

    /// For some time from the first fault on, the volume stays where it is and no leg is lost.
    pub(super) async fn legs_stay_in_sync(&mut self, for_long: Duration) -> Seen {
        let since = self.faulted.map_or_else(Instant::now, |(first, _)| first);
        let mut looked: u32 = 0;
        loop {
            let is_last = since.elapsed() >= for_long;
            let views = self.look_at_volume().await;
            let Some(tested) = &self.volume else { return Seen::not("there is no volume") };
            let Some(whole) = &tested.whole else {
                return Seen::not("no step has seen all its legs in sync");
            };
            match tested.of(&views).map(|volume| whole.lost_since(volume)) {
                Some(Some(lost)) => {
                    let ms = milliseconds(since.elapsed());
                    return Seen::not(format!("seen after {ms} ms: {lost}"));
                }
                Some(None) => looked += 1,
                None if is_last => return Seen::not("nobody who has a ledger answered at the end"),
                None => {}
            }
            if is_last {
                let legs = whole.incarnations.len();
                return Seen::held(format!(
                    "all {legs} legs, in epoch {}, looked at {looked} times",
                    whole.epoch
                ));
            }
            sleep(SELDOM).await;
        }
    }

    /// How often legs were lost.
    pub(super) async fn rebuilds_at_most(&mut self, count: u64) -> Seen {
        let views = self.look_at_volume().await;
        let counted =
            self.volume.as_ref().and_then(|tested| Some(tested.whole.as_ref()?.losses(tested.of(&views)?)));
        match counted {
            None => Seen::not("nobody who has a ledger answers, or no step has seen all legs in sync"),
            Some(losses) if losses > count => Seen::not(format!("legs were lost {losses} times")),
            Some(losses) => Seen::held(format!("legs were lost {losses} times")),
        }
    }

    /// Broken drives are retired and hold no leg, and the volume is whole all the same.
    pub(super) async fn broken_drives_are_left(&mut self, bound: Duration) -> Seen {
        self.broken_drives_until(bound, not_left).await
    }

    /// Every drive that is broken is said to be slow, and is retired; all legs stay in sync.
    pub(super) async fn slow_drives_are_told(&mut self, bound: Duration) -> Seen {
        self.broken_drives_until(bound, not_told).await
    }

    async fn broken_drives_until(
        &mut self,
        bound: Duration,
        what_is_missing: fn(&ClusterView, &Tested, &BTreeSet<DriveSerial>) -> Option<String>,
    ) -> Seen {
        let begun = Instant::now();
        let is_broken = |made: &Made| match made {
            Made::Drive { drive, .. } => Some(drive.clone()),
            _ => None,
        };
        let broken: BTreeSet<DriveSerial> = self.lab.faults().iter().filter_map(is_broken).collect();
        if broken.is_empty() {
            return Seen::not("no drive is broken");
        }
        loop {
            let views = self.look_at_volume().await;
            let left = match (newest(&views), &self.volume) {
                (Some(view), Some(tested)) => what_is_missing(view, tested, &broken),
                _ => Some("there is no volume, or nobody who has a ledger answers".to_owned()),
            };
            let after_ms = milliseconds(begun.elapsed());
            match left {
                None => {
                    self.note_whole(&views);
                    return Seen::held(format!("{} drives after {after_ms} ms", broken.len()));
                }
                Some(why) if begun.elapsed() >= bound => return Seen::not(why),
                Some(_) => sleep(SELDOM).await,
            }
        }
    }

    /// Everybody who votes works, and no change is under way.
    pub(super) async fn voters_work(&mut self, bound: Duration) -> Seen {
        let begun = Instant::now();
        loop {
            let working = self.working();
            let views = deploy::pool::views(&working.members).await;
            let names: BTreeSet<&NodeName> = working.members.iter().map(|member| &member.name).collect();
            let seen = newest(&views)
                .map_or_else(|| Seen::not("nobody who has a ledger answers"), |view| voting(view, &names));
            if seen.good {
                return Seen::held(format!("{} after {} ms", seen.what, milliseconds(begun.elapsed())));
            }
            if begun.elapsed() >= bound {
                return seen;
            }
            sleep(SELDOM).await;
        }
    }
}

impl Tested {
    /// The volume as the ledger has it.
    pub(super) fn of<'a>(&self, views: &'a [(NodeName, ClusterView)]) -> Option<&'a Volume> {
        newest(views)?.state.volumes.get(&self.id)
    }
}

/// What keeps broken drives from being out of use; `None`: nothing.
fn not_left(view: &ClusterView, tested: &Tested, broken: &BTreeSet<DriveSerial>) -> Option<String> {
    let Some(volume) = view.state.volumes.get(&tested.id) else { return Some("it is gone".to_owned()) };
    let drives = &view.state.drives;
    let known = |serial: &DriveSerial| drives.values().find(|drive| drive.serial == *serial);
    if let Some(serial) = broken.iter().find(|serial| known(serial).is_none_or(|drive| !drive.retired)) {
        return Some(format!("drive {serial} is not retired"));
    }
    let holds = |leg: &&Leg| drives.get(&leg.drive).is_some_and(|drive| broken.contains(&drive.serial));
    let is_whole = matches!(volume.phase, Phase::Open { .. })
        && volume.in_sync().count() == volume.legs.len()
        && tested.whole.as_ref().is_none_or(|whole| whole.incarnations.len() == volume.legs.len());
    let left = is_whole && !volume.legs.values().any(|leg| holds(&leg));
    (!left).then(|| in_words(volume))
}

/// What keeps broken drives from being known as slow, or what that has cost; `None`: nothing.
fn not_told(view: &ClusterView, tested: &Tested, broken: &BTreeSet<DriveSerial>) -> Option<String> {
    let Some(volume) = view.state.volumes.get(&tested.id) else { return Some("it is gone".to_owned()) };
    let is_told = |serial: &&DriveSerial| {
        let mut drives = view.state.drives.values();
        drives.any(|drive| drive.serial == **serial && drive.retired && drive.health == Health::Slow)
    };
    if let Some(serial) = broken.iter().find(|serial| !is_told(serial)) {
        return Some(format!("drive {serial} is not said to be slow"));
    }
    (volume.in_sync().count() != volume.legs.len()).then(|| in_words(volume))
}

/// Whether all who vote work.
fn voting(view: &ClusterView, working: &BTreeSet<&NodeName>) -> Seen {
    let named = |id| view.state.nodes.get(id).map(|node| &node.name);
    let present = view.state.voters.present();
    let words: Vec<String> =
        present.iter().map(|id| named(id).map_or_else(|| id.to_string(), ToString::to_string)).collect();
    let words = words.join(", ");
    let idle: Vec<String> = present
        .iter()
        .filter_map(named)
        .filter(|name| !working.contains(name))
        .map(|name| format!("{name} votes and does not work"))
        .collect();
    let settled = matches!(view.state.voters, Voters::Settled(_)) && view.voters == *present;
    match (settled, view.leader) {
        (false, _) => Seen::not(format!("a change of voters is under way from {words}")),
        (true, None) => Seen::not(format!("nobody leads; {words} vote")),
        (true, Some(_)) => Seen::unless(&idle, format!("{words} vote")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::state::Base;
    use model::{BootId, DriveId, LedgerIncarnation, MapSequence, Mirror, NodeId, Provision};

    fn volume() -> Volume {
        let boot = BootId(7);
        let leg = |drive| Leg {
            drive: DriveId(drive),
            incarnation: Incarnation(3),
            run: None,
            state: LegState::InSync,
            replaces: None,
            held_all: true,
            to_lay: 0,
            extents: Vec::new(),
        };
        Volume {
            name: "v".parse().unwrap(),
            mirror: Mirror::TwoWay,
            provision: Provision::Fixed,
            size_bytes: 1 << 20,
            growing: None,
            mapped: model::ExtentTable::default(),
            mapping: BTreeSet::new(),
            forced: false,
            room_bytes: 1 << 20,
            epoch: Epoch::first(LedgerIncarnation(1)),
            owner: NodeId(1),
            running: None,
            phase: Phase::Open { boot },
            legs: BTreeMap::from([(LegId(1), leg(1)), (LegId(2), leg(2))]),
            map_sequence: MapSequence(0),
            yielding: BTreeMap::new(),
            leg_minted: LegId(2),
        }
    }

    #[test]
    fn a_leg_that_was_lost_for_a_moment_was_lost() {
        let whole = Whole::of(&volume());
        assert_eq!(whole.lost_since(&volume()), None);
        let mut back = volume();
        back.legs.get_mut(&LegId(2)).unwrap().incarnation = Incarnation(4);
        assert!(whole.lost_since(&back).unwrap().contains("lost 1 times"));
        assert_eq!(whole.losses(&back), 1);
        let mut gone = volume();
        gone.legs.get_mut(&LegId(2)).unwrap().state = LegState::Stale { base: Base::Changes, back: false };
        assert!(whole.lost_since(&gone).is_some(), "not given out anew yet");
        assert_eq!(whole.losses(&gone), 1);
        let closed = Volume { phase: Phase::Closed, ..volume() };
        assert!(whole.lost_since(&closed).is_some());
        let moved = Volume { epoch: volume().epoch.next(), ..volume() };
        assert!(whole.lost_since(&moved).is_some());
    }
}
