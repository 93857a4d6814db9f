//! The state machine by example, by random sequences, and by its table.

mod lost;
mod whole;

use crate::bug::{Bug, Bugs};
use crate::command::{ClusterCommand, Command, Event, LegRef, Rejected, VolumeCommand as V};
use crate::state::{Base, Cache, Doubt, Leaving, Leg, LegState, Phase, RebuildRate, State, Subject, Voters};
use crate::testing::{
    VOLUME, close, cluster, does, hand_over, leg_ref, must, now, open, opened, play, refused, register, run,
    says_it_all, volume, with_volume,
};
use crate::transition::{LEGS, LegCause, PhaseKind, VOLUMES, VolumeCause};
use crate::{Broken, check, check_step};
use model::{
    DriveId, Epoch, Extent, LedgerIncarnation, LegId, MapSequence, Mirror, NodeId, Provision, SLAB_BYTES,
    VolumeId,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn two_way(caches: &[Cache]) -> State {
    let mut state = with_volume(4, 1, Mirror::TwoWay, caches);
    open(&mut state, &[1, 2]);
    state
}

fn on(state: &mut State, id: u16, command: impl FnOnce(LegRef) -> V) {
    let leg = leg_ref(state, id);
    does(state, command(leg));
}

fn leg(state: &State, id: u16) -> LegState {
    volume(state).legs[&LegId(id)].state
}

const STALE: LegState = LegState::Stale { base: Base::Changes, back: false };
const BACK: LegState = LegState::Stale { base: Base::Changes, back: true };

#[test]
fn a_leg_is_lost_comes_back_and_is_in_sync_under_a_new_incarnation() {
    let mut state = two_way(&[Cache::Safe]);
    let (before, run) = (leg_ref(&state, 2), run(NodeId(2), 1, 1));
    does(&mut state, V::LegStale(before));
    assert_eq!(leg(&state, 2), STALE);
    assert_eq!(refused(&state, V::BeginRebuild(before)), Rejected::NotBack);
    does(&mut state, V::Reexport { leg: before, run });
    assert_eq!(leg(&state, 2), BACK);
    assert_eq!(
        refused(&state, V::BeginRebuild(before)),
        Rejected::OtherIncarnation { present: before.incarnation.next() }
    );
    let after = leg_ref(&state, 2);
    assert_eq!(refused(&state, V::Reexport { leg: after, run }), Rejected::AlreadyBack);
    does(&mut state, V::BeginRebuild(after));
    let behind = MapSequence(0);
    let present = volume(&state).map_sequence;
    assert_eq!(refused(&state, V::LegInSync { leg: after, maps: behind }), Rejected::MapSequence { present });
    does(&mut state, V::LegInSync { leg: after, maps: present });
    assert_eq!(leg(&state, 2), LegState::InSync);
}

#[test]
fn the_last_in_sync_leg_is_never_let_go() {
    let mut state = two_way(&[Cache::Safe]);
    let (first, second) = (leg_ref(&state, 1), leg_ref(&state, 2));
    does(&mut state, V::LegStale(second));
    assert_eq!(refused(&state, V::LegStale(first)), Rejected::NoInSyncLegLeft);
}

#[test]
fn the_old_owner_can_let_nothing_go_once_a_takeover_has_begun() {
    let mut state = two_way(&[Cache::Safe]);
    let old = now(&state, V::LegStale(leg_ref(&state, 2)));
    does(&mut state, V::Takeover { owner: NodeId(2), lease_over: true });
    let present = volume(&state).epoch;
    assert_eq!(state.clone().apply(&old), Err(Rejected::Superseded { present }));
    let leg = leg_ref(&state, 1);
    assert_eq!(refused(&state, V::LegStale(leg)), Rejected::WrongPhase { phase: PhaseKind::Fencing });
}

#[test]
fn activation_marks_the_unconfirmed_stale_and_needs_one_that_is_confirmed() {
    let mut state = two_way(&[Cache::Safe]);
    does(&mut state, V::Takeover { owner: NodeId(2), lease_over: true });
    assert_eq!(refused(&state, V::Activate), Rejected::NothingConfirmed);
    let leg_2 = leg_ref(&state, 2);
    let wrong = run(NodeId(2), 2, 1);
    let registered = Some(run(NodeId(2), 1, 1));
    let confirm = |run| V::ConfirmFence { leg: leg_2, run, errored: false };
    assert_eq!(refused(&state, confirm(wrong)), Rejected::OtherRun { registered });
    does(&mut state, confirm(run(NodeId(2), 1, 1)));
    does(&mut state, V::Activate);
    assert_eq!((leg(&state, 1), leg(&state, 2)), (STALE, LegState::InSync));
    let late = V::ConfirmFence { leg: leg_ref(&state, 2), run: run(NodeId(2), 1, 1), errored: false };
    assert_eq!(refused(&state, late), Rejected::WrongPhase { phase: PhaseKind::Opening });
}

#[test]
fn a_confirmation_does_not_outlive_its_run() {
    let mut state = two_way(&[Cache::Safe]);
    does(&mut state, V::Takeover { owner: NodeId(2), lease_over: true });
    for (id, node) in [(1, NodeId(1)), (2, NodeId(2))] {
        let leg = leg_ref(&state, id);
        does(&mut state, V::ConfirmFence { leg, run: run(node, 1, 1), errored: false });
    }
    let restarted = register(&state, NodeId(1), run(NodeId(1), 2, 2));
    must(&mut state, &restarted);
    does(&mut state, V::Activate);
    assert_eq!((leg(&state, 1), leg(&state, 2)), (STALE, LegState::InSync));
}

/// After power loss everywhere: both confirm in new runs, and the last set is whole.
#[test]
fn a_safe_drive_keeps_its_leg_through_a_restart_and_a_volatile_one_does_not() {
    for (cache, expected) in
        [(Cache::Safe, LegState::InSync), (Cache::Volatile, LegState::Suspect { why: Doubt::CacheLost })]
    {
        let mut state = two_way(&[Cache::Safe, cache]);
        for node in [NodeId(1), NodeId(2)] {
            let restarted = register(&state, node, run(node, 2, 2));
            must(&mut state, &restarted);
        }
        does(&mut state, V::Takeover { owner: NodeId(1), lease_over: true });
        for (id, node) in [(1, NodeId(1)), (2, NodeId(2))] {
            let leg = leg_ref(&state, id);
            does(&mut state, V::ConfirmFence { leg, run: run(node, 2, 2), errored: false });
        }
        does(&mut state, V::Activate);
        assert_eq!((leg(&state, 1), leg(&state, 2)), (LegState::InSync, expected));
    }
}

#[test]
fn a_restarted_target_gets_a_new_incarnation_only_when_its_leg_was_let_go_or_is_the_last() {
    let mut state = two_way(&[Cache::Safe]);
    let new_run = run(NodeId(2), 2, 2);
    let restarted = register(&state, NodeId(2), new_run);
    must(&mut state, &restarted);
    let second = leg_ref(&state, 2);
    assert_eq!(refused(&state, V::Reexport { leg: second, run: new_run }), Rejected::StillInSync);
    on(&mut state, 1, V::LegStale);
    does(&mut state, V::Reexport { leg: second, run: new_run });
    assert_eq!(leg(&state, 2), LegState::InSync);
    assert_eq!(leg_ref(&state, 2).incarnation, second.incarnation.next());
}

#[test]
fn a_volume_whose_last_leg_erred_is_offline_until_an_override_that_is_written_down() {
    let mut state = two_way(&[Cache::Safe]);
    on(&mut state, 2, V::LegStale);
    on(&mut state, 1, V::LegSuspect);
    assert_eq!(volume(&state).phase, Phase::Offline);
    assert_eq!(
        refused(&state, V::Takeover { owner: NodeId(2), lease_over: true }),
        Rejected::VolumeCannot { phase: PhaseKind::Offline, cause: VolumeCause::Takeover }
    );
    let leg_1 = leg_ref(&state, 1);
    let (by, loses) = ("operator".to_owned(), "what could not be read".to_owned());
    does(&mut state, V::Override { leg: leg_1, owner: NodeId(1), by, loses });
    assert_eq!(leg(&state, 2), LegState::Stale { base: Base::Scratch, back: false });
    assert_eq!(state.overrides.len(), 1);
    // The drive's counters still say why it was overridden.
    let run = state.run(volume(&state).legs[&LegId(1)].drive).unwrap();
    on(&mut state, 1, |leg| V::ConfirmFence { leg, run, errored: true });
    assert_eq!(leg(&state, 1), LegState::InSync);
    open(&mut state, &[]);
    let takeover = V::Takeover { owner: NodeId(1), lease_over: true };
    does(&mut state, takeover);
    on(&mut state, 1, |leg| V::ConfirmFence { leg, run, errored: true });
    assert_eq!(volume(&state).phase, Phase::Offline, "what it has counted since is news");
}

#[test]
fn forced_quorum_proves_nothing_and_begins_epochs_above_all_others() {
    let mut state = two_way(&[Cache::Safe]);
    let before = volume(&state).epoch;
    let (by, loses) = ("operator".to_owned(), "the last writes".to_owned());
    let (incarnation, voters) = (LedgerIncarnation(9), BTreeSet::from([NodeId(1)]));
    let force = Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses });
    must(&mut state, &force);
    assert_eq!(state.apply(&force), Err(Rejected::NotLater(incarnation)));
    assert!(volume(&state).epoch > Epoch { number: u32::MAX, ..before });
    assert_eq!(leg(&state, 1), LegState::Suspect { why: Doubt::Unproven });
    assert_eq!(check(&state), []);
}

#[test]
fn a_clean_close_keeps_every_leg_and_a_handover_moves_epoch_and_side_at_once() {
    let mut state = two_way(&[Cache::Volatile]);
    let over = hand_over(&state, NodeId(2));
    does(&mut state, over);
    assert_eq!((volume(&state).owner, volume(&state).running), (NodeId(2), Some(NodeId(2))));
    assert!(matches!(volume(&state).phase, Phase::Opening { make_equal: false, .. }));
    opened(&mut state);
    let closed = close(&state);
    does(&mut state, closed);
    let restarted = register(&state, NodeId(2), run(NodeId(2), 2, 2));
    must(&mut state, &restarted);
    does(&mut state, V::Open { owner: NodeId(1) });
    let id = LegId(2);
    assert!(state.same_run(&volume(&state).legs[&id]), "it was flushed when it was closed");
}

#[test]
fn a_moved_leg_goes_in_the_commit_that_makes_its_successor_in_sync() {
    let mut state = two_way(&[Cache::Safe]);
    let old = leg_ref(&state, 2);
    assert_eq!(refused(&state, V::MoveLeg { leg: old, to: DriveId(1) }), Rejected::DriveInUse(DriveId(1)));
    does(&mut state, V::MoveLeg { leg: old, to: DriveId(3) });
    assert_eq!(refused(&state, V::MoveLeg { leg: old, to: DriveId(4) }), Rejected::Moving);
    let going = leg_ref(&state, 3);
    does(&mut state, V::MoveLeg { leg: going, to: DriveId(4) });
    on(&mut state, 4, |leg| V::Reexport { leg, run: run(NodeId(4), 1, 1) });
    on(&mut state, 4, V::BeginRebuild);
    assert_eq!(leg(&state, 2), LegState::InSync);
    let maps = volume(&state).map_sequence;
    on(&mut state, 4, |leg| V::LegInSync { leg, maps });
    assert_eq!(volume(&state).legs.keys().map(|leg| leg.0).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(check(&state), []);
}

fn extents(state: &State, id: u16) -> Vec<Extent> {
    volume(state).legs[&LegId(id)].extents.clone()
}

fn freed(drive: u32, leg: u16) -> Command {
    Command::Cluster(ClusterCommand::Freed { drive: DriveId(drive), volume: VOLUME, leg: LegId(leg) })
}

#[test]
fn the_slabs_of_a_leg_that_went_are_nobody_s_until_its_target_says_so() {
    let mut state = two_way(&[Cache::Safe]);
    let first = vec![Extent { first: 0, count: 1 }];
    assert_eq!(extents(&state, 2), first);
    on(&mut state, 2, |leg| V::MoveLeg { leg, to: DriveId(3) });
    assert_eq!(state.apply(&freed(2, 2)), Err(Rejected::NotLeaving(LegId(2), VOLUME)), "it is still there");
    on(&mut state, 3, |leg| V::Reexport { leg, run: run(NodeId(3), 1, 1) });
    on(&mut state, 3, V::BeginRebuild);
    let maps = volume(&state).map_sequence;
    on(&mut state, 3, |leg| V::LegInSync { leg, maps });
    assert_eq!(state.drives[&DriveId(2)].leaving[0].extents, first);
    on(&mut state, 3, |leg| V::MoveLeg { leg, to: DriveId(2) });
    assert_eq!(extents(&state, 4), [Extent { first: 1, count: 1 }]);
    assert_eq!(must(&mut state, &freed(2, 2)), [Event::LegFreed(VOLUME, LegId(2))]);
    assert_eq!(state.apply(&freed(2, 2)), Err(Rejected::NotLeaving(LegId(2), VOLUME)), "twice is once");
    on(&mut state, 4, |leg| V::MoveLeg { leg, to: DriveId(4) });
    on(&mut state, 5, |leg| V::MoveLeg { leg, to: DriveId(2) });
    assert_eq!(extents(&state, 6), first, "they are free");
    let closed = close(&state);
    does(&mut state, closed);
    does(&mut state, V::Delete);
    let left =
        |drive| state.drives[&DriveId(drive)].leaving.iter().map(|gone| gone.leg.0).collect::<Vec<_>>();
    assert_eq!([1, 2, 3, 4].map(left), [vec![1], vec![4, 6], vec![3], vec![5]]);
    assert_eq!(check(&state), []);
}

#[test]
fn a_leg_has_room_for_its_metadata_and_gets_more_where_it_is() {
    let mut state = cluster(2, 1, &[Cache::Safe]);
    let create = |name: &str, size_bytes, provision| {
        Command::Cluster(ClusterCommand::CreateVolume {
            name: name.parse().unwrap(),
            mirror: Mirror::TwoWay,
            provision,
            size_bytes,
            drives: vec![DriveId(1), DriveId(2)],
            owner: NodeId(1),
        })
    };
    must(&mut state, &create("one", SLAB_BYTES, Provision::Fixed));
    must(&mut state, &create("two", 4 * SLAB_BYTES, Provision::Thin));
    assert_eq!(extents(&state, 1), [Extent { first: 0, count: 2 }], "one slab of data and its metadata");
    open(&mut state, &[1, 2]);
    does(&mut state, V::Grow { size_bytes: 3 * SLAB_BYTES });
    assert_eq!(extents(&state, 1), [Extent { first: 0, count: 2 }, Extent { first: 4, count: 2 }]);
    let odd = state.clone().apply(&create("odd", 4097, Provision::Fixed));
    assert_eq!(odd, Err(Rejected::Size { size_bytes: 4097 }));
    // 15 slabs, 6 of them held.
    let large = state.clone().apply(&create("large", 10 * SLAB_BYTES, Provision::Fixed));
    assert_eq!(large, Err(Rejected::NoRoom { drive: DriveId(1), missing_slabs: 2 }));
    must(&mut state, &create("fits", 8 * SLAB_BYTES, Provision::Fixed));
    assert_eq!(check(&state), []);
}

#[test]
fn what_is_kept_free_for_a_drive_that_fails_is_given_to_its_legs_alone() {
    let mut state = cluster(2, 2, &[Cache::Safe]);
    let create = |name: &str, size_bytes, drives: [u32; 2]| {
        Command::Cluster(ClusterCommand::CreateVolume {
            name: name.parse().unwrap(),
            mirror: Mirror::TwoWay,
            provision: Provision::Fixed,
            size_bytes,
            drives: drives.map(DriveId).to_vec(),
            owner: NodeId(1),
        })
    };
    must(&mut state, &create("one", 9 * SLAB_BYTES, [1, 3]));
    // 30 slabs on the node, 15 of them kept, 10 held.
    let refused = state.clone().apply(&create("two", 5 * SLAB_BYTES, [2, 4]));
    assert_eq!(refused, Err(Rejected::Reserve { node: NodeId(1), missing_slabs: 1 }));
    must(&mut state, &create("two", 4 * SLAB_BYTES, [2, 4]));
    let replace = ClusterCommand::ReplaceDrive { drive: DriveId(1), with: DriveId(2) };
    must(&mut state, &Command::Cluster(replace));
    assert_eq!(extents(&state, 3), [Extent { first: 5, count: 10 }]);
    assert_eq!(check(&state), []);
}

/// The checks can fail: each way to break the map is named.
#[test]
fn the_checks_find_what_is_wrong_with_slabs() {
    let good = two_way(&[Cache::Safe]);
    let with = |change: &dyn Fn(&mut Leg)| {
        let mut state = good.clone();
        change(state.volumes.get_mut(&VOLUME).unwrap().legs.get_mut(&LegId(2)).unwrap());
        let broken: Vec<Broken> = check(&state).into_iter().chain(check_step(&good, &state)).collect();
        (state, broken)
    };
    assert_eq!(with(&|_| {}).1, []);
    assert_eq!(with(&|leg| leg.extents.clear()).1[0], Broken::TooFewSlabs(VOLUME, LegId(2)));
    assert_eq!(with(&|leg| leg.extents[0].count = 16).1, [Broken::OffTheDrive(DriveId(2))]);
    let moved = [Broken::Moved(VOLUME, LegId(2)), Broken::TakenAway(DriveId(2), 0)];
    assert_eq!(with(&|leg| leg.extents[0].first = 3).1, moved);
    let (mut state, _) = with(&|_| {});
    let of_another = Leaving {
        volume: VolumeId(9),
        leg: LegId(1),
        epoch: volume(&state).epoch,
        incarnation: model::Incarnation(1),
        extents: extents(&state, 2),
    };
    state.drives.get_mut(&DriveId(2)).unwrap().leaving.push(of_another);
    assert_eq!(check(&state), [Broken::SharedSlab(DriveId(2), 0)]);
    state.volumes.clear();
    assert!(check_step(&good, &state).contains(&Broken::TakenAway(DriveId(2), 0)));
}

/// What happens if slabs were free at once.
#[test]
fn a_slab_that_is_free_at_once_is_noticed() {
    let state = two_way(&[Cache::Safe]);
    let mut closed = state.clone();
    let close = close(&closed);
    does(&mut closed, close);
    let mut after = closed.clone();
    let delete = now(&after, V::Delete);
    after.apply_with(&delete, Bugs::with(Bug::FreeAtOnce)).unwrap();
    let taken = [Broken::TakenAway(DriveId(1), 0), Broken::TakenAway(DriveId(2), 0)];
    assert_eq!(check_step(&closed, &after), taken);
}

#[test]
fn voters_are_odd_and_change_one_change_at_a_time() {
    let mut state = cluster(2, 1, &[Cache::Safe]);
    let set = |ids: &[u32]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
    let change = |ids: &[u32]| Command::Cluster(ClusterCommand::ChangeVoters(set(ids)));
    must(&mut state, &change(&[1, 2, 3]));
    assert_eq!(state.apply(&change(&[1])), Err(Rejected::VotersChanging));
    must(&mut state, &Command::Cluster(ClusterCommand::VotersSettled));
    assert_eq!(state.apply(&change(&[1, 2])), Err(Rejected::EvenVoters));
    assert_eq!(state.voters, Voters::Settled(set(&[1, 2, 3])));
}

#[test]
fn a_node_that_lost_its_ledger_comes_back_under_a_new_id_with_its_drives_and_nothing_promised() {
    let mut state = two_way(&[Cache::Safe]);
    let replace = |lost| Command::Cluster(ClusterCommand::ReplaceNode { lost: NodeId(lost) });
    assert_eq!(must(&mut state, &replace(2)), [Event::NodeAdded(NodeId(6))]);
    assert_eq!(state.nodes[&NodeId(6)].name, state.nodes[&NodeId(2)].name);
    assert!(state.drives.values().all(|drive| drive.node != NodeId(2)));
    assert!(!state.same_run(&volume(&state).legs[&LegId(2)]), "its run is none until it registers");
    assert_eq!(state.apply(&replace(2)), Err(Rejected::NameTaken), "it has been replaced");
    must(&mut state, &Command::Cluster(ClusterCommand::RemoveNode(NodeId(2))));
    assert_eq!(check(&state), []);
}

#[test]
fn no_more_legs_are_rebuilt_on_a_node_than_may_be() {
    let mut state = with_volume(2, 3, Mirror::TwoWay, &[Cache::Safe]);
    open(&mut state, &[1, 2]);
    state.settings.rebuilds_per_node_max = 0;
    let run = run(NodeId(2), 1, 1);
    on(&mut state, 2, V::LegStale);
    on(&mut state, 2, |leg| V::Reexport { leg, run });
    let leg = leg_ref(&state, 2);
    assert_eq!(refused(&state, V::BeginRebuild(leg)), Rejected::RebuildLimit(NodeId(2)));
}

/// What an operator, or the decider, says of a drive.
fn about_drive(drive: DriveId, (b, c): (u8, u8)) -> ClusterCommand {
    match c % 4 {
        0 if b < 40 => ClusterCommand::DriveLost(drive),
        0 => ClusterCommand::RetireDrive(drive),
        1 => ClusterCommand::DriveSlow(drive),
        _ => ClusterCommand::ReadmitDrive(drive),
    }
}

/// A command that some participant of this state could send, or one from long ago, from a few random bytes.
fn command(state: &State, log: &[Command], pick: [u8; 4]) -> Command {
    let ([what, a, b, c], node) = (pick, NodeId(1 + u32::from(pick[1] % 5)));
    if what >= 250 && !log.is_empty() {
        return log[usize::from(a) * log.len() / 256].clone();
    }
    let (cluster, text) = (Command::Cluster, || "a test".to_owned());
    let Some((id, volume)) = state.volumes.iter().nth(usize::from(a) % state.volumes.len().max(1)) else {
        return create(pick);
    };
    let Some((leg, found)) = volume.legs.iter().nth(usize::from(b) % volume.legs.len()) else {
        return create(pick);
    };
    let (leg_node, maps) = (state.node_of(found).unwrap(), volume.map_sequence);
    let leg_run = state.run(found.drive).unwrap_or(run(leg_node, 1, 1));
    let (leg, owner) = (LegRef { id: *leg, incarnation: found.incarnation }, NodeId(1 + u32::from(c % 4)));
    // Seldom one less.
    let flushed = || volume.named_in_sync().into_iter().skip(usize::from(b % 8 == 0)).collect();
    let about = match what % 62 {
        0 => return create(pick),
        1 => {
            let (boots, cycles) = (u32::from(b % 3) + 1, u32::from(c % 3) + 1);
            return register(state, node, run(node, boots, cycles));
        }
        2 if c < 40 => {
            let (voters, incarnation) =
                (BTreeSet::from([node]), LedgerIncarnation(state.incarnation.0 + u32::from(b % 3)));
            return cluster(ClusterCommand::ForceQuorum { incarnation, voters, by: text(), loses: text() });
        }
        2 if c >= 200 => return cluster(ClusterCommand::ReplaceNode { lost: node }),
        3 if c < 60 => {
            let nodes = [node, NodeId(1 + u32::from(b % 5))].into();
            return cluster(ClusterCommand::NodesLeave { nodes });
        }
        3 => return cluster(ClusterCommand::ChangeVoters((1..=u32::from(a % 6)).map(NodeId).collect())),
        4 => return cluster(ClusterCommand::VotersSettled),
        5 => return cluster(about_drive(DriveId(u32::from(a % 9)), (b, c))),
        6 => {
            let (drive, with) = (DriveId(u32::from(a % 9)), DriveId(u32::from(b % 9)));
            return cluster(ClusterCommand::ReplaceDrive { drive, with });
        }
        7 if c < 100 => return cluster(ClusterCommand::RemoveNode(node)),
        7 => return cluster(ClusterCommand::RemoveDrive(DriveId(u32::from(b % 9)))),
        8 if c >= 40 => {
            let gone = state.drives.iter().flat_map(|(id, drive)| drive.leaving.iter().map(|leg| (*id, leg)));
            let known = gone.map(|(drive, gone)| (drive, gone.volume, gone.leg)).nth(usize::from(b % 3));
            let (drive, volume, leg) = known.unwrap_or((found.drive, *id, leg.id));
            return cluster(ClusterCommand::Freed { drive, volume, leg });
        }
        8 if c < 20 => V::Delete,
        54 | 55 => V::Map { extents: BTreeSet::from([u64::from(b % 6), u64::from(c % 7)]) },
        9 => V::Grow { size_bytes: volume.size_bytes + (u64::from(c) << 18) },
        10 => V::MoveLeg { leg, to: DriveId(1 + u32::from(c % 8)) },
        11 if c < 60 => V::Override { leg, owner, by: text(), loses: text() },
        12 => V::Running((c > 60).then_some(owner)),
        13 | 14 => V::Takeover { owner, lease_over: c > 60 },
        15 => V::Open { owner },
        16 => V::HandOver { to: owner, flushed: flushed() },
        17 if c < 40 => V::Close { flushed: flushed() },
        17 => {
            let (node, boot) = volume.yielding.first_key_value().unwrap_or((&owner, &leg_run.boot));
            V::Yielded { node: *node, boot: *boot }
        }
        18 if c < 60 => V::LegSuspect(leg),
        19..=21 => V::LegStale(leg),
        22..=27 => V::Reexport { leg, run: leg_run },
        28..=32 => V::BeginRebuild(leg),
        33..=37 => V::LegInSync { leg, maps },
        38..=42 => V::ConfirmFence {
            leg,
            run: run(leg_node, leg_run.boot.0 as u32 % 1000, 1 + u32::from(c % 2)),
            errored: c > 250,
        },
        43..=45 => V::Activate,
        50..=53 | 56 | 57 => V::Laid { leg, run: leg_run, slabs: found.laid_slabs() + u64::from(c % 4) },
        47 | 58.. => V::Kept { leg, run: leg_run },
        46 => V::MapDurable { maps: maps.next() },
        _ => V::Opened { maps: maps.next() },
    };
    Command::Volume(*id, volume.epoch, about)
}

fn create(pick: [u8; 4]) -> Command {
    let [_, a, b, c] = pick;
    let mirror = if b % 2 == 0 { Mirror::TwoWay } else { Mirror::FourWay };
    let first = u32::from(a % 5);
    Command::Cluster(ClusterCommand::CreateVolume {
        name: format!("v{}", a % 3).parse().unwrap(),
        mirror,
        provision: if c % 4 == 0 { Provision::Thin } else { Provision::Fixed },
        size_bytes: u64::from(c % 128) << 21,
        drives: (0..mirror.legs() as u32).map(|leg| DriveId(1 + first + leg)).collect(),
        owner: NodeId(1 + u32::from(a % 4)),
    })
}

fn beginning() -> State {
    cluster(4, 2, &[Cache::Safe, Cache::Volatile])
}

proptest! {
    #[test]
    fn whatever_is_asked_the_invariants_hold_and_the_log_says_it_all(
        picks in proptest::collection::vec(any::<[u8; 4]>(), 1..200)
    ) {
        says_it_all(beginning, &play(beginning(), command, &picks));
    }
}

/// Every row of the table is reached, so that no row is there for nothing.
#[test]
fn every_legal_transition_is_reached() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut legs: BTreeMap<_, u32> = LEGS.into_iter().map(|row| (row, 0)).collect();
    let mut volumes: BTreeMap<_, u32> = VOLUMES.into_iter().map(|row| (row, 0)).collect();
    for _ in 0..2000 {
        let picks: Vec<[u8; 4]> = (0..200).map(|_| std::array::from_fn(|_| random.u8(..))).collect();
        for event in play(beginning(), command, &picks).events {
            match event {
                Event::Leg(_, _, from, cause, to) => *legs.get_mut(&(from, cause, to)).unwrap() += 1,
                Event::Volume(_, _, from, cause, to) => *volumes.get_mut(&(from, cause, to)).unwrap() += 1,
                _ => {}
            }
        }
    }
    let never = |count: &u32| *count == 0;
    assert_eq!(legs.iter().filter(|(_, count)| never(count)).collect::<Vec<_>>(), []);
    assert_eq!(volumes.iter().filter(|(_, count)| never(count)).collect::<Vec<_>>(), []);
}

#[test]
fn an_operation_is_alone_on_its_subject() {
    let mut state = cluster(2, 1, &[Cache::Safe]);
    let operation = crate::state::Operation { what: "drain".to_owned(), driver: NodeId(1) };
    let begin = Command::Cluster(ClusterCommand::Begin(Subject::Node(NodeId(2)), operation));
    must(&mut state, &begin);
    assert_eq!(state.apply(&begin), Err(Rejected::Busy("drain".to_owned())));
    let written = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&written).unwrap(), state);
    must(&mut state, &Command::Cluster(ClusterCommand::End(Subject::Node(NodeId(2)))));
}

#[test]
fn a_rebuilds_rate_is_one_that_can_be_kept_and_a_ledger_from_before_has_the_default() {
    let mut state = cluster(2, 1, &[Cache::Safe]);
    let rate = |min_mib_s, max_mib_s| RebuildRate { min_mib_s, max_mib_s };
    let set = |rate| Command::Cluster(ClusterCommand::SetRebuildRate(rate));
    for bad in [rate(0, 100), rate(101, 100), rate(0, 0), rate(1, u32::MAX)] {
        assert_eq!(state.apply(&set(bad)), Err(Rejected::RebuildRate(bad)));
    }
    let settings = state.settings;
    must(&mut state, &set(rate(1, 8)));
    assert_eq!(
        state.settings,
        crate::state::Settings { rebuild: rate(1, 8), ..settings },
        "and nothing else"
    );
    let before = r#"{"lease_ms":3000,"drift_ms":150,"rebuilds_per_node_max":2}"#;
    assert_eq!(serde_json::from_str::<crate::state::Settings>(before).unwrap(), settings);
}

/// A command that costs nothing to refuse: kept so that the cause's name stays in the message an operator reads.
#[test]
fn a_refusal_says_why_in_words() {
    let why = Rejected::LegCannot { state: crate::transition::LegKind::Stale, cause: LegCause::Rebuilt };
    assert_eq!(why.to_string(), "a leg that is Stale can't change by Rebuilt");
}
