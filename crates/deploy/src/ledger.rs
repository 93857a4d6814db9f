//! The ledger as an operator sees it: how each node's is, and bringing back a node that has lost its own.
//!
//! ```text
//!   its ledger is lost ─────────────────────────────┐
//!   it is of an incarnation that is over ─► give up ─┴─► invite and join ─► catch up ─► vote
//! ```
//! What is next is decided from what the quorum and the node say, each time anew ([`next_of_rejoin`]): killed anywhere and given again, it goes on.
//!
//! Invariants: a ledger that is the cluster's present one is never given up, nor one of another cluster. Whoever is asked what the ledger says is a
//! leader whom a quorum has confirmed. Every wait has a bound and says what it waits for.
//!
//! On failure: [`LedgerError`]; what was done stands.

mod force;
#[cfg(test)]
mod tests;

pub use force::{CantForce, Risks, Surveyed, force_quorum, has_forced, risks_of_force, survey};

use crate::Member;
use crate::pool::{NOT_NOW, POLL, PoolError, chain, confirmed, says};
use api::{ClientError, GiveUpRequest, InviteRequest, JoinRequest, NodeLedger, OpenLedger};
use control::State;
use control::state::Voters;
use futures_util::future::join_all;
use model::{LedgerIncarnation, NodeId, NodeName};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a node may take to say how its ledger is, where others are asked, too.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Why a ledger is not as an operator wants it.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A node could not be asked, or refused.
    #[error(transparent)]
    Ask(#[from] ClientError),
    /// The cluster does not say what its ledger says.
    #[error(transparent)]
    Cluster(#[from] PoolError),
    /// There is no way to its agent.
    #[error("there is no agent of {0} to ask")]
    NoAgent(NodeName),
    /// A node can't join again.
    #[error("{node} can't join again")]
    CantRejoin {
        /// Which.
        node: NodeName,
        /// Why not.
        #[source]
        why: CantRejoin,
    },
    /// No quorum is forced.
    #[error("can't go on with what {node} has of the ledger")]
    CantForce {
        /// Which.
        node: NodeName,
        /// Why not.
        #[source]
        why: CantForce,
    },
    /// Something did not come in time.
    #[error("waited {} ms for {what}", bound.as_millis())]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
    },
}

impl LedgerError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Ask(_) => {
                "see that the node runs and that its agent does; its console or journal says why not"
            }
            Self::Cluster(error) => error.help(),
            Self::NoAgent(_) => "the access file names the agents",
            Self::CantRejoin { why: CantRejoin::NoNode, .. } => "`twinrack ledger show` has the nodes",
            Self::CantRejoin { why: CantRejoin::MayOpen { .. }, .. } => {
                "see to its disk: the node tries by itself to open its ledger"
            }
            Self::CantRejoin { why: CantRejoin::NoAddress, .. } => {
                "say where other nodes reach its agent: --address IP:PORT, on the management network"
            }
            Self::CantRejoin { why: CantRejoin::ForcedApart { .. }, .. } => {
                "of two ledgers the one with the greater incarnation goes on: see that its agents answer, and have the others join it"
            }
            Self::CantRejoin { why: CantRejoin::OtherCluster, .. } => {
                "see that the access file names the agents of one cluster"
            }
            Self::CantForce { why, .. } => why.help(),
            Self::Late { .. } => {
                "`twinrack ledger show` says how each node is; the command can be given again"
            }
        }
    }
}

/// Why a node can't join again. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CantRejoin {
    /// The ledger has no node of that name.
    #[error("the ledger has no node of that name")]
    NoNode,
    /// Its ledger may be good.
    #[error("its ledger is not lost, it only can't be used now: {why}")]
    MayOpen {
        /// Why it can't.
        why: String,
    },
    /// A quorum was forced there, too, and later by its number.
    #[error("its ledger was forced apart from this one, and is {incarnation}")]
    ForcedApart {
        /// Its ledger's.
        incarnation: LedgerIncarnation,
    },
    /// Its ledger is another cluster's.
    #[error("its ledger is another cluster's")]
    OtherCluster,
    /// Nobody knows where its agent is reached.
    #[error("nobody knows where other nodes reach its agent")]
    NoAddress,
}

/// How the ledger of a node is.
#[derive(Debug)]
pub struct Standing {
    /// Whose.
    pub name: NodeName,
    /// What its agent says; or why it says nothing.
    pub ledger: Result<NodeLedger, String>,
}

/// A node that joined again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejoined {
    /// Its id.
    pub node: NodeId,
    /// Whether it votes. If not, the nodes that work are an even number, and one of them has no vote.
    pub votes: bool,
    /// What was done, in words; nothing, if it was there.
    pub done: Vec<String>,
}

/// What is next for a node that shall be there again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextOfRejoin {
    /// Its ledger is of an incarnation that is over, or it has been replaced: it gives it up.
    GiveUp(GiveUpRequest),
    /// It is invited and joins.
    Join {
        /// Where others reach its agent, by the ledger.
        address: Option<SocketAddr>,
    },
    /// It is there, and does not have all that was acknowledged yet.
    CatchUp,
    /// It is there, and does not vote yet.
    Vote,
    /// It is there.
    There {
        /// Its id.
        node: NodeId,
        /// Whether it votes.
        votes: bool,
    },
}

/// Decides what is next, by what a confirmed leader says (`state`, and its own ledger), and what the node says of its ledger.
pub fn next_of_rejoin(
    name: &NodeName,
    node: &NodeLedger,
    (state, leader): (&State, &OpenLedger),
) -> Result<NextOfRejoin, CantRejoin> {
    let ids = || state.nodes.iter().filter(|(_, found)| found.name == *name).map(|(id, _)| *id);
    // The last id under a name is the present one.
    let present = ids().max().ok_or(CantRejoin::NoNode)?;
    match node {
        NodeLedger::Closed { why, is_lost: false } => Err(CantRejoin::MayOpen { why: why.clone() }),
        NodeLedger::Closed { .. } | NodeLedger::None {} => {
            Ok(NextOfRejoin::Join { address: leader.members.get(&present).copied() })
        }
        NodeLedger::Open(open) if open.cluster != leader.cluster => Err(CantRejoin::OtherCluster),
        NodeLedger::Open(open) if is_apart(open, leader) => {
            Err(CantRejoin::ForcedApart { incarnation: open.incarnation })
        }
        NodeLedger::Open(open) => {
            let is_over = open.incarnation < leader.incarnation || open.node < present;
            if is_over {
                let (node, incarnation) = (open.node, open.incarnation);
                return Ok(NextOfRejoin::GiveUp(GiveUpRequest { node, incarnation }));
            }
            if let Some(why) = &open.stopped {
                return Err(CantRejoin::MayOpen { why: why.clone() });
            }
            Ok(once_there(open, (state, leader)))
        }
    }
}

/// Whether a node's ledger is another than the leader's, and none that is over.
fn is_apart(open: &OpenLedger, leader: &OpenLedger) -> bool {
    let (own, present) = (open.incarnation, leader.incarnation);
    own > present || (own == present && open.forcing != leader.forcing)
}

/// Of two who work one has no vote: an even number decides nothing that one fewer does not.
fn once_there(open: &OpenLedger, (state, leader): (&State, &OpenLedger)) -> NextOfRejoin {
    if open.leader.is_none() || open.applied < leader.applied.min(Some(leader.committed)) {
        return NextOfRejoin::CatchUp;
    }
    let Voters::Settled(present) = &state.voters else { return NextOfRejoin::Vote };
    let votes = present.contains(&open.node);
    let last: BTreeMap<&NodeName, NodeId> = state
        .nodes
        .iter()
        .filter(|(id, _)| state.is_member(**id))
        .map(|(id, node)| (&node.name, *id))
        .collect();
    let stay = last.into_values().filter(|id| !state.leaves(*id)).count();
    if votes || state.leaves(open.node) || stay.is_multiple_of(2) {
        NextOfRejoin::There { node: open.node, votes }
    } else {
        NextOfRejoin::Vote
    }
}

/// How everybody's ledger is.
pub async fn standings(members: &[Member]) -> Vec<Standing> {
    let asked = members.iter().map(|member| async {
        let ledger = match timeout(ASK_LIMIT, member.client.ledger()).await {
            Ok(Ok(ledger)) => Ok(ledger),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("its agent does not answer within {} s", ASK_LIMIT.as_secs())),
        };
        Standing { name: member.name.clone(), ledger }
    });
    join_all(asked).await
}

/// Brings a node back that has lost its ledger, or whose ledger is of an incarnation that is over. Nothing is done to one that is there.
///
/// `address`: where other nodes reach its agent, if the ledger does not know.
pub async fn rejoin(
    members: &[Member],
    name: &NodeName,
    address: Option<SocketAddr>,
    bound: Duration,
) -> Result<Rejoined, LedgerError> {
    let member = members.iter().find(|member| member.name == *name);
    let member = member.ok_or_else(|| LedgerError::NoAgent(name.clone()))?;
    let mut rejoin = Rejoin { members, member, address, done: Vec::new() };
    let deadline = Instant::now() + bound;
    loop {
        let waits = match rejoin.step(bound).await? {
            Ok(rejoined) => return Ok(rejoined),
            Err(waits) => waits,
        };
        if Instant::now() >= deadline {
            return Err(LedgerError::Late { what: waits, bound });
        }
        sleep(POLL).await;
    }
}

struct Rejoin<'a> {
    members: &'a [Member],
    member: &'a Member,
    address: Option<SocketAddr>,
    done: Vec<String>,
}

impl Rejoin<'_> {
    /// Looks, and does what is next; else what is waited for.
    async fn step(&mut self, bound: Duration) -> Result<Result<Rejoined, String>, LedgerError> {
        let name = &self.member.name;
        let (contact, state) = confirmed(self.members, bound).await?;
        let leader = match contact.client.ledger().await {
            Ok(NodeLedger::Open(leader)) => leader,
            // It led a moment ago.
            Ok(_) => return Ok(Err(format!("{} to have its ledger open", contact.name))),
            Err(error) => {
                return Ok(Err(format!("{} to say how its ledger is: {}", contact.name, chain(&error))));
            }
        };
        // Its agent may be beginning anew.
        let own = match self.member.client.ledger().await {
            Ok(own) => own,
            Err(error) => return Ok(Err(format!("{name} to answer: {}", chain(&error)))),
        };
        let cant = |why| LedgerError::CantRejoin { node: name.clone(), why };
        match next_of_rejoin(name, &own, (&state, &leader)).map_err(cant)? {
            NextOfRejoin::There { node, votes } => {
                Ok(Ok(Rejoined { node, votes, done: std::mem::take(&mut self.done) }))
            }
            NextOfRejoin::CatchUp => Ok(Err(format!("{name} to catch up with the ledger"))),
            NextOfRejoin::Vote => Ok(Err(format!("{name} to vote"))),
            NextOfRejoin::GiveUp(request) => {
                if let NodeLedger::Open(open) = &own {
                    self.address = self.address.or_else(|| open.members.get(&open.node).copied());
                }
                self.give_up(&request).await
            }
            NextOfRejoin::Join { address } => {
                let address = self.address.or(address).ok_or_else(|| cant(CantRejoin::NoAddress))?;
                self.join(contact, (&state, &leader), address).await
            }
        }
    }

    async fn give_up(&mut self, request: &GiveUpRequest) -> Result<Result<Rejoined, String>, LedgerError> {
        let name = &self.member.name;
        match self.member.client.give_up_ledger(request).await {
            Ok(()) => {
                let old: LedgerIncarnation = request.incarnation;
                self.done.push(format!("{name} gave up what it had as {} ({old})", request.node));
                Ok(Err(format!("{name} to begin anew")))
            }
            // Its agent may have ended before the answer was out: it is looked at again.
            Err(error) => Ok(Err(format!("{name} to give its ledger up: {}", chain(&error)))),
        }
    }

    async fn join(
        &mut self,
        contact: &Member,
        (state, leader): (&State, &OpenLedger),
        address: SocketAddr,
    ) -> Result<Result<Rejoined, String>, LedgerError> {
        let name = &self.member.name;
        let zone = state.nodes.values().find(|node| node.name == *name).and_then(|node| node.zone.clone());
        let invited = contact.client.invite(&InviteRequest { node: name.clone(), zone }).await;
        let token = match invited {
            Ok(invited) => invited.token,
            Err(error) if says(&error, NOT_NOW) => {
                return Ok(Err(format!("an invitation for {name}: {}", chain(&error))));
            }
            Err(error) => return Err(error.into()),
        };
        let named =
            |(id, address): (&NodeId, &SocketAddr)| Some((state.nodes.get(id)?.name.clone(), *address));
        let votes = |(id, _): &(&NodeId, &SocketAddr)| leader.voters.contains(*id);
        let contacts = leader.members.iter().filter(votes).filter_map(named);
        let contacts = contacts.filter(|(other, _)| other != name).collect();
        match self.member.client.join(&JoinRequest { address, token, contacts }).await {
            Ok(joined) => {
                self.done.push(format!("{name} joined as {}", joined.node));
                Ok(Err(format!("{name} to catch up with the ledger")))
            }
            // Refused for now, or its answer was lost: what is next is seen from what there is.
            Err(error) => Ok(Err(format!("{name} to join: {}", chain(&error)))),
        }
    }
}
