//! Whether the machines are what a cluster needs: every adapter there, NICs and drives alike on all nodes. Pure.
//!
//! Each finding is of a rule of `model::rules`. The NICs that carry storage have bounds of their own
//! (`network::measure::bandwidth`), which are part of [`check`].
//!
//! Invariants: what a kernel doesn't tell is held against nobody. Of each adapter and of the drives one difference is told, with both
//! sides: the first node's and the first other's, so that a node that differs from seven others is not seven findings.
//!
//! On failure: none; what is wrong is a result.

use model::rules::{self, Rule};
use model::{
    AdapterName, ClusterSpec, Diagnostic, Drive, DriveClass, DriveSerial, IntentName, Inventory, Nic,
    NodeName, Severity,
};
use network::AdapterMap;
use network::measure::Machines;
use network::measure::bandwidth::{self, StorageNic};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The smaller of two drives in the same place has at least so much of the larger one, percent (spec.md: within 10 percent).
pub const DRIVE_SIZE_MIN_PERCENT: u128 = 90;

/// A node that holds data, what its machine has, and what of it is the cluster's.
#[derive(Debug, Clone)]
pub struct NodeHardware<'a> {
    /// The node.
    pub node: NodeName,
    /// Which NIC is which adapter.
    pub adapters: &'a AdapterMap,
    /// Everything the machine has.
    pub inventory: &'a Inventory,
    /// Its data drives.
    pub data_drives: BTreeSet<DriveSerial>,
}

/// One thing that is wrong with the machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HardwareFinding {
    /// An intent names an adapter that a node has no NIC for.
    NicMissing {
        /// The node.
        node: NodeName,
        /// The adapter.
        adapter: AdapterName,
    },
    /// The NICs of an adapter have different speeds.
    NicSpeedsDiffer {
        /// The adapter.
        adapter: AdapterName,
        /// Two nodes and what each has, Mb/s.
        sides: [(NodeName, u32); 2],
    },
    /// The NICs of an adapter have different drivers.
    NicDriversDiffer {
        /// The adapter.
        adapter: AdapterName,
        /// Two nodes and what each has.
        sides: [(NodeName, String); 2],
    },
    /// RDMA is asked for; one node's NIC has it, another's has not.
    RdmaDiffers {
        /// The adapter.
        adapter: AdapterName,
        /// Who has it.
        with: NodeName,
        /// Who has not.
        without: NodeName,
    },
    /// RDMA is asked for, and no node's NIC has it.
    RdmaMissing {
        /// The adapter.
        adapter: AdapterName,
        /// Who asks.
        intent: IntentName,
    },
    /// What is wrong with a storage NIC's speed.
    Bandwidth(bandwidth::Finding),
    /// A drive that was named is not there.
    DriveMissing {
        /// The node.
        node: NodeName,
        /// The drive.
        serial: DriveSerial,
    },
    /// A node has no data drive.
    DriveNone {
        /// The node.
        node: NodeName,
    },
    /// A data drive is a rotating one.
    DriveNotFlash {
        /// The node.
        node: NodeName,
        /// The drive.
        serial: DriveSerial,
    },
    /// Nodes have different numbers of data drives.
    DriveCountsDiffer {
        /// Two nodes and how many each has.
        sides: [(NodeName, usize); 2],
    },
    /// Nodes have data drives of different classes.
    DriveClassesDiffer {
        /// Two nodes and what each has.
        sides: [(NodeName, BTreeMap<DriveClassName, usize>); 2],
    },
    /// Drives in the same place, from the largest down, differ in size by more than 10 percent.
    DriveSizesDiffer {
        /// Two drives: node, serial and bytes.
        sides: [(NodeName, DriveSerial, u64); 2],
    },
}

/// A class of drives, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriveClassName(&'static str);

impl From<DriveClass> for DriveClassName {
    fn from(class: DriveClass) -> Self {
        Self(match class {
            DriveClass::Nvme => "NVMe",
            DriveClass::Ssd => "SSD",
            DriveClass::Hdd => "rotating",
        })
    }
}

impl HardwareFinding {
    /// Its rule.
    pub fn rule(&self) -> &'static Rule {
        match self {
            Self::NicMissing { .. } => rules::NIC_MISSING,
            Self::NicSpeedsDiffer { .. } => rules::NIC_SPEEDS_DIFFER,
            Self::NicDriversDiffer { .. } => rules::NIC_DRIVERS_DIFFER,
            Self::RdmaDiffers { .. } => rules::NIC_RDMA_DIFFERS,
            Self::RdmaMissing { .. } => rules::NIC_RDMA_MISSING,
            Self::Bandwidth(finding) => finding.rule(),
            Self::DriveMissing { .. } => rules::DRIVE_MISSING,
            Self::DriveNone { .. } => rules::DRIVE_NONE,
            Self::DriveNotFlash { .. } => rules::DRIVE_NOT_FLASH,
            Self::DriveCountsDiffer { .. } => rules::DRIVE_COUNTS_DIFFER,
            Self::DriveClassesDiffer { .. } => rules::DRIVE_CLASSES_DIFFER,
            Self::DriveSizesDiffer { .. } => rules::DRIVE_SIZES_DIFFER,
        }
    }

    /// How bad it is: emulated machines have the speeds of their host, and no RDMA.
    pub fn severity(&self, machines: Machines) -> Severity {
        match (self, machines) {
            (Self::Bandwidth(finding), _) => finding.severity(machines),
            (Self::RdmaDiffers { .. } | Self::RdmaMissing { .. }, Machines::Emulated) => Severity::Note,
            _ => self.rule().severity,
        }
    }

    /// The finding as every other check says things.
    pub fn diagnostic(&self, machines: Machines) -> Diagnostic {
        let rule = self.rule();
        Diagnostic {
            rule: rule.id,
            severity: self.severity(machines),
            message: self.to_string(),
            help: rule.help.to_owned(),
            location: None,
            related: Vec::new(),
            overridden: false,
        }
    }
}

impl fmt::Display for HardwareFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NicMissing { node, adapter } => write!(f, "{node} has no NIC for adapter `{adapter}`"),
            Self::NicSpeedsDiffer { adapter, sides: [(one, mbps), (other, other_mbps)] } => {
                write!(f, "adapter `{adapter}` has {mbps} Mb/s on {one} and {other_mbps} Mb/s on {other}")
            }
            Self::NicDriversDiffer { adapter, sides: [(one, driver), (other, other_driver)] } => {
                write!(f, "adapter `{adapter}` has driver {driver} on {one} and {other_driver} on {other}")
            }
            Self::RdmaDiffers { adapter, with, without } => {
                write!(f, "adapter `{adapter}` has RDMA on {with} and none on {without}")
            }
            Self::RdmaMissing { adapter, intent } => {
                write!(f, "adapter `{adapter}` of intent `{intent}` has no RDMA on any node")
            }
            Self::Bandwidth(finding) => finding.fmt(f),
            Self::DriveMissing { node, serial } => {
                write!(f, "{node} has no drive with serial number {serial}")
            }
            Self::DriveNone { node } => write!(f, "{node} has no data drive"),
            Self::DriveNotFlash { node, serial } => write!(f, "drive {serial} of {node} is a rotating one"),
            Self::DriveCountsDiffer { sides: [(one, count), (other, other_count)] } => {
                write!(f, "{one} has {count} data drives and {other} has {other_count}")
            }
            Self::DriveClassesDiffer { sides: [(one, classes), (other, other_classes)] } => {
                write!(f, "{one} has {} and {other} has {}", listed(classes), listed(other_classes))
            }
            Self::DriveSizesDiffer { sides: [(one, serial, bytes), (other, other_serial, other_bytes)] } => {
                write!(
                    f,
                    "drive {serial} of {one} has {bytes} bytes and drive {other_serial} of {other} has {other_bytes}"
                )
            }
        }
    }
}

fn listed(classes: &BTreeMap<DriveClassName, usize>) -> String {
    let each = classes.iter().map(|(DriveClassName(name), count)| format!("{count} {name}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Everything that is wrong with the machines of the nodes; empty when they are as the template asks and alike.
pub fn check(spec: &ClusterSpec, nodes: &[NodeHardware<'_>]) -> Vec<HardwareFinding> {
    let mut findings = Vec::new();
    for intent in &spec.intents {
        for adapter in &intent.adapters {
            let nics = nics(nodes, adapter, &mut findings);
            let carries_storage = spec.storage_networks.iter().any(|network| network.adapter == *adapter);
            let speeds = nics.iter().filter_map(|(node, nic)| nic.speed_mbps.map(|mbps| (*node, mbps)));
            // Storage's speeds are compared over all of its adapters, below.
            if let Some(sides) = difference(speeds).filter(|_| !carries_storage) {
                findings.push(HardwareFinding::NicSpeedsDiffer { adapter: adapter.clone(), sides });
            }
            let drivers = nics.iter().filter_map(|(node, nic)| Some((*node, nic.driver.clone()?)));
            if let Some(sides) = difference(drivers) {
                findings.push(HardwareFinding::NicDriversDiffer { adapter: adapter.clone(), sides });
            }
            if intent.rdma.is_some() {
                findings.extend(rdma(&intent.name, adapter, &nics));
            }
        }
    }
    let storage = storage_nics(spec, nodes);
    let asked = bandwidth::Rule::of(spec, &storage);
    findings.extend(bandwidth::check(asked, &storage, &[]).into_iter().map(HardwareFinding::Bandwidth));
    drives(nodes, &mut findings);
    findings
}

/// The adapter's NIC of every node that has one.
fn nics<'a>(
    nodes: &'a [NodeHardware<'_>],
    adapter: &AdapterName,
    findings: &mut Vec<HardwareFinding>,
) -> Vec<(&'a NodeName, &'a Nic)> {
    let mut found = Vec::new();
    for node in nodes {
        match nic(node, adapter) {
            Some(nic) => found.push((&node.node, nic)),
            None => findings
                .push(HardwareFinding::NicMissing { node: node.node.clone(), adapter: adapter.clone() }),
        }
    }
    found
}

fn nic<'a>(node: &'a NodeHardware<'_>, adapter: &AdapterName) -> Option<&'a Nic> {
    let mac = node.adapters.get(adapter)?;
    node.inventory.nics.iter().find(|nic| nic.mac == *mac)
}

/// The first node's side and that of the first node that has something else.
fn difference<'a, T: PartialEq>(
    mut sides: impl Iterator<Item = (&'a NodeName, T)>,
) -> Option<[(NodeName, T); 2]> {
    let (first, has) = sides.next()?;
    let (other, other_has) = sides.find(|(_, side)| *side != has)?;
    Some([(first.clone(), has), (other.clone(), other_has)])
}

fn rdma(intent: &IntentName, adapter: &AdapterName, nics: &[(&NodeName, &Nic)]) -> Option<HardwareFinding> {
    let who = |has: bool| nics.iter().find(|(_, nic)| nic.rdma == has).map(|(node, _)| (*node).clone());
    let adapter = adapter.clone();
    match (who(true), who(false)) {
        (Some(with), Some(without)) => Some(HardwareFinding::RdmaDiffers { adapter, with, without }),
        (None, Some(_)) => Some(HardwareFinding::RdmaMissing { adapter, intent: intent.clone() }),
        (_, None) => None,
    }
}

fn storage_nics(spec: &ClusterSpec, nodes: &[NodeHardware<'_>]) -> Vec<StorageNic> {
    let adapters: BTreeSet<&AdapterName> =
        spec.storage_networks.iter().map(|network| &network.adapter).collect();
    let of_node = |node: &NodeHardware<'_>| {
        let of_adapter = |adapter: &&AdapterName| {
            let nic = nic(node, adapter)?;
            let (node, adapter) = (node.node.clone(), (*adapter).clone());
            Some(StorageNic { node, adapter, speed_mbps: nic.speed_mbps })
        };
        adapters.iter().filter_map(of_adapter).collect::<Vec<_>>()
    };
    nodes.iter().flat_map(of_node).collect()
}

fn drives(nodes: &[NodeHardware<'_>], findings: &mut Vec<HardwareFinding>) {
    let mut found: Vec<(&NodeName, Vec<&Drive>)> = Vec::new();
    for node in nodes {
        let mut drives = Vec::new();
        for serial in &node.data_drives {
            let Some(drive) = node.inventory.drives.iter().find(|drive| drive.serial == *serial) else {
                let (node, serial) = (node.node.clone(), serial.clone());
                findings.push(HardwareFinding::DriveMissing { node, serial });
                continue;
            };
            if drive.class == DriveClass::Hdd {
                let (node, serial) = (node.node.clone(), serial.clone());
                findings.push(HardwareFinding::DriveNotFlash { node, serial });
            }
            drives.push(drive);
        }
        if node.data_drives.is_empty() {
            findings.push(HardwareFinding::DriveNone { node: node.node.clone() });
        }
        drives.sort_by_key(|drive| (std::cmp::Reverse(drive.size_bytes), &drive.serial));
        found.push((&node.node, drives));
    }
    // A drive that is not there, a node without any and a class that may not be have been told; what follows from them is not.
    let told = |finding: &HardwareFinding| {
        use HardwareFinding::{DriveMissing, DriveNone, DriveNotFlash};
        matches!(finding, DriveMissing { .. } | DriveNone { .. } | DriveNotFlash { .. })
    };
    if findings.iter().any(told) {
        return;
    }
    if let Some(sides) = difference(found.iter().map(|(node, drives)| (*node, drives.len()))) {
        findings.push(HardwareFinding::DriveCountsDiffer { sides });
    } else if let Some(sides) = difference(found.iter().map(|(node, drives)| (*node, classes(drives)))) {
        findings.push(HardwareFinding::DriveClassesDiffer { sides });
    } else {
        findings.extend(sizes(&found));
    }
}

fn classes(drives: &[&Drive]) -> BTreeMap<DriveClassName, usize> {
    let mut counted = BTreeMap::new();
    for drive in drives {
        *counted.entry(drive.class.into()).or_default() += 1;
    }
    counted
}

/// The first place, from the largest drive down, in which the nodes' drives differ too much.
fn sizes(nodes: &[(&NodeName, Vec<&Drive>)]) -> Option<HardwareFinding> {
    let places = nodes.first()?.1.len();
    (0..places).find_map(|place| {
        let there = || nodes.iter().filter_map(|(node, drives)| Some((*node, *drives.get(place)?)));
        let largest = there().max_by_key(|(_, drive)| drive.size_bytes)?;
        let smallest = there().min_by_key(|(_, drive)| drive.size_bytes)?;
        let too_small = u128::from(smallest.1.size_bytes) * 100
            < u128::from(largest.1.size_bytes) * DRIVE_SIZE_MIN_PERCENT;
        let side =
            |(node, drive): (&NodeName, &Drive)| (node.clone(), drive.serial.clone(), drive.size_bytes);
        too_small.then(|| HardwareFinding::DriveSizesDiffer { sides: [side(largest), side(smallest)] })
    })
}

#[cfg(test)]
#[path = "hardware_tests.rs"]
mod tests;
