//! What must never be.

use super::world::{Member, World, node_of};
use crate::check;
use crate::owner::Stage;
use crate::state::{Cache, Phase};
use crate::testing::{boot, run, volume};
use model::{LegId, NodeId};

impl World {
    /// What must not be.
    pub(super) fn broken(&self) -> Option<String> {
        if self.broken.is_some() {
            return self.broken.clone();
        }
        if let Some(broken) = check(&self.ledger).first() {
            return Some(broken.to_string());
        }
        let volume = volume(&self.ledger);
        for (id, leg) in volume.in_sync() {
            let node = node_of(id);
            let present = run(node, self.machines[&node].boots, self.disks[&id].power_cycles);
            let lost = self.config.caches[(node.0 as usize - 1) % self.config.caches.len()]
                == Cache::Volatile
                && leg.run != Some(present);
            if !lost && self.more && !self.disks[&id].end.more {
                return Some(format!("{id} is in sync by the ledger and misses a write behind the old end"));
            }
            if !lost && !self.allowed(self.disks[&id].value) {
                return Some(format!("{id} is in sync by the ledger and misses an acknowledged write"));
            }
        }
        let able: Vec<NodeId> =
            self.machines.keys().copied().filter(|node| self.can_acknowledge(*node)).collect();
        if able.len() > 1 {
            return Some(format!("{able:?} can all write"));
        }
        for array in able.iter().filter_map(|node| self.array(*node)) {
            let members = array.legs.iter().filter(|(_, member)| !member.failed && !member.recovering);
            for (leg, _) in members {
                if !self.allowed(self.disks[leg].value) {
                    return Some(format!("an owner reads from {leg}, which misses an acknowledged write"));
                }
            }
        }
        None
    }

    /// An owner that is up in the boot that the ledger knows, and has no array: it asks to take over from itself.
    pub(super) fn orphaned(&self) -> Option<NodeId> {
        let volume = volume(&self.ledger);
        let machine = self.machines.get(&volume.owner).filter(|machine| machine.up)?;
        let same_boot = volume.activated() == Some(boot(volume.owner, machine.boots));
        let open = matches!(volume.phase, Phase::Open { .. });
        (open && same_boot && *machine.owner.stage() == Stage::Idle).then_some(volume.owner)
    }

    /// Whether users of a node's array would get an answer to a write.
    fn can_acknowledge(&self, node: NodeId) -> bool {
        self.array(node).is_some_and(|array| {
            let reaches = |(leg, member): (&LegId, &Member)| {
                !member.failed && self.reaches(node, array.epoch, *leg, *member)
            };
            array.admitted && array.legs.iter().all(reaches)
        })
    }
}
