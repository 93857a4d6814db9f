//! The API's listener: mutual TLS, then HTTP/1.1, then the routes.
//!
//! Invariants: nothing is answered before the client has shown a certificate of the cluster's CA. Everything is
//! bounded: connections, the time for a handshake, for a request's head and for a request, the size of a body.
//! Handshakes run beside each other, so that one slow client keeps nobody waiting.
//!
//! On failure: a bad connection is dropped and the rest goes on; a bad request gets a [`api::Problem`].

mod network;
mod refusal;
mod routes;
#[cfg(test)]
mod tests;

pub(crate) use refusal::Refusal;

use crate::state::{State, Stop};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// Connections at a time; more wait in the kernel's queue. Nine nodes and their clients need a few dozen.
const MAX_CONNECTIONS: usize = 64;
/// Also what a lab node needs for one when its host is overloaded.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// From the end of one request to the end of the next one's head: also ends connections whose client died.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// What is being answered may end when the daemon stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// After accept(2) failed for want of descriptors or memory, some must first come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until the daemon is told to stop; says why it was.
pub(crate) async fn run(listener: TcpListener, tls: Arc<ServerConfig>, state: Arc<State>) -> Stop {
    let acceptor = TlsAcceptor::from(tls);
    let routes = routes::all(Arc::clone(&state));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stopped = pin!(state.stopped());
    let why = loop {
        let accepted = tokio::select! {
            why = &mut stopped => break why,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let connection = serve(stream, acceptor.clone(), routes.clone(), Arc::clone(&state));
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    };
    drop(listener);
    let drained = timeout(DRAIN_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        warn!("stopping with {} connections unfinished", connections.len());
    }
    why
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // Nobody closes the semaphore.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            warn!("accept: {error}");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, routes: Router, state: Arc<State>) {
    // Answers are single small writes; waiting for more (Nagle) only adds latency.
    let _ = stream.set_nodelay(true);
    let stream = tokio::select! {
        shaken = timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)) => match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!("handshake: {error}"),
            Err(_) => return debug!("handshake: timed out"),
        },
        _ = state.stopped() => return,
    };
    let service = TowerToHyperService::new(routes);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = state.stopped() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!("connection: {error}");
    }
}
