//! What the kernel reports, as [`CurrentLinks`]. Pure and tolerant: what isn't understood is left out.

use crate::kernel::message::ACTIVE_BACKUP;
use crate::link::{BondMode, CurrentLink, CurrentLinks, LinkKind, LinkName, Reselect, Route, VlanEntry};
use crate::traffic::Traffic;
use ipnet::Ipv4Net;
use model::{MacAddress, Priority, VlanId};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecBridge, AfSpecInet6, AfSpecUnspec, BondPrimaryReselect, BridgeVlanInfo, BridgeVlanInfoFlags,
    In6AddrGenMode, InfoBond, InfoBridge, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage, VlanQosMapping,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Puts four dumps together: links, links of bridges with their VLANs, IPv4 addresses, IPv4 routes.
pub(super) fn assemble(
    links: &[LinkMessage],
    bridge: &[LinkMessage],
    addresses: &[AddressMessage],
    routes: &[RouteMessage],
) -> CurrentLinks {
    let names = names(links);
    let mut current = CurrentLinks::default();
    for message in links.iter().filter(|message| message.header.link_layer_type != LinkLayerType::Loopback) {
        if let Some(name) = names.get(&message.header.index) {
            current.links.insert(name.clone(), link(message, &names));
        }
    }
    for message in bridge {
        let member = names.get(&message.header.index).and_then(|name| current.links.get_mut(name));
        if let Some(member) = member {
            member.bridge_vlans.extend(bridge_vlans(message));
        }
    }
    for message in addresses {
        let member = names.get(&message.header.index).and_then(|name| current.links.get_mut(name));
        if let (Some(member), Some(address)) = (member, address(message)) {
            member.addresses.insert(address);
        }
    }
    for message in routes {
        if let Some((index, route)) = route(message)
            && let Some(link) = names.get(&index).and_then(|name| current.links.get_mut(name))
        {
            link.routes.insert(route);
        }
    }
    current
}

/// The kernel's numbers of links, with their names.
pub(super) fn names(links: &[LinkMessage]) -> BTreeMap<u32, LinkName> {
    let named = |message: &LinkMessage| Some((message.header.index, name_of(message)?.parse().ok()?));
    links.iter().filter_map(named).collect()
}

fn name_of(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn mac(bytes: &[u8]) -> Option<MacAddress> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddress)
}

fn link(message: &LinkMessage, names: &BTreeMap<u32, LinkName>) -> CurrentLink {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut current = CurrentLink {
        index: message.header.index,
        kind: LinkKind::Nic,
        mac: None,
        permanent_mac: None,
        up,
        carrier: None,
        mtu_bytes: 0,
        master: None,
        addresses: BTreeSet::new(),
        bridge_vlans: BTreeMap::new(),
        ipv6_link_local: None,
        routes: BTreeSet::new(),
        traffic: Traffic::default(),
    };
    let mut parent = None;
    let mut info: &[LinkInfo] = &[];
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => current.mac = mac(bytes),
            LinkAttribute::PermAddress(bytes) => current.permanent_mac = mac(bytes),
            LinkAttribute::Mtu(bytes) => current.mtu_bytes = *bytes,
            LinkAttribute::Carrier(carrier) => current.carrier = up.then_some(*carrier != 0),
            LinkAttribute::Controller(index) => current.master = names.get(index).cloned(),
            LinkAttribute::Link(index) => parent = names.get(index),
            LinkAttribute::LinkInfo(infos) => info = infos,
            LinkAttribute::AfSpecUnspec(specs) => current.ipv6_link_local = ipv6_link_local(specs),
            _ => {}
        }
    }
    current.kind = kind(info, parent, names);
    current
}

fn ipv6_link_local(specs: &[AfSpecUnspec]) -> Option<bool> {
    let inet6 = specs.iter().find_map(|spec| match spec {
        AfSpecUnspec::Inet6(inet6) => Some(inet6),
        _ => None,
    })?;
    inet6.iter().find_map(|attribute| match attribute {
        AfSpecInet6::AddrGenMode(mode) => Some(*mode != In6AddrGenMode::None),
        _ => None,
    })
}

fn kind(info: &[LinkInfo], parent: Option<&LinkName>, names: &BTreeMap<u32, LinkName>) -> LinkKind {
    let word = info.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let Some(word) = word else { return LinkKind::Nic };
    let known = match (word, data) {
        (InfoKind::Bond, Some(InfoData::Bond(data))) => Some(bond(data, names)),
        (InfoKind::Bridge, Some(InfoData::Bridge(data))) => Some(bridge(data)),
        (InfoKind::Vlan, Some(InfoData::Vlan(data))) => parent.and_then(|parent| vlan(data, parent)),
        _ => None,
    };
    known.unwrap_or_else(|| LinkKind::Other(word.to_string()))
}

fn bond(data: &[InfoBond], names: &BTreeMap<u32, LinkName>) -> LinkKind {
    let (mut mode, mut miimon_ms, mut primary, mut reselect) =
        (BondMode::Other(0), 0, None, Reselect::Always);
    for attribute in data {
        match attribute {
            InfoBond::Mode(number) => {
                mode = match u8::from(*number) {
                    ACTIVE_BACKUP => BondMode::ActiveBackup,
                    number => BondMode::Other(number),
                }
            }
            InfoBond::MiiMon(ms) => miimon_ms = *ms,
            InfoBond::Primary(index) => primary = names.get(index).cloned(),
            InfoBond::PrimaryReselect(BondPrimaryReselect::Better) => reselect = Reselect::Better,
            InfoBond::PrimaryReselect(BondPrimaryReselect::Failure) => reselect = Reselect::Failure,
            _ => {}
        }
    }
    LinkKind::Bond { mode, miimon_ms, primary, reselect }
}

fn bridge(data: &[InfoBridge]) -> LinkKind {
    let (mut vlan_filtering, mut default_pvid) = (false, None);
    for attribute in data {
        match attribute {
            InfoBridge::VlanFiltering(on) => vlan_filtering = *on,
            InfoBridge::VlanDefaultPvid(vlan) => default_pvid = vlan_id(*vlan),
            _ => {}
        }
    }
    LinkKind::Bridge { vlan_filtering, default_pvid }
}

fn vlan(data: &[InfoVlan], parent: &LinkName) -> Option<LinkKind> {
    let (mut vlan, mut egress_qos) = (None, BTreeMap::new());
    for attribute in data {
        match attribute {
            InfoVlan::Id(id) => vlan = vlan_id(*id),
            InfoVlan::EgressQos(mappings) => egress_qos.extend(mappings.iter().filter_map(mapping)),
            _ => {}
        }
    }
    Some(LinkKind::Vlan { parent: parent.clone(), vlan: vlan?, egress_qos })
}

/// What maps to 0 is as if it weren't there.
fn mapping(mapping: &VlanQosMapping) -> Option<(u32, Priority)> {
    match mapping {
        VlanQosMapping::Mapping(from, to) if *to != 0 => {
            Some((*from, Priority::try_from(u64::from(*to)).ok()?))
        }
        _ => None,
    }
}

fn vlan_id(id: u16) -> Option<VlanId> {
    VlanId::try_from(u64::from(id)).ok()
}

fn bridge_vlans(message: &LinkMessage) -> impl Iterator<Item = (VlanId, VlanEntry)> {
    let specs = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecBridge(specs) => Some(specs),
        _ => None,
    });
    specs.flatten().filter_map(|spec| match spec {
        AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid }) => {
            let pvid = flags.contains(BridgeVlanInfoFlags::Pvid);
            let untagged = flags.contains(BridgeVlanInfoFlags::Untagged);
            Some((vlan_id(*vid)?, VlanEntry { pvid, untagged }))
        }
        _ => None,
    })
}

/// `IFA_LOCAL` is the link's own address; `IFA_ADDRESS` is the peer's on point-to-point links.
fn address(message: &AddressMessage) -> Option<Ipv4Net> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Ipv4Net::new(local, message.header.prefix_len).ok()
}

/// A route that somebody set, with its link; `None` for the kernel's own, for other tables than the main one, and for those
/// that [`Route`] can't hold (several next hops, a next hop object, metrics of their own, a type of service).
fn route(message: &RouteMessage) -> Option<(u32, Route)> {
    let header = &message.header;
    let plain = header.address_family == AddressFamily::Inet
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel
        && header.tos == 0
        && !header.flags.contains(RouteFlags::Cloned);
    let (mut index, mut to, mut gateway, mut metric, mut source) =
        (None, Ipv4Addr::UNSPECIFIED, None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_) => {}
            _ => return None,
        }
    }
    let route = Route {
        destination: Ipv4Net::new(to, header.destination_prefix_length).ok()?,
        gateway,
        metric,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        source,
        on_link: header.flags.contains(RouteFlags::Onlink),
    };
    plain.then_some((index?, route))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32, name: &str, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.attributes = [vec![LinkAttribute::IfName(name.to_owned())], attributes].concat();
        message
    }

    fn of_kind(kind: InfoKind, data: InfoData) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
    }

    fn observed(links: &[LinkMessage], name: &str) -> CurrentLink {
        assemble(links, &[], &[], &[]).links[&name.parse().unwrap()].clone()
    }

    #[test]
    fn links_are_named_where_the_kernel_gives_numbers() {
        let primary = InfoData::Bond(vec![
            InfoBond::Mode(1.into()),
            InfoBond::Primary(2),
            InfoBond::PrimaryReselect(BondPrimaryReselect::Failure),
        ]);
        let links = [
            message(3, "tw-team", vec![of_kind(InfoKind::Bond, primary)]),
            message(2, "eth0", vec![LinkAttribute::Controller(3), LinkAttribute::Carrier(1)]),
        ];
        let (team, nic) = (observed(&links, "tw-team"), observed(&links, "eth0"));
        let primary = Some("eth0".parse().unwrap());
        let reselect = Reselect::Failure;
        assert_eq!(
            team.kind,
            LinkKind::Bond { mode: BondMode::ActiveBackup, miimon_ms: 0, primary, reselect }
        );
        assert_eq!((nic.kind, nic.master, nic.carrier), (LinkKind::Nic, "tw-team".parse().ok(), Some(true)));
    }

    #[test]
    fn a_mapping_to_zero_is_none() {
        let mapping = [(3, 3), (5, 0), (6, 9)].map(|(from, to)| VlanQosMapping::Mapping(from, to));
        let data = InfoData::Vlan(vec![InfoVlan::Id(711), InfoVlan::EgressQos(mapping.to_vec())]);
        let links = [
            message(2, "eth0", vec![]),
            message(3, "tw-st711", vec![LinkAttribute::Link(2), of_kind(InfoKind::Vlan, data)]),
        ];
        let LinkKind::Vlan { egress_qos, .. } = observed(&links, "tw-st711").kind else {
            panic!("a VLAN link")
        };
        assert_eq!(egress_qos, BTreeMap::from([(3, Priority::STORAGE)]));
    }

    #[test]
    fn what_is_not_understood_is_another_link_or_none() {
        let elsewhere = InfoData::Vlan(vec![InfoVlan::Id(711)]);
        let links = [
            message(2, "x", vec![LinkAttribute::Link(77), of_kind(InfoKind::Vlan, elsewhere)]),
            message(3, "a/b", vec![]),
            LinkMessage::default(),
        ];
        let current = assemble(
            &links,
            &[message(99, "gone", vec![])],
            &[AddressMessage::default()],
            &[RouteMessage::default()],
        );
        assert_eq!(current.links.len(), 1);
        assert_eq!(observed(&links, "x").kind, LinkKind::Other("vlan".to_owned()));
    }
}
