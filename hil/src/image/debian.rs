//! Debian's kernel package: which one it is, and its file, fetched by apt without root.
//!
//! apt gets a state of its own inside the cache (lists, downloads, an empty list of installed packages), so neither
//! root nor a previous `apt-get update` is needed and the host's state is not touched. Sources, keys and proxies are
//! the host's, so apt's own verification of what it fetches holds.
//!
//! Invariants: the package that was found is pinned in the cache (`kernel.json`) until a refresh, so that an image is
//! the same tomorrow. A package's file is used only when its SHA-256 is the one in the archive's signed lists. No
//! kernel version is written anywhere here.
//!
//! On failure: the error says which package and what apt said; the pin is written last.

use super::cache::{Cache, Lock, sha256_of_file};
use super::error::{ImageError, file_error};
use crate::host::{CommandError, Finished, run_well};
use crate::progress::Progress;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The package that depends on the newest generic kernel (6.1 has no virtual watchdog in the cloud flavour).
const META_PACKAGE: &str = "linux-image-amd64";

/// How names of kernel packages begin.
const KERNEL_PREFIX: &str = "linux-image-";

/// The pin's file in the cache.
const PIN: &str = "kernel.json";

/// The folder of downloaded packages in the cache.
const PACKAGES: &str = "packages";

/// How long apt may take for one step; it gives up on dead mirrors by itself long before.
const APT_LIMIT: Duration = Duration::from_mins(10);

/// What apt is told beside the folders. The hooks are the host's (they clean *its* cache, wake *its* desktop) and may
/// fail without root.
const APT_CONF: &str = r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-hidpi::DefaultEnabled "false";
"#;

/// A kernel package of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KernelPackage {
    /// Its name, which contains the kernel's release.
    pub(super) package: String,
    /// Its version.
    pub(super) version: String,
    /// The SHA-256 of its file, from the archive's signed lists.
    pub(super) sha256: String,
}

/// The package that is pinned, if one is. A pin that can't be read is none: it is found again.
pub(super) fn pinned(cache: &Cache) -> Option<KernelPackage> {
    serde_json::from_slice(&fs::read(cache.root().join(PIN)).ok()?).ok()
}

/// Finds the archive's current kernel package, and fetches and pins it.
pub(super) fn refresh(
    cache: &Cache,
    lock: &Lock,
    progress: &dyn Progress,
) -> Result<KernelPackage, ImageError> {
    let apt = Apt::prepare(cache)?;
    progress.step("fetching Debian's package lists");
    let fetched = apt.update()?;
    let meta = apt.show(META_PACKAGE, &fetched)?;
    let package = kernel_dependency(&meta).ok_or_else(|| entry_error(META_PACKAGE, "Depends"))?;
    let stanza = apt.show(&package, &fetched)?;
    let text = |name| field(&stanza, name).map(str::to_owned).ok_or_else(|| entry_error(&package, name));
    let found =
        KernelPackage { version: text("Version")?, sha256: text("SHA256")?, package: package.clone() };
    file(cache, lock, &found, progress)?;
    let path = cache.root().join(PIN);
    let unfinished = cache.root().join(".kernel.json");
    let written = serde_json::to_vec_pretty(&found).map_err(io::Error::from);
    written
        .and_then(|json| fs::write(&unfinished, json))
        .and_then(|()| fs::rename(&unfinished, &path))
        .map_err(file_error("write", &path))?;
    Ok(found)
}

/// The package's file, fetched unless it is there. Other packages' files are removed.
pub(super) fn file(
    cache: &Cache,
    lock: &Lock,
    wanted: &KernelPackage,
    progress: &dyn Progress,
) -> Result<PathBuf, ImageError> {
    let folder = cache.root().join(PACKAGES);
    let path = folder.join(format!("{}.deb", wanted.sha256));
    if sha256_of_file(&path).is_ok_and(|found| found == wanted.sha256) {
        return Ok(path);
    }
    progress.step(&format!("downloading {} {}", wanted.package, wanted.version));
    let apt = Apt::prepare(cache)?;
    let scratch = cache.scratch(lock)?;
    if apt.download(wanted, scratch.path()).is_err() {
        // No lists yet, or such that name files which the archive no longer has.
        apt.update()?;
        apt.download(wanted, scratch.path()).map_err(|source| ImageError::Download {
            package: wanted.package.clone(),
            version: wanted.version.clone(),
            source,
        })?;
    }
    let downloaded = only_file(scratch.path())?;
    let found = sha256_of_file(&downloaded).map_err(file_error("read", &downloaded))?;
    if found != wanted.sha256 {
        return Err(ImageError::WrongPackage { path: downloaded, expected: wanted.sha256.clone(), found });
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
    fs::rename(&downloaded, &path).map_err(file_error("write", &path))?;
    Ok(path)
}

/// The one file that apt has put there.
fn only_file(folder: &Path) -> Result<PathBuf, ImageError> {
    let first = fs::read_dir(folder).and_then(|mut list| list.next().transpose());
    let missing = || file_error("find a package in", folder)(io::ErrorKind::NotFound.into());
    first.map_err(file_error("list", folder))?.map(|entry| entry.path()).ok_or_else(missing)
}

fn entry_error(package: &str, field: &'static str) -> ImageError {
    ImageError::PackageEntry { package: package.to_owned(), field }
}

/// apt with its state in the cache.
struct Apt {
    root: PathBuf,
}

impl Apt {
    /// Makes the folders and files that apt expects.
    fn prepare(cache: &Cache) -> Result<Self, ImageError> {
        let root = cache.root().join("apt");
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
        }
        for (name, contents) in [("status", ""), ("apt.conf", APT_CONF)] {
            let path = root.join(name);
            fs::write(&path, contents).map_err(file_error("write", &path))?;
        }
        Ok(Self { root })
    }

    /// One of apt's programs, told where its state is.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q").arg("-c").arg(self.root.join("apt.conf"));
        for (option, place) in
            [("Dir::State", "state"), ("Dir::State::status", "status"), ("Dir::Cache", "cache")]
        {
            let mut value = std::ffi::OsString::from(format!("{option}="));
            value.push(self.root.join(place));
            command.arg("-o").arg(value);
        }
        command
    }

    fn update(&self) -> Result<Finished, ImageError> {
        run_well(self.command("apt-get").arg("update"), APT_LIMIT).map_err(ImageError::PackageLists)
    }

    /// The lists' entry for the version of the package that apt would install.
    fn show(&self, package: &str, fetched: &Finished) -> Result<String, ImageError> {
        let mut command = self.command("apt-cache");
        let shown = run_well(command.args(["show", "--no-all-versions", package]), APT_LIMIT);
        let unknown = |source| ImageError::UnknownPackage {
            package: package.to_owned(),
            fetching: fetched.tail(),
            source,
        };
        shown.map(|shown| shown.stdout).map_err(unknown)
    }

    fn download(&self, package: &KernelPackage, into: &Path) -> Result<Finished, CommandError> {
        let mut command = self.command("apt-get");
        command.arg("download").arg(format!("{}={}", package.package, package.version)).current_dir(into);
        run_well(&mut command, APT_LIMIT)
    }
}

/// A field of the first stanza (deb822(5); only fields of one line are asked for).
fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

/// The kernel package that the meta package depends on, without its version (deb-control(5)).
fn kernel_dependency(meta: &str) -> Option<String> {
    let dependencies = field(meta, "Depends")?.split([',', '|']);
    let mut names = dependencies.filter_map(|one| one.split([' ', '(', ':']).find(|word| !word.is_empty()));
    names.find(|name| name.starts_with(KERNEL_PREFIX)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    const META: &str = "Package: linux-image-amd64\n\
                        Version: 6.1.1-2\n\
                        Depends: linux-base (>= 4), linux-image-6.1.0-9-amd64 (= 6.1.1-2)\n\
                        SHA256:  00ff\n\
                        Description: Linux\n for PCs\n\
                        \n\
                        Package: other\nSize: 5\n";

    #[test]
    fn fields_are_those_of_the_first_stanza() {
        assert_eq!(field(META, "Version"), Some("6.1.1-2"));
        assert_eq!(field(META, "SHA256"), Some("00ff"));
        assert_eq!(field(META, "Size"), None);
        assert_eq!(field(META, "SHA"), None);
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
        assert_eq!(pinned(&cache), None);
        fs::write(folder.path().join(PIN), "{\"package\":").unwrap();
        assert_eq!(pinned(&cache), None);
    }

    #[test]
    fn a_package_that_is_there_is_not_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let lock = cache.lock(&Silent).unwrap();
        let path = cache.root().join(PACKAGES).join("deb");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "package").unwrap();
        let sha256 = sha256_of_file(&path).unwrap();
        let path = path.with_file_name(format!("{sha256}.deb"));
        fs::rename(path.with_file_name("deb"), &path).unwrap();
        let wanted = KernelPackage { package: "none".into(), version: "0".into(), sha256 };
        assert_eq!(file(&cache, &lock, &wanted, &Silent).unwrap(), path);
    }

    #[test]
    fn apt_is_pointed_at_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let apt = Apt::prepare(&Cache::open(folder.path()).unwrap()).unwrap();
        let line = crate::host::command_line(&apt.command("apt-get"));
        let root = apt.root.display();
        assert_eq!(
            line,
            format!(
                "apt-get -q -c {root}/apt.conf -o Dir::State={root}/state \
                 -o Dir::State::status={root}/status -o Dir::Cache={root}/cache"
            )
        );
    }
}
