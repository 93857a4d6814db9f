//! Requests about the ledger, the pool and volumes.

use super::Refusal;
use super::refusal::{Body, Parameters};
use super::routes::Daemon;
use crate::chain;
use crate::inventory;
use crate::state::State;
use crate::volumes::{self, VolumesError};
use api::{
    BeginRequest, ClaimRequest, CloseRequest, ClusterView, Console, ConsoleQuery, DigestsRequest,
    DrivesGivenBack, ForceRequest, ForcedQuorum, GiveUpRequest, GivenLegRequest, HandOverRequest, ImageQuery,
    IncomingQuery, InviteRequest, Invited, JoinRequest, Joined, LeaseAnswer, LeaseRequest, NodeLedger,
    PeerCertificate, PoolDrives, ProposeRequest, Proposed, VotersRequest, path,
};
use axum::body::Bytes;
use axum::extract::{Request, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use tower_service::Service;

/// What has a node give back what it has of a cluster.
pub(super) const WHO_GIVES_BACK: &str =
    "`twinrack destroy` gives a whole cluster back, `twinrack node remove` a node of each rack";

/// The routes.
pub(super) fn routes(router: Router<Arc<State>>) -> Router<Arc<State>> {
    router
        .route(path::LEDGER, post(letter))
        .route(path::CLUSTER, get(view))
        .route(path::CLUSTER_CONFIRMED, get(confirmed))
        .route(path::CLUSTER_LEDGER, get(ledger))
        .route(path::CLUSTER_GIVE_UP, post(give_up))
        .route(path::CLUSTER_GIVE_BACK, post(give_back))
        .route(path::CLUSTER_FORCE_QUORUM, post(force_quorum))
        .route(path::CLUSTER_BEGIN, post(begin))
        .route(path::CLUSTER_INVITE, post(invite))
        .route(path::CLUSTER_JOIN, post(join))
        .route(path::CLUSTER_VOTERS, post(voters))
        .route(path::CLUSTER_PROPOSE, post(propose))
        .route(path::CLUSTER_LEASE, post(lease))
        .route(path::VOLUME_CLOSE, post(close))
        .route(path::VOLUME_HAND_OVER, post(hand_over))
        .route(path::VOLUME_IMAGE, post(image))
        .route(path::VM_CONSOLE, get(console))
        .route(path::VM_INCOMING, post(incoming))
        .route(path::POOL_DRIVES, get(drives))
        .route(path::POOL_CLAIM, post(claim))
        .route(path::POOL_FLUSH, post(flush))
        .route(path::POOL_DIGESTS, post(digests))
        .route(path::POOL_BOUNCE, post(bounce))
        .route(path::POOL_TAKEN_BACK, post(taken_back))
        .route(path::POOL_GIVEN_BACK, post(given_back))
}

/// Lets handlers know whose certificate was shown.
pub(super) fn shown_to(routes: Router, chain: Option<&[CertificateDer<'_>]>) -> Router {
    match PeerCertificate::of(chain) {
        Some(shown) => routes.layer(Extension(shown)),
        None => routes,
    }
}

/// What ledgers say to each other; the ledger's own route answers.
async fn letter(Shared(state): Daemon, request: Request) -> Response {
    match state.volumes.letters() {
        // A router is always ready, and can't fail.
        Some(mut letters) => letters.call(request).await.unwrap_or_else(|never| match never {}),
        None => Refusal::from(VolumesError::NoLedger).into_response(),
    }
}

async fn view(Shared(state): Daemon) -> Result<Json<ClusterView>, Refusal> {
    Ok(Json(state.volumes.view(false).await?))
}

async fn confirmed(Shared(state): Daemon) -> Result<Json<ClusterView>, Refusal> {
    Ok(Json(state.volumes.view(true).await?))
}

async fn ledger(Shared(state): Daemon) -> Json<NodeLedger> {
    Json(state.volumes.ledger().await)
}

async fn give_up(Shared(state): Daemon, Body(request): Body<GiveUpRequest>) -> Result<Json<()>, Refusal> {
    let given = tokio::spawn(async move { state.volumes.give_up(request).await });
    given.await.map_err(|error| Refusal::bug(&error))??;
    Ok(Json(()))
}

async fn give_back(
    Shared(state): Daemon,
    Body(request): Body<GiveUpRequest>,
) -> Result<Json<DrivesGivenBack>, Refusal> {
    let given = tokio::spawn(async move { state.volumes.give_back(request).await });
    Ok(Json(given.await.map_err(|error| Refusal::bug(&error))??))
}

async fn force_quorum(
    Shared(state): Daemon,
    Body(request): Body<ForceRequest>,
) -> Result<Json<ForcedQuorum>, Refusal> {
    let forced = tokio::spawn(async move { state.volumes.force_quorum(request).await });
    Ok(Json(forced.await.map_err(|error| Refusal::bug(&error))??))
}

async fn begin(Shared(state): Daemon, Body(request): Body<BeginRequest>) -> Result<Json<Joined>, Refusal> {
    // A task of its own: a client that goes away must not stop it half-way.
    let begun = tokio::spawn(async move { state.volumes.begin(request).await });
    Ok(Json(begun.await.map_err(|error| Refusal::bug(&error))??))
}

async fn join(Shared(state): Daemon, Body(request): Body<JoinRequest>) -> Result<Json<Joined>, Refusal> {
    let joined = tokio::spawn(async move { state.volumes.join(request).await });
    Ok(Json(joined.await.map_err(|error| Refusal::bug(&error))??))
}

async fn invite(Shared(state): Daemon, Body(request): Body<InviteRequest>) -> Result<Json<Invited>, Refusal> {
    Ok(Json(state.volumes.invite(request).await?))
}

async fn voters(Shared(state): Daemon, Body(request): Body<VotersRequest>) -> Result<Json<()>, Refusal> {
    let changed = tokio::spawn(async move { state.volumes.voters(request).await });
    changed.await.map_err(|error| Refusal::bug(&error))??;
    Ok(Json(()))
}

async fn propose(
    Shared(state): Daemon,
    Body(request): Body<ProposeRequest>,
) -> Result<Json<Proposed>, Refusal> {
    Ok(Json(state.volumes.propose(request.command).await?))
}

/// A lease is asked for by the node that wants it, and by nobody else.
async fn lease(
    Shared(state): Daemon,
    peer: Option<Extension<PeerCertificate>>,
    Body(request): Body<LeaseRequest>,
) -> Result<Json<LeaseAnswer>, Refusal> {
    let name = state.volumes.name_of(request.node);
    if !name.is_some_and(|name| peer.is_some_and(|Extension(shown)| shown.is_for(&name))) {
        let message = format!("the certificate is not for {}", request.node);
        return Err(Refusal::new(StatusCode::FORBIDDEN, "not-certified", message, "ask for your own lease"));
    }
    Ok(Json(LeaseAnswer { granted: state.volumes.lease(request).await? }))
}

async fn close(Shared(state): Daemon, Body(request): Body<CloseRequest>) -> Result<Json<()>, Refusal> {
    state.volumes.close(request)?;
    Ok(Json(()))
}

async fn hand_over(Shared(state): Daemon, Body(request): Body<HandOverRequest>) -> Result<Json<()>, Refusal> {
    state.volumes.hand_over(request).await?;
    Ok(Json(()))
}

async fn image(
    Shared(state): Daemon,
    Parameters(to): Parameters<ImageQuery>,
    piece: Bytes,
) -> Result<Json<()>, Refusal> {
    state.volumes.write_image(to, piece.to_vec()).await?;
    Ok(Json(()))
}

async fn console(
    Shared(state): Daemon,
    Parameters(of): Parameters<ConsoleQuery>,
) -> Result<Json<Console>, Refusal> {
    Ok(Json(state.volumes.console(of).await?))
}

async fn incoming(
    Shared(state): Daemon,
    peer: Option<Extension<PeerCertificate>>,
    Parameters(of): Parameters<IncomingQuery>,
    memory: axum::body::Body,
) -> Result<Json<()>, Refusal> {
    let shown = peer.map(|Extension(shown)| shown);
    state.volumes.take_in(of, shown.as_ref(), memory).await?;
    Ok(Json(()))
}

async fn drives(Shared(state): Daemon) -> Result<Json<PoolDrives>, Refusal> {
    let read = || volumes::contents(inventory::drives().into_iter().map(|drive| drive.serial));
    Ok(Json(state.inventory.read(read).await?))
}

async fn claim(Shared(state): Daemon, Body(request): Body<ClaimRequest>) -> Result<Json<()>, Refusal> {
    state.volumes.claim(request).await?;
    Ok(Json(()))
}

async fn flush(Shared(state): Daemon, Body(request): Body<GivenLegRequest>) -> Result<Json<()>, Refusal> {
    state.volumes.flush(request).await?;
    Ok(Json(()))
}

async fn digests(
    Shared(state): Daemon,
    Body(request): Body<DigestsRequest>,
) -> Result<Json<Vec<(u64, u64)>>, Refusal> {
    Ok(Json(state.volumes.digests(request).await?))
}

async fn bounce(Shared(state): Daemon, Body(request): Body<GivenLegRequest>) -> Result<Json<()>, Refusal> {
    state.volumes.bounce(request).await?;
    Ok(Json(()))
}

async fn taken_back(
    Shared(state): Daemon,
    Body(request): Body<GivenLegRequest>,
) -> Result<Json<()>, Refusal> {
    state.volumes.taken_back(request)?;
    Ok(Json(()))
}

async fn given_back(
    Shared(state): Daemon,
    Body(request): Body<GivenLegRequest>,
) -> Result<Json<()>, Refusal> {
    state.volumes.given_back(request)?;
    Ok(Json(()))
}

impl From<VolumesError> for Refusal {
    fn from(error: VolumesError) -> Self {
        let (status, code, help) = match &error {
            VolumesError::NoLedger => {
                (StatusCode::CONFLICT, "no-ledger", "begin a cluster here, or join one; docs/ledger.md")
            }
            VolumesError::Closed(_) | VolumesError::FloorsLost => (
                StatusCode::CONFLICT,
                "ledger-closed",
                "`twinrack ledger rejoin` has the node join again: it gets a new id and its legs are fenced first; docs/ledger.md, \"Coming \
                 back\"",
            ),
            VolumesError::HasLedger(_) => (
                StatusCode::CONFLICT,
                "has-ledger",
                "nothing is to be done, or set it aside first; docs/ledger.md",
            ),
            VolumesError::OtherLedger { .. } => {
                (StatusCode::CONFLICT, "other-ledger", "look at `twinrack ledger show`, and ask again")
            }
            VolumesError::NotLeft => (StatusCode::CONFLICT, "not-left", WHO_GIVES_BACK),
            VolumesError::QuorumAnswers => (
                StatusCode::CONFLICT,
                "quorum-answers",
                "nothing is to be forced; a node whose ledger is lost joins again: `twinrack ledger rejoin`",
            ),
            VolumesError::OtherEnd { .. }
            | VolumesError::Force(ledger::ForceError::OtherEnd { .. } | ledger::ForceError::Again) => {
                (StatusCode::CONFLICT, "other-end", "look at `twinrack ledger survey`, and ask again")
            }
            VolumesError::NotAToken => (StatusCode::BAD_REQUEST, "not-a-token", "ask for another invitation"),
            VolumesError::NoDrive(_) => (
                StatusCode::NOT_FOUND,
                "no-drive",
                "add the drive to the ledger first; GET /v1/inventory lists them",
            ),
            VolumesError::Claim(_) => {
                (StatusCode::CONFLICT, "not-claimed", "wipe it, if what it holds may be lost")
            }
            VolumesError::CantHandOver(why) => (StatusCode::CONFLICT, "cant-hand-over", why.help()),
            VolumesError::NotOwner { .. } => {
                (StatusCode::CONFLICT, "not-owner", "look at GET /v1/cluster, and ask its owner")
            }
            VolumesError::NoLease(_) => {
                (StatusCode::CONFLICT, "no-lease", "see that a leader is reached: `twinrack ledger show`")
            }
            VolumesError::Silent(_) => {
                (StatusCode::CONFLICT, "silent", "see that the node runs, or name another one")
            }
            VolumesError::InVm { .. } => {
                (StatusCode::CONFLICT, "in-vm", "stop the virtual machine first: `twinrack vm stop`")
            }
            VolumesError::NotHere(_) => {
                (StatusCode::CONFLICT, "not-here", "look at GET /v1/cluster, and ask the volume's owner")
            }
            VolumesError::NoVm(_) => (StatusCode::NOT_FOUND, "no-vm", "`twinrack vm list` shows them"),
            VolumesError::BadPiece { .. } => {
                (StatusCode::BAD_REQUEST, "bad-piece", "send whole sectors of 512 bytes within the volume")
            }
            VolumesError::Mounted { .. } => {
                (StatusCode::CONFLICT, "mounted", "unmount it, or take away what stands on it")
            }
            VolumesError::InUse { .. } => {
                (StatusCode::CONFLICT, "in-use", "end them, or have them asked to end: `--end-users`")
            }
            VolumesError::Propose(ledger::ProposeError::Refused(_)) => (
                StatusCode::CONFLICT,
                "refused",
                "look at GET /v1/cluster, and ask for what can follow; docs/volumes.md",
            ),
            VolumesError::Join(ledger::JoinError::Refused(_)) => {
                (StatusCode::FORBIDDEN, "not-invited", "ask for another invitation")
            }
            _ => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not-now",
                "look at the nodes' logs, and try again; docs/ledger.md",
            ),
        };
        Self::new(status, code, chain(&error), help)
    }
}
