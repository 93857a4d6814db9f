//! `twinrack`, the operator's command.
//!
//! Purpose: parse the command line, read files, call the libraries, print. It decides nothing about clusters.
//!
//! On failure: exit code 1 when what was examined breaks a rule, 2 when the input or the command line can't be read, as
//! spec.md has it for every command. Nothing is changed in either case.

mod cluster;
mod deploy;
mod destroy;
mod drive;
mod given_back;
mod json;
mod ledger;
mod node;
mod pool;
mod remove;
mod report;
mod rules;
mod shown;
mod status;
mod validate;
mod verify;
mod vm;
mod volume;
mod watch;

use clap::{Parser, Subcommand, ValueEnum};
use std::io::{self, Write};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  twinrack validate plant.toml
  twinrack validate azuredeploy.parameters.json --override net.storage-intent-dedicated
  twinrack convert azuredeploy.parameters.json --to toml > plant.toml
  twinrack validate plant.toml --format json | jq '.diagnostics[].rule'
  twinrack deploy plant.toml --access access.json
  twinrack rules
  twinrack explain net.storage-intent-dedicated
  twinrack status --access access.json
  twinrack verify --access access.json
  twinrack report --access access.json
  twinrack watch --access access.json
  twinrack volume --access access.json list
  twinrack drive --access access.json list
  twinrack pool --access access.json show
  twinrack ledger --access access.json show
  twinrack vm --access access.json list
  twinrack node --access access.json list

Exit codes: 0 good; 1 what was examined is wrong; 2 the input or the command line can't be read.";

const VALIDATE_EXAMPLES: &str = "\
The format is told by the content: text that starts with `{` or a comment in JSON's style is an ARM deployment
parameters file, anything else is a twinrack TOML template. All violations are reported at once, each with its place in
the file and what to change. Nothing but the file is looked at, and nothing is changed.

Some rules can be overridden: their violations are then warnings. The report names the override to give.

Exit codes: 0 good; 1 a rule is violated; 2 the file or the command line can't be read.";

const CONVERT_EXAMPLES: &str = "\
The file is checked as `twinrack validate` does it. What is written asks for the same cluster, and overrides what the file needed
to be overridden. A file that is against a rule is reported, and nothing is written.

Examples:
  twinrack convert azuredeploy.parameters.json --to toml > plant.toml
  twinrack convert azuredeploy.parameters.json --to toml --arm-template azuredeploy.json

Exit codes: 0 good; 1 a rule is violated; 2 the file or the command line can't be read.";

/// Two racks, one cluster: check what it is asked to be, deploy it, look at it, run virtual machines on it.
#[derive(Debug, Parser)]
#[command(name = "twinrack", version, after_help = EXAMPLES)]
struct Command {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check a template against the rules and show the cluster it asks for.
    #[command(after_help = VALIDATE_EXAMPLES)]
    Validate {
        #[command(flatten)]
        file: validate::FileArgs,
        /// How to report.
        #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
        format: ReportFormat,
    },
    /// Write a template in another format, asking for the same.
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert {
        #[command(flatten)]
        file: validate::FileArgs,
        /// The format to write.
        #[arg(long, value_enum)]
        to: ConvertFormat,
    },
    /// Deploy a cluster from its template: look, show what would be changed, do it, and look again.
    Deploy(Box<deploy::DeployArgs>),
    /// Give a whole cluster back: every node as it was found, and everything on it lost.
    Destroy(Box<destroy::DestroyArgs>),
    /// List the rules, where each is checked, and which can be overridden at what cost.
    Rules(rules::RulesArgs),
    /// Explain a rule: what must hold, why, what a violation says, what to change.
    Explain {
        /// Its id, as a report or `twinrack rules` names it.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Show the whole cluster at a glance, and what of it is not well.
    Status(status::StatusArgs),
    /// Check whether the cluster is made as it has to be: racks, witness, copies, paths, plans.
    Verify(verify::VerifyArgs),
    /// Write the whole state of the cluster as one HTML page.
    Report(report::ReportArgs),
    /// The same as `status`, drawn anew each second.
    Watch(watch::WatchArgs),
    /// List, show, create, move and delete volumes.
    Volume(volume::VolumeArgs),
    /// List, add, replace and remove the drives of the pool.
    Drive(drive::DriveArgs),
    /// Show and set how fast copies are brought up to date.
    Pool(pool::PoolArgs),
    /// Show how each node's ledger is, and bring a node back that has lost its own.
    Ledger(ledger::LedgerArgs),
    /// List, show, make, start, stop, place and delete virtual machines, see what they say, and write images to their volumes.
    Vm(vm::VmArgs),
    /// Show what nodes have for virtual machines, empty them for maintenance, and add nodes to both racks.
    Node(node::NodeArgs),
}

/// How to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// For people, with excerpts of the file.
    Text,
    /// One JSON object, for programs.
    Json,
}

/// What templates can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ConvertFormat {
    /// twinrack's own TOML.
    Toml,
}

/// What a command ends with; the numbers are spec.md's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Good = 0,
    Violated = 1,
    Unreadable = 2,
    Interrupted = 130,
}

fn main() -> ExitCode {
    // clap itself exits with 2 on a command line that it can't read.
    let command = Command::parse();
    let written = match command.task {
        Task::Validate { file, format } => validate::run(file, format),
        Task::Convert { file, to: ConvertFormat::Toml } => validate::convert(&file),
        Task::Deploy(args) => deploy::run(&args),
        Task::Destroy(args) => destroy::run(&args),
        Task::Rules(args) => rules::list(&args),
        Task::Explain { id } => rules::explain(&id),
        Task::Status(args) => status::run(&args),
        Task::Verify(args) => verify::run(&args),
        Task::Report(args) => report::run(&args),
        Task::Watch(args) => watch::run(&args),
        Task::Volume(args) => volume::run(&args),
        Task::Drive(args) => drive::run(&args),
        Task::Pool(args) => pool::run(&args),
        Task::Ledger(args) => ledger::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Node(args) => node::run(&args),
    };
    match written {
        Ok(outcome) => ExitCode::from(outcome as u8),
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "can't write the report: {error}");
            ExitCode::from(Outcome::Unreadable as u8)
        }
    }
}
