//! Hellos to all peers, and round trips on request.
//!
//! Whom to greet is remembered over a restart of the agent: a node that fell silent because its agent restarted would look
//! like one that was lost.
//!
//! On failure: [`ProbeError`]; what was greeted before is greeted on. (It is started anew: what it had heard is heard again
//! within an interval or two.)

use crate::beat::Beat;
use crate::store::{Store, StoreError};
use api::{PathsRequest, PingAnswer, PingRequest};
use network::conditions::PathQuality;
use network::diagnose::PathView;
use network::kernel::{
    HelloConfig, HelloError, HelloPeer, Hellos, PingError, PingOptions, ThroughputError, ping,
};
use network::probe::ClusterTag;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
#[cfg(feature = "volumes")]
use tokio::sync::watch;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::task::AbortHandle;
use tracing::warn;

const FILE: &str = "paths.json";
/// Runs of probes at a time: one to each peer of the largest cluster. More would disturb each other's figures.
const MAX_RUNS: usize = 8;
/// A request to the agent takes a minute at most; the answer must still fit in.
const MAX_DEADLINE_MS: u32 = 50_000;

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("{what} must be {expected}")]
    OutOfRange { what: &'static str, expected: &'static str },
    #[error("{MAX_RUNS} runs of probes are under way")]
    Busy,
    #[error(transparent)]
    Ping(#[from] PingError),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Throughput(#[from] ThroughputError),
}

/// What is being sent and what was heard.
#[derive(Debug)]
pub(crate) struct Probes {
    store: Store,
    hellos: Arc<Mutex<Option<Hellos>>>,
    /// What was asked for last, as it is on disk. Held while that changes.
    greeted: AsyncMutex<Option<PathsRequest>>,
    /// The same, for whoever wants to know where peers are.
    #[cfg(feature = "volumes")]
    told: watch::Sender<Option<PathsRequest>>,
    /// Greets as often as was asked for.
    greeter: Mutex<Option<AbortHandle>>,
    runs: Semaphore,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Probes {
    /// Goes on with what an earlier agent was told.
    pub(crate) fn start(store: Store) -> Result<Self, StoreError> {
        let saved: Option<PathsRequest> = store.load(FILE)?;
        let runs = Semaphore::new(MAX_RUNS);
        let greeted = AsyncMutex::new(saved.clone());
        let probes = Self {
            store,
            hellos: Arc::default(),
            greeted,
            #[cfg(feature = "volumes")]
            told: watch::Sender::new(saved.clone()),
            greeter: Mutex::default(),
            runs,
        };
        if let Some(request) = saved {
            probes.replace(&request).unwrap_or_else(|error| warn_of(&error));
        }
        Ok(probes)
    }

    /// Who is greeted, and where.
    #[cfg(feature = "volumes")]
    pub(crate) fn watch(&self) -> watch::Receiver<Option<PathsRequest>> {
        self.told.subscribe()
    }

    /// Greets these peers from now on, and nobody else. On failure those of before.
    pub(crate) async fn greet(&self, request: &PathsRequest) -> Result<(), ProbeError> {
        if !(10..=60_000).contains(&request.interval_ms) {
            return Err(ProbeError::OutOfRange { what: "interval_ms", expected: "10 to 60000" });
        }
        let mut greeted = self.greeted.lock().await;
        // Sockets that are as they shall be are not closed for a moment.
        if greeted.as_ref() == Some(request) && (request.networks.is_empty() || self.hellos().is_some()) {
            return Ok(());
        }
        let done = match self.replace(request) {
            Ok(()) => self.store.save(FILE, &Some(request)).map_err(ProbeError::from),
            Err(error) => Err(error.into()),
        };
        match (&done, &*greeted) {
            (Ok(()), _) => {
                *greeted = Some(request.clone());
                #[cfg(feature = "volumes")]
                self.told.send_replace(Some(request.clone()));
            }
            (Err(_), Some(former)) => self.replace(former).unwrap_or_else(|error| warn_of(&error)),
            (Err(_), None) => self.stop(),
        }
        done
    }

    /// Greets nobody any more, and forgets that it ever did.
    pub(crate) async fn forget(&self) -> Result<(), StoreError> {
        let mut greeted = self.greeted.lock().await;
        self.store.save(FILE, &None::<PathsRequest>)?;
        self.stop();
        *greeted = None;
        #[cfg(feature = "volumes")]
        self.told.send_replace(None);
        Ok(())
    }

    /// The old sockets have the same addresses: they must be closed before there can be new ones.
    fn replace(&self, request: &PathsRequest) -> Result<(), HelloError> {
        self.stop_greeter();
        // Held throughout: whoever looks meanwhile would find nobody to look at.
        let mut hellos = self.hellos();
        *hellos = None;
        if !request.networks.is_empty() {
            *hellos = Some(Hellos::start(hello_config(request))?);
            let every = Duration::from_millis(request.interval_ms.max(1).into());
            let greeter = tokio::spawn(greet_every(every, Arc::clone(&self.hellos))).abort_handle();
            *self.greeter.lock().unwrap_or_else(PoisonError::into_inner) = Some(greeter);
        }
        Ok(())
    }

    fn stop(&self) {
        self.stop_greeter();
        *self.hellos() = None;
    }

    fn stop_greeter(&self) {
        if let Some(greeter) = self.greeter.lock().unwrap_or_else(PoisonError::into_inner).take() {
            greeter.abort();
        }
    }

    /// What was heard, and for how long it has been listening, milliseconds.
    pub(crate) fn heard(&self) -> (Vec<PathView>, u32) {
        let mut hellos = self.hellos();
        hellos.as_mut().map_or_else(Default::default, |hellos| (hellos.paths(), hellos.listening_ms()))
    }

    /// How well the hellos come that are heard.
    pub(crate) fn qualities(&self) -> Vec<PathQuality> {
        self.hellos().as_mut().map(Hellos::qualities).unwrap_or_default()
    }

    /// Measures round trips.
    pub(crate) async fn ping(&self, request: &PingRequest) -> Result<PingAnswer, ProbeError> {
        let options = ping_options(request)?;
        let _run = self.runs.try_acquire().map_err(|_| ProbeError::Busy)?;
        let report = ping(&options).await?;
        Ok(PingAnswer {
            sent: report.sent,
            received: report.received,
            lost: report.lost,
            min_us: report.min_us,
            median_us: report.median_us,
            p99_us: report.p99_us,
            max_us: report.max_us,
            histogram: report.histogram,
            first_error: report.first_error,
        })
    }

    fn hellos(&self) -> MutexGuard<'_, Option<Hellos>> {
        locked(&self.hellos)
    }
}

/// Until it is aborted. The first goes out at once.
async fn greet_every(every: Duration, hellos: Arc<Mutex<Option<Hellos>>>) {
    let mut beat = Beat::every(every);
    loop {
        if let Some(hellos) = locked(&hellos).as_mut() {
            hellos.greet();
        }
        beat.next().await;
    }
}

/// What was heard is noted hello by hello: after a panic elsewhere it is still good.
fn locked(hellos: &Mutex<Option<Hellos>>) -> MutexGuard<'_, Option<Hellos>> {
    hellos.lock().unwrap_or_else(PoisonError::into_inner)
}

fn warn_of(error: &HelloError) {
    warn!("no hellos: {}", crate::chain(error));
}

fn hello_config(request: &PathsRequest) -> HelloConfig {
    let networks = request.networks.iter().map(|network| {
        let peers = network.peers.iter().map(|peer| HelloPeer {
            node: peer.node.clone(),
            ordinal: peer.ordinal,
            address: peer.address,
        });
        (network.network, (network.address, peers.collect()))
    });
    HelloConfig {
        cluster: ClusterTag::from(&request.cluster),
        sender: request.sender,
        interval_ms: request.interval_ms,
        priority: request.priority,
        packet: request.packet_bytes,
        networks: networks.collect(),
    }
}

fn ping_options(request: &PingRequest) -> Result<PingOptions, ProbeError> {
    let in_range = |good: bool, what, expected| {
        if good { Ok(()) } else { Err(ProbeError::OutOfRange { what, expected }) }
    };
    in_range((1..=10_000).contains(&request.count), "count", "1 to 10000")?;
    in_range(request.interval_us >= 100, "interval_us", "at least 100")?;
    in_range((1..=MAX_DEADLINE_MS).contains(&request.deadline_ms), "deadline_ms", "1 to 50000")?;
    Ok(PingOptions {
        source: request.source,
        target: request.target,
        device: request.device.clone(),
        count: request.count,
        interval: Duration::from_micros(u64::from(request.interval_us)),
        payload_bytes: request.payload_bytes,
        dont_fragment: request.dont_fragment,
        priority: request.priority,
        deadline: Duration::from_millis(u64::from(request.deadline_ms)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Priority, StorageNetworkIndex};
    use std::net::Ipv4Addr;

    #[test]
    fn runs_are_bounded() {
        let good = PingRequest {
            source: Ipv4Addr::LOCALHOST,
            target: Ipv4Addr::LOCALHOST,
            device: None,
            count: 200,
            interval_us: 10_000,
            payload_bytes: 56,
            dont_fragment: true,
            priority: Priority::STORAGE,
            deadline_ms: 5_000,
        };
        let refused = |request: PingRequest| ping_options(&request).unwrap_err().to_string();
        assert_eq!(ping_options(&good).unwrap().interval, Duration::from_millis(10));
        assert_eq!(refused(PingRequest { count: 0, ..good.clone() }), "count must be 1 to 10000");
        assert_eq!(
            refused(PingRequest { interval_us: 0, ..good.clone() }),
            "interval_us must be at least 100"
        );
        assert_eq!(refused(PingRequest { deadline_ms: 60_000, ..good }), "deadline_ms must be 1 to 50000");
    }

    /// Two agents on one loopback hear each other, and go on after a restart.
    #[tokio::test]
    async fn peers_are_greeted_again_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let index = StorageNetworkIndex::try_from(1).unwrap();
        let (one, two) = (Ipv4Addr::new(127, 71, 1, 1), Ipv4Addr::new(127, 71, 1, 2));
        let request = |sender: u64, own, peer, address| PathsRequest {
            cluster: "plant".parse().unwrap(),
            sender: sender.try_into().unwrap(),
            interval_ms: 10,
            priority: Priority::DEFAULT,
            packet_bytes: None,
            networks: vec![api::PathNetwork {
                network: index,
                address: own,
                peers: vec![api::PathPeer {
                    node: format!("node{peer}").parse().unwrap(),
                    ordinal: u64::try_into(peer).unwrap(),
                    address,
                }],
            }],
        };
        let store = |name: &str| Store::in_directory(directory.path().join(name));
        let first = Probes::start(store("one")).unwrap();
        assert_eq!(first.heard(), (Vec::new(), 0));
        first.greet(&request(1, one, 2, two)).await.unwrap();
        drop(first);
        let (first, second) = (Probes::start(store("one")).unwrap(), Probes::start(store("two")).unwrap());
        second.greet(&request(2, two, 1, one)).await.unwrap();
        let heard = async {
            // A second request takes the first one's place.
            second.greet(&request(2, two, 1, one)).await.unwrap();
            while [&first, &second]
                .iter()
                .any(|probes| probes.heard().0.iter().any(|path| path.heard_ms_ago.is_none()))
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap();
        assert_eq!(first.heard().0[0].peer.as_str(), "node2");
        let silly = PathsRequest { interval_ms: 1, ..request(1, one, 2, two) };
        assert!(matches!(first.greet(&silly).await, Err(ProbeError::OutOfRange { what: "interval_ms", .. })));
    }

    /// Two networks can't have one address: the second socket finds it taken.
    #[tokio::test]
    async fn hellos_go_on_when_what_shall_replace_them_can_not_be_started_or_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let network = |index: u64, address| api::PathNetwork {
            network: index.try_into().unwrap(),
            address,
            peers: vec![api::PathPeer {
                node: "node2".parse().unwrap(),
                ordinal: 2.try_into().unwrap(),
                address: Ipv4Addr::new(127, 71, 9, 2),
            }],
        };
        let request = |networks| PathsRequest {
            cluster: "plant".parse().unwrap(),
            sender: 1.try_into().unwrap(),
            interval_ms: 10,
            priority: Priority::DEFAULT,
            packet_bytes: None,
            networks,
        };
        let (here, there) = (Ipv4Addr::new(127, 71, 9, 1), Ipv4Addr::new(127, 71, 9, 3));
        let probes = Probes::start(Store::in_directory(directory.path())).unwrap();
        probes.greet(&request(vec![network(1, here)])).await.unwrap();
        // The first network takes the former address again before the last one fails.
        let twice = request(vec![network(1, here), network(2, there), network(3, there)]);
        assert!(matches!(probes.greet(&twice).await, Err(ProbeError::Hello(_))));
        assert_eq!(probes.heard().0.len(), 1, "the node fell silent: {:?}", probes.heard());
        // A directory where the file is to be written beside: nothing can be remembered.
        std::fs::create_dir(directory.path().join("paths.new")).unwrap();
        let both = request(vec![network(1, here), network(2, there)]);
        assert!(matches!(probes.greet(&both).await, Err(ProbeError::Store(_))));
        assert_eq!(probes.heard().0.len(), 1, "what is greeted is not what is remembered");
        assert!(matches!(probes.greet(&request(Vec::new())).await, Err(ProbeError::Store(_))));
        assert_eq!(probes.heard().0.len(), 1);
    }
}
