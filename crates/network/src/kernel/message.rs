//! An operation as a netlink request. Pure.
//!
//! Which request does what (Linux 6.1, `net/core/rtnetlink.c`): `RTM_SETLINK` changes what all links have, and the VLANs of
//! bridges with family `AF_BRIDGE`; `RTM_NEWLINK` without `NLM_F_CREATE` changes what only one kind has
//! (`IFLA_INFO_DATA`, which `RTM_SETLINK` ignores).

use super::netlink::NetlinkError;
use super::wire::{self, Message, Raw};
use super::{dcb, tc};
use crate::link::{BondMode, LinkName, Reselect, Route, VlanEntry};
use crate::op::Op;
use crate::traffic::Queue;
use ipnet::Ipv4Net;
use model::{Priority, VlanId};
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use rtnetlink::packet_route::link::{
    AfSpecBridge, AfSpecInet6, AfSpecUnspec, BondMode as KernelBondMode, BondPrimaryReselect, BridgeFlag,
    BridgeVlanInfo, BridgeVlanInfoFlags, In6AddrGenMode, InfoBond, InfoBridge, InfoData, InfoKind, InfoVlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanQosMapping,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// `BOND_MODE_ACTIVEBACKUP`, `uapi/linux/if_bonding.h`.
pub(super) const ACTIVE_BACKUP: u8 = 1;

/// What a request needs to know of a link.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkFacts {
    pub(super) index: u32,
    pub(super) is_bridge: bool,
}

/// Bridges run no spanning tree, so that a port forwards at once; yet with a delay the kernel announces every port once more
/// when it is over, 15 s later (`br_make_forwarding` and `br_forward_delay_timer_expired`, `net/bridge`), as if something had changed.
const NO_DELAY: u32 = 0;

const CHANGE: u16 = NLM_F_REQUEST | NLM_F_ACK;
const CREATE: u16 = CHANGE | NLM_F_CREATE | NLM_F_EXCL;
/// Several routes may have one destination and metric (`NLM_F_EXCL` would refuse); the same route twice is refused.
const APPEND: u16 = CHANGE | NLM_F_CREATE | NLM_F_APPEND;
/// A root queue in the place of one of another kind, or one of its kind changed, as `tc qdisc replace` asks for it. With
/// `NLM_F_EXCL` the kernel was seen to refuse the place of one of its kind (`tc_modify_qdisc`, `net/sched/sch_api.c`).
const REPLACE: u16 = CHANGE | NLM_F_CREATE | NLM_F_REPLACE;

/// The names of the links that must exist for an operation.
pub(super) fn needs(op: &Op) -> Vec<&LinkName> {
    match op {
        Op::CreateBond { .. } | Op::CreateBridge { .. } => Vec::new(),
        Op::CreateVlan { parent, .. } => vec![parent],
        Op::Join { name, master } => vec![name, master],
        Op::SetPrimary { name, port: Some(port) } => vec![name, port],
        other => vec![other.name()],
    }
}

/// The request for an operation. `facts` knows all links that [`needs`] names.
pub(super) fn request(
    op: &Op,
    facts: &BTreeMap<LinkName, LinkFacts>,
) -> Result<NetlinkMessage<Message>, NetlinkError> {
    let find = |name: &LinkName| facts.get(name).copied().ok_or_else(|| NetlinkError::NoLink(name.clone()));
    let index = |name: &LinkName| find(name).map(|facts| facts.index);
    let (payload, flags) = match op {
        Op::SetQueue { name, .. }
        | Op::AddClassifier { name }
        | Op::RemoveClassifier { name }
        | Op::AddFilter { name, .. }
        | Op::RemoveFilter { name, .. }
        | Op::SetDcbEts { name, .. }
        | Op::SetDcbPfc { name, .. } => {
            let (raw, flags) =
                traffic(op, index(name)?).ok_or_else(|| NetlinkError::NotTold(Box::new(op.clone())))?;
            return Ok(wire::request(raw, flags));
        }
        Op::CreateBond { name, mode, miimon_ms } => {
            let data = InfoData::Bond(vec![InfoBond::Mode(bond_mode(*mode)), InfoBond::MiiMon(*miimon_ms)]);
            (create(name, InfoKind::Bond, data, None), CREATE)
        }
        Op::CreateBridge { name, vlan_filtering, default_pvid } => {
            let mut data = filtering(*vlan_filtering, *default_pvid);
            data.push(InfoBridge::ForwardDelay(NO_DELAY));
            (create(name, InfoKind::Bridge, InfoData::Bridge(data), None), CREATE)
        }
        Op::CreateVlan { name, parent, vlan, egress_qos } => {
            let data = InfoData::Vlan(vec![InfoVlan::Id(vlan.get()), qos(egress_qos)]);
            (create(name, InfoKind::Vlan, data, Some(index(parent)?)), CREATE)
        }
        Op::Delete { name } => (RouteNetlinkMessage::DelLink(link(index(name)?, Vec::new())), CHANGE),
        Op::SetMtu { name, mtu_bytes } => (set(index(name)?, LinkAttribute::Mtu(*mtu_bytes)), CHANGE),
        Op::SetUp { name } => (set_flags(index(name)?, LinkFlags::Up), CHANGE),
        Op::SetDown { name } => (set_flags(index(name)?, LinkFlags::empty()), CHANGE),
        Op::Join { name, master } => (set(index(name)?, LinkAttribute::Controller(index(master)?)), CHANGE),
        Op::Leave { name } => (set(index(name)?, LinkAttribute::Controller(0)), CHANGE),
        Op::SetMiimon { name, miimon_ms } => {
            let data = InfoData::Bond(vec![InfoBond::MiiMon(*miimon_ms)]);
            (change(index(name)?, InfoKind::Bond, data), CHANGE)
        }
        Op::SetReselect { name, reselect } => {
            let data = InfoData::Bond(vec![InfoBond::PrimaryReselect(primary_reselect(*reselect))]);
            (change(index(name)?, InfoKind::Bond, data), CHANGE)
        }
        Op::SetPrimary { name, port } => {
            let port = port.as_ref().map_or(Ok(0), index)?;
            (change(index(name)?, InfoKind::Bond, InfoData::Bond(vec![InfoBond::Primary(port)])), CHANGE)
        }
        Op::SetFiltering { name, vlan_filtering, default_pvid } => {
            let data = InfoData::Bridge(filtering(*vlan_filtering, *default_pvid));
            (change(index(name)?, InfoKind::Bridge, data), CHANGE)
        }
        Op::SetEgressQos { name, egress_qos } => {
            (change(index(name)?, InfoKind::Vlan, InfoData::Vlan(vec![qos(egress_qos)])), CHANGE)
        }
        Op::SetBridgeVlan { name, vlan, entry } => {
            (RouteNetlinkMessage::SetLink(bridge_vlan(find(name)?, *vlan, *entry)), CHANGE)
        }
        Op::RemoveBridgeVlan { name, vlan } => {
            (RouteNetlinkMessage::DelLink(bridge_vlan(find(name)?, *vlan, VlanEntry::TAGGED)), CHANGE)
        }
        Op::AddAddress { name, address } => {
            (RouteNetlinkMessage::NewAddress(self::address(index(name)?, *address)), CREATE)
        }
        Op::RemoveAddress { name, address } => {
            (RouteNetlinkMessage::DelAddress(self::address(index(name)?, *address)), CHANGE)
        }
        Op::AddRoute { name, route } => {
            (RouteNetlinkMessage::NewRoute(self::route(index(name)?, route)), APPEND)
        }
        Op::RemoveRoute { name, route } => {
            (RouteNetlinkMessage::DelRoute(self::route(index(name)?, route)), CHANGE)
        }
        Op::SetIpv6LinkLocal { name, enabled } => {
            let mode = if *enabled { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
            let spec = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
            (set(index(name)?, LinkAttribute::AfSpecUnspec(vec![spec])), CHANGE)
        }
    };
    Ok(wire::request(payload, flags))
}

/// The request for a program on a link's way in, in the place of the one that is there.
pub(super) fn put_program(index: u32, descriptor: u32) -> NetlinkMessage<Message> {
    wire::request(tc::put_program(index, descriptor), CHANGE | NLM_F_CREATE)
}

/// `None`: it can't be made from what is known, or is about something else.
fn traffic(op: &Op, index: u32) -> Option<(Raw, u16)> {
    Some(match op {
        Op::SetQueue { queue: Queue::Default, .. } => (tc::set_queue(index, &Queue::Default)?, CHANGE),
        Op::SetQueue { queue, .. } => (tc::set_queue(index, queue)?, REPLACE),
        Op::AddClassifier { .. } => (tc::add_classifier(index), CREATE),
        Op::RemoveClassifier { .. } => (tc::remove_classifier(index), CHANGE),
        Op::AddFilter { preference, filter, .. } => (tc::add_filter(index, *preference, filter)?, CREATE),
        Op::RemoveFilter { preference, .. } => (tc::remove_filter(index, *preference), CHANGE),
        Op::SetDcbEts { name, ets } => (dcb::set_ets(name, ets), CHANGE),
        Op::SetDcbPfc { name, pfc } => (dcb::set_pfc(name, *pfc), CHANGE),
        _ => return None,
    })
}

fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn create(name: &LinkName, kind: InfoKind, data: InfoData, parent: Option<u32>) -> RouteNetlinkMessage {
    let mut attributes = vec![
        LinkAttribute::IfName(name.as_str().to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
    ];
    attributes.extend(parent.map(LinkAttribute::Link));
    RouteNetlinkMessage::NewLink(link(0, attributes))
}

fn change(index: u32, kind: InfoKind, data: InfoData) -> RouteNetlinkMessage {
    let info = vec![LinkInfo::Kind(kind), LinkInfo::Data(data)];
    RouteNetlinkMessage::NewLink(link(index, vec![LinkAttribute::LinkInfo(info)]))
}

fn set(index: u32, attribute: LinkAttribute) -> RouteNetlinkMessage {
    RouteNetlinkMessage::SetLink(link(index, vec![attribute]))
}

fn set_flags(index: u32, flags: LinkFlags) -> RouteNetlinkMessage {
    let mut message = link(index, Vec::new());
    message.header.flags = flags;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

fn primary_reselect(reselect: Reselect) -> BondPrimaryReselect {
    match reselect {
        Reselect::Always => BondPrimaryReselect::Always,
        Reselect::Better => BondPrimaryReselect::Better,
        Reselect::Failure => BondPrimaryReselect::Failure,
    }
}

fn bond_mode(mode: BondMode) -> KernelBondMode {
    match mode {
        BondMode::ActiveBackup => ACTIVE_BACKUP.into(),
        BondMode::Other(number) => number.into(),
    }
}

fn filtering(vlan_filtering: bool, default_pvid: Option<VlanId>) -> Vec<InfoBridge> {
    let pvid = default_pvid.map_or(0, VlanId::get);
    vec![InfoBridge::VlanFiltering(vlan_filtering), InfoBridge::VlanDefaultPvid(pvid)]
}

fn qos(map: &BTreeMap<u32, Priority>) -> InfoVlan {
    let mapping = |(from, to): (&u32, &Priority)| VlanQosMapping::Mapping(*from, u32::from(to.get()));
    InfoVlan::EgressQos(map.iter().map(mapping).collect())
}

/// A port's VLANs are its bridge's business (the default), the bridge's own are its own (`BRIDGE_FLAGS_SELF`).
fn bridge_vlan(member: LinkFacts, vlan: VlanId, entry: VlanEntry) -> LinkMessage {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, entry.pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, entry.untagged);
    let mut spec = vec![AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: vlan.get() })];
    if member.is_bridge {
        spec.insert(0, AfSpecBridge::Flags(BridgeFlag::LowerDev));
    }
    let mut message = link(member.index, vec![LinkAttribute::AfSpecBridge(spec)]);
    message.header.interface_family = AddressFamily::Bridge;
    message
}

fn address(index: u32, address: Ipv4Net) -> rtnetlink::packet_route::address::AddressMessage {
    AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(address.addr(), address.prefix_len())
        .build()
}

fn route(index: u32, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: route.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: route.protocol.into(),
        scope: route.scope.into(),
        kind: RouteType::Unicast,
        flags: if route.on_link { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Oif(index)];
    if route.destination.prefix_len() > 0 {
        let to = RouteAddress::Inet(route.destination.network());
        message.attributes.push(RouteAttribute::Destination(to));
    }
    message.attributes.extend(route.gateway.map(|via| RouteAttribute::Gateway(RouteAddress::Inet(via))));
    message.attributes.extend(route.source.map(|from| RouteAttribute::PrefSource(RouteAddress::Inet(from))));
    if route.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::NetlinkPayload;

    fn facts() -> BTreeMap<LinkName, LinkFacts> {
        let link = |name: &str, index, is_bridge| (name.parse().unwrap(), LinkFacts { index, is_bridge });
        BTreeMap::from([link("tw-br", 4, true), link("tw-team", 3, false), link("eth0", 2, false)])
    }

    fn bytes(op: &Op) -> Vec<u8> {
        let mut message = request(op, &facts()).unwrap();
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        buffer
    }

    /// Against the bytes that the kernel's headers ask for.
    #[test]
    fn a_bridge_is_told_about_itself_and_about_its_ports_differently() {
        let vlan = VlanId::try_from(7).unwrap();
        let own = Op::SetBridgeVlan { name: "tw-br".parse().unwrap(), vlan, entry: VlanEntry::TAGGED };
        let port = Op::SetBridgeVlan { name: "tw-team".parse().unwrap(), vlan, entry: VlanEntry::NATIVE };
        // IFLA_AF_SPEC (26), nested (0x8000) or not; IFLA_BRIDGE_FLAGS (0) = 2; IFLA_BRIDGE_VLAN_INFO (2) = flags, vid.
        assert!(bytes(&own).ends_with(&[6, 0, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 0, 0, 7, 0]));
        assert!(bytes(&port).ends_with(&[8, 0, 2, 0, 6, 0, 7, 0]));
        assert_eq!(bytes(&port)[16], 7, "the family is AF_BRIDGE");
    }

    #[test]
    fn a_link_goes_down_by_a_mask_without_the_flag() {
        let down = bytes(&Op::SetDown { name: "eth0".parse().unwrap() });
        assert_eq!(down[20..32], [2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn a_link_that_is_not_there_is_named() {
        let missing = request(&Op::SetUp { name: "eth9".parse().unwrap() }, &facts());
        assert!(matches!(missing, Err(NetlinkError::NoLink(name)) if name.as_str() == "eth9"));
    }

    #[test]
    fn what_one_kind_has_is_changed_by_newlink_without_create() {
        let op = Op::SetMiimon { name: "tw-team".parse().unwrap(), miimon_ms: 100 };
        let message = request(&op, &facts()).unwrap();
        assert_eq!(message.header.flags, CHANGE);
        assert!(matches!(
            message.payload,
            NetlinkPayload::InnerMessage(Message::Route(RouteNetlinkMessage::NewLink(_)))
        ));
    }
}
