//! The way back: from whatever is there now to what was observed before a plan.
//!
//! How: NICs are known by their permanent MAC addresses where they have one, so one that got another name meanwhile is given
//! back under that name. What is gone and can't be made (a NIC that was pulled or whose driver failed, with what
//! stood on it) is left out and named; all the rest is given back as if it had never been there.
//!
//! Invariants: one link that is gone never stops the way back of the others. While anything that the plan touched is gone,
//! the way back has not ended well: [`WayBack::left`] says so even if no operation is left.
//!
//! On failure: a [`DiffError`]; no list.

use crate::diff::{DiffError, can_become, steps};
use crate::link::{
    AdapterMap, CurrentLink, CurrentLinks, DesiredLink, DesiredLinks, LinkKind, LinkName, is_made_by_us,
};
use crate::op::Op;
use crate::plan::NetworkPlan;
use crate::traffic::WantedTraffic;
use model::MacAddress;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How to get back, as far as there is a way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayBack {
    /// What to do, in order.
    pub ops: Vec<Op>,
    /// What can't be given back, because it isn't there any more.
    pub gone: Vec<Gone>,
}

impl WayBack {
    /// Why the links are not as they were: what is gone, and what is still to be done; `None` if they are.
    pub fn left(&self) -> Option<String> {
        let list = |items: Vec<String>| items.join(", ");
        let gone = (!self.gone.is_empty())
            .then(|| format!("gone: {}", list(self.gone.iter().map(Gone::to_string).collect())));
        let todo = (!self.ops.is_empty()).then(|| {
            let ops = list(self.ops.iter().map(Op::to_string).collect());
            format!("read back, the kernel still needs to {ops}")
        });
        let left: Vec<String> = gone.into_iter().chain(todo).collect();
        (!left.is_empty()).then(|| left.join("; "))
    }
}

/// A link that was there and isn't.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// What it was called.
    pub name: LinkName,
    /// Its permanent MAC address, if it had one.
    pub mac: Option<MacAddress>,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mac {
            Some(mac) => write!(f, "{} ({mac})", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

/// The operations that lead back to an earlier observation: of our links, and of the NICs that `plan` touches.
pub fn revert(
    now: &CurrentLinks,
    before: &CurrentLinks,
    plan: &NetworkPlan,
    adapters: &AdapterMap,
) -> Result<WayBack, DiffError> {
    let touched = plan.resolve(adapters, before)?;
    let nics: BTreeSet<LinkName> =
        touched.links.into_keys().filter(|name| before.get(name).is_some()).collect();
    let names = names_now(before, now);
    let gone = gone(before, &nics, &names);
    let nics = nics.iter().filter_map(|name| names.get(name).cloned()).collect();
    let before = under(before, &names);
    let mut desired = DesiredLinks::restoring(&before, &nics);
    add_foreign(&mut desired, &before, now);
    let ops = steps(now, &desired, &before)?;
    Ok(WayBack { ops, gone })
}

/// Links that are not ours and that the kernel changed with ours: former ports of our masters, whatever they are, are that
/// again. VLAN links above what is given back get their MTU and are up or down as before: the kernel lowers and opens them
/// with the link below (`vlan_device_event`, net/8021q/vlan.c). All else of them is as it is now: twinrack did not change it.
fn add_foreign(desired: &mut DesiredLinks, before: &CurrentLinks, now: &CurrentLinks) {
    let both = |(name, was): (&LinkName, &CurrentLink)| {
        Some((name.clone(), was.clone(), now.get(name).filter(|_| !is_made_by_us(name, &was.kind))?.clone()))
    };
    let mut others: Vec<_> = before.links.iter().filter_map(both).collect();
    // From below: each round adds what stands on the last one's.
    loop {
        let touched = |(name, was, _): &(LinkName, CurrentLink, CurrentLink)| {
            let port = was.master.as_ref().is_some_and(LinkName::is_ours);
            let above =
                matches!(&was.kind, LinkKind::Vlan { parent, .. } if desired.links.contains_key(parent));
            !desired.links.contains_key(name) && (port || above)
        };
        let (found, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(touched);
        if found.is_empty() {
            return;
        }
        others = rest;
        desired.links.extend(found.into_iter().map(|(name, was, is)| (name, foreign(was, is, before))));
    }
}

fn foreign(was: CurrentLink, is: CurrentLink, before: &CurrentLinks) -> DesiredLink {
    let port = was.master.as_ref().is_some_and(LinkName::is_ours);
    // Of a master that the way back deletes it can't be a port.
    let stays = |master: &LinkName| !master.is_ours() || before.get(master).is_some();
    DesiredLink {
        kind: is.kind,
        mtu_bytes: was.mtu_bytes,
        up: was.up,
        master: if port { was.master } else { is.master.filter(stays) },
        addresses: is.addresses,
        bridge_vlans: if port { was.bridge_vlans } else { is.bridge_vlans },
        ipv6_link_local: None,
        routes: None,
        traffic: WantedTraffic::default(),
    }
}

/// What each link of `before` is called now. One that isn't there, and that is not ours to make, has no name, nor has what
/// stands on it.
fn names_now(before: &CurrentLinks, now: &CurrentLinks) -> BTreeMap<LinkName, LinkName> {
    let present = |name: &LinkName, link: &CurrentLink| {
        let same = |other: &CurrentLink| {
            can_become(&other.kind, &link.kind) && other.permanent_mac == link.permanent_mac
        };
        if is_made_by_us(name, &link.kind) || now.get(name).is_some_and(same) {
            return Some(name.clone());
        }
        let renamed = |(_, other): &(&LinkName, &CurrentLink)| link.permanent_mac.is_some() && same(other);
        now.links.iter().find(renamed).map(|(name, _)| name.clone())
    };
    let found = before.links.iter().filter_map(|(name, link)| Some((name.clone(), present(name, link)?)));
    let mut names: BTreeMap<_, _> = found.collect();
    // Links stand on each other without circles: after so many rounds nothing hangs in the air.
    for _ in 0..before.links.len() {
        let stands = |name: &LinkName| match &before.links[name].kind {
            LinkKind::Vlan { parent, .. } => names.contains_key(parent),
            _ => true,
        };
        let hanging: Vec<LinkName> = names.keys().filter(|name| !stands(name)).cloned().collect();
        if hanging.is_empty() {
            break;
        }
        names.retain(|name, _| !hanging.contains(name));
    }
    names
}

/// What the way back would give back, and what its links were ports of, if it still were there.
fn gone(before: &CurrentLinks, nics: &BTreeSet<LinkName>, names: &BTreeMap<LinkName, LinkName>) -> Vec<Gone> {
    let missed = DesiredLinks::restoring(before, nics).links;
    let masters = missed.values().filter_map(|link| link.master.as_ref());
    let lost: BTreeSet<&LinkName> =
        missed.keys().chain(masters).filter(|name| !names.contains_key(*name)).collect();
    let mac = |name: &LinkName| before.get(name).and_then(|link| link.permanent_mac);
    lost.into_iter().map(|name| Gone { name: name.clone(), mac: mac(name) }).collect()
}

/// An observation with the names of now, without what has none.
fn under(before: &CurrentLinks, names: &BTreeMap<LinkName, LinkName>) -> CurrentLinks {
    let survivors = before.links.iter().filter_map(|(name, link)| {
        let mut link = link.clone();
        link.master = link.master.and_then(|master| names.get(&master).cloned());
        match &mut link.kind {
            LinkKind::Vlan { parent, .. } => *parent = names.get(parent)?.clone(),
            LinkKind::Bond { primary, .. } => {
                *primary = primary.take().and_then(|primary| names.get(&primary).cloned());
            }
            LinkKind::Nic | LinkKind::Bridge { .. } | LinkKind::Other(_) => {}
        }
        Some((names.get(name)?.clone(), link))
    });
    CurrentLinks { links: survivors.collect() }
}

#[cfg(test)]
#[path = "way_back_tests.rs"]
mod tests;
