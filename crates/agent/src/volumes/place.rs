//! Where things are on this node: addresses, drives, legs. What `storage` has to be told.
//!
//! Invariants: where a leg lies is on disk before anything is written there, and stays until the ledger knows the leg no more.
//! Floors are on disk before they are acted on.
//!
//! On failure: [`VolumesError`].

use super::VolumesError;
use super::shell::blocking;
use crate::store::Store;
use api::{LegPlace, PathsRequest, Piece};
use control::State;
use control::state::{Drive, Volume};
use control::target::{Key, LegOf};
use ledger::Ledger;
use model::{DriveId, DriveSerial, LegId, NodeId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::header::{ClusterId, DriveHeader};
use storage::kernel::{Engine, Settings, StepError};
use storage::leg::{Geometry, Sizes};
use storage::name::GivenLeg;
use storage::owner::Site;
use storage::slab::SlabMap;
use tokio::sync::watch;
use tracing::warn;

/// What one bit of a bitmap stands for, bytes.
const CHUNK_BYTES: u64 = 16 << 20;
/// How large a slab is, bytes.
const SLAB_BYTES: u64 = 64 << 20;

/// How long a request may stall on a path. Emulated nodes that were starved lost both paths again and again with one second.
pub(super) const STALL_MAX: Duration = Duration::from_secs(2);

const FILE: &str = "volumes.json";

/// What must outlive the agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Where legs lie, by drive.
    slabs: BTreeMap<DriveId, SlabMap>,
    /// The lowest key that may still be given out.
    floors: Vec<(LegOf, Key)>,
}

/// Where things are.
pub(super) struct Place {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
    store: Store,
    paths: watch::Receiver<Option<PathsRequest>>,
    saved: Mutex<Saved>,
}

impl Place {
    pub(super) async fn new(
        ledger: &Ledger,
        store: Store,
        paths: watch::Receiver<Option<PathsRequest>>,
    ) -> Result<Self, VolumesError> {
        let cluster = ledger.identity().cluster.bits().ok_or(VolumesError::NoClusterId)?;
        let loaded = store.clone();
        let saved = tokio::task::spawn_blocking(move || loaded.load(FILE)).await??;
        let saved = Mutex::new(saved);
        Ok(Self { cluster: ClusterId(cluster), node: ledger.id(), store, paths, saved })
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

    fn engine_with(
        &self,
        own: BTreeMap<u16, IpAddr>,
        peers: BTreeMap<NodeId, BTreeMap<u16, IpAddr>>,
    ) -> Result<Engine, StepError> {
        Engine::new(Settings { cluster: self.cluster, node: self.node, own, peers, stall_max: STALL_MAX })
    }

    pub(super) fn site(&self, id: VolumeId, sizes: Sizes) -> Result<Site, StepError> {
        Site::new(id, self.node, sizes).map_err(|source| StepError::Leg { device: id.to_string(), source })
    }

    /// Gives a leg its place, or says which it has.
    pub(super) fn reserve(
        &self,
        (volume, leg): LegOf,
        drive: (DriveId, &Drive),
        bytes: u64,
    ) -> Result<Vec<storage::slab::Extent>, VolumesError> {
        self.change(|saved| {
            let map = match saved.slabs.entry(drive.0) {
                std::collections::btree_map::Entry::Occupied(map) => map.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(SlabMap::new(drive.1.size_bytes, SLAB_BYTES)?)
                }
            };
            if map.extents((volume, leg)).is_none() {
                map.reserve((volume, leg), bytes)?;
            }
            Ok(map.extents((volume, leg)).unwrap_or_default())
        })
    }

    pub(super) fn free(&self, leg: LegOf) -> Result<(), VolumesError> {
        self.change(|saved| {
            saved.slabs.values_mut().for_each(|map| map.release(leg));
            Ok(())
        })
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
        let state = Arc::clone(&ledger.state().borrow());
        let own = state.drives.iter().find(|(_, drive)| drive.node == self.node && drive.serial == serial);
        let drive = own.map(|(id, _)| *id).ok_or_else(|| VolumesError::NoDrive(serial.clone()))?;
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

    /// Turns the caches of this node's drives off: legs may be in use since before this agent, on a drive that was reset meanwhile.
    pub(super) async fn turn_caches_off(self: &Arc<Self>, ledger: &Ledger) -> Result<(), VolumesError> {
        let state = Arc::clone(&ledger.state().borrow());
        let place = Arc::clone(self);
        blocking(move || {
            let engine = place.engine_with(BTreeMap::new(), BTreeMap::new())?;
            for drive in state.drives.values().filter(|drive| drive.node == place.node) {
                let device = engine.drive(&drive.serial);
                if let Err(error) = device.and_then(|device| engine.turn_cache_off(&device)) {
                    warn!("drive {}: {}", drive.serial, crate::chain(&error));
                }
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn flush(self: &Arc<Self>, leg: LegOf, key: Key) -> Result<(), VolumesError> {
        let place = Arc::clone(self);
        blocking(move || {
            // A leg of this node's own: nobody is reached.
            let engine = place.engine_with(BTreeMap::new(), BTreeMap::new())?;
            Ok(engine.flush_leg(GivenLeg { leg, key })?)
        })
        .await
    }

    /// Where this node's legs lie.
    pub(super) fn legs(self: &Arc<Self>, state: &State) -> Result<Vec<LegPlace>, VolumesError> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut legs = Vec::new();
        for (drive, map) in &saved.slabs {
            let Some(found) = state.drives.get(drive) else { continue };
            for (volume, leg) in map.legs() {
                let Some(known) = state.volumes.get(&volume) else { continue };
                let site = self.site(volume, sizes(known))?;
                legs.push(leg_place((volume, leg), &found.serial, map, &site.geometry));
            }
        }
        Ok(legs)
    }

    /// The devices of volumes that users may open here.
    pub(super) async fn devices(
        self: &Arc<Self>,
        state: &State,
    ) -> Result<BTreeMap<VolumeId, String>, VolumesError> {
        let ids: Vec<VolumeId> = state.volumes.keys().copied().collect();
        let place = Arc::clone(self);
        let state = state.clone();
        blocking(move || {
            let engine = place.engine(&state)?;
            let device = |id: VolumeId| Some((id, engine.top(id).ok()??.display().to_string()));
            Ok(ids.into_iter().filter_map(device).collect())
        })
        .await
    }
}

fn leg_place(leg: (VolumeId, LegId), serial: &DriveSerial, map: &SlabMap, geometry: &Geometry) -> LegPlace {
    let piece = |extent: storage::slab::Extent| Piece {
        offset_bytes: extent.offset_bytes,
        len_bytes: extent.len_bytes,
    };
    LegPlace {
        volume: leg.0,
        leg: leg.1,
        serial: serial.clone(),
        pieces: map.extents(leg).unwrap_or_default().into_iter().map(piece).collect(),
        data_offset_bytes: geometry.data_offset_bytes(),
        data_bytes: geometry.sizes().data_bytes,
    }
}

/// For steps about a volume that is gone: none of them asks.
pub(super) const SIZES_OF_NONE: Sizes = Sizes { data_bytes: 4096, chunk_bytes: 1 << 20 };

/// A volume's sizes.
pub(super) fn sizes(volume: &Volume) -> Sizes {
    Sizes { data_bytes: volume.size_bytes, chunk_bytes: CHUNK_BYTES }
}
