//! A fabric as the lab runs it: a process of its own, which ends when its parent lets go of it or tells it to.

use super::common::topology;
use fabric::{Config, Control};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);
const CONFIG: &str = "FABRIC_TEST_CONFIG";

/// Not a test by itself: what the others start, in a process of its own.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    if let Ok(config) = std::env::var(CONFIG) {
        let config: Config = serde_json::from_str(&config).unwrap();
        fabric::run(&config).unwrap();
    }
}

fn start(socket_dir: &Path, stdin: Stdio) -> Child {
    let topology = topology();
    let config = Config { topology, socket_dir: socket_dir.to_owned(), exit_on_stdin_eof: true };
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::child", "--ignored"])
        .env(CONFIG, serde_json::to_string(&config).unwrap())
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn end_of(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end in time");
        }
        std::thread::yield_now();
    }
}

#[test]
fn it_ends_with_its_parent_and_takes_its_sockets_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path(), Stdio::piped());
    Control::connect_within(dir.path(), DEADLINE).unwrap().nics().unwrap();
    drop(child.stdin.take());
    assert!(end_of(child).success());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn it_ends_on_sigterm_and_takes_its_sockets_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path(), Stdio::piped());
    let held = child.stdin.take();
    Control::connect_within(dir.path(), DEADLINE).unwrap().nics().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(end_of(child).success());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    drop(held);
}

#[test]
fn it_does_not_start_without_a_parent_to_watch() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!end_of(start(dir.path(), Stdio::null())).success());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_client_gives_up_on_a_fabric_that_never_comes() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Control::connect_within(dir.path(), Duration::from_millis(20)).is_err());
}
