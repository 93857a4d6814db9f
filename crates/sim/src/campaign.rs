//! Many seeds, on all processors; what fails is shrunk.

use crate::schedule::Schedule;
use crate::{Broken, Hits, Outcome, simulate};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first seed; the others follow.
    pub first_seed: u64,
    /// How many schedules shall count.
    pub schedules: u64,
    /// What is broken on purpose.
    pub bug: Option<Broken>,
    /// Threads.
    pub threads: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Schedules that were run.
    pub run: u64,
    /// Those of them that count.
    pub counted: u64,
    /// Writes acknowledged in all of them.
    pub acknowledged: u64,
    /// Faults in all of them.
    pub faults: u64,
    /// Virtual time of all of them, ms.
    pub virtual_ms: u64,
    /// Every legal transition, and how often it was taken in those that count.
    pub hits: Hits,
    /// The first schedule that failed, by its seed, shrunk.
    pub failure: Option<Failure>,
}

/// A schedule that failed, with as few faults as still make it fail.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What is left of it.
    pub schedule: Schedule,
    /// The places of its faults among those of the whole schedule.
    pub kept: Vec<usize>,
    /// What happened.
    pub outcome: Outcome,
}

/// So many of a hundred schedules may not count before it is said that too little happens in them.
const SPARE_PERCENT: u64 = 60;

impl Campaign {
    /// Runs until so many schedules have counted, or one has failed.
    pub fn run(&self) -> Summary {
        let (next, counted, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let limit = self.schedules + self.schedules * SPARE_PERCENT / 100 + 10;
        let work = || {
            let (mut summary, mut failed) = (Summary::default(), None);
            while !stop.load(Ordering::Relaxed) && counted.load(Ordering::Relaxed) < self.schedules {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= limit {
                    break;
                }
                let seed = self.first_seed + at;
                let outcome = simulate(&Schedule::of(seed), self.bug, false);
                if outcome.broken.is_some() {
                    stop.store(true, Ordering::Relaxed);
                    failed = Some(seed);
                    break;
                }
                if outcome.counts() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                summary.take(&outcome);
            }
            (summary, failed)
        };
        let mut whole = Summary::default();
        let mut failed: Option<u64> = None;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                if let Ok((summary, seed)) = thread.join() {
                    whole.add(&summary);
                    failed = failed.into_iter().chain(seed).min();
                }
            }
        });
        whole.failure = failed.map(|seed| shrink(&Schedule::of(seed), self.bug));
        whole
    }
}

impl Summary {
    fn take(&mut self, outcome: &Outcome) {
        self.run += 1;
        self.virtual_ms += outcome.virtual_ms;
        if outcome.counts() {
            self.counted += 1;
            self.acknowledged += outcome.acknowledged;
            self.faults += outcome.faults as u64;
            self.hits.add(&outcome.hits);
        }
    }

    fn add(&mut self, other: &Self) {
        self.run += other.run;
        self.counted += other.counted;
        self.acknowledged += other.acknowledged;
        self.faults += other.faults;
        self.virtual_ms += other.virtual_ms;
        self.hits.add(&other.hits);
    }

    /// Legal transitions that no schedule has taken.
    pub fn never(&self) -> Vec<String> {
        self.hits.rows().into_iter().filter(|(_, count)| *count == 0).map(|(row, _)| row).collect()
    }
}

/// A schedule with only these of its faults.
pub fn only(whole: &Schedule, kept: &[usize]) -> Schedule {
    let faults = kept.iter().filter_map(|at| whole.faults.get(*at).copied()).collect();
    Schedule { faults, ..whole.clone() }
}

/// Leaves faults out while it still fails.
pub fn shrink(whole: &Schedule, bug: Option<Broken>) -> Failure {
    let mut kept: Vec<usize> = (0..whole.faults.len()).collect();
    let mut at = 0;
    while at < kept.len() {
        let mut fewer = kept.clone();
        fewer.remove(at);
        if simulate(&only(whole, &fewer), bug, false).broken.is_some() {
            kept = fewer;
            at = 0;
        } else {
            at += 1;
        }
    }
    let schedule = only(whole, &kept);
    let outcome = simulate(&schedule, bug, true);
    Failure { schedule, kept, outcome }
}
