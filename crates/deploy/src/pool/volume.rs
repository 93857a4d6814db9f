//! The volume stage: a volume over the pool, until it can be used.
//!
//! Invariants: copies are over racks first, then over nodes, checked before the ledger is asked. A volume of the same name that is what is
//! asked for is let alone; one that is another is an error. What there is, is taken from nobody whom a quorum does not confirm.
//!
//! On failure: [`PoolError`]; the stage can be run again.

use super::choose::{choose, differences};
use super::{PoolError, settle, views};
use crate::Member;
use api::{ClusterView, RebuildProgress};
use control::state::{LegState, Phase, Volume};
use control::{Command, State};
use model::{Mirror, NodeName, Provision, VolumeId, VolumeName, VolumeSize, ZoneName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What volume is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// Its name.
    pub name: VolumeName,
    /// How many copies.
    pub mirror: Mirror,
    /// When its space is given out.
    pub provision: Provision,
    /// What its users see.
    pub size_bytes: u64,
    /// In which rack it is opened first; `None`: in any.
    pub rack: Option<ZoneName>,
}

impl VolumeRequest {
    /// Its size in placement's words.
    pub fn size(&self) -> VolumeSize {
        VolumeSize::new(self.mirror, self.provision, self.size_bytes)
    }
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
    members: &[Member],
    request: &VolumeRequest,
    bound: Duration,
) -> Result<VolumeReady, PoolError> {
    named(members, request, bound).await?;
    ready(members, &request.name, bound).await
}

/// Names a volume in the ledger, where it is to lie; whether it was new. It is made from then on, by the nodes.
pub async fn named(members: &[Member], request: &VolumeRequest, bound: Duration) -> Result<bool, PoolError> {
    let (contact, state) = confirmed(members, bound).await?;
    if let Some(found) = find(&state, &request.name) {
        let (name, differs) = (request.name.clone(), differences(&state, found, request.size()));
        return if differs.is_empty() { Ok(false) } else { Err(PoolError::Another { name, differs }) };
    }
    let create = choose(&state, &request.name, request.size(), request.rack.as_ref())?;
    let what = format!("volume {} in the ledger", request.name);
    let there = |state: &State| find(state, &request.name).is_some();
    settle(contact, &what, bound, &Command::Cluster(create), there).await?;
    Ok(true)
}

/// Waits until a volume that is in the ledger can be used, with every leg in sync.
pub async fn ready(members: &[Member], name: &VolumeName, bound: Duration) -> Result<VolumeReady, PoolError> {
    let begun = Instant::now();
    let mut last = NOBODY.to_owned();
    while begun.elapsed() < bound {
        let views = views(members).await;
        let state = newest(&views).map(|view| &view.state);
        let id = state.and_then(|state| find(state, name)).map(|(id, _)| id);
        match id.map(|id| opened(&views, id)) {
            Some(Ok(ready)) if ready.in_sync == ready.legs => return Ok(ready),
            Some(Ok(ready)) => last = format!("{} of {} legs are in sync", ready.in_sync, ready.legs),
            Some(Err(why)) => last = why,
            None => {}
        }
        sleep(super::POLL).await;
    }
    let what = format!("volume {name} to be open with all its legs in sync");
    Err(PoolError::Late { what, bound, last: Some(last) })
}

pub(super) const NOBODY: &str = "nobody answers who leads the ledger by the word of a quorum";

/// What the ledger says, by the word of a quorum, and who said so.
pub async fn confirmed(members: &[Member], bound: Duration) -> Result<(&Member, State), PoolError> {
    followed(members, bound).await.map(|Followed { leader, state, .. }| (leader, state))
}

/// What the ledger says, and what it does not.
#[derive(Debug)]
pub struct Followed<'a> {
    /// Who says so, by the word of a quorum.
    pub leader: &'a Member,
    /// What it says.
    pub state: State,
    /// How far rebuilds are, as owners say.
    pub rebuilds: BTreeMap<VolumeId, RebuildProgress>,
}

/// The same with what owners know of rebuilds.
pub async fn followed(members: &[Member], bound: Duration) -> Result<Followed<'_>, PoolError> {
    let begun = Instant::now();
    loop {
        let views = views(members).await;
        let found = leading(&views);
        let followed = found.and_then(|(name, view)| {
            let leader = members.iter().find(|member| member.name == *name)?;
            let rebuilds = views.iter().flat_map(|(_, view)| view.rebuilds.clone()).collect();
            Some(Followed { leader, state: view.state.clone(), rebuilds })
        });
        match followed {
            Some(followed) => return Ok(followed),
            None if views.is_empty() => return Err(PoolError::NoLedger),
            None if begun.elapsed() >= bound => {
                let what = "a quorum to say what the ledger says".to_owned();
                return Err(PoolError::Late { what, bound, last: Some(NOBODY.to_owned()) });
            }
            None => sleep(super::POLL).await,
        }
    }
}

/// The volume as its owner has it, if it is open and has a device there; else what it waits for, in words.
pub fn opened(views: &[(NodeName, ClusterView)], id: VolumeId) -> Result<VolumeReady, String> {
    let state = &newest(views).ok_or(NOBODY)?.state;
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

/// The one that leads by the word of a quorum. One that was cut off or deposed may believe that it leads, and tells of the past.
pub fn newest(views: &[(NodeName, ClusterView)]) -> Option<&ClusterView> {
    leading(views).map(|(_, view)| view)
}

/// Of two ledgers that were forced apart from each other, each of which has a leader, the later.
fn leading(views: &[(NodeName, ClusterView)]) -> Option<&(NodeName, ClusterView)> {
    views.iter().filter(|(_, view)| view.confirmed).max_by_key(|(_, view)| view.state.incarnation)
}

pub(super) fn find<'a>(state: &'a State, name: &VolumeName) -> Option<(VolumeId, &'a Volume)> {
    state.volumes.iter().find(|(_, volume)| volume.name == *name).map(|(id, volume)| (*id, volume))
}

/// A volume's phase, in a word or two.
pub fn phase_in_words(phase: &Phase) -> String {
    match phase {
        Phase::Fencing { confirmed } => format!("fencing, {} legs confirmed", confirmed.len()),
        Phase::Opening { .. } => "opening".to_owned(),
        Phase::Open { .. } => "open".to_owned(),
        Phase::Closed => "closed".to_owned(),
        Phase::Offline => "offline".to_owned(),
    }
}

/// A leg's state, in a word or two.
pub fn leg_in_words(state: LegState) -> &'static str {
    match state {
        LegState::InSync => "in sync",
        LegState::Stale { back: true, .. } => "stale and back",
        LegState::Stale { back: false, .. } => "stale",
        LegState::Rebuilding { .. } => "rebuilding",
        LegState::Suspect { .. } => "suspect",
    }
}

/// A volume's phase and legs, in words.
pub fn in_words(volume: &Volume) -> String {
    let legs = volume.legs.iter().map(|(id, leg)| format!("{id} is {}", leg_in_words(leg.state)));
    let phase = phase_in_words(&volume.phase);
    format!("epoch {}, {phase}, {}", volume.epoch, legs.collect::<Vec<_>>().join(", "))
}
