//! Sends hellos to all peers on all storage networks, and remembers when each peer was heard.
//!
//! Invariants: one task and one UDP socket per storage network, bound to the storage address whether or not it is there
//! (`IP_FREEBIND`), so addresses may come and go; links may go down and up. Hellos live for one hop: they never leave by a
//! router. A hello counts only if it is of this cluster, names the network whose address it was sent to, and comes from
//! the address and port of the node that it names. Through which NIC it came is not looked at: the kernel takes a packet for any of
//! its addresses on any NIC. Sending never waits, so a node that can't send still hears.
//!
//! On failure: [`HelloError`] when a socket can't be made. Later errors of receiving are waited out until the next interval; a hello
//! that can't be sent at once is dropped, and the next goes out an interval later. All tasks end soon after [`Hellos`] is
//! dropped, and before [`Hellos::stop`] returns.

use crate::diagnose::PathView;
use crate::probe::{ClusterTag, HELLO_BYTES, HELLO_PORT, Hello};
use model::{NodeName, NodeOrdinal, Priority, StorageNetworkIndex};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket as StdUdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

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

/// When each peer was last heard on each storage network.
type Heard = Arc<Mutex<BTreeMap<(StorageNetworkIndex, NodeOrdinal), Instant>>>;

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
                },
                peers: peers.clone(),
                heard: Arc::clone(&heard),
                start: Instant::now(),
            });
        }
        let every = Duration::from_millis(u64::from(config.interval_ms.max(1)));
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
                heard_ms_ago: heard.get(&(*network, peer.ordinal)).map(|at| millis(at.elapsed())),
            };
            peers.iter().map(view).collect::<Vec<_>>()
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
    socket.bind(&SockAddr::from(SocketAddrV4::new(address, HELLO_PORT)))?;
    Ok(socket.into())
}

/// One storage network.
struct Greeter {
    socket: UdpSocket,
    hello: Hello,
    peers: Vec<HelloPeer>,
    heard: Heard,
    start: Instant,
}

impl Greeter {
    async fn run(mut self, every: Duration) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut buffer = [0; 2 * HELLO_BYTES];
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
        self.hello.sent_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let datagram = self.hello.encode();
        for peer in &self.peers {
            let to = SocketAddrV4::new(peer.address, HELLO_PORT);
            // The address or the link may be away for now, or the socket's buffer full; what counts is what peers hear.
            if let Err(error) = self.socket.try_send_to(&datagram, to.into()) {
                tracing::trace!(network = %self.hello.network, peer = %peer.node, %error, "can't send a hello");
            }
        }
    }

    fn note(&self, datagram: &[u8], from: SocketAddr) {
        match Hello::decode(datagram) {
            Ok(hello) => {
                let known = self.peers.iter().any(|peer| {
                    peer.ordinal == hello.sender && from.ip() == peer.address && from.port() == HELLO_PORT
                });
                let ours = hello.cluster == self.hello.cluster && hello.network == self.hello.network;
                if known && ours {
                    let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                    heard.insert((hello.network, hello.sender), Instant::now());
                } else {
                    tracing::debug!(?hello, %from, "a hello that is none of ours");
                }
            }
            Err(error) => tracing::debug!(%from, %error, "no hello"),
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
    async fn only_this_clusters_hellos_from_the_right_address_on_this_network_count() {
        let (a, b) = (Ipv4Addr::new(127, 71, 18, 1), Ipv4Addr::new(127, 71, 18, 2));
        let network = |number| StorageNetworkIndex::try_from(number).unwrap();
        let sender = NodeOrdinal::try_from(2).unwrap();
        let good = Hello { cluster: CLUSTER, sender, network: network(1), sequence: 0, sent_us: 0 };
        let greeter = Greeter {
            socket: UdpSocket::from_std(socket(a, Priority::DEFAULT).unwrap()).unwrap(),
            hello: good,
            peers: vec![HelloPeer { node: "other".parse().unwrap(), ordinal: sender, address: b }],
            heard: Heard::default(),
            start: Instant::now(),
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
