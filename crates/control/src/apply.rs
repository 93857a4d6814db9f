//! The ledger's state machine: a command and a state give the next state, or the reason why not.
//!
//! Deterministic and total: no clock, no randomness, no order of a hash map; every voter that applies the same log has the
//! same state. A refused command changes nothing. `cluster` has nodes, drives, voters and operations, `volume` one volume's
//! epochs and legs, `vm` virtual machines.

mod cluster;
#[cfg(test)]
mod tests;
mod vm;
mod volume;

use crate::bug::Bugs;
use crate::command::{Command, Event, Rejected, VolumeCommand};
use crate::state::State;
use crate::vm::VmRejected;
use model::VolumeId;

impl State {
    /// Applies a command. If it is refused, nothing has changed.
    pub fn apply(&mut self, command: &Command) -> Result<Vec<Event>, Rejected> {
        self.apply_with(command, Bugs::default())
    }

    /// As [`Self::apply`], with rules broken on purpose.
    pub fn apply_with(&mut self, command: &Command, bugs: Bugs) -> Result<Vec<Event>, Rejected> {
        match command {
            Command::Volume(id, epoch, command) => {
                self.may_be_asked(*id, command)?;
                let mut events = volume::apply(self, *id, *epoch, command, bugs)?;
                if matches!(command, VolumeCommand::Override { .. }) {
                    events.extend(vm::volume_overridden(self, *id)?);
                }
                Ok(events)
            }
            Command::Cluster(command) => self.on_a_copy(|next| cluster::apply(next, command)),
            Command::Vms(command) => self.on_a_copy(|next| vm::apply_all(next, command)),
            Command::Vm(id, generation, command) => {
                self.on_a_copy(|next| vm::apply(next, *id, *generation, command, bugs))
            }
        }
    }

    fn on_a_copy(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<Vec<Event>, Rejected>,
    ) -> Result<Vec<Event>, Rejected> {
        let mut next = self.clone();
        let events = change(&mut next)?;
        *self = next;
        Ok(events)
    }

    /// What a virtual machine has as its disk is not taken from under it.
    fn may_be_asked(&self, volume: VolumeId, command: &VolumeCommand) -> Result<(), Rejected> {
        let fine = match command {
            VolumeCommand::HandOver { to, .. } => self.may_go(volume, *to),
            VolumeCommand::Delete => self.vms.of_volume(volume).is_none(),
            _ => true,
        };
        match self.vms.of_volume(volume) {
            Some((vm, _)) if !fine => Err(VmRejected::OfVm { volume, vm }.into()),
            _ => Ok(()),
        }
    }
}
