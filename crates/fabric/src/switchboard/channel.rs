//! Port channels, and pairs of switches that are one to them.
//!
//! The rules, as LACP (IEEE 802.1AX-2020, 6.4) and the switches' MLAG have them:
//! - a member works if its cable passes both ways and both switches run: LACP takes one-way fibres out. Here at once, in
//!   reality after up to 3 s;
//! - a flow stays on one member as long as the set of working members stays ([`crate::flow`]);
//! - a frame that came in by a channel never leaves by it, by whatever member and from whichever switch of a pair;
//! - a switch of a pair uses its own members of a channel; it sends over the peer channel only what the other has no other way to
//!   get: floods, what lives at the other's ports, and what is beyond a channel that it has no working member of;
//! - split horizon: what came over the peer channel leaves by a channel only if the other switch has no working member of it;
//! - both switches of a pair keep one table of addresses, in the VLANs that the peer channel carries;
//! - when the peer channel is dead and both run (their keep-alive has another way), the second takes its members out of all
//!   channels, so that nobody sends it what it can't pass on. What is cabled to it alone is then cut off, as on real ones.
//!
//! So a flood crosses a channel once and reaches each switch of a pair once: no loop, no copies, without a spanning tree.

use super::{Direction, End, Inside, Outlet, Switchboard};
use crate::counters::DropReason;
use crate::flow;
use crate::frame::Frame;
use crate::mac_table::Place;

impl Switchboard {
    /// Which switch keeps the addresses that this one uses in a VLAN.
    pub(super) fn table_of(&self, switch: usize, vlan: u16) -> usize {
        match &self.switches[switch].peer {
            Some(peer) if peer.shared.contains(vlan) => peer.first,
            _ => switch,
        }
    }

    /// To every channel that a flood has to leave by here, and to the other switch of the pair.
    pub(super) fn flood_channels(&mut self, inside: Inside, frame: &Frame<'_>, outlet: &mut impl Outlet) {
        for at in 0..self.switches[inside.switch].bundles.len() {
            let channel = self.switches[inside.switch].bundles[at].channel;
            if inside.came_by == Place::Channel(channel) {
                continue;
            }
            match self.member(inside.switch, channel, frame) {
                Some(port) if !(inside.from_peer && self.peer_has_member(inside.switch, channel)) => {
                    self.leave(inside, port, frame, outlet);
                }
                None if !inside.from_peer && !self.peer_has_member(inside.switch, channel) => {
                    self.lose_at_channel(inside, channel, frame);
                }
                _ => {}
            }
        }
        if !inside.from_peer && self.switches[inside.switch].peer.is_some() {
            self.leave_to_peer(inside, frame, outlet);
        }
    }

    pub(super) fn leave_by_channel(
        &mut self,
        inside: Inside,
        channel: usize,
        frame: &Frame<'_>,
        outlet: &mut impl Outlet,
    ) {
        if let Some(port) = self.member(inside.switch, channel, frame) {
            self.leave(inside, port, frame, outlet);
        } else if !inside.from_peer && self.peer_has_member(inside.switch, channel) {
            self.leave_to_peer(inside, frame, outlet);
        } else {
            self.lose_at_channel(inside, channel, frame);
        }
    }

    /// To the other switch of the pair. What came from there doesn't go back.
    pub(super) fn leave_to_peer(&mut self, inside: Inside, frame: &Frame<'_>, outlet: &mut impl Outlet) {
        let Some(peer) = &self.switches[inside.switch].peer else { return };
        if inside.from_peer || !peer.shared.contains(inside.vlan) {
            return;
        }
        match (self.choose(&peer.ports, frame), peer.ports.first().copied()) {
            (Some(port), _) => self.leave(inside, port, frame, outlet),
            (None, Some(port)) => self.lose_at(inside, port, frame),
            (None, None) => {}
        }
    }

    /// The working member by which a switch sends this frame.
    fn member(&self, switch: usize, channel: usize, frame: &Frame<'_>) -> Option<usize> {
        let bundle = self.switches[switch].bundles.iter().find(|bundle| bundle.channel == channel)?;
        self.choose(&bundle.ports, frame)
    }

    fn peer_has_member(&self, switch: usize, channel: usize) -> bool {
        let peer = self.switches[switch].peer.as_ref().map(|peer| &self.switches[peer.switch]);
        let bundles = peer.into_iter().flat_map(|peer| &peer.bundles);
        bundles
            .filter(|bundle| bundle.channel == channel)
            .flat_map(|b| &b.ports)
            .any(|p| self.ports[*p].bundled)
    }

    fn choose(&self, ports: &[usize], frame: &Frame<'_>) -> Option<usize> {
        let working = || ports.iter().copied().filter(|port| self.ports[*port].bundled);
        match working().count() {
            0 => None,
            1 => working().next(),
            count => working().nth((flow::hash(frame) % count as u64) as usize),
        }
    }

    fn lose_at_channel(&mut self, inside: Inside, channel: usize, frame: &Frame<'_>) {
        let bundles = &self.switches[inside.switch].bundles;
        let port =
            bundles.iter().find(|bundle| bundle.channel == channel).and_then(|bundle| bundle.ports.first());
        if let Some(port) = port.copied() {
            self.lose_at(inside, port, frame);
        }
    }

    /// Counts a frame that found no working member on the cable of the first, if that would have carried it.
    fn lose_at(&mut self, inside: Inside, port: usize, frame: &Frame<'_>) {
        let port = &self.ports[port];
        if let Some((link, direction)) = port.link.filter(|_| port.carries(inside.vlan)) {
            let tally = &mut self.links[link].tallies[direction as usize];
            tally.lose(DropReason::ChannelDown, Some(inside.vlan), frame.wire_bytes());
        }
    }

    /// Finds out which members work, after anything changed. Addresses beyond a channel without any are forgotten.
    pub(super) fn refresh_channels(&mut self) {
        for channel in 0..self.channels.len() {
            for at in 0..self.channels[channel].links.len() {
                let link = self.channels[channel].links[at];
                let works = self.passes_both_ways(link)
                    && (self.channels[channel].is_peer || !self.has_stepped_back_end(link));
                for end in self.links[link].ends {
                    if let End::Port(port) = end {
                        self.ports[port].bundled = works;
                    }
                }
            }
            if !self.channels[channel].links.iter().any(|link| self.is_bundled(*link)) {
                let place = Place::Channel(channel);
                self.switches.iter_mut().for_each(|switch| switch.addresses.forget(place));
            }
        }
    }

    fn is_bundled(&self, link: usize) -> bool {
        self.links[link].ends.iter().any(|end| matches!(end, End::Port(port) if self.ports[*port].bundled))
    }

    fn passes_both_ways(&self, link: usize) -> bool {
        self.is_live(link) && Direction::BOTH.iter().all(|direction| !self.links[link].is_cut(*direction))
    }

    /// Whether an end of this cable is at the second switch of a pair that can't hear each other.
    fn has_stepped_back_end(&self, link: usize) -> bool {
        self.links[link].ends.iter().any(|end| {
            let End::Port(port) = end else { return false };
            let switch = self.ports[*port].switch;
            self.switches[switch].peer.as_ref().is_some_and(|peer| {
                let peer_links = || peer.ports.iter().filter_map(|port| self.ports[*port].link);
                peer.first != switch
                    && self.switches[peer.first].up
                    && !peer_links().any(|(link, _)| self.passes_both_ways(link))
            })
        })
    }
}
