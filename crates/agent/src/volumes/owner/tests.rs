use super::*;
use crate::store::Store;
use control::state::{Phase, Settings, Volume};
use model::{ExtentTable, LedgerIncarnation, MapSequence, Mirror, Provision, Sizes};
use storage::header::ClusterId;
use storage::leg::everything;

/// A volume of 64 MiB without legs.
pub(in crate::volumes) fn a_volume() -> Volume {
    let size_bytes = 64 << 20;
    Volume {
        name: "data".parse().unwrap(),
        mirror: Mirror::TwoWay,
        provision: Provision::Fixed,
        size_bytes,
        growing: None,
        mapped: ExtentTable::default(),
        mapping: BTreeSet::new(),
        forced: false,
        room_bytes: Sizes::room_of(size_bytes),
        epoch: Epoch::first(LedgerIncarnation(1)),
        owner: NodeId(1),
        running: None,
        yielding: BTreeMap::new(),
        phase: Phase::Closed,
        legs: BTreeMap::new(),
        map_sequence: MapSequence(0),
        leg_minted: LegId(0),
    }
}

/// A copy from scratch marks all that users may have before it ends. Until they have it nothing but zeros is there, on slabs or not.
#[test]
fn what_is_marked_of_a_volume_that_grows_covers_what_it_grows_to() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::in_directory(directory.path());
    place::prepare(&store).unwrap();
    let paths = tokio::sync::watch::channel(None).1;
    let place = Place::new((ClusterId(1), NodeId(1)), store, paths).unwrap();
    let (id, size_bytes) = (VolumeId(1), 64 << 20);
    let volume = Volume { growing: Some(3 * size_bytes), ..a_volume() };
    let mut state = State::new(Settings::default());
    state.volumes.insert(id, volume);
    let marked = |state: &State| {
        let geometry = site_of(id, &place, state).unwrap().geometry;
        everything(&geometry).runs().map(|run| run.end - run.start).sum::<u64>()
            * geometry.sizes().chunk_bytes
    };
    assert_eq!(marked(&state), 3 * size_bytes);
    state.volumes.get_mut(&id).unwrap().growing = None;
    assert_eq!(marked(&state), size_bytes);
}
