//! Extents by example.

use crate::bug::{Bug, Bugs};
use crate::command::{ClusterCommand, Command, Event, Rejected, VolumeCommand as V};
use crate::state::{Cache, State};
use crate::testing::{VOLUME, close, cluster, does, leg_ref, must, now, open, refused, run, volume};
use crate::{Broken, check, check_step};
use model::{DriveId, LegId, Mirror, NodeId, Provision, SLAB_BYTES};
use std::collections::BTreeSet;

/// A thin volume of so many extents, open on node 1, a leg on each of two nodes with two drives.
fn thin(extents: u64) -> State {
    let mut state = cluster(2, 2, &[Cache::Safe]);
    let create = ClusterCommand::CreateVolume {
        name: "data".parse().unwrap(),
        mirror: Mirror::TwoWay,
        provision: Provision::Thin,
        size_bytes: extents * SLAB_BYTES,
        drives: vec![DriveId(1), DriveId(3)],
        owner: NodeId(1),
    };
    must(&mut state, &Command::Cluster(create));
    assert_eq!(check(&state), []);
    open(&mut state, &[1, 2]);
    state
}

fn map(extents: &[u64]) -> V {
    V::Map { extents: extents.iter().copied().collect() }
}

/// Its target, in its first run, has laid so many slabs of a leg.
fn laid(state: &State, leg: u16, slabs: u64) -> V {
    V::Laid { leg: leg_ref(state, leg), run: run(NodeId(leg.into()), 1, 1), slabs }
}

fn table(state: &State) -> Vec<u64> {
    volume(state).mapped.extents().collect()
}

#[test]
fn an_extent_is_mapped_when_the_last_leg_that_counts_has_the_slab_for_it() {
    let mut state = thin(100);
    let (legs, size) = (volume(&state).legs.values(), volume(&state).size_bytes);
    assert_eq!(legs.map(crate::state::Leg::slabs).collect::<Vec<_>>(), [2, 2], "of 101");
    assert_eq!((table(&state), size), (vec![0], 100 * SLAB_BYTES));
    does(&mut state, map(&[0, 7, 3]));
    assert_eq!((table(&state), volume(&state).array_to_be()), (vec![0], 3 * SLAB_BYTES));
    assert_eq!(refused(&state, map(&[3, 7])), Rejected::AlreadyMapped);
    assert_eq!(refused(&state, map(&[3, 8])), Rejected::Mapping { extents: 2 });
    let (one, other) = (laid(&state, 1, 4), laid(&state, 2, 4));
    does(&mut state, one);
    assert_eq!(table(&state), [0]);
    assert_eq!(does(&mut state, other), [Event::ExtentsMapped(VOLUME, 3)]);
    assert_eq!(table(&state), [0, 3, 7]);
    assert_eq!(refused(&state, map(&[0, 3, 7])), Rejected::AlreadyMapped);
}

#[test]
fn a_leg_that_is_lost_is_not_waited_for_and_is_laid_before_it_is_rebuilt() {
    let mut state = thin(100);
    does(&mut state, map(&[1]));
    let one = laid(&state, 1, 3);
    does(&mut state, one);
    let other = leg_ref(&state, 2);
    does(&mut state, V::LegStale(other));
    assert_eq!(table(&state), [0, 1]);
    does(&mut state, V::Reexport { leg: other, run: run(NodeId(2), 1, 1) });
    let back = leg_ref(&state, 2);
    assert_eq!(refused(&state, V::BeginRebuild(back)), Rejected::NotLaid(LegId(2)));
    let late = laid(&state, 2, 3);
    does(&mut state, late);
    does(&mut state, V::BeginRebuild(back));
}

#[test]
fn what_can_not_be_is_refused() {
    let mut state = thin(40);
    assert_eq!(refused(&state, map(&[40])), Rejected::NoSuchExtent { extent: 40, extents: 40 });
    // 30 slabs on each node, 15 of them kept, 2 held.
    let many: Vec<u64> = (1..20).collect();
    let out = refused(&state, map(&many[..14]));
    assert_eq!(out, Rejected::Reserve { node: NodeId(1), missing_slabs: 1 });
    assert!(out.is_out_of_slabs());
    does(&mut state, map(&many[..13]));
    let (one, other) = (laid(&state, 1, 15), laid(&state, 2, 15));
    does(&mut state, one);
    does(&mut state, other);
    assert!(refused(&state, map(&[20])).is_out_of_slabs(), "and no leg has gone for that");
    assert_eq!(volume(&state).in_sync().count(), 2);
    let close = close(&state);
    does(&mut state, close);
    assert!(matches!(refused(&state, map(&[20])), Rejected::WrongPhase { .. }));
    state.volumes.get_mut(&VOLUME).unwrap().provision = Provision::Fixed;
    assert_eq!(refused(&state, map(&[1])), Rejected::NotThin);
}

/// Its users would wait for an operator.
#[test]
fn a_leg_that_has_nowhere_to_go_takes_what_is_free_on_its_retired_drive() {
    let mut state = thin(40);
    for drive in [1, 2] {
        must(&mut state, &Command::Cluster(ClusterCommand::RetireDrive(DriveId(drive))));
    }
    does(&mut state, map(&[7]));
    assert!(
        refused(&state, V::MoveLeg { leg: leg_ref(&state, 1), to: DriveId(2) })
            .to_string()
            .contains("retired")
    );
}

#[test]
fn it_grows_for_its_users_and_takes_no_slabs_for_that() {
    let mut state = thin(2);
    let slabs = |state: &State| volume(state).legs[&LegId(1)].slabs();
    let grown = does(&mut state, V::Grow { size_bytes: 5 * SLAB_BYTES });
    assert_eq!(grown, [Event::VolumeGrown(VOLUME, 5 * SLAB_BYTES)]);
    assert_eq!((slabs(&state), volume(&state).size_bytes), (2, 5 * SLAB_BYTES));
    does(&mut state, map(&[4]));
    let room_bytes = volume(&state).room_bytes;
    assert_eq!(
        refused(&state, V::Grow { size_bytes: room_bytes + 4096 }),
        Rejected::BeyondRoom { room_bytes }
    );
}

#[test]
fn after_a_forced_quorum_nobody_knows_what_was_mapped() {
    let mut state = thin(9);
    does(&mut state, map(&[4]));
    let (by, loses) = ("operator".to_owned(), "the last writes".to_owned());
    let (incarnation, voters) = (model::LedgerIncarnation(2), BTreeSet::from([NodeId(1)]));
    let force = ClusterCommand::ForceQuorum { incarnation, voters, by, loses };
    must(&mut state, &Command::Cluster(force));
    assert_eq!((table(&state), check(&state)), (vec![0], vec![]));
    let leg = leg_ref(&state, 1);
    let (by, loses) = ("operator".to_owned(), "the last writes".to_owned());
    does(&mut state, V::Override { leg, owner: NodeId(1), by, loses });
    open(&mut state, &[1]);
    assert_eq!(refused(&state, map(&[4])), Rejected::Forced);
}

#[test]
fn a_leg_that_is_made_meanwhile_has_what_is_mapped_and_what_comes() {
    let mut state = thin(9);
    does(&mut state, map(&[4, 5]));
    let leg = leg_ref(&state, 2);
    does(&mut state, V::MoveLeg { leg, to: DriveId(4) });
    let made = &volume(&state).legs[&LegId(3)];
    assert_eq!((made.slabs(), made.to_lay), (4, 0));
}

/// The checks can fail.
#[test]
fn what_is_mapped_too_early_or_twice_is_noticed() {
    let mut state = thin(9);
    let early = now(&state, map(&[4]));
    state.apply_with(&early, Bugs::with(Bug::MapAtOnce)).unwrap();
    assert_eq!(check(&state), [Broken::NotLaid(VOLUME, LegId(1)), Broken::NotLaid(VOLUME, LegId(2))]);
    let mut state = thin(9);
    does(&mut state, map(&[4]));
    let (one, other) = (laid(&state, 1, 3), laid(&state, 2, 3));
    does(&mut state, one);
    does(&mut state, other);
    let mut again = state.clone();
    again.apply_with(&now(&state, map(&[4])), Bugs::with(Bug::MapAnew)).unwrap();
    assert_eq!(check(&again), [Broken::Mapped(VOLUME)]);
    let mut lost = state.clone();
    lost.volumes.get_mut(&VOLUME).unwrap().mapped = model::ExtentTable::begun();
    assert_eq!(check_step(&state, &lost), [Broken::Mapped(VOLUME)]);
}
