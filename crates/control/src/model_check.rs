//! The epoch / leg / fence protocol, looked at in every state that a small cluster can get into.
//!
//! The deciding code is the real one: [`State::apply`](crate::State::apply), [`crate::target`], [`crate::owner`]. Around it [`world`] has
//! what a kernel, a drive and a network do to it, as far as design matters: messages that are late, lost, doubled and out of order
//! (whatever was ever proposed may reach the ledger at any time, any number of times); answers that are lost when a
//! link is cut; writes that are queued in a target when it is fenced; bitmaps that md forgets; caches that forget. The
//! decider is not there: any takeover and any activation may come at any time, which is more than it would ever do. Time is
//! not there either: all patience is zero, and what a clock would order comes in every order. [`explore`] goes through them all.
//!
//! What it can't see: more than one block and one write at a time, a node that lags behind the ledger while it acts (it sees
//! the ledger whenever it acts, but acts as late as it likes), crashes between two steps of one assembly, drives that tear
//! a write. The simulation rung has those.

mod explore;
mod grow;
mod judge;
mod kernel;
mod proposed;
mod walk;
mod world;

use crate::bug::Bug;
use crate::state::Cache;
use crate::transition::{LegCause, VolumeCause};
use explore::{Causes, Verdict, explore};
use model::Mirror;
use world::{Config, World};

/// Nothing happens to it: what a test is about is switched on.
const ONE_AND_ONE: Config = Config {
    nodes: 2,
    mirror: Mirror::TwoWay,
    caches: &[Cache::Safe],
    new_owners: &[1, 2],
    epochs: 0,
    writes: 0,
    crashes: 0,
    gates: 0,
    errors: 0,
    pulls: 0,
    handovers: 0,
    used: 0,
    grows: false,
    coarse: false,
    slow_engine: false,
    bug: None,
};

const TWO_AND_TWO: Config =
    Config { nodes: 4, mirror: Mirror::FourWay, new_owners: &[2], coarse: true, ..ONE_AND_ONE };

/// Goes through all states, and asks that each of these was among the reasons why one followed another.
fn holds(config: Config, legs: &[LegCause], volumes: &[VolumeCause]) {
    match explore(World::opened(config), 6_000_000) {
        Verdict::Holds { states, complete, causes } => {
            println!("{states} states, {causes:?}");
            assert!(complete, "more than {states} states: the budgets are too large to look at all of it");
            let never: Vec<_> = legs.iter().filter(|cause| !causes.legs.contains(cause)).collect();
            assert!(never.is_empty(), "never {never:?}");
            let never: Vec<_> = volumes.iter().filter(|cause| !causes.volumes.contains(cause)).collect();
            assert!(never.is_empty(), "never {never:?}");
        }
        Verdict::Broken { why, steps } => panic!("{why}\n{}", steps.join("\n")),
    }
}

/// A takeover, a power loss, a gate that loses its paths and a write, in every order.
#[test]
fn one_and_one_holds_through_a_takeover_a_power_loss_and_a_lost_gate() {
    use LegCause as L;
    let config = Config { epochs: 1, writes: 1, crashes: 1, gates: 1, ..ONE_AND_ONE };
    let legs = [L::Lost, L::Unconfirmed, L::Kept, L::Returned, L::RebuildBegun, L::Rebuilt, L::Superseded];
    holds(config, &legs, &[VolumeCause::Takeover, VolumeCause::Activate, VolumeCause::Opened]);
}

/// Two takeovers, one of them perhaps while the other is under way, and two writes: no old write lands after a newer one.
#[test]
fn one_and_one_holds_through_two_takeovers() {
    let config = Config { epochs: 2, writes: 2, ..ONE_AND_ONE };
    holds(config, &[LegCause::Unconfirmed, LegCause::Rebuilt], &[VolumeCause::Takeover]);
}

/// One drive forgets what it acknowledged.
#[test]
fn one_and_one_holds_with_a_volatile_cache() {
    let config =
        Config { caches: &[Cache::Safe, Cache::Volatile], epochs: 1, writes: 1, crashes: 1, ..ONE_AND_ONE };
    holds(config, &[LegCause::CacheLost], &[VolumeCause::LastLegSuspect]);
}

/// Orderly and disorderly changes of owner, and a drive that errs.
#[test]
fn one_and_one_holds_through_handovers_and_drive_errors() {
    let config = Config { epochs: 1, writes: 1, errors: 1, handovers: 1, ..ONE_AND_ONE };
    let volumes = [VolumeCause::HandOver, VolumeCause::Takeover, VolumeCause::Close, VolumeCause::Open];
    holds(config, &[LegCause::Errored], &volumes);
}

/// A leg whose drive forgets becomes in sync while the volume is closed: it is not opened again from what the leg had not flushed.
#[test]
fn one_and_one_holds_when_a_leg_is_rebuilt_while_it_is_closed() {
    let caches: &[Cache] = &[Cache::Safe, Cache::Volatile];
    let config = Config { caches, writes: 1, gates: 1, pulls: 1, handovers: 1, ..ONE_AND_ONE };
    holds(config, &[LegCause::Rebuilt], &[VolumeCause::Close, VolumeCause::HandOver]);
}

/// What is to be closed is used by no process, and stays open: whatever was not heard meanwhile is heard of.
#[test]
fn one_and_one_holds_when_it_is_used_and_stays_open() {
    let config = Config { epochs: 1, writes: 1, gates: 1, used: 1, ..ONE_AND_ONE };
    holds(config, &[LegCause::Lost, LegCause::Rebuilt], &[VolumeCause::Takeover]);
}

/// The engine takes its time between looking and answering, and a second leg fails meanwhile.
#[test]
fn one_and_one_holds_with_a_slow_engine() {
    let config = Config { writes: 1, gates: 1, errors: 1, slow_engine: true, ..ONE_AND_ONE };
    holds(config, &[LegCause::Errored, LegCause::Lost], &[VolumeCause::LastLegSuspect]);
}

/// A drive is pulled and put back, also that of the last leg in sync, which its own node has in its array.
#[test]
fn one_and_one_holds_when_a_drive_is_pulled() {
    use LegCause as L;
    let config = Config { writes: 1, gates: 1, pulls: 2, ..ONE_AND_ONE };
    holds(config, &[L::Stayed, L::Kept, L::Lost, L::Returned, L::Rebuilt], &[]);
}

/// The volume grows while a takeover, a lost gate or a power loss comes at any time.
#[test]
fn one_and_one_holds_while_it_grows() {
    let legs = [LegCause::Lost, LegCause::Rebuilt];
    holds(Config { gates: 1, grows: true, ..ONE_AND_ONE }, &legs, &[]);
    let legs = [LegCause::Unconfirmed, LegCause::Kept, LegCause::Rebuilt];
    holds(Config { epochs: 1, crashes: 1, grows: true, ..ONE_AND_ONE }, &legs, &[VolumeCause::Takeover]);
}

/// The same where the drive may have forgotten, and while the volume is taken over.
#[test]
fn one_and_one_holds_when_a_drive_that_forgets_is_pulled() {
    let volatile: &[Cache] = &[Cache::Safe, Cache::Volatile];
    let config = Config { caches: volatile, epochs: 1, writes: 1, pulls: 1, ..ONE_AND_ONE };
    holds(config, &[LegCause::CacheLost], &[VolumeCause::LastLegSuspect]);
}

/// Four legs, of which any may be lost on the way.
#[test]
fn a_reduced_two_and_two_holds() {
    holds(Config { epochs: 1, writes: 1, ..TWO_AND_TWO }, &[LegCause::Unconfirmed], &[VolumeCause::Activate]);
}

/// Rules broken on purpose, the least in which they show, and whether they do.
#[test]
fn every_broken_rule_is_caught() {
    let volatile: &[Cache] = &[Cache::Safe, Cache::Volatile];
    let table = [
        (Bug::LetGoBeforeCommit, Config { writes: 1, gates: 1, ..ONE_AND_ONE }),
        (
            Bug::ReleaseWithoutLook,
            Config { writes: 1, gates: 1, errors: 1, slow_engine: true, ..ONE_AND_ONE },
        ),
        (Bug::SkipBarrier, Config { writes: 1, epochs: 1, ..ONE_AND_ONE }),
        (Bug::AnyRunConfirms, Config { writes: 1, epochs: 1, crashes: 1, caches: volatile, ..ONE_AND_ONE }),
        (Bug::InSyncByItself, Config { writes: 1, gates: 1, ..ONE_AND_ONE }),
        (Bug::RestoreExports, Config { writes: 1, crashes: 1, caches: volatile, ..ONE_AND_ONE }),
        (Bug::ForgetMap, Config { writes: 1, gates: 1, handovers: 1, ..ONE_AND_ONE }),
        (Bug::OpenUnequal, Config { writes: 1, epochs: 1, ..ONE_AND_ONE }),
        (Bug::GrowAtFirstLaid, Config { grows: true, ..ONE_AND_ONE }),
        (Bug::HandOverUnclosed, Config { writes: 1, handovers: 1, ..ONE_AND_ONE }),
    ];
    // Here legs stay where they are: the sim rung moves them, and maps extents. A target that fills again has to lag behind the ledger, which none does here, and
    // a leg that is on its way out has no path. Virtual machines are the sim rung's, too.
    let elsewhere = [
        Bug::FreeAtOnce,
        Bug::FreeBeforeBarrier,
        Bug::ExtendUncovered,
        Bug::LayAgain,
        Bug::MapAtOnce,
        Bug::MapAnew,
        Bug::StartEarly,
        Bug::ResumeAfterSwitch,
        Bug::SameGeneration,
        Bug::RestoreTwice,
    ];
    let here: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| !elsewhere.contains(bug)).collect();
    assert_eq!(table.map(|(bug, _)| bug).to_vec(), here, "every bug has its line");
    let mut missed = Vec::new();
    for (bug, config) in table {
        match explore(World::opened(Config { bug: Some(bug), ..config }), 2_000_000) {
            Verdict::Broken { why, steps } => println!("{bug:?}: caught after {} steps: {why}", steps.len()),
            Verdict::Holds { states, .. } => missed.push((bug, states)),
        }
    }
    assert_eq!(missed, []);
}

/// Long random schedules with many faults, safety after every step; then all is mended, and everything must come back.
#[test]
fn random_schedules_are_safe_and_end_well() {
    let many = Config {
        epochs: 6,
        writes: 40,
        crashes: 6,
        gates: 6,
        errors: 1,
        pulls: 4,
        handovers: 3,
        used: 2,
        grows: true,
        ..ONE_AND_ONE
    };
    let volatile: &[Cache] = &[Cache::Safe, Cache::Volatile];
    let four = Config { nodes: 4, mirror: Mirror::FourWay, new_owners: &[1, 2, 3, 4], ..many };
    let shapes = [
        many,
        Config { caches: volatile, ..many },
        four,
        Config { caches: volatile, slow_engine: true, ..four },
        Config { nodes: 3, new_owners: &[1, 2, 3], slow_engine: true, ..many },
    ];
    let mut causes = Causes::default();
    let mut offline = 0;
    for seed in 0..500 {
        for config in shapes {
            offline += usize::from(walk::walk(config, seed, &mut causes) == walk::End::Offline);
        }
    }
    let all_legs = crate::transition::LEGS.iter().map(|(_, cause, _)| *cause);
    let by_operators = [LegCause::Overridden, LegCause::SetAside, LegCause::Unproven];
    let never: Vec<_> =
        all_legs.filter(|cause| !by_operators.contains(cause) && !causes.legs.contains(cause)).collect();
    assert_eq!(never, []);
    let all_volumes = crate::transition::VOLUMES.iter().map(|(_, cause, _)| *cause);
    let by_operators = [VolumeCause::Override, VolumeCause::ForcedQuorum];
    let never: Vec<_> = all_volumes
        .filter(|cause| !by_operators.contains(cause) && !causes.volumes.contains(cause))
        .collect();
    assert_eq!(never, []);
    println!("{offline} of 2500 ended offline");
    assert!(offline < 1250, "{offline} of 2500 schedules lost their last leg: the others prove little");
}
