//! What is in the node image: the kernel and its modules, tools from packages, our own programs and the folders that they
//! start in.
//!
//! The initramfs is three archives in one file: the modules, made once for a kernel; the tools, made once for their
//! packages; the nodes' own programs, made whenever they change. It isn't packed: an emulated processor unpacks slower than QEMU copies (docs/image.md).
//!
//! `/lib/modules/modules.load` is for the agent: the modules' paths, one a line, in loading order.

use super::apt::Package;
use super::cache::{Cache, Facts, Lock};
use super::cpio::Archive;
use super::debian;
use super::error::{ImageError, file_error};
use super::modules::{self, Catalogue, ModuleInfo};
use super::tools::{self, Wanted};
use super::{compression, elf, kernel};
use crate::host::run_well;
use crate::progress::Progress;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The kernel's file in an entry.
pub(super) const KERNEL: &str = "vmlinux";
/// The modules' archive in a kernel's entry.
const MODULES: &str = "modules.cpio";
/// The archive in the tools' entry.
const TOOLS: &str = "tools.cpio";
/// The initramfs in an image's entry.
pub(super) const INITRD: &str = "initrd";
/// The fact that is the kernel's release.
pub(super) const RELEASE: &str = "release";

/// Free space for a build: the unpacked package (400 MiB for Debian 12), the package, apt's lists, the results.
const NEEDED_MIB: u64 = 900;

/// How long unpacking the package may take; it takes three seconds.
const UNPACK_LIMIT: Duration = Duration::from_mins(5);

/// A file of the unpacked package.
#[derive(Debug)]
struct ModuleFile {
    /// Where it is.
    path: PathBuf,
    /// Its path in the image, without the ending of a compression.
    name: String,
}

/// Puts the kernel and its modules' archive into the folder.
pub(super) fn fill_kernel(
    cache: &Cache,
    lock: &Lock,
    package: &Package,
    wanted: &[String],
    into: &Path,
    progress: &dyn Progress,
) -> Result<Facts, ImageError> {
    check_space(cache.root())?;
    let files = debian::files(cache, lock, std::slice::from_ref(package), progress)?;
    progress.step(&format!("unpacking {}", package.name));
    let unpacked = cache.scratch(lock)?;
    for file in files {
        run_well(Command::new("dpkg-deb").arg("-x").arg(&file).arg(unpacked.path()), UNPACK_LIMIT)
            .map_err(|source| ImageError::Unpack { path: file, source })?;
    }

    let (vmlinuz, release) = find_kernel(unpacked.path(), package)?;
    progress.step(&format!("preparing kernel {release}"));
    let packed = read(&vmlinuz)?;
    let kernel = kernel::direct_boot_kernel(&packed)
        .map_err(|source| ImageError::Kernel { path: vmlinuz.clone(), source })?;
    write(&into.join(KERNEL), &kernel)?;

    let folder = find_modules(unpacked.path(), &release, package)?;
    let files = module_files(&folder, &release)?;
    let order = choose(&folder, &files, wanted)?;
    write(&into.join(MODULES), &modules_archive(&files, &order, &release)?)?;
    Ok(Facts::from([(RELEASE.to_owned(), release)]))
}

/// Puts the tools' archive into the folder.
pub(super) fn fill_tools(
    cache: &Cache,
    lock: &Lock,
    packages: &[Package],
    wanted: &[Wanted],
    into: &Path,
    progress: &dyn Progress,
) -> Result<Facts, ImageError> {
    check_space(cache.root())?;
    let files = debian::files(cache, lock, packages, progress)?;
    progress.step("unpacking the nodes' tools");
    let unpacked = cache.scratch(lock)?;
    write(&into.join(TOOLS), &tools::archive(wanted, &files, unpacked.path())?)?;
    Ok(Facts::new())
}

/// The contents of the nodes' own programs.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) agent: Vec<u8>,
    pub(super) hands: Vec<u8>,
    pub(super) workload: Vec<u8>,
    pub(super) storage_trial: Vec<u8>,
}

/// Puts the kernel and the whole initramfs into the folder.
pub(super) fn fill_image(kernel: &Path, tools: &Path, own: &Own, into: &Path) -> Result<(), ImageError> {
    let vmlinux = into.join(KERNEL);
    // The same file, not a copy, where the file system can.
    fs::hard_link(kernel.join(KERNEL), &vmlinux)
        .or_else(|_| fs::copy(kernel.join(KERNEL), &vmlinux).map(drop))
        .map_err(file_error("write", &vmlinux))?;
    let mut initrd = read(&kernel.join(MODULES))?;
    initrd.extend(read(&tools.join(TOOLS))?);
    let path = into.join(INITRD);
    own_archive(own).map(|archive| initrd.extend(archive)).map_err(file_error("write", &path))?;
    write(&path, &initrd)
}

/// Refuses to begin what would fill the disk.
pub(super) fn check_space(root: &Path) -> Result<(), ImageError> {
    let found = rustix::fs::statvfs(root).map_err(io::Error::from).map_err(file_error("measure", root))?;
    let available_mib = found.f_bavail.saturating_mul(found.f_frsize) >> 20;
    if available_mib < NEEDED_MIB {
        return Err(ImageError::NoSpace { path: root.to_owned(), available_mib, needed_mib: NEEDED_MIB });
    }
    Ok(())
}

/// The package's one kernel and its release, which is the end of its name.
fn find_kernel(unpacked: &Path, package: &Package) -> Result<(PathBuf, String), ImageError> {
    let boot = unpacked.join("boot");
    let listed: io::Result<Vec<PathBuf>> =
        fs::read_dir(&boot).and_then(|list| list.map(|entry| Ok(entry?.path())).collect());
    let release = |path: &PathBuf| {
        path.file_name()?.to_str()?.strip_prefix("vmlinuz-").map(|release| (path.clone(), release.to_owned()))
    };
    listed
        .map_err(file_error("list", &boot))?
        .iter()
        .find_map(release)
        .ok_or_else(|| not_in(package, "/boot/vmlinuz-…".into()))
}

/// The folder of the modules: under `/usr` from Debian 13 on.
fn find_modules(unpacked: &Path, release: &str, package: &Package) -> Result<PathBuf, ImageError> {
    let places = ["lib/modules", "usr/lib/modules"].map(|place| unpacked.join(place).join(release));
    let missing = || not_in(package, format!("/lib/modules/{release}"));
    places.into_iter().find(|place| place.is_dir()).ok_or_else(missing)
}

fn not_in(package: &Package, what: String) -> ImageError {
    ImageError::NotInPackage { package: package.name.clone(), what }
}

/// All modules under the folder, by name.
fn module_files(folder: &Path, release: &str) -> Result<BTreeMap<String, ModuleFile>, ImageError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(folder.to_owned(), format!("lib/modules/{release}"))];
    while let Some((folder, name)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(file_error("list", &folder))? {
            let entry = entry.map_err(file_error("list", &folder))?;
            let kind = entry.file_type().map_err(file_error("list", &folder))?;
            let own = entry.file_name().to_string_lossy().into_owned();
            // Links (`build`, `source`) are not followed.
            if kind.is_dir() {
                folders.push((entry.path(), format!("{name}/{own}")));
            } else if let Some(module) = modules::name_of_file(&own) {
                let stem = own.split_once(".ko").map_or(own.as_str(), |(stem, _)| stem);
                let file = ModuleFile { path: entry.path(), name: format!("{name}/{stem}.ko") };
                found.insert(module, file);
            }
        }
    }
    Ok(found)
}

/// Which modules the image gets, in loading order.
fn choose(
    folder: &Path,
    files: &BTreeMap<String, ModuleFile>,
    wanted: &[String],
) -> Result<Vec<String>, ImageError> {
    let mut infos = BTreeMap::new();
    for (name, file) in files {
        let bytes = read_module(&file.path)?;
        let section = elf::section(&bytes, ".modinfo");
        let section = section.map_err(|source| ImageError::Module { path: file.path.clone(), source })?;
        infos.insert(name.clone(), section.map_or_else(ModuleInfo::default, modules::parse_modinfo));
    }
    let path = folder.join("modules.builtin");
    let built_in = fs::read_to_string(&path).map_err(file_error("read", &path))?;
    let catalogue = Catalogue::new(infos, modules::built_in_names(&built_in));
    catalogue.load_order(wanted).map_err(ImageError::Modules)
}

/// A module's ELF file, unpacked if it is packed (Debian 13: xz).
fn read_module(path: &Path) -> Result<Vec<u8>, ImageError> {
    let bytes = read(path)?;
    if compression::format(&bytes) == compression::Format::Elf {
        return Ok(bytes);
    }
    compression::unpack(&bytes).map_err(|source| ImageError::PackedModule { path: path.to_owned(), source })
}

/// The modules, their folders, and the list for the agent.
fn modules_archive(
    files: &BTreeMap<String, ModuleFile>,
    order: &[String],
    release: &str,
) -> Result<Vec<u8>, ImageError> {
    let chosen: Vec<&ModuleFile> = order.iter().filter_map(|name| files.get(name)).collect();
    let mut folders: BTreeSet<&Path> = BTreeSet::new();
    let own_folder = format!("lib/modules/{release}");
    folders.extend(Path::new(&own_folder).ancestors());
    folders.extend(chosen.iter().flat_map(|file| Path::new(&file.name).ancestors().skip(1)));
    folders.remove(Path::new(""));

    let list = chosen.iter().fold(String::new(), |list, file| list + "/" + &file.name + "\n");
    let failed = || file_error("pack", Path::new(MODULES));
    let mut archive = Archive::new(Vec::new());
    // A set of paths is sorted: parents come before what is in them.
    for folder in folders {
        archive.directory(&folder.to_string_lossy(), 0o755).map_err(failed())?;
    }
    archive.file("lib/modules/modules.load", 0o644, list.as_bytes()).map_err(failed())?;
    for file in chosen {
        archive.file(&file.name, 0o644, &read_module(&file.path)?).map_err(failed())?;
    }
    archive.finish().map_err(failed())
}

/// The agent as `/init`, where it mounts and writes things, and the lab's hands, workload and trial of storage.
fn own_archive(own: &Own) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    for folder in ["bin", "dev", "etc", "proc", "run", "sys", "var", "var/lib"] {
        archive.directory(folder, 0o755)?;
    }
    archive.directory("tmp", 0o1777)?;
    // The kernel opens the one as the first process's standard streams, before anything is mounted; a Rust program opens
    // the other in the place of any that is closed, and aborts when it can't.
    archive.device("dev/console", 0o600, (5, 1))?;
    archive.device("dev/null", 0o666, (1, 3))?;
    archive.file("init", 0o755, &own.agent)?;
    archive.file("bin/hands", 0o755, &own.hands)?;
    archive.file("bin/workload", 0o755, &own.workload)?;
    archive.file("bin/storage-trial", 0o755, &own.storage_trial)?;
    archive.finish()
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(file_error("read", path))
}

fn write(path: &Path, contents: &[u8]) -> Result<(), ImageError> {
    fs::write(path, contents).map_err(file_error("write", path))
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::elf;
    use super::*;

    /// An unpacked module tree with three modules and one built in.
    fn tree() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/modules/6.1.0-9");
        let module = |path: &str, modinfo: &[u8]| {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, elf(&[], &[(".modinfo", modinfo)])).unwrap();
        };
        module("kernel/drivers/nvme/nvme.ko", b"depends=nvme-core\0");
        module("kernel/drivers/nvme/nvme-core.ko", b"depends=\0");
        module("kernel/fs/other.ko", b"depends=\0");
        fs::write(folder.join("modules.builtin"), "kernel/net/llc.ko\n").unwrap();
        (root, folder)
    }

    #[test]
    fn chosen_modules_are_packed_with_their_folders_and_the_order() {
        let (_root, folder) = tree();
        let files = module_files(&folder, "6.1.0-9").unwrap();
        let order = choose(&folder, &files, &["nvme".into(), "llc".into()]).unwrap();
        assert_eq!(order, ["nvme_core", "nvme"]);
        let archive = modules_archive(&files, &order, "6.1.0-9").unwrap();
        let text = String::from_utf8_lossy(&archive);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing"));
        assert!(at("lib\0") < at("lib/modules\0") && at("lib/modules\0") < at("lib/modules/6.1.0-9\0"));
        assert!(at("6.1.0-9/kernel/drivers/nvme\0") < at("kernel/drivers/nvme/nvme.ko\0"));
        assert!(text.contains(
            "/lib/modules/6.1.0-9/kernel/drivers/nvme/nvme-core.ko\n\
             /lib/modules/6.1.0-9/kernel/drivers/nvme/nvme.ko\n"
        ));
        assert!(!text.contains("other"));
    }

    #[test]
    fn an_unknown_module_is_an_error_with_its_name() {
        let (_root, folder) = tree();
        let files = module_files(&folder, "6.1.0-9").unwrap();
        let Err(ImageError::Modules(error)) = choose(&folder, &files, &["nvmet".into()]) else { panic!() };
        assert_eq!(error.to_string(), "the kernel has no module nvmet, neither as a file nor built in");
    }

    #[test]
    fn a_damaged_module_is_named() {
        let (_root, folder) = tree();
        fs::write(folder.join("kernel/fs/other.ko"), "\x7fELF\x02\x01 and no more").unwrap();
        let files = module_files(&folder, "6.1.0-9").unwrap();
        let error = choose(&folder, &files, &[]).unwrap_err();
        assert!(error.to_string().ends_with("kernel/fs/other.ko"), "{error}");
    }

    #[test]
    fn the_kernel_names_the_release() {
        let root = tempfile::tempdir().unwrap();
        let package = Package { name: "linux-image-x".into(), version: "1".into(), sha256: "0".into() };
        fs::create_dir(root.path().join("boot")).unwrap();
        fs::write(root.path().join("boot/System.map-6.1.0-9"), "").unwrap();
        let error = find_kernel(root.path(), &package).unwrap_err();
        assert_eq!(error.to_string(), "package linux-image-x has no /boot/vmlinuz-…");
        fs::write(root.path().join("boot/vmlinuz-6.1.0-9"), "").unwrap();
        assert_eq!(find_kernel(root.path(), &package).unwrap().1, "6.1.0-9");
        assert!(find_modules(root.path(), "6.1.0-9", &package).is_err());
        fs::create_dir_all(root.path().join("usr/lib/modules/6.1.0-9")).unwrap();
        assert!(find_modules(root.path(), "6.1.0-9", &package).is_ok());
    }

    #[test]
    fn the_initramfs_is_the_modules_then_the_tools_then_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let [kernel, tools, image] = ["k", "t", "i"].map(|name| folder.path().join(name));
        for folder in [&kernel, &tools, &image] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(kernel.join(KERNEL), "kernel").unwrap();
        fs::write(kernel.join(MODULES), "mods").unwrap();
        fs::write(tools.join(TOOLS), "tool").unwrap();
        let own = Own {
            agent: b"agent".to_vec(),
            hands: b"hands".to_vec(),
            workload: b"workload".to_vec(),
            storage_trial: b"trial".to_vec(),
        };
        fill_image(&kernel, &tools, &own, &image).unwrap();
        assert_eq!(fs::read(image.join(KERNEL)).unwrap(), b"kernel");
        let initrd = fs::read(image.join(INITRD)).unwrap();
        assert!(initrd.starts_with(b"modstool070701"));
        assert!(initrd.windows(9).any(|bytes| bytes == b"init\0\0age"));
        assert!(initrd.windows(15).any(|bytes| bytes == b"bin/hands\0hands"));
        for name in [&b"bin/workload\0"[..], b"bin/storage-trial\0"] {
            assert!(initrd.windows(name.len()).any(|bytes| bytes == name));
        }
    }
}
