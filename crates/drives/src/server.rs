//! The process around the drives: a thread for each, and one for who gives orders.
//!
//! Invariants: a drive's thread alone has its file and its cache. Orders reach it through [`Shared`], and a byte in a pipe wakes it; it
//! takes them in between two requests.
//!
//! On failure: [`RunError`], and the process ends, all drives with it.

mod clients;
mod drive;

use crate::control::{CONTROL_SOCKET, DriveState};
use crate::fault::Fault;
use model::DriveSerial;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

/// What the drives are started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The drives.
    pub drives: Vec<DriveConfig>,
}

/// A drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveConfig {
    /// Its serial number, by which orders name it.
    pub drive: DriveSerial,
    /// What it holds: a file that is there, as long as the drive is large.
    pub file: PathBuf,
    /// Where its machine connects.
    pub socket: PathBuf,
    /// What its losses are drawn from.
    pub seed: u64,
}

/// Why the drives didn't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A drive's content can't be read or written.
    #[error("cannot {doing} {}", .path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket can't be made or waited at.
    #[error("cannot {doing}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread broke; it said why on standard error.
    #[error("a thread of the drives broke")]
    Broken,
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

/// Runs drives, and takes orders in `dir`, until something fails or the process is ended.
pub fn run(config: &Config, dir: &Path) -> Result<(), RunError> {
    let (failed, failures) = mpsc::channel();
    let mut all = Vec::new();
    for config in &config.drives {
        let (shared, woken) = Shared::new(&config.drive).map_err(system("make a pipe"))?;
        let shared = Arc::new(shared);
        let drive = drive::Drive::open(config, Arc::clone(&shared), woken)?;
        all.push(shared);
        start(format!("drive {}", config.drive), failed.clone(), || drive.serve())?;
    }
    let listener = UnixListener::bind(dir.join(CONTROL_SOCKET)).map_err(system("listen for orders"))?;
    start("orders".to_owned(), failed, move || clients::serve(&listener, &all))?;
    // Nobody ends well: whoever ends first says why.
    failures.recv().unwrap_or(Err(RunError::Broken))
}

/// Starts a thread that says how it ended, also by a panic.
fn start(
    name: String,
    failed: mpsc::Sender<Result<(), RunError>>,
    work: impl FnOnce() -> Result<(), RunError> + Send + 'static,
) -> Result<(), RunError> {
    let thread = move || {
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(RunError::Broken));
        failed.send(outcome).ok();
    };
    thread::Builder::new().name(name).spawn(thread).map(drop).map_err(system("start a thread"))
}

/// What a drive's thread and who gives orders both see.
struct Shared {
    state: Mutex<State>,
    /// Told when an order to lose the power was carried out.
    obeyed: Condvar,
    wake: UnixStream,
}

struct State {
    seen: DriveState,
    /// Whether the drive is to lose its power though its machine is there.
    lose_power: bool,
}

impl Shared {
    /// What is shared, and the end of a pipe that wakes the drive's thread.
    fn new(drive: &DriveSerial) -> io::Result<(Self, UnixStream)> {
        let (woken, wake) = UnixStream::pair()?;
        for end in [&woken, &wake] {
            end.set_nonblocking(true)?;
        }
        let seen = DriveState {
            drive: drive.clone(),
            has_power: false,
            fault: Fault::None,
            waiting: 0,
            reads: 0,
            writes: 0,
            written_bytes: 0,
            writes_through: 0,
            flushes: 0,
            failed: 0,
            unflushed_bytes: 0,
            power_losses: 0,
            lost_sectors: 0,
        };
        let state = Mutex::new(State { seen, lose_power: false });
        Ok((Self { state, obeyed: Condvar::new(), wake }, woken))
    }

    /// The state; a thread that panicked while it had it ends the process soon.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // If the pipe is full, the thread is woken anyway.
        drop((&self.wake).write(&[1]));
    }
}

#[cfg(test)]
mod tests;
