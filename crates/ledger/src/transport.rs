//! What ledgers say to each other, and the trait of whatever carries it.
//!
//! Purpose: one [`Letter`] there, one [`Reply`] back. Real ones go as JSON over the agents' mutual TLS ([`crate::http`]); tests put
//! a simulated network in its place.
//!
//! Invariants: a letter names cluster, ledger incarnation, sender and addressee with their stores; whoever it does not fit refuses
//! it ([`Refusal`]) before it reaches Raft.
//!
//! On failure: [`TransportError`], which keeps what surely was not delivered apart from what may have been.

use crate::machine::{Machine, Refused, Request};
use crate::propose::Applied;
use crate::token::{JoinToken, StoreId};
use crate::types::{Identity, LogId, Member, SnapshotMeta, Types, Vote};
use futures_util::future::BoxFuture;
use model::{LedgerIncarnation, NodeId, NodeName};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Where a node's agent listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Contact {
    /// Whose certificate is expected.
    pub name: NodeName,
    /// Where to connect.
    pub address: SocketAddr,
}

/// Carries letters, each once or not at all.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends a letter and waits for its reply, at most for `limit`. The future may be dropped before.
    fn send(
        &self,
        to: Contact,
        letter: Letter,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Reply, TransportError>>;
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// It was surely not delivered, and will not be.
    #[error("{node} can't be reached: {why}")]
    Unreachable {
        /// To whom it was.
        node: NodeName,
        /// What went wrong.
        why: String,
    },
    /// It may have been delivered.
    #[error("{node} has not answered: {why}")]
    Lost {
        /// To whom it was.
        node: NodeName,
        /// What went wrong.
        why: String,
    },
    /// It was delivered and refused, unread.
    #[error("{node} refuses: {why}")]
    Refused {
        /// To whom it was.
        node: NodeName,
        /// Its reason.
        why: String,
    },
}

/// What one ledger says to another.
#[derive(Clone, Serialize, Deserialize)]
pub struct Letter(pub(crate) Sealed);

/// What the other answers.
#[derive(Serialize, Deserialize)]
pub struct Reply(pub(crate) Answered);

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sealed {
    /// From a member to a member.
    Member(Box<Envelope>),
    /// From somebody who wants to be one.
    Join(JoinRequest),
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Envelope {
    pub(crate) from: Identity,
    pub(crate) to: NodeId,
    pub(crate) to_store: StoreId,
    pub(crate) message: Message,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Message {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
        contents: String,
    },
    /// Would you vote for me? My log ends here.
    PreVote {
        last: Option<LogId>,
    },
    Propose(Request),
    /// Up to where must somebody have read who is not behind?
    ReadIndex,
    /// Nothing is wanted.
    Greeting,
    /// A member passes on what it was asked.
    Join(JoinRequest),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) token: JoinToken,
    pub(crate) member: Member,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answered {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(SnapshotResponse<u64>),
    PreVote(bool),
    Propose(Result<Applied, NotApplied>),
    ReadIndex(Option<u64>),
    Greeting,
    Join(Result<Identity, NotJoined>),
}

/// What a proposal that was passed on came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NotApplied {
    Refused(Refused),
    NoLeader(Option<NodeId>),
    Unknown(String),
}

/// What a request to join came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NotJoined {
    /// It will not be granted.
    Refused(Refused),
    /// Ask again, with the same store: it may have been granted.
    Again(String),
}

impl Message {
    /// What openraft takes for granted.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Append(request) => {
                let mut next = request.prev_log_id.map_or(0, |last| last.index.saturating_add(1));
                for entry in &request.entries {
                    if entry.log_id.index != next {
                        return Err(Refusal::Malformed("its entries don't follow each other"));
                    }
                    next = next.saturating_add(1);
                }
                Ok(())
            }
            Self::Snapshot { contents, .. } => match serde_json::from_str::<Machine>(contents) {
                Ok(_) => Ok(()),
                Err(_) => Err(Refusal::Malformed("its snapshot can't be read")),
            },
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl Letter {
    /// What kind of letter it is, for logs.
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            Sealed::Join(_) => "join",
            Sealed::Member(envelope) => match envelope.message {
                Message::Append(_) => "append",
                Message::Vote(_) => "vote",
                Message::Snapshot { .. } => "snapshot",
                Message::PreVote { .. } => "pre-vote",
                Message::Propose(_) => "propose",
                Message::ReadIndex => "read-index",
                Message::Greeting => "greeting",
                Message::Join(_) => "join, passed on",
            },
        }
    }

    /// Who sent it, by the name that its certificate must be for.
    pub fn from(&self) -> &NodeName {
        match &self.0 {
            Sealed::Join(request) => &request.member.name,
            Sealed::Member(envelope) => &envelope.from.name,
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reply")
    }
}

/// Why a letter is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The certificate is for somebody else.
    #[error("the certificate is not for {0}")]
    NotCertified(NodeName),
    /// It is for another cluster.
    #[error("this is another cluster")]
    OtherCluster,
    /// It is for another ledger of this cluster: there was a forced quorum.
    #[error(
        "this node's ledger is incarnation {ours}, the sender's {theirs}: the older one ended with a forced quorum"
    )]
    OtherIncarnation {
        /// This node's.
        ours: LedgerIncarnation,
        /// The sender's.
        theirs: LedgerIncarnation,
    },
    /// It is for a ledger that was forced apart from this one.
    #[error("this node's ledger and the sender's were forced apart from each other: they are two")]
    OtherForcing,
    /// It is for another node, or for the store that this node had before.
    #[error("this is {0}, with another store")]
    NotMe(NodeId),
    /// The sender is no member, or has another store than the one that the member joined with.
    #[error(
        "{0} is not a member with that name and store; a node that lost its ledger joins again, under a new id"
    )]
    Stranger(NodeId),
    /// No ledger says so: entries that don't follow each other, a snapshot that can't be read. openraft would stop at it, or worse.
    #[error("the letter contradicts itself: {0}")]
    Malformed(&'static str),
    /// This node's Raft has stopped.
    #[error("this node's ledger has stopped: {0}")]
    Stopped(String),
}

impl Refusal {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotCertified(_) => "not-certified",
            Self::OtherCluster => "other-cluster",
            Self::OtherIncarnation { .. } => "other-incarnation",
            Self::OtherForcing => "other-forcing",
            Self::NotMe(_) => "not-me",
            Self::Stranger(_) => "stranger",
            Self::Malformed(_) => "malformed",
            Self::Stopped(_) => "ledger-stopped",
        }
    }
}
