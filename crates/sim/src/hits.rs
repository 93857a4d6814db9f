//! How often each legal transition was taken.

use control::Event;
use control::transition::{LEGS, VOLUMES, VolumeCause};
use control::vm::transition::VMS;

/// Counts, in the order of `control`'s tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hits {
    /// Of legs.
    pub legs: [u64; LEGS.len()],
    /// Of volumes.
    pub volumes: [u64; VOLUMES.len()],
    /// Of virtual machines.
    pub vms: [u64; VMS.len()],
    /// How often a volume had a new size.
    pub grown: u64,
}

impl Default for Hits {
    fn default() -> Self {
        Self { legs: [0; LEGS.len()], volumes: [0; VOLUMES.len()], vms: [0; VMS.len()], grown: 0 }
    }
}

impl Hits {
    pub(crate) fn count(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Leg(_, _, from, cause, to) => {
                    let at = LEGS.iter().position(|row| *row == (*from, *cause, *to));
                    if let Some(at) = at {
                        self.legs[at] += 1;
                    }
                }
                Event::Volume(_, _, from, cause, to) => {
                    let at = VOLUMES.iter().position(|row| *row == (*from, *cause, *to));
                    if let Some(at) = at {
                        self.volumes[at] += 1;
                    }
                }
                Event::Vm(_, _, from, cause, to) => {
                    let at = VMS.iter().position(|row| *row == (*from, *cause, *to));
                    if let Some(at) = at {
                        self.vms[at] += 1;
                    }
                }
                Event::VolumeGrown(..) => self.grown += 1,
                _ => {}
            }
        }
    }

    /// Takes another's counts in.
    pub fn add(&mut self, other: &Self) {
        self.legs.iter_mut().zip(other.legs).for_each(|(own, other)| *own += other);
        self.volumes.iter_mut().zip(other.volumes).for_each(|(own, other)| *own += other);
        self.vms.iter_mut().zip(other.vms).for_each(|(own, other)| *own += other);
        self.grown += other.grown;
    }

    /// How many takeovers there were.
    pub fn takeovers(&self) -> u64 {
        let takeover = |(row, _): &(&(_, VolumeCause, _), &u64)| row.1 == VolumeCause::Takeover;
        VOLUMES.iter().zip(&self.volumes).filter(takeover).map(|(_, count)| count).sum()
    }

    /// Every transition and its count, as a person reads it.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let legs = LEGS.iter().zip(self.legs);
        let legs =
            legs.map(|((from, cause, to), count)| (format!("leg    {from:?} ─{cause:?}→ {to:?}"), count));
        let volumes = VOLUMES.iter().zip(self.volumes);
        let volumes =
            volumes.map(|((from, cause, to), count)| (format!("volume {from:?} ─{cause:?}→ {to:?}"), count));
        let vms = VMS.iter().zip(self.vms);
        let vms =
            vms.map(|((from, cause, to), count)| (format!("vm     {from:?} ─{cause:?}→ {to:?}"), count));
        legs.chain(volumes).chain(vms).chain([("volume grown".to_owned(), self.grown)]).collect()
    }
}
