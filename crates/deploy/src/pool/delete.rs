//! Deleting a volume: closed in order first, or already.
//!
//! Invariants: only its owner closes a volume: it lets nobody in any more, stops its array, and says so to the ledger. Nothing is deleted while it may be
//! open. Its slabs are free when its targets have let go of them.
//!
//! On failure: [`PoolError`]; what was done stands, and it can be asked for again.

use super::volume::confirmed;
use super::{POLL, PoolError, chain, settle};
use crate::Member;
use control::state::Phase;
use control::{Command, State, VolumeCommand};
use model::VolumeId;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Deletes a volume, with all that is on it; `close_first`: one that is open is closed before.
pub async fn delete(
    members: &[Member],
    id: VolumeId,
    close_first: bool,
    bound: Duration,
) -> Result<(), PoolError> {
    let deadline = Instant::now() + bound;
    let mut last = None;
    loop {
        let (contact, state) = confirmed(members, bound).await?;
        let Some(volume) = state.volumes.get(&id) else { return Ok(()) };
        match &volume.phase {
            Phase::Closed | Phase::Offline => {
                let command = Command::Volume(id, volume.epoch, VolumeCommand::Delete);
                let gone = |state: &State| !state.volumes.contains_key(&id);
                return settle(contact, &format!("{id} to be deleted"), bound, &command, gone)
                    .await
                    .map(drop);
            }
            phase if !close_first => {
                return Err(PoolError::InUse { volume: id, phase: super::phase_in_words(phase) });
            }
            phase => {
                let owner = state.nodes.get(&volume.owner).map(|node| &node.name);
                if let Some(owner) = members.iter().find(|member| Some(&member.name) == owner) {
                    last = owner.client.close_volume(id).await.err().map(|error| chain(&error));
                }
                last = last.or_else(|| Some(format!("it is {}", super::phase_in_words(phase))));
            }
        }
        if Instant::now() >= deadline {
            return Err(PoolError::Late { what: format!("{id} to be closed"), bound, last });
        }
        sleep(POLL).await;
    }
}
