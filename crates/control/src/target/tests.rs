//! Legs that the ledger has dropped.

use super::*;
use crate::state::Cache;
use crate::testing::{VOLUME, close, cluster, must, now, open, register, run, with_volume};
use model::{LedgerIncarnation, LegId, Mirror, NodeId, Provision, SLAB_BYTES};

const LEG: LegOf = (VOLUME, LegId(1));

fn target() -> Target {
    let drives = BTreeMap::from([(DriveId(1), PowerCycles(1))]);
    Target::new(
        NodeId(1),
        run(NodeId(1), 1, 1).boot,
        drives,
        (BTreeMap::new(), BTreeMap::new()),
        BTreeMap::new(),
    )
}

fn look(target: &mut Target, ledger: &State) -> Vec<Effect> {
    target.step(Moment(0), ledger, Event::Look)
}

/// The orders for a fence, and that it is through.
fn fenced(target: &mut Target, ledger: &State, effects: &[Effect]) -> Vec<Effect> {
    let floor = effects.iter().find_map(|effect| match effect {
        Effect::Fence(LEG, floor) => Some(*floor),
        _ => None,
    });
    let floor = floor.unwrap_or_else(|| panic!("no fence in {effects:?}"));
    target.step(Moment(0), ledger, Event::Fenced { leg: LEG, floor, errored: false })
}

/// A volume that was open, with its first leg given out by the target.
fn given(target: &mut Target) -> State {
    let mut ledger = with_volume(2, 1, Mirror::TwoWay, &[Cache::Safe]);
    let effects = look(target, &ledger);
    fenced(target, &ledger, &effects);
    open(&mut ledger, &[1, 2]);
    let effects = look(target, &ledger);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::GiveOut(LEG, ..))), "{effects:?}");
    ledger
}

fn delete(ledger: &mut State) {
    for command in [close(ledger), VolumeCommand::Delete] {
        let command = now(ledger, command);
        must(ledger, &command);
    }
}

fn freed() -> Effect {
    let freed = ClusterCommand::Freed { drive: DriveId(1), volume: LEG.0, leg: LEG.1 };
    Effect::Propose(Command::Cluster(freed))
}

/// Whether slabs are said to be free while the leg may still be written.
fn frees_too_early(bugs: Bugs) -> bool {
    let mut target = target().with_bugs(bugs);
    let mut ledger = given(&mut target);
    delete(&mut ledger);
    let effects = look(&mut target, &ledger);
    let again = look(&mut target, &ledger);
    let early = effects.contains(&freed()) || again.contains(&freed());
    assert!(fenced(&mut target, &ledger, &effects).contains(&freed()));
    early
}

#[test]
fn slabs_are_free_when_the_barrier_is_through_and_not_before() {
    assert!(!frees_too_early(Bugs::default()));
    assert!(frees_too_early(Bugs::with(Bug::FreeBeforeBarrier)), "the test can fail");
}

#[test]
fn an_agent_that_has_restarted_fences_what_it_knows_nothing_of_before_it_is_freed() {
    let mut ledger = given(&mut target());
    delete(&mut ledger);
    let mut anew = target();
    let effects = look(&mut anew, &ledger);
    assert!(!effects.contains(&freed()));
    assert!(fenced(&mut anew, &ledger, &effects).contains(&freed()));
    let Effect::Propose(command) = freed() else { panic!("it is a proposal") };
    must(&mut ledger, &command);
    assert_eq!(look(&mut anew, &ledger), [Effect::Forget(LEG)]);
    assert_eq!(look(&mut anew, &ledger), []);
}

#[test]
fn a_drive_of_another_node_is_none_of_its_business() {
    let mut ledger = given(&mut target());
    delete(&mut ledger);
    let effects = look(&mut target(), &ledger);
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Fence(leg, _) if *leg != LEG)));
    assert_eq!(look(&mut target(), &cluster(2, 1, &[Cache::Safe])), []);
}

/// The target and the ledger after its drive was away for a moment, and what it orders then; `alone`: the other leg is stale by then.
fn after_it_was_away(cache: Cache, alone: bool) -> (Target, State, Vec<Effect>) {
    let mut target = target();
    let mut ledger = with_volume(2, 1, Mirror::TwoWay, &[cache]);
    let effects = look(&mut target, &ledger);
    fenced(&mut target, &ledger, &effects);
    open(&mut ledger, &[1, 2]);
    look(&mut target, &ledger);
    if alone {
        let command = now(&ledger, VolumeCommand::LegStale(crate::testing::leg_ref(&ledger, 2)));
        must(&mut ledger, &command);
    }
    let asks = target.step(Moment(0), &ledger, Event::DriveReset(DriveId(1), PowerCycles(2)));
    let [Effect::Propose(register)] = asks.as_slice() else { panic!("{asks:?}") };
    must(&mut ledger, register);
    let effects = look(&mut target, &ledger);
    (target, ledger, effects)
}

fn kept(ledger: &State) -> Command {
    now(ledger, VolumeCommand::Kept { leg: crate::testing::leg_ref(ledger, 1), run: run(NodeId(1), 1, 2) })
}

#[test]
fn a_leg_whose_drive_was_away_is_fenced_unless_it_is_all_that_its_own_node_has() {
    let is_fenced = |(_, _, effects): (Target, State, Vec<Effect>)| {
        effects.iter().any(|effect| matches!(effect, Effect::Fence(LEG, _)))
    };
    assert!(is_fenced(after_it_was_away(Cache::Safe, false)));
    assert!(is_fenced(after_it_was_away(Cache::Volatile, true)), "it may have forgotten");
    let (mut target, mut ledger, effects) = after_it_was_away(Cache::Safe, true);
    assert_eq!(effects, [Effect::Propose(kept(&ledger))]);
    assert_eq!(look(&mut target, &ledger), effects, "it may have been lost");
    let kept = kept(&ledger);
    must(&mut ledger, &kept);
    assert_eq!(look(&mut target, &ledger), []);
    // Another is in sync, too: it is a leg like any other.
    ledger.volumes.get_mut(&VOLUME).unwrap().legs.get_mut(&LegId(2)).unwrap().state = LegState::InSync;
    assert_eq!(look(&mut target, &ledger), []);
    assert_eq!(
        ledger.apply(&kept),
        Err(crate::command::Rejected::NotKept(LegId(1))),
        "it came twice, and late"
    );
}

#[test]
fn what_may_have_forgotten_or_is_not_the_last_or_another_nodes_is_not_kept() {
    let refused = crate::command::Rejected::NotKept(LegId(1));
    let mut not_last = after_it_was_away(Cache::Safe, false).1;
    let command = kept(&not_last);
    assert_eq!(not_last.apply(&command), Err(refused.clone()));
    let mut volatile = after_it_was_away(Cache::Volatile, true).1;
    let command = kept(&volatile);
    assert_eq!(volatile.apply(&command), Err(refused.clone()));
    let mut of_another = after_it_was_away(Cache::Safe, true).1;
    of_another.volumes.get_mut(&VOLUME).unwrap().owner = NodeId(2);
    let command = kept(&of_another);
    assert_eq!(of_another.apply(&command), Err(refused));
    let mut later = after_it_was_away(Cache::Safe, true).1;
    let command = kept(&later);
    let again = register(&later, NodeId(1), run(NodeId(1), 1, 3));
    must(&mut later, &again);
    assert!(matches!(later.apply(&command), Err(crate::command::Rejected::OtherRun { .. })));
}

/// The last in sync is left as it is: whoever has it would never let it go.
#[test]
fn a_leg_whose_drive_stalls_is_taken_back_and_its_owner_told_unless_it_is_the_last() {
    let mut target = target();
    let mut ledger = given(&mut target);
    let Guard::Given { key, to } = target.guard(LEG) else { panic!("it is given out") };
    let stale = now(&ledger, VolumeCommand::LegStale(crate::testing::leg_ref(&ledger, 2)));
    let mut alone = ledger.clone();
    must(&mut alone, &stale);
    assert_eq!(target.step(Moment(0), &alone, Event::Stalled(LEG)), []);
    let floor = Key { incarnation: key.incarnation.next(), ..key };
    let effects = target.step(Moment(0), &ledger, Event::Stalled(LEG));
    let fence = [Effect::Remember(LEG, floor), Effect::Fence(LEG, floor), Effect::TakenBack(LEG, key, to)];
    assert_eq!(effects, fence);
    assert_eq!(target.step(Moment(0), &ledger, Event::Stalled(LEG)), [], "once");
    // Its owner goes on without it, and it comes back under a new incarnation with what it has missed.
    let effects = target.step(Moment(0), &ledger, Event::Fenced { leg: LEG, floor, errored: false });
    assert_eq!(effects, [], "it is for the owner to let it go");
    let stale = now(&ledger, VolumeCommand::LegStale(crate::testing::leg_ref(&ledger, 1)));
    must(&mut ledger, &stale);
    let effects = look(&mut target, &ledger);
    let [Effect::Propose(back)] = effects.as_slice() else { panic!("{effects:?}") };
    must(&mut ledger, back);
    let effects = look(&mut target, &ledger);
    assert!(effects.contains(&Effect::GiveOut(LEG, floor, to)), "{effects:?}");
}

/// The fence is through before the ledger says who has it next; it is given out again under no key of before, and the last in sync is left as it is.
#[test]
fn a_leg_that_is_given_back_is_fenced_for_whoever_has_it_next() {
    let mut target = target();
    let mut ledger = given(&mut target);
    let Guard::Given { key, .. } = target.guard(LEG) else { panic!("it is given out") };
    let mut alone = ledger.clone();
    let stale = now(&ledger, VolumeCommand::LegStale(crate::testing::leg_ref(&ledger, 2)));
    must(&mut alone, &stale);
    assert_eq!(target.step(Moment(0), &alone, Event::GivenBack(LEG, key)), []);
    let other = Key { incarnation: key.incarnation.next(), ..key };
    assert_eq!(target.step(Moment(0), &ledger, Event::GivenBack(LEG, other)), [], "another key");
    let effects = target.step(Moment(0), &ledger, Event::GivenBack(LEG, key));
    assert_eq!(effects, [Effect::Remember(LEG, other), Effect::Fence(LEG, other)]);
    assert_eq!(target.step(Moment(0), &ledger, Event::GivenBack(LEG, key)), [], "once");
    assert_eq!(fenced(&mut target, &ledger, &effects), [], "nobody asked for anything");
    assert_eq!(look(&mut target, &ledger), [], "not as it was");
    let switched = now(&ledger, crate::testing::hand_over(&ledger, NodeId(2)));
    must(&mut ledger, &switched);
    let next = Key { epoch: key.epoch.next(), ..key };
    let effects = look(&mut target, &ledger);
    assert_eq!(effects, [Effect::Remember(LEG, next), Effect::GiveOut(LEG, next, NodeId(2))]);
}

/// A drive that was replaced is in no registration: the ledger would refuse all of it.
#[test]
fn a_drive_that_has_left_the_pool_is_not_registered_again() {
    let mut target = target();
    let mut ledger = given(&mut target);
    ledger.drives.remove(&DriveId(1));
    let asks = target.step(Moment(0), &ledger, Event::DriveReset(DriveId(1), PowerCycles(2)));
    assert!(!asks.iter().any(|effect| matches!(effect, Effect::Propose(Command::Cluster(_)))), "{asks:?}");
}

/// As [`given`], and the volume grows to three slabs.
fn grows(target: &mut Target) -> State {
    let mut ledger = given(target);
    let grow = now(&ledger, VolumeCommand::Grow { size_bytes: 2 * SLAB_BYTES });
    must(&mut ledger, &grow);
    ledger
}

fn three(ledger: u32) -> Laid {
    Laid { ledger: LedgerIncarnation(ledger), slabs: 3 }
}

fn says_laid(effects: &[Effect]) -> Option<&Command> {
    effects.iter().find_map(|effect| match effect {
        Effect::Propose(command @ Command::Volume(_, _, VolumeCommand::Laid { slabs: 3, .. })) => {
            Some(command)
        }
        _ => None,
    })
}

#[test]
fn new_slabs_are_laid_once_and_that_is_said_until_the_ledger_knows() {
    let mut target = target();
    let mut ledger = grows(&mut target);
    assert_eq!(look(&mut target, &ledger), [Effect::Lay(LEG, 1, three(1))]);
    assert_eq!(look(&mut target, &ledger), [], "one at a time");
    target.step(Moment(0), &ledger, Event::NotLaid(LEG));
    let effects = target.step(Moment(0), &ledger, Event::Laid(LEG, three(1)));
    assert!(says_laid(&effects).is_some());
    let effects = look(&mut target, &ledger);
    let command = says_laid(&effects).expect("it may have been lost");
    must(&mut ledger, command);
    assert_eq!(look(&mut target, &ledger), []);
}

/// What users see of a thin volume is none of its target's business.
#[test]
fn of_a_thin_volume_what_is_mapped_is_laid_and_nothing_is_said_of_the_rest() {
    let mut target = target();
    let mut ledger = given(&mut target);
    let found = ledger.volumes.get_mut(&VOLUME).unwrap();
    (found.provision, found.mapped) = (Provision::Thin, model::ExtentTable::begun());
    found.size_bytes = 9 * SLAB_BYTES;
    for leg in found.legs.values_mut() {
        leg.extents[0].count = 2;
    }
    assert_eq!(look(&mut target, &ledger), []);
    let map = now(&ledger, VolumeCommand::Map { extents: [5].into() });
    must(&mut ledger, &map);
    assert_eq!(look(&mut target, &ledger), [Effect::Lay(LEG, 2, three(1))]);
    let effects = target.step(Moment(0), &ledger, Event::Laid(LEG, three(1)));
    must(&mut ledger, says_laid(&effects).expect("it is laid"));
    assert_eq!(look(&mut target, &ledger), []);
}

#[test]
fn a_fence_ends_the_laying_and_it_is_begun_anew() {
    let mut target = target();
    let mut ledger = grows(&mut target);
    look(&mut target, &ledger);
    let takeover = now(&ledger, VolumeCommand::Takeover { owner: NodeId(2), lease_over: true });
    must(&mut ledger, &takeover);
    let effects = look(&mut target, &ledger);
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Lay(..))), "not while it is fenced");
    let effects = fenced(&mut target, &ledger, &effects);
    assert!(effects.contains(&Effect::Lay(LEG, 1, three(1))), "{effects:?}");
}

/// The ledger may have said more than this node has seen of it: users may have written there.
#[test]
fn what_is_remembered_as_laid_is_never_filled_again() {
    let mut first = target();
    let ledger = grows(&mut first);
    let Guard::Given { key, to } = first.guard(LEG) else { panic!("it is given out") };
    let again = |laid| {
        let drives = BTreeMap::from([(DriveId(1), PowerCycles(1))]);
        let (noted, found) = (BTreeMap::from([(LEG, laid)]), BTreeMap::from([(LEG, (key, to))]));
        Target::new(NodeId(1), run(NodeId(1), 1, 1).boot, drives, (BTreeMap::new(), noted), found)
    };
    let mut anew = again(three(1));
    assert_eq!(look(&mut anew, &ledger), [Effect::Lay(LEG, 3, three(1))], "it may not be mapped yet");
    let effects = anew.step(Moment(0), &ledger, Event::Laid(LEG, three(1)));
    assert!(says_laid(&effects).is_some());
    let of_another = look(&mut again(three(7)), &ledger);
    assert_eq!(of_another, [Effect::Lay(LEG, 1, three(1))], "another ledger's volume of that number");
}

/// Zeros may be on their way to slabs of a leg that nobody has: they are another's only after a fence.
#[test]
fn slabs_that_are_being_filled_are_not_free_before_another_fence() {
    let mut target = target();
    let mut ledger = given(&mut target);
    ledger.volumes.get_mut(&VOLUME).unwrap().provision = Provision::Fixed;
    let close = now(&ledger, close(&ledger));
    must(&mut ledger, &close);
    let effects = look(&mut target, &ledger);
    fenced(&mut target, &ledger, &effects);
    let grow = now(&ledger, VolumeCommand::Grow { size_bytes: 2 * SLAB_BYTES });
    must(&mut ledger, &grow);
    assert!(look(&mut target, &ledger).contains(&Effect::Lay(LEG, 1, three(1))));
    let delete = now(&ledger, VolumeCommand::Delete);
    must(&mut ledger, &delete);
    let effects = look(&mut target, &ledger);
    assert!(!effects.contains(&freed()), "{effects:?}");
    assert!(fenced(&mut target, &ledger, &effects).contains(&freed()));
}

/// The ledger would have it brought up to date with what it has missed, and not with what its drive has lost.
#[test]
fn a_leg_whose_drive_has_counted_errors_is_not_given_out_as_it_was() {
    let mut target = target();
    let mut ledger = given(&mut target);
    let stale = now(&ledger, VolumeCommand::LegStale(crate::testing::leg_ref(&ledger, 1)));
    must(&mut ledger, &stale);
    let effects = look(&mut target, &ledger);
    let floor = effects.iter().find_map(|effect| match effect {
        Effect::Fence(LEG, floor) => Some(*floor),
        _ => None,
    });
    let floor = floor.expect("it is stale");
    let effects = target.step(Moment(0), &ledger, Event::Fenced { leg: LEG, floor, errored: true });
    let suspect = now(&ledger, VolumeCommand::LegSuspect(crate::testing::leg_ref(&ledger, 1)));
    assert_eq!(effects, [Effect::Propose(suspect.clone())]);
    must(&mut ledger, &suspect);
    let effects = look(&mut target, &ledger);
    assert!(
        matches!(effects[..], [Effect::Propose(Command::Volume(_, _, VolumeCommand::Reexport { .. }))]),
        "{effects:?}"
    );
}

/// What an earlier ledger has given out may be on slabs that this one gives to another leg.
#[test]
fn after_a_forced_quorum_nothing_is_made_before_all_that_stood_is_fenced() {
    let mut target = target();
    let mut ledger = given(&mut target);
    let (by, loses) = ("operator".to_owned(), "what the others had".to_owned());
    let (incarnation, voters) = (ledger.incarnation.next(), [NodeId(1)].into());
    must(&mut ledger, &Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses }));
    let create = ClusterCommand::CreateVolume {
        name: "other".parse().unwrap(),
        mirror: Mirror::TwoWay,
        provision: Provision::Fixed,
        size_bytes: SLAB_BYTES,
        drives: vec![DriveId(1), DriveId(2)],
        owner: NodeId(1),
    };
    must(&mut ledger, &Command::Cluster(create));
    let other = *ledger.volumes.last_key_value().unwrap().0;
    let fences = |effects: &[Effect]| -> Vec<VolumeId> {
        let fences = effects.iter().filter_map(|effect| match effect {
            Effect::Fence((volume, _), _) => Some(*volume),
            _ => None,
        });
        fences.collect()
    };
    let effects = look(&mut target, &ledger);
    assert_eq!(fences(&effects), [VOLUME]);
    // It hangs.
    assert_eq!(fences(&look(&mut target, &ledger)), []);
    let effects = fenced(&mut target, &ledger, &effects);
    assert_eq!(fences(&effects), [other], "a leg is made by its first fence");
}
