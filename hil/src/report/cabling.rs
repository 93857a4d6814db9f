//! `cabling.json`: what every NIC heard from its switch, who is cabled to whom, and what is wrong with it.

use super::WriteError;
use deploy::Cabling;
use network::wiring::{CablingMaps, NodeCabling};
use serde::Serialize;
use std::path::Path;

/// The version of the schema of `cabling.json`.
pub const CABLING_SCHEMA: &str = "twinrack.hil.cabling/1";

/// The file's name.
pub const CABLING: &str = "cabling.json";

#[derive(Serialize)]
struct CablingFile<'a> {
    schema: &'static str,
    wiring: String,
    findings: Vec<model::Diagnostic>,
    #[serde(flatten)]
    maps: &'a CablingMaps,
    neighbours: &'a [NodeCabling],
}

/// The file's text.
pub(super) fn cabling_json(cabling: &Cabling) -> String {
    let file = CablingFile {
        schema: CABLING_SCHEMA,
        wiring: cabling.wiring.to_string(),
        findings: cabling.findings.iter().map(network::wiring::WiringFinding::diagnostic).collect(),
        maps: &cabling.maps,
        neighbours: &cabling.seen,
    };
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}

/// Writes it into the run's folder.
pub fn write_cabling(cabling: &Cabling, dir: &Path) -> Result<(), WriteError> {
    let path = dir.join(CABLING);
    std::fs::write(&path, cabling_json(cabling)).map_err(|source| WriteError { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{MacAddress, TrafficClass};
    use network::lldp::{ChassisId, Lldpdu, PortId};
    use network::wiring::{Neighbour, NicCabling, Recognised, WiringFinding, maps};

    fn nic(adapter: &str, last: u8, neighbour: Option<Neighbour>) -> NicCabling {
        NicCabling {
            adapter: adapter.parse().unwrap(),
            kernel_name: format!("eth{last}"),
            mac: MacAddress([2, 0, 0, 0, 1, last]),
            traffic: [TrafficClass::Storage].into(),
            neighbour,
        }
    }

    fn cabling() -> Cabling {
        let chassis = ChassisId::Mac(MacAddress([2, 0, 0, 0, 0xff, 1]));
        let mut lldpdu = Lldpdu::new(chassis, PortId::InterfaceName("Ethernet1/1".to_owned()), 120);
        lldpdu.system_name = Some("tor1".to_owned());
        let heard = Some(Neighbour { lldpdu, received_age_ms: 10 });
        let seen = vec![NodeCabling {
            zone: Some("a".parse().unwrap()),
            node: "a1".parse().unwrap(),
            nics: vec![nic("Ethernet 3", 3, heard), nic("Ethernet 4", 4, None)],
        }];
        let findings = vec![WiringFinding::NoNeighbour {
            node: "a1".parse().unwrap(),
            adapter: "Ethernet 4".parse().unwrap(),
            kernel_name: "eth4".to_owned(),
            last_heard_ms: None,
        }];
        let wiring = Recognised::Unknown { why: "a1 Ethernet 4 hears no switch".to_owned() };
        Cabling { maps: maps(&seen), wiring, findings, seen }
    }

    #[test]
    fn all_maps_and_what_was_heard_are_in_one_file() {
        insta::assert_snapshot!(cabling_json(&cabling()));
    }

    #[test]
    fn the_file_is_where_the_report_is() {
        let dir = tempfile::tempdir().unwrap();
        write_cabling(&cabling(), dir.path()).unwrap();
        let text = std::fs::read(dir.path().join(CABLING)).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(file["schema"], CABLING_SCHEMA);
        assert_eq!(file["node_to_switch"]["a1"].as_object().unwrap().len(), 1);
        assert_eq!(file["neighbours"][0]["nics"].as_array().unwrap().len(), 2);
        assert!(write_cabling(&cabling(), &dir.path().join("nowhere")).is_err());
    }
}
