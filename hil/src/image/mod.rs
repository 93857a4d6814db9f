//! The node image: the kernel and the initramfs that every node of a QEMU lab boots, made without root.
//!
//! Debian's stock generic kernel comes from Debian's archive by apt ([`debian`]); it is taken out of its self-unpacking
//! wrapper, because that saves an emulated node more than two seconds ([`kernel`]); the modules that were asked for
//! and what they need are put in loading order ([`modules`]); the agent becomes the first process ([`contents`]).
//!
//! Invariants: an image is named by a hash over all that goes into it ([`cache`]); the same request gives the same
//! image, without the network and in well under a second, until the agent changes or a refresh is asked for.
//!
//! On failure: a typed error with the file and a remedy; nothing half-made is ever used. See `docs/image.md`.

mod agent;
mod cache;
mod compression;
mod contents;
mod cpio;
mod debian;
mod elf;
mod error;
mod kernel;
mod modules;

pub use agent::build_agent;
pub use cache::EntryError;
pub use compression::UnpackError;
pub use elf::ElfError;
pub use error::ImageError;
pub use kernel::KernelError;
pub use modules::ModuleError;

use crate::progress::Progress;
use cache::{Cache, Entry, Facts, Key, Kind, Lock};
use debian::KernelPackage;
use error::file_error;
use std::fs;
use std::path::{Path, PathBuf};

/// Goes up when the same input gives another image: old entries are then made anew.
const BUILDER_VERSION: &str = "1";

/// Kernels with their modules: about 45 MiB each.
const KERNELS: Kind = Kind { folder: "kernels", keep: 2 };

/// Whole images; their kernels are links. Four, so that going back and forth between branches is free.
const IMAGES: Kind = Kind { folder: "images", keep: 4 };

/// The modules that every node needs: its buses, NICs, drives and watchdog, and what the networks are built from.
pub const NODE_MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "nvme",
    "qemu_fw_cfg",
    "8021q",
    "bonding",
    "bridge",
    "i6300esb",
];

/// What image is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// Where images are kept; made if need be.
    pub cache: PathBuf,
    /// The agent's binary, static ([`build_agent`]).
    pub agent: PathBuf,
    /// The kernel modules that are to be loaded, without those that they need; built-in ones do no harm.
    pub modules: Vec<String>,
    /// Whether to ask Debian's archive for a newer kernel.
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
    let agent = fs::read(&request.agent).map_err(file_error("read", &request.agent))?;
    check_agent(request, &agent)?;
    let recipe = Recipe { agent_sha256: cache::sha256(&agent), modules: &request.modules };
    let cache = Cache::open(&request.cache)?;
    if !request.refresh
        && let Some(package) = debian::pinned(&cache)
        && let Some(found) = recipe.find(&cache, &package)
    {
        return Ok(found);
    }
    let lock = cache.lock(progress)?;
    let package = match debian::pinned(&cache) {
        Some(package) if !request.refresh => package,
        _ => {
            contents::check_space(cache.root())?;
            debian::refresh(&cache, &lock, progress)?
        }
    };
    // Somebody else may have made it while we waited for the lock.
    if let Some(found) = recipe.find(&cache, &package) {
        return Ok(found);
    }
    let kernel = ensure_kernel(&cache, &lock, &package, request, progress)?;
    progress.step("packing the node image");
    let key = recipe.image_key(&package);
    let entry = cache.build(&lock, IMAGES, &key, |folder| {
        contents::fill_image(&kernel.path, &agent, folder)?;
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

/// The agent is the only file on its machine: a dynamic one would not even start, and say nothing.
fn check_agent(request: &ImageRequest, agent: &[u8]) -> Result<(), ImageError> {
    match elf::is_static(agent) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ImageError::DynamicAgent { path: request.agent.clone() }),
        Err(source) => Err(ImageError::Agent { path: request.agent.clone(), source }),
    }
}

fn ensure_kernel(
    cache: &Cache,
    lock: &Lock,
    package: &KernelPackage,
    request: &ImageRequest,
    progress: &dyn Progress,
) -> Result<Entry, ImageError> {
    let key = kernel_key(package, &request.modules);
    if let Some(found) = cache.find(KERNELS, &key) {
        return Ok(found);
    }
    cache.build(lock, KERNELS, &key, |folder| -> Result<Facts, ImageError> {
        contents::fill_kernel(cache, lock, package, &request.modules, folder, progress)
    })
}

fn kernel_key(package: &KernelPackage, modules: &[String]) -> Key {
    let mut parts = vec!["kernel", BUILDER_VERSION, &package.package, &package.version, &package.sha256];
    parts.extend(modules.iter().map(String::as_str));
    Key::of(&parts)
}

/// What an image is made from, beside the kernel package.
struct Recipe<'a> {
    agent_sha256: String,
    modules: &'a [String],
}

impl Recipe<'_> {
    fn image_key(&self, package: &KernelPackage) -> Key {
        let kernel = kernel_key(package, self.modules);
        Key::of(&["image", kernel.whole(), &self.agent_sha256])
    }

    fn find(&self, cache: &Cache, package: &KernelPackage) -> Option<NodeImage> {
        let key = self.image_key(package);
        cache.find(IMAGES, &key).map(|entry| node_image(&entry, &key))
    }
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
    use crate::progress::Silent;

    fn package() -> KernelPackage {
        KernelPackage { package: "linux-image-x".into(), version: "1".into(), sha256: "00".into() }
    }

    /// A cache in which the package is pinned and its kernel is made.
    fn prepared(modules: &[String]) -> (tempfile::TempDir, ImageRequest) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        fs::write(cache.root().join("kernel.json"), serde_json::to_vec(&package()).unwrap()).unwrap();
        let lock = cache.lock(&Silent).unwrap();
        cache
            .build(&lock, KERNELS, &kernel_key(&package(), modules), |folder| {
                fs::write(folder.join("vmlinux"), "kernel").unwrap();
                fs::write(folder.join("modules.cpio"), "mods").unwrap();
                Ok(Facts::from([("release".into(), "6.1.0-9".into())]))
            })
            .unwrap();
        let agent = folder.path().join("agent");
        fs::write(&agent, elf(&[(1, b"agent")], &[])).unwrap();
        let request =
            ImageRequest { cache: cache.root().to_owned(), agent, modules: modules.to_vec(), refresh: false };
        (folder, request)
    }

    #[test]
    fn a_pinned_kernel_gives_an_image_without_the_network_and_the_same_one_again() {
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
        fs::write(&request.agent, elf(&[(1, b"newer")], &[])).unwrap();
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
    fn a_dynamic_agent_is_refused() {
        let (_folder, request) = prepared(&[]);
        fs::write(&request.agent, elf(&[(3, b"/lib/ld.so\0")], &[])).unwrap();
        assert!(matches!(ensure(&request, &Silent), Err(ImageError::DynamicAgent { .. })));
        fs::write(&request.agent, "#!/bin/sh\n").unwrap();
        assert!(matches!(ensure(&request, &Silent), Err(ImageError::Agent { .. })));
    }

    #[test]
    fn keys_tell_kernels_modules_and_agents_apart() {
        let modules = ["a".to_owned(), "b".to_owned()];
        let newer = KernelPackage { sha256: "01".into(), ..package() };
        assert_ne!(kernel_key(&package(), &modules), kernel_key(&newer, &modules));
        assert_ne!(kernel_key(&package(), &modules), kernel_key(&package(), &modules[..1]));
        let recipe = |agent: &str| Recipe { agent_sha256: agent.into(), modules: &modules };
        assert_ne!(recipe("1").image_key(&package()), recipe("2").image_key(&package()));
    }
}
