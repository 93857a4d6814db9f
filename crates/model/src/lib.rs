//! What a cluster is: identifiers, shapes, intents, hardware, diagnostics.
//!
//! Purpose: the words that every other crate shares, and the table of the [`rules`] that they check. Plain data and the checks that a value can make on itself
//! (a VLAN id is 1–4094, a host name is a host name); nothing here knows files, sockets, clocks or tokio.
//!
//! Invariants: a newtype's value is always valid, whichever way it came in (`FromStr`, `TryFrom`, serde).
//!
//! On failure: constructors return [`InvalidValue`], which names the value and what would be right.

mod diagnostic;
mod extents;
mod ids;
mod intent;
mod inventory;
mod leg;
mod pool;
pub mod rules;
mod shape;
mod spec;
mod vm;
mod volume;

pub use diagnostic::{Diagnostic, Location, RuleId, Severity};
pub use extents::{ExtentTable, Segment};
pub use ids::{
    AdapterName, ClusterName, DriveSerial, GroupName, IntentName, InvalidValue, MacAddress, Mtu, NodeName,
    NodeOrdinal, Priority, StorageNetworkIndex, VlanId, VmName, VolumeName, ZoneName,
};
pub use intent::{Intent, Qos, RdmaTechnology, StorageNetwork, TrafficClass};
pub use inventory::{CpuInfo, Drive, DriveClass, Inventory, KernelInfo, MemoryInfo, Nic, NicDcb};
pub use leg::{
    BLOCK_BYTES, CHUNK_BYTES, Geometry, InvalidSizes, MAPS_MAX, SLAB_BYTES, SLABS_OFFSET_BYTES, Sizes,
};
pub use pool::{Extent, PlacedLeg, Pool, PoolDrive, PoolNode, VolumeSize};
pub use shape::{Mirror, Shape};
pub use spec::{
    ClusterSpec, ConfigurationMode, DeploymentMode, ManagementNetwork, Node, Wiring, Witness, WitnessKind,
    Zone,
};
pub use vm::{MacRange, VmNic, VmPlacement, VmSpec};
pub use volume::{
    BootId, DriveId, Epoch, Generation, Incarnation, LedgerIncarnation, LegId, MapSequence, NodeId,
    PowerCycles, Provision, SaveTry, VmId, VolumeId,
};
