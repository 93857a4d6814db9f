//! Slabs that a leg gets when its volume grows: filled with zeros and mapped, and that told to the ledger.

use super::{Effect, Guard, LegOf, Target};
use crate::bug::Bug;
use crate::command::{Command, LegRef, VolumeCommand};
use crate::pool;
use crate::state::{Run, State};
use model::LedgerIncarnation;
use serde::{Deserialize, Serialize};

/// How many slabs of a leg, from its beginning, are laid, as its target remembers it: whatever a node has seen of the ledger when it comes back, it
/// fills none of them with zeros again, since the ledger may have said more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Laid {
    /// Of which ledger: a forced quorum may give the numbers of volumes anew.
    pub ledger: LedgerIncarnation,
    /// How many.
    pub slabs: u64,
}

/// What this run of the agent knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Known {
    pub(super) laid: Laid,
    /// Whether they are mapped where the leg is given out. An earlier run may have written down that they are laid, and ended.
    pub(super) mapped: bool,
}

impl Target {
    /// Leads a leg on whose drive this node has to all that its volume's array, or the one to come, takes. Only while what stands of it is known: nobody, or as
    /// the ledger wants it.
    pub(super) fn lay(&mut self, ledger: &State, id: LegOf, effects: &mut Vec<Effect>) {
        let Some(volume) = ledger.volumes.get(&id.0) else { return };
        let Some(leg) = volume.legs.get(&id.1) else { return };
        let is_known = matches!(self.guard(id), Guard::Given { .. } | Guard::Fenced { .. });
        if leg.laid_slabs() >= pool::needed(volume, volume.array_to_be()) || !is_known {
            return;
        }
        let wanted = Laid { ledger: volume.epoch.ledger, slabs: leg.slabs() };
        let known = self.laid.get(&id).filter(|known| known.laid.ledger == wanted.ledger);
        if known.is_some_and(|known| known.mapped && known.laid.slabs >= wanted.slabs) {
            let Some(power_cycles) = self.drives.get(&leg.drive).copied() else { return };
            let run = Run { boot: self.boot, power_cycles };
            let named = LegRef { id: id.1, incarnation: leg.incarnation };
            let command = VolumeCommand::Laid { leg: named, run, slabs: wanted.slabs };
            effects.push(Effect::Propose(Command::Volume(id.0, volume.epoch, command)));
        } else if self.laying.insert(id) {
            self.standing.insert(id, wanted.ledger);
            let known = known.filter(|_| !self.bugs.has(Bug::LayAgain));
            // After a forced quorum nobody knows what was laid and written: an operator may have declared this leg good for just that. Nothing is
            // filled then; any other leg is made from scratch.
            let known = if volume.forced { wanted.slabs } else { known.map_or(0, |known| known.laid.slabs) };
            effects.push(Effect::Lay(id, known.max(leg.laid_slabs()).min(wanted.slabs), wanted));
        }
    }
}
