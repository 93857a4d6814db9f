//! The keeper: the process that owns everything a lab starts, and ends it whatever happens to the harness.
//!
//! ```text
//!  harness ──orders──► keeper ──spawns──► fabric, QEMU, QEMU, …
//!     ▲                  │ owns the lab's directory (sockets, drives, secrets)
//!     └────notices───────┘
//! ```
//!
//! Purpose: after a run nothing is left, also when the harness ended by Ctrl-C, a panic or SIGKILL.
//!
//! Invariants:
//! - The keeper is in a session of its own: what a terminal sends to the harness does not reach it.
//! - It reads orders from a pipe whose other end only the harness holds. End of file means that the harness is gone:
//!   the keeper then kills its children, waits for them, removes the directory and ends. `Order::Keep` lifts that.
//! - Children die with the keeper (`setpriv --pdeathsig`), at whatever moment it dies: SIGKILL of the keeper leaves no process. The directory
//!   that it then leaves is removed by the next [`sweep`]: its lock is free.
//! - It signals only children that it has not yet reaped, so a recycled process id is never hit.
//!
//! On failure: an order that can't be carried out is answered by [`Notice::Failed`]; the keeper goes on.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::{Pid, Signal, kill_process, setsid};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGCHLD, SIGTERM};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// What lab directories are called; [`sweep`] touches no other.
const DIR_PREFIX: &str = "twinrack-lab-";
/// The file in a lab directory that its keeper holds locked.
const LOCK_FILE: &str = "keeper.lock";
/// The socket in a lab directory on which a kept lab is told to end.
const END_SOCKET: &str = "keeper.sock";
/// How much of the orders is read at a time.
const ORDER_CHUNK_BYTES: usize = 1 << 16;
/// A shell script: executes its arguments after the first, which is the process id that its parent must have.
const START_UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#;
/// The longest order that the keeper reads: a QEMU command line is a few kilobytes.
const ORDER_MAX_BYTES: usize = 1 << 20;

/// What the harness asks of the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Start a process, its output and errors to a file each.
    Spawn {
        /// How it is called from now on.
        name: String,
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// Where standard output and standard error go; truncated.
        output: PathBuf,
    },
    /// Don't end the lab when the harness is gone.
    Keep,
    /// End the lab.
    End,
}

/// What the keeper tells the harness.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// The keeper runs and has made the lab's directory.
    Ready {
        /// The directory.
        dir: PathBuf,
    },
    /// A process was started.
    Spawned {
        /// Its name.
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// A process has ended.
    Exited {
        /// Its name.
        name: String,
        /// How, in words.
        status: String,
    },
    /// An order could not be carried out.
    Failed {
        /// What about, and why.
        why: String,
    },
}

/// Why the keeper itself could not run.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The lab's directory could not be made.
    #[error("cannot make a lab directory in {}", .parent.display())]
    MakeDir {
        /// Where.
        parent: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A signal handler, pipe or poll failed.
    #[error("the lab's keeper cannot {operation}")]
    System {
        /// What failed.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> KeeperError {
    move |source| KeeperError::System { operation, source }
}

/// The keeper's main function: orders on standard input, notices on standard output.
///
/// `parent` is where the lab's directory is made.
pub fn run(parent: &Path) -> Result<(), KeeperError> {
    // Fails only if the process leads a group already; then it is not in the harness's session either.
    setsid().ok();
    let signals = Signals::install()?;
    let (dir, _lock) = make_dir(parent)?;
    let listener =
        UnixListener::bind(dir.join(END_SOCKET)).map_err(system("listen for the end of a kept lab"))?;
    let mut keeper = Keeper { dir, children: BTreeMap::new(), phase: Phase::Attached, waiting: None };
    keeper.notify(&Notice::Ready { dir: keeper.dir.clone() });
    let outcome = keeper.serve(&listener, &signals);
    keeper.end_all();
    // Closed by the end of the process, not before: who waits for it shall find nothing left.
    std::mem::forget(keeper.waiting.take());
    outcome
}

/// Removes what keepers left that were killed outright. Directories in use are locked, and left alone.
pub(crate) fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(DIR_PREFIX) {
            continue;
        }
        // Without its lock file the directory is just being made (or not ours): leave it.
        let Ok(lock) = File::open(entry.path().join(LOCK_FILE)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Ends a kept lab and waits until it is gone.
pub(crate) fn end_kept(dir: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(dir.join(END_SOCKET))?;
    // The keeper never answers: it closes the connection by ending.
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Makes the lab's directory, for this user alone, and locks it.
fn make_dir(parent: &Path) -> Result<(PathBuf, OwnedFd), KeeperError> {
    let failed = |source| KeeperError::MakeDir { parent: parent.to_owned(), source };
    // Whoever may enter can write to nodes' ports and to QEMU: nobody but this user.
    let private = fs::Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new()
        .prefix(DIR_PREFIX)
        .permissions(private)
        .tempdir_in(parent)
        .map_err(failed)?;
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let lock = rustix::fs::open(dir.path().join(LOCK_FILE), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| failed(errno.into()))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| failed(errno.into()))?;
    Ok((dir.keep(), lock))
}

/// Signals as readable pipes: one byte per delivery.
struct Signals {
    child: UnixStream,
    terminate: UnixStream,
}

impl Signals {
    fn install() -> Result<Self, KeeperError> {
        let pipe = |signal| -> io::Result<UnixStream> {
            let (reader, writer) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, writer)?;
            Ok(reader)
        };
        let install = |signal| pipe(signal).map_err(system("listen for signals"));
        Ok(Self { child: install(SIGCHLD)?, terminate: install(SIGTERM)? })
    }
}

/// Who the keeper listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The harness holds the other end of standard input, and the lab ends with it.
    Attached,
    /// As before, but the lab stays when the harness goes.
    ToBeKept,
    /// The harness is gone; the lab stays until told to end.
    Kept,
    /// Told to end.
    Ending,
}

struct Keeper {
    dir: PathBuf,
    children: BTreeMap<String, Child>,
    phase: Phase,
    /// Who told a kept lab to end. It waits for this connection to close, which the keeper's own end does.
    waiting: Option<UnixStream>,
}

impl Keeper {
    fn serve(&mut self, listener: &UnixListener, signals: &Signals) -> Result<(), KeeperError> {
        let stdin = io::stdin();
        let mut orders = Vec::new();
        while self.phase != Phase::Ending {
            let mut fds = vec![
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(&signals.child, PollFlags::IN),
                PollFd::new(&signals.terminate, PollFlags::IN),
            ];
            if self.phase != Phase::Kept {
                fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(system("wait for orders")(errno.into())),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[1] {
                drain(&signals.child);
                self.reap();
            }
            if ready[0] {
                self.waiting = listener.accept().ok().map(|(stream, _)| stream);
            }
            if ready[0] || ready[2] {
                self.phase = Phase::Ending;
            } else if ready.get(3) == Some(&true) {
                self.read_orders(&mut orders);
            }
        }
        Ok(())
    }

    fn read_orders(&mut self, pending: &mut Vec<u8>) {
        let mut chunk = vec![0; ORDER_CHUNK_BYTES];
        let read = rustix::io::read(io::stdin().as_fd(), &mut chunk).unwrap_or(0);
        if read == 0 {
            self.phase = if self.phase == Phase::ToBeKept { Phase::Kept } else { Phase::Ending };
            return;
        }
        pending.extend_from_slice(&chunk[..read]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(order) => self.carry_out(order),
                Err(error) => self.notify(&Notice::Failed { why: format!("not an order: {error}") }),
            }
        }
        if pending.len() > ORDER_MAX_BYTES {
            pending.clear();
            self.notify(&Notice::Failed { why: format!("an order is longer than {ORDER_MAX_BYTES} bytes") });
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Spawn { name, program, args, output } => {
                let notice = match spawn(&program, &args, &output) {
                    Ok(child) => {
                        let pid = child.id();
                        self.children.insert(name.clone(), child);
                        Notice::Spawned { name, pid }
                    }
                    Err(error) => Notice::Failed { why: format!("{name}: {}: {error}", program.display()) },
                };
                self.notify(&notice);
            }
            Order::Keep => self.phase = Phase::ToBeKept,
            Order::End => self.phase = Phase::Ending,
        }
    }

    fn reap(&mut self) {
        let exited: Vec<(String, ExitStatus)> = self
            .children
            .iter_mut()
            .filter_map(|(name, child)| Some((name.clone(), child.try_wait().ok()??)))
            .collect();
        for (name, status) in exited {
            self.children.remove(&name);
            self.notify(&Notice::Exited { name, status: in_words(status) });
        }
    }

    fn end_all(&mut self) {
        for child in self.children.values() {
            kill(child);
        }
        for child in self.children.values_mut() {
            child.wait().ok();
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            self.notify(&Notice::Failed {
                why: format!("{}: cannot be removed: {error}", self.dir.display()),
            });
        }
    }

    /// Tells the harness. It may be gone already; then nobody needs to know.
    fn notify(&self, notice: &Notice) {
        if self.phase == Phase::Kept {
            return;
        }
        if let Ok(mut line) = serde_json::to_vec(notice) {
            line.push(b'\n');
            let mut stdout = io::stdout().lock();
            stdout.write_all(&line).and_then(|()| stdout.flush()).ok();
        }
    }
}

/// Starts a process that dies with the keeper.
fn spawn(program: &Path, args: &[String], output: &Path) -> io::Result<Child> {
    let out = File::create(output)?;
    let err = out.try_clone()?;
    // setpriv(1) of util-linux, an essential package, sets the parent-death signal and executes what follows. A keeper that
    // died before the signal was set is no parent any more: the shell sees that and starts nothing.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "sh", "-c", START_UNLESS_ORPHANED, "sh"])
        .arg(std::process::id().to_string())
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
}

/// Kills a child that has not been reaped: its id can't have been given to another process.
fn kill(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process(pid, Signal::KILL).ok();
    }
}

fn drain(signals: &UnixStream) {
    let mut chunk = [0; 64];
    // One read suffices: what is left makes the next poll return at once.
    rustix::io::read(signals.as_fd(), &mut chunk).ok();
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(parent: u32, program: &str) -> ExitStatus {
        let parent = parent.to_string();
        Command::new("sh").args(["-c", START_UNLESS_ORPHANED, "sh", &parent, program]).status().unwrap()
    }

    #[test]
    fn a_child_starts_under_its_keeper_and_not_when_that_is_gone() {
        assert!(start(std::process::id(), "true").success());
        // Process 1 is what orphans get for a parent; here it stands for a keeper that somebody else has taken the place of.
        assert!(!start(1, "true").success());
    }
}
