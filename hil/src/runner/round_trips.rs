//! Round trips on the storage networks: how long they take, and whether the rooms are near enough.

use super::checks::incomplete;
use super::{Runner, Seen};
use crate::events::{Event, RoundTrips};
use deploy::{Cluster, DeployError, MeshProbe, Over, RoundTrip};
use network::measure::latency;
use std::collections::BTreeMap;

impl Runner<'_> {
    /// Every node reaches every other on every storage network, both ways, and the rooms are near enough to each other.
    pub(super) async fn round_trips(&self, probes: u32) -> Result<Seen, DeployError> {
        let probes = u16::try_from(probes).unwrap_or(u16::MAX);
        let trips = deploy::mesh(&self.cluster, MeshProbe::round_trips(probes)).await?;
        for measured in RoundTrips::of(&self.cluster, &trips) {
            self.log.log(Event::RoundTrips(measured));
        }
        let mut wrong = incomplete(&trips);
        let judgement = latency::judge(&deploy::storage_ways(&self.cluster, &trips), self.lab.machines());
        wrong.extend(judgement.findings.iter().map(|finding| format!("{}: {finding}", finding.id())));
        let mut said = vec![table(&self.cluster, &trips)];
        let limits = judgement.limits.iter();
        said.extend(
            limits.map(|(network, limit)| format!("storage network {network}, between the rooms: {limit}")),
        );
        said.push(medians(&trips));
        if !wrong.is_empty() {
            wrong.extend(said.clone());
        }
        Ok(Seen::unless(&wrong, said.join("\n")))
    }
}

/// The median of every way, in the order of the mesh.
fn medians(trips: &[RoundTrip]) -> String {
    let way = |trip: &RoundTrip| {
        let median = trip.answer.median_us.map_or_else(|| "none".to_owned(), |us| us.to_string());
        format!("{} to {}: {median}", trip.from, trip.to)
    };
    let mut by_network: BTreeMap<Over, Vec<String>> = BTreeMap::new();
    for trip in trips {
        by_network.entry(trip.over).or_default().push(way(trip));
    }
    let line = |(over, ways): (Over, Vec<String>)| format!("{over}, medians in µs: {}", ways.join(", "));
    by_network.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Medians and 99th percentiles, within the rooms and between them.
fn table(cluster: &Cluster, trips: &[RoundTrip]) -> String {
    let mut groups: BTreeMap<(Over, bool), Vec<&RoundTrip>> = BTreeMap::new();
    for trip in trips {
        groups
            .entry((trip.over, cluster.zone_of(&trip.from) == cluster.zone_of(&trip.to)))
            .or_default()
            .push(trip);
    }
    let lines = groups.into_iter().map(|((over, inside), trips)| {
        let place = if inside { "inside a room" } else { "between the rooms" };
        let worst = |read: fn(&RoundTrip) -> Option<u64>| {
            trips.iter().filter_map(|trip| read(trip)).max().unwrap_or(0)
        };
        let (median, p99) = (worst(|trip| trip.answer.median_us), worst(|trip| trip.answer.p99_us));
        format!(
            "{over}, {place}: {} ways, worst median {median} µs, worst 99th percentile {p99} µs",
            trips.len()
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}
