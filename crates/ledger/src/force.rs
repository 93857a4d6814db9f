//! Forced quorum: the majority is gone for good, and an operator goes on with what one survivor has.
//!
//! Done on one node: the survivor whose log is longest ([`survey`] says), with the ledger closed, or by [`Ledger::force_quorum`], which closes
//! it. All entries of its log are taken as
//! committed (each may have been), then the ledger's incarnation is raised, which marks every leg as not proven, and the node votes
//! alone. All others join it again, with tokens, under new ids.
//!
//! Invariants: ledgers of different incarnations refuse each other's letters, so that the lost majority, should it come back, is
//! another ledger that nobody here listens to; targets obey the higher epoch, and epochs carry the incarnation. Each forcing has an
//! identity of its own, which is on disk with the new store before anything is done under it: two survivors that are forced apart
//! are two ledgers, of which one is later. What goes on is the log whose end the operator was shown, or nothing. The store is
//! replaced in one step, once in a run; the old one is kept beside it.
//!
//! On failure: nothing has changed.

use crate::ledger::Ledger;
use crate::machine::{Machine, Refused, Request};
use crate::store::{self, Beginning, Store, StoreError};
use crate::token::{ForcingId, NoRandomness, later};
use crate::types::{Identity, LogId, StoredMembership, raft_id};
use control::{ClusterCommand, Command};
use model::{LedgerIncarnation, NodeId};
use openraft::{EntryPayload, LogIdOptionExt};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a closed store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Whose it is.
    pub identity: Identity,
    /// The term of its last entry, and its place: of several survivors the one with the greatest goes on.
    pub last: (u64, u64),
    /// The last entry that it knows to be committed. Those after it may be, or not.
    pub committed: u64,
    /// Who voted, as far as it knows.
    pub voters: BTreeSet<NodeId>,
}

/// What an operator has ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForceOrder {
    /// Where the log ended that the operator was shown: the term of its last entry, and its place.
    pub last: (u64, u64),
    /// Who orders it.
    pub by: String,
    /// What the operator was told may be lost.
    pub loses: String,
}

/// What forced quorum has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forced {
    /// The ledger's incarnation from now on.
    pub incarnation: LedgerIncarnation,
    /// Entries that were taken as committed without being known to be.
    pub presumed: u64,
    /// Where the store is that it was made from.
    pub aside: PathBuf,
}

/// Why a quorum is not forced. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ForceError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state machine says no: this node is none that it knows, for example.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// What the operator was shown is not what there is.
    #[error("the log ends at entry {index} of term {term} now, which is not where it was said to end")]
    OtherEnd {
        /// The term of its last entry.
        term: u64,
        /// Its place.
        index: u64,
    },
    /// Somebody else goes on with this node already.
    #[error("another has forced a quorum on this node")]
    Again,
    /// There are no random bytes for the new ledger's identity.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// This node has nothing of the ledger.
    #[error("this node has nothing of the ledger: force the quorum on one that has")]
    Empty,
}

/// What a closed store has, for choosing the survivor.
pub fn survey(dir: &Path) -> Result<Survey, ForceError> {
    let (store, identity) = Store::open(dir)?;
    Ok(history(&store, &identity, dir)?.survey)
}

struct History {
    survey: Survey,
    machine: Machine,
    membership: StoredMembership,
    term: u64,
}

fn history(store: &Store, identity: &Identity, dir: &Path) -> Result<History, ForceError> {
    let found = store.contents().map_err(|fault| store::failed(&dir.join(store::FILE), "read", fault))?;
    let (mut last, mut membership, mut machine): (Option<LogId>, _, _) = match found.snapshot {
        Some((meta, machine)) => (meta.last_log_id, meta.last_membership, Some(machine)),
        None => (None, StoredMembership::default(), None),
    };
    for entry in found.entries {
        if Some(entry.log_id) <= last {
            continue;
        }
        last = Some(entry.log_id);
        let machine = machine.get_or_insert_with(Machine::empty);
        match entry.payload {
            EntryPayload::Blank => {}
            // A refused one was refused everywhere.
            EntryPayload::Normal(request) => drop(machine.apply(&request)),
            EntryPayload::Membership(next) => membership = StoredMembership::new(Some(entry.log_id), next),
        }
    }
    let (Some(last), Some(machine)) = (last, machine) else { return Err(ForceError::Empty) };
    let voted = found.vote.map_or(0, |vote| vote.leader_id.term);
    let survey = Survey {
        identity: identity.clone(),
        last: (last.leader_id.term, last.index),
        committed: found.committed.index().unwrap_or(0),
        voters: membership.voter_ids().map(crate::types::node_id).collect(),
    };
    Ok(History { survey, machine, membership, term: voted.max(last.leader_id.term) })
}

/// Goes on with what this node has: it votes alone from now on, in the ledger's next incarnation.
pub fn force_quorum(dir: &Path, order: &ForceOrder) -> Result<Forced, ForceError> {
    let (store, identity) = Store::open(dir)?;
    force(&store, &identity, dir, order)
}

impl Ledger {
    /// What its store has, while it is open.
    pub async fn survey(&self, dir: &Path) -> Result<Survey, ForceError> {
        let (identity, dir) = (self.identity().clone(), dir.to_owned());
        let (file, look) = (dir.join(store::FILE), move |store: &Store| Ok(history(store, &identity, &dir)));
        let seen = self.store().run(look).await;
        Ok(seen.map_err(|fault| store::failed(&file, "read", fault))??.survey)
    }

    /// Stops, and goes on with what this node has, in another run of it: the new store is in the directory, and this ledger, which has the old
    /// one open, stays closed whatever comes of it.
    pub async fn force_quorum(&self, dir: &Path, order: &ForceOrder) -> Result<Forced, ForceError> {
        // The store that is open is the old one for ever: from it a second ledger would be made in the place of the first.
        if !self.force_once() {
            return Err(ForceError::Again);
        }
        // Nothing is added to the log from here on.
        self.close().await;
        let (identity, dir, order) = (self.identity().clone(), dir.to_owned(), order.clone());
        let file = dir.join(store::FILE);
        let work = move |store: &Store| Ok(force(store, &identity, &dir, &order));
        let made = self.store().run(work).await;
        made.map_err(|fault| store::failed(&file, "replace", fault))?
    }
}

fn force(store: &Store, identity: &Identity, dir: &Path, order: &ForceOrder) -> Result<Forced, ForceError> {
    let History { survey, mut machine, membership, term } = history(store, identity, dir)?;
    if survey.last != order.last {
        let (term, index) = survey.last;
        return Err(ForceError::OtherEnd { term, index });
    }
    let node = identity.node;
    let member = membership.membership().get_node(&raft_id(node)).cloned().ok_or(ForceError::Empty)?;
    let incarnation = later(machine.state.incarnation)?;
    let (voters, by, loses) = (BTreeSet::from([node]), order.by.clone(), order.loses.clone());
    let force = Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses });
    machine.apply(&Request::Control(force))?;
    let identity = Identity { incarnation, forcing: Some(ForcingId::new()?), ..identity.clone() };
    let begin = Beginning::alone(machine, node, member, (term + 1, survey.last.1 + 1));
    let aside = store::replace(dir, &identity, &begin)?;
    Ok(Forced { incarnation, presumed: survey.last.1.saturating_sub(survey.committed), aside })
}
