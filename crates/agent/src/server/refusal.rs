//! How the agent says no: a status and an [`api::Problem`]; and request bodies that are refused in the same way.

use api::Problem;
use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    problem: Problem,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>, help: &str) -> Self {
        let problem = Problem { code: code.to_owned(), message: message.into(), help: help.to_owned() };
        Self { status, problem }
    }

    /// A task of the daemon panicked.
    pub(super) fn bug(error: &tokio::task::JoinError) -> Self {
        let help = "this is a bug: send the agent's log with the report";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string(), help)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.problem)).into_response()
    }
}

/// The JSON body of a request.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<T, S: Send + Sync> FromRequest<S> for Body<T>
where
    Json<T>: FromRequest<S, Rejection = axum::extract::rejection::JsonRejection>,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let help = "send the JSON that docs/api.md shows for this request";
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(bad) => Err(Refusal::new(bad.status(), "bad-body", bad.body_text(), help)),
        }
    }
}

/// What stands after the question mark.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T, S: Send + Sync> FromRequestParts<S> for Parameters<T>
where
    Query<T>: FromRequestParts<S, Rejection = axum::extract::rejection::QueryRejection>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let help = "docs/api.md shows the parameters of this request";
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(bad) => Err(Refusal::new(bad.status(), "bad-parameters", bad.body_text(), help)),
        }
    }
}
