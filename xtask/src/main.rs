//! `cargo xtask`: the project's own commands.
//!
//! Thin on purpose: it parses the command line and calls the library that does the work.

mod bench;
mod hil_command;
mod kill_matrix;
mod raft_command;
mod report_command;
mod sim_command;
mod test_command;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use hil::run::ProcessTask;
use std::path::PathBuf;
use std::process::ExitCode;

/// twinrack's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, about, long_about = None)]
#[command(
    after_help = "Exit codes: 0 good; 1 what was examined is wrong; 2 the input or the command line can't be \
                        read; 69 the lab failed; 130 interrupted."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build two racks, wire them, check them, break them, and report what was lost
    Hil(Box<hil_command::HilArguments>),
    /// Formatting, lints, licences, unit, snapshot and lab tests: what CI runs
    Test(test_command::TestArguments),
    /// How fast the lab's own parts are
    Bench(bench::BenchArguments),
    #[command(flatten)]
    BenchProcess(bench::BenchProcess),
    /// The process that owns a lab; started by `hil`
    #[command(hide = true)]
    LabKeeper {
        /// Where the lab's directory is made.
        parent: PathBuf,
    },
    /// The lab's switches; started by `hil`
    #[command(hide = true)]
    LabFabric {
        /// The topology, a JSON file.
        topology: PathBuf,
        /// Where the sockets go.
        sockets: PathBuf,
    },
    /// Deploys the cluster of a lab, or gives it back; started by `hil`
    #[command(hide = true)]
    LabDeploy {
        /// What is to be deployed, a JSON file.
        spec: PathBuf,
        /// Where the agents are, a JSON file.
        access: PathBuf,
        /// The journal.
        journal: PathBuf,
        /// What is done.
        #[arg(long, value_parser = tasks())]
        task: ProcessTask,
        /// The node that is repaired, or those that are removed.
        #[arg(long)]
        node: Vec<model::NodeName>,
    },
    /// The lab's data drives; started by `hil`
    #[command(hide = true)]
    LabDrives {
        /// What they are, a JSON file.
        config: PathBuf,
        /// Where orders are taken.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Hil(arguments) => hil_command::run(*arguments),
        Command::Test(arguments) => test_command::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BenchProcess(process) => exit(process.run()),
        Command::LabKeeper { parent } => exit(hil::lab::keeper::run(&parent)),
        Command::LabDeploy { spec, access, journal, task, node } => {
            exit(hil::run::deployment_process((&spec, &access, &journal), task, node))
        }
        Command::LabDrives { config, dir } => exit(hil::lab::drives_process(&config, &dir)),
        Command::LabFabric { topology, sockets } => exit(hil::lab::fabric_process(&topology, &sockets)),
    }
}

/// What is done about a deployment, by its name.
fn tasks() -> impl TypedValueParser<Value = ProcessTask> {
    PossibleValuesParser::new(ProcessTask::ALL.map(ProcessTask::name)).try_map(|name| {
        ProcessTask::ALL.into_iter().find(|task| task.name() == name).ok_or("there is no such task")
    })
}

/// For the lab's and a measurement's own processes, whose errors go to their logs.
fn exit<E: std::error::Error + 'static>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", hil::chain(&error));
            ExitCode::from(69)
        }
    }
}
