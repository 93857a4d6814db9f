//! Requests about links, paths and probes.

use super::Refusal;
use super::refusal::{Body, Parameters};
use super::routes::Daemon;
use crate::chain;
use crate::network::{ChangeError, NotWatching, Refused};
use crate::probes::ProbeError;
use api::{
    Applied, ApplyRequest, ChangesSince, CommitRequest, GivenBack, LinkChanges, NetworkState, PathsRequest,
    PingAnswer, PingRequest, ReceiveAnswer, ReceiveRequest, SendAnswer, SendRequest, WayHome,
};
use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use network::kernel::{ApplyError, ThroughputError};

pub(super) async fn state(Shared(state): Daemon) -> Result<Json<NetworkState>, Refusal> {
    Ok(Json(state.network.state().await?))
}

pub(super) async fn apply(
    Shared(state): Daemon,
    Body(request): Body<ApplyRequest>,
) -> Result<Json<Applied>, Refusal> {
    // A task of its own: a client that goes away must not stop it half-way.
    let network = state.network.clone();
    let applied = tokio::spawn(async move { network.apply(request).await });
    Ok(Json(applied.await.map_err(|error| Refusal::bug(&error))??))
}

pub(super) async fn commit(
    Shared(state): Daemon,
    Body(request): Body<CommitRequest>,
) -> Result<Json<()>, Refusal> {
    Ok(Json(state.network.commit(request.generation).await?))
}

pub(super) async fn way_home(Shared(state): Daemon) -> Result<Json<WayHome>, Refusal> {
    Ok(Json(state.network.way_home().await?))
}

/// Whoever is part of a cluster needs its links for that.
pub(super) async fn give_back(Shared(state): Daemon) -> Result<Json<GivenBack>, Refusal> {
    #[cfg(feature = "volumes")]
    if !matches!(state.volumes.ledger().await, api::NodeLedger::None {}) {
        let (message, help) =
            ("this node is part of a cluster, which runs on its links", super::volumes::WHO_GIVES_BACK);
        return Err(Refusal::new(StatusCode::CONFLICT, "has-ledger", message.to_owned(), help));
    }
    // A task of its own: a client that goes away, as its way here does, must not stop it half-way.
    let given = tokio::spawn(async move {
        let given = state.network.give_back().await?;
        state.probes.forget().await.map_err(ChangeError::from)?;
        Ok::<_, ChangeError>(given)
    });
    Ok(Json(given.await.map_err(|error| Refusal::bug(&error))??))
}

pub(super) async fn changes(
    Shared(state): Daemon,
    Parameters(ChangesSince { since }): Parameters<ChangesSince>,
) -> Result<Json<LinkChanges>, Refusal> {
    let help = "restart the agent: it opens another socket";
    let lost = |error: NotWatching| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "not-watching", error.to_string(), help)
    };
    state.changes.since(since).await.map(Json).map_err(lost)
}

pub(super) async fn greet(
    Shared(state): Daemon,
    Body(request): Body<PathsRequest>,
) -> Result<Json<()>, Refusal> {
    // A task of its own: a client that goes away between the old hellos' end and the new ones' start must not silence the node.
    let greeting = tokio::spawn(async move { state.probes.greet(&request).await });
    Ok(Json(greeting.await.map_err(|error| Refusal::bug(&error))??))
}

pub(super) async fn ping(
    Shared(state): Daemon,
    Body(request): Body<PingRequest>,
) -> Result<Json<PingAnswer>, Refusal> {
    Ok(Json(state.probes.ping(&request).await?))
}

pub(super) async fn throughput_receive(
    Shared(state): Daemon,
    Body(request): Body<ReceiveRequest>,
) -> Result<Json<ReceiveAnswer>, Refusal> {
    Ok(Json(state.throughput.receive(&request)?))
}

pub(super) async fn throughput_send(
    Shared(state): Daemon,
    Body(request): Body<SendRequest>,
) -> Result<Json<SendAnswer>, Refusal> {
    Ok(Json(state.throughput.send(&request).await?))
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let (status, code, help) = match &error {
            ChangeError::Refused(refused) => {
                let (code, help) = refusal(refused);
                let stopping = *refused == Refused::Stopping;
                (if stopping { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CONFLICT }, code, help)
            }
            ChangeError::Apply(ApplyError::Diff(_)) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "plan-does-not-fit",
                "compare the plan's adapters with the node's configuration and inventory",
            ),
            ChangeError::NotGivenBack(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "not-given-back",
                "look at the node's kernel log; it is tried again by itself where there is a way",
            ),
            ChangeError::Observe(_) | ChangeError::Apply(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "kernel-refused", "look at the node's kernel log")
            }
            ChangeError::Store(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "store-failed",
                "look at the folder that the message names: is it there, is it full?",
            ),
        };
        Self::new(status, code, chain(&error), help)
    }
}

fn refusal(refused: &Refused) -> (&'static str, &'static str) {
    match refused {
        Refused::OtherNode { .. } => ("other-node", "send each node its own plan"),
        Refused::Stale { .. } => ("stale-generation", "make a new plan from the cluster's newest state"),
        Refused::Reused { .. } => ("generation-reused", "give every plan a generation of its own"),
        Refused::Pending { .. } => {
            ("plan-pending", "commit that plan, or wait until it is taken back: GET /v1/network says when")
        }
        Refused::TooLate { .. } => ("taken-back", "apply the plan again and commit it in time"),
        Refused::Unknown { .. } => ("unknown-generation", "apply the plan first"),
        Refused::Stopping => ("stopping", "ask again when the agent is back"),
    }
}

impl From<ProbeError> for Refusal {
    fn from(error: ProbeError) -> Self {
        let (status, code, help) = match &error {
            ProbeError::OutOfRange { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "out-of-range", "docs/api.md has the bounds")
            }
            ProbeError::Busy | ProbeError::Throughput(ThroughputError::Busy) => {
                (StatusCode::TOO_MANY_REQUESTS, "busy", "wait for the other runs to end")
            }
            ProbeError::Ping(_) | ProbeError::Hello(_) | ProbeError::Throughput(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "kernel-refused",
                "check that the node has the address and the link",
            ),
            ProbeError::Store(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "store-failed",
                "look at the folder that the message names: is it there, is it full?",
            ),
        };
        Self::new(status, code, chain(&error), help)
    }
}
