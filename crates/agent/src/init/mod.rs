//! Process 1 of a lab node: prepares the machine and keeps the daemon running.
//!
//! In order: kernel file systems; a trial boot ends here; kernel modules; the state drive; host name, loopback and the
//! out-of-band NIC; settings of the network stack; a lab's hands, if the image has them; the guard of users; then the daemon as a child, started
//! again when it ends, and killed for that when it falls silent. Every orphan is reaped.
//!
//! Two processes, so that killing the daemon is not a kernel panic and nothing that the daemon started dies with it; one
//! binary, so that the image has one file. Linked in but not started here: tokio, TLS, everything that can fail later.
//!
//! The image must have `/dev/console` (the Rust runtime aborts without open standard streams and without `/dev/null`),
//! this binary as `/init`, and [`MODULE_LIST`].
//!
//! Invariants: process 1 never ends and never panics: either would panic the kernel and hide why.
//!
//! On failure: one line `twinrackd init: …` on the console. If the machine can't be prepared it switches itself off; once it
//! is, it stays up whatever becomes of the daemon.

mod hands;
mod modules;
mod mounts;
mod network;
mod state_drive;
mod supervise;

pub(crate) use modules::paths as module_paths;
pub(crate) use state_drive::durable_state_dir;
pub(crate) use supervise::tell_ready;

use crate::{chain, config};
use rustix::system::{RebootCommand, reboot, sethostname};
use std::fs;
use std::path::Path;

/// Modules to load, one path a line, relative to `/`, in the order of loading.
const MODULE_LIST: &str = "/lib/modules/modules.load";
/// Where the configuration stands, once the module `qemu_fw_cfg` is there.
const CONFIG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.twinrack/config/raw";
/// On the kernel's command line: only show that this accelerator and kernel boot to here.
const TRIAL: &str = "twinrack.trial=1";

/// Why the machine can't be prepared.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    #[error(transparent)]
    Config(#[from] config::LoadError),
    #[error("can't set the host name")]
    HostName(#[source] rustix::io::Errno),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
}

/// Runs as process 1. Never returns.
pub(crate) fn run() -> ! {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("twinrackd init: a bug: {panic}");
        power_off();
    }));
    if let Err(error) = prepare() {
        eprintln!("twinrackd init: {}", chain(&error));
        power_off();
    }
    supervise::daemon(CONFIG)
}

fn prepare() -> Result<(), InitError> {
    mounts::kernel_file_systems()?;
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if command_line.split_ascii_whitespace().any(|word| word == TRIAL) {
        println!("TWINRACK-TRIAL-OK");
        power_off();
    }
    modules::load(Path::new(MODULE_LIST));
    mounts::configfs();
    state_drive::mount();
    let config = config::load(Path::new(CONFIG))?;
    sethostname(config.node.as_str().as_bytes()).map_err(InitError::HostName)?;
    network::settings();
    network::loopback()?;
    if let Some(out_of_band) = config.out_of_band {
        network::out_of_band(out_of_band)?;
    }
    network::adapters(&config.adapters)?;
    hands::start();
    #[cfg(feature = "volumes")]
    guard_users();
    Ok(())
}

/// From a thread of its own, for as long as the machine is up: it must go on while the daemon does not.
#[cfg(feature = "volumes")]
fn guard_users() {
    let guard = || eprintln!("twinrackd init: {}", crate::guard_users());
    if let Err(error) = std::thread::Builder::new().name("guard".to_owned()).spawn(guard) {
        eprintln!("twinrackd init: users are not guarded: {error}");
    }
}

fn power_off() -> ! {
    if let Err(errno) = reboot(RebootCommand::PowerOff) {
        eprintln!("twinrackd init: can't switch off: {errno}");
    }
    // Not allowed to end: the machine stays as it is, with the reason on its console.
    loop {
        std::thread::park();
    }
}
