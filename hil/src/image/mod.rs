//! The node image: the kernel and the initramfs that every node of a QEMU lab boots, made without root.
//!
//! Debian's stock generic kernel comes from Debian's archive by apt ([`debian`]); it is taken out of its self-unpacking
//! wrapper, because that saves an emulated node more than two seconds ([`kernel`]); the modules that were asked for
//! and what they need are put in loading order ([`modules`]); programs from packages come with their libraries ([`tools`]);
//! the agent becomes the first process ([`contents`]).
//!
//! Invariants: an image is named by a hash over all that goes into it ([`cache`]); the same request gives the same
//! image, without the network and in well under a second, until the agent changes or a refresh is asked for.
//!
//! On failure: a typed error with the file and a remedy; nothing half-made is ever used. See `docs/image.md`.

mod apt;
mod cache;
mod compression;
mod contents;
mod cpio;
mod debian;
mod dynamic;
mod elf;
mod error;
mod kernel;
mod modules;
mod programs;
mod tools;

pub use cache::EntryError;
pub use compression::UnpackError;
pub use elf::ElfError;
pub use error::ImageError;
pub use kernel::KernelError;
pub use modules::ModuleError;
pub use programs::{AgentBuild, Programs, build_programs};
pub use tools::Wanted;

use crate::progress::Progress;
use apt::Package;
use cache::{Cache, Entry, Key, Kind, Lock};
use contents::Own;
use debian::Packages;
use error::file_error;
use std::fs;
use std::path::{Path, PathBuf};

/// Goes up when the same input gives another image: old entries are then made anew.
const BUILDER_VERSION: &str = "2";

/// Kernels with their modules: about 45 MiB each.
const KERNELS: Kind = Kind { folder: "kernels", keep: 3 };

/// Tools with their libraries: some MiB each.
const TOOLS: Kind = Kind { folder: "tools", keep: 3 };

/// Whole images; their kernels are links. Four, so that going back and forth between branches is free.
const IMAGES: Kind = Kind { folder: "images", keep: 4 };

/// The modules that every node needs: its buses, NICs, drives, ports and watchdog, its state's file system, what the networks
/// are built from, and what volumes are.
pub const NODE_MODULES: [&str; 26] = [
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "nvme",
    "qemu_fw_cfg",
    "ext4",
    "virtio_console",
    "8021q",
    "bonding",
    "bridge",
    "i6300esb",
    "sch_ets",
    "sch_ingress",
    "cls_flower",
    "act_skbedit",
    "nvmet",
    "nvmet_tcp",
    "nvme_tcp",
    "nvme_fabrics",
    "raid1",
    "dm_mod",
    "dm_multipath",
    "dm_zero",
    "dm_delay",
    "dm_round_robin",
    "tcp_diag",
];

/// The programs that every node has for people, suites and workloads; the agent needs none of them.
pub const NODE_TOOLS: [Wanted; 1] =
    [Wanted { package: "iproute2", files: &["/usr/sbin/bridge", "/usr/sbin/ip", "/usr/sbin/tc"] }];

/// What nodes have beside what every one has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// Kernel modules.
    pub modules: &'static [&'static str],
    /// Programs.
    pub tools: &'static [Wanted],
}

/// DRBD 8.4 as Debian's kernel has it, its programs, and a shell to start things at once: for measurements of storage against it.
pub const DRBD: Extras = Extras {
    modules: &["drbd"],
    tools: &[
        Wanted { package: "drbd-utils", files: &["/lib/drbd/drbdsetup-84", "/sbin/drbdmeta"] },
        Wanted { package: "busybox-static", files: &["/bin/busybox"] },
    ],
};

/// What runs virtual machines: QEMU with what it opens for the machines of `crates/vm` (firmware, the translator, a patch of local interrupt
/// controllers), KVM where the processor has it, taps, and what the valve on them stands on.
pub const VIRTUAL_MACHINES: Extras = Extras { modules: &VM_MODULES, tools: &VM_TOOLS };

const VM_MODULES: [&str; 4] = ["tun", "cls_bpf", "kvm_intel", "kvm_amd"];

const VM_TOOLS: [Wanted; 4] = [
    Wanted { package: "qemu-system-x86", files: &["/usr/bin/qemu-system-x86_64"] },
    Wanted { package: "qemu-system-common", files: &["/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so"] },
    Wanted { package: "qemu-system-data", files: &["/usr/share/qemu/kvmvapic.bin"] },
    Wanted { package: "seabios", files: &["/usr/share/seabios/bios-256k.bin"] },
];

/// The same for a measurement, with a shell to time things on the node.
pub const VIRTUAL_MACHINES_TIMED: Extras = Extras {
    modules: &VM_MODULES,
    tools: &{
        let [qemu, common, data, firmware] = VM_TOOLS;
        [qemu, common, data, firmware, Wanted { package: "busybox-static", files: &["/bin/busybox"] }]
    },
};

/// What image is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Where images are kept; made if need be.
    pub cache: PathBuf,
    /// The nodes' own programs, static ([`build_programs`]).
    pub programs: Programs,
    /// The kernel modules that are to be loaded, without those that they need; built-in ones do no harm.
    pub modules: Vec<String>,
    /// Programs from Debian packages, without the libraries that they need.
    pub tools: Vec<Wanted>,
    /// Whether to ask Debian's archive for a newer kernel and newer tools.
    pub refresh: bool,
}

/// An image that can be booted: `-kernel` and `-initrd` of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeImage {
    /// The kernel, an ELF file with a PVH entry.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's release, as `uname -r` says it on a node.
    pub release: String,
    /// The image's name: the same for the same contents.
    pub id: String,
}

/// Gives the image, making it only if it isn't in the cache.
pub fn ensure(request: &ImageRequest, progress: &dyn Progress) -> Result<NodeImage, ImageError> {
    let Programs { agent, hands, workload, storage_trial } = &request.programs;
    let own = Own {
        agent: read_static(agent)?,
        hands: read_static(hands)?,
        workload: read_static(workload)?,
        storage_trial: read_static(storage_trial)?,
    };
    let all = [&own.agent, &own.hands, &own.workload, &own.storage_trial];
    let own_sha256 = all.map(|program| cache::sha256(program));
    let recipe = Recipe { request, own_sha256 };
    let cache = Cache::open(&request.cache)?;
    let wanted: Vec<&str> = request.tools.iter().map(|wanted| wanted.package).collect();
    if !request.refresh
        && let Some(packages) = debian::pinned(&cache, &wanted)
        && let Some(found) = recipe.find(&cache, &packages)
    {
        return Ok(found);
    }
    let lock = cache.lock(progress)?;
    let packages = match debian::pinned(&cache, &wanted) {
        Some(packages) if !request.refresh => packages,
        _ => {
            contents::check_space(cache.root())?;
            debian::find(&cache, &lock, &wanted, request.refresh, progress)?
        }
    };
    // Somebody else may have made it while we waited for the lock.
    if let Some(found) = recipe.find(&cache, &packages) {
        return Ok(found);
    }
    let kernel = recipe.ensure_kernel(&cache, &lock, &packages.kernel, progress)?;
    let tools = recipe.ensure_tools(&cache, &lock, &packages.tools, progress)?;
    progress.step("packing the node image");
    let key = recipe.image_key(&packages);
    let entry = cache.build(&lock, IMAGES, &key, |folder| {
        contents::fill_image(&kernel.path, &tools.path, &own, folder)?;
        Ok(kernel.facts)
    })?;
    Ok(node_image(&entry, &key))
}

/// Gives an image that was made before, from its folder in a cache or a copy of that.
pub fn open(folder: &Path) -> Result<NodeImage, ImageError> {
    let (key, entry) = Entry::open(folder, &[contents::KERNEL, contents::INITRD])
        .map_err(|source| ImageError::NoImage { path: folder.to_owned(), source })?;
    Ok(node_image(&entry, &key))
}

/// The contents of one of our programs, which must not need a loader: the agent has to start before anything else works.
fn read_static(path: &Path) -> Result<Vec<u8>, ImageError> {
    let program = fs::read(path).map_err(file_error("read", path))?;
    match elf::is_static(&program) {
        Ok(true) => Ok(program),
        Ok(false) => Err(ImageError::DynamicProgram { path: path.to_owned() }),
        Err(source) => Err(ImageError::Program { path: path.to_owned(), source }),
    }
}

/// What an image is made from, beside the packages.
struct Recipe<'a> {
    request: &'a ImageRequest,
    own_sha256: [String; 4],
}

impl Recipe<'_> {
    fn kernel_key(&self, package: &Package) -> Key {
        let mut parts = vec!["kernel", BUILDER_VERSION];
        parts.extend(package_parts(package));
        parts.extend(self.request.modules.iter().map(String::as_str));
        Key::of(&parts)
    }

    fn tools_key(&self, packages: &[Package]) -> Key {
        let mut parts = vec!["tools", BUILDER_VERSION];
        parts.extend(packages.iter().flat_map(package_parts));
        for Wanted { package, files } in &self.request.tools {
            parts.push(package);
            parts.extend(*files);
        }
        Key::of(&parts)
    }

    fn image_key(&self, packages: &Packages) -> Key {
        let (kernel, tools) = (self.kernel_key(&packages.kernel), self.tools_key(&packages.tools));
        let mut parts = vec!["image", kernel.whole(), tools.whole()];
        parts.extend(self.own_sha256.iter().map(String::as_str));
        Key::of(&parts)
    }

    fn find(&self, cache: &Cache, packages: &Packages) -> Option<NodeImage> {
        let key = self.image_key(packages);
        cache.find(IMAGES, &key).map(|entry| node_image(&entry, &key))
    }

    fn ensure_kernel(
        &self,
        cache: &Cache,
        lock: &Lock,
        package: &Package,
        progress: &dyn Progress,
    ) -> Result<Entry, ImageError> {
        let key = self.kernel_key(package);
        let fill = |folder: &Path| {
            contents::fill_kernel(cache, lock, package, &self.request.modules, folder, progress)
        };
        cache.find(KERNELS, &key).map_or_else(|| cache.build(lock, KERNELS, &key, fill), Ok)
    }

    fn ensure_tools(
        &self,
        cache: &Cache,
        lock: &Lock,
        packages: &[Package],
        progress: &dyn Progress,
    ) -> Result<Entry, ImageError> {
        let key = self.tools_key(packages);
        let fill = |folder: &Path| {
            contents::fill_tools(cache, lock, packages, &self.request.tools, folder, progress)
        };
        cache.find(TOOLS, &key).map_or_else(|| cache.build(lock, TOOLS, &key, fill), Ok)
    }
}

fn package_parts(package: &Package) -> [&str; 3] {
    [&package.name, &package.version, &package.sha256]
}

fn node_image(entry: &Entry, key: &Key) -> NodeImage {
    NodeImage {
        kernel: entry.path.join(contents::KERNEL),
        initrd: entry.path.join(contents::INITRD),
        release: entry.facts.get(contents::RELEASE).cloned().unwrap_or_default(),
        id: key.short().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::elf::tests::elf;
    use super::*;
    use crate::image::cache::Facts;
    use crate::progress::Silent;

    fn package(name: &str) -> Package {
        Package { name: name.into(), version: "1".into(), sha256: "00".into() }
    }

    const TOOL: Wanted = Wanted { package: "a", files: &["/bin/a"] };

    fn recipe(request: &ImageRequest) -> Recipe<'_> {
        Recipe { request, own_sha256: ["1", "2", "3", "4"].map(str::to_owned) }
    }

    /// A cache in which the packages are pinned, and the kernel and the tools are made.
    fn prepared(modules: &[String]) -> (tempfile::TempDir, ImageRequest) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let pin = |name: &str, pin: serde_json::Value| {
            fs::write(cache.root().join(name), serde_json::to_vec(&pin).unwrap()).unwrap();
        };
        pin("kernel.json", serde_json::json!(package("linux-image-x")));
        let tools = serde_json::json!({ "wanted": ["a"], "packages": [package("a"), package("b")] });
        pin("tools.json", serde_json::json!([tools]));
        let [agent, hands, workload, storage_trial] = ["agent", "hands", "workload", "trial"].map(|name| {
            let path = folder.path().join(name);
            fs::write(&path, elf(&[(1, name.as_bytes())], &[])).unwrap();
            path
        });
        let request = ImageRequest {
            cache: cache.root().to_owned(),
            programs: Programs { agent, hands, workload, storage_trial },
            modules: modules.to_vec(),
            tools: vec![TOOL],
            refresh: false,
        };
        let (lock, recipe) = (cache.lock(&Silent).unwrap(), recipe(&request));
        let make = |kind, key: &Key, files: &[(&str, &str)], facts: Facts| {
            let fill = |folder: &Path| {
                for (name, contents) in files {
                    fs::write(folder.join(name), contents).unwrap();
                }
                Ok(facts)
            };
            cache.build(&lock, kind, key, fill).unwrap();
        };
        let release = Facts::from([("release".into(), "6.1.0-9".into())]);
        let kernel = [("vmlinux", "kernel"), ("modules.cpio", "mods")];
        make(KERNELS, &recipe.kernel_key(&package("linux-image-x")), &kernel, release);
        let tools = recipe.tools_key(&[package("a"), package("b")]);
        make(TOOLS, &tools, &[("tools.cpio", "tool")], Facts::new());
        (folder, request)
    }

    #[test]
    fn pinned_packages_give_an_image_without_the_network_and_the_same_one_again() {
        let (_folder, request) = prepared(&["nvme".into()]);
        let image = ensure(&request, &Silent).unwrap();
        assert_eq!(image.release, "6.1.0-9");
        assert_eq!(fs::read(&image.kernel).unwrap(), b"kernel");
        assert_eq!(ensure(&request, &Silent).unwrap(), image);
    }

    #[test]
    fn another_agent_is_another_image_and_the_old_one_stays() {
        let (_folder, request) = prepared(&[]);
        let first = ensure(&request, &Silent).unwrap();
        fs::write(&request.programs.agent, elf(&[(1, b"newer")], &[])).unwrap();
        let second = ensure(&request, &Silent).unwrap();
        assert_ne!(first.id, second.id);
        assert!(first.initrd.exists());
    }

    #[test]
    fn a_damaged_image_is_made_anew() {
        let (_folder, request) = prepared(&[]);
        let image = ensure(&request, &Silent).unwrap();
        let initrd = fs::read(&image.initrd).unwrap();
        fs::write(&image.initrd, "nothing").unwrap();
        assert_eq!(ensure(&request, &Silent).unwrap(), image);
        assert_eq!(fs::read(&image.initrd).unwrap(), initrd);
    }

    #[test]
    fn an_image_can_be_copied_and_opened_by_its_folder() {
        let (folder, request) = prepared(&[]);
        let image = ensure(&request, &Silent).unwrap();
        let copy = folder.path().join("copy");
        fs::rename(image.kernel.parent().unwrap(), &copy).unwrap();
        let opened = open(&copy).unwrap();
        assert_eq!((opened.id, opened.release), (image.id, image.release));
        assert_eq!(opened.initrd, copy.join("initrd"));
        fs::write(copy.join("initrd"), "x").unwrap();
        assert!(matches!(open(&copy), Err(ImageError::NoImage { source: EntryError::File { .. }, .. })));
        let kernel = fs::read_dir(request.cache.join("kernels")).unwrap().next().unwrap().unwrap().path();
        assert!(matches!(open(&kernel), Err(ImageError::NoImage { source: EntryError::File { .. }, .. })));
        assert!(matches!(
            open(folder.path()),
            Err(ImageError::NoImage { source: EntryError::Manifest(_), .. })
        ));
    }

    #[test]
    fn a_dynamic_program_is_refused() {
        let (_folder, request) = prepared(&[]);
        let Programs { agent, hands, workload, storage_trial } = &request.programs;
        for program in [storage_trial, workload, hands, agent] {
            fs::write(program, elf(&[(3, b"/lib/ld.so\0")], &[])).unwrap();
            let Err(ImageError::DynamicProgram { path }) = ensure(&request, &Silent) else { panic!() };
            assert_eq!(path, *program);
            fs::write(program, "#!/bin/sh\n").unwrap();
            let Err(ImageError::Program { path, .. }) = ensure(&request, &Silent) else { panic!() };
            assert_eq!(path, *program);
        }
    }

    #[test]
    fn keys_tell_everything_apart_that_an_image_is_made_from() {
        let (_folder, request) = prepared(&["x".into(), "y".into()]);
        let packages = Packages { kernel: package("linux-image-x"), tools: vec![package("a")] };
        let key = |request: &ImageRequest, packages: &Packages| recipe(request).image_key(packages);
        let one = key(&request, &packages);
        let newer = Package { sha256: "01".into(), ..package("a") };
        assert_ne!(key(&request, &Packages { tools: vec![newer], ..packages.clone() }), one);
        let newer = Package { sha256: "01".into(), ..package("linux-image-x") };
        assert_ne!(key(&request, &Packages { kernel: newer, ..packages.clone() }), one);
        let fewer = ImageRequest { modules: vec!["x".into()], ..request.clone() };
        assert_ne!(key(&fewer, &packages), one);
        let other = Wanted { files: &["/bin/b"], ..TOOL };
        assert_ne!(key(&ImageRequest { tools: vec![other], ..request.clone() }, &packages), one);
        for own in [["1", "2", "3", "5"], ["1", "2", "5", "4"], ["1", "5", "3", "4"], ["5", "2", "3", "4"]] {
            let other = Recipe { request: &request, own_sha256: own.map(str::to_owned) };
            assert_ne!(other.image_key(&packages), one);
        }
        assert_eq!(key(&request, &packages), one);
    }
}
