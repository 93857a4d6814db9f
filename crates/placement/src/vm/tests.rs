//! Tests of where virtual machines run. Every plan that is made here is held against the rules.

mod admitted;
mod broken;
mod drained;
mod explained;
mod properties;
mod table;

use super::*;
use model::{VmPlacement, VolumeId};

const GIB: u64 = 1 << 30;

fn rack(number: usize) -> ZoneName {
    format!("rack{number}").parse().unwrap()
}

/// Two racks of so many equal nodes, all up and ready: node 1 and on in rack 1, the others in rack 2.
fn cluster(per_rack: u32, gib: u64, cores: u32) -> Cluster {
    let node = |id: u32| {
        let zone = rack(if id <= per_rack { 1 } else { 2 });
        (NodeId(id), Node { zone, memory_bytes: gib * GIB, cores, state: NodeState::Up })
    };
    Cluster {
        nodes: (1..=2 * per_rack).map(node).collect(),
        cores_percent: 100,
        ready: [rack(1), rack(2)].into(),
        legs: BTreeMap::new(),
    }
}

impl Cluster {
    fn with(mut self, nodes: &[u32], state: NodeState) -> Self {
        for id in nodes {
            self.nodes.get_mut(&NodeId(*id)).unwrap().state = state;
        }
        self
    }

    fn not_ready(mut self, number: usize) -> Self {
        self.ready.remove(&rack(number));
        self
    }
}

fn prefers(number: usize) -> VmPlacement {
    VmPlacement::Prefers(rack(number))
}

fn strict(number: usize) -> VmPlacement {
    VmPlacement::Strict(rack(number))
}

/// One with a core.
fn vm(id: u32, gib: u64, placement: VmPlacement, now: Now) -> (VmId, Vm) {
    let spec = VmSpec {
        name: format!("guest{id}").parse().unwrap(),
        memory_bytes: gib * GIB,
        cores: 1,
        placement,
        anti_affinity: None,
        volumes: vec![VolumeId(id)],
        saves_to: Some(VolumeId(id)),
        nics: Vec::new(),
    };
    (VmId(id), Vm { spec, now, avoids: None })
}

fn in_group((id, mut vm): (VmId, Vm), group: &str) -> (VmId, Vm) {
    vm.spec.anti_affinity = Some(group.parse().unwrap());
    (id, vm)
}

const fn on(node: u32) -> Now {
    Now::Runs(NodeId(node))
}

/// A plan that keeps the rules.
fn checked(cluster: &Cluster, vms: &Vms) -> Plan {
    let plan = plan(cluster, vms);
    assert_eq!(check(cluster, vms, &plan), [], "{cluster:#?}\n{vms:#?}\n{plan:#?}");
    plan
}

/// Who shall run where.
fn seats(plan: &Plan, vms: &Vms) -> Vec<Option<u32>> {
    vms.keys().map(|vm| plan.node_of(*vm).map(|node| node.0)).collect()
}
