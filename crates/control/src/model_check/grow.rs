//! The volume grows, once, by two slabs: what its legs got is filled with zeros, mapped, told to the ledger, and given to users, who write there once.
//!
//! One write behind the old end at a time, and at once on all legs: what is at stake is where it goes, and what is filled after it.

use super::world::{Action, Config, World, node_of};
use crate::command::VolumeCommand;
use crate::owner;
use crate::pool;
use crate::state::{Phase, Reach, State};
use crate::target::{self, Laid};
use crate::testing::{VOLUME, volume};
use model::{LegId, NodeId, Provision, SLAB_BYTES};

/// The size that it grows to.
pub(super) const TO_BYTES: u64 = 2 * SLAB_BYTES;

/// Only a volume whose data has slabs of its own grows by any.
pub(super) fn may_grow(ledger: &mut State, config: Config) {
    if config.grows
        && let Some(volume) = ledger.volumes.get_mut(&VOLUME)
    {
        volume.provision = Provision::Fixed;
    }
}

pub(super) fn command() -> VolumeCommand {
    VolumeCommand::Grow { size_bytes: TO_BYTES }
}

impl World {
    pub(super) fn growth_actions(&self, actions: &mut Vec<Action>) {
        let volume = volume(&self.ledger);
        let small = volume.size_to_be() < TO_BYTES;
        if self.config.grows && small && matches!(volume.phase, Phase::Open { .. } | Phase::Closed) {
            actions.push(Action::Grow);
        }
        let filled = self.disks.iter().filter(|(_, disk)| disk.laying.is_some());
        actions.extend(filled.map(|(leg, _)| Action::Fill(*leg)));
        for node in self.machines.keys() {
            if self.takes_more(*node) {
                actions.push(Action::WriteMore(*node));
            }
        }
    }

    /// What is there is filled, whatever it is; then that is written down, mapped where the leg is given out, and told.
    pub(super) fn fill(&mut self, leg: LegId) {
        let disk = self.disk(leg);
        let Some((from, laid)) = disk.laying.take() else { return };
        disk.end.mapped = disk.given.is_some();
        if disk.end.more && from < laid.slabs {
            self.broken = Some(format!("{leg} is filled with zeros where users have written"));
        }
        let node = node_of(leg);
        self.machines.get_mut(&node).expect("machines stay").laid.insert((VOLUME, leg), laid);
        self.tell_target(node, target::Event::Laid((VOLUME, leg), laid));
    }

    /// Whether a leg's device has all that the leg got, when it is made: what the ledger calls laid, or its node has written down.
    pub(super) fn maps_all(&self, node: NodeId, leg: LegId) -> bool {
        let volume = volume(&self.ledger);
        let Some(found) = volume.legs.get(&leg) else { return false };
        let noted: Option<&Laid> = self.machines[&node].laid.get(&(VOLUME, leg));
        let laid = noted.map_or(0, |laid| laid.slabs).max(found.laid_slabs());
        laid >= pool::needed(volume, TO_BYTES)
    }

    /// Users get more while nothing of theirs is in flight.
    pub(super) fn extend(&mut self, node: NodeId, reach: Reach) {
        let machine = self.machines.get_mut(&node).expect("machines stay");
        let Some(array) = machine.array.as_mut().filter(|array| array.writing.is_none()) else { return };
        array.long = reach.array_bytes >= TO_BYTES;
        self.tell_owner(node, owner::Event::Extended(reach));
    }

    fn takes_more(&self, node: NodeId) -> bool {
        let Some(array) = self.array(node).filter(|array| array.long && array.admitted) else { return false };
        let mut healthy = array.legs.iter().filter(|(_, member)| !member.failed);
        let reached = healthy.all(|(leg, member)| self.reaches(node, array.epoch, *leg, *member));
        !self.more && array.writing.is_none() && reached
    }

    /// To every leg in the array, those on their way out included: one that has not got it mapped swallows it, and nobody knows.
    pub(super) fn write_more(&mut self, node: NodeId) {
        let Some(array) = self.array(node).cloned() else { return };
        let whole = array.legs.values().filter(|member| !member.failed && !member.recovering).count()
            == volume(&self.ledger).legs.len();
        for (leg, _) in array.legs.iter().filter(|(_, member)| !member.failed) {
            if !self.disks[leg].end.mapped {
                self.broken = Some(format!("{leg} swallows what users write behind the old end"));
            }
            let disk = self.disk(*leg);
            (disk.end.more, disk.bitmap) = (disk.end.mapped, !whole);
        }
        self.more = true;
    }
}
