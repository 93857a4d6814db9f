//! `twinrack deploy`: a cluster from its template.
//!
//! Purpose: read the file, look at the nodes, show what would be changed, have it confirmed, do it, and say what was done. All of that is `deploy::deployment`'s; here it is asked for and shown.
//!
//! On failure: `ClusterError`, with what was done, what was not, and how to go on. Exit code 2 if a file or the command line can't be read, 1 otherwise, 130 when interrupted.

pub(crate) mod progress;
pub(crate) mod shown;

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::json;
use crate::validate::{self, FileArgs};
use api::AGENT_PORT;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use deploy::Cluster;
use deploy::deployment::{self, Aim, DeploymentError, Order, Plan, Wishes};
use deploy::journal::{Journal, Past};
use deploy::recorder::{Recorder, Stage};
use model::{ClusterSpec, DeploymentMode, DriveSerial};
use network::measure::Machines;
use progress::Progress;
use shown::{Done, Failed, Planned};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Stages: preflight (every node is looked at: hardware, drives, cables, ledger), network (links, priorities, bandwidth), network-validation (full-size packets, isolation, round trips, bandwidth),
quorum (the ledger on every node and the witness), pool (the drives), volumes, verification. Everything that is in the way is said at once, before anything is changed. What
would be changed is shown, and done only once it is confirmed.

Every step is written into a journal before and after (beside the template, unless said otherwise). A deployment that was interrupted or failed is gone on with by giving the command
again; one that is repeated changes nothing. Drives that hold somebody's data are refused, unless they are named with --wipe.

The access file says where the nodes' agents are, and who asks; `twinrack volume --help` says what it has.

Examples:
  twinrack deploy plant.toml --access access.json --validate-only
  twinrack deploy plant.toml --access access.json
  twinrack deploy azuredeploy.parameters.json --access access.json --override net.storage-intent-dedicated --yes
  twinrack deploy plant.toml --access access.json --stop-after network-validation

Exit codes: 0 good; 1 a rule is violated, something is in the way or a step failed; 2 a file or the command line can't be read; 130 interrupted.";

/// What the journal's name ends with.
const JOURNAL: &str = "deployment.jsonl";

/// What a deployment, the adding of nodes and the repair of one have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Show what would be changed, and change nothing.
    #[arg(long)]
    validate_only: bool,
    /// Do not ask before anything is changed.
    #[arg(long)]
    yes: bool,
    /// Take this drive whatever it holds, and lose that; may be given several times. When nodes are added or one is repaired: a drive of theirs.
    #[arg(long, value_name = "SERIAL")]
    wipe: Vec<DriveSerial>,
    /// Where the journal is; without it: beside the template, NAME.deployment.jsonl.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// The port on which agents listen on their management addresses.
    #[arg(long, default_value_t = AGENT_PORT, value_name = "PORT")]
    agent_port: u16,
}

/// Deploy a cluster from its template.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    how: AddArgs,
    /// Where the agents are, and who asks.
    #[arg(long, env = "TWINRACK_ACCESS", value_name = "FILE")]
    access: PathBuf,
    /// Go no further than this stage.
    #[arg(long, value_name = "STAGE", value_parser = stages(), default_value_t = Stage::Verification)]
    stop_after: Stage,
    /// Print one JSON object, for programs.
    #[arg(long)]
    json: bool,
}

/// Adds a node to each rack, or repairs one: the stages of a deployment, of which the other nodes need nothing.
pub(crate) fn beside_others(cluster: &ClusterArgs, args: &AddArgs, aim: Aim) -> io::Result<Outcome> {
    let (how, access) = (args.clone(), cluster.access().to_owned());
    let deployment = DeployArgs { how, access, stop_after: Stage::Verification, json: cluster.json };
    carry_out(&deployment, aim)
}

/// The stages by their names.
fn stages() -> impl TypedValueParser<Value = Stage> {
    PossibleValuesParser::new(Stage::ALL.map(Stage::name)).try_map(|name| {
        Stage::ALL.into_iter().find(|stage| stage.name() == name).ok_or("there is no such stage")
    })
}

pub(crate) fn run(args: &DeployArgs) -> io::Result<Outcome> {
    carry_out(args, Aim::Deploy)
}

/// A deployment, or what is done about nodes of what was deployed.
fn carry_out(args: &DeployArgs, aim: Aim) -> io::Result<Outcome> {
    let journal = args.how.journal.clone().unwrap_or_else(|| beside(args.how.file.path(), JOURNAL));
    let (source, reading) = match validate::read_or_report(&args.how.file)? {
        Ok(read) => read,
        Err(outcome) => return Ok(outcome),
    };
    let Some(spec) = reading.spec.clone() else { return validate::report_violations(&source, &reading) };
    cluster::until_interrupted(Deployment { args, journal: &journal, aim }.carry_out(spec))
}

/// The template's own path, with another end.
pub(crate) fn beside(template: &Path, end: &str) -> PathBuf {
    template.with_extension(end)
}

struct Deployment<'a> {
    args: &'a DeployArgs,
    journal: &'a Path,
    aim: Aim,
}

impl Deployment<'_> {
    async fn carry_out(&self, mut spec: ClusterSpec) -> Result<io::Result<Outcome>, ClusterError> {
        let stage = |error: deploy::DeployError| ClusterError::from(DeploymentError::from(error));
        deploy::place_witness(&mut spec).map_err(stage)?;
        let (agents, machines) = deploy::access(&self.args.access).map_err(ClusterError::Access)?;
        let mut cluster = Cluster::of(spec, &agents).map_err(ClusterError::NoAgent)?;
        let plan = self.plan(&mut cluster, machines).await?;
        let only_looks = self.args.how.validate_only || cluster.spec.mode == DeploymentMode::Validate;
        if only_looks || self.args.stop_after == Stage::Preflight {
            let planned = Planned::of(&cluster.spec, &plan.changes, &plan.notes);
            let text =
                if self.args.json { json(&planned) } else { format!("{planned}\nnothing was changed\n") };
            return Ok(io::stdout().lock().write_all(text.as_bytes()).map(|()| Outcome::Good));
        }
        let journal = Journal::open(self.journal).map_err(DeploymentError::Journal)?;
        let past = journal.past().clone();
        show(&cluster.spec, &plan, &past).map_err(ClusterError::Terminal)?;
        if !plan.changes.is_empty() && !self.args.how.yes {
            if !confirmed().await? {
                return Ok(writeln!(io::stderr(), "nothing was changed").map(|()| Outcome::Violated));
            }
            // It may have been a long time: what was confirmed must be what is done.
            if self.plan(&mut cluster, machines).await? != plan {
                return Err(ClusterError::Changed);
            }
        }
        let order = Order {
            template: deployment::digest(&cluster.spec),
            until: self.args.stop_after,
            agent_port: self.args.how.agent_port,
            machines,
        };
        let progress = Progress::new();
        let mut recorder = Recorder::new(Some(journal), |told| progress.told(told));
        let result = deployment::deploy(&cluster, &plan, &order, &mut recorder).await;
        let (did, stages, failed_in) =
            (recorder.did().to_vec(), recorder.stages().to_vec(), recorder.stage());
        drop(recorder);
        progress.clear();
        match result {
            Ok(()) => {
                let done = Done::of(&cluster.spec, &plan, order.until, did, stages);
                let text = if self.args.json { json(&done) } else { done.to_string() };
                Ok(io::stdout().lock().write_all(text.as_bytes()).map(|()| Outcome::Good))
            }
            Err(error) => {
                let failed = Failed::of(&past, did, (failed_in, order.until), self.journal, &error);
                if self.args.json {
                    let text = json(&failed);
                    io::stdout().lock().write_all(text.as_bytes()).map_err(ClusterError::Terminal)?;
                }
                Err(ClusterError::Deployment { error: Box::new(error), told: failed.to_string() })
            }
        }
    }

    /// Looks, and decides what would be done.
    async fn plan(&self, cluster: &mut Cluster, machines: Machines) -> Result<Plan, ClusterError> {
        let progress = Progress::new();
        progress.begins(Stage::Preflight.name(), "looks at every node: hardware, drives, cables, ledger");
        let looked = deployment::look(cluster).await;
        progress.clear();
        let look = looked.map_err(DeploymentError::from)?;
        let wishes = Wishes { wipe: self.args.how.wipe.iter().cloned().collect(), aim: self.aim.clone() };
        Ok(deployment::plan(cluster, &look, &wishes, machines).map_err(DeploymentError::InTheWay)?)
    }
}

fn show(spec: &ClusterSpec, plan: &Plan, past: &Past) -> io::Result<()> {
    let mut out = io::stderr().lock();
    write!(out, "{}", Planned::of(spec, &plan.changes, &plan.notes))?;
    let Some(since) = past.unfinished_since else { return Ok(()) };
    let cut_off = past.cut_off_in.as_ref();
    let cut_off = cut_off.map(|step| format!(", cut off in the middle of: {step}")).unwrap_or_default();
    let is_other = past.template.as_ref().is_some_and(|template| *template != deployment::digest(spec));
    let other = if is_other { ", which was of another template" } else { "" };
    writeln!(out, "\ngoes on with the deployment that began at {since}{other}{cut_off}")
}

/// Whether somebody at the terminal says yes.
pub(crate) async fn confirmed() -> Result<bool, ClusterError> {
    let question = "Make these changes? [y/N]".to_owned();
    let answer = cluster::answer(question, "the changes above would be made").await?;
    Ok(matches!(answer.as_str(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: DeployArgs,
    }

    #[test]
    fn every_stage_can_be_the_last() {
        let until = |words: &[&str]| {
            let line = ["deploy", "plant.toml", "--access", "access.json"].iter().chain(words);
            <Line as clap::Parser>::try_parse_from(line).map(|line| line.args.stop_after).ok()
        };
        for stage in Stage::ALL {
            assert_eq!(until(&["--stop-after", stage.name()]), Some(stage));
        }
        assert_eq!((until(&[]), until(&["--stop-after", "never"])), (Some(Stage::Verification), None));
    }

    #[test]
    fn the_journal_is_beside_the_template() {
        assert_eq!(beside(Path::new("a/plant.toml"), JOURNAL), Path::new("a/plant.deployment.jsonl"));
        assert_eq!(
            beside(Path::new("azuredeploy.parameters.json"), JOURNAL),
            Path::new("azuredeploy.parameters.deployment.jsonl")
        );
    }
}
