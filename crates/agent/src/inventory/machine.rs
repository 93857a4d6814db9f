//! Processors, memory, serial number and kernel features.

use super::tree::Tree;
use crate::init::module_paths;
use model::{CpuInfo, MemoryInfo};
use std::collections::BTreeSet;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

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

/// Processors and memory. Of a machine without `/proc` neither is known.
pub(super) fn cpu_and_memory() -> (CpuInfo, MemoryInfo) {
    let wanted = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(wanted)
        .inspect_err(|error| tracing::warn!(%error, "cannot tell processors and memory"))
        .ok();
    let cpus = system.as_ref().map_or(&[][..], System::cpus);
    let brand = cpus.first().map(|cpu| cpu.brand().trim()).filter(|brand| !brand.is_empty());
    let cpu = CpuInfo { model: brand.unwrap_or("unknown").to_owned(), threads: cpus.len() };
    (cpu, MemoryInfo { total_bytes: system.as_ref().map_or(0, System::total_memory) })
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
    fn processors_and_memory_are_those_that_the_kernel_tells() {
        let (cpu, memory) = cpu_and_memory();
        let lines = |path, word: &str| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect::<Vec<_>>()
        };
        let models = lines("/proc/cpuinfo", "model name");
        assert_eq!(cpu.threads, lines("/proc/cpuinfo", "processor").len());
        assert_eq!(models[0].split_once(':').unwrap().1.trim(), cpu.model);
        let kibibytes: Vec<u64> = lines("/proc/meminfo", "MemTotal:")
            .iter()
            .map(|line| line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap())
            .collect();
        assert_eq!(memory.total_bytes, kibibytes[0] * 1024);
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
        fn no_text_panics(text in ".*(\\.ko)?.*") {
            module_name(&text);
        }
    }
}
