//! Three ledgers in one process, over real sockets with mutual TLS.

use super::*;
use crate::ledger::Ledger;
use crate::token::{JoinToken, StoreId};
use crate::transport::{JoinRequest, Sealed};
use crate::types::Member;
use crate::{
    Config, Contact, Letter, Newcomer, NotLeading, ProposeError, Role, Transport, TransportError, bootstrap,
    join,
};
use api::pki::Ca;
use api::{PeerCertificate, TlsIdentity};
use axum::{Extension, Router};
use control::state::Settings;
use control::{ClusterCommand, Command};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use model::{NodeId, NodeName};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// For everything here: handshakes and fsyncs of a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);

struct Node {
    name: NodeName,
    address: SocketAddr,
    dir: TempDir,
    tls: TlsIdentity,
    listener: Option<TcpListener>,
    server: JoinSet<()>,
}

impl Node {
    async fn new(ca: &Ca, name: &str) -> Self {
        let name: NodeName = name.parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, tls) = (listener.local_addr().unwrap(), ca.issue_node(&name).unwrap());
        let (dir, server) = (tempfile::tempdir().unwrap(), JoinSet::new());
        Self { name, address, dir, tls, listener: Some(listener), server }
    }

    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(HttpTransport::new(&self.tls).unwrap())
    }

    fn newcomer(&self) -> Newcomer {
        Newcomer { name: self.name.clone(), address: self.address }
    }

    fn contact(&self) -> Contact {
        Contact { name: self.name.clone(), address: self.address }
    }

    fn serve(&mut self, ledger: Ledger) {
        let listener = self.listener.take().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(self.tls.server_config().unwrap()));
        let routes = router(ledger);
        self.server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(connection(acceptor.clone(), stream, routes.clone()));
            }
        });
    }
}

async fn connection(acceptor: TlsAcceptor, stream: tokio::net::TcpStream, routes: Router) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let shown = PeerCertificate::of(stream.get_ref().1.peer_certificates()).unwrap();
    let service = TowerToHyperService::new(routes.layer(Extension(shown)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Times of a machine that may be busy with a lab: what is asked here is not how fast.
fn config() -> Config {
    let (heartbeat_ms, request_limit_ms, vote_limit_ms, silence_ms) = (300, 2000, 2500, 3000);
    Config {
        heartbeat_ms,
        request_limit_ms,
        vote_limit_ms,
        silence_ms,
        propose_limit_ms: 20_000,
        ..Config::default()
    }
}

fn rebuilds(count: u8) -> Command {
    let settings = Settings { rebuilds_per_node_max: count, ..Settings::default() };
    Command::Cluster(ClusterCommand::SetSettings(settings))
}

async fn wait_for(ledger: &Ledger, what: &str, held: impl Fn(&Ledger) -> bool) {
    let mut metrics = ledger.raft().metrics();
    let waited = timeout(PATIENCE, async {
        while !held(ledger) {
            metrics.changed().await.unwrap();
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: {:?}", ledger.status()));
}

#[tokio::test]
async fn three_ledgers_form_a_cluster_over_mutual_tls_and_survive_one() {
    let ca = Ca::new("lab", Duration::from_hours(1)).unwrap();
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "w"] {
        nodes.push(Node::new(&ca, name).await);
    }
    let first = &nodes[0];
    bootstrap(first.dir.path(), &first.newcomer(), Some("a".parse().unwrap()), Settings::default()).unwrap();
    let ledger = Ledger::open(first.dir.path(), config(), first.transport()).await.unwrap();
    nodes[0].serve(ledger.clone());
    wait_for(&ledger, "the first leads alone", |ledger| ledger.status().role == Role::Leader).await;
    let mut ledgers = vec![ledger];
    for index in 1..3 {
        let zone = (index == 1).then(|| "b".parse().unwrap());
        let token = ledgers[0].invite(nodes[index].name.clone(), zone, PATIENCE).await.unwrap();
        let (node, via) = (&nodes[index], [nodes[index - 1].contact()]);
        let joined =
            join(node.dir.path(), &node.newcomer(), &token, &via, config(), node.transport()).await.unwrap();
        nodes[index].serve(joined.clone());
        joined.caught_up(PATIENCE).await.ok();
        ledgers.push(joined);
    }
    let all: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
    ledgers[0].change_voters(&all).await.unwrap();
    wait_for(&ledgers[2], "the third votes", |ledger| ledger.status().voters == all).await;

    // A follower passes on.
    ledgers[2].propose(rebuilds(7)).await.unwrap();
    ledgers[1].caught_up(PATIENCE).await.unwrap();
    assert_eq!(ledgers[1].state().borrow().settings.rebuilds_per_node_max, 7);
    assert!(matches!(ledgers[1].leadership().await, Err(NotLeading::Follower { .. })));
    ledgers[0].leadership().await.unwrap();
    let refused = ledgers[1].propose(Command::Cluster(ClusterCommand::RemoveNode(NodeId(9)))).await;
    assert!(matches!(refused, Err(ProposeError::Refused(_))), "{refused:?}");

    strangers_are_refused(&ca, &nodes[1], &ledgers[1]).await;

    // The leader goes: the two others go on.
    ledgers[0].close().await;
    nodes[0].server.shutdown().await;
    for ledger in &ledgers[1..] {
        wait_for(ledger, "a new leader", |ledger| {
            ledger.status().leader.is_some_and(|leader| leader != NodeId(1))
        })
        .await;
    }
    ledgers[1].propose(rebuilds(8)).await.unwrap();
}

/// With a certificate of the CA, but not for a node, or for another one.
async fn strangers_are_refused(ca: &Ca, to: &Node, ledger: &Ledger) {
    let token = JoinToken::new().unwrap();
    let member = Member { name: "n9".parse().unwrap(), address: to.address, store: StoreId::new().unwrap() };
    let letter = Letter(Sealed::Join(JoinRequest { token, member }));
    for identity in [ca.issue_client("n9").unwrap(), ca.issue_node(&"n8".parse().unwrap()).unwrap()] {
        let transport = HttpTransport::new(&identity).unwrap();
        let refused = transport.send(to.contact(), letter.clone(), PATIENCE).await.unwrap_err();
        assert!(
            matches!(&refused, TransportError::Refused { why, .. } if why.contains("not-certified")),
            "{refused}"
        );
    }
    let other = Ca::new("other", Duration::from_hours(1)).unwrap();
    let transport = HttpTransport::new(&other.issue_node(&"n9".parse().unwrap()).unwrap()).unwrap();
    let refused = transport.send(to.contact(), letter, PATIENCE).await.unwrap_err();
    assert!(!matches!(refused, TransportError::Refused { .. }), "it gets no further than TLS: {refused}");
    assert_eq!(ledger.status().role, Role::Follower);
}
