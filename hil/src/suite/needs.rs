//! What suites, scenarios and steps ask of a cluster, and why one hasn't got it. Pure.

use super::Room;
use model::{ClusterSpec, Intent, Mtu, StorageNetwork, Wiring};
use serde::Deserialize;

/// Something that not every cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Two storage networks on NICs of their own. A converged intent has lost that path diversity.
    DedicatedStorage,
    /// Another node in the same room. Without one, a switch that forwards nothing looks like a cut between the rooms.
    PeersInRoom,
    /// One node in each room: one of three votes is left when a room and the witness are gone.
    OneNodeARoom,
    /// Storage with packets larger than Ethernet's usual ones.
    JumboFrames,
    /// A switch in each room, or in one of them, for each storage network: wirings A, B and D.
    SwitchPerStorageNetwork,
    /// One switch a room that carries everything: wiring C.
    OneSwitchARoom,
    /// Two switches a room that are a pair: wiring B.
    SwitchPairs,
    /// A link between the rooms for each storage network: wiring A.
    SeparateRoomLinks,
    /// One port channel between the rooms for both storage networks: wirings B and C.
    SharedRoomLink,
    /// Rooms that only switches join, no node's cable: wirings A to C.
    RoomsJoinedBySwitches,
}

impl Need {
    /// Why this cluster hasn't got it; `None`: it has.
    pub(super) fn unmet(self, spec: &ClusterSpec) -> Option<&'static str> {
        let wiring = wiring(spec);
        let (met, otherwise) = match self {
            Self::DedicatedStorage => (
                !spec.intents.iter().any(Intent::is_converged_storage),
                "storage shares its NICs with other traffic, so there are no two paths",
            ),
            Self::PeersInRoom => (
                spec.shape().nodes_per_zone() > 1,
                "with one node in a room, this fault looks like a cut between the rooms",
            ),
            Self::OneNodeARoom => (
                spec.shape().nodes_per_zone() == 1,
                "with several nodes in a room, others are left with the one that goes on",
            ),
            Self::JumboFrames => {
                (spec.storage_mtu() > Mtu::ETHERNET, "the template asks for no jumbo frames")
            }
            Self::SwitchPerStorageNetwork => {
                (wiring != Wiring::C, "with wiring C a room's one switch carries both storage networks")
            }
            Self::OneSwitchARoom => {
                (wiring == Wiring::C, "only with wiring C has a room one switch for everything")
            }
            Self::SwitchPairs => (wiring == Wiring::B, "only with wiring B are a room's switches a pair"),
            Self::SeparateRoomLinks => (
                wiring == Wiring::A,
                "only with wiring A has each storage network a link of its own between the rooms",
            ),
            Self::SharedRoomLink => (
                matches!(wiring, Wiring::B | Wiring::C),
                "only with wirings B and C do the storage networks share a port channel between the rooms",
            ),
            Self::RoomsJoinedBySwitches => {
                (wiring != Wiring::D, "with wiring D every node has cables to both rooms")
            }
        };
        (!met).then_some(otherwise)
    }
}

/// How the cluster is wired; the lab takes A where the template doesn't say.
pub(super) fn wiring(spec: &ClusterSpec) -> Wiring {
    spec.wiring.unwrap_or(Wiring::A)
}

pub(super) fn no_network(spec: &ClusterSpec, number: u8) -> Option<String> {
    let has = |network: &StorageNetwork| network.index.get() == number;
    (!spec.storage_networks.iter().any(has)).then(|| format!("the cluster has no storage network {number}"))
}

pub(super) fn no_node(spec: &ClusterSpec, room: Room, position: u8) -> Option<String> {
    let nodes = spec.zones.get(room.index()).map_or(0, |zone| zone.nodes.len());
    (!(1..=nodes).contains(&usize::from(position))).then(|| format!("{room} has no node {position}"))
}

/// With wiring D the first storage network's one switch is in room 1, the second's in room 2.
pub(super) fn no_switch(spec: &ClusterSpec, room: Room, number: u8) -> Option<String> {
    let at = spec.storage_networks.iter().position(|network| network.index.get() == number)?;
    (wiring(spec) == Wiring::D && at % 2 != room.index())
        .then(|| format!("with wiring D storage network {number} has no switch in {room}"))
}
