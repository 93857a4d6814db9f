//! `cargo xtask bench vm`: how long a virtual machine takes on a node from its QEMU's start to its first words and its first write.

use crate::hil_command;
use hil::run::{VmBench, VmStart, bench_vm};
use hil::ui::Ui;
use std::process::ExitCode;
use std::time::Duration;

/// What a failover has left for it: of ten seconds, detection, decision, fence and assembly take six.
const WROTE_MAX: Duration = Duration::from_secs(4);

/// Measures, and says whether it is enough.
pub(super) fn run(rounds: u32) -> ExitCode {
    let ui = Ui::new();
    let measured =
        hil_command::smallest().and_then(|options| hil_command::blocking(bench_vm(options, rounds, &ui)));
    super::ended(measured, told)
}

fn told(measured: &VmBench) -> ExitCode {
    println!("{}", measured.machine);
    println!("{:10} {:>14} {:>14} {:>16}", "", "first words s", "first write s", "processor %");
    let mut best = None;
    for (name, starts) in [("translator", &measured.tcg), ("KVM", &measured.kvm)] {
        match starts {
            Ok(starts) => {
                let wrote = median(starts, |start| start.wrote);
                let (began, used) =
                    (median(starts, |start| start.began), median(starts, |start| start.used_percent));
                println!("{name:10} {:14.2} {:14.2} {used:16}", began.as_secs_f64(), wrote.as_secs_f64());
                best = best.into_iter().chain([wrote]).min();
            }
            Err(said) => println!("{name:10} nothing in time: {said}"),
        }
    }
    let good = best.is_some_and(|best| best <= WROTE_MAX);
    if !good {
        eprintln!("the target is a first write within {} s", WROTE_MAX.as_secs());
    }
    ExitCode::from(u8::from(!good))
}

fn median<T: Ord + Default + Copy>(starts: &[VmStart], of: impl Fn(&VmStart) -> T) -> T {
    let mut all: Vec<T> = starts.iter().map(of).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}
