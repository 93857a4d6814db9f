//! The watch: looks at the whole cluster again and again, names what is lost, and raises what is wrong while all carries.
//!
//! ```text
//!   asker (one per member) ──health──► latest reports ──► judge ──► Sighting (what is lost or wrong, how long paths were silent)
//! ```
//!
//! Invariants: members are asked independently, so that one that hangs delays nobody else; a report's age is counted from
//! when it was asked for, so that it never looks younger than it is. What is lost is decided by
//! [`network::diagnose`], what else is wrong by [`network::conditions`]; each remembers what it saw in a memory of its own; here is
//! only the clock.
//!
//! While a watch rests ([`Watch::rest`]) nobody is asked and nothing is judged: what was told last stands.
//!
//! On failure: a member that can't be asked has a report that gets older, which the diagnosis knows how to take.

use crate::{Cluster, Member};
use api::{DriftGlance, Health};
use model::{NodeName, StorageNetworkIndex};
use network::conditions::{self, Raised, Told};
use network::diagnose::{Diagnosis, Memory, NodeReport, Thresholds};
use network::wiring::NodeCabling;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How often each member is asked, and how often the reports are judged.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long a member has to answer; long before that its last report is too old to be believed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen at a glance.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// When.
    pub at: Instant,
    /// How old the oldest of the reports was that were young enough, ms: what it told was so then.
    pub oldest_ms: u32,
    /// What is lost, and what can't be told.
    pub diagnosis: Diagnosis,
    /// What is wrong besides, in the order in which it was raised.
    pub conditions: Vec<Raised>,
    /// What may be wrong besides, and is not certain yet.
    pub suspected: usize,
    /// Whether it is known how long round trips usually take; before, none is found to take longer.
    pub knows_usual: bool,
    /// Members whose report is young enough to be believed.
    pub reporting: usize,
    /// The other members.
    pub not_reporting: Vec<NodeName>,
    /// How many ways of each storage network carry, as far as young reports tell.
    pub paths: BTreeMap<StorageNetworkIndex, PathCount>,
    /// How many ways each storage network has.
    pub ways: u32,
    /// The drifts that each member has found, and how many are not mended, by its last report.
    pub drifts: BTreeMap<NodeName, DriftGlance>,
}

/// Ways of a storage network, from one node to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathCount {
    /// Something was heard lately.
    pub carrying: u32,
    /// Nothing was heard for as long as makes a path dead.
    pub silent: u32,
}

impl Sighting {
    /// Whether everything is well, and everybody says so: every way of every storage network was heard of. (That
    /// nothing is lost is not enough: before the first hello nobody misses one.)
    pub fn is_well(&self, members: usize) -> bool {
        let carries = |count: &PathCount| count.carrying == self.ways && count.silent == 0;
        self.diagnosis.losses.is_empty()
            && self.diagnosis.blocked.is_empty()
            && self.conditions.is_empty()
            && self.suspected == 0
            && self.reporting == members
            && !self.paths.is_empty()
            && self.paths.values().all(carries)
            && self.drifting().next().is_none()
    }

    /// The members whose links are not as planned.
    pub fn drifting(&self) -> impl Iterator<Item = &NodeName> {
        self.drifts.iter().filter(|(_, drifts)| drifts.standing > 0).map(|(node, _)| node)
    }

    /// The stable ids of what is lost and of what is wrong besides, sorted.
    pub fn named(&self) -> Vec<String> {
        let lost = self.diagnosis.losses.iter().map(|loss| loss.what.id());
        let wrong = self.conditions.iter().map(|raised| raised.condition.what.id());
        let mut ids: Vec<String> = lost.chain(wrong).collect();
        ids.sort();
        ids
    }
}

/// The longest silences since somebody began to listen for them, milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Silences {
    /// Of each path: network, sender, receiver. A path that was never heard counts since the beginning.
    paths_ms: BTreeMap<(StorageNetworkIndex, NodeName, NodeName), u32>,
    /// Of each node's reports: while it does not report, nobody knows what it hears.
    unobserved_ms: BTreeMap<NodeName, u32>,
}

impl Silences {
    /// The longest silence of any path of a storage network between nodes of which this holds; `None`: there is no such path.
    pub fn of_network(&self, number: u8, among: impl Fn(&NodeName) -> bool) -> Option<u32> {
        let paths = self
            .paths_ms
            .iter()
            .filter(|((network, from, to), _)| network.get() == number && among(from) && among(to));
        paths.map(|(_, ms)| *ms).max()
    }

    /// The longest time without a report of any node of which this holds.
    pub fn unobserved_ms(&self, among: impl Fn(&NodeName) -> bool) -> u32 {
        let nodes = self.unobserved_ms.iter().filter(|(node, _)| among(node));
        nodes.map(|(_, ms)| *ms).max().unwrap_or_default()
    }

    fn note(&mut self, reports: &[NodeReport], listening_ms: u32) {
        for report in reports {
            let unobserved = self.unobserved_ms.entry(report.node.clone()).or_default();
            *unobserved = report.age_ms.min(listening_ms).max(*unobserved);
            for path in &report.paths {
                let silent_ms = path.heard_ms_ago.unwrap_or(listening_ms).min(listening_ms);
                let way = (path.network, path.peer.clone(), report.node.clone());
                let longest = self.paths_ms.entry(way).or_default();
                *longest = silent_ms.max(*longest);
            }
        }
    }
}

/// A running watch. It ends when dropped.
#[derive(Debug)]
pub struct Watch {
    sightings: watch::Receiver<Sighting>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// How many want it to rest.
    resting: watch::Sender<u32>,
    /// A report has come, for the one who judges.
    news: Notify,
    reports: Mutex<BTreeMap<NodeName, (Instant, Health)>>,
    silences: Mutex<(Instant, Silences)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these; if it did, the data is whole all the same.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Starts watching. `known_good` is the cabling when all is well.
    pub fn start(cluster: &Cluster, known_good: Vec<NodeCabling>, thresholds: Thresholds) -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            resting: watch::Sender::new(0),
            news: Notify::new(),
            reports: Mutex::default(),
            silences: Mutex::new((now, Silences::default())),
        });
        let mut tasks = JoinSet::new();
        for member in &cluster.members {
            tasks.spawn(ask(member.client.clone(), Arc::clone(&shared)));
        }
        let nothing = Sighting {
            at: now,
            oldest_ms: 0,
            diagnosis: Diagnosis::default(),
            conditions: Vec::new(),
            suspected: 0,
            knows_usual: false,
            reporting: 0,
            not_reporting: Vec::new(),
            paths: BTreeMap::new(),
            ways: 0,
            drifts: BTreeMap::new(),
        };
        let (tell, sightings) = watch::channel(nothing);
        let judge = Judge { cluster: cluster.clone(), known_good, thresholds, shared: Arc::clone(&shared) };
        tasks.spawn(judge.run(tell));
        Self { sightings, shared, _tasks: tasks }
    }

    /// The sightings, each as it comes.
    pub fn sightings(&self) -> watch::Receiver<Sighting> {
        self.sightings.clone()
    }

    /// Lets the members be until this is dropped: to be asked costs them something. Losses meanwhile are seen afterwards, if they last.
    pub fn rest(&self) -> Rest {
        self.shared.resting.send_modify(|count| *count += 1);
        Rest(Arc::clone(&self.shared))
    }

    /// Begins anew to listen for silences.
    pub fn listen_for_silences(&self) {
        *lock(&self.shared.silences) = (Instant::now(), Silences::default());
    }

    /// The longest silences since [`Watch::listen_for_silences`].
    pub fn silences(&self) -> Silences {
        lock(&self.shared.silences).1.clone()
    }
}

/// Nobody is asked and nothing is judged while one of these is kept.
#[derive(Debug)]
#[must_use = "it goes on when this is dropped"]
pub struct Rest(Arc<Shared>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.resting.send_modify(|count| *count -= 1);
    }
}

impl Shared {
    /// Returns when nobody wants it to rest; whether somebody did.
    async fn rested(&self) -> bool {
        let mut resting = self.resting.subscribe();
        let did = *resting.borrow_and_update() > 0;
        // The sender is in `self`: waiting can't fail.
        let _ = resting.wait_for(|count| *count == 0).await;
        did
    }

    /// Waits until so many members have been asked since a moment and have answered, as long as one has to answer at most.
    async fn all_told_since(&self, since: Instant, members: usize) {
        let told = async {
            loop {
                let news = self.news.notified();
                if lock(&self.reports).values().filter(|(asked, _)| *asked >= since).count() >= members {
                    return;
                }
                news.await;
            }
        };
        // Whoever does not answer has a report that is old.
        let _ = timeout(PATIENCE, told).await;
    }
}

/// Asks one member for ever.
async fn ask(client: api::Client, shared: Arc<Shared>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.rested().await;
        let asked = Instant::now();
        // An answer that is late or an error leaves the last report standing, which ages.
        if let Ok(Ok(health)) = timeout(PATIENCE, client.health()).await {
            lock(&shared.reports).insert(client.node().clone(), (asked, health));
            shared.news.notify_one();
        }
    }
}

struct Judge {
    cluster: Cluster,
    known_good: Vec<NodeCabling>,
    thresholds: Thresholds,
    shared: Arc<Shared>,
}

impl Judge {
    async fn run(self, tell: watch::Sender<Sighting>) {
        let start = Instant::now();
        let mut memory = Memory::default();
        let mut attention = conditions::Memory::default();
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !tell.is_closed() {
            ticks.tick().await;
            if self.shared.rested().await {
                self.shared.all_told_since(Instant::now(), self.cluster.members.len()).await;
            }
            let told = self.told();
            let reports: Vec<NodeReport> = told.iter().map(|told| told.report.clone()).collect();
            self.note_silences(&reports);
            let networks = &self.cluster.spec.storage_networks;
            let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            let diagnosis = memory.diagnose(now_ms, networks, &self.known_good, &reports, self.thresholds);
            let conditions =
                attention.judge(now_ms, &self.cluster.spec, &self.known_good, &told, self.thresholds);
            let young: Vec<&NodeReport> =
                reports.iter().filter(|report| report.age_ms <= self.thresholds.stale_after_ms).collect();
            let silent = |member: &&Member| young.iter().all(|report| report.node != member.name);
            tell.send_replace(Sighting {
                at: Instant::now(),
                oldest_ms: young.iter().map(|report| report.age_ms).max().unwrap_or_default(),
                diagnosis,
                conditions,
                suspected: attention.suspected(),
                knows_usual: attention.knows_usual(),
                reporting: young.len(),
                not_reporting: self.cluster.members.iter().filter(silent).map(|m| m.name.clone()).collect(),
                paths: self.paths(&young),
                ways: self.ways(),
                drifts: self.drifts(),
            });
        }
    }

    /// The ways of every storage network, those of which nobody reports anything included.
    fn paths(&self, young: &[&NodeReport]) -> BTreeMap<StorageNetworkIndex, PathCount> {
        let mut paths = count_paths(young, self.thresholds.dead_after_ms);
        for network in &self.cluster.spec.storage_networks {
            paths.entry(network.index).or_default();
        }
        paths
    }

    /// From every node to every other.
    fn ways(&self) -> u32 {
        let nodes = self.cluster.spec.nodes().count();
        u32::try_from(nodes * nodes.saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The latest report of every member, with its age.
    fn told(&self) -> Vec<Told> {
        let reports = lock(&self.shared.reports);
        let traffic = |adapter: &_| self.cluster.traffic(adapter);
        let told = |(asked, health): &(Instant, Health)| Told {
            report: health.report(milliseconds(asked.elapsed()), traffic),
            qualities: health.qualities.clone(),
        };
        reports.values().map(told).collect()
    }

    fn drifts(&self) -> BTreeMap<NodeName, DriftGlance> {
        let reports = lock(&self.shared.reports);
        reports.iter().map(|(node, (_, health))| (node.clone(), health.drifts)).collect()
    }

    fn note_silences(&self, reports: &[NodeReport]) {
        let mut guard = lock(&self.shared.silences);
        let (since, silences) = &mut *guard;
        silences.note(reports, milliseconds(since.elapsed()));
    }
}

/// The ways that carry, and those that don't. A report's age counts: what it heard is older by that.
fn count_paths(reports: &[&NodeReport], dead_after_ms: u32) -> BTreeMap<StorageNetworkIndex, PathCount> {
    let mut counts: BTreeMap<StorageNetworkIndex, PathCount> = BTreeMap::new();
    for report in reports {
        for path in &report.paths {
            let count = counts.entry(path.network).or_default();
            let heard = path.heard_ms_ago.map(|ms| ms.saturating_add(report.age_ms));
            if heard.is_some_and(|ms| ms <= dead_after_ms) {
                count.carrying += 1;
            } else {
                count.silent += 1;
            }
        }
    }
    counts
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use network::diagnose::PathView;

    fn index(number: u64) -> StorageNetworkIndex {
        StorageNetworkIndex::try_from(number).unwrap()
    }

    #[test]
    fn nobody_is_well_before_every_way_was_heard_of_or_with_links_that_are_not_as_planned() {
        let sighting = |paths: &[(u64, u32, u32)]| Sighting {
            at: Instant::now(),
            oldest_ms: 0,
            diagnosis: Diagnosis::default(),
            conditions: Vec::new(),
            suspected: 0,
            knows_usual: false,
            reporting: 3,
            not_reporting: Vec::new(),
            paths: paths
                .iter()
                .map(|(network, carrying, silent)| {
                    (index(*network), PathCount { carrying: *carrying, silent: *silent })
                })
                .collect(),
            ways: 2,
            drifts: BTreeMap::new(),
        };
        let drifting = |standing| {
            let drifts = [("a1".parse().unwrap(), DriftGlance { count: 4, standing })].into();
            Sighting { drifts, ..sighting(&[(1, 2, 0), (2, 2, 0)]) }.is_well(3)
        };
        assert!(drifting(0) && !drifting(1));
        assert!(sighting(&[(1, 2, 0), (2, 2, 0)]).is_well(3));
        for paths in [&[][..], &[(1, 2, 0), (2, 0, 0)], &[(1, 2, 0), (2, 1, 1)], &[(1, 2, 1), (2, 2, 0)]] {
            assert!(!sighting(paths).is_well(3), "{paths:?}");
        }
        assert!(!sighting(&[(1, 2, 0), (2, 2, 0)]).is_well(4));
    }

    #[test]
    fn what_is_silent_for_whom_is_told_apart() {
        let heard = |peer: &str, heard_ms_ago| PathView {
            peer: peer.parse().unwrap(),
            network: index(1),
            heard_ms_ago,
            late_ms_ago: None,
        };
        let report = |node: &str, age_ms, paths| NodeReport {
            node: node.parse().unwrap(),
            age_ms,
            listening_ms: 9000,
            paths,
            nics: Vec::new(),
        };
        let mut silences = Silences::default();
        let a1 = report("a1", 100, vec![heard("b1", Some(250)), heard("b2", None)]);
        silences.note(&[a1, report("b2", 4000, vec![heard("a1", Some(700))])], 3000);
        silences.note(&[report("a1", 50, vec![heard("b1", Some(10)), heard("b2", Some(10))])], 3200);
        let but_b2 = |name: &NodeName| name.as_str() != "b2";
        assert_eq!(silences.of_network(1, |_| true), Some(3000));
        assert_eq!(silences.of_network(1, but_b2), Some(250));
        assert_eq!(silences.of_network(2, |_| true), None);
        assert_eq!((silences.unobserved_ms(|_| true), silences.unobserved_ms(but_b2)), (3000, 100));
    }

    #[test]
    fn ways_carry_that_were_heard_lately_counted_from_now() {
        let path = |network, heard_ms_ago| PathView {
            peer: "b1".parse().unwrap(),
            network: index(network),
            heard_ms_ago,
            late_ms_ago: None,
        };
        let report = |age_ms, paths| NodeReport {
            node: "a1".parse().unwrap(),
            age_ms,
            listening_ms: 9000,
            paths,
            nics: Vec::new(),
        };
        let young = report(100, vec![path(1, Some(900)), path(1, Some(901)), path(2, None)]);
        let old = report(1000, vec![path(2, Some(0)), path(2, Some(1))]);
        let counts = count_paths(&[&young, &old], 1000);
        let count = |network| counts[&index(network)];
        assert_eq!(count(1), PathCount { carrying: 1, silent: 1 });
        assert_eq!(count(2), PathCount { carrying: 1, silent: 2 });
    }
}
