//! `cargo xtask bench template`: what validating a template costs, and what a file costs that tries to cost a lot.
//!
//! A file is read, checked and reported as `twinrack validate` does it. The largest cluster's template comes in both formats. Hostile files
//! are as large as a template may be; one of ten megabytes is larger, and refused by its size alone.

use hil::run::median;
use std::fs;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use template::trial::hostile;
use template::{Format, ReadOptions, Source, read, render, to_toml};

/// The largest cluster: four nodes in each rack.
const LARGEST: &str = include_str!("../../../hil/templates/4+4.toml");
/// A template of it.
const VALIDATE_MAX: Duration = Duration::from_millis(5);
/// Any hostile file.
const HOSTILE_MAX: Duration = Duration::from_secs(1);
/// What all of them together may add to the process at its largest.
const MEMORY_MAX_MIB: u64 = 256;
/// Larger than any template.
const TOO_LARGE_BYTES: usize = 10 << 20;

/// Measures, and says whether it is enough.
pub(super) fn run(runs: u32) -> ExitCode {
    let mut good = true;
    let mut told = |name: &str, took: Duration, at_most: Duration| {
        let ratio = took.as_secs_f64() / at_most.as_secs_f64();
        println!(
            "{name:<36} {:>10.3} ms  {ratio:>7.4} of the {} ms it may take",
            milliseconds(took),
            at_most.as_millis()
        );
        good &= took < at_most;
    };
    let Some(largest) = converted("4+4.toml", LARGEST.as_bytes()) else {
        eprintln!("the template of the largest cluster is not good");
        return ExitCode::from(69);
    };
    let all = || (0..runs).map(|_| timed("4+4.toml", LARGEST.as_bytes())).collect();
    timed("4+4.toml", LARGEST.as_bytes());
    told("8 nodes, TOML, median", median(all()), VALIDATE_MAX);
    let all = || (0..runs).map(|_| timed("converted.toml", largest.as_bytes())).collect();
    told("8 nodes, converted, median", median(all()), VALIDATE_MAX);
    let before = peak_mib();
    for (name, format, text) in hostile(Source::SIZE_BYTES_MAX - 1024) {
        let file = if format == Format::Arm { "hostile.json" } else { "hostile.toml" };
        told(&format!("{name} ({format:?})"), timed(file, text.as_bytes()), HOSTILE_MAX);
    }
    for (name, _, text) in hostile(TOO_LARGE_BYTES).into_iter().take(1) {
        told(&format!("{name}, 10 MiB"), timed("hostile.json", text.as_bytes()), HOSTILE_MAX);
    }
    let more = peak_mib().zip(before).map(|(after, before)| after.saturating_sub(before));
    match more {
        Some(more) => {
            println!("peak memory grew by {more} MiB, of the {MEMORY_MAX_MIB} MiB that it may");
            good &= more <= MEMORY_MAX_MIB;
        }
        None => println!("peak memory is not known: the kernel doesn't tell"),
    }
    if !good {
        eprintln!("a target is missed");
    }
    ExitCode::from(u8::from(!good))
}

/// A file without errors, converted.
fn converted(name: &str, bytes: &[u8]) -> Option<String> {
    let source = Source::from_bytes(name, bytes).ok()?;
    let reading = read(&source, &ReadOptions::default()).ok()?;
    to_toml(&source, &reading)
}

/// How long it takes to read, check and report a file.
fn timed(name: &str, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let report = match Source::from_bytes(name, bytes) {
        Ok(source) => match read(&source, &ReadOptions::default()) {
            Ok(reading) => render::reading(&source, &reading, false),
            Err(unreadable) => render::unreadable(Some(&source), &unreadable, false),
        },
        Err(unreadable) => render::unreadable(None, &unreadable, false),
    };
    black_box(report);
    begun.elapsed()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The most memory that this process ever had (`VmHWM`, proc(5)).
fn peak_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10)
}
