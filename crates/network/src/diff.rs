//! From what the kernel has to what it shall have: an ordered list of operations.
//!
//! Purpose: [`diff`] for a plan, [`revert`](crate::revert) for the way back, both by [`steps`].
//!
//! How: every operation is carried out on a model of the kernel ([`simulate`]) the moment it is chosen, and the next
//! one is chosen by looking at the model. So what the kernel does by itself (a NIC that leaves a bond goes down) is seen
//! and repaired in the same list, and an operation that the kernel would refuse is found here and not half-way.
//!
//! Order: unwanted links go, unwanted addresses and masters go, then from below: bonds, bridges, NICs with their masters,
//! MTU, up; VLAN links; routes last. The list is empty when there is nothing to do.
//!
//! Routes are nobody's wish, but the kernel drops them when links go down or lose addresses. What the way costs is given
//! back at its end: to the same link, or, where that has no such address any more, to the link of the plan that has the
//! gateway's subnet now (so a default route moves from a NIC to the management link above the team). Where neither can take it, it
//! is lost until the way back.
//!
//! Invariants: only links of the plan and links that are ours ([`is_made_by_us`]) are touched. Exceptions: what isn't in the
//! plan and is a port of a bond in it leaves that bond; routes of other links are given back to them; and what the
//! kernel did to other links with ours is undone on the way back ([`crate::way_back`]).
//!
//! **Not held: IPv6.** A NIC that goes down loses its static global IPv6 addresses and all its IPv6 routes (`addrconf_ifdown`,
//! net/ipv6/addrconf.c). They are not observed and not given back: a node that is managed over IPv6 is cut off by a plan that
//! names that NIC, and stays so.
//!
//! On failure: a [`DiffError`]; no list.

mod traffic;

pub(crate) use traffic::{same_ets, same_pfc};

use crate::link::{
    AdapterMap, CurrentLink, CurrentLinks, DesiredLink, DesiredLinks, LinkKind, LinkName, Route,
    is_made_by_us,
};
use crate::op::Op;
use crate::plan::{NetworkPlan, ResolveError};
use crate::simulate::{self, Refused};
use model::Priority;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Why there is no list of operations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// The plan does not fit this node's NICs.
    #[error("the plan does not fit the node's NICs")]
    Resolve(#[from] ResolveError),
    /// A link has the name of one of ours and is something else.
    #[error("{name} is wanted as a {wanted}, but there is a link of that name which is a {found}")]
    NameTaken {
        /// The name.
        name: LinkName,
        /// What is wanted.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// A link that must be there is gone, and it is none that can be made.
    #[error("{name} is gone, and a {kind} can't be made")]
    CannotCreate {
        /// The link.
        name: LinkName,
        /// What it was.
        kind: String,
    },
    /// The way leads through a state that the kernel refuses. The desired state contradicts itself.
    #[error("the kernel would refuse to {op}")]
    Refused {
        /// The operation.
        op: Box<Op>,
        /// Why.
        #[source]
        source: Refused,
    },
}

/// The operations that lead to a plan on a node with these adapters.
pub fn diff(current: &CurrentLinks, plan: &NetworkPlan, adapters: &AdapterMap) -> Result<Vec<Op>, DiffError> {
    steps(current, &plan.resolve(adapters, current)?, current)
}

/// The operations that lead from one state to another. Routes of `keep` don't get lost on the way where the links can have them.
pub fn steps(
    current: &CurrentLinks,
    desired: &DesiredLinks,
    keep: &CurrentLinks,
) -> Result<Vec<Op>, DiffError> {
    let mut planner = Planner { state: current.clone(), desired, ops: Vec::new(), last: Vec::new() };
    planner.delete_unwanted()?;
    planner.strip()?;
    planner.prepare_masters()?;
    let mut from_below: Vec<_> = desired.links.iter().collect();
    from_below.sort_by_key(|(name, wanted)| (Rank::of(&wanted.kind) as u8, depth(desired, name)));
    // Twice: a VLAN link that is a bridge's port changes the MTU of what stands on the bridge after that was settled.
    for (name, wanted) in from_below.iter().chain(&from_below) {
        planner.settle(name, wanted)?;
    }
    planner.settle_routes(keep)?;
    planner.ops.append(&mut planner.last);
    Ok(planner.ops)
}

/// How many VLAN links of those that are wanted stand below this one. Bounded: what a kernel reports could be nonsense.
fn depth(desired: &DesiredLinks, name: &LinkName) -> usize {
    let below = |name: &&LinkName| match &desired.links.get(*name)?.kind {
        LinkKind::Vlan { parent, .. } => Some(parent),
        _ => None,
    };
    std::iter::successors(Some(name), below).take(desired.links.len()).count()
}

/// From below: what stands on what.
#[derive(Clone, Copy)]
enum Rank {
    Nic,
    Bond,
    Bridge,
    Vlan,
}

impl Rank {
    fn of(kind: &LinkKind) -> Self {
        match kind {
            LinkKind::Nic | LinkKind::Other(_) => Self::Nic,
            LinkKind::Bond { .. } => Self::Bond,
            LinkKind::Bridge { .. } => Self::Bridge,
            LinkKind::Vlan { .. } => Self::Vlan,
        }
    }
}

struct Planner<'a> {
    state: CurrentLinks,
    desired: &'a DesiredLinks,
    ops: Vec<Op>,
    /// What the model says that the kernel would refuse, and what must neither stop the rest nor be left out without a word:
    /// it is tried when all else is done.
    last: Vec<Op>,
}

impl Planner<'_> {
    fn emit(&mut self, op: Op) -> Result<(), DiffError> {
        match simulate::apply(&mut self.state, &op) {
            Ok(()) => {
                self.ops.push(op);
                Ok(())
            }
            Err(source) => Err(DiffError::Refused { op: Box::new(op), source }),
        }
    }

    /// The same for a link that may be a VLAN link of others, with flags that the model doesn't know (a loose binding).
    fn emit_or_last(&mut self, op: Op, name: &LinkName) -> Result<(), DiffError> {
        match self.emit(op.clone()) {
            Err(_) if is_foreign_vlan(name, &self.state.links[name].kind) => {
                if !self.last.contains(&op) {
                    self.last.push(op);
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Ours that nobody wants, or that are wanted as something which can't be changed into: VLAN links first.
    fn delete_unwanted(&mut self) -> Result<(), DiffError> {
        let mut unwanted: Vec<(u8, LinkName)> = Vec::new();
        for (name, link) in &self.state.links {
            let wanted = self.desired.links.get(name);
            let fits = wanted.is_some_and(|wanted| can_become(&link.kind, &wanted.kind));
            if is_made_by_us(name, &link.kind) && !fits {
                unwanted.push((Rank::of(&link.kind) as u8, name.clone()));
            } else if let Some(wanted) = wanted
                && !fits
            {
                let (wanted, found) = (word(&wanted.kind).to_owned(), word(&link.kind).to_owned());
                return Err(DiffError::NameTaken { name: name.clone(), wanted, found });
            }
        }
        unwanted.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        for (_, name) in unwanted {
            // A VLAN link has gone with its parent where that came first.
            if self.state.get(&name).is_some() {
                self.emit(Op::Delete { name })?;
            }
        }
        Ok(())
    }

    /// Addresses and masters that links of the plan shall not have.
    fn strip(&mut self) -> Result<(), DiffError> {
        for (name, wanted) in &self.desired.links {
            let Some(link) = self.state.get(name) else { continue };
            // The kernel takes secondary addresses away with the primary of their subnet, so those go and come back.
            let stale: Vec<_> = link.addresses.difference(&wanted.addresses).copied().collect();
            let shares = |address: &&ipnet::Ipv4Net| stale.iter().any(|gone| gone.trunc() == address.trunc());
            let doomed: Vec<_> = link.addresses.iter().filter(shares).copied().collect();
            for address in doomed {
                self.emit(Op::RemoveAddress { name: name.clone(), address })?;
            }
        }
        let bond = |name: &LinkName| {
            self.desired.links.get(name).is_some_and(|link| matches!(link.kind, LinkKind::Bond { .. }))
        };
        let leaving: Vec<LinkName> = self
            .state
            .links
            .iter()
            .filter(|(name, link)| match (&link.master, self.desired.links.get(name)) {
                (Some(master), Some(wanted)) => wanted.master.as_ref() != Some(master),
                (Some(master), None) => bond(master),
                (None, _) => false,
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in leaving {
            self.emit(Op::Leave { name })?;
        }
        Ok(())
    }

    /// Bonds and bridges come before their ports, and a bond gives its ports its MTU.
    fn prepare_masters(&mut self) -> Result<(), DiffError> {
        for (name, wanted) in &self.desired.links {
            if matches!(wanted.kind, LinkKind::Bond { .. } | LinkKind::Bridge { .. }) {
                self.create(name, wanted)?;
            }
            match wanted.kind {
                LinkKind::Bond { .. } => self.settle_mtu(name, wanted)?,
                // A change of the default VLAN reaches into the ports, so it comes before theirs are settled.
                LinkKind::Bridge { .. } => self.settle_kind(name, wanted)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes one link as it shall be, when everything below it is.
    fn settle(&mut self, name: &LinkName, wanted: &DesiredLink) -> Result<(), DiffError> {
        self.create(name, wanted)?;
        self.settle_kind(name, wanted)?;
        if let (Some(current), Some(enabled)) =
            (self.state.links[name].ipv6_link_local, wanted.ipv6_link_local)
            && current != enabled
        {
            self.emit(Op::SetIpv6LinkLocal { name: name.clone(), enabled })?;
        }
        self.settle_traffic(name, wanted)?;
        if let Some(master) = &wanted.master
            && self.state.links[name].master.is_none()
        {
            let into_bond =
                self.state.get(master).is_some_and(|master| matches!(master.kind, LinkKind::Bond { .. }));
            if into_bond && self.state.links[name].up {
                self.emit(Op::SetDown { name: name.clone() })?;
            }
            self.emit_or_last(Op::Join { name: name.clone(), master: master.clone() }, name)?;
        }
        self.settle_mtu(name, wanted)?;
        if let (LinkKind::Vlan { .. }, Some(master)) = (&wanted.kind, &wanted.master)
            && let Some(bridge) = self.desired.links.get(master)
        {
            self.settle_mtu(master, bridge)?;
        }
        match (self.state.links[name].up, wanted.up) {
            (false, true) => self.emit_or_last(Op::SetUp { name: name.clone() }, name)?,
            (true, false) => self.emit_or_last(Op::SetDown { name: name.clone() }, name)?,
            _ => {}
        }
        self.settle_bridge_vlans(name, wanted)?;
        let missing: Vec<_> =
            wanted.addresses.difference(&self.state.links[name].addresses).copied().collect();
        for address in missing {
            self.emit(Op::AddAddress { name: name.clone(), address })?;
        }
        Ok(())
    }

    fn create(&mut self, name: &LinkName, wanted: &DesiredLink) -> Result<(), DiffError> {
        if self.state.get(name).is_some() {
            return Ok(());
        }
        let name = name.clone();
        self.emit(match wanted.kind.clone() {
            LinkKind::Bond { mode, miimon_ms, .. } => Op::CreateBond { name, mode, miimon_ms },
            LinkKind::Bridge { vlan_filtering, default_pvid } => {
                Op::CreateBridge { name, vlan_filtering, default_pvid }
            }
            LinkKind::Vlan { parent, vlan, egress_qos } => Op::CreateVlan { name, parent, vlan, egress_qos },
            kind @ (LinkKind::Nic | LinkKind::Other(_)) => {
                return Err(DiffError::CannotCreate { name, kind: word(&kind).to_owned() });
            }
        })
    }

    fn settle_mtu(&mut self, name: &LinkName, wanted: &DesiredLink) -> Result<(), DiffError> {
        if self.state.links[name].mtu_bytes == wanted.mtu_bytes {
            return Ok(());
        }
        self.emit_or_last(Op::SetMtu { name: name.clone(), mtu_bytes: wanted.mtu_bytes }, name)
    }

    /// What only this kind of link has.
    fn settle_kind(&mut self, name: &LinkName, wanted: &DesiredLink) -> Result<(), DiffError> {
        let name = name.clone();
        match (self.state.links[&name].kind.clone(), wanted.kind.clone()) {
            (
                LinkKind::Bond { miimon_ms: had, primary: old, reselect: was, .. },
                LinkKind::Bond { miimon_ms, primary: port, reselect, .. },
            ) => {
                if had != miimon_ms {
                    self.emit(Op::SetMiimon { name: name.clone(), miimon_ms })?;
                }
                if was != reselect {
                    self.emit(Op::SetReselect { name: name.clone(), reselect })?;
                }
                if old != port {
                    self.emit(Op::SetPrimary { name, port })?;
                }
            }
            (current @ LinkKind::Bridge { .. }, LinkKind::Bridge { vlan_filtering, default_pvid })
                if current != wanted.kind =>
            {
                self.emit(Op::SetFiltering { name, vlan_filtering, default_pvid })?;
            }
            (LinkKind::Vlan { egress_qos: current, .. }, LinkKind::Vlan { egress_qos, .. }) => {
                let change = qos_change(&current, &egress_qos);
                if !change.is_empty() {
                    self.emit(Op::SetEgressQos { name, egress_qos: change })?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn settle_bridge_vlans(&mut self, name: &LinkName, wanted: &DesiredLink) -> Result<(), DiffError> {
        let current = self.state.links[name].bridge_vlans.clone();
        for vlan in current.keys().filter(|vlan| !wanted.bridge_vlans.contains_key(vlan)) {
            self.emit(Op::RemoveBridgeVlan { name: name.clone(), vlan: *vlan })?;
        }
        for (vlan, entry) in &wanted.bridge_vlans {
            if self.state.links[name].bridge_vlans.get(vlan) != Some(entry) {
                self.emit(Op::SetBridgeVlan { name: name.clone(), vlan: *vlan, entry: *entry })?;
            }
        }
        Ok(())
    }
}

/// Routes, when all links have their addresses. Those without gateway come first: they may lead to a gateway.
impl Planner<'_> {
    fn settle_routes(&mut self, keep: &CurrentLinks) -> Result<(), DiffError> {
        for (name, wanted) in &self.desired.links {
            let Some(wanted) = &wanted.routes else { continue };
            let unwanted: Vec<_> = self.state.links[name].routes.difference(wanted).cloned().collect();
            for route in unwanted {
                self.emit(Op::RemoveRoute { name: name.clone(), route })?;
            }
        }
        for behind_gateway in [false, true] {
            let of_phase = |route: &&Route| route.gateway.is_some() == behind_gateway;
            for (name, wanted) in &self.desired.links {
                for route in wanted.routes.iter().flatten().filter(of_phase) {
                    // The kernel keeps routes that it would not take anew (their gateway's subnet is gone).
                    if !self.state.links[name].routes.contains(route) && self.add_route(name, route).is_err()
                    {
                        self.last.push(Op::AddRoute { name: name.clone(), route: route.clone() });
                    }
                }
            }
            for (name, link) in &keep.links {
                let exact = self.desired.links.get(name).is_some_and(|wanted| wanted.routes.is_some());
                for route in link.routes.iter().filter(of_phase).filter(|_| !exact) {
                    self.keep_route(name, link, route);
                }
            }
        }
        Ok(())
    }

    /// Gives a route back that the way has cost, to the link that can have it.
    fn keep_route(&mut self, name: &LinkName, before: &CurrentLink, route: &Route) {
        if self.state.get(name).is_some_and(|link| link.routes.contains(route)) {
            return;
        }
        // The routes of what has become a port lead nowhere: what it hears goes to its master. What was one keeps them.
        let is_free = |link: &&CurrentLink| link.master.is_none() || link.master == before.master;
        let own = self.state.get(name).filter(is_free).map(|_| name);
        let heir = |name: &&LinkName| {
            let takes = |gateway| self.state.links[*name].addresses.iter().any(|net| net.contains(&gateway));
            let wanted = &self.desired.links[*name];
            let free = wanted.routes.is_none() && !is_foreign_vlan(name, &wanted.kind);
            free && !route.on_link && route.gateway.is_some_and(takes)
        };
        let heirs: Vec<_> = own.into_iter().chain(self.desired.links.keys().find(heir)).cloned().collect();
        for name in heirs {
            if self.add_route(&name, route).is_ok() {
                return;
            }
        }
    }

    /// Adds a route. The kernel keeps one whose source address is on a link that went down, and takes it anew only while
    /// that link is up; so a link of the plan that shall be down is up for that long.
    fn add_route(&mut self, name: &LinkName, route: &Route) -> Result<(), DiffError> {
        let add = Op::AddRoute { name: name.clone(), route: route.clone() };
        let done = self.emit(add.clone());
        let Err(DiffError::Refused { source: Refused::NoSource(source), .. }) = &done else { return done };
        let Some(link) = self.sleeping(*source) else { return done };
        let awake = [Op::SetUp { name: link.clone() }, add, Op::SetDown { name: link }];
        let mut trial = self.state.clone();
        if awake.iter().any(|op| simulate::apply(&mut trial, op).is_err()) {
            return done;
        }
        awake.into_iter().try_for_each(|op| self.emit(op))
    }

    /// What would have to be up for a link of the plan that has this address to be up: the lowest one below it that is down.
    fn sleeping(&self, address: Ipv4Addr) -> Option<LinkName> {
        let has =
            |name: &&LinkName| self.state.links[*name].addresses.iter().any(|net| net.addr() == address);
        let is_down = |name: &LinkName| self.state.get(name).is_some_and(|link| !link.up);
        let below = |name: &&LinkName| match &self.state.get(name)?.kind {
            LinkKind::Vlan { parent, .. } => self.state.links.get_key_value(parent).map(|(name, _)| name),
            _ => None,
        };
        let link = self.desired.links.keys().find(has)?;
        let chain = std::iter::successors(Some(link), below).take(self.state.links.len());
        let lowest = chain.take_while(|name| is_down(name)).last()?;
        self.desired.links.contains_key(lowest).then(|| lowest.clone())
    }
}

/// What to change in a map of priorities; 0 takes a mapping away.
fn qos_change(
    current: &BTreeMap<u32, Priority>,
    wanted: &BTreeMap<u32, Priority>,
) -> BTreeMap<u32, Priority> {
    let gone =
        current.keys().filter(|from| !wanted.contains_key(from)).map(|from| (*from, Priority::DEFAULT));
    let new =
        wanted.iter().filter(|(from, to)| current.get(from).copied().unwrap_or(Priority::DEFAULT) != **to);
    gone.chain(new.map(|(from, to)| (*from, *to))).collect()
}

/// Whether a link can be changed into another kind without making it anew.
pub(crate) fn can_become(current: &LinkKind, wanted: &LinkKind) -> bool {
    match (current, wanted) {
        (LinkKind::Bond { mode: a, .. }, LinkKind::Bond { mode: b, .. }) => a == b,
        (LinkKind::Vlan { parent: a, vlan: v, .. }, LinkKind::Vlan { parent: b, vlan: w, .. }) => {
            a == b && v == w
        }
        (LinkKind::Bridge { .. }, LinkKind::Bridge { .. }) | (LinkKind::Nic, LinkKind::Nic) => true,
        (LinkKind::Other(a), LinkKind::Other(b)) => a == b,
        _ => false,
    }
}

fn is_foreign_vlan(name: &LinkName, kind: &LinkKind) -> bool {
    matches!(kind, LinkKind::Vlan { .. }) && !name.is_ours()
}

pub(crate) fn word(kind: &LinkKind) -> &str {
    match kind {
        LinkKind::Nic => "NIC",
        LinkKind::Bond { .. } => "bond",
        LinkKind::Bridge { .. } => "bridge",
        LinkKind::Vlan { .. } => "VLAN link",
        LinkKind::Other(kind) => kind,
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "drift_tests.rs"]
mod drift_tests;
