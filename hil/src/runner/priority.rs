//! Whether frames carry the priority of what they are about, from the fabric's counters.
//!
//! The fabric knows what a frame is about by its protocol and ports, and counts it by that and by its priority, whether
//! it arrives or not. So what is asked here is asked of every frame that was put on a cable between two moments: storage's (TCP port
//! 4420, both directions, whatever flags it has) has storage's priority, a hello has the heartbeat's, and everything else has none;
//! an echo may have storage's, because probes ask what storage would meet.

use fabric::{DirectionCounters, Kind, KindCount, LinkId, Snapshot};
use model::{Priority, Qos, VlanId};
use std::collections::BTreeMap;

/// So many lines say enough.
const COMPLAINTS_MAX: usize = 16;

/// A cable and the node at its end a; none: between switches.
pub(super) type Cable = (LinkId, Option<String>);

/// What was put on cables between two moments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// Frames with a wrong priority: which, where, how many.
    pub(super) wrong: Vec<String>,
    /// Frames that nodes sent, by VLAN and kind.
    pub(super) sent: BTreeMap<(String, Option<VlanId>, Kind), u64>,
}

/// Judges every cable. A node's own sending is told first; what others carry is told only where no node is to blame for it.
pub(super) fn judge(qos: Qos, cables: &[Cable], before: &Snapshot, after: &Snapshot) -> Judged {
    let mut sent = BTreeMap::new();
    let (mut by_nodes, mut by_others) = (Vec::new(), Vec::new());
    for (link, node) in cables {
        let ways = |snapshot: &Snapshot| snapshot.link(link).map(|c| (c.a_to_b.clone(), c.b_to_a.clone()));
        let (old, new) = (ways(before).unwrap_or_default(), ways(after).unwrap_or_default());
        for count in grown(&old.0, &new.0) {
            match node {
                Some(node) => {
                    *sent.entry((node.clone(), count.vlan, count.kind)).or_default() += count.frames;
                    by_nodes.extend(complaint(qos, &count, &format!("{node} sent on {link}")));
                }
                None => by_others.extend(complaint(qos, &count, &format!("on {link}"))),
            }
        }
        for count in grown(&old.1, &new.1) {
            by_others.extend(complaint(qos, &count, &format!("on {link}")));
        }
    }
    let mut wrong = if by_nodes.is_empty() { by_others } else { by_nodes };
    let more = wrong.len().saturating_sub(COMPLAINTS_MAX);
    wrong.truncate(COMPLAINTS_MAX);
    if more > 0 {
        wrong.push(format!("and {more} more"));
    }
    Judged { wrong, sent }
}

/// What was counted since.
fn grown(before: &DirectionCounters, after: &DirectionCounters) -> Vec<KindCount> {
    let same = |a: &KindCount, b: &KindCount| (a.vlan, a.pcp, a.kind) == (b.vlan, b.pcp, b.kind);
    let old = |count: &KindCount| before.sent.iter().find(|o| same(o, count)).map_or(0, |o| o.frames);
    let since = |count: &KindCount| KindCount { frames: count.frames.saturating_sub(old(count)), ..*count };
    after.sent.iter().map(since).filter(|count| count.frames > 0).collect()
}

fn complaint(qos: Qos, count: &KindCount, place: &str) -> Option<String> {
    let wanted: &[Priority] = match count.kind {
        Kind::Storage => &[qos.storage_priority],
        Kind::Heartbeat => &[qos.heartbeat_priority],
        Kind::Echo => &[Priority::DEFAULT, qos.storage_priority],
        Kind::Other => &[Priority::DEFAULT],
    };
    let KindCount { vlan, pcp, kind, frames } = count;
    let vlan = vlan.map_or_else(|| "no VLAN".to_owned(), |vlan| format!("VLAN {vlan}"));
    let asked = wanted.first()?;
    (!wanted.contains(pcp))
        .then(|| format!("{place}: {frames} {kind} frames in {vlan} with priority {pcp}, not {asked}"))
}

/// Frames of a kind that went one way over a cable between two moments.
pub(super) fn frames(before: &DirectionCounters, after: &DirectionCounters, kind: Kind) -> u64 {
    grown(before, after).iter().filter(|count| count.kind == kind).map(|count| count.frames).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabric::LinkCounters;

    fn count(vlan: u64, pcp: u64, kind: Kind, frames: u64) -> KindCount {
        KindCount { vlan: Some(vlan.try_into().unwrap()), pcp: pcp.try_into().unwrap(), kind, frames }
    }

    fn snapshot(links: &[(&str, Vec<KindCount>, Vec<KindCount>)]) -> Snapshot {
        let way = |sent: &Vec<KindCount>| DirectionCounters { sent: sent.clone(), ..Default::default() };
        let link = |(link, a_to_b, b_to_a): &(&str, Vec<KindCount>, Vec<KindCount>)| LinkCounters {
            link: link.parse().unwrap(),
            a_to_b: way(a_to_b),
            b_to_a: way(b_to_a),
        };
        Snapshot { at_us: 0, links: links.iter().map(link).collect() }
    }

    fn cables() -> Vec<Cable> {
        vec![("a1.storage1".parse().unwrap(), Some("a1".to_owned())), ("room".parse().unwrap(), None)]
    }

    fn judged(sent: Vec<KindCount>, back: Vec<KindCount>, room: Vec<KindCount>) -> Judged {
        let after = snapshot(&[("a1.storage1", sent, back), ("room", room, vec![])]);
        judge(Qos::default(), &cables(), &snapshot(&[]), &after)
    }

    #[test]
    fn every_kind_has_its_priority() {
        let good = vec![
            count(711, 3, Kind::Storage, 10),
            count(711, 7, Kind::Heartbeat, 5),
            count(711, 0, Kind::Other, 2),
            count(7, 0, Kind::Other, 2),
            count(711, 3, Kind::Echo, 1),
            count(7, 0, Kind::Echo, 1),
        ];
        let judged = judged(good.clone(), good.clone(), good);
        assert_eq!(judged.wrong, [""; 0]);
        let vlan = Some(711u64.try_into().unwrap());
        assert_eq!(judged.sent.get(&("a1".to_owned(), vlan, Kind::Storage)), Some(&10));
        assert_eq!(judged.sent.len(), 6, "nothing of the room and of the way back: {judged:?}");
    }

    #[test]
    fn a_frame_with_another_is_told_with_its_node_and_cable() {
        for (wrong, said) in [
            (count(711, 0, Kind::Storage, 1), "1 storage frames in VLAN 711 with priority 0, not 3"),
            (count(711, 7, Kind::Storage, 1), "1 storage frames in VLAN 711 with priority 7, not 3"),
            (count(711, 3, Kind::Heartbeat, 2), "2 heartbeat frames in VLAN 711 with priority 3, not 7"),
            (count(7, 3, Kind::Other, 9), "9 other frames in VLAN 7 with priority 3, not 0"),
            (count(711, 7, Kind::Echo, 9), "9 echo frames in VLAN 711 with priority 7, not 0"),
        ] {
            let judged = judged(vec![count(711, 3, Kind::Storage, 1000), wrong], vec![], vec![wrong]);
            assert_eq!(judged.wrong, [format!("a1 sent on a1.storage1: {said}")]);
        }
    }

    #[test]
    fn what_no_node_sent_so_is_told_where_it_was_seen() {
        let wrong = count(711, 0, Kind::Storage, 1);
        assert_eq!(
            judged(vec![], vec![], vec![wrong]).wrong,
            ["on room: 1 storage frames in VLAN 711 with priority 0, not 3"]
        );
        assert_eq!(judged(vec![], vec![wrong], vec![]).wrong.len(), 1);
    }

    #[test]
    fn only_what_came_since_counts() {
        let old = vec![count(711, 0, Kind::Storage, 5)];
        let before = snapshot(&[("a1.storage1", old.clone(), vec![])]);
        let judge_now = |frames| {
            let now = vec![count(711, 0, Kind::Storage, frames)];
            let after = snapshot(&[("a1.storage1", now, vec![])]);
            judge(Qos::default(), &cables(), &before, &after).wrong.len()
        };
        assert_eq!((judge_now(5), judge_now(6)), (0, 1));
        let ways = (&before.links[0].a_to_b, &DirectionCounters { sent: old, ..Default::default() });
        assert_eq!(frames(ways.0, ways.1, Kind::Storage), 0);
    }

    #[test]
    fn a_flood_of_complaints_is_cut_short() {
        let many = (1..=30).map(|vlan| count(vlan, 3, Kind::Other, 1)).collect();
        let wrong = judged(many, vec![], vec![]).wrong;
        assert_eq!((wrong.len(), wrong[16].as_str()), (17, "and 14 more"));
    }
}
