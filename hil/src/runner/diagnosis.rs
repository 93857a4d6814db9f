//! What the watch names, held against what the lab broke.

use super::checks::incomplete;
use super::flapping::Namings;
use super::{Runner, Seen};
use crate::events::{Event, EventLog, Paths};
use deploy::watch::Sighting;
use deploy::{DeployError, MeshProbe};
use model::{NodeName, StorageNetworkIndex};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

impl Runner<'_> {
    /// The ids of the losses and conditions that the faults in force must be named as, sorted.
    pub(super) fn expected(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            self.lab.faults().iter().flat_map(crate::lab::faults::Made::names).collect();
        ids.sort();
        // What one cut broke, another can't break again.
        ids.dedup();
        ids
    }

    /// Exactly the faults made are named, within a bound from the last of them.
    pub(super) async fn named_within(&mut self, bound: Duration) -> Seen {
        let expected = self.expected();
        let Some((_, since)) = self.faulted else {
            return Seen::not("nothing was broken, so nothing can be named");
        };
        if expected.is_empty() {
            return Seen::not("what was done stops nothing, so nothing can be named");
        }
        let mut sightings = self.watch.sightings();
        let exact = |sighting: &Sighting| sighting.at > since && sighting.named() == expected;
        let found = timeout_at(since + bound, sightings.wait_for(exact)).await;
        if let Ok(Ok(sighting)) = found {
            self.vigil.begin(sighting.at, expected);
            let after = sighting.at.saturating_duration_since(since).as_millis();
            return Seen::held(format!("after {after} ms: {}", words(&sighting)));
        }
        let last = self.watch.sightings().borrow().clone();
        Seen::not(format!("expected {}; named: {}", expected.join(", "), words(&last)))
    }

    /// From when the faults were named on, until some time after the first of them, exactly they are named.
    pub(super) async fn stays_named(&self, for_long: Duration) -> Seen {
        let Some((since, _)) = self.faulted else { return Seen::not("nothing was broken") };
        sleep_until(since + for_long).await;
        match self.vigil.so_far() {
            None => Seen::not("nothing was named before"),
            Some(strays) => Seen::unless(&strays, words(&self.watch.sightings().borrow())),
        }
    }

    /// From the first fault on, for some time, no path of a storage network between nodes that work is silent for as long as makes
    /// it dead; then no probe on it is lost.
    pub(super) async fn carries(&self, storage_network: u8, watched: Duration) -> Result<Seen, DeployError> {
        let Some((since, _)) = self.faulted else { return Ok(Seen::not("nothing was broken")) };
        sleep_until(since + watched).await;
        let silence = self.silence(storage_network);
        let Some(network) = self.storage_network(storage_network).filter(|_| silence.good) else {
            return Ok(silence);
        };
        let trips = deploy::mesh(&self.working(), MeshProbe::carries(network)).await?;
        let lost = incomplete(&trips);
        Ok(Seen::unless(&lost, format!("{}; no probe was lost on {} ways", silence.what, trips.len())))
    }

    fn storage_network(&self, number: u8) -> Option<StorageNetworkIndex> {
        let mut networks = self.cluster.spec.storage_networks.iter().map(|network| network.index);
        networks.find(|index| index.get() == number)
    }

    /// Whether any path of a storage network between nodes that work was silent for as long as makes it dead.
    fn silence(&self, storage_network: u8) -> Seen {
        let silences = self.watch.silences();
        let dead_after_ms = network::diagnose::Thresholds::default().dead_after_ms;
        let down = self.lab.down();
        let works = |node: &NodeName| !down.contains(node);
        let unobserved_ms = silences.unobserved_ms(works);
        if unobserved_ms > dead_after_ms {
            return Seen::not(format!("a node did not report for {unobserved_ms} ms: nobody knows"));
        }
        match silences.of_network(storage_network, works) {
            None => Seen::not("no node reports a path on it"),
            Some(ms) if ms > dead_after_ms => Seen::not(format!("a path was silent for {ms} ms")),
            Some(ms) => Seen::held(format!("no path was silent for more than {ms} ms")),
        }
    }
}

/// What a sighting names, in words.
pub(super) fn words(sighting: &Sighting) -> String {
    let named: Vec<String> = told(sighting).into_values().collect();
    if named.is_empty() { "nothing".to_owned() } else { named.join("; ") }
}

/// What a sighting names, by its ids.
fn told(sighting: &Sighting) -> BTreeMap<String, String> {
    lost(sighting).into_iter().chain(raised(sighting)).collect()
}

fn lost(sighting: &Sighting) -> BTreeMap<String, String> {
    sighting.diagnosis.losses.iter().map(|loss| (loss.what.id(), loss.to_string())).collect()
}

fn raised(sighting: &Sighting) -> BTreeMap<String, String> {
    let conditions = sighting.conditions.iter().map(|raised| &raised.condition);
    conditions.map(|condition| (condition.what.id(), condition.to_string())).collect()
}

/// Why a sighting is not one of a healthy cluster.
pub(super) fn unwell(sighting: &Sighting, members: usize) -> String {
    let blocked = sighting.diagnosis.blocked.iter().map(ToString::to_string);
    let mut reasons: Vec<String> = told(sighting).into_values().chain(blocked).collect();
    if sighting.suspected > 0 {
        reasons.push(format!("{} conditions are not certain yet", sighting.suspected));
    }
    reasons.extend(sighting.drifting().map(|node| format!("the links of {node} are not as planned")));
    if sighting.reporting < members {
        reasons.push(format!("{} of {members} nodes report", sighting.reporting));
    }
    for (network, count) in sighting.paths.iter().filter(|(_, count)| count.carrying < sighting.ways) {
        reasons
            .push(format!("{} of {} ways of storage network {network} carry", count.carrying, sighting.ways));
    }
    if reasons.is_empty() { "all was well, but too late".to_owned() } else { reasons.join("\n") }
}

/// Sees that what was once named rightly stays so: from then on until the mending, exactly that is named.
#[derive(Debug, Clone, Default)]
pub(super) struct Vigil(Arc<Mutex<Option<Kept>>>);

#[derive(Debug)]
struct Kept {
    since: Instant,
    expected: Vec<String>,
    strays: Vec<String>,
}

impl Kept {
    /// Whether everybody reports who can: a node that is down by our own doing can't.
    fn all_report(&self, sighting: &Sighting) -> bool {
        let is_down = |node: &NodeName| self.expected.contains(&format!("node:{node}"));
        sighting.not_reporting.iter().all(is_down)
    }
}

impl Vigil {
    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        // Nothing panics while it holds this; if it did, the data is whole all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, since: Instant, expected: Vec<String>) {
        let mut kept = self.lock();
        let strays = kept.take().map_or_else(Vec::new, |earlier| earlier.strays);
        *kept = Some(Kept { since, expected, strays });
    }

    fn see(&self, sighting: &Sighting) {
        if let Some(kept) = self.lock().as_mut()
            && sighting.at > kept.since
            && strays(&sighting.named(), &kept.expected, kept.all_report(sighting))
        {
            let after = sighting.at.duration_since(kept.since).as_millis();
            kept.strays.push(format!("{after} ms later this was named: {}", words(sighting)));
        }
    }

    /// What else was named so far while it lasts; `None`: it does not.
    fn so_far(&self) -> Option<Vec<String>> {
        self.lock().as_ref().map(|kept| kept.strays.clone())
    }

    /// Ends the vigil, and gives what else was named while it lasted.
    pub(super) fn end(&self) -> Vec<String> {
        self.lock().take().map_or_else(Vec::new, |kept| kept.strays)
    }
}

/// Whether something else is named than what is expected. What is missing counts only if everybody has reported: of a node
/// that is late, nobody can tell.
fn strays(lost: &[String], expected: &[String], all_report: bool) -> bool {
    lost.iter().any(|id| !expected.contains(id)) || all_report && expected.iter().any(|id| !lost.contains(id))
}

/// Logs every loss and condition when it is first named and when it no longer is.
pub(super) async fn log_losses(
    mut sightings: watch::Receiver<Sighting>,
    log: Arc<EventLog>,
    vigil: Vigil,
    namings: Namings,
) {
    let (mut lost_before, mut raised_before) = (BTreeMap::new(), BTreeMap::new());
    let mut paths: Option<Paths> = None;
    while sightings.changed().await.is_ok() {
        let (lost, raised) = {
            let sighting = sightings.borrow_and_update();
            vigil.see(&sighting);
            namings.see(sighting.named().into_iter().collect());
            let seen = Paths::of(&sighting);
            if paths.as_ref() != Some(&seen) {
                log.log(Event::Paths(seen.clone()));
                paths = Some(seen);
            }
            (lost(&sighting), raised(&sighting))
        };
        changed(&log, &lost_before, &lost, |loss| Event::LossNamed { loss }, |loss| Event::LossGone { loss });
        changed(
            &log,
            &raised_before,
            &raised,
            |condition| Event::ConditionRaised { condition },
            |condition| Event::ConditionCleared { condition },
        );
        (lost_before, raised_before) = (lost, raised);
    }
}

/// Logs what came and what went.
fn changed(
    log: &EventLog,
    before: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
    came: fn(String) -> Event,
    went: fn(String) -> Event,
) {
    for (_, words) in now.iter().filter(|(id, _)| !before.contains_key(*id)) {
        log.log(came(words.clone()));
    }
    for (_, words) in before.iter().filter(|(id, _)| !now.contains_key(*id)) {
        log.log(went(words.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_invented_always_counts_and_what_is_missing_when_everybody_could_say_it() {
        let ids = |ids: &[&str]| -> Vec<String> { ids.iter().map(ToString::to_string).collect() };
        let expected = ids(&["a"]);
        for (lost, all_report, stray) in [
            (&["a"][..], true, false),
            (&[], true, true),
            (&[], false, false),
            (&["a", "b"], false, true),
            (&["b"], true, true),
        ] {
            assert_eq!(strays(&ids(lost), &expected, all_report), stray, "{lost:?}");
        }
    }
}
