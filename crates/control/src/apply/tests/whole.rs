//! What changes a volume or the cluster as a whole: two legs more, and the end.

use super::*;

#[test]
fn a_two_way_mirror_becomes_a_four_way_one_while_it_is_used() {
    let mut state = two_way(&[Cache::Safe]);
    let widen = |drives: &[u32]| V::Widen { drives: drives.iter().copied().map(DriveId).collect() };
    assert_eq!(refused(&state, widen(&[3])), Rejected::WrongLegCount { needed: 4 });
    assert_eq!(refused(&state, widen(&[3, 1])), Rejected::DriveInUse(DriveId(1)));
    assert_eq!(refused(&state, widen(&[3, 9])), Rejected::NoSuchDrive(DriveId(9)));
    let mut moving = state.clone();
    on(&mut moving, 1, |leg| V::MoveLeg { leg, to: DriveId(3) });
    assert_eq!(refused(&moving, widen(&[3, 4])), Rejected::Moving);

    does(&mut state, widen(&[3, 4]));
    assert_eq!(volume(&state).mirror, Mirror::FourWay);
    let scratch = LegState::Stale { base: Base::Scratch, back: false };
    assert_eq!(
        [1, 2, 3, 4].map(|id| leg(&state, id)),
        [LegState::InSync, LegState::InSync, scratch, scratch]
    );
    assert_eq!(refused(&state, widen(&[3, 4])), Rejected::IsFourWay);
    // None of what was written is on them: nobody declares them good.
    let declare = |state: &State| {
        let (leg, owner) = (leg_ref(state, 3), NodeId(3));
        V::Override { leg, owner, by: "anna".to_owned(), loses: "all".to_owned() }
    };
    let mut forced = state.clone();
    let incarnation = LedgerIncarnation(forced.incarnation.0 + 1);
    let (voters, by, loses) = (BTreeSet::from([NodeId(3)]), String::new(), String::new());
    must(&mut forced, &Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses }));
    assert_eq!(refused(&forced, declare(&forced)), Rejected::NeverHeldAll(LegId(3)));
    // They come back as any that has missed everything, and nothing is removed for them.
    for id in [3, 4] {
        let run = state.run(volume(&state).legs[&LegId(id)].drive).unwrap();
        on(&mut state, id, |leg| V::Reexport { leg, run });
        on(&mut state, id, V::BeginRebuild);
        let maps = volume(&state).map_sequence.next();
        does(&mut state, V::MapDurable { maps });
        on(&mut state, id, |leg| V::LegInSync { leg, maps });
    }
    assert_eq!([1, 2, 3, 4].map(|id| leg(&state, id)), [LegState::InSync; 4]);
}

#[test]
fn what_is_dissolved_held_nothing_and_gets_nothing() {
    let mut state = two_way(&[Cache::Safe]);
    let named = |nodes: BTreeSet<NodeId>| Command::Cluster(ClusterCommand::Dissolve { nodes });
    let dissolve = named(state.nodes.keys().copied().collect());
    let some = named(state.nodes.keys().copied().skip(1).collect());
    assert_eq!(state.apply(&dissolve), Err(Rejected::InUse), "it has a volume");
    let closed = close(&state);
    does(&mut state, closed);
    does(&mut state, V::Delete);
    assert_eq!(state.apply(&dissolve), Err(Rejected::InUse), "its legs may still be written to");
    let leaving: Vec<(DriveId, Leaving)> = state
        .drives
        .iter()
        .flat_map(|(id, drive)| drive.leaving.iter().map(move |leaving| (*id, leaving.clone())))
        .collect();
    assert_eq!(leaving.len(), 2);
    let drive = state.drives[&leaving[0].0].clone();
    for (drive, Leaving { volume, leg, .. }) in leaving {
        must(&mut state, &Command::Cluster(ClusterCommand::Freed { drive, volume, leg }));
    }
    assert_eq!(state.apply(&some), Err(Rejected::OtherNodes), "one would be left behind");
    must(&mut state, &dissolve);
    assert!(state.dissolved && state.drives.is_empty());
    assert_eq!(check(&state), []);

    let (name, zone) = ("late".parse().unwrap(), None);
    let again = ClusterCommand::AddDrive {
        node: drive.node,
        serial: drive.serial,
        size_bytes: drive.size_bytes,
        cache: Cache::Safe,
        power_cycles: model::PowerCycles(1),
    };
    for late in
        [again, ClusterCommand::AddNode { name, zone }, ClusterCommand::ReplaceNode { lost: NodeId(1) }]
    {
        assert_eq!(state.apply(&Command::Cluster(late)), Err(Rejected::Dissolved));
    }
    must(&mut state, &dissolve);
    let mut holds = state.clone();
    holds.drives = two_way(&[Cache::Safe]).drives;
    assert_eq!(check(&holds), [Broken::Dissolved]);
}
