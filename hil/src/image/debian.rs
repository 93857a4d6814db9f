//! Debian's packages for the image: which ones they are, and their files, fetched by apt without root ([`super::apt`]).
//!
//! Invariants: the packages that were found are pinned in the cache (`kernel.json`, `tools.json`) until a refresh, so that
//! an image is the same tomorrow. A package's file is used only when its SHA-256 is the one in the archive's signed lists.
//! No version is written anywhere here.
//!
//! On failure: the error says which package and what apt said; pins are written last.

use super::apt::{self, Apt, Package};
use super::cache::{Cache, Lock, sha256_of_file};
use super::error::{ImageError, file_error};
use crate::host::Finished;
use crate::progress::Progress;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The package that depends on the newest generic kernel (6.1 has no virtual watchdog in the cloud flavour).
const META_PACKAGE: &str = "linux-image-amd64";

/// How names of kernel packages begin.
const KERNEL_PREFIX: &str = "linux-image-";

/// The pinned kernel's file in the cache.
const KERNEL_PIN: &str = "kernel.json";

/// The pinned tools' file in the cache: a list, the newest first.
const TOOLS_PIN: &str = "tools.json";

/// How many sets of tools stay pinned: that of suites, of suites with virtual machines, and of a measurement.
const TOOLS_PINS: usize = 3;

/// The folder of downloaded packages in the cache.
const PACKAGES: &str = "packages";

/// The packages that an image is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packages {
    /// The kernel's.
    pub(super) kernel: Package,
    /// Those of the tools, and what they depend on.
    pub(super) tools: Vec<Package>,
}

/// What is remembered of a set of tools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ToolsPin {
    /// The packages that were asked for.
    wanted: Vec<String>,
    /// Those, and what they depend on.
    packages: Vec<Package>,
}

/// The packages that are pinned, if all are. A pin that can't be read is none: it is found again.
pub(super) fn pinned(cache: &Cache, wanted: &[&str]) -> Option<Packages> {
    Some(Packages { kernel: pinned_kernel(cache)?, tools: pinned_tools(cache, wanted)? })
}

fn pinned_kernel(cache: &Cache) -> Option<Package> {
    read_pin(cache, KERNEL_PIN)
}

fn pinned_tools(cache: &Cache, wanted: &[&str]) -> Option<Vec<Package>> {
    if wanted.is_empty() {
        return Some(Vec::new());
    }
    tools_pins(cache).into_iter().find(|pin| pin.wanted == wanted).map(|pin| pin.packages)
}

fn tools_pins(cache: &Cache) -> Vec<ToolsPin> {
    read_pin(cache, TOOLS_PIN).unwrap_or_default()
}

fn read_pin<T: DeserializeOwned>(cache: &Cache, name: &str) -> Option<T> {
    serde_json::from_slice(&fs::read(cache.root().join(name)).ok()?).ok()
}

fn write_pin(cache: &Cache, name: &str, pin: &impl Serialize) -> Result<(), ImageError> {
    let path = cache.root().join(name);
    let unfinished = cache.root().join(format!(".{name}"));
    let written = serde_json::to_vec_pretty(pin).map_err(io::Error::from);
    written
        .and_then(|json| fs::write(&unfinished, json))
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(file_error("write", &path))
}

/// Finds the archive's current packages, and fetches and pins them. What is pinned stays, unless `refresh` is set.
pub(super) fn find(
    cache: &Cache,
    lock: &Lock,
    wanted: &[&str],
    refresh: bool,
    progress: &dyn Progress,
) -> Result<Packages, ImageError> {
    let apt = Apt::prepare(cache)?;
    progress.step("fetching Debian's package lists");
    let fetched = apt.update()?;
    let kernel = match pinned_kernel(cache).filter(|_| !refresh) {
        Some(kernel) => kernel,
        None => current_kernel(&apt, &fetched)?,
    };
    let tools = match pinned_tools(cache, wanted).filter(|_| !refresh) {
        Some(tools) => tools,
        None => apt.with_dependencies(wanted, &fetched)?,
    };
    let all: Vec<Package> = tools.iter().chain([&kernel]).cloned().collect();
    files(cache, lock, &all, progress)?;
    let wanted = wanted.iter().map(|&package| package.to_owned()).collect();
    let pins = with_newest(tools_pins(cache), ToolsPin { wanted, packages: tools.clone() });
    let pinned = pins.iter().flat_map(|pin| &pin.packages).chain([&kernel]);
    keep_only(&cache.root().join(PACKAGES), &pinned.cloned().collect::<Vec<_>>())?;
    write_pin(cache, KERNEL_PIN, &kernel)?;
    write_pin(cache, TOOLS_PIN, &pins)?;
    Ok(Packages { kernel, tools })
}

/// The pins with this one in the place of an earlier one of the same tools; the oldest go.
fn with_newest(pins: Vec<ToolsPin>, newest: ToolsPin) -> Vec<ToolsPin> {
    let others: Vec<_> = pins.into_iter().filter(|pin| pin.wanted != newest.wanted).collect();
    std::iter::once(newest).chain(others).take(TOOLS_PINS).collect()
}

fn current_kernel(apt: &Apt, fetched: &Finished) -> Result<Package, ImageError> {
    let meta = apt.show(META_PACKAGE, fetched)?;
    let name = kernel_dependency(&meta).ok_or_else(|| apt::entry_error(META_PACKAGE, "Depends"))?;
    apt::package(&apt.show(&name, fetched)?, &name)
}

/// The packages' files in the same order, fetched unless they are there.
pub(super) fn files(
    cache: &Cache,
    lock: &Lock,
    wanted: &[Package],
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>, ImageError> {
    let folder = cache.root().join(PACKAGES);
    let path = |package: &Package| folder.join(format!("{}.deb", package.sha256));
    let is_there =
        |package: &&Package| sha256_of_file(&path(package)).is_ok_and(|found| found == package.sha256);
    let missing: Vec<Package> = wanted.iter().filter(|package| !is_there(package)).cloned().collect();
    if let [first, others @ ..] = &missing[..] {
        let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        progress.step(&format!("downloading {} {}{more}", first.name, first.version));
        fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
        let scratch = cache.scratch(lock)?;
        download(&Apt::prepare(cache)?, &missing, scratch.path())?;
        let mut downloaded = by_hash(scratch.path())?;
        for package in &missing {
            let Some(file) = downloaded.remove(&package.sha256) else {
                return Err(wrong_package(package, downloaded, scratch.path()));
            };
            fs::rename(&file, path(package)).map_err(file_error("write", &path(package)))?;
        }
    }
    Ok(wanted.iter().map(path).collect())
}

fn download(apt: &Apt, packages: &[Package], into: &Path) -> Result<(), ImageError> {
    if apt.download(packages, into).is_ok() {
        return Ok(());
    }
    // No lists yet, or such that name files which the archive no longer has.
    apt.update()?;
    let named = |package: &Package| format!("{} {}", package.name, package.version);
    let failed = |source| ImageError::Download {
        packages: packages.iter().map(named).collect::<Vec<_>>().join(", "),
        source,
    };
    apt.download(packages, into).map(drop).map_err(failed)
}

/// The files that apt has put there, by SHA-256.
fn by_hash(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ImageError> {
    let listed: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder).and_then(|list| list.map(|entry| Ok(entry?.path())).collect());
    let hashed = |path: PathBuf| {
        let sha256 = sha256_of_file(&path).map_err(file_error("read", &path))?;
        Ok((sha256, path))
    };
    listed.map_err(file_error("list", folder))?.into_iter().map(hashed).collect()
}

/// What came in the place of a package.
fn wrong_package(wanted: &Package, downloaded: BTreeMap<String, PathBuf>, folder: &Path) -> ImageError {
    // apt names files NAME_VERSION_ARCHITECTURE.deb.
    let prefix = format!("{}_", wanted.name);
    let is_named =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    match downloaded.into_iter().find(|(_, path)| is_named(path)) {
        Some((found, path)) => ImageError::WrongPackage { path, expected: wanted.sha256.clone(), found },
        None => file_error("find a package in", folder)(io::ErrorKind::NotFound.into()),
    }
}

/// Removes what no pin names.
fn keep_only(folder: &Path, packages: &[Package]) -> Result<(), ImageError> {
    let kept: BTreeSet<String> = packages.iter().map(|package| format!("{}.deb", package.sha256)).collect();
    for entry in fs::read_dir(folder).map_err(file_error("list", folder))? {
        let entry = entry.map_err(file_error("list", folder))?;
        if !kept.contains(&*entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path()).map_err(file_error("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// The kernel package that the meta package depends on, without its version (deb-control(5)).
fn kernel_dependency(meta: &str) -> Option<String> {
    let dependencies = apt::field(meta, "Depends")?.split([',', '|']);
    let mut names = dependencies.filter_map(|one| one.split([' ', '(', ':']).find(|word| !word.is_empty()));
    names.find(|name| name.starts_with(KERNEL_PREFIX)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    const META: &str = "Package: linux-image-amd64\n\
                        Version: 6.1.1-2\n\
                        Depends: linux-base (>= 4), linux-image-6.1.0-9-amd64 (= 6.1.1-2)\n";

    fn package(name: &str, sha256: &str) -> Package {
        Package { name: name.into(), version: "0".into(), sha256: sha256.into() }
    }

    #[test]
    fn the_real_kernel_package_is_what_the_meta_package_depends_on() {
        assert_eq!(kernel_dependency(META).as_deref(), Some("linux-image-6.1.0-9-amd64"));
        assert_eq!(kernel_dependency("Depends: linux-image-1:amd64\n").as_deref(), Some("linux-image-1"));
        assert_eq!(kernel_dependency("Depends: a, b\n"), None);
        assert_eq!(kernel_dependency("Package: x\n"), None);
    }

    #[test]
    fn a_pin_that_cannot_be_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert_eq!(pinned(&cache, &[]), None);
        fs::write(folder.path().join(KERNEL_PIN), "{\"package\":").unwrap();
        assert_eq!(pinned(&cache, &[]), None);
    }

    #[test]
    fn a_pin_holds_for_the_tools_that_were_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (kernel, tool) = (package("linux-image-x", "00"), package("a", "01"));
        write_pin(&cache, KERNEL_PIN, &kernel).unwrap();
        assert_eq!(pinned(&cache, &[]), Some(Packages { kernel: kernel.clone(), tools: Vec::new() }));
        assert_eq!(pinned(&cache, &["a"]), None);
        let pin = ToolsPin { wanted: vec!["a".into()], packages: vec![tool.clone()] };
        write_pin(&cache, TOOLS_PIN, &[pin]).unwrap();
        assert_eq!(pinned(&cache, &["a"]), Some(Packages { kernel, tools: vec![tool] }));
        assert_eq!(pinned(&cache, &["a", "b"]), None);
    }

    #[test]
    fn a_set_of_tools_has_one_pin_and_the_oldest_set_goes() {
        let pin = |wanted: &str, sha256: &str| ToolsPin {
            wanted: vec![wanted.to_owned()],
            packages: vec![package(wanted, sha256)],
        };
        let pins = with_newest(vec![pin("a", "00"), pin("b", "00")], pin("b", "01"));
        assert_eq!(pins, [pin("b", "01"), pin("a", "00")]);
        let pins = with_newest(pins, pin("c", "00"));
        assert_eq!(pins, [pin("c", "00"), pin("b", "01"), pin("a", "00")]);
        assert_eq!(with_newest(pins, pin("d", "00")), [pin("d", "00"), pin("c", "00"), pin("b", "01")]);
    }

    #[test]
    fn a_package_that_is_there_is_not_fetched_again_and_others_go() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let lock = cache.lock(&Silent).unwrap();
        let packages = cache.root().join(PACKAGES);
        fs::create_dir_all(&packages).unwrap();
        fs::write(packages.join("deb"), "package").unwrap();
        let wanted = [package("none", &sha256_of_file(&packages.join("deb")).unwrap())];
        let path = packages.join(format!("{}.deb", wanted[0].sha256));
        fs::rename(packages.join("deb"), &path).unwrap();
        fs::write(packages.join("old.deb"), "old").unwrap();
        assert_eq!(files(&cache, &lock, &wanted, &Silent).unwrap(), [path.as_path()]);
        keep_only(&packages, &wanted).unwrap();
        assert_eq!(by_hash(&packages).unwrap().into_values().collect::<Vec<_>>(), [path]);
    }

    #[test]
    fn a_file_that_is_not_what_the_lists_say_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ab_0_amd64.deb"), "other").unwrap();
        fs::write(folder.path().join("a_0_amd64.deb"), "evil").unwrap();
        let told = |name| wrong_package(&package(name, "00"), by_hash(folder.path()).unwrap(), folder.path());
        assert!(
            matches!(told("a"), ImageError::WrongPackage { path, .. } if path.ends_with("a_0_amd64.deb"))
        );
        assert!(matches!(told("c"), ImageError::File { .. }));
    }
}
