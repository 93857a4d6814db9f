//! `cargo xtask bench placement`: what a plan for virtual machines costs, and how that grows.
//!
//! Ten virtual machines a node, of 2 to 30 GiB; one in ten is strict, one in ten has no home, a quarter is in groups of five; each has a volume with
//! four legs. With `512 GiB` a node a rack holds all; with `256 GiB` it does not, so that the planner tries all its ways and gives a
//! reason for each node to each one that is left.

use hil::run::median;
use model::{NodeId, VmId, VmPlacement, VmSpec, VolumeId, ZoneName};
use placement::vm::{CORES_PERCENT_DEFAULT, Cluster, Node, NodeState, Now, Plan, Vm, Vms, admit, plan};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const SIZES: [u32; 5] = [10, 30, 100, 300, 1000];
const VMS_PER_NODE: u32 = 10;
/// All of the largest size placed anew.
const PLAN_MAX: Duration = Duration::from_secs(1);
/// A rack of it lost.
const REPLAN_MAX: Duration = Duration::from_millis(200);
const GIB: u64 = 1 << 30;

/// What is measured of a size, in the order of its columns.
const KINDS: [&str; 5] = ["placed anew", "nothing to do", "rack lost", "rack lost, short", "one admitted"];
const REPLAN: usize = 2;

/// What it took.
struct Measured {
    nodes: u32,
    times: [Duration; KINDS.len()],
    /// Who was moved and who was left, of a rack lost with room for all and without.
    moved: [(usize, usize); 2],
}

/// Measures, and says whether it is enough.
pub(super) fn run(runs: u32) -> ExitCode {
    let Some(zones) = zones() else { return ExitCode::from(69) };
    let measured: Vec<Measured> = SIZES.iter().map(|nodes| measure(*nodes, runs, &zones)).collect();
    told(&measured, runs)
}

fn zones() -> Option<[ZoneName; 2]> {
    Some(["rack1".parse().ok()?, "rack2".parse().ok()?])
}

fn cluster(nodes: u32, gib: u64, zones: &[ZoneName; 2]) -> Cluster {
    let node = |id: u32| {
        let zone = zones[usize::from(id > nodes / 2)].clone();
        (NodeId(id), Node { zone, memory_bytes: gib * GIB, cores: 64, state: NodeState::Up })
    };
    let half = nodes / 2;
    let legs = |id: u32| {
        let (one, other) = (id % half, (id / 3 + 1) % half);
        let at = [one, other, half + one, half + other].map(|at| NodeId(at + 1));
        (VolumeId(id), at.into())
    };
    Cluster {
        nodes: (1..=nodes).map(node).collect(),
        cores_percent: CORES_PERCENT_DEFAULT,
        ready: zones.iter().cloned().collect(),
        legs: (1..=nodes * VMS_PER_NODE).map(legs).collect(),
    }
}

/// One of them: drawn from its number, so that it is the same in every run.
fn vm(id: u32, zones: &[ZoneName; 2]) -> Option<(VmId, Vm)> {
    let drawn = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let home = zones[usize::from(drawn & 1 == 1)].clone();
    let placement = match id % 10 {
        3 => VmPlacement::Strict(home),
        7 => VmPlacement::Anywhere,
        _ => VmPlacement::Prefers(home),
    };
    let group = id.is_multiple_of(4).then(|| format!("group{}", id / 20).parse());
    let spec = VmSpec {
        name: format!("guest{id}").parse().ok()?,
        memory_bytes: (2 + (drawn >> 1) % 29) * GIB,
        cores: 1 + u32::try_from((drawn >> 8) % 8).ok()?,
        placement,
        anti_affinity: group.transpose().ok()?,
        volumes: vec![VolumeId(id)],
        saves_to: None,
        nics: Vec::new(),
    };
    Some((VmId(id), Vm { spec, now: Now::Off(None), avoids: None }))
}

fn measure(nodes: u32, runs: u32, zones: &[ZoneName; 2]) -> Measured {
    let well = cluster(nodes, 512, zones);
    let vms: Vms = (1..=nodes * VMS_PER_NODE).filter_map(|id| vm(id, zones)).collect();
    let (anew, placed) = timed(runs, || plan(&well, &vms));
    let placed = placed.carried_out(&vms);
    let (nothing, _) = timed(runs, || plan(&well, &placed));
    let lost = |cluster: &Cluster| {
        let mut lost = cluster.clone();
        let in_rack = lost.nodes.values_mut().filter(|node| node.zone == zones[0]);
        in_rack.for_each(|node| node.state = NodeState::Down);
        lost.ready.remove(&zones[0]);
        lost
    };
    let down = lost(&well);
    let (replanned, moved) = timed(runs, || plan(&down, &placed));
    let short = lost(&cluster(nodes, 256, zones));
    let (narrow, left) = timed(runs, || plan(&short, &placed));
    let more = vm(nodes * VMS_PER_NODE + 1, zones);
    let (one, _) = timed(runs, || more.as_ref().map(|(id, vm)| admit(&well, &placed, *id, &vm.spec)));
    let counts = |plan: &Plan| (plan.moves.len(), plan.off.len());
    Measured { nodes, times: [anew, nothing, replanned, narrow, one], moved: [counts(&moved), counts(&left)] }
}

/// The median, and one of the results.
fn timed<T>(runs: u32, work: impl Fn() -> T) -> (Duration, T) {
    let once = || {
        let begun = Instant::now();
        let made = black_box(work());
        (begun.elapsed(), made)
    };
    // The first one finds cold caches, and is not counted.
    let (_, made) = once();
    (median((0..runs).map(|_| once().0).collect()), made)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Prints all numbers; whether the targets are met.
fn told(measured: &[Measured], runs: u32) -> ExitCode {
    let checks = if cfg!(debug_assertions) { "with" } else { "without" };
    println!(
        "medians of {runs} runs, ms; the planner as this program was built: opt-level 3, {checks} debug assertions and overflow checks"
    );
    println!("nodes    vms   {}", KINDS.map(|kind| format!("{kind:>16}")).join("  "));
    for size in measured {
        let times = size.times.map(|time| format!("{:16.3}", milliseconds(time))).join("  ");
        println!("{:5}  {:5}   {times}", size.nodes, size.nodes * VMS_PER_NODE);
    }
    for (kind, at) in [("placed anew", 0), ("rack lost", REPLAN)] {
        plotted(kind, &measured.iter().map(|size| (size.nodes, size.times[at])).collect::<Vec<_>>());
    }
    let Some(largest) = measured.last() else { return ExitCode::from(69) };
    let [(moved, left), (few, many)] = largest.moved;
    println!(
        "{} nodes, rack lost: {moved} started elsewhere, {left} off; short: {few} and {many}",
        largest.nodes
    );
    let targets =
        [("placed anew", largest.times[0], PLAN_MAX), ("rack lost", largest.times[REPLAN], REPLAN_MAX)];
    let mut good = true;
    for (kind, took, at_most) in targets {
        let (took, bound) = (milliseconds(took), at_most.as_millis());
        println!("  {kind:12} {took:8.1} ms   (at most {bound} ms)");
        good &= took < milliseconds(at_most);
    }
    if !good {
        eprintln!("a target is missed");
    }
    ExitCode::from(u8::from(!good))
}

/// Cost against size, both logarithmic: ten characters are ten times as long.
fn plotted(kind: &str, costs: &[(u32, Duration)]) {
    println!("{kind}, microseconds, ten characters a power of ten:");
    for (nodes, took) in costs {
        let micros = (took.as_secs_f64() * 1e6).max(1.0);
        #[expect(clippy::cast_sign_loss, reason = "the logarithm of 1 or more")]
        let length = (micros.log10() * 10.0).round() as usize;
        println!("{nodes:5} nodes |{} {micros:.0}", "#".repeat(length));
    }
}
