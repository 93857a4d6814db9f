//! Physical NICs. What they have of data centre bridging is asked over netlink, by whoever asks for the inventory ([`dcb`]).

use super::tree::Tree;
use crate::ioctl::Interfaces;
use model::{MacAddress, Mtu, Nic, NicDcb};
use network::CurrentLinks;
use rustix::io::Errno;
use std::collections::BTreeSet;
use tracing::warn;

/// Interfaces with a device behind them, but the out-of-band one, sorted by name.
pub(super) fn all(tree: &Tree, out_of_band: Option<MacAddress>) -> Vec<Nic> {
    let ethtool = Interfaces::open().inspect_err(|errno| warn!("no ethtool: {errno}")).ok();
    let rdma = rdma_by_interface(tree);
    let names = tree.entries("sys/class/net").into_iter();
    let physical = names.filter(|name| tree.exists(format!("sys/class/net/{name}/device")));
    let nic = |name: String| {
        let asked = ethtool.as_ref().map(|ethtool| ask(ethtool, &name)).unwrap_or_default();
        read(tree, name, asked, &rdma)
    };
    physical.filter_map(nic).filter(|nic| Some(nic.mac) != out_of_band).collect()
}

/// What a NIC's driver has of data centre bridging, as its link was seen.
pub(crate) fn dcb(nic: &Nic, links: &CurrentLinks) -> NicDcb {
    let name = nic.kernel_name.parse();
    let Some(link) = name.ok().and_then(|name| links.get(&name)) else { return NicDcb::Unknown };
    match &link.traffic.dcb {
        None => NicDcb::NotApplicable,
        Some(dcb) => NicDcb::Has {
            ets_classes: dcb.ets.as_ref().map(|ets| ets.classes),
            pfc_classes: dcb.pfc.map(|pfc| pfc.classes),
        },
    }
}

/// What only ethtool knows.
#[derive(Debug, Default)]
struct Asked {
    permanent_mac: Option<MacAddress>,
    firmware: Option<String>,
}

fn ask(ethtool: &Interfaces, name: &str) -> Asked {
    let told = |errno: &Errno| *errno != Errno::OPNOTSUPP;
    let mac = ethtool.permanent_mac(name).inspect_err(|errno| {
        if told(errno) {
            warn!("permanent MAC address of {name}: {errno}");
        }
    });
    Asked {
        // All zeros: the driver did not fill it in (net/core/dev.c leaves it so for most virtual devices).
        permanent_mac: mac.ok().flatten().filter(|mac| *mac != [0; 6]).map(MacAddress),
        firmware: ethtool.firmware_version(name).ok().and_then(|bytes| firmware(&bytes)),
    }
}

/// A C string of which drivers make `N/A` or nothing when they don't know.
fn firmware(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next()?);
    let text = text.trim();
    (!text.is_empty() && text != "N/A").then(|| text.to_owned())
}

fn read(tree: &Tree, name: String, asked: Asked, rdma: &BTreeSet<String>) -> Option<Nic> {
    let base = format!("sys/class/net/{name}");
    // Not an Ethernet NIC (InfiniBand has 20 bytes): nothing of ours.
    let current: MacAddress = tree.text(format!("{base}/address"))?.parse().ok()?;
    // While it is down the kernel answers carrier and speed with EINVAL; -1 is a speed that nobody knows.
    let speed: Option<i64> = tree.number(format!("{base}/speed"));
    let mtu: Option<u64> = tree.number(format!("{base}/mtu"));
    Some(Nic {
        mac: asked.permanent_mac.unwrap_or(current),
        driver: tree.link_name(format!("{base}/device/driver")),
        pci_address: tree.pci_address(format!("{base}/device")),
        firmware: asked.firmware,
        speed_mbps: speed.and_then(|speed| u32::try_from(speed).ok()).filter(|speed| *speed != 0),
        carrier: tree.number::<u8>(format!("{base}/carrier")).map(|carrier| carrier == 1),
        mtu: mtu.and_then(|mtu| Mtu::try_from(mtu).ok()),
        rdma: rdma.contains(&name),
        dcb: NicDcb::Unknown,
        kernel_name: name,
    })
}

/// Interfaces that an RDMA device stands on: those of its PCI function, or soft-RoCE's parent.
fn rdma_by_interface(tree: &Tree) -> BTreeSet<String> {
    let mut interfaces = BTreeSet::new();
    for device in tree.entries("sys/class/infiniband") {
        let base = format!("sys/class/infiniband/{device}");
        let parent = tree.text(format!("{base}/parent"));
        let siblings = tree.entries(format!("{base}/device/net"));
        interfaces.extend(siblings.into_iter().chain(parent));
    }
    interfaces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// A PCI virtio NIC as sysfs shows it.
    fn add_nic(root: &Path, name: &str, pci: &str, files: &[(&str, &str)]) {
        let device = root.join(format!("sys/devices/pci0000:00/{pci}/virtio0"));
        let interface = device.join("net").join(name);
        fs::create_dir_all(&interface).unwrap();
        fs::create_dir_all(root.join("sys/bus/virtio/drivers/virtio_net")).unwrap();
        symlink(root.join("sys/bus/virtio/drivers/virtio_net"), device.join("driver")).unwrap();
        symlink(&device, interface.join("device")).unwrap();
        fs::create_dir_all(root.join("sys/class/net")).unwrap();
        symlink(&interface, root.join("sys/class/net").join(name)).unwrap();
        for (file, text) in files {
            fs::write(interface.join(file), text).unwrap();
        }
    }

    #[test]
    fn physical_nics_are_read_and_the_way_in_is_not_among_them() {
        let dir = tempfile::tempdir().unwrap();
        let up =
            [("address", "02:00:00:00:00:02\n"), ("speed", "25000\n"), ("carrier", "0\n"), ("mtu", "9000\n")];
        add_nic(dir.path(), "twtest1", "0000:00:04.0", &up);
        let down = [("address", "02:00:00:00:00:01\n"), ("speed", "-1\n"), ("mtu", "65535\n")];
        add_nic(dir.path(), "twtest0", "0000:00:03.0", &down);
        add_nic(dir.path(), "twtest2", "0000:00:05.0", &[("address", "02:00:00:00:00:ff\n")]);
        fs::create_dir_all(dir.path().join("sys/class/net/tw-bond0")).unwrap();
        let roce = dir.path().join("sys/class/infiniband/rxe0");
        fs::create_dir_all(&roce).unwrap();
        fs::write(roce.join("parent"), "twtest1\n").unwrap();
        let nics = all(&Tree::at(dir.path()), Some("02:00:00:00:00:ff".parse().unwrap()));
        insta::assert_json_snapshot!(nics);
    }

    #[test]
    fn firmware_that_nobody_knows_is_none() {
        assert_eq!(firmware(b"14.32.1010 (MT_1)\0\0junk"), Some("14.32.1010 (MT_1)".to_owned()));
        for unknown in [&b"N/A\0"[..], b"\0", b"", b"  \0"] {
            assert_eq!(firmware(unknown), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            firmware(&bytes);
        }
    }
}
