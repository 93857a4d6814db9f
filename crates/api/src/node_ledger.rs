//! How one node's ledger is, and what an operator asks of it. The cluster's own word is [`crate::ClusterView`].

use model::{DriveSerial, LedgerIncarnation, NodeId, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// How a node's ledger is. (Not with a tag inside: serde then takes no map whose keys are numbers.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeLedger {
    /// There is none: the node never had one, or has given it up.
    None {},
    /// There is one, and it is not used.
    Closed {
        /// Why.
        why: String,
        /// It can't be used again, so that nothing is lost by giving it up: it is damaged, or the node's floors are lost. If not, the node
        /// tries by itself to open it.
        is_lost: bool,
    },
    /// It is open.
    Open(OpenLedger),
}

/// A ledger that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenLedger {
    /// Of which cluster: 32 hexadecimal digits.
    pub cluster: String,
    /// The node's id in it.
    pub node: NodeId,
    /// Which of the ledger's incarnations it is of.
    pub incarnation: LedgerIncarnation,
    /// The forced quorum that this ledger began with: 32 hexadecimal digits.
    #[serde(default)]
    pub forcing: Option<String>,
    /// Raft's term.
    pub term: u64,
    /// Who leads, as far as the node knows.
    pub leader: Option<NodeId>,
    /// Who votes, as far as the node knows.
    pub voters: BTreeSet<NodeId>,
    /// Where the members' agents are reached, as far as the node knows.
    pub members: BTreeMap<NodeId, SocketAddr>,
    /// The names of the nodes that are not strangers to the ledger, as far as the node knows.
    #[serde(default)]
    pub names: BTreeMap<NodeId, NodeName>,
    /// The last entry of its log; `None`: nobody can read it now.
    pub last: Option<LogPlace>,
    /// The last entry that its store knows to be committed.
    pub committed: u64,
    /// The last entry that it has applied.
    pub applied: Option<u64>,
    /// Why its Raft has stopped: its disk is full or broken, say. It begins again by itself as soon as the disk takes writes.
    pub stopped: Option<String>,
}

/// A place in a log. Of two logs the one whose last place is greater has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPlace {
    /// The term of the entry.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// Gives a node's ledger up: it is kept under another name, and the node has none. Refused if it is another than the one that is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GiveUpRequest {
    /// The node's id in it.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: LedgerIncarnation,
}

/// Drives that were a cluster's, which is dissolved or which their node has left, and are blank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrivesGivenBack {
    /// Which.
    pub drives: Vec<DriveSerial>,
}

/// Goes on with what this node has of the ledger, without the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForceRequest {
    /// The incarnation that ends with it.
    pub incarnation: LedgerIncarnation,
    /// The end of its log, as the operator was told.
    pub last: LogPlace,
    /// Who asks.
    pub by: String,
    /// What the operator was told that may be lost.
    pub loses: String,
}

/// A quorum was forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForcedQuorum {
    /// The ledger's incarnation from now on.
    pub incarnation: LedgerIncarnation,
    /// Entries that were taken as committed without being known to be.
    pub presumed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_ledger_is_is_read_as_it_was_written() {
        let open = OpenLedger {
            cluster: "c".to_owned(),
            node: NodeId(2),
            incarnation: LedgerIncarnation(1),
            forcing: Some("0f".to_owned()),
            term: 3,
            leader: Some(NodeId(1)),
            voters: BTreeSet::from([NodeId(1)]),
            members: BTreeMap::from([(NodeId(2), SocketAddr::from(([10, 0, 0, 2], 7117)))]),
            names: BTreeMap::from([(NodeId(2), "n2".parse().unwrap())]),
            last: Some(LogPlace { term: 3, index: 9 }),
            committed: 9,
            applied: Some(9),
            stopped: None,
        };
        let closed = NodeLedger::Closed { why: "damaged".to_owned(), is_lost: true };
        for ledger in [NodeLedger::Open(open), closed, NodeLedger::None {}] {
            let text = serde_json::to_string(&ledger).unwrap();
            assert_eq!(serde_json::from_str::<NodeLedger>(&text).unwrap(), ledger, "{text}");
        }
    }
}
