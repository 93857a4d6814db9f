//! A run from the command line's options to the report: what is done in which order, and what an end means.
//!
//! ```text
//! template ─► rules ─► host packages ─► image ─► accelerator ─► lab up ─► deploy ─► suites ─► lab down ─► report
//!    2          1            69           69                       69        1         1
//! ```
//! (below each step: the exit code if it fails)
//!
//! Invariants: bad input starts nothing and writes nothing; a run that ends after its event log was begun is reported
//! on, unless the report itself can't be written; the lab is gone unless it was to be kept, and it is kept only if it
//! did not fail itself and nobody interrupted it.

mod apply_bench;
mod session;
mod setup;
mod storage_bench;
mod vm_bench;

pub use crate::runner::{DeploymentProcessError, ProcessTask, deployment_process};
pub use apply_bench::{ApplyBench, PROGRAMS, Round, bench_apply, median};
pub use setup::Options;
pub use storage_bench::{Figures, Load, Loss, StorageBench, StorageOrder, System, bench_storage};
pub use vm_bench::{VmBench, VmStart, bench_vm};

use crate::events::{Event, EventLog, LogError};
use crate::host::HostError;
use crate::image::ImageError;
use crate::lab::LabError;
use crate::report::{self, Phase, Summary, WriteError};
use crate::suite::SuiteError;
use crate::ui::Ui;
use deploy::DeployError;
use session::Session;
use std::io;
use std::path::PathBuf;
use std::time::Instant;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file that was named can't be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The template can't be read; the text says where and why.
    #[error("{0}")]
    Unreadable(String),
    /// The template breaks rules; the text says which and where.
    #[error("{0}")]
    Rules(String),
    /// A suite can't be used.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// Two options contradict each other.
    #[error("{0}")]
    Options(&'static str),
    /// A rule to be broken that nobody knows.
    #[error("there is no rule `{0}` that can be broken; there are {known}", known = crate::seeded::names().join(", "))]
    NoSuchRule(String),
    /// No scenario makes sense on this cluster.
    #[error("none of the chosen suites can show anything on this cluster:\n{0}")]
    NothingApplicable(String),
    /// The folder for the report holds something else.
    #[error("{} holds files, but no report of an earlier run", .0.display())]
    NotOurs(PathBuf),
    /// The host lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The node image could not be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The lab failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The run's folder could not be made.
    #[error("cannot make the run's folder {}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The event log could not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] WriteError),
    /// A stage of the deployment could not be carried out.
    #[error("the deployment failed")]
    Deploy(#[from] DeployError),
    /// The deployment refuses what it found.
    #[error("the deployment is refused: {0}")]
    Refused(String),
    /// Nobody could interrupt the run in order.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl RunError {
    /// The process's exit code, as in spec.md.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Rules(_) | Self::Deploy(_) | Self::Refused(_) => 1,
            Self::Read { .. }
            | Self::Unreadable(_)
            | Self::Suite(_)
            | Self::Options(_)
            | Self::NoSuchRule(_)
            | Self::NothingApplicable(_)
            | Self::NotOurs(_)
            | Self::Lab(LabError::File { .. } | LabError::Plan(_))
            | Self::Image(ImageError::NoImage { .. }) => 2,
            Self::Interrupted => 130, // 128 + SIGINT, as shells have it
            _ => 69,                  // EX_UNAVAILABLE of sysexits.h
        }
    }

    /// What to do about it, when there is something to say that the message does not.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Lab(error) => Some(error.help()),
            Self::Deploy(error) => Some(error.help()),
            Self::Read { .. } => Some("see that the path is right and that this user may read the file"),
            Self::Folder { .. } | Self::Log(_) | Self::Report(_) => {
                Some("make room there, or choose another folder with --out")
            }
            Self::NotOurs(_) => Some("choose an empty or new folder with --out, or that of an earlier run"),
            Self::NothingApplicable(_) => Some("choose other suites, or another shape or template"),
            Self::Refused(_) => Some(
                "the nodes' consoles are in the report's folder; --keep leaves the lab up to be looked at",
            ),
            Self::Signals(_)
            | Self::Unreadable(_)
            | Self::Rules(_)
            | Self::Suite(_)
            | Self::Options(_)
            | Self::NoSuchRule(_)
            | Self::Host(_)
            | Self::Image(_)
            | Self::Interrupted => None,
        }
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The report's content.
    pub summary: Summary,
    /// The report's folder.
    pub dir: PathBuf,
    /// What a kept lab's user should know: a lab is kept also when what was examined in it is wrong.
    pub kept: Option<String>,
    /// Why it did not come to its end, if it did not.
    pub error: Option<RunError>,
}

impl Outcome {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match &self.error {
            Some(error) => error.exit_code(),
            None => u8::from(!self.summary.good),
        }
    }
}

/// Does a whole run. An error is one that came before there was anything to report on.
pub async fn run(options: Options, ui: &Ui) -> Result<Outcome, RunError> {
    // From here on an interruption waits until there is something that can be ended in order.
    let interruption = Interruption::listen()?;
    let setup = setup::prepare(options)?;
    let dir = setup.dir.clone();
    let mut session = Session::start(setup, ui).await?;
    let result = tokio::select! {
        result = session.work() => result,
        () = interruption.come() => Err(RunError::Interrupted),
    };
    let mut error = result.err();
    // What the product did wrong is worth a look; a lab that failed, or that somebody interrupted, is not.
    let worth_keeping = error.as_ref().is_none_or(|error| error.exit_code() == 1);
    let kept = session.end(worth_keeping).await.unwrap_or_else(|at_the_end| {
        error.get_or_insert(at_the_end);
        None
    });
    let (summary, log_error) = session.finish(error.as_ref());
    report::write(&summary, &dir)?;
    let error = error.or(log_error.map(RunError::Log));
    Ok(Outcome { summary, dir, kept, error })
}

/// Ctrl-C, or a request to end.
struct Interruption {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    fn listen() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(RunError::Signals);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn come(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Measures in a session of its own, which ends whatever comes of it.
async fn in_session<T>(
    options: Options,
    ui: &Ui,
    measure: impl AsyncFnOnce(&mut Session<'_>) -> Result<T, RunError>,
) -> Result<T, RunError> {
    let interruption = Interruption::listen()?;
    let setup = setup::prepare(options)?;
    let mut session = Session::start(setup, ui).await?;
    let measured = tokio::select! {
        measured = measure(&mut session) => measured,
        () = interruption.come() => Err(RunError::Interrupted),
    };
    let ended = session.end(false).await;
    let measured = measured?;
    ended?;
    Ok(measured)
}

/// Times a phase: logged when it begins and ends, shown while it lasts.
pub(crate) struct PhaseClock<'a> {
    log: &'a EventLog,
    name: &'static str,
    started: Instant,
}

impl<'a> PhaseClock<'a> {
    pub(crate) fn start(log: &'a EventLog, name: &'static str) -> Self {
        log.log(Event::PhaseStarted { phase: name.to_owned() });
        Self { log, name, started: Instant::now() }
    }

    pub(crate) fn end(self) -> Phase {
        let took_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.log.log(Event::PhaseEnded { phase: self.name.to_owned(), took_ms });
        Phase { name: self.name.to_owned(), took_ms }
    }
}

/// Runs blocking work of the host beside the signal handlers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RunError> + Send + 'static,
) -> Result<T, RunError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
