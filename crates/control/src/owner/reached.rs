//! Which legs of an array that is to be made are reached, and which are given up for not being.
//!
//! Invariants: what a try to make the array did not reach is judged when the next try tells, never in between: meanwhile it may have been reached. Who reaches none of the legs, and hears none of those who have them, is itself cut off,
//! and gives none up; who reaches none of them and hears some gives up the silent ones first, and else one at a time.
//!
//! On failure: a leg that nobody gives up is waited for.

use super::{Assembly, Gate};
use crate::moment::Moment;
use model::{LegId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long after a node was heard again silence counts for nothing: the others may be heard a moment later.
const SETTLED: Duration = Duration::from_secs(1);

/// What is known of the legs of an array that is being made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Reached {
    /// Gates that were made, and lost their path since.
    pub(super) gates: BTreeMap<LegId, Gate>,
    /// What the last try did not reach, and since when that is so.
    away: BTreeMap<LegId, Moment>,
    /// What is given up, by the last try.
    gone: BTreeSet<LegId>,
    /// When a node was last heard that had been silent.
    heard: Option<Moment>,
}

/// What a try did not reach.
pub(super) struct Tried {
    /// Nobody is there to connect to.
    pub(super) without_path: BTreeSet<LegId>,
    /// It is not known yet whether somebody is.
    pub(super) late: BTreeSet<LegId>,
}

impl Reached {
    /// The same for another order: what can't come back stays so, all else is tried anew.
    pub(super) fn of_another(self, was: &Assembly, now: &Assembly) -> Self {
        let stays = |(leg, gate): &(LegId, Gate)| {
            *gate == Gate::GIVEN_UP && now.legs.get(leg).is_some_and(|found| was.legs.get(leg) == Some(found))
        };
        Self { gates: self.gates.into_iter().filter(stays).collect(), heard: self.heard, ..Self::default() }
    }

    pub(super) fn heard(&mut self, now: Moment) {
        self.heard = Some(now);
    }

    /// What is to be given up for not being reached.
    pub(super) fn gone(&self) -> &BTreeSet<LegId> {
        &self.gone
    }

    /// A try has told.
    pub(super) fn tried(
        &mut self,
        now: Moment,
        order: &Assembly,
        silent: &BTreeSet<NodeId>,
        tried: &Tried,
        patience: Duration,
    ) {
        let is_away = |leg: &LegId| tried.without_path.contains(leg) || tried.late.contains(leg);
        self.away.retain(|leg, _| is_away(leg));
        let homes = order.legs.iter().filter(|(leg, _)| is_away(leg));
        let homes: BTreeMap<LegId, NodeId> = homes.map(|(leg, (_, node))| (*leg, *node)).collect();
        for leg in homes.keys() {
            self.away.entry(*leg).or_insert(now);
        }
        let reaches_none = homes.len() == order.legs.len();
        if reaches_none && homes.values().all(|node| silent.contains(node)) {
            self.away.values_mut().for_each(|since| *since = now);
            self.gone.clear();
            return;
        }
        let is_settled = self.heard.is_none_or(|heard| now >= heard.after(SETTLED));
        let of_silent = homes.iter().filter(|(_, node)| is_settled && silent.contains(node));
        self.gone = of_silent.map(|(leg, _)| *leg).collect();
        if self.gone.is_empty() {
            let is_over = |leg: &&LegId| self.away.get(leg).is_some_and(|since| now >= since.after(patience));
            let overdue = tried.without_path.iter().filter(is_over).copied();
            self.gone = overdue.take(if reaches_none { 1 } else { usize::MAX }).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Epoch, Incarnation, LedgerIncarnation, MapSequence};

    const NONE: [u16; 0] = [];
    const PATIENCE: Duration = Duration::from_secs(5);

    /// Leg 1 is on node 1, and so on.
    fn order(legs: u16) -> Assembly {
        let leg = |leg: u16| (LegId(leg), (Incarnation(1), NodeId(leg.into())));
        Assembly {
            epoch: Epoch { ledger: LedgerIncarnation(1), number: 1 },
            legs: (1..=legs).map(leg).collect(),
            make_equal: false,
            stale: BTreeSet::new(),
            maps: MapSequence(1),
        }
    }

    struct Case(Reached, BTreeSet<NodeId>, u16);

    impl Case {
        fn of(legs: u16, silent: &[u32]) -> Self {
            Self(Reached::default(), silent.iter().copied().map(NodeId).collect(), legs)
        }

        fn late(&mut self, at_ms: u64, without_path: &[u16], late: &[u16]) -> Vec<u16> {
            let set = |legs: &[u16]| legs.iter().copied().map(LegId).collect();
            let tried = Tried { without_path: set(without_path), late: set(late) };
            self.0.tried(Moment(at_ms), &order(self.2), &self.1, &tried, PATIENCE);
            self.0.gone().iter().map(|leg| leg.0).collect()
        }

        fn tries(&mut self, at_ms: u64, without_path: &[u16]) -> Vec<u16> {
            self.late(at_ms, without_path, &[])
        }
    }

    #[test]
    fn a_leg_without_path_is_given_up_by_a_try_after_a_while_and_at_once_if_its_node_is_silent() {
        let mut case = Case::of(2, &[]);
        assert_eq!(case.tries(0, &[2]), NONE);
        assert_eq!(case.tries(4_999, &[2]), NONE);
        assert_eq!(case.tries(5_000, &[2]), [2]);
        assert_eq!(case.tries(5_100, &[]), NONE, "it is reached after all");
        assert_eq!(case.tries(5_200, &[2]), NONE, "that begins anew");
        assert_eq!(Case::of(2, &[2]).tries(0, &[2]), [2]);
    }

    #[test]
    fn what_is_not_known_in_time_is_given_up_only_if_its_node_is_silent() {
        let mut case = Case::of(2, &[]);
        assert_eq!(case.late(0, &[], &[2]), NONE);
        assert_eq!(case.late(60_000, &[], &[2]), NONE);
        case.1.insert(NodeId(2));
        assert_eq!(case.late(60_100, &[], &[2]), [2]);
    }

    #[test]
    fn who_is_cut_off_gives_none_up_and_neither_when_that_heals() {
        let mut case = Case::of(2, &[1, 2]);
        assert_eq!(case.tries(0, &[1, 2]), NONE);
        assert_eq!(case.tries(60_000, &[1, 2]), NONE);
        case.1.remove(&NodeId(1));
        case.0.heard(Moment(60_100));
        assert_eq!(case.tries(60_200, &[2]), NONE, "node 2 may be heard a moment later");
        assert_eq!(case.tries(61_100, &[2]), [2], "it was not");
    }

    #[test]
    fn who_reaches_none_gives_up_the_silent_ones_and_else_one_at_a_time() {
        assert_eq!(Case::of(3, &[2]).tries(0, &[1, 2, 3]), [2]);
        let mut case = Case::of(3, &[]);
        assert_eq!(case.tries(0, &[1, 2, 3]), NONE);
        assert_eq!(case.tries(5_000, &[1, 2, 3]), [1]);
        let mut case = Case::of(3, &[]);
        assert_eq!(case.tries(0, &[2, 3]), NONE);
        assert_eq!(case.tries(5_000, &[2, 3]), [2, 3], "it has leg 1");
    }

    #[test]
    fn of_another_order_only_what_was_taken_back_is_kept_and_only_as_it_was() {
        let mut gates: BTreeMap<LegId, Gate> = [1, 2].map(|leg| (LegId(leg), Gate::GIVEN_UP)).into();
        gates.insert(LegId(3), Gate::NoPath { since: Moment(7) });
        let reached = Reached { gates, ..Reached::default() };
        let (was, mut now) = (order(3), order(3));
        now.legs.insert(LegId(2), (Incarnation(2), NodeId(2)));
        let kept = reached.of_another(&was, &now);
        assert_eq!(kept.gates.keys().collect::<Vec<_>>(), [&LegId(1)]);
    }
}
