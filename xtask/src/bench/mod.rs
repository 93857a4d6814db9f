//! `cargo xtask bench`: how fast the lab's own parts are, measured as they are used.
//!
//! `fabric`: the fabric as a process of its own with one TOR, a sender and a receiver as processes at sockets like QEMU's. Every frame
//! must come through, in order. The same with a bare relay in the fabric's place, in the same run, says what the sockets alone cost,
//! so that a slow or busy machine does not look like a slow fabric.
//!
//! `apply`: a node's links, made by its agent and by batches of ip(8), bridge(8) and tc(8), in the same run on the same node.
//!
//! `placement`: plans for virtual machines, from 10 to 1,000 nodes.
//!
//! `storage`: a mirror, the slowest of its legs alone, and DRBD, in turn on the same nodes.
//!
//! `template`: what validating a file costs, and what hostile files cost.
//!
//! `vm`: a virtual machine's start on a node, until its first words and its first write.

mod apply;
mod measure;
mod peer;
mod placement;
mod storage;
mod template;
mod vm;

use clap::{Args, Subcommand};
use hil::run::RunError;
use hil::run::StorageOrder;
use measure::{Between, Measured, measure};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub(crate) use measure::BenchError;
pub(crate) use peer::PeerError;

/// Small frames a second that the fabric must move on one core.
const SMALL_FRAMES_PER_S: f64 = 200_000.0;
/// Bits a second that it must move in frames of 9000 bytes.
const LARGE_BITS_PER_S: f64 = 2e9;
const SMALL_BYTES: usize = 64;
const LARGE_BYTES: usize = 9000;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Frames through one switch: at least 200,000 small ones a second, 2 Gbit/s in large ones, none lost
    Fabric {
        /// How long each measurement sends, seconds
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
        seconds: u64,
        /// Measurements of each kind; the best one counts, but none may lose a frame
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
        runs: u32,
    },
    /// A node's links by its agent: planned in under 1 ms, made in under 100 ms, at most 1.5 times what ip, bridge and tc take
    Apply {
        /// Rounds of agent and batches on one node; medians count
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// Where virtual machines run: 10,000 on 1,000 nodes planned in under 1 s, a lost rack's in under 200 ms
    Placement {
        /// Runs of each plan; medians count
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
        runs: u32,
    },
    /// A mirror's writes against its slowest leg alone (at most 1.6 times as long) and against DRBD (at most 0.9 times); a peer's death
    Storage {
        /// Rounds in which all take turns; medians count
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// A mirror of all nodes of two racks of two, too: at most 2.5 times its slowest leg
        #[arg(long)]
        four_way: bool,
        /// Leave out what a peer's death and return cost
        #[arg(long)]
        no_losses: bool,
    },
    /// Validation of an 8-node template: under 5 ms; of any hostile file: under 1 s, in bounded memory
    Template {
        /// Validations; medians count
        #[arg(long, default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        runs: u32,
    },
    /// A virtual machine on a node of a lab: from QEMU's start to the guest's first words and first write, and what it costs while it runs
    Vm {
        /// Starts; medians count
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
        rounds: u32,
    },
}

/// A process of a measurement.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchProcess {
    /// Sends
    #[command(name = "bench-send", hide = true)]
    Send {
        /// Where it connects.
        socket: PathBuf,
        /// Length of its frames.
        bytes: usize,
        /// For how long.
        millis: u64,
    },
    /// Receives
    #[command(name = "bench-receive", hide = true)]
    Receive {
        /// Where it connects.
        socket: PathBuf,
        /// Length of the frames.
        bytes: usize,
    },
    /// Passes on
    #[command(name = "bench-relay", hide = true)]
    Relay {
        /// Where it listens.
        one: PathBuf,
        /// Where else.
        other: PathBuf,
    },
}

/// The end of a measurement in a lab: what was measured is told, which says whether it is enough; or why there is nothing to tell.
fn ended<T>(measured: std::io::Result<Result<T, RunError>>, told: impl FnOnce(&T) -> ExitCode) -> ExitCode {
    match measured {
        Ok(Ok(measured)) => told(&measured),
        Ok(Err(error)) => {
            eprintln!("error: {}", hil::chain(&error));
            ExitCode::from(error.exit_code())
        }
        Err(error) => {
            eprintln!("error: the measurement can't start: {error}");
            ExitCode::from(69)
        }
    }
}

impl BenchProcess {
    pub(crate) fn run(&self) -> Result<(), PeerError> {
        match self {
            Self::Send { socket, bytes, millis } => {
                peer::send(socket, *bytes, Duration::from_millis(*millis))
            }
            Self::Receive { socket, bytes } => peer::receive(socket, *bytes),
            Self::Relay { one, other } => peer::relay(one, other),
        }
    }
}

/// Measures, and says whether it is enough: 0, 1, or 69 when it could not be measured.
pub(crate) fn run(arguments: &BenchArguments) -> ExitCode {
    let (seconds, runs) = match arguments.what {
        What::Fabric { seconds, runs } => (seconds, runs),
        What::Apply { rounds } => return apply::run(rounds),
        What::Placement { runs } => return placement::run(runs),
        What::Template { runs } => return template::run(runs),
        What::Vm { rounds } => return vm::run(rounds),
        What::Storage { rounds, four_way, no_losses } => {
            return storage::run(StorageOrder { rounds, losses: !no_losses, all_nodes: four_way });
        }
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("cannot find this program: {error}");
            return ExitCode::from(69);
        }
    };
    println!("frame   fabric: frames/s    Gbit/s  CPU ns/frame   relay: frames/s  CPU ns/frame   CPU ratio");
    let mut good = true;
    for frame_bytes in [SMALL_BYTES, LARGE_BYTES] {
        match best(&program, frame_bytes, Duration::from_secs(seconds), runs) {
            Ok([fabric, relay]) => good &= told(frame_bytes, &fabric, &relay),
            Err(error @ BenchError::Lost { .. }) => {
                eprintln!("{frame_bytes} bytes: {}", hil::chain(&error));
                good = false;
            }
            Err(error) => {
                eprintln!("{frame_bytes} bytes: {}", hil::chain(&error));
                return ExitCode::from(69);
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// The best of several, fabric and relay in turn.
fn best(
    program: &Path,
    frame_bytes: usize,
    duration: Duration,
    runs: u32,
) -> Result<[Measured; 2], BenchError> {
    let both = || -> Result<[Measured; 2], BenchError> {
        Ok([
            measure(program, Between::Fabric, frame_bytes, duration)?,
            measure(program, Between::Relay, frame_bytes, duration)?,
        ])
    };
    let mut best = both()?;
    for _ in 1..runs {
        for (best, now) in best.iter_mut().zip(both()?) {
            if frames_per_s(&now) > frames_per_s(best) {
                *best = now;
            }
        }
    }
    Ok(best)
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn frames_per_s(measured: &Measured) -> f64 {
    measured.frames as f64 / measured.elapsed.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn nanos_per_frame(measured: &Measured) -> f64 {
    measured.processor.as_nanos() as f64 / measured.frames as f64
}

/// Prints a line; whether the target is met.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn told(frame_bytes: usize, fabric: &Measured, relay: &Measured) -> bool {
    let (frames, bits) = (frames_per_s(fabric), frames_per_s(fabric) * frame_bytes as f64 * 8.0);
    let [of_fabric, of_relay] = [fabric, relay].map(nanos_per_frame);
    println!(
        "{frame_bytes:5}  {frames:17.0}  {:8.2}  {of_fabric:12.0}  {:16.0}  {of_relay:12.0}  {:10.2}",
        bits / 1e9,
        frames_per_s(relay),
        of_fabric / of_relay,
    );
    let (is_met, target) = if frame_bytes == SMALL_BYTES {
        (frames >= SMALL_FRAMES_PER_S, "200,000 frames/s")
    } else {
        (bits >= LARGE_BITS_PER_S, "2 Gbit/s")
    };
    if !is_met {
        eprintln!("{frame_bytes} bytes: the target is {target}");
    }
    is_met
}
