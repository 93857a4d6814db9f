//! `twinrack node remove`: a node of each rack leaves a cluster that serves, and is given back.
//!
//! Purpose: show what would be done, have it confirmed, do it, and say what was done. All of that is `deploy::removal`'s; here it is asked for and shown.
//!
//! On failure: `ClusterError`, with what was done and how to go on. Exit code 2 if a file or the command line can't be read, 1 otherwise, 130 when interrupted.

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::deploy::progress::Progress;
use crate::deploy::shown::Planned;
use crate::deploy::{beside, confirmed};
use crate::given_back::{self, CameTo};
use crate::validate::{self, FileArgs};
use clap::Args;
use deploy::Cluster;
use deploy::deployment::DeploymentError;
use deploy::journal::Journal;
use deploy::recorder::Stage;
use deploy::removal::{self, Plan};
use model::{ClusterSpec, NodeName};
use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::PathBuf;

pub(crate) const EXAMPLES: &str = "\
The template is that of the cluster as it is, with the nodes that leave; one of each rack is named. Virtual machines go to other nodes, live; volumes are handed over (whoever has one open on a node that leaves ends first:
`twinrack volume hand-over --end-users` asks for that); every copy is moved to another drive of its rack while volumes are used. Then the nodes give back what the cluster has of them: drives become blank, ledgers are
removed, links are as they were found. What is in the way is said before anything is changed: four-way volumes, where one node would stay in each rack; copies that have no room; volumes that are closed.

That they leave is for good from the step on that says so. It goes on where it was interrupted when it is given again; whoever wants the nodes back adds them again (`twinrack node add`).
Afterwards take both out of the template and the access file. Nodes that stay keep their ordinals: say them in the template, if the ones that left stood before them.

Examples:
  twinrack node --access access.json remove plant.toml --node a3 --node b3 --validate-only
  twinrack node --access access.json remove plant.toml --node a3 --node b3

Exit codes: 0 good; 1 something is in the way or a step failed; 2 a file or the command line can't be read; 130 interrupted.";

/// What the journal's name ends with.
const JOURNAL: &str = "removal.jsonl";

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Which: its name in the template. Given twice, for a node of each rack.
    #[arg(long, value_name = "NAME", required = true)]
    node: Vec<NodeName>,
    /// Show what would be changed, and change nothing.
    #[arg(long)]
    validate_only: bool,
    /// Do not ask before anything is changed.
    #[arg(long)]
    yes: bool,
    /// Where the journal is; without it: beside the template, NAME.removal.jsonl.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

pub(crate) fn run(cluster: &ClusterArgs, args: &RemoveArgs) -> io::Result<Outcome> {
    let (source, reading) = match validate::read_or_report(&args.file)? {
        Ok(read) => read,
        Err(outcome) => return Ok(outcome),
    };
    let Some(spec) = reading.spec.clone() else { return validate::report_violations(&source, &reading) };
    cluster::until_interrupted(carry_out(cluster, args, spec))
}

async fn carry_out(
    asked: &ClusterArgs,
    args: &RemoveArgs,
    mut spec: ClusterSpec,
) -> Result<io::Result<Outcome>, ClusterError> {
    deploy::place_witness(&mut spec).map_err(DeploymentError::from)?;
    let (agents, machines) = deploy::access(asked.access()).map_err(ClusterError::Access)?;
    let cluster = Cluster::of(spec, &agents).map_err(ClusterError::NoAgent)?;
    let pair: BTreeSet<NodeName> = args.node.iter().cloned().collect();
    let plan = look_and_plan(&cluster, &pair).await?;
    let planned = Planned::of(&cluster.spec, &plan.changes, &plan.notes);
    if args.validate_only {
        let text = if asked.json {
            crate::shown::json(&planned)
        } else {
            format!("{planned}\nnothing was changed\n")
        };
        return Ok(io::stdout().lock().write_all(text.as_bytes()).map(|()| Outcome::Good));
    }
    write!(io::stderr().lock(), "{planned}").map_err(ClusterError::Terminal)?;
    if !plan.changes.is_empty() && !args.yes {
        if !confirmed().await? {
            return Ok(writeln!(io::stderr(), "nothing was changed").map(|()| Outcome::Violated));
        }
        // It may have been a long time: what was confirmed must be what is done.
        if look_and_plan(&cluster, &pair).await? != plan {
            return Err(ClusterError::Changed);
        }
    }
    let path = args.journal.clone().unwrap_or_else(|| beside(args.file.path(), JOURNAL));
    let journal = Journal::open(&path).map_err(DeploymentError::Journal)?;
    let told = given_back::Told::new(plan.notes.clone());
    let mut recorder = told.recorder(journal);
    let result = removal::remove(&cluster, &plan, machines, &mut recorder).await;
    let (did, stages) = (recorder.did().to_vec(), recorder.stages().to_vec());
    drop(recorder);
    let names = pair.iter().map(NodeName::as_str).collect::<Vec<_>>().join(" and ");
    let now = format!("{names} have left");
    let found = "they are as they were found; take both out of the template and the access file";
    let nothing = format!("{names} are no part of cluster {}", cluster.spec.name);
    let error = result.as_ref().err();
    let came_to = CameTo::of(&cluster.spec, (now, found, nothing), (did, told.stays(), stages), &path, error);
    came_to.end(result, asked.json)
}

/// Looks, and decides what would be done.
async fn look_and_plan(cluster: &Cluster, pair: &BTreeSet<NodeName>) -> Result<Plan, ClusterError> {
    let progress = Progress::new();
    progress.begins(Stage::Preflight.name(), "looks at every node: ledger, drives, links");
    let looked = removal::look(cluster, pair).await;
    progress.clear();
    let look = looked.map_err(DeploymentError::from)?;
    Ok(removal::plan(cluster, &look, pair).map_err(DeploymentError::InTheWay)?)
}
