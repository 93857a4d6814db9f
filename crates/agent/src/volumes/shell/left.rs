//! What an earlier run of the agent in this boot has left, and whether it is taken up.
//!
//! On failure: it is looked for again.

use super::super::VolumesError;
use super::super::openers;
use super::super::place::{Place, sizes};
use control::owner::Up;
use control::state::{Phase, Volume};
use control::target::{Key, LegOf};
use control::{Moment, State};
use model::{NodeId, VolumeId};
use std::collections::BTreeMap;

/// No node has this id.
const NOBODY: NodeId = NodeId(0);

pub(super) type Left = (BTreeMap<LegOf, (Key, NodeId)>, BTreeMap<VolumeId, Up>);

/// What an earlier run of the agent in this boot has left: legs that are given out, and arrays.
pub(super) fn left_by_another(place: &Place, state: &State, now: Moment) -> Result<Left, VolumesError> {
    let engine = place.engine(state)?;
    let (own, _) = place.addresses(state);
    let seen = engine.seen_target()?;
    let mut given = storage::target::found(&seen, place.cluster, place.node, &own);
    // What is half given out, or half taken back, is nobody's, and is fenced before anything else.
    for (leg, key) in storage::target::leftovers(&seen, &given) {
        given.insert(leg, (key, NOBODY));
    }
    let mut arrays = BTreeMap::new();
    // One that the ledger does not call open yet is assembled anew: nobody was let in. Any other is used, or is to be stopped.
    let is_for_control =
        |volume: &Volume, up: &Up| !matches!(volume.phase, Phase::Opening { .. }) || up.epoch != volume.epoch;
    for (id, volume) in &state.volumes {
        let nodes =
            volume.legs.iter().filter_map(|(leg, found)| Some((*leg, state.node_of(found)?))).collect();
        let seen = engine.seen_owner(&place.site(*id, sizes(volume))?)?;
        if is_given_up(volume, &seen) {
            // An earlier run was about to stop it, and md was answered for legs that the ledger calls in sync: nobody may hear of a write.
            openers::of_volume(&engine, *id, true)?;
            continue;
        }
        let up = storage::owner::found(&seen, &nodes, volume.map_sequence, now);
        if let Some(up) = up.filter(|up| is_for_control(volume, up)) {
            arrays.insert(*id, up);
        }
    }
    Ok((given, arrays))
}

/// Whether a gate has been told to fail whose leg the ledger calls in sync, or what waits for a place.
fn is_given_up(volume: &Volume, seen: &storage::owner::Seen) -> bool {
    let in_sync = |leg| volume.in_sync().any(|(other, _)| other == leg);
    let of_now = |gate: &storage::owner::Gate| gate.epoch == volume.epoch && !gate.queues;
    let queue = seen.thin.queue.is_some_and(|queue| !queue.queues);
    queue || seen.gates.iter().any(|(leg, gate)| of_now(gate) && in_sync(*leg))
}
