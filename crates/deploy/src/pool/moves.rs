//! Moving a copy of a volume to another drive, and emptying a drive, while the volume is used.
//!
//! ```text
//!   a new leg that replaces the old one ─► made, given out ─► rebuilt ─► one commit: it is in sync, the old one is gone ─► its slabs are free
//! ```
//! The ledger and the agents do all of it: here it is asked for and waited for.
//!
//! Invariants: what is asked for keeps the rule of placement, looked at by its checker before the ledger is asked. No copy in sync is given up for one
//! that is not. Asking again for what is under way waits for it; asking for what is done does nothing.
//!
//! On failure: [`PoolError`]; what has begun goes on by itself.

use super::choose::NoPlace;
use super::volume::{Followed, confirmed, followed, leg_in_words, phase_in_words};
use super::{POLL, Patience, PoolError, chain, settle};
use crate::Member;
use api::ProposeRequest;
use control::state::{Leg, Phase, Volume};
use control::{ClusterCommand, Command, LegRef, State, VolumeCommand};
use model::{DriveId, LegId, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What there is to do for a copy to be on another drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Nothing: it is on this drive.
    There(DriveId),
    /// To wait for this.
    Waits {
        /// Where it goes.
        to: DriveId,
        /// What is waited for, in words.
        why: String,
    },
    /// To ask the ledger for this.
    Ask {
        /// Where it goes.
        to: DriveId,
        /// The command.
        command: Command,
    },
}

/// A copy can't be moved so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantMove {
    /// There is no such volume.
    #[error("there is no {0}")]
    NoVolume(VolumeId),
    /// It has no copy on that drive.
    #[error("{volume} has no copy on {drive}")]
    NoCopy {
        /// Which volume.
        volume: VolumeId,
        /// Which drive.
        drive: DriveId,
    },
    /// Nothing is copied while it is not open.
    #[error("{volume} is {phase}: a copy moves while its volume is open")]
    NotOpen {
        /// Which volume.
        volume: VolumeId,
        /// What it is.
        phase: String,
    },
    /// There is no place that keeps the rule.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
}

/// What there is to do for a volume's copy on a drive to be on another; `to` `None`: where placement says. Pure.
pub fn next_of_move(
    ledger: &State,
    id: VolumeId,
    from: DriveId,
    to: Option<DriveId>,
) -> Result<Move, CantMove> {
    let volume = ledger.volumes.get(&id).ok_or(CantMove::NoVolume(id))?;
    let on = |drive| volume.legs.iter().find(|(_, leg)| leg.drive == drive);
    let Some((old, found)) = on(from) else {
        let there = to.and_then(on).ok_or(CantMove::NoCopy { volume: id, drive: from })?.1;
        return Ok(if there.replaces.is_none() { Move::There(there.drive) } else { waits(volume, there) });
    };
    if matches!(volume.phase, Phase::Closed | Phase::Offline) {
        return Err(CantMove::NotOpen { volume: id, phase: phase_in_words(&volume.phase) });
    }
    let going = volume.legs.iter().find(|(_, leg)| leg.replaces == Some(*old));
    let (leg, found) = match going {
        // One that is on its way elsewhere is turned.
        Some((new, going)) if to.is_some_and(|to| to != going.drive) => (*new, going),
        Some((_, going)) => return Ok(waits(volume, going)),
        None => (*old, found),
    };
    let to = if let Some(to) = to {
        to
    } else {
        let (placed, new) = (ledger.placed(), volume.leg_minted.next());
        placement::replace(&ledger.pool(), &placed, (id, leg), new).map_err(NoPlace::from)?.drive
    };
    let named = LegRef { id: leg, incarnation: found.incarnation };
    let command = Command::Volume(id, volume.epoch, VolumeCommand::MoveLeg { leg: named, to });
    keeps_rule(ledger, id, found.replaces.unwrap_or(leg), &command)?;
    Ok(Move::Ask { to, command })
}

fn waits(volume: &Volume, going: &Leg) -> Move {
    let state = leg_in_words(going.state);
    let why = format!("the copy on {} is {state}, the volume {}", going.drive, phase_in_words(&volume.phase));
    Move::Waits { to: going.drive, why }
}

/// Whether the ledger takes it, and the volume's copies would be where the shape says once it is done.
fn keeps_rule(ledger: &State, id: VolumeId, old: LegId, command: &Command) -> Result<(), NoPlace> {
    let mut after = ledger.clone();
    after.apply(command)?;
    let Some(volume) = after.volumes.get(&id) else { return Ok(()) };
    let own: Vec<_> = after.placed().into_iter().filter(|leg| leg.volume == id && leg.leg != old).collect();
    // Other copies that are on their way, too, count where they go.
    let gone = |leg: &LegId| volume.legs.values().any(|other| other.replaces == Some(*leg));
    let own: Vec<_> = own.into_iter().filter(|leg| !gone(&leg.leg)).collect();
    let broken = placement::check(&after.pool(), &BTreeMap::from([(id, volume.size())]), &own);
    broken.into_iter().next().map_or(Ok(()), |broken| Err(broken.into()))
}

/// Moves a volume's copy from a drive to another, and waits until it is there and the old one is gone. Gives the drive that it is on.
pub async fn move_copy(
    members: &[Member],
    id: VolumeId,
    (from, to): (DriveId, Option<DriveId>),
    mut patience: Patience,
) -> Result<DriveId, PoolError> {
    let mut goes = None;
    loop {
        let Followed { leader, state, rebuilds } = followed(members, patience.bound()).await?;
        patience.sees(state.volumes.get(&id), &rebuilds);
        // Where nobody said where to, the cluster may turn it elsewhere; when the old one is gone it is where it went last.
        let is_gone = !volumes_on(&state, from).contains(&id);
        let to = to.or(goes.filter(|_| is_gone));
        let last = match next_of_move(&state, id, from, to)? {
            Move::There(drive) => return Ok(drive),
            Move::Waits { to: going, why } => {
                goes = Some(going);
                Some(why)
            }
            // The epoch may have changed meanwhile, or a leader: the ledger is looked at before it is asked again.
            Move::Ask { to: going, command } => {
                goes = Some(going);
                let asked = leader.client.propose(&ProposeRequest { command }).await;
                asked.err().map(|error| chain(&error))
            }
        };
        patience.is_left(|| format!("the copy of {id} on {from} to be on another drive"), last)?;
        sleep(POLL).await;
    }
}

/// Empties a drive, volume after volume, and takes it out of the pool: nothing new is put on it from the first step on. What held no copy any
/// more leaves when its node has let go of what was there. Gives the volumes that moved, and where to.
pub async fn replace_drive(
    members: &[Member],
    drive: DriveId,
    with: Option<DriveId>,
    bound: Duration,
) -> Result<BTreeMap<VolumeId, DriveId>, PoolError> {
    let deadline = Instant::now() + bound;
    let left = || deadline.saturating_duration_since(Instant::now());
    let (contact, state) = confirmed(members, bound).await?;
    // Before anything is changed it must be known that each has a place.
    let holds = volumes_on(&state, drive);
    let mut after = state.clone();
    after.apply(&Command::Cluster(ClusterCommand::RetireDrive(drive))).map_err(NoPlace::from)?;
    for id in &holds {
        if let Move::Ask { command, .. } = next_of_move(&after, *id, drive, with)? {
            after.apply(&command).map_err(NoPlace::from)?;
        }
    }
    let retire = Command::Cluster(ClusterCommand::RetireDrive(drive));
    let retired = |state: &State| state.drives.get(&drive).is_none_or(|found| found.retired);
    settle(contact, &format!("{drive} to take nothing new"), left(), &retire, retired).await?;
    let mut moved = BTreeMap::new();
    for id in holds {
        moved.insert(id, move_copy(members, id, (drive, with), Patience::within(left())).await?);
    }
    remove_drive(members, drive, left()).await?;
    Ok(moved)
}

/// Takes a drive without copies out of the pool, when its node has let go of what was on it.
pub async fn remove_drive(members: &[Member], drive: DriveId, bound: Duration) -> Result<(), PoolError> {
    let (contact, state) = confirmed(members, bound).await?;
    let volumes = volumes_on(&state, drive);
    if !volumes.is_empty() {
        return Err(PoolError::HoldsCopies { drive, volumes });
    }
    let remove = Command::Cluster(ClusterCommand::RemoveDrive(drive));
    let gone = |state: &State| !state.drives.contains_key(&drive);
    settle(contact, &format!("{drive} to leave the pool"), bound, &remove, gone).await.map(drop)
}

/// The volumes that have a copy on a drive.
pub fn volumes_on(ledger: &State, drive: DriveId) -> Vec<VolumeId> {
    let holds = |volume: &Volume| volume.legs.values().any(|leg| leg.drive == drive);
    ledger.volumes.iter().filter(|(_, volume)| holds(volume)).map(|(id, _)| *id).collect()
}

#[cfg(test)]
#[path = "moves_tests.rs"]
pub(super) mod tests;
