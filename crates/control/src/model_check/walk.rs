//! Random schedules: longer ones, with more faults, than can be looked at in every order. Then the faults end, the real decider
//! takes part, and the volume must be open, whole, and take a write.

use super::explore::Causes;
use super::world::{Action, Config, NOW, World};
use crate::command::{Command, VolumeCommand};
use crate::decider::{self, Decider};
use crate::lease::GrantorEvent;
use crate::state::{LegState, Phase};
use crate::testing::volume;
use model::NodeId;

/// How a schedule ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Open, every leg in sync, and a write acknowledged.
    Whole,
    /// The last leg erred or forgot: that is for an operator.
    Offline,
}

/// Steps with faults.
const STEPS: usize = 250;
/// Rounds after them in which everything that can happen does.
const ROUNDS_MAX: usize = 100;

/// Rounds that a gate may be without path before its owner hears of it.
const GATES_EVERY: usize = 10;

/// One schedule from a seed.
pub(super) fn walk(config: Config, seed: u64, causes: &mut Causes) -> End {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::opened(config);
    let mut steps = Vec::new();
    for _ in 0..STEPS {
        let actions = world.actions();
        // Faults are many among what may happen; most of the time something else does.
        let calm: Vec<_> = actions.iter().filter(|action| !is_fault(action)).cloned().collect();
        let among = if random.u8(..) < 40 || calm.is_empty() { &actions } else { &calm };
        let Some(action) = random.choice(among).cloned() else { break };
        causes.count(world.act(&action));
        steps.push(format!("{action:?}"));
        if let Some(why) = world.broken() {
            panic!("seed {seed}: {why}\n{config:?}\n{}", steps.join("\n"));
        }
    }
    heal(&mut world, seed, &mut steps, causes)
}

fn is_fault(action: &Action) -> bool {
    matches!(
        action,
        Action::Takeover(_)
            | Action::Activate
            | Action::Crash(_)
            | Action::GateLost(..)
            | Action::Error(..)
            | Action::Away(_)
            | Action::HandOver(..)
            | Action::Close(_)
            | Action::CloseUsed(_)
    )
}

fn heal(world: &mut World, seed: u64, steps: &mut Vec<String>, causes: &mut Causes) -> End {
    let mut decider = Decider::new(decider::Timing::default());
    for event in [GrantorEvent::Leading, GrantorEvent::Confirmed(1)] {
        decider.step(NOW, &world.ledger, decider::Event::Lease(event));
    }
    let mut wanted = None;
    for round in 0..ROUNDS_MAX {
        if round % GATES_EVERY == 0 {
            world.notice_lost_gates();
        }
        let actions = world.actions();
        for action in actions.into_iter().filter(|action| !is_fault(action)) {
            // A write when all is whole, not before: it shows that the volume takes one.
            let writes = matches!(action, Action::Write(_));
            if world.actions().contains(&action) && !writes {
                causes.count(world.act(&action));
                steps.push(format!("mended: {action:?}"));
                if let Some(why) = world.broken() {
                    panic!("seed {seed}, while all is mended: {why}\n{}\n{world:?}", steps.join("\n"));
                }
            }
        }
        let up: Vec<NodeId> =
            world.machines.iter().filter(|(_, machine)| machine.up).map(|(id, _)| *id).collect();
        for node in up {
            decider.step(NOW, &world.ledger, decider::Event::Heard(node));
        }
        for effect in decider.step(NOW, &world.ledger, decider::Event::Look) {
            if let decider::Effect::Propose(Command::Volume(_, _, command)) = effect {
                causes.count(world.commit_now(command));
            }
        }
        // An owner whose array is gone in its own boot asks for the volume anew.
        if let Some(owner) = world.orphaned() {
            causes.count(world.commit_now(VolumeCommand::Takeover { owner, lease_over: true }));
        }
        let volume = volume(&world.ledger);
        if volume.phase == Phase::Offline {
            return End::Offline;
        }
        if wanted.is_some_and(|value| world.settled.contains(&value)) {
            return End::Whole;
        }
        let whole = volume.legs.values().all(|leg| leg.state == LegState::InSync) && volume.growing.is_none();
        let owner = volume.owner;
        let idle = world.array(owner).is_some_and(|array| array.admitted && array.writing.is_none());
        if whole && idle && wanted.is_none() && matches!(volume.phase, Phase::Open { .. }) {
            world.act(&Action::Write(owner));
            wanted = Some(world.written);
        }
    }
    panic!("seed {seed}: all was mended, and it did not come back: {world:?}");
}
