//! What must hold of the management network while a room is cut off from the spine.

use super::{Runner, Seen};
use crate::suite::Room;
use deploy::{DeployError, MeshProbe, RoundTrip};
use model::NodeName;
use std::collections::BTreeSet;

impl Runner<'_> {
    /// On the management network nobody reaches the room from outside or the other way, and outside it all reach each other.
    /// Inside it nothing is asked: two nodes whose teams use different switches meet at the spine.
    pub(super) async fn management_parted(&self, room: Room) -> Result<Seen, DeployError> {
        let trips = deploy::mesh(&self.cluster, MeshProbe::MANAGEMENT).await?;
        let zone = &self.cluster.spec.zones[room.index()];
        let inside: BTreeSet<&NodeName> = zone.nodes.iter().map(|node| &node.name).collect();
        Ok(judged(&trips, &inside))
    }
}

fn judged(trips: &[RoundTrip], inside: &BTreeSet<&NodeName>) -> Seen {
    let is_inside = |name: &NodeName| inside.contains(name);
    let (across, others): (Vec<&RoundTrip>, Vec<&RoundTrip>) =
        trips.iter().partition(|trip| is_inside(&trip.from) != is_inside(&trip.to));
    let outside = others.iter().filter(|trip| !is_inside(&trip.from));
    let reached = across.iter().filter(|trip| trip.answer.received > 0);
    let mut wrong: Vec<String> =
        reached.map(|trip| format!("{} reaches {} over {}", trip.from, trip.to, trip.over)).collect();
    wrong.extend(outside.clone().filter(|trip| !trip.is_complete()).map(ToString::to_string));
    if across.is_empty() || outside.clone().next().is_none() {
        wrong.push("nobody to be parted".to_owned());
    }
    Seen::unless(
        &wrong,
        format!("{} ways carry nothing, {} ways outside lose nothing", across.len(), outside.count()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::PingAnswer;
    use deploy::Over;

    fn trip(from: &str, to: &str, received: u32) -> RoundTrip {
        let answer = PingAnswer {
            sent: 10,
            received,
            lost: 10 - received,
            min_us: None,
            median_us: None,
            p99_us: None,
            max_us: None,
            histogram: Vec::new(),
            first_error: None,
        };
        RoundTrip {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            over: Over::Management,
            filled: None,
            answer,
        }
    }

    #[test]
    fn a_room_is_parted_when_nothing_crosses_and_the_rest_is_well() {
        let a1: NodeName = "a1".parse().unwrap();
        let inside = BTreeSet::from([&a1]);
        let good = [trip("a1", "b1", 0), trip("b1", "a1", 0), trip("b1", "witness", 10)];
        assert!(judged(&good, &inside).good);
        let mut leaks = good.to_vec();
        leaks[1] = trip("b1", "a1", 1);
        assert!(judged(&leaks, &inside).what.contains("b1 reaches a1"));
        let mut sick = good.to_vec();
        sick[2] = trip("b1", "witness", 9);
        assert!(!judged(&sick, &inside).good);
        assert!(!judged(&good[..2], &inside).good, "nobody outside");
        assert!(!judged(&[], &inside).good);
    }
}
