//! `cargo xtask hil --rung sim`: many seeds, what they reached, and how a failure is told.

use clap::Args;
use sim::campaign::{Campaign, Failure, Summary, only, shrink};
use sim::schedule::Schedule;
use sim::{Broken, Outcome, simulate};
use std::process::ExitCode;
use std::time::Instant;

/// Which schedules, and what is broken in them.
#[derive(Debug, Default, Args)]
pub(crate) struct SimArguments {
    /// Sim and raft rungs: how many schedules shall count, from `--seed` on [default: 2000, on the raft rung 200, or the one of `--seed`; with `--set nightly` 100000 and 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) seeds: Option<u64>,
    /// Sim rung: leave out all faults of the seed's schedule but these, counted from 0
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "seed", conflicts_with = "seeds")]
    pub(crate) only: Option<Vec<usize>>,
    /// Raft rung: tell what came of it as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Break a rule on purpose, on machines under the suites that are named; `matrix` breaks each and says which are caught (docs/kill-matrix.md; the sim and raft rungs must be built with `--features seeded-bugs`, and raft has no matrix)
    #[arg(long, value_name = "NAME")]
    pub(crate) bug: Option<String>,
}

impl SimArguments {
    /// One that was given and is not for machines, if any.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given =
            [("--seeds", self.seeds.is_some()), ("--only", self.only.is_some()), ("--json", self.json)];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// What a run without `--seeds` and `--seed` is, and what one with `--set nightly` is.
const SCHEDULES: u64 = 2_000;
const SCHEDULES_NIGHTLY: u64 = 100_000;
/// How many schedules a broken rule may pass before it is said not to be seen.
const MATRIX_SCHEDULES: u64 = 10_000;

pub(crate) fn run(arguments: &SimArguments, seed: Option<u64>, nightly: bool) -> ExitCode {
    if arguments.json {
        eprintln!("error: `--json` is for `--rung raft`");
        return ExitCode::from(2);
    }
    let bug = match arguments.bug.as_deref() {
        None => None,
        Some("matrix") if !Broken::all().is_empty() => {
            return matrix(arguments.seeds.unwrap_or(MATRIX_SCHEDULES));
        }
        Some(name) => match Broken::named(name) {
            Some(bug) => Some(bug),
            None => return no_such_bug(name),
        },
    };
    match (seed, arguments.seeds.or(nightly.then_some(SCHEDULES_NIGHTLY))) {
        (Some(seed), None) => one(seed, arguments, bug),
        (first_seed, seeds) => {
            many(first_seed.unwrap_or(1), seeds.unwrap_or(SCHEDULES), bug, arguments.bug.as_deref())
        }
    }
}

fn no_such_bug(name: &str) -> ExitCode {
    let known: Vec<String> = Broken::all().into_iter().map(|(name, _)| name).collect();
    if known.is_empty() {
        eprintln!("error: this build has no broken rules, so not `{name}`");
        eprintln!(" help: cargo run -p xtask --features seeded-bugs -- hil --rung sim --bug {name}");
    } else {
        eprintln!("error: there is no broken rule `{name}`");
        eprintln!(" help: matrix, {}", known.join(", "));
    }
    ExitCode::from(2)
}

/// As many as there are processors.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn many(first_seed: u64, schedules: u64, bug: Option<Broken>, name: Option<&str>) -> ExitCode {
    let started = Instant::now();
    let summary = Campaign { first_seed, schedules, bug, threads: threads() }.run();
    let (seconds, milliseconds) = (started.elapsed().as_secs_f64(), started.elapsed().as_millis());
    let milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
    for (row, count) in summary.hits.rows() {
        println!("{count:>10}  {row}");
    }
    println!(
        "\n{} of {} schedules count: {} writes acknowledged, {} faults, {} takeovers; {} s of virtual time in {seconds:.1} s, {} schedules a minute",
        summary.counted,
        summary.run,
        summary.acknowledged,
        summary.faults,
        summary.hits.takeovers(),
        summary.virtual_ms / 1000,
        summary.counted * 60_000 / milliseconds.max(1),
    );
    if let Some(failure) = &summary.failure {
        tell(failure, name);
        return ExitCode::FAILURE;
    }
    verdict(&summary, schedules)
}

/// Nothing failed: whether enough happened for that to mean something.
fn verdict(summary: &Summary, schedules: u64) -> ExitCode {
    let never = summary.never();
    if summary.counted < schedules {
        eprintln!(
            "error: only {} of {schedules} schedules count: too little happens in the others",
            summary.counted
        );
        return ExitCode::FAILURE;
    }
    if !never.is_empty() {
        eprintln!("error: legal transitions that were never taken:");
        for row in &never {
            eprintln!("  {row}");
        }
        eprintln!(" help: more schedules (`--seeds`); these show nothing of them");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn tell(failure: &Failure, bug: Option<&str>) {
    let Failure { schedule, kept, outcome } = failure;
    println!(
        "\nFAILED: seed {}, {:?}{}",
        schedule.seed,
        schedule.kind,
        if schedule.volatile { ", volatile drives" } else { "" }
    );
    println!(
        "{}",
        outcome.broken.as_deref().unwrap_or("it does not fail any more: this is a fault of the simulation")
    );
    println!("\nwhat is left of its schedule:");
    schedule.faults.iter().for_each(|fault| println!("  {fault}"));
    println!("  {:>6} ms  all is mended", schedule.mended_ms);
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let bug = bug.map_or(String::new(), |bug| format!(" --bug {bug}"));
    println!("\nreplay: cargo xtask hil --rung sim --seed {} --only {}{bug}", schedule.seed, kept.join(","));
}

/// One schedule, told line by line.
fn one(seed: u64, arguments: &SimArguments, bug: Option<Broken>) -> ExitCode {
    let whole = Schedule::of(seed);
    let all = (0..whole.faults.len()).collect();
    let kept = arguments.only.clone().unwrap_or(all);
    if let Some(none) = kept.iter().find(|at| **at >= whole.faults.len()) {
        eprintln!("error: seed {seed} has {} faults, counted from 0: there is no {none}", whole.faults.len());
        return ExitCode::from(2);
    }
    let schedule = only(&whole, &kept);
    let outcome: Outcome = simulate(&schedule, bug, true);
    outcome.story.iter().for_each(|line| println!("{line}"));
    println!("\n{} writes acknowledged, {} takeovers", outcome.acknowledged, outcome.hits.takeovers());
    if outcome.broken.is_none() {
        return ExitCode::SUCCESS;
    }
    let failure = if arguments.only.is_some() {
        Failure { schedule, kept, outcome: Outcome { story: Vec::new(), ..outcome } }
    } else {
        shrink(&whole, bug)
    };
    tell(&failure, arguments.bug.as_deref());
    ExitCode::FAILURE
}

/// Each rule broken, one after the other.
fn matrix(schedules: u64) -> ExitCode {
    let mut missed = 0;
    println!("| broken rule | caught after | by |\n|---|---|---|");
    for (name, bug) in Broken::all() {
        let summary = Campaign { first_seed: 1, schedules, bug: Some(bug), threads: threads() }.run();
        if let Some(failure) = &summary.failure {
            let why = failure.outcome.broken.as_deref().unwrap_or_default();
            let first = why.split(';').next().unwrap_or(why);
            println!("| `{name}` | {} schedules | {first} |", summary.run + 1);
        } else {
            missed += usize::from(!bug.only_elsewhere());
            let by = if bug.only_elsewhere() { "the model check sees it" } else { "MISSED" };
            println!("| `{name}` | not in {} | {by} |", summary.run);
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
