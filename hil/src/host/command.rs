//! Running other programs, bounded.
//!
//! Invariants: a child never outlives the call that started it, and the kernel kills it if this process dies during the call
//! ([`bound_to_us`]). Two things are not covered: what a child has started itself (cargo's compilers end their file), and
//! what [`run_to_its_end`] started. A child never reads our standard input, and never fills our memory: past
//! [`OUTPUT_MAX_BYTES`] its output is read and dropped. It speaks plain English (`LC_ALL=C`).
//!
//! On failure: a child that runs past its limit is killed by its own id and waited for; what it said until then is
//! kept, because it is usually the reason.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How much of each of a child's output streams is kept.
const OUTPUT_MAX_BYTES: usize = 16 << 20;

/// How many lines of a child's output go into an error message.
const TAIL_LINES: usize = 30;

/// A shell script: executes its arguments after the first, which is the process id that its parent must have.
const START_UNLESS_ORPHANED: &str = r#"[ "$PPID" = "$1" ] || exit 1; shift; exec "$@""#;

/// What became of a child.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended; none when it was killed for taking too long.
    pub(crate) status: Option<ExitStatus>,
    /// What it wrote to standard output.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

/// A program could not be run, or did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It did not start.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its output or its end could not be waited for.
    #[error("cannot follow `{command}`")]
    Follow {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was killed because it took too long.
    #[error("`{command}` was killed after {limit_s} s; it said last:\n{tail}")]
    TimedOut {
        /// The command line.
        command: String,
        /// How long it was given.
        limit_s: u64,
        /// The end of its output.
        tail: String,
    },
    /// It said that it failed.
    #[error("`{command}` failed ({status}):\n{tail}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        tail: String,
    },
}

/// A command that runs the program, and that the kernel kills as soon as the thread that started it ends, whatever the reason.
///
/// Where the program has set-user-ID (sudo), the kernel takes that back (prctl(2), `PR_SET_PDEATHSIG`).
pub(crate) fn bound_to_us(program: &OsStr) -> Command {
    // setpriv(1) of util-linux, an essential package, sets the parent-death signal and executes what follows. A parent that
    // died before the signal was set is no parent any more: the shell sees that and starts nothing.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "sh", "-c", START_UNLESS_ORPHANED, "sh"]);
    command.arg(std::process::id().to_string()).arg(program);
    command
}

/// Runs the command until it ends or the limit is reached, and tells how it ended.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<Finished, CommandError> {
    let program = command.get_program();
    if !can_be_found(program) {
        let source = io::ErrorKind::NotFound.into();
        return Err(CommandError::Start { command: command_line(command), source });
    }
    let mut bound = bound_to_us(program);
    bound.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        bound.current_dir(dir);
    }
    start_and_follow(&mut bound, command_line(command), limit)
}

/// Runs the command and takes anything but success for an error; returns its standard output and standard error.
pub(crate) fn run_well(command: &mut Command, limit: Duration) -> Result<Finished, CommandError> {
    let finished = run(command, limit)?;
    well(command, limit, finished)
}

/// As [`run_well`], for what is worse half done than done in vain, as a package's installation is: if this process dies, or
/// a terminal interrupts it, the command still goes on to its end.
pub(crate) fn run_to_its_end(command: &mut Command, limit: Duration) -> Result<Finished, CommandError> {
    let line = command_line(command);
    let finished = start_and_follow(command.process_group(0), line, limit)?;
    well(command, limit, finished)
}

/// Whether a program of this name is where the system looks for one.
fn can_be_found(program: &OsStr) -> bool {
    if program.as_encoded_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn start_and_follow(command: &mut Command, line: String, limit: Duration) -> Result<Finished, CommandError> {
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|source| CommandError::Start { command: line.clone(), source })?;
    let followed = follow(&mut child, limit);
    if !matches!(followed, Ok((Some(_), _))) {
        // By its own id, and only while it is our unwaited child: the id can't have been reused.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (status, output) = followed.map_err(|source| CommandError::Follow { command: line, source })?;
    let [stdout, stderr] = output.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Finished { status, stdout, stderr })
}

fn well(command: &Command, limit: Duration, finished: Finished) -> Result<Finished, CommandError> {
    let command = || command_line(command);
    match finished.status {
        Some(status) if status.success() => Ok(finished),
        Some(status) => Err(CommandError::Failed { command: command(), status, tail: finished.tail() }),
        None => Err(CommandError::TimedOut {
            command: command(),
            limit_s: limit.as_secs(),
            tail: finished.tail(),
        }),
    }
}

impl Finished {
    /// The last lines of what it said: of standard error, or of standard output when that is empty.
    pub(crate) fn tail(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<&str> = said.trim_end().lines().collect();
        let mut tail = String::new();
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
            // Writing to a string can't fail.
            let _ = writeln!(tail, "  {line}");
        }
        if tail.is_empty() { "  (nothing)".into() } else { tail.trim_end().into() }
    }
}

/// The command as a person would type it, for messages; quoted only as far as a reader needs.
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
        if word.chars().all(plain) && !word.is_empty() {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Reads both streams and waits for the end, with one thread and one deadline.
fn follow(child: &mut Child, limit: Duration) -> io::Result<(Option<ExitStatus>, [Vec<u8>; 2])> {
    let deadline = Instant::now() + limit;
    let missing = || io::Error::other("the child has no output pipe");
    let mut stdout = Some(child.stdout.take().ok_or_else(missing)?);
    let mut stderr = Some(child.stderr.take().ok_or_else(missing)?);
    let mut output = [Vec::new(), Vec::new()];
    let pid = rustix::process::Pid::from_child(child);
    let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let ready = wait_readable(
            [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd), Some(ended.as_fd())],
            left,
        )?;
        if ready[0] {
            read_some(&mut stdout, &mut output[0])?;
        }
        if ready[1] {
            read_some(&mut stderr, &mut output[1])?;
        }
        // Only when nothing is left to read: what a child says last is what matters. A grandchild that keeps a pipe
        // open (and silent) doesn't hold us up.
        if ready == [false, false, true] {
            return Ok((Some(child.wait()?), output));
        }
        if left.is_zero() {
            return Ok((None, output));
        }
    }
}

/// Which of the descriptors can be read, once one can or the time is over.
fn wait_readable(
    fds: [Option<std::os::fd::BorrowedFd<'_>>; 3],
    limit: Duration,
) -> rustix::io::Result<[bool; 3]> {
    // Rounded up to whole milliseconds, so that the last wait isn't a busy loop.
    let timeout = Timespec::try_from(limit + Duration::from_millis(1))
        .unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 });
    let mut polled = Vec::with_capacity(fds.len());
    for fd in fds.iter().flatten() {
        polled.push(PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    }
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    let mut answers = polled.iter().map(|fd| !fd.revents().is_empty());
    Ok(fds.map(|fd| fd.is_some() && answers.next().unwrap_or(false)))
}

/// Takes what is there; a stream that has ended becomes `None`.
fn read_some<R: Read>(stream: &mut Option<R>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(reader) = stream else { return Ok(()) };
    let mut buffer = [0; 16 << 10];
    match reader.read(&mut buffer) {
        Ok(0) => *stream = None,
        Ok(count) => {
            let room = OUTPUT_MAX_BYTES.saturating_sub(into.len());
            into.extend_from_slice(&buffer[..count.min(room)]);
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let finished = run(&mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(20)).unwrap();
        assert_eq!(finished.stdout, "out\n");
        assert_eq!(finished.stderr, "err\n");
        assert_eq!(finished.status.and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn a_lot_of_output_is_neither_lost_nor_a_deadlock() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo 0123456789; echo 0123456789 >&2; i=$((i+1)); done";
        let finished = run(&mut shell(script), Duration::from_mins(1)).unwrap();
        assert_eq!((finished.stdout.len(), finished.stderr.len()), (220_000, 220_000));
    }

    #[test]
    fn a_child_that_hangs_is_killed_and_what_it_said_is_told() {
        let mut command = shell("echo before; exec sleep 600");
        let error = run_well(&mut command, Duration::from_millis(300)).unwrap_err();
        let CommandError::TimedOut { tail, .. } = error else { panic!("{error}") };
        assert_eq!(tail, "  before");
    }

    #[test]
    fn a_child_that_closes_its_streams_is_still_waited_for() {
        let finished = run(&mut shell("exec >&- 2>&-; exit 5"), Duration::from_secs(20)).unwrap();
        assert_eq!(finished.status.and_then(|status| status.code()), Some(5));
    }

    #[test]
    fn a_grandchild_that_holds_the_pipe_holds_nobody_up() {
        let started = Instant::now();
        let finished = run(&mut shell("sleep 30 & echo $!"), Duration::from_secs(20)).unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
        run_well(Command::new("kill").arg(finished.stdout.trim()), Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn a_child_dies_with_the_thread_that_waits_for_it() {
        let start = || {
            let script = ["-c", "echo started; exec sleep 600"];
            let mut child = bound_to_us("sh".as_ref()).args(script).stdout(Stdio::piped()).spawn().unwrap();
            child.stdout.take().unwrap().read_exact(&mut [0; 7]).unwrap();
            child
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn an_orphan_is_not_even_started() {
        let start = |parent: u32| {
            let parent = parent.to_string();
            Command::new("sh").args(["-c", START_UNLESS_ORPHANED, "sh", &parent, "true"]).status().unwrap()
        };
        assert!(start(std::process::id()).success());
        // Process 1 is what orphans get for a parent; here it stands for one that somebody else has taken the place of.
        assert!(!start(1).success());
    }

    #[test]
    fn a_command_keeps_its_folder_and_environment() {
        let mut command = shell("pwd; echo $WORD ${HOME-none}");
        command.current_dir("/proc").env("WORD", "w").env_remove("HOME");
        assert_eq!(run_well(&mut command, Duration::from_secs(20)).unwrap().stdout, "/proc\nw none\n");
    }

    #[test]
    fn what_runs_to_its_end_is_beyond_a_terminals_reach() {
        // The fifth field of proc(5)'s stat is the process group.
        let script = r#"[ "$(cut -d ' ' -f 5 /proc/$$/stat)" = $$ ]"#;
        run_to_its_end(&mut shell(script), Duration::from_secs(20)).unwrap();
        assert!(run_well(&mut shell(script), Duration::from_secs(20)).is_err());
    }

    #[test]
    fn a_failure_shows_the_last_lines() {
        let error = run_well(&mut shell("echo why >&2; exit 1"), Duration::from_secs(20)).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'echo why >&2; exit 1'` failed (exit status: 1):\n  why");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nowhere/x"), Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.to_string(), "cannot start `/nowhere/x`");
    }
}
