//! From a topology's names to the switchboard's indices.

use super::flight::Flights;
use super::{Bundle, Channel, Direction, End, Link, Nic, Peer, Port, Switch, Switchboard, VlanSet};
use crate::counters::VlanSlots;
use crate::ids::{ChannelId, NicId, SwitchId};
use crate::lldp;
use crate::mac_table::MacTable;
use crate::topology::{self, PortRef, Topology};
use crate::validate::TopologyError;
use model::VlanId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<I: IntoIterator<Item = VlanId>>(vlans: I) -> Self {
        let mut words = Box::new([0u64; 64]);
        for vlan in vlans {
            words[usize::from(vlan.get() / 64)] |= 1 << (vlan.get() % 64);
        }
        Self(words)
    }
}

impl Switchboard {
    /// Sets everything up, with nothing cut and all switches running.
    pub fn new(topology: &Topology) -> Result<Self, TopologyError> {
        topology.validate()?;
        let mut ports = Vec::new();
        let mut switches = Vec::new();
        let mut port_index = BTreeMap::new();
        for switch in &topology.switches {
            let first = ports.len();
            for port in &switch.ports {
                let name = PortRef { switch: switch.id.clone(), port: port.id.clone() };
                let built = build_port(topology, switch, port, switches.len())
                    .map_err(|source| TopologyError::Lldp { port: name.clone(), source })?;
                port_index.insert(name, ports.len());
                ports.push(built);
            }
            switches.push(build_switch(switch, (first..ports.len()).collect()));
        }
        let slots = VlanSlots::new(topology.switches.iter().flat_map(|switch| {
            switch.ports.iter().flat_map(|port| port.tagged_vlans.iter().copied().chain(port.native_vlan))
        }));
        let nic_index: BTreeMap<&NicId, usize> =
            topology.nics.iter().enumerate().map(|(index, nic)| (nic, index)).collect();
        let links = build_links(topology, &port_index, &nic_index, &slots)?;
        let mut board = Self {
            topology: topology.clone(),
            missets: BTreeMap::new(),
            switches,
            ports,
            nics: topology.nics.iter().map(|id| Nic { id: id.clone(), link: None }).collect(),
            links,
            channels: Vec::new(),
            slots,
            homes: topology.homes.iter().map(|home| (home.subnet, home.vlan.get())).collect(),
            experiments: super::experiments::Log::default(),
            lldp_interval: Duration::from_millis(topology.lldp_interval_ms.into()),
            lldp_due: Duration::ZERO,
            now: Duration::ZERO,
            flights: Flights::default(),
            flappings: Vec::new(),
            arrivals: Vec::new(),
        };
        board.connect_ends();
        board.bundle(topology);
        board.refresh_channels();
        Ok(board)
    }

    /// Tells ports which port channel they are in, and switches what they have of each.
    fn bundle(&mut self, topology: &Topology) {
        let is_peer = |id: &ChannelId| topology.pairs.iter().any(|pair| pair.peer_channel == *id);
        for (index, channel) in topology.channels.iter().enumerate() {
            let links: Vec<usize> = channel.links.iter().filter_map(|id| self.link_index(id).ok()).collect();
            let is_peer = is_peer(&channel.id);
            for port in links.iter().flat_map(|link| self.links[*link].ends) {
                let End::Port(port) = port else { continue };
                self.ports[port].channel = Some(index);
                let switch = &mut self.switches[self.ports[port].switch];
                if is_peer {
                    continue;
                }
                match switch.bundles.iter_mut().find(|bundle| bundle.channel == index) {
                    Some(bundle) => bundle.ports.push(port),
                    None => switch.bundles.push(Bundle { channel: index, ports: vec![port] }),
                }
            }
            self.channels.push(Channel { links, is_peer });
        }
        for switch in &mut self.switches {
            switch.singles = switch.ports.clone();
            switch.singles.retain(|port| self.ports[*port].channel.is_none());
        }
        for pair in &topology.pairs {
            let peer = topology.channels.iter().position(|channel| channel.id == pair.peer_channel);
            let [Some(first), Some(second)] = pair.switches.each_ref().map(|id| self.switch_index(id)) else {
                continue; // validated: both exist
            };
            for (this, other) in [(first, second), (second, first)] {
                let mut ports = self.switches[this].ports.clone();
                ports.retain(|port| self.ports[*port].channel == peer);
                let shared = ports.first().map_or_else(VlanSet::none, |port| self.ports[*port].all_vlans());
                self.switches[this].peer = Some(Peer { switch: other, ports, shared, first });
            }
        }
    }

    /// Tells ports and NICs which cable they are at, from the cables' ends.
    pub(super) fn connect_ends(&mut self) {
        self.ports.iter_mut().for_each(|port| port.link = None);
        self.nics.iter_mut().for_each(|nic| nic.link = None);
        for (index, link) in self.links.iter().enumerate() {
            for direction in Direction::BOTH {
                match link.ends[direction.from()] {
                    End::Port(port) => self.ports[port].link = Some((index, direction)),
                    End::Nic(nic) => self.nics[nic].link = Some((index, direction)),
                }
            }
        }
    }

    pub(super) fn switch_index(&self, id: &SwitchId) -> Option<usize> {
        self.switches.iter().position(|switch| switch.id == *id)
    }

    pub(super) fn port_index(&self, port: &PortRef) -> Option<usize> {
        let switch = self.switches.get(self.switch_index(&port.switch)?)?;
        switch.ports.iter().copied().find(|index| self.ports[*index].name == port.port)
    }
}

fn build_links(
    topology: &Topology,
    port_index: &BTreeMap<PortRef, usize>,
    nic_index: &BTreeMap<&NicId, usize>,
    slots: &VlanSlots,
) -> Result<Vec<Link>, TopologyError> {
    let at_spine: BTreeSet<&crate::ids::LinkId> =
        topology.links_at(topology::Role::Spine).map(|link| &link.id).collect();
    let build = |link: &topology::Link| {
        let end = |end: &topology::End| match end {
            topology::End::Port(port) => port_index
                .get(port)
                .copied()
                .map(End::Port)
                .ok_or_else(|| TopologyError::UnknownPort { link: link.id.clone(), port: port.clone() }),
            topology::End::Nic(nic) => nic_index
                .get(nic)
                .copied()
                .map(End::Nic)
                .ok_or_else(|| TopologyError::UnknownNic { link: link.id.clone(), nic: nic.clone() }),
        };
        let ends = [end(&link.a)?, end(&link.b)?];
        Ok(Link {
            id: link.id.clone(),
            ends,
            home: ends,
            cut: [false; 2],
            flapped_down: false,
            shapers: [None, None],
            tallies: [slots.tally(), slots.tally()],
            captured: false,
            kept_off: if at_spine.contains(&link.id) { topology.kept_off_spine.clone() } else { Vec::new() },
        })
    };
    topology.links.iter().map(build).collect()
}

fn build_switch(switch: &topology::Switch, ports: Vec<usize>) -> Switch {
    Switch {
        id: switch.id.clone(),
        up: true,
        ports,
        singles: Vec::new(),
        bundles: Vec::new(),
        peer: None,
        suspended: switch.suspended_vlans.iter().copied().collect(),
        addresses: MacTable::default(),
    }
}

fn build_port(
    topology: &Topology,
    switch: &topology::Switch,
    port: &topology::Port,
    switch_index: usize,
) -> Result<Port, network::lldp::EncodeError> {
    Ok(Port {
        name: port.id.clone(),
        switch: switch_index,
        native: port.native_vlan.map(VlanId::get),
        tagged: port.tagged_vlans.iter().copied().collect(),
        mtu: usize::from(port.mtu.unwrap_or(switch.mtu).get()),
        lldp: lldp::frame(switch, port, topology.lldp_interval_ms)?,
        link: None,
        channel: None,
        bundled: false,
    })
}
