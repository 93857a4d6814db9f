//! Whether storage stays off the spine, from the fabric's counters.
//!
//! The fabric sends no frame into a port that does not carry its VLAN, so that storage VLANs can't leak by tag unless the
//! lab is cabled wrong. What a product can get wrong is to send storage traffic through the management network, as
//! routed packets do, with whatever priority management has: so it is known by its addresses. Frames with storage's or the
//! heartbeat's priority may not be there either.

use super::{Runner, Seen, or_failure};
use crate::run::RunError;
use deploy::{MeshProbe, Networks};
use fabric::{LinkCounters, LinkId, Role, Snapshot};
use model::{ClusterSpec, NodeName};
use std::collections::BTreeSet;

/// Probes a pair, direction and storage network while the spine is looked at.
const PROBES: u16 = 5;

impl Runner<'_> {
    /// While every node probes every other on every storage network, whoever answers, no storage frame is seen on the
    /// spine; and storage frames were sent, by every node that has a storage NIC with carrier.
    pub(super) async fn spine_stays_clean(&mut self) -> Result<Seen, RunError> {
        let before = self.lab.counters()?;
        let probe = |network| MeshProbe {
            count: PROBES,
            full_size: true,
            over: Networks::One(network),
            interleaved: false,
        };
        let networks = self.cluster.spec.storage_networks.iter().map(|network| network.index);
        let meshes = networks.map(|network| deploy::mesh(&self.cluster, probe(network)));
        for mesh in futures_util::future::join_all(meshes).await {
            if let Err(error) = mesh {
                return Ok(or_failure(Err(error)));
            }
        }
        let after = self.lab.counters()?;
        let spec = &self.cluster.spec;
        let carriers = self.lab.carriers()?;
        let nodes = self.lab.nodes().values().filter(|node| node.holds_data());
        let nodes: Vec<(&NodeName, Vec<LinkId>)> =
            nodes.map(|node| (node.name(), node.storage_links(spec, &carriers))).collect();
        let sent = sent(spec, &before, &after, &nodes);
        let spine: BTreeSet<LinkId> =
            self.lab.topology().links_at(Role::Spine).map(|link| link.id.clone()).collect();
        let mut wrong = on_spine(spec, &after, &spine).wrong;
        wrong.extend(sent.wrong);
        let (frames, spine) = (sent.others, spine.len());
        Ok(Seen::unless(
            &wrong,
            format!("nodes sent {frames} storage frames, none is on {spine} spine links"),
        ))
    }
}

/// The storage frames that nodes sent between two moments, by the cables given for each; wrong: those that sent none.
fn sent(
    spec: &ClusterSpec,
    before: &Snapshot,
    after: &Snapshot,
    nodes: &[(&NodeName, Vec<LinkId>)],
) -> OnSpine {
    let frames = |counters: &Snapshot, link: &LinkId| -> u64 {
        let vlans = spec.storage_networks.iter().map(|network| network.vlan);
        let counted = counters.link(link);
        vlans.map(|vlan| counted.map_or(0, |counted| counted.a_to_b.sent_frames(vlan))).sum()
    };
    let (mut wrong, mut others) = (Vec::new(), 0);
    for (node, links) in nodes {
        let sent: u64 =
            links.iter().map(|link| frames(after, link).saturating_sub(frames(before, link))).sum();
        others += sent;
        if sent == 0 && !links.is_empty() {
            wrong.push(format!("{node} sent no storage frame, so that none on the spine proves nothing"));
        }
    }
    if others == 0 {
        wrong.push("no node sent a storage frame".to_owned());
    }
    OnSpine { wrong, others }
}

/// What was seen on some cables.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OnSpine {
    /// What may not be there, in words.
    pub(super) wrong: Vec<String>,
    /// Frames that may.
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
    fn a_node_that_could_send_and_did_not_proves_nothing() {
        let link: LinkId = "a1.storage1".parse().unwrap();
        let snapshot = |carried| Snapshot {
            at_us: 0,
            links: vec![LinkCounters {
                link: link.clone(),
                a_to_b: DirectionCounters { carried, ..DirectionCounters::default() },
                b_to_a: DirectionCounters::default(),
            }],
        };
        let (before, after) = (snapshot(vec![]), snapshot(vec![class(711, 3), class(7, 0)]));
        let (a1, a2): (NodeName, NodeName) = ("a1".parse().unwrap(), "a2".parse().unwrap());
        let cables = [(&a1, vec![link.clone()]), (&a2, vec![])];
        assert_eq!(sent(&spec(), &before, &after, &cables), OnSpine { wrong: vec![], others: 5 });
        assert_eq!(sent(&spec(), &after, &after, &cables).wrong.len(), 2, "nothing new was sent");
        assert_eq!(sent(&spec(), &before, &after, &cables[1..]).wrong, ["no node sent a storage frame"]);
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
