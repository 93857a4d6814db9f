//! What the kernel does with an operation: a small model of it, for computing diffs and for the simulated rung.
//!
//! Purpose: the kernel changes more than it is told. A NIC that leaves a bond goes down and gets an old MTU back, a parent
//! that goes down takes its VLAN links along, a bridge follows the smallest MTU of its ports,
//! routes go with the last address. [`apply`] does the same to [`CurrentLinks`], so that a diff can look at the state *between* operations.
//!
//! Invariants: where the model does not know what the kernel will choose (an MTU), it says [`UNKNOWN_MTU`], which equals
//! nothing wanted. Modelled on Linux 6.1: `drivers/net/bonding/bond_main.c`, `net/8021q/vlan.c`, `net/bridge/br_vlan.c`,
//! `net/bridge/br_if.c`; routes on `net/ipv4/fib_frontend.c` and `fib_semantics.c`.
//!
//! On failure: [`Refused`] says what the kernel would object to; nothing has changed then.

mod traffic;

use crate::link::{CurrentLink, CurrentLinks, LinkKind, LinkName, Reselect, Route, VlanEntry};
use crate::op::Op;
use crate::traffic::Traffic;
use model::{Priority, VlanId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// An MTU that the kernel chose and the model can't know.
pub const UNKNOWN_MTU: u32 = 0;

/// The MTU of links that have just been made, except VLAN links (`ETH_DATA_LEN`).
const ETHERNET_MTU: u32 = 1500;

/// Why the kernel would not carry out an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such link.
    #[error("there is no link {0}")]
    NoLink(LinkName),
    /// The name is taken.
    #[error("there is a link {0} already")]
    Exists(LinkName),
    /// The parent has that VLAN already.
    #[error("{parent} has a link for VLAN {vlan} already")]
    VlanTaken {
        /// The link below.
        parent: LinkName,
        /// The VLAN.
        vlan: VlanId,
    },
    /// A bond takes only ports that are down.
    #[error("{0} is up")]
    IsUp(LinkName),
    /// A VLAN link can't be up above a parent that is down.
    #[error("{0} is down")]
    IsDown(LinkName),
    /// A VLAN link's MTU is at most its parent's.
    #[error("{name} stands on {parent}, whose MTU is smaller")]
    MtuAboveParent {
        /// The VLAN link.
        name: LinkName,
        /// The link below.
        parent: LinkName,
    },
    /// The operation is for another kind of link, or for a port.
    #[error("{name} is not {expected}")]
    NotA {
        /// The link.
        name: LinkName,
        /// What it would have to be.
        expected: &'static str,
    },
    /// The address is there already.
    #[error("{0} has that address already")]
    AddressExists(LinkName),
    /// The link has the route already.
    #[error("{0} has that route already")]
    RouteExists(LinkName),
    /// No address or route of the link leads to the gateway.
    #[error("{name} doesn't lead to gateway {gateway}")]
    Unreachable {
        /// The link.
        name: LinkName,
        /// The next hop.
        gateway: Ipv4Addr,
    },
    /// The route's source address is none of this node's.
    #[error("{0} is no address of a link that is up")]
    NoSource(Ipv4Addr),
    /// The kernel tells too little of what was there to make it again. (It isn't the kernel that refuses: nothing can be asked of it.)
    #[error("the kernel does not tell enough of what {0} had to make it again")]
    NotTold(LinkName),
}

/// Carries one operation out on the model.
pub fn apply(state: &mut CurrentLinks, op: &Op) -> Result<(), Refused> {
    match op {
        Op::CreateBond { name, mode, miimon_ms } => create(
            state,
            name,
            LinkKind::Bond { mode: *mode, miimon_ms: *miimon_ms, primary: None, reselect: Reselect::Always },
            ETHERNET_MTU,
        ),
        Op::CreateBridge { name, vlan_filtering, default_pvid } => {
            let kind = LinkKind::Bridge { vlan_filtering: *vlan_filtering, default_pvid: *default_pvid };
            create(state, name, kind, ETHERNET_MTU)?;
            link_mut(state, name)?.bridge_vlans.extend(default_pvid.map(|vlan| (vlan, VlanEntry::NATIVE)));
            Ok(())
        }
        Op::CreateVlan { name, parent, vlan, egress_qos } => {
            create_vlan(state, name, parent, *vlan, egress_qos)
        }
        Op::Delete { name } => delete(state, name),
        Op::SetMtu { name, mtu_bytes } => set_mtu(state, name, *mtu_bytes),
        Op::SetUp { name } => set_up(state, name),
        Op::SetDown { name } => set_down(state, name),
        Op::Join { name, master } => join(state, name, master),
        Op::Leave { name } => leave(state, name),
        Op::SetMiimon { name, miimon_ms } => match &mut link_mut(state, name)?.kind {
            LinkKind::Bond { miimon_ms: current, .. } => {
                *current = *miimon_ms;
                Ok(())
            }
            _ => Err(Refused::NotA { name: name.clone(), expected: "a bond" }),
        },
        Op::SetPrimary { name, port } => set_primary(state, name, port.as_ref()),
        Op::SetReselect { name, reselect } => set_reselect(state, name, *reselect),
        Op::SetFiltering { name, vlan_filtering, default_pvid } => {
            set_filtering(state, name, *vlan_filtering, *default_pvid)
        }
        Op::SetEgressQos { name, egress_qos } => set_egress_qos(state, name, egress_qos),
        Op::SetBridgeVlan { name, vlan, entry } => set_bridge_vlan(state, name, *vlan, *entry),
        Op::RemoveBridgeVlan { name, vlan } => {
            link_mut(state, name)?.bridge_vlans.remove(vlan);
            Ok(())
        }
        Op::AddAddress { name, address } => {
            if link_mut(state, name)?.addresses.insert(*address) {
                return Ok(());
            }
            Err(Refused::AddressExists(name.clone()))
        }
        Op::RemoveAddress { name, address } => {
            link_mut(state, name)?.addresses.remove(address);
            drop_routes(state, name, &[address.addr()])
        }
        Op::AddRoute { name, route } => add_route(state, name, route),
        Op::RemoveRoute { name, route } => {
            link_mut(state, name)?.routes.remove(route);
            Ok(())
        }
        Op::SetIpv6LinkLocal { name, enabled } => {
            link_mut(state, name)?.ipv6_link_local = Some(*enabled);
            Ok(())
        }
        Op::SetQueue { name, queue } => traffic::set_queue(state, name, queue),
        Op::AddClassifier { name } => traffic::add_classifier(state, name),
        Op::RemoveClassifier { name } => traffic::remove_classifier(state, name),
        Op::AddFilter { name, preference, filter } => traffic::add_filter(state, name, *preference, filter),
        Op::RemoveFilter { name, preference } => traffic::remove_filter(state, name, *preference),
        Op::SetDcbEts { name, ets } => traffic::set_dcb_ets(state, name, ets),
        Op::SetDcbPfc { name, pfc } => traffic::set_dcb_pfc(state, name, *pfc),
    }
}

fn link_mut<'a>(state: &'a mut CurrentLinks, name: &LinkName) -> Result<&'a mut CurrentLink, Refused> {
    state.links.get_mut(name).ok_or_else(|| Refused::NoLink(name.clone()))
}

fn link<'a>(state: &'a CurrentLinks, name: &LinkName) -> Result<&'a CurrentLink, Refused> {
    state.get(name).ok_or_else(|| Refused::NoLink(name.clone()))
}

fn create(state: &mut CurrentLinks, name: &LinkName, kind: LinkKind, mtu_bytes: u32) -> Result<(), Refused> {
    if state.get(name).is_some() {
        return Err(Refused::Exists(name.clone()));
    }
    let has_ipv6 = state.links.values().any(|link| link.ipv6_link_local.is_some());
    let new = CurrentLink {
        index: state.links.values().map(|link| link.index).max().unwrap_or(0) + 1,
        kind,
        mac: None,
        permanent_mac: None,
        up: false,
        carrier: None,
        mtu_bytes,
        master: None,
        addresses: BTreeSet::new(),
        bridge_vlans: BTreeMap::new(),
        ipv6_link_local: has_ipv6.then_some(true),
        routes: BTreeSet::new(),
        traffic: Traffic::default(),
    };
    state.links.insert(name.clone(), new);
    Ok(())
}

fn create_vlan(
    state: &mut CurrentLinks,
    name: &LinkName,
    parent: &LinkName,
    vlan: VlanId,
    egress_qos: &BTreeMap<u32, Priority>,
) -> Result<(), Refused> {
    let mtu_bytes = link(state, parent)?.mtu_bytes;
    let same = |kind: &LinkKind| matches!(kind, LinkKind::Vlan { parent: p, vlan: v, .. } if p == parent && *v == vlan);
    if state.links.values().any(|link| same(&link.kind)) {
        return Err(Refused::VlanTaken { parent: parent.clone(), vlan });
    }
    let mut mapped = egress_qos.clone();
    mapped.retain(|_, code_point| code_point.get() != 0);
    create(state, name, LinkKind::Vlan { parent: parent.clone(), vlan, egress_qos: mapped }, mtu_bytes)
}

/// The VLAN links that stand on a link.
fn children(state: &CurrentLinks, parent: &LinkName) -> Vec<LinkName> {
    let stands_on = |kind: &LinkKind| matches!(kind, LinkKind::Vlan { parent: p, .. } if p == parent);
    state.links.iter().filter(|(_, link)| stands_on(&link.kind)).map(|(name, _)| name.clone()).collect()
}

fn delete(state: &mut CurrentLinks, name: &LinkName) -> Result<(), Refused> {
    link(state, name)?;
    for port in state.ports(name).cloned().collect::<Vec<_>>() {
        leave(state, &port)?;
    }
    for child in children(state, name) {
        delete(state, &child)?;
    }
    if link(state, name)?.master.is_some() {
        leave(state, name)?;
    }
    let addresses: Vec<_> = link(state, name)?.addresses.iter().map(ipnet::Ipv4Net::addr).collect();
    link_mut(state, name)?.addresses.clear();
    drop_routes(state, name, &addresses)?;
    state.links.remove(name);
    Ok(())
}

/// `bond_change_mtu` sets the ports first; `vlan_device_event` lowers VLAN links above; `br_mtu_auto_adjust` follows ports.
fn set_mtu(state: &mut CurrentLinks, name: &LinkName, mtu_bytes: u32) -> Result<(), Refused> {
    takes_mtu(state, name, mtu_bytes)?;
    if matches!(link(state, name)?.kind, LinkKind::Bond { .. }) {
        let ports: Vec<LinkName> = state.ports(name).cloned().collect();
        // One port that can't have it, and the bond and all its ports keep theirs.
        ports.iter().try_for_each(|port| takes_mtu(state, port, mtu_bytes))?;
        for port in ports {
            force_mtu(state, &port, mtu_bytes);
        }
    }
    force_mtu(state, name, mtu_bytes);
    Ok(())
}

/// `vlan_dev_change_mtu`: a VLAN link's MTU is at most that of the link below.
fn takes_mtu(state: &CurrentLinks, name: &LinkName, mtu_bytes: u32) -> Result<(), Refused> {
    match &link(state, name)?.kind {
        LinkKind::Vlan { parent, .. } if link(state, parent)?.mtu_bytes < mtu_bytes => {
            Err(Refused::MtuAboveParent { name: name.clone(), parent: parent.clone() })
        }
        _ => Ok(()),
    }
}

/// Sets an MTU and lets what stands above follow. Links stand above each other without circles, so this ends.
fn force_mtu(state: &mut CurrentLinks, name: &LinkName, mtu_bytes: u32) {
    let Some(link) = state.links.get_mut(name) else { return };
    link.mtu_bytes = mtu_bytes;
    let master = link.master.clone();
    for child in children(state, name) {
        if state.get(&child).is_some_and(|above| above.mtu_bytes > mtu_bytes) {
            force_mtu(state, &child, mtu_bytes);
        }
    }
    if let Some(master) = master {
        bridge_mtu_floats(state, &master);
    }
}

/// A bridge whose ports changed has an MTU that depends on who set it when.
fn bridge_mtu_floats(state: &mut CurrentLinks, master: &LinkName) {
    if matches!(state.get(master), Some(CurrentLink { kind: LinkKind::Bridge { .. }, .. })) {
        force_mtu(state, master, UNKNOWN_MTU);
    }
}

fn set_up(state: &mut CurrentLinks, name: &LinkName) -> Result<(), Refused> {
    if let LinkKind::Vlan { parent, .. } = &link(state, name)?.kind
        && !link(state, parent)?.up
    {
        return Err(Refused::IsDown(parent.clone()));
    }
    link_mut(state, name)?.up = true;
    // vlan_device_event, NETDEV_UP: VLAN links without loose binding follow.
    for child in children(state, name) {
        set_up(state, &child)?;
    }
    Ok(())
}

fn set_down(state: &mut CurrentLinks, name: &LinkName) -> Result<(), Refused> {
    let link = link_mut(state, name)?;
    link.up = false;
    // fib_netdev_event, NETDEV_DOWN: fib_disable_ip.
    link.routes.clear();
    for child in children(state, name) {
        set_down(state, &child)?;
    }
    Ok(())
}

/// Whether a link is the other one, or above it: such a one can't be its port (`__netdev_upper_dev_link`, net/core/dev.c).
fn stands_on(state: &CurrentLinks, name: &LinkName, below: &LinkName) -> bool {
    let parent = match state.get(name).map(|link| &link.kind) {
        Some(LinkKind::Vlan { parent, .. }) => Some(parent),
        _ => None,
    };
    name == below || parent.into_iter().chain(state.ports(name)).any(|next| stands_on(state, next, below))
}

fn join(state: &mut CurrentLinks, name: &LinkName, master: &LinkName) -> Result<(), Refused> {
    let (port, above) = (link(state, name)?, link(state, master)?);
    if port.master.is_some() {
        return Err(Refused::NotA { name: name.clone(), expected: "free" });
    }
    if stands_on(state, name, master) {
        return Err(Refused::NotA { name: name.clone(), expected: "free of its master" });
    }
    match above.kind.clone() {
        // bond_enslave: refuses a port that is up, gives it the bond's MTU, opens it. What fails there is undone.
        LinkKind::Bond { .. } if port.up => Err(Refused::IsUp(name.clone())),
        LinkKind::Bond { .. } => {
            let mtu_bytes = above.mtu_bytes;
            takes_mtu(state, name, mtu_bytes)?;
            if let LinkKind::Vlan { parent, .. } = &port.kind
                && !link(state, parent)?.up
            {
                return Err(Refused::IsDown(parent.clone()));
            }
            link_mut(state, name)?.master = Some(master.clone());
            force_mtu(state, name, mtu_bytes);
            set_up(state, name)
        }
        // br_add_if: no bridge below a bridge.
        LinkKind::Bridge { .. } if matches!(port.kind, LinkKind::Bridge { .. }) => {
            Err(Refused::NotA { name: name.clone(), expected: "something that can be a bridge's port" })
        }
        LinkKind::Bridge { default_pvid, .. } => {
            let port = link_mut(state, name)?;
            port.master = Some(master.clone());
            port.bridge_vlans = default_pvid.map(|vlan| (vlan, VlanEntry::NATIVE)).into_iter().collect();
            bridge_mtu_floats(state, master);
            Ok(())
        }
        LinkKind::Other(_) => {
            link_mut(state, name)?.master = Some(master.clone());
            Ok(())
        }
        LinkKind::Nic | LinkKind::Vlan { .. } => {
            Err(Refused::NotA { name: master.clone(), expected: "a bond or bridge" })
        }
    }
}

fn leave(state: &mut CurrentLinks, name: &LinkName) -> Result<(), Refused> {
    let Some(master) = link_mut(state, name)?.master.take() else {
        return Err(Refused::NotA { name: name.clone(), expected: "a port" });
    };
    link_mut(state, name)?.bridge_vlans.clear();
    match &mut link_mut(state, &master)?.kind {
        // __bond_release_one: closes the port and gives it back the MTU that it came with.
        LinkKind::Bond { primary, .. } => {
            primary.take_if(|primary| primary == name);
            set_down(state, name)?;
            force_mtu(state, name, UNKNOWN_MTU);
        }
        _ => bridge_mtu_floats(state, &master),
    }
    Ok(())
}

fn set_reselect(state: &mut CurrentLinks, name: &LinkName, to: Reselect) -> Result<(), Refused> {
    match &mut link_mut(state, name)?.kind {
        LinkKind::Bond { reselect, .. } => {
            *reselect = to;
            Ok(())
        }
        _ => Err(Refused::NotA { name: name.clone(), expected: "a bond" }),
    }
}

fn set_primary(state: &mut CurrentLinks, name: &LinkName, port: Option<&LinkName>) -> Result<(), Refused> {
    if let Some(port) = port
        && link(state, port)?.master.as_ref() != Some(name)
    {
        return Err(Refused::NotA { name: port.clone(), expected: "a port of that bond" });
    }
    match &mut link_mut(state, name)?.kind {
        LinkKind::Bond { primary, .. } => {
            *primary = port.cloned();
            Ok(())
        }
        _ => Err(Refused::NotA { name: name.clone(), expected: "a bond" }),
    }
}

/// `__br_vlan_set_default_pvid`: the old default goes from the bridge and its ports where nobody changed it, the new comes.
fn set_filtering(
    state: &mut CurrentLinks,
    name: &LinkName,
    filtering: bool,
    pvid: Option<VlanId>,
) -> Result<(), Refused> {
    let LinkKind::Bridge { vlan_filtering, default_pvid } = &mut link_mut(state, name)?.kind else {
        return Err(Refused::NotA { name: name.clone(), expected: "a bridge" });
    };
    *vlan_filtering = filtering;
    let old = std::mem::replace(default_pvid, pvid);
    if old == pvid {
        return Ok(());
    }
    let ports = state.ports(name).cloned();
    for member in ports.chain([name.clone()]).collect::<Vec<_>>() {
        let vlans = &mut link_mut(state, &member)?.bridge_vlans;
        if let Some(old) = old
            && vlans.get(&old) == Some(&VlanEntry::NATIVE)
        {
            vlans.remove(&old);
        }
        if let Some(new) = pvid {
            for other in vlans.values_mut() {
                other.pvid = false;
            }
            vlans.insert(new, VlanEntry::NATIVE);
        }
    }
    Ok(())
}

fn set_egress_qos(
    state: &mut CurrentLinks,
    name: &LinkName,
    change: &BTreeMap<u32, Priority>,
) -> Result<(), Refused> {
    match &mut link_mut(state, name)?.kind {
        LinkKind::Vlan { egress_qos, .. } => {
            egress_qos.extend(change);
            egress_qos.retain(|_, code_point| code_point.get() != 0);
            Ok(())
        }
        _ => Err(Refused::NotA { name: name.clone(), expected: "a VLAN link" }),
    }
}

fn set_bridge_vlan(
    state: &mut CurrentLinks,
    name: &LinkName,
    vlan: VlanId,
    entry: VlanEntry,
) -> Result<(), Refused> {
    let member = link(state, name)?;
    let of = member.master.as_ref().unwrap_or(name);
    if !matches!(link(state, of)?.kind, LinkKind::Bridge { .. }) {
        return Err(Refused::NotA { name: name.clone(), expected: "a bridge or one of its ports" });
    }
    let vlans = &mut link_mut(state, name)?.bridge_vlans;
    if entry.pvid {
        for other in vlans.values_mut() {
            other.pvid = false;
        }
    }
    vlans.insert(vlan, entry);
    Ok(())
}

/// `fib_check_nh`: a route's link is up, its gateway on the wire, its source address one of ours.
fn add_route(state: &mut CurrentLinks, name: &LinkName, route: &Route) -> Result<(), Refused> {
    let link = link(state, name)?;
    if !link.up {
        return Err(Refused::IsDown(name.clone()));
    }
    if let Some(gateway) = route.gateway
        && !route.on_link
        && !reaches(link, gateway)
    {
        return Err(Refused::Unreachable { name: name.clone(), gateway });
    }
    if let Some(source) = route.source
        && !state.links.values().any(|link| link.up && has_address(link, source))
    {
        return Err(Refused::NoSource(source));
    }
    if link_mut(state, name)?.routes.insert(route.clone()) {
        return Ok(());
    }
    Err(Refused::RouteExists(name.clone()))
}

/// Whether a gateway is on the wire of a link: in the subnet of an address, or where a route without gateway leads.
pub fn reaches(link: &CurrentLink, gateway: Ipv4Addr) -> bool {
    let by_route = |route: &Route| route.gateway.is_none() && route.destination.contains(&gateway);
    link.addresses.iter().any(|address| address.contains(&gateway)) || link.routes.iter().any(by_route)
}

fn has_address(link: &CurrentLink, wanted: Ipv4Addr) -> bool {
    link.addresses.iter().any(|address| address.addr() == wanted)
}

/// `fib_inetaddr_event`, `NETDEV_DOWN`: with a link's last address all its routes go; with an address, the routes that have it
/// as their source, through whichever link (`fib_sync_down_addr`). Routes to a gateway that nothing reaches any more stay.
fn drop_routes(state: &mut CurrentLinks, name: &LinkName, gone: &[Ipv4Addr]) -> Result<(), Refused> {
    let link = link_mut(state, name)?;
    if link.addresses.is_empty() {
        link.routes.clear();
    }
    for address in gone {
        if !state.links.values().any(|link| has_address(link, *address)) {
            for link in state.links.values_mut() {
                link.routes.retain(|route| route.source != Some(*address));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "simulate_tests.rs"]
mod tests;
