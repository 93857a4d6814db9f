//! What the machine has, as its kernel reports it.
//!
//! Read afresh at each request: nothing here is cached. Processors and memory come by `sysinfo`; everything else but two
//! ioctls from `/sys` and `/proc`, under a root that tests replace by a directory of their own.
//!
//! Left out on purpose: the out-of-band NIC (no part of the cluster), virtual links and drives, drives of other machines
//! (NVMe over a fabric: a peer's leg is not our drive), and drives without a serial number, which nothing could identify.
//!
//! On failure: what can't be read is `None` or left out, with a line in the log; an inventory is always returned.

mod drive;
mod machine;
mod nic;
mod tree;
mod turn;

use api::NodeConfig;
use model::{Inventory, KernelInfo, MacAddress};
use std::collections::BTreeMap;
use tree::Tree;

pub(crate) use nic::dcb;
pub(crate) use turn::{Turn, TurnError};

/// The kernel's id of this boot.
pub(crate) fn boot_id() -> String {
    Tree::host().text("proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Physical interfaces by permanent MAC address. Waits for whatever changes interfaces just now.
pub(crate) fn interfaces() -> BTreeMap<MacAddress, String> {
    nic::all(&Tree::host(), None).into_iter().map(|nic| (nic.mac, nic.kernel_name)).collect()
}

/// The drives alone. Blocks as [`read`] does.
#[cfg(feature = "volumes")]
pub(crate) fn drives() -> Vec<model::Drive> {
    drive::all(&Tree::host())
}

/// Reads the whole inventory. Blocks for some milliseconds, with a drive that hangs for seconds:
/// ask for it through [`Turn`].
pub(crate) fn read(config: &NodeConfig) -> Inventory {
    let tree = Tree::host();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let features = machine::features(&tree, &release);
    let (cpu, memory) = machine::cpu_and_memory();
    Inventory {
        node: config.node.clone(),
        machine_serial: machine::serial(&tree),
        cpu,
        memory,
        nics: nic::all(&tree, config.out_of_band.map(|oob| oob.mac)),
        drives: drive::all(&tree),
        kernel: KernelInfo { release, boot_id: boot_id(), features },
    }
}
