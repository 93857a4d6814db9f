//! A simulated kernel that knows every MTU.
//!
//! Purpose: [`simulate`](crate::simulate) says "unknown" where an MTU depends on what nobody reports: who set a bridge's,
//! and what a bond's port came with. A list that was computed with that must be one that a kernel takes which knows.
//!
//! Modelled on Linux 6.1: `br_change_mtu` and `br_mtu_auto_adjust` (net/bridge), `__bond_release_one` (drivers/net/bonding),
//! `vlan_device_event` and `vlan_dev_change_mtu` (net/8021q), `dev_set_mtu` (net/core/dev.c).

use crate::link::{CurrentLinks, LinkKind, LinkName};
use crate::op::Op;
use crate::simulate::{self, Refused, UNKNOWN_MTU};
use std::collections::{BTreeMap, BTreeSet};

/// What a bridge without ports has.
const ETHERNET_MTU: u32 = 1500;

#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) links: CurrentLinks,
    /// Bridges that keep the MTU that somebody gave them (`BROPT_MTU_SET_BY_USER`). The others follow their ports.
    set_by_user: BTreeSet<LinkName>,
    /// What ports of bonds get back when they leave.
    came_with: BTreeMap<LinkName, u32>,
}

impl Kernel {
    pub(crate) fn new(links: CurrentLinks) -> Self {
        Self { links, set_by_user: BTreeSet::new(), came_with: BTreeMap::new() }
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Refused> {
        let before = self.links.clone();
        simulate::apply(&mut self.links, op)?;
        match op {
            // To set what it has already is nothing (dev_set_mtu), and the bridge goes on following its ports.
            Op::SetMtu { name, mtu_bytes } if before.links[name].mtu_bytes != *mtu_bytes => {
                self.set_by_user.insert(name.clone());
            }
            Op::Join { name, .. } => {
                self.came_with.insert(name.clone(), before.links[name].mtu_bytes);
            }
            _ => {}
        }
        self.set_by_user.retain(|name| self.links.get(name).is_some());
        self.settle(&before);
        Ok(())
    }

    pub(crate) fn run(mut self, ops: &[Op]) -> Self {
        for op in ops {
            self.apply(op).unwrap_or_else(|refused| panic!("{op}: {refused}"));
        }
        self
    }

    /// Finds out what the model left open, from below.
    fn settle(&mut self, before: &CurrentLinks) {
        for _ in 0..=self.links.links.len() {
            let open = self.links.links.iter().filter(|(_, link)| link.mtu_bytes == UNKNOWN_MTU);
            let found: Vec<_> =
                open.filter_map(|(name, _)| Some((name.clone(), self.mtu(name, before)?))).collect();
            for (name, mtu_bytes) in found {
                self.links.links.get_mut(&name).unwrap().mtu_bytes = mtu_bytes;
            }
        }
        assert!(self.links.links.values().all(|link| link.mtu_bytes != UNKNOWN_MTU), "{:?}", self.links);
    }

    /// What the kernel chooses; `None` while what it stands on is open.
    fn mtu(&self, name: &LinkName, before: &CurrentLinks) -> Option<u32> {
        let known = |name: &LinkName| Some(self.links.get(name)?.mtu_bytes).filter(|mtu| *mtu != UNKNOWN_MTU);
        let had = before.get(name).map(|link| link.mtu_bytes);
        let left = before.get(name).is_some_and(|link| link.master.is_some())
            && self.links.links[name].master.is_none();
        match &self.links.links[name].kind {
            LinkKind::Bridge { .. } if self.set_by_user.contains(name) => had,
            LinkKind::Bridge { .. } => {
                let ports: Option<Vec<u32>> = self.links.ports(name).map(known).collect();
                Some(ports?.into_iter().min().unwrap_or(ETHERNET_MTU))
            }
            LinkKind::Vlan { parent, .. } => {
                let most = known(parent)?;
                let wanted = if left { self.came_with[name] } else { had? };
                // What a port came with is refused above that, and it keeps what it has.
                Some(if left && wanted > most { had?.min(most) } else { wanted.min(most) })
            }
            _ => Some(self.came_with[name]),
        }
    }
}
