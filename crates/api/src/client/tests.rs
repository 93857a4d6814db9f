//! The client against servers that behave and servers that don't, on loopback.

use super::*;
use crate::pki::Ca;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const HELLO: &str =
    r#"{"node":"node1","role":"witness","version":"0.1.0","boot_id":"b","uptime_ms":5,"new":1}"#;

fn ca() -> Ca {
    Ca::new("lab", Duration::from_hours(1)).unwrap()
}

fn client(ca: &Ca, node: &str, address: SocketAddr) -> Client {
    let endpoint = Endpoint { node: node.parse().unwrap(), address };
    Client::new(endpoint, &ca.issue_client("lab").unwrap()).unwrap()
}

async fn answer(stream: TcpStream, identity: &TlsIdentity, status: &str, body: &str) {
    let acceptor = TlsAcceptor::from(Arc::new(identity.server_config().unwrap()));
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut request = [0; 4096];
    if stream.read(&mut request).await.is_ok() {
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// Serves connections one after the other, for ever: each by the next of `scripts`, then by the last of them.
async fn serve(identity: TlsIdentity, scripts: &'static [(&'static str, &'static str)]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut hung, mut turn) = (Vec::new(), 0);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (status, body) = scripts[turn.min(scripts.len() - 1)];
            turn += 1;
            match status {
                "hang" => hung.push(stream),
                "reset" => drop(stream),
                status => answer(stream, &identity, status, body).await,
            }
        }
    });
    address
}

fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Request { failure, .. } => *failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_answers_under_its_own_name_only() {
    let ca = ca();
    let address = serve(ca.issue_node(&"node1".parse().unwrap()).unwrap(), &[("200 OK", HELLO)]).await;
    let hello = client(&ca, "Node1", address).hello().await.unwrap();
    assert_eq!((hello.node.as_str(), hello.uptime_ms), ("node1", 5));
    let error = client(&ca, "node2", address).hello().await.unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("GET /v1/hello of node2 at 127.0.0.1"), "{shown}");
    assert!(matches!(failure(error), Failure::Tls(rustls::Error::InvalidCertificate(_))));
}

#[tokio::test]
async fn strangers_are_told_apart_from_the_dead() {
    let (ours, theirs) = (ca(), ca());
    let node = "node1".parse().unwrap();
    // A server of another CA.
    let address = serve(theirs.issue_node(&node).unwrap(), &[("200 OK", HELLO)]).await;
    assert!(matches!(failure(client(&ours, "node1", address).hello().await.unwrap_err()), Failure::Tls(_)));
    // A server of our CA, and a client of another that believes our CA: the server's alert comes back.
    let address = serve(ours.issue_node(&node).unwrap(), &[("200 OK", HELLO)]).await;
    let stranger = TlsIdentity { ca_pem: ours.certificate_pem(), ..theirs.issue_client("lab").unwrap() };
    let stranger = Client::new(Endpoint { node, address }, &stranger).unwrap();
    let refused = failure(stranger.hello().await.unwrap_err());
    assert!(matches!(refused, Failure::Tls(rustls::Error::AlertReceived(_))), "{refused:?}");
    // A client certificate serves nobody: `lab` can't pose as a node.
    let address = serve(ours.issue_client("node1").unwrap(), &[("200 OK", HELLO)]).await;
    assert!(matches!(failure(client(&ours, "node1", address).hello().await.unwrap_err()), Failure::Tls(_)));
    // Nobody at all.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert!(matches!(
        failure(client(&ours, "node1", address).hello().await.unwrap_err()),
        Failure::Refused(_)
    ));
    let address = serve(ours.issue_client("node1").unwrap(), &[("reset", "")]).await;
    assert!(matches!(failure(client(&ours, "node1", address).hello().await.unwrap_err()), Failure::Lost(_)));
}

#[tokio::test]
async fn a_refusal_carries_the_problem_and_nonsense_is_called_nonsense() {
    let ca = ca();
    let scripts = &[
        ("409 Conflict", r#"{"code":"power-not-ours","message":"not PID 1","help":"use the host"}"#),
        ("502 Bad Gateway", "<html>"),
        ("200 OK", "{}"),
    ];
    let address = serve(ca.issue_node(&"node1".parse().unwrap()).unwrap(), scripts).await;
    let client = client(&ca, "node1", address);
    let error = client.power(PowerAction::Off).await.unwrap_err();
    assert_eq!(
        error.source().unwrap().to_string(),
        "refused with 409: not PID 1 (power-not-ours); use the host"
    );
    let html = failure(client.hello().await.unwrap_err());
    assert!(matches!(html, Failure::NotOurs { status: 502, .. }), "{html:?}");
    let short = failure(client.hello().await.unwrap_err());
    assert!(matches!(short, Failure::NotOurs { status: 200, .. }), "{short:?}");
}

#[tokio::test]
async fn waiting_outlives_hangs_and_resets_but_not_a_wrong_certificate() {
    let ca = ca();
    let scripts = &[("reset", ""), ("hang", ""), ("200 OK", HELLO)];
    let address = serve(ca.issue_node(&"node1".parse().unwrap()).unwrap(), scripts).await;
    client(&ca, "node1", address).wait_ready(Duration::from_secs(20)).await.unwrap();
    let error = client(&ca, "node2", address).wait_ready(Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(failure(error), Failure::Tls(_)));
}

#[tokio::test]
async fn waiting_ends_at_the_deadline_and_says_what_it_last_saw() {
    let ca = ca();
    let address = serve(ca.issue_client("x").unwrap(), &[("reset", ""), ("hang", "")]).await;
    let error = client(&ca, "node1", address).wait_ready(Duration::from_millis(400)).await.unwrap_err();
    let ClientError::NotReady { attempts: 2, last: Some(last), waited, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(**last, Failure::Lost(_)), "{last:?}");
    assert!(*waited >= Duration::from_millis(400) && *waited < Duration::from_secs(2), "{waited:?}");
}
