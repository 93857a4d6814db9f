//! A volume is to be handed over: what the ledger and this node know against it, and control's order.
//!
//! On failure: the reason, to whoever asked; nothing has changed.

use super::{Asked, Handle, Shell};
use crate::volumes::VolumesError;
use control::hand_over::{Stand, stand};
use control::member::Input;
use control::owner::Event;
use model::{NodeId, VolumeId};
use tokio::sync::oneshot;

/// What is asked.
pub(super) struct HandOver {
    volume: VolumeId,
    to: NodeId,
    /// Whether it is to begin; if not, whether it could.
    begin: bool,
    answer: oneshot::Sender<Result<(), VolumesError>>,
}

impl Handle {
    /// Whether a volume of this node can be handed over to another now; with `begin` it is: the ledger says when that is done.
    pub(in crate::volumes) async fn hand_over(
        &self,
        volume: VolumeId,
        to: NodeId,
        begin: bool,
    ) -> Result<(), VolumesError> {
        let (answer, done) = oneshot::channel();
        let asked = Asked::HandOver(HandOver { volume, to, begin, answer });
        self.0.send(asked).map_err(|_| VolumesError::Ended)?;
        done.await.map_err(|_| VolumesError::Ended)?
    }
}

impl Shell {
    pub(super) fn answer_hand_over(&mut self, HandOver { volume, to, begin, answer }: HandOver) {
        let may = self.may_hand_over(volume, to);
        if begin && may.is_ok() {
            self.step(Input::Owner(volume, Event::HandOver(to)));
        }
        // Whoever asked may be gone.
        let _ = answer.send(may);
    }

    fn may_hand_over(&self, volume: VolumeId, to: NodeId) -> Result<(), VolumesError> {
        let node = self.identity.node;
        match stand(&self.state.borrow(), volume, to)? {
            // To itself: what is under way is taken back.
            Stand::There | Stand::Opening => return Ok(()),
            Stand::OpenAt(owner) if owner != node => return Err(VolumesError::NotOwner { volume, owner }),
            Stand::OpenAt(_) => {}
        }
        if !self.member.is_leased() {
            return Err(VolumesError::NoLease(node));
        }
        if self.peers.is_unheard(to) {
            return Err(VolumesError::Silent(to));
        }
        Ok(())
    }
}
