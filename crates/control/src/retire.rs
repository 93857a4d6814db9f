//! Retired drives: where their legs go.
//!
//! Purpose: a drive that reports an error is retired by the commit that says so ([`Health::Erred`]); an operator may retire one, too. Nothing new
//! is put on it, and [`moves`] has each leg there that is not in sync made anew on another drive of its rack, as placement finds it: a leg
//! that `replaces` it, which takes its place in the commit that makes it in sync. Until then the old one stays what it is.
//!
//! A leg on a drive that erred is not brought up to date in its place while it can go elsewhere ([`leaves`]): what it would hold is in
//! doubt again with the next error. Where it can't go anywhere, a copy that may err is better than none.
//!
//! A drive that an operator says is lost ([`Health::Lost`]) is retired, too, and in no run any more: what was there is made elsewhere, from other legs.
//!
//! A drive that is slow beside the others ([`Health::Slow`]) is retired, too, one a rack. Where the volume can spare it its leg is taken out at once
//! ([`dispensable`]), stays out while it can, and is made elsewhere; else it stays in, and an operator is told.
//!
//! Invariants: a leg in sync is taken out by the commit alone, which asks [`spares`] of the ledger as it is then. Which drive is chosen stays out of the state machine: nodes with another version of placement must
//! not come to another ledger.

use crate::command::{LegRef, VolumeCommand};
use crate::state::{Health, Leg, LegState, Phase, State, Volume};
use crate::target::LegOf;
use model::{DriveId, Epoch, LegId, NodeId, PlacedLeg, VolumeId, ZoneName};

/// So many legs in sync are enough to do without a slow one.
const ENOUGH: usize = 2;

/// The legs on retired drives that are not in sync and can go elsewhere now, each with the command that begins it. Only of open volumes: others have
/// nothing to copy from. One in sync is moved when somebody asks for that: while both are there the owner's array needs a place more.
pub fn moves(ledger: &State, lives: impl Fn(NodeId) -> bool) -> Vec<(VolumeId, Epoch, VolumeCommand)> {
    let mut moves = Vec::new();
    for (id, volume) in &ledger.volumes {
        if !matches!(volume.phase, Phase::Open { .. }) {
            continue;
        }
        for (leg, found) in &volume.legs {
            let retired = ledger.drives.get(&found.drive).is_some_and(|drive| drive.retired);
            if !retired || found.state == LegState::InSync || is_replaced(ledger, (*id, *leg)) {
                continue;
            }
            if let Some(to) = refuge(ledger, (*id, *leg), &lives) {
                let leg = LegRef { id: *leg, incarnation: found.incarnation };
                moves.push((*id, volume.epoch, VolumeCommand::MoveLeg { leg, to }));
            }
        }
    }
    moves
}

/// Legs on drives that are slow, of volumes that can spare them. They are taken out at once; every write would wait for them.
pub fn dispensable(ledger: &State) -> Vec<(VolumeId, Epoch, VolumeCommand)> {
    let mut spared = Vec::new();
    for (id, volume) in &ledger.volumes {
        let open = matches!(volume.phase, Phase::Open { .. });
        for (leg, found) in volume.in_sync().filter(|(leg, _)| open && spares(ledger, volume, *leg)) {
            let leg = LegRef { id: leg, incarnation: found.incarnation };
            spared.push((*id, volume.epoch, VolumeCommand::LegSpared(leg)));
        }
    }
    spared
}

/// Whether a volume can do without a leg on a slow drive: two others are in sync on drives that nothing is said against, and one of them in each
/// rack that has legs of it. So no rack is all that is left, whatever is slow.
pub fn spares(ledger: &State, volume: &Volume, leg: LegId) -> bool {
    let drive = |leg: &Leg| ledger.drives.get(&leg.drive);
    let is_good = |leg: &Leg| drive(leg).is_some_and(|drive| drive.health == Health::Good && !drive.retired);
    let is_slow = |leg: &Leg| drive(leg).is_some_and(|drive| drive.health == Health::Slow);
    let rack = |leg: &Leg| rack_of(ledger, leg.drive);
    let others: Vec<&Leg> =
        volume.in_sync().filter(|(id, found)| *id != leg && is_good(found)).map(|(_, found)| found).collect();
    volume.legs.get(&leg).is_some_and(is_slow)
        && others.len() >= ENOUGH
        && volume.legs.values().all(|found| others.iter().any(|other| rack(other) == rack(found)))
}

/// In which rack a drive is; `None`: in none, or unknown.
pub fn rack_of(ledger: &State, drive: DriveId) -> Option<&ZoneName> {
    ledger.nodes.get(&ledger.drives.get(&drive)?.node)?.zone.as_ref()
}

/// Whether a leg that is not in sync waits to be made elsewhere, instead of being brought up to date where it is.
pub fn leaves(ledger: &State, id: LegOf) -> bool {
    let Some(volume) = ledger.volumes.get(&id.0) else { return false };
    let Some(leg) = volume.legs.get(&id.1).filter(|leg| leg.state != LegState::InSync) else { return false };
    match ledger.drives.get(&leg.drive).map_or(Health::Good, |drive| drive.health) {
        Health::Good => false,
        Health::Slow => is_replaced(ledger, id) || spares(ledger, volume, id.1),
        Health::Erred | Health::Lost => is_replaced(ledger, id) || refuge(ledger, id, |_| true).is_some(),
    }
}

fn is_replaced(ledger: &State, (volume, leg): LegOf) -> bool {
    let legs = ledger.volumes.get(&volume).into_iter().flat_map(|volume| volume.legs.values());
    legs.into_iter().any(|other| other.replaces == Some(leg))
}

/// Another drive for a leg, in its rack, on a node that lives and holds no other leg of the volume.
fn refuge(ledger: &State, id: LegOf, lives: impl Fn(NodeId) -> bool) -> Option<DriveId> {
    let volume = ledger.volumes.get(&id.0)?;
    let mut pool = ledger.pool();
    for node in &mut pool.nodes {
        let there = lives(node.id);
        for drive in &mut node.drives {
            // One leg a drive, also while one takes the other's place.
            let holds = volume.legs.values().any(|leg| leg.drive == drive.id);
            drive.usable = drive.usable && there && !holds;
        }
    }
    // The two of a move are one copy: they may be on one node.
    let replaces = volume.legs.get(&id.1)?.replaces;
    let is_other = |leg: &PlacedLeg| leg.volume != id.0 || Some(leg.leg) != replaces;
    let legs: Vec<PlacedLeg> = ledger.placed().into_iter().filter(is_other).collect();
    let placed = placement::replace(&pool, &legs, id, LegId(u16::MAX));
    placed.ok().map(|placed| placed.drive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ClusterCommand, Command, Event, Rejected};
    use crate::state::{Cache, Doubt};
    use crate::testing::{VOLUME, leg_ref, must, now, open, run, volume, with_volume};
    use model::Mirror;

    /// Two racks of one node with two drives each; the volume has a leg on drive 1 and one on drive 3.
    fn two_drives_a_node() -> State {
        let mut state = with_volume(2, 2, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut state, &[1, 2]);
        state
    }

    fn errs(state: &mut State, leg: u16) -> Vec<Event> {
        let suspect = now(state, VolumeCommand::LegSuspect(leg_ref(state, leg)));
        must(state, &suspect)
    }

    fn drive_of(state: &State, leg: u16) -> DriveId {
        volume(state).legs[&LegId(leg)].drive
    }

    fn begin(state: &mut State) -> DriveId {
        let moves = moves(state, |_| true);
        let [(id, epoch, command)] = &moves[..] else { panic!("{moves:?}") };
        let VolumeCommand::MoveLeg { to, .. } = command else { panic!("{command:?}") };
        must(state, &Command::Volume(*id, *epoch, command.clone()));
        *to
    }

    #[test]
    fn a_drive_that_errs_is_retired_at_once_and_its_leg_goes_to_the_other_drive_of_its_node() {
        let mut state = two_drives_a_node();
        assert_eq!(moves(&state, |_| true), []);
        let bad = drive_of(&state, 2);
        let events = errs(&mut state, 2);
        assert!(events.contains(&Event::DriveErred(bad)), "{events:?}");
        assert!(state.drives[&bad].retired);
        assert!(leaves(&state, (VOLUME, LegId(2))), "it is not rebuilt where it erred");
        let to = begin(&mut state);
        assert_eq!(state.drives[&to].node, state.drives[&bad].node);
        assert_ne!(to, bad);
        assert_eq!(volume(&state).legs[&LegId(3)].replaces, Some(LegId(2)));
        assert_eq!(moves(&state, |_| true), [], "one move is enough");
        assert!(leaves(&state, (VOLUME, LegId(2))));
        assert!(!leaves(&state, (VOLUME, LegId(3))));
    }

    #[test]
    fn a_leg_that_can_go_nowhere_is_brought_up_to_date_where_it_is() {
        let mut state = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut state, &[1, 2]);
        errs(&mut state, 2);
        assert_eq!(moves(&state, |_| true), []);
        assert!(!leaves(&state, (VOLUME, LegId(2))));
        let (leg, run) = (leg_ref(&state, 2), run(NodeId(2), 1, 1));
        let back = now(&state, VolumeCommand::Reexport { leg, run });
        must(&mut state, &back);
    }

    #[test]
    fn a_leg_goes_to_no_node_that_is_away() {
        let mut state = two_drives_a_node();
        errs(&mut state, 2);
        assert_eq!(moves(&state, |node| node != NodeId(2)), []);
        assert!(leaves(&state, (VOLUME, LegId(2))), "it waits for its node");
    }

    #[test]
    fn nothing_is_moved_of_a_volume_that_has_nothing_to_copy_from() {
        let mut state = two_drives_a_node();
        errs(&mut state, 1);
        errs(&mut state, 2);
        assert_eq!(volume(&state).phase, Phase::Offline);
        assert_eq!(moves(&state, |_| true), []);
    }

    /// It is moved when somebody asks for that.
    #[test]
    fn a_leg_in_sync_on_a_retired_drive_stays() {
        let mut state = two_drives_a_node();
        let old = drive_of(&state, 2);
        must(&mut state, &Command::Cluster(ClusterCommand::RetireDrive(old)));
        assert_eq!(moves(&state, |_| true), []);
        assert_eq!(volume(&state).in_sync().count(), 2);
        assert_eq!(state.drives[&old].health, Health::Good);
    }

    /// The drive that a leg is moved to errs, too: it goes elsewhere, which is not back.
    #[test]
    fn a_move_whose_new_drive_errs_is_turned_elsewhere() {
        let mut state = with_volume(2, 3, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut state, &[1, 2]);
        errs(&mut state, 2);
        let first = begin(&mut state);
        let bad = drive_of(&state, 2);
        let events = errs(&mut state, 3);
        assert!(events.contains(&Event::DriveErred(first)), "{events:?}");
        let second = begin(&mut state);
        assert!(second != first && second != bad);
        assert_eq!(volume(&state).legs[&LegId(4)].replaces, Some(LegId(2)));
        assert!(!volume(&state).legs.contains_key(&LegId(3)));
    }

    #[test]
    fn a_leg_on_a_slow_drive_is_taken_out_where_enough_others_are_in_sync_and_stays_out() {
        let mut state = with_volume(4, 1, Mirror::FourWay, &[Cache::Safe]);
        open(&mut state, &[1, 2, 3, 4]);
        assert_eq!(dispensable(&state), []);
        let slow = drive_of(&state, 2);
        must(&mut state, &Command::Cluster(ClusterCommand::DriveSlow(slow)));
        let wanted = VolumeCommand::LegSpared(leg_ref(&state, 2));
        assert_eq!(dispensable(&state), [(VOLUME, volume(&state).epoch, wanted.clone())]);
        let lost = now(&state, wanted);
        must(&mut state, &lost);
        assert!(leaves(&state, (VOLUME, LegId(2))));
        assert_eq!(dispensable(&state), []);
        for leg in [3, 4] {
            let lost = now(&state, VolumeCommand::LegStale(leg_ref(&state, leg)));
            must(&mut state, &lost);
        }
        assert!(!leaves(&state, (VOLUME, LegId(2))), "a slow copy is better than none");
    }

    #[test]
    fn the_one_other_copy_of_a_two_way_mirror_stays() {
        let mut state = two_drives_a_node();
        let slow = drive_of(&state, 2);
        must(&mut state, &Command::Cluster(ClusterCommand::DriveSlow(slow)));
        assert_eq!((dispensable(&state), moves(&state, |_| true)), (vec![], vec![]));
        let spared = now(&state, VolumeCommand::LegSpared(leg_ref(&state, 2)));
        assert_eq!(state.apply(&spared).err(), Some(Rejected::NotSpared(LegId(2))));
        must(&mut state, &Command::Cluster(ClusterCommand::ReadmitDrive(slow)));
        assert!(!state.drives[&slow].retired);
    }

    /// Two others in sync are not enough if both are in the other rack, or if what was seen is over when it is committed.
    #[test]
    fn no_rack_loses_its_last_good_leg_to_a_slow_drive() {
        let mut state = with_volume(4, 1, Mirror::FourWay, &[Cache::Safe]);
        open(&mut state, &[1, 2, 3, 4]);
        let slow = drive_of(&state, 2);
        must(&mut state, &Command::Cluster(ClusterCommand::DriveSlow(slow)));
        let spared = now(&state, VolumeCommand::LegSpared(leg_ref(&state, 2)));
        let rack = |leg| rack_of(&state, drive_of(&state, leg)).cloned();
        let neighbour = [1, 3, 4].into_iter().find(|leg| rack(*leg) == rack(2)).unwrap();
        let lost = now(&state, VolumeCommand::LegStale(leg_ref(&state, neighbour)));
        must(&mut state, &lost);
        assert_eq!(volume(&state).in_sync().count(), 3);
        assert_eq!(dispensable(&state), []);
        assert_eq!(state.apply(&spared).err(), Some(Rejected::NotSpared(LegId(2))));
    }

    #[test]
    fn one_drive_of_a_rack_is_slow_at_a_time() {
        let mut state = with_volume(2, 2, Mirror::TwoWay, &[Cache::Safe]);
        let of = |rack| {
            let drives = state.drives.keys().copied();
            drives.filter(|drive| rack_of(&state, *drive) == rack).collect::<Vec<_>>()
        };
        let [first, second] = of(rack_of(&state, DriveId(1)))[..] else { panic!("two drives a rack") };
        let say = |drive| Command::Cluster(ClusterCommand::DriveSlow(drive));
        must(&mut state, &say(first));
        assert_eq!(state.apply(&say(second)).err(), Some(Rejected::SlowInRack(first)));
    }

    #[test]
    fn only_errors_retire() {
        let mut state = with_volume(2, 2, Mirror::TwoWay, &[Cache::Volatile]);
        open(&mut state, &[1, 2]);
        let again = run(NodeId(2), 2, 2);
        let booted = crate::testing::register(&state, NodeId(2), again);
        must(&mut state, &booted);
        let takeover = now(&state, VolumeCommand::Takeover { owner: NodeId(1), lease_over: true });
        must(&mut state, &takeover);
        let leg = leg_ref(&state, 2);
        let confirm = now(&state, VolumeCommand::ConfirmFence { leg, run: again, errored: false });
        must(&mut state, &confirm);
        let forgot = LegState::Suspect { why: Doubt::CacheLost };
        assert_eq!(volume(&state).legs[&LegId(2)].state, forgot);
        assert!(state.drives.values().all(|drive| !drive.retired));
    }
}
