//! `twinrack destroy`: a whole cluster is given back.
//!
//! Purpose: show what would be lost, have that confirmed by the cluster's name, do it, and say what was done. All of that is `deploy::destruction`'s; here it is asked for and shown.
//!
//! On failure: `ClusterError`, with what was done and how to go on. Exit code 2 if a file or the command line can't be read, 1 otherwise, 130 when interrupted.

use crate::Outcome;
use crate::cluster::{self, ClusterError};
use crate::deploy::beside;
use crate::deploy::progress::Progress;
use crate::deploy::shown::Planned;
use crate::given_back::{self, CameTo};
use crate::validate::{self, FileArgs};
use clap::Args;
use deploy::Cluster;
use deploy::deployment::DeploymentError;
use deploy::destruction::{self, Plan};
use deploy::journal::Journal;
use deploy::recorder::Stage;
use model::ClusterSpec;
use std::io::{self, Write as _};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Every node and the witness become as they were found: virtual machines and volumes are deleted with all that is on them, the drives that the cluster took become blank (their beginning and their end; what lies between
is not overwritten, and `blkdiscard` or `nvme format` does that), ledgers are removed, links are as they were before the first deployment in this boot of each node. Nothing else is touched: a drive that the cluster has
not taken, a link that it has not made.

What would be lost is shown first, and has to be confirmed by the cluster's name. Every node must answer. One that was interrupted or failed is gone on with by giving the command again.

Examples:
  twinrack destroy plant.toml --access access.json
  twinrack destroy plant.toml --access access.json --yes --json

Exit codes: 0 good; 1 something is in the way or a step failed; 2 a file or the command line can't be read; 130 interrupted.";

/// What the journal's name ends with.
const JOURNAL: &str = "destruction.jsonl";

/// Give a whole cluster back: every node as it was found, and everything on it lost.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DestroyArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Where the agents are, and who asks.
    #[arg(long, env = "TWINRACK_ACCESS", value_name = "FILE")]
    access: PathBuf,
    /// Do not ask before everything is lost.
    #[arg(long)]
    yes: bool,
    /// Where the journal is; without it: beside the template, NAME.destruction.jsonl.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Print one JSON object, for programs.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DestroyArgs) -> io::Result<Outcome> {
    let (source, reading) = match validate::read_or_report(&args.file)? {
        Ok(read) => read,
        Err(outcome) => return Ok(outcome),
    };
    let Some(spec) = reading.spec.clone() else { return validate::report_violations(&source, &reading) };
    cluster::until_interrupted(carry_out(args, spec))
}

async fn carry_out(args: &DestroyArgs, spec: ClusterSpec) -> Result<io::Result<Outcome>, ClusterError> {
    let (agents, _) = deploy::access(&args.access).map_err(ClusterError::Access)?;
    let cluster = Cluster::of(spec, &agents).map_err(ClusterError::NoAgent)?;
    let plan = look_and_plan(&cluster).await?;
    let planned = Planned::of(&cluster.spec, &plan.changes, &plan.notes);
    write!(io::stderr().lock(), "{planned}").map_err(ClusterError::Terminal)?;
    if !plan.changes.is_empty() && !args.yes {
        if !confirmed(&cluster.spec).await? {
            return Ok(writeln!(io::stderr(), "nothing was changed").map(|()| Outcome::Violated));
        }
        // It may have been a long time: what was confirmed must be what is done.
        if look_and_plan(&cluster).await? != plan {
            return Err(ClusterError::Changed);
        }
    }
    let path = args.journal.clone().unwrap_or_else(|| beside(args.file.path(), JOURNAL));
    let journal = Journal::open(&path).map_err(DeploymentError::Journal)?;
    let told = given_back::Told::new(plan.notes.clone());
    let mut recorder = told.recorder(journal);
    let result = destruction::destroy(&cluster, &plan, &mut recorder).await;
    let (did, stages) = (recorder.did().to_vec(), recorder.stages().to_vec());
    drop(recorder);
    let name = &cluster.spec.name;
    let now = format!("cluster {name} is no more");
    let nothing = format!("nothing of cluster {name} is left on its nodes");
    let (found, error) = ("its nodes are as they were found", result.as_ref().err());
    let came_to = CameTo::of(&cluster.spec, (now, found, nothing), (did, told.stays(), stages), &path, error);
    came_to.end(result, args.json)
}

/// Looks, and decides what would be done.
async fn look_and_plan(cluster: &Cluster) -> Result<Plan, ClusterError> {
    let progress = Progress::new();
    progress.begins(Stage::Preflight.name(), "looks at every node: ledger, drives, links");
    let looked = destruction::look(cluster).await;
    progress.clear();
    let look = looked.map_err(DeploymentError::from)?;
    Ok(destruction::plan(cluster, &look).map_err(DeploymentError::InTheWay)?)
}

/// Whether somebody at the terminal says so, by the cluster's name.
async fn confirmed(spec: &ClusterSpec) -> Result<bool, ClusterError> {
    let name = spec.name.to_string();
    let question = format!("All of this will be LOST. To go on, type the cluster's name ({name}):");
    Ok(cluster::answer(question, "all that is shown above would be lost").await? == name)
}
