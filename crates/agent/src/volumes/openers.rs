//! Who has a volume open, and how they are made to let it go: SIGKILL, and waiting until none is left.
//!
//! On failure: whoever can't be killed is still there when time is up; the caller sees that the device is busy.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a killed process may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Kills everybody who has this block device open; returns when nobody has, or time is up.
pub(super) fn kill(device: &Path) {
    let Ok(number) = fs::metadata(device).map(|device| device.rdev()) else { return };
    let deadline = Instant::now() + GONE_MAX;
    loop {
        let openers = openers(number);
        if openers.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in openers {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(LOOK_AGAIN);
    }
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
