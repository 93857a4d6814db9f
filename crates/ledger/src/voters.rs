//! Changing who votes: control's state machine and Raft's membership, kept together.
//!
//! Who shall vote is decided by [`control::voters`]. Here it is carried out: the ledger says that voters change (which is refused if
//! the set is even, or a change is in flight), Raft goes there by one joint change, the ledger says that it is settled. Whatever
//! dies in between, the ledger says `Changing`, and whoever leads then calls [`Ledger::settle_voters`], which goes on from there.
//!
//! Invariants: one change at a time; the voters of the past that stay nodes go on as learners; a node that has been replaced is
//! forgotten once it has no vote, and a member that is no node any more as soon as the leader sees that ([`Ledger::is_unsettled`]).

use crate::ledger::{Ledger, NotLeading};
use crate::machine::Request;
use crate::propose::ProposeError;
use crate::types::raft_id;
use control::state::Voters;
use control::{ClusterCommand, Command, State};
use model::NodeId;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, LogIdOptionExt};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// A new voter may be this many entries behind when the change begins: it has them with the next few messages.
const BEHIND_MAX: u64 = 64;

/// Why voters have not changed. If the ledger says that they are changing, [`Ledger::settle_voters`] goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VotersError {
    /// Only the leader does it.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// This node is at it.
    #[error("a change of voters is under way")]
    Busy,
    /// It has not joined.
    #[error("{0} has not joined")]
    NoMember(NodeId),
    /// It does not have the log: voting, it might hold up every commit. Nothing has changed.
    #[error("{0} has not caught up")]
    Behind(NodeId),
    /// The ledger does not take it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Raft does not take it, or not in time.
    #[error("Raft has not changed its voters: {why}")]
    Raft {
        /// Why not.
        why: String,
    },
}

impl Ledger {
    /// Changes who votes, as the leader.
    pub async fn change_voters(&self, to: &BTreeSet<NodeId>) -> Result<(), VotersError> {
        let _one = self.changing().try_lock().map_err(|_| VotersError::Busy)?;
        self.leadership().await?;
        self.have_caught_up(to).await?;
        let change = Command::Cluster(ClusterCommand::ChangeVoters(to.clone()));
        self.submit_here(Request::Control(change)).await?;
        self.settle(to).await
    }

    /// Whether there is something to do for [`Self::settle_voters`].
    pub fn is_unsettled(&self) -> bool {
        let learners = self.status().learners;
        let state = self.state();
        let state = state.borrow();
        matches!(state.voters, Voters::Changing { .. }) || gone(&learners, &state).next().is_some()
    }

    /// Goes on with a change that the ledger says is in flight, as the leader, or forgets members that are no nodes any more; nothing if there is neither.
    pub async fn settle_voters(&self) -> Result<(), VotersError> {
        let _one = self.changing().try_lock().map_err(|_| VotersError::Busy)?;
        self.leadership().await?;
        let voters = self.state().borrow().voters.clone();
        match voters {
            Voters::Changing { to, .. } => self.settle(&to).await,
            Voters::Settled(_) => self.forget_gone().await,
        }
    }

    async fn have_caught_up(&self, to: &BTreeSet<NodeId>) -> Result<(), VotersError> {
        let present = self.status().voters;
        for id in to.difference(&present) {
            self.member(*id).ok_or(VotersError::NoMember(*id))?;
            let raft = raft_id(*id);
            let wait = self.raft().wait(Some(self.config().voters_limit()));
            let near = wait.metrics(
                |metrics| {
                    let matched =
                        metrics.replication.as_ref().and_then(|all| all.get(&raft).copied().flatten());
                    matched.index().is_some_and(|index| Some(index + BEHIND_MAX) >= metrics.last_log_index)
                },
                "a new voter has caught up",
            );
            near.await.map_err(|_| VotersError::Behind(*id))?;
        }
        Ok(())
    }

    async fn settle(&self, to: &BTreeSet<NodeId>) -> Result<(), VotersError> {
        let ids: BTreeSet<u64> = to.iter().copied().map(raft_id).collect();
        self.change_membership(ChangeMembers::ReplaceAllVoters(ids)).await?;
        self.submit_here(Request::Control(Command::Cluster(ClusterCommand::VotersSettled))).await?;
        self.forget_replaced().await
    }

    /// Removes nodes that came back under another id, and then members that are no nodes any more.
    async fn forget_replaced(&self) -> Result<(), VotersError> {
        let state = self.state().borrow().clone();
        // They have come back under a later id.
        for id in state.nodes.keys().copied().filter(|id| state.is_replaced(*id)) {
            let remove = Command::Cluster(ClusterCommand::RemoveNode(id));
            match self.submit_here(Request::Control(remove)).await {
                // It is in use yet: the next change of voters tries again.
                Ok(_) | Err(ProposeError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.forget_gone().await
    }

    /// Removes members that are no nodes any more.
    async fn forget_gone(&self) -> Result<(), VotersError> {
        // In this order: whoever joins is a node first.
        let learners = self.status().learners;
        let state = self.state().borrow().clone();
        let gone: BTreeSet<u64> = gone(&learners, &state).map(raft_id).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.change_membership(ChangeMembers::RemoveNodes(gone)).await
    }

    async fn change_membership(
        &self,
        change: ChangeMembers<u64, crate::types::Member>,
    ) -> Result<(), VotersError> {
        let failed = |why: String| VotersError::Raft { why };
        let limit: Duration = self.config().voters_limit();
        match timeout(limit, self.raft().change_membership(change, true)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(why)))) => match why {
                ChangeMembershipError::InProgress(_) => {
                    Err(failed("another change is not committed yet".to_owned()))
                }
                why => Err(failed(why.to_string())),
            },
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("no quorum has taken it in time".to_owned())),
        }
    }
}

/// Members without a vote that are no nodes any more.
fn gone(learners: &BTreeSet<NodeId>, state: &State) -> impl Iterator<Item = NodeId> {
    learners.iter().filter(|id| !state.nodes.contains_key(id)).copied()
}
