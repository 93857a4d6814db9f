//! The sim rung: the real deciding code of `control` and `placement` in virtual time.
//!
//! Purpose: thousands of random fault schedules a minute, safety checked after every step; then all is mended, and the cluster must take
//! writes again within a bound. [`schedule`] says what goes wrong, [`simulate`] lets it happen, [`campaign`] does so for many seeds and shrinks what
//! fails. docs/sim.md says what is simulated how, and what it can't see.
//!
//! Invariants: a seed decides everything; the same seed gives the same outcome on every machine. Only [`campaign`] knows threads.
//!
//! On failure: an [`Outcome`] with its reason; the story of the schedule is told by running it once more.

mod bugs;
pub mod campaign;
mod hits;
pub mod schedule;
#[cfg(test)]
mod tests;
mod world;

pub use bugs::Broken;
pub use hits::Hits;
use schedule::Schedule;

/// How a schedule ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What did not hold.
    pub broken: Option<String>,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Faults that there were.
    pub faults: usize,
    /// Transitions that were taken.
    pub hits: Hits,
    /// How long it took, virtual ms.
    pub virtual_ms: u64,
    /// What happened, line by line, if it was asked for.
    pub story: Vec<String>,
}

impl Outcome {
    /// The least writes for a schedule to count.
    pub const ACKNOWLEDGED_MIN: u64 = 200;
    /// The least faults.
    pub const FAULTS_MIN: usize = 2;

    /// Whether enough happened in it to say anything.
    pub fn counts(&self) -> bool {
        self.acknowledged >= Self::ACKNOWLEDGED_MIN
            && self.faults >= Self::FAULTS_MIN
            && self.hits.takeovers() >= 1
    }
}

/// Runs a schedule to its end; `tells`: with its story.
pub fn simulate(schedule: &Schedule, bug: Option<Broken>, tells: bool) -> Outcome {
    let faults = schedule.faults.len();
    let mut world = match world::World::new(schedule.clone(), bug, tells) {
        Ok(world) => world,
        Err(why) => {
            let (hits, story) = (Hits::default(), Vec::new());
            return Outcome { broken: Some(why), acknowledged: 0, faults, hits, virtual_ms: 0, story };
        }
    };
    world.run();
    Outcome {
        broken: world.judge.broken.take(),
        acknowledged: world.judge.acknowledged,
        faults,
        hits: world.hits.clone(),
        virtual_ms: world.now / world::MS,
        story: world.story.take().unwrap_or_default(),
    }
}
