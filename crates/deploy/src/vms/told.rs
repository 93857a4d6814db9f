//! Virtual machines in words. Pure.

use control::State;
use control::vm::{MemoryLost, VmPhase, Wanted, WhyNotSaved};
use model::{NodeId, VmId, VmPlacement};
use placement::vm::{Plan, Reasons, Why};

pub(super) fn name_of(state: &State, node: NodeId) -> String {
    state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.to_string())
}

/// What may be done with one, in a word or two.
pub fn phase_in_words(state: &State, phase: &VmPhase) -> String {
    match phase {
        VmPhase::Off => "off".to_owned(),
        VmPhase::Starting { .. } => "starting".to_owned(),
        VmPhase::Restoring { .. } => "being restored".to_owned(),
        VmPhase::Running { .. } => "running".to_owned(),
        VmPhase::Stopping { .. } => "stopping".to_owned(),
        VmPhase::Saving { .. } => "being saved".to_owned(),
        VmPhase::Saved => "saved".to_owned(),
        VmPhase::Migrating { to, .. } => format!("migrating to {}", name_of(state, to.node)),
        VmPhase::Landing { from, .. } => format!("landing from {}", name_of(state, from.node)),
    }
}

/// What is wanted of one, in a word.
pub const fn wanted_in_words(wanted: Wanted) -> &'static str {
    match wanted {
        Wanted::Running => "running",
        Wanted::Stopped => "stopped",
        Wanted::Saved => "saved",
    }
}

/// Why a try at saving one came to nothing.
pub const fn why_not_saved_in_words(why: WhyNotSaved) -> &'static str {
    match why {
        WhyNotSaved::Unwanted => "it was wanted otherwise before it was saved",
        WhyNotSaved::Late => {
            "the volume for its memory did not take it in time, since it does not answer, or the pool has no room"
        }
        WhyNotSaved::Volume => "the volume for its memory is not there, or failed",
        WhyNotSaved::Machine => "it could not be made to stand still, or to give its memory away",
        WhyNotSaved::Lost => "its node was lost, or it ended, before it was saved",
    }
}

/// Why memory that was saved, or was about to be, is gone.
pub const fn memory_lost_in_words(why: MemoryLost) -> &'static str {
    match why {
        MemoryLost::Spoilt => "what was saved of it is not whole, or is another run's",
        MemoryLost::NotUsedUp => "what was saved of it could not be wiped, and it was not let run with it",
        MemoryLost::Overridden => {
            "a quorum was forced, or a copy of one of its volumes declared good: what was saved does not surely fit to its disks"
        }
        MemoryLost::Unsaved => "its node was lost, or it ended, while it was being saved",
    }
}

/// Where one may run, in a word or two.
pub fn placement_in_words(placement: &VmPlacement) -> String {
    match placement {
        VmPlacement::Anywhere => "anywhere".to_owned(),
        VmPlacement::Prefers(zone) => format!("prefers {zone}"),
        VmPlacement::Strict(zone) => format!("strict in {zone}"),
    }
}

/// One reason for each node, under its name.
pub fn reasons_in_words(state: &State, reasons: &Reasons) -> Vec<(String, String)> {
    let why = |why: &Why| match why {
        Why::Lacks { bytes, cores } => {
            let memory = (*bytes > 0).then(|| format!("{} MiB of memory", bytes.div_ceil(1 << 20)));
            let plural = if *cores == 1 { "" } else { "s" };
            let cores = (*cores > 0).then(|| format!("{cores} virtual core{plural}"));
            format!("lacks {}", memory.into_iter().chain(cores).collect::<Vec<_>>().join(" and "))
        }
        Why::OutsideZone | Why::Down | Why::Drains => why.to_string(),
    };
    reasons.iter().map(|(node, reason)| (name_of(state, *node), why(reason))).collect()
}

/// Why one does not run, or does not leave where it should, in a line; `None`: nothing is in its way.
pub fn why_not(state: &State, plan: &Plan, id: VmId) -> Option<String> {
    let reasons = plan.off.get(&id).map(|off| &off.reasons);
    let reasons = reasons.or_else(|| plan.held.get(&id).map(|held| &held.reasons))?;
    let told = reasons_in_words(state, reasons).into_iter().map(|(node, why)| format!("{node} {why}"));
    let told: Vec<String> = told.collect();
    Some(if told.is_empty() { "there is no node for it".to_owned() } else { told.join("; ") })
}
