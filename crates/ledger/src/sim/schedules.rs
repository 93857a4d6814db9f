//! Random schedules: power cuts, lost disks, cut and lossy links, changes of voters, under writes; safety is looked at after
//! every step. Then everything is mended, and it must agree and go on.
//!
//! A seed gives the same faults each time; in which order tasks that are ready at the same moment run is tokio's choice, so that a
//! failure may need a few tries to come again.

use super::tally::{Tally, What};
use super::world::World;
use crate::bug::Bugs;
use crate::config::Config;
use control::state::Voters;
use model::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const STEPS: usize = 90;
/// How often a step is drawn before one that can't be made now is let be.
const DRAWS: usize = 6;
/// What is in flight when a node loses its power in the middle of a write: it has that long to get there.
const IN_A_WRITE: Duration = Duration::from_millis(300);

/// Runs the schedule of a seed. It panics if something does not hold.
pub(crate) async fn schedule(seed: u64, bugs: Bugs, tally: &mut Tally) {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = if random.bool() { 3 } else { 5 };
    let config = Config { snapshot_after_entries: 40, keep_entries: 8, ..Config::default() };
    let mut world = World::new(count, seed, config, bugs).await;
    tally.tell(format_args!("{count} nodes vote"));
    let mut led = world.led.clone();
    for _ in 0..STEPS {
        for _ in 0..DRAWS {
            if step(&mut world, &mut random, tally).await {
                break;
            }
        }
        sleep(Duration::from_millis(random.u64(1..400))).await;
        world.judge();
        for (term, index) in world.led.difference(&led) {
            tally.note(What::Elected, &format!("{} in term {term}", world.nodes[*index].name));
        }
        led.clone_from(&world.led);
        take_down(&world, tally);
    }
    tally.tell(format_args!("all is mended"));
    world.heal().await;
    take_down(&world, tally);
    for node in &world.nodes {
        node.ledger.as_ref().expect("runs").close().await;
    }
    tally.tell(format_args!("all agree"));
}

/// What the world counts itself, as it is now.
fn take_down(world: &World, tally: &mut Tally) {
    let promises = world.promises.lock().expect("nobody has panicked");
    let counted = [
        (What::Applied, promises.applied.len()),
        (What::NotTaken, promises.not.len()),
        (What::Unknown, promises.unknown.len()),
        (What::Confirmed, promises.confirmed),
        (What::SnapshotInstalled, world.net.snapshots()),
    ];
    for (what, times) in counted {
        let more = (times as u64).saturating_sub(tally.happened.times(what));
        tally.happened.add(what, more);
    }
}

/// One step, if the one that was drawn can be made.
async fn step(world: &mut World, random: &mut fastrand::Rng, tally: &mut Tally) -> bool {
    let one = random.usize(0..world.nodes.len());
    match random.u8(0..100) {
        0..36 => write(world, random, tally),
        36..50 => break_ways(world, one, random, tally),
        50..61 => {
            world.net.heal();
            tally.note(What::Mended, "all ways");
            true
        }
        61..70 => lose_power(world, one, random, tally).await,
        70..84 => come_back(world, random, tally).await,
        84..93 => lose_disk(world, one, random, tally).await,
        _ => change_voters(world, random, tally).await,
    }
}

fn write(world: &mut World, random: &mut fastrand::Rng, tally: &mut Tally) -> bool {
    let at: Vec<usize> = world.running().map(|(index, _)| index).collect();
    for _ in 0..random.usize(1..8) {
        if let Some(index) = random.choice(at.iter()) {
            let number = world.propose_later(*index);
            tally.tell(format_args!("{number} is proposed at {}", world.nodes[*index].name));
        }
    }
    if let Some(index) = random.choice(at.iter()) {
        world.confirm_later(*index);
    }
    !at.is_empty()
}

fn break_ways(world: &World, one: usize, random: &mut fastrand::Rng, tally: &mut Tally) -> bool {
    let other = random.usize(0..world.nodes.len());
    let (name, other_name) = (&world.nodes[one].name, &world.nodes[other].name);
    match random.u8(0..14) {
        0..5 if one != other => {
            world.net.cut(name, other_name);
            tally.note(What::Cut, &format!("{name} and {other_name}"));
        }
        5..9 if one != other => {
            world.net.cut_one_way(name, other_name);
            tally.note(What::CutOneWay, &format!("{name} to {other_name}"));
        }
        9..11 => {
            let others = world.nodes.iter().filter(|node| node.name != *name);
            others.for_each(|node| world.net.cut(name, &node.name));
            tally.note(What::CutOff, &name.to_string());
        }
        11.. => {
            let (lost, doubled, delay) = (random.u8(0..30), random.u8(0..20), random.u64(5..120));
            world.net.lossy(lost, doubled, delay);
            tally.note(What::Lossy, &format!("{lost} % lost, {doubled} % twice, up to {delay} ms"));
        }
        _ => return false,
    }
    true
}

async fn lose_power(world: &mut World, one: usize, random: &mut fastrand::Rng, tally: &mut Tally) -> bool {
    if random.u8(0..12) == 0 {
        for index in 0..world.nodes.len() {
            world.crash(index).await;
        }
        tally.note(What::PowerLostEverywhere, "everybody");
        return true;
    }
    if world.nodes[one].ledger.is_none() {
        return false;
    }
    let name = world.nodes[one].name.to_string();
    if random.bool() {
        let writes = random.u64(0..40);
        world.nodes[one].disk.cut_after(writes);
        sleep(IN_A_WRITE).await;
        tally.note(What::PowerLostInAWrite, &format!("{name}, after {writes} more"));
    } else {
        tally.note(What::PowerLost, &name);
    }
    world.crash(one).await;
    true
}

/// Somebody who is down, if anybody is.
async fn come_back(world: &mut World, random: &mut fastrand::Rng, tally: &mut Tally) -> bool {
    let away = |world: &World, index: &usize| {
        let node = &world.nodes[*index];
        node.ledger.is_none() || node.impostor
    };
    let down: Vec<usize> = (0..world.nodes.len()).filter(|index| away(world, index)).collect();
    let Some(index) = random.choice(down) else { return false };
    let name = world.nodes[index].name.to_string();
    if world.nodes[index].has_store && !world.nodes[index].impostor {
        world.start(index).await;
        tally.note(What::Restarted, &name);
        return true;
    }
    if world.nodes[index].impostor {
        world.wipe(index).await;
    }
    let joined = timeout(Duration::from_secs(8), world.rejoin(index)).await;
    if joined.is_ok_and(|joined| joined.is_ok()) {
        let id = world.ledger(index).id();
        tally.note(What::JoinedAgain, &format!("{name} as {id}"));
    } else {
        tally.tell(format_args!("{name} can't join now"));
    }
    true
}

/// A disk may be lost while every voter has its own: losing a majority of them would be no test of the ledger.
async fn lose_disk(world: &mut World, index: usize, random: &mut fastrand::Rng, tally: &mut Tally) -> bool {
    let whole = world.nodes.iter().all(|node| node.has_store && !node.impostor);
    let Some(leader) = world.leader().filter(|leader| whole && *leader != index) else { return false };
    // With it all that the leader has is committed, a change of voters of an earlier one included.
    if !matches!(timeout(Duration::from_secs(1), world.write(leader)).await, Ok(Ok(_))) {
        return false;
    }
    // All voters, in Raft and by the ledger, must be nodes that run: none is a ghost of an earlier loss. The ledger may say already that voters change
    // to some who, once lost, would hold that change up for ever.
    let present: BTreeSet<NodeId> = world.running().map(|(_, ledger)| ledger.id()).collect();
    let ledger = world.ledger(leader);
    let Voters::Settled(settled) = ledger.state().borrow().voters.clone() else { return false };
    if ledger.raft_voters() != [settled.clone()] || !settled.is_subset(&present) || settled.len() < 3 {
        return false;
    }
    let name = world.nodes[index].name.to_string();
    let old = world.nodes[index].ledger.as_ref().map(|ledger| ledger.identity().clone());
    world.wipe(index).await;
    tally.note(What::DiskLost, &name);
    if let Some(old) = old.filter(|_| random.bool()) {
        world.come_back_under_the_old_id(index, &old).await;
        tally.note(What::CameAsItWas, &format!("{name} as {}", old.node));
    }
    true
}

/// To those that run, or those without one, if that is odd.
async fn change_voters(world: &mut World, random: &mut fastrand::Rng, tally: &mut Tally) -> bool {
    let Some(leader) = world.leader() else { return false };
    let leader = world.ledger(leader).clone();
    let honest = |index: &usize| !world.nodes[*index].impostor;
    let honest = world.running().filter(|(index, _)| honest(index));
    let mut to: BTreeSet<NodeId> = honest.map(|(_, ledger)| ledger.id()).collect();
    if to.len().is_multiple_of(2) {
        let gives_up = random.choice(to.iter()).copied();
        to.retain(|id| Some(*id) != gives_up);
    }
    // Two may be lost later, and one voter alone is not to be.
    if to.len() < 3 || (leader.raft_voters() == [to.clone()]) {
        return false;
    }
    let settled = leader.settle_voters().await;
    match settled.map(|()| to.clone()) {
        Ok(to) if leader.change_voters(&to).await.is_ok() => {
            tally.note(What::VotersChanged, &format!("{to:?}"));
        }
        _ => tally.tell(format_args!("voters can't change now")),
    }
    true
}
