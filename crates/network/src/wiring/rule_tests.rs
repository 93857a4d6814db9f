//! One thing made wrong on cables that are right breaks that rule and no other.

use super::tests::rewired;
use super::*;
use crate::lldp::Lldpdu;
use crate::testing::{cabling, neighbour, spec};
use model::rules::{self, Checked, Rule};
use model::{ClusterSpec, RdmaTechnology, Wiring};

type Wrong = (ClusterSpec, Vec<NodeCabling>);

fn moved(nodes_per_zone: u64, moves: &[(usize, usize, u8)]) -> Wrong {
    (spec(nodes_per_zone), rewired(nodes_per_zone, moves))
}

/// The first node's first storage NIC hears something else.
fn said(change: fn(&mut Lldpdu)) -> Wrong {
    let mut cabling = cabling(&spec(1));
    change(&mut cabling[0].nics[2].neighbour.as_mut().unwrap().lldpdu);
    (spec(1), cabling)
}

/// A rule, and cables that break it.
type Case = (&'static Rule, fn() -> Wrong);

const CASES: &[Case] = &[
    (rules::LLDP_NO_NEIGHBOUR, || {
        let mut cabling = cabling(&spec(1));
        cabling[0].nics[1].neighbour = None;
        (spec(1), cabling)
    }),
    (rules::LLDP_OTHER_ZONES_SWITCH, || moved(2, &[(1, 2, 3)])),
    (rules::LLDP_NODE_IN_OTHER_ZONE, || moved(2, &[(1, 0, 3), (1, 1, 4), (1, 2, 3), (1, 3, 4)])),
    (rules::LLDP_SHARED_SWITCH, || moved(1, &[(2, 0, 1), (2, 2, 1)])),
    (rules::LLDP_ODD_SWITCH, || moved(3, &[(2, 0, 2)])),
    (rules::LLDP_SPLIT_ZONE, || moved(2, &[(1, 0, 2)])),
    (rules::LLDP_STORAGE_ON_ONE_SWITCH, || moved(1, &[(1, 3, 1), (2, 3, 3)])),
    (rules::LLDP_VLAN_MISSING, || {
        let mut cabling = cabling(&spec(1));
        cabling[0].nics[0].neighbour = Some(neighbour(1, 10, &[8]));
        (spec(1), cabling)
    }),
    (rules::LLDP_VLANS_UNKNOWN, || said(|port| port.vlans.clear())),
    (rules::LLDP_FRAME_TOO_BIG, || said(|port| port.max_frame_bytes = Some(9017))),
    (rules::LLDP_PFC_OFF, || {
        let (mut spec, cabling) = said(|port| port.pfc.as_mut().unwrap().enabled = 0);
        for intent in &mut spec.intents {
            intent.rdma = Some(RdmaTechnology::RoCEv2);
        }
        (spec, cabling)
    }),
    (rules::LLDP_PFC_ON_OTHERS, || said(|port| port.pfc.as_mut().unwrap().enabled = 0b1000_1001)),
    (rules::LLDP_PFC_UNKNOWN, || said(|port| port.pfc = None)),
    (rules::LLDP_ETS_SHARE_TOO_SMALL, || {
        said(|port| port.ets.as_mut().unwrap().bandwidth_percent = [61, 38, 1, 0, 0, 0, 0, 0])
    }),
    (rules::LLDP_ETS_CLASS_SHARED, || {
        said(|port| port.ets.as_mut().unwrap().class_of = [1, 1, 0, 1, 0, 0, 0, 2])
    }),
    (rules::LLDP_ETS_UNKNOWN, || said(|port| port.ets = None)),
    (rules::LLDP_OTHER_WIRING, || {
        let spec = ClusterSpec { wiring: Some(Wiring::B), ..spec(1) };
        let cabling = cabling(&spec);
        (spec, cabling)
    }),
];

#[test]
fn each_mistake_is_told_by_its_rule_alone() {
    for (rule, wrong) in CASES {
        let (spec, cabling) = wrong();
        let findings = check(&spec, &cabling);
        assert!(!findings.is_empty(), "{}", rule.id);
        for finding in findings {
            let message = finding.to_string();
            assert_eq!(finding.rule(), *rule, "{message}");
            assert!(rule.has_form(&message), "{}: {message}", rule.id);
            assert_eq!(finding.diagnostic().severity, rule.severity, "{message}");
        }
    }
}

#[test]
fn every_rule_on_wires_has_a_mistake_here() {
    for rule in rules::all().filter(|rule| rule.checked == Checked::Wires) {
        assert!(CASES.iter().any(|(tried, _)| *tried == rule), "{} is broken by no test", rule.id);
    }
}
