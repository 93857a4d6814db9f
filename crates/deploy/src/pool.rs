//! The pool stage: the ledger on every member, who votes, and the drives.
//!
//! ```text
//!   begin on the first node ─► invite and join, one after another ─► all vote ─► name the drives ─► claim them
//! ```
//! Each step looks at what the ledger says first, so that the stage can be run again after any end: what is there is let alone.
//!
//! Invariants: a second ledger is never begun while any member has one. Every wait has a bound and says what it waits for. What
//! a drive holds is not lost: claiming is without `wipe`.
//!
//! On failure: [`PoolError`]; what was done stands, and the stage can be run again.

mod choose;
mod delete;
mod drives;
mod grow;
mod hand_over;
mod moves;
mod override_volume;
mod patience;
mod rate;
mod volume;
mod widen;

pub use choose::{Difference, NoPlace, Voting, breaches, choose, differences, voting};
pub use delete::delete;
pub use drives::{add_one_drive, drives};
pub use grow::{CantGrow, Growth, grow, next_of_growth};
pub use hand_over::{NoHandOver, hand_over};
pub use moves::{CantMove, Move, move_copy, next_of_move, remove_drive, replace_drive, volumes_on};
pub use override_volume::{CantOverride, OverridePlan, answering, choose_override, override_volume};
pub use patience::Patience;
pub use rate::set_rebuild_rate;
pub use volume::{
    Followed, VolumeReady, VolumeRequest, confirmed, followed, in_words, leg_in_words, named, newest, opened,
    phase_in_words, ready, volume,
};
pub use widen::{CantWiden, Widening, next_of_widening, widen};

use crate::journal::JournalError;
use crate::recorder::Recorder;
use crate::{Cluster, Member};
use api::{
    BeginRequest, ClientError, ClusterView, Failure, InviteRequest, JoinRequest, NodeLedger, ProposeRequest,
    VotersRequest,
};
use control::{Command, State};
use futures_util::future::join_all;
use model::rules::{self, Rule};
use model::{DriveId, DriveSerial, NodeId, NodeName, VolumeId, VolumeName};
use placement::{Lack, Refused};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How often a member is asked while something is waited for.
pub(crate) const POLL: Duration = Duration::from_millis(100);
/// How long one step of the stage may take. A vote or a catching up takes seconds on emulated nodes.
const STEP_BOUND: Duration = Duration::from_secs(30);
/// How long a member may take to say what it knows, where others do, too.
const VIEW_LIMIT: Duration = Duration::from_secs(3);

/// What the pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRequest {
    /// The port on which agents listen on their management addresses.
    pub agent_port: u16,
    /// The data drives of each node.
    pub drives: BTreeMap<NodeName, BTreeSet<DriveSerial>>,
}

/// What the stage came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Everybody's id in the ledger.
    pub nodes: BTreeMap<NodeName, NodeId>,
    /// What was done, in words; nothing, when all was as it shall be. (Claims are not counted: asking is how one looks.)
    pub done: Vec<String>,
}

/// The pool or a volume could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A node could not be asked, or refused.
    #[error(transparent)]
    Ask(#[from] ClientError),
    /// Something did not come in time.
    #[error("waited {} ms for {what}{}", bound.as_millis(), last.as_ref().map(|last| format!("; last: {last}")).unwrap_or_default())]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
        /// What was seen or answered last.
        last: Option<String>,
    },
    /// No such rate can be kept.
    #[error(transparent)]
    Rate(control::Rejected),
    /// The cluster has no members, or one has no management address.
    #[error("{node} has no management address")]
    NoAddress {
        /// Who.
        node: NodeName,
    },
    /// The cluster has nobody to begin with.
    #[error("the cluster has no node to begin a ledger on")]
    NoNode,
    /// A node has another cluster's ledger.
    #[error("{node} has the ledger of another cluster")]
    OtherCluster {
        /// Which.
        node: NodeName,
    },
    /// Nobody has a ledger.
    #[error("no member that answers has a ledger")]
    NoLedger,
    /// A drive that was to be given up for lost is there, as it was.
    #[error("drive {serial} is there after all, with what it held")]
    Returned {
        /// The drive.
        serial: DriveSerial,
    },
    /// A drive that was asked for is not there.
    #[error("node {node} has no drive with serial number {serial}")]
    NoDrive {
        /// The node.
        node: NodeName,
        /// The drive.
        serial: DriveSerial,
    },
    /// There is no place for a volume.
    #[error("there is no place for the volume")]
    NoPlace(#[from] NoPlace),
    /// A volume of that name is another one.
    #[error("there is a volume {name} already, and it is another one: {}", differs.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Another {
        /// Its name.
        name: VolumeName,
        /// In what.
        differs: Vec<Difference>,
    },
    /// A volume is in use.
    #[error("{volume} is {phase}")]
    InUse {
        /// Which.
        volume: VolumeId,
        /// In which phase it is.
        phase: String,
    },
    /// A node leaves a drive as it is.
    #[error("drive {serial} is not taken")]
    NotClaimed {
        /// Which.
        serial: DriveSerial,
        /// What it holds.
        #[source]
        source: Box<ClientError>,
    },
    /// A copy can't be moved as it was asked for.
    #[error("the copy can't be moved")]
    CantMove(#[from] CantMove),
    /// A volume can't grow as it was asked for.
    #[error("the volume can't grow")]
    CantGrow(#[from] CantGrow),
    /// A volume can't have four copies.
    #[error("the volume can't have four copies")]
    CantWiden(#[from] CantWiden),
    /// A volume can't be handed over as it was asked for.
    #[error("the volume can't be handed over")]
    NoHandOver(#[from] NoHandOver),
    /// No copy can be declared to be good.
    #[error("the volume can't be overridden")]
    CantOverride(#[from] CantOverride),
    /// A drive holds copies of volumes.
    #[error("{drive} holds copies of {}", volumes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    HoldsCopies {
        /// Which drive.
        drive: DriveId,
        /// Of which volumes.
        volumes: Vec<VolumeId>,
    },
    /// What was to be done can't be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Not all can vote.
    #[error("the cluster has {members} members: an odd number must vote")]
    EvenMembers {
        /// So many.
        members: usize,
    },
}

impl PoolError {
    /// The rule that is broken, where it is one of those that a deployment is checked against.
    pub fn rule(&self) -> Option<&'static Rule> {
        match self {
            Self::NoDrive { .. } => Some(rules::DRIVE_MISSING),
            Self::NotClaimed { .. } => Some(rules::DRIVE_FOREIGN_DATA),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Ask(_) | Self::NoLedger => {
                "see that the node runs and that its agent does; its console or journal says why not"
            }
            Self::Late { .. } => "the agents' journals say what holds it up; the stage can be run again",
            Self::Rate(_) => "name rates of which the one is no more than the other",
            Self::NoAddress { .. } => "give it an address in the template (management_ip)",
            Self::NoNode => "give the template nodes",
            Self::OtherCluster { .. } => {
                "somebody else deploys the same nodes, or they belong to another cluster: `twinrack ledger show` says what each has"
            }
            Self::NoDrive { .. } => "see that the drive is plugged in and answers",
            Self::Returned { .. } => "give the command again: it looks at the node anew",
            Self::NoPlace(NoPlace::Breach(_)) => "report it: the choice of drives broke its own rule",
            Self::NoPlace(NoPlace::Room(Refused::Racks(lacks)))
                if lacks.iter().any(|lack| matches!(lack, Lack::Nodes { .. })) =>
            {
                "ask for fewer copies, or add nodes: copies in a rack are on different nodes"
            }
            Self::NoPlace(_) => {
                "add drives, or make the volume smaller; `twinrack volume list` shows what is free"
            }
            Self::Another { .. } => {
                "choose another name, or ask for the volume as it is; `twinrack volume grow` makes one larger"
            }
            Self::InUse { .. } => {
                "see that nobody uses it, and close it first: `twinrack volume delete --close`"
            }
            Self::NotClaimed { .. } => {
                "if what it holds may be lost, `twinrack drive add --wipe` takes it all the same"
            }
            Self::CantOverride(why) => why.help(),
            Self::Journal(error) => error.help(),
            Self::CantMove(CantMove::NotOpen { .. }) => "open the volume first",
            Self::CantMove(CantMove::NoPlace(_)) => {
                "name another drive in the same rack, or add one; `twinrack drive list` shows what is free"
            }
            Self::CantMove(CantMove::NoVolume(_) | CantMove::NoCopy { .. }) => {
                "`twinrack volume show` says on which drives a volume's copies are"
            }
            Self::CantGrow(error) => error.help(),
            Self::CantWiden(error) => error.help(),
            Self::NoHandOver(error) => error.help(),
            Self::HoldsCopies { .. } => "`twinrack drive replace` moves them to others first",
            Self::EvenMembers { .. } => {
                "a cluster has two racks of equal size and a witness: see that the witness has joined"
            }
        }
    }
}

/// Makes the pool, or completes it.
pub async fn pool(cluster: &Cluster, request: &PoolRequest) -> Result<Pool, PoolError> {
    let mut recorder = Recorder::quiet();
    let nodes = quorum(cluster, request.agent_port, &mut recorder).await?;
    drives(cluster, &request.drives, &BTreeSet::new(), &mut recorder).await?;
    Ok(Pool { nodes, done: recorder.did().to_vec() })
}

/// The ledger on every member, and all of them vote; gives everybody's id.
///
/// `agent_port`: on which agents listen on their management addresses.
pub async fn quorum(
    cluster: &Cluster,
    agent_port: u16,
    recorder: &mut Recorder<'_>,
) -> Result<BTreeMap<NodeName, NodeId>, PoolError> {
    let stage = Stage { cluster, agent_port };
    let contact = recorder.step("a ledger", stage.begin()).await?;
    for member in &cluster.members {
        recorder.step(format!("{} in the ledger", member.name), stage.join(contact, member)).await?;
    }
    recorder.step("everybody votes", stage.vote(contact)).await?;
    stage.names(contact).await
}

/// Everybody's id: the last under a name is the present one.
fn newest_ids(state: &State) -> BTreeMap<NodeName, NodeId> {
    state.nodes.iter().map(|(id, node)| (node.name.clone(), *id)).collect()
}

/// What each node has, has given, keeps free and may still give.
pub fn capacity(ledger: &State) -> placement::Capacity {
    placement::capacity(&ledger.pool(), &ledger.placed())
}

/// What a member says of the ledger; `None`: it has none.
pub async fn view(member: &Member) -> Result<Option<ClusterView>, ClientError> {
    match member.client.cluster().await {
        Ok(view) => Ok(Some(view)),
        Err(error) if says(&error, NO_LEDGER) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What every member that answers and has a ledger says of it, in their order. Who believes that it leads must show that a quorum believes so, too:
/// then, and only then, its view is confirmed.
pub async fn views(members: &[Member]) -> Vec<(NodeName, ClusterView)> {
    let asked = members.iter().map(|member| async {
        let plain = timeout(VIEW_LIMIT, view(member)).await.ok()?.ok().flatten()?;
        let confirmed = if plain.leader == Some(plain.node) {
            timeout(VIEW_LIMIT, member.client.confirmed_cluster()).await.ok().and_then(Result::ok)
        } else {
            None
        };
        Some((member.name.clone(), confirmed.unwrap_or(plain)))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What an agent says that has no ledger.
const NO_LEDGER: &str = "no-ledger";
/// What it says of a drive that it leaves as it is.
const NOT_CLAIMED: &str = "not-claimed";
/// What it says when it may do it in a while.
pub(crate) const NOT_NOW: &str = "not-now";

/// Whether the agent answered with this word.
pub(crate) fn says(error: &ClientError, word: &str) -> bool {
    matches!(error.failure(), Some(Failure::Problem { problem, .. }) if problem.code == word)
}

/// Asks again while the answer is that it can't be done now: the ledger may be without a leader for a moment.
async fn insist<T, F>(what: &str, ask: impl Fn() -> F) -> Result<T, PoolError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let deadline = Instant::now() + STEP_BOUND;
    loop {
        match ask().await {
            Err(error) if says(&error, NOT_NOW) => {
                if Instant::now() >= deadline {
                    let last = Some(chain(&error));
                    return Err(PoolError::Late { what: what.to_owned(), bound: STEP_BOUND, last });
                }
                sleep(POLL).await;
            }
            answer => return Ok(answer?),
        }
    }
}

struct Stage<'a> {
    cluster: &'a Cluster,
    agent_port: u16,
}

/// What a step found, and what it changed, in words.
type Step<T> = Result<(T, Option<String>), PoolError>;

impl<'a> Stage<'a> {
    /// Somebody who has the ledger: who has it already, or the first node, which begins it.
    async fn begin(&self) -> Step<&'a Member> {
        for member in &self.cluster.members {
            if view(member).await?.is_some() {
                return Ok((member, None));
            }
        }
        let first = self.cluster.members.iter().find(|member| member.zone.is_some());
        let first = first.ok_or(PoolError::NoNode)?;
        let request = BeginRequest { address: self.address(first)?, zone: first.zone.clone() };
        first.client.begin(&request).await?;
        let what = format!("{} to lead the ledger that it began", first.name);
        until(first, &what, STEP_BOUND, |view| view.leader == Some(view.node)).await?;
        Ok((first, Some(format!("the ledger began on {}", first.name))))
    }

    async fn join(&self, contact: &Member, member: &Member) -> Step<()> {
        let mut did = None;
        if let (NodeLedger::Open(own), NodeLedger::Open(ours)) =
            (member.client.ledger().await?, contact.client.ledger().await?)
            && own.cluster != ours.cluster
        {
            return Err(PoolError::OtherCluster { node: member.name.clone() });
        }
        if view(member).await?.is_none() {
            let invite = InviteRequest { node: member.name.clone(), zone: member.zone.clone() };
            let what = format!("an invitation for {}", member.name);
            let token = insist(&what, || contact.client.invite(&invite)).await?.token;
            let contacts = BTreeMap::from([(contact.name.clone(), self.address(contact)?)]);
            let request = JoinRequest { address: self.address(member)?, token, contacts };
            let what = format!("{} to join", member.name);
            insist(&what, || member.client.join(&request)).await?;
            did = Some(format!("{} joined", member.name));
        }
        let what = format!("{} to follow the ledger", member.name);
        let follows = until(member, &what, STEP_BOUND, |view| {
            view.leader.is_some() && view.state.nodes.contains_key(&view.node)
        });
        follows.await.map(|()| ((), did))
    }

    async fn names(&self, contact: &Member) -> Result<BTreeMap<NodeName, NodeId>, PoolError> {
        Ok(newest_ids(&self.state(contact).await?))
    }

    /// Whoever is asked has followed all that was acknowledged before: what is not there now has not been done.
    async fn vote(&self, contact: &Member) -> Step<()> {
        let what = "everybody to vote";
        let deadline = Instant::now() + STEP_BOUND;
        let (mut last, mut did) = (None, None);
        while Instant::now() < deadline {
            let state = self.state(contact).await?;
            match voting(&state) {
                Voting::Change(voters) => {
                    match contact.client.voters(&VotersRequest { voters: voters.clone() }).await {
                        Ok(()) => did = Some(format!("{} vote", voters.len())),
                        Err(error) => last = Some(chain(&error)),
                    }
                }
                Voting::Settled => return Ok(((), did)),
                Voting::Even(members) => return Err(PoolError::EvenMembers { members }),
                Voting::Changing => {}
            }
            sleep(POLL).await;
        }
        Err(PoolError::Late { what: what.to_owned(), bound: STEP_BOUND, last })
    }

    async fn state(&self, member: &Member) -> Result<State, PoolError> {
        let what = format!("{} to know what the cluster knows", member.name);
        Ok(insist(&what, || member.client.confirmed_cluster()).await?.state)
    }

    fn address(&self, member: &Member) -> Result<SocketAddr, PoolError> {
        address(self.cluster, member, self.agent_port)
    }
}

/// Where other members reach one's agent.
pub(crate) fn address(cluster: &Cluster, member: &Member, agent_port: u16) -> Result<SocketAddr, PoolError> {
    let spec = &cluster.spec;
    let of_node = spec.nodes().find(|(_, node)| node.name == member.name).map(|(_, node)| node.management_ip);
    let witness = spec.witness.management_ip.filter(|_| member.zone.is_none());
    let address = of_node.or(witness).ok_or_else(|| PoolError::NoAddress { node: member.name.clone() })?;
    Ok(SocketAddr::new(IpAddr::V4(address), agent_port))
}

/// Waits until a member's view is as wanted.
pub(crate) async fn until(
    member: &Member,
    what: &str,
    bound: Duration,
    holds: impl Fn(&ClusterView) -> bool,
) -> Result<(), PoolError> {
    until_seen(member, what, bound, |view| view.is_some_and(&holds)).await
}

/// The same, where that a member has no ledger may be what is wanted.
pub(crate) async fn until_seen(
    member: &Member,
    what: &str,
    bound: Duration,
    holds: impl Fn(Option<&ClusterView>) -> bool,
) -> Result<(), PoolError> {
    let deadline = Instant::now() + bound;
    let mut last = None;
    loop {
        match view(member).await {
            Ok(view) if holds(view.as_ref()) => return Ok(()),
            Ok(Some(_)) => last = Some("not yet".to_owned()),
            Ok(None) => last = Some(format!("{} has no ledger", member.name)),
            Err(error) => last = Some(chain(&error)).or(last),
        }
        if Instant::now() >= deadline {
            return Err(PoolError::Late { what: what.to_owned(), bound, last });
        }
        sleep(POLL).await;
    }
}

/// Proposes a command until the ledger says what it shall; whether it was needed. A proposal whose end is not known may have been
/// taken: the ledger is looked at before each.
pub(crate) async fn settle(
    contact: &Member,
    what: &str,
    bound: Duration,
    command: &Command,
    holds: impl Fn(&State) -> bool,
) -> Result<bool, PoolError> {
    let deadline = Instant::now() + bound;
    let (mut last, mut proposed) = (None, false);
    loop {
        match view(contact).await {
            Ok(Some(view)) if holds(&view.state) => return Ok(proposed),
            Ok(Some(_)) => {
                proposed = true;
                let request = ProposeRequest { command: command.clone() };
                last = contact.client.propose(&request).await.err().map(|error| chain(&error)).or(last);
            }
            Ok(None) => last = Some(format!("{} has no ledger", contact.name)),
            Err(error) => last = Some(chain(&error)),
        }
        if Instant::now() >= deadline {
            return Err(PoolError::Late { what: what.to_owned(), bound, last });
        }
        sleep(POLL).await;
    }
}

/// An error and what it came from, in a line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
