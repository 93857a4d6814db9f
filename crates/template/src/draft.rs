//! The draft: what a template says, before any rule has looked at it. Lenient: anything may be missing or bad.
//!
//! Invariant: a [`Field::Bad`] has been reported by whoever made it, so that rules may pass over it in silence.

use crate::Format;
use crate::tree::{At, Field};
use ipnet::Ipv4Net;
use model::{
    AdapterName, ClusterName, ConfigurationMode, DeploymentMode, IntentName, Location, Mtu, NodeName,
    NodeOrdinal, Priority, RdmaTechnology, StorageNetworkIndex, TrafficClass, VlanId, Wiring, WitnessKind,
    ZoneName,
};
use std::net::Ipv4Addr;

/// Everything a template says.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) format: Format,
    pub(crate) overrides: Vec<At<String>>,
    pub(crate) name: Field<ClusterName>,
    pub(crate) mode: Field<DeploymentMode>,
    pub(crate) configuration: Field<ConfigurationMode>,
    pub(crate) wiring: Field<Wiring>,
    pub(crate) zones: Listed<DraftZone>,
    /// In the order of the file.
    pub(crate) nodes: Listed<DraftNode>,
    /// ARM files name the machines a second time, by their Azure resource ids.
    pub(crate) machines: Vec<Field<NodeName>>,
    pub(crate) witness: Field<DraftWitness>,
    /// Where a missing witness would stand, or where the template says that there is none.
    pub(crate) witness_at: Option<Location>,
    pub(crate) management: DraftManagement,
    pub(crate) compute_vlans: Vec<Field<VlanId>>,
    pub(crate) intents: Listed<DraftIntent>,
    pub(crate) storage_networks: Listed<DraftStorageNetwork>,
    pub(crate) qos: DraftQos,
}

/// The elements of a list and where the list stands.
#[derive(Debug, Clone)]
pub(crate) struct Listed<T> {
    pub(crate) items: Vec<T>,
    pub(crate) at: Option<Location>,
}

#[derive(Debug, Clone)]
pub(crate) struct DraftZone {
    pub(crate) at: Location,
    pub(crate) name: Field<ZoneName>,
    pub(crate) members: Vec<Field<NodeName>>,
}

#[derive(Debug, Clone)]
pub(crate) struct DraftNode {
    pub(crate) name: Field<NodeName>,
    /// Missing: the node's place.
    pub(crate) ordinal: Field<NodeOrdinal>,
    pub(crate) management_ip: Field<Ipv4Addr>,
}

impl Draft {
    /// The ordinal of the node at this place (from 0) of the list: its own, or else its place, from 1. `None`: its own is no
    /// valid one, or there are too many nodes.
    pub(crate) fn ordinal(&self, place: usize) -> Option<NodeOrdinal> {
        match &self.nodes.items.get(place)?.ordinal {
            Field::Good(given) => Some(given.value),
            Field::Missing => NodeOrdinal::try_from(u64::try_from(place).ok()? + 1).ok(),
            Field::Bad => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DraftWitness {
    pub(crate) name: Field<NodeName>,
    pub(crate) kind: WitnessKind,
    pub(crate) management_ip: Field<Ipv4Addr>,
}

#[derive(Debug, Clone)]
pub(crate) struct DraftManagement {
    pub(crate) subnet: Field<Ipv4Net>,
    pub(crate) gateway: Field<Ipv4Addr>,
    pub(crate) range_start: Field<Ipv4Addr>,
    pub(crate) range_end: Field<Ipv4Addr>,
    pub(crate) dns: Vec<Field<Ipv4Addr>>,
    pub(crate) vlan: Field<VlanId>,
}

#[derive(Debug, Clone)]
pub(crate) struct DraftIntent {
    pub(crate) at: Location,
    pub(crate) name: Field<IntentName>,
    pub(crate) traffic: Vec<Field<TrafficClass>>,
    pub(crate) adapters: Vec<Field<AdapterName>>,
    pub(crate) mtu: Field<Mtu>,
    pub(crate) rdma: Option<RdmaTechnology>,
}

impl DraftIntent {
    pub(crate) fn carries(&self, class: TrafficClass) -> bool {
        self.traffic.iter().any(|traffic| traffic.value() == Some(&class))
    }

    /// How to name it in a message.
    pub(crate) fn title(&self) -> String {
        self.name
            .value()
            .map_or_else(|| "an intent without a name".to_owned(), |name| format!("intent `{name}`"))
    }

    /// What it carries, as a list of words.
    pub(crate) fn traffic_words(&self) -> String {
        let words = self.traffic.iter().filter_map(|traffic| traffic.value()).map(|class| match class {
            TrafficClass::Management => "management",
            TrafficClass::Compute => "compute",
            TrafficClass::Storage => "storage",
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DraftStorageNetwork {
    pub(crate) at: Location,
    pub(crate) name: Field<IntentName>,
    pub(crate) adapter: Field<AdapterName>,
    pub(crate) vlan: Field<VlanId>,
    pub(crate) subnet: Field<Ipv4Net>,
}

impl DraftStorageNetwork {
    /// How to name it in a message.
    pub(crate) fn title(&self) -> String {
        self.name.value().map_or_else(
            || "a storage network without a name".to_owned(),
            |name| format!("storage network `{name}`"),
        )
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DraftQos {
    pub(crate) storage_priority: Field<Priority>,
    pub(crate) heartbeat_priority: Field<Priority>,
    pub(crate) storage_bandwidth_percent: Field<u8>,
}

impl DraftQos {
    pub(crate) const UNSET: Self = Self {
        storage_priority: Field::Missing,
        heartbeat_priority: Field::Missing,
        storage_bandwidth_percent: Field::Missing,
    };
}

/// The VLAN of the storage network at this place (from 0) when the template names none: 711, 712 and so on.
pub(crate) fn default_storage_vlan(place: usize) -> Option<VlanId> {
    let place = u64::try_from(place).ok()?;
    VlanId::try_from(u64::from(VlanId::STORAGE_1_DEFAULT) + place).ok()
}

/// The index of the storage network at this place (from 0).
pub(crate) fn storage_index(place: usize) -> Option<StorageNetworkIndex> {
    u64::try_from(place).ok().and_then(|place| StorageNetworkIndex::try_from(place + 1).ok())
}

/// The subnet of the storage network at this place (from 0) when the template names none: 10.71.1.0/24,
/// 10.71.2.0/24 and so on, as Azure Local's storage auto IP has it.
pub(crate) fn default_storage_subnet(place: usize) -> Option<Ipv4Net> {
    Ipv4Net::new(Ipv4Addr::new(10, 71, storage_index(place)?.get(), 0), 24).ok()
}

/// A default for a missing field, said to stand where its table does.
pub(crate) fn or_default<T>(field: Field<T>, default: Option<T>, at: &Location) -> Field<T> {
    match (field, default) {
        (Field::Missing, Some(value)) => Field::Good(At { value, at: at.clone() }),
        (field, _) => field,
    }
}
