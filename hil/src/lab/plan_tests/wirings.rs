//! Every wiring option is what it says: recognised by what its switches announce, without loops, storage off the spine.

use super::{LabFile, LabPlan, spec};
use crate::lab::file::DEFAULT;
use crate::lab::plan::PlanError;
use fabric::switchboard::{Delivery, LinkIndex, NicIndex, Outlet, Switchboard};
use fabric::{End, Frame, Role, Topology, Ways};
use model::{ClusterSpec, Shape, VlanId, Wiring};
use network::lldp;
use network::wiring::{Neighbour, NicCabling, NodeCabling, Recognised, check, recognise};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const ALL: [Wiring; 4] = [Wiring::A, Wiring::B, Wiring::C, Wiring::D];

/// What was delivered: NIC and frame.
#[derive(Default)]
struct Delivered(Vec<(usize, Vec<u8>)>);

impl Outlet for Delivered {
    fn deliver(&mut self, nic: NicIndex, frame: &Frame<'_>) -> Delivery {
        self.0.push((nic.0, frame.to_vec()));
        Delivery::Taken
    }

    fn capture(&mut self, _: LinkIndex, _: &Frame<'_>) {}
}

fn wired(shape: Shape, wiring: Wiring) -> ClusterSpec {
    ClusterSpec { wiring: Some(wiring), ..spec(shape) }
}

fn planned(spec: &ClusterSpec, seed: u64) -> LabPlan {
    LabPlan::new(spec, &LabFile::parse(DEFAULT).unwrap(), seed).unwrap()
}

/// Every wiring of every shape, each with a few seeds.
fn every() -> impl Iterator<Item = (ClusterSpec, LabPlan)> {
    let all = Shape::ALL.into_iter().flat_map(|shape| ALL.map(|wiring| (shape, wiring)));
    all.flat_map(|(shape, wiring)| {
        (1..=3).map(move |seed| {
            let spec = wired(shape, wiring);
            let plan = planned(&spec, seed);
            (spec, plan)
        })
    })
}

/// What every node hears at the fabric's first announcement.
fn heard(spec: &ClusterSpec, plan: &LabPlan) -> Vec<NodeCabling> {
    let topology = plan.cables.topology();
    let mut delivered = Delivered::default();
    Switchboard::new(topology).unwrap().tick(Duration::ZERO, &mut delivered);
    let by_nic: BTreeMap<usize, Vec<u8>> = delivered.0.into_iter().collect();
    let nic = |nic: &crate::lab::plan::NicPlan, in_zone: bool| {
        let at = topology.nics.iter().position(|id| *id == nic.id).unwrap();
        let intents = spec.intents.iter().filter(|intent| in_zone && intent.adapters.contains(&nic.adapter));
        NicCabling {
            adapter: nic.adapter.clone(),
            kernel_name: nic.device.clone(),
            mac: nic.mac,
            traffic: intents.flat_map(|intent| intent.traffic.iter().copied()).collect(),
            neighbour: Some(Neighbour {
                lldpdu: lldp::decode(&by_nic[&at]).unwrap().lldpdu,
                received_age_ms: 0,
            }),
        }
    };
    let node = |node: &crate::lab::plan::NodePlan| NodeCabling {
        zone: node.zone.map(|zone| spec.zones[zone].name.clone()),
        node: node.name.clone(),
        nics: node.nics.iter().map(|plan| nic(plan, node.zone.is_some())).collect(),
    };
    plan.nodes.iter().map(node).collect()
}

#[test]
fn every_wiring_is_recognised_and_nothing_is_found() {
    for (spec, plan) in every() {
        let heard = heard(&spec, &plan);
        assert_eq!(recognise(&spec, &heard), Recognised::As(spec.wiring.unwrap()), "{}", spec.shape());
        assert_eq!(check(&spec, &heard), [], "{:?} {}", spec.wiring, spec.shape());
    }
}

#[test]
fn a_wiring_that_the_template_does_not_name_is_told() {
    for (declared, built) in [(Wiring::A, Wiring::B), (Wiring::B, Wiring::A), (Wiring::D, Wiring::A)] {
        let shape = Shape::with_nodes_per_zone(2).unwrap();
        let plan = planned(&wired(shape, built), 1);
        let declared = wired(shape, declared);
        let found = check(&declared, &heard(&declared, &plan));
        assert!(found.iter().any(|finding| finding.id() == "lldp.other-wiring"), "{found:?}");
    }
}

#[test]
fn storage_ports_say_how_they_treat_priorities_and_others_do_not() {
    let spec = wired(Shape::with_nodes_per_zone(1).unwrap(), Wiring::A);
    for node in heard(&spec, &planned(&spec, 1)) {
        for nic in node.nics {
            let said = nic.neighbour.unwrap().lldpdu;
            let is_storage = nic.traffic.contains(&model::TrafficClass::Storage);
            assert_eq!(said.pfc.map(|pfc| pfc.enabled), is_storage.then_some(1 << 3));
            let shares = said
                .ets
                .map(|ets| (ets.class_of, ets.bandwidth_percent[1], ets.bandwidth_percent.iter().sum()));
            assert_eq!(shares, is_storage.then_some(([0, 0, 0, 1, 0, 0, 0, 2], 50, 100u8)));
        }
    }
}

/// The NICs whose port carries a VLAN, in the order of the topology.
fn members(topology: &Topology, vlan: VlanId) -> BTreeSet<usize> {
    let carried = topology.links.iter().filter_map(|link| match (&link.a, &link.b) {
        (End::Nic(nic), End::Port(port)) if topology.port(port)?.tagged_vlans.contains(&vlan) => {
            topology.nics.iter().position(|other| other == nic)
        }
        _ => None,
    });
    carried.collect()
}

/// Which NICs a broadcast reaches, one entry per copy.
fn reached(board: &mut Switchboard, from: usize, vlan: VlanId) -> Vec<usize> {
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, from as u8]].concat();
    frame.extend([0x81, 0x00]);
    frame.extend(vlan.get().to_be_bytes());
    frame.extend([0x88, 0xb5, 0, 0]);
    let mut delivered = Delivered::default();
    board.ingress(NicIndex(from), &frame, Duration::from_secs(1), &mut delivered);
    let mut reached: Vec<usize> = delivered.0.into_iter().map(|(nic, _)| nic).collect();
    reached.sort_unstable();
    reached
}

fn vlans() -> [VlanId; 4] {
    [711u64, 712, 7, 8].map(|vlan| VlanId::try_from(vlan).unwrap())
}

#[test]
fn every_broadcast_reaches_every_nic_of_its_vlan_exactly_once() {
    for (spec, plan) in every() {
        let topology = plan.cables.topology();
        let mut board = Switchboard::new(topology).unwrap();
        for vlan in vlans() {
            let members = members(topology, vlan);
            let routed = vlan.get() < 100;
            let nodes = spec.shape().nodes();
            // Management has two NICs on every node and on the witness; a storage network has one, and with B and C its
            // VLAN is on the other's ports as well.
            let storage = if matches!(spec.wiring, Some(Wiring::B | Wiring::C)) { 2 * nodes } else { nodes };
            assert_eq!(
                members.len(),
                if routed { 2 * (nodes + 1) } else { storage },
                "{:?} {vlan}",
                spec.wiring
            );
            for from in &members {
                let others: Vec<usize> = members.iter().copied().filter(|nic| nic != from).collect();
                assert_eq!(reached(&mut board, *from, vlan), others, "{:?} {vlan}", spec.wiring);
            }
        }
        let spine: BTreeSet<_> = topology.links_at(Role::Spine).map(|link| &link.id).collect();
        for counters in board.counters(Duration::ZERO).links.iter().filter(|link| spine.contains(&link.link))
        {
            assert_eq!(vlans()[..2].iter().map(|vlan| counters.sent_frames(*vlan)).sum::<u64>(), 0);
        }
    }
}

#[test]
fn with_any_one_cable_cut_nothing_comes_twice_and_port_channels_lose_nothing() {
    for (spec, plan) in every() {
        let topology = plan.cables.topology();
        let bundled: BTreeSet<_> = topology.channels.iter().flat_map(|channel| &channel.links).collect();
        let between = |link: &&fabric::Link| link.ends().all(|end| matches!(end, End::Port(_)));
        for cut in topology.links.iter().filter(between) {
            for ways in [Ways::Both, Ways::AToB, Ways::BToA] {
                let mut board = Switchboard::new(topology).unwrap();
                board.cut_link(&cut.id, ways, &mut Delivered::default()).unwrap();
                for vlan in vlans() {
                    let End::Port(port) = &cut.a else { unreachable!("filtered") };
                    let carries = topology.port(port).unwrap().carries(vlan);
                    let members = members(topology, vlan);
                    for from in &members {
                        let reached = reached(&mut board, *from, vlan);
                        let distinct: BTreeSet<usize> = reached.iter().copied().collect();
                        assert_eq!(distinct.len(), reached.len(), "{:?}, {} cut", spec.wiring, cut.id);
                        if bundled.contains(&cut.id) || !carries {
                            assert_eq!(
                                distinct.len(),
                                members.len() - 1,
                                "{:?}, {} cut",
                                spec.wiring,
                                cut.id
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn each_option_joins_the_rooms_in_its_way() {
    let shape = Shape::with_nodes_per_zone(2).unwrap();
    let told = ALL.map(|wiring| {
        let plan = planned(&wired(shape, wiring), 5);
        let mut lines = vec![format!("{wiring:?}")];
        for network in [1, 2] {
            let link = plan.cables.room_link(network);
            let cables = link.map(|link| link.cables.iter().map(ToString::to_string).collect::<Vec<_>>());
            let switches =
                [0, 1].map(|room| plan.cables.storage_switch(room, network).map(ToString::to_string));
            lines.push(format!("  storage network {network}: over {cables:?}, on {switches:?}"));
        }
        for pair in &plan.cables.topology().pairs {
            lines.push(format!("  {} and {} are a pair", pair.switches[0], pair.switches[1]));
        }
        for nic in &plan.nodes[0].nics {
            let link = plan.cables.topology().link(&super::super::topology::cable_id(&nic.id)).unwrap();
            let End::Port(port) = &link.b else { panic!("a NIC is cabled to a port") };
            lines.push(format!("  {} of {} on {}", nic.adapter, plan.nodes[0].name, port.switch));
        }
        lines[1..].sort();
        lines.join("\n")
    });
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_converged_team_can_not_be_wired_as_d() {
    let mut spec = wired(Shape::with_nodes_per_zone(1).unwrap(), Wiring::D);
    let storage = spec.intents.remove(1);
    spec.intents[0].traffic.extend(storage.traffic);
    spec.intents[0].adapters.extend(storage.adapters);
    let refused = LabPlan::new(&spec, &LabFile::parse(DEFAULT).unwrap(), 1);
    assert!(matches!(refused, Err(PlanError::ConvergedWithoutRoomLink)));
}

#[test]
fn only_the_first_of_a_pair_takes_the_other_network_along() {
    for (spec, plan) in every() {
        for (room, network) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
            let Some(switch) = plan.cables.storage_switch(room, network) else { continue };
            let along: Vec<u8> = plan.cables.networks_cut_off_by_peer(room, switch).collect();
            let expected: &[u8] = if spec.wiring == Some(Wiring::B) && network == 1 { &[2] } else { &[] };
            assert_eq!(along, expected, "{:?} room {room} network {network}", spec.wiring);
        }
    }
}
