//! The volume stage: a volume over the pool, until it can be used.
//!
//! Invariants: copies are over racks first, then over nodes, checked before the ledger is asked. A volume of the same name and size is
//! let alone.
//!
//! On failure: [`PoolError`]; the stage can be run again.

use super::choose::{breach, choose};
use super::{PoolError, settle, views};
use crate::Cluster;
use api::ClusterView;
use control::state::{LegState, Phase, Volume};
use control::{ClusterCommand, Command, State};
use model::{Mirror, NodeId, NodeName, Provision, VolumeId, VolumeName, ZoneName};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What volume is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Its name.
    pub name: VolumeName,
    /// How many copies.
    pub mirror: Mirror,
    /// Its size.
    pub size_bytes: u64,
    /// In which rack it is opened first.
    pub rack: ZoneName,
}

/// A volume that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReady {
    /// Which.
    pub id: VolumeId,
    /// Who owns it.
    pub owner: NodeName,
    /// Its device there.
    pub device: String,
    /// How many legs are in sync.
    pub in_sync: usize,
    /// How many there are.
    pub legs: usize,
}

/// Makes a volume and waits until it can be used, with every leg in sync.
pub async fn volume(
    cluster: &Cluster,
    request: &VolumeRequest,
    bound: Duration,
) -> Result<VolumeReady, PoolError> {
    let begun = Instant::now();
    let views = views(cluster).await;
    let (name, view) = views.first().ok_or(PoolError::NoLedger)?;
    let contact = cluster.members.iter().find(|member| member.name == *name).ok_or(PoolError::NoLedger)?;
    let found = find(&view.state, &request.name);
    if let Some((_, volume)) = found.filter(|(_, volume)| volume.size_bytes != request.size_bytes) {
        let (name, size_bytes) = (request.name.to_string(), volume.size_bytes);
        return Err(PoolError::Another { name, size_bytes });
    }
    if found.is_none() {
        let command = Command::Cluster(create(&view.state, request)?);
        let what = format!("volume {} in the ledger", request.name);
        settle(contact, &what, bound, &command, |state| find(state, &request.name).is_some()).await?;
    }
    let mut last = "nobody who has a ledger answers".to_owned();
    while begun.elapsed() < bound {
        let views = super::views(cluster).await;
        let state = newest(&views).map(|view| &view.state);
        let id = state.and_then(|state| find(state, &request.name)).map(|(id, _)| id);
        match id.map(|id| opened(&views, id)) {
            Some(Ok(ready)) if ready.in_sync == ready.legs => return Ok(ready),
            Some(Ok(ready)) => last = format!("{} of {} legs are in sync", ready.in_sync, ready.legs),
            Some(Err(why)) => last = why,
            None => {}
        }
        sleep(super::POLL).await;
    }
    let what = format!("volume {} to be open with all its legs in sync", request.name);
    Err(PoolError::Late { what, bound, last: Some(last) })
}

/// The volume as its owner has it, if it is open and has a device there; else what it waits for, in words.
pub fn opened(views: &[(NodeName, ClusterView)], id: VolumeId) -> Result<VolumeReady, String> {
    let state = &newest(views).ok_or("nobody who has a ledger answers")?.state;
    let volume = state.volumes.get(&id).ok_or_else(|| format!("the ledger has no {id}"))?;
    let owner = state.nodes.get(&volume.owner).map(|node| node.name.clone());
    let owner = owner.ok_or_else(|| format!("the ledger has no {}", volume.owner))?;
    let words = in_words(volume);
    if !matches!(volume.phase, Phase::Open { .. }) {
        let blocked = views.iter().find_map(|(_, view)| view.blocked.get(&id));
        let blocked = blocked.map(|why| format!("; it waits: {why}")).unwrap_or_default();
        return Err(format!("{words}, on {owner}{blocked}"));
    }
    let device = views.iter().find(|(name, _)| *name == owner).and_then(|(_, view)| view.devices.get(&id));
    let device = device.ok_or_else(|| format!("{words}, and {owner} shows no device"))?.clone();
    let (in_sync, legs) = (volume.in_sync().count(), volume.legs.len());
    Ok(VolumeReady { id, owner, device, in_sync, legs })
}

/// Who has followed the ledger furthest: the one that leads, as it believes; else the one that knows the latest epochs.
pub fn newest(views: &[(NodeName, ClusterView)]) -> Option<&ClusterView> {
    let leads = |view: &&ClusterView| view.leader == Some(view.node);
    let all = || views.iter().map(|(_, view)| view);
    all().find(leads).or_else(|| all().max_by_key(|view| epochs(&view.state)))
}

fn epochs(state: &State) -> u64 {
    state.volumes.values().map(|volume| u64::from(volume.epoch.number)).sum()
}

fn find<'a>(state: &'a State, name: &VolumeName) -> Option<(VolumeId, &'a Volume)> {
    state.volumes.iter().find(|(_, volume)| volume.name == *name).map(|(id, volume)| (*id, volume))
}

pub(super) fn create(state: &State, request: &VolumeRequest) -> Result<ClusterCommand, PoolError> {
    let VolumeRequest { name, mirror, size_bytes, rack } = request;
    let drives = choose(state, *mirror, *size_bytes)?;
    if let Some(breach) = breach(state, *mirror, &drives) {
        return Err(PoolError::Breach { breach });
    }
    let node = |id| state.drives.get(id).map(|drive| drive.node);
    let in_rack = |node: &NodeId| state.nodes.get(node).and_then(|node| node.zone.as_ref()) == Some(rack);
    let owner = drives.iter().filter_map(node).find(in_rack).or_else(|| drives.iter().find_map(node));
    let owner = owner.ok_or(PoolError::NoNode)?;
    let (name, mirror, size_bytes) = (name.clone(), *mirror, *size_bytes);
    Ok(ClusterCommand::CreateVolume { name, mirror, provision: Provision::Fixed, size_bytes, drives, owner })
}

/// A volume's phase and legs, in words.
pub fn in_words(volume: &Volume) -> String {
    let phase = match &volume.phase {
        Phase::Fencing { confirmed } => format!("fencing, {} legs confirmed", confirmed.len()),
        Phase::Opening { .. } => "opening".to_owned(),
        Phase::Open { .. } => "open".to_owned(),
        Phase::Closed => "closed".to_owned(),
        Phase::Offline => "offline".to_owned(),
    };
    let legs = volume.legs.iter().map(|(id, leg)| {
        let state = match leg.state {
            LegState::InSync => "in sync",
            LegState::Stale { back: true, .. } => "stale and back",
            LegState::Stale { back: false, .. } => "stale",
            LegState::Rebuilding { .. } => "rebuilding",
            LegState::Suspect { .. } => "suspect",
        };
        format!("{id} is {state}")
    });
    format!("epoch {}, {phase}, {}", volume.epoch, legs.collect::<Vec<_>>().join(", "))
}
