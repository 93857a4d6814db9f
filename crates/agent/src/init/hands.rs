//! A lab's hands (`crates/hands`): a program that only images of labs have, kept running beside the daemon.
//!
//! It neither needs the daemon nor is its child, so that it can be used while the daemon is killed.
//!
//! Init's main thread reaps every child, this one too, so its end is seen by a pidfd, which is readable when a process has
//! ended, whoever reaps it (`pidfd_open(2)`).
//!
//! On failure: a line on the console, and another try. A port that isn't there is waited for, with a line when it takes long.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The program.
const PROGRAM: &str = "/bin/hands";
/// Its port's name (`hands::PORT_NAME`, which the agent doesn't know: it has nothing of that crate).
const PORT_NAME: &str = "twinrack.hands";
/// Where ports have their names (`drivers/char/virtio_console.c`).
const PORTS: &str = "/sys/class/virtio-ports";
/// When it is said that there is no port yet: the kernel is told of it after the driver is loaded.
const PORT_BOUND: Duration = Duration::from_secs(10);
/// How often it is looked whether it is.
const PORT_POLL: Duration = Duration::from_millis(50);
/// Between two starts, and between two looks for a port that is late: one that ends at once must not eat the machine.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the hands, if the image has them, and keeps them running from a thread of its own.
pub(super) fn start() {
    if !Path::new(PROGRAM).exists() {
        return;
    }
    if let Err(error) = thread::Builder::new().name("hands".to_owned()).spawn(keep_running) {
        eprintln!("twinrackd init: no hands: {error}");
    }
}

fn keep_running() {
    let port = wait_for_port(Path::new(PORTS), PORT_BOUND);
    loop {
        match run(&port) {
            Ok(()) => eprintln!("twinrackd init: the hands have ended; starting them again"),
            Err(error) => eprintln!("twinrackd init: can't run the hands: {error}"),
        }
        thread::sleep(PAUSE);
    }
}

/// For as long as it takes: this thread has nothing else to do, and a look costs microseconds.
fn wait_for_port(ports: &Path, late: Duration) -> PathBuf {
    let start = Instant::now();
    let mut said = false;
    loop {
        if let Some(port) = port_in(ports) {
            return port;
        }
        if !said && start.elapsed() >= late {
            eprintln!("twinrackd init: no hands yet: no port is called {PORT_NAME}");
            said = true;
        }
        thread::sleep(if said { PAUSE } else { PORT_POLL });
    }
}

/// The device of the port with the right name.
fn port_in(ports: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(ports).ok()?.flatten();
    let is_it = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME)
    };
    entries.find(is_it).map(|entry| Path::new("/dev").join(entry.file_name()))
}

/// Runs the program until it ends.
fn run(port: &Path) -> io::Result<()> {
    let child = Command::new(PROGRAM).arg(port).spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let ended = match pidfd_open(pid, PidfdFlags::empty()) {
        // Ended and reaped already.
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    loop {
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], None) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(port_in(&dir.path().join("none")), None);
        for (port, name) in [("vport1p1", "org.qemu.guest_agent.0\n"), ("vport1p2", "twinrack.hands\n")] {
            assert_eq!(port_in(dir.path()), None);
            fs::create_dir(dir.path().join(port)).unwrap();
            fs::write(dir.path().join(port).join("name"), name).unwrap();
        }
        assert_eq!(port_in(dir.path()), Some("/dev/vport1p2".into()));
    }

    #[test]
    fn a_port_that_comes_late_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("vport1p2");
        thread::scope(|scope| {
            let found = scope.spawn(|| wait_for_port(dir.path(), Duration::ZERO));
            // It has looked once, and said that there is none.
            thread::sleep(PORT_POLL);
            fs::create_dir(&port).unwrap();
            fs::write(port.join("name"), "twinrack.hands\n").unwrap();
            assert_eq!(found.join().unwrap(), Path::new("/dev/vport1p2"));
        });
    }
}
