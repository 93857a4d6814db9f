//! The server and the client against each other, on loopback.

use super::*;
use crate::Owner;
use api::pki::Ca;
use api::{ApplyRequest, Client, ClientError, Endpoint, Failure, NodeConfig, PowerAction, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Node {
    ca: Ca,
    client: Client,
    address: std::net::SocketAddr,
    state: Arc<State>,
    served: JoinHandle<Stop>,
    _directory: tempfile::TempDir,
}

async fn node(owner: Owner) -> Node {
    let ca = Ca::new("lab", Duration::from_hours(1)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node: model::NodeName = "node1".parse().unwrap();
    let config = NodeConfig {
        tls: ca.issue_node(&node).unwrap(),
        node: node.clone(),
        role: Role::Node,
        listen: address,
        out_of_band: None,
        adapters: std::collections::BTreeMap::default(),
    };
    let tls = Arc::new(config.tls.server_config().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let state =
        State::start(config, owner, crate::store::Store::in_directory(directory.path())).await.unwrap();
    let served = tokio::spawn(run(listener, tls, Arc::clone(&state)));
    let client = Client::new(Endpoint { node, address }, &ca.issue_client("lab").unwrap()).unwrap();
    Node { ca, client, address, state, served, _directory: directory }
}

impl Node {
    /// A TLS connection to speak HTTP over by hand.
    async fn connect(&self) -> TlsStream<TcpStream> {
        let tls = Arc::new(self.ca.issue_client("raw").unwrap().client_config().unwrap());
        let name = api::server_name(&"node1".parse().unwrap()).try_into().unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(tls).connect(name, stream).await.unwrap()
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }
}

#[tokio::test]
async fn a_node_says_who_it_is_and_what_it_has() {
    let node = node(Owner::Host).await;
    let hello = node.client.hello().await.unwrap();
    assert_eq!((hello.node.as_str(), hello.role), ("node1", Role::Node));
    assert!(hello.uptime_ms > 0 && hello.boot_id.len() == 36, "{hello:?}");
    let inventory = node.client.inventory().await.unwrap();
    assert!(inventory.cpu.threads > 0 && inventory.memory.total_bytes > 1 << 20);
    assert_eq!(inventory.kernel.boot_id, hello.boot_id);
}

#[tokio::test]
async fn without_a_certificate_of_the_ca_there_is_no_answer() {
    let node = node(Owner::Host).await;
    let stranger = Ca::new("other", Duration::from_hours(1)).unwrap().issue_client("lab").unwrap();
    let stranger = api::TlsIdentity { ca_pem: node.ca.certificate_pem(), ..stranger };
    let endpoint = Endpoint { node: "node1".parse().unwrap(), address: node.address };
    let error = Client::new(endpoint, &stranger).unwrap().hello().await.unwrap_err();
    assert!(matches!(error.failure(), Some(Failure::Tls(_))), "{error:?}");
    // Plain HTTP gets no HTTP back.
    let mut plain = TcpStream::connect(node.address).await.unwrap();
    plain.write_all(b"GET /v1/hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn strangers_that_never_finish_their_handshake_keep_nobody_waiting() {
    let node = node(Owner::Host).await;
    let mut silent = Vec::new();
    for _ in 0..3 * MAX_CONNECTIONS {
        silent.push(TcpStream::connect(node.address).await.unwrap());
    }
    timeout(HANDSHAKE_LIMIT / 2, node.client.hello()).await.unwrap().unwrap();
    // The oldest made way; the newest still have their time.
    let ended = async |stream: &mut TcpStream| {
        timeout(Duration::from_millis(200), stream.read_u8()).await.is_ok_and(|read| read.is_err())
    };
    assert!(ended(&mut silent[0]).await && !ended(silent.last_mut().unwrap()).await);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let node = node(Owner::Host).await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        let mut stream = node.connect().await;
        stream.write_all(b"GET /v1/hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stream.read_u8().await.unwrap();
        idle.push(stream);
    }
    let waiting = timeout(Duration::from_millis(300), node.client.hello()).await;
    assert!(waiting.is_err(), "the limit does not hold: {waiting:?}");
    idle.pop();
    node.client.hello().await.unwrap();
}

#[tokio::test]
async fn accepted_connections_end_when_the_peer_takes_nothing_in() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap());
    let (stream, _peer) = tokio::join!(accept(&listener), peer);
    let stream = stream.unwrap();
    let limit_ms = rustix::net::sockopt::tcp_user_timeout(&stream).unwrap();
    assert_eq!(u128::from(limit_ms), UNTAKEN_LIMIT.as_millis());
    assert!(stream.nodelay().unwrap());
}

#[tokio::test]
async fn power_is_refused_where_the_machine_is_not_ours() {
    let node = node(Owner::Host).await;
    let error = node.client.power(PowerAction::Off).await.unwrap_err();
    let Some(Failure::Problem { status: 409, problem }) = error.failure() else {
        panic!("{error:?}");
    };
    assert_eq!(problem.code, "power-not-ours");
    node.client.hello().await.unwrap();
}

#[tokio::test]
async fn a_power_request_is_answered_before_the_daemon_ends() {
    let node = node(Owner::Init).await;
    node.client.power(PowerAction::Reboot).await.unwrap();
    assert_eq!(node.served.await.unwrap(), Stop::Power(PowerAction::Reboot));
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_half_made_ones() {
    let node = node(Owner::Host).await;
    let _silent = TcpStream::connect(node.address).await.unwrap();
    node.client.hello().await.unwrap();
    node.state.stop(Stop::Signal);
    let started = std::time::Instant::now();
    assert_eq!(node.served.await.unwrap(), Stop::Signal);
    assert!(started.elapsed() < DRAIN_LIMIT, "idle connections were waited for");
}

#[tokio::test]
async fn a_node_says_how_it_is_and_refuses_what_is_not_for_it() {
    let node = node(Owner::Host).await;
    let health = node.client.health().await.unwrap();
    assert_eq!((health.listening_ms, health.paths.len(), health.nics.len()), (0, 0, 0));
    assert!(health.wall_ms > health.uptime_ms);
    let (state, changes) =
        (node.client.network().await.unwrap(), node.client.netlink_changes(0).await.unwrap());
    assert_eq!((state.generation, state.pending_ms, changes.missed), (None, None, 0));
    assert!(changes.changes.len() as u64 <= changes.count);

    let other = "node2".parse().unwrap();
    let (generation, links, compute_vlans) = (::network::Generation(1), Vec::new(), Vec::new());
    let plan = ::network::NetworkPlan { generation, node: other, links, compute_vlans };
    let code = |error: &ClientError| match error.failure() {
        Some(Failure::Problem { status, problem }) => (*status, problem.code.clone()),
        _ => panic!("{error:?}"),
    };
    let error = node.client.apply(&ApplyRequest { plan, confirm_within_ms: None }).await.unwrap_err();
    assert_eq!(code(&error), (409, "other-node".to_owned()));
    let error = node.client.commit(::network::Generation(1)).await.unwrap_err();
    assert_eq!(code(&error), (409, "unknown-generation".to_owned()));
}

#[tokio::test]
async fn bad_requests_get_a_problem() {
    let node = node(Owner::Host).await;
    let request = |head: &str, body: &str| {
        let length = body.len();
        format!(
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    for (request, status, code) in [
        (request("GET /v1/nothing", ""), "404", "unknown-path"),
        (request("DELETE /v1/hello", ""), "405", "wrong-method"),
        (request("POST /v1/power", r#"{"action":"off","now":true}"#), "422", "bad-body"),
        (request("GET /v1/netlink-changes?since=x", ""), "400", "bad-parameters"),
        (request("GET /v1/netlink-changes?sinse=1", ""), "400", "bad-parameters"),
        (request("POST /v1/power", "{"), "400", "bad-body"),
        (request("POST /v1/power", &" ".repeat(MAX_TEST_BODY)), "413", "bad-body"),
    ] {
        let answer = node.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let problem: api::Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.code, code);
        assert!(!problem.help.is_empty());
    }
}

const MAX_TEST_BODY: usize = (1 << 20) + 1;
