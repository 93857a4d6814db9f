//! Proposals: applied, refused, surely not taken, or unknown.

use crate::config::REQUEST_BYTES_MAX;
use crate::ledger::Ledger;
use crate::machine::{Refused, Request};
use crate::network::out_of_turn;
use crate::transport::{Answered, Message, NotApplied, TransportError};
use crate::types::node_id;
use control::{ClusterCommand, Command, Event};
use model::NodeId;
use openraft::error::{ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

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

    /// Proposes as the leader.
    ///
    /// openraft says "forward to the leader" for what it has not appended, and for what it had and a later leader's log has
    /// displaced: both are surely not committed, and never will be.
    pub(crate) async fn submit_here(&self, request: Request) -> Result<Applied, ProposeError> {
        let bytes = serde_json::to_vec(&request).map_or(usize::MAX, |json| json.len());
        if bytes > REQUEST_BYTES_MAX {
            return Err(ProposeError::TooLong { bytes });
        }
        let unknown = |why: String| Err(ProposeError::Unknown { why });
        match timeout(self.config().propose_limit(), self.raft().client_write(request)).await {
            Ok(Ok(written)) => match written.data {
                Ok(events) => Ok(Applied { index: written.log_id.index, events }),
                Err(why) => Err(ProposeError::Refused(why)),
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
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
            error => Self::Unknown(error.to_string()),
        }
    }
}
