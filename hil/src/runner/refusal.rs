//! Whether a refusal blames the cables that were moved, all of them and no other. Pure.

use crate::lab::faults::LabCable;
use model::{AdapterName, NodeName};
use network::lldp::{ChassisId, PortId};
use network::wiring::{Connection, WiringFinding};
use std::collections::BTreeSet;
use std::fmt;

/// A cable, by everything that a person needs to find it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cable {
    node: NodeName,
    adapter: AdapterName,
    switch: ChassisId,
    port: PortId,
}

impl From<&LabCable> for Cable {
    fn from(cable: &LabCable) -> Self {
        let LabCable { node, adapter, switch, port, .. } = cable.clone();
        Self { node, adapter, switch, port }
    }
}

impl From<&Connection> for Cable {
    fn from(cable: &Connection) -> Self {
        let Connection { node, adapter, switch, port, .. } = cable.clone();
        Self { node, adapter, switch, port }
    }
}

impl fmt::Display for Cable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, adapter, switch, port } = self;
        write!(f, "{adapter} of {node} on switch {switch} port {port}")
    }
}

/// What is wrong with a refusal: cables that it should blame and does not, cables that it blames and should not, findings
/// that have nothing to do with cables that were moved. `cables` is what the lab knows to be cabled, with the moves.
pub(super) fn complaints(
    findings: &[&WiringFinding],
    cables: &[LabCable],
    moved: &[LabCable],
    judged_by: JudgedBy,
) -> Vec<String> {
    if moved.is_empty() {
        return vec!["nothing was done that cables tell, so there is nothing to refuse".to_owned()];
    }
    let expected = at_fault(cables, moved, judged_by);
    let blamed: BTreeSet<Cable> =
        findings.iter().flat_map(|finding| finding.blamed()).map(Cable::from).collect();
    // Of a NIC that hears nothing nobody knows where its cable leads.
    let deaf = |finding: &WiringFinding| match finding {
        WiringFinding::NoNeighbour { node, adapter, .. } => {
            expected.iter().find(|cable| cable.node == *node && cable.adapter == *adapter).cloned()
        }
        _ => None,
    };
    let blamed: BTreeSet<Cable> = blamed.into_iter().chain(findings.iter().filter_map(|f| deaf(f))).collect();
    let missing = expected.difference(&blamed).map(|cable| format!("not blamed: {cable}"));
    let invented = blamed.difference(&expected).map(|cable| format!("blamed, but right: {cable}"));
    let beside = findings.iter().filter(|finding| finding.blamed().is_empty() && deaf(finding).is_none());
    let beside = beside.map(|finding| format!("nothing that was done: {finding}"));
    missing.chain(invented).chain(beside).collect()
}

/// What shows that a cable is in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JudgedBy {
    /// A switch belongs to one room.
    Room,
    /// Wiring D: a switch has the NICs of one adapter of every node.
    Adapter,
}

/// The cables that were moved; and the others on a switch where now as many cables of one room as of the other are, so
/// that nobody can tell whose it is. With wiring D, those of an adapter that now is on two switches alike.
fn at_fault(cables: &[LabCable], moved: &[LabCable], judged_by: JudgedBy) -> BTreeSet<Cable> {
    let of_rooms = || cables.iter().filter(|cable| cable.room.is_some());
    let on = |switch: &ChassisId, room: usize| {
        of_rooms().filter(|cable| cable.switch == *switch && cable.room == Some(room)).count()
    };
    let alike = |one: &LabCable| of_rooms().filter(|cable| cable.adapter == one.adapter).count();
    let there = |one: &LabCable| {
        of_rooms().filter(|cable| cable.adapter == one.adapter && cable.switch == one.switch).count()
    };
    let is_tied = |one: &&LabCable| match judged_by {
        JudgedBy::Room => on(&one.switch, 0) == on(&one.switch, 1),
        JudgedBy::Adapter => 2 * there(one) == alike(one),
    };
    let tied: Vec<&LabCable> = moved.iter().filter(is_tied).collect();
    let with_one = |cable: &&LabCable| {
        tied.iter().any(|one| match judged_by {
            JudgedBy::Room => cable.switch == one.switch,
            JudgedBy::Adapter => cable.adapter == one.adapter,
        })
    };
    moved.iter().chain(of_rooms().filter(with_one)).map(Cable::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{MacAddress, Wiring};

    fn cable(room: usize, node: &str, switch: u8, port: &str) -> LabCable {
        LabCable {
            room: Some(room),
            node: node.parse().unwrap(),
            adapter: "Ethernet".parse().unwrap(),
            switch: ChassisId::Mac(MacAddress([2, 0, 0, 0, 0, switch])),
            port: PortId::InterfaceName(port.to_owned()),
        }
    }

    fn connection(cable: &LabCable) -> Connection {
        let LabCable { node, adapter, switch, port, .. } = cable.clone();
        let (zone, switch_name, port_description) = (None, None, None);
        Connection {
            zone,
            node,
            adapter,
            kernel_name: "eth0".into(),
            switch,
            switch_name,
            port,
            port_description,
        }
    }

    fn foreign(blamed: &LabCable, beside: &LabCable) -> WiringFinding {
        let belongs_to = "b".parse().unwrap();
        WiringFinding::OtherZonesSwitch {
            cable: connection(blamed),
            belongs_to,
            other_side: connection(beside),
        }
    }

    /// Two nodes in room 2, one in room 1 whose cable was moved there.
    fn lab() -> [LabCable; 4] {
        [
            cable(0, "a1", 3, "Ethernet1/12"),
            cable(0, "a10", 1, "Ethernet1/1"),
            cable(1, "b1", 3, "Ethernet1/1"),
            cable(1, "b2", 3, "Ethernet1/2"),
        ]
    }

    #[test]
    fn exactly_the_moved_cable_is_right() {
        let cables = lab();
        let moved = &cables[..1];
        let good = foreign(&cables[0], &cables[2]);
        assert_eq!(complaints(&[&good], &cables, moved, JudgedBy::Room), Vec::<String>::new());
        // A name that begins like another, a port that begins like another, and the cable that is only named beside.
        let wrong = [foreign(&cables[1], &cables[0]), foreign(&cables[2], &cables[0])];
        for wrong in &wrong {
            let complaints = complaints(&[wrong], &cables, moved, JudgedBy::Room);
            assert!(
                complaints.iter().any(|word| word.starts_with("not blamed: Ethernet of a1 ")),
                "{complaints:?}"
            );
            assert!(complaints.iter().any(|word| word.starts_with("blamed, but right")), "{complaints:?}");
            assert_eq!(super::complaints(&[&good, wrong], &cables, moved, JudgedBy::Room).len(), 1);
        }
    }

    #[test]
    fn what_was_not_done_is_not_to_be_found() {
        let cables = lab();
        let good = foreign(&cables[0], &cables[2]);
        let other = WiringFinding::OtherWiring { declared: Wiring::A, recognised: Wiring::C };
        let found = complaints(&[&good, &other], &cables, &cables[..1], JudgedBy::Room);
        assert!(found.len() == 1 && found[0].starts_with("nothing that was done"), "{found:?}");
        assert_eq!(complaints(&[], &cables, &[], JudgedBy::Room).len(), 1, "nothing moved proves nothing");
        assert_eq!(complaints(&[], &cables, &cables[..1], JudgedBy::Room).len(), 1);
    }

    #[test]
    fn with_wiring_d_an_adapter_on_two_switches_alike_is_at_fault_on_both() {
        let [moved, _, beside, other] = lab();
        let split = |cables: &[&LabCable]| WiringFinding::SplitZone {
            zone: None,
            adapter: moved.adapter.clone(),
            cables: cables.iter().map(|cable| connection(cable)).collect(),
        };
        let home = LabCable { switch: ChassisId::Mac(MacAddress([2, 0, 0, 0, 0, 1])), ..beside.clone() };
        let judge = |finding: &WiringFinding, cables: &[LabCable]| {
            complaints(&[finding], cables, std::slice::from_ref(&moved), JudgedBy::Adapter)
        };
        let two = [moved.clone(), home.clone()];
        assert_eq!(judge(&split(&[&moved, &home]), &two), Vec::<String>::new());
        assert_eq!(judge(&split(&[&moved]), &two).len(), 1, "nobody can tell which of the two it is");
        let three = [moved.clone(), home.clone(), LabCable { switch: home.switch.clone(), ..other }];
        assert_eq!(judge(&split(&[&moved]), &three), Vec::<String>::new());
    }

    #[test]
    fn where_the_rooms_are_even_both_sides_are_at_fault() {
        let cables = &lab()[..3];
        let moved = &cables[..1];
        let switch = cables[0].switch.clone();
        let both = vec![connection(&cables[0]), connection(&cables[2])];
        let shared = WiringFinding::SharedSwitch { switch: switch.clone(), cables: both };
        assert_eq!(complaints(&[&shared], cables, moved, JudgedBy::Room), Vec::<String>::new());
        let one = WiringFinding::SharedSwitch { switch, cables: vec![connection(&cables[0])] };
        assert_eq!(
            complaints(&[&one], cables, moved, JudgedBy::Room),
            ["not blamed: Ethernet of b1 on switch 02:00:00:00:00:03 port Ethernet1/1"]
        );
    }
}
