//! NVMe over TCP as host: connections to legs, and the multipath heads over them.
//!
//! A connection is asked for by writing to `/dev/nvme-fabrics` (`drivers/nvme/host/fabrics.c`, `opt_tokens`), and comes with a
//! controller `nvmeN`; all controllers of a subsystem share its head `nvmeXn1`.
//!
//! Invariants: `ctrl_loss_tmo=-1`: a controller is never given up by itself; `fast_io_fail_tmo=0`: what it can't send fails to the gate
//! at once. On failure: [`StepError::NoPath`] when no path came about, with the last one's reason.

use super::dm::DeviceNumber;
use super::sysfs::{self, failed};
use super::{Engine, StepError};
use crate::name::{self, GivenLeg};
use crate::owner::Connection;
use crate::target::TCP_PORT;
use model::NodeId;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FABRICS: &str = "/dev/nvme-fabrics";
const CONTROLLERS: &str = "/sys/class/nvme";
const SUBSYSTEMS: &str = "/sys/class/nvme-subsystem";

/// How often a controller says that it lives, s: the shortest that the kernel takes, since a quiet path must be found dead, too.
const KEEP_ALIVE_S: u32 = 2;
/// How long a controller waits between two tries, s.
const RECONNECT_DELAY_S: u32 = 1;
/// How long is waited for a controller to go, so that the order is known to have come through.
const DELETE_BOUND: Duration = Duration::from_millis(200);
/// The kernel looks for namespaces after it has told of the controller.
const NAMESPACE_BOUND: Duration = Duration::from_secs(5);

/// Our connections, by leg.
pub(super) fn connections(engine: &Engine) -> BTreeMap<GivenLeg, Vec<Connection>> {
    let mut found: BTreeMap<GivenLeg, Vec<Connection>> = BTreeMap::new();
    for controller in sysfs::names(Path::new(CONTROLLERS)) {
        let folder = Path::new(CONTROLLERS).join(&controller);
        let read = |name: &str| sysfs::read_if_there(&folder.join(name));
        let connection = || {
            let given = GivenLeg::of_subsystem(engine.settings.cluster, &read("subsysnqn")?)?;
            let address = read("address")?;
            let address = address.split(',').find_map(|part| part.strip_prefix("traddr="))?.parse().ok()?;
            let state = read("state").filter(|state| !is_going(state))?;
            let live = state == "live";
            Some((
                given,
                Connection { controller: controller.strip_prefix("nvme")?.parse().ok()?, address, live },
            ))
        };
        if let Some((given, connection)) = connection() {
            found.entry(given).or_default().push(connection);
        }
    }
    found
}

/// The head over all paths to a leg.
fn head(engine: &Engine, given: GivenLeg) -> Option<PathBuf> {
    let wanted = given.subsystem(engine.settings.cluster);
    let folders =
        sysfs::names(Path::new(SUBSYSTEMS)).into_iter().map(|name| Path::new(SUBSYSTEMS).join(name));
    let folder = folders
        .into_iter()
        .find(|folder| sysfs::read_if_there(&folder.join("subsysnqn")).as_ref() == Some(&wanted))?;
    // Heads are `nvmeXnY`; a path of one, where it is visible, is `nvmeXcZnY`.
    let is_head = |name: &String| {
        let rest =
            name.strip_prefix("nvme").unwrap_or_default().trim_start_matches(|c: char| c.is_ascii_digit());
        rest.strip_prefix('n')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    sysfs::names(&folder).into_iter().find(is_head).map(|name| folder.join(name))
}

/// The head's number.
pub(super) fn head_number(engine: &Engine, given: GivenLeg) -> Result<DeviceNumber, StepError> {
    let missing = || StepError::Missing {
        what: format!("NVMe device of {}", given.subsystem(engine.settings.cluster)),
    };
    let text = sysfs::read(&head(engine, given).ok_or_else(missing)?.join("dev"))?;
    let (major, minor) = text.split_once(':').ok_or_else(missing)?;
    let number = |text: &str| text.parse().map_err(|_| missing());
    Ok(DeviceNumber { major: number(major)?, minor: number(minor)? })
}

/// Whose head that is.
pub(super) fn of_head(engine: &Engine, number: DeviceNumber) -> Option<GivenLeg> {
    let folder = std::fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    GivenLeg::of_subsystem(
        engine.settings.cluster,
        &sysfs::read_if_there(&folder.parent()?.join("subsysnqn"))?,
    )
}

/// Connects through every storage network that has no connection yet, all at once.
pub(super) fn connect(engine: &Engine, given: GivenLeg, node: NodeId) -> Result<(), StepError> {
    let addresses = engine.settings.peers.get(&node).cloned().unwrap_or_default();
    let there = connections(engine).remove(&given).unwrap_or_default();
    let missing = addresses.iter().filter(|(_, address)| there.iter().all(|one| one.address != **address));
    let tried: Vec<_> =
        missing.map(|(network, address)| options(engine, given, *network, *address)).collect();
    let threads: Vec<_> =
        tried.into_iter().map(|options| std::thread::spawn(move || ask(&options))).collect();
    let mut why = format!("{node} has no address on a storage network");
    for thread in threads {
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => why = format!("{error}: {}", error.source),
            Err(_) => "a thread of ours ended".clone_into(&mut why),
        }
    }
    let there = connections(engine).remove(&given).unwrap_or_default();
    if there.is_empty() {
        return Err(StepError::NoPath { given, why });
    }
    await_namespace(engine, given)?;
    for connection in there {
        bound_path(engine, connection.controller)?;
    }
    Ok(())
}

fn options(engine: &Engine, given: GivenLeg, network: u16, address: IpAddr) -> String {
    let own = engine.settings.own.get(&network).map(|own| format!(",host_traddr={own}")).unwrap_or_default();
    format!(
        "transport=tcp,traddr={address},trsvcid={TCP_PORT}{own},nqn={},hostnqn={},hostid={},nr_io_queues=1,\
         ctrl_loss_tmo=-1,fast_io_fail_tmo=0,reconnect_delay={RECONNECT_DELAY_S},keep_alive_tmo={KEEP_ALIVE_S}",
        given.subsystem(engine.settings.cluster),
        name::host(engine.settings.cluster, engine.settings.node),
        name::host_id(engine.settings.cluster, engine.settings.node),
    )
}

fn ask(options: &str) -> Result<(), super::FileError> {
    let path = Path::new(FABRICS);
    let mut asked = File::options().read(true).write(true).open(path).map_err(failed("open", path))?;
    asked.write_all(options.as_bytes()).map_err(failed(format!("ask for {options:?} at"), path))?;
    let mut answer = String::new();
    asked.read_to_string(&mut answer).map(drop).map_err(failed("read the answer of", path))
}

/// Where each path's namespace is.
fn paths(controller: u32) -> Vec<PathBuf> {
    let folder = Path::new(CONTROLLERS).join(format!("nvme{controller}"));
    let names =
        sysfs::names(&folder).into_iter().filter(|name| name.starts_with("nvme") && name.contains('c'));
    names.map(|name| folder.join(name)).collect()
}

fn bound_path(engine: &Engine, controller: u32) -> Result<(), StepError> {
    for path in paths(controller) {
        sysfs::write(&path.join("queue/io_timeout"), &engine.settings.stall_max.as_millis().to_string())?;
    }
    Ok(())
}

fn await_namespace(engine: &Engine, given: GivenLeg) -> Result<(), StepError> {
    let deadline = Instant::now() + NAMESPACE_BOUND;
    loop {
        let there = connections(engine).remove(&given).unwrap_or_default();
        let live = || there.iter().filter(|one| one.live);
        if head(engine, given).is_some() && live().all(|one| !paths(one.controller).is_empty()) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(StepError::Late { what: format!("NVMe device of {given}"), bound: NAMESPACE_BOUND });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets go of a leg. Controllers are deleted on threads of their own, and hardly waited for: one whose peer is dead may take tens of
/// seconds to go. Once asked for, deletion goes on without us, and the controller is [`is_going`].
pub(super) fn disconnect(engine: &Engine, given: GivenLeg) {
    let (asked, gone) = std::sync::mpsc::channel();
    for connection in connections(engine).remove(&given).unwrap_or_default() {
        let file = Path::new(CONTROLLERS).join(format!("nvme{}/delete_controller", connection.controller));
        let asked = asked.clone();
        std::thread::spawn(move || {
            // One that is gone already is as good.
            let _ = sysfs::write(&file, "1");
            let _ = asked.send(());
        });
    }
    drop(asked);
    let deadline = Instant::now() + DELETE_BOUND;
    while gone.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
}

/// Whether a controller in this state is being deleted (drivers/nvme/host/core.c, `nvme_sysfs_show_state`).
fn is_going(state: &str) -> bool {
    state.starts_with("deleting") || state == "dead"
}
