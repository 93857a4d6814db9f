//! Virtual machines whose memory can be saved: with a volume for it, made with them; and what is asked before one is.
//!
//! Invariants: the volume is as large as the memory can need, and is made only for one that may be made.
//!
//! On failure: [`super::VmsError`]; a volume that was made stays, and is used when it is asked again.

use super::{VmsError, named, to_make, told};
use crate::Member;
use crate::pool::{VolumeRequest, confirmed, volume};
use control::State;
use control::vm::{Leftover, MemoryLost, Vm, VmPhase, Wanted, WhyNotSaved};
use model::{Provision, VmId, VmSpec, VolumeId, VolumeName};
use std::time::Duration;
use tokio::time::Instant;

/// Why a virtual machine can't be saved, or was not.
#[derive(Debug, thiserror::Error)]
pub enum NotSaved {
    /// It has no volume for its memory.
    #[error("it has no volume for its memory")]
    Nowhere,
    /// Its volume is too small.
    #[error("{volume} has {has} bytes, and its memory may need {needs}")]
    TooSmall {
        /// Which volume.
        volume: VolumeId,
        /// What it has.
        has: u64,
        /// What it needs.
        needs: u64,
    },
    /// No volume of that name can be.
    #[error("a volume for its memory would be called {0}, which is no name for one")]
    Name(String),
    /// Nothing of it runs.
    #[error("it is {phase}: there is no memory of it")]
    NotRunning {
        /// What it is doing.
        phase: String,
    },
    /// Something else came of it.
    #[error("it is {phase}, and wanted {wanted}{}", because(*.why))]
    Otherwise {
        /// What it is doing.
        phase: String,
        /// What is wanted of it.
        wanted: &'static str,
        /// Why the try came to nothing, if the ledger says so.
        why: Option<WhyNotSaved>,
    },
}

impl NotSaved {
    /// What to do about it.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Nowhere => {
                "stop it: `twinrack vm stop`; one that is made with `twinrack vm create --can-be-saved` can be saved"
            }
            Self::TooSmall { .. } => "make the volume larger: `twinrack volume grow`",
            Self::Name(_) => "give it a shorter name",
            Self::NotRunning { .. } => "`twinrack vm list` shows what is running",
            Self::Otherwise { why: Some(WhyNotSaved::Unwanted), .. } => {
                "somebody has wanted it otherwise meanwhile; give the command again if it shall be saved all the same"
            }
            Self::Otherwise { why: Some(WhyNotSaved::Lost), .. } => {
                "there is no memory of it that could be kept: it boots from its disks, if it is wanted running"
            }
            Self::Otherwise { why: Some(WhyNotSaved::Late), .. } => {
                "see that the pool has room (`twinrack drive list`) and its volumes are well (`twinrack status`), and give the command again"
            }
            Self::Otherwise { .. } => "the log of its node's agent says more",
        }
    }
}

fn because(why: Option<WhyNotSaved>) -> String {
    why.map(|why| format!(": {}", told::why_not_saved_in_words(why))).unwrap_or_default()
}

/// What the volume for a memory is called.
fn name_of(spec: &VmSpec) -> Result<VolumeName, NotSaved> {
    let name = format!("{}-memory", spec.name);
    name.parse().map_err(|_| NotSaved::Name(name))
}

/// As [`super::create`], with a thin volume of its own for its memory, with as many copies as its first disk. `spec` names its disks only.
pub async fn create_with_memory(
    members: &[Member],
    spec: &VmSpec,
    bound: Duration,
) -> Result<VmId, VmsError> {
    let deadline = Instant::now() + bound;
    let name = name_of(spec).map_err(|why| VmsError::NotSavable { name: spec.name.clone(), why })?;
    let (_, state) = confirmed(members, bound).await?;
    // One that is there is compared with its volume; one that can't be made gets none.
    if named(&state, &spec.name).is_none() {
        to_make(&state, spec)?;
    }
    let first = spec.volumes.first().and_then(|volume| state.volumes.get(volume));
    let mirror = first.ok_or(VmsError::NoVolume)?.mirror;
    let size_bytes = VmSpec::saved_bytes_max(spec.memory_bytes);
    let request = VolumeRequest { name, mirror, provision: Provision::Thin, size_bytes, rack: None };
    let memory = volume(members, &request, deadline.saturating_duration_since(Instant::now())).await?.id;
    let spec = with_memory(spec, memory);
    super::create(members, &spec, deadline.saturating_duration_since(Instant::now())).await
}

fn with_memory(spec: &VmSpec, memory: VolumeId) -> VmSpec {
    let mut spec = spec.clone();
    spec.volumes.push(memory);
    spec.saves_to = Some(memory);
    spec
}

/// Whether what one is to be saved on has room. Pure.
pub(super) fn has_room(state: &State, spec: &VmSpec) -> Result<(), NotSaved> {
    let found = spec.saves_to.and_then(|id| Some((id, state.volumes.get(&id)?.size_bytes)));
    let needs = VmSpec::saved_bytes_max(spec.memory_bytes);
    match found.filter(|(_, has)| *has < needs) {
        Some((volume, has)) => Err(NotSaved::TooSmall { volume, has, needs }),
        None => Ok(()),
    }
}

/// Whether one may be saved. Pure.
pub(super) fn may_be_saved(state: &State, vm: &Vm) -> Result<(), NotSaved> {
    if vm.spec.saves_to.is_none() {
        return Err(NotSaved::Nowhere);
    }
    match vm.phase {
        VmPhase::Off | VmPhase::Stopping { .. } => {
            Err(NotSaved::NotRunning { phase: told::phase_in_words(state, &vm.phase) })
        }
        _ => has_room(state, &vm.spec),
    }
}

/// Whether one that is to be saved still can: its node may have found that it can't, or is lost. Pure.
pub(super) fn is_being_saved(state: &State, vm: &Vm) -> Result<(), NotSaved> {
    if vm.wanted == Wanted::Saved && vm.phase != VmPhase::Off {
        return Ok(());
    }
    let (phase, wanted) = (told::phase_in_words(state, &vm.phase), told::wanted_in_words(vm.wanted));
    Err(NotSaved::Otherwise { phase, wanted, why: vm.not_saved })
}

/// What becomes of one that is wanted running and has memory saved, or had, in words; `None`: it boots, and nothing else was to be expected. Pure.
pub fn goes_on(state: &State, id: VmId) -> Option<String> {
    let vm = state.vms.all.get(&id)?;
    let saves = matches!(vm.phase, VmPhase::Saving { .. });
    if vm.saved.is_none() && !saves {
        let starts = matches!(vm.phase, VmPhase::Off | VmPhase::Starting { .. });
        let lost = vm.memory_lost.filter(|_| starts).map(told::memory_lost_in_words);
        return lost.map(|why| format!("it boots from its disks, without the memory that it had: {why}"));
    }
    let on = vm.phase.seat().map(|seat| seat.node).or(vm.last);
    let drained = on.filter(|on| state.vms.draining.get(on) == Some(&Leftover::Saved));
    let until = drained.map(|on| {
        let node = told::name_of(state, on);
        format!("when there is a place for it, and {node} is none before `twinrack node end-drain {node}`")
    });
    if saves {
        // Else it is not saved any more as soon as it is wanted running.
        return until.map(|until| format!("a maintenance has it saved: it goes on {until}"));
    }
    let much = vm.saved_bytes.div_ceil(1 << 20);
    let when = until.map(|until| format!(", {until}")).unwrap_or_default();
    Some(format!("{much} MiB of its memory are saved: it goes on where it was{when}"))
}

/// Whether one that runs now goes on where it was, if it was to when it was started. Pure.
pub fn has_gone_on(before: &State, now: &State, id: VmId) -> Result<(), MemoryLost> {
    let had = before
        .vms
        .all
        .get(&id)
        .is_some_and(|vm| vm.saved.is_some() || matches!(vm.phase, VmPhase::Saving { .. }));
    match now.vms.all.get(&id).and_then(|vm| vm.memory_lost).filter(|_| had) {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{VM, running};
    use super::*;
    use model::{NodeId, VmPlacement};
    use std::collections::BTreeSet;

    #[test]
    fn what_does_not_run_or_has_no_room_for_its_memory_is_not_saved() {
        let mut state = running(VmPlacement::Anywhere);
        state.vms.all.get_mut(&VM).unwrap().spec.saves_to = Some(VolumeId(1));
        let may = |state: &State| may_be_saved(state, &state.vms.all[&VM]);
        assert!(
            matches!(may(&state), Err(NotSaved::TooSmall { volume: VolumeId(1), .. })),
            "{:?}",
            may(&state)
        );
        state.volumes.get_mut(&VolumeId(1)).unwrap().size_bytes = 2 << 30;
        assert!(may(&state).is_ok());
        let mut nowhere = state.clone();
        nowhere.vms.all.get_mut(&VM).unwrap().spec.saves_to = None;
        assert!(matches!(may(&nowhere), Err(NotSaved::Nowhere)));
        state.vms.all.get_mut(&VM).unwrap().phase = VmPhase::Off;
        assert_eq!(may(&state).unwrap_err().to_string(), "it is off: there is no memory of it");
    }

    #[test]
    fn one_that_runs_on_or_was_lost_is_not_waited_for() {
        let mut state = running(VmPlacement::Anywhere);
        let is = |state: &State| is_being_saved(state, &state.vms.all[&VM]).map_err(|why| why.to_string());
        assert_eq!(is(&state), Err("it is running, and wanted running".to_owned()), "it could not be saved");
        state.vms.all.get_mut(&VM).unwrap().not_saved = Some(WhyNotSaved::Late);
        insta::assert_snapshot!(is(&state).unwrap_err(), @"it is running, and wanted running: the volume for its memory did not take it in time, since it does not answer, or the pool has no room");
        let every = [
            WhyNotSaved::Unwanted,
            WhyNotSaved::Late,
            WhyNotSaved::Volume,
            WhyNotSaved::Machine,
            WhyNotSaved::Lost,
        ];
        let helps =
            every.map(|why| NotSaved::Otherwise { phase: String::new(), wanted: "", why: Some(why) }.help());
        assert_eq!(helps.into_iter().collect::<BTreeSet<_>>().len(), 4, "each says what to do");
        state.vms.all.get_mut(&VM).unwrap().wanted = Wanted::Saved;
        assert_eq!(is(&state), Ok(()));
        state.vms.all.get_mut(&VM).unwrap().phase = VmPhase::Off;
        state.vms.all.get_mut(&VM).unwrap().not_saved = None;
        assert_eq!(is(&state), Err("it is off, and wanted saved".to_owned()));
    }

    #[test]
    fn its_memory_has_a_volume_that_is_no_disk() {
        let state = running(VmPlacement::Anywhere);
        let spec = VmSpec { saves_to: None, ..state.vms.all[&VM].spec.clone() };
        let with = with_memory(&spec, VolumeId(9));
        assert_eq!(with.disks().collect::<Vec<_>>(), spec.volumes);
        assert_eq!(name_of(&spec).unwrap().as_str(), "one-memory");
    }

    #[test]
    fn what_becomes_of_its_memory_is_said_before_it_is_waited_for_and_when_it_is_lost_after() {
        let mut state = running(VmPlacement::Anywhere);
        let (at, node) = (state.vms.all[&VM].phase.seat().unwrap(), NodeId(1));
        let set = |state: &mut State, phase, saved| {
            let vm = state.vms.all.get_mut(&VM).unwrap();
            (vm.phase, vm.saved, vm.saved_bytes, vm.last) = (phase, saved, 7 << 20, Some(node));
        };
        assert_eq!(goes_on(&state, VM), None, "it runs");
        set(&mut state, VmPhase::Saving { at }, None);
        assert_eq!(goes_on(&state, VM), None, "it runs on as soon as that is wanted");
        let saving = state.clone();
        state.vms.draining.insert(node, Leftover::Saved);
        insta::assert_snapshot!(goes_on(&state, VM).unwrap(), @"a maintenance has it saved: it goes on when there is a place for it, and a1 is none before `twinrack node end-drain a1`");
        set(&mut state, VmPhase::Saved, Some(at.generation));
        insta::assert_snapshot!(goes_on(&state, VM).unwrap(), @"7 MiB of its memory are saved: it goes on where it was, when there is a place for it, and a1 is none before `twinrack node end-drain a1`");
        state.vms.draining.clear();
        insta::assert_snapshot!(goes_on(&state, VM).unwrap(), @"7 MiB of its memory are saved: it goes on where it was");
        let saved = state.clone();
        set(&mut state, VmPhase::Running { at }, None);
        assert_eq!(has_gone_on(&saved, &state, VM), Ok(()));
        state.vms.all.get_mut(&VM).unwrap().memory_lost = Some(MemoryLost::Spoilt);
        assert_eq!(has_gone_on(&saved, &state, VM), Err(MemoryLost::Spoilt));
        assert_eq!(has_gone_on(&saving, &state, VM), Err(MemoryLost::Spoilt));
        assert_eq!(has_gone_on(&state, &state, VM), Ok(()), "it was lost before, and booted");
        set(&mut state, VmPhase::Off, None);
        insta::assert_snapshot!(goes_on(&state, VM).unwrap(), @"it boots from its disks, without the memory that it had: what was saved of it is not whole, or is another run's");
    }
}
