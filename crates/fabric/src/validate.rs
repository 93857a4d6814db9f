//! Whether a topology can work.
//!
//! Invariant for the rest of the crate: in a topology that passed, every name resolves, every port and NIC has at most
//! one cable, every port's LLDP frame can be encoded, and no frame can go round in circles. The last is judged on the
//! graph of (switch, VLAN) pairs, which also sees VLANs that are joined by a cable whose ends disagree about the native
//! VLAN: that graph must be a forest, whatever is cut later. A port channel is one edge of it; a pair of switches is one
//! node, in the VLANs that its peer channel carries.

mod channels;

use crate::ids::{ChannelId, LinkId, NicId, PortName, SwitchId};
use crate::lldp;
use crate::topology::{End, Link, Port, PortRef, Switch, Topology};
use model::{MacAddress, VlanId};
use network::lldp::EncodeError;
use std::collections::{BTreeMap, BTreeSet};

/// How often LLDP may be sent, milliseconds: often enough for a test, seldom enough that a port is not flooded.
const LLDP_INTERVAL_MS: std::ops::RangeInclusive<u32> = 50..=60_000;
/// Bounds of a topology, far above any lab's.
const SWITCHES_MAX: usize = 64;
const PORTS_MAX: usize = 4096;
const NICS_MAX: usize = 1024;

/// Why a topology can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// More of something than the fabric takes.
    #[error("the topology has {count} {what}, the fabric takes at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// LLDP too often or too seldom.
    #[error("an LLDP interval of {interval_ms} ms is not between {min} and {max}", min = LLDP_INTERVAL_MS.start(), max = LLDP_INTERVAL_MS.end())]
    LldpInterval {
        /// The interval, milliseconds.
        interval_ms: u32,
    },
    /// Two switches with one name.
    #[error("two switches are called `{switch}`")]
    DuplicateSwitch {
        /// The name.
        switch: SwitchId,
    },
    /// Two switches that LLDP couldn't tell apart.
    #[error("switches `{switch}` and `{other}` have the same chassis address {mac}")]
    DuplicateChassis {
        /// The one.
        switch: SwitchId,
        /// The other.
        other: SwitchId,
        /// Their address.
        mac: MacAddress,
    },
    /// A chassis address that can't be a sender's.
    #[error("the chassis address {mac} of switch `{switch}` is a group address")]
    GroupChassis {
        /// The switch.
        switch: SwitchId,
        /// Its address.
        mac: MacAddress,
    },
    /// Two ports of a switch with one name.
    #[error("switch `{switch}` has two ports `{port}`")]
    DuplicatePort {
        /// The switch.
        switch: SwitchId,
        /// The name.
        port: PortName,
    },
    /// A VLAN can't leave a port with and without a tag.
    #[error("port {port} carries VLAN {vlan} both as native and tagged")]
    NativeIsTagged {
        /// The port.
        port: PortRef,
        /// The VLAN.
        vlan: VlanId,
    },
    /// What the port has to say doesn't fit in an LLDP frame.
    #[error("port {port} can't announce itself by LLDP")]
    Lldp {
        /// The port.
        port: PortRef,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// Two NICs with one name.
    #[error("two NICs are called `{nic}`")]
    DuplicateNic {
        /// The name.
        nic: NicId,
    },
    /// Two cables with one name.
    #[error("two links are called `{link}`")]
    DuplicateLink {
        /// The name.
        link: LinkId,
    },
    /// A cable to a switch or port that isn't there.
    #[error("link `{link}` ends at {port}, which does not exist")]
    UnknownPort {
        /// The cable.
        link: LinkId,
        /// Where it ends.
        port: PortRef,
    },
    /// A cable to a NIC that isn't there.
    #[error("link `{link}` ends at NIC `{nic}`, which is not among the topology's NICs")]
    UnknownNic {
        /// The cable.
        link: LinkId,
        /// Where it ends.
        nic: NicId,
    },
    /// Two cables in one socket.
    #[error("links `{link}` and `{other}` both end at {end:?}")]
    Taken {
        /// The one.
        link: LinkId,
        /// The other.
        other: LinkId,
        /// Where both end.
        end: End,
    },
    /// A cable without a switch.
    #[error("link `{link}` joins two NICs: one end must be a switch")]
    NoSwitch {
        /// The cable.
        link: LinkId,
    },
    /// Two port channels with one name.
    #[error("two port channels are called `{channel}`")]
    DuplicateChannel {
        /// The name.
        channel: ChannelId,
    },
    /// A port channel that no two switches could agree on.
    #[error("port channel `{channel}` {what}")]
    Channel {
        /// The port channel.
        channel: ChannelId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A pair that can't work as one switch.
    #[error("the pair of switches `{}` and `{}` {what}", switches[0], switches[1])]
    Pair {
        /// Its switches.
        switches: Box<[SwitchId; 2]>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A way for frames to go round in circles.
    #[error("link `{link}` closes a loop in VLAN {vlan}: take the VLAN off one of the loop's links")]
    Loop {
        /// The cable that closes it.
        link: LinkId,
        /// The VLAN, as end a calls it.
        vlan: VlanId,
    },
}

impl Topology {
    /// Checks everything that the fabric relies on. The first violation found is returned.
    pub fn validate(&self) -> Result<(), TopologyError> {
        if !LLDP_INTERVAL_MS.contains(&self.lldp_interval_ms) {
            return Err(TopologyError::LldpInterval { interval_ms: self.lldp_interval_ms });
        }
        let ports = self.switches.iter().map(|switch| switch.ports.len()).sum();
        at_most("switches", self.switches.len(), SWITCHES_MAX)?;
        at_most("ports", ports, PORTS_MAX)?;
        at_most("NICs", self.nics.len(), NICS_MAX)?;
        self.validate_switches()?;
        self.validate_nics()?;
        self.validate_links()?;
        self.validate_channels()?;
        self.validate_loop_free()
    }

    fn validate_switches(&self) -> Result<(), TopologyError> {
        let mut ids = BTreeSet::new();
        let mut chassis: BTreeMap<MacAddress, &SwitchId> = BTreeMap::new();
        for switch in &self.switches {
            let (id, mac) = (&switch.id, switch.chassis_mac);
            if !ids.insert(id) {
                return Err(TopologyError::DuplicateSwitch { switch: id.clone() });
            }
            if mac.0[0] & 1 != 0 {
                return Err(TopologyError::GroupChassis { switch: id.clone(), mac });
            }
            if let Some(other) = chassis.insert(mac, id) {
                return Err(TopologyError::DuplicateChassis {
                    switch: id.clone(),
                    other: other.clone(),
                    mac,
                });
            }
            let mut names = BTreeSet::new();
            for port in &switch.ports {
                if !names.insert(&port.id) {
                    return Err(TopologyError::DuplicatePort { switch: id.clone(), port: port.id.clone() });
                }
                self.validate_port(switch, port)?;
            }
        }
        Ok(())
    }

    fn validate_port(&self, switch: &Switch, port: &Port) -> Result<(), TopologyError> {
        let name = || PortRef { switch: switch.id.clone(), port: port.id.clone() };
        if let Some(vlan) = port.native_vlan.filter(|vlan| port.tagged_vlans.contains(vlan)) {
            return Err(TopologyError::NativeIsTagged { port: name(), vlan });
        }
        lldp::frame(switch, port, self.lldp_interval_ms)
            .map_err(|source| TopologyError::Lldp { port: name(), source })?;
        Ok(())
    }

    fn validate_nics(&self) -> Result<(), TopologyError> {
        let mut nics = BTreeSet::new();
        match self.nics.iter().find(|nic| !nics.insert(*nic)) {
            Some(nic) => Err(TopologyError::DuplicateNic { nic: nic.clone() }),
            None => Ok(()),
        }
    }

    fn validate_links(&self) -> Result<(), TopologyError> {
        let mut ids = BTreeSet::new();
        let mut taken: BTreeMap<&End, &LinkId> = BTreeMap::new();
        for link in &self.links {
            if !ids.insert(&link.id) {
                return Err(TopologyError::DuplicateLink { link: link.id.clone() });
            }
            if link.ends().all(|end| matches!(end, End::Nic(_))) {
                return Err(TopologyError::NoSwitch { link: link.id.clone() });
            }
            for end in link.ends() {
                self.validate_end(link, end)?;
                if let Some(other) = taken.insert(end, &link.id) {
                    let (link, other) = (link.id.clone(), other.clone());
                    return Err(TopologyError::Taken { link, other, end: end.clone() });
                }
            }
        }
        Ok(())
    }

    fn validate_end(&self, link: &Link, end: &End) -> Result<(), TopologyError> {
        match end {
            End::Port(port) if self.port(port).is_none() => {
                Err(TopologyError::UnknownPort { link: link.id.clone(), port: port.clone() })
            }
            End::Nic(nic) if !self.nics.contains(nic) => {
                Err(TopologyError::UnknownNic { link: link.id.clone(), nic: nic.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The port of this name.
    pub fn port(&self, port: &PortRef) -> Option<&Port> {
        self.switch(&port.switch)?.ports.iter().find(|candidate| candidate.id == port.port)
    }
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), TopologyError> {
    if count > max { Err(TopologyError::TooMany { what, count, max }) } else { Ok(()) }
}

/// Which VLAN of the receiver each VLAN of the sender ends up in, over one cable.
fn crossings(from: &Port, to: &Port) -> Vec<(VlanId, VlanId)> {
    let native = from.native_vlan.zip(to.native_vlan);
    let tagged = from.tagged_vlans.iter().filter(|vlan| to.carries(**vlan)).map(|vlan| (*vlan, *vlan));
    native.into_iter().chain(tagged).collect()
}

type Place<'a> = (&'a SwitchId, VlanId);

/// Disjoint sets, the plain way: the topology is small.
#[derive(Clone, Default)]
struct Groups<'a> {
    group_of: BTreeMap<Place<'a>, usize>,
    next: usize,
}

impl<'a> Groups<'a> {
    /// Merges two places; false when they already were in one group.
    fn join(&mut self, a: Place<'a>, b: Place<'a>) -> bool {
        let (a, b) = (self.group(a), self.group(b));
        for group in self.group_of.values_mut().filter(|group| **group == b) {
            *group = a;
        }
        a != b
    }

    /// Whether two places are in one group.
    fn are_one(&self, a: Place<'a>, b: Place<'a>) -> bool {
        self.group_of.get(&a).is_some_and(|group| self.group_of.get(&b) == Some(group))
    }

    fn group(&mut self, place: Place<'a>) -> usize {
        *self.group_of.entry(place).or_insert_with(|| {
            self.next += 1;
            self.next
        })
    }
}

#[cfg(test)]
mod tests;
