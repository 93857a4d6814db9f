//! Sends hellos to all peers on all storage networks, and remembers when each peer was heard.
//!
//! Invariants: one task and one UDP socket per storage network. Sockets bind to the storage address whether or not it is
//! there (`IP_FREEBIND`), so addresses may come and go; links may go down and up. Hellos live for one hop: they never leave by a
//! router. A hello counts only if it is of this cluster, came on the network that it names, and from the address of
//! the node that it names.
//!
//! On failure: [`HelloError`] when a socket can't be made. Later errors of sending or receiving are waited out, at most one try
//! per peer and interval. All tasks end soon after [`Hellos`] is dropped, and before
//! [`Hellos::stop`] returns.

use crate::diagnose::PathView;
use crate::probe::{ClusterTag, HELLO_BYTES, HELLO_INTERVAL_MS, HELLO_PORT, Hello};
use model::{ClusterSpec, NodeName, NodeOrdinal, Priority, StorageNetworkIndex};
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

impl HelloConfig {
    /// What a node of a cluster sends; `None` if it is none.
    pub fn of(spec: &ClusterSpec, node: &NodeName) -> Option<Self> {
        let sender = spec.nodes().find(|(_, member)| member.name == *node)?.1.ordinal;
        let networks = spec.storage_networks.iter().map(|network| {
            let address = |ordinal| ClusterSpec::storage_address(network, ordinal);
            let others = spec.nodes().map(|(_, member)| member).filter(|member| member.ordinal != sender);
            let peers = others.map(|member| HelloPeer {
                node: member.name.clone(),
                ordinal: member.ordinal,
                address: address(member.ordinal),
            });
            (network.index, (address(sender), peers.collect()))
        });
        Some(Self {
            cluster: ClusterTag::from(&spec.name),
            sender,
            interval_ms: HELLO_INTERVAL_MS,
            priority: spec.qos.heartbeat_priority,
            networks: networks.collect(),
        })
    }
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
        // After an error of receiving nothing is received before the next tick, or a lasting one would spin.
        let mut receiving = true;
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    self.greet().await;
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

    async fn greet(&mut self) {
        self.hello.sequence += 1;
        self.hello.sent_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let datagram = self.hello.encode();
        for peer in &self.peers {
            let to = SocketAddrV4::new(peer.address, HELLO_PORT);
            // The address or the link may be away for now; what counts is what peers hear.
            if let Err(error) = self.socket.send_to(&datagram, to).await {
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
