//! What a node has, as its kernel reports it.
//!
//! Numbers that a kernel doesn't know are `None`, never zero.

use crate::{DriveSerial, MacAddress, Mtu, NodeName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Everything a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The node's own name.
    pub node: NodeName,
    /// The machine's serial number (DMI), when its firmware gives one.
    pub machine_serial: Option<String>,
    /// Its processors.
    pub cpu: CpuInfo,
    /// Its memory.
    pub memory: MemoryInfo,
    /// Its physical NICs, sorted by kernel name; virtual links are not inventory.
    pub nics: Vec<Nic>,
    /// Its drives, sorted by serial.
    pub drives: Vec<Drive>,
    /// Its kernel.
    pub kernel: KernelInfo,
}

/// A node's processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuInfo {
    /// Model as the processor names itself.
    pub model: String,
    /// Logical processors online.
    pub threads: usize,
}

/// A node's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryInfo {
    /// What the kernel can use, bytes.
    pub total_bytes: u64,
}

/// A physical NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The kernel's name for it.
    pub kernel_name: String,
    /// Its permanent MAC address (the one that a bond does not change).
    pub mac: MacAddress,
    /// Kernel driver.
    pub driver: Option<String>,
    /// PCI address, `0000:00:03.0`.
    pub pci_address: Option<String>,
    /// Firmware version, when the driver tells.
    pub firmware: Option<String>,
    /// Link speed in Mb/s.
    pub speed_mbps: Option<u32>,
    /// Whether the link has carrier; `None` while the NIC is down.
    pub carrier: Option<bool>,
    /// Its MTU now; `None` if the kernel reports one that no cluster link may have.
    pub mtu: Option<Mtu>,
    /// Whether an RDMA device stands on it.
    pub rdma: bool,
    /// What its driver has of data centre bridging.
    #[serde(default)]
    pub dcb: NicDcb,
}

/// What a NIC's driver has of data centre bridging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicDcb {
    /// Nobody could ask.
    #[default]
    Unknown,
    /// Nothing: its classes share it by a queue of the kernel's.
    NotApplicable,
    /// Some.
    Has {
        /// Traffic classes that can share the NIC (ETS).
        ets_classes: Option<u8>,
        /// Traffic classes that can be paused (PFC).
        pfc_classes: Option<u8>,
    },
}

impl fmt::Display for NicDcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ets, pfc) = match self {
            Self::Unknown => return f.write_str("unknown"),
            Self::NotApplicable => return f.write_str("not applicable"),
            Self::Has { ets_classes, pfc_classes } => (ets_classes, pfc_classes),
        };
        let classes = |classes: &Option<u8>| classes.map_or("none".to_owned(), |count| count.to_string());
        write!(f, "ETS classes {}, PFC classes {}", classes(ets), classes(pfc))
    }
}

/// What a drive is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveClass {
    /// Flash on NVMe.
    Nvme,
    /// Flash on SATA, SAS or virtio.
    Ssd,
    /// Rotating.
    Hdd,
}

/// A physical drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// The kernel's name for it, `nvme0n1`.
    pub kernel_name: String,
    /// Its serial number.
    pub serial: DriveSerial,
    /// Its model.
    pub model: String,
    /// Firmware revision.
    pub firmware: Option<String>,
    /// What it is made of.
    pub class: DriveClass,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// PCI address of its controller.
    pub pci_address: Option<String>,
    /// Wear, percent of rated endurance used (NVMe SMART log, byte 5; may pass 100).
    pub wear_percent: Option<u8>,
    /// Whether it has a volatile write cache (NVMe Identify Controller, VWC bit 0).
    pub volatile_write_cache: Option<bool>,
}

/// A node's kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// `uname -r`.
    pub release: String,
    /// The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Features of the kernel that twinrack uses and that are there, by module name, sorted.
    pub features: Vec<String>,
}
