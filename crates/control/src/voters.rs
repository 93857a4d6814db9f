//! Who shall vote, from who is alive: so that the cluster survives a rack and then the witness, the witness and then a rack, a rack and
//! then one more node.
//!
//! Rules, in this order:
//! 1. Who lives votes, if that is an odd number.
//! 2. If it is even and the witness lives, one that does not live keeps its vote. So {A, B, witness} is never shrunk to two.
//! 3. If it is even and the witness does not live, one node gives up its vote: one of the zone that is not preferred, provided
//!    that the preferred one holds an in-sync leg of every volume (it alone will go on when the other is lost). If it does not,
//!    the witness keeps its vote instead.
//!
//! A node that leaves ([`crate::leaving`]) is passed over, alive or not.
//!
//! Invariants: odd; at most one member does not live; one change at a time, and only while a majority of the present voters lives.
//!
//! On failure: none; no set is no change.

use crate::state::{Node, Phase, State, Voters};
use model::{NodeId, ZoneName};
use std::collections::BTreeSet;

/// The set to change to, if it is another than the present.
pub fn wanted(ledger: &State, live: &BTreeSet<NodeId>, preferred: &ZoneName) -> Option<BTreeSet<NodeId>> {
    let Voters::Settled(present) = &ledger.voters else { return None };
    let living = present.intersection(live).count();
    if 2 * living <= present.len() {
        return None;
    }
    let zone = |node: &NodeId| ledger.nodes.get(node).and_then(|node| node.zone.as_ref());
    // Whom a forced quorum has left behind may be heard of, and has no voice.
    let members = || {
        let stays = |(id, node): &(&NodeId, &Node)| ledger.is_member(**id) && !node.leaving;
        ledger.nodes.iter().filter(stays).map(|(id, _)| *id)
    };
    let witness = members().find(|id| zone(id).is_none());
    let mut set: BTreeSet<NodeId> = members().filter(|id| live.contains(id)).collect();
    if set.len().is_multiple_of(2) {
        let dead = |id: &&NodeId| !live.contains(id);
        let witness_lives = witness.is_some_and(|witness| live.contains(&witness));
        let others = set.iter().rev().find(|id| zone(id).is_some_and(|zone| zone != preferred)).copied();
        let one_zone = set.iter().all(|id| zone(id) == set.first().and_then(zone));
        if witness_lives {
            let keeps = present
                .iter()
                .copied()
                .find(|id| dead(&id) && !ledger.leaves(*id))
                .or_else(|| members().find(|id| dead(&id)));
            set.insert(keeps?);
        } else if one_zone || holds_every_volume(ledger, live, preferred) {
            let gives_up = others.filter(|_| !one_zone).or(set.last().copied());
            set.remove(&gives_up?);
        } else {
            set.insert(witness?);
        }
    }
    (set != *present).then_some(set)
}

fn holds_every_volume(ledger: &State, live: &BTreeSet<NodeId>, zone: &ZoneName) -> bool {
    let there = |id: &NodeId| {
        live.contains(id) && ledger.nodes.get(id).is_some_and(|node| node.zone.as_ref() == Some(zone))
    };
    ledger
        .volumes
        .values()
        .filter(|volume| volume.phase != Phase::Offline)
        .all(|volume| volume.in_sync().filter_map(|(_, leg)| ledger.node_of(leg)).any(|node| there(&node)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ClusterCommand, Command, VolumeCommand};
    use crate::state::Cache;
    use crate::testing::{leg_ref, must, now, open, with_volume};
    use model::Mirror;

    /// Odd nodes are in zone 1, which is preferred; the witness comes after the last.
    fn cluster(nodes: u32, mirror: Mirror) -> State {
        let mut ledger = with_volume(nodes, 1, mirror, &[Cache::Safe]);
        open(&mut ledger, &(1..=mirror.legs() as u16).collect::<Vec<_>>());
        ledger.voters = Voters::Settled((1..=nodes + 1).map(NodeId).collect());
        ledger
    }

    /// Loses nodes one lot after the other, adapting in between; whether a majority lives at the end.
    fn survives(ledger: &mut State, losses: &[&[u32]]) -> bool {
        let mut live: BTreeSet<NodeId> = ledger.nodes.keys().copied().collect();
        for lost in losses {
            live.retain(|node| !lost.contains(&node.0));
            let majority =
                |voters: &Voters| 2 * voters.present().intersection(&live).count() > voters.present().len();
            if !majority(&ledger.voters) {
                return false;
            }
            for _ in 0..4 {
                let Some(set) = wanted(ledger, &live, &"zone1".parse().unwrap()) else { break };
                must(ledger, &Command::Cluster(ClusterCommand::ChangeVoters(set)));
                must(ledger, &Command::Cluster(ClusterCommand::VotersSettled));
                assert!(majority(&ledger.voters), "a change that ends the cluster: {:?}", ledger.voters);
            }
        }
        true
    }

    #[test]
    fn a_rack_and_then_the_witness_and_the_other_way_round() {
        for (losses, expected) in [
            (vec![&[2, 4][..], &[5]], true),
            (vec![&[1, 3], &[5]], true),
            (vec![&[5], &[2, 4]], true),
            // After the witness the zone that is not preferred can't go on alone: one side at most ever runs.
            (vec![&[5], &[1, 3]], false),
            (vec![&[2, 4], &[3]], true),
            (vec![&[1, 3], &[4]], true),
            (vec![&[2], &[4], &[3]], true),
        ] {
            assert_eq!(survives(&mut cluster(4, Mirror::FourWay), &losses), expected, "{losses:?}");
        }
        for (losses, expected) in
            [(vec![&[3][..], &[2]], true), (vec![&[3], &[1]], false), (vec![&[2], &[3]], false)]
        {
            assert_eq!(survives(&mut cluster(2, Mirror::TwoWay), &losses), expected, "{losses:?}");
        }
    }

    #[test]
    fn the_set_of_one_and_one_is_never_shrunk_to_two() {
        let ledger = cluster(2, Mirror::TwoWay);
        let live = BTreeSet::from([NodeId(1), NodeId(3)]);
        assert_eq!(wanted(&ledger, &live, &"zone1".parse().unwrap()), None);
    }

    #[test]
    fn the_preferred_zone_is_preferred_only_while_it_holds_every_volume() {
        let mut ledger = cluster(2, Mirror::TwoWay);
        let live = BTreeSet::from([NodeId(1), NodeId(2)]);
        let zone = "zone1".parse().unwrap();
        assert_eq!(wanted(&ledger, &live, &zone), Some(BTreeSet::from([NodeId(1)])));
        let stale = now(&ledger, VolumeCommand::LegStale(leg_ref(&ledger, 1)));
        must(&mut ledger, &stale);
        assert_eq!(wanted(&ledger, &live, &zone), None);
    }

    #[test]
    fn whom_a_forced_quorum_has_left_behind_never_votes_again() {
        let mut ledger = cluster(4, Mirror::FourWay);
        let voters = BTreeSet::from([NodeId(2)]);
        let (by, loses) = ("operator".to_owned(), "what rack 1 had".to_owned());
        let incarnation = ledger.incarnation.next();
        must(&mut ledger, &Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses }));
        let all: BTreeSet<NodeId> = ledger.nodes.keys().copied().collect();
        assert_eq!(wanted(&ledger, &all, &"zone1".parse().unwrap()), None);
        let with_them = Command::Cluster(ClusterCommand::ChangeVoters([2, 3, 5].map(NodeId).into()));
        assert_eq!(ledger.apply(&with_them), Err(crate::Rejected::Stranger(NodeId(3))));
        // Under a new id one does: with the survivor that would be two, and two are not a set of voters.
        let zone = Some("zone2".parse().unwrap());
        for name in ["n6", "n7"] {
            must(
                &mut ledger,
                &Command::Cluster(ClusterCommand::AddNode {
                    name: name.parse().unwrap(),
                    zone: zone.clone(),
                }),
            );
        }
        let live = ledger.nodes.keys().copied().collect();
        let three = Some([2, 6, 7].map(NodeId).into());
        assert_eq!(wanted(&ledger, &live, &"zone1".parse().unwrap()), three);
    }

    #[test]
    fn who_leaves_votes_no_more_alive_or_not_and_an_odd_number_does() {
        let (all, zone) = ((1..=7).map(NodeId).collect::<BTreeSet<_>>(), "zone1".parse().unwrap());
        let mut ledger = cluster(6, Mirror::FourWay);
        let nodes = [3, 4].map(NodeId).into();
        must(&mut ledger, &Command::Cluster(ClusterCommand::NodesLeave { nodes }));
        let stay = BTreeSet::from([1, 2, 5, 6, 7].map(NodeId));
        assert_eq!(wanted(&ledger, &all, &zone), Some(stay.clone()));
        assert_eq!(wanted(&ledger, &stay, &zone), Some(stay.clone()), "they are dead");
        // Of those who stay one is dead, and keeps its vote: neither of those who leave does.
        let without = |dead: u32| all.iter().copied().filter(|id| id.0 != dead).collect::<BTreeSet<_>>();
        assert_eq!(wanted(&ledger, &without(6), &zone), Some(stay.clone()));
        // Without the witness one of the other zone gives its vote up.
        assert_eq!(wanted(&ledger, &without(7), &zone), Some([1, 2, 5].map(NodeId).into()));
        ledger.voters = Voters::Settled(stay);
        assert_eq!(wanted(&ledger, &all, &zone), None);
    }

    /// The last that is left may be one that leaves: a quorum was forced there.
    #[test]
    fn one_that_leaves_and_alone_votes_does_so_until_others_are_back() {
        let mut ledger = cluster(4, Mirror::TwoWay);
        let nodes = [3, 4].map(NodeId).into();
        must(&mut ledger, &Command::Cluster(ClusterCommand::NodesLeave { nodes }));
        let (incarnation, voters) = (ledger.incarnation.next(), BTreeSet::from([NodeId(3)]));
        let (by, loses) = ("operator".to_owned(), "the others".to_owned());
        must(&mut ledger, &Command::Cluster(ClusterCommand::ForceQuorum { incarnation, voters, by, loses }));
        let (zone, one) = ("zone1".parse().unwrap(), BTreeSet::from([NodeId(3)]));
        assert_eq!(wanted(&ledger, &one, &zone), None);
        for lost in [1, 2, 5].map(NodeId) {
            must(&mut ledger, &Command::Cluster(ClusterCommand::ReplaceNode { lost }));
        }
        let live = [3, 6, 7, 8].map(NodeId).into();
        assert_eq!(wanted(&ledger, &live, &zone), Some([6, 7, 8].map(NodeId).into()));
    }

    #[test]
    fn who_comes_back_votes_again() {
        let mut ledger = cluster(4, Mirror::FourWay);
        ledger.voters = Voters::Settled(BTreeSet::from([NodeId(1), NodeId(3), NodeId(5)]));
        let all: BTreeSet<NodeId> = ledger.nodes.keys().copied().collect();
        assert_eq!(wanted(&ledger, &all, &"zone1".parse().unwrap()), Some(all));
    }
}
