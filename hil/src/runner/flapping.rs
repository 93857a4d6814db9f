//! Links that flap: what else carries on meanwhile, and that names don't storm.
//!
//! Invariants: what is named is recorded from just before the first fault of a scenario on, by the task that sees every
//! sighting; nothing that is named in between is missed. The record is bounded: what comes after is only counted.

use super::checks::incomplete;
use super::{Runner, Seen, or_failure};
use crate::run::RunError;
use crate::suite::{Flapping, Step};
use deploy::{Cluster, DeployError, MeshProbe};
use model::StorageNetworkIndex;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The most ids that are kept of what was named.
const NAMES_MAX: usize = 64;

/// What was named since somebody began to record.
#[derive(Debug, Clone, Default)]
pub(super) struct Namings(Arc<Mutex<Named>>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Named {
    /// What is named now.
    now: BTreeSet<String>,
    /// Everything that was named since the beginning.
    ever: BTreeSet<String>,
    /// How often something was named.
    came: usize,
    /// How often something no longer was.
    gone: usize,
}

impl Namings {
    fn lock(&self) -> MutexGuard<'_, Named> {
        // Nothing panics while it holds this; if it did, the data is whole all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew, with what is named now: whoever records may be a sighting behind.
    pub(super) fn begin(&self, now: BTreeSet<String>) {
        *self.lock() = Named { ever: now.clone(), now, ..Named::default() };
    }

    /// Whether only what was expected was named since then, often enough, and not too often.
    pub(super) fn judged(&self, expected: &[String], at_least: usize, changes_at_most: usize) -> Seen {
        self.lock().judged(expected, at_least, changes_at_most)
    }

    /// Sees what is named at a moment.
    pub(super) fn see(&self, now: BTreeSet<String>) {
        let mut named = self.lock();
        named.came += now.difference(&named.now).count();
        named.gone += named.now.difference(&now).count();
        let room = NAMES_MAX.saturating_sub(named.ever.len());
        named.ever.extend(now.iter().take(room).cloned());
        named.now = now;
    }
}

impl Named {
    /// Whether only what was expected was named, often enough, and not too often.
    fn judged(&self, expected: &[String], at_least: usize, changes_at_most: usize) -> Seen {
        let what = format!("named {} times, gone {} times", self.came, self.gone);
        let mut wrong: Vec<String> = self
            .ever
            .iter()
            .filter(|id| !expected.contains(id))
            .map(|id| format!("{id} was named"))
            .collect();
        if self.came < at_least {
            wrong.push(format!("{what}; expected {at_least} at least"));
        }
        if self.came + self.gone > changes_at_most {
            wrong.push(format!("{what}: more than {changes_at_most} changes"));
        }
        Seen::unless(&wrong, what)
    }
}

impl Runner<'_> {
    /// Lets something flap until it is done. The storage networks that the flapping doesn't touch are probed all the while
    /// and lose nothing.
    pub(super) async fn flap(&mut self, step: &Step, flapping: Flapping) -> Result<Seen, RunError> {
        let since = Instant::now();
        let made = self.break_it(step).await?;
        if !made.good {
            return Ok(made);
        }
        let until = since + flapping.duration();
        let touched: Vec<u8> = match step {
            // Where the rooms are joined by one port channel, both networks cross it.
            Step::FlapRoomLink { .. } => self.networks_flapping(),
            Step::FlapCable { storage_network, .. } => vec![*storage_network],
            _ => Vec::new(),
        };
        let networks = self.cluster.spec.storage_networks.iter().map(|network| network.index);
        let others: Vec<StorageNetworkIndex> =
            networks.filter(|index| !touched.contains(&index.get())).collect();
        let (followed, probed) =
            tokio::join!(self.lab.follow_carriers(until), probe_until(&self.cluster, &others, until));
        followed?;
        Ok(or_failure(probed))
    }

    fn networks_flapping(&self) -> Vec<u8> {
        let expected = self.expected();
        let networks = self.cluster.spec.storage_networks.iter().map(|network| network.index.get());
        networks.filter(|number| expected.contains(&format!("room-link:{number}"))).collect()
    }

    /// From the first fault on until now, nothing but the faults made was named, often enough and not too often.
    pub(super) fn named_calmly(&self, at_least: usize, changes_at_most: usize) -> Seen {
        self.namings.judged(&self.expected(), at_least, changes_at_most)
    }

    /// From the first fault on, for some time, nothing is named.
    pub(super) async fn nothing_named(&self, for_long: Duration) -> Seen {
        let Some((since, _)) = self.faulted else { return Seen::not("nothing was broken") };
        sleep_until(since + for_long).await;
        self.namings.judged(&[], 0, 0)
    }
}

/// Probes storage networks again and again until a moment; then waits for it.
async fn probe_until(
    cluster: &Cluster,
    networks: &[StorageNetworkIndex],
    until: Instant,
) -> Result<Seen, DeployError> {
    let (mut ways, mut lost) = (0, Vec::new());
    while Instant::now() < until && !networks.is_empty() {
        for network in networks {
            let trips = deploy::mesh(cluster, MeshProbe::carries(*network)).await?;
            ways += trips.len();
            lost.extend(incomplete(&trips));
        }
    }
    sleep_until(until).await;
    let nothing_to_probe = "every storage network flaps, so none was probed".to_owned();
    let otherwise = format!("no probe was lost meanwhile, {ways} ways");
    Ok(Seen::unless(&lost, if networks.is_empty() { nothing_to_probe } else { otherwise }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn seen(sightings: &[&[&str]]) -> Named {
        let namings = Namings::default();
        namings.begin(BTreeSet::new());
        for now in sightings {
            namings.see(ids(now));
        }
        namings.lock().clone()
    }

    #[test]
    fn changes_are_counted_and_staying_is_none() {
        let named = seen(&[&[], &["a"], &["a"], &["a"], &[], &[], &["a"]]);
        assert_eq!((named.came, named.gone), (2, 1));
        assert!(named.judged(&["a".into()], 2, 3).good);
        assert!(!named.judged(&["a".into()], 3, 3).good, "named too seldom");
        assert!(!named.judged(&["a".into()], 1, 2).good, "a storm");
    }

    #[test]
    fn what_was_not_broken_must_not_have_been_named_for_a_moment() {
        let named = seen(&[&["a"], &["a", "b"], &["a"]]);
        let judged = named.judged(&["a".into()], 0, 9);
        assert_eq!(judged, Seen::not("b was named"));
        assert!(!seen(&[&["a"]]).judged(&[], 0, 0).good);
        assert!(seen(&[&[]]).judged(&[], 0, 0).good);
    }

    #[test]
    fn what_was_named_before_the_beginning_counts_as_named_and_not_as_a_change() {
        let namings = Namings::default();
        // Seen last by who records, and gone by now.
        namings.see(ids(&["b"]));
        namings.begin(ids(&["a"]));
        let named = namings.lock().clone();
        assert_eq!((named.came, named.gone, named.ever), (0, 0, ids(&["a"])));
    }
}
