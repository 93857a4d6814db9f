//! Where things are on this node: addresses, drives, legs. What `storage` has to be told. And the floors: what must not be given out again.
//!
//! Invariants: where a leg lies, the ledger says, and nobody else. Floors are on disk before they are acted on. A node that has a ledger has
//! a file of floors: [`prepare`] makes it before there is a ledger. If it is missing it was lost, and with it the word to those whom this
//! node has confirmed fences; nothing of its legs is given out then ([`VolumesError::FloorsLost`]).
//!
//! On failure: [`VolumesError`].

use super::VolumesError;
use super::lives::Lives;
use super::seeded::{self, Seeded};
use super::shell::blocking;
use crate::clock;
use crate::store::Store;
use api::{LegPlace, PathsRequest, Piece};
use control::state::{Drive, Leg, Reach, Volume};
use control::target::{Key, Laid, LegOf};
use control::{Moment, State};
use ledger::Ledger;
use model::{CHUNK_BYTES, DriveId, DriveSerial, MacRange, NodeId, Provision, SLAB_BYTES, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::header::{ClusterId, DriveHeader};
use storage::kernel::{Engine, Settings, StepError};
use storage::leg::{Geometry, Sizes};
use storage::name::GivenLeg;
use storage::owner::{Layout, Site};
use storage::slab::{Extent, pieces, split};
use tokio::sync::watch;

/// How long a request may stall on a path. Emulated nodes that were starved lost both paths again and again with one second.
pub(super) const STALL_MAX: Duration = Duration::from_secs(2);

pub(super) const FILE: &str = "floors.json";

/// What must outlive the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Whose floors these are; `None`: nobody's yet.
    cluster: Option<ClusterId>,
    /// The lowest key that may still be given out.
    floors: Vec<(LegOf, Key)>,
    /// How many slabs of a leg are laid.
    #[serde(default)]
    laid: Vec<(LegOf, Laid)>,
}

/// Where things are.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    store: Store,
    paths: watch::Receiver<Option<PathsRequest>>,
    saved: Mutex<Saved>,
    pub(super) seeded: Seeded,
    pub(super) lives: Lives,
    /// Held while drives are claimed, or given back.
    pub(super) claims: tokio::sync::Mutex<()>,
    /// How many legs were given out since the agent began: who waits for one need not guess when.
    pub(super) given_out: watch::Sender<u64>,
    /// The end of this node's last lease, ms on [`clock::uptime_ms`].
    leased_until_ms: AtomicU64,
}

/// Before this node gets a ledger: from then on it has floors. Those that it has stay: they may be of the cluster that it joins.
pub(super) fn prepare(store: &Store) -> Result<(), VolumesError> {
    if store.load_if_there::<Saved>(FILE)?.is_none() {
        store.save(FILE, &Saved::default())?;
    }
    Ok(())
}

/// For looking at what there is on a node that does not know who it is.
pub(super) fn engine_of_nobody() -> Result<Engine, StepError> {
    let (own, peers) = (BTreeMap::new(), BTreeMap::new());
    Engine::new(Settings { cluster: ClusterId(0), node: NodeId(0), own, peers, stall_max: STALL_MAX })
}

impl Place {
    /// Floors of another cluster, or of none yet, say that nothing of this one was ever given out here: they become this one's before anything is.
    pub(super) fn new(
        (cluster, node): (ClusterId, NodeId),
        store: Store,
        paths: watch::Receiver<Option<PathsRequest>>,
    ) -> Result<Self, VolumesError> {
        let mut saved: Saved = store.load_if_there(FILE)?.ok_or(VolumesError::FloorsLost)?;
        if saved.cluster != Some(cluster) {
            saved = Saved { cluster: Some(cluster), ..Saved::default() };
            store.save(FILE, &saved)?;
        }
        let (seeded, lives) = (seeded::of_this_node()?, Lives::load(store.clone())?);
        let given_out = watch::Sender::new(0);
        Ok(Self {
            cluster,
            node,
            store,
            paths,
            saved: Mutex::new(saved),
            seeded,
            lives,
            claims: tokio::sync::Mutex::default(),
            given_out,
            leased_until_ms: AtomicU64::new(0),
        })
    }

    /// This node has a lease until then. Answers may come out of order: the latest end counts.
    pub(super) fn leased_until(&self, Moment(end_ms): Moment) {
        self.leased_until_ms.fetch_max(end_ms, Ordering::Relaxed);
    }

    /// Asked just before users are let in or a virtual machine runs: since control ordered that, the node may have stood still.
    pub(super) fn is_leased(&self) -> Result<(), VolumesError> {
        let leased = clock::uptime_ms() < self.leased_until_ms.load(Ordering::Relaxed);
        if leased { Ok(()) } else { Err(VolumesError::NoLease(self.node)) }
    }

    /// Which MAC addresses this cluster's virtual machines have.
    pub(super) fn mac_range(&self) -> MacRange {
        MacRange::of_cluster(self.cluster.0)
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Saved) -> Result<T, VolumesError>,
    ) -> Result<T, VolumesError> {
        // Changed as a whole below: after a panic elsewhere it is still good.
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = saved.clone();
        let done = change(&mut new)?;
        self.store.save(FILE, &new)?;
        *saved = new;
        Ok(done)
    }

    pub(super) fn floors(&self) -> BTreeMap<LegOf, Key> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).floors.iter().copied().collect()
    }

    /// Returns when it is durable.
    pub(super) fn remember(&self, leg: LegOf, key: Key) -> Result<(), VolumesError> {
        self.change(|saved| {
            saved.floors.retain(|(known, _)| *known != leg);
            saved.floors.push((leg, key));
            Ok(())
        })
    }

    pub(super) fn laid(&self) -> BTreeMap<LegOf, Laid> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).laid.iter().copied().collect()
    }

    /// Returns when it is durable.
    pub(super) fn remember_laid(&self, leg: LegOf, laid: Laid) -> Result<(), VolumesError> {
        self.change(|saved| {
            saved.laid.retain(|(known, _)| *known != leg);
            saved.laid.push((leg, laid));
            Ok(())
        })
    }

    /// Its addresses on the storage networks, by network, and those of every peer that the ledger knows.
    pub(super) fn addresses(
        &self,
        state: &State,
    ) -> (BTreeMap<u16, IpAddr>, BTreeMap<NodeId, BTreeMap<u16, IpAddr>>) {
        let (mut own, mut peers) = (BTreeMap::new(), BTreeMap::<NodeId, BTreeMap<u16, IpAddr>>::new());
        if let Some(paths) = &*self.paths.borrow() {
            for network in &paths.networks {
                let number = u16::from(network.network.get());
                own.insert(number, network.address.into());
                for peer in &network.peers {
                    let known = state.nodes.iter().find(|(_, node)| node.name == peer.node);
                    if let Some((id, _)) = known {
                        peers.entry(*id).or_default().insert(number, peer.address.into());
                    }
                }
            }
        }
        (own, peers)
    }

    pub(super) fn engine(&self, state: &State) -> Result<Engine, StepError> {
        let (own, peers) = self.addresses(state);
        self.engine_with(own, peers)
    }

    /// For steps that reach nobody.
    pub(super) fn own_engine(&self) -> Result<Engine, StepError> {
        self.engine_with(BTreeMap::new(), BTreeMap::new())
    }

    fn engine_with(
        &self,
        own: BTreeMap<u16, IpAddr>,
        peers: BTreeMap<NodeId, BTreeMap<u16, IpAddr>>,
    ) -> Result<Engine, StepError> {
        let (cluster, node) = (self.cluster, self.node);
        let engine = Engine::new(Settings { cluster, node, own, peers, stall_max: STALL_MAX })?;
        Ok(engine.with_bugs(self.seeded.storage))
    }

    pub(super) fn site(&self, id: VolumeId, sizes: Sizes) -> Result<Site, StepError> {
        Site::new(id, self.node, sizes).map_err(|source| StepError::Leg { device: id.to_string(), source })
    }

    /// The leg is gone for good: its floor, and what was laid, say nothing any more.
    pub(super) fn forget(&self, leg: LegOf) -> Result<(), VolumesError> {
        self.lives.forget(leg)?;
        self.change(|saved| {
            saved.floors.retain(|(known, _)| *known != leg);
            saved.laid.retain(|(known, _)| *known != leg);
            Ok(())
        })
    }

    /// The pieces of the drive that are mapped where a leg is given out: what the ledger calls laid, or this node remembers to have laid. Refused if the
    /// leg's slabs are too few for what it shall hold.
    pub(super) fn pieces(&self, leg: LegOf, volume: &Volume) -> Result<Vec<Extent>, VolumesError> {
        let found = volume.legs.get(&leg.1);
        let found = found.ok_or_else(|| StepError::Missing { what: format!("{leg:?} in the ledger") })?;
        let has_bytes: u64 = pieces(&found.extents).iter().map(|piece| piece.len_bytes).sum();
        let needs_bytes = self.site(leg.0, sizes(volume))?.geometry.backed_bytes();
        if has_bytes < needs_bytes {
            return Err(VolumesError::TooFewSlabs { has_bytes, needs_bytes });
        }
        let noted = self.laid().remove(&leg).filter(|laid| laid.ledger == volume.epoch.ledger);
        let mapped = noted.map_or(0, |laid| laid.slabs).max(found.laid_slabs());
        if mapped > found.slabs() {
            return Err(VolumesError::AtOdds(format!(
                "{mapped} slabs of {leg:?} are laid, and it has fewer"
            )));
        }
        Ok(pieces(&split(&found.extents, mapped).0))
    }

    /// What a claimed drive begins with.
    pub(super) fn header(&self, drive: DriveId) -> DriveHeader {
        DriveHeader { cluster: self.cluster, drive, slab_bytes: SLAB_BYTES }
    }

    pub(super) async fn claim(
        self: &Arc<Self>,
        ledger: &Ledger,
        serial: DriveSerial,
        wipe: bool,
    ) -> Result<(), VolumesError> {
        let _alone = self.claims.lock().await;
        let state = Arc::clone(&ledger.state().borrow());
        let own = state.drive_of(&serial).filter(|(_, drive)| drive.node == self.node);
        let drive = own.map(|(id, _)| id).ok_or_else(|| VolumesError::NoDrive(serial.clone()))?;
        let place = Arc::clone(self);
        blocking(move || {
            let engine = place.engine(&state)?;
            let header = place.header(drive);
            let device = engine.drive(&serial)?;
            engine.claim(&device, header, wipe)?;
            Ok(engine.turn_cache_off(&device)?)
        })
        .await
    }

    pub(super) async fn flush(self: &Arc<Self>, leg: LegOf, key: Key) -> Result<(), VolumesError> {
        let place = Arc::clone(self);
        blocking(move || Ok(place.own_engine()?.flush_leg(GivenLeg { leg, key })?)).await
    }

    /// Where this node's legs lie.
    pub(super) fn legs(&self, state: &State) -> Result<Vec<LegPlace>, VolumesError> {
        let mut legs = Vec::new();
        for (volume, known) in &state.volumes {
            let geometry = self.site(*volume, sizes(known))?.geometry;
            for (leg, found) in &known.legs {
                let is_own = |drive: &&Drive| drive.node == self.node && !drive.is_lost();
                if let Some(drive) = state.drives.get(&found.drive).filter(is_own) {
                    legs.push(leg_place((*volume, *leg), &drive.serial, found, known, &geometry));
                }
            }
        }
        Ok(legs)
    }

    /// The devices of volumes that users may open here, and how long they are.
    pub(super) async fn devices(
        self: &Arc<Self>,
        state: &State,
    ) -> Result<(BTreeMap<VolumeId, String>, BTreeMap<VolumeId, u64>), VolumesError> {
        let ids: Vec<VolumeId> = state.volumes.keys().copied().collect();
        let place = Arc::clone(self);
        let state = state.clone();
        blocking(move || {
            let engine = place.engine(&state)?;
            let device = |id: VolumeId| Some((id, engine.top(id).ok()??.display().to_string()));
            let bytes = |id: VolumeId| Some((id, engine.top_bytes(id).ok()??));
            Ok((
                ids.iter().copied().filter_map(device).collect(),
                ids.into_iter().filter_map(bytes).collect(),
            ))
        })
        .await
    }
}

fn leg_place(
    leg: LegOf,
    serial: &DriveSerial,
    found: &Leg,
    volume: &Volume,
    geometry: &Geometry,
) -> LegPlace {
    let piece = |Extent { offset_bytes, len_bytes }: Extent| Piece { offset_bytes, len_bytes };
    LegPlace {
        volume: leg.0,
        leg: leg.1,
        serial: serial.clone(),
        pieces: pieces(&found.extents).into_iter().map(piece).collect(),
        data_offset_bytes: geometry.data_offset_bytes(),
        data_bytes: geometry.sizes().data_bytes,
        mapped: (volume.provision == Provision::Thin).then(|| volume.mapped.clone()),
    }
}

/// For steps about a volume that is gone: none of them asks.
pub(super) const SIZES_OF_NONE: Sizes = Sizes { data_bytes: 4096, room_bytes: 4096, chunk_bytes: 1 << 20 };

/// How what users have of a volume lies on its array.
pub(super) fn layout(volume: &Volume, reach: Reach) -> Layout {
    let table = match volume.provision {
        Provision::Fixed => None,
        Provision::Thin => Some(volume.mapped.first(reach.array_bytes)),
    };
    Layout { size_bytes: reach.size_bytes, table }
}

/// The sizes of a volume's legs.
pub(super) fn sizes(volume: &Volume) -> Sizes {
    Sizes { data_bytes: volume.array_bytes(), room_bytes: volume.room_bytes, chunk_bytes: CHUNK_BYTES }
}

/// The same, but as large as it grows to. (What of that no leg has mapped yet reads as zeros on all of them.)
pub(super) fn sizes_to_be(volume: &Volume) -> Sizes {
    Sizes { data_bytes: volume.array_to_be(), ..sizes(volume) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Epoch, Incarnation, LedgerIncarnation, LegId};

    fn place(store: &Store, cluster: u128) -> Result<Place, VolumesError> {
        Place::new((ClusterId(cluster), NodeId(1)), store.clone(), watch::channel(None).1)
    }

    #[test]
    fn floors_that_were_lost_are_not_taken_for_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::in_directory(directory.path());
        assert!(matches!(place(&store, 1), Err(VolumesError::FloorsLost)), "a ledger, and nobody prepared");
        prepare(&store).unwrap();
        let leg = (VolumeId(1), LegId(1));
        let key = |number| Key {
            epoch: Epoch { ledger: LedgerIncarnation(1), number },
            incarnation: Incarnation(1),
        };
        let first = place(&store, 1).unwrap();
        first.remember(leg, key(7)).unwrap();
        first.remember(leg, key(8)).unwrap();
        prepare(&store).unwrap();
        assert_eq!(
            place(&store, 1).unwrap().floors(),
            BTreeMap::from([(leg, key(8))]),
            "it joined once more"
        );
        std::fs::remove_file(directory.path().join(FILE)).unwrap();
        assert!(matches!(place(&store, 1), Err(VolumesError::FloorsLost)));
    }

    #[test]
    fn floors_of_another_cluster_are_none_and_of_a_leg_that_went_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::in_directory(directory.path());
        prepare(&store).unwrap();
        let (leg, other) = ((VolumeId(1), LegId(1)), (VolumeId(1), LegId(2)));
        let key = Key { epoch: Epoch::first(LedgerIncarnation(1)), incarnation: Incarnation(1) };
        let one = place(&store, 1).unwrap();
        one.remember(leg, key).unwrap();
        one.remember(other, key).unwrap();
        let laid = Laid { ledger: LedgerIncarnation(1), slabs: 3 };
        one.remember_laid(leg, Laid { slabs: 2, ..laid }).unwrap();
        one.remember_laid(other, laid).unwrap();
        one.forget(leg).unwrap();
        assert_eq!(place(&store, 1).unwrap().floors(), BTreeMap::from([(other, key)]));
        assert_eq!(place(&store, 1).unwrap().laid(), BTreeMap::from([(other, laid)]));
        assert_eq!(place(&store, 2).unwrap().floors(), BTreeMap::new());
        assert_eq!(place(&store, 2).unwrap().laid(), BTreeMap::new());
    }
}
