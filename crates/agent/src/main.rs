//! twinrackd, the daemon on every node.
//!
//! Purpose: the shell around the pure crates: it answers the [`api`], reads and configures the machine, and decides
//! nothing that a pure crate can decide.
//!
//! As process 1 of a lab node it is [`init`] instead, which prepares the machine and keeps a second process of the same
//! binary, the daemon, running. So the daemon can be killed without the machine going down with it. Users of volumes are guarded by process 1, too, or by another process of
//! this binary: it ends them when the daemon hangs.
//!
//! Invariants: no name service is used (the binary is linked statically); one thread, and wake-ups only when there is
//! something to do, since an emulated node shares its host's processors.
//!
//! On failure: the daemon says why in one line and exits 1 (2 if its command line or configuration can't be read); init
//! says why in one line on the console, and switches the machine off only if it could not prepare it.

mod adapters;
mod announce;
mod beat;
mod clock;
mod config;
mod daemon;
mod init;
mod inventory;
mod ioctl;
mod lldp;
mod neighbours;
mod network;
mod priority;
mod probes;
mod pulse;
mod server;
mod state;
mod store;
mod throughput;
#[cfg(feature = "volumes")]
mod volumes;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: twinrackd --config FILE [--under-init]
       twinrackd --guard-users
       twinrackd --keep-memory DEVICE";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    let (config, owner) = match parse(std::env::args_os().skip(1)) {
        Some(Task::Daemon(config, owner)) => (config, owner),
        Some(Task::GuardUsers) => {
            eprintln!("twinrackd: {}", guard_users());
            return ExitCode::from(1);
        }
        Some(Task::KeepMemory(device)) => {
            return keep_memory(&device).map_or(ExitCode::from(1), |()| ExitCode::SUCCESS);
        }
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match daemon::run(&config, owner) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("twinrackd: {}", chain(&error));
            ExitCode::from(if matches!(error, daemon::DaemonError::Config(_)) { 2 } else { 1 })
        }
    }
}

/// Who is process 1: it decides whether the daemon may switch the machine off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Our own [`init`]: the machine is ours.
    Init,
    /// A distribution's: the machine is not.
    Host,
}

/// What this process is for.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    /// It is the daemon, with the configuration in this file.
    Daemon(PathBuf, Owner),
    /// It ends users of volumes whose lease is over, whatever becomes of the daemon.
    GuardUsers,
    /// It has this device open on which a virtual machine's memory is saved, for a daemon that tells it what to do.
    KeepMemory(PathBuf),
}

/// Whoever tells it what to do is told what goes wrong.
fn keep_memory(device: &Path) -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "volumes")]
    volumes::keep_memory(device)?;
    #[cfg(not(feature = "volumes"))]
    let _ = device;
    Ok(())
}

/// Guards for as long as the machine is up; else why not.
fn guard_users() -> &'static str {
    #[cfg(feature = "volumes")]
    let why = match inventory::boot_id().parse() {
        Ok(boot) => volumes::guard(boot),
        Err(_) => "users are not guarded: the kernel does not say its boot's id",
    };
    #[cfg(not(feature = "volumes"))]
    let why = "there are no users to guard: this one is built without volumes";
    why
}

fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<Task> {
    let (mut config, mut owner) = (None, Owner::Host);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") if config.is_none() => config = Some(PathBuf::from(arguments.next()?)),
            Some("--under-init") => owner = Owner::Init,
            Some("--guard-users") if config.is_none() && owner == Owner::Host => {
                return arguments.next().is_none().then_some(Task::GuardUsers);
            }
            Some("--keep-memory") if config.is_none() && owner == Owner::Host => {
                let device = PathBuf::from(arguments.next()?);
                return arguments.next().is_none().then_some(Task::KeepMemory(device));
            }
            _ => return None,
        }
    }
    Some(Task::Daemon(config?, owner))
}

/// An error with all its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line = format!("{line}: {cause}");
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_read_or_refused() {
        let read = |line: &str| parse(line.split_whitespace().map(Into::into));
        assert_eq!(read("--config f"), Some(Task::Daemon("f".into(), Owner::Host)));
        assert_eq!(read("--under-init --config f"), Some(Task::Daemon("f".into(), Owner::Init)));
        assert_eq!(read("--guard-users"), Some(Task::GuardUsers));
        assert_eq!(read("--keep-memory /dev/dm-7"), Some(Task::KeepMemory("/dev/dm-7".into())));
        assert_eq!(
            read("--keep-memory").or(read("--keep-memory a b")).or(read("--config f --keep-memory a")),
            None
        );
        let guards = ["--guard-users f", "--under-init --guard-users", "--config f --guard-users"];
        for bad in ["", "--config", "--config a --config b", "f", "--under-init"].into_iter().chain(guards) {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
