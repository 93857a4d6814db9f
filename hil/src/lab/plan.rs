//! The lab as data: every node's hardware and cables, from a cluster, a lab file and a seed. Pure.
//!
//! Invariants: the same input gives the same plan. Everything that a product must not depend on (switch names, chassis
//! ids, port numbers, MAC addresses, serials, the order of NICs on the bus) comes from the seed.

use super::file::LabFile;
use super::topology::{self, Cables};
use fabric::NicId;
use fastrand::Rng;
use model::{AdapterName, ClusterSpec, DriveSerial, MacAddress, NodeName, TrafficClass};
use std::collections::{BTreeMap, BTreeSet};

/// A lab that has not been built yet.
#[derive(Debug)]
pub(crate) struct LabPlan {
    /// The nodes in the order of their ordinals, then the witness.
    pub(crate) nodes: Vec<NodePlan>,
    /// The switches, and what is cabled to what.
    pub(crate) cables: Cables,
}

/// A node's hardware.
#[derive(Debug)]
pub(crate) struct NodePlan {
    /// Its number in the lab, from 0: short and safe in file names, whatever the node is called.
    pub(crate) number: usize,
    /// Its name.
    pub(crate) name: NodeName,
    /// The zone's index in the template; `None`: the witness.
    pub(crate) zone: Option<usize>,
    /// The machine's serial number.
    pub(crate) serial: String,
    /// Memory, MiB.
    pub(crate) memory_mib: u32,
    /// What the NICs say of their speed, Mb/s.
    pub(crate) nic_speed_mbps: u32,
    /// The NIC that no fault touches.
    pub(crate) out_of_band_mac: MacAddress,
    /// The NICs on the fabric, in the order in which they are on the bus.
    pub(crate) nics: Vec<NicPlan>,
    /// The drives, in the order in which they are on the bus.
    pub(crate) drives: Vec<DrivePlan>,
}

/// A NIC on the fabric.
#[derive(Debug)]
pub(crate) struct NicPlan {
    /// What the template calls it.
    pub(crate) adapter: AdapterName,
    /// Its MAC address.
    pub(crate) mac: MacAddress,
    /// QEMU's name for the device.
    pub(crate) device: String,
    /// The fabric's name for it.
    pub(crate) id: NicId,
}

/// A drive.
#[derive(Debug, Clone)]
pub(crate) struct DrivePlan {
    /// Its serial number.
    pub(crate) serial: DriveSerial,
    /// What it is for.
    pub(crate) role: DriveRole,
    /// Its size, bytes.
    pub(crate) size_bytes: u64,
}

/// What a drive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DriveRole {
    /// The node's own.
    Boot,
    /// The pool's.
    Data,
}

/// The cluster can't be cabled by this lab.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The fabric refuses the cables.
    #[error("the lab's cables don't make a network")]
    Topology(#[from] fabric::TopologyError),
    /// A team of NICs on switches of both rooms may use either, and needs its storage VLANs on something between them.
    #[error(
        "wiring option D has no storage between the rooms, so storage can't share a team of NICs with other traffic: \
         give storage an intent of its own, or choose another wiring"
    )]
    ConvergedWithoutRoomLink,
}

impl LabPlan {
    /// Plans the lab for a cluster.
    pub(crate) fn new(spec: &ClusterSpec, file: &LabFile, seed: u64) -> Result<Self, PlanError> {
        let mut draw = Draw::new(seed);
        let mut nodes: Vec<NodePlan> = spec
            .nodes()
            .map(|(zone, node)| {
                let zone = spec.zones.iter().position(|other| other.name == zone.name);
                draw.node(usize::from(node.ordinal.get()) - 1, &node.name, zone, &spec.adapters(), file)
            })
            .collect();
        let management: Vec<&AdapterName> = spec
            .intent_for(TrafficClass::Management)
            .map_or(vec![], |intent| intent.adapters.iter().collect());
        nodes.push(draw.node(nodes.len(), &spec.witness.name, None, &management, file));
        let cables = topology::build(spec, &nodes, &mut draw)?;
        Ok(Self { nodes, cables })
    }
}

impl NodePlan {
    /// The adapters and the NICs that they are.
    pub(crate) fn adapters(&self) -> BTreeMap<AdapterName, MacAddress> {
        self.nics.iter().map(|nic| (nic.adapter.clone(), nic.mac)).collect()
    }

    /// The drives that are the pool's, with their places on the bus.
    pub(crate) fn data_drives(&self) -> impl Iterator<Item = (usize, &DrivePlan)> {
        self.drives.iter().enumerate().filter(|(_, drive)| drive.role == DriveRole::Data)
    }
}

fn nic_id(node: usize, nic: usize) -> NicId {
    format!("n{node}.nic{nic}").parse().expect("numbers make a valid id")
}

/// Random choices from a seed, none of them made twice.
pub(crate) struct Draw {
    rng: Rng,
    macs: BTreeSet<MacAddress>,
    words: BTreeSet<String>,
}

impl Draw {
    fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), macs: BTreeSet::new(), words: BTreeSet::new() }
    }

    /// A MAC address that nothing else here has: locally administered, unicast (IEEE 802, clause 8.2).
    pub(crate) fn mac(&mut self) -> MacAddress {
        loop {
            let mut bytes = [0; 6];
            self.rng.fill(&mut bytes);
            bytes[0] = (bytes[0] & 0xfc) | 0x02;
            if self.macs.insert(MacAddress(bytes)) {
                return MacAddress(bytes);
            }
        }
    }

    /// A word that nothing else here is called: the prefix and eight hexadecimal digits.
    pub(crate) fn word(&mut self, prefix: &str) -> String {
        loop {
            let word = format!("{prefix}{:08x}", self.rng.u32(..));
            if self.words.insert(word.clone()) {
                return word;
            }
        }
    }

    /// The numbers from 1 to `count`, shuffled.
    pub(crate) fn numbers(&mut self, count: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (1..=count).collect();
        self.rng.shuffle(&mut numbers);
        numbers
    }

    /// A node's hardware.
    fn node(
        &mut self,
        number: usize,
        name: &NodeName,
        zone: Option<usize>,
        adapters: &[&AdapterName],
        file: &LabFile,
    ) -> NodePlan {
        let mut nics: Vec<NicPlan> = adapters
            .iter()
            .enumerate()
            .map(|(index, adapter)| NicPlan {
                adapter: (*adapter).clone(),
                mac: self.mac(),
                device: format!("nic{index}"),
                id: nic_id(number, index),
            })
            .collect();
        self.rng.shuffle(&mut nics);
        NodePlan {
            number,
            name: name.clone(),
            zone,
            serial: self.word("TR"),
            memory_mib: file.node.memory_mib,
            nic_speed_mbps: file.node.nic_speed_mbps,
            out_of_band_mac: self.mac(),
            nics,
            drives: self.drives(zone.is_some(), file),
        }
    }

    /// A boot drive, and data drives on all nodes but the witness, which holds no data.
    fn drives(&mut self, with_data: bool, file: &LabFile) -> Vec<DrivePlan> {
        let data_drives = if with_data { file.node.data_drives } else { 0 };
        let boot = std::iter::once((DriveRole::Boot, file.node.boot_drive_mib));
        let data = std::iter::repeat_n((DriveRole::Data, file.node.data_drive_mib), data_drives.into());
        let mut drives: Vec<DrivePlan> = boot
            .chain(data)
            .map(|(role, size_mib)| DrivePlan {
                serial: self.word("NV").parse().expect("a word is a valid serial"),
                role,
                size_bytes: size_mib << 20,
            })
            .collect();
        self.rng.shuffle(&mut drives);
        drives
    }
}
