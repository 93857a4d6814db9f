//! The cluster's ledger and volumes, as an agent is asked for them.
//!
//! A node begins a ledger or joins one; after that everything is a [`control::Command`], and what the ledger says is read whole.

use control::slow::Reading;
use control::{Command, State};
use model::{DriveId, DriveSerial, ExtentTable, LegId, MacRange, NodeId, NodeName, VolumeId, ZoneName};
use network::measure::Machines;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Begins the ledger of a new cluster on its first node, which votes alone at first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeginRequest {
    /// Where other nodes reach this agent.
    pub address: SocketAddr,
    /// The node's rack; `None`: it is the witness.
    pub zone: Option<ZoneName>,
}

/// Lets a node join, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// Who may.
    pub node: NodeName,
    /// Its rack; `None`: it is the witness.
    pub zone: Option<ZoneName>,
}

/// A one-time token, 64 hexadecimal digits. It never shows in `Debug` output.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The answer to an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// What the node shows when it joins.
    pub token: Token,
}

/// Joins a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Where other nodes reach this agent.
    pub address: SocketAddr,
    /// Its invitation.
    pub token: Token,
    /// Whom it asks, by name: the name is what the certificate must be for.
    pub contacts: BTreeMap<NodeName, SocketAddr>,
}

/// The answer to whoever begins or joins a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The node's id in the ledger.
    pub node: NodeId,
}

/// Changes who votes; answered when the change is settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VotersRequest {
    /// An odd number of members.
    pub voters: BTreeSet<NodeId>,
}

/// Makes a drive one of the pool: writes its header, unless it holds what may not be lost. The ledger has named it before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// Which.
    pub serial: DriveSerial,
    /// Whether what it holds may be lost.
    #[serde(default)]
    pub wipe: bool,
}

/// The drives of a node, and what is on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDrives {
    /// Each.
    pub drives: Vec<DriveContents>,
}

/// What is on a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveContents {
    /// Which.
    pub serial: DriveSerial,
    /// What.
    pub holds: Holds,
}

/// What a drive holds, as far as its beginning and its end tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Holds {
    /// Nothing: it is blank.
    Nothing {},
    /// It is a drive of a pool.
    Pool {
        /// Of which cluster: 32 hexadecimal digits.
        cluster: String,
        /// Which of its drives.
        drive: DriveId,
    },
    /// The system uses it, or a part of it: it is mounted, or something stands on it.
    System {},
    /// Somebody's data.
    Other {
        /// What it looks like.
        what: String,
    },
    /// Nobody can say.
    Unread {
        /// Why.
        why: String,
    },
}

/// Asks the ledger for something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProposeRequest {
    /// What.
    pub command: Command,
}

/// What a command changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// In order.
    pub events: Vec<control::Event>,
}

/// A node asks the one that leads for a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Who.
    pub node: NodeId,
    /// The request's number, to which the answer belongs.
    pub request: u64,
    /// It is for users that an earlier run of the agent has left, and whoever asks is not at work yet: how long it would count the lease, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_users_ms: Option<u32>,
    /// What its drives took since it said so last.
    #[serde(default)]
    pub drives: BTreeMap<DriveId, Reading>,
}

/// The answer to that: held back until a quorum has confirmed the leadership, or it is known that it won't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// Whether the lease is granted.
    pub granted: bool,
}

/// A leg as its node gives it out, of which something is asked there: a flush of its drive, or a bounce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenLegRequest {
    /// Of which volume.
    pub volume: VolumeId,
    /// Which leg.
    pub leg: LegId,
    /// Under what it is given out.
    pub key: control::target::Key,
}

/// Keyed digests of a stretch of a leg, as its node gives it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigestsRequest {
    /// Of which leg.
    pub of: GivenLegRequest,
    /// Where the stretch begins on the leg's device; whole blocks of 4096 bytes.
    pub offset_bytes: u64,
    /// Its length; whole blocks, 32 MiB at most.
    pub len_bytes: u64,
    /// Under what they are taken.
    pub digest_key: [u8; 16],
}

/// Closes a volume in order, on the node that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseRequest {
    /// Which.
    pub volume: VolumeId,
}

/// Hands a volume over to another node, on the node that owns it: it is closed in order, and opened there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOverRequest {
    /// Which.
    pub volume: VolumeId,
    /// Where to. The owner itself: what is under way is taken back, if it can be.
    pub to: NodeId,
    /// Whether processes that have it open are asked to end (SIGTERM), and killed if they have not after ten seconds. If not, it is refused
    /// while there are any.
    #[serde(default)]
    pub end_users: bool,
}

/// Where a cluster's agents are, and what to show them: a file for whoever operates it. Paths are relative to the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The CA's certificate, PEM.
    pub ca: PathBuf,
    /// The operator's certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Where each agent listens, by the name that its certificate is for.
    pub agents: BTreeMap<NodeName, SocketAddr>,
    /// What figures that are measured there are worth; without it: the machines are real.
    #[serde(default = "real")]
    pub machines: Machines,
}

fn real() -> Machines {
    Machines::Real
}

/// A piece of a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// From here on, bytes.
    pub offset_bytes: u64,
    /// So much.
    pub len_bytes: u64,
}

/// Where a leg of this node lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegPlace {
    /// Of which volume.
    pub volume: VolumeId,
    /// Which leg.
    pub leg: LegId,
    /// On which drive.
    pub serial: DriveSerial,
    /// Its pieces, in order.
    pub pieces: Vec<Piece>,
    /// Where on the leg the data begins, bytes.
    pub data_offset_bytes: u64,
    /// How much data there is, bytes.
    pub data_bytes: u64,
    /// Where the extents of a thin volume stand in that; what it does not name is nowhere and reads as zeros. `None`: a fixed volume.
    #[serde(default)]
    pub mapped: Option<ExtentTable>,
}

/// What a node says of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// This node.
    pub node: NodeId,
    /// Who leads the ledger, as far as it knows.
    pub leader: Option<NodeId>,
    /// Who votes, as far as it knows.
    pub voters: BTreeSet<NodeId>,
    /// Whether it has followed all that was acknowledged before it was asked, by the word of a quorum. If not, it may tell of the past: one that
    /// was cut off, or believes that it leads and does not any more.
    pub confirmed: bool,
    /// Whether it has a lease.
    pub leased: bool,
    /// What the ledger says, as far as this node has followed.
    pub state: State,
    /// Which MAC addresses virtual machines' NICs have.
    #[serde(default)]
    pub mac_range: MacRange,
    /// The devices of volumes that users may open here.
    pub devices: BTreeMap<VolumeId, String>,
    /// How long those are, bytes.
    #[serde(default)]
    pub device_bytes: BTreeMap<VolumeId, u64>,
    /// The legs that lie here.
    pub legs: Vec<LegPlace>,
    /// Why volumes wait, where the leader is.
    pub blocked: BTreeMap<VolumeId, String>,
    /// Thin volumes whose users write what has no place and gets none now, and why, where the owner is.
    #[serde(default)]
    pub out_of_room: BTreeMap<VolumeId, String>,
    /// How far rebuilds are, where the owner is.
    pub rebuilds: BTreeMap<VolumeId, RebuildProgress>,
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildProgress {
    /// Of which leg.
    pub leg: LegId,
    /// So much is gone through, bytes.
    pub done_bytes: u64,
    /// Of so much; 0: md has not begun.
    pub total_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_show() {
        let invited = Invited { token: Token("5ec7e7".into()) };
        assert_eq!(format!("{invited:?}"), "Invited { token: Token }");
    }
}
