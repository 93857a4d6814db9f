//! Breadth first through every state, each looked at once: the first way to a broken one is a shortest.

use super::world::{Action, World};
use crate::command::Event;
use crate::transition::{LegCause, VolumeCause};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What was found.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing is broken in this many states; `complete`: there are no others.
    Holds { states: usize, complete: bool, causes: Causes },
    /// This is, after these steps.
    Broken { why: String, steps: Vec<String> },
}

/// Why anything changed on the way.
#[derive(Debug, Default)]
pub(super) struct Causes {
    pub(super) legs: BTreeSet<LegCause>,
    pub(super) volumes: BTreeSet<VolumeCause>,
}

impl Causes {
    pub(super) fn count(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Leg(_, _, _, cause, _) => drop(self.legs.insert(cause)),
                Event::Volume(_, _, _, cause, _) => drop(self.volumes.insert(cause)),
                _ => {}
            }
        }
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// Goes through all states that can be reached from one, `states_max` of them at most.
pub(super) fn explore(start: World, states_max: usize) -> Verdict {
    let first = fingerprint(&start);
    let mut came_from: HashMap<u64, Option<(u64, Action)>> = HashMap::from([(first, None)]);
    let mut frontier = vec![(first, start)];
    let (mut complete, mut causes) = (true, Causes::default());
    while !frontier.is_empty() {
        let mut next = Vec::new();
        for (from, world) in frontier {
            for action in world.actions() {
                let mut after = world.clone();
                causes.count(after.act(&action));
                let broken = after.broken();
                let to = fingerprint(&after);
                let Entry::Vacant(entry) = came_from.entry(to) else { continue };
                entry.insert(Some((from, action)));
                if let Some(why) = broken {
                    return Verdict::Broken { why, steps: steps(&came_from, to) };
                }
                if came_from.len() >= states_max {
                    complete = false;
                } else {
                    next.push((to, after));
                }
            }
        }
        frontier = next;
    }
    Verdict::Holds { states: came_from.len(), complete, causes }
}

fn steps(came_from: &HashMap<u64, Option<(u64, Action)>>, mut at: u64) -> Vec<String> {
    let mut steps = Vec::new();
    while let Some(Some((from, action))) = came_from.get(&at) {
        steps.push(format!("{action:?}"));
        at = *from;
    }
    steps.reverse();
    steps
}
