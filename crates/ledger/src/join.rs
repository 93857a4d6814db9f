//! How a ledger begins, and how nodes join it, for the first time or again.
//!
//! The first node makes a ledger in which it votes alone ([`bootstrap`]). Every other one joins with a one-time token
//! ([`Ledger::invite`], [`join`]): the ledger gives it the next id and a place as learner, and the node makes an empty store under
//! that id. No call makes a store under an id of the caller's choice: a node that lost its ledger can't come back as who it was.
//!
//! On failure: nothing is made here before the ledger has given an id. An id whose node never came is a learner without a node,
//! which costs nothing; it joins again with another token.

use crate::config::Config;
use crate::ledger::{Ledger, OpenError};
use crate::machine::{Machine, Refused, Request, added};
use crate::propose::ProposeError;
use crate::store::{Beginning, FILE, Store, StoreError};
use crate::token::{ClusterId, Invitation, JoinToken, NoRandomness, StoreId};
use crate::transport::{
    Answered, Contact, JoinRequest, Letter, Message, NotJoined, Reply, Sealed, Transport,
};
use crate::types::{Identity, LogId, Member, Membership, StoredMembership, Vote, raft_id};
use control::state::Settings;
use control::{ClusterCommand, Command, Rejected, State};
use model::{NodeId, NodeName, ZoneName};
use openraft::CommittedLeaderId;
use openraft::error::{ClientWriteError, RaftError};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{sleep, timeout};

/// How often every contact is asked before a join is given up, and the pause between.
const JOIN_ROUNDS: u32 = 10;
const JOIN_PAUSE: Duration = Duration::from_millis(500);

/// A node that has no ledger yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Its host name.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: SocketAddr,
}

/// Why a ledger has not begun.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// There are no random bytes for its ids.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The state machine refuses the first node.
    #[error("the first node is refused: {0}")]
    Refused(#[from] Rejected),
    /// It can't be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nobody is invited.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// There are no random bytes for a token.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The ledger has not taken it.
    #[error("the invitation is not in the ledger")]
    Propose(#[from] ProposeError),
}

/// Why a node has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There are no random bytes for its store.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The ledger says no.
    #[error("refused: {0}")]
    Refused(#[source] Refused),
    /// Nobody who was asked can say.
    #[error("nobody who was asked lets this node join: {last}")]
    NoAnswer {
        /// What the last one said.
        last: String,
    },
    /// Its store can't be made or opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Makes the store of a new cluster, whose first node this is: it votes alone. Returns without opening it.
pub fn bootstrap(
    dir: &Path,
    first: &Newcomer,
    zone: Option<ZoneName>,
    settings: Settings,
) -> Result<Identity, BootstrapError> {
    let (identity, begin) = beginning(first, zone, settings)?;
    Store::create(dir, &identity, Some(&begin))?;
    Ok(identity)
}

/// What a new cluster's store begins with.
pub(crate) fn beginning(
    first: &Newcomer,
    zone: Option<ZoneName>,
    settings: Settings,
) -> Result<(Identity, Beginning), BootstrapError> {
    let mut state = State::new(settings);
    let add = ClusterCommand::AddNode { name: first.name.clone(), zone };
    let node = added(&state.apply(&Command::Cluster(add))?).unwrap_or_default();
    for command in [ClusterCommand::ChangeVoters(BTreeSet::from([node])), ClusterCommand::VotersSettled] {
        state.apply(&Command::Cluster(command))?;
    }
    let (cluster, store, incarnation) = (ClusterId::new()?, StoreId::new()?, state.incarnation);
    let member = Member { name: first.name.clone(), address: first.address, store: store.clone() };
    let name = first.name.clone();
    let identity = Identity { cluster, incarnation, forcing: None, node, name, store };
    let begin = Beginning::alone(Machine::new(state), node, member, (1, 1));
    Ok((identity, begin))
}

impl Beginning {
    /// A ledger in which one node votes alone, and whose log begins after an entry of this term and index.
    pub(crate) fn alone(machine: Machine, node: NodeId, member: Member, (term, index): (u64, u64)) -> Self {
        let id = raft_id(node);
        let last = LogId::new(CommittedLeaderId::new(term, id), index);
        let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, member)]));
        let membership = StoredMembership::new(Some(last), membership);
        Self { machine, membership, last, vote: Vote::new(term, id) }
    }
}

/// Joins the cluster that the token is of, and opens the ledger: an empty one, which follows as a learner.
pub async fn join(
    dir: &Path,
    newcomer: &Newcomer,
    token: &JoinToken,
    contacts: &[Contact],
    config: Config,
    transport: Arc<dyn Transport>,
) -> Result<Ledger, JoinError> {
    if dir.join(FILE).exists() {
        return Err(OpenError::from(StoreError::AlreadyThere { path: dir.join(FILE) }).into());
    }
    let identity = ask_to_join(newcomer, token, contacts, &config, &*transport).await?;
    Store::create(dir, &identity, None).map_err(OpenError::from)?;
    Ok(Ledger::open(dir, config, transport).await?)
}

/// Gets an id. All questions are about one store: whichever was granted, it is the same id.
pub(crate) async fn ask_to_join(
    newcomer: &Newcomer,
    token: &JoinToken,
    contacts: &[Contact],
    config: &Config,
    transport: &dyn Transport,
) -> Result<Identity, JoinError> {
    let Newcomer { name, address } = newcomer.clone();
    let member = Member { name, address, store: StoreId::new()? };
    let request = JoinRequest { token: token.clone(), member };
    let mut last = "nobody was asked".to_owned();
    for round in 0..JOIN_ROUNDS {
        if round > 0 {
            sleep(JOIN_PAUSE).await;
        }
        for contact in contacts {
            let letter = Letter(Sealed::Join(request.clone()));
            // The one who is asked may have to ask the leader, who has to commit twice.
            let limit = config.propose_limit() * 3;
            match transport.send(contact.clone(), letter, limit).await {
                Ok(Reply(Answered::Join(Ok(identity)))) => return Ok(identity),
                Ok(Reply(Answered::Join(Err(NotJoined::Refused(why))))) => {
                    return Err(JoinError::Refused(why));
                }
                Ok(Reply(Answered::Join(Err(NotJoined::Again(why))))) => last = why,
                Ok(_) => last = format!("{} answers another question", contact.name),
                Err(error) => last = error.to_string(),
            }
        }
    }
    Err(JoinError::NoAnswer { last })
}

fn unix_ms() -> u64 {
    // A clock before 1970 counts as 1970.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Ledger {
    /// Lets a node join, once, within `valid_for`: a new one, or one of that name that lost its ledger. Its rack counts only if it
    /// is new.
    pub async fn invite(
        &self,
        name: NodeName,
        zone: Option<ZoneName>,
        valid_for: Duration,
    ) -> Result<JoinToken, InviteError> {
        let token = JoinToken::new()?;
        let now_unix_ms = unix_ms();
        let valid_ms = u64::try_from(valid_for.as_millis()).unwrap_or(u64::MAX);
        let expires_unix_ms = now_unix_ms.saturating_add(valid_ms);
        let invitation = Invitation { name, zone, expires_unix_ms, redeemed: None };
        self.submit(Request::Invite { hash: token.hash(), invitation, now_unix_ms }).await?;
        Ok(token)
    }

    /// Gives a newcomer its id and its place, here if this node leads, else, if it may, through the leader.
    pub(crate) async fn join_for(&self, request: JoinRequest, pass_on: bool) -> Result<Identity, NotJoined> {
        let JoinRequest { token, member } = request.clone();
        let again = |why: String| NotJoined::Again(why);
        let (name, store) = (member.name.clone(), member.store.clone());
        let redeem = Request::Redeem { hash: token.hash(), name, store, now_unix_ms: unix_ms() };
        let node = match self.submit_here(redeem).await {
            Ok(applied) => added(&applied.events).ok_or_else(|| again("no id was given".to_owned()))?,
            Err(ProposeError::Refused(why)) => return Err(NotJoined::Refused(why)),
            Err(ProposeError::NoLeader { leader: Some(leader) }) if pass_on => {
                return match self.ask_leader(leader, Message::Join(request)).await {
                    Ok(Answered::Join(answer)) => answer,
                    Ok(_) => Err(again("the leader answers another question".to_owned())),
                    Err(error) => Err(again(error.to_string())),
                };
            }
            Err(error) => return Err(again(error.to_string())),
        };
        let add = self.raft().add_learner(raft_id(node), member.clone(), false);
        match timeout(self.config().propose_limit(), add).await {
            Ok(Ok(_)) => {}
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(why)))) => {
                return Err(again(why.to_string()));
            }
            Ok(Err(error)) => return Err(again(error.to_string())),
            Err(_) => return Err(again("no quorum has taken it in time".to_owned())),
        }
        let own = self.identity();
        let Member { name, store, .. } = member;
        Ok(Identity { node, name, store, ..own.clone() })
    }
}
