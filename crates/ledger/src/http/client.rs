//! Sending: a few connections to each node, kept while they are used.
//!
//! An exchange is a task of its own and goes on when nobody waits for it any more: openraft waits 0.3 s for an answer, and a
//! handshake with an emulated node may take longer. Given up with the wait, it would begin anew each time and never end.

use super::LETTER_BYTES_MAX;
use crate::transport::{Contact, Letter, Reply, Transport, TransportError};
use api::{IdentityError, Problem, TlsIdentity, path, server_name};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long an exchange goes on at least, whoever still waits for it.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(2);
/// Exchanges with one node at a time. A dead one takes a new one every 0.3 s, for two seconds each.
const EXCHANGES_MAX: usize = 12;
/// Connections kept to a node: one for the log, one for what comes in between.
const IDLE_MAX: usize = 2;

/// Sends as one identity.
pub struct HttpTransport {
    tls: TlsConnector,
    nodes: Mutex<HashMap<Contact, Arc<Connections>>>,
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpTransport")
    }
}

struct Connections {
    contact: Contact,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

/// Ends its task when it is dropped: a dead peer's would wait for ever.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl HttpTransport {
    /// A transport that shows this identity. Connects when there is something to send.
    pub fn new(identity: &TlsIdentity) -> Result<Self, IdentityError> {
        let tls = TlsConnector::from(Arc::new(identity.client_config()?));
        Ok(Self { tls, nodes: Mutex::new(HashMap::new()) })
    }

    /// Asks another node's agent something beside letters, over the same connections: posts `question` to `path`.
    pub async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        to: Contact,
        path: &str,
        question: &Q,
        limit: Duration,
    ) -> Result<A, TransportError> {
        let connections = self.connections(&to);
        let why = || format!("no answer within {} ms", limit.as_millis());
        let asked = timeout(limit, connections.exchange(&self.tls, path, question)).await;
        asked.unwrap_or_else(|_| Err(TransportError::Lost { node: to.name, why: why() }))
    }

    /// A connection of its own to another node's agent, for what is no exchange.
    pub async fn connect(&self, to: &Contact) -> Result<TlsStream<TcpStream>, TransportError> {
        let unreachable = |why: String| TransportError::Unreachable { node: to.name.clone(), why };
        connect(&self.tls, to).await.map_err(|error| unreachable(chain(&*error)))
    }

    fn connections(&self, contact: &Contact) -> Arc<Connections> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let (idle, places) = (Mutex::new(Vec::new()), Semaphore::new(EXCHANGES_MAX));
            Arc::new(Connections { contact: contact.clone(), idle, places })
        };
        Arc::clone(nodes.entry(contact.clone()).or_insert_with(new))
    }
}

impl Transport for HttpTransport {
    fn send(
        &self,
        to: Contact,
        letter: Letter,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Reply, TransportError>> {
        let (connections, tls) = (self.connections(&to), self.tls.clone());
        Box::pin(async move {
            let node = connections.contact.name.clone();
            let lost = |why: String| TransportError::Lost { node, why };
            let exchange = tokio::spawn(async move {
                let limit = limit.max(EXCHANGE_LIMIT);
                let node = connections.contact.name.clone();
                let late =
                    TransportError::Lost { node, why: format!("no answer within {} ms", limit.as_millis()) };
                timeout(limit, connections.exchange(&tls, path::LEDGER, &letter)).await.unwrap_or(Err(late))
            });
            exchange.await.unwrap_or_else(|error| Err(lost(error.to_string())))
        })
    }
}

impl Connections {
    async fn exchange<Q: Serialize, A: DeserializeOwned>(
        &self,
        tls: &TlsConnector,
        path: &str,
        question: &Q,
    ) -> Result<A, TransportError> {
        let node = || self.contact.name.clone();
        let unreachable = |why: String| TransportError::Unreachable { node: node(), why };
        let lost = |why: String| TransportError::Lost { node: node(), why };
        let _place: SemaphorePermit<'_> =
            self.places.try_acquire().map_err(|_| unreachable("too much is under way to it".to_owned()))?;
        let body = serde_json::to_vec(question).map_err(|error| unreachable(error.to_string()))?;
        let mut connection = match self.idle() {
            Some(connection) => connection,
            None => self.connect(tls).await.map_err(|error| unreachable(chain(&*error)))?,
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("host", server_name(&self.contact.name))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreachable(error.to_string()))?;
        let response = connection.sender.send_request(request).await.map_err(|error| lost(chain(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LETTER_BYTES_MAX).collect().await;
        let answer = body.map_err(|error| lost(chain(&*error)))?.to_bytes();
        self.keep(connection);
        if status == StatusCode::OK {
            return serde_json::from_slice(&answer).map_err(|error| lost(error.to_string()));
        }
        let problem = serde_json::from_slice::<Problem>(&answer);
        let why =
            problem.map_or_else(|_| format!("answered with status {status}"), |problem| problem.to_string());
        // What is answered with 5xx may have been begun.
        if status.is_client_error() {
            return Err(TransportError::Refused { node: node(), why });
        }
        Err(lost(why))
    }

    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| connection.sender.is_ready())
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }

    async fn connect(&self, tls: &TlsConnector) -> Result<Connection, Box<dyn Error + Send + Sync>> {
        let stream = connect(tls, &self.contact).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection).abort_handle();
        Ok(Connection { sender, driver })
    }
}

async fn connect(
    tls: &TlsConnector,
    to: &Contact,
) -> Result<TlsStream<TcpStream>, Box<dyn Error + Send + Sync>> {
    let name = ServerName::try_from(server_name(&to.name))?;
    let stream = TcpStream::connect(to.address).await?;
    // Letters are single small writes; waiting for more (Nagle) only adds latency.
    stream.set_nodelay(true)?;
    Ok(tls.connect(name, stream).await?)
}

/// An error with what caused it: hyper's own words say little.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
