//! `cargo xtask hil --rung raft`: many seeds, what happened in them, and how a failure is told.

use crate::sim_command::{SimArguments, threads};
use ledger::Bugs;
use ledger::sim::{AGAIN, Campaign, Failure, Outcome, Summary, What, simulate};
use serde_json::{Map, Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What a run without `--seeds` and `--seed` is, and what one with `--set nightly` is.
const SCHEDULES: u64 = 200;
const SCHEDULES_NIGHTLY: u64 = 10_000;

pub(crate) fn run(arguments: &SimArguments, seed: Option<u64>, nightly: bool) -> ExitCode {
    if arguments.only.is_some() {
        eprintln!(
            "error: `--only` is for `--rung sim`: the faults of this rung's schedules are drawn as they go"
        );
        return ExitCode::from(2);
    }
    let bugs = match arguments.bug.as_deref() {
        None => Bugs::default(),
        Some(name) => match Bugs::named(name) {
            Some(bugs) => bugs,
            None => return no_such_bug(name),
        },
    };
    let seeds = arguments.seeds.or(nightly.then_some(SCHEDULES_NIGHTLY));
    if let (Some(seed), None) = (seed, seeds) {
        return one(seed, bugs, arguments.json);
    }
    let (first_seed, schedules) = (seed.unwrap_or(1), seeds.unwrap_or(SCHEDULES));
    let started = Instant::now();
    let summary = Campaign { first_seed, schedules, bugs, threads: threads() }.run();
    let verdict = verdict(&summary, schedules);
    let shown =
        Shown { summary: &summary, took: started.elapsed(), schedules, bug: arguments.bug.as_deref() };
    if arguments.json {
        println!("{:#}", shown.json(&verdict));
    } else {
        shown.print();
    }
    for why in &verdict {
        eprintln!("error: {why}");
    }
    if verdict.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn no_such_bug(name: &str) -> ExitCode {
    let known = Bugs::names();
    if known.is_empty() {
        eprintln!("error: this build has no broken rules, so not `{name}`");
        eprintln!(" help: cargo run -p xtask --features seeded-bugs -- hil --rung raft --bug {name}");
    } else {
        eprintln!("error: the ledger has no broken rule `{name}`");
        eprintln!(" help: {}", known.join(", "));
    }
    ExitCode::from(2)
}

/// What is wrong: something failed, or too little happened for that to mean something.
fn verdict(summary: &Summary, schedules: u64) -> Vec<String> {
    if let Some(Failure { seed, .. }) = &summary.failure {
        return vec![format!("the schedule of seed {seed} does not hold")];
    }
    let mut wrong = Vec::new();
    if summary.counted < schedules {
        wrong.push(format!(
            "only {} of {schedules} schedules count: too little happens in the others",
            summary.counted
        ));
    }
    let never: Vec<_> = summary.never().into_iter().map(What::words).collect();
    if !never.is_empty() {
        wrong.push(format!("never: {} (more schedules may show it: `--seeds`)", never.join(", ")));
    }
    wrong
}

/// What came of many schedules, and how long it took.
struct Shown<'a> {
    summary: &'a Summary,
    took: Duration,
    schedules: u64,
    bug: Option<&'a str>,
}

impl Shown<'_> {
    fn a_minute(&self) -> u64 {
        let milliseconds = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX);
        self.summary.counted * 60_000 / milliseconds.max(1)
    }

    fn replay(&self, seed: u64) -> String {
        let bug = self.bug.map_or(String::new(), |bug| format!(" --bug {bug}"));
        format!("cargo xtask hil --rung raft --seed {seed}{bug}")
    }

    fn print(&self) {
        let Summary { run, counted, happened, virtual_ms, failure } = self.summary;
        for what in What::ALL {
            println!("{:>10}  {}", happened.times(what), what.words());
        }
        println!(
            "\n{counted} of {run} schedules count: {} commands acknowledged, {} faults, {} elections; {} s of virtual time in {:.1} s, {} schedules a minute",
            happened.times(What::Applied),
            happened.faults(),
            happened.times(What::Elected),
            virtual_ms / 1000,
            self.took.as_secs_f64(),
            self.a_minute(),
        );
        if let Some(Failure { seed, broken, again }) = failure {
            println!("\nFAILED: seed {seed}, and {again} of {AGAIN} times when it was run again\n{broken}");
            println!("\nreplay: {}", self.replay(*seed));
        }
    }

    fn json(&self, verdict: &[String]) -> Value {
        let Summary { run, counted, happened, virtual_ms, failure } = self.summary;
        let times = What::ALL.map(|what| (what.name().to_owned(), json!(happened.times(what))));
        let failure = failure.as_ref().map(|Failure { seed, broken, again }| {
            json!({ "seed": seed, "broken": broken, "again": again, "of": AGAIN, "replay": self.replay(*seed) })
        });
        json!({
            "schedules": self.schedules,
            "run": run,
            "counted": counted,
            "happened": Map::from_iter(times),
            "faults": happened.faults(),
            "virtual_ms": virtual_ms,
            "took_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "schedules_a_minute": self.a_minute(),
            "failure": failure,
            "wrong": verdict,
        })
    }
}

/// One schedule, told line by line.
fn one(seed: u64, bugs: Bugs, as_json: bool) -> ExitCode {
    let Outcome { broken, happened, virtual_ms, story } = simulate(seed, bugs, true);
    if as_json {
        let times = What::ALL.map(|what| (what.name().to_owned(), json!(happened.times(what))));
        let told = json!({
            "seed": seed, "happened": Map::from_iter(times), "virtual_ms": virtual_ms, "story": story, "broken": broken,
        });
        println!("{told:#}");
    } else {
        for line in &story {
            println!("{line}");
        }
        println!("\n{} commands acknowledged, {} faults", happened.times(What::Applied), happened.faults());
    }
    match broken {
        None => ExitCode::SUCCESS,
        Some(broken) => {
            eprintln!("error: the schedule of seed {seed} does not hold: {broken}");
            ExitCode::FAILURE
        }
    }
}
