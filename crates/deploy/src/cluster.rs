//! The machines that a stage works on.

use crate::DeployError;
use crate::hardware::{self, HardwareFinding, NodeHardware};
use api::{Client, ClientError};
use futures_util::future::try_join_all;
use model::{AdapterName, ClusterSpec, DriveSerial, Node, NodeName, TrafficClass, ZoneName};
use network::{AdapterMap, AdapterSpeeds};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

/// A cluster and the way to its machines.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// What was asked for.
    pub spec: ClusterSpec,
    /// The nodes in the order of their ordinals, then the witness.
    pub members: Vec<Member>,
    /// How fast the adapters are, as far as nodes have told ([`Cluster::learn_speeds`]): what heartbeats get of a NIC depends on it.
    pub speeds: AdapterSpeeds,
}

/// A machine of a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Its zone; `None`: the witness.
    pub zone: Option<ZoneName>,
    /// Which NIC is which adapter.
    pub adapters: AdapterMap,
    /// The way to its agent.
    pub client: Client,
}

impl Cluster {
    /// The members that hold data.
    pub fn nodes(&self) -> impl Iterator<Item = (&Member, &Node)> {
        self.spec.nodes().filter_map(|(_, node)| {
            self.members.iter().find(|member| member.name == node.name).map(|member| (member, node))
        })
    }

    /// The same without some nodes. Ordinals stay.
    pub(crate) fn without(&self, nodes: &BTreeSet<NodeName>) -> Self {
        let mut rest = self.clone();
        rest.members.retain(|member| !nodes.contains(&member.name));
        rest.spec.zones.iter_mut().for_each(|zone| zone.nodes.retain(|node| !nodes.contains(&node.name)));
        rest
    }

    /// The members of these names alone, with the specification of all.
    pub(crate) fn only(&self, names: &BTreeSet<NodeName>) -> Self {
        let mut some = self.clone();
        some.members.retain(|member| names.contains(&member.name));
        some
    }

    /// What the intents carry on an adapter.
    pub fn traffic(&self, adapter: &AdapterName) -> BTreeSet<TrafficClass> {
        let intents = self.spec.intents.iter().filter(|intent| intent.adapters.contains(adapter));
        intents.flat_map(|intent| intent.traffic.iter().copied()).collect()
    }

    /// Asks all members at once; the first failure is the answer.
    pub(crate) async fn ask_all<'a, T, E, F>(&'a self, ask: impl Fn(&'a Member) -> F) -> Result<Vec<T>, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        try_join_all(self.members.iter().map(ask)).await
    }

    /// Asks all members which of their NICs is which adapter: their agents are told by their configuration.
    pub async fn learn_adapters(&mut self) -> Result<(), DeployError> {
        let answers = self.ask_all(|member| member.client.neighbours()).await?;
        for (member, answer) in self.members.iter_mut().zip(answers) {
            member.adapters = answer.nics.into_iter().map(|nic| (nic.adapter, nic.mac)).collect();
        }
        Ok(())
    }

    /// Asks all members how fast their NICs are. An adapter is as fast as the fastest of its NICs: a NIC without carrier may
    /// not know, and those of one adapter are alike.
    pub async fn learn_speeds(&mut self) -> Result<(), DeployError> {
        let inventories = self.inventories().await?;
        let mut speeds = AdapterSpeeds::new();
        for (member, inventory) in self.members.iter().zip(&inventories) {
            for (adapter, mac) in &member.adapters {
                let nic = inventory.nics.iter().find(|nic| nic.mac == *mac);
                if let Some(speed) = nic.and_then(|nic| nic.speed_mbps) {
                    let fastest = speeds.entry(adapter.clone()).or_insert(speed);
                    *fastest = speed.max(*fastest);
                }
            }
        }
        self.speeds = speeds;
        Ok(())
    }

    /// What is wrong with the machines of the nodes, of which these are the data drives.
    pub async fn hardware(
        &self,
        data_drives: &BTreeMap<NodeName, BTreeSet<DriveSerial>>,
    ) -> Result<Vec<HardwareFinding>, DeployError> {
        let inventories = self.inventories().await?;
        let of_nodes = self.members.iter().zip(&inventories).filter(|(member, _)| member.zone.is_some());
        let nodes = of_nodes.map(|(member, inventory)| NodeHardware {
            node: member.name.clone(),
            adapters: &member.adapters,
            inventory,
            data_drives: data_drives.get(&member.name).cloned().unwrap_or_default(),
        });
        Ok(hardware::check(&self.spec, &nodes.collect::<Vec<_>>()))
    }

    /// What every member has, in their order.
    pub async fn inventories(&self) -> Result<Vec<model::Inventory>, ClientError> {
        self.ask_all(|member| member.client.inventory()).await
    }
}

/// Gives the witness an address if the template gave none: the highest of the management subnet that nothing else
/// has. (ARM files name a cloud or a share as witness, which here becomes a machine.)
pub fn place_witness(spec: &mut ClusterSpec) -> Result<(), DeployError> {
    if spec.witness.management_ip.is_some() {
        return Ok(());
    }
    let management = &spec.management;
    let nodes: Vec<_> = spec.nodes().map(|(_, node)| node.management_ip).collect();
    // Subnets may be huge; what is in use fits in far fewer addresses than this.
    let mut highest_first = management.subnet.hosts().rev().take(1 << 16);
    let free = highest_first.find(|address| {
        let in_range = (management.range_start..=management.range_end).contains(address);
        !in_range
            && *address != management.gateway
            && !management.dns.contains(address)
            && !nodes.contains(address)
    });
    spec.witness.management_ip =
        Some(free.ok_or(DeployError::NoWitnessAddress { subnet: management.subnet })?);
    Ok(())
}
