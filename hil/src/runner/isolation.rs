//! Whether storage networks can't be reached from where they must not, tried for real and counted in the fabric.

use super::{Runner, Seen, or_failure};
use crate::run::RunError;
use deploy::Crossing;
use fabric::{LinkId, Snapshot};

impl Runner<'_> {
    /// No storage address answers over another network, and no packet to one is seen in another VLAN than its own; and it
    /// was really tried: every member's questions by the wrong links were seen.
    pub(super) async fn storage_is_isolated(&mut self) -> Result<Seen, RunError> {
        let before = self.lab.counters()?;
        let crossings = match deploy::crossings(&self.cluster).await {
            Ok(crossings) => crossings,
            Err(error) => return Ok(or_failure(Err(error))),
        };
        let after = self.lab.counters()?;
        let members: Vec<(String, Vec<LinkId>)> =
            self.lab.nodes().values().map(|node| (node.name().to_string(), node.links().collect())).collect();
        let said = |crossing: &Crossing| format!("{}: {crossing}", crossing.rule().id);
        let mut wrong: Vec<String> =
            crossings.iter().filter(|crossing| !crossing.is_isolated()).map(said).collect();
        wrong.extend(astray(&before, &after, &members));
        let asked: u64 = members.iter().map(|(_, links)| questions(&before, &after, links)).sum();
        Ok(Seen::unless(
            &wrong,
            format!(
                "{} ways tried by {} machines, none answered; {asked} questions by wrong links were seen, no packet",
                crossings.len(),
                members.len()
            ),
        ))
    }
}

/// Packets that went astray, and members that asked for nothing: then nothing is proven for them.
fn astray(before: &Snapshot, after: &Snapshot, members: &[(String, Vec<LinkId>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for counted in &after.links {
        let old = before.link(&counted.link);
        let frames =
            |counters: &fabric::LinkCounters| counters.ways().map(|way| way.astray.frames).sum::<u64>();
        let grown = frames(counted) - old.map_or(0, frames);
        if grown > 0 {
            wrong.push(format!(
                "{grown} packets to or of storage addresses in a VLAN not theirs on {}",
                counted.link
            ));
        }
    }
    let silent = members.iter().filter(|(_, links)| questions(before, after, links) == 0);
    wrong.extend(silent.map(|(member, _)| format!("{member} asked for no storage address by a wrong link")));
    wrong
}

/// What was asked by wrong links on these cables.
fn questions(before: &Snapshot, after: &Snapshot, links: &[LinkId]) -> u64 {
    let asked = |snapshot: &Snapshot| -> u64 {
        links.iter().filter_map(|link| snapshot.link(link)).map(|c| c.a_to_b.asked_astray.frames).sum()
    };
    asked(after).saturating_sub(asked(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabric::{Count, DirectionCounters, LinkCounters};

    fn snapshot(asked: u64, strayed: u64) -> Snapshot {
        let count = |frames| Count { frames, bytes: 64 * frames };
        let a_to_b = DirectionCounters {
            asked_astray: count(asked),
            astray: count(strayed),
            ..DirectionCounters::default()
        };
        let link = "a1.storage1".parse().unwrap();
        Snapshot {
            at_us: 0,
            links: vec![LinkCounters { link, a_to_b, b_to_a: DirectionCounters::default() }],
        }
    }

    #[test]
    fn a_packet_astray_is_told_with_its_cable_and_what_was_before_is_not() {
        let members = [("a1".to_owned(), vec!["a1.storage1".parse().unwrap()])];
        let told = |before: (u64, u64), after: (u64, u64)| {
            astray(&snapshot(before.0, before.1), &snapshot(after.0, after.1), &members)
        };
        assert_eq!(told((1, 5), (3, 5)), [""; 0]);
        assert_eq!(
            told((1, 5), (3, 7)),
            ["2 packets to or of storage addresses in a VLAN not theirs on a1.storage1"]
        );
        assert_eq!(told((3, 0), (3, 0)), ["a1 asked for no storage address by a wrong link"]);
    }
}
