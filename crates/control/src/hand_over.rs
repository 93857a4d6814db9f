//! What a hand-over asks of the ledger: whether a volume can be opened by another node without a takeover.
//!
//! Purpose: [`stand`] says how far it is, or why it can't be, for whoever asks: an agent before it closes anything, an operator's command before it asks the agent.
//!
//! On failure: [`CantHandOver`].

use crate::state::{Phase, State};
use model::{NodeId, VolumeId};

/// How far a hand-over is, by the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It is open there.
    There,
    /// It is being opened there.
    Opening,
    /// It is open at this node, which has to close it first.
    OpenAt(NodeId),
}

/// A volume can't be handed over so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CantHandOver {
    /// There is no such volume.
    #[error("there is no {0}")]
    NoVolume(VolumeId),
    /// There is no such node.
    #[error("there is no {0}")]
    NoNode(NodeId),
    /// It is the witness.
    #[error("{0} is in no rack: it has no volumes")]
    NoRack(NodeId),
    /// It has never said that it runs.
    #[error("{0} has not registered yet")]
    NotRegistered(NodeId),
    /// Nothing new comes to it.
    #[error("{0} leaves the cluster")]
    Leaves(NodeId),
    /// Its owner is just changing.
    #[error("{volume} is being taken or opened by {owner}")]
    Changing {
        /// Which volume.
        volume: VolumeId,
        /// Who will have it.
        owner: NodeId,
    },
    /// Nobody has it.
    #[error("{0} is closed")]
    Closed(VolumeId),
    /// None of its copies is known to be good.
    #[error("{0} is offline")]
    Offline(VolumeId),
}

impl CantHandOver {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoVolume(_) => "`twinrack volume list` shows names and ids",
            Self::Leaves(_) => "name a node that stays",
            Self::NoNode(_) | Self::NoRack(_) => "name a node of a rack; `twinrack drive list` shows them",
            Self::NotRegistered(_) => "see that the node runs and follows the ledger, and ask again",
            Self::Changing { .. } => {
                "wait until it is open, and ask again; `twinrack volume show` says what it waits for"
            }
            Self::Closed(_) => "only what is open is handed over: open it where it shall be",
            Self::Offline(_) => "`twinrack volume override` opens it, after saying what may be lost",
        }
    }
}

/// How far the hand-over of a volume to a node is.
pub fn stand(ledger: &State, id: VolumeId, to: NodeId) -> Result<Stand, CantHandOver> {
    let volume = ledger.volumes.get(&id).ok_or(CantHandOver::NoVolume(id))?;
    let node = ledger.nodes.get(&to).ok_or(CantHandOver::NoNode(to))?;
    let owner = volume.owner;
    match volume.phase {
        Phase::Closed => Err(CantHandOver::Closed(id)),
        Phase::Offline => Err(CantHandOver::Offline(id)),
        Phase::Open { .. } if owner == to => Ok(Stand::There),
        Phase::Opening { .. } | Phase::Fencing { .. } if owner == to => Ok(Stand::Opening),
        _ if node.zone.is_none() => Err(CantHandOver::NoRack(to)),
        _ if node.leaving => Err(CantHandOver::Leaves(to)),
        _ if node.boot.is_none() => Err(CantHandOver::NotRegistered(to)),
        Phase::Opening { .. } | Phase::Fencing { .. } => Err(CantHandOver::Changing { volume: id, owner }),
        Phase::Open { .. } => Ok(Stand::OpenAt(owner)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Cache;
    use crate::testing::{VOLUME, close, hand_over, must, now, open, opened, with_volume};
    use model::Mirror;

    #[test]
    fn it_is_to_be_asked_for_then_under_way_and_then_there() {
        let mut ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
        let to = NodeId(2);
        let changing = CantHandOver::Changing { volume: VOLUME, owner: NodeId(1) };
        assert_eq!(stand(&ledger, VOLUME, to), Err(changing), "a fence is under way");
        open(&mut ledger, &[1, 2]);
        assert_eq!(stand(&ledger, VOLUME, to), Ok(Stand::OpenAt(NodeId(1))));
        assert_eq!(stand(&ledger, VOLUME, NodeId(1)), Ok(Stand::There));
        let command = now(&ledger, hand_over(&ledger, to));
        must(&mut ledger, &command);
        assert_eq!(stand(&ledger, VOLUME, to), Ok(Stand::Opening));
        assert_eq!(
            stand(&ledger, VOLUME, NodeId(1)),
            Err(CantHandOver::Changing { volume: VOLUME, owner: to })
        );
        opened(&mut ledger);
        assert_eq!(stand(&ledger, VOLUME, to), Ok(Stand::There));
        let command = now(&ledger, close(&ledger));
        must(&mut ledger, &command);
        assert_eq!(stand(&ledger, VOLUME, NodeId(1)), Err(CantHandOver::Closed(VOLUME)));
    }

    #[test]
    fn nobody_gets_it_who_could_not_open_it() {
        let mut ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
        open(&mut ledger, &[1, 2]);
        let witness = NodeId(3);
        assert_eq!(stand(&ledger, VOLUME, witness), Err(CantHandOver::NoRack(witness)));
        assert_eq!(stand(&ledger, VOLUME, NodeId(9)), Err(CantHandOver::NoNode(NodeId(9))));
        assert_eq!(stand(&ledger, VolumeId(9), NodeId(2)), Err(CantHandOver::NoVolume(VolumeId(9))));
    }
}
