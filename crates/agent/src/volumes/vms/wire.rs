//! What carries a virtual machine's memory from the QEMU here to the one that waits for it on another node: a socket of this node's QEMU, a request between the two agents,
//! and a socket of the other's.
//!
//! Invariants: nobody but the node that the ledger names as the one that it leaves sends it ([`Volumes::take_in`]). [`Wire::outcome`] is good only when the other side has all of it and
//! stands still, complete: QEMU by itself takes for sent what is on the way.
//!
//! On failure: both sockets close. The sender is told by QEMU or by the outcome, and the receiver ends.

use super::places;
use crate::volumes::{Volumes, VolumesError};
use api::{IncomingQuery, PeerCertificate, Problem, path, server_name};
use axum::body::{Body, Bytes};
use control::vm::VmPhase;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use ledger::Contact;
use ledger::http::HttpTransport;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How much is taken at once, bytes.
const PIECE_BYTES: usize = 64 << 10;
/// A longer answer is not one of ours, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How long the other node may take to answer at all.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What QEMU says, as a request's body.
type Pieces = StreamBody<BoxStream<'static, std::io::Result<Frame<Bytes>>>>;

/// The way to another node, as long as it is kept.
#[derive(Debug)]
pub(super) struct Wire(JoinHandle<Result<(), VolumesError>>);

impl Wire {
    /// Connects to the other node, and listens at a socket for the QEMU that sends: what takes a while comes before anything stands still.
    pub(super) async fn begin(
        socket: &Path,
        transport: &HttpTransport,
        to: Contact,
        of: IncomingQuery,
    ) -> Result<Self, VolumesError> {
        let late = || VolumesError::Wire { why: format!("{} takes longer than {CONNECT_MAX:?}", to.name) };
        let tls = timeout(CONNECT_MAX, transport.connect(&to)).await.map_err(|_| late())??;
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.map_err(|error| cut(&error))?;
        // Of a migration before this one.
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(|error| cut(&error))?;
        Ok(Self(tokio::spawn(async move {
            let asked = async move {
                let (qemu, _) = listener.accept().await.map_err(|error| cut(&error))?;
                carry(qemu, sender, &to, of).await
            };
            tokio::select! {
                answer = asked => answer,
                // An answer that came with its end is taken above.
                Err(error) = connection => Err(cut(&error)),
            }
        })))
    }

    /// What has come of it; `None`: nothing yet.
    pub(super) async fn outcome(&mut self) -> Option<Result<(), VolumesError>> {
        if !self.0.is_finished() {
            return None;
        }
        Some((&mut self.0).await.unwrap_or_else(|error| Err(error.into())))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn cut(why: &dyn std::error::Error) -> VolumesError {
    VolumesError::Wire { why: crate::chain(why) }
}

/// Everything that QEMU says, until it closes; then the other side's answer.
async fn carry(
    qemu: UnixStream,
    mut sender: SendRequest<Pieces>,
    to: &Contact,
    of: IncomingQuery,
) -> Result<(), VolumesError> {
    let pieces = stream::try_unfold(qemu, |mut qemu| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let len = qemu.read(&mut piece).await?;
        piece.truncate(len);
        Ok::<_, std::io::Error>((len > 0).then(|| (Frame::data(Bytes::from(piece)), qemu)))
    });
    let IncomingQuery { vm, generation } = of;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}?vm={vm}&generation={generation}", path::VM_INCOMING))
        .header("host", server_name(&to.name))
        .body(StreamBody::new(pieces.boxed()))
        .map_err(|error| cut(&error))?;
    let response = sender.send_request(request).await.map_err(|error| cut(&error))?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let answer = answer.map_err(|error| cut(&*error))?.to_bytes();
    if status == StatusCode::OK {
        return Ok(());
    }
    let problem = serde_json::from_slice::<Problem>(&answer).map(|problem| problem.to_string());
    Err(VolumesError::Wire { why: problem.unwrap_or_else(|_| format!("answered with {status}")) })
}

impl Volumes {
    /// Takes in a virtual machine's memory for the QEMU that waits for it here; returns when that has all of it.
    pub(crate) async fn take_in(
        &self,
        of: IncomingQuery,
        shown: Option<&PeerCertificate>,
        body: Body,
    ) -> Result<(), VolumesError> {
        let running = self.running()?;
        let state = Arc::clone(&running.ledger.state().borrow());
        let phase = state.vms.all.get(&of.vm()).map(|vm| vm.phase);
        let Some(VmPhase::Migrating { from, to, .. }) = phase else {
            return Err(VolumesError::NotAwaited(of.vm()));
        };
        let is_sender = self.name_of(from.node).zip(shown).is_some_and(|(name, shown)| shown.is_for(&name));
        let is_here = (to.node, to.boot, to.generation) == (running.ledger.id(), self.boot, of.generation());
        if !is_sender || !is_here {
            return Err(VolumesError::NotAwaited(of.vm()));
        }
        let socket = places(of.vm()).incoming();
        let mut qemu = UnixStream::connect(socket).await.map_err(|error| cut(&error))?;
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| cut(&error))?;
            qemu.write_all(&piece).await.map_err(|error| cut(&error))?;
        }
        qemu.shutdown().await.map_err(|error| cut(&error))?;
        if !running.shell.received(of.vm(), of.generation()).await {
            return Err(VolumesError::Wire { why: "not all of it came".to_owned() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::pki::Ca;
    use axum::Router;
    use axum::routing::post;
    use hyper_util::service::TowerToHyperService;
    use tokio::net::TcpListener;
    use tokio::time::sleep;
    use tokio_rustls::TlsAcceptor;

    /// A node that answers one request for a virtual machine's memory; what it does says how.
    async fn node(ca: &Ca, routes: Router) -> Contact {
        let name = "node2".parse().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(ca.issue_node(&name).unwrap().server_config().unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(stream, TowerToHyperService::new(routes))
                .await;
        });
        Contact { name, address }
    }

    /// What comes of so many bytes that a QEMU sends, and whether it could send them all.
    async fn sent(routes: Router, bytes: usize) -> (bool, Result<(), VolumesError>) {
        let ca = Ca::new("test", Duration::from_hours(1)).unwrap();
        let to = node(&ca, routes).await;
        let transport = HttpTransport::new(&ca.issue_node(&"node1".parse().unwrap()).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("outgoing");
        let of = IncomingQuery { vm: 3, generation: 7 };
        let mut wire = Wire::begin(&socket, &transport, to, of).await.unwrap();
        assert!(wire.outcome().await.is_none(), "nobody has sent anything");
        let mut qemu = UnixStream::connect(&socket).await.unwrap();
        let all = qemu.write_all(&vec![7; bytes]).await.is_ok();
        drop(qemu);
        let outcome = async {
            loop {
                match wire.outcome().await {
                    Some(outcome) => return outcome,
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        (all, timeout(Duration::from_mins(1), outcome).await.unwrap())
    }

    #[tokio::test]
    async fn it_is_good_only_when_the_other_side_has_all_of_it() {
        const BYTES: usize = 5 << 20;
        let takes = |query: axum::extract::RawQuery, body: Body| async move {
            assert_eq!(query.0.as_deref(), Some("vm=3&generation=7"));
            let taken = body.collect().await.unwrap().to_bytes();
            if taken.len() == BYTES { StatusCode::OK } else { StatusCode::CONFLICT }
        };
        let routes = || Router::new().route(path::VM_INCOMING, post(takes));
        let (all, outcome) = sent(routes(), BYTES).await;
        assert!(all && outcome.is_ok(), "{outcome:?}");
        let (_, outcome) = sent(routes(), BYTES - 1).await;
        assert!(outcome.unwrap_err().to_string().contains("409"));
    }

    #[tokio::test]
    async fn who_is_refused_can_send_nothing_on_and_hears_why() {
        let refuses = || async {
            let problem = Problem { code: "no".into(), message: "not that one".into(), help: "none".into() };
            (StatusCode::CONFLICT, axum::Json(problem))
        };
        let (all, outcome) = sent(Router::new().route(path::VM_INCOMING, post(refuses)), 64 << 20).await;
        assert!(!all, "it would take as sent what nobody has read");
        let why = outcome.unwrap_err().to_string();
        assert!(why.contains("not that one") || why.contains("did not come through"), "{why}");
    }
}
