//! What a switch does with a frame: from the port where it arrives to the ports by which it leaves.

use super::HOPS_MAX;
use super::{Arrival, End, Inside, LinkIndex, Outlet, Switchboard, Trip};
use crate::counters::DropReason;
use crate::frame::{Frame, Tag, is_group};
use crate::mac_table::Place;

impl Switchboard {
    /// A frame comes out of a cable at a port.
    pub(super) fn arrive(&mut self, arrival: Arrival, frame: Frame<'_>, outlet: &mut impl Outlet) {
        let port = &self.ports[arrival.port];
        let link = &mut self.links[arrival.link];
        let tally = &mut link.tallies[arrival.direction as usize];
        let bytes = frame.wire_bytes();
        if link.captured {
            outlet.capture(LinkIndex(arrival.link), &frame);
        }
        if frame.is_link_local() {
            tally.link_local.add(bytes);
            return;
        }
        let switch = &self.switches[port.switch];
        let vlan = port.classify(frame.tag());
        let counted = arrival.trip.sent_in.or(vlan);
        let refused = if is_group(frame.source()) {
            Some(DropReason::Malformed)
        } else if !vlan.is_some_and(|vlan| port.carries(vlan)) {
            Some(DropReason::VlanNotCarried)
        } else if vlan.is_some_and(|vlan| switch.suspended.contains(vlan)) {
            Some(DropReason::VlanSuspended)
        } else if frame.payload_bytes() > port.mtu {
            Some(DropReason::Oversize)
        } else if arrival.trip.hops >= HOPS_MAX {
            Some(DropReason::TooManyHops)
        } else if port.channel.is_some() && !port.bundled {
            Some(DropReason::ChannelDown)
        } else {
            None
        };
        let (Some(vlan), None) = (vlan, refused) else {
            tally.lose(refused.unwrap_or(DropReason::VlanNotCarried), counted, bytes);
            return;
        };
        tally.carry(&self.slots, counted, frame.tag().map_or(0, Tag::pcp), bytes);
        if let End::Nic(nic) = link.ends[arrival.direction.from()] {
            self.experiments.see(&frame, (nic, vlan), self.now);
        }
        let place = port.channel.map_or(Place::Port(arrival.port), Place::Channel);
        let inside = Inside {
            switch: port.switch,
            came_by: arrival.trip.entered.unwrap_or(place),
            from_peer: arrival.trip.entered.is_some(),
            vlan,
            priority: frame.tag().unwrap_or(Tag::from_tci(0)),
            hops: arrival.trip.hops + 1,
        };
        if !inside.from_peer {
            // The other switch of a pair has learned it for both.
            let table = self.table_of(inside.switch, vlan);
            self.switches[table].addresses.learn(vlan, frame.source(), place, self.now);
        }
        self.forward(inside, &frame, outlet);
    }

    fn forward(&mut self, inside: Inside, frame: &Frame<'_>, outlet: &mut impl Outlet) {
        let destination = frame.destination();
        let table = self.table_of(inside.switch, inside.vlan);
        let known = if is_group(destination) {
            None
        } else {
            self.switches[table].addresses.place_of(inside.vlan, destination, self.now)
        };
        match known {
            Some(place) if place == inside.came_by => {} // it lives where it came from
            Some(Place::Port(port)) if self.ports[port].switch == inside.switch => {
                self.leave(inside, port, frame, outlet);
            }
            Some(Place::Port(_)) => self.leave_to_peer(inside, frame, outlet),
            Some(Place::Channel(channel)) => self.leave_by_channel(inside, channel, frame, outlet),
            None => self.flood(inside, frame, outlet),
        }
    }

    fn flood(&mut self, inside: Inside, frame: &Frame<'_>, outlet: &mut impl Outlet) {
        for at in 0..self.switches[inside.switch].singles.len() {
            let port = self.switches[inside.switch].singles[at];
            if inside.came_by != Place::Port(port) {
                self.leave(inside, port, frame, outlet);
            }
        }
        self.flood_channels(inside, frame, outlet);
    }

    /// A frame leaves a switch by a port, if it may.
    pub(super) fn leave(
        &mut self,
        inside: Inside,
        port_index: usize,
        frame: &Frame<'_>,
        outlet: &mut impl Outlet,
    ) {
        let port = &self.ports[port_index];
        let Some((link, direction)) = port.link else { return };
        if !port.carries(inside.vlan) {
            return;
        }
        let tagged = port.native != Some(inside.vlan);
        let out = frame.with_tag(tagged.then(|| inside.priority.with_vid(inside.vlan)));
        if out.payload_bytes() > port.mtu {
            let tally = &mut self.links[link].tallies[direction as usize];
            tally.lose(DropReason::Oversize, Some(inside.vlan), out.wire_bytes());
            return;
        }
        let to_peer = port.channel.is_some_and(|channel| self.channels[channel].is_peer);
        let trip = Trip {
            sent_in: Some(inside.vlan),
            hops: inside.hops,
            entered: to_peer.then_some(inside.came_by),
        };
        self.send(link, direction, &out, trip, outlet);
    }
}
