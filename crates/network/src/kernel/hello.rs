//! Sends hellos to all peers on all storage networks, and remembers when each peer was heard, how long hellos take there and
//! back, and when one came that was as large as a packet may be.
//!
//! Invariants: one task and one UDP socket per storage network, bound to the storage address whether or not it is there
//! (`IP_FREEBIND`), so addresses may come and go; links may go down and up. Hellos live for one hop: they never leave by a
//! router. A hello counts only if it is of this cluster, names the network whose address it was sent to, and comes from
//! the address and port of the node that it names. Through which NIC it came is not looked at: the kernel takes a packet for any of
//! its addresses on any NIC. Sending never waits, so a node that can't send still hears. No hello is ever divided
//! (don't-fragment), and what the kernel believes of a path's MTU is not asked: the link's own is the only bound.
//!
//! Round trips end, and the time that a peer holds a hello begins, when the kernel of the one or the other says that it came
//! ([`arrival`]): a process that is busy makes none longer, a machine that is does.
//! The last [`TRIPS_KEPT`] of each path are kept; what is told of them is that of the last [`WINDOW`].
//!
//! On failure: [`HelloError`] when a socket can't be made. Later errors of receiving are waited out until the next interval; a hello
//! that can't be sent at once is dropped, and the next goes out an interval later. All tasks end soon after [`Hellos`] is
//! dropped, and before [`Hellos::stop`] returns.

use super::arrival;
use crate::conditions::PathQuality;
use crate::diagnose::PathView;
use crate::probe::{ClusterTag, Echo, HELLO_PORT, Hello, LARGE_HELLO_EVERY, large_bytes};
use model::{Mtu, NodeName, NodeOrdinal, Priority, StorageNetworkIndex};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use rustix::net::{SendFlags, sendto};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdUdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The longest datagram that is taken in whole, bytes: that of the largest packet there is.
const DATAGRAM_BYTES_MAX: usize = 9216;
/// How many round trips of a path are kept.
const TRIPS_KEPT: usize = 64;
/// What is told of round trips is about those of so long.
const WINDOW: Duration = Duration::from_secs(4);
/// A hello that comes more intervals than these halves after the one before is late: two were lost.
const LATE_AFTER_HALVES: u32 = 5;

/// A node that hellos go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloPeer {
    /// Which.
    pub node: NodeName,
    /// Its ordinal, which its hellos carry.
    pub ordinal: NodeOrdinal,
    /// Its address on the storage network.
    pub address: Ipv4Addr,
}

/// Whom a node greets, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloConfig {
    /// Whose cluster.
    pub cluster: ClusterTag,
    /// Who sends.
    pub sender: NodeOrdinal,
    /// How often, ms.
    pub interval_ms: u32,
    /// Socket priority, which VLAN links map to a priority code point.
    pub priority: Priority,
    /// How large the largest packet is, which from time to time a hello is; `None`: none is.
    pub packet: Option<Mtu>,
    /// Per storage network: the own address and the peers.
    pub networks: BTreeMap<StorageNetworkIndex, (Ipv4Addr, Vec<HelloPeer>)>,
}

/// Why hellos can't be sent on a storage network.
#[derive(Debug, thiserror::Error)]
#[error("can't send hellos from {address} on storage network {network}")]
pub struct HelloError {
    /// Which storage network.
    pub network: StorageNetworkIndex,
    /// The own address there.
    pub address: Ipv4Addr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What was heard of each peer on each storage network.
type Heard = Arc<Mutex<BTreeMap<(StorageNetworkIndex, NodeOrdinal), Path>>>;

/// What was heard of a peer on a storage network.
#[derive(Debug)]
struct Path {
    /// When, last.
    at: Instant,
    /// When one came last that was late, or the first.
    late: Instant,
    /// Whether a hello has come since one was last sent to the peer.
    confirms: bool,
    /// The last small hello, until it is sent back: when it came, and when it was sent, by the peer's clock, µs.
    small: Option<(Instant, u64)>,
    /// The last large hello's sequence number.
    large: Option<u64>,
    /// Whether a large hello should follow the last small one, and has not come.
    large_due: bool,
    /// How many large ones did not come after their small ones, since the last that did.
    large_missing: u32,
    /// When hellos came back, and how long they took, µs.
    trips: VecDeque<(Instant, u32)>,
}

impl Path {
    fn quality(&self, node: &NodeName, network: StorageNetworkIndex) -> PathQuality {
        let lately = self.trips.iter().filter(|(at, _)| at.elapsed() <= WINDOW);
        let mut trips_us: Vec<u32> = lately.map(|(_, us)| *us).collect();
        trips_us.sort_unstable();
        PathQuality {
            peer: node.clone(),
            network,
            round_trips: u32::try_from(trips_us.len()).unwrap_or(u32::MAX),
            min_us: trips_us.first().copied(),
            median_us: trips_us.get(trips_us.len() / 2).copied(),
            large_missing: self.large_missing,
        }
    }
}

/// The machine's own monotonic clock, µs: restarts of the process don't set it anew.
fn clock_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Never negative: it counts from the machine's start.
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}

/// Sends and listens until it is dropped.
#[derive(Debug)]
pub struct Hellos {
    config: HelloConfig,
    since: Instant,
    heard: Heard,
    /// Aborts its tasks when dropped.
    tasks: JoinSet<()>,
}

impl Hellos {
    /// Starts to send and to listen.
    pub fn start(config: HelloConfig) -> Result<Self, HelloError> {
        let heard = Heard::default();
        let every = Duration::from_millis(u64::from(config.interval_ms.max(1)));
        // All sockets before the first task: on failure they are closed when this returns, and whoever had the ports
        // before can have them back.
        let mut greeters = Vec::new();
        for (index, (address, peers)) in &config.networks {
            let failed = |source| HelloError { network: *index, address: *address, source };
            let socket = socket(*address, config.priority).map_err(failed)?;
            let socket = UdpSocket::from_std(socket).map_err(failed)?;
            greeters.push(Greeter {
                socket,
                hello: Hello {
                    cluster: config.cluster,
                    sender: config.sender,
                    network: *index,
                    sequence: 0,
                    sent_us: 0,
                    echo: None,
                },
                peers: peers.clone(),
                packet: config.packet,
                late_after: every * LATE_AFTER_HALVES / 2,
                heard: Arc::clone(&heard),
            });
        }
        let mut tasks = JoinSet::new();
        for greeter in greeters {
            tasks.spawn(greeter.run(every));
        }
        Ok(Self { config, since: Instant::now(), heard, tasks })
    }

    /// What was heard up to now, one entry per peer and storage network.
    pub fn paths(&self) -> Vec<PathView> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = |(network, (_, peers)): (&StorageNetworkIndex, &(Ipv4Addr, Vec<HelloPeer>))| {
            let view = |peer: &HelloPeer| PathView {
                peer: peer.node.clone(),
                network: *network,
                heard_ms_ago: heard.get(&(*network, peer.ordinal)).map(|path| millis(path.at.elapsed())),
                late_ms_ago: heard.get(&(*network, peer.ordinal)).map(|path| millis(path.late.elapsed())),
            };
            peers.iter().map(view).collect::<Vec<_>>()
        };
        self.config.networks.iter().flat_map(of_network).collect()
    }

    /// How well hellos come that were heard at all, one entry per peer and storage network.
    pub fn qualities(&self) -> Vec<PathQuality> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = |(network, (_, peers)): (&StorageNetworkIndex, &(Ipv4Addr, Vec<HelloPeer>))| {
            let quality = |peer: &HelloPeer| {
                heard.get(&(*network, peer.ordinal)).map(|path| path.quality(&peer.node, *network))
            };
            peers.iter().filter_map(quality).collect::<Vec<_>>()
        };
        self.config.networks.iter().flat_map(of_network).collect()
    }

    /// Ends all tasks. Unlike after a drop, the ports are free when this returns: who wants to start anew needs that.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    /// How long it has been listening, ms.
    pub fn listening_ms(&self) -> u32 {
        millis(self.since.elapsed())
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn socket(address: Ipv4Addr, priority: Priority) -> io::Result<StdUdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.set_freebind_v4(true)?;
    socket.set_ttl_v4(1)?;
    socket.set_priority(u32::from(priority.get()))?;
    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(address, HELLO_PORT)))?;
    Ok(socket.into())
}

/// One storage network.
struct Greeter {
    socket: UdpSocket,
    hello: Hello,
    peers: Vec<HelloPeer>,
    packet: Option<Mtu>,
    late_after: Duration,
    heard: Heard,
}

impl Greeter {
    async fn run(mut self, every: Duration) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        // The runtime has to see once that the new socket can be written to, or the first hellos would be dropped.
        if let Err(error) = self.socket.writable().await {
            tracing::debug!(network = %self.hello.network, %error, "can't look at the socket for hellos");
        }
        // After an error of receiving nothing is received before the next tick, or a lasting one would spin.
        let mut receiving = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    self.greet();
                    receiving = true;
                }
                received = self.socket.recv_from(&mut buffer), if receiving => match received {
                    Ok((length, from)) => self.note(&buffer[..length], from),
                    Err(error) => {
                        tracing::debug!(network = %self.hello.network, %error, "can't receive hellos");
                        receiving = false;
                    }
                },
            }
        }
    }

    fn greet(&mut self) {
        self.hello.sequence += 1;
        self.greet_all(None);
        if self.packet.is_some() && self.hello.sequence.is_multiple_of(LARGE_HELLO_EVERY) {
            self.greet_all(self.packet);
        }
    }

    /// Sends every peer a hello, filled up to a packet of this size.
    fn greet_all(&mut self, packet: Option<Mtu>) {
        for peer in &self.peers {
            let (echo, confirms) = self.news_of(peer);
            self.hello.echo = echo;
            self.hello.sent_us = clock_us();
            let datagram = match packet {
                Some(packet) => self.hello.encode_large(packet),
                None => self.hello.encode().to_vec(),
            };
            let to = SocketAddrV4::new(peer.address, HELLO_PORT);
            let flags = if confirms { SendFlags::CONFIRM } else { SendFlags::empty() };
            let send = || Ok(sendto(&self.socket, &datagram, flags, &to)?);
            // The address or the link may be away for now, or the socket's buffer full; what counts is what peers hear.
            if let Err(error) = self.socket.try_io(Interest::WRITABLE, send) {
                tracing::trace!(network = %self.hello.network, peer = %peer.node, %error, "can't send a hello");
            }
        }
    }

    /// The last hello of a peer, to be sent back to it, once: sent back again it would say nothing new. And whether one came at
    /// all since: that is as good as an answer to the kernel's question where the peer lives (`MSG_CONFIRM`, send(2)). Without
    /// it the kernel asks, and where answers are lost for a moment it sends nothing for seconds.
    fn news_of(&self, peer: &HelloPeer) -> (Option<Echo>, bool) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = heard.get_mut(&(self.hello.network, peer.ordinal)) else { return (None, false) };
        let echo = path.small.take().and_then(|(at, sent_us)| {
            Some(Echo { sent_us, held_us: u32::try_from(at.elapsed().as_micros()).ok()? })
        });
        (echo, std::mem::take(&mut path.confirms))
    }

    fn note(&self, datagram: &[u8], from: SocketAddr) {
        let late_by = arrival::late_by(&self.socket);
        match Hello::decode(datagram) {
            Ok(hello) => {
                let known = self.peers.iter().any(|peer| {
                    peer.ordinal == hello.sender && from.ip() == peer.address && from.port() == HELLO_PORT
                });
                let ours = hello.cluster == self.hello.cluster && hello.network == self.hello.network;
                if known && ours {
                    self.heard(&hello, datagram.len(), late_by);
                } else {
                    tracing::debug!(?hello, %from, "a hello that is none of ours");
                }
            }
            Err(error) => tracing::debug!(%from, %error, "no hello"),
        }
    }

    fn heard(&self, hello: &Hello, bytes: usize, late_by: Duration) {
        let now = Instant::now();
        let at = now.checked_sub(late_by).unwrap_or(now);
        let came_us = clock_us().saturating_sub(u64::try_from(late_by.as_micros()).unwrap_or_default());
        let is_large = self.packet.is_some_and(|packet| bytes >= large_bytes(packet));
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let path = heard.entry((hello.network, hello.sender)).or_insert_with(|| Path {
            at,
            late: at,
            confirms: false,
            small: None,
            large: None,
            large_due: false,
            large_missing: 0,
            trips: VecDeque::new(),
        });
        if at.saturating_duration_since(path.at) > self.late_after {
            path.late = at;
        }
        path.at = at;
        path.confirms = true;
        if is_large {
            // It takes longer, and the small one just before it has echoed.
            (path.large, path.large_due, path.large_missing) = (Some(hello.sequence), false, 0);
            return;
        }
        path.small = Some((at, hello.sent_us));
        path.large_missing = path.large_missing.saturating_add(u32::from(path.large_due));
        path.large_due =
            hello.sequence.is_multiple_of(LARGE_HELLO_EVERY) && path.large != Some(hello.sequence);
        if let Some(trip_us) = hello.echo.and_then(|echo| echo.round_trip_us(came_us)) {
            path.trips.truncate(TRIPS_KEPT - 1);
            path.trips.push_front((at, trip_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterTag = ClusterTag(7);

    /// Hellos of one node to the other, between two loopback addresses.
    fn hellos(cluster: ClusterTag, sender: u64, own: [u8; 4], peer: [u8; 4]) -> Hellos {
        let ordinal = |number| NodeOrdinal::try_from(number).unwrap();
        let peer =
            HelloPeer { node: "other".parse().unwrap(), ordinal: ordinal(3 - sender), address: peer.into() };
        let network = StorageNetworkIndex::try_from(1).unwrap();
        let networks = BTreeMap::from([(network, (own.into(), vec![peer]))]);
        let config = HelloConfig {
            cluster,
            sender: ordinal(sender),
            interval_ms: 20,
            priority: Priority::DEFAULT,
            packet: Some(Mtu::JUMBO),
            networks,
        };
        Hellos::start(config).unwrap()
    }

    async fn hears(hellos: &Hellos) {
        let heard = async {
            while hellos.paths()[0].heard_ms_ago.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("a hello");
    }

    #[tokio::test]
    async fn two_nodes_hear_each_other_and_ports_are_free_after_the_end() {
        let (a, b) = ([127, 71, 17, 1], [127, 71, 17, 2]);
        for _ in 0..2 {
            let (first, second) = (hellos(CLUSTER, 1, a, b), hellos(CLUSTER, 2, b, a));
            hears(&first).await;
            hears(&second).await;
            first.stop().await;
            second.stop().await;
        }
    }

    #[tokio::test]
    async fn round_trips_are_measured_and_large_hellos_come_undivided() {
        let (a, b) = ([127, 71, 19, 1], [127, 71, 19, 2]);
        let (first, second) = (hellos(CLUSTER, 1, a, b), hellos(CLUSTER, 2, b, a));
        let known = |hellos: &Hellos| {
            let quality = hellos.qualities().pop();
            // Among more small ones than lie between two large ones is one that a large one follows.
            quality.is_some_and(|quality| quality.round_trips > 6 && quality.large_missing == 0)
        };
        let both = async {
            while !(known(&first) && known(&second)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("echoes and a large hello");
        let quality = first.qualities().pop().unwrap();
        assert_eq!(quality.peer.as_str(), "other");
        // Each is held for an interval of 20 ms at most; what is counted is the rest.
        assert!(quality.min_us < Some(10_000), "{quality:?}");
        assert!(quality.min_us <= quality.median_us);
    }

    #[tokio::test]
    async fn only_this_clusters_hellos_from_the_right_address_on_this_network_count() {
        let (a, b) = (Ipv4Addr::new(127, 71, 18, 1), Ipv4Addr::new(127, 71, 18, 2));
        let network = |number| StorageNetworkIndex::try_from(number).unwrap();
        let sender = NodeOrdinal::try_from(2).unwrap();
        let good =
            Hello { cluster: CLUSTER, sender, network: network(1), sequence: 0, sent_us: 0, echo: None };
        let greeter = Greeter {
            socket: UdpSocket::from_std(socket(a, Priority::DEFAULT).unwrap()).unwrap(),
            hello: good,
            peers: vec![HelloPeer { node: "other".parse().unwrap(), ordinal: sender, address: b }],
            packet: None,
            late_after: Duration::from_secs(1),
            heard: Heard::default(),
        };
        let counts = |hello: Hello, from: Ipv4Addr, port: u16| {
            greeter.heard.lock().unwrap().clear();
            greeter.note(&hello.encode(), SocketAddr::from((from, port)));
            !greeter.heard.lock().unwrap().is_empty()
        };
        assert!(counts(good, b, HELLO_PORT));
        assert!(!counts(Hello { cluster: ClusterTag(8), ..good }, b, HELLO_PORT));
        assert!(!counts(Hello { network: network(2), ..good }, b, HELLO_PORT));
        assert!(!counts(Hello { sender: NodeOrdinal::try_from(3).unwrap(), ..good }, b, HELLO_PORT));
        assert!(!counts(good, a, HELLO_PORT));
        assert!(!counts(good, b, HELLO_PORT + 1));
    }
}
