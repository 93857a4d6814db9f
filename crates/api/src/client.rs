//! Asking an agent.
//!
//! Purpose: one method per request. Each has its own time limit, and every answer is bounded in size.
//!
//! Invariants: the server's certificate is checked against the node's name while the connection goes to the address
//! given (in the lab a forwarded loopback port); no name is ever looked up, no proxy or redirect followed. Requests
//! are not repeated behind the caller's back, except by [`Client::wait_ready`], which only asks who is there.
//!
//! On failure: [`ClientError::Request`] says which node and which request, and its [`Failure`] what went wrong.

#[cfg(test)]
mod tests;

use crate::{
    Applied, ApplyRequest, BeginRequest, ClaimRequest, CloseRequest, ClusterView, CommitRequest, Console,
    DrivesGivenBack, ForceRequest, ForcedQuorum, GiveUpRequest, GivenBack, HandOverRequest, Health, Hello,
    IdentityError, InviteRequest, Invited, JoinRequest, Joined, LinkChanges, Neighbours, NetworkState,
    NodeLedger, PathsRequest, PingAnswer, PingRequest, PoolDrives, PowerAction, PowerRequest, Problem,
    ProposeRequest, Proposed, ReceiveAnswer, ReceiveRequest, SendAnswer, SendRequest, TlsIdentity,
    VotersRequest, WayHome, path, server_name,
};
use model::{Inventory, NodeName, VmId, VolumeId};
use network::Generation;
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// An answer longer than this is not one of ours.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// For what an agent answers from memory. An emulated node that shares its processor takes hundreds of milliseconds.
const QUICK: Duration = Duration::from_secs(10);
/// For what makes an agent ask its hardware.
const SLOW: Duration = Duration::from_secs(30);
/// An idle connection is dropped well before the server drops it (30 s), so that no request runs into the closing.
const POOL_IDLE: Duration = Duration::from_secs(10);
/// How often a node that boots is tried. QEMU's port forward accepts at once and then hangs for seconds, even when the
/// node is up by then: only a fresh connection gets through quickly.
const ATTEMPT_SPACING: Duration = Duration::from_millis(250);
/// How long an attempt may take while others are started beside it: on a loaded host an emulated node needs long for
/// a handshake. So at most 12 are under way.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);

/// Where a node's agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose certificate is expected.
    pub node: NodeName,
    /// Where to connect.
    pub address: SocketAddr,
}

/// Asks one node's agent. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    base: String,
    http: reqwest::Client,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made from this identity.
    #[error("can't ask {node} with this identity")]
    Identity {
        /// Who was to be asked.
        node: NodeName,
        /// What is wrong with the identity.
        #[source]
        source: IdentityError,
    },
    /// The HTTP client could not be made.
    #[error("can't make a client for {node}")]
    Build {
        /// Who was to be asked.
        node: NodeName,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// A request failed.
    #[error("{request} of {node} at {address} failed")]
    Request {
        /// Who was asked.
        node: NodeName,
        /// Where.
        address: SocketAddr,
        /// What, `GET /v1/hello`.
        request: String,
        /// What went wrong.
        #[source]
        failure: Box<Failure>,
    },
    /// A node did not answer before the deadline.
    #[error("{node} at {address} was not ready after {} ms and {attempts} attempts", waited.as_millis())]
    NotReady {
        /// Who was asked.
        node: NodeName,
        /// Where.
        address: SocketAddr,
        /// How long.
        waited: Duration,
        /// How often.
        attempts: u32,
        /// What the last attempt that ended ran into; `None` if all just hung.
        #[source]
        last: Option<Box<Failure>>,
    },
}

/// What can go wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody listens there.
    #[error("connection refused: nobody listens there")]
    Refused(#[source] reqwest::Error),
    /// The connection was made and then broken: a machine that boots or dies does that.
    #[error("connection lost")]
    Lost(#[source] reqwest::Error),
    /// The two sides don't believe each other, or don't speak TLS.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// No answer in time.
    #[error("no answer within {} ms", after.as_millis())]
    TimedOut {
        /// The time limit.
        after: Duration,
    },
    /// The agent says no.
    #[error("refused with {status}: {problem}")]
    Problem {
        /// The HTTP status.
        status: u16,
        /// The agent's reason.
        problem: Problem,
    },
    /// Something answered, but not as an agent does.
    #[error("answered with status {status} and something that is not the agent's JSON")]
    NotOurs {
        /// The HTTP status.
        status: u16,
        /// What the JSON lacks.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is longer than any of ours.
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// The request could not be written as JSON.
    #[error("the request can't be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// Anything else on the way.
    #[error("transport failed")]
    Transport(#[source] reqwest::Error),
}

impl ClientError {
    /// What went wrong with the request, or with the last attempt of several.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Request { failure, .. } => Some(failure),
            Self::NotReady { last, .. } => last.as_deref(),
            Self::Identity { .. } | Self::Build { .. } => None,
        }
    }
}

impl Client {
    /// A client for the agent at `endpoint`, as `identity`. Connects at the first request.
    pub fn new(endpoint: Endpoint, identity: &TlsIdentity) -> Result<Self, ClientError> {
        let tls = identity
            .client_config()
            .map_err(|source| ClientError::Identity { node: endpoint.node.clone(), source })?;
        let name = server_name(&endpoint.node);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .resolve(&name, endpoint.address)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|source| ClientError::Build { node: endpoint.node.clone(), source })?;
        let base = format!("https://{name}:{}", endpoint.address.port());
        Ok(Self { endpoint, base, http })
    }

    /// Whom it asks.
    pub fn node(&self) -> &NodeName {
        &self.endpoint.node
    }

    /// `GET /v1/hello`.
    pub async fn hello(&self) -> Result<Hello, ClientError> {
        self.ask(Method::GET, path::HELLO, None::<&()>, QUICK).await
    }

    /// `GET /v1/inventory`.
    pub async fn inventory(&self) -> Result<Inventory, ClientError> {
        self.ask(Method::GET, path::INVENTORY, None::<&()>, SLOW).await
    }

    /// `GET /v1/health`.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.ask(Method::GET, path::HEALTH, None::<&()>, QUICK).await
    }

    /// `GET /v1/neighbours`.
    pub async fn neighbours(&self) -> Result<Neighbours, ClientError> {
        self.ask(Method::GET, path::NEIGHBOURS, None::<&()>, QUICK).await
    }

    /// `GET /v1/network`.
    pub async fn network(&self) -> Result<NetworkState, ClientError> {
        self.ask(Method::GET, path::NETWORK, None::<&()>, QUICK).await
    }

    /// `PUT /v1/network`.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<Applied, ClientError> {
        self.ask(Method::PUT, path::NETWORK, Some(request), SLOW).await
    }

    /// `POST /v1/network/commit`.
    pub async fn commit(&self, generation: Generation) -> Result<(), ClientError> {
        self.ask(Method::POST, path::NETWORK_COMMIT, Some(&CommitRequest { generation }), QUICK).await
    }

    /// `GET /v1/network/give-back`.
    pub async fn way_home(&self) -> Result<WayHome, ClientError> {
        self.ask(Method::GET, path::NETWORK_GIVE_BACK, None::<&()>, QUICK).await
    }

    /// `POST /v1/network/give-back`.
    pub async fn give_links_back(&self) -> Result<GivenBack, ClientError> {
        self.ask(Method::POST, path::NETWORK_GIVE_BACK, None::<&()>, SLOW).await
    }

    /// `GET /v1/netlink-changes?since=N`.
    pub async fn netlink_changes(&self, since: u64) -> Result<LinkChanges, ClientError> {
        let path = format!("{}?since={since}", path::NETLINK_CHANGES);
        self.ask(Method::GET, &path, None::<&()>, QUICK).await
    }

    /// `PUT /v1/paths`.
    pub async fn greet(&self, request: &PathsRequest) -> Result<(), ClientError> {
        self.ask(Method::PUT, path::PATHS, Some(request), QUICK).await
    }

    /// `POST /v1/probes/ping`.
    pub async fn ping(&self, request: &PingRequest) -> Result<PingAnswer, ClientError> {
        let limit = QUICK + Duration::from_millis(u64::from(request.deadline_ms));
        self.ask(Method::POST, path::PING, Some(request), limit).await
    }

    /// `POST /v1/probes/throughput/receive`.
    pub async fn throughput_receive(&self, request: &ReceiveRequest) -> Result<ReceiveAnswer, ClientError> {
        self.ask(Method::POST, path::THROUGHPUT_RECEIVE, Some(request), QUICK).await
    }

    /// `POST /v1/probes/throughput/send`.
    pub async fn throughput_send(&self, request: &SendRequest) -> Result<SendAnswer, ClientError> {
        let limit = SLOW + Duration::from_millis(u64::from(request.duration_ms));
        self.ask(Method::POST, path::THROUGHPUT_SEND, Some(request), limit).await
    }

    /// `GET /v1/cluster`.
    pub async fn cluster(&self) -> Result<ClusterView, ClientError> {
        self.ask(Method::GET, path::CLUSTER, None::<&()>, QUICK).await
    }

    /// `GET /v1/cluster/confirmed`.
    pub async fn confirmed_cluster(&self) -> Result<ClusterView, ClientError> {
        self.ask(Method::GET, path::CLUSTER_CONFIRMED, None::<&()>, QUICK).await
    }

    /// `GET /v1/cluster/ledger`.
    pub async fn ledger(&self) -> Result<NodeLedger, ClientError> {
        self.ask(Method::GET, path::CLUSTER_LEDGER, None::<&()>, QUICK).await
    }

    /// `POST /v1/cluster/give-up`.
    pub async fn give_up_ledger(&self, request: &GiveUpRequest) -> Result<(), ClientError> {
        self.ask(Method::POST, path::CLUSTER_GIVE_UP, Some(request), SLOW).await
    }

    /// `POST /v1/cluster/give-back`.
    pub async fn give_drives_back(&self, request: &GiveUpRequest) -> Result<DrivesGivenBack, ClientError> {
        self.ask(Method::POST, path::CLUSTER_GIVE_BACK, Some(request), SLOW).await
    }

    /// `POST /v1/cluster/force-quorum`.
    pub async fn force_quorum(&self, request: &ForceRequest) -> Result<ForcedQuorum, ClientError> {
        self.ask(Method::POST, path::CLUSTER_FORCE_QUORUM, Some(request), SLOW).await
    }

    /// `POST /v1/cluster/begin`.
    pub async fn begin(&self, request: &BeginRequest) -> Result<Joined, ClientError> {
        self.ask(Method::POST, path::CLUSTER_BEGIN, Some(request), SLOW).await
    }

    /// `POST /v1/cluster/invite`.
    pub async fn invite(&self, request: &InviteRequest) -> Result<Invited, ClientError> {
        self.ask(Method::POST, path::CLUSTER_INVITE, Some(request), SLOW).await
    }

    /// `POST /v1/cluster/join`.
    pub async fn join(&self, request: &JoinRequest) -> Result<Joined, ClientError> {
        self.ask(Method::POST, path::CLUSTER_JOIN, Some(request), SLOW).await
    }

    /// `POST /v1/cluster/voters`.
    pub async fn voters(&self, request: &VotersRequest) -> Result<(), ClientError> {
        self.ask(Method::POST, path::CLUSTER_VOTERS, Some(request), SLOW).await
    }

    /// `POST /v1/cluster/propose`.
    pub async fn propose(&self, request: &ProposeRequest) -> Result<Proposed, ClientError> {
        self.ask(Method::POST, path::CLUSTER_PROPOSE, Some(request), SLOW).await
    }

    /// `POST /v1/volume/close`.
    pub async fn close_volume(&self, volume: VolumeId) -> Result<(), ClientError> {
        self.ask(Method::POST, path::VOLUME_CLOSE, Some(&CloseRequest { volume }), QUICK).await
    }

    /// `POST /v1/volume/hand-over`.
    pub async fn hand_over(&self, request: &HandOverRequest) -> Result<(), ClientError> {
        self.ask(Method::POST, path::VOLUME_HAND_OVER, Some(request), QUICK).await
    }

    /// `POST /v1/volume/image?volume=N&offset=N`: a piece of [`crate::ImageQuery::PIECE_MAX`] bytes at most, in whole sectors.
    pub async fn write_image(
        &self,
        volume: VolumeId,
        offset: u64,
        piece: Vec<u8>,
    ) -> Result<(), ClientError> {
        let path = format!("{}?volume={}&offset={offset}", path::VOLUME_IMAGE, volume.0);
        let request = self.http.request(Method::POST, format!("{}{path}", self.base)).body(piece);
        let exchange = exchange(request.header("content-type", "application/octet-stream"), SLOW);
        exchange.await.map_err(|failure| self.failed(&Method::POST, &path, failure))
    }

    /// `GET /v1/vm/console?vm=N&from=N`.
    pub async fn console(&self, vm: VmId, from: u64) -> Result<Console, ClientError> {
        let path = format!("{}?vm={}&from={from}", path::VM_CONSOLE, vm.0);
        self.ask(Method::GET, &path, None::<&()>, QUICK).await
    }

    /// `GET /v1/pool/drives`.
    pub async fn pool_drives(&self) -> Result<PoolDrives, ClientError> {
        self.ask(Method::GET, path::POOL_DRIVES, None::<&()>, SLOW).await
    }

    /// `POST /v1/pool/claim`.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<(), ClientError> {
        self.ask(Method::POST, path::POOL_CLAIM, Some(request), SLOW).await
    }

    /// `POST /v1/power`. The answer comes before the deed.
    pub async fn power(&self, action: PowerAction) -> Result<(), ClientError> {
        self.ask(Method::POST, path::POWER, Some(&PowerRequest { action }), QUICK).await
    }

    /// Asks who is there until the node answers or `limit` has passed. A refusal by TLS is final: waiting does not
    /// mend a wrong certificate.
    pub async fn wait_ready(&self, limit: Duration) -> Result<Hello, ClientError> {
        let started = Instant::now();
        let deadline = started + limit;
        let mut spacing = interval(ATTEMPT_SPACING);
        spacing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = JoinSet::new();
        let (mut attempts, mut last) = (0, None);
        loop {
            tokio::select! {
                _ = spacing.tick() => {
                    attempts += 1;
                    let client = self.clone();
                    under_way.spawn(async move {
                        exchange(client.http.get(format!("{}{}", client.base, path::HELLO)), ATTEMPT_LIMIT).await
                    });
                }
                Some(ended) = under_way.join_next() => match ended {
                    Ok(Ok(hello)) => return Ok(hello),
                    Ok(Err(failure @ Failure::Tls(_))) => {
                        return Err(self.failed(&Method::GET, path::HELLO, failure));
                    }
                    Ok(Err(failure)) => last = Some(Box::new(failure)),
                    // Attempts neither panic nor are aborted before this function returns.
                    Err(_) => {}
                },
                () = sleep_until(deadline) => break,
            }
        }
        let Endpoint { node, address } = self.endpoint.clone();
        Err(ClientError::NotReady { node, address, waited: started.elapsed(), attempts, last })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let failed = |failure| self.failed(&method, path, failure);
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base));
        if let Some(body) = body {
            let json = serde_json::to_vec(body).map_err(|error| failed(Failure::Encode(error)))?;
            request = request.header("content-type", "application/json").body(json);
        }
        exchange(request, limit).await.map_err(failed)
    }

    fn failed(&self, method: &Method, path: &str, failure: Failure) -> ClientError {
        let Endpoint { node, address } = self.endpoint.clone();
        ClientError::Request {
            node,
            address,
            request: format!("{method} {path}"),
            failure: Box::new(failure),
        }
    }
}

async fn exchange<T: DeserializeOwned>(
    request: reqwest::RequestBuilder,
    limit: Duration,
) -> Result<T, Failure> {
    let classify = |error| classify(error, limit);
    let mut response = request.timeout(limit).send().await.map_err(classify)?;
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(classify)? {
        answer.extend_from_slice(&chunk);
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(Failure::TooLong);
        }
    }
    decode(response.status(), &answer)
}

fn decode<T: DeserializeOwned>(status: StatusCode, answer: &[u8]) -> Result<T, Failure> {
    let not_ours = |source| Failure::NotOurs { status: status.as_u16(), source };
    if status.is_success() {
        return serde_json::from_slice(answer).map_err(not_ours);
    }
    let problem = serde_json::from_slice(answer).map_err(not_ours)?;
    Err(Failure::Problem { status: status.as_u16(), problem })
}

/// Tells failures apart by the deepest known cause: reqwest wraps hyper, which wraps `io::Error`, which wraps rustls.
fn classify(error: reqwest::Error, limit: Duration) -> Failure {
    if error.is_timeout() {
        return Failure::TimedOut { after: limit };
    }
    let mut lost = false;
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Failure::Tls(tls.clone());
        }
        next = cause.source();
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return Failure::Refused(error),
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => lost = true,
                _ => {}
            }
            // `io::Error::source` skips the error it was made from.
            next = io.get_ref().map(|inner| -> &(dyn Error + 'static) { inner }).or(next);
        }
    }
    if lost { Failure::Lost(error) } else { Failure::Transport(error) }
}
