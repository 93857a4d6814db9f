//! Keeping the daemon running, and reaping what it leaves behind. For ever: a node is more than its agent. Its links, its
//! arrays and its VMs outlive the agent, and a plan that nobody confirmed needs one to take it back.
//!
//! A daemon that was killed is started again at once: an agent restart fits inside a node's lease. One that can't be
//! started, or ends before it was ready, is started ever more slowly, so that it does not eat the machine meanwhile.
//!
//! On failure: a line on the console, and another try.

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use std::fs;
use std::io;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The daemon makes this file when it serves. Under init alone; lives as long as the machine is up.
const READY: &str = "/run/twinrack.ready";
/// Between two starts, at least: one that ends as soon as it is ready must not eat the machine either.
const SPACING: Duration = Duration::from_millis(200);
/// Pause after the second life in a row that was never ready; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No pause is longer: whoever mends the cause need not wait for long.
const PAUSE_MAX: Duration = Duration::from_secs(10);

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
    let child = Command::new("/proc/self/exe").args(["--under-init", "--config", config]).spawn()?;
    reap_until(child.id())
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
