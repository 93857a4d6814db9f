//! What a node says it has, held against what the lab gave it. Pure.

use crate::lab::NodeHardware;
use model::{DriveClass, Inventory, NicDcb};
use std::collections::BTreeSet;

/// The driver of the lab's NICs.
const NIC_DRIVER: &str = "virtio_net";
/// The least part of a node's memory that its kernel must find, percent: it keeps some for itself.
const MEMORY_PERCENT_MIN: u64 = 80;

/// Every difference, in words.
pub(super) fn mismatches(built: &NodeHardware, found: &Inventory) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |what: String, expected: String, found: String| {
        if expected != found {
            wrong.push(format!("{}: {what}: the lab built {expected}, the node says {found}", built.name));
        }
    };
    expect("name".into(), built.name.to_string(), found.node.to_string());
    expect("serial".into(), built.serial.clone(), found.machine_serial.clone().unwrap_or_default());
    expect("processors".into(), "1".into(), found.cpu.threads.to_string());
    let macs = |macs: BTreeSet<String>| macs.into_iter().collect::<Vec<_>>().join(" ");
    expect(
        "NICs".into(),
        macs(built.nics.iter().map(ToString::to_string).collect()),
        macs(found.nics.iter().map(|nic| nic.mac.to_string()).collect()),
    );
    for nic in &found.nics {
        expect(format!("{} driver", nic.mac), NIC_DRIVER.into(), nic.driver.clone().unwrap_or_default());
        let speed = nic.speed_mbps.map(|speed| speed.to_string()).unwrap_or_default();
        expect(format!("{} speed", nic.mac), built.nic_speed_mbps.to_string(), speed);
        expect(format!("{} DCB", nic.mac), NicDcb::NotApplicable.to_string(), nic.dcb.to_string());
    }
    let built_drives: BTreeSet<String> = built
        .drives
        .iter()
        .map(|(serial, bytes)| format!("{serial}:{bytes}:{:?}", DriveClass::Nvme))
        .collect();
    let found_drives: BTreeSet<String> = found
        .drives
        .iter()
        .map(|drive| format!("{}:{}:{:?}", drive.serial, drive.size_bytes, drive.class))
        .collect();
    expect("drives".into(), macs(built_drives), macs(found_drives));
    let all = u64::from(built.memory_mib) << 20;
    if found.memory.total_bytes > all || found.memory.total_bytes < all / 100 * MEMORY_PERCENT_MIN {
        let found_mib = found.memory.total_bytes >> 20;
        wrong.push(format!(
            "{}: memory: the lab built {} MiB, the node says {found_mib}",
            built.name, built.memory_mib
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{CpuInfo, Drive, KernelInfo, MemoryInfo, Nic};

    type Change = fn(&mut Inventory);

    fn built() -> NodeHardware {
        NodeHardware {
            name: "a1".parse().unwrap(),
            serial: "TR1".into(),
            memory_mib: 384,
            nic_speed_mbps: 25000,
            nics: vec!["02:00:00:00:00:01".parse().unwrap()],
            drives: vec![("NV1".parse().unwrap(), 1 << 30)],
        }
    }

    fn found() -> Inventory {
        Inventory {
            node: "a1".parse().unwrap(),
            machine_serial: Some("TR1".into()),
            cpu: CpuInfo { model: "any".into(), threads: 1 },
            memory: MemoryInfo { total_bytes: 350 << 20 },
            nics: vec![Nic {
                kernel_name: "eth0".into(),
                mac: "02:00:00:00:00:01".parse().unwrap(),
                driver: Some("virtio_net".into()),
                pci_address: None,
                firmware: None,
                speed_mbps: Some(25000),
                carrier: Some(true),
                mtu: None,
                rdma: false,
                dcb: NicDcb::NotApplicable,
            }],
            drives: vec![Drive {
                kernel_name: "nvme0n1".into(),
                serial: "NV1".parse().unwrap(),
                model: "any".into(),
                firmware: None,
                class: DriveClass::Nvme,
                size_bytes: 1 << 30,
                pci_address: None,
                wear_percent: None,
                volatile_write_cache: None,
            }],
            kernel: KernelInfo { release: "6.1".into(), boot_id: "x".into(), features: vec![] },
        }
    }

    #[test]
    fn what_is_as_built_is_right() {
        assert_eq!(mismatches(&built(), &found()), Vec::<String>::new());
    }

    #[test]
    fn each_difference_is_named() {
        let changes: [(&str, Change); 9] = [
            ("serial", |i| i.machine_serial = None),
            ("processors", |i| i.cpu.threads = 2),
            ("NICs", |i| i.nics.clear()),
            ("driver", |i| i.nics[0].driver = Some("e1000".into())),
            ("speed", |i| i.nics[0].speed_mbps = Some(10000)),
            ("DCB", |i| i.nics[0].dcb = NicDcb::Unknown),
            ("drives", |i| i.drives[0].size_bytes = 7),
            ("drives", |i| i.drives[0].class = DriveClass::Hdd),
            ("memory", |i| i.memory.total_bytes = 100 << 20),
        ];
        for (what, change) in changes {
            let mut inventory = found();
            change(&mut inventory);
            let wrong = mismatches(&built(), &inventory);
            assert!(wrong.len() == 1 && wrong[0].contains(what), "{what}: {wrong:?}");
        }
    }
}
