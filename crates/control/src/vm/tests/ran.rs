//! What a node orders, by what the ledger says and by what it has.

use super::*;
use crate::moment::Moment;
use crate::owner::{self, Hold};
use crate::vm::runner::{Effect, Event as Said, Instance, Role, Runner, Stage};

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);

struct Node {
    runner: Runner,
    hold: Hold,
}

impl Node {
    fn new(node: NodeId) -> Self {
        let mut runner = Runner::new(node, boot(node, 1), BTreeMap::new());
        let _ = runner.step(
            Moment(0),
            &State::new(crate::state::Settings::default()),
            &BTreeMap::new(),
            &Said::Leased,
        );
        Self { runner, hold: Hold::Nothing }
    }

    /// It finds this, as an agent that starts.
    fn found(node: NodeId, generation: Generation, stage: Stage) -> Self {
        let found = BTreeMap::from([(VM, Instance { generation, stage })]);
        Self { runner: Runner::new(node, boot(node, 1), found), ..Self::new(node) }
    }

    fn says(&mut self, ledger: &State, event: &Said) -> Vec<Effect> {
        self.runner.step(Moment(1), ledger, &BTreeMap::from([(VOLUME, self.hold)]), event)
    }

    fn looks(&mut self, ledger: &State, hold: Hold) -> Vec<Effect> {
        self.hold = hold;
        self.says(ledger, &Said::Look)
    }
}

fn asks(state: &State, command: C) -> Effect {
    Effect::Propose(about(state, command))
}

fn placed(on: NodeId) -> State {
    let mut state = ledger(VmPlacement::Anywhere);
    does(&mut state, C::Place { on });
    state
}

#[test]
fn it_waits_without_disks_and_is_let_run_when_its_volumes_are_here_and_nobody_else_may_run_it() {
    let mut state = placed(ONE);
    let mut unleased = Node { runner: Runner::new(ONE, boot(ONE, 1), BTreeMap::new()), hold: Hold::Users };
    assert_eq!(unleased.looks(&state, Hold::Users), [], "without a lease nothing is started");
    let mut node = Node::new(ONE);
    assert_eq!(node.looks(&state, Hold::Nothing), [Effect::Start(VM, G1, Role::Run)]);
    assert_eq!(node.looks(&state, Hold::Users), [], "it is not there yet");
    node.hold = Hold::Nothing;
    assert_eq!(node.says(&state, &Said::Ready(VM, G1)), []);
    assert_eq!(node.looks(&state, Hold::Array), [], "the ledger does not say that it is open");
    let mut yielding = state.clone();
    yielding.vms.all.get_mut(&VM).unwrap().yielding.insert(TWO, boot(TWO, 1));
    assert_eq!(node.looks(&yielding, Hold::Users), [], "an earlier run may go on elsewhere");
    assert_eq!(node.looks(&state, Hold::Users), [Effect::Resume(VM, G1)]);
    assert_eq!(node.says(&state, &Said::Started(VM, G1)), [asks(&state, C::Began)]);
    does(&mut state, C::Began);
    assert_eq!(node.looks(&state, Hold::Users), []);
    let ended = node.says(&state, &Said::Ended(VM, G1, How::PoweredOff));
    assert_eq!(ended, [asks(&state, C::Ended(How::PoweredOff))]);
    assert_eq!(node.looks(&state, Hold::Users), ended, "until the ledger knows");
    does(&mut state, C::Ended(How::PoweredOff));
    assert_eq!(the_vm(&state).wanted, Wanted::Stopped);
    assert_eq!(node.looks(&state, Hold::Users), []);
}

#[test]
fn what_waits_is_ended_when_it_is_superseded_or_the_lease_is_lost_and_not_without_volumes() {
    let state = placed(ONE);
    let end = [Effect::End(VM, G1)];
    let fresh = || Node::found(ONE, G1, Stage::Ready(Role::Run));
    assert_eq!(fresh().looks(&state, Hold::Nothing), []);
    assert_eq!(fresh().says(&state, &Said::LeaseLost), end);
    let mut lost = state.clone();
    does(&mut lost, C::Lost);
    assert_eq!(fresh().looks(&lost, Hold::Nothing), end);
}

#[test]
fn it_is_ended_when_it_is_superseded_or_loses_a_volume_or_the_lease() {
    let state = running(VmPlacement::Anywhere);
    let end = [Effect::End(VM, G1)];
    let fresh = || Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
    assert_eq!(fresh().looks(&state, Hold::Users), [], "an agent's restart disturbs nothing");
    assert_eq!(fresh().looks(&state, Hold::Array), [], "nor does a ledger that is behind");
    assert_eq!(fresh().looks(&state, Hold::Nothing), end);
    assert_eq!(fresh().says(&state, &Said::LeaseLost), end);
    let mut lost = state.clone();
    does(&mut lost, C::Lost);
    let mut node = fresh();
    assert_eq!(node.looks(&lost, Hold::Users), end);
    assert_eq!(node.looks(&lost, Hold::Users), [], "once");
    let yielded = asks(&lost, C::Yielded { node: ONE, boot: boot(ONE, 1) });
    assert_eq!(
        node.says(&lost, &Said::Ended(VM, G1, How::Died)),
        [yielded],
        "it yields when nothing is left"
    );
}

#[test]
fn a_volume_goes_where_its_virtual_machine_is_to_run() {
    let state = placed(TWO);
    let mut node = Node::new(ONE);
    let give = Effect::Owner(VOLUME, owner::Event::HandOver(TWO));
    assert_eq!(node.looks(&state, Hold::Users), [give]);
    assert_eq!(node.says(&state, &Said::Silent(TWO)), [], "nobody is there to take it");
}

#[test]
fn a_restored_memory_runs_only_when_the_ledger_says_that_it_is_used_up() {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    does(&mut state, C::Ended(How::Saved(FIRST, BYTES)));
    does(&mut state, C::Place { on: ONE });
    let mut node = Node::new(ONE);
    assert_eq!(node.looks(&state, Hold::Users), [Effect::Start(VM, G2, Role::Restore)]);
    assert_eq!(node.says(&state, &Said::Ready(VM, G2)), [asks(&state, C::Began)]);
    does(&mut state, C::Began);
    assert_eq!(node.looks(&state, Hold::Users), [Effect::Resume(VM, G2)]);
}

#[test]
fn what_is_saved_stands_still_until_the_ledger_has_it_and_then_is_ended() {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    let fresh = || {
        let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
        assert_eq!(
            node.says(&state, &Said::Leased),
            [Effect::Stop { vm: VM, generation: G1, save: Some(FIRST) }]
        );
        node
    };
    let mut node = fresh();
    assert_eq!(node.looks(&state, Hold::Users), [], "once");
    let saved = asks(&state, C::Ended(How::Saved(FIRST, BYTES)));
    assert_eq!(node.says(&state, &Said::Saved(VM, G1, FIRST, BYTES)), std::slice::from_ref(&saved));
    assert_eq!(node.looks(&state, Hold::Users), [saved], "it stays until the ledger knows");
    let mut after = state.clone();
    does(&mut after, C::Ended(How::Saved(FIRST, BYTES)));
    assert_eq!(the_vm(&after).saved, Some(G1));
    assert_eq!(node.looks(&after, Hold::Users), [Effect::End(VM, G1)]);
    assert_eq!(node.says(&after, &Said::Ended(VM, G1, How::Died)), []);

    // What it was told of its writes is worth nothing once it has lost a volume.
    let mut lost = fresh();
    assert_eq!(lost.looks(&state, Hold::Nothing), [Effect::End(VM, G1)]);
    assert_eq!(lost.says(&state, &Said::Saved(VM, G1, FIRST, BYTES)), []);
    assert_eq!(lost.says(&state, &Said::Ended(VM, G1, How::Died)), [asks(&state, C::Ended(How::Died))]);
}

#[test]
fn one_that_cant_be_saved_runs_on_and_is_wanted_running() {
    let mut state = running(VmPlacement::Anywhere);
    must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Saved)));
    does(&mut state, C::Save);
    let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
    let _ = node.says(&state, &Said::Leased);
    assert_eq!(
        node.says(&state, &Said::NotSaved(VM, G1, FIRST, WhyNotSaved::Late)),
        [asks(&state, C::GiveUpSaving(FIRST, WhyNotSaved::Late))]
    );
    does(&mut state, C::GiveUpSaving(FIRST, WhyNotSaved::Late));
    assert_eq!((the_vm(&state).wanted, the_vm(&state).setbacks), (Wanted::Running, 1));
    assert_eq!(the_vm(&state).not_saved, Some(WhyNotSaved::Late));
    assert_eq!(node.looks(&state, Hold::Users), [Effect::Resume(VM, G1)]);
    assert_eq!(node.says(&state, &Said::Started(VM, G1)), []);
    does(&mut state, C::Save);
    let saves = Effect::Stop { vm: VM, generation: G1, save: Some(SECOND) };
    assert_eq!(node.looks(&state, Hold::Users), [saves], "it may be tried again");
}

/// What broke it off came to nothing: the ledger says still, or again, that it is saved by that try.
#[test]
fn one_that_was_broken_off_and_is_to_be_saved_all_the_same_is_saved() {
    let mut state = running(VmPlacement::Anywhere);
    must(&mut state, &Command::Vms(VmsCommand::Want(VM, Wanted::Saved)));
    does(&mut state, C::Save);
    let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
    assert_eq!(node.says(&state, &Said::Leased), [saves(FIRST)]);
    assert_eq!(node.says(&state, &Said::NotSaved(VM, G1, FIRST, WhyNotSaved::Unwanted)), [saves(FIRST)]);
}

fn saves(which: SaveTry) -> Effect {
    Effect::Stop { vm: VM, generation: G1, save: Some(which) }
}

/// A try that was given up late may have ended well, and what it has saved be older than the disks by the time that the ledger hears of it.
#[test]
fn one_try_at_saving_is_never_taken_for_another() {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
    assert_eq!(node.says(&state, &Said::Leased), [saves(FIRST)]);
    let (late, late_too) = (
        about(&state, C::Ended(How::Saved(FIRST, BYTES))),
        about(&state, C::GiveUpSaving(FIRST, WhyNotSaved::Late)),
    );
    must(&mut state, &late_too);
    assert_eq!(node.looks(&state, Hold::Users), [Effect::Resume(VM, G1)]);
    let over = Err(VmRejected::NotThatTry(FIRST).into());
    assert_eq!(state.clone().apply(&late), over, "one that runs is not ended by it");
    does(&mut state, C::Save);
    assert_eq!(node.looks(&state, Hold::Users), [], "it is being let run");
    assert_eq!(node.says(&state, &Said::Saved(VM, G1, FIRST, BYTES)), []);
    assert_eq!(node.says(&state, &Said::Started(VM, G1)), [saves(SECOND)]);
    for said in [Said::Saved(VM, G1, FIRST, BYTES), Said::NotSaved(VM, G1, FIRST, WhyNotSaved::Late)] {
        assert_eq!(node.says(&state, &said), []);
    }
    assert_eq!((state.clone().apply(&late), state.clone().apply(&late_too)), (over.clone(), over));
    let saved = asks(&state, C::Ended(How::Saved(SECOND, BYTES)));
    assert_eq!(node.says(&state, &Said::Saved(VM, G1, SECOND, BYTES)), [saved]);
    does(&mut state, C::Ended(How::Saved(SECOND, BYTES)));
    assert_eq!((the_vm(&state).saved, the_vm(&state).saves), (Some(G1), SECOND));
    assert_eq!((the_vm(&state).saved_bytes, the_vm(&state).not_saved), (BYTES, None));
}

/// The node has seen nothing of what the ledger said in between.
#[test]
fn one_that_was_saved_by_an_earlier_try_is_saved_anew() {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    for said in [None, Some(Said::Saved(VM, G1, FIRST, BYTES))] {
        let mut state = state.clone();
        let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
        let _ = node.says(&state, &Said::Leased);
        if let Some(said) = said {
            let _ = node.says(&state, &said);
        }
        does(&mut state, C::GiveUpSaving(FIRST, WhyNotSaved::Late));
        does(&mut state, C::Save);
        assert_eq!(node.looks(&state, Hold::Array), [], "it may have to run for a moment");
        assert_eq!(node.looks(&state, Hold::Users), [saves(SECOND)]);
    }
}

#[test]
fn that_it_runs_counts_only_of_what_was_just_let_run() {
    let mut state = placed(ONE);
    let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Ready(Role::Run)) };
    assert_eq!(node.says(&state, &Said::Leased), [Effect::Resume(VM, G1)]);
    does(&mut state, C::Stop);
    let stops = Effect::Stop { vm: VM, generation: G1, save: None };
    assert_eq!(node.looks(&state, Hold::Users), [stops]);
    assert_eq!(node.says(&state, &Said::Started(VM, G1)), [], "it is not stopped twice");

    let mut state = running(VmPlacement::Anywhere);
    let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
    does(&mut state, C::Save);
    assert_eq!(node.says(&state, &Said::Leased), [saves(FIRST)]);
    assert_eq!(node.says(&state, &Said::Started(VM, G1)), [], "nor saved twice by one try");
}

#[test]
fn one_that_stands_still_for_a_migration_or_has_not_run_is_saved_and_not_killed() {
    let mut state = migrating();
    let mut node = Node { hold: Hold::Parted, ..Node::found(ONE, G1, Stage::Paused(G2)) };
    let _ = node.says(&state, &Said::Leased);
    does(&mut state, C::Cancel);
    does(&mut state, C::Save);
    let back = Effect::Owner(VOLUME, owner::Event::HandOver(ONE));
    assert_eq!(node.looks(&state, Hold::Parted), [back]);
    assert_eq!(node.looks(&state, Hold::Nothing), []);
    assert_eq!(node.looks(&state, Hold::Users), [saves(FIRST)]);

    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    for role in [Role::Run, Role::Restore] {
        let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Ready(role)) };
        assert_eq!(node.says(&state, &Said::Leased), [Effect::Resume(VM, G1)]);
        assert_eq!(node.says(&state, &Said::Started(VM, G1)), [saves(FIRST)]);
    }
}

/// The ledger goes on to the next before the node looks.
#[test]
fn what_has_failed_is_not_held_against_the_next_order() {
    let state = migrating();
    let fresh = || {
        let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
        assert_eq!(node.says(&state, &Said::Leased), [Effect::Send(VM, G1, TWO, G2)]);
        assert_eq!(node.says(&state, &Said::Failed(VM, G1)), [asks(&state, C::Cancel)]);
        node
    };
    let mut cancelled = state.clone();
    does(&mut cancelled, C::Cancel);
    let (mut node, mut saved) = (fresh(), cancelled.clone());
    does(&mut saved, C::Save);
    assert_eq!(node.looks(&saved, Hold::Users), [saves(FIRST)]);
    assert_eq!(node.looks(&saved, Hold::Users), []);

    let (mut node, mut again) = (fresh(), cancelled);
    does(&mut again, C::Migrate { to: TWO });
    does(&mut again, C::IncomingReady);
    assert_eq!(node.looks(&again, Hold::Users), [Effect::Resume(VM, G1)]);
    let sends = Effect::Send(VM, G1, TWO, Generation(3));
    assert_eq!(node.says(&again, &Said::Started(VM, G1)), [sends]);

    let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
    assert_eq!(node.says(&saved, &Said::Leased), [saves(FIRST)]);
    let _ = node.says(&saved, &Said::NotSaved(VM, G1, FIRST, WhyNotSaved::Late));
    does(&mut saved, C::GiveUpSaving(FIRST, WhyNotSaved::Late));
    does(&mut saved, C::Migrate { to: TWO });
    assert_eq!(node.looks(&saved, Hold::Users), [Effect::Resume(VM, G1)], "and it is sent then");
}

#[test]
fn an_agent_that_starts_saves_what_stands_still_only_where_that_may_run() {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    let mut node = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Sending(Generation(0))) };
    assert_eq!(node.looks(&state, Hold::Users), [], "it has no lease yet");
    let saves = Effect::Stop { vm: VM, generation: G1, save: Some(FIRST) };
    assert_eq!(node.says(&state, &Said::Leased), [saves]);
}

#[test]
fn a_memory_that_is_not_whole_is_given_up_and_it_boots() {
    let mut state = running(VmPlacement::Anywhere);
    does(&mut state, C::Save);
    does(&mut state, C::Ended(How::Saved(FIRST, BYTES)));
    does(&mut state, C::Place { on: ONE });
    assert_eq!(the_vm(&state).saved, Some(G1));
    let mut node = Node::new(ONE);
    assert_eq!(node.looks(&state, Hold::Users), [Effect::Start(VM, G2, Role::Restore)]);
    let mut failed = state.clone();
    does(&mut failed, C::Ended(How::Died));
    assert_eq!(
        (the_vm(&failed).phase, the_vm(&failed).saved),
        (VmPhase::Saved, Some(G1)),
        "it may be loaded yet"
    );
    let spoilt = node.says(&state, &Said::Ended(VM, G2, How::Spoilt));
    assert_eq!(spoilt, [asks(&state, C::Ended(How::Spoilt))]);
    does(&mut state, C::Ended(How::Spoilt));
    assert_eq!((the_vm(&state).phase, the_vm(&state).saved), (VmPhase::Off, None));
    does(&mut state, C::Place { on: ONE });
    assert_eq!(the_vm(&state).phase.kind(), VmKind::Starting);
}

#[test]
fn a_migration_is_asked_for_step_by_step_on_both_sides() {
    let mut state = running(VmPlacement::Anywhere);
    let mut here = Node { hold: Hold::Users, ..Node::found(ONE, G1, Stage::Running) };
    let mut there = Node::new(TWO);
    does(&mut state, C::Migrate { to: TWO });
    assert_eq!(here.looks(&state, Hold::Users), [], "nobody waits yet");
    assert_eq!(there.looks(&state, Hold::Nothing), [Effect::Start(VM, G2, Role::Incoming)]);
    assert_eq!(there.says(&state, &Said::Ready(VM, G2)), [asks(&state, C::IncomingReady)]);
    does(&mut state, C::IncomingReady);
    assert_eq!(here.looks(&state, Hold::Users), [Effect::Send(VM, G1, TWO, G2)]);
    assert_eq!(here.says(&state, &Said::Paused(VM, G1)), [Effect::Owner(VOLUME, owner::Event::Part)]);
    assert_eq!(here.looks(&state, Hold::Nothing), [], "it is being closed");
    let asked = asks(&state, switch(&state));
    assert_eq!(here.looks(&state, Hold::Parted), std::slice::from_ref(&asked));
    assert_eq!(here.looks(&state, Hold::Parted), [asked], "while the outcome is not known it stays paused");
    assert_eq!(there.looks(&state, Hold::Nothing), []);
    switches(&mut state);
    assert_eq!(here.looks(&state, Hold::Nothing), [Effect::Continue(VM, G1)]);
    assert_eq!(there.looks(&state, Hold::Nothing), [], "the volumes are not open");
    opened(&mut state);
    assert_eq!(there.looks(&state, Hold::Users), [Effect::Resume(VM, G2)]);
    assert_eq!(there.says(&state, &Said::Started(VM, G2)), [asks(&state, C::Began)]);
    does(&mut state, C::Began);
    assert_eq!(here.looks(&state, Hold::Nothing), [Effect::End(VM, G1)]);
}

#[test]
fn a_cancelled_one_gets_its_volumes_back_and_goes_on_where_it_was() {
    let mut state = migrating();
    let mut here = Node { hold: Hold::Parted, ..Node::found(ONE, G1, Stage::Paused(G2)) };
    let _ = here.says(&state, &Said::Leased);
    assert_eq!(here.says(&state, &Said::Failed(VM, G1)), [asks(&state, C::Cancel)]);
    let mut there = Node::found(TWO, G2, Stage::Ready(Role::Incoming));
    assert_eq!(there.says(&state, &Said::Ended(VM, G2, How::Died)), [asks(&state, C::Cancel)]);
    does(&mut state, C::Cancel);
    let back = Effect::Owner(VOLUME, owner::Event::HandOver(ONE));
    assert_eq!(here.looks(&state, Hold::Parted), [back], "it does not run before its volumes are back");
    assert_eq!(here.looks(&state, Hold::Nothing), []);
    assert_eq!(here.looks(&state, Hold::Users), [Effect::Resume(VM, G1)]);
    let mut there = Node::found(TWO, G2, Stage::Ready(Role::Incoming));
    assert_eq!(there.looks(&state, Hold::Nothing), [Effect::End(VM, G2)]);
}

/// Its copies there are stale by then, and those here out of reach: there it would wait as long as that lasts.
#[test]
fn one_is_not_sent_where_storage_does_not_get_through() {
    let stages = [
        (Stage::Running, Hold::Users),
        (Stage::Sending(G2), Hold::Users),
        (Stage::Paused(G2), Hold::Users),
        (Stage::Paused(G2), Hold::Parted),
    ];
    for (stage, hold) in stages {
        let state = migrating();
        let mut here = Node { hold, ..Node::found(ONE, G1, stage) };
        let _ = here.says(&state, &Said::Leased);
        assert_eq!(here.says(&state, &Said::Silent(TWO)), [asks(&state, C::Cancel)]);
    }
}

/// It is paused, and one of its volumes is another node's by now, which will not part with it.
#[test]
fn one_whose_volume_was_taken_over_while_it_parts_is_cancelled_and_gets_it_back() {
    let mut state = migrating();
    let mut here = Node::found(ONE, G1, Stage::Paused(G2));
    let _ = here.says(&state, &Said::Leased);
    let takeover = now(&state, VolumeCommand::Takeover { owner: TWO, lease_over: true });
    must(&mut state, &takeover);
    assert_eq!(here.looks(&state, Hold::Nothing), [asks(&state, C::Cancel)]);
    does(&mut state, C::Cancel);
    assert_eq!(here.looks(&state, Hold::Nothing), [], "it waits for its volume");
    let mut there = Node::new(TWO);
    let back = Effect::Owner(VOLUME, owner::Event::HandOver(ONE));
    assert!(there.looks(&state, Hold::Users).contains(&back));
}

#[test]
fn after_the_switch_the_source_only_sends_whatever_fails() {
    let mut state = migrating();
    switches(&mut state);
    let mut here = Node::found(ONE, G1, Stage::Paused(G2));
    assert_eq!(here.says(&state, &Said::Leased), [Effect::Continue(VM, G1)]);
    assert_eq!(here.says(&state, &Said::Failed(VM, G1)), []);
    let mut gone = Node::new(TWO);
    let ended = asks(&state, C::Ended(How::Died));
    assert_eq!(gone.looks(&state, Hold::Users), [ended], "nothing that could land is there");
}
