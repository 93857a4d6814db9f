//! A network of ledgers: letters take time, get lost, come twice; ways are cut, each direction by itself.

use crate::ledger::Ledger;
use crate::transport::{Answered, Contact, Letter, Message, Reply, Sealed, Transport, TransportError};
use crate::types::Vote;
use futures_util::future::BoxFuture;
use model::NodeName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[derive(Debug)]
struct Wires {
    ledgers: BTreeMap<NodeName, Ledger>,
    /// What one says does not reach the other.
    cut: BTreeSet<(NodeName, NodeName)>,
    /// Of a hundred letters, and of a hundred replies.
    lost_percent: u8,
    doubled_percent: u8,
    delay_ms: u64,
    /// Snapshots that somebody has taken.
    snapshots: usize,
    /// When one last greeted another.
    greeted: BTreeMap<(NodeName, NodeName), Instant>,
    random: fastrand::Rng,
}

/// The network. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct SimNet(Arc<Mutex<Wires>>);

/// The network as one node has it.
#[derive(Debug)]
pub(crate) struct Port {
    net: SimNet,
    me: NodeName,
}

impl SimNet {
    pub(crate) fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (ledgers, cut) = (BTreeMap::new(), BTreeSet::new());
        Self(Arc::new(Mutex::new(Wires {
            ledgers,
            cut,
            lost_percent: 0,
            doubled_percent: 0,
            delay_ms: 5,
            snapshots: 0,
            greeted: BTreeMap::new(),
            random,
        })))
    }

    #[cfg(test)]
    /// Of how many ways, each direction by itself, somebody has said a greeting within so long.
    pub(crate) fn greeted_within(&self, span: Duration) -> usize {
        self.wires().greeted.values().filter(|at| at.elapsed() < span).count()
    }

    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn port(&self, me: &NodeName) -> Arc<dyn Transport> {
        Arc::new(Port { net: self.clone(), me: me.clone() })
    }

    pub(crate) fn plug(&self, name: &NodeName, ledger: &Ledger) {
        self.wires().ledgers.insert(name.clone(), ledger.clone());
    }

    pub(crate) fn unplug(&self, name: &NodeName) {
        self.wires().ledgers.remove(name);
    }

    /// What `from` says does not reach `to` any more.
    pub(crate) fn cut_one_way(&self, from: &NodeName, to: &NodeName) {
        self.wires().cut.insert((from.clone(), to.clone()));
    }

    pub(crate) fn cut(&self, one: &NodeName, other: &NodeName) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    pub(crate) fn lossy(&self, lost_percent: u8, doubled_percent: u8, delay_ms: u64) {
        let mut wires = self.wires();
        (wires.lost_percent, wires.doubled_percent, wires.delay_ms) =
            (lost_percent, doubled_percent, delay_ms);
    }

    pub(crate) fn heal(&self) {
        self.wires().cut.clear();
        self.lossy(0, 0, 5);
    }

    /// How many snapshots were taken, by whom they were sent to.
    pub(crate) fn snapshots(&self) -> usize {
        self.wires().snapshots
    }

    /// How long something takes from one to the other; `None`: it gets lost.
    fn passes(&self, from: &NodeName, to: &NodeName) -> Option<Duration> {
        let mut wires = self.wires();
        let lost = wires.random.u8(0..100) < wires.lost_percent;
        let most = wires.delay_ms * 1000;
        let delay = Duration::from_micros(wires.random.u64(200..=most));
        (!lost && !wires.cut.contains(&(from.clone(), to.clone()))).then_some(delay)
    }

    fn doubled(&self) -> bool {
        let mut wires = self.wires();
        wires.random.u8(0..100) < wires.doubled_percent
    }

    fn at(&self, name: &NodeName) -> Option<Ledger> {
        self.wires().ledgers.get(name).cloned()
    }
}

/// The vote of whoever sends a snapshot, if the letter is one.
fn snapshot_of(letter: &Letter) -> Option<Vote> {
    let Sealed::Member(envelope) = &letter.0 else { return None };
    if let Message::Snapshot { vote, .. } = envelope.message { Some(vote) } else { None }
}

/// The vote that whoever was sent a snapshot knows now: the sender's, if it has taken it.
fn taker_of(reply: &Reply) -> Option<Vote> {
    if let Answered::Snapshot(response) = &reply.0 { Some(response.vote) } else { None }
}

/// As it is on the wire.
fn copied<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_slice(&serde_json::to_vec(value).unwrap()).unwrap()
}

impl Transport for Port {
    fn send(
        &self,
        to: Contact,
        letter: Letter,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Reply, TransportError>> {
        let (net, me) = (self.net.clone(), self.me.clone());
        Box::pin(async move {
            let node = to.name.clone();
            let lost = async |why: &str| {
                sleep(limit).await;
                Err(TransportError::Lost { node: to.name.clone(), why: why.to_owned() })
            };
            let Some(there) = net.passes(&me, &node) else { return lost("lost on the way there").await };
            // A transport delivers once; Raft's own letters bear more, and openraft sends them again itself.
            if matches!(letter.kind(), "append" | "vote" | "snapshot" | "pre-vote") && net.doubled() {
                let (net, me, node, letter) = (net.clone(), me.clone(), node.clone(), letter.clone());
                tokio::spawn(async move {
                    sleep(there * 20).await;
                    if let Some(ledger) = net.at(&node) {
                        let _ = ledger.receive(copied(&letter), |name| *name == me).await;
                    }
                });
            }
            if letter.kind() == "greeting" {
                net.wires().greeted.insert((me.clone(), node.clone()), Instant::now());
            }
            sleep(there).await;
            let Some(ledger) = net.at(&node) else {
                return Err(TransportError::Unreachable { node, why: "nobody listens there".to_owned() });
            };
            let sent_by = snapshot_of(&letter);
            // It goes on there when nobody waits for it any more.
            let from = me.clone();
            let taken =
                tokio::spawn(async move { ledger.receive(copied(&letter), |name| *name == from).await });
            let Ok(taken) = taken.await else { return lost("its node is gone").await };
            if sent_by.is_some() && taken.as_ref().ok().and_then(taker_of) == sent_by {
                net.wires().snapshots += 1;
            }
            let Some(back) = net.passes(&node, &me) else { return lost("lost on the way back").await };
            sleep(back).await;
            match taken {
                Ok(reply) => Ok(copied(&reply)),
                Err(refusal) => Err(TransportError::Refused { node, why: refusal.to_string() }),
            }
        })
    }
}
