//! Port channels and pairs, and that no frame goes round in circles with them.

use super::{Groups, Place, TopologyError, crossings};
use crate::ids::{ChannelId, LinkId, SwitchId};
use crate::topology::{Channel, End, Link, Pair, Port, PortRef, Topology};
use model::VlanId;
use std::collections::{BTreeMap, BTreeSet};

/// Members of a port channel: what switches take.
const MEMBERS_MAX: usize = 8;

/// A member's ends.
struct Member<'a> {
    link: &'a Link,
    a: &'a PortRef,
    b: &'a PortRef,
}

impl Topology {
    /// Every port channel has two sides whose ports agree; every pair has two switches and a peer channel between them.
    pub(super) fn validate_channels(&self) -> Result<(), TopologyError> {
        let mut ids = BTreeSet::new();
        let mut bundled: BTreeMap<&LinkId, &ChannelId> = BTreeMap::new();
        for channel in &self.channels {
            if !ids.insert(&channel.id) {
                return Err(TopologyError::DuplicateChannel { channel: channel.id.clone() });
            }
            for link in &channel.links {
                if bundled.insert(link, &channel.id).is_some() {
                    return Err(channel_error(channel, "has a member that is in a channel already"));
                }
            }
        }
        self.validate_pairs()?;
        self.channels.iter().try_for_each(|channel| self.validate_channel(channel))
    }

    fn validate_pairs(&self) -> Result<(), TopologyError> {
        let mut paired = BTreeSet::new();
        let mut peers = BTreeSet::new();
        for pair in &self.pairs {
            let wrong = |what| TopologyError::Pair { switches: Box::new(pair.switches.clone()), what };
            if !pair.switches.iter().all(|id| self.switch(id).is_some() && paired.insert(id)) {
                return Err(wrong("must be two that exist and are in no other pair"));
            }
            let Some(channel) = self.channel(&pair.peer_channel) else {
                return Err(wrong("must have a peer channel that exists"));
            };
            let joins =
                |member: &Member<'_>| [&member.a.switch, &member.b.switch] == pair.switches.each_ref();
            if !self.members(channel)?.iter().all(joins) || !peers.insert(&channel.id) {
                return Err(wrong("must have a peer channel from the first to the second, of its own"));
            }
        }
        Ok(())
    }

    fn validate_channel(&self, channel: &Channel) -> Result<(), TopologyError> {
        let members = self.members(channel)?;
        let [first, others @ ..] = members.as_slice() else {
            return Err(channel_error(channel, "has no member"));
        };
        if members.len() > MEMBERS_MAX {
            return Err(channel_error(channel, "has more than 8 members"));
        }
        let is_peer = self.pairs.iter().any(|pair| pair.peer_channel == channel.id);
        let side = |end: &PortRef| if is_peer { None } else { self.pair_of(&end.switch) };
        let one_side = |one: &PortRef, other: &PortRef| {
            one.switch == other.switch || side(one).is_some_and(|pair| side(other) == Some(pair))
        };
        let alike = |one: &PortRef, other: &PortRef| match (self.port(one), self.port(other)) {
            (Some(one), Some(other)) => same_traffic(one, other),
            _ => false,
        };
        if one_side(first.a, first.b) {
            return Err(channel_error(channel, "has both ends on one side"));
        }
        for other in others {
            if !one_side(first.a, other.a) || !one_side(first.b, other.b) {
                return Err(channel_error(channel, "has members that lead to different sides"));
            }
            if !alike(first.a, other.a) || !alike(first.b, other.b) {
                return Err(channel_error(channel, "has members that carry different VLANs or packets"));
            }
        }
        if is_peer && !alike(first.a, first.b) {
            return Err(channel_error(channel, "is a peer channel whose ends carry different VLANs"));
        }
        Ok(())
    }

    fn members(&self, channel: &Channel) -> Result<Vec<Member<'_>>, TopologyError> {
        let member = |id: &LinkId| match self.link(id) {
            Some(link @ Link { a: End::Port(a), b: End::Port(b), .. }) => Ok(Member { link, a, b }),
            _ => Err(channel_error(channel, "has a member that is no cable between switches")),
        };
        channel.links.iter().map(member).collect()
    }

    fn pair_of(&self, switch: &SwitchId) -> Option<&Pair> {
        self.pairs.iter().find(|pair| pair.switches.contains(switch))
    }

    /// Joins, cable by cable, the (switch, VLAN) pairs that frames can pass between; a pair of ends that is already
    /// joined closes a loop. A peer channel makes one switch of two, in the VLANs that it carries; any other port channel is
    /// one cable, so that its members must all join the same two.
    pub(super) fn validate_loop_free(&self) -> Result<(), TopologyError> {
        let mut groups: Groups<'_> = Groups::default();
        let is_peer = |channel: &&Channel| self.pairs.iter().any(|pair| pair.peer_channel == channel.id);
        for channel in self.channels.iter().filter(is_peer) {
            self.join_channel(channel, &mut groups, None)?;
        }
        let pairs = groups.clone();
        for channel in self.channels.iter().filter(|channel| !is_peer(channel)) {
            self.join_channel(channel, &mut groups, Some(&pairs))?;
        }
        let bundled: BTreeSet<&LinkId> = self.channels.iter().flat_map(|channel| &channel.links).collect();
        for link in self.links.iter().filter(|link| !bundled.contains(&link.id)) {
            let (End::Port(a), End::Port(b)) = (&link.a, &link.b) else { continue };
            for (vlan, other) in self.pairs_joined(a, b) {
                if !groups.join((&a.switch, vlan), (&b.switch, other)) {
                    return Err(TopologyError::Loop { link: link.id.clone(), vlan });
                }
            }
        }
        Ok(())
    }

    /// Joins the two sides of a port channel once. What is one side, of switches that are not the same, `pairs` says.
    fn join_channel<'a>(
        &'a self,
        channel: &'a Channel,
        groups: &mut Groups<'a>,
        pairs: Option<&Groups<'a>>,
    ) -> Result<(), TopologyError> {
        let mut sides: BTreeMap<(VlanId, VlanId), (Place<'a>, Place<'a>)> = BTreeMap::new();
        for member in self.members(channel)? {
            for (vlan, other) in self.pairs_joined(member.a, member.b) {
                let (a, b) = ((&member.a.switch, vlan), (&member.b.switch, other));
                let is_good = match sides.get(&(vlan, other)) {
                    Some((first_a, first_b)) => [(a, *first_a), (b, *first_b)].iter().all(|(one, first)| {
                        one == first || pairs.is_some_and(|pairs| pairs.are_one(*one, *first))
                    }),
                    None => groups.join(a, b),
                };
                if !is_good {
                    return Err(TopologyError::Loop { link: member.link.id.clone(), vlan });
                }
                sides.entry((vlan, other)).or_insert((a, b));
            }
        }
        Ok(())
    }

    /// Which VLANs of a's switch and of b's a cable joins. Both ways of one cable join the same, unless its ends disagree;
    /// each is named once.
    fn pairs_joined(&self, a: &PortRef, b: &PortRef) -> BTreeSet<(VlanId, VlanId)> {
        let (Some(at_a), Some(at_b)) = (self.port(a), self.port(b)) else { return BTreeSet::new() };
        let b_to_a = crossings(at_b, at_a).into_iter().map(|(from, to)| (to, from));
        crossings(at_a, at_b).into_iter().chain(b_to_a).collect()
    }
}

fn same_traffic(one: &Port, other: &Port) -> bool {
    (one.native_vlan, &one.tagged_vlans, one.mtu) == (other.native_vlan, &other.tagged_vlans, other.mtu)
}

fn channel_error(channel: &Channel, what: &'static str) -> TopologyError {
    TopologyError::Channel { channel: channel.id.clone(), what }
}
