//! A lab's plan: the same seed, the same lab; another seed, nothing that one could depend on.

use super::file::{DEFAULT, LabFile};
use super::plan::{DriveRole, LabPlan};
use fabric::{End, Role};
use model::{ClusterSpec, MacAddress, Shape, VlanId};
use std::collections::BTreeSet;

mod wirings;

fn spec(shape: Shape) -> ClusterSpec {
    read(&shape.to_string())
}

/// A template that comes with the harness.
fn read(name: &str) -> ClusterSpec {
    let path = format!("{}/templates/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let source = template::Source::new(&path, std::fs::read_to_string(&path).unwrap());
    template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap()
}

pub(super) fn plan(shape: Shape, seed: u64) -> LabPlan {
    LabPlan::new(&spec(shape), &LabFile::parse(DEFAULT).unwrap(), seed).unwrap()
}

fn two_by_two() -> Shape {
    Shape::with_nodes_per_zone(2).unwrap()
}

#[test]
fn every_shape_has_its_nodes_with_their_hardware_and_a_witness_without_data() {
    for shape in Shape::ALL {
        let plan = plan(shape, 1);
        let (witness, nodes) = plan.nodes.split_last().unwrap();
        assert_eq!(nodes.len(), shape.nodes());
        for node in nodes {
            let data = node.drives.iter().filter(|drive| drive.role == DriveRole::Data).count();
            assert_eq!((node.nics.len(), node.drives.len(), data), (4, 3, 2), "{}", node.name);
        }
        assert!(witness.zone.is_none() && witness.drives.iter().all(|drive| drive.role == DriveRole::Boot));
    }
}

#[test]
fn nothing_in_a_lab_is_called_the_same() {
    let plan = plan(Shape::with_nodes_per_zone(4).unwrap(), 9);
    let macs: Vec<MacAddress> = plan
        .nodes
        .iter()
        .flat_map(|node| node.nics.iter().map(|nic| nic.mac).chain([node.out_of_band_mac]))
        .chain(plan.cables.topology().switches.iter().map(|switch| switch.chassis_mac))
        .collect();
    assert_eq!(macs.iter().collect::<BTreeSet<_>>().len(), macs.len());
    assert!(macs.iter().all(|mac| mac.0[0] & 3 == 2), "local and unicast");
    let serials: Vec<_> =
        plan.nodes.iter().flat_map(|node| node.drives.iter().map(|drive| &drive.serial)).collect();
    assert_eq!(serials.iter().collect::<BTreeSet<_>>().len(), serials.len());
}

#[test]
fn the_seed_decides_everything_that_a_product_must_not_depend_on() {
    let [first, again, other] = [7, 7, 8].map(|seed| format!("{:?}", plan(two_by_two(), seed)));
    assert_eq!(first, again);
    assert_ne!(first, other);
    let nic_orders: BTreeSet<Vec<String>> = (0..20)
        .map(|seed| {
            plan(two_by_two(), seed).nodes[0].nics.iter().map(|nic| nic.adapter.to_string()).collect()
        })
        .collect();
    assert!(nic_orders.len() > 5, "the order of NICs on the bus is drawn");
}

#[test]
fn storage_crosses_between_one_pair_of_switches_and_never_the_spine() {
    let plan = plan(two_by_two(), 3);
    let topology = plan.cables.topology();
    let storage = [VlanId::STORAGE_1_DEFAULT, VlanId::STORAGE_2_DEFAULT];
    let carries = |end: &End, vlan| match end {
        End::Port(port) => topology.port(port).unwrap().carries(vlan),
        End::Nic(_) => false,
    };
    for link in topology.links_at(Role::Spine) {
        assert!(
            storage.iter().all(|vlan| !carries(&link.a, *vlan) && !carries(&link.b, *vlan)),
            "{}",
            link.id
        );
    }
    for (network, vlan) in (1..).zip(storage) {
        let link = plan.cables.room_link(network).unwrap();
        let between: Vec<_> = topology
            .links
            .iter()
            .filter(|link| [&link.a, &link.b].iter().all(|end| carries(end, vlan)))
            .map(|link| &link.id)
            .collect();
        assert_eq!(between, link.cables.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_nic_that_moves_finds_a_port_that_carries_the_same() {
    let plan = plan(two_by_two(), 4);
    let topology = plan.cables.topology();
    for nic in plan.nodes.iter().filter(|node| node.zone.is_some()).flat_map(|node| &node.nics) {
        let link = topology.links.iter().find(|link| link.a == End::Nic(nic.id.clone())).unwrap();
        let End::Port(home) = &link.b else { panic!("a NIC is cabled to a port") };
        for room in 0..2 {
            let (home, spare) =
                (topology.port(home).unwrap(), plan.cables.spare(room, &nic.adapter).unwrap());
            let spare = topology.port(spare).unwrap();
            assert_eq!((home.native_vlan, &home.tagged_vlans), (spare.native_vlan, &spare.tagged_vlans));
        }
    }
}
