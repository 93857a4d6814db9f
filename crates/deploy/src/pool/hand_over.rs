//! A volume that another node shall own, without a takeover.
//!
//! ```text
//!   asked of its owner ─► closed in order there ─► one commit: it is the other's ─► opened there
//! ```
//! The agents do all of it: here it is asked for and waited for.
//!
//! Invariants: nothing is closed for a node that does not answer or may run nothing. Asking again for what is under way waits for it; asking for what is
//! there does nothing. A hand-over that was given up meanwhile, by its owner or a takeover, is not begun again.
//!
//! On failure: [`PoolError`]; what has begun goes on by itself.

use super::volume::{VolumeReady, newest, opened};
use super::{POLL, PoolError, chain, says, views};
use crate::Member;
use api::{ClientError, ClusterView, HandOverRequest};
use control::hand_over::{CantHandOver, Stand, stand};
use model::{Epoch, NodeId, NodeName, VolumeId};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A volume can't be handed over, or was not.
#[derive(Debug, thiserror::Error)]
pub enum NoHandOver {
    /// The ledger would not take it.
    #[error(transparent)]
    Cant(#[from] CantHandOver),
    /// Nobody would open it.
    #[error("{0} does not answer, or has no ledger")]
    Away(NodeId),
    /// It may run nothing.
    #[error("{0} has no lease")]
    NoLease(NodeId),
    /// Somebody uses it.
    #[error("{volume} is used")]
    InUse {
        /// Which volume.
        volume: VolumeId,
        /// How many do.
        #[source]
        why: Box<ClientError>,
    },
    /// Its owner does not begin.
    #[error("{owner} does not begin to close {volume}")]
    Refused {
        /// Which volume.
        volume: VolumeId,
        /// Who has it.
        owner: NodeId,
        /// Why not.
        #[source]
        why: Box<ClientError>,
    },
    /// It was begun, and somebody else has the volume.
    #[error("it was begun and given up: {volume} is {owner}'s")]
    GivenUp {
        /// Which volume.
        volume: VolumeId,
        /// Who has it now.
        owner: NodeId,
    },
}

impl NoHandOver {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Cant(why) => why.help(),
            Self::Away(_) => "see that the node and its agent run, or name another one",
            Self::NoLease(_) => "see that it reaches the ledger's leader: `twinrack ledger show`",
            Self::InUse { .. } => "end them, or have them asked to end: `--end-users`",
            Self::Refused { .. } => "its owner says why; ask again when that is mended",
            Self::GivenUp { .. } => {
                "the node that was to have it was lost, or the one that had it failed; see `twinrack volume show`, and ask again"
            }
        }
    }
}

/// What is to be done next.
#[derive(Debug)]
enum Next {
    /// Nothing: it is open there.
    There(VolumeReady),
    /// To wait for this.
    Wait(String),
    /// To ask this node, which has it in this epoch.
    Ask(NodeId, Epoch),
}

/// What is to be done next for a volume to be open at a node; `begun`: in which epoch its owner was asked. Pure.
fn next(
    views: &[(NodeName, ClusterView)],
    (id, to): (VolumeId, NodeId),
    begun: Option<Epoch>,
) -> Result<Next, NoHandOver> {
    let Some(state) = newest(views).map(|view| &view.state) else {
        return Ok(Next::Wait(super::volume::NOBODY.to_owned()));
    };
    let volume = state.volumes.get(&id).ok_or(CantHandOver::NoVolume(id))?;
    let answers = |node| views.iter().map(|(_, view)| view).find(|view| view.node == node);
    match stand(state, id, to) {
        Ok(Stand::There | Stand::Opening) => Ok(opened(views, id).map_or_else(Next::Wait, Next::There)),
        _ if begun.is_some_and(|begun| begun != volume.epoch) => {
            Err(NoHandOver::GivenUp { volume: id, owner: volume.owner })
        }
        Err(why) => Err(why.into()),
        Ok(Stand::OpenAt(owner)) if begun.is_some() => Ok(Next::Ask(owner, volume.epoch)),
        Ok(Stand::OpenAt(owner)) => {
            let taker = answers(to).ok_or(NoHandOver::Away(to))?;
            if !taker.leased {
                return Err(NoHandOver::NoLease(to));
            }
            answers(owner).ok_or(NoHandOver::Away(owner))?;
            Ok(Next::Ask(owner, volume.epoch))
        }
    }
}

/// Has a volume opened by another node, and waits until it can be used there. `told` hears what is waited for, when that changes.
pub async fn hand_over(
    members: &[Member],
    request: HandOverRequest,
    bound: Duration,
    mut told: impl FnMut(&str),
) -> Result<VolumeReady, PoolError> {
    let HandOverRequest { volume: id, to, .. } = request;
    let deadline = Instant::now() + bound;
    let (mut begun, mut last) = (None, String::new());
    loop {
        let views = views(members).await;
        if views.is_empty() {
            return Err(PoolError::NoLedger);
        }
        let now = match next(&views, (id, to), begun)? {
            Next::There(ready) => return Ok(ready),
            Next::Wait(why) => why,
            // Asked again as long as it has it: an agent that has started anew knows nothing of what it was asked before.
            Next::Ask(owner, epoch) => {
                let name = views.iter().find(|(_, view)| view.node == owner).map(|(name, _)| name);
                let member = members.iter().find(|member| Some(&member.name) == name);
                match member {
                    None => format!("{owner} does not answer"),
                    Some(member) => match member.client.hand_over(&request).await {
                        Ok(()) => {
                            begun = begun.or(Some(epoch));
                            format!("{owner} closes it")
                        }
                        Err(error) if begun.is_none() => return Err(refused(id, owner, error).into()),
                        Err(error) => chain(&error),
                    },
                }
            }
        };
        if now != last {
            told(&now);
            last = now;
        }
        if Instant::now() >= deadline {
            let what = format!("{id} to be open at {to}");
            return Err(PoolError::Late { what, bound, last: Some(last) });
        }
        sleep(POLL).await;
    }
}

fn refused(volume: VolumeId, owner: NodeId, error: ClientError) -> NoHandOver {
    let in_use = says(&error, "in-use");
    let why = Box::new(error);
    if in_use { NoHandOver::InUse { volume, why } } else { NoHandOver::Refused { volume, owner, why } }
}

#[cfg(test)]
#[path = "hand_over_tests.rs"]
mod tests;
