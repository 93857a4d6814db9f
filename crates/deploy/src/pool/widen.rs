//! A two-way volume that gets two copies more while it is used: one more in each rack, on another node.
//!
//! ```text
//!   asked of the ledger ─► two legs more, made and given out ─► rebuilt, one after the other ─► four in sync
//! ```
//! The ledger and the agents do all of it: here it is asked for and waited for. It is what makes 2+2 of 1+1.
//!
//! Invariants: what is asked for keeps the rule of a four-way mirror, looked at by its checker before the ledger is asked. The copies that are there stay what they are. Asking again for what is under way waits for it; asking
//! for what is done does nothing.
//!
//! On failure: [`PoolError`]; what has begun goes on by itself.

use super::choose::{NoPlace, breaches};
use super::volume::{Followed, followed, in_words, phase_in_words};
use super::{POLL, Patience, PoolError, chain};
use crate::Member;
use api::ProposeRequest;
use control::state::{Leg, Phase};
use control::{Command, State, VolumeCommand};
use model::{DriveId, Mirror, VolumeId};
use tokio::time::sleep;

/// What there is to do for a volume to have four copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Widening {
    /// Nothing: it has them, all in sync.
    There,
    /// To wait for this, in words.
    Waits(String),
    /// To ask the ledger for this.
    Ask {
        /// Where the two go.
        drives: Vec<DriveId>,
        /// The command.
        command: Command,
    },
}

/// A volume can't have four copies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantWiden {
    /// There is no such volume.
    #[error("there is no {0}")]
    NoVolume(VolumeId),
    /// Nothing is copied while it is not open.
    #[error("{volume} is {phase}: copies are made while a volume is open")]
    NotOpen {
        /// Which volume.
        volume: VolumeId,
        /// What it is.
        phase: String,
    },
    /// No drives would do.
    #[error("there is no place for two copies more")]
    NoPlace(#[from] NoPlace),
}

impl CantWiden {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoVolume(_) => "`twinrack volume list` shows names and ids",
            Self::NotOpen { .. } => "open the volume first",
            Self::NoPlace(_) => {
                "each rack needs a second node with room: `twinrack node add` adds one to each, `twinrack drive list` shows what is free"
            }
        }
    }
}

/// What there is to do for a volume to have four copies, all of them in sync. Pure.
pub fn next_of_widening(ledger: &State, id: VolumeId) -> Result<Widening, CantWiden> {
    let volume = ledger.volumes.get(&id).ok_or(CantWiden::NoVolume(id))?;
    if volume.mirror == Mirror::FourWay && volume.in_sync().count() == volume.legs.len() {
        return Ok(Widening::There);
    }
    if matches!(volume.phase, Phase::Closed | Phase::Offline) {
        return Err(CantWiden::NotOpen { volume: id, phase: phase_in_words(&volume.phase) });
    }
    let is_moving = volume.legs.values().any(|leg| leg.replaces.is_some());
    // A takeover takes seconds: it is waited for.
    let is_open = matches!(volume.phase, Phase::Open { .. });
    if volume.mirror == Mirror::FourWay || is_moving || !is_open {
        return Ok(Widening::Waits(in_words(volume)));
    }
    let slabs = volume.legs.values().map(Leg::slabs).max().unwrap_or(0);
    let placed = placement::widen(&ledger.pool(), &ledger.placed(), (id, volume.leg_minted), slabs);
    let drives: Vec<DriveId> = placed.map_err(NoPlace::from)?.into_iter().map(|leg| leg.drive).collect();
    let command = Command::Volume(id, volume.epoch, VolumeCommand::Widen { drives: drives.clone() });
    keeps_rule(ledger, id, &command)?;
    Ok(Widening::Ask { drives, command })
}

/// Whether the ledger takes it, and the volume's copies would be where the shape says.
fn keeps_rule(ledger: &State, id: VolumeId, command: &Command) -> Result<(), NoPlace> {
    let mut after = ledger.clone();
    after.apply(command)?;
    breaches(&after, id).into_iter().next().map_or(Ok(()), |broken| Err(broken.into()))
}

/// Has two copies more made of a volume, and waits until all four are in sync; whether it had fewer. `told` hears what is waited for, when that changes.
pub async fn widen(
    members: &[Member],
    id: VolumeId,
    mut patience: Patience,
    mut told: impl FnMut(&str),
) -> Result<bool, PoolError> {
    let (mut last, mut asked) = (String::new(), false);
    loop {
        let Followed { leader, state, rebuilds } = followed(members, patience.bound()).await?;
        patience.sees(state.volumes.get(&id), &rebuilds);
        let now = match next_of_widening(&state, id)? {
            Widening::There => return Ok(asked),
            Widening::Waits(why) => why,
            // The epoch may have changed meanwhile, or a leader: the ledger is looked at before it is asked again.
            Widening::Ask { command, .. } => {
                asked = true;
                let answer = leader.client.propose(&ProposeRequest { command }).await;
                answer.err().map_or_else(|| "the ledger is asked".to_owned(), |error| chain(&error))
            }
        };
        if now != last {
            told(&now);
            last = now;
        }
        patience.is_left(|| format!("{id} to have four copies in sync"), Some(last.clone()))?;
        sleep(POLL).await;
    }
}

#[cfg(test)]
#[path = "widen_tests.rs"]
mod tests;
