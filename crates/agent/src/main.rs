//! twinrackd, the daemon on every node.
//!
//! Purpose: the shell around the pure crates: it answers the [`api`], reads and configures the machine, and decides
//! nothing that a pure crate can decide.
//!
//! As process 1 of a lab node it is [`init`] instead, which prepares the machine and keeps a second process of the same
//! binary, the daemon, running. So the daemon can be killed without the machine going down with it.
//!
//! Invariants: no name service is used (the binary is linked statically); one thread, and wake-ups only when there is
//! something to do, since an emulated node shares its host's processors.
//!
//! On failure: the daemon says why in one line and exits 1 (2 if its command line or configuration can't be read); init
//! says why in one line on the console, and switches the machine off only if it could not prepare it.

mod adapters;
mod announce;
mod clock;
mod config;
mod daemon;
mod init;
mod inventory;
mod ioctl;
mod lldp;
mod neighbours;
mod network;
mod probes;
mod pulse;
mod server;
mod state;
mod store;
mod throughput;
mod volumes;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: twinrackd --config FILE [--under-init]";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run();
    }
    let Some((config, owner)) = parse(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
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

fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Option<(PathBuf, Owner)> {
    let (mut config, mut owner) = (None, Owner::Host);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") if config.is_none() => config = Some(PathBuf::from(arguments.next()?)),
            Some("--under-init") => owner = Owner::Init,
            _ => return None,
        }
    }
    Some((config?, owner))
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
        assert_eq!(read("--config f"), Some(("f".into(), Owner::Host)));
        assert_eq!(read("--under-init --config f"), Some(("f".into(), Owner::Init)));
        for bad in ["", "--config", "--config a --config b", "f", "--under-init"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
