//! The switches themselves, without sockets, clocks or files: frames and faults in, frames out.
//!
//! Purpose: what happens to a frame. It enters at a NIC, crosses cables and switches, and is handed to an [`Outlet`] for
//! every NIC that it reaches. Every crossing of a cable in one direction goes through one function ([`Switchboard::send`]),
//! where cuts and shaping are; it comes out in `come_out`, where counters and captures are.
//!
//! Rules of a switch (IEEE 802.1Q-2018):
//! - an untagged frame belongs to the port's native VLAN; so does one with VLAN id 0, whose priority is kept (6.9.1);
//! - a frame tagged with the native VLAN's id is accepted ("admit all frames", 6.9);
//! - a frame of a VLAN that the port doesn't carry is dropped on arrival (8.6.2), and never sent there (8.6.4);
//! - it leaves untagged in the port's native VLAN and tagged otherwise, with the priority that it came with;
//! - it never leaves by the port it came in by, nor as more than one copy per port;
//! - frames to 01:80:c2:00:00:0x are taken and forwarded nowhere (8.6.3);
//! - a packet longer than the MTU of the port it arrives at, or would leave by, is dropped: switches don't fragment;
//! - a suspended VLAN is forwarded nowhere.
//!
//! Invariants: topology is validated, so that every index below is good and no frame goes round in circles; still the
//! number of hops is bounded. The work for a frame is bounded by the number of ports. Time is whatever the caller says, and
//! must not go back.
//!
//! On failure: nothing here fails on a frame; what can't be forwarded is dropped and counted with its reason.

mod build;
mod channel;
#[cfg(test)]
mod channel_tests;
#[cfg(test)]
mod count_tests;
#[cfg(test)]
mod experiment_tests;
mod experiments;
#[cfg(test)]
pub(crate) use channel_tests::rooms;
mod faults;
mod flap;
mod flight;
mod forward;
mod misset;
#[cfg(test)]
mod misset_tests;
mod shape;
#[cfg(test)]
mod shape_tests;
#[cfg(test)]
mod tests;

pub use faults::{CarrierChange, FaultError, Ways};
pub use flap::Flap;
pub use shape::Shaping;

use crate::control::Experiments;
use crate::counters::{DropReason, LinkCounters, Snapshot, Tally, VlanSlots};
use crate::frame::{Frame, Tag};
use crate::ids::{LinkId, NicId, PortName, SwitchId};
use crate::kind::Kind;
use crate::mac_table::{MacTable, Place};
use crate::topology::Topology;
use flap::Flapping;
use flight::Flights;
use ipnet::Ipv4Net;
use misset::Misset;
use shape::Shaper;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Switches that a frame may go through. Two racks and a spine need five.
const HOPS_MAX: u8 = 16;

/// Which NIC, in the order of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicIndex(pub usize);

/// Which cable, in the order of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkIndex(pub usize);

/// What became of a frame at a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It will be sent.
    Taken,
    /// Nobody is connected.
    NoSocket,
    /// Too much waits to be sent already.
    Full,
}

/// Where frames leave the switchboard.
pub trait Outlet {
    /// Sends a frame to a NIC.
    fn deliver(&mut self, nic: NicIndex, frame: &Frame<'_>) -> Delivery;
    /// Writes down a frame that crossed a cable being captured.
    fn capture(&mut self, link: LinkIndex, frame: &Frame<'_>);
}

/// All switches, NICs and cables at work.
#[derive(Debug)]
pub struct Switchboard {
    /// As it is meant to be.
    topology: Topology,
    /// Ports that are set up otherwise, by their index.
    missets: BTreeMap<usize, Misset>,
    switches: Vec<Switch>,
    ports: Vec<Port>,
    nics: Vec<Nic>,
    links: Vec<Link>,
    channels: Vec<Channel>,
    slots: VlanSlots,
    /// Which VLAN addresses belong to.
    homes: Vec<(Ipv4Net, u16)>,
    experiments: experiments::Log,
    lldp_interval: Duration,
    lldp_due: Duration,
    /// The latest time that anybody told.
    now: Duration,
    flights: Flights,
    flappings: Vec<Flapping>,
    /// Frames on their way into a switch; empty between calls, kept for its memory.
    arrivals: Vec<Arrival>,
}

#[derive(Debug)]
struct Switch {
    id: SwitchId,
    up: bool,
    ports: Vec<usize>,
    /// Its ports that are in no port channel.
    singles: Vec<usize>,
    /// Its members of each port channel, but for the peer channel.
    bundles: Vec<Bundle>,
    peer: Option<Peer>,
    suspended: VlanSet,
    addresses: MacTable,
}

#[derive(Debug)]
struct Port {
    name: PortName,
    switch: usize,
    native: Option<u16>,
    tagged: VlanSet,
    mtu: usize,
    lldp: Vec<u8>,
    /// The cable, and the direction that leads away from this port.
    link: Option<(usize, Direction)>,
    /// The port channel that it is in.
    channel: Option<usize>,
    /// Whether it works as a member of its port channel.
    bundled: bool,
}

/// What a switch has of a port channel.
#[derive(Debug)]
struct Bundle {
    channel: usize,
    ports: Vec<usize>,
}

/// The other switch of a pair.
#[derive(Debug)]
struct Peer {
    switch: usize,
    /// The peer channel's ports on this side.
    ports: Vec<usize>,
    /// The VLANs in which the two are one switch.
    shared: VlanSet,
    /// Which of the two keeps the addresses of these VLANs for both, and goes on alone when they can't hear each other.
    first: usize,
}

#[derive(Debug)]
struct Channel {
    links: Vec<usize>,
    is_peer: bool,
}

#[derive(Debug)]
struct Nic {
    id: NicId,
    /// The cable, and the direction that leads away from this NIC.
    link: Option<(usize, Direction)>,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    ends: [End; 2],
    /// The ends as the topology has them.
    home: [End; 2],
    cut: [bool; 2],
    /// Whether it is in the lower half of a flap.
    flapped_down: bool,
    shapers: [Option<Shaper>; 2],
    tallies: [Tally; 2],
    captured: bool,
    /// Frames from or to these trespass.
    kept_off: Vec<Ipv4Net>,
}

impl Link {
    /// Somebody else's question for an address is no frame of that address: its answer would be.
    fn is_trespassed_by(&self, frame: &Frame<'_>) -> bool {
        let kept_off = |end: &Ipv4Addr| self.kept_off.iter().any(|net| net.contains(end));
        let speakers = if frame.is_arp_question() { 1 } else { 2 };
        !self.kept_off.is_empty()
            && frame.ipv4_ends().is_some_and(|ends| ends[..speakers].iter().any(kept_off))
    }

    fn is_cut(&self, direction: Direction) -> bool {
        self.flapped_down || self.cut[direction as usize]
    }
}

/// How a frame is in a VLAN that is not its address's home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stray {
    Packet,
    Question,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Port(usize),
    Nic(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    AToB = 0,
    BToA = 1,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::AToB, Self::BToA];

    /// Index of the end that sends.
    fn from(self) -> usize {
        self as usize
    }

    /// Index of the end that receives.
    fn to(self) -> usize {
        1 - self as usize
    }
}

/// 4096 bits, one per VLAN id.
#[derive(Debug, Clone)]
struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    fn none() -> Self {
        Self(Box::new([0; 64]))
    }

    fn contains(&self, vlan: u16) -> bool {
        self.0.get(usize::from(vlan / 64)).is_some_and(|word| word >> (vlan % 64) & 1 == 1)
    }
}

impl Port {
    fn all_vlans(&self) -> VlanSet {
        let mut vlans = self.tagged.clone();
        if let Some(word) = self.native.and_then(|vlan| vlans.0.get_mut(usize::from(vlan / 64))) {
            *word |= 1 << (self.native.unwrap_or_default() % 64);
        }
        vlans
    }

    fn carries(&self, vlan: u16) -> bool {
        self.native == Some(vlan) || self.tagged.contains(vlan)
    }

    /// The VLAN that a frame with this tag belongs to when it arrives here.
    fn classify(&self, tag: Option<Tag>) -> Option<u16> {
        tag.map(Tag::vid).filter(|vid| *vid != 0).or(self.native)
    }
}

/// A frame that came through a cable to a port.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    port: usize,
    link: usize,
    direction: Direction,
    tag: Option<Tag>,
    trip: Trip,
}

/// What is known of a frame besides its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Trip {
    /// The VLAN that it had in the switch that sent it; `None` from a NIC.
    sent_in: Option<u16>,
    /// The switches that it went through.
    hops: u8,
    /// Over a peer channel: where it entered the pair.
    entered: Option<Place>,
}

/// A frame inside a switch.
#[derive(Debug, Clone, Copy)]
struct Inside {
    switch: usize,
    /// Where it entered the switch, or the pair of switches.
    came_by: Place,
    /// Whether it came from the other switch of the pair.
    from_peer: bool,
    vlan: u16,
    /// Priority and drop eligibility; its VLAN id means nothing.
    priority: Tag,
    hops: u8,
}

impl Switchboard {
    /// Where a NIC is called `id`.
    pub fn nic(&self, id: &NicId) -> Option<NicIndex> {
        self.nics.iter().position(|nic| nic.id == *id).map(NicIndex)
    }

    /// All NICs, in the order of their index.
    pub fn nics(&self) -> impl Iterator<Item = &NicId> {
        self.nics.iter().map(|nic| &nic.id)
    }

    /// Takes a frame that a NIC sent. The bytes may be anything.
    pub fn ingress(&mut self, nic: NicIndex, bytes: &[u8], now: Duration, outlet: &mut impl Outlet) {
        self.advance(now, outlet);
        let Some((link, direction)) = self.nics.get(nic.0).and_then(|nic| nic.link) else { return };
        let Some(frame) = Frame::parse(bytes) else {
            self.links[link].tallies[direction as usize].lose(DropReason::Malformed, None, bytes.len());
            return;
        };
        self.send(link, direction, &frame, Trip::default(), outlet);
        self.drain_arrivals(&frame, outlet);
    }

    /// All that becomes of a frame until every copy is delivered, lost, or on its way over a shaped cable.
    fn drain_arrivals(&mut self, frame: &Frame<'_>, outlet: &mut impl Outlet) {
        while let Some(arrival) = self.arrivals.pop() {
            self.arrive(arrival, frame.with_tag(arrival.tag), outlet);
        }
    }

    /// Lets time pass: what is due until then happens, each at its own time and in order.
    pub fn advance(&mut self, now: Duration, outlet: &mut impl Outlet) {
        loop {
            let due = |at: &Duration| *at <= now;
            match (self.flights.next_at().filter(due), self.next_flap_at().filter(due)) {
                (None, None) => break,
                (Some(flight), flap) if flap.is_none_or(|flap| flight <= flap) => {
                    self.now = self.now.max(flight);
                    self.land(outlet);
                }
                (_, flap) => {
                    self.now = flap.map_or(self.now, |flap| self.now.max(flap));
                    self.turn_flap(self.now, outlet);
                }
            }
        }
        self.now = self.now.max(now);
    }

    /// The next frame comes out of a shaped cable.
    fn land(&mut self, outlet: &mut impl Outlet) {
        let Some(flight) = self.flights.pop_due(self.now) else { return };
        let Some(frame) = Frame::parse(&flight.bytes) else { return };
        if self.links[flight.link].is_cut(flight.direction) {
            let tally = &mut self.links[flight.link].tallies[flight.direction as usize];
            tally.lose(DropReason::Cut, flight.trip.sent_in, flight.bytes.len());
            return;
        }
        self.come_out(flight.link, flight.direction, &frame, flight.trip, outlet);
        self.drain_arrivals(&frame, outlet);
    }

    /// A QEMU connected to a NIC: its port introduces itself at once, as a real one does when its link comes up.
    pub fn nic_connected(&mut self, nic: NicIndex, outlet: &mut impl Outlet) {
        if let Some((link, _)) = self.nics.get(nic.0).and_then(|nic| nic.link) {
            self.announce(link, outlet);
        }
    }

    /// A NIC's QEMU went away: its port's link goes down.
    pub fn nic_disconnected(&mut self, nic: NicIndex) {
        if let Some((link, direction)) = self.nics.get(nic.0).and_then(|nic| nic.link) {
            self.forget_end(self.links[link].ends[direction.to()]);
        }
    }

    /// Does what is due, and says when to come back.
    pub fn tick(&mut self, now: Duration, outlet: &mut impl Outlet) -> Duration {
        self.advance(now, outlet);
        if now >= self.lldp_due {
            for link in 0..self.links.len() {
                self.announce(link, outlet);
            }
            // Intervals that were slept through are left out, not made up for.
            let next = self.lldp_due + self.lldp_interval;
            self.lldp_due = if next > now { next } else { now + self.lldp_interval };
        }
        let others = [self.flights.next_at(), self.next_flap_at()];
        others.into_iter().flatten().fold(self.lldp_due, Duration::min)
    }

    /// Whether a NIC's link is up as the NIC sees it. A cable that is cut one way still is: that is what makes such
    /// cuts nasty.
    pub fn has_carrier(&self, nic: NicIndex) -> bool {
        let link = self.nics.get(nic.0).and_then(|nic| nic.link);
        link.is_some_and(|(link, _)| self.is_live(link))
    }

    /// All counters.
    pub fn counters(&self, now: Duration) -> Snapshot {
        let links = self.links.iter().map(|link| LinkCounters {
            link: link.id.clone(),
            a_to_b: link.tallies[0].snapshot(&self.slots),
            b_to_a: link.tallies[1].snapshot(&self.slots),
        });
        Snapshot { at_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX), links: links.collect() }
    }

    /// Frames for local experiments that came from NICs, from this number on; those that are told at once.
    pub fn experiments(&self, since: u64) -> Experiments {
        self.experiments.since(since, |nic| self.nics.get(nic).map(|nic| nic.id.clone()))
    }

    /// Starts or stops handing a cable's frames to [`Outlet::capture`]. Captured is what comes out of the cable, whether
    /// or not its receiver takes it; what was cut is not.
    pub fn set_captured(&mut self, link: LinkIndex, captured: bool) {
        if let Some(link) = self.links.get_mut(link.0) {
            link.captured = captured;
        }
    }

    /// Where a cable is called `id`.
    pub fn link(&self, id: &LinkId) -> Result<LinkIndex, FaultError> {
        self.link_index(id).map(LinkIndex)
    }

    /// Puts a frame on a cable: the one way from anywhere to anywhere.
    fn send(
        &mut self,
        link_index: usize,
        direction: Direction,
        frame: &Frame<'_>,
        trip: Trip,
        outlet: &mut impl Outlet,
    ) {
        if !frame.is_link_local() {
            self.note(link_index, direction, frame, trip);
        }
        let link = &mut self.links[link_index];
        if link.is_cut(direction) {
            let vlan = self.counted_vlan(link_index, direction, frame, trip);
            let tally = &mut self.links[link_index].tallies[direction as usize];
            tally.lose(DropReason::Cut, vlan, frame.wire_bytes());
            return;
        }
        if let Some(shaper) = link.shapers[direction as usize].as_mut().filter(|s| !s.is_over(self.now)) {
            let admitted = shaper.admit(self.now, frame.wire_bytes()).and_then(|at| {
                let flies = self.flights.push(at, link_index, direction, trip, frame.to_vec());
                if flies { Ok(()) } else { Err(DropReason::QueueFull) }
            });
            if let Err(reason) = admitted {
                let vlan = self.counted_vlan(link_index, direction, frame, trip);
                let tally = &mut self.links[link_index].tallies[direction as usize];
                tally.lose(reason, vlan, frame.wire_bytes());
            }
            return;
        }
        self.come_out(link_index, direction, frame, trip, outlet);
    }

    /// Counts what is put on a cable by what it is, before anything becomes of it.
    fn note(&mut self, link_index: usize, direction: Direction, frame: &Frame<'_>, trip: Trip) {
        let vlan = self.counted_vlan(link_index, direction, frame, trip);
        let strays = self.strays(frame, vlan);
        let link = &mut self.links[link_index];
        let trespasses = link.is_trespassed_by(frame);
        let tally = &mut link.tallies[direction as usize];
        tally.send(&self.slots, vlan, frame.tag().map_or(0, Tag::pcp), Kind::of(frame));
        let bytes = frame.wire_bytes();
        if trespasses {
            tally.trespassing.add(bytes);
        }
        match strays {
            Some(Stray::Packet) => tally.astray.add(bytes),
            Some(Stray::Question) => tally.asked_astray.add(bytes),
            None => {}
        }
    }

    /// Whether a frame in a VLAN goes to an address, or comes from one that speaks by ARP, whose home is another VLAN.
    fn strays(&self, frame: &Frame<'_>, vlan: Option<u16>) -> Option<Stray> {
        let [from, to] = if self.homes.is_empty() { None } else { frame.ipv4_ends() }?;
        let is_astray = |address: Ipv4Addr| {
            self.homes.iter().any(|(subnet, home)| subnet.contains(&address) && vlan != Some(*home))
        };
        if frame.is_arp() {
            let question = || (frame.is_arp_question() && is_astray(to)).then_some(Stray::Question);
            // An answer's target is whoever asked; a claim's is the address itself.
            let claim = from.is_unspecified() && is_astray(to);
            if is_astray(from) || claim { Some(Stray::Packet) } else { question() }
        } else {
            is_astray(to).then_some(Stray::Packet)
        }
    }

    /// The VLAN that a frame on a cable is counted in.
    fn counted_vlan(&self, link: usize, direction: Direction, frame: &Frame<'_>, trip: Trip) -> Option<u16> {
        trip.sent_in.or_else(|| match self.links[link].ends[direction.to()] {
            End::Port(port) => self.ports[port].classify(frame.tag()),
            End::Nic(_) => None, // only ports send to NICs, and they say what VLAN
        })
    }

    /// A frame is at the other end of a cable.
    fn come_out(
        &mut self,
        link_index: usize,
        direction: Direction,
        frame: &Frame<'_>,
        trip: Trip,
        outlet: &mut impl Outlet,
    ) {
        let link = &mut self.links[link_index];
        let tally = &mut link.tallies[direction as usize];
        match link.ends[direction.to()] {
            End::Nic(nic) => {
                if link.captured {
                    outlet.capture(LinkIndex(link_index), frame);
                }
                let bytes = frame.wire_bytes();
                let vlan = trip.sent_in;
                match outlet.deliver(NicIndex(nic), frame) {
                    Delivery::Taken if frame.is_link_local() => tally.link_local.add(bytes),
                    Delivery::Taken => {
                        let pcp = frame.tag().map_or(0, Tag::pcp);
                        tally.carry(&self.slots, vlan, pcp, bytes);
                    }
                    _ if frame.is_link_local() => {}
                    Delivery::NoSocket => tally.lose(DropReason::NoSocket, vlan, bytes),
                    Delivery::Full => tally.lose(DropReason::Backpressure, vlan, bytes),
                }
            }
            End::Port(port) if self.switches[self.ports[port].switch].up => {
                self.arrivals.push(Arrival { port, link: link_index, direction, tag: frame.tag(), trip });
            }
            End::Port(_) => {
                let vlan = self.counted_vlan(link_index, direction, frame, trip);
                let tally = &mut self.links[link_index].tallies[direction as usize];
                tally.lose(DropReason::SwitchDown, vlan, frame.wire_bytes());
            }
        }
    }

    /// Both ends of a cable, where they are ports of running switches, send LLDP.
    fn announce(&mut self, link_index: usize, outlet: &mut impl Outlet) {
        for direction in Direction::BOTH {
            let link = &self.links[link_index];
            let End::Port(from) = link.ends[direction.from()] else { continue };
            let hears = match link.ends[direction.to()] {
                End::Nic(_) => true,
                End::Port(to) => self.switches[self.ports[to].switch].up,
            };
            if !self.switches[self.ports[from].switch].up || link.is_cut(direction) || !hears {
                continue;
            }
            let lldp = std::mem::take(&mut self.ports[from].lldp);
            if let Some(frame) = Frame::parse(&lldp) {
                self.send(link_index, direction, &frame, Trip::default(), outlet);
                self.drain_arrivals(&frame, outlet);
            }
            self.ports[from].lldp = lldp;
        }
    }
}
