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
use crate::shown::{VERSION, json};
use crate::validate::{self, FileArgs};
use clap::Args;
use deploy::Cluster;
use deploy::deployment::DeploymentError;
use deploy::destruction::{self, Plan};
use deploy::journal::Journal;
use deploy::recorder::{Recorder, Stage, StageTook, Told};
use model::ClusterSpec;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

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
    let progress = Progress::new();
    let mut stays = plan.notes.clone();
    let mut recorder = Recorder::new(Some(journal), |told| {
        if let Told::Note(note) = told {
            stays.push(note.clone());
        }
        progress.told(told);
    });
    let result = destruction::destroy(&cluster, &plan, &mut recorder).await;
    let (did, stages) = (recorder.did().to_vec(), recorder.stages().to_vec());
    drop(recorder);
    progress.clear();
    stays.dedup();
    let came_to = CameTo::of(&cluster.spec, (did, stays, stages), &path, result.as_ref().err());
    let text = if args.json { json(&came_to) } else { came_to.to_string() };
    match result {
        Ok(()) => Ok(io::stdout().lock().write_all(text.as_bytes()).map(|()| Outcome::Good)),
        Err(error) => {
            if args.json {
                io::stdout().lock().write_all(text.as_bytes()).map_err(ClusterError::Terminal)?;
            }
            Err(ClusterError::Deployment { error: Box::new(error), told: came_to.to_string() })
        }
    }
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

/// What was done, and what of it failed.
#[derive(Debug, Serialize)]
struct CameTo {
    version: u32,
    cluster: String,
    did: Vec<String>,
    /// What was not given back, and why.
    stays: Vec<String>,
    stages: Vec<Took>,
    journal: String,
    /// What it failed with.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Took {
    stage: &'static str,
    ms: u64,
}

impl CameTo {
    fn of(
        spec: &ClusterSpec,
        (did, stays, stages): (Vec<String>, Vec<String>, Vec<StageTook>),
        journal: &Path,
        error: Option<&DeploymentError>,
    ) -> Self {
        let took = |stage: StageTook| Took { stage: stage.stage.name(), ms: stage.ms };
        Self {
            version: VERSION,
            cluster: spec.name.to_string(),
            did,
            stays,
            stages: stages.into_iter().map(took).collect(),
            journal: journal.display().to_string(),
            error: error.map(ToString::to_string),
        }
    }
}

impl fmt::Display for CameTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, did, stays, journal, error, .. } = self;
        match (error, did.is_empty()) {
            (None, _) if !stays.is_empty() => {
                writeln!(f, "cluster {cluster} is no more; this stays as it is:")?;
                stays.iter().try_for_each(|what| writeln!(f, "  {what}"))
            }
            (None, true) => {
                writeln!(f, "nothing was changed: nothing of cluster {cluster} is left on its nodes")
            }
            (None, false) => writeln!(f, "cluster {cluster} is no more: its nodes are as they were found"),
            (Some(_), _) => {
                if did.is_empty() {
                    writeln!(f, "no step has changed anything in this run")?;
                } else {
                    writeln!(f, "done in this run:")?;
                    did.iter().try_for_each(|did| writeln!(f, "  {did}"))?;
                }
                write!(
                    f,
                    "to go on: see to what is said above and give the command again; what is done is found and let alone. The journal is {journal}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_came_to_is_said() {
        let came_to = |did: &[&str], error: Option<&str>| CameTo {
            version: VERSION,
            cluster: "plant".to_owned(),
            did: did.iter().map(|&did| did.to_owned()).collect(),
            stays: Vec::new(),
            stages: Vec::new(),
            journal: "plant.destruction.jsonl".to_owned(),
            error: error.map(ToOwned::to_owned),
        };
        let all = [
            came_to(&[], None),
            came_to(&["volume a was deleted"], None),
            came_to(&[], Some("late")),
            came_to(&["volume a was deleted"], Some("late")),
            CameTo { stays: vec!["links of a1 stay as they are".to_owned()], ..came_to(&[], None) },
        ];
        insta::assert_snapshot!(all.map(|one| one.to_string()).join("\n\n"));
    }
}
