//! Running one command, bounded.
//!
//! Invariants: a command that is over leaves nothing of its process group behind; what made a session of its own (setsid)
//! stays, as with a person's terminal. It is over when its process has ended, whoever still holds its outputs.
//!
//! On failure: an [`Answer`] with the reason and what was said until then.

use crate::{Answer, OUTPUT_MAX_BYTES, failure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How many pieces are read of an output before the others get their turn: more than a pipe holds (pipe(7): 64 KiB).
const TURN_PIECES: usize = 16;

/// How much is read at once.
const PIECE_BYTES: usize = 8 << 10;

/// A command in the surroundings that every one has.
pub(crate) fn command(program: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/");
    command
}

/// Runs the command to its end, or to its limit.
pub(crate) fn run(program: &str, arguments: &[String], stdin: &[u8], limit: Duration) -> Answer {
    let mut command = command(program, arguments);
    command.process_group(0);
    let started = Instant::now();
    command.stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
    let mut child = match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return failure(None, format!("cannot start {program}: {error}")),
    };
    let (mut outputs, followed) = match Outputs::of(&mut child) {
        Ok(mut outputs) => {
            let followed = follow(&mut child, &mut outputs, stdin, limit);
            (outputs, followed)
        }
        Err(error) => (Outputs::default(), Err(error)),
    };
    let took_us = u64::try_from(started.elapsed().as_micros()).ok();
    // The child is not yet waited for, so that the number of its group is nobody else's.
    let waited = end(&mut child);
    outputs.read_what_is_there();
    let answer = Answer {
        truncated: outputs.out.truncated || outputs.err.truncated,
        stdout: String::from_utf8_lossy(&outputs.out.kept).into_owned(),
        stderr: String::from_utf8_lossy(&outputs.err.kept).into_owned(),
        ..Answer::default()
    };
    match followed.and_then(|ended| Ok((ended, waited?))) {
        Ok((true, status)) => Answer { status: status.code(), signal: status.signal(), took_us, ..answer },
        Ok((false, _)) => {
            let error = format!("{program} was killed: it still ran after {} ms", limit.as_millis());
            Answer { error: Some(error), ..answer }
        }
        Err(error) => Answer { error: Some(format!("lost {program}: {error}")), ..answer },
    }
}

/// Kills what is left of the group, and waits for the child.
fn end(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(group) = pid_of(child) {
        // Fails where all have ended, which is as good.
        let _ = kill_process_group(group, Signal::KILL);
    }
    child.wait()
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// Feeds and reads the child until it has ended or its time is over; whether it has ended.
fn follow(child: &mut Child, outputs: &mut Outputs, stdin: &[u8], limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let pid = pid_of(child).ok_or(io::ErrorKind::NotFound)?;
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let mut input = child.stdin.take();
    if let Some(input) = &input {
        do_not_block(input)?;
    }
    let mut rest = stdin;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        if wait(&ended, outputs, input.as_ref(), left)? {
            return Ok(true);
        }
        outputs.read_what_is_there();
        if let Some(pipe) = &mut input
            && feed(pipe, &mut rest)
        {
            input = None;
        }
    }
}

/// Waits until something can be done, or the time is over; whether the child has ended.
fn wait(ended: &OwnedFd, outputs: &Outputs, input: Option<&ChildStdin>, left: Duration) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(ended, PollFlags::IN)];
    let open = [&outputs.out.pipe, &outputs.err.pipe].into_iter().flatten();
    fds.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    fds.extend(input.map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!fds[0].revents().is_empty()),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes what the pipe takes; whether it is to be closed, because all is written or nobody reads.
fn feed(pipe: &mut ChildStdin, rest: &mut &[u8]) -> bool {
    match pipe.write(rest) {
        Ok(count) => {
            *rest = &rest[count..];
            rest.is_empty()
        }
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

fn do_not_block(pipe: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&pipe)?;
    Ok(fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?)
}

/// What a command says.
#[derive(Default)]
struct Outputs {
    out: Output,
    err: Output,
}

#[derive(Default)]
struct Output {
    /// Until its end.
    pipe: Option<File>,
    kept: Vec<u8>,
    truncated: bool,
}

impl Outputs {
    fn of(child: &mut Child) -> io::Result<Self> {
        let out = child.stdout.take().map(OwnedFd::from);
        let err = child.stderr.take().map(OwnedFd::from);
        Ok(Self { out: Output::of(out)?, err: Output::of(err)? })
    }

    fn read_what_is_there(&mut self) {
        self.out.read_what_is_there();
        self.err.read_what_is_there();
    }
}

impl Output {
    fn of(pipe: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            do_not_block(pipe)?;
        }
        Ok(Self { pipe: pipe.map(File::from), ..Self::default() })
    }

    /// Reads without waiting, not for ever: somebody may write faster than this reads.
    fn read_what_is_there(&mut self) {
        for _ in 0..TURN_PIECES {
            let Some(pipe) = &mut self.pipe else { return };
            let mut piece = [0; PIECE_BYTES];
            match pipe.read(&mut piece) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    let kept = count.min(OUTPUT_MAX_BYTES - self.kept.len());
                    self.kept.extend_from_slice(&piece[..kept]);
                    self.truncated |= kept < count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}
