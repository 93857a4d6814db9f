//! The keeper: the process that owns everything a lab starts, and ends it whatever happens to the harness.
//!
//! ```text
//!  harness ──orders──► keeper ──spawns──► fabric, drives, QEMU, QEMU, …
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
//! - Children die with the keeper ([`bound_to_us`]), at whatever moment it dies: SIGKILL of the keeper leaves no process. The
//!   directory that it then leaves is removed by the next [`sweep`](directory::sweep).
//! - It holds nothing of whoever started the harness but standard error, which shows why a keeper can't go on, and lets go of
//!   that when the lab is kept: a kept lab holds nobody's pipe or lock.
//! - It signals only children that it has not yet reaped, so a recycled process id is never hit.
//! - A process that ends is told, once: as [`Notice::Killed`] if it was ordered and SIGKILL is what ended it, else as
//!   [`Notice::Exited`]. What is killed is gone, with all its sockets and locks, when that is told. What had ended before it could be killed is gone, too: it is told as
//!   what it is, first, and whoever knows why it ended judges that.
//!
//! On failure: an order that can't be carried out is answered by [`Notice::Failed`]; the keeper goes on.

use super::directory;
use crate::host::bound_to_us;
use model::NodeName;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process, setsid};
use rustix::stdio::dup2_stderr;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGCHLD, SIGTERM};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

/// The socket in a lab directory on which a kept lab is told to end.
pub(super) const END_SOCKET: &str = "keeper.sock";
/// The file in a lab directory that gets what the keeper of a kept lab says.
const LOG_FILE: &str = "keeper.log";
/// How much of the orders is read at a time.
const ORDER_CHUNK_BYTES: usize = 1 << 16;
/// The longest order that the keeper reads: a QEMU command line is a few kilobytes.
const ORDER_MAX_BYTES: usize = 1 << 20;

/// A process of a lab. A type of its own, because a node may be called as one likes, `fabric` too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Process {
    /// The switches.
    Fabric,
    /// The data drives.
    Drives,
    /// A node's QEMU.
    Node(NodeName),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fabric => f.write_str("fabric"),
            Self::Drives => f.write_str("drives"),
            Self::Node(name) => write!(f, "node {name}"),
        }
    }
}

/// What the harness asks of the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Start a process.
    Spawn {
        /// Which.
        process: Process,
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<String>,
        /// Where standard output and standard error go: after what is there.
        output: PathBuf,
    },
    /// End these at once, all before any is waited for: a rack's machines lose their power together.
    Kill {
        /// Which.
        processes: BTreeSet<Process>,
    },
    /// Don't end the lab when the harness is gone, and let go of its standard error.
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
        /// Its process id.
        pid: u32,
    },
    /// The processes are gone: killed, or ended before that, which was told.
    Killed,
    /// The lab stays.
    Kept,
    /// A process has ended, and nobody had ordered that.
    Exited {
        /// Which.
        process: Process,
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
    close_inherited()?;
    // Fails only if the process leads a group already; then it is not in the harness's session either.
    setsid().ok();
    let signals = Signals::install()?;
    let made = directory::make(parent);
    let (dir, _lock) = made.map_err(|source| KeeperError::MakeDir { parent: parent.to_owned(), source })?;
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

/// Closes what the harness was started with besides the standard streams: a caller's lock, say, that would last as long
/// as a kept lab.
#[expect(unsafe_code, reason = "there is no safe way to close descriptors that nothing in this process owns")]
fn close_inherited() -> Result<(), KeeperError> {
    let first = 3; // past standard error
    // SAFETY: this is the first thing that the keeper's process does: nothing in it has opened a descriptor that this
    // would close under its owner.
    match unsafe { libc::close_range(first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(system("close what it inherited")(io::Error::last_os_error())),
    }
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
    children: BTreeMap<Process, Child>,
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
                let ended = self.reap();
                self.notify_all(&ended);
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
            Order::Spawn { process, program, args, output } => {
                let notice = match spawn(&program, &args, &output) {
                    Ok(child) => {
                        let pid = child.id();
                        self.children.insert(process, child);
                        Notice::Spawned { pid }
                    }
                    Err(error) => {
                        Notice::Failed { why: format!("{process}: {}: {error}", program.display()) }
                    }
                };
                self.notify(&notice);
            }
            Order::Kill { processes } => {
                let notices = self.kill_all(&processes);
                self.notify_all(&notices);
            }
            Order::Keep => {
                let notice = match self.let_go() {
                    Ok(()) => {
                        self.phase = Phase::ToBeKept;
                        Notice::Kept
                    }
                    Err(error) => Notice::Failed { why: format!("{LOG_FILE}: {error}") },
                };
                self.notify(&notice);
            }
            Order::End => self.phase = Phase::Ending,
        }
    }

    /// Turns standard error to a file of the lab's. Standard input and output are the harness's pipes and go with it.
    fn let_go(&self) -> io::Result<()> {
        let log = File::create(self.dir.join(LOG_FILE))?;
        dup2_stderr(&log).map_err(io::Error::from)
    }

    /// Kills processes and waits until they are gone. One that had ended before is gone as well: it is told as what it is, one that ended unasked.
    fn kill_all(&mut self, processes: &BTreeSet<Process>) -> Vec<Notice> {
        let mut notices = self.reap();
        for process in processes {
            self.children.get(process).into_iter().for_each(kill);
        }
        for process in processes {
            let status = self.children.remove(process).and_then(|mut child| child.wait().ok());
            if let Some(status) = status.filter(|status| status.signal() != Some(Signal::KILL.as_raw())) {
                notices.push(Notice::Exited { process: process.clone(), status: in_words(status) });
            }
        }
        notices.push(Notice::Killed);
        notices
    }

    /// Those that have ended unasked.
    fn reap(&mut self) -> Vec<Notice> {
        let exited: Vec<(Process, ExitStatus)> = self
            .children
            .iter_mut()
            .filter_map(|(process, child)| Some((process.clone(), child.try_wait().ok()??)))
            .collect();
        let told = exited.into_iter().map(|(process, status)| {
            self.children.remove(&process);
            Notice::Exited { process, status: in_words(status) }
        });
        told.collect()
    }

    fn end_all(&mut self) {
        for child in self.children.values() {
            kill(child);
        }
        for (process, mut child) in std::mem::take(&mut self.children) {
            if let Ok(status) = child.wait() {
                self.notify(&Notice::Exited { process, status: in_words(status) });
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            self.notify(&Notice::Failed {
                why: format!("{}: cannot be removed: {error}", self.dir.display()),
            });
        }
    }

    fn notify_all(&self, notices: &[Notice]) {
        for notice in notices {
            self.notify(notice);
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
    let out = OpenOptions::new().create(true).append(true).open(output)?;
    let err = out.try_clone()?;
    bound_to_us(program.as_os_str()).args(args).stdin(Stdio::null()).stdout(out).stderr(err).spawn()
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

    fn keeper() -> Keeper {
        let dir = tempfile::tempdir().unwrap().keep();
        Keeper { dir, children: BTreeMap::new(), phase: Phase::Kept, waiting: None }
    }

    fn spawn_order(process: &str) -> Order {
        let order = format!(
            r#"{{"Spawn":{{"process":{process},"program":"/bin/sleep","args":["600"],"output":"/dev/null"}}}}"#
        );
        serde_json::from_str(&order).unwrap()
    }

    #[test]
    fn a_node_called_as_the_fabric_is_another_process() {
        let mut keeper = keeper();
        for process in ["\"Fabric\"", r#"{"Node":"fabric"}"#, r#"{"Node":"keeper"}"#] {
            keeper.carry_out(spawn_order(process));
        }
        let pids: Vec<u32> = keeper.children.values().map(Child::id).collect();
        assert_eq!(pids.len(), 3);
        keeper.end_all();
        for pid in pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} was forgotten");
        }
        assert!(!keeper.dir.exists());
    }
    fn node(name: &str) -> Process {
        Process::Node(name.parse().unwrap())
    }

    /// A keeper with a process of this name that runs a shell script to its end, or is still at it.
    fn with_child(keeper: &mut Keeper, name: &str, script: &str) -> u32 {
        let args = ["-c".to_owned(), script.to_owned()];
        let child = spawn(Path::new("/bin/sh"), &args, &keeper.dir.join(name)).unwrap();
        let pid = child.id();
        keeper.children.insert(node(name), child);
        pid
    }

    #[test]
    fn what_is_killed_is_gone_and_the_rest_goes_on() {
        let mut keeper = keeper();
        let [a, b, c] = ["a1", "a2", "b1"].map(|name| with_child(&mut keeper, name, "exec sleep 600"));
        let killed = keeper.kill_all(&[node("a1"), node("a2")].into());
        assert!(matches!(killed[..], [Notice::Killed]), "{killed:?}");
        let there = [a, b, c].map(|pid| Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(there, [false, false, true]);
        assert_eq!(keeper.children.keys().collect::<Vec<_>>(), [&node("b1")]);
        let again = keeper.kill_all(&[node("a1")].into());
        assert!(matches!(again[..], [Notice::Killed]), "it is off already: {again:?}");
        keeper.end_all();
    }

    /// A machine that resets itself while its power is being taken: its process has ended, known or not, or is about to.
    #[test]
    fn what_ended_by_itself_is_gone_and_was_not_killed() {
        let mut keeper = keeper();
        let pid = with_child(&mut keeper, "a1", "exit 3");
        let other = with_child(&mut keeper, "a2", "exec sleep 600");
        // A zombie: it has ended, and its parent does not know yet.
        while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        let notices = keeper.kill_all(&[node("a1"), node("a2")].into());
        let [Notice::Exited { process, status }, Notice::Killed] = &notices[..] else {
            panic!("{notices:?}")
        };
        assert_eq!((process, &status[..]), (&node("a1"), "ended with exit code 3"));
        assert!(!Path::new(&format!("/proc/{other}")).exists(), "the other one lost its power all the same");
        let again = keeper.kill_all(&[node("a1")].into());
        assert!(matches!(again[..], [Notice::Killed]), "it is told once: {again:?}");
        keeper.end_all();
    }

    #[test]
    fn what_a_process_says_comes_after_what_was_said_before() {
        let mut keeper = keeper();
        for word in ["one", "two"] {
            with_child(&mut keeper, "a1", &format!("echo {word}"));
            keeper.children.remove(&node("a1")).unwrap().wait().unwrap();
        }
        assert_eq!(fs::read_to_string(keeper.dir.join("a1")).unwrap(), "one\ntwo\n");
        keeper.end_all();
    }
}
