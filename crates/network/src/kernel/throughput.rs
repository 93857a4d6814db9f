//! How much TCP carries from one storage address to another, measured where it arrives.
//!
//! Purpose: the destination port is the one that storage uses, so that whoever marks storage frames marks these, in both
//! directions, acknowledgements and retransmissions included. No socket here asks for a priority: that the frames have
//! one is for the fabric to prove.
//!
//! Invariants: a listener is bound to one address, and to one link if it was given one; it is there while somebody is expected,
//! and no longer. All who are expected at one address share it, because they need the same port; a token tells them
//! apart. Who is at another address than an expected peer's, or shows no token of that peer's, is cut off. Every
//! connection, wait and run has a bound. If another socket listens on [`STORAGE_PORT`], the kernel chooses a port, and
//! [`Opened`] says so.
//!
//! On failure: [`ThroughputError`] when there is no socket. What goes wrong later is in the sender's report; a
//! receiver that fails is a report that doesn't come.

use crate::link::LinkName;
use crate::throughput::{Arrived, REPORT_BYTES, TOKEN_BYTES, Token};
use crate::traffic::STORAGE_PORT;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// How many senders may be expected, on all addresses together: one for each peer and storage network of the largest cluster.
const EXPECTED_MAX: usize = 16;
/// Connections that one listener serves at a time.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may take to be made, or to show its token.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// How long what is under way may take when a run's time is over.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// Bytes that are read or written at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 32;

/// Why there is no probe.
#[derive(Debug, thiserror::Error)]
pub enum ThroughputError {
    /// Too many are expected already.
    #[error("{EXPECTED_MAX} senders are expected already")]
    Busy,
    /// A socket can't be made.
    #[error("can't {step} at {address}")]
    Socket {
        /// The own address.
        address: Ipv4Addr,
        /// What failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whom a receiver lets send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The own address.
    pub address: Ipv4Addr,
    /// The only link that packets may come by; `None`: any.
    pub device: Option<LinkName>,
    /// Who may send.
    pub peer: Ipv4Addr,
    /// How long what arrives is counted.
    pub duration: Duration,
    /// How long the sender may take to come.
    pub wait: Duration,
}

/// What a sender needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Where to send to.
    pub port: u16,
    /// What to show.
    pub token: Token,
}

/// What is sent, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendOptions {
    /// The address of this node that it leaves from.
    pub source: Ipv4Addr,
    /// The only link that it may use; `None`: as the routes say.
    pub device: Option<LinkName>,
    /// Who receives.
    pub target: Ipv4Addr,
    /// At which port.
    pub port: u16,
    /// What the receiver expects.
    pub token: Token,
    /// For how long it sends at most.
    pub duration: Duration,
    /// How much at most.
    pub bytes: u64,
}

/// How it went, from the sender's side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SendReport {
    /// What the kernel took.
    pub sent_bytes: u64,
    /// What the receiver says that it got; `None`: it said nothing in time.
    pub arrived: Option<Arrived>,
    /// The first error, in the kernel's words.
    pub first_error: Option<String>,
}

type Key = (Ipv4Addr, Option<LinkName>);

/// Who is expected where.
#[derive(Debug, Default)]
struct Listening {
    port: u16,
    expected: Vec<Waiting>,
    task: Option<AbortHandle>,
}

#[derive(Debug, Clone)]
struct Waiting {
    token: Token,
    peer: Ipv4Addr,
    duration: Duration,
    /// When it is over, whatever became of it.
    until: Instant,
    /// Whether its sender came.
    is_taken: bool,
}

type Table = Arc<Mutex<BTreeMap<Key, Listening>>>;

/// All listeners of a node. They end when this is dropped.
#[derive(Debug, Default)]
pub struct Receivers {
    table: Table,
}

impl Drop for Receivers {
    fn drop(&mut self) {
        for task in lock(&self.table).values().filter_map(|listening| listening.task.as_ref()) {
            task.abort();
        }
    }
}

/// Changes are whole: after a panic elsewhere the table is still good.
fn lock(table: &Table) -> MutexGuard<'_, BTreeMap<Key, Listening>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receivers {
    /// Lets a peer send, once. It is expected when this returns.
    pub fn expect(&self, expected: &Expected) -> Result<Opened, ThroughputError> {
        let failed = |step| move |source| ThroughputError::Socket { address: expected.address, step, source };
        let token = draw_token().map_err(failed("draw a token for what arrives"))?;
        let waiting = Waiting {
            token,
            peer: expected.peer,
            duration: expected.duration,
            until: Instant::now() + expected.wait + HANDSHAKE_LIMIT + expected.duration + DRAIN_LIMIT,
            is_taken: false,
        };
        let key = (expected.address, expected.device.clone());
        let mut table = lock(&self.table);
        if table.values().map(|listening| listening.expected.len()).sum::<usize>() >= EXPECTED_MAX {
            return Err(ThroughputError::Busy);
        }
        if let Some(listening) = table.get_mut(&key) {
            listening.expected.push(waiting);
            return Ok(Opened { port: listening.port, token });
        }
        let listener = listen(expected).map_err(failed("listen"))?;
        let port = listener.local_addr().map_err(failed("listen"))?.port();
        let serving = Serving { table: Arc::clone(&self.table), key: key.clone() };
        let listening = Listening { port, expected: vec![waiting], task: None };
        // The task looks at the table, which is locked until the entry is whole.
        let task = tokio::spawn(serving.run(listener)).abort_handle();
        table.insert(key, Listening { task: Some(task), ..listening });
        Ok(Opened { port, token })
    }
}

fn draw_token() -> io::Result<Token> {
    let mut token = [0; TOKEN_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(Token(token))
}

/// On the storage port, or where another listens there on a port that the kernel chooses.
fn listen(expected: &Expected) -> io::Result<TcpListener> {
    let at = |port| -> io::Result<TcpListener> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::TCP))?;
        // Connections of a former run may linger. A socket that listens stands in the way all the same (tcp(7), socket(7)).
        socket.set_reuse_address(true)?;
        if let Some(device) = &expected.device {
            socket.bind_device(Some(device.as_str().as_bytes()))?;
        }
        socket.bind(&SockAddr::from(SocketAddrV4::new(expected.address, port)))?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    match at(STORAGE_PORT) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => at(0),
        result => result,
    }
}

/// A listener's task.
struct Serving {
    table: Table,
    key: Key,
}

impl Serving {
    async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let next_end = {
                let mut table = lock(&self.table);
                let Some(next_end) = table.get_mut(&self.key).and_then(Listening::next_end) else {
                    // Both under the lock: whoever is expected next finds the port free.
                    table.remove(&self.key);
                    drop(listener);
                    return;
                };
                next_end
            };
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    if let Ok((stream, from)) = accepted {
                        let (table, key) = (Arc::clone(&self.table), self.key.clone());
                        connections.spawn(serve(table, key, stream, from.ip()));
                    }
                }
                Some(_) = connections.join_next() => {}
                () = sleep_until(next_end) => {}
            }
        }
    }
}

impl Listening {
    /// When the next one's time is over; `None`: nobody is expected any more.
    fn next_end(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.expected.retain(|waiting| waiting.until > now);
        self.expected.iter().map(|waiting| waiting.until).min()
    }

    /// Who shows this token from that address, if nobody did before.
    fn take(&mut self, token: Token, from: IpAddr) -> Option<Waiting> {
        let is_it = |waiting: &&mut Waiting| {
            waiting.token == token && IpAddr::V4(waiting.peer) == from && !waiting.is_taken
        };
        let waiting = self.expected.iter_mut().find(is_it)?;
        waiting.is_taken = true;
        Some(waiting.clone())
    }
}

/// One connection, from its token to its report.
async fn serve(table: Table, key: Key, mut stream: TcpStream, from: IpAddr) {
    let is_peer = |waiting: &Waiting| IpAddr::V4(waiting.peer) == from;
    if !lock(&table).get(&key).is_some_and(|listening| listening.expected.iter().any(is_peer)) {
        return;
    }
    let mut shown = [0; TOKEN_BYTES];
    if !matches!(timeout(HANDSHAKE_LIMIT, stream.read_exact(&mut shown)).await, Ok(Ok(_))) {
        return;
    }
    let taken = lock(&table).get_mut(&key).and_then(|listening| listening.take(Token(shown), from));
    let Some(waiting) = taken else { return };
    if let Ok(Err(error)) = timeout_at(waiting.until, receive(&mut stream, waiting.duration)).await {
        tracing::debug!(%from, %error, "a throughput probe broke off");
    }
    if let Some(listening) = lock(&table).get_mut(&key) {
        listening.expected.retain(|other| other.token != waiting.token);
    }
}

/// Counts until the stream ends or the time is over, says what it was, and lets the rest run out.
async fn receive(stream: &mut TcpStream, duration: Duration) -> io::Result<()> {
    let start = Instant::now();
    let end = start + duration;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut bytes = 0u64;
    while let Ok(read) = timeout_at(end, stream.read(&mut buffer)).await {
        match read? {
            0 => break,
            length => bytes += length as u64,
        }
        if Instant::now() >= end {
            break; // a stream that never lets anybody wait would never time out
        }
    }
    let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    stream.write_all(&Arrived { bytes, took_us }.encode()).await?;
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Sends, and asks the receiver what it got.
pub async fn send(options: &SendOptions) -> Result<SendReport, ThroughputError> {
    let failed = |step| move |source| ThroughputError::Socket { address: options.source, step, source };
    let socket = TcpSocket::new_v4().map_err(failed("make a socket"))?;
    if let Some(device) = &options.device {
        let bound = socket2::SockRef::from(&socket).bind_device(Some(device.as_str().as_bytes()));
        bound.map_err(failed("bind to the link"))?;
    }
    socket.bind(SocketAddrV4::new(options.source, 0).into()).map_err(failed("bind"))?;
    let mut report = SendReport::default();
    let target = SocketAddrV4::new(options.target, options.port);
    let outcome = match timeout(HANDSHAKE_LIMIT, socket.connect(target.into())).await {
        Ok(Ok(stream)) => transfer(stream, options, &mut report).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time")),
    };
    report.first_error = outcome.err().map(|error| error.to_string());
    Ok(report)
}

async fn transfer(mut stream: TcpStream, options: &SendOptions, report: &mut SendReport) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the receiver said nothing in time");
    let end = Instant::now() + options.duration;
    let give_up = end + DRAIN_LIMIT;
    timeout_at(give_up, stream.write_all(&options.token.0)).await.map_err(|_| late())??;
    let payload = vec![0; CHUNK_BYTES];
    while report.sent_bytes < options.bytes {
        let left = usize::try_from(options.bytes - report.sent_bytes).unwrap_or(CHUNK_BYTES);
        match timeout_at(end, stream.write(&payload[..left.min(CHUNK_BYTES)])).await {
            Ok(written) => report.sent_bytes += written? as u64,
            Err(_) => break,
        }
        if Instant::now() >= end {
            break;
        }
    }
    stream.shutdown().await?;
    let mut answer = [0; REPORT_BYTES];
    timeout_at(give_up, stream.read_exact(&mut answer)).await.map_err(|_| late())??;
    report.arrived = Some(Arrived::decode(&answer).map_err(io::Error::other)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of the loopback that no other test has.
    fn addresses(test: u8) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::new(127, 71, test, 1), Ipv4Addr::new(127, 71, test, 2))
    }

    fn expected(address: Ipv4Addr, peer: Ipv4Addr) -> Expected {
        let (duration, wait) = (Duration::from_secs(5), Duration::from_secs(5));
        Expected { address, device: None, peer, duration, wait }
    }

    fn options(from: &Expected, opened: Opened, bytes: u64) -> SendOptions {
        SendOptions {
            source: from.peer,
            device: None,
            target: from.address,
            port: opened.port,
            token: opened.token,
            duration: Duration::from_secs(5),
            bytes,
        }
    }

    async fn ended(receivers: &Receivers) {
        let empty = async {
            while !lock(&receivers.table).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), empty).await.expect("all listeners end");
    }

    #[tokio::test]
    async fn what_was_sent_arrives_is_measured_and_the_listener_ends() {
        let (one, two) = addresses(30);
        let receivers = Receivers::default();
        let expected = expected(one, two);
        // Again and again: connections of a former run linger and stand in nobody's way.
        for _ in 0..3 {
            let opened = receivers.expect(&expected).unwrap();
            assert_eq!(opened.port, STORAGE_PORT);
            let report = send(&options(&expected, opened, 1_000_003)).await.unwrap();
            assert_eq!((report.sent_bytes, report.first_error), (1_000_003, None));
            let arrived = report.arrived.unwrap();
            assert_eq!(arrived.bytes, 1_000_003);
            assert!((1..10_000_000).contains(&arrived.took_us), "{arrived:?}");
            ended(&receivers).await;
        }
    }

    #[tokio::test]
    async fn time_ends_a_run_as_bytes_do() {
        let (one, two) = addresses(31);
        let receivers = Receivers::default();
        let expected = Expected { duration: Duration::from_millis(100), ..expected(one, two) };
        let opened = receivers.expect(&expected).unwrap();
        let options =
            SendOptions { duration: Duration::from_millis(300), ..options(&expected, opened, u64::MAX) };
        let report = send(&options).await.unwrap();
        let arrived = report.arrived.unwrap();
        // The sender goes on for longer: the receiver's time is what counts.
        assert!((100_000..3_000_000).contains(&arrived.took_us), "{arrived:?}");
        assert!((1..=report.sent_bytes).contains(&arrived.bytes), "{arrived:?}");
        ended(&receivers).await;
    }

    #[tokio::test]
    async fn all_who_send_to_one_address_have_one_port_and_tokens_tell_them_apart() {
        let (one, two) = addresses(32);
        let third = Ipv4Addr::new(127, 71, 32, 3);
        let receivers = Receivers::default();
        let (of_two, of_third) = (expected(one, two), expected(one, third));
        let (first, second) = (receivers.expect(&of_two).unwrap(), receivers.expect(&of_third).unwrap());
        assert_eq!((first.port, second.port), (STORAGE_PORT, STORAGE_PORT));
        // Another's token, from an address that is expected: cut off, and whose token it is may still come.
        let stolen = send(&options(&of_two, second, 10)).await.unwrap();
        assert_eq!(stolen.arrived, None);
        assert!(stolen.first_error.is_some());
        let sends = (options(&of_two, first, 100_000), options(&of_third, second, 200_000));
        let (a, b) = tokio::join!(send(&sends.0), send(&sends.1));
        let bytes = |report: SendReport| report.arrived.map(|arrived| arrived.bytes);
        assert_eq!((bytes(a.unwrap()), bytes(b.unwrap())), (Some(100_000), Some(200_000)));
        ended(&receivers).await;
        let late = send(&options(&of_two, first, 10)).await.unwrap();
        assert_eq!(late.arrived, None, "a token is good once");
    }

    #[tokio::test]
    async fn strangers_are_cut_off_and_who_never_comes_is_forgotten() {
        let (one, two) = addresses(33);
        let stranger = Ipv4Addr::new(127, 71, 33, 9);
        let receivers = Receivers::default();
        let waiting = expected(one, two);
        let opened = receivers.expect(&waiting).unwrap();
        let as_stranger = SendOptions { source: stranger, ..options(&waiting, opened, 10) };
        assert_eq!(send(&as_stranger).await.unwrap().arrived, None);
        let overdue = |listening: &mut Listening| listening.expected[0].until = Instant::now();
        lock(&receivers.table).values_mut().for_each(overdue);
        // Somebody else's connection makes it look at the time now instead of later.
        assert_eq!(send(&as_stranger).await.unwrap().arrived, None);
        ended(&receivers).await;
    }

    #[tokio::test]
    async fn where_storage_itself_listens_another_port_is_taken_and_said() {
        let (one, two) = addresses(34);
        let storage = std::net::TcpListener::bind((one, STORAGE_PORT)).unwrap();
        let receivers = Receivers::default();
        let expected = expected(one, two);
        let opened = receivers.expect(&expected).unwrap();
        assert_ne!(opened.port, STORAGE_PORT);
        assert_eq!(send(&options(&expected, opened, 10)).await.unwrap().arrived.unwrap().bytes, 10);
        drop(storage);
    }

    #[tokio::test]
    async fn expectations_are_bounded() {
        let (one, two) = addresses(35);
        let receivers = Receivers::default();
        for _ in 0..EXPECTED_MAX {
            receivers.expect(&expected(one, two)).unwrap();
        }
        assert!(matches!(receivers.expect(&expected(one, two)), Err(ThroughputError::Busy)));
    }

    /// A receiver that answers with anything but a report.
    #[tokio::test]
    async fn no_answer_of_a_peer_panics_the_sender() {
        let (one, two) = addresses(36);
        for answer in
            [&b"TWTP\x02\0\0\0aaaaaaaabbbbbbbb"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n", b"TWTP\x01"]
        {
            let listener = TcpListener::bind((one, 0)).await.unwrap();
            let opened =
                Opened { port: listener.local_addr().unwrap().port(), token: Token([0; TOKEN_BYTES]) };
            let options = options(&expected(one, two), opened, 10);
            let peer = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                assert_eq!(all.len(), TOKEN_BYTES + 10);
                stream.write_all(answer).await.unwrap();
            };
            let (report, ()) = tokio::join!(send(&options), peer);
            let report = report.unwrap();
            assert_eq!((report.sent_bytes, report.arrived), (10, None));
            assert!(report.first_error.is_some());
        }
    }
}
