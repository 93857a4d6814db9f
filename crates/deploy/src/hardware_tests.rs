//! One machine made wrong at a time breaks that rule and no other; so does one measurement.

use super::*;
use crate::isolation::unanswered;
use crate::pool::PoolError;
use crate::{Crossing, Over, RoundTrip};
use api::{ClientError, Failure, PingAnswer};
use model::rules::Checked;
use model::{CpuInfo, KernelInfo, MacAddress, MemoryInfo, Mtu, NicDcb, StorageNetworkIndex};
use network::measure::bandwidth::Carried;
use network::measure::latency::{self, Way};

const TEMPLATE: &str = include_str!("../../../hil/templates/2+2.toml");
const GIB: u64 = 1 << 30;

fn spec() -> ClusterSpec {
    let source = template::Source::new("2+2.toml", TEMPLATE);
    let mut spec = template::read(&source, &template::ReadOptions::default()).unwrap().spec.unwrap();
    for intent in &mut spec.intents {
        intent.rdma = Some(model::RdmaTechnology::RoCEv2);
    }
    spec
}

/// A machine, and which of its NICs are which adapters.
#[derive(Clone)]
struct Machine {
    node: NodeName,
    adapters: AdapterMap,
    inventory: Inventory,
    data_drives: BTreeSet<DriveSerial>,
}

impl Machine {
    fn nic(&mut self, adapter: &str) -> &mut Nic {
        let mac = self.adapters[&adapter.parse().unwrap()];
        self.inventory.nics.iter_mut().find(|nic| nic.mac == mac).unwrap()
    }
}

/// Four nodes that are all alike: four NICs of 25 Gb/s with RDMA, a boot drive, and two data drives of different sizes.
fn machines() -> Vec<Machine> {
    let spec = spec();
    let machine = |(number, node): (u8, &model::Node)| {
        let adapters: AdapterMap = (0..)
            .zip(spec.adapters())
            .map(|(at, name)| (name.clone(), MacAddress([2, 0, 0, 0, number, at])))
            .collect();
        let nic = |mac: &MacAddress| Nic {
            kernel_name: format!("eth{}", mac.0[5]),
            mac: *mac,
            driver: Some("mlx5_core".into()),
            pci_address: None,
            firmware: None,
            speed_mbps: Some(25_000),
            carrier: Some(true),
            mtu: None,
            rdma: true,
            dcb: NicDcb::Unknown,
        };
        let serial = |name: &str| -> DriveSerial { format!("{name}{number}").parse().unwrap() };
        let drive = |name: &str, size_bytes| Drive {
            kernel_name: name.to_lowercase(),
            serial: serial(name),
            model: "any".into(),
            firmware: None,
            class: DriveClass::Nvme,
            size_bytes,
            pci_address: None,
            wear_percent: None,
            volatile_write_cache: None,
        };
        Machine {
            node: node.name.clone(),
            inventory: Inventory {
                node: node.name.clone(),
                machine_serial: None,
                cpu: CpuInfo { model: "any".into(), threads: 1 },
                memory: MemoryInfo { total_bytes: GIB },
                nics: adapters.values().map(nic).collect(),
                drives: vec![drive("BOOT", GIB), drive("SMALL", 100 * GIB), drive("LARGE", 200 * GIB)],
                kernel: KernelInfo { release: "6.1".into(), boot_id: "x".into(), features: vec![] },
            },
            data_drives: [serial("SMALL"), serial("LARGE")].into(),
            adapters,
        }
    };
    (1..).zip(spec.nodes().map(|(_, node)| node)).map(machine).collect()
}

fn found(machines: &[Machine]) -> Vec<HardwareFinding> {
    let nodes = machines.iter().map(|machine| NodeHardware {
        node: machine.node.clone(),
        adapters: &machine.adapters,
        inventory: &machine.inventory,
        data_drives: machine.data_drives.clone(),
    });
    check(&spec(), &nodes.collect::<Vec<_>>())
}

type Change = fn(&mut [Machine]);

/// A rule, what is done to the machines, and what is named.
const CASES: &[(&Rule, Change, &str)] = &[
    (rules::NIC_MISSING, |m| m[1].adapters.retain(|name, _| name.as_str() != "mgmt2"), "adapter `mgmt2`"),
    (rules::NIC_MISSING, |m| m[2].inventory.nics.retain(|nic| nic.mac.0[5] != 1), "has no NIC"),
    (rules::NIC_SPEEDS_DIFFER, |m| m[3].nic("mgmt1").speed_mbps = Some(1000), "25000 Mb/s on"),
    (rules::NIC_DRIVERS_DIFFER, |m| m[1].nic("storage2").driver = Some("ice".into()), "and ice on"),
    (rules::NIC_RDMA_DIFFERS, |m| m[2].nic("storage1").rdma = false, "adapter `storage1` has RDMA on"),
    (
        rules::NIC_RDMA_MISSING,
        |m| m.iter_mut().for_each(|machine| machine.nic("storage1").rdma = false),
        "adapter `storage1` of intent",
    ),
    (rules::NIC_TOO_SLOW, |m| all_storage(m, Some(1000)), "has 1 Gb/s"),
    (rules::NIC_BELOW_RECOMMENDED, |m| all_storage(m, Some(10_000)), "has 10 Gb/s"),
    (rules::NIC_SPEED_UNKNOWN, |m| m[0].nic("storage1").speed_mbps = None, "storage1"),
    (rules::STORAGE_NIC_SPEEDS_DIFFER, |m| m[0].nic("storage1").speed_mbps = Some(40_000), "has 40 Gb/s"),
    (rules::DRIVE_NONE, |m| m[1].data_drives.clear(), "no data drive"),
    (rules::DRIVE_MISSING, |m| m[1].inventory.drives.truncate(2), "LARGE2"),
    (rules::DRIVE_NOT_FLASH, |m| m[1].inventory.drives[1].class = DriveClass::Hdd, "drive SMALL2"),
    (rules::DRIVE_COUNTS_DIFFER, |m| drop(m[1].data_drives.pop_first()), "2 data drives"),
    (rules::DRIVE_CLASSES_DIFFER, |m| m[3].inventory.drives[2].class = DriveClass::Ssd, "1 NVMe, 1 SSD"),
    (rules::DRIVE_SIZES_DIFFER, |m| m[3].inventory.drives[2].size_bytes = 179 * GIB, "drive LARGE4"),
    (rules::DRIVE_SIZES_DIFFER, |m| m[0].inventory.drives[1].size_bytes = 112 * GIB, "drive SMALL1"),
];

fn all_storage(machines: &mut [Machine], speed_mbps: Option<u32>) {
    for machine in machines {
        for adapter in ["storage1", "storage2"] {
            machine.nic(adapter).speed_mbps = speed_mbps;
        }
    }
}

/// Rules whose violations are made by hand, below.
fn by_hand() -> Vec<(&'static Rule, String)> {
    let trip = |filled| RoundTrip {
        from: "a1".parse().unwrap(),
        to: "b1".parse().unwrap(),
        over: Over::Storage(StorageNetworkIndex::try_from(1).unwrap()),
        filled,
        answer: answer(1),
    };
    let crossing = Crossing {
        from: "a1".parse().unwrap(),
        to: "b1".parse().unwrap(),
        network: StorageNetworkIndex::try_from(1).unwrap(),
        source: "10.71.2.1".parse().unwrap(),
        device: None,
        target: "10.71.1.3".parse().unwrap(),
        answer: answer(1),
    };
    let refused = PoolError::NotClaimed {
        serial: "SMALL1".parse().unwrap(),
        source: Box::new(ClientError::Request {
            node: "a1".parse().unwrap(),
            address: "10.10.7.11:7117".parse().unwrap(),
            request: "POST /v1/drives".into(),
            failure: Box::new(Failure::TimedOut { after: std::time::Duration::from_secs(1) }),
        }),
    };
    let told = |rule: &'static Rule, words: String| (rule, words);
    let mut all = vec![
        told(trip(None).rule(), trip(None).to_string()),
        told(trip(Some(Mtu::JUMBO)).rule(), trip(Some(Mtu::JUMBO)).to_string()),
        told(crossing.rule(), crossing.to_string()),
        told(refused.rule().unwrap(), refused.to_string()),
    ];
    let way = |answered, median_us| Way {
        from: "a1".parse().unwrap(),
        to: "b1".parse().unwrap(),
        network: StorageNetworkIndex::try_from(1).unwrap(),
        between_rooms: true,
        answered,
        median_us: Some(median_us),
    };
    for way in [way(199, 10), way(200, 1001)] {
        let judged = latency::judge(&[way], Machines::Real).findings;
        all.extend(judged.iter().map(|finding| told(finding.rule(), finding.to_string())));
    }
    let carried = Carried { from_zone: "a".into(), to_zone: "b".into(), bits_per_s: 1 };
    let asked = bandwidth::Rule { nodes_per_zone: 1, ports_per_node: 2, nic_mbps: Some(25_000) };
    let judged = bandwidth::check(asked, &[], &[carried]);
    all.extend(judged.iter().map(|finding| told(finding.rule(), finding.to_string())));
    all
}

fn answer(lost: u32) -> PingAnswer {
    PingAnswer { sent: 3, received: 3 - lost, lost, ..unanswered() }
}

#[test]
fn machines_that_are_alike_break_no_rule() {
    assert_eq!(found(&machines()), []);
}

#[test]
fn each_difference_is_told_by_its_rule_alone() {
    for (rule, change, named) in CASES {
        let mut machines = machines();
        change(&mut machines);
        let findings = found(&machines);
        assert!(!findings.is_empty(), "{}", rule.id);
        for finding in &findings {
            let message = finding.to_string();
            assert_eq!(finding.rule(), *rule, "{message}");
            assert!(rule.has_form(&message), "{}: {message}", rule.id);
            assert_eq!(finding.diagnostic(Machines::Real).severity, rule.severity, "{message}");
        }
        let message = findings[0].to_string();
        assert!(message.contains(named), "{}: {message}", rule.id);
    }
}

#[test]
fn what_differs_by_no_more_than_a_tenth_or_is_not_told_is_no_difference() {
    let mut machines = machines();
    machines[3].inventory.drives[2].size_bytes = 180 * GIB;
    machines[2].nic("mgmt1").speed_mbps = None;
    machines[1].nic("mgmt2").driver = None;
    machines[0].inventory.drives[0].class = DriveClass::Hdd; // where it boots from is its own affair
    assert_eq!(found(&machines), []);
}

#[test]
fn a_node_that_differs_from_all_others_is_one_finding() {
    let mut machines = machines();
    machines[0].nic("mgmt1").speed_mbps = Some(10_000);
    let findings = found(&machines);
    assert_eq!(
        findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["adapter `mgmt1` has 10000 Mb/s on a1 and 25000 Mb/s on a2"]
    );
}

#[test]
fn on_emulated_machines_speeds_and_rdma_are_notes() {
    let mut machines = machines();
    all_storage(&mut machines, Some(100));
    for machine in &mut machines {
        machine.nic("storage1").rdma = false;
    }
    assert!(found(&machines).iter().all(|finding| finding.severity(Machines::Emulated) == Severity::Note));
}

#[test]
fn every_rule_on_machines_and_measurements_is_broken_here_in_its_own_words() {
    let by_hand = by_hand();
    for (rule, message) in &by_hand {
        assert!(rule.has_form(message), "{}: {message}", rule.id);
    }
    let broken = |rule: &Rule| {
        CASES.iter().any(|(of_case, ..)| *of_case == rule)
            || by_hand.iter().any(|(of_hand, _)| *of_hand == rule)
    };
    for rule in rules::all().filter(|rule| matches!(rule.checked, Checked::Inventory | Checked::Measurement))
    {
        assert!(broken(rule), "{} is broken by no test", rule.id);
    }
}
