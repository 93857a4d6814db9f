//! Which path is answered by what. Handlers only translate between requests and the rest of the daemon.

use super::refusal::Body;
use super::{Refusal, network};
use crate::inventory::TurnError;
use crate::state::{State, Stop};
use crate::{Owner, chain, inventory};
use api::{Health, Hello, Neighbours, PowerRequest, path};
use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use model::Inventory;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::warn;

/// The largest request is a network plan: some kilobytes.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Longer than any request takes; what takes longer hangs in the kernel.
const REQUEST_LIMIT: Duration = Duration::from_mins(1);
/// The same where a virtual machine's whole memory comes: longer than its sender allows.
const MEMORY_LIMIT: Duration = Duration::from_mins(6);

pub(super) type Daemon = Shared<Arc<State>>;

pub(super) fn all(state: Arc<State>) -> Router {
    let router = Router::new()
        .route(path::HELLO, get(hello))
        .route(path::INVENTORY, get(inventory))
        .route(path::HEALTH, get(health))
        .route(path::NEIGHBOURS, get(neighbours))
        .route(path::NETWORK, get(network::state).put(network::apply))
        .route(path::NETWORK_COMMIT, post(network::commit))
        .route(path::NETWORK_GIVE_BACK, get(network::way_home).post(network::give_back))
        .route(path::NETLINK_CHANGES, get(network::changes))
        .route(path::PATHS, put(network::greet))
        .route(path::PING, post(network::ping))
        .route(path::THROUGHPUT_RECEIVE, post(network::throughput_receive))
        .route(path::THROUGHPUT_SEND, post(network::throughput_send))
        .route(path::POWER, post(power));
    #[cfg(feature = "volumes")]
    let router = super::volumes::routes(router);
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(bounded))
        .with_state(state)
}

async fn bounded(request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let limit = if request.uri().path() == path::VM_INCOMING { MEMORY_LIMIT } else { REQUEST_LIMIT };
    if let Ok(response) = timeout(limit, next.run(request)).await {
        return response;
    }
    let message = format!("{what} took longer than {} s", limit.as_secs());
    warn!("{message}");
    let help = "look at the node's kernel log: something hangs there";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too-slow", message, help).into_response()
}

async fn unknown_path(request: Request) -> Refusal {
    let message = format!("there is no {}", request.uri().path());
    let help = "docs/api.md lists the paths; a newer client may know more than this agent";
    Refusal::new(StatusCode::NOT_FOUND, "unknown-path", message, help)
}

async fn wrong_method(request: Request) -> Refusal {
    let message = format!("{} does not take {}", request.uri().path(), request.method());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", message, "docs/api.md lists the methods")
}

async fn hello(Shared(state): Daemon) -> Json<Hello> {
    Json(state.hello())
}

async fn inventory(Shared(state): Daemon) -> Result<Json<Inventory>, Refusal> {
    let reader = Arc::clone(&state);
    let mut inventory = state.inventory.read(move || inventory::read(&reader.config)).await?;
    match state.network.links().await {
        Ok(links) => inventory.nics.iter_mut().for_each(|nic| nic.dcb = inventory::dcb(nic, &links)),
        Err(error) => warn!("nobody can say what NICs have of data centre bridging: {}", chain(&error)),
    }
    Ok(Json(inventory))
}

impl From<TurnError> for Refusal {
    fn from(error: TurnError) -> Self {
        let help =
            "look at the node's kernel log: a drive that doesn't answer holds the read up; then ask again";
        match error {
            TurnError::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", error.to_string(), help),
            TurnError::Bug(error) => Self::bug(&error),
        }
    }
}

async fn health(Shared(state): Daemon) -> Json<Health> {
    let health = state.health();
    #[cfg(feature = "volumes")]
    let health = Health { out_of_room: state.volumes.out_of_room().await, ..health };
    Json(health)
}

async fn neighbours(Shared(state): Daemon) -> Json<Neighbours> {
    Json(Neighbours { node: state.config.node.clone(), nics: state.nics() })
}

async fn power(Shared(state): Daemon, Body(request): Body<PowerRequest>) -> Result<Json<()>, Refusal> {
    if state.owner != Owner::Init {
        let message = "the agent is not this machine's init and does not switch it off";
        let help = "use the host's own means: its init, its BMC or its power switch";
        return Err(Refusal::new(StatusCode::CONFLICT, "power-not-ours", message, help));
    }
    // This answer still goes out: the server drains before the daemon acts on the reason.
    state.stop(Stop::Power(request.action));
    Ok(Json(()))
}
