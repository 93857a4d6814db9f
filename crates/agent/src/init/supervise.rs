//! Keeping the daemon running, and reaping what it leaves behind. For ever: a node is more than its agent. Its links, its
//! arrays and its VMs outlive the agent, and a plan that nobody confirmed needs one to take it back.
//!
//! A daemon that was killed is started again at once: an agent restart fits inside a node's lease. One that can't be
//! started, or ends before it was ready, is started ever more slowly, so that it does not eat the machine meanwhile.
//!
//! A daemon that lives and does nothing (stopped, or hung in a call) is worse than a dead one: its dead man's timers do not run
//! out. So it has to show its pulse ([`crate::pulse`]) on its standard input, a pipe; one that is silent for [`WAITS_MAX`] waits in a
//! row is killed, and the next one takes back. Several, because a machine whose processors were taken away for a while finds all
//! clocks run out at once, and the daemon must then have time for a beat.
//!
//! On failure: a line on the console, and another try. A daemon that can't be watched runs unwatched.

use crate::pulse::BEAT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, wait,
};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// The daemon makes this file when it serves. Under init alone; lives as long as the machine is up.
const READY: &str = "/run/twinrack.ready";
/// Between two starts, at least: one that ends as soon as it is ready must not eat the machine either.
const SPACING: Duration = Duration::from_millis(200);
/// Pause after the second life in a row that was never ready; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No pause is longer: whoever mends the cause need not wait for long.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a beat is waited for. Many beats: an emulated node has one processor of a busy host.
const WAIT: Duration = BEAT.saturating_mul(4);
/// How many waits in a row may be in vain.
const WAITS_MAX: u32 = 2;

/// How one try to run the daemon went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    lasted: Duration,
    /// Whether it came to serve.
    ready: bool,
}

/// How soon the next daemon starts. Pure.
#[derive(Debug, Default)]
struct Pace {
    never_ready: u32,
}

impl Pace {
    /// One death may be a test's or an operator's kill: no pause. More in a row that were never ready are a fault.
    fn pause_after(&mut self, life: Life) -> Duration {
        self.never_ready = if life.ready { 0 } else { self.never_ready.saturating_add(1) };
        let pause = match self.never_ready {
            0 | 1 => Duration::ZERO,
            more => FIRST_PAUSE.saturating_mul(2u32.saturating_pow(more - 2)).min(PAUSE_MAX),
        };
        pause.max(SPACING.saturating_sub(life.lasted))
    }
}

/// Says to init that this daemon serves.
pub(crate) fn tell_ready() -> io::Result<()> {
    fs::write(READY, [])
}

/// Runs the daemon, again and again.
pub(super) fn daemon(config: &str) -> ! {
    let mut pace = Pace::default();
    loop {
        let started = Instant::now();
        // Not there at the first start.
        let _ = fs::remove_file(READY);
        let end = match live(config) {
            Ok(status) => format!("the daemon ended with {}", describe(status)),
            Err(error) => format!("can't run the daemon: {error}"),
        };
        let pause =
            pace.pause_after(Life { lasted: started.elapsed(), ready: fs::exists(READY).unwrap_or(false) });
        eprintln!("twinrackd init: {end}; starting it again in {} ms", pause.as_millis());
        sleep(pause);
    }
}

/// One daemon from start to end.
fn live(config: &str) -> io::Result<WaitStatus> {
    let mut command = Command::new("/proc/self/exe");
    let (child, pulse) = spawn_with_pulse(command.args(["--under-init", "--config", config]))?;
    let ended = pidfd(&child);
    // It ends with the daemon.
    let watch = move || ended.and_then(|ended| watch(&pulse, &ended, WAIT));
    let watching = thread::Builder::new().name("watch".to_owned()).spawn(move || match watch() {
        Ok(Watched::Ended) => {}
        Ok(Watched::Killed) => eprintln!("twinrackd init: the daemon was silent; it is killed"),
        Err(error) => eprintln!("twinrackd init: the daemon runs unwatched: {error}"),
    });
    if let Err(error) = watching {
        eprintln!("twinrackd init: the daemon runs unwatched: {error}");
    }
    reap_until(child.id())
}

/// Starts a child whose standard input is the end of a pipe to write to; gives the other one.
fn spawn_with_pulse(command: &mut Command) -> io::Result<(Child, OwnedFd)> {
    // Neither side may ever block on it.
    let (pulse, beats) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((command.stdin(Stdio::from(beats)).spawn()?, pulse))
}

/// It has not been reaped yet, so the id is its own.
fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// How the watch over a daemon ended.
#[derive(Debug, PartialEq, Eq)]
enum Watched {
    Ended,
    Killed,
}

/// Watches until the process has ended, whoever reaps it, or has been killed for its silence.
fn watch(pulse: &OwnedFd, process: &OwnedFd, wait: Duration) -> io::Result<Watched> {
    let timeout = Timespec::try_from(wait).map_err(io::Error::other)?;
    let mut silent = 0;
    while silent < WAITS_MAX {
        let mut fds = [PollFd::new(process, PollFlags::IN), PollFd::new(pulse, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => silent += 1,
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Watched::Ended),
            Ok(_) => match rustix::io::read(pulse, &mut [0; 64]) {
                // Its end is closed, and it lives: that is silence, too, which poll doesn't wait for.
                Ok(0) => {
                    sleep(wait);
                    silent += 1;
                }
                Ok(_) => silent = 0,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            },
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) => Ok(Watched::Killed),
        Err(Errno::SRCH) => Ok(Watched::Ended),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits for every child, ours and orphans, until `daemon` has ended.
fn reap_until(daemon: u32) -> io::Result<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if is(pid, daemon) => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is(pid: Pid, daemon: u32) -> bool {
    u32::try_from(pid.as_raw_nonzero().get()) == Ok(daemon)
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// Real processes: real time, as little as tells beats from silence.
    const SHORT: Duration = Duration::from_millis(500);

    /// A shell that runs `script`, with its pulse as standard input. How its watch and it ended, and when.
    fn watched(script: &str) -> (Watched, String, Duration) {
        let (mut child, pulse) = spawn_with_pulse(Command::new("sh").args(["-c", script])).unwrap();
        let started = Instant::now();
        let watched = watch(&pulse, &pidfd(&child).unwrap(), SHORT).unwrap();
        let took = started.elapsed();
        (watched, child.wait().unwrap().to_string(), took)
    }

    #[test]
    fn a_daemon_that_falls_silent_is_killed_frozen_or_not() {
        for script in ["exec sleep 600", "kill -STOP $$", "exec <&-; exec sleep 600"] {
            let (watched, end, took) = watched(script);
            assert_eq!((watched, &*end), (Watched::Killed, "signal: 9 (SIGKILL)"), "{script}");
            assert!(took >= SHORT * WAITS_MAX, "{script}: {took:?}");
        }
    }

    #[test]
    fn a_daemon_that_beats_now_and_then_is_left_alone_until_it_ends() {
        // Every beat comes after one wait in vain.
        let beats = "for beat in 1 2 3; do sleep 0.7; echo >&0; done; exit 3";
        let (watched, end, took) = watched(beats);
        assert_eq!((watched, &*end), (Watched::Ended, "exit status: 3"));
        assert!(took > SHORT * WAITS_MAX, "{took:?}");
    }

    fn pauses_ms(lives: impl IntoIterator<Item = Life>) -> Vec<u128> {
        let mut pace = Pace::default();
        lives.into_iter().map(|life| pace.pause_after(life).as_millis()).collect()
    }

    #[test]
    fn a_daemon_that_never_serves_is_started_ever_more_slowly_and_always_again() {
        let never = Life { lasted: SECOND, ready: false };
        assert_eq!(pauses_ms([never; 9]), [0, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(pauses_ms(std::iter::repeat_n(never, 10_000)).last(), Some(&10_000));
    }

    #[test]
    fn a_daemon_that_served_is_started_again_at_once_however_short_it_was() {
        let (served, never) = (Life { lasted: SECOND, ready: true }, Life { lasted: SECOND, ready: false });
        assert_eq!(pauses_ms([served; 20]), [0; 20]);
        assert_eq!(pauses_ms([never, never, served, never, never]), [0, 200, 0, 0, 200]);
        let instant = Life { lasted: Duration::from_millis(50), ready: true };
        assert_eq!(pauses_ms([instant; 3]), [150, 150, 150]);
    }

    proptest! {
        #[test]
        fn starts_are_bounded_both_ways(lives: Vec<(u16, bool)>) {
            let mut pace = Pace::default();
            for (ms, ready) in lives {
                let lasted = Duration::from_millis(u64::from(ms));
                let pause = pace.pause_after(Life { lasted, ready });
                prop_assert!(pause <= PAUSE_MAX && lasted + pause >= SPACING);
            }
        }
    }
}
