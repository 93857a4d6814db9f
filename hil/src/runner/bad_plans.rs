//! Plans that no deployment would make. Pure.

use crate::suite::BadPlan;
use model::{ClusterSpec, Mtu, NodeName, VlanId};
use network::NetworkPlan;
use network::link::{LinkName, VlanEntry};
use network::plan::{LinkRef, PlannedKind};
use std::net::Ipv4Addr;

/// VLANs that no port of a lab carries.
const WRONG_VLANS: [u64; 2] = [3001, 3002];

fn wrong_vlan(index: usize) -> VlanId {
    VlanId::try_from(WRONG_VLANS[index % WRONG_VLANS.len()]).unwrap_or(VlanId::STORAGE_1_DEFAULT)
}

/// What goes wrong with the plan: as this one, but wrong.
pub(super) fn spoil(what: BadPlan, mut plan: NetworkPlan) -> NetworkPlan {
    let management = LinkRef::Ours(LinkName::management());
    let mut right = None;
    let mut storage = 0;
    for link in &mut plan.links {
        let is_management = link.link == management;
        let PlannedKind::Vlan { vlan, .. } = &mut link.kind else { continue };
        match what {
            BadPlan::WrongManagementVlan if is_management => {
                right = Some(std::mem::replace(vlan, wrong_vlan(0)));
            }
            BadPlan::WrongStorageVlans if !is_management => {
                *vlan = wrong_vlan(storage);
                link.link = LinkRef::Ours(LinkName::storage(*vlan));
                storage += 1;
            }
            BadPlan::Unmakeable if is_management => {
                // The kernel takes it without a word and does nothing (`__inet_insert_ifa`, net/ipv4/devinet.c).
                link.address = ipnet::Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 24).ok();
            }
            _ => {}
        }
    }
    for link in &mut plan.links {
        if right.is_some_and(|right| link.bridge_vlans.remove(&right).is_some()) {
            link.bridge_vlans.insert(wrong_vlan(0), VlanEntry::TAGGED);
        }
    }
    plan
}

/// A good plan that is another: storage with another MTU, and one more VLAN for virtual machines.
pub(super) fn changed(mut plan: NetworkPlan) -> NetworkPlan {
    let management = LinkRef::Ours(LinkName::management());
    let storage = plan.links.iter().filter(|link| link.link != management);
    let mut lowered: Vec<LinkRef> = storage
        .filter_map(|link| match &link.kind {
            PlannedKind::Vlan { parent, .. } => Some([link.link.clone(), parent.clone()]),
            _ => None,
        })
        .flatten()
        .collect();
    let team = LinkRef::Ours(LinkName::team());
    lowered.retain(|link| *link != team);
    let smaller = Mtu::try_from(1400).unwrap_or(Mtu::ETHERNET);
    for link in &mut plan.links {
        if lowered.contains(&link.link) {
            link.mtu = if link.mtu > Mtu::ETHERNET { Mtu::ETHERNET } else { smaller };
        }
        if link.link == team {
            link.bridge_vlans.insert(wrong_vlan(0), VlanEntry::TAGGED);
        }
    }
    plan
}

/// Addresses of the node and of a peer on the networks that a bad plan cuts off.
pub(super) fn pairs(spec: &ClusterSpec, node: &NodeName, what: BadPlan) -> Vec<(Ipv4Addr, Ipv4Addr)> {
    let own = spec.nodes().find(|(_, other)| other.name == *node);
    let peer = spec.nodes().find(|(_, other)| other.name != *node);
    let (Some((_, own)), Some((_, peer))) = (own, peer) else { return Vec::new() };
    match what {
        BadPlan::WrongManagementVlan => vec![(own.management_ip, peer.management_ip)],
        BadPlan::WrongStorageVlans => {
            let address = ClusterSpec::storage_address;
            let of = |network| (address(network, own.ordinal), address(network, peer.ordinal));
            spec.storage_networks.iter().map(of).collect()
        }
        BadPlan::Unmakeable => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Shape;
    use network::Generation;
    use network::plan::PlannedLink;
    use std::collections::BTreeSet;

    fn own() -> NetworkPlan {
        let path = format!("{}/templates/{}.toml", env!("CARGO_MANIFEST_DIR"), Shape::ALL[0]);
        let source = template::Source::new(&path, std::fs::read_to_string(&path).unwrap());
        let spec = template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap();
        let name = spec.nodes().next().unwrap().1.name.clone();
        network::plan(&spec, &name, Generation(1)).unwrap()
    }

    fn differing(one: &NetworkPlan, other: &NetworkPlan) -> BTreeSet<String> {
        let name = |link: &PlannedLink| match &link.link {
            LinkRef::Ours(name) => name.to_string(),
            LinkRef::Adapter(name) => name.to_string(),
        };
        let pairs = one.links.iter().zip(&other.links).filter(|(one, other)| one != other);
        pairs.map(|(one, _)| name(one)).collect()
    }

    #[test]
    fn bad_plans_are_wrong_in_one_thing() {
        let own = own();
        let wrong = |what| differing(&own, &spoil(what, own.clone())).into_iter().collect::<Vec<_>>();
        assert_eq!(wrong(BadPlan::WrongManagementVlan), ["tw-br", "tw-mgmt", "tw-team"]);
        assert_eq!(wrong(BadPlan::WrongStorageVlans), ["tw-st711", "tw-st712"]);
        assert_eq!(wrong(BadPlan::Unmakeable), ["tw-mgmt"]);
    }

    #[test]
    fn the_other_good_plan_has_another_mtu_and_one_vlan_more() {
        let own = own();
        let other = changed(own.clone());
        let differing: Vec<_> = differing(&own, &other).into_iter().collect();
        assert_eq!(differing, ["storage1", "storage2", "tw-st711", "tw-st712", "tw-team"]);
        assert_eq!(changed(own.clone()), other);
    }
}
