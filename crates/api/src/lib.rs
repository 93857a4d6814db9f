//! What is said between agents, and to them: types, TLS identities, the client.
//!
//! Purpose: one definition of every request and response, used by the agent (which answers) and by whoever asks
//! (deployment, the lab). Feature `client` adds [`Client`], feature `pki` adds [`pki`]; the agent uses neither.
//!
//! Invariants: requests refuse unknown fields, so that a newer asker finds out that an older agent would have
//! ignored something; responses tolerate them, so that an older asker can read a newer agent. There is no request
//! without mutual TLS. A private key never shows in `Debug` output, errors or logs.
//!
//! On failure: an agent answers with a [`Problem`]; the client returns a [`ClientError`] that names the node, the
//! request and what went wrong, with refused connections, TLS, time-outs and refusals told apart.

#[cfg(feature = "client")]
mod client;
mod cluster;
mod config;
mod drift;
mod health;
mod links;
mod messages;
mod node_ledger;
pub mod path;
#[cfg(feature = "pki")]
pub mod pki;
mod probes;
mod throughput;
mod tls;
mod vms;

/// The port on which agents listen, unless their configuration says otherwise.
pub const AGENT_PORT: u16 = 7443;

#[cfg(feature = "client")]
pub use client::{Client, ClientError, Endpoint, Failure};
pub use cluster::{
    Access, BeginRequest, ClaimRequest, CloseRequest, ClusterView, DigestsRequest, DriveContents,
    GivenLegRequest, HandOverRequest, Holds, InviteRequest, Invited, JoinRequest, Joined, LeaseAnswer,
    LeaseRequest, LegPlace, Piece, PoolDrives, ProposeRequest, Proposed, RebuildProgress, Token,
    VotersRequest,
};
pub use config::{ConfigError, NodeConfig, OutOfBand, Role};
pub use drift::{Drift, DriftGlance, Drifts, Repair};
pub use health::{Health, Neighbours, NicState};
pub use links::{
    Applied, ApplyRequest, ChangesGap, ChangesSince, CommitRequest, Committed, ConfirmWithin, GivenBack,
    LinkChange, LinkChanges, NetworkState, Outcome, TakenBack, WayHome,
};
pub use messages::{Hello, PowerAction, PowerRequest, Problem};
pub use node_ledger::{
    DrivesGivenBack, ForceRequest, ForcedQuorum, GiveUpRequest, LogPlace, NodeLedger, OpenLedger,
};
pub use probes::{PathNetwork, PathPeer, PathsRequest, PingAnswer, PingRequest};
pub use throughput::{ArrivedBytes, ReceiveAnswer, ReceiveRequest, SendAnswer, SendRequest};
pub use tls::{IdentityError, PeerCertificate, PrivateKeyPem, TlsIdentity, server_name};
pub use vms::{Console, ConsoleQuery, ImageQuery, IncomingQuery};
