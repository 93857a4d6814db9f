//! What people and the API do: open what is closed, override what is offline, force a quorum when the majority is gone for good.

use super::{Event, MS, World, node_index, volume_id};
use control::state::{Base, LegState, Phase};
use control::{ClusterCommand, Command, LegRef, VolumeCommand};
use model::{LegId, NodeId, VolumeId};
use std::collections::BTreeSet;

/// How often they look.
const EVERY: u64 = 250 * MS;
/// How long a volume stays closed.
const CLOSED: u64 = 1_200 * MS;

impl World {
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |machine: &usize| self.lives(*machine) && self.machines[*machine].seat.leading;
        (0..self.machines.len()).filter(leads).max_by_key(|machine| self.machines[*machine].seat.term)
    }

    /// Asks the ledger about a volume, as it is.
    pub(super) fn ask(&mut self, volume: usize, command: VolumeCommand) {
        let Some(epoch) = self.ledger().volumes.get(&volume_id(volume)).map(|found| found.epoch) else {
            return;
        };
        if let Some(leader) = self.leader() {
            self.post(500, Event::Propose(leader, Command::Volume(volume_id(volume), epoch, command), None));
        }
    }

    pub(super) fn operate(&mut self) {
        self.post(EVERY, Event::Operator);
        if let Some(rack) = self.forced {
            self.force_quorum(rack);
        }
        let ledger = self.ledger();
        for (id, found) in &ledger.volumes {
            let volume = super::volume_index(*id);
            let closed = self.closed_since[volume].is_some_and(|since| self.now > since + CLOSED);
            if closed {
                let storage =
                    |machine: &usize| self.lives(*machine) && self.machines[*machine].rack.is_some();
                let nodes: Vec<usize> = (0..self.machines.len()).filter(storage).collect();
                if let Some(at) = self.random.choice(&nodes).copied() {
                    let owner = self.machines[at].node;
                    self.ask(volume, VolumeCommand::Open { owner });
                }
            }
            let gone = |leg| ledger.node_of(leg).is_none_or(|node| self.machines[node_index(node)].gone);
            if self.mended && found.phase != Phase::Offline && found.in_sync().all(|(_, leg)| gone(leg)) {
                let other = found.legs.iter().find(|(_, leg)| !gone(leg)).map(|(leg, _)| *leg);
                if let Some(leg) = other {
                    self.override_by_force(volume, leg);
                }
            }
            if found.phase == Phase::Offline && (self.mended || ledger.incarnation.0 > 1) {
                self.override_offline(volume);
            }
        }
        if self.mended {
            self.want_all();
            self.judge_progress();
        }
    }

    /// The leg that is most likely whole, on a machine that lives.
    fn override_offline(&mut self, volume: usize) {
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume_id(volume)) else { return };
        let likely = |state: LegState| match state {
            LegState::InSync | LegState::Suspect { .. } => 0,
            LegState::Stale { base: Base::Changes, .. } | LegState::Rebuilding { .. } => 1,
            LegState::Stale { base: Base::Scratch, .. } => 2,
        };
        // What never held everything, or is on its way to another's place, is refused.
        let may_be = found.legs.iter().filter(|(_, state)| state.held_all && state.replaces.is_none());
        let there = may_be.filter_map(|(leg, state)| {
            let node = ledger.node_of(state).filter(|node| self.lives(node_index(*node)))?;
            Some((likely(state.state), *leg, state.incarnation, node))
        });
        let Some((_, id, incarnation, owner)) = there.min() else { return };
        let leg = LegRef { id, incarnation };
        let command =
            VolumeCommand::Override { leg, owner, by: "operator".into(), loses: "perhaps all".into() };
        self.ask(volume, command);
    }

    /// The survivors go on with what they have of the log.
    fn force_quorum(&mut self, rack: usize) {
        let survivors: Vec<usize> = (0..self.machines.len())
            .filter(|at| self.machines[*at].rack.is_some_and(|own| own != rack))
            .collect();
        if survivors.iter().any(|at| !self.lives(*at)) {
            return;
        }
        self.forced = None;
        let stored = survivors.iter().map(|at| self.machines[*at].seat.stored).max().unwrap_or(0);
        let best = survivors.iter().copied().find(|at| self.machines[*at].seat.stored == stored);
        self.raft.begin_anew(stored);
        self.disks_changed(None);
        let voters: BTreeSet<NodeId> = best.map(|at| self.machines[at].node).into_iter().collect();
        let (by, loses) = ("operator".to_owned(), "what the others had".to_owned());
        let incarnation = self.ledger().incarnation.next();
        self.apply(&Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses }));
        let index = self.raft.log.len() - 1;
        for leader in
            survivors.iter().filter(|at| self.machines[**at].seat.leading).copied().collect::<Vec<_>>()
        {
            self.deposed(leader);
            // Its shell begins anew.
            self.see_leadership(leader);
        }
        for (at, machine) in self.machines.iter_mut().enumerate() {
            let seat = &mut machine.seat;
            (seat.leading, seat.leader) = (false, None);
            seat.term += 1;
            seat.applied = seat.applied.min(stored);
            seat.stored = if survivors.contains(&at) { index } else { seat.stored.min(stored) };
        }
    }

    /// A leg that is to be made in place of another.
    pub(super) fn leg_added(&mut self, volume: VolumeId, leg: LegId) {
        let at = super::volume_index(volume);
        let ledger = self.ledger();
        let Some(found) = ledger.volumes.get(&volume) else { return };
        let thin = found.provision == model::Provision::Thin;
        let Some(found) = found.legs.get(&leg) else { return };
        let index = found.drive.0 as usize - 1;
        self.disks[at].insert(leg.0, super::target::Disk::new(index, found.extents.clone(), thin));
    }

    /// What of placement's rule does not hold of the legs that are there, when none is being moved.
    pub(super) fn placement_broken(&self) -> Vec<placement::Broken> {
        let ledger = self.ledger();
        let moving =
            ledger.volumes.values().any(|found| found.legs.values().any(|leg| leg.replaces.is_some()));
        if moving {
            return Vec::new();
        }
        let sizes = ledger.volumes.iter().map(|(id, found)| (*id, found.size())).collect();
        placement::check(&ledger.pool(), &sizes, &ledger.placed())
    }
}
