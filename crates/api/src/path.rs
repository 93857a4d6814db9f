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
