//! What openraft is built with, and the little that is stored and sent around it.

use crate::machine::{Answer, Request};
use crate::token::{ClusterId, ForcingId, StoreId};
use model::{LedgerIncarnation, NodeId, NodeName};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

openraft::declare_raft_types!(
    /// openraft's ids are bare numbers (its store tests make them from `u64`); everything else speaks of [`NodeId`].
    pub(crate) Types: D = Request, R = Answer, NodeId = u64, Node = Member, SnapshotData = Contents
);

pub(crate) type Entry = openraft::Entry<Types>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Raft = openraft::Raft<Types>;

/// The machine in its written form: JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents(pub(crate) String);

/// A voter or learner, as Raft's membership names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its host name; its certificate is for it.
    pub name: NodeName,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// The store that it joined with. A node without it is not this member, whatever it calls itself.
    pub store: StoreId,
}

impl Default for Member {
    /// openraft asks for one. It names nobody.
    fn default() -> Self {
        let name = "nobody".parse().expect("a host name");
        Self { name, address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), store: StoreId::default() }
    }
}

/// Whose store it is. Never changes, but for the incarnation and the forcing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Which ledger of it: nodes of different incarnations don't talk with each other.
    pub incarnation: LedgerIncarnation,
    /// The forcing that this ledger began with; `None`: the cluster did. Two ledgers that are forced apart from each other are two, whatever incarnation
    /// they have drawn.
    pub forcing: Option<ForcingId>,
    /// The node.
    pub node: NodeId,
    /// Its host name.
    pub name: NodeName,
    /// This store.
    pub store: StoreId,
}

/// openraft's id of a node.
pub(crate) fn raft_id(node: NodeId) -> u64 {
    node.0.into()
}

/// The node of an openraft id. Ids come from [`raft_id`], so that none is too large; one that were is nobody's.
pub(crate) fn node_id(id: u64) -> NodeId {
    NodeId(u32::try_from(id).unwrap_or(u32::MAX))
}
