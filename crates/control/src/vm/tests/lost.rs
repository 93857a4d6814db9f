//! Memory that is lost, and words that come late.

use super::*;
use crate::vm::MemoryLost;

fn wants(state: &mut State, wanted: Wanted) {
    must(state, &Command::Vms(VmsCommand::Want(VM, wanted)));
}

fn drains_by_saving(state: &mut State) {
    let (nodes, leftover) = (BTreeSet::from([ONE]), Leftover::Saved);
    must(state, &Command::Vms(VmsCommand::Drain { nodes, leftover }));
}

fn force_quorum(state: &mut State) {
    let (by, loses) = ("operator".to_owned(), "the last writes".to_owned());
    let incarnation = LedgerIncarnation(state.incarnation.0 + 1);
    let voters = BTreeSet::from([ONE]);
    must(state, &Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses }));
    assert_eq!(check(state), []);
}

fn saving() -> State {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    state
}

/// Saved, and wanted running.
fn saved() -> State {
    let mut state = saving();
    does(&mut state, C::Ended(How::Saved(FIRST, BYTES)));
    state
}

fn restoring() -> State {
    let mut state = saved();
    does(&mut state, C::Place { on: ONE });
    state
}

#[test]
fn memory_that_is_lost_is_told_whatever_was_wanted_until_it_is_saved_anew() {
    let after = |mut state: State, commands: &[C]| {
        for command in commands {
            does(&mut state, command.clone());
        }
        the_vm(&state).memory_lost
    };
    assert_eq!(after(restoring(), &[C::Ended(How::Spoilt)]), Some(MemoryLost::Spoilt));
    assert_eq!(after(restoring(), &[C::Began, C::Ended(How::Spoilt)]), Some(MemoryLost::NotUsedUp));
    assert_eq!(after(saving(), &[C::Lost]), Some(MemoryLost::Unsaved));
    assert_eq!(after(saving(), &[C::Ended(How::Died)]), Some(MemoryLost::Unsaved));
    for mut state in [saved(), restoring()] {
        force_quorum(&mut state);
        assert_eq!((the_vm(&state).memory_lost, the_vm(&state).saved), (Some(MemoryLost::Overridden), None));
    }
    let mut ran = running(VmPlacement::Anywhere);
    force_quorum(&mut ran);
    assert_eq!(the_vm(&ran).memory_lost, None, "none was saved");

    // Nothing was lost.
    assert_eq!(after(saving(), &[C::Ended(How::PoweredOff)]), None, "it switched itself off");
    assert_eq!(after(saving(), &[C::GiveUpSaving(FIRST, WhyNotSaved::Late)]), None);
    assert_eq!(after(restoring(), &[C::Ended(How::Died)]), None, "it is loaded again");
    assert_eq!(after(restoring(), &[C::Lost]), None);
    assert_eq!(after(restoring(), &[C::Began, C::Lost]), None, "it has run, as far as anybody knows");

    let mut state = restoring();
    does(&mut state, C::Ended(How::Spoilt));
    does(&mut state, C::Place { on: ONE });
    does(&mut state, C::Began);
    assert_eq!(the_vm(&state).memory_lost, Some(MemoryLost::Spoilt), "it runs, and without it");
    let mut stopped = state.clone();
    wants(&mut stopped, Wanted::Stopped);
    assert_eq!(the_vm(&stopped).memory_lost, None);
    does(&mut state, C::Save);
    assert_eq!(the_vm(&state).memory_lost, None);
}

#[test]
fn a_save_that_is_wanted_is_not_given_up_by_who_says_late_that_it_is_not() {
    let mut state = saving();
    let unwanted = || C::GiveUpSaving(FIRST, WhyNotSaved::Unwanted);
    let late = about(&state, unwanted());
    wants(&mut state, Wanted::Saved);
    assert_eq!(state.clone().apply(&late), Err(VmRejected::SavesOn.into()));
    does(&mut state.clone(), C::GiveUpSaving(FIRST, WhyNotSaved::Volume));
    wants(&mut state, Wanted::Running);
    let mut drained = state.clone();
    drains_by_saving(&mut drained);
    assert_eq!(refused(&drained, unwanted()), VmRejected::SavesOn.into());
    wants(&mut drained, Wanted::Stopped);
    does(&mut drained, unwanted());
    does(&mut state, unwanted());
    assert_eq!(the_vm(&state).phase.kind(), VmKind::Running);
}

#[test]
fn what_is_told_of_an_earlier_try_is_not_told_of_the_next() {
    let mut state = saving();
    does(&mut state, C::GiveUpSaving(FIRST, WhyNotSaved::Late));
    wants(&mut state, Wanted::Running);
    assert_eq!(the_vm(&state).not_saved, Some(WhyNotSaved::Late));
    wants(&mut state, Wanted::Saved);
    assert_eq!(the_vm(&state).not_saved, None);
}

#[test]
fn one_that_is_saved_is_not_deleted_before_its_memory_is_given_up() {
    let mut state = saved();
    wants(&mut state, Wanted::Saved);
    let delete = Command::Vms(VmsCommand::Delete(VM));
    assert_eq!(state.clone().apply(&delete), Err(VmRejected::HoldsMemory.into()));
    wants(&mut state, Wanted::Stopped);
    does(&mut state, C::Stop);
    must(&mut state, &delete);
}

/// The ledger that goes on may be an older one: what was begun or saved after it is nobody's.
#[test]
fn a_forced_quorum_gives_out_no_generation_and_no_try_that_may_have_been() {
    let mut older = running(VmPlacement::Anywhere);
    let mut forgotten = older.clone();
    does(&mut forgotten, C::Save);
    does(&mut forgotten, C::Ended(How::Saved(FIRST, BYTES)));
    does(&mut forgotten, C::Place { on: TWO });
    let begun = the_vm(&forgotten).clone();
    let before = older.clone();
    force_quorum(&mut older);
    assert_eq!(check_step(&before, &older), []);
    must(&mut older, &Command::Vms(VmsCommand::Want(VM, Wanted::Running)));
    does(&mut older, C::Place { on: TWO });
    let anew = the_vm(&older);
    assert!(anew.generation > begun.generation && anew.saves > begun.saves, "{anew:?}");
}
