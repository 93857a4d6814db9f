//! Growth by example.

use crate::bug::{Bug, Bugs};
use crate::command::{ClusterCommand, Command, Event, Rejected, VolumeCommand as V};
use crate::state::{Cache, LegState, State};
use crate::testing::{
    VOLUME, cluster, does, leg_ref, must, now, open, opened, refused, register, run, volume,
};
use crate::{Broken, check, check_step};
use model::{DriveId, LegId, Mirror, NodeId, Provision, SLAB_BYTES};
use std::collections::BTreeSet;

/// One slab of data, open on node 1, a leg on each of two nodes with two drives.
fn small() -> State {
    let mut state = cluster(2, 2, &[Cache::Safe]);
    let create = ClusterCommand::CreateVolume {
        name: "data".parse().unwrap(),
        mirror: Mirror::TwoWay,
        provision: Provision::Fixed,
        size_bytes: SLAB_BYTES,
        drives: vec![DriveId(1), DriveId(3)],
        owner: NodeId(1),
    };
    must(&mut state, &Command::Cluster(create));
    open(&mut state, &[1, 2]);
    state
}

fn grows() -> State {
    let mut state = small();
    does(&mut state, V::Grow { size_bytes: 3 * SLAB_BYTES });
    state
}

/// Its target, in its first run, has laid so many slabs of a leg.
fn laid(state: &State, leg: u16, slabs: u64) -> V {
    V::Laid { leg: leg_ref(state, leg), run: run(NodeId(leg.into()), 1, 1), slabs }
}

fn sizes(state: &State) -> (u64, Option<u64>) {
    (volume(state).size_bytes / SLAB_BYTES, volume(state).growing.map(|bytes| bytes / SLAB_BYTES))
}

#[test]
fn a_volume_has_grown_when_the_last_leg_that_counts_has_been_laid() {
    let mut state = grows();
    assert_eq!(sizes(&state), (1, Some(3)));
    let first = &volume(&state).legs[&LegId(1)];
    assert_eq!((first.slabs(), first.laid_slabs()), (4, 2));
    let to_bytes = 3 * SLAB_BYTES;
    assert_eq!(refused(&state, V::Grow { size_bytes: 4 * SLAB_BYTES }), Rejected::Growing { to_bytes });
    let (one, other) = (laid(&state, 1, 4), laid(&state, 2, 4));
    does(&mut state, one.clone());
    assert_eq!(refused(&state, one), Rejected::AlreadyLaid);
    assert_eq!(sizes(&state), (1, Some(3)));
    assert_eq!(does(&mut state, other), [Event::VolumeGrown(VOLUME, 3 * SLAB_BYTES)]);
    assert_eq!(sizes(&state), (3, None));
}

#[test]
fn what_its_slabs_have_room_for_is_there_at_once() {
    let mut state = small();
    does(&mut state, V::Grow { size_bytes: SLAB_BYTES + (32 << 20) });
    assert_eq!((volume(&state).size_bytes, volume(&state).growing), (SLAB_BYTES + (32 << 20), None));
}

#[test]
fn what_can_not_be_is_refused() {
    let mut state = small();
    let grow = |size_bytes| V::Grow { size_bytes };
    let room_bytes = volume(&state).room_bytes;
    assert_eq!(refused(&state, grow(room_bytes + 4096)), Rejected::BeyondRoom { room_bytes });
    assert_eq!(refused(&state, grow(SLAB_BYTES)), Rejected::NotLarger { present_bytes: SLAB_BYTES });
    let odd = SLAB_BYTES + 1;
    assert_eq!(refused(&state, grow(odd)), Rejected::Size { size_bytes: odd });
    // 30 slabs on each node, 15 of them kept, 2 held.
    let reserve = Rejected::Reserve { node: NodeId(1), missing_slabs: 1 };
    assert_eq!(refused(&state, grow(15 * SLAB_BYTES)), reserve);
    let ran = run(NodeId(2), 2, 2);
    does(&mut state, grow(2 * SLAB_BYTES));
    let earlier = laid(&state, 2, 3);
    let restarted = register(&state, NodeId(2), ran);
    must(&mut state, &restarted);
    assert_eq!(refused(&state, earlier), Rejected::OtherRun { registered: Some(ran) });
}

/// Whoever is lost does not hold it up, and is laid before it counts again.
#[test]
fn a_leg_that_is_away_is_not_waited_for_and_is_laid_before_it_is_rebuilt() {
    let mut state = grows();
    let one = laid(&state, 1, 4);
    does(&mut state, one);
    let other = leg_ref(&state, 2);
    does(&mut state, V::LegStale(other));
    assert_eq!(sizes(&state), (3, None), "the leg that was waited for is lost");
    does(&mut state, V::Reexport { leg: other, run: run(NodeId(2), 1, 1) });
    let back = leg_ref(&state, 2);
    assert_eq!(refused(&state, V::BeginRebuild(back)), Rejected::NotLaid(LegId(2)));
    assert!(crate::rebuild::waiting(&state).is_empty());
    let late = laid(&state, 2, 4);
    does(&mut state, late);
    does(&mut state, V::BeginRebuild(back));
    let maps = volume(&state).map_sequence;
    does(&mut state, V::LegInSync { leg: back, maps });
    assert_eq!(volume(&state).legs[&LegId(2)].state, LegState::InSync);
}

#[test]
fn one_that_is_being_rebuilt_counts() {
    let mut state = small();
    let other = leg_ref(&state, 2);
    does(&mut state, V::LegStale(other));
    does(&mut state, V::Reexport { leg: other, run: run(NodeId(2), 1, 1) });
    let back = leg_ref(&state, 2);
    does(&mut state, V::BeginRebuild(back));
    does(&mut state, V::Grow { size_bytes: 3 * SLAB_BYTES });
    let (one, late) = (laid(&state, 1, 4), laid(&state, 2, 4));
    does(&mut state, one);
    assert_eq!(sizes(&state), (1, Some(3)));
    does(&mut state, late);
    assert_eq!(sizes(&state), (3, None));
}

#[test]
fn a_leg_that_is_made_meanwhile_has_all_of_it_from_the_start() {
    let mut state = grows();
    let leg = leg_ref(&state, 2);
    does(&mut state, V::MoveLeg { leg, to: DriveId(4) });
    let made = &volume(&state).legs[&LegId(3)];
    assert_eq!((made.slabs(), made.to_lay), (4, 0));
}

#[test]
fn growth_goes_on_under_another_owner() {
    let mut state = grows();
    let late = laid(&state, 1, 4);
    let epoch = volume(&state).epoch;
    does(&mut state, V::Takeover { owner: NodeId(2), lease_over: true });
    let present = volume(&state).epoch;
    let of_before = Command::Volume(VOLUME, epoch, late.clone());
    assert_eq!(state.clone().apply(&of_before), Err(Rejected::Superseded { present }));
    does(&mut state, late);
    let leg = leg_ref(&state, 2);
    does(&mut state, V::ConfirmFence { leg, run: run(NodeId(2), 1, 1), errored: false });
    let confirmed = laid(&state, 2, 4);
    does(&mut state, confirmed);
    assert_eq!(sizes(&state), (3, None));
    does(&mut state, V::Activate);
    opened(&mut state);
}

#[test]
fn one_that_an_operator_declares_good_is_laid_before_it_is_confirmed() {
    let mut state = grows();
    let one = laid(&state, 1, 4);
    does(&mut state, one);
    let other = leg_ref(&state, 2);
    does(&mut state, V::LegStale(other));
    let last = leg_ref(&state, 1);
    does(&mut state, V::LegSuspect(last));
    let (by, loses) = ("operator".to_owned(), "what it missed".to_owned());
    does(&mut state, V::Override { leg: other, owner: NodeId(2), by, loses });
    let confirm = V::ConfirmFence { leg: other, run: run(NodeId(2), 1, 1), errored: false };
    assert_eq!(refused(&state, confirm.clone()), Rejected::NotLaid(LegId(2)));
    let late = laid(&state, 2, 4);
    does(&mut state, late);
    does(&mut state, confirm);
    does(&mut state, V::Activate);
}

#[test]
fn after_a_forced_quorum_nobody_knows_what_is_behind_the_end() {
    let mut state = grows();
    let (by, loses) = ("operator".to_owned(), "the last writes".to_owned());
    let (incarnation, voters) = (model::LedgerIncarnation(2), BTreeSet::from([NodeId(1)]));
    let force = ClusterCommand::ForceQuorum { incarnation, voters, by, loses };
    must(&mut state, &Command::Cluster(force));
    assert_eq!((sizes(&state), check(&state)), ((1, None), vec![]));
    let leg = leg_ref(&state, 1);
    let (by, loses) = ("operator".to_owned(), "the last writes".to_owned());
    does(&mut state, V::Override { leg, owner: NodeId(1), by, loses });
    open(&mut state, &[1]);
    assert_eq!(refused(&state, V::Grow { size_bytes: 3 * SLAB_BYTES }), Rejected::Forced);
}

/// The checks can fail.
#[test]
fn what_has_grown_too_early_is_noticed() {
    let mut state = grows();
    let one = now(&state, laid(&state, 1, 4));
    state.apply_with(&one, Bugs::with(Bug::GrowAtFirstLaid)).unwrap();
    assert_eq!(check(&state), [Broken::NotLaid(VOLUME, LegId(2))]);
    let mut state = grows();
    let back = state.clone();
    let leg = state.volumes.get_mut(&VOLUME).unwrap().legs.get_mut(&LegId(1)).unwrap();
    leg.to_lay = 3;
    assert_eq!(check_step(&back, &state), [Broken::Moved(VOLUME, LegId(1))]);
    let grown = state.volumes.get_mut(&VOLUME).unwrap();
    grown.legs.values_mut().for_each(|leg| leg.to_lay = 0);
    assert_eq!(check(&state), [Broken::Growing(VOLUME)]);
}
