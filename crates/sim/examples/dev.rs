use sim::campaign::{Campaign, only, shrink};
use sim::schedule::Schedule;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let bug = args.get(4).and_then(|name| sim::Broken::named(name));
    let seed: u64 = args[2].parse().unwrap();
    if args[1] == "one" {
        let failure = shrink(&Schedule::of(seed), bug);
        for line in &failure.outcome.story {
            println!("{line}");
        }
        return;
    }
    if args[1] == "full" {
        let s = Schedule::of(seed);
        let o = sim::simulate(&only(&s, &(0..s.faults.len()).collect::<Vec<_>>()), bug, true);
        for line in &o.story {
            println!("{line}");
        }
        return;
    }
    let count: u64 = args[3].parse().unwrap();
    let t = std::time::Instant::now();
    let s = Campaign { first_seed: seed, schedules: count, bug, threads: 2 }.run();
    println!(
        "run {} counted {} acked {} faults {} virtual {} s in {:?}",
        s.run,
        s.counted,
        s.acknowledged,
        s.faults,
        s.virtual_ms / 1000,
        t.elapsed()
    );
    for (row, n) in s.hits.rows() {
        println!("{n:>8} {row}");
    }
    if let Some(f) = s.failure {
        println!("seed {} kept {:?}", f.schedule.seed, f.kept);
        for fault in &f.schedule.faults {
            println!("  {fault}");
        }
        println!("{:?}", f.outcome.broken);
    }
}
