//! Random schedules: crashes, power cuts, lost disks, cut and lossy links, changes of voters, under writes; safety is looked at after
//! every step. Then everything is mended, and it must agree and go on.
//!
//! `TWINRACK_LEDGER_SEED` runs one seed, `TWINRACK_LEDGER_SEEDS` that many. A seed gives the same faults each time; in which order
//! tasks that are ready at the same moment run is tokio's choice, so that a failure may need a few tries to come again.

use super::world::World;
use crate::bug::Bugs;
use crate::config::Config;
use model::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{sleep, timeout};

const STEPS: usize = 60;
const SEEDS: u64 = 40;

/// What was done how often.
type Done = BTreeMap<&'static str, usize>;

async fn schedule(seed: u64, done: &mut Done) {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = if random.bool() { 3 } else { 5 };
    let config = Config { snapshot_after_entries: 40, keep_entries: 8, ..Config::default() };
    let mut world = World::new(count, seed, config, Bugs::default()).await;
    for _ in 0..STEPS {
        let what = step(&mut world, &mut random).await;
        *done.entry(what).or_default() += 1;
        sleep(Duration::from_millis(random.u64(1..400))).await;
        world.judge();
    }
    world.heal().await;
    for index in 0..count {
        world.nodes[index].ledger.as_ref().unwrap().close().await;
    }
    let promises = world.promises.lock().unwrap();
    *done.entry("applied").or_default() += promises.applied.len();
    *done.entry("unknown").or_default() += promises.unknown.len();
    *done.entry("surely not").or_default() += promises.not.len();
    *done.entry("confirmed").or_default() += promises.confirmed;
}

async fn step(world: &mut World, random: &mut fastrand::Rng) -> &'static str {
    let count = world.nodes.len();
    let (one, other) = (random.usize(0..count), random.usize(0..count));
    let (name, other_name) = (world.nodes[one].name.clone(), world.nodes[other].name.clone());
    let runs = world.nodes[one].ledger.is_some();
    match random.u8(0..100) {
        0..40 => {
            let at: Vec<usize> = world.running().map(|(index, _)| index).collect();
            for _ in 0..random.usize(1..8) {
                if let Some(index) = random.choice(at.iter()) {
                    world.propose_later(*index);
                }
            }
            if let Some(index) = random.choice(at.iter()) {
                world.confirm_later(*index);
            }
            "writes"
        }
        40..46 if one != other => {
            world.net.cut(&name, &other_name);
            "cut"
        }
        46..50 if one != other => {
            world.net.cut_one_way(&name, &other_name);
            "cut one way"
        }
        50..53 => {
            for index in (0..count).filter(|index| *index != one) {
                world.net.cut(&name, &world.nodes[index].name);
            }
            "isolate"
        }
        53..57 => {
            world.net.lossy(random.u8(0..30), random.u8(0..20), random.u64(5..120));
            "lossy"
        }
        57..68 => {
            world.net.heal();
            "mend the network"
        }
        68..75 if runs => {
            world.crash(one).await;
            "crash"
        }
        68..85 if !runs && world.nodes[one].has_store => {
            world.start(one).await;
            "start"
        }
        68..85 if !runs => {
            let joined = timeout(Duration::from_secs(8), world.rejoin(one)).await;
            if joined.is_ok_and(|joined| joined.is_ok()) { "join again" } else { "can't join" }
        }
        85..87 if random.bool() => {
            for index in 0..count {
                world.crash(index).await;
            }
            "crash all"
        }
        87..95 => lose_disk(world, one).await,
        95..100 => change_voters(world, random).await,
        _ => "nothing",
    }
}

/// A disk may be lost while every voter has its own: losing a majority of them would be no test of the ledger.
async fn lose_disk(world: &mut World, index: usize) -> &'static str {
    let whole = world.nodes.iter().all(|node| node.has_store);
    let Some(leader) = world.leader().filter(|leader| whole && *leader != index) else { return "nothing" };
    if world.ledger(leader).leadership().await.is_err() {
        return "nothing";
    }
    // All voters in Raft must be nodes that run or can be started: none is a ghost of an earlier loss.
    let present: BTreeSet<NodeId> = world.running().map(|(_, ledger)| ledger.id()).collect();
    let settled = world.ledger(leader).raft_voters();
    if settled.len() != 1 || !settled[0].is_subset(&present) || settled[0].len() < 3 {
        return "nothing";
    }
    world.wipe(index).await;
    "lose a disk"
}

/// To those that run, or those without one, if that is odd.
async fn change_voters(world: &mut World, random: &mut fastrand::Rng) -> &'static str {
    let Some(leader) = world.leader() else { return "nothing" };
    let leader = world.ledger(leader).clone();
    let mut to: BTreeSet<NodeId> = world.running().map(|(_, ledger)| ledger.id()).collect();
    if to.len().is_multiple_of(2) {
        let gives_up = random.choice(to.iter()).copied();
        to.retain(|id| Some(*id) != gives_up);
    }
    // Two may be lost later, and one voter alone is not to be.
    if to.len() < 3 {
        return "nothing";
    }
    let settled = leader.settle_voters().await;
    if settled.is_ok() && leader.change_voters(&to).await.is_ok() {
        "change voters"
    } else {
        "can't change voters"
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn random_schedules_lose_nothing_and_come_to_agree() {
    let seeds = match number("TWINRACK_LEDGER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TWINRACK_LEDGER_SEEDS").unwrap_or(SEEDS),
    };
    let mut done = Done::new();
    let many = seeds.clone().count() > 10;
    for seed in seeds {
        println!("TWINRACK_LEDGER_SEED={seed}");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(schedule(seed, &mut done));
    }
    println!("{done:?}");
    let all = [
        "writes",
        "cut",
        "cut one way",
        "isolate",
        "lossy",
        "crash",
        "start",
        "crash all",
        "lose a disk",
        "join again",
        "change voters",
        "applied",
        "unknown",
        "surely not",
    ];
    for what in all.iter().filter(|_| many) {
        assert!(done.get(what).is_some_and(|times| *times > 0), "never: {what}: {done:?}");
    }
}
