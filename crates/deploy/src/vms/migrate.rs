//! One virtual machine moved by hand, without stopping.

use super::told::name_of;
use super::{VmsError, is_live, phase_in_words, waits_for, watch};
use crate::Member;
use crate::pool::{self, confirmed, settle};
use api::ClusterView;
use control::vm::{Seat, Vm, VmCommand, VmPhase};
use control::{Command, Rejected, State};
use model::{NodeId, NodeName, VmId};
use std::time::Duration;
use tokio::time::Instant;

/// Why one can't be moved to a node. Nothing was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMoved {
    /// No such node, or it is the witness.
    #[error("no node that runs virtual machines has that name")]
    NoNode,
    /// Only what runs can go on elsewhere.
    #[error("it is {0}")]
    NotRunning(String),
    /// Strict.
    #[error("it never leaves its zone, and {0} is in another")]
    OutsideZone(NodeName),
    /// It would be brought home the next moment.
    #[error("its home is the other zone, and it would go home again at once")]
    WouldGoHome,
    /// Being emptied.
    #[error("{0} is in maintenance")]
    Drains(NodeName),
    /// It does not answer, or has no lease.
    #[error("{0} does not answer, or has no lease")]
    NotLive(NodeName),
    /// What the commit would say.
    #[error(transparent)]
    Refused(Box<Rejected>),
    /// It was given up: by either node, or since one of them was lost. Or somebody else was faster.
    #[error("the migration to {0} was given up, or something else was done with it first")]
    GivenUp(NodeName),
    /// There is no migration to be given up.
    #[error("it does not move: it is {0}")]
    NotMoving(String),
    /// The side has changed, in one commit: where it was it never runs again.
    #[error("it has gone over to {0} already, and goes on there")]
    HasMoved(String),
}

/// Has one go on on another node, and waits until it runs there. `told` hears what is waited for, when that changes.
pub async fn migrate(
    members: &[Member],
    id: VmId,
    to: &NodeName,
    bound: Duration,
    told: impl FnMut(&str),
) -> Result<(), VmsError> {
    let deadline = Instant::now() + bound;
    let Some(node) = begin_migration(members, id, to, bound).await? else { return Ok(()) };
    let what = format!("{id} to run on {to}");
    watch(members, (what, bound, deadline), told, |state, views| {
        let vm = state.vms.all.get(&id).ok_or(VmsError::NoVm(id))?;
        match arrived(vm, node) {
            Some(true) => Ok(None),
            Some(false) => Err(VmsError::NotMoved { id, why: NotMoved::GivenUp(to.clone()) }),
            None => Ok(Some(waits_for(state, views, id, vm))),
        }
    })
    .await
}

/// The same, and waits for nothing but that the ledger has it. The node where it shall go; `None`: it runs there.
pub async fn begin_migration(
    members: &[Member],
    id: VmId,
    to: &NodeName,
    bound: Duration,
) -> Result<Option<NodeId>, VmsError> {
    let (contact, state) = confirmed(members, bound).await?;
    let vm = state.vms.all.get(&id).ok_or(VmsError::NoVm(id))?;
    let not_moved = |why| VmsError::NotMoved { id, why };
    let views = pool::views(members).await;
    let Some(node) = may_move(&state, &views, (id, vm), to).map_err(not_moved)? else { return Ok(None) };
    let before = vm.generation;
    let what = format!("the migration of {id} to {to} to begin");
    // Or something else has, which takes its generation.
    let has_begun = |state: &State| state.vms.all.get(&id).is_none_or(|vm| vm.generation != before);
    settle(contact, &what, bound, &migration(id, vm, node), has_begun).await?;
    Ok(Some(node))
}

/// Gives up a migration that is under way: it runs on where it is. Whoever ordered it is told that it was given up; a drain tries again in its time.
pub async fn cancel_migration(members: &[Member], id: VmId, bound: Duration) -> Result<(), VmsError> {
    let (contact, state) = confirmed(members, bound).await?;
    let vm = state.vms.all.get(&id).ok_or(VmsError::NoVm(id))?;
    let not_moved = |why| VmsError::NotMoved { id, why };
    let (from, to) = sides(&state, vm).map_err(not_moved)?;
    // Or it has gone over meanwhile, or was lost.
    let is_over = |state: &State| state.vms.all.get(&id).is_none_or(|vm| !is_moving(vm, to));
    let command = Command::Vm(id, vm.generation, VmCommand::Cancel);
    settle(contact, &format!("the migration of {id} to be given up"), bound, &command, is_over).await?;
    let (_, state) = confirmed(members, bound).await?;
    let vm = state.vms.all.get(&id).ok_or(VmsError::NoVm(id))?;
    stays(&state, vm, from).map_err(not_moved)
}

/// Where one runs that migrates, and the seat that waits for it. Pure.
fn sides(state: &State, vm: &Vm) -> Result<(Seat, Seat), NotMoved> {
    match vm.phase {
        VmPhase::Migrating { from, to, .. } => Ok((from, to)),
        VmPhase::Landing { at, .. } => Err(NotMoved::HasMoved(name_of(state, at.node))),
        phase => Err(NotMoved::NotMoving(phase_in_words(state, &phase))),
    }
}

/// Whether it migrates to that very seat yet.
fn is_moving(vm: &Vm, seat: Seat) -> bool {
    matches!(vm.phase, VmPhase::Migrating { to, .. } if to == seat)
}

/// That it has stayed where it ran. Pure.
fn stays(state: &State, vm: &Vm, from: Seat) -> Result<(), NotMoved> {
    match vm.phase.seat() {
        Some(seat) if seat == from => Ok(()),
        Some(seat) => Err(NotMoved::HasMoved(name_of(state, seat.node))),
        None => Err(NotMoved::NotMoving(phase_in_words(state, &vm.phase))),
    }
}

fn migration(id: VmId, vm: &Vm, to: NodeId) -> Command {
    Command::Vm(id, vm.generation, VmCommand::Migrate { to })
}

/// The node where it shall go; `None`: it runs there. Pure.
fn may_move(
    state: &State,
    views: &[(NodeName, ClusterView)],
    (id, vm): (VmId, &Vm),
    to: &NodeName,
) -> Result<Option<NodeId>, NotMoved> {
    let found = state.nodes.iter().find(|(_, node)| node.name == *to && node.zone.is_some());
    let (node, host) = found.map(|(id, node)| (*id, node)).ok_or(NotMoved::NoNode)?;
    let VmPhase::Running { at } = vm.phase else {
        return Err(NotMoved::NotRunning(phase_in_words(state, &vm.phase)));
    };
    if at.node == node {
        return Ok(None);
    }
    let placement = &vm.spec.placement;
    if let Some(home) = placement.home().filter(|home| host.zone.as_ref() != Some(home)) {
        if placement.is_strict() {
            return Err(NotMoved::OutsideZone(to.clone()));
        }
        if !state.vms.held_down.contains(home) {
            return Err(NotMoved::WouldGoHome);
        }
    }
    if state.vms.draining.contains_key(&node) {
        return Err(NotMoved::Drains(to.clone()));
    }
    if !is_live(views, node) {
        return Err(NotMoved::NotLive(to.clone()));
    }
    let tried = state.clone().apply(&migration(id, vm, node));
    tried.map(|_| Some(node)).map_err(|refused| NotMoved::Refused(Box::new(refused)))
}

/// Whether it has come to run there; `Some(false)`: it runs elsewhere, and is not on its way.
fn arrived(vm: &Vm, node: NodeId) -> Option<bool> {
    match vm.phase {
        VmPhase::Running { at } => Some(at.node == node),
        VmPhase::Migrating { .. } | VmPhase::Landing { .. } => None,
        // Lost, or somebody has it stopped.
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{VM, running, views, with_vm};
    use super::*;
    use control::state::Phase;
    use control::vm::{Leftover, Room, VmsCommand};
    use model::{VmPlacement, VolumeId};
    use std::collections::BTreeSet;

    /// As [`running`], and its volume is open where it runs.
    fn at_home(placement: VmPlacement) -> State {
        let mut state = running(placement);
        let boot = state.nodes[&NodeId(1)].boot.unwrap();
        state.volumes.get_mut(&VolumeId(1)).unwrap().phase = Phase::Open { boot };
        state
    }

    fn asked(state: &State, live: &[u32], to: &str) -> Result<Option<NodeId>, NotMoved> {
        may_move(state, &views(state, live), (VM, &state.vms.all[&VM]), &to.parse().unwrap())
    }

    #[test]
    fn what_runs_is_moved_where_it_may_stay() {
        let (b1, home) = (|| "b1".parse().unwrap(), || "rack1".parse().unwrap());
        let free = at_home(VmPlacement::Anywhere);
        assert_eq!(asked(&free, &[1, 2], "b1"), Ok(Some(NodeId(2))));
        assert_eq!(asked(&free, &[1, 2], "a1"), Ok(None), "it is there");
        assert_eq!(asked(&free, &[1, 2], "witness"), Err(NotMoved::NoNode));
        assert_eq!(asked(&free, &[1, 2], "b2"), Err(NotMoved::NoNode));
        assert_eq!(asked(&free, &[1], "b1"), Err(NotMoved::NotLive(b1())));
        let starting = with_vm(VmPlacement::Anywhere);
        assert_eq!(asked(&starting, &[1, 2], "b1"), Err(NotMoved::NotRunning("starting".to_owned())));
        let strict = running(VmPlacement::Strict(home()));
        assert_eq!(asked(&strict, &[1, 2], "b1"), Err(NotMoved::OutsideZone(b1())));
        let mut prefers = at_home(VmPlacement::Prefers(home()));
        assert_eq!(asked(&prefers, &[1, 2], "b1"), Err(NotMoved::WouldGoHome));
        prefers.vms.held_down.insert(home());
        assert_eq!(asked(&prefers, &[1, 2], "b1"), Ok(Some(NodeId(2))), "nobody goes home yet");
        let mut full = free.clone();
        full.apply(&Command::Vms(VmsCommand::SetRoom(NodeId(2), Room { memory_bytes: 1 << 20, cores: 2 })))
            .unwrap();
        let refused = asked(&full, &[1, 2], "b1").unwrap_err().to_string();
        assert!(refused.contains("memory"), "{refused}");
        let mut drains = free;
        let nodes = BTreeSet::from([NodeId(2)]);
        drains.apply(&Command::Vms(VmsCommand::Drain { nodes, leftover: Leftover::Stays })).unwrap();
        assert_eq!(asked(&drains, &[1, 2], "b1"), Err(NotMoved::Drains(b1())));
    }

    #[test]
    fn one_has_arrived_when_it_runs_there_and_not_when_it_runs_where_it_was() {
        let state = running(VmPlacement::Anywhere);
        let mut vm = state.vms.all[&VM].clone();
        assert_eq!((arrived(&vm, NodeId(1)), arrived(&vm, NodeId(2))), (Some(true), Some(false)));
        let from = vm.phase.seat().unwrap();
        vm.phase = VmPhase::Migrating { from, to: from, ready: true };
        assert_eq!(arrived(&vm, NodeId(2)), None);
        vm.phase = VmPhase::Off;
        assert_eq!(arrived(&vm, NodeId(2)), Some(false));
    }
    #[test]
    fn a_migration_is_given_up_until_the_side_has_changed() {
        let mut state = at_home(VmPlacement::Anywhere);
        let vm = |state: &State| state.vms.all[&VM].clone();
        assert_eq!(sides(&state, &vm(&state)), Err(NotMoved::NotMoving("running".to_owned())));
        state.apply(&migration(VM, &vm(&state), NodeId(2))).unwrap();
        let moving = vm(&state);
        let (from, to) = sides(&state, &moving).unwrap();
        assert_eq!((from.node, to.node), (NodeId(1), NodeId(2)));
        assert!(is_moving(&moving, to) && !is_moving(&moving, from));
        let landing = Vm { phase: VmPhase::Landing { from, at: to }, ..moving.clone() };
        let has_moved = NotMoved::HasMoved("b1".to_owned());
        assert_eq!(sides(&state, &landing), Err(has_moved.clone()));
        assert_eq!(stays(&state, &landing, from), Err(has_moved));
        let off = Vm { phase: VmPhase::Off, ..moving.clone() };
        assert_eq!(stays(&state, &off, from), Err(NotMoved::NotMoving("off".to_owned())));
        state.apply(&Command::Vm(VM, moving.generation, VmCommand::Cancel)).unwrap();
        let stayed = vm(&state);
        assert!(!is_moving(&stayed, to));
        assert_eq!(stays(&state, &stayed, from), Ok(()));
    }
}
