//! Breaking things and mending them.
//!
//! Every change goes through [`Switchboard::change`]: compare all cables before and after; where one went down or
//! moved, its ports forget what they learned; where one came up, moved, or opened in a direction, its ports introduce
//! themselves by LLDP at once; the NICs whose carrier changed are returned, for the lab to tell its machines.

use super::shape::{Shaper, Shaping};
use super::{Direction, End, NicIndex, Outlet, Switchboard};
use crate::counters::DropReason;
use crate::ids::{LinkId, NicId, SwitchId};
use crate::mac_table::Place;
use crate::topology::PortRef;
use serde::{Deserialize, Serialize};

/// Which way over a cable: of a cut, or of shaping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ways {
    /// Both ways. Both ends of a cable that is cut so see it.
    Both,
    /// From end a to end b. Neither end sees a cut.
    AToB,
    /// From end b to end a. Neither end sees a cut.
    BToA,
}

/// A NIC whose link came up or went down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarrierChange {
    /// The NIC.
    pub nic: NicId,
    /// Whether it has carrier now.
    pub carrier: bool,
}

/// A fault that can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// No such cable.
    #[error("there is no link `{0}`")]
    UnknownLink(LinkId),
    /// No such switch.
    #[error("there is no switch `{0}`")]
    UnknownSwitch(SwitchId),
    /// No such port.
    #[error("there is no port {0}")]
    UnknownPort(PortRef),
    /// No such NIC.
    #[error("there is no NIC `{0}`")]
    UnknownNic(NicId),
    /// The NIC has no cable that could be moved.
    #[error("NIC `{0}` has no cable")]
    NotCabled(NicId),
    /// Numbers out of their bounds.
    #[error("{0}")]
    Impossible(&'static str),
    /// Another cable is in the port.
    #[error("port {port} is taken by link `{link}`")]
    PortTaken {
        /// The port.
        port: PortRef,
        /// What is in it.
        link: LinkId,
    },
}

impl Switchboard {
    /// Cuts a cable. Cuts add up: one each way is a cut of both.
    pub fn cut_link(
        &mut self,
        link: &LinkId,
        cut: Ways,
        outlet: &mut impl Outlet,
    ) -> Result<Vec<CarrierChange>, FaultError> {
        let index = self.link_index(link)?;
        Ok(self.change(outlet, |board| {
            let [a_to_b, b_to_a] = &mut board.links[index].cut;
            *a_to_b |= cut != Ways::BToA;
            *b_to_a |= cut != Ways::AToB;
        }))
    }

    /// Shapes a cable, in place of what shaped it before; [`Shaping::default`] ends that. What is on the cable already arrives as
    /// it would have, and nothing overtakes it.
    pub fn shape_link(&mut self, link: &LinkId, ways: Ways, shaping: Shaping) -> Result<(), FaultError> {
        let index = self.link_index(link)?;
        if !shaping.is_possible() {
            return Err(FaultError::Impossible(
                "latency and jitter are at most 10000000 us each, loss at most 1000000 of a million",
            ));
        }
        for (way, other) in [(Direction::AToB, Ways::BToA), (Direction::BToA, Ways::AToB)] {
            if ways != other {
                self.reshape(index, way, shaping);
            }
        }
        Ok(())
    }

    fn reshape(&mut self, link: usize, direction: Direction, shaping: Shaping) {
        // Each direction draws for itself.
        let seed = shaping.seed ^ (direction as u64) << 63;
        let shaper = &mut self.links[link].shapers[direction as usize];
        let next = Shaper::new(Shaping { seed, ..shaping }, shaper.as_ref());
        *shaper = (!next.is_over(self.now)).then_some(next);
    }

    /// Mends a cable, both ways: no cut, no flapping. Shaping stays.
    pub fn restore_link(
        &mut self,
        link: &LinkId,
        outlet: &mut impl Outlet,
    ) -> Result<Vec<CarrierChange>, FaultError> {
        let index = self.link_index(link)?;
        Ok(self.change(outlet, |board| {
            board.links[index].cut = [false; 2];
            board.end_flapping(Some(index));
        }))
    }

    /// Switches a switch off or on. What was learned at its ports is forgotten.
    pub fn set_switch_up(
        &mut self,
        switch: &SwitchId,
        up: bool,
        outlet: &mut impl Outlet,
    ) -> Result<Vec<CarrierChange>, FaultError> {
        let index = self.switch_index(switch).ok_or_else(|| FaultError::UnknownSwitch(switch.clone()))?;
        Ok(self.change(outlet, |board| board.switches[index].up = up))
    }

    /// Pulls a NIC's cable out of its switch port and plugs it into another, free one. The cable stays the same: its
    /// name, its counters, and its cuts if it has any.
    pub fn recable(
        &mut self,
        nic: &NicId,
        to: &PortRef,
        outlet: &mut impl Outlet,
    ) -> Result<Vec<CarrierChange>, FaultError> {
        let index = self.nic(nic).ok_or_else(|| FaultError::UnknownNic(nic.clone()))?;
        let (link, away) = self.nics[index.0].link.ok_or_else(|| FaultError::NotCabled(nic.clone()))?;
        let port = self.port_index(to).ok_or_else(|| FaultError::UnknownPort(to.clone()))?;
        if let Some((other, _)) = self.ports[port].link.filter(|(other, _)| *other != link) {
            return Err(FaultError::PortTaken { port: to.clone(), link: self.links[other].id.clone() });
        }
        Ok(self.change(outlet, |board| {
            board.links[link].ends[away.to()] = End::Port(port);
            board.connect_ends();
        }))
    }

    /// Plugs every cable back to where the topology has it.
    pub fn restore_cabling(&mut self, outlet: &mut impl Outlet) -> Vec<CarrierChange> {
        self.change(outlet, Self::rewire_home)
    }

    /// Undoes every fault: cables mended, not shaped, and where they belong, switches running, ports set up rightly.
    pub fn heal(&mut self, outlet: &mut impl Outlet) -> Vec<CarrierChange> {
        self.set_up_rightly(outlet);
        self.change(outlet, |board| {
            board.links.iter_mut().for_each(|link| link.cut = [false; 2]);
            board.switches.iter_mut().for_each(|switch| switch.up = true);
            board.end_flapping(None);
            for link in 0..board.links.len() {
                for direction in Direction::BOTH {
                    board.reshape(link, direction, Shaping::default());
                }
            }
            board.rewire_home();
        })
    }

    fn rewire_home(&mut self) {
        self.links.iter_mut().for_each(|link| link.ends = link.home);
        self.connect_ends();
    }

    pub(super) fn link_index(&self, link: &LinkId) -> Result<usize, FaultError> {
        let found = self.links.iter().position(|candidate| candidate.id == *link);
        found.ok_or_else(|| FaultError::UnknownLink(link.clone()))
    }

    /// Whether both ends of a cable see each other's light: not cut both ways, no switch at its ends down.
    pub(super) fn is_live(&self, link: usize) -> bool {
        let link = &self.links[link];
        let powered = |end: &End| match end {
            End::Port(port) => self.switches[self.ports[*port].switch].up,
            End::Nic(_) => true,
        };
        !Direction::BOTH.iter().all(|direction| link.is_cut(*direction)) && link.ends.iter().all(powered)
    }

    pub(super) fn change(
        &mut self,
        outlet: &mut impl Outlet,
        apply: impl FnOnce(&mut Self),
    ) -> Vec<CarrierChange> {
        let state = |board: &Self, link: usize| {
            let cable = &board.links[link];
            (board.is_live(link), Direction::BOTH.map(|direction| cable.is_cut(direction)), cable.ends)
        };
        let links = 0..self.links.len();
        let before: Vec<_> = links.map(|link| state(self, link)).collect();
        let carriers: Vec<bool> = self.carriers().collect();
        apply(self);
        self.refresh_channels();
        for (link, was) in before.into_iter().enumerate() {
            let is = state(self, link);
            if was == is {
                continue;
            }
            if was.0 && (!is.0 || was.2 != is.2) {
                was.2.into_iter().for_each(|end| self.forget_end(end));
                self.lose_in_flight(link);
            }
            if is.0 {
                self.announce(link, outlet);
            }
        }
        let after = self.carriers().zip(carriers).zip(self.nics());
        after
            .filter(|((is, was), _)| is != was)
            .map(|((carrier, _), nic)| CarrierChange { nic: nic.clone(), carrier })
            .collect()
    }

    /// What is on a cable that went down or was pulled out is lost.
    fn lose_in_flight(&mut self, link: usize) {
        for flight in self.flights.take_off(link) {
            let tally = &mut self.links[link].tallies[flight.direction as usize];
            tally.lose(DropReason::Cut, flight.trip.sent_in, flight.bytes.len());
        }
    }

    fn carriers(&self) -> impl Iterator<Item = bool> {
        (0..self.nics.len()).map(|nic| self.has_carrier(NicIndex(nic)))
    }

    /// The port at this end, if it is one, lost its link: its switch forgets what it learned there, and so does the one that
    /// keeps addresses for it.
    pub(super) fn forget_end(&mut self, end: End) {
        if let End::Port(port) = end {
            let switch = self.ports[port].switch;
            let first = self.switches[switch].peer.as_ref().map_or(switch, |peer| peer.first);
            for table in [switch, first] {
                self.switches[table].addresses.forget(Place::Port(port));
            }
        }
    }
}
