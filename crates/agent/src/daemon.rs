//! The daemon's life: read the configuration, listen, say so, serve, end.
//!
//! On failure: [`DaemonError`]; nothing is served without TLS.

use crate::config::{self, LoadError};
use crate::init::durable_state_dir;
use crate::state::{StartError, State, Stop};
use crate::store::Store;
use crate::{Owner, clock, server};
use api::{IdentityError, PowerAction};
use rustix::system::RebootCommand;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing::{info, warn};

/// What is remembered here lives as long as the machine is up, like the links that it is about.
const STATE_DIR: &str = "/run/twinrack";

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
    let started_ms = clock::uptime_ms();
    let config = config::load(path)?;
    let tls = Arc::new(config.tls.server_config().map_err(DaemonError::Identity)?);
    // One thread: a node of the lab has one emulated processor. What blocks goes to tokio's blocking threads.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    let stop = runtime.block_on(async {
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|source| DaemonError::Listen { address, source })?;
        if let Some(directory) = durable_state_dir() {
            info!("{} outlives a power cycle", directory.display());
        }
        let store = Store::in_directory(STATE_DIR);
        let state = State::start(config, owner, store).await?;
        stop_on_signals(&state)?;
        // Under init the machine's start counts; else the process's.
        let since_ms = if owner == Owner::Init { 0 } else { started_ms };
        info!("twinrackd ready node={} after {} ms", state.config.node, clock::uptime_ms() - since_ms);
        Ok::<_, DaemonError>(server::run(listener, tls, state).await)
    })?;
    // Blocking work that hangs in the kernel must not keep the daemon from ending.
    runtime.shutdown_background();
    match stop {
        Stop::Signal => Ok(()),
        Stop::Power(action) => power(action),
    }
}

fn start_log() {
    // The serial console of an emulated machine is slow: short lines, and few of them.
    let level = std::env::var("TWINRACK_LOG").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_target(false)
        .with_ansi(false)
        .with_writer(io::stderr)
        .init();
}

fn stop_on_signals(state: &Arc<State>) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let state = Arc::clone(state);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        state.stop(Stop::Signal);
    });
    Ok(())
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
