//! `cargo xtask hil`: parses what to run, runs it, shows what came of it.

use crate::kill_matrix;
use crate::raft_command;
use crate::report_command;
use crate::sim_command::{self, SimArguments};
use crate::test_command::root;
use clap::{Args, Subcommand, ValueEnum};
use hil::lab::EndError;
use hil::run::{Options, Outcome, RunError};
use hil::suite::Set;
use hil::ui::Ui;
use model::{Shape, Wiring};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  cargo xtask hil                                 the default suites on two racks of two nodes
  cargo xtask hil --shape 1+1 --suite wiring      one suite on the smallest cluster
  cargo xtask hil --wiring C                      one switch a rack, with both storage networks
  cargo xtask hil --template plant.toml           a template of your own, or an ARM parameters file
  cargo xtask hil --suite tor-loss --seed 7       the same random choices as an earlier run
  cargo xtask hil --rung sim --seeds 2000         random fault schedules in virtual time, in seconds
  cargo xtask hil --rung raft --seeds 200         the real Raft and its store in virtual time
  cargo xtask hil --suite volume-cold-start --bug open-unequal
                                                  nodes that break a rule on purpose: the suite must notice
  cargo xtask hil --keep                          leave the lab running, and say how to get in
  cargo xtask hil end DIR                         end a lab that was kept
  cargo xtask hil report DIR                      draw a run's report.html again
  cargo xtask hil compare DIR DIR                 what changed between two runs

The report is in target/hil/latest: report.html, summary.json, junit.xml, events.jsonl, console/.
Exit codes: 0 good; 1 what was examined is wrong; 2 the input or the command line can't be read; 69 the lab failed;
130 interrupted.";

/// What to run.
#[derive(Debug, Default, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct HilArguments {
    #[command(subcommand)]
    command: Option<HilCommand>,
    /// What the cluster is made of: machines of QEMU, or the deciding code or the ledger alone in virtual time
    #[arg(long, value_enum, default_value_t = Rung::Qemu)]
    rung: Rung,
    #[command(flatten)]
    sim: SimArguments,
    /// Nodes per rack, from a built-in template: 1+1, 2+2, 3+3 or 4+4 [default: 2+2]
    #[arg(long, value_name = "SHAPE")]
    shape: Option<Shape>,
    /// How the racks are wired, for a built-in template or one that doesn't say [default: A]
    #[arg(long, value_enum, ignore_case = true, value_name = "WIRING")]
    wiring: Option<WiringName>,
    /// A template of your own: twinrack's TOML or an Azure ARM deployment parameters file
    #[arg(long, value_name = "FILE", conflicts_with = "shape")]
    template: Option<PathBuf>,
    /// The ARM template that the parameters file is for: what the file leaves out has the template's default
    #[arg(long, value_name = "FILE", requires = "template")]
    arm_template: Option<PathBuf>,
    /// Accept what a rule of the template complains of; its message names the rule
    #[arg(long = "override", value_name = "RULE")]
    overrides: Vec<String>,
    /// A suite to run; may be given several times
    #[arg(long = "suite", value_name = "NAME")]
    suites: Vec<String>,
    /// The suites to run when none is named
    #[arg(long, value_enum, default_value_t = SetName::Default)]
    set: SetName,
    /// What every random choice comes from: the same seed makes the same lab
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Leave the lab running afterwards, and say how to get in and how to end it
    #[arg(long)]
    keep: bool,
    /// Where the report goes [default: target/hil/RUN]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What the lab is made of; hil/labs/qemu.toml is the one used without
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// A node image that is there already, instead of the one built from this workspace
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// Ask Debian's archive for a newer kernel
    #[arg(long, conflicts_with = "image")]
    refresh_image: bool,
}

#[derive(Debug, Subcommand)]
enum HilCommand {
    /// End a lab that was kept
    End {
        /// The lab's directory, as `--keep` named it
        dir: PathBuf,
    },
    /// Draw a run's report.html again, from what the run left behind
    Report {
        /// The run's folder
        dir: PathBuf,
    },
    /// Say what changed between two runs: verdicts, times, round trips, environment
    Compare {
        /// The first run's folder
        before: PathBuf,
        /// The second run's folder
        after: PathBuf,
        /// As JSON, with everything, also what did not change
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "verbatim")]
enum WiringName {
    /// Two switches a rack, each storage network on a pair of its own
    A,
    /// Two switches a rack that are a pair; both storage networks on both, port channels between the racks
    B,
    /// One switch a rack with both storage networks; a port channel between the racks
    C,
    /// Every node on a switch in each rack; nothing of storage between them
    D,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Rung {
    #[default]
    /// The real agent and kernel in virtual machines
    Qemu,
    /// Thousands of random fault schedules a minute (docs/sim.md)
    Sim,
    /// The ledgers with the real Raft and store, over a simulated network and disks (docs/ledger.md)
    Raft,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SetName {
    #[default]
    /// What a plain run does; minutes
    Default,
    /// Everything but what docs/suites.md says is run by name only
    Nightly,
}

pub(crate) fn run(arguments: HilArguments) -> ExitCode {
    match &arguments.command {
        Some(HilCommand::End { dir }) => return end(dir),
        Some(HilCommand::Report { dir }) => return report_command::report(dir),
        Some(HilCommand::Compare { before, after, json }) => {
            return report_command::compare(before, after, *json);
        }
        None => {}
    }
    let nightly = matches!(arguments.set, SetName::Nightly);
    match arguments.rung {
        Rung::Sim => return sim_command::run(&arguments.sim, arguments.seed, nightly),
        Rung::Raft => return raft_command::run(&arguments.sim, arguments.seed, nightly),
        Rung::Qemu => {}
    }
    if let Some(option) = arguments.sim.given() {
        eprintln!("error: `{option}` is for a rung in virtual time (`--rung`)");
        return ExitCode::from(2);
    }
    let ui = Ui::new();
    let options = match options(arguments) {
        Ok(options) => options,
        Err(error) => return lab_failure(&error),
    };
    if options.bug.as_deref() == Some("matrix") {
        return kill_matrix::print(&options);
    }
    let outcome = match blocking(hil::run::run(options, &ui)) {
        Ok(outcome) => outcome,
        Err(error) => return lab_failure(&error),
    };
    match outcome {
        Ok(outcome) => show(&outcome),
        Err(error) => {
            show_error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs something of the harness to its end.
pub(crate) fn blocking<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(work);
    // Work that was interrupted may still block a thread: a build, a download. It ends with this process.
    runtime.shutdown_background();
    Ok(outcome)
}

/// The smallest lab there is, for measurements.
pub(crate) fn smallest() -> std::io::Result<Options> {
    options(HilArguments { shape: Shape::ALL.first().copied(), ..HilArguments::default() })
}

/// A lab of two racks of two.
pub(crate) fn two_a_rack() -> std::io::Result<Options> {
    options(HilArguments { shape: Shape::ALL.get(1).copied(), ..HilArguments::default() })
}

fn end(dir: &Path) -> ExitCode {
    match hil::lab::end_kept(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", hil::chain(&error));
            ExitCode::from(if matches!(error, EndError::NoLab { .. }) { 2 } else { 69 })
        }
    }
}

fn options(arguments: HilArguments) -> std::io::Result<Options> {
    Ok(Options {
        root: root().to_owned(),
        program: std::env::current_exe()?,
        shape: arguments.shape,
        wiring: arguments.wiring.map(|wiring| match wiring {
            WiringName::A => Wiring::A,
            WiringName::B => Wiring::B,
            WiringName::C => Wiring::C,
            WiringName::D => Wiring::D,
        }),
        template: arguments.template,
        overrides: arguments.overrides,
        arm_template: arguments.arm_template,
        suites: arguments.suites,
        set: match arguments.set {
            SetName::Default => Set::Default,
            SetName::Nightly => Set::Nightly,
        },
        seed: arguments.seed,
        keep: arguments.keep,
        out: arguments.out,
        lab: arguments.lab,
        image: arguments.image,
        refresh_image: arguments.refresh_image,
        bug: arguments.sim.bug,
        colour: std::io::stderr().is_terminal(),
    })
}

fn show(outcome: &Outcome) -> ExitCode {
    print!("{}", hil::report::terminal(&outcome.summary, std::io::stdout().is_terminal()));
    println!("report: {}", outcome.dir.display());
    if let Some(kept) = &outcome.kept {
        println!("\n{kept}");
    }
    if let Some(error) = &outcome.error {
        show_error(error);
    }
    if outcome.exit_code() != 0 {
        println!("replay: {}", outcome.summary.replay);
    }
    ExitCode::from(outcome.exit_code())
}

fn show_error(error: &RunError) {
    eprintln!("error: {}", hil::chain(error));
    if let Some(help) = error.help() {
        eprintln!(" help: {help}");
    }
}

fn lab_failure(error: &std::io::Error) -> ExitCode {
    eprintln!("error: the harness can't start: {error}");
    ExitCode::from(69)
}
