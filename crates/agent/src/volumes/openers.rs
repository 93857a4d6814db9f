//! Who has a volume open, and how they are made to let it go: SIGKILL, and waiting until none is left.
//!
//! On failure: whoever waits for I/O can't end before that does. [`Left`] says how far they are.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use storage::kernel::{Engine, StepError};

/// How long a killed process may take to be gone before its I/O is looked at.
const GONE_MAX: Duration = Duration::from_millis(300);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// SIGKILL's bit in a mask of signals.
const KILL_BIT: u64 = 1 << 8;
/// `PF_EXITING` of linux/sched.h.
const EXITING: u64 = 4;

/// Who is left of those who had a device open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nobody.
    Nobody,
    /// Processes none of which returns to user mode: every thread of them has SIGKILL pending, or has ended.
    Doomed,
    /// Others.
    Alive,
}

/// Kills everybody who has this block device open; returns when nobody has, or after a while.
pub(super) fn kill(device: &Path) -> Left {
    let Ok(number) = fs::metadata(device).map(|device| device.rdev()) else { return Left::Nobody };
    let deadline = Instant::now() + GONE_MAX;
    loop {
        let openers = openers(number);
        if openers.is_empty() {
            return Left::Nobody;
        }
        for pid in &openers {
            // It may have ended by itself.
            let _ = kill_process(*pid, Signal::KILL);
        }
        if Instant::now() > deadline {
            let doomed = openers.iter().all(|pid| is_doomed(*pid));
            return if doomed { Left::Doomed } else { Left::Alive };
        }
        sleep(LOOK_AGAIN);
    }
}

/// How many processes have this block device open.
pub(super) fn count(device: &Path) -> usize {
    fs::metadata(device).map_or(0, |device| openers(device.rdev()).len())
}

/// Asks everybody who has this block device open to end.
pub(super) fn ask_to_end(device: &Path) {
    for pid in fs::metadata(device).map(|device| openers(device.rdev())).unwrap_or_default() {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Kills everybody who has any volume open on this node.
pub(super) fn kill_all(engine: &Engine) -> Result<(), StepError> {
    for device in engine.tops()? {
        kill(&device);
    }
    Ok(())
}

fn is_doomed(pid: Pid) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else { return true };
    threads.flatten().all(|thread| {
        // One that can't be read has ended.
        let read = |name| fs::read_to_string(thread.path().join(name));
        let (Ok(status), Ok(stat)) = (read("status"), read("stat")) else { return true };
        dies(&status, &stat)
    })
}

/// Whether a thread never returns to user mode, by its `status` and `stat` (proc(5)): SIGKILL is pending for
/// it, as it is for every thread of a process that was sent one (kernel/signal.c, `complete_signal`), or it is on its way out.
fn dies(status: &str, stat: &str) -> bool {
    let pending =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigPnd:")?.trim(), 16).ok());
    // Behind the name, which may hold anything: state, five numbers, flags.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let ended = fields.next().is_some_and(|state| matches!(state, "Z" | "X"));
    let exits =
        fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & EXITING != 0);
    ended || exits || pending.is_some_and(|mask| mask & KILL_BIT != 0)
}

/// Processes with a descriptor of the device, this one left out.
fn openers(number: u64) -> Vec<Pid> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let has = |pid: &i32| {
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        fds.flatten().any(|fd| fs::metadata(fd.path()).is_ok_and(|file| file.rdev() == number))
    };
    pids.filter(|pid| *pid != own && has(pid)).filter_map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_dies_when_sigkill_is_pending_or_it_has_ended() {
        let status = |mask: &str| format!("Name:\tqemu\nState:\tD (disk sleep)\nSigPnd:\t{mask}\n");
        let stat = |state: &str, flags: u32| format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 0 0");
        assert!(dies(&status("0000000000000100"), &stat("D", 0x40_0000)));
        assert!(dies(&status("0000000000000000"), &stat("Z", 0x40_0000)));
        assert!(dies(&status("0000000000000000"), &stat("D", 0x40_0004)));
        assert!(!dies(&status("0000000000004000"), &stat("D", 0x40_0000)));
        assert!(!dies("", ""));
    }

    #[test]
    fn whoever_has_it_open_is_killed_and_gone() {
        let device = Path::new("/dev/null");
        let child =
            std::process::Command::new("sleep").arg("1000").stdin(fs::File::open(device).unwrap()).spawn();
        let mut child = child.unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(openers(fs::metadata(device).unwrap().rdev()).contains(&pid));
        kill_process(pid, Signal::KILL).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(is_doomed(pid));
    }
}
