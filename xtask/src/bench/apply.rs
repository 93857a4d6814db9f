//! `cargo xtask bench apply`: a node's links by its agent, held against the same links by batches.

use crate::hil_command;
use hil::run::{ApplyBench, PROGRAMS, bench_apply, median};
use hil::ui::Ui;
use std::process::ExitCode;
use std::time::Duration;

/// A node's plan.
const PLAN_MAX: Duration = Duration::from_millis(1);
/// All its links made and read back, without KVM.
const APPLY_MAX: Duration = Duration::from_millis(100);
/// The agent's time as part of the batches'.
const RATIO_MAX: f64 = 1.5;

/// Measures, and says whether it is enough.
pub(super) fn run(rounds: u32) -> ExitCode {
    let ui = Ui::new();
    let options = hil_command::smallest();
    let measured = options.and_then(|options| hil_command::blocking(bench_apply(options, rounds, &ui)));
    super::ended(measured, told)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Prints all numbers; whether the targets are met.
fn told(measured: &ApplyBench) -> ExitCode {
    println!(
        "round  operations   agent ms   {}   ratio",
        PROGRAMS.map(|name| format!("{name:>6} ms")).join("   ")
    );
    let mut ratios = Vec::new();
    for (number, round) in (1..).zip(&measured.rounds) {
        let all: Duration = round.batches.iter().sum();
        let ratio = round.agent.as_secs_f64() / all.as_secs_f64();
        let batches = round.batches.map(|took| format!("{:>9.1}", milliseconds(took))).join("   ");
        println!(
            "{number:5}  {:10}  {:9.1}   {batches}   {ratio:5.2}",
            round.operations,
            milliseconds(round.agent)
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::INFINITY);
    let agent = median(measured.rounds.iter().map(|round| round.agent).collect());
    let batches = median(measured.rounds.iter().map(|round| round.batches.iter().sum()).collect());
    let idle: Duration = measured.idle.iter().sum();
    let working = batches.saturating_sub(idle);
    println!("on {}; medians:", measured.accelerator);
    println!(
        "  the plan on this machine         {:8.3} ms   (at most {} ms)",
        milliseconds(measured.plan),
        PLAN_MAX.as_millis()
    );
    println!(
        "  made and read back by the agent  {:8.1} ms   (at most {} ms)",
        milliseconds(agent),
        APPLY_MAX.as_millis()
    );
    println!(
        "  made by the batches              {:8.1} ms   ({:.1} ms of it to start and end the processes)",
        milliseconds(batches),
        milliseconds(idle)
    );
    println!("  agent / batches                  {ratio:8.2}      (at most {RATIO_MAX})");
    println!("  agent / batches without starts   {:8.2}", agent.as_secs_f64() / working.as_secs_f64());
    let good =
        measured.plan < PLAN_MAX && agent < APPLY_MAX && ratio <= RATIO_MAX && !measured.rounds.is_empty();
    if !good {
        eprintln!("a target is missed");
    }
    ExitCode::from(u8::from(!good))
}
