//! What an owner does about a drive's error while nobody answers: found by the simulation.

use super::*;
use crate::state::Cache;
use crate::testing::{VOLUME, boot, hand_over, leg_ref, must, now, opened, run, volume, with_volume};
use model::{ExtentTable, Mirror, Provision, SLAB_BYTES};

fn reach(bytes: u64) -> Reach {
    Reach { size_bytes: bytes, array_bytes: bytes }
}

/// A two-way volume, open and up at node 1.
/// An array of both legs is being made.
fn assembling() -> (State, Owner) {
    let mut ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
    for id in [1, 2] {
        let (leg, run) = (leg_ref(&ledger, id), run(NodeId(id.into()), 1, 1));
        let confirm = now(&ledger, VolumeCommand::ConfirmFence { leg, run, errored: false });
        must(&mut ledger, &confirm);
    }
    let activate = now(&ledger, VolumeCommand::Activate);
    must(&mut ledger, &activate);
    let mut owner = Owner::new(VOLUME, NodeId(1), boot(NodeId(1), 1), Timing::default(), None);
    owner.step(Moment(0), &ledger, Event::Leased);
    (ledger, owner)
}

fn up() -> (State, Owner) {
    let (mut ledger, mut owner) = assembling();
    let Stage::Assembling(ordered, _) = owner.stage().clone() else { unreachable!("it has just begun") };
    owner.step(Moment(1), &ledger, Event::Assembled(ordered));
    opened(&mut ledger);
    assert_eq!(owner.step(Moment(2), &ledger, Event::Look), [Effect::Admit(reach(1 << 20))]);
    (ledger, owner)
}

/// The owner's own leg has failed.
fn own_leg_failed() -> Event {
    let legs = BTreeMap::from([(LegId(1), LegLook::Failed), (LegId(2), LegLook::Fine)]);
    Event::Looked(Look { waits: true, legs })
}

fn proposed(effects: Vec<Effect>) -> Vec<VolumeCommand> {
    let command = |effect| match effect {
        Effect::Propose(Command::Volume(_, _, command)) => Some(command),
        _ => None,
    };
    effects.into_iter().filter_map(command).collect()
}

#[test]
fn an_error_is_proposed_until_the_ledger_says_so() {
    let (mut ledger, mut owner) = up();
    let suspect = [VolumeCommand::LegSuspect(leg_ref(&ledger, 1))];
    assert_eq!(proposed(owner.step(Moment(10), &ledger, own_leg_failed())), suspect);
    for at in [110, 210, 310] {
        assert_eq!(proposed(owner.step(Moment(at), &ledger, Event::Look)), suspect, "it may have been lost");
    }
    let command = now(&ledger, suspect[0].clone());
    must(&mut ledger, &command);
    assert_eq!(owner.step(Moment(410), &ledger, Event::Look), [Effect::Look]);
}

/// Its own late proposal opens the volume while it assembles once more.
#[test]
fn an_assembly_does_not_go_on_in_a_volume_that_was_opened_without_it() {
    let (ledger, mut owner) = up();
    owner.step(Moment(10), &ledger, Event::LeaseLost);
    let epoch = volume(&ledger).epoch;
    // It has not seen yet that the volume is open: to it, nobody was let in.
    let mut lagging = ledger.clone();
    lagging.volumes.get_mut(&VOLUME).unwrap().phase =
        Phase::Opening { boot: boot(NodeId(1), 1), make_equal: true };
    lagging.volumes.get_mut(&VOLUME).unwrap().map_sequence = MapSequence(0);
    owner.step(Moment(20), &lagging, Event::Stopped { epoch, flushed: BTreeSet::new() });
    owner.step(Moment(30), &lagging, Event::Leased);
    assert!(matches!(owner.stage(), Stage::Assembling(..)));
    let takeover = VolumeCommand::Takeover { owner: NodeId(1), lease_over: false };
    let effects = owner.step(Moment(40), &ledger, Event::Look);
    assert_eq!(effects, [Effect::Propose(Command::Volume(VOLUME, epoch, takeover))]);
}

fn unreached(ledger: &State, legs: &[u16]) -> Event {
    let legs = legs.iter().copied().map(LegId).collect();
    Event::Unreached { epoch: volume(ledger).epoch, legs, late: BTreeSet::new() }
}

/// Its node died after the volume was given over to this one, say: it would be waited for for ever.
#[test]
fn a_leg_that_can_not_be_connected_to_is_given_up_by_what_a_try_tells() {
    let stale = |ledger: &State| VolumeCommand::LegStale(leg_ref(ledger, 2));
    let (ledger, mut owner) = assembling();
    owner.step(Moment(10), &ledger, unreached(&ledger, &[2]));
    assert_eq!(
        proposed(owner.step(Moment(9_000), &ledger, Event::Look)),
        [],
        "it may be connected to by now"
    );
    assert_eq!(proposed(owner.step(Moment(9_010), &ledger, unreached(&ledger, &[2]))), [stale(&ledger)]);
    assert_eq!(
        proposed(owner.step(Moment(9_020), &ledger, Event::Look)),
        [stale(&ledger)],
        "until it is committed"
    );
    let (ledger, mut owner) = assembling();
    owner.step(Moment(10), &ledger, Event::Silent(NodeId(2)));
    assert_eq!(proposed(owner.step(Moment(9_000), &ledger, Event::Look)), [], "it may be connected to");
    assert_eq!(proposed(owner.step(Moment(9_010), &ledger, unreached(&ledger, &[2]))), [stale(&ledger)]);
}

#[test]
fn a_leg_that_is_connected_to_is_kept_however_long_the_rest_takes_and_whoever_is_silent() {
    let (ledger, mut owner) = assembling();
    owner.step(Moment(10), &ledger, unreached(&ledger, &[2]));
    owner.step(Moment(300), &ledger, unreached(&ledger, &[]));
    owner.step(Moment(400), &ledger, Event::Silent(NodeId(2)));
    assert_eq!(proposed(owner.step(Moment(60_000), &ledger, Event::Look)), []);
    // What is told of an epoch of before is not of this one.
    let (ledger, mut owner) = assembling();
    let Event::Unreached { epoch, legs, late } = unreached(&ledger, &[2]) else { unreachable!("it is one") };
    let before = Epoch { number: epoch.number - 1, ..epoch };
    owner.step(Moment(10), &ledger, Event::Silent(NodeId(2)));
    let effects = owner.step(Moment(20), &ledger, Event::Unreached { epoch: before, legs, late });
    assert_eq!(proposed(effects), []);
}

/// Its commit, and what was made until then, cross each other.
#[test]
fn an_array_that_was_made_for_an_order_of_before_is_void() {
    let (mut ledger, mut owner) = assembling();
    let Stage::Assembling(ordered, _) = owner.stage().clone() else { unreachable!("it has just begun") };
    let stale = now(&ledger, VolumeCommand::LegStale(leg_ref(&ledger, 2)));
    must(&mut ledger, &stale);
    let effects = owner.step(Moment(10), &ledger, Event::Look);
    let [Effect::Assemble(wanted)] = &effects[..] else { unreachable!("it is ordered anew") };
    assert_eq!(owner.step(Moment(20), &ledger, Event::Assembled(ordered)), []);
    assert!(matches!(owner.stage(), Stage::Assembling(..)));
    owner.step(Moment(30), &ledger, Event::Assembled(wanted.clone()));
    assert!(matches!(owner.stage(), Stage::Up(_)));
}

/// The leg without path has every acknowledged write; the other may not.
#[test]
fn a_leg_without_path_is_kept_if_all_others_have_erred() {
    let (mut ledger, mut owner) = up();
    owner.step(Moment(10), &ledger, own_leg_failed());
    owner.step(Moment(20), &ledger, Event::GateLost(LegId(2)));
    owner.step(Moment(30), &ledger, Event::Silent(NodeId(2)));
    let suspect = VolumeCommand::LegSuspect(leg_ref(&ledger, 1));
    assert_eq!(proposed(owner.step(Moment(9000), &ledger, Event::Look)), std::slice::from_ref(&suspect));
    let command = now(&ledger, suspect);
    must(&mut ledger, &command);
    let left: Vec<LegId> = volume(&ledger).in_sync().map(|(leg, _)| leg).collect();
    assert_eq!(left, [LegId(2)]);
    assert_eq!(proposed(owner.step(Moment(9100), &ledger, Event::Look)), [], "the last is never let go");
}

/// Its patience is for paths that may come back.
#[test]
fn a_leg_that_its_target_has_taken_back_is_let_go_without_patience() {
    let (mut ledger, mut owner) = up();
    let leg = leg_ref(&ledger, 2);
    let old = LegRef { incarnation: Incarnation(0), ..leg };
    assert_eq!(proposed(owner.step(Moment(9000), &ledger, Event::TakenBack(old))), [], "as it was before");
    let stale = VolumeCommand::LegStale(leg);
    assert_eq!(
        proposed(owner.step(Moment(9010), &ledger, Event::TakenBack(leg))),
        std::slice::from_ref(&stale)
    );
    let own = Event::TakenBack(leg_ref(&ledger, 1));
    let command = now(&ledger, stale);
    must(&mut ledger, &command);
    assert_eq!(proposed(owner.step(Moment(9020), &ledger, own)), [], "the last is never let go");
}

/// An earlier run of the agent began the copy; when this one came, it had ended.
#[test]
fn a_copy_that_ended_while_no_agent_looked_is_taken_up() {
    let (mut ledger, mut owner) = up();
    let command = now(&ledger, VolumeCommand::LegStale(leg_ref(&ledger, 2)));
    must(&mut ledger, &command);
    let returned = VolumeCommand::Reexport { leg: leg_ref(&ledger, 2), run: run(NodeId(2), 1, 1) };
    let command = now(&ledger, returned);
    must(&mut ledger, &command);
    owner.step(Moment(9), &ledger, Event::Look);
    owner.step(Moment(10), &ledger, Event::Looked(Look::default()));
    let command = now(&ledger, VolumeCommand::BeginRebuild(leg_ref(&ledger, 2)));
    must(&mut ledger, &command);
    let rebuild = Effect::Rebuild(leg_ref(&ledger, 2), NodeId(2), Base::Changes);
    assert_eq!(owner.step(Moment(20), &ledger, Event::Look), std::slice::from_ref(&rebuild));
    let Stage::Up(up) = owner.stage().clone() else { panic!("it stands") };
    let found = Up { rebuild: None, ..up };
    let mut owner = Owner::new(VOLUME, NodeId(1), boot(NodeId(1), 1), Timing::default(), Some(found));
    assert_eq!(owner.step(Moment(30), &ledger, Event::Leased), [rebuild]);
    assert_eq!(owner.step(Moment(40), &ledger, Event::Look), [], "it is under way");
}

/// A copy may be as slow as it is let; one that stands still is given up, and tried again after a pause that doubles.
#[test]
fn a_rebuild_that_copies_nothing_for_half_a_minute_is_given_up_and_one_that_is_slow_is_not() {
    let (mut ledger, mut owner) = up();
    let go = |ledger: &mut State, command: VolumeCommand| {
        let command = now(ledger, command);
        must(ledger, &command);
    };
    let leg = leg_ref(&ledger, 2);
    go(&mut ledger, VolumeCommand::LegStale(leg));
    go(&mut ledger, VolumeCommand::Reexport { leg, run: run(NodeId(2), 1, 1) });
    owner.step(Moment(9), &ledger, Event::Look);
    owner.step(Moment(10), &ledger, Event::Looked(Look::default()));
    let leg = leg_ref(&ledger, 2);
    go(&mut ledger, VolumeCommand::BeginRebuild(leg));
    owner.step(Moment(1_000), &ledger, Event::Look);
    let mut at = 1_000;
    for done_bytes in 1..=5 {
        at += 29_000;
        let copied = Event::Rebuilding { done_bytes, total_bytes: 1 << 20 };
        assert_eq!(proposed(owner.step(Moment(at), &ledger, copied)), [], "a byte in 29 s");
    }
    let stands = Event::Rebuilding { done_bytes: 5, total_bytes: 1 << 20 };
    assert_eq!(proposed(owner.step(Moment(at + 29_900), &ledger, stands.clone())), []);
    let stale = VolumeCommand::LegStale(leg);
    owner.step(Moment(at + 30_000), &ledger, stands);
    assert_eq!(proposed(owner.step(Moment(at + 30_100), &ledger, Event::Look)), std::slice::from_ref(&stale));
    go(&mut ledger, stale);
    go(&mut ledger, VolumeCommand::Reexport { leg, run: run(NodeId(2), 1, 1) });
    let effects = owner.step(Moment(at + 30_200), &ledger, Event::Look);
    assert!(effects.contains(&Effect::StopRebuild(leg)), "{effects:?}");
    owner.step(Moment(at + 30_300), &ledger, Event::Looked(Look::default()));
    let again = VolumeCommand::BeginRebuild(leg_ref(&ledger, 2));
    assert_eq!(proposed(owner.step(Moment(at + 31_900), &ledger, Event::Look)), [], "the first pause is 2 s");
    assert_eq!(proposed(owner.step(Moment(at + 32_100), &ledger, Event::Look)), [again]);
}

/// A volume that has grown to these bytes without its second leg, which was lost meanwhile and is still in the array.
fn grown_without_one() -> (State, Owner, u64) {
    let (mut ledger, mut owner) = up();
    let size_bytes = 2 * SLAB_BYTES;
    let grow = now(&ledger, VolumeCommand::Grow { size_bytes });
    must(&mut ledger, &grow);
    let leg = leg_ref(&ledger, 1);
    let laid = now(&ledger, VolumeCommand::Laid { leg, run: run(NodeId(1), 1, 1), slabs: 3 });
    must(&mut ledger, &laid);
    assert_eq!(owner.step(Moment(10), &ledger, Event::Look), [], "it has not grown yet");
    let stale = now(&ledger, VolumeCommand::LegStale(leg_ref(&ledger, 2)));
    must(&mut ledger, &stale);
    assert_eq!(volume(&ledger).size_bytes, size_bytes);
    (ledger, owner, size_bytes)
}

/// It would swallow what is written to slabs that it has not.
#[test]
fn users_get_the_new_size_when_no_leg_of_the_array_lacks_it() {
    let (ledger, mut owner, bytes) = grown_without_one();
    assert_eq!(owner.step(Moment(20), &ledger, Event::Look), [Effect::Look]);
    let look = |legs: &[u16]| {
        Event::Looked(Look {
            waits: false,
            legs: legs.iter().map(|leg| (LegId(*leg), LegLook::Fine)).collect(),
        })
    };
    let effects = owner.step(Moment(30), &ledger, look(&[1, 2]));
    assert_eq!(effects, [Effect::LetGo(leg_ref(&ledger, 2))]);
    assert_eq!(owner.step(Moment(40), &ledger, Event::LetGo(LegId(2))), [Effect::Look]);
    assert_eq!(owner.step(Moment(50), &ledger, look(&[1])), [Effect::Extend(reach(bytes))]);
    assert_eq!(
        owner.step(Moment(60), &ledger, Event::Look),
        [Effect::Extend(reach(bytes))],
        "until it is said"
    );
    assert_eq!(owner.step(Moment(70), &ledger, Event::Extended(reach(bytes))), []);
}

#[test]
fn users_who_get_it_too_early_are_noticed() {
    let (ledger, owner, bytes) = grown_without_one();
    let mut owner = owner.with_bugs(Bugs::with(Bug::ExtendUncovered));
    assert!(owner.step(Moment(20), &ledger, Event::Look).contains(&Effect::Extend(reach(bytes))));
}

#[test]
fn users_get_no_more_while_a_gate_has_no_path() {
    let (mut ledger, mut owner) = up();
    owner.step(Moment(10), &ledger, Event::GateLost(LegId(2)));
    ledger.volumes.get_mut(&VOLUME).unwrap().size_bytes = 2 << 20;
    assert_eq!(owner.step(Moment(20), &ledger, Event::Look), []);
    assert_eq!(owner.step(Moment(30), &ledger, Event::GateBack(LegId(2))), [Effect::Extend(reach(2 << 20))]);
}

/// A thin volume whose owner's users write what has no place.
#[test]
fn what_users_write_of_a_thin_volume_is_asked_for_until_they_have_it() {
    let (mut ledger, mut owner) = up();
    let found = ledger.volumes.get_mut(&VOLUME).unwrap();
    (found.provision, found.mapped, found.size_bytes) =
        (Provision::Thin, ExtentTable::begun(), 9 * SLAB_BYTES);
    for leg in found.legs.values_mut() {
        leg.extents[0].count = 2;
    }
    let whole = |array| Reach { size_bytes: 9 * SLAB_BYTES, array_bytes: array * SLAB_BYTES };
    let extend = [Effect::Extend(whole(1))];
    assert_eq!(owner.step(Moment(10), &ledger, Event::Look), extend);
    assert_eq!(owner.step(Moment(20), &ledger, Event::Extended(whole(1))), []);
    let asks =
        |ledger: &State| Effect::Propose(now(ledger, VolumeCommand::Map { extents: BTreeSet::from([5]) }));
    let unmapped = Event::Unmapped(BTreeSet::from([5]));
    assert_eq!(owner.step(Moment(30), &ledger, unmapped.clone()), [asks(&ledger)]);
    assert_eq!(owner.step(Moment(40), &ledger, Event::Look), [asks(&ledger)], "until the ledger has it");
    let Effect::Propose(map) = asks(&ledger) else { panic!("it is a proposal") };
    must(&mut ledger, &map);
    assert_eq!(owner.step(Moment(50), &ledger, unmapped.clone()), [], "it is about to be");
    for leg in [1, 2] {
        let (leg, run) = (leg_ref(&ledger, leg), run(NodeId(leg.into()), 1, 1));
        let laid = now(&ledger, VolumeCommand::Laid { leg, run, slabs: 3 });
        must(&mut ledger, &laid);
    }
    assert_eq!(owner.step(Moment(60), &ledger, unmapped), [Effect::Extend(whole(2))]);
    assert_eq!(owner.step(Moment(70), &ledger, Event::Extended(whole(2))), []);
}

/// The array is closed, with every leg flushed, and the ledger is asked to hand the volume over.
fn closed_for(to: NodeId) -> (State, Owner, Epoch) {
    let (ledger, mut owner) = up();
    let epoch = volume(&ledger).epoch;
    assert_eq!(owner.step(Moment(10), &ledger, Event::HandOver(to)), [Effect::Stop { kill: false }]);
    assert_eq!(owner.step(Moment(20), &ledger, Event::HandOver(to)), [], "asked again");
    let asked =
        owner.step(Moment(30), &ledger, Event::Stopped { epoch, flushed: volume(&ledger).named_in_sync() });
    assert_eq!(proposed(asked), [hand_over(&ledger, to)]);
    (ledger, owner, epoch)
}

#[test]
fn a_volume_is_handed_over_when_it_is_closed_and_never_opened_here_before_the_ledger_says_so() {
    let (mut ledger, mut owner, _) = closed_for(NodeId(2));
    let again = [hand_over(&ledger, NodeId(2))];
    assert_eq!(
        proposed(owner.step(Moment(9000), &ledger, Event::Look)),
        again,
        "nobody knows what became of it"
    );
    let command = now(&ledger, again[0].clone());
    must(&mut ledger, &command);
    assert_eq!(owner.step(Moment(9100), &ledger, Event::Look), []);
    assert_eq!(*owner.stage(), Stage::Idle);
}

#[test]
fn a_volume_whose_taker_is_gone_stays_by_a_commit_of_its_own() {
    let (mut ledger, mut owner, epoch) = closed_for(NodeId(2));
    let stays = [hand_over(&ledger, NodeId(1))];
    assert_eq!(proposed(owner.step(Moment(40), &ledger, Event::Silent(NodeId(2)))), stays);
    assert_eq!(proposed(owner.step(Moment(50), &ledger, Event::Heard(NodeId(2)))), stays);
    let command = now(&ledger, stays[0].clone());
    must(&mut ledger, &command);
    let effects = owner.step(Moment(60), &ledger, Event::Look);
    assert_eq!(effects, [], "its stage is given up first");
    let effects = owner.step(Moment(70), &ledger, Event::Look);
    let [Effect::Assemble(assembly)] = &effects[..] else { panic!("it is opened here again: {effects:?}") };
    assert_eq!((assembly.epoch, assembly.make_equal), (epoch.next(), false));
    assert!(ledger.apply(&Command::Volume(VOLUME, epoch, hand_over(&ledger, NodeId(2)))).is_err());
}

#[test]
fn a_hand_over_is_turned_or_taken_back_while_it_is_under_way_and_not_begun_to_oneself() {
    let (ledger, mut owner, _) = closed_for(NodeId(2));
    let back = [hand_over(&ledger, NodeId(1))];
    assert_eq!(proposed(owner.step(Moment(40), &ledger, Event::HandOver(NodeId(1)))), back);
    let (ledger, mut owner) = up();
    assert_eq!(owner.step(Moment(10), &ledger, Event::HandOver(NodeId(1))), []);
    owner.step(Moment(20), &ledger, Event::HandOver(NodeId(2)));
    owner.step(Moment(30), &ledger, Event::HandOver(NodeId(1)));
    let epoch = volume(&ledger).epoch;
    let stopped =
        owner.step(Moment(40), &ledger, Event::Stopped { epoch, flushed: volume(&ledger).named_in_sync() });
    assert_eq!(proposed(stopped), back);
}

#[test]
fn legs_are_given_back_when_the_array_of_an_open_volume_was_closed_in_order_and_only_then() {
    let (ledger, owner) = up();
    let back = |ledger: &State, flushed| {
        let (mut owner, epoch) = (owner.clone(), volume(ledger).epoch);
        owner.step(Moment(10), ledger, Event::Close);
        let effects = owner.step(Moment(20), ledger, Event::Stopped { epoch, flushed });
        effects.into_iter().find_map(|effect| match effect {
            Effect::GivenBack(legs) => Some(legs),
            _ => None,
        })
    };
    let (epoch, all) = (volume(&ledger).epoch, volume(&ledger).named_in_sync());
    let legs = back(&ledger, all.clone()).unwrap();
    let key = Key { epoch, incarnation: Incarnation(1) };
    assert_eq!(legs, [(LegId(1), (key, NodeId(1))), (LegId(2), (key, NodeId(2)))].into());
    assert_eq!(back(&ledger, BTreeSet::new()), None, "it is made anew");
    // What it sees may lag behind, and in a volume that is being opened it may make another array of this epoch.
    let mut lagging = ledger.clone();
    lagging.volumes.get_mut(&VOLUME).unwrap().phase =
        Phase::Opening { boot: boot(NodeId(1), 1), make_equal: false };
    assert_eq!(back(&lagging, all), None);
}

/// One leg did not take the flush: it is no orderly close, and a takeover has the legs made equal.
#[test]
fn what_was_not_flushed_is_not_handed_over() {
    let (ledger, mut owner) = up();
    owner.step(Moment(10), &ledger, Event::HandOver(NodeId(2)));
    let epoch = volume(&ledger).epoch;
    owner.step(Moment(20), &ledger, Event::Stopped { epoch, flushed: BTreeSet::new() });
    let takeover = VolumeCommand::Takeover { owner: NodeId(1), lease_over: false };
    assert_eq!(proposed(owner.step(Moment(30), &ledger, Event::Look)), [takeover]);
}

/// What is mounted nobody can be asked to end, nor killed for: a close in order, or a hand-over, leaves it as it was, and hears of what it did not hear of meanwhile.
#[test]
fn what_is_in_use_by_no_process_is_not_closed_and_stays_open() {
    for closing in [Event::Close, Event::HandOver(NodeId(2))] {
        let (ledger, mut owner) = up();
        let (epoch, was) = (volume(&ledger).epoch, owner.stage().clone());
        owner.step(Moment(10), &ledger, Event::GateLost(LegId(2)));
        assert_eq!(owner.step(Moment(20), &ledger, closing), [Effect::Stop { kill: false }]);
        owner.step(Moment(30), &ledger, Event::GateBack(LegId(2)));
        let effects = owner.step(Moment(220), &ledger, Event::InUse { epoch, kill: false });
        assert_eq!((effects, owner.stage()), (vec![Effect::Look], &was));
    }
}

/// Processes have their time, and are killed then; what is left is no process.
#[test]
fn what_is_in_use_by_no_process_stays_open_after_processes_were_killed_as_well() {
    let (ledger, mut owner) = up();
    let (epoch, was) = (volume(&ledger).epoch, owner.stage().clone());
    owner.step(Moment(0), &ledger, Event::Close);
    assert_eq!(owner.step(Moment(10_001), &ledger, Event::Look), [Effect::Stop { kill: true }]);
    let of_before = owner.step(Moment(10_010), &ledger, Event::InUse { epoch, kill: false });
    assert_eq!(of_before, [], "the order that was given last is under way");
    let effects = owner.step(Moment(10_300), &ledger, Event::InUse { epoch, kill: true });
    assert_eq!((effects, owner.stage()), (vec![Effect::Look], &was));
}

/// Whoever has to let go of a volume resets the node for what it can't end: it might write on what it was acknowledged.
#[test]
fn what_is_in_use_when_the_array_has_to_go_costs_the_node() {
    let (ledger, mut owner) = up();
    let epoch = volume(&ledger).epoch;
    let stop = [Effect::Stop { kill: true }];
    assert_eq!(owner.step(Moment(0), &ledger, Event::LeaseLost), stop);
    let in_use = Event::InUse { epoch, kill: true };
    assert_eq!(owner.step(Moment(200), &ledger, in_use.clone()), stop, "it is tried again");
    owner.step(Moment(300), &ledger, Event::Leased);
    assert_eq!(owner.step(Moment(400), &ledger, in_use), stop, "users were killed: it does not come back");
    assert!(owner.step(Moment(2_001), &ledger, Event::Look).contains(&Effect::ResetNode));
    // A close in order that is overtaken is none any more.
    let (mut ledger, mut owner) = up();
    owner.step(Moment(0), &ledger, Event::Close);
    let takeover = now(&ledger, VolumeCommand::Takeover { owner: NodeId(2), lease_over: true });
    must(&mut ledger, &takeover);
    assert_eq!(
        owner.step(Moment(10), &ledger, Event::InUse { epoch, kill: false })[..1],
        [Effect::Stop { kill: false }]
    );
    assert_eq!(owner.step(Moment(20), &ledger, Event::Look), []);
}

/// Its own proposal of before makes a leg in sync while the array is being stopped: the flush passed it by.
#[test]
fn what_became_in_sync_behind_the_flush_makes_it_no_orderly_close() {
    for closing in [Event::Close, Event::HandOver(NodeId(2))] {
        let (mut ledger, mut owner) = up();
        let (epoch, both) = (volume(&ledger).epoch, volume(&ledger).clone());
        ledger.volumes.get_mut(&VOLUME).unwrap().legs.get_mut(&LegId(2)).unwrap().state =
            LegState::Rebuilding { base: Base::Changes };
        let flushed = volume(&ledger).named_in_sync();
        owner.step(Moment(10), &ledger, closing);
        let asked = proposed(owner.step(Moment(20), &ledger, Event::Stopped { epoch, flushed }));
        assert!(
            matches!(&asked[..], [VolumeCommand::Close { .. } | VolumeCommand::HandOver { .. }]),
            "{asked:?}"
        );
        ledger.volumes.insert(VOLUME, both);
        assert_eq!(owner.step(Moment(30), &ledger, Event::Look), [], "its stage is given up first");
        let takeover = VolumeCommand::Takeover { owner: NodeId(1), lease_over: false };
        assert_eq!(proposed(owner.step(Moment(40), &ledger, Event::Look)), [takeover]);
    }
}
