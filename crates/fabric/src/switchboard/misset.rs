//! Ports that are set up wrongly: with a VLAN too few, or for packets that are too small.
//!
//! Invariants: a port never carries more than the topology gives it, so that what was checked of it (no loops) stays true.
//! What a port announces by LLDP is what it does, unless it was told to keep a lowered MTU to itself. Settings add up until
//! [`Switchboard::heal`].
//!
//! On failure: [`FaultError`], and nothing has changed.

use super::{FaultError, Outlet, Switchboard};
use crate::ids::{PortName, SwitchId};
use crate::lldp;
use crate::topology::{self, PortRef};
use model::{Mtu, VlanId};
use std::collections::BTreeSet;

/// How a port differs from the topology.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Misset {
    /// VLANs that it does not carry any more.
    removed: BTreeSet<VlanId>,
    /// The largest packet that it takes, and whether it says so.
    mtu: Option<(Mtu, bool)>,
}

impl Switchboard {
    /// Takes a VLAN from a port; it says so at once.
    pub fn remove_vlan(
        &mut self,
        port: &PortRef,
        vlan: VlanId,
        outlet: &mut impl Outlet,
    ) -> Result<(), FaultError> {
        let index = self.port_index(port).ok_or_else(|| FaultError::UnknownPort(port.clone()))?;
        if !self.ports[index].carries(vlan.get()) {
            return Err(FaultError::Impossible("the port does not carry that VLAN"));
        }
        self.missets.entry(index).or_default().removed.insert(vlan);
        self.set_up(index);
        self.announce_port(index, outlet);
        Ok(())
    }

    /// Lowers the largest packet that a port of a switch takes, or that all of its ports do; they say so at once, or go on
    /// saying what they said.
    pub fn lower_mtu(
        &mut self,
        switch: &SwitchId,
        port: Option<&PortName>,
        mtu: Mtu,
        announced: bool,
        outlet: &mut impl Outlet,
    ) -> Result<(), FaultError> {
        let at = self.switch_index(switch).ok_or_else(|| FaultError::UnknownSwitch(switch.clone()))?;
        let ports = match port {
            None => self.switches[at].ports.clone(),
            Some(port) => {
                let port = PortRef { switch: switch.clone(), port: port.clone() };
                vec![self.port_index(&port).ok_or(FaultError::UnknownPort(port))?]
            }
        };
        for index in ports {
            if self.ports[index].mtu <= usize::from(mtu.get()) {
                continue;
            }
            self.missets.entry(index).or_default().mtu = Some((mtu, announced));
            self.set_up(index);
            self.announce_port(index, outlet);
        }
        Ok(())
    }

    /// Sets every port up as the topology has it; those that were set up wrongly say so at once.
    pub(super) fn set_up_rightly(&mut self, outlet: &mut impl Outlet) {
        for index in std::mem::take(&mut self.missets).into_keys() {
            self.set_up(index);
            self.announce_port(index, outlet);
        }
    }

    /// Makes a port what the topology and its settings say.
    fn set_up(&mut self, index: usize) {
        let misset = self.missets.get(&index).cloned().unwrap_or_default();
        let Some((switch, port)) = self.described(index) else { return };
        let mut does = port.clone();
        does.tagged_vlans.retain(|vlan| !misset.removed.contains(vlan));
        does.native_vlan = does.native_vlan.filter(|vlan| !misset.removed.contains(vlan));
        let mut says = does.clone();
        if let Some((mtu, announced)) = misset.mtu {
            does.mtu = Some(mtu);
            says.mtu = if announced { Some(mtu) } else { says.mtu };
        }
        // The topology's own could be announced, so less of it can.
        let lldp = lldp::frame(switch, &says, self.topology.lldp_interval_ms).unwrap_or_default();
        let mtu = usize::from(does.mtu.unwrap_or(switch.mtu).get());
        let built = &mut self.ports[index];
        (built.native, built.tagged) =
            (does.native_vlan.map(VlanId::get), does.tagged_vlans.into_iter().collect());
        (built.mtu, built.lldp) = (mtu, lldp);
    }

    /// What the topology says of a port. Ports are in its order.
    fn described(&self, index: usize) -> Option<(&topology::Switch, &topology::Port)> {
        let mut all = self.topology.switches.iter().flat_map(|s| s.ports.iter().map(move |port| (s, port)));
        all.nth(index)
    }

    fn announce_port(&mut self, index: usize, outlet: &mut impl Outlet) {
        if let Some((link, _)) = self.ports[index].link {
            self.announce(link, outlet);
        }
    }
}
