//! Asking a cluster: what every command about a running one shares.
//!
//! Purpose: read the access file, reach the agents, carry out, print. What is shown is what the ledger says by the word of a quorum.
//!
//! On failure: [`ClusterError`], with what to do; exit code 2 if the access file or the command line can't be read, 1 otherwise. What had begun
//! stands: the command can be given again.

use crate::Outcome;
use clap::Args;
use control::State;
use control::state::Drive;
use control::vm::MemoryLost;
use deploy::deployment::DeploymentError;
use deploy::ledger::LedgerError;
use deploy::pool::PoolError;
use deploy::vms::VmsError;
use deploy::{AccessError, Member, NoAgent};
use model::{DriveId, NodeId};
use network::measure::Machines;
use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which cluster is asked, and how.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Where the agents are, and who asks.
    #[arg(long, env = "TWINRACK_ACCESS", value_name = "FILE")]
    access: PathBuf,
    /// Print one JSON object, for programs.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How long to wait for the cluster, seconds.
    #[arg(long, global = true, default_value_t = 60, value_name = "SECONDS")]
    within: u64,
}

impl ClusterArgs {
    /// Where the agents are, and who asks.
    pub(crate) fn access(&self) -> &Path {
        &self.access
    }

    /// How long to wait for the cluster.
    pub(crate) fn bound(&self) -> Duration {
        Duration::from_secs(self.within)
    }
}

/// Why a command about a cluster failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Access(AccessError),
    #[error("can't write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't start")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Pool(Box<PoolError>),
    #[error(transparent)]
    Ledger(Box<LedgerError>),
    #[error(transparent)]
    Vms(Box<VmsError>),
    #[error("can't read the image {}", path.display())]
    Image {
        path: PathBuf,
        #[source]
        source: vm::image::ImageError,
    },
    #[error("{error}\n{told}")]
    Deployment { error: Box<DeploymentError>, told: String },
    #[error(transparent)]
    NoAgent(NoAgent),
    #[error("nothing is done: the nodes are not any more as they were when that was confirmed")]
    Changed,
    /// What an operator must have read first; one line each.
    #[error("nothing is done without --yes:\n{}", .0.trim_end())]
    NeedsYes(String),
    /// It was to go on where it was.
    #[error("{vm} runs, but has booted from its disks, and its memory is lost: {}", deploy::vms::memory_lost_in_words(*why))]
    HasBooted { vm: String, why: MemoryLost },
    #[error("there is no virtual machine {0}")]
    NoVm(String),
    #[error("there is no volume {0}")]
    NoVolume(String),
    #[error("there is no drive {0} in the pool")]
    NoDrive(String),
    #[error("there is no node {0}")]
    NoNode(String),
    #[error("no node that answers has a ledger")]
    NobodyAnswers,
    #[error("the output is no terminal")]
    NoTerminal,
    #[error("can't use the terminal")]
    Terminal(#[source] io::Error),
}

impl From<PoolError> for ClusterError {
    fn from(error: PoolError) -> Self {
        Self::Pool(Box::new(error))
    }
}

impl From<LedgerError> for ClusterError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(Box::new(error))
    }
}

impl From<DeploymentError> for ClusterError {
    fn from(error: DeploymentError) -> Self {
        Self::Deployment { error: Box::new(error), told: "nothing was changed".to_owned() }
    }
}

impl From<VmsError> for ClusterError {
    fn from(error: VmsError) -> Self {
        Self::Vms(Box::new(error))
    }
}

impl ClusterError {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Deployment { error, .. } if matches!(**error, DeploymentError::Journal(_)) => {
                Outcome::Unreadable
            }
            Self::Access(_) | Self::NoTerminal | Self::Write { .. } | Self::Image { .. } => {
                Outcome::Unreadable
            }
            Self::Runtime(_)
            | Self::NobodyAnswers
            | Self::Terminal(_)
            | Self::Pool(_)
            | Self::Ledger(_)
            | Self::Vms(_)
            | Self::Deployment { .. }
            | Self::NoAgent(_)
            | Self::Changed
            | Self::HasBooted { .. }
            | Self::NoVm(_)
            | Self::NeedsYes(_)
            | Self::NoVolume(_)
            | Self::NoDrive(_)
            | Self::NoNode(_) => Outcome::Violated,
        }
    }

    /// The rule that is broken, where it is one of those that a deployment is checked against.
    fn rule(&self) -> Option<&'static model::rules::Rule> {
        match self {
            Self::Pool(error) => error.rule(),
            Self::Deployment { error, .. } => error.rule(),
            _ => None,
        }
    }

    fn help(&self) -> &'static str {
        match self {
            Self::Access(_) => "`twinrack volume --help` says what an access file has",
            Self::Write { .. } => "name a file that can be written: --out FILE",
            Self::Runtime(_) => "see that the host has threads and memory left",
            Self::Pool(error) => error.help(),
            Self::Ledger(error) => error.help(),
            Self::Vms(error) => error.help(),
            Self::Image { source, .. } => source.help(),
            Self::Deployment { error, .. } => error.help(),
            Self::Changed => "give the command again: it shows what would be changed now",
            Self::HasBooted { .. } => {
                "see to what runs in it; `twinrack vm show` says it until it is saved anew, or stopped"
            }
            Self::NoAgent(_) => "add it to the access file, or give the template that the access file is for",
            Self::NoVm(_) => "`twinrack vm list` shows names and ids",
            Self::NeedsYes(_) => "give it again with --yes if that may be",
            Self::NoVolume(_) => "`twinrack volume list` shows names and ids",
            Self::NoDrive(_) => "`twinrack drive list` shows ids and serial numbers",
            Self::NoNode(_) => "`twinrack node list` shows the nodes",
            Self::NobodyAnswers => {
                "see that the nodes run and that their agents do; `twinrack ledger show` says how each is"
            }
            Self::NoTerminal => "`twinrack status` prints what there is once, with --json for programs",
            Self::Terminal(_) => "`twinrack status` needs no terminal",
        }
    }
}

/// A drive of the pool, by its id or its serial number; one that is lost, which another may be called like by now, only where there is no other.
pub(crate) fn drive(state: &State, drive: &str) -> Result<DriveId, ClusterError> {
    let is = |(id, found): &(&DriveId, &Drive)| id.to_string() == drive || found.serial.to_string() == drive;
    let present = drive.parse().ok().and_then(|serial| state.drive_of(&serial)).map(|(id, _)| id);
    let found = present.or_else(|| state.drives.iter().find(is).map(|(id, _)| *id));
    found.ok_or_else(|| ClusterError::NoDrive(drive.to_owned()))
}

/// A node, by its name or its id; of several of a name the last, which is the present one.
pub(crate) fn node(state: &State, node: &str) -> Result<NodeId, ClusterError> {
    let is = |(id, found): &(&NodeId, &control::state::Node)| {
        id.to_string() == node || found.name.to_string() == node
    };
    let found = state.nodes.iter().filter(is).map(|(id, _)| *id).next_back();
    found.ok_or_else(|| ClusterError::NoNode(node.to_owned()))
}

/// Carries something out against the cluster that is named, and prints what comes of it.
pub(crate) fn run<W>(args: &ClusterArgs, work: impl FnOnce(Vec<Member>) -> W) -> io::Result<Outcome>
where
    W: Future<Output = Result<String, ClusterError>>,
{
    run_and_judge(args, |members, _| async { Ok((work(members).await?, Outcome::Good)) })
}

/// The same of what may be carried out and still not be good, with what figures that are measured there are worth.
pub(crate) fn run_and_judge<W>(
    args: &ClusterArgs,
    work: impl FnOnce(Vec<Member>, Machines) -> W,
) -> io::Result<Outcome>
where
    W: Future<Output = Result<(String, Outcome), ClusterError>>,
{
    let done = deploy::access(&args.access).map_err(ClusterError::Access).and_then(|(members, machines)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(ClusterError::Runtime)?.block_on(work(members, machines))
    });
    match done {
        Ok((text, outcome)) => {
            io::stdout().lock().write_all(text.as_bytes())?;
            Ok(outcome)
        }
        Err(error) => tell(&error),
    }
}

/// Carries something out that goes on where it was interrupted, until it is done or somebody interrupts it.
pub(crate) fn until_interrupted(
    work: impl Future<Output = Result<io::Result<Outcome>, ClusterError>>,
) -> io::Result<Outcome> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tell(&ClusterError::Runtime(error)),
    };
    let done = runtime.block_on(async {
        tokio::select! {
            done = work => Some(done),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    // Somebody may be asked yet: nobody waits for the answer.
    runtime.shutdown_background();
    match done {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => tell(&error),
        None => {
            let what = "interrupted: what was done stands. Give the command again to go on.";
            writeln!(io::stderr(), "{what}")?;
            Ok(Outcome::Interrupted)
        }
    }
}

/// What somebody at the terminal answers; without one that is an error which says what would come of `--yes`. A thread of its own waits for the answer, so that Ctrl-C is heard meanwhile.
pub(crate) async fn answer(question: String, without: &str) -> Result<String, ClusterError> {
    if !io::stdin().is_terminal() {
        return Err(ClusterError::NeedsYes(format!("{without}\n")));
    }
    let asked = tokio::task::spawn_blocking(move || {
        let mut out = io::stderr().lock();
        write!(out, "\n{question} ").and_then(|()| out.flush())?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    });
    asked
        .await
        .map_err(|error| ClusterError::Terminal(io::Error::other(error)))?
        .map_err(ClusterError::Terminal)
}

/// Says what failed and what to do about it.
pub(crate) fn tell(error: &ClusterError) -> io::Result<Outcome> {
    let mut out = io::stderr().lock();
    writeln!(out, "error: {error}")?;
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    for cause in causes {
        writeln!(out, "  because: {cause}")?;
    }
    if let Some(rule) = error.rule() {
        writeln!(out, "  rule: {0}; `twinrack explain {0}` says more", rule.id)?;
    }
    writeln!(out, "  help: {}", error.help())?;
    Ok(error.outcome())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_file_that_can_t_be_read_ends_with_2() {
        let error = deploy::access("/nonexistent".as_ref()).map_err(ClusterError::Access).unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unreadable);
    }
}
