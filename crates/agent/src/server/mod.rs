//! The API's listener: mutual TLS, then HTTP/1.1, then the routes.
//!
//! Invariants: nothing is answered before the client has shown a certificate of the cluster's CA, and until then it takes no
//! place of those who have. Everything is bounded: connections, handshakes, the time for a handshake, for a request's
//! head, for a request and for taking an answer in, the size of a body. Handshakes run beside each other, and when there are
//! too many the oldest makes way, so that clients who are slow, or silent, keep nobody waiting.
//!
//! On failure: a bad connection is dropped and the rest goes on; a bad request gets a [`api::Problem`].

mod network;
mod refusal;
mod routes;
#[cfg(test)]
mod tests;
mod volumes;

pub(crate) use refusal::Refusal;

use crate::state::{State, Stop};
use api::PeerCertificate;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use rustls::ServerConfig;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

/// Connections at a time; more wait for a place. Nine nodes and their clients need a few dozen.
const MAX_CONNECTIONS: usize = 64;
/// Handshakes at a time, those who wait for a place included.
const MAX_HANDSHAKES: usize = 64;
/// For a handshake and a place. Also what a lab node needs for one when its host is overloaded.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// From the end of one request to the end of the next one's head: also ends connections whose client died.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// A peer that takes nothing of an answer in for this long is gone (`TCP_USER_TIMEOUT`, tcp(7)).
const UNTAKEN_LIMIT: Duration = Duration::from_secs(30);
/// What is being answered may end when the daemon stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// After accept(2) failed for want of descriptors or memory, some must first come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A client that has shown its certificate and has a place.
struct Client {
    stream: TlsStream<TcpStream>,
    place: OwnedSemaphorePermit,
}

/// Serves until the daemon is told to stop; says why it was.
pub(crate) async fn run(listener: TcpListener, tls: Arc<ServerConfig>, state: Arc<State>) -> Stop {
    let routes = routes::all(Arc::clone(&state));
    let mut handshakes = Handshakes::new(TlsAcceptor::from(tls));
    let mut connections = JoinSet::new();
    let mut stopped = pin!(state.stopped());
    let why = loop {
        tokio::select! {
            why = &mut stopped => break why,
            Some(_) = connections.join_next() => {}
            Some(client) = handshakes.next() => {
                connections.spawn(serve(client, routes.clone(), Arc::clone(&state)));
            }
            // Not `Some(stream) = …`: after an error this must be asked again.
            accepted = accept(&listener) => {
                if let Some(stream) = accepted {
                    handshakes.start(stream);
                }
            }
        }
    };
    drop((listener, handshakes));
    let drained = timeout(DRAIN_LIMIT, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        warn!("stopping with {} connections unfinished", connections.len());
    }
    why
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are single small writes; waiting for more (Nagle) only adds latency.
            let _ = stream.set_nodelay(true);
            let limit_ms = u32::try_from(UNTAKEN_LIMIT.as_millis()).unwrap_or(u32::MAX);
            if let Err(error) = set_tcp_user_timeout(&stream, limit_ms) {
                debug!("TCP_USER_TIMEOUT: {error}");
            }
            Some(stream)
        }
        Err(error) => {
            warn!("accept: {error}");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Who has not shown a certificate yet, or has no place yet.
struct Handshakes {
    acceptor: TlsAcceptor,
    places: Arc<Semaphore>,
    tasks: JoinSet<Option<Client>>,
    /// Those under way, the oldest first.
    under_way: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn new(acceptor: TlsAcceptor) -> Self {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self { acceptor, places, tasks: JoinSet::new(), under_way: VecDeque::new() }
    }

    fn start(&mut self, stream: TcpStream) {
        self.under_way.retain(|task| !task.is_finished());
        if self.under_way.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.under_way.pop_front()
        {
            debug!("handshake: makes way");
            oldest.abort();
        }
        let (acceptor, places) = (self.acceptor.clone(), Arc::clone(&self.places));
        let handshake = async move {
            let shaken = timeout(HANDSHAKE_LIMIT, shake(stream, acceptor, places)).await;
            shaken.unwrap_or_else(|_| {
                debug!("handshake: timed out");
                None
            })
        };
        self.under_way.push_back(self.tasks.spawn(handshake));
    }

    /// The next client that may be served; `None` if nobody is under way.
    async fn next(&mut self) -> Option<Client> {
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok(Some(client)) = ended {
                return Some(client);
            }
        }
        None
    }
}

async fn shake(stream: TcpStream, acceptor: TlsAcceptor, places: Arc<Semaphore>) -> Option<Client> {
    match acceptor.accept(stream).await {
        // Nobody closes the semaphore.
        Ok(stream) => Some(Client { stream, place: places.acquire_owned().await.ok()? }),
        Err(error) => {
            debug!("handshake: {error}");
            None
        }
    }
}

async fn serve(client: Client, routes: Router, state: Arc<State>) {
    let Client { stream, place: _until_the_end } = client;
    let shown = PeerCertificate::of(stream.get_ref().1.peer_certificates());
    let routes = match shown {
        Some(shown) => routes.layer(Extension(shown)),
        None => routes,
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
