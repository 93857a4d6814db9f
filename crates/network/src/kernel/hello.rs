//! Sends hellos to all peers on all storage networks, and remembers when each peer was heard, how long hellos take there and
//! back, and when one came that was as large as a packet may be.
//!
//! Nothing here runs by itself: whoever has it greets at its interval ([`Hellos::greet`]), and what has come is read when that is done
//! or somebody asks. A process that was woken by each hello would be woken by all peers on all networks, for nothing: the kernel keeps both the hello and when it came.
//!
//! Invariants: one UDP socket per storage network, bound to the storage address whether or not it is there
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
//! On failure: [`HelloError`] when a socket can't be made. After an error of receiving nothing is received until asked again; a hello
//! that can't be sent at once is dropped, and the next goes out an interval later. The ports are free once [`Hellos`] is dropped.

use super::arrival;
use crate::conditions::PathQuality;
use crate::diagnose::PathView;
use crate::probe::{ClusterTag, Echo, HELLO_PORT, Hello, LARGE_HELLO_EVERY, large_bytes};
use model::{Mtu, NodeName, NodeOrdinal, Priority, StorageNetworkIndex};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, set_ip_mtu_discover, set_socket_recv_buffer_size, set_socket_recv_buffer_size_force,
};
use rustix::net::{SendFlags, sendto};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// The longest datagram that is taken in whole, bytes: that of the largest packet there is.
const DATAGRAM_BYTES_MAX: usize = 9216;
/// How many round trips of a path are kept.
const TRIPS_KEPT: usize = 64;
/// What is told of round trips is about those of so long.
const WINDOW: Duration = Duration::from_secs(4);
/// A hello that comes more intervals than these halves after the one before is late: two were lost.
const LATE_AFTER_HALVES: u32 = 5;
/// So many datagrams are read of a network at a time at most, whoever sends them: what all peers of the largest cluster send in ten seconds.
const READ_MAX: usize = 512;
/// How much may wait to be read, bytes, as far as the kernel lets a process ask for: hellos that come while this process stands still must not be lost, and
/// it is the newest that a full buffer drops.
const BUFFER_BYTES: usize = 1 << 20;

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

/// What was heard of each peer on a storage network.
type Heard = BTreeMap<NodeOrdinal, Path>;

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

/// Hears until it is dropped.
#[derive(Debug)]
pub struct Hellos {
    since: Instant,
    networks: Vec<Greeter>,
    buffer: Vec<u8>,
}

impl Hellos {
    /// Starts to listen.
    pub fn start(config: HelloConfig) -> Result<Self, HelloError> {
        let every = Duration::from_millis(u64::from(config.interval_ms.max(1)));
        let (packet, priority) = (config.packet, config.priority);
        let (cluster, sender) = (config.cluster, config.sender);
        let greeter = |(network, (address, peers))| {
            let failed = |source| HelloError { network, address, source };
            let hello = Hello { cluster, sender, network, sequence: 0, sent_us: 0, echo: None };
            let socket = socket(address, priority).map_err(failed)?;
            let late_after = every * LATE_AFTER_HALVES / 2;
            Ok(Greeter {
                socket,
                hello,
                peers,
                packet,
                late_after,
                emptied: Instant::now(),
                heard: Heard::new(),
            })
        };
        let networks = config.networks.into_iter().map(greeter).collect::<Result<_, _>>()?;
        Ok(Self { since: Instant::now(), networks, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Sends every peer on every network a hello.
    pub fn greet(&mut self) {
        // What has come is sent back.
        self.listen();
        for network in &mut self.networks {
            network.greet();
        }
    }

    /// What was heard up to now, one entry per peer and storage network.
    pub fn paths(&mut self) -> Vec<PathView> {
        self.listen();
        self.networks.iter().flat_map(Greeter::views).collect()
    }

    /// How well hellos come that were heard at all, one entry per peer and storage network.
    pub fn qualities(&mut self) -> Vec<PathQuality> {
        self.listen();
        self.networks.iter().flat_map(Greeter::qualities).collect()
    }

    /// How long it has been listening, ms.
    pub fn listening_ms(&self) -> u32 {
        millis(self.since.elapsed())
    }

    fn listen(&mut self) {
        for network in &mut self.networks {
            network.listen(&mut self.buffer);
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn socket(address: Ipv4Addr, priority: Priority) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    socket.set_freebind_v4(true)?;
    socket.set_ttl_v4(1)?;
    socket.set_priority(u32::from(priority.get()))?;
    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
        .or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER_BYTES))?;
    arrival::begin(&socket);
    socket.bind(&SockAddr::from(SocketAddrV4::new(address, HELLO_PORT)))?;
    Ok(socket.into())
}

/// One storage network.
#[derive(Debug)]
struct Greeter {
    socket: UdpSocket,
    hello: Hello,
    peers: Vec<HelloPeer>,
    packet: Option<Mtu>,
    late_after: Duration,
    /// When there was last nothing left to read: what is read later came later.
    emptied: Instant,
    heard: Heard,
}

impl Greeter {
    fn views(&self) -> impl Iterator<Item = PathView> {
        self.peers.iter().map(|peer| {
            let path = self.heard.get(&peer.ordinal);
            PathView {
                peer: peer.node.clone(),
                network: self.hello.network,
                heard_ms_ago: path.map(|path| millis(path.at.elapsed())),
                late_ms_ago: path.map(|path| millis(path.late.elapsed())),
            }
        })
    }

    fn qualities(&self) -> impl Iterator<Item = PathQuality> {
        let quality =
            |peer: &HelloPeer| Some(self.heard.get(&peer.ordinal)?.quality(&peer.node, self.hello.network));
        self.peers.iter().filter_map(quality)
    }

    /// Takes what has come.
    fn listen(&mut self, buffer: &mut [u8]) {
        let begun = Instant::now();
        for _ in 0..READ_MAX {
            match self.socket.recv_from(buffer) {
                Ok((length, from)) => self.note(&buffer[..length], from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.emptied = begun;
                    return;
                }
                Err(error) => {
                    tracing::debug!(network = %self.hello.network, %error, "can't receive hellos");
                    return;
                }
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
            let (echo, confirms) = news_of(&mut self.heard, peer);
            self.hello.echo = echo;
            self.hello.sent_us = clock_us();
            let datagram = match packet {
                Some(packet) => self.hello.encode_large(packet),
                None => self.hello.encode().to_vec(),
            };
            let to = SocketAddrV4::new(peer.address, HELLO_PORT);
            let flags = if confirms { SendFlags::CONFIRM } else { SendFlags::empty() };
            // The address or the link may be away for now, or the socket's buffer full; what counts is what peers hear.
            if let Err(error) = sendto(&self.socket, &datagram, flags, &to) {
                tracing::trace!(network = %self.hello.network, peer = %peer.node, %error, "can't send a hello");
            }
        }
    }

    fn note(&mut self, datagram: &[u8], from: SocketAddr) {
        let late_by = arrival::late_by(&self.socket, self.emptied.elapsed());
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

    fn heard(&mut self, hello: &Hello, bytes: usize, late_by: Duration) {
        let now = Instant::now();
        let at = now.checked_sub(late_by).unwrap_or(now);
        let came_us = clock_us().saturating_sub(u64::try_from(late_by.as_micros()).unwrap_or_default());
        let is_large = self.packet.is_some_and(|packet| bytes >= large_bytes(packet));
        let path = self.heard.entry(hello.sender).or_insert_with(|| Path {
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
        path.at = path.at.max(at);
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

/// The last hello of a peer, to be sent back to it, once: sent back again it would say nothing new. And whether one came at
/// all since: that is as good as an answer to the kernel's question where the peer lives (`MSG_CONFIRM`, send(2)). Without
/// it the kernel asks, and where answers are lost for a moment it sends nothing for seconds.
fn news_of(heard: &mut Heard, peer: &HelloPeer) -> (Option<Echo>, bool) {
    let Some(path) = heard.get_mut(&peer.ordinal) else { return (None, false) };
    let echo = path.small.take().and_then(|(at, sent_us)| {
        Some(Echo { sent_us, held_us: u32::try_from(at.elapsed().as_micros()).ok()? })
    });
    (echo, std::mem::take(&mut path.confirms))
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

    /// Both greet until this is so.
    fn greet_until(both: &mut [Hellos; 2], mut is_so: impl FnMut(&mut Hellos) -> bool) {
        let begun = Instant::now();
        while !both.iter_mut().all(&mut is_so) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{both:?}");
            both.iter_mut().for_each(Hellos::greet);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn two_nodes_hear_each_other_and_ports_are_free_after_the_end() {
        let (a, b) = ([127, 71, 17, 1], [127, 71, 17, 2]);
        for _ in 0..2 {
            let mut both = [hellos(CLUSTER, 1, a, b), hellos(CLUSTER, 2, b, a)];
            greet_until(&mut both, |hellos| hellos.paths()[0].heard_ms_ago.is_some());
        }
    }

    #[test]
    fn when_a_hello_came_is_known_whenever_it_is_read() {
        let (a, b) = ([127, 71, 20, 1], [127, 71, 20, 2]);
        let mut both = [hellos(CLUSTER, 1, a, b), hellos(CLUSTER, 2, b, a)];
        // The kernel stamps from some moment on (see `arrival`).
        greet_until(&mut both, |hellos| hellos.paths()[0].heard_ms_ago.is_some());
        let [first, second] = &mut both;
        let begun = Instant::now();
        let age_ms = loop {
            first.greet();
            std::thread::sleep(Duration::from_millis(50));
            match second.paths()[0].heard_ms_ago {
                Some(age_ms) if age_ms >= 50 => break age_ms,
                _ => {}
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "it is taken for new when it is read");
        };
        assert!(age_ms < 1000, "{age_ms} ms");
    }

    #[test]
    fn round_trips_are_measured_and_large_hellos_come_undivided() {
        let (a, b) = ([127, 71, 19, 1], [127, 71, 19, 2]);
        let mut both = [hellos(CLUSTER, 1, a, b), hellos(CLUSTER, 2, b, a)];
        // Among more small ones than lie between two large ones is one that a large one follows.
        greet_until(&mut both, |hellos| {
            let quality = hellos.qualities().pop();
            quality.is_some_and(|quality| quality.round_trips > 6 && quality.large_missing == 0)
        });
        let [first, _] = &mut both;
        let quality = first.qualities().pop().unwrap();
        assert_eq!(quality.peer.as_str(), "other");
        // Each is held for 5 ms, and 5 ms pass until it is read; what is counted is the rest.
        assert!(quality.min_us < Some(5_000), "{quality:?}");
        assert!(quality.min_us <= quality.median_us);
    }

    #[test]
    fn only_this_clusters_hellos_from_the_right_address_on_this_network_count() {
        let (a, b) = (Ipv4Addr::new(127, 71, 18, 1), Ipv4Addr::new(127, 71, 18, 2));
        let network = |number| StorageNetworkIndex::try_from(number).unwrap();
        let sender = NodeOrdinal::try_from(2).unwrap();
        let good =
            Hello { cluster: CLUSTER, sender, network: network(1), sequence: 0, sent_us: 0, echo: None };
        let mut greeter = Greeter {
            socket: socket(a, Priority::DEFAULT).unwrap(),
            hello: good,
            peers: vec![HelloPeer { node: "other".parse().unwrap(), ordinal: sender, address: b }],
            packet: None,
            late_after: Duration::from_secs(1),
            emptied: Instant::now(),
            heard: Heard::default(),
        };
        let mut counts = |hello: Hello, from: Ipv4Addr, port: u16| {
            greeter.heard.clear();
            greeter.note(&hello.encode(), SocketAddr::from((from, port)));
            !greeter.heard.is_empty()
        };
        assert!(counts(good, b, HELLO_PORT));
        assert!(!counts(Hello { cluster: ClusterTag(8), ..good }, b, HELLO_PORT));
        assert!(!counts(Hello { network: network(2), ..good }, b, HELLO_PORT));
        assert!(!counts(Hello { sender: NodeOrdinal::try_from(3).unwrap(), ..good }, b, HELLO_PORT));
        assert!(!counts(good, a, HELLO_PORT));
        assert!(!counts(good, b, HELLO_PORT + 1));
    }
}
