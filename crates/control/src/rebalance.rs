//! Rebalancing after nodes were added: what `placement` plans, by the ledger, and which copy is to be moved next.
//!
//! Purpose: [`plan`] says all that would move as the ledger is now, [`next`] what whoever carries it out does now. It is asked anew after every change
//! of the ledger and keeps nothing in between, so that another may go on after a kill. The command is a [`crate::VolumeCommand::MoveLeg`], as for any copy
//! that is moved.
//!
//! Invariants: one copy at a time. Nothing is begun of a volume that is not open with every leg in sync, nor while a node of the pool is away. Each move lessens
//! what is misplaced (`placement::rebalance`), in whichever order volumes can be moved: so there is an end, and nothing goes back.
//!
//! On failure: [`Wait`] says what is in the way. Nothing here changes anything.

use crate::state::{LegState, Phase, State, Volume};
use model::{DriveId, NodeId, VolumeId};
use placement::{Fixed, LegMove, Rebalance};
use std::collections::BTreeSet;

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing: every node has its share, as far as whole legs can.
    Done,
    /// To wait, and to look again.
    Waits(Wait),
    /// To move this leg.
    Moves(LegMove),
}

/// What is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// A copy is under way.
    #[error("a copy of {0} is on its way")]
    OnItsWay(VolumeId),
    /// A node is away: what is on it may have to be made anew elsewhere, and it may have to take it.
    #[error("{0} is away")]
    Away(NodeId),
    /// Copies are moved while a volume is open. What can be moved of others has been.
    #[error("{0}, of which a copy is to be moved, is not open")]
    NotOpen(VolumeId),
    /// One of its copies is not in sync. What can be moved of others has been.
    #[error("{0}, of which a copy is to be moved, has a copy that is not in sync")]
    NotInSync(VolumeId),
    /// There is room as soon as a target has let go of what is leaving.
    #[error("what is leaving takes the room for a copy on {0}")]
    Leaving(DriveId),
}

/// All that would move. Volumes with a leg on its way stay where they are, and count where that goes.
pub fn plan(ledger: &State) -> Rebalance {
    placement::rebalance(&ledger.pool(), &ledger.placed(), &on_their_way(ledger))
}

/// What to do now; `lives` says whether a node is there.
pub fn next(ledger: &State, lives: impl Fn(NodeId) -> bool) -> Next {
    let (mut pool, placed, mut fixed) = (ledger.pool(), ledger.placed(), on_their_way(ledger));
    // One that is closed has nothing to be copied by: it would be waited for in vain.
    let goes_on = |id: &&VolumeId| {
        ledger.volumes.get(*id).is_some_and(|found| !matches!(found.phase, Phase::Closed | Phase::Offline))
    };
    if let Some(volume) = fixed.volumes.iter().find(goes_on) {
        return Next::Waits(Wait::OnItsWay(*volume));
    }
    let all = placement::rebalance(&pool, &placed, &fixed);
    let usable = pool.nodes.iter().filter(|node| node.drives.iter().any(|drive| drive.usable));
    let away = usable.map(|node| node.id).find(|node| !lives(*node));
    if let Some(wanted) = all.moves.first() {
        if let Some(node) = away {
            return Next::Waits(Wait::Away(node));
        }
        // Planned anew without those that can't be moved now, since a later move may need the room that an earlier one would leave.
        let not_ready = |(id, volume): (&VolumeId, &Volume)| in_the_way(*id, volume).map(|_| *id);
        fixed.volumes.extend(ledger.volumes.iter().filter_map(not_ready));
        let first = placement::rebalance(&pool, &placed, &fixed).moves.into_iter().next();
        let waits = || ledger.volumes.get(&wanted.volume).and_then(|found| in_the_way(wanted.volume, found));
        return match first {
            Some(step) => Next::Moves(step),
            None => Next::Waits(waits().unwrap_or(Wait::NotOpen(wanted.volume))),
        };
    }
    pool.nodes.iter_mut().flat_map(|node| &mut node.drives).for_each(|drive| drive.leaving.clear());
    let then = placement::rebalance(&pool, &placed, &fixed).moves.into_iter().next();
    then.map_or(Next::Done, |step| Next::Waits(Wait::Leaving(step.to)))
}

/// Why no leg of a volume can be moved now, if none can.
fn in_the_way(id: VolumeId, volume: &Volume) -> Option<Wait> {
    if !matches!(volume.phase, Phase::Open { .. }) {
        return Some(Wait::NotOpen(id));
    }
    volume.legs.values().any(|leg| leg.state != LegState::InSync).then_some(Wait::NotInSync(id))
}

/// Volumes with a leg that takes another's place, and those others.
fn on_their_way(ledger: &State) -> Fixed {
    let of = |(id, volume): (&VolumeId, &Volume)| {
        let id = *id;
        volume.legs.values().filter_map(move |leg| leg.replaces.map(|old| (id, old))).collect::<Vec<_>>()
    };
    let replaced: BTreeSet<_> = ledger.volumes.iter().flat_map(of).collect();
    Fixed { volumes: replaced.iter().map(|(volume, _)| *volume).collect(), replaced }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ClusterCommand, Command, LegRef, VolumeCommand};
    use crate::state::{Cache, Leaving};
    use crate::testing::{cluster, must};
    use crate::{check, check_step};
    use model::{LegId, Mirror, Provision};

    /// As the owner and the targets would say it.
    fn does(state: &mut State, command: &Command) {
        let before = state.clone();
        must(state, command);
        assert_eq!(check(state), []);
        assert_eq!(check_step(&before, state), []);
    }

    fn of_volume(state: &mut State, id: VolumeId, command: VolumeCommand) {
        let epoch = state.volumes[&id].epoch;
        does(state, &Command::Volume(id, epoch, command));
    }

    fn named(state: &State, id: VolumeId, leg: LegId) -> LegRef {
        LegRef { id: leg, incarnation: state.volumes[&id].legs[&leg].incarnation }
    }

    /// Two nodes with a volume after the other, open, and two more nodes that have nothing.
    fn scaled_out(volumes: u32) -> State {
        let mut state = cluster(4, 2, &[Cache::Safe]);
        let old = |state: &State| {
            let mut pool = state.pool();
            pool.nodes.truncate(2);
            pool
        };
        for number in 1..=volumes {
            let id = VolumeId(number);
            let size = model::VolumeSize::new(Mirror::TwoWay, Provision::Fixed, 64 << 20);
            let placed = placement::place(&old(&state), &state.placed(), id, size).unwrap();
            let create = ClusterCommand::CreateVolume {
                name: format!("v{number}").parse().unwrap(),
                mirror: Mirror::TwoWay,
                provision: Provision::Fixed,
                size_bytes: size.size_bytes,
                drives: placed.iter().map(|leg| leg.drive).collect(),
                owner: NodeId(1),
            };
            does(&mut state, &Command::Cluster(create));
            for leg in [LegId(1), LegId(2)] {
                let run = state.run(state.volumes[&id].legs[&leg].drive).unwrap();
                let leg = named(&state, id, leg);
                of_volume(&mut state, id, VolumeCommand::ConfirmFence { leg, run, errored: false });
            }
            of_volume(&mut state, id, VolumeCommand::Activate);
            let maps = state.volumes[&id].map_sequence.next();
            of_volume(&mut state, id, VolumeCommand::Opened { maps });
        }
        state
    }

    fn begin(state: &mut State, step: &LegMove) {
        let leg = named(state, step.volume, step.leg);
        of_volume(state, step.volume, VolumeCommand::MoveLeg { leg, to: step.to });
    }

    /// The new leg is given out, copied and in sync; the old one's slabs are let go of.
    fn end(state: &mut State, step: &LegMove) {
        let id = step.volume;
        let new = *state.volumes[&id].legs.iter().find(|(_, leg)| leg.replaces == Some(step.leg)).unwrap().0;
        let (leg, run) = (named(state, id, new), state.run(step.to).unwrap());
        of_volume(state, id, VolumeCommand::Reexport { leg, run });
        let leg = named(state, id, new);
        of_volume(state, id, VolumeCommand::BeginRebuild(leg));
        let (leg, maps) = (named(state, id, new), state.volumes[&id].map_sequence);
        of_volume(state, id, VolumeCommand::LegInSync { leg, maps });
        let freed = ClusterCommand::Freed { drive: step.from, volume: id, leg: step.leg };
        does(state, &Command::Cluster(freed));
    }

    #[test]
    fn copies_go_one_after_the_other_until_nodes_have_their_shares() {
        let mut state = scaled_out(4);
        let planned = plan(&state);
        assert_eq!(planned.moves.len(), 4, "{planned}");
        assert_eq!(planned.ratio_hundredths(), 100);
        let mut moved = 0;
        loop {
            let step = match next(&state, |_| true) {
                Next::Done => break,
                Next::Moves(step) => step,
                Next::Waits(wait) => panic!("{wait}"),
            };
            begin(&mut state, &step);
            assert_eq!(next(&state, |_| true), Next::Waits(Wait::OnItsWay(step.volume)));
            let left = plan(&state).moves.len();
            end(&mut state, &step);
            assert_eq!(plan(&state).moves.len(), left, "it counted where it went");
            moved += step.slabs;
        }
        assert_eq!(moved, planned.moved_slabs());
        assert_eq!(plan(&state).moves, []);
    }

    #[test]
    fn what_is_not_open_or_not_in_sync_waits_and_others_go_first() {
        let mut state = scaled_out(4);
        let Next::Moves(first) = next(&state, |_| true) else { panic!("there is something to move") };
        let close = VolumeCommand::Close { flushed: state.volumes[&first.volume].named_in_sync() };
        of_volume(&mut state, first.volume, close);
        let Next::Moves(other) = next(&state, |_| true) else { panic!("others can be moved") };
        assert_ne!(other.volume, first.volume);
        let all: Vec<VolumeId> = state.volumes.keys().copied().filter(|id| *id != first.volume).collect();
        for id in all {
            let leg = named(&state, id, LegId(2));
            of_volume(&mut state, id, VolumeCommand::LegStale(leg));
        }
        let wanted = plan(&state).moves[0].volume;
        assert_eq!(wanted, first.volume);
        assert_eq!(next(&state, |_| true), Next::Waits(Wait::NotOpen(wanted)));
    }

    #[test]
    fn nothing_is_begun_while_a_node_is_away_and_none_is_waited_for_in_vain() {
        let state = scaled_out(4);
        assert_eq!(next(&state, |node| node != NodeId(3)), Next::Waits(Wait::Away(NodeId(3))));
        assert!(
            matches!(next(&state, |node| node != NodeId(5)), Next::Moves(_)),
            "the witness holds nothing"
        );
        assert_eq!(next(&scaled_out(0), |node| node != NodeId(3)), Next::Done);
    }

    #[test]
    fn what_is_leaving_is_waited_for() {
        let mut state = scaled_out(4);
        for drive in state.drives.values_mut().filter(|drive| drive.node.0 > 2) {
            let all = model::Extent { first: 0, count: crate::pool::slabs(drive) };
            let (volume, leg) = (VolumeId(99), LegId(1));
            let (epoch, incarnation) = (state.volumes[&VolumeId(1)].epoch, model::Incarnation(1));
            drive.leaving.push(Leaving { volume, leg, epoch, incarnation, extents: vec![all] });
        }
        assert_eq!(plan(&state).moves, []);
        assert!(matches!(next(&state, |_| true), Next::Waits(Wait::Leaving(_))));
    }
}
