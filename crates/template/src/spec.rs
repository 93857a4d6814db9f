//! A draft that passed the rules into the model.
//!
//! On failure: [`Incomplete`] names what is missing. It can't happen for a draft without errors, and is reported like
//! one if it does.

use crate::draft::{Draft, DraftZone, storage_index};
use crate::tree::Field;
use model::{
    ClusterSpec, ConfigurationMode, DeploymentMode, Intent, ManagementNetwork, Mtu, Node, NodeName, Qos,
    StorageNetwork, Witness, Zone,
};

/// Something that a cluster must have and the draft has not.
#[derive(Debug)]
pub(crate) struct Incomplete(pub(crate) &'static str);

fn need<T: Clone>(field: &Field<T>, what: &'static str) -> Result<T, Incomplete> {
    field.value().cloned().ok_or(Incomplete(what))
}

/// The values of the fields that have one.
fn all<T: Clone, C: FromIterator<T>>(fields: &[Field<T>]) -> C {
    fields.iter().filter_map(|field| field.value().cloned()).collect()
}

pub(crate) fn build(draft: &Draft) -> Result<ClusterSpec, Incomplete> {
    let [first, second] = draft.zones.items.as_slice() else { return Err(Incomplete("two zones")) };
    let witness = need(&draft.witness, "a witness")?;
    Ok(ClusterSpec {
        name: need(&draft.name, "a cluster name")?,
        mode: draft.mode.value().copied().unwrap_or(DeploymentMode::Deploy),
        configuration: draft.configuration.value().copied().unwrap_or(ConfigurationMode::Express),
        zones: [zone(draft, first)?, zone(draft, second)?],
        witness: Witness {
            name: need(&witness.name, "a name of the witness")?,
            kind: witness.kind,
            management_ip: witness.management_ip.value().copied(),
        },
        management: management(draft)?,
        compute_vlans: all(&draft.compute_vlans),
        intents: intents(draft)?,
        storage_networks: storage_networks(draft)?,
        qos: qos(draft),
        wiring: draft.wiring.value().copied(),
    })
}

fn zone(draft: &Draft, zone: &DraftZone) -> Result<Zone, Incomplete> {
    let members: Vec<NodeName> = all(&zone.members);
    let nodes = members.iter().map(|member| node(draft, member)).collect::<Result<_, _>>()?;
    Ok(Zone { name: need(&zone.name, "a zone's name")?, nodes })
}

fn node(draft: &Draft, member: &NodeName) -> Result<Node, Incomplete> {
    let listed = draft.nodes.items.iter().enumerate();
    let (place, node) = listed
        .into_iter()
        .find(|(_, node)| node.name.value() == Some(member))
        .ok_or(Incomplete("a zone member among the nodes"))?;
    Ok(Node {
        name: need(&node.name, "a node's name")?,
        ordinal: draft.ordinal(place).ok_or(Incomplete("an ordinal for every node"))?,
        management_ip: need(&node.management_ip, "a node's management address")?,
    })
}

fn management(draft: &Draft) -> Result<ManagementNetwork, Incomplete> {
    let management = &draft.management;
    Ok(ManagementNetwork {
        subnet: need(&management.subnet, "the management subnet")?,
        gateway: need(&management.gateway, "the management gateway")?,
        range_start: need(&management.range_start, "the start of the infrastructure range")?,
        range_end: need(&management.range_end, "the end of the infrastructure range")?,
        dns: all(&management.dns),
        vlan: management.vlan.value().copied(),
    })
}

fn intents(draft: &Draft) -> Result<Vec<Intent>, Incomplete> {
    let intents = draft.intents.items.iter().map(|intent| {
        Ok(Intent {
            name: need(&intent.name, "an intent's name")?,
            traffic: all(&intent.traffic),
            adapters: all(&intent.adapters),
            mtu: intent.mtu.value().copied().unwrap_or(Mtu::ETHERNET),
            rdma: intent.rdma,
        })
    });
    intents.collect()
}

fn storage_networks(draft: &Draft) -> Result<Vec<StorageNetwork>, Incomplete> {
    let networks = draft.storage_networks.items.iter().enumerate().map(|(place, network)| {
        Ok(StorageNetwork {
            index: storage_index(place).ok_or(Incomplete("an index for every storage network"))?,
            name: need(&network.name, "a storage network's name")?.to_string(),
            adapter: need(&network.adapter, "a storage network's adapter")?,
            vlan: need(&network.vlan, "a storage network's VLAN")?,
            subnet: need(&network.subnet, "a storage network's subnet")?,
        })
    });
    networks.collect()
}

fn qos(draft: &Draft) -> Qos {
    let default = Qos::default();
    let qos = &draft.qos;
    Qos {
        storage_priority: qos.storage_priority.value().copied().unwrap_or(default.storage_priority),
        heartbeat_priority: qos.heartbeat_priority.value().copied().unwrap_or(default.heartbeat_priority),
        storage_bandwidth_percent: qos
            .storage_bandwidth_percent
            .value()
            .copied()
            .unwrap_or(default.storage_bandwidth_percent),
    }
}
