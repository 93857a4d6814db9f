//! The ledger's state machine: a command and a state give the next state, or the reason why not.
//!
//! Deterministic and total: no clock, no randomness, no order of a hash map; every voter that applies the same log has the
//! same state. A refused command changes nothing. `cluster` has nodes, drives, voters and operations, `volume` one volume's
//! epochs and legs.

mod cluster;
#[cfg(test)]
mod tests;
mod volume;

use crate::bug::Bugs;
use crate::command::{Command, Event, Rejected};
use crate::state::State;

impl State {
    /// Applies a command. If it is refused, nothing has changed.
    pub fn apply(&mut self, command: &Command) -> Result<Vec<Event>, Rejected> {
        self.apply_with(command, Bugs::default())
    }

    /// As [`Self::apply`], with rules broken on purpose.
    pub fn apply_with(&mut self, command: &Command, bugs: Bugs) -> Result<Vec<Event>, Rejected> {
        match command {
            Command::Volume(id, epoch, command) => volume::apply(self, *id, *epoch, command, bugs),
            Command::Cluster(command) => {
                let mut next = self.clone();
                let events = cluster::apply(&mut next, command)?;
                *self = next;
                Ok(events)
            }
        }
    }
}
