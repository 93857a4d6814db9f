//! Physical drives.

use super::tree::Tree;
use model::{Drive, DriveClass, DriveSerial};
use std::path::Path;
use tracing::warn;

/// Sysfs counts in sectors of 512 bytes, whatever the drive's are (Documentation/ABI/stable/sysfs-block).
const SECTOR_BYTES: u64 = 512;
/// SCSI peripheral device type of a disk (SPC-4, table 138).
const SCSI_DISK: u8 = 0;

/// Drives of this machine, sorted by serial number.
pub(super) fn all(tree: &Tree) -> Vec<Drive> {
    let mut drives: Vec<_> =
        tree.entries("sys/block").into_iter().filter_map(|name| read(tree, name)).collect();
    drives.sort_by(|a, b| a.serial.cmp(&b.serial));
    drives
}

/// Who a drive says it is.
struct Identity {
    serial: String,
    model: String,
    firmware: Option<String>,
    class: DriveClass,
    /// Where it is attached, a path in sysfs.
    device: String,
    wear_percent: Option<u8>,
    volatile_write_cache: Option<bool>,
}

fn read(tree: &Tree, name: String) -> Option<Drive> {
    let base = format!("sys/block/{name}");
    // A path below a multipath device: the device itself is listed too.
    let hidden = tree.number(format!("{base}/hidden")) == Some(1);
    // Loop, md, dm and the like have no device behind them.
    if hidden || !tree.exists(format!("{base}/device")) {
        return None;
    }
    let identity = if name.starts_with("nvme") {
        nvme_drive(tree, &name)?
    } else if name.starts_with("vd") {
        virtio_drive(tree, &name)
    } else if tree.number(format!("{base}/device/type")) == Some(SCSI_DISK) {
        scsi_drive(tree, &name)
    } else {
        return None;
    };
    let Ok(serial) = identity.serial.parse::<DriveSerial>() else {
        warn!(
            "{name} is left out of the inventory: its serial number `{}` is none",
            identity.serial.escape_debug()
        );
        return None;
    };
    Some(Drive {
        serial,
        model: identity.model,
        firmware: identity.firmware,
        class: identity.class,
        size_bytes: tree.number::<u64>(format!("{base}/size"))?.checked_mul(SECTOR_BYTES)?,
        pci_address: tree.pci_address(identity.device),
        wear_percent: identity.wear_percent,
        volatile_write_cache: identity.volatile_write_cache,
        kernel_name: name,
    })
}

/// An NVMe namespace whose controller is in this machine; `None` if it is another machine's.
fn nvme_drive(tree: &Tree, name: &str) -> Option<Identity> {
    let controller = local_controller(tree, name)?;
    let base = format!("sys/class/nvme/{controller}");
    let sysfs = |file: &str| tree.text(format!("{base}/{file}")).unwrap_or_default();
    let mut identity = Identity {
        serial: sysfs("serial"),
        model: sysfs("model"),
        firmware: tree.text(format!("{base}/firmware_rev")),
        class: DriveClass::Nvme,
        device: base.clone(),
        wear_percent: None,
        volatile_write_cache: None,
    };
    // The kernel's copy is from when it found the controller; the controller itself knows better, if it answers.
    match ask(&tree.path(Path::new("dev").join(&controller))) {
        Ok((told, wear_percent)) => {
            identity.serial = told.serial;
            identity.model = told.model;
            identity.firmware = Some(told.firmware).filter(|firmware| !firmware.is_empty());
            identity.volatile_write_cache = Some(told.has_volatile_cache);
            identity.wear_percent = wear_percent;
        }
        Err(error) => warn!("{controller}: {}", crate::chain(&error)),
    }
    Some(identity)
}

/// What a controller says of itself, and its wear in percent if it has a health log.
fn ask(path: &Path) -> Result<(nvme::Identify, Option<u8>), nvme::NvmeError> {
    let controller = nvme::Controller::open(path)?;
    let identify = controller.identify()?;
    let health = controller.health().inspect_err(|error| warn!("{}", crate::chain(error)));
    Ok((identify, health.ok().map(|health| health.wear_percent)))
}

/// `nvme0n1`'s `device` is its controller, or with multipath its subsystem, which lists the controllers.
fn local_controller(tree: &Tree, name: &str) -> Option<String> {
    let device = format!("sys/block/{name}/device");
    let local =
        |name: &String| tree.text(format!("sys/class/nvme/{name}/transport")).as_deref() == Some("pcie");
    let itself = tree.link_name(&device).into_iter();
    itself.chain(tree.entries(&device)).find(local)
}

fn virtio_drive(tree: &Tree, name: &str) -> Identity {
    let base = format!("sys/block/{name}");
    let cache = tree.text(format!("{base}/cache_type"));
    Identity {
        serial: tree.text(format!("{base}/serial")).unwrap_or_default(),
        model: "virtio".to_owned(),
        firmware: None,
        // The device doesn't tell what it is made of, and the kernel's `rotational` is only its default.
        class: DriveClass::Ssd,
        device: format!("{base}/device"),
        wear_percent: None,
        volatile_write_cache: cache.map(|cache| cache == "write back"),
    }
}

fn scsi_drive(tree: &Tree, name: &str) -> Identity {
    let base = format!("sys/block/{name}");
    let text = |file: &str| tree.text(format!("{base}/device/{file}"));
    let rotational = tree.number(format!("{base}/queue/rotational")) != Some(0);
    Identity {
        serial: tree
            .bytes(format!("{base}/device/vpd_pg80"))
            .map(|page| unit_serial(&page))
            .unwrap_or_default(),
        model: text("model").unwrap_or_default(),
        firmware: text("rev"),
        class: if rotational { DriveClass::Hdd } else { DriveClass::Ssd },
        device: format!("{base}/device"),
        wear_percent: None,
        volatile_write_cache: None,
    }
}

/// The Unit Serial Number page: four bytes of header, the last two of them the length (SPC-4, 7.8.17).
fn unit_serial(page: &[u8]) -> String {
    let Some((&[_, 0x80, high, low], text)) = page.split_first_chunk() else { return String::new() };
    let length = usize::from(u16::from_be_bytes([high, low]));
    nvme::ascii(text.get(..length).unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn directory(&self, path: &str) -> PathBuf {
            let path = self.0.path().join(path);
            fs::create_dir_all(&path).unwrap();
            path
        }

        fn link(&self, from: &str, to: &str) {
            let (parent, name) = from.rsplit_once('/').unwrap();
            symlink(self.directory(to), self.directory(parent).join(name)).unwrap();
        }

        fn files(&self, directory: &str, files: &[(&str, &str)]) {
            for (name, text) in files {
                let (parent, name) = name.rsplit_once('/').unwrap_or(("", name));
                fs::write(self.directory(&format!("{directory}/{parent}")).join(name), text).unwrap();
            }
        }

        fn controller(&self, name: &str, transport: &str, serial: &str, device: &str) {
            self.link(&format!("sys/class/nvme/{name}"), device);
            let files =
                [("transport", transport), ("serial", serial), ("model", "M"), ("firmware_rev", "1.0")];
            self.files(device, &files);
        }
    }

    /// A local drive, a local drive behind a multipath head, a peer's drive, and what is no drive at all.
    fn machine() -> Machine {
        let machine = Machine(tempfile::tempdir().unwrap());
        let plain = "sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0";
        machine.controller("nvme0", "pcie", "TW-B   ", plain);
        machine.files(&format!("{plain}/nvme0n1"), &[("size", "2097152")]);
        machine.link("sys/block/nvme0n1", &format!("{plain}/nvme0n1"));
        machine.link(&format!("{plain}/nvme0n1/device"), plain);

        let (head, port) = (
            "sys/devices/virtual/nvme-subsystem/nvme-subsys1",
            "sys/devices/pci0000:00/0000:00:06.0/nvme/nvme1",
        );
        machine.controller("nvme1", "pcie", "TW-A", port);
        machine.files(&format!("{head}/nvme1n1"), &[("size", "4096")]);
        machine.link("sys/block/nvme1n1", &format!("{head}/nvme1n1"));
        machine.link(&format!("{head}/nvme1n1/device"), head);
        machine.link(&format!("{head}/nvme1"), port);
        machine.files(&format!("{port}/nvme1c1n1"), &[("size", "4096"), ("hidden", "1")]);
        machine.link("sys/block/nvme1c1n1", &format!("{port}/nvme1c1n1"));
        machine.link(&format!("{port}/nvme1c1n1/device"), port);

        let peer = "sys/devices/virtual/nvme-fabrics/ctl/nvme2";
        machine.controller("nvme2", "tcp", "TW-PEER", peer);
        machine.files(&format!("{peer}/nvme2n1"), &[("size", "4096")]);
        machine.link("sys/block/nvme2n1", &format!("{peer}/nvme2n1"));
        machine.link(&format!("{peer}/nvme2n1/device"), peer);
        machine.files("sys/block/loop0", &[("size", "8")]);

        let (disk, scsi) =
            ("sys/block/sda", "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0");
        machine.files(disk, &[("size", "8"), ("queue/rotational", "1")]);
        machine.link(&format!("{disk}/device"), scsi);
        machine.files(scsi, &[("type", "0"), ("model", "ST1  "), ("rev", "0001"), ("vpd_pg80", "\0\u{0}")]);
        fs::write(machine.0.path().join(scsi).join("vpd_pg80"), b"\0\x80\0\x04Z123junk").unwrap();
        machine.files("sys/block/vda", &[("size", "16"), ("serial", ""), ("cache_type", "write back")]);
        machine.link("sys/block/vda/device", "sys/devices/pci0000:00/0000:00:07.0/virtio3");
        machine
    }

    #[test]
    fn local_drives_are_read_and_everything_else_is_left_out() {
        let machine = machine();
        insta::assert_json_snapshot!(all(&Tree::at(machine.0.path())));
    }

    #[test]
    fn unit_serial_pages_are_read_as_far_as_they_go() {
        assert_eq!(unit_serial(b"\0\x80\0\x04Z123junk"), "Z123");
        assert_eq!(unit_serial(b"\0\x80\xff\xffZ123"), "Z123");
        assert_eq!(unit_serial(b"\0\x83\0\x04Z123"), "");
        assert_eq!(unit_serial(b"\0\x80\0"), "");
    }

    proptest! {
        #[test]
        fn no_page_panics(page: Vec<u8>) {
            unit_serial(&page);
        }
    }
}
