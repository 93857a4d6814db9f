//! Many seeds, on all processors, each in a runtime of its own on paused time.
//!
//! A schedule judges by assertions, as tests do: here its panics, and those of whatever runs in it, are caught and are its verdict.

use super::schedules::schedule;
use super::tally::{Happened, Tally, What};
use crate::bug::Bugs;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::time::timeout;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The first seed; the others follow.
    pub first_seed: u64,
    /// How many schedules shall count.
    pub schedules: u64,
    /// What is broken on purpose.
    pub bugs: Bugs,
    /// Threads.
    pub threads: usize,
}

/// How a schedule ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What did not hold.
    pub broken: Option<String>,
    /// What happened.
    pub happened: Happened,
    /// How long it took, virtual ms.
    pub virtual_ms: u64,
    /// What happened, line by line, if it was asked for.
    pub story: Vec<String>,
}

/// What came of a campaign.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Schedules that were run and held.
    pub run: u64,
    /// Those of them that count.
    pub counted: u64,
    /// What happened in those that count.
    pub happened: Happened,
    /// Virtual time of all of them, ms.
    pub virtual_ms: u64,
    /// The first that failed, by its seed.
    pub failure: Option<Failure>,
}

/// A schedule that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What did not hold, when it failed first.
    pub broken: String,
    /// How often it failed again when it was run [`AGAIN`] times more: the order of tasks that are ready at once is not the seed's.
    pub again: u32,
}

/// How often a seed that has failed is run again.
pub const AGAIN: u32 = 8;

/// So many of a hundred schedules may not count before it is said that too little happens in them.
const SPARE_PERCENT: u64 = 60;

/// Longer than any schedule takes, in virtual time.
const VIRTUAL_LIMIT: Duration = Duration::from_mins(30);

impl Outcome {
    /// The least commands acknowledged for a schedule to count.
    pub const APPLIED_MIN: u64 = 30;
    /// The least faults.
    pub const FAULTS_MIN: u64 = 5;

    /// Whether enough happened in it to say anything: besides these an election, and a disk lost or voters changed.
    pub fn counts(&self) -> bool {
        let times = |what| self.happened.times(what);
        times(What::Applied) >= Self::APPLIED_MIN
            && self.happened.faults() >= Self::FAULTS_MIN
            && times(What::Elected) >= 1
            && times(What::DiskLost) + times(What::VotersChanged) >= 1
    }
}

impl Summary {
    /// What never happened.
    pub fn never(&self) -> Vec<What> {
        What::ALL.into_iter().filter(|what| self.happened.times(*what) == 0).collect()
    }

    fn take(&mut self, outcome: &Outcome) {
        self.run += 1;
        self.virtual_ms += outcome.virtual_ms;
        if outcome.counts() {
            self.counted += 1;
            self.happened.add_all(&outcome.happened);
        }
    }

    fn add(&mut self, other: &Self) {
        self.run += other.run;
        self.counted += other.counted;
        self.virtual_ms += other.virtual_ms;
        self.happened.add_all(&other.happened);
    }
}

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
                let outcome = simulate(seed, self.bugs, false);
                if let Some(broken) = outcome.broken {
                    stop.store(true, Ordering::Relaxed);
                    failed = Some((seed, broken));
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
        let mut failed: Option<(u64, String)> = None;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                if let Ok((summary, seed)) = thread.join() {
                    whole.add(&summary);
                    failed = failed.take().into_iter().chain(seed).min();
                }
            }
        });
        whole.failure = failed.map(|(seed, broken)| self.again(seed, broken));
        whole
    }

    fn again(&self, seed: u64, broken: String) -> Failure {
        let failed = (0..AGAIN).filter(|_| simulate(seed, self.bugs, false).broken.is_some());
        let again = failed.count().try_into().unwrap_or(AGAIN);
        Failure { seed, broken, again }
    }
}

/// Runs the schedule of a seed to its end; `tells`: with its story.
pub fn simulate(seed: u64, bugs: Bugs, tells: bool) -> Outcome {
    let mut tally = Tally::new(tells);
    listen();
    HEARD.with_borrow_mut(|heard| *heard = Some(Vec::new()));
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        let ended =
            runtime.block_on(async { timeout(VIRTUAL_LIMIT, schedule(seed, bugs, &mut tally)).await });
        Ok(ended.map_err(|_| "it does not come to an end"))
    }));
    let heard = HEARD.with_borrow_mut(Option::take).unwrap_or_default();
    let broken = match ran {
        Ok(Ok(Ok(()))) | Err(_) => heard.into_iter().next(),
        Ok(Ok(Err(late))) => Some(late.to_owned()),
        Ok(Err(error)) => Some(std::io::Error::to_string(&error)),
    };
    let Tally { happened, virtual_ms, story, .. } = tally;
    Outcome { broken, happened, virtual_ms, story: story.unwrap_or_default() }
}

thread_local! {
    /// What has panicked on this thread while it runs a schedule: everything of a schedule runs on its thread.
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Has panics within schedules taken down instead of printed. All others go where they went before.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let said = info.payload_as_str().unwrap_or("something panicked");
            let place = info.location().map_or(String::new(), |place| format!(" ({place})"));
            let taken = HEARD.with_borrow_mut(|heard| {
                heard.as_mut().map(|heard| heard.push(format!("{said}{place}"))).is_some()
            });
            if !taken {
                before(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bug::Bug;

    fn campaign(schedules: u64, bugs: Bugs) -> Summary {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Campaign { first_seed: 1, schedules, bugs, threads }.run()
    }

    /// What `cargo xtask test` runs of the rung.
    #[test]
    fn random_schedules_lose_nothing_and_come_to_agree() {
        let summary = campaign(100, Bugs::default());
        if let Some(failure) = &summary.failure {
            panic!("seed {}, {} of {AGAIN} times again: {}", failure.seed, failure.again, failure.broken);
        }
        assert!(summary.counted >= 100, "{} of {} count", summary.counted, summary.run);
        assert_eq!(summary.never(), [], "{:?}", summary.happened);
    }

    /// A vote that was not on disk is missed too seldom to ask for it here: the store's own tests see it.
    #[test]
    fn broken_rules_are_seen() {
        for bug in [Bug::AcknowledgeUnsynced, Bug::AnyStore] {
            let summary = campaign(100, Bugs::with(bug));
            let failure = summary.failure.unwrap_or_else(|| panic!("{} is not seen", bug.name()));
            assert!(failure.again > 0, "{}: seed {}: {}", bug.name(), failure.seed, failure.broken);
        }
    }

    /// Were a panic in a task, which tokio keeps to itself, not heard, openraft's own would not be.
    #[test]
    fn what_panics_in_a_task_is_heard() {
        listen();
        HEARD.with_borrow_mut(|heard| *heard = Some(Vec::new()));
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { tokio::spawn(async { panic!("in a task") }).await }).unwrap_err();
        let heard = HEARD.with_borrow_mut(Option::take).unwrap();
        assert!(heard.len() == 1 && heard[0].starts_with("in a task"), "{heard:?}");
    }
}
