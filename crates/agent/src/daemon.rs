//! The daemon's life: read the configuration, take back what an earlier one left pending, listen, say so, serve, end.
//!
//! In this order: the address to listen on may be one that the pending plan took away.
//!
//! What it remembers outlives the machine where a directory does ([`init::durable_state_dir`]), else the boot. From its first
//! moment it shows that it lives ([`crate::pulse`]).
//!
//! Told to end (SIGTERM, SIGINT), it takes a plan back that nobody confirmed yet, in [`TAKE_BACK_LIMIT`]: on a host nobody
//! promises that another agent comes to do it. What could not be done by then is the next agent's first act. A machine that
//! goes down needs none of this: its links end with it.
//!
//! On failure: [`DaemonError`]; nothing is served without TLS.

use crate::config::{self, LoadError};
use crate::state::{StartError, State, Stop};
use crate::store::Store;
use crate::{Owner, clock, init, priority, pulse, server};
use api::{IdentityError, PowerAction};
use rustix::system::RebootCommand;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// For a machine without a durable directory: what is remembered here ends with the boot, as the links do.
const BOOT_STATE_DIR: &str = "/run/twinrack";

/// For taking a pending plan back at the end: what the kernel does in milliseconds, on an overloaded host in seconds. A
/// service manager must grant this and the server's three seconds (systemd grants 90).
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(10);

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Config(#[from] LoadError),
    #[error("can't use the TLS identity of the configuration")]
    Identity(#[source] IdentityError),
    #[error("can't start the runtime")]
    Runtime(#[source] io::Error),
    #[error("can't listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("can't wait for signals")]
    Signals(#[source] io::Error),
    #[error("can't carry out the power request {action:?}")]
    Power {
        action: PowerAction,
        #[source]
        source: rustix::io::Errno,
    },
}

/// Runs the daemon until it is told to stop.
pub(crate) fn run(path: &Path, owner: Owner) -> Result<(), DaemonError> {
    // Under init the kernel would call it `exe`, after the path that it was started by. It's only a name.
    let _ = rustix::thread::set_name(c"twinrackd");
    start_log();
    priority::starts();
    let started_ms = clock::uptime_ms();
    let config = config::load(path)?;
    // One thread: a node of the lab has one emulated processor. What blocks goes to tokio's blocking threads.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    let stop = runtime.block_on(async {
        let pulse = pulse::start(owner);
        // Before the way back begins: told to end in the middle of it, the daemon ends it first.
        let signals = Signals::catch().map_err(DaemonError::Signals)?;
        let state = State::start(config, owner, store()).await?;
        let tls = Arc::new(state.config.tls.server_config().map_err(DaemonError::Identity)?);
        let address = state.config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|source| DaemonError::Listen { address, source })?;
        signals.stop(&state);
        #[cfg(feature = "volumes")]
        stop_for_the_ledger(&state);
        // Under init the machine's start counts; else the process's.
        let since_ms = if owner == Owner::Init { 0 } else { started_ms };
        info!("twinrackd ready node={} after {} ms", state.config.node, clock::uptime_ms() - since_ms);
        if owner == Owner::Init
            && let Err(error) = init::tell_ready()
        {
            warn!("can't tell init that this daemon serves: {error}");
        }
        pulse.serves();
        priority::is_at_work();
        let stop = server::run(listener, tls, Arc::clone(&state)).await;
        if !matches!(stop, Stop::Power(_)) && timeout(TAKE_BACK_LIMIT, state.network.stop()).await.is_err() {
            warn!("ending with a plan that is not taken back yet: the next agent will");
        }
        Ok::<_, DaemonError>(stop)
    })?;
    // Blocking work that hangs in the kernel must not keep the daemon from ending.
    runtime.shutdown_background();
    match stop {
        Stop::Signal => Ok(()),
        #[cfg(feature = "volumes")]
        Stop::Anew => Ok(()),
        Stop::Power(action) => power(action),
    }
}

/// Stops the daemon when its ledger needs another run of it.
#[cfg(feature = "volumes")]
fn stop_for_the_ledger(state: &Arc<State>) {
    let state = Arc::clone(state);
    tokio::spawn(async move {
        state.volumes.begins_anew().await;
        state.stop(Stop::Anew);
    });
}

fn store() -> Store {
    if let Some(directory) = init::durable_state_dir() {
        info!("{} outlives a power cycle", directory.display());
        return Store::in_directory(directory);
    }
    warn!("{BOOT_STATE_DIR} does not outlive a power cycle: then this node forgets its network plan");
    Store::in_directory(BOOT_STATE_DIR)
}

fn start_log() {
    // The serial console of an emulated machine is slow: short lines, and few of them. Raft complains of each message
    // that a dead peer does not answer; what is wrong with it is seen in what the ledger refuses.
    let level = std::env::var("TWINRACK_LOG").ok().and_then(|level| level.parse().ok());
    let level = level.unwrap_or(LevelFilter::INFO);
    let raft = if level > LevelFilter::INFO { level } else { LevelFilter::OFF };
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_target(false)
        .with_ansi(false)
        .with_writer(io::stderr);
    let filter = Targets::new().with_default(level).with_target("openraft", raft);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// From when it is made, these signals don't end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits until one comes, or has come since they were caught.
    async fn come(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Stops the daemon when they come.
    fn stop(self, state: &Arc<State>) {
        let state = Arc::clone(state);
        tokio::spawn(async move {
            self.come().await;
            state.stop(Stop::Signal);
        });
    }
}

/// No sync(2) first: it waits for every file system, for ever if one of them hangs. What must be durable was fsynced.
fn power(action: PowerAction) -> Result<(), DaemonError> {
    let command = match action {
        PowerAction::Off => RebootCommand::PowerOff,
        PowerAction::Reboot => RebootCommand::Restart,
    };
    warn!("power {action:?} as asked");
    rustix::system::reboot(command).map_err(|source| DaemonError::Power { action, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn a_signal_while_the_daemon_starts_is_kept_and_does_not_end_it() {
        let signals = Signals::catch().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        timeout(Duration::from_secs(10), signals.come()).await.unwrap();
    }
}
