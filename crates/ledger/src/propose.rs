//! Proposals: applied, refused, surely not taken, or unknown.

use crate::config::REQUEST_BYTES_MAX;
use crate::elector::unanswered_for;
use crate::ledger::Ledger;
use crate::machine::{Refused, Request};
use crate::network::out_of_turn;
use crate::transport::{Answered, Message, NotApplied, TransportError};
use crate::types::{Vote, node_id, raft_id};
use control::{ClusterCommand, Command, Event};
use model::NodeId;
use openraft::ServerState;
use openraft::error::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// Proposals that one node has under way. Roles have one of each kind.
pub(crate) const PROPOSALS_MAX: usize = 256;

/// A command is committed, and the state machine has taken it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its place in the log.
    pub index: u64,
    /// What it changed.
    pub events: Vec<Event>,
}

/// Why a command is not known to be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It is committed, and the state machine has refused it. Nothing has changed.
    #[error("refused: {0}")]
    Refused(#[source] Refused),
    /// It was surely not taken: nobody leads, or the leader can't be reached. It may be proposed again.
    #[error("not proposed: {}", leader.map_or("no leader is known".to_owned(), |id| format!("{id} leads and can't be reached")))]
    NoLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// It was surely not taken: as many proposals of this node are under way as may be.
    #[error("not proposed: {PROPOSALS_MAX} proposals are under way")]
    Busy,
    /// It may be applied, now or later, or never. What the ledger says is the answer.
    #[error("the outcome is not known: {why}")]
    Unknown {
        /// What went wrong.
        why: String,
    },
    /// It was not proposed: it is longer than any of ours.
    #[error("the command has {bytes} bytes, and {REQUEST_BYTES_MAX} are allowed")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// It was not proposed: Raft takes part in it, and there is a call of its own.
    #[error("this is not proposed: use {0}")]
    NotThisWay(&'static str),
}

/// The call that a command is part of.
fn own_call(command: &Command) -> Option<&'static str> {
    let Command::Cluster(command) = command else { return None };
    match command {
        ClusterCommand::ForceQuorum { .. } => Some("force_quorum, with the ledger closed"),
        ClusterCommand::ChangeVoters(_) | ClusterCommand::VotersSettled => Some("Ledger::change_voters"),
        ClusterCommand::AddNode { .. } | ClusterCommand::ReplaceNode { .. } => {
            Some("Ledger::invite and join")
        }
        _ => None,
    }
}

impl Ledger {
    /// Proposes a command, through the leader if this node is not, and waits until it has been applied.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        if let Some(call) = own_call(&command) {
            return Err(ProposeError::NotThisWay(call));
        }
        self.submit(Request::Control(command)).await
    }

    /// Proposes what this node has decided as the leader of a term: here and in that term, or not at all ([`ProposeError::NoLeader`]).
    ///
    /// A leader decides by what it knows as one: who asked it for a lease, and until when it has granted one. A later leader may have
    /// granted more. Passed on to that one, "its lease is over" would be committed and not be true.
    pub async fn propose_as_leader(&self, term: u64, command: Command) -> Result<Applied, ProposeError> {
        if let Some(call) = own_call(&command) {
            return Err(ProposeError::NotThisWay(call));
        }
        self.write(Request::Control(command), Some(term)).await
    }

    /// Proposes here or, once, where the leader is.
    pub(crate) async fn submit(&self, request: Request) -> Result<Applied, ProposeError> {
        let here = self.submit_here(request.clone()).await;
        let Err(ProposeError::NoLeader { leader: Some(leader) }) = here else { return here };
        let none = ProposeError::NoLeader { leader: Some(leader) };
        let Some(member) = self.member(leader).filter(|_| leader != self.id()) else { return Err(none) };
        let limit = self.config().propose_limit();
        let answered = self.post().send(leader, &member, Message::Propose(request), limit).await;
        let error = match answered {
            Ok(Answered::Propose(Ok(applied))) => return Ok(applied),
            Ok(Answered::Propose(Err(NotApplied::Refused(why)))) => return Err(ProposeError::Refused(why)),
            Ok(Answered::Propose(Err(NotApplied::NoLeader(leader)))) => {
                return Err(ProposeError::NoLeader { leader });
            }
            Ok(Answered::Propose(Err(NotApplied::Unknown(why)))) => {
                return Err(ProposeError::Unknown { why });
            }
            Ok(_) => out_of_turn(&member),
            Err(error) => error,
        };
        match error {
            TransportError::Lost { .. } => Err(ProposeError::Unknown { why: error.to_string() }),
            TransportError::Unreachable { .. } | TransportError::Refused { .. } => Err(none),
        }
    }

    /// Whether this node leads, as far as it knows, and no quorum has answered for two silences: another leads by now, or nobody. What
    /// it took it could only keep in its log, which would grow as long as it is cut off.
    fn is_unanswered(&self) -> bool {
        let leads = self.raft().metrics().borrow().state == ServerState::Leader;
        leads && unanswered_for(self.raft(), self.heard()) > 2 * self.config().silence()
    }

    /// The vote of openraft's core itself, not of its metrics, which come later. `None`: it has stopped.
    async fn own_vote(&self) -> Option<Vote> {
        self.raft().with_raft_state(|state| *state.vote_ref()).await.ok()
    }

    /// Proposes as the leader, whatever its term.
    pub(crate) async fn submit_here(&self, request: Request) -> Result<Applied, ProposeError> {
        self.write(request, None).await
    }

    /// Proposes as the leader; of this term, if one is named. No other term of this node's begins between that look and the write: letters go
    /// there and back in an election, and Raft's core takes the two one after the other.
    ///
    /// openraft says "forward to the leader" for what it has not appended, and also for what it had appended as the leader and a later
    /// leader's log has displaced here. The latter may still be committed: another node may have it, and lead after one that died
    /// before it committed anything. So it is surely not taken only if this node did not lead, from before it was asked until it
    /// had answered: whoever comes to lead has another vote.
    async fn write(&self, request: Request, term: Option<u64>) -> Result<Applied, ProposeError> {
        let bytes = serde_json::to_vec(&request).map_or(usize::MAX, |json| json.len());
        if bytes > REQUEST_BYTES_MAX {
            return Err(ProposeError::TooLong { bytes });
        }
        let _place = self.proposals().try_acquire().map_err(|_| ProposeError::Busy)?;
        if self.is_unanswered() || self.post().has_abdicated(self.status().term) {
            return Err(ProposeError::NoLeader { leader: None });
        }
        let unknown = |why: String| Err(ProposeError::Unknown { why });
        let before = self.own_vote().await;
        let own = raft_id(self.id());
        let leads_in = |vote: &Vote| {
            vote.committed && vote.leader_id.node_id == own && Some(vote.leader_id.term) == term
        };
        if term.is_some() && !before.as_ref().is_some_and(leads_in) {
            return Err(ProposeError::NoLeader { leader: None });
        }
        match timeout(self.config().propose_limit(), self.raft().client_write(request)).await {
            Ok(Ok(written)) => match written.data {
                Ok(events) => Ok(Applied { index: written.log_id.index, events }),
                Err(why) => Err(ProposeError::Refused(why)),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                let led = before.is_none_or(|vote| vote.committed && vote.leader_id.node_id == own);
                if led || self.own_vote().await != before {
                    return unknown("this node led, or came to lead, and does no longer".to_owned());
                }
                Err(ProposeError::NoLeader { leader: to.leader_id.map(node_id) })
            }
            Ok(Err(error)) => unknown(error.to_string()),
            Err(_) => unknown("no quorum has taken it in time".to_owned()),
        }
    }
}

impl From<ProposeError> for NotApplied {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Refused(why) => Self::Refused(why),
            ProposeError::NoLeader { leader } => Self::NoLeader(leader),
            ProposeError::Busy => Self::NoLeader(None),
            error => Self::Unknown(error.to_string()),
        }
    }
}
