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
) -> Vec<String> {
    if moved.is_empty() {
        return vec!["no cable was moved, so there is nothing to refuse".to_owned()];
    }
    let expected = at_fault(cables, moved);
    let blamed: BTreeSet<Cable> =
        findings.iter().flat_map(|finding| finding.blamed()).map(Cable::from).collect();
    let missing = expected.difference(&blamed).map(|cable| format!("not blamed: {cable}"));
    let invented = blamed.difference(&expected).map(|cable| format!("blamed, but right: {cable}"));
    let beside = findings.iter().filter(|finding| finding.blamed().is_empty());
    let beside = beside.map(|finding| format!("nothing that was done: {finding}"));
    missing.chain(invented).chain(beside).collect()
}

/// The cables that were moved; and the others on a switch where now as many cables of one room as of the other are, so
/// that nobody can tell whose it is.
fn at_fault(cables: &[LabCable], moved: &[LabCable]) -> BTreeSet<Cable> {
    let on = |switch: &ChassisId, room: usize| {
        cables.iter().filter(|cable| cable.switch == *switch && cable.room == Some(room)).count()
    };
    let tied: BTreeSet<&ChassisId> =
        moved.iter().map(|cable| &cable.switch).filter(|switch| on(switch, 0) == on(switch, 1)).collect();
    let alike = cables.iter().filter(|cable| tied.contains(&cable.switch) && cable.room.is_some());
    moved.iter().chain(alike).map(Cable::from).collect()
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
        assert_eq!(complaints(&[&good], &cables, moved), Vec::<String>::new());
        // A name that begins like another, a port that begins like another, and the cable that is only named beside.
        let wrong = [foreign(&cables[1], &cables[0]), foreign(&cables[2], &cables[0])];
        for wrong in &wrong {
            let complaints = complaints(&[wrong], &cables, moved);
            assert!(
                complaints.iter().any(|word| word.starts_with("not blamed: Ethernet of a1 ")),
                "{complaints:?}"
            );
            assert!(complaints.iter().any(|word| word.starts_with("blamed, but right")), "{complaints:?}");
            assert_eq!(super::complaints(&[&good, wrong], &cables, moved).len(), 1);
        }
    }

    #[test]
    fn what_was_not_done_is_not_to_be_found() {
        let cables = lab();
        let good = foreign(&cables[0], &cables[2]);
        let other = WiringFinding::OtherWiring { declared: Wiring::A, recognised: Wiring::C };
        let found = complaints(&[&good, &other], &cables, &cables[..1]);
        assert!(found.len() == 1 && found[0].starts_with("nothing that was done"), "{found:?}");
        assert_eq!(complaints(&[], &cables, &[]).len(), 1, "nothing moved proves nothing");
        assert_eq!(complaints(&[], &cables, &cables[..1]).len(), 1);
    }

    #[test]
    fn where_the_rooms_are_even_both_sides_are_at_fault() {
        let cables = &lab()[..3];
        let moved = &cables[..1];
        let switch = cables[0].switch.clone();
        let both = vec![connection(&cables[0]), connection(&cables[2])];
        let shared = WiringFinding::SharedSwitch { switch: switch.clone(), cables: both };
        assert_eq!(complaints(&[&shared], cables, moved), Vec::<String>::new());
        let one = WiringFinding::SharedSwitch { switch, cables: vec![connection(&cables[0])] };
        assert_eq!(
            complaints(&[&one], cables, moved),
            ["not blamed: Ethernet of b1 on switch 02:00:00:00:00:03 port Ethernet1/1"]
        );
    }
}
