//! Where requests go; the same constants on both sides.

/// `GET`: who is there. Answers [`crate::Hello`].
pub const HELLO: &str = "/v1/hello";
/// `GET`: what the node has. Answers [`model::Inventory`].
pub const INVENTORY: &str = "/v1/inventory";
/// `POST` [`crate::PowerRequest`]: switch the machine off or restart it.
pub const POWER: &str = "/v1/power";
/// `GET`: how the node is and what it hears. Answers [`crate::Health`].
pub const HEALTH: &str = "/v1/health";
/// `GET`: the LLDP neighbour of every adapter. Answers [`crate::Neighbours`].
pub const NEIGHBOURS: &str = "/v1/neighbours";
/// `GET`: links and plan ([`crate::NetworkState`]). `PUT` [`crate::ApplyRequest`]: answers [`crate::Applied`].
pub const NETWORK: &str = "/v1/network";
/// `POST` [`crate::CommitRequest`]: the pending plan stays.
pub const NETWORK_COMMIT: &str = "/v1/network/commit";
/// `GET`: what would lead back to the links as they were found ([`crate::WayHome`]). `POST`: goes there, and forgets the plan and whom to greet. Answers [`crate::GivenBack`]. Only for a node without a
/// ledger.
pub const NETWORK_GIVE_BACK: &str = "/v1/network/give-back";
/// `GET`, with `?since=N` ([`crate::ChangesSince`]): what changed in the kernel. Answers [`crate::LinkChanges`].
pub const NETLINK_CHANGES: &str = "/v1/netlink-changes";
/// `PUT` [`crate::PathsRequest`]: whom to greet.
pub const PATHS: &str = "/v1/paths";
/// `POST` [`crate::PingRequest`]: answers [`crate::PingAnswer`].
pub const PING: &str = "/v1/probes/ping";
/// `POST` [`crate::ReceiveRequest`]: a peer may send, once. Answers [`crate::ReceiveAnswer`].
pub const THROUGHPUT_RECEIVE: &str = "/v1/probes/throughput/receive";
/// `POST` [`crate::SendRequest`]: answers [`crate::SendAnswer`].
pub const THROUGHPUT_SEND: &str = "/v1/probes/throughput/send";
/// `POST`: what ledgers say to each other. Only nodes may: the certificate is looked at.
pub const LEDGER: &str = "/v1/ledger";
/// `GET`: what the ledger says, and what this node has of it. Answers [`crate::ClusterView`].
pub const CLUSTER: &str = "/v1/cluster";
/// `GET`: the same, after the node has followed all that was acknowledged before: a quorum has said so. Answers [`crate::ClusterView`].
pub const CLUSTER_CONFIRMED: &str = "/v1/cluster/confirmed";
/// `GET`: how this node's ledger is, whether it is open or not. Answers [`crate::NodeLedger`].
pub const CLUSTER_LEDGER: &str = "/v1/cluster/ledger";
/// `POST` [`crate::GiveUpRequest`]: give this node's ledger up. The agent begins anew after the answer.
pub const CLUSTER_GIVE_UP: &str = "/v1/cluster/give-up";
/// `POST` [`crate::GiveUpRequest`], where the ledger says that the cluster is dissolved, or that this node leaves and has nothing any more: its drives of this node become blank, and its ledger is removed. Answers [`crate::DrivesGivenBack`]; the agent begins anew
/// after the answer.
pub const CLUSTER_GIVE_BACK: &str = "/v1/cluster/give-back";
/// `POST` [`crate::ForceRequest`]: go on without a quorum. Answers [`crate::ForcedQuorum`]; the agent begins anew after the answer.
pub const CLUSTER_FORCE_QUORUM: &str = "/v1/cluster/force-quorum";
/// `POST` [`crate::BeginRequest`]: begin a new cluster's ledger here. Answers [`crate::Joined`].
pub const CLUSTER_BEGIN: &str = "/v1/cluster/begin";
/// `POST` [`crate::InviteRequest`]: let a node join. Answers [`crate::Invited`].
pub const CLUSTER_INVITE: &str = "/v1/cluster/invite";
/// `POST` [`crate::JoinRequest`]: join a cluster. Answers [`crate::Joined`].
pub const CLUSTER_JOIN: &str = "/v1/cluster/join";
/// `POST` [`crate::VotersRequest`]: change who votes.
pub const CLUSTER_VOTERS: &str = "/v1/cluster/voters";
/// `POST` [`crate::ProposeRequest`]: ask the ledger for something. Answers [`crate::Proposed`].
pub const CLUSTER_PROPOSE: &str = "/v1/cluster/propose";
/// `POST` [`crate::LeaseRequest`]: ask the leader for a lease. Answers [`crate::LeaseAnswer`]. Only the node itself may.
pub const CLUSTER_LEASE: &str = "/v1/cluster/lease";
/// `POST` [`crate::CloseRequest`], to a volume's owner: close it in order. Answered at once; the ledger says when it is done.
pub const VOLUME_CLOSE: &str = "/v1/volume/close";
/// `POST` [`crate::HandOverRequest`], to a volume's owner: close it in order, for another node to open. Answered when that has begun; the ledger says
/// when it is done.
pub const VOLUME_HAND_OVER: &str = "/v1/volume/hand-over";
/// `GET`: the node's drives, and what is on them ([`crate::PoolDrives`]). It takes no ledger.
pub const POOL_DRIVES: &str = "/v1/pool/drives";
/// `POST` [`crate::ClaimRequest`]: make a drive one of the pool.
pub const POOL_CLAIM: &str = "/v1/pool/claim";
/// `POST` [`crate::GivenLegRequest`]: flush a leg's drive.
pub const POOL_FLUSH: &str = "/v1/pool/flush";
/// `POST` [`crate::DigestsRequest`]: keyed digests of a stretch of a leg, as a list of pairs of numbers.
pub const POOL_DIGESTS: &str = "/v1/pool/digests";
/// `POST` [`crate::GivenLegRequest`]: shut all that reaches the leg, wait until nothing is in flight, and give it out again as it was. A
/// gate that has given a path up may have it again only after that (docs/volumes.md).
pub const POOL_BOUNCE: &str = "/v1/pool/bounce";
/// `POST` [`crate::GivenLegRequest`], to whom the leg is given out: it has been taken back, since its drive answers nothing.
pub const POOL_TAKEN_BACK: &str = "/v1/pool/taken-back";
/// `POST` [`crate::GivenLegRequest`], to the node that gives a leg out: whoever had it under this key needs it no more. It is fenced before the ledger says who has it next.
pub const POOL_GIVEN_BACK: &str = "/v1/pool/given-back";
/// `POST`, with `?volume=N&offset=N` ([`crate::ImageQuery`]), to a volume's owner: the body is written there, and flushed. Refused while the volume's virtual
/// machine is not off, or anybody has the volume open.
pub const VOLUME_IMAGE: &str = "/v1/volume/image";
/// `GET`, with `?vm=N&from=N` ([`crate::ConsoleQuery`]): what a virtual machine said here on its serial port. Answers [`crate::Console`].
pub const VM_CONSOLE: &str = "/v1/vm/console";
/// `POST`, with `?vm=N&generation=N` ([`crate::IncomingQuery`]), from the node that a virtual machine leaves to the one where it goes on: the body is its memory, as QEMU
/// sends it. Answered when all of it is there and complete, which may take minutes. Nobody but the node that the ledger names may send it.
pub const VM_INCOMING: &str = "/v1/vm/incoming";
