//! What is asked for, by example.

use super::*;
use crate::command::{ClusterCommand, Command, VolumeCommand};
use crate::state::Cache;
use crate::testing::{VOLUME, cluster, leg_ref, must, now, open, run, volume};
use model::{DriveId, Mirror, NodeId};

/// A thin volume, open on node 1, in which these extents have been mapped one after the other.
fn thin(extents: u64, mapped: &[u64]) -> State {
    let mut state = cluster(2, 1, &[Cache::Safe]);
    let create = ClusterCommand::CreateVolume {
        name: "data".parse().unwrap(),
        mirror: Mirror::TwoWay,
        provision: Provision::Thin,
        size_bytes: extents * SLAB_BYTES,
        drives: vec![DriveId(1), DriveId(2)],
        owner: NodeId(1),
    };
    must(&mut state, &Command::Cluster(create));
    open(&mut state, &[1, 2]);
    for (at, extent) in mapped.iter().enumerate() {
        let map = now(&state, VolumeCommand::Map { extents: BTreeSet::from([*extent]) });
        must(&mut state, &map);
        for leg in [1, 2] {
            let (leg, run) = (leg_ref(&state, leg), run(NodeId(leg.into()), 1, 1));
            let laid = now(&state, VolumeCommand::Laid { leg, run, slabs: 3 + at as u64 });
            must(&mut state, &laid);
        }
    }
    state
}

fn asks(state: &State, written: &[u64]) -> Option<Vec<u64>> {
    let asked = to_map(state, volume(state), &written.iter().copied().collect())?;
    let command = now(state, VolumeCommand::Map { extents: asked.clone() });
    assert!(state.clone().apply(&command).is_ok(), "what is asked for is granted");
    Some(asked.into_iter().collect())
}

#[test]
fn what_is_written_is_asked_for_once() {
    let mut state = thin(100, &[]);
    assert_eq!(asks(&state, &[]), None);
    assert_eq!(asks(&state, &[0]), None, "it is there");
    assert_eq!(asks(&state, &[0, 50, 7, 200]), Some(vec![7, 50]));
    let map = now(&state, VolumeCommand::Map { extents: BTreeSet::from([7]) });
    must(&mut state, &map);
    assert_eq!(asks(&state, &[7]), None, "it is about to be");
    assert_eq!(asks(&state, &[50]), None, "some at a time");
}

#[test]
fn who_writes_in_a_row_finds_as_much_again_there() {
    assert_eq!(asks(&thin(100, &[]), &[1]), Some(vec![1, 2]));
    assert_eq!(asks(&thin(100, &[1, 2]), &[3]), Some(vec![3, 4, 5, 6]));
    assert_eq!(asks(&thin(5, &[1, 2]), &[3]), Some(vec![3, 4]), "no more than users see");
    assert_eq!(asks(&thin(100, &[50]), &[3]), Some(vec![3]));
}

/// 15 slabs on the one drive of each node.
#[test]
fn out_of_slabs_it_asks_for_less_and_then_for_nothing() {
    let state = thin(100, &[1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(asks(&state, &[8]), Some(vec![8]), "not ahead");
    assert_eq!(fits(&state, volume(&state), 6), Ok(()));
    let many: Vec<u64> = (20..30).collect();
    assert_eq!(asks(&state, &many), Some(vec![20]), "whoever can go on does");
    let state = thin(100, &(1..14).collect::<Vec<_>>());
    assert_eq!(asks(&state, &[14]), None);
    assert!(fits(&state, volume(&state), 1).unwrap_err().is_out_of_slabs());
    assert_eq!(VOLUME, *state.volumes.keys().next().unwrap());
}
