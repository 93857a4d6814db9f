//! The planner.

use super::asked::{Asked, Names, Wish};
use super::room::{Fit, Rooms};
use super::{Because, Cluster, Held, Move, Off, Plan, Vms};
use model::NodeId;

/// How places are looked for, one after the other until all have one. What leaves fewest without one counts, the first of equals.
///
/// Comfort spreads, and so may leave no node with room for a large one. The tight one packs. If not all fit, the small ones first are
/// the most.
const WAYS: [(Order, Fit); 3] = [
    (Order::LargestFirst, Fit::Comfort),
    (Order::LargestFirst, Fit::Tight),
    (Order::SmallestFirst, Fit::Tight),
];

#[derive(Clone, Copy)]
enum Order {
    LargestFirst,
    SmallestFirst,
}

/// Where every virtual machine shall run.
pub fn plan(cluster: &Cluster, vms: &Vms) -> Plan {
    planned(cluster, vms).plan
}

/// A plan and what was left when it was made.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) rooms: Rooms,
    /// Who has no place, whether it runs or not.
    pub(super) without: Vec<Asked>,
}

/// A place for one of those that look for one, or none.
type Seat = Option<NodeId>;

pub(super) fn planned(cluster: &Cluster, vms: &Vms) -> Planned {
    let mut names = Names::new(cluster);
    let mut rooms = Rooms::new(cluster, vms, &mut names);
    let mut plan = Plan::default();
    let (mut idle, mut leaving, mut homing) = (Vec::new(), Vec::new(), Vec::new());
    for (id, vm) in vms {
        match names.wish(cluster, *id, vm) {
            Wish::Stays(on) => {
                plan.stays.insert(*id, on);
            }
            Wish::Needs(asked) if asked.because.is_live() => leaving.push(asked),
            Wish::Needs(asked) => idle.push(asked),
            Wish::Home(asked, on) => {
                // Until it is known that there is room.
                plan.stays.insert(*id, on);
                homing.push(asked);
            }
        }
    }
    let mut without = Vec::new();
    for class in [idle, leaving, homing] {
        let (after, seats) = seated(&rooms, class);
        rooms = after;
        for (asked, seat) in seats {
            match seat {
                Some(to) => {
                    plan.stays.remove(&asked.vm);
                    let Asked { vm, from, because, .. } = asked;
                    plan.moves.push(Move { vm, from, to, because });
                }
                None if asked.because != Because::GoesHome => without.push(asked),
                None => {}
            }
        }
    }
    for asked in &without {
        let (reasons, because) = (rooms.reasons(asked), asked.because);
        match asked.from {
            Some(on) if because.is_live() => {
                plan.held.insert(asked.vm, Held { on, because, reasons });
            }
            lost_with => {
                plan.off.insert(asked.vm, Off { lost_with, reasons });
            }
        }
    }
    Planned { plan, rooms, without }
}

/// Places for all that look for one, as far as there are.
fn seated(rooms: &Rooms, mut class: Vec<Asked>) -> (Rooms, Vec<(Asked, Seat)>) {
    let mut best: Option<(usize, usize, Rooms)> = None;
    let mut seats: Vec<Seat> = Vec::new();
    for (way, (order, fit)) in WAYS.into_iter().enumerate() {
        sort(&mut class, order);
        let mut after = rooms.clone();
        let found: Vec<Seat> = class.iter().map(|asked| after.seat(asked, fit)).collect();
        let without = found.iter().filter(|seat| seat.is_none()).count();
        if best.as_ref().is_none_or(|(fewest, ..)| without < *fewest) {
            (best, seats) = (Some((without, way, after)), found);
        }
        if without == 0 {
            break;
        }
    }
    let (way, after) = best.map_or((0, rooms.clone()), |(_, way, after)| (way, after));
    sort(&mut class, WAYS[way].0);
    (after, class.into_iter().zip(seats).collect())
}

fn sort(class: &mut [Asked], order: Order) {
    match order {
        Order::LargestFirst => class.sort_by_cached_key(Asked::largest_first),
        Order::SmallestFirst => class.sort_by_cached_key(Asked::smallest_first),
    }
}
