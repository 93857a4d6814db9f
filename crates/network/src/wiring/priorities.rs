//! What ports of storage NICs say of priorities (DCBX: ETS, PFC), against what the intents ask for.
//!
//! A switch that says nothing of it is let pass with a note: most are not set up to say it. What one does say is held
//! against the template: storage in a traffic class of its own with at least its share, heartbeats the same with at least
//! [`HEARTBEAT_MIN_PERCENT`], storage's priority paused rather than lost, and no other.
//!
//! Only where RDMA over Ethernet was asked for is a missing pause an error: that loses its connections without it. TCP is
//! slower then, and no more; so all else is a warning.

use super::{Connection, WiringFinding};
use crate::lldp::{Ets, Lldpdu, Pfc, Selection};
use model::{Priority, Qos, RdmaTechnology};

/// The smallest share of heartbeats, percent: 2 up to 10 Gb/s and 1 above (spec.md); a port doesn't say its speed.
const HEARTBEAT_MIN_PERCENT: u8 = 1;

/// Says what is wrong with the port of a NIC that carries storage.
pub(super) fn check(
    qos: Qos,
    rdma: Option<RdmaTechnology>,
    seen: &Lldpdu,
    cable: &Connection,
    findings: &mut Vec<WiringFinding>,
) {
    match seen.pfc {
        Some(pfc) => check_pfc(qos, rdma, pfc, cable, findings),
        None => findings.push(WiringFinding::PfcUnknown { cable: cable.clone() }),
    }
    match &seen.ets {
        Some(ets) => check_ets(qos, ets, cable, findings),
        None => findings.push(WiringFinding::EtsUnknown { cable: cable.clone() }),
    }
}

fn check_pfc(
    qos: Qos,
    rdma: Option<RdmaTechnology>,
    pfc: Pfc,
    cable: &Connection,
    findings: &mut Vec<WiringFinding>,
) {
    let paused: Vec<Priority> = priorities().filter(|priority| pfc.pauses(*priority)).collect();
    if !paused.contains(&qos.storage_priority) {
        findings.push(WiringFinding::PfcOff {
            cable: cable.clone(),
            priority: qos.storage_priority,
            needed: rdma == Some(RdmaTechnology::RoCEv2),
        });
    }
    let others: Vec<Priority> = paused.into_iter().filter(|paused| *paused != qos.storage_priority).collect();
    if !others.is_empty() {
        findings.push(WiringFinding::PfcOnOthers { cable: cable.clone(), priorities: others });
    }
}

fn check_ets(qos: Qos, ets: &Ets, cable: &Connection, findings: &mut Vec<WiringFinding>) {
    let class_of = |priority: Priority| ets.class_of.get(usize::from(priority.get())).copied();
    for (priority, asked_percent) in [
        (qos.storage_priority, qos.storage_bandwidth_percent),
        (qos.heartbeat_priority, HEARTBEAT_MIN_PERCENT),
    ] {
        let Some(class) = class_of(priority) else { continue };
        let others: Vec<Priority> =
            priorities().filter(|other| *other != priority && class_of(*other) == Some(class)).collect();
        if !others.is_empty() {
            findings.push(WiringFinding::EtsClassShared { cable: cable.clone(), priority, class, others });
        }
        let at = usize::from(class);
        // A class that is served before all others has no share; of a vendor's own way nothing is known.
        let is_by_share = ets.selection.get(at).is_none_or(|selection| *selection == Selection::Ets);
        let percent = ets.bandwidth_percent.get(at).copied().unwrap_or(0);
        if is_by_share && percent < asked_percent {
            findings.push(WiringFinding::EtsShareTooSmall {
                cable: cable.clone(),
                priority,
                percent,
                asked_percent,
            });
        }
    }
}

fn priorities() -> impl Iterator<Item = Priority> {
    (0..8u64).filter_map(|number| Priority::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;
    use crate::testing::{cabling, spec};
    use model::{ClusterSpec, Severity};

    /// What is found when every storage port says this.
    fn found(
        spec: &ClusterSpec,
        change: impl Fn(&mut Option<Ets>, &mut Option<Pfc>),
    ) -> Vec<(Severity, String)> {
        let mut cabling = cabling(spec);
        for nic in cabling.iter_mut().flat_map(|node| &mut node.nics[2..]) {
            let lldpdu = &mut nic.neighbour.as_mut().unwrap().lldpdu;
            change(&mut lldpdu.ets, &mut lldpdu.pfc);
        }
        let said = check(spec, &cabling);
        assert!(said.iter().all(|finding| !finding.help().is_empty() && finding.blamed().len() == 1));
        assert_eq!(said.len() % 4, 0, "each of four ports: {said:?}");
        let of_one_port = said.iter().take(said.len() / 4);
        of_one_port.map(|finding| (finding.severity(), format!("{}: {finding}", finding.id()))).collect()
    }

    fn only(found: &[(Severity, String)]) -> (Severity, String) {
        let [one] = found else { panic!("{found:?}") };
        one.clone()
    }

    const CABLE: &str = "n1 Ethernet 3 (eth2) on switch tor1 (02:00:00:00:ff:01) port Ethernet1/12";

    #[test]
    fn what_the_intents_ask_for_is_nothing_to_tell() {
        assert_eq!(found(&spec(1), |_, _| ()), []);
    }

    #[test]
    fn who_says_nothing_gets_a_note() {
        let silent = found(&spec(1), |ets, pfc| (*ets, *pfc) = (None, None));
        assert_eq!(
            silent,
            [
                (
                    Severity::Note,
                    format!("lldp.pfc-unknown: {CABLE}: the switch does not say what it pauses (PFC)")
                ),
                (
                    Severity::Note,
                    format!(
                        "lldp.ets-unknown: {CABLE}: the switch does not say how it shares the port (ETS)"
                    )
                ),
            ]
        );
    }

    #[test]
    fn storage_that_is_not_paused_is_a_warning_and_with_rdma_over_ethernet_an_error() {
        let off = |_: &mut Option<Ets>, pfc: &mut Option<Pfc>| pfc.as_mut().unwrap().enabled = 0;
        let mut spec = spec(1);
        let said = format!("lldp.pfc-off: {CABLE}: the port does not pause priority 3, which is storage's");
        assert_eq!(only(&found(&spec, off)), (Severity::Warning, said.clone()));
        let storage = spec.intents.iter_mut().find(|i| i.carries(model::TrafficClass::Storage)).unwrap();
        storage.rdma = Some(RdmaTechnology::RoCEv2);
        assert_eq!(only(&found(&spec, off)), (Severity::Error, said));
    }

    #[test]
    fn other_priorities_are_not_to_be_paused() {
        let all = found(&spec(1), |_, pfc| pfc.as_mut().unwrap().enabled = 0b1000_1001);
        let said =
            format!("lldp.pfc-on-others: {CABLE}: the port pauses priority 0, 7, which are not storage's");
        assert_eq!(only(&all), (Severity::Warning, said));
    }

    #[test]
    fn a_share_below_what_was_asked_is_told_with_both() {
        let small =
            found(&spec(1), |ets, _| ets.as_mut().unwrap().bandwidth_percent = [61, 38, 1, 0, 0, 0, 0, 0]);
        let said = format!(
            "lldp.ets-share-too-small: {CABLE}: priority 3 has 38 percent of the port, and is to have 50"
        );
        assert_eq!(only(&small), (Severity::Warning, said));
        let no_heartbeat =
            found(&spec(1), |ets, _| ets.as_mut().unwrap().bandwidth_percent = [50, 50, 0, 0, 0, 0, 0, 0]);
        assert!(only(&no_heartbeat).1.contains("priority 7 has 0 percent of the port, and is to have 1"));
    }

    #[test]
    fn a_class_that_goes_before_all_others_needs_no_share() {
        let strict = found(&spec(1), |ets, _| {
            let ets = ets.as_mut().unwrap();
            ets.bandwidth_percent = [50, 50, 0, 0, 0, 0, 0, 0];
            ets.selection[2] = Selection::Strict;
        });
        assert_eq!(strict, []);
    }

    #[test]
    fn a_class_that_storage_shares_is_none_of_its_own() {
        let shared = found(&spec(1), |ets, _| ets.as_mut().unwrap().class_of = [1, 1, 0, 1, 0, 0, 0, 2]);
        let said =
            format!("lldp.ets-class-shared: {CABLE}: priority 3 shares traffic class 1 with priority 0, 1");
        assert_eq!(only(&shared), (Severity::Warning, said));
    }

    #[test]
    fn a_class_that_can_not_be_has_no_share() {
        let odd = found(&spec(1), |ets, _| ets.as_mut().unwrap().class_of[3] = 15);
        assert!(only(&odd).1.contains("priority 3 has 0 percent"));
    }
}
