//! Keeping the daemon running, and reaping what it leaves behind.
//!
//! A daemon that was killed is started again at once: an agent restart fits inside a node's lease. One that keeps
//! ending right after it started won't be mended by starting it for ever: then init gives up.

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use std::convert::Infallible;
use std::io;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A daemon that ran this long was all right.
const HEALTHY: Duration = Duration::from_secs(10);
/// Give up after so many starts in a row that were not.
const MAX_SHORT_LIVES: u32 = 5;
/// Pause after the second short life in a row; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub(super) enum SuperviseError {
    #[error("can't start the daemon")]
    Start(#[source] io::Error),
    #[error("can't wait for the daemon")]
    Wait(#[source] Errno),
    #[error("the daemon ended {MAX_SHORT_LIVES} times right after it started; the last time with {last}")]
    KeepsEnding { last: String },
}

/// Runs the daemon, again and again.
pub(super) fn daemon(config: &str) -> Result<Infallible, SuperviseError> {
    let mut short_lives = 0;
    loop {
        let started = Instant::now();
        let child = Command::new("/proc/self/exe")
            .args(["--under-init", "--config", config])
            .spawn()
            .map_err(SuperviseError::Start)?;
        let status = reap_until(child.id())?;
        let last = describe(status);
        eprintln!("twinrackd init: the daemon ended with {last}; starting it again");
        short_lives = if started.elapsed() < HEALTHY { short_lives + 1 } else { 0 };
        if short_lives >= MAX_SHORT_LIVES {
            return Err(SuperviseError::KeepsEnding { last });
        }
        sleep(pause(short_lives));
    }
}

/// One death may be a test's or an operator's kill: no pause. More in a row are a fault that must not eat the machine.
fn pause(short_lives: u32) -> Duration {
    match short_lives {
        0 | 1 => Duration::ZERO,
        more => FIRST_PAUSE * 2u32.saturating_pow(more - 2),
    }
}

/// Waits for every child, ours and orphans, until `daemon` has ended.
fn reap_until(daemon: u32) -> Result<WaitStatus, SuperviseError> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if is(pid, daemon) => return Ok(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(SuperviseError::Wait(errno)),
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

    #[test]
    fn the_first_restart_comes_at_once_and_later_ones_ever_slower() {
        let pauses: Vec<_> = (0..MAX_SHORT_LIVES).map(|lives| pause(lives).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 200, 400, 800]);
    }
}
