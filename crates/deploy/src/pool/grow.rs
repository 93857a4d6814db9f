//! A volume that grows while it is used.
//!
//! ```text
//!   asked of the ledger ─► each leg's node fills its slabs with zeros ─► one commit: it has the size ─► its owner gives it to users
//! ```
//! The ledger and the agents do all of it: here it is asked for and waited for.
//!
//! Invariants: what the ledger would not take is not asked for. Asking again for what is under way waits for it; asking for what is there does nothing.
//!
//! On failure: [`PoolError`]; what has begun goes on by itself.

use super::volume::newest;
use super::{POLL, PoolError, chain, phase_in_words, views};
use crate::Member;
use api::{ClusterView, ProposeRequest};
use control::state::{LegState, Phase, Volume};
use control::{Command, Rejected, State, VolumeCommand};
use model::{NodeName, VolumeId};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What there is to do for a volume to have a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Growth {
    /// Nothing, by the ledger.
    There,
    /// To wait for this, in words.
    Waits(String),
    /// To ask the ledger for this.
    Ask(Command),
}

/// A volume can't grow so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantGrow {
    /// There is no such volume.
    #[error("there is no {0}")]
    NoVolume(VolumeId),
    /// It has more.
    #[error("{volume} has {has_bytes} bytes, {asked_bytes} are asked for")]
    Smaller {
        /// Which volume.
        volume: VolumeId,
        /// What it has.
        has_bytes: u64,
        /// What is asked for.
        asked_bytes: u64,
    },
    /// It grows to something else.
    #[error("{volume} is growing to {to_bytes} bytes")]
    Growing {
        /// Which volume.
        volume: VolumeId,
        /// To what.
        to_bytes: u64,
    },
    /// The ledger would not take it.
    #[error("the ledger would not take it")]
    Rejected(#[from] Rejected),
}

impl CantGrow {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoVolume(_) => "`twinrack volume list` shows names and ids",
            Self::Smaller { .. } => "a volume only grows: ask for more than it has",
            Self::Growing { .. } => "wait until it has that size, and ask again",
            Self::Rejected(Rejected::BeyondRoom { .. } | Rejected::Forced) => {
                "make another volume of that size, and copy what is on this one"
            }
            Self::Rejected(Rejected::NoRoom { .. }) => {
                "move another volume's copy off that drive, or this one's to a drive with more room: `twinrack volume move`"
            }
            Self::Rejected(Rejected::Reserve { .. }) => {
                "add drives to that node, or ask for less; `twinrack volume list` shows what is free"
            }
            Self::Rejected(Rejected::Size { .. }) => "ask for whole blocks of 4096 bytes",
            Self::Rejected(_) => {
                "it grows while it is open, or closed: `twinrack volume show` says what it waits for"
            }
        }
    }
}

/// What there is to do for a volume to have this size. Pure.
pub fn next_of_growth(ledger: &State, id: VolumeId, size_bytes: u64) -> Result<Growth, CantGrow> {
    let volume = ledger.volumes.get(&id).ok_or(CantGrow::NoVolume(id))?;
    let has_bytes = volume.size_bytes;
    match volume.growing {
        _ if size_bytes < has_bytes => {
            Err(CantGrow::Smaller { volume: id, has_bytes, asked_bytes: size_bytes })
        }
        Some(to_bytes) if to_bytes == size_bytes => Ok(Growth::Waits(in_words(volume))),
        Some(to_bytes) => Err(CantGrow::Growing { volume: id, to_bytes }),
        None if size_bytes == has_bytes => Ok(Growth::There),
        None => {
            let command = Command::Volume(id, volume.epoch, VolumeCommand::Grow { size_bytes });
            // A takeover takes seconds: it is waited for.
            if matches!(volume.phase, Phase::Fencing { .. } | Phase::Opening { .. }) {
                return Ok(Growth::Waits(format!("it is {}", phase_in_words(&volume.phase))));
            }
            ledger.clone().apply(&command)?;
            Ok(Growth::Ask(command))
        }
    }
}

/// Which copies are waited for.
fn in_words(volume: &Volume) -> String {
    let counts = |state| matches!(state, LegState::InSync | LegState::Rebuilding { .. });
    let lacks = volume.legs.iter().filter(|(_, leg)| leg.to_lay > 0 && counts(leg.state));
    let words = lacks.map(|(id, leg)| {
        format!("{id} on {} has {} of {} slabs ready", leg.drive, leg.laid_slabs(), leg.slabs())
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Whether the owner's users have it all; else what it waits for, in words. Nobody has a closed volume.
fn is_had(views: &[(NodeName, ClusterView)], id: VolumeId, size_bytes: u64) -> Result<(), String> {
    let volume = newest(views).and_then(|view| view.state.volumes.get(&id));
    let Some(volume) = volume.filter(|volume| volume.phase != Phase::Closed) else { return Ok(()) };
    let owner = views.iter().find(|(_, view)| view.node == volume.owner);
    let has = owner.and_then(|(_, view)| view.device_bytes.get(&id)).copied();
    match has {
        Some(has) if has >= size_bytes => Ok(()),
        Some(has) => Err(format!("its users have {has} bytes yet")),
        None => Err(format!("it is {}, and its owner shows no device", phase_in_words(&volume.phase))),
    }
}

/// Makes a volume larger, and waits until its users have all of it. `told` hears what is waited for, when that changes.
pub async fn grow(
    members: &[Member],
    id: VolumeId,
    size_bytes: u64,
    bound: Duration,
    mut told: impl FnMut(&str),
) -> Result<(), PoolError> {
    let deadline = Instant::now() + bound;
    let mut last = String::new();
    loop {
        let views = views(members).await;
        let leader = views.iter().find(|(_, view)| view.confirmed);
        let contact = leader.and_then(|(name, _)| members.iter().find(|member| member.name == *name));
        let now = match (leader, contact) {
            (Some((_, view)), Some(contact)) => match next_of_growth(&view.state, id, size_bytes)? {
                Growth::There => match is_had(&views, id, size_bytes) {
                    Ok(()) => return Ok(()),
                    Err(why) => why,
                },
                Growth::Waits(why) => why,
                // The epoch may have changed meanwhile, or a leader: the ledger is looked at before it is asked again.
                Growth::Ask(command) => {
                    let asked = contact.client.propose(&ProposeRequest { command }).await;
                    asked.err().map_or_else(|| "the ledger is asked".to_owned(), |error| chain(&error))
                }
            },
            _ if views.is_empty() => return Err(PoolError::NoLedger),
            _ => super::volume::NOBODY.to_owned(),
        };
        if now != last {
            told(&now);
            last = now;
        }
        if Instant::now() >= deadline {
            let what = format!("{id} to have {size_bytes} bytes");
            return Err(PoolError::Late { what, bound, last: Some(last) });
        }
        sleep(POLL).await;
    }
}

#[cfg(test)]
#[path = "grow_tests.rs"]
mod tests;
