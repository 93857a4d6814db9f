//! NVMe over TCP as host: connections to legs, and the multipath heads over them.
//!
//! A connection is asked for by writing to `/dev/nvme-fabrics` (`drivers/nvme/host/fabrics.c`, `opt_tokens`), and comes with a
//! controller `nvmeN`; all controllers of a subsystem share its head `nvmeXn1`.
//!
//! Invariants: `ctrl_loss_tmo=-1`: a controller is never given up by itself; `fast_io_fail_tmo=0`: what it can't send fails to the gate
//! at once. On failure: [`StepError::NoPath`] when no path came about, with the last one's reason; [`StepError::Late`] when that is not known yet.

use super::dm::DeviceNumber;
use super::sysfs::{self, failed};
use super::{Engine, StepError};
use crate::name::{self, GivenLeg};
use crate::owner::Connection;
use crate::target::TCP_PORT;
use model::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const FABRICS: &str = "/dev/nvme-fabrics";
const CONTROLLERS: &str = "/sys/class/nvme";
const SUBSYSTEMS: &str = "/sys/class/nvme-subsystem";

/// How often a controller asks whether its peer lives, s (half of it, and only while nothing else is answered). Seldom, because who is silent
/// is told by hellos, per path, and because of what a question costs that is not answered: since keep-alives are synchronous (Linux 6.12,
/// and stable kernels that took that, Debian's 6.1 among them) the kernel waits for one in flight before it gives anything
/// else of the connection up (`nvme_stop_keep_alive` in `nvme_tcp_error_recovery_work`): 1.5 s were seen with 2 s here. 0 is taken for 5 s.
const KEEP_ALIVE_S: u32 = 30;
/// How long a command of the kernel's own that makes a connection may take, s (`nvme_core.admin_timeout`; 60 by itself). A target that fences a leg while somebody connects to
/// it answers nothing: whoever asked hangs in the kernel for so long, and a process that is killed meanwhile does not end, so that the next agent does not start. It holds for
/// local drives, too, but not for what is asked of them through an ioctl with a bound of its own (crates/nvme).
const ADMIN_TIMEOUT_S: &str = "5";
const ADMIN_TIMEOUT: &str = "/sys/module/nvme_core/parameters/admin_timeout";
/// How long a controller waits between two tries, s.
const RECONNECT_DELAY_S: u32 = 1;
/// How long is waited for a controller to go, so that the order is known to have come through.
const DELETE_BOUND: Duration = Duration::from_millis(200);
/// The kernel looks for namespaces after it has told of the controller.
const NAMESPACE_BOUND: Duration = Duration::from_secs(5);
/// A peer that does not answer is given up after one more try (drivers/nvme/host/tcp.c, `tcp_sock_set_syncnt`): 3 s, then the rest.
const CONNECT_BOUND: Duration = Duration::from_secs(10);
/// How much later than the first the other paths may come before the first is used.
const OTHERS_GRACE: Duration = Duration::from_millis(300);

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

/// What threads ask the kernel for.
static ASKED: Mutex<BTreeSet<(GivenLeg, IpAddr)>> = Mutex::new(BTreeSet::new());

/// One that is asked for.
struct Asked((GivenLeg, IpAddr));

impl Asked {
    /// `None`: it is asked for already.
    fn new(given: GivenLeg, address: IpAddr) -> Option<Self> {
        // The lock is let go here, and nothing is made that would take it again when it goes.
        let is_new = Self::all().insert((given, address));
        is_new.then(|| Self((given, address)))
    }

    fn all() -> MutexGuard<'static, BTreeSet<(GivenLeg, IpAddr)>> {
        ASKED.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        Self::all().remove(&self.0);
    }
}

/// Connects through every storage network that has no connection yet, all at once. One path is enough to go on: the others get
/// [`OTHERS_GRACE`], and come later by themselves, or with the next call. What an earlier call has asked for, and the kernel has not answered, is not asked for again.
pub(super) fn connect(engine: &Engine, given: GivenLeg, node: NodeId) -> Result<(), StepError> {
    let addresses = engine.settings.peers.get(&node).cloned().unwrap_or_default();
    let there = connections(engine).remove(&given).unwrap_or_default();
    let missing = addresses.iter().filter(|(_, address)| there.iter().all(|one| one.address != **address));
    let (done, paths) = mpsc::channel();
    let mut late = false;
    for (network, address) in missing {
        let Some(asked) = Asked::new(given, *address) else {
            late = true;
            continue;
        };
        let (options, done) = (options(engine, given, *network, *address), done.clone());
        let stall_max = engine.settings.stall_max;
        std::thread::spawn(move || {
            let made = make_path(&options, stall_max).map(drop);
            drop(asked);
            done.send(made)
        });
    }
    drop(done);
    let mut live = there.iter().any(|one| one.live);
    let mut why = format!("{node} has no address on a storage network without a connection");
    loop {
        let bound = if live { OTHERS_GRACE } else { CONNECT_BOUND };
        match paths.recv_timeout(bound) {
            Ok(Ok(())) => live = true,
            Ok(Err(error)) => why = reason(&error),
            // None is left.
            Err(RecvTimeoutError::Disconnected) => break,
            // The kernel makes one connection of a machine at a time: it may be busy with another's.
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                break;
            }
        }
    }
    if live || head(engine, given).is_some() {
        return Ok(());
    }
    Err(if late {
        StepError::Late { what: format!("a path to {given:?}"), bound: CONNECT_BOUND }
    } else {
        StepError::NoPath { given, why }
    })
}

/// Connects through one storage network more, if one is missing, and waits until that has come about or failed: the kernel makes one connection of a machine at a time
/// (`nvmf_dev_mutex`), so that whoever does not wait keeps others waiting. The controller that was made.
pub(super) fn connect_more(engine: &Engine, given: GivenLeg, node: NodeId) -> Result<Option<u32>, StepError> {
    let addresses = engine.settings.peers.get(&node).cloned().unwrap_or_default();
    let there = connections(engine).remove(&given).unwrap_or_default();
    let mut missing =
        addresses.iter().filter(|(_, address)| there.iter().all(|one| one.address != **address));
    let Some((network, address)) = missing.next() else { return Ok(None) };
    make_path(&options(engine, given, *network, *address), engine.settings.stall_max).map(Some)
}

/// Lets go of one connection, as [`disconnect`] does of all.
pub(super) fn delete(controller: u32) {
    let file = Path::new(CONTROLLERS).join(format!("nvme{controller}/delete_controller"));
    // One that is gone already is as good.
    let _ = sysfs::write(&file, "1");
}

fn reason(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// One path, with its bound, and the namespace behind it. Its controller.
fn make_path(options: &str, stall_max: Duration) -> Result<u32, StepError> {
    let answer = ask(options)?;
    let number = answer.split(',').find_map(|part| part.strip_prefix("instance=")?.parse().ok());
    let controller: u32 =
        number.ok_or_else(|| StepError::Missing { what: format!("number in {answer:?}") })?;
    let deadline = Instant::now() + NAMESPACE_BOUND;
    loop {
        let paths = paths(controller);
        for path in &paths {
            sysfs::write(&path.join("queue/io_timeout"), &stall_max.as_millis().to_string())?;
        }
        if !paths.is_empty() {
            return Ok(controller);
        }
        if Instant::now() > deadline {
            return Err(StepError::Late {
                what: format!("namespace of nvme{controller}"),
                bound: NAMESPACE_BOUND,
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
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

fn ask(options: &str) -> Result<String, super::FileError> {
    let admin_timeout = Path::new(ADMIN_TIMEOUT);
    if sysfs::read_if_there(admin_timeout).is_some_and(|now| now != ADMIN_TIMEOUT_S) {
        // Without it all goes on, only slower when it goes wrong.
        let _ = sysfs::write(admin_timeout, ADMIN_TIMEOUT_S);
    }
    let path = Path::new(FABRICS);
    let mut asked = File::options().read(true).write(true).open(path).map_err(failed("open", path))?;
    asked.write_all(options.as_bytes()).map_err(failed(format!("ask for {options:?} at"), path))?;
    let mut answer = String::new();
    asked.read_to_string(&mut answer).map_err(failed("read the answer of", path))?;
    Ok(answer.trim_end().to_owned())
}

/// Where each path's namespace is.
fn paths(controller: u32) -> Vec<PathBuf> {
    let folder = Path::new(CONTROLLERS).join(format!("nvme{controller}"));
    let names =
        sysfs::names(&folder).into_iter().filter(|name| name.starts_with("nvme") && name.contains('c'));
    names.map(|name| folder.join(name)).collect()
}

/// Lets go of a leg. Controllers are deleted on threads of their own, and hardly waited for: one whose peer is dead may take tens of
/// seconds to go. Once asked for, deletion goes on without us, and the controller is [`is_going`].
pub(super) fn disconnect(engine: &Engine, given: GivenLeg) {
    let (asked, gone) = mpsc::channel();
    for connection in connections(engine).remove(&given).unwrap_or_default() {
        let asked = asked.clone();
        std::thread::spawn(move || {
            delete(connection.controller);
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

#[cfg(test)]
mod tests {
    use super::*;
    use control::target::Key;
    use model::{Epoch, Incarnation, LedgerIncarnation, LegId, VolumeId};

    #[test]
    fn what_is_asked_for_is_asked_for_again_only_when_that_has_ended() {
        let epoch = Epoch { ledger: LedgerIncarnation(1), number: 1 };
        let given = |leg| GivenLeg {
            leg: (VolumeId(1), LegId(leg)),
            key: Key { epoch, incarnation: Incarnation(1) },
        };
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let first = Asked::new(given(1), address(1)).unwrap();
        assert!(Asked::new(given(1), address(1)).is_none());
        let others = [Asked::new(given(1), address(2)), Asked::new(given(2), address(1))];
        assert!(others.iter().all(Option::is_some), "through another network, and of another leg");
        drop(first);
        assert!(Asked::new(given(1), address(1)).is_some());
    }
}
