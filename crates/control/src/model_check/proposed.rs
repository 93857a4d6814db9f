//! What was proposed and may still be taken: all else is forgotten.

use crate::command::{LegRef, VolumeCommand};
use crate::state::{LegState, Phase, Run, State};
use crate::testing::volume;
use crate::transition::LegKind;
use model::{BootId, Epoch, NodeId};

/// Whether the ledger might ever take this. Forgetting what it won't loses no behaviour: epochs, incarnations and boots only
/// grow, and within one incarnation a leg goes from in sync to stale, or from back to rebuilding to in sync, and no way back.
pub(super) fn may_be_taken(ledger: &State, epoch: Epoch, command: &VolumeCommand) -> bool {
    use VolumeCommand as C;
    let volume = volume(ledger);
    let leg = |leg: &LegRef| volume.legs.get(&leg.id).filter(|found| found.incarnation == leg.incarnation);
    let is =
        |named: &LegRef, kinds: &[LegKind]| leg(named).is_some_and(|leg| kinds.contains(&leg.state.kind()));
    let this_phase = match command {
        C::ConfirmFence { .. } => matches!(volume.phase, Phase::Fencing { .. }),
        C::Opened { .. } => matches!(volume.phase, Phase::Opening { .. } | Phase::Fencing { .. }),
        _ => true,
    };
    let this_leg = match command {
        C::LegStale(named) => is(named, &[LegKind::InSync, LegKind::Rebuilding]),
        C::ConfirmFence { leg: named, .. } => is(named, &[LegKind::InSync]),
        C::LegSuspect(named) => !is(named, &[LegKind::Suspect]) && leg(named).is_some(),
        C::Kept { leg: named, run } => {
            is(named, &[LegKind::InSync])
                && leg(named).is_some_and(|found| {
                    found.run != Some(*run) && ledger.run(found.drive).is_some_and(|present| present <= *run)
                })
        }
        C::Laid { leg: named, .. } => leg(named).is_some_and(|found| found.to_lay > 0),
        C::BeginRebuild(named) => is(named, &[LegKind::Stale]),
        C::LegInSync { leg: named, .. } => is(named, &[LegKind::Rebuilding]),
        C::Reexport { leg: named, run } => leg(named).is_some_and(|found| {
            let present = ledger.run(found.drive).is_some_and(|present| present <= *run);
            present && !matches!(found.state, LegState::Stale { back: true, .. } if found.run == Some(*run))
        }),
        _ => true,
    };
    epoch == volume.epoch && this_phase && this_leg
}

pub(super) fn may_register(ledger: &State, node: NodeId, was: Option<BootId>, run: Run) -> bool {
    let drives = || ledger.drives.values().filter(|drive| drive.node == node);
    let boot = ledger.nodes[&node].boot;
    let news = boot == was && was != Some(run.boot);
    news || (boot == Some(run.boot) && drives().any(|drive| drive.power_cycles < Some(run.power_cycles)))
}
