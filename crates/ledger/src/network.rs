//! openraft's network over a [`Transport`].

use crate::transport::{
    Answered, Contact, Envelope, Letter, Message, Reply, Sealed, Transport, TransportError,
};
use crate::types::{Identity, Member, Snapshot, Types, Vote, node_id};
use model::NodeId;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// Sends as this node.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    identity: Arc<Identity>,
    transport: Arc<dyn Transport>,
    /// How long a member that can't be reached is left alone. openraft's own half second would let a returning one wait.
    pause: Duration,
    /// The term in which this node leads no more; 0: none.
    abdicated: Arc<AtomicU64>,
}

/// Sends to one member.
#[derive(Debug)]
pub(crate) struct Line {
    post: Post,
    to: NodeId,
    member: Member,
}

type Rpc<T> = Result<T, RPCError<u64, Member, RaftError<u64>>>;

impl Post {
    pub(crate) fn new(identity: Arc<Identity>, transport: Arc<dyn Transport>, pause: Duration) -> Self {
        Self { identity, transport, pause, abdicated: Arc::default() }
    }

    /// From now on nobody hears of this node as the leader of that term.
    pub(crate) fn abdicate(&self, term: u64) {
        self.abdicated.store(term, Ordering::Relaxed);
    }

    /// Whether it has given up leading in that term.
    pub(crate) fn has_abdicated(&self, term: u64) -> bool {
        term > 0 && self.abdicated.load(Ordering::Relaxed) == term
    }

    pub(crate) async fn send(
        &self,
        to: NodeId,
        member: &Member,
        message: Message,
        limit: Duration,
    ) -> Result<Answered, TransportError> {
        let contact = Contact { name: member.name.clone(), address: member.address };
        let from = Identity::clone(&self.identity);
        let envelope = Envelope { from, to, to_store: member.store.clone(), message };
        let letter = Letter(Sealed::Member(Box::new(envelope)));
        let sent = timeout(limit, self.transport.send(contact, letter, limit)).await;
        let late =
            |_| TransportError::Lost { node: member.name.clone(), why: "no answer in time".to_owned() };
        let Reply(answered) = sent.map_err(late)??;
        Ok(answered)
    }
}

/// An answer to another question than the one that was asked.
pub(crate) fn out_of_turn(member: &Member) -> TransportError {
    TransportError::Lost { node: member.name.clone(), why: "its answer is to another question".to_owned() }
}

impl Line {
    async fn ask(&self, message: Message, option: &RPCOption) -> Result<Answered, TransportError> {
        self.post.send(self.to, &self.member, message, option.hard_ttl()).await
    }

    /// The same as the leader of a term.
    async fn lead(
        &self,
        vote: Vote,
        message: Message,
        option: &RPCOption,
    ) -> Result<Answered, TransportError> {
        if self.post.has_abdicated(vote.leader_id().term) {
            let why = "this node leads no more".to_owned();
            return Err(TransportError::Unreachable { node: self.member.name.clone(), why });
        }
        self.ask(message, option).await
    }
}

fn failed<E: std::error::Error>(error: &TransportError) -> RPCError<u64, Member, E> {
    match error {
        TransportError::Lost { .. } => NetworkError::new(error).into(),
        TransportError::Unreachable { .. } | TransportError::Refused { .. } => Unreachable::new(error).into(),
    }
}

impl RaftNetworkFactory<Types> for Post {
    type Network = Line;

    async fn new_client(&mut self, target: u64, member: &Member) -> Line {
        Line { post: self.clone(), to: node_id(target), member: member.clone() }
    }
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>> {
        match self.lead(rpc.vote, Message::Append(rpc), &option).await {
            Ok(Answered::Append(response)) => Ok(response),
            Ok(_) => Err(failed(&out_of_turn(&self.member))),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Rpc<VoteResponse<u64>> {
        match self.ask(Message::Vote(rpc), &option).await {
            Ok(Answered::Vote(response)) => Ok(response),
            Ok(_) => Err(failed(&out_of_turn(&self.member))),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        let message = Message::Snapshot { vote, meta: snapshot.meta, contents: snapshot.snapshot.0 };
        let answered = tokio::select! {
            closed = cancel => return Err(closed.into()),
            answered = self.lead(vote, message, &option) => answered,
        };
        let error = match answered {
            Ok(Answered::Snapshot(response)) => return Ok(response),
            Ok(_) => out_of_turn(&self.member),
            Err(error) => error,
        };
        Err(Unreachable::new(&error).into())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.post.pause))
    }
}
