//! Processors, memory, serial number and kernel features.

use super::tree::Tree;
use crate::init::module_paths;
use model::{CpuInfo, MemoryInfo};
use std::collections::BTreeSet;

/// The modules that twinrack uses, in the kernel's spelling (`_` for `-`).
const FEATURES: [&str; 21] = [
    "8021q",
    "bonding",
    "bridge",
    "configfs",
    "dm_mod",
    "dm_multipath",
    "dummy",
    "i6300esb",
    "kvm_amd",
    "kvm_intel",
    "md_mod",
    "nvme",
    "nvme_fabrics",
    "nvme_tcp",
    "nvmet",
    "nvmet_tcp",
    "raid1",
    "rdma_rxe",
    "softdog",
    "vhost_net",
    "tun",
];

/// The serial number that the firmware gives. Only root may read it.
pub(super) fn serial(tree: &Tree) -> Option<String> {
    let serial = tree.text("sys/class/dmi/id/product_serial")?;
    // What board makers leave in when they set nothing.
    let filler =
        ["none", "not specified", "to be filled by o.e.m.", "default string", "system serial number", "0"];
    (!filler.contains(&serial.to_ascii_lowercase().as_str())).then_some(serial)
}

pub(super) fn cpu(tree: &Tree) -> CpuInfo {
    let text = tree.text("proc/cpuinfo").unwrap_or_default();
    CpuInfo {
        model: cpu_model(&text).unwrap_or("unknown").to_owned(),
        threads: text.lines().filter(|line| key(line) == Some("processor")).count(),
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| key(line) == Some("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn key(line: &str) -> Option<&str> {
    Some(line.split_once(':')?.0.trim())
}

pub(super) fn memory(tree: &Tree) -> MemoryInfo {
    let text = tree.text("proc/meminfo").unwrap_or_default();
    MemoryInfo { total_bytes: total_bytes(&text).unwrap_or(0) }
}

/// `MemTotal:  360000 kB`; the unit is always kB, and means 1024 bytes (proc(5)).
fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| key(line) == Some("MemTotal"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Features that are loaded, built in, or there to be loaded.
pub(super) fn features(tree: &Tree, release: &str) -> Vec<String> {
    let text = |path: String| tree.text(path).unwrap_or_default();
    let loaded = text("proc/modules".to_owned());
    let builtin = text(format!("lib/modules/{release}/modules.builtin"));
    let available = text(format!("lib/modules/{release}/modules.dep"));
    let listed = text("lib/modules/modules.load".to_owned());
    let mut there: BTreeSet<String> = BTreeSet::new();
    there.extend(loaded.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned));
    there.extend(available.lines().filter_map(|line| line.split(':').next()).filter_map(module_name));
    there.extend(module_paths(&builtin).chain(module_paths(&listed)).filter_map(module_name));
    let mut features: Vec<_> = FEATURES.into_iter().filter(|name| there.contains(*name)).collect();
    features.sort_unstable();
    features.into_iter().map(str::to_owned).collect()
}

/// `kernel/drivers/md/dm-multipath.ko.xz` is `dm_multipath`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn processors_and_memory_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::at(dir.path());
        assert_eq!(cpu(&tree), CpuInfo { model: "unknown".to_owned(), threads: 0 });
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        let one = "processor\t: 0\nmodel name\t: QEMU TCG CPU: v2\nflags\t\t: fpu\n\n";
        fs::write(dir.path().join("proc/cpuinfo"), format!("{one}{one}")).unwrap();
        fs::write(dir.path().join("proc/meminfo"), "MemTotal:         360000 kB\nMemFree: 1 kB\n").unwrap();
        assert_eq!(cpu(&tree), CpuInfo { model: "QEMU TCG CPU: v2".to_owned(), threads: 2 });
        assert_eq!(memory(&tree).total_bytes, 368_640_000);
    }

    #[test]
    fn features_come_from_everywhere_that_modules_stand() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("proc/modules", "raid1 61440 0 - Live 0x0\nvirtio_net 1 0 - Live 0x0\n"),
            ("lib/modules/6.1/modules.builtin", "kernel/fs/configfs/configfs.ko\n"),
            (
                "lib/modules/6.1/modules.dep",
                "kernel/drivers/md/dm-multipath.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n",
            ),
            ("lib/modules/modules.load", "# order\nlib/modules/6.1/kernel/drivers/md/md-mod.ko\n"),
        ] {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(features(&Tree::at(dir.path()), "6.1"), ["configfs", "dm_multipath", "md_mod", "raid1"]);
    }

    #[test]
    fn a_filler_is_no_serial_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sys/class/dmi/id/product_serial");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (text, expected) in [("TW-0001\n", Some("TW-0001")), ("Default String\n", None), ("\n", None)] {
            fs::write(&file, text).unwrap();
            assert_eq!(serial(&Tree::at(dir.path())).as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(MemTotal|model name|processor)?[: \\t]*.*\n?.*") {
            cpu_model(&text);
            total_bytes(&text);
            module_name(&text);
        }
    }
}
