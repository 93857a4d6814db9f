//! Whether storage stays off the spine, from the fabric's counters. Pure.
//!
//! The fabric sends no frame into a port that does not carry its VLAN, so that storage VLANs can't leak by tag unless the
//! lab is cabled wrong. What a product can get wrong is to send storage traffic through the management network, as
//! routed packets do, with whatever priority management has: so it is known by its addresses. Frames with storage's or the
//! heartbeat's priority may not be there either.

use fabric::{LinkCounters, LinkId, Snapshot};
use model::ClusterSpec;
use std::collections::BTreeSet;

/// What was seen on the spine's cables.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OnSpine {
    /// What may not be there, in words.
    pub(super) wrong: Vec<String>,
    /// Frames of other VLANs and priorities.
    pub(super) others: u64,
}

/// Looks at the counters of the spine's cables.
pub(super) fn on_spine(spec: &ClusterSpec, counters: &Snapshot, spine: &BTreeSet<LinkId>) -> OnSpine {
    let links = || counters.links.iter().filter(|counted| spine.contains(&counted.link));
    let mut wrong: Vec<String> = Vec::new();
    for vlan in spec.storage_networks.iter().map(|network| network.vlan) {
        let sent = links().map(|counted| (counted, counted.sent_frames(vlan))).filter(|(_, sent)| *sent > 0);
        wrong.extend(sent.map(|(counted, sent)| format!("{sent} frames of VLAN {vlan} on {}", counted.link)));
    }
    for counted in links() {
        let frames = counted.a_to_b.trespassing.frames + counted.b_to_a.trespassing.frames;
        if frames > 0 {
            wrong.push(format!("{frames} frames from or to storage addresses on {}", counted.link));
        }
    }
    let reserved = [spec.qos.storage_priority, spec.qos.heartbeat_priority];
    let mut others = 0;
    for counted in links() {
        for class in classes(counted) {
            if reserved.contains(&class.pcp) {
                let (frames, vlan, pcp, link) = (class.count.frames, class.vlan, class.pcp, &counted.link);
                wrong.push(format!("{frames} frames of VLAN {vlan} with priority {pcp} on {link}"));
            } else {
                others += class.count.frames;
            }
        }
    }
    if others == 0 {
        // Then the absence of storage frames proves nothing.
        wrong.push("the spine carried no frame at all".to_owned());
    }
    OnSpine { wrong, others }
}

fn classes(counted: &LinkCounters) -> impl Iterator<Item = &fabric::ClassCount> {
    counted.a_to_b.carried.iter().chain(&counted.b_to_a.carried)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fabric::{ClassCount, Count, DirectionCounters, DropCount, DropReason};

    fn spec() -> ClusterSpec {
        let text = include_str!("../../templates/2+2.toml");
        let source = template::Source::new("t.toml".to_owned(), text);
        template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap()
    }

    fn class(vlan: u64, pcp: u64) -> ClassCount {
        let count = Count { frames: 5, bytes: 500 };
        ClassCount { vlan: vlan.try_into().unwrap(), pcp: pcp.try_into().unwrap(), count }
    }

    fn seen(carried: Vec<ClassCount>, dropped: Vec<DropCount>, trespassing: u64) -> OnSpine {
        let link: LinkId = "spine-11".parse().unwrap();
        let trespassing = Count { frames: trespassing, bytes: 100 };
        let a_to_b = DirectionCounters { carried, dropped, trespassing, ..DirectionCounters::default() };
        let counted = LinkCounters { link: link.clone(), a_to_b, b_to_a: DirectionCounters::default() };
        let elsewhere = DirectionCounters { carried: vec![class(711, 3)], ..DirectionCounters::default() };
        let other = LinkCounters {
            link: "room-link-1".parse().unwrap(),
            a_to_b: elsewhere,
            b_to_a: DirectionCounters::default(),
        };
        let counters = Snapshot { at_us: 0, links: vec![counted, other] };
        on_spine(&spec(), &counters, &BTreeSet::from([link]))
    }

    #[test]
    fn management_and_compute_may_cross_the_spine() {
        assert_eq!(seen(vec![class(7, 0), class(8, 0)], vec![], 0), OnSpine { wrong: vec![], others: 10 });
    }

    #[test]
    fn storage_may_not_by_vlan_nor_by_priority_nor_unseen() {
        let dropped = DropCount {
            reason: DropReason::VlanNotCarried,
            vlan: Some(712u64.try_into().unwrap()),
            count: Count { frames: 1, bytes: 64 },
        };
        for (carried, dropped, word) in [
            (vec![class(7, 0), class(711, 0)], vec![], "5 frames of VLAN 711 on spine-11"),
            (vec![class(7, 0)], vec![dropped], "1 frames of VLAN 712 on spine-11"),
            (vec![class(7, 0), class(7, 3)], vec![], "5 frames of VLAN 7 with priority 3 on spine-11"),
            (vec![class(7, 0), class(7, 7)], vec![], "5 frames of VLAN 7 with priority 7 on spine-11"),
            (vec![], vec![], "the spine carried no frame at all"),
        ] {
            assert_eq!(seen(carried, dropped, 0).wrong, [word]);
        }
        assert_eq!(
            seen(vec![class(7, 0)], vec![], 3).wrong,
            ["3 frames from or to storage addresses on spine-11"]
        );
    }
}
