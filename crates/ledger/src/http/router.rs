//! Taking letters: one route for the agent's server, which has put the peer's certificate into the request's extensions.

use super::LETTER_BYTES_MAX;
use crate::ledger::Ledger;
use crate::transport::{Letter, Refusal, Reply};
use api::{PeerCertificate, Problem, path};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};

/// The route on which a ledger takes letters. The server must put an [`api::PeerCertificate`] into each request's extensions;
/// without one nothing is taken.
pub fn router(ledger: Ledger) -> Router {
    let limit = DefaultBodyLimit::max(LETTER_BYTES_MAX);
    Router::new().route(path::LEDGER, post(take)).layer(limit).with_state(ledger)
}

async fn take(
    State(ledger): State<Ledger>,
    peer: Option<Extension<PeerCertificate>>,
    letter: Result<Bytes, BytesRejection>,
) -> Result<Json<Reply>, Response> {
    let help = "letters are for ledgers of the same version; docs/ledger.md";
    let letter = letter.map_err(|bad| problem(bad.status(), "bad-letter", bad.body_text(), help))?;
    // Not axum's `Json`, which notes at each field of each letter where it is, for the case that it is bad.
    let letter: Letter = serde_json::from_slice(&letter)
        .map_err(|bad| problem(StatusCode::BAD_REQUEST, "bad-letter", bad.to_string(), help))?;
    let certified = |name: &_| peer.as_ref().is_some_and(|Extension(shown)| shown.is_for(name));
    let taken = ledger.receive(letter, certified).await;
    taken.map(Json).map_err(|refusal| {
        let status = match refusal {
            Refusal::NotCertified(_) | Refusal::Stranger(_) => StatusCode::FORBIDDEN,
            Refusal::OtherCluster
            | Refusal::OtherIncarnation { .. }
            | Refusal::OtherForcing
            | Refusal::NotMe(_) => StatusCode::CONFLICT,
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Stopped(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        problem(
            status,
            refusal.code(),
            refusal.to_string(),
            "docs/ledger.md says what is refused, and what to do",
        )
    })
}

fn problem(status: StatusCode, code: &str, message: String, help: &str) -> Response {
    (status, Json(Problem { code: code.to_owned(), message, help: help.to_owned() })).into_response()
}
