//! Cables that go down and come up again by themselves, in time with the fabric's own clock.
//!
//! Invariants: a cable flaps in at most one way; every flapping ends after its cycles, with the cable up. Nobody is told of the
//! carriers that change: who must know asks ([`Switchboard::has_carrier`]).

use super::faults::CarrierChange;
use super::{FaultError, Outlet, Switchboard};
use crate::ids::LinkId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The shortest time up or down, ms: shorter is a lossy link.
const PHASE_MS_MIN: u32 = 10;
/// The longest, ms.
const PHASE_MS_MAX: u32 = 600_000;
/// Cycles at most.
const CYCLES_MAX: u32 = 10_000;

/// How a cable flaps: down, up, down, up…
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flap {
    /// How long it is down each time, ms; 10 to 600 000. It goes down at once.
    pub down_ms: u32,
    /// How long it is up in between, ms; 10 to 600 000.
    pub up_ms: u32,
    /// How often it goes down, 1 to 10 000.
    pub cycles: u32,
}

impl Flap {
    fn is_possible(self) -> bool {
        let phases = PHASE_MS_MIN..=PHASE_MS_MAX;
        phases.contains(&self.down_ms)
            && phases.contains(&self.up_ms)
            && (1..=CYCLES_MAX).contains(&self.cycles)
    }
}

/// A cable at it.
#[derive(Debug)]
pub(super) struct Flapping {
    link: usize,
    flap: Flap,
    /// Cycles that have not begun.
    cycles_left: u32,
    /// When it changes next.
    next_at: Duration,
}

impl Switchboard {
    /// Lets a cable flap, from now on. It ends by itself, by [`Self::restore_link`] or by [`Self::heal`].
    pub fn flap_link(
        &mut self,
        link: &LinkId,
        flap: Flap,
        outlet: &mut impl Outlet,
    ) -> Result<Vec<CarrierChange>, FaultError> {
        let index = self.link_index(link)?;
        if !flap.is_possible() {
            return Err(FaultError::Impossible(
                "a flap has 1 to 10000 cycles of 10 to 600000 ms down and up",
            ));
        }
        self.flappings.retain(|other| other.link != index);
        let next_at = self.now + Duration::from_millis(flap.down_ms.into());
        self.flappings.push(Flapping { link: index, flap, cycles_left: flap.cycles - 1, next_at });
        Ok(self.change(outlet, |board| board.links[index].flapped_down = true))
    }

    /// Ends the flapping of a cable, or of all. The caller has [`Self::change`] look at what that changes.
    pub(super) fn end_flapping(&mut self, link: Option<usize>) {
        self.flappings.retain(|flapping| link.is_some_and(|link| flapping.link != link));
        for (index, cable) in self.links.iter_mut().enumerate() {
            cable.flapped_down &= link.is_some_and(|link| index != link);
        }
    }

    pub(super) fn next_flap_at(&self) -> Option<Duration> {
        self.flappings.iter().map(|flapping| flapping.next_at).min()
    }

    /// Turns the cable whose time has come.
    pub(super) fn turn_flap(&mut self, at: Duration, outlet: &mut impl Outlet) {
        let Some(index) = self.flappings.iter().position(|flapping| flapping.next_at <= at) else { return };
        let flapping = &mut self.flappings[index];
        let link = flapping.link;
        let goes_down = !self.links[link].flapped_down;
        let phase_ms = if goes_down { flapping.flap.down_ms } else { flapping.flap.up_ms };
        flapping.next_at += Duration::from_millis(phase_ms.into());
        if goes_down {
            flapping.cycles_left -= 1;
        } else if flapping.cycles_left == 0 {
            self.flappings.swap_remove(index);
        }
        self.change(outlet, |board| board.links[link].flapped_down = goes_down);
    }
}
