//! `cargo xtask bench storage`: a volume held against its slowest leg alone, and against DRBD, on the same nodes in the same run.

use crate::hil_command;
use hil::run::{Figures, Load, Loss, StorageBench, StorageOrder, System, bench_storage};
use hil::ui::Ui;
use std::process::ExitCode;

/// A target: a latency as part of another one.
struct Target {
    of: System,
    by: System,
    at_most: f64,
    wanted: f64,
}

/// One writer's median, asked and wanted. DRBD counts at its best.
const TARGETS: [Target; 3] = [
    Target { of: System::Mirror, by: System::RemoteLeg, at_most: 1.6, wanted: 1.25 },
    Target { of: System::Mirror, by: System::Drbd, at_most: 0.9, wanted: 0.75 },
    Target { of: System::WideMirror, by: System::RemoteLeg, at_most: 2.5, wanted: 2.5 },
];

/// The order in which all is told.
const SYSTEMS: [System; 6] = [
    System::LocalLeg,
    System::RemoteLeg,
    System::Mirror,
    System::WideMirror,
    System::Drbd,
    System::DrbdFlushing,
];

/// Measures, and says whether it is enough.
pub(super) fn run(order: StorageOrder) -> ExitCode {
    let ui = Ui::new();
    let options = if order.all_nodes { hil_command::two_a_rack() } else { hil_command::smallest() };
    let measured = options.and_then(|options| hil_command::blocking(bench_storage(options, order, &ui)));
    super::ended(measured, told)
}

/// Prints all numbers; whether the targets are met.
fn told(measured: &StorageBench) -> ExitCode {
    println!("{}; medians of {} rounds", measured.machine, measured.rounds.len());
    println!("{:26} {:^31}   {:^17}   {:^17}", "", "4 KiB, one writer", "4 KiB, eight", "128 KiB, eight");
    println!(
        "{:26} {:>9} {:>9} {:>11}   {:>8} {:>8}   {:>8} {:>8}",
        "", "median ms", "p99 ms", "longest ms", "writes/s", "p99 ms", "MB/s", "p99 ms"
    );
    for system in SYSTEMS {
        let ms = |load, figure| Some(median(measured, system, load, figure)? / 1e3);
        let of = |figure: fn(&Figures) -> u64| ms(Load::One, figure);
        let (Some(middle), Some(p99), Some(longest)) =
            (of(|f| f.median_us), of(|f| f.p99_us), of(|f| f.longest_us))
        else {
            continue;
        };
        let rates = [Load::Eight, Load::InOrder].map(|load| {
            let rate = median_of(measured, system, load, |figures| rate(figures, load)).unwrap_or(f64::NAN);
            (rate, ms(load, |f| f.p99_us).unwrap_or(f64::NAN))
        });
        let [(writes, writes_p99), (megabytes, megabytes_p99)] = rates;
        println!(
            "{system:26} {middle:9.3} {p99:9.3} {longest:11.3}   {writes:8.0} {writes_p99:8.2}   {megabytes:8.1} {megabytes_p99:8.2}"
        );
    }
    println!("one writer's median, as part of another's (rounds: the ratio in each):");
    let mut good = !measured.rounds.is_empty();
    for target in &TARGETS {
        good &= target_told(measured, target);
    }
    measured.losses.iter().for_each(loss_told);
    if !good {
        eprintln!("a target is missed");
    }
    ExitCode::from(u8::from(!good))
}

/// Whether it is met; one about what was not measured is.
fn target_told(measured: &StorageBench, target: &Target) -> bool {
    let Target { of, by, at_most, wanted } = target;
    let of_each = measured.rounds.iter().filter_map(|round| {
        let one = |system: &System| round.get(&(*system, Load::One)).map(|figures| figures.median_us);
        Some(quotient(one(of)?, one(by)?))
    });
    let ratios: Vec<f64> = of_each.collect();
    let Some(ratio) = middle(ratios.clone()) else { return true };
    let each = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" ");
    let names = format!("{of} / {by}");
    println!("  {names:38} {ratio:5.2}   (at most {at_most}, wanted {wanted}; rounds: {each})");
    ratio <= *at_most
}

fn loss_told(loss: &Loss) {
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let Loss { system, stall, changed_bytes, copied_bytes, resync, said } = loss;
    println!(
        "{system}, its peer's power taken under eight writers: the longest write took {:.2} s{}; {:.0} MiB changed meanwhile; \
         {:.1} MiB copied in {:.2} s",
        stall.as_secs_f64(),
        if *system == System::Mirror {
            " (the engine's part: the order to release is given when the path is lost)"
        } else {
            ""
        },
        mib(*changed_bytes),
        mib(*copied_bytes),
        resync.as_secs_f64(),
    );
    if *system == System::Mirror {
        said.lines().for_each(|line| println!("    {line}"));
    }
}

/// Writes a second, or megabytes of them.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn rate(figures: &Figures, load: Load) -> f64 {
    let writes = figures.writes as f64 / (figures.elapsed_us as f64 / 1e6);
    if load == Load::InOrder { writes * f64::from(load.write_bytes()) / 1e6 } else { writes }
}

#[expect(clippy::cast_precision_loss, reason = "times of less than a day")]
fn quotient(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn median(measured: &StorageBench, system: System, load: Load, figure: fn(&Figures) -> u64) -> Option<f64> {
    median_of(measured, system, load, |figures| figure(figures) as f64)
}

/// The middle round's; `None`: it was not measured.
fn median_of(
    measured: &StorageBench,
    system: System,
    load: Load,
    figure: impl Fn(&Figures) -> f64,
) -> Option<f64> {
    middle(measured.rounds.iter().filter_map(|round| round.get(&(system, load)).map(&figure)).collect())
}

/// The middle one; of an even number, the greater.
fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn measured(rounds: &[[u64; 3]]) -> StorageBench {
        let figures = |median_us| Figures {
            writes: 1,
            elapsed_us: 1,
            median_us,
            p99_us: median_us,
            longest_us: median_us,
        };
        let round = |&[leg, mirror, drbd]: &[u64; 3]| {
            let all = [(System::RemoteLeg, leg), (System::Mirror, mirror), (System::Drbd, drbd)];
            all.map(|(system, median_us)| ((system, Load::One), figures(median_us))).into()
        };
        let rounds = rounds.iter().map(round).collect::<Vec<BTreeMap<_, _>>>();
        StorageBench { machine: "a machine".into(), rounds, losses: Vec::new() }
    }

    #[test]
    fn a_target_is_met_by_the_middle_round_s_ratio() {
        let met = |rounds: &[[u64; 3]]| TARGETS.map(|target| target_told(&measured(rounds), &target));
        assert_eq!(met(&[[100, 160, 178]]), [true, true, true]);
        assert_eq!(met(&[[100, 161, 179]]), [false, true, true]);
        assert_eq!(met(&[[100, 160, 177]]), [true, false, true]);
        // One round in which the machine was busy says nothing, and neither does a good one.
        assert_eq!(met(&[[100, 150, 200], [100, 900, 200], [100, 150, 200]]), [true, true, true]);
        assert_eq!(met(&[[100, 170, 200], [100, 120, 200], [100, 170, 200]]), [false, true, true]);
    }

    #[test]
    fn nothing_measured_is_not_good() {
        assert_eq!(told(&measured(&[])), ExitCode::from(1));
    }
}
