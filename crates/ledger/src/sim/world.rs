//! Nodes with their disks, what was promised to clients, and whether it holds.

use super::disk::SimDisk;
use super::net::SimNet;
use crate::bug::Bugs;
use crate::config::Config;
use crate::join::{Newcomer, ask_to_join, beginning};
use crate::ledger::{Ledger, Role};
use crate::propose::{Applied, ProposeError};
use crate::store::{Store, Work, fill, open_backend};
use crate::token::StoreId;
use crate::transport::Contact;
use crate::types::{Identity, node_id};
use control::state::{Operation, Settings, Subject};
use control::{ClusterCommand, Command, State, check};
use model::{DriveId, NodeId, NodeName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What clients were told.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Applied, at this place of the log.
    pub(crate) applied: BTreeMap<u32, u64>,
    /// Surely not.
    pub(crate) not: BTreeSet<u32>,
    /// Nobody knows.
    pub(crate) unknown: BTreeSet<u32>,
    /// How often a leadership was confirmed, and what was wrong with one.
    pub(crate) confirmed: usize,
    pub(crate) wrong: Vec<String>,
}

pub(crate) struct SimNode {
    pub(crate) name: NodeName,
    address: SocketAddr,
    pub(crate) disk: SimDisk,
    pub(crate) ledger: Option<Ledger>,
    /// Whether its disk holds a ledger.
    pub(crate) has_store: bool,
    /// It has come back with an empty disk, as who it was: nobody may believe it.
    pub(crate) impostor: bool,
    /// Up to which entry it has been judged since it was started.
    judged: u64,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) net: SimNet,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) config: Config,
    pub(crate) bugs: Bugs,
    pub(crate) promises: Arc<Mutex<Promises>>,
    next: u32,
    /// There was a forced quorum: two ledgers go on from one past, and what one promised the other does not hold.
    pub(crate) forked: bool,
    /// Every entry that somebody has applied, as it was first seen.
    seen: BTreeMap<u64, String>,
    /// Who was seen leading, in which term, in the order of terms.
    pub(crate) led: BTreeSet<(u64, usize)>,
}

/// A command that leaves its number in the ledger, and is refused when it is there.
pub(crate) fn mark(number: u32) -> Command {
    let operation = Operation { what: "mark".to_owned(), driver: NodeId(1) };
    Command::Cluster(ClusterCommand::Begin(Subject::Drive(DriveId(number)), operation))
}

pub(crate) fn has_mark(state: &State, number: u32) -> bool {
    state.operations.contains_key(&Subject::Drive(DriveId(number)))
}

impl World {
    /// Nodes in two racks by turns and a witness, the last; all vote.
    pub(crate) async fn new(count: usize, seed: u64, config: Config, bugs: Bugs) -> Self {
        let node = |index: usize| SimNode {
            name: if index + 1 == count { "witness".to_owned() } else { format!("n{}", index + 1) }
                .parse()
                .unwrap(),
            address: SocketAddr::from((Ipv4Addr::new(10, 0, 0, index as u8 + 1), 7443)),
            disk: SimDisk::new(seed ^ index as u64),
            ledger: None,
            has_store: false,
            impostor: false,
            judged: 0,
        };
        let nodes = (0..count).map(node).collect();
        let promises = Arc::new(Mutex::new(Promises::default()));
        let net = SimNet::new(seed);
        let mut world = Self {
            seed,
            net,
            nodes,
            config,
            bugs,
            promises,
            next: 0,
            forked: false,
            seen: BTreeMap::new(),
            led: BTreeSet::new(),
        };
        let first = world.newcomer(0);
        let (identity, begin) =
            beginning(&first, Some("zone1".parse().unwrap()), Settings::default()).unwrap();
        let db = open_backend(world.nodes[0].disk.plugged()).unwrap();
        fill(&db, Path::new("sim"), &identity, Some(&begin)).unwrap();
        drop(db);
        world.nodes[0].has_store = true;
        world.start(0).await;
        world.wait("the first leads", |world| world.leader().is_some()).await;
        for index in 1..count {
            world.rejoin(index).await.unwrap();
        }
        world.vote_all().await;
        world
    }

    pub(crate) fn newcomer(&self, index: usize) -> Newcomer {
        Newcomer { name: self.nodes[index].name.clone(), address: self.nodes[index].address }
    }

    /// Starts a node from its disk.
    pub(crate) async fn start(&mut self, index: usize) {
        let node = &self.nodes[index];
        let db = open_backend(node.disk.plugged()).unwrap();
        let (store, identity) = Store::over(db, Path::new("sim"), Work::Here, self.bugs).unwrap();
        let config = Config { seed: Some(self.seed ^ (index as u64 + 77)), ..self.config.clone() };
        let port = self.net.port(&node.name);
        let ledger = Ledger::start(store, identity, config, port, self.bugs).await.unwrap();
        self.net.plug(&self.nodes[index].name, &ledger);
        self.nodes[index].ledger = Some(ledger);
        self.nodes[index].judged = 0;
    }

    /// The machine loses its power.
    pub(crate) async fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.disk.cut();
        self.net.unplug(&node.name);
        if let Some(ledger) = node.ledger.take() {
            ledger.close().await;
        }
    }

    /// The machine loses its disk, too.
    pub(crate) async fn wipe(&mut self, index: usize) {
        self.crash(index).await;
        let node = &mut self.nodes[index];
        node.disk = SimDisk::new(self.seed ^ 0xd15c ^ index as u64);
        (node.has_store, node.impostor) = (false, false);
    }

    /// A machine without a ledger joins, for the first time or again, under whichever id it gets.
    pub(crate) async fn rejoin(&mut self, index: usize) -> Result<(), String> {
        let leader = self.leader().ok_or("nobody leads")?;
        self.rejoin_at(index, leader).await
    }

    /// The same, at this leader's.
    pub(crate) async fn rejoin_at(&mut self, index: usize, leader: usize) -> Result<(), String> {
        let newcomer = self.newcomer(index);
        let witness = index + 1 == self.nodes.len();
        let zone = (!witness).then(|| format!("zone{}", 1 + index % 2).parse().unwrap());
        let contact = self.contact(leader);
        let leader = self.ledger(leader);
        let token = leader.invite(newcomer.name.clone(), zone, Duration::from_hours(1)).await;
        let token = token.map_err(|error| error.to_string())?;
        let port = self.net.port(&newcomer.name);
        let joined = ask_to_join(&newcomer, &token, &[contact], &self.config, &*port).await;
        let identity = joined.map_err(|error| error.to_string())?;
        self.begin_empty(index, &identity);
        self.start(index).await;
        Ok(())
    }

    fn begin_empty(&mut self, index: usize, identity: &Identity) {
        let db = open_backend(self.nodes[index].disk.plugged()).unwrap();
        fill(&db, Path::new("sim"), identity, None).unwrap();
        self.nodes[index].has_store = true;
    }

    /// What no call allows: an empty store under the id that the node had.
    pub(crate) async fn come_back_under_the_old_id(&mut self, index: usize, old: &Identity) {
        let identity = Identity { store: StoreId::new().unwrap(), ..old.clone() };
        self.begin_empty(index, &identity);
        self.start(index).await;
        self.nodes[index].impostor = true;
    }

    fn contact(&self, index: usize) -> Contact {
        Contact { name: self.nodes[index].name.clone(), address: self.nodes[index].address }
    }

    pub(crate) fn ledger(&self, index: usize) -> &Ledger {
        self.nodes[index].ledger.as_ref().expect("runs")
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (usize, &Ledger)> {
        let running = |(index, node): (usize, &'_ SimNode)| node.ledger.as_ref().map(|_| index);
        let indices: Vec<usize> = self.nodes.iter().enumerate().filter_map(running).collect();
        indices.into_iter().map(|index| (index, self.ledger(index)))
    }

    /// Who leads: of several that think so the one of the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = self.running().filter(|(_, ledger)| ledger.status().role == Role::Leader);
        leads.max_by_key(|(_, ledger)| ledger.status().term).map(|(index, _)| index)
    }

    pub(crate) async fn wait(&mut self, what: &str, held: impl Fn(&Self) -> bool) -> Duration {
        let began = Instant::now();
        while !held(self) {
            assert!(
                began.elapsed() < Duration::from_mins(1),
                "seed {}: not in 60 s: {what}: {}",
                self.seed,
                self.show()
            );
            sleep(Duration::from_millis(10)).await;
            self.judge();
        }
        began.elapsed()
    }

    pub(crate) fn show(&self) -> String {
        let show = |(index, ledger): (usize, &Ledger)| {
            format!("\n{}: {:?}", self.nodes[index].name, ledger.status())
        };
        self.running().map(show).collect()
    }

    /// Proposes a new number at a node, and remembers what it was told. The work goes on by itself.
    pub(crate) fn propose_later(&mut self, index: usize) -> u32 {
        let number = self.next;
        self.next += 1;
        let (ledger, promises) = (self.ledger(index).clone(), Arc::clone(&self.promises));
        tokio::spawn(async move {
            let answer = ledger.propose(mark(number)).await;
            keep(&promises, number, &answer);
        });
        number
    }

    /// Asks a node to confirm that it leads: if it does, it has all that was acknowledged before it was asked.
    pub(crate) fn confirm_later(&self, index: usize) {
        let (ledger, promises) = (self.ledger(index).clone(), Arc::clone(&self.promises));
        let before = promises.lock().unwrap().applied.values().copied().max().unwrap_or(0);
        tokio::spawn(async move {
            let Ok(leadership) = ledger.leadership().await else { return };
            let mut promises = promises.lock().unwrap();
            promises.confirmed += 1;
            if leadership.index < before {
                promises.wrong.push(format!("{leadership:?} although {before} was acknowledged"));
            }
        });
    }

    /// Proposes a new number, and waits for the answer.
    pub(crate) async fn write(&mut self, index: usize) -> Result<Applied, ProposeError> {
        let number = self.next;
        self.next += 1;
        let answer = self.ledger(index).propose(mark(number)).await;
        keep(&self.promises, number, &answer);
        answer
    }

    /// How long it takes from now until a command is applied.
    pub(crate) async fn writable_again(&mut self) -> Duration {
        let began = Instant::now();
        loop {
            assert!(
                began.elapsed() < Duration::from_mins(1),
                "seed {}: not writable: {}",
                self.seed,
                self.show()
            );
            if let Some(leader) = self.leader() {
                if let Ok(Ok(_)) = timeout(Duration::from_millis(400), self.write(leader)).await {
                    return began.elapsed();
                }
                // The time-out has dropped it without an answer.
                let mut promises = self.promises.lock().unwrap();
                let number = self.next - 1;
                if !promises.not.contains(&number) {
                    promises.unknown.insert(number);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Safety, of what every running node has now.
    pub(crate) fn judge(&mut self) {
        if self.forked {
            return;
        }
        let (mut applied, mut led) = (Vec::new(), Vec::new());
        for (index, ledger) in self.running() {
            let (status, state) = (ledger.status(), ledger.state().borrow().clone());
            let name = self.nodes[index].name.clone();
            if status.role == Role::Leader {
                led.push((status.term, index));
            }
            assert_eq!(check(&state), [], "seed {}: {name}", self.seed);
            let upto = status.applied.unwrap_or(0);
            applied.push((index, name, upto, state, ledger.log_for_tests(self.nodes[index].judged, upto)));
        }
        self.led.extend(led);
        let promises = self.promises.lock().unwrap();
        assert!(promises.wrong.is_empty(), "seed {}: {:?}", self.seed, promises.wrong);
        for (index, name, upto, state, log) in applied {
            self.nodes[index].judged = upto;
            for (number, at) in &promises.applied {
                let there = *at > upto || has_mark(&state, *number);
                assert!(there, "seed {}: {name}, at entry {upto}, has lost {number}, entry {at}", self.seed);
            }
            for number in &promises.not {
                assert!(
                    !has_mark(&state, *number),
                    "seed {}: {name} has {number}, surely not proposed",
                    self.seed
                );
            }
            for (at, entry) in log {
                let first = self.seen.entry(at).or_insert_with(|| entry.clone());
                assert_eq!(*first, entry, "seed {}: {name} has applied another entry {at}", self.seed);
            }
        }
    }

    /// Everything is mended and everybody comes back: then it must all agree, and go on.
    pub(crate) async fn heal(&mut self) {
        self.net.heal();
        for index in 0..self.nodes.len() {
            if self.nodes[index].impostor {
                self.wipe(index).await;
            }
            if self.nodes[index].ledger.is_none() && self.nodes[index].has_store {
                self.start(index).await;
            }
        }
        self.writable_again().await;
        for index in 0..self.nodes.len() {
            let mut tries = 0;
            while !self.nodes[index].has_store {
                tries += 1;
                if let Err(why) = self.rejoin(index).await {
                    assert!(tries < 20, "seed {}: {} can't join: {why}", self.seed, self.nodes[index].name);
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
        self.vote_all().await;
        self.writable_again().await;
        let applied = |ledger: &Ledger| ledger.status().applied;
        self.wait("all have applied the same", |world| {
            let all: BTreeSet<_> = world.running().map(|(_, ledger)| applied(ledger)).collect();
            all.len() == 1 && world.running().count() == world.nodes.len()
        })
        .await;
        let states: Vec<_> = self.running().map(|(_, ledger)| ledger.state().borrow().clone()).collect();
        assert!(states.iter().all(|state| **state == *states[0]), "seed {}: states differ", self.seed);
        self.judge();
    }

    /// Makes all that run voters.
    async fn vote_all(&mut self) {
        for _ in 0..40 {
            self.judge();
            if let Some(leader) = self.leader() {
                let leader = self.ledger(leader).clone();
                let all: BTreeSet<NodeId> = self.running().map(|(_, ledger)| ledger.id()).collect();
                let settled = leader.settle_voters().await.is_ok();
                if settled && leader.status().voters == all && leader.status().learners.is_empty() {
                    return;
                }
                let _ = leader.change_voters(&all).await;
            }
            sleep(Duration::from_millis(250)).await;
        }
        panic!("seed {}: voters do not change: {}", self.seed, self.show());
    }
}

fn keep(promises: &Mutex<Promises>, number: u32, answer: &Result<Applied, ProposeError>) {
    let mut promises = promises.lock().unwrap();
    match answer {
        Ok(applied) => drop(promises.applied.insert(number, applied.index)),
        Err(ProposeError::NoLeader { .. } | ProposeError::Busy) => drop(promises.not.insert(number)),
        Err(ProposeError::Unknown { .. }) => drop(promises.unknown.insert(number)),
        Err(other) => promises.wrong.push(format!("{number}: {other}")),
    }
}

impl Ledger {
    /// The entries of these places that it has in its store, as text.
    fn log_for_tests(&self, behind: u64, upto: u64) -> Vec<(u64, String)> {
        let entries = self.store().entries_for_tests(behind + 1..=upto);
        let text = |entry: &crate::types::Entry| serde_json::to_string(entry).unwrap();
        entries.iter().map(|entry| (entry.log_id.index, text(entry))).collect()
    }

    /// The nodes that vote in Raft.
    pub(crate) fn raft_voters(&self) -> Vec<BTreeSet<NodeId>> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow();
        let sets = metrics.membership_config.membership().get_joint_config().clone();
        sets.into_iter().map(|set| set.into_iter().map(node_id).collect()).collect()
    }
}
