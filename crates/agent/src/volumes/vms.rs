//! Virtual machines of this node: what control orders of them ([`control::vm::runner`]), carried out by [`vm`].
//!
//! Purpose: one task for each, which carries out one order after the other and says what has come of it ([`one`]). Nothing here decides whether one runs.
//!
//! Invariants: an order to end one waits for nothing: whatever its task is at is dropped. What an earlier run of the agent has left is taken up only if it surely
//! runs, or stands still on one side of a migration, saved or restored; anything else is killed, and control is told that it has ended. Nothing of a virtual machine is remembered but what is in its folder, which
//! ends with the node's boot.
//!
//! On failure: what can't be started or goes wrong is killed, and control told that it has ended; the ledger's leader decides what comes next.

mod disks;
mod memory;
mod one;
mod taps;
mod wire;

use super::VolumesError;
use super::openers;
use super::owner;
use super::place::Place;
use super::shell::{Ledgers, Told, blocking};
use ::vm::console::{self, Piece};
use ::vm::machine::{Accel, Places};
use ::vm::process::{self, Gone};
use control::member::Input;
use control::vm::runner::{Effect, Event, Instance, Stage};
use control::vm::{Room, VmsCommand};
use control::{Command, Moment};
use ledger::Ledger;
use ledger::http::HttpTransport;
use model::{Generation, NodeId, VmId};
use one::{One, Order, Watched};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use sysinfo::System;
use taps::Taps;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{info, warn};

/// Where each has its folder: gone with the boot, as its process is.
const FOLDER: &str = "/run/twinrack/vms";
/// What carries them out.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// Not KVM: that a node has it is nothing until a trial has shown it ([`vm::trial`]), and none is made here yet.
const ACCEL: Accel = Accel::Tcg;
/// Of a node's memory, what virtual machines don't get: the kernel's, the agent's, and that of volumes.
const OWN_BYTES: u64 = 192 << 20;
/// What a QEMU takes beside the memory of its machine (measured with one disk, without KVM: 45 to 60 MiB).
const QEMU_BYTES: u64 = 64 << 20;
/// How long a killed one may take to be gone before it is looked whether it can ever run again.
const GONE_MAX: Duration = Duration::from_millis(300);
/// How long it is waited before the ledger is told once more what there is.
const SAY_AGAIN: Duration = Duration::from_secs(1);
/// How much of what a console said is answered at once, bytes.
const CONSOLE_MAX: usize = 256 << 10;

/// The places of one on this node.
pub(super) fn places(id: VmId) -> Places {
    Places::new(Path::new(FOLDER), id)
}

/// What its serial port said from a place on.
pub(super) fn console(id: VmId, from: u64) -> Result<Piece, VolumesError> {
    console::read(&places(id), from, CONSOLE_MAX).map_err(|source| VolumesError::Console { id, source })
}

/// What this node has for virtual machines; nothing, where there is no QEMU. What QEMU itself takes is left out once: of many small ones each takes as much.
pub(super) fn room() -> Room {
    let nothing = Room { memory_bytes: 0, cores: 0 };
    let Some(mut system) = System::new().ok().filter(|_| Path::new(QEMU).exists()) else { return nothing };
    system.refresh_memory();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_bytes = system.total_memory().saturating_sub(OWN_BYTES + QEMU_BYTES);
    Room { memory_bytes, cores: u32::try_from(cores).unwrap_or(u32::MAX) }
}

/// What tasks of single ones share.
#[derive(Clone)]
pub(super) struct Shared {
    place: Arc<Place>,
    ledger: Ledgers,
    told: Told,
    transport: Arc<HttpTransport>,
    taps: Arc<Taps>,
}

/// The virtual machines of this node.
pub(super) struct Vms {
    shared: Shared,
    tasks: BTreeMap<VmId, Task>,
    /// What this node has for them, and who tells the ledger so, while that is under way.
    room: Room,
    says: Option<JoinHandle<()>>,
}

struct Task {
    orders: mpsc::UnboundedSender<Order>,
    end: Arc<Notify>,
}

impl Vms {
    pub(super) fn new(of: &owner::Shared) -> Self {
        let owner::Shared { place, ledger, told, transport, .. } = of.clone();
        let taps = Arc::new(Taps::new(place.mac_range()));
        let shared = Shared { place, ledger, told, transport, taps };
        Self { shared, tasks: BTreeMap::new(), room: room(), says: None }
    }

    /// Has the ledger know what this node has for virtual machines. What came to nothing is tried again a second later.
    pub(super) fn say_room(&mut self, ledger: &Ledger, node: NodeId) {
        let state = self.shared.ledger.now();
        let known = state.vms.rooms.get(&node).copied().unwrap_or(Room { memory_bytes: 0, cores: 0 });
        let in_rack = state.nodes.get(&node).is_some_and(|found| found.zone.is_some());
        let says = self.says.as_ref().is_some_and(|says| !says.is_finished());
        if known == self.room || !in_rack || says {
            return;
        }
        let (ledger, command) = (ledger.clone(), Command::Vms(VmsCommand::SetRoom(node, self.room)));
        self.says = Some(tokio::spawn(async move {
            if let Err(why) = ledger.propose(command).await {
                info!("the ledger does not know yet what this node has for virtual machines: {why}");
            }
            sleep(SAY_AGAIN).await;
        }));
    }

    /// Carries out what control orders, one thing after the other for each.
    pub(super) fn order(&mut self, effect: &Effect) {
        let (id, order) = match *effect {
            Effect::Start(id, generation, role) => (id, Order::Start(generation, role)),
            Effect::Resume(id, generation) => (id, Order::Resume(generation)),
            Effect::Send(id, generation, to, there) => (id, Order::Send { generation, to, there }),
            Effect::Stop { vm, generation, save } => (vm, Order::Stop { generation, save }),
            Effect::End(id, generation) => (id, Order::End(generation)),
            // All of it was sent before it was paused.
            Effect::Continue(..) | Effect::Owner(..) | Effect::Propose(_) => return,
        };
        let ends = matches!(order, Order::End(_));
        let task = self.tasks.entry(id).or_insert_with(|| start(id, None, &self.shared));
        // A task ends with the agent.
        let _ = task.orders.send(order);
        if ends {
            task.end.notify_one();
        }
    }

    /// Asks whether all has come of one that waits for another node's.
    pub(super) fn received(&self, id: VmId, generation: Generation, answer: oneshot::Sender<bool>) {
        if let Some(task) = self.tasks.get(&id) {
            // A task ends with the agent.
            let _ = task.orders.send(Order::Received(generation, answer));
        }
    }

    /// This node has a lease until then: so long, what its virtual machines send passes.
    pub(super) fn leased_until(&self, end: Moment) {
        self.shared.taps.open_until(end);
    }

    /// Goes on with one that an earlier run of the agent has left.
    pub(super) fn adopt(&mut self, left: Left) {
        self.tasks.insert(left.id, start(left.id, Some(left.watched), &self.shared));
    }
}

fn start(id: VmId, watched: Option<Watched>, shared: &Shared) -> Task {
    let (orders, ordered) = mpsc::unbounded_channel();
    let end = Arc::new(Notify::new());
    tokio::spawn(One::new(id, shared.clone(), watched).run(ordered, Arc::clone(&end)));
    Task { orders, end }
}

/// One that an earlier run of the agent has left.
pub(super) struct Left {
    pub(super) id: VmId,
    watched: Watched,
    stage: Stage,
}

impl Left {
    /// What control is told of it.
    pub(super) fn instance(&self) -> Instance {
        Instance { generation: self.watched.generation, stage: self.stage }
    }
}

/// Those that an earlier run of the agent has left; what can't be taken up is killed, and disks that nobody has are removed.
pub(super) async fn left(place: &Arc<Place>) -> Result<Vec<Left>, VolumesError> {
    let mut found = Vec::new();
    for id in ids(Path::new(FOLDER)) {
        match one::find(id).await {
            Some((watched, stage)) => {
                info!("{id} is {stage:?}, in {}", watched.generation);
                found.push(Left { id, watched, stage });
            }
            None => kill(id).await?,
        }
    }
    disks::remove_idle(place).await?;
    taps::disconnect(|vm| found.iter().any(|left| left.id == vm)).await;
    Ok(found)
}

/// Whose folders are there.
fn ids(folder: &Path) -> Vec<VmId> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("vm-")?.parse().ok().map(VmId))
        .collect()
}

/// Kills whatever is there of one, and returns when nothing of it ever runs again.
pub(super) async fn kill(id: VmId) -> Result<(), VolumesError> {
    blocking(move || {
        loop {
            let Some(process) = process::find(&places(id))? else { return Ok(()) };
            openers::is_to_be_killed(process.pid());
            match process.kill(GONE_MAX)? {
                Gone::Yes | Gone::Doomed => return Ok(()),
                Gone::No => warn!("{id} is killed and is there yet"),
            }
        }
    })
    .await
}

/// What a process is that has a device open on which memory is saved.
pub(crate) fn keep_memory(device: &Path) -> std::io::Result<()> {
    memory::keep(device)
}

/// What control is to hear of one.
fn tell(told: &Told, event: Event) {
    told.tell(Input::Vm(event));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_virtual_machines_are_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vm-3", "vm-12", "else", "vm-"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut found = ids(folder.path());
        found.sort();
        assert_eq!(found, [VmId(3), VmId(12)]);
        assert_eq!(ids(&folder.path().join("none")), []);
    }
}
