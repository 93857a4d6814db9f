//! The handle: one open ledger.

use crate::bug::{Bug, Bugs};
use crate::config::{Config, ConfigError};
use crate::elector::{Elector, Heard, asked};
use crate::greetings::greet;
use crate::network::{Post, out_of_turn};
use crate::propose::PROPOSALS_MAX;
use crate::store::{Applier, Fault, Store, StoreError};
use crate::transport::{
    Answered, Contact, Envelope, Letter, Message, Refusal, Reply, Sealed, Transport, TransportError,
};
use crate::types::{Contents, Identity, Member, Raft, Snapshot, node_id, raft_id};
use control::State;
use model::{NodeId, NodeName};
use openraft::raft::AppendEntriesResponse;
use openraft::{LogIdOptionExt, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

/// Why a ledger is not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// openraft does not start from what the store holds.
    #[error("Raft does not start: {0}")]
    Raft(String),
}

/// Why this node is not confirmed to lead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLeading {
    /// Another does, or nobody.
    #[error("this node does not lead")]
    Follower {
        /// Who, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// It may lead, but a quorum has not said so in time.
    #[error("no quorum has confirmed that this node leads")]
    Unconfirmed,
}

/// Why this node does not know what the cluster knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    /// Nobody says where it should be.
    #[error("no leader says how far the ledger is")]
    NoLeader,
    /// It knows where it should be, and is not there.
    #[error("the ledger is at entry {wanted}, and this node has not come there in time")]
    Late {
        /// Where.
        wanted: u64,
    },
}

/// A quorum has confirmed, after it was asked for, that this node leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leadership {
    /// In which of Raft's terms. A node that restarts does not lead on in its term, so that what it promised in a term without
    /// writing it down (leases) it still knows while it leads in it.
    pub term: u64,
    /// Up to here this node has applied, and it is at least as far as anything was acknowledged before.
    pub index: u64,
}

/// What a node is for Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It follows the log, without a vote.
    Learner,
    /// It votes.
    Follower,
    /// It stands for election.
    Candidate,
    /// It leads, as far as it knows.
    Leader,
    /// Its Raft has stopped.
    Stopped,
}

/// How a ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What this node is.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Who votes for Raft; while voters change, who did or will.
    pub voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// The last entry that this node has.
    pub last: Option<u64>,
    /// The last that it has applied.
    pub applied: Option<u64>,
    /// The last that its snapshot covers.
    pub snapshot: Option<u64>,
}

/// One open ledger. Clones share it; when the last is dropped it stops.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    identity: Arc<Identity>,
    config: Config,
    raft: Raft,
    post: Post,
    heard: Heard,
    state: watch::Receiver<Arc<State>>,
    /// One change of voters at a time.
    changing: Mutex<()>,
    proposals: Semaphore,
    bugs: Bugs,
    elector: AbortHandle,
    greets: AbortHandle,
    store: Store,
    /// Whether somebody goes on with it alone: once.
    forced: AtomicBool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    /// openraft goes on without a handle. Outside a runtime there is nothing left that could go on.
    fn drop(&mut self) {
        self.elector.abort();
        self.greets.abort();
        if let Ok(runtime) = Handle::try_current() {
            let raft = self.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}

impl Ledger {
    /// Opens the ledger in a directory. It begins to follow, to vote and to answer [`Ledger::receive`] at once.
    pub async fn open(dir: &Path, config: Config, transport: Arc<dyn Transport>) -> Result<Self, OpenError> {
        let dir = dir.to_owned();
        // Verifying reads all of it.
        let opened = tokio::task::spawn_blocking(move || Store::open(&dir)).await;
        let (store, identity) = opened.map_err(|error| OpenError::Raft(error.to_string()))??;
        Self::start(store, identity, config, transport, Bugs::default()).await
    }

    pub(crate) async fn start(
        mut store: Store,
        identity: Identity,
        config: Config,
        transport: Arc<dyn Transport>,
        bugs: Bugs,
    ) -> Result<Self, OpenError> {
        let raft_config = config.raft()?;
        let identity = Arc::new(identity);
        let post = Post::new(Arc::clone(&identity), transport, config.heartbeat());
        let applier =
            Applier::new(store.clone()).map_err(|fault: Fault| OpenError::Raft(fault.to_string()))?;
        let state = applier.watch();
        let id = raft_id(identity.node);
        store.step_down(id).await.map_err(|error| OpenError::Raft(error.to_string()))?;
        let kept = store.clone();
        let raft = Raft::new(id, raft_config, post.clone(), store, applier).await;
        let raft = raft.map_err(|error| OpenError::Raft(error.to_string()))?;
        let heard = Heard::now();
        let elector = Elector {
            id,
            raft: raft.clone(),
            post: post.clone(),
            heard: heard.clone(),
            config: config.clone(),
        };
        let elector = tokio::spawn(elector.run()).abort_handle();
        let times = (config.greet_every(), config.request_limit());
        let greets = tokio::spawn(greet(id, raft.clone(), post.clone(), times)).abort_handle();
        let changing = Mutex::new(());
        Ok(Self(Arc::new(Inner {
            identity,
            config,
            raft,
            post,
            heard,
            state,
            changing,
            proposals: Semaphore::new(PROPOSALS_MAX),
            bugs,
            elector,
            greets,
            store: kept,
            forced: AtomicBool::new(false),
        })))
    }

    /// Whether this is the first call.
    pub(crate) fn force_once(&self) -> bool {
        !self.0.forced.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Which node this is.
    pub fn id(&self) -> NodeId {
        self.0.identity.node
    }

    /// Whose ledger it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.0.raft
    }

    pub(crate) fn heard(&self) -> &Heard {
        &self.0.heard
    }

    pub(crate) fn post(&self) -> &Post {
        &self.0.post
    }

    pub(crate) fn proposals(&self) -> &Semaphore {
        &self.0.proposals
    }

    pub(crate) fn changing(&self) -> &Mutex<()> {
        &self.0.changing
    }

    /// Where the members' agents are reached, as Raft's membership has it here.
    pub fn members(&self) -> BTreeMap<NodeId, SocketAddr> {
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.nodes();
        members.map(|(id, member)| (node_id(*id), member.address)).collect()
    }

    /// Term and place in the log of the membership that [`Self::members`] and [`Self::contact`] go by: as long as they are the same, so are those.
    pub fn members_from(&self) -> Option<(u64, u64)> {
        let metrics = self.0.raft.server_metrics();
        let from = *metrics.borrow().membership_config.log_id();
        from.map(|id| (id.leader_id.term, id.index))
    }

    /// Where a member's agent is reached.
    pub fn contact(&self, id: NodeId) -> Option<Contact> {
        self.member(id).map(|member| Contact { name: member.name, address: member.address })
    }

    /// A member, as Raft's membership has it here.
    pub(crate) fn member(&self, id: NodeId) -> Option<Member> {
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_node(&raft_id(id)).cloned()
    }

    /// What the ledger says, as far as this node has followed. What it says was committed stays committed.
    pub fn state(&self) -> watch::Receiver<Arc<State>> {
        self.0.state.clone()
    }

    /// Leads no more in a term, in order: the voters hear nothing of this node any longer, and one of them stands ([`crate::Config::silence_ms`]) while this node is there yet. For one that leaves; whoever
    /// just ends would take what it was about to answer with it.
    pub fn abdicate(&self, term: u64) {
        // The others must be able to elect one without it.
        if !self.0.post.has_abdicated(term) && !self.status().voters.contains(&self.id()) {
            info!("{} leads no more in term {term}", self.id());
            self.0.post.abdicate(term);
        }
    }

    /// Asks a quorum whether this node leads. The question goes out after this was called.
    pub async fn leadership(&self) -> Result<Leadership, NotLeading> {
        let follower = || {
            let leader = self.status().leader.filter(|leader| *leader != self.id());
            NotLeading::Follower { leader }
        };
        let before = self.status();
        if before.role != Role::Leader {
            return Err(follower());
        }
        if self.0.post.has_abdicated(before.term) {
            return Err(NotLeading::Unconfirmed);
        }
        let round = self.0.heard.round();
        // openraft waits a request's time for the quorum, and then for what it has committed to be applied.
        let asked = timeout(self.config().propose_limit(), self.0.raft.ensure_linearizable()).await;
        let confirmed = asked.map_err(|_| NotLeading::Unconfirmed)?;
        let after = self.status();
        match confirmed {
            Ok(read) if after.term == before.term => {
                self.0.heard.confirmed(round);
                Ok(Leadership { term: after.term, index: read.index().unwrap_or(0) })
            }
            Err(openraft::error::RaftError::APIError(
                openraft::error::CheckIsLeaderError::QuorumNotEnough(_),
            )) => Err(NotLeading::Unconfirmed),
            _ => Err(follower()),
        }
    }

    /// Waits until this node has applied all that was acknowledged before it was asked. A node that joined again must do so before
    /// it acts on what the ledger says: until then it sees the past.
    pub async fn caught_up(&self, limit: Duration) -> Result<u64, Behind> {
        let until = Instant::now() + limit;
        let mut wanted = self.read_index().await;
        while wanted.is_none() && Instant::now() < until {
            sleep(self.config().heartbeat()).await;
            wanted = self.read_index().await;
        }
        let wanted = wanted.ok_or(Behind::NoLeader)?;
        let left = until.saturating_duration_since(Instant::now());
        let there = self.0.raft.wait(Some(left)).applied_index_at_least(Some(wanted), "caught up").await;
        there.map(|_| wanted).map_err(|_| Behind::Late { wanted })
    }

    async fn read_index(&self) -> Option<u64> {
        let leader = self.status().leader?;
        if leader == self.id() {
            return self.leadership().await.ok().map(|leadership| leadership.index);
        }
        let member = self.member(leader)?;
        let limit = self.config().request_limit() * 2;
        match self.0.post.send(leader, &member, Message::ReadIndex, limit).await {
            Ok(Answered::ReadIndex(index)) => index,
            _ => None,
        }
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        Status {
            role: match metrics.state {
                _ if metrics.running_state.is_err() => Role::Stopped,
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopped,
            },
            term: metrics.current_term,
            leader: metrics.current_leader.map(node_id),
            voters: membership.voter_ids().map(node_id).collect(),
            learners: membership.learner_ids().map(node_id).collect(),
            last: metrics.last_log_index,
            applied: metrics.last_applied.index(),
            snapshot: metrics.snapshot.index(),
        }
    }

    /// Waits until its Raft has stopped, and says why: the disk is full or broken, or it was closed. The agent goes on without a
    /// vote; what is on disk is what was acknowledged.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.0.raft.metrics();
        let stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()).await;
        let why =
            stopped.ok().and_then(|metrics| metrics.running_state.as_ref().err().map(ToString::to_string));
        why.unwrap_or_else(|| "Raft has ended".to_owned())
    }

    /// Stops, and waits until it has.
    pub async fn close(&self) {
        self.0.elector.abort();
        self.0.greets.abort();
        // It fails if openraft's task has panicked: then it has ended, too.
        let _ = self.0.raft.shutdown().await;
    }

    /// Takes a letter from another node. `certified` says whether the sender's certificate is for a name.
    pub async fn receive(
        &self,
        letter: Letter,
        certified: impl Fn(&NodeName) -> bool,
    ) -> Result<Reply, Refusal> {
        if !certified(letter.from()) {
            return Err(Refusal::NotCertified(letter.from().clone()));
        }
        let answered = match letter.0 {
            Sealed::Join(request) => Answered::Join(self.join_for(request, true).await),
            Sealed::Member(envelope) => {
                self.fits(&envelope)?;
                envelope.message.check()?;
                self.answer(envelope.from.node, envelope.message).await?
            }
        };
        Ok(Reply(answered))
    }

    /// Whether a letter is for this node, from a member. A sender that this node knows nothing of may have joined after what it has
    /// of the log, if its id is higher than any here; a lower one has been removed.
    fn fits(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let (own, from) = (&self.0.identity, &envelope.from);
        let any_store = self.0.bugs.has(Bug::AnyStore);
        if own.cluster != from.cluster {
            return Err(Refusal::OtherCluster);
        }
        if own.incarnation != from.incarnation {
            return Err(Refusal::OtherIncarnation { ours: own.incarnation, theirs: from.incarnation });
        }
        if own.forcing != from.forcing {
            return Err(Refusal::OtherForcing);
        }
        if envelope.to != own.node || (envelope.to_store != own.store && !any_store) {
            return Err(Refusal::NotMe(own.node));
        }
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow();
        let mut members = metrics.membership_config.nodes();
        let known = match self.member(from.node) {
            Some(member) => member.name == from.name && (member.store == from.store || any_store),
            None => members.all(|(id, _)| node_id(*id) < from.node),
        };
        if known { Ok(()) } else { Err(Refusal::Stranger(from.node)) }
    }

    async fn answer(&self, from: NodeId, message: Message) -> Result<Answered, Refusal> {
        let (raft, heard) = (&self.0.raft, &self.0.heard);
        let stopped = |error: String| Refusal::Stopped(error);
        Ok(match message {
            Message::Append(request) => {
                let response =
                    raft.append_entries(request).await.map_err(|error| stopped(error.to_string()))?;
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    heard.again();
                }
                Answered::Append(response)
            }
            Message::Vote(request) => {
                let response = raft.vote(request).await.map_err(|error| stopped(error.to_string()))?;
                if response.vote_granted {
                    heard.again();
                }
                Answered::Vote(response)
            }
            Message::Snapshot { vote, meta, contents } => {
                let snapshot = Snapshot { meta, snapshot: Box::new(Contents(contents)) };
                let response = raft.install_full_snapshot(vote, snapshot).await;
                let response = response.map_err(|error| stopped(error.to_string()))?;
                if response.vote == vote {
                    heard.again();
                }
                Answered::Snapshot(response)
            }
            Message::PreVote { last } => Answered::PreVote(asked(raft, heard, self.config(), from, last)),
            Message::Propose(request) => {
                Answered::Propose(self.submit_here(request).await.map_err(Into::into))
            }
            Message::ReadIndex => {
                Answered::ReadIndex(self.leadership().await.ok().map(|leadership| leadership.index))
            }
            Message::Greeting => Answered::Greeting,
            Message::Join(request) => Answered::Join(self.join_for(request, false).await),
        })
    }

    /// Passes something on to the leader.
    pub(crate) async fn ask_leader(
        &self,
        leader: NodeId,
        message: Message,
    ) -> Result<Answered, TransportError> {
        let Some(member) = self.member(leader).filter(|_| leader != self.id()) else {
            return Err(out_of_turn(&Member { name: self.0.identity.name.clone(), ..Member::default() }));
        };
        self.0.post.send(leader, &member, message, self.config().propose_limit()).await
    }
}
